from __future__ import annotations

import numpy as np
import pytest

from src import config, folds
from src.corpus import Corpus
from src.errors import UserError


def corpus(n: int = 400, seed: int = 0) -> Corpus:
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 4)) < [0.5, 0.2, 0.1, 0.03]).astype(np.uint8)
    tokens = rng.integers(3, 99, size=(n, 6)).astype(np.uint16)
    ids = np.arange(n).astype("S")
    return Corpus(tokens, np.full(n, 6, dtype=np.int32), ids, labels, np.zeros(n, dtype=np.uint8))


def reordered(whole: Corpus, order: np.ndarray) -> Corpus:
    return Corpus(*(getattr(whole, name)[order] for name in ("tokens", "lengths", "ids", "labels", "sources")))


@pytest.mark.parametrize("k", [2, 5, 7])
def test_each_row_is_validated_once(k):
    made = folds.make_folds(corpus(), config.Folds(k=k))
    splits = made.splits()
    assert len(splits) == k
    np.testing.assert_array_equal(np.sort(np.concatenate([split.predicted_rows for split in splits])), np.arange(400))
    for split in splits:
        assert not set(split.train_rows) & set(split.predicted_rows)
        assert len(split.train_rows) + len(split.valid_rows) == 400
    assert made.scored.all()


def test_label_rates_are_balanced():
    whole = corpus(2000)
    made = folds.make_folds(whole, config.Folds(k=5))
    worst, _ = folds.largest_imbalance(whole.labels, made)
    shuffled = folds.Folds("kfold", [1], np.random.default_rng(0).permutation(2000)[:, None] % 5)
    assert worst < 0.01 < folds.largest_imbalance(whole.labels, shuffled)[0]
    for fold in range(5):
        assert whole.labels[made.first == fold].sum(axis=0).min() > 0


def test_the_order_of_the_rows_has_no_influence():
    whole = corpus()
    order = np.random.default_rng(1).permutation(400)
    there = folds.make_folds(whole, config.Folds())
    again = folds.make_folds(reordered(whole, order), config.Folds())
    np.testing.assert_array_equal(again.table, there.table[order])


def test_copies_of_a_report_share_a_fold():
    whole = corpus(200)
    doubled = reordered(whole, np.concatenate([np.arange(200), np.arange(50)]))
    made = folds.make_folds(doubled, config.Folds())
    np.testing.assert_array_equal(made.first[200:], made.first[:50])


def test_several_seeds_repeat_the_split():
    made = folds.make_folds(corpus(), config.Folds(k=4, seeds=[1, 2]))
    assert len(made.splits()) == 8
    assert (made.table[:, 0] != made.table[:, 1]).mean() > 0.5


def test_holdout_parts():
    whole = corpus(1000)
    made = folds.make_folds(whole, config.Folds(scheme="holdout"))
    (split,) = made.splits()
    assert [len(split.train_rows), len(split.valid_rows), made.scored.sum()] == pytest.approx([800, 100, 100], abs=15)
    assert set(split.predicted_rows) == set(split.valid_rows) | set(np.flatnonzero(made.scored))
    assert not set(split.train_rows) & set(split.predicted_rows)
    assert not made.scored[split.valid_rows].any()


def test_the_manifest_follows_reordered_rows_and_tells_of_others(tmp_path):
    whole, settings = corpus(), config.Folds(seeds=[1, 2])
    made = folds.make_folds(whole, settings)
    path = tmp_path / "folds.csv"
    folds.save(path, made, whole, ["train.csv"])
    assert path.read_text().splitlines()[0] == "source,id,text_hash,fold_1,fold_2"
    order = np.random.default_rng(1).permutation(400)
    found = folds.load(path, reordered(whole, order), settings)
    np.testing.assert_array_equal(found.table, made.table[order])
    assert folds.load(path, reordered(whole, order[:-1]), settings) is None
    assert folds.load(path, whole, config.Folds(seeds=[3])) is None
    changed = reordered(whole, np.arange(400))
    changed.tokens[5, 0] += 1
    assert folds.load(path, changed, settings) is None


def test_ids_stay_text(tmp_path):
    whole = corpus(40)
    whole.ids[:3] = [b"007", b"NA", b"7e1"]
    made = folds.make_folds(whole, config.Folds(k=2))
    folds.save(tmp_path / "folds.csv", made, whole, ["train.csv"])
    np.testing.assert_array_equal(
        folds.load(tmp_path / "folds.csv", whole, config.Folds(k=2, seeds=[2021])).table, made.table
    )


def test_too_few_reports():
    with pytest.raises(UserError, match=r"3 different reports cannot be split into 5 parts. Set a smaller folds.k"):
        folds.make_folds(corpus(3), config.Folds())
