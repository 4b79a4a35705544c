"""Reports that are joined in training, train.join."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from src.core import storage
from src.core.run_settings import Denoise, Run, Train
from src.data.corpus import PAD
from src.data.tasks import ROUND2
from src.evaluation.run_comparison import earlier
from src.training import epoch_reader
from src.training.epoch_reader import EpochReader
from src.training.joining import draw_pairs, join, join_pairs, unite
from src.training.rows import Rows
from tests.test_classification import CPU, part_of, rows

MAX_LEN = 12


def told_apart(n: int, lengths: tuple[int, int], soft: bool = False) -> Rows:
    """Every word of report i is 10 + i, so that a joined text shows whose it is."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(*lengths, size=n).astype(np.int32)
    inside = np.arange(MAX_LEN) < sizes[:, None]
    tokens = np.where(inside, 10 + np.arange(n)[:, None], PAD).astype(np.uint16)
    labels = rng.random((n, 3)).astype(np.float32) if soft else rng.integers(0, 2, size=(n, 3)).astype(np.uint8)
    weights = rng.random(n).astype(np.float32) + 0.5
    return replace(rows(n), inputs={"tokens": tokens}, lengths=sizes, labels=labels, weights=weights)


def in_order(tokens: np.ndarray) -> list[int]:
    """Reports that a text of told_apart() is made of."""
    return [word - 10 for word in dict.fromkeys(map(int, tokens)) if word != PAD]


@pytest.mark.parametrize("mixed", [(), (2,)], ids=["tokens", "mixtures"])
def test_a_report_stands_behind_the_other(mixed):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, MAX_LEN + 1, size=(2, 200)).astype(np.int32)
    inside = np.arange(MAX_LEN) < lengths[:, :, None]
    tokens = rng.integers(3, 50, size=(2, 200, MAX_LEN, *mixed)).astype(np.uint16)
    tokens[~inside] = PAD
    joined, joined_lengths = join(tokens[0], lengths[0], tokens[1], lengths[1])
    for i, (first, second) in enumerate(lengths.T):
        text = np.concatenate([tokens[0, i, :first], tokens[1, i, :second]])[:MAX_LEN]
        assert joined_lengths[i] == len(text)
        np.testing.assert_array_equal(joined[i, : len(text)], text)
        assert (joined[i, len(text) :] == PAD).all()
    assert joined.dtype == tokens.dtype and joined_lengths.dtype == lengths.dtype
    assert (lengths.sum(axis=0) > MAX_LEN).any() and (lengths.sum(axis=0) < MAX_LEN).any()


