"""How noisy a file of reports is, from its text alone: frames of frequent phrases, and what stands in their middle.

A frame is `width` tokens on the left and as many on the right between which the language nearly always puts one and the
same word. Where the frame is there and the word is not, the word was hit: another token in its place is a replacement,
the word and a second token an insertion, nothing at all a deletion. A word that the frame often takes instead is
language, not noise, and a frame that often does without its word is no frame.

An intact frame is evidence of a report with little noise, so a wide frame sees less noise than there is. If the share
of hit tokens varies between reports like Beta(a, b), frames of k tokens see a / (a + b + k) of it on average: the fall
from narrow to wide frames tells how much the reports differ, and its continuation to k = 0 the rate itself.
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
"""Occurrences, in all texts together, below which a frame is not judged."""
RIGID = 0.7
"""A frame has its word in at least this share of the places where it holds one token."""
LANGUAGE = 0.004
"""Another token in more than this share of a frame's places (some ten times what flat noise gives) is language."""
UNLIKELY = 1e-3
"""A frame is dropped if so many insertions or deletions had no more than this chance at the common rate."""
MIN_OUTCOMES = 200
"""Places seen in the narrowest frames below which no rate is given."""
SPREADS = np.linspace(-0.01, 0.25, 261)
"""Candidates for 1 / (a + b). Below zero no Beta distribution is left, but when reports are all alike chance leads
there as often as above; stopping at zero would make every rate too high on average."""
FEW_HITS = 0.01
DRAWS = 200
LEVEL = 0.95


@dataclass(frozen=True)
class Frames:
    """The frames of one width; contexts are 64-bit hashes, in ascending order."""

    width: int
    contexts: np.ndarray
    """(F,) uint64"""
    words: np.ndarray
    """(F,) the word of each."""
    alternatives: np.ndarray
    """Sorted hashes of (context, token) for the tokens that are language there."""


@dataclass(frozen=True)
class NoiseEstimate:
    """Of one file. Intervals are (low, high), 95% of a bootstrap over reports."""

    rates: NoiseRates
    """Per token of the text before it was noised, as `noise.corrupt` takes them."""
    intervals: dict[str, tuple[float, float]]
    """Of each of the rates."""
    odd_middles: float
    """Share of places with one token, in frames of three tokens either side, that hold another than the frame's word:
    the plain count, with no correction for what wide frames miss."""
    outcomes: int
    """Places seen in the narrowest frames."""
    flatness: float | None
    """Perplexity of the replacing tokens, as a share of that of as many tokens drawn evenly from the vocabulary. None
    where nothing is replaced."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def learn_frames(texts: Sequence[Text]) -> list[Frames]:
    """The frames of WIDTHS that all `texts` together show; a width at which there is none is left out."""
    tokens, offsets = join(texts)
    tokens = tokens.astype(np.int64)
    file = np.repeat(np.arange(len(texts)), [len(part) for part, _ in texts])
    found = [_learn(tokens, offsets, file, width) for width in WIDTHS]
    return [frames for frames in found if len(frames.contexts)]


def count_outcomes(frames: Sequence[Frames], text: Text) -> np.ndarray:
    """(N, len(frames), 4) int32: how often each report shows each of INTACT, REPLACED, INSERTED, DELETED."""
    tokens, offsets = np.asarray(text[0], dtype=np.int64), text[1]
    counts = np.zeros((len(offsets) - 1, len(frames), 4), dtype=np.int32)
    for i, one in enumerate(frames):
        _, places, outcomes = _matches(one, tokens, offsets)
        reports = np.searchsorted(offsets, places, side="right") - 1
        np.add.at(counts, (reports, i, outcomes), 1)
    return counts


def replacing_tokens(frames: Sequence[Frames], text: Text) -> np.ndarray:
    """The tokens that stand where the narrowest frames want another: (n,)."""
    if not frames:
        return np.empty(0, dtype=np.int64)
    tokens = np.asarray(text[0], dtype=np.int64)
    _, places, outcomes = _matches(frames[0], tokens, text[1])
    return tokens[places[outcomes == REPLACED]]


def hit_tokens(frames: Sequence[Frames], text: Text) -> np.ndarray:
    """Which tokens some frame takes for intruders, in the place of its word or beside it: bool (n tokens,)."""
    tokens = np.asarray(text[0], dtype=np.int64)
    hit = np.zeros(len(tokens), dtype=bool)
    for one in frames:
        which, places, outcomes = _matches(one, tokens, text[1])
        hit[places[outcomes == REPLACED]] = True
        beside = outcomes == INSERTED
        first = places[beside]
        hit[first + (tokens[first] == one.words[which[beside]])] = True  # the word itself, or the one behind it
    return hit


def estimate_noise(
    frames: Sequence[Frames],
    counts: np.ndarray,
    replacing: np.ndarray,
    vocabulary_size: int,
    seed: int = 0,
    others: Sequence[np.ndarray] = (),
) -> NoiseEstimate | None:
    """From `count_outcomes` and `replacing_tokens`; None where the frames are seen fewer than MIN_OUTCOMES times.

    `others` are the counts of files whose reports are taken to differ as much in their noise as this file's do: a small
    file cannot tell that by itself, and its rates hang on it.
    """
    if not len(frames) or counts[:, 0].sum() < MIN_OUTCOMES:
        return None
    contexts = np.array([2 * one.width for one in frames])
    flat = counts.reshape(len(counts), -1).astype(np.float64)
    rng = np.random.default_rng(seed)
    drawn = [np.bincount(rng.integers(0, len(flat), len(flat)), minlength=len(flat)) @ flat for _ in range(DRAWS)]
    totals = np.stack([flat.sum(axis=0), *drawn]).reshape(DRAWS + 1, *counts.shape[1:])
    known = _spread_likelihood([other.sum(axis=0) for other in others], contexts)
    rates = np.stack([_rates(total, contexts, known) for total in totals])  # (draws, 4): in the order of NoiseRates
    tails = (1 - LEVEL) / 2
    low, high = np.quantile(rates[1:], [tails, 1 - tails], axis=0)
    names = ("replacement", "insertion", "deletion", "dispersion")
    middle = totals[0, int(np.abs(contexts - 6).argmin())]  # three tokens either side, where there are such frames
    return NoiseEstimate(
        NoiseRates(**dict(zip(names, map(float, rates[0]), strict=True))),
        {name: (float(low[i]), float(high[i])) for i, name in enumerate(names)},
        float(middle[REPLACED] / max(middle[REPLACED] + middle[INTACT], 1)),
        int(totals[0, 0].sum()),
        _flatness(replacing, vocabulary_size),
    )


def report_noise(counts: np.ndarray, rates: NoiseRates) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean and standard deviation (N,) of the share of each report's tokens that were hit.

    The prior is the Beta distribution of `rates`; the evidence are the places of the narrowest frames, each hit with
    the report's rate. A report without evidence keeps the prior.
    """
    total, concentration = rates.total, 1 / max(rates.dispersion, 1e-6) - 1
    # An insertion is seen at both of its neighbours, see _rates.
    hits = counts[:, 0, [REPLACED, INSERTED, DELETED]] @ np.array([1, 0.5, 1])
    evidence = concentration + hits + counts[:, 0, INTACT]  # the Beta distribution is conjugate
    mean = (total * concentration + hits) / evidence
    return mean, np.sqrt(mean * (1 - mean) / (evidence + 1))


