from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array

from src.__main__ import main
from src.core import settings_loader, storage
from src.core.errors import UserError
from src.core.settings import Folds as FoldSettings
from src.core.storage import Output
from src.data import near_duplicates, splits
from src.data.corpus import Corpus
from src.data.dataset import Dataset
from tests.conftest import TINY


def corpus(n: int = 400, seed: int = 0) -> Corpus:
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 4)) < [0.5, 0.2, 0.1, 0.03]).astype(np.uint8)
    tokens = rng.integers(3, 99, size=(n, 6)).astype(np.uint16)
    ids = np.arange(n).astype("S")
    return Corpus({"tokens": tokens}, np.full(n, 6, dtype=np.int32), ids, labels, np.zeros(n, dtype=np.uint8))


def reordered(whole: Corpus, order: np.ndarray) -> Corpus:
    return Corpus(
        {"tokens": whole.tokens[order]},
        *(getattr(whole, name)[order] for name in ("lengths", "ids", "labels", "sources")),
    )


@pytest.mark.parametrize("k", [2, 5, 7])
def test_each_row_is_validated_once(k):
    made = splits.make_folds(corpus(), FoldSettings(k=k))
    parts = made.splits()
    assert len(parts) == k
    np.testing.assert_array_equal(np.sort(np.concatenate([split.predicted_rows for split in parts])), np.arange(400))
    for split in parts:
        assert not set(split.train_rows) & set(split.predicted_rows)
        assert len(split.train_rows) + len(split.valid_rows) == 400
    assert made.scored.all()


def test_label_rates_are_balanced():
    whole = corpus(2000)
    made = splits.make_folds(whole, FoldSettings(k=5))
    worst, _ = splits.largest_imbalance(whole.labels, made)
    shuffled = splits.Splits("kfold", [1], np.random.default_rng(0).permutation(2000)[:, None] % 5)
    assert worst < 0.01 < splits.largest_imbalance(whole.labels, shuffled)[0]
    for fold in range(5):
        assert whole.labels[made.first == fold].sum(axis=0).min() > 0


def test_the_order_of_the_rows_has_no_influence():
    whole = corpus()
    order = np.random.default_rng(1).permutation(400)
    there = splits.make_folds(whole, FoldSettings())
    again = splits.make_folds(reordered(whole, order), FoldSettings())
    np.testing.assert_array_equal(again.table, there.table[order])


def test_copies_of_a_report_share_a_fold():
    whole = corpus(200)
    doubled = reordered(whole, np.concatenate([np.arange(200), np.arange(50)]))
    made = splits.make_folds(doubled, FoldSettings())
    np.testing.assert_array_equal(made.first[200:], made.first[:50])


def test_several_seeds_repeat_the_split():
    made = splits.make_folds(corpus(), FoldSettings(k=4, seeds=[1, 2]))
    assert len(made.splits()) == 8
    assert (made.table[:, 0] != made.table[:, 1]).mean() > 0.5


def test_holdout_parts():
    whole = corpus(1000)
    made = splits.make_folds(whole, FoldSettings(scheme="holdout"))
    (split,) = made.splits()
    assert [len(split.train_rows), len(split.valid_rows), made.scored.sum()] == pytest.approx([800, 100, 100], abs=15)
    assert set(split.predicted_rows) == set(split.valid_rows) | set(np.flatnonzero(made.scored))
    assert not set(split.train_rows) & set(split.predicted_rows)
    assert not made.scored[split.valid_rows].any()


def test_the_manifest_follows_reordered_rows_and_tells_of_others(tmp_path):
    whole, settings = corpus(), FoldSettings(seeds=[1, 2])
    made = splits.make_folds(whole, settings)
    path = tmp_path / "folds.csv"
    splits.save(path, made, whole, ["train.csv"])
    assert path.read_text().splitlines()[0] == "source,id,text_hash,fold_1,fold_2"
    order = np.random.default_rng(1).permutation(400)
    found = splits.load(path, reordered(whole, order), settings)
    np.testing.assert_array_equal(found.table, made.table[order])
    assert splits.load(path, reordered(whole, order[:-1]), settings) is None
    assert splits.load(path, whole, FoldSettings(seeds=[3])) is None
    changed = reordered(whole, np.arange(400))
    changed.tokens[5, 0] += 1
    assert splits.load(path, changed, settings) is None


