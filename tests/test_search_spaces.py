"""Search spaces: every shipped one fits its model, and what is wrong with a file is an error."""

from __future__ import annotations

import optuna
import pytest

from src.core.settings import CLINICAL, PARTS
from src.core.settings_loader import load_config, model_names, typed_keys
from src.models.tabular import TABULAR
from src.tuning import search_spaces
from src.tuning.search_spaces import load_space
from tests.conftest import error_of

MODELS = [*model_names(), "pretrain", "augmentation"]


def space_of(tmp_path, text: str, *names: str) -> search_spaces.Space:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    return load_space([*names, str(path)], PARTS)


OF_SERIES = [*model_names()]
OF_REPORTS = [name for name in MODELS if name not in ("grud", *TABULAR)]
TASKS = [*(("auto", name) for name in OF_REPORTS), *((task, name) for task in CLINICAL for name in OF_SERIES)]
TASKS.remove(("frames", "grud"))  # nothing of an image is unobserved
assert {"textcnn", "han", "boosting"} <= set(OF_SERIES)


@pytest.mark.parametrize(("task", "name"), TASKS)
def test_shipped_spaces_fit_their_models(task, name):
    model = name if name in model_names() else "transformer"
    space = load_space([name], PARTS, task in CLINICAL)
    space.check(lambda words: load_config("standard", [f"task={task}", *words], [model]))
    for seed in range(5):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
        chosen = space.suggest(study.ask())
        words = [f"task={task}", *search_spaces.words(chosen)]
        run = load_config("standard", words, [model]).runs[model].model_dump()
        for key, value in chosen.items():
            found = run
            for part in key.split("."):
                found = found[part]
            assert found == (pytest.approx(value) if isinstance(value, float) else value)


def test_every_model_has_a_space_and_every_space_is_tried():
    assert set(search_spaces.space_names()) == {*MODELS, "blend"}
    series = {path.stem for path in (search_spaces.SPACES / "series").iterdir()}
    assert series and series <= set(OF_SERIES)


def test_settings_that_depend_on_others(tmp_path):
    space = space_of(
        tmp_path,
        "train.attack: {type: categorical, choices: [none, fgm, awp]}\n"
        "train.attack_size: {type: float, low: 0.1, high: 2.0, log: true, when: {train.attack: [fgm, awp]}}\n"
        "train.epochs: {type: int, low: 2, high: 8, step: 3}\n"
        "denoise.views: {type: categorical, choices: [[hard], [hard, soft]]}\n",
    )
    seen = [space.suggest(optuna.create_study(sampler=optuna.samplers.RandomSampler(s)).ask()) for s in range(40)]
    assert {one["train.attack"] for one in seen} == {"none", "fgm", "awp"}
    assert all(("train.attack_size" in one) == (one["train.attack"] != "none") for one in seen)
    assert {one["train.epochs"] for one in seen} == {2, 5, 8}
    assert ["hard", "soft"] in [one["denoise.views"] for one in seen]
    assert 'denoise.views=["hard", "soft"]' in search_spaces.words({"denoise.views": ["hard", "soft"]})


def test_a_later_space_lies_over_an_earlier_one(tmp_path):
    space = space_of(tmp_path, "train.epochs: {type: int, low: 1, high: 2}\n", "lstm")
    assert space.dimensions["train.epochs"].high == 2 and "model.hidden_size" in space.dimensions


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("", ["space.yaml"]),
        ("- train.epochs", ["space.yaml"]),
        ("a: [", ["space.yaml", "YAML"]),
        ("paths.input: {type: categorical, choices: [x]}", ["paths.input", *PARTS]),
        ("train: {type: int, low: 1, high: 2}", ["train", *PARTS]),
        ("train.epochs: {type: int, low: 3, high: 2}", ["train.epochs", "low 3", "high 2"]),
        ("train.epochs: {type: int, low: 3, high: 6, step: 2}", ["train.epochs", "high 6", "2 from low 3"]),
        ("train.epochs: {type: int, low: 1, high: 8, step: 7, log: true}", ["train.epochs", "log", "step"]),
        ("train.learning_rate: {type: float, low: 0, high: 2, log: true}", ["train.learning_rate", "log", "low"]),
        ("train.epochs: {type: integer, low: 3, high: 5}", ["train.epochs", "integer"]),
        ("train.epochs: {type: int, low: 3}", ["train.epochs", "high"]),
        ("train.epochs: {type: int, low: 3, high: 5, stop: 1}", ["train.epochs", "'stop'"]),
        ("train.attack: {type: categorical, choices: []}", ["train.attack", "choices"]),
        ("train.epochs: {type: int, low: 1, high: 2, when: {train.attack: fgm}}", ["train.epochs", "train.attack"]),
        (
            "train.attack: {type: categorical, choices: [none]}\n"
            "train.epochs: {type: int, low: 1, high: 2, when: {train.attack: fgm}}",
            ["train.epochs", "train.attack", "fgm", "['none']"],
        ),
    ],
)
def test_an_error_names_the_setting_and_what_it_had(tmp_path, text, facts):
    error = error_of(space_of, tmp_path, text)
    assert [fact for fact in facts if fact not in error] == []


