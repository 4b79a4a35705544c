"""What ./run.sh shift found, for people: a paragraph, tables, a picture."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from src.core import storage
from src.core.storage import Output
from src.core.terminal import result, show_table

NOTICEABLE = 0.01
"""Noise that differs by less, in hits a token, is taken for equal."""
APART = 0.6
"""AUC from which train and test are called different."""
FILES_A_TABLE = 2
RATES = ("replacement", "insertion", "deletion", "dispersion")


def headline(facts: dict[str, Any]) -> str:
    """One line: noise and AUC of every file."""
    parts = [f"train {_percent(facts['train']['noise'])}"]
    parts += [
        f"{name} {_percent(found['noise'])}, AUC {_two(found['adversarial']['auc'])}"
        for name, found in zip(short_names(facts["tests"]).values(), facts["tests"].values(), strict=True)
    ]
    return "tokens hit: " + "; ".join(parts)


def paragraph(facts: dict[str, Any]) -> str:
    """What differs and what to do, in words."""
    tests = facts["tests"]
    if not tests:
        return "There is no test file to compare with: validation on the train reports as they are is all there is."
    train_noise, sentences = facts["train"]["noise"], []
    if train_noise is None:
        sentences.append("The files hold too few frequent phrases to tell how noisy they are.")
    elif _total(train_noise) < NOTICEABLE:
        sentences.append("The train reports are free of noise.")
    else:
        sentences.append(
            f"In train {train_noise['rates']['replacement']:.0%} of the tokens are replaced, "
            f"{train_noise['rates']['insertion']:.0%} have an intruder beside them and "
            f"{train_noise['rates']['deletion']:.0%} are missing."
        )
    advice = set()
    for name, found in zip(short_names(tests).values(), tests.values(), strict=True):
        auc, matched = found["adversarial"]["auc"], found["adversarial"]["auc_noise_matched"]
        clauses = []
        if found["noise"] is not None and train_noise is not None:
            more = _total(found["noise"]) - _total(train_noise)
            word = "noisier" if more > NOTICEABLE else "cleaner" if more < -NOTICEABLE else "as noisy"
            clauses.append(f"is {word} ({_percent(found['noise'])} of tokens hit, {_percent(train_noise)} in train)")
            if more > NOTICEABLE:
                advice.add("train and validate with that much noise added (train.noise, select_on=shifted)")
        known = found["noise"] is not None and train_noise is not None
        if auc is None:
            clauses.append("has too few reports to be told from train")
        elif auc >= APART:
            rest = f", {matched:.2f} with noise made equal" if abs(matched - auc) > 0.005 else ""
            pool = " and comes from another pool" if matched >= APART else " but only noise tells it apart"
            clauses.append(f"can be told from train (AUC {auc:.2f}{rest}){pool if known else ''}")
            if matched >= APART:
                advice.add("trust out-of-fold scores less the better they are, and go by the expected leaderboard")
        else:
            clauses.append(f"looks like train (AUC {auc:.2f})")
        near, far = found["similarity"]["test"]["median"], found["similarity"]["train"]["median"]
        if near < far - 0.02:
            clauses.append(f"has less like it in train (median cosine {near:.2f}; {far:.2f} between train reports)")
        sentences.append(f"{name} {'; it '.join(clauses)}.")
    families = facts["train"]["families"]
    sentences.append(
        f"{families['share_of_reports']:.0%} of the train reports belong to families of near-duplicates "
        f"(largest {families['largest']}), so random folds are somewhat optimistic (folds.scheme=families keeps them "
        "together)."
    )
    todo = "; ".join(sorted(advice)) or "nothing special: random cross-validation should foretell these files well"
    return " ".join(sentences) + f" What to do: {todo}."


def tables(facts: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, columns and rows of each table."""
    short, train = short_names(facts["tests"]), facts["train"]
    names, found = list(short.values()), list(facts["tests"].values())
    shared = [train["shared_long_ngrams"], *(test["shared_long_ngrams"] for test in found)]
    noises = [train["noise"], *(test["noise"] for test in found)]
    noise_rows = [
        ["frames with another word", *(_cell(noise, lambda found: f"{found['odd_middles']:.1%}") for noise in noises)],
        *([rate, *(_cell(noise, partial(_rate, rate=rate)) for noise in noises)] for rate in RATES),
        ["hit in any way", *(_cell(noise, lambda found: f"{_total(found):.1%}") for noise in noises)],
        ["a report's, p10–p90", *(_cell(noise, _report) for noise in noises)],
        ["intruders flat (1: even)", *(_cell(noise, _flat) for noise in noises)],
        ["places judged", *(_cell(noise, lambda found: f"{found['outcomes']:,}") for noise in noises)],
    ]
    profiles = [train["held_out"], *(test["profile"] for test in found)]
    text_rows = [
        ["reports looked at", *(f"{count:,}" for count in facts["sampled"].values())],
        ["of", *(f"{count:,}" for count in facts["rows"].values())],
        ["tokens a report", *(f"{p['length']['mean']:.1f}" for p in profiles)],
        ["shortest, longest", *(f"{p['length']['min']}–{p['length']['max']}" for p in profiles)],
        ["words", *(str(p["words"]) for p in profiles)],
        *([f"unseen {n}", *(f"{p['unseen'][n]:.1%}" for p in profiles)] for n in profiles[0]["unseen"]),
        ["bits a token, by words", *(f"{p['unigram_bits']:.2f}" for p in profiles)],
        ["bits a token, by bigrams", *(f"{p['bigram_bits']:.2f}" for p in profiles)],
        ["share a 10-gram with train", *(f"{share:.0%}" for share in shared)],
    ]
    apart_rows = [
        ["AUC train against test", *(_auc(test) for test in found)],
        ["with noise made equal", *(_matched(test, train["noise"]) for test in found)],
        ["cosine to nearest seen: test", *(f"{test['similarity']['test']['median']:.2f}" for test in found)],
        ["train, out of fold", *(f"{test['similarity']['train']['median']:.2f}" for test in found)],
        ["train, noised alike", *(_median(test["similarity"]["train_noised"]) for test in found)],
        ["effective size, weighted", *(f"{test['effective_size']['weighted']:,.0f}" for test in found)],
        ["effective size, shifted", *(f"{test['effective_size']['shifted']:,.0f}" for test in found)],
    ]
    telling_rows = [
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
        ("Noise in %, with 95% intervals", ["", "train", *names], noise_rows),
        ("Text, beside four fifths of train", ["", "held-out train", *names], text_rows),
        *([("Apart from train", ["", *names], apart_rows)] if names else []),
        *([("N-grams that tell", ["n-gram", "train", "test", "z"], telling_rows)] if names else []),
    ]


