"""Sentences that files of the output folder hold in English, read back as messages: how a score came about, what is
wrong with a run, and what a stage says it made.

The files stay the same in every language. tests/test_language.py checks that what a pipeline stores is known here.
"""

from __future__ import annotations

from src.core.language import _, read_back

SENTENCES = (
    # How a score came about: runs, blends, baselines, imported predictions.
    _("{how}; each fold's student was taught by that fold's models of {teacher}"),
    _("{how}; of {members} alone, without {unscored}, which has no out-of-fold predictions"),
    _("{how}; {stacked} stacked on it, cross-fitted on {rows}"),
    _("{how}; {stacked} stacked on it, decided on {rows}"),
    _("test part of the holdout, on which no choice was made"),
    _("out of fold, but each fold stopped at its own best epoch: optimistic"),
    _("out of fold, but a teacher stopped at its best epoch of each fold: optimistic"),
    _("out of fold, epochs fixed beforehand"),
    _("fixed weights, nothing fitted"),
    _("mean of the members' logits, nothing fitted"),
    _("mean of the members' probabilities, nothing fitted"),
    _("{method}, decided on {rows}, scored on the test part"),
    _("{method} fitted on {rows}; score cross-fitted over folds, the choice of method included"),
    _("{method} fitted on {rows}; score cross-fitted over folds"),
    _("cross-fitted on the same folds as the models"),
    _("nothing is fitted"),
    _("imported; out of fold as whoever made it says"),
    # Rows that a blend is fitted on.
    _("train rows as they are"),
    _("train rows as noisy as and weighted like {test}"),
    _("train rows as noisy as {test}"),
    _("train rows weighted like {test}"),
    # What is wrong with a run.
    _("is constant: out of fold, each of its models predicts the same for all rows"),
    _("has diverged: {where} its loss is {loss}, and a model that has learned nothing has {nothing}"),
    _("in fold {fold}"),
    _("on the rows that are scored"),
    # What prepare and shift made.
    _("{title}; {train} train {noun}, no test {noun}, {size}"),
    _("{title}; {train} train {noun}, {test} test {noun}, {size}"),
    _("{extra} extra reports, {words} words"),
    _("{words} words"),
    _("{parameters} parameters x {steps} steps"),
    _("{rows} rows x {columns} columns"),
    _("tokens with noise: {files}"),
    _("train against {parts}"),
    _("out of fold; trained on whole stays, which are read as they were after some hours"),
)


def message_of(text: str) -> str:
    """Returns the message of a stored sentence; another text as it is."""
    return read_back(text, SENTENCES, ("title", "noun"))
