"""pretrain_encoder(): masked language model on all text, without labels, before training.

The text has random wrong words, more of them in the test files than in train. So besides hidden words the model is
shown wrong ones, which it learns to find and to correct.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from src.core import array_files
from src.core.executors import reads
from src.core.run_settings import Pretrain, Run
from src.data.corpus import MASK, Corpus, Stacked, to_words
from src.models.classifier import build_model
from src.models.language import MaskedLanguageModel
from src.training.batching import POOL, Batch, alphabet_of, length_batches, widths_on
from src.training.devices import autocast
from src.training.job_runner import Work, run_job
from src.training.job_specs import PretrainJob
from src.training.loop import fit, seed_of
from src.training.masking import Questions, ask
from src.training.objective import History, Objective, Validated
from src.training.rows import n_files, numbered_on
from src.training.steps import is_recordable

HELD_OUT = 50
"""One report in so many is held out for the validation loss."""
JUDGED = 256
"""Reports in a validation batch."""
IGNORED = -100
"""Target that torch's cross-entropy leaves out."""


class Text(NamedTuple):
    """All reports, of several corpora one behind the other."""

    tokens: np.ndarray | Stacked
    """(N, max_len)"""
    lengths: np.ndarray | Stacked
    """(N,)"""
    ids: np.ndarray | Stacked
    """(N,) bytes"""
    domain: np.ndarray
    """(N,) number of the file that a report is from, see Batch.domain"""

    @classmethod
    def of(cls, corpora: Sequence[Corpus]) -> Text:
        parts = (Stacked([getattr(corpus, name) for corpus in corpora]) for name in ("tokens", "lengths", "ids"))
        return cls(*parts, numbered_on([corpus.sources for corpus in corpora], list(map(n_files, corpora))))


class Asked(NamedTuple):
    """Targets of a batch."""

    places: Tensor | None
    """(K,) int64 in the flattened batch; None: K = B * T, all places"""
    words: Tensor
    """(K,) int64 right words at these places, counted from the first word; where none is asked for, IGNORED"""
    shown: Tensor
    """(B, T) bool: words that may be replacements, so neither hidden words nor padding"""
    replaced: Tensor
    """(B, T) float32: 1 where the shown word is a replacement"""


