from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.core.errors import UserError
from src.data import block_parser, line_parser, report_reader
from src.data.report_reader import Reports, read_reports, write_reports
from src.data.tasks import ROUND1, ROUND2
from tests.conftest import REAL, error_of

ROUND1_TEXT = b"7|,|3 0 857 |,|16 2 \n007|,|0 |,|\nx-9|,|12 12 12 |,|4 \n"
ROUND2_TEXT = b"0|,|3 0 857 |,|15 ,2 \n1|,|0 |,|,\n2|,|12 12 |,|3 4,0 11\n3|,|5 |,|0 ,\n4|,|5 |,|,1 \n"
NAMES = ("ids", "tokens", "offsets", "labels", "task", "sha256")


def by_the_definition(path: Path, labelled: bool | None = None) -> Reports:
    """Reads reports with the line parser alone."""
    return report_reader._read(path, labelled, line_parser.parse_lines)


def outcome(read, path: Path) -> str | tuple:
    try:
        found = read(path)
    except UserError as error:
        return str(error)
    return tuple(getattr(found, name) for name in NAMES)


def assert_same(one: str | tuple, other: str | tuple) -> None:
    assert type(one) is type(other), (one, other)
    if isinstance(one, str):
        assert one == other
        return
    for name, a, b in zip(NAMES, one, other, strict=True):
        assert np.array_equal(a, b), name
        assert getattr(a, "dtype", None) == getattr(b, "dtype", None), name


# What is read


def test_round_1(write):
    found = read_reports(write(ROUND1_TEXT))
    assert found.ids.tolist() == [b"7", b"007", b"x-9"]
    assert [found[i].tolist() for i in range(3)] == [[3, 0, 857], [0], [12, 12, 12]]
    assert found[-1].tolist() == [12, 12, 12] and len(found) == 3
    assert found.lengths.tolist() == [3, 1, 3]
    assert [np.flatnonzero(row).tolist() for row in found.labels] == [[2, 16], [], [4]]
    assert found.task is ROUND1 and found.labels.shape == (3, 17)
    assert (found.tokens.dtype, found.offsets.dtype, found.labels.dtype) == (np.uint16, np.int64, np.uint8)


def test_round_2(write):
    found = read_reports(write(ROUND2_TEXT))
    assert found.task is ROUND2 and found.labels.shape == (5, 29)
    expected = [[15, 17 + 2], [], [3, 4, 17, 17 + 11], [0], [17 + 1]]
    assert [np.flatnonzero(row).tolist() for row in found.labels] == expected


def test_without_labels(write):
    found = read_reports(write(b"0|,|1 2 \n1|,|3"))
    assert found.labels is None and found.task is None
    assert found.tokens.tolist() == [1, 2, 3] and found.offsets.tolist() == [0, 2, 3]


@pytest.mark.parametrize("text", [ROUND1_TEXT, ROUND2_TEXT, b"0|,|1 2 \n1|,|3 \n"])
def test_line_ends_change_nothing_but_the_checksum(write, text):
    expected = read_reports(write(text))
    lines = text.split(b"\n")[:-1]
    mixed = b"".join(line + (b"\r\n" if i % 2 else b"\n") for i, line in enumerate(lines))
    for variant in (text.replace(b"\n", b"\r\n"), text[:-1], text.replace(b"\n", b"\r\n")[:-2], mixed):
        found = read_reports(write(variant, "variant.csv"))
        for name in ("ids", "tokens", "offsets", "labels"):
            assert np.array_equal(getattr(found, name), getattr(expected, name)), (variant, name)
        assert found.task is expected.task and found.sha256 != expected.sha256


def test_checksum_is_of_the_bytes(write):
    # Output of sha256sum.
    expected = "c7a02ad3a47ee19d2f10515d5cf84073a1326d8fc9d3833f014f2ddb327fa5ee"
    assert read_reports(write(b"0|,|1 \n")).sha256 == expected


