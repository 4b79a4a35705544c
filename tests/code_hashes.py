"""Hash of the code that can change each kind of result, noted beside its version in tests/versions.json.

    python -m tests.code_hashes        # accepts the code as it is now for the versions as they are now

Docstrings, comments, type hints and the texts of messages are left out: rewording them changes no hash.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
from importlib.machinery import PathFinder
from pathlib import Path

from src.core import versions

NOTED = Path(__file__).with_name("versions.json")
MESSAGES = {"UserError", "info", "result", "warn", "add_json", "show_table", "_"}
"""Functions whose arguments are for people alone; so are the texts that a list called `messages` is given."""
IGNORED = {
    "src.core.errors", "src.core.executors", "src.core.language", "src.core.locks", "src.core.run_settings",
    "src.core.setting_types", "src.core.settings", "src.core.settings_loader", "src.core.storage", "src.core.targets",
    "src.core.terminal", "src.core.versions",
    "src.pipeline.online_scores", "src.pipeline.replaced", "src.pipeline.stage", "src.training.tracking",
}  # fmt: skip
"""Modules that store, tell and start: they change no result. Settings are in fingerprints as values."""
ROOTS = {
    "PREPARE": ["src.pipeline.stages.prepare"],
    "FOLDS": ["src.data.splits"],
    "MISSINGNESS": ["src.evaluation.missingness"],
    "SHIFT": ["src.pipeline.stages.shift"],
    "BASELINES": ["src.pipeline.stages.baselines"],
    "VECTORS": ["src.models.embeddings"],
    "PRETRAIN": ["src.training.pretraining"],
    "DENOISE": ["src.training.denoising"],
    "TRAIN": ["src.training.classification", "src.training.prediction"],
    "SCORE": ["src.pipeline.stages.train"],
    "BLEND": ["src.pipeline.stages.blend"],
    "SUBMIT": ["src.pipeline.stages.submit"],
    "LEADERBOARD": ["src.pipeline.stages.leaderboard"],
    "EXPLAIN": ["src.pipeline.stages.explain"],
    "ALARMS": ["src.pipeline.stages.alarms"],
    "DOMAINS": ["src.pipeline.stages.domains"],
    "ADAPT": ["src.training.adaptation"],
    "REPORT": ["src.pipeline.stages.report"],
    "DEVICE": ["src.training.devices"],
}
"""Modules that make each kind of result; what they import from this project counts too, unless IGNORED."""


def code_hash(roots: list[str]) -> str:
    """16 hexadecimal digits that stand for the statements of `roots` and of all modules that they import."""
    digest = hashlib.sha256()
    for name in sorted(imported_modules(roots)):
        digest.update(module_hash(name).encode())
    return digest.hexdigest()[:16]


def imported_modules(roots: list[str]) -> set[str]:
    """`roots`, and the modules of this project that they import, directly or not."""
    waiting, seen = list(roots), set()
    while waiting:
        name = waiting.pop()
        if name not in seen and name not in IGNORED:
            seen.add(name)
            waiting += _imports(name)
    return seen


@functools.cache
def module_hash(name: str) -> str:
    return statements_hash(Path(_spec(name).origin).read_text())


def statements_hash(source: str) -> str:
    """Hash of the statements of a file. ast.unparse writes the same text under every version of Python that is used."""
    return hashlib.sha256(ast.unparse(_Stripped().visit(ast.parse(source))).encode()).hexdigest()[:16]


class _Stripped(ast.NodeTransformer):
    """Takes docstrings, annotations and the arguments of MESSAGES out; imports too, as _imports follows them."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return ast.Pass()
        return self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> ast.AST:
        return ast.Pass()

    visit_ImportFrom = visit_Import

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = getattr(node.func, "id", getattr(node.func, "attr", None))
        is_list_of_messages = getattr(getattr(node.func, "value", None), "id", None) == "messages"
        if name in MESSAGES or is_list_of_messages:
            return ast.Call(node.func, [], [])
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return ast.arg(node.arg)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)


@functools.cache
def _imports(name: str) -> frozenset[str]:
    """Modules of this project that are imported anywhere in the file: at its top, in a function, for types alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(Path(_spec(name).origin).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "src":
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = inner if _spec(node.module).submodule_search_locations else set()
            found |= {one for one in modules if _spec(one)} or {node.module}
    return frozenset(found)


@functools.cache
def _spec(module: str):
    """File of a module. importlib.util.find_spec would import its package, and that of the models imports torch."""
    package = module.rpartition(".")[0]
    return PathFinder.find_spec(module, _spec(package).submodule_search_locations if package else None)


def current() -> dict[str, dict[str, int | str]]:
    return {kind: {"version": getattr(versions, kind), "code": code_hash(roots)} for kind, roots in ROOTS.items()}


if __name__ == "__main__":
    NOTED.write_text(json.dumps(current(), indent=1) + "\n")
    print(f"{NOTED}: {len(ROOTS)} kinds of result noted")
