"""Training at one domain of a federation, and the end of a round: what the jobs of federation.py do.

fedavg: McMahan, Moore, Ramage, Hampson and Agüera y Arcas (2017), "Communication-efficient learning of deep networks
from decentralized data". fedprox: Li, Sahu, Zaheer, Sanjabi, Talwalkar and Smith (2020), "Federated optimization in
heterogeneous networks". Personal parts: Arivazhagan et al. (2019), "Federated learning with personalization layers".

A round starts from the weights of the one before. Each domain that takes part trains them on its own rows for
regime.local_epochs epochs and sends them; they are averaged by the numbers of rows. The state of a domain's optimizer
stays at the domain from one round to the next, and the learning rate follows train.epochs over all rounds. With one
domain that is central training, byte for byte.

With regime.noise: Abadi et al. (2016), "Deep learning with differential privacy". Rows of a step are Poisson sampled,
the gradient of each row is clipped, and noise is added to their sum. Noise is drawn from the seed of the run, so that
the same seed gives the same bytes; privacy.py has what that means.

Files below the folder of a fold: rounds/ holds what domains sent; clients/DOMAIN/ what stays at a domain: checkpoints
with the optimizer's state and the personal parts; state_*: the averaged weights. All but the ordinary files of a fold
go when it is trained.
"""

from __future__ import annotations

import copy
import itertools
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from src.core import locks, storage
from src.core.errors import UserError
from src.core.executors import reads
from src.core.language import _
from src.core.run_settings import Run
from src.data.corpus import Corpus
from src.data.tasks import get_task
from src.models.classifier import Classifier
from src.training import checkpoints, classification, devices, privacy
from src.training.batching import Batch
from src.training.classification import Classification
from src.training.denoising import Denoiser
from src.training.epoch_reader import Wanted
from src.training.federation import client_rows, epochs_of, rounds_of
from src.training.job_specs import PERSONAL, ClientJob, CloseJob, FoldJob
from src.training.loop import fit
from src.training.objective import History, Validated
from src.training.optimizers import make_optimizer
from src.training.rows import computed_once


@reads(lambda payload: ClientJob(**payload).reads())
def train_client(payload: dict[str, Any], progress: Callable[[dict[str, Any]], None]) -> None:
    """Runs a ClientJob given as a dictionary: reads rows of its domain alone, and leaves what is sent in job.sent."""
    job = ClientJob(**payload)
    with locks.lock(job.kept(job.round).parent / "job.lock"):
        if job.is_done():
            return
        device = torch.device(job.device)
        devices.set_up(device)
        run, task, corpus = Run.model_validate(job.run), get_task(job.task), Corpus.load(job.locate(job.corpus))
        _own, rows = classification.training_rows(job, corpus, task, job.domain)
        model = classification.built_model(job, run, task, device)
        if job.round == 0:
            _send(job, model.input_layer.statistics(**rows.chosen_inputs()), len(rows), {})
            return
        optimizer = make_optimizer(model, run.train, run.train.layer_decay)
        if job.since:
            history, _midway, _state = checkpoints.resume(job.kept(job.since), model, None, optimizer)
            if not history or history[-1]["epoch"] != epochs_of(run, job.since)[-1]:
                told = _("{folder} lacks the state that this domain had left there. Delete {fold} and train it again")
                raise UserError(told.format(folder=job.kept(job.since), fold=job.path))
        start = checkpoints.model_of(job.path, epochs_of(run, job.round)[0] - 1)
        model.load_state_dict({**model.state_dict(), **(shared(start, run) if job.since else start)})
        if job.shape.kind == "series":
            rows = computed_once(rows, model.input_layer, device)
        reading = classification.reading_of(job, run, device)
        denoiser = Denoiser.load(*reading) if reading and run.denoise.in_training else None
        given = task, model, rows, rows, run.train, device, job.precision, denoiser
        objective = Client(*given, run=run, optimizer=optimizer)
        seeds = (
            job.seed,
            job.fold,
            *([job.place] if job.place else []),
        )  # of one domain: those of pooled
        history = fit(objective, seeds, job.kept(job.round), progress, epochs_of(run, job.round))
        sent = model.state_dict() if job.is_last else shared(model.state_dict(), run)
        # The loss of the rows is not covered by the noise of their gradients.
        _send(job, sent, len(rows), {**history[-1], **({"train_loss": None} if run.regime.noise else {})})
        if job.since:
            shutil.rmtree(job.kept(job.since))


