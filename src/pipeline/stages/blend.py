"""./run.sh blend [RUN …]: several runs into one, which is again a run.

./run.sh blend lstm transformer blend.method=mean --name two
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from src.core import array_files, storage, versions
from src.core.errors import UserError
from src.core.language import _
from src.core.names import check_name
from src.core.settings import Config, fingerprint
from src.core.settings_loader import model_names
from src.core.targets import Target
from src.core.terminal import info, result, show_table, warn
from src.ensemble import blending
from src.ensemble.blend_data import blend_rows, judging_folds
from src.evaluation import broken_runs, runs
from src.evaluation.figures import number_text
from src.evaluation.runs import RunFolder
from src.evaluation.stored_sentences import message_of
from src.evaluation.workspace import Workspace
from src.pipeline import replaced
from src.pipeline.stage import Progress, Stage, run_lock

MOST_PAIRED = 12
"""Members whose correlations are shown pair by pair."""


class Blend(Stage):
    name = "blend"
    needs = ("train",)

    def __init__(self, members: Sequence[str] = (), blend: str = "blend"):
        """`members`: runs that are named (default: blend.members, or the whole preset); `blend`: name of the result."""
        self._members, self._blend = list(members), blend

    def names(self, workspace: Workspace) -> list[str]:
        return [self._blend]

    def label(self, name: str) -> str:
        return "" if name == "blend" else name

    def members(self, workspace: Workspace) -> list[str]:
        averaged, stacked = runs.split_stack(workspace.settings, self._members)
        return [*averaged, *stacked] or runs.members_of(workspace.settings)

    def result(self, workspace: Workspace, name: str) -> Path:
        return workspace.output.run(name) / "score.json"

    def targets(self, workspace: Workspace) -> list[Target]:
        folder, parts = workspace.output.run(self._blend), self.parts(workspace)
        stamp = fingerprint(
            {
                "members": {part.name: part.fingerprint for part in parts},
                "settings": _settings(workspace),
                **workspace.dataset.made_of(workspace.splits),
                "shift": workspace.validation_sets.fingerprint,
                "select_on": [workspace.settings.select_on, workspace.settings.target],
                **runs.judged_by(workspace),
                **runs.ordered_by(workspace),
                "version": [versions.BLEND, versions.SCORE, storage.libraries("scipy")],
                # A member of fixed weights is left out without a temperature that is fitted for the others.
                **({"left_out": "unfitted"} if workspace.settings.blend.fixed else {}),
            }
        )
        has_copies = all(part.has_copies for part in parts if part.is_scored)
        files = tuple(folder / name for name in runs.files(workspace.dataset.test_files, has_copies=has_copies))
        return [Target(self._blend, folder / "score.json", stamp, files)]

    def parts(self, workspace: Workspace) -> list[RunFolder]:
        """The members. Of runs that are not named the broken ones are left out, unless all are broken.

        Raises UserError for one that is missing, made of other files, folds or settings, or broken.
        """
        workspace.splits  # noqa: B018, what is missing first is told first
        members = self.members(workspace)
        if len(set(members)) < len(members):
            raise UserError(_("a run is named twice: {members}").format(members=" ".join(members)))
        parts = [workspace.run(member, scored=False) for member in members]
        if any(self._blend in (part.name, *part.ancestors()) for part in parts):
            raise UserError(
                _("run {blend} cannot be a member of itself. Give the blend another --name.").format(
                    blend=repr(self._blend)
                )
            )
        workspace.check_fits(parts)
        if self._members:
            runs.check_averages(workspace.settings, parts)
        else:
            runs.check_settings(workspace.settings, parts)
            if not workspace.force:
                parts = [part for part in parts if not part.fault] or parts
        workspace.check_unbroken(parts)
        _check_weights(workspace.settings, parts)
        return parts

    def lock_names(self, names: Sequence[str]) -> list[str]:
        return [run_lock(name) for name in names]

    def reads(self, workspace: Workspace) -> set[str]:
        return super().reads(workspace) | {run_lock(name) for name in self.members(workspace)}

    def progress(self, workspace: Workspace, target: Target) -> Progress:
        fault = target.is_current() and workspace.run(target.name).fault
        return Progress("; ".join(filter(None, [", ".join(part.name for part in self.parts(workspace)), fault])))

    def current(self, workspace: Workspace, targets: Sequence[Target]) -> str:
        return _("blend: up to date ({folder})").format(folder=targets[0].result.parent)

    def run(self, workspace: Workspace, missing: Sequence[Target]) -> None:
        if self._members and self._blend == "blend":
            info(_("blend: this takes the place of the pipeline's blend; --name NAME keeps both"))
        parts = self.parts(workspace)
        fixed = workspace.settings.blend.fixed
        method = _("fixed weights") if fixed else _("method {method}").format(method=workspace.settings.blend.method)
        averaged, stacked = runs.split_stack(workspace.settings, [part.name for part in parts])
        if stacked:
            method = _("{method}, and {stacked} stacked on it").format(method=method, stacked=", ".join(stacked))
        info(_("blend: {names} by {method}").format(names=", ".join(averaged), method=method))
        if plain := [part.name for part in parts if not part.has_copies]:
            info(
                _("blend: {plain}: has no noisy copies, so the blend is fitted and judged without noise").format(
                    plain=", ".join(plain)
                )
            )
        before = replaced.find(workspace, missing[0])
        _write_blend(workspace, missing[0], parts)
        replaced.tell(workspace, before)

    def show(self, workspace: Workspace) -> None:
        members = set(workspace.run(self._blend).record["members"])
        for left_out in (workspace.run(name) for name in self.members(workspace) if name not in members):
            warn(
                _("blend: left out {name}, which {fault}. {remedy}").format(
                    name=left_out.name, fault=left_out.fault, remedy=broken_runs.REMEDY
                )
            )


STAGE = Blend()


def check_blend_name(workspace: Workspace, name: str) -> None:
    """Raises UserError for a name that a blend cannot have: its folder would take the place of a trained run's."""
    path = workspace.output.run(check_name("blend (--name)", name))
    settings = workspace.settings
    is_taken = name in {*model_names(), *settings.runs, *settings.denoisers}
    if is_taken or any(path.glob("fold_*")):
        raise UserError(
            _("{name} is the name of a model or of a trained run. Give the blend another --name.").format(
                name=repr(name)
            )
        )


