"""train_fold(): one model on one fold. Classification: the objective of training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from src.core import array_files
from src.core.executors import reads
from src.core.run_settings import Run, Train
from src.data.corpus import Corpus, Stacked
from src.data.tasks import Task, get_task
from src.models.classifier import BODY, Classifier, build_model
from src.models.tabular import TabularModel, fit_tabular
from src.training import checkpoints
from src.training.adversarial import moved
from src.training.batching import Batch
from src.training.denoising import Denoiser, denoised_views
from src.training.devices import autocast, compiled
from src.training.epoch_reader import EpochReader, Wanted
from src.training.federation import clean, is_federated
from src.training.inference import mean_logits, predict_logits
from src.training.job_runner import Work, run_job
from src.training.job_specs import Beside, FoldJob
from src.training.loop import fit, seed_of
from src.training.objective import History, Objective, Validated
from src.training.optimizers import make_optimizer
from src.training.rows import Rows, computed_once
from src.training.steps import is_recordable


@reads(lambda payload: FoldJob(**payload).reads())
def train_fold(payload: dict[str, Any], progress: Callable[[dict[str, Any]], None]) -> None:
    """Runs a FoldJob given as a dictionary.

    Leaves in its folder best.safetensors and last.safetensors (weights), logits.npy (N, n_labels) of the predicted
    rows, valid_logits.npy where the job has `valid`, history.csv and, written last, result.json.
    """
    job = FoldJob(**payload)
    run_job(job, lambda run, device: prepare(job, run, device, progress))
    if is_federated(job):
        clean(job)


def prepare(
    job: FoldJob,
    run: Run,
    device: torch.device,
    progress: Callable[[dict[str, Any]], None],
    until: int | None = None,
) -> Work:
    """Loads what a FoldJob reads and builds its model. `until`: number of the last round of a federation that is to be
    closed; the last of all by default."""
    from src.training import federated  # imports this module

    task, corpus = get_task(job.task), Corpus.load(job.locate(job.corpus))
    reading = reading_of(job, run, device)

    def views(folders: Sequence[str]) -> list[dict[str, Stacked]]:
        """Inputs of the corpora in `folders`, one behind the other, in each view."""
        paths = list(map(job.locate, folders))
        found = [denoised_views(path, *reading) if reading else [Corpus.load(path).inputs] for path in paths]
        return [{name: Stacked([part[name] for part in view]) for name in view[0]} for view in zip(*found, strict=True)]

    split = array_files.read_npz(job.locate(job.split))
    predicted, valid = split["predicted_rows"], Rows.of(corpus, split["valid_rows"])
    valid_views = views(job.valid_corpora)  # epochs are validated on the first view alone
    if job.valid:
        lengths = Stacked([Corpus.load(job.locate(folder)).lengths for folder in job.valid_corpora])
        valid = Rows.judged(job.locate(job.valid), corpus, valid_views[0], lengths)
    valid = replace(valid, inputs=valid_views[0])
    model = built_model(job, run, task, device)
    if run.is_fitted:
        _own, train = training_rows(job, corpus, task)
        if job.pretrained:
            checkpoints.load_parts(job.locate(job.pretrained), model, BODY)

        def fitted() -> History:
            started = time.perf_counter()
            if isinstance(model, TabularModel):
                fit_to_rows(task, model, train, run.train, seed_of(job.seed, job.fold))
            else:
                fit_head(task, model, train, run.train, device)
            losses = [validated(task, model, rows, device, "fp32").loss for rows in (train, valid)]
            checkpoints.save_weights(job.path / "best.safetensors", model)
            epoch = {"epoch": 1, "learning_rate": 0.0, "train_loss": losses[0], "valid_loss": losses[1]}
            progress({**epoch, "epochs": 1, "seconds": time.perf_counter() - started})
            return [epoch]  # a history of one epoch stands for a fit

    elif is_federated(job):
        if job.pretrained:
            checkpoints.load_parts(job.locate(job.pretrained), model, BODY)

        def fitted() -> History:
            def validate() -> Validated:
                return validated(task, model, valid, device, job.precision)

            return federated.train_rounds(job, model, validate, progress, until)

    else:
        own, train = training_rows(job, corpus, task)
        if job.shape.kind == "series":
            model.input_layer.fit(**own.chosen_inputs())
        if job.pretrained:
            checkpoints.load_parts(job.locate(job.pretrained), model, BODY)
        if job.initial:
            checkpoints.load_weights(job.locate(job.initial), model)
        denoiser = Denoiser.load(*reading) if reading and run.denoise.in_training else None
        outcomes = None
        if job.outcomes:
            outcomes = standardised_outcomes(job.locate(job.outcomes), job.shape.outcomes, own.chosen, len(train))
        seen = [train, valid]
        if job.shape.kind == "series":
            seen = [computed_once(rows, model.input_layer, device) for rows in seen]
        objective = make_objective(run, task, model, *seen, run.train, device, job.precision, denoiser, outcomes)

        def fitted() -> History:
            return fit(objective, (job.seed, job.fold), job.path, progress)

    def logits_of(views: list[dict[str, Stacked]], lengths: np.ndarray, rows: np.ndarray, train_rows: np.ndarray):
        def predict(places: np.ndarray) -> np.ndarray:
            return mean_logits(model, views, lengths, device, rows[places], doubt=run.denoise.doubt)

        if is_federated(job) and run.regime.personal:
            of_row = array_files.read_npy(job.locate(job.domains))[train_rows]
            return federated.predict_by_domain(model, federated.kept_personal(job.path), of_row, predict)
        return predict(np.arange(len(rows)))

    def finish(history: History) -> dict[str, Any]:
        if run.train.patience:
            checkpoints.load_weights(job.path / "best.safetensors", model)
        if is_federated(job) and run.regime.personal:
            federated.keep_personal(job)
        logits = logits_of(views([job.corpus]), corpus.lengths, predicted, predicted)
        array_files.write_npy(job.path / "logits.npy", logits)
        if job.valid:
            copied = array_files.read_npz(job.locate(job.valid))["rows"]
            logits = logits_of(valid_views, valid.lengths, valid.chosen, copied)
            array_files.write_npy(job.path / "valid_logits.npy", logits)
        judged = [epoch for epoch in history if epoch["valid_loss"] is not None]
        best = min(judged, key=lambda epoch: epoch["valid_loss"])
        return {
            "task": task.name,
            "denoiser": job.denoiser,
            "pretrained": job.pretrained,
            "teachers": sorted({"/".join(f.split("/")[-3:-1]) for one in job.beside for f in one["logits"]}),
            "n_labels": task.n_labels,
            "fold": job.fold,
            "seed": job.seed,
            "weights": job.kept,
            "best_epoch": best["epoch"],
            "best_valid_loss": best["valid_loss"],
            **({"federation": federated.facts(job)} if is_federated(job) else {}),
        }

    return Work(model, fitted, finish)


def reading_of(job: FoldJob, run: Run, device: torch.device) -> tuple[Any, ...] | None:
    """Returns what denoising is given: training reports are denoised batch by batch, after noise was put on them; all
    others once. None: no denoising."""
    return (job.locate(job.denoiser), run.denoise, device, job.precision) if job.denoiser else None


def built_model(job: FoldJob, run: Run, task: Task, device: torch.device) -> Classifier | TabularModel:
    """Builds the model of a FoldJob with its first weights."""
    torch.manual_seed(seed_of(job.seed, job.fold, 0))
    vectors = torch.from_numpy(array_files.read_npy(job.locate(job.vectors))) if job.vectors else None
    return build_model(run.model, job.shape, task.n_labels, vectors, run.features, run.train).to(device)


def training_rows(job: FoldJob, corpus: Corpus, task: Task, domain: int | None = None) -> tuple[Rows, Rows]:
    """Loads the train rows of a FoldJob, of one `domain` or of all, alone and with the rows of further corpora behind
    them."""
    chosen = array_files.read_npz(job.locate(job.split))["train_rows"]
    of_row = array_files.read_npy(job.locate(job.domains)) if job.domains else None
    if domain is not None:
        chosen = chosen[of_row[chosen] == domain]
    own = Rows.of(corpus, chosen)
    if job.weights:
        own = replace(own, weights=array_files.read_npy(job.locate(job.weights))[chosen].astype(np.float32))
    if of_row is not None:
        own = replace(own, domain=of_row[chosen], n_domains=int(of_row.max()) + 1)
    others = [Rows.beside(Beside(**beside), job.locate, task) for beside in job.beside]
    return own, Rows.joined([own, *others])


def make_objective(run: Run, *args: Any) -> Classification:
    """Returns the objective of a run's regime; further arguments are those of Classification."""
    from src.training.regimes import OBJECTIVES

    if kind := OBJECTIVES.get(run.train.regime):
        return kind(*args, regime=run.regime)
    return Classification(*args)


