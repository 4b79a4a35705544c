"""What the reports are like, before any model: labels, lengths, words."""

from __future__ import annotations

import numpy as np

from src.data.corpus import N_SPECIAL, Corpus
from src.data.dataset import Dataset
from src.evaluation.shift_summary import short_names
from src.reporting import charts
from src.reporting.html_page import Chart, Section, Table, Text

TOP_WORDS = 15
TELLING = 12
"""Words for each side that tell normal from abnormal reports."""
PRIOR = 0.01
"""Of each word's share, in log odds (Monroe, Colaresi and Quinn 2008, "Fightin' Words")."""


def section(dataset: Dataset) -> Section:
    train, labels = dataset.train, np.asarray(dataset.train.labels)
    tests = {short: Corpus.load(dataset.test_folder(name)) for name, short in short_names(dataset.test_files).items()}
    found = Section("Data")
    found.parts.append(Text(f"{dataset.manifest['summary'][0].upper()}{dataset.manifest['summary'][1:]}."))
    found.parts.append(
        Table(
            ["file", "role", "reports", "sha256"],
            [
                [file["name"], file["role"], f"{file['rows']:,}", f"{file['sha256'][:12]}…"]
                for file in dataset.manifest["files"]
            ],
        )
    )
    found.parts += _labels(dataset, labels)
    found.parts.append(_lengths(train, tests, labels))
    found.parts += _words(dataset, train, tests, labels)
    return found


def _labels(dataset: Dataset, labels: np.ndarray) -> list[Chart]:
    names, rates = _short(dataset.task.label_names), labels.mean(axis=0)
    with charts.picture("Share of train reports with each label", 2.4, charts.PANEL) as common:
        charts.bars(common.axes, names, 100 * rates)
        common.axes.set_ylabel("% of reports")
        common.axes.set_title("How common each label is")
        common.axes.tick_params(axis="x", labelsize=7.5, labelrotation=90 if len(names) > 20 else 0)
    counts = np.bincount(labels.sum(axis=1))
    with charts.picture("Number of labels of a report", 2.4, charts.PANEL) as many:
        charts.bars(many.axes, list(map(str, range(len(counts)))), counts, 1)
        many.axes.set_xlabel("labels")
        many.axes.set_ylabel("reports")
        many.axes.set_title("How many labels a report has")
    normal = 1 - labels.any(axis=1).mean()
    told = f"{normal:.0%} of the reports have no label: they are normal. {labels.sum(axis=1).mean():.2f} on average."
    together = labels.T.astype(np.float64) @ labels
    with np.errstate(invalid="ignore", divide="ignore"):
        given = together / np.diag(together)[:, None]
    np.fill_diagonal(given, np.nan)
    heat = charts.heat(given, names, "How often a label is there where another is", lambda share: f"{100 * share:.0f}")
    return [
        Chart([common.svg, many.svg], told),
        Chart(heat, "Of the reports with the label of the row, the % that have that of the column.", wide=True),
    ]


def _lengths(train: Corpus, tests: dict[str, Corpus], labels: np.ndarray) -> Chart:
    edges = np.arange(0, train.tokens.shape[1] + 5, 4)
    files = {"train": train.lengths, **{name: corpus.lengths for name, corpus in tests.items()}}
    abnormal = labels.any(axis=1)
    kinds = {"normal": train.lengths[~abnormal], "abnormal": train.lengths[abnormal]}
    pictures = []
    for groups, title in ((files, "by file"), (kinds, "of train, by label")):
        with charts.picture(f"Lengths of reports {title}", 2.4, charts.PANEL) as drawn:
            shares = {name: 100 * np.histogram(n, edges)[0] / max(len(n), 1) for name, n in groups.items()}
            charts.steps(drawn.axes, edges, shares)
            drawn.axes.set_title(f"Tokens of a report, {title}")
            drawn.axes.set_xlabel("tokens")
            drawn.axes.set_ylabel("% of reports")
        pictures.append(drawn.svg)
    means = ", ".join(f"{name} {np.mean(n):.1f}" for name, n in {**files, **kinds}.items() if len(n))
    return Chart(pictures, f"Mean lengths: {means}.")


def _words(dataset: Dataset, train: Corpus, tests: dict[str, Corpus], labels: np.ndarray) -> list[Chart | Table]:
    words, size = dataset.vocabulary.words, len(dataset.vocabulary)
    counts = {name: _counts(corpus, size) for name, corpus in {"train": train, **tests}.items()}
    with charts.picture("Shares of words by rank") as drawn:
        ordered = {name: 100 * np.sort(found)[::-1] / max(found.sum(), 1) for name, found in counts.items()}
        charts.lines(drawn.axes, np.arange(1, size - N_SPECIAL + 1), ordered)
        charts.plain_log(drawn.axes.xaxis)
        charts.plain_log(drawn.axes.yaxis)
        drawn.axes.set_title("How common words are, the commonest first")
        drawn.axes.set_xlabel("rank")
        drawn.axes.set_ylabel("% of tokens")
    ranked = Chart(drawn.svg, "Noise lifts the rare words: an intruder is as likely to be one as any other.")
    top = np.argsort(-counts["train"])[:TOP_WORDS]
    shares = {name: found / max(found.sum(), 1) for name, found in counts.items()}
    common = Table(
        ["word", *counts],
        [[str(words[i]), *(f"{share[i]:.2%}" for share in shares.values())] for i in top],
        f"The {len(top)} commonest words of train, and their shares",
        open=False,
    )
    scores = word_odds(dataset, labels.any(axis=1))
    order = np.argsort(scores)
    telling = [*order[::-1][:TELLING], *order[:TELLING]]
    tells = Table(
        ["word", "log odds, in standard errors"],
        [[str(words[i]), f"{scores[i]:+.1f}"] for i in telling],
        "Words that tell an abnormal report (above zero) from a normal one (below)",
        open=False,
    )
    return [ranked, common, tells]


def word_odds(dataset: Dataset, chosen: np.ndarray) -> np.ndarray:
    """Of each word, (words,), how much commoner it is in the train reports that are chosen, bool (N,), than in the
    others: difference of log odds in standard errors, with a prior like both texts together."""
    size = len(dataset.vocabulary)
    here, there = (_counts(dataset.train, size, rows) for rows in (chosen, ~chosen))
    prior = PRIOR * (here + there) + 1e-9
    odds = [np.log((n + prior) / (n.sum() + prior.sum() - n - prior)) for n in (here, there)]
    return (odds[0] - odds[1]) / np.sqrt(1 / (here + prior) + 1 / (there + prior))


def _counts(corpus: Corpus, size: int, rows: np.ndarray | None = None) -> np.ndarray:
    """How often each word occurs: int64 (words,)."""
    tokens = corpus.tokens if rows is None else corpus.tokens[rows]
    return np.bincount(np.asarray(tokens).ravel(), minlength=size)[N_SPECIAL:]


def _short(names: list[str]) -> list[str]:
    """region_3 -> 3, type_2 -> t2."""
    return [name.removeprefix("region_").replace("type_", "t") for name in names]
