"""Executor on a Ray cluster. What needs Ray itself is slow, and skipped without it; the rest tests what needs none."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from src.__main__ import run
from src.core import locks, ray_cluster, ray_executor, settings, storage
from src.core.errors import OutOfTime, UserError
from src.core.executors import make_executor
from src.core.settings_loader import load_config
from src.core.temporaries import TemporaryFile
from src.pipeline import file_prediction
from tests.conftest import error_of, run_command, words
from tests.same_bytes import main as same_bytes
from tests.same_bytes import results
from tests.test_executors import Recorder, is_alive, job
from tests.test_file_prediction import reports_of
from tests.waiting import PATIENCE, wait_until

HERE = "tests.test_ray"
ROOT = Path(__file__).resolve().parents[1]
HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason=f"Ray is not installed: {ray_cluster.INSTALL}")


@pytest.fixture
def no_token(monkeypatch, tmp_path):
    """An environment without a token; changes of the environment are undone."""
    names = ("AUTH_MODE", "AUTH_TOKEN", "AUTH_TOKEN_PATH", "ADDRESS", "TMPDIR", "USAGE_STATS_ENABLED")
    for name in (*(f"RAY_{name}" for name in names), "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    return monkeypatch


def test_words_of_a_cluster():
    config = load_config("sample", ["executor=ray", "ray.address=10.0.0.1:6379", "ray.silence=30"], ["lstm"])
    assert (config.executor.kind, config.executor.ray.address) == ("ray", "10.0.0.1:6379")
    assert config.executor.ray.silence == 30 and config.executor.ray.max_retries == 3
    again = load_config("sample", ["executor.kind=ray", "executor.ray.address=local", "executor.workers=3"], ["lstm"])
    assert (again.executor.ray.address, again.executor.workers) == ("local", 3)
    assert "kind" not in settings.Executor().model_dump() and "ray" not in settings.Executor().model_dump()
    assert "executor.ray.address" in error_of(load_config, "sample", ["ray.address=nonsense"], ["lstm"])


@pytest.mark.parametrize(
    ("address", "alone"),
    [
        ("127.0.0.1:6379", True), ("localhost:6379", True), ("[::1]:6379", True), ("127.8.0.1:1", True),
        ("10.0.0.1:6379", False), ("0.0.0.0:6379", False), ("head:6379", False), ("[fd00::1]:6379", False),
    ],
)  # fmt: skip
def test_addresses_of_this_machine_alone(address, alone):
    assert ray_cluster.is_loopback(address) is alone


def test_a_cluster_that_others_reach_is_not_joined_without_a_token(no_token, tmp_path, capsys):
    with pytest.raises(UserError, match=r"10\.0\.0\.1:6379 is not on this machine alone.*ray get-auth-token"):
        ray_cluster.prepare_token("10.0.0.1:6379")
    no_token.setenv("RAY_ADDRESS", "head:6379")
    with pytest.raises(UserError, match="head:6379 is not on this machine alone"):
        ray_cluster.prepare_token("auto")
    assert ray_cluster.prepare_token("127.0.0.1:6379") == "127.0.0.1:6379"
    assert os.environ["RAY_AUTH_MODE"] == "disabled" and "without a token" in capsys.readouterr().err
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret\n")
    no_token.setattr(ray_cluster, "_is_open", lambda address: False)
    assert ray_cluster.prepare_token("10.0.0.1:6379") == "10.0.0.1:6379"
    assert os.environ["RAY_AUTH_MODE"] == "token"
    no_token.setattr(ray_cluster, "_is_open", lambda address: True)
    with pytest.raises(UserError, match="asks for no token"):
        ray_cluster.prepare_token("10.0.0.1:6379")


PATIENT = {"RAY_agent_register_timeout_ms": "600000", "RAY_gcs_server_request_timeout_seconds": "600"}
"""Environment of processes of Ray on a machine that may be busy."""


SLOW = "Timed out while waiting for GCS to become available"


@contextlib.contextmanager
def head_node(host: str, token: str | None) -> Iterator[str]:
    """A real `ray start --head` at an address of this machine; yields HOST:PORT."""
    with contextlib.ExitStack() as free:
        sockets = [free.enter_context(socket.socket()) for _ in range(3)]
        for one in sockets:
            one.bind((host, 0))
        port, client_port, agent_port = (one.getsockname()[1] for one in sockets)
    folder = tempfile.mkdtemp(prefix="ray")  # a path in pytest's own folders is too long for Ray's sockets
    words = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=1"]
    words += [f"--node-ip-address={host}", f"--port={port}", f"--ray-client-server-port={client_port}"]
    words += [f"--dashboard-agent-listen-port={agent_port}", "--include-dashboard=false", f"--temp-dir={folder}"]
    words += [f"--object-store-memory={80 << 20}"]
    log, environment, is_there = Path(folder, "told"), of_token(token), False
    try:
        while not is_there:
            with log.open("w") as told:
                node = subprocess.Popen(words, env=environment, stdout=told, stderr=told)
            while node.poll() is None and not is_there:
                time.sleep(0.2)
                is_there = "Ray runtime started" in log.read_text()  # its port answers long before
            assert is_there or "timed out during startup" in log.read_text(), log.read_text()  # Ray's limit is 30 s
        yield f"{host}:{port}"
    finally:
        node.terminate()  # with --block it ends the processes of its node, and no other's
        node.wait()
        shutil.rmtree(folder, ignore_errors=True)


def of_token(token: str | None) -> dict[str, str]:
    """Environment of a process that has this token, or none."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    kept |= {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", **PATIENT}
    return kept | ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"})


