"""Cases of damage × verb: each kind of artefact, each verb, each kind of damage."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

from tests.chaos import damage
from tests.chaos.campaign import Verdict
from tests.chaos.scenes import Scene
from tests.chaos.verdicts import class_of, others_of, try_damage


def cases(scene: Scene, rng: random.Random) -> list[str]:
    """Every triple `verb | artefact | damage` in random order, with one artefact of each class."""
    classes = defaultdict(list)
    for name in scene.artefacts():
        classes[class_of(name)].append(name)
    found = [
        f"{verb} | {rng.choice(names)} | {kind}"
        for verb in scene.kind.verbs
        for names in classes.values()
        for kind in damage.NAMES
    ]
    rng.shuffle(found)
    return found


def judge(scene: Scene, other: Scene | None, case: str, scratch: Path) -> Verdict:
    """Tries one case. `other`: a scene of other input files, whose artefacts are swapped in."""
    verb, name, kind = case.split(" | ")
    return try_damage(scene, name, verb, kind, others_of(scene, other, name), case, scratch)