def test_ids_stay_text(tmp_path):
    whole = corpus(40)
    whole.ids[:3] = [b"007", b"NA", b"7e1"]
    made = splits.make_folds(whole, FoldSettings(k=2))
    splits.save(tmp_path / "folds.csv", made, whole, ["train.csv"])
    np.testing.assert_array_equal(
        splits.load(tmp_path / "folds.csv", whole, FoldSettings(k=2, seeds=[2021])).table, made.table
    )


def test_the_table_is_a_plain_csv(tmp_path, monkeypatch):
    """Blocks are written and read; ids and file names with commas or quotes are quoted as in any CSV."""
    whole, settings = corpus(40), FoldSettings(k=2)
    whole.ids[:3] = [b"a,b", b'"q"', b"'"]
    whole.sources[20:] = 1
    made = splits.make_folds(whole, settings)
    names = ["one, two.csv", "b.csv"]
    monkeypatch.setattr(splits, "BLOCK", 7)
    splits.save(tmp_path / "folds.csv", made, whole, names)
    expected = pd.DataFrame(
        {
            "source": np.array(names)[whole.sources],
            "id": whole.ids.astype(str),
            "text_hash": whole.hashes().astype(str),
            "fold_2021": made.first,
        }
    )
    assert (tmp_path / "folds.csv").read_bytes() == expected.to_csv(index=False).encode()
    np.testing.assert_array_equal(splits.load(tmp_path / "folds.csv", whole, settings).table, made.table)
    expected[::-1].to_csv(tmp_path / "edited.csv", index=False, lineterminator="\r\n")  # as a spreadsheet leaves it
    np.testing.assert_array_equal(splits.load(tmp_path / "edited.csv", whole, settings).table, made.table)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-30],  # a line cut short
        lambda text: text.replace("train.csv,5,", "train.csv,é,"),
        lambda text: text[: text.index("\n") + 1],
        lambda text: "",
        lambda text: text.replace(",fold_2021", ",fold_7"),
        lambda text: text + text.splitlines()[-1].replace("train.csv,", "train.csv,x") + "\n",  # a report too many
    ],
)
def test_a_damaged_table_is_not_taken_for_the_folds(tmp_path, damage):
    whole, path = corpus(40), tmp_path / "folds.csv"
    splits.save(path, splits.make_folds(whole, FoldSettings()), whole, ["train.csv"])
    assert splits.load(path, whole, FoldSettings()) is not None
    path.write_text(damage(path.read_text()))
    assert splits.load(path, whole, FoldSettings()) is None


MANY = FoldSettings(k=5, max_rows=1999)
"""Settings under which 2,000 reports exceed max_rows."""


def test_the_limit_is_reached_by_more_reports_only():
    whole = corpus(2000)
    at_limit = splits.make_folds(whole, FoldSettings(k=5, max_rows=2000))
    np.testing.assert_array_equal(at_limit.table, splits.make_folds(whole, FoldSettings(k=5)).table)
    beyond = splits.make_folds(whole, MANY)
    assert beyond.dealt and not at_limit.dealt and (beyond.table != at_limit.table).any()
    doubled = reordered(whole, np.arange(4000) % 2000)  # no more different reports than before
    assert not splits.make_folds(doubled, FoldSettings(k=5, max_rows=2000)).dealt


