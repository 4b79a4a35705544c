"""Synthetic stays: the format, the same bytes for a seed, a signal that is there and a cause that is known."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from src.data import synthetic_stays
from src.data.grid import PARAMETERS, STATICS, GridBlock, grid
from src.data.series_reader import Facts, Outcomes, find_sets, join, read_outcomes, read_stays, split_sets
from src.data.synthetic_stays import ANSWERS, FILES, NOTE, TRUTH, is_complete, make_sample, was_made_with
from tests.conftest import error_of

ARGUMENTS = {"rows": 1500, "test_rows": 500, "seed": 3}


@pytest.fixture(scope="module")
def sample(made_once) -> Path:
    return made_once("stays", lambda folder: make_sample(folder, **ARGUMENTS))


def on_grid(path: Path, facts: Facts | None = None) -> GridBlock:
    return GridBlock(*map(np.concatenate, zip(*grid(read_stays(path, facts=facts)), strict=True)))


def truth_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / TRUTH, keep_default_na=False, dtype=str)


def test_files(sample):
    assert is_complete(sample) and was_made_with(sample, **ARGUMENTS)
    assert not was_made_with(sample, **ARGUMENTS | {"seed": 4})
    (train,), (test,) = split_sets(find_sets(sample), "set-a")
    assert (train.name, test.name, test.outcomes) == ("set-a", "set-b", None)
    assert not list(sample.glob(".unfinished"))


@pytest.mark.parametrize(("name", "answers", "n"), [("set-a", FILES[1], 1500), ("set-b", ANSWERS, 500)])
def test_format(sample, name, answers, n):
    facts = Facts()
    stays, outcomes = on_grid(sample / f"{name}.zip", facts), read_outcomes(sample / answers)
    assert facts.stays == n == len(outcomes) and facts.parameters == 42 and facts.blank > 0
    assert 200 * n < facts.rows < 500 * n
    assert {"Height", "Weight"} <= set(facts.unknown) and {"HR", "SysABP"} <= set(facts.implausible)
    assert 0 < sum(facts.implausible.values()) < 0.002 * facts.rows
    joined = join(stays.ids, outcomes)
    assert not len(joined.without_outcome) and not len(joined.without_stay)
    for column in ("SAPS-I", "SOFA", "Length_of_stay", "Survival"):
        assert 0 < np.isnan(outcomes.columns[column]).mean() < 0.9
    assert 0.08 < outcomes.columns["In-hospital_death"].mean() < 0.25
    assert np.nanmin(outcomes.columns["Length_of_stay"]) >= 2
    truth = truth_of(sample)
    assert set(truth.RecordID[truth.set == name]) == set(stays.ids.astype(str).tolist())


def test_equal_arguments_give_equal_bytes(tmp_path, monkeypatch):
    folders = [tmp_path / name for name in "abc"]
    for folder, seed in zip(folders, (5, 5, 6), strict=True):
        make_sample(folder, rows=30, test_rows=10, seed=seed)
    for name in FILES:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
        assert (folders[0] / name).read_bytes() != (folders[2] / name).read_bytes()


def test_a_sample_is_replaced_as_a_whole(tmp_path, monkeypatch):
    make_sample(tmp_path, rows=20, test_rows=10, seed=5)
    before = {name: (tmp_path / name).read_bytes() for name in (*FILES, NOTE)}

    def fail(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic_stays, "_draw", fail)
    with pytest.raises(KeyboardInterrupt):
        make_sample(tmp_path, rows=20, test_rows=10, seed=6)
    assert {name: (tmp_path / name).read_bytes() for name in (*FILES, NOTE)} == before


def test_blocks_are_read_as_one_set(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic_stays, "BLOCK", 8)
    make_sample(tmp_path, rows=20, test_rows=8, seed=5)
    stays = on_grid(tmp_path / "set-a.zip")
    assert len(np.unique(stays.ids)) == 20 and len(read_outcomes(tmp_path / FILES[1])) == 20


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"test_rows": 0}, {"seed": -1}])
def test_impossible_samples(tmp_path, wrong):
    assert "seed" in error_of(make_sample, tmp_path, **ARGUMENTS | wrong)


def outcome_of(stays: GridBlock, outcomes: Outcomes, column: str) -> np.ndarray:
    return outcomes.columns[column][join(stays.ids, outcomes).rows]


def test_signal(sample):
    """The known probability separates deaths well, and the values and the masks alone hold part of the signal."""
    stays, outcomes = on_grid(sample / "set-a.zip"), read_outcomes(sample / FILES[1])
    died = outcome_of(stays, outcomes, "In-hospital_death")
    truth = truth_of(sample).drop_duplicates("RecordID").set_index("RecordID").probability_of_death
    risk = truth.loc[[name.decode() for name in stays.ids.tolist()]].to_numpy(float)
    assert roc_auc_score(died, risk) > 0.87
    assert abs(risk.mean() - died.mean()) < 0.03
    highest = np.nan_to_num(np.nanmax(stays.values[:, :, PARAMETERS.index("HR")], axis=1, initial=-1))
    assert roc_auc_score(died, highest) > 0.7
    assert roc_auc_score(died, np.isfinite(stays.values).sum(axis=(1, 2))) > 0.6
    saps = outcome_of(stays, outcomes, "SAPS-I")
    days = outcome_of(stays, outcomes, "Length_of_stay")
    known = np.isfinite(saps) & np.isfinite(days)
    assert roc_auc_score(died[known], saps[known]) > 0.65
    assert np.corrcoef(np.log1p(days[known]), saps[known])[0, 1] > 0.3


def test_cause_is_where_truth_says(sample):
    """In the hours of a crisis the named parameters are moved in their direction; elsewhere they are not."""
    stays = on_grid(sample / "set-a.zip")
    row_of = {name.decode(): i for i, name in enumerate(stays.ids.tolist())}
    truth = truth_of(sample)
    moved = defaultdict(list)
    for line in truth[(truth.set == "set-a") & (truth.parameter != "")].itertuples():
        series = stays.values[row_of[line.RecordID], :, PARAMETERS.index(line.parameter)]
        inside = np.zeros(48, bool)
        inside[int(line.from_hour) : int(line.to_hour)] = True
        assert np.isfinite(series[inside]).any() or line.parameter in ("HR", "SysABP")  # or all values are implausible
        if np.isfinite(series[inside]).any() and np.isfinite(series[~inside]).any():
            moved[line.parameter].append(np.nanmean(series[inside]) - np.nanmean(series[~inside]))
    assert set(moved) == set(synthetic_stays.CAUSES)
    for parameter, differences in moved.items():
        right = np.sign(differences) == np.sign(synthetic_stays.SIGNALS[parameter].crisis)
        assert right.mean() > 0.9 and len(differences) > 30, parameter
    has_crisis = set(truth.RecordID[truth.from_hour != ""])
    quiet = np.array([name.decode() not in has_crisis for name in stays.ids.tolist()])
    pressure = stays.values[quiet][:, :, PARAMETERS.index("SysABP")]
    assert abs(np.nanmean(pressure[:, 24:]) - np.nanmean(pressure[:, :24])) < 1
    assert np.isfinite(truth.from_hour[truth.parameter != ""].astype(float)).all()
    assert (truth.from_hour[truth.parameter != ""].astype(int) < truth.to_hour[truth.parameter != ""].astype(int)).all()


def test_shift_of_set_b(sample):
    a, b = on_grid(sample / "set-a.zip"), on_grid(sample / "set-b.zip")
    age = STATICS.index("Age")
    assert np.nanmean(b.statics[:, 0, age]) - np.nanmean(a.statics[:, 0, age]) > 3
    assert np.isfinite(b.values).mean() < 0.9 * np.isfinite(a.values).mean()
    deaths = [read_outcomes(sample / name).columns["In-hospital_death"].mean() for name in (FILES[1], ANSWERS)]
    assert deaths[1] > deaths[0]
