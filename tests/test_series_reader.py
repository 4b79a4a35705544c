"""Stays and outcomes of PhysioNet 2012: what is read, what becomes missing, and what a wrong file is answered."""

from __future__ import annotations

import io
import lzma
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.core.errors import UserError
from src.core.settings_loader import load_config
from src.data import series_reader, stay_files
from src.data.grid import PARAMETERS, STATICS, grid
from src.data.plausible import DESCRIPTORS, SERIES
from src.data.series_dataset import labels_of
from src.data.series_reader import (
    OUTCOMES_HEADER,
    Facts,
    find_sets,
    join,
    parse_line,
    read_outcomes,
    read_stays,
    split_sets,
)
from src.data.sources import find_files
from src.data.tasks import ICU, LOS
from tests.conftest import error_of

HEADER = "Time,Parameter,Value"
DEFAULT = {"Age": "54", "Gender": "0", "Height": "-1", "ICUType": "4", "Weight": "-1"}


def stay_text(record: int, *lines: str, **descriptors: str) -> str:
    start = [f"00:00,RecordID,{record}"]
    start += [f"00:00,{name},{value}" for name, value in (DEFAULT | descriptors).items()]
    return "\n".join([HEADER, *start, *lines]) + "\n"


@pytest.fixture
def folder(tmp_path):
    """Function that writes texts by file name to a folder set-a."""

    def write(**texts: str | bytes) -> Path:
        path = tmp_path / "set-a"
        path.mkdir(exist_ok=True)
        for name, text in texts.items():
            (path / f"{name.removeprefix('n')}.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


THREE = {
    "n30": stay_text(30, "00:07,HR,73", "00:07,HR,75", "01:00,Temp,36.61", "48:00,Urine,1.1e+04", "48:00,GCS,3"),
    "n7": stay_text(7, Gender="1", Height="180.3", Weight="80"),
    "n100": stay_text(100, "00:00,Weight,81.5", "00:30,Weight,82", "00:20,pH,7.41", Weight="81"),
}


def rows(path: Path, facts: Facts | None = None, block: int = 1000) -> list[tuple]:
    """Values of all stays as (RecordID, minute, parameter, value)."""
    found = []
    for part in read_stays(path, block, facts):
        for stay, minute, parameter, value in zip(part.stay, part.minute, part.parameter, part.value, strict=True):
            found.append((int(part.ids[stay]), int(minute), SERIES[parameter].name, pytest.approx(float(value))))
    return found


def all_ids(path: Path, block: int = 1000) -> list[bytes]:
    return [name for part in read_stays(path, block) for name in part.ids.tolist()]


def as_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path


def as_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text))
    return path


def members(path: Path, prefix: str = "set-a/") -> dict[str, bytes]:
    return {prefix + file.name: file.read_bytes() for file in sorted(path.iterdir())}


# What is read


def test_stays(folder):
    facts = Facts()
    path = folder(**THREE)
    assert rows(path, facts) == [
        (30, 7, "HR", 73), (30, 7, "HR", 75), (30, 60, "Temp", 36.61), (30, 2880, "GCS", 3),
        (100, 0, "Weight", 81.5), (100, 20, "pH", 7.41), (100, 30, "Weight", 82),
    ]  # fmt: skip
    assert (facts.stays, facts.rows, facts.without_series, facts.blank) == (3, 18 + 8, 1, 0)
    assert facts.unknown == {"Height": 2, "Weight": 1} and facts.implausible == {"Urine": 1}
    assert facts.values["HR"] == 2 and facts.values["Weight"] == 5 and facts.parameters == 6 + 5
    assert "3 stays" in facts.describe()
    (block,) = read_stays(path)
    assert block.ids.tolist() == [b"7", b"30", b"100"]
    assert (block.minute.dtype, block.parameter.dtype, block.value.dtype) == (np.int32, np.uint8, np.float32)
    found = {parameter.name: block.descriptors[:, i] for i, parameter in enumerate(DESCRIPTORS)}
    np.testing.assert_array_equal(found["Age"], [54, 54, 54])
    np.testing.assert_array_equal(found["Gender"], [1, 0, 0])
    np.testing.assert_array_equal(found["Height"], np.float32([180.3, np.nan, np.nan]))
    np.testing.assert_array_equal(found["Weight"], [80, np.nan, 81])