@pytest.fixture
def network() -> Iterator[str]:
    """Address of this machine that is not loopback. Where there is none, of an interface that is made for the test."""
    import psutil

    def found() -> list[str]:
        addresses = (one for many in psutil.net_if_addrs().values() for one in many if one.family == socket.AF_INET)
        return [one.address for one in addresses if not ray_cluster.is_loopback(f"{one.address}:1")]

    if addresses := found():
        yield addresses[0]
        return
    made = ["ip", "link", "add", "rayout", "type", "veth", "peer", "name", "rayin"]
    if shutil.which("ip") is None or subprocess.run(made, capture_output=True).returncode:
        pytest.skip("this machine has no address besides loopback, and none can be made (ip link add needs root)")
    try:
        for words in ("address add 198.51.100.1/24 dev rayout", "link set rayout up", "link set rayin up"):
            subprocess.run(["ip", *words.split()], check=True)
        yield "198.51.100.1"
    finally:
        subprocess.run(["ip", "link", "delete", "rayout"], check=True)


JOIN = """
import sys
from src.core import settings
from src.core.executors import make_executor
from tests.same_bytes import main as same_bytes
from tests.same_bytes import results
from tests.test_executors import Recorder, job
if __name__ == "__main__":
    address, out = sys.argv[1:]
    wanted = settings.Executor(kind="ray", threads=1, ray=settings.Ray(address=address))
    assert make_executor(wanted, "cpu", 1).run([job("write", "write", out=out, text="joined")], Recorder()) == []
"""


@pytest.mark.slow
@needs_ray
def test_a_real_cluster_that_others_reach_is_joined_by_token_alone(tmp_path, network):
    (tmp_path / "join.py").write_text(JOIN)
    out, token, other = tmp_path / "out", "0123456789abcdef" * 4, "fedcba9876543210" * 4

    def join(address: str, token: str | None) -> str:
        """Runs a job there. Returns what was told on stderr; empty if the job was done. Asks again where Ray's limit of
        a minute for an answer was too short."""
        while SLOW in (told := tried(address, token)):
            pass
        return told

    def tried(address: str, token: str | None) -> str:
        words = [sys.executable, str(tmp_path / "join.py"), address, str(out)]
        environment = {**of_token(token), "HOME": str(tmp_path)}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=PATIENCE)
        assert (done.returncode == 0) == out.exists()
        return done.stderr if done.returncode else ""

    with head_node(network, None) as address:
        assert f"{address} is not on this machine alone, and there is no token" in join(address, None)
        assert "this cluster asks for no token" in join(address, token)
    assert "cannot be joined" in tried(address, token), "it has gone"
    with head_node(network, token) as address:
        assert f"{address} is not on this machine alone, and there is no token" in join(address, None)
        assert "cannot be joined" in join(address, other)
        assert join(address, token) == ""
    assert out.read_text().startswith("joined")


