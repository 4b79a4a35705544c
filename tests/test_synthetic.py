"""Synthetic sample: reproducible, with the real files' statistics, and predictable only from the order of words."""

from __future__ import annotations

import itertools
import os
import shlex
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from src.__main__ import main
from src.core import storage
from src.core.errors import UserError
from src.core.settings_loader import load_config
from src.data import sources, synthetic
from src.data.corruption import NoiseRates
from src.data.report_reader import Reports, read_reports
from src.data.tasks import ROUND1, ROUND2
from src.pipeline.stages.sample import make_from

ROWS, TEST_ROWS = 5000, 1000
SMALL = {"rows": 60, "test_rows": 20, "task": ROUND1, "seed": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    synthetic.make_sample(folder, rows=ROWS, test_rows=TEST_ROWS, task=ROUND1, seed=0)
    return folder


@pytest.fixture(scope="module")
def clean_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clean")
    synthetic.make_sample(folder, rows=ROWS, test_rows=TEST_ROWS, task=ROUND2, seed=0, noise=False)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def bags(reports: Reports) -> np.ndarray:
    """Counts each token in each report: (N, 858)."""
    rows = np.repeat(np.arange(len(reports)), reports.lengths)
    cells = np.bincount(rows * synthetic.VOCABULARY + reports.tokens, minlength=len(reports) * synthetic.VOCABULARY)
    return cells.reshape(len(reports), synthetic.VOCABULARY)


def score(labels: np.ndarray, probabilities: np.ndarray) -> float:
    p = np.clip(probabilities, 1e-7, 1 - 1e-7)
    return 1 + np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p))


class Listener:
    """Parser of clean reports: clauses, their regions, and findings outside every negation."""

    def __init__(self):
        classes = synthetic.language().classes
        self.class_of = {int(word): name for name, ids in classes.items() if name != "f" for word in ids}

    def labels(self, tokens: np.ndarray) -> np.ndarray:
        """Returns the labels of a report, (29,) uint8, regions first."""
        labels, clause = np.zeros(ROUND2.n_labels, np.uint8), []
        for word in tokens.tolist():
            name = self.class_of[word]
            clause.append(name)
            if name == ".":
                found = self._found(clause)
                if found:
                    labels[self._region(clause)] = 1
                    labels[[synthetic.N_REGIONS + t for t in found]] = 1
                clause = []
        assert not clause, "a report ends with a full stop"
        return labels

    @staticmethod
    def _found(clause: list[str]) -> list[int]:
        """Types of the stated findings. "no" negates up to "but" or the end, "out" back to the beginning."""
        found, denied = [], False
        for name in clause:
            if name == "out":
                found = []
            elif name in ("no", "but"):
                denied = name == "no"
            elif name.startswith("type") and not denied:
                found.append(int(name.removeprefix("type")))
        return found

    @staticmethod
    def _region(clause: list[str]) -> int:
        for before, name in itertools.pairwise(["", *clause]):
            if name.startswith("region"):
                return int(name.removeprefix("region"))
            if name.startswith("organ"):
                return synthetic.PAIRS[int(name.removeprefix("organ"))][int(before.removeprefix("side"))]
        raise AssertionError(f"no region in {clause}")


def test_the_files_are_what_they_are_called(folder):
    assert sorted(contents(folder)) == sorted([*synthetic.FILES, synthetic.NOTE])
    assert [path.name for path in folder.glob("*train*.csv")] == ["sample_train.csv"]
    assert sorted(path.name for path in folder.glob("*test*.csv")) == ["sample_testA.csv", "sample_testB.csv"]
    assert len(read_reports(folder / "sample_train.csv", labelled=True)) == ROWS
    for letter in "AB":
        test = read_reports(folder / f"sample_test{letter}.csv", labelled=False)
        answers = read_reports(folder / f"answers_{letter}.csv", labelled=True)
        assert len(test) == TEST_ROWS and answers.task is ROUND1
        for name in ("ids", "tokens", "offsets"):
            assert np.array_equal(getattr(test, name), getattr(answers, name))
    assert "no line is from a real report" in (folder / synthetic.NOTE).read_text()


