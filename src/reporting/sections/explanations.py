"""What ./run.sh explain found of the best run: the words that carry each label, the hardest reports, typical ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from src.core import storage
from src.reporting.html_page import Heat, Section, Table, Text, Token
from src.reporting.sections import Findings

PHRASE = 3
"""Tokens of the phrases that are told of beside single words."""
WORDS, PHRASES = 6, 3
"""That are shown of each label."""
LEGEND = (
    "Tokens that speak for the label are blue (+), those against it orange (-), by integrated gradients; what is "
    "probably noise is underlined (?)."
)


def section(findings: Findings) -> Section:
    found = Section("Explanations")
    best = findings.best
    path = findings.dataset.output.explained(best.name) if best is not None else None
    if path is None or not path.exists():
        return found
    told = storage.read_json(path)
    if told["run"] != best.score["fingerprint"]:
        found.parts.append(Text(f"{best.name} was made anew since it was explained: ./run.sh explain does it again."))
        return found
    found.parts.append(
        Text(
            f"What {best.name} goes by: what each token adds to the logit of a label, on reports that it has not "
            "learned from. A figure behind a word is the mean of what it adds where it stands."
        )
    )
    rows = [
        [label, f"{one['reports']}", _grams(one["words"][:WORDS]), _grams(one["phrases"][:PHRASES])]
        for label, one in told["labels"].items()
    ]
    caption = "Words and phrases that carry each label"
    found.parts.append(Table(["label", "reports", "words", "phrases"], rows, caption))
    found.parts.append(Text(LEGEND))
    for one in told["reports"]:
        truth = "is there" if one["there"] else "is not there"
        title = f"{one['kind']}: report {one['report']}: {one['label']} {truth}, probability {one['probability']:.3f}"
        found.parts.append(heat(title, one["tokens"], np.array(one["contributions"]), np.array(one["noise"])))
    return found


def heat(title: str, words: Sequence[int], contributions: np.ndarray, noise: np.ndarray) -> Heat:
    """A report's tokens by what they add to a logit, the strongest in full colour."""
    most = max(float(np.abs(contributions).max(initial=0)), 1e-9)
    return Heat(
        title,
        [
            Token(str(word), float(value) / most, bool(hit), f"{value:+.2f}{', probably noise' if hit else ''}")
            for word, value, hit in zip(words, contributions, noise, strict=True)
        ],
    )


def _grams(found: list[Any]) -> str:
    return ", ".join(f"{' '.join(map(str, gram))} ({value:+.1f})" for gram, value, _ in found)
