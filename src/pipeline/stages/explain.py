"""./run.sh explain [RUN]: which tokens make a run say what it says.

./run.sh explain                              the pipeline's blend, or the best run: what carries each label, and the
                                              hardest and some typical reports, for ./run.sh report
./run.sh explain blend --id 42 --label 3      one report, token by token, in the terminal and as a page
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from src.core import storage, versions
from src.core.errors import UserError, unknown
from src.core.executors import LocalProcesses, make_executor
from src.core.settings import Config, fingerprint
from src.core.storage import Output
from src.core.terminal import duration, info, result, show_heat, show_table, warn
from src.data.corpus import N_SPECIAL, Corpus, unpad
from src.data.dataset import Dataset
from src.data.ngrams import join
from src.evaluation import metrics, noise_estimation
from src.evaluation.runs import RunFolder, check_fits, command
from src.reporting.explanations import Explanation, carriers, explain
from src.reporting.html_page import Section, render
from src.reporting.html_page import Text as Words
from src.reporting.sections import Findings
from src.reporting.sections.explanations import LEGEND, PHRASE, heat

STEPS = 16
"""Of the way to each report, where hundreds are explained. Single ones take twice as many."""
HARDEST = TYPICAL = 6
LIKELY_NOISE = 0.5
"""Probability above which a token is marked."""
LEAST = 3
"""Reports of a label that an n-gram must stand in to be told of."""


@storage.marked("explain")
def run(config: Config, name: str | None = None) -> None:
    """The whole set."""
    started = time.perf_counter()
    if not config.explain.per_label:
        info("explain: off (explain.per_label=0)")
        return
    dataset = Dataset.load(Output(config.paths.output))
    source = _source(config, dataset, name)
    path = dataset.output.explained(source.name)
    if is_current(config, source):
        result(f"explain: up to date ({path})")
        return
    train = dataset.train
    rows = np.flatnonzero(dataset.load_folds().scored)
    labels = np.asarray(train.labels)[rows]
    probabilities = dataset.task.decode(source.oof()[rows])
    many = _carrying(labels, probabilities, config.explain.per_label)
    shown = _hardest(labels, probabilities) + _typical(labels, probabilities)
    cells = list(dict.fromkeys([(int(rows[i]), k) for i, k in many] + [(int(rows[i]), k) for _, i, k in shown]))
    executor = _executor(config, source)
    found = {
        (one.row, one.label): one
        for one in explain(executor, source, dataset.train_folder, cells, True, STEPS, occlude=False)
    }
    noise = _noise(dataset, train, [found[int(rows[i]), k] for _, i, k in shown])
    words = dataset.vocabulary.words
    text = {row: words[_indices(train, row)] for row, _ in cells}
    names = dataset.task.label_names
    by_label = {}
    for k, label in enumerate(names):
        ours = [int(rows[i]) for i, j in many if j == k]
        values = [found[row, k].contributions for row in ours]
        grams = {n: carriers([text[row] for row in ours], values, n, LEAST) for n in (1, PHRASE)}
        by_label[label] = {"reports": len(ours), "words": grams[1][:8], "phrases": grams[PHRASE][:6]}
    reports = []
    for kind, i, k in shown:
        row = int(rows[i])
        told = found[row, k]
        reports.append(
            {
                "kind": kind,
                "report": train.ids[row].decode(),
                "label": names[k],
                "there": bool(labels[i, k]),
                "probability": float(probabilities[i, k]),
                "tokens": text[row].tolist(),
                "contributions": [round(float(value), 4) for value in told.contributions],
                "noise": noise[row].tolist(),
            }
        )
    storage.write_json(
        path,
        {
            "fingerprint": _stamp(config, source),
            "run": source.score["fingerprint"],
            "labels": by_label,
            "reports": reports,
        },
    )
    table = [
        [label, str(one["reports"]), " ".join(str(gram[0]) for gram, _, _ in one["words"][:6])]
        for label, one in by_label.items()
    ]
    show_table(f"Words that carry each label, by {source.name}", ["label", "reports", "words"], table, ["words"])
    looked_into = Findings.load(config).best
    more = "; ./run.sh report shows it" if looked_into is not None and looked_into.name == source.name else ""
    result(f"explain: {path} ({duration(time.perf_counter() - started)}){more}")


def is_current(config: Config, source: RunFolder) -> bool:
    return storage.is_current(Output(config.paths.output).explained(source.name), _stamp(config, source))


def _stamp(config: Config, source: RunFolder) -> str:
    return fingerprint(
        {
            "run": source.score["fingerprint"],
            "per_label": config.explain.per_label,
            "version": versions.EXPLAIN,
        }
    )


def run_one(config: Config, name: str | None, report: str, wanted: Sequence[str], file: str | None) -> None:
    """One report, in the terminal and as output/explain_RUN_FILE_ID.html."""
    dataset = Dataset.load(Output(config.paths.output))
    source = _source(config, dataset, name)
    names = dataset.task.label_names
    labels = [_label(names, label) for label in wanted]
    where, folder, row = _find(dataset, report, file)
    corpus = Corpus.load(folder)
    is_train = folder == dataset.train_folder
    if is_train and not dataset.load_folds().scored[row]:
        raise UserError(f"report {report}: every model has learned from it (folds.scheme=holdout); name another")
    said = dataset.task.decode((source.oof() if is_train else source.test_logits(where))[row])
    truth = np.asarray(corpus.labels)[row] if is_train else None
    if not labels:
        told = said >= 0.5 if truth is None else (said >= 0.5) | (truth == 1)
        labels = [int(k) for k in np.argsort(-said, kind="stable") if told[k]] or [int(said.argmax())]
    executor = _executor(config, source)
    found = explain(executor, source, folder, [(row, k) for k in labels], is_train, 2 * STEPS, occlude=True)
    tokens = dataset.vocabulary.words[_indices(corpus, row)].tolist()
    noise = _noise(dataset, corpus, found)[row]
    section = Section(f"Report {report} of {where}")
    how = "by models that have not learned from it" if is_train else "by the mean of all folds"
    section.parts.append(Words(f"By {source.name}, {how}. {LEGEND}"))
    for one in found:
        title = f"{names[one.label]}: {said[one.label]:.3f}"
        if truth is not None:
            title += ", in truth " + ("there" if truth[one.label] else "not there")
        drawn = heat(title, tokens, one.contributions, noise)
        section.parts += [drawn, Words(_check(one))]
        if one.attention is not None:
            looked = f"{names[one.label]}: where the pooling looks (attention), which is no measure of what counts"
            section.parts.append(heat(looked, tokens, one.attention, np.zeros(len(tokens), dtype=bool)))
        show_heat(title, [(token.word, token.strength, token.noise) for token in drawn.tokens])
        result(_check(one))
    result(f"explain: {LEGEND}")
    path = dataset.output.explanation(source.name, where, report)
    storage.write_text(path, render("CT report anomaly detection", "What tokens add to a prediction", [section]))
    result(f"explain: {path}")


def _executor(config: Config, source: RunFolder) -> LocalProcesses:
    """Executor with a job for each trained fold of the run, or of a blend's members."""
    return make_executor(config.executor, "cpu", sum(len(model.record["fold_folders"]) for model in source.models()))


