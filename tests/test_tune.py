"""./run.sh tune: trials are made by training's fold function, survive kills, and end in an ordinary preset."""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from src.__main__ import main
from src.core import storage
from src.core.settings_loader import load_config
from src.core.targets import Target
from src.data.synthetic import make_sample
from src.data.tasks import ROUND1, get_task
from src.ensemble.blending import Evidence
from src.evaluation.workspace import Workspace
from src.pipeline.stages import tune
from src.training.tracking import Tracking
from src.tuning import study
from src.tuning.search_spaces import Space, load_space
from tests.conftest import TINY, error_of, words
from tests.test_tracking import Kept
from tests.waiting import PATIENCE, wait_until

ROOT = Path(__file__).parents[1]
SPACE = """
train.learning_rate: {type: float, low: 0.003, high: 0.03, log: true}
train.attack: {type: categorical, choices: [none, fgm]}
train.attack_size: {type: float, low: 0.1, high: 1.0, log: true, when: {train.attack: fgm}}
model.spatial_dropout: {type: float, low: 0.0, high: 0.4}
"""


@pytest.fixture
def space(tmp_path) -> str:
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return str(path)


@pytest.fixture
def kept(monkeypatch) -> Kept:
    """Tracker of commands with track=mlflow, whether MLflow is installed or not."""
    kept = Kept()
    monkeypatch.setattr("src.training.tracking.check", lambda config: None)
    monkeypatch.setattr(
        "src.pipeline.stages.tune.tracking_of", lambda config: Tracking(None if config.track == "none" else kept)
    )
    return kept


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "trials.csv").open()))


def test_a_study_ends_in_a_preset_that_train_takes(tiny_input, tmp_path, space, capsys, kept):
    made = words(tiny_input, tmp_path, "train.epochs=4")
    search = ["tune", "lstm", "--trials", "5", "--jobs", "2", "--space", space, *made]
    assert main(search) == 0
    shown = capsys.readouterr().out
    folder = tmp_path / "tune/lstm"
    trials = table(folder)
    assert len(trials) == 5 and {trial["state"] for trial in trials} <= {"complete", "pruned"}
    assert "5 of 5" in shown
    assert not list((folder / "trials").iterdir()), "weights and logits of trials are not kept"
    (folder / "trials/0001").mkdir()  # as a kill leaves it, after the trial was told and before its files are gone
    assert main(search) == 0
    assert "all 5 trials are made" in capsys.readouterr().out
    assert not list((folder / "trials").iterdir())
    complete = sorted((-float(trial["score"]), trial) for trial in trials if trial["state"] == "complete")
    preset = yaml.safe_load((folder / "best.yaml").read_text())
    assert preset.keys() >= {"runs", "folds", "select_on"} and not preset.keys() & {"track", "track_uri", "paths"}
    best = preset["runs"]["lstm"]
    assert best["train"]["learning_rate"] == float(complete[0][1]["train.learning_rate"])
    assert best["model"]["hidden_size"] == 8 and best["train"]["batch_size"] == 32, "words are kept"
    assert (folder / "best.yaml").read_text() == (folder / "top/1.yaml").read_text()
    assert len(list((folder / "top").iterdir())) == min(len(complete), 5)
    assert (folder / "history.png").stat().st_size > 5000

    for _ in range(2):
        assert main([*search, "track=mlflow"]) == 0
        assert "all 5" in capsys.readouterr().out
    tracked = {(name.split(".")[0], value) for name, what, _, value in kept.points if what == "score"}
    assert tracked == {(f"tune_lstm/trial_{trial['trial']}", -score) for score, trial in complete}
    assert len(kept.points) == 3 * len(complete), "each figure once"
    assert {given["train.learning_rate"] for given in kept.settings.values()} == {
        float(trial["train.learning_rate"]) for _, trial in complete
    }
    assert main([*search[:3], "6", *search[4:], "train.epochs=3"]) == 2
    assert "study lstm" in capsys.readouterr().err

    # Trained by its preset, the run has the score that the study has.
    made = [word for word in made if "=" in word and not word.startswith(("train", "model", "runs"))]
    file = str(folder / "best.yaml")
    assert main(["train", "--preset", file, "--model", "lstm", *made]) == 0
    assert main(["leaderboard", "--preset", file, *made]) == 0
    board = json.loads((tmp_path / "runs/lstm/leaderboard.json").read_text())["tests"]["sample_testB.csv"]
    assert board["validations"]["shifted"]["value"] == pytest.approx(-complete[0][0], abs=1e-9)
    found = float(complete[0][1]["standard_error"])
    assert board["validations"]["shifted"]["standard_error"] == pytest.approx(found, rel=1e-6)

    # And is what any preset takes with tune.use.
    used = load_config("sample", [*made, "tune.use=true", "train.epochs=2"])
    assert used.tuned == {"lstm": Path(file)}
    assert used.runs["lstm"].train.learning_rate == best["train"]["learning_rate"]
    assert used.runs["lstm"].train.epochs == 2, "words lie over it"
    assert load_config("sample", made).runs["lstm"].train.learning_rate != best["train"]["learning_rate"]
    capsys.readouterr()
    assert main(["train", "--preset", "sample", "--model", "lstm", *made, "tune.use=true", "folds.k=2"]) == 0
    assert f"lstm: settings of {file}" in capsys.readouterr().out