def test_the_union_of_labels():
    hard = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.float32)
    np.testing.assert_array_equal(unite(hard[:, :1], hard[:, 1:]), [[0], [1], [1], [1]])
    np.testing.assert_allclose(unite(np.array([[0.5, 1.0, 0.0]]), np.array([[0.2, 0.3, 0.3]])), [[0.6, 1.0, 0.3]])
    unknown = unite(np.array([[np.nan, 1, 0, 0.4]], dtype=np.float32), np.full((1, 4), np.nan, dtype=np.float32))
    np.testing.assert_array_equal(unknown, [[np.nan, 1, np.nan, np.nan]])
    assert unknown.dtype == np.float32


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_an_epoch_of_joined_reports(soft):
    """Every report is there once by itself or joined, with the labels and the weight of what is in its text; two that
    do not fit are not joined."""
    data = told_apart(3000, (1, 11), soft)
    part = part_of(data, np.random.default_rng(1).permutation(3000)[:2900])
    orders = {"alone": 0, "behind": 0, "before": 0}
    seen = []
    for batch, wanted in EpochReader(part, Train(batch_size=16, join=0.5), CPU).batches(np.random.default_rng(0)):
        assert batch.lengths.max() <= batch.inputs["tokens"].shape[1] <= MAX_LEN
        for i, row in enumerate(batch.rows):
            own = part.chosen[row]
            texts = in_order(batch.inputs["tokens"][i])
            assert own in texts and set(texts) <= set(part.chosen)
            orders["alone" if len(texts) == 1 else "behind" if texts[0] == own else "before"] += 1
            assert batch.lengths[i] == data.lengths[texts].sum()
            labels = data.labels[texts].astype(np.float64)
            np.testing.assert_allclose(wanted.targets[i], 1 - (1 - labels).prod(axis=0), atol=1e-6)
            assert wanted.weights[i].item() == pytest.approx(data.weights[texts].mean(), rel=1e-6)
            assert batch.domain[i] == data.domain[own]
        seen.append(batch.rows)
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(2900))
    fit = (np.add.outer(data.lengths, data.lengths) <= MAX_LEN).mean()
    assert (2900 - orders["alone"]) / 2900 == pytest.approx(0.5 * fit, abs=0.03)
    assert orders["behind"] == pytest.approx(orders["before"], abs=120)


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_the_share_of_joined_reports(share):
    lengths, rng = np.full(4000, 5, dtype=np.int32), np.random.default_rng(0)
    pools = [draw_pairs(rng.permutation(4000)[:400], lengths, MAX_LEN, share, rng) for _ in range(50)]
    assert np.mean([len(pairs.places) / 400 for pairs in pools]) == pytest.approx(share, abs=0.01)
    assert all((pairs.partners < 4000).all() for pairs in pools)
    assert len(np.unique(np.concatenate([pairs.partners for pairs in pools]))) > 2000
    assert len(draw_pairs(np.arange(1), lengths[:1], MAX_LEN, 1.0, rng).places) == 0  # there is no other report


def test_reports_of_several_corpora_are_joined():
    """Train reports, and those of a test file with a teacher's probabilities and half the weight."""
    train, test = told_apart(300, (2, 7)), told_apart(200, (2, 7), soft=True)
    tokens = np.where(test.inputs["tokens"] == PAD, PAD, test.inputs["tokens"] + 300).astype(np.uint16)
    both = Rows.joined([train, replace(test, inputs={"tokens": tokens}, weights=test.weights / 2)])
    mixed = 0
    for batch, wanted in EpochReader(both, Train(batch_size=16, join=0.5), CPU).batches(np.random.default_rng(0)):
        for i in range(len(batch.rows)):
            texts = in_order(batch.inputs["tokens"][i])
            mixed += len({text < 300 for text in texts}) == 2
            labels = both.labels[texts].astype(np.float64)
            np.testing.assert_allclose(wanted.targets[i], 1 - (1 - labels).prod(axis=0), atol=1e-6)
            assert wanted.weights[i].item() == pytest.approx(both.weights[texts].mean(), rel=1e-6)
    assert mixed > 60


def test_both_copies_of_consistency_are_of_the_same_pairs():
    reader = EpochReader(told_apart(300, (2, 7)), Train(batch_size=16, join=0.5, consistency=1.0), CPU)
    for batch, wanted in reader.batches(np.random.default_rng(0)):
        np.testing.assert_array_equal(batch.inputs["tokens"], wanted.twin.inputs["tokens"])


def test_the_denoiser_reads_single_reports_and_the_model_joined_ones():
    data = told_apart(400, (2, 7))
    known = {tuple(tokens) for tokens in data.inputs["tokens"].tolist()}

    class Soft:
        settings = Denoise(by="x", views=["soft"])

        def __call__(self, tokens, lengths, views):
            assert {tuple(text) for text in tokens.tolist()} <= known
            np.testing.assert_array_equal((tokens != PAD).sum(axis=1), lengths)
            return [np.stack([tokens, np.full_like(tokens, 7)], axis=2)]

    reader = EpochReader(data, Train(batch_size=16, join=1.0), CPU, Soft())
    for batch, _ in reader.batches(np.random.default_rng(0)):
        shown = batch.inputs["tokens"][:, :, 0]
        assert [len(in_order(text)) for text in shown] != [1] * len(shown)
        np.testing.assert_array_equal((shown != PAD).sum(dim=1), batch.lengths)


