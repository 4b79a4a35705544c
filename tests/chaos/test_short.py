"""Short version of the trials: a few of each promise on one small run, in every run of the tests."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos import damages, fuzz, hostile, mutations
from tests.chaos.campaign import Verdict, campaign, shown
from tests.chaos.kills import STEPS, Journey
from tests.chaos.scenes import outside
from tests.chaos.server import LONG, ForkServer, Trial
from tests.chaos.verdicts import faults, named_commands
from tests.waiting import PATIENCE

MUTATED = 1500


@pytest.fixture(scope="module")
def journey(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Journey:
    return Journey(tmp_path_factory.mktemp("journey"), "short", server)


def check(cases: list[str], judge: Callable[[str], Verdict], folder: Path) -> None:
    failed = campaign(folder / "tried.jsonl", cases, judge, seconds=LONG)
    assert not failed, shown(failed)


def test_killed_or_short_of_disk_it_ends_in_the_same_bytes(journey, tmp_path):
    """At write events and under limits, not at moments: what is tried does not depend on how busy the machine is."""
    cases = [case for case in journey.cases(random.Random(1)) if not re.search(r"moment|alone|TERM|INT", case)]
    cases = cases[: len(STEPS["short"]) + 3]
    check(cases, lambda case: journey.judge(case, tmp_path / "trial"), tmp_path)


def test_damaged_artefacts_are_healed_or_named(journey, tmp_path):
    scene = journey.scenes[-1]
    cases = damages.cases(scene, random.Random(1))[:20]
    check(cases, lambda case: damages.judge(scene, None, case, tmp_path / "trial"), tmp_path)


def test_hostile_settings_names_and_logs_are_refused(journey, tmp_path):
    scene, numbers = journey.scenes[-1], {"settings": 12, "name": 2, "log": 2}
    cases = [f"{kind} short/{number}" for kind, count in numbers.items() for number in range(count)]
    check(cases, lambda case: hostile.judge(scene, case, tmp_path / "trial"), tmp_path)


def test_mutated_files_are_read_as_they_are_or_refused(tmp_path):
    data = [mutations.mutate(random.Random(number)) for number in range(MUTATED)]
    verdicts = [mutations.judge(one, tmp_path / "reports.csv") for one in data]
    bad = [verdict.told for verdict in verdicts if verdict.is_bad]
    assert not bad, "\n".join(bad[:10])
    assert {verdict.kind for verdict in verdicts} == {"fine", "refused"}


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_fuzzed_bytes_are_refused_by_every_reader(target, tmp_path):
    for data in fuzz.SEEDS[target]:
        fuzz.TARGETS[target](data, tmp_path)


def fail(arguments: list[str]) -> int:
    raise ValueError


def write_elsewhere(arguments: list[str]) -> int:
    Path("elsewhere").touch()
    return 0


def leave_a_temporary_file(arguments: list[str]) -> int:
    Path("tmp/pymp-1").mkdir()
    return 0


def leave_a_child(arguments: list[str]) -> int:
    if not os.fork():
        time.sleep(LONG)
    return 0


def never_end(arguments: list[str]) -> int:
    while True:
        pass


def do_nothing(arguments: list[str]) -> int:
    return 0


@pytest.mark.parametrize(
    ("function", "verdict"),
    [
        (fail, "traceback"), (write_elsewhere, "outside"), (leave_a_temporary_file, "outside"),
        (leave_a_child, "orphan"), (never_end, "hang"), (do_nothing, None),
    ],
)  # fmt: skip
def test_what_no_command_may_do_is_seen(server, tmp_path, function, verdict):
    (tmp_path / "output").mkdir()
    before = outside(tmp_path)
    limit = 0.5 if verdict == "hang" else PATIENCE  # on a busy machine anything else may take its time
    outcome = server.run(
        Trial([], str(tmp_path), function=f"{__name__}:{function.__name__}", limit=limit, patience=0.5)
    )
    found = faults(outcome, tmp_path, before)
    assert (found.kind if found else None) == verdict


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("Make it with: ./run.sh train --model lstm 'folds.seeds=[1]'", "train --model lstm 'folds.seeds=[1]'"),
        ("as ./run.sh shift wrote it. Run: ./run.sh shift paths.output=out.put. Or wait", "shift paths.output=out.put"),
        ("Run: ./run.sh train a=1 && ./run.sh blend", "train a=1 && blend"),
        ("Train it again: ./run.sh train a=1. Or blend what is there, by name: ./run.sh blend", "train a=1"),
        ("nothing to run", ""),
    ],
)  # fmt: skip
def test_the_command_that_a_message_names_is_found(text, command):
    assert " && ".join(named_commands(text)) == command
