"""Grid of stays, against a slow definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.data.grid import HOW, KINDS, PARAMETERS, STATICS, grid
from src.data.plausible import DESCRIPTORS, SERIES
from src.data.series_reader import StayBlock
from tests.conftest import error_of


def block_of(rows: list[tuple[int, int, str, float]], n: int = 3, descriptors: np.ndarray | None = None) -> StayBlock:
    rows = sorted(rows, key=lambda row: row[:2])
    stay, minute = (np.array([row[i] for row in rows], np.int32) for i in range(2))
    parameter = np.array([PARAMETERS.index(row[2]) for row in rows], np.uint8)
    value = np.array([row[3] for row in rows], np.float32)
    if descriptors is None:
        descriptors = np.full((n, len(DESCRIPTORS)), np.nan, np.float32)
    return StayBlock(np.arange(n).astype(np.bytes_), descriptors, stay, minute, parameter, value)


def test_columns_have_names():
    assert len(PARAMETERS) == len(set(PARAMETERS)) == len(KINDS) == 37
    assert set(KINDS) == set(HOW)
    assert STATICS == ("Age", "Gender", "Height", "Weight", "ICUType_1", "ICUType_2", "ICUType_3", "ICUType_4")
    assert all(parameter.low < parameter.high and parameter.source for parameter in (*SERIES, *DESCRIPTORS))


def test_values():
    rows = [(0, 0, "HR", 70), (0, 59, "HR", 80), (0, 60, "HR", 90), (0, 30, "Urine", 100), (0, 31, "Urine", 50)]
    rows += [
        (1, 10, "Lactate", 3),
        (1, 20, "Lactate", 2),
        (1, 20, "Lactate", 1),
        (1, 2879, "HR", 50),
        (1, 2880, "HR", 60),
    ]
    (found,) = grid([block_of(rows)])
    assert found.values.shape == (3, 48, 37) and found.values.dtype == np.float32
    at = {name: PARAMETERS.index(name) for name in PARAMETERS}
    assert found.values[0, :2, at["HR"]].tolist() == [75, 90]
    assert found.values[0, 0, at["Urine"]] == 150
    assert found.values[1, 0, at["Lactate"]] == 1
    assert found.values[1, 47, at["HR"]] == 55
    assert np.isfinite(found.values).sum() == 5 and np.isnan(found.values[2]).all()
    (other,) = grid([block_of(rows)], how={"HR": "last", "Urine": "mean", "Lactate": "sum"})
    assert other.values[0, :2, at["HR"]].tolist() == [80, 90] and other.values[1, 47, at["HR"]] == 60
    assert other.values[0, 0, at["Urine"]] == 75 and other.values[1, 0, at["Lactate"]] == 6


def test_statics():
    values = {
        "Age": [60, np.nan],
        "Gender": [1, 0],
        "Height": [180, np.nan],
        "Weight": [80, 70],
        "ICUType": [3, np.nan],
    }
    descriptors = np.array([values[parameter.name] for parameter in DESCRIPTORS], np.float32).T
    (found,) = grid([block_of([], n=2, descriptors=descriptors)])
    assert found.statics.shape == (2, 1, 8) and found.statics.dtype == np.float32
    np.testing.assert_array_equal(
        found.statics[:, 0], [[60, 1, 180, 80, 0, 0, 1, 0], [np.nan, 0, np.nan, 70] + [np.nan] * 4]
    )


NAMES = st.sampled_from(["HR", "Urine", "pH", "FiO2"])
ROWS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2880), NAMES, st.integers(0, 99)), max_size=40)


@settings(max_examples=100, deadline=None)
@given(rows=ROWS, hours=st.sampled_from([48, 24, 6]), step=st.sampled_from([1.0, 0.5, 2.0, 6.0]))
def test_equals_the_definition(rows, hours, step):
    rows = sorted(rows, key=lambda row: row[:2])
    (found,) = grid([block_of(rows)], hours, step)
    expected = np.full((3, int(hours / step), 37), np.nan)
    cells: dict[tuple, list] = {}
    for stay, minute, name, value in rows:
        cells.setdefault((stay, min(minute, 2879) // int(step * 60), PARAMETERS.index(name)), []).append(value)
    for place, several in cells.items():
        if place[1] < expected.shape[1]:
            how = HOW[KINDS[place[2]]]
            expected[place] = {"last": several[-1], "mean": np.mean(several), "sum": np.sum(several)}[how]
    np.testing.assert_array_equal(found.values, expected.astype(np.float32))


def test_shorter_grid_is_the_beginning_of_a_longer_one():
    rng = np.random.default_rng(0)
    rows = [
        (int(s), int(m), "HR", float(m))
        for s, m in zip(rng.integers(0, 3, 200), rng.integers(0, 2881, 200), strict=True)
    ]
    (long,), (short,) = grid([block_of(rows)]), grid([block_of(rows)], hours=24)
    np.testing.assert_array_equal(long.values[:, :24], short.values)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"hours": 49}, "48"),
        ({"hours": 0}, "48"),
        ({"step": 0.0}, "step"),
        ({"step": 0.01}, "step"),
        ({"step": 5.0}, "step"),
    ]
    + [({"how": {"hr": "mean"}}, "HR"), ({"how": {"HR": "median"}}, "mean")],
)
def test_impossible_grids(arguments, word):
    assert word in error_of(lambda: list(grid([block_of([])], **arguments)))
