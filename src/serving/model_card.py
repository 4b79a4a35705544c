"""Model card: what a bundle predicts, what it was trained on, what its scores are worth and where its limits are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from src.evaluation.figures import number_text

LIMITS = {
    "reports": (
        "Tokens are anonymous ids of one hospital's vocabulary: reports of another source, or numbered in another way, "
        "get numbers that mean nothing. Files that hold more noise than training did, or other words, lower the score; "
        "the expected scores above say by how much for the test files."
    ),
    "stays": (
        "Trained on adult stays of at least 48 hours in four kinds of intensive care units of one hospital, before "
        "2010. Other hospitals, years or lengths of stay may lower the score."
    ),
    "images": "Trained on images of one size and source; others get numbers that mean nothing.",
}


def model_card(record: Mapping[str, Any]) -> str:
    """Text of MODEL_CARD.md from the fields of bundle.json."""
    parts = [
        f"# {record['name']}: {record['title']}",
        f"Predicts {record['predicted']} for each of the {record['noun']} it is given: {_listed(record['labels'])}."
        + (f" The unit is {record['unit']}." if record["unit"] else ""),
        f"## Input\n\n{record['expects']}",
        f"## Models\n\n{_models(record)}",
        f"## Training data\n\n{_training(record.get('made_from', {}))}",
        f"## Scores\n\n{_scores(record)}",
        f"## Limits\n\n{LIMITS[record['noun']]} A prediction is not a diagnosis: nobody has tested these models on the "
        "treatment of patients, and they are not a medical device.",
        "## Licence\n\nThe code is under the licence of the project. The weights were fitted to data that has terms of "
        "its own: who passes the weights on must keep to the terms of those who gave the data.",
    ]
    return "\n\n".join(parts) + "\n"


def _listed(labels: list[str]) -> str:
    return ", ".join(labels) if len(labels) < 4 else f"{labels[0]} to {labels[-1]}"


def _models(record: Mapping[str, Any]) -> str:
    lines = [f"- {name}: {count} trained fold{'s' * (count > 1)}" for name, count in record["models"].items()]
    for name in record.get("remembering", ()):
        lines.append(
            f"- {name} holds a vector and the labels of every training report, not its words. Who may not see the "
            "training labels must not get this bundle"
        )
    for name, weights in record["blend"].items():
        if stack := weights.get("stack"):
            lines.append(
                f"- {name} stacks its last members ({len(stack[0]['slopes']) - 1}) on the others' blend, by a logistic "
                "regression of each label"
            )
        for group in weights["groups"]:
            shares = ", ".join(f"{weight:.3f}" for weight in group["weights"])
            temperature = f" at temperature {group['temperature']:.3f}"
            lines.append(f"- {name} blends its members ({weights['method']}): {shares}{temperature}")
    return "\n".join(lines)


def _training(made_from: Mapping[str, Any]) -> str:
    lines = [
        f"- {file['role']} file of {file['rows']:,} rows, sha256 `{file['sha256'][:16]}…`"
        for file in made_from.get("files", ())
        if file["role"] != "test"
    ]
    tests = [file for file in made_from.get("files", ()) if file["role"] == "test"]
    if tests:
        lines.append(f"- {len(tests)} test files of {sum(file['rows'] for file in tests):,} rows, without labels")
    return "\n".join(lines) or "Not noted."


def _scores(record: Mapping[str, Any]) -> str:
    scores = record.get("scores")
    if not scores:
        return "Not noted."
    found = scores["out_of_fold"]
    error = "" if found["standard_error"] is None else f" ± {found['standard_error']:.4f}"
    lines = [f"- {scores['figure']} {found['value']:.4f}{error} on {found['rows']:,} training rows: {found['how']}"]
    if found["optimistic"]:
        lines.append("- optimistic: its epochs were chosen on the rows that are scored")
    for name, expected in scores["expected"].items():
        if expected and expected.get("value") is not None:
            between = " to ".join(number_text(expected[end]) for end in ("low", "high"))
            lines.append(f"- expected on {name}: {expected['value']:.4f} (95% interval {between})")
    return "\n".join(lines)
