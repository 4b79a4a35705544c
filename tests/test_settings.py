from __future__ import annotations

import pytest
import yaml

from src.__main__ import main
from src.core import settings, settings_loader
from src.core.errors import UserError
from src.core.run_settings import Run, Train
from src.core.settings import Config
from src.core.settings_loader import PRESETS, check_effects, load_config
from src.models.tabular import TABULAR
from tests.chaos.hostile_settings import extreme_words
from tests.conftest import error_of


@pytest.mark.parametrize("preset", settings_loader.preset_names())
def test_every_preset_loads(preset):
    loaded = load_config(preset)
    assert loaded.preset == preset and loaded.runs


@pytest.mark.parametrize("model", settings_loader.model_names())
def test_every_model_loads_in_every_preset(model):
    task = "icu" if model in ("grud", *TABULAR) else "auto"
    for preset in ("quick", "standard") if task == "icu" else settings_loader.preset_names():
        assert list(load_config(preset, [f"task={task}"], models=[model]).runs) == [model]


@pytest.mark.parametrize(
    "words, model, key",
    [
        ([], "grud", "model.encoder=grud"),
        ([], "kernel", "model.encoder=kernel"),
        (["features.smooth=3"], "lstm", "features"),
        (["train.outcome_weight=1"], "lstm", "train.outcome_weight"),
        (["train.forecast_weight=1", "model.bidirectional=false"], "lstm", "train.forecast_weight"),
        (["task=frames", "train.outcome_weight=1"], "lstm", "train.outcome_weight"),
        (["task=icu", "train.join=0.5"], "gru", "train.join"),
        (["task=icu", "train.join=0.5"], "boosting", "train.join"),
        (["task=frames", "train.join=0.5"], "lstm", "train.join"),
        (["task=icu", "train.reorder=0.5"], "gru", "train.reorder"),
        (["task=icu", "train.forecast_weight=1", "features.imputer=linear"], "gru", "features.imputer=linear"),
        (["task=icu", "train.outcome_weight=1", "train.consistency=1"], "gru", "train.consistency"),
        (["task=icu", "train.outcome_weight=1", "model.pooling=label"], "gru", "model.pooling=label"),
    ],
)
def test_what_has_no_meaning_for_a_task_is_refused(words, model, key):
    assert key in error_of(load_config, "quick", words, [model])


def test_yaml_files_hold_only_what_differs_from_the_defaults():
    for path in (PRESETS / "models").glob("*.yaml"):
        given = yaml.safe_load(path.read_text())
        defaults = type(Run.model_validate(given).model)().model_dump()
        for key, value in given["model"].items():
            assert key in ("encoder", "cell") or defaults[key] != value, f"{path.name}: model.{key} is the default"
        for key, value in given.get("train", {}).items():
            assert Train().model_dump()[key] != value, f"{path.name}: train.{key} is the default"


def test_overrides_reach_every_run_or_one():
    loaded = load_config("sample", ["train.epochs=3", "runs.lstm.train.batch_size=16", "folds.k=7"])
    assert {run.train.epochs for run in loaded.runs.values()} == {3}
    assert loaded.runs["lstm"].train.batch_size == 16 != loaded.runs["transformer"].train.batch_size
    assert loaded.folds.k == 7
    nested = load_config("sample", ["runs.lstm.train.noise.replacement=0.3"])
    assert nested.runs["lstm"].train.noise.replacement == 0.3 != nested.runs["transformer"].train.noise.replacement


@pytest.mark.parametrize("text", ["1e-3", "0.001", "1.0e-3"])
def test_numbers_are_read_by_the_annotation_not_by_yaml(text):
    assert load_config("sample", [f"train.learning_rate={text}"]).runs["lstm"].train.learning_rate == 0.001


