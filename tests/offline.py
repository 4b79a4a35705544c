"""Python without a network: every process notes the addresses that it asks for, and gets none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[1]
BLOCKED = """
import os
import socket
import traceback


def note(line):
    with open(os.environ["BLOCKED_LOG"], "a", encoding="utf-8") as file:
        file.write(line + "\\n")


def refusing(what, original, is_local=lambda *arguments: False):
    def refused(*arguments, **keywords):
        if is_local(*arguments):
            return original(*arguments, **keywords)
        note(f"{what}{arguments[-1:]}: " + " <- ".join(str(frame) for frame in traceback.extract_stack()[-6:-1]))
        raise OSError(f"{what}: the network is blocked")

    return refused


def is_unix(one, *arguments):
    return one.family == socket.AF_UNIX


class NoNetwork(socket.socket):
    pass


for name in ("connect", "connect_ex", "sendto", "sendmsg"):
    setattr(NoNetwork, name, refusing(name, getattr(socket.socket, name), is_unix))
socket.socket = NoNetwork
for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "create_connection"):
    setattr(socket, name, refusing(name, getattr(socket, name)))
note(f"blocked in {os.getpid()}")
"""
"""A sitecustomize module: in a process, and those that it starts, no socket but those of this machine's files connects.
Each process that is blocked notes itself in $BLOCKED_LOG, and each try is noted with the lines that made it."""


def run_offline(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess, list[str]]:
    """Runs Python with `arguments` in a process that is blocked, and keeps the block and its log in `folder`.

    Returns the result and the lines of the log.
    """
    site, log = folder / "site", folder / "log"
    site.mkdir()
    (site / "sitecustomize.py").write_text(BLOCKED, encoding="utf-8")
    paths = os.pathsep.join([str(site), str(ROOT)])
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths, "BLOCKED_LOG": str(log)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return done, log.read_text(encoding="utf-8").splitlines()
