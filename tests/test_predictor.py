"""A bundle in memory gives what ./run.sh predict gives, whatever the batch."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from src.data.corpus import UNK
from src.data.report_reader import Reports, read_reports
from src.data.submission_files import read_submission
from src.serving.bundle import Bundle
from src.serving.predictor import Predictor
from tests.conftest import error_of


@pytest.fixture(scope="module")
def predictor(bundled) -> Predictor:
    return Predictor.load(bundled / "blend.bundle", "torch")


@pytest.fixture(scope="module")
def reports(tiny_input) -> Reports:
    return read_reports(next(tiny_input.glob("*testA*.csv")))


def test_it_predicts_what_the_run_predicts(predictor, reports, bundled):
    found = predictor.predict(predictor.encode([reports[i] for i in range(len(reports))]))
    ids, expected = read_submission(bundled / "blend.csv")
    np.testing.assert_allclose(found.values, expected, rtol=1e-5)
    assert ids.tolist() == reports.ids.tolist()
    assert found.spread.shape == found.values.shape == (40, 17) and (found.spread > 0).all()
    assert predictor.engine == "torch" and predictor.labels[:2] == ("region_0", "region_1")


def test_neither_batch_nor_order_changes_a_prediction(predictor, reports):
    lists = [reports[i].tolist() for i in range(12)]
    whole = predictor.predict(predictor.encode(lists))
    alone = np.concatenate([predictor.predict(predictor.encode([one])).values for one in lists])
    back = predictor.predict(predictor.encode(lists[::-1]))
    np.testing.assert_allclose(alone, whole.values, atol=1e-6)
    np.testing.assert_allclose(back.values[::-1], whole.values, atol=1e-6)
    np.testing.assert_allclose(back.spread[::-1], whole.spread, atol=1e-6)


def test_reports_are_encoded_as_prepare_does(predictor):
    known = predictor._vocabulary.words[:3].tolist()
    unknown = next(token for token in range(65536) if token not in set(predictor._vocabulary.words.tolist()))
    rows = predictor.encode([known, [unknown], known * 50])
    assert rows.lengths.tolist() == [3, 1, 104] and rows.inputs["tokens"].shape == (3, 104)
    assert rows.inputs["tokens"][0, :4].tolist() == [3, 4, 5, 0] and rows.inputs["tokens"][1, 0] == UNK
    assert predictor.encode([known]).inputs["tokens"].shape == (1, 3)


@pytest.mark.parametrize("report", [[], [-1], [65536], [1.5], ["1"], [[1]]], ids=str)
def test_what_is_no_report_is_told(predictor, report):
    assert "report 2: expected" in error_of(predictor.encode, [[1], report])


def test_a_text_of_a_stay_is_told(predictor):
    assert "reads reports, no stays" in error_of(predictor.encode_stay, ["Time,Parameter,Value\n"])


def test_contributions_add_up_to_the_change_of_the_logit(predictor, reports):
    rows = predictor.encode([reports[0].tolist()])
    found = np.stack([predictor.explain(rows, label) for label in range(17)])
    assert found.shape == (17, len(reports[0]))
    logits = predictor.logits(rows)[0]
    start = _start(predictor, rows)
    np.testing.assert_allclose(found.sum(axis=1), logits - start, atol=0.05 * np.abs(logits - start).max() + 0.05)


def test_what_explains_is_that_of_the_bundle_that_was_loaded(predictor, bundled, tmp_path):
    file = Path(shutil.copy(bundled / "blend.bundle", tmp_path / "served.bundle"))
    loaded = Predictor.load(file, "torch")
    file.write_bytes((bundled / "lstm.bundle").read_bytes())
    file.unlink()
    rows = predictor.encode([[12, 345, 6]])
    np.testing.assert_array_equal(loaded.explain(rows, 3), predictor.explain(rows, 3))


def test_a_file_that_is_gone_when_it_is_unpacked_is_told(bundled, tmp_path):
    file = Path(shutil.copy(bundled / "blend.bundle", tmp_path / "served.bundle"))
    bundle = Bundle.open(file)
    file.unlink()
    assert error_of(bundle.unpack, tmp_path / "to") == f"{file} cannot be unpacked: No such file or directory"


def _start(predictor: Predictor, rows) -> np.ndarray:
    """Logits (17,) of the run for the baseline of the attribution."""
    from src.reporting.attribution import start_and_end

    explainer = predictor._explainer
    length = int(rows.lengths[0])
    parts = [
        start_and_end(fold.model, rows.inputs["tokens"][0, :length])[0].numpy() for fold in explainer._engine.folds
    ]
    return sum(share * part for share, part in zip(explainer._shares, parts, strict=True))


def test_an_unknown_engine_is_told(bundled):
    assert "unknown engine 'tpu'" in error_of(Predictor.load, bundled / "blend.bundle", "tpu")
