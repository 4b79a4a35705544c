from __future__ import annotations

import itertools
import math
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import log_loss

from src.core import interrupts
from src.core.errors import UserError
from src.core.run_settings import Denoise, Features, Recurrent, Run, Train, Transformer
from src.data.corpus import N_SPECIAL
from src.data.inputs import token_shape
from src.data.tasks import ROUND2, LabelGroup, Task
from src.models.classifier import build_model
from src.training import checkpoints, devices, epoch_reader, loop
from src.training import rows as rows_module
from src.training.batching import POOL
from src.training.classification import Classification, positive_weight
from src.training.epoch_reader import EpochReader
from src.training.inference import predict_logits
from src.training.loop import fit, update_average
from src.training.optimizers import make_optimizer, schedule
from src.training.rows import Rows
from tests.series import STAYS, STEPS, stays

CPU = torch.device("cpu")
SMALL = Recurrent(embedding_size=8, embedding_init="random", hidden_size=6, spatial_dropout=0.1, head_dropout=0.1)
SIZE = 30
TASK = Task("tiny", "tiny", (LabelGroup("labels", 3, weight=1.0, loss_scale=1.0),))


def rows(n: int = 96, seed: int = 0) -> Rows:
    """Label 0: word 5 stands before word 6. Label 1: word 7 is there. Label 2: never."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 9, size=n).astype(np.int32)
    tokens = np.zeros((n, 10), dtype=np.uint16)
    labels = np.zeros((n, 3), dtype=np.uint8)
    for i, length in enumerate(lengths):
        tokens[i, :length] = rng.integers(10, SIZE, size=length)
        first, second = sorted(rng.choice(length, size=2, replace=False))
        labels[i, 0] = rng.integers(2)
        tokens[i, [first, second]] = (5, 6) if labels[i, 0] else (6, 5)
        labels[i, 1] = (tokens[i] == 12).any()
    assert tokens[tokens > 0].min() >= N_SPECIAL
    return Rows(
        inputs={"tokens": tokens},
        lengths=lengths,
        labels=labels,
        ids=np.arange(n).astype("S"),
        weights=np.ones(n, dtype=np.float32),
        domain=np.arange(n, dtype=np.uint8) % 3,
        n_domains=3,
        chosen=np.arange(n),
    )


def part_of(data: Rows, chosen: np.ndarray, weights: np.ndarray | None = None) -> Rows:
    weights = data.weights[chosen] if weights is None else weights
    arrays = {name: getattr(data, name)[chosen] for name in ("labels", "ids", "domain")}
    return replace(data, **arrays, weights=weights, chosen=chosen)


def train(folder, settings: Train, data: Rows | None = None, stop_after: int | None = None, seed: int = 1):
    """fit() on a fresh model; `stop_after` epochs it is interrupted like a killed process."""
    data = data or rows()
    torch.manual_seed(seed)
    model = build_model(SMALL, token_shape(SIZE), 3)

    def progress(news):
        if news["epoch"] == stop_after:
            raise KeyboardInterrupt

    try:
        objective = Classification(TASK, model, data, rows(48, seed=9), settings, CPU, "fp32")
        history = fit(objective, (seed, 0), folder, progress)
    except KeyboardInterrupt:
        return None, model
    return history, model


def fit_from(model, settings: Train, folder) -> None:
    fit(Classification(TASK, model, rows(), rows(48), settings, CPU, "fp32"), (1, 0), folder, lambda news: None)


def weights(model) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())


def rows_with_extra() -> Rows:
    """Every second report is a labelled one of an extra file, with words from 20; the others have words below 20."""
    data = rows()
    is_extra = np.arange(96) % 2 == 1
    tokens = data.inputs["tokens"].copy()
    tokens = np.where(tokens >= 10, 10 * (1 + is_extra[:, None]) + tokens % 10, tokens).astype(tokens.dtype)
    return replace(data, inputs={"tokens": tokens}, is_extra=is_extra)


OWN = Train(epochs=4, own_epochs=2, batch_size=16, extra_weight=1.0, noise={"replacement": 0.1}, join=0.5)


@pytest.mark.parametrize(
    "settings",
    [
        Train(epochs=4, batch_size=16, noise={"replacement": 0.1, "insertion": 0.05, "deletion": 0.05}),
        Train(epochs=4, batch_size=16, ema_decay=0.9, optimizer="adam"),
        Train(epochs=4, batch_size=16, patience=1),
        Train(epochs=4, batch_size=16, consistency=1.0, noise={"replacement": 0.1, "deletion": 0.1}),
        Train(epochs=4, batch_size=16, join=0.5, noise={"replacement": 0.1, "dispersion": 0.1}),
        Train(epochs=4, batch_size=16, attack="fgm"),
        Train(epochs=4, batch_size=16, attack="awp", attack_size=0.01, layer_decay=0.8),
        OWN,
    ],
    ids=["noise", "ema", "patience", "consistency", "join", "fgm", "awp", "own_epochs"],
)
def test_resumed_training_ends_in_the_same_bytes(tmp_path, settings):
    data = rows_with_extra() if settings is OWN else rows()
    history, model = train(tmp_path / "whole", settings, data)
    for stop in (1, 3):
        folder = tmp_path / f"stopped_{stop}"
        train(folder, settings, data, stop_after=stop)
        again, resumed = train(folder, settings, data)
        assert again == history
        assert weights(resumed) == weights(model)
        assert (folder / "best.safetensors").read_bytes() == (tmp_path / "whole/best.safetensors").read_bytes()


def test_states_note_the_seconds_of_all_starts(tmp_path, monkeypatch):
    """Uses a clock that every look at it moves on by a second; each start begins it anew."""
    spent = []
    for stop in (1, 2, None):
        monkeypatch.setattr("src.training.loop.time.perf_counter", itertools.count().__next__)
        train(tmp_path, Train(epochs=3, batch_size=16), stop_after=stop)
        spent.append(checkpoints.spent(tmp_path))
    assert spent[0] > 0 and spent == [spent[0] * starts for starts in (1, 2, 3)]


@pytest.mark.parametrize("own", [0, 1])
@pytest.mark.parametrize("steps", [[1], [4, 1], [6], [7], [8, 1]])
def test_training_that_was_told_to_end_amid_an_epoch_ends_in_the_same_bytes(tmp_path, monkeypatch, steps, own):
    """96 reports are six steps an epoch, 48 own ones three. A second stop counts its steps from the first."""
    settings = Train(
        epochs=2, batch_size=16, ema_decay=0.9, noise={"replacement": 0.1}, consistency=1.0, join=0.5, own_epochs=own
    )
    data = rows_with_extra()
    monkeypatch.setattr("src.training.loop.time.perf_counter", lambda: 0.0)  # states note their seconds
    history, model = train(tmp_path / "whole", settings, data)
    step, seen = Classification.step, []

    def count(*given):
        seen.append(given)
        if len(seen) == stop:
            interrupts._is_asked = True
        return step(*given)

    total = 0
    with monkeypatch.context() as patched:
        patched.setattr(Classification, "step", count)
        for stop in steps:
            seen.clear()
            with pytest.raises(interrupts.Stopped):
                train(tmp_path / "stopped", settings, data)
            total += stop
            epochs, inside = divmod(total, 6) if total % 6 else (total // 6 - 1, 6)
            assert (tmp_path / f"stopped/state_{epochs:04d}_{inside:06d}.json").exists()
    again, resumed = train(tmp_path / "stopped", settings, data)
    assert again == history and weights(resumed) == weights(model)
    for name in ("best.safetensors", "state_0002.safetensors", "state_0002.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_last_epochs_are_of_own_rows_and_words_alone(tmp_path):
    data = rows_with_extra()
    objective = Classification(TASK, build_model(SMALL, token_shape(SIZE), 3), data, data, OWN, CPU, "fp32")
    for epoch, size, is_own in ((2, 96, False), (3, 48, True), (4, 48, True)):
        batches = list(objective.batches(np.random.default_rng(epoch), epoch))
        assert len(batches) == objective.n_batches_of(epoch) == size / 16
        found = np.concatenate([batch.rows for batch, _wanted in batches])
        assert sorted(found) == list(range(0, 96, 2) if is_own else range(96))
        seen = {word for batch, _wanted in batches for word in batch.inputs["tokens"].unique().tolist()}
        assert (max(seen) < 20) == is_own, "neither a partner nor noise has a word of the extra reports"
    alone = Classification(TASK, objective.model, data, data, OWN.model_copy(update={"join": 0.0}), CPU, "fp32")
    for batch, wanted in alone.batches(np.random.default_rng(0), 4):
        np.testing.assert_array_equal(wanted.targets, data.labels[batch.rows])
        assert not data.is_extra[batch.rows].any()


def test_the_learning_rate_falls_over_the_steps_that_there_are(tmp_path):
    """Two epochs of six steps and two of three."""
    shares = []
    model = build_model(SMALL, token_shape(SIZE), 3)
    objective = Classification(TASK, model, rows_with_extra(), rows(48, seed=9), OWN, CPU, "fp32")
    history = fit(objective, (1, 0), tmp_path, lambda news: shares.append(news["share"]))
    rates = [OWN.learning_rate * schedule(step, 18, OWN.warmup) for step in (5, 11, 14, 17)]
    assert [epoch["learning_rate"] for epoch in history] == rates
    assert shares == [6 / 18, 12 / 18, 15 / 18, 1.0]


def test_extra_rows_are_told_apart_only_where_a_setting_asks(tmp_path):
    """Byte for byte: without own_epochs, or without extra rows, training is as if nothing told them apart."""
    settings, data = OWN.model_copy(update={"own_epochs": 0}), rows_with_extra()
    found = [
        train(tmp_path / name, settings, one)[1] for name, one in (("a", data), ("b", replace(data, is_extra=None)))
    ]
    assert weights(found[0]) == weights(found[1])
    plain = replace(data, is_extra=None)
    found.append(train(tmp_path / "c", OWN, plain)[1])
    assert weights(found[1]) == weights(found[2]) != weights(train(tmp_path / "d", OWN, data)[1])


def test_what_is_computed_once_for_series_changes_no_byte(tmp_path, monkeypatch):
    inputs, chosen = stays(150), np.arange(149, 29, -1)
    data = replace(rows(150), inputs=inputs, lengths=np.full(150, STEPS, np.int32))
    data = part_of(data, chosen)

    def trained(seen: Rows) -> bytes:
        torch.manual_seed(0)
        model = build_model(SMALL, STAYS, 3, features=Features(summary=True))
        model.input_layer.fit(**data.chosen_inputs())
        seen = rows_module.computed_once(seen, model.input_layer, CPU)
        objective = Classification(TASK, model, seen, seen, Train(epochs=2, batch_size=16), CPU, "fp32")
        fit(objective, (1, 0), tmp_path / str(len(list(tmp_path.iterdir()))), lambda news: None)
        assert ("columns" in seen.inputs) == (rows_module.COMPUTED_BYTES > 0)
        return weights(model)

    monkeypatch.setattr(rows_module, "CHUNK", 50)
    once = trained(data)
    monkeypatch.setattr(rows_module, "COMPUTED_BYTES", 0)
    assert trained(data) == once


def test_seeds_change_the_result_and_nothing_else_does(tmp_path):
    settings = Train(epochs=1, batch_size=16)
    same = [weights(train(tmp_path / name, settings, seed=3)[1]) for name in ("a", "b")]
    assert same[0] == same[1] != weights(train(tmp_path / "c", settings, seed=4)[1])


def test_word_order_is_learned(tmp_path):
    data = rows(600)
    history, model = train(tmp_path, Train(epochs=12, batch_size=16, learning_rate=0.01), data)
    fresh = rows(200, seed=5)
    logits = predict_logits(model, fresh.inputs, fresh.lengths, CPU)
    assert ((logits[:, 0] > 0) == fresh.labels[:, 0]).mean() > 0.9
    assert history[-1]["valid_loss"] < 0.6 * history[0]["valid_loss"]


def test_valid_loss_is_that_of_all_rows_together(tmp_path):
    history, model = train(tmp_path, Train(epochs=1, batch_size=16))
    valid = rows(48, seed=9)
    logits = predict_logits(model, valid.inputs, valid.lengths, CPU, batch_size=7)
    assert np.isfinite(logits).all()
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    cells = log_loss(valid.labels.ravel(), probabilities.ravel())
    assert history[0]["valid_loss"] == pytest.approx(cells, abs=1e-5)


def test_exactly_the_matrices_decay():
    model = build_model(SMALL, token_shape(SIZE), 3)
    groups = make_optimizer(model, Train(weight_decay=0.3)).param_groups
    decaying = {id(p) for group in groups if group["weight_decay"] == 0.3 for p in group["params"]}
    still = {id(p) for group in groups if group["weight_decay"] == 0.0 for p in group["params"]}
    assert decaying == {id(p) for p in model.parameters() if p.ndim >= 2}
    assert still == {id(p) for p in model.parameters() if p.ndim < 2}


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_optimizer_kinds(name):
    optimizer = make_optimizer(build_model(SMALL, token_shape(SIZE), 3), Train(optimizer=name))
    assert type(optimizer).__name__.lower() == name


def test_the_gradient_is_clipped_before_the_step(tmp_path, monkeypatch):
    norms = []
    original = torch.optim.AdamW.step

    def step(self, *arguments, **keywords):
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(math.sqrt(sum(float(g.square().sum()) for g in gradients)))
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    train(tmp_path, Train(epochs=1, batch_size=16, clip_norm=1e-3))
    assert len(norms) == 6 and max(norms) <= 1e-3 * 1.001 and min(norms) > 0


@pytest.mark.parametrize("what", ["loss", "gradient's norm"])
def test_a_loss_that_is_not_finite_stops_the_fold(tmp_path, monkeypatch, what):
    """Values are read a pool of batches at a time, and still the first bad step is named."""
    steps = []
    original = loop.Watch.see

    def see(self, values, batch_rows):
        steps.append(batch_rows)
        poison = math.nan if len(steps) >= 3 else 1.0
        original(self, values * torch.tensor([poison if what == "loss" else 1.0, poison]), batch_rows)

    monkeypatch.setattr(loop.Watch, "see", see)
    model = build_model(SMALL, token_shape(SIZE), 3)
    settings = Train(epochs=2, batch_size=16)
    with pytest.raises(UserError, match=rf"{what} became nan at step 2 \(epoch 1\).*rows \d+.*learning_rate") as told:
        fit_from(model, settings, tmp_path)
    assert ", ".join(map(str, steps[2][:8])) in str(told.value)
    assert not list(tmp_path.glob("*.safetensors")), "nothing may be kept of a broken epoch"


def test_a_validation_loss_that_is_not_finite_names_the_validation_reports(tmp_path):
    """A word that only two validation reports hold has a weight that is not finite."""
    model, valid = build_model(SMALL, token_shape(SIZE), 3), rows(48)
    torch.nn.init.constant_(model.input_layer.embedding.weight[SIZE - 1 :], float("nan"))
    train_rows = rows()
    for data in (train_rows, valid):
        data.inputs["tokens"][data.inputs["tokens"] == SIZE - 1] = 10
    valid.inputs["tokens"][[5, 40], 0] = SIZE - 1
    valid = replace(valid, ids=np.array([b"valid%d" % i for i in range(48)]))
    settings = Train(epochs=2, batch_size=16, weight_decay=0.0)
    objective = Classification(TASK, model, train_rows, valid, settings, CPU, "fp32")
    with pytest.raises(UserError, match=r"validation loss became nan \(epoch 1\).* valid5, valid40 \(2 in all\)"):
        fit(objective, (1, 0), tmp_path, lambda news: None)
    assert not list(tmp_path.glob("*.safetensors")), "nothing may be kept of a broken epoch"


def test_another_way_of_learning_replaces_the_step(tmp_path):
    """fit() takes the gradients that step() leaves, whatever they are."""

    class Still(Classification):
        def step(self, batch, wanted):
            return torch.tensor(1.0)

    torch.manual_seed(1)
    model = build_model(SMALL, token_shape(SIZE), 3)
    before = weights(model)
    objective = Still(TASK, model, rows(), rows(48), Train(epochs=1, batch_size=16), CPU, "fp32")
    history = fit(objective, (1, 0), tmp_path, lambda news: None)
    assert weights(model) == before and history[0]["train_loss"] == 1.0


def test_an_attack_is_part_of_the_step():
    data, found = rows(16), []
    for attack in ("none", "fgm", "awp"):
        torch.manual_seed(1)
        model = build_model(
            SMALL.model_copy(update={"spatial_dropout": 0.0, "head_dropout": 0.0}), token_shape(SIZE), 3
        )
        objective = Classification(TASK, model, data, data, Train(batch_size=16, attack=attack), CPU, "fp32")
        ((batch, wanted),) = objective.batches(np.random.default_rng(0))
        objective.step(batch, wanted)
        found.append(model.head.weight.grad.clone())
    plain, *attacked = found
    for gradient in attacked:
        ratio = gradient.norm() / plain.norm()
        assert 1.5 < ratio < 3, "the gradients of two passes are added up"


def test_weights_that_are_not_finite_are_told(tmp_path):
    model = build_model(SMALL, token_shape(SIZE), 3)
    torch.nn.init.constant_(model.head.weight, float("inf"))
    with pytest.raises(UserError, match=r"loss became (nan|inf) at step 0 \(epoch 1\)"):
        fit_from(model, Train(epochs=2, batch_size=16), tmp_path)


def test_an_epoch_holds_every_report_once_with_its_own_labels():
    data, settings = rows(3000), Train(batch_size=16)
    # A part of a larger file, in another order than there.
    chosen = np.random.default_rng(1).permutation(3000)[:2900]
    part = part_of(data, chosen)
    reader = EpochReader(part, settings, CPU)
    seen = []
    for batch, wanted in reader.batches(np.random.default_rng(0)):
        in_file = chosen[batch.rows]
        tokens = batch.inputs["tokens"]
        np.testing.assert_array_equal(tokens, data.inputs["tokens"][in_file][:, : tokens.shape[1]])
        np.testing.assert_array_equal(batch.lengths, data.lengths[in_file])
        np.testing.assert_array_equal(wanted.targets, data.labels[in_file])
        np.testing.assert_array_equal(batch.domain, data.domain[in_file])
        assert batch.domain.dtype == torch.int64
        seen.append(batch.rows)
    assert len(seen) == reader.n_batches == 182
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(2900))
    widths = [data.lengths[chosen[batch_rows]].max() for batch_rows in seen]
    assert widths != sorted(widths)  # short and long batches alternate
    again = [batch.rows for batch, _ in reader.batches(np.random.default_rng(0))]
    other = [batch.rows for batch, _ in reader.batches(np.random.default_rng(1))]
    assert all(np.array_equal(a, b) for a, b in zip(seen, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(seen, other, strict=True))


def test_patience_stops_early_and_keeps_the_best(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "schedule", lambda *arguments: 1.0)
    settings = Train(epochs=60, batch_size=16, patience=2, learning_rate=0.02)
    history, _ = train(tmp_path, settings, rows(64))
    losses = [epoch["valid_loss"] for epoch in history]
    assert len(history) < 60 and len(history) - 1 - int(np.argmin(losses)) == 2
    model = build_model(SMALL, token_shape(SIZE), 3)
    checkpoints.load_weights(tmp_path / "best.safetensors", model)
    valid = rows(48, seed=9)
    logits = torch.from_numpy(predict_logits(model, valid.inputs, valid.lengths, CPU))
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(valid.labels).float())
    assert loss.item() == pytest.approx(min(losses), abs=1e-6)


def test_consistency_is_between_two_noisy_copies_of_the_same_reports(tmp_path):
    data = rows(300)
    settings = Train(batch_size=16, consistency=1.0, noise={"replacement": 0.2, "insertion": 0.1, "deletion": 0.2})
    reader = EpochReader(data, settings, CPU)
    shares = []
    for batch, wanted in reader.batches(np.random.default_rng(0)):
        assert wanted.twin.inputs["tokens"].shape[0] == len(batch.rows)
        np.testing.assert_array_equal(wanted.targets, data.labels[batch.rows])
        copies = (copy.inputs["tokens"].numpy() for copy in (batch, wanted.twin))
        for row, tokens, other in zip(batch.rows, *copies, strict=True):
            words = set(data.inputs["tokens"][row][data.inputs["tokens"][row] > 0])
            shares.append([np.isin(copy[copy > 0], list(words)).mean() for copy in (tokens, other)])
        assert not np.array_equal(batch.inputs["tokens"], wanted.twin.inputs["tokens"])
    # Most words of either copy are the report's own, so the copies are of one report.
    assert np.mean(shares, axis=0) == pytest.approx(0.75, abs=0.08)


def test_training_sees_every_view_that_the_denoiser_has():
    """Whole pools of batches in one view, of the same noisy reports."""

    class Views:
        settings = Denoise(by="x", views=["hard", "soft"])

        def __call__(self, tokens, lengths, views):
            assert len(views) == 1
            return [tokens if views[0] == "hard" else np.repeat(tokens[:, :, None], 2, axis=2)]

    data = rows(16 * POOL * 12)
    reader = EpochReader(data, Train(batch_size=16), CPU, Views())
    dims = []
    for batch, wanted in reader.batches(np.random.default_rng(0)):
        dims.append(batch.inputs["tokens"].dim())
        words = batch.inputs["tokens"] if dims[-1] == 2 else batch.inputs["tokens"][:, :, 1]
        np.testing.assert_array_equal(words, data.inputs["tokens"][batch.rows, : words.shape[1]])
        np.testing.assert_array_equal(wanted.targets, data.labels[batch.rows])
    pools = np.array(dims).reshape(-1, POOL)
    assert (pools == pools[:, :1]).all() and set(pools[:, 0]) == {2, 3}


def test_disagreement_is_the_symmetric_divergence():
    left, right = torch.tensor([[0.3, -2.0]]), torch.tensor([[1.5, -2.0]])
    p, q = left.sigmoid().double(), right.sigmoid().double()
    divergence = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    other = q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()
    expected = (divergence + other).mean(dim=1) / 2
    torch.testing.assert_close(TASK.disagreement(left, right).double(), expected, atol=1e-6, rtol=1e-5)
    assert TASK.disagreement(left, left).abs().max() == 0


def test_weights_of_reports_count_in_the_loss():
    """A report of weight two is as good as two reports."""
    data, settings = rows(4), Train(batch_size=16)
    torch.manual_seed(0)
    model = build_model(SMALL.model_copy(update={"spatial_dropout": 0.0, "head_dropout": 0.0}), token_shape(SIZE), 3)

    def loss(chosen, weights):
        part = part_of(data, np.array(chosen), np.array(weights, np.float32))
        objective = Classification(TASK, model, part, data, settings, CPU, "fp32")
        ((batch, wanted),) = objective.batches(np.random.default_rng(0))
        return objective.loss(model, batch, wanted).item()

    assert loss([0, 1], [4 / 3, 2 / 3]) == pytest.approx(loss([0, 0, 1], [1, 1, 1]), rel=1e-5)
    assert loss([0, 1], [4 / 3, 2 / 3]) != pytest.approx(loss([0, 1], [1, 1]), rel=1e-6)


def test_lower_layers_learn_more_slowly_under_layer_decay():
    model = build_model(SMALL.model_copy(update={"layers": 2}), token_shape(SIZE), 3)
    groups = make_optimizer(model, Train(), layer_decay=0.5).param_groups
    share = {id(p): group["share"] for group in groups for p in group["params"]}
    assert share[id(model.head.weight)] == 1.0
    assert share[id(model.encoder.forwards[1].weight_hh_l0)] == share[id(model.encoder.backwards[1].bias_ih_l0)] == 0.5
    assert share[id(model.encoder.forwards[0].weight_hh_l0)] == 0.25
    assert share[id(model.input_layer.embedding.weight)] == 0.125
    assert {group["share"] for group in make_optimizer(model, Train()).param_groups} == {1.0}


def test_schedule_rises_and_falls():
    values = [schedule(step, 100, 0.1) for step in range(100)]
    assert values[9] == values[10] == 1.0
    assert np.all(np.diff(values[:10]) > 0) and np.all(np.diff(values[10:]) < 0)
    assert 0 < values[-1] < 0.01 and values[0] == pytest.approx(0.1)
    assert schedule(0, 100, 0.0) == 1.0


def test_positive_weight():
    labels = np.array([[1, 0], [0, 0], [0, 0], [0, 0]], dtype=np.uint8)
    assert positive_weight(labels, Train(pos_weight="balanced")).tolist() == [3.0, 1.0]
    assert positive_weight(labels, Train()).tolist() == [1.0, 1.0]
    labels = np.array([[1, 0], [0, np.nan], [0, np.nan], [0, 1]], dtype=np.float32)
    assert positive_weight(labels, Train(pos_weight="balanced")).tolist() == [3.0, 1.0], (
        "of the rows that have the label"
    )


def test_types_are_learned_in_reports_with_an_abnormal_region_alone():
    """A joined report counts where one of its two reports has an abnormal region."""
    rng = np.random.default_rng(0)
    data, labels = rows(96), np.zeros((96, 29), dtype=np.uint8)
    labels[:48, 3] = 1
    labels[:48, 17:] = rng.integers(0, 2, (48, 12))
    data = replace(data, labels=labels)
    found = {}
    for group_rows in ("all", "counted"):
        settings = Train(batch_size=16, join=0.5, group_rows=group_rows)
        model = build_model(SMALL, token_shape(SIZE), 29)
        objective = Classification(ROUND2, model, data, data, settings, CPU, "fp32")
        found[group_rows] = [(wanted, batch.rows) for batch, wanted in objective.batches(np.random.default_rng(0))]
        loss = objective.validate(model).loss
        assert np.isfinite(loss)
    for (plain, rows_before), (counted, rows_after) in zip(*found.values(), strict=True):
        np.testing.assert_array_equal(rows_before, rows_after)
        is_abnormal = plain.targets[:, :17].any(dim=1)
        assert counted.targets[~is_abnormal, 17:].isnan().all() and not plain.targets.isnan().any()
        torch.testing.assert_close(counted.targets[is_abnormal], plain.targets[is_abnormal])
        torch.testing.assert_close(counted.targets[:, :17], plain.targets[:, :17])
    joined = [wanted.targets[:, 3] == 1 for wanted, _ in found["counted"]]
    assert 48 < sum(int(one.sum()) for one in joined) < 96


@pytest.mark.parametrize("given", [1.0, 3.0])
def test_types_can_outweigh_regions(given):
    rng = np.random.default_rng(0)
    data = replace(rows(), labels=rng.integers(0, 2, (96, 29)).astype(np.uint8))
    model = build_model(SMALL, token_shape(SIZE), 29)
    objective = Classification(ROUND2, model, data, data, Train(types_weight=given, batch_size=96), CPU, "fp32")
    ((batch, wanted),) = objective.batches(np.random.default_rng(0))
    wanted.targets[0, 20] = torch.nan
    loss = objective.loss(lambda inputs, lengths: torch.zeros(96, 29), batch, wanted)
    # Each cell of a model that says 1/2 has the loss ln 2; the unknown one has none.
    assert loss.item() == pytest.approx(math.log(2) * (1 - given / (17 + 12 * given) / 96))
    loss = objective.loss(
        lambda inputs, lengths: torch.zeros(96, 29), batch, wanted._replace(weights=wanted.weights / 2)
    )
    assert loss.item() == pytest.approx(math.log(2) * (1 - given / (17 + 12 * given) / 96) / 2)
    assert objective.validate(model).loss == pytest.approx(
        Classification(ROUND2, model, data, data, Train(), CPU, "fp32").validate(model).loss
    )


def test_moving_average():
    slow, fast = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(slow.weight, 0.0)
    torch.nn.init.constant_(fast.weight, 1.0)
    update_average(slow, fast, 0.9, step=0)
    assert slow.weight.item() == pytest.approx(0.9)  # decay (1 + 0) / (10 + 0)
    update_average(slow, fast, 0.9, step=10_000)
    assert slow.weight.item() == pytest.approx(0.91)


def test_noise_is_drawn_afresh_and_leaves_validation_alone(tmp_path, monkeypatch):
    seen = []
    original = epoch_reader.corrupt
    monkeypatch.setattr(epoch_reader, "corrupt", lambda *a: seen.append(original(*a)) or seen[-1])
    train(tmp_path, Train(epochs=2, batch_size=16, noise={"replacement": 0.3}))
    # 96 reports are a single pool, so this is the noise of an epoch each.
    assert len(seen) == 2 and (seen[0][0] != seen[1][0]).mean() > 0.3
    assert seen[0][0].min() >= N_SPECIAL


def test_states_are_ordered_by_their_numbers(tmp_path):
    names = ["state_9999", "state_10000", "state_10000_000003", "state_0012"]
    for name in names:
        (tmp_path / f"{name}.json").write_text("{}")
    found = [path.stem for path in checkpoints._states(tmp_path)]
    assert found == ["state_10000_000003", "state_10000", "state_9999", "state_0012"]


def test_a_damaged_state_falls_back_to_the_one_before(tmp_path):
    settings = Train(epochs=4, batch_size=16)
    history, model = train(tmp_path / "whole", settings)
    for damage in ("truncate", "json", "missing"):
        folder = tmp_path / damage
        train(folder, settings, stop_after=3)
        assert sorted(path.name for path in folder.glob("state_*.json")) == ["state_0002.json", "state_0003.json"]
        newest = folder / "state_0003.safetensors"
        if damage == "truncate":
            newest.write_bytes(newest.read_bytes()[:-8])
        elif damage == "json":
            (folder / "state_0003.json").write_text('{"sha2')
        else:
            newest.unlink()
        again, resumed = train(folder, settings)
        assert again == history and weights(resumed) == weights(model)


def test_foreign_weights_are_refused(tmp_path):
    checkpoints.save_weights(tmp_path / "last.safetensors", build_model(SMALL, token_shape(SIZE), 3))
    other = build_model(SMALL.model_copy(update={"hidden_size": 7}), token_shape(SIZE), 3)
    with pytest.raises(UserError, match=r"last.safetensors is damaged: it cannot be read as this model's weights"):
        checkpoints.load_weights(tmp_path / "last.safetensors", other)
    with pytest.raises(UserError, match=r"none.safetensors is missing. Make it with: ./run.sh train"):
        checkpoints.load_weights(tmp_path / "none.safetensors", other)


def test_history_is_what_a_table_needs(tmp_path):
    history, _ = train(tmp_path, Train(epochs=2, batch_size=16))
    table = pd.DataFrame(history)
    assert list(table) == ["epoch", "learning_rate", "train_loss", "valid_loss"]
    assert table["epoch"].tolist() == [1, 2]


def test_run_settings_survive_the_trip_to_a_worker():
    run = Run(model=SMALL, train=Train(noise={"replacement": 0.1}))
    assert Run.model_validate(run.model_dump(mode="json")) == run


@pytest.mark.slow
def test_compiled_training_learns_the_same(tmp_path):
    """Code is generated in half a minute."""
    if not shutil.which("g++"):
        pytest.skip("torch.compile needs g++, which is not there")
    settings = Train(epochs=2, batch_size=16)
    history, model = train(tmp_path / "plain", settings)
    other, compiled = train(tmp_path / "compiled", settings.model_copy(update={"compile": True}))
    assert [epoch["valid_loss"] for epoch in other] == pytest.approx(
        [epoch["valid_loss"] for epoch in history], rel=0.05
    )
    assert model.state_dict().keys() == compiled.state_dict().keys()


def test_compiling_without_a_compiler_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(devices.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"train.compile=true needs a C\+\+ compiler"):
        train(tmp_path, Train(epochs=1, compile=True))


@pytest.fixture
def gpu():
    """The GPU, set up as in a worker: without that its recurrences are less precise than float32."""
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device here")
    devices.set_up(torch.device("cuda"))
    yield torch.device("cuda")
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.allow_tf32 = True
    torch.utils.deterministic.fill_uninitialized_memory = True
    for kernel in ("flash", "mem_efficient", "cudnn"):
        getattr(torch.backends.cuda, f"enable_{kernel}_sdp")(True)


ON_GPU = [SMALL, Transformer(embedding_size=8, embedding_init="random", heads=2, dropout=0.2, positions="relative")]


@pytest.mark.parametrize("model", ON_GPU, ids=["lstm", "transformer"])
def test_a_gpu_learns_and_predicts_the_same(tmp_path, gpu, model):
    device, settings = gpu, Train(epochs=12, batch_size=16, learning_rate=0.01)
    torch.manual_seed(0)
    fitted = build_model(model, token_shape(SIZE), 3).to(device)
    objective = Classification(TASK, fitted, rows(600), rows(200, seed=5), settings, device, "bf16")
    history = fit(objective, (1, 0), tmp_path, lambda news: None)
    assert history[-1]["valid_loss"] < 0.7 * history[0]["valid_loss"]
    fresh = rows(200, seed=6)
    there = predict_logits(fitted, fresh.inputs, fresh.lengths, device)
    here = predict_logits(fitted.cpu(), fresh.inputs, fresh.lengths, CPU)
    np.testing.assert_allclose(there, here, atol=1e-3)


@pytest.mark.parametrize("model", ON_GPU, ids=["lstm", "transformer"])
def test_graphs_train_to_the_bytes_of_single_kernels_and_do_so_after_a_stop(tmp_path, monkeypatch, gpu, model):
    """300 rows are 19 steps, the last of a size of its own. The stop is in the third epoch."""
    settings = Train(epochs=4, batch_size=16, attack="fgm", consistency=1.0, noise={"replacement": 0.1}, ema_decay=0.9)

    def trained(folder, **changes: bool) -> bytes:
        torch.manual_seed(0)
        fitted = build_model(model, token_shape(SIZE), 3).to(gpu)
        given = TASK, fitted, rows(300), rows(100, seed=5), settings.model_copy(update=changes), gpu, "fp32"
        fit(Classification(*given), (1, 0), folder, lambda news: None)
        return weights(fitted.cpu())

    def see_and_stop(watch, values, batch_rows):
        see(watch, values, batch_rows)
        steps.append(1)
        interrupts._is_asked = len(steps) == 45

    see, steps = loop.Watch.see, []
    with monkeypatch.context() as patched:
        patched.setattr(loop.Watch, "see", see_and_stop)
        with pytest.raises(interrupts.Stopped):
            trained(tmp_path / "stopped")
    plain = trained(tmp_path / "plain", cuda_graphs=False)
    assert {name: trained(tmp_path / name) == plain for name in ("graphs", "again", "stopped")} == {
        "graphs": True,
        "again": True,
        "stopped": True,
    }
