"""One HTML page that stands alone: sections of text, tables and pictures, for a screen of any width and for paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

TEMPLATE = Path(__file__).with_name("page.html.j2")


@dataclass(frozen=True)
class Table:
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    """Text; the first column is left-aligned, the others right-aligned."""
    caption: str = ""
    open: bool = True
    """Whether it is unfolded."""


@dataclass(frozen=True)
class Chart:
    svg: str
    caption: str


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Code:
    """A command, or lines that keep their breaks."""

    text: str


@dataclass(frozen=True)
class Token:
    word: str
    strength: float
    """From -1 (speaks against) to 1 (speaks for)."""
    noise: bool
    """Whether it is probably noise."""
    told: str
    """What is shown of it on request."""


@dataclass(frozen=True)
class Heat:
    """A text whose tokens are coloured by their strength."""

    title: str
    tokens: Sequence[Token]


Part = Table | Chart | Text | Code | Heat


@dataclass
class Section:
    title: str
    parts: list[Part] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        return self.title.lower().replace(" ", "-").replace(",", "")


def render(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The page. All text is escaped but that of charts."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(TEMPLATE.read_text())
    kinds = {kind.__name__.lower(): kind for kind in (Table, Chart, Text, Code, Heat)}

    def is_(part: Part, kind: str) -> bool:
        return isinstance(part, kinds[kind])

    return template.render(title=title, subtitle=subtitle, sections=[one for one in sections if one.parts], is_=is_)
