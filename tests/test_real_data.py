"""The competition's own files, where they are at hand: what the sample data cannot show."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from src.__main__ import main
from src.data.submission_files import read_submission
from tests.conftest import run_command


@pytest.fixture(scope="module")
def round1(real_data, made_once):
    """Output of every stage before training, on round 1."""

    def words(output: Path) -> list[str]:
        return ["--preset", "quick", f"paths.input={real_data / 'round1'}", f"paths.output={output}"]

    output = made_once("baselines_of_round1", lambda output: run_command(["baselines", *words(output)]))
    return output, words(output)


def test_round_1_is_recognised(round1, capsys):
    output, words = round1
    manifest = json.loads((output / "data/manifest.json").read_text())
    assert manifest["task"] == "round1"
    assert [file["rows"] for file in manifest["files"]] == [10_000, 3_000, 3_000]
    tokens = np.load(output / "data/train/tokens.npy")
    assert tokens.shape == (10_000, 104) and len(json.loads((output / "data/vocabulary.json").read_text())) == 858
    assert (np.load(output / "data/train/labels.npy").sum(axis=1) == 0).sum() == 2_622
    assert main(["prepare", *words]) == 0
    assert "prepare: up to date" in capsys.readouterr().out


def test_the_ladder_on_round_1(round1):
    output, _ = round1
    scores = {
        path.parent.name: json.loads(path.read_text())["overall"]["score"]["value"]
        for path in (output / "baselines").glob("*/score.json")
    }
    # Figures of the same baselines on random folds; the folds differ, so they agree to a few thousandths.
    assert scores["prior"] == pytest.approx(0.732, abs=0.002)
    assert scores["tfidf"] == pytest.approx(0.947, abs=0.004)
    assert scores["zeros"] < scores["random"] < scores["prior"]


def test_folds_of_round_1_are_balanced(round1):
    output, _ = round1
    assert json.loads((output / "folds.json").read_text())["largest_imbalance"] < 0.01


def test_round_2_is_recognised_and_long_reports_are_told(real_data, tmp_path, capsys):
    source = tmp_path / "input"
    source.mkdir()
    (source / "train.csv").symlink_to(real_data / "round2" / "train.csv")
    (source / "testB.csv").symlink_to(real_data / "round1" / "track1_round1_testB.csv")
    assert main(["prepare", f"paths.input={source}", f"paths.output={tmp_path / 'output'}"]) == 0
    told = capsys.readouterr()
    assert "labels of round 2: 17 regions and 12 types" in told.out and "longer than data.max_len=104" in told.err
    assert np.load(tmp_path / "output/data/train/labels.npy").shape == (10_053, 29)


@pytest.mark.slow
def test_quick_reaches_0_930_on_the_stand_in(round1, real_data, capsys):
    """Round 2's reports as an unseen test file; one small BiGRU alone gave 0.927. Takes seven minutes."""
    output, words = round1
    assert main(words) == 0
    assert main(["predict", "blend", str(real_data / "round2/train.csv"), *words]) == 0
    told = capsys.readouterr().out
    assert float(told.split("predict: score ")[1].split()[0]) >= 0.930
    assert read_submission(output / "prediction_blend_train.csv")[1].shape == (10_053, 17)
