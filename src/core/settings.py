"""Every setting: typed, documented at the field, checked at birth. settings_loader.py fills them in."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from src.core.errors import unknown

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("model", "pretrain", "denoise", "train")
"""Of a run; given for all runs of a preset, or on the command line, they reach each."""


class Settings(BaseModel):
    """Frozen, and a key that names nothing is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def _different(values: list[Any]) -> list[Any]:
    if len(set(values)) < len(values):
        raise ValueError("one is given twice")
    return values


Seeds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), AfterValidator(_different)]


class Paths(Settings):
    input: Path = ROOT / "input"
    """Folder of the competition's files; never written, but for input/sample/."""
    output: Path = ROOT / "output"
    """Folder for everything made; deletable, but for submissions.jsonl, where online scores are noted."""
    train: str = "*train*.csv"
    """Glob of the labelled files in `input`."""
    test: str = "*test*.csv"
    """Glob of the files to predict in `input`."""
    extra: str = "*extra*.csv"
    """Glob of further reports in `input`, with or without labels, from any source: never validated, never predicted."""


class Data(Settings):
    max_len: int = Field(104, ge=1)
    """Tokens kept of a report; 104 is the longest of round 1."""
    keep: Literal["head", "tail"] = "head"
    """Which end of a longer report is kept."""


class Folds(Settings):
    scheme: Literal["kfold", "families", "holdout"] = "kfold"
    """kfold: multilabel-stratified k-fold. families: k-fold in which near-duplicates share a fold. holdout: train,
    valid and test parts of 8:1:1."""
    k: int = Field(5, ge=2)
    threshold: float | None = Field(None, ge=0.3, le=1)
    """Of families: the TF-IDF cosine above which two reports are near-duplicates. null: the lowest at which no family
    grows large, see similarity.families."""
    max_compared: int = Field(20_000, ge=2)
    """Of families: so many different reports are compared each with each; of more, each with some only that share
    n-grams with it, see similarity.likely_pairs; that takes some 8 GB of memory for each million."""
    max_rows: int = Field(1_000_000, ge=2)
    """Of kfold and holdout: so many different reports are stratified one by one; of more, reports with the same labels
    are dealt out, and only the rest is stratified."""
    seeds: Seeds = [2021]
    """Seeds of the split; several repeat the k-fold, and each report is then predicted once for each."""

    @model_validator(mode="after")
    def _one_holdout(self) -> Folds:
        if self.scheme == "holdout" and len(self.seeds) > 1:
            raise ValueError("scheme holdout takes one seed: with several there would be no test part common to all")
        return self

    @model_validator(mode="after")
    def _threshold_of_families(self) -> Folds:
        if self.threshold is not None and self.scheme != "families":
            raise ValueError(f"threshold is for scheme families; scheme {self.scheme} compares no reports")
        return self


class Sample(Settings):
    rows: int = Field(5000, ge=10)
    """Labelled reports of the sample data."""
    test_rows: int = Field(1000, ge=1)
    """Reports of each of its two test files."""
    seed: int = Field(2021, ge=0)


class Shift(Settings):
    """How the difference between train and each test file is measured."""

    max_rows: int = Field(20_000, ge=100)
    """Reports of each file that are looked at; of more, so many are drawn at random."""
    draws: int = Field(2, ge=1)
    """Copies of the train reports with noise up to that of each test file."""
    weights: Literal["similarity", "odds"] = "similarity"
    """What train reports are weighted by to be like those of a test file. similarity: histogram of the largest cosine
    to a report that the model has seen; odds: those of adversarial validation."""
    clip: float = Field(10.0, gt=1)
    """No report weighs more than so many times the average."""
    seed: int = Field(0, ge=0)


class Noise(Settings):
    """Token noise put on training reports, drawn afresh each epoch. See noise.NoiseRates."""

    replacement: float = Field(0.0, ge=0, lt=1)
    insertion: float = Field(0.0, ge=0, lt=1)
    deletion: float = Field(0.0, ge=0, lt=1)
    dispersion: float = Field(0.0, ge=0, lt=1)


class Model(Settings):
    """What every model has: an embedding before its encoder, a pooling and a linear head behind it."""

    embedding_size: int = Field(128, ge=2)
    embedding_init: Literal["random", "ppmi"] = "ppmi"
    """ppmi: start from the factorised co-occurrences of all text (train, test and extra), see embeddings.py."""
    spatial_dropout: float = Field(0.2, ge=0, lt=1)
    """Share of embedding dimensions dropped for a whole report."""
    pooling: Literal["last", "max", "mean", "maxmean", "attention", "hierarchical", "label"] = "maxmean"
    """hierarchical: attention within windows of tokens, then over the windows; label: attention of each label's own."""
    head_dropout: float = Field(0.2, ge=0, lt=1)
    dropout_samples: int = Field(1, ge=1)
    """Draws of the head's dropout in a training step, whose logits are averaged (multi-sample dropout, Inoue 2019)."""


