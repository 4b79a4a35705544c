"""Bundle: one file with everything that predictions of a run need, and nothing that is executed.

    path = write_bundle(workspace, workspace.run("blend"), Path("output/blend.bundle"))
    bundle = Bundle.open(path)
    print(bundle.card)

A bundle is a zip archive whose members lie as in an output folder. Members are stored, in the order of their names and
with one fixed date, so that the same run gives the same bytes:

bundle.json             what it predicts, its scores, what it was made of, size and sha256 of every other member
MODEL_CARD.md           the same for people
runs/NAME/…             of each run: run.json, score.json, config.yaml, vocabulary.json, and of each trained fold
                        result.json with its weights, .safetensors or .onnx
pretrained/…            encoders that denoise reports, where a run has one
reference.safetensors   statistics of the training rows, to notice drift: rates, means, hashes of n-grams; no row

The archive's comment is the sha256 of all bytes before it: damage is found before anything is read. A checksum is no
signature: who can write a file can write a whole bundle.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import shlex
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from src.core import storage
from src.core.errors import UserError
from src.core.run_settings import Run
from src.core.settings import Data, Grid
from src.core.targets import check_file
from src.core.terminal import warn
from src.data.corpus import N_SPECIAL
from src.data.file_kinds import open_bytes
from src.data.inputs import InputShape
from src.data.line_parser import LARGEST_TOKEN
from src.data.stay_files import BROKEN
from src.data.tasks import Task, get_task
from src.ensemble.blending import BlendWeights
from src.evaluation.runs import RunFolder
from src.evaluation.workspace import Workspace
from src.serving.model_card import model_card

FORMAT, STACKED_FORMAT = 2, 3
"""Formats of bundles. Where runs are stacked on a blend, or remember labels, it is the second: programs that know no
stack would predict without it, and refuse it."""
RECORD, CARD, REFERENCE = "bundle.json", "MODEL_CARD.md", "reference.safetensors"
KINDS = (".json", ".yaml", ".safetensors", ".onnx", ".md")
"""Kinds of members: data alone, no code and no pickle."""
FOLDERS = ("runs", "pretrained")
DATE = (1980, 1, 1, 0, 0, 0)
"""Date of every member: a date of today would make other bytes of the same run."""
PRECISIONS = ("fp32", "bf16")
SEAL = 64
"""Hexadecimal digits of the checksum behind the archive."""
LARGEST_RECORD = 16 << 20
"""Bytes of bundle.json, which is read whole."""
LONGEST_NAME = 240
"""Bytes of a member's name; file systems take 255 a folder or file."""
MOST_MEMBERS = 10_000
UNSOUND = (*BROKEN, ArithmeticError, RecursionError, TypeError, AttributeError, MemoryError)
"""Errors at content that no bundle of ours has."""
PIECE = 1 << 20
"""Bytes copied at a time."""


