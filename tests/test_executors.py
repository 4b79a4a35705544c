from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src.core import settings
from src.core.errors import UserError
from src.core.executors import Job, LocalProcesses, available_cores, make_executor, raise_failures, run_shown
from tests.waiting import PATIENCE, wait_until

HERE = "tests.test_executors"


# What the jobs below call, in worker processes.


def write(payload, progress):
    progress({"share": 0.5})
    import torch

    threads = f"{os.environ['OMP_NUM_THREADS']} {torch.get_num_threads()}"
    Path(payload["out"]).write_text(f"{payload['text']} {os.getpid()} {threads}")


def crash(payload, progress):
    raise ZeroDivisionError("a fault of the code")


def refuse(payload, progress):
    raise UserError("a fault of the user")


def die(payload, progress):
    os.kill(os.getpid(), signal.SIGKILL)


def leave(payload, progress):
    os._exit(3)


def count(payload, progress):
    for i in range(payload["to"]):
        try:
            progress({"i": i})
        except Exception as error:  # a stop is none
            raise AssertionError from error
    Path(payload["out"]).write_text(str(os.getpid()))


def be_killed_once(payload, progress):
    """Goes on from what it kept before."""
    out = Path(payload["out"])
    if not out.exists():
        out.write_text("kept")
        os.kill(os.getpid(), payload["signal"])
        time.sleep(2 * PATIENCE)
    out.write_text(f"{out.read_text()}, done")


def sleep(payload, progress):
    Path(payload["out"]).write_text(str(os.getpid()))
    time.sleep(2 * PATIENCE)


class Recorder:
    def __init__(self):
        self.news, self.finished = [], []

    def step(self, job, news):
        self.news.append((job.name, news))

    def finish(self, job, failure):
        self.finished.append((job.name, failure is None))


def job(name: str, function: str, work: float = 1.0, **payload) -> Job:
    return Job(name, f"{HERE}:{function}", payload, work)


def test_a_job_is_stopped_by_the_answer_to_its_news(tmp_path):
    class Impatient(Recorder):
        def step(self, job, news):
            super().step(job, news)
            return job.name == "long" and news["i"] == 2

    jobs = [job("long", "count", 2.0, to=1000, out=str(tmp_path / "long"))]
    jobs += [job(f"short {i}", "count", to=4, out=str(tmp_path / str(i))) for i in range(2)]
    watcher = Impatient()
    assert LocalProcesses(1, 1).run(jobs, watcher) == []
    assert [news["i"] for name, news in watcher.news if name == "long"] == [0, 1, 2]
    assert watcher.finished == [("long", True), ("short 0", True), ("short 1", True)]
    assert not (tmp_path / "long").exists()
    assert (tmp_path / "0").read_text() == (tmp_path / "1").read_text(), "the process lives on"


def test_jobs_may_depend_on_the_progress_of_others(tmp_path):
    """Two chains of three jobs; each job follows from the result of the job before."""
    open_, done = [("a", 0), ("b", 0)], []

    class Chains(Recorder):
        def finish(self, one, failure):
            super().finish(one, failure)
            chain, i = one.name.split()
            done.append((chain, int(i)))
            if int(i) < 2 and failure is None:
                open_.append((chain, int(i) + 1))

    def following():
        if not open_:
            return None
        chain, i = open_.pop(0)
        function = "refuse" if (chain, i) == ("b", 1) else "count"
        return job(f"{chain} {i}", function, to=1, out=str(tmp_path / f"{chain}{i}"))

    failures = LocalProcesses(2, 1).run_as_they_come(following, Chains())
    assert [failure.job.name for failure in failures] == ["b 1"]
    assert sorted(done) == [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1)]


@pytest.mark.parametrize("workers", [1, 2])
def test_jobs_wait_for_those_that_they_need(tmp_path, workers):
    """In the order in which they are given, whatever they cost, but none before what it needs, nor without it."""
    jobs = [job("last", "count", 9.0, to=1, out=str(tmp_path / "last")), job("refused", "refuse")]
    jobs += [job(name, "count", to=1, out=str(tmp_path / name)) for name in ("a", "b", "never", "free")]
    watcher = Recorder()
    needs = {"last": ["a", "b"], "never": ["a", "refused"]}
    failures = run_shown(LocalProcesses(workers, 1), "test", jobs, also=watcher, needs=needs)
    assert [failure.job.name for failure in failures] == ["refused"] and not (tmp_path / "never").exists()
    names = [name for name, _is_done in watcher.finished]
    assert sorted(names) == ["a", "b", "free", "last", "refused"]
    assert names.index("last") > max(names.index("a"), names.index("b"))
    if workers == 1:
        assert names == ["refused", "a", "b", "last", "free"]


