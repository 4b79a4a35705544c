"""Submission log: no event is lost with several writers, and no line is taken for what it is not."""

from __future__ import annotations

import json
import math
import multiprocessing
import re
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from src.ensemble.submission_log import SubmissionLog, entered_on
from src.evaluation.validation_sets import VALIDATIONS
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


def test_a_last_line_that_was_cut_off_is_told_and_taken_out_with_the_next_event(tmp_path, capsys):
    log = SubmissionLog(tmp_path / "submissions.jsonl")
    made(log, "a")
    whole = log.path.read_bytes()
    for cut in (
        '{"at": "',
        '{"at": "2026-01-01T00:00:00+00:00", "event": "made", "id": "s2", "how": {"label_shift": false}',
    ):
        log.path.write_bytes(whole + cut.encode())
        assert [one.id for one in log.submissions()] == ["s1"]
    assert "line 2 was cut off" in capsys.readouterr().err
    assert made(log, "b").id == "s2" and log.path.read_bytes().startswith(whole + b'{"at": "20')
    log.path.write_bytes(whole.rstrip())  # all but the end of the line
    assert made(log, "b").id == "s2" and log.path.read_bytes().startswith(whole + b'{"at": "20')


def test_submissions_for_another_test_file_of_the_same_name_are_told_and_left_out(tmp_path, capsys):
    log = SubmissionLog(tmp_path / "submissions.jsonl")
    made(log, "a", test_text="now")
    made(log, "b", test_text="then")
    made(log, "c")  # as an older version noted it
    made(log, "d", test="gone.csv", test_text="then")
    log.made(Path("other.csv"), "e", test=None, run=None, fingerprint=None, how={})
    assert [one.id for one in log.submissions_for({"testB.csv": "now"})] == ["s1", "s3", "s4", "s5"]
    assert "left out s2, made for testB.csv with another content than now" in capsys.readouterr().err
    assert [one.id for one in log.submissions()] == ["s1", "s2", "s3", "s4", "s5"]
    log.submissions_for({"testB.csv": "now", "gone.csv": "then"})


def test_a_gap_is_no_damage_and_a_number_is_never_given_twice(tmp_path):
    log = SubmissionLog(tmp_path / "submissions.jsonl")
    for sha in "abc":
        made(log, sha)
    lines = log.path.read_text().splitlines(keepends=True)
    log.path.write_text("\n".join([lines[0], *lines[2:]]))
    assert made(log, "d").id == "s4"


BASE = {"at": "2026-01-01T00:00:00+00:00", "id": "s1"}
SCORED = {**BASE, "event": "scored", "board": "b", "score": 0.5, "note": ""}
MADE = {
    **{**BASE, "id": "s2", "event": "made", "file": "f", "sha256": "b"},
    **{"test": "t", "run": "lstm", "fingerprint": "f", "how": {}},
}
JUDGED = {
    **{**BASE, "event": "judged", "expected": {"value": 0.5}},
    "validations": dict.fromkeys(VALIDATIONS, {"value": 0.5}),
}
ASKED = {"made_of": {"lstm": "f"}, "board": "b", "settings": {"weight": 0.5}}
TIMES = ("today", "2026-01-01T00:00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00")
WRONG_VALUES = [
    (BASE, "event", (None, "sold", 1)),
    (SCORED, "at", (7, None, *TIMES)),
    (SCORED, "score", (None, "0.5", math.nan, math.inf, -math.inf, True, [0.5], {})),
    *((SCORED, key, (None, 7, ["x"], {})) for key in ("board", "note")),
    (SCORED, "more", (1,)),
    (SCORED, "id", ("s9", 1, None)),
    (MADE, "id", (None, 2, "", "2", "s", "s0", "s1", "s-2", "s2 ", "s2\n", "s\u0663", "s1_0")),
    (MADE, "id", ("s5000", "s999999999", f"s{'9' * 4000}")),
    *((MADE, key, (None, 1, [])) for key in ("file", "sha256")),
    *((MADE, key, (1, {})) for key in ("test", "fingerprint", "made_from")),
    (MADE, "run", (1, "../evil", "", "a/b", "x" * 300)),
    (MADE, "how", (None, 1, [], "x", *({**ASKED, key: 1} for key in ASKED), {**ASKED, "settings": {"weight": "x"}})),
    (JUDGED, "validations", (None, [], 1, {}, {"clean": 0.5}, {name: {} for name in VALIDATIONS})),
    (JUDGED, "expected", (None, 0.5, {}, {"value": "x"}, {"value": math.nan})),
    ({**MADE, "id": "s1", "event": "remade"}, "made_from", (7,)),
]
"""A whole event, one of its keys, and values that this key cannot have."""
JSON_VALUES = ("7", "null", '"x"', "[]", "{}", "true", "NaN", "[" * 100_000, "9" * 5000)
BAD_LINES = {
    "no JSON": "made s2",
    "NULs": "\0" * 100,
    "cut off in the middle": '{"at": "2026-01-01T00:00:00+00:00", "event"',
    "half a pair": '{"at": "\\ud800"}',
    **{f"a value {text[:9]}": text for text in JSON_VALUES},
    "score 1e999": json.dumps(SCORED).replace("0.5", "1e999"),
    "score of 5000 digits": json.dumps(SCORED).replace("0.5", "9" * 5000),
    **{
        f"{event.get('event')} {key} {str(value)[:60]!r} {type(value).__name__}": json.dumps({**event, key: value})
        for event, key, values in WRONG_VALUES
        for value in values
    },
    **{
        f"{event['event']} without {key}": json.dumps({name: value for name, value in event.items() if name != key})
        for event in (SCORED, MADE, JUDGED)
        for key in event
    },
}


