"""Every notebook runs from top to bottom on what the project makes."""

from __future__ import annotations

import re
import shutil
from itertools import cycle
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from src.__main__ import main
from src.core import charts
from src.core.language import _
from src.data.synthetic import make_sample
from src.data.tasks import ROUND1
from src.reporting.html_page import Chart, Heat, Section, Table, Token
from tests.conftest import TINY, error_of
from tests.notebooks import COPIES, OF_THE_COMPETITION, Copy
from tests.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROOF = ROOT / f"notebooks/{OF_THE_COMPETITION}.ipynb"
QUICKSTART = ROOT / "notebooks/00_quickstart.ipynb"
"""Makes what it reads; the others name the command that does."""


@pytest.fixture(scope="module")
def proof(tmp_path_factory) -> dict[str, str]:
    """The two commands of validation.ipynb on sample data; the environment that shows it where to look."""
    folder = tmp_path_factory.mktemp("proof")
    make_sample(folder / "reports", rows=1200, test_rows=1000, task=ROUND1, seed=3)
    made = [*TINY, f"paths.input={folder / 'reports'}", f"paths.output={folder / 'made'}"]
    assert main(["standin", str(folder / "reports/answers_A.csv"), "--to", str(folder / "input"), *made]) == 0
    assert main([*TINY, f"paths.input={folder / 'input'}", f"paths.output={folder / 'output'}", "shift.draws=1"]) == 0
    return {"PROOF_INPUT": str(folder / "input"), "PROOF_OUTPUT": str(folder / "output")}


@pytest.mark.parametrize(
    ("path", "start"),
    [
        # Its data takes half a minute to make.
        pytest.param(path, start, id=path.stem, marks=[pytest.mark.slow] * (path == PROOF))
        for path, start in zip(NOTEBOOKS, cycle([ROOT, ROOT / "notebooks"]), strict=False)
    ],
)
def test_a_notebook_runs(path, start, request, monkeypatch):
    """On sample data, from the repository's root or from where it lies."""
    if path == PROOF:
        found = request.getfixturevalue("proof")
    else:
        places = {"CT_INPUT": "tiny_input", "CT_OUTPUT": "copy" if path == QUICKSTART else "done"}
        found = {name: str(request.getfixturevalue(folder)) for name, folder in places.items()}
    for name in ("PYTHONPATH", "PYTHONSAFEPATH"):  # run.sh sets them; who starts Jupyter does not
        monkeypatch.delenv(name, raising=False)
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(start)}}
    limits = {"timeout": PATIENCE, "startup_timeout": PATIENCE}
    NotebookClient(notebook, kernel_name="python3", resources=where, **limits).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert len(outputs) >= 5 and not any(output.get("name") == "stderr" for output in outputs)
    shown = "".join(kind + str(content) for output in outputs for kind, content in output.get("data", {}).items())
    assert any(picture in shown for picture in ("image/png", "<svg", 'class="heat"', "<table"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_its_outputs(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert cells and all(cell.outputs == [] and cell.execution_count is None for cell in cells)


@pytest.mark.parametrize("folder", ["", "data"])
def test_a_notebook_tells_which_command_makes_what_it_reads(folder, done, tiny_input, tmp_path, monkeypatch):
    """Folders are empty, or hold reports without runs."""
    if folder:
        shutil.copytree(done / folder, tmp_path / folder)
    monkeypatch.setenv("CT_INPUT", str(tiny_input))
    monkeypatch.setenv("CT_OUTPUT", str(tmp_path))
    monkeypatch.chdir(ROOT)
    for path in NOTEBOOKS:
        if path not in (PROOF, QUICKSTART):
            first = next(cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
            assert "./run.sh" in error_of(exec, first.source, {})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_defines_nothing_and_names_no_machine(path):
    for cell in nbformat.read(path, as_version=4).cells:
        text = cell.source + "".join(str(output) for output in cell.get("outputs", ()))
        assert not any(line.startswith(("def ", "class ")) for line in cell.source.splitlines())
        assert str(ROOT) not in text and "/tmp/" not in text and "/home/" not in text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_rendered_copy_is_of_the_notebook_as_it_is(path):
    """Made by python -m tests.notebooks; outputs are not compared, as they depend on the machine."""
    copy = (COPIES / f"{path.stem}.md").read_text()
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert re.findall(r"```python\n(.*?)\n```", copy, re.DOTALL) == cells
    shown = {COPIES / name for name in re.findall(r'<img src="([^"]+)"', copy)}
    assert shown == set((COPIES / path.stem).glob("*"))
    assert str(ROOT) not in copy and "/tmp/" not in copy and "/home/" not in copy


def test_a_copy_shows_what_markdown_can_show():
    section = Section("", [Table(["run"], [["lstm"]], _("Sections"))])
    with charts.picture(_("Sections")) as chart:
        chart.axes.set_title("t")
    section.parts += [Chart(chart.svg), Heat("words", [Token("12", 0.5, False, ""), Token("7", -1.0, True, "")])]
    outputs = [new_output("stream", text="printed\n"), new_output("display_data", {"text/html": section._repr_html_()})]
    made = Copy("name", new_notebook(cells=[new_markdown_cell("# Title"), new_code_cell("1 + 1", outputs=outputs)]))
    assert "# Title" in made.text and "```python\n1 + 1\n```" in made.text and "```text\nprinted\n```" in made.text
    assert "<th>run</th>" in made.text and "<td>lstm</td>" in made.text and "各节" not in made.text
    assert list(made.pictures) == ["01.svg", "02.svg"] or list(made.pictures) == ["02.svg", "01.svg"]
    for picture in made.pictures.values():
        drawn = ElementTree.fromstring(picture)
        assert drawn.tag == "{http://www.w3.org/2000/svg}svg" and b"var(" not in picture