def short_names(names: Iterable[str]) -> dict[str, str]:
    """File names without their ending and without the words that all begin with."""
    stems = {name: Path(name).stem for name in names}
    common = os.path.commonprefix(list(stems.values())) if len(stems) > 1 else ""
    return {name: stem[common.rfind("_") + 1 :] for name, stem in stems.items()}


def show(facts: dict[str, Any]) -> None:
    names = list(facts["tests"])
    for start in range(0, max(len(names), 1), FILES_A_TABLE):  # as many as 80 columns hold
        tests = {name: facts["tests"][name] for name in names[start : start + FILES_A_TABLE]}
        rows = {name: count for name, count in facts["rows"].items() if name == "train" or name in tests}
        sampled = {name: count for name, count in facts["sampled"].items() if name in rows}
        for title, columns, lines in tables(facts | {"tests": tests, "rows": rows, "sampled": sampled}):
            show_table(title, columns, lines)
    result(f"\n{paragraph(facts)}")


def as_markdown(facts: dict[str, Any]) -> str:
    parts = ["# How the test files differ from train", paragraph(facts), "![noise and similarity](shift.png)"]
    for title, columns, rows in tables(facts):
        lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        parts.append(f"## {title}\n\n" + "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]))
    parts.append(
        "A frame is a frequent phrase of three tokens, a word and three tokens; in so many another token has the place "
        "of the word. "
        "The rates are corrected for what wide frames miss; dispersion is the correlation of hits within a report. "
        "Flat: perplexity of the intruders beside that of as many drawn evenly from the vocabulary. "
        "Held-out train: a fifth of the train reports "
        "against the other four, as the test files are."
    )
    return "\n\n".join(parts) + "\n"


def draw(path: Path, output: Output, facts: dict[str, Any]) -> None:
    """Noise rates with their intervals, and how like the seen reports those of each file are."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    noises = {"train": facts["train"]["noise"]} | {name: test["noise"] for name, test in facts["tests"].items()}
    noises = {name: noise for name, noise in noises.items() if noise is not None}
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    places = np.arange(3)
    for i, (name, noise) in enumerate(noises.items()):
        values = np.array([noise["rates"][rate] for rate in RATES[:3]])
        bounds = np.array([noise["intervals"][rate] for rate in RATES[:3]]).T
        width = 0.8 / len(noises)
        errors = np.abs(bounds - values)
        left.bar(places + (i - (len(noises) - 1) / 2) * width, values, width, yerr=errors, capsize=2, label=name)
    left.set_xticks(places, RATES[:3])
    left.set_ylabel("hits a token")
    left.set_title("Noise, with 95% intervals")
    if noises:
        left.legend(fontsize=8)
    bins = np.linspace(0, 1, 51)
    for i, name in enumerate(facts["tests"]):
        folder = output.shift_of(name)
        seen = np.load(folder / "similarity.npy")
        if i == 0:
            right.hist(seen[0], bins, density=True, histtype="step", label="train, out of fold")
        if len(seen) > 1:
            label = f"train, noised like {name}"
            right.hist(seen[1:].ravel(), bins, density=True, histtype="step", linestyle=":", label=label)
        right.hist(np.load(folder / "test_similarity.npy"), bins, density=True, histtype="step", label=name)
    right.set_xlabel("largest cosine to a report that the model has seen")
    right.set_ylabel("density of reports")
    right.set_title("Likeness to what was seen")
    if facts["tests"]:
        right.legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    storage.write_atomic(path, lambda file: file.write(buffer.getbuffer()))


def _total(noise: dict[str, Any]) -> float:
    return sum(noise["rates"][rate] for rate in RATES[:3])


def _percent(noise: dict[str, Any] | None) -> str:
    return "unknown" if noise is None else f"{_total(noise):.1%}"


def _cell(noise: dict[str, Any] | None, shown: Callable[[dict[str, Any]], str]) -> str:
    return "–" if noise is None else shown(noise)


def _report(noise: dict[str, Any]) -> str:
    return f"{noise['report']['p10']:.1%}–{noise['report']['p90']:.1%}"


def _flat(noise: dict[str, Any]) -> str:
    return "–" if noise["flatness"] is None else f"{noise['flatness']:.2f}"


def _rate(noise: dict[str, Any], rate: str) -> str:
    low, high = noise["intervals"][rate]
    return f"{100 * noise['rates'][rate]:.1f} ({100 * low:.1f}–{100 * high:.1f})"


def _two(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


def _matched(test: dict[str, Any], train_noise: dict[str, Any] | None) -> str:
    known = test["noise"] is not None and train_noise is not None and test["adversarial"]["auc"] is not None
    return f"{test['adversarial']['auc_noise_matched']:.3f}" if known else "–"


def _auc(test: dict[str, Any]) -> str:
    if test["adversarial"]["auc"] is None:
        return "–"
    return f"{test['adversarial']['auc']:.3f} ± {test['adversarial']['standard_error']:.3f}"


def _median(quantiles: dict[str, float] | None) -> str:
    return "–" if quantiles is None else f"{quantiles['median']:.2f}"
