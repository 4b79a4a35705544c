"""Report section on the data: labels, lengths and words of reports. Series have a module of their own, series_data."""

from __future__ import annotations

import numpy as np

from src.core import charts
from src.core.language import _, joined
from src.data.corpus import N_SPECIAL, Corpus
from src.data.dataset import Dataset
from src.evaluation.shift_words import short_names
from src.evaluation.stored_sentences import message_of
from src.reporting.html_page import Chart, Section, Table, Text
from src.reporting.sections import series_data

TOP_WORDS = 15
INDICATIVE = 12
"""Number of most indicative words of abnormal and of normal reports."""
PRIOR = 0.01
"""Weight of the prior in log odds (Monroe, Colaresi and Quinn 2008, "Fightin' Words")."""


def section(dataset: Dataset) -> Section:
    if dataset.shape.kind == "series":
        return series_data.section(dataset)
    train, labels = dataset.train, np.asarray(dataset.train.labels)
    tests = {short: Corpus.load(dataset.test_folder(name)) for name, short in short_names(dataset.test_files).items()}
    result = Section(_("Data"))
    result.gist = _("files, labels, lengths and words")
    result.parts.append(Text(_("{summary}.").format(summary=message_of(dataset.manifest["summary"]))))
    result.parts.append(
        Table(
            [_("file"), _("role"), _("reports"), "sha256"],
            [
                [
                    file["name"],
                    series_data.ROLES.get(file["role"], file["role"]),
                    f"{file['rows']:,}",
                    f"{file['sha256'][:12]}…",
                ]
                for file in dataset.manifest["files"]
            ],
            _("Files"),
        )
    )
    result.parts += _labels(dataset, labels)
    result.parts.append(_lengths(train, tests, labels))
    result.parts += _words(dataset, train, tests, labels)
    return result


def _labels(dataset: Dataset, labels: np.ndarray) -> list[Chart]:
    names, rates = _short(dataset.task.label_names), labels.mean(axis=0)
    is_long = len(names) > 20
    width = charts.WIDTH if is_long else charts.PANEL
    with charts.picture(_("Share of train reports with each label"), 2.4, width) as common:
        charts.bars(common.axes, names, 100 * rates)
        common.axes.set_xlabel(_("label (t: type)") if "t0" in names else _("label"))
        common.axes.set_ylabel(_("% of reports"))
        common.axes.set_title(_("Rate of each label"))
        common.axes.tick_params(axis="x", labelsize=7.5, labelrotation=90 if is_long else 0)
    counts = np.bincount(labels.sum(axis=1, dtype=np.int64))
    with charts.picture(_("Number of labels of a report"), 2.4, charts.PANEL) as many:
        charts.bars(many.axes, list(map(str, range(len(counts)))), counts, 1)
        many.axes.set_xlabel(_("labels of a report"))
        many.axes.set_ylabel(_("number of reports"))
        many.axes.set_title(_("Number of labels of a report"))
    normal = 1 - labels.any(axis=1).mean()
    caption = _("{share:.0%} of the reports have no label (normal). Mean: {mean:.2f} labels.").format(
        share=normal, mean=labels.sum(axis=1).mean()
    )
    together = labels.T.astype(np.float64) @ labels
    with np.errstate(invalid="ignore", divide="ignore"):
        given = together / np.diag(together)[:, None]
    np.fill_diagonal(given, np.nan)
    heat = charts.heat(given, names, _("Labels together"), lambda share: f"{100 * share:.0f}", _("label"))
    together = _("% of the reports with the row's label that also have the column's label.")
    return [Chart([common.svg, many.svg], caption), Chart(heat, together, wide=True)]


