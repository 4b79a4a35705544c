"""Settings of an experiment, with types, descriptions and checks: Config and its sections.

Those of a run are in run_settings.py; settings_loader.py reads their values.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from src.core.errors import unknown
from src.core.names import check_model, check_name
from src.core.run_settings import GRUD, HEAD, Features, Noise, Run, Tabular
from src.core.setting_types import AnyPath, Glob, Origin, Seed, Seeds, Settings, ascending, different

ROOT = Path(__file__).resolve().parents[2]
CLINICAL = {"icu": "icu", "los": "icu", "frames": "frames"}
"""Tasks on series instead of reports, each with the name of its folder in input/."""
PARTS = ("model", "features", "pretrain", "denoise", "train", "regime")
"""Parts of a run's settings; given for a whole preset or on the command line, a part applies to every run."""


class Paths(Settings):
    """Folders, and globs of the input files."""

    input: AnyPath = ROOT / "input"
    """Folder of the user's files; only its sample/ is written, and only in a task's default folder or by ./run.sh
    sample."""
    output: AnyPath = ROOT / "output"
    """Folder of all results; it can be deleted, except submissions.jsonl, which has the online scores."""
    train: Glob = "*train*.csv"
    """Glob of the labelled files in `input`; for stays of the names of the training sets, set-a by default. Images have
    one file, whose parts say what they are for."""
    test: Glob = "*test*.csv"
    """Glob of the files to predict in `input`; for stays of the names of further sets, set-* by default."""
    extra: Glob = "*extra*.csv"
    """Glob of further reports in `input`, with or without labels, from any source: used in training only."""
    exclude: AnyPath | None = None
    """CSV of the ids of training rows to leave out, such as a shortened suspicious.csv; see row_files.py."""
    weights: AnyPath | None = None
    """CSV of a weight in training for each id, 1 for training rows that it does not name; see row_files.py."""


class Data(Settings):
    """Length of encoded reports; stays have the section grid."""

    max_len: int = Field(104, ge=1, le=16_384)
    """Tokens kept of a report; 104 is the longest of round 1."""
    keep: Literal["head", "tail"] = "head"
    """Kept end of a longer report."""


Aggregation = Literal["last", "mean", "sum"]


class Grid(Settings):
    """Grid of the series of a stay: one value a parameter and time step, see grid.py."""

    step: float = Field(1.0, ge=1 / 60, le=48)
    """Hours of a time step."""
    vital: Aggregation = "mean"
    """Value of a step with several observations, for each kind of parameter (plausible.SERIES)."""
    examination: Aggregation = "last"
    """Value of a step with several observations of laboratory examinations."""
    drug: Aggregation = "sum"
    """Value of a step with several observations of drugs."""
    device: Aggregation = "last"
    """Value of a step with several observations of devices, such as ventilation."""


class Folds(Settings):
    """Cross-validation scheme."""

    scheme: Literal["kfold", "families", "clusters", "domains", "holdout"] = "kfold"
    """kfold: k-fold stratified by the labels, of days by tenths of their ranks. families: k-fold in which
    near-duplicates share a fold (reports only). clusters: families, and whole clusters of similar reports share a fold,
    so that a fold lies far from the rest. domains: each fold is one domain (section domains), so that a model is judged
    on a domain that it has not seen; k is their number. holdout: train, valid and test parts of 8:1:1."""
    k: int = Field(5, ge=2, le=1000)
    """Number of folds, except under holdout."""
    threshold: float | None = Field(None, ge=0.3, le=1)
    """TF-IDF cosine above which two reports are near-duplicates (schemes families and clusters). null: the lowest
    threshold without large families, see near_duplicates.families."""
    clusters: int | None = Field(None, ge=2, le=100_000)
    """Number of clusters (scheme clusters); the fewer, the farther a fold lies from the rest, and the more the folds'
    label rates differ. null: ten a fold."""
    max_compared: int = Field(20_000, ge=2, le=10_000_000)
    """Number of different reports up to which all pairs are compared (schemes families and clusters, and labelled extra
    reports with train reports under any scheme); above it only likely pairs are, see
    near_duplicates.likely_pairs, with some 8 GB of memory for each million reports."""
    max_rows: int = Field(1_000_000, ge=2, le=1_000_000_000)
    """Number of different rows (reports, stays or images) up to which all are stratified (schemes kfold and holdout);
    above it rows with the same labels are dealt to the folds, and only the rest is stratified."""
    seeds: Seeds = [2021]
    """Seeds of the split; with several the k-fold is repeated, and each row is predicted once for each seed."""

    @model_validator(mode="after")
    def _one_holdout(self) -> Folds:
        if self.scheme == "holdout" and len(self.seeds) > 1:
            raise ValueError("scheme holdout takes one seed: several seeds have no common test part")
        return self

    @model_validator(mode="after")
    def _settings_of_schemes(self) -> Folds:
        if self.threshold is not None and not self.compares_texts:
            raise ValueError(f"threshold is for schemes families and clusters only, not for scheme {self.scheme}")
        if self.clusters is not None and self.scheme != "clusters":
            raise ValueError(f"clusters is for scheme clusters only, not for scheme {self.scheme}")
        if self.clusters is not None and self.clusters < self.k:
            raise ValueError(f"{self.clusters} clusters cannot be split into k={self.k} folds")
        return self

    @property
    def compares_texts(self) -> bool:
        """True if the folds depend on the similarity of reports."""
        return self.scheme in ("families", "clusters")


