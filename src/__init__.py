"""Anomaly detection in desensitised CT reports: reports in, submission out. Commands start at `__main__.py`; notebooks
and scripts begin with `from src import Pipeline`."""

import sys
from typing import Any

if sys.version_info < (3, 11):  # noqa: UP036 - run.sh finds a newer Python, a notebook has the one that it has
    raise ImportError("Python 3.11 or newer is needed; this is {}.{}".format(*sys.version_info))


def __getattr__(name: str) -> Any:
    """Returns Pipeline, which is imported when it is asked for: every command imports this package."""
    if name != "Pipeline":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from src.core import packages

    packages.check()
    from src.interface import Pipeline

    return Pipeline
