"""./run.sh shift on series: planted differences between files are found, told and weighted away."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from src.__main__ import main
from src.core.settings_loader import load_config
from src.data.corpus import Corpus
from src.data.inputs import InputShape
from src.data.synthetic_stays import make_sample
from src.evaluation import covariate_shift, metrics, series_shift, shift_summary
from src.evaluation.validation_sets import VALIDATIONS
from src.evaluation.workspace import Workspace
from src.models.summaries import summary_names, summary_table

PARAMETERS = ("HR", "HRmax", "Lactate", "Temp")
STATICS = ("Age", "Height")
STEPS, ROWS = 6, 400
SHAPE = InputShape("series", steps=STEPS, parameters=PARAMETERS, kinds=("vital",) * len(PARAMETERS), statics=STATICS)


def stays(rng: np.random.Generator, n: int = ROWS) -> Corpus:
    """Stays with a value in half of the time steps and an age."""
    values = rng.normal(size=(n, STEPS, len(PARAMETERS))).astype(np.float32)
    values[rng.random(values.shape) < 0.5] = np.nan
    statics = rng.normal(60, 10, size=(n, 1, 2)).astype(np.float32)
    statics[rng.random(n) < 0.4, 0, 1] = np.nan
    ids = np.char.mod("%d", rng.permutation(10**6)[:n]).astype("S")
    labels = (rng.random((n, 1)) < 0.3).astype(np.uint8)
    return Corpus(
        {"values": values, "statics": statics},
        np.full(n, STEPS, dtype=np.int32),
        ids,
        labels,
        np.zeros(n, dtype=np.uint8),
    )


def table(corpus: Corpus, shape: InputShape = SHAPE) -> np.ndarray:
    return summary_table(corpus.inputs, corpus.lengths, shape)


def adversarial(train: Corpus, test: Corpus) -> covariate_shift.Adversarial:
    names = summary_names(SHAPE)
    return series_shift.adversarial(table(train), table(test), names, series_shift.owners_of(names, PARAMETERS))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_two_halves_of_a_set_are_not_told_apart(rng):
    found = adversarial(stays(rng), stays(rng))
    assert found.auc == pytest.approx(0.5, abs=3 * 1.4 * found.standard_error)
    assert found.standard_error == pytest.approx(0.02, abs=0.003)
    weights = series_shift.weights(found, np.ones(ROWS, dtype=bool), "similarity", 10)
    assert metrics.effective_size(weights) > 0.8 * ROWS  # 20 bins of 20 rows each


@pytest.mark.parametrize(
    ("parameter", "change"), [("Lactate", "values"), ("HR", "values"), ("Temp", "missing"), ("Age", "statics")]
)
def test_a_planted_difference_is_found_and_named_first(rng, parameter, change):
    train, test = stays(rng), stays(rng)
    if change == "values":
        test.inputs["values"][..., PARAMETERS.index(parameter)] += 1
    elif change == "missing":
        lost = rng.random((ROWS, STEPS)) < 0.5
        test.inputs["values"][..., PARAMETERS.index(parameter)][lost] = np.nan
    else:
        test.inputs["statics"][..., 0] += 15
    found = adversarial(train, test)
    assert found.auc > 0.7
    first = found.telling[0]
    assert first["feature"].split(" ")[0] == parameter
    column = table(train)[:, summary_names(SHAPE).index(first["feature"])]
    assert first["train"] == pytest.approx(np.nanmean(column), rel=1e-5)
    assert (first["z"] > 0) == (first["auc"] > 0.5) == (change != "missing")
    owners = [one["feature"].split(" ")[0] for one in found.telling]
    assert len(set(owners)) == len(owners), "a parameter is named once"


def test_sizes_of_the_files_do_not_move_the_odds(rng):
    """A test file of a fifth of the size: log odds are as if both files had one size."""
    found = adversarial(stays(rng, 1000), stays(rng, 200))
    assert abs(found.train_logits.mean()) < 0.5


@pytest.mark.parametrize("method", ["similarity", "odds"])
def test_weights_move_means_to_the_test_file_within_their_clip(rng, method):
    train, test = stays(rng, 1000), stays(rng, 1000)
    test.inputs["values"][..., 0] += 0.7
    found = adversarial(train, test)
    judged = np.arange(1000) % 4 > 0
    weights = series_shift.weights(found, judged, method, 5.0)
    assert (weights[~judged] == 0).all() and weights[judged].mean() == pytest.approx(1)
    assert weights.max() <= 5.0 * (1 + 1e-6) and weights.max() > 2
    means = [np.ma.masked_invalid(corpus.inputs["values"][..., 0]).mean(axis=1) for corpus in (train, test)]
    weighted = np.ma.average(means[0], weights=weights)
    assert means[0].mean() + 0.4 < weighted < means[1].mean() + 0.2


def test_values_alone_do_not_know_how_often_a_parameter_is_observed(rng):
    train, test = stays(rng), stays(rng)
    test.inputs["values"][rng.random(test.inputs["values"].shape) < 0.4] = np.nan
    assert adversarial(train, test).auc > 0.8
    *alone, kept = series_shift.values_alone(table(train), table(test), summary_names(SHAPE), SHAPE)
    assert kept == [*(f"{name} mean" for name in PARAMETERS), *STATICS] and np.isfinite(alone).all()
    assert series_shift.adversarial(*alone, kept, kept).auc < 0.7
    test.inputs["statics"][..., 0] += 15
    *alone, kept = series_shift.values_alone(table(train), table(test), summary_names(SHAPE), SHAPE)
    assert series_shift.adversarial(*alone, kept, kept).telling[0]["feature"] == "Age"


def test_odds_are_out_of_fold(rng):
    """Features of pure noise, more than rows: odds of rows that a classifier has seen would tell the files apart."""
    train, test = rng.normal(size=(2, 60, 200))
    names = [f"f{i}" for i in range(200)]
    found = series_shift.adversarial(train, test, names, names)
    assert abs(found.auc - 0.5) < 0.2


def test_ranks_give_the_auc_and_its_z(rng):
    from scipy.stats import mannwhitneyu

    train, test = rng.integers(0, 5, 300).astype(float), rng.integers(1, 6, 200).astype(float)
    train[:50] = np.nan
    (found,) = series_shift.telling_features(train[:, None], test[:, None], ["x"], ["x"])
    expected = mannwhitneyu(test, train[50:], method="asymptotic", use_continuity=False)
    assert found["auc"] == pytest.approx(expected.statistic / (250 * 200))
    from scipy.stats import norm

    assert 2 * norm.sf(abs(found["z"])) == pytest.approx(expected.pvalue, rel=1e-6)
    constant = np.ones((10, 1))
    assert series_shift.telling_features(constant, constant, ["x"], ["x"]) == []
    assert series_shift.telling_features(np.full((10, 1), np.nan), constant, ["x"], ["x"]) == []


def test_parameters_own_their_features():
    owners = series_shift.owners_of(["HR mean", "HRmax mean", "Age", "HR"], PARAMETERS)
    assert owners == ["HR", "HRmax", "Age", "HR"]


def test_missingness_and_statics_are_compared_with_their_errors(rng):
    train, test = stays(rng), stays(rng)
    test.inputs["values"][: ROWS // 2, :, 1] = np.nan
    test.lengths[:] = STEPS - 2  # what lies beyond is not read
    coverage = [
        series_shift.coverage(corpus.inputs["values"], corpus.lengths, np.arange(len(corpus)))
        for corpus in (train, test)
    ]
    expected = np.isfinite(test.inputs["values"][:, : STEPS - 2]).mean(axis=1)
    np.testing.assert_allclose(coverage[1], expected)
    found = {one["parameter"]: one for one in series_shift.missingness(*coverage, PARAMETERS)}
    steps = found["HRmax"]["steps"]
    assert steps["difference"] == pytest.approx(steps["test"] - steps["train"]) == pytest.approx(-0.25, abs=0.04)
    spread = np.sqrt(coverage[0][:, 1].var() / ROWS + coverage[1][:, 1].var() / ROWS)
    assert steps["standard_error"] == pytest.approx(spread)
    assert found["HRmax"]["rows"]["test"] == pytest.approx(0.5, abs=0.05)
    assert abs(series_shift.significance(found["Temp"]["steps"])) < 4 < abs(series_shift.significance(steps))
    tables = [corpus.inputs["statics"][:, 0] for corpus in (train, test)]
    tables[1][:, 1] = np.nan
    age, height = series_shift.statics(*tables, STATICS)
    assert age["value"]["train"] == pytest.approx(tables[0][:, 0].mean()) and age["known"]["test"] == 1
    assert height["value"] is None and height["known"]["test"] == 0


@pytest.fixture(scope="module")
def measured(made_once) -> Path:
    """input/: 300 stays of set-a and 150 of set-b; output/: a finished shift stage."""

    def make(folder: Path) -> None:
        make_sample(folder / "input", rows=300, test_rows=150, seed=3)
        assert main(words(folder, folder / "output")) == 0

    return made_once("shift of stays", make)


def words(folder: Path, output: Path, *more: str) -> list[str]:
    return [
        "shift",
        "--task",
        "icu",
        "--preset",
        "sample",
        f"paths.input={folder}/input",
        f"paths.output={output}",
        *more,
    ]


def load(output: Path, task: str = "icu", *more: str) -> Workspace:
    return Workspace(
        load_config(
            "sample", [f"task={task}", f"paths.input={output.parent / 'input'}", f"paths.output={output}", *more]
        )
    )


def test_the_stage_tells_what_was_planted_in_the_sample(measured):
    """set-b is older and measured less often."""
    facts = json.loads((measured / "output/shift/shift.json").read_text())
    (found,) = facts["tests"].values()
    assert facts["noun"] == "stays" and facts["sampled"] == facts["rows"] == {"train": 300, "set-b": 150}
    assert found["adversarial"]["auc"] > 0.7
    assert found["draws"] == found["noised_total"] == found["train_noise_total"] == found["test_noise_total"] == 0
    steps = {one["parameter"]: one["steps"] for one in found["missingness"]}
    assert len(steps) == 37 and steps["HR"]["difference"] < -4 * steps["HR"]["standard_error"]
    statics = {one["name"]: one["value"] for one in found["statics"]}
    assert statics["Age"]["difference"] > 2
    told = shift_summary.paragraph(facts)
    assert "stays" in told and "Urine" in told and "report" not in told and "set-b" in told
    assert told in (measured / "output/shift/shift.md").read_text()
    assert (measured / "output/shift/shift.png").read_bytes().startswith(b"\x89PNG")


def test_validations_stand_on_the_stage(measured):
    workspace = load(measured / "output")
    test = workspace.target
    assert test.array("similarity").shape == test.array("weights").shape == (1, 300)
    assert test.array("test_similarity").shape == (150,) and test.noised == []
    for similarity in (test.array("similarity"), test.array("test_similarity")):
        assert 0 <= similarity.min() < similarity.max() <= 1
    assert np.median(test.array("test_similarity")) < np.median(test.array("similarity"))
    rows = {name: workspace.validation(name) for name in VALIDATIONS}
    for one, other in (("clean", "noised"), ("weighted", "shifted")):
        assert (rows[one].rows == rows[other].rows).all() and (rows[one].weights == rows[other].weights).all()
    assert rows["clean"].weights.std() == 0 < 0.3 < rows["weighted"].weights.std()
    age = workspace.dataset.train.inputs["statics"][:, 0, 0]
    there = Corpus.load(workspace.dataset.test_folder("set-b")).inputs["statics"][:, 0, 0].mean()
    assert age.mean() + 0.2 * (there - age.mean()) < np.average(age, weights=rows["weighted"].weights)
    size = test.facts["effective_size"]
    assert size["weighted"] == size["shifted"] < 250
    assert size["weighted"] == pytest.approx(rows["weighted"].effective_size)


@pytest.mark.usefixtures("placed_pictures")
def test_a_second_run_does_nothing_and_a_lost_file_is_made_again_with_the_same_bytes(measured, tmp_path, capsys):
    folder = shutil.copytree(measured, tmp_path / "copy", copy_function=shutil.copy2)
    shift = folder / "output/shift"
    before = {path: path.read_bytes() for path in shift.rglob("*") if path.is_file()}
    command = words(measured, folder / "output")
    assert main(command) == 0
    assert "shift: up to date" in capsys.readouterr().out
    (shift / "set-b/weights.npy").unlink()
    assert main([*command, "executor.threads=2"]) == 0
    assert {path: path.read_bytes() for path in shift.rglob("*") if path.is_file()} == before
    shown = capsys.readouterr().out
    assert all(len(line) <= 80 for line in shown.splitlines() if not line.startswith(("shift", "prepare", "tables")))


def test_large_files_are_sampled_and_holdout_weighs_what_is_judged(measured, tmp_path):
    assert main(words(measured, tmp_path, "shift.max_rows=120", "folds.scheme=holdout")) == 0
    workspace = load(tmp_path, "icu", f"paths.input={measured / 'input'}")
    rows, test = workspace.validation_sets.rows, workspace.target
    assert len(rows) == len(test.array("test_rows")) == 120 and (np.diff(rows) > 0).all()
    judged = workspace.splits.first[rows] >= 0
    assert (test.array("weights")[0] > 0).tolist() == judged.tolist()


def test_tiny_and_missing_test_files_are_told(tmp_path):
    make_sample(tmp_path / "input", rows=60, test_rows=4, seed=3)
    assert main(words(tmp_path, tmp_path / "output")) == 0
    facts = json.loads((tmp_path / "output/shift/shift.json").read_text())
    assert facts["tests"]["set-b"]["adversarial"]["auc"] is None and "too few stays" in shift_summary.paragraph(facts)
    assert "What to do: too little is known" in shift_summary.paragraph(facts)
    assert (load(tmp_path / "output").validation("weighted").weights == 1).all()
    (tmp_path / "input/set-b.zip").unlink()
    assert main(words(tmp_path, tmp_path / "output")) == 0
    facts = json.loads((tmp_path / "output/shift/shift.json").read_text())
    assert facts["tests"] == {} and "stays" in shift_summary.paragraph(facts)
    assert load(tmp_path / "output").target is None
