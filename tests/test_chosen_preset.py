"""A preset that the command does not name is told where it decides something, and never replaces folds of runs."""

from __future__ import annotations

import shlex

from src.__main__ import main
from tests.conftest import words


def without_preset(made: list[str]) -> list[str]:
    at = made.index("--preset")
    return [*made[:at], *made[at + 2 :]]


def test_a_chosen_preset_is_named_where_it_decides(tiny_input, tmp_path, capsys):
    made = without_preset(words(tiny_input, tmp_path / "output"))
    told = f"preset standard, as {tiny_input} holds files of yours; --preset NAME takes another"
    assert main(["folds", *made]) == 0
    assert capsys.readouterr().out.count(told) == 1
    assert main(["folds", *made]) == 0
    assert told not in capsys.readouterr().out, "it decides nothing"
    assert main(["folds", *words(tiny_input, tmp_path / "output", "folds.k=3")]) == 0
    assert told not in capsys.readouterr().out, "the command names it"
    empty = tmp_path / "input"
    empty.mkdir()
    assert main(["train", "--model", "student", f"paths.input={empty}", f"paths.output={tmp_path / 'other'}"]) == 2
    assert (
        f"(preset sample, as {empty} holds no files of yours; --preset NAME takes another)" in capsys.readouterr().err
    )


def test_train_files_of_round_2_choose_its_preset(tmp_path, capsys):
    folder = tmp_path / "input"
    folder.mkdir()
    for name, labels in (("a_train.csv", "0"), ("b_train.csv", "3,2")):
        (folder / name).write_text("".join(f"{i}|,|{i} 5 6|,|{labels}\n" for i in range(20)))
    made = [f"paths.input={folder}", f"paths.output={tmp_path / 'output'}"]
    told = f"preset round2, as {folder} holds train files of round 2; --preset NAME takes another"
    for given, preset in (["--task", "round2"], "round2"), (["--preset", "round2-quick"], "round2-quick"):
        assert main(["folds", *given, "folds.k=3", *made]) == 0
        assert (told in capsys.readouterr().out) == (preset == "round2")
        assert main(["config", *given, *made]) == 0
        assert f"preset: {preset}\n" in capsys.readouterr().out
    assert main(["config", "--task", "round1", *made]) == 0
    assert "preset: standard\n" in capsys.readouterr().out
    (folder / "a_train.csv").unlink()
    assert main(["config", *made]) == 0
    assert "preset: round2\n" in capsys.readouterr().out


def test_a_chosen_preset_never_replaces_the_folds_of_runs(copy, tiny_input, capsys):
    made, before = words(tiny_input, copy), (copy / "folds.csv").read_bytes()
    other = [word for word in without_preset(made) if not word.startswith("folds.")]
    assert main(["train", "--model", "lstm", *other]) == 2
    told = capsys.readouterr().err
    assert "has other folds than the runs that are there (blend, lstm, transformer) were made on" in told
    assert "with --preset sample. Name the preset of these runs" in told
    assert (copy / "folds.csv").read_bytes() == before
    anew = shlex.split(told.partition("split anew: ./run.sh ")[2])
    assert main(anew) == 0
    shown = capsys.readouterr()
    assert "runs on the folds before (blend, lstm, transformer) compare with no new ones" in shown.err
    assert (copy / "folds.csv").read_bytes() != before
    back = shown.err.partition("To bring these folds back: ./run.sh ")[2].splitlines()[0]
    assert main(shlex.split(back)) == 0
    assert (copy / "folds.csv").read_bytes() == before
    assert main(["blend", *made]) == 0
    assert "blend: up to date" in capsys.readouterr().out
    assert main(["folds", *without_preset(made), "folds.k=3"]) == 0, "folds that were typed are meant"
