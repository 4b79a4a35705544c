"""Terms that the page defines where they first stand."""

from __future__ import annotations

from src.core.language import _, word
from src.data.tasks import Task
from src.reporting.html_page import Term


def terms(task: Task) -> list[Term]:
    """Returns the terms of a page on the task."""
    given = {"noun": word(task.noun), "one": word(task.one)}
    found = {
        _("expected"): _(
            "The score that the leaderboard will probably show, estimated without the labels of the test file: from "
            "out-of-fold predictions on train {noun} that are as unlike the others, and as noisy, as those of the test "
            "file. The interval holds the true score in 95 of 100 cases."
        ),
        _("out of fold"): _(
            "Each train {one} is predicted by models that were not trained on it: the train {noun} are divided into "
            "folds, and each fold is predicted by the models of the others. A score of such predictions is fair to new "
            "{noun} of the same source, and too good for {noun} of another."
        ),
        _("clean"): _("Validation on the train {noun} as they are, each counted once."),
        _("noised"): _(
            "Validation on train {noun} with noise added until they are as noisy as the test file; where {noun} have "
            "no noise, the same as clean."
        ),
        _("weighted"): _(
            "Validation on the train {noun} as they are, where those that resemble the test file count more."
        ),
        _("shifted"): _(
            "Validation with both: noise added as in noised, and {noun} counted as in weighted. It resembles the test "
            "file most."
        ),
        _("standard error"): _(
            "Typical distance of a figure from the one that endlessly many {noun} would give. A difference of less "
            "than two standard errors may be chance."
        ),
        _("95% interval"): _(
            "Range from about two standard errors below a figure to two above it; in 95 of 100 cases it holds the true "
            "figure."
        ),
        _("effective size"): _(
            "Number of {noun} that would give as exact a score if all counted the same, as the weighted {noun} do."
        ),
        _("temperature"): _(
            "Number that logits are divided by: above 1 it makes predictions less sure, below 1 surer."
        ),
    }
    return [Term(name, text.format(**given)) for name, text in found.items()]
