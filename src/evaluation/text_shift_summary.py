"""Words, tables and figure on the differences between files of token reports."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from src.core.language import _, joined
from src.evaluation.shift_words import APART, auc_with_error, short_names, two_digits

NOTICEABLE = 0.01
"""Smallest difference of noise, as a share of tokens, that is reported."""
RATES = ("replacement", "insertion", "deletion", "dispersion")
RATE_NAMES = {
    "replacement": _("replacement"),
    "insertion": _("insertion"),
    "deletion": _("deletion"),
    "dispersion": _("dispersion"),
}
FIGURE = "noise and similarity"
"""Description of the figure."""
NOTE = _(
    "A frame is a frequent phrase of three tokens, a word and three tokens; frames with another word have another "
    "token instead of the word. "
    "Rates are corrected for the noise that wide frames miss; dispersion is the intra-class correlation of noise "
    "within a report. "
    "Flatness: perplexity of the replacing tokens relative to uniformly drawn tokens. "
    "Held-out train: a fifth of the train reports, compared with the other four fifths like the test files. "
    "Similarity: median cosine to the nearest training report."
)
"""Terms of the tables."""


def headline(facts: dict[str, Any]) -> str:
    """Returns a line with noise and AUC of every file."""
    parts = [_("train {noise}").format(noise=_percent(facts["train"]["noise"]))]
    parts += [
        _("{file} {noise}, AUC {auc}").format(
            file=name, noise=_percent(test["noise"]), auc=two_digits(test["adversarial"]["auc"])
        )
        for name, test in zip(short_names(facts["tests"]).values(), facts["tests"].values(), strict=True)
    ]
    return _("tokens with noise: {files}").format(files=joined("; ", parts))


def findings(facts: dict[str, Any]) -> tuple[list[str], str]:
    """Returns sentences on the differences between train and test files, and advice."""
    tests = facts["tests"]
    train_noise, sentences = facts["train"]["noise"], []
    if train_noise is None:
        sentences.append(_("The files have too few frequent phrases for an estimate of their noise."))
    elif _total(train_noise) < NOTICEABLE:
        sentences.append(_("The train reports have no noise."))
    else:
        told = _(
            "In train {replacement:.0%} of the tokens are replaced, {insertion:.0%} have an inserted neighbour and "
            "{deletion:.0%} are deleted."
        )
        sentences.append(told.format(**train_noise["rates"]))
    advice = set()
    for name, test in zip(short_names(tests).values(), tests.values(), strict=True):
        auc, matched = test["adversarial"]["auc"], test["adversarial"]["auc_noise_matched"]
        clauses = []
        measured = test["noise"] is not None and train_noise is not None
        if measured:
            more = _total(test["noise"]) - _total(train_noise)
            told = _("has as much noise ({own} of tokens; train {train})")
            if more > NOTICEABLE:
                told = _("has more noise ({own} of tokens; train {train})")
                advice.add(_("train and validate with added noise (train.noise, select_on=shifted)"))
            elif more < -NOTICEABLE:
                told = _("has less noise ({own} of tokens; train {train})")
            clauses.append(told.format(own=_percent(test["noise"]), train=_percent(train_noise)))
        if auc is None:
            clauses.append(_("has too few reports for adversarial validation"))
        elif auc >= APART:
            rest = _(", {auc:.2f} with equal noise").format(auc=matched) if abs(matched - auc) > 0.005 else ""
            source = _(", as a file from another pool does") if matched >= APART else _(", only because of noise")
            told = _("differs from train (AUC {auc:.2f}{rest}){source}")
            clauses.append(told.format(auc=auc, rest=rest, source=source if measured else ""))
            if matched >= APART:
                advice.add(_("trust high out-of-fold scores less, and compare runs by the expected leaderboard"))
        else:
            clauses.append(_("does not differ from train (AUC {auc:.2f})").format(auc=auc))
        near, far = test["similarity"]["test"]["median"], test["similarity"]["train"]["median"]
        if near < far - 0.02:
            told = _("is less similar to train (median cosine {near:.2f}; {far:.2f} between train reports)")
            clauses.append(told.format(near=near, far=far))
        sentences.append(_("{file} {clauses}.").format(file=name, clauses=joined(_("; it "), clauses)))
    families = facts["train"]["families"]
    told = _(
        "{share:.0%} of the train reports belong to families of near-duplicates (largest {largest}), so random folds "
        "are somewhat optimistic (folds.scheme=families keeps families together)."
    )
    sentences.append(told.format(share=families["share_of_reports"], largest=families["largest"]))
    nothing = _("nothing; random cross-validation predicts the scores of these files well")
    if any(test["adversarial"]["auc"] is None for test in facts["tests"].values()):
        nothing = _("too little is known of a file of so few rows to say")
    return sentences, _("What to do: {advice}.").format(advice=joined("; ", sorted(advice)) if advice else nothing)


def tables(facts: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Returns title, columns and rows of each table."""
    short, train = short_names(facts["tests"]), facts["train"]
    names, tests = list(short.values()), list(facts["tests"].values())
    shared = [train["shared_long_ngrams"], *(test["shared_long_ngrams"] for test in tests)]
    noises = [train["noise"], *(test["noise"] for test in tests)]
    noise_rows = [
        [
            _("frames with another word"),
            *(_cell(noise, lambda known: f"{known['odd_middles']:.1%}") for noise in noises),
        ],
        *([RATE_NAMES[rate], *(_cell(noise, partial(_rate, rate=rate)) for noise in noises)] for rate in RATES),
        [_("tokens with noise"), *(_cell(noise, lambda known: f"{_total(known):.1%}") for noise in noises)],
        [_("by report, p10–p90"), *(_cell(noise, _report) for noise in noises)],
        [_("flatness (1: uniform)"), *(_cell(noise, _flat) for noise in noises)],
        [_("frames counted"), *(_cell(noise, lambda known: f"{known['outcomes']:,}") for noise in noises)],
    ]
    profiles = [train["held_out"], *(test["profile"] for test in tests)]
    text_rows = [
        [_("reports compared"), *(f"{count:,}" for count in facts["sampled"].values())],
        [_("reports in the file"), *(f"{count:,}" for count in facts["rows"].values())],
        [_("tokens a report"), *(f"{p['length']['mean']:.1f}" for p in profiles)],
        [_("shortest, longest"), *(f"{p['length']['min']}–{p['length']['max']}" for p in profiles)],
        [_("words"), *(str(p["words"]) for p in profiles)],
        *(
            [_("unseen {ngrams}").format(ngrams=n), *(f"{p['unseen'][n]:.1%}" for p in profiles)]
            for n in profiles[0]["unseen"]
        ),
        [_("bits a token, by words"), *(f"{p['unigram_bits']:.2f}" for p in profiles)],
        [_("bits a token, by bigrams"), *(f"{p['bigram_bits']:.2f}" for p in profiles)],
        [_("share a 10-gram with train"), *(f"{share:.0%}" for share in shared)],
    ]
    apart_rows = [
        [_("AUC train against test"), *(auc_with_error(test) for test in tests)],
        [_("with equal noise"), *(_matched(test, train["noise"]) for test in tests)],
        [_("similarity to train: test"), *(f"{test['similarity']['test']['median']:.2f}" for test in tests)],
        [_("train, out of fold"), *(f"{test['similarity']['train']['median']:.2f}" for test in tests)],
        [_("train, with equal noise"), *(_median(test["similarity"]["train_noised"]) for test in tests)],
        [_("effective size, weighted"), *(f"{test['effective_size']['weighted']:,.0f}" for test in tests)],
        [_("effective size, shifted"), *(f"{test['effective_size']['shifted']:,.0f}" for test in tests)],
    ]
    indicative_rows = [
        [
            f"{short[name]}: {' '.join(map(str, ngram['tokens']))}",
            f"{ngram['train']:.1%}",
            f"{ngram['test']:.1%}",
            f"{ngram['z']:+.0f}",
        ]
        for name, test in facts["tests"].items()
        for ngram in sorted(test["adversarial"]["telling"], key=lambda ngram: -abs(ngram["z"]))[:6]
    ]
    return [
        (_("Noise in %, with 95% intervals"), ["", _("train"), *names], noise_rows),
        (_("Text, compared with four fifths of train"), ["", _("held-out train"), *names], text_rows),
        *([(_("Difference from train"), ["", *names], apart_rows)] if names else []),
        *([(_("Most indicative n-grams"), ["n-gram", _("train"), _("test"), "z"], indicative_rows)] if names else []),
    ]