class MemberFile(BaseModel):
    """Size and checksum of a member."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class MadeFrom(BaseModel):
    """The run that a bundle was made of."""

    run: str
    fingerprint: str


class Record(BaseModel):
    """Fields of bundle.json that reading rests on; the others are for people."""

    format: int
    name: str = Field(min_length=1)
    kind: Literal["model", "blend"]
    task: str
    labels: list[str]
    inputs: dict[str, Any]
    data: dict[str, Any]
    made_from: MadeFrom
    members: dict[str, MemberFile]
    prior: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    """Mean train labels, one a label."""


@dataclass(frozen=True)
class Bundle:
    """A bundle that was opened and checked."""

    path: Path
    record: dict[str, Any]
    """Content of bundle.json."""
    version: str
    """First 12 hexadecimal digits of the content's sha256."""
    card: str
    """Text of the model card."""

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Opens and checks a bundle. Raises UserError for a file that is damaged, of another format or no bundle."""
        seal = _check_seal(path)
        try:
            with zipfile.ZipFile(path) as archive:
                record = _checked_record(path, archive)
                _check_runs(path, archive, record)
                card = archive.read(CARD).decode()
        except UNSOUND as error:
            raise refused(path, _sentence(error)) from error
        return cls(path, record, seal[:12], card)

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.record["name"]

    @property
    def task(self) -> Task:
        return get_task(self.record["task"])

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.record["labels"])

    def has(self, kind: str) -> bool:
        """Returns True if a trained fold has weights of this kind, .safetensors or .onnx."""
        return any(name.startswith("runs/") and name.endswith(kind) for name in self.record["members"])

    def unpack(self, folder: Path, copy: IO[bytes] | None = None) -> Path:
        """Writes the members to `folder`, where they lie as in an output folder; returns it. `copy`: the file to
        read instead of `path`. Raises UserError for a file that was changed since it was opened, and where it cannot be
        read or its members not be written."""
        try:
            with zipfile.ZipFile(copy or self.path) as archive:
                for name, member in self.record["members"].items():
                    target = folder / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(name) as source, target.open("wb") as file:
                        if _copied(source, file) != member["sha256"]:
                            raise refused(self.path, f"{name} differs from its checksum")
                    if name.endswith(".safetensors"):
                        _check_tensors(self.path, name, target)
        except (zipfile.BadZipFile, LookupError, EOFError, struct.error) as error:
            raise refused(self.path, "it was changed since it was opened") from error
        except OSError as error:
            raise UserError(f"{self.path} cannot be unpacked: {error.strerror or error}") from error
        return folder


def write_bundle(workspace: Workspace, run: RunFolder, to: Path) -> Path:
    """Writes the bundle of a finished run. Raises UserError, with the command, for a run that is not current."""
    from src.serving.drift import reference_of  # its estimates stand on scikit-learn, and opening a bundle does without

    workspace.check_fits([run], noisy_copies=False)
    with tempfile.TemporaryDirectory(prefix="bundle-") as folder:
        reference = Path(folder) / REFERENCE
        reference_of(workspace).save(reference)
        return pack(workspace.output.root, run, to, about(workspace, run), {REFERENCE: reference})


def about(workspace: Workspace, run: RunFolder) -> dict[str, Any]:
    """Returns what bundle.json has of a run beyond what prediction needs: scores, what it was made of, environment."""
    score, boards, model = run.score, workspace.boards(run), run.models()[0]
    if workspace.dataset.test_files and not boards:
        remedy = " && ./run.sh ".join([workspace.command("leaderboard"), workspace.command("bundle", run.name)])
        warn(
            f"{run.path / 'leaderboard.json'}: none of {run.name}, so the bundle has no expected scores. "
            f"Make both with: ./run.sh {remedy}"
        )
    files = workspace.dataset.manifest["files"]
    return {
        "scores": {
            "figure": run.task.score_name,
            "out_of_fold": {**figure_of(score), **{key: score[key] for key in ("rows", "how", "optimistic")}},
            "expected": {name: board["expected"] for name, board in boards.items()},
        },
        "made_from": {
            "run": run.name,
            "fingerprint": score["fingerprint"],
            **{key: run.record[key] for key in ("train", "tests", "folds", "shift", "preset", "overrides")},
            "files": [{key: file[key] for key in ("role", "rows", "sha256")} for file in files],
        },
        "prior": workspace.prior.tolist(),
        "environment": storage.read_json(model.path / model.record["fold_folders"][0] / "result.json")["environment"],
    }


def figure_of(score: Mapping[str, Any]) -> dict[str, float | None]:
    """Value and standard error of the official figure of a score.json."""
    return {key: score["overall"]["score"][key] for key in ("value", "standard_error")}


def pack(
    root: Path, run: RunFolder, to: Path, about: Mapping[str, Any], more: Mapping[str, Path] | None = None
) -> Path:
    """Writes the bundle of the run in the output folder `root`, with the fields `about` in its bundle.json and `more`
    members {name: file}. Weights are those files of each fold that are there: .safetensors, .onnx or both.

    Raises UserError, with the command, for a run with missing parts or whose models read rows differently.
    """
    run.check_members()
    models = run.models()
    _check_alike(run, models)
    files = {**_collect(root, run, models), **(more or {})}
    task = run.task
    weights = {one.name: one.record["weights"] for one in (run, *_blends(run)) if one.is_blend}
    remembering = [model.name for model in models if model.settings.remembers]
    record = {
        "format": STACKED_FORMAT if remembering or any("stack" in one for one in weights.values()) else FORMAT,
        "name": run.name,
        "kind": run.record["kind"],
        "task": task.name,
        "title": task.title,
        "noun": task.noun,
        "predicted": task.predicted,
        "unit": task.unit,
        "labels": task.label_names,
        "inputs": models[0].record["inputs"],
        "data": models[0].record["data"],
        "expects": expected_input(task, models[0].record["data"]),
        "models": {model.name: len(model.record["fold_folders"]) for model in models},
        "blend": weights,
        **({"remembering": remembering} if remembering else {}),
        **about,
    }
    record["members"] = {
        name: {"sha256": storage.file_sha256(path), "bytes": path.stat().st_size} for name, path in files.items()
    }
    card = model_card(record).encode()
    record["members"][CARD] = {"sha256": hashlib.sha256(card).hexdigest(), "bytes": len(card)}
    record["members"] = dict(sorted(record["members"].items()))
    text = json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False).encode() + b"\n"
    storage.write_atomic(to, lambda file: _write(file, {**files, CARD: card, RECORD: text}), Bundle.open)
    return to


def expected_input(task: Task, data: Mapping[str, Any]) -> str:
    """Says in words what a row is, as a bundle's models read it."""
    if task.input_kind == "reports":
        return (
            f"Reports of token ids from 0 to 65535, one a line: id|,|token token …; of a longer report the "
            f"{data['keep']} of {data['max_len']} tokens is read, and a token that was in no training file as unknown."
        )
    if task.input_kind == "images":
        return "Images of one size in a .npz file, read row by row."
    return (
        "Stays in intensive care: a folder, zip or tar of RecordID.txt files with lines Time,Parameter,Value of the "
        f"first 48 hours, read in steps of {data['step']:g} h."
    )


