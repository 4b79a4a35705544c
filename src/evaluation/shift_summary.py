"""Summary of ./run.sh shift: a paragraph and tables. shift_pictures.py draws its figure."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from src.core.terminal import result, wrapped
from src.evaluation import series_shift_summary, text_shift_summary


def headline(facts: dict[str, Any]) -> str:
    """Returns a line with what differs in each file."""
    return _kind(facts).headline(facts)


def paragraph(facts: dict[str, Any]) -> str:
    """Returns a paragraph on the differences between train and test files, with advice."""
    if not facts["tests"]:
        noun = facts.get("noun", "reports")
        return f"There is no test file to compare with. Models are validated on the plain train {noun} only."
    sentences, advice = _kind(facts).findings(facts)
    return " ".join([*sentences, advice])


def tables(facts: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Returns title, columns and rows of each table."""
    return _kind(facts).tables(facts)


def show(facts: dict[str, Any]) -> None:
    """Prints what differs in each file, and what to do."""
    result(wrapped(f"shift: {headline(facts)}"))
    if facts["tests"]:
        _, advice = _kind(facts).findings(facts)
        result(wrapped(advice))


def as_markdown(facts: dict[str, Any]) -> str:
    """Returns paragraph, figure and tables as Markdown."""
    parts = ["# Differences between train and test files", paragraph(facts), f"![{_kind(facts).FIGURE}](shift.png)"]
    for title, columns, rows in tables(facts):
        lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        parts.append(f"## {title}\n\n" + "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]))
    return "\n\n".join([*parts, _kind(facts).NOTE]) + "\n"


def _kind(facts: dict[str, Any]) -> ModuleType:
    """Returns the module that words facts of this kind."""
    return text_shift_summary if "noun" not in facts else series_shift_summary
