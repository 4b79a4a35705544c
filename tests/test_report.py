"""The report page: whole, self-contained, the same for the same output, and readable in a browser of any width."""

from __future__ import annotations

import csv
import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from src import charts
from src.__main__ import VERBS, main
from src.page import Chart, Code, Section, Table, Text, render
from src.sections.errors import suspicious_labels
from tests.conftest import words

SECTIONS = ["Data", "Shift", "Folds and learning", "Scores", "Blend", "Errors", "How it was made"]
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Checker(html.parser.HTMLParser):
    """Collects ids, links and headings, and fails where elements are not closed in order."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.headings: list[str] = []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given[name] for name in ("href", "src", "xlink:href") if name in given]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] == "h2":
            self.headings.append(text)


def checked(path: Path) -> Checker:
    found = Checker()
    found.feed(path.read_text())
    assert not found.open
    assert len(found.ids) == len(set(found.ids)), "an id is there twice"
    inner = [link for link in found.links if not link.startswith("data:image/png;base64,")]
    assert all(link.startswith("#") and link[1:] in found.ids for link in inner), "nothing is loaded from elsewhere"
    return found


@pytest.fixture(scope="module")
def reported(done, tiny_input, tmp_path_factory) -> Path:
    output = Path(shutil.copytree(done, tmp_path_factory.mktemp("reported") / "output", copy_function=shutil.copy2))
    assert (
        main(["leaderboard", "add", str(output / "submission_sample_testB.csv"), "0.6", *words(tiny_input, output)])
        == 0
    )
    assert main(["report", *words(tiny_input, output)]) == 0
    return output


def test_the_page_has_every_part_and_stands_alone(reported):
    page = (reported / "report.html").read_text()
    found = checked(reported / "report.html")
    assert found.headings == [*SECTIONS[:-1], "Leaderboard", SECTIONS[-1]]
    assert len(page) < 5e6
    assert not re.search(r"https?://(?!www\.w3\.org)", page)
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL).lower().split()
    scores = {path.parent.name: json.loads(path.read_text()) for path in reported.glob("*/*/score.json")}
    for name, score in scores.items():
        assert name in page and f"{score['overall']['score']['value']:.4f}" in page
    ladder = page[page.index("Scores out of fold") :]
    written = re.findall(r"<text[^>]*>([^<]*)</text>", ladder[: ladder.index("</svg>")])
    assert f"{scores['blend']['overall']['score']['value']:.4f}" in [text.strip() for text in written]
    assert set(re.findall(r"\./run\.sh ([a-z]+)", page)) <= VERBS.keys()
    board = json.loads((reported / "runs/blend/leaderboard.json").read_text())["tests"]["sample_testB.csv"]
    assert f"{board['validations']['shifted']['value']:.4f}" in page and "0.6000" in page
    losses = [label["log_loss"]["value"] for label in scores["blend"]["overall"]["labels"].values()]
    assert all(f"{loss:.4f}" in page for loss in losses)


def test_the_same_output_gives_the_same_page(reported, tiny_input):
    before = (reported / "report.html").read_bytes()
    assert main(["report", *words(tiny_input, reported)]) == 0
    assert (reported / "report.html").read_bytes() == before


def test_parts_whose_artefacts_are_missing_are_left_out(tiny_input, tmp_path):
    made = words(tiny_input, tmp_path)
    assert main(["eda", *made]) == 0
    assert checked(tmp_path / "eda.html").headings == ["Data"]
    assert main(["report", *made]) == 0
    assert checked(tmp_path / "report.html").headings == ["Data"]
    assert not (tmp_path / "suspicious.csv").exists()
    assert main(["folds", *made]) == 0
    assert main(["report", *made]) == 0
    assert checked(tmp_path / "report.html").headings == ["Data", "Folds and learning"]


def test_suspicious_labels_are_those_that_were_spoilt():
    rng = np.random.default_rng(0)
    truth = (rng.random((500, 4)) < 0.3).astype(np.uint8)
    probabilities = np.clip(np.where(truth == 1, 0.9, 0.1) + 0.08 * rng.standard_normal(truth.shape), 0.01, 0.99)
    spoilt = {(int(i), int(k)) for i, k in zip(rng.choice(500, 12, replace=False), rng.integers(0, 4, 12), strict=True)}
    labels = truth.copy()
    for cell in spoilt:
        labels[cell] ^= 1
    found = suspicious_labels(labels, probabilities)
    assert set(found) <= spoilt and len(found) >= 8, "those of which the models are surer than of most"
    sureness = [abs(float(labels[cell]) - probabilities[cell]) for cell in found]
    assert sureness == sorted(sureness, reverse=True)
    constant = np.zeros((5, 1), dtype=np.uint8)
    assert suspicious_labels(constant, np.full((5, 1), 0.9)) == []


def test_suspicious_labels_are_exported(reported, tiny_input):
    lines = list(csv.DictReader((reported / "suspicious.csv").open()))
    assert lines and set(lines[0]) == {"report", "label", "said", "probability"}
    assert [abs(float(line["said"]) - float(line["probability"])) for line in lines] == sorted(
        (abs(float(line["said"]) - float(line["probability"])) for line in lines), reverse=True
    )
    ids = {line.split("|,|")[0] for line in (tiny_input / "sample_train.csv").read_text().splitlines()}
    assert {line["report"] for line in lines} <= ids


def test_text_is_escaped_and_empty_sections_are_left_out():
    page = render("<title>", "a & b", [
        Section("One, two", [Text("<b>"), Code("x < y"), Table(["a"], [["<i>"]], "c & d", open=False)]),
        Section("Absent"),
    ])  # fmt: skip
    for raw in ("<b>", "<i>", "x < y", "a & b"):
        assert raw not in page
    assert "&lt;b&gt;" in (cell := Section("One", [Text("<b>"), Code("x < y")])._repr_html_()) and "<h2>" not in cell
    assert "&lt;b&gt;" in page and 'id="one-two"' in page and "Absent" not in page and "<details>" in page


def test_pictures_take_the_colours_of_the_page():
    with charts.picture('What "it" shows', 2.0) as drawn:
        charts.bars(drawn.axes, ["a", "b"], [1, 2])
    with charts.picture("Another", 2.0) as other:
        charts.lines(other.axes, [1, 2], {"x": [1, 2], "y": [2, 1]})
    assert "currentColor" in drawn.svg and charts.INK not in drawn.svg and charts.FAINT not in drawn.svg
    assert 'aria-label="What &quot;it&quot; shows"' in drawn.svg and "<text" in drawn.svg
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (drawn.svg, other.svg)]
    assert ids[0] and not ids[0] & ids[1]
    page = render("t", "s", [Section("Pictures", [Chart(drawn.svg, "c"), Chart(other.svg, "d")])])
    assert drawn.svg in page


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PROBE = """
<script>
const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
const over = [...document.querySelectorAll("p, h1, h2, pre, figure, nav a, summary")].filter(
  e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).length;