class Classification(Objective):
    """Loss of the task, over batches with noise.

    With settings.consistency each report is seen with two draws of noise and dropout; the loss is the mean of both and,
    times that number, the symmetric Kullback-Leibler divergence of the two predictions: R-Drop (Liang et al. 2021).
    """

    part = "train"

    def __init__(
        self,
        task: Task,
        model: Classifier,
        train: Rows,
        valid: Rows,
        settings: Train,
        device: torch.device,
        precision: str,
        denoiser: Denoiser | None = None,
        outcomes: Tensor | None = None,
    ):
        """`outcomes` (N, K) of the train rows, standardised, with NaN where unknown: see settings.outcome_weight."""
        super().__init__(model, settings, device)
        self._task, self._train, self._precision, self._denoiser = task, train, precision, denoiser
        learned, self._valid = (
            replace(rows, labels=self._learned(torch.from_numpy(rows.labels)).numpy()) for rows in (train, valid)
        )
        self._positive_weight = positive_weight(learned.labels, settings).to(device)
        self._label_weight = None
        if settings.types_weight != 1:
            self._label_weight = torch.from_numpy(task.label_weights(settings.types_weight)).to(device)
        self._reader = EpochReader(train, settings, device, denoiser, task)
        self._own, self._own_reader = None, self._reader
        if settings.own_epochs and train.is_extra is not None:
            self._own = np.flatnonzero(~train.is_extra)
            self._own_reader = EpochReader(train.only(self._own), settings, device, denoiser, task)
        self._outcomes = None if outcomes is None else outcomes.to(device)
        self._compute = compiled(model, device) if settings.compile else model
        self.n_batches = self._reader.n_batches

    def batches(self, rng: np.random.Generator, epoch: int = 1) -> Iterator[tuple[Batch, Wanted]]:
        reader = self._reader_of(epoch)
        for batch, wanted in reader.batches(rng):
            if self._own is not None and reader is self._own_reader:
                batch = batch._replace(rows=self._own[batch.rows])
            yield batch, wanted._replace(targets=self._learned(wanted.targets))

    def n_batches_of(self, epoch: int) -> int:
        return self._reader_of(epoch).n_batches

    def _reader_of(self, epoch: int) -> EpochReader:
        """Reader of an epoch, from 1: the last settings.own_epochs are without extra rows, also as partners."""
        return self._own_reader if epoch > self.settings.epochs - self.settings.own_epochs else self._reader

    def _learned(self, labels: Tensor) -> Tensor:
        """Labels (B, n_labels) that the loss counts; the others are NaN, unknown. See settings.group_rows."""
        if self.settings.group_rows == "all":
            return labels
        return self._task.counted_labels(labels.to(torch.float32))

    def loss(self, compute: Callable[..., Tensor], batch: Batch, wanted: Wanted) -> Tensor:
        if isinstance(self.model, Classifier) and self.model.auxiliary is not None:
            return self._with_auxiliary(batch, wanted)
        outputs = []
        for copy in [batch] if wanted.twin is None else [batch, wanted.twin]:
            with autocast(self._precision, self.device):
                outputs.append(compute(copy.inputs, copy.lengths))
        outputs = [logits.float() for logits in outputs]
        losses = [self._of_labels(logits, wanted.targets, wanted.weights) for logits in outputs]
        if wanted.twin is None:
            return losses[0]
        if self.settings.group_rows == "counted":  # what is not learned may differ
            outputs = [logits.where(~wanted.targets.isnan(), 0) for logits in outputs]
        distance = (self._task.disagreement(*outputs) * wanted.weights).mean()
        return sum(losses) / 2 + self.settings.consistency * distance

    def _of_labels(self, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Loss of the labels: logits and targets (B, n_labels), sample weights (B,)."""
        weighting = weights, self._positive_weight, self.settings.regression_loss, self._label_weight
        return self._task.loss(logits, targets, *weighting)

    def _with_auxiliary(self, batch: Batch, wanted: Wanted) -> Tensor:
        """Loss of the labels and, by their weights, of forecasts and further outcomes."""
        outcomes = None if self._outcomes is None else self._outcomes[torch.from_numpy(batch.rows)]
        with autocast(self._precision, self.device):
            logits, forecast, outcome = self.model.with_auxiliary(batch.inputs, batch.lengths, outcomes)
        loss = self._of_labels(logits.float(), wanted.targets, wanted.weights)
        return loss + self.settings.forecast_weight * forecast + self.settings.outcome_weight * outcome

    def step(self, batch: Batch, wanted: Wanted) -> Tensor:
        """Computes loss and gradients; settings.attack adds the gradients at the attacked weights."""
        loss = self.loss(self._compute, batch, wanted)
        loss.backward()
        if self.settings.attack != "none":
            with moved(self.model, self.settings.attack, self.settings.attack_size):
                self.loss(self._compute, batch, wanted).backward()
        return loss

    def validate(self, model: Classifier) -> Validated:
        """Averages the loss over labels, then over reports by their weights."""
        return validated(self._task, model, self._valid, self.device, self._precision)

    @property
    def is_recordable(self) -> bool:
        """True for what was tried as a graph: other objectives choose rows on the CPU, and a denoiser mixes words."""
        return type(self) is Classification and self._denoiser is None and is_recordable(self.model)

    def ids(self, rows: np.ndarray) -> np.ndarray:
        return self._train.ids[rows]

    def is_over(self, history: History) -> bool:
        """Returns True if the last `patience` epochs brought no better validation loss."""
        losses = [epoch["valid_loss"] for epoch in history]
        patience = self.settings.patience
        return bool(patience and losses and len(losses) - 1 - losses.index(min(losses)) >= patience)

    def make_optimizer(self) -> torch.optim.Optimizer:
        return make_optimizer(self.model, self.settings, self.settings.layer_decay)


SKEWED = {"Length_of_stay"}
"""Outcomes of which the logarithm is predicted."""


def standardised_outcomes(path: Path, names: Sequence[str], rows: np.ndarray, size: int) -> Tensor:
    """Further outcomes (size, K) of training rows: those of the train `rows`, standardised, then NaN for all others."""
    known = array_files.read_npz(path, "prepare")
    columns = [np.log1p(known[name]) if name in SKEWED else known[name] for name in names]
    table = np.stack(columns, axis=1)[rows].astype(np.float64)
    mean, scale = np.nanmean(table, axis=0), np.nanstd(table, axis=0)
    found = np.full((size, len(names)), np.nan, dtype=np.float32)
    found[: len(rows)] = (table - mean) / np.where(scale > 0, scale, 1)
    return torch.from_numpy(found)


def validated(
    task: Task, model: Classifier | TabularModel, valid: Rows, device: torch.device, precision: str
) -> Validated:
    """Averages the loss of a model over labels, then over the rows by their weights."""
    logits = predict_logits(model, valid.inputs, valid.lengths, device, valid.chosen, precision)
    targets, weights = torch.from_numpy(valid.labels).to(torch.float32), torch.from_numpy(valid.weights)
    losses = task.losses(torch.from_numpy(logits), targets)
    return Validated(((losses * weights).sum() / weights.sum()).item(), valid.ids[~losses.isfinite().numpy()])


def fit_to_rows(task: Task, model: TabularModel, train: Rows, settings: Train, seed: int) -> None:
    """Fits a tabular model to training rows, with their weights and those of train.pos_weight."""
    targets = task.targets(torch.from_numpy(train.labels).to(torch.float32)).numpy()
    weights = train.weights
    if task.has_classes:
        targets, factors = with_class_weights(targets, positive_weight(train.labels, settings).numpy(), task.kind)
        weights = weights * factors
    lengths = np.asarray(train.lengths[train.chosen])
    fit_tabular(model, train.chosen_inputs(), lengths, targets, weights, seed, task.kind)


def fit_head(task: Task, model: Classifier, train: Rows, settings: Train, device: torch.device) -> None:
    """Fits a head of neighbours to the pooled features of training rows."""
    labels = train.labels.astype(np.float32)
    if settings.group_rows == "counted":
        labels = task.counted_labels(torch.from_numpy(labels)).numpy()
    features = predict_logits(Pooled(model), train.inputs, train.lengths, device, train.chosen)
    model.head.fit(features, labels, train.weights.astype(np.float64))


class Pooled(nn.Module):
    """A classifier up to its head: inputs and lengths -> pooled features (B, D)."""

    def __init__(self, model: Classifier):
        super().__init__()
        self.model, self.n_labels = model, model.pooling.size + model.input_layer.context_size

    def forward(self, inputs: dict[str, Tensor], lengths: Tensor) -> Tensor:
        return self.model.pooled(inputs, lengths)


def with_class_weights(shares: np.ndarray, positive: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, L) and row weights (N,) whose loss is that of `shares` (N, L) with the weights `positive` (L,)
    of positives: of one label, or of exclusive classes."""
    counted = shares * positive
    total = counted.sum(axis=1, keepdims=True) if kind == "multiclass" else counted + 1 - shares
    return counted / total, total[:, 0]


def positive_weight(labels: np.ndarray, settings: Train) -> Tensor:
    """Weight (n_labels,) of each label's positives: ones, or negatives / positives of the rows that have the label; a
    label without positives keeps 1."""
    if settings.pos_weight == "none":
        return torch.ones(labels.shape[1])
    positives, known = np.nansum(labels, axis=0, dtype=np.float64), np.count_nonzero(~np.isnan(labels), axis=0)
    weights = np.where(positives > 0, (known - positives) / np.maximum(positives, 1), 1.0)
    return torch.from_numpy(weights).to(torch.float32)
