"""Comparison of runs: their scores by every validation, paired differences, and the settings in which they differ."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from src.core import storage
from src.core.run_settings import Train
from src.core.yaml_reader import read_yaml
from src.evaluation import metrics
from src.evaluation.figures import Estimate
from src.evaluation.runs import RunFolder, seconds_of
from src.evaluation.validation_sets import VALIDATIONS, ShiftedTest, Validation
from src.evaluation.workspace import Workspace

FIRST = ("members", "model.encoder", "blend.method")
"""Settings that are told first: the others mostly follow from them."""
UNKNOWN = Estimate(math.nan, math.nan)


def validation_scores(workspace: Workspace, test: ShiftedTest, run: RunFolder) -> dict[str, dict[str, Any]]:
    """Score, standard error, reports and effective number of reports under each validation. The score is null where
    the run has no predictions of noisy copies and the validation is of these."""
    labels, found = workspace.labels, {}
    oof, copies = run.oof(), run.copies(test.name)
    for name in VALIDATIONS:
        rows = workspace.validation(name, test).only(workspace.splits.scored)
        score = UNKNOWN
        if copies is not None or rows.copies is None:
            predictions, folds = workspace.task.decode(rows.logits(oof, copies)), workspace.splits.first[rows.rows]
            judging = rows.weights, rows.rows, folds
            score = metrics.official_score(workspace.task, labels[rows.rows], predictions, *judging)
        found[name] = {**score.to_json(), "reports": len(np.unique(rows.rows)), "effective_size": rows.effective_size}
    return found


def gain(workspace: Workspace, test: ShiftedTest, one: RunFolder, other: RunFolder, name: str) -> Estimate:
    """Score of `one` minus that of `other` on the rows of the validation `name`, with the paired standard error;
    undefined where one has no predictions of noisy copies and the validation is of these."""
    rows = workspace.validation(name, test).only(workspace.splits.scored)
    if rows.copies is not None and not (one.has_copies and other.has_copies):
        return UNKNOWN
    return paired_gain(workspace, rows, *(rows.logits(run.oof(), run.copies(test.name)) for run in (one, other)))


def paired_gain(workspace: Workspace, rows: Validation, one: np.ndarray, other: np.ndarray) -> Estimate:
    """Score of the logits `one`, (R, n_labels), on these rows, minus that of `other`, with the paired standard
    error."""
    both = map(workspace.task.decode, (one, other))
    judging = rows.weights, rows.rows, workspace.splits.first[rows.rows]
    return metrics.paired_difference(workspace.task, workspace.labels[rows.rows], *both, *judging)


def settings_of(run: RunFolder) -> dict[str, str]:
    """Settings of a trained run (model.*, train.*, … and data.*) or of a blend (members, blend.*), by dotted key; of an
    imported run the files that it was made of."""
    if run.record["kind"] == "imported":
        return {**{f"test.{test}": path for test, path in run.record["files"].items()}, "oof": run.record["oof"] or "–"}
    if run.is_blend:
        return {"members": ", ".join(run.record["members"]), **flat({"blend": read_yaml(run.settings_file)})}
    part = "data" if run.record["inputs"]["kind"] == "tokens" else "grid"
    return flat({**run.settings.complete(), part: run.record["data"]})


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Returns the leaves of nested settings as text, in the form of key=value words."""
    found = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return found


def differing(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Keys whose values differ, those of FIRST first."""
    keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    return sorted(keys, key=lambda key: FIRST.index(key) if key in FIRST else len(FIRST))


def neighbours(found_runs: Mapping[str, RunFolder], settings: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The run with the fewest other settings, for each run that has one of its kind: a blend, or a trained model."""
    kinds = {name: run.record["kind"] for name, run in found_runs.items() if run.record["kind"] != "imported"}
    found = {}
    for name in kinds:
        others = [other for other in kinds if other != name and kinds[other] == kinds[name]]
        if others:
            found[name] = min(others, key=lambda other: len(differing(settings[name], settings[other])))
    return found


def earlier(run: RunFolder) -> list[tuple[dict[str, str], int]]:
    """Settings that trained folds in a run's folder have and the run has not, each with the number of its folds; seeds
    are no part of them."""
    found: dict[str, tuple[dict[str, str], int]] = {}
    now = settings_of(run)
    # Folds do not note what model_dump() leaves out at its default.
    usual = {key: value for key, value in flat({"train": Train().complete()}).items() if key != "train.seeds"}
    for path in sorted(run.path.glob("fold_*/result.json")):
        if path.parent.name in run.record.get("fold_folders", ()):
            continue
        made = usual | flat(storage.read_json(path, run.remedy)["run"])
        changed = {key: value for key, value in made.items() if now.get(key, value) != value}
        if changed:
            key = json.dumps(changed, sort_keys=True)
            found[key] = changed, found.get(key, (changed, 0))[1] + 1
    return list(found.values())


def training_seconds(run: RunFolder) -> float | None:
    """Seconds that the training of a run's folds took, one after the other; None for what was not trained."""
    folds: Sequence[str] = run.record.get("fold_folders", ())
    paths: Iterable = (run.path / fold / "result.json" for fold in folds)
    seconds = [seconds_of(storage.read_json(path, run.remedy)) for path in paths if path.exists()]
    return sum(seconds) if seconds else None
