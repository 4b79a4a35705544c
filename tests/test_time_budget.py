"""./run.sh --time: a submission in time, from what fits; no run is lost, and the same command goes on."""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src.__main__ import main
from src.core import storage
from src.core.errors import OutOfTime, UserError
from src.core.executors import Failure, LocalProcesses
from src.core.settings_loader import as_preset, load_config, run_from_yaml
from src.data.tasks import ROUND2
from src.evaluation.workspace import Workspace
from src.pipeline import time_budget, time_limit
from src.pipeline.pace import Pace
from src.pipeline.time_budget import Plan, Step, TimeBudget
from src.pipeline.time_limit import seconds_of
from src.training import device_cache
from src.training.device_cache import Machine
from tests.conftest import TINY, error_of, words
from tests.test_executors import Recorder, job
from tests.waiting import PATIENCE, wait_until

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("1h30m", 5400)])
def test_times_are_read(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "-5m", "5 m", "30m1h", "5m5m", "0s", "1e3m", "5d", "9" * 30 + "m"])
def test_other_texts_are_no_times(text):
    with pytest.raises(argparse.ArgumentTypeError, match="such as 90s, 30m or 1h30m"):
        seconds_of(text)


def test_a_preset_is_trained_submitted_and_given_seeds(copy, tiny_input, monkeypatch, capsys):
    """Finished runs are submitted first. Each run gets a further seed, and one command makes the same again."""
    monkeypatch.setattr(time_budget, "MOST_SEEDS", 2)
    made = words(tiny_input, copy, "--time", "1000h")
    before = (copy / "runs/transformer/score.json").read_bytes()
    assert main(made) == 0
    told = capsys.readouterr().out
    steps = [line.split()[0] for line in told[told.index("Within") :].splitlines()[2:] if line.strip()][:3]
    assert steps == ["what", "lstm,", "transformer,"], "best members first, each with a second seed"
    for name in ("lstm", "transformer"):
        assert run_from_yaml(copy / "runs" / name / "config.yaml").train.seeds == [1, 2]
        assert len(list((copy / "runs" / name).glob("fold_*"))) == 4
    assert (copy / "runs/transformer/score.json").read_bytes() != before
    assert "not made" not in told
    assert not (copy / "time/probes").exists() and not (copy / "runs/first").exists()

    # The noted preset is all of it: nothing is missing, and nothing else is there.
    plan = str(copy / "time/plan.yaml")
    paths = [word for word in made if word.startswith(("paths.", "executor."))]
    assert main(["status", "--json", "--preset", plan, *paths]) == 0, capsys.readouterr()
    stages = {(one["stage"], one["name"]): one["state"] for one in json.loads(capsys.readouterr().out)["stages"]}
    assert {
        stages[stage] for stage in (("train", "lstm"), ("train", "transformer"), ("blend", ""), ("submit", ""))
    } == {"done"}
    settings = load_config(plan, paths)
    assert settings.blend.members == ["lstm", "transformer"] and settings.folds.k == 2

    # The same command trains nothing again.
    assert main(made) == 0
    again = capsys.readouterr().out
    assert "what was finished" in again and "seed 2" not in again and "folds to train" not in again


@pytest.mark.slow
def test_a_first_run_comes_where_nothing_is_finished(tiny_input, tmp_path, monkeypatch, capsys):
    """Its submission is there before the preset's runs; it is no member of their blend."""
    monkeypatch.setattr(time_budget, "MOST_SEEDS", 1)
    submitted = []
    monkeypatch.setattr(
        TimeBudget,
        "_submit",
        lambda self, name, *rest, submit=TimeBudget._submit: (
            submit(self, name, *rest),
            submitted.append((name, len(list(tmp_path.glob("submission_*.csv"))), self._members(self.finished))),
        ),
    )
    assert main(words(tiny_input, tmp_path, "--time", "1000h", "runs.transformer.train.epochs=1")) == 0
    assert submitted == [("first", 2, ["first"]), ("lstm", 2, ["lstm"]), ("transformer", 2, ["lstm", "transformer"])]
    assert "preset sample with 2 folds is chosen" in capsys.readouterr().out
    assert json.loads((tmp_path / "runs/blend/run.json").read_text())["members"].keys() == {"lstm", "transformer"}