def test_size_of_blocks_changes_nothing(folder):
    path = folder(**THREE)
    assert rows(path, block=1) == rows(path, block=2) == rows(path)
    assert [len(block) for block in read_stays(path, block=2)] == [2, 1]


def test_blank_parameters_are_dropped_and_counted(folder):
    facts = Facts()
    assert rows(folder(n1=stay_text(1, "00:10,,5", "00:11,,", "00:12,HR,60")), facts) == [(1, 12, "HR", 60)]
    assert facts.blank == 2 and facts.rows == 9 and "2 rows with a blank parameter" in facts.describe()


@pytest.mark.parametrize("parameter", SERIES, ids=lambda parameter: parameter.name)
def test_plausible_range(folder, parameter):
    below, above = parameter.low - 0.001, parameter.high + 0.001
    lines = [f"01:0{i},{parameter.name},{value:.3f}" for i, value in enumerate((below, *parameter[3:5], above))]
    facts = Facts()
    found = rows(folder(n1=stay_text(1, *lines)), facts)
    assert [minute for _, minute, _, _ in found] == [61, 62]
    assert facts.implausible == {parameter.name: 2}


def test_a_lost_decimal_point_is_put_back_and_counted(folder):
    lines = [f"01:0{i},pH,{value}" for i, value in enumerate((735, 73, 7.35, 94, 187, 0))]
    facts = Facts()
    found = rows(folder(n1=stay_text(1, *lines, "02:00,HR,735")), facts)
    assert found == [(1, 60, "pH", 7.35), (1, 61, "pH", 7.3), (1, 62, "pH", 7.35)]
    assert facts.repaired == {"pH": 2} and facts.implausible == {"pH": 3, "HR": 1}
    assert facts.values["pH"] == 6 and "2 values repaired" in facts.describe()


@pytest.mark.parametrize(("name", "value"), [("Height", "13"), ("Gender", "0.5"), ("ICUType", "5"), ("Weight", "3")])
def test_implausible_descriptors(folder, name, value):
    facts = Facts()
    (block,) = read_stays(folder(n1=stay_text(1, **{name: value})), facts=facts)
    column = [parameter.name for parameter in DESCRIPTORS].index(name)
    assert np.isnan(block.descriptors[0, column]) and facts.implausible == {name: 1}


def test_line_ends_change_nothing(folder, tmp_path):
    expected = rows(folder(**THREE))
    for change in (lambda text: text.replace("\n", "\r\n"), lambda text: text[:-1]):
        shutil.rmtree(tmp_path / "set-a")
        assert rows(folder(**{name: change(text) for name, text in THREE.items()})) == expected


FORMS = ["zip", "unsorted zip", "tar", "tar.gz", "tar.xz", "tar.bz2", "unsorted tar.gz", "nested folder", "flat zip"]


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_a_set_are_equal(folder, tmp_path, form):
    path = folder(**THREE)
    facts, other_facts = Facts(), Facts()
    expected = rows(path, facts)
    files = members(path, "" if form.startswith("flat") else "set-a/")
    files = {"set-a/._7.txt": b"\0\5\x16\7", "__MACOSX/set-a/7.txt": b"", "set-a/README": b"hello", **files}
    order = sorted(files, key=lambda name: (len(name), name), reverse=form.startswith("unsorted"))
    files = {name: files[name] for name in order}
    other = tmp_path / f"other.{form.split()[-1]}"
    if form == "nested folder":
        shutil.copytree(path, other / "set-a" / "set-a")
        (other / "set-a" / "._7.txt").write_bytes(b"\0\5\x16\7")
    elif form.endswith("zip"):
        as_zip(other, files)
    else:
        as_tar(other, files, {"tar": "w"}.get(form, f"w:{form.rpartition('.')[2]}"))
    assert rows(other, other_facts, block=2) == expected
    assert other_facts == facts and facts.sha256


