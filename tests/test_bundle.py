"""A bundle: what is in it, that it predicts as its run does, and that no other file is taken for one."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from src.__main__ import main
from src.core import storage
from src.core.errors import UserError
from src.core.settings import ROOT
from src.core.settings_loader import load_config
from src.data.report_reader import read_reports
from src.data.submission_files import read_submission
from src.evaluation.workspace import Workspace
from src.serving import bundle as bundles
from src.serving.bundle import KINDS, Bundle, write_bundle
from src.serving.predictor import Predictor
from tests.conftest import error_of, run_command, words

BLOCKED = """
import socket

class NoNetwork(socket.socket):
    def __init__(self, family=-1, *arguments, **keywords):
        if family in (-1, socket.AF_INET, socket.AF_INET6):
            raise OSError("the network is blocked")
        super().__init__(family, *arguments, **keywords)

socket.socket = NoNetwork
socket.create_connection = socket.getaddrinfo = None
"""
"""A sitecustomize module that leaves a process, and those that it starts, without a network."""


@pytest.fixture
def blend(bundled) -> Path:
    """A bundle of a blend of two runs."""
    return bundled / "blend.bundle"


@pytest.fixture(scope="session")
def reports(tiny_input) -> Path:
    return next(tiny_input.glob("*testA*.csv"))


def rewritten(path: Path, to: Path, change, compression: int = zipfile.ZIP_STORED) -> Path:
    """Another bundle with a right seal: `change` gets {name: content} and its bundle.json, and changes both."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    record = json.loads(members.pop("bundle.json"))
    change(members, record)
    with zipfile.ZipFile(to, "w", compression) as archive:
        for name, content in [*members.items(), ("bundle.json", json.dumps(record).encode())]:
            archive.writestr(name, content)
        archive.comment = b"0" * 64
    sealed(to)
    return to


def sealed(path: Path) -> None:
    content = path.read_bytes()[:-64]
    path.write_bytes(content + hashlib.sha256(content).hexdigest().encode())


def renoted(members: dict[str, bytes], record: dict) -> None:
    """Notes the sizes and checksums of changed members."""
    record["members"] = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        for name, content in members.items()
    }


def test_the_same_run_gives_the_same_bytes(blend, done, tiny_input, tmp_path):
    settings = load_config("sample", [word for word in words(tiny_input, done) if "=" in word])
    workspace = Workspace(settings)
    again = write_bundle(workspace, workspace.run("blend"), tmp_path / "again.bundle")
    assert again.read_bytes() == blend.read_bytes()


def test_it_holds_what_prediction_needs_and_no_row(blend, done):
    bundle = Bundle.open(blend)
    assert (bundle.name, bundle.task.name, len(bundle.labels)) == ("blend", "round1", 17)
    assert bundle.record["models"] == {"lstm": 2, "transformer": 2}
    with zipfile.ZipFile(blend) as archive:
        names = archive.namelist()
        assert set(names) == {*bundle.record["members"], "bundle.json"} and names == sorted(names)
        assert all(name.endswith(KINDS) for name in names)
        assert sum(name.startswith("runs/") and name.endswith(".safetensors") for name in names) == 4
        text = b"".join(archive.read(name) for name in names if not name.endswith(".safetensors")).decode()
    assert str(done) not in text and str(ROOT) not in text
    score = json.loads((done / "runs/blend/score.json").read_text())["overall"]["score"]
    found = bundle.record["scores"]["out_of_fold"]
    assert (found["value"], found["standard_error"]) == (score["value"], score["standard_error"])
    boards = json.loads((done / "runs/blend/leaderboard.json").read_text())["tests"]
    assert bundle.record["scores"]["expected"] == {name: board["expected"] for name, board in boards.items()}


def test_the_card_tells_what_it_predicts_and_what_it_is_worth(blend):
    bundle = Bundle.open(blend)
    with zipfile.ZipFile(blend) as archive:
        assert archive.read("MODEL_CARD.md").decode() == bundle.card
    score = bundle.record["scores"]["out_of_fold"]["value"]
    files = {file["role"]: file for file in bundle.record["made_from"]["files"]}
    for told in (
        "17 probabilities",
        "head of 104 tokens",
        "- lstm: 2 trained folds",
        f"train file of 300 rows, sha256 `{files['train']['sha256'][:16]}",
        f"official score {score:.4f} ±",
        "expected on sample_testB.csv",
        "not a diagnosis",
    ):
        assert told in bundle.card, told