class Recurrent(Model):
    encoder: Literal["recurrent"] = "recurrent"
    cell: Literal["lstm", "gru", "rnn"] = "lstm"
    hidden_size: int = Field(128, ge=1)
    layers: int = Field(1, ge=1)
    bidirectional: bool = True
    dropout: float = Field(0.0, ge=0, lt=1)
    """Between layers."""


class Transformer(Model):
    encoder: Literal["transformer"] = "transformer"
    layers: int = Field(2, ge=1)
    heads: int = Field(4, ge=1)
    feedforward_size: int = Field(512, ge=1)
    positions: Literal["rotary", "relative"] = "rotary"
    dropout: float = Field(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_divide(self) -> Transformer:
        if self.embedding_size % self.heads:
            raise ValueError(f"embedding_size {self.embedding_size} is not a multiple of heads {self.heads}")
        if self.positions == "rotary" and (self.embedding_size // self.heads) % 2:
            raise ValueError("rotary positions need an even number of dimensions per head")
        return self


class TextCNN(Model):
    encoder: Literal["textcnn"] = "textcnn"
    widths: list[Annotated[int, Field(ge=1)]] = Field([2, 3, 4, 5], min_length=1)
    """Tokens that a filter sees, for each of the parallel convolutions."""
    filters: int = Field(128, ge=1)
    """Of each width."""


class DPCNN(Model):
    encoder: Literal["dpcnn"] = "dpcnn"
    size: int = Field(128, ge=1)
    """Filters of every convolution."""
    blocks: int = Field(3, ge=1)
    """Each reaches twice as far as the one before: a feature sees 2 ** (blocks + 2) - 1 tokens."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """On what a block adds."""


class RCNN(Model):
    encoder: Literal["rcnn"] = "rcnn"
    cell: Literal["lstm", "gru", "rnn"] = "lstm"
    hidden_size: int = Field(128, ge=1)
    """Of the left and of the right context."""
    size: int = Field(128, ge=1)
    """Features of a token, made of its contexts and its embedding."""

    @model_validator(mode="after")
    def _not_last(self) -> RCNN:
        if self.pooling == "last":
            raise ValueError("pooling last is not for rcnn: nothing stands to the right of the last token")
        return self


AnyModel = Annotated[Recurrent | Transformer | TextCNN | DPCNN | RCNN, Field(discriminator="encoder")]


class Optimisation(Settings):
    """What every training loop has, of pretraining and of training."""

    epochs: int = Field(12, ge=0)
    batch_size: int = Field(64, ge=1)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of matrix products in training and in the validation loss of each epoch; predictions are always fp32. auto: bf16
    where the processor has it and a probe finds it sound."""
    optimizer: Literal["adam", "adamw"] = "adamw"
    """adam: weight_decay is added to the gradient; adamw: decoupled."""
    learning_rate: float = Field(5e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    """On matrices only (parameters with two dimensions or more)."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of all steps over which the learning rate rises; it then falls along a cosine to zero."""
    clip_norm: float = Field(1.0, gt=0)
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Predict with an exponential moving average of the weights; 0 is off."""


class Pretrain(Optimisation):
    """Learning the language of the reports from all text before any label is seen, see pretraining.py."""

    epochs: int = Field(0, ge=0)
    """Over all text; 0: no pretraining."""
    stop_loss: float | None = Field(None, gt=0)
    """Stop after the first epoch whose training loss is below it."""
    select: float = Field(0.2, gt=0, le=1)
    """Share of tokens that the model is asked for, drawn anew each epoch."""
    masked: float = Field(0.6, ge=0, le=1)
    """Share of these that are hidden behind MASK."""
    replaced: float = Field(0.3, ge=0, le=1)
    """Share of these in whose place another word stands, as noise would put it; the rest is shown as it is."""
    spans: list[Annotated[float, Field(ge=0)]] = Field([0.5, 0.3, 0.2], min_length=1)
    """How often one, two, three, … neighbours are asked for together (n-gram masking)."""
    detection: float = Field(0.0, ge=0)
    """Weight of a second loss: which of the words shown were put there by us (replaced-token detection)."""
    seed: int = Field(1, ge=0)

    @model_validator(mode="after")
    def _shares(self) -> Pretrain:
        if self.masked + self.replaced > 1:
            raise ValueError(f"masked {self.masked} and replaced {self.replaced} are more than all selected tokens")
        if not sum(self.spans):
            raise ValueError("spans must not all be zero")
        return self


class Denoise(Settings):
    """Putting right what a pretrained encoder takes for noise, before a model reads a report, see denoising.py."""

    by: str | None = None
    """The run whose pretrained encoder does it, of the same experiment; null: reports are read as they are."""
    prior: float = Field(0.2, gt=0, lt=1)
    """Share of words that are expected to be wrong."""
    confidence: float = Field(0.8, gt=0, lt=1)
    """A word is replaced where it is wrong with a higher probability than this."""
    in_training: bool = True
    """false: models are trained on noisy reports as they are, in half the time, and only predict denoised ones."""
    views: Annotated[list[Literal["hard", "soft"]], AfterValidator(_different)] = Field(["hard"], min_length=1)
    """How a model is shown what was found. hard: the words put right; soft: at each place the likeliest words, mixed
    by their probabilities. With both, training draws one for each pool of batches, and predictions are their mean."""


class Train(Optimisation):
    seeds: Seeds = [1]
    """One model for each seed in each fold; their logits are averaged."""
    epochs: int = Field(12, ge=1)
    patience: int = Field(0, ge=0)
    """Stop after so many epochs without a better validation loss and keep the best; 0 trains all `epochs` and keeps
    the last. The loss is that of `select_on`. Under kfold and families the scored fold then chose its own epoch, which
    makes its score optimistic: score.json says so."""
    compile: bool = False
    """Train through torch.compile. On a GPU that captures CUDA graphs, one for each width of batches. On a CPU it needs
    a C++ compiler and was measured to gain 1% of a step and to cost half a minute a job: see docs/speed.md."""
    pos_weight: Literal["none", "balanced"] = "none"
    """balanced: weight of a positive = negatives / positives of the label. It ruins the calibration of the log loss."""
    noise: Noise = Noise()
    target_weight: float = Field(0.0, ge=0, le=1)
    """Reports count in the loss by how often the target test file has their like: 1 as much as `weighted` validation
    says, 0 all alike, between them a power of it."""
    extra_weight: float = Field(0.0, ge=0)
    """How much a labelled report of the extra files (paths.extra) counts beside a train report; 0: their text alone is
    used. They are trained on in every fold and never validated."""
    teachers: list[str] = []
    """Runs of the same experiment that label the reports of the test and extra files for this one: soft labels, each
    fold's by the teachers' models of that fold, which have not seen what the fold is validated on."""
    teacher_weight: float = Field(0.5, ge=0)
    """How much such a report counts beside a train report."""
    consistency: float = Field(0.0, ge=0)
    """Weight of the distance between the predictions for two noisy copies of each report (R-Drop); 0 is off, else each
    step goes through two copies."""
    attack: Literal["none", "fgm", "awp"] = "none"
    """Each step also learns from the weights moved against it. fgm: the embedding's, along the gradient; awp: all
    matrices'. Both cost a second forward and backward pass."""
    attack_size: float | None = Field(None, gt=0)
    """fgm: length of the step on the embedding, 0.5 where none is given. awp: length relative to that of each matrix,
    0.005 where none is given."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Factor on the learning rate from the head to the encoder's last layer, from there to the one below, and so on
    down to the embedding; for pretrained weights."""


class Run(Settings):
    """One model of an experiment, fully resolved."""

    model: AnyModel = Recurrent()
    pretrain: Pretrain = Pretrain()
    denoise: Denoise = Denoise()
    train: Train = Train()


class Blend(Settings):
    members: list[str] = []
    """Runs of the preset that the pipeline blends, such as students without their teachers; none: all. Where --model
    leaves out all of these, what it names is blended."""
    method: Literal["auto", "mean", "temperature", "weights", "greedy"] = "auto"
    """auto: the simplest of mean, temperature and weights that no later one beats by more than one standard error on
    cross-fitted predictions; greedy: members added one at a time, with replacement."""
    per_group: bool = False
    """Fit weights and temperature for regions and types apart (round 2)."""


class Tune(Settings):
    """A search for better settings of one run, see study.py."""

    use: bool = False
    """Runs take the settings of output/tune/RUN/best.yaml where there is one."""
    sampler: Literal["tpe", "gp", "random"] = "tpe"
    pruner: Literal["halving", "hyperband", "median", "none"] = "halving"
    """What gives up a trial by how it does in the first epochs and folds. halving and hyperband let one in `reduction`
    go on at each of a few marks; median those better than the median of the others there."""
    reduction: int = Field(3, ge=2)
    startup: int = Field(10, ge=1)
    """Trials at random before the sampler learns from those that were made."""
    objectives: Annotated[list[Literal["score", "seconds"]], AfterValidator(_different)] = Field(
        ["score"], min_length=1
    )
    """score: that of select_on; seconds: of training. With both, the trials that no other beats in both are kept, and
    none is given up early."""
    top: int = Field(5, ge=1)
    """Best trials whose settings are kept."""
    seed: int = Field(0, ge=0)


class Leaderboard(Settings):
    board: str = "online"
    """Where scores are from that are entered without --board."""
    daily_limit: int = Field(3, ge=1)
    """Submissions that the board takes a day; its rules tell."""


class Explain(Settings):
    per_label: int = Field(20, ge=0)
    """Reports with a label by which the pipeline tells what carries it; 0: it explains nothing."""


class Submit(Settings):
    eps: float = Field(1e-6, gt=0, lt=0.5)
    """Probabilities are clipped to [eps, 1 - eps]; the official clip is unknown."""
    label_shift: bool = False
    """Move probabilities to the label rates that the test file itself speaks for, see label_shift.py. Off: where the
    texts differ too, what it takes for granted does not hold. ./run.sh leaderboard RUN shows the rates."""


class Executor(Settings):
    """Jobs side by side and threads of each, see make_executor() in executors.py."""

    workers: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Jobs side by side. auto: as many as there are jobs and cores; one on a GPU."""
    threads: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Threads of each job. auto: the cores are shared out among the workers; one on a GPU. Another number of threads
    orders sums differently: results agree, but not in their last bits."""


class Config(Settings):
    preset: str
    overrides: list[str] = []
    """The key=value words that were given, but for those of `track`, so that a run can tell how it was made."""
    paths: Paths = Paths()
    task: Literal["auto", "round1", "round2"] = "auto"
    """auto: recognised from the label field of the train files (sample data: round1)."""
    data: Data = Data()
    sample: Sample = Sample()
    folds: Folds = Folds()
    shift: Shift = Shift()
    select_on: Literal["clean", "noised", "weighted", "shifted"] = "shifted"
    """Validation rows that early stopping, blends and the order of runs go by. clean: as they are; noised: with noise
    up to the target's; weighted: those like the target's count more; shifted: both. notebooks/validation.ipynb shows
    how well each foretells scores elsewhere."""
    target: str = "last"
    """The test file that select_on has in view, such as track1_round1_testB; last: the last by name."""
    runs: dict[str, Run]
    """The models of the experiment, by run name."""
    models: list[str] = []
    """Those of them that were asked for; others are there as their teachers, and key=value words for all runs do not
    reach these."""
    denoisers: dict[str, Run] = {}
    """Runs of the preset that --model leaves out, but whose pretrained encoder denoises for those that it names."""
    baselines: list[Literal["zeros", "prior", "random", "tfidf"]] = ["zeros", "prior", "random", "tfidf"]
    """Rungs of the ladder that scores are shown beside."""
    blend: Blend = Blend()
    tune: Tune = Tune()
    tuned: dict[str, Path] = {}
    """The file of a study that a run's settings are from, by run (tune.use)."""
    leaderboard: Leaderboard = Leaderboard()
    explain: Explain = Explain()
    submit: Submit = Submit()
    executor: Executor = Executor()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    track: Literal["none", "tensorboard", "mlflow"] = "none"
    """Where scores and the learning curves of training and pretraining are written too, see tracking.py; it takes
    docs/requirements-tracking.txt. Results do not depend on it."""
    track_uri: str | None = Field(None, pattern=r"^\w[\w+]*://")
    """Database of MLflow; null: sqlite, mlflow.db in the output folder."""

    @model_validator(mode="after")
    def _uri_of_mlflow(self) -> Config:
        if self.track_uri is not None and self.track != "mlflow":
            raise ValueError(f"track_uri is for track=mlflow; track is {self.track}")
        return self

    @model_validator(mode="after")
    def _runs_that_others_need_are_there(self) -> Config:
        for name, run in self.runs.items():
            if run.denoise.by is not None:
                known = {**self.denoisers, **self.runs}
                if run.denoise.by not in known:
                    raise ValueError(f"runs.{name}.denoise.by: {unknown('run', run.denoise.by, known)}")
                reader = known[run.denoise.by].pretrain
                if not reader.epochs:
                    raise ValueError(f"runs.{name}.denoise.by: {run.denoise.by} is not pretrained (pretrain.epochs)")
                if not reader.replaced or reader.masked + reader.replaced == 1:
                    raise ValueError(
                        f"runs.{name}.denoise.by: {run.denoise.by} must have been shown words that are replaced and "
                        "words that are not (pretrain.replaced above 0, pretrain.masked + pretrain.replaced below 1)"
                    )
            for teacher in run.train.teachers:
                if teacher not in self.runs:
                    raise ValueError(f"runs.{name}.train.teachers: {unknown('run', teacher, self.runs)}")
                if self.runs[teacher].train.teachers:
                    raise ValueError(f"runs.{name}.train.teachers: {teacher} has teachers itself")
        return self


def fingerprint(value: Any) -> str:
    """16 hexadecimal digits that stand for a JSON-able value; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
