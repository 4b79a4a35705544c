"""Every notebook runs from top to bottom on what the project makes."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from src.__main__ import main
from src.sample import make_sample
from src.task import ROUND1
from tests.conftest import TINY

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def proof(tmp_path_factory) -> dict[str, str]:
    """The two commands of validation.ipynb on sample data; the environment that shows it where to look."""
    folder = tmp_path_factory.mktemp("proof")
    make_sample(folder / "reports", rows=1200, test_rows=1000, task=ROUND1, seed=3)
    made = [*TINY, f"paths.input={folder / 'reports'}", f"paths.output={folder / 'made'}"]
    assert main(["standin", str(folder / "reports/answers_A.csv"), "--to", str(folder / "input"), *made]) == 0
    assert main([*TINY, f"paths.input={folder / 'input'}", f"paths.output={folder / 'output'}", "shift.draws=1"]) == 0
    return {"PROOF_INPUT": str(folder / "input"), "PROOF_OUTPUT": str(folder / "output")}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, proof, monkeypatch):
    for name, value in {**proof, "PYTHONPATH": str(ROOT)}.items():
        monkeypatch.setitem(os.environ, name, value)
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    shown = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.outputs]
    assert len(shown) >= 6
    assert any("image/png" in output.get("data", {}) for cell in shown for output in cell.outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_defines_nothing_and_names_no_machine(path):
    for cell in nbformat.read(path, as_version=4).cells:
        text = cell.source + "".join(str(output) for output in cell.get("outputs", ()))
        assert not any(line.startswith(("def ", "class ")) for line in cell.source.splitlines())
        assert str(ROOT) not in text and "/tmp/" not in text and "/home/" not in text
