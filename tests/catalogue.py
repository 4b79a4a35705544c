"""Catalogue of messages: src/locale/zh.po for translators, and zh.mo, compiled from it, for the program.

    python -m tests.catalogue        # adds texts that are new in the code, removes others, compiles; lists what lacks

Babel collects the texts of `_("…")` in Python files and templates. tests/test_language.py keeps all three in step.
"""

from __future__ import annotations

import functools
import io
import sys
from pathlib import Path

from babel.messages import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

from src.core.language import CATALOGUE

SRC = Path(__file__).resolve().parents[1] / "src"
METHODS = [("**.py", "python"), ("**.j2", "jinja2")]
WIDTH = 120


@functools.cache
def collected() -> Catalog:
    """Returns the messages of the code, with the files that show them."""
    catalogue = Catalog()
    found = extract_from_dir(SRC, METHODS, keywords={"_": None})
    for file, _line, text, _comments, _context in sorted(found, key=lambda one: (one[0], one[1])):
        catalogue.add(text, locations=[(f"src/{file}", None)])
    return catalogue


def translated() -> Catalog:
    """Returns the catalogue of translations as it is in the repository."""
    with CATALOGUE.open("rb") as file:
        return read_po(file, locale="zh")


def lacking(catalogue: Catalog) -> list[str]:
    """Returns the texts without a translation."""
    return [message.id for message in catalogue if message.id and (not message.string or message.fuzzy)]


def po_bytes(catalogue: Catalog) -> bytes:
    file = io.BytesIO()
    write_po(file, catalogue, width=WIDTH, include_lineno=False, ignore_obsolete=True)
    return file.getvalue()


def mo_bytes(catalogue: Catalog) -> bytes:
    file = io.BytesIO()
    write_mo(file, catalogue)
    return file.getvalue()


def updated() -> Catalog:
    """Returns the catalogue with exactly the messages of the code; translations stay as they are."""
    catalogue, template = translated(), collected()
    catalogue.update(template, no_fuzzy_matching=True, update_creation_date=False)
    return catalogue


def main() -> int:
    catalogue = updated()
    CATALOGUE.write_bytes(po_bytes(catalogue))
    CATALOGUE.with_suffix(".mo").write_bytes(mo_bytes(catalogue))
    lacks = lacking(catalogue)
    print(f"{CATALOGUE}: {len(catalogue)} messages, {len(lacks)} without a translation", *lacks, sep="\n  ")
    return bool(lacks)


if __name__ == "__main__":
    sys.exit(main())
