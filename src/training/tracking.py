"""Learning curves and scores written for TensorBoard or MLflow too, where `track` asks for it.

The process that hears the news of the workers writes them: curves grow while models train, and nothing that is computed
depends on it. Each point is written once, however often a command is killed or repeated: a name ends in what stands for
all that was trained under it, and what is there by that name is read first. What a killed command did not come to write
is taken from history.csv at the end.
"""

from __future__ import annotations

import csv
import importlib.util
import logging
import os
import textwrap
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import yaml

from src.core import storage
from src.core.errors import UserError
from src.core.executors import Failure, Job
from src.core.language import _
from src.core.settings import Config, fingerprint
from src.core.storage import Output
from src.core.terminal import warn
from src.core.yaml_reader import read_yaml
from src.training.job_specs import FoldJob, PretrainJob

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from torch.utils.tensorboard import SummaryWriter

PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow-skinny"}
"""Imported module of each tracker, and the package that installs it."""
INSTALL = ".venv/bin/pip install -r docs/requirements-tracking.txt"
CURVES = ("learning_rate", "train_loss", "valid_loss")
SCORES = ("score", "mlogloss", "exact_match", "calibration_error")
MEANS = ("roc_auc", "pr_auc", "sensitivity", "specificity")
"""Over labels."""
EXPERIMENT = "ct-reports"
"""Name of MLflow's experiment for reports; a clinical task has one of its own name."""

Point = tuple[str, int]
"""Name and step of a measured value."""


class Tracker(Protocol):
    """Keeps series of numbers by name, such as lstm/fold_0.split_2021.seed_1.1a2b3c4d."""

    def start(self, name: str, settings: dict[str, Any]) -> set[Point]:
        """Before anything else by that name; the points that are there already, also from earlier commands."""
        ...

    def log(self, name: str, step: int, values: dict[str, float]) -> None: ...

    def finish(self, name: str) -> None:
        """All is there that will ever be."""
        ...


class Tracking:
    """Tracker of a command, and Watcher of its training jobs. Does nothing if track=none."""

    def __init__(self, tracker: Tracker | None):
        self._tracker = tracker
        self._written: dict[str, set[Point]] = {}

    def step(self, job: Job, news: dict[str, Any]) -> None:
        self._write(_name(job.payload["folder"]), job.payload["run"], [(news["epoch"], _curves(news))])

    def finish(self, job: Job, failure: Failure | None) -> None:
        """history() ends a name: it serves the jobs that were done before as well."""

    def history(self, job: FoldJob | PretrainJob) -> None:
        """Writes what is missing of a finished job's learning curve."""
        if self._tracker is not None:
            with (job.path / "history.csv").open(encoding="utf-8") as file:
                points = [(int(row["epoch"]), _curves(row)) for row in csv.DictReader(file)]
            self._write(_name(job.folder), job.run, points, is_whole=True)

    def score(self, run: Path) -> None:
        """The scores of a finished run, a model or a blend, from its folder."""
        if self._tracker is not None:
            score = storage.read_json(run / "score.json")
            settings = read_yaml(run / "config.yaml")
            settings |= {"members": list(storage.read_json(run / "run.json").get("members", []))}
            overall = score["overall"]
            if "figures" in overall:
                figures = {"score": overall["score"], **overall["figures"]}
            else:
                figures = {key: overall[key] for key in SCORES} | {key: overall["macro"][key] for key in MEANS}
            values = {key: figure["value"] for key, figure in figures.items() if figure["value"] is not None}
            self._write(f"{run.name}/score.{score['fingerprint'][:8]}", settings, [(0, values)], is_whole=True)

    def trial(self, study: str, number: int, settings: dict[str, Any], values: dict[str, float]) -> None:
        """Writes the settings and figures of a complete trial of a study."""
        stamp = fingerprint({"settings": settings, "values": values})
        self._write(f"tune_{study}/trial_{number}.{stamp[:8]}", settings, [(0, values)], is_whole=True)

    def _write(
        self,
        name: str,
        settings: dict[str, Any],
        points: Iterable[tuple[int, dict[str, float]]],
        is_whole: bool = False,
    ) -> None:
        if self._tracker is None:
            return
        try:
            if name not in self._written:
                self._written[name] = self._tracker.start(name, settings)
            for step, values in points:
                new = {what: value for what, value in values.items() if (what, step) not in self._written[name]}
                if new:
                    self._tracker.log(name, step, new)
                    self._written[name] |= {(what, step) for what in new}
            if is_whole:
                self._tracker.finish(name)
        except Exception as error:  # whatever a library or its database raises: hours of training do not end for it
            warn(
                _(
                    "track: {error}\nNothing more is tracked now. The same command, later, writes what is missing"
                ).format(error=error)
            )
            self._tracker = None


