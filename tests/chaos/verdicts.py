"""Verdicts: whether a command on a damaged output gave the right answer, or refused in a way that helps."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

from tests.chaos import damage
from tests.chaos.campaign import Verdict
from tests.chaos.scenes import Answer, Scene, contents, document, is_temporary, outside
from tests.chaos.server import LIMIT, LONG, Outcome

FOLLOWED = 2
"""Times that the commands which errors name are followed."""
OF_LIBRARIES = re.compile(r"torchinductor_.*|\.ses|[a-z0-9_]{8}")
"""Temporary files of torch and onnxruntime, and the one by which Python's tempfile probes a folder."""
USERS_OWN = re.compile(r"submissions\.jsonl|tune/.*|.*\.bundle|prediction_.*|explain_.*\.html|submission_ask.*")
"""Files that nothing but the user can bring back, or only a command of their own: naming them is enough."""
UNREADABLE = ("empty", "zero", "foreign")
"""Damages after which a file is certainly none of its format."""
SHOWING = ("status", "clean")
"""Verbs that show what is there, and so another table where a file is damaged."""
CACHES = re.compile(r"data/folds\..*|predictions/.*")
"""Copies under a name that stands for their contents: further ones change no result."""
PAGES = re.compile(r"report\.html|suspicious\.csv|pages/.*")
"""Pages that show what is there, and notes of what they were made of."""
MAKERS = {
    r"submission_(sample|set).*": ("submit", "pipeline"),
    r"submission_lstm_.*": ("submit lstm",),
    r"report\.html|suspicious\.csv": ("report", "pipeline"),
    r"eda\.html": ("eda",),
    r"shift/shift\.(md|png)": ("shift", "pipeline"),
    r"prediction_blend_.*": ("predict blend input/sample_testA.csv", "predict blend input/set-b.zip"),
}
"""Files for people, and the commands that must not call them up to date when they are damaged."""


def faults(outcome: Outcome, folder: Path, before: set[str], may_leave: bool = False) -> Verdict | None:
    """The verdict on what no command may do, whatever it is given; None where it did nothing of that. `may_leave`: the
    next command sweeps its temporary files."""
    told = outcome.stderr[-3000:]
    if outcome.hung:
        return Verdict("hang", told)
    if outcome.orphans:
        return Verdict("orphan", f"{outcome.orphans} processes")
    if outcome.status not in (0, 2) or "Traceback (most recent call last)" in outcome.stderr:
        return Verdict("traceback", f"exit {outcome.status}\n{told}")
    if others := outside(folder) ^ before:
        return Verdict("outside", " ".join(sorted(others)))
    left = [path.name for path in (folder / "tmp").iterdir() if not OF_LIBRARIES.fullmatch(path.name)]
    left += filter(is_temporary, contents(folder))
    return Verdict("outside", f"temporary files: {left}") if left and not may_leave else None


def try_damage(scene: Scene, name: str, verb: str, kind: str, others: list[Path], seed: str, scratch: Path) -> Verdict:
    """Damages the file `name` of a copy of the scene, runs `verb`, and follows what it says."""
    if f"output/{name}" in verb and kind not in UNREADABLE:
        return Verdict("no damage")  # whoever names a file may name any
    expected, folder = scene.answer(verb, scratch), scene.copy(scratch)
    path = folder / "output" / name
    if not damage.do(path, kind, others, random.Random(seed)):
        return Verdict("no damage")
    damaged, before = contents(folder).get(name), outside(folder)
    outcome = scene.run(f"{verb} --json", folder)
    if found := faults(outcome, folder, before):
        return found
    if outcome.status == 0:
        wrong = _differences(outcome, folder, expected, name, damaged)
        if not wrong or verb in SHOWING or (kind == "remove" and _is_less(outcome, expected, wrong)):
            return Verdict("fine")
        is_whole = not set(wrong) - expected.document.keys() and contents(folder).get(name) == expected.files.get(name)
        # What is missing, or of other settings, may be made anew without a word: then the next answer is right.
        if not _is_told(outcome, name) and kind != "remove" and not is_whole:
            return Verdict("wrong in silence", ", ".join(wrong))
    healed = _follow(scene, verb, outcome, folder, before, expected)
    is_told = _is_told(outcome, name) or kind == "remove"
    if healed.kind == "dead end" and USERS_OWN.fullmatch(name) and is_told:
        return Verdict("refused")
    return healed


def said(outcome: Outcome) -> str:
    """The error, the warnings and the lines on what is left out, of a command that was run with --json."""
    found = json.loads(outcome.stdout)
    left_out = [line for line in found["lines"] if line.startswith("left out")]
    return "\n".join([found.get("error", ""), *found["warnings"], *left_out])


