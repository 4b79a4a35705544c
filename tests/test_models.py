"""Properties of every model of the family."""

from __future__ import annotations

import itertools
import typing

import numpy as np
import pytest
import torch

from src.core.errors import UserError
from src.core.run_settings import DPCNN, RCNN, Model, Recurrent, TextCNN, Transformer
from src.core.settings_loader import load_config, model_names
from src.data.inputs import InputShape, token_shape
from src.models.classifier import ENCODERS, build_model
from src.models.input_layers import INPUT_LAYERS
from src.models.language import MaskedLanguageModel
from src.models.layers import (
    WINDOW,
    Convolution,
    LabelHead,
    Pooling,
    SpatialDropout,
    attention,
    closed,
    mixture,
    valid_positions,
)
from src.models.recurrent import mirror, take
from src.models.transformer import attend, rotary_turns, rotate
from src.training.inference import predict_logits

SIZE, LABELS = 40, 5
POOLINGS = typing.get_args(Model.model_fields["pooling"].annotation)
SMALL = {"embedding_size": 16, "embedding_init": "random"}


def family() -> list:
    recurrent = [
        Recurrent(**SMALL, cell=cell, hidden_size=6, layers=layers, bidirectional=both)
        for cell, layers, both in itertools.product(("lstm", "gru", "rnn"), (1, 2), (True, False))
    ]
    transformers = [
        Transformer(**SMALL, layers=2, heads=2, feedforward_size=24, positions=positions)
        for positions in ("rotary", "relative")
    ]
    convolutions = [TextCNN(**SMALL, widths=[2, 3], filters=6), DPCNN(**SMALL, size=6, blocks=3)]
    contexts = [RCNN(**SMALL, cell=cell, hidden_size=6, size=10) for cell in ("lstm", "rnn")]
    return [
        pytest.param(settings.model_copy(update={"pooling": pooling}), id=f"{name}-{pooling}")
        for settings in recurrent + transformers + convolutions + contexts
        for pooling in POOLINGS
        for name in [settings.encoder + "-" + str(getattr(settings, "cell", getattr(settings, "positions", "")))]
        if (settings.encoder, pooling) != ("rcnn", "last")  # which RCNN refuses
    ]


def batch(seed: int = 0) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([1, 7, 3, 12, 12, 5])
    tokens = torch.randint(3, SIZE, (6, 12), generator=generator)
    return {"tokens": tokens * (torch.arange(12) < lengths[:, None])}, lengths


@pytest.mark.parametrize("settings", family())
def test_prediction_is_independent_of_padding_batch_mates_and_order(settings):
    torch.manual_seed(1)
    model = build_model(settings, token_shape(SIZE), LABELS).eval()
    if settings.encoder == "transformer" and settings.positions == "relative":
        for block in model.encoder.blocks:  # zero at the start: a bias that is nought would hide a fault
            torch.nn.init.normal_(block.attention.bias.weight)
    inputs, lengths = batch()
    tokens = inputs["tokens"]
    with torch.inference_mode():
        together = model(inputs, lengths)
        wider = model({"tokens": torch.nn.functional.pad(tokens, (0, 30))}, lengths)
        backwards = model({"tokens": tokens.flip(0)}, lengths.flip(0)).flip(0)
        single = [({"tokens": tokens[i : i + 1, : lengths[i]]}, lengths[i : i + 1]) for i in range(len(tokens))]
        alone = torch.cat([model(*one) for one in single])
    for other in (wider, backwards, alone):
        torch.testing.assert_close(other, together, atol=1e-5, rtol=1e-4)
    assert together.shape == (6, LABELS)
    assert together.std(dim=0).min() > 1e-4, "the prediction ignores the report"


