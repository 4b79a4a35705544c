"""Rounds: which round's labels a train file holds, and what part it has where train files of both rounds are there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from src.core import storage
from src.core.errors import UserError
from src.core.language import _
from src.data.file_kinds import open_bytes
from src.data.input_files import KNOWN, InputFiles
from src.data.line_parser import DELIMITER, TASK_OF_FORM

_HEAD = 1 << 16
"""Bytes of a file that its first line is looked for in."""
_LABELS = re.compile(rb"[\d ,\r]*")
"""Label field of a report; that of a header has words."""
_NAMED = re.compile(r"(?<![a-z])round[-_ ]?([12])(?!\d)")


def with_parts(files: InputFiles, wanted: str) -> InputFiles:
    """Returns the files with the train files of the other round among the extra files, and a sentence about that.

    `wanted`: round1, round2, or auto, by which the test files decide. Train files of one round stay as they are. Raises
    UserError where neither says which round to predict, and for two extra files whose arrays would have one name.
    """
    rounds = {path: round_of(path) for path in files.train} if len(files.train) > 1 else {}
    if len(set(rounds.values()) - {None}) < 2:
        return files
    tests = {path: _named_round(path) for path in files.test} if wanted == "auto" else {}
    named = {path: name for path, name in tests.items() if name}
    if wanted == "auto" and len(set(named.values())) != 1:
        told = ", ".join(f"{path.name} is {name}" for path, name in {**rounds, **named}.items() if name)
        raise UserError(
            _(
                "train files of both rounds are there ({told}), and no name of a test file says which to predict. Say "
                "so: --task round1 or --task round2"
            ).format(told=told)
        )
    task = wanted if wanted != "auto" else next(iter(named.values()))
    others = [path for path, name in rounds.items() if name not in (task, None)]
    told = _(
        "{task} is predicted, by {reason}: folds and scores are of its train files alone. Of the other round, and so "
        "an extra file: {names}"
    ).format(
        task=task,
        reason=", ".join(path.name for path in named) or f"task={wanted}",
        names=", ".join(path.name for path in others),
    )
    extra = sorted([*files.extra, *others])
    _check_stems(extra)
    train = [path for path in files.train if path not in others]
    return replace(files, train=train, extra=extra, told=[*files.told, told])


def round_of(path: Path) -> str | None:
    """Returns the round, by its first line's label field, of a file of reports; None without such a field, which
    reading the file tells."""
    with open_bytes(path) as file:
        fields = file.read(_HEAD).split(b"\n")[0].split(DELIMITER)
    has_labels = len(fields) == 3 and _LABELS.fullmatch(fields[2])
    task = TASK_OF_FORM.get(fields[2].count(b",") + 1) if has_labels else None
    return task and task.name


def _named_round(path: Path) -> str | None:
    """Returns the round in the name of a test file, or in the published name of its content."""
    found = _NAMED.search(KNOWN.get(storage.file_sha256(path), path.name).lower())
    return found and f"round{found[1]}"


def _check_stems(extra: Iterable[Path]) -> None:
    stems: dict[str, Path] = {}
    for path in extra:
        if (other := stems.setdefault(path.stem, path)) != path:
            raise UserError(
                _("{path} and {other} have one name, so their arrays could not be told apart. Rename one.").format(
                    path=path, other=other
                )
            )
