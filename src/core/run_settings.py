"""Settings of one run: model, features, pretraining, denoising, training and regime, with the checks between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from src.core.setting_types import Seed, Seeds, Settings, different

if TYPE_CHECKING:
    from src.core.settings import Folds


class Noise(Settings):
    """Rates of token noise added to training reports, drawn anew each epoch, see corruption.NoiseRates."""

    replacement: float = Field(0.0, ge=0, lt=1)
    """Probability that a token is replaced by a random one."""
    insertion: float = Field(0.0, ge=0, lt=1)
    """Probability that a random token is inserted behind a token."""
    deletion: float = Field(0.0, ge=0, lt=1)
    """Probability that a token is deleted."""
    dispersion: float = Field(0.0, ge=0, lt=1)
    """Spread of the rates between reports; 0: the same rates for every report."""


class Model(Settings):
    """Settings common to all models: embedding, pooling and head."""

    embedding_size: int = Field(128, ge=2, le=8192)
    """Dimensions of a token's vector, and of a Transformer's layers."""
    embedding_init: Literal["random", "ppmi"] = "ppmi"
    """ppmi: factorised co-occurrences of words in all text (train, test and extra), see embeddings.py. Series have no
    words and ignore it."""
    spatial_dropout: float = Field(0.2, ge=0, lt=1)
    """Probability that an embedding dimension is dropped for a whole report; of series, a column or summary feature."""
    pooling: Literal["last", "max", "mean", "maxmean", "lastmaxmean", "attention", "hierarchical", "label"] = "maxmean"
    """lastmaxmean: all three, side by side; hierarchical: attention within windows of places, then over windows; label:
    one attention for each label."""
    head: Literal["linear", "neighbours"] = Field("linear", exclude_if=lambda head: head == "linear")
    """neighbours: log-odds of the labels of the training reports that are most alike in the pooled features, see
    neighbours.py. The encoder stays as pretraining or another run left it: nothing is learned by gradients."""
    head_dropout: float = Field(0.2, ge=0, lt=1)
    """Dropout before the linear head."""
    dropout_samples: int = Field(1, ge=1, le=64)
    """Number of dropout masks of the head in a training step, whose logits are averaged (multi-sample dropout, Inoue
    2019)."""


class Recurrent(Model):
    """LSTM, GRU or plain recurrence."""

    encoder: Literal["recurrent"] = "recurrent"
    cell: Literal["lstm", "gru", "rnn"] = "lstm"
    """Kind of recurrence."""
    hidden_size: int = Field(128, ge=1, le=8192)
    """Size of the state in each direction."""
    layers: int = Field(1, ge=1, le=64)
    """Number of layers, one above the other."""
    bidirectional: bool = True
    """Read the report in both directions."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout between layers."""


class Transformer(Model):
    """Pre-norm Transformer encoder."""

    encoder: Literal["transformer"] = "transformer"
    layers: int = Field(2, ge=1, le=64)
    """Number of layers, one above the other."""
    heads: int = Field(4, ge=1, le=256)
    """Number of attention heads of a layer."""
    head_size: int | None = Field(None, ge=1, le=8192, exclude_if=lambda size: size is None)
    """Dimensions of a head; null: embedding_size / heads. Pruning leaves fewer heads of the same size."""
    feedforward_size: int = Field(512, ge=1, le=65_536)
    """Size of the hidden layer of the feed-forward network."""
    positions: Literal["rotary", "relative"] = "rotary"
    """Use of positions: rotary turns queries and keys, relative adds a learned term for each distance."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout of attention and of the feed-forward network."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Transformer:
        if self.head_size is None and self.embedding_size % self.heads:
            raise ValueError(f"embedding_size {self.embedding_size} is not a multiple of heads {self.heads}")
        if self.positions == "rotary" and (self.head_size or self.embedding_size // self.heads) % 2:
            raise ValueError("rotary positions need an even number of dimensions per head")
        return self


class TextCNN(Model):
    """Parallel convolutions of several widths."""

    encoder: Literal["textcnn"] = "textcnn"
    widths: list[Annotated[int, Field(ge=1, le=1000)]] = Field([2, 3, 4, 5], min_length=1, max_length=64)
    """Filter width, in tokens or time steps, of each parallel convolution."""
    filters: int = Field(128, ge=1, le=8192)
    """Number of filters of each width."""


class DPCNN(Model):
    """Deep pyramid CNN with dilation."""

    encoder: Literal["dpcnn"] = "dpcnn"
    size: int = Field(128, ge=1, le=8192)
    """Number of filters of every convolution."""
    blocks: int = Field(3, ge=1, le=16)
    """Number of blocks; the receptive field is 2 ** (blocks + 2) - 1 tokens or time steps."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout of each block's residual branch."""


