"""Summary of ./run.sh shift: a paragraph and tables. shift_pictures.py draws its figure."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from src.core.language import _, english, joined, word
from src.core.terminal import result, wrapped
from src.evaluation import series_shift_summary, text_shift_summary


def headline(facts: dict[str, Any]) -> str:
    """Returns a line with what differs in each file."""
    return _kind(facts).headline(facts)


def paragraph(facts: dict[str, Any]) -> str:
    """Returns a paragraph on the differences between train and test files, with advice."""
    if not facts["tests"]:
        noun = facts.get("noun", "reports")
        told = _("There is no test file to compare with. Models are validated on the plain train {noun} only.")
        return told.format(noun=word(noun))
    sentences, advice = _kind(facts).findings(facts)
    return joined(" ", [*sentences, advice])


def points(facts: dict[str, Any]) -> list[str]:
    """Returns the sentences of the paragraph, the advice first."""
    if not facts["tests"]:
        return [paragraph(facts)]
    sentences, advice = _kind(facts).findings(facts)
    return [advice, *sentences]


def tables(facts: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Returns title, columns and rows of each table."""
    return _kind(facts).tables(facts)


def show(facts: dict[str, Any]) -> None:
    """Prints what differs in each file, and what to do."""
    result(wrapped(f"shift: {headline(facts)}"))
    if facts["tests"]:
        result(wrapped(_kind(facts).findings(facts)[1]))


def as_markdown(facts: dict[str, Any]) -> str:
    """Returns paragraph, figure and tables as Markdown, in English: no file depends on the language."""
    figure = f"![{_kind(facts).FIGURE}](shift.png)"
    parts = ["# Differences between train and test files", english(paragraph(facts)), figure]
    for title, columns, rows in tables(facts):
        lines = [f"| {' | '.join(map(english, row))} |" for row in (columns, *rows)]
        lines.insert(1, "|---" * len(columns) + "|")
        parts.append(f"## {english(title)}\n\n" + "\n".join(lines))
    return "\n\n".join([*parts, english(_kind(facts).NOTE)]) + "\n"


def _kind(facts: dict[str, Any]) -> ModuleType:
    """Returns the module that words facts of this kind."""
    return text_shift_summary if "noun" not in facts else series_shift_summary
