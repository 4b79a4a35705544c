"""Jobs of training as plain data: one model on one fold, one encoder on all text. No torch is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.core import storage


@dataclass(frozen=True)
class Beside:
    """Reports of another corpus that are trained on beside the train rows."""

    corpus: str
    rows: str | None
    """File of those that are taken; None: all."""
    logits: list[str]
    """Files of teachers' logits, whose mean says what is to be learned; none: the corpus has labels."""
    weight: float
    """Of each, where a train row has one on average."""


@dataclass(frozen=True)
class FoldJob:
    """One model on one fold. Made of text and numbers alone, so that it can be sent to another process."""

    run: dict[str, Any]
    """The resolved config.Run."""
    corpus: str
    """Folder of the encoded train corpus."""
    vocabulary_size: int
    vectors: str | None
    """File of the vectors that start the embedding."""
    pretrained: str | None
    """Weights that the embedding and the encoder start from."""
    denoiser: str | None
    """Folder of the PretrainJob whose encoder puts reports right before they are read."""
    split: str
    """File with train_rows, valid_rows and predicted_rows."""
    weights: str | None
    """File of how much each train row counts, (N,); None: all alike."""
    beside: list[dict[str, Any]]
    """What else is trained on: Beside as dictionaries."""
    valid: str | None
    """File with what epochs are judged by, if that is not the valid_rows as they are: `chosen` rows of the
    valid_corpora one behind the other, the train `rows` that they are copies of, and weights."""
    valid_corpora: list[str]
    """Folders of encoded train reports, as they are or in noisy copies."""
    fold: int
    seed: int
    device: str
    precision: str
    """fp32 or bf16."""
    folder: str
    """Where results go; its result.json is written last."""
    fingerprint: str


def is_trained(job: FoldJob) -> bool:
    files = ("last.safetensors", "best.safetensors", "history.csv", "logits.npy")
    return storage.is_current(Path(job.folder) / "result.json", job.fingerprint, files)


@dataclass(frozen=True)
class PretrainJob:
    """One encoder on all text. Made of text and numbers alone, as FoldJob is."""

    run: dict[str, Any]
    """The config.Run: its model, of which pooling and head do not matter here, and its pretrain."""
    corpora: list[str]
    """Folders of encoded text."""
    vocabulary_size: int
    vectors: str | None
    device: str
    precision: str
    folder: str
    fingerprint: str

    @property
    def weights(self) -> Path:
        return Path(self.folder) / "last.safetensors"


def is_pretrained(job: PretrainJob) -> bool:
    return storage.is_current(Path(job.folder) / "result.json", job.fingerprint, ["last.safetensors", "history.csv"])


def described(news: dict[str, Any]) -> tuple[float, str]:
    """What a job tells after each epoch: the share that is done, and a line for the user."""
    note = (
        f"epoch {news['epoch']:2d}/{news['epochs']}  train {news['train_loss']:.4f}  "
        f"valid {news['valid_loss']:.4f}  {news['seconds']:.1f} s"
    )
    return news["epoch"] / news["epochs"], note