class RCNN(Model):
    """Embedding with left and right recurrent contexts (Lai et al. 2015)."""

    encoder: Literal["rcnn"] = "rcnn"
    cell: Literal["lstm", "gru", "rnn"] = "lstm"
    """Kind of recurrence."""
    hidden_size: int = Field(128, ge=1, le=8192)
    """Size of the left and of the right context."""
    size: int = Field(128, ge=1, le=8192)
    """Number of features of a token or time step, computed from its contexts and its embedding."""

    @model_validator(mode="after")
    def _not_last(self) -> RCNN:
        if self.pooling in ("last", "lastmaxmean"):
            raise ValueError(f"pooling {self.pooling} is not for rcnn: the last token has no right context")
        return self


class GRUD(Model):
    """GRU-D (Che et al. 2018): a GRU of series, whose state decays while a parameter is not observed. It reads the
    columns of the input layer, so that embedding_size has no effect."""

    encoder: Literal["grud"] = "grud"
    hidden_size: int = Field(64, ge=1, le=8192)
    """Size of the state."""


class Boosting(Settings):
    """Histogram gradient boosting of trees on summary features of series (scikit-learn)."""

    encoder: Literal["boosting"] = "boosting"
    learning_rate: float = Field(0.04, gt=0, le=10)
    """Shrinkage of each tree."""
    max_iter: int = Field(300, ge=1, le=100_000)
    """Number of trees, for each class where there are more than two."""
    max_leaf_nodes: int = Field(8, ge=2, le=65_536)
    """Maximum number of leaves of a tree."""
    min_samples_leaf: int = Field(20, ge=1, le=1_000_000_000)
    """Minimum number of training rows in a leaf."""
    l2: float = Field(5.0, ge=0, le=1e12)
    """L2 regularisation of leaf values."""
    max_features: float = Field(0.1, gt=0, le=1)
    """Share of features that each split chooses from."""
    members: int = Field(3, ge=1, le=100)
    """Number of boostings of different seeds, whose outputs are averaged."""


class Linear(Settings):
    """Logistic or ridge regression on standardised summary features of series (scikit-learn)."""

    encoder: Literal["linear"] = "linear"
    inverse_penalty: float = Field(0.003, gt=0, le=1e12)
    """C of logistic regression: the inverse of the L2 penalty; a ridge has the penalty 1 / inverse_penalty."""


class Kernel(Settings):
    """Support vector machine with a radial kernel on standardised summary features of series (scikit-learn)."""

    encoder: Literal["kernel"] = "kernel"
    inverse_penalty: float = Field(1.0, gt=0, le=1e12)
    """C: the inverse of the L2 penalty."""
    gamma: float = Field(0.6, gt=0, le=1e12)
    """Rate at which the kernel falls with the mean squared difference of the features that vary in training."""


Tabular = Boosting | Linear | Kernel
"""Models without embedding, pooling or gradient steps."""
AnyModel = Annotated[
    Recurrent | Transformer | TextCNN | DPCNN | RCNN | GRUD | Boosting | Linear | Kernel, Field(discriminator="encoder")
]