@pytest.mark.parametrize(
    "text",
    [
        b"0|,|  1  2|,| 3  4 \n",
        b"0|,|1 2|,|3 4\n",
        b"0|,|1 2   |,|03 4\n",
        b"0|,|01 00002 |,|3 0004  \n",
    ],
)
def test_blanks_and_leading_zeros_do_not_matter_within_fields(write, text):
    found = read_reports(write(text))
    assert found.tokens.tolist() == [1, 2] and np.flatnonzero(found.labels[0]).tolist() == [3, 4]


def test_tokens_of_every_length(write):
    words = [0, 9, 10, 99, 100, 999, 1000, 9999, 10000, 65535]
    lines = [f"{i}|,|{' '.join(map(str, words[: i + 1]))} \n".encode() for i in range(len(words))]
    found = read_reports(write(b"".join(lines)))
    assert [found[i].tolist() for i in range(len(words))] == [words[: i + 1] for i in range(len(words))]


def test_ids_of_every_length_stay_as_written(write):
    ids = [b"7", b"0007", b"a/b", b"a-b", b"#" * 256, b"12345678", b"123456789", b"x" * 9]
    found = read_reports(write(b"".join(name + b"|,|1 \n" for name in ids)))
    assert found.ids.tolist() == ids


def test_a_labelled_file_of_normal_reports_is_round_1(write):
    found = read_reports(write(b"0|,|1 |,|\n1|,|1 |,|\n"))
    assert found.task is ROUND1 and not found.labels.any() and found.labels.shape == (2, 17)


def test_labels_for(write):
    two, one = read_reports(write(ROUND2_TEXT, "two.csv")), read_reports(write(ROUND1_TEXT, "one.csv"))
    assert np.array_equal(two.labels_for(ROUND2), two.labels)
    assert np.array_equal(two.labels_for(ROUND1), two.labels[:, :17])
    assert np.array_equal(one.labels_for(ROUND1), one.labels)
    assert "one.csv" in error_of(one.labels_for, ROUND2)
    bare = read_reports(write(b"0|,|1 \n", "bare.csv"))
    assert "bare.csv" in error_of(bare.labels_for, ROUND1)


# Errors

