"""./run.sh shift on sample data, and the validations that stand on what it leaves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from src.__main__ import main
from src.core.settings import ROOT
from src.core.settings_loader import load_config
from src.data import near_duplicates
from src.data.corpus import Corpus, unpad
from src.data.corruption import corrupt
from src.data.dataset import Dataset
from src.data.ngrams import take
from src.data.report_reader import read_reports
from src.data.synthetic import TEST_NOISE, TRAIN_NOISE, make_sample
from src.data.tasks import ROUND1, get_task
from src.evaluation import covariate_shift, metrics, noise_estimation, shift_summary
from src.evaluation.validation_sets import VALIDATIONS, ValidationSets, names_of_figures, validation
from src.evaluation.workspace import Workspace
from tests.conftest import LARGE_ROWS as ROWS
from tests.conftest import LARGE_TEST_ROWS as TEST_ROWS
from tests.conftest import error_of, words


@pytest.fixture
def reports(shifted) -> Path:
    return shifted / "input"


@pytest.fixture
def measured(shifted) -> Path:
    return shifted / "output"


def load(output: Path, folder: Path | None = None) -> tuple[Dataset, ValidationSets]:
    """`folder`: the input folder (default: input beside `output`)."""
    places = [f"paths.input={folder or output.parent / 'input'}", f"paths.output={output}"]
    workspace = Workspace(load_config("sample", places))
    return workspace.dataset, workspace.validation_sets


def test_noise_is_found_and_told(measured):
    facts = json.loads((measured / "shift/shift.json").read_text())
    assert facts["train"]["noise"]["rates"]["replacement"] == pytest.approx(TRAIN_NOISE.replacement, abs=0.03)
    for found in facts["tests"].values():
        low, high = found["noise"]["intervals"]["replacement"]
        assert low - 0.02 <= TEST_NOISE.replacement <= high + 0.02
        assert found["test_noise_total"] > found["train_noise_total"]
        assert found["noised_total"] == pytest.approx(found["test_noise_total"], abs=0.01)
        assert found["adversarial"]["auc"] > 0.75 > 0.5 < found["adversarial"]["auc_noise_matched"]
        assert found["similarity"]["test"]["median"] < found["similarity"]["train"]["median"]
        tokens = {token for ngram in found["adversarial"]["telling"] for token in ngram["tokens"]}
        assert tokens <= set(range(858)), "n-grams are told in the token ids of the files"
    told = shift_summary.paragraph(facts)
    assert "testA" in told and "select_on=shifted" in told and "expected leaderboard" in told
    assert told in (measured / "shift/shift.md").read_text()
    assert (measured / "shift/shift.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_shown_fits_80_columns_and_a_second_run_does_nothing(measured, reports, capsys):
    before = (measured / "shift/shift.json").stat().st_mtime_ns
    assert main(["shift", *words(reports, measured)]) == 0
    assert "shift: up to date" in capsys.readouterr().out
    assert (measured / "shift/shift.json").stat().st_mtime_ns == before
    shift_summary.show(json.loads((measured / "shift/shift.json").read_text()))
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) <= 8 and all(len(line) <= 80 for line in shown) and "…" not in "".join(shown)
    assert shown[0].startswith("shift: tokens with noise") and "What to do: " in "".join(shown)


def test_noisy_copies_are_of_the_same_reports(measured):
    dataset, shift = load(measured)
    assert shift.rows.tolist() == list(range(ROWS))
    for test in shift.tests:
        assert len(test.noised) == 2
        for folder in test.noised:
            copy = Corpus.load(folder)
            np.testing.assert_array_equal(copy.ids, dataset.train.ids)
            shared = np.mean(np.asarray(copy.tokens)[:, 0] == np.asarray(dataset.train.tokens)[:, 0])
            assert 0.7 < shared < 0.97
        assert not np.array_equal(*(np.load(folder / "tokens.npy") for folder in test.noised))
        similarity_of = test.array("similarity")
        assert similarity_of.shape == test.array("weights").shape == (3, ROWS)
        assert similarity_of[1:].mean() < similarity_of[0].mean()
        np.testing.assert_allclose(test.array("weights").mean(axis=1), 1, rtol=1e-6)
        assert len(test.noise_levels) == 3


def test_a_rows_likeness_leaves_out_its_own_fold(measured):
    dataset, shift = load(measured)
    folds = dataset.load_splits().first
    train = unpad(np.asarray(dataset.train.tokens), np.asarray(dataset.train.lengths))
    vectors = near_duplicates.tfidf([train], 2)[0]
    cosines = (vectors[:50] @ vectors.T).toarray()
    expected = [row[folds != fold].max() for row, fold in zip(cosines, folds[:50], strict=True)]
    np.testing.assert_allclose(shift.tests[0].array("similarity")[0, :50], expected, atol=1e-5)


@pytest.mark.parametrize("name", VALIDATIONS)
def test_validations_pick_the_right_rows(measured, name):
    dataset, shift = load(measured)
    folds, test = dataset.load_splits(), shift.tests[0]
    rows = validation(name, shift.rows, test, folds)
    oof = np.arange(ROWS)[:, None].astype(float)
    copies = np.stack([oof + 0.25, oof + 0.5])
    logits = rows.logits(oof, copies)[:, 0]
    np.testing.assert_array_equal(np.floor(logits), rows.rows)
    assert sorted(set((logits % 1).tolist())) == ([0.25, 0.5] if name in ("noised", "shifted") else [0.0])
    assert rows.weights.mean() == pytest.approx(1)
    assert (rows.weights.std() > 0.1) == (name in ("weighted", "shifted"))
    assert rows.effective_size <= ROWS + 1e-6
    assert (rows.effective_size < 0.98 * ROWS) == (name in ("weighted", "shifted"))
    some = rows.only(folds.first == 0)
    assert set(folds.first[some.rows]) == {0} and some.weights.mean() == pytest.approx(1)
    assert "sample_testA.csv" in rows.described(test) or name == "clean"


def test_targets(measured):
    _, shift = load(measured)
    assert shift.target("last").name == "sample_testB.csv"
    assert shift.target("sample_testA.csv").name == "sample_testA.csv"
    assert "unknown target 'testC'" in (told := error_of(shift.target, "testC")) and "sample_testA.csv" in told


def test_a_sample_of_large_files_is_looked_at(reports, tmp_path, capsys):
    assert main(["shift", *words(reports, tmp_path, "shift.max_rows=1500")]) == 0
    shown = (tmp_path / "shift/shift.md").read_text()
    assert "1,500" in shown and "4,000" in shown
    dataset, shift = load(tmp_path, reports)
    assert len(shift.rows) == 1500 < len(dataset.train)
    assert len(shift.tests[0].array("test_rows")) == 1000
    rows = validation("shifted", shift.rows, shift.tests[0], dataset.load_splits())
    assert set(rows.rows) == set(shift.rows.tolist())


def test_clean_train_and_test_of_one_pool_are_called_alike(tmp_path, capsys):
    """Both files from one pool and without noise: a train sample is cut in two."""
    make_sample(tmp_path / "made", rows=4000, test_rows=10, task=ROUND1, seed=5, noise=False)
    lines = (tmp_path / "made/sample_train.csv").read_text().splitlines(keepends=True)
    (tmp_path / "input").mkdir()
    (tmp_path / "input/train.csv").write_text("".join(lines[:3000]))
    (tmp_path / "input/test.csv").write_text("".join(line.rsplit("|,|", 1)[0] + "\n" for line in lines[3000:]))
    assert main(["shift", *words(tmp_path / "input", tmp_path / "output")]) == 0
    shown = (tmp_path / "output/shift/shift.md").read_text()
    assert "no noise" in shown and "select_on=shifted" not in shown
    dataset, shift = load(tmp_path / "output")
    test = shift.tests[0]
    assert not test.noised
    rows = validation("noised", shift.rows, test, dataset.load_splits())
    assert rows.copies is None and len(rows.rows) == 3000
    assert abs(test.facts["adversarial"]["auc"] - 0.5) < 0.06
    assert test.facts["effective_size"]["weighted"] > 2000


def test_train_files_alone(reports, tmp_path, capsys):
    (tmp_path / "input").mkdir()
    shutil.copy(reports / "sample_train.csv", tmp_path / "input")
    assert main(["shift", *words(tmp_path / "input", tmp_path / "output")]) == 0
    assert "There is no test file to compare with" in (tmp_path / "output/shift/shift.md").read_text()
    dataset, shift = load(tmp_path / "output")
    assert shift.target("last") is None
    rows = validation("shifted", shift.rows, None, dataset.load_splits())
    assert rows.copies is None and rows.described(None) == "train rows as they are"


@pytest.mark.slow
def test_a_holdout_compares_with_its_train_part(reports, tmp_path):
    assert main(["shift", *words(reports, tmp_path, "folds.scheme=holdout", "shift.draws=1")]) == 0
    dataset, shift = load(tmp_path, reports)
    folds, test = dataset.load_splits(), shift.tests[0]
    rows = validation("shifted", shift.rows, test, folds)
    assert (folds.first[rows.rows] >= 0).all() and len(rows.rows) == (folds.first >= 0).sum()
    corpora = dataset.train, Corpus.load(dataset.test_folder(test.name))
    train, other = (unpad(np.asarray(corpus.tokens), np.asarray(corpus.lengths)) for corpus in corpora)
    seen, queries = near_duplicates.tfidf([train, other], 2)
    expected = (queries[:30] @ seen[folds.first == -1].T).toarray().max(axis=1)
    np.testing.assert_allclose(test.array("test_similarity")[:30], expected, atol=1e-5)
    weights, cosines = test.array("weights")[0], test.array("similarity")[0]
    assert (weights[folds.first == -1] == 0).all()
    judged = folds.first >= 0
    aim = test.array("test_similarity").mean()
    assert abs(np.average(cosines[judged], weights=weights[judged]) - aim) < abs(cosines[judged].mean() - aim) / 2


def test_a_test_file_of_a_few_reports_is_no_error(reports, tmp_path, capsys):
    folder = Path(shutil.copytree(reports, tmp_path / "input"))
    lines = (reports / "sample_testA.csv").read_text().splitlines(keepends=True)
    (folder / "a_test.csv").write_text("".join(lines[:3]))
    assert main(["shift", *words(folder, tmp_path / "output", "shift.weights=odds", "shift.draws=1")]) == 0
    assert "too few reports" in (tmp_path / "output/shift/shift.md").read_text()
    assert "a_test.csv" in capsys.readouterr().err
    _, shift = load(tmp_path / "output")
    few = next(test for test in shift.tests if test.name == "a_test.csv")
    assert few.facts["test_noise_total"] == few.facts["train_noise_total"] > 0.1
    assert few.array("weights").tolist() == [[1.0] * ROWS]


@pytest.mark.slow
def test_what_is_deleted_is_made_again(measured, reports, tmp_path, capsys):
    output = Path(shutil.copytree(measured, tmp_path / "output"))
    before = (output / "shift/sample_testB/noised_0/tokens.npy").read_bytes()
    shutil.rmtree(output / "shift/sample_testB")
    assert main(["shift", *words(reports, output)]) == 0
    assert "up to date (tokens" not in capsys.readouterr().out
    assert (output / "shift/sample_testB/noised_0/tokens.npy").read_bytes() == before


def test_an_unknown_target_is_told_before_training(measured, reports, capsys):
    assert main(["shift", *words(reports, measured, "target=testC")]) == 2
    assert "unknown target 'testC'" in capsys.readouterr().err
    assert main(["shift", *words(reports, measured, "target=sample_testA")]) == 0


def test_shift_of_other_files_is_not_taken(measured, reports, tmp_path):
    output = Path(shutil.copytree(measured, tmp_path / "output"))
    assert main(["folds", *words(reports, output, "folds.k=3")]) == 0
    assert "of other files or folds than are there now. Run: ./run.sh shift --preset" in error_of(load, output, reports)


def test_a_stand_in_has_known_answers(measured, reports, tmp_path, capsys):
    to, folder = tmp_path / "proof", Path(shutil.copytree(reports, tmp_path / "input"))
    shutil.copy(folder / "answers_A.csv", folder / "extra_A.csv")
    shutil.copy(folder / "sample_train.csv", folder / "extra_same.csv")
    command = ["standin", str(reports / "sample_train.csv"), "--to", str(to), *words(folder, measured)]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "standin: both:" in shown and "extra_same.csv is FILE itself" in shown
    assert [path.name for path in to.glob("*extra*")] == ["extra_A.csv"], "the answers must not be learned from"
    source = read_reports(reports / "sample_train.csv")
    for name in ("plain", "noised", "weighted", "both"):
        answers, test = (read_reports(to / f"standin_{name}_{kind}.csv") for kind in ("answers", "test"))
        assert test.labels is None and answers.task == ROUND1
        np.testing.assert_array_equal(answers.tokens, test.tokens)
        labels = dict(zip(source.ids, source.labels, strict=True))
        assert all((labels[i] == row).all() for i, row in zip(answers.ids, answers.labels, strict=True))
        assert (len(answers) == ROWS) == (name in ("plain", "noised"))
    assert {path.name for path in to.glob("sample_*")} >= {"sample_train.csv", "sample_testA.csv", "sample_testB.csv"}
    assert main(command) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_stand_in_is_drawn_as_written(measured, reports, tmp_path):
    """One generator of seed 0: the noise, the sample of the reports as they are, that of the noisy ones."""
    to = tmp_path / "proof"
    assert main(["standin", str(reports / "answers_A.csv"), "--to", str(to), *words(reports, measured)]) == 0
    names = ("sample_train", "sample_testB", "answers_A")
    files = [read_reports(reports / f"{name}.csv") for name in names]
    train, target, plain = texts = [(file.tokens, file.offsets) for file in files]
    learned = noise_estimation.learn_frames(texts)
    counts = [noise_estimation.count_outcomes(learned, text) for text in (plain, target)]
    rates = [noise_estimation.estimate_noise(learned, count, np.empty(0), 900).rates for count in counts]
    rng, vocabulary = np.random.default_rng(0), load(measured)[0].vocabulary
    noised = corrupt(*plain, noise_estimation.extra_noise(*rates), rng, vocabulary.words)
    for name, weighted, text in (("plain", "weighted", plain), ("noised", "both", noised)):
        seen, aim, own = near_duplicates.tfidf([train, target, text], 2)
        aim, own = (near_duplicates.nearest(one, seen, np.zeros(ROWS, dtype=int))[:, 0] for one in (aim, own))
        weights = covariate_shift.similarity_weights(own, aim)
        size = int(metrics.effective_size(weights))
        rows = np.sort(rng.choice(TEST_ROWS, size, replace=False, p=weights / weights.sum()))
        assert size < TEST_ROWS
        for made, (tokens, offsets) in ((name, text), (weighted, take(*text, rows))):
            found = read_reports(to / f"standin_{made}_test.csv")
            np.testing.assert_array_equal(found.tokens, tokens)
            np.testing.assert_array_equal(found.offsets, offsets)


@pytest.mark.slow
def test_a_stand_in_is_compared_with_no_more_train_reports_than_shift_looks_at(measured, reports, tmp_path, capsys):
    command = ["standin", str(reports / "answers_A.csv"), "--to", str(tmp_path / "proof")]
    assert main([*command, *words(reports, measured, f"shift.max_rows={ROWS - 1}")]) == 0
    shown = capsys.readouterr().out
    line = next(line for line in shown.splitlines() if "shift.max_rows" in line)
    assert f"{ROWS - 1:,} of the {ROWS:,} reports of train" in line
    assert "standin: both:" in shown and shown.count("shift.max_rows") == 1


def test_the_table_and_the_page_say_alike_which_figures_they_hold():
    told = names_of_figures(get_task("frames10", "accuracy"))
    assert told == "validations are of accuracy (metric), expected of 1 - log loss"
    assert "accuracy" not in told.in_language("zh")
    where = [path for path in (ROOT / "src").rglob("*.py") if "validations are of" in path.read_text(encoding="utf-8")]
    assert [path.name for path in where] == ["validation_sets.py"]