@pytest.mark.parametrize("run", ["lstm", "blend"])
def test_it_predicts_the_bytes_of_its_run(run, bundled, reports, tmp_path):
    to = ["--to", str(tmp_path / "of_bundle.csv")]
    run_command(["predict", "--bundle", str(bundled / f"{run}.bundle"), str(reports), *to, "executor.threads=1"])
    assert (tmp_path / "of_bundle.csv").read_bytes() == (bundled / f"{run}.csv").read_bytes()


@pytest.mark.slow
def test_a_blend_of_blends_of_denoised_runs(copy, tiny_input, reports, tmp_path):
    """The bundle holds the encoder that denoises, and each model once; in memory it predicts the same."""
    settings = words(tiny_input, copy)
    denoised = ["runs.lstm.denoise.by=transformer", "runs.lstm.denoise.views=[raw,hard,soft]"]
    run_command(["train", "--model", "lstm", *settings, "runs.transformer.pretrain.epochs=1", *denoised])
    run_command(["blend", "lstm", "transformer", "--name", "inner", "blend.method=mean", *settings])
    run_command(["blend", "inner", "lstm", "--name", "outer", "blend.method=weights", *settings])
    run_command(["bundle", "outer", "--to", str(tmp_path / "it.bundle"), *settings])
    run_command(["predict", "outer", str(reports), "--to", str(tmp_path / "of_run.csv"), *settings])
    shutil.rmtree(copy)
    to = ["--to", str(tmp_path / "of_bundle.csv"), "executor.threads=1"]
    run_command(["predict", "--bundle", str(tmp_path / "it.bundle"), str(reports), *to])
    assert (tmp_path / "of_bundle.csv").read_bytes() == (tmp_path / "of_run.csv").read_bytes()
    bundle = Bundle.open(tmp_path / "it.bundle")
    weights = [name for name in bundle.record["members"] if name.endswith(".safetensors")]
    assert sum(name.startswith("pretrained/transformer.") for name in weights) == 1
    assert sum(name.startswith("runs/") for name in weights) == 4
    assert set(bundle.record["blend"]) == {"outer", "inner"}
    predictor, read = Predictor.load(bundle.path, "torch"), read_reports(reports)
    rows = predictor.encode([read[i] for i in range(len(read))])
    np.testing.assert_allclose(predictor.predict(rows).values, read_submission(tmp_path / "of_run.csv")[1], rtol=1e-4)
    one = predictor.encode([read[0]])
    assert predictor.explain(one, 0).shape == (len(read[0]),)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_entry_of_the_container_needs_an_empty_folder_and_no_network(bundled, reports, tmp_path):
    """Without a container: the files of the image, one test file and a process that can open no connection."""
    app, site, given, empty = (tmp_path / name for name in ("app", "site", "given", "empty"))
    shutil.copytree(ROOT / "src", app / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for source, to in ((bundled / "blend.bundle", "model.bundle"), (ROOT / "docs/container/predict.sh", "predict.sh")):
        shutil.copy(source, app / to)
    for folder in (site, given, empty):
        folder.mkdir()
    (site / "sitecustomize.py").write_text(BLOCKED)
    shutil.copy(reports, given)
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHON": sys.executable,
        "PYTHONPATH": f"{site}{os.pathsep}{app}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "BUNDLE": str(app / "model.bundle"),
    }
    how = {"cwd": empty, "env": environment, "capture_output": True, "text": True}
    probe = subprocess.run([sys.executable, "-c", "import socket; socket.socket()"], **how)
    assert "the network is blocked" in probe.stderr
    before = everything(app), everything(given)
    command = [str(app / "predict.sh"), str(given), str(tmp_path / "result.csv")]
    ended = subprocess.run([*command, "executor.threads=1"], **how)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "result.csv").read_bytes() == (bundled / "blend.csv").read_bytes()
    assert before == (everything(app), everything(given)) and not list(empty.iterdir())
    for name in ("other_test.csv", "more.csv"):
        shutil.copy(reports, given / name)
    ended = subprocess.run(command, **how)
    assert ended.returncode == 2 and "expected one file *test*.csv" in ended.stderr


