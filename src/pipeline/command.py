"""Commands, found by the verb that the user types: a file in pipeline/commands/, or a stage of the verb's name.

To add a command: a file with run(workspace, parsed) and, where it has options, arguments(parser); and its line in
COMMANDS. A stage needs no file: its command makes it.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from src.core.language import _

if TYPE_CHECKING:
    from src.evaluation.workspace import Workspace


class Entry(NamedTuple):
    """Lines of ./run.sh --help and ./run.sh VERB --help."""

    summary: str
    example: str = ""
    for_developers: bool = False


COMMANDS = {
    "pipeline": Entry(_("the whole pipeline on what is in input/, or on sample data")),
    "sample": Entry(_("make sample data: synthetic reports or stays, or digits"), "./run.sh sample --rows 1000000"),
    "prepare": Entry(_("read and check the input files, make arrays of them")),
    "folds": Entry(_("decide which rows are validated by which model"), "./run.sh folds folds.k=10"),
    "shift": Entry(_("how the test files differ from train: noise, words or values, what tells them apart")),
    "baselines": Entry(_("score the baselines, such as constant prior, TF-IDF + logistic regression, severity score")),
    "pretrain": Entry(
        _("pretrain encoders on all text, without labels"), "./run.sh pretrain --model transformer pretrain.epochs=10"
    ),
    "train": Entry(
        _("train the models of the preset, fold by fold; with --name, another run of one"),
        "./run.sh train --model lstm --name wide model.hidden_size=192",
    ),
    "blend": Entry(
        _("several runs into one; the quoted score is cross-fitted"),
        "./run.sh blend lstm transformer blend.method=weights",
    ),
    "tune": Entry(_("search for better settings of a run"), "./run.sh tune lstm --preset quick --trials 30"),
    "submit": Entry(_("write the submission of each test file"), "./run.sh submit lstm"),
    "predict": Entry(
        _("trained runs on any file of reports, stays or images"), "./run.sh predict blend new_reports.csv"
    ),
    "bundle": Entry(_("a run as one file that predicts anywhere"), "./run.sh bundle blend --to blend.bundle"),
    "compress": Entry(
        _("small models of a run (distilled, pruned, INT8), their scores, and a bundle of the best of them"),
        "./run.sh compress blend --preset quick",
    ),
    "score": Entry(
        _("show all scores; with --labels, score a submission file"),
        "./run.sh score --labels answers.csv output/submission_test.csv",
    ),
    "import": Entry(
        _("predictions made elsewhere become a run: scored, blended, submitted"),
        "./run.sh import theirs --test sample_testA=a.csv sample_testB=b.csv --oof oof.csv",
    ),
    "runs": Entry(_("list all runs, their scores and how they differ; compare two"), "./run.sh runs show lstm wide"),
    "leaderboard": Entry(
        _("what each run will score on each test file, and what submissions did"),
        "./run.sh leaderboard add output/submission_lstm_sample_testB.csv 0.9032",
    ),
    "explain": Entry(
        _("which tokens, or parameters and hours, make a run say what it says; with --id, of one row"),
        "./run.sh explain blend --id 42 --label region_3",
    ),
    "alarms": Entry(_("early warning: a run reads each stay hour by hour"), "./run.sh alarms boosting --task icu"),
    "domains": Entry(
        _("how institutions differ, how runs score in each of them, and what labelled rows of a new one bring"),
        "./run.sh domains --task icu domains.by=ICUType",
    ),
    "serve": Entry(_("predictions of a bundle over HTTP"), "./run.sh serve --bundle blend.bundle --port 8080"),
    "stream": Entry(
        _("answer the messages of Redis Streams or Kafka by a bundle; with --send, send some"),
        "./run.sh stream --bundle blend.bundle",
    ),
    "report": Entry(_("everything in the output folder as one HTML page")),
    "eda": Entry(_("the data itself as one HTML page, before any training")),
    "standin": Entry(
        _("make test files with known answers of labelled reports, to check what is expected"),
        "./run.sh standin round2/train.csv --to input/proof",
    ),
    "status": Entry(_("what is done, running, out of date and missing, and how to make it")),
    "config": Entry(_("print the settings as they would be used"), "./run.sh config --preset quick"),
    "clean": Entry(_("show and remove what no result needs any more"), "./run.sh clean --superseded"),
    "bench": Entry(
        _("measure the speed beside plain code and the machine's limits"),
        "./run.sh bench read train_lstm --repeats 5",
        for_developers=True,
    ),
}
"""Every command, in the order of ./run.sh --help. Nothing is imported for the list: it is there at once."""


class Command(NamedTuple):
    """Options and action of a verb."""

    arguments: Callable[[argparse.ArgumentParser], object]
    run: Callable[[Workspace, argparse.Namespace], object]


def get_command(name: str) -> Command:
    """The command of one of COMMANDS."""
    if not (Path(__file__).parent / "commands" / f"{name}.py").exists():
        return Command(lambda parser: None, lambda workspace, parsed: _make_stage(workspace, name))
    module = importlib.import_module(f"src.pipeline.commands.{name}")
    return Command(getattr(module, "arguments", lambda parser: None), module.run)


def existing_file(text: str) -> Path:
    """Path of a file that is named with or without its .csv; as it was typed where neither is there."""
    path = Path(text)
    other = path.with_suffix("") if path.suffix == ".csv" else Path(f"{text}.csv")
    return other if not path.exists() and other.is_file() else path


def add_force(parser: argparse.ArgumentParser) -> None:
    """Adds --force, for commands that blend, submit or hand on runs."""
    parser.add_argument("--force", action="store_true", help=_("also runs that are broken: diverged or constant"))


def _make_stage(workspace: Workspace, name: str) -> None:
    from src.pipeline.stage import get_stage, make

    make(workspace, get_stage(name))
