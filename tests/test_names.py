"""Names of runs, blends, studies and boards: one rule, wherever a name comes from; nothing is written elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from src.__main__ import main
from src.core.names import MOST_BYTES, check_model, check_name
from src.core.settings_loader import load_config
from src.core.storage import Output
from src.pipeline.stage import run_lock
from tests.conftest import error_of, words

BAD = [
    "../../../evil", "..", ".", "", "a/b", "a\\b", "/etc", "a\0b", "a\nb", " ", "a b", "-a", ".a", "a\x1b[31m",
    "a\udcff", "a" * (MOST_BYTES + 1), "模" * MOST_BYTES, "a\u202eb", "~", "*", "a\t", "a\n", "$(x)", "C:", "e\u0301",
]  # fmt: skip
GOOD = ["lstm", "lstm_small", "a.b", "a-b", "1", "_", "模型", "é", "a" * MOST_BYTES]


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_bad_names(name, tmp_path):
    for check in (lambda: check_name("run", name), lambda: Output(tmp_path).run(name), lambda: run_lock(name)):
        assert "cannot be the name of a run" in error_of(check)


@pytest.mark.parametrize("name", GOOD)
def test_good_names(name, tmp_path):
    assert check_name("run", name) == name
    assert Output(tmp_path).run(name).parent == Output(tmp_path).runs


def preset(folder: Path, name: object) -> str:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"runs": {name: {"like": "lstm"}}}, allow_unicode=True))
    return str(path)


@pytest.mark.parametrize("name", [*(name for name in BAD if "\udcff" not in name), "blend"], ids=ascii)
def test_runs_of_a_preset(name, tmp_path):
    told = error_of(load_config, preset(tmp_path, name))
    assert "mine.yaml" in told and "cannot be the name of a run" in told
    assert "cannot be the name of a run" in error_of(check_model, name)


@pytest.mark.parametrize("name", GOOD)
def test_runs_of_a_preset_with_good_names(name, tmp_path):
    assert list(load_config(preset(tmp_path, name)).runs) == [name]


COMMANDS = [
    ["blend", "NAME", "lstm"], ["blend", "lstm", "transformer", "--name", "NAME"], ["submit", "NAME"],
    ["explain", "NAME", "--id", "0"], ["bundle", "NAME"], ["leaderboard", "NAME"], ["leaderboard", "--against", "NAME"],
    ["leaderboard", "ask", "NAME"], ["leaderboard", "ask", "--board", "NAME"], ["tune", "NAME"],
    ["tune", "lstm", "--name", "NAME"], ["train", "--model", "NAME"], ["compress", "NAME"],
    ["train", "leaderboard.board=NAME"], ["train", "blend.members=[NAME]"],
    ["train", "runs.NAME.train.epochs=1"], ["train", "train.teachers=[NAME]"], ["train", "denoise.by=NAME"],
    ["predict", "NAME", "FILE"],
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_verb_writes_elsewhere(command, copy, tiny_input, tmp_path, capsys):
    """A name that leads out of the output folder is an error, and no file is made anywhere, or changed outside."""
    (report,) = tiny_input.glob("*testA*.csv")
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "run.json").write_text("{}")

    def seen() -> dict[Path, int]:
        files = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent != copy / "locks"]
        return {path: 0 if copy in path.parents else path.stat().st_mtime_ns for path in files}

    before = seen()
    for name in ("../../evil", "..", "a\nb"):
        arguments = [word.replace("NAME", name).replace("FILE", str(report)) for word in command]
        assert main([*arguments, *words(tiny_input, copy)]) == 2
        told = capsys.readouterr().err
        assert told.startswith("error: ") and "Traceback" not in told
    assert seen() == before