@pytest.mark.parametrize("settings", family())
def test_prediction_is_independent_of_the_batch_size_and_of_the_kind_of_tokens(settings):
    """Reports cut into batches of any size, as tokens or as mixtures of one word each, have the same logits."""
    torch.manual_seed(1)
    model = build_model(settings, token_shape(SIZE), LABELS)
    inputs, lengths = batch()
    tokens, lengths = inputs["tokens"].numpy().astype(np.uint16), lengths.numpy()
    together = predict_logits(model, {"tokens": tokens}, lengths, torch.device("cpu"))
    for batch_size in (1, 2, 4):
        found = predict_logits(model, {"tokens": tokens}, lengths, torch.device("cpu"), batch_size=batch_size)
        np.testing.assert_allclose(found, together, atol=1e-5, rtol=1e-4)
    words = torch.from_numpy(tokens.astype(np.int32))
    shares = torch.stack([torch.ones(words.shape), torch.zeros(words.shape)], dim=2)
    mixed = mixture(torch.stack([words, words.flip(0)], dim=2), shares).numpy()
    found = predict_logits(model, {"tokens": mixed}, lengths, torch.device("cpu"))
    np.testing.assert_allclose(found, together, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("settings", family()[:: len(POOLINGS)])
def test_a_language_model_is_independent_of_padding_batch_mates_and_order(settings):
    torch.manual_seed(1)
    model = MaskedLanguageModel(build_model(settings, token_shape(SIZE), LABELS)).eval()
    inputs, lengths = batch()
    tokens, first = inputs["tokens"], torch.arange(len(lengths))  # asked for: the first word of each report
    with torch.inference_mode():
        words, odd = model(inputs, lengths, first * 12)
        wider, _ = model({"tokens": torch.nn.functional.pad(tokens, (0, 30))}, lengths, first * 42)
        backwards, _ = model({"tokens": tokens.flip(0)}, lengths.flip(0), first * 12)
        single = [({"tokens": tokens[i : i + 1, : lengths[i]]}, lengths[i : i + 1], first[:1]) for i in first]
        alone = [model(*one) for one in single]
    for other in (wider, backwards.flip(0), torch.cat([found[0] for found in alone])):
        torch.testing.assert_close(other, words, atol=1e-5, rtol=1e-4)
    for i, (_, found) in enumerate(alone):
        torch.testing.assert_close(found[0], odd[i, : lengths[i]], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("settings", family())
def test_gradients_reach_every_parameter(settings):
    torch.manual_seed(3)
    model = build_model(settings, token_shape(SIZE), LABELS).train()
    model(*batch()).square().sum().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []


OF_SERIES = {"grud", "boosting", "linear", "kernel"}


@pytest.mark.parametrize("name", sorted(set(model_names()) - OF_SERIES))
def test_every_shipped_model_reads_word_order(name):
    settings = load_config("quick", ["model.embedding_size=16"], [name]).runs[name].model
    torch.manual_seed(0)
    model = build_model(settings, token_shape(SIZE), LABELS).eval()
    tokens, lengths = torch.tensor([[5, 6, 7, 8, 9, 10]]), torch.tensor([6])
    with torch.inference_mode():
        forth, back = model({"tokens": tokens}, lengths), model({"tokens": tokens.flip(1)}, lengths)
    assert (forth - back).abs().max() > 1e-4


def test_unknown_encoder_lists_the_family():
    settings = Recurrent().model_copy(update={"encoder": "recurent"})
    with pytest.raises(
        UserError, match=r"Did you mean 'recurrent'\? Known: boosting, dpcnn, grud, kernel, linear, rcnn"
    ):
        build_model(settings, token_shape(SIZE), LABELS)
    assert sorted(ENCODERS) == ["dpcnn", "grud", "rcnn", "recurrent", "textcnn", "transformer"]


@pytest.mark.parametrize("name", sorted(OF_SERIES))
def test_models_of_series_refuse_tokens(name):
    settings = load_config("quick", ["task=icu"], [name]).runs[name]
    with pytest.raises(UserError, match=f"{name} reads series"):
        build_model(settings.model, token_shape(SIZE), LABELS, features=settings.features)


def test_unknown_input_layer_lists_the_family():
    with pytest.raises(UserError, match="tokens"):
        build_model(Recurrent(), InputShape("token"), LABELS)
    assert sorted(INPUT_LAYERS) == ["series", "tokens"]


def test_vectors_start_the_embedding():
    vectors = torch.randn(SIZE, 16)
    model = build_model(Recurrent(**SMALL), token_shape(SIZE), LABELS, vectors)
    torch.testing.assert_close(model.input_layer.embedding.weight, vectors)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_spatial_dropout_preserves_the_mean_and_drops_whole_dimensions(p):
    torch.manual_seed(0)
    layer = SpatialDropout(p).train()
    x = torch.rand(400, 7, 50) + 0.5
    y = layer(x)
    assert abs((y.mean() / x.mean()).item() - 1) < 0.02
    dropped = y == 0
    assert torch.equal(dropped.all(dim=1), dropped.any(dim=1))
    assert abs(dropped.float().mean().item() - p) < 0.02
    assert torch.equal(layer.eval()(x), x)


def test_pooling_takes_real_positions_only():
    features = torch.tensor([[[1.0, -4.0], [3.0, -2.0], [99.0, 99.0]]])
    lengths = torch.tensor([2])
    expected = {"last": [3.0, -2.0], "max": [3.0, -2.0], "mean": [2.0, -3.0], "maxmean": [3.0, -2.0, 2.0, -3.0]}
    expected["lastmaxmean"] = expected["last"] + expected["maxmean"]
    for kind, values in expected.items():
        assert Pooling(kind, 2)(features, lengths).tolist() == [values]


def test_attention_weights_sum_to_one_over_real_positions():
    torch.manual_seed(0)
    lengths = torch.tensor([5, 1, 3])
    valid = valid_positions(lengths, 5)
    # Of features that name their position, the weighted mean is the weights.
    weights = attention(torch.randn(3, 5, 4), torch.eye(5).expand(3, 5, 5), valid)
    assert weights.shape == (3, 4, 5)
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(3, 4))
    assert (weights[valid[:, None].expand_as(weights)] > 0).all()
    assert not weights[~valid[:, None].expand_as(weights)].any()


def test_hierarchical_pooling_attends_tokens_within_windows_then_windows():
    torch.manual_seed(0)
    width = 2 * WINDOW + 3
    pooling = Pooling("hierarchical", width)
    features = torch.eye(width).expand(2, width, width)
    lengths = torch.tensor([width, WINDOW + 1])
    weights = pooling(features, lengths)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2))
    assert (weights[0] > 0).all() and (weights[1] > 0).tolist() == [i < WINDOW + 1 for i in range(width)]
    # Within a window the weights are the softmax of that window's own scores.
    within = pooling.score(torch.eye(width))[WINDOW : 2 * WINDOW, 0].softmax(dim=0)
    torch.testing.assert_close(weights[0, WINDOW : 2 * WINDOW] / weights[0, WINDOW : 2 * WINDOW].sum(), within)


