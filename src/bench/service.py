"""Load on the HTTP service beside a naive one: both answer the same reports, in turns, on loopback.

Each service and the load generator are processes of their own; nothing here but HTTP connects them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from src.bench.data import synthetic
from src.core.errors import UserError
from src.core.settings import ROOT

CLIENTS = (1, 10, 50, 200)
OVERLOAD = 2.0
"""Rate of the overload, in saturations."""
OPEN_CONNECTIONS = 800
"""Connections of the open loop: more than the queue and a batch hold together."""
BODIES = 4096
WARM_UP = 2.0
STARTING = 300.0
"""Seconds that a service may take until it answers."""
ENDING = 10.0
"""Seconds that a service may take to end."""
EVERY = 5.0
"""Seconds between looks at the memory in the soak."""


def write_bodies(path: Path) -> None:
    """Writes BODIES requests of one report each, with the lengths of round 1."""
    reports = synthetic(BODIES)
    lines = [json.dumps({"tokens": " ".join(map(str, reports[i].tolist()))}) for i in range(len(reports))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextlib.contextmanager
def running(arguments: list[str], port: int, log: Path) -> Iterator[int]:
    """Runs `python -m …` until it answers on the port; yields its process id and ends it afterwards.

    Raises UserError, with what it wrote, if it ends before.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", *arguments], stdout=file, stderr=file, env=environment)
    try:
        deadline = time.monotonic() + STARTING
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise UserError(f"{' '.join(arguments)} does not answer:\n{log.read_text(encoding='utf-8')[-2000:]}")
            time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(ENDING)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/openapi.json", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def start_load(
    port: int, bodies: Path, seconds: float, clients: int, rate: float | None = None, warm_up: float = WARM_UP
) -> subprocess.Popen[str]:
    """Starts the generator for so many seconds, and before them the seconds of `warm_up`, which are not counted."""
    job = {
        "host": "127.0.0.1",
        "port": port,
        "path": "/predict",
        "bodies": str(bodies),
        "seconds": seconds,
        "warm_up": warm_up,
        "clients": clients,
        **({} if rate is None else {"rate": rate}),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "src.bench.load"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    process.stdin.write(json.dumps(job))
    process.stdin.close()
    return process


def result_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Figures of the generator, see load.py."""
    text = process.stdout.read()
    if process.wait():
        raise UserError("the load generator failed; its error stands above")
    return json.loads(text)


def memory(pid: int) -> float:
    """Resident memory of a process in MB (1e6 bytes)."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024 / 1e6


def measure(
    bundle: Path, naive: Path, folder: Path, seconds: float, minutes: float, info: Callable[[str], None]
) -> dict[str, Any]:
    """Measures the service of `bundle` and the naive one of `naive`, with so many seconds for each figure.

    Throughput and times at CLIENTS, in turns; times at half of the saturation; overload; then a soak of so many minutes
    at half of the saturation. Raises UserError for a service that does not start, or gives no answer in that time.
    """
    bodies = folder / "bodies.jsonl"
    write_bodies(bodies)
    ports = {"service": free_port(), "naive": free_port()}
    ours = ["src", "serve", "--bundle", str(bundle), f"serve.port={ports['service']}", "serve.watch=0"]
    plain = ["src.bench.naive_service", str(naive), str(ports["naive"])]
    found: dict[str, Any] = {"service": {}, "naive": {}}
    port = ports["service"]
    with running(ours, port, folder / "service.log") as pid:
        with running(plain, ports["naive"], folder / "naive.log"):
            for clients in CLIENTS:
                for name in ports:
                    found[name][str(clients)] = result_of(start_load(ports[name], bodies, seconds, clients))
                    info(f"bench: {name}, {clients} clients: {found[name][str(clients)]['per_second']:,.0f} a second")
        # The naive service ends here: it would go on with the requests of clients that have left.
        saturation, naively = (max(one["per_second"] for one in found[name].values()) for name in ports)
        if not (saturation and naively):
            raise UserError(_unanswered("naive" if saturation else "service", found, seconds))
        found["saturation"], found["times_the_naive"] = saturation, saturation / naively
        found["half"] = result_of(start_load(port, bodies, 2 * seconds, OPEN_CONNECTIONS, saturation / 2))
        info(f"bench: at half of the saturation: {found['half']['milliseconds']} ms")
        found["overload"] = result_of(start_load(port, bodies, seconds, OPEN_CONNECTIONS, OVERLOAD * saturation))
        info(f"bench: at {OVERLOAD:g} times the saturation: {found['overload']['statuses']}")
        if minutes:
            found["soak"] = soak(port, bodies, pid, saturation / 2, minutes)
    return found


def _unanswered(name: str, found: dict[str, Any], seconds: float) -> str:
    """Returns the sentence on a service none of whose answers was counted, with what came in their place."""
    statuses = {status for figures in found[name].values() for status in figures["statuses"]}
    told = f"no answer of the {name if name == 'service' else f'{name} service'} came within {seconds:g} seconds"
    if statuses:
        return f"{told}, only: {', '.join(sorted(statuses))}. Look at the bundle: does ./run.sh serve answer with it?"
    return f"{told} of load. Ask for more with --seconds"


def soak(port: int, bodies: Path, pid: int, rate: float, minutes: float) -> dict[str, Any]:
    """Answers and memory of a service under a constant rate; memory in the first and in the last fifth, in MB."""
    process, seen = start_load(port, bodies, 60 * minutes, OPEN_CONNECTIONS, rate), []
    while process.poll() is None:
        time.sleep(min(EVERY, 60 * minutes / 20))
        seen.append(memory(pid))
    fifth = max(1, len(seen) // 5)
    return {
        **result_of(process),
        "minutes": minutes,
        "rate": rate,
        "megabytes_first": statistics.median(seen[:fifth]),
        "megabytes_last": statistics.median(seen[-fifth:]),
    }
