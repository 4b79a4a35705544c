"""Summary of ./run.sh shift: a paragraph and tables. shift_pictures.py draws its figure."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from src.core.terminal import result, show_table
from src.evaluation import series_shift_summary, text_shift_summary

FILES_A_TABLE = 2
"""Test files in a table of 80 columns."""


def headline(facts: dict[str, Any]) -> str:
    """Returns a line with what differs in each file."""
    return _kind(facts).headline(facts)


def paragraph(facts: dict[str, Any]) -> str:
    """Returns a paragraph on the differences between train and test files, with advice."""
    if not facts["tests"]:
        noun = facts.get("noun", "reports")
        return f"There is no test file to compare with. Models are validated on the plain train {noun} only."
    return _kind(facts).paragraph(facts)


def tables(facts: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Returns title, columns and rows of each table."""
    return _kind(facts).tables(facts)


def show(facts: dict[str, Any]) -> None:
    """Prints the tables and the paragraph, with FILES_A_TABLE test files a table."""
    names = list(facts["tests"])
    for start in range(0, max(len(names), 1), FILES_A_TABLE):  # 80 columns
        tests = {name: facts["tests"][name] for name in names[start : start + FILES_A_TABLE]}
        rows = {name: count for name, count in facts["rows"].items() if name == "train" or name in tests}
        sampled = {name: count for name, count in facts["sampled"].items() if name in rows}
        for title, columns, lines in tables(facts | {"tests": tests, "rows": rows, "sampled": sampled}):
            show_table(title, columns, lines)
    result(f"\n{paragraph(facts)}")


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
