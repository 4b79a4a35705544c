"""Places of all outputs, and writing them so that a kill never leaves half a file."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.metadata
import io
import itertools
import json
import mmap
import os
import platform
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from src.core import temporaries, terminal
from src.core.errors import REMEDIES, UNSUPPORTED, Damaged, UserError
from src.core.language import _
from src.core.names import check_name
from src.core.temporaries import TemporaryFile

HASHED = 64 << 20
"""Bytes of an array that are hashed at a time."""
CHECKSUM = "checksum"
"""Last key of every JSON file."""
_hashed: dict[tuple[Path, tuple[int, ...]], str] = {}
"""Checksums of files that this process has read, by path and state of the file."""


class Output:
    """The folder of everything made, and what lies directly in it."""

    def __init__(self, root: Path):
        self.root = root
        self.data = root / "data"
        self.outcomes = root / "data" / "outcomes.npz"
        self.row_weights = root / "data" / "weights.npy"
        self.folds = root / "folds.csv"
        self.folds_manifest = root / "folds.json"
        self.baselines = root / "baselines"
        self.shift = root / "shift"
        self.vectors = root / "vectors"
        self.pretrained = root / "pretrained"
        self.hardware = root / "hardware"
        self.runs = root / "runs"
        self.alarms = root / "alarms"
        self.domains = root / "domains"
        self.predictions = root / "predictions"
        self.tune = root / "tune"
        self.time = root / "time"
        self.tensorboard = root / "tensorboard"
        self.mlflow = root / "mlflow.db"
        self.submissions = root / "submissions.jsonl"
        self.report = root / "report.html"
        self.pages = root / "pages"
        self.eda = root / "eda.html"
        self.suspicious = root / "suspicious.csv"
        self.seconds = root / "pipeline.json"
        self.bench = root / "bench.json"
        self.agreement = root / "agree.json"
        self.scale = root / "scale.json"
        self.load = root / "load.json"
        self.gpu = root / "gpu"
        self.gpu_dry_run = root / "gpu_dry_run"
        self.locks = root / "locks"

    def run(self, name: str) -> Path:
        return self.runs / check_name("run", name)

    def shift_of(self, test_file: str) -> Path:
        """Folder of what was measured of a test file."""
        return self.shift / Path(test_file).stem

    def run_names(self) -> list[str]:
        """Finished runs: those with a score."""
        return sorted(path.parent.name for path in self.runs.glob("*/score.json"))

    def unscored_names(self) -> list[str]:
        """Runs that were imported without out-of-fold predictions."""
        return sorted(path.parent.name for path in self.runs.glob("*/imported.json"))

    def submission(self, test_file: str, run: str | None = None) -> Path:
        """Submission of the pipeline's blend, or of `run`."""
        name = test_file if Path(test_file).suffix else f"{test_file}.csv"
        return self.root / (f"submission_{name}" if run is None else f"submission_{run}_{name}")

    def prediction(self, run: str, file: Path) -> Path:
        """Prediction of a run for a file of the user's; a set of stays gets a CSV file."""
        stem = file.stem[: -len(".tar")] if file.stem.lower().endswith(".tar") else file.stem
        name = file.name if file.suffix == ".csv" else f"{stem}.csv"
        return self.root / f"prediction_{run}_{name}"

    def compressed(self, run: str) -> Path:
        """Folder of the small models of a run."""
        return self.root / "compressed" / run

    def bundle(self, run: str) -> Path:
        """File that holds all that predictions of a run need."""
        return self.root / f"{run}.bundle"

    def explained(self, run: str) -> Path:
        """Explanations of a run, as the report shows them."""
        return self.run(run) / "explained.json"

    def alarms_of(self, run: str) -> Path:
        """Scores of a run against the hours of data that it sees, and its alarms."""
        return self.run(run) / "alarms.json"

    def explanation(self, run: str, file: str, report: str) -> Path:
        """Page that explains one row of a file. An id that no file can be named by has its hash in the name."""
        safe = re.sub(r"[^0-9A-Za-z_.-]", "_", report)
        if safe != report:
            safe += f"_{hashlib.sha256(report.encode()).hexdigest()[:8]}"
        return self.root / f"explain_{run}_{Path(file).stem}_{safe}.html"

    def shifted_prediction(self, file: str) -> Path:
        """Scores on a labelled file as it is and made like the target."""
        return self.root / f"prediction_shifted_{Path(file).stem}.json"


