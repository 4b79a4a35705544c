"""Where every output lives, how it is written so that a kill never leaves half of it, and when it is up to date."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from src.core import terminal
from src.core.errors import UserError

if TYPE_CHECKING:
    from src.core.settings import Config


class Output:
    """The folder of everything made, and what lies directly in it."""

    def __init__(self, root: Path):
        self.root = root
        self.data = root / "data"
        self.folds = root / "folds.csv"
        self.folds_manifest = root / "folds.json"
        self.baselines = root / "baselines"
        self.shift = root / "shift"
        self.vectors = root / "vectors"
        self.pretrained = root / "pretrained"
        self.hardware = root / "hardware"
        self.runs = root / "runs"
        self.predictions = root / "predictions"
        self.tune = root / "tune"
        self.tensorboard = root / "tensorboard"
        self.mlflow = root / "mlflow.db"
        self.submissions = root / "submissions.jsonl"
        self.report = root / "report.html"
        self.eda = root / "eda.html"
        self.suspicious = root / "suspicious.csv"
        self.seconds = root / "pipeline.json"
        self.bench = root / "bench.json"
        self.agreement = root / "agree.json"
        self.scale = root / "scale.json"
        self.working = root / "working"

    def run(self, name: str) -> Path:
        return self.runs / name

    def shift_of(self, test_file: str) -> Path:
        """What was measured of a test file."""
        return self.shift / Path(test_file).stem

    def run_names(self) -> list[str]:
        """Finished runs: those with a score."""
        return sorted(path.parent.name for path in self.runs.glob("*/score.json"))

    def submission(self, test_file: str, run: str | None = None) -> Path:
        """Of the pipeline's final blend, or of the `run` that was asked for."""
        return self.root / (f"submission_{test_file}" if run is None else f"submission_{run}_{test_file}")

    def explained(self, run: str) -> Path:
        """What a run goes by, label by label, as the report shows it."""
        return self.run(run) / "explained.json"

    def explanation(self, run: str, file: str, report: str) -> Path:
        """Of one report of a file."""
        return self.root / f"explain_{run}_{Path(file).stem}_{re.sub(r'[^0-9A-Za-z_.-]', '_', report)}.html"

    def shifted_prediction(self, file: str) -> Path:
        """Scores on a labelled file as it is and made like the target."""
        return self.root / f"prediction_shifted_{Path(file).stem}.json"


def require(path: Path, command: str) -> Path:
    """`path`, or a UserError that names the command that makes it."""
    if not path.exists():
        raise UserError(f"{path} is missing. Make it with: ./run.sh {command}")
    return path


def write_atomic(
    path: Path, write: Callable[[IO[bytes]], object], check: Callable[[Path], object] = lambda written: None
) -> None:
    """Calls `write` on a temporary file beside `path` and renames it: readers see the old file or the whole new one.

    `check` may read the temporary file and raise: then the file never gets its name. The file and its folder are
    flushed to disk, so that the promise survives a power cut too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        try:
            check(Path(temporary))
        except UserError as error:  # tells of the file that was meant, not of one that is about to go
            told = str(error).replace(temporary, str(path)).replace(Path(temporary).name, path.name)
            raise UserError(told) from None
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        terminal.wrote(path)
    finally:
        Path(temporary).unlink(missing_ok=True)  # there only if it did not get its name
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_temporaries(folder: Path) -> None:
    """What a killed write_atomic left behind. Only for a folder that nobody else writes to."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    write_atomic(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_npy(path: Path, array: np.ndarray) -> None:
    # numpy writes to a real file past Python's buffer, which the flush before fsync would miss. What has nothing but a
    # `write` gets the array in pieces, so that there is never a second copy of a large one.
    write_atomic(path, lambda file: np.save(SimpleNamespace(write=file.write), array, allow_pickle=False))


