"""Jobs of training as plain data: one model on one fold, one encoder on all text. No torch is imported here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from src.core import storage
from src.core.errors import UserError
from src.core.language import _
from src.core.locks import is_held
from src.core.targets import Target
from src.data.inputs import InputShape


def reference(path: Path | str, output: Path | str) -> str:
    """Names a file by its place in the output folder, `runs/lstm/run.json`; a file outside it by its absolute path."""
    path = Path(path)
    return path.relative_to(output).as_posix() if path.is_relative_to(output) else str(path.absolute())


def denoised_copies(denoiser: str, corpora: Iterable[str]) -> list[str]:
    """Names the copies of corpora that were denoised by the encoder in the folder `denoiser`, and what the encoder
    needs to make those that are missing, as object_store.tree_of() reads names."""
    made_by = denoiser.rpartition(".")[2]  # its fingerprint, see denoising.denoised_views()
    copies = [f"{corpus}/denoised/{made_by}.*" for corpus in corpora]
    return [f"{denoiser}/result.json", f"{denoiser}/last.safetensors", *copies]


PERSONAL = "personal.safetensors"
"""Personal parts of each domain of a federated fold (regime.personal)."""


def trained_fold(payload: dict[str, Any]) -> list[str]:
    """Names what a trained fold needs to predict a corpus; both are in the payload of the job that does it."""
    fold, corpus = payload["fold"], payload["corpus"]
    files = [f"{fold}/result.json", f"{fold}/split.npz", f"{corpus}/"]
    with contextlib.suppress(UserError):  # the job tells of a result that is missing or damaged
        made = storage.read_json(Path(payload["output"]) / fold / "result.json")
        files.append(f"{fold}/{made['weights']}.safetensors")
        if "rows" in payload and made["run"].get("regime", {}).get("personal"):
            files += [f"{fold}/{PERSONAL}", f"{fold}/domains.npy"]
        if made.get("denoiser"):
            files += denoised_copies(made["denoiser"], [corpus])
    return files


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """One model to train. Made of text and numbers alone, so that it can be sent to another process or machine.

    Files and folders are references (see reference()); where the same output tree lies elsewhere, `output` alone is
    another.
    """

    files: ClassVar[tuple[str, ...]]
    """Files of a finished job beside its result.json."""

    run: dict[str, Any]
    """Settings of the run, as run_settings.Run"""
    inputs: dict[str, Any]
    """Shape of the inputs, as InputShape.to_json()"""
    vectors: str | None
    """File of the vectors that start the embedding."""
    device: str
    precision: str
    """fp32 or bf16."""
    output: str
    """The output folder, on the machine that runs the job."""
    folder: str
    """Folder of the results; result.json is written last."""
    fingerprint: str

    @property
    def shape(self) -> InputShape:
        return InputShape.from_json(self.inputs)

    def locate(self, reference: str) -> Path:
        """Path of a reference on this machine."""
        return Path(self.output) / reference

    @property
    def path(self) -> Path:
        """Folder of the results on this machine."""
        return self.locate(self.folder)

    def reads(self) -> list[str]:
        """Names all that the job reads, with what it has kept of itself, as object_store.tree_of() reads names."""
        return [f"{self.folder}/**", *filter(None, [self.vectors])]

    def target(self, name: str = "") -> Target:
        """Results of the job, as the target called `name`."""
        files = tuple(self.path / file for file in self.files)
        return Target(name, self.path / "result.json", self.fingerprint, files)

    def is_done(self) -> bool:
        """Returns True if all results are there and current."""
        return self.target().is_current()

    def is_running(self) -> bool:
        """Returns True while a process works on the job."""
        return is_held(self.path / "job.lock")

    def epochs_done(self) -> int:
        """Epochs that the newest checkpoint holds."""
        names = [path.stem.split("_")[1] for path in self.path.glob("state_*.json")]
        return max(map(int, names), default=0)


@dataclass(frozen=True)
class Beside:
    """Reports of another corpus that are trained on beside the train rows."""

    corpus: str
    rows: str | None
    """File of the rows that are taken; None: all."""
    logits: list[str]
    """Files of teachers' logits, whose mean is the target; none: the corpus has labels."""
    weight: float
    """Sample weight; train rows average 1."""
    fills: bool = False
    """True: the corpus has labels, and the teachers' are for those that are unknown alone."""
    is_extra: bool = False
    """True: labelled reports of an extra file, which train.own_epochs leaves out of the last epochs."""


