"""Self-contained HTML page: sections of text, tables and pictures, for screens of any width and for paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from src.core import language
from src.core.language import _, chosen

if TYPE_CHECKING:
    import jinja2

LONG = 14
"""Number of characters above which a name may be wrapped on a phone."""
TEMPLATES = [Path(__file__).with_name(name) for name in ("page.html.j2", "section.html.j2")]


@dataclass(frozen=True)
class Table:
    """Table with a caption."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    open: bool = True
    """True if the table is unfolded."""

    @property
    def kinds(self) -> list[str]:
        """Kind of each column: figures are right-aligned, words left-aligned, long names may be wrapped on a phone."""
        first, *others = zip(*self.rows, strict=True)
        name = "long" if max(map(len, first)) > LONG else "word"
        return [name, *("figure" if all(map(_is_figure, cells)) else "word" for cells in others)]


@dataclass(frozen=True)
class Chart:
    """Charts with a caption."""

    svg: str | Sequence[str] = field(repr=False)
    """A picture, or several, side by side on wide screens."""
    caption: str = ""
    wide: bool = False
    """True for a picture that scrolls on a phone."""

    @property
    def panels(self) -> Sequence[str]:
        return [self.svg] if isinstance(self.svg, str) else self.svg


@dataclass(frozen=True)
class Text:
    """Paragraph."""

    text: str


@dataclass(frozen=True)
class Code:
    """A command, or lines that keep their breaks."""

    text: str


@dataclass(frozen=True)
class Token:
    """Token of a coloured text."""

    word: str
    strength: float
    """Contribution, from -1 (negative) to 1 (positive)."""
    noise: bool
    """True for probable noise."""
    tooltip: str


@dataclass(frozen=True)
class Heat:
    """Text with tokens coloured by their strength."""

    title: str
    tokens: Sequence[Token]


Part = Table | Chart | Text | Code | Heat


@dataclass
class Section:
    """Section of the page."""

    title: str
    parts: list[Part] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        return self.title.lower().replace(" ", "-").replace(",", "")

    @property
    def shown(self) -> list[Part]:
        """Parts without empty tables."""
        return [part for part in self.parts if not isinstance(part, Table) or part.rows]

    def _repr_html_(self) -> str:
        """Returns the section for a notebook, with the faint colour that pictures take from the page."""
        body = _template("section.html.j2").render(section=self, is_=_is)
        other = "zh" if chosen() == "en" else "en"
        rule = f"<style>.section [lang={other}] {{ display: none; }}</style>"
        return f'{rule}<div class="section" style="max-width: 50rem; --faint: #9aa5b1">{body}</div>'


def _is_figure(cell: str) -> bool:
    return cell[:1] in set("0123456789+-−–") and ", " not in cell


def render(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Returns the page, without empty tables and sections. Text is escaped, except the SVG of charts."""
    shown = [section for section in sections if section.shown]
    template = _template("page.html.j2")
    return template.render(title=title, subtitle=subtitle, sections=shown, is_=_is, language=chosen())


def _template(name: str) -> jinja2.Template:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=language.html,
    )
    environment.globals["_"] = _
    environment.filters["attribute"] = language.attribute
    return environment.get_template(name)


def _is(part: Part, kind: str) -> bool:
    return type(part).__name__.lower() == kind