def _send(job: ClientJob, tensors: Mapping[str, Tensor], n_rows: int, facts: Mapping[str, Any]) -> None:
    """Writes what leaves a domain: tensors, the number of its rows, its training loss."""
    checkpoints.save_tensors(job.sent, tensors)
    job.target().write({"rows": n_rows, "bytes": job.sent.stat().st_size, **facts})


class Client(Classification):
    """Classification at one domain. fedprox adds half of regime.weight times the squared distance to the weights from
    which the round started."""

    def __init__(self, *args: Any, run: Run, optimizer: torch.optim.Optimizer):
        super().__init__(*args)
        self._optimizer = optimizer
        self.regime = run.regime
        self._pull = run.regime.weight if run.train.regime == "fedprox" else 0.0
        kept = shared(dict(self.model.named_parameters()), run)
        self._start = {name: weight.detach().clone() for name, weight in kept.items()} if self._pull else {}

    def make_optimizer(self) -> torch.optim.Optimizer:
        return self._optimizer

    def batches(self, rng: np.random.Generator, epoch: int = 1) -> Iterator[tuple[Batch, Wanted]]:
        if not self.regime.noise:
            yield from super().batches(rng, epoch)
            return
        for batch, wanted in self._reader.sampled(rng):
            yield batch, wanted._replace(targets=self._learned(wanted.targets))

    def step(self, batch: Batch, wanted: Wanted) -> Tensor:
        if self.regime.noise:
            loss = self._private_gradients(batch, wanted)
        else:
            loss = super().step(batch, wanted)
        weights = dict(self.model.named_parameters())
        for name, start in self._start.items():
            if weights[name].grad is not None:
                weights[name].grad.add_(weights[name].detach() - start, alpha=self._pull)
        return loss

    def _private_gradients(self, batch: Batch, wanted: Wanted) -> Tensor:
        """Puts the sum of the rows' clipped gradients and of noise, divided by the expected number of rows, where
        gradients belong; returns the mean loss. Recurrences have no rule for many gradients at once (torch.func.vmap),
        so there is one pass a row."""
        weights = list(self.model.parameters())
        sums = [torch.zeros_like(weight) for weight in weights]
        losses = [torch.zeros((), device=self.device)]
        for i in range(len(batch.rows)):
            row = slice(i, i + 1)
            length = int(batch.lengths[i])
            one = batch._replace(
                inputs={name: tensor[row, :length] for name, tensor in batch.inputs.items()}, lengths=batch.lengths[row]
            )
            target = Wanted(wanted.targets[row], wanted.weights[row], None)
            losses.append(self.loss(self._compute, one, target))
            gradients = torch.autograd.grad(losses[-1], weights, allow_unused=True)
            norm = torch.stack([gradient.norm() for gradient in gradients if gradient is not None]).norm()
            factor = min(1.0, self.regime.clip / max(float(norm), 1e-12))
            for total, gradient in zip(sums, gradients, strict=True):
                if gradient is not None:
                    total.add_(gradient, alpha=factor)
        expected = min(self.settings.batch_size, len(self._train))
        for weight, total in zip(weights, sums, strict=True):
            noise = torch.randn_like(total) * (self.regime.noise * self.regime.clip)
            weight.grad = (total + noise) / expected
        return torch.stack([loss.detach() for loss in losses]).sum() / max(1, len(batch.rows))

    def validate(self, model: nn.Module) -> None:
        return None

    def is_over(self, history: History) -> bool:
        return False


