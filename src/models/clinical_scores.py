"""Clinical ratios, changes and severity points of ICU stays, from their summary features.

The points follow the published tables of SOFA (Vincent et al. 1996) and SAPS II (Le Gall et al. 1993), as far as the
parameters of a chart go; vasopressors, chronic disease and the kind of admission are not among them. Other than there,
the worst values are those of the whole series and not of a day, urine counts as two days' output, and the lowest
PaO2/FiO2 is the lowest PaO2 by the highest FiO2, of any hours. What was not observed has no points: it counts as
normal, as in both scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Column = Callable[[str], Tensor]
"""Returns a summary feature (B,) by its name."""

NEEDED = frozenset(
    "BUN Bilirubin Creatinine FiO2 GCS HCO3 HR K Lactate MAP MechVent NIMAP NISysABP Na PaO2 Platelets SysABP Temp "
    "Urine WBC".split()
)
"""Parameters that the features are made of."""
NEEDED_STATICS = frozenset(("Age", "Height", "Weight"))

DAYS = 2
"""Length of a whole chart."""

CHANGED = ("GCS", "BUN", "Creatinine", "Lactate", "HCO3", "Platelets", "WBC", "Na")
"""Parameters whose last value less the first is a feature."""

NAMES = (
    "lowest systolic pressure", "lowest mean pressure", "last systolic pressure", "last mean pressure",
    "average mean pressure", "last shock index", "average shock index", "lowest PaO2/FiO2", "last PaO2/FiO2",
    "average PaO2/FiO2", "urine", "urine per kg", "BUN/creatinine", "body mass index",
    *(f"{name} change" for name in CHANGED), "SOFA points", "SAPS II points",
)  # fmt: skip
"""Names of the columns of clinical_features()."""


def clinical_features(column: Column) -> list[Tensor]:
    """Computes the features called NAMES, each (B,), NaN where a part of one is missing."""
    systolic, mean_pressure = pair(column, "SysABP"), pair(column, "MAP")
    oxygen = {
        "min": column("PaO2 min") / column("FiO2 max"),
        "last": column("PaO2 last") / column("FiO2 last"),
        "mean": column("PaO2 mean") / column("FiO2 mean"),
    }
    lowest = torch.fmin(column("SysABP min"), column("NISysABP min"))
    lowest_mean = torch.fmin(column("MAP min"), column("NIMAP min"))
    urine = column("Urine mean") * column("Urine count")
    weight = column("Weight")
    found = [
        lowest,
        lowest_mean,
        systolic("last"),
        mean_pressure("last"),
        mean_pressure("mean"),
        column("HR last") / systolic("last"),
        column("HR mean") / systolic("mean"),
        *oxygen.values(),
        urine,
        urine / weight,
        column("BUN last") / column("Creatinine last"),
        weight / (column("Height") / 100).square(),
        *(column(f"{name} last") - column(f"{name} first") for name in CHANGED),
        sofa(column, oxygen["min"], lowest_mean, urine / DAYS),
        saps(column, oxygen["min"], lowest, urine / DAYS),
    ]
    return [x.nan_to_num(torch.nan, torch.nan, torch.nan) for x in found]  # a ratio with zero is none


def pair(column: Column, name: str) -> Callable[[str], Tensor]:
    """Returns a function of a statistic: that of the invasive pressure, or of the cuff where there is no other."""

    def of(statistic: str) -> Tensor:
        invasive, cuff = column(f"{name} {statistic}"), column(f"NI{name} {statistic}")
        return torch.where(invasive.isnan(), cuff, invasive)

    return of


def sofa(column: Column, oxygen: Tensor, pressure: Tensor, urine: Tensor) -> Tensor:
    """Points (B,) of organ failure, 0 to 21. `urine` in mL a day. More than 2 points of the lungs need a ventilator."""
    lungs = points(oxygen, (100, 200, 300, 400), (4, 3, 2, 1, 0))
    kidneys = points(column("Creatinine max"), (1.2, 2, 3.5, 5), (0, 1, 2, 3, 4))
    return (
        points(column("Platelets min"), (20, 50, 100, 150), (4, 3, 2, 1, 0))
        + points(column("Bilirubin max"), (1.2, 2, 6, 12), (0, 1, 2, 3, 4))
        + points(column("GCS min"), (6, 10, 13, 15), (4, 3, 2, 1, 0))
        + torch.maximum(kidneys, points(urine, (200, 500), (4, 3, 0)))
        + torch.where(is_ventilated(column), lungs, lungs.clamp_max(2))
        + points(pressure, (70,), (1, 0))
    )


def saps(column: Column, oxygen: Tensor, systolic: Tensor, urine: Tensor) -> Tensor:
    """Points (B,) of SAPS II for age and the worst values. `urine` in mL a day; `systolic` is the lowest pressure."""
    highest = torch.fmax(column("SysABP max"), column("NISysABP max"))
    return (
        points(column("Age"), (40, 60, 70, 75, 80), (0, 7, 12, 15, 16, 18))
        + torch.maximum(points(column("HR min"), (40, 70), (11, 2, 0)), points(column("HR max"), (120, 160), (0, 4, 7)))
        + torch.maximum(points(systolic, (70, 100), (13, 5, 0)), points(highest, (200,), (0, 2)))
        + points(column("Temp max"), (39,), (0, 3))
        + points(oxygen, (100, 200), (11, 9, 6)) * is_ventilated(column)
        + points(urine, (500, 1000), (11, 4, 0))
        + points(column("BUN max"), (28, 84), (0, 6, 10))
        + torch.maximum(points(column("WBC min"), (1,), (12, 0)), points(column("WBC max"), (20,), (0, 3)))
        + torch.maximum(points(column("K min"), (3,), (3, 0)), points(column("K max"), (5,), (0, 3)))
        + torch.maximum(points(column("Na min"), (125,), (5, 0)), points(column("Na max"), (145,), (0, 1)))
        + points(column("HCO3 min"), (15, 20), (6, 3, 0))
        + points(column("Bilirubin max"), (4, 6), (0, 4, 9))
        + points(column("GCS min"), (6, 9, 11, 14), (26, 13, 7, 5, 0))
    )


def is_ventilated(column: Column) -> Tensor:
    """Marks the stays (B,) that were on a ventilator at any time: bool."""
    return column("MechVent max") > 0


def points(x: Tensor, edges: Sequence[float], table: Sequence[float]) -> Tensor:
    """Looks up the points of x (B,): table[i] from edges[i - 1] up to below edges[i]; 0 where x is NaN."""
    place = torch.bucketize(x.contiguous(), torch.tensor(edges, dtype=x.dtype, device=x.device), right=True)
    return torch.tensor(table, dtype=x.dtype, device=x.device)[place].masked_fill(x.isnan(), 0)