def _collect(root: Path, run: RunFolder, models: list[RunFolder]) -> dict[str, Path]:
    """Files that prediction needs, by their place in the output folder."""
    files: dict[str, Path] = {}

    def add(path: Path, remedy: str = run.remedy) -> None:
        files[path.relative_to(root).as_posix()] = storage.require(path, remedy)

    def add_weights(folder: Path, remedy: str) -> dict[str, Any]:
        """Adds the weights of a trained fold or encoder, in each format that is there, and returns its result.json."""
        add(folder / "result.json", remedy)
        result = storage.read_json(folder / "result.json", remedy)
        graphs = sorted(folder.glob("*.onnx"))
        weights = folder / f"{result.get('weights', 'last')}.safetensors"
        for file in [*graphs, *([weights] if weights.exists() or not graphs else [])]:
            add(file, remedy)
            check_file(file, result, remedy)
        return result

    for one in (run, *_blends(run), *models):
        for name in ("run.json", "score.json", "config.yaml"):
            add(one.path / name)
    for model in models:
        if model.task.input_kind == "reports":
            add(model.path / "vocabulary.json", model.remedy)
        for fold in (model.path / part for part in model.record["fold_folders"]):
            result = add_weights(fold, model.remedy)
            if denoiser := result.get("denoiser"):
                add_weights(root / denoiser, model.remedy)
    return files


def _blends(run: RunFolder) -> list[RunFolder]:
    """Blends among the members of a run, through blends of blends."""
    if not run.is_blend:
        return []
    inner = [member for member in run.members() if member.is_blend]
    return [*inner, *(other for member in inner for other in _blends(member))]


def _check_alike(run: RunFolder, models: list[RunFolder]) -> None:
    """Raises UserError for models that read rows differently: a service encodes a row once for all of them."""
    for model in models:
        for key in ("inputs", "data"):
            if model.record[key] != models[0].record[key]:
                raise UserError(
                    f"{models[0].name} and {model.name} read {run.task.noun} differently ({key} in their run.json), "
                    f"and a bundle has one encoding. Train one of them again, then run: ./run.sh {run.remedy}"
                )
        paths = [one.path / "vocabulary.json" for one in (models[0], model)]
        if paths[0].exists() and paths[0].read_bytes() != paths[1].read_bytes():
            raise UserError(
                f"{models[0].name} and {model.name} number words differently (vocabulary.json), and a bundle has one "
                f"encoding. Train one of them again, then run: ./run.sh {run.remedy}"
            )


