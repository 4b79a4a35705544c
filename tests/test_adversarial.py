from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from src.core.run_settings import Recurrent
from src.data.inputs import token_shape
from src.models.classifier import build_model
from src.training.adversarial import SIZES, moved

SETTINGS = Recurrent(embedding_size=8, embedding_init="random", hidden_size=6, spatial_dropout=0.0, head_dropout=0.0)


def example() -> tuple:
    torch.manual_seed(0)
    model = build_model(SETTINGS, token_shape(20), 3)
    tokens, lengths = torch.randint(3, 20, (6, 9)), torch.full((6,), 9)
    targets = (torch.rand(6, 3) < 0.3).float()
    return model, lambda: functional.binary_cross_entropy_with_logits(model({"tokens": tokens}, lengths), targets)


@pytest.mark.parametrize("kind", SIZES)
def test_the_attack_raises_the_loss_and_goes(kind):
    model, loss = example()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    plain = loss()
    plain.backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    with moved(model, kind, 0.1):
        attacked = loss()
        attacked.backward()
    assert attacked.item() > plain.item() + 1e-4
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name])
    # The second pass adds to the gradients, so the step sees both losses.
    assert any(not torch.equal(weight.grad, gradients[name]) for name, weight in model.named_parameters())


def test_how_far_weights_move():
    model, loss = example()
    loss().backward()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    with moved(model, "fgm", 0.3):
        distance = {name: (weight - before[name]).norm().item() for name, weight in model.named_parameters()}
    assert distance.pop("input_layer.embedding.weight") == pytest.approx(0.3, rel=1e-4)
    assert set(distance.values()) == {0.0}
    with moved(model, "awp", 0.3):
        for name, weight in model.named_parameters():
            expected = 0.3 * before[name].norm().item() if weight.ndim >= 2 else 0.0
            assert (weight - before[name]).norm().item() == pytest.approx(expected, rel=1e-4)


def test_weights_come_back_after_an_error():
    model, loss = example()
    loss().backward()
    before = model.input_layer.embedding.weight.detach().clone()
    with pytest.raises(KeyboardInterrupt), moved(model, "fgm", 1.0):
        raise KeyboardInterrupt
    assert torch.equal(model.input_layer.embedding.weight, before)


def test_a_gradient_of_zero_moves_nothing():
    model, _ = example()
    model.input_layer.embedding.weight.grad = torch.zeros_like(model.input_layer.embedding.weight)
    before = model.input_layer.embedding.weight.detach().clone()
    with moved(model, "fgm", 1.0):
        assert torch.equal(model.input_layer.embedding.weight, before)
