"""Planning: the jobs of an experiment, each run on each fold with each seed, and the files that they read.

Training does all of them; tuning does those of one run, with other settings in each trial.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from src.core import array_files, storage, versions
from src.core.errors import UserError
from src.core.language import _, joined
from src.core.run_settings import Run, Tabular
from src.core.settings import fingerprint
from src.core.terminal import info, warn
from src.data.dataset import Dataset
from src.data.splits import Split
from src.evaluation.workspace import Workspace
from src.training.device_cache import Machine
from src.training.initialization import Starts, starts_of
from src.training.job_specs import PERSONAL, Beside, FoldJob, reference
from src.training.prediction import logits_path

TABULAR = [kind.model_fields["encoder"].default for kind in get_args(Tabular)]
"""Encoders that are fitted without epochs."""


def fold_jobs(
    workspace: Workspace,
    here: Machine,
    judged: Collection[str] = (),
    folder_of: Callable[[str], Path] | None = None,
) -> dict[str, list[FoldJob]]:
    """Jobs of each run, done or not, those that others need first. The arrays that jobs read are written, unless the
    workspace is read only.

    `judged`: names of runs whose epochs are validated on the rows of select_on, as those of runs with early stopping
    are. `folder_of`: folder of a run's folds by the run's name (default: the run's folder).
    """
    runs, starts = workspace.settings.runs, starts_of(workspace, here)
    jobs: dict[str, list[FoldJob]] = {}
    for name in sorted(runs, key=lambda name: runs[name].rank):
        run = runs[name]
        planner = _Planner(workspace, here, run, starts[name], name in judged or run.train.patience > 0)
        folder = (folder_of or workspace.output.run)(name)
        jobs[name] = []
        for split, seed in itertools.product(workspace.splits.splits(), run.train.seeds):
            part = part_of(split.fold, split.seed)

            def trained(run: str, part: str) -> list[FoldJob]:
                return [job for job in jobs[run] if job.path.name.startswith(part)]

            teachers = [job for teacher in run.train.teachers for job in trained(teacher, part)]
            (encoder,) = trained(run.pretrain.by, f"{part}{seed}.") if run.pretrain.by else [None]
            jobs[name] += planner.jobs(folder, split, seed, teachers, encoder)
    return jobs


@dataclass(frozen=True)
class Lesson:
    """Lesson of one fold of a student: what it learns from, beside the labels of its train rows."""

    split: Split
    beside: list[Beside]
    """Corpora with soft labels."""
    initial: Path
    """Weights that the student starts from."""
    below: str = ""
    """Folder below that of the run; ./run.sh clean looks for folds of other settings in the run's own."""

    def stamp(self) -> dict[str, Any]:
        """Entries of the job's fingerprint."""
        files = [file for one in self.beside for file in (*one.logits, *filter(None, [one.rows]))]
        return {
            "lessons": [[storage.array_hash(array_files.read_npy(Path(file), mapped=True)) for file in files]],
            "teacher_weights": [one.weight for one in self.beside],
            "initial": storage.file_sha256(self.initial),
        }


def taught_jobs(workspace: Workspace, here: Machine, name: str, lessons: Sequence[Lesson]) -> list[FoldJob]:
    """Jobs of the run `name` of the settings, one for each lesson, whose corpora and files are given by their paths."""
    run = workspace.settings.runs[name]
    planner = _Planner(workspace, here, run, starts_of(workspace, here)[name], is_judged=False)
    folder, (seed,) = workspace.output.run(name), run.train.seeds
    return [planner.job(folder / lesson.below, lesson.split, seed, (), lesson) for lesson in lessons]


def probe_job(workspace: Workspace, here: Machine, name: str, folder: Path, rows: int) -> FoldJob:
    """Job that trains the run `name` of the settings on `rows` of the train rows, to measure its speed; needs no folds.
    The settings have no pretraining and no denoiser."""
    run = workspace.settings.runs[name]
    planner = _Planner(workspace, here, run, starts_of(workspace, here)[name], is_judged=False)
    n_rows = len(workspace.labels)
    chosen = np.sort(np.random.default_rng(0).permutation(n_rows)[:rows])
    return planner.job(folder, Split(0, 0, chosen, chosen[:1], chosen[:1]), 1, ())


class _Planner:
    """Makes the jobs of one run."""

    def __init__(self, workspace: Workspace, here: Machine, run: Run, starts: Starts, is_judged: bool):
        self.workspace, self.here, self.run, self.starts, self.is_judged = workspace, here, run, starts, is_judged
        self.settings = run.model_dump(mode="json")
        del self.settings["train"]["seeds"]  # a further seed leaves the results of the others standing
        if not workspace.task.version:  # every row counts for every group
            for key in ("group_rows", "types_weight"):
                self.settings["train"].pop(key, None)
        self.weights = _row_weights(workspace, run)
        self.extra = workspace.dataset.extra_labelled if run.train.extra_weight else []
        self.near_by = workspace.dataset.near_by(workspace.settings.folds.max_compared) if self.extra else None
        self.partly = [name for name in self.extra if run.train.teachers and _has_unknown_labels(workspace, name)]
        self.domains = workspace.domains.of_row if run.train.regime != "pooled" else None

    def jobs(
        self, folder: Path, split: Split, seed: int, teachers: Sequence[FoldJob], encoder: FoldJob | None
    ) -> list[FoldJob]:
        """Jobs of one fold and seed: one, or under train.regime=single one for each domain that the fold trains on.
        `encoder`: job of the model whose encoder is taken."""
        if self.run.train.regime != "single":
            return [self.job(folder, split, seed, teachers, encoder=encoder)]
        return [
            self.job(folder, own, seed, teachers, domain=domain, encoder=encoder)
            for domain, own in by_domain(split, self.domains).items()
        ]

    def job(
        self,
        folder: Path,
        split: Split,
        seed: int,
        teachers: Sequence[FoldJob],
        lesson: Lesson | None = None,
        domain: int | None = None,
        encoder: FoldJob | None = None,
    ) -> FoldJob:
        """Job of one fold and seed; `folder` is that of the run's folds. Soft labels are those of `teachers`, or those
        of the `lesson`. `domain`: the only one that the split's rows are of. `encoder`: job of the model whose encoder
        is taken (pretrain.by)."""
        dataset, ref = self.workspace.dataset, self._reference
        # A student of all rows starts from the first fold's weights (distillation.start_of), so with its encoder.
        start = self.starts.of_fold(split.fold if len(split.predicted_rows) else 0)
        precision = self.here.precision(self.run.train.precision)
        valid, copies = _valid_rows(self.workspace, split) if self.is_judged else (None, [])
        stamp = fingerprint(
            {
                "run": self.settings,
                "train": dataset.manifest["train"],
                "vocabulary": dataset.manifest["vocabulary"],
                "start": start.fingerprint,
                "weights": storage.array_hash(self.weights) if self.weights is not None else None,
                "outcomes": dataset.manifest.get("outcomes") if self.run.train.outcome_weight else None,
                "extra": [dataset.extra_texts, dataset.extra_labels, self.near_by] if self.extra else None,
                "teachers": [teacher.fingerprint for teacher in teachers],
                "unlabelled": [dataset.test_texts, dataset.extra_texts] if teachers else None,
                **({"domains": storage.array_hash(self.domains)} if self.domains is not None else {}),
                **({"tests": dataset.test_texts} if self.run.regime.unlabelled == "test" else {}),
                **({"filled": self.partly} if teachers and self.partly else {}),
                "rows": storage.array_hash(split.train_rows, split.valid_rows, split.predicted_rows),
                "valid": self._valid_stamp(valid),
                "seed": seed,
                "fold": split.fold,
                "precision": precision,
                "made_by": [
                    versions.TRAIN,
                    storage.libraries(*_makers(self.run)),
                    versions.computed_on(self.here.device),
                ],
                **({"personal": PERSONAL} if self.run.regime.personal else {}),
                # Older versions let such models read what is hidden.
                **({"hidden": True} if isinstance(self.run.model, Tabular) and self.run.features.hidden else {}),
                **(lesson.stamp() if lesson else {}),
                **({"encoder": encoder.fingerprint} if encoder else {}),
            }
        )
        of_domain = "" if domain is None else f".domain_{domain}"
        folder = folder / f"{part_of(split.fold, split.seed)}{seed}{of_domain}.{stamp[:8]}"
        return FoldJob(
            run=self.settings,
            task=dataset.task.name,
            corpus=ref(dataset.train_folder),
            inputs=dataset.shape.to_json(),
            vectors=start.vectors and ref(start.vectors),
            pretrained=f"{encoder.folder}/{encoder.kept}.safetensors"
            if encoder
            else start.pretrained and ref(start.pretrained),
            initial=ref(lesson.initial) if lesson else None,
            denoiser=start.denoiser and ref(start.denoiser),
            split=ref(self._save(folder / "split.npz", **_rows_of(split))),
            outcomes=ref(dataset.output.outcomes) if self.run.train.outcome_weight else None,
            weights=ref(self._save(folder / "weights.npy", self.weights)) if self.weights is not None else None,
            beside=[
                asdict(one)
                for one in self._labelled(folder, split, teachers)
                + self._pseudo_labelled(teachers)
                + self._unlabelled()
                + self._taught(lesson)
            ],
            domains=ref(self._save(folder / "domains.npy", self.domains)) if self.domains is not None else None,
            valid=ref(self._save(folder / "valid.npz", **valid)) if valid else None,
            valid_corpora=list(map(ref, copies or [dataset.train_folder])),
            fold=split.fold,
            seed=seed,
            device=self.here.device,
            precision=precision,
            output=str(self.workspace.output.root),
            folder=ref(folder),
            fingerprint=stamp,
        )

    def _reference(self, path: Path | str) -> str:
        return reference(path, self.workspace.output.root)

    def _valid_stamp(self, valid: dict[str, np.ndarray] | None) -> Any:
        return [storage.array_hash(*valid.values()), self.workspace.validation_sets.fingerprint] if valid else None

    def _save(self, path: Path, alone: np.ndarray | None = None, **arrays: np.ndarray) -> Path:
        """Writes one array as .npy, or several as .npz, unless the file is whole or the workspace is read only."""
        if not self.workspace.read_only and not array_files.is_whole(path):
            if alone is not None:
                array_files.write_npy(path, alone)
            else:
                array_files.write_npz(path, **arrays)
        return path

    def _labelled(self, folder: Path, split: Split, teachers: Sequence[FoldJob]) -> list[Beside]:
        """Labelled reports of the extra files, with sample weight extra_weight, without the near-duplicates of train
        reports that the split does not train on: these would tell the labels of what the model is judged on. Labels
        that a file lacks are those of the teachers, if any. `folder` is that of the job."""
        workspace, dataset, ref, found = self.workspace, self.workspace.dataset, self._reference, []
        for i, name in enumerate(self.extra):
            rows = folder / f"extra_{i}.npy"
            if not workspace.read_only and not array_files.is_whole(rows):
                array_files.write_npy(rows, extra_rows(workspace, name, split))
            corpus, fills = dataset.extra_folder(name), bool(teachers) and name in self.partly
            logits = self._logits(teachers, corpus) if fills else []
            found.append(Beside(ref(corpus), ref(rows), logits, self.run.train.extra_weight, fills, is_extra=True))
        return found

    def _logits(self, teachers: Sequence[FoldJob], corpus: Path) -> list[str]:
        """Names the logits of each teacher for a corpus, by references to files."""
        return [self._reference(logits_path(teacher.path, corpus)) for teacher in teachers]

    def _taught(self, lesson: Lesson | None) -> list[Beside]:
        """The corpora of a lesson, by references."""
        ref = self._reference
        return [
            Beside(ref(one.corpus), one.rows and ref(one.rows), list(map(ref, one.logits)), one.weight)
            for one in (lesson.beside if lesson else ())
        ]

    def _pseudo_labelled(self, teachers: Sequence[FoldJob]) -> list[Beside]:
        """Reports that teachers label: those of the tests, and the extra ones whose own labels are not used."""
        if not teachers:
            return []
        dataset, ref = self.workspace.dataset, self._reference
        used = list(map(dataset.extra_folder, self.extra))
        folders = [folder for folder in unlabelled(dataset) if folder not in used]
        return [
            Beside(ref(folder), None, self._logits(teachers, folder), self.run.train.teacher_weight)
            for folder in folders
        ]

    def _unlabelled(self) -> list[Beside]:
        """The test files as domains without labels (regime.unlabelled=test), with the weight of a train report."""
        if self.run.regime.unlabelled != "test":
            return []
        dataset = self.workspace.dataset
        return [Beside(self._reference(dataset.test_folder(name)), None, [], 1.0) for name in dataset.test_files]


def by_domain(split: Split, domains: np.ndarray) -> dict[int, Split]:
    """Cuts a split into one for each domain (train.regime=single). A model predicts the rows of its domain, as its
    institution would, and those of domains without a model, as are all under folds.scheme=domains. A domain without
    rows to validate by has none, unless no domain has them."""
    train, valid = (np.unique(domains[rows]) for rows in (split.train_rows, split.valid_rows))
    both = np.intersect1d(train, valid)
    trained = both if len(both) else train

    def of(domain: int, rows: np.ndarray) -> np.ndarray:
        return rows[(domains[rows] == domain) | ~np.isin(domains[rows], trained)]

    return {
        domain: replace(
            split,
            train_rows=split.train_rows[domains[split.train_rows] == domain],
            valid_rows=of(domain, split.valid_rows),
            predicted_rows=of(domain, split.predicted_rows),
        )
        for domain in trained.tolist()
    }


def _makers(run: Run) -> tuple[str, ...]:
    """Packages whose versions change the results of a run."""
    return ("torch", "scikit-learn") if isinstance(run.model, Tabular) else ("torch",)


def _valid_rows(workspace: Workspace, split: Split) -> tuple[dict[str, np.ndarray] | None, list[Path]]:
    """Arrays of FoldJob.valid for one split, and the folders of the noisy copies that they choose from. None and no
    folders, if epochs are validated on the split's valid_rows as they are."""
    target = workspace.target
    if workspace.settings.select_on == "clean" or target is None:
        return None, []
    is_valid = np.zeros(len(workspace.splits.table), dtype=bool)
    is_valid[split.valid_rows] = True
    rows = workspace.validation().only(is_valid)
    if not len(rows.rows):
        told = _(
            "fold {fold} has none of the rows that ./run.sh shift looked at, by which epochs and trials are judged. "
            "Take fewer folds, a larger shift.max_rows, or select_on=clean"
        )
        raise UserError(told.format(fold=split.fold))
    if rows.copies is None:
        return {"rows": rows.rows, "chosen": rows.rows, "weights": rows.weights}, []
    return {"rows": rows.rows, "chosen": rows.copies, "weights": rows.weights}, target.noised


def part_of(fold: int, split_seed: int) -> str:
    """Start of the names of a fold's folders, up to the seed of training."""
    return f"fold_{fold}.split_{split_seed}.seed_"


def _row_weights(workspace: Workspace, run: Run) -> np.ndarray | None:
    """Weight of each train row by paths.weights and target_weight, (N,) with mean 1; None if all weigh the same."""
    given = workspace.dataset.weights
    if not run.train.target_weight or (target := workspace.target) is None:
        return given
    if workspace.settings.folds.scheme == "holdout":
        raise UserError(
            _(
                "train.target_weight is for every folds.scheme but holdout: under holdout the train "
                "part is what others are compared with, and has no density ratio of its own"
            )
        )
    weights, rows = np.ones(len(workspace.labels)), workspace.validation_sets.rows
    if len(rows) < len(weights):
        warn(
            _(
                "train.target_weight reaches the {n:,} of {all:,} train rows that "
                "./run.sh shift looked at (shift.max_rows); the others count as one"
            ).format(n=len(rows), all=len(weights))
        )
    found = target.array("weights")[0] ** run.train.target_weight
    weights[rows] = found / found.mean()
    if given is not None:
        weights *= given
    return weights / weights.mean()


def extra_rows(workspace: Workspace, name: str, split: Split) -> np.ndarray:
    """Rows of a labelled extra file that a fold may train on: those that are no near-duplicates of train reports that
    it does not train on."""
    dataset = workspace.dataset
    is_left_out = np.ones(len(workspace.labels), dtype=bool)
    is_left_out[split.train_rows] = False
    pairs = workspace.keep("near_train", lambda: dataset.near_train(workspace.settings.folds.max_compared))
    near, train = pairs[name].T
    return np.setdiff1d(array_files.read_npy(dataset.extra_rows_path(name), "prepare"), near[is_left_out[train]])


def tell_of_extra(workspace: Workspace, names: Iterable[str]) -> None:
    """Tells how much the labelled reports of each extra file count in the training of the runs `names`, and how many of
    them folds leave out."""
    dataset, weights, names = workspace.dataset, {}, list(names)
    for name in names:
        weights.setdefault(workspace.settings.runs[name].train.extra_weight, []).append(name)
    if not dataset.extra_labelled and any(weights):
        info(_("extra: no labelled file is there for train.extra_weight; training does without"))
    counts = [
        _("{weight:g} of a train report in {runs}").format(weight=weight, runs=", ".join(runs))
        for weight, runs in weights.items()
        if weight
    ]
    for file in dataset.extra_labelled:
        if not counts:
            told = _(
                "extra: {name}: its text is read and its labels are not: train.extra_weight=0.3 trains on them too"
            )
            info(told.format(name=file))
            continue
        told = _("extra: {name}: one of its labelled reports counts {weights} (train.extra_weight), in training alone")
        info(told.format(name=file, weights=joined("; ", counts)))
        n = len(array_files.read_npy(dataset.extra_rows_path(file), "prepare"))
        left_out = [n - len(extra_rows(workspace, file, split)) for split in workspace.splits.splits()]
        for left, runs in _own_epochs(workspace, names).items():
            told = _(
                "extra: {name}: the last {n} of {all} epochs of {runs} are without these reports (train.own_epochs)"
            )
            info(told.format(name=file, n=left[0], all=left[1], runs=", ".join(runs)))
        told = _(
            "extra: {name}: of its {n:,} labelled reports a fold leaves out {least:,} to {most:,}, as they are "
            "near-duplicates of train reports that it does not train on"
        )
        info(told.format(name=file, n=n, least=min(left_out), most=max(left_out)))


def _own_epochs(workspace: Workspace, names: Iterable[str]) -> dict[tuple[int, int], list[str]]:
    """Groups the runs `names` that leave extra reports out of their last epochs by train.own_epochs and epochs."""
    found: dict[tuple[int, int], list[str]] = {}
    for name in names:
        train = workspace.settings.runs[name].train
        if train.own_epochs:
            found.setdefault((train.own_epochs, train.epochs), []).append(name)
    return found


def _has_unknown_labels(workspace: Workspace, name: str) -> bool:
    return workspace.keep(f"unknown labels of {name}", lambda: workspace.dataset.has_unknown_labels(name))


def unlabelled(dataset: Dataset) -> list[Path]:
    """Folders of the corpora that are not validated on: test and extra files."""
    return [*map(dataset.test_folder, dataset.test_files), *map(dataset.extra_folder, dataset.extra_files)]


def _rows_of(split: Split) -> dict[str, np.ndarray]:
    return {"train_rows": split.train_rows, "valid_rows": split.valid_rows, "predicted_rows": split.predicted_rows}


def work_of(job: FoldJob) -> float:
    """Relative cost of the job, used to order jobs and to estimate the time left."""
    model, train = job.run["model"], job.run["train"]
    return epoch_cost(model) * (1 if is_fitted(model) else train["epochs"] * (1 + train.get("join", 0)))


def is_fitted(model: Mapping[str, Any]) -> bool:
    """True for a model with these settings that is fitted without epochs, as Run.is_fitted."""
    return model["encoder"] in TABULAR or model.get("head") == "neighbours"


def epoch_cost(model: Mapping[str, Any]) -> float:
    """Relative cost of an epoch of a model with these settings; of a model without epochs, of its fit. A Transformer
    layer takes longest, TextCNN and RCNN as long as a recurrent layer, a block of DPCNN half of that."""
    if is_fitted(model):
        return 1.0
    layers = model.get("layers", model.get("blocks", 1))
    return layers * {"transformer": 3.0, "dpcnn": 1.0}.get(model["encoder"], 2.0)