def test_a_cluster_of_this_command_alone_has_a_token_of_its_own(no_token):
    assert ray_cluster.prepare_token("local") == "local"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64 and os.environ["RAY_AUTH_MODE"] == "token"


def test_auto_without_a_cluster(no_token, tmp_path):
    with pytest.raises(UserError, match="ray start --head"):
        ray_cluster.prepare_token("auto")
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:6379\n")
    assert ray_cluster.prepare_token("auto") == "127.0.0.1:6379"


def test_without_ray_the_error_names_the_remedy(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else found(name))
    assert "docs/requirements-ray.txt" in error_of(run, ["status", "executor=ray", "ray.address=local"])


def test_nothing_of_ray_is_imported_without_it(tmp_path):
    """A blocked import, and modules that are loaded by the command and by those that make jobs."""
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from src.__main__ import main\n"
        "from src.core import settings; from src.core.executors import make_executor\n"
        "from src.pipeline.stages import baselines, train\n"
        f"assert main(['status', '--preset', 'sample', 'paths.output={tmp_path}']) == 0\n"
        "make_executor(settings.Executor(), 'cpu', 1)\n"
        "parts = {'ray_cluster', 'ray_executor', 'errands', 'object_store', 's3fs'}\n"
        "print([name for name in sys.modules if name.startswith('ray.') or parts & set(name.split('.'))])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


@needs_ray
def test_a_benchmark_is_of_this_machine(no_token):
    told = error_of(run, ["bench", "agree", "executor=ray", "ray.address=local"])
    assert "bench measures this machine" in told


@needs_ray
def test_a_cluster_that_does_not_start_in_time_is_told_in_a_sentence(no_token):
    """Ray waits 30 s for its own processes, and then raises Exception itself."""
    import ray

    def start(**options):
        raise Exception("The current node timed out during startup.\nThis could happen because ...")

    no_token.setattr(ray, "init", start)
    told = error_of(ray_cluster.connect.__wrapped__, "local", False)
    assert told == "ray.address=local: cannot be joined: The current node timed out during startup"


def test_the_post_office_keeps_news_until_they_are_answered():
    async def correspond() -> None:
        post = ray_executor.PostOffice()
        place = ray_executor.Place("node", (1, 2))
        assert await post.live(7, place) is False
        asked = asyncio.create_task(post.tell(8, {"epoch": 1}))
        other = asyncio.create_task(post.tell(9, {"epoch": 2}))
        await asyncio.sleep(0)
        first, *rest = await post.hear()
        assert first[1:] == (7, place)
        assert [letter[1:] for letter in rest] == [(8, {"epoch": 1}), (9, {"epoch": 2})]
        await post.answer(rest[1][0], True)
        assert await other is True and not asked.done()
        await post.end()
        assert await asked is True, "whoever waits is told to stop"
        assert await post.tell(8, {}) is True and await post.live(8, place) is True

    asyncio.run(correspond())


# What the jobs below call, in processes of the cluster.


def slowly(payload, progress):
    """Makes a result of many steps, under a lock and whole, and notes its processes. Amid them it waits for `until`, a
    file, so that a fault always finds it at work."""
    out = Path(payload["out"])
    with locks.lock(out.with_suffix(".lock")):
        if out.exists():
            return
        with out.with_suffix(".pids").open("a") as file:
            file.write(f"{os.getpid()}\n")
        value = out.name
        for i in range(payload["steps"]):
            while i == payload["steps"] // 2 and not Path(payload["until"]).exists():
                time.sleep(0.05)
                progress({"i": i})
            value = hashlib.sha256(f"{value}{i}".encode()).hexdigest()
            progress({"i": i})
        storage.write_text(out, value)


def made_of(name: str, steps: int) -> str:
    for i in range(steps):
        name = hashlib.sha256(f"{name}{i}".encode()).hexdigest()
    return name


def pids(folder: Path) -> list[int]:
    return [int(line) for file in folder.glob("*.pids") for line in file.read_text().split()]


