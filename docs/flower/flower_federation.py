"""Flower runs the rounds of a federation: its server averages, and its clients train with this project's client step.

The first fold of the first run of the settings is trained, which must have train.regime=fedavg and read reports:

    flwr run docs/flower loopback --stream --run-config 'settings="… train.regime=fedavg domains.by=clusters"'

The last weights are written beside the fold's own folder, as flower.safetensors. docs/institutions.md has all commands.
"""

from __future__ import annotations

import functools
import shlex
from dataclasses import asdict, replace

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from src.core.run_settings import Run
from src.core.settings_loader import load_config
from src.data.tasks import get_task
from src.evaluation.workspace import Workspace
from src.models.classifier import Classifier
from src.training import checkpoints, classification, device_cache, federated, federation
from src.training.job_specs import FoldJob
from src.training.planning import fold_jobs

server = ServerApp()
client = ClientApp()


@functools.cache
def planned(words: str) -> FoldJob:
    """Plans the first fold of the first run of the settings, given as the words of a command line."""
    given = shlex.split(words)
    preset = given[given.index("--preset") + 1]
    workspace = Workspace(load_config(preset, [word for word in given if "=" in word]))
    jobs = fold_jobs(workspace, device_cache.find(workspace.output, workspace.settings.device))
    return next(iter(jobs.values()))[0]


def fresh_model(job: FoldJob) -> Classifier:
    """Builds the model with its first weights, which are the same everywhere."""
    run, device = Run.model_validate(job.run), torch.device(job.device)
    return classification.built_model(job, run, get_task(job.task), device)


@server.main()
def serve(grid: Grid, context: Context) -> None:
    """Averages for as many rounds as the run has, over all domains, by their numbers of rows."""
    job = planned(context.run_config["settings"])
    n_clients, n_rounds = len(federation.client_rows(job)), len(federation.rounds_of(job)) - 1
    strategy = FedAvg(
        fraction_evaluate=0.0, min_train_nodes=n_clients, min_available_nodes=n_clients, weighted_by_key="rows"
    )
    first = ArrayRecord(fresh_model(job).state_dict())
    result = strategy.start(grid, first, num_rounds=n_rounds)
    checkpoints.save_tensors(job.path.parent / "flower.safetensors", result.arrays.to_torch_state_dict())


@client.train()
def train(message: Message, context: Context) -> Message:
    """Trains the received weights on the rows of one domain, that of this node, and sends them back."""
    whole, domain = planned(context.run_config["settings"]), int(context.node_config["domain"])
    job = replace(whole, folder=f"{whole.folder}.flower/{domain}")
    number = message.content["config"]["server-round"]
    (mine,) = (one for one in federation.rounds_of(job)[number] if one.domain == domain)
    model = fresh_model(job)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    # The client step reads the weights of the round before where this project's own server leaves them.
    before = federation.epochs_of(Run.model_validate(job.run), number)[0] - 1
    checkpoints.save(job.path, model, None, None, [{"epoch": before}] if before else [], 0.0)
    federated.train_client(asdict(mine), lambda news: None)
    sent = ArrayRecord(checkpoints.load_tensors(mine.sent))
    counts = MetricRecord({"rows": federation.client_rows(job)[domain]})
    return Message(RecordDict({"arrays": sent, "metrics": counts}), reply_to=message)