@pytest.mark.parametrize("is_sorted", [True, False])
def test_tar_larger_than_the_budget(folder, tmp_path, monkeypatch, is_sorted):
    path = folder(**{f"n{record}": stay_text(record, f"00:10,HR,{record}") for record in range(60, 80)})
    files = sorted(members(path).items(), reverse=not is_sorted)
    archive = as_tar(tmp_path / "other.tar.gz", dict(files), "w:gz")
    expected, passes, original = rows(path), [], stay_files._members
    monkeypatch.setattr(stay_files, "_members", lambda path: passes.append(path) or original(path))
    assert rows(archive) == expected and len(passes) == 1
    monkeypatch.setattr(stay_files, "BUDGET", 500)  # some three files a pass
    assert rows(archive) == expected and (len(passes) == 3 if is_sorted else len(passes) > 6)


def test_odd_paths_touch_nothing(folder, tmp_path):
    files = members(folder(**THREE), "../../etc/") | {"/7777777.txt": stay_text(7777777).encode()}
    before = sorted(tmp_path.rglob("*"))
    archive = as_tar(tmp_path / "odd.tar", files)
    assert all_ids(archive) == [b"7", b"30", b"100", b"7777777"]
    assert sorted(tmp_path.rglob("*")) == sorted([*before, archive])


# Wrong files


@pytest.mark.parametrize(
    ("text", "place", "word"),
    [
        ("", "5.txt", "empty"),
        ("Time;Parameter;Value\n", "5.txt, line 1", HEADER),
        ("\ufeff" + stay_text(5), "5.txt, line 1", "BOM"),
        (HEADER + "\n", "5.txt", "RecordID,5"),
        (stay_text(5).replace("RecordID", "Age", 1).replace("00:00,Age,54\n", ""), "5.txt", "RecordID,5"),
        (stay_text(6), "5.txt, line 2", "the RecordID 6 differs from 5, that of the stay"),
        (stay_text(5, "1:00,HR,60"), "5.txt, line 8", "1:00"),
        (stay_text(5, "48:01,HR,60"), "5.txt, line 8", "48:01"),
        (stay_text(5, "10:60,HR,60"), "5.txt, line 8", "10:60"),
        (stay_text(5, "10:00,HR,abc"), "5.txt, line 8", "abc"),
        (stay_text(5, "10:00,HR,"), "5.txt, line 8", "number"),
        (stay_text(5, "10:00,HR,6é"), "5.txt, line 8", r"the value '6\xc3\xa9', expected a number"),
        (stay_text(5, "10:00,HR," + "é" * 30), "5.txt, line 8", r"\xc3\xa9…', expected a number"),
        (stay_text(5, "10:00,HR,nan"), "5.txt, line 8", "nan"),
        (stay_text(5, "10:00,HR,1e999"), "5.txt, line 8", "1e999"),
        (stay_text(5, "10:00,HR,1.2.3"), "5.txt, line 8", "1.2.3"),
        (stay_text(5, "10:00,Hr,60"), "5.txt, line 8", "HR"),
        (stay_text(5, "10:00,HR"), "5.txt, line 8", HEADER),
        (stay_text(5, ""), "5.txt, line 8", "blank"),
        (stay_text(5, "10:00,Age,60"), "5.txt, line 8", "00:00"),
        (stay_text(5, "00:00,Age,60"), "5.txt, line 8", "twice"),
        (stay_text(5, "00:00,RecordID,5"), "5.txt, line 8", "twice"),
    ],
)
def test_wrong_file(folder, text, place, word):
    path = folder(n5=text, n4=stay_text(4), n6=stay_text(6))
    message = error_of(rows, path)
    assert str(path) in message and place in message and word in message and "1 error:" in message


