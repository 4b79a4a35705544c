"""The pipeline ends with what the user needs next: data, expected score, files to upload, page and next command."""

import json
import shutil
from types import SimpleNamespace

import pytest

from src.__main__ import main
from src.core.settings_loader import load_config
from src.core.targets import Target
from src.core.terminal import output_mode
from src.data.report_reader import read_reports
from src.data.tasks import get_task
from src.evaluation.workspace import Workspace
from src.pipeline import closing
from src.reporting import summary
from src.reporting.summary import Summary
from tests.conftest import words


def workspace_of(input_folder, output, *more: str) -> Workspace:
    given = [word for word in words(input_folder, output, *more) if word not in ("--preset", "sample")]
    return Workspace(load_config("sample", given), read_only=True)


@pytest.fixture
def own_input(tiny_input, tmp_path):
    """Copies of the files, as if they were a user's: no note says that they were made."""
    folder = tmp_path / "input"
    shutil.copytree(tiny_input, folder, ignore=shutil.ignore_patterns("README.md", "answers*"))
    return folder


def told_of(workspace: Workspace) -> tuple[list[list[str]], list[dict]]:
    with output_mode(quiet=True, as_json=False) as transcript:
        closing.show(workspace)
    return [line.split(": ", 1) for line in transcript.lines], transcript.tables


def test_the_summary_names_data_scores_files_and_the_page(done, own_input):
    workspace = workspace_of(own_input, done)
    lines, (table,) = told_of(workspace)
    boards = json.loads((done / "runs/blend/leaderboard.json").read_text())["tests"]
    (row, best) = table["rows"]
    assert row["run"] == "blend" and best["run"] in ("lstm", "transformer")
    for test, found in boards.items():
        short = test.removeprefix("sample_").removesuffix(".csv")
        assert row[f"expected on {short}"].startswith(
            f"{found['expected']['value']:.4f} ({found['expected']['low']:.3f}–"
        )
    score = json.loads((done / "runs/blend/score.json").read_text())["overall"]["score"]["value"]
    assert row["out of fold"].startswith(f"{score:.4f}")
    first = dict(line for line in lines if len(line) == 2)
    assert first["data"].startswith("reports of your own")
    uploads = [rest for name, *rest in lines if name == "to upload"]
    assert uploads == [[str(done / f"submission_{test}")] for test in boards]
    assert first["page"] == str(done / "report.html")
    assert any("leaderboard add" in rest[0] for name, *rest in lines if name == "next")


def test_the_best_has_the_highest_expected_score_on_the_target(done, own_input):
    workspace = workspace_of(own_input, done)
    found, target = Summary.of(workspace), workspace.target.name
    value = {one.run: one.expected[target].value for one in (found.blend, found.best)}
    assert found.ranking == sorted(value, key=value.get, reverse=True)
    (table,) = told_of(workspace)[1]
    assert [row["run"] for row in table["rows"]] == found.ranking


def test_sample_data_is_called_synthetic_wherever_it_lies(done, tiny_input):
    data = Summary.of(workspace_of(tiny_input, done)).data
    assert data.sample.startswith("SYNTHETIC") and data.rows["sample_train.csv"] == 300
    lines, _ = told_of(workspace_of(tiny_input, done))
    assert dict(line for line in lines if len(line) == 2)["data"].startswith("SYNTHETIC")
    assert not [line for line in lines if line[0] == "to upload"]


def test_a_run_that_learned_less_than_a_baseline_is_told(done, own_input):
    """The tiny models see two epochs."""
    found = Summary.of(workspace_of(own_input, done))
    assert any("no more than the baseline" in told and told.startswith("blend scores") for told in found.warnings)
    assert "what-a-score-means" in found.steps[0].why


def test_a_run_hardly_better_than_a_constant_is_told(copy, own_input):
    score = json.loads((copy / "runs/blend/score.json").read_text())["overall"]["score"]["value"]
    for path in copy.glob("baselines/*/score.json"):
        if path.parent.name == "prior":
            found = json.loads(path.read_text())
            found["overall"]["score"]["value"] = score - 0.001
            Target("prior", path, found["fingerprint"]).write({k: v for k, v in found.items() if k != "checksum"})
        else:
            shutil.rmtree(path.parent)
    warnings = Summary.of(workspace_of(own_input, copy)).warnings
    assert any("next to nothing" in told for told in warnings)


