"""Jobs on a Ray cluster whose nodes share no folder with the command: ray.store, against an S3 server on loopback.

Without more words the server is moto's, an implementation of S3 in memory (pip install "moto[server]"). Another one, of
which TEST_S3_ENDPOINT is the URL and to which the credentials of the environment belong, is used in its stead.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from src.core import object_store, ray_cluster, ray_executor, storage
from src.core.executors import Job, make_executor, reads
from tests.conftest import run_command, words
from tests.same_bytes import results
from tests.test_executors import Recorder
from tests.test_ray import Machines, needs_ray
from tests.waiting import wait_until

s3fs = pytest.importorskip("s3fs", reason=f"s3fs is not installed: {object_store.INSTALL}")
ROOT = Path(__file__).resolve().parents[1]
SECRET = "not-to-be-found-anywhere"
WATCH = """
import os, sys
forbidden = os.environ["FORBIDDEN_FOLDER"]
log = os.open(os.environ["FORBIDDEN_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def hook(event, args):
    if event == "open" or event.startswith("os."):
        for one in args[:2]:
            if isinstance(one, (str, bytes)) and os.fsdecode(one).startswith(forbidden):
                os.write(log, f"{event} {os.fsdecode(one)}\\n".encode())

sys.addaudithook(hook)
"""
"""sitecustomize.py of all processes of the nodes: it notes who touches a folder that nodes must not see."""

pytestmark = [pytest.mark.slow, needs_ray]


@pytest.fixture(scope="module")
def bucket():
    """URL of an empty bucket; the environment has the credentials."""
    kept = dict(os.environ)
    if endpoint := os.environ.get("TEST_S3_ENDPOINT"):
        server = None
    else:
        pytest.importorskip("moto", reason='moto is not installed: pip install "moto[server]"')
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        endpoint = f"http://127.0.0.1:{port}"
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stderr=subprocess.DEVNULL
        )
        os.environ |= {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": SECRET}

        def answers() -> bool:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                return True
            return False

        wait_until(answers, server)
    os.environ |= {"AWS_ENDPOINT_URL": endpoint, "AWS_EC2_METADATA_DISABLED": "true"}
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
    name = f"test-{secrets.token_hex(4)}"
    s3fs.S3FileSystem().mkdir(name)
    try:
        yield f"s3://{name}/prefix"
    finally:
        if server is None:
            s3fs.S3FileSystem(use_listings_cache=False).rm(name, recursive=True)
        else:
            server.kill()
            server.wait()
        for variable in os.environ.keys() - kept.keys():
            del os.environ[variable]
        os.environ.update(kept)
        s3fs.S3FileSystem.clear_instance_cache()


class FarMachines(Machines):
    """Three nodes, each with a folder of its own for temporary files, whose processes note who touches the command's
    folder."""

    def __init__(self, home: Path):
        self.home, self.command, self.log, self._n = home, home / "command", home / "touched", 0
        (home / "watch").mkdir(parents=True)
        self.command.mkdir()
        (home / "watch" / "sitecustomize.py").write_text(WATCH)
        from ray.cluster_utils import Cluster

        self.args = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args={**self.args, "env_vars": self._environment()})
        self.fill()

    def _environment(self) -> dict[str, str]:
        folder = self.home / str(self._n)
        folder.mkdir()
        self._n += 1
        return {
            "TMPDIR": str(folder),
            "PYTHONPATH": f"{self.home / 'watch'}:{ROOT}",
            "FORBIDDEN_FOLDER": str(self.command),
            "FORBIDDEN_LOG": str(self.log),
        }

    def fill(self) -> None:
        for node in list(self.cluster.worker_nodes):
            if not node.live_processes() or any(node.dead_processes()):
                self.cluster.remove_node(node, allow_graceful=False)
        while len(self.cluster.worker_nodes) < 2:
            self.cluster.add_node(**self.args, env_vars=self._environment())
        self.cluster.wait_for_nodes()

    def words(self, url: str, *more: str) -> list[str]:
        return ["executor=ray", f"ray.address={self.cluster.address}", f"ray.store={url}", *more]

    def touched(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


@pytest.fixture(scope="module")
def far(bucket, tmp_path_factory):
    variables = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
        "RAY_agent_register_timeout_ms": "600000",  # the machine may be busy
    }
    os.environ.update(variables)
    made = FarMachines(tmp_path_factory.mktemp("far"))
    try:
        yield made
    finally:
        import ray

        ray.shutdown()
        made.cluster.shutdown()
        for cached in (ray_executor._mail, ray_cluster.connect, ray_cluster.looked_at, object_store.opened):
            cached.cache_clear()
        for name in variables:
            del os.environ[name]


@reads(lambda payload: ["given"])
def copy(payload, progress):
    """Copies a file of the output folder, and looks at another folder if it is told to."""
    output = Path(payload["output"])
    if payload["peek"]:
        Path(payload["peek"]).read_text()
    storage.write_text(output / "copy", (output / "given").read_text())


def test_nodes_read_their_own_folders_alone(far, bucket):
    output = far.command / "copy"
    output.mkdir()
    (output / "given").write_text("text")
    wanted = far.settings()
    executor = make_executor(
        wanted.model_copy(update={"ray": wanted.ray.model_copy(update={"store": bucket})}), "cpu", 1
    )

    def run(peek: str) -> list:
        payload = {"output": str(output), "peek": peek}
        return executor.run([Job("copy", f"{copy.__module__}:copy", payload)], Recorder())

    assert run("") == [] and (output / "copy").read_text() == "text"
    assert far.touched() == ""
    assert run(str(output / "given")) == []
    assert f"open {output / 'given'}" in far.touched(), "the watch sees who does"
    os.truncate(far.log, 0)


def test_the_pipeline_gives_the_same_bytes_as_on_this_machine(far, bucket, tiny_input, done, capfd):
    far.fill()
    output = far.command / "pipeline"
    run_command(words(tiny_input, output, *far.words(bucket)))
    assert results(output) == results(done) and len(results(done)) > 50
    assert far.touched() == ""
    told = capfd.readouterr()
    assert "received here" in told.out
    assert SECRET not in told.out + told.err
    assert not [path for path in output.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def test_a_fold_goes_on_after_its_node_was_killed(far, bucket, tiny_input, made_once, tmp_path):
    far.fill()
    near, output = tmp_path / "near", far.command / "killed"
    more = ["train", "--model", "lstm", "runs.lstm.train.epochs=8"]
    for folder in (near, output):
        run_command(["folds", *words(tiny_input, folder)])
    run_command([*more, *words(tiny_input, near)])
    killed = []

    def strike() -> None:
        def victim() -> int | None:
            """The process of a node, not the head, on which a fold is past its second epoch."""
            for raylet, node in zip(far.raylets(), [far.cluster.head_node, *far.cluster.worker_nodes], strict=True):
                home = Path(node._ray_params.env_vars["TMPDIR"])
                if node is not far.cluster.head_node and list(home.glob("run.sh-*/jobs/*/*/runs/*/*/state_0002.json")):
                    return raylet
            return None

        wait_until(victim)
        os.kill(process := victim() or 0, signal.SIGKILL)
        killed.append(process)

    thread = threading.Thread(target=strike)
    thread.start()
    run_command([*more, *words(tiny_input, output, *far.words(bucket, "ray.keep=0", "ray.silence=15"))])
    thread.join()
    assert killed and results(output) == results(near)
    made = [storage.read_json(path) for path in output.glob("runs/lstm/*/result.json")]
    assert any(one["seconds"] > one["seconds_since_last_start"] for one in made), "it went on from its state"
    assert far.touched() == ""
