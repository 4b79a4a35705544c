from __future__ import annotations

import numpy as np
import pytest

from src.core.run_settings import Pretrain
from src.core.settings_loader import load_config
from src.data.corpus import MASK, N_SPECIAL, PAD
from src.training.masking import ask
from tests.conftest import error_of

ALPHABET = np.arange(N_SPECIAL, 400, dtype=np.uint16)


def reports(n: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 41, size=n).astype(np.int32)
    tokens = np.where(np.arange(50) < lengths[:, None], rng.choice(ALPHABET, size=(n, 50)), PAD).astype(np.uint16)
    return tokens, lengths


@pytest.mark.parametrize("spans", [[1.0], [0.5, 0.3, 0.2]])
def test_shares_are_those_of_the_settings(spans):
    tokens, lengths = reports()
    settings = Pretrain(select=0.25, masked=0.5, replaced=0.3, spans=spans)
    shown, asked, replaced = ask(tokens, lengths, settings, ALPHABET, np.random.default_rng(1))
    inside = np.arange(50) < lengths[:, None]
    long = lengths > 20  # of short ones one token at least is asked for, which is more
    assert asked[long].sum() / inside[long].sum() == pytest.approx(0.25, abs=0.015)
    assert (shown == MASK).sum() / asked.sum() == pytest.approx(0.5, abs=0.02)
    assert replaced.sum() / asked.sum() == pytest.approx(0.3, abs=0.02)
    assert asked.any(axis=1).all()


def test_nothing_else_is_touched():
    tokens, lengths = reports()
    before = tokens.copy()
    shown, asked, replaced = ask(tokens, lengths, Pretrain(), ALPHABET, np.random.default_rng(1))
    np.testing.assert_array_equal(tokens, before)
    np.testing.assert_array_equal(shown[~asked], tokens[~asked])
    assert not asked[np.arange(50) >= lengths[:, None]].any()
    np.testing.assert_array_equal(replaced, (shown != tokens) & (shown != MASK))
    assert np.isin(shown[replaced], ALPHABET).all()


def test_spans_hide_neighbours_together():
    tokens, lengths = reports()
    settings = Pretrain(select=0.1, masked=1.0, replaced=0.0)

    def runs(spans):
        _, asked, _ = ask(
            tokens, lengths, settings.model_copy(update={"spans": spans}), ALPHABET, np.random.default_rng(2)
        )
        return (asked[:, 1:] & asked[:, :-1]).sum() / asked.sum()

    assert runs([1.0]) == pytest.approx(0.1, abs=0.02)
    assert runs([0.0, 0.0, 1.0]) > 0.6


def test_each_draw_asks_for_something_else():
    tokens, lengths = reports(200)
    rng = np.random.default_rng(0)
    first, second = (ask(tokens, lengths, Pretrain(), ALPHABET, rng).asked for _ in range(2))
    assert (first != second).any()
    again = ask(tokens, lengths, Pretrain(), ALPHABET, np.random.default_rng(0)).asked
    np.testing.assert_array_equal(first, again)


def test_settings_that_contradict_each_other_are_refused():
    told = error_of(load_config, "quick", ["pretrain.masked=0.8", "pretrain.replaced=0.3"])
    assert "masked 0.8" in told and "replaced 0.3" in told
    assert "spans must not all be zero" in error_of(load_config, "quick", ["pretrain.spans=[0, 0]"])
