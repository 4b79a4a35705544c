"""One HTML page that stands alone: sections of text, tables and pictures, for a screen of any width and for paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

LONG = 14
"""Characters of a name that a phone has no room for in one line."""
TEMPLATE = Path(__file__).with_name("page.html.j2")


@dataclass(frozen=True)
class Table:
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    open: bool = True
    """Whether it is unfolded."""

    @property
    def kinds(self) -> list[str]:
        """Of each column: figures stand to the right, words to the left, and long names may be broken on a phone."""
        first, *others = zip(*self.rows, strict=True)
        name = "long" if max(map(len, first)) > LONG else "word"
        return [name, *("figure" if all(map(_is_figure, cells)) else "word" for cells in others)]


@dataclass(frozen=True)
class Chart:
    svg: str | Sequence[str]
    """One picture, or several that stand side by side where there is room."""
    caption: str = ""
    wide: bool = False
    """Too fine for a phone: shown there in a box of its own that scrolls."""

    @property
    def panels(self) -> Sequence[str]:
        return [self.svg] if isinstance(self.svg, str) else self.svg


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Code:
    """A command, or lines that keep their breaks."""

    text: str


Part = Table | Chart | Text | Code


@dataclass
class Section:
    title: str
    parts: list[Part] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        return self.title.lower().replace(" ", "-").replace(",", "")


def _is_figure(cell: str) -> bool:
    return cell[:1] in set("0123456789+-−–")


def render(title: str, subtitle: str, sections: Sequence[Section], made_from: str = "") -> str:
    """The page, without tables that have no row and sections that have no part. All text is escaped but that of charts.
    `made_from` is a stamp that the page keeps, not shown."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(TEMPLATE.read_text())
    kinds = {kind.__name__.lower(): kind for kind in (Table, Chart, Text, Code)}

    def is_(part: Part, kind: str) -> bool:
        return isinstance(part, kinds[kind])

    full = [Section(one.title, [part for part in one.parts if not is_(part, "table") or part.rows]) for one in sections]
    shown = [section for section in full if section.parts]
    return template.render(title=title, subtitle=subtitle, sections=shown, made_from=made_from, is_=is_)
