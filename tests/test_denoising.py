from __future__ import annotations

import numpy as np
import pytest
import torch

from src.core.run_settings import Denoise, Pretrain, Transformer
from src.core.settings_loader import load_config
from src.data.corpus import N_SPECIAL, PAD, pad, unpad
from src.data.corruption import NoiseRates, corrupt
from src.data.inputs import token_shape
from src.models.classifier import build_model
from src.models.language import MaskedLanguageModel
from src.models.layers import FULL, words_and_shares
from src.training.denoising import MIXED, Denoiser
from src.training.inference import predict_logits
from src.training.loop import fit
from src.training.pretraining import Language
from tests.conftest import error_of
from tests.test_pretraining import CPU, SIZE, SMALL, text

PRETRAIN = Pretrain(epochs=25, batch_size=16, learning_rate=0.01, masked=0.4, replaced=0.4, spans=[1.0])
MODEL = Transformer(**SMALL, heads=2, layers=1, feedforward_size=32, dropout=0.0)


@pytest.fixture(scope="module")
def language(tmp_path_factory) -> MaskedLanguageModel:
    torch.manual_seed(1)
    objective = Language(
        MaskedLanguageModel(build_model(MODEL, token_shape(SIZE), 1)), text(800), PRETRAIN, CPU, "fp32"
    )
    fit(objective, (1, 0), tmp_path_factory.mktemp("language"), lambda news: None)
    return objective.model


def denoiser(language, **settings) -> Denoiser:
    return Denoiser(language, PRETRAIN, Denoise(by="x", **settings), CPU, "fp32")


def hard(language, tokens, lengths, **settings) -> np.ndarray:
    (found,) = denoiser(language, **settings)(tokens, lengths, ["hard"])
    return found


def noisy(rate: float = 0.1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    tokens, lengths, *_ = text(500, seed=3)
    tokens, lengths = tokens[lengths > 7], lengths[lengths > 7]
    alphabet = np.arange(N_SPECIAL, SIZE, dtype=np.uint16)
    hit = corrupt(*unpad(tokens, lengths), NoiseRates(replacement=rate), np.random.default_rng(0), alphabet)
    return pad(*hit, tokens.shape[1])[0], tokens, lengths


def test_most_noise_is_undone_and_little_else_is_touched(language):
    shown, clean, lengths = noisy()
    before = shown.copy()
    found = hard(language, shown, lengths, prior=0.1, confidence=0.7)
    np.testing.assert_array_equal(shown, before)
    hit = shown != clean
    assert (found[hit] == clean[hit]).mean() > 0.7
    assert (found[~hit] == clean[~hit]).mean() > 0.98
    assert (found[clean == PAD] == PAD).all()


def test_confidence_and_prior_say_how_much_is_changed(language):
    shown, _, lengths = noisy()
    changed = [
        (hard(language, shown, lengths, prior=prior, confidence=confidence) != shown).mean()
        for prior, confidence in ((0.3, 0.6), (0.1, 0.6), (0.1, 0.99), (1e-6, 0.99))
    ]
    assert changed[0] > changed[1] > changed[2] > changed[3]


def test_the_odds_of_the_shown_word_are_those_of_the_prior(language):
    """The language model is taken at its word where the share of replaced words is the one that it was taught on."""
    assert denoiser(language, prior=2 / 3)._lift == pytest.approx(0.0, abs=1e-6)  # shown: 0.4 replaced, 0.2 kept
    assert denoiser(language, prior=0.2)._lift == pytest.approx(np.log(4) + np.log(2))


def test_each_report_is_denoised_by_itself(language):
    shown, _, lengths = noisy()
    whole = hard(language, shown, lengths)
    order = np.random.default_rng(0).permutation(len(shown))
    np.testing.assert_array_equal(hard(language, shown[order], lengths[order]), whole[order])
    wider = np.pad(shown, ((0, 0), (0, 7)))
    np.testing.assert_array_equal(hard(language, wider, lengths)[:, : shown.shape[1]], whole)


def test_the_raw_view_is_the_report_as_it_is(language):
    shown, _, lengths = noisy()
    raw, changed = denoiser(language, prior=0.1)(shown, lengths, ["raw", "hard"])
    np.testing.assert_array_equal(raw, shown)
    assert (changed != shown).any()


def test_a_mixture_is_what_bayes_rule_says(language):
    shown, clean, lengths = noisy()
    both = denoiser(language, prior=0.1)(shown, lengths, ["soft", "hard"])
    np.testing.assert_array_equal(both[1], hard(language, shown, lengths, prior=0.1))
    words, shares = words_and_shares(torch.from_numpy(both[0]))
    words, shares = words.numpy(), shares.numpy()
    assert both[0].shape == (*shown.shape, MIXED)
    inside = shown != PAD
    np.testing.assert_allclose(shares.sum(axis=2), inside, atol=MIXED / FULL)
    # The word that is shown always has a share; the likeliest is what the hard view shows where it replaces one.
    assert (words == shown[:, :, None]).any(axis=2)[inside].all()
    likeliest = np.take_along_axis(words, shares.argmax(axis=2)[:, :, None], axis=2)[:, :, 0]
    replaced = both[1] != shown
    assert replaced.any()
    np.testing.assert_array_equal(likeliest[replaced], both[1][replaced])
    # By the formula, at one place.
    row, place = np.argwhere(replaced)[0]
    tokens = torch.from_numpy(shown[row : row + 1, : lengths[row]].astype(np.int64))
    with torch.inference_mode():
        logits, _ = language.eval()({"tokens": tokens}, torch.tensor([lengths[row]]), torch.tensor([place]))
        odds = logits[0].softmax(dim=0).numpy()
    taught = (1 - PRETRAIN.masked - PRETRAIN.replaced) / PRETRAIN.replaced
    odds[shown[row, place] - N_SPECIAL] *= 0.9 / 0.1 / taught
    expected = odds[words[row, place] - N_SPECIAL]
    np.testing.assert_allclose(shares[row, place], expected / expected.sum(), atol=1e-3)


def test_the_shown_word_alone_is_the_word(language):
    """Nothing is expected to be wrong: the mixtures are the words, and a model reads both alike."""
    shown, _, lengths = noisy()
    (mixed,) = denoiser(language, prior=1e-12)(shown, lengths, ["soft"])
    model = build_model(MODEL, token_shape(SIZE), 3)
    logits = [predict_logits(model, {"tokens": tokens}, lengths, CPU) for tokens in (shown, mixed)]
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-4)
    (mixed,) = denoiser(language, prior=0.5)(shown, lengths, ["soft"])
    assert np.abs(predict_logits(model, {"tokens": mixed}, lengths, CPU) - logits[0]).max() > 0.01


def test_who_can_denoise():
    told = error_of(load_config, "quick", ["denoise.by=nobody"])
    assert "denoise.by: unknown run 'nobody'" in told
    told = error_of(load_config, "quick", ["denoise.by=lstm", "pretrain.epochs=0"])
    assert "lstm is not pretrained" in told
    told = error_of(load_config, "quick", ["denoise.by=lstm", "pretrain.epochs=1", "pretrain.replaced=0"])
    assert "pretrain.replaced above 0" in told