def test_errors_are_told_together_and_counted(folder):
    texts = {f"n{record}": stay_text(record, "10:00,HR,x", "11:00,HR,60", "12:00,HR,y") for record in range(30)}
    message = error_of(rows, folder(**texts), block=4)
    assert "60 errors" in message and "0.txt, line 8" in message and "9.txt, line 10" in message
    assert len(message.splitlines()) == 21


def test_no_block_follows_an_error(folder):
    blocks = read_stays(folder(n1=stay_text(1), n2="", n3=stay_text(3)), block=1)
    assert next(blocks).ids.tolist() == [b"1"]
    with pytest.raises(UserError):
        next(blocks)


@pytest.mark.parametrize("name", ["5.csv", "5a.txt", "1234567890123456.txt"])
def test_name_that_is_no_record_id(folder, name):
    path = folder(n1=stay_text(1))
    (path / name).write_text(stay_text(5))
    assert name in error_of(rows, path)


def test_name_that_is_no_unicode(folder):
    path = folder(n1=stay_text(1)) / b"\xff".decode(errors="surrogateescape")
    path.mkdir()
    (path / "5.txt").write_text(stay_text(6))
    assert "5.txt" in error_of(rows, path.parent).encode().decode()


def test_stay_that_is_there_twice(folder, tmp_path):
    path = folder(n1=stay_text(1), n01=stay_text(1))
    message = error_of(rows, path)
    assert "01.txt" in message and "1.txt" in message
    archive = as_tar(tmp_path / "twice.tar", {"a/1.txt": b"", "b/1.txt": b""})
    message = error_of(rows, archive)
    assert "a/1.txt" in message and "b/1.txt" in message


def test_odd_entries_of_a_folder_are_named(folder, tmp_path):
    path = folder(n1=stay_text(1))
    (path / "2.txt").symlink_to("nowhere.txt")
    os.mkfifo(path / "3.txt")
    (path / "more").symlink_to(tmp_path)
    message = error_of(rows, path)
    assert "3 errors" in message and "2.txt is a link to nowhere.txt" in message
    assert "3.txt is no regular file" in message and "more: a link to a folder" in message


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Outcomes-c.txt", "there is no set-c of this name"),
        ("outcomes-a.txt", "outcomes-a.txt is not read: the outcomes of set-a are called Outcomes-a.txt"),
        ("Outcomes-A.txt", "Outcomes-A.txt is not read: the outcomes of set-a are called Outcomes-a.txt"),
        ("Set-C.zip", "Set-C.zip is not read"),
        ("set-c", "set-c is not read: a set is a folder"),
        ("set-c.7z", "set-c.7z is not read"),
        ("challenge-2012.zip", "challenge-2012.zip is not read: it is an archive"),
        ("tcdata/set-c.zip", "tcdata is a folder and is not read, but holds set-c.zip"),
    ],
)
def test_what_looks_like_a_set_and_is_not_read_is_told(folder, tmp_path, name, told):
    folder(n1=stay_text(1))
    write_outcomes(tmp_path / "Outcomes-a.txt", "1,6,1,5,-1,0")
    settings = load_config("quick", ["task=icu", f"paths.input={tmp_path}"])
    assert find_files(settings).overlooked == []
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    assert [True] == [told in sentence for sentence in find_files(settings).overlooked]


@pytest.mark.parametrize("name", ["set-c.zip", "set-c.tar", "Outcomes-a.txt", "Outcomes-c.txt"])
def test_sets_that_cannot_be_read_are_refused_by_name(folder, tmp_path, name):
    folder(n1=stay_text(1))
    for make in (lambda path: path.symlink_to("nowhere"), os.mkfifo):
        make(tmp_path / name)
        assert str(tmp_path / name) in error_of(find_sets, tmp_path)
        (tmp_path / name).unlink()


def test_link_in_a_tar(tmp_path):
    with tarfile.open(tmp_path / "link.tar", "w") as archive:
        info = tarfile.TarInfo("5.txt")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    assert "5.txt" in error_of(rows, tmp_path / "link.tar")


