"""Attributions against what they must add up to, and against what can be told by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from src.core.run_settings import DPCNN, RCNN, Recurrent, TextCNN, Transformer
from src.data.corpus import N_SPECIAL
from src.data.inputs import token_shape
from src.models.classifier import build_model
from src.models.layers import mixture
from src.reporting import attribution

SMALL = {"embedding_size": 16, "embedding_init": "random"}
FAMILY = [
    Recurrent(**SMALL, hidden_size=12),
    Recurrent(**SMALL, cell="gru", hidden_size=12, pooling="hierarchical"),
    Transformer(**SMALL, layers=2, heads=2, feedforward_size=24),
    TextCNN(**SMALL, widths=[2, 3], filters=12),
    DPCNN(**SMALL, size=12, blocks=2),
    RCNN(**SMALL, hidden_size=8, size=12),
]
REPORT = np.array([5, 9, 3, 9, 30, 12, 7, 21, 4], dtype=np.uint16)
LABELS = 4


def built(settings, seed=0):
    torch.manual_seed(seed)
    model = build_model(settings, token_shape(40), LABELS)
    with torch.no_grad():
        model.input_layer.embedding.weight.mul_(8)  # as large as training makes it, or there is nothing to tell apart
        model.head.weight.mul_(3)
    return model.eval()


@pytest.mark.parametrize("settings", FAMILY, ids=lambda settings: f"{settings.encoder}-{settings.pooling}")
def test_contributions_add_up_to_what_the_report_changes(settings):
    model = built(settings)
    found = attribution.integrated_gradients(model, REPORT, [0, 2]).numpy()
    start, end = attribution.start_and_end(model, REPORT)[:, [0, 2]].numpy()
    assert found.shape == (2, len(REPORT))
    assert np.abs(end - start).max() > 0.05, "nothing to explain"
    np.testing.assert_allclose(found.sum(axis=1), end - start, atol=0.015 * np.abs(found).sum(axis=1).max())


@pytest.mark.parametrize("settings", FAMILY, ids=lambda settings: f"{settings.encoder}-{settings.pooling}")
def test_ends_and_occlusion_are_the_models_own_logits(settings):
    model = built(settings)

    def logits(tokens):
        with torch.no_grad():
            inputs = {"tokens": torch.tensor(tokens.astype(np.int64))[None]}
            return model(inputs, torch.tensor([len(tokens)]))[0].numpy()

    np.testing.assert_allclose(attribution.start_and_end(model, REPORT)[1].numpy(), logits(REPORT), atol=1e-5)
    without = attribution.logit_without(model, REPORT).numpy()
    for i in range(len(REPORT)):
        np.testing.assert_allclose(without[i], logits(np.delete(REPORT, i)), atol=1e-5)
    nothing = attribution.start_and_end(model, REPORT[:1])[0].numpy()
    np.testing.assert_allclose(attribution.logit_without(model, REPORT[:1])[0].numpy(), nothing, atol=1e-5)
    with torch.no_grad():
        others = [word for word in range(N_SPECIAL, 40) if word != REPORT[0]]
        model.input_layer.embedding.weight[REPORT[0]] = model.input_layer.embedding.weight[others].mean(dim=0)
    drift = attribution.start_and_end(model, REPORT[:1]).numpy()
    np.testing.assert_allclose(drift[0], drift[1], atol=1e-3)  # a word like all others says nothing


def test_a_linear_model_gets_what_its_weights_say():
    """Each token adds its own score under mean pooling of a convolution of width one, with ReLU out of the way."""
    model = built(TextCNN(**SMALL, widths=[1], filters=12, pooling="mean"))
    for module in model.encoder.modules():
        if isinstance(module, torch.nn.Conv1d):
            torch.nn.init.uniform_(module.weight, 0, 0.3)
            torch.nn.init.constant_(module.bias, 100.0)  # far above zero, so that ReLU passes everything
    scores = []
    with torch.no_grad():
        for token in REPORT:
            ends = attribution.start_and_end(model, np.array([token]))
            scores.append((ends[1] - ends[0])[1].item() / len(REPORT))
    found = attribution.integrated_gradients(model, REPORT, [1], steps=2)[0].numpy()
    np.testing.assert_allclose(found, scores, rtol=1e-2, atol=1e-3)


def test_a_mixture_of_one_word_is_that_word():
    model = built(Recurrent(**SMALL, hidden_size=12, pooling="label"))
    words = torch.tensor(REPORT.astype(np.int64))[:, None].repeat(1, 3)
    shares = torch.zeros(len(REPORT), 3)
    shares[:, 1] = 1.0
    mixed = mixture(words, shares).numpy()
    for one, other in (
        (attribution.integrated_gradients(model, mixed, [3]), attribution.integrated_gradients(model, REPORT, [3])),
        (attribution.logit_without(model, mixed), attribution.logit_without(model, REPORT)),
        (attribution.attention_weights(model, mixed), attribution.attention_weights(model, REPORT)),
    ):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-4)


def test_attention_is_told_where_the_pooling_is_attention():
    for pooling, rows in (("attention", 1), ("label", LABELS)):
        model = built(Recurrent(**SMALL, hidden_size=12, pooling=pooling))
        weights = attribution.attention_weights(model, REPORT).numpy()
        assert weights.shape == (rows, len(REPORT))
        np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
        inputs = {"tokens": torch.tensor(REPORT.astype(np.int64))[None]}
        features = model.encoder(model.input_layer.embed(inputs), torch.tensor([len(REPORT)]))
        pooled = torch.from_numpy(weights) @ features[0]
        expected = model.pooling(features, torch.tensor([len(REPORT)]))[0].reshape(rows, -1)
        np.testing.assert_allclose(pooled.detach().numpy(), expected.detach().numpy(), atol=1e-5)
    assert attribution.attention_weights(built(FAMILY[2]), REPORT) is None