def test_lists_and_text():
    loaded = load_config("sample", ["train.seeds=[1, 2]", "paths.train=007*.csv"])
    assert loaded.runs["lstm"].train.seeds == [1, 2] and loaded.paths.train == "007*.csv"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train.epoch=3"], ["train.epoch", "'epochs'", "batch_size"]),
        (["trains.epochs=3"], ["unknown key 'trains'"]),
        (["folds.kk=3"], ["folds.kk", "scheme"]),
        (["runs.lstm.model.cell=lstn"], ["runs.lstm.model.cell", "lstn", "lstm, gru, rnn"]),
        (["runs.lsmt.train.epochs=3"], ["unknown run 'lsmt'", "'lstm'", "transformer"]),
        (["train.epochs=0"], ["train.epochs", "1 to 100,000"]),
        (["train.epochs"], ["key=value"]),
        (["runs.transformer.model.heads=5"], ["not a multiple of heads 5"]),
        (["runs.lstm.model.encoder=convolution"], ["convolution", "recurrent", "transformer"]),
        (["folds.k.x=1"], ["folds.k"]),
        (["preset=quick"], ["--preset quick"]),
        (["executor.workers=0"], ["executor.workers"]),
        (["trian.epochs=1"], ["trian: unknown key 'trian'", "Did you mean 'train'?"]),
        (["blend.members=[lsmt]"], ["blend.members: unknown run 'lsmt'", "Did you mean 'lstm'?"]),
        (["train.seeds=[1,1]"], ["different"]),
        (["train.seeds=[-1]"], ["train.seeds", "0 to 4,294,967,295"]),
    ],
)
def test_bad_overrides_name_the_key_and_what_is_known(words, expected):
    with pytest.raises(UserError) as raised:
        load_config("sample", words)
    for text in expected:
        assert text in str(raised.value)


def test_unknown_preset_and_model_list_the_known():
    with pytest.raises(UserError, match=r"preset 'quikc'.*'quick'.*ablation, full, institutions, proof, quick"):
        load_config("quikc")
    with pytest.raises(UserError, match=r"model 'lstmm'.*'lstm'.*transformer"):
        load_config("quick", models=["lstmm"])


def test_a_runs_config_file_reads_back(tmp_path):
    run = load_config("quick", ["train.epochs=3"]).runs["transformer"]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(run.model_dump(mode="json")))
    assert settings_loader.run_from_yaml(path) == run


def test_a_preset_is_laid_over_the_one_that_it_is_like(tmp_path):
    mine, standard = load_config("round2"), load_config("standard")
    assert mine.task == "round2"
    assert [*standard.runs, "neighbours", "trained_neighbours"] == [*mine.runs]
    assert [*mine.blend.members, *mine.blend.stack] == [*mine.runs]
    assert (
        set(standard.blend.members) < set(mine.blend.members) and mine.blend.method == standard.blend.method == "mean"
    )
    assert mine.runs["student"].train.group_rows == "counted" and standard.runs["student"].train.group_rows == "all"
    assert mine.runs["student"].pretrain.select == standard.runs["student"].pretrain.select == 0.4
    path = tmp_path / "mine.yaml"
    path.write_text("like: quick\nfolds: {k: 3}\nruns: {lstm: {train: {epochs: 2}}}\n")
    mine, quick = load_config(str(path)), load_config("quick")
    assert (mine.folds.k, mine.runs["lstm"].train.epochs) == (3, 2)
    assert mine.runs["lstm"].train.join == quick.runs["lstm"].train.join
    assert mine.runs["transformer"] == quick.runs["transformer"]
    path.write_text("like: icu\ntask: icu\n")
    assert "mine.yaml: like: unknown preset 'icu'" in error_of(load_config, str(path))
    path.write_text("like: quick\ntask: icu\n")
    assert load_config(str(path)).runs == load_config("quick", ["task=icu"]).runs
    path.write_text("like: round2\n")
    told = error_of(load_config, str(path))
    assert (
        "unknown preset 'round2'" in told
        and "Known: ablation, full, institutions, proof, quick, sample, standard" in told
    )


def test_types_are_learned_alike_by_teachers_and_students_of_round_2():
    told = error_of(load_config, "round2", ["runs.student.train.group_rows=all"])
    assert "runs.student.train.group_rows is all and that of its teacher transformer is counted" in told
    for task in ("round1", "icu"):
        told = error_of(load_config, "quick", [f"task={task}", "train.group_rows=counted"])
        assert "train.group_rows=counted is about the types of round 2" in told
    assert load_config("quick", ["train.group_rows=counted"]).task == "auto"


