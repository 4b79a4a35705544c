"""Token noise has the requested rates, keeps reports apart, and changes nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from src.core.errors import UserError
from src.data.corruption import NoiseRates, corrupt

N, LENGTH = 4000, 50
WORDS = np.arange(LENGTH)  # each report reads 0, 1, 2, … so that a gap shows a deletion
INTRUDERS = np.arange(1000, 1020)  # in no clean report, so that they show insertions and replacements
EVERYTHING = NoiseRates(replacement=0.2, insertion=0.1, deletion=0.15, dispersion=0.1)


def planted(rates: NoiseRates, *, n: int = N, length: int = LENGTH, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.tile(WORDS[:length], n).astype(np.uint16)
    return corrupt(tokens, np.arange(n + 1) * length, rates, np.random.default_rng(seed), INTRUDERS)


def per_report(flags: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    return np.add.reduceat(flags.astype(np.int64), offsets[:-1])


def test_zero_rates_change_nothing():
    tokens, offsets = np.array([5, 7, 0, 7], np.uint16), np.array([0, 1, 4])
    noisy, noisy_offsets = corrupt(tokens, offsets, NoiseRates(), np.random.default_rng(0), np.arange(9))
    assert noisy.tolist() == tokens.tolist() and noisy_offsets.tolist() == offsets.tolist()
    assert not np.shares_memory(noisy, tokens)


def test_arguments_stay_as_they_are():
    tokens, offsets = np.arange(500, dtype=np.int32) % 9, np.arange(0, 501, 10)
    before = tokens.copy(), offsets.copy()
    corrupt(tokens, offsets, EVERYTHING, np.random.default_rng(0), np.arange(9))
    assert np.array_equal(tokens, before[0]) and np.array_equal(offsets, before[1])


def test_replacement_rate():
    noisy, offsets = planted(NoiseRates(replacement=0.15))
    assert np.array_equal(offsets, np.arange(N + 1) * LENGTH)
    kept = noisy < LENGTH
    assert np.array_equal(noisy[kept], np.tile(WORDS, N)[kept])
    assert 1 - kept.mean() == pytest.approx(0.15, abs=0.004)


def test_insertion_rate_and_both_sides():
    noisy, offsets = planted(NoiseRates(insertion=0.1))
    assert np.array_equal(noisy[noisy < LENGTH], np.tile(WORDS, N)), "the words themselves must stay, in order"
    assert len(noisy) / (N * LENGTH) - 1 == pytest.approx(0.1, abs=0.004)
    # Every token gets a neighbour: it stands before or behind its token, never in another report.
    noisy, offsets = planted(NoiseRates(insertion=1.0), length=1)
    assert np.array_equal(np.diff(offsets), np.full(N, 2))
    assert ((noisy.reshape(N, 2) >= 1000).sum(axis=1) == 1).all()
    assert (noisy[offsets[:-1]] >= 1000).mean() == pytest.approx(0.5, abs=0.04)


def test_deletion_rate():
    noisy, offsets = planted(NoiseRates(deletion=0.2))
    assert len(noisy) / (N * LENGTH) == pytest.approx(0.8, abs=0.005)
    inner = np.setdiff1d(np.arange(1, len(noisy)), offsets)
    assert (noisy[inner] > noisy[inner - 1]).all(), "within a report the words keep their order"


@pytest.mark.parametrize("dispersion", [0.0, 0.1])
def test_the_kinds_exclude_each_other_and_keep_their_rates_together(dispersion):
    noisy, _ = planted(NoiseRates(replacement=0.2, insertion=0.1, deletion=0.15, dispersion=dispersion))
    intruders = (noisy >= 1000).sum() / (N * LENGTH)
    survivors = (noisy < LENGTH).sum() / (N * LENGTH)
    assert intruders == pytest.approx(0.3, abs=0.01)  # replaced + inserted
    assert survivors == pytest.approx(0.65, abs=0.01)  # neither replaced nor deleted


@pytest.mark.parametrize("dispersion", [0.0, 0.05, 0.3])
def test_dispersion_is_the_intra_class_correlation(dispersion):
    rate = 0.2
    noisy, offsets = planted(NoiseRates(replacement=rate, dispersion=dispersion), n=20_000)
    share = per_report(noisy >= 1000, offsets) / LENGTH
    assert share.mean() == pytest.approx(rate, abs=0.005)
    # Variance of a beta-binomial share: m (1 - m) (1 + (L - 1) r) / L.
    measured = (share.var() * LENGTH / (rate * (1 - rate)) - 1) / (LENGTH - 1)
    assert measured == pytest.approx(dispersion, abs=0.01)


def test_a_noisy_report_is_noisier_in_everything():
    noisy, offsets = planted(NoiseRates(replacement=0.15, deletion=0.15, dispersion=0.2))
    replaced, missing = per_report(noisy >= 1000, offsets), LENGTH - np.diff(offsets)
    assert np.corrcoef(replaced, missing)[0, 1] > 0.5
    noisy, offsets = planted(NoiseRates(replacement=0.15, deletion=0.15))
    replaced, missing = per_report(noisy >= 1000, offsets), LENGTH - np.diff(offsets)
    assert np.corrcoef(replaced, missing)[0, 1] < 0.0, "with one rate for all, kinds that exclude each other compete"


def test_a_replacement_differs_and_intruders_are_uniform():
    # With three words, intruders that may equal the original would change only two thirds of the tokens hit.
    tokens = np.random.default_rng(1).integers(0, 3, size=60_000).astype(np.uint16) * 2
    offsets = np.arange(0, 60_001, 20)
    noisy, _ = corrupt(tokens, offsets, NoiseRates(replacement=0.3), np.random.default_rng(0), np.array([4, 0, 2]))
    assert (noisy != tokens).mean() == pytest.approx(0.3, abs=0.008)
    for word in (0, 2, 4):
        intruders = noisy[(tokens == word) & (noisy != tokens)]
        counts = np.unique(intruders, return_counts=True)[1]
        assert len(counts) == 2 and counts.min() / counts.sum() > 0.47
    noisy, _ = planted(NoiseRates(replacement=0.2, insertion=0.2))
    counts = np.bincount(noisy[noisy >= 1000] - 1000, minlength=20)
    assert np.abs(counts / counts.mean() - 1).max() < 0.06


def test_no_report_becomes_empty():
    lengths = np.arange(30_000) % 3 + 1
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.repeat(np.arange(30_000), lengths)
    for deletion in (0.9, 1.0):
        noisy, new = corrupt(tokens, offsets, NoiseRates(deletion=deletion), np.random.default_rng(0), np.arange(2))
        assert np.diff(new).min() == 1 and new[-1] == len(noisy)
        assert np.array_equal(noisy, np.repeat(np.arange(30_000), np.diff(new))), "each keeps a token of its own"
    assert np.array_equal(np.diff(new), np.ones(30_000))
    survivors, _ = planted(NoiseRates(deletion=1.0), length=5)
    assert np.bincount(survivors, minlength=5).min() > 0.8 * N / 5, "any of its tokens may be the one that stays"


def test_empty_reports_stay_empty_and_no_reports_stay_none():
    noisy, offsets = corrupt(np.arange(3), np.array([0, 0, 3, 3]), EVERYTHING, np.random.default_rng(0), np.arange(9))
    assert offsets[1] == 0 and offsets[2] == offsets[3] == len(noisy) > 0
    nothing = corrupt(np.zeros(0, np.uint16), np.zeros(1, np.int64), EVERYTHING, np.random.default_rng(0), np.arange(9))
    assert [array.tolist() for array in nothing] == [[], [0]]


def test_offsets_and_types_hold():
    for dtype in (np.uint16, np.int32, np.int64):
        tokens = np.arange(900).astype(dtype)
        noisy, offsets = corrupt(tokens, np.arange(0, 901, 9), EVERYTHING, np.random.default_rng(0), np.arange(858))
        assert noisy.dtype == dtype and offsets.dtype == np.int64
        assert offsets[0] == 0 and offsets[-1] == len(noisy) and (np.diff(offsets) > 0).all() and len(offsets) == 101


def test_same_generator_same_noise():
    first, second, other = planted(EVERYTHING), planted(EVERYTHING), planted(EVERYTHING, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert not np.array_equal(first[1], other[1])


@pytest.mark.parametrize(
    ("rates", "named"),
    [
        ({"replacement": -0.1}, "replacement"),
        ({"insertion": 1.1}, "insertion"),
        ({"deletion": float("nan")}, "deletion"),
        ({"dispersion": 1.0}, "dispersion"),
        ({"replacement": 0.5, "insertion": 0.3, "deletion": 0.3}, "sum"),
    ],
)
def test_impossible_rates_are_refused(rates, named):
    with pytest.raises(UserError, match=named):
        NoiseRates(**rates)


@pytest.mark.parametrize(
    ("tokens", "offsets", "alphabet", "named"),
    [
        (np.zeros(3), [0, 3], [1, 2], "integers"),
        (np.zeros((1, 3), int), [0, 3], [1, 2], "flat"),
        (np.zeros(3, int), [0, 2], [1, 2], "offsets"),
        (np.zeros(3, int), [0, 2, 1, 3], [1, 2], "decrease"),
        (np.zeros(3, np.uint16), [0, 3], [1, 70_000], "uint16"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tokens, offsets, alphabet, named):
    with pytest.raises(ValueError, match=named):
        corrupt(tokens, np.array(offsets), EVERYTHING, np.random.default_rng(0), np.array(alphabet))


@pytest.mark.parametrize("rates", [EVERYTHING, NoiseRates(replacement=1.0), NoiseRates(insertion=1.0)])
def test_a_single_word_has_no_intruders(rates):
    tokens, offsets = corrupt(np.full(6, 4), np.array([0, 1, 6]), rates, np.random.default_rng(0), np.array([4, 4]))
    assert (tokens == 4).all() and (np.diff(offsets) >= 1).all() and (np.diff(offsets) <= [1, 5]).all()
