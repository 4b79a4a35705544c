"""Submission log: no event is lost with several writers."""

from __future__ import annotations

import multiprocessing
from datetime import datetime, timedelta
from pathlib import Path

from src.ensemble.submission_log import SubmissionLog, entered_on
from tests.conftest import error_of


def made(log: SubmissionLog, sha: str, **more):
    about = {"test": "testB.csv", "run": "lstm", "fingerprint": "f", "how": {}, **more}
    return log.made(Path("submission.csv"), sha, **about)


def write_many(path: Path, writer: int) -> None:
    log = SubmissionLog(path)
    for i in range(20):
        log.scored(made(log, f"{writer}-{i}"), i / 100, "online")


def test_several_writers_lose_nothing(tmp_path):
    path = tmp_path / "submissions.jsonl"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(path, writer)) for writer in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = SubmissionLog(path).submissions()
    assert {one.sha256 for one in found} == {f"{w}-{i}" for w in range(3) for i in range(20)}
    assert [one.id for one in found] == [f"s{i}" for i in range(1, 61)]
    assert all(one.score("online") == int(one.sha256.split("-")[1]) / 100 for one in found)
    assert SubmissionLog(path).broken == 0


def test_a_line_that_was_cut_off_is_passed_over(tmp_path):
    log = SubmissionLog(tmp_path / "submissions.jsonl")
    made(log, "a")
    with log.path.open("a") as file:
        file.write('{"at": "2026-01-01T00:00:00+00:00", "event": "made", "id": "s2", "sha')
    assert [one.id for one in log.submissions()] == ["s1"] and log.broken == 1
    log.scored(log.find("s1"), 0.9, "online")
    assert made(log, "b").id == "s2"
    assert [(one.id, one.score("online")) for one in log.submissions()] == [("s1", 0.9), ("s2", None)]
    assert log.broken == 1


def test_lines_that_were_lost_or_edited(tmp_path):
    log = SubmissionLog(tmp_path / "submissions.jsonl")
    for sha in "abc":
        made(log, sha)
    log.scored(log.find("s3"), 0.9, "online")
    lines = log.path.read_text().splitlines(keepends=True)
    log.path.write_text("".join([lines[0], *lines[2:]]))
    assert made(log, "d").id == "s4", "a number is never given twice"
    with log.path.open("a") as file:
        file.write('{"at": "2026-01-01T00:00:00+00:00", "event": "scored", "id": "s1"}\n')
        file.write('{"at": "2026-01-01T00:00:00+00:00", "event": "scored", "id": "s9", "board": "b", "score": 1}\n7\n')
    assert log.broken == 3
    assert [(one.id, one.score("online")) for one in log.submissions()] == [
        ("s1", None),
        ("s3", 0.9),
        ("s4", None),
    ]


def test_the_same_file_is_noted_once_and_its_last_score_counts(tmp_path):
    log = SubmissionLog(tmp_path / "submissions.jsonl")
    assert log.submissions() == []
    one = made(log, "a")
    assert made(log, "a").id == one.id == "s1"
    assert made(log, "a", test="testA.csv").id == "s2"
    log.scored(one, 0.5, "online", "typed wrongly")
    log.scored(one, 0.9, "online")
    log.scored(one, 0.8, "private")
    log.judged(one, {"validations": {}, "expected": {"value": 0.7}})
    before = log.path.read_bytes()
    log.judged(one, {"validations": {}, "expected": {"value": 0.6}})
    assert log.path.read_bytes() == before, "judged once"
    found = log.find("s1")
    assert (found.score("online"), found.score("private"), found.score("other")) == (0.9, 0.8, None)
    assert found.judged["expected"]["value"] == 0.7 and found.online[0].note == "typed wrongly"
    assert "'s9'" in error_of(log.find, "s9")
    today = datetime.now().date()
    assert entered_on(log.submissions(), "online", today) == 1, "a correction is no second submission"
    assert entered_on(log.submissions(), "online", today - timedelta(days=1)) == 0


def test_bytes_that_another_run_made_too_are_noted_for_both(tmp_path):
    log = SubmissionLog(tmp_path / "submissions.jsonl")
    first = made(log, "a", run="blend", fingerprint="f1", how={"label_shift": False})
    again = made(log, "a", run="two", fingerprint="f2", how={"label_shift": False})
    assert first.id == again.id == "s1" and len(log.submissions()) == 1
    made(log, "a", run="two", fingerprint="f2", how={"label_shift": False})
    assert [maker["run"] for maker in log.find("s1").makers()] == ["blend", "two"]
    assert again.is_made_of("f1", {"label_shift": False}) and again.is_made_of("f2", {"label_shift": False})
    assert not again.is_made_of("f2", {"label_shift": True})
