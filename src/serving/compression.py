"""Compression: variants of a run as ONNX graphs, what each costs and loses, and the bundle of the one that is taken.

A variant is a tree that lies as an output folder does, with graphs for weights. It is scored by its fold models, on the
rows that each may judge, beside the run itself; it is timed and weighed as it would be shipped.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from src.core import array_files, storage
from src.core.errors import UserError
from src.core.executors import end_with_parent
from src.core.targets import CHECKSUMS
from src.data.corpus import BLOCK, Corpus
from src.ensemble.blend_data import blend_out_of_fold, judging_folds
from src.evaluation import metrics
from src.evaluation.metrics import Estimate
from src.evaluation.runs import RunFolder
from src.evaluation.workspace import Workspace
from src.serving.bundle import REFERENCE, about, pack
from src.serving.onnx_engine import MODEL, OnnxEngine, export_missing
from src.serving.predictor import Rows
from src.serving.quantisation import quantise
from src.training.prediction import judged_copies

FILES = ("run.json", "score.json", "config.yaml", "vocabulary.json")
"""Files of a run's folder that a bundle has."""
TIMED_ROWS = 256
"""Reports that a variant is timed on, drawn from the target test file."""
ROUNDS = 3
"""Times that every variant is timed, one after the other; the lowest median counts, as others may use the machine."""
SECONDS = 1.5
"""Longest time of the repetitions of one batch size."""


@dataclass(frozen=True)
class Variant:
    """One form of a run."""

    name: str
    root: Path
    """Folder that lies as an output folder."""
    run: RunFolder
    """The run in `root`: what is shipped."""
    judges: Mapping[str, Sequence[Path]]
    """Folders in `root` of the trained folds that are scored, by model."""
    engine: str = "onnx"
    is_small: bool = True
    """False for the run in float32 itself, in torch or as ONNX, which is no small model and so never taken."""

    @property
    def shipped(self) -> list[Path]:
        """Folders of the trained folds that predict."""
        return [model.path / fold for model in self.run.models() for fold in model.record["fold_folders"]]

    @property
    def size(self) -> int:
        """Bytes of weights: graphs of an ONNX variant, else those that a bundle of the run has."""
        files: set[Path] = set()
        for fold in self.shipped:
            result = storage.read_json(fold / "result.json")
            denoiser = result.get("denoiser")
            if self.engine == "onnx":
                files |= {fold / MODEL, *((self.root / denoiser).glob("*.onnx") if denoiser else ())}
            else:
                files |= {fold / f"{result['weights']}.safetensors"}
                files |= {self.root / denoiser / "last.safetensors"} if denoiser else set()
        return sum(file.stat().st_size for file in files)


@dataclass(frozen=True)
class Scored:
    """Scores of a variant, and what it loses against the run."""

    out_of_fold: Estimate
    selected: Estimate
    """On select_on."""
    gain_out_of_fold: Estimate
    gain_selected: Estimate
    """Paired differences from the run; negative: the variant loses."""


def as_it_is(workspace: Workspace, run: RunFolder) -> Variant:
    """The run as it was trained, in torch."""
    judges = {model.name: [model.path / fold for fold in model.record["fold_folders"]] for model in run.models()}
    return Variant(run.name, workspace.output.root, run, judges, "torch", is_small=False)


def float_variant(workspace: Workspace, run: RunFolder, name: str, to: Path, whole: Path | None = None) -> Variant:
    """Exports all trained folds of a run to the folder `to`. `whole`: of a student, the trained fold that is shipped in
    place of those that are scored."""
    shutil.rmtree(to, ignore_errors=True)
    root = workspace.output.root
    judges: dict[str, list[Path]] = {}
    for one in {part.name: part for part in (run, *_members(run))}.values():
        for file in FILES:
            if (one.path / file).exists():
                _copy(one.path / file, to / one.path.relative_to(root) / file)
        if one.is_blend:
            continue
        folds = [one.path / fold for fold in one.record["fold_folders"]]
        judges[one.name] = [to / fold.relative_to(root) for fold in folds]
        for fold in [*folds, *([whole] if whole else [])]:
            _copy(fold / "result.json", to / fold.relative_to(root) / "result.json")
            if denoiser := storage.read_json(fold / "result.json").get("denoiser"):
                _copy(root / denoiser / "result.json", to / denoiser / "result.json")
            export_missing(fold, root, to)
    if whole:
        shipped = whole.relative_to(run.path).as_posix()
        folder = to / run.path.relative_to(root)
        storage.write_json(folder / "run.json", {**run.record, "fold_folders": [shipped]})
        score = {key: value for key, value in run.score.items() if key != CHECKSUMS}  # of the run's own files
        storage.write_json(folder / "score.json", score)
    return Variant(name, to, _run_in(to, run), judges, is_small=whole is not None)


