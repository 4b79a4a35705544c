"""./run.sh domains: how the domains of the train rows differ, and how each run scores in each of them.

./run.sh domains --task icu domains.by=ICUType
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.core import array_files, storage, versions
from src.core.errors import UserError
from src.core.executors import Job, make_executor, raise_failures, run_shown
from src.core.language import _
from src.core.settings import fingerprint
from src.core.targets import Target
from src.core.terminal import JobProgress, add_json, duration, info, result, show_table, warn
from src.data.tasks import KINDS, SCORE_NAMES, Task
from src.evaluation import domain_differences, domain_figures, domain_summary
from src.evaluation.domain_figures import ByDomain, DomainFigures
from src.evaluation.runs import RunFolder
from src.evaluation.workspace import Workspace
from src.pipeline.shifts import domain_pairs
from src.pipeline.stage import Progress, Stage, run_lock
from src.reporting import domain_views
from src.training.job_specs import reference

BASELINE = "pooled"
"""Run that others are compared with, where there is one and none is named."""


class DomainStage(Stage):
    name = "domains"
    needs = ("folds",)
    is_optional = True

    def __init__(self, named: Sequence[str] = (), against: str | None = None):
        """`named`: the runs that are judged (default: all); `against`: the run that the others are compared with."""
        self._named, self._against = list(named), against

    def names(self, workspace: Workspace) -> list[str]:
        return ["differences", "runs", "views"] if _is_wanted(workspace) else []

    def result(self, workspace: Workspace, name: str) -> Path:
        return (
            workspace.output.domains
            / {
                "differences": "domains.json",
                "runs": "judged.json",
                "views": "views.json",
            }[name]
        )

    def lock_names(self, names: Sequence[str]) -> list[str]:
        return ["domains"]

    def reads(self, workspace: Workspace) -> set[str]:
        return super().reads(workspace) | set(map(run_lock, workspace.output.run_names()))

    def targets(self, workspace: Workspace) -> list[Target]:
        """The differences, and the runs where any fits what is there now."""
        if not _is_wanted(workspace):
            return []
        found = [Target("differences", self.result(workspace, "differences"), _stamp(workspace))]
        if runs := self._runs(workspace):
            stamp = fingerprint(
                {
                    "differences": found[0].fingerprint,
                    "folds": storage.array_hash(workspace.splits.table),
                    "runs": {run.name: run.score["fingerprint"] for run in runs},
                    "against": self._baseline(runs),
                }
            )
            found.append(Target("runs", self.result(workspace, "runs"), stamp))
            if any(map(has_gradients, runs)):
                views = fingerprint([stamp, storage.libraries("torch", "scikit-learn")])
                found.append(Target("views", self.result(workspace, "views"), views))
        return found

    def _runs(self, workspace: Workspace) -> list[RunFolder]:
        """Runs that are judged, by name. Raises UserError for a named one that is not there."""
        names = [*self._named, *([self._against] if self._against else [])]
        found = [workspace.fitting_run(name) for name in dict.fromkeys(names)]
        if len(workspace.domains) < 2:
            return []
        if self._named:
            workspace.check_unbroken(found)
            return found
        return [run for run in workspace.fitting_runs()[0] if workspace.force or not run.fault]

    def _baseline(self, runs: Sequence[RunFolder]) -> str | None:
        return self._against or (BASELINE if BASELINE in [run.name for run in runs] else None)

    def progress(self, workspace: Workspace, target: Target) -> Progress:
        return Progress(str(target.result) if target.is_current() else "")

    def current(self, workspace: Workspace, targets: Sequence[Target]) -> str:
        return ""

    def run(self, workspace: Workspace, missing: Sequence[Target]) -> None:
        started = time.perf_counter()
        for target in missing:
            if target.name == "differences":
                target.write(_differences(workspace, target))
                continue
            runs = self._runs(workspace)
            if target.name == "runs":
                target.write(judged(workspace, runs, self._baseline(runs)))
            else:
                target.write(_views(workspace, target, runs, storage.read_json(self.result(workspace, "runs"))))
        taken = duration(time.perf_counter() - started)
        info(_("domains: {folder} ({time})").format(folder=workspace.output.domains, time=taken))

    def show(self, workspace: Workspace) -> None:
        targets = {target.name: target for target in self.targets(workspace)}
        found = storage.read_json(targets["differences"].result)
        add_json("domains", {key: found[key] for key in ("domains", "pairs")})
        for table in domain_summary.difference_tables(found):
            show_table(*table, words=[table.columns[-1]] if len(table.columns) == 3 and "AUC" in table.columns else ())
        if len(found["domains"]) < 2:
            result(domain_summary.one_domain(workspace.task))
            return
        if hidden := found["hidden"]:
            told = _("What defines the domains is hidden from the classifier: {names}")
            info(told.format(names=", ".join(hidden)))
        if "runs" not in targets:
            told = _("domains: no run to judge. Train some with: ./run.sh {command}")
            result(told.format(command=workspace.command("train")))
            return
        record = storage.read_json(targets["runs"].result)
        add_json("judged", {key: record[key] for key in ("how", "against", "runs", "gains", "seeds")})
        for table in domain_summary.judging_tables(record):
            show_table(*table)
        if "views" in targets:
            for table in domain_summary.importance_tables(storage.read_json(targets["views"].result)):
                show_table(*table)
        result(domain_summary.how_judged(record))


STAGE = DomainStage()


def _is_wanted(workspace: Workspace) -> bool:
    """Returns False for `status` (read only) where the command was never run: then nothing of it is missing."""
    return not workspace.read_only or workspace.output.domains.exists()


def _stamp(workspace: Workspace) -> str:
    """Fingerprint of the differences between domains."""
    dataset = workspace.dataset
    return fingerprint(
        {
            "train": dataset.manifest["train"],
            "vocabulary": dataset.manifest["vocabulary"],
            "domains": [workspace.domains.names, storage.array_hash(workspace.domains.of_row)],
            "by": workspace.settings.domains.by,
            "version": [versions.DOMAINS, storage.libraries("scikit-learn", "scipy")],
            **workspace.task.version,
        }
    )


def _differences(workspace: Workspace, target: Target) -> dict[str, Any]:
    """Content of domains.json. What is known of pairs is kept until all pairs are, so that a new start goes on."""
    dataset, domains, folder = workspace.dataset, workspace.domains, workspace.output.domains
    pairs, hidden = domain_differences.pairs(domains), domain_differences.hidden_features(workspace.settings.domains)
    root = workspace.output.root
    begun = folder / f"pairs.{target.fingerprint[:8]}"
    for old in folder.glob("pairs.*"):
        if old != begun:
            shutil.rmtree(old)
    rows = begun / "rows.npz"
    sampled = domain_differences.sampled(domains)
    array_files.write_npz(rows, **{str(domain): one for domain, one in enumerate(sampled)})
    outs = {pair: begun / f"{pair[0]}_{pair[1]}.json" for pair in pairs}
    jobs = [
        Job(
            f"{domains.names[pair[0]]} – {domains.names[pair[1]]}".replace(" ", "\u00a0"),
            f"{domain_pairs.__name__}:tell_apart",
            {
                "output": str(root),
                "corpus": reference(dataset.train_folder, root),
                "rows": reference(rows, root),
                "pair": list(pair),
                "shape": dataset.shape.to_json(),
                "hidden": hidden,
                "out": reference(out, root),
            },
            float(sum(len(sampled[domain]) for domain in pair)),
        )
        for pair, out in outs.items()
        if not out.exists()
    ]
    if jobs:
        executor = make_executor(workspace.settings.executor, "cpu", len(pairs))
        raise_failures(run_shown(executor, "domains", jobs))
    found = []
    for (first, second), out in outs.items():
        one = storage.read_json(out)
        one["telling"] = domain_differences.worded(one["telling"], dataset)
        found.append({"first": domains.names[first], "second": domains.names[second], **one})
    facts = domain_differences.facts(dataset, workspace.task, domains)
    shutil.rmtree(begun)
    about = {"train": dataset.manifest["train"], "by": workspace.settings.domains.by, "hidden": hidden}
    return {**about, "domains": facts, "pairs": found}


def judged(workspace: Workspace, runs: Sequence[RunFolder], against: str | None) -> dict[str, Any]:
    """Content of judged.json: figures of each run by domain, the best first, and what they gain over `against`."""
    task, domains, rows = workspace.task, workspace.domains, np.flatnonzero(workspace.splits.scored)
    judge = DomainFigures(task, workspace.labels[rows], domains.of_row[rows], len(domains))
    named = {run.name: run for run in runs}
    if against and against not in named:
        named[against] = workspace.fitting_run(against)
    found: dict[str, ByDomain] = {}
    seeds: dict[str, Any] = {}
    curves: dict[str, Any] = {}
    with JobProgress("domains", dict.fromkeys(named, 1.0), lines=False) as progress:
        for name, run in named.items():
            oof = run.oof()[rows]
            if not np.isfinite(oof).all():
                told = _("run {name} has no out-of-fold prediction of some rows: it is not judged by domain")
                warn(told.format(name=name))
                continue
            predictions = task.decode(oof)
            found[name] = judge.of(predictions)
            if task.has_classes:
                curves[name] = judge.reliability(predictions, found[name], domains.names)
            if several := _seeds_of(run):
                alone = [judge.of(task.decode(_of_seed(workspace, run, seed)[rows])) for seed in several]
                seeds[name] = {"seeds": several, "spread": domain_figures.spread(alone)}
            progress.finish(name, _("done"))
    if against and against not in found:
        raise UserError(_("--against {run}: it has no out-of-fold prediction of some rows").format(run=against))
    first = judge.names[0]
    order = sorted(found, key=lambda name: -np.nan_to_num(domain_figures.mean(found[name][first])[0], nan=-np.inf))
    return {
        "made_of": {name: run.score["fingerprint"] for name, run in named.items()},
        "how": "unseen" if is_unseen(workspace) else "seen",
        "scheme": workspace.splits.scheme,
        "domains": domains.names,
        "rows": [len(one) for one in judge.rows],
        "labels": judge.n_labels(),
        "score_name": score_name(task),
        "figures": judge.names,
        "draws": domain_figures.N_BOOT,
        "runs": {name: domain_figures.summary(found[name], domains.names) for name in order},
        "against": against,
        "gains": {
            name: domain_figures.gains(found[name], found[against]) for name in order if against and name != against
        },
        "seeds": {name: seeds[name] for name in order if name in seeds},
        "reliability": curves,
    }


def has_gradients(run: RunFolder) -> bool:
    """Returns True for a run of one model that was trained here by gradients."""
    return run.is_model and not run.settings.is_fitted


def _views(workspace: Workspace, target: Target, runs: Sequence[RunFolder], record: dict[str, Any]) -> dict[str, Any]:
    """Content of views.json: rows of all domains as BASELINE, or the run that others are compared with, and the best
    other run see them, by the models that have not seen the worst domain."""
    known = {run.name: run for run in runs if has_gradients(run)}
    others = [name for name in record["runs"] if name in known and name != record["against"]]
    shown = [*([record["against"]] if record["against"] in known else []), *others[:1]]
    folder, domains = target.result.parent, workspace.domains
    worst = record["runs"][shown[0]][record["figures"][0]]["worst"]["domain"] or domains.names[0]
    place = int(domains.rows(domains.names.index(worst))[0])
    sampled = domain_views.sampled(domains, workspace.labels, workspace.task)
    array_files.write_npz(rows := folder / "views.npz", **sampled)
    jobs, outs = [], {}
    for name in shown:
        fold = next(
            known[name].path / part
            for part in known[name].record["fold_folders"]
            if place
            in array_files.read_npz(known[name].path / part / "split.npz", known[name].remedy)["predicted_rows"]
        )
        outs[name] = folder / f"views.{name}.json"
        payload = domain_views.payload(workspace.output.root, fold, workspace.dataset.train_folder, rows, outs[name])
        jobs.append(Job(f"{name} {fold.name.rsplit('.', 1)[0]}", f"{domain_views.__name__}:view", payload))
    raise_failures(run_shown(make_executor(workspace.settings.executor, "cpu", len(jobs)), "domains", jobs))
    views = {name: storage.read_json(out) for name, out in outs.items()}
    for path in (rows, *outs.values()):
        path.unlink()
    return {
        "made_of": {name: known[name].score["fingerprint"] for name in shown},
        "domains": domains.names,
        "worst": worst,
        "how": record["how"],
        "label": domain_views.shown_label(workspace.task, workspace.labels)[1],
        "names": domain_views.feature_names(workspace.dataset),
        "domain": sampled["domain"].tolist(),
        "is_positive": sampled["positive"].tolist(),
        "runs": views,
    }


def score_name(task: Task) -> str:
    """Heading of the task's own score, whatever Task.metric is."""
    return "score" if task.kind == "multilabel" else SCORE_NAMES[KINDS[task.kind].scores[0]]


