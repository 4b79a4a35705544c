"""Drift: what is asked now, compared with the text or the stays that the bundle's models learned from.

Each row gives a few statistics: its length, its shares of unknown words and of unseen n-grams (reports), how often each
parameter is observed and its mean (series), and the prediction of each label. A window of the last rows is compared
with training by the z of each mean, and the noise of reports by the frames of evaluation/noise_estimation.py.

The reference of a bundle is one file without text: frames and n-grams are learned from four fifths of the train
reports, and the rates come from the held-out fifth, as ./run.sh shift does it. A window without drift is then like the
fifth, while it would look noisier than reports whose own frames and n-grams are in the tables.
"""

from __future__ import annotations

import json
import math
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialise

from src.core import storage
from src.core.errors import UserError
from src.data.corpus import UNK, unpad
from src.data.ngrams import Text, ngram_hashes, take
from src.evaluation import noise_estimation, series_shift
from src.evaluation.noise_estimation import Frames

if TYPE_CHECKING:
    from src.evaluation.workspace import Workspace
    from src.serving.predictor import Rows

WINDOW = 1000
"""Rows of the sliding window."""
MIN_ROWS = 100
"""Minimum number of rows in the window for a z."""
DISTINCT = 4.0
"""Absolute z from which a figure counts as drifted. In a full window that is a difference of an eighth of the standard
deviation between rows; of windows with 100 figures and no drift, one in 160 has a figure that far off."""
LARGEST = 99.0
"""Largest absolute z that is reported: of a figure that never varied in training, z is infinite."""
HELD_OUT = 5
"""One train row in so many gives the rates of the reference, the others its frames and n-grams."""
MOST_ROWS = 20_000
"""Maximum number of train rows that the reference is made of, as of the stage shift."""
NGRAMS = {"bigrams": 2, "trigrams": 3}
BITS = 10
"""Bits a distinct n-gram in a Bloom filter; with PROBES 7 it takes 0.8% of the unseen n-grams for seen ones."""
PROBES = 7
CHUNK = 256
"""Rows whose statistics are computed at a time."""


