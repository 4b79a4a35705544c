"""The pipeline ends with what the user needs next: data, expected score, files to upload, page and next command."""

import json
from types import SimpleNamespace

from src.core.settings_loader import load_config
from src.core.storage import Output
from src.core.terminal import output_mode
from src.data.tasks import get_task
from src.evaluation.workspace import Workspace
from src.pipeline import closing


def test_the_summary_names_data_scores_files_and_the_page(done, tiny_input):
    settings = load_config("sample", [f"paths.input={tiny_input}", f"paths.output={done}"])
    with output_mode(quiet=True, as_json=False) as transcript:
        closing.show(Workspace(settings))
    told = [line.split(": ", 1) for line in transcript.lines]
    first = dict(told)
    boards = json.loads((done / "runs/blend/leaderboard.json").read_text())["tests"]
    score = json.loads((done / "runs/blend/score.json").read_text())["overall"]["score"]["value"]
    assert len(boards) == 2
    for test, found in boards.items():
        assert first[f"expected on {test}"].startswith(f"{found['expected']['value']:.4f}")
    assert first["out of fold"].startswith(f"{score:.4f}")
    uploads = [rest for name, rest in told if name == "to upload"]
    assert uploads == [str(done / f"submission_{test}") for test in boards]
    assert first["page"] == str(done / "report.html")
    assert "SYNTHETIC" not in first["data"], "these files lie in a folder of the user's"


def test_scores_have_the_name_of_what_they_are_under_another_metric(tmp_path):
    """metric=roc_auc orders runs; what is expected on a test file is 1 - log loss all the same."""
    figure = {"value": 0.66, "standard_error": 0.01}
    blend = SimpleNamespace(
        boards=lambda: {"set-b": {"expected": {"value": 0.65, "low": 0.6, "high": 0.7}}},
        score={"overall": {"score": figure, "scores": {"roc_auc": {"value": 0.86, "standard_error": 0.02}}}},
        record={"members": {"gru": "", "boosting": "", "linear": ""}},
    )
    settings = load_config("sample", ["task=icu", "metric=roc_auc", f"paths.input={tmp_path}"])
    workspace = SimpleNamespace(
        run=lambda name: blend,
        task=get_task("icu", "roc_auc"),
        dataset=SimpleNamespace(test_files=["set-b"]),
        settings=settings,
        input_files=None,
        output=Output(tmp_path),
        command=lambda verb, *words: verb,
    )
    with output_mode(quiet=True, as_json=False) as transcript:
        closing.show(workspace)
    scores = [line for line in transcript.lines if line.startswith(("expected on", "out of fold"))]
    assert len(scores) == 2
    for line in scores:
        assert get_task("icu").score_name in line and workspace.task.score_name not in line
