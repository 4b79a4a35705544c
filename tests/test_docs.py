"""README and docs say what is true: commands parse, links and anchors lead somewhere, every verb is described."""

from __future__ import annotations

import re
import shlex
from itertools import chain
from pathlib import Path

import pytest

from src.__main__ import COMMANDS, parse
from src.core.settings_loader import load_config, model_names, preset_names

ROOT = Path(__file__).resolve().parents[1]
READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]
DOCS = sorted(ROOT.glob("docs/*.md"))
PAGES = [*READMES, *DOCS, ROOT / "input/README.md", ROOT / "output/README.md"]
ALL = "\n".join(page.read_text() for page in (ROOT / "README.md", *DOCS))
FENCE = re.compile(r"^```\w*\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def prose(page: Path) -> str:
    """Returns the text of a page without its code blocks."""
    return FENCE.sub("", page.read_text())


def commands(page: Path) -> list[str]:
    """Returns each `./run.sh` command of the code blocks, without comments."""
    lines = chain.from_iterable(block.splitlines() for block in FENCE.findall(page.read_text()))
    return [re.split(r"\s+#", line)[0].strip() for line in lines if line.startswith("./run.sh")]


def table_figures(page: Path) -> list[list[str]]:
    """Returns the numbers of each table row; sorted, since their order in a sentence depends on the language."""
    rows = [line for line in prose(page).splitlines() if line.startswith("|")]
    return [sorted(re.findall(r"\d[\d.,]*", row)) for row in rows]


def anchors(page: Path) -> set[str]:
    """Returns the anchors that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#{1,6} (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", title).lower()).replace(" ", "-") for title in titles}


def links(page: Path) -> list[str]:
    """Returns the targets of relative links and images."""
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)) if "://" not in link]


def contents(page: Path) -> list[str]:
    """Returns the anchors of the table of contents: the links into the page before its first section."""
    head = prose(page).split("\n## ")[0]
    return re.findall(r"\]\(#([^)\s]+)\)", head)


@pytest.mark.parametrize("command", sorted(set(chain.from_iterable(map(commands, PAGES)))))
def test_every_command_parses(command):
    words = shlex.split(command)[1:]
    if words[:1] in (["test"], ["--help"]):
        return
    if "--help" in words:
        assert words[0] in COMMANDS
        return
    _, parsed, overrides = parse(words)
    made = parsed.preset and parsed.preset.startswith("output/")  # by a study
    load_config("quick" if made else parsed.preset or "standard", overrides, parsed.model)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_the_prose_parse(page):
    for command in re.findall(r"`\./run\.sh ([^`]+)`", prose(page)):
        verb, *words = shlex.split(command.replace("…", ""))
        if verb in COMMANDS and words or verb.startswith("-"):
            parse([verb, *words])
        else:
            assert verb in {*COMMANDS, "VERB", "test"}, command


def test_readme_has_the_two_commands():
    assert {"./run.sh", "./run.sh test"} <= set(commands(READMES[0]))


@pytest.mark.parametrize("page", READMES, ids=lambda page: page.name)
def test_readme_is_short(page):
    assert len(page.read_text().splitlines()) <= 160


@pytest.mark.parametrize("page", [READMES[0], *DOCS], ids=lambda page: str(page.relative_to(ROOT)))
def test_prose_is_wrapped(page):
    assert not [line for line in prose(page).splitlines() if len(line) > 120 and not line.startswith("|")]


def test_the_chinese_readme_has_the_same_commands_and_figures():
    english, chinese = READMES
    assert commands(chinese) == commands(english)
    assert table_figures(chinese) == table_figures(english)
    assert links(chinese)[2:] == links(english)[2:]  # after the link to the other language


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if target == ROOT / "docs/architecture.md" and not target.exists():
            continue
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_docs_open_with_a_table_of_contents(page):
    sections = re.findall(r"^## (.+)$", prose(page), re.MULTILINE)
    assert len(contents(page)) == len(set(contents(page))) == len(sections)
    assert set(contents(page)) <= anchors(page)


def test_the_index_names_every_page():
    listed = {link for link in links(ROOT / "docs/README.md") if "#" not in link}
    assert {page.name for page in DOCS} - {"README.md"} <= listed


@pytest.mark.parametrize("verb", [*COMMANDS, "test"])
def test_the_guide_has_a_section_for_every_verb(verb):
    guide = (ROOT / "docs/guide.md").read_text()
    section = re.search(rf"^## {verb}\n(.*?)(?=^## |\Z)", guide, re.DOTALL | re.MULTILINE)
    assert section
    # `pipeline` is what ./run.sh does without a verb.
    assert re.search(rf"^\./run\.sh{'' if verb == 'pipeline' else f' {verb}'}\b", section[1], re.MULTILINE)


@pytest.mark.parametrize("name", [*preset_names(), *model_names()])
def test_presets_and_models_are_named(name):
    assert f"`{name}`" in ALL


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_source_files_that_are_named_exist(page):
    for name in re.findall(r"`((?:src|tests|notebooks)/[\w./-]+)`", page.read_text()):
        assert (ROOT / name).exists(), name
    for word, name in re.findall(r"`(\w+)`\s+in\s+`(src/[\w./-]+)`", page.read_text()):
        assert word in (ROOT / name).read_text(), f"{word} in {name}"
