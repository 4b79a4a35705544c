"""Predictions of a bundle: it is unpacked to a temporary output folder, and its run predicts from there as any run."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from src.core.errors import UserError
from src.core.language import _, word
from src.core.settings import CLINICAL, Config
from src.core.storage import Output
from src.core.terminal import is_json
from src.data.corpus import Corpus
from src.data.tasks import Task
from src.evaluation.workspace import Workspace
from src.pipeline.commands.predict import check_place, write_prediction
from src.pipeline.file_prediction import Engine, predicting
from src.pipeline.predicted_files import predicted_file
from src.serving.bundle import Bundle

STREAM = Path("-")
"""Stdin among the files, stdout behind --to."""
CHUNK = 4096
"""Rows that an exported model reads at a time."""


def predict_bundled(workspace: Workspace, file: Path, inputs: Sequence[Path], to: Path | None) -> None:
    """Writes the predictions of a bundle for each input: reports, folders of reports, stays or images; `-` is stdin.

    Raises UserError for a bundle that cannot be read, for another task, and for one place of several predictions.
    """
    bundle = Bundle.open(file)
    files = _expanded(bundle.task, inputs)
    if STREAM in files and len(files) > 1:
        raise UserError(
            _("- is stdin, whose predictions go to stdout: give it alone, not among {n} files").format(n=len(files))
        )
    if to is not None and len(files) > 1:
        raise UserError(
            _("--to {to} is one file for {n} input files; leave it out, and each has one of its own").format(
                to=to, n=len(files)
            )
        )
    if to is None and files == [STREAM]:
        to = STREAM
    if to == STREAM and is_json():
        raise UserError(
            _("stdout holds the predictions or one JSON document (--json), not both: name a file, --to FILE")
        )
    _check_names(files)
    with tempfile.TemporaryDirectory(prefix="bundle-") as made, _results_on_stderr(to == STREAM):
        folder = Path(made)
        root = bundle.unpack(folder / "output")
        inner = Workspace(_settings(workspace.settings, bundle, root))
        source, engine = inner.run(bundle.name), _engine(bundle)
        for each in files:
            path = to or workspace.output.prediction(source.name, each)
            path, place = (folder / "predictions.csv", "stdout") if path == STREAM else (path, "")
            check_place(path, each)
            try:
                rows = predicted_file(_regular(each, folder), inner.settings)
                with predicting(inner, rows, [source], lambda _: np.array(bundle.record["prior"]), engine) as made:
                    made.predict()
                    write_prediction(path, source, made, place)
            except UserError as error:
                told = str(error).replace(str(folder / "stdin"), "stdin").replace(f"{root}/", f"{file}: ")
                raise UserError(told) from error
            if to == STREAM:
                _to_stdout(path)


def _expanded(task: Task, inputs: Sequence[Path]) -> list[Path]:
    """The files that are predicted: those that are named, and of a folder of reports its .csv files."""
    files: list[Path] = []
    for path in inputs:
        if task.input_kind == "reports" and path.is_dir():
            found = sorted(path.glob("*.csv"))
            if not found:
                raise UserError(_("the folder {path} holds no .csv file of reports").format(path=path))
            files += found
        else:
            files.append(path)
    return files


def _check_names(files: Sequence[Path]) -> None:
    """Raises UserError for two input files whose predictions would be one file of the output folder."""
    names = [Output(Path()).prediction("", file) for file in files]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise UserError(
                _(
                    "the predictions of {one} and of {other} would be one file. Rename one, or predict each with --to"
                ).format(one=files[names.index(name)], other=files[i])
            )


def _settings(settings: Config, bundle: Bundle, root: Path) -> Config:
    """Settings of this command for the bundle's task, in the output folder `root`. Raises UserError where the command
    asks for another task."""
    own = next((name for name in CLINICAL if bundle.task.name.startswith(name)), bundle.task.name)
    if settings.task not in ("auto", own):
        raise UserError(
            _("{path} predicts {title}: leave --task {task} out").format(
                path=bundle.path, title=word(bundle.task.title), task=settings.task
            )
        )
    paths = settings.paths.model_copy(update={"output": root})
    return settings.model_copy(update={"paths": paths, "task": own, "metric": "auto"})


def _engine(bundle: Bundle) -> Engine | None:
    """Computes the logits of a corpus by exported models; None where the bundle has the models themselves."""
    if bundle.has(".safetensors"):
        return None
    from src.serving.predictor import Predictor, Rows

    predictor = Predictor.load(bundle.path)

    def logits(corpus: Corpus) -> np.ndarray:
        found = []
        for start in range(0, len(corpus), CHUNK):
            part = slice(start, start + CHUNK)
            inputs = {name: np.asarray(array[part]) for name, array in corpus.inputs.items()}
            found.append(predictor.logits(Rows(inputs, np.asarray(corpus.lengths[part]))))
        return np.concatenate(found)

    return logits


def _regular(path: Path, folder: Path) -> Path:
    """The path of a regular file with the content of `path`: readers ask for sizes, and a pipe has none."""
    if path != STREAM and (not path.exists() or path.is_file() or path.is_dir()):
        return path
    copied = folder / "stdin"
    with contextlib.nullcontext(sys.stdin.buffer) if path == STREAM else path.open("rb") as source:
        with copied.open("wb") as target:
            shutil.copyfileobj(source, target)
    return copied


@contextlib.contextmanager
def _results_on_stderr(active: bool) -> Iterator[None]:
    """Keeps stdout free for predictions."""
    with contextlib.redirect_stdout(sys.stderr) if active else contextlib.nullcontext():
        yield


def _to_stdout(path: Path) -> None:
    with path.open("rb") as source:
        shutil.copyfileobj(source, sys.__stdout__.buffer)
    sys.__stdout__.buffer.flush()