def _total(noise: dict[str, Any]) -> float:
    return sum(noise["rates"][rate] for rate in RATES[:3])


def _percent(noise: dict[str, Any] | None) -> str:
    return _("unknown") if noise is None else f"{_total(noise):.1%}"


def _cell(noise: dict[str, Any] | None, text: Callable[[dict[str, Any]], str]) -> str:
    return "–" if noise is None else text(noise)


def _report(noise: dict[str, Any]) -> str:
    return f"{noise['report']['p10']:.1%}–{noise['report']['p90']:.1%}"


def _flat(noise: dict[str, Any]) -> str:
    return "–" if noise["flatness"] is None else f"{noise['flatness']:.2f}"


def _rate(noise: dict[str, Any], rate: str) -> str:
    low, high = noise["intervals"][rate]
    return f"{100 * noise['rates'][rate]:.1f} ({100 * low:.1f}–{100 * high:.1f})"


def _matched(test: dict[str, Any], train_noise: dict[str, Any] | None) -> str:
    measured = test["noise"] is not None and train_noise is not None and test["adversarial"]["auc"] is not None
    return f"{test['adversarial']['auc_noise_matched']:.3f}" if measured else "–"


def _median(quantiles: dict[str, float] | None) -> str:
    return "–" if quantiles is None else f"{quantiles['median']:.2f}"
