"""train --name: another run of a model with other settings, beside the first; ./run.sh runs tells them apart."""

from __future__ import annotations

import json
import shlex
import shutil
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import yaml

from src.__main__ import main
from src.core import storage
from src.core.settings_loader import load_config, with_name, with_words
from src.evaluation import metrics
from src.evaluation.figures import short_text
from src.evaluation.validation_sets import VALIDATIONS
from src.evaluation.workspace import Workspace
from tests.conftest import error_of, run_command, words
from tests.test_architecture import HEAVY
from tests.test_pipeline import imported


@pytest.fixture(scope="module")
def wide(made_once, done, tiny_input) -> Path:
    """Output of a finished pipeline with the run `wide`, an lstm of another size."""

    def make(folder: Path) -> None:
        output = Path(shutil.copytree(done, folder / "output", copy_function=shutil.copy2))
        arguments = ["train", "--model", "lstm", "--name", "wide", *words(tiny_input, output)]
        run_command([*arguments, "model.hidden_size=12"])

    return made_once("wide", make) / "output"


def test_a_named_run_stands_beside_the_first(wide, done, tiny_input, capsys):
    assert (wide / "runs/lstm/score.json").read_bytes() == (done / "runs/lstm/score.json").read_bytes()
    first, other = (yaml.safe_load((wide / f"runs/{name}/config.yaml").read_text()) for name in ("lstm", "wide"))
    assert (first["model"].pop("hidden_size"), other["model"].pop("hidden_size")) == (8, 12) and first == other
    assert storage.read_json(wide / "runs/wide/run.json")["like"] == "lstm"
    made = words(tiny_input, wide)
    assert main(["train", *made]) == 0
    assert "all 4 folds are up to date" in capsys.readouterr().out, "the first is as it was"
    (wide / "runs/wide/run.json").write_text("{}")
    assert main(["submit", "wide", *made]) == 2
    remedy = capsys.readouterr().err.partition("Make it anew with: ./run.sh ")[2]
    assert remedy.startswith("train --model lstm --name wide --preset sample")
    (wide / "runs/wide/score.json").unlink()
    assert main([*shlex.split(remedy.strip().removesuffix("."))[:5], *made, "model.hidden_size=12"]) == 0
    assert "all 2 folds are up to date" in capsys.readouterr().out
    assert main(["blend", "lstm", "wide", "--name", "two", *made]) == 0
    for name, message in (
        ("transformer", "is the name of a run of the preset, of a model or of the blend"),
        ("gru", "is the name of a run of the preset, of a model or of the blend"),
        ("two", "was not trained"),
        ("../x", "cannot be the name of a run"),
    ):
        assert main(["train", "--model", "lstm", "--name", name, *made]) == 2
        assert message in capsys.readouterr().err
    assert main(["train", "--name", "other", *made]) == 2
    assert "wants the run whose settings it starts from, as --model RUN" in capsys.readouterr().err


def test_settings_of_a_named_run():
    config = load_config("standard", ["train.epochs=3", "runs.student.train.warmup=0.3"], ["student"])
    named = with_name(config, "long")
    assert named.models == ["long"] and named.named == {"long": "student"}
    assert named.runs["long"].train.epochs == 3 and named.runs["long"].train.warmup == 0.3
    first = load_config("standard", config.overrides, ["student"]).runs
    assert named.runs["long"] == first["student"]
    assert {name: run for name, run in named.runs.items() if name != "long"} == {
        name: run for name, run in first.items() if name != "student"
    }, "its teachers, with the settings that they have"
    more = with_words(named, ["train.batch_size=32", "runs.long.train.warmup=0.2"])
    assert (more.runs["long"].train.batch_size, more.runs["long"].train.warmup) == (32, 0.2)
    assert "runs of the preset" not in error_of(with_name, load_config("standard"), "long")


def test_a_named_run_is_denoised_by_the_run_that_it_starts_from():
    named = with_name(load_config("standard", ["pretrain.epochs=2"], ["transformer"]), "short")
    assert named.runs["short"].denoise.by in named.denoisers
    assert named.runs["short"].pretrain.epochs == 2
    assert named.denoisers[named.runs["short"].denoise.by].pretrain.epochs != 2


def rows_of(document: dict, title: str) -> list[dict]:
    (table,) = (table for table in document["tables"] if table["title"].startswith(title))
    return table["rows"]


