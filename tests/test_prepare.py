from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from src.__main__ import main
from src.core.settings_loader import load_config
from src.core.storage import Output
from src.data.corpus import Corpus
from src.data.dataset import Dataset
from src.data.series_reader import read_outcomes
from src.data.synthetic_stays import make_sample as make_stays
from src.evaluation.workspace import Workspace
from src.models.embeddings import ppmi_vectors
from src.training.initialization import word_vectors

TRAIN = "0|,|1 2 3|,|0\n1|,|4 5|,|\n2|,|1 9 3 2|,|1 16\n"
TEST = "0|,|1 2 7\n"
EXTRA = "0|,|4 5|,|3,2\n1|,|600 1 2|,|0 16,\n2|,|7 4|,|,\n3|,|1 2 3 |,|5,0\n"
"""Reports with labels of round 2; the first and the last have the text of a train report."""


@pytest.fixture
def prepare(tmp_path, capsys):
    """Writes the files, prepares them in fixed folders, and returns the dataset and the output."""

    def run(files: dict[str, str], *more: str) -> tuple[Dataset, str]:
        folder = tmp_path / "input"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
        assert main(["prepare", f"paths.input={folder}", f"paths.output={tmp_path / 'output'}", *more]) == 0
        return Dataset.load(Output(tmp_path / "output")), capsys.readouterr().out

    return run


