"""Word n-grams of ragged reports: sparse counts and hashes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Text = tuple[np.ndarray, np.ndarray]
"""Ragged reports: tokens (sum of lengths,) of any integer type, offsets (N + 1,) int64."""


def ngram_counts(tokens: np.ndarray, offsets: np.ndarray, max_n: int) -> tuple[csr_array, np.ndarray]:
    """Counts the n-grams of each report, n = 1 to max_n: float64 (reports, distinct n-grams).

    Also returns n and the start of the first occurrence in `tokens` for each n-gram, int64 (distinct n-grams, 2).
    N-grams are counted as numbers, several times faster than as text. The number of an n-gram is that of its first
    n - 1 tokens combined with its last token; numbers are made consecutive after each n and so cannot overflow.
    """
    from scipy.sparse import coo_array, hstack

    n_reports = len(offsets) - 1
    report = np.repeat(np.arange(n_reports, dtype=np.int32), np.diff(offsets))  # scikit-learn wants 32-bit indices
    words, word = np.unique(tokens, return_inverse=True)
    start, gram, blocks, places = np.arange(len(tokens)), word, [], []
    for n in range(1, max_n + 1):
        if n > 1:
            start, gram = start[start + n <= len(tokens)], gram[start + n <= len(tokens)]
            inside = report[start] == report[start + n - 1]
            start, gram = start[inside], gram[inside]
            gram = np.unique(gram * len(words) + word[start + n - 1], return_inverse=True)[1]
        first = np.zeros(int(gram.max(initial=-1)) + 1, dtype=np.int64)
        first[gram[::-1]] = start[::-1]
        places.append(np.column_stack([np.full(len(first), n), first]))
        blocks.append(coo_array((np.ones(len(gram)), (report[start], gram.astype(np.int32))), (n_reports, len(first))))
    return hstack(blocks, format="csr"), np.concatenate(places)


def ngram_hashes(text: Text, n: int) -> np.ndarray:
    """Returns a 64-bit hash of each n-gram inside a report, in the order of the text: (n-grams,) uint64."""
    tokens, offsets = text
    lengths = np.diff(offsets)
    left = np.repeat(offsets[1:], lengths) - np.arange(len(tokens))  # tokens from here to the report's end
    starts = np.flatnonzero(left >= n)
    hashes = np.zeros(len(starts), dtype=np.uint64)
    for step in range(n):
        hashes = combine(hashes, tokens[starts + step])
    return hashes


def combine(hashes: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Returns the next hash of each sequence: finaliser of SplitMix64 (Steele, Lea and Flood 2014) on hash + token."""
    mixed = hashes * np.uint64(0x9E3779B97F4A7C15) + tokens.astype(np.uint64) + np.uint64(1)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def take(tokens: np.ndarray, offsets: np.ndarray, rows: np.ndarray) -> Text:
    """Returns tokens and offsets of the reports `rows`, in the order of `rows`."""
    lengths = np.diff(offsets)[rows]
    ends = np.cumsum(lengths)
    index = np.arange(lengths.sum()) + np.repeat(offsets[:-1][rows] - (ends - lengths), lengths)
    return tokens[index], np.append(0, ends)


def join(texts: Sequence[Text]) -> Text:
    """Concatenates texts."""
    shifts = np.cumsum([0, *(offsets[-1] for _, offsets in texts)])
    offsets = [part[1:] + shift for (_, part), shift in zip(texts, shifts[:-1], strict=True)]
    return np.concatenate([tokens for tokens, _ in texts]), np.concatenate([[0], *offsets]).astype(np.int64)
