"""Comparison of token reports: noise, words, what gives a file away, nearest neighbours, and train reports with the
noise of each test file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from src.core import array_files, storage
from src.core.executors import Job, make_executor, raise_failures, reads, run_shown
from src.core.language import _
from src.core.storage import Output
from src.core.terminal import info, warn
from src.data import near_duplicates
from src.data.corpus import Corpus, pad, to_indices, to_words, unpad
from src.data.corruption import NoiseRates, corrupt
from src.data.dataset import Dataset
from src.data.ngrams import Text, take
from src.data.splits import HOLDOUT_PARTS, Splits
from src.evaluation import covariate_shift, metrics, noise_estimation, text_shift_summary
from src.evaluation.noise_estimation import NoiseEstimate
from src.evaluation.workspace import Workspace
from src.pipeline.shifts.compared import Compared, compared_files, described, number, quantiles, read_files

MOST_UNKNOWN = 0.5
"""Share of a test file's tokens that train does not have, above which the command warns."""
HELD_OUT = 5  # one part in so many of the train rows is compared with the rest, as each test file is


def measure(workspace: Workspace, compared: Compared) -> dict[str, Any]:
    """Writes the arrays of each test file and the noisy copies; returns what shift.json says of the files."""
    config, output, dataset = workspace.settings, workspace.output, workspace.dataset
    words = dataset.vocabulary.words
    train = _taken(dataset.train, compared.train)
    corpora = {name: _taken(Corpus.load(dataset.test_folder(name)), rows) for name, rows in compared.tests.items()}
    texts = {"train": _text(train)} | {name: _text(corpus) for name, corpus in corpora.items()}
    groups = _groups(workspace.splits)[compared.train]

    info(
        _("shift: looks for noise in {n:,} reports").format(n=sum((len(offsets) - 1 for _, offsets in texts.values())))
    )
    learned = noise_estimation.learn_frames(list(texts.values()))
    noise = _noise(learned, texts, len(words), config.shift.seed)
    jobs, extras = [], {}
    for name in corpora:
        folder = output.shift_of(name)
        extra = extras[name] = _extra(noise["train"], noise[name])
        draws = config.shift.draws if extra.total else 0
        for draw in range(draws):
            rng = np.random.default_rng([config.shift.seed, number(name), draw])
            noisy = _corrupted(texts["train"], extra, rng, len(words))
            tokens, lengths = pad(*noisy, train.tokens.shape[1], config.data.keep)
            replace(train, inputs={"tokens": tokens}, lengths=lengths).save(folder / f"noised_{draw}")
        payload = {
            **compared_files(output, dataset, name),
            "groups": groups.tolist(),
            "reverse": asdict(_extra(noise[name], noise["train"])),
            "draws": draws,
            "settings": config.shift.model_dump(),
            "words": len(words),
        }
        jobs.append(Job(f"shift of {name}", f"{__name__}:measure_test", payload))
    raise_failures(run_shown(make_executor(config.executor, "cpu", len(jobs)), "shift", jobs, described))

    facts = _facts(dataset, compared, texts, noise, extras)
    _add_posteriors(output, learned, texts, noise, facts)
    for name, test in facts["tests"].items():
        if (unknown := test["profile"]["unseen"]["unigrams"]) > MOST_UNKNOWN:
            warn(
                _(
                    "{unknown:.0%} of the tokens of {name} are words that train does not have: little is known of it"
                ).format(unknown=unknown, name=name)
            )
    if any(estimate is None for estimate in noise.values()):
        lacking = ", ".join(name for name, estimate in noise.items() if estimate is None)
        warn(
            _("too little text to tell the noise of {lacking}; validation adds none where it is not known").format(
                lacking=lacking
            )
        )
    return facts


def _facts(
    dataset: Dataset,
    compared: Compared,
    texts: dict[str, Text],
    noise: dict[str, NoiseEstimate | None],
    extras: dict[str, NoiseRates],
) -> dict[str, Any]:
    """Returns the findings of shift.json: of train, and of each test file with what its job measured."""
    words, train_total = dataset.vocabulary.words, _total(noise["train"])
    tests = {}
    for name, extra in extras.items():
        measured = storage.read_json(dataset.output.shift_of(name) / "measured.json")
        for ngram in measured["adversarial"]["telling"]:
            ngram["tokens"] = [int(words[to_words(token)]) for token in ngram["tokens"]]
        tests[name] = {
            **measured,
            "noise": _noise_facts(noise[name]),
            "extra_noise": asdict(extra),
            "train_noise_total": train_total,
            # Unknown noise is taken to be that of train.
            "test_noise_total": _total(noise[name]) if noise[name] and noise["train"] else train_total,
            "noised_total": train_total + (1 - train_total) * extra.total,
            "profile": _profile(texts["train"], texts[name]),
            "shared_long_ngrams": covariate_shift.shared_ngrams(texts["train"], texts[name]),
        }
    return {
        **compared.counts(dataset),
        "train": {
            "noise": _noise_facts(noise["train"]),
            "held_out": _profile(texts["train"], None),
            "shared_long_ngrams": covariate_shift.shared_ngrams(texts["train"]),
            "families": _families(texts["train"]),
        },
        "tests": tests,
    }