def int8_variant(of: Variant, name: str, to: Path) -> Variant:
    """Quantises all graphs of a variant. Raises UserError for graphs that onnxruntime computes in float32 alone."""
    shutil.rmtree(to, ignore_errors=True)
    for file in sorted(path for path in of.root.rglob("*") if path.is_file()):
        place = to / file.relative_to(of.root)
        if file.suffix == ".onnx":
            quantise(file, place)
        else:
            _copy(file, place)
    judges = {model: [to / fold.relative_to(of.root) for fold in folds] for model, folds in of.judges.items()}
    return Variant(name, to, _run_in(to, of.run), judges)


def out_of_fold(workspace: Workspace, variant: Variant) -> list[np.ndarray]:
    """Logits of an ONNX variant: of the train rows (N, n_labels), and of select_on's noisy copies (D, M, n_labels).

    Each row is judged by fold models that did not see it, as the run's own oof.npy and copies_*.npy are.
    """
    copies = workspace.target.noised if workspace.target and workspace.validation().copies is not None else []
    shift_rows = workspace.validation_sets.rows if copies else np.zeros(0, dtype=np.int64)
    n_labels = workspace.task.n_labels
    sizes = [len(workspace.labels), *[len(shift_rows)] * len(copies)]
    of_models: dict[str, list[np.ndarray]] = {}
    averages = {model.name: model.average for model in variant.run.models()}
    for model, folds in variant.judges.items():
        parts: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in sizes]
        for fold in folds:
            trained = workspace.output.root / fold.relative_to(variant.root)
            engine = OnnxEngine.load([fold], variant.root, 1)
            rows = [array_files.read_npz(trained / "split.npz", "train")["predicted_rows"]]
            rows += [judged_copies(trained, shift_rows)] * len(copies)
            folders = [workspace.dataset.train_folder, *copies]
            for part, folder, chosen in zip(parts, folders, rows, strict=True):
                part.append((chosen, _logits(engine, Corpus.load(folder), chosen)))
        of_models[model] = [
            averages[model].of_rows((size, n_labels), part) for size, part in zip(sizes, parts, strict=True)
        ]
    judging = judging_folds(workspace.splits)
    folds_of = [judging, *[judging[shift_rows]] * len(copies)]
    blended = [
        blend_out_of_fold(variant.run, folds, lambda model, i=i: of_models[model.name][i][:, None])[:, 0]
        for i, folds in enumerate(folds_of)
    ]
    return [blended[0], np.stack(blended[1:]) if copies else np.zeros((0, 0, n_labels), dtype=np.float32)]


def _logits(engine: OnnxEngine, corpus: Corpus, rows: np.ndarray) -> np.ndarray:
    found = [np.zeros((0, 1), dtype=np.float32)] if not len(rows) else []
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK]
        inputs = {name: np.asarray(array[part]) for name, array in corpus.inputs.items()}
        found.append(engine.outputs(Rows(inputs, np.asarray(corpus.lengths[part])))[0])
    return np.concatenate(found)


def own_logits(workspace: Workspace, run: RunFolder) -> list[np.ndarray]:
    """Logits that a run keeps, as out_of_fold() gives those of a variant."""
    target = workspace.target
    return [run.oof(), run.copies(target.name) if target else np.zeros((0, 0, workspace.task.n_labels))]


def scored(workspace: Workspace, logits: Sequence[np.ndarray], of_run: Sequence[np.ndarray]) -> Scored:
    """Scores logits of out_of_fold() beside those of the run."""
    task, labels = workspace.task, workspace.labels
    clean, selected = workspace.validation("clean"), workspace.validation()
    scores, gains = [], []
    for rows in (clean.only(workspace.splits.scored), selected):
        own, other = (task.decode(rows.logits(*one)) for one in (logits, of_run))
        how = labels[rows.rows], rows.weights, rows.rows
        scores.append(metrics.official_score(task, how[0], own, *how[1:]))
        gains.append(metrics.paired_difference(task, how[0], own, other, *how[1:]))
    return Scored(*scores, *gains)


