"""N-gram counts equal scikit-learn's, hashes do not collide, and no n-gram spans two reports."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer

from src.data.ngrams import Text, combine, join, ngram_counts, ngram_hashes, take


def as_text(reports: list[list[int]], dtype: type = np.int32) -> Text:
    tokens = np.array([token for report in reports for token in report], dtype=dtype)
    return tokens, np.cumsum([0, *map(len, reports)])


def as_lists(text: Text) -> list[list[int]]:
    return [part.tolist() for part in np.split(text[0], text[1][1:-1])]


def random_reports(n: int, words: int = 4, longest: int = 9, seed: int = 0) -> list[list[int]]:
    """Short reports of few words, so that n-grams recur; some are empty or shorter than an n-gram."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, words, rng.integers(0, longest + 1)).tolist() for _ in range(n)]


def ngrams(reports: list[list[int]], n: int) -> list[tuple[int, ...]]:
    return [tuple(report[i : i + n]) for report in reports for i in range(len(report) - n + 1)]


@pytest.mark.parametrize("max_n", [1, 2, 3])
def test_counts_are_those_of_scikit_learn(max_n):
    reports = [*random_reports(60, words=12, longest=14), [7], [], [0, 0, 0, 0]]  # 0 is a word
    ours = ngram_counts(*as_text(reports), max_n)[0].toarray()
    words = [" ".join(map(str, report)) for report in reports]
    theirs = CountVectorizer(ngram_range=(1, max_n), token_pattern=r"\S+").fit_transform(words).toarray()
    assert ours.shape == theirs.shape
    assert sorted(map(tuple, ours.T)) == sorted(map(tuple, theirs.T))  # the same columns in another order


@pytest.mark.parametrize("dtype", [np.uint16, np.int64])
def test_places_point_at_an_occurrence(dtype):
    reports = [*random_reports(40), [65_535, 0, 65_535]]
    text = as_text(reports, dtype)
    counts, places = ngram_counts(*text, 3)
    assert places.shape == (counts.shape[1], 2)
    found = [tuple(text[0][start : start + n].tolist()) for n, start in places]
    assert sorted(found) == sorted({gram for n in (1, 2, 3) for gram in ngrams(reports, n)}), "each n-gram once"
    dense = counts.toarray()
    for column, gram in enumerate(found):
        assert dense[:, column].tolist() == [ngrams([report], len(gram)).count(gram) for report in reports]


def test_nothing_to_count():
    counts, places = ngram_counts(np.zeros(0, np.uint16), np.zeros(4, np.int64), 2)
    assert counts.shape == (3, 0) and places.shape == (0, 2)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_hashes_are_equal_exactly_where_ngrams_are(n):
    reports = [*random_reports(300), [0] * 8, [0, 0], []]
    grams, hashes = ngrams(reports, n), ngram_hashes(as_text(reports), n)
    assert hashes.dtype == np.uint64 and len(hashes) == len(grams), "none reaches across reports"
    pairs = set(zip(grams, hashes.tolist(), strict=True))
    assert len(pairs) == len(set(grams)) == len(set(hashes.tolist()))


def test_hashes_do_not_depend_on_the_file_or_its_type():
    alone, beside = as_text([[3, 4, 5]], np.uint16), as_text([[9, 9], [3, 4, 5, 9]], np.int64)
    assert ngram_hashes(beside, 2)[1:3].tolist() == ngram_hashes(alone, 2).tolist()


def test_order_counts_and_all_pairs_of_a_vocabulary_differ():
    words = np.arange(858)
    first, second = np.repeat(words, 858), np.tile(words, 858)
    hashes = combine(combine(np.zeros(len(first), np.uint64), first), second)
    assert len(np.unique(hashes)) == 858**2


def test_take_gives_the_chosen_reports_in_that_order():
    reports = [*random_reports(30), []]
    for rows in ([5, 2, 2, 30, 0], list(range(31)), []):
        tokens, offsets = take(*as_text(reports, np.uint16), np.array(rows, dtype=np.int64))
        assert tokens.dtype == np.uint16 and offsets[0] == 0 and len(offsets) == len(rows) + 1
        if rows:
            assert as_lists((tokens, offsets)) == [reports[row] for row in rows]


def test_join_and_take_undo_each_other():
    parts = [random_reports(20, seed=seed) for seed in range(3)] + [[[]], [[1], []]]
    whole = join([as_text(part) for part in parts])
    assert as_lists(whole) == [report for part in parts for report in part] and whole[1].dtype == np.int64
    starts = np.cumsum([0, *map(len, parts)])
    for part, start in zip(parts, starts[:-1], strict=True):
        assert as_lists(take(*whole, np.arange(len(part)) + start)) == part
    assert as_lists(join([as_text(parts[0])])) == parts[0]