LONG = b"9" * 5000
LINE_ERRORS = {
    "torn row": (b"0|,|1 |,|2 \n1|,|1 2 \n", 2, "expected 3 (id|,|description|,|label)"),
    "one field": (b"0|,|1 \n12\n", 2, "expected 2 (id|,|description)"),
    "too many fields": (b"0|,|1 \n1|,|1 |,|2 \n", 2, "3 fields"),
    "four fields": (b"0|,|1 |,|2|,|2\n1|,|1 |,|2 \n", 1, "4 fields"),
    "torn first delimiter": (b"0|,|1 |,|2 \n1|,1 2 |,|\n", 2, "delimiter '|,'"),
    "torn second delimiter": (b"0|,|1 |,|2 \n1|,|1 2 ,|\n", 2, "delimiter ',|'"),
    "torn delimiter without labels": (b"0|,|1 \n1|,2 \n", 2, "delimiter '|,'"),
    "word": (b"0|,|1 NA 2 \n", 1, "'NA'"),
    "long word": (b"0|,|1 " + b"x" * 500 + b" \n", 1, "'" + "x" * 40 + "…'"),
    "negative token": (b"0|,|1 -1 \n", 1, "'-1'"),
    "decimal point": (b"0|,|1.0 \n", 1, "'1.0'"),
    "signed token": (b"0|,|+1 \n", 1, "'+1'"),
    "underscore": (b"0|,|1_0 \n", 1, "'1_0'"),
    "tab": (b"0|,|1\t2 \n", 1, r"'1\t2'"),
    "lone carriage return": (b"0|,|1\r2 \n", 1, r"'1\r2'"),
    "doubled carriage return": (b"0|,|1 \r\r\n", 1, r"'\r'"),
    "bar in the description": (b"0|,|1 |2 \n", 1, "'|2'"),
    "comma in the description": (b"0|,|1,2 \n", 1, "'1,2'"),
    "large token": (b"0|,|1 65536 \n", 1, "'65536'"),
    "endless token": (b"0|,|" + LONG + b" \n", 1, "'" + "9" * 40 + "…'"),
    "empty description": (b"0|,||,|2 \n", 1, "empty description"),
    "blank description": (b"0|,|  |,|2 \n", 1, "empty description"),
    "label out of range": (b"0|,|1 |,|17 \n", 1, "'17'"),
    "label far out": (b"0|,|1 |,|300 \n", 1, "'300'"),
    "type out of range": (b"0|,|1 |,|1,12\n", 1, "'12'"),
    "repeated label": (b"0|,|1 |,|3 4 3 \n", 1, "regions, label 3"),
    "repeated type": (b"0|,|1 |,|3,4 4\n", 1, "types, label 4"),
    "label that is a word": (b"0|,|1 |,|3 x \n", 1, "'x'"),
    "negative label": (b"0|,|1 |,|-3 \n", 1, "'-3'"),
    "too many commas": (b"0|,|1 |,|3,4,5\n", 1, "'3,4,5'"),
    "repeated id": (b"5|,|1 \n6|,|1 \n5|,|2 \n", 3, "id '5'"),
    "repeated long id": (b"%b|,|1 \n6|,|1 \n%b|,|2 \n" % (b"y" * 30, b"y" * 30), 3, "id 'yyyy"),
    "empty id": (b"|,|1 \n", 1, "empty id"),
    "whitespace in the id": (b"1 2|,|1 \n", 1, "id '1 2'"),
    "tab before the id": (b"\t12|,|1 \n", 1, r"id '\t12'"),
    "blank after the id": (b"12 |,|1 \n", 1, "id '12 '"),
    "quotation mark in the id": (b'"1"|,|1 \n', 1, '" in the id \'"1"\''),
    "separator in the id": (b"1;|,|1 \n", 1, "; in the id '1;'"),
    "row number of a saved table": (b"0,17|,|1 \n", 1, ", in the id '0,17'"),
    "bar in the id": (b"1|7|,|1 \n", 1, "| in the id '1|7'"),
    "endless id": (b"0" * 257 + b"|,|1 \n", 1, "257"),
    "blank line": (b"0|,|1 \n\n1|,|2 \n", 2, "blank line"),
    "blank line in CRLF": (b"0|,|1 \r\n\r\n1|,|2 \r\n", 2, "blank line"),
    "blank last line": (b"0|,|1 \n\n", 2, "blank line"),
    "only a line end": (b"\n", 1, "blank line"),
    "UTF-8 BOM": (b"\xef\xbb\xbf0|,|1 \n", 1, "BOM"),
    "NUL": (b"0|,|1 \0 2 \n", 1, "NUL byte at column 7"),
    "NUL in the id": (b"0\0|,|1 \n", 1, "NUL byte at column 2"),
    "Latin-1": (b"0|,|1 \n1\xe9|,|1 \n", 2, "byte 0xe9 at column 2"),
    "UTF-8": ("0|,|1 ２ \n".encode(), 1, "byte 0xef at column 7"),
    "control character": (b"0|,|1 \x0b2 \n", 1, "byte 0x0b at column 7"),
    "round 1 among round 2": (
        b"0|,|1 |,|,\n1|,|1 |,|\n2|,|1 |,|,\n",
        2,
        "form of round 1",
    ),
    "round 2 among round 1": (
        b"0|,|1 |,|3\n1|,|1 |,|4,5\n",
        2,
        "form of round 2",
    ),
}


