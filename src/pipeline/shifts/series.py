"""Comparison of series, stays or images: summary features, missing values, statics, and weights of the train rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from src.core import array_files, storage
from src.core.executors import Job, make_executor, raise_failures, reads, run_shown
from src.core.threads import one_thread
from src.data.corpus import Corpus
from src.data.inputs import InputShape
from src.evaluation import covariate_shift, metrics, series_shift
from src.evaluation.workspace import Workspace
from src.pipeline.shifts.compared import Compared, compared_files, described, quantiles, read_files

UNKNOWN = 0.5
"""Similarity where a file is too small to tell."""


def measure(workspace: Workspace, compared: Compared) -> dict[str, Any]:
    """Writes the arrays of each test file; returns what shift.json says of the files."""
    settings, output, dataset = workspace.settings, workspace.output, workspace.dataset
    judged = workspace.splits.first[compared.train] >= 0
    jobs = [
        Job(
            f"shift of {name}",
            f"{__name__}:measure_test",
            {
                **compared_files(output, dataset, name),
                "judged": judged.tolist(),
                "shape": dataset.shape.to_json(),
                "settings": settings.shift.model_dump(),
            },
        )
        for name in compared.tests
    ]
    raise_failures(run_shown(make_executor(settings.executor, "cpu", len(jobs)), "shift", jobs, described))
    return {
        "noun": dataset.task.noun,
        **compared.counts(dataset),
        "tests": {name: storage.read_json(output.shift_of(name) / "measured.json") for name in compared.tests},
    }


@reads(read_files)
def measure_test(payload: dict[str, Any], progress: Callable[[dict[str, Any]], None]) -> None:
    """Compares one test file with train, as a job. Writes its arrays and measured.json."""
    from src.models.summaries import summary_names, summary_table

    output, settings, shape = Path(payload["output"]), payload["settings"], InputShape.from_json(payload["shape"])
    folder = output / payload["folder"]
    judged = np.array(payload["judged"], dtype=bool)
    files = [
        (Corpus.load(output / payload["train"]), array_files.read_npy(output / payload["rows"])),
        (Corpus.load(output / payload["test"]), array_files.read_npy(folder / "test_rows.npy")),
    ]
    names = summary_names(shape)
    with one_thread():
        tables = [summary_table(corpus.inputs, corpus.lengths, shape, rows) for corpus, rows in files]
    progress({"share": 0.2, "done": "missing values"})
    coverage = [series_shift.coverage(corpus.inputs["values"], corpus.lengths, rows) for corpus, rows in files]
    statics = [corpus.inputs["statics"][rows][:, 0] for corpus, rows in files] if shape.statics else None
    progress({"share": 0.3, "done": "features"})
    missingness = series_shift.missingness(*coverage, shape.parameters)
    found, matched, similarity = None, None, [np.full(len(rows), UNKNOWN) for _, rows in files]
    if min(map(len, tables)) > covariate_shift.ADVERSARIAL_FOLDS:  # else too few rows to cross-validate
        owners = series_shift.owners_of(names, shape.parameters)
        with one_thread("sklearn"):
            found = matched = series_shift.adversarial(*tables, names, owners, settings["seed"])
            if missingness:
                progress({"share": 0.7, "done": "values alone"})
                *alone, kept = series_shift.values_alone(*tables, names, shape)
                matched = series_shift.adversarial(*alone, kept, kept, settings["seed"])
        similarity = [series_shift.similarity(logits) for logits in (matched.train_logits, matched.test_logits)]
    weights = series_shift.weights(matched, judged, settings["weights"], settings["clip"])
    effective_size = metrics.effective_size(weights)
    array_files.write_npy(folder / "similarity.npy", similarity[0][None])
    array_files.write_npy(folder / "test_similarity.npy", similarity[1])
    array_files.write_npy(folder / "weights.npy", weights[None])
    storage.write_json(
        folder / "measured.json",
        {
            "draws": 0,
            "train_noise_total": 0.0,
            "test_noise_total": 0.0,
            "noised_total": 0.0,
            "adversarial": {
                "auc": found.auc if found else None,
                "standard_error": found.standard_error if found else None,
                "auc_values": matched.auc if matched else None,
                "telling": found.telling if found else [],
            },
            "similarity": {"train": quantiles(similarity[0][judged]), "test": quantiles(similarity[1])},
            "effective_size": {"weighted": effective_size, "shifted": effective_size},
            "missingness": missingness,
            "statics": series_shift.statics(*statics, shape.statics) if statics else [],
        },
    )