@reads(lambda payload: read_files(payload, [f"noised_{draw}" for draw in range(payload["draws"])]))
def measure_test(payload: dict[str, Any], progress: Callable[[dict[str, Any]], None]) -> None:
    """One job: what takes long about one test file. Writes its arrays and measured.json."""
    output, settings = Path(payload["output"]), payload["settings"]
    folder = output / payload["folder"]
    rows, groups = array_files.read_npy(output / payload["rows"]), np.array(payload["groups"])
    text = _text(Corpus.load(output / payload["train"]), rows)
    test = _text(Corpus.load(output / payload["test"]), array_files.read_npy(folder / "test_rows.npy"))
    noisy = [_text(Corpus.load(folder / f"noised_{draw}")) for draw in range(payload["draws"])]

    steps = 4 + 2 * len(noisy)

    def told(done: int, what: str) -> None:
        progress({"share": done / steps, "done": what})

    def apart(train: Text, test: Text) -> covariate_shift.Adversarial | None:
        if min(len(train[1]), len(test[1])) <= covariate_shift.ADVERSARIAL_FOLDS:
            return None  # too few reports to cross-validate
        return covariate_shift.adversarial(train, test, settings["seed"])

    plain = apart(text, test)
    told(1, "words")
    # Both sides are brought to the same noise: each gets what the other has more of.
    reverse = NoiseRates(**payload["reverse"])
    rng = np.random.default_rng([settings["seed"], 3])
    louder = _corrupted(test, reverse, rng, payload["words"]) if reverse.total else test
    matched = [apart(copy, louder) for copy in noisy or [text]] if noisy or reverse.total else [plain]
    told(2 + len(noisy), "words at equal noise")

    own = near_duplicates.tfidf([text], 2)[0]
    seen = [_unseen_best(near_duplicates.nearest(own, own, groups), groups)]
    told(3 + len(noisy), "train reports")
    for copy in noisy:
        base, queries = near_duplicates.tfidf([text, copy], 2)
        seen.append(_unseen_best(near_duplicates.nearest(queries, base, groups), groups))
        told(2 + len(noisy) + len(seen), "noisy copies")
    base, queries = near_duplicates.tfidf([text, test], 2)
    to_test = _mean_over_models(near_duplicates.nearest(queries, base, groups))
    judged = seen[0] >= 0
    weights = np.zeros((len(seen), len(text[1]) - 1))
    for i, cosines in enumerate(seen):
        found = plain if i == 0 else matched[i - 1]
        if settings["weights"] == "similarity":
            weights[i, judged] = covariate_shift.similarity_weights(cosines[judged], to_test, settings["clip"])
        elif found is None:
            weights[i, judged] = 1
        else:
            weights[i, judged] = covariate_shift.odds_weights(found.train_logits[judged], settings["clip"])
    array_files.write_npy(folder / "similarity.npy", np.stack(seen))
    array_files.write_npy(folder / "test_similarity.npy", to_test)
    array_files.write_npy(folder / "weights.npy", weights)
    storage.write_json(
        folder / "measured.json",
        {
            "draws": payload["draws"],
            "adversarial": {
                "auc": plain.auc if plain else None,
                "standard_error": plain.standard_error if plain else None,
                "auc_noise_matched": float(np.mean([found.auc for found in matched])) if plain else None,
                "telling": plain.telling if plain else [],
            },
            "similarity": {
                "train": quantiles(seen[0][judged]),
                "train_noised": quantiles(np.stack(seen[1:])[:, judged]) if noisy else None,
                "test": quantiles(to_test),
            },
            "effective_size": {
                "weighted": metrics.effective_size(weights[0]),
                "shifted": metrics.effective_size(np.sum(weights[1:] if noisy else weights, axis=0)),
            },
        },
    )


