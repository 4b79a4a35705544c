"""Few-shot adaptation: a trained fold is trained further on a few labelled rows of the domain that it has not seen.

Half of the domain's rows, the same for every number of rows, is judged; the rows to learn from are drawn of the other
half. Epochs and learning rate are fixed beforehand (settings adapt), so nothing is chosen on what is judged.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from src.core import array_files, storage, versions
from src.core.executors import Job, reads
from src.core.settings import Adapt, fingerprint
from src.data.corpus import Corpus
from src.data.tasks import KINDS, Task
from src.training.job_specs import reference, trained_fold

if TYPE_CHECKING:
    from src.training.trained_fold import TrainedFold

BATCH_SIZE = 32
"""Largest number of rows of a step: ten rows or a hundred would otherwise be one step an epoch."""


def halves(rows: np.ndarray, labels: np.ndarray, task: Task, seed: int, domain: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits the rows (M,) of a domain, with their labels (M, n_labels), into those that are judged and those that are
    drawn from, each ascending."""
    shuffled = np.random.default_rng([seed, domain]).permutation(len(rows))
    order = shuffled[np.argsort(_strata(labels, task)[shuffled], kind="stable")]  # each stratum is halved
    return np.sort(rows[order[::2]]), np.sort(rows[order[1::2]])


def drawn(rows: np.ndarray, labels: np.ndarray, task: Task, seed: int, domain: int, draw: int, n: int) -> np.ndarray:
    """Draws n of the rows (M,) of a domain, or all if there are fewer. A larger n of the same draw holds the rows of a
    smaller one. Of a label with strata (binary, classes, parts of a number) each has its share, and at least one row
    where n allows it; several labels are drawn at random."""
    strata = _strata(labels, task)
    order = _spread(strata, np.random.default_rng([seed, domain, draw]))
    first = np.sort(np.unique(strata[order], return_index=True)[1])
    return rows[np.concatenate([order[first], np.delete(order, first)])[:n]]


def _strata(labels: np.ndarray, task: Task) -> np.ndarray:
    """Stratum of each row, (M,): the class, or the part that a number lies in; one for all where there are several
    labels."""
    if task.kind == "multilabel":
        return np.zeros(len(labels), dtype=np.int64)
    columns = KINDS[task.kind].strata(labels)
    return columns[:, 0].astype(np.int64) if columns.shape[1] == 1 else columns.argmax(axis=1)