@pytest.mark.parametrize("kind", LINE_ERRORS)
def test_line_errors_name_file_line_and_what_is_wrong(write, kind):
    text, line, message = LINE_ERRORS[kind]
    path = write(text)
    found = error_of(read_reports, path)
    assert found.startswith(f"{path}: 1 error:\n  reports.csv, line {line}: ")
    assert message in found
    assert found == error_of(by_the_definition, path)


@pytest.mark.parametrize("kind", [kind for kind in LINE_ERRORS if "last line" not in kind])
def test_line_errors_are_found_far_into_a_file_of_their_form(write, monkeypatch, kind):
    text, line, message = LINE_ERRORS[kind]
    monkeypatch.setattr(report_reader, "BLOCK", 500)
    listed = []
    for end in (b"\n", b"|,|3 4 \n", b"|,|3 4 ,0 \n"):
        good = b"".join(b"good%d|,|1 22 333 " % i + end for i in range(50))
        path = write(good + text + good.replace(b"good", b"also"))
        found = error_of(read_reports, path)
        assert found == error_of(by_the_definition, path)
        listed += [error for error in found.splitlines() if f"line {line + 50}: " in error and message in error]
    assert listed


def test_every_error_of_a_line_is_listed(write):
    found = error_of(read_reports, write(b"0|,|1 |,|2 \n4 4|,|1 x |,|99 \n"))
    assert found.splitlines()[0].endswith("3 errors:")
    assert [line.split(": ")[0] for line in found.splitlines()[1:]] == ["  reports.csv, line 2"] * 3


def test_all_errors_are_counted_and_the_first_twenty_listed(write, monkeypatch):
    lines = [b"%d|,|1 2 \n" % i for i in range(1000)]
    for i in range(100, 900, 10):
        lines[i] = b"%d|,|1 x%d \n" % (i, i)
    lines[102], lines[205] = b"7|,|1 \n", b"\n"
    for block in (64, 1000, 1 << 20):
        monkeypatch.setattr(report_reader, "BLOCK", block)
        found = error_of(read_reports, write(b"".join(lines))).splitlines()
        assert found[0].endswith("reports.csv: 82 errors, the first 20:")
        lines_listed = [int(line.split("line ")[1].split(":")[0]) for line in found[1:]]
        assert lines_listed == sorted([*range(101, 281, 10), 103, 206])[:20]


def test_two_rounds_joined_to_one_file_are_one_error(write):
    one = b"".join(b"%d|,|1 2 |,|3 \n" % i for i in range(9))
    two = b"".join(b"%d|,|1 2 |,|3 ,1\n" % i for i in range(9, 14))
    found = error_of(read_reports, write(one + two))
    assert "1 error:" in found and "line 10: two files in one: lines before are of round 1" in found
    found = error_of(read_reports, write(two + one))
    assert "line 6: two files in one: lines before are of round 2" in found
    assert "14 errors" in error_of(read_reports, write(two + one + two)), "no two files: ids are repeated too"


def test_a_file_that_grows_while_it_is_read_is_named(write, monkeypatch):
    path = write(b"".join(b"%d|,|1 2 3 4 5\n" % i for i in range(2000)))
    monkeypatch.setattr(report_reader.os, "fstat", lambda _: SimpleNamespace(st_size=100))
    assert f"{path} has more bytes than its size says" in error_of(read_reports, path)


def test_whole_file_errors(write, tmp_path):
    assert str(tmp_path / "nothing.csv") in error_of(read_reports, tmp_path / "nothing.csv")
    assert str(tmp_path) in error_of(read_reports, tmp_path)
    assert "empty" in error_of(read_reports, write(b""))
    for encoding in ("utf-16", "utf-16-be"):
        text = ("\ufeff" if encoding.endswith("be") else "") + "0|,|1 \n"
        assert "UTF-16" in error_of(read_reports, write(text.encode(encoding)))