def test_same_arguments_same_bytes(tmp_path):
    paths = synthetic.make_sample(tmp_path / "a", **SMALL)
    assert [path.name for path in paths] == [*synthetic.FILES, synthetic.NOTE] and all(path.exists() for path in paths)
    synthetic.language.cache_clear()
    synthetic.make_sample(tmp_path / "b", **SMALL)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    synthetic.make_sample(tmp_path / "b", **{**SMALL, "seed": 4})
    assert not any(contents(tmp_path / "a")[name] == contents(tmp_path / "b")[name] for name in synthetic.FILES)


def test_without_noise_the_reports_and_labels_are_the_same(folder, clean_folder):
    for name in ("sample_train.csv", "answers_A.csv", "answers_B.csv"):
        noisy, clean = read_reports(folder / name), read_reports(clean_folder / name)
        assert np.array_equal(noisy.labels, clean.labels_for(ROUND1))


def test_the_second_test_file_is_not_the_first(folder):
    a, b = (read_reports(folder / f"sample_test{letter}.csv") for letter in "AB")
    texts = [{report.tobytes() for report in reports} for reports in (a, b, read_reports(folder / "sample_train.csv"))]
    assert len(texts[2]) > 0.98 * ROWS, "duplicates are rare"
    assert len(texts[0] & texts[1]) < 10


def test_numbers_are_those_of_the_real_files(folder):
    train = read_reports(folder / "sample_train.csv")
    counts = train.labels.sum(axis=1)
    assert (counts == 0).mean() == pytest.approx(0.262, abs=0.02)
    assert (counts == 1).mean() == pytest.approx(0.442, abs=0.025)
    rates = train.labels.mean(axis=0)
    assert np.abs(rates - synthetic.REGION_RATES / 100).max() < 0.02
    assert score(train.labels, np.broadcast_to(rates, train.labels.shape)) == pytest.approx(0.735, abs=0.02)
    assert train.lengths.mean() == pytest.approx(41.5, abs=1.5) and train.lengths.std() == pytest.approx(18.5, abs=2)
    for name in ("sample_train.csv", "sample_testA.csv", "sample_testB.csv"):
        reports = read_reports(folder / name)
        assert reports.lengths.min() >= 4 and reports.lengths.max() <= 104
        assert np.array_equal(np.unique(reports.tokens), np.arange(858)), "every word occurs in every file, 0 too"


def test_some_words_are_far_more_frequent_than_others(folder):
    counts = np.sort(np.bincount(read_reports(folder / "sample_train.csv").tokens))[::-1]
    shares = counts / counts.sum()
    assert 0.03 < shares[0] < 0.08 and 0.004 < shares[30] < 0.02 and shares[400] < 0.001


def test_tests_are_noisier_than_train(folder, clean_folder):
    lost = {}
    for name in ("sample_train.csv", "sample_testA.csv", "sample_testB.csv"):
        clean, noisy = bags(read_reports(clean_folder / name)), bags(read_reports(folder / name))
        lost[name] = 1 - np.minimum(clean, noisy).sum() / clean.sum()
    # Replaced or deleted, less the few that come back by chance as an intruder.
    assert lost["sample_train.csv"] == pytest.approx(0.155 + 0.025, abs=0.01)
    assert lost["sample_testA.csv"] == pytest.approx(0.225 + 0.05, abs=0.015)
    assert lost["sample_testB.csv"] == pytest.approx(lost["sample_testA.csv"], abs=0.015)


