"""./run.sh leaderboard [RUN …]: every run under each validation, and what it is expected to score on each test file.

./run.sh leaderboard blend
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.core import storage, versions
from src.core.errors import UserError
from src.core.language import _, word
from src.core.settings import fingerprint
from src.core.targets import Target
from src.core.terminal import JobProgress, result, show_table, warn
from src.core.threads import one_thread
from src.data.tasks import get_task
from src.evaluation import label_shift, metrics, runs
from src.evaluation.figures import number_text, short_text
from src.evaluation.run_comparison import gain, validation_scores
from src.evaluation.runs import RunFolder
from src.evaluation.score_estimation import (
    Calibrator,
    Expectation,
    LabelledPredictions,
    UnlabelledPredictions,
    expect_score,
    weighted_expectation,
)
from src.evaluation.shift_words import short_names
from src.evaluation.validation_sets import VALIDATIONS, ShiftedTest, names_of_figures
from src.evaluation.workspace import Workspace
from src.pipeline import online_scores
from src.pipeline.stage import Stage, run_lock

MOST_COPIES = 4
"""Noisy copies of the train rows that expectations are learned from; with more, one of each test file."""


class Leaderboard(Stage):
    name = "leaderboard"
    needs = ("train", "blend")
    counted = _("runs")

    def __init__(self, named: Sequence[str] = (), against: str | None = None):
        """`named`: runs that are shown in detail; `against`: the run that gains are computed over, for the target."""
        self._named, self._against = list(named), against

    def names(self, workspace: Workspace) -> list[str]:
        return workspace.output.run_names()

    def result(self, workspace: Workspace, name: str) -> Path:
        return workspace.output.run(name) / "leaderboard.json"

    def lock_names(self, names: Sequence[str]) -> list[str]:
        return ["leaderboard"]  # every run's expected score rests on the other runs

    def reads(self, workspace: Workspace) -> set[str]:
        return super().reads(workspace) | set(map(run_lock, workspace.output.run_names()))

    def targets(self, workspace: Workspace) -> list[Target]:
        """One for each run of the files, folds and noisy copies that are there now."""
        named = [*self._named, *([self._against] if self._against else [])]
        workspace.check_unbroken([workspace.fitting_run(name) for name in named])
        fitting = _fitting(workspace)
        workspace.check_unbroken(() if fitting else workspace.fitting_runs()[0])
        if not fitting:
            for name in workspace.fitting_runs()[1]:
                workspace.fitting_run(name)  # raises what is wrong with the run that is there
            remedy = workspace.command("train")
            raise UserError(
                _("{runs} holds no run of these files and folds. Make one with: ./run.sh {remedy}").format(
                    runs=workspace.output.runs, remedy=remedy
                )
            )
        return [self._target(workspace, run, fitting) for run in fitting]

    def _target(self, workspace: Workspace, run: RunFolder, fitting: Sequence[RunFolder]) -> Target:
        stamp = fingerprint(
            {
                "run": run.score["fingerprint"],
                "committee": [other.score["fingerprint"] for other in _committee(run, fitting)],
                "shift": workspace.validation_sets.fingerprint,
                "select_on": workspace.settings.select_on,
                **runs.ordered_by(workspace),
                "version": versions.LEADERBOARD,
                **workspace.task.version,
            }
        )
        return Target(run.name, self.result(workspace, run.name), stamp)

    def run(self, workspace: Workspace, missing: Sequence[Target]) -> None:
        fitting = _fitting(workspace)
        by_name = {run.name: run for run in fitting}
        with JobProgress("leaderboard", {target.name: 1.0 for target in missing}, lines=False) as progress:
            for target in missing:
                _write_board(workspace, target, by_name[target.name], _committee(by_name[target.name], fitting))
                progress.finish(target.name, _("done"))

    def current(self, workspace: Workspace, targets: Sequence[Target]) -> str:
        return ""

    def show(self, workspace: Workspace) -> None:
        fitting, others = _fitting(workspace), workspace.fitting_runs()[1]
        boards = {run.name: storage.read_json(self.result(workspace, run.name)) for run in fitting}
        shift, target = workspace.validation_sets, workspace.target
        short = short_names([test.name for test in shift.tests])
        for test in shift.tests:
            _show(boards, test.name, workspace, test.name == target.name, short)
        if self._against and target is None:
            raise UserError(_("--against compares runs under the target test file, and there is no test file"))
        if self._against:
            _show_gains(workspace, fitting, workspace.run(self._against))
        if not shift.tests:
            result(_("leaderboard: there is no test file to expect a score on"))
        _tell_what_scores_lack(fitting)
        for name in self._named:
            _show_rates(name, boards[name], workspace)
        if others:
            result(
                _("left out, as they were made on other files, folds or shift than are there now: ") + ", ".join(others)
            )
        for run in workspace.fitting_runs()[0]:
            if run.fault and not workspace.force:
                warn(_("left out {name}, which {fault}").format(name=run.name, fault=run.fault))
        online_scores.show(workspace)


STAGE = Leaderboard()


def _fitting(workspace: Workspace) -> list[RunFolder]:
    """Runs of what is there now; without --force the broken ones are left out, also of what others are expected by."""
    return [run for run in workspace.fitting_runs()[0] if workspace.force or not run.fault]


def _tell_what_scores_lack(fitting: Sequence[RunFolder]) -> None:
    plain = [run.name for run in fitting if not run.has_copies]
    if plain:
        result(
            _("{plain}: imported, or of imported runs, so nothing is known of noisy copies (noised, shifted)").format(
                plain=", ".join(plain)
            )
        )
    for run in fitting:
        if unscored := run.record.get("unscored"):
            result(
                _("{name}: all its scores are without {unscored}, imported without out-of-fold ones").format(
                    name=run.name, unscored=", ".join(unscored)
                )
            )


def _committee(run: RunFolder, fitting: Sequence[RunFolder]) -> list[RunFolder]:
    """The other trained models."""
    return [other for other in fitting if other.is_model and other.name != run.name]


def _write_board(workspace: Workspace, target: Target, run: RunFolder, committee: Sequence[RunFolder]) -> None:
    with one_thread("sklearn"):
        tests = _tests(workspace, run, committee)
    board = {
        "run": run.score["fingerprint"],
        "committee": [other.name for other in committee],
        "tests": tests,
    }
    target.write(board)


def _tests(workspace: Workspace, run: RunFolder, committee: Sequence[RunFolder]) -> dict[str, Any]:
    """Validations, expected score and label rates for each test file."""
    shift, task = workspace.validation_sets, workspace.task
    if not task.has_classes:
        return {test.name: _weighted(workspace, test, run) for test in shift.tests}
    if not run.has_copies:
        return {test.name: _of_plain_rows(workspace, test, run) for test in shift.tests}
    calibrator = Calibrator(task, _judged(workspace, run, committee or [run])) if shift.tests else None
    tests = {}
    for test in shift.tests:
        unjudged = UnlabelledPredictions(
            run.fold_logits(test.name),
            np.mean([other.fold_logits(test.name) for other in committee or [run]], axis=0),
            [leaf.fold_logits(test.name) for leaf in run.leaves() if leaf.is_scored],
            test.array("test_similarity"),
            test.facts["test_noise_total"],
            shift.facts["rows"][test.name],
            run.average,
        )
        tests[test.name] = {
            "validations": validation_scores(workspace, test, run),
            "expected": expect_score(task, calibrator, unjudged).to_json(),
            "label_rates": _label_rates(workspace, test, run),
        }
    return tests


def _weighted(workspace: Workspace, test: ShiftedTest, run: RunFolder) -> dict[str, Any]:
    """Validations of a regression and, as the expected score, its own score on rows weighted like the test file."""
    rows = workspace.validation("weighted", test).only(workspace.splits.scored)
    task, labels = get_task(workspace.task.name), workspace.labels[rows.rows]
    predictions = task.decode(rows.logits(run.oof(), run.copies(test.name)))
    expected = weighted_expectation(metrics.official_score(task, labels, predictions, rows.weights, rows.rows))
    return {"validations": validation_scores(workspace, test, run), "expected": expected.to_json(), "label_rates": None}


def _of_plain_rows(workspace: Workspace, test: ShiftedTest, run: RunFolder) -> dict[str, Any]:
    """Validations of a run without predictions of noisy copies, by which no score on noisy rows can be expected."""
    return {
        "validations": validation_scores(workspace, test, run),
        "expected": Expectation(math.nan, math.nan, math.nan).to_json(),
        "label_rates": _label_rates(workspace, test, run),
    }


def _judged(workspace: Workspace, one: RunFolder, committee: Sequence[RunFolder]) -> LabelledPredictions:
    """Labelled predictions that expected scores are learned from: validation rows, plain and in noisy copies."""
    shift, labels = workspace.validation_sets, workspace.labels
    kept = workspace.splits.first[shift.rows] >= 0
    rows = shift.rows[kept]
    copies = [(test, draw) for test in shift.tests for draw in range(test.facts["draws"])]
    if len(copies) > MOST_COPIES:
        copies = [(test, draw) for test, draw in copies if draw == 0]

    def versions(run: RunFolder) -> np.ndarray:
        noisy = {test.name: run.copies(test.name) for test, _ in copies}
        return np.stack([run.oof()[rows], *(noisy[test.name][draw][kept] for test, draw in copies)])

    first = shift.tests[0]
    similarity = [first.array("similarity")[0], *(test.array("similarity")[1 + draw] for test, draw in copies)]
    noise = [first.noise_levels[0], *(test.noise_levels[1 + draw] for test, draw in copies)]
    others = np.mean([versions(other) for other in committee], axis=0)
    return LabelledPredictions(versions(one), others, labels[rows], np.stack(similarity)[:, kept], np.array(noise))


def _label_rates(workspace: Workspace, test: ShiftedTest, run: RunFolder) -> dict[str, list[float]]:
    """Rate of each label in train, mean prediction on the test file, and rate there by expectation maximisation; all
    over the rows that count in the score of the label's group, test rows by their probability to count."""
    rows, labels = workspace.validation_for([run], test=test), workspace.labels
    logits = run.test_logits(test.name)
    oof = rows.logits(run.oof(), run.copies(test.name))
    _, _, corrected = label_shift.adapt(workspace.task, oof, labels[rows.rows], rows.weights, logits)
    task, predictions = workspace.task, workspace.task.decode(logits)
    predicted = predictions.mean(axis=0)
    for group, columns in zip(task.groups, task.columns.values(), strict=True):
        if (chances := task.chance_to_count(group, predictions)) is not None:
            predicted[columns] = np.average(predictions[:, columns], axis=0, weights=chances)
    return {"train": task.rates(labels).tolist(), "predicted": predicted.tolist(), "corrected": corrected.tolist()}