def test_needed_labels(write):
    bare, labelled = write(b"0|,|1 \n1|,|2 \n", "bare.csv"), write(ROUND1_TEXT, "labelled.csv")
    found = error_of(read_reports, bare, labelled=True)
    assert "bare.csv" in found and found.endswith("id|,|description|,|label")
    found = error_of(read_reports, labelled, labelled=False)
    assert "labelled.csv" in found and found.endswith("id|,|description")
    assert len(read_reports(bare, labelled=False)) == 2 and len(read_reports(labelled, labelled=True)) == 3
    torn = write(b"0|,|1 \n1|,|2 |,|3 \n", "torn.csv")
    assert "line 1: 2 fields" in error_of(read_reports, torn, labelled=True)
    assert "line 2: 3 fields" in error_of(read_reports, torn)


def test_a_first_line_of_neither_form_does_not_condemn_the_others(write):
    found = error_of(read_reports, write(b"0;1;2\n1|,|2 |,|3 \n2|,|2 |,|3 \n"))
    assert "1 error:" in found and "line 1: 1 field" in found


# The two parsers are one

_number = st.one_of(st.integers(0, 12), st.integers(0, 900), st.integers(0, 65535))
_blank = st.sampled_from([" "] * 12 + ["  "])
_edge = st.sampled_from([""] * 6 + [" "])


@st.composite
def _field(draw, numbers: st.SearchStrategy[list[int]]) -> str:
    words = "".join(str(number) + draw(_blank) for number in draw(numbers))
    return draw(_edge) + draw(st.sampled_from([words, words.rstrip(" ")]))


@st.composite
def texts(draw) -> bytes:
    """Draws valid files: round 1, round 2 or without labels, often with something unusual."""
    groups = draw(st.sampled_from([(), (17,), (17, 12)]))
    names = st.one_of(st.integers(0, 10**6).map(str), st.text("0123456789abc-_:.", min_size=1, max_size=12))
    ids = draw(st.lists(names, min_size=1, max_size=12, unique=True))
    line_end = draw(st.sampled_from(["\n", "\r\n"]))
    lines = []
    for name in ids:
        words = draw(_field(st.lists(_number, min_size=1, max_size=8)))
        labels = [draw(_field(st.lists(st.integers(0, n - 1), max_size=4, unique=True))) for n in groups]
        lines.append(f"{name}|,|{words}" + ("|,|" + ",".join(labels) if groups else ""))
    text = line_end.join(lines) + draw(st.sampled_from([line_end] * 3 + [""]))
    return text.encode()


@st.composite
def damaged_texts(draw) -> bytes:
    text = bytearray(draw(texts()))
    pieces = st.sampled_from([b"", b"|", b",", b"|,|", b"|,", b" ", b"\n", b"\r", b"\r\n", b"0", b"99999", b"x", b"\0"])
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        text[at : at + draw(st.integers(0, 3))] = draw(st.one_of(pieces, st.binary(max_size=2)))
    return bytes(text)


def assert_parsers_agree(text: bytes, block: int) -> str | tuple:
    kept = report_reader.BLOCK
    report_reader.BLOCK = block
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "reports.csv"
            path.write_bytes(text)
            fast, plain = outcome(read_reports, path), outcome(by_the_definition, path)
            report_reader.BLOCK = 1 << 20
            assert_same(outcome(by_the_definition, path), plain)
    finally:
        report_reader.BLOCK = kept
    assert_same(fast, plain)
    return fast


@settings(max_examples=80, deadline=None)
@given(texts(), st.sampled_from([16, 60, 500, 1 << 20]))
def test_parsers_agree_on_valid_files(text, block):
    found = assert_parsers_agree(text, block)
    assert not isinstance(found, str), found


@settings(max_examples=150, deadline=None)
@given(damaged_texts(), st.sampled_from([16, 60, 500, 1 << 20]))
def test_parsers_agree_on_damaged_files(text, block):
    assert assert_parsers_agree(text, block) is not None