def test_tests_come_from_another_pool(clean_folder):
    documents = {}
    for name in ("sample_train.csv", "sample_testA.csv", "sample_testB.csv"):
        reports = read_reports(clean_folder / name)
        documents[name] = [" ".join(map(str, reports[i].tolist())) for i in range(TEST_ROWS)]

    def auc(one: str, other: str) -> float:
        """AUC of a classifier that predicts the file of a report."""
        words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+", min_df=2)
        features, side = words.fit_transform(documents[one] + documents[other]), np.repeat([0, 1], TEST_ROWS)
        model = LogisticRegression(C=3, solver="liblinear")
        return roc_auc_score(side, cross_val_predict(model, features, side, cv=3, method="decision_function"))

    assert auc("sample_train.csv", "sample_testA.csv") > 0.8
    assert auc("sample_testA.csv", "sample_testB.csv") == pytest.approx(0.5, abs=0.06)


def test_whoever_minds_the_order_of_words_understands_everything(clean_folder):
    listener = Listener()
    for name, n in (("sample_train.csv", 1500), ("answers_A.csv", 500)):
        reports = read_reports(clean_folder / name)
        heard = np.array([listener.labels(reports[i]) for i in range(n)])
        assert np.array_equal(heard, reports.labels[:n])


def test_a_bag_of_words_does_not(clean_folder):
    train, test = read_reports(clean_folder / "sample_train.csv"), read_reports(clean_folder / "answers_A.csv")
    one, other = bags(train)[:3000], bags(test)
    models = [LogisticRegression(C=0.1, solver="liblinear").fit(one, column) for column in train.labels[:3000, :17].T]
    predictions = np.column_stack([model.predict_proba(other)[:, 1] for model in models])
    bag = score(test.labels[:, :17], predictions)
    prior = score(test.labels[:, :17], np.broadcast_to(train.labels[:, :17].mean(axis=0), (TEST_ROWS, 17)))
    # The listener above scores 1 on the same reports.
    assert prior + 0.05 < bag < 0.9


def test_the_same_words_can_mean_something_else():
    classes = synthetic.language().classes

    def info(text: str) -> np.ndarray:
        return np.array([classes[name][0] for name in text.split()])

    here = info("s type2 , s type5 in region3 part3 . no type7 in region6 part6 .")
    there = info("s type2 , s type5 in region6 part6 . no type7 in region3 part3 .")
    denied = info("no type2 in region3 part3 . s type5 , s type7 in region6 part6 .")
    assert sorted(here) == sorted(there) == sorted(denied)
    heard = [np.flatnonzero(Listener().labels(tokens)).tolist() for tokens in (here, there, denied)]
    assert heard == [[3, 19, 22], [6, 19, 22], [6, 22, 24]]


def test_round_2_has_types_where_it_has_regions(clean_folder):
    train = read_reports(clean_folder / "sample_train.csv")
    assert train.task is ROUND2 and train.labels.shape == (ROWS, 29)
    regions, types = (train.labels[:, columns] for columns in ROUND2.columns.values())
    assert np.array_equal(regions.any(axis=1), types.any(axis=1))
    assert (types.sum(axis=1) <= regions.sum(axis=1)).all(), "an abnormal clause adds one type"
    rates = types.mean(axis=0)
    assert rates.min() > 0 and rates.argmax() == 2 and rates.max() == pytest.approx(0.44, abs=0.03)


def test_lengths_hold_under_any_noise(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "TRAIN_NOISE", NoiseRates(insertion=1.0))
    monkeypatch.setattr(synthetic, "TEST_NOISE", NoiseRates(deletion=0.9))
    for name, noise in (("noisy", True), ("clean", False)):
        synthetic.make_sample(tmp_path / name, rows=500, test_rows=500, task=ROUND1, seed=0, noise=noise)
    doubled, spoken = (read_reports(tmp_path / name / "sample_train.csv").lengths for name in ("noisy", "clean"))
    assert np.array_equal(doubled, np.minimum(2 * spoken, 104)) and doubled.max() == 104
    thinned, spoken = (read_reports(tmp_path / name / "answers_A.csv") for name in ("noisy", "clean"))
    assert thinned.lengths.min() == 4
    kept = np.flatnonzero(thinned.lengths == spoken.lengths)
    assert len(kept) > 100, "what would fall below 4 words stays as it was"
    assert all(np.array_equal(thinned[i], spoken[i]) for i in kept)


