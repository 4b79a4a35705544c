"""run.sh and .ci/run, in folders of their own, with programs that only note what they are asked."""

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


class CI:
    """A project whose .ci/run finds no programs but those of `tools`; each call of a fake one is a line of `calls`."""

    TOOLS = ("bash", "dirname", "env")

    def __init__(self, folder: Path):
        self.folder, self.calls = folder, folder / "calls"
        for part in (".ci", ".venv/bin", "tools"):
            (folder / part).mkdir(parents=True)
        shutil.copy(ROOT / ".ci/run", folder / ".ci/run")
        for name in self.TOOLS:
            (folder / "tools" / name).symlink_to(shutil.which(name))
        self.add("tools/initdb")
        self.add("tools/apt-get")
        self.add("tools/id", "echo 0")
        self.add(".venv/bin/python")
        self.add("run.sh", '[ "$1" = --help ] || exit 5')

    def add(self, name: str, does: str = "") -> None:
        path = self.folder / name
        path.write_text(f'#!/usr/bin/env bash\necho "{path.name} $*" >>"{self.calls}"\n{does}\n')
        path.chmod(0o755)

    def run(self) -> tuple[list[str], str]:
        self.calls.write_text("")
        environment = {"PATH": str(self.folder / "tools")}
        done = subprocess.run([self.folder / ".ci/run"], cwd="/", env=environment, capture_output=True, text=True)
        assert done.returncode == 5 and done.stdout == "", "the status and the last line are those of the tests"
        calls = self.calls.read_text().splitlines()
        assert calls[-1] == "run.sh test"
        return [call for call in calls if call.startswith(("apt-get", "sudo"))], done.stderr


INSTALL = "install -qq -y --no-install-recommends chromium"


@pytest.fixture
def ci(tmp_path) -> CI:
    return CI(tmp_path)


def test_ci_installs_what_tests_miss(ci):
    redis = INSTALL.replace("chromium", "redis-server")
    assert ci.run()[0] == ["apt-get update -qq", f"apt-get {INSTALL}", f"apt-get {redis}"]
    calls = ci.calls.read_text()
    assert calls.index("run.sh --help") < calls.index("python -m pip install"), ".venv is made first"
    assert "docs/requirements-tracking.txt" in calls and "docs/requirements-serve.txt" in calls
    ci.add("tools/chromium")
    ci.add("tools/redis-server")
    assert ci.run() == ([], "")


def test_ci_installs_by_sudo_only_without_a_password(ci):
    ci.add("tools/id", "echo 1000")
    ci.add("tools/sudo", "exit 1")
    calls, told = ci.run()
    assert calls == ["sudo -n true"] and "chromium" in told
    ci.add("tools/sudo", 'shift; "$@"')
    calls, _ = ci.run()
    assert f"apt-get {INSTALL}" in calls and f"sudo -n env DEBIAN_FRONTEND=noninteractive apt-get {INSTALL}" in calls


def test_ci_runs_the_tests_where_nothing_can_be_installed(ci):
    ci.add("tools/apt-get", "exit 100")
    ci.add(".venv/bin/python", "exit 1")
    _, told = ci.run()
    assert "chromium" in told and "docs/requirements-tracking.txt" in told
    (ci.folder / "tools/apt-get").unlink()
    calls, told = ci.run()
    assert calls == [] and "chromium" in told
