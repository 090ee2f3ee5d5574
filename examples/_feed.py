"""Feeds any cell with real data, from the inputs that its spec states. Imports no Keras.

    task = feed("cfc", (("features",), (1,)), "train")

A cell of one or several vectors, matrices or images per step reads a handwritten digit from top to
bottom, one row per step. A cell that takes more than data, such as the time or what is missing,
hears a speaker's utterance of which frames or values were lost:

| leaf of the inputs | what it is given |
|---|---|
| `("features",)` | a row of the digit, of 8 numbers; a part of it when there are several leaves |
| `("i", "j")` | the same, folded into two columns |
| `("rows", "columns", "channels")` | the row with the rows above and below it, as an image |
| `(1,)` beside others | the time since the start, or the gap since the step before: see `CLOCKS` |
| a constant `("places", width)` | the rows of the digit, all at once |
| `"values"`, `"observed"`, `"dt"` | the coefficients, which are known, how long ago they were |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import _data
import numpy as np

from cellkit.errors import problem

CLOCKS = {"phased_lstm": "time"}
"""What a lone number beside other inputs is, for cells where it isn't the gap between steps."""

FRAME = 6.4  # milliseconds from one frame of an utterance to the next
KEPT = 0.7  # share of the frames of an utterance, and of its values, that are not lost

Shape = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Task:
    """Task that a cell learns.

    Args:
        data: Name of the set.
        inputs: Arrays `(n, time, ...)` in the structure of the cell's inputs, float32.
        mask: True at steps that count, bool `(n, time)`, or None for all.
        labels: int32 `(n,)`.
        classes: Number of classes.
        constants: Arrays `(n, ...)` that are the same at every step, float32.
    """

    data: str
    inputs: Any
    mask: np.ndarray | None
    labels: np.ndarray
    classes: int
    constants: list[np.ndarray] = dataclasses.field(default_factory=list)


def feed(
    name: str, inputs: Any, split: str, data: str | None = None, constants: Any = None
) -> Task:
    """Prepare one split for a cell.

    Args:
        name: Name of the cell, which is asked for only where its inputs leave something open.
        inputs: The inputs of its spec.
        split: `"train"` or `"test"`.
        data: `"digits"` or `"japanese_vowels"`. Default: the digits, unless the cell takes the
            time or what is missing.
        constants: The constants of its spec, a list of shapes: a memory `("places", width)`,
            which holds the digit as a whole, one row at each place, and its mask `("places",)`.

    Raises:
        ValueError: If the inputs are of a kind that there is no data for.
    """
    kinds = [_kind(name, path, shape, inputs) for path, shape in leaves(inputs)]
    plain = all(kind == "data" for kind in kinds)
    if data is None:
        data = "digits" if plain else "japanese_vowels"
    if data == "digits" and plain:
        memories = [_memory(shape, split) for shape in constants or ()]
        return dataclasses.replace(_digits(inputs, split), constants=memories)
    if data == "japanese_vowels" and all(len(s) == 1 for _, s in leaves(inputs)):
        return _vowels(name, inputs, split, whole=plain)
    raise problem(
        f"There is no way to feed {data} to the cell {name!r}.",
        received=f"inputs={inputs!r}",
        expected="vectors, matrices and images for the digits; vectors, times, gaps and what is "
        "observed for the Japanese vowels",
        fix="leave the choice of data to the cell, or teach examples/_feed.py its inputs",
    )


def leaves(inputs: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], Shape]]:
    """List the shapes in a structure of inputs, each with the keys that lead to it."""
    if _is_shape(inputs):
        return [(path, inputs)]
    items = inputs.items() if isinstance(inputs, Mapping) else enumerate(inputs)
    return [leaf for key, value in items for leaf in leaves(value, (*path, key))]


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(size, (int, str)) for size in value)


def _replace(inputs: Any, make: Callable[[tuple[Any, ...], Shape], Any], path: Any = ()) -> Any:
    """Return the structure with every shape replaced by what `make(path, shape)` returns."""
    if _is_shape(inputs):
        return make(path, inputs)
    if isinstance(inputs, Mapping):
        return {key: _replace(value, make, (*path, key)) for key, value in inputs.items()}
    return [_replace(value, make, (*path, key)) for key, value in enumerate(inputs)]


