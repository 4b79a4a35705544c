"""Commands: one file each in pipeline/commands/, found by the verb that the user types.

To add a command: a file with run(workspace, parsed) and, where they are needed, arguments(parser) and EXAMPLE; and its
line in COMMANDS.
"""

from __future__ import annotations

import importlib
from types import ModuleType

COMMANDS = {
    "pipeline": "the whole pipeline on what is in input/, or on sample data",
    "sample": "make synthetic reports in input/sample",
    "prepare": "read and check the input files, number their tokens",
    "folds": "decide which report is validated by which model",
    "shift": "how the test files differ from train: noise, words, what tells them apart",
    "baselines": "score the baselines: zeros, prior, random, TF-IDF + logistic regression",
    "pretrain": "pretrain encoders on all text, without labels",
    "train": "train the models of the preset, fold by fold",
    "blend": "several runs into one; the quoted score is cross-fitted",
    "tune": "search for better settings of a run",
    "submit": "write the submission of each test file",
    "predict": "trained runs on any report file",
    "score": "show all scores; with --labels, score a submission file",
    "leaderboard": "what each run will score on each test file, and what submissions did",
    "explain": "which tokens make a run say what it says; with --id, of one report",
    "report": "everything in the output folder as one HTML page",
    "eda": "the reports themselves as one HTML page, before any training",
    "standin": "make test files with known answers of a labelled file, to check what is expected",
    "bench": "measure the speed beside plain code and the machine's limits",
    "status": "what is done, running, out of date and missing, and how to make it",
    "config": "print the settings as they would be used",
    "clean": "show and remove what no result needs any more",
}
"""What each command does, in the order of ./run.sh --help, which imports none of them: so it answers at once."""


def get_command(name: str) -> ModuleType:
    """The file of a command, which must be one of COMMANDS."""
    return importlib.import_module(f"src.pipeline.commands.{name}")
