"""./run.sh clean: it finds what no result needs, and removes nothing else."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from src.__main__ import main
from src.core import locks, storage, temporaries
from tests.conftest import words


@pytest.fixture
def clean(capsys):
    def run(made: list[str], *options: str) -> set[Path]:
        capsys.readouterr()
        assert main(["clean", "--json", *options, *made]) == 0
        return {Path(item["path"]) for item in json.loads(capsys.readouterr().out)["removable"]}

    return run


def all_files(output: Path) -> set[Path]:
    return {path for path in output.rglob("*") if path.is_file() and path.suffix != ".lock"}


def test_a_finished_pipeline_has_nothing_to_remove(copy, tiny_input, clean):
    assert clean(words(tiny_input, copy)) == set()


def test_what_is_superseded_goes_and_results_stay(copy, tiny_input, clean):
    made = words(tiny_input, copy, "runs.lstm.train.epochs=1")
    old = set((copy / "runs/lstm").glob("fold_*"))
    assert clean(made) == set(), "the finished run still uses its folds"
    assert main(["train", "--model", "lstm", *made]) == 0
    (copy / "data/.tokens.npy.abc.tmp").write_text("half")
    (copy / "predictions/lstm.0123").mkdir(parents=True)
    (copy / "data/train/denoised").mkdir()
    (copy / "data/train/denoised/0123.4567.hard.npy").write_text("by an encoder that is gone")
    (copy / "vectors/ppmi_9.0123.npy").write_text("of other texts")
    (copy / "shift/gone").mkdir()
    (copy / "baselines/tfidf/fold_0.01234567.npy").write_text("of other folds")
    (min(old) / ".last.safetensors.x.tmp").write_text("half, in a folder that goes as a whole")
    expected = {*old, copy / "data/.tokens.npy.abc.tmp", copy / "predictions/lstm.0123", copy / "shift/gone"}
    expected |= {copy / "data/train/denoised/0123.4567.hard.npy", copy / "vectors/ppmi_9.0123.npy"}
    expected |= {copy / "baselines/tfidf/fold_0.01234567.npy"}
    before = all_files(copy)
    assert clean(made) == expected and all_files(copy) == before, "nothing is removed without being asked"
    assert clean(made, "--superseded") == expected
    assert not any(path.exists() for path in expected) and clean(made) == set()
    assert main(["train", "--model", "lstm", *made]) == 0
    assert {path for path in before - all_files(copy)} == {
        path for path in before if any(path.is_relative_to(gone) for gone in expected)
    }


def test_an_interrupted_training_of_the_present_settings_stays(copy, tiny_input, clean):
    made = words(tiny_input, copy, "runs.lstm.train.epochs=3")
    assert main(["train", "--model", "lstm", *made]) == 0
    newest = max((copy / "runs/lstm").glob("fold_*/result.json"), key=lambda path: path.stat().st_mtime_ns)
    newest.unlink()
    assert newest.parent not in clean(made)


def test_interrupted_folds_and_studies_stay(copy, tiny_input, clean):
    made = words(tiny_input, copy)
    fold = copy / "runs/lstm/fold_0.split_1.seed_1.0123"
    fold.mkdir()
    (fold / "state_0001.json").write_text("{}")
    (copy / "tune/lstm/trials/0003").mkdir(parents=True)
    assert clean(made) == set()
    (fold / "state_0001.json").unlink()
    assert clean(made) == {fold}


def test_finished_folds_of_an_interrupted_training_stay(copy, tiny_input, clean):
    """Goes on from there: the same command, whose settings clean does not know."""
    folds = [copy / f"runs/{run}/fold_{i}.split_1.seed_1.0123" for run in ("wide", "lstm") for i in (0, 1)]
    for made, begun in (folds[:2], folds[2:]):
        made.mkdir(parents=True)
        begun.mkdir()
        (made / "result.json").write_text("{}")
        (begun / "state_0001.json").write_text("{}")
    assert clean(words(tiny_input, copy)) == set()
    earlier = (copy / "runs/lstm/run.json").stat().st_mtime - 60
    os.utime(folds[2] / "result.json", (earlier, earlier))
    assert clean(words(tiny_input, copy)) == {folds[2]}, "of the training before"
    (folds[1] / "state_0001.json").unlink()
    assert clean(words(tiny_input, copy)) == {*folds[:2], folds[2]}


def test_encoders_that_runs_started_from_stay(copy, tiny_input, clean, capsys):
    """Also under settings without pretraining, and of results that do not name their encoder, as earlier ones."""
    made, pretrained = words(tiny_input, copy), ["runs.lstm.pretrain.epochs=1", "runs.lstm.train.epochs=1"]
    for verb in ("pretrain", "train"):
        assert main([verb, "--model", "lstm", *made, *pretrained]) == 0
    told = capsys.readouterr().out
    assert "pretrain: 1 encoder to" in told and "pretrain: 1 encoder in" in told and "train: 1 run in" in told
    [encoder] = (copy / "pretrained").iterdir()
    assert encoder not in clean(made)
    for name in storage.read_json(copy / "runs/lstm/run.json")["fold_folders"]:
        result = copy / "runs/lstm" / name / "result.json"
        noted = storage.read_json(result)
        assert noted.pop("pretrained") == f"pretrained/{encoder.name}/last.safetensors"
        storage.write_json(result, noted)
    assert encoder not in clean(made)
    record = storage.read_json(encoder / "result.json")
    record["run"]["pretrain"]["seed"] += 1
    storage.write_json(encoder / "result.json", record)
    assert encoder in clean(made), "of other settings than those of the run"
    fold = copy / "runs/wide/fold_0.split_1.seed_1.0123"
    fold.mkdir(parents=True)
    (fold / "state_0001.json").write_text("{}")
    assert encoder not in clean(made), "an interrupted training may have begun with it"


def test_an_interrupted_pretraining_stays(copy, tiny_input, clean):
    encoder = copy / "pretrained/recurrent.0123"
    encoder.mkdir(parents=True)
    (encoder / "state_0001.json").write_text("{}")
    assert encoder not in clean(words(tiny_input, copy))
    (encoder / "state_0001.json").unlink()
    assert encoder in clean(words(tiny_input, copy))


def test_temporary_files_of_living_writers_and_of_others_stay(copy, tiny_input, clean):
    (copy / "mine").mkdir()
    (copy / "mine/.notes.tmp").write_text("my own")
    (copy / "runs/lstm/.oof.npy.0123.tmp").write_text("half")
    with temporaries.TemporaryFile(copy / "prediction_blend_big.csv") as file:
        assert clean(words(tiny_input, copy)) == {copy / "runs/lstm/.oof.npy.0123.tmp"}
        clean(words(tiny_input, copy), "--superseded")
        file.replace(copy / "prediction_blend_big.csv")
    assert (copy / "mine/.notes.tmp").exists() and not (copy / "runs/lstm/.oof.npy.0123.tmp").exists()


def test_everything_but_the_submissions(copy, tiny_input, clean):
    kept = {path for path in copy.iterdir() if path.name.startswith("submission")}
    clean(words(tiny_input, copy), "--all")
    assert {path for path in copy.iterdir() if path.name != "locks"} == kept and len(kept) == 3


def test_the_title_says_what_the_list_is(copy, tiny_input, capsys):
    assert main(["clean", "--all", *words(tiny_input, copy)]) == 0
    told = capsys.readouterr().out
    assert "All that commands made in" in told and "No result needs" not in told


def test_one_thing_is_told_as_one(copy, tiny_input, capsys):
    for n, told in ((1, "clean: 1 file or folder, 0.0 MB"), (2, "clean: 2 files and folders, 0.0 MB")):
        (copy / f"vectors/ppmi_{n}.0123.npy").write_text("of other texts")
        assert main(["clean", *words(tiny_input, copy)]) == 0
        assert told in capsys.readouterr().out


def test_an_empty_folder_holds_nothing_to_remove(tmp_path, tiny_input, clean):
    assert clean(words(tiny_input, tmp_path / "output")) == set()


def test_everything_is_what_commands_made(tmp_path, tiny_input, clean):
    """Output folders of other tasks, the input folder and files of the user's may lie in the output folder."""
    output = tmp_path / "output"
    inner = output / "data"
    shutil.copytree(tiny_input, inner)
    own = [output / name for name in ("icu/submissions.jsonl", "quick/blend.bundle", "photos/a.jpg", "notes.txt")]
    for path in own:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("not to be made again")
    for name in ("report.html", ".eda.html.x.tmp"):
        (output / name).write_text("made by a command")
    kept = {*own, *inner.iterdir()}
    clean([f"paths.input={inner}", f"paths.output={output}"], "--all")
    assert kept == all_files(output)


def test_a_command_in_the_folder_of_another_task_is_no_obstacle(copy, tiny_input):
    with locks.hold(copy / "icu/locks", ["train.gru"], [], "train"):
        assert main(["clean", "--superseded", *words(tiny_input, copy)]) == 0
    with locks.lock(copy / "runs/lstm/job.lock"):
        assert main(["clean", "--superseded", *words(tiny_input, copy)]) == 2


def test_nothing_is_removed_beside_another_command(copy, tiny_input, capsys):
    with locks.hold(copy / "locks", ["train.lstm"], [], "train"):
        assert main(["clean", "--all", *words(tiny_input, copy)]) == 2
    assert "train.lstm" in capsys.readouterr().err and (copy / "runs/lstm/score.json").exists()