@pytest.mark.parametrize("workers", [1, 2])
def test_failing_jobs_are_reported_and_the_others_go_on(tmp_path, workers):
    jobs = [
        job("crash", "crash"),
        job("die", "die"),
        job("leave", "leave"),
        job("refuse", "refuse"),
        *(job(f"write {i}", "write", out=str(tmp_path / str(i)), text=f"job {i}") for i in range(4)),
    ]
    watcher = Recorder()
    failures = {failure.job.name: failure.reason for failure in LocalProcesses(workers, 1).run(jobs, watcher)}
    assert sorted(failures) == ["crash", "die", "leave", "refuse"]
    assert "ZeroDivisionError: a fault of the code" in failures["crash"] and "in crash" in failures["crash"]
    assert "SIGKILL" in failures["die"] and "memory" in failures["die"]
    assert "exit code 3" in failures["leave"]
    assert failures["refuse"] == "a fault of the user"
    for i in range(4):
        text = (tmp_path / str(i)).read_text().split()
        assert text[:2] == ["job", str(i)] and text[3] == "1"
    assert sorted(watcher.finished) == sorted([(j.name, j.name.startswith("write")) for j in jobs])
    assert sorted(watcher.news) == [(f"write {i}", {"share": 0.5}) for i in range(4)]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
def test_a_job_whose_worker_is_killed_is_tried_once_more(tmp_path, capsys, number):
    jobs = [
        job("unlucky", "be_killed_once", 2.0, out=str(tmp_path / "a"), signal=number),
        job("other", "write", out=str(tmp_path / "b"), text="x"),
    ]
    watcher = Recorder()
    assert LocalProcesses(1, 1).run(jobs, watcher) == []
    assert (tmp_path / "a").read_text() == "kept, done" and (tmp_path / "b").exists()
    assert watcher.finished == [("unlucky", True), ("other", True)]
    told = capsys.readouterr().err
    assert told.count("warning: unlucky: its process was") == 1 and number.name in told and "tried once more" in told


def test_the_largest_job_starts_first_and_workers_are_used_again(tmp_path):
    names = ["small", "large", "middle"]
    jobs = [
        job(name, "write", work, out=str(tmp_path / name), text=name)
        for name, work in zip(names, (1, 3, 2), strict=True)
    ]
    watcher = Recorder()
    assert LocalProcesses(1, 1).run(jobs, watcher) == []
    assert [name for name, _ in watcher.finished] == ["large", "middle", "small"]
    assert len({(tmp_path / name).read_text().split()[1] for name in names}) == 1