def words_of(corpus: Corpus, dataset: Dataset) -> list[list[int]]:
    numbers = dataset.vocabulary.encode(np.arange(1000)).tolist()
    return [[numbers.index(token) for token in row[:n]] for row, n in zip(corpus.tokens, corpus.lengths, strict=True)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_round_2_reports_are_extra_to_round_1(prepare):
    dataset, told = prepare({"train.csv": TRAIN, "test.csv": TEST, "round2_extra.csv": EXTRA})
    assert dataset.task.name == "round1", "the train files alone name the round"
    assert dataset.extra_files == dataset.extra_labelled == ["round2_extra.csv"]
    corpus = Corpus.load(dataset.extra_folder("round2_extra.csv"))
    assert words_of(corpus, dataset) == [[4, 5], [600, 1, 2], [7, 4], [1, 2, 3]]
    assert dataset.extra_texts == {"round2_extra.csv": corpus.fingerprint}
    assert corpus.labels.shape == (4, 17)
    assert [np.flatnonzero(row).tolist() for row in corpus.labels] == [[3], [0, 16], [], [5]]
    np.testing.assert_array_equal(np.load(dataset.extra_rows_path("round2_extra.csv")), [1, 2])
    assert "round2_extra.csv: 2 of its reports have the text of a train report: their labels are not used" in told
    assert "extra: round2_extra.csv: 4 reports, labels of round 2" in told
    assert "3 train reports, 1 test reports, 4 extra reports, " in told
    assert len(dataset.train) == 3 and dataset.test_files == ["test.csv"]


def test_round_1_reports_have_no_types_for_round_2(prepare):
    files = {"train.csv": EXTRA, "a_extra.csv": TRAIN, "b_extra.csv": TEST}
    dataset, told = prepare(files)
    assert dataset.task.name == "round2" and dataset.train.labels.dtype == np.uint8
    assert "a_extra.csv: 2 of its reports have the text of a train report" in told
    assert "b_extra.csv: 1 reports, no labels" in told and "no test reports, 3 + 1 extra reports" in told
    assert dataset.extra_files == ["a_extra.csv", "b_extra.csv"] and dataset.extra_labelled == ["a_extra.csv"]
    labels = Corpus.load(dataset.extra_folder("a_extra.csv")).labels
    assert [np.flatnonzero(row[:17]).tolist() for row in labels] == [[0], [], [1, 16]]
    assert labels.shape == (3, 29) and np.isnan(labels[[0, 2], 17:]).all()
    assert (labels[1, 17:] == 0).all(), "a normal report has no type"
    assert Corpus.load(dataset.extra_folder("b_extra.csv")).labels is None
    # Round 1 takes the same labels as they are.
    dataset, told = prepare(files, "task=round1")
    labels = Corpus.load(dataset.extra_folder("a_extra.csv")).labels
    assert labels.shape == (3, 17) and labels.dtype == np.uint8
    np.testing.assert_array_equal(np.load(dataset.extra_rows_path("a_extra.csv")), [2])


def test_reports_are_compared_as_models_see_them(prepare):
    dataset, _ = prepare({"train.csv": TRAIN, "extra.csv": "0|,|1 2 8|,|\n1|,|2 1|,|\n"}, "data.max_len=2")
    np.testing.assert_array_equal(np.load(dataset.extra_rows_path("extra.csv")), [1])


def test_what_stands_for_extra_files(prepare):
    files = {"train.csv": TRAIN, "test.csv": TEST, "extra.csv": EXTRA}
    first, _ = prepare(files)
    assert "up to date" in prepare(files)[1]
    shutil.rmtree(first.extra_folder("extra.csv"))
    assert "up to date" not in prepare(files)[1] and first.extra_folder("extra.csv").is_dir()
    other_labels, told = prepare({**files, "extra.csv": EXTRA.replace("0 16,", "0 15,")})
    assert "up to date" not in told and other_labels.extra_texts == first.extra_texts
    assert other_labels.extra_labels != first.extra_labels
    other_text, _ = prepare({**files, "extra.csv": EXTRA.replace("7 4", "4 7")})
    assert other_text.extra_texts != first.extra_texts and other_text.extra_labels == first.extra_labels
    # The same files in another role are not the same data.
    files = {"train.csv": TRAIN, "train_b.csv": TRAIN.replace(" 2", " 8")}
    assert len(prepare(files, "task=round1")[0].train) == 6
    dataset, told = prepare(files, "task=round1", "paths.train=train.csv", "paths.extra=train_b.csv")
    assert "up to date" not in told and len(dataset.train) == 3 and dataset.extra_labelled == ["train_b.csv"]
    dataset, told = prepare(files, "task=round1", "paths.train=train.csv", "paths.test=none")
    assert "up to date" not in told and dataset.extra_files == []


@pytest.mark.parametrize(
    "twin",
    [
        TRAIN,
        TRAIN.replace("\n", "\r\n"),
        TRAIN[:-1],
        "".join(reversed(TRAIN.splitlines(keepends=True))),
        TRAIN.replace("|,|0", "|,|5"),
    ],
    ids=["copy", "CRLF", "last line end", "reversed", "other labels"],
)
def test_train_reports_count_once(prepare, tmp_path, capsys, twin):
    folder = tmp_path / "input"
    folder.mkdir()
    (folder / "train.csv").write_text(TRAIN)
    (folder / "train (1).csv").write_bytes(twin.encode())
    assert main(["prepare", f"paths.input={folder}", f"paths.output={tmp_path / 'output'}"]) == 2
    told = capsys.readouterr().err
    assert "train (1).csv and " in told and "train.csv hold the same reports (3 with equal id and text)" in told


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (
            {"train_b.csv": "7|,|9|,|\n1|,|9 9|,|3\n"},
            "1 ids have two texts, such as 1 in train.csv, line 2 and train_b.csv, line 2",
        ),
        (
            {"train_b.csv": "7|,|9|,|\n1|,|4 5|,|3\n8|,|1|,|\n"},
            "1 reports are in train.csv and train_b.csv with the same id and text",
        ),
        ({"testB.csv": TEST}, "one file under several names: "),
        ({"Test.CSV": TEST}, "Test.CSV is not read"),
    ],
)
def test_doubtful_input_is_used_with_a_warning(tmp_path, capsys, files, told):
    folder = tmp_path / "input"
    folder.mkdir()
    for name, text in {"train.csv": TRAIN, "test.csv": TEST, **files}.items():
        (folder / name).write_text(text)
    for _ in range(2):  # also where nothing is to be done
        assert main(["prepare", f"paths.input={folder}", f"paths.output={tmp_path / 'output'}"]) == 0
    assert told in capsys.readouterr().err


def test_more_files_than_a_byte_counts(prepare):
    files = {f"train{i:03d}.csv": f"{i}|,|1 {i}|,|{i % 17}\n" for i in range(300)}
    dataset, _ = prepare(files)
    assert dataset.train.sources.tolist() == list(range(300)) and dataset.train.sources.dtype == np.uint16
    dataset, _ = prepare(dict(list(files.items())[:256]))
    assert dataset.train.sources.tolist() == list(range(256)) and dataset.train.sources.dtype == np.uint8


def test_without_extra_files_nothing_speaks_of_them(prepare, tmp_path):
    dataset, told = prepare({"train.csv": TRAIN, "test.csv": TEST})
    told = told.replace(str(tmp_path), "")  # which has the name of this test
    assert "extra" not in told and dataset.extra_files == dataset.extra_labelled == []
    assert not (tmp_path / "output/data/extra").exists()
    assert "extra" not in json.dumps(dataset.manifest)


def test_a_torn_extra_file_is_told_with_the_others(tmp_path, capsys):
    for name, text in (("train.csv", "0|,|x|,|\n"), ("extra.csv", "0|,|1 2|,|\n1|,|3\n")):
        (tmp_path / name).write_text(text)
    assert main(["prepare", f"paths.input={tmp_path}", f"paths.output={tmp_path / 'output'}"]) == 2
    told = capsys.readouterr().err
    assert "train.csv, line 1: token 'x'" in told and "extra.csv, line 2: 2 fields, expected 3" in told


