"""Fixtures: tiny sample data, and the real files where they are at hand."""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")  # tiny matrices: threads would only wait for each other
os.environ["LANGUAGE"] = "en"  # messages are compared with English ones

import contextlib
import fcntl
import getpass
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tests.warm  # noqa: F401  for workers that the tests start from this process
from src.__main__ import main
from src.core import interrupts, terminal
from src.core.errors import UserError
from src.data.synthetic import make_sample
from src.data.tasks import ROUND1, ROUND2
from tests.offline import run_offline
from tests.waiting import PATIENCE

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"

TINY = [
    "explain.per_label=0",  # seconds each
    "executor.threads=1",  # the same bytes whatever the number of jobs of a command
    "--preset", "sample", "folds.k=2", "model.embedding_size=16", "train.epochs=2", "train.batch_size=32",
    "runs.lstm.model.hidden_size=8", "runs.transformer.model.feedforward_size=16", "runs.transformer.model.layers=1",
]  # fmt: skip
"""Command-line words that make a pipeline run in seconds."""


LARGE_ROWS, LARGE_TEST_ROWS = 4000, 1000

LIBRARIES = ("PYTEST_", "KMP_", "TORCH", "_TORCH", "TRITON_", "MLFLOW_", "RAY_", "PYTHONBREAKPOINT")
"""Starts of the names of environment variables that belong to them."""

MadeOnce = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture
def heard_signals():
    """Lets the signals that end a command through, also to processes that a test starts: nohup ignores some, as does a
    shell for a job in the background.
    """
    ignored = [number for number in interrupts.SIGNALS if signal.getsignal(number) == signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """Fails a test that leaves the process in another state than it found: the next test would run in that state."""

    def state() -> dict[str, object]:
        # Variables that libraries set when they are imported are no state of a test.
        variables = {f"variable {k}": v for k, v in os.environ.items() if not k.startswith(LIBRARIES)}
        modes = {name: getattr(terminal, name) for name in ("_is_quiet", "_is_json", "_is_dependency")}
        return {**variables, **modes, "folder": os.getcwd()}

    before = state().items()
    yield
    assert state().items() ^ before == set()


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> MadeOnce:
    """Function that returns a new copy of a folder, which is made once for all workers of pytest-xdist."""
    own = tmp_path_factory.getbasetemp()
    shared = (own if worker_id == "master" else own.parent) / "made_once"

    def copied(name: str, make: Callable[[Path], None]) -> Path:
        whole, complete = shared / name, shared / f"{name}.complete"
        shared.mkdir(exist_ok=True)
        with (shared / f"{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # the kernel releases the lock of a worker that dies
            if not complete.exists():
                shutil.rmtree(whole, ignore_errors=True)
                whole.mkdir()
                make(whole)
                complete.touch()
        return Path(shutil.copytree(whole, tmp_path_factory.mktemp(name) / name, copy_function=shutil.copy2))

    return copied


@pytest.fixture(scope="session")
def tiny_input(made_once) -> Path:
    """300 labelled reports of round 1 and two test files of 40."""
    return made_once("round1", lambda folder: make_sample(folder, rows=300, test_rows=40, task=ROUND1, seed=7))


def words(input_folder: Path, output: Path, *more: str) -> list[str]:
    return [*TINY, f"paths.input={input_folder}", f"paths.output={output}", *more]


def run_command(arguments: list[str]) -> None:
    """Runs a command of the project in this process; it must succeed."""
    assert main(arguments) == 0


CLINICAL_PRESET = Path(__file__).with_name("clinical.yaml")


def clinical_words(task: str, input_folder: Path, output: Path, *more: str) -> list[str]:
    """Command-line words that make a pipeline of a clinical task run in seconds."""
    places = [f"paths.input={input_folder}", f"paths.output={output}"]
    return ["--task", task, "--preset", str(CLINICAL_PRESET), *places, *more]


@pytest.fixture(scope="session")
def made_offline(made_once, tiny_input) -> Path:
    """output/: a finished pipeline, made in processes without a network; log: every address that they asked for."""

    def make(folder: Path) -> None:
        made, _ = run_offline(folder, "-m", "tests.warm", *words(tiny_input, folder / "output"))
        assert made.returncode == 0, made.stderr

    return made_once("offline", make)


@pytest.fixture(scope="session")
def done(made_offline) -> Path:
    """Output of a finished pipeline; tests that change it work on a copy."""
    return made_offline / "output"


@pytest.fixture(scope="session")
def bundled(made_once, done, tiny_input) -> Path:
    """Folder with NAME.bundle of the runs lstm and blend, and NAME.csv, what these runs predict for test file A."""

    def make(folder: Path) -> None:
        output = Path(shutil.copytree(done, folder / "output", copy_function=shutil.copy2))
        (file,) = tiny_input.glob("*testA*.csv")
        for name in ("lstm", "blend"):
            settings = words(tiny_input, output)
            run_command(["bundle", name, "--to", str(folder / f"{name}.bundle"), *settings])
            run_command(["predict", name, str(file), "--to", str(folder / f"{name}.csv"), *settings])
        shutil.rmtree(output)

    return made_once("bundled", make)


@pytest.fixture(scope="module")
def shifted(made_once) -> Path:
    """input/: LARGE_ROWS reports of round 1, enough to estimate noise; output/: a finished shift stage."""

    def make(folder: Path) -> None:
        make_sample(folder / "input", rows=LARGE_ROWS, test_rows=LARGE_TEST_ROWS, task=ROUND1, seed=3)
        run_command(["shift", *words(folder / "input", folder / "output")])

    return made_once("shifted", make)


@pytest.fixture
def copy(done, tmp_path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "output", copy_function=shutil.copy2))


@contextlib.contextmanager
def drawn_unplaced() -> Iterator[None]:
    """Draws pictures without a layout, for pipelines of whose pages no test looks at a picture: to place one takes
    twice as long as to draw it."""
    from matplotlib.figure import Figure

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "set_layout_engine", lambda *arguments, **keywords: None)
        yield


