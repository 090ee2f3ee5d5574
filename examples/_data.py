"""The data of the examples: checked, split, as NumPy arrays.

    inputs, labels = load("basic_motions", "train")

A set that lies in `examples/data/` works offline. Its file is checked against a SHA-256, and its
source is printed once. Where the data is from and under which terms: `examples/data/LICENSES.md`.

A further set is one more entry in `DATASETS`, with a function that reads a split from its file.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cellkit._errors import problem

DIRECTORY = Path(__file__).with_name("data")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One set of data that lies in `examples/data/`.

    Args:
        file: Name of the file.
        sha256: Checksum of the file.
        source: What is printed when it is first loaded.
        splits: Names of the splits.
        classes: Names of the classes, in the order of the labels.
        read: `(path, split) -> (inputs, targets)`.
    """

    file: str
    sha256: str
    source: str
    splits: tuple[str, ...]
    classes: tuple[str, ...]
    read: Callable[[Path, str], tuple[Any, np.ndarray]]


def load(name: str, split: str) -> tuple[Any, np.ndarray]:
    """Load one split of a set.

    Args:
        name: A key of `DATASETS`.
        split: One of the splits of the set, e.g. `"train"`.

    Returns:
        Inputs and targets. The targets are int32 labels that index `class_names`; the inputs are

        - `"basic_motions"`: `{"acc": (recordings, 100, 3), "gyro": (recordings, 100, 3)}`,
          float32, in the units of the watch;
        - `"digits"`: `(images, 8, 8)`, float32 in [0, 1], rows from top to bottom;
        - `"japanese_vowels"`: `{"values": (utterances, 29, 12), "lengths": (utterances,)}`,
          float32 and int32, with zeros after the last step of an utterance.

    Raises:
        ValueError: If the name or the split is unknown, or the file is missing or not the right
            one.
    """
    dataset = _find(name)
    if split not in dataset.splits:
        raise problem(
            f"The set {name!r} has no such split.",
            received=f"split={split!r}",
            expected=" or ".join(map(repr, dataset.splits)),
            fix=f"write load({name!r}, {dataset.splits[0]!r})",
        )
    return dataset.read(_checked(name), split)


def class_names(name: str) -> tuple[str, ...]:
    """Return the names of the classes of a set, in the order of the labels."""
    return _find(name).classes


def _find(name: str) -> Dataset:
    if name not in DATASETS:
        raise problem(
            "There is no such set of data.",
            received=f"{name!r}",
            expected="one of " + ", ".join(map(repr, DATASETS)),
            fix="use one of these names, or add the set to DATASETS in examples/_data.py",
        )
    return DATASETS[name]


@functools.cache
def _checked(name: str) -> Path:
    """Return the path of a set's file, checked; says once in a process where it is from."""
    dataset = DATASETS[name]
    path = DIRECTORY / dataset.file
    if not path.is_file():
        raise problem(
            f"The file of the set {name!r} is missing.",
            received=f"no file {path}",
            expected="the file that the repository holds at examples/data/",
            fix=f"restore it, or run examples/data/make_{name}.py",
        )
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != dataset.sha256:
        raise problem(
            f"The file of the set {name!r} is not the one that this loader was written for.",
            received=f"{path} with sha256 {found}",
            expected=f"sha256 {dataset.sha256}",
            fix="restore the file of the repository; for data of your own add another set",
        )
    print(f"Data: {dataset.source}")
    return path


def _read_basic_motions(path: Path, split: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    with np.load(path) as file:
        values, labels = file[f"{split}_values"], file[f"{split}_labels"]
    return {"acc": values[..., :3], "gyro": values[..., 3:]}, labels


def _read_digits(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as file:
        images, labels = file[f"{split}_images"], file[f"{split}_labels"]
    return images.astype("float32") / 16, labels


def _read_japanese_vowels(path: Path, split: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    with np.load(path) as file:
        flat, lengths = file[f"{split}_values"], file[f"{split}_lengths"]
        labels = file[f"{split}_labels"]
    values = np.zeros((len(lengths), 29, flat.shape[-1]), "float32")
    values[np.arange(29) < lengths[:, None]] = flat
    return {"values": values, "lengths": lengths}, labels


DATASETS = {
    "basic_motions": Dataset(
        file="basic_motions.npz",
        sha256="a7a3aa4decd123725011548d953b313ab094515d14b34a5c32df9c5637028a6c",
        source="BasicMotions, 80 recordings of a smart watch, from the UEA archive "
        "(Bagnall et al. 2018, arXiv:1811.00075); terms in examples/data/LICENSES.md.",
        splits=("train", "test"),
        classes=("Standing", "Running", "Walking", "Badminton"),
        read=_read_basic_motions,
    ),
    "digits": Dataset(
        file="digits.npz",
        sha256="ccb2ff6924fabedb718cc4f7265f78461ce7c4b5979824fd7710d93dad933943",
        source="Optical Recognition of Handwritten Digits, 1,797 images of 8x8, by E. Alpaydin and "
        "C. Kaynak, UCI (doi:10.24432/C50P49); terms in examples/data/LICENSES.md.",
        splits=("train", "test"),
        classes=tuple("0123456789"),
        read=_read_digits,
    ),
    "japanese_vowels": Dataset(
        file="japanese_vowels.npz",
        sha256="fff9f53790dceb8f1f1ce964ea81668ca9c84448bdd7d8c0797f8d1d8ec7ee26",
        source="Japanese Vowels, 640 utterances of nine speakers, by M. Kudo, J. Toyama and "
        "M. Shimbo, UCI (doi:10.24432/C5NS47); terms in examples/data/LICENSES.md.",
        splits=("train", "test"),
        classes=tuple(f"speaker {k}" for k in range(1, 10)),
        read=_read_japanese_vowels,
    ),
}