def _write(file: IO[bytes], members: Mapping[str, Path | bytes]) -> None:
    """Writes the archive and its seal."""
    with tempfile.TemporaryFile() as whole:  # zipfile goes back to what it wrote, and the seal is of what stays
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED) as archive:
            for name, content in sorted(members.items()):
                info = zipfile.ZipInfo(name, DATE)
                info.create_system, info.external_attr = 3, 0o100644 << 16
                source = io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")
                with source, archive.open(info, "w", force_zip64=False) as target:
                    shutil.copyfileobj(source, target, PIECE)
            archive.comment = b"0" * SEAL
        size = whole.tell() - SEAL
        whole.seek(0)
        digest = hashlib.sha256()
        while size:
            piece = whole.read(min(size, PIECE))
            digest.update(piece)
            file.write(piece)
            size -= len(piece)
        file.write(digest.hexdigest().encode())


def _check_seal(path: Path) -> str:
    """Returns the sha256 of a bundle's content. Raises UserError where the file says another one."""
    if not path.exists():
        raise UserError(
            f"there is no file {path}. Make a bundle with: ./run.sh bundle RUN --to {shlex.quote(str(path))}"
        )
    try:
        with open_bytes(path) as file:
            size = file.seek(0, 2)
            if size <= SEAL:
                raise refused(path, "it is too short to be one")
            file.seek(size - SEAL)
            noted = file.read(SEAL)
            file.seek(0)
            if file.read(4) != b"PK\3\4":
                raise refused(path, "it does not begin like one. Make one with: ./run.sh bundle RUN")
            file.seek(0)
            seal = _hash_of(file, size - SEAL)
    except OSError as error:  # of a file of /proc, or of a broken disk
        raise refused(path, f"it cannot be read: {error.strerror}") from error
    if noted != seal.encode():
        raise refused(path, "its content and its checksum differ: it is damaged or cut off. Copy or make it again")
    return seal


def _hash_of(file: IO[bytes], size: int) -> str:
    digest = hashlib.sha256()
    while size:
        piece = file.read(min(size, PIECE))
        if not piece:
            break
        digest.update(piece)
        size -= len(piece)
    return digest.hexdigest()


def _copied(source: IO[bytes], target: IO[bytes]) -> str:
    """Copies a file; returns its sha256."""
    digest = hashlib.sha256()
    while piece := source.read(PIECE):
        digest.update(piece)
        target.write(piece)
    return digest.hexdigest()


def _checked_record(path: Path, archive: zipfile.ZipFile) -> dict[str, Any]:
    """Reads bundle.json. Raises UserError for another format, and unless the members are those that it names."""
    entries = archive.infolist()
    if RECORD not in (names := [entry.filename for entry in entries]):
        raise refused(path, f"it has no {RECORD}. Make one with: ./run.sh bundle RUN")
    if archive.getinfo(RECORD).file_size > LARGEST_RECORD:
        raise refused(path, f"its {RECORD} has more than {LARGEST_RECORD:,} bytes")
    _check_entries(path, entries)
    for entry in entries:
        archive.open(entry).close()  # raises where a member does not begin where the archive says, or overlaps another
    record = _json(archive, RECORD)
    if not isinstance(record, dict) or not isinstance(record.get("format"), int):
        raise refused(path, f"its {RECORD} names no format")
    if record["format"] not in (FORMAT, STACKED_FORMAT):
        raise UserError(
            f"{path} is a bundle of format {record['format']}, and this version reads formats {FORMAT} and "
            f"{STACKED_FORMAT}. Make the bundle again with this version: ./run.sh bundle RUN. Or predict with the "
            "version that made it."
        )
    try:
        checked = Record.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        raise refused(path, f"{'.'.join(map(str, first['loc']))} in {RECORD}: {first['msg']}") from None
    if CARD not in checked.members:
        raise refused(path, f"it lacks {CARD}")
    if sorted({*checked.members, RECORD}) != sorted(names):
        differing = sorted({*checked.members, RECORD} ^ set(names))
        raise refused(path, f"{RECORD} and the archive differ in their members: {_shown(differing[0])}")
    for entry in entries:
        if entry.filename != RECORD and entry.file_size != checked.members[entry.filename].bytes:
            raise refused(path, f"{entry.filename} has another size than {RECORD} says")
    try:
        task = get_task(checked.task)
    except UserError as error:
        raise refused(path, _shown(str(error))) from None
    if checked.labels != task.label_names:
        raise refused(path, f"its labels are not those of the task {task.name}")
    if len(checked.prior) != task.n_labels:
        raise refused(path, f"its prior is no rate of each of the {task.n_labels} labels")
    (Data if task.input_kind == "reports" else Grid).model_validate(checked.data)
    return record