@pytest.mark.parametrize("k", [2, 5, 7])
def test_many_reports_are_balanced(k):
    """Combinations of labels are equally frequent in all folds but for a rest; sizes and label rates differ less
    between folds than with plain stratification."""
    whole = corpus(2000)
    made = splits.make_folds(whole, FoldSettings(k=k, max_rows=1999, seeds=[1, 2]))
    assert (made.table[:, 0] != made.table[:, 1]).mean() > (k - 1) / k - 0.1
    kinds = whole.labels @ [8, 4, 2, 1]
    for column in made.table.T:
        np.testing.assert_allclose(np.bincount(column, minlength=k), 2000 / k, atol=4)
        for kind in np.unique(kinds):
            counts = np.bincount(column[kinds == kind], minlength=k)
            assert counts.min() >= (kinds == kind).sum() // k - 1
    stratified = splits.make_folds(whole, FoldSettings(k=k, seeds=[1, 2]))
    assert splits.largest_imbalance(whole.labels, made)[0] < splits.largest_imbalance(whole.labels, stratified)[0]
    parts = made.splits()
    for seed in (1, 2):
        held = [split.predicted_rows for split in parts if split.seed == seed]
        np.testing.assert_array_equal(np.sort(np.concatenate(held)), np.arange(2000))


def test_many_reports_in_another_order_with_copies_get_the_same_folds():
    whole = corpus(2000)
    order = np.random.default_rng(1).permutation(2000)
    there, again = (
        splits.make_folds(whole, MANY),
        splits.make_folds(reordered(whole, np.append(order, order[:50])), MANY),
    )
    np.testing.assert_array_equal(again.table[:2000], there.table[order])
    np.testing.assert_array_equal(again.first[2000:], again.first[:50])


def test_many_reports_of_which_no_two_have_the_same_labels():
    whole = corpus(30)
    every = np.unpackbits(np.arange(30, dtype=np.uint8)[:, None], axis=1)
    made = splits.make_folds(dataclasses.replace(whole, labels=every), FoldSettings(max_rows=29))
    np.testing.assert_allclose(np.bincount(made.first), 6, atol=1)
    alike = dataclasses.replace(whole, labels=np.zeros_like(every))
    assert np.bincount(splits.make_folds(alike, FoldSettings(max_rows=29)).first).tolist() == [6] * 5


def test_more_classes_than_a_number_has_bits_are_dealt_evenly():
    classes = np.eye(80, dtype=np.uint8)[np.arange(2000) % 80]
    made = splits.make_folds(dataclasses.replace(corpus(2000), labels=classes), MANY)
    counts = np.stack([classes[made.first == fold].sum(axis=0) for fold in range(5)])
    assert made.dealt and counts.min() >= 4 and counts.max() <= 6


def test_many_reports_in_holdout_parts():
    made = splits.make_folds(corpus(1000), FoldSettings(scheme="holdout", max_rows=999))
    parts = [(made.first == part).sum() for part in (-1, 0, 1)]
    assert made.dealt and parts == pytest.approx([800, 100, 100], abs=15)


def test_limits_that_are_not_reached_do_not_matter():
    plain = {"scheme": "kfold", "k": 5, "seeds": [2021]}
    assert splits.recorded(FoldSettings(), 400) == splits.recorded(FoldSettings(max_rows=400), 400) == plain
    assert splits.recorded(FoldSettings(max_rows=399, max_compared=3), 400) == {**plain, "max_rows": 399}
    by_family = {**plain, "scheme": "families"}
    assert splits.recorded(FoldSettings(scheme="clusters", clusters=7, max_rows=3), 9) == {
        **plain, "scheme": "clusters", "clusters": 7
    }  # fmt: skip
    assert splits.recorded(BY_FAMILY, 400) == by_family
    limited = FoldSettings(scheme="families", max_compared=399, max_rows=3, threshold=0.5)
    assert splits.recorded(limited, 400) == {**by_family, "max_compared": 399, "threshold": 0.5}


@pytest.mark.parametrize("scheme", ["kfold", "families", "holdout"])
@pytest.mark.parametrize("value", [0, 1])
def test_one_label_that_all_rows_share_is_dealt_evenly(scheme, value):
    """All stays died, or none did; of a regression, all lengths are the same."""
    whole = dataclasses.replace(corpus(100), labels=np.full((100, 1), value, dtype=np.uint8))
    made = splits.make_folds(whole, FoldSettings(scheme=scheme, k=5))
    sizes = np.unique(made.first, return_counts=True)[1]
    assert sizes.tolist() == ([80, 10, 10] if scheme == "holdout" else [20] * 5)


