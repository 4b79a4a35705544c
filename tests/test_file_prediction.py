"""`./run.sh predict` of a file in shards: it is cut as it is read, and what comes out does not depend on the cuts."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from src.__main__ import main
from src.core import storage
from src.core.settings_loader import load_config
from src.data import report_reader
from src.data.corpus import BLOCK, CHUNK
from src.data.line_parser import id_hashes, repeated_hashes
from src.data.report_reader import Reports, read_reports, read_shards
from src.data.submission_files import read_submission
from src.data.tasks import ROUND1, ROUND2
from src.evaluation import metrics
from src.evaluation.workspace import Workspace
from src.pipeline import file_prediction
from src.pipeline.predicted_files import ReportFile
from src.training import inference
from tests.conftest import error_of, words
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[1]
LINES = [
    b"7|,|1 2 3 \n", b"8|,|\n", b"009|,|4 5 \r\n", b"a-long-name-of-a-report|,|65535 \n", b"11|,|  6   7 \n",
    b"12|,| \n",
    b"13|,|8 \n", b"14|,|9 9 9 9 \n", b"15|,|0\n", b"16|,|\n", b"17|,|\n", b"18|,|10 \n", b"19|,|11 ",
]  # fmt: skip


def shards(path: Path, size: int) -> list[Reports]:
    return list(read_shards(path, size, storage.file_sha256(path)))


def labelled(lines: list[bytes]) -> bytes:
    return b"".join(line.rstrip(b"\r\n") + b"|,|%d \n" % (i % 17) for i, line in enumerate(lines))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9, 10, 100])
@pytest.mark.parametrize("text", [b"".join(LINES), b"".join(LINES[:-1]), labelled(LINES)])
def test_shards_are_the_file(write, monkeypatch, size, text):
    monkeypatch.setattr(report_reader, "BLOCK", 20)  # two or three lines
    path = write(text)
    whole, parts = read_reports(path, may_be_empty=True), shards(path, size)
    assert [len(part) for part in parts[:-1]] == [size] * (len(parts) - 1) and 0 < len(parts[-1]) <= size
    for name in ("ids", "tokens", "lengths"):
        np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name))
    starts = np.cumsum([0, *(len(part) + len(part.empty) for part in parts)])
    empty = [starts[i] + part.empty.rows for i, part in enumerate(parts)]
    np.testing.assert_array_equal(np.concatenate(empty), whole.empty.rows)
    np.testing.assert_array_equal(np.concatenate([part.empty.ids for part in parts]), whole.empty.ids)
    assert {part.task for part in parts} == {whole.task} and starts[-1] == len(text.splitlines())
    if whole.labels is not None:
        np.testing.assert_array_equal(np.concatenate([part.labels for part in parts]), whole.labels)
        labels = [part.empty.labels for part in parts if len(part.empty)]
        np.testing.assert_array_equal(np.concatenate(labels), whole.empty.labels)


LONG = b"the-name-of-a-report-"


@pytest.mark.parametrize(
    "text",
    [
        b"1|,|2 \n2|,|x \n3|,|4 \n4|,|70000 \n",
        b"1|,|2 \n2|,|3 \n1|,|4 \n3|,|4 \n2|,|5 \n1|,|6 \n",
        b"".join(LONG + b"%d|,|2 \n" % (i % 7) for i in range(10)) + b"1|,|\n",
        b"1|,|2 \n" * 1500,
        b"1|,|\n2|,|\n",
        b"1|,|2 |,|3 \n2|,|2 |,|3 \n3|,|2 |,|3,4 \n4|,|2 |,|3 \n",
        b"1|,|2 |,|3 \n" * 1 + b"5|,|2 |,|99 \n",
        b"1|,|2 \n\n3|,|4",
        b"1;2\n3;4\n",
        b"\x1f\x8b\x08 compressed",
        b"",
    ],
)
def test_shards_have_the_errors_of_the_whole_file(write, monkeypatch, text):
    monkeypatch.setattr(report_reader, "BLOCK", 20)
    path = write(text)
    wanted = error_of(read_reports, path, may_be_empty=True)
    for size in (1, 2, 1000):
        assert error_of(shards, path, size) == wanted
    assert "reports.csv" in wanted


def test_a_file_that_changes_while_it_is_read_is_no_longer_predicted(write):
    path = write(b"1|,|2 \n")
    assert "changed while it was read" in error_of(lambda: list(read_shards(path, 1, "0" * 64)))


def test_ids_that_share_a_hash_are_no_error(write, monkeypatch):
    monkeypatch.setattr(report_reader, "id_hashes", lambda ids: id_hashes(ids) // np.uint64(1 << 48))
    path = write(b"".join(b"12%d|,|2 \n" % i for i in range(5)))
    assert len(shards(path, 2)) == 3
    hashes = id_hashes(np.array([b"1", b"12345678", LONG, b""]))
    assert len(set(hashes.tolist())) == 4 and hashes[3] == 0
    np.testing.assert_array_equal(hashes, [id_hashes(np.array([name]))[0] for name in (b"1", b"12345678", LONG, b"")])
    lines, firsts = repeated_hashes(np.array([5, 0, 7, 5, 0, 7, 7, 9], np.uint64))
    assert (lines.tolist(), firsts.tolist()) == ([3, 5, 6], [0, 2, 2])


@pytest.mark.parametrize("task", [ROUND1, ROUND2])
@pytest.mark.parametrize("size", [1, 7, 100])
def test_the_score_of_sums_is_the_score(task, size):
    rng = np.random.default_rng(3)
    predictions = rng.random((100, task.n_labels)) ** 4
    labels = (rng.random(predictions.shape) < 0.1).astype(np.uint8)
    parts = [slice(start, start + size) for start in range(0, 100, size)]
    sums = sum(np.array(metrics.score_sums(task, labels[part], predictions[part])) for part in parts)
    found, wanted = metrics.score_of_sums(task, sums), metrics.official_score(task, labels, predictions)
    assert found.to_json() == pytest.approx(wanted.to_json(), rel=1e-12)
    if task is ROUND2:
        none = np.zeros_like(labels)
        nothing = np.array(metrics.score_sums(task, none, predictions))
        assert error_of(metrics.score_of_sums, task, nothing) == error_of(
            metrics.official_score, task, none, predictions
        )
    alone = metrics.score_of_sums(task, np.array(metrics.score_sums(task, labels[:1] | 1, predictions[:1])))
    assert np.isnan(alone.standard_error)


def test_cuts_of_large_files_change_no_batch():
    """A chunk is predicted in parts of its half and so on; the denoiser reads whole blocks of it."""
    assert CHUNK % BLOCK == 0 and CHUNK % inference.BATCH_SIZE == 0 and CHUNK & (CHUNK - 1) == 0


def reports_of(folder: Path, n: int, path: Path, changed: bool = True) -> Path:
    """Writes `n` labelled reports with ids of their own; `changed`: with whatever a file may have."""
    source = read_reports(folder / "sample_train.csv")
    lines = []
    for i in range(n):
        text = b" ".join(b"%d" % word for word in source[i % len(source)])
        labels = b" ".join(b"%d" % label for label in np.flatnonzero(source.labels[i % len(source)]))
        if changed and i % 29 == 3:
            text = b""
        if changed and i % 31 == 5:
            text += b" 999 1000"
        lines.append(b"r%d|,|%s |,|%s%s" % (i, text, labels, b"\r\n" if i % 2 else b"\n"))
    path.write_bytes(b"".join(lines).rstrip(b"\r\n"))
    return path


@pytest.fixture
def small(monkeypatch):
    """Chunks of 32 reports, so that small files have several shards."""
    monkeypatch.setattr(file_prediction, "CHUNK", 32)


def test_bytes_do_not_depend_on_shards_and_workers(copy, tiny_input, tmp_path, small, capsys):
    given = reports_of(tiny_input, 170, tmp_path / "given.csv")
    found, told = {}, {}
    for shard, workers in ((1, 2), (64, 1), (65, 2), (10**9, 2)):
        more = (f"predict.shard={shard}", f"executor.workers={workers}")
        assert main(["predict", "lstm", "blend", str(given), *words(tiny_input, copy, *more)]) == 0
        shown = capsys.readouterr()
        told[shard] = re.findall(r"score .*", shown.out), shown.err
        assert "6 reports have no description (line 4, 33, 62, 91, 120, …)" in shown.err
        assert "of 2 words were not in the files" in shown.err and "999, 1000" in shown.err
        assert not list((copy / "predictions").iterdir()), "what lies between is removed"
        found[shard] = [(copy / f"prediction_{run}_given.csv").read_bytes() for run in ("lstm", "blend")]
    assert found[1] == found[64] == found[65] == found[10**9] and found[1][0] != found[1][1]
    assert told[1] == told[64] == told[65] == told[10**9] and len(told[1][0]) == 2
    ids, values = read_submission(copy / "prediction_blend_given.csv")
    assert ids.tolist() == [b"r%d" % i for i in range(170)]
    whole = read_reports(given, may_be_empty=True)
    labels = whole.empty.complete(whole.ids, whole.labels, whole.empty.labels)[1]
    assert f"{metrics.official_score(ROUND1, labels, values).value:.4f} ±" in told[1][0][1]


def test_one_report_is_told_as_one(copy, tiny_input, tmp_path, capsys):
    (tmp_path / "one.csv").write_text("0|,|12 34 5\n")
    assert main(["predict", "lstm", str(tmp_path / "one.csv"), *words(tiny_input, copy)]) == 0
    assert "(1 report x 17 probabilities)" in capsys.readouterr().out


def test_bad_lines_are_told_before_anything_is_predicted(copy, tiny_input, tmp_path, small, capsys):
    given = reports_of(tiny_input, 100, tmp_path / "given.csv")
    with given.open("ab") as file:
        file.write(b"\nr99|,|1 |,|2\nx|,|y |,|2\n")
    assert main(["predict", "lstm", str(given), *words(tiny_input, copy)]) == 2
    told = capsys.readouterr()
    assert "given.csv, line 101: the id 'r99' repeats that of line 100" in told.err and "line 102" in told.err
    assert "jobs" not in told.out and not list(copy.glob("predictions/*"))


KILLED = """
import functools, sys, time
from src.__main__ import main
from src.pipeline import file_prediction
from tests.waiting import PATIENCE

