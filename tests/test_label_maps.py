"""Labels of institutions that number them otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from src.core.settings_loader import load_config
from src.data.label_maps import checksum, renumbered
from src.data.report_reader import read_reports
from src.evaluation.workspace import Workspace
from tests.conftest import error_of, run_command, words

REPORTS = "1|,|5 6 7|,|3 4\n2|,|8 9|,|5\n3|,|8 9|,|\n"


@pytest.fixture
def files(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(REPORTS)
    return [read_reports(tmp_path / name, True) for name in ("a.csv", "b.csv")]


def labels_of(file) -> list[list[int]]:
    return [np.flatnonzero(row).tolist() for row in file.labels]


def given(folder: Path, text: str) -> Path:
    (folder / "map.csv").write_text(text)
    return folder / "map.csv"


def test_labels_get_their_numbers_and_others_stay(files, tmp_path):
    first, second = renumbered(given(tmp_path, "file,label,means\nb.csv,3,5\nb.csv,5,3\n"), files)
    assert labels_of(first) == [[3, 4], [5], []]
    assert labels_of(second) == [[4, 5], [3], []]
    (_first, second) = renumbered(given(tmp_path, "b.csv,3,4\n"), files)
    assert labels_of(second) == [[4], [5], []], "two labels may mean one"


def test_what_is_not_there_is_named_with_its_line(files, tmp_path):
    text = "file,label,means\nc.csv,1,2\nb.csv,17,2\nb.csv,1\nb.csv,1,2\nb.csv,1,3\n"
    told = error_of(renumbered, given(tmp_path, text), files)
    assert "map.csv" in told and "no labelled train or extra file is called 'c.csv'" in told and "line 2" in told
    assert "'17' is no label of b.csv, which has 0 to 16" in told and "expected file,label,means" in told
    assert "named a second time" in told
    for text in ("", "file,label,means\n"):
        assert "maps no label" in error_of(renumbered, given(tmp_path, text), files)
    assert "cannot be read" in error_of(checksum, tmp_path / "none.csv")


def test_stays_have_no_label_map():
    assert "renumbers labels of reports" in error_of(load_config, "quick", ["task=icu", "domains.labels=map.csv"])


def test_prepare_reads_by_the_map_and_again_when_it_changes(tiny_input, tmp_path):
    path, labels, manifests = given(tmp_path, "sample_train.csv,0,1\nsample_train.csv,1,0\n"), [], []
    for text in (None, path.read_text(), "sample_train.csv,0,1\n"):
        more = []
        if text is not None:
            path.write_text(text)
            more = [f"domains.labels={path}"]
        made = words(tiny_input, tmp_path / "output", *more)
        run_command(["prepare", *made])
        workspace = Workspace(load_config("sample", [word for word in made if "=" in word]), read_only=True)
        labels.append(workspace.labels.copy())
        manifests.append(workspace.dataset.manifest["train"])
    plain, swapped, joined = labels
    assert np.array_equal(swapped[:, [1, 0]], plain[:, :2]) and np.array_equal(swapped[:, 2:], plain[:, 2:])
    assert not joined[:, 0].any() and np.array_equal(joined[:, 1], plain[:, :2].max(axis=1))
    assert len(set(manifests)) == 3


def test_a_field_that_is_too_long_is_refused(tmp_path, files):
    path = tmp_path / "map.csv"
    path.write_text("file,label,means\n" + "x" * 200_000 + ",1,2\n")
    assert "map.csv cannot be read (field larger than field limit" in error_of(renumbered, path, files)