def test_hierarchical_pooling_of_padding_alone_has_finite_gradients():
    torch.manual_seed(0)
    pooling = Pooling("hierarchical", 4)
    features = torch.randn(2, 3 * WINDOW, 4, requires_grad=True)
    pooling(features, torch.tensor([2, 2 * WINDOW])).square().sum().backward()
    assert features.grad[0, :2].abs().min() > 0 and not features.grad[0, 2:].any()
    assert all(p.grad.isfinite().all() for p in pooling.parameters())


def test_label_pooling_gives_each_label_its_own_features_and_weights():
    torch.manual_seed(0)
    pooling, head = Pooling("label", 4, n_labels=3), LabelHead(4, 3)
    features, lengths = torch.randn(2, 6, 4), torch.tensor([6, 2])
    logits = head(pooling(features, lengths))
    for report, length in enumerate(lengths):
        real = features[report, :length]
        for label in range(3):
            weights = (real @ pooling.score.weight[label]).softmax(dim=0)
            expected = weights @ real @ head.weight[label] + head.bias[label]
            torch.testing.assert_close(logits[report, label], expected)


@pytest.mark.parametrize("pooling", ["maxmean", "label"])
def test_dropout_samples_keep_the_mean_and_lessen_the_noise(pooling):
    torch.manual_seed(0)
    inputs, lengths = batch()
    settings = TextCNN(**SMALL, pooling=pooling, filters=6, spatial_dropout=0, head_dropout=0.5)
    model = build_model(settings, token_shape(SIZE), LABELS)
    with torch.inference_mode():
        calm = model.eval()(inputs, lengths)
        model.train()
        found = {}
        for samples in (1, 8):
            model.dropout_samples = samples
            found[samples] = torch.stack([model(inputs, lengths) for _ in range(1000)])
    for samples, drawn in found.items():
        error = drawn.std(dim=0) / 1000**0.5
        assert ((drawn.mean(dim=0) - calm).abs() < 5 * error).all(), samples
    ratio = found[8].var(dim=0).mean() / found[1].var(dim=0).mean()
    assert 0.8 / 8 < ratio < 1.25 / 8


