"""Reports as arrays: the vocabulary that numbers their tokens, and the padded (N, max_len) form that models read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from src.core import storage
from src.data.report_reader import Reports

PAD, UNK, MASK = 0, 1, 2
N_SPECIAL = 3
"""Token 0 of the files is a real word, so words are numbered from here on. This file alone knows the shift."""


BLOCK = 1 << 14
"""Reports that are encoded or hashed at a time: the arrays made of them stay small, however large the file."""


class Vocabulary:
    """The token ids that occur in a set of files, numbered in ascending order behind PAD, UNK and MASK."""

    def __init__(self, words: np.ndarray):
        self.words = np.unique(np.asarray(words, dtype=np.uint16))
        self._index = np.full(np.iinfo(np.uint16).max + 1, UNK, dtype=np.uint16)
        self._index[self.words] = np.arange(N_SPECIAL, N_SPECIAL + len(self.words), dtype=np.uint16)

    def __len__(self) -> int:
        """Size of an embedding: the words and the three reserved ids."""
        return N_SPECIAL + len(self.words)

    @property
    def fingerprint(self) -> str:
        return storage.array_hash(self.words)

    def encode(self, tokens: np.ndarray) -> np.ndarray:
        """File tokens (any shape) -> indices, uint16; a token that is not in the vocabulary becomes UNK."""
        return self._index[tokens]

    def save(self, path: Path) -> None:
        storage.write_text(path, json.dumps(self.words.tolist()) + "\n")

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        return cls(np.array(storage.read_json(path), dtype=np.uint16))


@dataclass(frozen=True)
class Corpus:
    """The reports of one or more files, encoded and padded."""

    tokens: np.ndarray
    """(N, max_len) uint16, PAD behind the last token."""
    lengths: np.ndarray
    """(N,) int32, at least 1."""
    ids: np.ndarray
    """(N,) bytes, as in the file."""
    labels: np.ndarray | None
    """(N, n_labels) uint8."""
    sources: np.ndarray
    """(N,) uint8: index of the file that a report comes from."""

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def text_fingerprint(self) -> str:
        """Stands for the reports and their order."""
        return storage.array_hash(self.tokens, self.ids)

    def text_hashes(self) -> np.ndarray:
        """(N,) bytes: a hash of each report's tokens, for keys that survive reordered rows."""
        # artifacts.array_hash of every row, written out: called ten million times it would take a minute.
        kind, size, width = self.tokens.dtype.str, self.tokens.itemsize, self.tokens.shape[1] * self.tokens.itemsize
        heads = [f"{kind}({n},)".encode() for n in range(self.tokens.shape[1] + 1)]
        hashes = np.empty(len(self), dtype="S16")
        for start in range(0, len(self), BLOCK):
            text, lengths = self.tokens[start : start + BLOCK].tobytes(), self.lengths[start : start + BLOCK].tolist()
            digests = [
                hashlib.sha256(heads[n] + text[at : at + n * size]).digest()[:8]
                for at, n in zip(range(0, len(text), width), lengths, strict=True)
            ]
            hashes[start : start + BLOCK] = np.frombuffer(b"".join(digests).hex().encode(), dtype="S16")
        return hashes

    def save(self, folder: Path) -> None:
        storage.write_npy(folder / "tokens.npy", self.tokens)
        self._save_beside_tokens(folder)

    def _save_beside_tokens(self, folder: Path) -> None:
        for name in ("lengths", "ids", "sources"):
            storage.write_npy(folder / f"{name}.npy", getattr(self, name))
        if self.labels is not None:
            storage.write_npy(folder / "labels.npy", self.labels)

    @classmethod
    def load(cls, folder: Path) -> Corpus:
        """Arrays are mapped, not read: several processes share one copy of a large corpus."""
        arrays = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}
        return cls(**{"labels": None, **arrays})


