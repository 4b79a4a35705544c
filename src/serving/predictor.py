"""Predictor: a bundle in memory, for the service and for streams.

predictor = Predictor.load(Path("output/blend.bundle"))
values, spread = predictor.predict(predictor.encode([[12, 345, 6]]))  # (1, 17) probabilities, and their spread
"""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, NamedTuple, Protocol

import numpy as np

from src.core.errors import UserError, unknown
from src.core.settings import Grid
from src.core.settings_loader import load_config
from src.data.corpus import Vocabulary, pad
from src.data.inputs import InputShape
from src.data.line_parser import LARGEST_TOKEN
from src.data.series_dataset import grid_of
from src.data.series_reader import parse_stays
from src.data.tasks import Average
from src.ensemble.blending import BlendWeights
from src.evaluation.runs import RunFolder
from src.serving.bundle import REFERENCE, Bundle, refused
from src.serving.drift import Reference

ENGINES = ("auto", "torch", "onnx")
"""auto: onnx for a bundle that has ONNX graphs, and for one of reports whose graphs can be made here; else torch."""


class Rows(NamedTuple):
    """Encoded reports or stays."""

    inputs: dict[str, np.ndarray]
    """{name: (B, T, ...)} as in Corpus.inputs, T the longest row."""
    lengths: np.ndarray
    """(B,) int32"""


class Prediction(NamedTuple):
    """Predictions of B rows in the unit of the task: probabilities, or days."""

    values: np.ndarray
    """(B, L) float64"""
    spread: np.ndarray
    """(B, L) float64, standard deviation over the predictions of the single models."""


class Engine(Protocol):
    """Trained folds that compute logits."""

    name: str

    def outputs(self, rows: Rows) -> np.ndarray:
        """Logits (M, B, L) float32 of M trained folds, in the order in which they were given."""
        ...