@dataclass(frozen=True, kw_only=True)
class FoldJob(TrainingJob):
    """One model on one fold."""

    files = ("last.safetensors", "best.safetensors", "history.csv", "logits.npy")

    task: str
    """Name of the task, see data/tasks.py."""
    corpus: str
    """Folder of the encoded train corpus."""
    pretrained: str | None
    """Weights that the input layer and the encoder start from."""
    initial: str | None = None
    """Weights that the whole model starts from, of a model of the same settings."""
    denoiser: str | None
    """Folder of the PretrainJob whose encoder denoises reports before the model reads them."""
    split: str
    """File with train_rows, valid_rows and predicted_rows."""
    outcomes: str | None
    """File with further outcomes of the train rows, by name: (N,) each, NaN where unknown."""
    weights: str | None
    """File with the sample weight of each train row, (N,); None: all 1."""
    beside: list[dict[str, Any]]
    """Further reports to train on: Beside as dictionaries."""
    domains: str | None = None
    """File with the number of the domain of each train row, (N,); None: a domain is a file."""
    valid: str | None
    """File with the rows that epochs are validated on, if these are not the valid_rows as they are: `chosen` rows of
    the valid_corpora one behind the other, the train `rows` that they are copies of, and weights."""
    valid_corpora: list[str]
    """Folders of encoded train reports, as they are or in noisy copies."""
    fold: int
    seed: int

    @property
    def kept(self) -> str:
        """Name of the weights that predict: those of the best epoch under early stopping, else those of the last."""
        return "best" if self.run["train"]["patience"] else "last"

    def reads(self) -> list[str]:
        files = [self.pretrained, self.initial, self.split, self.outcomes, self.weights, self.domains, self.valid]
        corpora = [self.corpus, *self.valid_corpora, *(one["corpus"] for one in self.beside)]
        for one in self.beside:
            files += [one["rows"], *one["logits"]]
        denoised = denoised_copies(self.denoiser, [self.corpus, *self.valid_corpora]) if self.denoiser else []
        folders = [f"{corpus}/" for corpus in dict.fromkeys(corpora)]
        return [*super().reads(), *filter(None, files), *folders, *denoised]


@dataclass(frozen=True, kw_only=True)
class ClientJob(FoldJob):
    """One round of a federation at one domain; `folder` and `fingerprint` are those of its FoldJob."""

    round: int
    """From 1; in round 0 a domain tells statistics of its rows, if the model has scales that are fitted to rows."""
    domain: int
    place: int
    """Place of the domain among those of the fold's train rows."""
    since: int
    """Last round before in which the domain took part; 0: none."""
    is_last: bool
    """True in the last round in which the domain takes part."""

    @property
    def sent(self) -> Path:
        """File that leaves the domain; the .json of the same name is written last."""
        return self.path / "rounds" / f"round_{self.round:04d}.domain_{self.domain}.safetensors"

    def kept(self, round: int) -> Path:
        """Folder of the checkpoints of a round, which stay at the domain."""
        return self.path / "clients" / str(self.domain) / f"round_{round:04d}"

    def reads(self) -> list[str]:
        """Leaves out what is of other domains alone."""
        own = [f"{self.folder}/", f"{self.folder}/clients/{self.domain}/**"]
        sent = f"{reference(self.sent, self.output).removesuffix('safetensors')}*"
        return [*own, sent, *super().reads()[1:]]

    def target(self, name: str = "") -> Target:
        stamp = f"{self.fingerprint}.{self.round}.{self.domain}"
        return Target(name, self.sent.with_suffix(".json"), stamp, (self.sent,))


@dataclass(frozen=True, kw_only=True)
class CloseJob(FoldJob):
    """The end of one round of a federation: its averaged weights."""

    round: int


@dataclass(frozen=True, kw_only=True)
class PretrainJob(TrainingJob):
    """One encoder on all text. Of its run, pooling and head are not used."""

    files = ("last.safetensors", "history.csv")

    corpora: list[str]
    """Folders of encoded text."""
    left_out: str | None = None
    """File with the rows of the first corpus that are not read; None: all are read."""

    def reads(self) -> list[str]:
        return [*super().reads(), *filter(None, [self.left_out]), *(f"{corpus}/" for corpus in self.corpora)]

    @property
    def weights(self) -> Path:
        return self.path / "last.safetensors"


def described(news: dict[str, Any]) -> tuple[float, str]:
    """Turns the progress that a job reports after each epoch into the share done and a line for the user. The share is
    that of the epochs unless the job tells `share`, as jobs with epochs of several lengths do."""
    told = _("epoch {epoch:2d}/{epochs}  train {train}  valid {valid}  {seconds:.1f} s")
    loss = {part: "–" if (value := news[f"{part}_loss"]) is None else f"{value:.4f}" for part in ("train", "valid")}
    note = told.format(epoch=news["epoch"], epochs=news["epochs"], **loss, seconds=news["seconds"])
    return news.get("share", news["epoch"] / news["epochs"]), note
