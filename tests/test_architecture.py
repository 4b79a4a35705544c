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
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
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


def has_no_encoding(call: ast.Call) -> bool:
    """Returns True for a call that reads or writes text by the locale's encoding."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    owner = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
    words = {keyword.arg for keyword in call.keywords}
    if name in ("read_text", "write_text"):
        return "encoding" not in words and owner not in ("", "storage")
    modes = [value.value for value in call.args if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    is_text = not any("b" in mode for mode in modes)
    return name == "open" and is_text and "encoding" not in words and owner not in NO_FILES


NO_FILES = ("os", "archive", "tarfile", "Bundle", "Image")
"""Owners of an open() that is none of text files."""


def test_text_is_utf8_in_every_locale():
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        for path in sorted(SRC.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and has_no_encoding(node)
    ]
    assert found == []