def test_file_that_is_too_large(folder, monkeypatch):
    monkeypatch.setattr(stay_files, "LARGEST_FILE", 100)
    assert "5.txt" in error_of(rows, folder(n5=stay_text(5)))


def test_empty_sets(tmp_path):
    (tmp_path / "set-a").mkdir()
    (tmp_path / "nothing.zip").touch()
    (tmp_path / "text.tar").write_text("hello")
    paths = [tmp_path / name for name in ("set-a", "nothing.zip", "text.tar", "missing")]
    paths += [
        as_zip(tmp_path / "empty.zip", {}),
        as_tar(tmp_path / "empty.tar", {}),
        as_tar(tmp_path / "e.tgz", {}, "w:gz"),
    ]
    for path in paths:
        assert str(path) in error_of(rows, path)


@pytest.mark.parametrize("form", ["zip", "tar", "tar.gz", "tar.xz", "tar.bz2"])
def test_truncated_archive(folder, tmp_path, form):
    files = members(folder(**{f"n{record}": stay_text(record, "00:10,HR,60") for record in range(1, 20)}))
    path = tmp_path / f"set.{form}"
    as_zip(path, files) if form == "zip" else as_tar(path, files, {"tar": "w"}.get(form, f"w:{form[4:]}"))
    whole = path.read_bytes()
    assert len(all_ids(path)) == 19
    # A tar may also end exactly between two files, which tarfile takes for the end of the archive.
    cuts = [len(whole) // 3, len(whole) // 2, len(whole) - 30 if form != "tar" else 1024 * 4]
    for cut in cuts:
        path.write_bytes(whole[:cut])
        assert str(path) in error_of(all_ids, path)


def mutate(data, text: bytes) -> bytes:
    """Changes, removes or repeats some bytes."""
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(len(text) - 1, 0)))
        size = data.draw(st.integers(0, 30))
        middle = data.draw(
            st.sampled_from([b"", b"\n", b",", b"-1", b"\0", b"\xff\xfe", text[at : at + size] * 2, b"9"])
        )
        text = text[:at] + middle + text[at + size * data.draw(st.booleans()) :]
    return text


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_mutated_files_raise_user_errors_only(tmp_path, data):
    form = data.draw(st.sampled_from(["folder", "zip", "tar", "gz", "xz"]))
    texts = {f"{name.removeprefix('n')}.txt": text.encode() for name, text in THREE.items()}
    path = tmp_path / f"mutated.{form}"
    if form == "folder":
        path.mkdir(exist_ok=True)
        for name, text in texts.items():
            (path / name).write_bytes(mutate(data, text))
    else:
        as_zip(path, texts) if form == "zip" else as_tar(path, texts, "w" if form == "tar" else f"w:{form}")
        path.write_bytes(mutate(data, path.read_bytes()))
    try:
        for block in grid(read_stays(path)):
            assert block.values.shape == (len(block.ids), 48, len(PARAMETERS))
            assert block.statics.shape == (len(block.ids), 1, len(STATICS))
    except UserError as error:
        assert str(path) in str(error)


LINE = st.builds(
    lambda *parts: "".join(parts),
    st.sampled_from(["00:00", "12:34", "48:00", "48:01", "1:23", "ab:cd", "", "99:99", "00:60"]),
    st.sampled_from([",", ",,", "", ";"]),
    st.sampled_from(["HR", "TroponinT", "Cholesterol", "Weight", "", " ", "hr", "NIDiasABPs", "pH", "A" * 20]),
    st.sampled_from([",", "", ",,"]),
    st.one_of(
        st.sampled_from(["", "-1", "1.", ".5", ".", "1e3", "nan", "1.2.3", "12345678", "123456789", "007", "1 ", "٣"]),
        st.floats(0, 400).map(lambda value: f"{value:.2f}"),
    ),
)