def test_too_few_reports():
    with pytest.raises(UserError, match=r"^3 .* 5 .*folds\.k"):
        splits.make_folds(corpus(3), FoldSettings())


FAMILY_SIZES = np.repeat([1, 2, 3, 5, 9], [500, 60, 40, 20, 8])
"""Sizes of the planted families: 912 reports, 412 with near-duplicates; no family exceeds 1 % of all reports."""
BY_FAMILY = FoldSettings(scheme="families")


def related(sizes: np.ndarray = FAMILY_SIZES, seed: int = 0) -> tuple[Corpus, np.ndarray]:
    """Reports of 40 tokens and the family (N,) of each report; members differ in 3 tokens and in few labels."""
    rng = np.random.default_rng(seed)
    family = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    n = len(family)
    tokens = rng.integers(3, 400, size=(len(sizes), 40))[family]
    tokens[np.arange(n)[:, None], rng.integers(0, 40, size=(n, 3))] = rng.integers(3, 400, size=(n, 3))
    labels = (rng.random((len(sizes), 4)) < [0.5, 0.2, 0.1, 0.05])[family] ^ (rng.random((n, 4)) < 0.02)
    lengths, sources = np.full(n, 40, dtype=np.int32), np.zeros(n, dtype=np.uint8)
    return Corpus(
        {"tokens": tokens.astype(np.uint16)}, lengths, np.arange(n).astype("S"), labels.astype(np.uint8), sources
    ), family


@pytest.mark.parametrize("k", [2, 5, 7])
@pytest.mark.parametrize("threshold", [None, 0.5])
def test_no_family_is_split(k, threshold):
    whole, family = related()
    made = splits.make_folds(whole, FoldSettings(scheme="families", k=k, threshold=threshold, seeds=[1, 2]))
    for column in made.table.T:
        for members in range(len(FAMILY_SIZES)):
            assert len(set(column[family == members])) == 1
    parts = made.splits()
    assert len(parts) == 2 * k
    for seed in (1, 2):
        held = [split.predicted_rows for split in parts if split.seed == seed]
        np.testing.assert_array_equal(np.sort(np.concatenate(held)), np.arange(len(family)))
    for split in parts:
        assert not set(family[split.train_rows]) & set(family[split.valid_rows])
        assert len(split.train_rows) + len(split.valid_rows) == len(family)
    assert made.scored.all()


def test_plain_folds_do_split_families():
    whole, family = related()
    first = splits.make_folds(whole, FoldSettings()).first
    assert sum(len(set(first[family == members])) > 1 for members in range(len(FAMILY_SIZES))) > 100


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_families_are_balanced(seed):
    """Label rates of folds are within 0.02 of all reports' (one report in a fold is 0.0055), fold sizes within 2 %;
    families dealt at random differ by more than 0.04 in a label's rate."""
    whole, family = related()
    made = splits.make_folds(whole, FoldSettings(scheme="families", k=5, seeds=[seed]))
    labels = np.column_stack([whole.labels, ~whole.labels.any(axis=1)])
    at_random = np.random.default_rng(seed).permutation(len(FAMILY_SIZES)) % 5
    dealt = splits.Splits("families", [1], at_random[family][:, None])
    assert splits.largest_imbalance(labels, made)[0] < 0.02 < 0.04 < splits.largest_imbalance(labels, dealt)[0]
    np.testing.assert_allclose(np.bincount(made.first), len(family) / 5, rtol=0.02)


def test_a_family_larger_than_a_fold_leaves_no_fold_empty():
    whole, family = related(np.array([200, *[1] * 6]))
    first = splits.make_folds(whole, FoldSettings(scheme="families", k=5, threshold=0.5)).first
    assert len(set(first[family == 0])) == 1
    assert sorted(np.bincount(first)) == [1, 1, 2, 2, 200]