def test_a_time_that_is_too_short_is_told(copy, tiny_input, monkeypatch, capsys):
    monkeypatch.setattr(time_limit, "LEAST", 0)
    shutil.rmtree(copy / "runs")
    for path in copy.glob("submission_*"):
        path.unlink()
    assert main(words(tiny_input, copy, "--time", "0.001s")) == 2  # no machine trains anything in a millisecond
    told = capsys.readouterr().err
    assert "too short for a submission" in told and "goes on from there" in told
    assert not list(copy.glob("submission_*"))


def test_options_that_contradict_each_other(tiny_input, tmp_path, capsys):
    assert main(words(tiny_input, tmp_path, "--time", "5m", "--model", "lstm")) == 2
    assert "leave --model out" in capsys.readouterr().err


def budget_of(copy: Path, tiny_input: Path, *more: str) -> TimeBudget:
    """A time budget on a finished pipeline, with speeds of 1 ms for a row and epoch."""
    settings = load_config("sample", [f"paths.input={tiny_input}", f"paths.output={copy}", *more])
    found = TimeBudget(Workspace(settings), 3600.0, is_free=True)
    found.here = device_cache.recall_or_find(found.workspace)
    found.pace = Pace(found.workspace, found.here)
    return found


def slow(monkeypatch, seconds: float) -> None:
    monkeypatch.setattr(Pace, "measure", lambda self, settings: 0.0)
    monkeypatch.setattr(Pace, "of", lambda self, run: seconds)


def test_the_dearest_preset_that_fits_is_chosen(copy, tiny_input, monkeypatch):
    """Plans follow from the speed of the machine, and in a new folder with the preset's own folds or fewer."""
    (copy / "folds.json").unlink()
    chosen = {}
    for speed in (1e-6, 3e-3, 2e-1, 1e3):
        slow(monkeypatch, speed)
        plan = budget_of(copy, tiny_input)._choose()
        chosen[speed] = plan.preset
        assert plan.seconds < 3600 or speed == 1e3
    assert chosen[1e-6] == "full" and chosen[1e3] == "sample"
    ranks = [time_budget.LADDER.index(preset) for preset in chosen.values()]
    assert ranks == sorted(ranks, reverse=True) and len(set(ranks)) > 2, "the slower, the cheaper"
    assert budget_of(copy, tiny_input)._choose().settings.folds.k == 2


def test_round_2_has_presets_of_its_own_to_choose_from(copy, tiny_input, monkeypatch):
    (copy / "folds.json").unlink()
    settings = load_config("round2", [f"paths.input={tiny_input}", f"paths.output={copy}"])
    budget = TimeBudget(Workspace(settings), 3600.0, is_free=True)
    monkeypatch.setattr(Workspace, "task", ROUND2)
    plans = [(plan.preset, plan.settings.folds.k) for plans in budget._candidates() for plan in plans]
    assert plans == [("round2-quick", 2), ("round2-quick", 4), ("round2", 5)]


def test_folds_that_are_there_are_kept(copy, tiny_input, monkeypatch):
    slow(monkeypatch, 1e-6)
    budget = budget_of(copy, tiny_input)
    assert {plan.settings.folds.k for plans in budget._candidates() for plan in plans} == {2}
    assert budget._choose().settings.folds.k == 2