def test_a_submission_of_another_blend_is_not_to_be_uploaded(copy, own_input):
    (submission, _) = sorted(copy.glob("submission_*.csv"))
    submission.write_text("0|,|0.5\n")
    uploads = Summary.of(workspace_of(own_input, copy)).uploads
    assert submission not in [one.path for one in uploads] and len(uploads) == 1


def test_an_unfinished_pipeline_has_a_summary(copy, own_input):
    shutil.rmtree(copy / "runs")
    found = Summary.of(workspace_of(own_input, copy))
    assert (found.best, found.blend, found.uploads) == (None, None, [])
    assert found.steps[0].command.startswith("pipeline")


def test_half_trained_and_damaged_results_do_not_end_the_summary(copy, own_input):
    """Members of the preset that are not in the blend: one without a score, one whose score is damaged."""
    workspace = workspace_of(own_input, copy)
    model = workspace.settings.runs["lstm"]
    more = {**workspace.settings.runs, "half": model, "hurt": model}
    (copy / "runs/half").mkdir()
    (copy / "runs/half/config.yaml").write_text("")
    shutil.copytree(copy / "runs/lstm", copy / "runs/hurt")
    damaged = [copy / "runs/hurt/score.json", copy / "runs/blend/leaderboard.json", copy / "baselines/prior/score.json"]
    for path in damaged:
        path.write_text(path.read_text()[:-20])
    with output_mode(quiet=True, as_json=False) as transcript:
        found = Summary.of(Workspace(workspace.settings.model_copy(update={"runs": more}), read_only=True))
    assert found.blend is not None and found.blend.expected == {} and found.left_out == {}
    assert found.best is not None and found.best.expected != {}
    assert found.ranking == [], "the blend has no figure for the target"
    told = " ".join(transcript.warnings)
    assert all(str(path) in told for path in damaged)


def test_scores_have_the_name_of_what_they_are_under_another_metric():
    """metric=roc_auc orders runs; the summary tells the task's own score, 1 - log loss, and its name."""
    figure = {"value": 0.66, "standard_error": 0.01}
    run = SimpleNamespace(
        name="blend",
        boards=lambda: {"set-b": {"expected": {"value": 0.65, "low": 0.6, "high": 0.7}}},
        score={
            "overall": {"score": figure, "scores": {"roc_auc": {"value": 0.86, "standard_error": 0.02}}},
            "rows": 100,
            "how": "out of fold",
            "optimistic": False,
        },
        record={"members": {"gru": "", "linear": ""}},
    )
    standing = summary._standing(SimpleNamespace(boards=lambda one: one.boards()), run)
    assert standing.out_of_fold == figure
    own = get_task("icu")
    found = Summary(own, "sample", None, None, standing, {}, [], None, [], [], [])
    with output_mode(quiet=True, as_json=False) as transcript:
        closing._show_standings(found, [standing])
    (table,) = transcript.tables
    assert own.score_name in table["title"].lower() and "ROC" not in table["title"]
    assert table["rows"][0]["out of fold"].startswith("0.66")


def test_rows_left_out_and_weights_are_told(copy, tiny_input, tmp_path, capsys):
    ids = read_reports(next(tiny_input.glob("*train*.csv"))).ids
    (tmp_path / "out.csv").write_bytes(ids[3] + b"\n" + ids[7])
    (tmp_path / "heavy.csv").write_bytes(ids[5] + b",3")
    own = [f"paths.exclude={tmp_path / 'out.csv'}", f"paths.weights={tmp_path / 'heavy.csv'}"]
    made = words(tiny_input, copy, *own)
    assert main(["prepare", *made]) == 0
    capsys.readouterr()
    assert main(["status", *made]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "no score counts the 2 training rows that out.csv leaves out" in told
    assert "training weighs rows by heavy.csv" in told