def _is_told(outcome: Outcome, name: str) -> bool:
    """Returns True if the command names the file, or what is left out, which is its folder."""
    told = said(outcome)
    return Path(name).name in told or ("left out" in told and Path(name).parent.name in told)


def _differences(
    outcome: Outcome, folder: Path, expected: Answer, name: str = "", damaged: bytes | None = None
) -> list[str]:
    """Names of files, and keys of the answer, that differ from the undamaged ones. The damaged file itself may be as
    it was damaged, unless the verb makes it."""
    found, answer = contents(folder), document(outcome)
    wrong = [one for one in sorted(found.keys() | expected.files.keys()) if found.get(one) != expected.files.get(one)]
    wrong = [one for one in wrong if not CACHES.match(one) or one in expected.files and one in found]
    makes = any(re.fullmatch(names, name) and expected.verb in verbs for names, verbs in MAKERS.items())
    if name in wrong and not makes and found.get(name) == damaged:
        wrong.remove(name)
    keys = answer.keys() | expected.document.keys()
    return wrong + [key for key in sorted(keys) if answer.get(key) != expected.document.get(key)]


def _is_less(outcome: Outcome, expected: Answer, wrong: list[str]) -> bool:
    """Returns True if the answer and pages only lack something, as where a part was never made."""

    def is_part(found: Any, whole: Any) -> bool:
        if isinstance(found, dict) and isinstance(whole, dict):
            return all(key in whole and is_part(value, whole[key]) for key, value in found.items())
        if isinstance(found, list) and isinstance(whole, list):
            return all(any(is_part(one, other) for other in whole) for one in found)
        return found == whole

    others = set(wrong) - expected.document.keys()
    return all(PAGES.fullmatch(name) for name in others) and is_part(document(outcome), expected.document)


def _follow(scene: Scene, verb: str, outcome: Outcome, folder: Path, before: set[str], expected: Answer) -> Verdict:
    """Does what the last message says, at most FOLLOWED times, and then wants the undamaged bytes."""
    log = []
    for _ in range(FOLLOWED):
        log.append(said(outcome))
        _delete(said(outcome), folder)
        for command in [*named_commands(said(outcome)), verb]:
            log.append(f"$ ./run.sh {command}")
            outcome = scene.run(f"{command} --json", folder, limit=LIMIT if command == verb else LONG)
            if found := faults(outcome, folder, before):
                return Verdict(found.kind, "\n".join([*log, found.told]))
            if outcome.status:
                break
        else:
            # A verb that took another run meanwhile may have made more than it does undamaged.
            if not (wrong := [one for one in _differences(outcome, folder, expected) if one in expected]):
                return Verdict("healed")
            log.append(f"differ: {', '.join(wrong[:8])}")
    return Verdict("dead end", "\n".join([*log, said(outcome)]))


def named_commands(text: str) -> list[str]:
    """The first commands, joined by &&, that a message names behind a colon, without ./run.sh."""
    found = re.findall(r": \./run\.sh ([^\n;()]*?)(?=\.? *(?:$|\n|[;()]|\. |, | or ))", text)
    return [command.strip() for line in found[:1] for command in line.split(" && ./run.sh ")]


def _delete(text: str, folder: Path) -> None:
    """Deletes what a message says to delete: the path after the word, or the one before `Delete it`."""
    for word in re.finditer(r"(?i)\b(?:delete|remove) (?:the (?:file|folder) )?(\S+)", text):
        paths = [word[1]] if word[1] not in ("it", "them") else re.findall(r"output/\S+", text[: word.start()])[-1:]
        for path in (folder / path.strip("'\",.:;()") for path in paths):
            if path.is_dir() and path != folder / "output":
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def others_of(scene: Scene, other: Scene | None, name: str) -> list[Path]:
    """Files that `name` may be mistaken for: of other runs, folds and test files, and of another output."""
    kind = class_of(name)
    names = [one for one in scene.artefacts() if one != name and class_of(one) == kind]
    paths = [scene.folder / "output" / one for one in names]
    if other:
        paths += [other.folder / "output" / one for one in other.artefacts() if class_of(one) == kind]
    return paths


def class_of(name: str) -> str:
    """Kind of artefact: the name without runs, folds, test files and stamps."""
    name = re.sub(
        r"(runs|bundle|explain|prediction|submission|alarms)([/_])(lstm|transformer|gru|linear)", r"\1\2RUN", name
    )
    name = re.sub(r"(fold_|whole/fold_)\d[^/]*", "FOLD", name)
    name = re.sub(r"sample_test[AB]|set-b|set-a|sample_train|answers_[AB]", "FILE", name)
    return re.sub(r"[0-9a-f]{16}|\d+", "N", name)