def test_the_whole_events_are_read(tmp_path):
    log = SubmissionLog(tmp_path / "submissions.jsonl")
    made(log, "a")
    with log.path.open("a", encoding="utf-8") as file:
        for event in (SCORED, {**MADE, "how": ASKED}, JUDGED):
            file.write(json.dumps(event) + "\n")
    found = [(one.id, one.score("b"), bool(one.judged)) for one in log.submissions()]
    assert found == [("s1", 0.5, True), ("s2", None, False)]


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_line_that_is_no_event_is_named(name, tmp_path):
    log = SubmissionLog(tmp_path / "submissions.jsonl")
    made(log, "a")
    log.path.write_bytes(b"\n" + log.path.read_bytes() + BAD_LINES[name].encode(errors="surrogatepass") + b"\n")
    before = log.path.read_bytes()
    for read in (log.submissions, lambda: made(log, "c"), lambda: log.find("s1")):
        told = error_of(read)
        assert told.startswith(f"{log.path}, line 3 is damaged: ") and "take it out" in told and len(told) < 700
    assert log.path.read_bytes() == before
    log.path.write_bytes(b"".join(before.splitlines(keepends=True)[:2]))
    assert [one.id for one in log.submissions()] == ["s1"]


def test_a_changed_digit_is_seen_and_lines_of_older_versions_are_read(tmp_path):
    log = SubmissionLog(tmp_path / "submissions.jsonl")
    log.scored(made(log, "a"), 0.9031, "online")
    text = log.path.read_text()
    for old, new in (("0.9031", "0.9131"), ('"checksum": "', '"checksum": "0'), ('"online"', '"0nline"')):
        log.path.write_text(text.replace(old, new))
        assert "checksum" in error_of(log.submissions)
    log.path.write_text(text.replace("0.9031", "0.9131").rstrip("\n"))  # a line that ends was not cut off
    assert "checksum" in error_of(log.submissions)
    log.path.write_text(re.sub(', "checksum": "[0-9a-f]+"', "", text))
    assert log.find("s1").score("online") == 0.9031


@pytest.mark.parametrize("content", [b"\0" * 500, b"\x89PNG\r\n\x1a\n\0", b"PK\3\4", '{"at": "20"}\n'.encode("utf-16")])
def test_a_file_of_another_kind_is_not_written_over(content, tmp_path):
    log = SubmissionLog(tmp_path / "submissions.jsonl")
    log.path.write_bytes(content)
    assert "line 1 is damaged" in error_of(made, log, "a")
    assert log.path.read_bytes() == content


def test_an_empty_log_and_a_folder_in_its_place_are_told(tmp_path, capsys):
    log = SubmissionLog(tmp_path / "submissions.jsonl")
    log.path.touch()
    assert log.submissions() == [] and "is empty" in capsys.readouterr().err
    assert made(log, "a").id == "s1"
    log.path.unlink()
    log.path.mkdir()
    assert "is no file" in error_of(log.submissions)


def test_a_score_that_is_entered_again_is_noted_once(tmp_path):
    log = SubmissionLog(tmp_path / "submissions.jsonl")
    one = made(log, "a")
    for score in (0.9, 0.9, 0.8, 0.8, 0.9):
        log.scored(one, score, "online")
    log.scored(one, 0.9, "private")
    assert [online.score for online in log.find("s1").online] == [0.9, 0.8, 0.9, 0.9]


def test_the_same_file_is_noted_once_and_its_last_score_counts(tmp_path):
    log = SubmissionLog(tmp_path / "submissions.jsonl")
    assert log.submissions() == []
    one = made(log, "a")
    assert made(log, "a").id == one.id == "s1"
    assert made(log, "a", test="testA.csv").id == "s2"
    log.scored(one, 0.5, "online", "typed wrongly")
    log.scored(one, 0.9, "online")
    log.scored(one, 0.8, "private")
    validations = dict.fromkeys(VALIDATIONS, {"value": 0.75})
    log.judged(one, {"validations": validations, "expected": {"value": 0.7}})
    before = log.path.read_bytes()
    log.judged(one, {"validations": validations, "expected": {"value": 0.6}})
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
