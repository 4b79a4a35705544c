"""./run.sh domains adapt [RUN …]: what a few labelled rows of a new domain bring.

Each fold's models are trained further on rows of the domain that was left out, see training/adaptation.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.core import array_files, storage, versions
from src.core.errors import UserError
from src.core.executors import raise_failures, run_shown
from src.core.language import _
from src.core.settings import fingerprint
from src.core.targets import Target
from src.core.terminal import add_json, info, result, show_table
from src.evaluation import domain_figures, domain_summary
from src.evaluation.domain_figures import ByDomain, DomainFigures
from src.evaluation.runs import RunFolder
from src.evaluation.workspace import Workspace
from src.pipeline.stages.domains import DomainStage, has_gradients, score_name
from src.training import adaptation, device_cache

SIZES = (0, 10, 100, 1000)
"""Default numbers of labelled rows."""


class Adaptation(DomainStage):
    """A part of the stage domains that is made where it is asked for."""

    def __init__(self, named: Sequence[str], sizes: Sequence[int]):
        """`named`: the runs that are adapted (default: all that can be); `sizes`: numbers of labelled rows."""
        super().__init__(named)
        self._sizes = sorted({0, *sizes})

    def names(self, workspace: Workspace) -> list[str]:
        return ["adapted"]

    def result(self, workspace: Workspace, name: str) -> Path:
        return workspace.output.domains / "adapted.json"

    def targets(self, workspace: Workspace) -> list[Target]:
        if workspace.splits.scheme != "domains":
            told = _(
                "domains adapt needs models that have not seen a domain: folds.scheme=domains, and then train. The "
                "folds are by {scheme}"
            )
            raise UserError(told.format(scheme=workspace.splits.scheme))
        runs = self._runs(workspace)
        if not runs:
            told = _("domains adapt: there is no run that can be trained further. Train some with: ./run.sh {command}")
            raise UserError(told.format(command=workspace.command("train")))
        stamp = fingerprint(
            {
                "runs": {run.name: run.score["fingerprint"] for run in runs},
                "domains": workspace.domains.names,
                "settings": workspace.settings.adapt.model_dump(),
                "sizes": self._sizes,
                "version": [versions.ADAPT, versions.DOMAINS],
            }
        )
        files = tuple(
            path
            for run in runs
            for fold, _domain in _folds(workspace, run)
            for draw in range(workspace.settings.adapt.draws)
            for path in self._paths(workspace, fold, draw)
        )
        return [Target("adapted", self.result(workspace, ""), stamp, files)]

    def _runs(self, workspace: Workspace) -> list[RunFolder]:
        """Runs of one model with gradients. Raises UserError for a named one of another kind."""
        found = super()._runs(workspace)
        fitting = [run for run in found if has_gradients(run)]
        if self._named and (other := [run.name for run in found if run not in fitting]):
            told = _("run {name} cannot be trained further: it is a blend, imported, or has no gradients")
            raise UserError(told.format(name=other[0]))
        return fitting

    def _paths(self, workspace: Workspace, fold: Path, draw: int) -> list[Path]:
        settings, folder = workspace.settings.adapt, workspace.output.domains / "adapted"
        return [adaptation.adapted_path(folder, fold, settings, draw, n) for n in self._sizes if n]

    def run(self, workspace: Workspace, missing: Sequence[Target]) -> None:
        (target,) = missing
        runs, settings = self._runs(workspace), workspace.settings
        here = device_cache.find(workspace.output, settings.device)
        folds = [fold for run in runs for fold in _folds(workspace, run)]
        jobs = adaptation.adaptation_jobs(
            workspace.output.root,
            workspace.output.domains / "adapted",
            folds,
            workspace.dataset.train_folder,
            settings.adapt,
            self._sizes,
            here.device,
        )
        if jobs:
            told = _("domains: {n} models learn from {sizes} rows, {draws} times each")
            sizes = ", ".join(f"{n:,}" for n in self._sizes if n)
            info(told.format(n=len(folds), sizes=sizes, draws=settings.adapt.draws))
            # As for training, the number of threads does not depend on what is done already.
            executor = here.executor(settings.executor, len(folds) * settings.adapt.draws)
            raise_failures(run_shown(executor, "adapt", jobs, adaptation.described))
        target.write(self._judged(workspace, runs))

    def _judged(self, workspace: Workspace, runs: Sequence[RunFolder]) -> dict[str, Any]:
        """Content of adapted.json: figures of each run after each number of rows, and their gains over no row."""
        task, domains, settings = workspace.task, workspace.domains, workspace.settings.adapt
        halves = [
            adaptation.halves(rows, workspace.labels[rows], task, settings.seed, domain)
            for domain in range(len(domains))
            for rows in [domains.rows(domain)]
        ]
        rows = np.concatenate([judged for judged, _left in halves])
        judge = DomainFigures(task, workspace.labels[rows], domains.of_row[rows], len(domains))
        found: dict[str, Any] = {
            "made_of": {run.name: run.score["fingerprint"] for run in runs},
            "draws": settings.draws,
            "epochs": settings.epochs,
            "rate": settings.rate,
            "sizes": self._sizes,
            "domains": domains.names,
            "judged": [len(judged) for judged, _left in halves],
            "drawn_from": [len(left) for _judged, left in halves],
            "score_name": score_name(task),
            "figures": judge.names,
            "runs": {},
            "gains": {},
        }
        for run in runs:
            by_size: dict[int, ByDomain] = {}
            for n in self._sizes:
                draws = range(settings.draws if n else 1)
                outputs = [self._outputs(workspace, run, halves, draw, n)[rows] for draw in draws]
                figures = [judge.of(task.decode(one)) for one in outputs]
                by_size[n] = domain_figures.pooled_draws(figures if n else figures * settings.draws)
            found["runs"][run.name] = {str(n): domain_figures.summary(one, domains.names) for n, one in by_size.items()}
            found["gains"][run.name] = {
                str(n): domain_figures.gains(one, by_size[0]) for n, one in by_size.items() if n
            }
        return found

    def _outputs(
        self, workspace: Workspace, run: RunFolder, halves: Sequence[tuple[np.ndarray, np.ndarray]], draw: int, n: int
    ) -> np.ndarray:
        """Outputs (N, n_labels) of the judged rows after n rows of a draw, the mean over the run's models of each
        domain; NaN for other rows."""
        folder, parts = workspace.output.domains / "adapted", []
        for fold, domain in _folds(workspace, run):
            judged = halves[domain][0]
            if n:
                path = adaptation.adapted_path(folder, fold, workspace.settings.adapt, draw, n)
                parts.append((judged, array_files.read_npy(path, workspace.command("domains", "adapt"))))
            else:
                rows = array_files.read_npz(fold / "split.npz", run.remedy)["predicted_rows"]
                logits = array_files.read_npy(fold / "logits.npy", run.remedy)
                parts.append((judged, logits[np.searchsorted(rows, judged)]))
        return run.average.of_rows(workspace.labels.shape, parts)

    def show(self, workspace: Workspace) -> None:
        record = storage.read_json(self.result(workspace, ""))
        add_json("adapted", {key: value for key, value in record.items() if key not in ("fingerprint", "checksums")})
        for table in domain_summary.adaptation_tables(record):
            show_table(*table)
        result(domain_summary.how_adapted(record, workspace.task))


def _folds(workspace: Workspace, run: RunFolder) -> list[tuple[Path, int]]:
    """Folders of a run's trained folds, each with the number of the domain that it has not seen."""
    found = []
    for name in run.record["fold_folders"]:
        rows = array_files.read_npz(run.path / name / "split.npz", run.remedy)["predicted_rows"]
        (domain,) = np.unique(workspace.domains.of_row[rows])
        found.append((run.path / name, int(domain)))
    return found
