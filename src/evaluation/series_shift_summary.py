"""Words, tables and figure on the differences between files of series: stays or images."""

from __future__ import annotations

from typing import Any

from src.core.language import _, joined, word
from src.evaluation.series_shift import significance
from src.evaluation.shift_words import APART, auc_with_error, short_names, two_digits

CERTAIN = 4.0
"""z from which a difference of one of many parameters is told."""
NOTICEABLE = 0.02
"""Smallest difference of missingness, as a share of time steps, that is told."""
TOLD = 3
"""Number of features, and of parameters, that the paragraph names."""
LISTED = 12
"""Number of parameters in a table or a picture, the most different first."""
FIGURE = "missing values and similarity"
"""Description of the figure."""
NOTE = (
    "AUC train against test: boosted trees on summary features, five-fold cross-validated; 0.5 where the files do not "
    "differ. "
    "The AUC of a feature is the share of pairs of rows in which the test row has more of it; z is the distance of "
    "this AUC from 0.5 in standard errors. "
    "Values alone: means and statics without how often they were observed; similarity and weights are made of them. "
    "Similarity: out-of-fold probability of being a train row, as if both files had one size. "
    "Effective size: number of rows that unweighted would give as exact a score as the weighted train rows (Kish). "
    "Differences are test minus train, ± one standard error."
)
"""Terms of the tables."""


def headline(facts: dict[str, Any]) -> str:
    """Returns a line with the AUC of every file."""
    names = short_names(facts["tests"])
    parts = [
        _("{file} AUC {auc}").format(file=names[name], auc=two_digits(test["adversarial"]["auc"]))
        for name, test in facts["tests"].items()
    ]
    return _("train against {parts}").format(parts=joined("; ", parts)) if parts else _("no test file")


def findings(facts: dict[str, Any]) -> tuple[list[str], str]:
    """Returns sentences on the differences between train and the test files, and advice."""
    noun, sentences = facts["noun"], []
    advice = _("nothing; random cross-validation predicts the scores of these files well")
    if any(test["adversarial"]["auc"] is None for test in facts["tests"].values()):
        advice = _("too little is known of a file of so few rows to say")
    for name, test in zip(short_names(facts["tests"]).values(), facts["tests"].values(), strict=True):
        found, size = test["adversarial"], test["effective_size"]["weighted"]
        if found["auc"] is None:
            clauses = [_("has too few {noun} for adversarial validation").format(noun=word(noun))]
        elif found["auc"] < APART:
            clauses = [_("does not differ from train (AUC {auc:.2f})").format(auc=found["auc"])]
        else:
            most = joined(", ", [_means(one["feature"], one) for one in found["telling"][:TOLD]])
            alone = _("; {auc:.2f} by values alone").format(auc=found["auc_values"]) if test["missingness"] else ""
            clauses = [
                _("differs from train (AUC {auc:.2f}{alone}), most by the means of {most}").format(
                    auc=found["auc"], alone=alone, most=most
                )
            ]
            advice = _(
                "trust high out-of-fold scores less, and compare runs by the expected leaderboard; "
                "weights correct for other values of the same meaning, not for other habits of "
                "measuring or other outcomes"
            )
        lacking = sorted(filter(_is_told, test["missingness"]), key=lambda one: -abs(significance(one["steps"])))
        if lacking:
            most = joined(", ", [_means(one["parameter"], one["steps"], ".0%") for one in lacking[:TOLD]])
            clauses.append(_("has other shares of time steps with a value of {most}").format(most=most))
        elif test["missingness"]:
            clauses.append(_("has the same parameters observed as often as train has"))
        if found["auc"] is not None:
            clauses.append(
                _("makes {train:,} train {noun} count as {size:,.0f} when weighted like it").format(
                    train=facts["sampled"]["train"], noun=word(noun), size=size
                )
            )
        sentences.append(_("{file} {differences}.").format(file=name, differences=joined(_("; it "), clauses)))
    meaning = _("There is no token noise in {noun}, so the validation noised is clean and shifted is weighted.").format(
        noun=word(noun)
    )
    return [*sentences, meaning], _("What to do: {advice}.").format(advice=advice)


