"""Predictions of trained runs for a file of any size: in shards, each of which is resumed, in the file's order.

A shard goes through a chain of jobs: one for each trained fold, then one for each run, which averages and blends what
the folds say and writes the shard's lines. At the end the lines of all shards are joined to one file. Between them all
lies in a folder of output/predictions/, named by the file's content: what a killed command finished is not made again.

read.json, rows/, ENCODING/00000/     the file, see predicted_files.py
logits/00000/FOLD.npy                 logits of a trained fold for the shard, named by the fold's content
RUN.STAMP/00000.csv, 00000.json       lines of the shard by a run; the latter is written last
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from src.core import array_files, locks, storage, versions
from src.core.errors import Damaged, UserError
from src.core.executors import Failure, Job, raise_failures, reads, run_shown
from src.core.language import _
from src.core.settings import fingerprint
from src.core.terminal import JobProgress, info
from src.data.corpus import CHUNK, Corpus
from src.data.submission_files import write_submission
from src.data.tasks import Average, Task, get_task
from src.ensemble.blending import BlendWeights
from src.evaluation import metrics
from src.evaluation.metrics import Estimate
from src.evaluation.runs import RunFolder
from src.evaluation.workspace import Workspace
from src.pipeline.predicted_files import PredictedFile, completed, corpus_folder, is_encoded, rows_file
from src.training import device_cache
from src.training.job_specs import reference
from src.training.planning import epoch_cost
from src.training.prediction import prediction_name, shard_job

COPIED = 1 << 20
"""Bytes that are copied at a time."""
WRITING = 0.02
"""Cost of writing a shard's lines, relative to an epoch of a model with one layer on it."""

Engine = Callable[[Corpus], np.ndarray]
"""Computes the logits (N, n_labels) of a corpus; of a bundle whose models are exported."""


