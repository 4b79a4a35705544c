"""Contenders that use common libraries instead of the product.

Files are read by pandas with a regular expression. Training and prediction use the textbook PyTorch loop: reports
padded to 104, a Dataset and a DataLoader, AdamW with its defaults, all threads, the loss read at every step. Models are
those of the product, so that both compute the same.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np

from src.bench.data import encoded, synthetic
from src.core.errors import UserError

OWN = ("seeds", "epochs", "batch_size", "precision", "learning_rate", "weight_decay", "warmup", "clip_norm")
"""Training settings that the textbook loop supports."""


def read_columns(path: str) -> Callable[[], dict]:
    """Times reading columns of text, without checks and without parsing tokens."""
    import pandas as pd

    def once() -> dict:
        table = pd.read_csv(path, sep=r"\|,\|", engine="python", header=None)
        return {"work": len(table), "rows": len(table)}

    return once


def read_tokens(path: str) -> Callable[[], dict]:
    """Times reading descriptions as arrays of integers, without checks and without parsing labels."""
    import pandas as pd

    def once() -> dict:
        table = pd.read_csv(path, sep=r"\|,\|", engine="python", header=None)
        reports = [np.array([int(token) for token in text.split()], np.uint16) for text in table[1]]
        total = sum(int(tokens.sum()) for tokens in reports)
        return {"work": len(table), "rows": len(reports), "tokens": sum(map(len, reports)), "sum": total}

    return once


def _dataset(
    tokens: np.ndarray, lengths: np.ndarray, labels: np.ndarray, replacement: float = 0.0, vocabulary: int = 861
) -> Any:
    import torch

    class Reports(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(tokens)

        def __getitem__(self, i: int) -> tuple:
            row = tokens[i].astype(np.int64)
            if replacement:
                hit = np.flatnonzero(np.random.random(lengths[i]) < replacement)
                row[hit] = np.random.randint(3, vocabulary, len(hit))
            return torch.from_numpy(row), int(lengths[i]), torch.from_numpy(labels[i].astype(np.float32))

    return Reports()


class Textbook:
    """Training loop of a PyTorch tutorial for a Run, with the computations of fit()."""

    def __init__(
        self, run: dict, train: tuple, valid: tuple, n_labels: int, vocabulary: int, precision: str, seed: int
    ):
        """Prepares the loop for `train` and `valid`: tokens (N, max_len), lengths (N,) and labels (N, n_labels).

        Raises UserError for training settings that the loop does not support.
        """
        import torch

        from src.core.run_settings import Run, Train
        from src.data.inputs import token_shape
        from src.models.classifier import build_model
        from src.training.optimizers import schedule

        self.settings, self.precision = Run.model_validate(run), precision
        settings = self.settings.train
        plain = Train(
            **{name: getattr(settings, name) for name in OWN}, noise={"replacement": settings.noise.replacement}
        )
        if settings != plain:
            raise UserError(f"the textbook loop supports only train.noise.replacement and {', '.join(OWN)} of train.*")
        torch.manual_seed(seed)
        np.random.seed(seed)
        train_data, valid_data = _dataset(*train, settings.noise.replacement, vocabulary), _dataset(*valid)
        self.train_loader = torch.utils.data.DataLoader(train_data, settings.batch_size, shuffle=True)
        self.valid_loader = torch.utils.data.DataLoader(valid_data, settings.batch_size)
        self.model = build_model(self.settings.model, token_shape(vocabulary), n_labels)
        matrices = [parameter for parameter in self.model.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in self.model.parameters() if parameter.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}],
            settings.learning_rate,
        )
        steps = len(self.train_loader) * settings.epochs
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: schedule(min(step, steps), steps, settings.warmup)
        )
        self.criterion = torch.nn.BCEWithLogitsLoss()

    def train_epoch(self) -> float:
        import torch

        from src.training.devices import autocast

        self.model.train()
        total = 0.0
        for tokens, lengths, labels in self.train_loader:
            self.optimizer.zero_grad()
            with autocast(self.precision, torch.device("cpu")):
                logits = self.model({"tokens": tokens}, lengths)
            loss = self.criterion(logits.float(), labels)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.train.clip_norm)
            self.optimizer.step()
            self.scheduler.step()
            total += loss.item()
        return total / len(self.train_loader)

    def predict(self) -> np.ndarray:
        """Returns the logits of the validation reports, (N, n_labels)."""
        import torch

        from src.training.devices import autocast

        self.model.eval()
        with torch.no_grad(), autocast(self.precision, torch.device("cpu")):
            logits = [self.model({"tokens": tokens}, lengths) for tokens, lengths, _ in self.valid_loader]
        return torch.cat(logits).float().numpy()


def epoch(run: dict, rows: int, valid_rows: int, precision: str) -> Callable[[], dict]:
    """Times an epoch of the textbook loop over `rows` reports, with validation and checkpoint."""
    import torch

    loop = Textbook(run, encoded(rows, seed=1), encoded(valid_rows, seed=2), 17, 861, precision, seed=0)

    def once() -> dict:
        loop.train_epoch()
        loop.predict()
        torch.save(loop.model.state_dict(), io.BytesIO())
        return {"work": rows}

    return once


def batches(rows: int, batch_size: int) -> Callable[[], dict]:
    """Times the batches of an epoch from a DataLoader with replacement noise, without a model."""
    import torch

    data = encoded(rows)
    loader = torch.utils.data.DataLoader(_dataset(*data, 0.1), batch_size, shuffle=True)
    return lambda: {"work": rows, "labels": float(sum(labels.sum().item() for _, _, labels in loader))}


def predict(run: dict, rows: int, batch_size: int) -> Callable[[], dict]:
    """Times the logits of `rows` reports, padded to 104; published code has batch_size 1."""
    import torch

    from src.bench.product import built

    model = built(run)
    loader = torch.utils.data.DataLoader(_dataset(*encoded(rows)), batch_size)

    def once() -> dict:
        with torch.no_grad():
            logits = [model({"tokens": tokens}, lengths) for tokens, lengths, _ in loader]
        return {"work": rows, f"logits of {rows}": float(torch.cat(logits).abs().mean())}

    return once


def predict_onnx(run: dict, rows: int) -> Callable[[], dict]:
    """Times onnxruntime on the product's batches in its fastest arrangement: a process a core, one thread each."""
    import logging
    import os
    import warnings

    import torch

    try:
        import onnx  # noqa: F401 - the exporter needs it
        import onnxruntime
    except ImportError as error:
        raise SystemExit(f"{error}. Install it with: pip install -r docs/requirements-bench.txt") from None
    from src.bench.product import built
    from src.training.batching import length_batches
    from src.training.inference import BATCH_SIZE

    class OfTokens(torch.nn.Module):
        """Model with tensors as inputs, which the exporter needs."""

        def __init__(self):
            super().__init__()
            self.model = built(run)

        def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            return self.model({"tokens": tokens}, lengths)

    file = io.BytesIO()
    axes = {"tokens": {0: "reports", 1: "length"}, "lengths": {0: "reports"}}
    example = (torch.full((2, 5), 3, dtype=torch.int32), torch.tensor([5, 4]))
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        # The new exporter fixes the batch size of recurrences.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            OfTokens().eval(), example, file, dynamo=False, opset_version=17, input_names=list(axes), dynamic_axes=axes
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
    session = onnxruntime.InferenceSession(file.getvalue(), options)
    tokens, lengths, _ = encoded(rows)
    inputs = {"tokens": tokens}

    def once() -> dict:
        logits = [
            session.run(None, {"tokens": batch.inputs["tokens"].numpy(), "lengths": batch.lengths.numpy()})[0]
            for batch in length_batches(inputs, lengths, BATCH_SIZE, torch.device("cpu"))
        ]
        return {"work": rows, f"logits of {rows}": float(np.abs(np.concatenate(logits)).mean())}

    return once


def tfidf(rows: int) -> Callable[[], dict]:
    """Times TF-IDF of 1- to 3-grams with scikit-learn, from descriptions as text."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    reports = synthetic(rows)
    texts = [" ".join(map(str, words)) for words in np.split(reports.tokens, reports.offsets[1:-1])]

    def once() -> dict:
        vectorizer = TfidfVectorizer(
            ngram_range=(1, 3), token_pattern=r"\S+", lowercase=False, min_df=2, sublinear_tf=True
        )
        vectors = vectorizer.fit_transform(texts)
        return {"work": rows, "features": vectors.shape[1], "values": vectors.nnz, "sum": float(vectors.sum())}

    return once


def start() -> Callable[[], dict]:
    """Times the start and end of a bare interpreter."""
    import subprocess
    import sys

    def once() -> dict:
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        return {"work": 1}

    return once