def _source(config: Config, dataset: Dataset, name: str | None) -> RunFolder:
    """The run of that name, or the one that the report looks into."""
    if name is None:
        best = Findings.load(config).best
        if best is None:
            made = command("train", config)
            raise UserError(f"no run of these reports is in {dataset.output.runs}. Make one with: ./run.sh {made}")
        return best
    source = RunFolder.load(dataset.output, name, config)
    check_fits([source], dataset, dataset.load_folds())
    return source


def _label(names: list[str], wanted: str) -> int:
    """By its name, or its number among the labels."""
    if wanted in names:
        return names.index(wanted)
    if wanted.isdecimal() and int(wanted) < len(names):
        return int(wanted)
    raise unknown("label", wanted, names)


def _find(dataset: Dataset, report: str, file: str | None) -> tuple[str, Path, int]:
    """Name of the file, folder of its corpus, row; of several files that have the id the first, and train is before
    tests. Train files are one corpus."""
    train_files = [one["name"] for one in dataset.manifest["files"] if one["role"] == "train"]
    places = {name: dataset.test_folder(name) for name in dataset.test_files}
    places = {**dict.fromkeys(train_files, dataset.train_folder), **places}
    if file is not None and file not in places:
        raise unknown("file", file, places)
    found = []
    for name, folder in places.items():
        if file in (None, name):
            corpus = Corpus.load(folder)
            rows = np.flatnonzero(np.asarray(corpus.ids) == report.encode())
            if name in train_files:
                rows = rows[np.asarray(corpus.sources)[rows] == train_files.index(name)]
            found += [(name, folder, int(row)) for row in rows]
    if not found:
        raise UserError(f"no report has the id {report} in {file or ', '.join(places)}")
    others = [f"--file {name}" for name, _, _ in found[1:] if name != found[0][0]]
    if others:
        info(f"explain: report {report} of {found[0][0]}; {' or '.join(others)} has one too")
    if len(found) - len(others) > 1:
        warn(f"{found[0][0]} has {len(found) - len(others)} reports {report}; this is the first")
    return found[0]


