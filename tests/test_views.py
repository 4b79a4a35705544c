"""Mean of the views of a report, and the doubt where they differ."""

from __future__ import annotations

import numpy as np

from src.core.settings import Denoise
from src.training.views import mean_of_views

VIEWS = [np.array([[1.0, -3.0], [2.0, -2.0]], np.float32), np.array([[1.0, -3.0], [-1.0, -5.0]], np.float32)]


def test_views_are_averaged():
    for doubt in (0.0, 0.5):
        np.testing.assert_array_equal(mean_of_views(VIEWS[:1], doubt), VIEWS[0])
    np.testing.assert_array_equal(mean_of_views(VIEWS), np.mean(VIEWS, axis=0, dtype=np.float32))


def test_doubt_sharpens_where_views_agree_and_softens_where_they_do_not():
    found = mean_of_views(VIEWS, 0.5)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], np.array([1.0, -3.0]) / 0.1**0.5, rtol=1e-6)
    np.testing.assert_allclose(found[1], np.array([0.5, -3.5]) / 3.1**0.5, rtol=1e-6)
    np.testing.assert_array_equal(found, mean_of_views(VIEWS[::-1], 0.5))
    alone = np.concatenate([mean_of_views([view[i : i + 1] for view in VIEWS], 0.5) for i in range(2)])
    np.testing.assert_array_equal(found, alone)


def test_settings_without_doubt_are_as_they_were():
    assert "doubt" not in Denoise().model_dump()
    assert Denoise(doubt=0.25).model_dump()["doubt"] == 0.25
