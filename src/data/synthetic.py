"""Makes realistic synthetic reports, so that anyone can run everything without the competition's files.

A report is a sequence of clauses, each about one body region or about none. A clause says that a finding is there
("R a s F .") or that findings are not ("no f , f or f in R a ."). Regions share the words for findings, negation
reaches over lists and gaps, and most reports name normal regions beside the abnormal ones: which words occur tells
part of it, in which order they stand tells all. Words are numbered at random, and noise like that of the real files
comes on top. No row of the real files is used: their rates and lengths are typed in below, rounded.

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

import numpy as np

from src.core import storage
from src.core.errors import UserError
from src.data.corruption import NoiseRates, corrupt
from src.data.report_reader import Reports, write_reports
from src.data.tasks import Task

Ragged = tuple[np.ndarray, np.ndarray]  # tokens end to end, and offsets (N + 1,) int64

VOCABULARY = 858
MIN_LENGTH, MAX_LENGTH = 4, 104  # of a report, in tokens
LENGTH_SHAPE, LENGTH_SCALE = 5.0, 8.2  # of the Gamma distribution of report lengths, mean 41
# How many of 100 reports have 0, 1, 2, … abnormal regions and each region among them; how many of 100 abnormal
# regions show each type of finding.
ABNORMAL_COUNTS = np.array([26.2, 44.2, 15.4, 5.9, 2.2, 3.2, 0.7, 2.0, 0.2])
REGION_RATES = np.array([11, 11.5, 9.3, 4.5, 12.3, 3.9, 2.1, 10.8, 10.8, 8.5, 3.8, 10.3, 4.2, 2.7, 5.5, 18.5, 7.8])
TYPE_RATES = np.array([17, 0.4, 45, 0.8, 2.2, 14, 0.4, 4, 1, 4, 4, 4])
N_REGIONS, N_TYPES = len(REGION_RATES), len(TYPE_RATES)
TRAIN_NOISE = NoiseRates(replacement=0.155, insertion=0.02, deletion=0.025, dispersion=0.05)
TEST_NOISE = NoiseRates(replacement=0.225, insertion=0.04, deletion=0.05, dispersion=0.05)

PAIRS = [(0, 1), (4, 7), (8, 11), (9, 2), (14, 16)]  # two sides of an organ: they share its name, the side goes before
CLASS_SIZES = (
    {",": 1, "or": 2, ".": 3, "no": 5, "in": 6, "out": 3, "but": 3, "seen": 10, "normal": 24, "s": 24, "m": 400}
    | {f"side{side}": 2 for side in range(2)}
    | {f"organ{pair}": 3 for pair in range(len(PAIRS))}
    | {f"region{region}": 2 for region in range(N_REGIONS)}
    | {f"part{region}": 3 for region in range(N_REGIONS)}
    | {f"type{t}": 3 + int(1.5 * np.log(rate / TYPE_RATES.min())) for t, rate in enumerate(TYPE_RATES)}
)
"""Classes of words and how many words each has; the words that are left over become the class x."""
EXPANSIONS = {
    "m*": ["", "m", "m m"],
    "s*": ["s", "m s", "s m"],
    "L": ["f", "f or f", "f , f or f", "f , f , f or f"],
    "l": ["f", "f or f"],
}
LONGEST_CLAUSE = 12  # in tokens; keeps a report with eight abnormal regions below MAX_LENGTH


@dataclass(frozen=True)
class Kind:
    """Clauses of one kind. R: the region; a: a part of it; F: a finding that is there; s: how severe; L, l: a long or
    a short list of findings f in the reach of a negation; m: a modifier; other words stand for themselves."""

    templates: list[str]
    set_phrases: int
    """How many set phrases each group of clauses has: the same words in the same order every time."""
    set_share: float
    """How often a clause is a set phrase."""


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
SET_PHRASE_LENGTH = 8  # the least, in tokens
OTHER_SHARE = 0.15  # of the clauses without a finding, those that name no region

TRAIN_POOL, TEST_POOL = 0, 1
PHRASE_SPREAD, VARIANT_SPREAD, WORD_SPREAD = 1.0, 0.5, 0.3
"""Standard deviations of the log weights with which the two pools prefer other phrases, clauses and words."""
_STEPS = 4096  # length of a lookup table; choices index one at random, which is fast and exact to 1 in 4096
_BLOCK = 20_000  # reports made at a time; bounds the memory of the intermediate arrays


@dataclass(frozen=True)
class Language:
    """Words and clauses. They are the same in every sample: a seed chooses reports, not a language."""

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
    """Builds the language: deals words to classes, writes the templates out, freezes some clauses as set phrases."""
    rng = np.random.default_rng(858)
    type_shares = TYPE_RATES / TYPE_RATES.sum()
    classes = _word_classes(rng)
    numbers = {name: VOCABULARY + i for i, name in enumerate(classes)}
    # Plain words are many and flat; words that carry meaning are few and steep. A denied finding is drawn like one
    # that is there, so its word alone does not tell the two apart.
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
    """Every token id in one class (and those of findings in f as well), dealt at random."""
    ids = np.split(rng.permutation(VOCABULARY), np.cumsum(list(CLASS_SIZES.values())))
    classes = dict(zip([*CLASS_SIZES, "x"], ids, strict=True))
    return classes | {"f": np.concatenate([classes[f"type{t}"] for t in range(N_TYPES)])}


def _groups() -> Iterator[tuple[Kind, int | None, int | None]]:
    """Kind, region and type of finding of each group of clauses, in the order in which Language numbers them."""
    yield from ((NORMAL, region, None) for region in range(N_REGIONS))
    yield OTHER, None, None
    yield from ((ABNORMAL, region, finding) for region in range(N_REGIONS) for finding in range(N_TYPES))


def _written_out(templates: list[str], region: int | None, finding: int | None) -> tuple[list[list[str]], np.ndarray]:
    """All clauses, as lists of word classes, that the templates allow; templates have equal shares: (n_clauses,)."""
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
    """Shares (n,): the part `flat` is equal for all, the rest falls with the rank as Zipf's law says."""
    weights = 1 / (np.arange(n) + 1.5)
    return (1 - flat) * weights / weights.sum() + flat / n