def _spread(strata: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Order of rows in which each stratum is spread evenly, and within which rows are at random."""
    place = np.empty(len(strata))
    for stratum in np.unique(strata):
        rows = generator.permutation(np.flatnonzero(strata == stratum))
        place[rows] = (np.arange(len(rows)) + generator.random()) / len(rows)
    return np.argsort(place, kind="stable")


def adapted_path(folder: Path, fold: Path, settings: Adapt, draw: int, n: int) -> Path:
    """Path, below `folder`, of the outputs of the trained fold after n rows of a draw."""
    stamp = fingerprint(
        {
            "fold": storage.read_json(fold / "result.json", "train")["fingerprint"],
            "settings": settings.model_dump(exclude={"draws"}),
            "draw": draw,
            "rows": n,
            "version": [versions.ADAPT, storage.libraries("torch")],
        }
    )
    return folder / fold.parent.name / f"{fold.name}.draw_{draw}.rows_{n}.{stamp[:8]}.npy"


def adaptation_jobs(
    output: Path,
    folder: Path,
    folds: Sequence[tuple[Path, int]],
    corpus: Path,
    settings: Adapt,
    sizes: Sequence[int],
    device: str,
) -> list[Job]:
    """Makes a job for each trained fold, given with the number of its domain, and each draw, of which something is
    missing in the folder `folder`. Files in the folder `output` are named by references."""
    jobs = []
    for fold, domain in folds:
        for draw in range(settings.draws):
            outs = {n: adapted_path(folder, fold, settings, draw, n) for n in sizes if n}
            missing = {n: out for n, out in outs.items() if not array_files.is_whole(out)}
            if missing:
                payload = {
                    "output": str(output),
                    "fold": reference(fold, output),
                    "corpus": reference(corpus, output),
                    "outs": {str(n): reference(out, output) for n, out in missing.items()},
                    "domain": domain,
                    "draw": draw,
                    "settings": settings.model_dump(),
                    "device": device,
                }
                name = f"{fold.parent.name} {fold.name.rsplit('.', 1)[0].replace('.', ' ')} draw_{draw}"
                jobs.append(Job(name, f"{__name__}:adapt_fold", payload, float(sum(missing))))
    return jobs


def described(news: dict[str, Any]) -> tuple[float, str]:
    """Words the news of a job."""
    return news["share"], f"{news['rows']:,}"


@reads(trained_fold)
def adapt_fold(payload: dict[str, Any], progress: Callable[[dict[str, Any]], None]) -> None:
    """Runs one job: a trained fold learns from each number of rows, each time from its own weights. Writes the logits
    (J, n_labels) of the judged rows."""
    import torch

    from src.training import devices
    from src.training.inference import mean_logits
    from src.training.trained_fold import TrainedFold

    output, settings = Path(payload["output"]), Adapt.model_validate(payload["settings"])
    fold, folder, device = output / payload["fold"], output / payload["corpus"], torch.device(payload["device"])
    devices.set_up(device)
    corpus = Corpus.load(folder)
    rows = array_files.read_npz(fold / "split.npz", "train")["predicted_rows"]
    outs = {int(n): output / out for n, out in payload["outs"].items()}
    views = None
    for done, (n, out) in enumerate(outs.items()):
        trained = TrainedFold.load(fold, device, output)
        views = views or trained.views(folder)
        where = settings.seed, payload["domain"]
        judged, left = halves(rows, np.asarray(corpus.labels[rows]), trained.task, *where)
        chosen = drawn(left, np.asarray(corpus.labels[left]), trained.task, *where, payload["draw"], n)
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", suffix=".tmp", dir=out.parent) as scratch:
            _fine_tune(trained, corpus, folder, views[0], chosen, settings, payload["draw"], Path(scratch))
        doubt = trained.run.denoise.doubt
        logits = mean_logits(trained.model, views, corpus.lengths, device, judged, doubt=doubt)
        array_files.write_npy(out, logits)
        progress({"share": (done + 1) / len(outs), "rows": n})


def _fine_tune(
    trained: TrainedFold,
    corpus: Corpus,
    folder: Path,
    read: dict[str, np.ndarray],
    rows: np.ndarray,
    settings: Adapt,
    draw: int,
    scratch: Path,
) -> None:
    """Trains a fold further on `rows`, in place, as train.regime=pooled does; `read` is what it reads of the corpus in
    `folder`. Checkpoints are in `scratch`."""
    import torch

    from src.training.classification import Classification
    from src.training.denoising import Denoiser
    from src.training.loop import fit
    from src.training.rows import Rows, computed_once

    model, run, device = trained.model, trained.run, trained.device
    model.auxiliary = None  # further outcomes are not asked of the rows of a new domain
    own = run.train
    given = own.model_copy(
        update={
            "epochs": settings.epochs,
            "learning_rate": settings.rate * own.learning_rate,
            "batch_size": min(own.batch_size, BATCH_SIZE),
            **{"regime": "pooled", "patience": 0, "ema_decay": 0.0, "join": 0.0, "reorder": 0.0, "compile": False},
        }
    )
    train = Rows.of(corpus, rows)
    if "values" in corpus.inputs:
        train = valid = computed_once(train, model.input_layer, device)
    else:
        valid = replace(train, inputs=read)
    denoiser = None
    if trained.denoiser and run.denoise.in_training:
        denoiser = Denoiser.load(trained.denoiser, run.denoise, device, trained.precision)
    torch.manual_seed(draw)
    objective = Classification(trained.task, model, train, valid, given, device, trained.precision, denoiser)
    fit(objective, (settings.seed, draw), scratch, lambda news: None)