def _show(boards: dict[str, Any], test: str, workspace: Workspace, is_target: bool, short: dict[str, str]) -> None:
    """One line for each run, best by select_on first."""
    select_on, task = workspace.settings.select_on, workspace.task
    lines = {name: board["tests"][test] for name, board in boards.items()}
    rows = []
    values = {name: found["validations"][select_on]["value"] for name, found in lines.items()}
    for name in sorted(values, key=lambda name: -math.inf if values[name] is None else values[name], reverse=True):
        found = lines[name]
        scores = (found["validations"][key] for key in VALIDATIONS)
        expected = found["expected"]
        half = None if expected["low"] is None else (expected["high"] - expected["low"]) / 2
        cells = [short_text(score, task.has_classes) for score in scores]
        told = "–" if expected["value"] is None else f"{expected['value']:.3f}±{number_text(half, '.3f')}"
        rows.append([name, *cells, told])
    sizes = next(iter(lines.values()))["validations"]
    rows.append(
        [
            _("effective {noun}").format(noun=word(task.noun)),
            *(f"{sizes[key]['effective_size']:,.0f}" for key in VALIDATIONS),
            "",
        ]
    )
    title = (
        _("Target {test}: best by {select_on} first") if is_target else _("{test}: best by {select_on} first")
    ).format(test=short[test], select_on=select_on)
    show_table(title, [_("run"), *VALIDATIONS, _("expected")], rows, best=0)
    if is_target:
        result(
            _("± of a validation: standard error{precision}").format(
                precision=_(", in its last digits") if task.has_classes else ""
            )
        )
        result(_("± of expected: half of the 95% interval"))
        if workspace.settings.is_clinical:
            result(
                _("{noun} have no token noise: noised is clean, and shifted is weighted").format(noun=word(task.noun))
            )
        if not task.has_classes:
            result(
                _("expected: out-of-fold error on train {noun} weighted like the test file, nothing else").format(
                    noun=word(task.noun)
                )
            )
        if task.metric:
            result(names_of_figures(task))


