"""train --name: another run of a model with other settings, beside the first; ./run.sh runs tells them apart."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from src.__main__ import main
from src.core import storage
from src.core.settings_loader import load_config, with_name, with_words
from tests.conftest import error_of, run_command, words


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