class Stacked:
    """Arrays one behind the other, of which rows are copied only when they are asked for."""

    def __init__(self, parts: Sequence[np.ndarray]):
        self._parts = parts
        self._starts = np.cumsum([0, *map(len, parts)])
        self.dtype = parts[0].dtype

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        found = np.empty((len(rows), *self._parts[0].shape[1:]), self.dtype)
        which = np.searchsorted(self._starts, rows, side="right") - 1
        for i, part in enumerate(self._parts):
            found[which == i] = part[rows[which == i] - self._starts[i]]
        return found


@dataclass(frozen=True)
class Losses:
    """What encoding a file had to change; the caller tells the user."""

    truncated: int
    """Reports longer than max_len."""
    unknown_tokens: int
    unknown_words: tuple[int, ...]
    """Token ids that the vocabulary does not hold."""


def encode(
    files: list[Reports],
    vocabulary: Vocabulary,
    labels: np.ndarray | None,
    max_len: int,
    keep: Literal["head", "tail"],
    folder: Path | None = None,
) -> tuple[Corpus, Losses]:
    """Files, one behind the other, as one corpus. `labels` (N, n_labels) are those of all files together.

    With a `folder` it is written there, as by save(), and its tokens are mapped: never is more than a block of padded
    rows in memory.
    """
    lengths = np.concatenate([file.lengths for file in files])
    counts = token_counts(files)
    unknown = np.flatnonzero((counts > 0) & (vocabulary.encode(np.arange(len(counts))) == UNK))
    losses = Losses(int((lengths > max_len).sum()), int(counts[unknown].sum()), tuple(unknown.tolist()))
    blocks, shape = _padded_blocks(files, vocabulary, max_len, keep), (len(lengths), max_len)
    if folder is None:
        tokens = np.concatenate([np.empty((0, max_len), dtype=np.uint16), *blocks])
    else:
        storage.write_npy_blocks(folder / "tokens.npy", shape, np.dtype(np.uint16), blocks)
        tokens = np.load(folder / "tokens.npy", mmap_mode="r")
    corpus = Corpus(
        tokens=tokens,
        lengths=np.minimum(lengths, max_len).astype(np.int32),
        ids=np.concatenate([file.ids for file in files]),
        labels=labels,
        sources=np.concatenate([np.full(len(file), i, dtype=np.uint8) for i, file in enumerate(files)]),
    )
    if folder is not None:
        corpus._save_beside_tokens(folder)
    return corpus, losses


def token_counts(files: Iterable[Reports]) -> np.ndarray:
    """How often each token stands in the files: int64 (65536,)."""
    counts = np.zeros(np.iinfo(np.uint16).max + 1, dtype=np.int64)
    for file in files:
        for start in range(0, len(file.tokens), 1 << 20):  # bincount takes eight bytes for each token
            counts += np.bincount(file.tokens[start : start + (1 << 20)], minlength=len(counts))
    return counts


def _padded_blocks(
    files: list[Reports], vocabulary: Vocabulary, max_len: int, keep: Literal["head", "tail"]
) -> Iterator[np.ndarray]:
    for file in files:
        for start in range(0, len(file), BLOCK):
            offsets = file.offsets[start : start + BLOCK + 1]
            words = vocabulary.encode(file.tokens[offsets[0] : offsets[-1]])
            yield pad(words, offsets - offsets[0], max_len, keep)[0]


def pad(
    words: np.ndarray, offsets: np.ndarray, max_len: int, keep: Literal["head", "tail"] = "head"
) -> tuple[np.ndarray, np.ndarray]:
    """Ragged indices (sum of lengths,) with offsets (N+1,) -> (N, max_len) uint16 and lengths (N,) int32."""
    full = np.diff(offsets)
    lengths = np.minimum(full, max_len).astype(np.int32)
    starts = offsets[:-1] + (full - lengths if keep == "tail" else 0)
    inside = np.arange(max_len) < lengths[:, None]  # (N, max_len)
    padded = np.full((len(lengths), max_len), PAD, dtype=np.uint16)
    within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    padded[inside] = words[np.repeat(starts, lengths) + within]
    return padded, lengths


def unpad(tokens: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of `pad`: (N, max_len) -> ragged indices (sum of lengths,) and offsets (N+1,)."""
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return tokens[np.arange(tokens.shape[1]) < lengths[:, None]], offsets