def _show_gains(workspace: Workspace, fitting: Sequence[RunFolder], base: RunFolder) -> None:
    """Gain of each run over `base` with the paired standard error, the largest first."""
    target = workspace.target
    gains = {
        one.name: {name: gain(workspace, target, one, base, name) for name in VALIDATIONS}
        for one in fitting
        if one.name != base.name
    }
    rows = [
        [name, *(metrics.gain_text(workspace.task, one) for one in found.values())]
        for name, found in sorted(
            gains.items(), key=lambda item: item[1][workspace.settings.select_on].value, reverse=True
        )
    ]
    show_table(
        _("Gain over {name} on the same rows, target {test}").format(name=base.name, test=target.name),
        [_("run"), *VALIDATIONS],
        rows,
    )


def _show_rates(name: str, board: dict[str, Any], workspace: Workspace) -> None:
    if not workspace.task.has_classes:
        result(_("{name}: label rates have no meaning for {title}").format(name=name, title=word(workspace.task.title)))
        return
    for test in workspace.validation_sets.tests:
        rates = board["tests"][test.name]["label_rates"]
        rows = [
            [label, *(f"{rates[key][k]:.4f}" for key in ("train", "predicted", "corrected"))]
            for k, label in enumerate(workspace.task.label_names)
        ]
        show_table(
            _("{name} on {test}: label rates").format(name=name, test=test.name),
            [_("label"), _("train"), _("predicted"), _("by EM")],
            rows,
        )
