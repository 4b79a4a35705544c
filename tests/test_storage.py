from __future__ import annotations

import fcntl
import hashlib
import os
import select
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from src.core import storage
from src.core.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "result.txt"
    storage.write_text(path, "old")

    def half(file):
        file.write(b"ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        storage.write_atomic(path, half)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.txt"]


def test_written_values_read_back(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    storage.write_npy(tmp_path / "deep" / "a.npy", array)
    np.testing.assert_array_equal(np.load(tmp_path / "deep" / "a.npy"), array)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, "S5"])
@pytest.mark.parametrize("shape", [(10, 3), (10,), (0, 4)])
def test_blocks_make_the_same_file(tmp_path, dtype, shape):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    np.save(tmp_path / "numpy.npy", array)
    storage.write_npy(tmp_path / "whole.npy", array)
    blocks = (array[start : start + 4] for start in range(0, len(array), 4))
    storage.write_npy_blocks(tmp_path / "blocks.npy", shape, array.dtype, blocks)
    same = {(tmp_path / f"{name}.npy").read_bytes() for name in ("numpy", "whole", "blocks")}
    assert len(same) == 1


@pytest.mark.parametrize("blocks", [[(3, 2)], [(2, 2), (3, 2)], [(4, 3)], []])
def test_blocks_that_do_not_fit_write_nothing(tmp_path, blocks):
    with pytest.raises(ValueError, match=r"a.npy: .* in an array of"):
        storage.write_npy_blocks(tmp_path / "a.npy", (4, 2), np.dtype(np.int64), map(np.zeros, blocks, [int] * 9))
    assert not list(tmp_path.iterdir())


def test_blocks_of_another_type_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a block of float64 \(4, 2\) in an array of int64 \(4, 2\)"):
        storage.write_npy_blocks(tmp_path / "a.npy", (4, 2), np.dtype(np.int64), [np.zeros((4, 2))])


def test_json_without_a_number_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        storage.write_json(tmp_path / "a.json", {"score": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_damaged_json_says_what_to_do(tmp_path):
    (tmp_path / "a.json").write_text('{"fingerpr')
    with pytest.raises(UserError, match=r"a.json is not valid JSON .*Delete it"):
        storage.read_json(tmp_path / "a.json")


def test_missing_artefact_names_the_command(tmp_path):
    with pytest.raises(UserError, match=r"oof.npy is missing. Make it with: ./run.sh train --model lstm"):
        storage.require(tmp_path / "oof.npy", "train --model lstm")


def test_array_hash_sees_values_type_and_shape():
    a = np.arange(6)
    hashes = [storage.array_hash(x) for x in (a, a.astype(np.int32), a.reshape(2, 3), a[::-1], a + 1)]
    assert len(set(hashes)) == 5
    assert storage.array_hash(a[::2]) == storage.array_hash(a[::2].copy())


def test_a_lock_is_waited_for_and_dies_with_its_holder(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from src.core import locks\n"
        "with locks.lock(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "lock")], stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
    )
    assert holder.stdout.readline() == b"held\n"
    waiter = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "lock")], stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
    )
    with (tmp_path / "lock").open("a") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert select.select([waiter.stdout], [], [], 1)[0] == [], "it waits"
    holder.kill()
    assert waiter.stdout.readline() == b"held\n"
    waiter.kill()
    holder.wait()
    waiter.wait()


def test_temporaries_of_a_killed_writer_are_removed(tmp_path):
    (tmp_path / ".a.npy.xyz.tmp").write_text("half")
    (tmp_path / "a.npy").write_text("whole")
    storage.remove_temporaries(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.npy"]


def test_a_memory_map_is_hashed_in_parts_and_leaves_the_memory(tmp_path, monkeypatch):
    array = np.random.default_rng(0).random((40_000, 100))  # 32 MB
    storage.write_npy(tmp_path / "a.npy", array)
    before = storage.array_hash(array)
    monkeypatch.setattr(storage, "HASHED", 1 << 20)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    mapped, start = np.load(tmp_path / "a.npy", mmap_mode="r"), resident()
    assert storage.array_hash(mapped) == before
    assert resident() - start < 8e6
    assert (mapped[-1] == array[-1]).all()
    assert storage.array_hash(array[::2]) == storage.array_hash(mapped[::2])


def test_the_stamp_of_a_folder_follows_names_sizes_and_times(tmp_path):
    folder = tmp_path / "set-a"
    (folder / "b").mkdir(parents=True)
    for name in ("1.txt", "b.txt", "b/2.txt"):
        (folder / name).write_text("1")
    (folder / "gone").symlink_to(tmp_path / "nothing")
    (folder / "loop").symlink_to(folder)
    stamps = [storage.folder_stamp(folder)]
    digest = hashlib.sha256()  # parts of paths in order: b/2.txt before b.txt
    for path in sorted(folder / name for name in ("1.txt", "b/2.txt", "b.txt")):
        state = path.stat()
        digest.update(f"{path.relative_to(folder)} {state.st_size} {state.st_mtime_ns}\n".encode())
    assert stamps[0] == digest.hexdigest() and storage.size_of(folder) == 3
    (folder / "1.txt").write_text("12")
    stamps.append(storage.folder_stamp(folder))
    (folder / "b/2.txt").rename(folder / "b/3.txt")
    stamps.append(storage.folder_stamp(folder))
    os.utime(folder / "b.txt", ns=(5, 5))
    stamps.append(storage.folder_stamp(folder))
    assert len(set(stamps)) == 4
