"""Own rows and weights: paths.exclude and paths.weights reach the corpus and the training, and are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from src.__main__ import main
from src.core.errors import UserError
from src.core.settings_loader import load_config
from src.data import row_files, synthetic_stays
from src.data.report_reader import read_reports
from src.evaluation.workspace import Workspace
from src.training.planning import _row_weights
from tests.conftest import clinical_words, error_of, run_command, words

IDS = np.array([b"1", b"007", b"x y", b"4"])


def written(folder: Path, text: str | bytes, name: str = "rows.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("007\n4\n", [1, 3]),
        ("\ufeffid\n007\n\n4\n", [1, 3]),
        ("report,label,said,probability\n1,region_2,1,0.01\n1,region_5,0,0.9\nx y,region_0,1,0.2\n", [0, 2]),
        ("1\r\n4,because,of,this\r\n", [0, 3]),
        ('"x y"', [2]),
    ],
)
def test_ids_are_read_from_the_first_column(tmp_path, text, named):
    mask = row_files.read_excluded(written(tmp_path, text)).mask(IDS, "report")
    assert np.flatnonzero(mask).tolist() == named


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("1,3\n4,0\n", [3, 1, 1, 0]),
        ("id,note,weight\n007,a,0.5\n", [1, 0.5, 1, 1]),
        ("id,weight\n1,2e0\n007,2\nx y,2\n4,2\n", [2, 2, 2, 2]),
    ],
)
def test_weights_have_mean_one_and_other_rows_count_as_one(tmp_path, text, weights):
    found = row_files.read_weights(written(tmp_path, text)).weights_of(IDS, "report")
    np.testing.assert_allclose(found, np.array(weights) / np.mean(weights))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "names no row"),
        ("id,weight\n", "names no row"),
        ("1,2\n1,3\n", "line 2: the id '1' stands on line 1 too"),
        ("1,2\n4\n", "line 2: expected the id, a comma and a weight from 0 to 1,000,000"),
        ("1,-2\n", "line 1: expected the id"),
        ('id,note,weight\n1,"two\nlines",1\n4,,x\n', "line 4: expected the id"),
        ("1,nan\n", "line 1: expected the id"),
        ("1,1_0\n", "line 1: expected the id"),
        ("1,1e9\n", "line 1: expected the id"),
        (",1\n", "line 1: the id is empty"),
        ("7,1\n", "line 1: there is no training report '7'. Ids are text: 7 is not 007"),
        ("1,0\n007,0\nx y,0\n4,0\n", "every weight is 0"),
        (b"\xff\xfe1\0,\0", "is UTF-16"),
        (b'1,"2\n', "is no CSV of UTF-8"),
        (b"1,\xff\n", "is no CSV of UTF-8"),
        (b"PK\x03\x04xl/", "is a workbook"),
    ],
)
def test_what_is_no_weight_is_told_with_file_and_line(tmp_path, text, told):
    path = written(tmp_path, text)
    with pytest.raises(UserError) as error:
        row_files.read_weights(path).weights_of(IDS, "report")
    assert str(path) in str(error.value) and told in str(error.value)


def workspace(settings: list[str]) -> Workspace:
    """Workspace of the same command-line words."""
    task = settings[settings.index("--task") + 1] if "--task" in settings else "auto"
    given = [f"task={task}", *(word for word in settings if "=" in word)]
    return Workspace(load_config(settings[settings.index("--preset") + 1], given))


def prepared(tiny_input: Path, tmp_path: Path, *more: str) -> Workspace:
    settings = words(tiny_input, tmp_path / "output", *more)
    run_command(["prepare", *settings])
    return workspace(settings)


def test_reports_are_left_out_and_the_change_is_told(tiny_input, tmp_path, capsys):
    (train,) = tiny_input.glob("*train*.csv")
    whole = prepared(tiny_input, tmp_path)
    before = whole.dataset.train
    gone = [5, 17, 299]
    named = b"\n".join(before.ids[gone].tolist())
    exclude = f"paths.exclude={written(tmp_path, named)}"
    capsys.readouterr()
    # What was prepared without the file is refused with it, and the other way round.
    assert main(["folds", *words(tiny_input, tmp_path / "output", exclude)]) == 0
    told = capsys.readouterr().out
    assert "3 left out by rows.csv, so they are in no score" in told
    after = workspace(words(tiny_input, tmp_path / "output", exclude))
    assert np.array_equal(after.dataset.train.ids, np.delete(before.ids, gone))
    assert np.array_equal(after.dataset.train.tokens, np.delete(before.tokens, gone, axis=0))
    assert np.array_equal(after.labels, np.delete(np.asarray(before.labels), gone, axis=0))
    assert len(after.splits.scored) == len(before) - 3
    assert "gone: rows.csv" in error_of(lambda: workspace(words(tiny_input, tmp_path / "output")).dataset)
    weights = tmp_path / "weights.csv"
    weights.write_bytes(before.ids[0] + b",2\n" + before.ids[5] + b",9\n")
    weighted = prepared(tiny_input, tmp_path, exclude, f"paths.weights={weights}")
    expected = np.array([2.0, *[1] * 296])
    np.testing.assert_allclose(np.load(weighted.output.row_weights), expected / expected.mean())
    reports = read_reports(train)
    only = reports.only(np.array([0, 5, 299]))
    assert [only[i].tolist() for i in range(3)] == [reports[i].tolist() for i in (0, 5, 299)]
    written(tmp_path, b"\n".join(before.ids.tolist()))
    assert main(["prepare", *words(tiny_input, tmp_path / "output", exclude)]) == 2
    assert "names every training report" in capsys.readouterr().err
    (tmp_path / "rows.csv").unlink()
    assert main(["prepare", *words(tiny_input, tmp_path / "output", exclude)]) == 2
    assert f"paths.exclude: there is no file {tmp_path / 'rows.csv'}" in capsys.readouterr().err


def test_weights_reach_the_training_and_change_nothing_else(tiny_input, tmp_path):
    plain = prepared(tiny_input, tmp_path)
    assert plain.dataset.weights is None
    name = plain.dataset.train.ids[7].decode()
    weighted = prepared(tiny_input, tmp_path, f"paths.weights={written(tmp_path, f'{name},10')}")
    expected = np.ones(300)
    expected[7] = 10
    lstm = weighted.settings.runs["lstm"]
    np.testing.assert_allclose(_row_weights(weighted, lstm), expected / expected.mean())
    assert plain.dataset.manifest["train"] == weighted.dataset.manifest["train"]
    assert "1 rows weighted in training by rows.csv" in weighted.dataset.manifest["summary"]
    again = prepared(tiny_input, tmp_path)
    assert again.dataset.weights is None and not (tmp_path / "output/data/weights.npy").exists()


@pytest.mark.slow
def test_weights_and_density_ratios_are_multiplied(tiny_input, tmp_path):
    path = written(tmp_path, read_reports(next(tiny_input.glob("*train*.csv"))).ids[7] + b",10")
    settings = words(tiny_input, tmp_path / "output", f"paths.weights={path}", "train.target_weight=1")
    run_command(["shift", *settings])
    made = workspace(settings)
    expected = made.dataset.weights * made.target.array("weights")[0]
    np.testing.assert_allclose(_row_weights(made, made.settings.runs["lstm"]), expected / expected.mean())


def test_stays_are_left_out_and_weighted(tmp_path, capsys):
    synthetic_stays.make_sample(tmp_path / "input", rows=40, test_rows=10, seed=7)
    settings = clinical_words("icu", tmp_path / "input", tmp_path / "output")
    run_command(["prepare", *settings])
    ids = [one.decode() for one in workspace(settings).dataset.train.ids]
    own = [
        *settings,
        f"paths.exclude={written(tmp_path, f'{ids[3]}{chr(10)}{ids[9]}', 'out.csv')}",
        f"paths.weights={written(tmp_path, f'{ids[0]},4', 'weights.csv')}",
    ]
    run_command(["prepare", *own])
    found = workspace(own).dataset
    assert [one.decode() for one in found.train.ids] == [one for one in ids if one not in (ids[3], ids[9])]
    assert found.weights.argmax() == 0 and found.weights.mean() == pytest.approx(1)
    assert "2 left out by out.csv" in capsys.readouterr().out
