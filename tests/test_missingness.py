"""Missing values: what is planted is found, nothing is found where nothing is planted, and the page shows it."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from src.__main__ import main
from src.core import storage
from src.core.storage import Output
from src.data import image_reader, synthetic_stays
from src.data.corpus import Corpus
from src.data.dataset import Dataset
from src.data.inputs import InputShape
from src.data.tasks import ICU, LOS, Task, get_task
from src.evaluation import missingness
from src.evaluation.missingness import Sample, holm, measure, most_informative, sentences
from src.pipeline.stages.eda import STAGE as EDA
from tests.browser import Browser
from tests.conftest import run_command
from tests.test_report import complaints, needs_browser

NAMES = ("HR", "Temp", "Lactate", "ALT", "AST", "Urine")
SHAPE = InputShape(
    "series",
    steps=12,
    parameters=NAMES,
    kinds=("vital", "vital", *["examination"] * 3, "drug"),
    statics=("Age", "Height"),
)
LACTATE = NAMES.index("Lactate")
FRAMES = get_task("frames3")


def stays(task: Task, n: int = 800, seed: int = 0, strength: float = 0.0) -> Sample:
    """Returns stays with values missing completely at random, except that with a `strength` Lactate is observed the
    more often the larger the outcome, and Temp somewhat more seldom. Values are skewed and rise
    over time; ALT and AST are drawn together."""
    generator = np.random.default_rng(seed)
    labels = {
        "binary": lambda: (generator.random((n, 1)) < 0.3).astype(np.uint8),
        "regression": lambda: generator.lognormal(2, 0.6, (n, 1)).astype(np.float32),
        "multiclass": lambda: np.eye(3, dtype=np.uint8)[generator.integers(0, 3, n)],
    }[task.kind]()
    level = labels.argmax(axis=1) / 2 if task.kind == "multiclass" else labels[:, 0] / max(labels.max() / 3, 1)
    times = np.arange(SHAPE.steps)[None, :, None]
    values = (generator.lognormal(0, 1, (n, SHAPE.steps, len(NAMES))) + times).astype(np.float32)
    rate = np.broadcast_to(np.array([0.9, 0.5, 0.1, 0.08, 0.08, 0.6]), (n, len(NAMES))).copy()
    rate[:, LACTATE] = np.clip(0.1 + strength * level, 0, 1)
    rate[:, NAMES.index("Temp")] = np.clip(0.5 - 0.4 * strength * level, 0, 1)
    seen = generator.random(values.shape) < rate[:, None]
    seen[:, :, 4] = seen[:, :, 3]
    values[~seen] = np.nan
    statics = generator.normal(60, 10, (n, 2)).astype(np.float32)
    statics[generator.random(n) < 0.4, 1] = np.nan
    return Sample(values, statics, labels, np.full(n, SHAPE.steps), n)


def prepared(folder: Path, sample: Sample, task: Task, shape: InputShape = SHAPE) -> Dataset:
    """Writes the sample as ./run.sh prepare would."""
    output, n = Output(folder), len(sample)
    inputs = {"values": sample.values} | ({"statics": sample.statics[:, None]} if shape.statics else {})
    ids = np.array([b"%d" % i for i in range(n)])
    corpus = Corpus(inputs, sample.lengths.astype(np.int32), ids, sample.labels, np.zeros(n, np.uint8))
    corpus.save(output.data / "train")
    counts = {"stays": n + 1, "lines": 9999, "without_series": 1, "blank": 2, "unknown": {"Height": 5}}
    counts |= {"implausible": {"Temp": 7777}, "repaired": {"pH": 3}}
    file = {"role": "train", "name": "set-a", "rows": n, "sha256": "0" * 64} | (counts if shape.statics else {})
    manifest = {"fingerprint": "f", "summary": "a set", "task": task.name, "inputs": shape.to_json(), "files": [file]}
    storage.write_json(output.data / "manifest.json", manifest)
    return Dataset.load(output)


@pytest.mark.parametrize(("task", "strength"), [(ICU, 0.15), (LOS, 0.2), (FRAMES, 0.2)])
def test_planted_missingness_is_found_and_named_first(task, strength):
    facts = measure(stays(task, strength=strength), SHAPE, task)
    first = most_informative(facts)[0]
    assert first["name"] == "Lactate" and first["frequency"]["p_holm"] < 1e-6
    assert [one["name"] for one in most_informative(facts)] == ["Lactate", "Temp"]
    masks = facts["masks"]
    assert masks["value"] - masks["chance"] > 3 * masks["standard_error"] > 0
    assert first["outcome"]["p_holm"] < 0.05
    told = " ".join(sentences(facts, task))
    assert "Lactate" in told and f"{masks['value']:.3f}" in told


def test_the_effect_and_its_interval_are_those_of_the_outcome():
    facts = measure(stays(ICU, n=4000, strength=0.15), SHAPE, ICU)
    outcome = facts["parameters"][LACTATE]["outcome"]
    sees = (
        1 - np.array([0.9, 0.75]) ** SHAPE.steps
    )  # chance to be observed at all, of those without and with the outcome
    with_it, without = 0.3 * sees[1], 0.7 * sees[0]
    truth = with_it / (with_it + without) - 0.3 * (1 - sees[1]) / (0.3 * (1 - sees[1]) + 0.7 * (1 - sees[0]))
    assert outcome["low"] < truth < outcome["high"]
    assert outcome["observed"] - outcome["unobserved"] == pytest.approx(outcome["effect"])
    assert facts["parameters"][LACTATE]["frequency"]["value"] > 0.6


@pytest.mark.parametrize("task", [ICU, LOS, FRAMES])
def test_what_is_missing_completely_at_random_is_not_rejected(task):
    for seed in range(2):
        facts = measure(stays(task, seed=seed), SHAPE, task)
        assert facts["at_random"]["comparisons"] > 10
        assert facts["at_random"]["rejected"] == 0 and facts["at_random"]["p"] >= 0.05
        assert most_informative(facts) == []
        assert abs(facts["masks"]["value"] - facts["masks"]["chance"]) < 0.1


def test_the_test_of_missing_completely_at_random_keeps_its_level():
    """Values that rise over time and are drawn together must not look like values that are not missing at random."""
    rejections = 0
    for seed in range(20):
        sample = stays(ICU, n=300, seed=100 + seed)
        late = np.arange(SHAPE.steps) >= np.random.default_rng(seed).choice([0, 8], 300)[:, None]
        sample.values[:, :, 1:5][~late] = (
            np.nan
        )  # some stays have examinations at late hours alone, whatever the values
        rejections += missingness.missing_at_random(sample, ~np.isnan(sample.values), SHAPE)["rejected"] > 0
    assert rejections <= 4  # 1 is expected; 5 or more have a probability of 0.0026


def test_values_that_depend_on_each_other_are_rejected_with_their_names_and_direction():
    sample = stays(ICU)
    sample.values[(sample.statics[:, 0] > 60) & (np.arange(800) % 4 > 0), :, 1] = np.nan
    test = measure(sample, SHAPE, ICU)["at_random"]
    assert test["p"] < 1e-6 and test["rejected"] >= 1
    assert (test["strongest"][0]["missing"], test["strongest"][0]["other"]) == ("Temp", "Age")
    assert test["strongest"][0]["difference"] > 0.5  # those without Temp are older


def test_rates_are_shares_of_stays_and_of_the_hours_that_are_there():
    values = np.full((4, 3, 2), np.nan, np.float32)
    values[0, 0, 0] = values[0, 2, 0] = values[1, 1, 0] = 1
    sample = Sample(values, np.zeros((4, 0), np.float32), np.array([[0], [1], [0], [1]]), np.array([3, 2, 3, 2]), 4)
    shape = InputShape("series", steps=3, parameters=("a", "b"), kinds=("vital", "drug"))
    facts = measure(sample, shape, ICU)
    assert facts["parameters"][0] | {"outcome": 0, "frequency": 0} == {
        "name": "a", "kind": "vital", "stays": 0.5, "hours": 0.3, "outcome": 0, "frequency": 0,
    }  # fmt: skip
    assert facts["over_time"] == [[0.25, 0.25, 0.5], [0, 0, 0]]
    assert facts["share"] == pytest.approx(1 - 3 / 20)
    assert facts["parameters"][0]["outcome"]["observed"] is None  # of two stays a rate says nothing
    assert facts["masks"] is None and facts["at_random"]["comparisons"] == 0
    assert facts["parameters"][1]["outcome"]["p"] is None
    assert sentences(facts, ICU)


def test_parameters_that_are_observed_together_are_neighbours():
    facts = measure(stays(ICU), SHAPE, ICU)
    phi = np.array(facts["together"], dtype=float)
    assert phi[3, 4] == 1 and abs(phi[2, 3]) < 0.15
    assert sorted(facts["order"]) == list(range(len(NAMES)))
    assert abs(facts["order"].index(3) - facts["order"].index(4)) == 1


def test_masks_hold_no_value():
    sample = stays(ICU)
    observed, known = ~np.isnan(sample.values), ~np.isnan(sample.statics)
    features = missingness.mask_features(observed, known)
    row = int(np.flatnonzero(observed[:, :, LACTATE].sum(axis=1) > 1)[0])
    seen = np.flatnonzero(observed[row, :, LACTATE])
    width = len(NAMES)
    assert features[row, [LACTATE, width + LACTATE, 2 * width + LACTATE]].tolist() == [len(seen), seen[0], seen[-1]]
    assert features.shape == (800, 3 * width + 2)
    never = ~observed[:, :, LACTATE].any(axis=1)
    assert np.isnan(features[never][:, [width + LACTATE, 2 * width + LACTATE]]).all()


def test_corrections_and_intervals_are_those_of_the_literature():
    assert holm([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    # Newcombe 1998, table II, example (a), method 10.
    assert missingness.difference_interval(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_images_miss_nothing_and_one_sentence_says_so(tmp_path):
    sample = images()
    facts = measure(sample, PIXELS, FRAMES)
    assert facts["share"] == 0 and "parameters" not in facts
    assert len(sentences(facts, FRAMES)) == 1


PIXELS = InputShape("series", steps=8, parameters=tuple(f"x{i}" for i in range(8)), kinds=("pixel",) * 8)


def images() -> Sample:
    generator = np.random.default_rng(0)
    values = generator.random((90, 8, 8)).astype(np.float32)
    labels = np.eye(3, dtype=np.uint8)[np.arange(90) % 3]
    return Sample(values, np.zeros((90, 0), np.float32), labels, np.full(90, 8), 90)


def test_many_stays_are_sampled(tmp_path, monkeypatch):
    dataset = prepared(tmp_path, stays(ICU), ICU)
    monkeypatch.setattr(missingness, "MAX_ROWS", 300)
    sample, again = (missingness.draw_sample(dataset.train) for _ in range(2))
    assert len(sample) == 300 and sample.total == 800
    assert np.array_equal(sample.values, again.values, equal_nan=True)
    assert not np.array_equal(sample.labels, dataset.train.labels[:300])
    facts = measure(sample, SHAPE, ICU)
    assert (facts["rows"], facts["rows_in_all"]) == (300, 800)
    assert "300 of 800" in " ".join(sentences(facts, ICU))
    monkeypatch.setattr(missingness, "MAX_CELLS", 50 * SHAPE.steps * len(NAMES))
    assert len(missingness.draw_sample(dataset.train)) == 50


def test_facts_are_kept_and_the_same_bytes_each_time(tmp_path):
    dataset = prepared(tmp_path, stays(ICU, strength=0.15), ICU)
    facts = missingness.of_dataset(dataset)
    (kept,) = dataset.output.data.glob("missingness.*.json")
    before = kept.read_bytes()
    kept.unlink()
    assert missingness.of_dataset(dataset) == facts and kept.read_bytes() == before
    storage.write_json(kept, facts | {"rows": -1})
    assert missingness.of_dataset(dataset)["rows"] == -1, "kept facts are read, not made again"


@pytest.mark.parametrize("task", [ICU, LOS])
def test_the_page_shows_the_cohort_and_the_missing_values(tmp_path, capsys, task):
    dataset = prepared(tmp_path, stays(task, strength=0.15), task)
    page = made_page(dataset)
    described = re.findall(r'aria-label="([^"]*)"', page)
    for part in ("over time", "Correlation of being observed", "Difference of the outcome", "Share of stays and of"):
        assert any(part in one for one in described), part
    assert sum(any(f"Distribution of {name}" in one for one in described) for name in (*NAMES, "Age", "Height")) == 8
    masks = missingness.of_dataset(dataset)["masks"]
    assert f"{masks['value']:.3f} ± {masks['standard_error']:.3f}" in page
    assert "9,999" in page and "7,777" in page and "801" in page
    if task.kind == "binary":
        assert f"{int(dataset.train.labels.sum())} of 800" in page
    capsys.readouterr()
    EDA.show(SimpleNamespace(dataset=dataset))
    table, _, told = capsys.readouterr().out.partition("of all cells")
    assert f"{masks['value']:.3f}" in told
    rows = [line.split()[0] for line in table.splitlines() if line and line.split()[0] in NAMES]
    assert rows[0] == "Lactate" and sorted(rows) == sorted(NAMES)
    assert max(map(len, table.splitlines())) <= 80


def test_the_page_of_images_shows_classes_examples_and_the_mean(tmp_path, capsys):
    page = made_page(prepared(tmp_path, images(), FRAMES, PIXELS))
    described = re.findall(r'aria-label="([^"]*)"', page)
    assert [one for one in described if one.startswith("Image")] == [
        *(f"Image: class {k}" for k in range(3)), "Image: mean",
    ]  # fmt: skip
    assert "Number of each class" in described and not any("observed" in one for one in described)


@pytest.fixture(scope="module")
def pages(made_once) -> Path:
    """Folders icu and frames, each with the page that ./run.sh eda makes of a small sample."""

    def make(folder: Path) -> None:
        synthetic_stays.make_sample(folder / "input", rows=300, test_rows=20, seed=3)
        image_reader.make_sample(folder / "digits")
        for task, source in {"icu": "input", "frames": "digits"}.items():
            run_command(["eda", "--task", task, f"paths.input={folder / source}", f"paths.output={folder / task}"])

    return made_once("eda_pages", make)


def test_the_command_prints_and_writes_what_is_known(pages, capsys):
    words = ["--task", "icu", f"paths.input={pages / 'input'}", f"paths.output={pages / 'icu'}"]
    (kept,) = (pages / "icu" / "data").glob("missingness.*.json")
    masks = storage.read_json(kept)["masks"]
    assert main(["eda", "--json", *words]) == 0
    document = json.loads(capsys.readouterr().out)
    assert any(f"{masks['value']:.3f}" in line for line in document["lines"])
    assert any(row["parameter"] == "TroponinI" for table in document["tables"] for row in table["rows"])


@needs_browser
def test_the_pages_are_readable_in_a_browser(pages, tmp_path):
    browser = Browser(tmp_path / "profile")
    for task, width, dark in itertools.product(("icu", "frames"), (390, 1280), (False, True)):
        browser.open(pages / task / "eda.html", width, dark)
        assert complaints(browser) == [], browser.picture(tmp_path / "page.png")
    browser.close()


def made_page(dataset: Dataset) -> str:
    workspace = SimpleNamespace(dataset=dataset, output=dataset.output)
    target = EDA.targets(workspace)
    EDA.run(workspace, target)
    assert target[0].is_current()
    return dataset.output.eda.read_text()


def test_a_parameter_that_nobody_has_is_no_error():
    rng = np.random.default_rng(0)
    labels = (rng.random((200, 1)) < 0.4).astype(np.uint8)
    features = np.column_stack([labels + rng.normal(0, 0.5, (200, 1)), np.full(200, np.nan)])
    assert missingness.masks_alone(ICU, features, labels)["value"] > 0.8
