from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.core import storage
from src.data import submission_files
from src.data.submission_files import read_submission, write_submission
from src.data.tasks import ICU, LOS, ROUND1, frames
from tests.conftest import error_of

EPS = 1e-7


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.integers(1, 29), st.sampled_from([1e-15, 1e-9, 1e-7, 1e-3, 0.0]), st.integers(0, 99))
def test_submissions_keep_their_values(rows, columns, eps, seed):
    rng = np.random.default_rng(seed)
    values = 1 / (1 + np.exp(-rng.normal(0, 15, (rows, columns))))
    ids = np.array([b"%03d" % i for i in rng.permutation(rows)])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "submission.csv"
        write_submission(path, ids, values, eps, ROUND1)
        text = path.read_bytes()
        ids_back, back = read_submission(path)
        write_submission(path, ids, values, eps, ROUND1)
        assert path.read_bytes() == text
    clipped = np.clip(values, eps, 1 - eps)
    assert np.array_equal(ids_back, ids) and back.dtype == np.float64
    np.testing.assert_allclose(back, clipped, rtol=5.1e-9 if eps else 1e-16, atol=0)
    # What counts in a log loss is the distance to 1, too.
    np.testing.assert_allclose(1 - back, 1 - clipped, rtol=2e-3, atol=1e-17)
    if eps:
        assert 0 < back.min() and back.max() < 1


def test_the_text_of_a_submission(tmp_path):
    path = tmp_path / "new" / "submission.csv"
    write_submission(
        path, np.array([b"2", b"10"]), np.array([[0.5, 0.0, 1.0], [1 / 3, 1e-3, 0.25]], np.float32), EPS, ROUND1
    )
    expected = b"2|,|0.5 1e-07 0.9999999\n10|,|0.3333333433 0.001000000047 0.25\n"
    assert path.read_bytes() == expected
    assert [file.name for file in path.parent.iterdir()] == ["submission.csv"]


def test_ids_may_be_integers_or_text(tmp_path):
    for ids in (np.array([3, 10]), ["3", "10"]):
        write_submission(tmp_path / "s.csv", ids, np.array([[0.5], [0.25]]), EPS, ROUND1)
        assert read_submission(tmp_path / "s.csv")[0].tolist() == [b"3", b"10"]


