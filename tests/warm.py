"""Commands whose workers do not import each for itself what one server can import for all of them.

python -m tests.warm VERB [options] [key=value …]        as python -m src; importing this module does it in this process
"""

from __future__ import annotations

import sys

from src.core import executors

PRELOADED = [
    "torch._dynamo",  # which the first optimizer of a process imports
    *("sklearn.ensemble", "sklearn.feature_extraction.text", "sklearn.linear_model", "sklearn.svm"),
    *("src.pipeline.shifts.text", "src.pipeline.stages.baselines", "src.reporting.explanations"),
]
"""Modules that take a worker more than a second, several times what it computes in most tests."""
executors.PRELOADED += PRELOADED

if __name__ == "__main__":
    from src.__main__ import main

    sys.exit(main(sys.argv[1:]))