@pytest.mark.slow
def test_trials_are_judged_on_noisy_copies(tmp_path, space):
    make_sample(tmp_path / "input", rows=2500, test_rows=1200, task=ROUND1, seed=3)
    made = [*TINY, f"paths.input={tmp_path / 'input'}", f"paths.output={tmp_path}", "train.epochs=1"]
    assert main(["tune", "lstm", "--trials", "1", "--space", space, *made]) == 0
    folder = tmp_path / "tune/lstm"
    made = [word for word in made if word.startswith(("paths", "executor", "folds"))]
    assert main(["train", "--preset", str(folder / "best.yaml"), "--model", "lstm", *made]) == 0
    assert np.load(tmp_path / "runs/lstm/copies_sample_testB.npy").shape[0] == 2
    assert main(["leaderboard", "--preset", str(folder / "best.yaml"), *made]) == 0
    board = json.loads((tmp_path / "runs/lstm/leaderboard.json").read_text())["tests"]["sample_testB.csv"]
    (trial,) = table(folder)
    assert trial["in_use"] == "true"
    assert board["validations"]["shifted"]["value"] == pytest.approx(float(trial["score"]), abs=1e-6)
    assert abs(board["validations"]["clean"]["value"] - float(trial["score"])) > 1e-4


@pytest.mark.slow
def test_two_machines_make_the_trials_of_one_study(postgres, tiny_input, tmp_path, space):
    """Two commands at once, each with an output folder of its own, and a third that finds all done."""

    def command(machine: str) -> list[str]:
        made = words(tiny_input, tmp_path / machine)
        search = ["tune", "lstm", "--trials", "4", "--jobs", "1", "--space", space, "--storage", postgres]
        return [sys.executable, "-m", "src", *search, *made]

    machines = ["here", "there"]
    running = [subprocess.Popen(command(machine), cwd=ROOT, stdout=subprocess.PIPE, text=True) for machine in machines]
    told = [process.communicate(timeout=PATIENCE)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], told
    again = subprocess.run(command("here"), cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "all 4" in again
    trials = table(tmp_path / "here/tune/lstm")
    assert [trial["trial"] for trial in trials] == ["0", "1", "2", "3"]
    assert {trial["state"] for trial in trials} <= {"complete", "pruned"}
    best = [(tmp_path / machine / "tune/lstm/best.yaml").read_text() for machine in machines]
    assert yaml.safe_load(best[0])["runs"]["lstm"]["train"]["learning_rate"] in [
        float(trial["train.learning_rate"]) for trial in trials
    ]
    assert not (tmp_path / "here/tune/lstm/study.db").exists(), "the database is the storage"


def test_trials_that_fail_are_told_and_end_a_hopeless_study(tiny_input, tmp_path, capsys):
    space = tmp_path / "space.yaml"
    space.write_text("model.heads: {type: int, low: 4, high: 5}")
    made = words(tiny_input, tmp_path, "train.learning_rate=1e30")
    assert main(["tune", "transformer", "--trials", "20", "--jobs", "1", "--space", str(space), *made]) == 2
    assert "model.heads" in capsys.readouterr().err
    space.write_text("train.weight_decay: {type: float, low: 0.01, high: 0.02}")
    assert main(["tune", "transformer", "--trials", "20", "--jobs", "1", "--space", str(space), *made]) == 2
    told = capsys.readouterr()
    assert "nan" in told.err or "inf" in told.err
    assert [trial["state"] for trial in table(tmp_path / "tune/transformer")] == ["fail"] * 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lstn"], "lstm"),
        (["lstm", "--trials", "0"], "--trials"),
        (["lstm", "--trials", "9" * 20], "--trials"),
        (["lstm", "--jobs", "100001"], "--jobs"),
        (["lstm", "--time", "30"], "such as 90s, 30m or 1h30m"),
        (["lstm", "--time", "30m1h"], "--time"),
        (["lstm", "--storage", "sqlite:///x.db"], "postgresql://"),
        (["lstm", "--name", "transformer"], "--name 'transformer'"),
        (["lstm", "--name", "../x"], "'../x' cannot be the name of a study (--name)"),
        (["lstm", "--model", "gru"], "--model gru"),
        (["blend", "--jobs", "2"], "--jobs"),
        (["lstm", "--preset", "/none.yaml"], "/none.yaml"),
    ],
)
def test_what_is_not_understood(tiny_input, tmp_path_factory, arguments, message, capsys):
    output = tmp_path_factory.getbasetemp() / "shared"
    made = [word for word in words(tiny_input, output) if "--preset" not in arguments or word not in TINY]
    assert main(["tune", *arguments, *made]) == 2
    assert message in capsys.readouterr().err


