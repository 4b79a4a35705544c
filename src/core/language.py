"""Language of what people read: English, or Chinese by --lang zh or the locale (LANG=zh_CN.UTF-8).

    from src.core.language import _
    info(_("{count:,} reports in {folder}").format(count=count, folder=folder))

The English text is the key of the catalogue src/locale/zh.po, in gettext's format; a text that is not in it stays
English. `python -m tests.catalogue` collects the texts of the code, and compiles the catalogue to zh.mo, which is read
here.
"""

from __future__ import annotations

import contextlib
import functools
import gettext
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from html import escape
from pathlib import Path
from typing import Any

LANGUAGES = ("en", "zh")
"""Codes of ISO 639, English first."""
CATALOGUE = Path(__file__).parents[1] / "locale" / "zh.po"
VARIABLES = ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")
"""Environment variables that name the language, the strongest first, as gettext reads them."""


class Message(str):
    """Text in every language.

    As a str it is the English text: it is compared, measured and written to files as that. print, str() and f-strings
    show it in the chosen language. format(), replace(), + and joined() make a Message of Messages; other methods of str
    return plain English.
    """

    _composed: dict[str, str] | None = None
    """Text by language of a message that was made of others; None for one of the catalogue."""

    def in_language(self, language: str) -> str:
        """Returns the text in one of LANGUAGES; in English where there is no translation."""
        if language == "en":
            return str.__str__(self)
        if self._composed is not None:
            return self._composed[language]
        return _catalogue().gettext(str.__str__(self))

    def format(self, *values: Any, **named: Any) -> Message:
        """Returns the message with values in place of {names}, as str.format() does, in every language."""

        def filled(language: str) -> str:
            own = [_in(value, language) for value in values]
            return self.in_language(language).format(
                *own, **{name: _in(value, language) for name, value in named.items()}
            )

        return _made(filled)

    def replace(self, old: str, new: str, count: int = -1) -> Message:
        """Returns the message with a part replaced in every language."""
        return _made(lambda language: self.in_language(language).replace(old, new, count))

    def __str__(self) -> str:
        if _drawn is not None:
            _drawn[self.in_language("en")] = self
            return self.in_language("en")
        return self.in_language(chosen())

    def __format__(self, form: str) -> str:
        return format(str(self), form)

    def __add__(self, text: str) -> Message:
        return joined("", [self, text])

    def __radd__(self, text: str) -> Message:
        return joined("", [text, self])


def _(text: str) -> Message:
    """Returns the message of an English text, which must be a literal: the catalogue is collected from the code."""
    return Message(text)


WORDS = {
    one.in_language("en"): one
    for one in (
        _("reports"), _("report"), _("stays"), _("stay"), _("images"), _("image"), _("days"), _("official score"),
        _("accuracy"), _("round 1: 17 regions"), _("round 2: 17 regions and 12 types"), _("ICU mortality"),
        _("length of stay"), _("SYNTHETIC reports, of no patient"), _("SYNTHETIC stays, of no patient"),
        _("SAMPLE DATA, the digits that scikit-learn ships"),
    )
}  # fmt: skip
"""Words by which a task describes itself, which keeps them as plain text, since it also writes them to files."""


def word(text: str) -> str:
    """Returns the message of one of WORDS, where it is put into a message; other text as it is. Names of runs and words
    of commands, which may be spelt like one of WORDS, are not passed through it."""
    return WORDS.get(text, text)


def read_back(text: str, templates: Iterable[Message], worded: Collection[str] = ()) -> str:
    """Returns the message whose English `text` a file holds: the first of the templates that the text fills, with what
    fills it read back too; another text as it is. Fields of `worded` hold one of WORDS."""
    templates = list(templates)
    for template in templates:
        if found := _pattern(english(template)).fullmatch(text):
            parts = {
                name: word(part) if name in worded else read_back(part, templates, worded)
                for name, part in found.groupdict().items()
            }
            return template.format(**parts)
    return text


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    """Returns what finds the fields of a text: any text where a field stands first, and the same text again."""
    parts, names = re.split(r"\{(\w+)\}", template), set()
    for i, name in enumerate(parts):
        parts[i] = re.escape(name) if i % 2 == 0 else f"(?P={name})" if name in names else f"(?P<{name}>.+?)"
        names.update([name] * (i % 2))
    return re.compile("".join(parts))


def joined(separator: str, texts: Iterable[str]) -> Message:
    """Returns texts and messages, joined in every language."""
    texts = list(texts)
    return _made(lambda language: _in(separator, language).join(_in(text, language) for text in texts))


def english(text: str) -> str:
    """Returns a text or message in English, for keys that scripts read."""
    return str.__str__(text)


def chosen() -> str:
    """Returns the code of the language that is shown: that of the first variable of VARIABLES with a value."""
    names = next(filter(None, map(os.environ.get, VARIABLES)), "")
    return next((code for name in names.split(":") for code in LANGUAGES if name.lower().startswith(code)), "en")


@contextlib.contextmanager
def shown_in(language: str | None) -> Iterator[None]:
    """Shows messages in a language within the context, in processes that begin in it too; None: as before."""
    before = os.environ.get("LANGUAGE")
    if language is not None:
        os.environ["LANGUAGE"] = language
    try:
        yield
    finally:
        if language is not None:
            os.environ.pop("LANGUAGE")
            if before is not None:
                os.environ["LANGUAGE"] = before


_drawn: dict[str, Message] | None = None


@contextlib.contextmanager
def drawn() -> Iterator[dict[str, Message]]:
    """Shows messages in English within the context and yields them by their English text, so that a picture can get the
    other texts afterwards."""
    global _drawn
    before, _drawn = _drawn, {}
    try:
        yield _drawn
    finally:
        _drawn = before


def html(value: Any) -> Any:
    """Returns a message with a translation as HTML in every language, of which the page shows one; other values as they
    are. Jinja2 calls it for all that a template writes (`finalize`)."""
    if not isinstance(value, Message) or len({value.in_language(language) for language in LANGUAGES}) == 1:
        return value
    from markupsafe import Markup

    span = Markup('<span lang="{}">{}</span>')
    return Markup("").join(span.format(language, value.in_language(language)) for language in LANGUAGES)


def attribute(value: str, name: str) -> str:
    """Returns an attribute of an HTML element, for `<span {{ text | attribute("title") }}>`: in English, and beside it
    as data-zh-title in Chinese, which the page's script takes."""
    from markupsafe import Markup

    texts = {name: _in(value, "en")}
    if isinstance(value, Message):
        texts |= {f"data-{language}-{name}": value.in_language(language) for language in LANGUAGES[1:]}
    return Markup(" ".join(f'{key}="{escape(text)}"' for key, text in texts.items()))


def _made(make: Callable[[str], str]) -> Message:
    message = Message(make("en"))
    message._composed = {language: make(language) for language in LANGUAGES[1:]}
    return message


def _in(value: Any, language: str) -> Any:
    return value.in_language(language) if isinstance(value, Message) else value


@functools.cache
def _catalogue() -> gettext.NullTranslations:
    with CATALOGUE.with_suffix(".mo").open("rb") as file:
        return gettext.GNUTranslations(file)