class Language(Objective):
    """Cross-entropy of the words asked for, at their places alone, and, times settings.detection, of which shown words
    are replacements.
    """

    part = "pretrain"

    def __init__(
        self,
        model: MaskedLanguageModel,
        text: Text,
        settings: Pretrain,
        device: torch.device,
        precision: str,
        rows: np.ndarray | None = None,
    ):
        """`rows` (R,) of the text that are read; None: all."""
        super().__init__(model, settings, device)
        self._text, self._precision = text, precision
        rows = np.arange(len(text.tokens)) if rows is None else rows
        dealt = np.random.default_rng(settings.seed).permutation(rows)
        held_out = max(1, len(rows) // HELD_OUT)
        self._valid, self._train = np.sort(dealt[:held_out]), np.sort(dealt[held_out:])
        self._alphabet = alphabet_of(text.tokens, rows)
        self.n_batches = -(-len(self._train) // settings.batch_size)

    def batches(self, rng: np.random.Generator, epoch: int = 1) -> Iterator[tuple[Batch, Asked]]:
        order, size = rng.permutation(self._train), self.settings.batch_size
        for start in range(0, len(order), POOL * size):
            pool = list(self._questions(order[start : start + POOL * size], size, rng, self.has_graphs))
            for i in rng.permutation(len(pool)):
                yield pool[i]

    def loss(self, compute: Callable[..., tuple[Tensor, Tensor]], batch: Batch, wanted: Asked) -> Tensor:
        with autocast(self._precision, self.device):
            words, odd = compute(batch.inputs, batch.lengths, wanted.places)
        loss = functional.cross_entropy(words.float(), wanted.words)
        if not self.settings.detection:
            return loss
        cells = functional.binary_cross_entropy_with_logits(odd.float(), wanted.replaced, reduction="none")
        return loss + self.settings.detection * (cells * wanted.shown).sum() / wanted.shown.sum().clamp_min(1)

    def validate(self, model: MaskedLanguageModel) -> Validated:
        """Asks the same questions each time."""
        model.eval()
        total, broken = 0.0, []
        with torch.inference_mode():
            for batch, wanted in self._questions(self._valid, JUDGED, np.random.default_rng(0)):
                loss = self.loss(model, batch, wanted).item()
                total += loss * len(batch.rows)
                if not math.isfinite(loss):
                    broken.append(batch.rows[self._is_broken(model, batch, wanted)])
        return Validated(total / len(self._valid), self.ids(np.concatenate([*broken, self._valid[:0]])))

    def _is_broken(self, model: MaskedLanguageModel, batch: Batch, wanted: Asked) -> np.ndarray:
        """Finds the reports of a batch whose own loss is not finite: bool (B,)."""
        with autocast(self._precision, self.device):
            words, odd = model(batch.inputs, batch.lengths, wanted.places)
        losses = functional.cross_entropy(words.float(), wanted.words, reduction="none")
        is_broken = (~odd.isfinite() & wanted.shown).any(dim=1) & bool(self.settings.detection)
        is_broken[wanted.places[~losses.isfinite()] // odd.shape[1]] = True
        return is_broken.cpu().numpy()

    @property
    def is_recordable(self) -> bool:
        return is_recordable(self.model)

    def ids(self, rows: np.ndarray) -> np.ndarray:
        return self._text.ids[rows]

    def is_over(self, history: History) -> bool:
        """Returns True if the last epoch's training loss is below stop_loss."""
        limit = self.settings.stop_loss
        return bool(history) and limit is not None and history[-1]["train_loss"] < limit

    def _questions(
        self, rows: np.ndarray, batch_size: int, rng: np.random.Generator, everywhere: bool = False
    ) -> Iterator[tuple[Batch, Asked]]:
        """Yields batches of questions about the reports in `rows`. `everywhere`: the model answers at all places, which
        costs more, so that shapes do not depend on the number of words that are asked for."""
        tokens, lengths, domain = self._text.tokens[rows], self._text.lengths[rows], self._text.domain[rows]
        questions = ask(tokens, lengths, self.settings, self._alphabet, rng)
        inputs = {"tokens": questions.shown}
        for batch in length_batches(inputs, lengths, batch_size, self.device, widths_on(self.device), domain=domain):
            width = batch.inputs["tokens"].shape[1]
            part = Questions(*(array[batch.rows, :width] for array in questions))
            places = np.flatnonzero(part.asked)
            words = to_words(tokens[batch.rows, :width].ravel()[places].astype(np.int64))
            if everywhere:
                asked, words = words, np.full(part.asked.size, IGNORED)
                words[places] = asked
            shown = (part.shown != MASK) & (np.arange(width) < lengths[batch.rows, None])
            arrays = words, shown, part.replaced.astype(np.float32)
            words, shown, replaced = (torch.from_numpy(array).to(self.device) for array in arrays)
            places = None if everywhere else torch.from_numpy(places).to(self.device)
            yield batch._replace(rows=rows[batch.rows]), Asked(places, words, shown, replaced)


@reads(lambda payload: PretrainJob(**payload).reads())
def pretrain_encoder(payload: dict[str, Any], progress: Callable[[dict[str, Any]], None]) -> None:
    """Runs a PretrainJob given as a dictionary. Leaves in its folder last.safetensors, history.csv and, written last,
    result.json.
    """
    job = PretrainJob(**payload)
    run_job(job, lambda run, device: _prepare(job, run, device, progress))


def _prepare(job: PretrainJob, run: Run, device: torch.device, progress: Callable[[dict[str, Any]], None]) -> Work:
    text = Text.of([Corpus.load(job.locate(corpus)) for corpus in job.corpora])
    rows = np.arange(len(text.tokens))
    if job.left_out:  # train is the first corpus
        rows = np.setdiff1d(rows, array_files.read_npy(job.locate(job.left_out)))
    torch.manual_seed(seed_of(run.pretrain.seed))
    vectors = torch.from_numpy(array_files.read_npy(job.locate(job.vectors))) if job.vectors else None
    model = MaskedLanguageModel(build_model(run.model, job.shape, 1, vectors)).to(device)

    def finish(history: History) -> dict[str, Any]:
        (job.path / "best.safetensors").unlink(missing_ok=True)
        return {"reports": len(rows)}

    objective = Language(model, text, run.pretrain, device, job.precision, rows)
    return Work(model, lambda: fit(objective, (run.pretrain.seed, 0), job.path, progress), finish)
