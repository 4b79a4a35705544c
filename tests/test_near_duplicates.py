"""Cosines equal brute force; families join copies and nothing else."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from src.data import near_duplicates
from src.data.near_duplicates import LARGEST_FAMILY, THRESHOLDS, families, nearest, pairs_between, tfidf
from src.data.ngrams import Text, take
from src.data.report_reader import read_reports

COPIES = 5  # of each of the families that are planted


def as_text(reports: list[list[int]]) -> Text:
    tokens = [token for report in reports for token in report]
    return np.array(tokens, dtype=np.uint16), np.cumsum([0, *map(len, reports)])


def random_reports(n: int, words: int = 200, seed: int = 0, shortest: int = 20) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, words, rng.integers(shortest, 50)).tolist() for _ in range(n)]


def changed(report: list[int], rng: np.random.Generator, tokens: int = 2) -> list[int]:
    copy = np.array(report)
    copy[rng.choice(len(copy), tokens, replace=False)] = rng.integers(0, 200, tokens)
    return copy.tolist()


def planted() -> tuple[Text, np.ndarray]:
    """Returns 600 unrelated reports and four altered copies of each of the first twenty, shuffled; and the original of
    each report."""
    rng = np.random.default_rng(1)
    reports, source = random_reports(600), [*range(600), *np.repeat(np.arange(20), COPIES - 1)]
    reports += [changed(reports[i], rng) for i in source[600:]]
    order = rng.permutation(len(reports))
    return take(*as_text(reports), order), np.array(source)[order]


def partition(family: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(family == number).tolist()) for number in np.unique(family)}


def test_vectors_are_those_of_scikit_learn_and_have_length_one():
    texts = random_reports(30, words=20), random_reports(20, words=20, seed=1)
    ours = tfidf([as_text(part) for part in texts], 2, min_df=2)
    assert [len(vectors.toarray()) for vectors in ours] == [30, 20] and ours[0].dtype == np.float32
    words = [" ".join(map(str, report)) for part in texts for report in part]
    vectoriser = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, token_pattern=r"\S+")
    theirs = vectoriser.fit_transform(words).toarray()  # one weighting for both texts; columns in another order
    both = np.concatenate([vectors.toarray() for vectors in ours])
    np.testing.assert_allclose(both @ both.T, theirs @ theirs.T, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(both, axis=1), 1, atol=1e-5)


def test_what_one_report_alone_holds_counts_in_its_length():
    vectors = tfidf([as_text([[1, 2, 3], [1, 2, 3], [1, 2, 9]])], 1)[0].toarray()
    assert vectors[0] @ vectors[1] == pytest.approx(1)
    assert vectors[2] @ vectors[0] < 0.6
    without = tfidf([as_text([[1, 2, 3], [1, 2, 3], [1, 2, 9]])], 1, min_df=2)[0].toarray()
    assert without[2] @ without[0] > vectors[2] @ vectors[0]


def test_identical_reports_have_cosine_one_and_strangers_zero():
    vectors, other = tfidf([as_text([[1, 2, 3, 2], [4, 5], [6]]), as_text([[1, 2, 3, 2], [7, 8], []])], 3)
    cosines = (other @ vectors.T).toarray()
    np.testing.assert_allclose(cosines, [[1, 0, 0], [0, 0, 0], [0, 0, 0]], atol=1e-6)


@pytest.mark.parametrize("approximate", [False, True])
def test_pairs_between_two_files_are_those_above_the_cosine(approximate):
    text, source = planted()
    rng = np.random.default_rng(2)
    order = rng.permutation(len(source))
    left, right = take(*text, order[:300]), take(*text, order[300:])
    one, other = tfidf([left, right], 3, min_df=2)
    expected = np.argwhere((one @ other.T).toarray() > 0.5)
    assert len(expected) > 20
    np.testing.assert_array_equal(pairs_between(left, right, 0.5, approximate), expected)
    assert (source[order[:300]][expected[:, 0]] == source[order[300:]][expected[:, 1]]).all()
    assert pairs_between(left, as_text([[999]]), 0.5, approximate).shape == (0, 2)


def test_without_common_ngrams_everyone_is_alone():
    vectors = tfidf([as_text([[1, 2], [3], []])], 2, min_df=2)[0]
    assert vectors.shape == (3, 0)
    assert len(np.unique(families(vectors)[0])) == 3
    assert nearest(vectors, vectors, np.zeros(3, dtype=int)).tolist() == [[0]] * 3


def test_nearest_is_brute_force():
    rng = np.random.default_rng(2)
    references, queries = tfidf([as_text(random_reports(700, 60)), as_text(random_reports(530, 60, seed=1))], 1)
    groups = rng.choice([-2, -1, 0, 2, 3], size=700)  # nobody in 1
    found = nearest(queries, references, groups)
    cosines = queries.toarray() @ references.toarray().T
    assert found.shape == (530, 4) and found.dtype == np.float32
    for group in range(4):
        inside = cosines[:, groups == group]
        np.testing.assert_allclose(found[:, group], inside.max(axis=1) if inside.size else 0, atol=1e-5)
    assert (found[:, 1] == 0).all() and found.max() < cosines.max(axis=1).max() + 1e-5
    assert nearest(queries, references, np.full(700, -1)).shape == (530, 0)


def test_planted_copies_are_families_and_strangers_are_not():
    text, source = planted()
    family, threshold = families(tfidf([text], 2)[0])
    assert threshold in THRESHOLDS
    assert partition(family) == partition(source)
    assert np.sum(np.bincount(family) == COPIES) == 20


def test_families_do_not_depend_on_the_order_of_rows():
    text, _ = planted()
    order = np.random.default_rng(3).permutation(len(text[1]) - 1)
    vectors = tfidf([text], 2)[0]
    for threshold in (None, 0.15):  # the second joins many by chance
        family, used = families(vectors, threshold)
        shuffled, again = families(vectors[order], threshold)
        back = np.empty_like(shuffled)
        back[order] = shuffled
        assert partition(back) == partition(family) and again == used


def test_a_family_is_a_chain():
    reports = [list(range(start, start + 10)) for start in (0, 3, 6, 100)]  # neighbours share seven words of ten
    vectors = tfidf([as_text(reports)], 1)[0]
    cosines = (vectors @ vectors.T).toarray()
    threshold = float(cosines[0, 1]) - 0.01
    assert cosines[0, 2] < threshold
    family, used = families(vectors, threshold)
    assert partition(family) == {frozenset({0, 1, 2}), frozenset({3})} and used == threshold
    assert len(partition(families(vectors, float(cosines.max() + 0.01))[0])) == 4


@pytest.mark.parametrize("size", [4, 64])
def test_likely_pairs_are_true_ones_and_most_of_them(monkeypatch, size):
    """Blocks of four reports are smaller than a planted family of six, so that no block holds a whole family."""
    monkeypatch.setattr(near_duplicates, "_BLOCK_SIZE", size)
    monkeypatch.setattr(near_duplicates, "_CHUNK", 37)
    text, source = planted()
    vectors = tfidf([text], 2)[0]
    cosines = (vectors @ vectors.T).toarray()
    left, right, cosine = near_duplicates.likely_pairs(vectors, 0.3)
    assert (left != right).all() and (cosine > 0.3).all()
    np.testing.assert_allclose(cosine, cosines[left, right], rtol=1e-5)
    wanted = {(i, j) for i, j in zip(*np.nonzero(cosines > 0.3), strict=True) if i != j}
    found = set(zip(left.tolist(), right.tolist(), strict=True)) | set(zip(right.tolist(), left.tolist(), strict=True))
    assert found <= wanted and len(found) > (0.9 if size == 4 else 0.99) * len(wanted)
    assert partition(families(vectors, approximate=True)[0]) == partition(source)


def test_among_more_reports_likely_pairs_are_still_most_of_them():
    """60 words in 6,600 reports: each common n-gram has many blocks, and only the order makes similar reports meet."""
    rng = np.random.default_rng(0)
    reports = random_reports(6000, 60)
    copies = [changed(reports[i], rng, tokens=4) for i in range(0, 6000, 10)]
    vectors = tfidf([as_text(reports + copies)], 3, min_df=2)[0]
    left, right, _ = near_duplicates.likely_pairs(vectors, 0.4)
    found = set(zip(left.tolist(), right.tolist(), strict=True))
    cosines = np.asarray(vectors[6000:].multiply(vectors[np.arange(0, 6000, 10)]).sum(axis=1)).ravel()
    near = [(i * 10, 6000 + i) for i in np.flatnonzero(cosines > 0.4)]
    assert len(near) > 300 and np.mean([pair in found for pair in near]) > 0.95


def test_no_report_is_compared_with_very_many(monkeypatch):
    """Time and memory stay linear when hundreds of reports are similar; chains join all of them nevertheless."""
    monkeypatch.setattr(near_duplicates, "_BLOCK_SIZE", 16)
    monkeypatch.setattr(near_duplicates, "_BEST", 8)
    rng = np.random.default_rng(0)
    reports = random_reports(3000)
    reports += [changed(reports[0], rng) for _ in range(299)]
    vectors = tfidf([as_text(reports)], 2)[0]
    left, _, _ = near_duplicates.likely_pairs(vectors, 0.5)
    assert np.bincount(left).max() == 8
    family = families(vectors, 0.5, approximate=True)[0]
    assert set(np.flatnonzero(family == family[0])) == {0, *range(3000, 3299)}


def test_relatives_in_its_own_file_do_not_hide_a_pair_with_the_other(monkeypatch):
    monkeypatch.setattr(near_duplicates, "_BEST", 8)
    rng = np.random.default_rng(0)
    reports = random_reports(40)
    relatives = [changed(reports[0], rng, tokens=1) for _ in range(40)]
    pairs = near_duplicates.pairs_between(
        as_text([*reports, *relatives]), as_text([changed(reports[0], rng, tokens=6)]), 0.3, approximate=True
    )
    assert len(pairs) and {*pairs[:, 0].tolist()} <= {0, *range(40, 80)} and (pairs[:, 1] == 0).all()
    assert len(pairs) > 8, "each of its own file is compared with the other file's"


def test_copies_count_when_families_percolate():
    reports = [[*range(start, start + 10)] for start in range(0, 400, 20)]
    reports += [[*range(8), 900, 901]]  # near the first
    vectors = tfidf([as_text(reports)], 1)[0]
    copies = np.ones(21, dtype=int)
    assert families(vectors, copies=copies)[1] == families(vectors)[1] < 0.9
    copies[20] = 50  # with its 50 copies, the pair is a family of more than a percent
    assert families(vectors, copies=copies)[1] > families(vectors)[1]


def test_a_lower_threshold_only_joins():
    vectors = tfidf([planted()[0]], 2)[0]
    found = [families(vectors, threshold)[0] for threshold in (0.9, 0.5, 0.2, 0.1)]
    for finer, coarser in itertools.pairwise(found):
        for members in partition(finer):
            assert len(np.unique(coarser[list(members)])) == 1
    assert found[0].max() > found[-1].max()


@pytest.mark.parametrize(("words", "max_n"), [(8, 2), (15, 2), (30, 1), (60, 1), (200, 1), (200, 2)])
def test_the_threshold_stops_before_families_percolate(words, max_n):
    # The fewer words, the more alike are reports by chance, and the sooner chains of likeness join everything.
    vectors = tfidf([as_text(random_reports(400, words))], max_n)[0]
    family, threshold = families(vectors)
    assert np.bincount(family).max() <= max(2, LARGEST_FAMILY * 400)
    if threshold > THRESHOLDS[-1]:
        below = families(vectors, float(THRESHOLDS[list(THRESHOLDS).index(threshold) + 1]))[0]
        assert np.bincount(below).max() > max(2, LARGEST_FAMILY * 400), "the lowest that does not percolate"
    else:
        assert max_n == 2 and words == 200


def test_pairs_may_be_families_in_the_smallest_files():
    reports = random_reports(20)
    copy = changed(reports[7], np.random.default_rng(0), tokens=4)
    family, threshold = families(tfidf([as_text([*reports, copy])], 2)[0])
    assert family[7] == family[20] and len(np.unique(family)) == 20 and threshold < THRESHOLDS[0]


def test_where_likeness_percolates_only_equal_reports_are_a_family():
    rng = np.random.default_rng(0)
    reports = [rng.integers(0, 8, rng.integers(20, 60)).tolist() for _ in range(300)]  # much alike, by words alone
    family, threshold = families(tfidf([as_text(reports)], 1)[0])
    assert threshold > 0.99 and np.bincount(family).max() <= 3


def test_where_even_the_strictest_threshold_percolates_it_is_taken():
    family, threshold = families(tfidf([as_text([[1, 2, 3]] * 50 + [[4, 5, 6]] * 50)], 2)[0])
    assert threshold == THRESHOLDS[0] and partition(family) == {frozenset(range(50)), frozenset(range(50, 100))}


def test_real_reports_have_families_and_none_is_large(real_data):
    reports = read_reports(real_data / "round1" / "track1_round1_train_20210222.csv")
    text = take(reports.tokens, reports.offsets, np.arange(3000))
    family, threshold = families(tfidf([text], 3, min_df=2)[0])
    assert threshold in THRESHOLDS
    sizes = np.bincount(family)
    assert 2 <= sizes.max() <= LARGEST_FAMILY * 3000
