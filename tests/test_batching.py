from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.training.batching import length_batches

CPU = torch.device("cpu")


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 700), batch_size=st.integers(1, 70), seed=st.integers(0, 5))
def test_every_report_stands_in_exactly_one_batch(n, batch_size, seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 31, size=n).astype(np.int32)
    tokens = np.where(np.arange(30) < lengths[:, None], rng.integers(1, 2**16, size=(n, 30)), 0).astype(np.uint16)
    domain = rng.integers(0, 4, size=n).astype(np.uint8)
    batches = length_batches({"tokens": tokens}, lengths, batch_size, CPU, domain=domain)
    np.testing.assert_array_equal(np.sort(np.concatenate([batch.rows for batch in batches])), np.arange(n))
    assert [len(batch.rows) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    for batch in batches:
        np.testing.assert_array_equal(batch.lengths, lengths[batch.rows])
        np.testing.assert_array_equal(batch.domain, domain[batch.rows])
        np.testing.assert_array_equal(batch.inputs["tokens"], tokens[batch.rows, : lengths[batch.rows].max()])


def test_batches_are_trimmed_and_save_most_of_the_padding():
    lengths = np.random.default_rng(0).integers(4, 105, size=2048)
    batches = length_batches({"tokens": np.zeros((2048, 104), dtype=np.uint16)}, lengths, 64, CPU)
    padded = sum(batch.inputs["tokens"].numel() for batch in batches)
    assert padded < 1.1 * lengths.sum() < 0.7 * 104 * len(lengths)
    assert len(batches) == 32 and [batch.inputs["tokens"].shape[1] for batch in batches] == sorted(
        batch.inputs["tokens"].shape[1] for batch in batches
    )


def test_an_array_on_disk_is_not_changed(tmp_path):
    np.save(tmp_path / "tokens.npy", np.ones((5, 4), dtype=np.uint16))
    tokens = np.load(tmp_path / "tokens.npy", mmap_mode="r")
    (batch,) = length_batches({"tokens": tokens}, np.array([4, 1, 2, 3, 1]), 8, CPU)
    assert batch.inputs["tokens"].dtype == torch.int32 and batch.lengths.dtype == torch.int64
    assert batch.lengths.tolist() == [1, 1, 2, 3, 4] and batch.rows.tolist() == [1, 4, 2, 3, 0]


def test_widths_can_be_rounded_up_as_far_as_the_padding_reaches():
    lengths = np.array([3, 9, 17, 30])
    batches = length_batches({"tokens": np.ones((4, 30), dtype=np.uint16)}, lengths, 1, CPU, multiple=8)
    assert [batch.inputs["tokens"].shape[1] for batch in batches] == [8, 16, 24, 30]
    assert [batch.lengths.tolist() for batch in batches] == [[3], [9], [17], [30]]


def test_another_copy_comes_in_the_order_of_the_first():
    rng = np.random.default_rng(0)
    lengths, others = rng.integers(1, 31, size=(2, 50))
    tokens = np.where(np.arange(30) < others[:, None], 7, 0).astype(np.uint16)
    firsts = length_batches({"tokens": np.zeros((50, 30), dtype=np.uint16)}, lengths, 8, CPU)
    order = np.concatenate([batch.rows for batch in firsts])
    for first, batch in zip(firsts, length_batches({"tokens": tokens}, others, 8, CPU, 4, order), strict=True):
        np.testing.assert_array_equal(batch.rows, first.rows)
        np.testing.assert_array_equal(batch.lengths, others[first.rows])
        np.testing.assert_array_equal((batch.inputs["tokens"] == 7).sum(dim=1), others[first.rows])
