"""Whole pipelines on data at the edge of what numbers can be: a complete submission, or a sentence; never a traceback,
and never a number that is not finite."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from src.__main__ import main
from src.data.synthetic_stays import make_sample
from tests.conftest import clinical_words, words

pytestmark = pytest.mark.slow
MORE = ["baselines=[prior]", "--model", "lstm"]
ALL_REGIONS = " ".join(map(str, range(17)))


def texts(n: int, low: int = 0, high: int = 100) -> list[str]:
    rng = random.Random(n + low)
    return [" ".join(str(rng.randint(low, high)) for _ in range(rng.randint(5, 40))) for _ in range(n)]


def regions(n: int) -> list[str]:
    rng = random.Random(n)
    return [" ".join(str(k) for k in range(17) if rng.random() < 0.15) for _ in range(n)]


def types(n: int) -> list[str]:
    rng = random.Random(n)
    return [" ".join(str(k) for k in range(12) if rng.random() < 0.2) for _ in range(n)]


SAME = " ".join(map(str, range(20)))
ONE_WORD = [" ".join(["5"] * (3 + i % 9)) for i in range(60)]
REPORTS: dict[str, tuple[list[str], list[str], list[str], list[str]]] = {
    "a test that shares no word with train": (texts(60, high=50), regions(60), texts(10, 60, 120), []),
    "a vocabulary of one word": (ONE_WORD, regions(60), ONE_WORD[:9], []),
    "reports that are all alike": ([SAME] * 60, ["1 2"] * 60, [SAME] * 9, []),
    "equal reports of different labels": ([SAME] * 60, ["1 2", ""] * 30, [SAME] * 9, []),
    "one word a report": (["5"] * 60, regions(60), ["5"] * 9, []),
    "holdout of a dozen rows": (texts(12), regions(12), texts(9), ["folds.scheme=holdout"]),
    "two rows": (texts(2), regions(2), texts(9), []),
    "one row": (texts(1), regions(1), texts(9), []),
    "more folds than rows": (texts(6), regions(6), texts(9), ["folds.k=10"]),
    "as many folds as rows": (texts(6), regions(6), texts(9), ["folds.k=6"]),
    "a test of one row": (texts(60), regions(60), texts(1), []),
    "no label ever": (texts(60), [""] * 60, texts(9), []),
    "every label always": (texts(60), [ALL_REGIONS] * 60, texts(9), []),
    "one label never, one always": (texts(60), [f"0 {2 + i % 15}" for i in range(60)], texts(9), []),
    "one row a label": (texts(60), [*map(str, range(17)), *[""] * 43], texts(9), []),
    "balanced without positives": (texts(60), [""] * 60, texts(9), ["train.pos_weight=balanced"]),
    "balanced without negatives": (texts(60), [ALL_REGIONS] * 60, texts(9), ["train.pos_weight=balanced"]),
    "places for one word": (texts(60), regions(60), texts(9), ["data.max_len=1"]),
    "a rate of 1e9": (texts(60), regions(60), texts(9), ["train.learning_rate=1e9"]),
    "a rate of 100": (texts(60), regions(60), texts(9), ["train.learning_rate=100"]),
    "a rate of 1e-30": (texts(60), regions(60), texts(9), ["train.learning_rate=1e-30"]),
    "an infinite rate": (texts(60), regions(60), texts(9), ["train.learning_rate=inf"]),
    "types without a region": (texts(60), [f",{one}" for one in types(60)], texts(9), []),
    "one row with a region": (texts(60), [f"{'3' * (i == 7)},{one}" for i, one in enumerate(types(60))], texts(9), []),
    "no types": (texts(60), [f"{one}," for one in regions(60)], texts(9), []),
}
"""Texts and labels of train, texts of test, and settings."""


@pytest.mark.parametrize("name", REPORTS)
def test_reports(name, tmp_path, capsys):
    train, labels, test, settings = REPORTS[name]
    folder = tmp_path / "input"
    folder.mkdir()
    lines = (f"{i}|,|{text}|,|{label}\n" for i, (text, label) in enumerate(zip(train, labels, strict=True)))
    (folder / "train.csv").write_text("".join(lines))
    (folder / "test.csv").write_text("".join(f"{i}|,|{text}\n" for i, text in enumerate(test)))
    output = tmp_path / "output"
    status = main([*words(folder, output, *settings), *MORE])
    wanted = "100% of the tokens of test.csv" if name.startswith("a test that shares no word") else ""
    if ended_well(status, capsys, wanted):
        rows = (output / "submission_test.csv").read_text().splitlines()
        assert len(rows) == len(test)
        assert_finite(row.split("|,|")[1].split() for row in rows)


def ended_well(status: int, capsys, wanted: str = "") -> bool:
    """Checks that a command ended with a submission or with a sentence, and said what is `wanted`; returns True for a
    submission."""
    told = capsys.readouterr().err
    assert "Traceback" not in told and wanted in told
    assert status == 0 or (status == 2 and "error: " in told), told
    return status == 0


def assert_finite(rows) -> None:
    assert all(np.isfinite([float(value) for value in row]).all() for row in rows)


Change = Callable[[Path], None]


def outcomes(change: Callable[[int, list[str]], list[str]]) -> Change:
    """Changes the columns RecordID, SAPS-I, SOFA, Length_of_stay, Survival, In-hospital_death of train."""

    def apply(folder: Path) -> None:
        path = folder / "Outcomes-a.txt"
        head, *lines = path.read_text().splitlines()
        changed = (",".join(change(i, line.split(","))) for i, line in enumerate(lines))
        path.write_text("\n".join([head, *changed]) + "\n")

    return apply


def stays(change: Callable[[str], bool], sets: str = "ab", only_rows: int | None = None) -> Change:
    """Keeps the lines of each stay that `change` says True of, or the first stays of a set."""

    def apply(folder: Path) -> None:
        for letter in sets:
            path = folder / f"set-{letter}.zip"
            with zipfile.ZipFile(path) as archive:
                files = {name: archive.read(name).decode() for name in archive.namelist()[:only_rows]}
            with zipfile.ZipFile(path, "w") as archive:
                for name, text in files.items():
                    archive.writestr(name, "".join(f"{line}\n" for line in text.splitlines() if change(line)))

    return apply


def first_stays(n: int) -> Change:
    def apply(folder: Path) -> None:
        stays(lambda line: True, "a", n)(folder)
        path = folder / "Outcomes-a.txt"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[: n + 1]))

    return apply


def parameter(line: str) -> str:
    return line.split(",")[1]


DIED, LIVED = ["10", "9", "1"], ["10", "-1", "0"]
DESCRIPTORS = {"Parameter", "RecordID", "Age", "Gender", "Height", "ICUType", "Weight"}
CLINICAL: dict[str, tuple[str, Change, list[str]]] = {
    "all died": ("icu", outcomes(lambda i, row: [*row[:3], *DIED]), []),
    "all lived": ("icu", outcomes(lambda i, row: [*row[:3], *LIVED]), []),
    "one died": ("icu", outcomes(lambda i, row: [*row[:3], *(DIED if i == 3 else LIVED)]), []),
    "all lived, by AUROC": ("icu", outcomes(lambda i, row: [*row[:3], *LIVED]), ["metric=roc_auc"]),
    "all lived, balanced": ("icu", outcomes(lambda i, row: [*row[:3], *LIVED]), ["train.pos_weight=balanced"]),
    "no score is known": ("icu", outcomes(lambda i, row: [row[0], "-1", "-1", *row[3:]]), []),
    "one length": ("los", outcomes(lambda i, row: [*row[:3], *LIVED]), []),
    "two lengths": ("los", outcomes(lambda i, row: [*row[:3], "90" if i % 2 else "3", *LIVED[1:]]), []),
    "parameters never observed": ("icu", stays(lambda line: parameter(line) not in ("HR", "Temp")), []),
    "a parameter never in train": ("icu", stays(lambda line: parameter(line) != "HR", "a"), []),
    "a parameter never in test": ("los", stays(lambda line: parameter(line) != "HR", "b"), []),
    "descriptors alone": ("los", stays(lambda line: parameter(line) in DESCRIPTORS), []),
    "nothing at all": ("icu", stays(lambda line: parameter(line) in ("Parameter", "RecordID")), []),
    "two stays": ("los", first_stays(2), []),
    "five stays": ("icu", first_stays(5), []),
    "a dozen stays, holdout": ("los", first_stays(12), ["folds.scheme=holdout"]),
    "one test stay": ("icu", stays(lambda line: True, "b", 1), []),
    "a rate of 1e9": ("los", lambda folder: None, ["runs.gru.train.learning_rate=1e9"]),
    "a rate of 1000": ("icu", lambda folder: None, ["runs.gru.train.learning_rate=1000"]),
    "leaves larger than train": ("icu", lambda folder: None, ["runs.boosting.model.min_samples_leaf=1000"]),
}


@pytest.mark.parametrize("name", CLINICAL)
def test_stays(name, tmp_path, capsys):
    task, change, settings = CLINICAL[name]
    folder, output = tmp_path / "input", tmp_path / "output"
    make_sample(folder, rows=60, test_rows=15, seed=7)
    change(folder)
    quick = ["explain.per_label=0", "baselines=[prior]", "runs.gru.train.epochs=1", *settings]
    if ended_well(main(clinical_words(task, folder, output, *quick)), capsys):
        head, *rows = (output / "submission_set-b.csv").read_text().splitlines()
        assert len(rows) == (1 if name == "one test stay" else 15)
        assert_finite(row.split(",")[1:] for row in rows)
