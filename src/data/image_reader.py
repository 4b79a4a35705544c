"""Reader of images and labels in a .npz file, and the digits that scikit-learn ships as such a file.

Two layouts are read: that of MedMNIST (train_images, train_labels, val_images, val_labels, test_images, test_labels;
val and test may be missing, and so may test_labels) and a plain one (images, labels). Images are grey, (N, H, W), or
RGB, (N, H, W, 3). An image is a series of its rows: H steps of W or 3 W columns.

    for split, images in read_images(Path("input/frames/pneumoniamnist.npz")).items():
        print(split, images.ids, images.values().shape, images.labels)
"""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.core import storage
from src.core.errors import UserError
from src.core.language import _
from src.core.settings import Config
from src.data.file_kinds import open_bytes, refuse_other_kinds

SPLITS = ("train", "val", "test")
LAYOUTS = "train_images and train_labels (with val_… and test_…), or images and labels"
COLOURS = ("red", "green", "blue")
MOST_CLASSES = 1000
LARGEST_PIXEL = float(np.finfo(np.float32).max)
BROKEN = (
    OSError, EOFError, ValueError, TypeError, RuntimeError, LookupError, SyntaxError, OverflowError, MemoryError,
    struct.error, zlib.error, tokenize.TokenError, zipfile.BadZipFile,
)  # fmt: skip
"""Errors that NumPy and zipfile raise for broken files."""


@dataclass(frozen=True, eq=False)
class Images:
    """N images of one split of a file."""

    path: Path
    split: str
    """train, val or test; train for a file of the plain layout."""
    pixels: np.ndarray
    """(N, H, W) or (N, H, 3 W), numbers of the file's type; the colours of a pixel stand side by side."""
    labels: np.ndarray | None
    """Classes, (N,) int64 in 0..n_classes-1; None where the file has none."""
    n_classes: int
    """Classes of the whole file: the largest label and 1."""
    parameters: tuple[str, ...]
    """Names of the columns: x0, x1, … or x0_red, x0_green, …"""

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def ids(self) -> np.ndarray:
        """Ids like train_00000, (N,) bytes."""
        width = max(5, len(str(len(self) - 1)))
        return np.array([b"%s_%0*d" % (self.split.encode(), width, i) for i in range(len(self))])

    def values(self, rows: slice = slice(None)) -> np.ndarray:
        """Returns the pixels of some images, (n, H, W or 3 W) float32."""
        return self.pixels[rows].astype(np.float32)


def read_images(path: Path | str) -> dict[str, Images]:
    """Reads the images of a file by split, in the order of SPLITS.

    Memory is that of the arrays in the file's own type. Raises one UserError that lists all that is wrong.
    """
    path = Path(path)
    arrays = None
    try:
        with open_bytes(path) as raw:
            file = np.load(raw, allow_pickle=False)
            if isinstance(file, np.lib.npyio.NpzFile):
                arrays = {key: file[key] for key in file.files}
    except BROKEN as error:
        refuse_other_kinds(path, "images")
        what = "it holds other objects" if "pickle" in str(error) else str(error) or type(error).__name__
        raise UserError(
            _("{path} cannot be read as a .npz file of numbers ({what}). Write it again.").format(path=path, what=what)
        ) from error
    if arrays is None:
        raise UserError(
            _("{path} is one array; expected a .npz file with {layouts}").format(path=path, layouts=LAYOUTS)
        )
    prefixes = {split: f"{split}_" for split in SPLITS if f"{split}_images" in arrays}
    if not prefixes and "images" in arrays:
        prefixes = {"train": ""}
    if "train" not in prefixes:
        refuse_other_kinds(path, "images")
        keys = ", ".join(sorted(map(repr, arrays))[:10]) or "nothing"
        raise UserError(_("{path} holds {keys}; expected {layouts}").format(path=path, keys=keys, layouts=LAYOUTS))
    messages: list[str] = []
    found = {split: _check(arrays, prefix, split, messages) for split, prefix in prefixes.items()}
    if not messages:
        shapes = {split: images.shape[1:] for split, (images, _) in found.items()}
        for split, shape in shapes.items():
            if shape != shapes["train"]:
                messages.append(
                    _("{split}_images are of {shape}, expected {train} as train_images").format(
                        split=split, shape=shape, train=shapes["train"]
                    )
                )
        known = np.unique(found["train"][1])
        for split, (_values, labels) in found.items():
            if labels is not None and len(new := np.setdiff1d(labels, known)):
                messages.append(
                    _("{split}_labels hold the class {new}, which no image of train has").format(
                        split=split, new=new[0]
                    )
                )
        if len(known) < 2:
            messages.append(_("all labels of train are {known}, expected two classes or more").format(known=known[0]))
    if messages:
        raise UserError(
            "\n".join([f"{path}: {len(messages)} error{'s' * (len(messages) > 1)}:"] + [f"  {m}" for m in messages])
        )
    n_classes = int(known[-1]) + 1
    images = found["train"][0]
    names = tuple(f"x{i}" for i in range(images.shape[2]))
    if images.ndim == 4:
        names = tuple(f"{name}_{colour}" for name in names for colour in COLOURS)
    return {
        split: Images(path, split, images.reshape(*images.shape[:2], -1), labels, n_classes, names)
        for split, (images, labels) in found.items()
    }


