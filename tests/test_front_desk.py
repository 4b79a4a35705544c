"""The front desk: which words are settings, and which errors are the user's."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from src.__main__ import main, parse
from src.data import synthetic_stays
from src.pipeline.command import existing_file
from tests.conftest import words


@pytest.mark.parametrize(
    ("arguments", "option", "value"),
    [
        (["leaderboard", "add", "x.csv", "0.9", "--note", "lr=0.01"], "note", "lr=0.01"),
        (["tune", "lstm", "--storage", "postgresql://h/db?sslmode=require"], "storage", "postgresql://h/db?sslmode=require"),
        (["blend", "lstm", "--name", "a=b"], "name", "a=b"),
    ],
)  # fmt: skip
def test_the_value_of_an_option_is_no_setting(arguments, option, value):
    _, parsed, overrides = parse([*arguments, "train.epochs=3"])
    assert getattr(parsed, option) == value and overrides == ["train.epochs=3"]


def test_a_file_whose_name_has_an_equals_sign_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fold=1.csv").write_text("")
    _, parsed, overrides = parse(["predict", "data.max_len=9", "lstm", "fold=1.csv", "--to", "out=1.csv"])
    assert (str(parsed.file), str(parsed.to), parsed.runs) == ("fold=1.csv", "out=1.csv", ["lstm"])
    assert overrides == ["data.max_len=9"]


def test_a_setting_before_and_behind_the_verb(tmp_path):
    _, parsed, overrides = parse(["train", "train.epochs=3", "--model", "lstm", "folds.k=2"])
    assert overrides == ["train.epochs=3", "folds.k=2"] and parsed.model == ["lstm"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_what_the_user_can_mend_has_no_traceback(number, tiny_input, tmp_path, monkeypatch, capsys):
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, "it is so", "somewhere")

    monkeypatch.setattr("src.pipeline.stages.prepare.read_reports", fail)
    assert main(["prepare", *words(tiny_input, tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "somewhere" in told and "Traceback" not in told


@pytest.mark.parametrize(
    ("allocate", "size"),
    [
        (lambda: np.empty(10**17), "711. PiB"),
        (lambda: torch.empty(10**16), "40000000000000000 bytes"),
        (lambda: bytearray(2**62), "not enough memory. "),
    ],
)
def test_a_lack_of_memory_is_no_traceback(allocate, size, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("src.__main__.load_config", lambda *_: allocate())
    assert main(["config"]) == 2
    told = capsys.readouterr().err
    assert "not enough memory" in told and re.search(size, told) and "data.max_len" in told


def test_a_fault_of_the_program_keeps_its_traceback(tiny_input, tmp_path, monkeypatch, capsys):
    """A file that the program itself looks for in vain is no error of the user's."""

    def fail(*_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "no such file", "inner.npy")

    monkeypatch.setattr("src.pipeline.stages.prepare.encode", fail)
    with pytest.raises(FileNotFoundError):
        main(["prepare", *words(tiny_input, tmp_path)])
    assert main(["prepare", "--json", *words(tiny_input, tmp_path)]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_one_wrong_word_for_all_runs_is_one_error(capsys):
    assert main(["config", "--preset", "standard", "train.epoch=3"]) == 2
    told = capsys.readouterr().err
    assert told.count("epoch'") == 1 and "train.epoch:" in told and "'epochs'" in told


@pytest.mark.parametrize("verb", ["score", "report", "leaderboard", "blend", "submit", "explain"])
def test_a_command_that_an_error_names_is_for_the_task(verb, tmp_path, capsys):
    """Without task=icu the named command would read reports and write to another folder."""
    (tmp_path / "input").mkdir()
    made = [f"paths.input={tmp_path / 'input'}", f"paths.output={tmp_path / 'output'}"]
    assert main([verb, "--task", "icu", *made]) == 2
    named = re.findall(r"\./run\.sh .*", capsys.readouterr().err)
    assert named and all("task=icu" in command and made[1] in command for command in named)


@pytest.mark.parametrize(
    ("task", "made_of", "facts"),
    [
        ("icu", "reports", ["sample_train.csv", "--task auto", "set-a"]),
        ("frames", "reports", ["sample_train.csv", "--task auto", ".npz"]),
        ("auto", "stays", ["set-a", "--task icu or los", "*train*.csv"]),
        ("frames", "stays", ["set-a", "--task icu or los", ".npz"]),
        ("auto", "images", ["digits.npz", "--task frames", "*train*.csv"]),
        ("los", "images", ["digits.npz", "--task frames", "set-a"]),
    ],
)
def test_files_of_another_task_are_named(task, made_of, facts, tiny_input, tmp_path, capsys):
    folder = {"reports": tiny_input}.get(made_of, tmp_path / "input")
    if made_of == "stays":
        synthetic_stays.make_sample(folder, rows=30, test_rows=20, seed=1)
    elif made_of == "images":
        folder.mkdir()
        np.savez(folder / "digits.npz", x=np.zeros(3))
    places = [f"paths.input={folder}", f"paths.output={tmp_path / 'output'}"]
    assert main(["prepare", "--task", task, *places]) == 2
    told = capsys.readouterr().err
    assert [fact for fact in facts if fact not in told] == [] and str(folder) in told


def test_two_tasks_in_one_command(tmp_path, capsys):
    assert main(["config", "--task", "icu", "task=los", f"paths.output={tmp_path}"]) == 2
    assert "--task icu" in (told := capsys.readouterr().err) and "task=los" in told


def test_files_may_be_named_without_csv(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("reports.csv").touch()
    Path("bare").touch()
    assert existing_file("reports") == Path("reports.csv") == existing_file("reports.csv")
    assert existing_file("bare.csv") == Path("bare") == existing_file("bare")
    assert existing_file("none") == Path("none"), "the reader says that it is not there, as it was typed"
    Path("reports").touch()
    assert existing_file("reports") == Path("reports")
    assert parse(["predict", "blend", "reports"])[1].file == Path("reports")
    assert parse(["standin", "bare.csv", "--to", "x"])[1].file == Path("bare")
