"""Strategies of the property tests: values, masks, states, options and splits.

An `Example` is small and printable: arrays are named by a seed and a kind of values, masks are
written out. A shrunk example is therefore the report, and drawing one costs next to nothing.

Shapes are not drawn freely. Every new (batch, time) costs a compilation on JAX, so a check names a
few and the property tests vary everything else inside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle, islice
from typing import Any

import numpy as np

Mask = tuple[tuple[bool, ...], ...]

VALUES = ("normal", "small", "sparse", "signs")
"""Kinds of values: standard normal; a thousandth of it; mostly exact zeros; only -1 and 1."""

PLAIN = "plain"
"""The kind that is never drawn: rounded, as are the weights then, so that a program stays short."""

MASKS = (
    "none",
    "all_true",
    "right",
    "left",
    "interior",
    "alternating",
    "one_row_masked",
    "all_masked",
    "any",
)
"""Kinds of masks. right and left mean the side of the padding."""

PADDED = tuple(kind for kind in MASKS if kind not in {"none", "all_true"})
"""Kinds of masks that mask something."""

EVERY = ("every_1", "every_2", "every_3")
"""Kinds of masks that together hold, in three rows of three steps, all eight masks of a row."""

MIXED = {
    "mixed_1": ("right", "left", "interior"),
    "mixed_2": ("alternating", "any", "all_masked"),
}
"""Kinds of masks whose rows are of other kinds: rows are independent, so one run does for three."""


@dataclass(frozen=True)
class Example:
    """One drawn case of a property.

    Attributes:
        batch: B.
        time: T.
        values: The kind of values, one of `VALUES`.
        seed: Of the values of inputs and initial states.
        weights: Of the weights.
        initial_state: True if a random initial state is passed.
        mask: (B, T) of bools, or None for no mask.
        kind: The kind of mask, one of `MASKS`.
        options: The layer's options.
        split: The lengths of the chunks, where a check runs in chunks.
    """

    batch: int
    time: int
    values: str = "normal"
    seed: int = 0
    weights: int = 0
    initial_state: bool = False
    mask: Mask | None = None
    kind: str = "none"
    options: Mapping[str, Any] = field(default_factory=dict)
    split: tuple[int, ...] = ()

    def mask_array(self) -> np.ndarray | None:
        """Give the mask as a bool array of shape (B, T), or None."""
        return None if self.mask is None else np.array(self.mask, dtype=bool)

    @property
    def own_mask(self) -> np.ndarray:
        """The mask of an example of a space where all have one."""
        mask = self.mask_array()
        if mask is None:
            raise ValueError(f"an example of kind {self.kind!r} has no mask")
        return mask

    def describe(self) -> dict[str, Any]:
        """Give the example as plain data for reports; what is at its default is left out."""
        data = {key: value for key, value in asdict(self).items() if value not in (None, (), {})}
        if self.mask is not None:
            data["mask"] = ["".join("01"[bit] for bit in row) for row in self.mask]
        if self.split:
            data["split"] = list(self.split)
        return data

    @classmethod
    def from_description(cls, data: Mapping[str, Any]) -> Example:
        """Make the example again.

        Args:
            data: The result of `describe`.
        """
        given = dict(data)
        if "mask" in given:
            given["mask"] = tuple(tuple(bit == "1" for bit in row) for row in given["mask"])
        return cls(**{**given, "split": tuple(given.get("split", ()))})


@dataclass(frozen=True)
class Space:
    """Space in which the examples of one property vary.

    Attributes:
        shapes: The (batch, time) pairs.
        masks: Kinds of masks.
        initial_states: True if a random initial state is passed.
        options: Sets of layer options.
        splits: Ways to cut the sequence; each must sum to the time of every shape.
        values: Kinds of values.
        weight_sets: Number of sets of random weights.
        crossed: True if the edges show every kind of mask to every set of options.
    """

    shapes: Sequence[tuple[int, int]] = ((3, 5),)
    masks: Sequence[str] = ("none",)
    initial_states: Sequence[bool] = (False, True)
    options: Sequence[Mapping[str, Any]] = ({},)
    splits: Sequence[tuple[int, ...]] = ((),)
    values: Sequence[str] = VALUES
    weight_sets: int = 3
    crossed: bool = False


def edges(space: Space, seed: int = 0) -> list[Example]:
    """List examples that reach every entry of every dimension of a space at least once.

    Drawing at random may miss a kind of mask in a short run, so these run first, always.

    Args:
        space: The dimensions of the examples.
        seed: Of the values and of the masks.

    Returns:
        As many examples as the longest dimension has entries, or pairs where it is crossed.
    """
    rng = np.random.default_rng([seed, 7])
    count = max(
        len(entries) for entries in (space.shapes, space.masks, space.initial_states, space.options)
    )
    count = max(count, len(space.splits), space.weight_sets)
    crossed = [(mask, option) for option in space.options for mask in space.masks]
    if space.crossed:
        count = max(count, len(crossed))
    # Where every dimension has the same number of entries they would run in step, and a mask would
    # meet one set of options only; a shuffle per dimension mixes them and stays deterministic.
    dims: list[list[Any]] = [
        list(islice(cycle(_shuffled(entries, rng)), count))
        for entries in (
            space.shapes,
            space.masks,
            space.initial_states,
            space.options,
            space.splits,
            space.values,
        )
    ]
    if space.crossed:
        pairs = list(islice(cycle(_shuffled(crossed, rng)), count))
        dims[1], dims[3] = [mask for mask, _ in pairs], [option for _, option in pairs]
    found = []
    for i, (shape, kind, states, options, split, values) in enumerate(zip(*dims, strict=True)):
        (batch, time), weights = shape, i % space.weight_sets
        drawn = (values, seed + i, weights, states, _mask(kind, batch, time, rng))
        found.append(Example(batch, time, *drawn, kind, options, split))
    return found


def sample(space: Space, count: int, seed: int = 0) -> list[Example]:
    """Draw examples of a space with NumPy, where they are too few to search for any.

    Args:
        space: The dimensions of the examples.
        count: Number of examples.
        seed: Of all that is drawn.

    Returns:
        The examples; `drawing.examples` draws from the same space.
    """
    rng = np.random.default_rng([seed, 13])

    def one_of(entries: Sequence[Any]) -> Any:
        return entries[int(rng.integers(len(entries)))]

    found = []
    for _ in range(count):
        (batch, time), kind = one_of(space.shapes), one_of(space.masks)
        found.append(
            Example(
                batch,
                time,
                values=one_of(space.values),
                seed=int(rng.integers(2**16)),
                weights=int(rng.integers(space.weight_sets)),
                initial_state=one_of(space.initial_states),
                mask=_mask(kind, batch, time, rng),
                kind=kind,
                options=one_of(space.options),
                split=one_of(space.splits),
            )
        )
    return found


def _shuffled(entries: Sequence[Any], rng: np.random.Generator) -> list[Any]:
    return [entries[int(i)] for i in rng.permutation(len(entries))]


def _mask(kind: str, batch: int, time: int, rng: np.random.Generator) -> Mask | None:
    """Make a mask of one kind by the same rules as `drawing.masks`, with NumPy drawing."""
    rows = np.ones((batch, time), dtype=bool)
    if kind == "none":
        return None
    if kind in MIXED:
        kinds = islice(cycle(MIXED[kind]), batch)
        return tuple(row for one in kinds for row in _mask(one, 1, time, rng) or ())
    if kind in EVERY:
        rows = every(kind, batch, time)
    elif kind == "all_masked":
        rows[:] = False
    elif kind == "alternating":
        rows = (np.arange(time)[None] + np.arange(batch)[:, None]) % 2 == 1
    elif kind == "one_row_masked":
        rows[int(rng.integers(batch))] = False
    elif kind == "any":
        rows = rng.random((batch, time)) < 0.5
    elif kind == "interior" and time >= 3:
        for row in rows:
            start = int(rng.integers(1, time - 1))
            row[start : int(rng.integers(start + 1, time))] = False
    elif kind in {"left", "right"}:
        for row in rows:
            padding = int(rng.integers(min(1, time - 1), time))
            row[slice(time - padding, time) if kind == "right" else slice(0, padding)] = False
    return tuple(tuple(bool(bit) for bit in row) for row in rows)


def every(kind: str, batch: int, time: int) -> np.ndarray:
    """Give every row the next mask: a number whose bits are the steps.

    Args:
        kind: One of `EVERY`.
        batch: B.
        time: T.
    """
    numbers = np.arange(batch) + EVERY.index(kind) * batch
    return (numbers[:, None] >> np.arange(time)) % 2 == 1


def draw_values(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Make float32 values of one kind; float32, so that the reference sees the same numbers.

    Args:
        kind: One of `VALUES`, or `PLAIN`.
        shape: Of the array.
        rng: Generator of the values.

    Returns:
        The array.
    """
    values = rng.standard_normal(shape)
    if kind == "small":
        values = values * 1e-3
    elif kind == "sparse":
        values = values * (rng.random(shape) < 0.3)
    elif kind == "signs":
        values = np.sign(values)
    elif kind == PLAIN:
        values = np.round(values, 1) + 0  # which makes 0. of -0.
    return values.astype(np.float32)
