"""Report page: complete, self-contained, deterministic, and readable in a browser of any width."""

from __future__ import annotations

import contextlib
import csv
import html
import html.parser
import io
import json
import re
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from src.__main__ import COMMANDS, main
from src.core import array_files, charts, storage, versions
from src.core.errors import Damaged
from src.core.language import Message, _
from src.core.settings_loader import load_config
from src.data.tasks import ROUND1, ROUND2, frames, sigmoid
from src.ensemble.submission_log import SubmissionLog
from src.evaluation import study_pictures
from src.evaluation.shift_words import short_names
from src.evaluation.validation_sets import VALIDATIONS
from src.evaluation.workspace import Workspace
from src.pipeline.stage import make
from src.pipeline.stages import report
from src.reporting.html_page import (
    TEMPLATES,
    Alert,
    Chart,
    Code,
    Facts,
    Heat,
    Link,
    Points,
    Section,
    Table,
    Term,
    Text,
    Token,
    render,
)
from src.reporting.sections import Findings, errors, scores, submissions, tuning
from src.reporting.sections.errors import suspicious_labels
from tests.browser import CHROMIUM, Browser
from tests.conftest import error_of, words

SECTIONS = ["Summary", "Scores", "Shift"]
FOLDED = ["Data", "Folds and learning curves", "Blend", "Errors", "Tuning", "Leaderboard", "Pipeline", "Environment"]
ROUND1_OF_FOUR = replace(ROUND1, groups=(replace(ROUND1.groups[0], size=4),))
FRAMES_OF_THREE = frames(3)
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Checker(html.parser.HTMLParser):
    """Parser that collects ids, links and headings, and fails if elements are not closed in order."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.headings: list[str] = []
        self.is_chinese = False

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.is_chinese = given.get("lang") == "zh"
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
        if "h2" in self.open and not self.is_chinese:
            self.headings.append(text)


def checked(path: Path) -> Checker:
    found = Checker()
    found.feed(path.read_text())
    assert not found.open
    assert len(found.ids) == len(set(found.ids)), "an id is there twice"
    links = [link for link in found.links if not link.startswith("data:image/png;base64,")]
    beside = [link for link in links if not link.startswith("#")]
    assert all(link[1:] in found.ids for link in links if link not in beside), "a link leads nowhere"
    assert all((path.parent / link).is_file() for link in beside), "nothing is loaded from elsewhere"
    return found


@pytest.fixture(scope="module")
def reported(done, tiny_input, tiny_input_round2, made_once) -> Path:
    """Output folder with a study and several online scores; its folder round2/ has data of the other task."""
    return made_once("reported", lambda output: report_on(done, tiny_input, tiny_input_round2, output))


@pytest.fixture
def remade(reported, tmp_path) -> Path:
    """Copy of it, for tests that make its page again."""
    return Path(shutil.copytree(reported, tmp_path / "remade", copy_function=shutil.copy2))


def report_on(done: Path, tiny_input: Path, tiny_input_round2: Path, output: Path) -> None:
    shutil.copytree(done, output, copy_function=shutil.copy2, dirs_exist_ok=True)
    made = words(tiny_input, output)
    for run, score in {None: 0.6, "lstm": 0.55, "transformer": 0.62}.items():
        assert run is None or main(["submit", run, *made]) == 0
        file = storage.Output(output).submission("sample_testB.csv", run)
        assert main(["leaderboard", "add", str(file), str(score), *made]) == 0
    assert main(["tune", "blend", "--trials", "6", *made]) == 0
    assert main(["eda", *words(tiny_input_round2, output / "round2")]) == 0
    assert main(["report", *made]) == 0


def test_the_page_has_every_part_and_stands_alone(reported):
    page = (reported / "report.html").read_text()
    found = checked(reported / "report.html")
    assert found.headings == SECTIONS + FOLDED
    assert len(page) < 5e6
    assert not re.search(r"https?://(?!www\.w3\.org)", page)
    scores = {path.parent.name: json.loads(path.read_text()) for path in reported.glob("*/*/score.json")}
    for name, score in scores.items():
        assert name in page and f"{score['overall']['score']['value']:.4f}" in page
    ladder = page[page.index('aria-label="Baselines and your model, out of fold"') :]
    ladder = ladder[: ladder.index("</svg>")]
    assert f"{scores['blend']['overall']['score']['value']:.4f} your model is here" in " ".join(ladder.split())
    assert scores.keys() - {"lstm"} <= set(re.findall(r">\s*(\w+)</text>", ladder))
    assert set(re.findall(r"\./run\.sh ([a-z]+)", page)) <= set(COMMANDS)
    board = json.loads((reported / "runs/blend/leaderboard.json").read_text())["tests"]["sample_testB.csv"]
    assert f"{board['validations']['shifted']['value']:.4f}" in page and "0.6000" in page
    (remedy,) = re.findall(r"others by: (\./run\.sh explain blend --id ID [^<]*)", html.unescape(page))
    assert "--preset sample" in remedy and "paths.output=" in remedy, "it works where the page's commands do"
    losses = [label["log_loss"]["value"] for label in scores["blend"]["overall"]["labels"].values()]
    assert all(f"{loss:.4f}" in page for loss in losses)
    described = re.findall(r'aria-label="([^"]*)"', page)
    for run in ("lstm", "transformer"):
        assert f"Learning curves of {run}" in described
    assert "Parallel coordinates of blend" in described and "shifted against online" in described
    assert json.loads((reported / "pipeline.json").read_text())["command"] in html.unescape(page)


def test_submissions_without_some_validations_are_drawn_by_the_others():
    """As of an import with out-of-fold predictions where the tests are noisier: it has no noisy copies."""

    def submission(score: float, noised: float | None) -> SimpleNamespace:
        values = {name: noised if name in ("noised", "shifted") else score - 0.01 for name in VALIDATIONS}
        judged = {name: {"value": value} for name, value in values.items()}
        return SimpleNamespace(score=lambda board: score, judged={"validations": judged, "expected": {"value": noised}})

    chart = submissions._against("online", [submission(0.7, 0.6), submission(0.8, None), submission(0.9, None)])
    assert len(chart.svg) == len(VALIDATIONS) + 1

    chart = submissions._against("online", [submission(0.7, None), submission(0.8, None)])
    assert len(chart.svg) == len(VALIDATIONS) + 1


def test_what_is_known_of_no_row_has_no_picture_of_its_loss(monkeypatch):
    """Such as the similarity of rows that the model of shift does not have."""
    findings = SimpleNamespace(dataset=SimpleNamespace(task=ROUND1, shape=SimpleNamespace(kind="tokens")), shift=None)
    causes = {"length": np.arange(20.0), "similarity": np.full(20, np.nan)}
    monkeypatch.setattr(errors, "_causes", lambda *_: dict(causes))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (chart,) = errors._against(findings, np.arange(20), np.ones(20))
        assert len(chart.svg) == 1
        del causes["length"]
        assert errors._against(findings, np.arange(20), np.ones(20)) == []


def test_submissions_have_the_local_date(tmp_path, monkeypatch):
    log = SubmissionLog(tmp_path / "submissions.jsonl")
    made = log.made(tmp_path / "a.csv", "0" * 64, test=None, run=None, fingerprint=None, how={})
    made.at = datetime(2021, 3, 1, 20, tzinfo=UTC)
    monkeypatch.setattr(SubmissionLog, "submissions_for", lambda *_: [made])
    dataset = SimpleNamespace(output=SimpleNamespace(submissions=log.path), test_texts={})
    for zone, day in (("Asia/Shanghai", "2021-03-02"), ("America/New_York", "2021-03-01")):
        with monkeypatch.context() as patched:
            patched.setenv("TZ", zone)
            time.tzset()
            (table,) = submissions.section(SimpleNamespace(dataset=dataset)).parts
        time.tzset()
        assert day in table.rows[0]


def test_every_picture_has_a_title_and_names_of_axes(remade, tiny_input, monkeypatch):
    seen, picture = [], charts.picture

    @contextmanager
    def looked_at(what, *arguments, **keywords):
        with picture(what, *arguments, **keywords) as chart:
            yield chart
            shown = [axes for axes in chart.panels if axes.axison]
            seen.append(str(what))
            assert any(axes.get_title(loc="left") for axes in chart.panels), what
            assert all(axes.get_ylabel() for axes in shown), what
            assert any(axes.get_xlabel() for axes in shown) or not shown, what

    monkeypatch.setattr(charts, "picture", looked_at)
    (remade / "report.html").unlink()
    assert main(["report", *words(tiny_input, remade)]) == 0
    assert len(seen) > 20


def test_the_same_output_gives_the_same_page(remade, tiny_input, capsys):
    assert main(["report", *words(tiny_input, remade)]) == 0  # paths are part of what the page is made from
    before = (remade / "report.html").read_bytes()
    capsys.readouterr()
    assert main(["report", *words(tiny_input, remade)]) == 0
    assert "report: up to date" in capsys.readouterr().out
    (remade / "report.html").unlink()
    assert main(["report", *words(tiny_input, remade)]) == 0
    assert "up to date" not in capsys.readouterr().out
    assert (remade / "report.html").read_bytes() == before


def test_a_page_of_other_findings_is_made_anew(copy, tiny_input, capsys):
    made = words(tiny_input, copy)
    (copy / "suspicious.csv").unlink()
    assert main(["report", *made]) == 0
    assert "up to date" not in capsys.readouterr().out and (copy / "suspicious.csv").exists()
    assert main(["leaderboard", "tell", "s2", "0.7", *made]) == 0
    capsys.readouterr()
    assert main(["report", *made]) == 0
    assert "up to date" not in capsys.readouterr().out
    assert "0.7000" in (copy / "report.html").read_text()


def test_all_that_a_page_is_made_from_is_in_its_stamp(remade, tiny_input, monkeypatch):
    config = load_config("sample", [word for word in words(tiny_input, remade) if "=" in word])
    (remade / "report.html").unlink()
    opened = set()
    listening.append(lambda event, given: event == "open" and opened.add(str(given[0])))
    try:
        make(Workspace(config), report.STAGE)
    finally:
        listening.clear()
    read = {Path(name).relative_to(remade) for name in opened if name.startswith(str(remade)) and "." in name}
    read = {path for path in read if path.suffix in (".json", ".csv", ".jsonl", ".yaml") and (remade / path).exists()}
    stamped = {path.relative_to(remade) for pattern in report.READ for path in remade.glob(pattern)}
    stamped |= {Path(f"submission_sample_test{letter}.csv") for letter in "AB"}
    others = {Path("pipeline.json"), Path("data/vocabulary.json"), Path("suspicious.csv")}
    assert len(read) > 20 and read <= stamped | others, read - stamped - others
    before = report.made_from(Workspace(config))
    for path in sorted(stamped):
        text = (remade / path).read_bytes()
        (remade / path).write_bytes(text + b" ")
        with contextlib.suppress(Damaged):  # of the manifest, whose task is read
            assert report.made_from(Workspace(config)) != before, path
        (remade / path).write_bytes(text)
    changed = (
        {"target": "sample_testA"},
        {"select_on": "clean"},
        {"metric": "roc_auc"},
        {"overrides": ["paths.input=x"]},
    )
    for setting in changed:
        assert report.made_from(Workspace(config.model_copy(update=setting))) != before
    monkeypatch.setattr(versions, "MISSINGNESS", 0)
    assert report.made_from(Workspace(config)) != before
    monkeypatch.undo()
    assert report.made_from(Workspace(config)) == before


listening: list[Callable[[str, tuple], object]] = []
sys.addaudithook(lambda event, given: [heard(event, given) for heard in listening])  # hooks cannot be taken off again


def test_parts_whose_artefacts_are_missing_are_left_out(tiny_input, tmp_path):
    made = words(tiny_input, tmp_path)
    assert main(["eda", *made]) == 0
    assert checked(tmp_path / "eda.html").headings == ["Data"]
    assert main(["report", *made]) == 0
    assert checked(tmp_path / "report.html").headings == ["Summary", "Data"]
    assert (tmp_path / "suspicious.csv").read_text() == "report,label,said,probability\n"
    assert main(["folds", *made]) == 0
    assert main(["report", *made]) == 0
    assert checked(tmp_path / "report.html").headings == ["Summary", "Data", "Folds and learning curves"]


def test_a_damaged_shift_is_named_where_the_page_does_without_it(copy, tiny_input, capsys):
    path = copy / "shift/shift.json"
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1))
    findings = Findings.load(
        Workspace(load_config("sample", [word for word in words(tiny_input, copy) if "=" in word]))
    )
    assert findings.shift is None
    assert f"shift is left out: {path} is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["removed", "swapped"])
def test_a_corpus_that_is_not_as_it_was_prepared_is_named(copy, tiny_input, change):
    path = copy / "data/train/labels.npy"
    if change == "removed":
        path.unlink()
    else:
        array_files.write_npy(path, array_files.read_npy(path)[::-1])
    workspace = Workspace(load_config("sample", [word for word in words(tiny_input, copy) if "=" in word]))
    assert str(path) in (told := error_of(lambda: workspace.dataset)) and "./run.sh prepare" in told


def outcomes(rows: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels (rows, 4) that come about as often as their probabilities say, and the logits of these."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-4, 4, (rows, 4))
    return (rng.random(logits.shape) < sigmoid(logits)).astype(np.uint8), logits


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sureness", [0.7, 1.0, 1.5])
def test_labels_that_chance_explains_are_not_suspicious(seed, sureness):
    labels, logits = outcomes(seed=seed)
    assert len(suspicious_labels(ROUND1_OF_FOUR, labels, sureness * logits)) <= 2


def test_labels_that_the_score_does_not_count_are_not_suspicious():
    """Types of normal reports, of which a model that learns them where they count knows nothing."""
    rng = np.random.default_rng(0)
    logits = 8 * rng.standard_normal((3000, 29))
    logits[:, :17] = -14
    logits[:2000, 3] = 14
    labels = (rng.random(logits.shape) < sigmoid(logits)).astype(int)
    labels[2000:] = 0
    logits[2000:, 17:] = 9
    sure = np.argwhere((np.abs(logits) > 12) & (np.arange(3000) < 2000)[:, None])
    for i, k in sure[rng.choice(len(sure), 60, replace=False)]:
        labels[i, k] ^= 1
    found = suspicious_labels(ROUND2, labels, logits)
    assert len(found) > 5 and max(row for row, _, _ in found) < 2000


def test_suspicious_labels_are_those_that_were_spoilt():
    labels, logits = outcomes()
    rng = np.random.default_rng(1)
    sure = np.argwhere(np.abs(logits) > 7)
    spoilt = {(int(i), int(k)) for i, k in sure[rng.choice(len(sure), 40, replace=False)]}
    for cell in spoilt:
        labels[cell] ^= 1
    found = suspicious_labels(ROUND1_OF_FOUR, labels, logits)
    cells = {(i, k) for i, k, _ in found}
    assert len(cells & spoilt) >= 30 and len(cells - spoilt) <= 0.2 * len(cells)
    assert [chance for _, _, chance in found] == sorted(chance for _, _, chance in found)


def test_a_wrong_class_is_suspicious_and_a_right_one_is_not():
    rng = np.random.default_rng(0)
    logits = 5 * rng.standard_normal((3000, 3))
    chances = FRAMES_OF_THREE.decode(logits)
    classes = (rng.random((3000, 1)) > chances.cumsum(axis=1)).sum(axis=1)
    labels = np.eye(3, dtype=np.uint8)[classes]
    assert len(suspicious_labels(FRAMES_OF_THREE, labels, logits)) <= 2
    surest = np.argsort(-chances.max(axis=1))[:10]
    labels[surest] = np.roll(labels[surest], 1, axis=1)
    assert {i for i, _, _ in suspicious_labels(FRAMES_OF_THREE, labels, logits)} >= set(surest.tolist())


def test_suspicious_labels_are_exported(reported, tiny_input, monkeypatch):
    lines = list(csv.DictReader((reported / "suspicious.csv").open()))
    assert len(lines) <= 2, "no label of the sample data is wrong"
    workspace = Workspace(load_config("sample", [word for word in words(tiny_input, reported) if "=" in word]))
    monkeypatch.setattr(errors, "EVIDENCE", -np.inf)
    monkeypatch.setattr(errors, "WRONG", (0.0, 0.1))
    monkeypatch.setattr(errors, "_fitted", lambda *given: (given[-1], np.array([[1.0, 0.0]] * 17)))
    lines = list(csv.DictReader(io.StringIO(errors.suspicious_table(Findings.load(workspace)))))
    assert set(lines[0]) == {"report", "label", "said", "probability"}
    wrong = [abs(float(line["said"]) - float(line["probability"])) for line in lines]
    assert np.all(np.diff(wrong) <= 1e-4), "the most improbable are first"
    ids = {line.split("|,|")[0] for line in (tiny_input / "sample_train.csv").read_text().splitlines()}
    assert {line["report"] for line in lines} <= ids


def test_text_is_escaped_and_what_is_empty_is_left_out():
    texts = [Text("<b>"), Points(["<u>"]), Alert("<s>"), Facts([("<q>", ["<p1>", Code("<p2>")])])]
    page = render("<title>", "a & b", [
        Section("One, two", [*texts, Code("x < y"), Table(["a"], [["<i>"]], "c & d", open=False)]),
        Section("Absent"),
        Section("Bare", [Table(["a", "b"], [])]),
    ])  # fmt: skip
    for raw in ("<b>", "<i>", "<u>", "<s>", "<q>", "<p1>", "<p2>", "x < y", "a & b"):
        assert raw not in page
    assert "&lt;b&gt;" in (cell := Section("One", [Text("<b>"), Code("x < y")])._repr_html_()) and "<h2>" not in cell
    assert "&lt;b&gt;" in page and 'id="one-two"' in page and "<details>" in page
    assert "Absent" not in page and "Bare" not in page


def test_names_of_files_are_no_markup_and_no_formula():
    name = "$\\frac$ <img src=x onerror=alert(1)> & {{x}} 数据"
    with charts.picture(name) as chart, warnings.catch_warnings():
        warnings.simplefilter("error")
        chart.axes.plot([1, 2], label=name)
        chart.axes.legend()
        chart.axes.set_title(name)
    page = render(name, name, [Section("One", [Text(name), Table([name], [[name]], name), Chart(chart.svg, name)])])
    comments = re.compile("<!--.*?-->", re.DOTALL)  # SVG repeats its text in comments
    assert "<img" not in comments.sub("", page) and "&lt;img" in page and "{{x}}" in page and "\\frac" in page


def test_figures_stand_to_the_right_and_words_to_the_left():
    table = Table(["name", "score", "what", "none"], [["3", "0.5 ± 0.1", "1 label", "–"], ["4", "-2", "no", "+1"]])
    assert table.kinds == ["word", "figure", "word", "figure"]
    assert Table(["name", "words"], [["3", "12 (+0.5), 7 (+0.2)"]]).kinds == ["word", "word"]
    assert Table(["name"], [["a name that a phone has to break"]]).kinds == ["long"]


def test_a_column_that_says_the_same_in_every_row_is_said_once():
    table = Table(["name", "score", "preset", "gain"], [["a", "1", "quick", "–"], ["b", "2", "quick", "–"]], "Runs")
    assert table.header == ["name", "score"] and table.body == [["a", "1"], ["b", "2"]]
    assert table.full_caption == "Runs; in every row: preset quick"
    assert Table(["name", "score"], [["a", "1"]]).header == ["name", "score"], "there is nothing to tell apart"
    assert Table(["name", "score"], [["a", "1"], ["b", "1"]]).header == ["name", "score"]


def test_a_long_table_is_folded():
    rows = [[str(i)] for i in range(13)]
    assert Table(["n"], rows[:12]).is_open and not Table(["n"], rows).is_open
    page = render("t", "s", [Section("One", [Table(["n"], rows, "Numbers")])])
    assert "<summary>Numbers (13)</summary>" in page


def test_cells_lead_to_their_explanation():
    table = Table(["report"], [[Link("7", "#explained-7")], ["8"]])
    page = render("t", "s", [Section("One", [table, Heat("Report 7", [], "explained-7")])])
    assert '<a href="#explained-7">7</a>' in page and 'id="explained-7"' in page
    assert "#explained-7" not in Section("One", [table])._repr_html_(), "a notebook has no explanations"


def test_the_note_of_a_token_is_an_attribute_in_both_languages():
    """Markup inside an attribute would end it, and the rest of the tag would be read as text."""
    token = Token("347", -0.1, True, _("{value:+.2f}, probably noise").format(value=-0.14))
    page = render("t", "s", [Section("One", [Heat("Report 7", [token, Token('"', 0.2, False, "+0.20")])])])
    found = re.findall(r"<span (title=[^<>]*)>([^<>]*)</span>", page)
    assert [text for _attributes, text in found] == ["347", "&#34;"]
    assert found[0][0].startswith('title="-0.14, probably noise" data-zh-title="-0.14，可能是噪声" style="')


def test_terms_are_defined_where_they_first_stand(tmp_path):
    terms = [Term("clean", "Definition <1>."), Term("out of fold", "Definition 2."), Term("absent", "Definition 3.")]
    parts = [Text("./run.sh unclean, clean-up, clean=1. Out of fold, clean"), Table(["clean"], [["out of fold"]])]
    page = render("t", "s", [Section("One", parts)], terms)
    buttons = re.findall(r'<button type="button" class="term" popovertarget="([^"]+)">([^<]+)</button>', page)
    assert buttons == [("term-out-of-fold", "Out of fold"), ("term-clean", "clean")]
    assert "unclean, clean-up, clean=1. <button" in page
    assert page.count("popover>") == 2 and "Definition &lt;1&gt;." in page and "Definition 3." not in page


def test_a_term_of_a_translated_text_is_defined_in_both_languages():
    def both(english: str, chinese: str) -> Message:
        made = Message(english)
        made._composed = {"zh": chinese}
        return made

    terms = [Term(both("expected", "预期"), both("Definition", "定义"))]
    page = render("t", "s", [Section("One", [Text(both("The expected score", "分数的预期值"))])], terms)
    assert re.findall(r'popovertarget="term-expected">([^<]+)<', page) == ["expected", "预期"]
    assert page.count("popover>") == 1


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


def test_colours_of_data_can_be_told_from_light_and_dark_paper():
    papers = re.findall(r"--paper: (#\w{6})", TEMPLATES[0].read_text())
    assert len(set(papers)) == 2
    for paper in papers:
        for colour in charts.COLOURS:
            high, low = sorted((_luminance(colour), _luminance(paper)), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 3, f"{colour} on {paper}"


def _luminance(colour: str) -> float:
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(parts <= 0.03928, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_figures_of_logarithmic_axes_are_written_out():
    with charts.picture("Logarithms", 2.0) as drawn:
        charts.lines(drawn.axes, [1, 2000], {"x": [0.02, 0.4]})
        charts.plain_log(drawn.axes.xaxis)
        charts.plain_log(drawn.axes.yaxis, lambda value: 1 - value)
    assert {"1", "10", "100", "1,000", "0.9", "0.95", "0.8"} <= _words(drawn.svg)


def test_a_square_of_figures_leaves_out_what_is_not_known():
    values = np.array([[np.nan, 0.25], [0.5, np.nan]])
    drawn = charts.heat(values, ["a", "b"], "Square", "{:.2f}".format, "letter")
    assert _words(drawn) == {"a", "b", "0.25", "0.50", "Square", "letter"}


def _words(svg: str) -> set[str]:
    """English texts of a picture."""
    svg = re.sub(r'<tspan lang="en">([^<]*)</tspan><tspan lang="zh">[^<]*</tspan>', r"\1", svg)
    return {text.strip() for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)}


PROBE = Path(__file__).with_name("probe.js").read_text()
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed (Debian: apt install chromium): no page is looked at"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    one = Browser(tmp_path_factory.mktemp("profile"))
    yield one
    one.close()


def complaints(browser: Browser) -> list[str]:
    return [*browser.complaints, *browser.evaluate(PROBE)]


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_a_page_is_readable_in_a_browser(browser, reported, width, dark):
    for name in ("report.html", "round2/eda.html"):
        browser.open(reported / name, width, dark)
        assert complaints(browser) == [], browser.picture(reported / "page.png")
        paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(18, 22, 28)" if dark else "rgb(255, 255, 255)")


@needs_browser
def test_a_click_shows_a_definition_and_a_link_unfolds_its_section(browser, reported):
    browser.open(reported / "report.html", 1280)
    assert not browser.evaluate("document.querySelector('.definition').checkVisibility()")
    browser.click(".term")
    assert browser.evaluate("document.querySelector('.definition').checkVisibility()")
    browser.open(reported / "report.html", 1280)
    assert not browser.evaluate("document.querySelector('#errors').checkVisibility()")
    browser.click("nav a[href='#errors']")
    browser.wait_for("document.querySelector('#errors').checkVisibility()")
    folded = "[...document.querySelectorAll('section > details')].filter(one => !one.open).length"
    assert browser.evaluate(folded) == len(FOLDED) - 1


@needs_browser
def test_a_wide_screen_is_used(browser, reported):
    browser.open(reported / "report.html", 1920)
    right = browser.evaluate(
        "Math.max(...[...document.querySelectorAll('svg')].map(e => e.getBoundingClientRect().right))"
    )
    assert right > 1200


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
def test_a_page_is_readable_on_paper(browser, reported, dark):
    browser.open(reported / "report.html", 718, dark, media="print")  # A4 without its margins
    assert complaints(browser) == [], browser.picture(reported / "page.png")
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not browser.evaluate("document.querySelector('nav').checkVisibility()")


@needs_browser
@pytest.mark.parametrize(
    ("spoilt", "complaint"),
    [
        ("", ""),
        ("<style>main { min-width: 2000px }</style>", "the page is 2000 wide in a window of 390"),
        ("<style>.wide { overflow: visible }</style>", "wide in a window of 390"),
        ("<p style='position: relative; left: 300px'>Text</p>", "beyond the edge: <p> Text"),
        ("<style>td { color: #c8c8c8 }</style>", "too faint: <td>"),
        ("<style>figcaption { font-size: 8px }</style>", "too small, 8.0 px: <figcaption>"),
        ("<style>svg { max-width: 200px !important; min-width: 0 !important }</style>", "px: <text>"),
        ("<style>svg { height: 1px }</style>", "a picture of"),
        ("<style>svg text { letter-spacing: 9px }</style>", "cut off: <text>"),
        ("<style>svg text { font-size: 40px !important }</style>", "words collide in"),
        ("<style>figcaption { display: none }</style>", "not shown: <figcaption>"),
        ("<section><h2>Bare</h2></section>", "an empty section: <section> Bare"),
        ("<table><thead><tr><th>a</th></tr></thead></table>", "an empty table"),
        ("<p>nan</p>", "it says nan"),
        ('<svg viewBox="0 0 99 99" aria-label="x"><text y="9">a</text></svg>', "an empty picture: x"),
        ("<script>console.error('oh')</script>", "console: "),
        ("<script>absent()</script>", "absent is not defined"),
        ('<img src="https://example.invalid/x.png">', "asked for https://example.invalid/x.png"),
    ],
)
def test_what_is_wrong_with_a_page_is_found(browser, placed_pictures, tmp_path, spoilt, complaint):
    with charts.picture("Bars", 2.0) as drawn:
        charts.bars(drawn.axes, ["one", "two", "three", "four", "five"], [1, 2, 3, 4, 5])
    table = Table(["name", *"abcdefghijkl"], [["words", *["0.1234"] * 12]], "A wide table")
    sound = render("Title", "subtitle", [Section("Section", [Text("Text."), Chart(drawn.svg, "Bars"), table])])
    page = tmp_path / "page.html"
    page.write_text(sound.replace("</main>", f"{spoilt}</main>"))
    browser.open(page, 390)
    reported = complaints(browser)
    assert any(complaint in line for line in reported) if complaint else reported == []


def trial(number: int, score: float, gain: float, in_use: bool = False, hidden: int = 8) -> dict[str, str]:
    facts = {"trial": number, "state": "complete", "score": score, "in_use": str(in_use).lower(), "gain": gain}
    facts |= {"gain_standard_error": 0.01, "seconds": 1.0, "model.hidden_size": hidden}
    return {name: str(value) for name, value in facts.items()}


@pytest.mark.parametrize(
    ("best", "told"),
    [
        (trial(1, 0.78, -0.02), "keep what you have: no trial scores higher"),
        (trial(1, 0.805, 0.005), "keep what you have: trial 1 gains +0.0050 ± 0.0100"),
        (trial(1, 0.85, 0.05), "study: trial 1 gains +0.0500 ± 0.0100 over the settings in use"),
    ],
)
def test_a_study_is_compared_with_the_settings_in_use(best, told, tmp_path):
    trials = [trial(0, 0.8, 0.0, in_use=True), best, trial(2, 0.7, -0.1, hidden=16)]
    (verdict,) = tuning._verdict("study", trials)
    assert told in verdict.text
    table = tuning._best(trials)
    assert [row[0] for row in table.rows] == ["0 (in use)", "1", "2"] and table.rows[0][2] == "–"
    assert "in use" in _words(tuning._history("study", trials).svg)
    with charts.png(tmp_path / "history.png") as (axes,):
        study_pictures.history(axes, "study", trials)
    assert (tmp_path / "history.png").read_bytes().startswith(b"\x89PNG")


def test_what_was_noted_of_a_run_as_it_was_is_told_and_left_out(copy, tiny_input, capsys):
    noted = copy / "runs/blend/explained.json"
    storage.write_json(noted, {"run": "0123456789abcdef"})
    assert main(["report", *words(tiny_input, copy)]) == 0
    told = capsys.readouterr().err
    assert "explained.json is not of blend as it is now: it counts for nothing. Run: ./run.sh explain" in told


def test_a_changed_submission_is_told_and_left_out(copy, tiny_input, capsys):
    """It was left out without a word. What other runs submitted is not on the page."""
    made, page = words(tiny_input, copy), copy / "pages/report.json"
    assert main(["submit", "lstm", *made]) == main(["report", *made]) == 0
    before, of_run, of_blend = (
        page.read_bytes(),
        *(storage.Output(copy).submission("sample_testB.csv", run) for run in ("lstm", None)),
    )
    of_run.write_bytes(of_run.read_bytes()[:-30])
    capsys.readouterr()
    assert main(["report", *made]) == 0
    assert page.read_bytes() == before and capsys.readouterr().err == ""
    whole = of_blend.read_bytes()
    of_blend.write_bytes(whole[:-30])
    assert main(["report", *made]) == 0
    told = capsys.readouterr().err
    assert f"{of_blend.name} is left out" in told and "./run.sh submit" in told
    assert main(["submit", *made]) == main(["report", *made]) == 0
    assert page.read_bytes() == before and of_blend.read_bytes() == whole


def test_many_test_files_have_their_marks_each():
    """Colours and marks come again; none is left out."""
    names = [f"test_{i:02d}.csv" for i in range(12)]
    rates = {"train": [0.1] * 17, "predicted": [0.2] * 17}
    board = {name: {"label_rates": rates, "expected": {"value": 0.9, "low": 0.8, "high": 0.95}} for name in names}
    run = SimpleNamespace(name="lstm", score={"overall": {"score": {"value": 0.9, "standard_error": 0.01}}})
    findings = SimpleNamespace(
        best=run,
        runs={"lstm": run},
        workspace=SimpleNamespace(task=ROUND1, boards=lambda run: board),
        dataset=SimpleNamespace(test_files=names),
        shift=SimpleNamespace(tests=[SimpleNamespace(name=name) for name in names]),
    )
    (drawn,) = scores._rates(findings)
    (expected,) = scores._expected(findings)
    for name in short_names(names).values():
        assert f"mean prediction on {name}" in drawn.svg and f"expected on {name}" in expected.svg
