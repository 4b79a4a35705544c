"""Explanations of a run: contribution of each token, or of each parameter at each step of a series, to the logits of
chosen labels.

A job for each trained fold; then the mean over the folds and seeds that were not trained on a report, and over the
members of a blend by their weights, as for its logits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from src.core import array_files, storage
from src.core.executors import Executor, Failure, Job, raise_failures, reads
from src.core.storage import Output
from src.core.terminal import JobProgress
from src.data.corpus import Corpus
from src.ensemble.blending import BlendWeights
from src.evaluation.runs import RunFolder
from src.training.job_specs import reference, trained_fold

if TYPE_CHECKING:
    from src.training.trained_fold import TrainedFold

LONGEST = 3
"""Tokens of an n-gram."""


@dataclass(frozen=True)
class Explanation:
    """Explanation of the logit of one label of one report or series."""

    row: int
    label: int
    start: float
    """Logit of the baseline: a report of the same length without information, or the average series."""
    logit: float
    contributions: np.ndarray
    """(T,) contribution of each token to the logit, by integrated gradients; their sum is nearly logit - start. Series:
    (T + 1, P + S), see series_attribution.py; those of trees are by occlusion."""
    falls: np.ndarray | None
    """(T,) fall of the logit without each token; None unless `occlude`. Series: (windows + 1, P + S), see
    SeriesExplainer.falls()."""
    attention: np.ndarray | None
    """(T,) weights of the pooling; only of a single model that pools by attention."""
    noise: np.ndarray | None
    """(T,) probability that each token is noise, by the run's denoiser; None without one."""
    gradients: np.ndarray | None = None
    """Plain gradients times inputs, of the shape of `contributions`; series only, where all models have gradients."""
    filled: np.ndarray | None = None
    """(T, P) values of a series as the networks read them, without gaps, in their units; None without networks."""


def explain(
    executor: Executor,
    run: RunFolder,
    corpus: Path,
    cells: Sequence[tuple[int, int]],
    judged: bool,
    steps: int,
    occlude: bool,
) -> list[Explanation]:
    """Explains `cells` (row, label) of an encoded corpus, in their order.

    `judged`: the corpus is train, and each report is explained by the models that were not trained on it. Raises
    UserError for jobs that fail.
    """
    wanted: dict[int, list[int]] = defaultdict(list)
    for row, label in cells:
        wanted[row].append(label)
    shares = member_shares(run)
    jobs = [
        Job(
            f"{model.name} {part.rsplit('.', 1)[0].replace('.', ' ')}",
            "src.reporting.explanations:explain_fold",
            payload,
        )
        for model in run.models()
        if shares[model.name].any()
        for part in model.record["fold_folders"]
        if (payload := _payload(model, part, corpus, wanted, judged, steps, occlude))
    ]
    found: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    with JobProgress("explain", {job.name: float(len(job.payload["rows"])) for job in jobs}, lines=False) as progress:
        raise_failures(executor.run(jobs, _Collector(progress, found)))
    single = next(iter(shares)) if len(shares) == 1 else None
    return [_combined(row, wanted[row].index(label), label, shares, single, found) for row, label in cells]


def member_shares(run: RunFolder) -> dict[str, np.ndarray]:
    """Weight (n_labels,) float64 of each trained model's logits in the run's logits, which are their sum. A run that
    averages probabilities is explained by the mean of its logits."""
    if not run.is_blend:
        return {run.name: np.ones(run.task.n_labels)}
    run.check_members()
    weights = BlendWeights.from_json(run.record["weights"])
    total: dict[str, np.ndarray] = {}
    slopes = np.array([label.slopes for label in weights.stack]).T  # (1 + stacked, n_labels)
    n_averaged = len(run.record["members"]) - weights.n_stacked
    for i, name in enumerate(run.record["members"]):
        share = np.empty(run.task.n_labels)
        for group in weights.groups:
            share[group.columns] = group.weights[i] / group.temperature
        if weights.stack:
            share = share * slopes[0] if i < n_averaged else slopes[1 + i - n_averaged]
        path = run.path.parent / name
        for model, inner in member_shares(RunFolder.at(path, run.config)).items():
            total[model] = total.get(model, 0.0) + share * inner
    return total


