"""./run.sh standin FILE --to DIR: a labelled file of another pool as test files whose scores can be known.

It makes of FILE four test files, with their answers beside them, and puts them into DIR with the train, test and extra
files of the input folder: plain (as it is), noised (with noise up to the target's), weighted (a sample as much, or as
little, like train as the target is) and both. A pipeline on DIR then foretells their scores, and the answers tell the
truth.

    ./run.sh standin round2/train.csv --to input/proof
    ./run.sh --preset proof paths.input=input/proof paths.output=output/proof
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from src import frames, shift, similarity
from src.artifacts import Output, file_sha256
from src.config import Config
from src.console import say
from src.errors import UserError
from src.inputs import InputFiles
from src.metrics import effective_size
from src.ngrams import Text, join, take
from src.noise import corrupt
from src.prepared import Prepared
from src.reports import Reports, read_reports, write_reports
from src.shifted import ShiftFolder
from src.task import Task

SEED = 0


def check(to: Path) -> None:
    """Raises UserError unless `to` is a folder that can be made."""
    if to.exists():
        raise UserError(f"--to {to} is there already; name a folder to make")


def run(config: Config, files: InputFiles, file: Path, to: Path) -> None:
    """`files` are those that the pipeline works on. The folder appears when all is in it."""
    check(to)
    source = read_reports(file, labelled=True)
    prepared = Prepared.load(Output(config.paths.output))
    target = ShiftFolder.load(prepared, config).target(config.target)
    if target is None:
        raise UserError("a stand-in is made like a test file, and there is none in the input folder")
    labels = source.labels_for(prepared.task)
    pool = (source.tokens, source.offsets)
    train = join([(reports.tokens, reports.offsets) for reports in map(read_reports, files.train)])
    train = _drawn(train, config.shift.max_rows, "train")
    aimed = read_reports(next(path for path in files.test if path.name == target.name))
    aim = _drawn((aimed.tokens, aimed.offsets), config.shift.max_rows, target.name)
    learned = frames.learn_frames([train, aim, pool])
    have, want = (
        frames.estimate_noise(learned, frames.count_outcomes(learned, text), text[0][:0], len(prepared.vocabulary))
        for text in (pool, aim)
    )
    if have is None or want is None:
        raise UserError(f"{file} or {target.name} has too little text to tell how noisy it is")
    rng = np.random.default_rng(SEED)
    extra = frames.extra_noise(have.rates, want.rates)
    texts = {"plain": pool, "noised": corrupt(*pool, extra, rng, prepared.vocabulary.words)}
    workshop = to.with_name(f".{to.name}.unfinished")
    shutil.rmtree(workshop, ignore_errors=True)
    workshop.mkdir(parents=True)
    for path in files.train + files.test + files.extra:
        if path in files.extra and file_sha256(path) == source.sha256:
            say(f"standin: {path.name} is FILE itself, whose labels are the answers: it is not copied")
        else:
            shutil.copyfile(path, workshop / path.name)
    for name, weighted in (("plain", "weighted"), ("noised", "both")):
        text, everything = texts[name], np.arange(len(source.ids))
        seen, *queries = similarity.tfidf([train, aim, text], 2)
        like_aim, like_text = (
            similarity.nearest(one, seen, np.zeros(seen.shape[0], dtype=int))[:, 0] for one in queries
        )
        weights = shift.similarity_weights(like_text, like_aim, config.shift.clip)
        size = int(effective_size(weights))
        drawn = np.sort(rng.choice(len(weights), size, replace=False, p=weights / weights.sum()))
        for made, rows in ((name, everything), (weighted, drawn)):
            _write(workshop, made, source, labels, prepared.task, text, rows)
            say(f"standin: {made}: {len(rows):,} reports, median cosine to train {np.median(like_text[rows]):.2f}")
    workshop.rename(to)
    say(f"standin: {target.name} has {np.median(like_aim):.2f}; noise added: {extra.total:.1%} of tokens. In {to}")


def _drawn(text: Text, most: int, name: str) -> Text:
    """The reports, or so many of them: the pool is compared with each."""
    if (n := len(text[1]) - 1) <= most:
        return text
    say(f"standin: of the {n:,} reports of {name} {most:,} are looked at (shift.max_rows)")
    return take(*text, np.sort(np.random.default_rng(SEED).choice(n, most, replace=False)))


def _write(
    folder: Path, name: str, source: Reports, labels: np.ndarray, task: Task, text: Text, rows: np.ndarray
) -> None:
    tokens, offsets = take(*text, rows)
    answers = folder / f"standin_{name}_answers.csv"
    made = replace(
        source, path=answers, ids=source.ids[rows], tokens=tokens, offsets=offsets, labels=labels[rows], task=task
    )
    write_reports(answers, made)
    test = folder / f"standin_{name}_test.csv"
    write_reports(test, replace(made, path=test, labels=None, task=None))
