"""Missing values of a series corpus: how many, when, together with what, and what they say about the outcome.

A parameter is observed in an hour (a time step) when its value is no NaN there, and observed in a stay when it is
observed in at least one hour. With a grid of another step, read time step for hour. Everything is measured on the train
rows, or on a random sample of them where they are many. Nothing that is fitted here is used by a model.

Tests: Pearson's chi-square, or Fisher's exact test in small tables, of death against "observed in the stay";
Mann-Whitney's test where the outcome is a number. Interval of a difference of rates: Newcombe 1998 (Statistics in
Medicine 17:873-890, method 10). p values are corrected by Holm 1979. Missing completely at random: Dixon's comparisons
(BMDP Statistical Software 1988, program AM), the pairwise form of the question that Little 1988 (JASA 83:1198-1202)
tests jointly; Little's own test needs far more rows than there are patterns of missing values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from src.core import storage, versions
from src.core.language import _, joined, word
from src.core.settings import fingerprint
from src.core.threads import one_thread
from src.data.corpus import Corpus
from src.data.dataset import Dataset
from src.data.inputs import InputShape
from src.data.tasks import Task

MAX_ROWS = 20_000
"""Stays that are read."""
MAX_CELLS = 1 << 26
"""Values that are read, 256 MB as float32; fewer stays where these are long."""
MIN_GROUP = 20
"""Stays with, and without, a parameter that a comparison needs."""
SIGNIFICANT = 0.05
FOLDS, DRAWS = 5, 200
"""Folds, and bootstrap draws of the standard error, of the score of the masks alone."""


@dataclass(frozen=True)
class Sample:
    """Train rows that are looked at, n of N."""

    values: np.ndarray
    """(n, T, P) float32, NaN where nothing was observed."""
    statics: np.ndarray
    """(n, S) float32, NaN where unknown."""
    labels: np.ndarray
    """(n, L)."""
    lengths: np.ndarray
    """Hours of each stay, (n,)."""
    total: int
    """N."""

    def __len__(self) -> int:
        return len(self.values)


def draw_sample(corpus: Corpus, seed: int = 0) -> Sample:
    """Reads at most MAX_ROWS rows and MAX_CELLS values, drawn at random where the corpus has more."""
    values, total = corpus.inputs["values"], len(corpus)
    n = min(total, MAX_ROWS, max(1, MAX_CELLS // (values.shape[1] * values.shape[2])))
    rows = np.arange(total) if n == total else np.sort(np.random.default_rng(seed).permutation(total)[:n])
    statics = corpus.inputs["statics"][rows][:, 0] if "statics" in corpus.inputs else np.zeros((n, 0), np.float32)
    labels = np.asarray(corpus.labels[rows])
    return Sample(np.asarray(values[rows]), np.asarray(statics), labels, np.asarray(corpus.lengths[rows]), total)


def of_dataset(dataset: Dataset) -> dict[str, Any]:
    """Returns the facts of measure() on the train rows; they are kept beside the corpus, for seconds of work."""
    libraries = storage.libraries("scikit-learn", "scipy", "numpy")
    stamp = fingerprint([dataset.manifest["fingerprint"], versions.MISSINGNESS, libraries])
    kept = dataset.output.data / f"missingness.{stamp}.json"
    if (known := storage.read_kept(kept)) is not None:
        return known
    facts = measure(draw_sample(dataset.train), dataset.shape, dataset.task)
    if not dataset.read_only:
        storage.write_json(kept, facts)
        for other in set(dataset.output.data.glob("missingness.*.json")) - {kept}:
            other.unlink(missing_ok=True)
    return facts


def measure(sample: Sample, shape: InputShape, task: Task, seed: int = 0) -> dict[str, Any]:
    """Returns the facts about missing values as JSON values.

    `rows`, `rows_in_all`, `steps`, `share` (of all cells that are missing); `parameters`, a list in the order of
    `shape.parameters`: name, kind, `stays` and `hours` (shares in which it is observed), `outcome` and `frequency`
    (relation of being observed, and of how often, with the outcome); `statics`: name and `known` (share); `over_time`
    (P, T), the share of stays observed in each hour; `together` (P, P), the phi coefficient of being observed in a
    stay, and `order`, the parameters so that similar ones are neighbours; `at_random`; `masks`. Where nothing is
    missing, all behind `share` is left out.
    """
    observed = ~np.isnan(sample.values)  # (n, T, P)
    inside = np.arange(observed.shape[1]) < sample.lengths[:, None]  # (n, T)
    hours = observed.sum(axis=1)  # (n, P)
    facts: dict[str, Any] = {
        "rows": len(sample),
        "rows_in_all": sample.total,
        "steps": observed.shape[1],
        "share": _rounded(1 - hours.sum() / max(inside.sum() * observed.shape[2], 1)),
    }
    if facts["share"] == 0 and not np.isnan(sample.statics).any():
        return facts
    ever = hours > 0
    facts["parameters"] = [
        {"name": name, "kind": kind, "stays": _rounded(stays), "hours": _rounded(share)}
        for name, kind, stays, share in zip(
            shape.parameters, shape.kinds, ever.mean(axis=0), hours.sum(axis=0) / inside.sum(), strict=True
        )
    ]
    known = ~np.isnan(sample.statics)
    facts["statics"] = [
        {"name": name, "known": _rounded(share)}
        for name, share in zip(shape.statics, known.mean(axis=0) if known.size else (), strict=True)
    ]
    by_hour = observed.sum(axis=0) / np.maximum(inside.sum(axis=0), 1)[:, None]  # (T, P)
    facts["over_time"] = _rounded(by_hour.T)
    phi = _correlations(ever)
    facts["together"], facts["order"] = _rounded(phi), _clustered(phi)
    outcomes = [relation_with_outcome(task, ever[:, j], sample.labels) for j in range(ever.shape[1])]
    frequencies = [frequency_and_outcome(task, hours[:, j], sample.labels) for j in range(ever.shape[1])]
    for relations in (outcomes, frequencies):
        for relation, p in zip(relations, holm([one["p"] for one in relations]), strict=True):
            relation["p_holm"] = p
    for parameter, outcome, frequency in zip(facts["parameters"], outcomes, frequencies, strict=True):
        parameter.update(outcome=_json(outcome), frequency=_json(frequency))
    facts["at_random"] = missing_at_random(sample, observed, shape)
    facts["masks"] = masks_alone(task, mask_features(observed, known), sample.labels, seed)
    return facts


def relation_with_outcome(task: Task, ever: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Compares the labels (n, L) of the stays in which a parameter is observed, `ever` bool (n,), with the others.

    Returns `observed` and `unobserved` (rate of the outcome, or its mean in the task's unit), `effect` with `low` and
    `high` (their difference, its 95% interval), `test` and `p`. Several classes have no one rate: there the effect is
    Cramér's V, from 0 to 1, without interval. Fewer than MIN_GROUP stays on one side have no rate, and then there is no
    effect and no p.
    """
    from scipy import stats

    found: dict[str, Any] = dict.fromkeys(("observed", "unobserved", "effect", "low", "high", "test", "p"))
    with_it, without = labels[ever].astype(np.float64), labels[~ever].astype(np.float64)
    if task.kind != "multiclass":
        found["observed"] = float(with_it[:, 0].mean()) if len(with_it) >= MIN_GROUP else None
        found["unobserved"] = float(without[:, 0].mean()) if len(without) >= MIN_GROUP else None
    if min(len(with_it), len(without)) < MIN_GROUP:
        return found
    if task.kind == "regression":
        a, b = with_it[:, 0], without[:, 0]
        interval = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
        test = stats.mannwhitneyu(a, b)
        ends = {"effect": a.mean() - b.mean(), "low": interval.low, "high": interval.high}
        return found | ends | {"test": "Mann-Whitney", "p": float(test.pvalue)}
    table = np.array([with_it.sum(axis=0), without.sum(axis=0)])
    if task.kind == "binary":
        table = np.column_stack([table[:, 0], [len(with_it), len(without)] - table[:, 0]])
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2:
        return found
    test = stats.chi2_contingency(table, correction=False)
    if task.kind == "multiclass":
        found |= {"effect": math.sqrt(test.statistic / len(labels))}
    else:
        low, high = difference_interval(*(int(n) for n in (table[0, 0], len(with_it), table[1, 0], len(without))))
        found |= {"effect": found["observed"] - found["unobserved"], "low": low, "high": high}
    if table.shape == (2, 2) and test.expected_freq.min() < 5:
        return found | {"test": "Fisher", "p": float(stats.fisher_exact(table).pvalue)}
    return found | {"test": "chi-square", "p": float(test.pvalue)}