def _settings(workspace: Workspace) -> dict[str, Any]:
    settings = workspace.settings
    averaged = runs.averaged_by(settings.average) if _is_unfitted(settings) else {}
    return settings.blend.model_dump(exclude={"members"}) | averaged


def _is_unfitted(settings: Config) -> bool:
    """True where the settings say that nothing is fitted: then the setting `average` holds for the members, too."""
    return bool(settings.blend.fixed) or settings.blend.method in blending.UNFITTED


def _check_weights(config: Config, parts: Sequence[RunFolder]) -> None:
    """Raises UserError for fixed weights that do not name the averaged members, and where something would be fitted on
    a member without out-of-fold predictions."""
    settings, (averaged, stacked) = config.blend, runs.split_stack(config, [part.name for part in parts])
    words = " ".join(f"blend.fixed.{name}=1" for name in averaged)
    if settings.fixed and set(settings.fixed) != set(averaged):
        raise UserError(
            _("blend.fixed names {fixed}; want a weight for each member, such as {words}").format(
                fixed=", ".join(settings.fixed), words=words
            )
        )
    unscored = [part.name for part in parts if not part.is_scored]
    if len(unscored) == len(parts):
        raise UserError(
            _("a blend needs a member with out-of-fold predictions for its score; {unscored} has none").format(
                unscored=unscored[0]
            )
        )
    if stacked and unscored:
        raise UserError(
            _(
                "{unscored} has no out-of-fold predictions, on which {stacked} could be stacked. Blend without a "
                "stack: blend.stack=[]"
            ).format(unscored=", ".join(unscored), stacked=", ".join(stacked))
        )
    if settings.fixed and not any(settings.fixed[part.name] for part in parts if part.is_scored):
        raise UserError(
            _("blend.fixed: want a weight above 0 for a member with out-of-fold predictions, for the score")
        )
    if unscored and not settings.fixed and settings.method != "mean":
        raise UserError(
            _(
                "{unscored} has no out-of-fold predictions, on which weights could be fitted. "
                "Average with fixed weights: blend.method=mean, or {words}"
            ).format(unscored=", ".join(unscored), words=words)
        )


