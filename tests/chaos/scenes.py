"""Scenes: finished tiny output folders with every kind of artefact, and copies of them for trials.

A scene is a folder with input/, output/ and the preset; commands run in it, so that its copies need no other words.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from src.data import synthetic, synthetic_stays
from src.data.tasks import ROUND1
from tests.chaos.server import LONG, ForkServer, Outcome, Trial

HERE = Path(__file__).parent
APPENDED = {".lock", ".jsonl", ".db", ".log"}
"""Files that commands change in place: a copy of a scene has its own; all others are hard links."""
UNCOMPARED = {".lock", ".db"}
"""Files whose bytes may differ between two equal results: databases note the time."""
CHANGING = re.compile(rb'"at": "[^"]*"|, "checksum": "[0-9a-f]{16}"')
"""Times, and checksums of lines with a time, in the log of submissions."""
OF_HARNESS = {"tmp", "complete"}


@dataclass(frozen=True)
class Kind:
    """Recipe of a scene, and the commands that are tried on it."""

    words: tuple[str, ...]
    """Settings that every command gets."""
    make_input: Callable[[Path, int], object]
    """Writes the input files of a seed into a folder."""
    builds: tuple[str, ...]
    """Commands that make the output."""
    verbs: tuple[str, ...]
    """Commands that are tried on damaged outputs."""


PLACES = ("paths.input=input", "paths.output=output")
REPORTS = Kind(
    words=("--preset", "reports.yaml", *PLACES),
    make_input=lambda folder, seed: synthetic.make_sample(folder, rows=90, test_rows=20, task=ROUND1, seed=seed),
    builds=(
        "pipeline", "baselines", "submit lstm", "eda", "tune lstm --trials 2", "bundle lstm",
        "predict blend input/sample_testA.csv", "predict lstm input/answers_A.csv",
        "explain blend --id 3 --file sample_train.csv",
        "leaderboard add output/submission_lstm_sample_testB.csv 0.9", "leaderboard ask", "pipeline",
    ),
    verbs=(
        "pipeline", "status", "prepare", "folds", "shift", "baselines", "pretrain", "train", "blend", "submit",
        "submit lstm", "score", "score lstm", "leaderboard", "leaderboard ask", "leaderboard tell s1 0.91",
        "leaderboard add output/submission_sample_testA.csv 0.8", "explain",
        "explain blend --id 3 --file sample_train.csv", "predict blend input/sample_testA.csv",
        "predict --bundle output/lstm.bundle input/sample_testA.csv --to output/bundled.csv", "bundle lstm",
        "score --labels input/answers_A.csv output/submission_sample_testA.csv", "report", "eda", "clean",
        "tune lstm --trials 2",
    ),
)  # fmt: skip
STAYS = Kind(
    words=("--task", "icu", "--preset", "stays.yaml", *PLACES),
    make_input=lambda folder, seed: synthetic_stays.make_sample(folder, rows=60, test_rows=20, seed=seed),
    builds=("pipeline", "alarms", "eda", "bundle gru", "predict blend input/set-b.zip", "pipeline"),
    verbs=(
        "pipeline", "status", "prepare", "folds", "shift", "baselines", "train", "blend", "submit", "score",
        "leaderboard", "explain", "alarms", "predict blend input/set-b.zip", "bundle gru", "report", "eda", "clean",
    ),
)  # fmt: skip
SHORT = replace(
    REPORTS,
    words=(*REPORTS.words, "--model", "lstm", "explain.per_label=0"),
    builds=(),
    verbs=("status", "train", "submit lstm", "score", "leaderboard", "bundle lstm", "folds", "shift"),
)
"""Reports and one run, made in seconds."""
KINDS = {"reports": REPORTS, "stays": STAYS, "short": SHORT}


class Scene:
    """A finished output folder of one kind, and what each verb answers on it undamaged."""

    def __init__(self, folder: Path, kind: str, server: ForkServer, seed: int = 7, builds: Sequence[str] | None = None):
        """Makes the scene in `folder` unless it is there; `builds`: by these commands instead of the kind's."""
        self.folder, self.kind, self.server = folder, KINDS[kind], server
        self._answers: dict[str, Answer] = {}
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_suffix(".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # several parts of the trials share a scene
            if not (folder / "complete").exists():
                self._make(seed, self.kind.builds if builds is None else builds)

    def _make(self, seed: int, builds: Sequence[str]) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        for preset in ("reports.yaml", "stays.yaml"):
            shutil.copy(HERE / preset, self.folder)
        self.kind.make_input(self.folder / "input", seed)
        for command in builds:
            outcome = self.run(command, self.folder, limit=LONG)
            assert outcome.status == 0, f"{command}: {outcome.stderr}"
        # The page shows what each stage took; one that is drawn again is to find the same times.
        page = self.folder / "output" / "pages" / "report.json"
        if page.exists():
            page.unlink()
            assert self.run("report", self.folder, limit=LONG).status == 0
        (self.folder / "complete").touch()

    def run(self, command: str, folder: Path, **trial: Any) -> Outcome:
        """Runs a command, with the scene's settings unless it names them itself, in a copy of the scene."""
        words = shlex.split(command)
        words += [] if "paths.output=output" in words else self.kind.words
        return self.server.run(Trial(words, str(folder), **trial))

    def copy(self, folder: Path) -> Path:
        """Copies the scene to `folder`, which is emptied; files that no command changes in place are hard links."""
        shutil.rmtree(folder, ignore_errors=True)

        def copied(path: str, to: str) -> None:
            (shutil.copy2 if Path(path).suffix in APPENDED else os.link)(path, to)

        shutil.copytree(self.folder, folder, copy_function=copied, ignore=lambda *_: OF_HARNESS)
        return folder

    def artefacts(self) -> list[str]:
        """Names of the files of the output, without locks."""
        output = self.folder / "output"
        paths = (path for path in sorted(output.rglob("*")) if path.is_file() and path.suffix != ".lock")
        return [str(path.relative_to(output)) for path in paths]

    def answer(self, verb: str, scratch: Path) -> Answer:
        """Returns the answer of `verb` on the undamaged scene, with the files that it leaves."""
        if verb not in self._answers:
            outcome = self.run(f"{verb} --json", self.copy(scratch))
            assert outcome.status == 0, f"{verb}: {outcome.stderr}"
            self._answers[verb] = Answer(verb, document(outcome), contents(scratch))
        return self._answers[verb]


@dataclass(frozen=True)
class Answer:
    """Answer of a verb on the undamaged scene."""

    verb: str
    document: dict[str, Any]
    files: dict[str, bytes]
    """Contents of the output's files by name."""

    def __contains__(self, name: str) -> bool:
        """Returns True for the names of its files and the keys of its document."""
        return name in self.files or name in self.document


def document(outcome: Outcome) -> dict[str, Any]:
    """Returns the answer of a command with --json, without the words that may say that something was made again."""
    found = json.loads(outcome.stdout)
    return {key: value for key, value in found.items() if key not in ("seconds", "lines", "written", "warnings")}


def contents(folder: Path) -> dict[str, bytes]:
    """Contents of the files of an output by name, as far as equal results have equal ones."""
    found = {}
    for name, entry in _files(folder / "output"):
        if Path(name).suffix not in UNCOMPARED:
            is_shared = entry.stat().st_nlink > 1  # still the scene's own file, which nothing changes
            found[name] = _read_once(entry.inode(), entry.path) if is_shared else _comparable(entry.path)
    return found


def _comparable(path: str) -> bytes:
    return CHANGING.sub(b"", Path(path).read_bytes())


_contents: dict[int, bytes] = {}


def _read_once(inode: int, path: str) -> bytes:
    if inode not in _contents:
        _contents[inode] = _comparable(path)
    return _contents[inode]


def _files(folder: Path, above: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yields the files below a folder, if it is there, with their names in it."""
    for entry in os.scandir(folder) if folder.exists() else ():
        if entry.is_dir(follow_symlinks=False):
            yield from _files(folder / entry.name, f"{above}{entry.name}/")
        else:
            yield above + entry.name, entry


def is_temporary(name: str) -> bool:
    """Returns True for the name of a file that a command writes before it gets its name."""
    return Path(name).name.startswith(".") and name.endswith(".tmp")


def outside(folder: Path) -> set[str]:
    """Names, sizes and times of all files of a scene's copy that lie outside its output."""
    found = set()
    for entry in os.scandir(folder):
        if entry.name not in OF_HARNESS and entry.name != "output":
            files = _files(Path(entry), f"{entry.name}/") if entry.is_dir() else [(entry.name, entry)]
            found |= {f"{name} {one.stat().st_size} {one.stat().st_mtime_ns}" for name, one in files}
    return found
