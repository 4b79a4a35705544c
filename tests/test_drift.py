"""Drift of what is asked: no false alarm on rows like training's, and each planted change is found and named."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from src.__main__ import main
from src.core.settings_loader import load_config
from src.data import synthetic, synthetic_stays
from src.data.corpus import UNK, pad, to_indices, unpad
from src.data.corruption import NoiseRates, corrupt
from src.data.tasks import ROUND1
from src.evaluation.workspace import Workspace
from src.serving import drift
from src.serving.drift import DriftMonitor, Reference
from tests.conftest import error_of

WINDOW = 600


class Rows(NamedTuple):
    inputs: dict[str, np.ndarray]
    lengths: np.ndarray


def prepared(folder: Path, *more: str) -> Workspace:
    words = [f"paths.input={folder / 'input'}", f"paths.output={folder / 'output'}", *more]
    assert main(["prepare", "--preset", "sample", *words]) == 0
    return Workspace(load_config("sample", words))


@pytest.fixture(scope="module")
def reports(made_once) -> Workspace:
    """4000 train reports."""
    sample = {"rows": 4000, "test_rows": 10, "task": ROUND1, "seed": 3}
    return prepared(made_once("watched", lambda folder: synthetic.make_sample(folder / "input", **sample)))


@pytest.fixture(scope="module")
def reference(reports) -> Reference:
    return drift.reference_of(reports)


@pytest.fixture(scope="module")
def unseen(reports) -> np.ndarray:
    """Train rows that are in no table of the reference."""
    return np.arange(0, len(reports.labels), drift.HELD_OUT)[:WINDOW]


def taken(workspace: Workspace, rows: np.ndarray) -> Rows:
    corpus = workspace.dataset.train
    return Rows({name: np.asarray(a[rows]) for name, a in corpus.inputs.items()}, np.asarray(corpus.lengths[rows]))


def watched(reference: Reference, rows: Rows, values: np.ndarray, window: int = WINDOW) -> dict[tuple[str, str], dict]:
    monitor = DriftMonitor(reference, window)
    for start in range(0, len(values), 7):  # requests of several reports
        part = slice(start, start + 7)
        monitor.add(Rows({name: a[part] for name, a in rows.inputs.items()}, rows.lengths[part]), values[part])
    found = monitor.figures()
    assert found["rows"] == min(len(values), window) and found["window"] == window
    return {(figure["group"], figure["name"]): figure for figure in found["figures"]}


def drifted(figures: dict[tuple[str, str], dict]) -> set[tuple[str, str]]:
    return {name for name, figure in figures.items() if figure["drifted"]}


def test_reports_like_those_of_training_do_not_drift(reports, reference, unseen):
    figures = watched(reference, taken(reports, unseen), reports.labels[unseen])
    assert drifted(figures) == set()
    assert [name for group, name in figures if group == "text"] == [
        *("noise", "length", "unseen_words", "unseen_bigrams", "unseen_trigrams")
    ]
    assert [name for group, name in figures if group == "labels"] == reports.task.label_names
    lengths = reports.dataset.train.lengths
    assert figures["text", "length"]["value"] == pytest.approx(lengths[unseen].mean())
    held = lengths[:: drift.HELD_OUT]
    assert figures["text", "length"]["reference"] == pytest.approx(held.mean())
    rates = [figures["labels", name]["reference"] for name in reports.task.label_names]
    assert rates == pytest.approx(reports.labels.mean(axis=0))


def test_more_noise_is_found_and_measured(reports, reference, unseen):
    rows = taken(reports, unseen)
    text = unpad(rows.inputs["tokens"], rows.lengths)
    alphabet = to_indices(np.arange(len(reports.dataset.vocabulary.words)))
    noisy = corrupt(*text, NoiseRates(replacement=0.2), np.random.default_rng(0), alphabet)
    tokens, lengths = pad(*noisy, rows.inputs["tokens"].shape[1])
    plain = watched(reference, rows, reports.labels[unseen])["text", "noise"]
    figures = watched(reference, Rows({"tokens": tokens}, lengths), reports.labels[unseen])
    assert drifted(figures) == {("text", "noise"), ("text", "unseen_bigrams"), ("text", "unseen_trigrams")}
    added = figures["text", "noise"]["value"] - plain["value"]
    assert added == pytest.approx(0.2 * (1 - plain["value"]), abs=0.1)  # its standard error is 0.04


def test_each_other_change_is_named(reports, reference, unseen):
    rows, labels = taken(reports, unseen), reports.labels[unseen].astype(float)
    short = np.maximum(rows.lengths // 2, 3)
    tokens = np.where(np.arange(rows.inputs["tokens"].shape[1]) < short[:, None], rows.inputs["tokens"], 0)
    assert drifted(watched(reference, Rows({"tokens": tokens}, short), labels)) == {("text", "length")}
    unknown = rows.inputs["tokens"].copy()
    unknown[::10, 1] = UNK
    assert ("text", "unseen_words") in drifted(watched(reference, Rows({"tokens": unknown}, rows.lengths), labels))
    labels[:, 4] += 0.3
    assert drifted(watched(reference, rows, labels)) == {("labels", reports.task.label_names[4])}


def test_a_reference_is_small_has_no_text_and_is_the_same_bytes_each_time(reports, reference, tmp_path):
    path = tmp_path / "reference.safetensors"
    reference.save(path)
    content = path.read_bytes()
    assert len(content) < 300_000
    tokens = reports.dataset.train.tokens
    for row in (1, 2, 3):
        start = tokens[row, :8]
        assert start.tobytes() not in content and start.astype(np.int64).tobytes() not in content
    drift.reference_of(reports).save(path)
    assert path.read_bytes() == content
    loaded = Reference.load(path)
    assert loaded.facts == {**reference.facts, "figures": [list(name) for name in reference.names]}
    assert loaded.arrays.keys() == reference.arrays.keys()
    path.write_bytes(content[:-9])
    assert "is no reference of a bundle" in error_of(Reference.load, path)
    path.write_text("{}")
    assert "Make the bundle again" in error_of(Reference.load, path)


def test_seen_ngrams_are_always_found_and_few_others():
    hashes = np.random.default_rng(1).integers(0, 2**64, 50_000, dtype=np.uint64)
    table = drift._filter(hashes[:40_000])
    assert table.nbytes == 40_000 * drift.BITS // 8
    assert drift._has(table, hashes[:40_000]).all()
    assert drift._has(table, hashes[40_000:]).mean() < 0.012


def test_the_window_slides_and_small_windows_say_nothing(reports, reference, unseen):
    monitor, rows = DriftMonitor(reference, 200), taken(reports, unseen)
    empty = monitor.figures()
    assert empty["rows"] == 0 and all(figure["value"] is figure["z"] is None for figure in empty["figures"])
    values = np.zeros((len(unseen), ROUND1.n_labels))

    def asked(start: int, end: int, value: float) -> dict:
        part = Rows({"tokens": rows.inputs["tokens"][start:end]}, rows.lengths[start:end])
        monitor.add(part, values[start:end] + value)
        return next(figure for figure in monitor.figures()["figures"] if figure["group"] == "labels")

    few = asked(0, drift.MIN_ROWS - 1, 0.9)
    assert few["value"] == pytest.approx(0.9) and few["z"] is None and not few["drifted"]
    assert asked(99, 150, 0.9)["drifted"]
    assert asked(150, 450, 0.1)["value"] == pytest.approx(0.1)  # the first rows have left the window
    assert monitor.figures()["rows"] == 200


def test_rows_are_added_while_figures_are_read(reports, reference, unseen):
    monitor, rows = DriftMonitor(reference, WINDOW), taken(reports, unseen)
    one = Rows({"tokens": rows.inputs["tokens"][:1]}, rows.lengths[:1])
    failures: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(5):
                monitor.figures()
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for _ in range(WINDOW):
        monitor.add(one, np.full((1, ROUND1.n_labels), 0.5))
    for reader in readers:
        reader.join()
    assert failures == [] and monitor.figures()["rows"] == WINDOW


def test_gauges_have_every_figure(reports, reference, unseen):
    monitor = DriftMonitor(reference, WINDOW)
    monitor.add(taken(reports, unseen), reports.labels[unseen])
    gauges = list(drift.figure_gauges(monitor.figures()))
    assert gauges[0] == ("drift_window_rows", {}, WINDOW)
    assert {name for name, _, _ in gauges[1:]} == {"drift_value", "drift_reference", "drift_z"}
    assert len(gauges) == 1 + 3 * (5 + ROUND1.n_labels)


@pytest.fixture(scope="module")
def stays(made_once) -> Workspace:
    sample = {"rows": 1500, "test_rows": 10, "seed": 3}
    made = made_once("watched_stays", lambda folder: synthetic_stays.make_sample(folder / "input", **sample))
    return prepared(made, "task=icu")


def test_missing_and_changed_parameters_of_stays_are_named(stays):
    reference = drift.reference_of(stays)
    shape = stays.dataset.shape
    rows = np.arange(1, len(stays.labels))[np.arange(1, len(stays.labels)) % drift.HELD_OUT > 0][:WINDOW]
    asked, labels = taken(stays, rows), np.asarray(stays.labels[rows], dtype=float)
    assert drifted(watched(reference, asked, labels)) == set()
    heart, pressure, age = shape.parameters.index("HR"), shape.parameters.index("SysABP"), shape.statics.index("Age")
    values, statics = asked.inputs["values"].copy(), asked.inputs["statics"].copy()
    values[:, :, heart] *= 1.2
    values[: WINDOW // 2, :, pressure] = np.nan
    statics[: WINDOW // 2, 0, age] = np.nan
    found = watched(reference, Rows({"values": values, "statics": statics}, asked.lengths), labels)
    assert drifted(found) == {("mean", "HR"), ("observed", "SysABP"), ("known", "Age")}
    assert found["mean", "HR"]["value"] == pytest.approx(1.2 * found["mean", "HR"]["reference"], rel=0.02)
    assert found["known", "Age"]["value"] == pytest.approx(0.5, abs=0.01)