def test_a_url_of_a_database_that_is_none():
    assert "--storage is no URL" in error_of(study.shared_storage, "postgresql://a:b@c:port/x")


@pytest.mark.slow
def test_a_study_survives_five_kills(tiny_input, tmp_path, space):
    """No trial is lost, and none is left running."""
    made = ["--jobs", "2", "--space", space, *words(tiny_input, tmp_path, "train.epochs=8")]
    command = [sys.executable, "-m", "src", "tune", "lstm", "--trials", "24", *made]
    assert main(["shift", *words(tiny_input, tmp_path)]) == 0
    draw = random.Random(5)
    log = (tmp_path / "log").open("w")

    def written() -> int:
        records = tmp_path / "tune/lstm/study.db-wal"
        return records.stat().st_mtime_ns if records.exists() else 0

    for _ in range(5):
        process = subprocess.Popen(command, start_new_session=True, stdout=log, stderr=log, cwd=ROOT)
        before = written()
        wait_until(lambda n=before, p=process: p.poll() is not None or written() > n)
        time.sleep(draw.uniform(0, 4))
        process.kill()  # on a fast machine the last command may have ended by then
        process.wait()
    assert subprocess.run(command, stdout=log, stderr=log, cwd=ROOT).returncode == 0
    trials = table(tmp_path / "tune/lstm")
    assert [int(trial["trial"]) for trial in trials] == list(range(24))
    assert {trial["state"] for trial in trials} <= {"complete", "pruned"}
    assert "tune: continues trials" in (tmp_path / "log").read_text()


def test_a_worse_trial_does_not_take_the_place_of_the_run_in_use(copy, tiny_input, tmp_path, capsys):
    """The run is the first trial, without being trained again, and is kept."""
    space, made = tmp_path / "bad.yaml", words(tiny_input, copy)
    space.write_text("train.learning_rate: {type: float, low: 1.0e-6, high: 2.0e-6}")
    assert main(["tune", "lstm", "--trials", "2", "--jobs", "1", "--space", str(space), *made]) == 0
    told = capsys.readouterr().out
    now, found = table(copy / "tune/lstm")
    board = json.loads((copy / "runs/lstm/leaderboard.json").read_text())["tests"]["sample_testB.csv"]
    assert float(now["score"]) == pytest.approx(board["validations"]["shifted"]["value"], abs=1e-9)
    assert (now["in_use"], found["in_use"]) == ("true", "false")
    gain, error = float(found["gain"]), float(found["gain_standard_error"])
    assert gain == pytest.approx(float(found["score"]) - float(now["score"]), abs=1e-9) and gain < -error
    assert 0 < error < np.hypot(float(found["standard_error"]), float(now["standard_error"])), "paired"
    assert "keep what you have" in told and "to use" not in told and f"{gain:+.4f}" in told
    assert "run lstm as it is" in told

    # What uses the study goes on as before.
    capsys.readouterr()
    assert main(["train", "--model", "lstm", *made, "tune.use=true"]) == 0
    assert "all 2 folds are up to date" in capsys.readouterr().out


