"""Noise estimates by frames: planted rates are recovered from text alone, and clean text has none."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from src.data.corruption import NoiseRates, corrupt
from src.data.ngrams import Text, join, take
from src.data.report_reader import read_reports
from src.data.synthetic import VOCABULARY, make_sample
from src.data.tasks import ROUND1
from src.evaluation import noise_estimation as f

ROWS = 8000
WORDS = np.arange(VOCABULARY)
KINDS = ("replacement", "insertion", "deletion", "dispersion")
USUAL = NoiseRates(0.15, 0.02, 0.025, 0.05)
PHRASE = [1, 2, 3, 4, 5]  # one frame of two tokens either side


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Text:
    folder = tmp_path_factory.mktemp("clean")
    make_sample(folder, rows=ROWS, test_rows=1, task=ROUND1, seed=0, noise=False)
    reports = read_reports(folder / "sample_train.csv")
    return reports.tokens, reports.offsets


def noisy(text: Text, rates: NoiseRates, seed: int = 0, alphabet: np.ndarray = WORDS) -> Text:
    return corrupt(*text, rates, np.random.default_rng(seed), alphabet)


def measured(text: Text, learned: list[f.Frames] | None = None) -> f.NoiseEstimate | None:
    learned = f.learn_frames([text]) if learned is None else learned
    counts = f.count_outcomes(learned, text)
    return f.estimate_noise(learned, counts, f.replacing_tokens(learned, text), VOCABULARY)


def held(estimate: f.NoiseEstimate, truth: NoiseRates, slack: float = 0.0) -> list[bool]:
    bounds = [(*estimate.intervals[kind], getattr(truth, kind)) for kind in KINDS]
    return [low - slack <= value <= high + slack for low, high, value in bounds]


def as_text(*reports: list[int]) -> Text:
    tokens = [token for report in reports for token in report]
    return np.array(tokens, np.uint16), np.cumsum([0, *map(len, reports)])


def outcomes(learned: list[f.Frames], *reports: list[int]) -> list[list[int]]:
    """Counts intact, replaced, inserted and deleted narrowest frames of each report."""
    return f.count_outcomes(learned, as_text(*reports))[:, 0].tolist()


# What is tried is random, but always the same: the intervals are meant to hold in 95% of all cases, not in every one,
# so of the eight of a setting two may miss.
@pytest.mark.parametrize(
    "rates", [(0.15, 0.02, 0.025, 0.05), (0.22, 0.04, 0.05, 0.05), (0.1, 0.02, 0.03, 0.0), (0.15, 0.0, 0.0, 0.1)]
)
def test_planted_rates_lie_in_their_intervals(clean, rates):
    truth = NoiseRates(*rates)
    estimates = [measured(noisy(clean, truth, seed)) for seed in range(2)]
    hits = [held(estimate, truth, slack=5e-4) for estimate in estimates]  # clean text shows that much itself
    assert np.sum(hits) >= 6, hits
    found = np.mean([[getattr(estimate.rates, kind) for kind in KINDS] for estimate in estimates], axis=0)
    np.testing.assert_allclose(found[:3], rates[:3], rtol=0.2, atol=5e-4)
    assert found[3] == pytest.approx(rates[3], abs=0.04)
    for estimate in estimates:  # an interval that holds everything would hold the truth
        low, high = estimate.intervals["replacement"]
        assert low > 0.7 * truth.replacement and high < 1.6 * truth.replacement


def test_clean_text_has_no_noise(clean):
    estimate = measured(clean)
    assert max(asdict(estimate.rates).values()) < 0.005
    assert estimate.odd_middles < 0.005


def test_the_noisier_file_is_called_noisier(clean):
    files = noisy(clean, USUAL), noisy(clean, NoiseRates(0.22, 0.04, 0.05, 0.05), seed=1)
    learned = f.learn_frames(files)
    low, high = (measured(file, learned) for file in files)
    assert low.odd_middles < high.odd_middles - 0.03
    for kind in KINDS[:3]:
        assert getattr(low.rates, kind) * 1.2 < getattr(high.rates, kind), kind


def test_flatness_tells_uniform_intruders_from_favourites(clean):
    flat, narrow = (measured(noisy(clean, USUAL, alphabet=words)).flatness for words in (WORDS, WORDS[:20]))
    assert flat > 0.95 and narrow == pytest.approx(20 / VOCABULARY, rel=0.4)


def test_one_seed_gives_one_estimate(clean):
    text = noisy(take(*clean, np.arange(3000)), USUAL)
    learned = f.learn_frames([text])
    counts, replacing = f.count_outcomes(learned, text), f.replacing_tokens(learned, text)
    first, again, other = (f.estimate_noise(learned, counts, replacing, VOCABULARY, seed) for seed in (1, 1, 2))
    assert first == again
    assert other.rates == first.rates and other.intervals != first.intervals, "a seed moves intervals only"
    assert json.loads(json.dumps(first.to_json()))["rates"] == asdict(first.rates)


def test_too_little_text_gives_no_rate():
    learned = f.learn_frames([as_text(*[PHRASE] * 40)])
    for reports, known in ((f.MIN_OUTCOMES - 1, False), (f.MIN_OUTCOMES, True)):
        assert (measured(as_text(*[PHRASE] * reports), learned) is not None) == known
    too_rare = as_text(*[PHRASE] * (f.MIN_COUNT - 1))
    assert f.learn_frames([too_rare]) == []
    assert f.estimate_noise([], f.count_outcomes([], too_rare), np.zeros(0, int), VOCABULARY) is None


def test_each_outcome_is_called_by_its_name():
    learned = f.learn_frames([as_text(*[PHRASE] * 100)])
    assert [one.width for one in learned] == [2] and learned[0].words.tolist() == [3]
    intact, replaced, inserted, deleted = np.eye(4, dtype=int).tolist()
    reports = [PHRASE, [1, 2, 9, 4, 5], [1, 2, 9, 3, 4, 5], [1, 2, 3, 9, 4, 5], [1, 2, 4, 5]]
    assert outcomes(learned, *reports) == [intact, replaced, inserted, inserted, deleted]
    assert outcomes(learned, [1, 2, 8, 9, 4, 5], [1, 2, 3]) == [[0] * 4] * 2
    assert outcomes(learned, [7, *PHRASE, 7, *PHRASE]) == [[2, 0, 0, 0]]
    assert f.replacing_tokens(learned, as_text(*reports, [1, 2, 7, 4, 5])).tolist() == [9, 7]


def test_rates_follow_from_exact_shares():
    # Words are replaced, lost, followed by an intruder or left, a lost word's place may hold a neighbour's intruder,
    # and every intruder has two neighbours. Frames of all widths see the same: reports are all alike.
    replaced, inserted, deleted, left = 0.4, 0.1, 0.2, 0.3
    seen = np.array([left, replaced + deleted * inserted / left, 2 * inserted, deleted])
    counts = np.tile(np.round(seen * 6000).astype(int), (50, 2, 1))
    learned = [f.Frames(width, *[np.zeros(1, np.uint64)] * 3) for width in (2, 3)]
    estimate = f.estimate_noise(learned, counts, np.zeros(0, int), VOCABULARY)
    np.testing.assert_allclose(list(asdict(estimate.rates).values()), [replaced, inserted, deleted, 0], atol=1e-3)
    assert estimate.outcomes == counts[:, 0].sum() and estimate.flatness is None


def test_intervals_are_as_wide_as_chance_makes_them():
    rate, reports, places = 0.005, 20_000, 10  # so few hits that no dispersion is looked for
    hits = np.random.default_rng(0).binomial(places, rate, reports)
    counts = np.zeros((reports, 1, 4), int)
    counts[:, 0, f.INTACT], counts[:, 0, f.REPLACED] = places - hits, hits
    learned = [f.Frames(2, *[np.zeros(1, np.uint64)] * 3)]
    low, high = f.estimate_noise(learned, counts, np.zeros(0, int), VOCABULARY).intervals["replacement"]
    assert low < rate < high
    assert high - low == pytest.approx(2 * 1.96 * (rate * (1 - rate) / (reports * places)) ** 0.5, rel=0.2)


def test_frames_do_not_reach_across_reports():
    learned = f.learn_frames([as_text(*[PHRASE] * 100)])
    for cut in range(1, 5):  # the same tokens, but in two reports
        assert outcomes(learned, PHRASE[:cut], PHRASE[cut:]) == [[0] * 4] * 2
        assert f.learn_frames([as_text(*[PHRASE[:cut], PHRASE[cut:]] * 100)]) == []
    for broken in ([1, 2, 9, 4, 5], [1, 2, 9, 3, 4, 5], [1, 2, 4, 5]):
        assert np.sum(outcomes(learned, broken)) == 1
        for cut in range(1, len(broken)):
            assert np.sum(outcomes(learned, broken[:cut], [], broken[cut:])) == 0
    assert outcomes(learned, [], PHRASE, [], []) == [[0] * 4, [1, 0, 0, 0], [0] * 4, [0] * 4]


def test_a_frequent_other_word_is_language():
    text = as_text(*[PHRASE] * 100, *[[1, 2, 7, 4, 5]] * 10, [1, 2, 8, 4, 5])
    learned = f.learn_frames([text])
    assert outcomes(learned, PHRASE, [1, 2, 7, 4, 5], [1, 2, 8, 4, 5]) == [[1, 0, 0, 0], [0] * 4, [0, 1, 0, 0]]
    evenly = as_text(*[PHRASE] * 60, *[[1, 2, 7, 4, 5]] * 40)
    assert f.learn_frames([evenly]) == [], "with two words there is no frame"


def test_an_intruder_in_copies_of_a_report_is_no_language():
    odd = [1, 2, 7, 4, 5]
    file = as_text(*[PHRASE] * 100, odd)
    assert outcomes(f.learn_frames([file] * 4), odd) == [[0, 1, 0, 0]], "each file holds it once"
    assert outcomes(f.learn_frames([join([file] * 4)]), odd) == [[0] * 4], "one file holds it often"


def test_a_frame_that_often_lacks_its_word_is_no_frame():
    phrases = [[10 * i + k for k in range(5)] for i in range(1, 11)]
    cut = phrases[0][:2] + phrases[0][3:]
    learned = f.learn_frames([as_text(*phrases * 100, cut)])
    assert len(learned[0].contexts) == 10 and outcomes(learned, cut) == [[0, 0, 0, 1]]
    learned = f.learn_frames([as_text(*phrases * 100, *[cut] * 60)])
    assert len(learned[0].contexts) == 9 and outcomes(learned, cut) == [[0] * 4]


def test_noise_of_single_reports_separates_quiet_from_loud(clean):
    half = ROWS // 2
    parts = [
        noisy(take(*clean, np.arange(half) + start), NoiseRates(0.7 * rate, 0.15 * rate, 0.15 * rate), seed)
        for seed, (start, rate) in enumerate([(0, 0.05), (half, 0.35)])
    ]
    text = join(parts)
    learned = f.learn_frames([text])
    counts = f.count_outcomes(learned, text)
    mean, deviation = f.report_noise(counts, NoiseRates(0.14, 0.03, 0.03, 0.1))
    places = counts[:, 0].sum(axis=1)
    assert mean.mean() == pytest.approx(0.2, abs=0.02)
    told = places >= 5
    quiet, loud = mean[:half][told[:half]], mean[half:][told[half:]]
    assert min(len(quiet), len(loud)) > 200
    assert np.mean(quiet[:, None] < loud) > 0.8
    assert quiet.mean() < 0.13 and loud.mean() > 0.18
    assert deviation[told].mean() < 0.85 * deviation[~told].mean()
    np.testing.assert_allclose(mean[places == 0], 0.2, atol=1e-3)  # no evidence


@pytest.mark.parametrize(
    "rates",
    [
        NoiseRates(0.15, 0.03, 0.02, 0.1),
        NoiseRates(0.3),
        NoiseRates(0.12, dispersion=0.02),
        NoiseRates(0.02, dispersion=0.2),
    ],
)
def test_a_report_without_evidence_keeps_the_prior(rates):
    mean, deviation = f.report_noise(np.zeros((3, 1, 4), np.int32), rates)
    np.testing.assert_allclose(mean, rates.total, atol=1e-3)
    spread = (rates.dispersion * rates.total * (1 - rates.total)) ** 0.5
    np.testing.assert_allclose(deviation, spread, atol=3e-3)


def test_posteriors_are_calibrated():
    rng, rates = np.random.default_rng(0), NoiseRates(replacement=0.2, dispersion=0.1)
    truth = rng.beta(0.2 * 9, 0.8 * 9, size=20_000)
    places = rng.integers(0, 30, size=len(truth))
    counts = np.zeros((len(truth), 1, 4), np.int32)
    counts[:, 0, f.REPLACED] = rng.binomial(places, truth)
    counts[:, 0, f.INTACT] = places - counts[:, 0, f.REPLACED]
    mean, deviation = f.report_noise(counts, rates)
    error = (truth - mean) / deviation
    assert error.mean() == pytest.approx(0, abs=0.03) and error.std() == pytest.approx(1, abs=0.03)
    for low, high in ((0, 0.1), (0.1, 0.2), (0.2, 0.3), (0.3, 1)):
        group = (mean >= low) & (mean < high)
        assert truth[group].mean() == pytest.approx(mean[group].mean(), abs=0.01)


def test_kinds_of_hits_count_alike_but_insertions_are_seen_twice():
    counts = np.zeros((4, 1, 4), np.int32)
    counts[:, 0, f.INTACT] = 10
    counts[range(3), 0, [f.REPLACED, f.DELETED, f.INSERTED]] = 2, 2, 4
    mean, _ = f.report_noise(counts, USUAL)
    assert mean[0] == mean[1] == mean[2] > mean[3]


@pytest.mark.parametrize(
    ("have", "want"),
    [
        (NoiseRates(0.05, 0.01, 0.01, 0.05), USUAL),
        (NoiseRates(0.1, 0.02, 0.03, 0.05), NoiseRates(0.17, 0.03, 0.04, 0.05)),
    ],
)
def test_extra_noise_leads_from_one_noise_to_another(clean, have, want):
    extra = f.extra_noise(have, want)
    estimates = [measured(noisy(noisy(clean, have, seed), extra, seed + 2)) for seed in range(2)]
    assert np.mean([estimate.rates.total for estimate in estimates]) == pytest.approx(want.total, rel=0.15)
    assert np.sum([held(estimate, want, slack=0.01) for estimate in estimates]) >= 6
    # Counted exactly where it can be: which words are left, and how many intruders there are for each word.
    words = np.tile(np.arange(50, dtype=np.uint16), 4000), np.arange(4001) * 50
    intruders = np.arange(1000, 2000)
    twice, _ = noisy(noisy(words, have, 0, intruders), extra, 1, intruders)
    left, put_in = (twice < 50).mean() * len(twice) / 200_000, (twice >= 1000).sum() / 200_000
    assert left == pytest.approx(1 - want.replacement - want.deletion, abs=0.01)
    assert put_in == pytest.approx(want.replacement + want.insertion, abs=0.01)


def test_extra_noise_is_none_where_there_is_more_already():
    assert f.extra_noise(USUAL, USUAL) == NoiseRates()
    assert f.extra_noise(USUAL, NoiseRates(0.1, 0.01, 0.02, 0.1)) == NoiseRates()
    extra = f.extra_noise(NoiseRates(0.2), NoiseRates(0.1, 0.08, 0.0, 0.05))
    assert asdict(extra) | {"dispersion": 0} == pytest.approx(
        {"replacement": 0, "insertion": 0.1, "deletion": 0, "dispersion": 0}
    )


@pytest.mark.parametrize(
    ("have", "want"), [(NoiseRates(0.13), NoiseRates(0.19, dispersion=0.05)), (NoiseRates(0.1), NoiseRates(0.3))]
)
def test_extra_noise_brings_the_dispersion_that_is_missing(have, want):
    """The share of unchanged tokens in reports of 50 different words varies between reports as planted."""
    words = np.tile(np.arange(50, dtype=np.uint16), 8000), np.arange(8001) * 50
    intruders = np.arange(1000, 2000)
    twice, offsets = noisy(noisy(words, have, 0, intruders), f.extra_noise(have, want), 1, intruders)
    hit = 1 - np.add.reduceat(twice < 50, offsets[:-1]) / 50
    total = want.total
    binomial = total * (1 - total) / 50
    dispersion = (hit.var() - binomial) / (total * (1 - total) - binomial)
    assert hit.mean() == pytest.approx(total, abs=0.005) and dispersion == pytest.approx(want.dispersion, abs=0.004)


def test_one_width_alone_shows_no_dispersion():
    total = np.zeros((2, 4))
    total[0] = 8000, 1500, 300, 200
    rates = f._rates(total, np.array([4, 6]))
    assert rates[3] == 0 and rates[0] == pytest.approx(0.15 * 8000 / (8000 - 0), rel=0.1)


def test_real_files_are_as_noisy_as_their_readers_found(real_data):
    names = ("track1_round1_train_20210222", "track1_round1_testA_20210222", "track1_round1_testB")
    files = [read_reports(real_data / "round1" / f"{name}.csv") for name in names]
    texts = [(reports.tokens, reports.offsets) for reports in files]
    learned = f.learn_frames(texts)
    train, *tests = (measured(text, learned) for text in texts)
    assert 0.14 < train.odd_middles < 0.16
    for test in tests:
        assert 0.19 < test.odd_middles < 0.24
        assert test.rates.total > train.rates.total + 0.03
    assert min(estimate.flatness for estimate in (train, *tests)) > 0.9


def test_a_small_file_leans_on_the_others_for_how_much_reports_differ(clean):
    """A small file has too few frames for its dispersion, on which its rates depend."""
    truth = NoiseRates(0.225, 0.04, 0.05, 0.05)
    tokens, offsets = clean
    small = tokens[: offsets[700]], offsets[:701]
    alone, leaning = [], []
    for seed in range(4):
        big, little = noisy(clean, truth, seed), noisy(small, truth, seed + 10)
        learned = f.learn_frames([big, little])
        counts = [f.count_outcomes(learned, text) for text in (big, little)]
        replacing = f.replacing_tokens(learned, little)
        alone.append(f.estimate_noise(learned, counts[1], replacing, 858).rates.total)
        leaning.append(f.estimate_noise(learned, counts[1], replacing, 858, 0, counts[:1]).rates.total)
    error, swing = (np.abs(np.array(found) - truth.total).mean() for found in (leaning, alone))
    assert error < 0.06 and error < swing


def test_the_tokens_that_are_told_are_the_intruders():
    """Intruders instead of, before and behind a word are marked; a deleted word is no token."""
    hits = [[1, 2, 9, 4, 5], [1, 2, 8, 3, 4, 5], [1, 2, 3, 7, 4, 5], [1, 2, 4, 5]]
    learned = f.learn_frames([as_text(*[PHRASE] * 100, *hits)])
    text = as_text(PHRASE, *hits)
    found = text[0][f.hit_tokens(learned, text)]
    assert found.tolist() == [9, 8, 7]