@pytest.mark.parametrize(
    ("ids", "values", "eps", "message"),
    [
        ([b"1", b"2"], [[0.5], [np.nan]], EPS, "column 0 of report 2 is nan, expected a probability"),
        ([b"1", b"2"], [[0.5, 0.1], [0.5, 3.2]], EPS, "column 1 of report 2 is 3.2, expected a probability"),
        ([b"1", b"2"], [[-0.5], [0.5]], EPS, "column 0 of report 1 is -0.5"),
        ([b"1", b"2"], [[0.5]], EPS, "ids of shape (2,) and predictions of (1, 1)"),
        ([b"1", b"2"], [0.5, 0.5], EPS, "ids of shape (2,) and predictions of (2,)"),
        ([], np.zeros((0, 17)), EPS, "ids of shape (0,) and predictions of (0, 17)"),
        ([b"1", b"2"], [[0.5], [0.5]], 0.5, "eps is 0.5"),
        ([b"1", b"2"], [[0.5], [0.5]], -1e-9, "eps is -1e-09"),
        ([b"1", b"2"], [[0.5], [0.5]], float("nan"), "eps is nan"),
        ([b"1", b"1"], [[0.5], [0.5]], EPS, "line 2: "),
        ([b"1", b"2 2"], [[0.5], [0.5]], EPS, "line 2: "),
        ([b"1", b""], [[0.5], [0.5]], EPS, "line 2: "),
    ],
)
def test_what_is_no_submission_is_not_written(tmp_path, ids, values, eps, message):
    path = tmp_path / "submission.csv"
    path.write_bytes(b"old")
    found = error_of(write_submission, path, np.array(ids, np.bytes_), np.array(values), eps, ROUND1)
    assert message in found and str(path) in found
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "damage",
    [
        lambda ids, values: (ids[::-1], values),
        lambda ids, values: (ids[:-1], values[:-1]),
        lambda ids, values: (ids, values[:, :-1]),
        lambda ids, values: (ids, values * (1 - 1e-8)),
        lambda ids, values: (ids, values * np.nan),
    ],
)
def test_a_submission_that_reads_back_otherwise_gets_no_name(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(submission_files, "read_submission", lambda path, task: damage(*read_submission(path, task)))
    found = error_of(write_submission, tmp_path / "s.csv", np.array([b"1", b"2"]), np.full((2, 3), 0.3), EPS, ROUND1)
    assert "s.csv" in found and not list(tmp_path.iterdir())


def test_a_failing_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "s.csv"
    path.write_bytes(b"old")

    def fail(_):
        raise OSError("no space left")

    monkeypatch.setattr(storage.os, "fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        write_submission(path, np.array([b"1"]), np.array([[0.5]]), EPS, ROUND1)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (b"1|,|0.5 nan\n", 1, "'nan'"),
        (b"1|,|0.5 inf\n", 1, "'inf'"),
        (b"1|,|0.5 1.5\n", 1, "'1.5'"),
        (b"1|,|0.5 -0.5\n", 1, "'-0.5'"),
        (b"1|,|0.5 1_0\n", 1, "'1_0'"),
        (b"1|,|0.5 .\n", 1, "'.'"),
        (b"1|,|0.5 1e\n", 1, "'1e'"),
        (b"1|,|0.5 1e400\n", 1, "'1e400'"),
        (b"1|,|0.5 " + b"9" * 5000 + b"\n", 1, "'9999"),
        (b"1|,|0.5\t0.5\n", 1, r"'0.5\t0.5'"),
        (b"1|,|\n", 1, "no values"),
        (b"1|,|   \n", 1, "no values"),
        (b'"1"|,|0.5\n', 1, "in the id"),
        (b"0,1|,|0.5\n", 1, "in the id"),
        (b"1|,|0.5 0.5\n2|,|0.5\n", 2, "expected 2"),
        (b"1|,|0.5\n1|,|0.5\n", 2, "id '1'"),
        (b"1|,|0.5\n2 0.5\n", 2, "id|,|p0 p1 …"),
        (b"1|,|0.5\n2|,0.5\n", 2, "delimiter"),
        (b"1|,|0.5\n\n", 2, "blank"),
        (b"\xef\xbb\xbf1|,|0.5\n", 1, "BOM"),
        (b"1|,|0.5\n2|,|0.\0\n", 2, "NUL"),
        (b"|,|0.5\n", 1, "empty id"),
    ],
)
def test_errors_in_submissions(write, text, line, message):
    found = error_of(read_submission, write(text))
    assert f"reports.csv, line {line}: " in found and message in found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.", 1.0),
        ("0.", 0.0),
        (".5", 0.5),
        ("8E-05", 8e-5),
        ("8e-5", 8e-5),
        ("1E0", 1.0),
        ("5e-324", 5e-324),
        ("00.5", 0.5),
    ],
)
@pytest.mark.parametrize("end", ["\n", " \n", "   \r\n", ""])
def test_numbers_as_other_programs_write_them(write, text, value, end):
    assert read_submission(write(f"1|,|{text} {text}{end}".encode()))[1].tolist() == [[value, value]]
    assert read_submission(write(f"RecordID,In-hospital_death\n1, {text}{end}".encode()), ICU)[1].tolist() == [[value]]


def test_submissions_with_other_line_ends(write, tmp_path):
    for text in (b"1|,|0.5 0.25\n2|,|0 1\n", b"1|,|0.5 0.25\r\n2|,|0 1\r\n", b"1|,|0.5 0.25\n2|,|0 1"):
        ids, values = read_submission(write(text))
        assert ids.tolist() == [b"1", b"2"] and values.tolist() == [[0.5, 0.25], [0, 1]]
    assert "empty" in error_of(read_submission, write(b""))
    assert "none.csv" in error_of(read_submission, tmp_path / "none.csv")