def extra_noise(have: NoiseRates, want: NoiseRates) -> NoiseRates:
    """What `corrupt` must add to a text with the noise `have` so that it has `want`; nothing where it has more already.

    A token that is hit twice counts once, so of the share 1 - have.total that is left, (want - have) must be hit. The
    rate of a report varies by dispersion * total * (1 - total), and what is added must vary by what is missing to that.
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


def _rates(total: np.ndarray, contexts: np.ndarray, known: np.ndarray | float = 0.0) -> np.ndarray:
    """replacement, insertion, deletion and dispersion from outcomes (W, 4) of frames of `contexts` (W,) tokens.

    The share of each kind of hit in frames of k tokens is modelled as share / (1 + k * spread), spread = 1 / (a + b);
    given the spread, the Poisson likelihood has its maximum at shares in closed form, and the spread is the best of
    SPREADS; `known` is what is known of it beforehand, a log-likelihood of each. With A the rate of intact tokens, a
    place shows intact : replaced : deleted : inserted as A : R + D I / A : D : 2 I, since an intruder may belong to the
    word or to the neighbour that it stands beside.
    """
    hits = total[:, [REPLACED, INSERTED, DELETED]]
    likelihood = known + _spread_likelihood([total], contexts)
    # Where next to nothing is hit, what is taken for hits is rare language, and its fall says nothing on reports.
    spread = SPREADS[int(likelihood.argmax())] if _tells(total) and likelihood.any() else 0.0
    shares = hits.sum(axis=0) / (1 / (1 + spread * contexts) @ total.sum(axis=1))
    replaced, inserted, deleted = shares / max(1 - shares.sum(), 0.01)  # odds against the intact word
    inserted /= 2
    replaced = max(replaced - deleted * inserted, 0)
    rates = np.array([replaced, inserted, deleted]) / (1 + replaced + inserted + deleted)
    spread = max(spread, 0)
    return np.append(rates, spread / (1 + spread))  # 1 / (a + b + 1)


def _spread_likelihood(totals: Sequence[np.ndarray], contexts: np.ndarray) -> np.ndarray:
    """Log-likelihood of each of SPREADS, common to files of outcomes (W, 4) each; zeros where nothing is told."""
    likelihood = np.zeros(len(SPREADS))
    shrink = 1 / (1 + SPREADS[:, None] * contexts)
    for total in filter(_tells, totals):
        places, hits = total.sum(axis=1), total[:, [REPLACED, INSERTED, DELETED]].sum(axis=1)
        expected = hits.sum() / (shrink @ places)[:, None] * shrink * places
        likelihood += (hits * np.log(np.maximum(expected, 1e-12)) - expected).sum(axis=1)
    return likelihood


def _tells(total: np.ndarray) -> bool:
    """Whether outcomes (W, 4) show enough hits, and at more than one width."""
    places = total.sum(axis=1)
    return total[:, [REPLACED, INSERTED, DELETED]].sum() > FEW_HITS * places.sum() and (places > 0).sum() > 1


def _flatness(tokens: np.ndarray, vocabulary_size: int) -> float | None:
    """exp(entropy), as a share of what as many tokens drawn evenly from the vocabulary have on average."""
    if not len(tokens):
        return None
    rng = np.random.default_rng(0)
    even = [_perplexity(rng.integers(0, vocabulary_size, len(tokens))) for _ in range(20)]
    return float(_perplexity(tokens) / np.mean(even))


def _perplexity(tokens: np.ndarray) -> float:
    counts = np.unique(tokens, return_counts=True)[1]
    shares = counts / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _learn(tokens: np.ndarray, offsets: np.ndarray, file: np.ndarray, width: int) -> Frames:
    """Frames of all texts together; `file` (len(tokens),) is the text of each token."""
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
    """(frame, token) pairs that take more than LANGUAGE of a frame's places in one of the texts. Each text is asked by
    itself: one intruder in several copies of a report is no language."""
    found = []
    for one in np.unique(file):
        values, count = np.unique(pairs[file == one], return_counts=True)
        frame = np.unique(values >> 16, return_inverse=True)[1]
        total = np.bincount(frame, weights=count)[frame]
        found.append(values[count > np.maximum(2, LANGUAGE * total)])
    return np.unique(np.concatenate(found))


def _without_loose(frames: Frames, tokens: np.ndarray, offsets: np.ndarray) -> Frames:
    """Without the frames that have, for their places, far too many insertions or deletions: those are other phrases."""
    from scipy.stats import binom

    which, _, outcomes = _matches(frames, tokens, offsets)
    counts = np.zeros((len(frames.contexts), 4), dtype=np.int64)
    np.add.at(counts, (which, outcomes), 1)
    places = counts.sum(axis=1)
    kept = places > 0
    for _ in range(5):  # the common rates settle after two or three rounds
        for outcome in (INSERTED, DELETED):
            rate = counts[kept, outcome].sum() / max(places[kept].sum(), 1)
            kept &= binom.sf(counts[:, outcome] - 1, places, max(rate, 1e-9)) > UNLIKELY
    return Frames(frames.width, frames.contexts[kept], frames.words[kept], frames.alternatives)


def _matches(frames: Frames, tokens: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where frames are seen: index of the frame, place of its middle in `tokens`, and outcome, (n,) each."""
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for gap in (1, 2, 0):
        places, hashes = _contexts(tokens, offsets, frames.width, gap)
        which = np.minimum(np.searchsorted(frames.contexts, hashes), max(len(frames.contexts) - 1, 0))
        known = frames.contexts[which] == hashes if len(frames.contexts) else np.zeros(len(hashes), dtype=bool)
        places, which, hashes = places[known], which[known], hashes[known]
        word = frames.words[which]
        if gap == 0:
            found.append((which, places, np.full(len(places), DELETED)))
        elif gap == 1:
            intact = tokens[places] == word
            language = np.isin(combine(hashes, tokens[places]), frames.alternatives)
            kept = intact | ~language
            found.append((which[kept], places[kept], np.where(intact[kept], INTACT, REPLACED)))
        else:
            kept = (tokens[places] == word) ^ (tokens[places + 1] == word)
            found.append((which[kept], places[kept], np.full(int(kept.sum()), INSERTED)))
    which, places, outcomes = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return which, places, outcomes


def _contexts(tokens: np.ndarray, offsets: np.ndarray, width: int, gap: int) -> tuple[np.ndarray, np.ndarray]:
    """Places with `width` tokens before them and `width` behind a gap of `gap` tokens, all in one report, and hashes
    of those tokens."""
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