def test_noise_is_that_of_single_reports():
    """A noisy report that grows beyond max_len behind another is cut, as a single one is, and keeps its label."""
    data = told_apart(400, (6, 7))
    settings = Train(batch_size=16, join=1.0, noise={"insertion": 0.9})
    for batch, wanted in EpochReader(data, settings, CPU).batches(np.random.default_rng(0)):
        assert batch.inputs["tokens"].shape[1] == MAX_LEN and batch.lengths.max() <= MAX_LEN
        np.testing.assert_array_equal((batch.inputs["tokens"] != PAD).sum(dim=1), batch.lengths)
        assert (wanted.targets.numpy() >= data.labels[batch.rows]).all()


def test_soft_types_of_joined_reports_are_those_in_a_report_with_an_abnormal_region():
    """A teacher says what types a report has if a region is abnormal: of a normal report that says nothing."""
    data = told_apart(2, (2, 5))
    labels = np.zeros((2, 29), dtype=np.float32)
    labels[0, 3], labels[0, 20] = 0.9, 0.5
    labels[1, 3], labels[1, 20] = 0.01, 0.95  # normal, and so its types mean nothing
    reader = EpochReader(
        replace(data, labels=labels), Train(batch_size=16, join=1.0, group_rows="counted"), CPU, task=ROUND2
    )
    rng = np.random.default_rng(0)
    joined = [w.targets.numpy() for _ in range(20) for _, w in reader.batches(rng)]
    united = next(row for targets in joined for row in targets if 0.9 < row[3] < 0.95)
    both = 1 - (1 - 0.9 * 0.5) * (1 - 0.01 * 0.95)
    assert united[3] == pytest.approx(1 - 0.1 * 0.99) and united[20] == pytest.approx(both / united[3], rel=1e-5)
    assert united[20] < 0.52, "not 1 - 0.5 * 0.05"


def test_without_joining_nothing_is_drawn_and_nothing_noted(monkeypatch):
    """Fingerprints and bytes of runs without train.join are those of versions without it."""
    monkeypatch.setattr(epoch_reader, "draw_pairs", None)
    assert list(EpochReader(rows(40), Train(batch_size=16), CPU).batches(np.random.default_rng(0)))
    assert "join" not in json.dumps(Train(join=0).model_dump())
    assert Train(join=0.5).model_dump()["join"] == 0.5
    assert Train().complete()["join"] == 0.0
    assert {**Train().complete(), **Train().model_dump(mode="json")} == Train().complete()


def test_pairs_leave_the_others_alone():
    tokens, lengths = told_apart(6, (2, 5)).inputs["tokens"], told_apart(6, (2, 5)).lengths
    pool, all_lengths = np.array([4, 1, 3]), lengths
    pairs = draw_pairs(pool, all_lengths, MAX_LEN, 0.5, np.random.default_rng(2))
    assert 0 < len(pairs.places) < 3
    read = np.concatenate([pool, pairs.partners])
    joined, _ = join_pairs(tokens[read], lengths[read], pairs)
    alone = np.setdiff1d(np.arange(3), pairs.places)
    np.testing.assert_array_equal(joined[alone], tokens[pool[alone]])


def test_folds_without_joining_are_told_beside_a_run_with_it(tmp_path):
    settings = {"record": {"kind": "model", "inputs": {"kind": "tokens"}, "data": {}}, "is_blend": False, "remedy": ""}
    made = Run().model_dump(mode="json")
    del made["train"]["seeds"]
    (tmp_path / "fold_0").mkdir()
    storage.write_json(tmp_path / "fold_0/result.json", {"run": made})
    for share, told in ((0.5, [({"train.join": "0.0"}, 1)]), (0.0, [])):
        run = SimpleNamespace(path=tmp_path, settings=Run(train=Train(join=share)), **settings)
        assert earlier(run) == told
