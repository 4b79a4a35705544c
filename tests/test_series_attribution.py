"""Attributions of series against what they must add up to, and against causes that are known."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from src.__main__ import main
from src.core.executors import make_executor
from src.core.run_settings import GRUD, Boosting, Features, Linear, Recurrent, Transformer
from src.core.settings_loader import load_config
from src.data.image_reader import make_sample as image_sample
from src.data.inputs import InputShape
from src.data.plausible import SERIES
from src.data.series_dataset import HOURS
from src.data.synthetic_stays import make_sample
from src.evaluation.workspace import Workspace
from src.models import clinical_scores
from src.models.classifier import build_model
from src.models.scaling import Scaler
from src.models.series_input import column_sources, series_columns
from src.models.summaries import has_scores, statistic_shares
from src.models.tabular import fit_tabular
from src.reporting.explanations import explain
from src.reporting.html_page import Chart, Link, Table
from src.reporting.sections import Findings, errors, explanations, training
from src.reporting.series_attribution import SeriesExplainer
from src.reporting.series_findings import sources, step_size, window_size
from tests.conftest import run_command
from tests.series import IMAGES, STAYS, STEPS, images, stays, tensors

SMALL = {"embedding_size": 16, "hidden_size": 12}
FAMILY = {
    "gru": (Recurrent(**SMALL, cell="gru"), Features(summary=True, smooth=3, dose=True, recency=True)),
    "attention": (Recurrent(**SMALL, pooling="attention"), Features(imputer="linear")),
    "label": (Recurrent(**SMALL, pooling="label"), Features(summary=True)),
    "grud": (GRUD(hidden_size=12), Features(imputer="decay", summary=True)),
    "transformer": (
        Transformer(embedding_size=16, heads=2, layers=1, feedforward_size=24),
        Features(imputer="knn"),
    ),
    "linear": (Linear(), None),
}
LABELS = 3


def built(settings, features, shape: InputShape, train: dict[str, np.ndarray]):
    torch.manual_seed(0)
    model = build_model(settings, shape, LABELS, features=features)
    if isinstance(settings, Linear):
        n = len(train["values"])
        labels = np.random.default_rng(0).integers(0, 2, (n, LABELS))
        fit_tabular(model, train, np.full(n, shape.steps), labels, np.ones(n), 0, "multilabel")
    else:
        model.input_layer.fit(train["values"], train.get("statics"))
        with torch.no_grad():
            model.head.weight.mul_(5)
    return model.eval()


def row_of(inputs: dict[str, np.ndarray], i: int = 0, steps: int = STEPS) -> dict[str, torch.Tensor]:
    return {name: tensor[i, :steps] for name, tensor in tensors(inputs).items()}


@pytest.fixture(params=FAMILY)
def explained(request):
    """Model of the family, its explainer, and a row."""
    train = stays(60, 1)
    model = built(*FAMILY[request.param], STAYS, train)
    return model, SeriesExplainer(model, STAYS, tensors(train), False), row_of(stays(3, 7), 1)


@pytest.mark.parametrize("steps", [STEPS, 7])
def test_contributions_add_up_to_what_is_unlike_the_average_row(explained, steps):
    model, explainer, row = explained
    row = {"values": row["values"][:steps], "statics": row["statics"]}
    found = explainer.integrated_gradients(row, [0, 2], 128).numpy()
    assert found.shape == (2, steps + 1, 7)
    batch = {name: tensor[None] for name, tensor in row.items()}
    with torch.no_grad():
        logit = model(batch, torch.tensor([steps]))[0]
    change = (logit - explainer.start(steps))[[0, 2]].numpy()
    assert np.abs(change).max() > 0.02, "nothing to explain"
    np.testing.assert_allclose(found.sum(axis=(1, 2)), change, atol=0.03 * np.abs(found).sum(axis=(1, 2)).max())
    assert not found[:, :-1, 5:].any(), "statics belong to no step"


@pytest.mark.parametrize("name", ["gru", "linear"])
def test_hidden_descriptors_contribute_nothing(name):
    settings, features = FAMILY[name]
    train, row = stays(60, 1), row_of(stays(3, 7), 1)
    model = built(settings, (features or Features()).model_copy(update={"hidden": ["Age"]}), STAYS, train)
    explainer = SeriesExplainer(model, STAYS, tensors(train), False)
    found = explainer.integrated_gradients(row, [0, 2], 128).numpy()
    age, height = (len(STAYS.parameters) + STAYS.statics.index(one) for one in ("Age", "Height"))
    assert not found[:, :, age].any() and found[:, :, height].any()
    with torch.no_grad():
        logit = model({name: tensor[None] for name, tensor in row.items()}, torch.tensor([STEPS]))[0]
    change = (logit - explainer.start(STEPS))[[0, 2]].numpy()
    np.testing.assert_allclose(found.sum(axis=(1, 2)), change, atol=0.03 * np.abs(found).sum(axis=(1, 2)).max())


def test_the_average_row_contributes_nothing(explained):
    model, _, row = explained
    alone = SeriesExplainer(model, STAYS, {name: tensor[None] for name, tensor in row.items()}, False)
    np.testing.assert_allclose(alone.integrated_gradients(row, [0], 4).numpy(), 0, atol=1e-5)


def test_falls_are_differences_of_the_models_own_logits(explained):
    model, explainer, row = explained
    falls, size = explainer.falls(row).numpy(), window_size(STEPS)
    assert falls.shape == (LABELS, STEPS // size + 1, 7)

    def logits(values, statics):
        with torch.no_grad():
            return model({"values": values[None], "statics": statics[None]}, torch.tensor([STEPS]))[0].numpy()

    whole = logits(row["values"], row["statics"])
    window = 1
    seen = ~row["values"][window * size : (window + 1) * size].isnan()
    parameter = int(np.flatnonzero(seen.any(dim=0))[0])
    without = row["values"].clone()
    without[window * size : (window + 1) * size, parameter] = torch.nan
    np.testing.assert_allclose(falls[:, window, parameter], whole - logits(without, row["statics"]), atol=1e-5)
    without = row["values"].clone()
    without[:, parameter] = torch.nan
    np.testing.assert_allclose(falls[:, -1, parameter], whole - logits(without, row["statics"]), atol=1e-5)
    unknown = torch.tensor([[row["statics"][0, 0], torch.nan]])
    np.testing.assert_allclose(falls[:, -1, 6], whole - logits(row["values"], unknown), atol=1e-5)
    spread = explainer.spread(torch.from_numpy(falls), row["values"]).numpy()
    np.testing.assert_allclose(spread.sum(axis=1), falls[:, -1], atol=1e-5)
    assert not spread[:, :-1, :5][:, row["values"].isnan().numpy()].any(), "nothing lies where nothing was observed"


def test_trees_are_explained_by_occlusion():
    train = stays(80, 2)
    rng = np.random.default_rng(0)
    high = np.nanmax(train["values"][:, :, 0], axis=1)
    labels = np.repeat((high > np.nanmedian(high))[:, None], LABELS, axis=1).astype(int)
    torch.manual_seed(0)
    model = build_model(Boosting(max_iter=20, min_samples_leaf=5), STAYS, LABELS)
    fit_tabular(model, train, np.full(80, STEPS), labels, np.ones(80), int(rng.integers(9)), "multilabel")
    explainer = SeriesExplainer(model, STAYS, tensors(train), False)
    assert not explainer.has_gradients
    row = row_of(train, int(np.nanargmax(high)))
    contributions = explainer.spread(explainer.falls(row), row["values"])[0].numpy().sum(axis=0)
    assert contributions.argmax() == 0, contributions


def test_classes_are_explained_by_what_sets_them_apart():
    train = images(40, 1)
    model = built(Recurrent(**SMALL, cell="gru"), Features(observed=False, elapsed=False), IMAGES, train)
    explainer = SeriesExplainer(model, IMAGES, tensors(train), True)
    row = row_of(images(2, 5), 0, 6)
    found = explainer.integrated_gradients(row, range(LABELS), 32).numpy()
    np.testing.assert_allclose(found.sum(axis=0), 0, atol=1e-5)
    assert found.shape == (LABELS, 7, 4) and np.abs(found).max() > 0


@pytest.mark.parametrize(
    "features", [Features(), Features(smooth=2, dose=True, recency=True), Features(observed=False, elapsed=False)]
)
def test_each_column_belongs_to_the_parameter_it_is_named_after(features):
    names, found = sources(STAYS), column_sources(STAYS, features)
    columns = series_columns(STAYS, features)
    assert len(columns) == len(found)
    for column, source in zip(columns, found, strict=True):
        assert re.match(rf"{re.escape(names[source])}( |$)", column), (column, names[source])


def test_a_statistic_lies_in_the_steps_that_make_it():
    nan = np.nan
    values = torch.tensor([[nan, 4.0], [3.0, nan], [9.0, nan], [nan, nan], [5.0, nan], [1.0, nan]])[:, [0, 1, 1]]
    values[:, 2] = nan
    shares = statistic_shares(values, 6).numpy()
    assert shares.shape == (11, 6, 3)
    np.testing.assert_allclose(shares[:, :, :2].sum(axis=1), 1, atol=1e-6)
    assert not shares[:, :, 2].any()
    first, last, low, high = shares[:4, :, 0].argmax(axis=1)
    assert (first, last, low, high) == (1, 5, 5, 2)
    np.testing.assert_allclose(shares[4, :, 0], [0, 0.25, 0.25, 0, 0.25, 0.25])
    np.testing.assert_allclose(shares[7, :, 0], [0, 0.5, 0.5, 0, 0, 0])  # early mean
    assert shares[5, 2, 0] == shares[5, :, 0].max()  # the deviation comes from the outlier


def test_clinical_scores_are_shared_among_what_they_are_made_of():
    shape = InputShape(
        "series",
        steps=STEPS,
        parameters=tuple(parameter.name for parameter in SERIES),
        kinds=tuple(parameter.kind for parameter in SERIES),
        statics=("Age", "Height", "Weight"),
    )
    assert has_scores(shape)
    rng = np.random.default_rng(0)
    low, high = (np.array([getattr(parameter, end) for parameter in SERIES]) for end in ("low", "high"))
    values = (low + (high - low) * rng.uniform(0.1, 0.4, (40, STEPS, len(SERIES)))).astype(np.float32)
    statics = rng.uniform(40, 90, (40, 1, 3)).astype(np.float32)
    train = {"values": values, "statics": statics}
    model = built(Linear(), None, shape, train)
    explainer = SeriesExplainer(model, shape, tensors(train), False)
    row, names = row_of(train, 3), sources(shape)
    shares = explainer._score_shares(row)
    np.testing.assert_allclose(shares.sum(dim=1).numpy(), 1, atol=1e-5)
    of = dict(zip(clinical_scores.NAMES, shares.numpy(), strict=True))
    index = of["body mass index"]
    assert {names[i] for i in np.flatnonzero(index > 1e-6)} == {"Height", "Weight on admission"}
    assert {names[i] for i in np.flatnonzero(of["GCS change"] > 1e-6)} == {"GCS"}
    found = explainer.integrated_gradients(row, [0], 8)
    logits = model({name: tensor[None] for name, tensor in row.items()}, torch.tensor([STEPS]))[0]
    np.testing.assert_allclose(float(found.sum()), float(logits[0] - explainer.start(STEPS)[0]), atol=1e-3)


def test_scaled_values_come_back_in_their_units():
    rng = np.random.default_rng(0)
    table = np.stack([rng.normal(80, 10, 500), np.exp(rng.normal(0, 1, 500)), np.full(500, 7.0)], axis=1)
    scaler = Scaler(3)
    scaler.fit(table.astype(np.float32))
    inside = torch.from_numpy(np.clip(table, *np.quantile(table, [0.01, 0.99], axis=0))).float()
    np.testing.assert_allclose(scaler.inverse(scaler(inside)).numpy(), inside.numpy(), rtol=1e-4)


CRISES = [
    "--task", "icu", "--preset", "sample", "executor.threads=1", "executor.workers=1", "folds.scheme=holdout",
    "baselines=[]", "train.epochs=5", "explain.per_label=4",
]  # fmt: skip


def given(folder: Path) -> list[str]:
    return [*CRISES, f"paths.input={folder}", f"paths.output={folder / 'output'}"]


@pytest.fixture(scope="module")
def learned(made_once) -> Path:
    """Folder of synthetic stays and of a GRU that has learned them."""

    def learn(folder: Path) -> None:
        make_sample(folder, rows=1000, test_rows=20, seed=5)
        run_command(["train", "--model", "gru", *given(folder)])
        run_command(["explain", "gru", *given(folder)])

    return made_once("crises", learn)


def truth_of(folder: Path) -> dict[str, tuple[set[str], range]]:
    """Parameters and hours of the crisis of each stay of set-a that has one."""
    found: dict[str, tuple[set[str], range]] = {}
    with (folder / "truth.csv").open() as file:
        for line in csv.DictReader(file):
            if line["set"] == "set-a" and line["parameter"]:
                hours = range(int(line["from_hour"]), int(line["to_hour"]))
                found.setdefault(line["RecordID"], (set(), hours))[0].add(line["parameter"])
    return found


def test_the_parameters_and_hours_of_a_crisis_are_found(learned):
    """Measured: the strongest parameter is one of the true ones in 25 of 25 stays (by chance in 19%), and the strongest
    step lies in the crisis in 25 of 25 (21%)."""
    settings = load_config("sample", ["task=icu", *(word for word in given(learned) if "=" in word)])
    workspace = Workspace(settings)
    dataset, run, truth = workspace.dataset, workspace.run("gru"), truth_of(learned)
    train, names = dataset.train, np.array(sources(dataset.shape))
    rows = [int(row) for row in np.flatnonzero(workspace.splits.scored) if train.ids[row].decode() in truth][:40]
    executor = make_executor(settings.executor, "cpu", 1)
    found = explain(executor, run, dataset.train_folder, [(row, 0) for row in rows], True, 16, occlude=True)
    first, among, hour, by_chance, ranks = [], [], [], [], []
    for one in found:
        parameters, hours = truth[train.ids[one.row].decode()]
        values = train.inputs["values"][one.row]
        total = one.contributions.sum(axis=0)
        order = names[np.argsort(-total)]
        first.append(order[0] in parameters)
        among.append(np.mean([name in parameters for name in order[:3]]))
        step = int(one.contributions[:-1].sum(axis=1).argmax())
        hour.append(hours.start <= (step + 0.5) * step_size(dataset.shape) < hours.stop)
        seen = np.flatnonzero((~np.isnan(values)).any(axis=0))
        by_chance.append((len(parameters) / len(seen), len(hours) / HOURS))
        ranks.append(spearmanr(total[seen], one.falls[-1][seen]).statistic)
        assert one.logit == pytest.approx(float(run.oof()[one.row, 0]), abs=0.01)
        assert total.sum() == pytest.approx(one.logit - one.start, abs=0.05 * abs(one.logit - one.start) + 0.05)
    parameter_chance, hour_chance = np.mean(by_chance, axis=0)
    assert len(rows) >= 20 and parameter_chance < 0.3 and hour_chance < 0.3
    assert np.mean(first) > 0.9 and np.mean(among) > 0.75 and np.mean(hour) > 0.8
    assert np.mean(ranks) > 0.3


def test_one_stay_is_told_in_tables_and_drawn(learned, capsys):
    record = json.loads((learned / "output" / "runs" / "gru" / "explained.json").read_text())
    one = record["reports"][0]
    assert main(["explain", "gru", "--id", one["report"], *given(learned)]) == 0
    told = capsys.readouterr().out
    page = (learned / "output" / f"explain_gru_set-a_{one['report']}.html").read_text()
    total = dict(zip(sources(STAY), np.sum(one["contributions"], axis=0), strict=True))
    strongest = sorted(total, key=lambda name: -abs(total[name]))
    names = [line.split("  ")[0] for line in told.splitlines() if re.search(r"  [+-]\d\.\d\d  ", line)]
    assert names[0] == strongest[0] and len({*names[:8]} & {*strongest[:10]}) >= 7
    assert page.count("<svg") == 2 and f"{strongest[0]} {total[strongest[0]]:+.1f}" in page.replace("\n", "")
    assert all(set(curve) == {"observed", "filled"} for curve in one["curves"].values()) and len(one["curves"]) == 5
    for curve in one["curves"].values():
        assert None not in curve["filled"] and None in curve["observed"] or len(curve["observed"]) == 24
    many = record["parameters"]["In-hospital_death"]
    assert many["rows"] == 20 and len(many["size"]) == len(sources(STAY)) and len(many["steps"]) == 24
    assert min(many["size"]) >= 0 and many["direction"][STAY.parameters.index("Lactate")] > 0.3


STAY = InputShape(
    "series",
    steps=24,
    parameters=tuple(parameter.name for parameter in SERIES),
    kinds=tuple(parameter.kind for parameter in SERIES),
    statics=("Age", "Gender", "Height", "Weight", "ICUType_1", "ICUType_2", "ICUType_3", "ICUType_4"),
)


@pytest.mark.parametrize("task", ["icu", pytest.param("los", marks=pytest.mark.slow), "frames"])
def test_the_page_of_each_task_speaks_of_its_rows(task, learned, tmp_path):
    folder = learned
    if task == "frames":
        folder = tmp_path
        image_sample(folder)
    output = folder / ("output" if task == "icu" else task)
    words = [
        "--task", task, "--preset", "sample", "executor.threads=1", "executor.workers=1", "folds.scheme=holdout",
        "baselines=[]", "explain.per_label=2", f"paths.input={folder}", f"paths.output={output}",
    ]  # fmt: skip
    run_command(["train", "--model", "linear", *words])
    run_command(["explain", "linear", *words])
    findings = Findings.load(Workspace(load_config("sample", [f"task={task}", *(w for w in words if "=" in w)])))
    findings = findings.of("linear")
    noun = findings.dataset.task.noun
    explained = explanations.section(findings)
    for section in (errors.section(findings), explained, training.section(findings)):
        said = str([part for part in section.parts if not isinstance(part, Chart)])
        said += str([part.caption for part in section.parts if isinstance(part, Chart)])
        assert not re.search(r"\b(reports?|tokens?|words)\b", said), said
        assert section.parts
    hardest = next(part for part in errors.section(findings).parts if isinstance(part, Table))
    assert hardest.columns[0] == noun[:-1] and noun in hardest.caption and len(hardest.rows) == 12
    header, *lines = errors.suspicious_table(findings).splitlines()
    assert header.startswith(noun[:-1] + ",") and bool(lines) <= (task != "los")
    drawn = [part for part in explained.parts if isinstance(part, Chart)]
    assert len(drawn) >= 4
    links = {row[0].href for row in hardest.rows if isinstance(row[0], Link)}
    assert links and links <= {f"#{part.anchor}" for part in drawn}
