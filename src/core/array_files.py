"""Arrays on disk: .npy and .npz files that end with a checksum, which every reader here compares with the content.

NumPy and zip readers ignore what follows an array, so the files stay ordinary ones. The checksum covers the names of
the file and of its folder too: a file that was copied over another is not taken for it.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import numpy as np

from src.core import storage
from src.core.errors import UNSUPPORTED, Damaged
from src.core.language import _
from src.core.storage import write_atomic
from src.core.terminal import warn

MARK = b"\nsha256 "
SIZE = len(MARK) + 64
"""Bytes of mark and checksum, behind the array."""
HASHED = 1 << 20
"""Bytes that are hashed at a time."""

_checked: dict[tuple[Path, tuple[int, ...]], str] = {}
"""Checksums that this process has compared with the content, by path and state of the file."""


def write_npy(path: Path, array: np.ndarray) -> None:
    """Writes one array."""
    # NumPy writes to a real file past Python's buffer, which the flush before fsync would miss. What has nothing but a
    # `write` gets the array in pieces, so that there is never a second copy of a large one.
    _write(path, lambda file: np.save(SimpleNamespace(write=file.write), array, allow_pickle=False))


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """Writes several arrays by name."""
    _write(path, lambda file: np.savez(file, **arrays))


def write_npy_blocks(path: Path, shape: tuple[int | None, ...], dtype: np.dtype, blocks: Iterable[np.ndarray]) -> None:
    """Writes the file that write_npy(np.concatenate(blocks)) would, of this shape and type, with only one block in
    memory at a time. A first size of None is that of all blocks together. Raises ValueError, and writes nothing, if the
    blocks are not of that shape and type together.
    """

    def head(file: IO[bytes], size: int) -> None:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (size, *shape[1:])}
        np.lib.format.write_array_header_1_0(file, header)  # of one length for any size: numpy leaves room to grow

    def write(file: IO[bytes]) -> None:
        head(file, shape[0] or 0)
        rows = 0
        for block in blocks:
            if block.dtype != dtype or block.shape[1:] != shape[1:]:
                raise ValueError(f"{path}: a block of {block.dtype} {block.shape} in an array of {dtype} {shape}")
            file.write(np.ascontiguousarray(block).data)
            rows += len(block)
        if shape[0] is None:
            end = file.tell()
            file.seek(0)
            head(file, rows)
            file.seek(end)
        elif rows != shape[0]:
            raise ValueError(f"{path}: blocks of {rows} rows in an array of {shape}")

    _write(path, write)


def read_npy(path: Path, remedy: str = "", mapped: bool = False) -> np.ndarray:
    """Reads one array; `mapped`: as a memory map, so that processes share one copy.

    Raises UserError for a missing file, and Damaged for one that is not as it was written. `remedy`: the command,
    without ./run.sh, that makes it.
    """
    checksum(path, remedy)
    try:
        return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except OSError as error:
        if not mapped or error.errno not in (errno.ENODEV, *UNSUPPORTED):
            raise
        return np.load(path, allow_pickle=False)  # a file system without memory maps


def read_npz(path: Path, remedy: str = "") -> dict[str, np.ndarray]:
    """Reads several arrays by name. Raises as read_npy does."""
    checksum(path, remedy)
    with np.load(io.BytesIO(path.read_bytes()[:-SIZE]), allow_pickle=False) as arrays:
        return dict(arrays)


def checksum(path: Path, remedy: str = "") -> str:
    """Returns the checksum, 64 hexadecimal digits, that the file ends with. Raises as read_npy does.

    The content is read once a process, and once more where the file changed since.
    """
    storage.require(path, remedy)
    key = path, storage.file_state(path)
    if key not in _checked:
        _checked[key] = _compared(path, remedy)
    return _checked[key]


def is_whole(path: Path) -> bool:
    """Returns True if the file is there and as it was written; warns of a damaged one."""
    if not path.exists():
        return False
    try:
        checksum(path)
    except Damaged as error:
        warn(_("{what}. It is made anew").format(what=error.what))
        return False
    return True


def _write(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    def sealed(file: IO[bytes]) -> None:
        write(file)
        file.flush()
        file.write(MARK + _digest(file, path, file.tell()).encode())

    write_atomic(path, sealed)


def _compared(path: Path, remedy: str) -> str:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END) - SIZE
        if size < 0:
            raise Damaged(path, f"it has {size + SIZE} bytes and lacks its checksum", remedy)
        file.seek(size)
        end = file.read()
        if not end.startswith(MARK):
            raise Damaged(path, "it does not end with its checksum", remedy)
        found = _digest(file, path, size)
    if found.encode() != end[len(MARK) :]:
        raise Damaged(path, "its content differs from its checksum", remedy)
    return found


def _digest(file: IO[bytes], path: Path, size: int) -> str:
    """Checksum of the first `size` bytes of a file that is, or will be, at `path`."""
    digest, place = hashlib.sha256(os.fsencode(f"{path.absolute().parent.name}/{path.name}\n")), 0
    while place < size and (block := os.pread(file.fileno(), min(size - place, HASHED), place)):
        digest.update(block)
        place += len(block)
    return digest.hexdigest()