class Features(Settings):
    """Columns that models read of series, see series_input.py. Reports of tokens have none of them."""

    imputer: Literal["forward", "mean", "linear", "knn", "decay"] = "forward"
    """Value where nothing was observed. forward: the last one, before the first the mean of the training rows; mean:
    that mean; linear: interpolation between observations; knn: mean of the nearest training steps; decay: the last one,
    which decays to the mean at a learned rate (GRU-D)."""
    observed: bool = True
    """Columns that are 1 where a value was observed."""
    elapsed: bool = True
    """Columns with the time since the last observation."""
    smooth: int = Field(0, ge=0, le=2880)
    """Time steps of the trailing mean of each vital sign, in columns of their own; 0: none."""
    dose: bool = False
    """Columns of drugs and devices: whether given, and the cumulative dose."""
    recency: bool = False
    """Columns of examinations: the last value, weighted by the exponential decay of its age."""
    summary: bool = False
    """Summary features of the whole series beside the pooled features (wide and deep)."""
    hidden: list[Literal["Age", "Gender", "Height", "Weight", "ICUType"]] = Field(
        [], exclude_if=lambda names: not names
    )
    """Descriptors of a stay that the model does not read, such as ICUType where its values are domains: a domain that
    is new to a model has a value of it that the model has not seen."""
    standardise_by: Literal["ICUType", "Gender"] | None = Field(None, exclude_if=lambda name: name is None)
    """Descriptor of a stay for each of whose values the means and scales of the series are fitted to the training stays
    that have it. A value with fewer than 20 training stays, or unknown, gets those of all stays. Statics and summary
    features are standardised as one. null: one mean and scale for all."""
    drop: float = Field(0.0, ge=0, lt=1)
    """Augmentation: largest share of a stay's observations that are hidden in a training step; each stay has a share
    between 0 and this one. The summary features of the wide part still see them."""


