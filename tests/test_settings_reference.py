"""The reference of settings: complete, as in docs/settings.md, and on the terminal; and what unknown words may mean."""

import shlex

import pytest

from src.__main__ import main, parse
from src.core.settings import Config
from src.core.settings_loader import load_config
from src.core.settings_reference import COSTS, REMADE, entries, find, suggested
from tests import settings_reference
from tests.conftest import error_of


def test_the_page_is_made_of_the_settings():
    made = settings_reference.FILE.read_text(encoding="utf-8")
    assert made == settings_reference.text(), "run: python -m tests.settings_reference"


def test_every_setting_has_a_type_a_meaning_and_a_default_that_is_accepted():
    found = entries()
    assert len(found) > 150 and not [entry.key for entry in found if not (entry.kind and entry.meaning)]
    for entry in found:
        kinds = {"recurrent": "lstm", "boosting": "boosting"}
        task = "icu" if entry.key.split(".")[0] in ("model", "features") else "auto"
        name = kinds.get(entry.of.split(", ")[0], entry.of.split(", ")[0]) or "lstm"
        if (
            "null" not in entry.default
            and entry.default
            and not entry.key.startswith(("paths", "task", "metric", "track"))
        ):
            words = [f"task={task}"] * (task != "auto") + [f"{entry.key}={entry.default}"]
            config = load_config("sample", words, [name])
            assert config.overrides == words


def test_costs_and_results_name_keys_that_exist():
    keys = {entry.key for entry in entries()}
    assert COSTS.keys() <= keys
    assert REMADE.keys() <= {key.partition(".")[0] for key in keys}
    assert {key for key in Config.model_fields if "." not in key} >= {key.partition(".")[0] for key in keys} - {
        "model", "features", "pretrain", "denoise", "train", "regime",
    }  # fmt: skip


def explained(capsys, *words: str) -> list[str]:
    assert main(["config", *words]) == 0
    return capsys.readouterr().out.splitlines()


def test_a_key_is_explained_with_type_range_default_and_cost(capsys):
    lines = "\n".join(explained(capsys, "--explain", "train.epochs"))
    assert "whole number; 1 to 100,000; default 12" in lines and "costs: training time" in lines
    assert explained(capsys, "--explain", "runs.lstm.train.epochs") == explained(capsys, "--explain", "train.epochs")
    assert explained(capsys, "--explain", "epochs") == explained(capsys, "--explain", "train.epochs")
    assert len(explained(capsys, "--explain")) > len(explained(capsys, "--explain", "train")) > 50
    assert "transformer" in "\n".join(explained(capsys, "--explain", "model.layers"))
    assert [entry.key for entry in find("train.noise")] == [entry.key for entry in entries() if ".noise." in entry.key]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("train epochs=3", "train.epochs"),
        ("train --epochs 3", "train.epochs=3"),
        ("train --epochs=3", "train.epochs=3"),
        ("train --batch-size 32", "train.batch_size=32"),
        ("train --lr 0.1", "train.learning_rate=0.1"),
        ("train lr=0.1", "train.learning_rate"),
        ("train hidden_size=64", "model.hidden_size"),
        ("train --modle lstm", "Did you mean --model?"),
        ("lstm", "./run.sh train lstm"),
        ("train lstmm", "Did you mean 'lstm'?"),
    ],
)
def test_words_that_are_not_understood_get_a_suggestion(words, told):
    def load(words: str) -> None:
        _, parsed, overrides = parse(shlex.split(words))
        load_config("sample", overrides, parsed.model)

    assert told in error_of(load, words)


def test_runs_may_be_named_without_model():
    for words in ("train lstm gru", "train --model lstm gru", "train lstm train.epochs=3 --model gru"):
        _, parsed, _ = parse(shlex.split(words))
        assert set(parsed.model) == {"lstm", "gru"}, words
    for verb in ("pipeline", "pretrain", "status", "config"):
        assert parse([verb, "lstm"])[1].model == ["lstm"]


def test_one_mistake_is_one_sentence():
    """standard has runs of two kinds, whose keys differ."""
    told = error_of(load_config, "standard", ["model.foo=3"])
    assert told.count("\n") == 0 and told.count("Known") == 1 and "heads" in told and "cell" in told
    assert error_of(load_config, "standard", ["train.epoch=3"]).count("Known") == 1


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("train.epochs=abc", "train.epochs: want a whole number: 1 to 100,000 (got 'abc')"),
        ("train.epochs=0", "train.epochs: want a whole number: 1 to 100,000 (got '0')"),
        ("executor.workers=abc", "executor.workers: want a whole number or word: auto; 1 to 1,024 (got 'abc')"),
        ("select_on=foo", "select_on: want one of clean, noised, weighted, shifted (got 'foo')"),
        ("folds.threshold=7", "folds.threshold: want a number: 0.3 to 1 (got '7')"),
        ("train.seeds=[a]", "train.seeds.0: want whole numbers: at least 1 of them; 0 to 4,294,967,295 (got 'a')"),
    ],
)
def test_a_wrong_value_is_told_once_and_what_is_wanted(word, told):
    assert error_of(load_config, "standard", [word]) == told


def test_nothing_is_suggested_for_what_is_like_nothing():
    assert suggested("frobnicate") == []
