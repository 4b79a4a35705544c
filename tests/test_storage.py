from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
import select
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from src.core import array_files, storage, temporaries
from src.core.errors import UserError
from tests.conftest import error_of

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


def test_what_cannot_be_written_is_told_before_the_work(tmp_path):
    for path in (Path("/proc/none/it.bundle"), Path("/dev/null"), tmp_path / "file" / "it.bundle"):
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match=re.escape(str(path))):
            storage.check_writable(path)
    storage.check_writable(tmp_path / "deep" / "it.bundle")
    assert [*(tmp_path / "deep").iterdir()] == []


def test_written_values_read_back(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    array_files.write_npy(tmp_path / "deep" / "a.npy", array)
    np.testing.assert_array_equal(np.load(tmp_path / "deep" / "a.npy"), array)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, "S5"])
@pytest.mark.parametrize("shape", [(10, 3), (10,), (0, 4)])
def test_blocks_make_the_same_file(tmp_path, dtype, shape):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    np.save(tmp_path / "numpy.npy", array)
    array_files.write_npy(tmp_path / "a.npy", array)
    whole = (tmp_path / "a.npy").read_bytes()
    for first in (shape[0], None):
        blocks = (array[start : start + 4] for start in range(0, len(array), 4))
        array_files.write_npy_blocks(tmp_path / "a.npy", (first, *shape[1:]), array.dtype, blocks)
        assert (tmp_path / "a.npy").read_bytes() == whole
    assert whole[: -array_files.SIZE] == (tmp_path / "numpy.npy").read_bytes()


@pytest.mark.parametrize("blocks", [[(3, 2)], [(2, 2), (3, 2)], [(4, 3)], []])
def test_blocks_that_do_not_fit_write_nothing(tmp_path, blocks):
    with pytest.raises(ValueError, match=r"a.npy: .* in an array of"):
        array_files.write_npy_blocks(tmp_path / "a.npy", (4, 2), np.dtype(np.int64), map(np.zeros, blocks, [int] * 9))
    assert not list(tmp_path.iterdir())


def test_blocks_of_another_type_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a block of float64 \(4, 2\) in an array of int64 \(4, 2\)"):
        array_files.write_npy_blocks(tmp_path / "a.npy", (4, 2), np.dtype(np.int64), [np.zeros((4, 2))])