@pytest.fixture
def asked(capsys):
    """Function that runs a command with --json and returns its document."""

    def ask(*arguments: str) -> dict:
        capsys.readouterr()
        assert main([*arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return ask


def test_runs_are_listed_with_scores_dates_and_differences(wide, tiny_input, asked):
    made = words(tiny_input, wide)
    found = rows_of(asked("runs", *made), "Runs, the best by shifted first; target sample_testB.csv")
    assert {row["run"] for row in found} >= {"lstm", "wide", "transformer", "blend"}
    boards = storage.read_json(wide / "runs/lstm/leaderboard.json")["tests"]["sample_testB.csv"]["validations"]
    (lstm,) = (row for row in found if row["run"] == "lstm")
    assert {key: lstm[key] for key in boards} == {key: short_text(score) for key, score in boards.items()}
    heights = [float(row["shifted"].split("±")[0]) for row in found]
    assert heights == sorted(heights, reverse=True)

    how = {row["run"]: row for row in rows_of(asked("runs", *made), "How they were made")}
    differs = "settings, and the run that is most alike"
    assert how["wide"][differs] == "model.hidden_size=12 (lstm)"
    assert how["lstm"][differs] == "model.hidden_size=8 (wide)"
    assert how["transformer"][differs].startswith("model.encoder=transformer, ")
    assert how["wide"]["training"] != "–" and how["blend"]["training"] == "–"
    assert datetime.strptime(how["wide"]["made"], "%Y-%m-%d %H:%M") <= datetime.now()


def test_two_runs_are_compared_setting_by_setting_and_score_by_score(wide, tiny_input, asked, capsys):
    made = words(tiny_input, wide)
    document = asked("runs", "show", "lstm", "wide", *made)
    assert rows_of(document, "Settings") == [{"setting": "model.hidden_size", "lstm": "8", "wide": "12"}]
    told = {row["validation"]: row["wide - lstm"] for row in rows_of(document, "Scores, target sample_testB.csv")}
    workspace = Workspace(load_config("sample", [word for word in made if "=" in word]))
    oof = [workspace.task.decode(np.load(wide / f"runs/{name}/oof.npy")) for name in ("wide", "lstm")]
    clean = metrics.paired_difference(workspace.task, workspace.labels, *oof)
    assert told["clean"] == metrics.gain_text(workspace.task, clean) and list(told) == list(VALIDATIONS)
    back = asked("runs", "show", "wide", "lstm", *made)
    signs = [{row["validation"]: row["lstm - wide"][0] for row in rows_of(back, "Scores")}["clean"], told["clean"][0]]
    assert sorted(signs) == ["+", "-"]
    assert "blend is a blend of lstm, transformer" in " ".join(asked("runs", "show", "lstm", "blend", *made)["lines"])
    for arguments, message in (
        (["show", "lstm"], "./run.sh runs show A B"),
        (["lstm", "wide"], "./run.sh runs show A B"),
        (["show", "lstm", "lstm"], "./run.sh runs show A B"),
        (["show", "lstm", "wied"], "Did you mean 'wide'"),
    ):
        assert main(["runs", *made, *arguments]) == 2
        assert message in capsys.readouterr().err


def test_runs_of_other_folds_and_earlier_folds_are_told(wide, tiny_input, tmp_path, asked):
    output = Path(shutil.copytree(wide, tmp_path / "output", copy_function=shutil.copy2))
    made = words(tiny_input, output)
    score = storage.read_json(output / "runs/wide/score.json")
    record = storage.read_json(output / "runs/wide/run.json")
    for fold in record["fold_folders"]:  # as if they were of the settings that lstm had before
        shutil.copytree(output / "runs/wide" / fold, output / "runs/lstm" / fold)
    storage.write_json(output / "runs/wide/run.json", {**record, "folds": "of others"})
    sums = {**score["checksums"], "run.json": storage.file_sha256(output / "runs/wide/run.json")}
    storage.write_json(output / "runs/wide/score.json", {**score, "checksums": sums})
    document = asked("runs", *made)
    *_, last = rows_of(document, "Runs")
    assert document["warnings"] == []
    assert last["run"] == "wide °" and last["clean"] != "–" and last["shifted"] == "–"
    assert "° of other files, folds or shift" in " ".join(document["lines"])
    (kept,) = rows_of(document, "Earlier folds")
    assert list(kept.values()) == ["lstm", "2 folds", "model.hidden_size=12"]
    compared = asked("runs", "show", "lstm", "wide", *made)
    assert "made on other folds" in compared["lines"] and rows_of(compared, "Out-of-fold scores")
    assert "a paired difference needs" in " ".join(compared["lines"])


def test_the_list_goes_on_where_a_folder_is_damaged(copy, tiny_input, asked, capsys):
    (copy / "runs/blind").mkdir()
    (copy / "runs/blind/imported.json").write_text("{}")
    (copy / "runs/blind/run.json").write_text("{}")
    (copy / "runs/lstm/fold_9.split_0.seed_0.x").mkdir()
    (copy / "runs/lstm/fold_9.split_0.seed_0.x/result.json").write_text("{")
    document = asked("runs", *words(tiny_input, copy))
    assert {row["run"] for row in rows_of(document, "Runs")} == {"lstm", "transformer", "blend"}
    told = " ".join(document["warnings"])
    assert "run blind is left out" in told and "earlier folds of lstm is left out" in told


def test_a_broken_run_is_not_the_best(copy, tiny_input, asked, capsys):
    made = words(tiny_input, copy)
    first = rows_of(asked("runs", *made), "Runs")[0]["run"]
    score = storage.read_json(copy / f"runs/{first}/score.json")
    storage.write_json(copy / f"runs/{first}/score.json", {**score, "fault": "has diverged"})
    order = [row["run"] for row in rows_of(asked("runs", *made), "Runs")]
    assert order.index(f"{first} !") == len(order) - 1
    for name in ("lstm", "transformer", "blend"):
        score = storage.read_json(copy / f"runs/{name}/score.json")
        storage.write_json(copy / f"runs/{name}/score.json", {**score, "fault": "has diverged"})
    assert main(["runs", *made]) == 0
    assert "(best)" not in capsys.readouterr().out


def test_the_list_needs_no_heavy_library(wide, tiny_input):
    told, libraries = imported("runs", *words(tiny_input, wide))
    assert "wide" in told and not HEAVY & libraries
