"""Estimation of token noise from text alone, by frames of frequent phrases.

A frame is `width` tokens on the left and `width` tokens on the right of a word, between which nearly always this same
word stands. An occurrence of the frame without its word shows noise: another token instead of the word is a
replacement, the word and a second token are an insertion, no token is a deletion. A token that is frequent instead of
the word is language, not noise, and contexts whose word is often absent are no frames.

An intact frame is evidence of a report with little noise, so wide frames underestimate noise. If the share of changed
tokens varies between reports like Beta(a, b), frames of k tokens show a / (a + b + k) on average: the decrease from
narrow to wide frames estimates the dispersion between reports, and its extrapolation to k = 0 the rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from src.data.corruption import NoiseRates
from src.data.ngrams import Text, combine, join

WIDTHS = (2, 3, 4, 5)
INTACT, REPLACED, INSERTED, DELETED = range(4)
MIN_COUNT = 30
"""Minimum number of occurrences of a frame in all texts together."""
RIGID = 0.7
"""Minimum share of a frame's occurrences with one middle token in which the token is the word."""
LANGUAGE = 0.004
"""Share of a frame's occurrences, ten times that of uniform noise, above which another token is language."""
UNLIKELY = 1e-3
"""Significance level: a frame with too many insertions or deletions for the common rate is dropped."""
MIN_OUTCOMES = 200
"""Minimum number of occurrences of the narrowest frames for an estimate."""
SPREADS = np.linspace(-0.01, 0.25, 261)
"""Candidates for 1 / (a + b). Negative values belong to no Beta distribution, but a lower limit of zero would bias all
rates upwards if reports have equal noise."""
FEW_HITS = 0.01
"""Minimum share of occurrences with noise for an estimate of the dispersion."""
DRAWS = 200
"""Number of bootstrap draws."""
LEVEL = 0.95
"""Coverage of the intervals."""


@dataclass(frozen=True)
class Frames:
    """Frames of one width."""

    width: int
    contexts: np.ndarray
    """Hash of each frame's context, (F,) uint64, ascending."""
    words: np.ndarray
    """Word of each frame, (F,)."""
    alternatives: np.ndarray
    """Sorted hashes of (context, token) for the tokens that are language in the context."""


@dataclass(frozen=True)
class NoiseEstimate:
    """Estimated noise of a file."""

    rates: NoiseRates
    """Rates per token of the clean text, as for `corruption.corrupt`."""
    intervals: dict[str, tuple[float, float]]
    """95% interval (low, high) of each rate, from a bootstrap over reports."""
    odd_middles: float
    """Share of another token than the word among the single middle tokens of frames of width 3, uncorrected."""
    outcomes: int
    """Number of occurrences of the narrowest frames."""
    flatness: float | None
    """Perplexity of the replacing tokens relative to as many uniformly drawn tokens; None without replacements."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def learn_frames(texts: Sequence[Text]) -> list[Frames]:
    """Learns the frames of WIDTHS from all `texts` together; widths without frames are left out."""
    tokens, offsets = join(texts)
    tokens = tokens.astype(np.int64)
    file = np.repeat(np.arange(len(texts)), [len(part) for part, _ in texts])
    by_width = [_learn(tokens, offsets, file, width) for width in WIDTHS]
    return [frames for frames in by_width if len(frames.contexts)]


def count_outcomes(frames: Sequence[Frames], text: Text) -> np.ndarray:
    """Counts INTACT, REPLACED, INSERTED and DELETED frames in each report: (N, len(frames), 4) int32."""
    tokens, offsets = np.asarray(text[0], dtype=np.int64), text[1]
    counts = np.zeros((len(offsets) - 1, len(frames), 4), dtype=np.int32)
    for i, of_width in enumerate(frames):
        _, places, outcomes = _matches(of_width, tokens, offsets)
        reports = np.searchsorted(offsets, places, side="right") - 1
        np.add.at(counts, (reports, i, outcomes), 1)
    return counts


def replacing_tokens(frames: Sequence[Frames], text: Text) -> np.ndarray:
    """Returns the tokens that replace the words of the narrowest frames: (n,)."""
    if not frames:
        return np.empty(0, dtype=np.int64)
    tokens = np.asarray(text[0], dtype=np.int64)
    _, places, outcomes = _matches(frames[0], tokens, text[1])
    return tokens[places[outcomes == REPLACED]]


def hit_tokens(frames: Sequence[Frames], text: Text) -> np.ndarray:
    """Returns the mask of tokens that replace a frame's word or are inserted beside it: bool (n tokens,)."""
    tokens = np.asarray(text[0], dtype=np.int64)
    hit = np.zeros(len(tokens), dtype=bool)
    for of_width in frames:
        which, places, outcomes = _matches(of_width, tokens, text[1])
        hit[places[outcomes == REPLACED]] = True
        inserted = outcomes == INSERTED
        first = places[inserted]
        hit[first + (tokens[first] == of_width.words[which[inserted]])] = True  # the first or the second middle token
    return hit


