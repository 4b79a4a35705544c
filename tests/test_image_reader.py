"""Images and labels of .npz files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.core.errors import UserError
from src.data import image_reader
from src.data.image_reader import make_sample, read_images
from tests.conftest import error_of

RNG = np.random.default_rng(0)


def arrays(n: int = 6, *shape: int) -> dict[str, np.ndarray]:
    images = RNG.integers(0, 256, (n, *(shape or (4, 5))), dtype=np.uint8)
    return {"images": images, "labels": np.arange(n, dtype=np.uint8) % 3}


def medmnist(*shape: int) -> dict[str, np.ndarray]:
    """MedMNIST's layout; labels (N, 1)."""
    found = {}
    for split, n in (("train", 6), ("val", 3), ("test", 4)):
        part = arrays(n, *shape)
        found |= {f"{split}_images": part["images"], f"{split}_labels": part["labels"][:, None]}
    return found


def save(path: Path, content: dict[str, np.ndarray]) -> Path:
    np.savez(path, **content)
    return path


def test_medmnist(tmp_path):
    content = medmnist()
    found = read_images(save(tmp_path / "x.npz", content))
    assert list(found) == ["train", "val", "test"]
    for split, images in found.items():
        np.testing.assert_array_equal(images.values(), content[f"{split}_images"])
        np.testing.assert_array_equal(images.labels, content[f"{split}_labels"][:, 0])
        assert images.values(slice(1, 3)).shape == (2, 4, 5) and images.values().dtype == np.float32
        assert images.n_classes == 3 and images.labels.dtype == np.int64
        assert images.parameters == ("x0", "x1", "x2", "x3", "x4")
    assert found["val"].ids.tolist() == [b"val_00000", b"val_00001", b"val_00002"]


def test_plain_layout_and_parts(tmp_path):
    (split,) = read_images(save(tmp_path / "x.npz", arrays()))
    assert split == "train"
    content = medmnist()
    for key in ("val_images", "val_labels", "test_labels"):
        del content[key]
    found = read_images(save(tmp_path / "x.npz", content))
    assert list(found) == ["train", "test"] and found["test"].labels is None


def test_rgb(tmp_path):
    content = medmnist(4, 5, 3)
    found = read_images(save(tmp_path / "x.npz", content))["train"]
    assert found.values().shape == (6, 4, 15) and found.parameters[:4] == ("x0_red", "x0_green", "x0_blue", "x1_red")
    column = found.parameters.index("x2_green")
    np.testing.assert_array_equal(found.values()[:, :, column], content["train_images"][:, :, 2, 1])


WRONG = {
    "no images": ({"labels": np.arange(3)}, "images"),
    "no labels": ({"images": np.zeros((3, 4, 5))}, "labels"),
    "nothing": ({}, "images"),
    "three dimensions": (arrays(6, 4, 5, 6), "(6, 4, 5, 6)"),
    "flat": (arrays(6, 20), "(6, 20)"),
    "empty": (arrays(0), "empty"),
    "no columns": (arrays(6, 4, 0), "empty"),
    "no number": ({"images": np.full((3, 4, 5), "a"), "labels": np.arange(3)}, "<U1"),
    "objects": ({"images": np.array([None, 1]), "labels": np.arange(3)}, "x.npz"),
    "a number": ({"images": np.array(1), "labels": np.array(1)}, "()"),
    "not finite": ({"images": np.full((3, 4, 5), np.nan), "labels": np.arange(3)}, "finite"),
    "too large": ({"images": np.full((3, 4, 5), 1e39), "labels": np.arange(3)}, "beyond ±3.4e+38"),
    "too small": ({"images": np.full((3, 4, 5), -1e39), "labels": np.arange(3)}, "beyond ±3.4e+38"),
    "fewer labels": ({"images": np.zeros((3, 4, 5)), "labels": np.arange(2)}, "(2,)"),
    "several labels": ({"images": np.zeros((3, 4, 5)), "labels": np.zeros((3, 14), int)}, "(3, 14)"),
    "fractions": ({"images": np.zeros((3, 4, 5)), "labels": np.array([0, 1, 1.5])}, "float64"),
    "negative": ({"images": np.zeros((3, 4, 5)), "labels": np.array([0, 1, -1])}, "-1"),
    "huge class": ({"images": np.zeros((3, 4, 5)), "labels": np.array([0, 1, 10**6])}, "1000000"),
    "one class": ({"images": np.zeros((3, 4, 5)), "labels": np.zeros(3, int)}, "two classes"),
    "another size": (medmnist() | {"test_images": np.zeros((4, 5, 5))}, "test_images"),
    "a new class": (medmnist() | {"val_labels": np.array([0, 1, 7])}, "7"),
    "no validation labels": ({k: v for k, v in medmnist().items() if k != "val_labels"}, "val_labels"),
    "no training part": ({k: v for k, v in medmnist().items() if "train" not in k}, "train_images"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_files(tmp_path, kind):
    content, word = WRONG[kind]
    path = save(tmp_path / "x.npz", content)
    message = error_of(read_images, path)
    assert str(path) in message and word in message


def test_errors_are_told_together(tmp_path):
    content = medmnist() | {"test_images": np.zeros((4, 5)), "val_labels": np.zeros(2, int)}
    message = error_of(read_images, save(tmp_path / "x.npz", content))
    assert "test_images" in message and "val_labels" in message and "2 errors" in message or "3 errors" in message


def test_files_that_are_no_npz(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "empty.npz").touch()
    for name in ("x.npy", "text.npz", "empty.npz", "missing.npz", "."):
        assert str(tmp_path / name) in error_of(read_images, tmp_path / name)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_mutated_files_raise_user_errors_only(tmp_path, data):
    path = save(tmp_path / "x.npz", arrays())
    text = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(text[: data.draw(st.sampled_from([len(text), len(text) - 10, len(text) // 2]))])
    try:
        read_images(path)
    except UserError as error:
        assert str(path) in str(error)


def test_sample(tmp_path):
    assert not image_reader.is_complete(tmp_path)
    paths = make_sample(tmp_path)
    assert [path.is_file() for path in paths] == [True, True] and image_reader.was_made_with(tmp_path)
    found = read_images(tmp_path / "digits.npz")
    assert {split: images.values().shape for split, images in found.items()} == {
        "train": (1500, 8, 8),
        "test": (297, 8, 8),
    }
    assert found["test"].n_classes == 10 and found["train"].values().max() == 16
    assert len(np.unique(found["train"].labels)) == 10
    before = paths[0].read_bytes()
    make_sample(tmp_path)
    assert paths[0].read_bytes() == before
