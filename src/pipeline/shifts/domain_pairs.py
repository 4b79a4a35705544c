"""Job that tells two domains of train rows apart: adversarial validation of reports or series."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.core import array_files, storage
from src.core.executors import reads
from src.core.threads import one_thread
from src.data.corpus import Corpus
from src.data.inputs import InputShape
from src.evaluation import covariate_shift, series_shift
from src.evaluation.domain_differences import text_of

TELLING = 3
"""Number of n-grams or features that are listed for each pair."""
SEED = 0
"""Seed of the classifiers."""


@reads(lambda payload: [f"{payload['corpus']}/", payload["rows"]])
def tell_apart(payload: dict[str, Any], progress: Callable[[dict[str, Any]], None]) -> None:
    """Runs one job: cross-validates a classifier that tells the rows of two domains apart. Writes its AUC, and what is
    most different."""
    output = Path(payload["output"])
    corpus = Corpus.load(output / payload["corpus"])
    given = array_files.read_npz(output / payload["rows"])
    rows = [given[str(domain)] for domain in payload["pair"]]
    if payload["shape"]["kind"] == "tokens":
        found = covariate_shift.adversarial(*(text_of(corpus, one) for one in rows), SEED)
    else:
        found = _series_apart(corpus, rows, InputShape.from_json(payload["shape"]), payload["hidden"])
    telling = sorted(found.telling, key=lambda one: -abs(one["z"]))[:TELLING]
    storage.write_json(
        output / payload["out"], {"auc": found.auc, "standard_error": found.standard_error, "telling": telling}
    )


def _series_apart(
    corpus: Corpus, rows: Sequence[np.ndarray], shape: InputShape, hidden: Sequence[str]
) -> covariate_shift.Adversarial:
    from src.models.summaries import summary_names, summary_table  # imports torch

    names = summary_names(shape)
    kept = [i for i, name in enumerate(names) if name not in hidden]
    left = [names[i] for i in kept]
    with one_thread("sklearn"):
        tables = [summary_table(corpus.inputs, corpus.lengths, shape, one)[:, kept] for one in rows]
        return series_shift.adversarial(*tables, left, series_shift.owners_of(left, shape.parameters), SEED)