def common_text(rng: np.random.Generator, rows: int, groups: tuple, end: str = "\n", blank: str = " ") -> bytes:
    """Writes lines like those of the competition's files."""

    def field(numbers: np.ndarray) -> str:
        return " ".join(map(str, numbers.tolist())) + (blank if len(numbers) else "")

    lines = []
    for row in range(rows):
        line = f"{row}|,|{field(rng.integers(0, 10 ** rng.integers(1, 5), rng.integers(1, 60)))}"
        labels = [field(rng.permutation(size)[: max(0, rng.integers(-2, 5))]) for size in groups]
        lines.append(line + ("|,|" + ",".join(labels) if groups else "") + end)
    return "".join(lines).encode()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("blank", [" ", ""])
@pytest.mark.parametrize("groups", [(), (17,), (17, 12)])
def test_the_fast_parser_declines_no_common_block_and_agrees(groups, blank, end):
    block = common_text(np.random.default_rng(0), 700, groups, end, blank)
    n_fields = 3 if groups else 2
    fast, plain = block_parser.parse_block(block, n_fields), line_parser.parse_lines(block, n_fields)
    assert fast is not None
    for name in ("ids", "tokens", "lengths", "labels", "forms"):
        assert np.array_equal(getattr(fast, name), getattr(plain, name)), name
        assert getattr(fast, name).dtype == getattr(plain, name).dtype, name


def test_the_fast_parser_declines_whatever_single_byte_breaks():
    """Both parsers agree on every single-byte change of a small file, or the block parser declines it."""
    block = b"10|,|3 0 857 |,|16 2 \n11|,|0 4 |,|\n"
    taken = 0
    for at in range(len(block)):
        for byte in b"059 |,\r\nx\0\xff":
            changed = block[:at] + bytes([byte]) + block[at + 1 :]
            fast, plain = block_parser.parse_block(changed, 3), line_parser.parse_lines(changed, 3)
            if fast is not None:
                taken += 1
                assert not plain.errors.total, changed
                for name in ("ids", "tokens", "lengths", "labels", "forms"):
                    assert np.array_equal(getattr(fast, name), getattr(plain, name)), (changed, name)
    assert taken > len(block)


@pytest.mark.parametrize("size", [1, 7, 100, 4096])
def test_block_size_does_not_matter(write, monkeypatch, size):
    text = common_text(np.random.default_rng(1), 300, (17, 12))
    path = write(text)
    expected = outcome(read_reports, path)
    monkeypatch.setattr(report_reader, "BLOCK", size)
    assert_same(outcome(read_reports, path), expected)


def test_blocks_are_parsed_in_order_and_few_at_a_time():
    begun = []

    def blocks():
        for i in range(50):
            begun.append(i)
            yield i

    done = []
    for result in report_reader._in_order(lambda i: i * i, blocks()):
        done.append(result)
        assert len(begun) - len(done) <= 2 * report_reader.THREADS + 1
    assert done == [i * i for i in range(50)]


# Real files


def real(name: str) -> Path:
    path = REAL / name
    if not path.exists():
        pytest.skip(f"the competition's file {name} is not here")
    return path


