"""Means over models: of logits, and of probabilities."""

from __future__ import annotations

import json

import numpy as np
import pytest

from src.__main__ import main
from src.core import storage
from src.core.errors import UserError
from src.core.settings_loader import load_config
from src.data.tasks import KINDS, LOGITS, ROUND1, Average
from src.ensemble.blending import BlendWeights, equal_weights, fit_temperature, fixed_weights
from src.evaluation.score_estimation import _expected_losses
from tests.conftest import words
from tests.test_blending import rows


@pytest.mark.parametrize("kind", ["multilabel", "binary", "multiclass"])
def test_a_mean_of_probabilities_decodes_to_it(kind):
    outputs = np.random.default_rng(0).normal(0, 4, (5, 30, 4)).astype(np.float32)
    mean = Average(kind)(outputs)
    assert mean.dtype == np.float32
    decode = KINDS[kind].decode
    np.testing.assert_allclose(decode(mean), np.mean([decode(one) for one in outputs], axis=0), atol=1e-6)
    np.testing.assert_array_equal(LOGITS(outputs), np.mean(outputs, axis=0, dtype=np.float32))
    same = Average(kind)(outputs[:1] * 0.2)
    np.testing.assert_allclose(decode(same), decode(outputs[0] * 0.2), atol=1e-6)


def test_rows_without_a_prediction_stay_unknown():
    for kind in ("", "multilabel"):
        average = Average(kind)
        with np.errstate(invalid="ignore"):
            mean = average.outputs(average.terms(np.array([[0.5, -1.0], [np.nan, np.nan]])))
        np.testing.assert_allclose(mean[0], [0.5, -1.0])
        assert np.isnan(mean[1]).all()


def test_blends_without_fitted_parameters_may_be_of_probabilities():
    generator = np.random.default_rng(1)
    members, labels = list(generator.normal(0, 3, (3, 40, 17))), generator.integers(0, 2, (40, 17))
    for blend, shares in ((equal_weights(members), [1, 1, 1]), (fixed_weights([1, 0, 3], 17), [1, 0, 3])):
        mean = np.average([ROUND1.decode(member) for member in members], axis=0, weights=shares)
        found = blend.of_probabilities(ROUND1)
        np.testing.assert_allclose(ROUND1.decode(found.apply(members)), mean, atol=1e-7)
        assert BlendWeights.from_json(json.loads(json.dumps(found.to_json()))) == found
        assert "kind" not in blend.to_json() and BlendWeights.from_json(blend.to_json()) == blend
    fitted = fit_temperature(rows(members, labels), ROUND1, False)
    assert fitted.of_probabilities(ROUND1) == fitted


def test_the_expected_loss_is_that_of_the_mean_that_is_predicted():
    """Of a single model both means are one; where folds disagree, the loss is that of the mean probability under the
    mean truth, beside what a single model loses on other reports."""
    generator = np.random.default_rng(2)
    logits, truth = generator.normal(0, 2, (4, 50, 17)), np.tile(generator.random((50, 17)), (4, 1, 1))
    of_logits, _ = _expected_losses(ROUND1, logits, truth, [logits])
    found, _ = _expected_losses(ROUND1, logits, truth, [logits], ROUND1.average("probabilities"))
    probability, mean = ROUND1.decode(logits).mean(axis=0), ROUND1.decode(logits.mean(axis=0))

    def loss(p: np.ndarray) -> np.ndarray:
        return -(truth[0] * np.log(p) + (1 - truth[0]) * np.log(1 - p)).mean(axis=1)

    np.testing.assert_allclose(found - of_logits, loss(probability) - loss(mean), atol=1e-9)
    one = logits[:1], truth[:1]
    np.testing.assert_allclose(
        _expected_losses(ROUND1, *one, [one[0]], ROUND1.average("probabilities"))[0],
        _expected_losses(ROUND1, *one, [one[0]])[0],
    )


def test_runs_are_averaged_anew_and_nothing_is_trained(copy, tiny_input, tmp_path, capsys):
    settings = words(tiny_input, copy, "average=probabilities", "blend.method=mean")
    trained = {path: path.stat().st_mtime_ns for path in copy.glob("runs/*/fold_*/*.safetensors")}
    assert main(["blend", *settings]) == 2
    assert "./run.sh train" in capsys.readouterr().err
    assert main(["train", *settings]) == 0
    assert main(["blend", *settings]) == 0
    assert "mean of the members' probabilities, nothing fitted" in capsys.readouterr().out
    assert trained == {path: path.stat().st_mtime_ns for path in copy.glob("runs/*/fold_*/*.safetensors")}
    corpus, means = copy / "data/test/sample_testA", []
    name = f"logits.{storage.array_hash(np.load(corpus / 'tokens.npy'))}.npy"
    record = storage.read_json(copy / "runs/blend/run.json")
    for member in record["members"]:
        folds = [ROUND1.decode(np.load(path)) for path in (copy / "runs" / member).glob(f"fold_*/{name}")]
        means.append(np.mean(folds, axis=0))
        found = np.load(copy / "runs" / member / "test_sample_testA.npy")
        np.testing.assert_allclose(ROUND1.decode(found), means[-1], atol=1e-6)
    blended = np.load(copy / "runs/blend/test_sample_testA.npy")
    np.testing.assert_allclose(ROUND1.decode(blended), np.mean(means, axis=0), atol=1e-6)


@pytest.mark.slow
def test_submission_prediction_and_bundle_average_alike(copy, tiny_input, tmp_path):
    settings = words(tiny_input, copy, "average=probabilities", "blend.method=mean")
    assert main(["train", *settings]) == main(["blend", *settings]) == 0
    file = tiny_input / "sample_testA.csv"
    assert main(["submit", *settings]) == 0
    assert main(["predict", "blend", str(file), *words(tiny_input, copy)]) == 0
    submitted = (copy / "submission_sample_testA.csv").read_bytes()
    assert (copy / "prediction_blend_sample_testA.csv").read_bytes() == submitted
    bundle = tmp_path / "blend.bundle"
    assert main(["bundle", "blend", "--to", str(bundle), *settings]) == 0
    assert main(["predict", "--bundle", str(bundle), str(file), "--to", str(tmp_path / "served.csv")]) == 0
    assert (tmp_path / "served.csv").read_bytes() == submitted


def test_days_have_no_probabilities():
    load_config("sample", ["average=logits", "task=los"])
    with pytest.raises(UserError, match="average=probabilities is for tasks that predict probabilities"):
        load_config("sample", ["average=probabilities", "task=los"])