class Optimisation(Settings):
    """Settings of a training loop, common to pretraining and training."""

    epochs: int = Field(12, ge=0, le=100_000)
    """Number of times that all training rows are seen."""
    batch_size: int = Field(64, ge=1, le=1_000_000)
    """Rows of a training step."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of matrix products in training and in the validation loss of each epoch; predictions are always fp32.
    auto: bf16 if the processor supports it and passes a probe; on a GPU fp32, which trains these small models faster,
    see docs/speed.md."""
    optimizer: Literal["adam", "adamw"] = "adamw"
    """adam: weight_decay is added to the gradient; adamw: decoupled."""
    learning_rate: float = Field(5e-3, gt=0)
    """Largest learning rate, reached after the warmup."""
    weight_decay: float = Field(0.01, ge=0)
    """Weight decay of matrices (parameters with two dimensions or more); other parameters have none."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of steps with a rising learning rate; afterwards the learning rate falls to zero along a cosine."""
    clip_norm: float = Field(1.0, gt=0)
    """Largest norm of the gradient; a longer one is shortened to it."""
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Decay of an exponential moving average of the weights, which then predicts; 0: no average."""
    cuda_graphs: bool = Field(True, exclude_if=lambda graphs: graphs)
    """On a GPU, start all kernels of a step as one, a CUDA graph: LSTMs and Transformers of reports train 4.8 to 12
    times as many reports a second, to the same weights (pretraining: to other last digits). Other models, regimes other
    than pooled, and training on denoised reports go without. false: start each kernel by itself. On a CPU it changes
    nothing. See docs/speed.md."""


class Pretrain(Optimisation):
    """Masked-language-model pretraining of an encoder on all text without labels, see pretraining.py. For reports."""

    epochs: int = Field(0, ge=0, le=100_000)
    """Epochs over all text; 0: no pretraining."""
    by: str | None = Field(None, exclude_if=lambda run: run is None)
    """For model.head=neighbours: run of the experiment whose trained models give input layer and encoder, those of the
    same fold and seed, in place of an encoder that is pretrained on all text; null: no run."""
    stop_loss: float | None = Field(None, gt=0)
    """Training loss of an epoch below which pretraining stops."""
    select: float = Field(0.2, gt=0, le=1)
    """Share of tokens to predict, selected anew each epoch."""
    masked: float = Field(0.6, ge=0, le=1)
    """Share of selected tokens that MASK replaces."""
    replaced: float = Field(0.3, ge=0, le=1)
    """Share of selected tokens that another word replaces, like noise; the other selected tokens are unchanged."""
    spans: list[Annotated[float, Field(ge=0, le=1e6)]] = Field([0.5, 0.3, 0.2], min_length=1, max_length=64)
    """Relative frequencies of selected spans of one, two, three, … tokens (n-gram masking)."""
    detection: float = Field(0.0, ge=0)
    """Weight of the loss of replaced-token detection."""
    seed: Seed = 1
    """Seed of masks and of initial weights."""
    leave_out: Literal["none", "halves", "folds"] = Field("none", exclude_if=lambda parts: parts == "none")
    """Train reports that an encoder does not read. none: one encoder reads all text. halves: two encoders; one leaves
    out the folds with even numbers, the other those with odd numbers. folds: each fold has an encoder that leaves it
    out. Models start from, and are denoised by, the encoder that has not read the fold that they are validated on. A
    text that a test or extra file holds as well is read there."""

    @model_validator(mode="after")
    def _shares(self) -> Pretrain:
        if self.masked + self.replaced > 1:
            raise ValueError(f"masked {self.masked} and replaced {self.replaced} must not sum to more than 1")
        if not sum(self.spans):
            raise ValueError("spans must not all be zero")
        if self.by is not None and self.epochs:
            raise ValueError(f"by={self.by} takes a trained encoder, and epochs={self.epochs} makes one: set epochs=0")
        return self

    def n_encoders(self, folds: Folds) -> int:
        """Returns the number of encoders of a run, by leave_out."""
        n_folds = 1 if folds.scheme == "holdout" else folds.k
        return {"none": 1, "halves": min(2, n_folds), "folds": n_folds}[self.leave_out]


class Denoise(Settings):
    """Denoising of reports by a pretrained encoder before a model reads them, see denoising.py."""

    by: str | None = None
    """Denoiser run: run of the experiment whose pretrained encoder denoises; null: no denoising."""
    prior: float = Field(0.2, gt=0, lt=1)
    """Prior share of words that are noise."""
    confidence: float = Field(0.8, gt=0, lt=1)
    """Probability of noise above which a word is replaced."""
    in_training: bool = True
    """true: train on denoised reports. false: train on noisy reports, in half the time; predictions are denoised."""
    views: Annotated[list[Literal["raw", "hard", "soft"]], AfterValidator(different)] = Field(["hard"], min_length=1)
    """Forms of a report that are read. raw: the report as it is; hard: its most likely words; soft: embeddings of the
    likely words, averaged by their probabilities. With several, each pool of training batches has a random one, and the
    logits of a prediction are the mean of all, divided by a temperature under `doubt`."""
    doubt: float = Field(0.0, ge=0, le=1, exclude_if=lambda doubt: not doubt)
    """Exponent of the temperature (d + 0.1) ** doubt that divides the mean logits of a report's views; d: distance of
    its logits between the views, averaged over the labels. Surer where the views agree, less sure where they do not.
    For several views; a change trains the models anew, though it changes their predictions alone."""

    @model_validator(mode="after")
    def _views_differ(self) -> Denoise:
        if self.by is not None and self.views == ["raw"]:
            off = "denoise.by=null denoise.doubt=0" if self.doubt else "denoise.by=null"
            raise ValueError(f"views=[raw] reads nothing that is denoised: set {off}, or add hard or soft")
        if self.doubt and (self.by is None or len(self.views) < 2):
            why = "there is no denoise.by" if self.by is None else f"there is one, {self.views[0]}"
            raise ValueError(f"doubt={self.doubt:g} is about the distance of views, and {why}: set denoise.doubt=0")
        return self


class Train(Optimisation):
    """Settings of the training of a run."""

    seeds: Seeds = [1]
    """Seeds of training; each fold has a model for each seed, and their predictions are averaged as `average` says."""
    epochs: int = Field(12, ge=1, le=100_000)
    """Number of times that all training rows are seen."""
    patience: int = Field(0, ge=0, le=100_000)
    """Early stopping: number of epochs without a better validation loss (on `select_on`), after which the best epoch is
    kept; 0: the last of all `epochs` is kept. Except under holdout, the scored fold then selects its own epoch,
    which makes its score optimistic; score.json has a note of it."""
    compile: bool = False
    """Use torch.compile on a CPU, which needs a C++ compiler, gains 1% of a step and costs half a minute a job. See
    docs/speed.md. On a GPU steps are CUDA graphs, see cuda_graphs."""
    pos_weight: Literal["none", "balanced"] = "none"
    """balanced: weight of positives = negatives / positives of the label, which ruins the calibration."""
    regression_loss: Literal["mse", "mae", "huber"] = "mse"
    """Loss of a regression, between outputs and log1p of the labels; other tasks ignore it."""
    forecast_weight: float = Field(0.0, ge=0)
    """Weight of the loss of forecasting, from each step of a series, what is observed in the next step; 0: no
    forecasts. For encoders that look back only (bidirectional=false)."""
    outcome_weight: float = Field(0.0, ge=0)
    """Weight of the loss of predicting further outcomes that are known of training stays, such as SAPS-I; 0: none."""
    noise: Noise = Noise()
    """Noise added to training reports."""
    join: float = Field(0.0, ge=0, le=1, exclude_if=lambda share: not share)
    """Probability that a training report is joined with another one, drawn anew each epoch: one text, in either order,
    whose labels are those of both (of soft labels 1 - (1 - p)(1 - q)) and whose sample weight is the mean of both. A
    report stays alone where both together are longer than `data.max_len`. Validation on train's own pool sees no gain,
    another pool does."""
    reorder: float = Field(0.0, ge=0, le=1, exclude_if=lambda share: not share)
    """Probability that the clauses of a training report stand in random order, drawn anew each epoch; labels stay. The
    words that end clauses are found from the text alone. Parts of a joined report are reordered one by one. On another
    pool of the competition it does harm."""
    group_rows: Literal["all", "counted"] = Field("all", exclude_if=lambda rows: rows == "all")
    """Training rows in which the loss of a label group counts. all: every row. counted: those in which the score counts
    the group: for the types of round 2 the reports with an abnormal region. The probability of a type is then that in a
    report that has an abnormal region."""
    types_weight: float = Field(1.0, gt=0, exclude_if=lambda weight: weight == 1)
    """Weight of a type of round 2 in the loss relative to a region; both together count as much as before."""
    target_weight: float = Field(0.0, ge=0, le=1)
    """Exponent of the density ratio to the target test file as sample weight: 1: the weights of `weighted` validation;
    0: equal weights."""
    extra_weight: float = Field(0.0, ge=0)
    """Sample weight of a labelled report of the extra files (paths.extra, and train files of the other round) relative
    to a train report; 0: the labels are not used. Extra reports are never validated; a fold trains on those that are no
    near-duplicates of what it is validated on."""
    own_epochs: int = Field(0, ge=0, le=100_000, exclude_if=lambda epochs: not epochs)
    """Number of the last of all `epochs` that train without the labelled reports of the extra files (extra_weight), so
    that a model that learned from both ends on the pool that is predicted. The task's own reports and those with soft
    labels (teachers) stay."""
    teachers: list[str] = []
    """Runs of the experiment whose predictions are soft labels of the test and extra files for this run. Soft labels of
    a fold come from the teachers' models of this fold, which were not trained on its validation rows."""
    teacher_weight: float = Field(0.5, ge=0)
    """Sample weight of a row with soft labels relative to a train row."""
    consistency: float = Field(0.0, ge=0)
    """Weight of the distance between the predictions for two noisy copies of each report (R-Drop), which doubles a
    step; 0: no second copy."""
    attack: Literal["none", "fgm", "awp"] = "none"
    """Adversarial training: a second loss at weights moved against the loss. fgm: the embedding, along the gradient;
    awp: all matrices. Both cost a second forward and backward pass."""
    attack_size: float | None = Field(None, gt=0)
    """Size of the move. fgm: its length, default 0.5. awp: its length relative to each matrix, default 0.005."""
    regime: Literal[
        "pooled", "single", "groupdro", "dann", "coral", "maml", "fomaml", "reptile", "fedavg", "fedprox"
    ] = Field("pooled", exclude_if=lambda regime: regime == "pooled")
    """Way of learning from several domains, whose settings are in the section regime; see docs/institutions.md. pooled:
    all rows are one set (empirical risk minimisation). single: one model a domain, whose predictions are averaged where
    none of them is of the row's own domain. groupdro: domains with a high loss count more. dann, coral: features that
    tell domains apart less. maml, fomaml, reptile: weights from which a domain is learned in few steps. fedavg,
    fedprox: rounds of training at each domain, after which weights are averaged; rows never leave their domain."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Factor on the learning rate from each layer to the layer below, from the head down to the embedding; for
    pretrained weights."""

    def with_epochs(self, epochs: int) -> Train:
        """Returns these settings with another number of epochs, and own_epochs below it."""
        return self.model_copy(update={"epochs": epochs, "own_epochs": min(self.own_epochs, epochs - 1)})


