"""The register of submissions: nothing that was noted is lost, whoever writes beside."""

from __future__ import annotations

import multiprocessing
from datetime import datetime, timedelta
from pathlib import Path

from src.ensemble.submission_log import SubmissionLog, entered_on
from tests.conftest import error_of


def made(register: SubmissionLog, sha: str, **more):
    about = {"test": "testB.csv", "run": "lstm", "fingerprint": "f", "how": {}, **more}
    return register.made(Path("submission.csv"), sha, **about)


def write_many(path: Path, writer: int) -> None:
    register = SubmissionLog(path)
    for i in range(20):
        register.scored(made(register, f"{writer}-{i}"), i / 100, "online")


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
    register = SubmissionLog(tmp_path / "submissions.jsonl")
    made(register, "a")
    with register.path.open("a") as file:
        file.write('{"at": "2026-01-01T00:00:00+00:00", "event": "made", "id": "s2", "sha')
    assert [one.id for one in register.submissions()] == ["s1"] and register.broken == 1
    register.scored(register.find("s1"), 0.9, "online")
    assert made(register, "b").id == "s2"
    assert [(one.id, one.score("online")) for one in register.submissions()] == [("s1", 0.9), ("s2", None)]
    assert register.broken == 1


def test_lines_that_were_lost_or_edited(tmp_path):
    register = SubmissionLog(tmp_path / "submissions.jsonl")
    for sha in "abc":
        made(register, sha)
    register.scored(register.find("s3"), 0.9, "online")
    lines = register.path.read_text().splitlines(keepends=True)
    register.path.write_text("".join([lines[0], *lines[2:]]))
    assert made(register, "d").id == "s4", "a number is never given twice"
    with register.path.open("a") as file:
        file.write('{"at": "2026-01-01T00:00:00+00:00", "event": "scored", "id": "s1"}\n')
        file.write('{"at": "2026-01-01T00:00:00+00:00", "event": "scored", "id": "s9", "board": "b", "score": 1}\n7\n')
    assert register.broken == 3
    assert [(one.id, one.score("online")) for one in register.submissions()] == [
        ("s1", None),
        ("s3", 0.9),
        ("s4", None),
    ]


def test_the_same_file_is_noted_once_and_its_last_score_counts(tmp_path):
    register = SubmissionLog(tmp_path / "submissions.jsonl")
    assert register.submissions() == []
    one = made(register, "a")
    assert made(register, "a").id == one.id == "s1"
    assert made(register, "a", test="testA.csv").id == "s2"
    register.scored(one, 0.5, "online", "typed wrongly")
    register.scored(one, 0.9, "online")
    register.scored(one, 0.8, "private")
    register.judged(one, {"validations": {}, "expected": {"value": 0.7}})
    before = register.path.read_bytes()
    register.judged(one, {"validations": {}, "expected": {"value": 0.6}})
    assert register.path.read_bytes() == before, "judged once"
    found = register.find("s1")
    assert (found.score("online"), found.score("private"), found.score("other")) == (0.9, 0.8, None)
    assert found.judged["expected"]["value"] == 0.7 and found.online[0].note == "typed wrongly"
    assert "no submission 's9'" in error_of(register.find, "s9")
    today = datetime.now().date()
    assert entered_on(register.submissions(), "online", today) == 1, "a correction is no second submission"
    assert entered_on(register.submissions(), "online", today - timedelta(days=1)) == 0
