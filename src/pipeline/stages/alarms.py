"""./run.sh alarms [RUN]: a run's score against the hours of data that it sees, and the alarms that it raises."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.core import array_files, storage, versions
from src.core.executors import make_executor, raise_failures, run_shown
from src.core.language import _, word
from src.core.settings import fingerprint
from src.core.targets import Target
from src.core.terminal import add_json, duration, info, result, show_table
from src.data import sources
from src.data.series_dataset import HOURS
from src.ensemble.blend_data import blend_out_of_fold, judging_folds
from src.evaluation import early_warning, figures, operating_points
from src.evaluation.early_warning import BARE, Rule
from src.evaluation.figures import Figure
from src.evaluation.runs import RunFolder, averaged_by
from src.evaluation.workspace import Workspace
from src.pipeline.stage import Progress, Stage, run_lock
from src.pipeline.stages.explain import source_of
from src.reporting.sections.alarms import tables
from src.training import device_cache, early_reading

REFERENCE_HOURS = (6, 12, 24)
"""Hours at which models that learned from whole stays are compared with models that learned from the first hours."""
N_BOOT, SEED = 200, 0
"""Draws of the bootstrap over stays."""
POINTS = 40
"""Thresholds of a curve."""


class AlarmStage(Stage):
    name = "alarms"
    needs = ("blend",)

    def __init__(self, run: str | None = None):
        """`run`: the run that is read (default: the pipeline's blend, or the best run)."""
        self._run = run

    def names(self, workspace: Workspace) -> list[str]:
        return [self._run or ""] if _has_hours(workspace) else []

    def result(self, workspace: Workspace, name: str) -> Path:
        return workspace.output.alarms_of(name or "blend")

    def targets(self, workspace: Workspace) -> list[Target]:
        if not _has_hours(workspace):
            if self._run:
                workspace.run(self._run)  # which raises UserError where it is not there
            return []
        source, settings = source_of(workspace, self._run), workspace.settings
        stamp = fingerprint(
            {
                "run": source.score["fingerprint"],
                "outcomes": workspace.dataset.manifest["outcomes"],
                "settings": [settings.alarms.model_dump(), settings.operating.model_dump()],
                **averaged_by(source.averages),
                "version": [versions.ALARMS, storage.libraries("scikit-learn")],
            }
        )
        return [Target(self._run or "", workspace.output.alarms_of(source.name), stamp)]

    def lock_names(self, names: Sequence[str]) -> list[str]:
        return ["alarms"]  # the default run may be one that is named elsewhere

    def reads(self, workspace: Workspace) -> set[str]:
        return super().reads(workspace) | ({run_lock(self._run)} if self._run else set())

    def progress(self, workspace: Workspace, target: Target) -> Progress:
        return Progress(str(target.result) if target.is_current() else "")

    def current(self, workspace: Workspace, targets: Sequence[Target]) -> str:
        if not targets:
            no_hours = _("{noun} have no hours").format(noun=word(workspace.task.noun))
            why = no_hours if workspace.settings.alarms.hours else _("alarms.hours is empty")
            info(_("alarms: stays are read hour by hour; {why}").format(why=why))
            return ""
        return _("alarms: up to date ({result})").format(result=targets[0].result)

    def show(self, workspace: Workspace) -> None:
        for target in self.targets(workspace):
            record = storage.read_json(target.result)
            for title, columns, rows in tables(record):
                show_table(title, columns, rows)
            add_json("alarms", {key: record[key] for key in ("scores", "reference", "alarms") if key in record})

    def run(self, workspace: Workspace, missing: Sequence[Target]) -> None:
        started = time.perf_counter()
        (target,) = missing
        source = source_of(workspace, self._run)
        target.write(_Reading(workspace, source).record())
        result(
            _("alarms: {result} ({time})").format(result=target.result, time=duration(time.perf_counter() - started))
        )


STAGE = AlarmStage()


def _has_hours(workspace: Workspace) -> bool:
    return sources.source_of(workspace.settings).noun == "stays" and bool(workspace.settings.alarms.hours)


def readings(workspace: Workspace, hours: Sequence[int] = ()) -> tuple[np.ndarray, list[int]]:
    """Hours (H,) float64 of data, by default those of the settings, and steps of the grid that are over by then."""
    step = HOURS / workspace.dataset.shape.steps  # of the stays as they were prepared
    steps = sorted({int(hour / step) for hour in hours or workspace.settings.alarms.hours} - {0})
    return np.array(steps) * step, steps


def reference_stamp(workspace: Workspace) -> str:
    """Fingerprint of what the reference trees are made from."""
    return fingerprint(
        {
            "train": workspace.dataset.manifest["train"],
            "folds": storage.array_hash(workspace.splits.table),
            "steps": readings(workspace, REFERENCE_HOURS)[1],
            "version": [versions.ALARMS, storage.libraries("scikit-learn")],
        }
    )


def _folds_of(model: RunFolder) -> list[Path]:
    return [model.path / fold for fold in model.record["fold_folders"]]


class _Reading:
    """A run that reads each of its out-of-fold stays after some hours."""

    def __init__(self, workspace: Workspace, source: RunFolder):
        self.workspace, self.source, self.task = workspace, source, workspace.task
        self.settings, self.dataset, self.splits = workspace.settings, workspace.dataset, workspace.splits
        self.end = float(HOURS)
        self.hours, self.steps = readings(workspace)
        self.rows = np.flatnonzero(self.splits.scored & early_reading.watched(len(workspace.labels)))
        self.labels = workspace.labels[self.rows]
        is_divided = self.splits.scheme != "holdout"
        self.folds = operating_points.dealt(len(self.rows), self.splits.first[self.rows] if is_divided else None)
        self.draws = figures.make_draws(len(self.rows), N_BOOT, SEED)

    def record(self) -> dict[str, Any]:
        """Content of alarms.json but for its fingerprint."""
        self._read()
        logits = self._logits(judging_folds(self.splits))
        record = {
            "run": self.source.score["fingerprint"],
            "task": self.task.name,
            "unit": self.task.unit,
            "stays": len(self.rows),
            "how": "out of fold; trained on whole stays, which are read as they were after some hours",
        }
        if self.task.kind == "binary":
            record |= self._alarms(logits)
        else:
            record["scores"] = self._scores(self.hours, self._figures(logits))
        return record | {"reference": self._reference()}

    def _read(self) -> None:
        """Makes each trained fold read its out-of-fold stays."""
        self.source.check_members()
        output = self.workspace.output
        here = device_cache.find(output, self.settings.device)
        folds = [fold for model in self.source.models() for fold in _folds_of(model)]
        jobs = early_reading.early_jobs(output.root, folds, self.dataset.train_folder, self.steps, here.device)
        info(
            _("alarms: {name} reads {n:,} stays after {n_steps} numbers of hours").format(
                name=self.source.name, n=len(self.rows), n_steps=len(self.steps)
            )
        )
        raise_failures(run_shown(here.executor(self.settings.executor, len(folds)), "read early", jobs))

    def _logits(self, folds: np.ndarray) -> np.ndarray:
        """Out-of-fold logits (n, H, n_labels) of the scored stays; a blend has the weights of `folds` (N,)."""
        return blend_out_of_fold(self.source, folds, self._logits_of)[self.rows]

    def _logits_of(self, model: RunFolder) -> np.ndarray:
        """Out-of-fold logits (N, H, n_labels) of all stays by one trained model."""

        def load() -> np.ndarray:
            shape = len(self.workspace.labels), self.task.n_labels
            folds, corpus = _folds_of(model), self.dataset.train_folder
            return early_reading.early_prediction(folds, corpus, self.steps, *shape, model.average)

        return self.workspace.keep(f"early {model.name}", load)

    def _figures(self, logits: np.ndarray) -> list[dict[str, Figure]]:
        """Figures at each hour, of logits (n, H, n_labels)."""
        return [self._figures_at(logits[:, i]) for i in range(logits.shape[1])]

    def _figures_at(self, logits: np.ndarray) -> dict[str, Figure]:
        predictions, ones = self.task.decode(logits), np.ones(len(self.rows))
        cells = figures.ratio(self.task.cells(self.labels, predictions).mean(axis=1), ones)
        if self.task.kind == "regression":
            return {"mae": cells}
        y, p = self.labels[:, 0], predictions[:, 0]
        precision = figures.average_precision(y, p, np.full(len(y), True), self.draws)
        return {"roc_auc": figures.roc_auc(y, p, ones), "pr_auc": precision, "log_loss": cells}

    def _scores(self, hours: Sequence[float], found: Sequence[dict[str, Figure]]) -> list[dict[str, Any]]:
        return [
            {"hour": float(hour), **{name: figures.estimate(figure).to_json() for name, figure in one.items()}}
            for hour, one in zip(hours, found, strict=True)
        ]

    def _reference(self) -> list[dict[str, Any]]:
        """Figures of trees that learned from the first hours, and what they gain over trees that learned from whole
        stays, at REFERENCE_HOURS."""
        hours, steps = readings(self.workspace, REFERENCE_HOURS)
        splits = [split for split in self.splits.splits() if split.seed == self.splits.seeds[0]]
        stamp = reference_stamp(self.workspace)
        output, corpus = self.workspace.output, self.dataset.train_folder
        given = (stamp, splits, corpus, self.task, self.dataset.shape, steps)
        jobs, outs = early_reading.reference_jobs(output.root, output.alarms, *given)
        executor = make_executor(self.settings.executor, "cpu", len(splits))
        raise_failures(run_shown(executor, "reference", jobs))
        outputs = np.empty((2, len(self.workspace.labels), len(steps), self.task.n_labels), dtype=np.float32)
        for out in outs:
            rows = array_files.read_npz(out.with_suffix(".npz"))
            outputs[:, rows["predicted_rows"]] = array_files.read_npy(out)
        whole, early = (self._figures(one[self.rows]) for one in outputs)
        gains = [
            {name: figure - before[name] for name, figure in after.items()}
            for after, before in zip(early, whole, strict=True)
        ]
        scores = zip(self._scores(hours, whole), self._scores(hours, early), self._scores(hours, gains), strict=True)
        return [
            {"hour": score["hour"], **{name: {"whole": score[name], "early": now[name], "gain": gain[name]}
             for name in score if name != "hour"}}
            for score, now, gain in scores
        ]  # fmt: skip

    def _alarms(self, logits: np.ndarray) -> dict[str, Any]:
        """Scores, thresholds and alarms of logits (n, H, 1) of death."""
        settings, died = self.settings.alarms, self.labels[:, 0] == 1
        rule = Rule(settings.off, settings.duration, settings.refractory)
        survival = self.dataset.outcomes["Survival"][self.rows].astype(np.float64)
        death_hour = np.maximum(survival * early_warning.DAY, self.end)
        choose, chosen = self._chooser(rule)
        fitted = early_warning.cross_fit(self._logits_for, died, self.folds, choose)
        ones = np.ones(len(died))
        scores = self._figures(logits)
        for i, score in enumerate(scores):
            losses = self.task.cells(self.labels, fitted.risk[:, i : i + 1]).mean(axis=1)
            score["log_loss_levelled"] = figures.ratio(losses, ones)
        ways = {"hysteresis": rule, "bare": BARE}
        found, curves = {}, {}
        for name, way in ways.items():
            alarms = early_warning.raise_alarms(fitted.risk, fitted.on, way, self.hours, self.end)
            worth = early_warning.worth(alarms, died, death_hour, self.draws)
            found[name] = {key: one.to_json() for key, one in worth.items()}
            arguments = fitted.risk, died, way, self.hours, self.end, self.draws, POINTS
            curves[name] = early_warning.curve(*arguments)
        alarms = early_warning.raise_alarms(fitted.risk, fitted.on, rule, self.hours, self.end)
        return {
            "deaths": int(died.sum()),
            "early_deaths": int((died & (survival * early_warning.DAY < self.end)).sum()),
            "scores": self._scores(self.hours, scores),
            "rule": {"off": rule.off, "duration": rule.duration, "refractory": rule.refractory},
            "chosen": chosen,
            "thresholds": {str(fold): on for fold, on in fitted.thresholds.items()},
            "alarms": found,
            "curves": curves,
            "examples": self._examples(alarms, fitted, died, death_hour),
        }

    def _logits_for(self, fold: int) -> np.ndarray:
        """Logits (n, H) of all scored stays by the blend that judges one fold."""
        judging = 0 if self.splits.scheme == "holdout" else fold
        return self._logits(np.full(len(self.workspace.labels), judging))[..., 0]

    def _chooser(self, rule: Rule) -> tuple[early_warning.Choose, str]:
        """Choice of the threshold, and what it is chosen for in words."""
        settings, wished = self.settings.alarms, self.settings.operating.sensitivity
        if settings.on is not None:
            return lambda risk, died: settings.on, f"alarms.on={settings.on:g}"
        if settings.false_alarms is not None:
            choose = early_warning.for_budget(settings.false_alarms, rule, self.hours, self.end)
            return choose, f"at most {settings.false_alarms:g} false alarms a patient-day"
        return early_warning.for_deaths(wished), f"a sensitivity of {wished:.0%}"

    def _examples(
        self,
        alarms: early_warning.Alarms,
        fitted: early_warning.CrossFitted,
        died: np.ndarray,
        death_hour: np.ndarray,
    ) -> list[dict[str, Any]]:
        """A death with its first alarm at the median hour, and the survivor with a median time in alarm."""
        found, has_alarm = [], alarms.counts > 0
        for group, order in ((died, alarms.first), (~died, alarms.time)):
            rows = np.flatnonzero(group & has_alarm)
            if not len(rows):
                continue
            row = int(rows[np.argsort(order[rows], kind="stable")[len(rows) // 2]])
            found.append(
                {
                    "stay": self.dataset.train.ids[self.rows[row]].decode(),
                    "died": bool(died[row]),
                    "death_hour": float(death_hour[row]) if died[row] and np.isfinite(death_hour[row]) else None,
                    "on": float(fitted.on[row]),
                    "hours": self.hours.tolist(),
                    "risk": np.round(fitted.risk[row], 4).tolist(),
                    "alarms": alarms.periods(row),
                    "end": self.end,
                }
            )
        return found