def estimate_noise(
    frames: Sequence[Frames],
    counts: np.ndarray,
    replacing: np.ndarray,
    vocabulary_size: int,
    seed: int = 0,
    others: Sequence[np.ndarray] = (),
) -> NoiseEstimate | None:
    """Estimates noise from `count_outcomes` and `replacing_tokens`; None for fewer than MIN_OUTCOMES occurrences.

    `others` are the counts of files that share the dispersion of this file: the dispersion of a small file, on which
    its rates depend, cannot be estimated from the file alone.
    """
    if not len(frames) or counts[:, 0].sum() < MIN_OUTCOMES:
        return None
    contexts = np.array([2 * of_width.width for of_width in frames])
    flat = counts.reshape(len(counts), -1).astype(np.float64)
    rng = np.random.default_rng(seed)
    draws = [np.bincount(rng.integers(0, len(flat), len(flat)), minlength=len(flat)) @ flat for _ in range(DRAWS)]
    totals = np.stack([flat.sum(axis=0), *draws]).reshape(DRAWS + 1, *counts.shape[1:])
    prior = _spread_likelihood([other.sum(axis=0) for other in others], contexts)
    rates = np.stack([_rates(total, contexts, prior) for total in totals])  # (draws, 4): in the order of NoiseRates
    tails = (1 - LEVEL) / 2
    low, high = np.quantile(rates[1:], [tails, 1 - tails], axis=0)
    names = ("replacement", "insertion", "deletion", "dispersion")
    middle = totals[0, int(np.abs(contexts - 6).argmin())]  # width 3, if there are such frames
    return NoiseEstimate(
        NoiseRates(**dict(zip(names, map(float, rates[0]), strict=True))),
        {name: (float(low[i]), float(high[i])) for i, name in enumerate(names)},
        float(middle[REPLACED] / max(middle[REPLACED] + middle[INTACT], 1)),
        int(totals[0, 0].sum()),
        _flatness(replacing, vocabulary_size),
    )


def report_noise(counts: np.ndarray, rates: NoiseRates) -> tuple[np.ndarray, np.ndarray]:
    """Returns posterior mean and standard deviation (N,) of the share of each report's tokens with noise.

    The prior is the Beta distribution of `rates`; the evidence are the occurrences of the narrowest frames, each with
    noise at the report's rate. A report without evidence has the prior.
    """
    total, concentration = rates.total, 1 / max(rates.dispersion, 1e-6) - 1
    # An insertion shows at both of its neighbours, see _rates.
    hits = counts[:, 0, [REPLACED, INSERTED, DELETED]] @ np.array([1, 0.5, 1])
    evidence = concentration + hits + counts[:, 0, INTACT]  # the Beta distribution is conjugate
    mean = (total * concentration + hits) / evidence
    return mean, np.sqrt(mean * (1 - mean) / (evidence + 1))


def extra_noise(have: NoiseRates, want: NoiseRates) -> NoiseRates:
    """Returns the rates that `corrupt` must add to a text with the noise `have` for the noise `want`, at least 0.

    A token with noise counts once, so (want - have) is taken from the share 1 - have.total of clean tokens. The
    variance of a report's rate is dispersion * total * (1 - total); the added noise has the missing variance.
    """
    left = max(1 - have.total, 1e-9)
    added = {
        name: max(0.0, getattr(want, name) - getattr(have, name)) / left
        for name in ("replacement", "insertion", "deletion")
    }
    total = sum(added.values())
    if not 0 < total < 1:
        return NoiseRates(**added)
    variance = [rates.dispersion * rates.total * (1 - rates.total) for rates in (have, want)]
    missing = (variance[1] - (1 - total) ** 2 * variance[0]) / (left**2 + variance[0])
    return NoiseRates(**added, dispersion=min(max(missing, 0) / (total * (1 - total)), 0.99))