@settings(max_examples=300, deadline=None)
@given(lines=st.lists(LINE, min_size=1, max_size=5))
def test_both_parsers_agree(lines):
    """A line of the common kind is what parse_line makes of the line, to the last bit."""
    text = "".join(line + "\n" for line in lines).encode()
    minute, code, value, irregular = series_reader._parse_common(text)
    assert len(minute) == len(code) == len(value) == len(lines)
    for at in sorted(set(range(len(lines))) - set(irregular.tolist())):
        messages: list[str] = []
        assert (minute[at], code[at], value[at]) == parse_line(lines[at].encode(), messages) and not messages


def test_common_lines_take_the_fast_way():
    text = b"00:00,Age,54\n48:00,Temp,36.6\n01:02,NIDiasABP,65\n01:02,Cholesterol,123.45\n"
    assert len(series_reader._parse_common(text)[3]) == 0


# Outcomes


def write_outcomes(path: Path, *lines: str, header: str = OUTCOMES_HEADER) -> Path:
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def test_outcomes(tmp_path):
    found = read_outcomes(
        write_outcomes(tmp_path / "Outcomes-a.txt", "30,6,1,5,-1,0", "7,-1,-1,-1,3,1", "8,1,2,3.5,4,-1")
    )
    assert found.ids.tolist() == [b"30", b"7", b"8"] and len(found) == 3 and len(found.sha256) == 64
    assert list(found.columns) == OUTCOMES_HEADER.split(",")[1:]
    np.testing.assert_array_equal(found.columns["Length_of_stay"], [5, np.nan, 3.5])
    np.testing.assert_array_equal(found.columns["In-hospital_death"], [0, 1, np.nan])
    np.testing.assert_array_equal(found.columns["SAPS-I"], [6, np.nan, 1])
    assert "3 outcomes, 1 deaths (50.00%), length of stay known for 2" in found.describe()


@pytest.mark.parametrize(
    ("line", "word"),
    [("1,2,3", "six"), ("1,2,3,4,5,2", "In-hospital_death"), ("1,2,3,-4,5,0", "Length_of_stay"), ("1,a,3,4,5,0", "1,a")]
    + [("", "six"), ("30,1,1,1,1,0", "line 2"), ("1,2,3,4,5,nan", "nan"), ("1,2,3,4,5,0,", "six")],
)
def test_wrong_outcomes(tmp_path, line, word):
    path = write_outcomes(tmp_path / "Outcomes-a.txt", "30,6,1,5,-1,0", line, "31,6,1,5,-1,0")
    message = error_of(read_outcomes, path)
    assert "Outcomes-a.txt, line 3" in message and word in message and "1 error:" in message


def test_outcomes_without_lines_or_header(tmp_path):
    path = tmp_path / "Outcomes-a.txt"
    assert "Outcomes-a.txt" in error_of(read_outcomes, write_outcomes(path))
    assert "line 1" in error_of(read_outcomes, write_outcomes(path, "30,6,1,5,-1,0", header="RecordID,Death"))
    path.write_bytes(b"")
    assert OUTCOMES_HEADER in error_of(read_outcomes, path)
    assert "missing.txt" in error_of(read_outcomes, tmp_path / "missing.txt")


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_mutated_outcomes_raise_user_errors_only(tmp_path, data):
    path = write_outcomes(tmp_path / "Outcomes-a.txt", "30,6,1,5,-1,0", "7,-1,-1,-1,3,1")
    path.write_bytes(mutate(data, path.read_bytes()))
    try:
        assert len(read_outcomes(path)) > 0
    except UserError as error:
        assert str(path) in str(error)


def test_join(tmp_path):
    outcomes = read_outcomes(write_outcomes(tmp_path / "Outcomes-a.txt", "30,6,1,5,-1,0", "7,1,1,9,3,1"))
    joined = join(np.array([b"7", b"8", b"30"]), outcomes)
    assert joined.rows.tolist() == [1, -1, 0] and joined.without_outcome.tolist() == [b"8"]
    assert len(joined.without_stay) == 0
    message = error_of(joined.require_outcomes, outcomes.path)
    assert "Outcomes-a.txt" in message and "8" in message and "1 of 3" in message
    other = join(np.array([b"7"]), outcomes)
    assert other.without_stay.tolist() == [b"30"]
    other.require_outcomes(outcomes.path)


