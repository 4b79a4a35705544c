"""README says what is true: its commands are understood, its tree is the tree."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from src.__main__ import VERBS, parse
from src.core.settings_loader import load_config, model_names, preset_names

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = sorted(
    {
        line.split("#")[0].strip().split("   ")[0]
        for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"))
        for block in re.findall(r"```(?:bash|sh|)\n(.*?)```", path.read_text(), re.DOTALL)
        for line in block.splitlines()
        if line.startswith("./run.sh")
    }
)


def test_the_two_commands_are_there():
    assert "./run.sh" in COMMANDS and "./run.sh test" in COMMANDS and len(COMMANDS) > 8


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_understood(command):
    words = shlex.split(command)[1:]
    if words[:1] in (["test"], ["--help"]):
        return
    if "--help" in words:
        assert words[0] in VERBS
        return
    _, parsed, overrides = parse(words)
    made = parsed.preset and parsed.preset.startswith("output/")  # by a study
    load_config("quick" if made else parsed.preset or "standard", overrides, parsed.model)


def test_presets_and_models_are_named():
    for name in [*preset_names(), *model_names()]:
        assert f"`{name}`" in README


def test_readme_names_no_file_that_is_not_there():
    for name in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (ROOT / name).exists(), name
