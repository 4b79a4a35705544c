"""Output of commands on and off a terminal, with --quiet and with --json."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest

from src.__main__ import _show_fault, main
from src.core import storage, terminal
from src.core.executors import Job
from src.core.settings_loader import load_config
from src.core.terminal import (
    JobProgress,
    dependency,
    duration,
    info,
    nearby,
    output_mode,
    result,
    show_table,
    warn,
    wrapped,
)
from src.evaluation.workspace import Workspace
from src.pipeline.stages import train
from src.training import device_cache
from tests.conftest import words

ROOT = Path(__file__).resolve().parents[1]
LONG = "track1_round1_testA_20210222.csv"
SHOW = """
from src.core.terminal import JobProgress, info, show_table
show_table("Scores", ["run", "score"], [["lstm", "0.9"], ["gru [b]", "0.8"]])
with JobProgress("train", {"one": 1.0, "two": 1.0}) as progress:
    progress.step("one", 0.5, "half")
    progress.finish("one", "done")
info("end")
"""
COLOUR = re.compile(r"\x1b\[[\d;]*m")


def on_a_terminal(code: str, **environment: str) -> str:
    """Returns the output of a program whose stdout is a terminal."""
    here, there = pty.openpty()
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLORTERM")}
    environment = {**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "100", **environment}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=there, stderr=there)
    os.close(there)
    shown = b""
    while True:
        try:
            part = os.read(here, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(here)
    assert process.wait() == 0, shown
    return shown.decode()


def test_colours_and_bars_are_for_terminals():
    shown = on_a_terminal(SHOW)
    assert COLOUR.search(shown) and "━" in shown and "gru [b]" in shown


def test_no_color_is_honoured():
    shown = on_a_terminal(SHOW, NO_COLOR="1")
    assert not COLOUR.search(shown.replace("\x1b[0m", "")) and "0.9" in shown and "end" in shown
    assert COLOUR.search(on_a_terminal(SHOW, NO_COLOR="")), "an empty NO_COLOR is none, says no-color.org"


def test_a_terminal_that_can_do_nothing_gets_lines():
    shown = on_a_terminal(SHOW, TERM="dumb")
    assert "\x1b" not in shown and "one  half  (25%" in shown


HEAT = (
    "from src.core.terminal import show_heat; "
    "show_heat('heat', [('412', 1.0, False), ('7', -0.4, True), ('33', 0.0, False)])"
)


def test_tokens_have_colours_or_signs():
    shown = on_a_terminal(HEAT)
    assert "412" in shown and COLOUR.search(shown) and "412+" not in shown
    assert "\x1b[4;" in shown or ";4;" in shown or "\x1b[4m" in shown, "noise is underlined"
    for environment in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        plain = re.sub(r"\x1b\[[0-9;]*m", "", on_a_terminal(HEAT, **environment))
        assert "412+++ 7-? 33" in plain


@pytest.mark.parametrize("variable", ["FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE"])
def test_a_file_gets_no_escapes(variable):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", variable: "1"}
    done = subprocess.run([sys.executable, "-c", SHOW], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "\x1b" not in done.stdout + done.stderr and "one  half  (25%" in done.stdout, done.stderr


def check_shown(shown: str, columns: list[str], rows: list[list[str]]) -> None:
    """Asserts that a table fits and that no cell is truncated."""
    assert max(map(len, shown.splitlines())) <= 80, shown
    texts = [*columns, *(cell for row in rows for cell in row)]
    for text in texts:
        assert text in shown or " " in text or len(text) > 15, text  # what is wrapped is only counted
    assert not Counter("".join(texts).replace(" ", "")) - Counter(shown), shown


@pytest.mark.parametrize(
    ("columns", "rows"),
    [
        (["", LONG, f"b_{LONG}", f"c_{LONG}"], [["replacement", "1", "2", "3"]]),
        (["run", *(f"member_{i}" for i in range(20))], [["blend", *("0.12345" for _ in range(20))]]),
        (["label", "train", "predicted"], [["a_run_with_a_name_" * 6, "0.1", "0.2"], ["short", "0.3", "0.4"]]),
        (["run"], [["x" * 200]]),
        (["run", "one", "value"], [["y" * 60, "z" * 90, "0.5"]]),
    ],
)
def test_wide_tables_are_cut_up_and_lose_nothing(columns, rows, capsys):
    show_table(f"On {LONG} and {LONG} and {LONG}", columns, rows)
    check_shown(capsys.readouterr().out, columns, rows)


def test_words_are_wrapped_in_their_column(capsys):
    show_table("T", ["stage", "what"], [["prepare", "a sentence of words " * 10]], words=["what"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and sum("sentence" in line for line in lines) > 2
    assert all(line.startswith(("prepare", " " * 9)) for line in lines[3:])


def test_quiet_leaves_results_and_warnings(capsys):
    with output_mode(quiet=True, as_json=False) as printed:
        info("news")
        with dependency():
            result("on the way")
            show_table("on the way", ["a"], [["1"]])
        with JobProgress("jobs", {"one": 1.0}) as progress:
            progress.finish("one", "done")
        result("the end")
        show_table("the table", ["a"], [["2"]])
        warn("careful")
    shown = capsys.readouterr()
    assert "the end" in shown.out and "the table" in shown.out and shown.err == "warning: careful\n"
    assert not any(text in shown.out for text in ("news", "on the way", "one"))
    assert printed.lines == ["news", "on the way", "the end"] and printed.warnings == ["careful"]
    info("loud again")
    assert "loud again" in capsys.readouterr().out


def test_jobs_without_lines_tell_how_far_they_are(monkeypatch, capsys):
    monkeypatch.setattr(terminal, "EVERY", 0.0)
    with JobProgress("predict", {"one": 1.0, "two": 1.0}, lines=False) as progress:
        progress.finish("one", "done")
        progress.finish("two", "done")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("predict: 1 of 2 jobs (50%, ") and lines[1].startswith("predict: 2 jobs in ")
    with JobProgress("predict", {"one": 1.0}, lines=False) as progress:
        progress.finish("one", "done")
    assert capsys.readouterr().out.startswith("predict: 1 job in ")


def document(capsys, arguments: list[str], status: int = 0) -> tuple[dict, str]:
    assert main(arguments) == status
    shown = capsys.readouterr()
    return json.loads(shown.out), shown.err


def test_json_is_one_document(done, tiny_input, capsys):
    found, printed = document(capsys, ["score", "--json", *words(tiny_input, done)])
    assert (found["verb"], found["exit_status"]) == ("score", 0) and found["seconds"] > 0
    (table,) = found["tables"]
    assert {"tfidf", "lstm", "blend"} <= {row["run"] for row in table["rows"]}
    assert table["columns"] == list(table["rows"][0]) and "error" not in found

    (done / "submission_sample_testA.csv").unlink()
    found, printed = document(capsys, ["--json", *words(tiny_input, done)])
    assert found["verb"] == "pipeline" and any(line.startswith("pipeline: done") for line in found["lines"])
    assert "train: all 4 folds are up to date" in printed and str(done / "pipeline.json") in found["written"]
    assert str(done / "submission_sample_testA.csv") in found["written"]

    found, printed = document(capsys, ["submit", "--json", "--quiet", *words(tiny_input, done)])
    assert printed == "" and len(found["lines"]) == 2
    found, _ = document(capsys, ["config", "--json", *words(tiny_input, done)])
    assert found["settings"]["folds"]["k"] == 2


def test_json_tells_what_went_wrong(done, tiny_input, tmp_path, capsys, monkeypatch):
    nothing = ["submit", *words(tiny_input, tmp_path)]
    for arguments in (["trian"], ["train", "train.epocs=3"], ["train", "--modle"], nothing):
        found, printed = document(capsys, [*arguments, "--json"], status=2)
        assert found["exit_status"] == 2 and printed == f"error: {found['error']}\n"

    def broken(*_) -> None:
        raise ZeroDivisionError("a fault of the code")

    monkeypatch.setattr("src.pipeline.stages.score.Score.show", broken)
    found, printed = document(capsys, ["score", "--json", *words(tiny_input, done)], status=1)
    assert found["error"] == "ZeroDivisionError: a fault of the code" and "Traceback" in printed


def test_quiet_verbs_say_what_they_were_asked_for(done, tiny_input, capsys):
    assert main(["--quiet", *words(tiny_input, done)]) == 0
    shown = capsys.readouterr().out
    assert "submission_sample_testA.csv" in shown and "pipeline: done" in shown and "Target testB" in shown
    assert "prepare" not in shown and "train:" not in shown
    assert main(["folds", "--quiet", *words(tiny_input, done)]) == 0
    assert capsys.readouterr().out == "folds: up to date (2 folds)\n"


def test_tables_of_all_stages_fit_80_columns(copy, tiny_input, tmp_path, capsys):
    """Tables fit with the names of the real files; equal reports under other names retrain nothing."""
    folder = tmp_path / "round1"
    folder.mkdir()
    for name, real in (("train", "train_20210222"), ("testA", "testA_20210222"), ("testB", "testB")):
        (folder / f"track1_round1_{real}.csv").write_bytes((tiny_input / f"sample_{name}.csv").read_bytes())
    made = words(folder, copy)
    tables = []
    for arguments in (
        [],
        ["blend", "blend", "lstm", "transformer", "--name", "of_three"],
        ["score", "lstm"],
        ["leaderboard", "blend", "--against", "lstm"],
        ["leaderboard", "add", str(copy / "submission_track1_round1_testB.csv"), "0.9"],
        ["leaderboard", "ask"],
        ["status"],
    ):
        found, _ = document(capsys, [*arguments, "--json", *made])
        assert found["tables"] or arguments, "each has a table"
        tables += found["tables"]
    assert len(tables) > 15
    for table in tables:
        columns, rows = table["columns"], [list(row.values()) for row in table["rows"]]
        show_table(table["title"], columns, rows, words={"state", "what"} & set(columns))
        check_shown(capsys.readouterr().out, columns, rows)


HOSTILE = "x\x1b]0;evil\x07\x1b[2J\x9b31m\r\x00\x7f\u202e\u2028\udcff"
HARMLESS = r"x\x1b]0;evil\x07\x1b[2J\x9b31m\r\x00\x7f\u202e\u2028\udcff"
OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\ud800-\udfff]")
SAY = """
from src.core import terminal
text = HOSTILE
terminal.info(text), terminal.result(text), terminal.warn(text), terminal.error(text)
terminal.show_table(text, [text, "b"], [["a", text]])
terminal.show_heat(text, [(text, 0.5, True)])
with terminal.JobProgress(text, {text: 1.0, "b": 1.0}) as progress:
    progress.step(text, 0.5, text)
    progress.finish(text, text)