def test_finished_runs_of_other_settings_keep_their_names(copy, tiny_input, monkeypatch):
    """The new runs get the preset's name; runs of the same settings are taken with all seeds that they have."""
    budget = budget_of(copy, tiny_input, *[word for word in TINY if "=" in word])
    same = budget._named(Plan("sample", budget.workspace.settings)).settings
    assert list(same.runs) == ["lstm", "transformer"]
    other = load_config("quick", budget.workspace.settings.overrides)
    named = budget._named(Plan("quick", other)).settings
    assert set(named.runs) == {"transformer_quick", "lstm_quick"} == set(named.blend.members)
    assert named.runs["lstm_quick"].denoise.by == "transformer_quick"
    taught = load_config("standard", budget.workspace.settings.overrides)
    named = budget._named(Plan("standard", taught)).settings
    assert named.runs["student"].train.teachers == ["transformer_standard", "lstm_standard"]
    assert named.blend.members == ["student", "lstm_student"]

    lstm = budget._made_of("lstm")
    more = lstm.model_copy(update={"train": lstm.train.model_copy(update={"seeds": [1, 2]})})
    monkeypatch.setattr(TimeBudget, "_made_of", lambda self, name: more if name == "lstm" else None)
    named = budget._named(Plan("sample", budget.workspace.settings)).settings
    assert list(named.runs) == ["lstm", "transformer_sample"] and named.runs["lstm"].train.seeds == [1, 2]


def test_no_finished_run_of_other_settings_is_replaced(copy, tiny_input, monkeypatch):
    """Further names are numbered; an imported run, of which no settings are known, is kept too."""
    budget = budget_of(copy, tiny_input, *[word for word in TINY if "=" in word])
    settings = budget.workspace.settings
    settings = settings.model_copy(update={"runs": {"lstm": settings.runs["lstm"]}, "denoisers": {}})
    settings = settings.model_copy(update={"blend": settings.blend.model_copy(update={"members": ["lstm"]})})
    other = settings.runs["lstm"].model_copy(
        update={"train": settings.runs["lstm"].train.model_copy(update={"epochs": 7})}
    )
    made: dict[str, object] = {"lstm": other, "lstm_sample": None, "lstm_sample_2": other, "first": other}
    for name in made:
        (copy / "runs" / name).mkdir(exist_ok=True)
        (copy / "runs" / name / "run.json").touch()
    monkeypatch.setattr(TimeBudget, "_made_of", lambda self, name: made[name])
    named = budget._named(Plan("sample", settings)).settings
    assert list(named.runs) == ["lstm_sample_3"] == named.blend.members
    made["lstm"] = other.model_copy(update={"train": settings.runs["lstm"].train.model_copy(update={"seeds": [5]})})
    assert list(budget._named(Plan("sample", settings)).settings.runs) == ["lstm_sample_3"], "nor one of another seed"

    # Nor is one that has the name of the first run taken for it, unless it is that.
    slow(monkeypatch, 1e-3)
    budget.plan = Plan("sample", settings)
    (name, run), *_ = budget._first()
    assert name == "first_sample" and run.train.epochs < 7
    made["first"] = run
    assert next(budget._first()) == ("first", run)


REPORTS, UNLABELLED = 10_000, 8_000
"""Reports of the simulated machine: with labels, and without."""