@reads(lambda payload: CloseJob(**payload).reads())
def close_round(payload: dict[str, Any], progress: Callable[[dict[str, Any]], None]) -> None:
    """Runs a CloseJob given as a dictionary: averages what the domains sent, and validates the average."""
    job = CloseJob(**payload)
    with locks.lock(job.path / "job.lock"):
        if not job.is_done():
            device = torch.device(job.device)
            devices.set_up(device)
            classification.prepare(job, Run.model_validate(job.run), device, progress, job.round).train()


def train_rounds(
    job: FoldJob,
    model: Classifier,
    validate: Callable[[], Validated],
    progress: Callable[[dict[str, Any]], None],
    until: int | None = None,
) -> History:
    """Does the rounds of a fold up to number `until`, the last by default, from the last one that is closed; `model`
    has the first weights and ends with the averaged ones. Domains that have not done their part of a round do it here.

    The history has a line a round: its last epoch, the mean training loss of the domains by their rows, and the
    validation loss of the average, which is not known (None) as long as parts of the model are personal.
    """
    run, rounds = Run.model_validate(job.run), rounds_of(job)
    if run.regime.noise:
        privacy.check()
    began = time.perf_counter() - checkpoints.spent(job.path)
    history, _midway, state = checkpoints.resume(job.path, model, None, None)
    first = int(state["round"]) + 1 if state else 0
    until = len(rounds) - 1 if until is None else until
    for number in range(first, until + 1):
        started = time.perf_counter()
        for client in rounds[number]:
            train_client(asdict(client), lambda news: None)  # returns at once where it is done
        sent = [checkpoints.load_tensors(client.sent) for client in rounds[number]]
        notes = [storage.read_json(client.target().result) for client in rounds[number]]
        if number == 0:
            if sent:
                model.input_layer.fit_to(sent)
        else:
            is_last = number == len(rounds) - 1
            averaged = average([shared(one, run) for one in sent], [note["rows"] for note in notes])
            if is_last:
                averaged |= _averaged_personal(rounds, run)
            model.load_state_dict({**model.state_dict(), **averaged})
            losses = {"train_loss": _mean([note["train_loss"] for note in notes], notes), "valid_loss": None}
            history.append({"epoch": notes[0]["epoch"], "learning_rate": notes[0]["learning_rate"], **losses})
            if is_last or not run.regime.personal:
                history[-1]["valid_loss"] = _validated(validate, number)
                known = [past["valid_loss"] for past in history if past["valid_loss"] is not None]
                if history[-1]["valid_loss"] == min(known):
                    checkpoints.save_weights(job.path / "best.safetensors", model)
        seconds = time.perf_counter() - began
        checkpoints.save(job.path, model, None, None, history, seconds, further={"round": torch.tensor(number)})
        if number:
            took = time.perf_counter() - started
            progress({**history[-1], "epochs": run.train.epochs, "round": number, "seconds": took})
    return history


def _validated(validate: Callable[[], Validated], number: int) -> float:
    valid = validate()
    if not math.isfinite(valid.loss):
        told = _("the validation loss became {loss} after round {number}. Try a lower train.learning_rate")
        raise UserError(told.format(loss=valid.loss, number=number))
    return valid.loss


def shared(tensors: Mapping[str, Tensor], run: Run) -> dict[str, Tensor]:
    """Takes the weights that leave a domain in every round, by their names: all but those of regime.personal."""
    return {name: tensor for name, tensor in tensors.items() if name.split(".")[0] not in run.regime.personal}


def average(parts: Sequence[Mapping[str, Tensor]], sizes: Sequence[int]) -> dict[str, Tensor]:
    """Averages weights of the same names, by the sizes; the sum is float64, so that one part alone is returned as it
    is."""
    shares = [size / sum(sizes) for size in sizes]
    return {
        name: sum(share * part[name].double() for share, part in zip(shares, parts, strict=True)).to(tensor.dtype)
        for name, tensor in parts[0].items()
    }