def count_images(path: Path) -> int | None:
    """Returns the number of images of a file by the heads of its arrays; None where they cannot be read."""
    names = {f"{prefix}images.npy" for prefix in ("", *(f"{split}_" for split in SPLITS))}
    try:
        with open_bytes(path) as raw, zipfile.ZipFile(raw) as archive:
            found = 0
            for name in names & set(archive.namelist()):
                with archive.open(name) as array:
                    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                    found += read[np.lib.format.read_magic(array)](array)[0][0]
            return found or None
    except (UserError, *BROKEN):
        return None


def _check(
    arrays: dict[str, np.ndarray], prefix: str, split: str, messages: list[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the images and the labels (N,) int64 of a split; appends what is wrong to `messages`."""
    images, labels = arrays[f"{prefix}images"], arrays.get(f"{prefix}labels")
    name = f"{prefix}images"
    is_grey_or_rgb = images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)
    if not is_grey_or_rgb:
        messages.append(
            _("{name} is of {shape}, expected (N, H, W) or (N, H, W, 3)").format(name=name, shape=images.shape)
        )
    elif not images.size:
        messages.append(_("{name} is empty, of {shape}").format(name=name, shape=images.shape))
    elif images.dtype.kind not in "uif":
        messages.append(_("{name} is of type {dtype}, expected numbers").format(name=name, dtype=images.dtype))
    elif images.dtype.kind == "f" and not np.isfinite(images).all():
        messages.append(_("{name} has values that are not finite").format(name=name))
    elif images.dtype.itemsize > 4 and images.dtype.kind == "f" and max(-images.min(), images.max()) > LARGEST_PIXEL:
        messages.append(
            _("{name} has values beyond ±{most:.1e}, the largest of float32").format(name=name, most=LARGEST_PIXEL)
        )
    name = f"{prefix}labels"
    if labels is None:
        if split != "test":
            messages.append(_("{name} is missing").format(name=name))
        return images, None
    if labels.ndim == 2 and labels.shape[1] == 1:  # as MedMNIST has them
        labels = labels[:, 0]
    if labels.ndim != 1 or not images.ndim or len(labels) != len(images):
        messages.append(
            _("{name} is of {shape}, expected one class for each image of {images}").format(
                name=name, shape=labels.shape, images=images.shape
            )
        )
    elif labels.dtype.kind not in "ui":
        messages.append(_("{name} is of type {dtype}, expected whole numbers").format(name=name, dtype=labels.dtype))
    elif len(labels) and not (0 <= labels.min() and labels.max() < MOST_CLASSES):
        messages.append(
            _("{name} are {lowest} to {highest}, expected classes from 0 to {most}").format(
                name=name, lowest=labels.min(), highest=labels.max(), most=MOST_CLASSES - 1
            )
        )
    else:
        labels = labels.astype(np.int64)
    return images, labels


NOTE = "README.md"  # written last, so that a folder with this file is complete
FILES = ("digits.npz",)
ORIGIN = "SAMPLE DATA, the digits that scikit-learn ships"
SAMPLE_DIGITS, TRAIN_DIGITS = 1797, 1500


def arguments(settings: Config) -> dict[str, Any]:
    """Arguments of make_sample that settings name: none, as the digits are what they are."""
    return {}


def is_complete(folder: Path) -> bool:
    """Returns True if `folder` holds the sample."""
    return all((folder / name).is_file() for name in (*FILES, NOTE))


def was_made_with(folder: Path) -> bool:
    """Returns True if `folder` holds the complete sample of this version."""
    return is_complete(folder) and (folder / NOTE).read_text(encoding="utf-8") == _NOTE_TEXT


def described() -> str:
    """Says what make_sample makes."""
    return "1,797 digits of 8 x 8 pixels"


def make_sample(folder: Path) -> list[Path]:
    """Writes the digits of scikit-learn as digits.npz, 1,500 in train and 297 in test, and a README.md."""
    # Imported here: the reader of images does without.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    (folder / NOTE).unlink(missing_ok=True)
    digits = load_digits()
    images, labels = digits.images.astype(np.uint8), digits.target.astype(np.uint8)
    train, test = train_test_split(np.arange(len(labels)), train_size=TRAIN_DIGITS, stratify=labels, random_state=0)
    arrays = {}
    for split, rows in (("train", train), ("test", test)):
        arrays |= {f"{split}_images": images[rows], f"{split}_labels": labels[rows]}
    storage.write_atomic(folder / FILES[0], lambda file: np.savez_compressed(file, **arrays), read_images)
    storage.write_text(folder / NOTE, _NOTE_TEXT)
    return [folder / name for name in (*FILES, NOTE)]


_NOTE_TEXT = """# Digits

1,797 written digits, 8 x 8 pixels of 0 to 16, that scikit-learn ships (`load_digits`; a part of the Optical Recognition
of Handwritten Digits data, Alpaydin and Kaynak 1998, UCI Machine Learning Repository, CC BY 4.0).

- `digits.npz`: train_images, train_labels (1,500) and test_images, test_labels (297), in MedMNIST's layout.
"""