class Simulated(TimeBudget):
    """A command whose training only lets a clock run, by a cost of its own: not that by which Pace predicts."""

    clock, trained = 0.0, frozenset()
    draw = random.Random(0)

    def monotonic(self) -> float:
        return self.clock

    def cost(self, settings, names) -> dict[str, float]:
        """Seconds on two cores: starts take longer than Pace expects, a pass less, and reading other text is dear."""
        lacking, jobs = self._missing(settings)
        runs = {**settings.denoisers, **settings.runs}
        read = [runs[name].pretrain.epochs * self.pace.of(runs[name]) for name in lacking]
        train = 0.0
        for name in names:
            run = settings.runs[name]
            rows = 0.8 * REPORTS + (UNLABELLED if run.train.teachers else 0)
            fold = 2.5 + self.pace.of(run) * (0.9 * run.train.epochs * rows + 40_000)
            train += math.ceil(jobs[name] / 2) * fold
        return {"pretrain": 1.2 * sum(read) * (REPORTS + UNLABELLED), "train": train}

    def _make(self, workspace, *stages: str) -> None:
        fixed = {"prepare": 1.0, "shift": 13.0, "blend": 2.0, "submit": 0.5, "leaderboard": 6.0, "report": 5.0}
        for name in stages:
            needed = self.needed.get(name, 0.0) * self.draw.uniform(0.9, 1.15) + fixed.get(name, 0.0)
            if name in self.needed and self.clock + needed > workspace.deadline:
                self.clock = workspace.deadline
                raise OutOfTime
            self.clock, self.last[name] = self.clock + needed, needed

    def _missing(self, settings):
        names = {*settings.runs, *settings.denoisers} - self.trained
        new = {
            name: run.train.seeds[len(self.finished[name].train.seeds) if name in self.finished else 0 :]
            for name, run in settings.runs.items()
        }
        return names, {name: settings.folds.k * len(seeds) for name, seeds in new.items()}

    def _train(self, name, run) -> None:
        settings = self._settings({**self.finished, name: run})
        self.needed = self.cost(settings, {name: run})
        super()._train(name, run)
        self.trained |= {*settings.runs, *settings.denoisers}

    def _submit(self, name, predicted, seconds) -> None:
        self._make(self.workspace, "blend", "submit")
        self.steps.append(Step(name, predicted, seconds, self.clock, ""))

    def _folds(self, own, is_fixed):
        return [self.workspace.settings.folds] if self.pace.has_validation_sets else super()._folds(own, is_fixed)

    def _find_finished(self) -> None:
        pass

    def _make_in_time(self, workspace, stage, reserve) -> None:
        seconds = {"leaderboard": 6.0, "explain": 40.0, "report": 5.0}[stage]
        self.clock += min(seconds, max(0.0, self.left - reserve))

    def _close(self) -> None:
        self._make_last(self.workspace)


@pytest.mark.parametrize("speed", [0.7e-3, 2e-3])
@pytest.mark.parametrize("minutes", [5, 15, 45])
def test_the_time_is_used_and_never_exceeded(copy, tiny_input, monkeypatch, minutes, speed):
    """On 10,000 reports, whatever the speed, and where steps take up to a third longer or shorter than predicted, what
    is left is too short for a further step."""
    (copy / "folds.json").unlink()

    def of(self, run) -> float:
        size = getattr(run.model, "layers", 1) * (run.model.embedding_size / 128) ** 1.5
        return speed * size * (2 if run.train.attack != "none" else 1) * (1 + run.train.join)

    monkeypatch.setattr(Pace, "of", of)
    monkeypatch.setattr(Pace, "measure", lambda self, settings: 2000 * speed)
    monkeypatch.setattr(Pace, "_copies", lambda self: 4.0)
    monkeypatch.setattr(time_budget.device_cache, "find", lambda *_: Machine("cpu", "fp32"))
    settings = load_config("standard", [f"paths.input={tiny_input}", f"paths.output={copy}"])
    for seed in range(3):
        budget = Simulated(Workspace(settings), 60.0 * minutes, is_free=True)
        budget.draw, budget.needed = random.Random(seed), {}
        monkeypatch.setattr(time_budget, "time", budget)
        monkeypatch.setattr("src.core.terminal.started", lambda: 0.0)
        made = Pace(budget.workspace, Machine("cpu", "fp32"))
        made._rows, made._unlabelled, made._tests = REPORTS, UNLABELLED, [3_000, 5_000]
        monkeypatch.setattr(time_budget, "Pace", lambda *_, made=made: made)
        budget.run()
        assert 0 <= budget.seconds - budget.clock < min(step.predicted for step in budget.steps[1:])
        assert budget.steps[0].at < 0.35 * budget.seconds and len(budget.steps) > 1