def test_the_order_of_the_rows_has_no_influence_on_families():
    whole, _ = related()
    order = np.random.default_rng(1).permutation(len(whole))
    order = np.concatenate([order, order[:50]])  # and copies share the fold of their family
    doubled = reordered(whole, np.concatenate([np.arange(len(whole)), np.sort(order[-50:])]))
    there, again = splits.make_folds(doubled, BY_FAMILY), splits.make_folds(reordered(whole, order), BY_FAMILY)
    np.testing.assert_array_equal(again.table, there.table[: len(whole)][order])
    assert again.families.facts() == there.families.facts()


def test_the_seed_of_families_decides_the_split(tmp_path):
    whole, _ = related()
    made = splits.make_folds(whole, FoldSettings(scheme="families", seeds=[1, 2]))
    assert (made.table[:, 0] != made.table[:, 1]).mean() > 0.5
    for name in ("one", "same"):
        splits.save(tmp_path / name, splits.make_folds(whole, BY_FAMILY), whole, ["train.csv"])
    assert (tmp_path / "one").read_bytes() == (tmp_path / "same").read_bytes()
    found = splits.load(tmp_path / "one", whole, BY_FAMILY)
    assert found.scheme == "families" and found.families is None and len(found.splits()) == 5


def test_the_threshold_decides_what_is_a_family():
    whole, family = related()
    facts = {
        threshold: splits.make_folds(whole, FoldSettings(scheme="families", threshold=threshold)).families.facts()
        for threshold in (0.5, 0.9, 1.0, None)
    }
    several = FAMILY_SIZES[FAMILY_SIZES > 1]
    planted = {"families": len(several), "share_of_reports": round(several.sum() / len(family), 6), "largest": 9}
    assert facts[0.5] == {"threshold": 0.5, **planted}
    assert facts[0.9]["threshold"] == 0.9 and 0 < facts[0.9]["share_of_reports"] < facts[0.5]["share_of_reports"]
    assert facts[1.0] == {"threshold": splits.IDENTICAL, "families": 0, "share_of_reports": 0.0, "largest": 1}
    assert 0.3 <= facts[None]["threshold"] < 0.7 and planted.items() <= facts[None].items()


def test_the_same_text_under_another_id_is_a_family_at_any_threshold():
    whole, _ = related()
    doubled = reordered(whole, np.concatenate([np.arange(len(whole)), np.arange(50)]))
    doubled.ids[-50:] = np.arange(5000, 5050).astype("S")
    made = splits.make_folds(doubled, FoldSettings(scheme="families", threshold=1))
    np.testing.assert_array_equal(made.first[-50:], made.first[:50])
    assert made.families.facts()["families"] == 50


APPROXIMATE = FoldSettings(scheme="families", max_compared=911)
"""Settings under which the reports of related() exceed max_compared."""


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_families_of_many_reports_are_found_too(threshold):
    whole, family = related()
    settings = APPROXIMATE.model_copy(update={"threshold": threshold})
    made, exact = splits.make_folds(whole, settings), splits.make_folds(whole, BY_FAMILY)
    assert made.families.approximate and not exact.families.approximate
    for members in range(len(FAMILY_SIZES)):
        assert len(set(made.first[family == members])) == 1
    labels = np.column_stack([whole.labels, ~whole.labels.any(axis=1)])
    assert splits.largest_imbalance(labels, made)[0] < 0.02


def test_many_copies_of_a_text_are_one_family_whatever_their_ids():
    """Copies of a text of common words alone share a family, although none of their n-grams makes a block."""
    whole, _ = related()
    doubled = reordered(whole, np.append(np.arange(len(whole)), np.zeros(300, dtype=int)))
    doubled.ids[-300:] = np.arange(5000, 5300).astype("S")
    made = splits.make_folds(doubled, APPROXIMATE.model_copy(update={"threshold": 1}))
    assert made.families.approximate and len(set(made.first[-300:]) | {made.first[0]}) == 1
    assert made.families.facts()["largest"] == 301
    order = np.random.default_rng(1).permutation(len(doubled))
    again = splits.make_folds(reordered(doubled, order), APPROXIMATE.model_copy(update={"threshold": 1}))
    np.testing.assert_array_equal(again.first, made.first[order])


