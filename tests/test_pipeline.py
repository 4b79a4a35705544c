"""The command line from end to end, on tiny sample data."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from src.__main__ import COMMANDS, main
from src.core import storage
from src.core.settings_loader import load_config
from src.data.report_reader import read_reports, write_reports
from src.data.submission_files import read_submission, write_submission
from src.data.synthetic import make_sample
from src.data.tasks import ROUND1, ROUND2
from src.ensemble import blending
from src.evaluation import metrics
from src.evaluation.external_dataset import Pool
from src.evaluation.workspace import Workspace
from src.training import prediction
from tests.conftest import drawn_unplaced, run_command, words
from tests.test_architecture import HEAVY
from tests.test_import import exported
from tests.test_import import imported as import_words

ROOT = Path(__file__).resolve().parents[1]
CHANGING = {"environment.json", "result.json", "job.lock", "pipeline.json", "submissions.jsonl"}
CHANGING |= {"report.html", "report.json"}
"""Files that hold times or machine facts, or checksums of these; every other file must be the same byte for byte."""


def contents(output: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.name not in CHANGING
    }


def test_a_submission_for_each_test_file(done, tiny_input):
    for name in ("sample_testA.csv", "sample_testB.csv"):
        ids, probabilities = read_submission(done / f"submission_{name}")
        np.testing.assert_array_equal(ids, read_reports(tiny_input / name).ids)
        assert probabilities.shape == (40, 17)
        assert probabilities.min() >= 1e-6 and probabilities.max() <= 1 - 1e-6
        assert probabilities.std(axis=0).min() > 0


def test_a_run_explains_itself(done):
    for name in ("lstm", "transformer", "blend"):
        run = done / "runs" / name
        for file in ("config.yaml", "run.json", "environment.json", "oof.npy", "score.json", "test_sample_testA.npy"):
            assert (run / file).exists(), f"{name}/{file}"
        assert np.load(run / "oof.npy").shape == (300, 17)
        assert np.isfinite(np.load(run / "oof.npy")).all()
    history = (done / "runs/lstm/history.csv").read_text().splitlines()
    assert history[0] == "fold,seed,epoch,learning_rate,train_loss,valid_loss" and len(history) == 1 + 2 * 2


def test_scores_are_those_of_the_oof_file(done, tiny_input):
    labels = read_reports(tiny_input / "sample_train.csv").labels
    for name in ("lstm", "transformer", "blend"):
        score = json.loads((done / f"runs/{name}/score.json").read_text())
        expected = metrics.official_score(ROUND1, labels, metrics.sigmoid(np.load(done / f"runs/{name}/oof.npy")))
        assert score["overall"]["score"]["value"] == pytest.approx(expected.value, abs=1e-7)
        assert score["rows"] == 300 and set(score["folds"]) == {"0", "1"}


def test_the_ladder_stands_beside_the_runs(done, tiny_input, capsys):
    assert main(["score", *words(tiny_input, done)]) == 0
    shown = capsys.readouterr().out
    for name in ("zeros", "prior", "random", "tfidf", "lstm", "transformer", "blend"):
        assert name in shown
    assert all(len(line) <= 80 for line in shown.splitlines()), "tables fit 80 columns"
    assert main(["score", "lstm", *words(tiny_input, done)]) == 0
    assert "region_16" in capsys.readouterr().out


def test_a_second_run_recomputes_nothing_and_says_so(done, tiny_input, capsys):
    assert main(words(tiny_input, done)) == 0  # the report was made in another folder, which it names
    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*") if path.is_file()}
    assert main(words(tiny_input, done)) == 0
    shown = capsys.readouterr().out
    for stage in ("prepare", "folds", "baselines", "blend", "report"):
        assert f"{stage}: up to date" in shown
    assert "train: all 4 folds are up to date" in shown and "  epoch " not in shown
    changed = {p.name for p, at in before.items() if p.stat().st_mtime_ns != at}
    assert changed <= {"submission_sample_testA.csv", "submission_sample_testB.csv", "job.lock", "pipeline.json"}
    seconds = json.loads((done / "pipeline.json").read_text())["seconds"]
    stages = "sample prepare folds shift baselines pretrain train blend submit score leaderboard explain alarms report"
    assert list(seconds) == stages.split()
    assert min(seconds.values()) >= 0


def imported(*arguments: str) -> tuple[str, set[str]]:
    """Returns what a command prints, and the libraries that it has imported at its end."""
    code = "import sys; from src.__main__ import main; assert main(sys.argv[1:]) == 0; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *arguments]
    shown = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    told, _, modules = shown.rstrip().rpartition("\n")
    return told, {name.split(".")[0] for name in modules.split()}


def test_a_cached_pipeline_imports_no_heavy_library(done, tiny_input):
    told, libraries = imported(*words(tiny_input, done))
    assert "train: all 4 folds are up to date" in told and "pipeline: done" in told
    assert "numpy" in libraries and not HEAVY & libraries


def test_help_imports_not_even_numpy():
    told, libraries = imported("--help")
    assert "verbs" in told and not (HEAVY | {"numpy", "rich"}) & libraries


def test_a_note_of_other_hardware_retrains_nothing(copy, tiny_input, capsys):
    """Nothing is computed by a note alone: torch is asked first, and the note put right."""
    note = copy / "hardware/auto.json"
    before = note.read_bytes()
    found = storage.read_json(note)
    other = {"fp32": "bf16", "bf16": "fp32"}[found["auto_precision"]]
    storage.write_json(note, {**found, "auto_precision": other})
    assert main(["train", *words(tiny_input, copy)]) == 0
    assert "all 4 folds are up to date" in capsys.readouterr().out
    assert note.read_bytes() == before


def test_folds_changed_by_hand_are_noticed(copy, tiny_input, capsys):
    table = copy / "folds.csv"
    made = table.read_bytes()
    head, first, *rest = made.decode().splitlines(keepends=True)
    body, _, fold = first.strip().rpartition(",")
    changed = "".join([head, f"{body},{1 - int(fold)}\n", *rest])
    table.write_text(changed)
    for verb in ("folds", "blend", "submit", "pipeline"):
        assert main([verb, *words(tiny_input, copy)]) == 2
        told = capsys.readouterr().err
        assert "folds.csv is not as ./run.sh folds wrote it" in told and "folds --anew" in told, verb
    table.write_text("".join([head, f"{body},9\n", *rest]))
    assert main(["folds", "--keep", *words(tiny_input, copy)]) == 2
    assert "holds the folds 0, 1, 9; expected two or more, numbered from 0 without a gap" in capsys.readouterr().err
    table.write_text(changed)
    assert main(["folds", "--keep", *words(tiny_input, copy)]) == 0
    assert table.read_text() == changed
    assert main(["blend", *words(tiny_input, copy)]) == 2
    assert "run lstm was made on other folds than are there now" in capsys.readouterr().err
    assert main(["train", "--model", "lstm", *words(tiny_input, copy)]) == 0
    told = capsys.readouterr().out
    assert "lstm was" in told and "comes back" not in told, "no command brings these folds back"
    three = [f"{line.rpartition(',')[0]},{i % 3}\n" for i, line in enumerate([first, *rest])]
    table.write_text("".join([head, *three]))
    assert main(["folds", "--keep", *words(tiny_input, copy)]) == 2
    assert "has 3 folds and folds.k is 2. Add folds.k=3 to this command" in capsys.readouterr().err
    in_three = words(tiny_input, copy, "folds.k=3")
    assert main(["folds", "--keep", *in_three]) == main(["folds", *in_three]) == 0
    assert "folds: up to date (3 folds)" in capsys.readouterr().out
    copied = first.replace("sample_train.csv", "other.csv").rpartition(",")[0]
    table.write_text("".join([head, *three, f"{copied},2\n"]))
    assert main(["folds", "--keep", *in_three]) == 2
    assert "equal id and text are in different folds" in (told := capsys.readouterr().err)
    assert first.split(",")[1] in told
    table.write_text("".join([head, *three, f"{copied},0\n"]))
    assert main(["folds", "--keep", *in_three]) == 0
    kept = table.read_bytes()
    assert main(["train", *in_three, "folds.seeds=[7]"]) == 2
    told = capsys.readouterr().err
    assert "holds your own folds" in told and "folds --keep" in told and "folds --anew" in told
    assert table.read_bytes() == kept
    assert main(["folds", "--anew", *words(tiny_input, copy)]) == 0
    assert table.read_bytes() == made
    assert main(["train", *words(tiny_input, copy)]) == main(["blend", *words(tiny_input, copy)]) == 0


@pytest.mark.slow  # the trials of tests/chaos/test_short.py compare bytes by default
def test_one_seed_gives_the_same_bytes(placed_pictures, done, tiny_input, tmp_path):
    assert main(words(tiny_input, tmp_path)) == 0
    assert contents(tmp_path) == contents(done)


@pytest.mark.slow  # tests/chaos/test_short.py kills by default
@pytest.mark.parametrize("kills", [1, 12])
def test_killed_at_random_moments_it_ends_in_the_same_bytes(done, tiny_input, tmp_path, kills):
    """Killed a random while after a random line of its output, so that it is killed often on a fast machine too."""
    command = [sys.executable, "-u", "-m", "src", *words(tiny_input, tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    chance = random.Random(858)
    for _ in range(kills):
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE)
        for _ in range(chance.randint(4, 16)):
            process.stdout.readline()
        time.sleep(chance.uniform(0, 0.4))
        assert process.poll() is None or process.returncode == 0
        process.kill()
        process.communicate()
    assert subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL).returncode == 0
    for leftover in tmp_path.rglob(".*.tmp"):
        leftover.unlink()
    assert contents(tmp_path) == contents(done)


def test_only_what_changed_is_done_again(copy, tiny_input, capsys):
    before = {path: path.stat().st_mtime_ns for path in (copy / "runs/lstm").rglob("logits*.npy")}
    assert main(["train", *words(tiny_input, copy, "runs.transformer.train.epochs=1")]) == 0
    assert "train: 2 of 4 folds to train" in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())


def test_a_further_seed_leaves_the_others_standing(copy, tiny_input, capsys):
    assert main(["train", *words(tiny_input, copy, "runs.lstm.train.seeds=[1,2]")]) == 0
    assert "train: 2 of 6 folds to train" in capsys.readouterr().out
    parts = sorted((copy / "runs/lstm").glob("fold_0*"))
    mean = np.mean([np.load(part / "logits.npy") for part in parts], axis=0)
    with np.load(parts[0] / "split.npz") as split:
        np.testing.assert_allclose(np.load(copy / "runs/lstm/oof.npy")[split["predicted_rows"]], mean, atol=1e-6)
    assert len(parts) == 2


def test_the_mean_over_folds_is_that_of_whole_arrays(done, monkeypatch):
    monkeypatch.setattr(prediction, "BLOCK", 7)
    parts = sorted((done / "runs/lstm").glob("fold_*"))
    corpus = done / "data/test/sample_testA"
    name = f"logits.{storage.array_hash(np.load(corpus / 'tokens.npy'))}.npy"
    expected = np.mean([np.load(part / name) for part in parts], axis=0, dtype=np.float32)
    found = prediction.mean_prediction(parts, corpus)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found, np.load(done / "runs/lstm/test_sample_testA.npy"))


def test_predict_gives_what_the_pipeline_submitted(copy, tiny_input, capsys):
    for run in ("blend", "lstm"):
        assert main(["predict", run, str(tiny_input / "sample_testA.csv"), *words(tiny_input, copy)]) == 0
    assert main(["submit", "lstm", *words(tiny_input, copy)]) == 0
    for run, submission in (("blend", "submission"), ("lstm", "submission_lstm")):
        predicted = (copy / f"prediction_{run}_sample_testA.csv").read_bytes()
        assert predicted == (copy / f"{submission}_sample_testA.csv").read_bytes()
    capsys.readouterr()


def test_predict_scores_labelled_files_and_tells_of_new_words(copy, tiny_input, tmp_path, capsys):
    to = tmp_path / "elsewhere" / "out.csv"
    answers = tiny_input / "answers_A.csv"
    assert main(["predict", "blend", str(answers), "--to", str(to), *words(tiny_input, copy)]) == 0
    told = capsys.readouterr().out
    assert main(["score", "--labels", str(answers), str(to)]) == 0
    official = metrics.official_score(ROUND1, read_reports(answers).labels, read_submission(to)[1])
    assert f"score {official.value:.4f}" in told
    assert f"score: {official.value:.6f}" in capsys.readouterr().out

    assert main(["predict", "blend", str(tiny_input / "sample_train.csv"), *words(tiny_input, copy)]) == 0
    assert "trained on these very reports" in capsys.readouterr().err
    (tmp_path / "new.csv").write_text("1|,|5 6 900 901 900 \n2|,|7 \n3|,|" + "5 " * 105 + "\n")
    assert main(["predict", "lstm", str(tmp_path / "new.csv"), *words(tiny_input, copy)]) == 0
    warned = capsys.readouterr().err
    assert "3 tokens of 2 words" in warned and "900, 901" in warned
    assert "1 reports are longer than max_len=104: their head is kept" in warned
    assert len(read_submission(copy / "prediction_lstm_new.csv")[0]) == 3


def test_runs_are_scored_on_a_labelled_file_made_like_the_target(copy, tiny_input, capsys):
    answers, made = tiny_input / "answers_A.csv", words(tiny_input, copy)
    command = ["predict", "lstm", "blend", str(answers), "--shifted"]
    assert main([*command, "--replacement", "0.3", *made]) == 0
    shown = capsys.readouterr().out
    written = copy / "prediction_shifted_answers_A.json"
    before, facts = written.read_bytes(), json.loads(written.read_text())
    assert facts["sha256"] == storage.file_sha256(answers) and facts["replacement"] == 0.3
    assert facts["target"] == "sample_testB.csv" and list(facts["runs"]) == ["lstm", "blend"]

    config = load_config("sample", [word for word in made if "=" in word])
    pool = Pool.load(Workspace(config), read_reports(answers), "predict")
    texts = {"plain": pool.text, "noised": pool.replaced(0.3)}
    for run, scores in facts["runs"].items():
        line = next(line for line in shown.splitlines() if line.startswith(f"{run} "))
        for (name, text), weighted in zip(texts.items(), ("weighted", "both"), strict=True):
            weights = pool.density_ratio(text).weights
            made_file = copy.parent / f"{name}.csv"
            write_reports(made_file, replace(pool.with_text(text), path=made_file))
            to = copy.parent / f"{name}_{run}.csv"
            assert main(["predict", run, str(made_file), "--to", str(to), *made]) == 0
            predicted = read_submission(to)[1]
            for key, weigh in ((name, None), (weighted, weights)):
                official = metrics.official_score(ROUND1, pool.reports.labels, predicted, weigh)
                assert scores[key] == pytest.approx(official.to_json(), abs=1e-6)
                assert f"{scores[key]['value']:.4f}±{scores[key]['standard_error']:.4f}" in line
            assert facts["effective_size"][weighted] == pytest.approx(metrics.effective_size(weights))
    assert len({score["value"] for scores in facts["runs"].values() for score in scores.values()}) == 8
    assert facts["effective_size"]["plain"] == facts["effective_size"]["noised"] == 40
    capsys.readouterr()

    assert main([*command, "--replacement", "0.3", *made]) == 0
    assert "predict: " in capsys.readouterr().out and written.read_bytes() == before
    assert (
        main(["predict", "lstm", str(tiny_input / "sample_train.csv"), "--shifted", "--replacement", "0", *made]) == 0
    )
    shown = capsys.readouterr()
    assert "lstm was trained on these very reports" in shown.err
    scores = json.loads((copy / "prediction_shifted_sample_train.json").read_text())["runs"]["lstm"]
    assert scores["noised"] == scores["plain"] and scores["both"] == scores["weighted"]


def test_gains_are_over_one_run_on_the_same_reports(copy, tiny_input, capsys):
    answers, made = tiny_input / "answers_A.csv", words(tiny_input, copy)
    runs = ["blend", "transformer"]
    assert main(["predict", *runs, str(answers), "--shifted", "--against", "lstm", "--replacement", "0.3", *made]) == 0
    shown = capsys.readouterr().out
    facts = json.loads((copy / "prediction_shifted_answers_A.json").read_text())
    assert facts["against"] == "lstm" and list(facts["gains"]) == runs
    for run, gains in facts["gains"].items():
        lines = [line for line in shown.splitlines() if line.startswith(f"{run} ")]
        for key, gain in gains.items():
            own, other = (facts["runs"][name][key] for name in (run, "lstm"))
            assert gain["value"] == pytest.approx(own["value"] - other["value"], abs=1e-9) and gain["value"] != 0
            # Paired: the two err on the same reports.
            assert 0 < gain["standard_error"] < math.hypot(own["standard_error"], other["standard_error"])
            assert f"{gain['value']:+.4f}±{1e4 * gain['standard_error']:.0f}" in lines[1]

    assert main(["leaderboard", "--against", "lstm", *made]) == 0
    lines = capsys.readouterr().out.split("Gain over lstm on the same rows, target sample_testB.csv")[1].splitlines()
    clean = {
        name: json.loads((copy / f"runs/{name}/score.json").read_text())["overall"]["score"]["value"]
        for name in ("lstm", *runs)
    }
    for run in runs:
        (line,) = (line for line in lines if line.startswith(f"{run} "))
        assert float(line.split()[1].split("±")[0]) == pytest.approx(clean[run] - clean["lstm"], abs=6e-5)


def test_several_runs_predict_a_file(copy, tiny_input, capsys):
    file, made = str(tiny_input / "sample_testA.csv"), words(tiny_input, copy)
    assert main(["predict", "lstm", "transformer", file, *made]) == 0
    for run in ("lstm", "transformer"):
        assert len(read_submission(copy / f"prediction_{run}_sample_testA.csv")[0]) == 40
    capsys.readouterr()
    answers = str(tiny_input / "answers_A.csv")
    for arguments, message in (
        (["lstm", "transformer", file, "--to", str(copy / "x.csv")], "is one file for 2 runs"),
        (["lstm", file, "--shifted"], f"{file} has no labels, but labels are needed"),
        (["lstm", answers, "--shifted", "--replacement", "1"], "less than 1, not 1. See ./run.sh predict --help"),
        (["lstm", answers, "--shifted", "--replacement=-0.1"], "want a share of 0 or more"),
        (["lstm", answers, "--shifted", "--replacement", "few"], "not few"),
        (["lstm", answers, "--replacement", "0.1"], "--replacement is for --shifted"),
        (["lstm", answers, "--against", "transformer"], "--against is for --shifted"),
        (["lstm", answers, "--shifted", "--against", "lsmt"], "unknown run 'lsmt'"),
        (["lstm", answers, "--shifted", "--to", "x.csv"], "leave --to out"),
        (["lsmt", answers, "--shifted"], "unknown run 'lsmt'"),
    ):
        assert main(["predict", *arguments, *made]) == 2
        assert message in capsys.readouterr().err


def test_the_preset_names_the_members_of_its_blend(copy, tiny_input):
    assert main(["blend", *words(tiny_input, copy, "blend.members=[transformer]", "blend.method=mean")]) == 0
    blended = json.loads((copy / "runs/blend/run.json").read_text())
    assert list(blended["members"]) == ["transformer"]
    np.testing.assert_allclose(
        np.load(copy / "runs/blend/oof.npy"), np.load(copy / "runs/transformer/oof.npy"), atol=1e-6
    )
    assert main(["blend", "--model", "lstm", *words(tiny_input, copy, "blend.members=[transformer]")]) == 0
    assert list(json.loads((copy / "runs/blend/run.json").read_text())["members"]) == ["lstm"]


def test_blends(copy, tiny_input, capsys):
    assert main(["blend", "lstm", "transformer", "blend.method=mean", "--name", "two", *words(tiny_input, copy)]) == 0
    members = [np.load(copy / f"runs/{name}/test_sample_testB.npy") for name in ("lstm", "transformer")]
    np.testing.assert_allclose(
        np.load(copy / "runs/two/test_sample_testB.npy"), blending.mean_logits(members), atol=1e-6
    )
    capsys.readouterr()
    assert main(["blend", "two", "lstm", "--name", "three", "blend.method=greedy", *words(tiny_input, copy)]) == 0
    told = capsys.readouterr().out
    assert "Added one at a time" in told and "blend loses without it" in told and "Blend (greedy)" in told
    lines = [line for line in told.splitlines() if not line.startswith(("What the members", "blend:"))]
    assert max(map(len, lines)) <= 80
    worth = json.loads((copy / "runs/three/run.json").read_text())["contributions"]
    assert worth["greedy"][0]["member"] in worth["members"] and list(worth["members"]) == ["two", "lstm"]
    assert main(["blend", "two", "lstm", "transformer", "--name", "four", *words(tiny_input, copy)]) == 0
    assert "Correlation of the members' errors" in capsys.readouterr().out
    assert main(["predict", "three", str(tiny_input / "sample_testA.csv"), *words(tiny_input, copy)]) == 0
    assert main(["submit", "three", *words(tiny_input, copy)]) == 0
    capsys.readouterr()
    for arguments, message in (
        (["blend", "two", "--name", "two"], "cannot be a member of itself"),
        (["blend", "two", "--name", "../x"], "want letters"),
        (["score", "README.md"], "--labels"),
        (["predict", "two", str(tiny_input / "answers_A.csv"), "--to", str(tiny_input / "answers_A.csv")], "itself"),
        (["predict", "two", str(tiny_input / "answers_A.csv"), "--to", str(tiny_input)], "is a folder"),
        (["blend", "two", "two"], "a run is named twice"),
        (["blend", "three", "--name", "two"], "cannot be a member of itself"),
        (["blend", "lsmt"], "unknown run 'lsmt'. Did you mean 'lstm'?"),
        (["blend", "two", "--name", "lstm"], "is the name of a model"),
        (["blend", "train.epochs=7"], "or other settings than these"),
    ):
        assert main([*arguments[:1], *words(tiny_input, copy), *arguments[1:]]) == 2
        assert message in capsys.readouterr().err


def test_round_2(tiny_input_round2, tmp_path, capsys):
    assert main(words(tiny_input_round2, tmp_path, "blend.per_group=true")) == 0
    assert "round 2: 17 regions and 12 types" in capsys.readouterr().out
    oof = np.load(tmp_path / "runs/blend/oof.npy")
    labels = read_reports(tiny_input_round2 / "sample_train.csv").labels
    assert oof.shape == labels.shape == (300, 29)
    score = json.loads((tmp_path / "runs/blend/score.json").read_text())["overall"]
    expected = metrics.official_score(ROUND2, labels, metrics.sigmoid(oof))
    assert score["score"]["value"] == pytest.approx(expected.value, abs=1e-7)
    assert set(score["groups"]) == {"regions", "types"}
    assert read_submission(tmp_path / "submission_sample_testA.csv")[1].shape == (40, 29)
    # Its reports serve round 1 as well: the types are left aside.
    assert main(["prepare", *words(tiny_input_round2, tmp_path, "task=round1")]) == 0
    assert np.load(tmp_path / "data/train/labels.npy").shape == (300, 17)
    capsys.readouterr()


@pytest.mark.slow
def test_holdout(tiny_input, tmp_path, capsys):
    assert main(words(tiny_input, tmp_path, "folds.scheme=holdout", "runs.lstm.train.patience=1")) == 0
    oof = np.load(tmp_path / "runs/blend/oof.npy")
    scored = np.isfinite(oof).all(axis=1)
    table = np.loadtxt(tmp_path / "folds.csv", delimiter=",", skiprows=1, usecols=3, dtype=int)
    np.testing.assert_array_equal(scored, table >= 0)
    score = json.loads((tmp_path / "runs/blend/score.json").read_text())
    labels = read_reports(tiny_input / "sample_train.csv").labels
    expected = metrics.official_score(ROUND1, labels[table == 1], metrics.sigmoid(oof[table == 1]))
    assert score["rows"] == (table == 1).sum() and "test part" in score["how"]
    assert score["overall"]["score"]["value"] == pytest.approx(expected.value, abs=1e-7)
    capsys.readouterr()


def test_early_stopping_under_kfold_is_told(copy, tiny_input, capsys):
    assert main(words(tiny_input, copy, "runs.lstm.train.patience=1")) == 0
    told = capsys.readouterr().out
    assert "lstm *" in told and "blend *" in told and "* optimistic: its epochs were chosen" in told
    assert "transformer *" not in told
    assert "optimistic" in json.loads((copy / "runs/lstm/score.json").read_text())["how"]


def test_a_broken_fold_is_told_and_the_others_are_kept(copy, tiny_input, capsys):
    assert (
        main(
            ["train", *words(tiny_input, copy, "runs.lstm.train.learning_rate=1e38", "runs.transformer.train.epochs=1")]
        )
        == 2
    )
    told = capsys.readouterr()
    assert "became" in told.err and "learning_rate" in told.err and "2 jobs failed" in told.err
    assert "train: transformer 0." in told.out, "the run whose folds are complete has its score"
    assert len(list((copy / "runs/transformer").glob("fold_*/result.json"))) == 4
    assert main(["train", *words(tiny_input, copy, "runs.transformer.train.epochs=1")]) == 0
    assert "all 4 folds are up to date" in capsys.readouterr().out


def test_torn_files_are_refused_and_nothing_is_written(tiny_input, tmp_path, capsys):
    broken = Path(shutil.copytree(tiny_input, tmp_path / "input"))
    lines = (broken / "sample_train.csv").read_text().splitlines(keepends=True)
    lines[4] = lines[4].split("|,|")[0] + "|,|5 6\n"
    lines[9] = "9|,|5 x 6|,|3\n"
    (broken / "sample_train.csv").write_text("".join(lines))
    (broken / "sample_testA.csv").write_text("")
    assert main(words(broken, tmp_path / "output")) == 2
    told = capsys.readouterr().err
    for text in ("sample_train.csv", "5", "10", "sample_testA.csv"):
        assert text in told
    files = [path for path in (tmp_path / "output").rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} <= {"locks"}


def test_other_reports_are_prepared_and_split_anew(copy, tiny_input, tmp_path, capsys):
    changed = Path(shutil.copytree(tiny_input, tmp_path / "input"))
    lines = (changed / "sample_train.csv").read_text().splitlines(keepends=True)
    (changed / "sample_train.csv").write_text("".join(lines[:-1]))
    assert main(["folds", *words(changed, copy)]) == 0
    assert "splitting anew" in capsys.readouterr().out
    assert main(["submit", *words(changed, copy)]) == 2
    assert "was made on other train files than are there now" in capsys.readouterr().err


def test_train_files_alone_are_trained_and_scored(tiny_input, tmp_path, capsys):
    (tmp_path / "input").mkdir()
    shutil.copy(tiny_input / "sample_train.csv", tmp_path / "input")
    assert main(words(tmp_path / "input", tmp_path / "output", "blend.method=mean")) == 0
    told = capsys.readouterr().out
    assert "no test reports" in told and "submit: nothing to do" in told and "nothing fitted" in told


def test_other_test_files_want_other_predictions(copy, tiny_input, tmp_path, capsys):
    assert main(["blend", "lstm", "transformer", "--name", "two", *words(tiny_input, copy)]) == 0
    changed = Path(shutil.copytree(tiny_input, tmp_path / "input"))
    shutil.copy(tiny_input / "sample_testA.csv", changed / "sample_testC.csv")
    assert main(["submit", *words(changed, copy)]) == 0
    assert "sample_testC.csv came after the last run" in capsys.readouterr().err
    lines = (changed / "sample_testB.csv").read_text().splitlines(keepends=True)
    (changed / "sample_testB.csv").write_text("".join(lines[::-1]))
    assert main(["submit", *words(changed, copy)]) == 2
    told = capsys.readouterr().err
    assert "sample_testB.csv" in told and "./run.sh pipeline" in told
    assert main(["prepare", *words(changed, copy)]) == 0
    made = {}
    for verb in ("submit", "submit lstm", "submit two", "blend"):
        assert main([*verb.split(), *words(changed, copy)]) == 2
        told = capsys.readouterr().err
        assert "was made for other test files than are there now. Run: ./run.sh" in told
        made[verb] = [
            shlex.split(command)[:3] for command in told.rpartition("Run: ./run.sh ")[2].split(" && ./run.sh ")
        ]
    one, other, two = [["train", "--model", name] for name in ("lstm", "transformer")] + [
        ["blend", "lstm", "transformer"]
    ]
    assert made["submit lstm"] == [one]
    assert made["submit two"] == [one, other, two]
    assert made["submit"][0][0] == made["blend"][0][0] == "pipeline"
    assert main(advice(told)) == 0
    assert main(["submit", *words(changed, copy)]) == 0
    np.testing.assert_array_equal(
        read_submission(copy / "submission_sample_testB.csv")[0], read_reports(changed / "sample_testB.csv").ids
    )


def advice(told: str) -> list[str]:
    """The words of the command that an error tells the user to run."""
    return shlex.split(told.rpartition("Run: ./run.sh ")[2])


@pytest.mark.slow  # by default the leaderboard tells of such runs
def test_runs_of_other_folds_are_not_blended_and_the_advice_ends(copy, tiny_input, capsys):
    assert main(["folds", *words(tiny_input, copy), "folds.k=3"]) == 0
    assert main(["blend", *words(tiny_input, copy), "folds.k=3"]) == 2
    told = capsys.readouterr().err
    assert "run lstm was made on other folds than are there now" in told and "folds.k=3" in told
    assert main(advice(told)) == 0
    assert main(["blend", *words(tiny_input, copy), "folds.k=3"]) == 0


def test_what_is_missing_in_a_folder_is_made_again(copy, tiny_input):
    gone = ["runs/lstm/oof.npy", "runs/blend/test_sample_testA.npy", "data/train/labels.npy", "baselines/prior/oof.npy"]
    gone += [str(next((copy / "runs/transformer").glob("fold_0*/last.safetensors")).relative_to(copy))]
    before = {name: (copy / name).read_bytes() for name in gone}
    for name in gone:
        (copy / name).unlink()
    assert main(words(tiny_input, copy)) == 0
    assert {name: (copy / name).read_bytes() for name in gone} == before


def test_folds_of_which_the_manifest_was_not_written_are_made_again(copy, tiny_input, capsys):
    table = (copy / "folds.csv").read_bytes()
    assert main(["folds", *words(tiny_input, copy), "folds.k=3"]) == 0
    (copy / "folds.json").unlink()
    assert main(["folds", *words(tiny_input, copy)]) == 0
    assert (copy / "folds.csv").read_bytes() == table


def test_a_blend_whose_member_was_made_anew_does_not_predict(copy, tiny_input, capsys):
    assert (
        main(
            [
                "train",
                "--model",
                "lstm",
                *(w for w in words(tiny_input, copy, "train.batch_size=16") if "runs." not in w),
            ]
        )
        == 0
    )
    assert main(["predict", "blend", str(tiny_input / "sample_testA.csv"), *words(tiny_input, copy)]) == 2
    assert (
        "run lstm was made anew after the blend blend. Run: ./run.sh blend lstm transformer" in capsys.readouterr().err
    )


def test_runs_on_other_reports_are_left_out_of_the_table(copy, tiny_input, tmp_path, capsys):
    changed = Path(shutil.copytree(tiny_input, tmp_path / "input"))
    lines = (changed / "sample_train.csv").read_text().splitlines(keepends=True)
    (changed / "sample_train.csv").write_text("".join(lines[:-1]))
    assert main(["baselines", *words(changed, copy)]) == 0
    assert main(["score", *words(changed, copy)]) == 0
    told = capsys.readouterr().out
    assert (
        "left out, as they were made on other train files or folds than are there now: blend, lstm, transformer" in told
    )


def test_a_killed_first_blend_does_not_stand_in_the_way(copy, tiny_input, capsys):
    for name in ("run.json", "score.json", "oof.npy"):
        (copy / "runs/blend" / name).unlink()
    assert main(words(tiny_input, copy)) == 0
    assert (copy / "runs/blend/score.json").exists()


@pytest.mark.parametrize(("verb", "run"), [("blend", "lstm"), ("runs show blend lstm", "blend")])
def test_settings_of_a_run_that_are_gone_or_damaged_are_made_by_the_command_that_is_named(
    copy, tiny_input, capsys, verb, run
):
    """A removed config.yaml ended in "No such file or directory", with nothing to do about it."""
    path, made = copy / "runs" / run / "config.yaml", words(tiny_input, copy)
    whole = path.read_bytes()
    for damage, what in (path.unlink, "is missing"), (lambda: path.write_bytes(b"\0" * 9), "is damaged"):
        damage()
        assert main([*verb.split(), *made]) == 2
        told = capsys.readouterr().err
        assert f"{path} {what}" in told
        (remedy,) = re.findall(r"\./run\.sh ([^\n]*)", told)
        assert main(shlex.split(remedy.rstrip("."))) == 0
        assert path.read_bytes() == whole
        assert main([*verb.split(), *made]) == 0


def test_no_file_of_the_users_is_removed(tiny_input, tmp_path, capsys):
    folder = Path(shutil.copytree(tiny_input, tmp_path / "data"))
    assert main(["prepare", *words(folder, tmp_path)]) == 0
    assert sorted(path.name for path in folder.glob("*.csv")) == sorted(path.name for path in tiny_input.glob("*.csv"))


def test_what_rests_on_an_input_that_is_gone_is_refused(done, tiny_input, tmp_path, capsys):
    (tmp_path / "input").mkdir()
    shutil.copy(tiny_input / "sample_testA.csv", tmp_path / "input")  # a test file alone is refused by those that do
    places = [f"paths.input={tmp_path / 'input'}", f"paths.output={done}"]
    assert main(["config", *places]) == 0
    for verb in ("score", "prepare"):
        assert main([verb, *places]) == 2
        told = capsys.readouterr().err
        assert "sample_train.csv" in told or "matches paths.train" in told, verb


def test_an_output_that_cannot_be_written_is_told(tiny_input, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["prepare", *words(tiny_input, tmp_path / "file")]) == 2
    assert "paths.output: " in capsys.readouterr().err
    if Path("/proc/self").exists():
        assert main(["prepare", *words(tiny_input, Path("/proc/nowhere"))]) == 2
        assert "error: " in capsys.readouterr().err


def test_sample_data_follows_its_settings(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("src.data.sources.ROOT", tmp_path)
    (tmp_path / "input").mkdir()
    places = [f"paths.input={tmp_path / 'input'}", f"paths.output={tmp_path / 'output'}"]
    small = ["sample.rows=60", "sample.test_rows=20"]
    assert main(["prepare", *places, *small]) == 0
    assert "60 + 2 x 20 synthetic reports" in capsys.readouterr().out
    assert main(["prepare", *places, *small, "task=round2"]) == 0
    assert "round 2: 17 regions and 12 types; 60 train reports" in capsys.readouterr().out
    assert main(["prepare", *places]) == 0
    told = capsys.readouterr().out
    assert "sample data of other settings" in told and "synthetic reports in" not in told


def test_reordered_reports_keep_their_folds(copy, tiny_input, tmp_path, capsys):
    changed = Path(shutil.copytree(tiny_input, tmp_path / "input"))
    lines = (changed / "sample_train.csv").read_text().splitlines(keepends=True)
    (changed / "sample_train.csv").write_text("".join(lines[::-1]))
    assert main(["folds", *words(changed, copy)]) == 0
    assert "folds: up to date" in capsys.readouterr().out


def test_missing_artefacts_name_their_command(tiny_input, tmp_path, capsys):
    for verb, command in (
        (["submit"], "prepare"),
        (["blend"], "prepare"),
        (["predict", "lstm", "x.csv"], "train --model lstm"),
    ):
        assert main([*verb, *words(tiny_input, tmp_path)]) == 2
        assert f"./run.sh {command}" in capsys.readouterr().err
    assert main(["folds", *words(tiny_input, tmp_path)]) == 0
    assert main(["blend", *words(tiny_input, tmp_path)]) == 2
    assert "./run.sh train --model lstm" in capsys.readouterr().err
    assert main(["score", *words(tiny_input, tmp_path)]) == 2
    assert "./run.sh train" in capsys.readouterr().err


def test_a_file_that_was_left_out_is_asked_for(copy, tiny_input, capsys):
    assert main(["predict", "lstm", *words(tiny_input, copy)]) == 2
    assert "which file is lstm to predict? Name it after the run: ./run.sh predict lstm FILE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], ["unknown verb 'trian'", "Did you mean 'train'?", "submit", "test"]),
        (["train", "--model", "lsmt"], ["unknown model 'lsmt'", "'lstm'", "transformer"]),
        (["--preset", "fulll"], ["unknown preset 'fulll'", "'full'", "quick"]),
        (["train", "train.epocs=3"], ["train.epocs", "'epochs'"]),
        (["train", "--modle", "lstm"], ["./run.sh train --help"]),
        (["predict", "reports"], ["before the file", "--bundle FILE"]),
        (
            ["config", "train.epochs"],
            ["train.epochs is no model", "train.epochs=VALUE", "config --explain train.epochs"],
        ),
        (["score", "--labels", "x.csv"], ["takes one submission"]),
        (["paths.input=/nowhere"], ["/nowhere"]),
        (["sample", "--rows", "2"], ["sample.rows", "want a whole number: 10 to 100,000,000"]),
    ],
)
def test_what_cannot_be_understood(arguments, expected, tmp_path, capsys):
    if arguments == ["paths.input=/nowhere"]:  # runs in the project's own output folder would be warned of first
        arguments = [*arguments, f"paths.output={tmp_path}"]
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    for text in expected:
        assert text in told


def test_an_empty_folder_of_the_users_gets_no_sample_data(tmp_path, capsys):
    assert main(["prepare", f"paths.input={tmp_path}", f"paths.output={tmp_path / 'o'}"]) == 2
    assert "matches *train*.csv or *test*.csv" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", COMMANDS)
def test_help_of_every_verb(verb, capsys):
    with pytest.raises(SystemExit) as left:
        main([verb, "--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert COMMANDS[verb].summary in shown and "key=value" in shown


def test_overview(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {verb} " in shown for verb in COMMANDS)


def test_submissions_are_scored_row_by_row(tiny_input, tmp_path, capsys):
    answers = read_reports(tiny_input / "answers_A.csv")
    path = tmp_path / "submission.csv"
    write_submission(path, answers.ids, answers.labels.astype(float), 1e-6, ROUND1)
    assert main(["score", "--labels", str(tiny_input / "answers_A.csv"), str(path)]) == 0
    assert "score: 0.999999" in capsys.readouterr().out
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[1], lines[0], *lines[2:]]))
    assert main(["score", "--labels", str(tiny_input / "answers_A.csv"), str(path)]) == 2
    assert "the same ids in another order from line 1 on" in capsys.readouterr().err
    path.write_text("".join(lines[:-1]))
    assert main(["score", "--labels", str(tiny_input / "answers_A.csv"), str(path)]) == 2
    assert "differ in their ids from line 40 on: 39 are in both" in capsys.readouterr().err
    path.write_text("".join(f"x{line}" for line in lines))
    assert main(["score", "--labels", str(tiny_input / "answers_A.csv"), str(path)]) == 2
    assert "have no id in common: these labels are not for this submission" in capsys.readouterr().err


def test_the_leaderboard_stands_on_the_runs(done, tiny_input, capsys):
    assert main(["leaderboard", "blend", *words(tiny_input, done)]) == 0
    shown = capsys.readouterr().out
    assert "Target testB" in shown and "testA: best by shifted first" in shown and "effective reports" in shown
    assert "label rates" in shown and "by EM" in shown
    assert all(len(line) <= 80 for line in shown.splitlines())
    for name in ("lstm", "transformer", "blend"):
        board = json.loads((done / f"runs/{name}/leaderboard.json").read_text())
        score = json.loads((done / f"runs/{name}/score.json").read_text())["overall"]["score"]
        for test in board["tests"].values():
            clean, expected = test["validations"]["clean"], test["expected"]
            assert clean["value"] == pytest.approx(score["value"], abs=1e-9)
            assert clean["standard_error"] == pytest.approx(score["standard_error"], rel=1e-6)
            assert expected["low"] < expected["value"] < expected["high"]
            assert {name for name in test["label_rates"]} == {"train", "predicted", "corrected"}
    assert json.loads((done / "runs/lstm/leaderboard.json").read_text())["committee"] == ["transformer"]


def test_the_leaderboard_leaves_out_runs_of_other_folds(copy, tiny_input, capsys):
    assert main(["train", "--model", "lstm", *words(tiny_input, copy, "folds.k=3")]) == 0
    capsys.readouterr()
    assert main(["leaderboard", *words(tiny_input, copy, "folds.k=3")]) == 0
    assert "left out, as they were made on other files, folds or shift than are" in capsys.readouterr().out


def test_runs_keep_what_validations_need(done):
    shift = json.loads((done / "shift/shift.json").read_text())
    for run in ("lstm", "blend"):
        for test, facts in shift["tests"].items():
            stem = Path(test).stem
            assert np.load(done / f"runs/{run}/copies_{stem}.npy").shape == (facts["draws"], 300, 17)
            by_fold = np.load(done / f"runs/{run}/folds_{stem}.npy")
            assert by_fold.shape == (2, 40, 17)
            np.testing.assert_allclose(by_fold.mean(axis=0), np.load(done / f"runs/{run}/test_{stem}.npy"), atol=1e-5)


def test_blends_are_fitted_on_what_is_selected(copy, tiny_input, capsys):
    fitted = {}
    for select_on in ("clean", "weighted"):
        name = f"on_{select_on}"
        arguments = ["blend.method=weights", f"select_on={select_on}"]
        assert main(["blend", "lstm", "transformer", "--name", name, *words(tiny_input, copy, *arguments)]) == 0
        fitted[select_on] = json.loads((copy / f"runs/{name}/run.json").read_text())["weights"]
    assert fitted["clean"] != fitted["weighted"]
    assert "fitted on train rows weighted like sample_testB.csv" in capsys.readouterr().out


def test_label_shift_is_off_unless_asked_for(copy, tiny_input, capsys):
    assert main(["submit", "lstm", *words(tiny_input, copy)]) == 0
    plain = read_submission(copy / "submission_lstm_sample_testA.csv")[1]
    np.testing.assert_allclose(plain, metrics.sigmoid(np.load(copy / "runs/lstm/test_sample_testA.npy")), atol=2e-6)
    assert main(["submit", "lstm", *words(tiny_input, copy, "submit.label_shift=true")]) == 0
    assert "label rates of sample_testA.csv moved" in capsys.readouterr().out
    assert np.abs(read_submission(copy / "submission_lstm_sample_testA.csv")[1] - plain).max() > 0.01


def test_early_stopping_goes_by_what_is_selected(copy, tiny_input):
    histories = {}
    for select_on in ("clean", "weighted"):
        arguments = ["train.patience=1", f"select_on={select_on}", "train.epochs=3"]
        assert main(["train", "--model", "lstm", *words(tiny_input, copy, *arguments)]) == 0
        histories[select_on] = (copy / "runs/lstm/history.csv").read_text()
    losses = [[line.split(",")[4:] for line in text.splitlines()] for text in histories.values()]
    assert [row[0] for row in losses[0]] == [row[0] for row in losses[1]], "training itself is the same"
    assert [row[1] for row in losses[0]] != [row[1] for row in losses[1]]
    assert next((copy / "runs/lstm").glob("fold_0*/valid.npz"))


@pytest.fixture(scope="module")
def noisy(made_once) -> tuple[list[str], Path]:
    """Words and output of a pipeline on enough text to tell its noise: there are noisy copies."""

    def chosen(folder: Path) -> list[str]:
        return [*words(folder / "input", folder / "output"), "train.epochs=1", "blend.method=temperature"]

    def make(folder: Path) -> None:
        make_sample(folder / "input", rows=2500, test_rows=1200, task=ROUND1, seed=3)
        with drawn_unplaced():
            run_command(chosen(folder))

    folder = made_once("noisy", make)
    return chosen(folder), folder / "output"


def test_noisy_copies_are_predicted_out_of_fold_and_judged(noisy):
    chosen, output = noisy
    facts = json.loads((output / "shift/shift.json").read_text())["tests"]["sample_testB.csv"]
    assert facts["draws"] == 2
    board = json.loads((output / "runs/lstm/leaderboard.json").read_text())["tests"]["sample_testB.csv"]
    copies = np.load(output / "runs/lstm/copies_sample_testB.npy")
    assert copies.shape == (2, 2500, 17) and np.isfinite(copies).all()
    labels = read_reports(output.parent / "input/sample_train.csv").labels
    scores = [metrics.official_score(ROUND1, labels, metrics.sigmoid(copy)).value for copy in copies]
    assert board["validations"]["noised"]["value"] == pytest.approx(np.mean(scores), abs=1e-9)
    weights = np.load(output / "shift/sample_testB/weights.npy")[1:].ravel()
    shifted = metrics.official_score(ROUND1, np.tile(labels, (2, 1)), metrics.sigmoid(copies.reshape(-1, 17)), weights)
    assert board["validations"]["shifted"]["value"] == pytest.approx(shifted.value, abs=1e-9)
    for fold in (output / "runs/lstm").glob("fold_*"):
        with np.load(fold / "split.npz") as split:
            rows = split["predicted_rows"]
        assert {np.load(path).shape for path in fold.glob("copies.*.npy")} == {(len(rows), 17)}


@pytest.mark.slow
def test_an_imported_run_is_judged_without_noise(noisy, tmp_path, capsys):
    made, output = noisy
    output = Path(shutil.copytree(output, tmp_path / "output", copy_function=shutil.copy2))
    made = [*made, f"paths.output={output}"]
    files = exported(made, tmp_path / "foreign")
    assert main([*import_words(files, "theirs"), *made]) == 0
    assert "the run is judged on clean and weighted rows alone" in capsys.readouterr().out
    assert main(["blend", "lstm", "theirs", "--name", "mixed", *made]) == 0
    assert "theirs: has no noisy copies, so the blend is fitted and judged without noise" in capsys.readouterr().out
    assert main(["leaderboard", "--against", "lstm", *made]) == 0
    told = capsys.readouterr().out
    assert "mixed, theirs: imported, or of imported runs, so nothing is known of noisy copies" in told
    for name, validation in itertools.product(("theirs", "mixed"), ("clean", "noised", "weighted", "shifted")):
        board = json.loads((output / f"runs/{name}/leaderboard.json").read_text())["tests"]["sample_testB.csv"]
        own = json.loads((output / "runs/lstm/leaderboard.json").read_text())["tests"]["sample_testB.csv"]
        value, expected = board["validations"][validation]["value"], board["expected"]["value"]
        assert expected is None and (value is None) == (validation in ("noised", "shifted"))
        if name == "theirs" and value is not None:
            assert value == pytest.approx(own["validations"][validation]["value"], abs=1e-6)
    assert main(["runs", *made]) == 0
    assert main(["submit", "mixed", *made, "submit.label_shift=true"]) == 0
    assert main([*import_words(files, "blind", oof=False), *made]) == 0
    assert main(["blend", "lstm", "blind", "--name", "fixed", *made, "blend.method=mean"]) == 0
    assert main(["report", *made]) == 0
    page = (output / "report.html").read_text()
    assert all(name in page for name in ("theirs", "mixed", "without blind"))


@pytest.mark.slow
def test_runs_with_other_noisy_copies_are_not_taken(noisy, tmp_path, capsys):
    chosen, output = noisy
    copy = Path(shutil.copytree(output, tmp_path / "output"))
    chosen = [word if not word.startswith("paths.output") else f"paths.output={copy}" for word in chosen]
    for change in ("shift.seed=1", "shift.draws=1", "shift.max_rows=1500"):
        assert main(["shift", *chosen, change]) == 0
        capsys.readouterr()
        assert main(["leaderboard", *chosen, change]) == 2
        assert "was made with other validation sets" in capsys.readouterr().err
        assert main(["blend", *chosen, change]) == 2
        assert "run lstm was made with" in (told := capsys.readouterr().err) and "Run: ./run.sh pipeline" in told
    assert main(advice(told)) == 0
    assert main(["leaderboard", "lstm", *chosen, change]) == 0
    assert "lstm" in capsys.readouterr().out


def test_a_file_of_empty_label_fields_gives_no_score(done, tiny_input, tmp_path, capsys):
    """A test file that a spreadsheet gave a third column is no file of answers."""
    blank, made = tmp_path / "blank.csv", words(tiny_input, done)
    blank.write_text("".join(f"{line}|,|\n" for line in (tiny_input / "sample_testA.csv").read_text().splitlines()))
    told = "the label field of every report of"
    assert main(["predict", "lstm", str(blank), "--to", str(tmp_path / "to.csv"), *made]) == 0
    shown = capsys.readouterr()
    assert "score" not in shown.out and f"no score: {told}" in shown.err
    for verb in (
        ["score", "--labels", str(blank), str(tmp_path / "to.csv")],
        ["predict", "lstm", str(blank), "--shifted"],
    ):
        assert main([*verb, *made]) == 2
        shown = capsys.readouterr()
        assert "score 0" not in shown.out and told in shown.err
    (tmp_path / "input").mkdir()
    shutil.copy(blank, tmp_path / "input/train.csv")
    assert main(["prepare", *words(tmp_path / "input", tmp_path / "output")]) == 2
    assert "nothing to learn" in capsys.readouterr().err