def timed_rows(workspace: Workspace) -> Rows:
    """Reports that variants are timed on, in an order of chance."""
    target = workspace.target
    corpus = Corpus.load(workspace.dataset.test_folder(target.name)) if target else workspace.dataset.train
    rows = np.random.default_rng(0).permutation(len(corpus))[:TIMED_ROWS]
    return Rows({name: np.asarray(array[rows]) for name, array in corpus.inputs.items()}, corpus.lengths[rows])


def measure(variants: Sequence[Variant], rows: Rows) -> dict[str, dict[str, float]]:
    """Times and weighs variants on one thread, each in a process of its own: milliseconds at batch 1 and 64, reports a
    second, and the process's peak memory in MB, libraries included."""
    found: dict[str, dict[str, float]] = {}
    for _ in range(ROUNDS):
        for variant in variants:
            arguments = variant.engine, variant.shipped, variant.root, dict(rows.inputs), np.asarray(rows.lengths)
            with ProcessPoolExecutor(1, get_context("spawn"), initializer=end_with_parent) as pool:
                new = pool.submit(_measured, *arguments).result()
            old = found.setdefault(variant.name, new)
            better = {key: min for key in ("batch_1", "batch_64", "memory")} | {"reports_per_second": max}
            found[variant.name] = {key: choose(old[key], new[key]) for key, choose in better.items()}
    return found


def _measured(
    kind: str, folders: list[Path], root: Path, inputs: dict[str, np.ndarray], lengths: np.ndarray
) -> dict[str, float]:
    if kind == "torch":
        from src.serving.torch_engine import TorchEngine

        engine: Any = TorchEngine.load(folders, root, 1)
    else:
        engine = OnnxEngine.load(folders, root, 1)
    found: dict[str, float] = {}
    for batch in (1, 64):
        seconds: list[float] = []
        parts = [slice(start, start + batch) for start in range(0, len(lengths) - batch + 1, batch)] or [slice(None)]
        for i, part in enumerate(parts):
            width = int(lengths[part].max())
            rows = Rows({name: array[part, :width] for name, array in inputs.items()}, lengths[part])
            if not i:
                engine.outputs(rows)  # the first call allocates
            started = time.perf_counter()
            engine.outputs(rows)
            seconds.append(time.perf_counter() - started)
            if sum(seconds) > SECONDS and len(seconds) > 3:
                break
        found[f"batch_{batch}"] = 1000 * float(np.median(seconds))
    found["reports_per_second"] = min(64, len(lengths)) / (found["batch_64"] / 1000)
    found["memory"] = _peak_memory()
    return found


def _peak_memory() -> float:
    """Peak resident memory of this process in MB; that of resource.getrusage() would hold the parent's."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise UserError("/proc/self/status does not tell the memory of a process; compress needs Linux")


def take(variants: Sequence[Variant], scores: Mapping[str, Scored], max_loss: float) -> Variant | None:
    """The smallest of the small models that lose no more than `max_loss` of the run's score on select_on, by the point
    estimate; None: all lose more."""
    kept = [one for one in variants if one.is_small and -scores[one.name].gain_selected.value <= max_loss]
    return min(kept, key=lambda one: one.size) if kept else None


def write_small_bundle(workspace: Workspace, variant: Variant, compressed: Mapping[str, Any], to: Path) -> None:
    """Writes the bundle of a variant; `compressed` becomes a field of its bundle.json."""
    from src.serving.drift import reference_of

    scored_run = workspace.run(variant.run.name)
    fields = {**about(workspace, scored_run), "compressed": compressed}
    reference = variant.root / REFERENCE
    reference_of(workspace).save(reference)
    pack(variant.root, variant.run, to, fields, {REFERENCE: reference})


def _members(run: RunFolder) -> list[RunFolder]:
    """Runs that a blend is made of, through blends of blends."""
    if not run.is_blend:
        return []
    return [one for member in run.members() for one in (member, *_members(member))]


def _run_in(root: Path, run: RunFolder) -> RunFolder:
    """Returns the run as it lies in another tree."""
    path = root / "runs" / run.name
    return RunFolder.at(path, run.config)


def _copy(file: Path, to: Path) -> None:
    content = file.read_bytes()
    storage.write_atomic(to, lambda target: target.write(content))
