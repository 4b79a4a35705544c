"""Parameters of the PhysioNet/Computing in Cardiology Challenge 2012: kind, unit and plausible range of each.

A value outside the closed range of its parameter becomes missing and is counted. The ranges are facts from public
sources, named in each row:

- V: valid bounds, and O: outlier bounds of `resources/variable_ranges.csv` in YerevaNN/mimic3-benchmarks (Harutyunyan
  et al. 2019, Scientific Data 6:96), which MIMIC-Extract (Wang et al. 2020) uses too.
- M: bounds in MIT-LCP/mimic-code, mimic-iv/concepts/measurement: vitalsign.sql, chemistry.sql, bg.sql, height.sql.
  There a vital sign or laboratory value of 0 is no measurement, so the low bound here is the smallest step above 0.
- W: 30 to 300 kg in alistairewj/mechanical-power, eicu/weight.sql.
- A: measuring range of the assay (Roche's fourth generation of troponin T, 0.01 to 25 µg/L).
- D: definition of the parameter by the challenge, physionet.org/content/challenge-2012.
- L: the longest documented human life, 122 years.

A low bound of 1 where others have ten times that (HR, pressures) keeps the lowest values of a dying patient. Narrower
ranges of our own choice would make 204 more of set-a's 1.76 million values missing, most of them mean pressures.
"""

from __future__ import annotations

from typing import NamedTuple


class Parameter(NamedTuple):
    """Parameter of a stay."""

    name: str
    kind: str
    """vital: read often at the bedside; examination: taken from time to time; drug: amounts, which add up (urine is
    the only such amount of the challenge); device: what a machine is set to; static: known at 00:00."""
    unit: str
    low: float
    """Smallest plausible value."""
    high: float
    """Largest plausible value."""
    source: str
    """Letters of the sources of the two bounds."""


SERIES = (
    Parameter("Albumin", "examination", "g/dL", 0.1, 10, "M"),
    Parameter("ALP", "examination", "IU/L", 1, 4000, "M O"),
    Parameter("ALT", "examination", "IU/L", 1, 11000, "M O"),
    Parameter("AST", "examination", "IU/L", 1, 22000, "M O"),
    Parameter("Bilirubin", "examination", "mg/dL", 0.1, 66, "M O"),
    Parameter("BUN", "examination", "mg/dL", 1, 275, "M O"),
    Parameter("Cholesterol", "examination", "mg/dL", 1, 660, "M O"),
    Parameter("Creatinine", "examination", "mg/dL", 0.1, 66, "M O"),
    Parameter("DiasABP", "vital", "mmHg", 1, 299, "M"),
    Parameter("FiO2", "device", "fraction", 0.2, 1, "M"),
    Parameter("GCS", "vital", "points", 3, 15, "D V"),
    Parameter("Glucose", "examination", "mg/dL", 1, 2200, "M O"),
    Parameter("HCO3", "examination", "mmol/L", 1, 66, "M O"),
    Parameter("HCT", "examination", "%", 1, 100, "M"),
    Parameter("HR", "vital", "1/min", 1, 299, "M"),
    Parameter("K", "examination", "mEq/L", 0.1, 15, "M O"),
    Parameter("Lactate", "examination", "mmol/L", 0.1, 33, "M O"),
    Parameter("Mg", "examination", "mmol/L", 0.1, 22, "M O"),
    Parameter("MAP", "vital", "mmHg", 1, 299, "M"),
    Parameter("MechVent", "device", "0 or 1", 0, 1, "D"),
    Parameter("Na", "examination", "mEq/L", 50, 200, "V M"),
    Parameter("NIDiasABP", "vital", "mmHg", 1, 299, "M"),
    Parameter("NIMAP", "vital", "mmHg", 1, 299, "M"),
    Parameter("NISysABP", "vital", "mmHg", 1, 375, "M O"),
    Parameter("PaCO2", "examination", "mmHg", 1, 220, "M O"),
    Parameter("PaO2", "examination", "mmHg", 1, 770, "M O"),
    Parameter("pH", "examination", "pH", 6.3, 8.4, "V"),
    Parameter("Platelets", "examination", "1000/µL", 1, 2200, "M O"),
    Parameter("RespRate", "vital", "1/min", 1, 69, "M"),
    Parameter("SaO2", "examination", "%", 1, 100, "M"),
    Parameter("SysABP", "vital", "mmHg", 1, 375, "M O"),
    Parameter("Temp", "vital", "°C", 26, 45, "V"),
    Parameter("TroponinI", "examination", "µg/L", 0.01, 575, "V O"),
    Parameter("TroponinT", "examination", "µg/L", 0.01, 25, "A"),
    Parameter("Urine", "drug", "mL", 0, 2445, "O"),
    Parameter("WBC", "examination", "1000/µL", 0.1, 1100, "M O"),
    Parameter("Weight", "vital", "kg", 30, 300, "W"),
)
"""Time series, in the order in which the challenge lists them. It is the order of the columns of a grid."""

DESCRIPTORS = (
    Parameter("Age", "static", "years", 0, 122, "L"),
    Parameter("Gender", "static", "0 female, 1 male", 0, 1, "D"),
    Parameter("Height", "static", "cm", 120, 230, "M"),
    Parameter("ICUType", "static", "1 coronary, 2 cardiac surgery, 3 medical, 4 surgical", 1, 4, "D"),
    Parameter("Weight", "static", "kg", 30, 300, "W"),
)
"""Descriptors at 00:00 beside the RecordID. Later values of Weight are a time series."""

LOST_POINT = {"pH": (10.0, 100.0)}
"""Parameters that are also written without their decimal point (735 for 7.35): a value outside the plausible range is
repaired if one of these divisors brings it inside. Own choice: nothing else lies where such values do."""

RECORD_ID = "RecordID"
CATEGORIES = ("Gender", "ICUType", "MechVent")
"""Parameters whose values are whole numbers, each for a category; a fraction is no plausible value."""
