"""./run.sh compress RUN: small models of a run, what each costs and loses, and a bundle of the one that is taken.

    ./run.sh compress blend --preset standard
    ./run.sh serve --bundle output/blend_small.bundle

A student is distilled of the run, pruned and quantised; the run itself is quantised, too. The table tells the score of
each (out of fold, and on select_on with its difference from the run), bytes, milliseconds and memory. Of those that
lose no more than compress.max_loss on select_on, by the point estimate, the smallest is taken; the run in float32 is
none of them. If all lose more, no bundle is written. The student stays as run RUN_small, the pruned one as RUN_pruned;
the command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.core.errors import UserError
from src.core.language import _
from src.pipeline.command import add_force

if TYPE_CHECKING:
    from src.data.splits import Split
    from src.evaluation.runs import RunFolder
    from src.evaluation.workspace import Workspace
    from src.serving.compression import Scored, Variant
    from src.serving.distillation import Student


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help=_("a trained run or a blend, such as blend"))
    parser.add_argument("--to", type=Path, metavar="FILE", help=_("default: output/RUN_small.bundle"))
    add_force(parser)


def run(workspace: Workspace, parsed: argparse.Namespace) -> None:
    from src.core import storage
    from src.pipeline.stage import reading, run_lock
    from src.serving.packages import require_packages

    require_packages("compress", "onnx", "onnxruntime", "sympy")
    to = parsed.to or workspace.output.bundle(f"{parsed.run}_small")
    if to.is_dir():
        raise UserError(_("--to {to} is a folder; name a file").format(to=to))
    storage.check_writable(to)
    source = workspace.run(parsed.run)
    workspace.check_unbroken([source])
    with reading(workspace, "compress", [run_lock(name) for name in (source.name, *source.ancestors())]):
        compress(workspace, workspace.fitting_run(parsed.run), to)


def compress(workspace: Workspace, source: RunFolder, to: Path) -> None:
    """Makes and judges all variants of a run, and writes the bundle of the one that is taken.

    Raises UserError where all small models lose more than compress.max_loss; the table is written before.
    """
    from src.core import storage
    from src.core.terminal import add_json, info, result
    from src.evaluation.metrics import gain_text
    from src.serving import compression

    folder = workspace.output.compressed(source.name)
    variants, left_out = _variants(workspace, source, folder)
    of_run = compression.own_logits(workspace, source)
    scores = {}
    for variant in variants:
        info(_("compress: scores {name}").format(name=variant.name))
        found = of_run if variant.engine == "torch" else compression.out_of_fold(workspace, variant)
        scores[variant.name] = compression.scored(workspace, found, of_run)
    info(_("compress: times all of them"))
    costs = compression.measure(variants, compression.timed_rows(workspace))
    limit = workspace.settings.compress.max_loss
    taken = compression.take(variants, scores, limit)
    table = [_row(variant, scores[variant.name], costs[variant.name]) for variant in variants]
    about = {
        "run": source.name,
        "fingerprint": source.score["fingerprint"],
        "select_on": workspace.settings.select_on,
        "target": workspace.target.name if workspace.target else None,
        "max_loss": limit,
        "taken": taken.name if taken else None,
        "left_out": left_out,
        "variants": table,
    }
    storage.write_json(folder / "compress.json", about)
    add_json("compress", about)
    _show(workspace, table, left_out)
    gains = {one.name: scores[one.name].gain_selected for one in variants if one.is_small}
    gate = f"compress.max_loss={limit:g} on {workspace.settings.select_on}"
    if taken is None:
        best = max(gains, key=lambda name: gains[name].value)
        older = f". {to} is of an earlier compress and stays as it was" if to.exists() else ""
        raise UserError(
            _(
                "no bundle was written: every small model of {name} loses more than {gate} (the "
                "point estimate counts); the best is {best} with {loss}. Allow more "
                "(compress.max_loss), or train the student longer (compress.epochs){older}"
            ).format(name=source.name, gate=gate, best=best, loss=gain_text(workspace.task, gains[best]), older=older)
        )
    compression.write_small_bundle(workspace, taken, about, to)
    result(
        _(
            "compress: {name} in {to} ({size:,.2f} MB): the smallest that loses no more than "
            "{gate} by the point estimate, {loss} (paired standard error)"
        ).format(
            name=taken.name,
            to=to,
            size=to.stat().st_size / 1000000.0,
            gate=gate,
            loss=gain_text(workspace.task, gains[taken.name]),
        )
    )


def _variants(workspace: Workspace, source: RunFolder, folder: Path) -> tuple[list[Variant], dict[str, str]]:
    """The run and its variants, trained where they must be, and why some are left out."""
    from src.core.terminal import info
    from src.serving import compression, distillation, pruning

    student = distillation.plan_student(workspace, source)
    variants, left_out = [compression.as_it_is(workspace, source)], {}

    def add(name: str, run: RunFolder, whole: Path | None) -> None:
        exported = compression.float_variant(workspace, run, name, folder / f"{run.name}.onnx", whole)
        variants.append(exported)
        try:
            variants.append(compression.int8_variant(exported, f"{run.name}, INT8", folder / f"{run.name}.int8"))
        except UserError as refused:
            left_out[f"{run.name}, INT8"] = str(refused)

    info(_("compress: exports {name}").format(name=source.name))
    add(f"{source.name}, ONNX", source, None)
    info(_("compress: {name} starts from {source}").format(name=student.name, source=student.model.name))
    small, whole = _taught(workspace, source, student, lambda split: distillation.start_of(student, split))
    add(student.name, small, whole)
    if workspace.settings.compress.prune:
        try:
            pruned = pruning.plan_pruned(workspace, source, student)
        except UserError as refused:
            left_out[f"{source.name}_pruned"] = str(refused)
        else:
            info(
                _("compress: {name}: {model}").format(
                    name=pruned.name, model=pruning.described(student.run.model, pruned.run.model)
                )
            )
            initial = pruning.prune_folds(workspace, pruned, small, whole)
            pruned_run, whole = _taught(workspace, source, pruned, initial)
            add(pruned.name, pruned_run, whole)
    return variants, left_out


def _taught(
    workspace: Workspace, source: RunFolder, student: Student, initial: Callable[[Split], Path]
) -> tuple[RunFolder, Path]:
    """Trains a student from the `initial` weights of each split; returns its run and the trained fold of all rows."""
    from src.core.executors import raise_failures, run_shown
    from src.pipeline.stages.train import Training
    from src.serving import distillation
    from src.training import device_cache
    from src.training.planning import taught_jobs

    here = device_cache.find(workspace.output, workspace.settings.device)
    work = distillation.teaching_jobs(workspace, source, here.device)
    raise_failures(run_shown(here.executor(workspace.settings.executor, len(work)), "predict", work))
    lessons = distillation.lessons(workspace, source, student, initial)
    jobs = taught_jobs(student.workspace, here, student.name, lessons)
    everything = Training(student.workspace, here, {student.name: jobs}, source)
    raise_failures(everything.train_folds(everything.jobs))
    folds = Training(student.workspace, here, {student.name: jobs[:-1]}, source)
    raise_failures(folds.train([student.name]))
    return student.workspace.run(student.name), jobs[-1].path


def _row(variant: Variant, score: Scored, cost: dict[str, float]) -> dict[str, Any]:
    estimates = {key: value.to_json() for key, value in vars(score).items()}
    return {"name": variant.name, "engine": variant.engine, "bytes": variant.size, **estimates, **cost}


def _show(workspace: Workspace, table: Sequence[dict[str, Any]], left_out: dict[str, str]) -> None:
    from src.core.terminal import result, show_table
    from src.evaluation.metrics import Estimate, gain_text

    task, on = workspace.task, workspace.settings.select_on
    rows = [
        [
            row["name"],
            f"{row['out_of_fold']['value']:.4f}",
            gain_text(task, Estimate(**row["gain_out_of_fold"])),
            f"{row['selected']['value']:.4f}",
            gain_text(task, Estimate(**row["gain_selected"])),
            f"{row['bytes'] / 1e6:.2f}",
            f"{row['batch_1']:.2f}",
            f"{row['batch_64']:.1f}",
            f"{row['reports_per_second']:,.0f}",
            f"{row['memory']:.0f}",
        ]
        for row in table
    ]
    columns = ["variant", "out of fold", "change", on, "change", "MB", "ms at 1", "ms at 64", "a second", "memory MB"]
    show_table(_("Small models: score, size, time of a batch on one thread, memory of the process"), columns, rows)
    for name, why in left_out.items():
        result(_("{name} is left out: {why}").format(name=name, why=why))