def sweep(output: Output) -> None:
    """Removes what killed commands left half written in the output folder: in the folders of ours alone, for beside
    them may lie anything."""
    temporaries.sweep(output.root)
    for path in vars(output).values():
        if path != output.root:
            temporaries.sweep_tree(path)


def abandoned(output: Output) -> list[Path]:
    """Returns what sweep() would remove."""
    folders = {path for path in vars(output).values() if path != output.root and path.is_dir()}
    trees = [Path(place) for folder in folders for place, _folders, _names in os.walk(folder)]
    return sorted(itertools.chain(*map(temporaries.abandoned, {output.root, *trees})))


def require(path: Path, command: str) -> Path:
    """Returns `path`. Raises UserError, with the command that makes it, where it is missing."""
    if not path.exists():
        raise missing(path, command)
    return path


def missing(path: Path, command: str) -> UserError:
    """Returns the error for what is missing, with the command, without ./run.sh, that makes it; empty: the same one."""
    if not command:
        return UserError(_("{path} is missing. Run the same command again").format(path=path))
    return UserError(_("{path} is missing. Make it with: ./run.sh {command}").format(path=path, command=command))


def write_atomic(
    path: Path, write: Callable[[IO[bytes]], object], check: Callable[[Path], object] = lambda written: None
) -> None:
    """Calls `write` on a temporary file beside `path` and renames it: readers see the old file or the whole new one.

    `check` may read the temporary file and raise: then the file never gets its name. The file and its folder are
    flushed to disk, so that the promise survives a power cut too. Raises UserError where the file cannot be written,
    with its name and, on a full disk, the room that it needs.
    """
    with _beside(path) as temporary:
        buffered = io.BufferedWriter(temporary)
        write(buffered)
        buffered.flush()
        if temporary.full:
            temporary.close()  # its bytes are free again
            raise unwritable(path, temporary.full, temporary.needed)
        with writing(path):
            flush(temporary.fileno())
        try:
            check(temporary.path)
        except UserError as error:  # tells of the file that was meant, not of one that is about to go
            told = str(error).replace(str(temporary.path), str(path)).replace(temporary.path.name, path.name)
            raise UserError(told) from None
        with writing(path):
            temporary.replace(path)
        terminal.wrote(path)
    with contextlib.suppress(OSError):  # some file systems cannot open or flush a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def check_writable(path: Path) -> None:
    """Raises UserError where no file can be written at `path`; makes the folder that it lies in. Long work asks before
    it starts."""
    try:
        with _beside(path):
            pass
    except OSError as error:  # such as of /proc, where no file can be made
        told = _("{path} cannot be written: {error}. Name another file")
        raise UserError(told.format(path=path, error=error.strerror)) from None


def _beside(path: Path) -> TemporaryFile:
    """Returns a new temporary file beside `path`. Raises UserError where there can be none."""
    with writing(path):
        if path.exists() and not (path.is_file() or path.is_dir()):
            # The rename would put a file in the place of /dev/null or of a pipe.
            raise UserError(_("{path} is a device, pipe or socket. Name a file to write to").format(path=path))
        path.parent.mkdir(parents=True, exist_ok=True)
        return TemporaryFile(path)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an error of the system into a UserError that names `path`, if the user can mend it."""
    try:
        yield
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        raise unwritable(path, error) from None


def flush(descriptor: int) -> None:
    """Waits until a file is on disk, where the file system can tell."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


def unwritable(path: Path, error: OSError, needed: int | None = None) -> UserError:
    """Returns the error of a file that cannot be written; `needed`: its size in bytes, where a write failed for it."""
    told = f"{path} cannot be written: {error.strerror}."
    if needed is not None:
        told += f" It needs {needed:,} bytes"
        if error.errno == errno.EFBIG:
            limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
            is_limited = limit != resource.RLIM_INFINITY
            told += f", and files may have {limit:,} here (ulimit -f)" if is_limited else ", too much for this disk"
        elif error.errno == errno.ENOSPC:
            told += f", and {shutil.disk_usage(path.parent).free:,} are free there"
        told += "."
    return UserError(
        _("{told} {remedy}, and run the same command again").format(told=told, remedy=REMEDIES[error.errno])
    )


