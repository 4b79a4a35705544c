"""./run.sh clean: what the output folder holds that no result needs any more.

./run.sh clean                  shows what could be removed and how much it is; removes nothing
./run.sh clean --superseded     removes it
./run.sh clean --all            removes everything that commands made there but the submissions, their log and bundles

Superseded is what neither a finished run nor the present settings use: folds and encoders of other settings, denoised
copies and predictions of other texts, what a killed ./run.sh predict or another command left half done.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.core import locks, storage
from src.core.errors import Damaged, UserError
from src.core.language import Message, _
from src.core.locks import is_held
from src.core.targets import CHECKSUMS
from src.core.terminal import add_json, result, show_table, warn
from src.evaluation.runs import RunFolder
from src.evaluation.workspace import Workspace
from src.pipeline.stages.alarms import STAGE as ALARMS
from src.pipeline.stages.alarms import readings, reference_stamp
from src.pipeline.stages.baselines import STAGE as BASELINES
from src.pipeline.stages.pretrain import STAGE as PRETRAIN
from src.training.device_cache import recall_or_find
from src.training.early_reading import early_name
from src.training.initialization import HEAD, word_vectors
from src.training.planning import fold_jobs, unlabelled
from src.training.prediction import prediction_name

KEPT = ("submissions.jsonl", "locks")
"""Left standing by --all, as are submissions and bundles: what was submitted cannot be made again for certain, and
commands may wait for locks."""
MADE = ("compressed", "prediction_*", "explain_*.html")
"""Names of what commands make in the output folder, beside those of Output."""


@dataclass(frozen=True)
class Item:
    kind: str
    path: Path

    @property
    def size(self) -> int:
        """Bytes on disk."""
        files = self.path.rglob("*") if self.path.is_dir() else [self.path]
        return sum(file.lstat().st_size for file in files if not file.is_dir())


def arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--superseded", action="store_true", help=_("remove what is shown"))
    group.add_argument("--all", action="store_true", help=_("remove all but the submissions, their log and bundles"))


def run(workspace: Workspace, parsed: argparse.Namespace) -> None:
    def found() -> Iterator[Item]:
        if parsed.all or not any(everything(workspace)):
            return everything(workspace)
        return superseded(Workspace(workspace.settings, read_only=True))

    if not (parsed.superseded or parsed.all):
        items, total = _show(workspace, found(), _("No result needs these in {output}"))
        if not items:
            result(_("clean: nothing to remove, results need everything that is there"))
            return
        remedy = f"./run.sh {workspace.command('clean', '--superseded')}"
        result(_("clean: {total}; nothing is removed. Remove them with: {remedy}").format(total=total, remedy=remedy))
        return
    with locks.hold_all(workspace.output.locks):
        _check_jobs(workspace)
        title = _("All that commands made in {output}") if parsed.all else _("No result needs these in {output}")
        items, total = _show(workspace, found(), title)
        for item in items:
            shutil.rmtree(item.path) if item.path.is_dir() else item.path.unlink(missing_ok=True)
    result(_("clean: removed {total}").format(total=total))


def _show(workspace: Workspace, found: Iterator[Item], title: Message) -> tuple[list[Item], Message]:
    """Shows the items that do not lie in another one; returns them, and their number and size in words."""
    output, every = workspace.output.root, list(found)
    folders = {item.path for item in every}
    items = [item for item in every if folders.isdisjoint(item.path.parents)]
    sizes = {item: item.size for item in items}
    rows = [[item.kind, str(item.path.relative_to(output)), _megabytes(sizes[item])] for item in items]
    add_json("removable", [{"kind": i.kind, "path": str(i.path), "bytes": sizes[i]} for i in items])
    if rows:
        show_table(title.format(output=output), ["what", "path", "MB"], rows, words=["path"])
    counted = _("{n} files and folders, {size} MB") if len(items) != 1 else _("1 file or folder, {size} MB")
    return items, counted.format(n=len(items), size=_megabytes(sum(sizes.values())))


def everything(workspace: Workspace) -> Iterator[Item]:
    """All that commands made in the output folder but KEPT. Other things may lie there, such as output folders of other
    tasks with their own submissions, or the input folder; these stay."""
    output, given = workspace.output, workspace.settings.paths.input.resolve()
    made = {path for name, path in vars(output).items() if name != "root" and path.name not in KEPT}
    for path in sorted({path for path in made if path.parent == output.root} | set(_globbed(output.root, MADE))):
        if path.exists() and not given.is_relative_to(path.resolve()):
            yield Item("output", path)
    for path in storage.abandoned(output):
        yield Item("left half written", path)


def _globbed(folder: Path, patterns: Iterable[str]) -> Iterator[Path]:
    return itertools.chain.from_iterable(map(folder.glob, patterns))


def superseded(workspace: Workspace) -> Iterator[Item]:
    """Files that neither a finished run nor the present settings use. Raises UserError if nothing is prepared."""
    output, dataset = workspace.output, workspace.dataset
    needed, known = _needed(workspace), _prediction_names(workspace)
    for fold in sorted(output.runs.glob("*/fold_*")):
        if fold not in needed:
            if not _can_go_on(fold):
                yield Item("fold of other settings", fold)
            continue
        for path in sorted(itertools.chain(*map(fold.glob, ("logits.*.npy", "copies.*.npy", "early.*.npy")))):
            if path.name not in known:
                yield Item("predictions of other texts", path)
    for folder in sorted(output.pretrained.glob("*")):
        if folder not in needed and not _can_go_on(folder):
            yield Item("encoder of other settings", folder)
    vectors = set(word_vectors(workspace).values())
    for path in sorted(output.vectors.glob("*.npy")):
        if str(path) not in vectors:
            yield Item("start vectors of other texts or sizes", path)
    encoders = {
        storage.read_json(folder / "result.json", workspace.command("pretrain"))["fingerprint"]
        for folder in needed
        if _is_made(folder)
    }
    for path in sorted([*output.data.glob("**/denoised/*"), *output.shift.glob("**/denoised/*")]):
        if path.name.split(".")[0] not in encoders:
            yield Item("denoised copy by another encoder", path)
    tests = {Path(name).stem for name in dataset.test_files}
    for folder in sorted([*output.data.glob("test/*"), *(path for path in output.shift.glob("*") if path.is_dir())]):
        if folder.name not in tests:
            yield Item("test file that is gone", folder)
    extras = {Path(name).stem for name in dataset.extra_files}
    for path in sorted(output.data.glob("extra/*")):
        if path.name.removesuffix(".rows.npy") not in extras:
            yield Item("extra file that is gone", path)
    stamps = {target.name: target.fingerprint[:8] for target in BASELINES.targets(workspace)}
    for path in sorted(output.baselines.glob("*/fold_*.np?")):
        if path.name.split(".")[1] != stamps.get(path.parent.name):
            yield Item("fold of a baseline of other data or folds", path)
    if output.alarms.exists():
        used = reference_stamp(workspace)[:8] if ALARMS.names(workspace) else None
        for path in sorted(output.alarms.glob("*")):
            if path.name.split(".")[1] != used:
                yield Item("reference of other stays or folds", path)
    if output.domains.exists():
        kept = _adapted(workspace)
        for path in sorted(output.domains.glob("adapted/*/*.npy")):
            if path not in kept:
                yield Item("model's outputs after adaptation, of other settings", path)
    for folder in sorted(output.predictions.glob("*")):
        yield Item("left by a killed ./run.sh predict", folder)
    for folder in sorted(output.tune.glob("*/trials/*")):
        if not is_held(folder.parents[1] / "study.lock") and not _has_open_trials(folder.parents[1]):
            yield Item("trial that is over", folder)
    for path in storage.abandoned(output):
        yield Item("left half written", path)


def _can_go_on(fold: Path) -> bool:
    """Returns True for a fold or encoder of a training that was interrupted: one that has checkpoints, and, where the
    run has such a fold, those that were finished since the run was put together last."""
    if list(fold.glob("state_*")) and not _is_made(fold):
        return True
    run, result = fold.parent / "run.json", fold / "result.json"
    is_newer = result.exists() and (not run.exists() or result.stat().st_mtime > run.stat().st_mtime)
    return is_newer and any(not _is_made(path.parent) for path in fold.parent.glob("fold_*/state_*"))


def _is_made(folder: Path) -> bool:
    return (folder / "result.json").exists()


def _has_open_trials(study_folder: Path) -> bool:
    """Returns True if a killed command left trials that the same command will finish."""
    from src.tuning import study

    try:
        return not (study_folder / "study.db").exists() or study.counted(study_folder)[1] > 0
    except Damaged as error:
        warn(_("{what}. Its trials are spared").format(what=error.what))
        return True


def _needed(workspace: Workspace) -> set[Path]:
    """Folders of folds and encoders that finished runs or the present settings use. An interrupted training goes on
    from an encoder that none of its files names: while there is one, all encoders are used."""
    output = workspace.output
    jobs = [job for group in fold_jobs(workspace, recall_or_find(workspace)).values() for job in group]
    needed = {job.path for job in [*jobs, *PRETRAIN.jobs(workspace).values()]}
    for record in output.runs.glob("*/run.json"):
        run = RunFolder.at(record.parent, workspace.settings)
        needed |= {run.path / fold for fold in run.record.get("fold_folders", [])}
    encoders = sorted(output.pretrained.glob("*"))
    if any(fold not in needed and _can_go_on(fold) for fold in output.runs.glob("*/fold_*")):
        needed |= set(encoders)
    for fold in filter(_is_made, list(needed)):
        made = storage.read_json(fold / "result.json", workspace.command("train"))
        if denoiser := made.get("denoiser"):
            needed.add(output.root / denoiser)
        if "pretrained" not in made:  # a result of an earlier version
            needed |= {folder for folder in encoders if _may_have_begun(made["run"], folder)}
        elif weights := made["pretrained"]:
            needed.add((output.root / weights).parent)
    return needed


def _may_have_begun(run: dict[str, Any], encoder: Path) -> bool:
    """Returns True if the encoder in the folder was pretrained with the settings of a trained fold."""
    if not (_is_made(encoder) and run.get("train") and run["pretrain"]["epochs"]):
        return False
    own = {
        "model": {key: value for key, value in run["model"].items() if key not in HEAD},
        "pretrain": run["pretrain"],
    }
    return storage.read_json(encoder / "result.json").get("run") == own


def _adapted(workspace: Workspace) -> set[Path]:
    """Outputs that the last ./run.sh domains adapt was judged by."""
    path = workspace.output.domains / "adapted.json"
    noted = storage.read_json(path, workspace.command("domains", "adapt")) if path.exists() else {}
    return {path.parent / name for name in noted.get(CHECKSUMS, {})}


def _prediction_names(workspace: Workspace) -> set[str]:
    """Names of the predictions of the texts that are there now."""
    dataset, sets = workspace.dataset, workspace.validation_sets
    copies = [copy for test in sets.tests for copy in test.noised]
    names = {prediction_name(folder) for folder in unlabelled(dataset)}
    if ALARMS.names(workspace):
        names.add(early_name(dataset.train_folder, readings(workspace)[1]))
    return names | {prediction_name(copy, sets.rows_path) for copy in copies}


def _check_jobs(workspace: Workspace) -> None:
    """Raises UserError where a job or a study works in the output folder."""
    output = workspace.output
    folders = {path for path in vars(output).values() if path not in (output.root, output.locks) and path.is_dir()}
    held = sorted(path for folder in folders for path in folder.rglob("*.lock") if is_held(path))
    if held:
        raise UserError(
            _("another command works in {root} ({name}): nothing is removed. Wait for it").format(
                root=output.root, name=held[0].name
            )
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f}"
