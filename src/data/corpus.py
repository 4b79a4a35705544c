"""Corpus: the inputs and labels of some files as arrays. Vocabulary and encoding of token reports."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from src.core import array_files, storage
from src.core.errors import Damaged
from src.data.report_reader import Reports

T = TypeVar("T")
PAD, UNK, MASK = 0, 1, 2
N_SPECIAL = 3
"""Number of reserved indices, and index of the first word: token 0 of the files is a real word."""

INPUTS = ("values", "tokens", "statics")
"""Names of the inputs of all kinds of corpora."""
BLOCK = 1 << 14
"""Reports encoded or hashed at a time: bounds the memory of the intermediate arrays."""
CHUNK = 65_536
"""Maximum number of rows that are sorted by length together to be predicted, a multiple of BLOCK. Shards of a file are
multiples of it, so that a row has the same batch mates, and so the same bits, whatever the size of shards."""


def to_words(indices: T) -> T:
    """Shifts indices of words to rows of Vocabulary.words; indices below N_SPECIAL have none."""
    return indices - N_SPECIAL


def to_indices(words: T) -> T:
    """Shifts rows of Vocabulary.words to the indices that models read."""
    return words + N_SPECIAL


class Vocabulary:
    """Token ids of a set of files, numbered in ascending order behind PAD, UNK and MASK."""

    def __init__(self, words: np.ndarray):
        self.words = np.unique(np.asarray(words, dtype=np.uint16))
        self._index = np.full(np.iinfo(np.uint16).max + 1, UNK, dtype=np.uint16)
        self._index[self.words] = to_indices(np.arange(len(self.words), dtype=np.uint16))

    def __len__(self) -> int:
        """Returns the number of words and reserved indices, the rows of an embedding."""
        return N_SPECIAL + len(self.words)

    @property
    def fingerprint(self) -> str:
        return storage.array_hash(self.words)

    def encode(self, tokens: np.ndarray) -> np.ndarray:
        """Maps file tokens (any shape) to indices, uint16; a token outside the vocabulary becomes UNK."""
        return self._index[tokens]

    def save(self, path: Path) -> None:
        storage.write_text(path, json.dumps(self.words.tolist()) + "\n")

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Raises Damaged for a file that save() did not write."""
        try:
            words = json.loads(path.read_text(encoding="utf-8"))
            return cls(np.array([int(word) for word in words], dtype=np.uint16))
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise Damaged(path, f"it is no list of token ids ({error})", "prepare") from None


@dataclass(frozen=True)
class Corpus:
    """Encoded and padded reports, stays or images of one or several files."""

    inputs: dict[str, np.ndarray]
    """{name: (N, max_len, ...)}, as InputShape describes them. Reports: {"tokens": (N, max_len) uint16}, vocabulary
    indices with PAD behind the last token."""
    lengths: np.ndarray
    """Tokens in each report, or time steps of each series, (N,) int32, at least 1."""
    ids: np.ndarray
    """Ids of the rows, (N,) bytes, as in the file."""
    labels: np.ndarray | None
    """Labels, (N, n_labels): uint8, or float32 in the unit of a regression, or with NaN where an extra file lacks
    them."""
    sources: np.ndarray
    """Index of each row's file, (N,): uint8, or uint16 of more than 256 files."""

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def tokens(self) -> np.ndarray:
        """Vocabulary indices of reports, (N, max_len) uint16."""
        return self.inputs["tokens"]

    @property
    def fingerprint(self) -> str:
        """Hash of the inputs, the ids and their order."""
        return storage.array_hash(*self.input_arrays(), self.ids)

    def input_arrays(self) -> list[np.ndarray]:
        """The inputs in an order of their own, for hashes."""
        return [self.inputs[name] for name in sorted(self.inputs, reverse=True)]

    def hashes(self) -> np.ndarray:
        """Returns a hash of each row's inputs, (N,) bytes, for keys that do not depend on the order of rows."""
        return self._token_hashes() if "tokens" in self.inputs else self._series_hashes()

    def _series_hashes(self) -> np.ndarray:
        hashes = np.empty(len(self), dtype="S16")
        for row in range(len(self)):
            content = b"".join(np.ascontiguousarray(array[row]).tobytes() for array in self.input_arrays())
            hashes[row] = hashlib.sha256(content).hexdigest()[:16].encode()
            if row % BLOCK == BLOCK - 1:
                for array in self.input_arrays():
                    storage.release_pages(array)
        return hashes

    def _token_hashes(self) -> np.ndarray:
        # Equals storage.array_hash of every row, which would take a minute for ten million rows.
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
        for name, array in self.inputs.items():
            array_files.write_npy(folder / f"{name}.npy", array)
        self.save_beside_inputs(folder)

    def save_beside_inputs(self, folder: Path) -> None:
        """Writes all but the inputs, for whoever has written these block by block, and removes arrays of an earlier
        corpus of another kind."""
        for name in {*INPUTS, "labels"} - self.inputs.keys():
            (folder / f"{name}.npy").unlink(missing_ok=True)
        for name in ("lengths", "ids", "sources"):
            array_files.write_npy(folder / f"{name}.npy", getattr(self, name))
        if self.labels is not None:
            array_files.write_npy(folder / "labels.npy", self.labels)

    @classmethod
    def load(cls, folder: Path) -> Corpus:
        """Memory-maps the arrays, so that several processes share one copy of a large corpus."""

        def read(name: str) -> np.ndarray:
            return array_files.read_npy(folder / f"{name}.npy", "prepare", mapped=True)

        inputs = {name: read(name) for name in sorted(INPUTS, reverse=True) if (folder / f"{name}.npy").exists()}
        labels = read("labels") if (folder / "labels.npy").exists() else None
        return cls(inputs, read("lengths"), read("ids"), labels, read("sources"))