class TensorBoard:
    """Event files, in a folder for each name."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._settings: dict[str, dict[str, Any]] = {}
        self._writers: dict[str, SummaryWriter] = {}

    def start(self, name: str, settings: dict[str, Any]) -> set[Point]:
        from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

        self._settings[name] = settings
        if not (self._folder / name).exists():
            return set()
        found = EventAccumulator(str(self._folder / name), {SCALARS: 0}).Reload()
        return {(tag, event.step) for tag in found.Tags()[SCALARS] for event in found.Scalars(tag)}

    def log(self, name: str, step: int, values: dict[str, float]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if name not in self._writers:  # made as late as this, or each command would leave a file with nothing in it
            is_new = not (self._folder / name).exists()
            self._writers[name] = SummaryWriter(str(self._folder / name))
            if is_new:
                shown = yaml.safe_dump(self._settings[name], sort_keys=False)
                self._writers[name].add_text("settings", textwrap.indent(shown, "    "))
        for what, value in values.items():
            self._writers[name].add_scalar(what, value, step)
        self._writers[name].flush()

    def finish(self, name: str) -> None:
        if name in self._writers:
            self._writers.pop(name).close()


class MLflow:
    """Runs of one experiment in a database."""

    def __init__(self, uri: str, experiment: str):
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # or it tells its makers that it is used
        # A server that is gone would hold up training for minutes at each epoch: workers wait for who hears them.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # or it tells that it makes its tables
        self._client: MlflowClient = MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(experiment)
        self._experiment = found.experiment_id if found else self._client.create_experiment(experiment)
        self._ids: dict[str, str] = {}
        """MLflow's ids of the runs, by name."""
        self._unfinished: set[str] = set()

    def start(self, name: str, settings: dict[str, Any]) -> set[Point]:
        from mlflow.entities import Param

        found = self._client.search_runs([self._experiment], f"attributes.run_name = '{name}'")
        run = found[0] if found else self._client.create_run(self._experiment, run_name=name)
        params = [Param(key, str(value)) for key, value in flat(settings).items() if key not in run.data.params]
        if params:
            self._client.log_batch(run.info.run_id, params=params)
        self._ids[name] = run.info.run_id
        if run.info.status != "FINISHED":
            self._unfinished.add(name)
        histories = (self._client.get_metric_history(run.info.run_id, what) for what in run.data.metrics)
        return {(point.key, point.step) for history in histories for point in history}

    def log(self, name: str, step: int, values: dict[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(self._ids[name], [Metric(what, value, now, step) for what, value in values.items()])

    def finish(self, name: str) -> None:
        if name in self._unfinished:
            self._client.set_terminated(self._ids[name])
            self._unfinished.remove(name)


def check(config: Config) -> None:
    """Raises UserError, with the command, where what `track` asks for is not installed."""
    if config.track != "none" and importlib.util.find_spec(config.track) is None:
        raise UserError(
            _("track={track} needs {packages}. Install it with: {install}").format(
                track=config.track, packages=PACKAGES[config.track], install=INSTALL
            )
        )


def tracking_of(config: Config) -> Tracking:
    """Tracking for the setting `track`. Raises UserError for a database that cannot be opened."""
    output = Output(config.paths.output)
    if config.track == "none":
        return Tracking(None)
    if config.track == "tensorboard":
        return Tracking(TensorBoard(output.tensorboard))
    uri = config.track_uri or f"sqlite:///{output.mlflow.resolve()}"
    output.root.mkdir(parents=True, exist_ok=True)
    try:
        return Tracking(MLflow(uri, config.task if config.is_clinical else EXPERIMENT))
    except Exception as error:  # each database raises its own
        raise UserError(_("track_uri: {uri} cannot be opened: {error}").format(uri=uri, error=error)) from None


def flat(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Dotted keys, as on the command line."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return found


def _name(folder: str) -> str:
    return "/".join(Path(folder).parts[-2:])


def _curves(epoch: Mapping[str, Any]) -> dict[str, float]:
    """Values of an epoch, as the news of a job or a line of history.csv; without those that are not known."""
    return {what: float(epoch[what]) for what in CURVES if epoch[what] not in (None, "")}
