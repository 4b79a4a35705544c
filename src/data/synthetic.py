"""Synthetic reports, to run everything without the competition's files.

A report is a sequence of clauses, each about one body region or about none. A clause states a finding ("R a s F .") or
negates findings ("no f , f or f in R a ."). All regions share the words for findings, a negation covers lists and gaps,
and most reports also name normal regions: the set of words predicts the labels in part, the order of words predicts
them fully. Words are numbered at random. Noise like that of the real files is added. No row of the real files is used:
the constants below are their rates and lengths, rounded.

    make_sample(Path("input/sample"), rows=5000, test_rows=1000, task=ROUND1, seed=0)
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from src.core import storage
from src.core.errors import UserError
from src.core.settings import Config
from src.data.corruption import NoiseRates, corrupt
from src.data.report_reader import Reports, write_reports
from src.data.tasks import Task, get_task

Ragged = tuple[np.ndarray, np.ndarray]  # tokens end to end, and offsets (N + 1,) int64

VOCABULARY = 858
MIN_LENGTH, MAX_LENGTH = 4, 104  # of a report, in tokens
LENGTH_SHAPE, LENGTH_SCALE = 5.0, 8.2  # of the Gamma distribution of report lengths, mean 41
# Percentages: reports with 0, 1, 2, … abnormal regions; reports with each region abnormal; abnormal regions with each
# type of finding.
ABNORMAL_COUNTS = np.array([26.2, 44.2, 15.4, 5.9, 2.2, 3.2, 0.7, 2.0, 0.2])
REGION_RATES = np.array([11, 11.5, 9.3, 4.5, 12.3, 3.9, 2.1, 10.8, 10.8, 8.5, 3.8, 10.3, 4.2, 2.7, 5.5, 18.5, 7.8])
TYPE_RATES = np.array([17, 0.4, 45, 0.8, 2.2, 14, 0.4, 4, 1, 4, 4, 4])
N_REGIONS, N_TYPES = len(REGION_RATES), len(TYPE_RATES)
TRAIN_NOISE = NoiseRates(replacement=0.155, insertion=0.02, deletion=0.025, dispersion=0.05)
TEST_NOISE = NoiseRates(replacement=0.225, insertion=0.04, deletion=0.05, dispersion=0.05)

PAIRS = [(0, 1), (4, 7), (8, 11), (9, 2), (14, 16)]  # regions that are two sides of one organ and share its name
CLASS_SIZES = (
    {",": 1, "or": 2, ".": 3, "no": 5, "in": 6, "out": 3, "but": 3, "seen": 10, "normal": 24, "s": 24, "m": 400}
    | {f"side{side}": 2 for side in range(2)}
    | {f"organ{pair}": 3 for pair in range(len(PAIRS))}
    | {f"region{region}": 2 for region in range(N_REGIONS)}
    | {f"part{region}": 3 for region in range(N_REGIONS)}
    | {f"type{t}": 3 + int(1.5 * np.log(rate / TYPE_RATES.min())) for t, rate in enumerate(TYPE_RATES)}
)
"""Number of words in each class of words; the remaining words form the class x."""
EXPANSIONS = {
    "m*": ["", "m", "m m"],
    "s*": ["s", "m s", "s m"],
    "L": ["f", "f or f", "f , f or f", "f , f , f or f"],
    "l": ["f", "f or f"],
}
LONGEST_CLAUSE = 12  # in tokens; keeps a report with eight abnormal regions below MAX_LENGTH


@dataclass(frozen=True)
class Kind:
    """Clauses of one kind, as templates of slots.

    R: the region; a: a part of the region; F: a stated finding; s: its severity; L, l: a long or a short list of
    negated findings f; m: a modifier; other words are literal.
    """

    templates: list[str]
    set_phrases: int
    """Number of set phrases (fixed word sequences) in each group of clauses."""
    set_share: float
    """Share of clauses that are set phrases."""


NORMAL = Kind(
    ["R a m* normal .", "R a normal , a m* normal .", "R m* normal , a no L .", "no L in R a .", "L in R a m* out ."]
    + ["no L m* seen in R a .", "in R a m* no L seen .", "in R a m* no L ."],
    set_phrases=8,
    set_share=0.5,
)
ABNORMAL = Kind(
    ["R a m* s F , a s F .", "R a m* s* F , F seen .", "in R a s* F , F m* seen .", "s* F , s F in R a ."]
    + ["s* F , F m* in R a .", "in R a s* F , a no l .", "R a no l but s* F seen .", "no l but s* F in R a ."]
    + ["R a l out but a s* F ."],
    set_phrases=2,
    set_share=0.15,
)
OTHER = Kind(["x x x m* .", "x x , x x m* .", "x x x x , x x x .", "x m* in x x ."], set_phrases=30, set_share=0.7)
SET_PHRASE_LENGTH = 8  # minimum, in tokens
OTHER_SHARE = 0.15  # share of the clauses without a finding that name no region

TRAIN_POOL, TEST_POOL = 0, 1
PHRASE_SPREAD, VARIANT_SPREAD, WORD_SPREAD = 1.0, 0.5, 0.3
"""Standard deviations of the log weights of phrases, clauses and words between the two pools."""
_STEPS = 4096  # length of a lookup table; a random index into the table draws a value, exact to 1 in 4096
_BLOCK = 20_000  # reports made at a time; bounds the memory of the intermediate arrays


@dataclass(frozen=True)
class Language:
    """Words and clauses, equal in all samples: a seed chooses reports, not a language."""

    classes: dict[str, np.ndarray]  # token ids of each class of words; f holds those of all findings
    slots: np.ndarray  # clauses end to end: a token id, or VOCABULARY + the number of the class to draw a word from
    starts: np.ndarray  # (n_clauses,) where each clause begins in `slots`
    lengths: np.ndarray  # (n_clauses,) in tokens
    words: np.ndarray  # (2 pools, n_classes, _STEPS) uint16, lookup tables of token ids
    clauses: np.ndarray  # (2 pools, n_groups, _STEPS) int32, lookup tables of clauses
    # Groups: a region without a finding (0 … 16), no region (17), a region with a finding (18 + region * 12 + type).
    types: np.ndarray  # (_STEPS,) lookup table of the types of findings


@lru_cache(maxsize=1)
def language() -> Language:
    """Builds the language: assigns words to classes, expands the templates, fixes some clauses as set phrases."""
    rng = np.random.default_rng(858)
    type_shares = TYPE_RATES / TYPE_RATES.sum()
    classes = _word_classes(rng)
    numbers = {name: VOCABULARY + i for i, name in enumerate(classes)}
    # Plain words are many and nearly uniform; words that carry meaning are few and steep. Negated findings have the
    # distribution of stated findings, so the word alone does not separate the two.
    shares = {name: _zipf(len(ids), flat=0.7 if name in ("m", "x") else 0.1) for name, ids in classes.items()}
    shares["f"] = np.concatenate([type_shares[t] * shares[f"type{t}"] for t in range(N_TYPES)])
    words = np.stack(
        [[ids[_lookup(_reweighted(shares[name], WORD_SPREAD, rng))] for name, ids in classes.items()] for _ in range(2)]
    ).astype(np.uint16)

    clauses: list[np.ndarray] = []
    tables: list[list[np.ndarray]] = [[], []]
    for kind, region, finding in _groups():
        variants, variant_shares = _written_out(kind.templates, region, finding)
        coded = [np.array([numbers[slot] for slot in slots]) for slots in variants]
        chances = variant_shares * np.array([len(slots) >= SET_PHRASE_LENGTH for slots in coded])
        for i in rng.choice(len(variants), size=kind.set_phrases, p=chances / chances.sum()):
            coded.append(words[0, coded[i] - VOCABULARY, rng.integers(0, _STEPS, size=len(coded[i]))])
        for pool in tables:
            free = _reweighted(variant_shares, VARIANT_SPREAD, rng)
            fixed = _reweighted(_zipf(kind.set_phrases, flat=0.1), PHRASE_SPREAD, rng)
            weights = np.concatenate([(1 - kind.set_share) * free, kind.set_share * fixed])
            pool.append(len(clauses) + _lookup(weights))
        clauses += coded
    lengths = np.array([len(clause) for clause in clauses])
    slots, starts = np.concatenate(clauses).astype(np.int32), np.cumsum(lengths) - lengths
    return Language(classes, slots, starts, lengths, words, np.array(tables, dtype=np.int32), _lookup(type_shares))


def _word_classes(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Assigns each token id to one class at random; the class f repeats the ids of all findings."""
    ids = np.split(rng.permutation(VOCABULARY), np.cumsum(list(CLASS_SIZES.values())))
    classes = dict(zip([*CLASS_SIZES, "x"], ids, strict=True))
    return classes | {"f": np.concatenate([classes[f"type{t}"] for t in range(N_TYPES)])}