@dataclass(frozen=True)
class Reference:
    """Statistics of the rows that a bundle's models learned from."""

    facts: dict[str, Any]
    """kind (tokens or series), figures (group and name of each of the F statistics), noise (rate and standard error, or
    null)."""
    arrays: dict[str, np.ndarray]
    """mean, variance and count, (F,) each, of the statistics of the held-out rows; of reports also the words of the
    others, (V,) bool, Bloom filters of their n-grams (uint8), and frames, their outcomes (1, W, 4) among them."""

    @property
    def names(self) -> list[tuple[str, str]]:
        return [(group, name) for group, name in self.facts["figures"]]

    @property
    def frames(self) -> list[Frames]:
        parts = ("contexts", "words", "alternatives")
        return [
            Frames(width, *(self.arrays[f"frames.{width}.{part}"] for part in parts)) for width in self.facts["widths"]
        ]

    def save(self, path: Path) -> None:
        content = serialise(self.arrays, {"reference": json.dumps(self.facts, sort_keys=True)})
        storage.write_atomic(path, lambda file: file.write(content))

    @classmethod
    def load(cls, path: Path) -> Reference:
        """Raises UserError for a file that is no reference."""
        try:
            with safe_open(path, framework="numpy") as file:
                facts = json.loads(file.metadata()["reference"])
                return cls(facts, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (no mapping)
        except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
            raise UserError(f"{path} is no reference of a bundle ({error}). Make the bundle again.") from None


def reference_of(workspace: Workspace) -> Reference:
    """Returns the reference of the train rows, at most MOST_ROWS of them, evenly spaced."""
    corpus, shape = workspace.dataset.train, workspace.dataset.shape
    rows = np.unique(np.linspace(0, len(corpus) - 1, min(len(corpus), MOST_ROWS)).astype(np.int64))
    labels = [("labels", name) for name in workspace.task.label_names]
    held = np.arange(len(rows)) % HELD_OUT == 0
    if shape.kind == "tokens":
        text = unpad(np.asarray(corpus.tokens[rows]), np.asarray(corpus.lengths[rows]))
        facts, arrays = _text_reference(
            take(*text, np.flatnonzero(~held)), take(*text, np.flatnonzero(held)), shape.size
        )
        names = [("text", "length"), ("text", "unseen_words"), *(("text", f"unseen_{name}") for name in NGRAMS)]
    else:
        facts, arrays = {"widths": [], "noise": None}, {}
        names = [("series", "length")]
        names += [(group, name) for group in ("observed", "mean") for name in shape.parameters]
        names += [(group, name) for group in ("known", "value") for name in shape.statics]
    reference = Reference({**facts, "kind": shape.kind, "figures": [*names, *labels]}, arrays)
    statistics = []
    for part in np.array_split(rows[held], math.ceil(held.sum() / CHUNK)):
        inputs = {name: np.asarray(array[part]) for name, array in corpus.inputs.items()}
        statistics.append(row_statistics(reference, inputs, np.asarray(corpus.lengths[part])))
    own, of_labels = _moments(np.concatenate(statistics)), _moments(np.asarray(workspace.labels, dtype=np.float64))
    return Reference(reference.facts, {**arrays, **{key: np.append(own[key], of_labels[key]) for key in own}})


def row_statistics(reference: Reference, inputs: dict[str, np.ndarray], lengths: np.ndarray) -> np.ndarray:
    """Returns the statistics of rows but for their labels, (B, F - L) float64, NaN where a row has none."""
    if reference.facts["kind"] == "tokens":
        text = unpad(inputs["tokens"], lengths)
        known = np.append(reference.arrays["words"], False)  # an index beyond the vocabulary is as unknown as UNK
        columns = [lengths, _shares(~known[np.minimum(text[0], len(known) - 1)], lengths)]
        for name, n in NGRAMS.items():
            columns.append(_shares(~_has(reference.arrays[f"ngrams.{name}"], ngram_hashes(text, n)), lengths - n + 1))
        return np.column_stack(columns).astype(np.float64)
    values = np.asarray(inputs["values"], dtype=np.float64)
    inside = (np.arange(values.shape[1]) < lengths[:, None])[:, :, None]
    columns = [lengths[:, None], series_shift.coverage(values, lengths, np.arange(len(values)))]
    columns.append(_mean_of_known(np.where(inside, values, np.nan)))
    if "statics" in inputs:
        statics = np.asarray(inputs["statics"], dtype=np.float64)[:, 0]
        columns += [np.isfinite(statics), np.where(np.isfinite(statics), statics, np.nan)]
    return np.concatenate(columns, axis=1).astype(np.float64)


class DriftMonitor:
    """Sliding window of the rows that were asked for. `add` costs microseconds; `figures` does the work, for the rows
    since its last call, and may run in another thread."""

    def __init__(self, reference: Reference, window: int = WINDOW):
        self.reference, self.window = reference, window
        self._frames = reference.frames
        self._new: deque[tuple[dict[str, np.ndarray], int, np.ndarray]] = deque(maxlen=window)
        self._statistics: deque[np.ndarray] = deque(maxlen=window)
        self._outcomes: deque[np.ndarray] = deque(maxlen=window)
        self._lock = threading.Lock()
        self._found = self._compared()

    def add(self, rows: Rows, values: np.ndarray) -> None:
        """Takes rows and their predictions (B, L)."""
        for i, length in enumerate(rows.lengths.tolist()):
            # Copies: a view would keep the batch, and padding, in memory.
            own = {name: array[i, :length] if name == "tokens" else array[i] for name, array in rows.inputs.items()}
            self._new.append(({name: array.copy() for name, array in own.items()}, length, np.array(values[i])))

    def figures(self) -> dict[str, Any]:
        """Returns rows and window, and for each figure its group and name, its value in the window and in training, z
        (null for fewer than MIN_ROWS rows) and whether it drifted; a value is null where no row has one."""
        with self._lock:
            taken = []
            while self._new and len(taken) < self.window:
                taken.append(self._new.popleft())
            for start in range(0, len(taken), CHUNK):
                self._take(taken[start : start + CHUNK])
            if taken:
                self._found = self._compared()
            return self._found

    def _take(self, taken: Sequence[tuple[dict[str, np.ndarray], int, np.ndarray]]) -> None:
        lengths = np.array([length for _, length, _ in taken], dtype=np.int64)
        inputs = {name: _stacked([own[name] for own, _, _ in taken]) for name in taken[0][0]}
        values = np.stack([values for _, _, values in taken])
        self._statistics.extend(np.column_stack([row_statistics(self.reference, inputs, lengths), values]))
        if self._frames:
            self._outcomes.extend(noise_estimation.count_outcomes(self._frames, unpad(inputs["tokens"], lengths)))

    def _compared(self) -> dict[str, Any]:
        enough = len(self._statistics) >= MIN_ROWS
        width = len(self.reference.names)
        now = _moments(np.stack(self._statistics) if self._statistics else np.empty((0, width)))
        z = _z(now, self.reference.arrays) if enough else np.full(width, np.nan)
        found = [
            _figure(*name, *map(float, numbers))
            for name, *numbers in zip(self.reference.names, now["mean"], self.reference.arrays["mean"], z, strict=True)
        ]
        if (noise := self.reference.facts["noise"]) is not None:
            rate, error = self._noise()
            apart = (rate - noise["rate"]) / math.hypot(error, noise["standard_error"]) if enough else math.nan
            found.insert(0, _figure("text", "noise", rate, noise["rate"], apart))
        return {"rows": len(self._statistics), "window": self.window, "figures": found}

    def _noise(self) -> tuple[float, float]:
        """Returns the share of tokens with noise in the window and its standard error; NaN for too few frames."""
        counts = np.stack(self._outcomes) if self._outcomes else np.empty((0, len(self._frames), 4))
        return _noise_rate(self._frames, counts, self.reference.arrays["outcomes"])


def figure_gauges(found: dict[str, Any]) -> Iterator[tuple[str, dict[str, str], float]]:
    """Yields name, labels and value of each gauge of DriftMonitor.figures()."""
    yield "drift_window_rows", {}, found["rows"]
    for figure in found["figures"]:
        labels = {"group": figure["group"], "name": figure["name"]}
        for key in ("value", "reference", "z"):
            if figure[key] is not None:
                yield f"drift_{key}", labels, figure[key]


def _text_reference(learned: Text, held: Text, vocabulary: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    frames = noise_estimation.learn_frames([learned])
    words = np.zeros(vocabulary, dtype=bool)
    words[learned[0]] = True
    words[UNK] = False
    arrays = {"words": words}
    for name, n in NGRAMS.items():
        arrays[f"ngrams.{name}"] = _filter(np.unique(ngram_hashes(learned, n)))
    for of_width in frames:
        arrays[f"frames.{of_width.width}.contexts"] = of_width.contexts
        arrays[f"frames.{of_width.width}.words"] = of_width.words
        arrays[f"frames.{of_width.width}.alternatives"] = of_width.alternatives
    counts = noise_estimation.count_outcomes(frames, held)
    arrays["outcomes"] = counts.sum(axis=0, keepdims=True)
    rate, error = _noise_rate(frames, counts, None)
    noise = None if math.isnan(rate) else {"rate": rate, "standard_error": error}
    return {"widths": [of_width.width for of_width in frames], "noise": noise}, arrays


def _noise_rate(frames: Sequence[Frames], counts: np.ndarray, outcomes: np.ndarray | None) -> tuple[float, float]:
    """Returns the share of tokens with noise and its standard error, from outcomes of frames (N, W, 4); NaN where they
    are too few. `outcomes` (1, W, 4) are those of the reference, which shares its dispersion with a small window."""
    others = () if outcomes is None else (outcomes,)
    found = noise_estimation.estimate_noise(frames, counts, np.empty(0, dtype=np.int64), 1, others=others)
    if found is None:
        return math.nan, math.nan
    half_widths = [(high - low) / 2 for name, (low, high) in found.intervals.items() if name != "dispersion"]
    return found.rates.total, math.hypot(*half_widths) / 1.96


def _filter(hashes: np.ndarray) -> np.ndarray:
    """Returns a Bloom filter of distinct hashes (n,): uint8, BITS bits a hash."""
    bits = np.zeros(max(8, -(-len(hashes) * BITS // 8) * 8), dtype=bool)
    for probe in range(PROBES):
        bits[_place(hashes, probe, len(bits))] = True
    return np.packbits(bits)


def _has(table: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Returns which hashes (n,) are in the Bloom filter, but for its false positives: bool (n,)."""
    found = np.ones(len(hashes), dtype=bool)
    for probe in range(PROBES):
        place = _place(hashes, probe, len(table) * 8)
        found &= (table[place >> 3] >> (7 - (place & 7)).astype(np.uint8)) & 1 == 1
    return found


def _place(hashes: np.ndarray, probe: int, size: int) -> np.ndarray:
    """Returns the bit of each hash at a probe: both halves of the hash make all probes (Kirsch and Mitzenmacher)."""
    first, second = hashes >> np.uint64(32), (hashes & np.uint64(0xFFFFFFFF)) | np.uint64(1)
    return ((first + np.uint64(probe) * second) % np.uint64(size)).astype(np.int64)


def _shares(hit: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns the share of each row's items that are hit: hit bool (sum of lengths,), lengths (B,), NaN without items.
    A negative length counts as none."""
    lengths = np.maximum(lengths, 0)
    sums = np.bincount(np.repeat(np.arange(len(lengths)), lengths), weights=hit, minlength=len(lengths))
    return np.where(lengths > 0, sums / np.maximum(lengths, 1), np.nan)


def _stacked(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Stacks rows of one width, or of different lengths (reports), with zeros behind them: (B, longest, …)."""
    stacked = np.zeros((len(parts), max(map(len, parts)), *parts[0].shape[1:]), dtype=parts[0].dtype)
    for row, part in zip(stacked, parts, strict=True):
        row[: len(part)] = part
    return stacked


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Returns the means over time of values (B, T, P), without NaN: (B, P), NaN where nothing is known."""
    known = np.isfinite(values)
    count = known.sum(axis=1)
    return np.where(count > 0, np.where(known, values, 0).sum(axis=1) / np.maximum(count, 1), np.nan)


def _moments(table: np.ndarray) -> dict[str, np.ndarray]:
    """Returns mean, variance and count, (F,) each, of the known values of each column of a table (N, F)."""
    known = np.isfinite(table)
    count = known.sum(axis=0)
    mean = np.where(count > 0, np.where(known, table, 0).sum(axis=0) / np.maximum(count, 1), np.nan)
    squares = np.where(known, (table - mean) ** 2, 0).sum(axis=0)
    return {"mean": mean, "variance": squares / np.maximum(count, 1), "count": count.astype(np.float64)}


def _z(now: dict[str, np.ndarray], then: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the z of each mean's difference from training, (F,), NaN where a side knows no value.

    Both sides get the larger of both variances, since a window of a rare event often has none of its own.
    """
    variance = np.maximum(now["variance"], then["variance"])
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.sqrt(variance / now["count"] + variance / then["count"])
        difference = now["mean"] - then["mean"]
        z = np.where(difference == 0, 0.0, difference / error)
    return np.where(np.isfinite(difference), np.clip(z, -LARGEST, LARGEST), np.nan)


def _figure(group: str, name: str, value: float, reference: float, z: float) -> dict[str, Any]:
    known = {
        key: number if math.isfinite(number) else None
        for key, number in (("value", value), ("reference", reference), ("z", z))
    }
    return {"group": group, "name": name, **known, "drifted": math.isfinite(z) and abs(z) >= DISTINCT}
