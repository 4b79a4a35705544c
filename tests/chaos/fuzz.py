"""Coverage-guided fuzzing of what reads untrusted bytes: report files, settings, the log, checkpoints.

python -m tests.chaos.fuzz TARGET [-max_total_time=600] [further options of libFuzzer]        TARGET: one of TARGETS

Needs atheris (pip install atheris, for CPython 3.11 to 3.13 on Linux), in an environment of its own. A case that ends
in another error than UserError, or that two readers read differently, stops it and is written to a file. SEEDS keeps
such cases for the tests.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

atheris = None  # for tests, which only call the targets
if importlib.util.find_spec("atheris"):
    importlib.import_module("torch._dynamo")  # torch cannot import it once atheris is there
    atheris = importlib.import_module("atheris")

with atheris.instrument_imports(include=["src"]) if atheris else contextlib.nullcontext():
    from src.core import storage
    from src.core.errors import UserError
    from src.core.settings_loader import load_config, run_from_yaml
    from src.ensemble.submission_log import SubmissionLog
    from src.training import checkpoints
    from tests.chaos import mutations

SEEDS = {
    "lines": mutations.SEEDS,
    "settings": (b"runs: {lstm: {}}\n", b"runs: {lstm: hello}\n", b"a: &a [*a]\n", b"train.epochs=1e400\n", b"\0"),
    "log": (
        b"null\n",
        b'{"a": 1}\n',
        b"\xff\n",
        b'{"a":' * 100_000,
        b'{"at": "x", "event": "scored", "board": null}\n',
    ),
    "checkpoint": (b"", b"{}", b"[" * 100_000, b"\xff" * 8, b"\2\0\0\0\0\0\0\0{}"),
}
"""Cases that fuzzing begins with, among them those that it found."""


def read_lines(data: bytes, folder: Path) -> None:
    verdict = mutations.judge(data, folder / "reports.csv")
    assert not verdict.is_bad, verdict.told


def read_settings(data: bytes, folder: Path) -> None:
    """Reads a preset, a run's config.yaml, and the same text as words of the command line."""
    path = folder / "preset.yaml"
    path.write_bytes(data)
    words = data.decode(errors="surrogateescape").split("\n")
    for read in (lambda: load_config(str(path)), lambda: run_from_yaml(path), lambda: load_config("quick", words)):
        with contextlib.suppress(UserError):
            read()


def read_log(data: bytes, folder: Path) -> None:
    """Reads a log with further lines, and appends to it: no line may be lost, unless it was cut off."""
    path = folder / "submissions.jsonl"
    made = {"test": "a.csv", "run": "lstm", "fingerprint": "0", "how": {}, "made_from": None}
    path.unlink(missing_ok=True)
    log = SubmissionLog(path)
    first = log.made(folder / "a.csv", "0" * 64, **made)
    before = path.read_bytes() + data
    path.write_bytes(before)
    with contextlib.suppress(UserError):
        log.submissions()
        log.scored(first, 0.5, "board")
        assert log.find(first.id).score("board") == 0.5
    assert path.read_bytes().startswith(before.rpartition(b"\n")[0]), "lines of the log are gone"


def read_checkpoint(data: bytes, folder: Path) -> None:
    """Resumes from states whose JSON or weights are other bytes: it must pass over them."""
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    for path in folder.glob("state_*"):
        path.unlink()
    checkpoints.save(folder, model, None, optimizer, [{"epoch": 1, "loss": 1.0}], 0.0)
    for name in ("state_0001.json", "state_0001.safetensors"):
        path = folder / name
        before = path.read_bytes()
        path.write_bytes(data)
        history, *_ = checkpoints.resume(folder, model, None, optimizer)
        assert data == before or not history, f"{name}: other bytes are taken for a state"
        with contextlib.suppress(UserError):
            storage.read_json(path)
        with contextlib.suppress(UserError):
            checkpoints.load_weights(path, model)
        path.write_bytes(before)


TARGETS: dict[str, Callable[[bytes, Path], None]] = {
    "lines": read_lines,
    "settings": read_settings,
    "log": read_log,
    "checkpoint": read_checkpoint,
}


def main(target: str, *options: str) -> None:
    folder = Path(tempfile.mkdtemp(prefix="fuzz"))
    seeds = folder / "seeds"
    seeds.mkdir()
    for number, text in enumerate(SEEDS[target]):
        (seeds / str(number)).write_bytes(text)

    def try_one(data: bytes) -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            TARGETS[target](data, folder)

    atheris.Setup([sys.argv[0], str(seeds), *options], try_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