def test_one_dropout_sample_is_plain_dropout():
    torch.manual_seed(0)
    model = build_model(TextCNN(**SMALL, spatial_dropout=0, head_dropout=0.5), token_shape(SIZE), LABELS).train()
    inputs, lengths = batch()
    torch.manual_seed(1)
    found = model(inputs, lengths)
    torch.manual_seed(1)
    plain = model.head(model.dropout(model.pooling(model.encoder(model.input_layer.embed(inputs), lengths), lengths)))
    assert torch.equal(found, plain)


@pytest.mark.parametrize(("width", "dilation"), [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (3, 4), (2, 3)])
def test_convolution_is_the_sum_of_its_shifted_products(width, dilation):
    torch.manual_seed(0)
    convolution = Convolution(3, 2, width, dilation)
    x, lengths = torch.randn(2, 9, 3), torch.tensor([9, 4])
    found = convolution(x, valid_positions(lengths, 9))
    assert found.shape == (2, 9, 2)
    start = -(-dilation * (width - 1) // 2)  # tokens read to the left
    for report, length in enumerate(lengths.tolist()):
        for t in range(length):
            expected = convolution.bias.clone()
            for i in range(width):
                at = t - start + i * dilation
                if 0 <= at < length:
                    expected = expected + convolution.weight[:, :, i] @ x[report, at]
            torch.testing.assert_close(found[report, t], expected)


def test_dpcnn_masks_padding_before_every_convolution(monkeypatch):
    """Biases alone would fill the padding after the first one, and the next would read it."""
    torch.manual_seed(0)
    seen = []
    plain = torch.nn.Conv1d.forward
    monkeypatch.setattr(torch.nn.Conv1d, "forward", lambda self, x: seen.append(x) or plain(self, x))
    encoder = build_model(DPCNN(**SMALL, size=6, blocks=2), token_shape(SIZE), LABELS).encoder.eval()
    lengths = torch.tensor([9, 4, 1])
    encoder(torch.randn(3, 9, 16), lengths)
    assert len(seen) == 1 + 2 * 2
    padding = ~valid_positions(lengths, 9)
    for x in seen:
        assert x.transpose(1, 2)[~padding].any() and not x.transpose(1, 2)[padding].any()


def test_dpcnn_sees_as_far_as_its_setting_says():
    torch.manual_seed(0)
    blocks = 2
    encoder = build_model(DPCNN(**SMALL, size=6, blocks=blocks), token_shape(SIZE), LABELS).encoder.eval()
    x = torch.randn(1, 41, 16, requires_grad=True)
    encoder(x, torch.tensor([41]))[0, 20].sum().backward()
    reached = x.grad[0].abs().sum(dim=1).nonzero()[:, 0]
    assert (reached.min().item(), reached.max().item()) == (20 - 7, 20 + 7)
    assert reached.max() - reached.min() + 1 == 2 ** (blocks + 2) - 1


def test_rcnn_contexts_end_before_the_token():
    torch.manual_seed(0)
    encoder = build_model(RCNN(**SMALL, hidden_size=3, size=5), token_shape(SIZE), LABELS).encoder.eval()
    given = []
    encoder.linear.register_forward_hook(lambda module, inputs, output: given.append(inputs[0]))
    x, lengths = torch.randn(2, 6, 16), torch.tensor([6, 3])
    encoder(x, lengths)
    left, token, right = given[0].split([3, 16, 3], dim=2)
    torch.testing.assert_close(token, x)
    for report, length in enumerate(lengths.tolist()):
        alone = encoder.contexts(x[report : report + 1, :length], lengths[report : report + 1])[0]
        torch.testing.assert_close(left[report, 1:length], alone[:-1, :3])
        torch.testing.assert_close(right[report, : length - 1], alone[1:, 3:])
        assert not left[report, 0].any() and not right[report, length - 1].any()


def test_rcnn_refuses_the_pooling_that_sees_one_context_alone():
    with pytest.raises(UserError, match=r"runs\.rcnn\.model: pooling last is not for rcnn"):
        load_config("quick", ["model.pooling=last"], ["rcnn"])


def test_last_takes_right_to_left_features_at_the_start():
    features = torch.tensor([[[1.0, -4.0], [3.0, -2.0]]])
    assert Pooling("last", 2, backward_size=1)(features, torch.tensor([2])).tolist() == [[3.0, -4.0]]


def test_bidirectional_recurrence_equals_a_packed_one():
    torch.manual_seed(0)
    settings = Recurrent(**SMALL, hidden_size=6, bidirectional=True)
    encoder = build_model(settings, token_shape(SIZE), LABELS).encoder.eval()
    reference = torch.nn.LSTM(16, 6, batch_first=True, bidirectional=True)
    for name, value in encoder.forwards[0].named_parameters():
        getattr(reference, name).data.copy_(value)
    for name, value in encoder.backwards[0].named_parameters():
        getattr(reference, f"{name}_reverse").data.copy_(value)
    x, lengths = torch.randn(4, 9, 16), torch.tensor([9, 2, 5, 1])
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    expected, _ = torch.nn.utils.rnn.pad_packed_sequence(reference(packed)[0], batch_first=True)
    found = encoder(x, lengths)
    for i, length in enumerate(lengths):
        torch.testing.assert_close(found[i, :length], expected[i, :length])


def test_mirror_is_its_own_inverse():
    x = torch.arange(8.0).view(2, 4, 1)
    rows = mirror(torch.tensor([3, 4]), 4)
    assert take(x, rows)[:, :, 0].tolist() == [[2, 1, 0, 3], [7, 6, 5, 4]]
    assert torch.equal(take(take(x, rows), rows), x)
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: take(x, rows), x)


