"""./run.sh leaderboard add, ask and tell, and the table of submissions."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from src.__main__ import main
from src.core.settings_loader import load_config
from src.core.terminal import output_mode
from src.data.report_reader import read_reports
from src.data.submission_files import read_submission
from src.data.tasks import ROUND1
from src.ensemble.submission_log import SubmissionLog
from src.evaluation import metrics
from src.evaluation.runs import RunFolder
from src.evaluation.workspace import Workspace
from src.pipeline.online_scores import advice
from src.reporting.sections import Findings, scores
from src.serving.bundle import about
from tests.conftest import words


def test_submissions_are_noted_and_set_beside_their_scores(copy, tiny_input, capsys):
    made, register = words(tiny_input, copy), SubmissionLog(copy / "submissions.jsonl")
    assert [(one.test, one.run) for one in register.submissions()] == [
        ("sample_testA.csv", "blend"),
        ("sample_testB.csv", "blend"),
    ]
    before = register.path.read_bytes()
    assert main(made) == 0
    assert register.path.read_bytes() == before, "what is submitted again is the same"
    for run in ("lstm", "transformer"):
        assert main(["submit", run, *made]) == 0
    capsys.readouterr()
    for name, score in (("lstm_sample", 0.61), ("transformer_sample", 0.62), ("sample", 0.63)):
        file = str(copy / f"submission_{name}_testB.csv")
        assert main(["leaderboard", "add", file, str(score), "--note", "tried", *made]) == 0
    shown = capsys.readouterr()
    assert "3 of 3 submissions of today" in shown.out and "not made here" not in shown.err
    table = shown.out.split("Submissions of sample_testB.csv, best on online first")[-1]
    assert "rank correlation with online" in table and "from 3 submissions alone" in table
    lines = [line for line in table.splitlines() if line.count("/") == 6]
    assert [line.split()[-7] for line in lines] == ["blend", "transformer", "lstm"]
    assert [line.split()[-1] for line in lines] == ["0.6300/1", "0.6200/2", "0.6100/3"]
    blend = next(one for one in register.submissions() if one.run == "blend" and one.test == "sample_testB.csv")
    assert f"{blend.judged['validations']['shifted']['value']:.4f}/" in lines[0]
    assert "by shifted" in table and "next: every run was submitted" in table
    assert all(len(line.rstrip()) <= 80 for line in lines)

    # One that was made elsewhere, and what is wrong.
    other = copy / "other.csv"
    other.write_text((copy / "submission_sample_testB.csv").read_text().replace("0.", "0.0", 1))
    assert main(["leaderboard", "add", str(other), "0.5", "--board", "club", *made]) == 0
    shown = capsys.readouterr()
    assert "other.csv was not made here: it counts as a submission of sample_testB.csv" in shown.err
    assert "(sample_testA.csv and sample_testB.csv have the same ids)" in shown.err
    table = shown.out.split("Submissions of sample_testB.csv, best on club first")[1]
    (line,) = (line for line in table.splitlines() if "0.5000/1" in line)
    assert line.split()[-6:] == ["–"] * 5 + ["0.5000/1"], "it has no validations"
    named = copy / "club_sample_testA.csv"
    named.write_text(other.read_text().replace("0.", "0.0", 2))
    assert main(["leaderboard", "add", str(named), "0.4", "--board", "club", *made]) == 0
    assert "it counts as a submission of sample_testA.csv" in capsys.readouterr().err
    strange = copy / "strange.csv"
    strange.write_text("".join(f"x{line}" for line in other.read_text().splitlines(keepends=True)))
    assert main(["leaderboard", "add", str(strange), "0.3", "--board", "club", *made]) == 0
    shown = capsys.readouterr()
    assert "its 40 ids are those of no test file: 0 are in sample_testA.csv, 0 are in sample_testB.csv" in shown.err
    assert "Submissions with ids of no test file, best on club first" in shown.out and "0.3000/1" in shown.out
    torn = copy / "torn.csv"
    torn.write_text("7|,|high\n")
    noted = register.path.read_bytes()
    for arguments, message in (
        (["add", str(copy / "none.csv"), "0.5"], "none.csv is not there"),
        (["add", str(torn), "0.2"], "torn.csv, line 1: value 'high'"),
        (["add", str(other), "92.3"], "If that is a percentage, enter 0.923"),
        (["add", str(other), "1.5"], "a score is a number below 1, not 1.5"),
        (["add", str(other), "good"], "'good' is not a score"),
        (["add", str(other)], "wants a FILE and a SCORE"),
        (["tell", "s99", "0.5"], "no submission 's99'"),
        (["ask", "lsmt"], "unknown run 'lsmt'"),
        (["ask", "lstm", "lstm"], "named twice"),
        (["lstm", "--note", "x"], "--board and --note are for"),
    ):
        assert main(["leaderboard", *arguments, *made]) == 2
        assert message in capsys.readouterr().err
        assert register.path.read_bytes() == noted


def test_the_next_run_to_submit_is_told(copy, tiny_input, capsys):
    made = words(tiny_input, copy)
    assert main(["leaderboard", *made]) == 0
    assert "next:" not in capsys.readouterr().out, "with no score there is nothing to go by"
    assert main(["leaderboard", "add", str(copy / "submission_sample_testB.csv"), "0.6", *made]) == 0
    assert "next: no run is ahead of blend by more than a standard error" in capsys.readouterr().out


def test_asking_and_telling(copy, tiny_input, capsys):
    made, register = words(tiny_input, copy), SubmissionLog(copy / "submissions.jsonl")
    answers = read_reports(tiny_input / "answers_B.csv").labels
    scores = []
    for number in (1, 2, 3):
        assert main(["leaderboard", "ask", "lstm", "transformer", *made]) == 0
        assert "With its score: ./run.sh leaderboard tell s" in capsys.readouterr().out
        file = copy / f"submission_ask{number}_sample_testB.csv"
        ids, probabilities = read_submission(file)
        assert len(ids) == 40
        one = register.submissions()[-1]
        assert one.file == file.name and set(one.how["made_of"]) == {"lstm", "transformer"}
        scores.append(metrics.official_score(ROUND1, answers, probabilities).value)
        assert main(["leaderboard", "tell", one.id, f"{scores[-1]:.4f}", *made]) == 0
        assert f"scored {float(f'{scores[-1]:.4f}')} on online" in capsys.readouterr().out
    assert len({tuple(one.how["settings"].values()) for one in register.submissions() if "settings" in one.how}) == 3
    assert main(["leaderboard", "ask", "lstm", "transformer", *made]) == 0
    assert "by 3 answers and 0 awaited" in capsys.readouterr().out
    assert main(["leaderboard", "ask", "lstm", "transformer", *made]) == 0
    assert "by 3 answers and 1 awaited" in capsys.readouterr().out
    assert main(["leaderboard", "ask", *made]) == 0
    assert "by 0 answers and 0 awaited" in capsys.readouterr().out, "another base begins anew"
    # What was taken out of the log may have been uploaded.
    asked = sorted(copy.glob("submission_ask*.csv"))
    before = {path: path.read_bytes() for path in asked}
    lines = register.path.read_text().splitlines(keepends=True)
    register.path.write_text("".join(lines[:-1]))
    assert main(["leaderboard", "ask", *made]) == 0
    assert before == {path: path.read_bytes() for path in asked}
    assert len(list(copy.glob("submission_ask*.csv"))) == len(asked) + 1
    capsys.readouterr()
    # A plain submission of the base is an answer too, but not one of another test file.
    assert main(["leaderboard", "add", str(copy / "submission_sample_testA.csv"), "0.9", *made]) == 0
    assert main(["leaderboard", "ask", *made]) == 0
    assert "by 0 answers and 1 awaited" in capsys.readouterr().out
    assert main(["leaderboard", "add", str(copy / "submission_sample_testB.csv"), "0.61", *made]) == 0
    assert main(["leaderboard", "ask", *made]) == 0
    assert "by 1 answers and 2 awaited" in capsys.readouterr().out
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "has_copies", False)  # as of an import where the tests are noisier than train
        assert main(["leaderboard", "ask", "lstm", *made]) == 0
    shown = capsys.readouterr().out
    assert "by weighted 0." in shown and "by shifted" not in shown
    assert main(["leaderboard", "ask", "--board", "club", *made]) == 0
    number = register.submissions()[-1].id
    assert main(["leaderboard", "tell", number, "0.6", *made]) == 0
    shown = capsys.readouterr().out
    assert f"leaderboard: {number} (" in shown and "scored 0.6 on club" in shown
    # Runs of other folds are no advice, and no reason to fail.
    assert main(["train", "--model", "lstm", *made, "folds.k=3"]) == 0
    assert main(["leaderboard", *made, "folds.k=3"]) == 0
    assert "next:" in capsys.readouterr().out


def test_advice_without_validations_is_to_make_them(copy, tiny_input):
    for path in copy.glob("runs/*/leaderboard.json"):
        path.unlink()
    config = load_config("sample", [f"paths.input={tiny_input}", f"paths.output={copy}"])
    assert advice(Workspace(config), []).startswith("next: ./run.sh leaderboard --preset sample")


@pytest.mark.parametrize("content", ["{", "foreign"])
def test_a_damaged_or_foreign_leaderboard_is_told_and_left_out(copy, tiny_input, content):
    """Advice, page and bundle tell of them, and go on with what is sound."""
    config = load_config("sample", [f"paths.input={tiny_input}", f"paths.output={copy}"])
    path = copy / "runs/lstm/leaderboard.json"
    if content == "foreign":
        shutil.copy(copy / "runs/lstm/score.json", path)
    else:
        path.write_text(path.read_text()[:-20])

    def told_by(use) -> str:
        workspace = Workspace(config)
        with output_mode(quiet=True, as_json=False) as transcript:
            use(workspace)
        return " ".join(transcript.warnings)

    def page(workspace: Workspace) -> None:
        found = Findings.load(workspace)
        assert "lstm" in found.runs and "blend" in [row[0] for row in scores.validations(found)[0].rows]
        scores.section(found)

    uses = (lambda workspace: advice(workspace, []), page, lambda workspace: about(workspace, workspace.run("lstm")))
    for use in uses:
        assert str(path) in told_by(use)


def test_what_is_no_score_notes_nothing_and_what_is_repeated_is_noted_once(copy, tiny_input, tmp_path, capsys):
    made, register = words(tiny_input, copy), SubmissionLog(copy / "submissions.jsonl")
    other = tmp_path / "other.csv"
    other.write_text("7|,|0.5\n")
    before = register.path.read_bytes()
    for score in ("nan", "inf", "-inf", "1e999", "1", "92.31", "-nan", "0x1", "0,9", ""):
        for arguments in (["add", str(other)], ["tell", "s1"]):
            assert main(["leaderboard", *arguments, score, *made]) == 2, score
    assert register.path.read_bytes() == before, "not even that the file was made"
    for _ in range(4):
        assert main(["leaderboard", "add", str(other), "0.5", *made]) == 0
        assert main(["leaderboard", "tell", "s1", "0.6", *made]) == 0
    assert register.path.read_bytes().startswith(before)
    assert register.path.read_text().count('"scored"') == 2 and len(register.submissions()) == 3


def test_a_submission_that_changed_since_it_was_noted_is_not_taken_for_another(copy, tiny_input, capsys):
    made, file = words(tiny_input, copy), copy / "submission_sample_testB.csv"
    file.write_text(file.read_text().replace("0.", "0.0", 1))
    before = (copy / "submissions.jsonl").read_bytes()
    assert main(["leaderboard", "add", str(file), "0.5", *made]) == 2
    assert "has changed since it was noted as s2" in (told := capsys.readouterr().err)
    assert (copy / "submissions.jsonl").read_bytes() == before
    (link := copy.with_name("link")).symlink_to(copy)
    assert main(["leaderboard", "add", str(link / file.name), "0.5", *made]) == 2, "the same file by another path"
    assert "has changed since it was noted as s2" in capsys.readouterr().err
    command = shlex.split(told.split("./run.sh ")[1].split(". If it was")[0])
    assert main(command) == 0 and SubmissionLog(copy / "submissions.jsonl").find("s2").score("online") == 0.5


@pytest.mark.slow  # by default a damaged log is told by the same verbs
def test_the_log_of_another_output_is_told(copy, tiny_input, capsys):
    made, log = words(tiny_input, copy), SubmissionLog(copy / "submissions.jsonl")
    ours = {one.test: one.test_text for one in log.submissions()}
    assert all(ours.values())
    log.path.unlink()
    theirs = {"run": "lstm", "fingerprint": "f", "how": {"label_shift": False}, "test_text": "0123456789abcdef"}
    log.scored(log.made(Path("theirs.csv"), "a" * 64, test="sample_testB.csv", **theirs), 0.99, "online")
    for verb in ("status", "submit", "leaderboard", "report", "leaderboard ask"):
        capsys.readouterr()
        assert main([*verb.split(), "--json", *made]) == 0, verb
        told = json.loads(capsys.readouterr().out)
        assert f"{log.path}: left out s1, made for sample_testB.csv" in "".join(told["warnings"]), verb
        assert "Submissions of" not in "".join(map(str, told.get("tables", ""))), verb
    assert "0.99" not in (copy / "report.html").read_text(encoding="utf-8").partition("Leaderboard")[2][:2000]
    assert main(["leaderboard", "tell", "s1", "0.98", *made]) == 0  # its score is known late
    assert "left out s1" in capsys.readouterr().err and log.find("s1").score("online") == 0.98


def test_a_damaged_log_stops_the_verbs_that_need_it_and_no_other(copy, tiny_input, capsys):
    made = words(tiny_input, copy)
    with (copy / "submissions.jsonl").open("a", encoding="utf-8") as file:
        file.write("[1]\n")
    before = (copy / "submissions.jsonl").read_bytes()
    line = f"{copy / 'submissions.jsonl'}, line {len(before.splitlines())} is damaged: "
    for verb in ("submit", "submit lstm", "leaderboard", "leaderboard ask", "leaderboard tell s1 0.5", "report"):
        assert main([*verb.split(), *made]) == 2, verb
        assert line in capsys.readouterr().err
    for verb in ("score", "blend", "train", "clean", "baselines"):
        assert main([*verb.split(), *made]) == 0, verb
    capsys.readouterr()
    assert main(["status", "--json", *made]) == 0
    stages = {one["stage"]: one for one in json.loads(capsys.readouterr().out)["stages"]}
    assert stages["submit"]["state"] == "damaged" and stages["submit"]["note"].startswith(line)
    assert stages["blend"]["state"] == stages["leaderboard"]["state"] == "done"
    assert (copy / "submissions.jsonl").read_bytes() == before


def test_a_damaged_run_is_named_and_stops_no_verb_that_can_do_without(copy, tiny_input, capsys):
    made, oof = words(tiny_input, copy), copy / "runs/transformer/oof.npy"
    oof.write_bytes(oof.read_bytes()[:-200])
    for verb in ("score", "leaderboard", "submit lstm", "report", "explain lstm explain.per_label=1", "status"):
        assert main([*verb.split(), *made]) == 0, verb
        told = capsys.readouterr()
        assert verb == "submit lstm" or "explain" in verb or str(oof) in told.out + told.err, verb
    assert main(["submit", "transformer", *made]) == 2
    assert str(oof) in capsys.readouterr().err
