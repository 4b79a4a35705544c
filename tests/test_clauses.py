"""Reports whose clauses stand in random order in training, train.reorder."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from src.core.errors import UserError
from src.core.run_settings import Denoise, Train
from src.data.corpus import PAD, pad
from src.data.report_reader import read_reports
from src.data.synthetic import language
from src.training import epoch_reader
from src.training.clauses import OCCURRENCES, find_separators, reorder
from src.training.epoch_reader import EpochReader
from src.training.rows import Rows
from tests.test_classification import CPU, rows

COMMA, STOP, AND = 3, 4, 5
MAX_LEN = 16


def ragged(texts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    lengths = list(map(len, texts))
    return np.array([word for text in texts for word in text], dtype=np.uint16), np.cumsum([0, *lengths])


def clause(rng: np.random.Generator) -> list[int]:
    """A clause starts with one of five words, goes on with others, and ends with one of five."""
    return [rng.integers(10, 15), *rng.integers(20, 40, size=rng.integers(1, 3)), rng.integers(50, 55)]


def reports(rng: np.random.Generator, n: int, ends: bool = False) -> list[list[int]]:
    """Reports of one to four clauses. Some clauses start with a noun, `and` and a second start of a clause."""
    texts = []
    for _ in range(n):
        text = []
        for i in range(rng.integers(1, 5)):
            text += [rng.choice([COMMA, STOP])] * (i > 0)
            text += [rng.integers(20, 40), AND] * (rng.random() < 0.3) + clause(rng)
        texts.append(text + [STOP] * ends)
    return texts


@pytest.mark.parametrize("ends", [False, True], ids=["nothing behind the last clause", "a stop behind it"])
def test_separators_are_found(ends):
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(find_separators(*ragged(reports(rng, 500, ends))), [COMMA, STOP])


def test_separators_of_noisy_sample_reports_are_its_stops(tiny_input):
    """A comma inside a clause is none."""
    found = read_reports(tiny_input / "sample_train.csv")
    np.testing.assert_array_equal(find_separators(found.tokens, found.offsets), np.sort(language().classes["."]))


def test_a_text_without_separators():
    rng = np.random.default_rng(0)
    assert len(find_separators(*ragged(rng.integers(3, 30, size=(500, 20)).tolist()))) == 0
    assert len(find_separators(*ragged([[7]] * 3))) == 0
    assert len(find_separators(*ragged([]))) == 0
    rare = reports(rng, OCCURRENCES // 4)
    assert len(find_separators(*ragged(rare))) == 0


def parts(text: list[int], separators: tuple[int, ...] = (COMMA, STOP)) -> tuple[list[tuple[int, ...]], list[int]]:
    """Clauses of a text, and its separators."""
    found, between = [()], []
    for word in text:
        if word in separators:
            between.append(word)
            found.append(())
        else:
            found[-1] = (*found[-1], word)
    return found, between


def test_clauses_change_places_and_separators_stay_between_them():
    rng = np.random.default_rng(1)
    texts = reports(rng, 400) + reports(rng, 400, ends=True)
    tokens, offsets = ragged(texts)
    chosen = rng.random(len(texts)) < 0.5
    moved = reorder(tokens, offsets, np.array([COMMA, STOP], dtype=np.uint16), chosen, rng)
    assert moved.dtype == tokens.dtype
    changed = 0
    for i, text in enumerate(texts):
        now = moved[offsets[i] : offsets[i + 1]].tolist()
        assert chosen[i] or now == text
        changed += now != text
        (before, between), (after, still) = parts(text), parts(now)
        assert sorted(before) == sorted(after) and between == still
        assert (before[-1] == ()) == (after[-1] == ())
    assert changed > 150


@pytest.mark.parametrize(
    "text", [[], [COMMA], [COMMA, COMMA], [9], [9, COMMA], [COMMA, 9], [COMMA, 8, COMMA, COMMA, 9, STOP, 7]]
)
def test_odd_reports(text):
    """Each keeps its words; nothing of it goes to its neighbours."""
    tokens, offsets = ragged([[1, 2], text, [6]])
    moved = reorder(tokens, offsets, np.array([COMMA, STOP]), np.ones(3, dtype=bool), np.random.default_rng(0))
    assert moved[:2].tolist() == [1, 2] and moved[-1] == 6
    assert sorted(moved[2:-1].tolist()) == sorted(text)
    assert [word for word in moved.tolist() if word in (COMMA, STOP)] == [
        word for word in text if word in (COMMA, STOP)
    ]


def test_all_orders_are_as_frequent():
    tokens, offsets = ragged([[10, 11, COMMA, 20, STOP, 30, 31, 32]] * 6000)
    moved = reorder(
        tokens, offsets, np.array([COMMA, STOP]), np.ones(6000, dtype=bool), np.random.default_rng(0)
    ).reshape(6000, -1)
    found, counts = np.unique(moved, axis=0, return_counts=True)
    assert {(10, 11, COMMA, 20, STOP, 30, 31, 32), (20, COMMA, 30, 31, 32, STOP, 10, 11)} <= set(map(tuple, found))
    assert len(found) == 6 and counts.min() > 850


def written(n: int = 600) -> Rows:
    """Reports whose first word tells which one each is."""
    rng = np.random.default_rng(2)
    texts = [[100 + i, *text][:MAX_LEN] for i, text in enumerate(reports(rng, n))]
    tokens, lengths = pad(*ragged(texts), MAX_LEN)
    return replace(rows(n), inputs={"tokens": tokens}, lengths=lengths, labels=np.arange(n)[:, None] % 2)


def test_an_epoch_of_reordered_reports(monkeypatch):
    monkeypatch.setattr(epoch_reader, "separators_of", lambda rows: np.array([COMMA, STOP], dtype=np.uint16))
    data = written()
    reader = EpochReader(data, Train(batch_size=16, reorder=0.5), CPU)
    rng, epochs = np.random.default_rng(0), []
    for _ in range(2):
        shown = {}
        for batch, wanted in reader.batches(rng):
            for i, row in enumerate(batch.rows):
                shown[int(row)] = tuple(batch.inputs["tokens"][i][: batch.lengths[i]].tolist())
                assert wanted.targets[i] == row % 2
        epochs.append([shown[row] for row in range(len(data))])
    own = [tuple(text[:n].tolist()) for text, n in zip(data.inputs["tokens"], data.lengths, strict=True)]
    assert all(sorted(a) == sorted(b) == sorted(c) for a, b, c in zip(*epochs, own, strict=True))
    several = np.array([len(parts(list(text))[0]) > 2 for text in own])
    for epoch in epochs:  # of three clauses, one order of six is the report's own; of four, one of 24
        moved = np.array([a != b for a, b in zip(epoch, own, strict=True)])
        assert moved[several].mean() == pytest.approx(0.45, abs=0.06)
    assert epochs[0] != epochs[1]


def test_the_denoiser_reads_reordered_reports_and_joined_ones_are_of_them(monkeypatch):
    """The parts of a joined report are reordered one by one."""
    monkeypatch.setattr(epoch_reader, "separators_of", lambda rows: np.array([COMMA, STOP], dtype=np.uint16))
    data = replace(written(), lengths=np.minimum(written().lengths, 8))
    data.inputs["tokens"][np.arange(MAX_LEN) >= data.lengths[:, None]] = PAD
    known = {tuple(sorted(text)) for text in data.inputs["tokens"].tolist()}
    read = set()

    class Hard:
        settings = Denoise(by="x", views=["hard"])

        def __call__(self, tokens, lengths, views):
            assert {tuple(sorted(text)) for text in tokens.tolist()} <= known
            read.update(tuple(text[:n]) for text, n in zip(tokens.tolist(), lengths, strict=True))
            return [tokens]

    reader = EpochReader(data, Train(batch_size=16, join=1.0, reorder=1.0), CPU, Hard())
    joined = 0
    for batch, _ in reader.batches(np.random.default_rng(0)):
        for text, length in zip(batch.inputs["tokens"].tolist(), batch.lengths.tolist(), strict=True):
            cuts = [cut for cut in range(length + 1) if {tuple(text[:cut]), tuple(text[cut:length])} - {()} <= read]
            assert cuts
            joined += tuple(text[:length]) not in read
    assert joined > 500
    assert read != {tuple(text[:n]) for text, n in zip(data.inputs["tokens"].tolist(), data.lengths, strict=True)}


def test_reports_without_separators_are_refused():
    with pytest.raises(UserError, match="train.reorder=0"):
        EpochReader(rows(40), Train(batch_size=16, reorder=0.5), CPU)


def test_without_reordering_nothing_is_looked_for_and_nothing_noted(monkeypatch):
    """Fingerprints and bytes of runs without train.reorder are those of versions without it."""
    monkeypatch.setattr(epoch_reader, "separators_of", None)
    monkeypatch.setattr(epoch_reader, "reorder", None)
    assert list(EpochReader(rows(40), Train(batch_size=16), CPU).batches(np.random.default_rng(0)))
    assert "reorder" not in json.dumps(Train(reorder=0).model_dump())
    assert Train(reorder=0.5).model_dump()["reorder"] == 0.5