def test_rotary_scores_depend_on_distance_alone():
    torch.manual_seed(0)
    query, key = torch.randn(8), torch.randn(8)
    both = torch.stack([query, key]).view(1, 1, 2, 1, 8).expand(1, 20, 2, 1, 8)
    turned_query, turned_key = rotate(both, rotary_turns(20, 8, torch.device("cpu")))[0, :, :, 0].unbind(1)
    scores = (turned_query @ turned_key.T).numpy()
    for distance in (-5, 0, 3):
        diagonal = np.diagonal(scores, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-4)
    assert abs(scores[0, 0] - scores[0, 5]) > 1e-3


@pytest.mark.parametrize("biased", [False, True], ids=["mask", "bias"])
def test_attention_in_bf16_is_that_of_the_fused_kernel(biased):
    """In bfloat16 a CPU takes a path of its own: forwards and backwards the same to eight bits."""
    torch.manual_seed(0)
    parts = [torch.randn(3, 2, 7, 4) for _ in range(3)]
    keys = closed(valid_positions(torch.tensor([7, 4, 1]), 7), torch.float32)[:, None, None, :]
    keys = keys + torch.randn(1, 2, 7, 7) if biased else keys
    found = []
    for kind in (torch.float32, torch.bfloat16):
        given = [part.clone().to(kind).requires_grad_() for part in parts]
        attended = attend(*given, keys)
        attended.float().square().sum().backward()
        found.append([attended.detach().float(), *(part.grad.float() for part in given)])
    for whole, half in zip(*found, strict=True):
        torch.testing.assert_close(half, whole, atol=0.06, rtol=0.05)
