"""One HTML page that stands alone: sections of text, tables and pictures, for a screen of any width and for paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jinja2


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
    svg: str = field(repr=False)
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

    def _repr_html_(self) -> str:
        """What a notebook shows of it; its pictures take their faint colour from the page, so it is set here."""
        body = _template("section.html.j2").render(section=self, is_=_is)
        return f'<div style="max-width: 50rem; --faint: #9aa5b1">{body}</div>'


def render(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The page. All text is escaped but that of charts."""
    shown = [one for one in sections if one.parts]
    return _template("page.html.j2").render(title=title, subtitle=subtitle, sections=shown, is_=_is)


def _template(name: str) -> jinja2.Template:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(name)


def _is(part: Part, kind: str) -> bool:
    return type(part).__name__.lower() == kind