@pytest.mark.parametrize("block", [1, 3, 10])
def test_blocks_of_lines_give_the_same_file_and_the_same_errors(tmp_path, monkeypatch, block):
    ids, values = np.arange(10).astype("S"), np.random.default_rng(0).random((10, 3))
    write_submission(tmp_path / "whole.csv", ids, values, EPS, ROUND1)
    monkeypatch.setattr(submission_files, "BLOCK", block)
    write_submission(tmp_path / "blocks.csv", ids, values, EPS, ROUND1)
    text = (tmp_path / "whole.csv").read_bytes()
    assert (tmp_path / "blocks.csv").read_bytes() == text
    ids_back, back = read_submission(tmp_path / "blocks.csv")
    assert ids_back.tolist() == ids.tolist() and back.shape == (10, 3)
    lines = text.splitlines(keepends=True)
    lines[4], lines[6], lines[9] = b"4|,|0.5 0.5\n", b"6|,|0.5 2 0.5\n", b"1|,|0.5 0.5 0.5\n"
    (tmp_path / "wrong.csv").write_bytes(b"".join(lines))
    found = error_of(read_submission, tmp_path / "wrong.csv")
    assert [line.split(":")[0].split()[-1] for line in found.splitlines()[1:]] == ["5", "7", "10"]


def test_the_last_block_is_checked_too(tmp_path, monkeypatch):
    def damaged(path, task):
        ids, values = read_submission(path)
        values[-1, -1] *= 1 - 1e-8
        return ids, values

    monkeypatch.setattr(submission_files, "BLOCK", 4)
    monkeypatch.setattr(submission_files, "read_submission", damaged)
    found = error_of(
        write_submission, tmp_path / "s.csv", np.arange(10).astype("S"), np.full((10, 3), 0.3), EPS, ROUND1
    )
    assert "s.csv" in found and not list(tmp_path.iterdir())


@pytest.mark.parametrize("task", [ICU, LOS, frames(3)], ids=lambda task: task.name)
def test_files_with_a_header_are_read_back_as_written(task, tmp_path):
    rng = np.random.default_rng(0)
    values = task.decode(rng.normal(0, 2, (7, task.n_labels)))
    values[0, 0] = 1.0 if task.has_classes else 731.5
    ids = np.array([b"%d" % i for i in rng.permutation(7) + 132_539])
    write_submission(path := tmp_path / "s.csv", ids, values, EPS, task)
    lines = path.read_text().splitlines()
    assert lines[0] == task.header and len(lines) == 8
    assert all(line.count(",") == task.n_labels == task.header.count(",") for line in lines)
    ids_back, back = read_submission(path, task)
    assert np.array_equal(ids_back, ids)
    np.testing.assert_allclose(back, np.clip(values, EPS, 1 - EPS) if task.has_classes else values, rtol=1e-8)
    if task.kind == "regression":
        assert back.max() == 731.5


@pytest.mark.parametrize(
    ("task", "text", "line"),
    [
        (ICU, "RecordID,death\n1,0.5\n", 1),
        (ICU, "", None),
        (ICU, "RecordID,In-hospital_death\n", None),
        (ICU, "RecordID,In-hospital_death\n1,0.5\n1,0.5\n", 3),
        (ICU, "RecordID,In-hospital_death\n1,0.5,0.5\n", 2),
        (ICU, "RecordID,In-hospital_death\n1,1.5\n", 2),
        (ICU, "RecordID,In-hospital_death\n1 ,0.5\n", 2),
        (ICU, "RecordID,In-hospital_death\n1,0.5\n\n", 3),
        (ICU, "RecordID,In-hospital_death\n1,nan\n", 2),
        (LOS, "RecordID,Length_of_stay\n1,-1\n", 2),
        (LOS, "RecordID,Length_of_stay\n1,inf\n", 2),
        (LOS, "RecordID,Length_of_stay\n1,1e+999\n", 2),
        (LOS, "RecordID,Length_of_stay\n1|,|7\n", 2),
        (frames(2), "id,p0,p1\n1,0.5\n", 2),
        (frames(2), "id,p0,p1\n1,0.5 0.5\n", 2),
    ],
)
def test_other_files_with_a_header_are_errors_that_name_the_line(task, text, line, tmp_path):
    (path := tmp_path / "s.csv").write_text(text)
    found = error_of(read_submission, path, task)
    assert "s.csv" in found and (line is None or f"line {line}:" in found)


@pytest.mark.parametrize("bad", [-0.1, np.nan, np.inf])
def test_what_is_no_length_of_stay_is_not_written(bad, tmp_path):
    found = error_of(write_submission, path := tmp_path / "s.csv", np.array([b"1"]), np.array([[bad]]), EPS, LOS)
    assert "days" in found and not path.exists()