write_lines = file_prediction.write_lines

@functools.wraps(write_lines)
def write_lines_of_six(payload, progress):
    if payload["out"].endswith("00006.csv"):
        time.sleep(2 * PATIENCE)
    write_lines(payload, progress)

file_prediction.CHUNK, file_prediction.write_lines = 32, write_lines_of_six
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""
"""Command that does not end before it is killed, however late: it stands still in the seventh shard."""


def test_a_killed_command_goes_on_with_the_next_shard(copy, tiny_input, tmp_path, small, capsys, monkeypatch):
    given = reports_of(tiny_input, 440, tmp_path / "given.csv")
    settings = words(tiny_input, copy, "predict.shard=32", "executor.workers=1")
    command = ["predict", "blend", "lstm", str(given), *settings]
    assert main([*command, "predict.shard=1000000"]) == 0
    whole = {run: (copy / f"prediction_{run}_given.csv").read_bytes() for run in ("blend", "lstm")}
    for run in whole:
        (copy / f"prediction_{run}_given.csv").unlink()
    (tmp_path / "killed.py").write_text(KILLED)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = [sys.executable, str(tmp_path / "killed.py"), *command]
    process = subprocess.Popen(killed, env=environment, stdout=subprocess.DEVNULL)
    folder = copy / "predictions"
    wait_until(lambda: len(list(folder.glob("*/blend.*/*.json"))) > 2, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(copy.glob("prediction_*_given.csv")), "it was killed amid its work"
    done = {path.stem for path in folder.glob("*/blend.*/*.json")} & {
        path.stem for path in folder.glob("*/lstm.*/*.json")
    }
    kept = [path.name for path in folder.glob("*/*/0*") if path.is_dir() and path.name in done]
    assert len(set(kept)) <= 1, "of a finished shard only its lines are kept"
    again, make = [], file_prediction.shard_job

    def noted(*arguments):
        again.append(make(*arguments))
        return again[-1]

    monkeypatch.setattr(file_prediction, "shard_job", noted)
    capsys.readouterr()
    assert main(command) == 0
    (n_done,) = re.findall(r"predict: (\d+) of (\d+) shards of given.csv are finished already", capsys.readouterr().out)
    assert int(n_done[0]) >= len(done) >= 2 and int(n_done[1]) == 14
    shards_again = {int(re.search(r"shard (\d+)/14", job.name)[1]) - 1 for job in again}
    assert shards_again and not shards_again & {int(stem) for stem in done}
    assert {run: (copy / f"prediction_{run}_given.csv").read_bytes() for run in whole} == whole
    assert not list(folder.iterdir())


def test_damaged_lines_are_made_anew(copy, tiny_input, tmp_path, small, capsys, monkeypatch):
    given = reports_of(tiny_input, 100, tmp_path / "given.csv", changed=False)
    command = ["predict", "lstm", str(given), "--to", str(tmp_path / "to.csv"), *words(tiny_input, copy)]
    assert main([*command, "predict.shard=32"]) == 0
    whole, copied = (tmp_path / "to.csv").read_bytes(), file_prediction._copy

    def damaged(lines, *arguments):
        if lines.name == "00001.csv" and b"r33" in lines.read_bytes():
            lines.write_bytes(lines.read_bytes().replace(b"r33", b"r34"))
        copied(lines, *arguments)

    monkeypatch.setattr(file_prediction, "_copy", damaged)
    assert main([*command, "predict.shard=32"]) == 2
    assert "00001.csv is damaged" in capsys.readouterr().err and (tmp_path / "to.csv").read_bytes() == whole
    monkeypatch.setattr(file_prediction, "_copy", copied)
    (tmp_path / "to.csv").unlink()
    assert main([*command, "predict.shard=32"]) == 0
    assert "3 of 4 shards of given.csv are finished already" in capsys.readouterr().out
    assert (tmp_path / "to.csv").read_bytes() == whole


def test_reports_in_memory_have_the_logits_of_their_file(copy, tiny_input, tmp_path, small):
    given = reports_of(tiny_input, 100, tmp_path / "given.csv", changed=False)
    workspace = Workspace(load_config("sample", [word for word in words(tiny_input, copy) if "=" in word]))
    reports, found = read_reports(given), []
    for file in (ReportFile.at(given), ReportFile.of(replace(reports, sha256=""))):
        with file_prediction.predicting(workspace, file, [workspace.run("blend")]) as made:
            made.predict(lines=False)
            found.append(made.logits(workspace.run("blend")))
    np.testing.assert_array_equal(*found)
    assert found[0].shape == (100, 17) and found[0].dtype == np.float32


MEMORY = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
from src.pipeline.predicted_files import ReportFile

def held(name):  # of anonymous memory, in MB: pages of mapped files may be dropped at any time
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1]) / 1e3

folder, peaks = Path(sys.argv[1]), []
run = SimpleNamespace(name="a", path=folder, record={"data": {"max_len": 104, "keep": "head"}})
(folder / "vocabulary.json").write_text("[1, 2, 3]")
for n in (20_000, 50_000, 400_000):
    with open(folder / "given.csv", "wb") as file:
        file.writelines(b"%d|,|%s\\n" % (i, b"1 2 " * 20) for i in range(n))
    open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
    before, files = held("VmRSS"), held("RssFile")
    facts = ReportFile.at(folder / "given.csv").encode([run], folder / str(n), 8192)
    assert sum(facts["rows"]) == n
    peaks.append(held("VmHWM") - before - max(0, held("RssFile") - files))
print(json.dumps(peaks))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux counts peaks anew")
def test_memory_does_not_grow_with_the_file(tmp_path):
    made = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    _warm, small_file, large_file = json.loads(made.stdout)
    # Nine bytes for each of the 350,000 more reports, and a sorted copy of eight of them.
    assert large_file - small_file < 10, (small_file, large_file)