def _rates(total: np.ndarray, contexts: np.ndarray, prior: np.ndarray | float = 0.0) -> np.ndarray:
    """Estimates replacement, insertion, deletion and dispersion from outcomes (W, 4) of contexts of (W,) tokens.

    The share of each kind of noise in frames of k tokens is modelled as share / (1 + k * spread), spread = 1 / (a + b).
    The shares have a closed-form maximum likelihood (Poisson) given the spread; the spread is the best of SPREADS, with
    `prior` added to each candidate's log-likelihood. With A the rate of intact tokens, outcomes are distributed as
    intact : replaced : deleted : inserted = A : R + D I / A : D : 2 I, since an intruder may belong to the word or to
    the word's neighbour.
    """
    hits = total[:, [REPLACED, INSERTED, DELETED]]
    likelihood = prior + _spread_likelihood([total], contexts)
    # With almost no noise the outcomes are rare language, and their decrease with width says nothing about reports.
    spread = SPREADS[int(likelihood.argmax())] if _is_informative(total) and likelihood.any() else 0.0
    shares = hits.sum(axis=0) / (1 / (1 + spread * contexts) @ total.sum(axis=1))
    replaced, inserted, deleted = shares / max(1 - shares.sum(), 0.01)  # odds against the intact word
    inserted /= 2
    replaced = max(replaced - deleted * inserted, 0)
    rates = np.array([replaced, inserted, deleted]) / (1 + replaced + inserted + deleted)
    spread = max(spread, 0)
    return np.append(rates, spread / (1 + spread))  # 1 / (a + b + 1)


def _spread_likelihood(totals: Sequence[np.ndarray], contexts: np.ndarray) -> np.ndarray:
    """Returns the log-likelihood of each of SPREADS from files of outcomes (W, 4); zeros without informative files."""
    likelihood = np.zeros(len(SPREADS))
    shrink = 1 / (1 + SPREADS[:, None] * contexts)
    for total in filter(_is_informative, totals):
        places, hits = total.sum(axis=1), total[:, [REPLACED, INSERTED, DELETED]].sum(axis=1)
        expected = hits.sum() / (shrink @ places)[:, None] * shrink * places
        likelihood += (hits * np.log(np.maximum(expected, 1e-12)) - expected).sum(axis=1)
    return likelihood


def _is_informative(total: np.ndarray) -> bool:
    """Returns True if outcomes (W, 4) show enough noise, at several widths."""
    places = total.sum(axis=1)
    return total[:, [REPLACED, INSERTED, DELETED]].sum() > FEW_HITS * places.sum() and (places > 0).sum() > 1


def _flatness(tokens: np.ndarray, vocabulary_size: int) -> float | None:
    """Returns the perplexity relative to the mean perplexity of as many tokens drawn uniformly from the vocabulary."""
    if not len(tokens):
        return None
    rng = np.random.default_rng(0)
    uniform = [_perplexity(rng.integers(0, vocabulary_size, len(tokens))) for _ in range(20)]
    return float(_perplexity(tokens) / np.mean(uniform))


def _perplexity(tokens: np.ndarray) -> float:
    counts = np.unique(tokens, return_counts=True)[1]
    shares = counts / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _learn(tokens: np.ndarray, offsets: np.ndarray, file: np.ndarray, width: int) -> Frames:
    """Learns the frames of one width; `file` (len(tokens),) is the number of each token's text."""
    places, hashes = _contexts(tokens, offsets, width, gap=1)
    values, inverse, count = np.unique(hashes, return_inverse=True, return_counts=True)
    kept = count[inverse] >= MIN_COUNT
    places, inverse = places[kept], inverse[kept]
    if not len(places):
        return Frames(width, *(np.empty(0, dtype=np.uint64) for _ in range(3)))
    pairs, pair_count = np.unique(inverse.astype(np.int64) << 16 | tokens[places], return_counts=True)
    frame = pairs >> 16
    starts = np.flatnonzero(np.diff(frame, prepend=-1))
    most, total = np.maximum.reduceat(pair_count, starts), np.add.reduceat(pair_count, starts)
    number = np.repeat(np.arange(len(starts)), np.diff([*starts, len(frame)]))
    is_word = pair_count == most[number]
    language = ~is_word & np.isin(pairs, _common(inverse.astype(np.int64) << 16 | tokens[places], file[places]))
    word = np.zeros(len(starts), dtype=np.int64)
    word[number[is_word]] = pairs[is_word] & 0xFFFF
    rigid = most >= RIGID * total
    contexts = values[frame[starts]]
    alternatives = np.unique(combine(contexts[number[language]], pairs[language] & 0xFFFF))
    frames = Frames(width, contexts[rigid], word[rigid], alternatives)  # np.unique left the contexts sorted
    return _without_loose(frames, tokens, offsets)


