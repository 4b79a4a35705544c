"""Figures are worded, whether their standard errors are defined or not."""

from __future__ import annotations

import math

import pytest

from src.evaluation.figures import Estimate, estimate_text, number_text, short_text

ESTIMATE, ALONE = Estimate(0.68561, 0.0107), Estimate(-0.5, math.nan)


@pytest.mark.parametrize("of", [lambda one: one, Estimate.to_json], ids=["estimate", "json"])
def test_a_standard_error_that_is_not_defined_is_a_dash(of):
    assert estimate_text(of(ESTIMATE)) == "0.6856 ± 0.0107"
    assert estimate_text(of(ALONE)) == "-0.5000 ± –"
    assert short_text(of(ESTIMATE)) == "0.6856±107"
    assert short_text(of(ALONE)) == "-0.5000±–"
    assert short_text(of(ESTIMATE), has_classes=False, sign="+") == "+0.686±0.011"
    assert short_text(of(Estimate(math.nan, math.nan))) == "–"


@pytest.mark.parametrize("undefined", [None, math.nan])
def test_an_undefined_number_is_a_dash(undefined):
    assert number_text(undefined) == "–" and number_text(0.25, ".1f") == "0.2"