class FilePrediction:
    """Predictions of some runs for one file. Its methods are called in the order in which they stand."""

    def __init__(
        self,
        workspace: Workspace,
        file: PredictedFile,
        sources: Sequence[RunFolder],
        prior_of: Callable[[RunFolder], np.ndarray] | None = None,
        engine: Engine | None = None,
    ):
        """`prior_of`: label rates (L,) that reports without a description get of a run."""
        self.workspace, self.file, self.sources = workspace, file, sources
        self.folder = workspace.output.predictions / _name(workspace, file)
        self.facts: dict[str, Any] = {}
        self._prior_of, self._engine = prior_of, engine
        self._machine = device_cache.find(workspace.output, workspace.settings.device)
        self._models = {model.name: model for source in sources for model in source.models()}
        self._folds = {key: fold for model in self._models.values() for fold, key in self._folds_of(model)}
        self._trees = {source.name: self._tree(source) for source in sources}
        self._costs = {name: epoch_cost(model.settings.model.model_dump()) for name, model in self._models.items()}
        self._stamps: dict[str, str] = {}

    def read(self) -> None:
        """Encodes the file, as far as a killed command has not. Raises UserError for a file that cannot be read, or for
        whose reports without a description there are no label rates."""
        models = list(self._models.values())
        encodings = sorted({self.file.encoding(model) for model in models})
        size = _shard_size(self.workspace)
        noted = storage.read_kept(self.folder / "read.json")
        try:
            if noted is None or not {*noted.get("losses", ())}.issuperset(encodings):
                self.facts = self.file.encode(models, self.folder, size)
            else:
                self.facts = noted
                missing = {
                    number
                    for number in range(self.n_shards)
                    if self._unwritten(number) and not all(is_encoded(self.folder, name, number) for name in encodings)
                }
                if missing:
                    self.facts = self.file.encode(models, self.folder, size, missing.__contains__)
            for source in self.sources:
                self._prior(source)
        except UserError:
            if noted is None:
                shutil.rmtree(self.folder, ignore_errors=True)
            raise
        if self.n_shards > 1:
            told = _("predict: {file}: {n:,} reports in {shards:,} shards")
            info(told.format(file=self.file.path.name, n=sum(self.facts["rows"]), shards=self.n_shards))
        self.file.tell(models, self.facts)

    @property
    def n_shards(self) -> int:
        return len(self.facts["rows"])

    def predict(self, lines: bool = True) -> None:
        """Runs all jobs that are not done. `lines`: also those that write lines; else logits() has the results."""
        waiting = [number for number in range(self.n_shards) if not lines or self._unwritten(number)]
        if len(waiting) < self.n_shards:
            done = self.n_shards - len(waiting)
            told = _("predict: {done:,} of {n:,} shards of {file} are finished already")
            info(told.format(done=done, n=self.n_shards, file=self.file.path.name))
        if not waiting:
            return
        if self._engine:
            self._ask_engine(waiting)
            return
        executor = self._machine.executor(self.workspace.settings.executor, self.n_shards * len(self._folds))
        jobs: list[Job] = []
        needs: dict[str, list[str]] = {}
        for numbers in _batched(waiting, executor.workers):
            group: dict[int, list[str]] = {number: [] for number in numbers}
            # Neighbours are on different shards: the first job on one denoises it, and others on it would wait.
            for key, number in itertools.product(self._folds, numbers):
                if (job := self._fold_job(key, number)) is not None:
                    group[number].append(job.name)
                    jobs.append(job)
            for number in numbers if lines else ():
                for source in self._unwritten(number):
                    job = self._lines_job(source, number)
                    needs[job.name] = group[number]
                    jobs.append(job)
        raise_failures(run_shown(executor, "predict", jobs, also=_Cleaner(self), needs=needs))

    def logits(self, source: RunFolder) -> np.ndarray:
        """Logits (N, n_labels) float32 of a run for the rows with a description."""
        output = self.workspace.output.root
        return np.concatenate(
            [outputs_of(self._located(self._trees[source.name], number), output) for number in range(self.n_shards)]
        )

    def write(self, source: RunFolder, path: Path) -> None:
        """Joins the lines of all shards to the file `path`, which gets its name when it was read back and is whole."""
        digest = hashlib.sha256()

        def write(file: IO[bytes]) -> None:
            for number in range(self.n_shards):
                _copy(self._lines_file(source, number), file, digest)

        def check(written: Path) -> None:
            with written.open("rb") as file:
                if hashlib.file_digest(file, "sha256").digest() != digest.digest():
                    raise UserError(
                        _(
                            "{path} was not written: the file read back differs. Check the disk and run it again."
                        ).format(path=path)
                    )

        storage.write_atomic(path, write, check)

    def score(self, source: RunFolder) -> tuple[Estimate, int] | None:
        """Score of a run on the labels of the file, and the number of rows without a known one; None where there are
        no labels. Raises UserError where these are another task's."""
        n_rows = sum(self.facts["rows"])
        if self.file.has_labels_for(source.task, self.facts):
            noted = (self._lines_file(source, number).with_suffix(".json") for number in range(self.n_shards))
            sums = sum(np.array(storage.read_json(path)["sums"]) for path in noted)
            return metrics.score_of_sums(source.task, sums), 0
        if (found := self.file.labels_for(source.task)) is None:
            return None
        known, labels = found
        predictions = source.task.decode(self.logits(source))
        return metrics.official_score(source.task, labels, predictions[known]), n_rows - len(known)

    def _unwritten(self, number: int) -> list[RunFolder]:
        """Runs whose lines of a shard are not there."""
        return [source for source in self.sources if not _is_written(self._lines_file(source, number))]

    def _lines_file(self, source: RunFolder, number: int) -> Path:
        if source.name not in self._stamps:
            self._stamps[source.name] = fingerprint(
                {
                    "run": self._trees[source.name],
                    "task": source.task.name,
                    "eps": self.workspace.settings.submit.eps,
                    "prior": self._prior(source),
                    "made_by": [versions.SUBMIT, versions.BLEND],
                }
            )
        return self.folder / f"{source.name}.{self._stamps[source.name]}" / f"{number:05d}.csv"

    def _prior(self, source: RunFolder) -> list[float] | None:
        if not self.facts["empty"]:
            return None
        return self.workspace.keep(f"prior of {source.name}", lambda: self._prior_of(source).tolist())

    def _tree(self, source: RunFolder) -> dict[str, Any]:
        """Average or blend that a run is, with the keys of the folds that it is made of. Raises UserError for a run
        that rests on an imported one, or a blend of which a member was made anew since."""
        if self._engine:
            return {"average": "", "folds": ["engine"]}
        if source.is_blend:
            source.check_members()
            members = [self.workspace.run(member) for member in source.record["members"]]
            return {"blend": source.record["weights"], "members": list(map(self._tree, members))}
        folds = {source.path / part for part in source.record["fold_folders"]}
        keys = {fold: key for key, fold in self._folds.items() if fold in folds}
        return {
            "average": source.average.kind,
            "folds": [keys[source.path / part] for part in source.record["fold_folders"]],
        }

    def _folds_of(self, model: RunFolder) -> Iterator[tuple[Path, str]]:
        """Folders of the trained folds of a run, each with the key of its content. Raises UserError where a denoiser is
        missing."""
        for fold in (model.path / part for part in model.record["fold_folders"] if not self._engine):
            result = storage.read_json(fold / "result.json", model.remedy)
            if denoiser := result.get("denoiser"):
                storage.require(self.workspace.output.root / denoiser / "result.json", model.remedy)
            made_by = [versions.TRAIN, storage.libraries("torch"), versions.computed_on(self._machine.device)]
            yield fold, fingerprint({"fold": result, "place": fold.name, "made_by": made_by})

    def _located(self, tree: dict[str, Any], number: int) -> dict[str, Any]:
        """Tree of a run with references to the logits of a shard in the place of keys."""
        if "members" in tree:
            return {**tree, "members": [self._located(member, number) for member in tree["members"]]}
        files = [self._logits_file(key, number) for key in tree["folds"]]
        return {**tree, "folds": [reference(file, self.workspace.output.root) for file in files]}

    def _corpus(self, key: str, number: int) -> Path:
        """Folder of a shard as the trained fold of a key reads it."""
        name = next(iter(self._models)) if key == "engine" else self._folds[key].parent.name
        return corpus_folder(self.folder, self.file.encoding(self._models[name]), number)

    def _logits_file(self, key: str, number: int) -> Path:
        """File of the logits of a trained fold for a shard: that of the pipeline, if it has predicted the same file."""
        if key in self._folds and self.n_shards == 1:
            made = self._folds[key] / prediction_name(self._corpus(key, number))
            if array_files.is_whole(made):
                return made
        return self._logits_folder(number) / f"{key}.npy"

    def _logits_folder(self, number: int) -> Path:
        return self.folder / "logits" / f"{number:05d}"

    def _fold_job(self, key: str, number: int) -> Job | None:
        """Job of a trained fold on a shard; None if it is done."""
        out, fold = self._logits_file(key, number), self._folds[key]
        if array_files.is_whole(out):
            return None
        label = f"shard {number + 1}/{self.n_shards}" if self.n_shards > 1 else f"on {self.file.path.name}"
        work = self._costs[fold.parent.name] * self.facts["rows"][number]
        corpus = self._corpus(key, number)
        return shard_job(self.workspace.output.root, fold, corpus, out, self._machine.device, CHUNK, label, work)

    def _lines_job(self, source: RunFolder, number: int) -> Job:
        output = self.workspace.output.root
        lines = self._lines_file(source, number)
        payload = {
            "output": str(output),
            "run": self._located(self._trees[source.name], number),
            "task": source.task.name,
            "rows": reference(rows_file(self.folder, number), output),
            "eps": self.workspace.settings.submit.eps,
            "prior": self._prior(source),
            "is_scored": self._is_scored(source.task),
            "out": reference(lines, output),
        }
        name = f"{source.name} lines of shard {number + 1}/{self.n_shards}"
        return Job(name, "src.pipeline.file_prediction:write_lines", payload, WRITING * self.facts["rows"][number])

    def _is_scored(self, task: Task) -> bool:
        with contextlib.suppress(UserError):  # score() raises it
            return self.file.has_labels_for(task, self.facts)
        return False

    def _ask_engine(self, waiting: Sequence[int]) -> None:
        names = {number: f"shard {number + 1}/{self.n_shards}" for number in waiting}
        with JobProgress("predict", dict.fromkeys(names.values(), 1.0), lines=False) as progress:
            for number, name in names.items():
                logits = self._engine(Corpus.load(self._corpus("engine", number)))
                array_files.write_npy(self._logits_file("engine", number), logits)
                for source in self._unwritten(number):
                    write_lines(self._lines_job(source, number).payload, lambda news: None)
                self._forget(number)
                progress.finish(name, "done")

    def _forget(self, number: int) -> None:
        """Removes all of a shard but its lines, once these are there. A file of one shard keeps it for score()."""
        if self.n_shards > 1 and not self._unwritten(number):
            encodings = {self.file.encoding(model) for model in self._models.values()}
            corpora = [corpus_folder(self.folder, name, number) for name in encodings]
            for folder in (self._logits_folder(number), *corpora):
                shutil.rmtree(folder, ignore_errors=True)


