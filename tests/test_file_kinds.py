"""Descriptions of refused files; no file is waited for."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import re
import subprocess
import tarfile
import time
import zipfile

import numpy as np
import pytest

from src.data.file_kinds import EXPECTED, open_bytes, other_kind
from src.data.image_reader import read_images
from src.data.line_parser import COUNTED
from src.data.report_reader import read_reports
from src.data.series_reader import OUTCOMES_HEADER, read_outcomes, read_stays
from src.data.submission_files import read_submission
from src.data.tasks import ICU
from tests.conftest import error_of

REPORTS = b"".join(b"%d|,|%d 328 538 \n" % (i, 600 + i) for i in range(40))
LABELLED = REPORTS.replace(b" \n", b" |,|2 15\n")
SUBMISSION = b"".join(b"%d|,|0.25 1e-07 0.9999999\n" % i for i in range(40))
CHINESE = "".join(f"{i}|,|右侧胸廓对称，气管居中 |,|2\n" for i in range(40))


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, REPORTS)
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("train.csv")
        info.size = len(REPORTS)
        archive.addfile(info, io.BytesIO(REPORTS))
    return buffer.getvalue()


def saved(array: np.ndarray) -> bytes:
    np.save(buffer := io.BytesIO(), array)
    return buffer.getvalue()


def with_end(text: bytes, end: bytes) -> bytes:
    return text.replace(b"\n", end)


KINDS = {
    "empty": (b"", "is empty"),
    "zeros": (bytes(5000), "nothing but NUL bytes"),
    "zip": (zipped("train.csv"), "zip archive"),
    "Excel": (zipped("[Content_Types].xml", "xl/workbook.xml"), "Excel or WPS (.xlsx)"),
    "Word": (zipped("[Content_Types].xml", "word/document.xml"), "Word document"),
    "npz": (zipped("a.npy"), ".npz"),
    "old Excel": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(4000), "Excel or WPS (.xls"),
    "gzip": (gzip.compress(REPORTS), "gzip"),
    "bzip2": (bz2.compress(REPORTS), "bzip2"),
    "xz": (lzma.compress(REPORTS), "xz"),
    "tar": (tarred(), "tar archive"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(100), "7z"),
    "RAR": (b"Rar!\x1a\x07\x01\0" + bytes(100), "RAR"),
    "pickle": (pickle.dumps(REPORTS, protocol=4), "pickle"),
    "npy": (saved(np.arange(9)), ".npy"),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3\n" + REPORTS, "PDF"),
    "Parquet": (b"PAR1" + bytes(100) + b"PAR1", "Parquet"),
    "SQLite": (b"SQLite format 3\0" + bytes(100), "SQLite"),
    "HTML": (b"<!DOCTYPE html>\n<html><head><title>Login</title></head></html>\n", "web page"),
    "XML": (b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>\n', "web page"),
    "JSON": (json.dumps([{"id": 1, "text": "1 2"}] * 5).encode(), "JSON"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 5\n", "git lfs pull"),
    "UTF-16": (REPORTS.decode().encode("utf-16"), "UTF-16"),
    "UTF-16 big": (("\ufeff" + REPORTS.decode()).encode("utf-16-be"), "UTF-16"),
    "UTF-16 bare": (REPORTS.decode().encode("utf-16-le"), "UTF-16"),
    "UTF-32": (REPORTS.decode().encode("utf-32"), "UTF-32"),
    "GBK": (CHINESE.encode("gbk"), "GBK"),
    "UTF-8": (CHINESE.encode(), "UTF-8 (右侧胸廓"),
    "CR": (with_end(REPORTS, b"\r"), "CR alone"),
    "header": (b"report_ID|,|description\n" + REPORTS, "header in line 1, 'report_ID|,|description'"),
    "header in Chinese": ("编号|,|描述\n".encode() + REPORTS, "header in line 1, '编号|,|描述'"),
    "header in GBK": ("编号|,|描述\n".encode("gbk") + REPORTS, "header in line 1, '编号|,|描述'"),
    "header with BOM": (b"\xef\xbb\xbfid|,|text\n" + REPORTS, "header in line 1, 'id|,|text'"),
    "quoted": (REPORTS.replace(b"|,|", b'"|,|"').replace(b"\n", b'"\n'), "quotation marks"),
    "pandas": (b"".join(b"%d,%s\n" % (i, line) for i, line in enumerate(REPORTS.splitlines())), "index=False"),
    "Excel's bars": (REPORTS.replace(b"|,|", b"|;|"), "'|;|' between its fields"),
    "WPS' tabs": (REPORTS.replace(b"|,|", b"|\t|"), r"'|\t|' between its fields"),
    "empty columns": (with_end(REPORTS, b",,\n"), "empty columns"),
    "commas": (REPORTS.replace(b"|,|", b","), "ordinary CSV of 2 columns between commas"),
    "semicolons": (LABELLED.replace(b"|,|", b";"), "ordinary CSV of 3 columns between semicolons"),
    "tabs": (REPORTS.replace(b"|,|", b"\t"), "ordinary CSV of 2 columns between tabs"),
    "bars": (LABELLED.replace(b"|,|", b"|"), "ordinary CSV of 3 columns between bars"),
    "submission": (SUBMISSION, "is a submission"),
    "stay": (b"Time,Parameter,Value\n00:00,RecordID,1\n00:00,Age,61\n", "the file of one stay"),
    "outcomes": (b"RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death\n1,1,1,1,1,1\n", "outcomes"),
    "submission of stays": (b"RecordID,In-hospital_death\n1,0.5\n2,0.25\n3,0.5\n", "submission of stays"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("labelled", [True, False, None])
def test_what_is_no_file_of_reports_is_named(write, kind, labelled):
    content, told = KINDS[kind]
    found = error_of(read_reports, path := write(content), labelled=labelled)
    assert found.startswith(f"{path} ") and told in found and EXPECTED["reports"] in found, found
    assert len(found.splitlines()) == 1


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("submission", "submission of stays")])
def test_what_is_no_submission_is_named(write, kind):
    content, told = KINDS[kind]
    found = error_of(read_submission, write(content))
    assert told in found, found


def test_reports_are_told_from_submissions(write):
    for text in (REPORTS, LABELLED):
        assert "holds reports, no submission" in error_of(read_submission, write(text))


BINARY = ("empty", "zeros", "zip", "Excel", "gzip", "tar", "old Excel", "HTML", "LFS", "UTF-16", "UTF-16 bare", "JSON")


@pytest.mark.parametrize("kind", [*BINARY, "semicolons", "stay", "submission of stays"])
def test_what_are_no_outcomes_is_named(write, kind):
    content, told = KINDS[kind]
    assert told in error_of(read_outcomes, write(content))


@pytest.mark.parametrize("kind", [kind for kind in BINARY if kind != "zip"])
def test_what_are_no_images_is_named(write, kind):
    content, told = KINDS[kind]
    assert told in error_of(read_images, write(content, "images.npz"))


@pytest.mark.parametrize("kind", ["empty", "zeros", "7z", "RAR", "HTML", "LFS", "PDF", "old Excel", "outcomes"])
def test_what_is_no_set_of_stays_is_named(write, kind):
    content, told = KINDS[kind]
    assert told in error_of(lambda path: list(read_stays(path)), write(content, "set-a.zip"))


@pytest.mark.parametrize("kind", ["pandas", "header"])
def test_clinical_submissions_of_another_form_are_named(write, kind):
    text = {"pandas": b",RecordID,In-hospital_death\n0,7,0.5\n1,8,0.5\n", "header": b"7,0.5\n8,0.5\n9,0.5\n"}[kind]
    expected = {"pandas": "index=False", "header": "expected RecordID,In-hospital_death"}[kind]
    assert expected in error_of(read_submission, write(text), ICU)


@pytest.mark.parametrize("text", [REPORTS, LABELLED, SUBMISSION], ids=["reports", "labelled", "submission"])
@pytest.mark.parametrize(
    "line", [b"\n", b"x\n", b"7|,1 2\n", b"a;b;c\n", b'"7"|,|1\n', b"\xe5\xe5|,|1\n", b"7|,|1,,\n"]
)
def test_one_wrong_line_makes_no_other_kind(text, line):
    """The list of errors says more."""
    expected = "submission" if text is SUBMISSION else "reports"
    lines = text.splitlines(keepends=True)
    for at in (1, 20, 39):
        assert other_kind(b"".join([*lines[:at], line, *lines[at:]]), expected) == ""


@pytest.mark.parametrize("text", [b"1|,|x\n", b"7|,|1 \n", b"|,|1\n", b"1|,\n", b"\n", b"\0\0\n"])
def test_counting_stops(write, text):
    started = time.process_time()
    for read in (read_reports, read_submission):
        found = error_of(read, write(b"0|,|0 1\n" + text * 100_000))
        assert f"{COUNTED:,} errors or more" in found and len(found.splitlines()) == 21
    found = error_of(read_outcomes, write(OUTCOMES_HEADER.encode() + b"\n" + text * 100_000))
    assert f"{COUNTED:,} errors or more" in found and len(found.splitlines()) == 21
    assert time.process_time() - started < 5


def test_a_label_repeated_many_times_is_one_error(write):
    started = time.process_time()
    found = error_of(read_reports, write(b"0|,|1 |,|" + b"3 " * 200_000 + b"\n"))
    assert "label 3 is repeated" in found and "1 error:" in found
    assert time.process_time() - started < 5


def test_no_pipe_is_waited_for(tmp_path):
    os.mkfifo(path := tmp_path / "pipe.csv")
    for read in (
        open_bytes,
        read_reports,
        read_submission,
        read_outcomes,
        read_images,
        lambda path: list(read_stays(path)),
    ):
        assert "no regular file" in error_of(read, path)


def test_what_cannot_be_opened_is_named(tmp_path):
    (tmp_path / "link.csv").symlink_to("nowhere.csv")
    (tmp_path / "circle.csv").symlink_to("circle.csv")
    for name, told in (
        ("link.csv", "is a link to nowhere.csv, which is not there"),
        ("circle.csv", "cannot be read"),
        ("none.csv", "there is no file"),
        ("none/none.csv", "there is no file"),
        ("a" * 300, "cannot be read"),
        ("a\0b", "cannot be read"),
        ("", "is a folder"),
    ):
        assert told in error_of(open_bytes, tmp_path / name)


@pytest.mark.parametrize(
    "piece", [b"9", b"9 ", b"0.5 ", b" ", b"|", b"|,|", b",", b"x", b".", b"-", b"\t", b"1,", b"\xe5", b"e"]
)
@pytest.mark.parametrize("start", [b"", b"7|,|", b"7|,|1 2 |,|", b"7,"])
def test_no_reader_takes_the_square_of_a_line(write, piece, start):
    """Twenty times as long as a line of 16 KB, which a quadratic reader takes a tenth of a second for."""
    path = write(b"1|,|0\n" + start + piece * (320_000 // len(piece)) + b"!\n2|,|0\n")
    started = time.process_time()
    for read in (read_reports, read_submission, read_outcomes, lambda path: read_submission(path, ICU)):
        error_of(read, path)
    assert time.process_time() - started < 10


@pytest.mark.parametrize(
    "line", [b"10:00,HR," + b"9" * 500_000, b"10:00," + b"H" * 500_000 + b",1", b"1" * 500_000, b"," * 500_000]
)
def test_no_line_of_a_stay_takes_its_square(tmp_path, line):
    (tmp_path / "5.txt").write_bytes(b"Time,Parameter,Value\n00:00,RecordID,5\n" + line + b"\n")
    started = time.process_time()
    assert "5.txt, line 3" in error_of(lambda path: list(read_stays(path)), tmp_path)
    assert time.process_time() - started < 10


def test_counting_stops_in_a_stay_too(tmp_path):
    for record in range(3):
        (tmp_path / f"{record}.txt").write_bytes(b"Time,Parameter,Value\n00:00,RecordID,5\n" + b"\n" * 1_000_000)
    started = time.process_time()
    assert f"{COUNTED:,} errors or more" in error_of(lambda path: list(read_stays(path)), tmp_path)
    assert time.process_time() - started < 10


EXPORTS = {
    "commas": lambda rows: "\n".join(",".join(row) for row in rows),
    "header": lambda rows: "\n".join(["id,text,label", *(",".join(row) for row in rows)]),
    "quotes": lambda rows: "\n".join(",".join(f'"{field}"' for field in row) for row in rows),
    "semicolons and header": lambda rows: "\n".join(["report_ID;description;label", *(";".join(row) for row in rows)]),
    "tabs": lambda rows: "\n".join("\t".join(row) for row in rows),
    "bars": lambda rows: "\n".join("|".join(row) for row in rows),
}


@pytest.mark.parametrize("kind", EXPORTS)
@pytest.mark.parametrize("columns", [2, 3])
def test_the_command_of_the_message_makes_the_file_that_was_exported(write, tmp_path, kind, columns):
    """Also of round 2, whose labels have a comma."""
    for labels in ("3 4", "3 4,0 2"):
        rows = [[str(i), f"{i + 1} 12 7 ", labels][:columns] for i in range(9)]
        text = EXPORTS[kind](rows)
        told = error_of(read_reports, path := write(text.encode(), "my reports.csv"), labelled=None)
        (command,) = re.findall(r"sed '.*?' .* > NEW.csv", told)
        subprocess.run(command, shell=True, cwd=tmp_path, check=True)
        made = (tmp_path / "NEW.csv").read_text().splitlines()
        assert made == ["|,|".join(row) for row in rows], command
        path.unlink()


def test_an_exported_submission_is_mended_too(write, tmp_path):
    rows = [f"{i},0.1,0.2,0.3" for i in range(5)]
    told = error_of(read_submission, write("\n".join(["id,first,second,third", *rows]).encode()))
    (command,) = re.findall(r"sed '.*?' .* > NEW.csv", told)
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    assert (tmp_path / "NEW.csv").read_text().splitlines() == [f"{i}|,|0.1 0.2 0.3" for i in range(5)]