def _check_entries(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Raises UserError for members of another kind or place, or that would take more room than the file has."""
    names = [entry.filename for entry in entries]
    if len(names) > MOST_MEMBERS:
        raise refused(path, f"it has more than {MOST_MEMBERS:,} members")
    if any(len(name) > LONGEST_NAME for name in names):
        raise refused(path, f"a member's name has more than {LONGEST_NAME} characters")
    if len(set(names)) < len(names):
        raise refused(path, "two members have one name")
    folders = {parent.as_posix() for name in names for parent in PurePosixPath(name).parents}
    for entry in entries:
        name, parts = entry.filename, entry.filename.split("/")
        if not name.endswith(KINDS):
            raise refused(path, f"the member {_shown(name)} is none of {', '.join(KINDS)}")
        if (
            any(part in ("", ".", "..") for part in parts)
            or len(name.encode(errors="replace")) > LONGEST_NAME
            or not name.isprintable()
            or "\\" in name
            or ":" in name
            or len(parts) > 1
            and parts[0] not in FOLDERS
            or name in folders
        ):
            raise refused(path, f"the member {_shown(name)} lies where no member of a bundle lies")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.file_size != entry.compress_size:
            raise refused(path, f"the member {_shown(name)} is compressed or encrypted, and members are stored")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise refused(path, "its members together are larger than the file")


def _check_runs(path: Path, archive: zipfile.ZipFile, record: Mapping[str, Any]) -> None:
    """Raises UserError unless every part that a run names is a member, and its settings can be read."""
    members = record["members"]
    waiting, seen = [(record["name"], frozenset[str]())], set()
    inner: dict[str, list[str]] = {}
    """Members of each blend."""

    def part(name: str) -> Any:
        if name not in members:
            raise refused(path, f"it lacks {_shown(name)}")
        return _json(archive, name)

    while waiting:
        name, above = waiting.pop()
        if name in above:
            raise refused(path, f"the blend {_shown(name)} is a member of itself")
        if name in seen:
            continue
        seen.add(name)
        run = part(f"runs/{name}/run.json")
        score = part(f"runs/{name}/score.json")
        if not isinstance(score, dict) or not isinstance(score.get("fingerprint"), str):
            raise refused(path, f"the score of run {_shown(name)} names no fingerprint")
        if not isinstance(run["preset"], str) or any(not isinstance(word, str) for word in run["overrides"]):
            raise refused(path, f"run {_shown(name)} names no command that made it")
        if run["task"] != record["task"]:
            raise refused(path, f"run {_shown(name)} is of the task {_shown(run['task'])}")
        if run["kind"] == "blend":
            _check_blend(path, name, run, len(record["labels"]))
            inner[name] = list(run["members"])
            waiting += [(member, above | {name}) for member in run["members"]]
            continue
        shape = InputShape.from_json(run["inputs"])
        if run["inputs"] != record["inputs"] or run["data"] != record["data"] or not run["fold_folders"]:
            raise refused(path, f"run {_shown(name)} does not fit {RECORD}")
        if shape.kind == "tokens":
            _check_vocabulary(path, name, part(f"runs/{name}/vocabulary.json"), shape.size)
        for fold in run["fold_folders"]:
            result = part(f"runs/{name}/{fold}/result.json")
            Run.model_validate(result["run"])
            precision = result["environment"]["precision"]
            if (result["inputs"], result["task"]) != (record["inputs"], record["task"]) or precision not in PRECISIONS:
                raise refused(path, f"the trained fold {_shown(fold)} does not fit {RECORD}")
            _check_weights(path, members, f"runs/{name}/{fold}/", result["weights"])
            if denoiser := result.get("denoiser"):
                Run.model_validate(part(f"{denoiser}/result.json")["run"])
                _check_weights(path, members, f"{denoiser}/", "last")

    @cache
    def parts_of(name: str) -> int:
        return 1 + sum(parts_of(member) for member in inner.get(name, ()))

    if parts_of(record["name"]) > MOST_MEMBERS:
        raise refused(path, f"its blends of blends come to more than {MOST_MEMBERS:,} members")
    if record["name"] in seen and record["kind"] != _json(archive, f"runs/{record['name']}/run.json")["kind"]:
        raise refused(path, f"{RECORD} and run.json differ in what the run is")


def _check_blend(path: Path, name: str, run: Mapping[str, Any], n_labels: int) -> None:
    """Raises UserError unless the weights of a blend are one a member for each label."""
    blend = BlendWeights.from_json(run["weights"])
    groups, stack = blend.groups, blend.stack
    limits = [0, *(group.stop for group in groups)]
    if limits[-1] != n_labels or any(group.start != at for group, at in zip(groups, limits, strict=False)):
        raise refused(path, f"the weights of {_shown(name)} are not those of {n_labels} labels")
    if any(len(group.weights) != len(run["members"]) or not group.temperature > 0 for group in groups):
        raise refused(path, f"run {_shown(name)} has another number of weights than of members, or no temperature")
    if not all(math.isfinite(weight) for group in groups for weight in group.weights):
        raise refused(path, f"the weights of {_shown(name)} are no numbers")
    if stack and len(stack) != n_labels:
        raise refused(path, f"the stack of {_shown(name)} is not one of {n_labels} labels")
    if len({len(label.slopes) for label in stack}) > 1 or not 0 <= blend.n_stacked < len(run["members"]):
        raise refused(path, f"the stack of {_shown(name)} has another number of slopes than of members")
    if not all(math.isfinite(number) for label in stack for number in (*label.slopes, label.bias)):
        raise refused(path, f"the stack of {_shown(name)} holds no numbers")


def _check_vocabulary(path: Path, name: str, words: Any, size: int) -> None:
    """Raises UserError unless `words` are token ids, as many as the models of a run have rows for."""
    if not isinstance(words, list) or any(type(word) is not int or not 0 <= word <= LARGEST_TOKEN for word in words):
        raise refused(path, f"the vocabulary of {_shown(name)} is no list of token ids")
    if len(set(words)) + N_SPECIAL != size:
        raise refused(path, f"the vocabulary of {_shown(name)} has another number of words than its models read")


def _check_weights(path: Path, members: Mapping[str, Any], folder: str, weights: str) -> None:
    if f"{folder}{weights}.safetensors" not in members and not any(_graphs(members, folder)):
        raise refused(path, f"it lacks the weights in {_shown(folder)}")


def _check_tensors(path: Path, name: str, file: Path) -> None:
    """Raises UserError for a file of tensors whose header and size do not fit."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy"):
            pass
    except SafetensorError as error:
        raise refused(path, f"{name} holds no tensors ({_sentence(error)})") from error


def _graphs(members: Mapping[str, Any], folder: str) -> Iterator[str]:
    return (name for name in members if name.startswith(folder) and name.endswith(".onnx"))


def _json(archive: zipfile.ZipFile, name: str) -> Any:
    try:
        return json.loads(archive.read(name))
    except ValueError as error:
        raise ValueError(f"{name} is no valid JSON ({error})") from None


def refused(path: Path, why: str) -> UserError:
    """The error for a file that is no sound bundle."""
    return UserError(f"{path} is no bundle that can be read: {why.removesuffix('.')}.")


def _sentence(error: Exception) -> str:
    """One line for an error that a library raised at what a bundle holds."""
    told = str(error).splitlines()
    return f"{type(error).__name__}{': ' if told else ''}{_shown(told[0]) if told else ''}"


def _shown(text: str) -> str:
    """A text of a bundle, short and printable."""
    return text.encode("unicode_escape").decode()[:100]