def test_what_cannot_be_split_into_families():
    whole, _ = related(np.array([30, 30, 30]))
    with pytest.raises(UserError, match=r"^3 families .* 5 .*folds\.k .*folds\.threshold"):
        splits.make_folds(whole, FoldSettings(scheme="families", threshold=0.5))
    with pytest.raises(UserError, match=r"^3 .* 5 .*folds\.k"):
        splits.make_folds(reordered(whole, np.arange(3)), BY_FAMILY)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["folds.threshold=0.5"], "threshold .*families.*kfold"),
        (["folds.threshold=0.5", "folds.scheme=holdout"], "threshold .*families.*holdout"),
        (["folds.threshold=0.2", "folds.scheme=families"], r"folds\.threshold: .*0\.3"),
        (["folds.threshold=1.1", "folds.scheme=families"], r"folds\.threshold: .*1\b"),
        (["folds.clusters=20", "folds.scheme=families"], "clusters .*families"),
        (["folds.clusters=3", "folds.scheme=clusters", "folds.k=4"], "3 clusters .*k=4"),
    ],
)
def test_settings_of_schemes_that_contradict(words, expected):
    with pytest.raises(UserError, match=expected):
        settings_loader.load_config("quick", words)


UP_TO_DATE = "folds: up to date"


def test_labels_that_a_fold_has_none_of():
    labels = np.array([[1, 0], [0, 0], [1, 1], [0, 1]])
    made = splits.Splits("kfold", [1], np.array([[0], [0], [1], [1]]))
    np.testing.assert_array_equal(splits.missing_labels(labels, made), [1])
    several = splits.Splits("kfold", [1, 2], np.array([[0, 0], [0, 1], [1, 0], [1, 1]]))
    np.testing.assert_array_equal(splits.missing_labels(labels, several), [0, 1])


def test_the_command_reports_families(tiny_input, tmp_path, capsys):
    words = [*TINY, f"paths.input={tiny_input}", f"paths.output={tmp_path}"]

    def output_of(*more: str) -> str:
        assert main(["folds", *words, *more]) == 0
        return capsys.readouterr().out

    assert "2 folds, 300 reports" in output_of()
    plain = storage.read_json(tmp_path / "folds.json")
    assert (
        set(plain) == {"fingerprint", "settings", "largest_imbalance", "checksums"}
        and "threshold" not in plain["settings"]
    )
    shown = output_of("folds.scheme=families", "folds.threshold=0.4")
    manifest = json.loads((tmp_path / "folds.json").read_text())
    facts = manifest["families"]
    assert set(facts) == {"threshold", "families", "share_of_reports", "largest"}
    assert facts["threshold"] == manifest["settings"]["threshold"] == 0.4 and facts["families"] > 0
    assert UP_TO_DATE not in shown and "families" in shown and "300" in shown
    for fact in (facts["families"], f"{facts['share_of_reports']:.1%}", facts["largest"], 0.4):
        assert str(fact) in shown
    assert Dataset.load(Output(tmp_path)).load_splits().scheme == "families"
    assert UP_TO_DATE in output_of("folds.scheme=families", "folds.threshold=0.4")
    assert UP_TO_DATE not in output_of("folds.scheme=families")
    assert UP_TO_DATE in output_of("folds.scheme=families", "folds.threshold=null")
    assert "threshold" not in json.loads((tmp_path / "folds.json").read_text())["settings"]
    assert "max_rows" not in output_of("folds.scheme=kfold")
    shown = output_of("folds.max_rows=299")
    assert UP_TO_DATE not in shown and "folds.max_rows=299" in shown
    assert Dataset.load(Output(tmp_path)).splits_settings()["max_rows"] == 299
    assert UP_TO_DATE in output_of("folds.max_rows=299") and UP_TO_DATE not in output_of("folds.max_rows=300")
    assert UP_TO_DATE in output_of()
    assert "folds.max_compared=100" in output_of("folds.scheme=families", "folds.max_compared=100")
    shown = output_of("folds.scheme=clusters", "folds.clusters=9")
    assert "2 folds of whole clusters" in shown and "9 clusters" in shown
    assert json.loads((tmp_path / "folds.json").read_text())["families"]["clusters"]["number"] == 9
    assert UP_TO_DATE in output_of("folds.scheme=clusters", "folds.clusters=9")
    assert UP_TO_DATE not in output_of("folds.scheme=clusters")