const empty = [...document.querySelectorAll("svg")].filter(e => e.getBoundingClientRect().height < 40).length;
const ink = getComputedStyle(document.body).color, paper = getComputedStyle(document.body).backgroundColor;
document.title = JSON.stringify({wide, over, empty, ink, paper});
</script>
"""


@pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed (Debian: apt install chromium): no page is opened"
)
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_a_browser(reported, tmp_path, width, dark):
    page = (reported / "report.html").read_text().replace("</body>", PROBE + "</body>")
    if width < 500:  # headless windows are no narrower than 500: a frame of the width is
        (tmp_path / "inner.html").write_text(page.replace("document.title =", "parent.document.title ="))
        page = f'<iframe src="inner.html" style="width:{width}px;height:800px;border:0"></iframe>'
    (tmp_path / "page.html").write_text(page)
    flags = ["--blink-settings=preferredColorScheme=0"] if dark else ["--blink-settings=preferredColorScheme=1"]
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", *flags,
        f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={max(width, 500)},900", "--virtual-time-budget=5000",
        "--dump-dom", f"file://{tmp_path / 'page.html'}",
    ]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    told = json.loads(re.search(r"<title>(\{.*?\})</title>", shown).group(1).replace("&quot;", '"'))
    assert told["wide"] <= 0 and told["over"] == 0 and told["empty"] == 0
    light = [sum(map(int, re.findall(r"\d+", told[key])[:3])) for key in ("ink", "paper")]
    assert (light[0] > light[1]) == dark