def _reweighted(shares: np.ndarray, spread: float, rng: np.random.Generator) -> np.ndarray:
    weights = shares * np.exp(spread * rng.standard_normal(len(shares)))
    return weights / weights.sum()


def _lookup(shares: np.ndarray) -> np.ndarray:
    """(_STEPS,) indices of `shares`, each as often as its share asks for."""
    quantiles = (np.arange(_STEPS) + 0.5) / _STEPS
    return np.minimum(np.searchsorted(np.cumsum(shares), quantiles), len(shares) - 1)


def _draw_reports(n: int, pool: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """`n` reports without noise: tokens uint16, offsets (n + 1,), and the labels of each group, (n, size) uint8."""
    speech = language()
    counts = rng.choice(len(ABNORMAL_COUNTS), size=n, p=ABNORMAL_COUNTS / ABNORMAL_COUNTS.sum())
    # Candidates, (n, 17): all regions in the order in which exponential clocks ring, that is, weighted sampling
    # without replacement. The first are the abnormal ones. The exponent offsets what the "without" takes away.
    regions = np.argsort(rng.exponential(size=(n, N_REGIONS)) / REGION_RATES**1.15, axis=1)
    abnormal = np.arange(N_REGIONS) < counts[:, None]
    types = speech.types[rng.integers(0, _STEPS, size=abnormal.shape)]
    group = np.where(abnormal, N_REGIONS + 1 + regions * N_TYPES + types, regions)
    group[~abnormal & (rng.random(abnormal.shape) < OTHER_SHARE)] = N_REGIONS
    clause = speech.clauses[pool, group, rng.integers(0, _STEPS, size=group.shape)]

    # Clauses are kept until the length is reached; abnormal ones always, since the labels count them.
    ends = np.cumsum(speech.lengths[clause], axis=1)
    target = rng.gamma(LENGTH_SHAPE, LENGTH_SCALE, size=n) * (0.85 + 0.1 * counts)
    longest = LONGEST_CLAUSE * (len(ABNORMAL_COUNTS) - 1)
    kept = abnormal | ((ends - speech.lengths[clause] / 2 < target[:, None]) & (ends <= longest))
    kept[:, 0] = True
    # Spoken in a loose anatomical order.
    order = np.argsort(np.where(kept, rng.random(kept.shape) + 0.5 * regions / N_REGIONS, np.inf), axis=1)
    spoken = np.take_along_axis(clause, order, axis=1)[np.arange(N_REGIONS) < kept.sum(axis=1)[:, None]]

    slots, clause_offsets = _gather(speech.slots, speech.starts[spoken], speech.lengths[spoken])
    drawn = speech.words[pool, np.maximum(slots - VOCABULARY, 0), rng.integers(0, _STEPS, size=len(slots))]
    tokens = np.where(slots < VOCABULARY, slots, drawn).astype(np.uint16)
    offsets = clause_offsets[np.concatenate([[0], np.cumsum(kept.sum(axis=1))])]

    labels = {name: np.zeros((n, size), dtype=np.uint8) for name, size in (("regions", N_REGIONS), ("types", N_TYPES))}
    row, rank = np.nonzero(abnormal)
    labels["regions"][row, regions[row, rank]] = 1
    labels["types"][row, types[row, rank]] = 1
    return tokens, offsets, labels


def _gather(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> Ragged:
    """The runs values[start : start + length], end to end, and their offsets (n + 1,)."""
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return values[np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)], offsets


def _sample_reports(path: Path, n: int, pool: int, rates: NoiseRates, task: Task, seeds: list[int]) -> Reports:
    """`n` labelled reports for the file `path`. Noise has its own stream: the texts under it do not change."""
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
    """Noisy tokens and offsets; what would become too short stays as it was, what would become too long is cut."""
    noisy, noisy_offsets = corrupt(tokens, offsets, rates, rng, np.arange(VOCABULARY))
    short = np.diff(noisy_offsets) < MIN_LENGTH
    starts = np.where(short, len(noisy) + offsets[:-1], noisy_offsets[:-1])
    lengths = np.where(short, np.diff(offsets), np.diff(noisy_offsets))
    return _gather(np.concatenate([noisy, tokens]), starts, np.minimum(lengths, MAX_LENGTH))


FILES = ("sample_train.csv", "sample_testA.csv", "sample_testB.csv", "answers_A.csv", "answers_B.csv")
NOTE = "README.md"  # written last: a folder that has it has everything


def is_complete(folder: Path) -> bool:
    """Whether a sample was made in `folder` and its files are all there."""
    return all((folder / name).is_file() for name in (*FILES, NOTE))


def was_made_with(folder: Path, *, rows: int, test_rows: int, task: Task, seed: int) -> bool:
    """Whether the sample in `folder` is complete and the one that make_sample would write with these arguments."""
    return is_complete(folder) and (folder / NOTE).read_text() == _note(rows, test_rows, task, seed, noise=True)


def make_sample(folder: Path, *, rows: int, test_rows: int, task: Task, seed: int, noise: bool = True) -> list[Path]:
    """Writes FILES and a README.md to `folder` and returns their paths. The same arguments give the same bytes.

    `rows` labelled reports; `test_rows` in each of two test files, from another pool and noisier, whose labels lie
    beside them in the answers. The files move in when all are written. `noise=False` gives the same reports clean.
    """
    if min(rows, test_rows) < 1 or seed < 0:
        raise UserError(f"a sample needs rows, test_rows >= 1 and a seed >= 0, not {rows}, {test_rows} and {seed}")
    train_noise, test_noise = (TRAIN_NOISE, TEST_NOISE) if noise else (NoiseRates(), NoiseRates())
    workshop = folder / ".unfinished"
    workshop.mkdir(parents=True, exist_ok=True)
    train, *tests, _, _ = FILES
    write_reports(workshop / train, _sample_reports(folder / train, rows, TRAIN_POOL, train_noise, task, [seed, 0]))
    for i, (test, answers) in enumerate(zip(tests, FILES[3:], strict=True), start=1):
        reports = _sample_reports(folder / answers, test_rows, TEST_POOL, test_noise, task, [seed, i])
        write_reports(workshop / answers, reports)
        write_reports(workshop / test, replace(reports, path=folder / test, labels=None, task=None))
    (folder / NOTE).unlink(missing_ok=True)
    for name in FILES:
        os.replace(workshop / name, folder / name)
    shutil.rmtree(workshop)
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