def testword_vectors_are_made_from_extra_text_too(prepare):
    files = {"train.csv": TRAIN, "test.csv": TEST}
    sizes = ["model.embedding_size=4", "model.heads=2", "denoise.by=null", "denoise.doubt=0"]

    def vectors_file(dataset: Dataset) -> Path:
        root = dataset.output.root
        places = [f"paths.input={root.parent / 'input'}", f"paths.output={root}"]
        config = load_config("quick", [*sizes, *places], ["transformer"])
        return Path(word_vectors(Workspace(config))["transformer"])

    without = vectors_file(prepare(files)[0])
    # All its words are known, so that nothing but the text differs.
    dataset, _ = prepare({**files, "extra.csv": "0|,|9 7 9 7 5\n"})
    path = vectors_file(dataset)
    assert path.name != without.name
    folders = [dataset.train_folder, dataset.test_folder("test.csv"), dataset.extra_folder("extra.csv")]
    texts = [np.load(folder / "tokens.npy") for folder in folders]
    expected = ppmi_vectors(texts, len(dataset.vocabulary), 4)
    np.testing.assert_allclose(np.load(path), expected, atol=1e-6)
    assert not np.allclose(np.load(without), np.load(path))


def test_extra_files_are_neither_split_nor_predicted(tiny_input, tmp_path, capsys):
    folder = Path(shutil.copytree(tiny_input, tmp_path / "input"))
    places = [f"paths.input={folder}", f"paths.output={tmp_path / 'output'}"]
    assert main(["folds", *places]) == 0
    before = (tmp_path / "output/folds.csv").read_bytes(), contents(tmp_path / "output/data/train")
    shutil.copy(tiny_input / "answers_A.csv", folder / "extra.csv")
    assert main(["folds", *places]) == 0
    assert "folds: up to date" in capsys.readouterr().out
    assert before == ((tmp_path / "output/folds.csv").read_bytes(), contents(tmp_path / "output/data/train"))
    dataset = Dataset.load(Output(tmp_path / "output"))
    assert dataset.test_files == ["sample_testA.csv", "sample_testB.csv"]
    assert dataset.extra_labelled == ["extra.csv"]


@pytest.mark.parametrize("task", ["icu", "los"])
def test_outcomes_of_train_stays_are_kept_in_their_order(tmp_path, task):
    make_stays(tmp_path / "input", rows=120, test_rows=5, seed=2)
    words = ["--task", task, f"paths.input={tmp_path / 'input'}", f"paths.output={tmp_path / 'output'}"]
    assert main(["prepare", *words]) == 0
    dataset = Dataset.load(Output(tmp_path / "output"))
    known = read_outcomes(tmp_path / "input/Outcomes-a.txt")
    rows = [known.ids.tolist().index(one) for one in dataset.train.ids.tolist()]
    assert len(rows) == 120 if task == "icu" else 0 < len(rows) < 120, "unknown lengths of stay are left out"
    assert set(dataset.outcomes) == set(known.columns)
    for name, column in dataset.outcomes.items():
        np.testing.assert_array_equal(column, known.columns[name][rows].astype(np.float32))
    (tmp_path / "output/data/outcomes.npz").unlink()
    assert main(["prepare", *words]) == 0
    assert set(dataset.outcomes) == set(known.columns), "made again where it is missing"


def test_a_stay_is_in_one_training_set(tmp_path, capsys):
    for letter, n in (("a", 30), ("c", 20)):
        make_stays(tmp_path / letter, rows=n, test_rows=5, seed=2)
    given = tmp_path / "input"
    given.mkdir()
    (tmp_path / "a/set-a.zip").rename(given / "set-a.zip")
    (tmp_path / "a/Outcomes-a.txt").rename(given / "Outcomes-a.txt")
    (tmp_path / "c/set-a.zip").rename(given / "set-c.zip")
    words = ["prepare", "--task", "icu", f"paths.input={given}", f"paths.output={tmp_path / 'output'}"]
    assert main(words) == 0
    assert "20 of its stays are train stays too" in capsys.readouterr().err, "as a test set it is allowed"
    (tmp_path / "c/Outcomes-a.txt").rename(given / "Outcomes-c.txt")
    assert main([*words, "paths.train=set-[ac]"]) == 2
    told = capsys.readouterr().err
    assert "20 stays" in told and "10000001 in set-a.zip and set-c.zip" in told
    assert not (tmp_path / "output/data/manifest.json").exists()
