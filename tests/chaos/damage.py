"""Damages of one file of an output: what bad disks, crashes, editors, scripts and mistaken copies leave behind."""

from __future__ import annotations

import io
import json
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

NESTED = 100_000
"""Brackets of a text that parsers which call themselves cannot read."""


def flip(data: bytes, rng: random.Random) -> bytes:
    """One bit of the file is another."""
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(1, len(data))] if len(data) > 1 else b""


def empty(data: bytes, rng: random.Random) -> bytes:
    return b""


def zero(data: bytes, rng: random.Random) -> bytes:
    """Zeros from some place on, as after a power cut; often from the first byte."""
    start = rng.choice([0, rng.randrange(len(data))])
    return data[:start] + bytes(len(data) - start)


def permute(data: bytes, rng: random.Random) -> bytes:
    """Rows of an array, entries of a JSON text or lines of another file in reverse order."""
    if data.startswith(b"\x93NUMPY"):
        array = np.load(io.BytesIO(data))
        return _npy(array[::-1] if array.ndim else array)
    if (value := _json(data)) is not None:
        return json.dumps(_reversed(value), indent=2, ensure_ascii=False).encode() + b"\n"
    return b"".join(reversed(data.splitlines(keepends=True)))


def reshape(data: bytes, rng: random.Random) -> bytes:
    """Another shape or type of the same format: 16 columns for 17, float64 for float32, a list for a mapping."""
    if data.startswith(b"\x93NUMPY"):
        array = np.load(io.BytesIO(data))
        others: list[np.ndarray] = [array[1:], array.astype(np.float64), array.astype("U4"), array[None]]
        if array.ndim > 1:
            others += [array[:, 1:], array.T]
        return _npy(rng.choice(others))
    if (value := _json(data)) is not None:
        keys = list(value) if isinstance(value, dict) else []
        some = rng.choice(keys) if keys else None
        others = [[value], "text", 17, None, {}, [], {**value, some: [value[some]]} if keys else []]
        return json.dumps(rng.choice(others)).encode()
    lines = data.splitlines(keepends=True)
    return b"".join(line.partition(b",")[2] or line for line in lines)


def foreign(data: bytes, rng: random.Random) -> bytes:
    """Contents of another format."""
    pickled = io.BytesIO()
    np.save(pickled, np.array([{"a": 1}], object), allow_pickle=True)
    return rng.choice([
        pickled.getvalue(), pickle.dumps([1]), b"[" * NESTED, b'{"a":' * NESTED, b"\xff\xfe\0x", b"PK\x03\x04" + data,
        b"<html><body>404</body></html>", b"- " * NESTED, b"nan\n", b"1" * 10_000,
    ])  # fmt: skip


def stamp(data: bytes, rng: random.Random) -> bytes:
    """One number or stamp of the text is another, and the format is still right."""
    found = list(re.finditer(rb"(?<=[\s,:\[\"])(\d+|[0-9a-f]{8,64})(?=[\s,.\]}\"])", data))
    if not found:
        return flip(data, rng)
    one = rng.choice(found)
    digits = bytes(rng.choice(b"123456789") for _ in one[0])
    return data[: one.start()] + digits + data[one.end() :]


KINDS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    one.__name__: one for one in (flip, truncate, empty, zero, permute, reshape, foreign, stamp)
}
"""Kinds of damage that follow from the file alone."""
NAMES = [*KINDS, "swap", "remove"]
"""All kinds; swap: contents of another file of this kind, in the same output or in another one."""


def do(path: Path, kind: str, others: list[Path], rng: random.Random) -> bool:
    """Damages `path`; returns False where this damage leaves the file as it is. `others`: files to swap with."""
    before = path.read_bytes()
    if kind == "remove":
        path.unlink()
        return True
    different = [other for other in others if other.read_bytes() != before] if kind == "swap" else []
    if kind == "swap":
        after = rng.choice(different).read_bytes() if different else before
    else:
        after = KINDS[kind](before, rng) if before else foreign(before, rng)
    path.unlink()  # it may be a hard link to the undamaged file
    path.write_bytes(after)
    return after != before


def _npy(array: np.ndarray) -> bytes:
    written = io.BytesIO()
    np.save(written, array, allow_pickle=False)
    return written.getvalue()


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _reversed(value: Any) -> Any:
    """Returns a JSON value with all its lists in reverse order."""
    if isinstance(value, dict):
        return {key: _reversed(below) for key, below in value.items()}
    return [_reversed(below) for below in reversed(value)] if isinstance(value, list) else value