def difference_interval(events_a: int, n_a: int, events_b: int, n_b: int) -> tuple[float, float]:
    """Returns the 95% interval of rate a minus rate b, by Newcombe's method 10: Wilson intervals of both."""
    from scipy.stats import binomtest

    a, b = events_a / n_a, events_b / n_b
    of_a, of_b = (binomtest(k, n).proportion_ci(method="wilson") for k, n in ((events_a, n_a), (events_b, n_b)))
    low = a - b - math.hypot(a - of_a.low, of_b.high - b)
    return low, a - b + math.hypot(of_a.high - a, b - of_b.low)


def frequency_and_outcome(task: Task, hours: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Measures how the number of hours in which a parameter is observed, int (n,), goes with the labels (n, L).

    Returns `measure`, `value` and `p`. binary: AUROC of that number alone (above 0.5: observed more often in those who
    have the outcome), Mann-Whitney's test. regression: Spearman's rank correlation. multiclass: Kruskal-Wallis's
    epsilon squared. `strength` puts all three on a scale from 0 to 1.
    """
    from scipy import stats

    if task.kind == "regression":
        name, groups = "Spearman's rho", [labels[:, 0]]
    else:
        name = "AUROC" if task.kind == "binary" else "epsilon²"
        columns = labels if task.kind == "multiclass" else np.column_stack([labels[:, 0], 1 - labels[:, 0]])
        groups = [hours[column == 1] for column in columns.T]
        groups = [group for group in groups if len(group)]
    varies = np.ptp(hours) > 0 and (np.ptp(groups[0]) > 0 if task.kind == "regression" else len(groups) > 1)
    if not varies:
        return {"measure": name, "value": None, "p": None, "strength": 0.0}
    if task.kind == "regression":
        rho, p = stats.spearmanr(hours, labels[:, 0])
        return {"measure": name, "value": float(rho), "p": float(p), "strength": abs(float(rho))}
    if task.kind == "binary":
        test = stats.mannwhitneyu(*groups)
        area = float(test.statistic / (len(groups[0]) * len(groups[1])))
        return {"measure": name, "value": area, "p": float(test.pvalue), "strength": abs(2 * area - 1)}
    test = stats.kruskal(*groups)
    epsilon = float(test.statistic / (len(hours) - 1))
    return {"measure": name, "value": epsilon, "p": float(test.pvalue), "strength": math.sqrt(epsilon)}


def holm(p_values: list[float | None]) -> list[float | None]:
    """Returns p values corrected by Holm's method, in the same order; those that are None are no test."""
    adjusted, largest = list(p_values), 0.0
    tested = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    for rank, (p, i) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        adjusted[i] = largest
    return adjusted


def missing_at_random(sample: Sample, observed: np.ndarray, shape: InputShape) -> dict[str, Any]:
    """Tests whether values are missing completely at random, by Dixon's comparisons.

    For each pair of columns (a parameter or a static), the values of one are compared, by Welch's t test, between the
    stays in which the other is observed and those in which it is not. A stay's value of a parameter is the mean of its
    ranks among all stays of the same hour: measured early or late, seldom or often, it has the same expectation, and no
    outlier rules a test. Returns `comparisons`, `rejected` (those with a Holm-corrected p below SIGNIFICANT), `p` (the
    smallest corrected one, of the hypothesis itself) and `strongest`, at most five of the rejected, by their
    standardised difference: `missing` (whose absence goes with other values), `other`, `difference`, `p_holm`.
    """
    from scipy import stats

    names = [*shape.parameters, *shape.statics]
    is_there = np.column_stack([observed.any(axis=1), ~np.isnan(sample.statics)])  # (n, Q)
    scores = np.column_stack([_rank_scores(sample.values, observed), _ranks(sample.statics)])  # (n, Q)
    has_score = ~np.isnan(scores)
    filled = np.where(has_score, scores, 0.0)
    pair = []
    for mask in (is_there, ~is_there):
        weights = mask.T.astype(np.float64)  # (Q, n): row = the column that is missing or not
        n, total, squares = weights @ has_score, weights @ filled, weights @ filled**2
        mean = total / np.maximum(n, 1)
        pair.append((n, mean, np.maximum(squares - n * mean**2, 0) / np.maximum(n - 1, 1)))
    (n_1, mean_1, var_1), (n_0, mean_0, var_0) = pair
    enough = (np.minimum(n_1, n_0) >= MIN_GROUP) & ~np.eye(len(names), dtype=bool) & (np.minimum(var_1, var_0) > 1e-12)
    missing, other = np.nonzero(enough)
    empty = {"comparisons": len(missing), "rejected": 0, "p": None, "strongest": []}
    if not len(missing):
        return empty
    at = missing, other
    p = stats.ttest_ind_from_stats(
        mean_1[at], np.sqrt(var_1[at]), n_1[at], mean_0[at], np.sqrt(var_0[at]), n_0[at], equal_var=False
    ).pvalue
    corrected = np.array(holm(p.tolist()))
    spread = np.sqrt(((n_1 - 1) * var_1 + (n_0 - 1) * var_0)[at] / (n_1 + n_0 - 2)[at])
    difference = (mean_0 - mean_1)[at] / spread
    rejected = np.flatnonzero(corrected < SIGNIFICANT)
    strongest = rejected[np.argsort(-np.abs(difference[rejected]), kind="stable")][:5]
    found = [
        {
            "missing": names[missing[i]],
            "other": names[other[i]],
            "difference": _rounded(difference[i]),
            "p_holm": float(corrected[i]),
        }
        for i in strongest
    ]
    return empty | {"rejected": len(rejected), "p": float(corrected.min()), "strongest": found}


def _rank_scores(values: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Returns each stay's mean rank of a parameter, (n, P) from -0.5 to 0.5, NaN where it is never observed; ranks are
    among the stays observed in the same hour."""
    n, _, n_parameters = values.shape
    scores = np.full((n, n_parameters), np.nan)
    for j in range(n_parameters):
        count = observed[:, :, j].sum(axis=1)
        total = np.nansum(_ranks(values[:, :, j]), axis=1)
        scores[count > 0, j] = total[count > 0] / count[count > 0]
    return scores


def _ranks(values: np.ndarray) -> np.ndarray:
    """Returns the rank within its column of each value (n, K), from -0.5 to 0.5, ties at their mean; NaN stays NaN."""
    from scipy.stats import rankdata

    ranks = np.full(values.shape, np.nan)
    for k in range(values.shape[1]):
        there = ~np.isnan(values[:, k])
        if there.any():
            ranks[there, k] = (rankdata(values[there, k]) - 0.5) / there.sum() - 0.5
    return ranks


def mask_features(observed: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Returns what the masks `observed` (n, T, P) and `known` (n, S) hold, without any value: for each parameter the
    number of hours observed, and the first and the last (NaN where there is none); for each static whether it is known.
    float32 (n, 3P + S)."""
    hours, steps = observed.sum(axis=1), observed.shape[1]
    first = np.where(hours > 0, observed.argmax(axis=1), np.nan)
    last = np.where(hours > 0, steps - 1 - observed[:, ::-1].argmax(axis=1), np.nan)
    return np.column_stack([hours, first, last, known]).astype(np.float32)


def masks_alone(task: Task, features: np.ndarray, labels: np.ndarray, seed: int = 0) -> dict[str, Any] | None:
    """Returns how well the features (n, F) of the masks alone predict the labels (n, L), out of fold.

    Histogram gradient boosting, FOLDS stratified folds. `measure` is AUROC (binary), R² of log1p (regression) or
    accuracy (multiclass); `chance` is the figure of a prediction that knows nothing; the standard error is a bootstrap
    over stays. None where a class has fewer than FOLDS stays.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold

    strata = np.asarray(task.strata(labels))
    target = labels.argmax(axis=1) if task.kind == "multiclass" else labels[:, 0]
    groups = strata.argmax(axis=1) if strata.shape[1] > 1 else strata[:, 0]
    sizes = np.bincount(groups.astype(int))
    if len(sizes[sizes > 0]) < 2 or sizes[sizes > 0].min() < FOLDS:
        return None
    settings: dict[str, Any] = {
        "learning_rate": 0.05, "max_iter": 120, "max_leaf_nodes": 8, "min_samples_leaf": 20, "l2_regularization": 5.0,
        "early_stopping": False, "random_state": seed,
    }  # fmt: skip
    if task.kind == "regression":
        target = np.log1p(target)
    booster = HistGradientBoostingRegressor if task.kind == "regression" else HistGradientBoostingClassifier
    predicted = np.zeros(len(labels))
    with one_thread():
        for fit, held in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(features, groups):
            # The first and last hour of a parameter that nobody has: the booster finds no bins for it.
            is_known = np.isfinite(features[fit]).any(axis=0)
            model = booster(**settings).fit(features[fit][:, is_known], target[fit])
            unseen = features[held][:, is_known]
            predicted[held] = model.predict_proba(unseen)[:, 1] if task.kind == "binary" else model.predict(unseen)

    def figure(rows: np.ndarray) -> float:
        truth, guess = target[rows], predicted[rows]
        if task.kind == "binary":
            return roc_auc_score(truth, guess) if np.ptp(truth) else math.nan
        if task.kind == "regression":
            return 1 - np.mean((truth - guess) ** 2) / max(truth.var(), 1e-12)
        return float((truth == guess).mean())

    generator, n = np.random.default_rng(seed), len(labels)
    draws = [figure(generator.integers(0, n, n)) for _ in range(DRAWS)]
    measure, chance = {
        "binary": ("AUROC", 0.5),
        "regression": ("R² of log1p", 0.0),
        "multiclass": ("accuracy", float(sizes.max() / n)),
    }[task.kind]
    return {
        "measure": measure,
        "value": float(figure(np.arange(n))),
        "standard_error": float(np.nanstd(draws, ddof=1)),
        "chance": chance,
        "folds": FOLDS,
    }


def most_informative(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the parameters whose number of observed hours goes with the outcome, the strongest first."""
    found = [one for one in facts["parameters"] if is_significant(one["frequency"])]
    return sorted(found, key=lambda one: -one["frequency"]["strength"])


def is_significant(relation: dict[str, Any]) -> bool:
    """Returns True if the p value of an outcome or a frequency, corrected over parameters, is below SIGNIFICANT."""
    return relation["p_holm"] is not None and relation["p_holm"] < SIGNIFICANT


def sentences(facts: dict[str, Any], task: Task) -> list[str]:
    """Returns what was measured, in words."""
    noun = task.noun
    if "parameters" not in facts:
        return [
            _("No value is missing in the {rows:,} {noun}, so there is nothing to say about missing values.").format(
                rows=facts["rows"], noun=word(noun)
            )
        ]
    told = []
    if facts["rows"] < facts["rows_in_all"]:
        told.append(
            _("Measured on {rows:,} of {rows_in_all:,} {noun}, drawn at random.").format(
                rows=facts["rows"], rows_in_all=facts["rows_in_all"], noun=word(noun)
            )
        )
    parameters = facts["parameters"]
    rare = sorted(parameters, key=lambda one: one["stays"])[:3]
    share = _("{name} (in {stays:.0%} of the {noun})")
    names = joined(", ", [share.format(name=one["name"], stays=one["stays"], noun=word(noun)) for one in rare])
    told.append(
        _(
            "{share:.0%} of all cells of the grid ({steps} time steps, {n_parameters} "
            "parameters) are missing. Most seldom observed: {names}."
        ).format(share=facts["share"], steps=facts["steps"], n_parameters=len(parameters), names=names)
    )
    return [*told, _told_of_outcome(facts, task), _told_of_masks(facts), _told_at_random(facts)]


def _told_of_outcome(facts: dict[str, Any], task: Task) -> str:
    label = task.label_names[0] if task.kind != "multiclass" else _("the class")
    tested = [one for one in facts["parameters"] if one["frequency"]["p"] is not None]
    informative = most_informative(facts)
    if not informative:
        return _(
            "How often a parameter is observed goes with {label} for none of the {n} parameters (Holm's correction)."
        ).format(label=label, n=len(tested))
    best = ", ".join(
        f"{one['name']} ({one['frequency']['measure']} {one['frequency']['value']:.2f})" for one in informative[:5]
    )
    return _(
        "How often a parameter is observed goes with {label} for {n} of the {all} "
        "parameters (Holm's correction); most for {best}."
    ).format(label=label, n=len(informative), all=len(tested), best=best)


def _told_of_masks(facts: dict[str, Any]) -> str:
    masks = facts["masks"]
    if masks is None:
        return _("There are too few labels to predict the outcome from the masks alone.")
    figure = f"{masks['measure']} {masks['value']:.3f} ± {masks['standard_error']:.3f}"
    how = _("out of fold, {folds} folds, chance {chance:.3g}").format(folds=masks["folds"], chance=masks["chance"])
    if masks["value"] - masks["chance"] > 2 * masks["standard_error"]:
        return _(
            "Missing values carry information: the masks alone, without any value, reach {figure} ({how})."
        ).format(figure=figure, how=how)
    return _("Missing values carry no information that could be found: the masks alone reach {figure} ({how}).").format(
        figure=figure, how=how
    )


def _told_at_random(facts: dict[str, Any]) -> str:
    test = facts["at_random"]
    how = _("Welch's t tests of ranks, Holm's correction (Dixon 1988; compare Little 1988)")
    if not test["comparisons"]:
        return _("Too few values are missing to test whether they are missing completely at random.")
    if not test["rejected"]:
        return _(
            "That values are missing completely at random is not rejected: in none of "
            "{comparisons:,} comparisons do the other values differ by what is missing ({how})."
        ).format(comparisons=test["comparisons"], how=how)
    first = test["strongest"][0]
    direction = _("higher") if first["difference"] > 0 else _("lower")
    return _(
        "Values are not missing completely at random: in {rejected:,} of {comparisons:,} "
        "comparisons the other values differ by what is missing ({how}); most where "
        "{missing} is missing, with {direction} {other} (by {value:.2f} standard deviations "
        "of its ranks). Whether they are missing at random given what is observed cannot be "
        "tested from the data."
    ).format(
        rejected=test["rejected"],
        comparisons=test["comparisons"],
        how=how,
        missing=first["missing"],
        direction=direction,
        other=first["other"],
        value=abs(first["difference"]),
    )


def _correlations(ever: np.ndarray) -> np.ndarray:
    """Returns the phi coefficients of the columns of `ever`, bool (n, P): (P, P), NaN where a column is constant."""
    centred = ever - ever.mean(axis=0)
    scale = np.sqrt((centred**2).sum(axis=0))
    with np.errstate(invalid="ignore", divide="ignore"):
        phi = centred.T @ centred / np.outer(scale, scale)
    constant = scale == 0
    phi[constant], phi[:, constant] = np.nan, np.nan
    return np.clip(phi, -1, 1)


def _clustered(phi: np.ndarray) -> list[int]:
    """Returns the parameters in an order in which those with similar correlations (P, P) are neighbours (average
    linkage, optimal leaf order); constant ones are last."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    varying = np.flatnonzero(~np.isnan(np.diag(phi)))
    constant = np.flatnonzero(np.isnan(np.diag(phi))).tolist()
    if len(varying) < 3:
        return [*varying.tolist(), *constant]
    distance = np.clip(1 - phi[np.ix_(varying, varying)], 0, None)
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform((distance + distance.T) / 2), "average", optimal_ordering=True)
    return [*varying[leaves_list(tree)].tolist(), *constant]


def _rounded(values: Any) -> Any:
    """Rounds a number or an array to five places, as JSON values; NaN becomes None."""
    if isinstance(values, np.ndarray) and values.ndim:
        return [_rounded(row) for row in values]
    return None if math.isnan(values) else round(float(values), 5)


def _json(relation: dict[str, Any]) -> dict[str, Any]:
    """Returns a relation without NaN and with plain numbers; p values keep all digits."""
    return {
        name: value if isinstance(value, str) or value is None else None if math.isnan(value) else float(value)
        for name, value in relation.items()
    }