def test_the_image_has_the_files_that_its_entry_needs():
    copied = re.findall(r"^COPY (\S+) ", (ROOT / "docs/container/Dockerfile").read_text(), re.MULTILINE)
    assert [name for name in copied if not (ROOT / name).exists()] == ["model.bundle"]
    needed = (ROOT / "requirements.txt").read_text().split("# ./run.sh test")[0]
    assert "torch==" in needed and "pytest" not in needed


def test_several_files_and_folders_and_pipes(blend, reports, tmp_path, monkeypatch, capfd):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("b.csv", "a.csv"):
        shutil.copy(reports, folder / name)
    output = f"paths.output={tmp_path / 'out'}"
    run_command(["predict", "--bundle", str(blend), str(folder), str(reports), output])
    capfd.readouterr()
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == ["prediction_blend_a.csv", "prediction_blend_b.csv", f"prediction_blend_{reports.name}"]
    assert main(["predict", "--bundle", str(blend), str(folder), "--to", str(tmp_path / "x.csv"), output]) == 2
    assert "is one file for 2 input files" in capfd.readouterr().err
    before = (tmp_path / "out/prediction_blend_a.csv").read_bytes()
    (tmp_path / "a.csv").write_bytes(b"".join(reports.read_bytes().splitlines(keepends=True)[:5]))
    assert main(["predict", "--bundle", str(blend), str(folder), str(tmp_path / "a.csv"), output]) == 2
    told = f"the predictions of {folder / 'a.csv'} and of {tmp_path / 'a.csv'} would be one file"
    assert told in capfd.readouterr().err
    assert (tmp_path / "out/prediction_blend_a.csv").read_bytes() == before
    assert main(["predict", "--bundle", str(blend), "-", str(reports), output]) == 2
    assert "give it alone, not among 2 files" in capfd.readouterr().err
    for file, is_told in ((folder / "a.csv", False), (tmp_path / "a.csv", True), (folder / "a.csv", True)):
        run_command(["predict", "--bundle", str(blend), str(file), output])
        assert ("held other predictions, which are replaced" in capfd.readouterr().out) == is_told
    with reports.open("rb") as source:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=source))
        run_command(["predict", "--bundle", str(blend), "-", output])
    told = capfd.readouterr()
    assert told.out.encode() == (tmp_path / "out/prediction_blend_a.csv").read_bytes()
    assert "predict: stdout (40 reports" in told.err
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cp", str(reports), str(tmp_path / "pipe")]):
        run_command(["predict", "--bundle", str(blend), str(tmp_path / "pipe"), "--to", str(tmp_path / "x.csv")])
    assert (tmp_path / "x.csv").read_bytes() == (tmp_path / "out/prediction_blend_a.csv").read_bytes()


def test_what_is_asked_wrongly_is_told(blend, reports, tmp_path, capsys):
    def told(*arguments: str) -> str:
        assert main(["predict", *arguments]) == 2
        return capsys.readouterr().err

    assert "--shifted" in told("--bundle", str(blend), str(reports), "--shifted")
    assert "leave --task icu out" in told("--bundle", str(blend), str(reports), "--task", "icu")
    assert "which run is to predict" in told(str(reports))
    assert "./run.sh bundle RUN" in told("--bundle", str(tmp_path / "none.bundle"), str(reports))
    assert "holds no .csv file" in told("--bundle", str(blend), str(tmp_path))
    (tmp_path / "bad.csv").write_text("1|,|no tokens\n")
    assert "line 1" in told("--bundle", str(blend), str(tmp_path / "bad.csv"))


