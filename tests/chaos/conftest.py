"""Fixtures of the trials: the fork server, and the folder that holds scenes and what was tried."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.server import ForkServer


@pytest.fixture(scope="session")
def server() -> Iterator[ForkServer]:
    with ForkServer() as started:
        yield started


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """CHAOS_FOLDER, or a folder that all workers of pytest share."""
    own = tmp_path_factory.getbasetemp()
    folder = Path(os.environ.get("CHAOS_FOLDER") or (own if worker_id == "master" else own.parent) / "chaos").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder
