"""A labelled file of another pool gets the noise and the similarity of the target."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from src.core.settings import Config
from src.core.settings_loader import load_config
from src.data import near_duplicates
from src.data.report_reader import read_reports
from src.data.synthetic import make_sample
from src.data.tasks import ROUND1
from src.evaluation import covariate_shift, noise_estimation
from src.evaluation.external_dataset import Pool
from src.evaluation.validation_sets import ValidationSets
from src.evaluation.workspace import Workspace
from tests.conftest import LARGE_TEST_ROWS as TEST_ROWS
from tests.conftest import error_of, words


@pytest.fixture(scope="module")
def config(shifted) -> Config:
    """Settings of a measured shift."""
    return load_config("sample", [word for word in words(shifted / "input", shifted / "output") if "=" in word])


def load(config: Config, name: str = "answers_A.csv") -> Pool:
    return Pool.load(Workspace(config), read_reports(config.paths.input / name), "predict")


def test_as_many_frames_hold_another_word_as_in_the_target(config):
    """A pool as large and as noisy as train; the target is noisier."""
    pool = load(config, "sample_train.csv")
    have, want = (pool.noise(text).odd_middles for text in (pool.text, pool.target))
    rate = pool.missing_replacement()
    assert have + 0.01 < want
    assert rate == pytest.approx((want - have) / (1 - have), abs=0.01)
    tokens, offsets = pool.replaced(rate)
    assert pool.noise((tokens, offsets)).odd_middles == pytest.approx(want, abs=0.005)
    assert (tokens != pool.text[0]).mean() == pytest.approx(rate, abs=0.003)
    np.testing.assert_array_equal(offsets, pool.text[1])
    np.testing.assert_array_equal(tokens, pool.replaced(rate)[0])  # one draw


def test_nothing_is_replaced_where_the_pool_is_noisier(config):
    pool = load(config, "sample_train.csv")
    noisier = replace(pool, reports=pool.with_text(pool.replaced(0.2)))
    assert noisier.missing_replacement() == 0
    np.testing.assert_array_equal(noisier.replaced(0.0)[0], noisier.text[0])


def test_weights_are_those_of_the_cosines_to_train(config):
    pool = load(config)
    like = pool.density_ratio(pool.text)
    train, target, own = near_duplicates.tfidf([pool.train, pool.target, pool.text], 2)
    np.testing.assert_allclose(like.cosines, (own @ train.T).toarray().max(axis=1), atol=1e-6)
    np.testing.assert_allclose(like.target_cosines, (target @ train.T).toarray().max(axis=1), atol=1e-6)
    np.testing.assert_array_equal(
        like.weights, covariate_shift.similarity_weights(like.cosines, like.target_cosines, config.shift.clip)
    )
    assert like.weights.mean() == pytest.approx(1)
    noisy = pool.density_ratio(pool.replaced(0.3))
    assert np.median(noisy.cosines) < np.median(like.cosines)
    assert noisy.weights.shape == like.weights.shape == (TEST_ROWS,)


def test_other_text_is_in_no_file(config):
    pool = load(config)
    made = pool.with_text(pool.replaced(0.1))
    assert pool.reports.sha256 and not made.sha256
    np.testing.assert_array_equal(made.labels, pool.reports.labels)
    assert not np.array_equal(made.tokens, pool.reports.tokens)


def test_noise_up_to_the_target_is_that_of_frames(config):
    pool = load(config, "sample_train.csv")
    extra = noise_estimation.extra_noise(*(pool.noise(text).rates for text in (pool.text, pool.target)))
    found = pool.noise(pool.noised(extra, np.random.default_rng(1))).rates.total
    assert found == pytest.approx(pool.noise(pool.target).rates.total, abs=0.03)


def test_the_target_is_that_of_the_settings(config):
    assert load(config).target_name == "sample_testB.csv"
    other = load(config.model_copy(update={"target": "sample_testA"}))
    assert other.target_name == "sample_testA.csv"
    np.testing.assert_array_equal(other.target[0], read_reports(config.paths.input / "sample_testA.csv").tokens)


def test_errors_name_files_and_commands(config, tmp_path, monkeypatch):
    pool = load(config)
    few = replace(pool, target=(pool.target[0][:100], np.array([0, 100])))
    assert few.target_name in error_of(few.missing_replacement)
    make_sample(tmp_path, rows=50, test_rows=10, task=ROUND1, seed=4)
    other = config.model_copy(update={"paths": config.paths.model_copy(update={"input": Path(tmp_path)})})
    message = error_of(load, other)
    assert str(tmp_path) in message and "./run.sh pipeline --preset sample" in message
    monkeypatch.setattr(ValidationSets, "target", lambda self, name: None)
    assert "no test file" in error_of(load, config)