def _kind(name: str, path: tuple[Any, ...], shape: Shape, inputs: Any) -> str:
    """Tell what a leaf holds: "data", "observed", "time" or "gap"."""
    key = path[-1] if path else None
    if key in ("observed", "time"):
        return key
    if key == "dt":
        return "gap"
    alone = len(leaves(inputs)) == 1
    return CLOCKS.get(name, "gap") if shape == (1,) and not alone else "data"


# --- digits ------------------------------------------------------------------------------------


def _digits(inputs: Any, split: str) -> Task:
    images, labels = _data.load("digits", split)
    places = [path for path, _ in leaves(inputs)]
    parts = np.array_split(np.arange(images.shape[2]), len(places))

    def make(path: tuple[Any, ...], shape: Shape) -> np.ndarray:
        values = images[:, :, parts[places.index(path)]]
        if len(shape) == 2:
            values = values.reshape(*values.shape[:2], -1, 2)
        elif len(shape) > 2:
            padded = np.pad(values, ((0, 0), (1, 1), (0, 0)))
            steps = values.shape[1]
            values = np.stack([padded[:, t : t + 3] for t in range(steps)], axis=1)
            values = values.reshape(*values.shape, *[1] * (len(shape) - 2))
        return _sized(values, shape)

    return Task("digits", _replace(inputs, make), None, labels, 10)


def _memory(shape: Shape, split: str) -> np.ndarray:
    """Return the rows of the digits, as wide as a memory is; or its mask, by which all count."""
    images, _ = _data.load("digits", split)
    if len(shape) == 1:
        return np.ones(images.shape[:2], "float32")
    return _sized(images, shape[1:])


def _sized(values: np.ndarray, shape: Shape) -> np.ndarray:
    """Repeat or cut axes whose size the spec fixes."""
    for axis, size in enumerate(shape, start=2):
        if isinstance(size, int):
            values = np.take(values, np.arange(size), axis=axis, mode="wrap")
    return values


# --- vowels ------------------------------------------------------------------------------------


def _vowels(name: str, inputs: Any, split: str, whole: bool) -> Task:
    loaded, labels = _data.load("japanese_vowels", split)
    train = loaded if split == "train" else _data.load("japanese_vowels", "train")[0]
    frames = train["values"][_counts(train)]
    values = (loaded["values"] - frames.mean(axis=0)) / frames.std(axis=0)

    random = np.random.default_rng(len(labels))
    kept = _counts(loaded)
    if not whole:
        kept &= random.random(kept.shape) < KEPT
        kept[:, 0] = True
    # The frames that are kept move to the front, in their order.
    order = np.argsort(~kept, axis=1, kind="stable")[:, : kept.sum(axis=1).max()]
    mask = np.take_along_axis(kept, order, axis=1)
    values = np.take_along_axis(values, order[..., None], axis=1) * mask[..., None]
    time = np.maximum.accumulate(np.where(mask, order, 0), axis=1)[..., None].astype("float32")
    gap = np.diff(time, axis=1, prepend=time[:, :1] - 1)  # in frames
    observed = random.random(values.shape) < KEPT

    def make(path: tuple[Any, ...], shape: Shape) -> np.ndarray:
        kind = _kind(name, path, shape, inputs)
        if kind == "observed":
            return observed.astype("float32")
        if kind == "time":
            return time * np.float32(FRAME)
        if kind == "gap":
            return gap if shape == (1,) else _waited(gap, observed)
        if any(p[-1:] == ("observed",) for p, _ in leaves(inputs)):
            return np.where(observed, values, np.float32("nan"))
        return _sized(values, shape)

    return Task("japanese_vowels", _replace(inputs, make), mask, labels, 9)


def _counts(loaded: dict[str, np.ndarray]) -> np.ndarray:
    """Return which steps of the utterances are not padding."""
    return np.arange(loaded["values"].shape[1]) < loaded["lengths"][:, None]


def _waited(gap: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Return how long ago each value was last observed: the d of the GRU-D paper."""
    waited = np.zeros(observed.shape, "float32")
    for t in range(1, waited.shape[1]):
        waited[:, t] = gap[:, t] + np.where(observed[:, t - 1], 0, waited[:, t - 1])
    return waited
