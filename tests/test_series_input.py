"""Properties of the input layer of series, over every way of imputing and every column that settings switch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.impute import KNNImputer

from src.core.errors import UserError
from src.core.run_settings import DPCNN, GRUD, RCNN, Features, Recurrent, Run, TextCNN, Transformer
from src.core.settings_loader import load_config
from src.models.classifier import build_model
from src.models.grud import GRUDEncoder, intervals
from src.models.scaling import Scaler
from src.models.series_input import DAY, SeriesInput, latest_of, nearest_mean, series_columns, trailing_sum
from src.models.summaries import summarise
from src.training import checkpoints
from tests.conftest import error_of
from tests.series import IMAGES, LENGTHS, STAYS, STEPS, images, stays, tensors

SMALL = {"embedding_size": 16, "spatial_dropout": 0.0}
COLUMNS = [
    *(Features(imputer=kind) for kind in ("forward", "mean", "linear", "knn", "decay")),
    Features(observed=False, elapsed=False),
    Features(smooth=3, dose=True, recency=True, summary=True),
    Features(imputer="decay", smooth=1, dose=True, recency=True, summary=True),
]
PLAIN = Recurrent(**SMALL, hidden_size=6, pooling="attention")
DECAYING = Features(imputer="decay")
FAMILY = [
    *(pytest.param(PLAIN, features, id=f"recurrent-{i}") for i, features in enumerate(COLUMNS)),
    *(
        pytest.param(settings, COLUMNS[-2], id=settings.encoder)
        for settings in (
            Transformer(**SMALL, layers=1, heads=2, feedforward_size=24),
            TextCNN(**SMALL, widths=[2, 3], filters=6),
            DPCNN(**SMALL, size=6, blocks=2),
            RCNN(**SMALL, hidden_size=6, size=10),
            Recurrent(**SMALL, hidden_size=6, pooling="label"),
        )
    ),
    pytest.param(GRUD(**SMALL, hidden_size=6, pooling="last"), DECAYING, id="grud"),
    pytest.param(GRUD(**SMALL, hidden_size=6), DECAYING.model_copy(update={"summary": True}), id="grud-wide"),
]


def layer(features: Features, fitted_to: dict | None = None) -> SeriesInput:
    torch.manual_seed(0)
    made = SeriesInput(PLAIN, STAYS, features)
    made.fit(**(fitted_to or stays(80, seed=1)))
    return made.eval()


def model_of(settings, features: Features) -> torch.nn.Module:
    torch.manual_seed(1)
    model = build_model(settings, STAYS, 3, features=features)
    model.input_layer.fit(**stays(80, seed=1))
    return model


def columns_of(features: Features, inputs: dict, fitted_to: dict | None = None) -> dict[str, np.ndarray]:
    """Columns (B, T) by their names."""
    made = layer(features, fitted_to)
    with torch.no_grad():
        return dict(zip(made.columns, made.features(tensors(inputs)).unbind(2), strict=True))


@pytest.mark.parametrize(("settings", "features"), FAMILY)
def test_prediction_is_independent_of_padding_batch_mates_and_order(settings, features):
    model = model_of(settings, features).eval()
    inputs = tensors(stays(lengths=LENGTHS))
    wide = {**inputs, "values": torch.nn.functional.pad(inputs["values"], (0, 0, 0, 9), value=torch.nan)}
    with torch.inference_mode():
        together = model(inputs, LENGTHS)
        wider = model(wide, LENGTHS)
        backwards = model({name: x.flip(0) for name, x in inputs.items()}, LENGTHS.flip(0)).flip(0)
        alone = torch.cat(
            [
                model({"values": inputs["values"][i : i + 1, :n], "statics": inputs["statics"][i : i + 1]}, n[None])
                for i, n in enumerate(LENGTHS)
            ]
        )
    for other in (wider, backwards, alone):
        torch.testing.assert_close(other, together, atol=1e-5, rtol=1e-4)
    assert together.isfinite().all() and together.std(dim=0).min() > 1e-4


@pytest.mark.parametrize(("settings", "features"), FAMILY)
def test_gradients_reach_every_parameter(settings, features):
    model = model_of(settings, features).train()
    model(tensors(stays()), torch.full((6,), STEPS)).square().sum().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []


@pytest.mark.parametrize(("settings", "features"), FAMILY)
def test_a_model_is_the_same_after_saving_and_loading(settings, features, tmp_path):
    model = model_of(settings, features).eval()
    checkpoints.save_weights(tmp_path / "one.safetensors", model)
    other = build_model(settings, STAYS, 3, features=features).eval()
    checkpoints.load_weights(tmp_path / "one.safetensors", other)
    checkpoints.save_weights(tmp_path / "two.safetensors", other)
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    inputs = tensors(stays())
    with torch.inference_mode():
        assert torch.equal(model(inputs, LENGTHS), other(inputs, LENGTHS))


@pytest.mark.parametrize("features", COLUMNS)
def test_columns_are_named_and_finite_whatever_is_missing(features):
    made = layer(features)
    nothing = {"values": np.full((2, STEPS, 5), np.nan, np.float32), "statics": np.full((2, 1, 2), np.nan, np.float32)}
    extreme = {name: np.where(np.isnan(x), np.nan, 1e30 * np.sign(x)).astype(np.float32) for name, x in stays().items()}
    for inputs in (stays(), stays(lengths=LENGTHS), nothing, extreme):
        found = made.features(tensors(inputs))
        assert found.shape == (*inputs["values"].shape[:2], len(made.columns)) and found.isfinite().all()
        assert made.context(tensors(inputs)).isfinite().all()
    assert made.columns == series_columns(STAYS, features) and len(set(made.columns)) == len(made.columns)


@pytest.mark.parametrize("features", COLUMNS)
def test_an_hour_knows_nothing_of_later_ones(features):
    """A linear interpolation does, and says so."""
    made, inputs = layer(features), tensors(stays())
    changed = {**inputs, "values": inputs["values"].clone()}
    changed["values"][:, 7:] = torch.from_numpy(stays(seed=9)["values"][:, 7:])
    with torch.no_grad():
        before, after = made.features(inputs), made.features(changed)
    assert not torch.equal(before[:, 7:], after[:, 7:])
    assert torch.equal(before[:, :7], after[:, :7]) == (features.imputer != "linear")


@pytest.mark.parametrize("features", COLUMNS)
def test_only_the_rows_that_are_given_are_fitted_to(features):
    """Rows beyond them may hold anything."""
    whole = stays(80, seed=1)
    changed = {name: np.r_[x, 1000 * x] for name, x in whole.items()}
    rows = np.arange(80)
    one, other = layer(features, whole), layer(features, {name: x[rows] for name, x in changed.items()})
    assert all(
        torch.equal(x.nan_to_num(7), y.nan_to_num(7)) for x, y in zip(one.buffers(), other.buffers(), strict=True)
    )
    third = layer(features, {name: x[1:] for name, x in changed.items()})
    assert not torch.equal(one.scaler.mean, third.scaler.mean)


def test_a_parameter_that_was_never_observed_in_training_is_always_the_mean():
    empty = stays(80, seed=1)
    empty["values"][:, :, 0] = np.nan
    assert not columns_of(Features(), stays(), empty)["HR"].any()


def test_carrying_forward_starts_at_the_mean_of_training():
    fitted_to = stays(300, seed=1)
    hours = stays(1, rate=0)
    hours["values"][0, [3, 8], 1] = [36.5, 38.0]
    found = columns_of(Features(), hours, fitted_to)
    scaler = layer(Features(), fitted_to).scaler
    low, high = ((torch.tensor(x) - scaler.mean[1]) / scaler.scale[1] for x in (36.5, 38.0))
    assert torch.isnan(scaler.offset[1]), "a symmetric parameter has no logarithm"
    expected = torch.cat([torch.zeros(3), low.expand(5), high.expand(4)])
    torch.testing.assert_close(found["Temp"][0], expected)
    assert found["Temp observed"][0].nonzero()[:, 0].tolist() == [3, 8]
    hours_since = (found["Temp elapsed"][0] * np.log1p(STEPS)).expm1()
    torch.testing.assert_close(hours_since, torch.tensor([12.0, 12, 12, 0, 1, 2, 3, 4, 0, 1, 2, 3]))


def test_means_are_those_of_the_training_rows():
    fitted_to = stays(300, seed=1)
    found = columns_of(Features(imputer="mean"), fitted_to, fitted_to)
    for i, name in enumerate(STAYS.parameters[:3]):
        observed = torch.from_numpy(~np.isnan(fitted_to["values"][:, :, i]))
        inside = found[name][observed]
        assert abs(inside.mean()) < 1e-4 and abs(inside.std() - 1) < 1e-2, name
        assert not found[name][~observed].any()


def test_interpolation_is_that_of_numpy():
    inputs = stays(40, seed=2)
    found, plain = columns_of(Features(imputer="linear"), inputs), columns_of(Features(imputer="mean"), inputs)
    for i, name in enumerate(STAYS.parameters):
        for stay in range(40):
            at = np.flatnonzero(~np.isnan(inputs["values"][stay, :, i]))
            expected = np.interp(np.arange(STEPS), at, plain[name][stay, at]) if len(at) else np.zeros(STEPS)
            np.testing.assert_allclose(found[name][stay], expected, atol=1e-5)


def test_nearest_neighbours_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    donors, rows = rng.normal(size=(60, 5)), rng.normal(size=(50, 5))
    donors[rng.random(donors.shape) < 0.3] = rows[rng.random(rows.shape) < 0.4] = np.nan
    rows = rows[~np.isnan(rows).all(axis=1)]
    expected = KNNImputer(n_neighbors=4).fit(donors).transform(rows)
    found = nearest_mean(torch.from_numpy(rows)[None], torch.from_numpy(donors), neighbours=4)[0]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-10)


def test_neighbours_come_from_training_hours():
    made = layer(Features(imputer="knn"))
    assert 0 < len(made.donors) <= 80 * STEPS and made.donors.shape[1] == 5
    standardised = made.scaler(torch.from_numpy(stays(80, seed=1)["values"]).flatten(0, 1)).nan_to_num(7)
    for donor in made.donors[:20].nan_to_num(7):
        assert (standardised == donor).all(dim=1).any()


def test_columns_by_the_kind_of_variable():
    inputs, fitted_to = stays(30, seed=4), stays(80, seed=1)
    found = columns_of(Features(smooth=3, dose=True, recency=True), inputs, fitted_to)
    plain = columns_of(Features(imputer="mean"), inputs, fitted_to)
    unit = np.nanmean(np.where(fitted_to["values"] > 0, fitted_to["values"], np.nan)[:, :, 3])
    for stay in range(30):
        for t in range(STEPS):
            window = slice(max(0, t - 2), t + 1)
            seen = ~np.isnan(inputs["values"][stay, window, 0])
            mean = plain["HR"][stay, window][seen].mean() if seen.any() else found["HR"][stay, t]
            assert found["HR mean of 3"][stay, t] == pytest.approx(float(mean), abs=1e-5)
        doses = np.nan_to_num(inputs["values"][stay, :, 3])
        np.testing.assert_array_equal(found["Dopamine given"][stay], doses > 0)
        np.testing.assert_allclose(
            found["Dopamine cumulative"][stay].expm1(), doses.cumsum() / unit, rtol=1e-4, atol=1e-5
        )
        since = found["Lactate elapsed"][stay].mul(np.log1p(STEPS)).expm1()
        np.testing.assert_allclose(
            found["Lactate recency"][stay], found["Lactate"][stay] * (-since / 12).exp(), atol=1e-5
        )
    assert {name for name in found if "mean of" in name} == {"HR mean of 3", "Temp mean of 3"}
    assert {name for name in found if name.endswith("cumulative")} == {"Dopamine cumulative", "MechVent cumulative"}


def test_statics_stand_in_every_hour_with_a_flag_where_unknown():
    inputs = stays(30, seed=4)
    found = columns_of(Features(), inputs)
    unknown = torch.from_numpy(np.isnan(inputs["statics"][:, 0, 1]))
    assert unknown.any() and torch.equal(found["Height unknown"], unknown[:, None].float().expand(-1, STEPS))
    assert not found["Height"][unknown].any() and (found["Height"][~unknown] == found["Height"][~unknown][:, :1]).all()


def test_images_without_masks_are_their_pixels():
    torch.manual_seed(0)
    made = SeriesInput(PLAIN, IMAGES, Features(observed=False, elapsed=False))
    made.fit(images(200, seed=1)["values"])
    assert made.columns == list(IMAGES.parameters)
    assert made(tensors(images())).shape == (6, 6, 16)


def test_observations_are_dropped_in_training_alone():
    made, inputs = layer(Features(drop=0.8)), tensors(stays(200, rate=1))
    seen = [i for i, name in enumerate(made.columns) if name.endswith("observed")]
    torch.manual_seed(0)
    rates = 1 - made.train().features(inputs)[:, :, seen].mean(dim=(1, 2))
    assert rates.min() < 0.1 and 0.7 < rates.max() < 0.95 and abs(rates.mean() - 0.4) < 0.06
    assert made.eval().features(inputs)[:, :, seen].mean() == 1


def test_summary_features_stand_beside_what_is_pooled():
    inputs = tensors(stays())
    model = model_of(PLAIN, COLUMNS[-2]).eval()
    assert model.head.in_features == model.pooling.size + 16
    with torch.no_grad():
        before = model(inputs, LENGTHS)
        model.head.weight[:, model.pooling.size :] = 0
        assert not torch.equal(model(inputs, LENGTHS), before)
    scaled = model.input_layer.complete.scaler(summarise(tensors(stays(80, seed=1)), STAYS))
    assert scaled.nanmean(dim=0).abs().max() <= 1 + 1e-3


@pytest.mark.parametrize("features", COLUMNS)
def test_what_is_computed_once_is_what_each_pass_computes(features):
    model, inputs = model_of(PLAIN, features).eval(), tensors(stays())
    found = model.input_layer.computed(inputs)
    assert ("columns" in found) == (features.imputer != "decay") and ("summary" in found) == features.summary
    with torch.no_grad():
        assert torch.equal(model(found, LENGTHS), model(inputs, LENGTHS))
    assert not {"columns", "summary"} & set(inputs)
    assert "columns" not in layer(Features(drop=0.5)).computed(inputs)


def test_a_scaler_clips_and_takes_logarithms_of_what_is_skewed():
    rng = np.random.default_rng(0)
    table = np.c_[rng.normal(size=5000), rng.lognormal(0, 2, 5000), rng.lognormal(0, 2, 5000), np.full(5000, 7.0)]
    table[:500, 2] = 0
    table[2500:, 0] = np.nan
    scaler = Scaler(5)
    scaler.fit(np.c_[table, np.full(5000, np.nan)].astype(np.float32))
    assert scaler.offset.isnan().tolist() == [True, False, False, True, True] and scaler.offset[2] > 0
    x = torch.tensor([[torch.nan] * 5, [1e9] * 5, [-1e9] * 5, [0.0, 1.0, 0.0, 7.0, 3.0]])
    found = scaler(x)
    assert found[0].isnan().all() and found[1:].isfinite().all() and found[1:, :4].abs().max() < 4
    assert found[3, 1] == pytest.approx(0, abs=0.1) and found[3, 3] == 1 and found[3, 4] == 0


def test_intervals_count_from_the_observation_before():
    observed = torch.tensor([0, 0, 1, 0, 0, 1, 1, 0]).bool()[None, :, None]
    assert latest_of(observed)[1][0, :, 0].tolist() == [-1, -1, 2, 2, 2, 5, 6, 6]
    assert intervals(observed)[0, :, 0].tolist() == [0, 1, 2, 1, 2, 3, 1, 1]
    assert trailing_sum(torch.arange(1.0, 6).view(1, 5, 1), 3)[0, :, 0].tolist() == [1, 3, 6, 9, 12]


def test_gru_d_is_that_of_the_paper():
    """Equations 4 to 10 of Che et al. (2018), step by step."""
    model = model_of(GRUD(**SMALL, hidden_size=6, pooling="last"), Features(imputer="decay", elapsed=False)).eval()
    with torch.no_grad():
        for parameter in (model.input_layer.decay, model.input_layer.decay_bias):
            parameter.uniform_(-0.5, 2)
    encoder, inputs = model.encoder, stays(3, seed=5)
    scaled = model.input_layer.scaler(torch.from_numpy(inputs["values"])).numpy().astype(np.float64)
    weights = {name: p.detach().numpy().astype(np.float64) for name, p in model.named_parameters()}
    statics = model.input_layer.features(tensors(inputs))[:, 0, 10:].detach().numpy()

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    for stay in range(3):
        last, since, state = np.zeros(5), np.zeros(5), np.zeros(6)
        was_observed = np.zeros(5, bool)
        states = []
        for t in range(STEPS):
            since = np.zeros(5) if t == 0 else np.where(was_observed, 1.0, since + 1)
            observed = ~np.isnan(scaled[stay, t])
            decay_x = np.exp(
                -np.maximum(0, weights["input_layer.decay"] * since / DAY + weights["input_layer.decay_bias"])
            )
            x = np.where(observed, np.nan_to_num(scaled[stay, t]), decay_x * last)  # the mean is 0
            decay_h = np.exp(
                -np.maximum(0, weights["encoder.decay.weight"] @ (since / DAY) + weights["encoder.decay.bias"])
            )
            state = decay_h * state
            given = np.r_[x, observed, statics[stay]]
            read = weights["encoder.inputs.weight"] @ given + weights["encoder.inputs.bias"]
            z, r = sigmoid(read[:12] + weights["encoder.gates.weight"] @ state).reshape(2, 6)
            proposed = np.tanh(read[12:] + weights["encoder.candidate.weight"] @ (r * state))
            state = (1 - z) * state + z * proposed
            states.append(state)
            last, was_observed = np.where(observed, np.nan_to_num(scaled[stay, t]), last), observed
        one = {name: torch.from_numpy(x[stay : stay + 1]) for name, x in inputs.items()}
        with torch.no_grad():
            found = encoder(model.input_layer(one), torch.tensor([STEPS]))
        np.testing.assert_allclose(found[0], states, atol=1e-5)
    assert isinstance(encoder, GRUDEncoder)


@pytest.mark.parametrize(("settings", "features"), FAMILY)
def test_a_step_in_bfloat16_is_finite(settings, features):
    model = model_of(settings, features).train()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(tensors(stays()), torch.full((6,), STEPS))
    outputs.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_a_model_that_needs_columns_says_which():
    with pytest.raises(ValueError, match=r"features.imputer=decay"):
        Run(model=GRUD())
    with pytest.raises(UserError, match="features.imputer=decay"):
        load_config("quick", ["task=icu", "features.imputer=mean"], ["grud"])
    assert load_config("quick", ["task=icu"], ["grud"]).runs["grud"].features.imputer == "decay"


def test_a_hidden_descriptor_changes_nothing():
    inputs = stays(12)
    other = {**inputs, "statics": inputs["statics"].copy()}
    other["statics"][:, :, STAYS.statics.index("Height")] = 150
    for features, is_same in ((Features(summary=True, hidden=["Height"]), True), (Features(summary=True), False)):
        made = layer(features)
        with torch.no_grad():
            for read in (made, made.context):
                assert torch.equal(read(tensors(inputs)), read(tensors(other))) == is_same


def test_values_are_standardised_by_group():
    shape = replace(STAYS, statics=("Age", "Gender"))
    given = stays(90, seed=1)
    gender = np.repeat([0.0, 1.0, np.nan], [50, 25, 15])
    given["statics"][:, 0, 1] = gender
    given["values"][gender == 1, :, 0] += 40  # another centre
    given["values"][gender == 1, :, 4] = np.nan  # and a parameter that is not observed there
    torch.manual_seed(0)
    made = SeriesInput(PLAIN, shape, Features(standardise_by="Gender"))
    made.fit(**given)
    plain = SeriesInput(PLAIN, shape, Features())
    plain.fit(**given)
    inputs = tensors(given)
    found, usual = made.scaled(inputs["values"], inputs), plain.scaler(inputs["values"])
    for value in (0, 1):
        one = found[torch.from_numpy(gender == value), :, 0]
        assert one.nanmean().abs() < 1e-5 and one[~one.isnan()].std() == pytest.approx(1, abs=0.01)
    unknown = torch.from_numpy(np.isnan(gender))
    torch.testing.assert_close(found[unknown], usual[unknown], equal_nan=True)
    assert usual[torch.from_numpy(gender == 1), :, 0].nanmean() > 0.5
    torch.testing.assert_close(made.group_scalers[1].mean[4], plain.scaler.mean[4])
    back = made.unscaled(found, inputs)
    clipped = ~back.isnan() & ((back - inputs["values"]).abs() < 1e-2)
    assert clipped.sum() > 0.9 * (~back.isnan()).sum()


def test_a_small_group_is_standardised_like_all():
    shape = replace(STAYS, statics=("Age", "Gender"))
    given = stays(90, seed=1)
    given["statics"][:, 0, 1] = np.arange(90) < 19
    made = SeriesInput(PLAIN, shape, Features(standardise_by="Gender"))
    made.fit(**given)
    torch.testing.assert_close(made.group_scalers[1].mean, made.scaler.mean)
    assert not torch.equal(made.group_scalers[0].mean, made.scaler.mean)
    # Statistics of two places are joined, group by group, before it is seen which group is small.
    parts = [
        made.statistics(**{name: array[half] for name, array in given.items()}) for half in (slice(45), slice(45, 90))
    ]
    other = SeriesInput(PLAIN, shape, Features(standardise_by="Gender"))
    other.fit_to(parts)
    torch.testing.assert_close(other.group_scalers[1].mean, other.scaler.mean)
    assert "no such descriptor" in error_of(SeriesInput, PLAIN, STAYS, Features(standardise_by="Gender"))
