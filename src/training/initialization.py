"""Initial weights: word vectors, and encoders pretrained on all text. Made once, shared by folds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from src.core import array_files, storage, versions
from src.core.errors import UserError
from src.core.language import _
from src.core.settings import Run, fingerprint
from src.data.dataset import Dataset
from src.evaluation.workspace import Workspace
from src.models import embeddings
from src.training.device_cache import Machine
from src.training.job_specs import PretrainJob, reference

HEAD = ("pooling", "head_dropout", "dropout_samples")
"""Settings of a model that pretraining does not see."""


@dataclass(frozen=True)
class Start:
    """Initial weights of the models of one run."""

    vectors: str | None
    """File of the vectors that start the embedding."""
    pretrained: str | None
    """File of the weights that embedding and encoder start from."""
    denoiser: str | None
    """Folder of the encoder that puts reports right."""
    fingerprint: str


def starts_of(workspace: Workspace, here: Machine) -> dict[str, Start]:
    """Initial weights of each run.

    Raises UserError, with the command, for a missing pretraining, unless the workspace is read only.
    """
    config = workspace.settings
    vectors_of = word_vectors(workspace)
    jobs, found = pretrain_jobs(workspace, here, vectors_of), {}
    for name, run in config.runs.items():
        job, denoiser = jobs.get(name), jobs.get(run.denoise.by)
        for needed in filter(None, (job, denoiser)):
            if not workspace.read_only and not needed.is_done():
                remedy = workspace.command("pretrain")
                raise UserError(
                    _("the pretrained encoder for run {name} is missing. Make it with: ./run.sh {remedy}").format(
                        name=name, remedy=remedy
                    )
                )
        vectors_file = None if job else vectors_of[name]
        found[name] = Start(
            vectors_file,
            str(job.weights) if job else None,
            str(denoiser.path) if denoiser else None,
            fingerprint(
                [
                    job.fingerprint if job else vectors_file and Path(vectors_file).name,
                    denoiser.fingerprint if denoiser else None,
                ]
            ),
        )
    return found


def pretrain_jobs(
    workspace: Workspace, here: Machine, vectors_of: dict[str, str | None] | None = None
) -> dict[str, PretrainJob]:
    """The pretraining of each run and reader that asks for one; those of one encoder and settings have one job."""
    config, dataset = workspace.settings, workspace.dataset
    folders, made_by, jobs = text_folders(dataset), [versions.PRETRAIN, storage.libraries("torch"), here.device], {}
    vectors_of = vectors_of or word_vectors(workspace)
    texts = [dataset.manifest["train"], *dataset.test_texts.values(), *dataset.extra_texts.values()]
    for name, run in {**config.denoisers, **config.runs}.items():
        if not run.pretrain.epochs:
            continue
        settings = pretrain_settings(run)
        precision = here.precision(run.pretrain.precision)
        stamp = fingerprint(
            {
                "run": settings,
                "texts": texts,
                "vocabulary": dataset.manifest["vocabulary"],
                "vectors": vectors_of[name] and Path(vectors_of[name]).name,
                "precision": precision,
                "made_by": made_by,
            }
        )
        jobs[name] = PretrainJob(
            run=settings,
            corpora=[reference(folder, dataset.output.root) for folder in folders],
            inputs=dataset.shape.to_json(),
            vectors=vectors_of[name] and reference(vectors_of[name], dataset.output.root),
            device=here.device,
            precision=precision,
            output=str(dataset.output.root),
            folder=reference(dataset.output.pretrained / f"{run.model.encoder}.{stamp}", dataset.output.root),
            fingerprint=stamp,
        )
    return jobs


def pretrain_settings(run: Run) -> dict[str, Any]:
    """Settings of a run that its pretrained encoder depends on."""
    settings = run.model_dump(mode="json", include={"model", "pretrain"})
    for key in HEAD:
        del settings["model"][key]
    return settings


def text_folders(dataset: Dataset) -> list[Path]:
    """All text, labelled or not, as folders of corpora."""
    tests, extras = map(dataset.test_folder, dataset.test_files), map(dataset.extra_folder, dataset.extra_files)
    return [dataset.train_folder, *tests, *extras]


def word_vectors(workspace: Workspace) -> dict[str, str | None]:
    """The file of each run's vectors, if it has any: named by the text that they are made from, and made if need be."""
    config, dataset = workspace.settings, workspace.dataset
    has_words = dataset.shape.kind == "tokens"
    sizes = {
        name: run.model.embedding_size if has_words and run.model.embedding_init == "ppmi" else None
        for name, run in {**config.denoisers, **config.runs}.items()
    }
    wanted = set(sizes.values()) - {None}
    if not wanted:
        return sizes
    texts = [array_files.read_npy(folder / "tokens.npy", "prepare", mapped=True) for folder in text_folders(dataset)]
    stamp = fingerprint([*map(storage.array_hash, texts), versions.VECTORS])
    paths = {size: dataset.output.vectors / f"ppmi_{size}.{stamp}.npy" for size in wanted}
    for size, path in paths.items():
        if not workspace.read_only and not array_files.is_whole(path):
            with threadpool_limits(1):  # another number of threads would give other last bits
                array_files.write_npy(path, embeddings.ppmi_vectors(texts, len(dataset.vocabulary), size))
    return {name: size and str(paths[size]) for name, size in sizes.items()}
