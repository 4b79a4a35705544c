"""Threads of the numerical libraries: one where bytes depend on them, and none that holds a core while it waits."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from src.core.settings import ROOT


def told(code: str, **variables: str):
    """Returns what the code prints, as JSON, in a new process with these environment variables and two threads."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "MKL_"))}
    words = [sys.executable, "-c", f"import json, os\n{code}"]
    environment = {**kept, "OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run(words, env=environment, cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def test_libraries_that_are_imported_inside_have_one_thread_too():
    code = """
from threadpoolctl import threadpool_info
from src.core.threads import one_thread
threads = lambda: sorted({one["num_threads"] for one in threadpool_info()})
with one_thread("sklearn"):
    import sklearn.linear_model
    inside = threads()
print(json.dumps([inside, threads()]))"""
    assert told(code) == [[1], [2]]


def test_only_one_place_limits_threads():
    """Elsewhere it would be forgotten that a limit does not reach what is imported later."""
    named = {path.name for path in (ROOT / "src").rglob("*.py") if "threadpool_limits" in path.read_text()}
    assert named == {"threads.py", "executors.py"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["1000", None]),
        ({"GOMP_SPINCOUNT": "7"}, ["7", None]),
        ({"OMP_WAIT_POLICY": "active"}, [None, "active"]),
    ],
)
def test_a_thread_that_waits_leaves_its_core_unless_the_user_chose(given, expected):
    code = 'import src\nprint(json.dumps([os.environ.get(n) for n in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")]))'
    assert told(code, **given) == expected