def test_what_an_earlier_command_trained_stays_in_the_blend_until_the_presets_runs_are_there(copy, tiny_input):
    """Such as runs with fewer epochs, of a command that had less time."""
    budget = budget_of(copy, tiny_input, *[word for word in TINY if "=" in word])
    budget.plan = budget._named(Plan("sample", budget.workspace.settings))
    budget.pace.has_validation_sets = True
    short = {"lstm_short": budget.plan.settings.runs["lstm"]}
    budget._find_finished()
    assert budget.finished.keys() == {"lstm", "transformer"} and not budget.earlier
    noted = as_preset(budget._settings({"transformer": budget.finished["transformer"]}), set())
    storage.write_text(budget._file, noted)
    budget._find_finished()
    assert budget.earlier.keys() == {"transformer"} and budget.earlier_members == ["transformer"]
    budget.finished, budget.earlier, budget.earlier_members = {}, short, ["lstm_short"]
    lstm, transformer = budget.plan.settings.runs.values()
    assert budget._members({**short}) == ["lstm_short"]
    assert budget._members({**short, "lstm": lstm}) == ["lstm", "lstm_short"]
    assert budget._members({**short, "lstm": lstm, "transformer": transformer}) == ["lstm", "transformer"]
    assert budget._settings({"lstm": lstm}).runs.keys() == {"lstm_short", "lstm"}


def test_runs_of_an_earlier_command_with_another_preset_are_measured(copy, tiny_input):
    """They are members of the blend, and get further seeds."""
    budget = budget_of(copy, tiny_input, *[word for word in TINY if "=" in word])
    budget.pace.has_validation_sets = True
    budget.plan = Plan("sample", budget.workspace.settings)
    storage.write_text(budget._file, as_preset(budget.plan.settings, set()))
    other = budget.plan.settings.runs["lstm"]
    other = other.model_copy(update={"model": other.model.model_copy(update={"embedding_size": 12})})
    budget.plan = Plan("quick", budget.plan.settings.model_copy(update={"runs": {"lstm_quick": other}}))
    budget.failed = {"lstm_quick"}
    budget._find_finished()
    assert budget.earlier.keys() == {"lstm", "transformer"} and not budget.finished
    name, run = budget._next_move()
    assert name in budget.earlier and run.train.seeds == [1, 2]


def test_explanations_leave_the_page_its_time(copy, tiny_input, monkeypatch):
    """They may take all of what is left but for the page; expected scores and page may take all."""
    reserves = {}
    monkeypatch.setattr(
        TimeBudget, "_make_in_time", lambda self, workspace, stage, reserve: reserves.update({stage: reserve})
    )
    budget = budget_of(copy, tiny_input)
    budget.last = dict.fromkeys(("blend", "submit", "leaderboard"), 1.0) | {"report": 50.0}
    budget._make_last(budget.workspace)
    assert list(reserves) == ["leaderboard", "explain", "report"]
    assert reserves["explain"] > 1.2 * 50 and reserves["leaderboard"] == reserves["report"] == 0


@pytest.mark.parametrize(("fitting", "chosen"), [(0, 2), (2, 2), (5, 5), (99_999, 99_999), (10**6, 100_000)])
def test_a_first_run_has_as_many_epochs_as_fit(copy, tiny_input, monkeypatch, fitting, chosen):
    budget = budget_of(copy, tiny_input, "runs.lstm.train.epochs=100000", "runs.transformer.train.epochs=100000")
    budget.plan = Plan("sample", budget.workspace.settings)
    slow(monkeypatch, 1e-3)
    limit, calls = time_budget.FIRST_SHARE * budget.seconds, []

    def seconds(_self, run):
        calls.append(run)
        return 0 if run.train.epochs <= fitting else 2 * limit

    monkeypatch.setattr(TimeBudget, "_first_seconds", seconds)
    (_name, run), *_ = budget._first()
    assert run.train.epochs == chosen
    assert len(calls) < 100


def test_a_run_is_not_trained_again_with_as_many_epochs_or_fewer(copy, tiny_input, monkeypatch):
    """A command that is repeated gives the shorter run of before a further seed, or trains a longer one."""
    budget = budget_of(copy, tiny_input, *[word for word in TINY if "=" in word], "runs.lstm.train.epochs=10")
    budget.pace.has_validation_sets = True
    slow(monkeypatch, 1e-3)
    lstm = budget.workspace.settings.runs["lstm"]
    settings = budget.workspace.settings.model_copy(update={"runs": {"lstm_2": lstm}, "denoisers": {}})
    budget.plan = Plan(
        "sample", settings.model_copy(update={"blend": settings.blend.model_copy(update={"members": ["lstm_2"]})})
    )
    budget.earlier = {"lstm": time_budget._for(lstm, 7)}
    budget.earlier_members = ["lstm"]
    for most, move in ((10, ("lstm_2", 10, [1])), (8, ("lstm", 7, [1, 2])), (5, None)):
        monkeypatch.setattr(TimeBudget, "_fits", lambda self, name, run, margin, most=most: run.train.epochs <= most)
        found = budget._next_move()
        assert (found and (found[0], found[1].train.epochs, found[1].train.seeds)) == move


def test_a_run_that_cannot_be_trained_ends_no_command(copy, tiny_input, monkeypatch, capsys):
    """The next cheapest gives the first submission, and no preset with the run fits."""
    settings = load_config("sample", [*budget_of(copy, tiny_input).workspace.settings.overrides, "executor.workers=1"])
    run = LocalProcesses.run
    lstm = settings.runs["lstm"].model.model_dump(mode="json")

    def failing(self, jobs, watcher):
        bad = [one for one in jobs if one.payload["run"]["model"] == lstm]
        return [*run(self, [one for one in jobs if one not in bad], watcher), *(Failure(one, "as told") for one in bad)]

    budget = budget_of(copy, tiny_input, "executor.workers=1")
    monkeypatch.setattr(LocalProcesses, "run", failing)
    budget.pace.measure(budget.workspace.settings)
    assert budget.pace.of(settings.runs["lstm"]) == float("inf") > budget.pace.of(settings.runs["transformer"])
    told = capsys.readouterr()
    assert "lstm of preset sample cannot be trained: as told" in told.out + told.err


@pytest.mark.parametrize("is_trained", [False, True])
def test_what_cannot_be_trained_is_told_apart_from_what_cannot_be_submitted(
    copy, tiny_input, monkeypatch, capsys, is_trained
):
    budget = budget_of(copy, tiny_input)
    run = budget.workspace.settings.runs["lstm"]

    def train(self, name, run):
        if is_trained:
            self.finished = {**self.finished, name: run}
        raise UserError("as told")

    monkeypatch.setattr(TimeBudget, "_train", train)
    budget._try("lstm", run)
    assert budget.failed == {"lstm"} and (budget.finished == {"lstm": run}) == is_trained
    told = "lstm is trained, but the blend with it" if is_trained else "lstm is left out, it cannot be trained"
    captured = capsys.readouterr()
    assert told in captured.out + captured.err


def test_the_next_cheapest_run_is_submitted_where_the_first_fails(copy, tiny_input, monkeypatch, capsys):
    budget = budget_of(copy, tiny_input)
    budget.plan = Plan("sample", budget.workspace.settings)
    slow(monkeypatch, 1e-3)
    tried = []

    def train(self, name, run):
        tried.append((name, run))
        if len(tried) == 1:
            raise UserError("as told")
        self.steps.append(Step(name, 1.0, 1.0, 1.0, ""))

    monkeypatch.setattr(TimeBudget, "_train", train)

    def make(self, workspace, *stages):
        raise UserError("no board")

    monkeypatch.setattr(TimeBudget, "_make", make)
    budget._submit_early()
    assert len(tried) == 2 and tried[0][1].model != tried[1][1].model and not budget.failed
    assert "no page yet: no board" in capsys.readouterr().err


def test_baselines_take_a_small_share_of_the_time(copy, tiny_input, monkeypatch, capsys):
    budget = budget_of(copy, tiny_input)
    budget._make(budget.workspace, "folds")  # the limit is of the baselines, however slow the machine is
    shutil.rmtree(copy / "baselines")
    monkeypatch.setattr("src.core.terminal.started", time.monotonic)
    monkeypatch.setattr(time_budget, "BASELINES_SHARE", 1e-9)
    budget._make_baselines()
    assert "the baselines take longer than 0 s, and are left out" in capsys.readouterr().out
    assert not any(time_budget._is_made(budget.workspace, stage) for stage in ("baselines", "explain"))


