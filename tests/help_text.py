"""Writes src/locale/help.txt and help.zh.txt: what --help says of everything, for run.sh before its set-up.

python -m tests.help_text
"""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from unittest import mock

from src.__main__ import main
from src.core.language import LANGUAGES
from src.pipeline.command import COMMANDS

FOLDER = Path(__file__).resolve().parents[1] / "src" / "locale"
WIDTH = "80"


def file_of(language: str) -> Path:
    return FOLDER / ("help.txt" if language == "en" else f"help.{language}.txt")


def text(language: str) -> str:
    """A section for the overview and for each verb, each behind a line === VERB."""
    return "".join(f"=== {verb}\n{_help(verb, language)}" for verb in ("help", *COMMANDS))


def _help(verb: str, language: str) -> str:
    words = ["--help"] if verb == "help" else [verb, "--help"]
    with (
        mock.patch.dict(os.environ, COLUMNS=WIDTH),
        contextlib.redirect_stdout(io.StringIO()) as shown,
        contextlib.suppress(SystemExit),
    ):
        main(["--lang", language, *words])
    return shown.getvalue()


if __name__ == "__main__":
    for language in LANGUAGES:
        file_of(language).write_text(text(language), encoding="utf-8")
