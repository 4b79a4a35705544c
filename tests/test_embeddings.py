from __future__ import annotations

import numpy as np

from src.data.corpus import N_SPECIAL, PAD
from src.models import embeddings as module
from src.models.embeddings import ppmi_vectors


def texts() -> list[np.ndarray]:
    """Words 3 and 4 stand in the same company (10, 11), words 5 and 6 in another (20, 21)."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(600):
        words, company = ((3, 4), (10, 11)) if rng.random() < 0.5 else ((5, 6), (20, 21))
        rows.append([rng.choice(company), rng.choice(words), rng.choice(company), PAD, PAD])
    return [np.array(rows[:400], dtype=np.uint16), np.array(rows[400:], dtype=np.uint16)]


def similarity(vectors: np.ndarray, a: int, b: int) -> float:
    return float(vectors[a] @ vectors[b] / np.linalg.norm(vectors[a]) / np.linalg.norm(vectors[b]))


def test_words_in_the_same_company_are_alike():
    vectors = ppmi_vectors(texts(), 25, 4)
    assert vectors.shape == (25, 4) and vectors.dtype == np.float32
    assert similarity(vectors, 3, 4) > 0.9 > 0.5 > similarity(vectors, 3, 5)
    assert similarity(vectors, 5, 6) > 0.9


def test_reserved_indices_are_zero_and_the_size_is_any():
    vectors = ppmi_vectors(texts(), 25, 40)
    assert not vectors[:N_SPECIAL].any() and vectors.shape == (25, 40)
    assert not vectors[:, 25:].any() and np.isfinite(vectors).all()
    assert abs(vectors[N_SPECIAL:].std() - 0.1) < 0.01


def test_same_text_same_bytes():
    assert ppmi_vectors(texts(), 25, 8).tobytes() == ppmi_vectors(texts(), 25, 8).tobytes()


def test_padding_is_no_company():
    rows = np.array([[3, PAD, PAD, 4]], dtype=np.uint16)
    assert not ppmi_vectors([rows[:, :2], rows[:, 2:]], 6, 3).any()


def test_blocks_give_the_same_vectors_to_the_last_bit(monkeypatch):
    whole = ppmi_vectors(texts(), 25, 4)
    monkeypatch.setattr(module, "BLOCK", 7)
    np.testing.assert_array_equal(ppmi_vectors(texts(), 25, 4), whole)


def test_many_words_are_counted_sparsely_to_the_same_vectors(monkeypatch):
    tokens = (np.random.default_rng(0).zipf(1.3, (400, 30)) % 97 + N_SPECIAL).astype(np.uint16)
    tokens[:, 20:] = PAD
    size = 97 + N_SPECIAL
    dense = ppmi_vectors([tokens], size, 12)
    monkeypatch.setattr(module, "LARGE", 10)
    sparse = ppmi_vectors([tokens], size, 12)
    # Factors have no sign of their own, by which their mean and so the scale differ a little.
    sparse_angles, dense_angles = (found @ found.T / np.square(found).sum() for found in (sparse, dense))
    np.testing.assert_allclose(sparse_angles, dense_angles, atol=1e-6)
    np.testing.assert_array_equal(sparse, ppmi_vectors([tokens], size, 12))
    assert ppmi_vectors([tokens], size, 200).shape == (size, 200)
    assert not ppmi_vectors([np.zeros((3, 5), np.uint16)], size, 4).any()