class Regime(Settings):
    """Settings of train.regime; each is for some regimes, and another regime refuses it."""

    weight: float = Field(1.0, ge=0, le=1e6)
    """dann: weight of the domains' adversary; coral: of the distance between the domains' features; fedprox: mu, twice
    the weight of the squared distance to the weights of the round's start."""
    unlabelled: Literal["none", "test"] = "none"
    """dann, coral: test: the text of each test file is one more domain, without labels."""
    step: float = Field(0.01, gt=0, le=10)
    """groupdro: step of the domains' weights."""
    inner_rate: float = Field(0.05, gt=0, le=10)
    """maml, fomaml, reptile: learning rate of the inner steps."""
    inner_steps: int = Field(1, ge=1, le=100)
    """maml, fomaml, reptile: number of inner steps of each domain."""
    local_epochs: int = Field(1, ge=1, le=100_000, exclude_if=lambda epochs: epochs == 1)
    """fedavg, fedprox: epochs at each domain in a round; train.epochs is those of all rounds together."""
    drop: float = Field(0.0, ge=0, lt=1, exclude_if=lambda share: not share)
    """fedavg, fedprox: probability that a domain takes no part in a round; one at least takes part."""
    personal: Annotated[list[Literal["input_layer", "encoder", "head"]], AfterValidator(different)] = Field(
        [], exclude_if=lambda parts: not parts
    )
    """fedavg, fedprox: parts of the model that stay at their domain in all rounds (FedPer). Those of all domains are
    averaged once, at the end, for a domain that took no part."""
    noise: float = Field(0.0, ge=0, le=1e3, exclude_if=lambda noise: not noise)
    """fedavg, fedprox: differentially private training at each domain (DP-SGD): standard deviation of the noise that is
    added to the sum of a step's gradients, as a multiple of `clip`; 0: none. Needs docs/requirements-privacy.txt."""
    clip: float = Field(1.0, gt=0, le=1e6, exclude_if=lambda clip: clip == 1)
    """fedavg, fedprox with noise: largest norm of the gradient of one row; a longer one is shortened to it."""


