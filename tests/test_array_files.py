"""Damage of files in the output folder: every kind of it is told by the one reader of each format."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from src.core import array_files, storage
from src.core.errors import Damaged, UserError
from src.core.targets import Target
from src.training import checkpoints

ARRAY = np.arange(24, dtype=np.float32).reshape(6, 4)


def middle_bit(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 1
    return bytes(changed)


DAMAGES = {
    "a bit": middle_bit,
    "the last bit": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "zeroed": lambda content: bytes(len(content)),
    "longer": lambda content: content + b"x",
    "pickled": lambda content: pickle.dumps(ARRAY),
    "brackets": lambda content: b"[" * 100_000,
    "a list": lambda content: b"[1, 2]",
    "a text": lambda content: b'"fingerprint"',
    "not UTF-8": lambda content: b"\xff\xfe" + content,
}


def written(folder: Path, kind: str) -> Path:
    path = folder / "run" / f"oof.{kind}"
    if kind == "npy":
        array_files.write_npy(path, ARRAY)
    elif kind == "npz":
        array_files.write_npz(path, first=ARRAY, second=ARRAY[:1])
    else:
        storage.write_json(path, {"fingerprint": "x", "history": [1.5, 2.0]})
    return path


READERS = {"npy": array_files.read_npy, "npz": array_files.read_npz, "json": storage.read_json}


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_with_the_command_that_makes_it(tmp_path, kind, damage):
    path = written(tmp_path, kind)
    READERS[kind](path)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(Damaged) as error:
        READERS[kind](path, "train --model lstm")
    assert str(error.value).startswith(f"{path} is damaged: ")
    assert str(error.value).endswith("Make it anew with: ./run.sh train --model lstm.")


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_a_file_in_the_place_of_another_is_not_taken_for_it(tmp_path, kind):
    path = written(tmp_path, kind)
    for other in (path.with_name(f"test_A.{kind}"), tmp_path / "other" / path.name):
        other.parent.mkdir(exist_ok=True)
        shutil.copy2(path, other)
        with pytest.raises(Damaged, match="its content differs from its checksum"):
            READERS[kind](other)
        assert not array_files.is_whole(other)
    shutil.copytree(tmp_path / "run", tmp_path / "moved" / "run")
    READERS[kind](tmp_path / "moved" / "run" / path.name)  # the folder as a whole may lie elsewhere


def test_arrays_come_back_and_numpy_reads_them_too(tmp_path):
    path = written(tmp_path, "npy")
    for read in (array_files.read_npy(path), array_files.read_npy(path, mapped=True), np.load(path)):
        np.testing.assert_array_equal(read, ARRAY)
    several = array_files.read_npz(written(tmp_path, "npz"))
    assert set(several) == {"first", "second"}
    np.testing.assert_array_equal(several["first"], ARRAY)
    with np.load(tmp_path / "run" / "oof.npz") as plain:
        np.testing.assert_array_equal(plain["second"], ARRAY[:1])


def test_a_missing_array_names_its_command(tmp_path):
    with pytest.raises(UserError, match=r"oof.npy is missing. Make it with: ./run.sh train --model lstm"):
        array_files.read_npy(tmp_path / "oof.npy", "train --model lstm")


def test_kept_json_that_is_damaged_counts_as_missing(tmp_path, capsys):
    path = written(tmp_path, "json")
    assert storage.read_kept(path) == {"fingerprint": "x", "history": [1.5, 2.0]}
    path.write_text(json.dumps({"fingerprint": "x"}))
    assert storage.read_kept(path) is None and "is damaged" in capsys.readouterr().err
    path.unlink()
    assert storage.read_kept(path) is None and not capsys.readouterr().err


@pytest.fixture
def target(tmp_path) -> Target:
    files = tuple(tmp_path / "run" / name for name in ("oof.npy", "history.csv"))
    array_files.write_npy(files[0], ARRAY)
    storage.write_text(files[1], "epoch,loss\n1,0.5\n")
    array_files.write_npy(tmp_path / "further.npy", ARRAY)
    one = Target("", tmp_path / "run" / "score.json", "x", files)
    one.write({"score": 0.9}, [tmp_path / "further.npy"])
    return one


def test_a_result_knows_its_files(target):
    assert target.is_current() and target.state() == "done" and target.damage() is None
    noted = storage.read_json(target.result)
    assert noted["score"] == 0.9 and list(noted["checksums"]) == ["oof.npy", "history.csv", "../further.npy"]


@pytest.mark.parametrize("name", ["run/oof.npy", "run/history.csv", "further.npy", "run/score.json"])
def test_a_damaged_file_makes_its_result_count_as_missing(target, tmp_path, name, capsys):
    path = tmp_path / name
    path.write_bytes(middle_bit(path.read_bytes()))
    assert not target.is_current() and target.state() == "damaged"
    assert f"{path} is damaged" in capsys.readouterr().err and str(path) in target.damage()


def test_a_sound_file_of_another_output_does_not_belong_to_a_result(target, tmp_path):
    array_files.write_npy(tmp_path / "elsewhere" / "run" / "oof.npy", ARRAY[::-1])
    shutil.copy2(tmp_path / "elsewhere" / "run" / "oof.npy", target.files[0])
    assert not target.is_current() and "is not the one that" in target.damage()


def test_a_missing_further_file_makes_its_result_stale(target, tmp_path):
    (tmp_path / "further.npy").unlink()
    assert not target.is_current() and target.state() == "stale"


def test_a_shortened_history_is_not_resumed_from(tmp_path, capsys):
    import torch

    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    history = [{"epoch": 1.0, "train_loss": 0.7}, {"epoch": 2.0, "train_loss": 0.6}]
    checkpoints.save(tmp_path, model, None, optimizer, history[:1], 4.0)
    checkpoints.save(tmp_path, model, None, optimizer, history, 9.5)
    assert checkpoints.spent(tmp_path) == 9.5
    assert checkpoints.resume(tmp_path, model, None, optimizer)[0] == history
    state = tmp_path / "state_0002.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "history": history[:1]}, indent=2) + "\n")
    assert checkpoints.resume(tmp_path, model, None, optimizer)[0] == history[:1]
    assert checkpoints.spent(tmp_path) == 4.0
    assert f"{state} is damaged" in capsys.readouterr().err
    weights = tmp_path / "state_0001.safetensors"
    weights.write_bytes(middle_bit(weights.read_bytes()))
    assert checkpoints.resume(tmp_path, model, None, optimizer)[0] == []
    assert f"{weights} is damaged" in capsys.readouterr().err
