"""Summary features of series are what NumPy computes stay by stay."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from src.models import summaries
from src.models.summaries import STATISTICS, summarise, summary_names, summary_table
from tests.series import IMAGES, LENGTHS, STAYS, STEPS, images, stays, tensors


def expected_of(series: np.ndarray) -> dict[str, float]:
    """Statistics of one parameter of one stay (T,), by their names."""
    at = np.flatnonzero(~np.isnan(series))
    x = series[at].astype(np.float64)
    if not len(x):
        return {name: 0.0 if name == "count" else np.nan for name in STATISTICS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the mean of no values is NaN
        return {
            "first": x[0],
            "last": x[-1],
            "min": x.min(),
            "max": x.max(),
            "mean": x.mean(),
            "deviation": x.std(),
            "slope": np.polyfit(at, x, 1)[0] if len(x) > 2 else np.nan,
            "early mean": x[at < STEPS // 2].mean(),
            "late mean": x[at >= STEPS // 2].mean(),
            "last hour": at[-1],
            "count": len(x),
        }


def test_statistics_are_those_of_numpy():
    inputs = stays(50, seed=3, rate=0.3)
    names, table = summary_names(STAYS), summarise(tensors(inputs), STAYS).numpy()
    assert table.shape == (50, len(names)) == (50, 11 * 5 + 2) and len(set(names)) == len(names)
    for stay in range(50):
        for i, parameter in enumerate(STAYS.parameters):
            for statistic, value in expected_of(inputs["values"][stay, :, i]).items():
                found = table[stay, names.index(f"{parameter} {statistic}")]
                assert found == pytest.approx(value, rel=1e-4, abs=1e-4, nan_ok=True), (parameter, statistic)
    np.testing.assert_array_equal(table[:, names.index("Age")], inputs["statics"][:, 0, 0])


def test_a_stay_without_observations_has_counts_of_zero_alone():
    inputs = tensors(stays(2, rate=0))
    table, names = summarise(inputs, STAYS), summary_names(STAYS)
    counts = [i for i, name in enumerate(names) if name.endswith("count")]
    others = [i for i, name in enumerate(names) if name not in STAYS.statics and i not in counts]
    assert not table[:, counts].any() and table[:, others].isnan().all()


def test_what_lies_beyond_a_length_is_not_read():
    whole, cut = tensors(stays(seed=5)), tensors(stays(seed=5, lengths=LENGTHS))
    expected = summarise(cut, STAYS)
    torch.testing.assert_close(summarise(whole, STAYS, LENGTHS), expected, equal_nan=True, rtol=0, atol=0)
    wide = {**cut, "values": torch.nn.functional.pad(cut["values"], (0, 0, 0, 9), value=torch.nan)}
    torch.testing.assert_close(summarise(wide, STAYS), expected, equal_nan=True)


def test_images_are_summarised_by_their_pixels():
    inputs = images(5)
    table = summarise(tensors(inputs), IMAGES, torch.full((5,), 6))
    np.testing.assert_array_equal(table, inputs["values"].reshape(5, -1))
    assert len(summary_names(IMAGES)) == 24 and summary_names(IMAGES)[5] == "x1 at 1"


def test_a_table_of_any_size_is_the_same_in_chunks(monkeypatch, tmp_path):
    inputs, lengths = stays(30, seed=6), np.full(30, STEPS)
    whole = summary_table(inputs, lengths, STAYS)
    np.save(tmp_path / "values.npy", inputs["values"])
    monkeypatch.setattr(summaries, "CHUNK", 7)
    mapped = {**inputs, "values": np.load(tmp_path / "values.npy", mmap_mode="r")}
    np.testing.assert_array_equal(summary_table(mapped, lengths, STAYS), whole)
    rows = np.array([29, 3, 3])
    np.testing.assert_array_equal(summary_table(inputs, lengths, STAYS, rows), whole[rows])
