"""Clauses: the parts of a report between separators, which are found from the text alone, and reports whose clauses
stand in random order."""

from __future__ import annotations

import numpy as np

from src.core.errors import UserError
from src.core.language import _
from src.data.corpus import unpad
from src.training.rows import Rows

LIKENESS = 0.4
"""Smallest cosine, on either side of a separator. In the competition's files the comma has 0.56 and more, every other
word 0.30 and less."""
OCCURRENCES = 100
"""Smallest number of times that a separator occurs: the neighbours of a rarer word say little."""
MAX_ROWS = 1 << 14
"""Largest number of reports that separators are found by: this takes half a second."""


def find_separators(tokens: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Finds the words that end clauses in ragged reports: tokens (sum of lengths,), offsets (N + 1,). Returns them in
    ascending order, none where no word does.

    A clause could stand alone, so behind a separator a report could begin, and before it one could end: the words that
    follow it are distributed like the first words of reports, and the words before it like the last ones. Both sides
    are needed: behind "and" a report could begin too, but none ends before it. A report may end with a separator, so
    its last word is the last one behind which no report could begin. Distributions are compared by their cosine, which
    rare words and the nearly uniform noise hardly change.
    """
    n_words = int(tokens.max(initial=0)) + 1
    is_inner = np.ones(len(tokens), dtype=bool)
    is_inner[offsets[1:][np.diff(offsets) > 0] - 1] = False  # the last token of a report has no next token
    before = np.flatnonzero(is_inner)
    pairs, counts = np.unique(tokens[before].astype(np.int64) * n_words + tokens[before + 1], return_counts=True)
    word, following = np.divmod(pairs, n_words)

    def cosines(words: np.ndarray, neighbours: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Cosine of the counts of each word's neighbours and the counts `wanted` (n_words,): (n_words,)."""
        dot = np.bincount(words, counts * wanted[neighbours], minlength=n_words)
        norm = np.sqrt(np.bincount(words, counts.astype(np.float64) ** 2, minlength=n_words) * (wanted**2.0).sum())
        occurs = np.bincount(words, counts, minlength=n_words)
        return np.where(occurs >= OCCURRENCES, dot / np.maximum(norm, 1), 0)

    report = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    first = np.bincount(tokens[offsets[:-1][np.diff(offsets) > 0]], minlength=n_words)
    begins = cosines(word, following, first) >= LIKENESS
    others = np.flatnonzero(~begins[tokens])
    is_last = np.append(report[others[1:]] != report[others[:-1]], True)[: len(others)]
    last = np.bincount(tokens[others[is_last]], minlength=n_words)
    ends = cosines(following, word, last) >= LIKENESS
    return np.flatnonzero(begins & ends).astype(tokens.dtype)


def reorder(
    tokens: np.ndarray, offsets: np.ndarray, separators: np.ndarray, chosen: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Puts the clauses of the `chosen` reports (N,) bool in random order, all orders with equal probability. Returns
    the tokens; the offsets stay. Separators keep their order too, so that one stands between two clauses and the last
    clause has one behind it only where the last one had."""
    ends_clause = np.isin(tokens, separators)
    starts_report = np.zeros(len(tokens), dtype=bool)
    starts_report[offsets[:-1][np.diff(offsets) > 0]] = True
    starts = starts_report | np.append(False, ends_clause[:-1])[: len(tokens)]
    clause = np.cumsum(starts) - 1  # of each token, numbered over all reports; a separator is of the one that it ends
    report = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    # Clauses of nothing but a separator stay where they are.
    slots, first = np.unique(clause[~ends_clause], return_index=True)
    owner = report[~ends_clause][first]
    draws = np.where(chosen[owner], rng.random(len(slots)), np.arange(len(slots)))
    place = np.arange(int(starts.sum()))
    place[slots[np.lexsort((draws, owner))]] = slots
    moved = np.where(ends_clause, clause, place[clause])
    return tokens[np.lexsort((ends_clause, moved))]


def separators_of(rows: Rows) -> np.ndarray:
    """Finds the separators of the reports that a fold is trained on, by at most MAX_ROWS of them. Raises UserError
    where there are none."""
    some = rows.chosen[np.linspace(0, len(rows) - 1, min(len(rows), MAX_ROWS)).astype(np.int64)]
    found = find_separators(*unpad(rows.inputs["tokens"][some], np.asarray(rows.lengths[some])))
    if len(found) == 0:
        raise UserError(
            _("train.reorder: no word of the training reports ends clauses; set train.reorder=0 for these reports")
        )
    return found