# Sets of an input folder


def test_find_sets(folder, tmp_path):
    assert find_sets(tmp_path) == {}
    path = folder(**THREE)
    as_zip(tmp_path / "set-b.zip", {})
    (tmp_path / "set-c.tar.gz").touch()
    (tmp_path / "set-d.txt").touch()
    for letter in "acx":
        (tmp_path / f"Outcomes-{letter}.txt").touch()
    found = find_sets(tmp_path)
    assert {name: (one.stays.name, one.outcomes and one.outcomes.name) for name, one in found.items()} == {
        "set-a": ("set-a", "Outcomes-a.txt"),
        "set-b": ("set-b.zip", None),
        "set-c": ("set-c.tar.gz", "Outcomes-c.txt"),
    }
    train, tests = split_sets(found, "set-a")
    assert [one.name for one in train] == ["set-a"] and [one.name for one in tests] == ["set-b", "set-c"]
    train, tests = split_sets(found, "set-[ac]")
    assert [one.name for one in train] == ["set-a", "set-c"] and [one.name for one in tests] == ["set-b"]
    assert "Outcomes-b.txt" in error_of(split_sets, found, "set-b")
    assert "set-z" in error_of(split_sets, found, "set-z")
    assert [one.name for one in split_sets(found, "set-a", "set-[ac]")[1]] == ["set-c"]
    assert "set-z" in error_of(split_sets, found, "set-a", "set-z")
    (tmp_path / "set-b.old").mkdir()
    assert find_sets(tmp_path) == found, "two sets would have the name set-b"
    assert "set-a.zip" in error_of(find_sets, as_zip(tmp_path / "set-a.zip", members(path)).parent)


def test_outcomes_without_stays(tmp_path):
    (tmp_path / "Outcomes-a.txt").touch()
    message = error_of(find_sets, tmp_path)
    assert "Outcomes-a.txt" in message and "set-a" in message
    assert "missing" in error_of(find_sets, tmp_path / "missing")


# The real set


def test_real_set(real_data, tmp_path):
    path = real_data / "physionet2012" / "set-a.tar.xz"
    if not path.exists():
        pytest.skip(f"the real stays are not at hand ({path.name} in {path.parent.name})")
    facts = Facts()
    ids = np.concatenate([block.ids for block in read_stays(path, facts=facts)])
    assert (facts.stays, facts.rows, facts.parameters) == (4000, 1_757_980, 42)
    assert facts.without_series == 3 and "the published set-a" in facts.describe()
    assert ids.astype(int).tolist() == sorted(ids.astype(int).tolist())
    outcomes = read_outcomes(path.parent / "Outcomes-a.txt")
    assert outcomes.sha256 in series_reader.KNOWN_OUTCOMES
    assert np.nansum(outcomes.columns["In-hospital_death"]) == 554
    joined = join(ids, outcomes)
    assert not len(joined.without_outcome) and not len(joined.without_stay)
    # The same files without the outer compression.
    with lzma.open(path) as packed:
        (tmp_path / "set-a.tar").write_bytes(packed.read())
    other = Facts()
    for _ in read_stays(tmp_path / "set-a.tar", facts=other):
        pass
    assert other == facts


def test_stays_without_a_known_target_are_not_scored(tmp_path):
    file, ids = tmp_path / "Outcomes-b.txt", np.array([b"3", b"1", b"2"])
    file.write_text(f"{OUTCOMES_HEADER}\n1,9,5,-1,-1,0\n2,9,5,7,-1,1\n3,9,5,4,-1,0\n")
    rows, days = labels_of(file, ids, LOS)
    assert rows.tolist() == [0, 2] and days.tolist() == [[4], [7]]
    rows, died = labels_of(file, ids, ICU)
    assert rows.tolist() == [0, 1, 2] and died.tolist() == [[0], [0], [1]]
    assert "Length_of_stay" in error_of(labels_of, file, ids[1:2], LOS)
