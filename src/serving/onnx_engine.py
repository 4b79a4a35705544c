"""Engine on onnxruntime: the trained folds of an unpacked bundle as ONNX graphs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from src.core import storage
from src.core.errors import UserError
from src.core.run_settings import Denoise
from src.core.settings import fingerprint
from src.serving.packages import require_packages
from src.serving.predictor import Rows
from src.training.views import mean_of_views

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

MODEL = "model.onnx"
"""File of a classifier in the folder of its fold."""
BATCH_SIZE = 16
"""Most reports that a graph computes together: sorted by length, few tokens are padding."""
WEIGHTS = "weights"
"""Key of a graph's notes that tells of INT8."""


class OnnxEngine:
    """Trained folds, and the denoisers through which they read reports.

    Graphs in INT8 scale what they compute by the largest number of the batch: a prediction would depend on batch mates
    and on padding. So they get one report at a time, which takes no longer.
    """

    name = "onnx"

    def __init__(self, folds: Sequence[Fold], threads: int):
        require_packages("engine=onnx", "onnxruntime")
        self._folds = folds
        files = {file for fold in folds for file in (fold.graph, *fold.views) if file}
        self._sessions = {file: open_session(file, threads) for file in sorted(files)}
        notes = [session.get_modelmeta().custom_metadata_map for session in self._sessions.values()]
        self._batch_size = 1 if any(note.get(WEIGHTS) == "int8" for note in notes) else BATCH_SIZE

    @classmethod
    def load(cls, folders: Sequence[Path], root: Path, threads: int) -> OnnxEngine:
        """Loads the trained folds in `folders` of the output folder `root`; graphs that are missing are exported there.

        Raises UserError for models of series, see export_fold().
        """
        return cls([export_missing(folder, root) for folder in folders], threads)

    def outputs(self, rows: Rows) -> np.ndarray:
        """Logits (M, B, L) float32 of the M trained folds."""
        if "tokens" not in rows.inputs:
            raise UserError("engine onnx reads reports of tokens; serve this run with engine torch")
        found: np.ndarray | None = None
        for places, tokens, lengths in _batches(rows.inputs["tokens"], rows.lengths, self._batch_size):
            seen: dict[Path | None, dict[str, np.ndarray]] = {}
            for i, fold in enumerate(self._folds):
                logits = self._logits(fold, tokens, lengths, seen)
                if found is None:
                    found = np.empty((len(self._folds), len(rows.lengths), logits.shape[1]), dtype=np.float32)
                found[i, places] = logits
        if found is None:
            raise ValueError("there are no rows")
        return found

    def _logits(
        self, fold: Fold, tokens: np.ndarray, lengths: np.ndarray, seen: dict[Path | None, dict[str, np.ndarray]]
    ) -> np.ndarray:
        """Logits (B, L) of one fold. `seen` has what the denoisers made of the batch, by their files, and
        the batch as it is under None."""
        session, plain = self._sessions[fold.graph], {"tokens": tokens, "lengths": lengths}
        if not fold.views:
            return session.run(["logits"], plain)[0]
        total = []
        for file in fold.views:
            if file not in seen and file is None:
                as_is = {"words": tokens[..., None], "shares": np.ones((*tokens.shape, 1), dtype=np.float32)}
                seen[file] = {**as_is, "lengths": lengths}
            elif file not in seen:
                words, shares = self._sessions[file].run(["words", "shares"], plain)
                seen[file] = {"words": words, "shares": shares, "lengths": lengths}
            total.append(session.run(["logits"], seen[file])[0])
        return mean_of_views(total, fold.doubt)


class Fold(NamedTuple):
    """Files of one trained fold."""

    graph: Path
    views: tuple[Path | None, ...]
    """Graph of each view of its denoiser, None for the report as it is; empty where there is no denoiser."""
    doubt: float = 0.0
    """As denoise.doubt."""


def export_missing(folder: Path, root: Path, to: Path | None = None) -> Fold:
    """Exports what a trained fold in the output folder `root` lacks of its graphs; they lie in `to` as in an output
    folder (default: `root`)."""
    result = storage.read_json(storage.require(folder / "result.json", "train"))
    place = folder if to is None else to / folder.relative_to(root)
    graph, views = place / MODEL, _views(result, to or root)
    if not all(file.exists() for file in (graph, *views.values()) if file):
        import torch

        from src.serving.export import export_denoiser, export_fold
        from src.training.denoising import Denoiser
        from src.training.trained_fold import TrainedFold

        fold = TrainedFold.load(folder, torch.device("cpu"), root)
        if not graph.exists():
            export_fold(fold, graph)
        for view, file in views.items():
            if file and not file.exists():
                denoiser = Denoiser.load(root / result["denoiser"], fold.run.denoise, fold.device, "fp32")
                export_denoiser(denoiser, view, file)
    return Fold(graph, tuple(views.values()), result["run"]["denoise"].get("doubt", 0.0))


def _views(result: Mapping[str, Any], root: Path) -> dict[str, Path | None]:
    """Graph of each view through which the fold of a result.json reads reports, beside the denoiser's weights; None for
    reports as they are."""
    if not result.get("denoiser"):
        return {}
    settings = Denoise.model_validate(result["run"]["denoise"])
    stamp = fingerprint(settings.model_dump(include={"prior", "confidence"}))[:8]
    folder = root / result["denoiser"]
    return {view: None if view == "raw" else folder / f"{view}.{stamp}.onnx" for view in settings.views}


def open_session(file: Path, threads: int) -> InferenceSession:
    """Opens a graph for so many threads. Raises UserError for a file that is none."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no class in common
        raise UserError(f"{file} cannot be read as a model ({error}). Make the bundle again.") from error


def _batches(
    tokens: np.ndarray, lengths: np.ndarray, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields places (b,), tokens (b, t) int64 and lengths (b,) int64, from the shortest reports to the longest."""
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        width = int(lengths[places[-1]])
        yield places, tokens[places, :width].astype(np.int64), lengths[places].astype(np.int64)
