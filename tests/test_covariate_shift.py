"""Shift measures equal small cases computed by hand, and find planted differences only."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from src.data.ngrams import Text
from src.evaluation import covariate_shift
from src.evaluation.metrics import effective_size

PLANTED = [7, 31]


def as_text(*reports: list[int]) -> Text:
    tokens = [token for report in reports for token in report]
    return np.array(tokens, dtype=np.uint16), np.cumsum([0, *map(len, reports)])


def pool(n: int, seed: int) -> list[list[int]]:
    """Draws reports of 60 words, the first far more frequent than the last."""
    rng = np.random.default_rng(seed)
    shares = 1 / np.arange(1, 61)
    return [rng.choice(60, rng.integers(10, 30), p=shares / shares.sum()).tolist() for _ in range(n)]


# profile


def test_lengths_and_words():
    found = covariate_shift.profile(as_text([1, 2, 3]), as_text([1], [1, 2, 1], [3, 9, 9, 9, 1], [2, 2, 2]))
    assert found["reports"] == 4 and found["words"] == 4
    length = found["length"]
    assert (length["mean"], length["min"], length["median"], length["max"]) == (3, 1, 3, 5)
    assert length["p05"] == pytest.approx(1.3) and length["p95"] == pytest.approx(4.7)
    json.dumps(found)


def test_unseen_shares_count_occurrences_inside_reports():
    found = covariate_shift.profile(as_text([1, 2, 3], [4, 1]), as_text([1, 2, 3, 4], [9, 9, 1, 2], [3, 4]))["unseen"]
    # 3 4 is seen nowhere: in the reference, 3 ends one report and 4 begins the next.
    assert found == pytest.approx({"unigrams": 2 / 10, "bigrams": 4 / 7, "trigrams": 3 / 4})
    same = as_text([1, 2, 3, 4])
    assert set(covariate_shift.profile(same, same)["unseen"].values()) == {0}


def test_bits_of_words():
    # Vocabulary 0 to 3; each word once more than it was seen: 0 has 3 of 8, 1 has 2, 2 has 1 and 3 has 2.
    found = covariate_shift.profile(as_text([0, 0, 1], [3]), as_text([0, 2, 3], [3]))
    assert found["unigram_bits"] == pytest.approx((math.log2(8 / 3) + 3 + 2 + 2) / 4)


def test_bits_of_bigrams_by_hand():
    # After 0 came 1 twice and 0 once: three times, two followers. Words with one added: 0 4/8, 1 3/8, 2 1/8.
    reference, text = as_text([0, 0, 1], [0, 1]), as_text([0, 1, 2], [0, 2, 2])
    after_0 = [(2 + 2 * 3 / 8) / 5, (0 + 2 * 1 / 8) / 5]  # of 1 and 2
    after_1 = after_2 = 1 / 8  # nothing was seen behind them: words alone
    bits = -np.log2([after_0[0], after_1, after_0[1], after_2]).mean()
    assert covariate_shift.profile(reference, text)["bigram_bits"] == pytest.approx(bits)


def test_order_is_seen_by_bigrams_and_not_by_words():
    ring = [list(np.arange(start, start + 30) % 50) for start in range(50)]  # each word has one successor
    shuffled = [np.random.default_rng(i).permutation(report).tolist() for i, report in enumerate(ring)]
    ordered, mixed = (covariate_shift.profile(as_text(*ring), as_text(*reports)) for reports in (ring, shuffled))
    assert ordered["unigram_bits"] == pytest.approx(math.log2(50)) == pytest.approx(mixed["unigram_bits"])
    assert ordered["bigram_bits"] < 0.2 and mixed["bigram_bits"] > math.log2(50)


def test_bigram_probabilities_sum_to_one():
    reference = as_text([0, 1, 1, 4], [1, 0], [5, 2, 2, 2], [0, 5])  # 3 never, 4 only last
    for first in range(6):
        total = 0.0
        for second, third in itertools.product(range(6), repeat=2):
            bits = covariate_shift.profile(reference, as_text([first, second, third]))["bigram_bits"]
            total += 2 ** (-2 * bits)  # mean of two bigrams
        assert total == pytest.approx(1)


# shared_ngrams


def test_shared_ngrams_with_another_text():
    reference = as_text([1, 2, 3], [4, 5])
    text = as_text([9, 2, 3], [3, 4], [1], [], [4, 5, 4, 5])  # 3 4 lies across two reports of the reference
    assert covariate_shift.shared_ngrams(reference, text, 2) == 2 / 5
    assert covariate_shift.shared_ngrams(reference, text, 1) == 4 / 5
    assert covariate_shift.shared_ngrams(reference, text, 3) == 0


def test_shared_ngrams_within_a_text():
    text = as_text([1, 2, 1, 2], [3, 4], [4, 3], [9, 3, 4, 9], [5])  # a report does not share with itself
    assert covariate_shift.shared_ngrams(text, n=2) == 2 / 5
    assert covariate_shift.shared_ngrams(text, n=1) == 3 / 5
    assert covariate_shift.shared_ngrams(text, n=5) == 0
    assert covariate_shift.shared_ngrams(as_text([1, 2], [1, 2]), n=2) == 1


def test_long_ngrams_are_those_of_ten():
    report = list(range(10))
    assert covariate_shift.shared_ngrams(as_text(report), as_text([99, *report], report[:9])) == 1 / 2


# adversarial


@pytest.mark.parametrize("seed", range(4))
def test_two_samples_of_one_pool_are_not_told_apart(seed):
    found = covariate_shift.adversarial(as_text(*pool(300, seed)), as_text(*pool(200, seed + 100)), seed)
    assert abs(found.auc - 0.5) < 3 * found.standard_error  # seeds are fixed: chance alone leads beyond now and then
    assert 0.02 < found.standard_error < 0.03  # Hanley and McNeil at .5: ((N + M + 1) / 12NM)^.5 = .0264
    assert found.train_logits.shape == (300,) and found.test_logits.shape == (200,)


def test_a_planted_bigram_is_found_and_named_first():
    train, test = pool(300, 0), pool(200, 100)
    rng = np.random.default_rng(0)
    marked = [report[:5] + PLANTED + report[5:] if rng.random() < 0.3 else report for report in test]
    before, after = (covariate_shift.adversarial(as_text(*train), as_text(*reports)) for reports in (test, marked))
    assert after.auc > before.auc + 0.05
    first = after.telling[0]
    assert first["tokens"] == PLANTED and first["z"] > 5
    for name, reports in (("train", train), ("test", marked)):
        held = [PLANTED in ([a, b] for a, b in itertools.pairwise(report)) for report in reports]
        assert first[name] == pytest.approx(np.mean(held))
    z = [one["z"] for one in after.telling]
    assert len(z) == 2 * covariate_shift.TELLING and z[: covariate_shift.TELLING] == sorted(
        z[: covariate_shift.TELLING], reverse=True
    )
    assert z[covariate_shift.TELLING :] == sorted(z[covariate_shift.TELLING :]) and z[covariate_shift.TELLING] < 0
    json.dumps(after.telling)
    backwards = covariate_shift.adversarial(as_text(*marked), as_text(*train))
    assert backwards.telling[covariate_shift.TELLING]["tokens"] == PLANTED, "what gives train away comes behind"


def test_logits_are_of_models_that_did_not_see_the_report():
    # Each report is there twice. Who sees the copy can tell its file; with every report alone nobody can.
    train, test = pool(60, 0), pool(60, 100)
    alone = covariate_shift.adversarial(as_text(*train), as_text(*test))
    assert alone.auc < 0.7, "a model that had seen these reports would know them by heart"
    twice = covariate_shift.adversarial(as_text(*train, *train), as_text(*test, *test))
    assert twice.auc > 0.85


def test_logits_give_the_auc_and_repeat():
    train, test = as_text(*pool(80, 0)), as_text(*[[*report, 59] for report in pool(50, 1)])
    found, again, other = (covariate_shift.adversarial(train, test, seed) for seed in (3, 3, 4))
    logits = np.concatenate([found.train_logits, found.test_logits])
    assert found.auc == pytest.approx(roc_auc_score(np.repeat([0, 1], [80, 50]), logits))
    assert found.auc > 0.8
    np.testing.assert_array_equal(again.train_logits, found.train_logits)
    assert np.abs(other.train_logits - found.train_logits).max() > 0.01, "other folds"


def test_sizes_of_the_files_do_not_move_the_odds():
    found = covariate_shift.adversarial(as_text(*pool(1000, 0)), as_text(*pool(100, 1)))
    assert np.median(found.train_logits) > -1  # ten to one as they are: log .1 = -2.3


@pytest.mark.parametrize("sizes", [(4, 20), (20, 4)])
def test_fewer_reports_than_folds_are_refused(sizes):
    with pytest.raises(ValueError, match="5 reports"):
        covariate_shift.adversarial(*(as_text(*pool(size, size)) for size in sizes))
    assert covariate_shift.adversarial(*(as_text(*pool(max(size, 5), size)) for size in sizes)).standard_error > 0


# weights


def test_odds_are_weights():
    weights = covariate_shift.odds_weights(np.log([1.0, 2, 3]))
    np.testing.assert_allclose(weights, [0.5, 1, 1.5])
    assert np.isfinite(covariate_shift.odds_weights(np.array([-1e9, 0, 1e9]))).all()


@pytest.mark.parametrize("clip", [2.0, covariate_shift.CLIP])
def test_weights_are_clipped_and_have_mean_one(clip):
    odds = np.exp(np.random.default_rng(0).normal(0, 3, 2000))
    weights = covariate_shift.odds_weights(np.log(odds), clip)
    assert weights.mean() == pytest.approx(1) and (weights > 0).all()
    assert weights.max() == pytest.approx(clip)
    below = weights < clip * (1 - 1e-6)
    assert 0 < below.sum() < 2000
    np.testing.assert_allclose(weights[below] / weights[below].sum(), odds[below] / odds[below].sum())
    assert odds[~below].min() >= odds[below].max(), "the largest are cut, and no others"


def test_odds_weights_lead_towards_the_shares_of_the_test():
    # A word in 20% of the train reports and 60% of the test reports. A regularised classifier goes part of the way.
    train, test = pool(600, 0), pool(600, 1)
    for reports, share in ((train, 0.2), (test, 0.6)):
        for report in reports[: int(share * 600)]:
            report.append(99)
    weights = covariate_shift.odds_weights(covariate_shift.adversarial(as_text(*train), as_text(*test)).train_logits)
    assert 0.25 < np.average([99 in report for report in train], weights=weights) < 0.65


def test_similarity_weights_give_the_histogram_of_the_test():
    rng = np.random.default_rng(0)
    train, test = rng.beta(4, 4, 5000), rng.beta(3, 5, 3000)
    weights = covariate_shift.similarity_weights(train, test)
    assert weights.mean() == pytest.approx(1) and len(weights) == 5000
    edges = np.quantile(test, np.linspace(0, 1, covariate_shift.SIMILARITY_BINS + 1)[1:-1])
    inner = np.concatenate([[-np.inf], edges, [np.inf]])
    share = np.histogram(train, inner, weights=weights)[0] / 5000
    np.testing.assert_allclose(share, np.histogram(test, inner)[0] / 3000, atol=1e-9)
    assert np.average(train, weights=weights) == pytest.approx(test.mean(), abs=0.005)
    assert abs(train.mean() - test.mean()) > 0.1


def test_similarity_weights_of_equal_distributions_are_near_one():
    rng = np.random.default_rng(1)
    weights = covariate_shift.similarity_weights(rng.random(20_000), rng.random(20_000))
    assert np.abs(weights - 1).max() < 0.15 and effective_size(weights) > 0.99 * 20_000
    tied = np.repeat([0.2, 0.5, 1.0], [50, 30, 20])  # many equal cosines leave fewer bins
    np.testing.assert_allclose(covariate_shift.similarity_weights(tied, tied), 1)


@pytest.mark.parametrize(
    "test", [np.zeros(20), np.ones(20), np.array([0.5]), np.array([0.2, 0.2])], ids=["no word", "copies", "one", "two"]
)
def test_similarity_weights_are_above_zero_whatever_the_test_file_is_like(test):
    weights = covariate_shift.similarity_weights(np.random.default_rng(0).uniform(0.1, 0.9, 300), test)
    assert weights.min() > 0 and weights.mean() == pytest.approx(1)


def test_similarity_weights_are_clipped():
    train, test = np.append(np.zeros(999), 1.0), np.append(np.zeros(10), np.ones(10))
    few = covariate_shift.similarity_weights(train, test)
    assert few.mean() == pytest.approx(1)
    assert few.max() == pytest.approx(covariate_shift.CLIP)
    free = covariate_shift.similarity_weights(train, test, clip=1e9)
    assert free[-1] / free[0] == pytest.approx(999)


def test_reports_too_short_for_an_ngram_are_no_error():
    one, two = as_text([1], [2]), as_text([1, 2], [2, 1])
    for reference, text in ((one, one), (one, two), (two, one)):
        found = covariate_shift.profile(reference, text)
        assert found["unseen"]["trigrams"] == 0 and np.isfinite([found["unigram_bits"], found["bigram_bits"]]).all()


def test_effective_size():
    assert effective_size(np.full(70, 3.0)) == pytest.approx(70)
    assert effective_size(np.array([1e9, 1.0, 1.0])) == pytest.approx(1)
    assert effective_size(np.repeat([1.0, 0.0], [20, 80])) == pytest.approx(20)
    weights = np.random.default_rng(0).exponential(size=50)
    assert 1 < effective_size(weights) < 50
    assert effective_size(weights * 7) == pytest.approx(effective_size(weights)), "scale is nothing"


def test_files_in_which_no_word_recurs_are_no_error():
    train, test = as_text(*([word] for word in range(20))), as_text(*([word] for word in range(20, 30)))
    assert 0 <= covariate_shift.adversarial(train, test).auc <= 1
