"""Differences between the domains of the train rows: label rates, missing values or lengths, and noise; which pairs of
them are told apart (pipeline/shifts/domain_pairs.py)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from src.core.settings import Domains as DomainSettings
from src.data.corpus import N_SPECIAL, Corpus, to_words, unpad
from src.data.dataset import Dataset
from src.data.domains import Domains
from src.data.grid import ICU_TYPES
from src.data.ngrams import Text
from src.data.tasks import Task
from src.evaluation import covariate_shift, noise_estimation, series_shift
from src.evaluation.figures import estimate, ratio

MOST_ROWS = 2000
"""Rows of each domain that are compared; a random sample of more."""
MOST_DOMAINS = 10
"""Domains that are compared pair by pair, the largest ones: 45 pairs."""
SEED = 0
"""Seed of the samples and of the noise estimates."""


def sampled(domains: Domains) -> list[np.ndarray]:
    """Rows of each domain that are compared, ascending."""
    generator, found = np.random.default_rng(SEED), []
    for domain in range(len(domains)):
        rows = domains.rows(domain)
        found.append(rows if len(rows) <= MOST_ROWS else np.sort(generator.choice(rows, MOST_ROWS, replace=False)))
    return found


def pairs(domains: Domains) -> list[tuple[int, int]]:
    """Pairs of domains that are told apart: of the largest that have enough rows for it."""
    large = np.argsort(-domains.sizes, kind="stable")[:MOST_DOMAINS]
    kept = sorted(int(domain) for domain in large if domains.sizes[domain] > covariate_shift.ADVERSARIAL_FOLDS)
    return list(itertools.combinations(kept, 2))


def facts(dataset: Dataset, task: Task, domains: Domains) -> list[dict[str, Any]]:
    """Rows, label rates and what is missing or noisy in each domain, as JSON values."""
    labels, corpus, rows = np.asarray(dataset.train.labels), dataset.train, sampled(domains)
    found = [
        {"name": name, "rows": int(size), "labels": _rates(task, labels[domains.rows(i)])}
        for i, (name, size) in enumerate(zip(domains.names, domains.sizes, strict=True))
    ]
    if dataset.shape.kind == "tokens":
        texts = [text_of(corpus, one) for one in rows]
        frames = noise_estimation.learn_frames(texts)
        counts = [noise_estimation.count_outcomes(frames, text) for text in texts]
        for i, (one, text) in enumerate(zip(found, texts, strict=True)):
            others = [count for j, count in enumerate(counts) if j != i]
            replacing, words = noise_estimation.replacing_tokens(frames, text), len(dataset.vocabulary.words)
            noise = noise_estimation.estimate_noise(frames, counts[i], replacing, words, SEED, others)
            one["tokens"] = float(np.diff(text[1]).mean())
            one["noise"] = noise and {
                "rates": {name: getattr(noise.rates, name) for name in ("replacement", "insertion", "deletion")},
                "intervals": {name: list(noise.intervals[name]) for name in ("replacement", "insertion", "deletion")},
            }
        return found
    kinds = np.array(dataset.shape.kinds)
    for one, chosen in zip(found, rows, strict=True):
        share = series_shift.coverage(corpus.inputs["values"], corpus.lengths, chosen).mean(axis=0)
        one["observed"] = {kind: float(share[kinds == kind].mean()) for kind in dict.fromkeys(dataset.shape.kinds)}
    return found


def worded(telling: Sequence[dict[str, Any]], dataset: Dataset) -> list[dict[str, Any]]:
    """Returns, as JSON values, n-grams (as the words of the input files) or features, with their share or mean in
    either domain."""

    def word_of(index: int) -> str:
        return str(dataset.vocabulary.words[to_words(index)]) if index >= N_SPECIAL else "?"

    return [
        {
            "what": " ".join(map(word_of, one["tokens"])) if "tokens" in one else one["feature"],
            "first": one["train"],
            "second": one["test"],
            "z": one["z"],
        }
        for one in telling
    ]


def hidden_features(settings: DomainSettings) -> list[str]:
    """Statics by which domains are defined: any classifier would tell the domains apart by them alone."""
    return {"ICUType": [f"ICUType_{number}" for number in ICU_TYPES], "Gender": ["Gender"]}.get(settings.by, [])


def _rates(task: Task, labels: np.ndarray) -> dict[str, Any]:
    """Mean of each label, of probabilities or numbers, with its standard error, over the rows in which it counts."""
    found = {}
    for _group, columns, counted in task.parts(labels):
        for k in range(columns.start, columns.stop):
            values = labels[counted, k].astype(np.float64)
            known = estimate(ratio(values, np.ones(len(values)))) if len(values) > 1 else None
            found[task.label_names[k]] = known.to_json() if known else {"value": None, "standard_error": None}
    return found


def text_of(corpus: Corpus, rows: np.ndarray) -> Text:
    """Texts of some rows of a corpus."""
    return unpad(np.asarray(corpus.tokens[rows]), np.asarray(corpus.lengths[rows]))
