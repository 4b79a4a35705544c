"""./run.sh folds: decide which report is validated by which model; written once to output/folds.csv."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.core import storage
from src.core.errors import UserError, shortened
from src.core.language import _, word
from src.core.settings import fingerprint
from src.core.targets import Target
from src.core.terminal import info, result, warn
from src.data import splits
from src.data.tasks import Task
from src.evaluation.runs import RunFolder
from src.evaluation.workspace import Workspace
from src.pipeline.stage import Progress, Stage

WHAT = {
    "kfold": _("{k} folds"),
    "families": _("{k} folds of whole families"),
    "clusters": _("{k} folds of whole clusters"),
    "domains": _("{k} folds, each one domain"),
    "holdout": _("holdout 8:1:1"),
}
LARGE = 100_000
"""Reports that take seconds to split."""


class Folds(Stage):
    name = "folds"
    needs = ("prepare",)
    is_automatic = True

    def result(self, workspace: Workspace, name: str) -> Path:
        return workspace.output.folds_manifest

    def targets(self, workspace: Workspace) -> list[Target]:
        dataset, settings = workspace.dataset, workspace.settings.folds
        dataset.check_folds()
        return [
            Target(
                "",
                self.result(workspace, ""),
                _stamp(_recorded(workspace)),
                (workspace.output.folds,),
                lambda path: _stamp(storage.read_json(path)),
                lambda: dataset.find_splits(settings) is not None,
            )
        ]

    def progress(self, workspace: Workspace, target: Target) -> Progress:
        return Progress(_described(workspace) if target.is_current() else "")

    def current(self, workspace: Workspace, targets: Sequence[Target]) -> str:
        return _("folds: up to date ({described})").format(described=_described(workspace))

    def forget(self, workspace: Workspace) -> None:
        """Removes the note of the folds, so that they are made again."""
        workspace.output.folds_manifest.unlink(missing_ok=True)

    def keep(self, workspace: Workspace) -> None:
        """Notes the folds.csv that is there as the one to use. Raises UserError where its folds are none of these
        rows."""
        output, dataset, settings = workspace.output, workspace.dataset, workspace.settings.folds
        storage.require(output.folds, workspace.command("folds"))
        if (found := splits.load(output.folds, dataset.train, settings)) is None:
            raise UserError(
                f"{output.folds} lacks a row of the train files, or a column for a seed of folds.seeds, or has a "
                f"malformed line. Mend it, or make it anew: ./run.sh {workspace.command('folds', '--anew')}"
            )
        if torn := splits.torn_copies(output.folds, settings):
            raise UserError(
                f"{output.folds}: {dataset.task.noun} of equal id and text are in different folds, so that a model is "
                f"judged on what it learned: {', '.join(map(shortened, torn[:5]))}{' and more' * (len(torn) > 5)}. "
                "Give their lines equal folds"
            )
        for seed, column in zip(found.seeds, found.table.T, strict=True):
            folds, expected = sorted(set(column.tolist())), "two or more, numbered from 0 without a gap"
            is_whole = len(folds) > 1 and folds == [*range(len(folds))]
            if settings.scheme == "holdout":
                parts = splits.HOLDOUT_PARTS
                expected = ", ".join(f"{value} ({name})" for name, value in parts.items())
                is_whole = folds == sorted(parts.values())
            if not is_whole:
                raise UserError(
                    f"{output.folds}: the column fold_{seed} holds the folds {', '.join(map(str, folds[:20]))}; "
                    f"expected {expected}. Mend it, or make it anew: ./run.sh {workspace.command('folds', '--anew')}"
                )
            if settings.scheme != "holdout" and len(folds) != settings.k:
                # Encoders (pretrain.leave_out) and estimates of time count folds by the setting.
                raise UserError(
                    f"{output.folds} has {len(folds)} folds and folds.k is {settings.k}. Add folds.k={len(folds)} to "
                    "this command and to those that follow"
                )
        recorded = _recorded(workspace)
        target = Target("", output.folds_manifest, None, (output.folds,))
        target.write({**recorded, "is_own": True})
        info(_("folds: those of {folds} are used as they are").format(folds=output.folds))

    def run(self, workspace: Workspace, missing: Sequence[Target]) -> None:
        _split(workspace, missing[0])


STAGE = Folds()


def _described(workspace: Workspace) -> str:
    settings = workspace.settings.folds
    return WHAT[settings.scheme].format(k=settings.k)


def _recorded(workspace: Workspace) -> dict[str, Any]:
    """Settings that the folds depend on, as folds.json notes them: `settings`, and `domains` if these are the folds."""
    settings = workspace.settings
    found = {"settings": splits.recorded(settings.folds, len(workspace.dataset.train))}
    return found | ({"domains": settings.domains.model_dump()} if settings.folds.scheme == "domains" else {})


def _stamp(recorded: dict[str, Any]) -> str:
    """Fingerprint of what _recorded() returned, or of a folds.json."""
    return fingerprint([recorded["settings"], recorded["domains"]] if "domains" in recorded else recorded["settings"])


def _split(workspace: Workspace, target: Target) -> None:
    config, output, dataset = workspace.settings, workspace.output, workspace.dataset
    corpus, what = dataset.train, _described(workspace)
    recorded = _recorded(workspace)
    if output.folds.exists() and output.folds_manifest.exists():
        if storage.read_json(output.folds_manifest).get("is_own"):
            raise UserError(
                f"{output.folds} holds your own folds (folds --keep), which are of other {dataset.task.noun}, or of "
                f"other settings of folds, than there are now. Use them nevertheless: ./run.sh "
                f"{workspace.command('folds', '--keep')}, which says what does not fit. Or split anew, which replaces "
                f"the file: ./run.sh {workspace.command('folds', '--anew')}"
            )
        _tell_of_runs(workspace, recorded)
        info(_("folds: the {noun} or the settings have changed; splitting anew").format(noun=word(dataset.task.noun)))
    if len(corpus) >= LARGE:
        info(
            _("folds: splitting {n:,} {noun} into {what}; a million take some 15 s").format(
                n=len(corpus), noun=word(dataset.task.noun), what=what
            )
        )
    output.folds_manifest.unlink(missing_ok=True)  # a table without its manifest is not taken for made
    strata = dataset.task.strata(np.asarray(corpus.labels))
    if config.folds.scheme == "domains":
        made = splits.folds_of_domains(workspace.domains, config.folds)
    else:
        made = splits.make_folds(corpus, config.folds, strata)
    if made.dealt:
        info(
            _(
                "folds: more than folds.max_rows={max_rows:,} {noun}: those with the same labels "
                "were dealt out, and only the rest stratified"
            ).format(max_rows=config.folds.max_rows, noun=word(dataset.task.noun))
        )
    if made.families is not None and made.families.approximate:
        info(
            _(
                "folds: more than folds.max_compared={max_compared:,} reports: families are "
                "approximate, as each was compared only with some that share n-grams with it"
            ).format(max_compared=config.folds.max_compared)
        )
    names = [file["name"] for file in dataset.manifest["files"] if file["role"] == "train"]
    splits.save(output.folds, made, corpus, names)
    worst, label = splits.largest_imbalance(strata, made)
    manifest = {**recorded, "largest_imbalance": round(worst, 6)}
    if made.families is not None:
        manifest["families"] = _tell(made.families, len(corpus) / config.folds.k)
    target.write(manifest)
    names_of_strata = _names_of_strata(dataset.task, strata.shape[1])
    name = names_of_strata[label]
    result(
        _(
            "folds: {what}, {n:,} {noun}; label rates differ by at most {worst:.2%} between folds ({name}); in {folds}"
        ).format(what=what, n=len(corpus), noun=word(dataset.task.noun), worst=worst, name=name, folds=output.folds)
    )
    rare = [names_of_strata[i] for i in splits.missing_labels(strata, made)]
    if rare:
        warn(_("too few positives, so some folds have none: {rare}").format(rare=", ".join(rare)))


def _tell_of_runs(workspace: Workspace, recorded: dict[str, Any]) -> None:
    """Warns of finished runs on the folds that are about to be replaced, and names the command that brings the folds
    back. Raises UserError where a preset that the command does not name would replace them."""
    dataset = workspace.dataset
    try:
        before, table = dataset.fold_words(), storage.array_hash(workspace.splits.table)
    except UserError:
        return  # of other rows, or damaged: there is nothing to go back to
    found = [run for name in workspace.output.run_names() if (run := _run(workspace, name)) is not None]
    named = ", ".join(run.name for run in found if run.record["folds"] == table)
    if not named:
        return
    now = {"folds": recorded["settings"], "domains": recorded.get("domains", {})}
    changed = [
        f"{section}.{key}={value}".replace(" ", "")
        for section, settings in before.items()
        for key, value in settings.items()
        if now[section].get(key) != value
    ]
    back = f"{workspace.command('folds')} {shlex.join(changed)}"
    is_typed = any(word.startswith("folds.") for word in workspace.settings.overrides)
    if workspace.preset_reason and not is_typed:
        presets = sorted({run.record["preset"] for run in found if run.record["folds"] == table})
        raise UserError(
            f"preset {workspace.settings.preset}, chosen as {workspace.preset_reason}, has other folds than the runs "
            f"that are there ({named}) were made on, with --preset {' and '.join(presets)}. Name the preset of these "
            f"runs, or split anew: ./run.sh {workspace.command('folds')}"
        )
    warn(f"runs on the folds before ({named}) compare with no new ones. To bring these folds back: ./run.sh {back}")


def _run(workspace: Workspace, name: str) -> RunFolder | None:
    """A finished run; None for one that cannot be read."""
    try:
        return workspace.run(name)
    except UserError as error:
        workspace.leave_out(f"run {name}", error)
        return None


def _names_of_strata(task: Task, n: int) -> list[str]:
    """Names of the columns of Task.strata()."""
    return (
        task.label_names
        if task.has_classes
        else [_("part {part} of {n} by {label}").format(part=i + 1, n=n, label=task.label_names[0]) for i in range(n)]
    )


def _tell(families: splits.Families, fold_size: float) -> dict[str, Any]:
    facts = families.facts()
    info(
        _(
            "folds: {families:,} families of near-duplicates (cosine above {threshold:g}) hold "
            "{share:.1%} of the reports, the largest {largest:,}"
        ).format(
            families=facts["families"],
            threshold=facts["threshold"],
            share=facts["share_of_reports"],
            largest=facts["largest"],
        )
    )
    if "clusters" in facts:
        told = _("folds: {number:,} clusters of similar reports, the largest {largest:,}")
        info(told.format(**facts["clusters"]))
        if facts["clusters"]["largest"] > fold_size:
            told = _("a cluster of {largest:,} reports is larger than a fold: the folds differ in size and labels")
            warn(told.format(largest=facts["clusters"]["largest"]))
    if facts["largest"] > fold_size:
        warn(
            _("a family of {largest:,} reports is larger than a fold: the folds differ in size and labels").format(
                largest=facts["largest"]
            )
        )
    return facts