def test_json_without_a_number_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        storage.write_json(tmp_path / "a.json", {"score": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_damaged_json_says_what_to_do(tmp_path):
    (tmp_path / "a.json").write_text('{"fingerpr')
    with pytest.raises(UserError, match=r"a.json is damaged: it is not valid JSON .*Delete it"):
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


KILLED = """
import os, signal, sys
from pathlib import Path
from src.core import storage
storage.write_atomic(Path(sys.argv[1]), lambda file: (file.write(b"half"), file.flush(), os.kill(os.getpid(), 9)))
"""


def test_the_temporary_file_of_a_killed_writer_is_removed_and_that_of_a_living_one_is_not(tmp_path):
    path = tmp_path / "a.npy"
    subprocess.run([sys.executable, "-c", KILLED, path], cwd=ROOT, check=False)
    assert [entry.name[:7] for entry in tmp_path.iterdir()] == [".a.npy."]

    def write(file):
        temporaries.sweep(tmp_path)
        assert len(list(tmp_path.iterdir())) == 1
        file.write(b"whole")

    storage.write_atomic(path, write)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.npy"] and path.read_bytes() == b"whole"


def test_names_of_any_length_are_written(tmp_path):
    for name in ("a" * 255, "数" * 85, "*[a].csv"):
        storage.write_text(tmp_path / name, name)
        assert (tmp_path / name).read_text() == name
    told = error_of(storage.write_text, tmp_path / ("a" * 256), "x")
    assert "name too long" in told and "shorter" in told


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from src.core import array_files, storage
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
write, path = sys.argv[1], Path(sys.argv[2])
try:
    if write == "text":
        storage.write_text(path, "x" * 250_000)
    elif write == "npy":
        array_files.write_npy(path, np.zeros(30_000))
    elif write == "blocks":
        array_files.write_npy_blocks(path, (None, 3), np.dtype(float), (np.zeros((50, 3)) for _ in range(200)))
    else:
        array_files.write_npz(path, a=np.zeros(30_000), b=np.zeros(3))
except storage.UserError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("kind", "needed"), [("text", 250_000), ("npy", 240_200), ("blocks", 240_200), ("npz", 240_586)]
)
def test_a_file_beyond_the_size_limit_is_named_with_the_room_it_needs(tmp_path, kind, needed):
    path = tmp_path / "result"
    path.write_text("old")
    done = subprocess.run([sys.executable, "-c", LIMITED, kind, path], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == (
        f"{path} cannot be written: File too large. It needs {needed:,} bytes, and files may have 100,000 here "
        "(ulimit -f). Raise the limit, and run the same command again\n"
    ), done.stderr
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def small_disk(folder: Path) -> None:
    """Mounts a file system of 64 kB, until the caller unmounts it; skips the test where that is not allowed."""
    if sys.platform != "linux" or os.getuid():
        pytest.skip("only root mounts a small disk: a full disk is not tried")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted ({done.stderr.strip()}): a full disk is not tried")


def test_a_full_disk_is_told_with_the_room_that_is_needed_and_less_goes_on(tmp_path):
    small_disk(tmp_path)
    try:
        (tmp_path / "ballast").write_bytes(bytes(40_000))
        told = error_of(array_files.write_npy, tmp_path / "a.npy", np.zeros(5000))
        assert f"{tmp_path / 'a.npy'} cannot be written: No space left on device. It needs 40,200 bytes, and" in told
        assert "24,576 are free" in told, "what was half written is gone"
        assert [entry.name for entry in tmp_path.iterdir()] == ["ballast"]
        (tmp_path / "ballast").unlink()
        array_files.write_npy(tmp_path / "a.npy", np.zeros(5000))
        assert len(np.load(tmp_path / "a.npy")) == 5000
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize("place", ["folder", "deep/folder"])
def test_a_folder_without_permission_is_named(place):
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as made:  # pytest's own folders are closed to other users
        path = Path(made) / place / "a.txt"
        (Path(made) / "folder").mkdir()
        os.chmod(made, 0o555)
        os.chmod(Path(made) / "folder", 0o555)
        try:
            if not user:  # root may write everywhere
                os.seteuid(65534)
            told = error_of(storage.write_text, path, "x")
        finally:
            os.seteuid(user)
            os.chmod(made, 0o755)
    assert told == (
        f"{path} cannot be written: Permission denied. Give this user the right to it, and run the same command again"
    )


@pytest.mark.parametrize(
    ("call", "number"),
    [
        ("os.fsync", errno.EINVAL),
        ("os.fsync", errno.ENOSYS),
        ("fcntl.flock", errno.ENOSYS),
        ("fcntl.flock", errno.ENOLCK),
        ("os.replace", errno.EEXIST),
    ],
)
def test_a_file_system_without_a_call_is_written_to(tmp_path, monkeypatch, call, number):
    module, name = call.split(".")
    real = getattr(os, name, None)

    def refuse(*given):
        if name == "replace" and not given[1].exists():
            return real(*given)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(f"{module}.{name}", refuse)
    for text in ("old", "new"):
        storage.write_text(tmp_path / "a.txt", text)
        assert (tmp_path / "a.txt").read_text() == text and len(list(tmp_path.iterdir())) == 1


def test_a_mapped_file_is_hashed_where_pages_cannot_be_given_back(tmp_path, monkeypatch):
    class Map(mmap.mmap):
        def madvise(self, *given):
            raise OSError(errno.EINVAL, "Invalid argument")

    array_files.write_npy(tmp_path / "a.npy", np.arange(6))
    monkeypatch.setattr("mmap.mmap", Map)
    assert storage.array_hash(np.load(tmp_path / "a.npy", mmap_mode="r")) == storage.array_hash(np.arange(6))


def test_names_that_are_not_utf8_come_back_from_json(tmp_path):
    name = os.fsdecode(b"caf\xe9.csv")
    storage.write_json(tmp_path / "a.json", {"name": name})
    (tmp_path / "a.json").read_text(encoding="utf-8")
    assert storage.read_json(tmp_path / "a.json")["name"] == name


def test_a_memory_map_is_hashed_in_parts_and_leaves_the_memory(tmp_path, monkeypatch):
    array = np.random.default_rng(0).random((40_000, 100))  # 32 MB
    array_files.write_npy(tmp_path / "a.npy", array)
    before = storage.array_hash(array)
    monkeypatch.setattr(storage, "HASHED", 1 << 20)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    mapped, start = np.load(tmp_path / "a.npy", mmap_mode="r"), resident()
    assert storage.array_hash(mapped) == before
    assert resident() - start < 8e6
    assert (mapped[-1] == array[-1]).all()
    assert storage.array_hash(array[::2]) == storage.array_hash(mapped[::2])


def test_the_checksum_of_a_folder_follows_names_and_contents(tmp_path):
    folder = tmp_path / "set-a"
    (folder / "b").mkdir(parents=True)
    for name in ("1.txt", "b.txt", "b/2.txt"):
        (folder / name).write_text("1")
    (folder / "gone").symlink_to(tmp_path / "nothing")
    (folder / "loop").symlink_to(folder)
    assert storage.size_of(folder) == 3
    found = [storage.folder_sha256(folder)]
    times = (folder / "1.txt").stat()
    (folder / "1.txt").write_text("2")
    os.utime(folder / "1.txt", ns=(times.st_atime_ns, times.st_mtime_ns))
    found.append(storage.folder_sha256(folder))
    (folder / "b/2.txt").rename(folder / "b/3.txt")
    found.append(storage.folder_sha256(folder))
    (folder / "b.txt").rename(folder / "b/1.txt")
    found.append(storage.folder_sha256(folder))
    assert len(set(found)) == 4
    os.utime(folder / "b/3.txt", ns=(5, 5))
    (folder / ".DS_Store").write_text("view of a file manager")
    assert storage.folder_sha256(folder) == found[-1]


def test_a_pipe_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "device, pipe or socket" in error_of(storage.write_text, tmp_path / "pipe", "x")
    assert (tmp_path / "pipe").is_fifo() and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("new.csv", "new.csv"), ("new.2021.txt", "new.2021.csv"), ("new.2022.txt", "new.2022.csv"),
        ("set-c.tar.gz", "set-c.csv"), ("set-c.zip", "set-c.csv"), ("set-c", "set-c.csv"), ("shapes.npz", "shapes.csv"),
    ],
)  # fmt: skip
def test_predictions_of_files_with_points_in_their_names_have_names_of_their_own(file, name):
    assert storage.Output(Path("out")).prediction("lstm", Path(file)) == Path(f"out/prediction_lstm_{name}")


def test_explained_rows_have_pages_of_their_own():
    output = storage.Output(Path("out"))
    assert output.explanation("lstm", "a.csv", "12_3") == Path("out/explain_lstm_a_12_3.html")
    assert len({output.explanation("lstm", "a.csv", row) for row in ("a/1", "a:1", "a_1", "A_1")}) == 4
