"""Imports point down the floors of pyproject.toml, and what answers at once imports nothing slow."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from importlinter.cli import lint_imports

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src"
HEAVY = {"torch", "safetensors", "sklearn", "pandas", "scipy", "matplotlib", "iterstrat"}


def test_imports_point_down(monkeypatch, capsys):
    """The contract is exhaustive: a new package that has no floor breaks it too."""
    monkeypatch.chdir(ROOT)
    assert lint_imports(no_cache=True) == 0, capsys.readouterr().out


def module_files(name: str) -> list[Path]:
    path = SRC / Path(*name.split(".")[1:])
    found = [path / "__init__.py"] if path.is_dir() else []
    return [*found, *(one for one in [path.with_suffix(".py")] if one.exists())]


def imported_at_top(path: Path) -> set[str]:
    """Modules that a file imports when it is imported itself: not those that its functions import later."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {node.module} | {name for name in inner if name.startswith("src.") and module_files(name)}
    return found


def test_what_a_cached_pipeline_imports_is_light():
    """The front desk and the stages answer at once where nothing is to be computed."""
    stages = {f"src.pipeline.stages.{path.stem}" for path in (SRC / "pipeline" / "stages").glob("[!_]*.py")}
    seen, queue = set(), ["src.__main__", *stages]
    while queue:
        name = queue.pop()
        if name in seen or not name.startswith("src."):
            continue
        seen.add(name)
        for path in module_files(name):
            names = imported_at_top(path)
            assert not HEAVY & {other.split(".")[0] for other in names}, f"{name} imports {names} at its top"
            queue += names
    assert {"src.core.settings", "src.data.input_files", "src.evaluation.runs"} <= seen


def test_help_and_the_list_of_verbs_load_nothing_heavy():
    code = f"import sys; from src.__main__ import main; main(['--help']); print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
