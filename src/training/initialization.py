"""Initial weights: word vectors, and encoders pretrained on all text. Made once, shared by folds.

With pretrain.leave_out a run has several encoders, each of which leaves out some folds (cross-fitting).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.core import array_files, storage, versions
from src.core.errors import UserError
from src.core.language import _
from src.core.run_settings import HEAD, Run
from src.core.settings import fingerprint
from src.core.threads import one_thread
from src.data.dataset import Dataset
from src.evaluation.workspace import Workspace
from src.models import embeddings
from src.training.device_cache import Machine
from src.training.job_specs import PretrainJob, reference


@dataclass(frozen=True)
class Start:
    """Initial weights of the models of one run on one fold."""

    vectors: str | None
    """File of the vectors that start the embedding."""
    pretrained: str | None
    """File of the weights that embedding and encoder start from."""
    denoiser: str | None
    """Folder of the encoder that puts reports right."""
    fingerprint: str


@dataclass(frozen=True)
class Starts:
    """Initial weights of the models of one run."""

    vectors: str | None
    encoders: Sequence[PretrainJob]
    """Encoders of the run, see pretrain_jobs(); none without pretraining."""
    denoisers: Sequence[PretrainJob]
    """Encoders of its denoiser; none without denoising."""

    def of_fold(self, fold: int) -> Start:
        """Returns the initial weights of the models that are validated on a fold."""
        job, denoiser = (jobs[fold % len(jobs)] if jobs else None for jobs in (self.encoders, self.denoisers))
        return Start(
            self.vectors,
            str(job.weights) if job else None,
            str(denoiser.path) if denoiser else None,
            fingerprint(
                [
                    job.fingerprint if job else self.vectors and Path(self.vectors).name,
                    denoiser.fingerprint if denoiser else None,
                ]
            ),
        )


def starts_of(workspace: Workspace, here: Machine) -> dict[str, Starts]:
    """Initial weights of each run.

    Raises UserError, with the command, for a missing pretraining, unless the workspace is read only.
    """
    config = workspace.settings
    vectors_of = word_vectors(workspace)
    jobs, found = pretrain_jobs(workspace, here, vectors_of), {}
    for name, run in config.runs.items():
        encoders, denoisers = jobs.get(name, []), jobs.get(run.denoise.by, [])
        for needed in (*encoders, *denoisers):
            if not workspace.read_only and not needed.is_done():
                remedy = workspace.command("pretrain")
                raise UserError(
                    _("the pretrained encoder for run {name} is missing. Make it with: ./run.sh {remedy}").format(
                        name=name, remedy=remedy
                    )
                )
        has_encoder = bool(encoders) or run.pretrain.by is not None
        found[name] = Starts(None if has_encoder else vectors_of[name], encoders, denoisers)
    return found


def pretrain_jobs(
    workspace: Workspace, here: Machine, vectors_of: dict[str, str | None] | None = None
) -> dict[str, list[PretrainJob]]:
    """The pretraining of each run and reader that asks for one; those of one encoder and settings have the same jobs.

    A run has one job, or several with pretrain.leave_out: models that are validated on fold f start from the encoder
    number f modulo the number of encoders, which has not read that fold.
    """
    config, dataset = workspace.settings, workspace.dataset
    made_by = [versions.PRETRAIN, storage.libraries("torch"), versions.computed_on(here.device)]
    folders, jobs = text_folders(dataset), {}
    vectors_of = vectors_of or word_vectors(workspace)
    texts = [dataset.manifest["train"], *dataset.test_texts.values(), *dataset.extra_texts.values()]
    for name, run in {**config.denoisers, **config.runs}.items():
        if not run.pretrain.epochs:
            continue
        settings = pretrain_settings(run)
        precision = here.precision(run.pretrain.precision)
        jobs[name] = []
        for rows in left_out(workspace, run):
            stamp = fingerprint(
                {
                    "run": settings,
                    "texts": texts,
                    "vocabulary": dataset.manifest["vocabulary"],
                    "vectors": vectors_of[name] and Path(vectors_of[name]).name,
                    "precision": precision,
                    "made_by": made_by,
                    **({} if rows is None else {"left_out": storage.array_hash(rows)}),
                }
            )
            place = dataset.output.pretrained / f"{run.model.encoder}.{stamp}"
            file = None if rows is None else place / "left_out.npy"
            if file and not workspace.read_only and not array_files.is_whole(file):
                array_files.write_npy(file, rows)
            jobs[name].append(
                PretrainJob(
                    run=settings,
                    corpora=[reference(folder, dataset.output.root) for folder in folders],
                    inputs=dataset.shape.to_json(),
                    vectors=vectors_of[name] and reference(vectors_of[name], dataset.output.root),
                    device=here.device,
                    precision=precision,
                    output=str(dataset.output.root),
                    folder=reference(place, dataset.output.root),
                    fingerprint=stamp,
                    left_out=file and reference(file, dataset.output.root),
                )
            )
    return jobs


def left_out(workspace: Workspace, run: Run) -> list[np.ndarray | None]:
    """Returns the train rows that each encoder of a run does not read, by pretrain.leave_out; None: it reads all. Rows
    of test and extra files are read, even where they hold the text of such a row."""
    if run.pretrain.leave_out == "none":
        return [None]
    splits = workspace.splits.splits()
    assert len({split.seed for split in splits}) == 1, "settings.Config takes one seed with pretrain.leave_out"
    judged = [split.predicted_rows for split in splits]
    n_encoders = run.pretrain.n_encoders(workspace.settings.folds)
    return [np.sort(np.concatenate(judged[i::n_encoders])) for i in range(n_encoders)]


def pretrain_settings(run: Run) -> dict[str, Any]:
    """Settings of a run that its pretrained encoder depends on."""
    settings = run.model_dump(mode="json", include={"model", "pretrain"})
    for key in HEAD:
        settings["model"].pop(key, None)
    return settings


def text_folders(dataset: Dataset) -> list[Path]:
    """All text, labelled or not, as folders of corpora."""
    tests, extras = map(dataset.test_folder, dataset.test_files), map(dataset.extra_folder, dataset.extra_files)
    return [dataset.train_folder, *tests, *extras]


def word_vectors(workspace: Workspace) -> dict[str, str | None]:
    """The file of each run's vectors, if it has any: named by the text that they are made from, and made if need be."""
    config, dataset = workspace.settings, workspace.dataset
    has_words = dataset.shape.kind == "tokens"

    def wants(run: Run) -> bool:
        return has_words and run.model.embedding_init == "ppmi" and run.pretrain.by is None

    runs = {**config.denoisers, **config.runs}
    sizes = {name: run.model.embedding_size if wants(run) else None for name, run in runs.items()}
    wanted = set(sizes.values()) - {None}
    if not wanted:
        return sizes
    texts = [array_files.read_npy(folder / "tokens.npy", "prepare", mapped=True) for folder in text_folders(dataset)]
    stamp = fingerprint([*map(storage.array_hash, texts), versions.VECTORS])
    paths = {size: dataset.output.vectors / f"ppmi_{size}.{stamp}.npy" for size in wanted}
    for size, path in paths.items():
        if not workspace.read_only and not array_files.is_whole(path):
            with one_thread("scipy.linalg"):
                array_files.write_npy(path, embeddings.ppmi_vectors(texts, len(dataset.vocabulary), size))
    return {name: size and str(paths[size]) for name, size in sizes.items()}
