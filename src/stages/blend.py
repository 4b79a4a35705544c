"""./run.sh blend [RUN …]: several runs into one, which is again a run.

./run.sh blend lstm transformer blend.method=mean --name two
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import yaml

from src import artifacts, blending, runs
from src.artifacts import Output
from src.config import Config, fingerprint, model_names
from src.console import say, show_table
from src.errors import UserError
from src.folds import Folds
from src.prepared import Prepared
from src.runs import RunFolder

CODE = (__name__,)


def run(config: Config, named: Sequence[str] = (), name: str = "blend") -> None:
    """Blends the runs `named`, or the models of the preset where none is."""
    output = Output(config.paths.output)
    prepared = Prepared.load(output)
    folds = prepared.load_folds()
    members = list(named or config.runs)
    if len(set(members)) < len(members):
        raise UserError(f"a run is named twice: {' '.join(members)}")
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"--name {name!r}: want letters, digits, '_', '-' and '.' alone")
    if name in model_names():
        raise UserError(f"{name!r} is the name of a model. Give the blend another --name.")
    parts = [RunFolder.load(output, member, config) for member in members]
    if any(name in (part.name, *part.ancestors()) for part in parts):
        raise UserError(f"run {name!r} cannot be a member of itself. Give the blend another --name.")
    runs.check_fits(parts, prepared, folds)
    if not named:
        _check_settings(config, parts)
    folder = output.run(name)
    settings = config.blend.model_dump()
    fingerprints = {part.name: part.score["fingerprint"] for part in parts}
    stamp = fingerprint(
        {
            "members": fingerprints,
            "settings": settings,
            "folds": artifacts.array_hash(folds.table),
            "tests": prepared.test_texts,
            "code": artifacts.code_version(CODE),
        }
    )
    if artifacts.is_current(folder / "score.json", stamp, runs.files(prepared.test_files)):
        say(f"blend: up to date ({folder})")
        return
    if named and name == "blend":
        say("blend: this takes the place of the pipeline's blend; --name NAME keeps both")
    (folder / "score.json").unlink(missing_ok=True)

    labels = np.asarray(prepared.train.labels)
    logits = [part.oof() for part in parts]
    fitted, oof, how = _fit(config, logits, labels, folds, prepared)
    artifacts.write_text(folder / "config.yaml", yaml.safe_dump(settings))
    artifacts.write_json(folder / "environment.json", artifacts.environment("cpu", "fp64"))
    record = {
        **runs.make_record("blend", config, prepared, folds),
        "members": fingerprints,
        "weights": fitted.to_json(),
        "diversity": blending.diversity([member[folds.scored] for member in logits], labels[folds.scored]),
    }
    artifacts.write_json(folder / "run.json", record)
    artifacts.write_npy(folder / "oof.npy", oof.astype(np.float32))
    for test in prepared.test_files:
        blended = fitted.apply([part.test_logits(test) for part in parts])
        artifacts.write_npy(runs.test_path(folder, test), blended.astype(np.float32))
    score = runs.score_oof(prepared, oof, folds, how, any(part.score["optimistic"] for part in parts))
    artifacts.write_json(folder / "score.json", {"fingerprint": stamp, **score})
    _show(fitted, [part.name for part in parts], record["diversity"])
    say(f"blend: {name} {runs.headline(score)}")


def _fit(
    config: Config, logits: list[np.ndarray], labels: np.ndarray, folds: Folds, prepared: Prepared
) -> tuple[blending.BlendWeights, np.ndarray, str]:
    """The blend for new reports, the logits (N, n_labels) that its score is quoted on, and how these came about."""
    task, method, per_group = prepared.task, config.blend.method, config.blend.per_group
    if method == "mean":
        fitted = blending.equal_weights(logits)
        return fitted, fitted.apply(logits), "mean of the members' logits, nothing fitted"
    if folds.scheme == "holdout":
        fit_rows, rows = folds.first == 0, folds.first >= 0
        fitted, blended = blending.fit_and_apply(logits, labels, folds.first, task, method, fit_rows, rows, per_group)
        oof = np.full(labels.shape, np.nan)
        oof[rows] = blended
        return fitted, oof, f"{fitted.method}, decided on the validation part, scored on the test part"
    fitted = blending.fit_method(logits, labels, folds.first, task, method, per_group)
    oof = blending.cross_fitted(logits, labels, folds.first, task, method, per_group)
    chosen = ", the choice of method included" if method == "auto" else ""
    return fitted, oof, f"{fitted.method}; score cross-fitted over folds{chosen}"


def _check_settings(config: Config, parts: list[RunFolder]) -> None:
    """A blend of the preset's models must not take up one that was trained with other settings."""
    for part in parts:
        if not part.is_blend and part.settings != config.runs[part.name]:
            raise UserError(
                f"run {part.name} was made with preset {part.record['preset']} or other settings than these. "
                f"Train it again: ./run.sh {runs.command('train', config, '--model', part.name)}. "
                f"Or blend what is there, by name: ./run.sh blend {' '.join(config.runs)}"
            )


def _show(fitted: blending.BlendWeights, names: list[str], diversity: dict) -> None:
    rows = [
        [f"labels {group.start}–{group.stop - 1}", f"{group.temperature:.3f}", *(f"{w:.3f}" for w in group.weights)]
        for group in fitted.groups
    ]
    show_table(f"Blend ({fitted.method})", ["weights of", "temperature", *names], rows)
    if diversity["mean_pairwise"] is not None:
        say(f"mean correlation of the members' errors: {diversity['mean_pairwise']:.3f}")