def _mean(values: Sequence[float | None], notes: Sequence[Mapping[str, Any]]) -> float | None:
    if None in values:
        return None
    return sum(value * note["rows"] for value, note in zip(values, notes, strict=True)) / sum(n["rows"] for n in notes)


def personal_parts(rounds: Sequence[Sequence[ClientJob]], run: Run) -> dict[int, dict[str, Tensor]]:
    """Loads the personal parts of each domain that took part, which it sent in its last round."""
    found = {}
    for client in itertools.chain(*rounds):
        if client.is_last and run.regime.personal:
            tensors = checkpoints.load_tensors(client.sent)
            found[client.domain] = {name: tensors[name] for name in tensors.keys() - shared(tensors, run).keys()}
    return found


def _averaged_personal(rounds: Sequence[Sequence[ClientJob]], run: Run) -> dict[str, Tensor]:
    parts = personal_parts(rounds, run)
    rows = client_rows(rounds[-1][0])
    return average(list(parts.values()), [rows[domain] for domain in parts]) if parts else {}


def keep_personal(job: FoldJob) -> None:
    """Keeps the personal parts beside the weights of a fold, for noisy copies of its rows."""
    parts = personal_parts(rounds_of(job), Run.model_validate(job.run))
    tensors = {f"{domain}.{name}": tensor for domain, own in parts.items() for name, tensor in own.items()}
    checkpoints.save_tensors(job.path / PERSONAL, tensors)


def kept_personal(fold: Path) -> dict[int, dict[str, Tensor]]:
    """Loads what keep_personal() kept, by domain."""
    found: dict[int, dict[str, Tensor]] = {}
    for key, tensor in checkpoints.load_tensors(fold / PERSONAL).items():
        domain, name = key.split(".", 1)
        found.setdefault(int(domain), {})[name] = tensor
    return found


def predict_by_domain(
    model: Classifier,
    parts: Mapping[int, Mapping[str, Tensor]],
    of_row: np.ndarray,
    predict: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Predicts rows of the domains `of_row` (M,), each by the model with the personal parts of its domain, or with
    their average where its domain took no part. `predict` takes places among the rows, (K,), and returns logits
    (K, n_labels) of `model` as it is then."""
    whole = copy.deepcopy(model.state_dict())
    places = [np.flatnonzero(of_row == domain) for domain in parts]
    places.append(np.flatnonzero(~np.isin(of_row, list(parts))))
    logits = np.full((len(of_row), model.n_labels), np.nan, dtype=np.float32)
    for own, chosen in zip([*parts.values(), {}], places, strict=True):
        if len(chosen):
            model.load_state_dict({**whole, **own})
            logits[chosen] = predict(chosen)
    model.load_state_dict(whole)
    return logits


def facts(job: FoldJob) -> dict[str, Any]:
    """Returns what result.json notes of a federation: rounds, and of each domain its rows, rounds and sent bytes, and
    under regime.noise epsilon and delta."""
    run, rounds, domains = Run.model_validate(job.run), rounds_of(job), {}
    epochs: dict[str, int] = {}
    for client in itertools.chain(*rounds):
        note = storage.read_json(client.target().result)
        one = domains.setdefault(str(client.domain), {"rows": note["rows"], "rounds": 0, "bytes": 0})
        one["rounds"] += client.round > 0
        one["bytes"] += note["bytes"]
        epochs[str(client.domain)] = epochs.get(str(client.domain), 0) + len(epochs_of(run, client.round))
        if client.is_last and run.regime.noise:
            one |= privacy.spent(run.regime.noise, note["rows"], run.train.batch_size, epochs[str(client.domain)])
    return {"rounds": len(rounds) - 1, "bytes": sum(one["bytes"] for one in domains.values()), "domains": domains}