def tables(facts: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Returns title, columns and rows of each table."""
    short, noun, tests = short_names(facts["tests"]), facts["noun"], list(facts["tests"].values())
    names = list(short.values())
    counts = [
        [_("{noun} compared").format(noun=word(noun)), *(f"{count:,}" for count in facts["sampled"].values())],
        [_("{noun} in the file").format(noun=word(noun)), *(f"{count:,}" for count in facts["rows"].values())],
    ]
    result = [(_("Number of {noun}").format(noun=word(noun)), ["", _("train"), *names], counts)]
    if not tests:
        return result
    apart = [
        [_("AUC train against test"), *map(auc_with_error, tests)],
        [_("by values alone"), *(two_digits(test["adversarial"]["auc_values"]) for test in tests)],
        [_("similarity to train: test"), *(f"{test['similarity']['test']['median']:.2f}" for test in tests)],
        [_("train, out of fold"), *(f"{test['similarity']['train']['median']:.2f}" for test in tests)],
        [_("effective size, weighted"), *(f"{test['effective_size']['weighted']:,.0f}" for test in tests)],
    ]
    telling = [
        [
            f"{short[name]}: {one['feature']}",
            f"{one['train']:.4g}",
            f"{one['test']:.4g}",
            f"{one['auc']:.3f}",
            f"{one['z']:+.1f}",
        ]
        for name, test in facts["tests"].items()
        for one in test["adversarial"]["telling"]
    ]
    result += [
        (_("Difference from train"), ["", *names], apart),
        (_("Features that tell the files apart"), [_("mean of"), _("train"), _("test"), "AUC", "z"], telling),
    ]
    for what, title in (
        ("steps", _("Time steps with a value, in %")),
        ("rows", _("Share of {noun} with any value, in %").format(noun=word(noun))),
    ):
        found = [{one["parameter"]: one[what] for one in test["missingness"]} for test in tests]
        rows = [_shares(name, [test[name] for test in found]) for name in most_different(tests, what)[:LISTED]]
        if rows:
            result.append((title, ["", _("train"), *names], rows))
    if tests[0]["statics"]:
        rows = []
        for i, one in enumerate(tests[0]["statics"]):
            rows.append(_values(one["name"], [test["statics"][i]["value"] for test in tests]))
            rows.append(_shares(_("  known, in %"), [test["statics"][i]["known"] for test in tests]))
        result.append((_("Statics of the {noun}").format(noun=word(noun)), [_("mean of"), _("train"), *names], rows))
    return result


def most_different(tests: list[dict[str, Any]], what: str = "steps") -> list[str]:
    """Returns the parameters, the one with the most significant difference of missingness in any test file first.

    `what` is compared: steps (share of time steps with a value) or rows (share of rows with any value).
    """
    largest: dict[str, float] = {}
    for test in tests:
        for one in test["missingness"]:
            size = abs(significance(one[what]))
            largest[one["parameter"]] = max(largest.get(one["parameter"], 0.0), size)
    return sorted(largest, key=lambda name: -largest[name])


def _is_told(one: dict[str, Any]) -> bool:
    return abs(significance(one["steps"])) >= CERTAIN and abs(one["steps"]["difference"]) >= NOTICEABLE


def _means(name: str, one: dict[str, float], form: str = ".3g") -> str:
    told = _("{name} ({test}; train {train})")
    test, train = (format(one[key], ",.0f" if abs(one[key]) >= 1000 else form) for key in ("test", "train"))
    return told.format(name=name, test=test, train=train)


def _shares(name: str, found: list[dict[str, float]]) -> list[str]:
    """Makes a line of percentages: train, and each test with its difference."""
    cells = [
        f"{100 * one['test']:.1f} ({100 * one['difference']:+.1f} ± {100 * one['standard_error']:.1f})" for one in found
    ]
    return [name, f"{100 * found[0]['train']:.1f}", *cells]


def _values(name: str, found: list[dict[str, float] | None]) -> list[str]:
    """Makes a line of means: train, and each test with its difference."""
    cells = [
        "–" if one is None else f"{one['test']:.4g} ({one['difference']:+.2g} ± {one['standard_error']:.2g})"
        for one in found
    ]
    train = next((f"{one['train']:.4g}" for one in found if one is not None), "–")
    return [name, train, *cells]