def test_a_run_that_is_not_finished_or_out_of_date_is_refused(copy, tiny_input, tmp_path, capsys):
    settings = words(tiny_input, copy)
    to = ["--to", str(tmp_path / "it.bundle")]

    def told(run: str) -> str:
        assert main(["bundle", run, *to, *settings]) == 2
        assert not (tmp_path / "it.bundle").exists()
        return capsys.readouterr().err

    assert "unknown run 'nothing'" in told("nothing")
    (fold,) = (copy / "runs/lstm").glob("fold_1.*")
    for weights in fold.glob("*.safetensors"):
        weights.rename(weights.with_suffix(".away"))
    assert "is missing. Make it with: ./run.sh" in told("blend")
    for weights in fold.glob("*.away"):
        weights.rename(weights.with_suffix(".safetensors"))
    (weights,) = fold.glob("last.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100] + bytes(100))
    for run in ("lstm", "blend"):
        assert f"{weights} is damaged" in (error := told(run)) and "./run.sh train --model lstm" in error
    weights.write_bytes(whole)
    score = copy / "runs/lstm/score.json"
    content = score.read_text()
    storage.write_json(score, {**storage.read_json(score), "fingerprint": "0123456789abcdef"})
    assert "run lstm was made anew after the blend blend" in told("blend")
    score.unlink()
    assert "is missing. Make it with: ./run.sh train" in told("lstm")
    score.write_text(content)
    manifest = copy / "data/manifest.json"
    storage.write_json(manifest, {**storage.read_json(manifest), "train": "0123456789abcdef"})
    assert "on other train files than are there now" in told("lstm")


def test_expected_scores_that_are_missing_or_of_another_run_are_told(copy, tiny_input, tmp_path, capsys):
    settings, to, found = words(tiny_input, copy), tmp_path / "it.bundle", copy / "runs/lstm/leaderboard.json"
    run_command(["bundle", "lstm", "--to", str(to), *settings])
    assert "expected" not in capsys.readouterr().err
    right = to.read_bytes()
    other = dict.fromkeys(("run", "fingerprint"), "0123456789abcdef")
    for damaged in (None, {**storage.read_json(found), **other}):
        found.unlink(missing_ok=True)
        if damaged:
            storage.write_json(found, damaged)
        run_command(["bundle", "lstm", "--to", str(to), *settings])
        told = capsys.readouterr().err
        assert f"{found}: none of lstm, so the bundle has no expected scores" in told
        assert (f"{found} is not of lstm as it is now" in told) == bool(damaged)
        remedy = told.split("Make both with: ./run.sh ")[1].splitlines()[0]
        run_command(shlex.split(remedy.split(" && ")[0]))
        run_command(["bundle", "lstm", "--to", str(to), *settings])
        assert to.read_bytes() == right


def test_status_and_clean_know_bundles(copy, tiny_input, capsys):
    settings = words(tiny_input, copy)
    assert main(["status", "--json", *settings]) == 0
    assert "bundles" not in json.loads(capsys.readouterr().out)
    run_command(["bundle", "lstm", *settings])
    run_command(["bundle", "blend", *settings])
    (copy / "broken.bundle").write_bytes(b"PK")
    score = copy / "runs/lstm/score.json"
    storage.write_json(score, {**storage.read_json(score), "fingerprint": "0123456789abcdef"})
    capsys.readouterr()
    assert main(["status", "--json", *settings]) == 0
    assert json.loads(capsys.readouterr().out)["bundles"] == {
        "blend.bundle": "(of blend as it is)",
        "broken.bundle": "(cannot be read)",
        "lstm.bundle": "(of lstm as it was before)",
    }
    run_command(["clean", "--all", *settings])
    assert len(list(copy.glob("*.bundle"))) == 3 and not (copy / "runs").exists()


def refused(path: Path) -> str:
    """The one sentence by which a file is refused."""
    told = error_of(Bundle.open, path)
    assert str(path) in told and "\n" not in told and len(told) < 600
    return told


def test_every_damaged_byte_is_found(blend, tmp_path):
    content, draw = blend.read_bytes(), random.Random(0)
    damaged = tmp_path / "damaged.bundle"
    places = {*range(0, 200), *range(len(content) - 200, len(content)), *draw.sample(range(len(content)), 100)}
    for place in sorted(places):
        changed = bytearray(content)
        changed[place] ^= 1 << draw.randrange(8)
        damaged.write_bytes(changed)
        refused(damaged)
    for size in (0, 1, 63, 64, 65, 1000, len(content) // 2, len(content) - 64, len(content) - 1):
        damaged.write_bytes(content[:size])
        refused(damaged)
    damaged.write_bytes(content + b"\n")
    assert "damaged or cut off" in refused(damaged)


def test_what_is_no_bundle_is_told(tmp_path, write):
    assert "there is no file" in error_of(Bundle.open, tmp_path / "none.bundle")
    assert "is a folder" in error_of(Bundle.open, tmp_path)
    os.mkfifo(tmp_path / "pipe.bundle")
    assert "no regular file" in error_of(Bundle.open, tmp_path / "pipe.bundle")
    assert "Make one with: ./run.sh bundle" in refused(write(b"1|,|2 3 4\n" * 20))
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("reports.csv", "1|,|2 3\n")
        archive.comment = b"0" * 64
    sealed(tmp_path / "other.zip")
    assert "it has no bundle.json" in refused(tmp_path / "other.zip")


@pytest.mark.parametrize("other", [1, 4])
def test_another_format_is_told(blend, tmp_path, other):
    path = rewritten(blend, tmp_path / "new.bundle", lambda members, record: record.update(format=other, further=[]))
    assert f"is a bundle of format {other}, and this version reads formats 2 and 3" in refused(path)


NAMES = ["../out.json", "/etc/out.json", "runs/../../out.json", "runs//a.json", "runs/a\\..\\b.json", "C:/a.json",
         "elsewhere/a.json", "runs/" + "é" * 150 + ".json", "runs/a\nb.json", "runs/./a.json"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_member_in_a_forbidden_place_is_refused(name, blend, tmp_path):
    def add(members: dict[str, bytes], record: dict) -> None:
        members[name] = b"{}"
        renoted(members, record)

    path = rewritten(blend, tmp_path / "it.bundle", add)
    assert "lies where no member of a bundle lies" in refused(path)


@pytest.mark.parametrize("name", ["runs/code.py", "runs/weights.pkl", "runs/weights.pt", "runs/link", "run.sh"])
def test_a_member_of_another_kind_is_refused(name, blend, tmp_path):
    def add(members: dict[str, bytes], record: dict) -> None:
        members[name] = b"import os"
        renoted(members, record)

    assert "is none of .json" in refused(rewritten(blend, tmp_path / "it.bundle", add))


def test_members_that_unpack_to_more_than_the_file_are_refused(blend, tmp_path):
    def bomb(members: dict[str, bytes], record: dict) -> None:
        members["runs/blend/bomb.json"] = b" " * (50 << 20)
        renoted(members, record)

    path = rewritten(blend, tmp_path / "it.bundle", bomb, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20 and "is compressed or encrypted" in refused(path)


def swap_weights(members: dict[str, bytes], record: dict) -> None:
    first, second = [name for name in members if name.endswith(".safetensors") and "/lstm/" in name]
    members[first], members[second] = members[second], members[first]


def lose_weights(members: dict[str, bytes], record: dict) -> None:
    del members[next(name for name in members if name.startswith("runs/") and name.endswith(".safetensors"))]
    renoted(members, record)


def lose_member(members: dict[str, bytes], record: dict) -> None:
    del members["runs/lstm/vocabulary.json"]


def fold_outside(members: dict[str, bytes], record: dict) -> None:
    run = json.loads(members["runs/lstm/run.json"])
    members["runs/lstm/run.json"] = json.dumps({**run, "fold_folders": ["../../../elsewhere"]}).encode()
    renoted(members, record)


def doubling_blends(members: dict[str, bytes], record: dict) -> None:
    """Blends of two blends each, 14 levels deep: 2**14 paths from the outermost to a model."""
    whole, score = json.loads(members["runs/blend/run.json"]), members["runs/blend/score.json"]
    levels = [["blend"], *([f"{side}{level}" for side in "ab"] for level in range(14)), ["lstm", "transformer"]]
    for names, inner in zip(levels, levels[1:], strict=False):
        for name in names:
            members[f"runs/{name}/run.json"] = json.dumps({**whole, "members": dict.fromkeys(inner, "")}).encode()
            members[f"runs/{name}/score.json"] = score
    renoted(members, record)


def blend_of_itself(members: dict[str, bytes], record: dict) -> None:
    run = json.loads(members["runs/blend/run.json"])
    members["runs/blend/run.json"] = json.dumps({**run, "members": {"blend": "", "lstm": ""}}).encode()
    renoted(members, record)


def deep_json(members: dict[str, bytes], record: dict) -> None:
    members["runs/lstm/run.json"] = b"[" * 100_000
    renoted(members, record)


def list_for_a_run(members: dict[str, bytes], record: dict) -> None:
    members["runs/lstm/run.json"] = b"[1, 2]"
    renoted(members, record)


def changed(name: str, **fields):
    """Changes fields of a JSON member, the first one that `name` matches."""

    def change(members: dict[str, bytes], record: dict) -> None:
        member = next(one for one in members if fnmatch.fnmatch(one, name))
        members[member] = json.dumps({**json.loads(members[member]), **fields}).encode()
        renoted(members, record)

    return change


def other_words(words: list):
    def change(members: dict[str, bytes], record: dict) -> None:
        members["runs/lstm/vocabulary.json"] = json.dumps(words).encode()
        renoted(members, record)

    return change


def weights_of(*groups: dict) -> dict:
    return {"weights": {"method": "weights", "groups": groups}}


HALF = {"start": 0, "stop": 17, "weights": [0.5, 0.5], "temperature": 1.0}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (changed("runs/lstm/fold_*/result.json", task="round2"), "does not fit bundle.json"),
        (changed("runs/lstm/fold_*/result.json", weights="../last"), "it lacks the weights in runs/lstm/fold_0"),
        (changed("runs/lstm/fold_*/result.json", denoiser="/etc"), "it lacks /etc/result.json"),
        (changed("runs/lstm/fold_*/result.json", run={"model": {"encoder": "x"}}), "ValidationError"),
        (changed("runs/lstm/run.json", inputs={"kind": "tokens", "size": 5}), "run lstm does not fit bundle.json"),
        (changed("runs/lstm/run.json", overrides=[1]), "names no command that made it"),
        (changed("runs/lstm/run.json", task="icu"), "run lstm is of the task icu"),
        (changed("runs/blend/run.json", **weights_of({**HALF, "stop": 16})), "are not those of 17 labels"),
        (changed("runs/blend/run.json", **weights_of({**HALF, "weights": [1.0]})), "another number of weights"),
        (changed("runs/blend/run.json", **weights_of({**HALF, "temperature": 0.0})), "no temperature"),
        (changed("runs/lstm/score.json", fingerprint=None), "the score of run lstm names no fingerprint"),
        (other_words([1, 2, 3]), "another number of words than its models read"),
        (other_words([1, 2, 65536]), "is no list of token ids"),
        (other_words([1, [2]]), "is no list of token ids"),
        (lose_weights, "it lacks the weights"),
        (lose_member, "differ in their members: runs/lstm/vocabulary.json"),
        (fold_outside, "it lacks runs/lstm/../../../elsewhere/result.json"),
        (doubling_blends, "its blends of blends come to more than 10,000 members"),
        (blend_of_itself, "is a member of itself"),
        (deep_json, "RecursionError"),
        (list_for_a_run, "TypeError"),
        (lambda members, record: record.pop("members"), "members in bundle.json"),
        (lambda members, record: record.update(task="round9"), "unknown task 'round9'"),
        (lambda members, record: record.update(labels=["a"]), "its labels are not those of the task round1"),
        (lambda members, record: record.update(format="1"), "names no format"),
        (lambda members, record: record.update(name="../lstm"), "it lacks runs/../lstm/run.json"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_parts_that_do_not_fit_are_refused(change, told, blend, tmp_path):
    assert told in refused(rewritten(blend, tmp_path / "it.bundle", change))


def test_swapped_members_are_refused_before_they_predict(blend, reports, tmp_path, capsys):
    path = rewritten(blend, tmp_path / "it.bundle", swap_weights)
    assert main(["predict", "--bundle", str(path), str(reports), "--to", str(tmp_path / "x.csv")]) == 2
    told = capsys.readouterr().err
    assert "differs from its checksum" in told and not (tmp_path / "x.csv").exists()


def test_weights_of_another_model_are_told_in_memory_and_by_the_command(blend, reports, tmp_path, capsys):
    def swapped(members: dict[str, bytes], record: dict) -> None:
        ours, other = (next(name for name in members if fnmatch.fnmatch(name, f"runs/{run}/fold_*.safetensors"))
                       for run in ("lstm", "transformer"))  # fmt: skip
        members[ours] = members[other]
        renoted(members, record)

    path = rewritten(blend, tmp_path / "it.bundle", swapped)
    told = error_of(Predictor.load, path, "torch")
    assert told.startswith(f"{path} is no bundle that can be read: runs/lstm/fold_0") and "\n" not in told
    assert main(["predict", "--bundle", str(path), str(reports), "--to", str(tmp_path / "x.csv")]) == 2
    told = capsys.readouterr().err
    assert f"{path}: runs/lstm/fold_0" in told and "its checksum is not the one that its result.json notes" in told
    assert "bundle-" not in told


def test_broken_tensors_are_told(blend, reports, tmp_path, capsys):
    def cut(members: dict[str, bytes], record: dict) -> None:
        name = next(name for name in members if fnmatch.fnmatch(name, "runs/lstm/fold_*.safetensors"))
        members[name] = members[name][:-4]
        renoted(members, record)

    path = rewritten(blend, tmp_path / "it.bundle", cut)
    assert main(["predict", "--bundle", str(path), str(reports), "--to", str(tmp_path / "x.csv")]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and "holds no tensors" in told[0] and "runs/lstm/fold_0" in told[0]


def test_too_many_members_are_refused(blend, tmp_path, monkeypatch):
    monkeypatch.setattr(bundles, "MOST_MEMBERS", 21)
    assert "it has more than 21 members" in refused(blend)


def test_members_that_overlap_are_refused(blend, tmp_path):
    """The central directory points two members at one place."""

    def add(members: dict[str, bytes], record: dict) -> None:
        members.update({"runs/p.json": b"{}", "runs/q.json": b"{}"})
        renoted(members, record)

    path = rewritten(blend, tmp_path / "it.bundle", add)
    content = bytearray(path.read_bytes())
    entry = content.rfind(b"runs/q.json") - 46
    content[entry + 42 : entry + 46] = (content.find(b"runs/p.json") - 30).to_bytes(4, "little")
    path.write_bytes(content)
    sealed(path)
    assert "BadZipFile" in refused(path)


def test_a_file_that_changes_while_it_is_unpacked_is_refused(blend, tmp_path):
    path = Path(shutil.copy(blend, tmp_path / "it.bundle"))
    bundle = Bundle.open(path)
    path.write_bytes(b"PK" + b"\0" * 1000)
    with pytest.raises(UserError, match="was changed since it was opened"):
        bundle.unpack(tmp_path / "there")


def test_the_module_loads_nothing_heavy():
    heavy = {"torch", "sklearn", "onnx", "fastapi"}
    code = f"import sys; import src.serving.bundle; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_stored_and_named_constants_are_written(blend):
    with zipfile.ZipFile(blend) as archive:
        assert {info.date_time for info in archive.infolist()} == {bundles.DATE}
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="this system has no /proc")
def test_a_file_without_a_size_is_no_bundle():
    with pytest.raises(UserError, match="/proc/self/mem is no bundle that can be read"):
        Bundle.open(Path("/proc/self/mem"))


def test_stdout_holds_predictions_or_a_document(bundled, capsys):
    assert main(["predict", "--bundle", str(bundled / "lstm.bundle"), "-", "--json"]) == 2
    assert "name a file, --to FILE" in "".join(capsys.readouterr())


def test_a_path_with_blanks_is_quoted_where_it_is_to_be_typed(tmp_path):
    path = tmp_path / "a b" / "x.bundle"
    assert f"--to '{path}'" in error_of(Bundle.open, path)