def _groups() -> Iterator[tuple[Kind, int | None, int | None]]:
    """Kind, region and type of finding of each group of clauses, in the order in which Language numbers them."""
    yield from ((NORMAL, region, None) for region in range(N_REGIONS))
    yield OTHER, None, None
    yield from ((ABNORMAL, region, finding) for region in range(N_REGIONS) for finding in range(N_TYPES))


def _written_out(templates: list[str], region: int | None, finding: int | None) -> tuple[list[list[str]], np.ndarray]:
    """Returns all clauses of the templates as lists of word classes, and the clauses' shares (n_clauses,)."""
    paired = [f"side{pair.index(region)} organ{i}" for i, pair in enumerate(PAIRS) if region in pair]
    expansions = EXPANSIONS | {"R": [f"region{region}", *paired], "a": [f"part{region}"], "F": [f"type{finding}"]}
    clauses, shares = [], []
    for template in templates:
        choices = itertools.product(*(expansions.get(slot, [slot]) for slot in template.split()))
        written = [slots for slots in (" ".join(choice).split() for choice in choices) if len(slots) <= LONGEST_CLAUSE]
        clauses += written
        shares += [1 / len(written)] * len(written)
    return clauses, np.array(shares) / len(templates)


def _zipf(n: int, flat: float) -> np.ndarray:
    """Returns shares (n,): the part `flat` is uniform, the rest follows Zipf's law."""
    weights = 1 / (np.arange(n) + 1.5)
    return (1 - flat) * weights / weights.sum() + flat / n


