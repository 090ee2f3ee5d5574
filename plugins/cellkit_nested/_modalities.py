"""The modalities of a cell with nested inputs: their names, shapes and order."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import keras

from cellkit.errors import problem


@dataclasses.dataclass(frozen=True)
class Modality:
    """One leaf of the inputs of one time step.

    Args:
        path: Keys and positions that lead to it, e.g. `("wrist", 0)`; `()` for a lone tensor.
        shape: Shape without the batch axis.
    """

    path: tuple[Any, ...]
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """The path in one word, for the names of weights."""
        return "_".join(str(key).replace("/", "_") for key in self.path) or "input"

    @property
    def size(self) -> int:
        """Number of values per row."""
        return math.prod(self.shape)


def modalities(cell: keras.layers.Layer, input_shape: Any) -> list[Modality]:
    """Return the modalities of a step, in the order in which Keras flattens its inputs.

    Args:
        cell: The cell, for error texts.
        input_shape: Shapes `(batch, ...)` in the structure of the inputs.

    Raises:
        ValueError: If a modality has no axis beside the batch, or one of unknown size.
    """
    found = [leaf.modality for leaf in keras.tree.flatten(_with_leaves(input_shape, ()))]
    for m in found:
        if not m.shape or None in m.shape:
            raise problem(
                f"An input of {type(cell).__name__} has no known shape.",
                received=f"one step of {listed([m])}",
                expected="(batch, size, ...) with every size known, so (batch, time, size, ...) "
                "for the layer",
                fix="give single numbers an axis of size 1, e.g. `x[..., None]`, and name the "
                "sizes in `keras.Input(shape=(None, size))`",
            )
    return found


def flatten(cell: keras.layers.Layer, inputs: Any, expected: list[Modality]) -> list[Any]:
    """Return the tensors of one step, in the order of the modalities that the cell was built for.

    Raises:
        ValueError: If they are others than those.
    """
    leaves = keras.tree.flatten(inputs)
    shapes = [tuple(x.shape[1:]) for x in leaves]
    if shapes != [m.shape for m in expected]:
        raise problem(
            f"The inputs do not fit the ones that {type(cell).__name__} was built for.",
            received=", ".join(map(_shape, shapes)) or "nothing",
            expected=listed(expected),
            fix="pass the modalities in the same structure and shapes, or make a new cell",
        )
    return leaves


def listed(found: list[Modality]) -> str:
    """Write modalities with their shapes, for an error text."""
    return ", ".join(f"{m.name}: {_shape(m.shape)}" for m in found) or "nothing"


def _shape(shape: tuple[int | None, ...]) -> str:
    return f"({', '.join(['batch', *map(str, shape)])})"


class _Leaf:
    """A modality as one leaf: `keras.tree` would descend into its shape."""

    def __init__(self, modality: Modality) -> None:
        self.modality = modality


def _with_leaves(shapes: Any, path: tuple[Any, ...]) -> Any:
    # Paths are made here: `keras.tree.flatten_with_path` mixes up those of namedtuples and ordered
    # dicts on Torch (Keras 3.15.1).
    if isinstance(shapes, Mapping):
        return type(shapes)((key, _with_leaves(v, (*path, key))) for key, v in shapes.items())
    if all(size is None or isinstance(size, int) for size in shapes):
        return _Leaf(Modality(path, tuple(shapes[1:])))
    return [_with_leaves(v, (*path, i)) for i, v in enumerate(shapes)]
