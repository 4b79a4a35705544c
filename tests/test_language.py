"""Messages in English and Chinese: the catalogue is whole and current, and each place shows the right language."""

from __future__ import annotations

import ast
import json
import pickle
import string
from pathlib import Path

import pytest

from src.__main__ import main
from src.core import language
from src.core.errors import UserError
from src.core.language import Message, _, attribute, chosen, drawn, html, joined, read_back, shown_in, word
from src.core.terminal import duration
from src.evaluation.stored_sentences import message_of
from tests import catalogue
from tests.conftest import words

SRC = Path(language.__file__).parents[1]
KNOWN = "error: {text}"
"""A text that has a translation."""


def fields(text: str) -> set[str]:
    return {name for _text, name, _form, _conversion in string.Formatter().parse(text) if name is not None}


def test_no_message_lacks_a_translation():
    """A text that is new in the code needs one: python -m tests.catalogue, then fill in src/locale/zh.po."""
    assert catalogue.lacking(catalogue.updated()) == []


def test_the_catalogue_holds_the_messages_of_the_code_and_no_others():
    ours = {message.id for message in catalogue.collected() if message.id}
    assert {message.id for message in catalogue.translated() if message.id} == ours


def test_the_compiled_catalogue_is_current():
    texts = {message.id: message.string for message in catalogue.translated() if message.id}
    with shown_in("zh"):
        assert {text: str(Message(text)) for text in texts} == texts


def test_a_translation_has_the_fields_of_its_message():
    wrong = [one.id for one in catalogue.translated() if one.id and fields(one.id) != fields(one.string)]
    assert wrong == []


def test_messages_are_literals_and_nothing_else_is_called_underscore():
    """The catalogue is collected from the code without running it."""
    for path in sorted(SRC.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source if "_(" in source else "")
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "_"]
        for call in calls:
            assert isinstance(call.args[0], ast.Constant), f"{path}:{call.lineno}: _() takes a literal"
        for scope in (node for node in ast.walk(tree) if isinstance(node, SCOPES)):
            inside = [call for call in ast.walk(scope) if call in calls]
            assert not (inside and "_" in own_names(scope)), f"{path}:{scope.lineno}: _ is a variable here"


COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
SCOPES = (ast.FunctionDef, ast.Lambda, *COMPREHENSIONS)


def own_names(scope: ast.AST) -> set[str]:
    """Variables of a function or comprehension, without those of functions and comprehensions within."""
    names, waiting = set(), list(ast.iter_child_nodes(scope))
    while waiting:
        node = waiting.pop()
        if isinstance(node, SCOPES):
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) or isinstance(node, ast.arg):
            names.add(node.id if isinstance(node, ast.Name) else node.arg)
        waiting += ast.iter_child_nodes(node)
    return names


@pytest.mark.parametrize(
    ("variables", "code"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN"}, "zh"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "en_GB.UTF-8", "LANGUAGE": "zh_CN:en"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LANGUAGE": "en"}, "en"),
    ],
)
def test_the_locale_chooses_the_language(monkeypatch, variables, code):
    for name in language.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert chosen() == code


def test_a_message_is_english_as_a_str_and_shown_in_the_chosen_language():
    message = _("error: {text}")
    assert message == KNOWN and len(message) == len(KNOWN) and hash(message) == hash(KNOWN)
    with shown_in("zh"):
        assert str(message) == f"{message}" == "错误：{text}"
        assert str(UserError(message)) == "错误：{text}"
        assert message == KNOWN
    assert str(message) == KNOWN


def test_composed_messages_are_in_every_language():
    inner = _("Sections").format()
    whole = "<" + joined(", ", [_("error: {text}").format(text=inner), "x"]) + ">"
    assert whole == "<error: Sections, x>"
    again = pickle.loads(pickle.dumps(whole))
    assert whole.in_language("zh") == again.in_language("zh") == "<错误：各节, x>"


def test_only_what_describes_a_task_is_translated_as_a_word():
    """Names of runs and words of commands may be spelt like it."""
    assert _("next: {what}").format(what="./run.sh report").in_language("zh").endswith("./run.sh report")
    told = _("unknown {kind} {name}.{hint} Known: {known}").format(kind="run", name="image", hint="", known="report")
    assert "image" in told.in_language("zh") and told.in_language("zh").endswith("report")
    assert joined(" ", [_("Sections"), "image"]).in_language("zh") == "各节 image" and html("image") == "image"
    assert _("{noun} of your own").format(noun=word("images")).in_language("zh") == "您自己的图像"
    assert word("my run") == "my run" and not isinstance(word("my run"), Message)


