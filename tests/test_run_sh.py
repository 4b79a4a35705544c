"""run.sh and .ci/run, in folders of their own, with programs that only note what they are asked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from src.core.language import LANGUAGES
from tests import help_text

ROOT = Path(__file__).resolve().parents[1]
FAKE = """#!/usr/bin/env bash
case "$*" in
    *fcntl*) [ ! -e "$CALLS.unlocked" ] ;;
    -c*) exit 0 ;;
    --version) echo "Python 3.11.0" ;;
    "-m venv"*) mkdir -p "${@: -1}/bin"; cp "$0" "${@: -1}/bin/python"; echo "venv" >>"$CALLS" ;;
    "-m pip --version") [ -e "$CALLS.nopip" ] && exit 1; exit 0 ;;
    "-m pip"*)
        echo "pip" >>"$CALLS"
        [ ! -e "$CALLS.options" ] || echo "$*" >>"$CALLS"
        [ ! -e "$CALLS.broken" ] || { echo "no such package" >&2; exit 1; }
        [ ! -e "$CALLS.killed" ] || kill -9 "$PPID" $$ ;;
    *)
        [ ! -e "$CALLS.variables" ] || echo $(env | grep -E '^PYTHON(PATH|SAFEPATH|UTF8|HOME|IOENCODING)=' | sort)
        echo "$PWD: $*" >>"$CALLS" ;;
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

    def run(*words: str, code: int = 0, script=(tmp_path / "run.sh",), **variables: str) -> tuple[list[str], str]:
        calls.write_text("")
        environment = {**os.environ, "PYTHON": str(tmp_path / "python"), "CALLS": str(calls), **variables}
        done = subprocess.run(
            [*script, *words], cwd=tmp_path / "elsewhere", env=environment, capture_output=True, text=True
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


@pytest.mark.parametrize("shell", [None, "sh", "bash", "dash"])
def test_help_answers_before_the_set_up(project, shell):
    folder, run = project
    (folder / "src/locale").mkdir(parents=True)
    for language in LANGUAGES:
        shutil.copy(help_text.file_of(language), folder / "src/locale")
    if shell and not shutil.which(shell):
        pytest.skip(f"there is no {shell}")
    script = (*filter(None, [shell]), folder / "run.sh")
    parts = {language: help_text.text(language).split("=== ") for language in LANGUAGES}
    page = {(tongue, part.split("\n")[0]): part.partition("\n")[2] for tongue in parts for part in parts[tongue]}
    plain = {"LANG": "C", "LC_ALL": "", "LANGUAGE": "", "LC_MESSAGES": ""}
    for words, expected in (
        (["--help"], ("en", "help")),
        (["help"], ("en", "help")),
        (["train", "--help"], ("en", "train")),
        (["--quiet", "train", "lstm", "train.epochs=3", "-h"], ("en", "train")),
        (["--preset", "quick", "--help"], ("en", "pipeline")),
        (["--lang", "zh", "blend", "--help"], ("zh", "blend")),
        (["blend", "--help", "--lang=zh"], ("zh", "blend")),
    ):
        assert run(*words, script=script, **plain) == ([], page[expected]), words
    assert run("train", "--help", **{**plain, "LANG": "zh_CN.UTF-8"}) == ([], page["zh", "train"])
    assert "unknown verb trian" in run("trian", "--help", code=1, **plain)[1]
    assert not (folder / ".venv").exists()


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_help_that_is_read_before_the_set_up_is_that_of_python(language):
    made = help_text.file_of(language).read_text(encoding="utf-8")
    assert made == help_text.text(language), "run: python -m tests.help_text"


def test_what_the_set_up_costs_is_told(project):
    _, run = project
    assert "2 minutes and 1.6 GB of disk" in run("train")[1]


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


def test_a_folder_of_wheels_takes_the_place_of_the_network(project):
    folder, run = project
    (folder / "calls.options").write_text("")
    assert "--no-index" not in run()[0][2]
    (folder / "wheels").mkdir()
    (folder / "requirements.txt").write_text("one==2\n")
    calls, told = run()
    assert f"--no-index -f {folder}/wheels" in calls[1] and "files in wheels/ alone" in told
    (folder / "requirements.txt").write_text("one==3\n")
    (folder / "calls.broken").write_text("")
    assert "pip could not install requirements.txt from the files in wheels/ alone" in run(code=1)[1]


def test_a_half_made_venv_is_made_again(project):
    folder, run = project
    run()
    (folder / ".venv/.requirements").unlink()
    (folder / "calls.nopip").write_text("")
    assert run()[0][:2] == ["venv", "pip"]


def test_a_set_up_that_was_killed_is_begun_anew(project):
    """pip takes a package whose metadata is there for installed, whether its files are or not."""
    folder, run = project
    run()
    (folder / "requirements.txt").write_text("one==2\n")
    (folder / "calls.killed").write_text("")
    run(code=-9)
    (folder / "calls.killed").unlink()
    assert run()[0][:2] == ["venv", "pip"]
    assert run()[0][0].endswith("-m src")


def test_a_venv_of_somebody_else_is_not_cleared(project, tmp_path):
    folder, run = project
    run()
    (folder / ".venv").rename(tmp_path / "shared")
    (folder / ".venv").symlink_to(tmp_path / "shared")
    (folder / "requirements.txt").write_text("one==2\n")
    (folder / "calls.killed").write_text("")
    run(code=-9)
    (folder / "calls.killed").unlink()
    assert run()[0][0] == "pip" and (tmp_path / "shared").is_dir()


@pytest.mark.parametrize("shell", [None, "sh", "bash", "dash", "busybox"])
@pytest.mark.parametrize("place", ["plain", "with two  blanks", "数据", "-dash", "$(touch x)'\"*"])
def test_any_shell_finds_the_project_in_any_place(project, tmp_path, shell, place):
    """Called by its path, by a path that CDPATH would lead astray, and by a chain of links."""
    _, run = project
    if shell and not shutil.which(shell):
        pytest.skip(f"{shell} is not installed: run.sh is not tried with it")
    here = tmp_path / "elsewhere"
    folder = here / place
    folder.mkdir()
    (tmp_path / "decoy" / place).mkdir(parents=True)
    shutil.copy(ROOT / "run.sh", folder)
    shutil.copy(tmp_path / "requirements.txt", folder)
    (here / "second").symlink_to(folder / "run.sh")
    (here / "first").symlink_to("second")
    with_shell = {None: [], "busybox": ["busybox", "sh"]}.get(shell, [shell])
    for script in (folder / "run.sh", f"{'./' * (place[0] == '-')}{place}/run.sh", "./first"):
        calls, told = run("train", "a b", script=(*with_shell, script), CDPATH=str(tmp_path / "decoy"))
        assert calls[-1] == f"{here}: -m src train a b" and "No such" not in told
    assert (folder / ".venv/bin/python").exists() and not any((tmp_path / "decoy" / place).iterdir())


def test_variables_of_the_user_lead_to_no_other_modules(project):
    """Python gets the project alone, not the current folder, and UTF-8."""
    folder, run = project
    (folder / "calls.variables").write_text("")
    told = run(PYTHONPATH="/elsewhere:", PYTHONHOME="/nowhere", PYTHONUTF8="0", PYTHONIOENCODING="ascii")[1]
    assert f"PYTHONPATH={folder} PYTHONSAFEPATH=1 PYTHONUTF8=1\n" in told
    assert "PYTHONHOME" not in told and "PYTHONIOENCODING" not in told


def test_a_project_that_cannot_be_written_is_set_up_elsewhere(project, tmp_path):
    """Its folder looks like one of another user, also to root."""
    folder, run = project
    (folder / "run.sh").write_text((folder / "run.sh").read_text().replace('[ -w "$root" ]', "false"))
    calls, told = run(HOME=str(tmp_path / "home"), XDG_CACHE_HOME="")
    assert calls[:2] == ["venv", "pip"] and f"making {tmp_path}/home/.cache/run.sh/" in told
    assert not (folder / ".venv").exists() and not (folder / ".venv.lock").exists()
    assert run(HOME=str(tmp_path / "home"), XDG_CACHE_HOME="")[0] == [f"{folder / 'elsewhere'}: -m src"]
    assert run(HOME=str(tmp_path / "home"), XDG_CACHE_HOME=str(tmp_path / "cache"))[0][:2] == ["venv", "pip"]
    told = run(HOME="", XDG_CACHE_HOME="", code=1)[1]
    assert "cannot be written" in told and "Set HOME" in told


@pytest.mark.parametrize("name", ["python3.14", "python3.11", "python3", "python"])
def test_any_name_of_python_is_found(project, tmp_path, name):
    folder, run = project
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("bash", "dirname", "cksum", "cat", "env", "mkdir", "rm", "cp"):
        (tools / tool).symlink_to(shutil.which(tool))
    shutil.copy(folder / "python", tools / name)
    assert run(PYTHON="", PATH=str(tools))[0][:2] == ["venv", "pip"]


def test_a_file_system_without_locks_is_told_and_set_up(project):
    folder, run = project
    (folder / "calls.unlocked").write_text("")
    calls, told = run()
    assert calls[:2] == ["venv", "pip"] and "no locks on" in told
    assert run() == ([f"{folder / 'elsewhere'}: -m src"], "")


@pytest.mark.slow
def test_a_real_set_up_on_the_machine_of_another(tmp_path):
    """A folder with blanks and Chinese signs, no HOME, variables that mislead; a package in place of torch."""
    folder, elsewhere = tmp_path / "my 数据", tmp_path / "elsewhere"
    (folder / "src").mkdir(parents=True)
    elsewhere.mkdir()
    for name in ("torch.py", "src.py", "pip.py", "venv.py"):
        (elsewhere / name).write_text("raise SystemExit('a module of somebody else')")
    shutil.copy(ROOT / "run.sh", folder)
    (folder / "src/__main__.py").write_text("import sys, torch; print(torch.__file__, *sys.argv[1:], sep='\\n')")
    wheel = folder / "torch-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("torch.py", "")
        archive.writestr("torch-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: torch\nVersion: 1\n")
        archive.writestr("torch-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("torch-1.dist-info/RECORD", "")
    (folder / "requirements.txt").write_text(f"torch @ {wheel.as_uri()}\n")
    away = {name: str(elsewhere / "away") for name in ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PYTHONPATH")}
    environment = {"PATH": os.environ["PATH"], "PIP_NO_INDEX": "1", "PIP_USER": "1", "LC_ALL": "C", **away}
    environment |= {"PYTHON": sys.executable, "CDPATH": str(tmp_path), "PYTHONHOME": "/nowhere"}
    command = ["sh", "../my 数据/run.sh", "a b"]
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, encoding="utf-8")
    found, word = done.stdout.splitlines()
    assert done.returncode == 0 and word == "a b", done.stderr
    assert Path(found).is_relative_to(folder / ".venv")
    assert not (elsewhere / "away").exists()


def test_the_tests_run_in_the_projects_folder(project):
    folder, run = project
    assert run("test", "-k", "name")[0][-1] == f"{folder}: -m pytest -k name"


def test_without_python_it_says_what_is_needed(project, tmp_path):
    folder, _ = project
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "dirname", "cksum", "cat", "env"):
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
        self.add("run.sh", '[ "$*" = "test --version" ] || exit 5')

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
    assert calls.index("run.sh test --version") < calls.index("python -m pip install"), ".venv is made first"
    assert "docs/requirements-tracking.txt" in calls and "docs/requirements-serve.txt" in calls
    ci.add("tools/chromium")
    ci.add("tools/redis-server")
    assert ci.run() == ([], "")


def test_ci_installs_into_the_venv_that_run_sh_makes(ci, project):
    folder, _run = project  # the folder of ci, which so has the real run.sh
    shutil.rmtree(ci.folder / ".venv")
    calls = ci.folder / "python_calls"
    calls.with_suffix(".options").touch()
    environment = {**os.environ, "PATH": f"{ci.folder / 'tools'}:{os.environ['PATH']}"}  # tools has a fake apt-get
    environment |= {"PYTHON": str(folder / "python"), "CALLS": str(calls)}
    done = subprocess.run([ci.folder / ".ci/run"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "could not be installed" not in done.stderr
    lines = [line for line in calls.read_text().splitlines() if line != "pip"]
    places = [line.rpartition(" ")[2] for line in lines if line.startswith("-m pip install")]
    assert lines[0] == "venv" and lines[-1].endswith(": -m pytest")
    optional = [f"docs/requirements-{name}.txt" for name in ("tracking", "serve", "privacy")]
    assert places == [str(ci.folder / "requirements.txt"), *optional]


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
