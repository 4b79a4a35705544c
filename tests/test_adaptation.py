"""Few-shot adaptation: which rows are drawn and judged, and what trained folds learn from them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from src.__main__ import main
from src.core.storage import read_json
from src.data.synthetic import make_sample as make_reports
from src.data.tasks import ROUND1, get_task
from src.training.adaptation import drawn, halves
from tests.conftest import error_of
from tests.conftest import words as text_words
from tests.test_domains_verb import made, words, workspace_of  # noqa: F401

ICU = get_task("icu")


def domain(n: int = 101, positives: int = 11) -> tuple[np.ndarray, np.ndarray]:
    labels = np.zeros((n, 1), np.uint8)
    labels[:positives] = 1
    return 5 + 2 * np.arange(n), labels


def test_halves_are_apart_and_alike():
    rows, labels = domain()
    judged, left = halves(rows, labels, ICU, 0, 3)
    assert np.array_equal(np.sort(np.concatenate([judged, left])), rows)
    counts = [np.isin(rows[labels[:, 0] == 1], part).sum() for part in (judged, left)]
    assert abs(counts[0] - counts[1]) <= 1 and abs(len(judged) - len(left)) <= 1
    assert not np.array_equal(judged, halves(rows, labels, ICU, 1, 3)[0])


def test_draws_hold_both_classes_and_smaller_draws():
    rows, labels = domain()
    many = {n: drawn(rows, labels, ICU, 0, 3, 1, n) for n in (2, 10, 40, 1000)}
    for small, large in ((2, 10), (10, 40), (40, 1000)):
        assert np.isin(many[small], many[large]).all()
    for n in (2, 10, 40):
        assert len(many[n]) == n and len(np.unique(labels[np.isin(rows, many[n]), 0])) == 2
    assert np.isin(many[40], rows[labels[:, 0] == 1]).sum() == pytest.approx(40 * 11 / 101, abs=1.5)
    assert np.array_equal(np.sort(many[1000]), rows)
    assert not np.array_equal(many[10], drawn(rows, labels, ICU, 0, 3, 2, 10))


def test_rows_of_several_labels_or_numbers():
    rng, rows = np.random.default_rng(0), np.arange(50)
    several = (rng.random((50, ROUND1.n_labels)) < 0.2).astype(np.uint8)
    assert len(np.unique(drawn(rows, several, ROUND1, 0, 0, 0, 20))) == 20
    days = rng.random((50, 1)) * 30
    few = days[drawn(rows, days, get_task("los"), 0, 0, 0, 10), 0]
    assert few.min() < 6 and few.max() > 24, "parts of the range are all drawn"


@pytest.fixture(scope="module")
def adapted(made_once, made) -> Path:  # noqa: F811
    def make(folder: Path) -> None:
        shutil.copytree(made, folder, dirs_exist_ok=True, copy_function=shutil.copy2)
        assert main(["domains", "adapt", "--rows", "10,30", *here(folder)]) == 0

    return made_once("adapted", make)


def here(folder: Path, *more: str) -> list[str]:
    return [*words(folder), "adapt.draws=1", "adapt.epochs=2", *more]


def test_figures_after_so_many_rows(adapted):
    workspace, found = workspace_of(adapted), read_json(adapted / "out/domains/adapted.json")
    assert found["sizes"] == [0, 10, 30] and list(found["runs"]) == ["pooled", "single"]
    oof = workspace.run("pooled").oof()
    for i, name in enumerate(workspace.domains.names):
        rows = workspace.domains.rows(i)
        judged, left = halves(rows, workspace.labels[rows], workspace.task, 0, i)
        assert found["judged"][i] == len(judged) and found["drawn_from"][i] == len(left)
        area = roc_auc_score(workspace.labels[judged, 0], oof[judged, 0])
        assert found["runs"]["pooled"]["0"]["roc_auc"]["domains"][name]["value"] == pytest.approx(area)
    by_size = {n: found["runs"]["single"][n]["score"]["mean"]["value"] for n in ("0", "10", "30")}
    assert len(set(by_size.values())) == 3
    gain = found["gains"]["single"]["30"]["score"]["mean"]
    assert gain["value"] == pytest.approx(by_size["30"] - by_size["0"]) and gain["low"] < gain["high"]


def test_what_is_missing_is_made_anew_and_equal(adapted, tmp_path, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(adapted, folder, copy_function=shutil.copy2)
    before = {path.name: path.read_bytes() for path in (folder / "out/domains/adapted").rglob("*.npy")}
    # A model a fold and seed, or a model a fold and domain; each after 10 and 30 rows.
    assert len(before) == 2 * (4 + 2) and not list((folder / "out/domains").rglob("*.tmp"))
    first = sorted((folder / "out/domains/adapted/single").glob("*.rows_30.*"))[0]
    first.unlink()
    capsys.readouterr()
    assert main(["domains", "adapt", "--rows", "10,30", *here(folder)]) == 0
    told = capsys.readouterr().out
    assert "single fold_" in told and "pooled fold_" not in told
    assert {path.name: path.read_bytes() for path in (folder / "out/domains/adapted").rglob("*.npy")} == before
    assert main(["clean", "--json", *here(folder)]) == 0
    assert "adapted" not in capsys.readouterr().out
    (folder / "out/domains/adapted/pooled/fold_9.npy").write_bytes(b"of another run")
    assert main(["clean", "--json", *here(folder)]) == 0
    assert "fold_9.npy" in capsys.readouterr().out


def test_only_models_that_have_not_seen_the_domain_are_adapted(made):  # noqa: F811
    from src.pipeline.stages.adaptation import Adaptation

    other = workspace_of(made)
    object.__setattr__(other.splits, "scheme", "kfold")
    assert "folds.scheme=domains, and then train" in error_of(Adaptation([], [10]).targets, other)
    assert main(["domains", "--rows", "10", *words(made)]) == 2
    assert main(["domains", "adapt", "--rows", "ten", *words(made)]) == 2


def test_few_rows_have_no_separators_to_reorder_clauses_by(tmp_path):
    make_reports(tmp_path / "in", rows=1000, test_rows=20, task=ROUND1, seed=3)
    settings = text_words(
        tmp_path / "in", tmp_path / "out", "train.epochs=1", "train.reorder=0.5",
        "folds.scheme=domains", "domains.by=clusters", "domains.k=2",
        "select_on=clean", "adapt.draws=1", "adapt.epochs=1",
    )  # fmt: skip
    assert main(["train", "--model", "lstm", *settings]) == 0
    assert main(["domains", "adapt", "lstm", "--rows", "10", *settings]) == 0
