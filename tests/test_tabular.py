"""Tabular models compute what scikit-learn's do, and are saved as any model is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC, SVR

from src.core.run_settings import Boosting, Features, Kernel, Linear, Train
from src.data.tasks import ICU, frames
from src.models.classifier import build_model
from src.models.summaries import summarise, summary_table
from src.models.tabular import decisions, fit_tabular, rounded_down
from src.training import checkpoints
from src.training.classification import fit_to_rows, with_class_weights
from src.training.rows import Rows
from tests.series import IMAGES, STAYS, STEPS, images, stays, tensors

N = 300
TREES = Boosting(learning_rate=0.05, members=1, max_iter=20, max_features=0.5, min_samples_leaf=5)
SETTINGS = [
    pytest.param(TREES, id="boosting"),
    pytest.param(TREES.model_copy(update={"members": 3}), id="boosting-3"),
    pytest.param(Linear(inverse_penalty=0.1), id="linear"),
    pytest.param(Kernel(), id="kernel"),
]
KINDS = ("binary", "multilabel", "regression", "multiclass")
LENGTHS = np.full(N, STEPS)


def targets_of(kind: str, inputs: dict[str, np.ndarray], seed: int = 0) -> np.ndarray:
    """Targets (N, L) that depend on the mean heart rate and lactate."""
    rng = np.random.default_rng(seed)
    seen = ~np.isnan(inputs["values"][:, :, :3])
    signal = np.where(seen, inputs["values"][:, :, :3] - [80, 37, 1], 0).sum(axis=1) / seen.sum(axis=1).clip(1)
    noisy = signal / [4, 0.4, 1] + rng.normal(0, 0.3, signal.shape)
    if kind == "multiclass":
        return np.eye(3)[noisy.argmax(axis=1)]
    if kind == "regression":
        return np.log1p(np.exp(noisy[:, :1]))
    return (noisy[:, : 1 if kind == "binary" else 2] > 0).astype(np.float64)


def fitted(settings, kind: str, seed: int = 1, inputs: dict | None = None, targets: np.ndarray | None = None):
    inputs = inputs or stays(N, seed=1)
    targets = targets_of(kind, inputs) if targets is None else targets
    model = build_model(settings, STAYS, targets.shape[1]).eval()
    fit_tabular(model, inputs, np.full(len(targets), STEPS), targets, np.ones(len(targets)), seed, kind)
    return model


def outputs_of(model, inputs: dict[str, np.ndarray]) -> np.ndarray:
    with torch.inference_mode():
        return model(tensors(inputs), torch.full((len(inputs["values"]),), STEPS)).numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_exported_trees_are_those_of_scikit_learn(kind):
    inputs, unseen = stays(N, seed=1), stays(500, seed=2, rate=0.2)
    targets, found = targets_of(kind, inputs), outputs_of(fitted(TREES, kind), unseen)
    table, new = summary_table(inputs, LENGTHS, STAYS), summarise(tensors(unseen), STAYS).numpy()
    assert np.isnan(new).mean() > 0.1
    options = {
        "learning_rate": 0.05, "max_iter": 20, "max_leaf_nodes": 8, "min_samples_leaf": 5, "l2_regularization": 5,
        "max_features": 0.5, "early_stopping": False, "random_state": 1,
    }  # fmt: skip
    if kind == "regression":
        expected = HistGradientBoostingRegressor(**options).fit(table, targets[:, 0]).predict(new)[:, None]
    elif kind == "multiclass":
        expected = HistGradientBoostingClassifier(**options).fit(table, targets.argmax(axis=1)).decision_function(new)
    else:
        estimators = [HistGradientBoostingClassifier(**options).fit(table, column) for column in targets.T]
        expected = np.stack([one.decision_function(new) for one in estimators], axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.std(axis=0).min() > 0.1


def test_a_feature_on_a_threshold_goes_where_scikit_learn_sends_it():
    """Neighbouring float32 numbers with a threshold between them, which float32 cannot hold."""
    low = np.float32(1.0)
    high = np.nextafter(low, np.float32(2))
    inputs = {"values": np.full((200, 6, 4), 0.5, np.float32)}
    inputs["values"][:, 0, 0] = np.where(np.arange(200) % 2, low, high)
    targets = (np.arange(200) % 2)[:, None].astype(float)
    model = build_model(TREES, IMAGES, 1).eval()
    fit_tabular(model, inputs, np.full(200, 6), targets, np.ones(200), 0, "binary")
    outputs = model(tensors(inputs), torch.full((200,), 6))
    assert outputs[1::2].min() > outputs[::2].max()
    x = np.random.default_rng(0).normal(size=1000)
    assert (rounded_down(x) <= x).all() and (np.nextafter(rounded_down(x), np.float32(9)) > x).all()
    assert rounded_down(np.array([np.inf]))[0] == np.inf


def test_the_linear_model_is_that_of_scikit_learn():
    inputs = stays(N, seed=1)
    model, targets = fitted(Linear(inverse_penalty=0.1), "binary"), targets_of("binary", inputs)
    table = summarise(tensors(inputs), STAYS)
    scaled = model.complete.scaler(table).numpy()
    complete = np.c_[np.nan_to_num(scaled).clip(-4, 4), np.isnan(scaled)]
    np.testing.assert_allclose(model.complete(table), complete)
    plain = LogisticRegression(C=0.1, max_iter=1000).fit(complete, targets[:, 0])
    np.testing.assert_allclose(outputs_of(model, inputs)[:, 0], plain.decision_function(complete), atol=1e-3)


def test_the_kernel_model_is_that_of_scikit_learn_scaled_to_log_odds():
    inputs, unseen = stays(N, seed=1), stays(500, seed=2)
    targets = targets_of("binary", inputs)
    targets = np.where(np.random.default_rng(0).random(targets.shape) < 0.2, 1 - targets, targets)  # hard to tell
    model = fitted(Kernel(), "binary", targets=targets)
    complete, new = ((model.complete(summarise(tensors(x), STAYS)) * model.varies).numpy() for x in (inputs, unseen))
    plain = SVC(C=1.0, gamma=0.6 / int(model.varies.sum())).fit(complete, targets[:, 0])
    outputs, decided = outputs_of(model, unseen)[:, 0], plain.decision_function(new)
    slope, shift = np.polyfit(decided, outputs, 1)
    np.testing.assert_allclose(outputs, slope * decided + shift, atol=1e-4)
    assert len(model.vectors) == len(plain.support_) and slope > 0.5
    truth = targets_of("binary", unseen)[:, 0]
    truth = np.where(np.random.default_rng(1).random(len(truth)) < 0.2, 1 - truth, truth)
    found = LogisticRegression(C=1e6).fit(outputs[:, None], truth)
    assert 0.6 < found.coef_[0, 0] < 1.6 and abs(found.intercept_[0]) < 0.3


def test_the_kernel_regression_is_that_of_scikit_learn():
    inputs, unseen = stays(N, seed=1), stays(500, seed=2)
    model = fitted(Kernel(inverse_penalty=0.5), "regression")
    complete, new = ((model.complete(summarise(tensors(x), STAYS)) * model.varies).numpy() for x in (inputs, unseen))
    plain = SVR(C=0.5, gamma=0.6 / int(model.varies.sum())).fit(complete, targets_of("regression", inputs)[:, 0])
    np.testing.assert_allclose(outputs_of(model, unseen)[:, 0], plain.predict(new), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", SETTINGS)
def test_tabular_models_learn(settings, kind):
    unseen = stays(500, seed=2)
    outputs, targets = outputs_of(fitted(settings, kind), unseen), targets_of(kind, unseen, seed=5)
    assert outputs.shape == targets.shape and np.isfinite(outputs).all()
    if kind == "multiclass":
        assert (outputs.argmax(axis=1) == targets.argmax(axis=1)).mean() > 0.6
    else:
        assert min(np.corrcoef(outputs.T, targets.T)[i, i + targets.shape[1]] for i in range(targets.shape[1])) > 0.4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", SETTINGS)
def test_a_model_is_the_same_after_saving_and_loading(settings, kind, tmp_path):
    model, unseen = fitted(settings, kind), stays(40, seed=2)
    fresh = build_model(settings, STAYS, model.n_labels)
    for name, one in (("one", model), ("again", fitted(settings, kind))):
        checkpoints.save_weights(tmp_path / name, one)
    checkpoints.load_weights(tmp_path / "one", fresh)
    checkpoints.save_weights(tmp_path / "two", fresh)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes() == (tmp_path / "again").read_bytes()
    np.testing.assert_array_equal(outputs_of(fresh, unseen), outputs_of(model, unseen))
    assert {x.dtype for x in model.state_dict().values()} <= {torch.float32, torch.int32}


@pytest.mark.parametrize("settings", SETTINGS)
def test_an_unfitted_model_is_saved_and_loaded(settings, tmp_path):
    checkpoints.save_weights(tmp_path / "one", build_model(settings, STAYS, 2))
    fresh = build_model(settings, STAYS, 2)
    checkpoints.load_weights(tmp_path / "one", fresh)
    assert not outputs_of(fresh, stays()).any()


@pytest.mark.parametrize("settings", SETTINGS)
def test_prediction_is_independent_of_batch_mates_and_padding(settings):
    model, inputs = fitted(settings, "binary"), tensors(stays(lengths=torch.tensor([1, 7, 3, 12, 12, 5])))
    lengths = torch.tensor([1, 7, 3, 12, 12, 5])
    wide = {**inputs, "values": torch.nn.functional.pad(inputs["values"], (0, 0, 0, 9))}
    together = model(inputs, lengths)
    alone = torch.cat([model({k: x[i : i + 1] for k, x in inputs.items()}, lengths[i : i + 1]) for i in range(6)])
    for other in (model(wide, lengths), alone):
        torch.testing.assert_close(other, together)


@pytest.mark.parametrize("settings", SETTINGS)
def test_probabilities_count_as_rows_of_both_labels(settings):
    """A row of one half is a row of each label with half the weight."""
    inputs = stays(N, seed=1)
    soft = np.full((N, 1), 0.5)
    assert np.abs(outputs_of(fitted(settings, "binary", targets=soft), inputs)).max() < 1e-3
    found = decisions(np.array([[0.25], [1.0], [0.0]]), np.array([1.0, 2.0, 3.0]), "binary")
    (outputs, rows, classes, weights) = found[0]
    assert (outputs, rows.tolist(), classes.tolist(), weights.tolist()) == (
        [0], [0, 0, 1, 2], [0, 1, 1, 0], [0.75, 0.25, 2, 3],
    )  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_class_without_training_rows_is_unlikely(settings):
    inputs = stays(N, seed=1)
    rare = outputs_of(fitted(settings, "multilabel", targets=np.c_[np.zeros(N), np.ones(N)]), inputs)
    low, high = np.median(rare, axis=0)
    assert low < -2 and high > 2 and np.isfinite(rare).all()
    targets = targets_of("multiclass", inputs)
    found = outputs_of(fitted(settings, "multiclass", targets=np.c_[targets, np.zeros(N)]), inputs)
    assert found.shape == (N, 4) and (found.argmax(axis=1) != 3).all() and np.isfinite(found).all()


@pytest.mark.parametrize("settings", SETTINGS)
def test_two_exclusive_classes_are_one_decision(settings):
    inputs = stays(N, seed=1)
    one = targets_of("binary", inputs)
    both = outputs_of(fitted(settings, "multiclass", targets=np.c_[1 - one, one]), inputs)
    np.testing.assert_allclose(both[:, 1:] - both[:, :1], outputs_of(fitted(settings, "binary"), inputs), atol=1e-4)


@pytest.mark.parametrize("settings", SETTINGS)
def test_weights_count(settings):
    inputs = images(N, seed=1)
    targets = (inputs["values"][:, 2, 1] > 0.5)[:, None].astype(float)
    means = []
    for weight in (1.0, 5.0):
        model = build_model(settings.model_copy(update={"members": 1}), IMAGES, 1)
        fit_tabular(model, inputs, np.full(N, 6), targets, np.where(targets[:, 0] > 0, weight, 1.0), 1, "binary")
        means.append(model(tensors(inputs), torch.full((N,), 6)).mean().item())
    assert means[1] > means[0] + 0.3


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_parameter_that_was_never_observed_in_training_counts_for_nothing(settings):
    inputs, targets = stays(N, seed=1), targets_of("binary", stays(N, seed=1))
    inputs["values"][:, :, 4] = np.nan
    model, unseen = fitted(settings, "binary", inputs=inputs, targets=targets), stays(40, seed=2)
    hidden = {**unseen, "values": unseen["values"].copy()}
    hidden["values"][:, :, 4] = np.nan
    np.testing.assert_allclose(outputs_of(model, unseen), outputs_of(model, hidden), atol=1e-6)


def test_members_have_other_seeds():
    inputs = stays(N, seed=1)
    one, three = (fitted(s, "binary") for s in (TREES, TREES.model_copy(update={"members": 3})))
    assert len(three.root) == 3 * len(one.root)
    assert not np.array_equal(outputs_of(one, inputs), outputs_of(three, inputs))
    assert not np.array_equal(outputs_of(one, inputs), outputs_of(fitted(TREES, "binary", seed=2), inputs))


def test_images_are_classified():
    inputs = images(N, seed=1)
    targets = (inputs["values"][:, 2, 1] > 0.5)[:, None].astype(float)
    model = build_model(TREES, IMAGES, 1).eval()
    fit_tabular(model, inputs, np.full(N, 6), targets, np.ones(N), 0, "binary")
    found = model(tensors(inputs), torch.full((N,), 6))[:, 0] > 0
    assert (found.numpy() == targets[:, 0]).mean() > 0.95


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_class_weights_are_those_of_the_networks_loss(kind):
    """Also for probabilities of teachers, which are of both classes."""
    rng, task = np.random.default_rng(0), ICU if kind == "binary" else frames(3)
    shares = rng.dirichlet([1, 1, 1], size=50) if kind == "multiclass" else rng.random((50, 1))
    positive, logits = np.arange(2.0, 2 + shares.shape[1]), rng.normal(size=shares.shape)
    found, weights = with_class_weights(shares, positive, kind)
    expected = task.losses(torch.from_numpy(logits), torch.from_numpy(shares), torch.from_numpy(positive))
    same = task.losses(torch.from_numpy(logits), torch.from_numpy(found)) * torch.from_numpy(weights)
    torch.testing.assert_close(same, expected)


def test_balanced_classes_move_the_model_to_the_rare_one():
    inputs = images(N, seed=1)
    labels = np.eye(3, dtype=np.uint8)[np.where(np.arange(N) % 30 == 0, 2, np.arange(N) % 2)]
    rows = Rows(
        inputs,
        np.full(N, 6),
        labels,
        np.arange(N).astype("S"),
        np.ones(N, np.float32),
        np.zeros(N, int),
        1,
        np.arange(N),
    )
    rates = []
    for how in ("none", "balanced"):
        model = build_model(Linear(inverse_penalty=1e-6), IMAGES, 3)
        fit_to_rows(frames(3), model, rows, Train(pos_weight=how), seed=0)
        rates.append(frames(3).decode(model(tensors(inputs), torch.full((N,), 6)).numpy()).mean(axis=0))
    assert rates[0][2] < 0.05
    weights = 1 / labels.mean(axis=0) - 1
    np.testing.assert_allclose(
        rates[1], weights * labels.mean(axis=0) / (weights * labels.mean(axis=0)).sum(), atol=0.02
    )


def test_any_seed_of_32_bits_has_seeds_for_all_members():
    assert np.isfinite(outputs_of(fitted(SETTINGS[1].values[0], "binary", seed=2**32 - 1), stays(5))).all()


@pytest.mark.parametrize("settings", [TREES, Linear()])
def test_hidden_descriptors_are_not_read(settings):
    """features.hidden: a model that reads the descriptor that names its domain could learn the domain."""
    inputs = stays(N, seed=1)
    place = STAYS.statics.index("Age")
    labels = np.nan_to_num(inputs["statics"][:, 0, place : place + 1]) > np.nanmedian(inputs["statics"][:, 0, place])
    changed = {**inputs, "statics": inputs["statics"].copy()}
    changed["statics"][:, :, place] = -changed["statics"][:, :, place]
    is_read = []
    for hidden in ([], ["Age"]):
        model = build_model(settings, STAYS, 1, features=Features(hidden=hidden)).eval()
        fit_tabular(model, inputs, LENGTHS, labels.astype(float), np.ones(N), 1, "binary")
        is_read.append(not np.array_equal(outputs_of(model, inputs), outputs_of(model, changed)))
    assert is_read == [True, False]