def _shard_size(workspace: Workspace) -> int:
    return -(-workspace.settings.predict.shard // CHUNK) * CHUNK


def _name(workspace: Workspace, file: PredictedFile) -> str:
    return f"{file.key}.{_shard_size(workspace)}"


@contextlib.contextmanager
def predicting(
    workspace: Workspace,
    file: PredictedFile,
    sources: Sequence[RunFolder],
    prior_of: Callable[[RunFolder], np.ndarray] | None = None,
    engine: Engine | None = None,
) -> Iterator[FilePrediction]:
    """Holds the folder of a file's predictions while the context lasts, and removes it at its end; what was made stays
    if that is an error. Another command on the same file waits."""
    lock = f"predict.{_name(workspace, file)}"
    with locks.hold(workspace.output.locks, [lock], [], workspace.command("predict")):
        made = FilePrediction(workspace, file, sources, prior_of, engine)
        made.read()
        yield made
        shutil.rmtree(made.folder)


class _Cleaner:
    """Watcher that removes what is no longer needed of a shard, so that the disk holds no logits of a whole file."""

    def __init__(self, prediction: FilePrediction):
        self._prediction = prediction

    def step(self, job: Job, news: dict[str, Any]) -> None:
        pass

    def finish(self, job: Job, failure: Failure | None) -> None:
        if failure is None and "out" in job.payload and job.payload["out"].endswith(".csv"):
            self._prediction._forget(int(Path(job.payload["out"]).stem))


def outputs_of(tree: dict[str, Any], output: Path) -> np.ndarray:
    """Outputs (n, n_labels) float32 of a run for a shard, from the files of its folds' outputs."""
    if "members" in tree:
        blend = BlendWeights.from_json(tree["blend"])
        return blend.apply([outputs_of(member, output) for member in tree["members"]]).astype(np.float32)
    average = Average(tree["average"])
    return average([array_files.read_npy(output / file, "predict") for file in tree["folds"]])


def _files_of(tree: dict[str, Any]) -> list[str]:
    """References to the files of a run's outputs for a shard."""
    if "members" in tree:
        return [file for member in tree["members"] for file in _files_of(member)]
    return list(tree["folds"])


@reads(lambda payload: [payload["rows"], *_files_of(payload["run"])])
def write_lines(payload: dict[str, Any], progress: Callable[[dict[str, Any]], None]) -> None:
    """Runs one job: the lines of a shard by a run, and what they contribute to the score where labels are known."""
    output, task = Path(payload["output"]), get_task(payload["task"])
    rows, out = array_files.read_npz(output / payload["rows"], "predict"), output / payload["out"]
    predictions = completed(rows, task.decode(outputs_of(payload["run"], output)), payload["prior"])
    write_submission(out, rows["ids"], predictions, payload["eps"], task)
    facts: dict[str, Any] = {"sha256": storage.file_sha256(out), "bytes": out.stat().st_size}
    if payload["is_scored"]:
        facts["sums"] = metrics.score_sums(task, rows["labels"][:, : task.n_labels], predictions)
    storage.write_json(out.with_suffix(".json"), facts)


def _is_written(lines: Path) -> bool:
    noted = storage.read_kept(lines.with_suffix(".json"))
    return noted is not None and lines.exists() and lines.stat().st_size == noted["bytes"]


def _copy(lines: Path, file: IO[bytes], digest: hashlib._Hash) -> None:
    """Appends the lines of a shard to a file. Raises Damaged, and forgets them, where they are not as written."""
    noted, own = storage.read_json(lines.with_suffix(".json")), hashlib.sha256()
    with lines.open("rb") as source:
        while block := source.read(COPIED):
            own.update(block)
            digest.update(block)
            file.write(block)
    if own.hexdigest() != noted["sha256"]:
        (note := lines.with_suffix(".json")).unlink()
        raise Damaged(lines, _("its checksum is not the one that {file} notes").format(file=note.name))


def _batched(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]