PUBLISHED = {
    "round1/track1_round1_train_20210222.csv": (10_000, "round1"),
    "round1/track1_round1_testA_20210222.csv": (3_000, None),
    "round1/track1_round1_testB.csv": (3_000, None),
    "round2/train.csv": (10_053, "round2"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_real_files(name, tmp_path, monkeypatch):
    path = real(name)
    rows, task = PUBLISHED[name]
    declined = []
    monkeypatch.setattr(report_reader, "parse_lines", lambda *_: declined.append(1))
    found = read_reports(path)
    monkeypatch.undo()
    assert not declined
    assert len(found) == rows and (found.task.name if found.task else None) == task
    assert set(np.unique(found.tokens)) == set(range(858)) and found.lengths.min() >= 2
    assert_same(outcome(by_the_definition, path), outcome(read_reports, path))
    copy = tmp_path / "copy.csv"
    write_reports(copy, found)
    again = read_reports(copy)
    for field in ("ids", "tokens", "offsets", "labels"):
        assert np.array_equal(getattr(again, field), getattr(found, field)), field
    # The descriptions come back byte for byte; label fields of the real files vary in their blanks.
    if task is None:
        assert copy.read_bytes() == path.read_bytes().replace(b"\r\n", b"\n")


def test_real_labels():
    one = read_reports(real("round1/track1_round1_train_20210222.csv"), labelled=True)
    assert (~one.labels.any(axis=1)).sum() == 2_622
    assert one.sha256.startswith("5158ae58") and one.sha256.endswith("46a3a6f")
    two = read_reports(real("round2/train.csv"), labelled=True)
    regions, types = (two.labels[:, columns].any(axis=1) for columns in ROUND2.columns.values())
    assert 0 < (regions & ~types).sum() <= 11 and (types & ~regions).sum() <= 4
    assert np.array_equal(two.labels_for(ROUND1), two.labels[:, :17])


# Writing reports


@st.composite
def made_reports(draw) -> Reports:
    rows = draw(st.integers(1, 12))
    task = draw(st.sampled_from([None, ROUND1, ROUND2]))
    ids = np.array(draw(st.lists(st.text("0123456789ab#", min_size=1, max_size=9), min_size=rows, max_size=rows,
                                 unique=True)), dtype=np.bytes_)  # fmt: skip
    lengths = np.array(draw(st.lists(st.integers(1, 30), min_size=rows, max_size=rows)))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    tokens = rng.integers(0, draw(st.sampled_from([858, 65536])), lengths.sum()).astype(np.uint16)
    labels = (rng.random((rows, task.n_labels)) < draw(st.floats(0, 1))).astype(np.uint8) if task else None
    return Reports(Path("made"), ids, tokens, np.concatenate(([0], np.cumsum(lengths))), labels, task)


@settings(max_examples=60, deadline=None)
@given(made_reports())
def test_written_reports_are_read_back(made):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "new" / "reports.csv"
        write_reports(path, made)
        found = read_reports(path, labelled=made.task is not None)
        assert found.task is made.task
        for name in ("ids", "tokens", "offsets", "labels"):
            assert np.array_equal(getattr(found, name), getattr(made, name)), name
        assert [file.name for file in path.parent.iterdir()] == ["reports.csv"]


def test_reports_are_written_as_the_real_files_are(write, tmp_path):
    for text in (b"7|,|3 0 857 |,|2 16 \n007|,|0 |,|\n", b"0|,|3 0 |,|15 ,2 \n1|,|0 |,|,\n", b"0|,|3 0 \n"):
        write_reports(tmp_path / "out.csv", read_reports(write(text)))
        assert (tmp_path / "out.csv").read_bytes() == text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": np.array([b"1", b"1"])}, "line 2: "),
        ({"ids": np.array([b"1", b"2 3"])}, "line 2: whitespace in the id '2 3'"),
        ({"ids": np.array([b"1", b"2|,|3"])}, "line 2: 3 fields, expected 2"),
        ({"ids": np.array([b"1", b"2|,"])}, "line 2: a torn delimiter"),
        ({"offsets": np.array([0, 3, 3])}, "line 2: an empty description"),
        ({"offsets": np.array([0, 1, 2])}, "out.csv"),
    ],
)
def test_reports_that_cannot_be_read_back_are_not_written(tmp_path, change, message):
    good = Reports(tmp_path, np.array([b"1", b"2"]), np.array([5, 6, 7], np.uint16), np.array([0, 2, 3]), None, None)
    path = tmp_path / "out.csv"
    path.write_bytes(b"old")
    found = error_of(write_reports, path, replace(good, **change))
    assert message in found and str(path) in found and ".tmp" not in found
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
