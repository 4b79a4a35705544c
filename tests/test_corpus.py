from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from src.corpus import MASK, N_SPECIAL, PAD, UNK, Corpus, Vocabulary, encode, pad, unpad
from src.reports import Reports


def reports(rows: list[list[int]]) -> Reports:
    tokens = np.array(sum(rows, []), dtype=np.uint16)
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    ids = np.array([str(i) for i in range(len(rows))], dtype="S")
    return Reports(Path("x.csv"), ids, tokens, offsets, None, None, hashlib.sha256(b"").hexdigest())


def test_no_word_is_given_a_reserved_index():
    assert len({PAD, UNK, MASK}) == N_SPECIAL == 3 and max(PAD, UNK, MASK) < N_SPECIAL
    assert Vocabulary(np.arange(858)).encode(np.arange(858)).min() == N_SPECIAL


def test_token_zero_is_a_word():
    vocabulary = Vocabulary(np.array([0, 5, 857]))
    assert len(vocabulary) == N_SPECIAL + 3
    np.testing.assert_array_equal(vocabulary.encode(np.array([0, 5, 857])), [N_SPECIAL, N_SPECIAL + 1, N_SPECIAL + 2])


def test_unseen_words_become_unk_and_are_counted():
    vocabulary = Vocabulary(np.array([1, 2]))
    corpus, losses = encode([reports([[1, 9, 2], [9, 7]])], vocabulary, None, 4, "head")
    assert (corpus.tokens == UNK).sum() == losses.unknown_tokens == 3
    assert losses.unknown_words == (7, 9)


def test_vocabulary_reads_back(tmp_path):
    vocabulary = Vocabulary(np.array([3, 1, 3, 65535]))
    vocabulary.save(tmp_path / "v.json")
    again = Vocabulary.load(tmp_path / "v.json")
    np.testing.assert_array_equal(again.words, [1, 3, 65535])
    assert again.fingerprint == vocabulary.fingerprint != Vocabulary(np.array([1, 3])).fingerprint


@pytest.mark.parametrize(("keep", "expected"), [("head", [1, 2, 3]), ("tail", [3, 4, 5])])
def test_long_reports_keep_one_end(keep, expected):
    words = np.array([1, 2, 3, 4, 5, 9], dtype=np.uint16)
    padded, lengths = pad(words, np.array([0, 5, 6]), 3, keep)
    np.testing.assert_array_equal(padded, [expected, [9, PAD, PAD]])
    np.testing.assert_array_equal(lengths, [3, 1])


def test_truncated_reports_are_counted():
    _, losses = encode([reports([[1] * 5, [1] * 4, [1] * 3])], Vocabulary(np.array([1])), None, 3, "head")
    assert losses.truncated == 2


def test_unpad_inverts_pad():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 9, size=50)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    words = rng.integers(N_SPECIAL, 100, size=offsets[-1]).astype(np.uint16)
    again, again_offsets = unpad(*pad(words, offsets, 8))
    np.testing.assert_array_equal(again, words)
    np.testing.assert_array_equal(again_offsets, offsets)


def test_a_corpus_reads_back_with_its_sources(tmp_path):
    vocabulary = Vocabulary(np.arange(10))
    labels = np.eye(3, 2, dtype=np.uint8)
    corpus, _ = encode([reports([[1, 2]]), reports([[3], [4, 5]])], vocabulary, labels, 4, "head")
    np.testing.assert_array_equal(corpus.sources, [0, 1, 1])
    corpus.save(tmp_path)
    again = Corpus.load(tmp_path)
    for name in ("tokens", "lengths", "ids", "labels", "sources"):
        np.testing.assert_array_equal(getattr(again, name), getattr(corpus, name))


def test_text_hash_follows_the_text():
    vocabulary = Vocabulary(np.arange(10))
    first, _ = encode([reports([[1, 2], [3], [1, 2]])], vocabulary, None, 4, "head")
    hashes = first.text_hashes()
    assert hashes[0] == hashes[2] != hashes[1]
