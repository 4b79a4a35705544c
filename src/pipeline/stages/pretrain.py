"""./run.sh pretrain [--model NAME …]: encoders read all text, train, tests and extra files, before any label is seen.

./run.sh pretrain --model transformer pretrain.epochs=10

Runs of the same encoder and the same settings share one. Training starts from it, in every fold.
"""

from __future__ import annotations

import time
from dataclasses import asdict

from src.core import storage
from src.core.executors import Job, make_executor, raise_failures, run_shown
from src.core.settings import Config
from src.core.storage import Output
from src.core.terminal import duration, info, result
from src.data.dataset import Dataset
from src.training import device_cache
from src.training.initialization import pretrain_jobs
from src.training.job_specs import PretrainJob, described, is_pretrained
from src.training.tracking import tracking_of


def run(config: Config) -> None:
    asking = [name for name, run in {**config.denoisers, **config.runs}.items() if run.pretrain.epochs]
    if not asking:
        result("pretrain: nothing to do, no run asks for it (pretrain.epochs)")
        return
    output = Output(config.paths.output)
    with storage.at_work(output, *(f"pretrain.{name}" for name in asking)):
        _pretrain(config, Dataset.load(output))


def _pretrain(config: Config, dataset: Dataset) -> None:
    started = time.perf_counter()
    here = device_cache.recall(dataset.output, config.device)
    if here is None or not all(map(is_pretrained, pretrain_jobs(config, dataset, here).values())):
        here = device_cache.find(dataset.output, config.device)
    jobs = pretrain_jobs(config, dataset, here)
    users: dict[str, list[str]] = {}
    for name, job in jobs.items():
        users.setdefault(job.folder, []).append(name)
    chosen = {job.folder: job for job in jobs.values()}
    tracking = tracking_of(config)
    missing = {folder: job for folder, job in chosen.items() if not is_pretrained(job)}
    if missing:
        info(f"pretrain: {len(missing)} of {len(chosen)} encoders to pretrain on {here.device}")
        work = [
            Job(" ".join(users[folder]), "src.training.pretraining:pretrain_encoder", asdict(job), _work(job))
            for folder, job in missing.items()
        ]
        executor = make_executor(config.executor, here.device, len(chosen))
        raise_failures(run_shown(executor, "pretrain", work, described, tracking))
    for job in chosen.values():
        tracking.history(job)
    for folder, names in users.items():
        made = storage.read_json(chosen[folder].path / "result.json")
        result(
            f"pretrain: {', '.join(names)}: {made['epochs']} epochs over {made['reports']:,} reports, "
            f"loss {made['last_train_loss']:.3f}, on reports not learned from {made['last_valid_loss']:.3f}"
        )
    result(
        f"pretrain: {len(chosen)} encoders in {dataset.output.pretrained} ({duration(time.perf_counter() - started)})"
    )


def _work(job: PretrainJob) -> float:
    return job.run["pretrain"]["epochs"] * job.run["model"].get("layers", 1)
