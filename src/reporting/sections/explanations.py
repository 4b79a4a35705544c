"""Report section on explanations of the best run: important words or parameters of each label, hardest and typical
reports or series."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from src.core.language import _
from src.reporting.html_page import Heat, Section, Table, Text, Token
from src.reporting.sections import Findings, series_explanations

PHRASE = 3
"""Length of phrases in tokens."""
KINDS = {"hardest": _("hardest"), "typical": _("typical"), "usual": _("usual")}
"""Reasons why a row is shown."""
WORDS, PHRASES = 6, 3
"""Numbers of words and of phrases shown for each label."""
LEGEND = _(
    "Tokens with a positive contribution to the label (integrated gradients) are blue (+), with a negative one orange "
    "(-); probable noise is underlined (?)."
)


def section(findings: Findings) -> Section:
    result = Section(_("Explanations"))
    result.gist = _("what carries each label, and examples")
    best = findings.best
    record = findings.workspace.findings(best, "explained.json", "explain") if best is not None else {}
    if not record:
        return result
    if "parameters" in record:
        result.parts += series_explanations.parts(record, findings.dataset.task, findings.dataset.shape, best.name)
        return result
    result.parts.append(
        Text(
            _(
                "Contributions of tokens to the logits of {run}, out of fold. The number after a word is the mean "
                "contribution of its occurrences."
            ).format(run=best.name)
        )
    )
    rows = [
        [label, f"{grams['reports']}", _grams(grams["words"][:WORDS]), _grams(grams["phrases"][:PHRASES])]
        for label, grams in record["labels"].items()
    ]
    columns = [_("label"), _("reports"), _("words"), _("phrases")]
    result.parts.append(Table(columns, rows, _("Most important words and phrases")))
    result.parts.append(Text(LEGEND))
    anchored: set[str] = set()  # a report may be explained for two labels
    for report in record["reports"]:
        told = (
            _("{kind} report {id}: {label} positive, probability {probability:.3f}")
            if report["there"]
            else _("{kind} report {id}: {label} negative, probability {probability:.3f}")
        )
        values = {"id": report["report"], "label": report["label"], "probability": report["probability"]}
        title = told.format(kind=KINDS[report["kind"]], **values)
        anchor = "" if report["report"] in anchored else anchor_of(report["report"])
        anchored.add(report["report"])
        values, noise = np.array(report["contributions"]), np.array(report["noise"])
        result.parts.append(heat(title, report["tokens"], values, noise, anchor))
    return result


def anchor_of(row: str) -> str:
    """Returns the name that links to the explanation of a row lead to."""
    return f"explained-{row}"


def heat(title: str, words: Sequence[int], contributions: np.ndarray, noise: np.ndarray, anchor: str = "") -> Heat:
    """Returns a report's tokens coloured by their contribution to a logit, the largest in full colour."""
    most = max(float(np.abs(contributions).max(initial=0)), 1e-9)
    return Heat(
        title,
        [
            Token(str(word), float(value) / most, bool(hit), _tooltip(float(value), bool(hit)))
            for word, value, hit in zip(words, contributions, noise, strict=True)
        ],
        anchor,
    )


def _tooltip(contribution: float, is_noise: bool) -> str:
    return _("{value:+.2f}, probably noise").format(value=contribution) if is_noise else f"{contribution:+.2f}"


def _grams(grams: list[Any]) -> str:
    return ", ".join(f"{' '.join(map(str, gram))} ({value:+.1f})" for gram, value, _ in grams)