def test_types_weigh_more_in_round_2_alone():
    for task in ("round1", "icu"):
        told = error_of(load_config, "quick", [f"task={task}", "train.types_weight=2"])
        assert "train.types_weight is about the types of round 2" in told
    assert load_config("quick", ["train.types_weight=2"]).runs["lstm"].train.types_weight == 2
    assert "types_weight" in error_of(load_config, "quick", ["train.types_weight=0"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "train.own_epochs=2 leaves out the reports of train.extra_weight, which is 0"),
        (["train.epochs=2"], "own_epochs=2 leaves no epoch for train.extra_weight: it must be below train.epochs=2"),
        (["train.patience=1"], "own_epochs=2 are the last epochs, before which train.patience may end"),
        (["train.regime=groupdro"], "train.regime=groupdro goes without train.own_epochs"),
        (["train.own_epochs=-1"], "train.own_epochs"),
    ],
)
def test_own_epochs_need_other_epochs_before(words, told):
    given = ["train.own_epochs=2", *(["train.extra_weight=1"] if words else []), *words]
    assert told in error_of(load_config, "quick", given)


def test_own_epochs_are_in_no_settings_without_them():
    plain, own = (
        load_config("quick", ["train.extra_weight=1", *words]).runs["lstm"] for words in ([], ["train.own_epochs=3"])
    )
    assert "own_epochs" not in plain.train.model_dump() and "types_weight" not in plain.train.model_dump()
    assert own.train.model_dump() == {**plain.train.model_dump(), "own_epochs": 3}
    assert [(own.train.with_epochs(n).epochs, own.train.with_epochs(n).own_epochs) for n in (5, 3, 1)] == [
        (5, 3), (3, 2), (1, 0)
    ]  # fmt: skip
    assert plain.train.with_epochs(5) == plain.train.model_copy(update={"epochs": 5})
    told = error_of(load_config, "quick", ["task=icu", "train.own_epochs=1", "train.extra_weight=1"], ["boosting"])
    assert "train.own_epochs=1 is about epochs, which boosting has none of" in told


@pytest.mark.parametrize(
    ("words", "told", "cure"),
    [
        (["train.attack_size=0.3"], "train.attack_size has no effect without train.attack", "train.attack=fgm"),
        (["runs.lstm.train.teacher_weight=1"], "without train.teachers", "runs.lstm.train.teachers=[transformer]"),
        (["train.noise.dispersion=0.1"], "without train.noise.rep", "train.noise.insertion=0.1"),
        (["denoise.views=[soft]"], "denoise.views has no effect without denoise.by", "denoise.by=transformer"),
        (["ray.address=local"], "ray.address is for executor=ray", "executor=ray"),
        (["ray.dashboard=true", "executor=ray"], "dashboard=true is for ray.address=local", "ray.address=local"),
        (["tune.pruner=median", "tune.reduction=4"], "reduction is for pruners halving", "tune.pruner=hyperband"),
        (["tune.sampler=random", "tune.startup=4"], "startup is for samplers tpe and gp", "tune.sampler=gp"),
        (["alarms.on=0.3", "alarms.false_alarms=1"], "set one of them to null", "alarms.on=null"),
    ],
)
def test_words_without_an_effect_are_refused(tmp_path, words, told, cure):
    preset = tmp_path / "plain.yaml"
    preset.write_text("runs: {lstm: {}, transformer: {pretrain: {epochs: 1}}}\n")
    assert told in error_of(lambda: check_effects(load_config(str(preset), words)))
    check_effects(load_config(str(preset), [*words, cure]))


def test_words_of_an_experiment_work_for_its_parts():
    """Also those that reach only some of its runs, those that turn off what they need, and those of a search."""
    check_effects(load_config("standard", ["train.attack_size=0.3", "train.teacher_weight=0.7"], ["lstm"]))
    size = load_config("quick", ["train.attack_size=0.3"], ["lstm"])
    assert "train.attack_size has no effect" in error_of(check_effects, size)
    for more in ("train.attack=none", "train.attack_size=null"):
        check_effects(load_config("quick", [*size.overrides, more]))


def test_commands_refuse_words_without_an_effect(tmp_path, capsys):
    words = ["--preset", "quick", "train.attack_size=0.3", f"paths.output={tmp_path}", f"paths.input={tmp_path}"]
    for verb, is_told in (["train"], True), (["tune", "lstm"], False):
        assert main([*verb, *words]) == 2
        assert ("has no effect" in capsys.readouterr().err) == is_told