def carriers(
    tokens: Sequence[np.ndarray], contributions: Sequence[np.ndarray], n: int, least: int
) -> list[tuple[tuple[int, ...], float, int]]:
    """Finds the n-grams with the largest contributions: (n-gram, mean contribution of an occurrence, reports that hold
    it), ordered by the contribution to all reports together, without n-grams in fewer than `least` reports."""
    sums: dict[tuple[int, ...], float] = defaultdict(float)
    times: dict[tuple[int, ...], int] = defaultdict(int)
    holders: dict[tuple[int, ...], set[int]] = defaultdict(set)
    for report, (words, values) in enumerate(zip(tokens, contributions, strict=True)):
        for i in range(len(words) - n + 1):
            gram = tuple(int(word) for word in words[i : i + n])
            sums[gram] += float(values[i : i + n].sum())
            times[gram] += 1
            holders[gram].add(report)
    kept = [gram for gram in sums if len(holders[gram]) >= least and sums[gram] > 0]
    kept.sort(key=lambda gram: (-sums[gram], gram))
    return [(gram, sums[gram] / times[gram], len(holders[gram])) for gram in kept]


def explained_fold(payload: dict[str, Any]) -> list[str]:
    """Names what the explanation of a corpus by a trained fold reads; both are in the payload."""
    train = Output(Path(payload["output"])).data / "train"
    return [*trained_fold(payload), f"{reference(train, payload['output'])}/"]


@reads(explained_fold)
def explain_fold(payload: dict[str, Any], progress: Callable[[dict[str, Any]], None]) -> None:
    """Runs one job: a trained fold on some reports, each sent as soon as it is done. In float32 on the CPU, because
    reports are explained one by one."""
    import torch

    from src.training import devices
    from src.training.trained_fold import TrainedFold

    device = torch.device("cpu")
    devices.set_up(device)
    output = Path(payload["output"])
    corpus = Corpus.load(output / payload["corpus"])
    trained = TrainedFold.load(output / payload["fold"], device, output)
    tell = teller(payload, trained, corpus)
    for i, (row, labels) in enumerate(zip(payload["rows"], payload["labels"], strict=True)):
        progress({"share": (i + 1) / len(payload["rows"]), "found": {"row": row, **tell(row, labels)}})


Tell = Callable[[int, list[int]], dict[str, Any]]
"""Explains labels of one row."""


def teller(payload: dict[str, Any], trained: TrainedFold, corpus: Corpus) -> Tell:
    """Explainer of rows of a corpus by a trained fold; `payload` is that of explain_fold()."""
    return (_tokens if "tokens" in corpus.inputs else _series)(payload, trained, corpus)


def _tokens(payload: dict[str, Any], trained: TrainedFold, corpus: Corpus) -> Tell:
    import torch

    from src.models.layers import words_and_shares
    from src.reporting import attribution
    from src.training.denoising import Denoiser

    model, views = trained.model, trained.views(Path(payload["output"]) / payload["corpus"])
    denoiser = (
        Denoiser.load(trained.denoiser, trained.run.denoise, trained.device, "fp32") if trained.denoiser else None
    )

    def tell(row: int, labels: list[int]) -> dict[str, Any]:
        length = int(corpus.lengths[row])
        seen = [np.asarray(view["tokens"][row, :length]) for view in views]
        ends = _mean(attribution.start_and_end(model, view)[:, labels] for view in seen)  # (2, labels)
        told = {
            "start": ends[0],
            "logit": ends[1],
            "contributions": _mean(
                attribution.integrated_gradients(model, view, labels, payload["steps"]) for view in seen
            ),
        }
        if payload["occlude"]:
            without = _mean(attribution.logit_without(model, view)[:, labels] for view in seen)  # (T, labels)
            told["falls"] = (ends[1] - without).T
        weights = [attribution.attention_weights(model, view) for view in seen]
        if weights[0] is not None:
            mean = _mean(iter(weights))
            told["attention"] = mean[labels] if len(mean) > 1 else np.repeat(mean, len(labels), axis=0)
        if denoiser is not None:
            own = np.asarray(corpus.tokens[row : row + 1])
            (soft,) = denoiser(own, np.asarray(corpus.lengths[row : row + 1]), ["soft"])
            words, shares = words_and_shares(torch.from_numpy(soft[0, :length]))
            stays = (shares * (words == torch.from_numpy(own[0, :length, None].astype(np.int32)))).sum(dim=1)
            told["noise"] = 1 - stays.numpy()
        return told

    return tell


