"""Self-contained HTML page: sections of text, tables and pictures, for screens of any width and for paper."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from src.core import language
from src.core.language import LANGUAGES, Message, _, chosen, joined

if TYPE_CHECKING:
    import jinja2
    import markupsafe

LONG = 14
"""Number of characters above which a name may be wrapped on a phone."""
MOST_OPEN = 12
"""Rows above which a table is folded."""
TEMPLATES = [Path(__file__).with_name(name) for name in ("page.html.j2", "section.html.j2")]


class Link(str):
    """Text that leads to `href`: an anchor of the page, such as #scores, or a file beside it."""

    href: str

    def __new__(cls, text: str, href: str) -> Link:
        made = super().__new__(cls, text)
        made.href = href
        return made


@dataclass(frozen=True)
class Table:
    """Table with a caption. A long one is folded, and its caption unfolds it.

    A column that says the same in every row is left out, and the caption says it once instead.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    open: bool = True
    """True if a table of few rows is unfolded."""

    @property
    def is_open(self) -> bool:
        return self.open and len(self.rows) <= MOST_OPEN

    @property
    def varying(self) -> list[int]:
        """Indices of the columns that are shown: those that tell rows apart."""
        cells = list(zip(*self.rows, strict=True))
        kept = [i for i, column in enumerate(cells) if i == 0 or (len(set(column)) > 1 or len(column) == 1)]
        return kept if len(kept) > 1 else list(range(len(cells)))

    @property
    def header(self) -> list[str]:
        return [self.columns[i] for i in self.varying]

    @property
    def body(self) -> list[list[str]]:
        return [[row[i] for i in self.varying] for row in self.rows]

    @property
    def full_caption(self) -> str:
        """Caption, and what the columns that are left out say."""
        same = [(self.columns[i], self.rows[0][i]) for i in range(len(self.columns)) if i not in self.varying]
        told = joined(", ", [joined(" ", pair) for pair in same if pair[1] not in ("", "–")])
        return joined("; ", filter(None, [self.caption, _("in every row: {facts}").format(facts=told) if told else ""]))

    @property
    def kinds(self) -> list[str]:
        """Kind of each shown column: figures are right-aligned, words left-aligned, long names may be wrapped on a
        phone."""
        first, *others = zip(*self.body, strict=True)
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
    legend: Sequence[tuple[str, str]] = ()
    """Colours of data, with their names, of pictures that are too small for a legend of their own."""
    anchor: str = ""
    """Name that links lead to."""

    @property
    def panels(self) -> Sequence[str]:
        return [self.svg] if isinstance(self.svg, str) else self.svg


@dataclass(frozen=True)
class Term:
    """Word that the page defines."""

    name: str
    definition: str


@dataclass(frozen=True)
class Figures:
    """Large figures side by side: name, value, and a note below it."""

    figures: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Alert:
    """Sentence that must not be overlooked."""

    text: str


@dataclass(frozen=True)
class Facts:
    """List of names, each with its values: words, links and commands."""

    facts: Sequence[tuple[str, Sequence[str | Link | Code]]]


@dataclass(frozen=True)
class Text:
    """Paragraph."""

    text: str


@dataclass(frozen=True)
class Points:
    """List of sentences."""

    texts: Sequence[str]


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
    anchor: str = ""
    """Name that links lead to."""


Part = Table | Chart | Figures | Alert | Facts | Points | Text | Code | Heat


@dataclass
class Section:
    """Section of the page."""

    title: str
    parts: list[Part] = field(default_factory=list)
    folded: bool = False
    """True if the reader unfolds it."""
    gist: str = ""
    """Contents of a folded section in words, beside its title."""

    @property
    def anchor(self) -> str:
        return _in(self.title, "en").lower().replace(" ", "-").replace(",", "")

    @property
    def shown(self) -> list[Part]:
        """Parts without empty tables."""
        return [part for part in self.parts if not isinstance(part, Table) or part.rows]

    def _repr_html_(self) -> str:
        """Returns the section for a notebook, with the faint colour that pictures take from the page."""
        body = _template("section.html.j2").render(section=self, is_=_is, is_page=False)
        other = "zh" if chosen() == "en" else "en"
        rule = f"<style>.section [lang={other}] {{ display: none; }}</style>"
        return f'{rule}<div class="section" style="max-width: 50rem; --faint: #9aa5b1">{body}</div>'


def _is_figure(cell: str) -> bool:
    return cell[:1] in set("0123456789+-−–") and ", " not in cell


def render(title: str, subtitle: str, sections: Sequence[Section], terms: Sequence[Term] = ()) -> str:
    """Returns the page, without empty tables and sections. Text is escaped, except the SVG of charts.

    Each of `terms` is defined, by a click, where it first stands.
    """
    shown = [section for section in sections if section.shown]
    marker = _TermMarker(terms)
    template = _template("page.html.j2", marker)
    # The list of marked terms fills while the sections before it are written.
    return template.render(
        title=title, subtitle=subtitle, sections=shown, terms=marker.marked, is_=_is, is_page=True, language=chosen()
    )


class _TermMarker:
    """Makes the first mention of each term a button that shows its definition, in every language."""

    def __init__(self, terms: Sequence[Term]):
        self.marked: list[tuple[str, Term]] = []
        """Anchor and term of those that were mentioned."""
        self._met: set[tuple[str, str]] = set()
        self._terms = {code: {_in(term.name, code).lower(): term for term in terms} for code in LANGUAGES}
        self._patterns = {code: _pattern(names) for code, names in self._terms.items()}

    def __call__(self, text: str) -> markupsafe.Markup:
        """Returns text as HTML; a message in every language."""
        import markupsafe

        if len({_in(text, code) for code in LANGUAGES}) == 1:
            return self._marked(_in(text, "en"), "en", LANGUAGES)
        span = markupsafe.Markup('<span lang="{}">{}</span>')
        shown = [span.format(code, self._marked(_in(text, code), code, [code])) for code in LANGUAGES]
        return markupsafe.Markup("").join(shown)

    def _marked(self, text: str, code: str, readers: Sequence[str]) -> markupsafe.Markup:
        """Returns text of a language, which readers of the languages `readers` see, as HTML."""
        import markupsafe

        parts, end = [], 0
        button = markupsafe.Markup('<button type="button" class="term" popovertarget="{}">{}</button>')
        for found in self._patterns[code].finditer(text):
            term = self._terms[code][found.group().lower()]
            anchor = "term-" + _in(term.name, "en").replace(" ", "-")
            if all((anchor, reader) in self._met for reader in readers):
                continue
            if (anchor, term) not in self.marked:
                self.marked.append((anchor, term))
            self._met |= {(anchor, reader) for reader in readers}
            parts += [markupsafe.escape(text[end : found.start()]), button.format(anchor, found.group())]
            end = found.end()
        return markupsafe.Markup("").join([*parts, markupsafe.escape(text[end:])])


def _in(text: str, code: str) -> str:
    """Returns a text or a message in a language."""
    return text.in_language(code) if isinstance(text, Message) else text


def _pattern(names: Iterable[str]) -> re.Pattern[str]:
    """Returns what finds any of the names. Words of Latin letters are bounded; Chinese ones stand side by side."""
    words = [
        rf"(?<![\w.=-]){re.escape(name)}(?![\w=-])" if name.isascii() else re.escape(name)
        for name in sorted(names, key=len, reverse=True)
    ]
    return re.compile("|".join(words) or "(?!)", re.IGNORECASE)


def _template(name: str, mark_terms: Callable[[str], str] | None = None) -> jinja2.Template:
    """Template with the filter `defined`, by which texts get their definitions."""
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
    environment.filters["defined"] = mark_terms or _TermMarker(())
    return environment.get_template(name)


def _is(part: Part, kind: str) -> bool:
    return type(part).__name__.lower() == kind
