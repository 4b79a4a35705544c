"""./run.sh blend [RUN …]: several runs into one, which is again a run.

./run.sh blend lstm transformer blend.method=mean --name two
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import yaml

from src.core import storage, versions
from src.core.errors import UserError
from src.core.settings import Config, fingerprint
from src.core.settings_loader import model_names
from src.core.storage import Output
from src.core.terminal import info, result, show_table
from src.data.dataset import Dataset
from src.data.splits import Folds
from src.data.tasks import Task
from src.ensemble import blending
from src.ensemble.blend_data import evidence_of
from src.evaluation import runs
from src.evaluation.runs import RunFolder
from src.evaluation.validation_sets import ValidationSets

MOST_PAIRED = 12
"""Members whose correlations are shown pair by pair."""


def members_of(config: Config) -> list[str]:
    """Runs of the preset that are blended where none are named."""
    return [name for name in config.blend.members if name in config.runs] or list(config.runs)


def stamp_of(
    config: Config, dataset: Dataset, folds: Folds, shift: ValidationSets, fingerprints: dict[str, str]
) -> str:
    """`fingerprints` of the members' scores, by name."""
    return fingerprint(
        {
            "members": fingerprints,
            "settings": _settings(config),
            "folds": storage.array_hash(folds.table),
            "tests": dataset.test_texts,
            "shift": shift.fingerprint,
            "select_on": [config.select_on, config.target],
            "version": [versions.BLEND, versions.SCORE, storage.libraries("scipy")],
        }
    )


def _settings(config: Config) -> dict[str, Any]:
    return config.blend.model_dump(exclude={"members"})


def run(config: Config, named: Sequence[str] = (), name: str = "blend") -> None:
    """Blends the runs `named`, or those that blend.members names of the preset, or all of it."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"--name {name!r}: want letters, digits, '_', '-' and '.' alone")
    if name in model_names():
        raise UserError(f"{name!r} is the name of a model. Give the blend another --name.")
    with storage.at_work(Output(config.paths.output), f"blend.{name}"):
        _blend(config, named, name)


def _blend(config: Config, named: Sequence[str], name: str) -> None:
    output = Output(config.paths.output)
    dataset = Dataset.load(output)
    folds = dataset.load_folds()
    members = list(named or members_of(config))
    if len(set(members)) < len(members):
        raise UserError(f"a run is named twice: {' '.join(members)}")
    parts = [RunFolder.load(output, member, config) for member in members]
    if any(name in (part.name, *part.ancestors()) for part in parts):
        raise UserError(f"run {name!r} cannot be a member of itself. Give the blend another --name.")
    runs.check_fits(parts, dataset, folds)
    if not named:
        runs.check_settings(config, parts)
    shift = ValidationSets.load(dataset, config)
    shift.check_fits(parts)
    folder = output.run(name)
    fingerprints = {part.name: part.score["fingerprint"] for part in parts}
    stamp = stamp_of(config, dataset, folds, shift, fingerprints)
    if storage.is_current(folder / "score.json", stamp, runs.files(dataset.test_files)):
        result(f"blend: up to date ({folder})")
        return
    if named and name == "blend":
        info("blend: this takes the place of the pipeline's blend; --name NAME keeps both")
    (folder / "score.json").unlink(missing_ok=True)

    info(f"blend: {', '.join(members)} by method {config.blend.method}")
    labels = np.asarray(dataset.train.labels)
    logits = [part.oof() for part in parts]
    evidence, on = evidence_of(config, parts, labels, folds, shift)
    fitted, per_fold, how = _fit(config, evidence, on, folds, dataset.task)
    judging = folds.first if folds.scheme != "holdout" else np.where(folds.first >= 0, 0, -1)
    oof = blending.apply_folds(per_fold, logits, judging)
    storage.write_text(folder / "config.yaml", yaml.safe_dump(_settings(config)))
    storage.write_json(folder / "environment.json", storage.environment("cpu", "fp64"))
    record = {
        **runs.make_record("blend", config, dataset, folds, shift.fingerprint),
        "members": fingerprints,
        "weights": fitted.to_json(),
        "diversity": blending.diversity([member[folds.scored] for member in logits], labels[folds.scored]),
        "contributions": {"on": on, **_contributions(config, evidence, dataset.task, fitted, per_fold, members)},
    }
    storage.write_json(folder / "run.json", record)
    storage.write_npy(folder / "oof.npy", oof.astype(np.float32))
    for test in shift.tests:
        blended = fitted.apply([part.test_logits(test.name) for part in parts])
        storage.write_npy(runs.test_path(folder, test.name), blended.astype(np.float32))
        copies = np.empty((len(test.noised), len(shift.rows), dataset.task.n_labels), dtype=np.float32)
        for i in range(len(copies)):
            noisy = [part.copies(test.name)[i] for part in parts]
            copies[i] = blending.apply_folds(per_fold, noisy, judging[shift.rows])
        storage.write_npy(runs.copies_path(folder, test.name), copies)
        by_fold = [fitted.apply(one) for one in zip(*(part.fold_logits(test.name) for part in parts), strict=True)]
        storage.write_npy(runs.folds_path(folder, test.name), np.array(by_fold, dtype=np.float32))
    score = runs.score_oof(dataset, oof, folds, how, any(part.score["optimistic"] for part in parts))
    storage.write_json(folder / "score.json", {"fingerprint": stamp, **score})
    _show(fitted, members, record["diversity"], record["contributions"])
    result(f"blend: {name} {runs.headline(score)}, in {folder}")


def _fit(
    config: Config, evidence: blending.Evidence, on: str, folds: Folds, task: Task
) -> tuple[blending.BlendWeights, dict[int, blending.BlendWeights], str]:
    """The blend for new reports, the blend that judges each fold, and how these came about."""
    method, per_group = config.blend.method, config.blend.per_group
    fitted = blending.fit_method(evidence, task, method, per_group)
    if method == "mean":
        judges = dict.fromkeys(range(int(folds.first.max()) + 1), fitted)
        return fitted, judges, "mean of the members' logits, nothing fitted"
    if folds.scheme == "holdout":
        return fitted, {0: fitted}, f"{fitted.method}, decided on {on}, scored on the test part"
    chosen = ", the choice of method included" if method == "auto" else ""
    how = f"{fitted.method} fitted on {on}; score cross-fitted over folds{chosen}"
    return fitted, blending.fit_folds(evidence, task, method, per_group), how


def _contributions(
    config: Config,
    evidence: blending.Evidence,
    task: Task,
    fitted: blending.BlendWeights,
    per_fold: dict[int, blending.BlendWeights],
    names: list[str],
) -> dict[str, Any]:
    """`blending.contributions`; the one fold of a holdout's validation part is cross-fitted within."""
    if len(np.unique(evidence.folds)) < 2:
        evidence = evidence.dealt()
        per_fold = blending.fit_folds(evidence, task, fitted.method, config.blend.per_group)
    return blending.contributions(evidence, task, per_fold, names)


