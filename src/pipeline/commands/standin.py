"""./run.sh standin FILE --to DIR: a labelled file of another pool as test files whose scores can be known.

It makes of FILE four test files, with their answers beside them, and puts them into DIR with the train, test and extra
files of the input folder: plain (as it is), noised (with noise up to the target's), weighted (a sample as much, or as
little, like train as the target is) and both. A pipeline on DIR then foretells their scores, and the answers tell the
truth.

    ./run.sh standin round2/train.csv --to input/proof
    ./run.sh --preset proof paths.input=input/proof paths.output=output/proof
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from src.core.errors import UserError
from src.core.language import _
from src.core.storage import file_sha256
from src.core.terminal import dependency, info, result
from src.data.ngrams import take
from src.data.report_reader import Reports, read_reports, write_reports
from src.evaluation import noise_estimation
from src.evaluation.external_dataset import SEED, Pool
from src.evaluation.metrics import effective_size
from src.evaluation.workspace import Workspace
from src.pipeline.command import existing_file
from src.pipeline.stage import get_stage, make


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", type=existing_file, help=_("labelled reports of another pool, such as round 2's train file")
    )
    parser.add_argument("--to", type=Path, metavar="DIR", required=True, help=_("new input folder to make"))


def run(workspace: Workspace, parsed: argparse.Namespace) -> None:
    check(parsed.to)
    if workspace.settings.is_clinical:
        raise UserError(f"standin makes reports like those of a test file; task {workspace.settings.task} has none")
    with dependency():
        make(workspace, get_stage("shift"))
    make_proxy_tests(workspace, parsed.file, parsed.to)


def check(to: Path) -> None:
    """Raises UserError unless `to` is a folder that can be made."""
    if to.exists():
        raise UserError(f"--to {to} is there already; name a folder to make")


def make_proxy_tests(workspace: Workspace, file: Path, to: Path) -> None:
    """Writes the folder `to`, which appears when all is in it."""
    files = workspace.input_files
    pool = Pool.load(workspace, read_reports(file, labelled=True), "standin")
    labels = pool.reports.labels_for(pool.task)
    extra = noise_estimation.extra_noise(*(pool.noise(text).rates for text in (pool.text, pool.target)))
    rng = np.random.default_rng(SEED)
    texts = {"plain": pool.text, "noised": pool.noised(extra, rng)}
    workshop = to.with_name(f".{to.name}.unfinished")
    shutil.rmtree(workshop, ignore_errors=True)
    workshop.mkdir(parents=True)
    for path in files.train + files.test + files.extra:
        if path in files.extra and file_sha256(path) == pool.reports.sha256:
            info(f"standin: {path.name} is FILE itself, whose labels are the answers: it is not copied")
        else:
            shutil.copyfile(path, workshop / path.name)
    for name, weighted in (("plain", "weighted"), ("noised", "both")):
        text, everything = texts[name], np.arange(len(labels))
        like = pool.density_ratio(text)
        size, shares = int(effective_size(like.weights)), like.weights / like.weights.sum()
        drawn = np.sort(rng.choice(len(shares), size, replace=False, p=shares))
        for made, rows in ((name, everything), (weighted, drawn)):
            _write(workshop, made, replace(pool.with_text(text), labels=labels, task=pool.task), rows)
            info(f"standin: {made}: {len(rows):,} reports, median cosine to train {np.median(like.cosines[rows]):.2f}")
    workshop.rename(to)
    target = f"{pool.target_name} has {np.median(like.target_cosines):.2f}"
    result(f"standin: {target}; noise added: {extra.total:.1%} of tokens. In {to}")


def _write(folder: Path, name: str, source: Reports, rows: np.ndarray) -> None:
    tokens, offsets = take(source.tokens, source.offsets, rows)
    answers = folder / f"standin_{name}_answers.csv"
    made = replace(
        source, path=answers, ids=source.ids[rows], tokens=tokens, offsets=offsets, labels=source.labels[rows]
    )
    write_reports(answers, made)
    test = folder / f"standin_{name}_test.csv"
    write_reports(test, replace(made, path=test, labels=None, task=None))