def write_npy_blocks(path: Path, shape: tuple[int, ...], dtype: np.dtype, blocks: Iterable[np.ndarray]) -> None:
    """The same file as write_npy's of np.concatenate(blocks), an array of this shape and type, but only one block is in
    memory at a time. Raises ValueError, and writes nothing, if the blocks are not of that shape and type together.
    """

    def write(file: IO[bytes]) -> None:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        rows = 0
        for block in blocks:
            if block.dtype != dtype or block.shape[1:] != shape[1:]:
                raise ValueError(f"{path}: a block of {block.dtype} {block.shape} in an array of {dtype} {shape}")
            file.write(np.ascontiguousarray(block).data)
            rows += len(block)
        if rows != shape[0]:
            raise ValueError(f"{path}: blocks of {rows} rows in an array of {shape}")

    write_atomic(path, write)


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}). Delete it and run the same command again.") from None


def is_current(path: Path, fingerprint: str, beside: Iterable[str] = ()) -> bool:
    """Whether the result file `path` is there, with the files `beside` it that were written before it, and was made
    from what `fingerprint` stands for."""
    if not all((path.parent / name).exists() for name in (path.name, *beside)):
        return False
    return read_json(path).get("fingerprint") == fingerprint


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def array_hash(*arrays: np.ndarray) -> str:
    """16 hexadecimal digits that stand for the types, shapes and values of arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


def libraries(*names: str) -> dict[str, str]:
    """Installed versions of packages that change results: part of the fingerprints of what they compute."""
    return {name: importlib.metadata.version(name) for name in names}


def environment(device: str, precision: str) -> dict[str, Any]:
    """What a result depends on beside its settings."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        "precision": precision,
        "packages": libraries("torch", "numpy", "pandas", "scipy", "scikit-learn", "iterative-stratification"),
    }


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Holds `path` for this process; waits while another has it. The kernel lets go of a lock when its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_held(path: Path) -> bool:
    """Whether a process has the lock `path`, by lock() or at_work(): of one that was killed, the kernel let go."""
    for pause in (0.0, 0.02):  # another that asks holds it for an instant
        time.sleep(pause)
        try:
            with path.open("r+") as file:  # NFS locks for one process alone only what is open for writing
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return False
        except (FileNotFoundError, PermissionError):
            return False
        except BlockingIOError:
            continue
    return True


@contextlib.contextmanager
def at_work(output: Output, *stages: str) -> Iterator[None]:
    """Meanwhile is_at_work() of these stages, for other processes. Several may be at work on one stage.

    Where no mark can be set, as in a folder that is read alone, there is none: a stage that finds all done needs none.
    """
    is_new = not output.root.exists()
    try:
        with contextlib.ExitStack() as marks:
            for stage in stages:
                with contextlib.suppress(OSError):
                    marks.enter_context(_mark(output.working / f"{stage}.lock"))
            yield
    finally:
        with contextlib.suppress(OSError):  # not empty: others are at work, or something was made
            output.working.rmdir()
            if is_new:
                output.root.rmdir()


def is_at_work(output: Output, stage: str) -> bool:
    return is_held(output.working / f"{stage}.lock")


def marked(stage: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """at_work() for the function of a stage, whose first argument is the Config."""

    def wrapped(run: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(run)
        def marking(config: Config, *arguments: Any, **keywords: Any) -> None:
            with at_work(Output(config.paths.output), stage):
                run(config, *arguments, **keywords)

        return marking

    return wrapped


@contextlib.contextmanager
def _mark(path: Path) -> Iterator[None]:
    """A file that is there, and held, as long as some process holds its mark."""
    file = _shared(path)
    while file is None:
        file = _shared(path)
    with file:
        try:
            yield
        finally:
            with contextlib.suppress(BlockingIOError):  # another holds it too
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)


def _shared(path: Path) -> IO[str] | None:
    """`path`, made if need be, held with whoever else holds it; None where the last of them just took it away."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as opened:
        file = opened.enter_context(path.open("a+"))  # NFS shares only what is open for reading
        fcntl.flock(file, fcntl.LOCK_SH)
        if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
            opened.pop_all()
            return file
    return None
