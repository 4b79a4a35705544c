"""A result never outlives the code that made it: changed code asks for a new version, reworded code does not."""

from __future__ import annotations

import json

import pytest

from src.core import versions
from tests import code_hashes

NOTED = json.loads(code_hashes.NOTED.read_text())


@pytest.mark.parametrize("kind", code_hashes.ROOTS)
def test_changed_code_has_a_new_version(kind):
    now = code_hashes.current()[kind]
    accept = "note the code as it is: .venv/bin/python -m tests.code_hashes"
    assert NOTED[kind]["version"] <= now["version"], f"{kind} in src/core/versions.py was lowered"
    assert now == NOTED[kind], (
        f"the code that makes {kind} changed. If its results change, raise {kind} in src/core/versions.py. "
        f"In both cases {accept}"
    )


def test_every_version_is_watched():
    assert set(code_hashes.ROOTS) == {name for name in vars(versions) if name.isupper()} == set(NOTED)


BEFORE = '''
"""A module."""
def loss(x: int) -> int:
    """Returns twice x."""
    if x < 0:
        raise UserError(f"{x} is negative")
    info("here")
    messages.append(f"{x} is odd")
    return 2 * x
'''


@pytest.mark.parametrize(
    ("old", "new", "is_same"),
    [
        ("Returns twice x", "Doubles x", True),
        ("is negative", "must be 0 or more", True),
        ('info("here")', 'info("there", x)', True),
        ("is odd", "is not even", True),
        ("x: int", "x: float", True),
        ("def loss", "# A reason.\ndef loss", True),
        ("2 * x", "3 * x", False),
        ("x < 0", "x <= 0", False),
    ],
)
def test_what_a_hash_stands_for(old, new, is_same):
    after = BEFORE.replace(old, new)
    assert after != BEFORE
    assert (code_hashes.statements_hash(after) == code_hashes.statements_hash(BEFORE)) == is_same


def test_a_changed_loss_is_noticed(monkeypatch):
    """The hash of training contains the loss function, through the modules that it imports."""
    before = code_hashes.code_hash(code_hashes.ROOTS["TRAIN"])
    original = code_hashes.module_hash
    monkeypatch.setattr(
        code_hashes, "module_hash", lambda name: "other" if name == "src.data.tasks" else original(name)
    )
    assert code_hashes.code_hash(code_hashes.ROOTS["TRAIN"]) != before
    monkeypatch.setattr(
        code_hashes, "module_hash", lambda name: "other" if name == "src.core.terminal" else original(name)
    )
    assert code_hashes.code_hash(code_hashes.ROOTS["TRAIN"]) == before
