"""Nothing of ours calls home: the pipeline and its workers ask for no address while every socket refuses."""

from __future__ import annotations

import pytest

from tests.offline import run_offline


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import socket; socket.socket().connect(('127.0.0.1', 9))",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
        "import urllib.request; urllib.request.urlopen('http://localhost:9')",
    ],
)
def test_the_block_sees_whoever_calls(tmp_path, code):
    done, lines = run_offline(tmp_path, "-c", code)
    assert done.returncode == 1 and "the network is blocked" in done.stderr
    assert len(lines) > 1


def test_the_pipeline_asks_for_no_address(made_offline):
    lines = (made_offline / "log").read_text(encoding="utf-8").splitlines()
    blocked = [line for line in lines if line.startswith("blocked in ")]
    assert len(set(blocked)) > 1  # the command and its workers
    assert [line for line in lines if line not in blocked] == []
    assert (made_offline / "output/report.html").exists()
