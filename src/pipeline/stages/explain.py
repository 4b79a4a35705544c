"""./run.sh explain [RUN]: which tokens, or parameters of series, carry each label, and the hardest and some typical
rows, for the report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.core import versions
from src.core.errors import UserError
from src.core.executors import Executor, make_executor
from src.core.language import _
from src.core.settings import fingerprint
from src.core.targets import Target
from src.core.terminal import duration, info, result, show_table
from src.data.corpus import Corpus, to_words, unpad
from src.data.dataset import Dataset
from src.data.ngrams import join
from src.data.tasks import Task
from src.evaluation import noise_estimation
from src.evaluation.runs import RunFolder
from src.evaluation.workspace import Workspace
from src.pipeline.stage import Progress, Stage, run_lock
from src.reporting.explanations import Explanation, carriers, explain
from src.reporting.sections import Findings
from src.reporting.sections.explanations import PHRASE
from src.reporting.series_findings import over_many, row_record, sources

STEPS = 16
"""Points on the path of integrated gradients where hundreds of reports are explained; single reports take twice as
many."""
HARDEST = TYPICAL = 6
LIKELY_NOISE = 0.5
"""Probability above which a token is marked as noise."""
SAMPLES = 5
"""Rows explained for each one of explain.per_label, where there is a single label."""
LEAST = 3
"""Reports of a label that must hold an n-gram for the n-gram to be shown."""


class Explain(Stage):
    name = "explain"
    needs = ("blend",)

    def __init__(self, run: str | None = None):
        """`run`: the run to explain (default: the pipeline's blend, or the best run)."""
        self._run = run

    def names(self, workspace: Workspace) -> list[str]:
        return [self._run or ""] if workspace.settings.explain.per_label else []

    def result(self, workspace: Workspace, name: str) -> Path:
        return workspace.output.explained(name or "blend")

    def targets(self, workspace: Workspace) -> list[Target]:
        if not self.names(workspace):
            return []
        source = source_of(workspace, self._run)
        stamp = fingerprint(
            {
                "run": source.score["fingerprint"],
                "per_label": workspace.settings.explain.per_label,
                "version": versions.EXPLAIN,
                **workspace.task.version,
            }
        )
        return [Target(self._run or "", workspace.output.explained(source.name), stamp)]

    def lock_names(self, names: Sequence[str]) -> list[str]:
        return ["explain"]  # the default run may be one that is named elsewhere

    def reads(self, workspace: Workspace) -> set[str]:
        return super().reads(workspace) | ({run_lock(self._run)} if self._run else set())

    def progress(self, workspace: Workspace, target: Target) -> Progress:
        return Progress(str(target.result) if target.is_current() else "")

    def current(self, workspace: Workspace, targets: Sequence[Target]) -> str:
        if not targets:
            info(_("explain: off (explain.per_label=0)"))
            return ""
        return _("explain: up to date ({result})").format(result=targets[0].result)

    def run(self, workspace: Workspace, missing: Sequence[Target]) -> None:
        _explain_set(workspace, source_of(workspace, self._run), missing[0])


STAGE = Explain()


def source_of(workspace: Workspace, name: str | None) -> RunFolder:
    """The run called `name`, or the one that the report explains. Raises UserError, with the command, for none."""
    if name is not None:
        run = workspace.run(name)
        workspace.check_fits([run], noisy_copies=False)
        return run
    best = Findings.load(workspace).best
    if best is None:
        for other in workspace.fitting_runs()[1]:
            workspace.fitting_run(other)  # raises what is wrong with the run that is there
        raise UserError(
            _("no run of these reports is in {runs}. Make one with: ./run.sh {command}").format(
                runs=workspace.output.runs, command=workspace.command("train")
            )
        )
    return best


def explain_executor(workspace: Workspace, source: RunFolder) -> Executor:
    """Executor for the jobs of an explanation: one for each fold of each model."""
    n_jobs = sum(len(model.record["fold_folders"]) for model in source.models())
    return make_executor(workspace.settings.executor, "cpu", n_jobs)


def _explain_set(workspace: Workspace, source: RunFolder, target: Target) -> None:
    started, dataset = time.perf_counter(), workspace.dataset
    train = dataset.train
    rows = np.flatnonzero(workspace.splits.scored)
    labels = workspace.labels[rows]
    probabilities = workspace.task.decode(source.oof()[rows])
    many, shown = _chosen(workspace, labels, probabilities)
    cells = list(dict.fromkeys([(int(rows[i]), k) for i, k in many] + [(int(rows[i]), k) for _, i, k in shown]))
    executor = explain_executor(workspace, source)
    found = {
        (one.row, one.label): one
        for one in explain(executor, source, dataset.train_folder, cells, True, STEPS, occlude=False)
    }
    told = [found[int(rows[i]), k] for i, k in many]
    explained = [found[int(rows[i]), k] for _, i, k in shown]
    heads = [
        {
            "kind": kind,
            "report": train.ids[rows[i]].decode(),
            "label": dataset.task.label_names[k],
            "there": labels[i, k].item() if dataset.task.unit else bool(labels[i, k]),
            "probability": float(probabilities[i, k]),
        }
        for kind, i, k in shown
    ]
    make = _words if dataset.shape.kind == "tokens" else _parameters
    content, table = make(workspace, told, explained, heads)
    target.write({"run": source.score["fingerprint"], **content})
    what, columns, lines = table
    show_table(_("{what}, by {name}").format(what=what, name=source.name), columns, lines, columns[-1:])
    looked_into = Findings.load(workspace).best
    more = (
        _("; ./run.sh {command} shows it").format(command=workspace.command("report"))
        if looked_into is not None and looked_into.name == source.name
        else ""
    )
    result(
        _("explain: {result} ({time}){more}").format(
            result=target.result, time=duration(time.perf_counter() - started), more=more
        )
    )


Content = tuple[dict[str, Any], tuple[str, list[str], list[list[str]]]]
"""Content of explained.json, and a table: title, columns, rows; the last column holds words."""


def _words(
    workspace: Workspace, told: Sequence[Explanation], explained: Sequence[Explanation], heads: list[dict[str, Any]]
) -> Content:
    """Words and phrases that carry each label, and the tokens of the shown reports."""
    dataset = workspace.dataset
    train, words = dataset.train, dataset.vocabulary.words
    noise = noise_marks(dataset, train, explained)
    text = {one.row: words[word_indices(train, one.row)] for one in (*told, *explained)}
    by_label = {}
    for k, label in enumerate(dataset.task.label_names):
        ours = [one for one in told if one.label == k]
        values = [one.contributions for one in ours]
        grams = {n: carriers([text[one.row] for one in ours], values, n, LEAST) for n in (1, PHRASE)}
        by_label[label] = {"reports": len(ours), "words": grams[1][:8], "phrases": grams[PHRASE][:6]}
    reports = [
        {
            **head,
            "tokens": text[one.row].tolist(),
            "contributions": [round(float(value), 4) for value in one.contributions],
            "noise": noise[one.row].tolist(),
        }
        for head, one in zip(heads, explained, strict=True)
    ]
    table = [
        [label, str(one["reports"]), " ".join(str(gram[0]) for gram, _, _ in one["words"][:6])]
        for label, one in by_label.items()
    ]
    content = {"labels": by_label, "reports": reports}
    return content, ("Words that carry each label", ["label", "reports", "words"], table)


def _parameters(
    workspace: Workspace, told: Sequence[Explanation], explained: Sequence[Explanation], heads: list[dict[str, Any]]
) -> Content:
    """Parameters that carry each label, and the contributions and curves of the shown series."""
    dataset, shape = workspace.dataset, workspace.dataset.shape
    by_label = {}
    for k, label in enumerate(dataset.task.label_names):
        ours = [one for one in told if one.label == k]
        if ours:
            values, statics = zip(*(series_of(dataset.train, one.row) for one in ours), strict=True)
            by_label[label] = over_many(ours, values, statics, shape)
    shown = [
        {**head, **row_record(one, series_of(dataset.train, one.row)[0], shape)}
        for head, one in zip(heads, explained, strict=True)
    ]
    names = np.array(sources(shape))
    table = [
        [label, str(one["rows"]), ", ".join(names[np.argsort(-np.array(one["size"]), kind="stable")[:6]])]
        for label, one in by_label.items()
    ]
    title = "Parameters with the largest mean |contribution|"
    return {"parameters": by_label, "reports": shown}, (title, ["label", dataset.task.noun, "parameters"], table)


def series_of(corpus: Corpus, row: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Values (T, P) and statics (S,) of a series, without padding."""
    statics = corpus.inputs.get("statics")
    return np.array(corpus.inputs["values"][row, : corpus.lengths[row]]), None if statics is None else statics[row, 0]


def _chosen(
    workspace: Workspace, labels: np.ndarray, probabilities: np.ndarray
) -> tuple[list[tuple[int, int]], list[tuple[str, int, int]]]:
    """Cells (i, label) that say what carries each label, and cells (kind, i, label) to show."""
    task, most = workspace.task, workspace.settings.explain.per_label
    probabilities = task.judged(labels, probabilities)
    shown = _hardest(task, labels, probabilities) + _typical(task, labels, probabilities)
    if len(task.label_names) > 1:
        return _carrying(labels, probabilities, most), shown
    # A single label: all rows speak of it, for or against.
    some = np.random.default_rng(0).permutation(len(labels))[: SAMPLES * most]
    return [(int(i), 0) for i in np.sort(some)], shown


def _carrying(labels: np.ndarray, probabilities: np.ndarray, most: int) -> list[tuple[int, int]]:
    """Cells (i, label) of reports that have the label and are said to have it, up to `most` of each label."""
    rng, found = np.random.default_rng(0), []
    for k in range(labels.shape[1]):
        sure = np.flatnonzero((labels[:, k] == 1) & (probabilities[:, k] >= 0.5))
        found += [(int(i), k) for i in np.sort(rng.permutation(sure)[:most])]
    return found


def _hardest(task: Task, labels: np.ndarray, probabilities: np.ndarray) -> list[tuple[str, int, int]]:
    """The rows of the largest loss, each with the label that makes most of it."""
    cells = task.cells(labels, probabilities)
    hardest = np.argsort(-cells.mean(axis=1), kind="stable")[:HARDEST]
    return [("hardest", int(i), int(cells[i].argmax())) for i in hardest]


def _typical(task: Task, labels: np.ndarray, probabilities: np.ndarray) -> list[tuple[str, int, int]]:
    """For each of the commonest labels, the row with it whose loss there is the median. A single label: rows spread
    evenly over the predictions, from the lowest to the highest."""
    cells, found = task.cells(labels, probabilities), []
    if labels.shape[1] == 1:
        ordered = np.argsort(probabilities[:, 0], kind="stable")
        places = np.linspace(0, len(ordered) - 1, TYPICAL + 2).round().astype(int)[1:-1]
        return [("usual", int(ordered[place]), 0) for place in places]
    for k in np.argsort(-labels.sum(axis=0), kind="stable")[:TYPICAL]:
        ours = np.flatnonzero(labels[:, k] == 1)
        if len(ours):
            found.append(("typical", int(ours[np.argsort(cells[ours, k], kind="stable")[len(ours) // 2]]), int(k)))
    return found


def word_indices(corpus: Corpus, row: int) -> np.ndarray:
    """Rows of a report's tokens in the vocabulary's words. The vocabulary holds the words of train and test files."""
    return to_words(np.asarray(corpus.tokens[row, : corpus.lengths[row]]).astype(np.int64))


def noise_marks(dataset: Dataset, corpus: Corpus, found: Sequence[Explanation]) -> dict[int, np.ndarray]:
    """Which tokens are probably noise: bool (T,) by row, by the encoder that denoises for the run or, for runs without
    one, by the frames of all texts."""
    if all(one.noise is not None for one in found):
        return {one.row: one.noise > LIKELY_NOISE for one in found}
    folders = [dataset.train_folder, *map(dataset.test_folder, dataset.test_files)]
    texts = [unpad(np.asarray(one.tokens), np.asarray(one.lengths)) for one in map(Corpus.load, folders)]
    rows = [one.row for one in found]
    tokens, offsets = join([unpad(np.asarray(corpus.tokens[[row]]), np.asarray(corpus.lengths[[row]])) for row in rows])
    hit = noise_estimation.hit_tokens(noise_estimation.learn_frames(texts), (tokens, offsets))
    return {row: hit[offsets[i] : offsets[i + 1]] for i, row in enumerate(rows)}