def is_unseen(workspace: Workspace) -> bool:
    """Returns True if no model was trained on a row of a domain that it is judged on."""
    table, domains = workspace.splits.table, workspace.domains
    if workspace.splits.scheme == "holdout":
        judged_domains = np.unique(domains.of_row[workspace.splits.scored])
        return bool(workspace.splits.scored[np.isin(domains.of_row, judged_domains)].all())
    return all(
        len(np.unique(table[domains.rows(i), j])) == 1 for i in range(len(domains)) for j in range(table.shape[1])
    )


def _seeds_of(run: RunFolder) -> list[int]:
    """Seeds of a trained run's models, where there are several."""
    found = {int(re.search(r"\.seed_(\d+)\.", f"{name}.")[1]) for name in run.record.get("fold_folders", [])}
    return sorted(found) if len(found) > 1 else []


def _of_seed(workspace: Workspace, run: RunFolder, seed: int) -> np.ndarray:
    """Out-of-fold outputs (N, n_labels) of the models of one seed alone; NaN for a row that none of them may judge."""
    folders = [run.path / name for name in run.record["fold_folders"] if f".seed_{seed}." in f"{name}."]
    parts = (
        (
            array_files.read_npz(folder / "split.npz", run.remedy)["predicted_rows"],
            array_files.read_npy(folder / "logits.npy", run.remedy),
        )
        for folder in folders
    )
    return run.average.of_rows(workspace.labels.shape, parts)