def _carrying(labels: np.ndarray, probabilities: np.ndarray, most: int) -> list[tuple[int, int]]:
    """Cells (i, label) of reports that have the label and are said to have it, up to `most` of each label."""
    rng, found = np.random.default_rng(0), []
    for k in range(labels.shape[1]):
        sure = np.flatnonzero((labels[:, k] == 1) & (probabilities[:, k] >= 0.5))
        found += [(int(i), k) for i in np.sort(rng.permutation(sure)[:most])]
    return found


def _hardest(labels: np.ndarray, probabilities: np.ndarray) -> list[tuple[str, int, int]]:
    """The reports of the largest loss, each with the label that makes most of it."""
    cells = metrics.log_loss_cells(labels, probabilities)
    hardest = np.argsort(-cells.mean(axis=1), kind="stable")[:HARDEST]
    return [("hardest", int(i), int(cells[i].argmax())) for i in hardest]


def _typical(labels: np.ndarray, probabilities: np.ndarray) -> list[tuple[str, int, int]]:
    """For each of the commonest labels, the report with it whose loss there is the median."""
    cells, found = metrics.log_loss_cells(labels, probabilities), []
    for k in np.argsort(-labels.sum(axis=0), kind="stable")[:TYPICAL]:
        ours = np.flatnonzero(labels[:, k] == 1)
        if len(ours):
            found.append(("typical", int(ours[np.argsort(cells[ours, k], kind="stable")[len(ours) // 2]]), int(k)))
    return found


def _indices(corpus: Corpus, row: int) -> np.ndarray:
    """Of a report's tokens in the vocabulary's words; training files hold no unknown word, and tests are part of it."""
    return np.asarray(corpus.tokens[row, : corpus.lengths[row]]).astype(np.int64) - N_SPECIAL


def _noise(dataset: Dataset, corpus: Corpus, found: Sequence[Explanation]) -> dict[int, np.ndarray]:
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


def _check(one: Explanation) -> str:
    """How far the two methods agree, and what integrated gradients leave over."""
    from scipy.stats import spearmanr

    parts = [f"a report that says nothing has the logit {one.start:+.2f}", f"this one {one.logit:+.2f}"]
    parts.append(f"of the difference the tokens make {one.contributions.sum():+.2f}")
    if one.falls is not None and len(one.falls) > 2:
        rank = spearmanr(one.contributions, one.falls).statistic
        top = int(one.falls.argmax())
        place = int((-one.contributions).argsort(kind="stable").tolist().index(top)) + 1
        parts.append(
            f"leaving tokens out ranks them alike with a correlation of {rank:.2f}, and the one that is missed most is "
            f"number {place} here"
        )
    return "; ".join(parts) + "."
