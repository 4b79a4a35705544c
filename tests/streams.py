"""A Redis of a test's own, and workers of a stream in processes that can be killed.

python tests/streams.py SETTINGS_JSON      a worker whose predictor needs no bundle
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from src.core.settings import Alarms, Stream
from src.data.tasks import TASKS
from tests.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[1]
POISON, REFUSED = 66, 67
"""Tokens that kill the worker that predicts them, and that the predictor fails for."""


class FakePredictor:
    """Predicts of a report the share that its first token is of 100, for each region: 50 is a risk of 0.5."""

    task, engine = TASKS["round1"], "fake"
    bundle = SimpleNamespace(name="fake", version="0" * 12)

    def __init__(self, seconds: float = 0.0):
        self.labels, self._seconds = tuple(self.task.label_names), seconds
        self.sizes: list[int] = []

    def encode(self, reports: Sequence[Sequence[int]]) -> np.ndarray:
        return np.array([report[0] for report in reports])

    def predict(self, rows: np.ndarray) -> SimpleNamespace:
        self.sizes.append(len(rows))
        if POISON in rows:
            os.kill(os.getpid(), signal.SIGKILL)
        if REFUSED in rows:
            raise RuntimeError("no such word")
        time.sleep(self._seconds)
        values = np.zeros((len(rows), len(self.labels)), dtype=np.float32)
        values[:, 0] = rows / 100
        return SimpleNamespace(values=values, spread=np.zeros_like(values))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class RedisServer:
    """A redis-server on loopback whose data is in `folder` and which loses nothing when it is killed."""

    def __init__(self, folder: Path):
        if shutil.which("redis-server") is None:
            pytest.skip("redis-server is not installed (Debian: apt install redis-server): streams are not tried")
        self.folder, self.port = folder, free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        words = "--bind 127.0.0.1 --appendonly yes --appendfsync always --save".split()
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--dir", str(self.folder), *words, ""],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        end = time.monotonic() + PATIENCE
        while not self.answers():
            assert self.process.poll() is None and time.monotonic() < end, "redis-server does not start"
            time.sleep(0.02)

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as server:
                server.sendall(b"PING\r\n")
                return server.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[RedisServer]:
    server = RedisServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


class WorkerProcess:
    """A worker with the FakePredictor in a process of its own."""

    def __init__(self, settings: Stream, seconds: float = 0.0):
        self._words = [sys.executable, __file__, settings.model_dump_json(), str(seconds)]
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(self._words, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    def wait_until_ready(self) -> None:
        assert "answers" in self.process.stdout.readline()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Ends the worker as Ctrl-C does; returns its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


if __name__ == "__main__":
    from src.serving.stream import work

    asyncio.run(work(FakePredictor(float(sys.argv[2])), Stream(**json.loads(sys.argv[1])), Alarms()))
