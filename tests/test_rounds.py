"""Train files of both rounds: which is predicted, what the other one is, and what of it a fold may see."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from src.__main__ import main
from src.core.settings_loader import load_config
from src.core.storage import Output, file_sha256
from src.core.targets import check_files
from src.data import input_files
from src.data.corpus import Corpus, unpad
from src.data.dataset import NEAR, Dataset
from src.data.input_files import InputFiles
from src.data.near_duplicates import pairs_between
from src.data.report_reader import read_reports, write_reports
from src.data.rounds import round_of, with_parts
from src.data.synthetic import make_sample
from src.data.tasks import ROUND1, ROUND2
from src.evaluation.workspace import Workspace
from src.training import device_cache
from src.training.planning import fold_jobs
from tests.conftest import error_of, words

ROUND1_LINES, ROUND2_LINES = "0|,|1 2 3|,|0\n1|,|4 5|,|\n", "0|,|4 5 6|,|3,2\n1|,|600 1 2|,|,\n"
N_TRAIN = 120


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "one_train.csv").write_text(ROUND1_LINES)
    (tmp_path / "two_train.csv").write_text(ROUND2_LINES)
    return tmp_path


def files_of(folder: Path, *tests: str) -> InputFiles:
    for name in tests:
        (folder / name).write_text("0|,|1 2\n")
    return InputFiles(sorted(folder.glob("*train.csv")), [folder / name for name in tests])


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("0|,|1 2|,|", "round1"),
        ("0|,|1 2|,|3 4 \r\n1|,|1|,|\r\n", "round1"),
        ("0|,|1 2|,|,\n", "round2"),
        ("0|,|1 2|,|15 ,2 \n", "round2"),
        ("0|,|1 2\n", None),
        ("0|,|1 2|,|1,2,3\n", None),
        ("id,description\n", None),
        ("report_ID|,|description|,|label\n", None),
        ("", None),
    ],
)
def test_the_first_label_field_tells_the_round(tmp_path, text, name):
    (tmp_path / "train.csv").write_bytes(text.encode())
    assert round_of(tmp_path / "train.csv") == name


@pytest.mark.parametrize("test", ["track1_round1_testA.csv", "Round-1 test.csv", "test_round2_final.csv"])
def test_the_name_of_a_test_file_says_which_round_is_predicted(folder, test):
    found = with_parts(files_of(folder, "test.csv", test), "auto")
    one, two = folder / "one_train.csv", folder / "two_train.csv"
    train, extra = (two, one) if "2" in test else (one, two)
    assert (found.train, found.extra, found.overlooked) == ([train], [extra], [])
    (told,) = found.told
    assert f"round{2 if '2' in test else 1} is predicted, by {test}: " in told and told.endswith(extra.name)


def test_the_content_of_a_published_test_file_says_it_too(folder, monkeypatch):
    files = files_of(folder, "test.csv")
    monkeypatch.setitem(input_files.KNOWN, file_sha256(files.test[0]), "track1_round1_testB.csv")
    assert with_parts(files, "auto").train == [folder / "one_train.csv"]


@pytest.mark.parametrize(
    "tests", [(), ("test.csv",), ("round1_test.csv", "round2_test.csv"), ("round12_test.csv",), ("ground_2_test.csv",)]
)
def test_where_nothing_says_which_round_is_predicted_a_task_is_asked_for(folder, tests):
    error = error_of(with_parts, files_of(folder, *tests), "auto")
    assert "one_train.csv is round1, two_train.csv is round2" in error and "--task round1 or --task round2" in error


@pytest.mark.parametrize(("task", "train"), [("round1", "one_train.csv"), ("round2", "two_train.csv")])
def test_the_task_that_is_named_decides(folder, task, train):
    files = files_of(folder, "round1_test.csv")
    (folder / "more_extra.csv").write_text(ROUND2_LINES)
    found = with_parts(replace(files, extra=[folder / "more_extra.csv"]), task)
    assert [path.name for path in found.train] == [train] and found.told[0].startswith(f"{task} is predicted, by task=")
    assert found.extra == sorted({folder / "more_extra.csv", *files.train} - {folder / train})


@pytest.mark.parametrize("task", ["auto", "round1", "round2"])
def test_files_of_one_round_stay_as_they_are(folder, task):
    (folder / "one_train.csv").write_text(ROUND2_LINES)
    (folder / "no_train.csv").write_text("0|,|1 2\n")  # reading it tells that it has no labels
    files = files_of(folder)
    assert with_parts(files, task) is files and len(files.train) == 3


def test_two_extra_files_of_one_name_are_refused(folder):
    (folder / "more").mkdir()
    (folder / "more/two_train.csv").write_text(ROUND1_LINES)
    files = replace(files_of(folder), extra=[folder / "more/two_train.csv"])
    assert "have one name" in error_of(with_parts, files, "round1")


@pytest.fixture(scope="module")
def both(made_once) -> Path:
    """Train files of both rounds: round 2's N_TRAIN reports; 100 of round 1, and 40 that are round 2's first with one
    token changed."""

    def make(folder: Path) -> None:
        for name, task, rows, seed in (("a", ROUND1, 100, 3), ("b", ROUND2, N_TRAIN, 4)):
            make_sample(folder / name, rows=rows, test_rows=20, task=task, seed=seed)
        own, other = (read_reports(folder / name / "sample_train.csv") for name in ("b", "a"))
        assert len(own) == N_TRAIN
        write_reports(folder / "own_train.csv", own)
        shutil.copy(folder / "b/sample_testA.csv", folder / "round2_test.csv")
        near = own.only(np.arange(40))
        tokens = near.tokens.copy()
        tokens[near.offsets[:-1]] = 857
        labels = np.concatenate([other.labels, near.labels[:, :17]])
        write_reports(
            folder / "other_train.csv",
            replace(
                other,
                ids=np.array([b"%d" % row for row in range(140)]),
                tokens=np.concatenate([other.tokens, tokens]),
                offsets=np.concatenate([other.offsets, other.offsets[-1] + near.offsets[1:]]),
                labels=labels,
            ),
        )
        for name in ("a", "b"):
            shutil.rmtree(folder / name)

    return made_once("both_rounds", make)


def jobs_of(output: Path) -> list[Path]:
    return sorted((output / "runs/lstm").glob("fold_*"))


def test_a_fold_learns_the_regions_of_the_other_round_without_near_duplicates(both, tmp_path, capsys):
    output = tmp_path / "output"
    given = words(both, output, "train.extra_weight=0.5", "train.pos_weight=balanced")
    assert main(["train", "--model", "lstm", *given]) == 0
    told = capsys.readouterr().out
    assert "round2 is predicted, by round2_test.csv" in told
    assert "extra: other_train.csv: one of its labelled reports counts 0.5 of a train report in lstm" in told
    assert "extra: other_train.csv: it has no types: these are unknown; runs with teachers learn" in told
    of_near = re.search(r"other_train.csv: of its 140 labelled reports a fold leaves out (\d+) to (\d+), as they", told)
    dataset = Dataset.load(Output(output))
    assert dataset.task is ROUND2 and len(dataset.train) == N_TRAIN and dataset.extra_labelled == ["other_train.csv"]
    extra, train = Corpus.load(dataset.extra_folder("other_train.csv")), dataset.train
    is_abnormal = extra.labels[:, :17].any(axis=1)
    assert np.isnan(extra.labels[is_abnormal, 17:]).all() and (extra.labels[~is_abnormal, 17:] == 0).all()
    assert not np.isnan(extra.labels[:, :17]).any() and 0 < is_abnormal.sum() < 140
    texts = [unpad(corpus.tokens, corpus.lengths) for corpus in (extra, train)]
    near = pairs_between(*texts, NEAR)
    assert {(100 + row, row) for row in range(40)} <= set(map(tuple, near.tolist()))
    left_out = []
    for job in jobs_of(output):
        split = np.load(job / "split.npz")
        rows = np.load(job / "extra_0.npy")
        held_out = set(range(N_TRAIN)) - set(split["train_rows"].tolist())
        forbidden = {left for left, right in near.tolist() if right in held_out}
        assert set(rows.tolist()) == set(range(140)) - forbidden
        left_out.append(forbidden)
        assert np.isfinite(np.load(job / "logits.npy")).all()
    assert sorted({*map(int, of_near.groups())}) == sorted({min(map(len, left_out)), max(map(len, left_out))})
    assert all(left_out) and set.union(*left_out) >= set(range(100, 140))
    oof = np.load(output / "runs/lstm/oof.npy")
    assert oof.shape == (N_TRAIN, 29) and np.isfinite(oof).all()
    score = json.loads((output / "runs/lstm/score.json").read_text())
    assert score["rows"] == N_TRAIN, "scores are of the predicted round's reports alone"
    record = json.loads((output / "runs/lstm/run.json").read_text())
    assert len(record["train_files"]) == len(record["extra_files"]) == 1
    # A student's teachers predict the types that the other round's reports lack.
    taught = [word for word in given if word not in ("--preset", "sample")] + ["runs.transformer.train.teachers=[lstm]"]
    workspace = Workspace(load_config("sample", taught))
    planned = fold_jobs(workspace, device_cache.recall_or_find(workspace))
    for student, teacher in zip(planned["transformer"], planned["lstm"], strict=True):
        (filled,) = [one for one in student.beside if one["fills"]]
        assert filled["weight"] == 0.5 and filled["corpus"] == "data/extra/other_train"
        assert [Path(file).parent for file in filled["logits"]] == [Path(teacher.folder)]
        assert not any(one["fills"] for one in teacher.beside)
    # The same words make nothing anew; lost files of a fold come back with the same bytes.
    before = {path: path.read_bytes() for path in output.rglob("*.npy")}
    for path in [*output.glob("data/near.*"), *(job / "extra_0.npy" for job in jobs_of(output))]:
        path.unlink()
    for job in jobs_of(output):
        (job / "result.json").unlink()
    assert main(["train", "--model", "lstm", *given]) == 0
    assert {path: path.read_bytes() for path in output.rglob("*.npy")} == before
    told = capsys.readouterr().out
    assert "prepare: up to date" in told and "counts 0.5 of a train report in lstm" in told, "whenever it trains"
    check_files(output / "data/manifest.json", "prepare")


def test_files_of_one_round_in_two_parts_are_trained_on_as_one(both, tmp_path, capsys):
    reports = read_reports(both / "own_train.csv")
    folder = tmp_path / "input"
    for i, rows in enumerate(np.split(np.arange(N_TRAIN), 2)):
        write_reports(folder / f"part_{i}_train.csv", replace(reports.only(rows), path=folder))
    assert main(["folds", *words(folder, tmp_path / "output", "folds.scheme=families")]) == 0
    assert "is predicted, by" not in capsys.readouterr().out
    dataset = Dataset.load(Output(tmp_path / "output"))
    assert len(dataset.train) == N_TRAIN and dataset.extra_files == [] and dataset.task is ROUND2


def test_families_of_the_folds_say_what_a_near_duplicate_is(both, tmp_path):
    output = tmp_path / "output"
    given = words(both, output, "folds.scheme=families", "folds.threshold=0.8")
    assert main(["folds", *given]) == 0
    dataset = Dataset.load(Output(output))
    assert dataset.near_by(20_000) == {"threshold": 0.8, "approximate": []}
    assert dataset.near_by(100)["approximate"] == ["other_train.csv"]
    exact = dataset.near_train(20_000)["other_train.csv"]
    (kept,) = (output / "data").glob("near.*.npz")
    made = kept.stat().st_mtime_ns
    np.testing.assert_array_equal(dataset.near_train(20_000)["other_train.csv"], exact)
    assert kept.stat().st_mtime_ns == made
    dataset.near_train(100)
    assert list((output / "data").glob("near.*.npz")) != [kept], "those of other settings replace it"


def test_near_duplicates_are_found_anew_where_another_extra_file_has_labels(both, tmp_path):
    """Pairs are those of the file that they are asked for, whichever of the extra files have labels."""
    output, first = tmp_path / "output", both / "a_extra.csv"
    lines = (both / "other_train.csv").read_text().splitlines()[:30]
    for has_labels in (True, False, True):
        kept = lines if has_labels else [line[: line.rindex("|,|")] for line in lines]
        first.write_text("".join(f"9{line}\n" for line in kept))
        assert main(["folds", *words(both, output)]) == 0
        dataset = Dataset.load(Output(output))
        assert ("a_extra.csv" in dataset.extra_labelled) == has_labels
        pairs = dataset.near_train(20_000)
        assert pairs.keys() == set(dataset.extra_labelled)
        corpus = Corpus.load(dataset.extra_folder("other_train.csv"))
        found = {row for row, _ in pairs["other_train.csv"].tolist()}
        assert len(found) >= 40 and max(found) < len(corpus)


def test_an_undecided_round_stops_every_verb_with_a_command(folder, tmp_path, capsys):
    for verb in ("prepare", "train"):
        assert main([verb, f"paths.input={folder}", f"paths.output={tmp_path / 'output'}"]) == 2
        assert "--task round1 or --task round2" in capsys.readouterr().err
