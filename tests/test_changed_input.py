"""Input files that changed under the same name, or went: no verb goes on with what was prepared of them."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from src.__main__ import main
from src.data.report_reader import read_reports
from src.data.submission_files import read_submission
from tests.conftest import words


def turned(path: Path) -> None:
    """Reverses the lines of a file; its size and its times stay the same."""
    before = path.stat()
    path.write_bytes(b"".join(reversed(path.read_bytes().splitlines(keepends=True))))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def exchanged(folder: Path) -> None:
    one, other = folder / "sample_testA.csv", folder / "sample_testB.csv"
    one.rename(folder / "aside")
    other.rename(one)
    (folder / "aside").rename(other)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "test turned": (lambda folder: turned(folder / "sample_testB.csv"), "of another content: sample_testB.csv"),
    "train turned": (lambda folder: turned(folder / "sample_train.csv"), "of another content: sample_train.csv"),
    "tests exchanged": (exchanged, "of another content: sample_testA.csv, sample_testB.csv"),
    "test gone": (lambda folder: (folder / "sample_testB.csv").unlink(), "gone: sample_testB.csv"),
    "train gone": (lambda folder: (folder / "sample_train.csv").unlink(), "no file in"),
    "all gone": (shutil.rmtree, "there is no folder"),
    "train added": (
        lambda folder: shutil.copy(folder / "sample_train.csv", folder / "my_train.csv"),
        "new: my_train.csv",
    ),
}
"""Use of the input folder, and messages about it."""
REFUSING = (
    *("submit", "submit lstm", "blend", "blend lstm --name two", "score", "score lstm", "leaderboard", "report"),
    *("leaderboard ask", "explain lstm explain.per_label=1", "explain lstm --id 3", "bundle lstm", "alarms"),
    *("tune blend --trials 1", "clean", "clean --superseded", "predict lstm {train} --shifted"),
)
"""Verbs that rest on what is prepared and do not prepare it."""


@pytest.fixture
def changed(tiny_input, tmp_path) -> Callable[[str], Path]:
    """Copy of the input folder with one of CHANGES."""

    def make(change: str) -> Path:
        folder = Path(shutil.copytree(tiny_input, tmp_path / "input", copy_function=shutil.copy2))
        CHANGES[change][0](folder)
        return folder

    return make


@pytest.mark.parametrize("change", CHANGES)
def test_every_verb_that_rests_on_it_refuses(change, changed, done, tiny_input, capsys):
    made, before = words(changed(change), done), {path: path.stat().st_mtime_ns for path in done.rglob("*.*")}
    for verb in REFUSING:
        capsys.readouterr()
        assert main([*verb.format(train=tiny_input / "sample_train.csv").split(), *made]) == 2, verb
        assert CHANGES[change][1] in capsys.readouterr().err, verb
    after = {path: path.stat().st_mtime_ns for path in done.rglob("*.*") if path.suffix != ".lock"}
    assert after.items() <= before.items(), "nothing was written"


@pytest.mark.parametrize("change", CHANGES)
def test_scores_are_noted_and_runs_predict_all_the_same(change, changed, copy, tiny_input, tmp_path, capsys):
    made = words(changed(change), copy)
    for verb in (
        f"leaderboard add {copy / 'submission_sample_testB.csv'} 0.5",
        "leaderboard tell s1 0.6",
        f"predict lstm {tiny_input / 'sample_testA.csv'} --to {tmp_path / 'to.csv'}",
    ):
        capsys.readouterr()
        assert main([*verb.split(), *made]) == 0
        assert CHANGES[change][1] in capsys.readouterr().err


def test_status_tells_it(changed, done, capsys):
    assert main(["status", *words(changed("test turned"), done)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(f"{stage} stale" in shown for stage in ("prepare", "folds", "train lstm", "submit", "report"))


@pytest.mark.slow
def test_the_command_that_is_named_mends_it(changed, copy, capsys):
    made = words(changed("test turned"), copy)
    assert main(["submit", *made]) == 2
    command = capsys.readouterr().err.rpartition("./run.sh ")[2]
    assert main(shlex.split(command)) == 0
    ids, _ = read_submission(copy / "submission_sample_testB.csv")
    assert (ids == read_reports(copy.parent / "input" / "sample_testB.csv").ids).all()


def test_a_further_test_file_is_told_and_stops_nothing(done, tiny_input, tmp_path, capsys):
    folder = Path(shutil.copytree(tiny_input, tmp_path / "input"))
    shutil.copy(folder / "sample_testB.csv", folder / "late_testC.csv")
    assert main(["submit", *words(folder, done)]) == 0
    assert "late_testC.csv came after the last run and gets no submission" in capsys.readouterr().err


def test_a_file_that_changes_while_it_is_read(tiny_input, tmp_path, capsys, monkeypatch):
    folder = Path(shutil.copytree(tiny_input, tmp_path / "input"))

    def turn(told: str) -> None:
        if told.startswith("prepare: reads"):
            turned(folder / "sample_testB.csv")

    monkeypatch.setattr("src.pipeline.stages.prepare.info", turn)
    assert main(["prepare", *words(folder, tmp_path / "output")]) == 2
    assert "changed while it was read" in capsys.readouterr().err
    assert not (tmp_path / "output/data/manifest.json").exists()