def _reweighted(shares: np.ndarray, spread: float, rng: np.random.Generator) -> np.ndarray:
    weights = shares * np.exp(spread * rng.standard_normal(len(shares)))
    return weights / weights.sum()


def _lookup(shares: np.ndarray) -> np.ndarray:
    """Returns a lookup table (_STEPS,) of indices of `shares`, each index as frequent as its share."""
    quantiles = (np.arange(_STEPS) + 0.5) / _STEPS
    return np.minimum(np.searchsorted(np.cumsum(shares), quantiles), len(shares) - 1)


def _draw_reports(n: int, pool: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Draws `n` reports without noise: tokens uint16, offsets (n + 1,), and labels by group, (n, size) uint8."""
    lang = language()
    counts = rng.choice(len(ABNORMAL_COUNTS), size=n, p=ABNORMAL_COUNTS / ABNORMAL_COUNTS.sum())
    # Candidates, (n, 17): all regions sorted by exponential draws, that is, sampled by weight without replacement. The
    # first `counts` regions are abnormal. The exponent corrects for the bias of sampling without replacement.
    regions = np.argsort(rng.exponential(size=(n, N_REGIONS)) / REGION_RATES**1.15, axis=1)
    abnormal = np.arange(N_REGIONS) < counts[:, None]
    types = lang.types[rng.integers(0, _STEPS, size=abnormal.shape)]
    group = np.where(abnormal, N_REGIONS + 1 + regions * N_TYPES + types, regions)
    group[~abnormal & (rng.random(abnormal.shape) < OTHER_SHARE)] = N_REGIONS
    clause = lang.clauses[pool, group, rng.integers(0, _STEPS, size=group.shape)]

    # Clauses are kept until the length is reached; abnormal clauses always, since they are labels.
    ends = np.cumsum(lang.lengths[clause], axis=1)
    target = rng.gamma(LENGTH_SHAPE, LENGTH_SCALE, size=n) * (0.85 + 0.1 * counts)
    longest = LONGEST_CLAUSE * (len(ABNORMAL_COUNTS) - 1)
    kept = abnormal | ((ends - lang.lengths[clause] / 2 < target[:, None]) & (ends <= longest))
    kept[:, 0] = True
    # Clauses stand in a loose anatomical order.
    order = np.argsort(np.where(kept, rng.random(kept.shape) + 0.5 * regions / N_REGIONS, np.inf), axis=1)
    ordered = np.take_along_axis(clause, order, axis=1)[np.arange(N_REGIONS) < kept.sum(axis=1)[:, None]]

    slots, clause_offsets = _gather(lang.slots, lang.starts[ordered], lang.lengths[ordered])
    words = lang.words[pool, np.maximum(slots - VOCABULARY, 0), rng.integers(0, _STEPS, size=len(slots))]
    tokens = np.where(slots < VOCABULARY, slots, words).astype(np.uint16)
    offsets = clause_offsets[np.concatenate([[0], np.cumsum(kept.sum(axis=1))])]

    labels = {name: np.zeros((n, size), dtype=np.uint8) for name, size in (("regions", N_REGIONS), ("types", N_TYPES))}
    row, rank = np.nonzero(abnormal)
    labels["regions"][row, regions[row, rank]] = 1
    labels["types"][row, types[row, rank]] = 1
    return tokens, offsets, labels


def _gather(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> Ragged:
    """Returns the runs values[start : start + length], concatenated, and their offsets (n + 1,)."""
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return values[np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)], offsets


def _sample_reports(path: Path, n: int, pool: int, rates: NoiseRates, task: Task, seeds: list[int]) -> Reports:
    """Draws `n` labelled reports for the file `path`. Noise has its own random stream, so it changes no clean text."""
    parts = []
    for block, start in enumerate(range(0, n, _BLOCK)):
        text_rng, noise_rng = (np.random.default_rng([*seeds, block, stream]) for stream in range(2))
        tokens, offsets, labels = _draw_reports(min(_BLOCK, n - start), pool, text_rng)
        tokens, offsets = _add_noise(tokens, offsets, rates, noise_rng)
        parts.append((tokens, np.diff(offsets), np.hstack([labels[group.name] for group in task.groups])))
    tokens, lengths, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    ids = np.arange(n).astype(f"S{len(str(n))}")
    return Reports(path, ids, tokens, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), labels, task)


def _add_noise(tokens: np.ndarray, offsets: np.ndarray, rates: NoiseRates, rng: np.random.Generator) -> Ragged:
    """Adds noise to reports; a report that would become too short stays clean, too long reports are cut."""
    noisy, noisy_offsets = corrupt(tokens, offsets, rates, rng, np.arange(VOCABULARY))
    short = np.diff(noisy_offsets) < MIN_LENGTH
    starts = np.where(short, len(noisy) + offsets[:-1], noisy_offsets[:-1])
    lengths = np.where(short, np.diff(offsets), np.diff(noisy_offsets))
    return _gather(np.concatenate([noisy, tokens]), starts, np.minimum(lengths, MAX_LENGTH))


ORIGIN = "SYNTHETIC reports, of no patient"
FILES = ("sample_train.csv", "sample_testA.csv", "sample_testB.csv", "answers_A.csv", "answers_B.csv")
NOTE = "README.md"  # written last, so that a folder with this file is complete


def is_complete(folder: Path) -> bool:
    """Returns True if `folder` holds all files of a sample."""
    return all((folder / name).is_file() for name in (*FILES, NOTE))


def was_made_with(folder: Path, *, rows: int, test_rows: int, task: Task, seed: int) -> bool:
    """Returns True if `folder` holds the complete sample that make_sample writes with these arguments."""
    return is_complete(folder) and (folder / NOTE).read_text(encoding="utf-8") == _note(
        rows, test_rows, task, seed, noise=True
    )


def arguments(settings: Config) -> dict[str, Any]:
    """Arguments of make_sample: the settings, and the round, which is the first unless one is named."""
    task = get_task("round1" if settings.task == "auto" else settings.task)
    return {**settings.sample.model_dump(), "task": task}


def described(*, rows: int, test_rows: int, task: Task, seed: int) -> str:
    """Says what make_sample makes."""
    return f"{rows:,} + 2 x {test_rows:,} synthetic reports ({task.title})"


def make_sample(folder: Path, *, rows: int, test_rows: int, task: Task, seed: int, noise: bool = True) -> list[Path]:
    """Writes FILES and a README.md to `folder` and returns their paths; equal arguments give equal bytes.

    `rows` labelled training reports; `test_rows` reports in each of two test files, from another pool and noisier, with
    their labels in the answers files. Files are moved to `folder` after all were written. `noise=False` writes the
    same reports without noise. Raises UserError for a size below 1 or a negative seed.
    """
    if min(rows, test_rows) < 1 or seed < 0:
        raise UserError(f"a sample needs rows, test_rows >= 1 and a seed >= 0, not {rows}, {test_rows} and {seed}")
    train_noise, test_noise = (TRAIN_NOISE, TEST_NOISE) if noise else (NoiseRates(), NoiseRates())
    unfinished = folder / ".unfinished"
    unfinished.mkdir(parents=True, exist_ok=True)
    train, *tests, _, _ = FILES
    write_reports(unfinished / train, _sample_reports(folder / train, rows, TRAIN_POOL, train_noise, task, [seed, 0]))
    for i, (test, answers) in enumerate(zip(tests, FILES[3:], strict=True), start=1):
        reports = _sample_reports(folder / answers, test_rows, TEST_POOL, test_noise, task, [seed, i])
        write_reports(unfinished / answers, reports)
        write_reports(unfinished / test, replace(reports, path=folder / test, labels=None, task=None))
    (folder / NOTE).unlink(missing_ok=True)
    for name in FILES:
        os.replace(unfinished / name, folder / name)
    shutil.rmtree(unfinished)
    storage.write_text(folder / NOTE, _note(rows, test_rows, task, seed, noise))
    return [folder / name for name in (*FILES, NOTE)]


def _note(rows: int, test_rows: int, task: Task, seed: int, noise: bool) -> str:
    return f"""# Synthetic reports

Made by `src/data/synthetic.py`; no line is from a real report. {task.title.capitalize()}; {rows:,} training and twice
{test_rows:,} test reports; seed {seed}; {"with" if noise else "without"} noise.

- `sample_train.csv`: labelled. `sample_testA.csv`, `sample_testB.csv`: without labels, noisier, and from a pool that
  prefers other phrases, as in the competition. `answers_A.csv`, `answers_B.csv`: the same reports with their labels.
- A report is a sequence of clauses on body regions. Each denies findings or states one, in words that all regions
  share; the rates of regions and types and the lengths are those of the real files, rounded.
- Then tokens were replaced, inserted and deleted at random, at rates that differ from report to report.
"""
