"""Imports point one way, down this list; stages never import each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[1] / "src"
LAYERS = [
    {"errors", "versions"},
    {"config", "task"},
    {"loading"},
    {"spaces"},
    {"artifacts", "console", "charts", "page"},
    {"noise", "lines", "metrics", "ngrams"},
    {"blocks", "submissions", "frames", "similarity", "shift", "shift_report", "labelshift", "expected"},
    {"reports"},
    {"variations"},
    {"corpus", "inputs", "sample", "blending", "baselines", "executors", "register"},
    {"folds", "vectors", "batching", "hardware", "attacks", "masking"},
    {"models.layers", "models.recurrent", "models.transformer"},
    {"models.textcnn", "models.dpcnn", "models.rcnn"},
    {"models", "checkpoints", "prepared", "machine", "jobs", "study", "study_report"},
    {"layout", "loop", "models.language", "tracking"},
    {"inference", "runs", "shifted", "denoising"},
    {"training", "pretraining", "prediction", "starts", "pool", "attribution", "trained"},
    {"foldjobs", "evidence", "explaining"},
    {"search"},
    {"sections"},
    {"bench"},
    {"stages"},
    {"verbs"},
    {"__main__"},
]
LEVEL = {name: level for level, layer in enumerate(LAYERS) for name in layer}
FILES = sorted(SRC.rglob("*.py"))
HEAVY = {"torch", "safetensors", "sklearn", "pandas", "scipy", "matplotlib", "iterstrat"}


def module(path: Path) -> str:
    name = ".".join(path.relative_to(SRC).with_suffix("").parts)
    return name.removesuffix(".__init__")


def place(name: str) -> str:
    package = name.split(".")[0]
    return package if package in ("stages", "bench", "sections") else name


def imported(path: Path) -> set[str]:
    """Names of the project's modules that a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "src":
            base = node.module.removeprefix("src").removeprefix(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".removeprefix(".")
                is_module = (SRC / Path(*inner.split("."))).with_suffix(".py").exists() or (SRC / inner).is_dir()
                found.add(inner if is_module else base)
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith("src.") for alias in node.names), f"{path}: write from src import …"
    return found - {""}


GRAPH = {module(path): imported(path) for path in FILES}


@pytest.mark.parametrize("name", sorted(GRAPH))
def test_imports_point_one_way(name):
    if name in ("", "__init__"):
        return
    assert place(name) in LEVEL, f"{name} has no place in LAYERS"
    for other in GRAPH[name]:
        if place(name) == place(other) == "stages":
            assert name in ("stages.pipeline", "stages.status"), f"{name} imports {other}: stages talk through files"
        else:
            assert LEVEL[place(other)] <= LEVEL[place(name)], f"{name} imports {other} from above"
            assert name not in GRAPH[other], f"{name} and {other} import each other"


def test_what_a_cached_pipeline_imports_is_light():
    """The front desk and the stages answer at once where nothing is to be computed: no module that they import at the
    top, directly or not, imports torch, scikit-learn or the like at its own top."""
    stages = {path.stem for path in (SRC / "stages").glob("[!_]*.py")} - {"bench"}
    seen, queue = set(), ["__main__", *(f"stages.{stage}" for stage in stages)]
    while queue:
        name = queue.pop()
        if name in seen:
            continue
        seen.add(name)
        path = SRC / Path(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        for node in ast.parse(path.read_text()).body:  # top level alone: what functions import comes later
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module]
            assert not HEAVY & {other.split(".")[0] for other in names}, f"{name} imports {names} at its top"
            if isinstance(node, ast.ImportFrom) and node.module.startswith("src"):
                base = node.module.removeprefix("src").removeprefix(".")
                inner = [f"{base}.{alias.name}".removeprefix(".") for alias in node.names]
                queue += [n for n in inner if (SRC / Path(*n.split("."))).with_suffix(".py").exists()] or [base]
    assert {"config", "inputs", "errors", "metrics", "shift", "runs"} <= seen


def test_every_source_file_has_its_tests():
    tested = {path.stem for path in Path(__file__).parent.glob("test_*.py")}
    shared = {  # tested as parts of something larger
        "__init__": "test_architecture", "__main__": "test_pipeline", "verbs": "test_pipeline",
        "checkpoints": "test_training", "inference": "test_training", "prepared": "test_pipeline",
        "prediction": "test_pipeline",
        "runs": "test_pipeline", "errors": "test_config", "loading": "test_config",
        "lines": "test_reports", "blocks": "test_reports", "task": "test_metrics",
        "shift_report": "test_shifted", "jobs": "test_training",
        "loop": "test_training", "foldjobs": "test_training", "study_report": "test_tune",
        "search": "test_tune", "charts": "test_report",
        "page": "test_report", "evidence": "test_tune",
    }  # fmt: skip
    for path in SRC.glob("*.py"):
        assert shared.get(path.stem, f"test_{path.stem}") in tested, f"{path.name} has no tests"
