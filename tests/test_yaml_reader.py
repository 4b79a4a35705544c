"""YAML of settings: what is within the limits is read, everything else is an error that names file and line."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from src.core import yaml_reader
from src.core.yaml_reader import parse_yaml, read_yaml
from tests.conftest import error_of


def bomb(line: str) -> str:
    """Mappings, each of which has ten times the one before."""
    return "a0: &a0 {x: 1}\n" + "\n".join(line.format(i, i - 1) for i in range(1, 12))


HOSTILE = {
    "brackets": ("[" * 100_000, "line 1", "nesting"),
    "braces": ("{a: " * 20_000, "line 1", "nesting"),
    "blocks": ("\n".join(" " * i + "a:" for i in range(400)), "line 21", "nesting"),
    "questions": ("? " * 50_000, "line 1", "nesting"),
    "chain": ("a0: &a0 [x]\n" + "\n".join(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 3000)), "line 21", "nesting"),
    "aliases": (bomb("a{0}: &a{0} [" + "*a{1}, " * 10 + "]"), "line 6", "values"),
    "merges": (bomb("a{0}: &a{0} {{<<: [" + "*a{1}, " * 10 + "]}}"), "line 6", "values"),
    "itself": ("\na: &a [*a]", "line 2", "itself"),
    "merged itself": ("a: &a {<<: *a}", "line 1", "itself"),
    "twice": ("a: 1\nb: 2\na: 3", "line 3", "'a' stands twice"),
    "list as key": ("? [a]\n: 1", "line 1", "key"),
    "mapping as key": ("{{a: b}: c}", "line 1", "key"),
    "nan": ("a: [.nan]", "line 1", "'.nan'"),
    "infinity": ("a: -.inf", "line 1", "'-.inf'"),
    "digits": ("a: " + "9" * 5000, "line 1", "digits"),
    "large": ("a: " + "9" * 19, "line 1", "too large"),
    "object": ("!!python/object/apply:os.system [x]", "line 1", "python"),
    "binary": ("!!binary aGk=", "line 1", "tag"),
    "set": ("!!set {a}", "line 1", "tag"),
    "truth": ("!!bool maybe", "line 1", "'maybe'"),
    "two documents": ("--- a\n--- b", "line 2", "document"),
    "unknown alias": ("*x", "line 1", "'x'"),
    "escape": ("a: \x1b[31m", "'\\x1b'"),
    "surrogate": ("a: [\udcff]", "'\\udcff'"),
    "unclosed": ("a: [", "line 1", "YAML"),
    "commas": ("[" + "," * 100_000, "line 1", "YAML"),
    "half a mapping": ("{" + "a," * 5_000, "line 1", "YAML"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_yaml_is_refused_at_once(case):
    text, *facts = HOSTILE[case]
    started = time.process_time()
    told = error_of(parse_yaml, text, "FILE")
    assert time.process_time() - started < 10
    assert told.startswith("FILE") and [fact for fact in facts if fact not in told] == [] and len(told) < 300


def test_keys_are_text_and_dates_too():
    assert parse_yaml("on: 0.5\n1: a\n~: b\n2020-01-01: [2020-01-01]", "") == {
        "on": 0.5, "1": "a", "~": "b", "2020-01-01": ["2020-01-01"],
    }  # fmt: skip
    assert parse_yaml("", "") is None
    assert parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}", "") == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}


def make(kind: str, path: Path) -> None:
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "large":
        path.write_bytes(b"#" * (yaml_reader.MOST_BYTES + 1))
    elif kind == "binary":
        path.write_bytes(b"\x7fELF\x02\x01\x00" * 20)
    elif kind == "not utf-8":
        path.write_bytes("a: 1\nb: ü".encode("latin-1"))
    elif kind == "utf-16":
        path.write_bytes("a: 1".encode("utf-16"))


@pytest.mark.parametrize(
    ("kind", "fact"),
    [
        ("missing", "No such file"), ("folder", "a folder"), ("fifo", "no file"), ("loop", "symbolic links"),
        ("large", "bytes"), ("binary", "'\\x7f'"), ("not utf-8", "line 2: byte 0xfc"), ("utf-16", "0xff"),
    ],
)  # fmt: skip
def test_what_is_no_yaml_file(kind, fact, tmp_path):
    path = tmp_path / "some.yaml"
    make(kind, path)
    told = error_of(read_yaml, path)
    assert told.startswith(str(path)) and fact in told


def test_a_path_that_cannot_be():
    assert "null byte" in error_of(read_yaml, Path("a\0.yaml"))
    assert "name too long" in error_of(read_yaml, Path("a" * 1000 + ".yaml"))


def test_a_byte_order_mark_is_no_content(tmp_path):
    path = tmp_path / "some.yaml"
    path.write_text("a: 1", encoding="utf-8-sig")
    assert read_yaml(path) == {"a": 1}
