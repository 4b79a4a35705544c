"""./run.sh leaderboard [RUN …]: every run under each validation, and what it is expected to score on each test file.

./run.sh leaderboard blend
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from src.core import storage, versions
from src.core.errors import UserError
from src.core.settings import Config, fingerprint
from src.core.storage import Output
from src.core.terminal import JobProgress, result, show_table
from src.data.dataset import Dataset
from src.data.splits import Folds
from src.evaluation import label_shift, metrics, runs
from src.evaluation.runs import RunFolder
from src.evaluation.score_estimation import Calibrator, LabelledPredictions, UnlabelledPredictions, expect_score
from src.evaluation.shift_summary import short_names
from src.evaluation.validation_sets import VALIDATIONS, ShiftedTest, ValidationSets, fitting_runs, validation

MOST_COPIES = 4
"""Noisy copies of the train rows that expectations are learned from; with more, one of each test file."""


@storage.marked("leaderboard")
def run(config: Config, named: Sequence[str] = (), against: str | None = None) -> None:
    """Of all runs that fit the files and folds that are there now; the runs `named` are also shown in detail.

    `against` a run, the target is shown as what each other gains over that one on the very same rows.
    """
    output = Output(config.paths.output)
    dataset = Dataset.load(output)
    folds = dataset.load_folds()
    shift = ValidationSets.load(dataset, config)
    for name in [*named, *([against] if against else [])]:
        chosen = [RunFolder.load(output, name, config)]
        runs.check_fits(chosen, dataset, folds)
        shift.check_fits(chosen)
    fitting, others = fitting_runs(config, dataset, folds, shift)
    if not fitting:
        remedy = runs.command("train", config)
        raise UserError(f"{output.runs} holds no run of these files and folds. Make one with: ./run.sh {remedy}")
    lacking = {one.name: 1.0 for one in fitting if not is_current(config, shift, one, fitting)}
    if lacking:
        with JobProgress("leaderboard", lacking, lines=False) as progress:
            for one in fitting:
                if one.name in lacking:
                    _write_board(config, dataset, folds, shift, one, fitting)
                    progress.finish(one.name, "done")
    boards = {one.name: storage.read_json(_path(one)) for one in fitting}
    target = shift.target(config.target)
    for test in shift.tests:
        _show(boards, test.name, config.select_on, test.name == target.name, short_names([t.name for t in shift.tests]))
    if against and target is None:
        raise UserError("--against compares runs under the target test file, and there is no test file")
    if against:
        _show_gains(dataset, folds, shift, target, fitting, RunFolder.load(output, against, config), config.select_on)
    if not shift.tests:
        result("leaderboard: there is no test file to expect a score on")
    for name in named:
        _show_rates(name, boards[name], dataset.task.label_names, shift)
    if others:
        result(f"left out, as they were made on other files, folds or shift than are there now: {', '.join(others)}")


def _path(one: RunFolder) -> Path:
    return one.path / "leaderboard.json"


def _committee(one: RunFolder, fitting: list[RunFolder]) -> list[RunFolder]:
    """The other trained models."""
    return [other for other in fitting if not other.is_blend and other.name != one.name]


def is_current(config: Config, shift: ValidationSets, one: RunFolder, fitting: list[RunFolder]) -> bool:
    """Whether leaderboard.json of a run, one of those that are `fitting`, is as it would be made now."""
    return storage.is_current(_path(one), _stamp(config, shift, one, fitting))


def _stamp(config: Config, shift: ValidationSets, one: RunFolder, fitting: list[RunFolder]) -> str:
    return fingerprint(
        {
            "run": one.score["fingerprint"],
            "committee": [other.score["fingerprint"] for other in _committee(one, fitting)],
            "shift": shift.fingerprint,
            "select_on": config.select_on,
            "version": versions.LEADERBOARD,
        }
    )


def _write_board(
    config: Config, dataset: Dataset, folds: Folds, shift: ValidationSets, one: RunFolder, fitting: list[RunFolder]
) -> None:
    import sklearn.linear_model  # noqa: F401  now, as the limit below reaches the libraries that are loaded by then

    committee = _committee(one, fitting)
    with threadpool_limits(1):  # another number of threads would give other last bits
        tests = _tests(config, dataset, folds, shift, one, committee)
    board = {
        "fingerprint": _stamp(config, shift, one, fitting),
        "run": one.score["fingerprint"],
        "committee": [other.name for other in committee],
        "tests": tests,
    }
    storage.write_json(_path(one), board)


def _tests(
    config: Config, dataset: Dataset, folds: Folds, shift: ValidationSets, one: RunFolder, committee: list[RunFolder]
) -> dict[str, Any]:
    """Of each test file: validations, expected score, label rates."""
    labels = np.asarray(dataset.train.labels)
    oof = one.oof()
    calibrator = (
        Calibrator(dataset.task, _judged(one, committee or [one], labels, folds, shift)) if shift.tests else None
    )
    tests = {}
    for test in shift.tests:
        by_fold = one.fold_logits(test.name)
        others = np.mean([other.fold_logits(test.name) for other in committee or [one]], axis=0)
        unjudged = UnlabelledPredictions(
            by_fold,
            others,
            [model.fold_logits(test.name) for model in one.models()],
            test.array("test_similarity"),
            test.facts["test_noise_total"],
            shift.facts["rows"][test.name],
        )
        tests[test.name] = {
            "validations": _validations(dataset, folds, shift, test, oof, one.copies(test.name)),
            "expected": vars(expect_score(dataset.task, calibrator, unjudged)),
            "label_rates": _label_rates(config, folds, shift, test, labels, one),
        }
    return tests


def _judged(
    one: RunFolder, committee: list[RunFolder], labels: np.ndarray, folds: Folds, shift: ValidationSets
) -> LabelledPredictions:
    """What expectations are learned from: the rows that were looked at, as they are and in noisy copies."""
    kept = folds.first[shift.rows] >= 0
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


def _validations(
    dataset: Dataset, folds: Folds, shift: ValidationSets, test: ShiftedTest, oof: np.ndarray, copies: np.ndarray
) -> dict[str, Any]:
    """Score, standard error, reports and effective number of reports of each validation."""
    labels, found = np.asarray(dataset.train.labels), {}
    for name in VALIDATIONS:
        rows = validation(name, shift.rows, test, folds).only(folds.scored)
        probabilities = dataset.task.decode(rows.logits(oof, copies))
        score = metrics.official_score(dataset.task, labels[rows.rows], probabilities, rows.weights, rows.rows)
        found[name] = {**score.to_json(), "reports": len(np.unique(rows.rows)), "effective_size": rows.effective_size}
    return found


def _label_rates(
    config: Config, folds: Folds, shift: ValidationSets, test: ShiftedTest, labels: np.ndarray, one: RunFolder
) -> dict[str, list[float]]:
    """Of each label: rate in train, mean prediction on the test file, and rate there by expectation maximisation."""
    rows = validation(config.select_on, shift.rows, test, folds)
    logits = one.test_logits(test.name)
    oof = rows.logits(one.oof(), one.copies(test.name))
    _, _, corrected = label_shift.adapt(oof, labels[rows.rows], rows.weights, logits)
    predicted = one.task.decode(logits).mean(axis=0)
    return {"train": labels.mean(axis=0).tolist(), "predicted": predicted.tolist(), "corrected": corrected.tolist()}


def _show(boards: dict[str, Any], test: str, select_on: str, is_target: bool, short: dict[str, str]) -> None:
    """One line for each run, best by `select_on` last."""
    lines = {name: board["tests"][test] for name, board in boards.items()}
    rows = []
    for name, found in sorted(lines.items(), key=lambda item: item[1]["validations"][select_on]["value"]):
        scores = (found["validations"][key] for key in VALIDATIONS)
        half = (found["expected"]["high"] - found["expected"]["low"]) / 2
        cells = [f"{score['value']:.4f}±{1e4 * score['standard_error']:.0f}" for score in scores]
        rows.append([name, *cells, f"{found['expected']['value']:.3f}±{half:.3f}"])
    sizes = next(iter(lines.values()))["validations"]
    rows.append(["effective reports", *(f"{sizes[key]['effective_size']:,.0f}" for key in VALIDATIONS), ""])
    title = f"{'Target ' if is_target else ''}{short[test]}: best by {select_on} last"
    show_table(title, ["run", *VALIDATIONS, "expected"], rows)
    if is_target:
        result("± of a validation: standard error, in its last digits")
        result("± of expected: half of the 95% interval")


def _show_gains(
    dataset: Dataset,
    folds: Folds,
    shift: ValidationSets,
    target: ShiftedTest,
    fitting: list[RunFolder],
    base: RunFolder,
    select_on: str,
) -> None:
    """Of each run its gain over `base` with the paired standard error, the largest last."""
    labels, gains = np.asarray(dataset.train.labels), {}
    judged = {name: validation(name, shift.rows, target, folds).only(folds.scored) for name in VALIDATIONS}
    logits = base.oof(), base.copies(target.name)
    for one in fitting:
        if one.name == base.name:
            continue
        own = one.oof(), one.copies(target.name)
        gains[one.name] = {
            name: metrics.paired_difference(
                dataset.task,
                labels[rows.rows],
                *(dataset.task.decode(rows.logits(*two)) for two in (own, logits)),
                rows.weights,
                rows.rows,
            )
            for name, rows in judged.items()
        }
    rows = [
        [name, *(gain.as_gain for gain in found.values())]
        for name, found in sorted(gains.items(), key=lambda item: item[1][select_on].value)
    ]
    show_table(f"Gain over {base.name} on the same rows, target {target.name}", ["run", *VALIDATIONS], rows)


def _show_rates(name: str, board: dict[str, Any], label_names: list[str], shift: ValidationSets) -> None:
    for test in shift.tests:
        rates = board["tests"][test.name]["label_rates"]
        rows = [
            [label, *(f"{rates[key][k]:.4f}" for key in ("train", "predicted", "corrected"))]
            for k, label in enumerate(label_names)
        ]
        show_table(f"{name} on {test.name}: label rates", ["label", "train", "predicted", "by EM"], rows)
