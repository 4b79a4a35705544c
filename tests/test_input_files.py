from __future__ import annotations

import os

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


NOT_READ = {
    "capital letters": (["Train.CSV"], "Train.CSV is not read: *train*.csv tells capital letters"),
    "capital test": (["testB.Csv"], "testB.Csv is not read: *test*.csv tells capital letters"),
    "another ending": (["train_b.txt"], "train_b.txt is not read: *train*.csv wants another ending"),
    "half a download": (["test.csv.part"], "test.csv.part is not read"),
    "a copy": (["train.csv.bak"], "train.csv.bak is not read"),
    "a workbook": (["train.xlsx"], "train.xlsx is not read"),
    "zip": (["data.zip"], "data.zip is not read: it is an archive. Unpack it"),
    "tar": (["round1.tar.gz"], "round1.tar.gz is not read: it is an archive"),
    "gzip": (["train.csv.gz"], "train.csv.gz is not read: it is an archive"),
    "folder": (["tcdata/track1_train.csv"], "tcdata is a folder and is not read, but holds track1_train.csv"),
    "folder with capitals": (["Data/TRAIN.CSV"], "Data is a folder and is not read, but holds TRAIN.CSV"),
    "folder of that name": (["train.csv.d/x", "train_1.csv/x"], "train_1.csv is a folder and is not read"),
    "hidden": (["._train.csv"], "._train.csv is a hidden file and is not read"),
    "lock of Office": (["~$train.csv"], "~$train.csv is a hidden file and is not read"),
}


@pytest.mark.parametrize("kind", NOT_READ)
def test_what_looks_like_input_and_is_not_read_is_told(tmp_path, kind):
    names, told = NOT_READ[kind]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert told in error_of(find_files, Paths(input=tmp_path)), "sample data would take their place"
    touch(tmp_path, "train.csv")
    files = find_files(Paths(input=tmp_path))
    assert [path.name for path in files.train] == ["train.csv"] and files.test == []
    assert [True] == [told in sentence for sentence in files.overlooked]


def test_a_table_of_another_name_is_told_where_sample_data_would_take_its_place(tmp_path):
    touch(tmp_path, "reports.csv", "B.csv", "wrong.csv")
    told = error_of(find_files, Paths(input=tmp_path, exclude=tmp_path / "wrong.csv"))
    assert "reports.csv is not read: no setting matches its name" in told
    assert "B.csv is not read" in told and "wrong.csv" not in told


@pytest.mark.parametrize(
    ("line", "is_told"),
    [
        ("0|,|12 3 4 |,|\n", True),
        ("0|,|12 3 4 |,|2 5\r\n", True),
        ("0|,|12" + " 7" * 5000, True),
        ("0|,|0.1 0.9\n", False),
        ("0|,|\n", False),
        ("0,12 3 4\n", False),
        ("", False),
    ],
)
def test_reports_under_another_name_beside_a_train_file_are_told(tmp_path, line, is_told):
    touch(tmp_path, "train.csv", "test.csv")
    (tmp_path / "B.csv").write_text(line)
    files = find_files(Paths(input=tmp_path))
    assert [path.name for path in files.test] == ["test.csv"]
    why = "no setting matches its name. If it is a file of reports, put train or test into the name"
    assert files.overlooked == [f"{tmp_path / 'B.csv'} is not read: {why}"] * is_told
    assert find_files(Paths(input=tmp_path, weights=tmp_path / "B.csv")).overlooked == []
    (tmp_path / "B.csv").rename(tmp_path / "answers_B.csv")
    assert find_files(Paths(input=tmp_path)).overlooked == []


def test_a_file_is_told_of_once(tmp_path):
    touch(tmp_path, "train.csv")
    (tmp_path / "Test.csv").write_text("0|,|1 2 |,|\n")
    (told,) = find_files(Paths(input=tmp_path)).overlooked
    assert "tells capital letters from small ones" in told


def test_what_does_not_look_like_input_is_not_told_of(tmp_path):
    touch(tmp_path, "train.csv", "test.csv", "notes.txt", "constraints.md", "latest.py", ".hidden", "answers.csv")
    for name in ("sample", "icu", "frames", "scripts", "output"):
        (tmp_path / name).mkdir()
    touch(tmp_path / "sample", "sample_train.csv")
    touch(tmp_path / "scripts", "test.py")
    touch(tmp_path / "output", "submission_test.csv")
    (tmp_path / "link.txt").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    assert find_files(Paths(input=tmp_path, output=tmp_path / "output")).overlooked == []


@pytest.mark.parametrize("name", ["train_b.csv", "test.csv", "extra.csv"])
def test_what_cannot_be_read_is_refused_by_name(tmp_path, name):
    touch(tmp_path, "train.csv")
    (tmp_path / name).symlink_to("nowhere.csv")
    assert f"{tmp_path / name} is a link to nowhere.csv" in error_of(find_files, Paths(input=tmp_path))
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    assert f"{tmp_path / name} is no regular file" in error_of(find_files, Paths(input=tmp_path))
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("train.csv")
    assert find_files(Paths(input=tmp_path)) is not None


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (b"test\xff.csv", r"b'.*test\\xff.csv' is not UTF-8"),
        (b"test\n.csv", r"test\\n.csv' has characters"),
        (b"test\x1b[31m.csv", r"test\\x1b\[31m.csv' has characters"),
        (b"test" + b"x" * 180 + b".csv", "has 188 bytes, expected at most"),
        ("test" + "数" * 60 + ".csv", "has 188 bytes, expected at most"),
    ],
)
def test_names_that_results_cannot_have_are_refused(tmp_path, name, told):
    touch(tmp_path, "train.csv", os.fsdecode(name))
    with pytest.raises(UserError, match=told):
        find_files(Paths(input=tmp_path))


def test_names_in_other_letters_are_read(tmp_path):
    touch(tmp_path, "训练 train.csv", "数据test é.csv")
    assert [path.name for path in find_files(Paths(input=tmp_path)).test] == ["数据test é.csv"]


def test_train_files_of_one_name_in_two_folders_are_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        touch(tmp_path / name, "train.csv")
    assert "two train files have the name train.csv" in error_of(find_files, Paths(input=tmp_path, train="*/train.csv"))


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


def test_the_output_folder_is_not_the_input_folder(tmp_path):
    """Submissions would be taken for test files. Inside of it the output folder is passed over."""
    (tmp_path / "output").mkdir()
    made = Paths(input=tmp_path, output=tmp_path / "output" / "..")
    assert f"paths.output={tmp_path / 'output'}" in error_of(find_files, made)
    (tmp_path / "output/submission_sample_testA.csv").touch()
    (tmp_path / "sample_train.csv").write_text("", encoding="utf-8")
    found = find_files(Paths(input=tmp_path, output=tmp_path / "output"))
    assert found.test == [] and found.overlooked == []