@pytest.fixture
def placed_pictures():
    """For tests that look at pictures."""


@pytest.fixture(autouse=True)
def unplaced_pictures(request):
    if "placed_pictures" in request.fixturenames:
        yield
        return
    with drawn_unplaced():
        yield


@pytest.fixture(scope="session", autouse=True)
def unflushed_files():
    """Leaves out waits for the disk: no test takes the power away from the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def tiny_input_round2(made_once) -> Path:
    return made_once("round2", lambda folder: make_sample(folder, rows=300, test_rows=40, task=ROUND2, seed=7))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the competition's files for development; they are not part of the repository."""
    if not REAL.is_dir():
        pytest.skip(f"the real data is not at hand ({REAL.parent.name}/{REAL.name} beside the repository)")
    return REAL


@pytest.fixture(scope="session")
def postgres():
    """URL of a PostgreSQL server that lives as long as the tests."""
    found = shutil.which("initdb"), shutil.which("pg_ctl")
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if None in found and versions:
        found = versions[-1] / "initdb", versions[-1] / "pg_ctl"
    if None in found:
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql): shared studies are not tried")
    initdb, pg_ctl = found
    folder = Path(tempfile.mkdtemp(prefix="postgres"))  # pytest's own folders are closed to other users
    user = []
    if os.getuid() == 0:  # the server refuses to be root
        shutil.chown(folder, "nobody")
        user = ["setpriv", "--reuid=nobody", "--clear-groups"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data, log = folder / "data", folder / "log"
    name = "tester" if user else getpass.getuser()
    run = {"check": True, "capture_output": True, "cwd": folder, "timeout": PATIENCE}
    subprocess.run([*user, initdb, "-D", data, "-U", name, "-A", "trust", "--no-sync"], **run)
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    subprocess.run(
        [*user, pg_ctl, "-D", data, "-l", log, "-w", "-t", str(PATIENCE), "-o", options, "start"],
        **{**run, "capture_output": False, "stdout": subprocess.DEVNULL},
    )
    yield f"postgresql://{name}@127.0.0.1:{port}/postgres"
    subprocess.run([*user, pg_ctl, "-D", data, "-m", "immediate", "stop"], **run)
    shutil.rmtree(folder)


@pytest.fixture
def write(tmp_path):
    def write_bytes(text: bytes, name: str = "reports.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(text)
        return path

    return write_bytes


def error_of(call, *arguments, **keywords) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments, **keywords)
    return str(caught.value)