FEDERATED = ("fedavg", "fedprox")
"""Regimes whose rows stay at their domain."""
REGIME_SETTINGS = {
    "weight": ("dann", "coral", "fedprox"),
    "unlabelled": ("dann", "coral"),
    "step": ("groupdro",),
    **dict.fromkeys(("inner_rate", "inner_steps"), ("maml", "fomaml", "reptile")),
    **dict.fromkeys(("local_epochs", "drop", "personal", "noise", "clip"), FEDERATED),
}
"""Regimes that each setting of Regime is for."""
HEAD = ("pooling", "head", "head_dropout", "dropout_samples")
"""Settings of a model that pretraining does not see."""


class Run(Settings):
    """Complete settings of one model of an experiment."""

    model: AnyModel = Recurrent()
    features: Features = Features()
    pretrain: Pretrain = Pretrain()
    denoise: Denoise = Denoise()
    train: Train = Train()
    regime: Regime = Field(Regime(), exclude_if=lambda regime: regime == Regime())

    @property
    def remembers(self) -> bool:
        """True where the answer is made of the labels of training reports."""
        return not isinstance(self.model, Tabular) and self.model.head == "neighbours"

    @property
    def is_fitted(self) -> bool:
        """True where nothing is learned by gradients, so that settings of epochs have no effect."""
        return isinstance(self.model, Tabular) or self.remembers

    @property
    def rests_on(self) -> list[str]:
        """Runs whose trained models this run needs: its teachers, and the run whose encoder it takes."""
        return [*self.train.teachers, *filter(None, [self.pretrain.by])]

    @property
    def rank(self) -> int:
        """Place in the order of training: runs that need no other one, students, and runs that take an encoder, which
        may be a student's."""
        return 2 if self.pretrain.by is not None else 1 if self.train.teachers else 0

    @model_validator(mode="after")
    def _reads_for_neighbours(self) -> Run:
        if not self.remembers:
            if self.pretrain.by is not None:
                raise ValueError(f"pretrain.by={self.pretrain.by} is for model.head=neighbours: set it to null")
            return self
        if not self.pretrain.epochs and self.pretrain.by is None:
            raise ValueError(
                "model.head=neighbours compares what a trained encoder reads: set pretrain.epochs, or pretrain.by=RUN"
            )
        if self.model.pooling == "label":
            raise ValueError("model.head=neighbours wants one vector for a report: set model.pooling=mean")
        for key, is_set in (
            ("train.teachers", bool(self.train.teachers)),
            ("train.forecast_weight", self.train.forecast_weight > 0),
            ("train.outcome_weight", self.train.outcome_weight > 0),
            ("train.pos_weight", self.train.pos_weight != "none"),
            ("denoise.by", self.denoise.by is not None),
        ):
            if is_set:
                raise ValueError(f"model.head=neighbours learns nothing by {key}: set it back")
        return self

    @model_validator(mode="after")
    def _settings_of_regime(self) -> Run:
        chosen, model = self.train.regime, self.model
        for key, value in self.regime:
            if value != getattr(Regime(), key) and chosen not in REGIME_SETTINGS[key]:
                known = ", ".join(REGIME_SETTINGS[key])
                raise ValueError(f"regime.{key}={value} is for train.regime {known}; it is {chosen}")
        if chosen in ("pooled", "single"):
            return self
        if self.regime.clip != 1 and not self.regime.noise:
            raise ValueError(f"regime.clip={self.regime.clip:g} is for regime.noise, and there is none")
        if self.is_fitted:
            kind = "model.head=neighbours" if self.remembers else model.encoder
            raise ValueError(f"train.regime={chosen} needs gradients, which {kind} has none of")
        for key, is_set in (
            ("train.attack", self.train.attack != "none"),
            ("train.consistency", self.train.consistency > 0),
            ("train.forecast_weight", self.train.forecast_weight > 0),
            ("train.outcome_weight", self.train.outcome_weight > 0),
            ("train.compile", self.train.compile),
            ("train.own_epochs", self.train.own_epochs > 0),
            *(self._central() if chosen in FEDERATED else ()),
        ):
            if is_set:
                raise ValueError(f"train.regime={chosen} goes without {key}: set it back, or train.regime=pooled")
        return self

    def _central(self) -> list[tuple[str, bool]]:
        """Settings that would bring rows of several domains together, or that only one place could follow; True: it is
        set."""
        train = self.train
        return [
            ("train.patience", train.patience > 0),
            ("train.ema_decay", train.ema_decay > 0),
            ("train.extra_weight", train.extra_weight > 0),
            ("train.target_weight", train.target_weight > 0),
            ("train.teachers", bool(train.teachers)),
            ("features.imputer=knn", self.features.imputer == "knn"),
            # The gradient of one row may depend on that row alone.
            ("train.join under regime.noise", self.regime.noise > 0 and train.join > 0),
            ("train.pos_weight under regime.noise", self.regime.noise > 0 and train.pos_weight != "none"),
        ]

    @model_validator(mode="after")
    def _own_epochs_follow_others(self) -> Run:
        train, told = self.train, f"train.own_epochs={self.train.own_epochs}"
        if not train.own_epochs:
            return self
        if self.is_fitted:
            kind = "model.head=neighbours" if self.remembers else self.model.encoder
            raise ValueError(f"{told} is about epochs, which {kind} has none of: set it to 0")
        if not train.extra_weight:
            raise ValueError(f"{told} leaves out the reports of train.extra_weight, which is 0: set it, too")
        if train.own_epochs >= train.epochs:
            raise ValueError(
                f"{told} leaves no epoch for train.extra_weight: it must be below train.epochs={train.epochs}"
            )
        if train.patience:
            raise ValueError(f"{told} are the last epochs, before which train.patience may end: set one of them to 0")
        return self

    @model_validator(mode="after")
    def _columns_of_model(self) -> Run:
        if self.features.standardise_by and self.features.imputer == "knn":
            raise ValueError("features.imputer=knn compares steps of all stays: take another with standardise_by")
        if isinstance(self.model, GRUD) and not (self.features.imputer == "decay" and self.features.observed):
            raise ValueError("grud needs features.imputer=decay and features.observed=true")
        looks_back = isinstance(self.model, GRUD) or (
            isinstance(self.model, Recurrent) and not self.model.bidirectional
        )
        if self.train.forecast_weight and not looks_back:
            remedy = "model.bidirectional=false"
            if not isinstance(self.model, Recurrent):
                remedy = f"a recurrent one with {remedy}. Set it to 0 for this run"
            raise ValueError(f"train.forecast_weight needs an encoder that looks back only: {remedy}")
        if self.train.forecast_weight and self.features.imputer == "linear":
            raise ValueError("features.imputer=linear reads what train.forecast_weight asks to forecast: take another")
        if self.train.outcome_weight and getattr(self.model, "pooling", "") == "label":
            raise ValueError("model.pooling=label has a vector for each label and none for train.outcome_weight")
        if self.train.consistency and (self.train.forecast_weight or self.train.outcome_weight):
            raise ValueError(
                "train.consistency goes without train.forecast_weight and train.outcome_weight: set one to 0"
            )
        return self
