from __future__ import annotations

import pytest

from src.core.errors import UserError
from src.core.settings import Paths
from src.core.settings_loader import load_config
from src.data import sources
from src.data.input_files import KNOWN, describe_known, find_files
from tests.conftest import error_of


def touch(folder, *names):
    for name in names:
        (folder / name).write_text("")


def test_globs_find_the_published_names(tmp_path):
    touch(tmp_path, "track1_round1_train_20210222.csv", "track1_round1_testA_20210222.csv", "track1_round1_testB.csv")
    touch(tmp_path, "notes.txt", "answers.csv")
    (tmp_path / "sample").mkdir()
    touch(tmp_path / "sample", "sample_train.csv")
    files = find_files(Paths(input=tmp_path))
    assert [path.name for path in files.train] == ["track1_round1_train_20210222.csv"]
    assert [path.name for path in files.test] == ["track1_round1_testA_20210222.csv", "track1_round1_testB.csv"]


def test_extra_files_are_of_their_own(tmp_path):
    touch(tmp_path, "train.csv", "testA.csv", "round2_extra.csv", "extra_b.csv")
    files = find_files(Paths(input=tmp_path))
    assert [path.name for path in files.extra] == ["extra_b.csv", "round2_extra.csv"]
    assert [path.name for path in files.train + files.test] == ["train.csv", "testA.csv"]


def test_train_files_alone_will_do(tmp_path):
    touch(tmp_path, "train.csv")
    files = find_files(Paths(input=tmp_path))
    assert files.test == files.extra == []


def test_nothing_there(tmp_path):
    assert find_files(Paths(input=tmp_path)) is None


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["testA.csv"], r"paths.train \(\*train\*.csv\).*testA.csv"),
        (["extra.csv"], r"paths.train \(\*train\*.csv\).*extra.csv"),
        (["train.csv", "latest_train.csv"], r"latest_train.csv.*paths.train.*paths.test"),
        (
            ["train.csv", "extra_train.csv"],
            r"extra_train.csv.*paths.train \(\*train\*.csv\).*paths.extra \(\*extra\*.csv\)",
        ),
        (["train.csv", "extra_test.csv"], r"extra_test.csv.*paths.test.*paths.extra"),
    ],
)
def test_missing_and_ambiguous_files_are_refused(tmp_path, names, message):
    touch(tmp_path, *names)
    with pytest.raises(UserError, match=message):
        find_files(Paths(input=tmp_path))


@pytest.mark.parametrize(("role", "stem"), [("test", "testB"), ("extra", "extra")])
def test_two_files_of_one_stem_are_refused(tmp_path, role, stem):
    touch(tmp_path, "train.csv", f"{stem}.csv", f"{stem}.txt")
    with pytest.raises(UserError, match=rf"two {role} files .*{stem}\b"):
        find_files(Paths(input=tmp_path, train="train*", **{role: f"{role}*"}))


@pytest.mark.parametrize("task", ["icu", "frames"])
def test_the_own_folder_of_a_task_may_be_missing_until_sample_data_is_made(tmp_path, monkeypatch, task):
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    own, other = (
        load_config("quick", [f"task={task}", f"paths.input={tmp_path / name}"])
        for name in (f"input/{task}", "elsewhere")
    )
    assert sources.find_files(own) is None
    if task == "icu":
        assert "there is no folder" in error_of(sources.find_files, other)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"paths.input: .*nowhere"):
        find_files(Paths(input=tmp_path / "nowhere"))


def test_known_files_are_named(tmp_path):
    sha256, name = next(iter(KNOWN.items()))
    assert name in describe_known(tmp_path / "mine.csv", sha256)
    other, unknown = describe_known(tmp_path / name, "0" * 64), describe_known(tmp_path / "mine.csv", "0" * 64)
    assert "00000000" in other and "published" in other
    assert "00000000" in unknown and "published" not in unknown
    assert all(len(digest) == 64 for digest in KNOWN)