def _common(pairs: np.ndarray, file: np.ndarray) -> np.ndarray:
    """Returns the (frame, token) pairs with more than LANGUAGE of a frame's occurrences in a text.

    Each text is counted separately, so that an intruder in copies of a report in several texts is no language.
    """
    common = []
    for number in np.unique(file):
        values, count = np.unique(pairs[file == number], return_counts=True)
        frame = np.unique(values >> 16, return_inverse=True)[1]
        total = np.bincount(frame, weights=count)[frame]
        common.append(values[count > np.maximum(2, LANGUAGE * total)])
    return np.unique(np.concatenate(common))


def _without_loose(frames: Frames, tokens: np.ndarray, offsets: np.ndarray) -> Frames:
    """Drops the frames with significantly too many insertions or deletions, which are other phrases."""
    from scipy.stats import binom

    which, _, outcomes = _matches(frames, tokens, offsets)
    counts = np.zeros((len(frames.contexts), 4), dtype=np.int64)
    np.add.at(counts, (which, outcomes), 1)
    places = counts.sum(axis=1)
    kept = places > 0
    for _ in range(5):  # the common rates converge in two or three rounds
        for outcome in (INSERTED, DELETED):
            rate = counts[kept, outcome].sum() / max(places[kept].sum(), 1)
            kept &= binom.sf(counts[:, outcome] - 1, places, max(rate, 1e-9)) > UNLIKELY
    return Frames(frames.width, frames.contexts[kept], frames.words[kept], frames.alternatives)


def _matches(frames: Frames, tokens: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Finds occurrences of frames: index of the frame, position of its middle in `tokens`, and outcome, (n,) each."""
    matches: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for gap in (1, 2, 0):
        places, hashes = _contexts(tokens, offsets, frames.width, gap)
        which = np.minimum(np.searchsorted(frames.contexts, hashes), max(len(frames.contexts) - 1, 0))
        matched = frames.contexts[which] == hashes if len(frames.contexts) else np.zeros(len(hashes), dtype=bool)
        places, which, hashes = places[matched], which[matched], hashes[matched]
        word = frames.words[which]
        if gap == 0:
            matches.append((which, places, np.full(len(places), DELETED)))
        elif gap == 1:
            intact = tokens[places] == word
            language = np.isin(combine(hashes, tokens[places]), frames.alternatives)
            kept = intact | ~language
            matches.append((which[kept], places[kept], np.where(intact[kept], INTACT, REPLACED)))
        else:
            kept = (tokens[places] == word) ^ (tokens[places + 1] == word)
            matches.append((which[kept], places[kept], np.full(int(kept.sum()), INSERTED)))
    which, places, outcomes = (np.concatenate(parts) for parts in zip(*matches, strict=True))
    return which, places, outcomes


def _contexts(tokens: np.ndarray, offsets: np.ndarray, width: int, gap: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns positions of middles of `gap` tokens with `width` tokens on each side in the report, and their hashes."""
    before, behind = width, gap + width  # a place p needs tokens[p - before : p + behind]
    lengths = np.diff(offsets)
    positions = np.arange(len(tokens))
    left = positions - np.repeat(offsets[:-1], lengths)
    right = np.repeat(offsets[1:], lengths) - positions
    places = positions[(left >= before) & (right >= behind)]
    hashes = np.zeros(len(places), dtype=np.uint64)
    for step in (*range(-width, 0), *range(gap, gap + width)):
        hashes = combine(hashes, tokens[places + step])
    return places, hashes
