"""Fingerprints of runs and baselines of stays name all that changes their results."""

from __future__ import annotations

import pytest

from src.__main__ import main
from src.core import storage
from src.core.settings_loader import load_config
from src.data.synthetic_stays import make_sample
from src.evaluation.workspace import Workspace
from src.pipeline.stages.baselines import STAGE
from src.training import device_cache
from src.training.planning import fold_jobs


@pytest.fixture
def words(tmp_path) -> list[str]:
    make_sample(tmp_path / "input", rows=60, test_rows=5, seed=2)
    (tmp_path / "input/set-b.zip").unlink()  # with no test set nothing is compared
    return [
        "task=icu",
        "folds.k=2",
        "runs.gru.train.outcome_weight=0.3",
        f"paths.input={tmp_path / 'input'}",
        f"paths.output={tmp_path / 'output'}",
    ]


def stamps(words: list[str]) -> dict[str, str]:
    """Fingerprint of the first fold of each run, and that of the baselines."""
    workspace = Workspace(load_config("quick", words))
    jobs = fold_jobs(workspace, device_cache.recall_or_find(workspace))
    return {name: ones[0].fingerprint for name, ones in jobs.items()} | {
        "baselines": STAGE.targets(workspace)[0].fingerprint
    }


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def test_other_outcomes_change_what_reads_them(words, tmp_path):
    assert main(["shift", *words]) == 0
    before, file = stamps(words), tmp_path / "input/Outcomes-a.txt"
    header, first, *lines = file.read_text().splitlines()
    record, saps, *rest = first.split(",")
    file.write_text("\n".join([header, ",".join([record, str(int(saps) + 1), *rest]), *lines]) + "\n")
    assert main(["shift", *words]) == 0
    assert changed(before, stamps(words)) == {"gru", "baselines"}


def test_another_scikit_learn_changes_tabular_models(words, monkeypatch):
    assert main(["shift", *words]) == 0
    before, version = stamps(words), storage.importlib.metadata.version
    monkeypatch.setattr(
        storage.importlib.metadata, "version", lambda name: "0" if name == "scikit-learn" else version(name)
    )
    assert changed(before, stamps(words)) == {"boosting", "baselines"}


def test_another_default_of_a_model_changes_the_baselines(words, monkeypatch):
    from src.pipeline.stages import baselines

    assert main(["shift", *words]) == 0
    before = stamps(words)
    monkeypatch.setattr(baselines, "model_settings", lambda name: {"model": {"encoder": "boosting", "max_iter": 7}})
    assert changed(before, stamps(words)) == {"baselines"}