def test_thread_variables_are_put_back(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    jobs = [job("write", "write", out=str(tmp_path / "a"), text="x")]
    assert LocalProcesses(1, 2).run(jobs, Recorder()) == []
    assert (tmp_path / "a").read_text().endswith(" 2 2")
    assert os.environ["OMP_NUM_THREADS"] == "7" and "MKL_NUM_THREADS" not in os.environ


@pytest.mark.parametrize(
    "start",
    [
        "LocalProcesses(1, 1).run([job('sleep', 'sleep', out=sys.argv[1])], Recorder())",
        "pool(1, get_context('spawn'), initializer=end_with_parent).submit(sleep, {'out': sys.argv[1]}, 0).result()",
    ],
)
def test_workers_end_with_a_killed_parent(tmp_path, start):
    code = (
        "import sys; from tests.test_executors import *\n"
        "from concurrent.futures import ProcessPoolExecutor as pool; from multiprocessing import get_context\n"
        "from src.core.executors import end_with_parent\n"
        f"if __name__ == '__main__':\n    {start}\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code)
    out = tmp_path / "pid"
    root = Path(__file__).parents[1]
    parent = subprocess.Popen(
        [sys.executable, str(script), str(out)], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
    )
    wait_until(lambda: out.exists() and out.read_text(), parent)
    worker = int(out.read_text())
    parent.kill()
    parent.wait()
    wait_until(lambda: not is_alive(worker))


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_workers_are_started_anew_on_macos_and_below_a_notebook(tmp_path, monkeypatch):
    """spawn, and a parent whose __main__ is no file."""
    monkeypatch.setattr("src.core.executors.START", "spawn")
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    jobs = [job(name, "write", out=str(tmp_path / name), text="x") for name in "ab"]
    assert LocalProcesses(2, 1).run(jobs, Recorder()) == []
    assert (tmp_path / "a").exists() and (tmp_path / "b").exists()


def test_failures_are_raised_together():
    raise_failures([])
    failures = LocalProcesses(1, 1).run([job("one", "refuse"), job("two", "crash")], Recorder())
    with pytest.raises(UserError, match=r"(?s)one: a fault of the user.*ZeroDivisionError.*2 jobs failed"):
        raise_failures(failures)


def test_logs_get_a_line_for_each_step(tmp_path, capsys):
    jobs = [job("a", "write", out=str(tmp_path / "a"), text="x"), job("b", "write", out=str(tmp_path / "b"), text="x")]
    also = Recorder()
    run_shown(LocalProcesses(1, 1), "train", jobs, lambda news: (news["share"], f"half {news['share']}"), also)
    assert also.news == [(one.name, {"share": 0.5}) for one in jobs]
    assert also.finished == [("a", True), ("b", True)]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[:2] for line in lines] == [
        ["a", "half 0.5"],
        ["a", "done"],
        ["b", "half 0.5"],
        ["b", "done"],
    ]
    assert "(25%" in lines[0] and "left)" in lines[0] and lines[3].strip() == "b  done"
    run_shown(LocalProcesses(1, 1), "predict", jobs)
    assert capsys.readouterr().out.startswith("predict: 2 jobs in ")


def test_sized_to_the_machine():
    assert make_executor(settings.Executor(), "cpu", 1000).workers == available_cores()
    assert make_executor(settings.Executor(threads=available_cores()), "cpu", 1000).workers == 1


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "300000 100000"}, 3),
        ("0::/\n", {"cpu.max": "max 100000"}, 8),
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "250000 100000"}, 2),
        ("0::/of/the/host\n", {"cpu.max": "400000 100000"}, 4),
        ("4:memory:/\n3:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2),
        ("3:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "500000", "cpu/a/cpu.cfs_period_us": "100000"}, 5),
        ("3:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ("0::/\n", {"cpu.max": "nonsense"}, 8),
        ("0::/\n", {}, 8),
        (None, {}, 8),
    ],
)
def test_cores_of_a_control_group(tmp_path, monkeypatch, own, files, expected):
    """In a container the path of the group may be the host's, and the limit then lies at the root."""
    for name, text in files.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(f"{text}\n")
    if own is not None:
        (tmp_path / "own").write_text(own)
    monkeypatch.setattr("src.core.executors.CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr("src.core.executors.OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(8))
    assert available_cores() == expected


@pytest.mark.parametrize(
    ("workers", "threads", "device", "n_jobs", "expected"),
    [
        ("auto", "auto", "cpu", 10, (8, 1)),
        ("auto", "auto", "cpu", 5, (5, 1)),
        ("auto", "auto", "cpu", 3, (3, 2)),
        ("auto", "auto", "cpu", 1, (1, 8)),
        ("auto", "auto", "cpu", 0, (1, 8)),
        ("auto", 3, "cpu", 10, (2, 3)),
        ("auto", 1, "cpu", 3, (3, 1)),
        ("auto", 9, "cpu", 10, (1, 9)),
        (3, "auto", "cpu", 10, (3, 2)),
        (12, "auto", "cpu", 2, (12, 1)),
        (5, 3, "cpu", 1, (5, 3)),
        ("auto", "auto", "cuda", 10, (5, 1)),
        ("auto", "auto", "cuda", 3, (3, 1)),
        ("auto", 2, "cuda", 10, (4, 2)),
        (3, "auto", "cuda", 10, (3, 1)),
        (12, "auto", "cuda", 10, (12, 1)),
    ],
)
def test_layout_of_eight_cores(monkeypatch, workers, threads, device, n_jobs, expected):
    monkeypatch.setattr("src.core.executors.available_cores", lambda: 8)
    made = make_executor(settings.Executor(workers=workers, threads=threads), device, n_jobs, card_jobs=5)
    assert (made.workers, made.threads) == expected


@pytest.mark.parametrize(("cores", "card_jobs", "expected"), [(16, 40, 8), (16, 3, 3), (4, 40, 4), (16, 1, 1)])
def test_workers_of_a_card(monkeypatch, cores, card_jobs, expected):
    monkeypatch.setattr("src.core.executors.available_cores", lambda: cores)
    made = make_executor(settings.Executor(), "cuda", 25, card_jobs=card_jobs)
    assert (made.workers, made.threads) == (expected, 1)