def _write_blend(workspace: Workspace, target: Target, parts: Sequence[RunFolder]) -> None:
    """Fits a blend of the runs `parts` and writes its run folder; score.json last.

    Scores and out-of-fold predictions are those of the members that have some, with their weights among themselves.
    """
    folder, splits, shift, labels = target.result.parent, workspace.splits, workspace.validation_sets, workspace.labels
    target.result.unlink(missing_ok=True)
    scored = [part for part in parts if part.is_scored]
    unscored = [part.name for part in parts if not part.is_scored]
    members, logits = [part.name for part in scored], [part.oof() for part in scored]
    evidence, on = blend_rows(workspace, scored)
    n_averaged = len(runs.split_stack(workspace.settings, members)[0])
    fitted, per_fold, how = _fit(workspace, evidence.first(n_averaged), on, members[:n_averaged])
    if stacked := members[n_averaged:]:
        fitted, per_fold = _stacked(workspace, evidence, fitted, per_fold)
        judged = "decided" if splits.scheme == "holdout" else "cross-fitted"
        how = f"{how}; {', '.join(stacked)} stacked on it, {judged} on {on}"
    whole = fitted
    if unscored:
        weights = workspace.settings.blend.fixed or {part.name: 1.0 for part in parts}
        whole = blending.fixed_weights([weights[part.name] for part in parts], workspace.task.n_labels)
        whole = _averaged(workspace, whole)
        how = (
            f"{how}; of {', '.join(members)} alone, without {', '.join(unscored)}, which has no out-of-fold predictions"
        )
    has_copies = all(part.has_copies for part in scored)
    judging = judging_folds(splits)
    oof = blending.apply_folds(per_fold, logits, judging)
    storage.write_text(folder / "config.yaml", yaml.safe_dump(_settings(workspace)))
    storage.write_json(folder / "environment.json", storage.environment("cpu", "fp64"))
    record = {
        **runs.make_record(workspace, "blend"),
        "members": {part.name: part.fingerprint for part in parts},
        **({"unscored": unscored} if unscored else {}),
        **({} if has_copies else {"copies": False}),
        "weights": whole.to_json(),
        "fold_weights": {str(fold): one.to_json() for fold, one in per_fold.items()},
        "diversity": blending.diversity(
            [member[splits.scored] for member in logits], labels[splits.scored], workspace.task.kind
        ),
        "contributions": {"on": on, **_contributions(workspace, evidence, fitted, per_fold, members)},
    }
    storage.write_json(folder / "run.json", record)
    array_files.write_npy(folder / "oof.npy", oof.astype(np.float32))
    for test in shift.tests:
        blended = whole.apply([part.test_logits(test.name) for part in parts])
        array_files.write_npy(runs.test_path(folder, test.name), blended.astype(np.float32))
        if has_copies:
            copies = np.empty((len(test.noised), len(shift.rows), workspace.task.n_labels), dtype=np.float32)
            for i in range(len(copies)):
                noisy = [part.copies(test.name)[i] for part in scored]
                copies[i] = blending.apply_folds(per_fold, noisy, judging[shift.rows])
            array_files.write_npy(runs.copies_path(folder, test.name), copies)
        by_fold = [fitted.apply(one) for one in zip(*(part.fold_logits(test.name) for part in scored), strict=True)]
        array_files.write_npy(runs.folds_path(folder, test.name), np.array(by_fold, dtype=np.float32))
    score = runs.score_run(workspace, oof, how, any(part.score["optimistic"] for part in scored))
    target.write({**score, "made_by": runs.maker(record, target.name)})
    _show_weights(workspace.task.label_names, whole, [part.name for part in parts])
    _show(members, record["diversity"], record["contributions"])
    result(
        _("blend: {name} {headline}, in {folder}").format(
            name=target.name, headline=runs.headline(score, workspace.settings.metric), folder=folder
        )
    )


def _fit(
    workspace: Workspace, evidence: blending.Evidence, on: str, members: Sequence[str]
) -> tuple[blending.BlendWeights, dict[int, blending.BlendWeights], str]:
    """The blend for new reports, the blend that judges each fold, and how these came about."""
    task, splits, settings = workspace.task, workspace.splits, workspace.settings.blend
    method, per_group = settings.method, settings.per_group
    every_fold = range(int(splits.first.max()) + 1)
    if settings.fixed:
        fixed = blending.fixed_weights([settings.fixed[member] for member in members], task.n_labels)
        fixed = _averaged(workspace, fixed)
        return fixed, dict.fromkeys(every_fold, fixed), "fixed weights, nothing fitted"
    fitted = _averaged(workspace, blending.fit_method(evidence, task, method, per_group))
    if method == "mean":
        how = f"mean of the members' {workspace.settings.average}, nothing fitted"
        return fitted, dict.fromkeys(every_fold, fitted), how
    if splits.scheme == "holdout":
        return fitted, {0: fitted}, f"{fitted.method}, decided on {on}, scored on the test part"
    chosen = ", the choice of method included" if method == "auto" else ""
    how = f"{fitted.method} fitted on {on}; score cross-fitted over folds{chosen}"
    return fitted, blending.fit_folds(evidence, task, method, per_group), how