def test_blocks_fit_together(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "_BLOCK", 100)
    synthetic.make_sample(tmp_path, rows=250, test_rows=10, task=ROUND2, seed=0, noise=False)
    train = read_reports(tmp_path / "sample_train.csv")
    assert np.array_equal([Listener().labels(train[i]) for i in range(250)], train.labels)
    assert len({train[i].tobytes() for i in range(250)}) > 240, "blocks differ from each other"


class Killed(BaseException):
    """Simulated kill that no handler catches."""


@pytest.mark.parametrize(
    ("place", "name", "calls"), [(synthetic, "write_reports", 3), (os, "replace", 2), (storage, "write_text", 0)]
)
def test_a_killed_run_does_not_look_complete(tmp_path, monkeypatch, place, name, calls):
    original, made = getattr(place, name), []

    def until_killed(*args):
        """Calls the original until the kill; renames count only if their target is the folder itself."""
        if name != "replace" or Path(args[1]).parent == tmp_path / "killed":
            if len(made) == calls:
                raise Killed
            made.append(args)
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, until_killed)
        with pytest.raises(Killed):
            synthetic.make_sample(tmp_path / "killed", **SMALL)
    assert len(made) == calls and not synthetic.is_complete(tmp_path / "killed")
    synthetic.make_sample(tmp_path / "killed", **SMALL)
    synthetic.make_sample(tmp_path / "whole", **SMALL)
    assert synthetic.is_complete(tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_killed_second_run_leaves_the_first_or_an_incomplete_one(tmp_path, monkeypatch):
    synthetic.make_sample(tmp_path, **SMALL)
    before = contents(tmp_path)

    def killed(*args):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "write_reports", killed)
        with pytest.raises(Killed):
            synthetic.make_sample(tmp_path, **{**SMALL, "seed": 4})
    assert synthetic.is_complete(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_text", killed)
        with pytest.raises(Killed):
            synthetic.make_sample(tmp_path, **{**SMALL, "seed": 4})
    assert not synthetic.is_complete(tmp_path)


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"test_rows": 0}, {"seed": -1}])
def test_impossible_sizes_are_refused(tmp_path, wrong):
    with pytest.raises(UserError, match="rows"):
        synthetic.make_sample(tmp_path / "sample", **{**SMALL, **wrong})
    assert not (tmp_path / "sample").exists()


@pytest.mark.parametrize("task", ["auto", "icu"])
def test_sample_data_of_another_folder_is_read_as_its_command_says(task, tmp_path, capsys):
    options = [] if task == "auto" else ["--task", task]
    places = [f"paths.input={tmp_path}", f"paths.output={tmp_path / 'out'}"]
    assert main(["sample", *options, *places, "--rows", "40", "--test-rows", "10"]) == 0
    told = capsys.readouterr().out
    _, script, command = told.partition("./run.sh ")
    assert main(["prepare", *options, *places]) == 2
    assert f"sample data is read with paths.input={tmp_path / 'sample'}" in capsys.readouterr().err
    assert script and main(["prepare", *shlex.split(command)]) == 0
    assert (tmp_path / "out/data/manifest.json").exists()


def test_sample_data_in_its_own_place_needs_no_word(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    (tmp_path / "input").mkdir()
    settings = load_config("sample", [f"paths.input={tmp_path / 'input'}", "sample.rows=40", "sample.test_rows=10"])
    make_from(settings)
    assert "paths.input" not in capsys.readouterr().out
    (tmp_path / "input/my_train.csv").write_text("0|,|1 2|,|3\n")
    make_from(settings)
    assert f"--preset sample paths.input={tmp_path / 'input/sample'}" in capsys.readouterr().out, "mine are read"