def parents(process: int) -> list[int]:
    """Ids of the processes above one: server, worker of Ray, raylet, …"""
    found = []
    while process > 1:
        text = Path(f"/proc/{process}/stat").read_text()
        process = int(text.rpartition(")")[2].split()[1])
        found.append(process)
    return found


class Machines:
    """Cluster of three nodes with one CPU each on this machine."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        self.args = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=self.args)
        self.fill()

    def fill(self) -> None:
        """Starts nodes anew in the place of those that were killed."""
        for node in list(self.cluster.worker_nodes):
            if not node.live_processes() or any(node.dead_processes()):
                self.cluster.remove_node(node, allow_graceful=False)
        while len(self.cluster.worker_nodes) < 2:
            self.cluster.add_node(**self.args)
        self.cluster.wait_for_nodes()

    def raylets(self) -> list[int]:
        """Process ids of the nodes, the head node first."""
        nodes = [self.cluster.head_node, *self.cluster.worker_nodes]
        return [node.all_processes["raylet"][0].process.pid for node in nodes]

    def settings(self, **more) -> settings.Executor:
        return settings.Executor(
            kind="ray", threads=1, ray=settings.Ray(address=self.cluster.address, silence=15), **more
        )


@pytest.fixture(scope="module")
def machines():
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4, **PATIENT}
    os.environ.update(variables)
    made = Machines()
    try:
        yield made
    finally:
        import ray

        ray.shutdown()
        made.cluster.shutdown()
        ray_executor._mail.cache_clear()
        ray_cluster.connect.cache_clear()
        for name in variables:
            del os.environ[name]


STEPS = 20
STRUCK = "struck"
"""File in the folder of jobs that is there once the fault has been."""
REPEATS = int(os.environ.get("RAY_REPEATS", "2"))
"""Times that each fault is tried."""


def slow_jobs(folder: Path, n: int = 4) -> list:
    return [
        replace(
            job(f"job {i}", "slowly", out=str(folder / str(i)), steps=STEPS, until=str(folder / STRUCK)),
            function=f"{HERE}:slowly",
        )
        for i in range(n)
    ]


def check_all_done_once(folder: Path, watcher: Recorder, n: int = 4) -> None:
    assert sorted(watcher.finished) == [(f"job {i}", True) for i in range(n)]
    for i in range(n):
        assert (folder / str(i)).read_text() == made_of(str(i), STEPS)
    wait_until(lambda: not any(map(is_alive, pids(folder))))


@pytest.mark.slow
@needs_ray
def test_a_cluster_runs_jobs_like_local_processes(tmp_path, machines):
    class Impatient(Recorder):
        def step(self, one, news):
            super().step(one, news)
            return one.name == "long" and news["i"] == 2

    executor = make_executor(machines.settings(), "cpu", 10)
    assert (executor.workers, executor.threads) == (3, 1)
    jobs = [job("long", "count", 9.0, to=1000, out=str(tmp_path / "long"))]
    jobs += [job(name, name) for name in ("crash", "refuse", "leave", "die")]
    jobs += [job(f"write {i}", "write", out=str(tmp_path / str(i)), text=f"job {i}") for i in range(4)]
    jobs += [job("unlucky", "be_killed_once", out=str(tmp_path / "a"), signal=signal.SIGKILL)]
    watcher = Impatient()
    failures = {failure.job.name: failure.reason for failure in executor.run(jobs, watcher)}
    assert sorted(failures) == ["crash", "die", "leave", "refuse"]
    assert "ZeroDivisionError: a fault of the code" in failures["crash"] and failures["refuse"] == "a fault of the user"
    assert "SIGKILL" in failures["die"] and "exit code 3" in failures["leave"]
    assert [news["i"] for name, news in watcher.news if name == "long"] == [0, 1, 2]
    assert not (tmp_path / "long").exists() and (tmp_path / "a").read_text() == "kept, done"
    assert sorted(watcher.finished) == sorted((one.name, one.name not in failures) for one in jobs)
    texts = [(tmp_path / str(i)).read_text().split() for i in range(4)]
    assert [text[:2] + text[3:] for text in texts] == [["job", str(i), "1", "1"] for i in range(4)]
    assert len({text[2] for text in texts}) == 4, "each job has a new process"


@pytest.mark.slow
@needs_ray
def test_jobs_need_a_node_that_has_room(machines):
    executor = make_executor(machines.settings().model_copy(update={"threads": 64}), "cpu", 1)
    assert "no node of the Ray cluster has 64 CPUs for a job" in error_of(executor.run, [job("a", "crash")], Recorder())
    assert "and a GPU" in error_of(make_executor(machines.settings(), "cuda", 1).run, [job("a", "crash")], Recorder())


@pytest.mark.slow
@needs_ray
def test_a_deadline_stops_the_jobs(tmp_path, machines):
    executor = make_executor(machines.settings(), "cpu", 4)

    class Late(Recorder):
        def step(self, one, news):
            super().step(one, news)
            executor.deadline = min(executor.deadline, time.monotonic() + 1)

    watcher = Late()
    with pytest.raises(OutOfTime):
        executor.run([replace(one, payload={**one.payload, "until": "/none"}) for one in slow_jobs(tmp_path)], watcher)
    assert watcher.finished == [] and watcher.news and not (tmp_path / "0").exists()
    wait_until(lambda: not any(map(is_alive, pids(tmp_path))))


def test_a_node_tells_what_the_shared_folder_lacks(tmp_path):
    with TemporaryFile(tmp_path / "nodes") as file:
        file.write(b"text")
        words = (str(tmp_path), str(file.path))
        assert ray_cluster.see_folder(*words, "text") == ""
        assert ray_cluster.see_folder(*words, "another") == "missing"
        assert ray_cluster.see_folder(str(tmp_path), str(tmp_path / "none"), "text") == "missing"
        fcntl.flock(file, fcntl.LOCK_UN)
        assert ray_cluster.see_folder(*words, "text") == "own locks"
    assert list(tmp_path.iterdir()) == []
    assert set(ray_cluster.LACKS) == {"missing", "own locks", "rename"}


def test_the_simulation_of_a_cluster_ends_every_job():
    from tests.cluster_simulation import Cluster, simulate

    seconds = np.array([4.0, 3.0, 2.0, 1.0])
    calm = simulate(seconds, 1, Cluster(nodes=2, cores=1, overhead=0.0), seed=0)
    assert (calm.makespan, calm.ideal, calm.failures, calm.done) == (5.0, 5.0, 0, 4)
    rough = Cluster(nodes=3, cores=2, mean_life=30.0, repair=10.0, detection=2.0)
    kept = simulate(np.full(60, 12.0), 6, rough, seed=1)
    assert kept.done == 60 and kept.failures > 0 and kept.lost > 0 and kept.makespan > kept.ideal
    assert simulate(np.full(60, 12.0), 6, replace(rough, keeps_epochs=False), seed=1).makespan > kept.makespan


FAULTS = ("kill node", "kill worker", "kill job", "stop worker", "stop job", "fill store")


@pytest.mark.slow
@needs_ray
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_costs_no_job(tmp_path, machines, fault):
    import ray

    for turn in range(REPEATS):
        folder, held, hit = tmp_path / str(turn), [], []
        folder.mkdir()
        machines.fill()
        executor = make_executor(machines.settings(), "cpu", 4)
        assert executor.workers == 3

        def strike(folder=folder, hit=hit):
            head = machines.raylets()[0]

            def victim():
                for process in pids(folder):
                    with contextlib.suppress(OSError):
                        above = parents(process)
                        if head not in above:
                            return [process, *above]

            wait_until(victim)  # it waits, too
            process, server, worker, raylet, *_rest = victim()
            number = signal.SIGSTOP if fault.startswith("stop") else signal.SIGKILL
            target = {"node": raylet, "worker": worker, "job": process}[fault.split()[1]]
            os.kill(target, number)
            hit.append(target)
            (folder / STRUCK).touch()

        watcher = Recorder()
        if fault == "fill store":
            (folder / STRUCK).touch()
            with contextlib.suppress(ray.exceptions.ObjectStoreFullError):
                for _ in range(40):
                    held.append(ray.put(np.random.default_rng(0).bytes(8 << 20)))
            assert len(held) * 8 > 80
            assert executor.run(slow_jobs(folder), watcher) == []
        else:
            thread = threading.Thread(target=strike)
            thread.start()
            assert executor.run(slow_jobs(folder), watcher) == []
            thread.join()
            assert len(hit) == 1
            assert len(pids(folder)) == 5, "one job ran twice"
        check_all_done_once(folder, watcher)


SCRIPT = """
import sys
from src.core import settings
from src.core.executors import make_executor
from src.core import interrupts
from tests.test_ray import *
if __name__ == "__main__":
    address, folder = sys.argv[1:]
    watcher = Recorder()
    wanted = settings.Executor(kind="ray", threads=1, ray=settings.Ray(address=address))
    with interrupts.raised():
        assert make_executor(wanted, "cpu", 4).run(slow_jobs(Path(folder)), watcher) == []
    check_all_done_once(Path(folder), watcher)
