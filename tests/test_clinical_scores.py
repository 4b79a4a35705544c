"""Clinical scores follow the published tables; a missing part of a ratio makes no number up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from src.data.grid import KINDS, PARAMETERS, STATICS
from src.data.inputs import InputShape
from src.models.clinical_scores import NAMES, points
from src.models.summaries import summarise, summary_names

SHAPE = InputShape("series", steps=48, parameters=PARAMETERS, kinds=KINDS, statics=STATICS)


def scores_of(observed: dict[str, list[float]], **statics: float) -> dict[str, float]:
    """Scores of one stay with these values in its first hours."""
    values = np.full((1, 48, len(PARAMETERS)), np.nan, np.float32)
    for name, series in observed.items():
        values[0, : len(series), PARAMETERS.index(name)] = series
    given = np.array([[[statics.get(name, np.nan) for name in STATICS]]], np.float32)
    table = summarise({"values": torch.from_numpy(values), "statics": torch.from_numpy(given)}, SHAPE)
    names = summary_names(SHAPE)
    assert table.shape == (1, len(names)) and tuple(names[-len(NAMES) :]) == NAMES
    return dict(zip(names, table[0].tolist(), strict=True))


def test_points_change_at_the_edges_of_the_table():
    found = points(torch.tensor([1.1, 1.2, 11.9, 12.0, torch.nan]), (1.2, 2, 6, 12), (0, 1, 2, 3, 4))
    assert found.tolist() == [0, 1, 3, 4, 0]


def test_a_stay_without_observations_has_no_points_and_no_ratios():
    found = scores_of({})
    assert (found["SOFA points"], found["SAPS II points"]) == (0, 0)
    assert all(np.isnan(found[name]) for name in NAMES if not name.endswith("points"))


def test_points_of_a_grave_stay():
    grave = scores_of(
        {
            "Platelets": [90, 40], "Bilirubin": [1.0, 7.0], "GCS": [15, 5], "Creatinine": [1.0, 4.0], "PaO2": [80],
            "FiO2": [1.0], "MAP": [75, 60], "HR": [130], "SysABP": [65], "Temp": [39.5], "MechVent": [1, 1],
            "Urine": [300, 300], "BUN": [90], "WBC": [25], "K": [5.5], "Na": [120], "HCO3": [14],
        },
        Age=82.0,
    )  # fmt: skip
    assert grave["SOFA points"] == 3 + 3 + 4 + 3 + 4 + 1
    assert grave["SAPS II points"] == 18 + 4 + 13 + 3 + 11 + 11 + 10 + 3 + 3 + 5 + 6 + 9 + 26


@pytest.mark.parametrize(
    "observed, sofa, saps",
    [
        ({"HR": [39, 90]}, 0, 11),
        ({"HR": [69, 130]}, 0, 4),
        ({"HR": [69, 119]}, 0, 2),
        ({"NISysABP": [120, 200]}, 0, 2),
        ({"NISysABP": [99, 200]}, 0, 5),
        ({"WBC": [0.9, 25]}, 0, 12),
        ({"K": [2.9]}, 0, 3),
        ({"Na": [145]}, 0, 1),
        ({"Na": [120, 150]}, 0, 5),
        ({"Urine": [390]}, 4, 11),
        ({"Urine": [500, 490]}, 3, 11),
        ({"Urine": [390], "Creatinine": [2.5]}, 4, 11),
        ({"Urine": [1000, 900]}, 0, 4),
        ({"PaO2": [45], "FiO2": [0.5]}, 2, 0),
        ({"PaO2": [45], "FiO2": [0.5], "MechVent": [1]}, 4, 11),
        ({"PaO2": [130], "FiO2": [0.3], "MechVent": [1]}, 0, 6),
    ],
)
def test_points_of_low_and_high_values(observed, sofa, saps):
    found = scores_of(observed)
    assert (found["SOFA points"], found["SAPS II points"]) == (sofa, saps)


def test_ratios_and_changes():
    found = scores_of(
        {
            "HR": [100, 80], "NISysABP": [120, 100], "PaO2": [90, 60], "FiO2": [0.5, 0.4], "Urine": [100, 300],
            "BUN": [20, 30], "Creatinine": [1, 2], "MechVent": [1, 1, 1],
        },
        Weight=80.0, Height=200.0,
    )  # fmt: skip
    expected = {
        "lowest systolic pressure": 100, "last systolic pressure": 100, "last shock index": 0.8,
        "average shock index": 90 / 110, "lowest PaO2/FiO2": 120, "last PaO2/FiO2": 150, "urine": 400,
        "urine per kg": 5, "BUN/creatinine": 15, "body mass index": 20, "BUN change": 10, "Creatinine change": 1,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    both = scores_of({"SysABP": [90], "NISysABP": [120]})
    assert both["last systolic pressure"] == both["lowest systolic pressure"] == 90
    assert np.isnan(scores_of({"BUN": [10], "Creatinine": [0]})["BUN/creatinine"]), "a ratio with zero is none"


def test_other_charts_have_no_scores():
    without = replace(SHAPE, parameters=PARAMETERS[1:-1], kinds=KINDS[1:-1], statics=("Age",))
    assert not set(NAMES) & set(summary_names(without))
