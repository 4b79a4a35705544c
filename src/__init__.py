"""Anomaly detection in desensitised CT reports: reports in, submission out. Commands start at `__main__.py`; notebooks
and scripts begin with `from src import Pipeline`."""

import os
import sys
from typing import Any

if sys.version_info < (3, 11):  # noqa: UP036 - run.sh finds a newer Python, a notebook has the one that it has
    raise ImportError("Python 3.11 or newer is needed; this is {}.{}".format(*sys.version_info))

if "OMP_WAIT_POLICY" not in os.environ:
    # Threads of torch, scikit-learn and their like wait for each other at the end of each product, in a loop that holds
    # a core for milliseconds: where other programs work, too, the thread that is waited for has none (docs/speed.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def __getattr__(name: str) -> Any:
    """Returns Pipeline, which is imported when it is asked for: every command imports this package."""
    if name != "Pipeline":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from src.core import packages

    packages.check()
    from src.interface import Pipeline

    return Pipeline