def _taken(corpus: Corpus, rows: np.ndarray) -> Corpus:
    """The reports at `rows`, without labels."""
    tokens, lengths, ids, sources = (
        np.asarray(array[rows]) for array in (corpus.tokens, corpus.lengths, corpus.ids, corpus.sources)
    )
    return Corpus({"tokens": tokens}, lengths, ids, None, sources)


def _text(corpus: Corpus, rows: np.ndarray | None = None) -> Text:
    rows = np.arange(len(corpus)) if rows is None else rows
    return unpad(np.asarray(corpus.tokens[rows]), np.asarray(corpus.lengths[rows]))


def _corrupted(text: Text, rates: NoiseRates, rng: np.random.Generator, words: int) -> Text:
    return corrupt(*text, rates, rng, to_indices(np.arange(words)))


def _groups(folds: Splits) -> np.ndarray:
    """(N,) group of each row: a model has seen the rows of all groups but that of the row which it judges. Negative: no
    model has seen it."""
    if folds.scheme == "holdout":
        return np.where(folds.first == HOLDOUT_PARTS["train"], 0, -1)
    return folds.first.astype(np.int64)


def _unseen_best(best: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(N,) largest cosine to a report of another group; negative in a holdout's train part, which no model judges."""
    return np.where(np.arange(best.shape[1]) == groups[:, None], -1, best).max(axis=1)


def _mean_over_models(best: np.ndarray) -> np.ndarray:
    """(N,) largest cosine to a report that a model has seen: the mean over models, each of which lacks a group."""
    if best.shape[1] == 1:
        return best[:, 0]
    lacking = [np.delete(best, group, axis=1).max(axis=1) for group in range(best.shape[1])]
    return np.mean(lacking, axis=0)


def _noise(
    learned: list[noise_estimation.Frames], texts: dict[str, Text], words: int, seed: int
) -> dict[str, NoiseEstimate | None]:
    """Noise estimate of each file; the spread between reports is estimated from all files together."""
    counts = {name: noise_estimation.count_outcomes(learned, text) for name, text in texts.items()}
    return {
        name: noise_estimation.estimate_noise(
            learned,
            counts[name],
            noise_estimation.replacing_tokens(learned, text),
            words,
            seed,
            [other for key, other in counts.items() if key != name],
        )
        for name, text in texts.items()
    }


def _extra(have: NoiseEstimate | None, want: NoiseEstimate | None) -> NoiseRates:
    if have is None or want is None:
        return NoiseRates()
    extra = noise_estimation.extra_noise(have.rates, want.rates)
    return extra if extra.total >= text_shift_summary.NOTICEABLE else NoiseRates()


def _total(estimate: NoiseEstimate | None) -> float:
    return 0.0 if estimate is None else estimate.rates.total


def _noise_facts(estimate: NoiseEstimate | None) -> dict[str, Any] | None:
    return None if estimate is None else estimate.to_json()


def _profile(train: Text, test: Text | None) -> dict[str, Any]:
    """Profile of the test, or of a held-out part of train, both against the rest of train."""
    held = np.arange(len(train[1]) - 1) % HELD_OUT == 0
    rest = take(*train, np.flatnonzero(~held))
    return covariate_shift.profile(rest, take(*train, np.flatnonzero(held)) if test is None else test)


def _families(train: Text) -> dict[str, Any]:
    family, threshold = near_duplicates.families(near_duplicates.tfidf([train], 3, min_df=2)[0])
    sizes = np.bincount(family)
    return {
        "threshold": threshold,
        "families": int((sizes > 1).sum()),
        "largest": int(sizes.max()),
        "share_of_reports": float((sizes[family] > 1).mean()),
    }


def _add_posteriors(
    output: Output,
    learned: list[noise_estimation.Frames],
    texts: dict[str, Text],
    noise: dict[str, NoiseEstimate | None],
    facts: dict[str, Any],
) -> None:
    """report_noise.npy (n, 2) for train and each test: posterior mean and deviation of each report's share of hits; and
    how the means spread, to the facts."""
    for name, text in texts.items():
        folder = output.shift if name == "train" else output.shift_of(name)
        if (estimate := noise[name]) is not None:
            mean, deviation = noise_estimation.report_noise(
                noise_estimation.count_outcomes(learned, text), estimate.rates
            )
            array_files.write_npy(folder / "report_noise.npy", np.column_stack([mean, deviation]).astype(np.float32))
            found = facts["train"] if name == "train" else facts["tests"][name]
            found["noise"]["report"] = {**quantiles(mean), "mean_deviation": float(deviation.mean())}