def test_the_run_in_use_is_a_trial_without_training_even_when_the_time_is_over(copy, tiny_input, space, monkeypatch):
    """A command is killed right after it began the trial; the next one has no time to train anything."""
    config = load_config("sample", [word for word in words(tiny_input, copy) if "=" in word])

    def killed(*_args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(tune, "figure_of_run", killed)
        with pytest.raises(KeyboardInterrupt):
            tune.run(Workspace(config), "lstm", study.Options(2, spaces=(space,)))
    tune.run(Workspace(config), "lstm", study.Options(2, deadline=0.0, spaces=(space,)))
    (now,) = table(copy / "tune/lstm")
    board = json.loads((copy / "runs/lstm/leaderboard.json").read_text())["tests"]["sample_testB.csv"]
    assert (now["state"], now["in_use"]) == ("complete", "true")
    assert float(now["score"]) == pytest.approx(board["validations"]["shifted"]["value"], abs=1e-9)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_blend_of_fewer_trials_than_choices_does_not_take_the_place_of_a_better_one(copy, tiny_input, seed, capsys):
    made = words(tiny_input, copy, f"tune.seed={seed}")
    before = json.loads((copy / "runs/blend/leaderboard.json").read_text())["tests"]["sample_testB.csv"]["validations"]
    assert main(["tune", "blend", "--trials", "2", *made]) == 0
    now, found = table(copy / "tune/blend")
    assert float(now["score"]) == pytest.approx(before["shifted"]["value"], abs=1e-6)
    told = capsys.readouterr().out
    is_better = found["state"] == "complete" and float(found["gain"]) > float(found["gain_standard_error"])
    assert ("to use" in told, "keep what you have" in told) == (is_better, not is_better)
    assert main(["blend", *made, "tune.use=true"]) == main(["leaderboard", *made, "tune.use=true"]) == 0
    after = json.loads((copy / "runs/blend/leaderboard.json").read_text())["tests"]["sample_testB.csv"]["validations"]
    assert after["shifted"]["value"] >= before["shifted"]["value"] - 1e-9


def test_weights_that_are_given_leave_a_study_of_the_blend_nothing(copy, tiny_input, capsys):
    fixed = ["blend.fixed.lstm=1", "blend.fixed.transformer=0"]
    assert main(["tune", "blend", "--trials", "2", *words(tiny_input, copy, *fixed)]) == 2
    assert "leave it out, or blend.fixed={}" in capsys.readouterr().err
    assert main(["tune", "blend", "--trials", "2", *words(tiny_input, copy, *fixed, "blend.fixed={}")]) == 0


def test_a_study_is_of_its_rows_its_domains_and_its_average(copy, tiny_input, tmp_path):
    """Scores of trials depend on these too: another study is refused."""
    machine = SimpleNamespace(device="cpu", precision=lambda wanted: wanted)
    weights = tmp_path / "weights.csv"
    first = Workspace(load_config("sample", settings_of(words(tiny_input, copy)))).dataset.train.ids[0].decode()

    def inputs(*more: str) -> str:
        assert main(["folds", *words(tiny_input, copy, *more)]) == 0
        workspace = Workspace(load_config("sample", settings_of(words(tiny_input, copy, *more))))
        return json.dumps(tune._run_inputs(workspace, machine, "lstm", Space({})), sort_keys=True)

    plain = inputs()
    assert inputs() == plain
    weighted = []
    for weight in (3, 4):
        weights.write_text(f"{first},{weight}\n")
        weighted.append(inputs(f"paths.weights={weights}"))
    assert len({plain, *weighted}) == 3
    assert inputs("average=probabilities") != plain
    by_domain = ["runs.lstm.train.regime=groupdro", "domains.by=clusters"]
    assert inputs(*by_domain, "domains.k=2") != inputs(*by_domain, "domains.k=3")


def settings_of(command: list[str]) -> list[str]:
    return [word for word in command if "=" in word]


def test_a_federation_with_personal_parts_is_tuned(tiny_input, tmp_path, capsys):
    """Its rounds have no validation loss but the last."""
    (tmp_path / "space.yaml").write_text("model.head_dropout: {type: float, low: 0.0, high: 0.2}\n")
    more = [
        "runs.lstm.train.regime=fedavg", "runs.lstm.regime.personal=[head]", "domains.by=clusters", "domains.k=2",
        "select_on=clean", "executor.workers=1",
    ]  # fmt: skip
    command = ["tune", "lstm", "--space", str(tmp_path / "space.yaml"), "--trials", "1"]
    assert main([*command, *words(tiny_input, tmp_path / "output", *more)]) == 0
    assert "FAILED" not in capsys.readouterr().out


def test_methods_that_cannot_be_compared_are_not_searched(capsys):
    """Days have no temperature, and of a single report nothing can be cross-fitted."""
    space = load_space(["blend"], ["blend"])
    many = Evidence.of([np.zeros((4, 1))], np.zeros((4, 1)), np.arange(4) % 2)
    found = {
        (task, rows): tune.comparable(get_task(task), evidence, space).dimensions["blend.method"].choices
        for task in ("round1", "los")
        for rows, evidence in (("many", many), ("one", many.only(np.array([0]))))
    }
    assert found["round1", "many"] == ["mean", "temperature", "weights", "greedy"]
    assert found["los", "many"] == ["mean", "weights", "greedy"]
    assert found["round1", "one"] == found["los", "one"] == ["mean"]
    assert "temperature is not searched: days" in capsys.readouterr().out


def test_what_the_command_line_chooses_is_not_searched(tiny_input, copy, space, capsys):
    made = words(tiny_input, copy, "train.attack=fgm", "runs.lstm.train.learning_rate=0.01")
    assert main(["tune", "lstm", "--trials", "2", "--space", space, *made]) == 0
    assert "not searched: train.learning_rate, train.attack\n" in capsys.readouterr().out
    trials, best = table(copy / "tune/lstm"), yaml.safe_load((copy / "tune/lstm/best.yaml").read_text())
    assert {key for key in trials[0] if "." in key} == {"train.attack_size", "model.spatial_dropout"}
    assert best["runs"]["lstm"]["train"]["attack"] == "fgm" and best["runs"]["lstm"]["train"]["learning_rate"] == 0.01
    every = ["train={attack: fgm}", "model.spatial_dropout=0.1"]
    assert main(["tune", "lstm", "--trials", "3", "--space", space, *made, *every]) == 2
    assert "chooses every setting" in capsys.readouterr().err


def test_members_that_the_command_line_chooses_are_not_searched(copy, tiny_input, capsys):
    made = words(tiny_input, copy)
    assert main(["tune", "blend", "--trials", "2", *made, "blend.members=[lstm]"]) == 0
    (_, trial), best = table(copy / "tune/blend"), yaml.safe_load((copy / "tune/blend/best.yaml").read_text())
    assert "member.lstm" not in trial and best["blend"]["members"] == ["lstm"]
    assert main(["tune", "blend", "--trials", "2", "--name", "b", *made, "blend.method=mean"]) == 0
    assert "not searched: blend.method\n" in capsys.readouterr().out
    (_, trial) = table(copy / "tune/b")
    assert "member.lstm" in trial and "blend.method" not in trial
    assert main(["tune", "blend", *made, "blend={members: [lstm], method: mean}"]) == 2
    assert "chooses every setting" in capsys.readouterr().err


def test_a_study_of_the_blend(copy, tiny_input, capsys, kept):
    made = words(tiny_input, copy)
    assert main(["tune", "blend", "--trials", "12", *made, "track=mlflow"]) == 0
    trials = table(copy / "tune/blend")
    assert len(trials) == 12
    without = [
        trial
        for trial in trials[1:]
        if not json.loads(trial["member.lstm"]) and not json.loads(trial["member.transformer"])
    ]
    assert all(trial["state"] == ("fail" if trial in without else "complete") for trial in trials)
    best = yaml.safe_load((copy / "tune/blend/best.yaml").read_text())
    assert set(best["runs"]) == {"lstm", "transformer"} and set(best["blend"]["members"]) <= set(best["runs"])
    score = max(float(trial["score"]) for trial in trials if trial["state"] == "complete")
    assert f"{score:.4f}" in capsys.readouterr().out
    assert len(kept.finished) == len(trials) - len(without)

    # The pipeline's blend takes it up, and has the score that the study has.
    assert main(["blend", *made, "tune.use=true"]) == 0
    assert "blend: settings of" in capsys.readouterr().out
    assert main(["leaderboard", *made, "tune.use=true"]) == 0
    board = json.loads((copy / "runs/blend/leaderboard.json").read_text())["tests"]["sample_testB.csv"]
    assert board["validations"]["shifted"]["value"] == pytest.approx(score, abs=1e-6)


def test_a_killed_trial_of_a_blend_is_finished_where_fewer_trials_are_asked_for(copy, tiny_input, monkeypatch):
    made = words(tiny_input, copy)
    assert main(["tune", "blend", "--trials", "2", *made]) == 0

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(tune, "_blend_figure", killed)
        assert main(["tune", "blend", "--trials", "20", *made]) == 130
    counts, running = study.counted(copy / "tune/blend")
    finished = sum(counts.values())
    assert running == 1 and finished < 20
    assert main(["tune", "blend", "--trials", "2", *made]) == 0
    counts, running = study.counted(copy / "tune/blend")
    assert running == 0 and sum(counts.values()) == finished + 1


def test_tuned_settings_are_looked_for_where_the_preset_has_its_output(tmp_path):
    preset, elsewhere = tmp_path / "mine.yaml", tmp_path / "elsewhere"
    preset.write_text(f"runs: {{lstm: {{}}}}\npaths: {{output: {tmp_path / 'output'}}}\ntune: {{use: true}}")
    for output, epochs in ((tmp_path / "output", 3), (elsewhere, 4)):
        (output / "tune/lstm").mkdir(parents=True)
        best = load_config("sample", [f"train.epochs={epochs}"], ["lstm"]).runs["lstm"].model_dump(mode="json")
        (output / "tune/lstm/best.yaml").write_text(yaml.safe_dump({"runs": {"lstm": best}}))
    found = load_config(str(preset))
    assert found.tuned == {"lstm": tmp_path / "output/tune/lstm/best.yaml"}
    assert found.runs["lstm"].train.epochs == 3
    assert load_config(str(preset), [f"paths.output={elsewhere}"]).runs["lstm"].train.epochs == 4
    assert load_config(str(preset), [f"paths={{output: {elsewhere}}}"]).runs["lstm"].train.epochs == 4
    assert load_config(str(preset), ["tune.use=false"]).tuned == {}
    assert "tune.use" in error_of(load_config, str(preset), ["tune.use=perhaps"])


@pytest.mark.slow
def test_a_taught_run_is_tuned_beside_its_teachers(tiny_input, tmp_path, space, capsys):
    made = words(tiny_input, tmp_path, "runs.lstm.train.teachers=[transformer]", "tune.objectives=[score,seconds]")
    assert main(["tune", "lstm", "--trials", "2", "--jobs", "1", "--space", space, *made]) == 0
    trials = table(tmp_path / "tune/lstm")
    assert [trial["state"] for trial in trials] == ["complete", "complete"], "with two objectives none is given up"
    assert len(list((tmp_path / "runs/transformer").glob("fold_*"))) == 2, "teachers are those that were trained"
    best = yaml.safe_load((tmp_path / "tune/lstm/best.yaml").read_text())["runs"]
    assert set(best) == {"lstm", "transformer"} and best["lstm"]["train"]["teachers"] == ["transformer"]
    assert (tmp_path / "tune/lstm/pareto.png").exists()
    assert "transformer" in capsys.readouterr().out


def test_settings_that_folds_refuse_fail_their_trial(tiny_input, tmp_path, capsys):
    space = tmp_path / "space.yaml"
    space.write_text("train.target_weight: {type: categorical, choices: [0.0, 0.5]}")
    made = words(tiny_input, tmp_path, "folds.scheme=holdout", "tune.sampler=random")
    assert main(["tune", "lstm", "--trials", "6", "--jobs", "1", "--space", str(space), *made]) == 0
    states = {trial["train.target_weight"]: trial["state"] for trial in table(tmp_path / "tune/lstm")}
    assert states == {"0.0": "complete", "0.5": "fail"}


@pytest.mark.parametrize("damaged", ["trials.csv", "best.yaml", "study.json"])
def test_a_damaged_file_of_a_study_is_named(damaged, copy, tiny_input, capsys):
    made, folder = words(tiny_input, copy), copy / "tune/lstm"
    storage.write_text(folder / "trials.csv", "trial,state,score,standard_error,seconds\n0,complete,0.7,0.1,3\n")
    lstm = load_config("sample", [], ["lstm"]).runs["lstm"].model_dump(mode="json")
    storage.write_text(folder / "best.yaml", yaml.safe_dump({"runs": {"lstm": lstm}}))
    files = (folder / "trials.csv", folder / "best.yaml")
    Target("lstm", folder / "study.json", None, files).write({})
    assert main(["config", "tune.use=true", *made]) == 0
    path = folder / damaged
    path.write_text(path.read_text().replace("7", "8").replace("0", "1"))
    capsys.readouterr()
    assert main(["config", "tune.use=true", *made]) == 2
    told = capsys.readouterr().err
    assert f"{path} is damaged" in told and "./run.sh tune lstm --preset sample" in told and "tune.use" not in told
    if damaged == "trials.csv":
        assert main(["report", *made]) == 0
        assert f"study lstm is left out: {path} is damaged" in capsys.readouterr().err