"""


@pytest.mark.slow
@needs_ray
@pytest.mark.usefixtures("heard_signals")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_ended_command_leaves_no_task_and_goes_on(tmp_path, machines, number):
    machines.fill()
    (tmp_path / "command.py").write_text(SCRIPT)
    for turn in range(REPEATS):
        folder = tmp_path / str(turn)
        folder.mkdir()
        words = [sys.executable, str(tmp_path / "command.py"), machines.cluster.address, str(folder)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
        wait_until(lambda folder=folder: pids(folder), command)
        command.send_signal(number)
        _, told = command.communicate()
        assert command.returncode, told
        wait_until(lambda folder=folder: not any(map(is_alive, pids(folder))))
        assert not any((folder / str(i)).exists() for i in range(4))
        (folder / STRUCK).touch()
        subprocess.run(words, env=environment, check=True)
        check_all_done_once(folder, Recorded(4))


class Recorded:
    """Rule that the command has checked itself."""

    def __init__(self, n: int):
        self.finished = [(f"job {i}", True) for i in range(n)]


@pytest.mark.slow
@needs_ray
def test_the_pipeline_gives_the_same_bytes_as_on_this_machine(tmp_path, tiny_input, machines, capsys):
    machines.fill()
    local, cluster = tmp_path / "local", tmp_path / "cluster"
    run_command(words(tiny_input, local))
    run_command(words(tiny_input, cluster, "executor=ray", f"ray.address={machines.cluster.address}"))
    assert len(results(local)) > 50 and same_bytes([str(local), str(cluster)]) == 0
    changed = cluster / next(name for name in results(cluster) if name.endswith(".npy"))
    changed.write_bytes(changed.read_bytes()[:-1] + b"x")
    assert same_bytes([str(local), str(cluster)]) == 1
    assert f"{changed.relative_to(cluster)}: differs" in capsys.readouterr().out


@pytest.mark.slow
@needs_ray
def test_a_large_file_is_predicted_in_shards_as_on_this_machine(tmp_path, copy, tiny_input, machines, monkeypatch):
    machines.fill()
    monkeypatch.setattr(file_prediction, "CHUNK", 32)
    given, found = reports_of(tiny_input, 170, tmp_path / "given.csv"), []
    cluster = ("executor=ray", f"ray.address={machines.cluster.address}", "predict.shard=32")
    for more in ((), ("executor.workers=2", "predict.shard=64"), cluster):
        run_command(["predict", "lstm", "blend", str(given), *words(tiny_input, copy, *more)])
        found.append([(copy / f"prediction_{run}_given.csv").read_bytes() for run in ("lstm", "blend")])
        assert not list((copy / "predictions").iterdir())
    assert found[0] == found[1] == found[2] and len(found[0][0].splitlines()) == 170


@pytest.mark.slow
@needs_ray
def test_the_file_for_a_cloud_follows_rays_schema():
    import jsonschema
    import ray

    schema = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    config = yaml.safe_load((ROOT / "docs/cluster/ray-aws.yaml").read_text(encoding="utf-8"))
    jsonschema.validate(config, json.loads(schema.read_text(encoding="utf-8")))