def _stacked(
    workspace: Workspace,
    evidence: blending.Evidence,
    fitted: blending.BlendWeights,
    per_fold: dict[int, blending.BlendWeights],
) -> tuple[blending.BlendWeights, dict[int, blending.BlendWeights]]:
    """Stacks the last members of `evidence` on a blend and on those that judge each fold."""
    task = workspace.task
    whole = blending.stacked(fitted, evidence, task)
    if workspace.splits.scheme == "holdout":  # fitted on the validation part, and judged on the test part
        return whole, dict.fromkeys(per_fold, whole)
    return whole, blending.stacked_folds(per_fold, evidence, task)


def _averaged(workspace: Workspace, fitted: blending.BlendWeights) -> blending.BlendWeights:
    """The blend under the setting `average`; one that `auto` chose is of logits, as those that it was compared with."""
    settings = workspace.settings
    is_of_them = settings.average == "probabilities" and _is_unfitted(settings)
    return fitted.of_probabilities(workspace.task) if is_of_them else fitted


def _contributions(
    workspace: Workspace,
    evidence: blending.Evidence,
    fitted: blending.BlendWeights,
    per_fold: dict[int, blending.BlendWeights],
    names: list[str],
) -> dict[str, Any]:
    """`blending.contributions`; the one fold of a holdout's validation part is cross-fitted within, unless it is one
    report."""
    task = workspace.task
    if evidence.has_one_fold and not (evidence := evidence.dealt()).has_one_fold:
        averaged, folds = evidence.first(len(names) - fitted.n_stacked), map(int, np.unique(evidence.folds))
        if fitted.method in blending.UNFITTED:
            per_fold = dict.fromkeys(folds, fitted.unstacked())
        else:
            per_fold = blending.fit_folds(averaged, task, fitted.method, workspace.settings.blend.per_group)
        if fitted.stack:
            per_fold = blending.stacked_folds(per_fold, evidence, task)
    return blending.contributions(evidence, task, per_fold, names)


def _show_weights(labels: list[str], fitted: blending.BlendWeights, names: list[str]) -> None:
    rows = []
    stacked, names = names[len(names) - fitted.n_stacked :], names[: len(names) - fitted.n_stacked]
    for group in fitted.unstacked().groups:
        own = labels[group.columns]
        columns = own[0] if len(own) == 1 else _("{first} to {last}").format(first=own[0], last=own[-1])
        rows.append([columns, f"{group.temperature:.3f}", *(f"{w:.3f}" for w in group.weights)])
    show_table(_("Blend ({method})").format(method=fitted.method), [_("weights of"), _("temperature"), *names], rows)
    if stacked:
        rows = [
            [label, *(f"{slope:.3f}" for slope in one.slopes), f"{one.bias:+.3f}"]
            for label, one in zip(labels, fitted.stack, strict=True)
        ]
        title = _("Stacked on it: slopes and bias of the log-odds of each label")
        show_table(title, [_("label"), _("blend"), *stacked, _("bias")], rows)


def _show(names: list[str], diversity: dict, worth: dict) -> None:
    result(_("\nWhat the members are worth, cross-fitted, on {on}:").format(on=message_of(worth["on"])))
    rows = [
        [step["member"], f"{step['score']['value']:.4f}", *_signed(step["gain"]), f"{step['agree']}/{step['folds']}"]
        for step in worth["greedy"]
    ]
    show_table(
        _("Added one at a time, the best first"),
        [_("member"), _("score"), _("gain"), _("s.e."), _("folds agree")],
        rows,
    )
    scores = {name: f"{worth['members'][name]['score']['value']:.4f}" for name in names}
    correlation = diversity["correlation"]
    rows = []
    for i, name in enumerate(names):
        others = [value for j, value in enumerate(correlation[i]) if j != i and value is not None]
        mean = f"{sum(others) / len(others):.2f}" if others else "–"
        rows.append([name, scores[name], *_signed(worth["members"][name]["lost_without"]), mean])
    columns = ["member", "alone", "blend loses without it", "s.e.", "errors correlate"]
    show_table(_("Each member"), columns, rows)
    # Of two members the table above says it all; of many, pairs would fill pages.
    if 2 < len(names) <= MOST_PAIRED:
        rows = [
            [name, scores[name], *("–" if value is None else f"{value:.2f}" for value in line)]
            for name, line in zip(names, correlation, strict=True)
        ]
        show_table(_("Correlation of the members' errors"), [_("member"), _("alone"), *names], rows)
    if diversity["mean_pairwise"] is not None:
        result(
            _("mean correlation of the members' errors: {mean_pairwise:.3f}").format(
                mean_pairwise=diversity["mean_pairwise"]
            )
        )


def _signed(estimate: dict[str, float] | None) -> tuple[str, str]:
    """A difference of scores and its standard error."""
    if estimate is None:
        return "–", "–"
    return number_text(estimate["value"], "+.5f"), number_text(estimate["standard_error"], ".5f")