with terminal.JobProgress(text, {text: 1.0}, lines=False) as progress:
    progress.finish(text, text)
""".replace("HOSTILE", ascii(HOSTILE))


def test_no_text_reaches_a_terminal_raw(capsys):
    """Whoever prints a name of a file, a run or a row prints its control characters as text."""
    exec(SAY)
    out, err = capsys.readouterr()
    assert not OBEYED.search(out + err), "off a terminal nothing at all"
    assert out.count(HARMLESS) >= 8 and err.count(HARMLESS) == 2
    shown = on_a_terminal(SAY)
    assert HARMLESS in shown and not any(part in shown for part in ("\x1b]0;", "\x1b[2J", "\x9b", "\x07", "\u202e"))


@pytest.mark.parametrize(
    "arguments", [["config", f"target={HOSTILE}"], ["submit", HOSTILE], [HOSTILE], ["config", f"{HOSTILE}=1"],
                  ["config", "--preset", HOSTILE], ["config", f"--{HOSTILE}"], ["predict", "lstm", f"{HOSTILE}.csv"]],
    ids=ascii,
)  # fmt: skip
@pytest.mark.parametrize("as_json", [False, True])
def test_words_of_a_command_line_do_not_either(arguments, as_json, tmp_path, capsys):
    status = main([*arguments, *["--json"] * as_json, f"paths.output={tmp_path}"])
    out, err = capsys.readouterr()
    assert not OBEYED.search(out + err)
    if as_json:
        assert json.loads(out)["exit_status"] == status


def test_a_traceback_does_not_either(capsys):
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        _show_fault(*sys.exc_info())
    told = capsys.readouterr().err
    assert "ValueError" in told and HARMLESS in told and not OBEYED.search(told)


def test_json_keeps_every_character():
    text = terminal.json_text({HOSTILE: [HOSTILE, "数据 ü"]})
    assert json.loads(text) == {HOSTILE: [HOSTILE, "数据 ü"]} and "数据 ü" in text and not OBEYED.search(text)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.02, "0 s"), (0.42, "0.4 s"), (7.0, "7 s"), (9.97, "10 s"), (59.4, "59 s"), (59.6, "1 min"), (80, "1 min 20 s"),
     (7500, "2 h 5 min"), (97_200, "1 d 3 h"), (86_399.9, "1 d")],
)  # fmt: skip
def test_durations_have_two_units(seconds, told):
    assert duration(seconds) == told


def test_paths_are_relative_to_where_the_user_stands(tmp_path, monkeypatch):
    here = tmp_path / "project"
    here.mkdir()
    monkeypatch.chdir(here)
    assert nearby(f"report: {here}/output/report.html") == "report: output/report.html"
    assert nearby(f"paths.output={here}/output paths.input={here}") == "paths.output=output paths.input=."
    for other in (f"{here}s/output", f"{here}-2", f"/elsewhere{here}/output", str(tmp_path)):
        assert nearby(other) == other
    monkeypatch.chdir(ROOT / "docs")
    assert nearby(f"{ROOT}/output/report.html, {ROOT}/docs/guide.md") == "../output/report.html, guide.md"
    monkeypatch.chdir("/")
    assert nearby("/output/report.html") == "/output/report.html"


def test_the_best_row_is_marked_for_people_alone(capsys):
    with output_mode(quiet=False, as_json=False) as transcript:
        show_table("T", ["run", "score"], [["gru", "0.9"], ["lstm", "0.8"]], best=0)
    assert "gru (best)" in capsys.readouterr().out
    assert transcript.tables[0]["rows"][0]["run"] == "gru"


def test_sentences_are_wrapped_and_paths_are_whole():
    path = "/a/" + "very_long_name/" * 8 + "file.csv"
    lines = wrapped(f"a sentence of some words about the file {path} and what to do with it " * 2).splitlines()
    assert path in "\n".join(lines) and all(len(line) <= 80 for line in lines if path not in line)


def test_a_terminal_breaks_lines_between_words_and_no_command():
    text = "a sentence of many words " * 8
    code = (
        f"from src.core.terminal import info; info({text!r}); info('  ' + {text!r}); info('next: ./run.sh ' + {text!r})"
    )
    lines = on_a_terminal(code).splitlines()
    assert "next: ./run.sh " + text.rstrip() in (line.rstrip() for line in lines)
    others = [line for line in lines if "./run.sh" not in line]
    assert len(others) > 3 and max(map(len, others)) <= 100 and all(line.split()[0] in text.split() for line in others)
    assert [len(line) - len(line.lstrip()) for line in others[:2]] == [0, 2]


def test_a_trained_fold_tells_its_score_its_loss_and_its_time(done, tiny_input):
    given = [word for word in words(tiny_input, done) if word not in ("--preset", "sample")]
    workspace = Workspace(load_config("sample", given), read_only=True)
    jobs = train._jobs(workspace)
    training = train.Training(workspace, device_cache.recall(workspace.output, "auto"), jobs)
    for job in jobs["lstm"]:
        told = training._finished(Job("lstm", "", asdict(job)))
        score = storage.read_json(done / "runs/lstm/score.json")["folds"][str(job.fold)]["score"]["value"]
        loss = storage.read_json(job.path / "result.json")["last_valid_loss"]
        assert re.fullmatch(rf"{score:.4f} out of fold, loss {loss:.4f}, [\d.]+ s", told)


def test_a_bar_is_named_by_what_tells_the_jobs_apart():
    names = [
        "transformer fold_0 split_2021 seed_1",
        "transformer fold_1 split_2021 seed_1",
        "lstm fold_0 split_2021 seed_1",
    ]
    progress = JobProgress("train", dict.fromkeys(names, 1.0))
    assert list(map(progress._short, names)) == ["transformer fold_0", "transformer fold_1", "lstm fold_0"]
    assert JobProgress("train", {names[0]: 1.0})._short(names[0]) == names[0]
