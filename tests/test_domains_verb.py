"""./run.sh domains on synthetic stays, whose domains are two genders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from src.__main__ import main
from src.core import array_files
from src.core.settings_loader import load_config
from src.core.storage import read_json
from src.data.synthetic_stays import make_sample
from src.evaluation.workspace import Workspace
from src.pipeline.stages.domains import is_unseen
from src.reporting.html_page import Chart, Text
from src.reporting.sections import Findings, domains
from tests.conftest import error_of, run_command

PRESET = """
folds: {k: 2, scheme: domains}
domains: {by: Gender}
grid: {step: 8}
executor: {workers: 1, threads: 1}
runs:
  pooled: &b
    like: gru
    model: {embedding_size: 4, hidden_size: 4, bidirectional: false}
    train: {epochs: 1, batch_size: 64, seeds: [1, 2]}
  single:
    <<: *b
    train: {epochs: 1, batch_size: 64, regime: single}
"""


def words(folder: Path) -> list[str]:
    return [
        "--task", "icu", "--preset", str(folder / "p.yaml"), f"paths.input={folder / 'input'}",
        f"paths.output={folder / 'out'}",
    ]  # fmt: skip


def workspace_of(folder: Path, *more: str) -> Workspace:
    given = ["task=icu", *(word for word in words(folder) if "=" in word), *more]
    return Workspace(load_config(str(folder / "p.yaml"), given), read_only=True)


@pytest.fixture(scope="module")
def made(made_once) -> Path:
    """input/: stays; out/: two runs by folds of genders, and what domains found."""

    def make(folder: Path) -> None:
        make_sample(folder / "input", rows=160, test_rows=2, seed=4)
        (folder / "p.yaml").write_text(PRESET)
        run_command(["train", *words(folder)])
        run_command(["domains", *words(folder)])

    return made_once("domains", make)


def test_differences_between_domains(made):
    workspace, found = workspace_of(made), read_json(made / "out/domains/domains.json")
    labels, domains = workspace.labels, workspace.domains
    assert [one["name"] for one in found["domains"]] == domains.names == ["female", "male"]
    for i, one in enumerate(found["domains"]):
        rows = domains.of_row == i
        assert one["rows"] == rows.sum()
        assert one["labels"]["In-hospital_death"]["value"] == pytest.approx(labels[rows].mean())
    values = np.asarray(workspace.dataset.train.inputs["values"])[domains.of_row == 0]
    kinds = np.array(workspace.dataset.shape.kinds)
    share = np.isfinite(values[:, :, kinds == "vital"]).mean()  # every stay has all steps
    assert found["domains"][0]["observed"]["vital"] == pytest.approx(share, abs=1e-6)
    assert found["hidden"] == ["Gender"]
    (pair,) = found["pairs"]
    assert (pair["first"], pair["second"]) == ("female", "male") and 0 < pair["auc"] < 0.95
    assert all(one["what"] != "Gender" for one in pair["telling"])
    assert not list((made / "out/domains").glob("pairs.*"))


def test_runs_are_judged_by_domain(made):
    workspace, found = workspace_of(made), read_json(made / "out/domains/judged.json")
    assert found["how"] == "unseen" and found["against"] == "pooled"
    for name in ("pooled", "single"):
        run, areas = workspace.run(name), []
        for i, domain in enumerate(workspace.domains.names):
            rows = workspace.domains.of_row == i
            areas.append(roc_auc_score(workspace.labels[rows, 0], run.oof()[rows, 0]))
            assert found["runs"][name]["roc_auc"]["domains"][domain]["value"] == pytest.approx(areas[-1])
        assert found["runs"][name]["roc_auc"]["worst"]["value"] == pytest.approx(min(areas))
    one, other = (found["runs"][name]["score"]["mean"]["value"] for name in ("single", "pooled"))
    assert found["gains"]["single"]["score"]["mean"]["value"] == pytest.approx(one - other)


def test_seeds_are_judged_one_by_one(made):
    workspace, found = workspace_of(made), read_json(made / "out/domains/judged.json")
    assert set(found["seeds"]) == {"pooled"} and found["seeds"]["pooled"]["seeds"] == [1, 2]
    values = []
    for seed in (1, 2):
        areas = []
        for folder in sorted((made / "out/runs/pooled").glob(f"fold_*.seed_{seed}.*")):
            rows = array_files.read_npz(folder / "split.npz")["predicted_rows"]
            areas.append(roc_auc_score(workspace.labels[rows, 0], array_files.read_npy(folder / "logits.npy")[:, 0]))
        values.append(np.mean(areas))
    spread = found["seeds"]["pooled"]["spread"]["roc_auc"]["mean"]
    assert spread["value"] == pytest.approx(np.mean(values))
    assert spread["deviation"] == pytest.approx(np.std(values, ddof=1))


def test_what_is_current_is_shown_and_not_made_anew(made, capsys):
    before = {path.name: path.read_bytes() for path in (made / "out/domains").glob("*.json")}
    assert main(["domains", "--json", *words(made)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["written"] == [] or all("domains" not in path for path in document["written"])
    assert {path.name: path.read_bytes() for path in (made / "out/domains").glob("*.json")} == before
    titles = [table["title"] for table in document["tables"]]
    assert (
        "Runs by domain: value (95% interval)" in titles and "Difference from pooled, paired (95% interval)" in titles
    )


def test_seen_and_unseen_domains(made):
    assert is_unseen(workspace_of(made))
    other = workspace_of(made, "domains.by=ICUType")
    assert not is_unseen(other)


def test_one_domain_alone_says_how_to_get_more(made, tmp_path, capsys):
    folder = Path(shutil.copytree(made, tmp_path / "copy", copy_function=shutil.copy2))
    assert main(["domains", *words(folder), "domains.by=file", "folds.scheme=kfold"]) == 0
    told = capsys.readouterr().out
    assert "All train stays are of one domain" in told and "domains.by=ICUType" in told
    assert "Runs by domain" not in told
    assert main(["domains", "nobody", *words(folder), "domains.by=file", "folds.scheme=kfold"]) == 2
    assert "unknown run 'nobody'" in capsys.readouterr().err


def test_an_unknown_run_is_named(made):
    from src.pipeline.stages.domains import DomainStage

    assert "unknown run" in error_of(DomainStage(["nobody"]).targets, workspace_of(made))


def test_views_of_models_that_have_not_seen_the_worst_domain(made):
    found = read_json(made / "out/domains/views.json")
    workspace, judged = workspace_of(made), read_json(made / "out/domains/judged.json")
    assert list(found["runs"]) == ["pooled", "single"]
    assert found["worst"] == judged["runs"]["pooled"]["roc_auc"]["worst"]["domain"]
    n, n_features = len(found["domain"]), len(found["names"])
    assert n == len(workspace.labels) and n_features == 37 + 8
    for one in found["runs"].values():
        points = np.array(one["points"])
        assert points.shape == (n, 2) and points.std(axis=0).min() > 0
        assert np.allclose(points.mean(axis=0), 0, atol=0.01), "principal components are centred"
        assert np.array(one["importance"]).shape == (2, n_features) and np.min(one["importance"]) >= 0
    assert not list((made / "out/domains").glob("views.*.json")) and not (made / "out/domains/views.npz").exists()


def test_the_page_has_a_section(made):
    findings = Findings.load(workspace_of(made))
    found = domains.section(findings)
    captions = [part.caption for part in found.parts if not isinstance(part, Text)]
    for start in ("0.5 where", "Runs by domain", "Reliability", "Pooled features", "pooled: share"):
        assert any(caption.startswith(start) for caption in captions), start
    (maps,) = [part for part in found.parts if isinstance(part, Chart) and part.caption.startswith("Pooled")]
    assert len(maps.panels) == 4 and f"no row of {read_json(made / 'out/domains/views.json')['worst']}" in maps.caption
    other = Findings(findings.workspace, findings.dataset, findings.folds, findings.shift, {}, [])
    assert not any(isinstance(part, Text) for part in domains.section(other).parts), "the runs are not those any more"
