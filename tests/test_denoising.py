from __future__ import annotations

import numpy as np
import pytest
import torch

from src.config import Denoise, Pretrain, Transformer, load_config
from src.corpus import N_SPECIAL, PAD, pad, unpad
from src.denoising import Denoiser
from src.loop import fit
from src.models import build_model
from src.models.language import MaskedLanguageModel
from src.noise import NoiseRates, corrupt
from src.pretraining import Language
from tests.conftest import error_of
from tests.test_pretraining import CPU, SIZE, SMALL, text

PRETRAIN = Pretrain(epochs=25, batch_size=16, learning_rate=0.01, masked=0.4, replaced=0.4, spans=[1.0])
MODEL = Transformer(**SMALL, heads=2, layers=1, feedforward_size=32, dropout=0.0)


@pytest.fixture(scope="module")
def language(tmp_path_factory) -> MaskedLanguageModel:
    torch.manual_seed(1)
    objective = Language(MaskedLanguageModel(build_model(MODEL, SIZE, 1)), *text(800), PRETRAIN, CPU, "fp32")
    fit(objective, PRETRAIN, (1, 0), tmp_path_factory.mktemp("language"), lambda news: None)
    return objective.model


def denoiser(language, **settings) -> Denoiser:
    return Denoiser(language, PRETRAIN, Denoise(by="x", **settings), CPU, "fp32")


def noisy(rate: float = 0.1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    tokens, lengths, _ = text(500, seed=3)
    tokens, lengths = tokens[lengths > 7], lengths[lengths > 7]
    alphabet = np.arange(N_SPECIAL, SIZE, dtype=np.uint16)
    hit = corrupt(*unpad(tokens, lengths), NoiseRates(replacement=rate), np.random.default_rng(0), alphabet)
    return pad(*hit, tokens.shape[1])[0], tokens, lengths


def test_most_noise_is_undone_and_little_else_is_touched(language):
    shown, clean, lengths = noisy()
    before = shown.copy()
    found = denoiser(language, prior=0.1, confidence=0.7)(shown, lengths)
    np.testing.assert_array_equal(shown, before)
    hit = shown != clean
    assert (found[hit] == clean[hit]).mean() > 0.7
    assert (found[~hit] == clean[~hit]).mean() > 0.98
    assert (found[clean == PAD] == PAD).all()


def test_confidence_and_prior_say_how_much_is_changed(language):
    shown, _, lengths = noisy()
    changed = [
        (denoiser(language, prior=prior, confidence=confidence)(shown, lengths) != shown).mean()
        for prior, confidence in ((0.3, 0.6), (0.1, 0.6), (0.1, 0.99), (1e-6, 0.99))
    ]
    assert changed[0] > changed[1] > changed[2] > changed[3]


def test_the_odds_of_the_shown_word_are_those_of_the_prior(language):
    """With the share of replaced words that it was taught on, the language model is taken at its word."""
    assert denoiser(language, prior=2 / 3)._lift == pytest.approx(0.0, abs=1e-6)  # shown: 0.4 replaced, 0.2 kept
    assert denoiser(language, prior=0.2)._lift == pytest.approx(np.log(4) + np.log(2))


def test_each_report_is_denoised_by_itself(language):
    shown, _, lengths = noisy()
    whole = denoiser(language)(shown, lengths)
    order = np.random.default_rng(0).permutation(len(shown))
    np.testing.assert_array_equal(denoiser(language)(shown[order], lengths[order]), whole[order])
    wider = np.pad(shown, ((0, 0), (0, 7)))
    np.testing.assert_array_equal(denoiser(language)(wider, lengths)[:, : shown.shape[1]], whole)


def test_who_can_denoise():
    told = error_of(load_config, "quick", ["denoise.by=nobody"])
    assert "denoise.by: unknown run 'nobody'" in told
    told = error_of(load_config, "quick", ["denoise.by=lstm", "pretrain.epochs=0"])
    assert "lstm is not pretrained" in told
    told = error_of(load_config, "quick", ["denoise.by=lstm", "pretrain.epochs=1", "pretrain.replaced=0"])
    assert "pretrain.replaced above 0" in told