class Domains(Settings):
    """Domains: the institutions, wards or sources that train rows are from, see docs/institutions.md."""

    by: str = Field("file", pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")
    """Property that tells domains apart. file: the train file; clusters: `k` clusters of similar reports, about equally
    large; ICUType or Gender: that descriptor of a stay."""
    k: int = Field(4, ge=2, le=1000)
    """Number of domains by clusters."""
    rounds: Literal["separate", "pooled"] = "separate"
    """Train files of both rounds. separate: those of the round that is not predicted are extra files, in training only;
    pooled: all are train files, with the labels that both have (task=round1), so that each file can be a domain."""
    labels: Path | None = Field(None, exclude_if=lambda path: path is None)
    """CSV file (file,label,means) by which labels of a train or extra file of reports are renumbered as they are read:
    b.csv,3,5 says that label 3 of b.csv is label 5 of the others. What is not named stays."""

    @model_validator(mode="after")
    def _k_is_of_clusters(self) -> Domains:
        if self.by != "clusters" and self.k != type(self).model_fields["k"].default:
            raise ValueError(f"k is for by=clusters only; by={self.by} has as many domains as there are")
        return self


class Adapt(Settings):
    """Few-shot adaptation to a new domain (./run.sh domains adapt), see adaptation.py. Nothing here is chosen on the
    rows that are judged."""

    draws: int = Field(3, ge=1, le=100)
    """Number of draws of the labelled rows; figures are averaged over them."""
    epochs: int = Field(10, ge=1, le=100_000)
    """Epochs over the labelled rows, in batches of at most 32."""
    rate: float = Field(0.2, gt=0, le=1000)
    """Learning rate relative to that of the run's training."""
    seed: Seed = 0
    """Seed of the half of a domain that is judged, and of the draws."""


class Sample(Settings):
    """Size and seed of the sample data; the images are always the same."""

    rows: int = Field(5000, ge=10, le=100_000_000)
    """Number of labelled reports, or of stays (1,500 by default) in set-a."""
    test_rows: int = Field(1000, ge=1, le=100_000_000)
    """Number of reports in each of the two test files, or of stays (500 by default) in set-b."""
    seed: Seed = 2021
    """Seed of the sample data; another seed gives other reports or stays."""


class Shift(Settings):
    """Measurement of the difference between train and each test file."""

    max_rows: int = Field(20_000, ge=100, le=10_000_000)
    """Maximum number of compared rows of a file; a random sample of larger files is compared."""
    draws: int = Field(2, ge=1, le=100)
    """Number of copies of the train reports with the noise of each test file; stays and images have none."""
    weights: Literal["similarity", "odds"] = "similarity"
    """Weights that make train rows distributed like a test file. similarity: by the histogram of the largest cosine to
    a training report of the model, or, for stays and images, of the out-of-fold probability of being a train row; odds:
    by the odds of adversarial validation as they are."""
    clip: float = Field(10.0, gt=1, le=1e6)
    """Maximum weight of a row relative to the mean weight."""
    seed: Seed = 0
    """Seed of the noisy copies and of the sample of larger files."""


class Blend(Settings):
    """Settings of the blend of runs."""

    members: list[str] = []
    """Runs of the preset to blend; empty: all runs that are not stacked. If --model selects none of the members, the
    selected runs are blended."""
    method: Literal["auto", "mean", "temperature", "weights", "greedy"] = "auto"
    """auto: the simplest of mean, temperature and weights within one standard error of the next, cross-fitted; greedy:
    members added one at a time, with replacement."""
    per_group: bool = False
    """Fit weights and temperature separately for regions and types (round 2)."""
    stack: Annotated[list[str], AfterValidator(different)] = Field([], exclude_if=lambda runs: not runs)
    """Runs that are stacked on the blend, not averaged in it: for each label, a logistic regression of the blend's
    log-odds and theirs, fitted on out-of-fold rows, cross-fitted for the score. For runs with model.head=neighbours."""
    fixed: dict[str, Annotated[float, Field(ge=0, le=1e6)]] = Field({}, exclude_if=lambda weights: not weights)
    """Weight of each member, such as blend.fixed.lstm=2 blend.fixed.theirs=1, relative to the others; nothing is fitted
    then. For members without out-of-fold predictions, on which nothing can be fitted."""


class Tune(Settings):
    """Hyperparameter search for a run, see study.py."""

    use: bool = False
    """Use the settings of output/tune/RUN/best.yaml for each run with such a file."""
    sampler: Literal["tpe", "gp", "random"] = "tpe"
    """Method that proposes settings. tpe: tree-structured Parzen estimator; gp: Gaussian process; random: at random."""
    pruner: Literal["halving", "hyperband", "median", "none"] = "halving"
    """Pruner of trials by their scores after the first epochs and folds. halving and hyperband continue one trial in
    `reduction` at each of a few steps; median continues trials above the median."""
    reduction: int = Field(3, ge=2, le=100)
    """Reduction factor of halving and hyperband."""
    startup: int = Field(10, ge=1, le=100_000)
    """Number of random trials before the sampler uses results."""
    objectives: Annotated[list[Literal["score", "seconds"]], AfterValidator(different)] = Field(["score"], min_length=1)
    """score: score on select_on; seconds: training time. With both, the Pareto front is kept and no trial is pruned."""
    top: int = Field(5, ge=1, le=1000)
    """Number of best trials whose settings are written."""
    seed: Seed = 0
    """Seed of the sampler."""

    @model_validator(mode="after")
    def _settings_of_methods(self) -> Tune:
        fields = type(self).model_fields
        if self.reduction != fields["reduction"].default and self.pruner not in ("halving", "hyperband"):
            raise ValueError(f"reduction is for pruners halving and hyperband only; pruner is {self.pruner}")
        if self.startup != fields["startup"].default and self.sampler == "random" and self.pruner != "median":
            raise ValueError("startup is for samplers tpe and gp and for pruner median; sampler is random")
        return self


BOARD = "board (leaderboard.board, --board)"


class Leaderboard(Settings):
    """Settings of the leaderboard."""

    board: Annotated[str, AfterValidator(lambda name: check_name(BOARD, name))] = "online"
    """Default board of entered scores."""
    daily_limit: int = Field(3, ge=1, le=1000)
    """Maximum number of submissions a day under the board's rules."""


class Explain(Settings):
    """Settings of explanations in the pipeline."""

    per_label: int = Field(20, ge=0, le=100_000)
    """Number of positive reports explained for each label; 0: no explanations. Of a task with one label, five times as
    many rows are explained."""


class Operating(Settings):
    """Choice of the threshold at which a binary prediction flags a row; it is chosen on other folds."""

    sensitivity: float = Field(0.8, gt=0, le=1)
    """Wished sensitivity: the highest threshold that reaches it is taken."""
    cost_ratio: float | None = Field(None, gt=0, le=1e9)
    """Cost of a miss relative to a false alarm; if set, the threshold of the lowest cost is taken instead."""


class Alarms(Settings):
    """Early warning: a run reads each stay as it was after some hours, and raises alarms, see early_warning.py."""

    hours: Annotated[list[Annotated[int, Field(ge=1, le=48)]], AfterValidator(ascending)] = [
        *range(1, 13), *range(14, 49, 2),
    ]  # fmt: skip
    """Hours of data at which a stay is read; none: no early warning."""
    on: float | None = Field(None, gt=0, lt=1)
    """Risk at which an alarm begins. null: chosen on other folds, for operating.sensitivity or by false_alarms; 0.5 for
    what a service or a stream predicts."""
    false_alarms: float | None = Field(None, ge=0, le=1e6)
    """Budget of false alarms a patient-day among survivors; if set, the lowest threshold that keeps it is chosen."""
    off: float = Field(0.8, gt=0, le=1)
    """Share of the threshold below which the risk must fall for an alarm to end (hysteresis); 1: a bare threshold."""
    duration: float = Field(4.0, ge=0, le=1000)
    """Hours that an alarm lasts at least."""
    refractory: float = Field(6.0, ge=0, le=1000)
    """Hours after an alarm in which none begins."""

    @model_validator(mode="after")
    def _one_threshold(self) -> Alarms:
        if self.on is not None and self.false_alarms is not None:
            raise ValueError(
                f"on={self.on:g} is a threshold, and false_alarms={self.false_alarms:g} would choose another: set one "
                "of them to null"
            )
        return self


class Predict(Settings):
    """Prediction of files that are larger than memory, see docs/distributed.md."""

    shard: int = Field(65_536, ge=1, le=1_000_000_000)
    """Reports of a shard of the file of ./run.sh predict, rounded up to a multiple of 65,536. A worker holds one shard,
    and a killed command goes on with the shards that are not finished. Results do not depend on it."""


class Submit(Settings):
    """Settings of submission files."""

    eps: float = Field(1e-6, gt=0, lt=0.5)
    """Probabilities are clipped to [eps, 1 - eps]; the official clip is unknown."""
    label_shift: bool = False
    """Adapt probabilities to the estimated label rates of the test file, see label_shift.py. The estimate assumes that
    rows of a label are alike in train and test, hence the default. ./run.sh leaderboard RUN shows the rates."""


class Stream(Settings):
    """Messages that ./run.sh stream answers, see serving/stream.py."""

    url: str = Field("redis://127.0.0.1:6379/0", pattern=r"^(rediss?|unix|kafka)://")
    """Server of the messages: Redis, or Kafka as kafka://HOST:PORT,HOST:PORT."""
    store: str | None = Field(None, pattern=r"^(rediss?|unix)://")
    """Redis of answers, alarms and dead letters; null: `url`, or redis://127.0.0.1:6379/0 beside Kafka."""
    name: str = Field("reports", pattern=r"^[A-Za-z0-9._-]{1,100}$")
    """Name of the stream or topic, and the start of the names of all keys."""
    group: str = Field("workers", pattern=r"^[A-Za-z0-9._-]{1,100}$")
    """Consumer group: each message goes to one of its workers."""
    batch: int = Field(64, ge=1, le=4096)
    """Most messages that a worker holds and predicts at a time."""
    deliveries: int = Field(3, ge=1, le=1000)
    """Deliveries of a message without an answer after which it becomes a dead letter."""
    claim_after: float = Field(30.0, gt=0, le=86_400)
    """Seconds after which another worker takes over a message that a worker has not answered; longer than a batch
    takes, for what is taken over too early is predicted twice (and answered once)."""
    expiry: float = Field(24.0, gt=0, le=100_000)
    """Hours that an answer is kept. A message whose id has an answer is not answered again."""
    backlog: int = Field(100_000, ge=1, le=1_000_000_000)
    """Unanswered messages at which ./run.sh stream --send waits; nothing unanswered is ever cut off."""
    kept: int = Field(100_000, ge=1, le=1_000_000_000)
    """Entries kept, about, of each of the streams of answers, alarms and dead letters."""


class Serve(Settings):
    """HTTP service, see docs/serving.md."""

    host: str = "127.0.0.1"
    """Address to listen on. The default is this machine alone; 0.0.0.0 is every network it is in."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0: any free one, which the log names."""
    key_file: AnyPath | None = None
    """File whose first line is the API key that requests must have in `Authorization: Bearer KEY`; null: none."""
    origins: list[Origin] = []
    """Origins, as browsers send them, such as https://ward.example or http://10.0.0.7:8080, whose pages may call the
    service (CORS); none: its own."""
    hosts: list[str] = []
    """Names, without a port, by which it may be asked (header Host) beside localhost, 127.0.0.1 and [::1], such as that
    of a proxy before it. Where `host` is reached from other machines and none is named, any."""
    engine: Literal["auto", "torch", "onnx"] = "auto"
    """auto: ONNX Runtime where the bundle can run on it, otherwise PyTorch."""
    threads: int = Field(1, ge=1, le=1024)
    """Threads of a prediction; the event loop needs a core beside them."""
    batch: int = Field(16, ge=1, le=65_536)
    """Most rows of a batch. Larger ones save no time on a CPU, and all rows of a batch wait for its end."""
    delay: float = Field(1.0, ge=0, le=60_000)
    """Milliseconds that a row waits for others to be predicted with while nothing is being predicted."""
    queue: int = Field(256, ge=1, le=1_000_000)
    """Most rows that wait; a request whose rows do not fit is answered with 429 at once."""
    max_rows: int = Field(256, ge=1, le=1_000_000)
    """Most rows of a request."""
    max_tokens: int = Field(4096, ge=1, le=1_000_000)
    """Most tokens of a report. A model reads the first or last data.max_len of them."""
    max_bytes: int = Field(1 << 20, ge=1024, le=1 << 30)
    """Most bytes of a request's body."""
    max_connections: int = Field(1024, ge=1, le=65_536)
    """Most connections at a time; a request on a further one is answered with 429."""
    timeout: float = Field(10.0, gt=0, le=86_400)
    """Seconds within which a client must have sent its request (else 408), and then gets its answer (else 503)."""
    grace: int = Field(30, ge=1, le=86_400)
    """Seconds that a shutdown waits for the requests that were accepted."""
    alarms: Literal["own", "stream"] = "own"
    """Alarms that are shown. own: of what this service predicts, kept in memory; stream: of the workers of
    ./run.sh stream, in their Redis (stream.store)."""
    watch: float = Field(2.0, ge=0, le=86_400)
    """Seconds between looks at the bundle's file, which is loaded again when it changed; 0: only when asked for."""
    shadow: AnyPath | None = None
    """Second bundle, of the same task, that predicts the same rows. Its predictions are only compared; null: none."""

    @model_validator(mode="after")
    def _a_request_fits(self) -> Serve:
        if self.max_rows > self.queue:
            raise ValueError(f"max_rows {self.max_rows} is more than queue {self.queue}: such a request never fits")
        return self


class Compress(Settings):
    """Small models, see compression.py."""

    student: str | None = None
    """Model of the run whose settings and weights the student starts from; null: the one with the highest score on
    `select_on`."""
    denoise: bool = False
    """true: the student reads denoised reports where that model does, which takes twice the time. false: it reads
    reports as they are, and learns what its teachers say of the denoised ones."""
    epochs: int = Field(4, ge=1, le=100_000)
    """Epochs of distillation, over train rows and over all text with soft labels."""
    rate: float = Field(0.5, gt=0, le=1000)
    """Learning rate relative to that of the model that the student starts from."""
    teacher_weight: float = Field(1.0, ge=0)
    """Sample weight of a row with soft labels; train rows with their own labels have 1."""
    prune: float = Field(0.25, ge=0, lt=1)
    """Share of feed-forward units and attention heads, or of hidden units, that are pruned; 0: no pruning."""
    prune_epochs: int = Field(1, ge=1, le=100_000)
    """Epochs of distillation after pruning."""
    max_loss: float = Field(0.002, ge=0)
    """Largest loss of score against the run, on `select_on`; the smallest model within it is taken."""


class Ray(Settings):
    """Cluster of executor=ray, see docs/distributed.md. ray.address is short for executor.ray.address."""

    address: str = Field("auto", pattern=r"^(auto|local|[^\s/]+:[0-9]{1,5})$")
    """auto: the cluster that this machine is a node of, or RAY_ADDRESS. HOST:PORT: the one whose head node is there, of
    which this machine is a node. local: a cluster on this machine, for this command alone."""
    dashboard: bool = False
    """true: ray.address=local also starts Ray's dashboard, on this machine alone; Ray's extra `default` has it."""
    max_retries: int = Field(3, ge=0, le=1000)
    """Times that a job whose node or worker was lost is tried again. One whose own process died is tried once more."""
    silence: float = Field(60.0, ge=6, le=86_400)
    """Seconds without a sign of life after which a job's processes are killed, for it to be tried again."""
    store: str | None = None
    """Object store, s3://BUCKET/PREFIX, through which nodes get what jobs read and return what they write. They then
    need no shared folder. Keys and passwords belong to the environment. null: paths.output is shared."""
    keep: float = Field(60.0, ge=0, le=86_400)
    """Seconds, at least, between two times that the state of a job that trains goes to the store, at the end of an
    epoch. A job whose node is lost goes on from there."""
    cache: float = Field(20.0, ge=0, le=100_000)
    """Gigabytes of objects that each node keeps, in its folder for temporary files (TMPDIR), for the jobs to come."""

    @model_validator(mode="after")
    def _dashboard_of_own_cluster(self) -> Ray:
        if self.dashboard and self.address != "local":
            raise ValueError(
                f"dashboard=true is for ray.address=local, and the address is {self.address}: ray start has options "
                "for it"
            )
        return self

    @field_validator("store")
    @classmethod
    def _is_place_alone(cls, store: str | None) -> str | None:
        if store is not None and not re.fullmatch(r"[a-z][a-z0-9+]*://[^\s@?#]*", store):
            raise ValueError(
                "ray.store is a place such as s3://BUCKET/PREFIX. Keys and passwords are never part of it: set them in "
                "the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
            )
        return store


class Executor(Settings):
    """Parallel jobs and threads, see make_executor() in executors.py."""

    kind: Literal["local", "ray"] = Field("local", exclude_if=lambda kind: kind == "local")
    """local: processes of this machine. ray: the nodes of a Ray cluster, see docs/distributed.md. executor=ray is short
    for executor.kind=ray."""
    ray: Ray = Field(Ray(), exclude_if=lambda ray: ray == Ray())
    workers: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = "auto"
    """Number of parallel jobs. auto: number of jobs, at most the number of cores; on a GPU also at most 8, and one for
    2 GiB of its memory. On a Ray cluster: as many as its nodes have room for."""
    threads: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = "auto"
    """Number of threads of each job. auto: cores divided by workers; 1 on a GPU and on a Ray cluster. Another number of
    threads changes the order of sums, and so the last bits of results."""


class Config(Settings):
    """Complete settings of a command."""

    preset: str
    overrides: list[str] = []
    """Words key=value of the command line, except those of `track`, recorded with each run."""
    paths: Paths = Paths()
    task: Literal["auto", "round1", "round2", "icu", "los", "frames"] = "auto"
    """auto: round 1 or 2, recognised from the label field of the train files (sample data: round1). icu: death in
    hospital, los: length of stay, both from ICU charts; frames: class of an image that is read row by row. These three
    have folders and presets of their own: input/icu, output/icu, src/presets/icu/."""
    data: Data = Data()
    grid: Grid = Grid()
    sample: Sample = Sample()
    folds: Folds = Folds()
    domains: Domains = Domains()
    adapt: Adapt = Adapt()
    shift: Shift = Shift()
    select_on: Literal["clean", "noised", "weighted", "shifted"] = "shifted"
    """Validation rows for early stopping, blends and the order of runs. clean: plain rows; noised: with the noise of
    the target (stays and images have none); weighted: weighted by density ratio to the target; shifted: noised and
    weighted.
    notebooks/validation.ipynb compares how well each predicts scores on other files."""
    metric: Literal["auto", "log_loss", "roc_auc", "pr_auc", "min_se_p", "mae", "rmse", "r2_log", "accuracy"] = "auto"
    """Figure that runs, blends and trials are ordered by. auto: the task's own score. icu: log_loss, roc_auc, pr_auc or
    min_se_p; los: mae, rmse or r2_log; frames: log_loss or accuracy. Blend weights minimise the task's own loss."""
    operating: Operating = Operating()
    average: Literal["logits", "probabilities"] = Field("logits", exclude_if=lambda average: average == "logits")
    """Means over the models of a run (folds and seeds), and over the members of a blend by blend.method=mean or
    blend.fixed. probabilities: less sure where models disagree, as they do on noisy reports and on those unlike train.
    Other blends, auto included, are of logits, and so are explanations and the soft labels of train.teachers. Members
    of a blend must have been averaged alike. Not for los, which predicts days."""
    target: str = "last"
    """Target test file of select_on, such as track1_round1_testB; last: the last by name."""
    runs: dict[str, Run]
    """Models of the experiment, by run name."""
    models: list[str] = []
    """Selected runs; further runs are their teachers, to which key=value words for all runs do not apply."""
    named: dict[str, str] = {}
    """Run of the preset whose settings a run of another name (train --name) starts from, by that name."""
    denoisers: dict[str, Run] = {}
    """Denoiser runs that --model does not select but that selected runs need."""
    baselines: list[Literal["zeros", "prior", "random", "tfidf", "median", "saps", "linear", "boosting"]] = [
        "zeros", "prior", "random", "tfidf",
    ]  # fmt: skip
    """Baselines that are shown with scores. zeros, random and tfidf are for reports. prior: rates, or mean, of the
    training rows; median: theirs; saps: logistic regression on the severity score that comes with the outcomes; linear
    and boosting: as the models of these names, on summary features."""
    blend: Blend = Blend()
    tune: Tune = Tune()
    tuned: dict[str, Path] = {}
    """Study file of each run with settings of a study (tune.use)."""
    leaderboard: Leaderboard = Leaderboard()
    explain: Explain = Explain()
    alarms: Alarms = Alarms()
    stream: Stream = Stream()
    submit: Submit = Submit()
    predict: Predict = Predict()
    serve: Serve = Serve()
    compress: Compress = Compress()
    executor: Executor = Executor()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Processor of training and prediction. auto: a GPU where torch finds one."""
    track: Literal["none", "tensorboard", "mlflow"] = "none"
    """Tracker that also gets scores and learning curves of training and pretraining, see tracking.py; it needs
    docs/requirements-tracking.txt and does not change results."""
    track_uri: str | None = Field(None, pattern=r"^\w[\w+]*://")
    """URI of MLflow's database; null: the SQLite file mlflow.db in the output folder."""

    @model_validator(mode="after")
    def _names_of_runs(self) -> Config:
        for name in (*self.runs, *self.denoisers):
            check_model(name)
        return self

    @model_validator(mode="after")
    def _average_of_classes(self) -> Config:
        if self.average == "probabilities" and self.task == "los":
            raise ValueError("average=probabilities is for tasks that predict probabilities; los predicts days")
        return self

    @model_validator(mode="after")
    def _uri_of_mlflow(self) -> Config:
        if self.track_uri is not None and self.track != "mlflow":
            raise ValueError(f"track_uri is for track=mlflow; track is {self.track}")
        return self

    @model_validator(mode="after")
    def _pooled_rounds_have_regions(self) -> Config:
        if self.domains.labels is not None and self.is_clinical:
            raise ValueError(f"domains.labels renumbers labels of reports; task {self.task} has none")
        if self.domains.rounds == "pooled" and self.task not in ("auto", "round1"):
            raise ValueError(
                f"domains.rounds=pooled is for task=round1, whose labels both rounds have, not {self.task}"
            )
        return self

    @property
    def is_clinical(self) -> bool:
        """True for a task on series, False for reports."""
        return self.task in CLINICAL

    @model_validator(mode="after")
    def _parts_have_a_meaning_for_the_task(self) -> Config:
        if not self.is_clinical:
            for name, run in self.runs.items():
                for key, is_set in (
                    (f"model.encoder={run.model.encoder}", isinstance(run.model, GRUD | Tabular)),
                    ("features", run.features != Features()),
                    ("train.forecast_weight", run.train.forecast_weight > 0),
                    ("train.outcome_weight", run.train.outcome_weight > 0),
                ):
                    if is_set:
                        raise ValueError(
                            f"runs.{name}.{key} is about series; choose one of --task {', '.join(CLINICAL)}"
                        )
            return self
        if self.folds.compares_texts:
            raise ValueError(f"folds.scheme {self.folds.scheme} compares texts; task {self.task} has none")
        for name, run in self.runs.items():
            for key, is_set in (
                ("train.noise", run.train.noise != Noise()),
                ("train.join", run.train.join > 0),
                ("train.reorder", run.train.reorder > 0),
                ("denoise.by", run.denoise.by is not None),
                ("pretrain.epochs", run.pretrain.epochs > 0),
                ("pretrain.by", run.pretrain.by is not None),
            ):
                if is_set:
                    raise ValueError(f"runs.{name}.{key} is about tokens; task {self.task} has none")
            if self.task == "los" and run.train.pos_weight != "none":
                raise ValueError(f"runs.{name}.train.pos_weight is about classes; task los has none")
            if self.task == "frames" and run.train.outcome_weight:
                raise ValueError(f"runs.{name}.train.outcome_weight: images have no outcomes beside their class")
        return self

    @model_validator(mode="after")
    def _runs_that_others_need_are_there(self) -> Config:
        for name, run in self.runs.items():
            if run.train.group_rows == "counted" and self.task not in ("auto", "round2"):
                raise ValueError(
                    f"runs.{name}.train.group_rows=counted is about the types of round 2; task {self.task} has none"
                )
            if run.train.types_weight != 1 and self.task not in ("auto", "round2"):
                raise ValueError(
                    f"runs.{name}.train.types_weight is about the types of round 2; task {self.task} has none"
                )
            if run.denoise.by is not None:
                known = {**self.denoisers, **self.runs}
                if run.denoise.by not in known:
                    raise ValueError(f"runs.{name}.denoise.by: {unknown('run', run.denoise.by, known)}")
                denoiser = known[run.denoise.by].pretrain
                if not denoiser.epochs:
                    raise ValueError(f"runs.{name}.denoise.by: {run.denoise.by} is not pretrained (pretrain.epochs)")
                if not denoiser.replaced or denoiser.masked + denoiser.replaced == 1:
                    raise ValueError(
                        f"runs.{name}.denoise.by: {run.denoise.by} must be pretrained with replaced and with unchanged "
                        "words (pretrain.replaced above 0, pretrain.masked + pretrain.replaced below 1)"
                    )
            for teacher in run.train.teachers:
                if teacher not in self.runs:
                    raise ValueError(f"runs.{name}.train.teachers: {unknown('run', teacher, self.runs)}")
                if self.runs[teacher].train.group_rows != run.train.group_rows:
                    raise ValueError(
                        f"runs.{name}.train.group_rows is {run.train.group_rows} and that of its teacher {teacher} is "
                        f"{self.runs[teacher].train.group_rows}: want one, as types of one mean what those of the "
                        "other do not"
                    )
                if self.runs[teacher].train.teachers:
                    raise ValueError(f"runs.{name}.train.teachers: {teacher} has teachers itself")
                if (by := self.runs[teacher].pretrain.by) is not None:
                    raise ValueError(f"runs.{name}.train.teachers: {teacher} takes the encoder of {by} itself")
            if run.pretrain.by is not None:
                self._check_encoder_of(name, run)
        return self

    def _check_encoder_of(self, name: str, run: Run) -> None:
        """Raises ValueError unless the run `name` can take input layer and encoder of the run pretrain.by."""
        by, told = run.pretrain.by, f"runs.{name}.pretrain.by"
        if by not in self.runs:
            raise ValueError(f"{told}: {unknown('run', by, self.runs)}")
        other = self.runs[by]
        if other.is_fitted:
            raise ValueError(f"{told}: {by} trains no encoder")
        if other.train.regime != "pooled":
            raise ValueError(f"{told}: {by} is trained by train.regime={other.train.regime}: take a pooled one")
        if lacking := [seed for seed in run.train.seeds if seed not in other.train.seeds]:
            raise ValueError(
                f"{told}: {by} has no model of seed {lacking[0]}: set runs.{name}.train.seeds={other.train.seeds}"
            )
        of_training = ("embedding_init", "spatial_dropout", "dropout")  # without effect on a trained encoder
        mine, theirs = (one.model.model_dump(exclude={*HEAD, *of_training}) for one in (run, other))
        for key in {"encoder": None, **mine, **theirs}:
            if mine.get(key) != theirs.get(key):
                raise ValueError(
                    f"{told}: {by} has another encoder: its model.{key} is {theirs.get(key)}, and here it is "
                    f"{mine.get(key)}"
                )

    @model_validator(mode="after")
    def _left_out_folds_stay_unread(self) -> Config:
        known = {**self.denoisers, **self.runs}
        asking = {name: run for name, run in known.items() if run.pretrain.leave_out != "none"}
        if asking and len(self.folds.seeds) > 1:
            raise ValueError(
                "pretrain.leave_out takes one seed in folds.seeds: under another seed other reports share a fold"
            )
        for name, run in asking.items():
            denoiser = known.get(run.denoise.by)
            if denoiser is not None and denoiser.pretrain.leave_out == "none":
                raise ValueError(
                    f"runs.{name}.pretrain.leave_out={run.pretrain.leave_out}, but its denoiser {run.denoise.by} has "
                    f"read all folds. Set runs.{run.denoise.by}.pretrain.leave_out={run.pretrain.leave_out}, too"
                )
        if asking and not any(run.pretrain.epochs for run in asking.values()):
            raise ValueError(f"pretrain.leave_out: none of {', '.join(asking)} is pretrained (pretrain.epochs)")
        return self


def fingerprint(value: Any) -> str:
    """Returns a hash of a JSON value, 16 hexadecimal digits; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