class Predictor:
    """A bundle in memory. Safe to call from one thread at a time."""

    def __init__(self, bundle: Bundle, folder: Path, engine: Engine, copy: IO[bytes] | None = None):
        """`folder`: the unpacked bundle. `copy`: the bundle's file, whose gradients explain() reads when it is first
        called; by then another file may lie in its place."""
        self._copy = copy
        if copy is not None:
            weakref.finalize(self, copy.close)
        self.bundle, self.task, self.labels = bundle, bundle.task, bundle.labels
        self._engine = engine
        has_reference = REFERENCE in bundle.record["members"]
        self.reference = Reference.load(folder / REFERENCE) if has_reference else None
        """Statistics of the training rows, by which drift is noticed; None where the bundle has none."""
        runs = [one.name for one in _run_folder(bundle, folder).models()]
        self._vocabulary = (
            Vocabulary.load(folder / "runs" / runs[0] / "vocabulary.json") if self._reads_tokens else None
        )
        self._tree = _Node.of(_run_folder(bundle, folder), _fold_places(bundle, folder))

    @classmethod
    def load(cls, file: Path, engine: str = "auto", threads: int = 1) -> Predictor:
        """Loads a bundle with an engine of ENGINES that computes with so many threads. Raises UserError for a file that
        is no sound bundle, and for an unknown engine."""
        if engine not in ENGINES:
            raise unknown("engine", engine, ENGINES)
        bundle = Bundle.open(file)
        try:
            copy = _copied(file) if bundle.task.input_kind == "reports" and bundle.has(".safetensors") else None
            with tempfile.TemporaryDirectory(prefix="bundle-") as folder:
                root = bundle.unpack(Path(folder), copy)
                try:
                    return cls(bundle, root, _make_engine(bundle, root, engine, threads), copy)
                except UserError as error:
                    if str(root) not in str(error):
                        raise
                    told = str(error).splitlines()[0].replace(f"{root}/", "")
                    raise refused(file, told) from error
        except OSError as error:
            raise UserError(f"{file} cannot be loaded: {error.strerror or error}") from error

    @property
    def engine(self) -> str:
        """Name of the engine."""
        return self._engine.name

    @property
    def _file(self) -> str:
        """Name of the bundle's file; errors go to clients of a service, who need not know its folder."""
        return self.bundle.path.name

    @property
    def _reads_tokens(self) -> bool:
        return self.task.input_kind == "reports"

    def encode(self, reports: Sequence[Sequence[int]]) -> Rows:
        """Encodes reports of token ids. An id that no training file holds is read as unknown, and a longer report is
        cut as data.keep says. Raises UserError for an empty report, and for what is no token id.
        """
        if self._vocabulary is None:
            raise UserError(f"{self._file} predicts {self.task.title} and reads {self.task.noun}, no reports")
        parts = [_checked(number, report) for number, report in enumerate(reports, start=1)]
        data = self.bundle.record["data"]
        offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts], dtype=np.int64)])
        words = self._vocabulary.encode(np.concatenate([*parts, np.zeros(0, np.uint16)]))
        tokens, lengths = pad(words, offsets, data["max_len"], data["keep"])
        return Rows({"tokens": tokens[:, : lengths.max(initial=1)]}, lengths)

    def encode_stay(self, texts: Sequence[str]) -> Rows:
        """Encodes stays, each the text of its file: `Time,Parameter,Value` and its lines. Raises the UserErrors of the
        reader of stays."""
        if self.task.input_kind != "stays":
            raise UserError(f"{self._file} predicts {self.task.title} and reads {self.task.noun}, no stays")
        block = grid_of(
            parse_stays([text.encode(errors="replace") for text in texts]), Grid(**self.bundle.record["data"])
        )
        steps = np.full(len(block.ids), block.values.shape[1], dtype=np.int32)
        return Rows({"values": block.values, "statics": block.statics}, steps)

    def predict(self, rows: Rows) -> Prediction:
        """Predicts rows by all models of the run, blended as the run is."""
        outputs = self._engine.outputs(rows)
        values = self.task.decode(self._tree.logits(outputs))
        return Prediction(values, self.task.decode(outputs).std(axis=0))

    def logits(self, rows: Rows) -> np.ndarray:
        """Logits (B, L) of the run, as ./run.sh predict decodes them."""
        return self._tree.logits(self._engine.outputs(rows))

    @property
    def explains(self) -> bool:
        """Returns True if explain() works: of reports with .safetensors, and of stays."""
        return self.task.input_kind == "stays" or self._reads_tokens and self.bundle.has(".safetensors")

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of what explain() weighs in a stay; none of reports, whose tokens it weighs."""
        return tuple(self._occluded)

    def explain(self, rows: Rows, label: int) -> np.ndarray:
        """Contributions to the logit of a label, of ONE row: of each token (T,) by integrated gradients over all models
        by their weights; of a stay how far the logit falls without each of `parameters`, (P,).

        Raises UserError where `explains` is false.
        """
        if self.task.input_kind == "stays":
            return self._falls(rows, label)
        return self._explainer(rows, label)

    @cached_property
    def _explainer(self) -> Callable[[Rows, int], np.ndarray]:
        from src.serving.token_explainer import TokenExplainer

        if not self._reads_tokens:
            raise UserError(f"{self._file} reads {self.task.noun}; requests are explained of reports and stays")
        if not self.bundle.has(".safetensors"):
            raise UserError(
                f"{self._file} has exported models alone, which have no gradients. The bundle of ./run.sh bundle "
                "explains"
            )
        with tempfile.TemporaryDirectory(prefix="bundle-") as folder:
            root = self.bundle.unpack(Path(folder), self._copy)
            return TokenExplainer.load(_run_folder(self.bundle, root), root, list(_fold_places(self.bundle, root)))

    @cached_property
    def _occluded(self) -> dict[str, tuple[str, list[int]]]:
        """Input and columns of each parameter of a series; a one-hot static counts as one."""
        shape = InputShape.from_json(self.bundle.record["inputs"])
        found: dict[str, tuple[str, list[int]]] = {}
        for name, columns in (("values", shape.parameters), ("statics", shape.statics)):
            for column, parameter in enumerate(columns):
                known = parameter if name == "values" else f"{parameter.rsplit('_', 1)[0]} at admission"
                found.setdefault(known, (name, []))[1].append(column)
        return found

    def _falls(self, rows: Rows, label: int) -> np.ndarray:
        inputs = {name: np.repeat(array, len(self._occluded) + 1, axis=0) for name, array in rows.inputs.items()}
        for row, (name, columns) in enumerate(self._occluded.values(), start=1):
            inputs[name][row][:, columns] = np.nan
        logits = self.logits(Rows(inputs, np.repeat(rows.lengths, len(self._occluded) + 1)))[:, label]
        return (logits[0] - logits[1:]).astype(np.float64)


class _Node(NamedTuple):
    """A model, or a blend of nodes."""

    folds: list[int]
    """Places of a model's trained folds among the outputs; none of a blend."""
    average: Average
    """Mean over the folds."""
    weights: BlendWeights | None
    members: list[_Node]

    @classmethod
    def of(cls, run: RunFolder, places: dict[Path, int]) -> _Node:
        if run.is_blend:
            weights = BlendWeights.from_json(run.record["weights"])
            return cls([], run.average, weights, [cls.of(member, places) for member in run.members()])
        return cls([places[run.path / fold] for fold in run.record["fold_folders"]], run.average, None, [])

    def logits(self, outputs: np.ndarray) -> np.ndarray:
        """Logits (B, L) float32 from those of all folds (M, B, L), computed as ./run.sh predict does."""
        if self.weights is None:
            return self.average([outputs[place] for place in self.folds])
        return self.weights.apply([member.logits(outputs) for member in self.members]).astype(np.float32)