class Stacked:
    """Virtual concatenation of arrays: only indexed rows are copied."""

    def __init__(self, parts: Sequence[np.ndarray]):
        self._parts = parts
        self._starts = np.cumsum([0, *map(len, parts)])
        self.shape = (int(self._starts[-1]), *parts[0].shape[1:])
        self.dtype = np.result_type(*(part.dtype for part in parts))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        result = np.empty((len(rows), *self.shape[1:]), self.dtype)
        which = np.searchsorted(self._starts, rows, side="right") - 1
        for i, part in enumerate(self._parts):
            result[which == i] = part[rows[which == i] - self._starts[i]]
        return result


@dataclass(frozen=True)
class Losses:
    """Counts of truncated reports and unknown tokens in encoded files."""

    truncated: int
    """Number of reports longer than max_len."""
    unknown_tokens: int
    """Number of tokens outside the vocabulary."""
    unknown_words: tuple[int, ...]
    """Token ids outside the vocabulary."""

    def __add__(self, other: Losses) -> Losses:
        """Returns those of both files."""
        words = tuple(sorted({*self.unknown_words, *other.unknown_words}))
        return Losses(self.truncated + other.truncated, self.unknown_tokens + other.unknown_tokens, words)


def losses_of(files: list[Reports], vocabulary: Vocabulary, max_len: int) -> Losses:
    """Counts what files lose when they are encoded."""
    counts = token_counts(files)
    unknown = np.flatnonzero((counts > 0) & (vocabulary.encode(np.arange(len(counts))) == UNK))
    truncated = sum(int((file.lengths > max_len).sum()) for file in files)
    return Losses(truncated, int(counts[unknown].sum()), tuple(unknown.tolist()))


def encode(
    files: list[Reports],
    vocabulary: Vocabulary,
    labels: np.ndarray | None,
    max_len: int,
    keep: Literal["head", "tail"],
    folder: Path | None = None,
) -> tuple[Corpus, Losses]:
    """Encodes files as one corpus, in their order. `labels` (N, n_labels) cover all files.

    With a `folder` the corpus is written there, as by save(), and its tokens are memory-mapped, so that at most one
    block of padded rows is in memory.
    """
    lengths = np.concatenate([file.lengths for file in files])
    losses = losses_of(files, vocabulary, max_len)
    blocks, shape = _padded_blocks(files, vocabulary, max_len, keep), (len(lengths), max_len)
    if folder is None:
        tokens = np.concatenate([np.empty((0, max_len), dtype=np.uint16), *blocks])
    else:
        array_files.write_npy_blocks(folder / "tokens.npy", shape, np.dtype(np.uint16), blocks)
        tokens = array_files.read_npy(folder / "tokens.npy", mapped=True)
    corpus = Corpus(
        inputs={"tokens": tokens},
        lengths=np.minimum(lengths, max_len).astype(np.int32),
        ids=np.concatenate([file.ids for file in files]),
        labels=labels,
        sources=source_numbers(list(map(len, files))),
    )
    if folder is not None:
        corpus.save_beside_inputs(folder)
    return corpus, losses


def source_numbers(rows: Sequence[int]) -> np.ndarray:
    """Returns the index of each row's file, (N,), of files with so many `rows`, in the smallest type that holds it."""
    return np.repeat(np.arange(len(rows)).astype(np.min_scalar_type(max(len(rows) - 1, 0))), rows)


def token_counts(files: Iterable[Reports]) -> np.ndarray:
    """Counts each token in the files: int64 (65536,)."""
    counts = np.zeros(np.iinfo(np.uint16).max + 1, dtype=np.int64)
    for file in files:
        for start in range(0, len(file.tokens), 1 << 20):  # bincount takes eight bytes a token
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
    """Pads ragged indices (sum of lengths,) with offsets (N+1,) to (N, max_len) uint16 and lengths (N,) int32."""
    full = np.diff(offsets)
    lengths = np.minimum(full, max_len).astype(np.int32)
    starts = offsets[:-1] + (full - lengths if keep == "tail" else 0)
    inside = np.arange(max_len) < lengths[:, None]  # (N, max_len)
    padded = np.full((len(lengths), max_len), PAD, dtype=np.uint16)
    within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    padded[inside] = words[np.repeat(starts, lengths) + within]
    return padded, lengths


def unpad(tokens: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inverts `pad`: (N, max_len) to ragged indices (sum of lengths,) and offsets (N+1,)."""
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return tokens[np.arange(tokens.shape[1]) < lengths[:, None]], offsets
