from __future__ import annotations

import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from src.core.errors import UserError
from src.core.settings import Grid
from src.data.grid import grid
from src.data.packed_zip import PackedZip, Texts
from src.data.series_dataset import encode_stays
from src.data.series_reader import read_outcomes, read_stays
from src.data.stay_files import FileErrors, stay_files
from src.data.synthetic_stays import make_sample
from src.data.tasks import get_task

STAY = b"Time,Parameter,Value\n00:00,RecordID,%d\n00:00,Age,70\n01:00,HR,80\n"
FEW, MANY = 500, 2500


def written(path: Path, kind: type[zipfile.ZipFile], n: int) -> Path:
    with kind(path, "w") as archive:
        for record in range(n, 0, -1):
            member = zipfile.ZipInfo(f"set-b/{10_000_000 + record}.txt")
            archive.writestr(member, STAY % (10_000_000 + record), zipfile.ZIP_DEFLATED, compresslevel=1)
    return path


def bytes_a_stay(task: Callable[[int], object]) -> float:
    """Growth of the peak of Python's memory with each further stay."""
    task(FEW)  # what is loaded once
    peaks = []
    for n in (FEW, MANY):
        tracemalloc.start()
        task(n)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return (peaks[1] - peaks[0]) / (MANY - FEW)


def test_an_archive_has_the_bytes_that_zipfile_writes(tmp_path):
    ours, plain = written(tmp_path / "a.zip", PackedZip, 50), written(tmp_path / "b.zip", zipfile.ZipFile, 50)
    assert ours.read_bytes() == plain.read_bytes()


def test_members_are_those_that_zipfile_finds(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("ä/1.txt", b"one" * 100, zipfile.ZIP_DEFLATED)
        archive.mkdir("folder")
        archive.writestr("folder/2.txt", b"two", zipfile.ZIP_STORED)
        archive.comment = b"a comment"
    with zipfile.ZipFile(tmp_path / "a.zip") as plain, PackedZip(tmp_path / "a.zip") as ours:
        assert len(ours.filelist) == 3
        for member, expected in zip(ours.filelist, plain.filelist, strict=True):
            assert (member.filename, member.is_dir()) == (expected.filename, expected.is_dir())
            assert ours.read(member) == plain.read(expected)


def test_a_member_before_the_archive_is_a_broken_archive(tmp_path):
    path = written(tmp_path / "a.zip", zipfile.ZipFile, 3)
    data = path.read_bytes()
    path.write_bytes(data[:-6] + (int.from_bytes(data[-6:-2], "little") + 5000).to_bytes(4, "little") + data[-2:])
    with pytest.raises(UserError, match=r"a\.zip cannot be read"):
        list(stay_files(path, FileErrors(path)))


def test_texts_come_back():
    texts = Texts()
    names = ["set-a/1.txt", "", "ä", "\udcff", "x" * 300]
    for name in names:
        texts.append(name)
    assert [texts[i] for i in range(len(texts))] == names


def test_the_list_of_a_set_takes_a_hundred_bytes_a_stay(tmp_path):
    paths = {n: written(tmp_path / f"{n}.zip", PackedZip, n) for n in (FEW, MANY)}

    def listed(n: int) -> None:
        last = 0
        for file in stay_files(paths[n], FileErrors(paths[n])):
            assert last < file.record
            last = file.record
        assert last == 10_000_000 + n

    def read(n: int) -> None:
        assert sum(len(block.ids) for block in grid(read_stays(paths[n], block=50))) == n

    assert bytes_a_stay(listed) < 250  # half of it the archive's own directory, for a moment
    assert bytes_a_stay(read) < 250


def test_a_written_archive_takes_a_hundred_bytes_a_stay(tmp_path):
    assert bytes_a_stay(lambda n: written(tmp_path / "a.zip", PackedZip, n)) < 150
    assert bytes_a_stay(lambda n: written(tmp_path / "a.zip", zipfile.ZipFile, n)) > 300


def test_an_encoded_set_leaves_its_values_on_disk(tmp_path):
    paths = {n: written(tmp_path / f"{n}.zip", PackedZip, n) for n in (FEW, MANY)}
    values = 24 * 37 * 4

    def encoded(n: int) -> None:
        made = encode_stays([paths[n]], [None], Grid(step=2), get_task("icu"), tmp_path / f"{n}")
        assert len(made.corpus) == n and made.corpus.inputs["values"].nbytes == n * values

    encoded(FEW)
    tracemalloc.start()
    encoded(MANY)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16e6 + MANY * values / 2  # blocks of 1,000 stays, not 2,500


def test_outcomes_are_found_by_record_in_any_order(tmp_path):
    make_sample(tmp_path, rows=40, test_rows=10, seed=1)
    outcomes = read_outcomes(tmp_path / "Outcomes-a.txt")
    order = np.random.default_rng(0).permutation(len(outcomes))
    ids = np.append(outcomes.ids[order], [b"1", b"99999999", b"123456789012"])
    assert outcomes.rows_of(ids).tolist() == [*order.tolist(), -1, -1, -1]
    path = tmp_path / "Outcomes-x.txt"
    path.write_text((tmp_path / "Outcomes-a.txt").read_text() + "\n")
    with pytest.raises(UserError, match="line 42"):  # a blank line at the end
        read_outcomes(path)