def _copied(file: Path) -> IO[bytes]:
    """A copy without a name, which ends with the process if not before."""
    copy = tempfile.TemporaryFile()
    with file.open("rb") as source:
        shutil.copyfileobj(source, copy)
    return copy


def _make_engine(bundle: Bundle, root: Path, engine: str, threads: int) -> Engine:
    folds = list(_fold_places(bundle, root))
    if engine == "auto":
        installed = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))
        exports = bundle.has(".safetensors") and bundle.task.input_kind == "reports" and installed
        engine = "onnx" if bundle.has(".onnx") or exports else "torch"
    if engine == "onnx":
        from src.serving.onnx_engine import OnnxEngine

        return OnnxEngine.load(folds, root, threads)
    from src.serving.torch_engine import TorchEngine

    if not bundle.has(".safetensors"):
        raise UserError(f"{bundle.path} has ONNX graphs alone; leave out engine=torch")
    return TorchEngine.load(folds, root, threads)


def _run_folder(bundle: Bundle, root: Path) -> RunFolder:
    """The run of an unpacked bundle."""
    return RunFolder.load(root / "runs" / bundle.name, load_config("standard", [f"paths.output={root}"]))


def _fold_places(bundle: Bundle, root: Path) -> dict[Path, int]:
    """Folders of all trained folds of an unpacked bundle, each with its place in the engine's outputs."""
    models = _run_folder(bundle, root).models()
    folds = [model.path / fold for model in models for fold in model.record["fold_folders"]]
    return {fold: place for place, fold in enumerate(folds)}


def _checked(number: int, report: Sequence[int]) -> np.ndarray:
    """Tokens (length,) uint16 of a report."""
    tokens = np.asarray(report)
    if tokens.ndim != 1 or not len(tokens):
        raise UserError(f"report {number}: expected at least one token")
    if tokens.dtype.kind not in "iu" or tokens.min() < 0 or tokens.max() > LARGEST_TOKEN:
        raise UserError(f"report {number}: expected token ids, whole numbers from 0 to {LARGEST_TOKEN}")
    return tokens.astype(np.uint16)