def _lengths(train: Corpus, tests: dict[str, Corpus], labels: np.ndarray) -> Chart:
    edges = np.arange(0, train.tokens.shape[1] + 5, 4)
    files = {_("train"): train.lengths, **{name: corpus.lengths for name, corpus in tests.items()}}
    abnormal = labels.any(axis=1)
    kinds = {_("normal"): train.lengths[~abnormal], _("abnormal"): train.lengths[abnormal]}
    pictures, shares = [], []
    for groups in (files, kinds):
        shares.append({name: 100 * np.histogram(n, edges)[0] / max(len(n), 1) for name, n in groups.items()})
    highest = max(share.max() for group in shares for share in group.values())
    titles = (_("Tokens of a report, by file"), _("Tokens of a report of train, by label"))
    for group, title in zip(shares, titles, strict=True):
        with charts.picture(title, 2.4, charts.PANEL) as chart:
            charts.steps(chart.axes, edges, group)
            chart.axes.set_ylim(0, 1.05 * highest)
            chart.axes.set_title(title)
            chart.axes.set_xlabel(_("tokens"))
            chart.axes.set_ylabel(_("% of reports"))
        pictures.append(chart.svg)
    means = joined(", ", [joined(" ", [name, f"{np.mean(n):.1f}"]) for name, n in {**files, **kinds}.items() if len(n)])
    return Chart(pictures, _("Mean lengths: {means}.").format(means=means))


def _words(dataset: Dataset, train: Corpus, tests: dict[str, Corpus], labels: np.ndarray) -> list[Chart | Table]:
    words, size = dataset.vocabulary.words, len(dataset.vocabulary)
    counts = {name: _counts(corpus, size) for name, corpus in {_("train"): train, **tests}.items()}
    with charts.picture(_("Shares of words by rank")) as chart:
        ordered = {name: 100 * np.sort(count)[::-1] / max(count.sum(), 1) for name, count in counts.items()}
        charts.lines(chart.axes, np.arange(1, size - N_SPECIAL + 1), ordered)
        charts.plain_log(chart.axes.xaxis)
        charts.plain_log(chart.axes.yaxis)
        chart.axes.set_title(_("Word frequencies by rank"))
        chart.axes.set_xlabel(_("rank of the word"))
        chart.axes.set_ylabel(_("% of tokens"))
    ranked = Chart(
        chart.svg, _("Noise raises the shares of rare words, since intruders are nearly uniform over words.")
    )
    top = np.argsort(-counts["train"])[:TOP_WORDS]
    shares = {name: count / max(count.sum(), 1) for name, count in counts.items()}
    common = Table(
        [_("word"), *counts],
        [[str(words[i]), *(f"{share[i]:.2%}" for share in shares.values())] for i in top],
        _("The {n} most frequent words of train and their shares").format(n=len(top)),
        open=False,
    )
    scores = word_odds(dataset, labels.any(axis=1))
    order = np.argsort(scores)
    extremes = [*order[::-1][:INDICATIVE], *order[:INDICATIVE]]
    indicative = Table(
        [_("word"), _("log odds, in standard errors")],
        [[str(words[i]), f"{scores[i]:+.1f}"] for i in extremes],
        _("Words that indicate an abnormal report (positive) or a normal one (negative)"),
        open=False,
    )
    return [ranked, common, indicative]


def word_odds(dataset: Dataset, chosen: np.ndarray) -> np.ndarray:
    """Returns the log odds ratio of each word, (words,), between the train reports `chosen`, bool (N,), and the others.

    The unit is standard errors; the prior is proportional to the counts in both.
    """
    size = len(dataset.vocabulary)
    here, there = (_counts(dataset.train, size, rows) for rows in (chosen, ~chosen))
    prior = PRIOR * (here + there) + 1e-9
    odds = [np.log((n + prior) / (n.sum() + prior.sum() - n - prior)) for n in (here, there)]
    return (odds[0] - odds[1]) / np.sqrt(1 / (here + prior) + 1 / (there + prior))


def _counts(corpus: Corpus, size: int, rows: np.ndarray | None = None) -> np.ndarray:
    """Counts each word: int64 (words,)."""
    tokens = corpus.tokens if rows is None else corpus.tokens[rows]
    return np.bincount(np.asarray(tokens).ravel(), minlength=size)[N_SPECIAL:]


def _short(names: list[str]) -> list[str]:
    """Shortens label names: region_3 to 3, type_2 to t2."""
    return [name.removeprefix("region_").replace("type_", "t") for name in names]
