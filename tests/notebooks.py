"""Rendered copies of the notebooks for docs/notebooks/: Markdown with the outputs, and the pictures beside it.

    python -m tests.notebooks                            # all but validation: runs them on output/, minutes
    python -m tests.notebooks 01_data                    # one
    PROOF_INPUT=… PROOF_OUTPUT=… python -m tests.notebooks validation      # needs the competition's files

00_quickstart makes output/ where it is missing, from sample data if input/ is empty; the others read it. A notebook
itself is kept without outputs; tests/test_notebooks.py compares the copies with the notebooks.
"""

from __future__ import annotations

import base64
import re
import shutil
import sys
from html import unescape
from pathlib import Path
from xml.sax.saxutils import escape

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
COPIES = ROOT / "docs/notebooks"
OF_THE_COMPETITION = "validation"
"""Notebook that sample data does not suffice for."""
LONG = 25
"""Lines above which printed text is folded."""
INK, FAINT, PAPER = "#1b2430", "#9aa5b1", "#ffffff"
"""Colours in place of those that pictures take from a page."""
WIDTH, LINE, SIGN = 720, 24, 7.4
"""Sizes of drawn text in pixels: of the picture, of a line, of a character."""


def executed(path: Path) -> nbformat.NotebookNode:
    """Returns a notebook with its outputs, run from the project's root."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}, timeout=3600).execute()
    return notebook


class Copy:
    """Copy of a notebook: `text`, Markdown; `pictures`, by name."""

    def __init__(self, name: str, notebook: nbformat.NotebookNode):
        self.name = name
        self.pictures: dict[str, bytes] = {}
        parts = [f"*Rendered copy of [notebooks/{name}.ipynb](../../notebooks/{name}.ipynb).*"]
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                parts.append(cell.source.replace("](../docs/", "](../"))
                continue
            parts.append(f"```python\n{cell.source}\n```")
            printed = "".join(output.text for output in cell.outputs if output.output_type == "stream")
            parts += [self._text(printed)] if printed else []
            parts += [self._shown(output.data) for output in cell.outputs if "data" in output]
        self.text = "\n\n".join(part.strip("\n") for part in parts if part) + "\n"

    def _shown(self, data: dict[str, str]) -> str:
        """Returns the richest form of an output that Markdown can show."""
        if "image/png" in data:
            return self._picture("png", base64.b64decode(data["image/png"]))
        return self._html(data["text/html"]) if "text/html" in data else self._text(data["text/plain"])

    def _text(self, text: str) -> str:
        text = text.replace(f"{ROOT}/", "").rstrip()
        block = f"```text\n{text}\n```"
        lines = text.count("\n") + 1
        return block if lines <= LONG else f"<details><summary>{lines} lines</summary>\n\n{block}\n\n</details>"

    def _html(self, html: str) -> str:
        """Returns HTML of which a page of Markdown keeps all: no styles, pictures in files, English alone."""
        html = re.sub(r"<(style|script)\b.*?</\1>", "", html, flags=re.DOTALL)
        html = re.sub(r'<(span|tspan) lang="zh">.*?</\1>', "", html, flags=re.DOTALL)
        html = re.sub(r'<p class="heat">(.*?)</p>', lambda found: self._heat(found[1]), html, flags=re.DOTALL)
        html = re.sub(r"<svg\b.*?</svg>", lambda found: self._svg(found[0]), html, flags=re.DOTALL)
        html = re.sub(r'<(?!img|a )(\w+)\b[^>]*?( open| href="[^"]*")?>', r"<\1\2>", html)
        html = re.sub(r"</?(div|figure)>", "", re.sub(r"(</?)figcaption>", r"\1p>", html))
        html = re.sub(r"\s*(</?t[dhr]>)\s*", r"\1", html).replace("<tr>", "\n<tr>")  # a row is a line
        lines = [line.strip() for line in html.splitlines()]
        return "\n".join(line for line in lines if line)

    def _heat(self, tokens: str) -> str:
        """Draws a text with coloured tokens, which Markdown cannot show."""
        x, y, drawn = 8.0, LINE, []
        for style, word in re.findall(r'style="([^"]*)">(.*?)</span>', tokens):
            colour, opacity = re.match(r"background: rgb\(([\d ]+) / ([\d.]+)\)", style).groups()
            width = len(unescape(word)) * SIGN + 8
            if x + width > WIDTH:
                x, y = 8.0, y + LINE
            box = f'x="{x:.1f}" y="{y - 15}" width="{width:.1f}" height="20" rx="3"'
            drawn.append(f'<rect {box} fill="rgb({colour.replace(" ", ",")})" fill-opacity="{opacity}"/>')
            line = ' text-decoration="underline"' if "underline" in style else ""
            drawn.append(f'<text x="{x + 4:.1f}" y="{y}"{line}>{word}</text>')
            x += width + 4
        head = f'viewBox="0 0 {WIDTH} {y + 12}" width="{WIDTH}" font-family="monospace" font-size="12" fill="{INK}"'
        return self._svg(f"<svg {head}>{''.join(drawn)}</svg>")

    def _svg(self, svg: str) -> str:
        """Saves a picture of a page as a file of its own, on white paper."""
        points = re.search(r"--points: ([\d.]+)", svg)
        size = f'width="{float(points[1]) * 1.4:.0f}" font-family="sans-serif"' if points else ""
        svg = re.sub(r'style="--points: [\d.]+"', size, svg).replace("currentColor", INK).replace("var(--faint)", FAINT)
        if "xmlns=" not in svg:
            svg = svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
        paper = f'<rect x="-10%" y="-10%" width="120%" height="120%" fill="{PAPER}"/>'
        told = re.search(r'aria-label="([^"]*)"', svg)
        svg = re.sub(r"(<svg[^>]*>)", lambda found: found[1] + paper, svg, count=1)
        return "\n\n" + self._picture("svg", svg.encode(), unescape(told[1]) if told else "tokens") + "\n\n"

    def _picture(self, kind: str, content: bytes, what: str = "picture") -> str:
        name = f"{len(self.pictures) + 1:02}.{kind}"
        self.pictures[name] = content
        return f'<img src="{self.name}/{name}" alt="{escape(what)}">'

    def write(self, folder: Path = COPIES) -> None:
        shutil.rmtree(folder / self.name, ignore_errors=True)
        (folder / self.name if self.pictures else folder).mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.md").write_text(self.text, encoding="utf-8")
        for name, content in self.pictures.items():
            (folder / self.name / name).write_bytes(content)


def main(names: list[str]) -> None:
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        if path.stem in names or (not names and path.stem != OF_THE_COMPETITION):
            Copy(path.stem, executed(path)).write()
            print(COPIES / f"{path.stem}.md")


if __name__ == "__main__":
    main(sys.argv[1:])