def test_predictions_follow_what_was_needed(copy, tiny_input, monkeypatch):
    slow(monkeypatch, 1e-3)
    budget = budget_of(copy, tiny_input)
    settings, pace = budget.workspace.settings, budget.pace
    one, two, four = (pace.run_seconds(settings, "lstm", jobs) for jobs in (1, 2, 4))
    assert pace.run_seconds(settings, "lstm", 0) == 0 and one <= two < four == pytest.approx(2 * two)
    pace.learn("train", 1.0, 4.0)
    assert four < pace.run_seconds(settings, "lstm", 4) < 1.2 * four, "a small first run says little"
    pace.learn("train", pace.run_seconds(settings, "lstm", 4) / four * 1e6, 2e6)
    assert pace.run_seconds(settings, "lstm", 4) == pytest.approx(2 * four, rel=1e-3), "what took long says most"


def test_epochs_without_extra_rows_are_predicted_to_be_shorter(copy, tiny_input, monkeypatch):
    slow(monkeypatch, 1e-3)
    seconds = []
    for more in ([], ["train.extra_weight=1"], ["train.extra_weight=1", "train.own_epochs=1"]):
        budget = budget_of(copy, tiny_input, "train.epochs=4", *more)
        budget.pace._labelled = 1000
        seconds.append(budget.pace.run_seconds(budget.workspace.settings, "lstm", 1))
    none, all_epochs, all_but_one = seconds
    assert all_epochs - none == pytest.approx(4.0) and all_epochs - all_but_one == pytest.approx(1.0)
    run = budget.workspace.settings.runs["lstm"]
    short = time_budget._for(run, 1)
    assert (short.train.epochs, short.train.own_epochs) == (1, 0), "a shorter run is one that settings allow"
    assert time_budget._is_as_long(run, short) and not time_budget._is_as_long(short, run)


def test_jobs_stop_at_the_deadline(tmp_path):
    executor = LocalProcesses(1, 1, deadline=time.monotonic())
    assert error_of(executor.run, [job("late", "sleep", out=str(tmp_path / "late"))], Recorder()).startswith(
        "the time (--time) is over"
    )
    executor = LocalProcesses(1, 1, deadline=time.monotonic() + 3)
    started = time.monotonic()
    with pytest.raises(OutOfTime):
        executor.run([job("long", "sleep", out=str(tmp_path / "long"))], Recorder())
    assert time.monotonic() - started < PATIENCE and not (tmp_path / "late").exists()


@pytest.mark.slow
def test_a_killed_command_goes_on(tiny_input, tmp_path, capsys):
    """A submission from before a kill is whole, and the same command ends with all of it."""
    command = [sys.executable, "-m", "src", *words(tiny_input, tmp_path, "--time", "4m", "train.epochs=8")]
    draw = random.Random(3)
    log = (tmp_path / "log").open("w")
    for _ in range(3):
        process = subprocess.Popen(command, start_new_session=True, stdout=log, stderr=log, cwd=ROOT)
        wait_until(lambda p=process: p.poll() is not None or (tmp_path / "runs").exists())
        time.sleep(draw.uniform(0, 20))
        process.kill()
        process.wait()
    started = time.monotonic()
    assert subprocess.run(command, stdout=log, stderr=log, cwd=ROOT).returncode == 0
    assert time.monotonic() - started < 240
    paths = [f"paths.input={tiny_input}", f"paths.output={tmp_path}"]
    capsys.readouterr()
    assert main(["status", "--json", "--preset", str(tmp_path / "time/plan.yaml"), *paths]) == 0
    stages = [
        one for one in json.loads(capsys.readouterr().out)["stages"] if one["stage"] in ("train", "blend", "submit")
    ]
    assert {one["stage"] for one in stages} == {"train", "blend", "submit"}
    assert {one["state"] for one in stages} == {"done"}
    assert len(list(tmp_path.glob("submission_*.csv"))) == 2
