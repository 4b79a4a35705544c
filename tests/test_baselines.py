"""Baselines use the training rows of a fold and nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from src.data.tasks import ROUND1
from src.evaluation import baselines
from src.evaluation.metrics import EPS, official_score, sigmoid


def flatten(texts):
    """Returns lists of tokens as one array and the offsets of its reports."""
    return np.concatenate([np.array(text, dtype=np.int32) for text in texts]), np.cumsum([0] + [len(t) for t in texts])


def as_words(texts):
    return [" ".join(map(str, text)) for text in texts]


def random_texts(n, vocabulary=12, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.integers(0, vocabulary, generator.integers(1, 15)).tolist() for _ in range(n)]


def test_zeros_are_the_clip():
    labels = np.zeros((10, 17), dtype=int)
    labels[0, :] = 1
    np.testing.assert_allclose(sigmoid(baselines.zeros((10, 17))), EPS)
    expected = 1 - (0.1 * -math.log(EPS) + 0.9 * -math.log1p(-EPS))
    assert official_score(ROUND1, labels, sigmoid(baselines.zeros((10, 17)))).value == pytest.approx(expected)


def test_random_is_uniform_and_fixed_by_its_seed():
    logits = baselines.random((2000, 5), seed=3)
    np.testing.assert_array_equal(logits, baselines.random((2000, 5), seed=3))
    assert (logits != baselines.random((2000, 5), seed=4)).all()
    np.testing.assert_allclose(np.quantile(sigmoid(logits), [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.02)


def test_prior_is_the_rate_of_the_other_folds():
    labels = np.zeros((40, 2), dtype=int)
    folds = np.arange(40) % 4
    labels[folds == 0, 0] = 1
    rates = sigmoid(baselines.constant(labels, folds))
    np.testing.assert_allclose(rates[folds == 0], 0.5 / 31)  # neither label occurs outside fold 0
    np.testing.assert_allclose(rates[folds == 1], [[10.5 / 31, 0.5 / 31]] * 10)


def test_prior_of_a_fold_does_not_see_its_labels():
    labels = np.random.default_rng(0).integers(0, 2, (60, 3))
    folds = np.arange(60) % 3
    before = baselines.constant(labels, folds)
    labels[folds == 1] = 1
    after = baselines.constant(labels, folds)
    np.testing.assert_array_equal(after[folds == 1], before[folds == 1])
    assert (after[folds == 0] > before[folds == 0]).all()


def test_prior_learns_from_rows_set_aside_and_does_not_predict_them():
    labels = np.array([[1], [1], [1], [0]])
    predicted = baselines.constant(labels, np.array([-1, -1, 0, 1]))
    assert np.isnan(predicted[:2]).all()
    np.testing.assert_allclose(sigmoid(predicted[2:]), [[2.5 / 4], [3.5 / 4]])
    with pytest.raises(ValueError, match="fold 0"):
        baselines.constant(labels, np.zeros(4, dtype=int))


def test_logits_are_those_of_scikit_learns_pipeline():
    texts = random_texts(150)
    labels = np.array([[(3 in text), (5 in text) and (4 in text)] for text in texts], dtype=int)
    order = np.random.default_rng(1).permutation(150)
    train, predict = order[:110], order[110:]
    ours = baselines.tfidf_logistic(*flatten(texts), labels, train, predict)
    words = as_words(texts)
    vectoriser = TfidfVectorizer(ngram_range=(1, 3), min_df=2, sublinear_tf=True, token_pattern=r"\S+")
    seen = vectoriser.fit_transform([words[i] for i in train])
    unseen = vectoriser.transform([words[i] for i in predict])
    for k in range(2):
        model = LogisticRegression(C=10, solver="liblinear", tol=1e-6).fit(seen, labels[train, k])
        np.testing.assert_allclose(ours[:, k], model.decision_function(unseen), atol=0.02)


def test_a_trigram_decides_only_when_trigrams_are_read():
    generator = np.random.default_rng(0)
    texts, labels = [], []
    for i in range(300):  # the same words and the same bigrams throughout; only `1 2 3` tells
        parts = [[1, 2, 3], [4, 2, 5]] if i % 2 else [[1, 2, 5], [4, 2, 3]]
        filler = generator.integers(10, 30, 3).tolist()
        texts.append([filler[0]] + parts[0] + [filler[1]] + parts[1] + [filler[2]])
        labels.append([i % 2])
    labels, rows = np.array(labels), np.arange(300)
    accuracy = {}
    for max_n in (2, 3):
        logits = baselines.tfidf_logistic(*flatten(texts), labels, rows[:200], rows[200:], max_n=max_n)
        accuracy[max_n] = ((logits > 0) == labels[200:]).mean()
    assert accuracy[3] == 1 and accuracy[2] < 0.7


def test_prediction_rows_teach_nothing():
    texts = random_texts(80)
    labels = np.array([[3 in text] for text in texts], dtype=int)
    train, predict = np.arange(60), np.arange(60, 80)
    whole = baselines.tfidf_logistic(*flatten(texts), labels, train, predict)
    one = baselines.tfidf_logistic(*flatten(texts[:61] + random_texts(19, seed=5)), labels[:60], train, np.array([60]))
    np.testing.assert_allclose(whole[:1], one)  # neither the other reports to predict nor any label of theirs


def test_order_of_rows_is_kept_and_results_repeat():
    texts = random_texts(90)
    labels = np.array([[3 in text, 4 in text] for text in texts], dtype=int)
    train, predict = np.arange(0, 90, 2), np.arange(1, 90, 2)
    first = baselines.tfidf_logistic(*flatten(texts), labels, train, predict)
    np.testing.assert_array_equal(first, baselines.tfidf_logistic(*flatten(texts), labels, train, predict))
    backwards = baselines.tfidf_logistic(*flatten(texts), labels, train, predict[::-1])
    np.testing.assert_allclose(backwards, first[::-1])
    assert len(np.unique(first[:, 0])) > 20


def test_rare_ngrams_are_not_learnt():
    texts = [[1, 2]] * 10 + [[3, 4]] * 10 + [[9], [1], [3]]
    labels = np.repeat([[1], [0], [1]], [10, 10, 3], axis=0)
    train, predict = np.arange(21), np.array([20, 21, 22])
    strict = baselines.tfidf_logistic(*flatten(texts), labels, train, predict, min_df=2)
    lax = baselines.tfidf_logistic(*flatten(texts), labels, train, predict, min_df=1)
    assert lax[0] > strict[0] + 0.5  # 9 occurs once, in a positive report: without it only the intercept is left
    assert strict[1] > 1 and strict[2] < -1


def test_a_label_without_contrast_falls_back_to_its_prior():
    texts = random_texts(50)
    labels = np.zeros((50, 3), dtype=int)
    labels[:, 1] = 1
    labels[:, 2] = [3 in text for text in texts]
    logits = baselines.tfidf_logistic(*flatten(texts), labels, np.arange(40), np.arange(40, 50))
    np.testing.assert_allclose(sigmoid(logits[:, :2]), [[0.5 / 41, 40.5 / 41]] * 10)
    assert len(np.unique(logits[:, 2])) > 1 and np.isfinite(logits).all()


def test_no_recurring_ngram_leaves_the_prior():
    logits = baselines.tfidf_logistic(*flatten([[1], [2], [3], [4]]), np.array([[0], [1], [1]]), [0, 1, 2], [3])
    np.testing.assert_allclose(logits, baselines.prior_logits(np.array([[0], [1], [1]]))[None])


@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_severity_that_is_unknown_or_of_one_outcome_predicts_the_rate(kind):
    folds, labels = np.arange(40) % 2, (np.arange(40) % 4 == 0).astype(np.float64)[:, None]
    found = baselines.severity(np.full(40, np.nan), labels, folds, kind)
    assert np.isfinite(found).all() and len(np.unique(found.round(9))) <= 2
    labels[folds == 1] = 0
    found = baselines.severity(np.arange(40.0), labels, folds, kind)
    assert np.isfinite(found).all()
    if kind == "binary":
        assert found[folds == 0, 0] == pytest.approx(baselines.prior_logits(labels[folds == 1])[0])