def test_a_preset_file_may_name_its_task(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("task: icu\nruns:\n  gru: {}\n")
    for words, task in ([], "icu"), (["task=los"], "los"):
        loaded, other = load_config(str(path), words), load_config("quick", [f"task={task}"])
        assert (loaded.task, loaded.paths, loaded.baselines) == (task, other.paths, other.baselines)


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load_config("quick").folds.k = 3


def test_fingerprint_is_canonical():
    assert settings.fingerprint({"a": 1, "b": [2]}) == settings.fingerprint({"b": [2], "a": 1})
    assert settings.fingerprint({"a": 1}) != settings.fingerprint({"a": 2})


def test_holdout_takes_one_seed():
    with pytest.raises(UserError, match="one seed"):
        load_config("quick", ["folds.scheme=holdout", "folds.seeds=[1,2]"])


def test_a_run_brings_what_it_needs():
    """--model with one run adds its teachers, which are trained, and its denoiser run, which is pretrained."""
    config = load_config("standard", models=["lstm"])
    assert list(config.runs) == ["lstm"] and list(config.denoisers) == ["transformer"]
    assert config.denoisers["transformer"] == load_config("standard").runs["transformer"]
    assert list(load_config("standard", models=["student"]).runs) == ["student", "transformer", "lstm"]
    assert load_config("standard").denoisers == {}
    assert load_config("standard", ["denoise.by=null", "denoise.doubt=0"], ["lstm"]).denoisers == {}
    # Words for all runs do not apply to the denoiser run; words with its name do.
    config = load_config("quick", ["model.hidden_size=64", "runs.transformer.pretrain.epochs=2"], ["lstm"])
    assert config.runs["lstm"].model.hidden_size == 64 and config.denoisers["transformer"].pretrain.epochs == 2
    assert "unknown key 'readers'" in error_of(load_config, "quick", ["readers.x=1"])


@pytest.mark.parametrize("word", ["denoise.by=[a]", "denoise.by={a: 1}", "train.teachers=[[a]]", "train.teachers=lstm"])
def test_names_of_runs_that_are_no_names(word):
    assert word.split("=")[0] in error_of(load_config, "sample", [word])  # said once for all runs


@pytest.mark.parametrize("value", ["[1]", "{encoder: [1]}", "null", "x"])
def test_an_encoder_that_is_none(value):
    assert "encoder" in error_of(load_config, "sample", [f"runs.lstm.model.encoder={value}", "model.layers=1"])


def test_numbers_have_bounds():
    """No number of the settings may be absurd: memory and time would be, too, and JSON has no infinity."""
    words = extreme_words()
    schema = Config.model_json_schema()["$defs"]
    for owner, part in schema.items():
        for name, one in part.get("properties", {}).items():
            for kind in one.get("anyOf", [one]):
                if kind.get("type") == "integer":
                    assert "maximum" in kind and ("minimum" in kind or "exclusiveMinimum" in kind), f"{owner}.{name}"
    numbers = [key for key, values in words.items() if any(value.isdecimal() for value in values)]
    assert len(numbers) > 100
    for key in ("data.max_len", "train.learning_rate", "train.noise.replacement", "shift.clip", "train.seeds"):
        for value in ("nan", "inf", "-inf", "1e999", "-1e30", "[nan]", "{}", "9" * 5000):
            assert key in error_of(load_config, "sample", [f"{key}={value}"])


def test_a_word_for_all_runs_reaches_those_that_have_the_key():
    runs = load_config("standard", ["task=icu", "model.pooling=mean"]).runs
    assert runs["gru"].model.pooling == "mean" and runs["boosting"].model.encoder == "boosting"
    told = error_of(load_config, "standard", ["task=icu", "model.poling=mean"])
    assert told.startswith("model.poling: ") and "'pooling'" in told and "\n" not in told, "one word, one sentence"
    assert "runs.linear.model.pooling" in error_of(
        load_config, "standard", ["task=icu", "model.pooling=mean"], ["linear"]
    )


def test_positives_are_weighted_where_there_are_classes():
    assert load_config("standard", ["task=icu", "train.pos_weight=balanced"]).runs["gru"].train.pos_weight == "balanced"
    assert "train.pos_weight" in error_of(load_config, "standard", ["task=los", "train.pos_weight=balanced"])


def test_an_error_of_several_runs_keeps_its_words():
    told = error_of(load_config, "sample", ["task=icu", "train.forecast_weight=1"])
    assert "train.forecast_weight" in told and "model.bidirectional=false" in told
