"""Threads of the numerical libraries."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator


@contextlib.contextmanager
def one_thread(*modules: str) -> Iterator[None]:
    """Lets NumPy, SciPy, scikit-learn and torch compute with one thread: another number gives other last bits, and
    threads of small products wait for each other.

    A limit reaches the libraries that are loaded by then, so `modules`, which are imported inside, are loaded first.
    "sklearn" loads all libraries that scikit-learn computes with.
    """
    from threadpoolctl import threadpool_limits

    for module in modules:
        importlib.import_module(module)
    with threadpool_limits(1):
        yield