def _show(fitted: blending.BlendWeights, names: list[str], diversity: dict, worth: dict) -> None:
    rows = [
        [f"labels {group.start}–{group.stop - 1}", f"{group.temperature:.3f}", *(f"{w:.3f}" for w in group.weights)]
        for group in fitted.groups
    ]
    show_table(f"Blend ({fitted.method})", ["weights of", "temperature", *names], rows)
    result(f"\nWhat the members are worth, cross-fitted, on {worth['on']}:")
    rows = [
        [step["member"], f"{step['score']['value']:.4f}", *_signed(step["gain"]), f"{step['agree']}/{step['folds']}"]
        for step in worth["greedy"]
    ]
    show_table("Added one at a time, the best first", ["member", "score", "gain", "s.e.", "folds agree"], rows)
    scores = {name: f"{worth['members'][name]['score']['value']:.4f}" for name in names}
    correlation = diversity["correlation"]
    rows = []
    for i, name in enumerate(names):
        others = [value for j, value in enumerate(correlation[i]) if j != i and value is not None]
        mean = f"{sum(others) / len(others):.2f}" if others else "–"
        rows.append([name, scores[name], *_signed(worth["members"][name]["lost_without"]), mean])
    columns = ["member", "alone", "blend loses without it", "s.e.", "errors correlate"]
    show_table("Each member", columns, rows)
    # Of two members the table above says it all; of many, pairs would fill pages.
    if 2 < len(names) <= MOST_PAIRED:
        rows = [
            [name, scores[name], *("–" if value is None else f"{value:.2f}" for value in line)]
            for name, line in zip(names, correlation, strict=True)
        ]
        show_table("Correlation of the members' errors", ["member", "alone", *names], rows)
    if diversity["mean_pairwise"] is not None:
        result(f"mean correlation of the members' errors: {diversity['mean_pairwise']:.3f}")


def _signed(estimate: dict[str, float] | None) -> tuple[str, str]:
    """A difference of scores and its standard error."""
    if estimate is None:
        return "–", "–"
    return f"{estimate['value']:+.5f}", f"{estimate['standard_error']:.5f}"
