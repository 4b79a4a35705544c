from __future__ import annotations

import pytest

from src.core.errors import UserError
from src.core.settings import Paths
from src.data.input_files import KNOWN, describe_known, find_files


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
        (["testA.csv"], r"no file in .* matches paths.train \(\*train\*.csv\), though testA.csv is there"),
        (["extra.csv"], r"no file in .* matches paths.train \(\*train\*.csv\), though extra.csv is there"),
        (["train.csv", "latest_train.csv"], r"latest_train.csv matches paths.train .* and paths.test"),
        (
            ["train.csv", "extra_train.csv"],
            r"extra_train.csv matches paths.train \(\*train\*.csv\) and paths.extra \(\*extra\*.csv\). Rename it",
        ),
        (["train.csv", "extra_test.csv"], r"extra_test.csv matches paths.test .* and paths.extra"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path, names, message):
    touch(tmp_path, *names)
    with pytest.raises(UserError, match=message):
        find_files(Paths(input=tmp_path))


def test_two_test_files_of_one_name_are_told(tmp_path):
    touch(tmp_path, "train.csv", "testB.csv", "testB.txt")
    with pytest.raises(UserError, match="two test files are called testB"):
        find_files(Paths(input=tmp_path, train="train*", test="test*"))


def test_two_extra_files_of_one_name_are_told(tmp_path):
    touch(tmp_path, "train.csv", "extra.csv", "extra.txt")
    with pytest.raises(UserError, match="two extra files are called extra"):
        find_files(Paths(input=tmp_path, extra="extra*"))


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(UserError, match=r"paths.input: .*nowhere is not a folder"):
        find_files(Paths(input=tmp_path / "nowhere"))


def test_known_files_are_named(tmp_path):
    sha256, name = next(iter(KNOWN.items()))
    assert describe_known(tmp_path / "mine.csv", sha256) == f"the published {name}"
    assert "not that of the published file" in describe_known(tmp_path / name, "0" * 64)
    assert describe_known(tmp_path / "mine.csv", "0" * 64) == "sha256 00000000…"
    assert all(len(digest) == 64 for digest in KNOWN)
