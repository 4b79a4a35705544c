"""The pipeline ends with what the user needs next: data, expected score, files to upload, page and next command."""

import json

from src.core.settings_loader import load_config
from src.core.terminal import output_mode
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
