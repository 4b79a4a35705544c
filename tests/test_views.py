"""Mean of the views of a report, and the doubt where they differ."""

from __future__ import annotations

import numpy as np
import pytest

from src.core.run_settings import Denoise, Run
from src.core.settings_loader import load_config
from src.serving import distillation
from src.training.views import mean_of_views
from tests.conftest import error_of

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
    assert Denoise(by="lstm", views=["raw", "soft"], doubt=0.25).model_dump()["doubt"] == 0.25


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            ["denoise.by=null"],
            "doubt=0.25 is about the distance of views, and there is no denoise.by: set denoise.doubt=0",
        ),
        (["denoise.views=[soft]"], "there is one, soft: set denoise.doubt=0"),
        (["denoise.views=[raw]"], "views=[raw] reads nothing that is denoised: set denoise.by=null denoise.doubt=0"),
        (["denoise.views=[raw]", "denoise.doubt=0"], "set denoise.by=null, or add hard or soft"),
    ],
)
def test_views_that_have_no_distance_are_refused(given, told):
    assert told in error_of(load_config, "quick", given)


def test_a_student_that_reads_reports_as_they_are_has_no_doubt():
    config = load_config("quick")
    base = config.runs["lstm"]
    student = distillation.student_settings(config, base, base.model, 1)
    assert base.denoise.doubt and not student.denoise.doubt
    assert Run.model_validate(student.model_dump(mode="json")) == student, "a worker reads the settings anew"
