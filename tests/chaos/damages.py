"""Cases of damage × verb: each kind of artefact, each verb, each kind of damage."""

from __future__ import annotations

import random
from collections import defaultdict
from itertools import zip_longest
from pathlib import Path

from tests.chaos import damage
from tests.chaos.campaign import Verdict
from tests.chaos.scenes import Scene
from tests.chaos.verdicts import class_of, others_of, try_damage

OPENED_ELSEWHERE = (".safetensors", ".onnx", ".db", ".bundle")
"""Files that libraries open past Python, so that nobody sees which verb reads them."""


def cases(scene: Scene, rng: random.Random, scratch: Path) -> list[str]:
    """Every triple `verb | artefact | damage`, one artefact of each class: in turn one that the verb reads, and one
    that it does not."""
    classes = defaultdict(list)
    for name in scene.artefacts():
        classes[class_of(name)].append(name)
    read, others = [], []
    for verb in scene.kind.verbs:
        opened = {class_of(name) for name in scene.answer(verb, scratch).read}
        for kind, names in classes.items():
            is_read = kind in opened or kind.endswith(OPENED_ELSEWHERE)
            (read if is_read else others).extend(f"{verb} | {rng.choice(names)} | {one}" for one in damage.NAMES)
    rng.shuffle(read)
    rng.shuffle(others)
    return [case for turn in zip_longest(read, others) for case in turn if case]


def judge(scene: Scene, other: Scene | None, case: str, scratch: Path) -> Verdict:
    """Tries one case. `other`: a scene of other input files, whose artefacts are swapped in."""
    verb, name, kind = case.split(" | ")
    return try_damage(scene, name, verb, kind, others_of(scene, other, name), case, scratch)