BY_CLUSTER = FoldSettings(scheme="clusters", threshold=0.5)
TOPICS = 12


def of_topics(n: int = 600, seed: int = 0) -> tuple[Corpus, np.ndarray]:
    """Reports of 30 tokens and the topic (N,) of each report: a topic has 20 words of its own, and two reports of a
    topic are less alike than near-duplicates. Every topic has all labels."""
    rng = np.random.default_rng(seed)
    topic = rng.integers(0, TOPICS, n)
    tokens = 3 + 20 * topic[:, None] + rng.integers(0, 20, size=(n, 30))
    labels = (rng.random((n, 4)) < [0.5, 0.3, 0.2, 0.1]).astype(np.uint8)
    whole = Corpus(
        {"tokens": tokens.astype(np.uint16)},
        np.full(n, 30, dtype=np.int32),
        np.arange(n).astype("S"),
        labels,
        np.zeros(n, dtype=np.uint8),
    )
    return whole, topic


def test_a_cluster_of_similar_reports_shares_a_fold():
    whole, topic = of_topics()
    made = splits.make_folds(whole, BY_CLUSTER.model_copy(update={"clusters": TOPICS, "k": 3, "seeds": [1, 2]}))
    assert made.families.facts()["clusters"]["number"] == TOPICS
    for column in made.table.T:
        assert all(len(set(column[topic == one])) == 1 for one in range(TOPICS))
        assert set(column) == {0, 1, 2}
    assert (made.table[:, 0] != made.table[:, 1]).any()
    labels = np.column_stack([whole.labels, ~whole.labels.any(axis=1)])
    assert splits.largest_imbalance(labels, made)[0] < 0.1
    plain = splits.make_folds(whole, FoldSettings(scheme="families", threshold=0.5, k=3)).first
    assert all(len(set(plain[topic == one])) == 3 for one in range(TOPICS))


def test_clusters_split_no_family_whatever_the_order_of_the_rows():
    whole, family = related()
    made = splits.make_folds(whole, BY_CLUSTER)
    assert made.families.facts()["clusters"]["number"] == 50
    for members in range(len(FAMILY_SIZES)):
        assert len(set(made.first[family == members])) == 1
    order = np.random.default_rng(1).permutation(len(whole))
    np.testing.assert_array_equal(splits.make_folds(reordered(whole, order), BY_CLUSTER).first, made.first[order])


@pytest.mark.parametrize(
    ("vectors", "family", "expected"),
    [
        (np.zeros((4, 0)), [0, 1, 1, 2], [0, 1, 1, 2]),
        (np.zeros((3, 2)), [0, 1, 2], [0, 0, 0]),
        (np.eye(3), [0, 0, 0], [0, 0, 0]),
        (np.eye(4), [0, 1, 1, 2], [0, 1, 1, 2]),
    ],
    ids=["no common words", "reports without words", "one family", "fewer families than clusters"],
)
def test_clusters_of_reports_that_are_hard_to_tell_apart(vectors, family, expected):
    found = near_duplicates.clusters(csr_array(vectors.astype(np.float32)), np.array(family), 9)
    np.testing.assert_array_equal(found[:, None] == found, np.equal.outer(expected, expected))
    assert sorted(set(found.tolist())) == list(range(max(expected) + 1))


def test_fewer_clusters_than_folds():
    whole = corpus(50)
    whole.tokens[:] = np.arange(3, 53)[:, None]  # reports of one word each, and no word in two of them
    whole.tokens[1] = whole.tokens[0]  # but one
    with pytest.raises(UserError, match=r"^2 clusters .* 5 .*folds\.k"):
        splits.make_folds(whole, BY_CLUSTER)
