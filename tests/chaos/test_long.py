"""Long version of the trials, `./run.sh test -m chaos`; campaign.py says which variables of the environment set it.

The parts run side by side in the two workers of pytest. `python -m tests.chaos.table FOLDER` makes the table of
docs/reliability.md of what they noted.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos import campaign, damages, hostile, mutations
from tests.chaos.campaign import SECONDS, SEED, Verdict, shown
from tests.chaos.kills import Journey
from tests.chaos.scenes import Scene, contents

pytestmark = pytest.mark.chaos
MUTATED, HOSTILE = 100_000, 2100
PACK = 1000
"""Mutated files of a case."""


def check(kept: Path, name: str, cases: list[str], judge: Callable[[str], Verdict], share: float) -> None:
    """`share`: of the time that the campaigns of one worker have."""
    failed = campaign.campaign(kept / f"{name}.jsonl", cases, judge, SECONDS * share)
    assert not failed, shown(failed)


@pytest.mark.parametrize(("kind", "part", "share"), [("reports", 0, 0.5), ("reports", 1, 0.45), ("stays", 0, 0.2)])
def test_damaged_artefacts_are_healed_or_named(server, kept, kind, part, share):
    """Each artefact × each verb × each kind of damage."""
    scene = Scene(kept / kind, kind, server)
    other = Scene(kept / f"other_{kind}", kind, server, seed=8, builds=("pipeline",))
    trial, before = kept / f"trial_damage_{kind}_{part}", contents(scene.folder)
    cases = damages.cases(scene, random.Random(SEED))
    cases = cases[part::2] if kind == "reports" else cases
    try:
        check(kept, f"damage_{kind}_{part}", cases, lambda case: damages.judge(scene, other, case, trial), share)
    finally:
        assert contents(scene.folder) == before, "a command changed a file in place"


@pytest.mark.parametrize(("kind", "share"), [("reports", 0.35), ("stays", 0.15)])
def test_killed_or_short_of_disk_it_ends_in_the_same_bytes(server, kept, kind, share):
    journey = Journey(kept / f"journey_{kind}", kind, server)
    trial = kept / f"trial_kills_{kind}"
    check(kept, f"kills_{kind}", journey.cases(random.Random(SEED)), lambda case: journey.judge(case, trial), share)


def test_mutated_files_are_read_as_they_are_or_refused(kept):
    def judge(case: str) -> Verdict:
        for number in range(int(case) * PACK, (int(case) + 1) * PACK):
            verdict = mutations.judge(mutations.mutate(random.Random(f"{SEED}/{number}")), kept / "reports.csv")
            if verdict.is_bad:
                return verdict
        return Verdict("fine")

    check(kept, "mutated", [str(number) for number in range(MUTATED // PACK)], judge, 0.15)


def test_hostile_settings_names_and_logs_are_refused(server, kept):
    scene = Scene(kept / "reports", "reports", server)
    cases = [f"{kind} {SEED}/{number}" for number in range(HOSTILE // len(hostile.KINDS)) for kind in hostile.KINDS]
    check(kept, "hostile", cases, lambda case: hostile.judge(scene, case, kept / "trial_hostile"), 0.2)
