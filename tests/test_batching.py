from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.batching import collate, shuffled_batches, sorted_batches


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 700), batch_size=st.integers(1, 70), seed=st.integers(0, 5))
def test_every_row_stands_in_exactly_one_batch(n, batch_size, seed):
    lengths = np.random.default_rng(seed).integers(1, 104, size=n)
    for batches in (
        shuffled_batches(lengths, batch_size, np.random.default_rng(seed)),
        list(sorted_batches(lengths, batch_size)),
    ):
        np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.arange(n))
        assert max(map(len, batches)) <= batch_size


def test_batches_save_most_of_the_padding():
    lengths = np.random.default_rng(0).integers(4, 105, size=8000)
    batches = shuffled_batches(lengths, 64, np.random.default_rng(1))
    padded = sum(len(rows) * lengths[rows].max() for rows in batches)
    assert padded < 1.1 * lengths.sum() < 0.7 * 104 * len(lengths)
    assert len(batches) == 125


def test_order_depends_on_the_generator_alone():
    lengths = np.arange(1, 200) % 50 + 1
    one, same, other = (shuffled_batches(lengths, 16, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert all((a == b).all() for a, b in zip(one, same, strict=True))
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(one, other, strict=True))


def test_collate_trims_to_the_longest_of_the_batch():
    tokens = np.arange(12, dtype=np.uint16).reshape(3, 4)
    batch, lengths = collate(tokens, np.array([1, 3, 2], dtype=np.int32), np.array([0, 2]), torch.device("cpu"))
    assert batch.dtype == lengths.dtype == torch.int64
    assert batch.tolist() == [[0, 1], [8, 9]] and lengths.tolist() == [1, 2]