def write_text(path: Path, text: str) -> None:
    # A name of a file that is not UTF-8 becomes a \\udc.. escape, which JSON and YAML read as the same name.
    write_atomic(path, lambda file: file.write(text.encode(errors="backslashreplace")))


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes `value` with a checksum, which read_json compares."""
    if CHECKSUM in value:
        raise ValueError(f"{path}: {CHECKSUM!r} is the key of the checksum")
    write_text(path, _sealed(value))


def read_json(path: Path, remedy: str = "") -> dict[str, Any]:
    """Reads what write_json wrote. Raises Damaged for anything else; `remedy`: the command, without ./run.sh, that
    makes the file. Raises UserError for a missing file."""
    require(path, remedy)
    try:
        text = path.read_bytes().decode()
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Damaged(path, _("it is not valid JSON ({error})").format(error=error), remedy) from None
    if not isinstance(value, dict) or CHECKSUM not in value:
        raise Damaged(path, _("it lacks its checksum, or an older version wrote it"), remedy)
    del value[CHECKSUM]
    if not _is_sealed(text):
        raise Damaged(path, _("its content differs from its checksum"), remedy)
    return value


def read_kept(path: Path) -> dict[str, Any] | None:
    """Reads JSON that is kept to save time; None, with a warning for a damaged file, where it must be made anew."""
    try:
        return read_json(path) if path.exists() else None
    except Damaged as error:
        terminal.warn(f"{error.what}. It is made anew")
        return None


def _sealed(value: dict[str, Any]) -> str:
    """JSON text of `value` and its checksum."""

    def text(value: dict[str, Any]) -> str:
        written = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        return written.encode(errors="backslashreplace").decode()  # as write_text

    return text({**value, CHECKSUM: hashlib.sha256(text(value).encode()).hexdigest()})


def _is_sealed(text: str) -> bool:
    """Returns True for a text of _sealed(). The text without its last line is hashed: to write the value again would
    take longer than all else that a command with nothing to do does."""
    body, _, end = text.rpartition(f'\n  "{CHECKSUM}": "')
    unsealed = "{}\n" if body == "{" else f"{body.removesuffix(',')}\n}}\n"
    return end == f'{hashlib.sha256(unsealed.encode()).hexdigest()}"\n}}\n'


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, which is read once a process, and once more where it changed since."""
    key = path, file_state(path)
    if key not in _hashed:
        with path.open("rb") as file:
            _hashed[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _hashed[key]


def file_state(path: Path) -> tuple[int, ...]:
    """Numbers of the file system that change with the content of a file."""
    state = path.stat()
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def size_of(path: Path) -> int:
    """Returns the bytes of a file, or of all files below a folder."""
    return sum(entry.stat().st_size for _, entry in _files_below(path)) if path.is_dir() else path.stat().st_size


def folder_sha256(folder: Path) -> str:
    """Returns the checksum of the names and contents of all files in `folder`; hidden files do not count."""
    digest = hashlib.sha256()
    for name, entry in _files_below(folder):
        if not any(part.startswith(".") for part in name.split("/")):
            with open(entry.path, "rb", buffering=0) as file:
                digest.update(os.fsencode(name) + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _files_below(folder: Path, inside: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yields the files below a folder, by their path in it, in the order of the paths' parts; links to folders are left
    out. Names are all that is kept of a folder, for it may hold a million files."""
    with os.scandir(folder / inside) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.is_dir():
            if not entry.is_symlink():
                yield from _files_below(folder, f"{inside}{entry.name}/")
        elif entry.is_file():
            yield inside + entry.name, entry


def array_hash(*arrays: np.ndarray) -> str:
    """16 hexadecimal digits that stand for the types, shapes and values of arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        if array.flags.c_contiguous and array.ndim:
            rows = max(1, HASHED // max(1, array[:1].nbytes))
            for start in range(0, len(array), rows):
                digest.update(array[start : start + rows].data)
                release_pages(array)
        else:
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


def release_pages(array: Any) -> None:
    """Takes what was read of a memory-mapped file out of this process's memory; other arrays stay as they are.

    The system keeps the pages as long as it has room. Otherwise a process that reads a large file once holds all of it.
    """
    if isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap) and array.mode == "r":
        with contextlib.suppress(OSError):  # a file system that cannot give pages back
            array.base.madvise(mmap.MADV_DONTNEED)


def libraries(*names: str) -> dict[str, str]:
    """Installed versions of packages that change results: part of the fingerprints of what they compute."""
    return {name: importlib.metadata.version(name) for name in names}


def environment(device: str, precision: str) -> dict[str, Any]:
    """Machine and versions that a result depends on."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        "precision": precision,
        "packages": libraries("torch", "numpy", "pandas", "scipy", "scikit-learn", "iterative-stratification"),
    }