def _series(payload: dict[str, Any], trained: TrainedFold, corpus: Corpus) -> Tell:
    """The baseline is of rows that the fold was trained on."""
    import torch

    from src.data.inputs import InputShape
    from src.reporting.series_attribution import REFERENCES, SeriesExplainer

    output = Path(payload["output"])
    fold = output / payload["fold"]
    train = Corpus.load(Output(output).data / "train")
    rows = array_files.read_npz(fold / "split.npz", "train")["train_rows"]
    learned = rows[rows < len(train)]  # without further files
    chosen = learned[np.unique(np.linspace(0, len(learned) - 1, min(len(learned), REFERENCES)).round().astype(int))]
    reference = {name: torch.from_numpy(np.asarray(array[chosen])) for name, array in train.inputs.items()}
    shape = InputShape.from_json(storage.read_json(fold / "result.json")["inputs"])
    explainer = SeriesExplainer(trained.model, shape, reference, trained.task.kind == "multiclass")

    def tell(row: int, labels: list[int]) -> dict[str, Any]:
        length = int(corpus.lengths[row])
        series = {name: torch.from_numpy(np.array(array[row, :length])) for name, array in corpus.inputs.items()}
        told = {"start": explainer.start(length)[labels]}
        told["logit"] = explainer.logits({name: tensor[None] for name, tensor in series.items()})[0, labels].detach()
        if payload["occlude"] or not explainer.has_gradients:
            told["falls"] = explainer.falls(series)[labels]
        if explainer.has_gradients:
            told["contributions"] = explainer.integrated_gradients(series, labels, payload["steps"])
            told["gradients"] = explainer.input_times_gradient(series, labels)
        else:
            told["contributions"] = explainer.spread(told["falls"], series["values"])
        if (weights := explainer.attention(series)) is not None:
            told["attention"] = weights[labels] if len(weights) > 1 else weights.expand(len(labels), -1)
        if (filled := explainer.filled(series)) is not None:
            told["filled"] = filled
        return {name: tensor.numpy() for name, tensor in told.items()}

    return tell


def _mean(parts: Any) -> np.ndarray:
    return np.mean([part.detach().numpy() for part in parts], axis=0)


def _payload(
    model: RunFolder,
    part: str,
    corpus: Path,
    wanted: dict[int, list[int]],
    judged: bool,
    steps: int,
    occlude: bool,
) -> dict[str, Any] | None:
    """Payload of one job; None if the fold may explain none of the reports."""
    fold, rows = model.path / part, list(wanted)
    if judged:
        allowed = set(array_files.read_npz(fold / "split.npz", model.remedy)["predicted_rows"].tolist())
        rows = [row for row in rows if row in allowed]
    if not rows:
        return None
    output = model.config.paths.output
    return {
        "output": str(output),
        "fold": reference(fold, output),
        "corpus": reference(corpus, output),
        "rows": rows,
        "labels": [wanted[row] for row in rows],
        "steps": steps,
        "occlude": occlude,
    }


class _Collector:
    """Keeps the news of jobs, by model and report."""

    def __init__(self, progress: JobProgress, found: dict[tuple[str, int], list[dict[str, Any]]]):
        self._progress, self._found = progress, found

    def step(self, job: Job, news: dict[str, Any]) -> None:
        model = Path(job.payload["fold"]).parent.name
        self._found[model, news["found"]["row"]].append(news["found"])
        self._progress.step(job.name, news["share"], "")

    def finish(self, job: Job, failure: Failure | None) -> None:
        self._progress.finish(job.name, "")


def _combined(
    row: int,
    place: int,
    label: int,
    shares: dict[str, np.ndarray],
    single: str | None,
    found: dict[tuple[str, int], list[dict[str, Any]]],
) -> Explanation:
    def total(key: str) -> Any:
        """Sum over models by their weights, of the means over folds."""
        parts = [(share[label], found[model, row]) for model, share in shares.items() if share.any()]
        if any(key not in told for _, group in parts for told in group):
            return None
        # Folds finish in any order; sorted sums have the same last bits each time.
        return sum(share * np.sort([told[key][place] for told in group], axis=0).mean(axis=0) for share, group in parts)

    def plain(key: str) -> np.ndarray | None:
        """Mean over all models and folds that have it, of a figure that is no part of a logit."""
        told = [one[key] for model in shares for one in found.get((model, row), []) if key in one]
        return np.sort(told, axis=0).mean(axis=0) if told else None

    attention = plain("attention") if single else None
    return Explanation(
        row,
        label,
        float(total("start")),
        float(total("logit")),
        total("contributions"),
        total("falls"),
        None if attention is None else attention[place],
        plain("noise"),
        total("gradients"),
        plain("filled"),
    )
