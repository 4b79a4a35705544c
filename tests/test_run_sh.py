"""run.sh with a Python that only notes what it is asked, in a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FAKE = """#!/usr/bin/env bash
case "$*" in
    -c*) exit 0 ;;
    --version) echo "Python 3.11.0" ;;
    "-m venv"*) mkdir -p "${@: -1}/bin"; cp "$0" "${@: -1}/bin/python"; echo "venv" >>"$CALLS" ;;
    "-m pip --version") [ -e "$CALLS.nopip" ] && exit 1; exit 0 ;;
    "-m pip"*) echo "pip" >>"$CALLS"; [ ! -e "$CALLS.broken" ] || { echo "no such package" >&2; exit 1; } ;;
    *) echo "$PWD: $*" >>"$CALLS" ;;
esac
"""


@pytest.fixture
def project(tmp_path):
    """A copy of run.sh beside a requirements.txt, and a function that calls it and returns what Python was asked."""
    shutil.copy(ROOT / "run.sh", tmp_path)
    (tmp_path / "requirements.txt").write_text("one==1\n")
    (tmp_path / "python").write_text(FAKE)
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "elsewhere").mkdir()
    calls = tmp_path / "calls"

    def run(*words: str, code: int = 0) -> tuple[list[str], str]:
        calls.write_text("")
        environment = {**os.environ, "PYTHON": str(tmp_path / "python"), "CALLS": str(calls)}
        done = subprocess.run(
            [tmp_path / "run.sh", *words], cwd=tmp_path / "elsewhere", env=environment, capture_output=True, text=True
        )
        assert done.returncode == code, done.stderr
        return calls.read_text().splitlines(), done.stdout + done.stderr

    return tmp_path, run


def test_it_sets_up_once_and_runs_where_the_user_stands(project):
    folder, run = project
    calls, told = run("train", "paths.input=here")
    assert calls == ["venv", "pip", f"{folder / 'elsewhere'}: -m src train paths.input=here"]
    assert "making .venv" in told and "installing requirements.txt" in told
    calls, told = run()
    assert calls == [f"{folder / 'elsewhere'}: -m src"] and told == ""


def test_changed_requirements_are_installed_again(project):
    folder, run = project
    run()
    (folder / "requirements.txt").write_text("one==2\n")
    calls, _ = run()
    assert calls[0] == "pip" and "venv" not in calls
    assert run()[0][0].endswith("-m src")


def test_a_failed_installation_tells_why_and_is_tried_again(project):
    folder, run = project
    (folder / "calls.broken").write_text("")
    calls, told = run(code=1)
    assert calls == ["venv", "pip"]
    assert "no such package" in told and "pip could not install requirements.txt" in told
    (folder / "calls.broken").unlink()
    assert run()[0][0] == "pip"


def test_a_half_made_venv_is_made_again(project):
    folder, run = project
    run()
    (folder / ".venv/.requirements").unlink()
    (folder / "calls.nopip").write_text("")
    assert run()[0][:2] == ["venv", "pip"]


def test_the_tests_run_in_the_projects_folder(project):
    folder, run = project
    assert run("test", "-k", "name")[0][-1] == f"{folder}: -m pytest -k name"


def test_without_python_it_says_what_is_needed(project, tmp_path):
    folder, _ = project
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "dirname", "cksum", "cat", "flock", "env"):
        (tools / name).symlink_to(shutil.which(name))
    done = subprocess.run([folder / "run.sh"], env={"PATH": str(tools)}, capture_output=True, text=True)
    assert done.returncode == 1 and "no Python 3.11 or newer found" in done.stderr
    assert not (folder / ".venv").exists()