def test_values_that_settings_refuse_are_told_before_anything_runs(tmp_path):
    def build(words):
        return load_config("quick", words, ["lstm"])

    for line, message in (
        ("train.epoch: {type: int, low: 1, high: 2}", "'epoch'"),
        ("train.epochs: {type: int, low: 0, high: 2}", "train.epochs"),
        ("train.attack: {type: categorical, choices: [none, fmg]}", "fmg"),
    ):
        assert message in error_of(space_of(tmp_path, line).check, build)
    assert "'lstm'" in error_of(load_space, ["lstmm"], PARTS)
    assert str(tmp_path / "none.yaml") in error_of(load_space, [str(tmp_path / "none.yaml")], PARTS)


SPACE = (
    "train.attack: {type: categorical, choices: [none, fgm, awp]}\n"
    "train.attack_size: {type: float, low: 0.1, high: 2.0, when: {train.attack: [fgm, awp]}}\n"
    "train.noise.replacement: {type: float, low: 0.0, high: 0.5}\n"
)


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        (["train.epochs=4", "folds.k=3"], ["train.attack", "train.attack_size", "train.noise.replacement"]),
        (["train.attack=none"], ["train.noise.replacement"]),
        (["train.attack=awp"], ["train.attack_size", "train.noise.replacement"]),
        (["runs.lstm.train.attack=awp"], ["train.attack_size", "train.noise.replacement"]),
        (["runs.transformer.train.attack=awp"], ["train.attack", "train.attack_size", "train.noise.replacement"]),
        (["train.attack_size=1"], ["train.attack", "train.noise.replacement"]),
        (["train.noise={insertion: 0.1}"], ["train.attack", "train.attack_size"]),
        (["train={}"], []),
    ],
)
def test_what_is_typed_is_left_out_with_its_conditions(tmp_path, typed, kept):
    config = load_config("sample", typed)
    keys, settings = typed_keys(config, "lstm"), config.runs["lstm"].model_dump(mode="json")
    space = space_of(tmp_path, SPACE).without(keys, settings)
    assert list(space.dimensions) == kept
    for name, dimension in space.dimensions.items():
        assert list(dimension.when) == (
            ["train.attack"] if name == "train.attack_size" and "train.attack" in kept else []
        )


def test_a_setting_that_fingerprints_leave_out_has_its_default_in_use(tmp_path):
    space = space_of(tmp_path, "train.join: {type: float, low: 0.0, high: 0.8}\n")
    assert space.in_use(load_config("sample").runs["lstm"].complete())[0] == {"train.join": 0.0}
    assert space.in_use(load_config("sample", ["train.join=0.5"]).runs["lstm"].complete())[0] == {"train.join": 0.5}


def test_settings_in_use_are_left_out_where_the_space_lacks_them(tmp_path):
    """Optuna raises for a value between the steps of a range, and for a choice that is written otherwise."""
    space = space_of(
        tmp_path,
        "model.hidden_size: {type: int, low: 64, high: 192, step: 64}\n"
        "train.join: {type: categorical, choices: [0, 0.5]}\n",
    )
    for size, has_it in ((64, True), (100, False), (128, True), (192, True), (256, False)):
        params, distributions = space.in_use({"model": {"hidden_size": size}, "train": {"join": 0.0}})
        assert ("model.hidden_size" in params) == has_it
        optuna.create_study().add_trial(
            optuna.trial.create_trial(params=params, distributions=distributions, value=0.0)
        )
        assert params["train.join"] == "0"
