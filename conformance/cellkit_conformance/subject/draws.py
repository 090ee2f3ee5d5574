"""Numbers for a cell: the sizes of its inputs, and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cellkit_conformance.subject import backend
from cellkit_conformance.trees import Tree, map_shapes

SIZES = (3, 2, 4, 5, 6, 7)
"""Sizes of symbolic dimensions in order of appearance, all different: none hides another."""


def short(array: np.ndarray) -> np.ndarray:
    """Round to two digits behind the point, and small numbers so that they do not become zero."""
    if array.dtype.kind != "f":
        return array
    small = np.array([float(f"{value:.1g}") for value in array.ravel()]).reshape(array.shape)
    return np.where(np.abs(array) < 0.1, small, np.round(array, 2)).astype(array.dtype)


def narrow(array: np.ndarray) -> np.ndarray:
    """Bring the oracle's float64 back to the layer's dtype, for the cell as its own reference."""
    array = np.asarray(array)
    if array.dtype == np.float64:
        return array.astype(np.float32)
    return array.astype(np.complex64) if array.dtype == np.complex128 else array


def concrete_shapes(inputs: Tree, dims: Mapping[str, Any]) -> Tree:
    """Give every symbolic dimension a size of its own; the spec may pin or restrict one."""
    sizes: dict[str, int] = {}
    free = iter(SIZES * 4)

    def concrete(shape: tuple[Any, ...]) -> tuple[int, ...]:
        for dim in shape:
            if isinstance(dim, str) and dim not in sizes:
                pinned = dims.get(dim)
                sizes[dim] = next(free) if pinned is None else _first(pinned)
        return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in shape)

    return map_shapes(concrete, inputs)


def _first(pinned: Any) -> int:
    return int(pinned) if isinstance(pinned, int) else int(pinned[0])


def random_weight(start: np.ndarray, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Draw a weight around the value that it starts from; what starts with a sign keeps it."""
    noise = scale * np.clip(rng.standard_normal(start.shape), -2, 2)
    if start.size == 0:
        return start
    if np.all(start == start.flat[0]):
        drawn = start + 0.4 * noise
        if np.any(
            drawn * start < 0
        ):  # small, as a time constant may be: near zero it would be dead
            drawn = np.sign(start) * (0.25 * np.abs(start) + np.abs(0.75 * start + 0.4 * noise))
        return drawn.astype(start.dtype)
    fan_in = max(1, int(np.prod(start.shape[:-1]))) if start.ndim > 1 else 1
    values = noise * (1.2 / np.sqrt(fan_in))
    if start.min() > 0 or start.max() < 0:
        values = np.sign(start) * (np.abs(values) + 0.1)
    return values.astype(start.dtype)


def constrained(variable: Any, value: np.ndarray) -> np.ndarray:
    """Apply the constraint of a variable to a value."""
    constraint = getattr(variable, "constraint", None)
    if constraint is None:
        return value
    return np.asarray(backend.to_numpy(constraint(backend.to_tensor(value))))