def test_a_sentence_of_a_file_is_read_back_as_a_message():
    templates = (_("{method} fitted on {rows}; score cross-fitted over folds"), _("train rows weighted like {test}"))
    found = read_back("mean fitted on train rows weighted like report; score cross-fitted over folds", templates)
    assert found == "mean fitted on train rows weighted like report; score cross-fitted over folds"
    assert found.in_language("zh") == "mean 在权重仿照 report 的训练行上拟合；得分在各折间交叉拟合"
    assert read_back("something else", templates) == "something else"
    told = message_of("round 1: 17 regions; 5,000 train reports, 1,000 + 1,000 test reports, 858 words")
    assert told.in_language("zh") == "第一轮：17 个区域；训练报告 5,000 份，测试报告 1,000 + 1,000 份，858 个词"
    told = message_of("round 1: 17 regions; 5,000 train reports, no test reports, 858 words")
    assert told.in_language("zh") == "第一轮：17 个区域；训练报告 5,000 份，没有测试报告，858 个词"
    assert (
        message_of("round 1; 5 train reports, 1 test stays, 8 words")
        == "round 1; 5 train reports, 1 test stays, 8 words"
    )


def test_what_a_pipeline_stores_in_words_is_known_in_chinese(done):
    scores = [json.loads(path.read_text()) for path in done.glob("*/*/score.json")]
    contributions = json.loads((done / "runs/blend/run.json").read_text())["contributions"]["on"]
    summary = json.loads((done / "data/manifest.json").read_text())["summary"]
    stored = {score["how"] for score in scores} | {contributions, summary}
    assert len(stored) > 3
    for text in stored:
        found = message_of(text)
        assert found == text and isinstance(found, Message) and found.in_language("zh") != text


def test_a_duration_is_in_the_chosen_language():
    assert [duration(seconds) for seconds in (0.44, 12, 80, 7500, 97_200)] == [
        *("0.4 s", "12 s", "1 min 20 s", "2 h 5 min", "1 d 3 h")
    ]
    assert duration(80).in_language("zh") == "1 分 20 秒"


def test_html_holds_both_languages_escaped():
    message = _("error: {text}").format(text="<b>")
    assert html(message) == '<span lang="en">error: &lt;b&gt;</span><span lang="zh">错误：&lt;b&gt;</span>'
    assert html("plain") == "plain" and html(_("no such text".upper())) == "NO SUCH TEXT"
    assert attribute(_("Sections"), "title") == 'title="Sections" data-zh-title="各节"'


def test_a_picture_holds_both_languages():
    from src.core import charts

    with shown_in("zh"), charts.picture(_("Sections")) as chart:
        chart.axes.set_title(_("error: {text}").format(text="a & b"))
    assert '<tspan lang="en">error: a &amp; b</tspan><tspan lang="zh">错误：a &amp; b</tspan></text>' in chart.svg
    assert 'aria-label="Sections" data-zh-aria-label="各节"' in chart.svg


def test_messages_drawn_in_a_picture_are_english():
    with shown_in("zh"), drawn() as messages:
        assert str(_("Sections")) == "Sections"
    assert list(messages) == ["Sections"]


@pytest.mark.parametrize("words", [["--lang", "zh", "statu"], ["statu", "--lang=zh"]])
def test_lang_chooses_the_language_of_a_command(words, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("错误：")
    assert chosen() == "en"


def test_a_language_that_is_not_known_is_refused(capsys):
    assert main(["status", "--lang", "tlh"]) == 2
    assert "invalid choice: 'tlh'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_page_differs_by_language_only_in_what_it_opens_with(copy, tiny_input, capsys):
    """A message that was put into an f-string would be in one language alone."""
    pages = {}
    for code in ("en", "zh"):
        assert main(["report", *words(tiny_input, copy), "--lang", code]) == 0
        pages[code] = (copy / "report.html").read_text()
    assert '<html lang="zh">' in pages["zh"]
    assert pages["zh"].replace('<html lang="zh">', '<html lang="en">') == pages["en"]
