"""Reports without a description: the file is read, no model sees them, and their predictions are the label rates."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from src.__main__ import main
from src.core.settings_loader import load_config
from src.data.corpus import Corpus
from src.data.dataset import Dataset
from src.data.empty_reports import EmptyReports
from src.data.report_reader import read_reports
from src.data.submission_files import read_submission
from src.data.tasks import ROUND1
from src.evaluation.workspace import Workspace
from src.pipeline.commands import predict
from tests.conftest import error_of, words

EMPTY = (0, 7, 8, 39)


@pytest.mark.parametrize("empty", [b"", b" ", b"   "])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_empty_descriptions_are_read_where_they_may_be(write, empty, end):
    text = b"0|,|" + empty + b"\n7|,|1 2\n8|,|3\n9|,|" + empty + end
    found = read_reports(path := write(text), may_be_empty=True)
    assert found.ids.tolist() == [b"7", b"8"] and found.tokens.tolist() == [1, 2, 3]
    assert found.offsets.tolist() == [0, 2, 3] and found.labels is None
    assert found.empty.rows.tolist() == [0, 3] and found.empty.ids.tolist() == [b"0", b"9"]
    assert "line 1: an empty description" in (told := error_of(read_reports, path)) and "2 errors" in told


def test_empty_descriptions_keep_their_labels(write):
    found = read_reports(write(b"0|,||,|3\n7|,|1 2|,|4\n8|,|  |,|\n"), may_be_empty=True)
    assert found.ids.tolist() == [b"7"] and np.flatnonzero(found.labels[0]).tolist() == [4]
    assert [np.flatnonzero(row).tolist() for row in found.empty.labels] == [[3], []]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"0|,|\n1|,| \n", "no report has a description"),
        (b"0|,|\n0|,|1\n", "line 2: the id '0' repeats that of line 1"),
        (b"0|,|\n1|,|x\n", "line 2: token 'x'"),
        (b"0|,|\n1\n", "line 2: 1 field"),
        (b"|,|\n1|,|1\n", "line 1: an empty id"),
    ],
)
def test_other_errors_beside_empty_descriptions_are_told(write, text, told):
    assert told in error_of(read_reports, write(text), may_be_empty=True)


@pytest.mark.parametrize("rows", [[], [0], [4], [0, 1, 2], [2, 4], [0, 1, 2, 3]])
def test_complete_puts_every_row_in_its_place(rows):
    n, ids = 5, np.array([b"a", b"bb", b"c", b"dddd", b"e"])
    values = np.random.default_rng(0).random((n, 3))
    read = np.setdiff1d(np.arange(n), rows)
    empty = EmptyReports(np.array(rows, dtype=np.int64), ids[rows])
    for known in (empty, EmptyReports.from_json(json.loads(json.dumps(empty.to_json())))):
        found_ids, found = known.complete(ids[read], values[read], own := np.array([0.1, 0.2, 0.3]))
        assert found_ids.tolist() == ids.tolist()
        np.testing.assert_array_equal(found[read], values[read])
        assert (found[rows] == own).all()
        np.testing.assert_array_equal(known.complete(ids[read], values[read], values[rows])[1], values)


def without_descriptions(path: Path, to: Path) -> list[bytes]:
    """Writes a copy of a file of reports where those in the places EMPTY have no description; returns the ids."""
    lines = path.read_bytes().splitlines(keepends=True)
    ids = [line.partition(b"|,|")[0] for line in lines]
    to.write_bytes(b"".join(ids[i] + b"|,|\n" if i in EMPTY else line for i, line in enumerate(lines)))
    return ids


def label_rates(folder: Path) -> np.ndarray:
    """Mean label of the train reports, clipped as in a submission, (17,)."""
    labels = [read_reports(one).labels_for(ROUND1) for one in sorted(folder.glob("*train*.csv"))]
    return np.clip(np.concatenate(labels).mean(axis=0), 1e-7, 1)


def check(submission: Path, ids: list[bytes], rates: np.ndarray, whole: np.ndarray | None = None) -> None:
    """Asserts that a submission has a line for each id, and the label rates where there is no description; `whole`
    (N, L): predictions of the others."""
    names, values = read_submission(submission)
    assert names.tolist() == ids
    np.testing.assert_allclose(values[list(EMPTY)], np.tile(rates, (len(EMPTY), 1)), rtol=1e-8)
    others = np.setdiff1d(np.arange(len(ids)), EMPTY)
    assert not np.allclose(values[others], rates)
    if whole is not None:
        np.testing.assert_allclose(values[others], whole[others], rtol=1e-6)


def test_predictions_are_complete(copy, bundled, tiny_input, tmp_path, capsys):
    (path,) = tiny_input.glob("*testA*.csv")
    ids, rates = without_descriptions(path, given := tmp_path / "given.csv"), label_rates(tiny_input)
    _, whole = read_submission(bundled / "lstm.csv")
    settings = words(tiny_input, copy)
    assert main(["predict", "lstm", str(given), "--to", str(tmp_path / "predicted.csv"), *settings]) == 0
    told = capsys.readouterr()
    assert "given.csv: 4 reports have no description (line 1, 8, 9, 40)" in told.err
    assert "40 reports x 17 probabilities" in told.out
    check(tmp_path / "predicted.csv", ids, rates, whole)
    places = ["--to", str(tmp_path / "bundled.csv"), f"paths.output={tmp_path / 'none'}"]
    assert main(["predict", "--bundle", str(bundled / "lstm.bundle"), str(given), *places]) == 0
    assert (tmp_path / "bundled.csv").read_bytes() == (tmp_path / "predicted.csv").read_bytes()
    capsys.readouterr()
    # Their labels count in a score.
    text = given.read_bytes().replace(b"\r", b"").replace(b"\n", b"|,|3 4\n")
    (truth := tmp_path / "truth.csv").write_bytes(text)
    assert main(["predict", "lstm", str(truth), "--to", str(tmp_path / "scored.csv"), *settings]) == 0
    by_predict = re.search(r"score (0\.\d{4}) ", capsys.readouterr().out)[1]
    assert main(["score", "--labels", str(truth), str(tmp_path / "scored.csv"), *settings]) == 0
    by_score = re.search(r"score: (0\.\d{6}) .*, 40 reports\)", capsys.readouterr().out)[1]
    assert abs(float(by_predict) - float(by_score)) < 1e-4


def test_label_rates_of_other_train_reports_are_not_taken(copy, tiny_input, tmp_path, capsys):
    (path,) = tiny_input.glob("*testA*.csv")
    without_descriptions(path, given := tmp_path / "given.csv")
    folder = Path(shutil.copytree(tiny_input, tmp_path / "input"))
    (train,) = folder.glob("*train*.csv")
    train.write_bytes(b"".join(train.read_bytes().splitlines(keepends=True)[:200]))
    assert main(["prepare", *words(folder, copy)]) == 0
    assert main(["predict", "lstm", str(given), *words(folder, copy)]) == 2
    assert "holds other train files than those of run lstm. Run: ./run.sh train" in capsys.readouterr().err


@pytest.mark.slow
def test_reports_of_round_2_get_the_rates_of_types_where_they_count(tiny_input_round2, tmp_path, monkeypatch):
    """In a submission and in a bundle, whose prior is that of the workspace, and in predictions of a file."""
    given = [f"paths.input={tiny_input_round2}", f"paths.output={tmp_path / 'output'}"]
    assert main(["prepare", "--preset", "sample", *given]) == 0
    workspace = Workspace(load_config("sample", given))
    labels = workspace.labels
    wanted = np.concatenate([labels[:, :17].mean(axis=0), labels[labels[:, :17].any(axis=1), 17:].mean(axis=0)])
    assert (wanted[17:] > labels[:, 17:].mean(axis=0)).any()
    np.testing.assert_allclose(workspace.prior, wanted)
    source = SimpleNamespace(record={"train": workspace.dataset.manifest["train"]})
    np.testing.assert_allclose(predict._prior(workspace, source), wanted)
    test = workspace.dataset.test_files[0]
    empty = EmptyReports(np.array([0]), np.array([b"none"]))
    monkeypatch.setattr(Dataset, "empty_reports", lambda self, name: empty)
    ids, predictions = workspace.whole_test_file(test, np.zeros((40, 29)))
    assert ids[0] == b"none" and len(ids) == 41
    np.testing.assert_allclose(predictions[0], wanted)


def test_a_submission_is_complete(tiny_input, tmp_path, capsys):
    """Tries submit and leaderboard ask."""
    folder = Path(shutil.copytree(tiny_input, tmp_path / "input"))
    (path,) = folder.glob("*testB*.csv")
    ids, rates = without_descriptions(path, path), label_rates(folder)
    given = words(folder, output := tmp_path / "output")
    assert main(given) == 0
    told = capsys.readouterr()
    assert f"{path.name}: 4 reports have no description (line 1, 8, 9, 40)" in told.err
    assert "40 reports x 17 probabilities" in told.out
    files = json.loads((output / "data/manifest.json").read_text())["files"]
    (test,) = (entry for entry in files if entry["name"] == path.name)
    assert test["empty"] == [[row, ids[row].decode()] for row in EMPTY]
    corpus = Corpus.load(output / "data/test" / path.stem)
    assert len(corpus) == 36 and corpus.lengths.min() >= 1
    check(submission := output / f"submission_{path.name}", ids, rates)
    assert main(["predict", "blend", str(path), "--to", str(tmp_path / "predicted.csv"), *given]) == 0
    assert (tmp_path / "predicted.csv").read_bytes() == submission.read_bytes()
    assert main(["leaderboard", "ask", *given]) == 0
    check(next(output.glob("submission_ask*")), ids, rates)
    capsys.readouterr()
    assert main(["explain", "blend", "--id", ids[7].decode(), "--file", path.name, *given]) == 2
    assert "has no description: there is nothing to explain" in capsys.readouterr().err


def test_train_reports_need_a_description(tmp_path, capsys):
    (tmp_path / "train.csv").write_text("0|,|1 2|,|3\n1|,||,|3\n")
    assert main(["prepare", f"paths.input={tmp_path}", f"paths.output={tmp_path / 'output'}"]) == 2
    assert "train.csv, line 2: an empty description" in capsys.readouterr().err
