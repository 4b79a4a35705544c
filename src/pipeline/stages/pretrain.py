"""./run.sh pretrain [--model NAME …]: encoders read all text, train, tests and extra files, before any label is seen.

./run.sh pretrain --model transformer pretrain.epochs=10

Runs of the same encoder and the same settings share one. Training starts from it, in every fold. With
pretrain.leave_out there are several, and a fold's models start from one that has not read the fold's train rows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from src.core import storage
from src.core.executors import Job, raise_failures, run_shown
from src.core.language import _
from src.core.run_settings import Run
from src.core.settings import fingerprint
from src.core.targets import Target
from src.core.terminal import duration, info, result
from src.evaluation.workspace import Workspace
from src.pipeline.stage import Progress, Stage
from src.training import device_cache
from src.training.initialization import pretrain_jobs, pretrain_settings
from src.training.job_specs import PretrainJob, described
from src.training.tracking import tracking_of


class Pretrain(Stage):
    name = "pretrain"
    needs = ("prepare", "folds")
    is_automatic = True

    def names(self, workspace: Workspace) -> list[str]:
        """Runs that ask for pretraining; those of one encoder share a name."""
        return [name for runs in self._users(workspace).values() for name in self._names_of(workspace, runs)]

    def result(self, workspace: Workspace, name: str) -> Path:
        return workspace.output.pretrained  # each encoder has a folder in it that the inputs name

    def targets(self, workspace: Workspace) -> list[Target]:
        return [job.target(name) for name, job in self.jobs(workspace).items()]

    def jobs(self, workspace: Workspace) -> dict[str, PretrainJob]:
        """Job of each encoder, by the names of its runs."""
        if not self._asking(workspace):
            return {}
        jobs = workspace.keep("pretrain_jobs", lambda: pretrain_jobs(workspace, device_cache.recall_or_find(workspace)))
        found = {}
        for runs in self._users(workspace).values():
            found |= dict(zip(self._names_of(workspace, runs), jobs[runs[0]], strict=True))
        return found

    def _asking(self, workspace: Workspace) -> dict[str, Run]:
        settings = workspace.settings
        return {name: run for name, run in {**settings.denoisers, **settings.runs}.items() if run.pretrain.epochs}

    def _users(self, workspace: Workspace) -> dict[str, list[str]]:
        """Names of the runs that share an encoder, by what the encoder is made from."""
        users: dict[str, list[str]] = {}
        for name, run in self._asking(workspace).items():
            users.setdefault(fingerprint(pretrain_settings(run)), []).append(name)
        return users

    def _names_of(self, workspace: Workspace, runs: Sequence[str]) -> list[str]:
        """Names of the encoders that `runs` share."""
        settings, joined = workspace.settings, ", ".join(runs)
        n = {**settings.denoisers, **settings.runs}[runs[0]].pretrain.n_encoders(settings.folds)
        return [joined] if n == 1 else [f"{joined}, {i + 1} of {n}" for i in range(n)]

    def lock_names(self, names: Sequence[str]) -> list[str]:
        return [f"pretrain.{name.replace(', ', '+')}" for name in names]

    def progress(self, workspace: Workspace, target: Target) -> Progress:
        job = self.jobs(workspace)[target.name]
        total, epochs = job.run["pretrain"]["epochs"], job.epochs_done()
        if target.is_current():
            made = storage.read_json(target.result)["epochs"]
            return Progress(_("{n} of {all} epochs").format(n=made, all=total), made, total)
        note = _("at epoch {epoch} of {all}").format(epoch=epochs, all=total) if epochs else ""
        return Progress(note, epochs, total, is_begun=epochs > 0, is_running=job.is_running())

    def current(self, workspace: Workspace, targets: Sequence[Target]) -> str:
        if not targets:
            return _("pretrain: nothing to do, no run asks for it (pretrain.epochs)")
        self._track(workspace)
        return "\n".join(_described(target) for target in targets)

    def run(self, workspace: Workspace, missing: Sequence[Target]) -> None:
        started = time.perf_counter()
        here = device_cache.find(workspace.output, workspace.settings.device)
        workspace.refresh()  # the jobs are for the device that torch has just found
        jobs = self.jobs(workspace)
        lacking = {name: job for name, job in jobs.items() if not job.is_done()}
        told = _("pretrain: {n_lacking} of {n_jobs} encoders to pretrain on {device}")
        if len(jobs) == 1:
            told = _("pretrain: 1 encoder to pretrain on {device}")
        info(told.format(n_lacking=len(lacking), n_jobs=len(jobs), device=here.device))
        work = [
            Job(name.replace(", ", " "), "src.training.pretraining:pretrain_encoder", asdict(job), _work(job))
            for name, job in lacking.items()
        ]
        # For all encoders, done ones included: a resumed command goes on with as many threads as it began with.
        executor = here.executor(workspace.settings.executor, len(jobs), workspace.deadline)
        tracking = tracking_of(workspace.settings)
        raise_failures(run_shown(executor, "pretrain", work, described, tracking))
        self._track(workspace)
        for target in self.targets(workspace):
            result(_described(target))
        seconds = duration(time.perf_counter() - started)
        told = _("pretrain: {n_jobs} encoders in {pretrained} ({seconds})")
        if len(jobs) == 1:
            told = _("pretrain: 1 encoder in {pretrained} ({seconds})")
        result(told.format(n_jobs=len(jobs), pretrained=workspace.output.pretrained, seconds=seconds))

    def _track(self, workspace: Workspace) -> None:
        tracking = tracking_of(workspace.settings)
        for job in self.jobs(workspace).values():
            tracking.history(job)


STAGE = Pretrain()


def _described(target: Target) -> str:
    made = storage.read_json(target.result)
    return (
        f"pretrain: {target.name}: {made['epochs']} epochs over {made['reports']:,} reports, "
        f"loss {made['last_train_loss']:.3f}, on reports not learned from {made['last_valid_loss']:.3f}"
    )


def _work(job: PretrainJob) -> float:
    return job.run["pretrain"]["epochs"] * job.run["model"].get("layers", 1)
