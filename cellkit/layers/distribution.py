"""Weights divided between devices: a layout map for `keras.distribution.ModelParallel`."""

from __future__ import annotations

import re
from typing import Any

import keras

from cellkit.errors import problem

__all__ = ["layout_map"]


def layout_map(model: Any, mesh: Any, axis: str = "model") -> Any:
    """Return how the weights of a model are divided between the devices of a mesh.

    Matrices, kernels of convolutions among them, are cut along their last axis where its size is a
    multiple of the number of devices along `axis`; vectors and what cannot be cut are kept whole on
    every device. Results are the same either way. Keras divides weights on JAX.

    Args:
        model: A built model, or a built layer: one like it is made once the distribution is set. Of
            its paths the numbers that Keras appends to names count for nothing.
        mesh: A `keras.distribution.DeviceMesh`.
        axis: The name of the mesh's axis along which weights are divided.

    Returns:
        A `keras.distribution.LayoutMap`.

    Raises:
        ValueError: If the model is not built, or the mesh has no such axis.

    Example:
        ```python
        mesh = keras.distribution.DeviceMesh((1, 2), ("batch", "model"), devices)
        layouts = cellkit.layout_map(make_model(), mesh)
        distribution = keras.distribution.ModelParallel(
            layout_map=layouts, batch_dim_name="batch"
        )
        keras.distribution.set_distribution(distribution)
        model = make_model()  # its kernels are divided
        ```
    """
    if axis not in mesh.axis_names:
        raise problem(
            "The mesh has no axis of this name.",
            received=f"axis={axis!r} and a mesh with the axes {list(mesh.axis_names)}",
            expected="the axis of the mesh along which weights are divided",
            fix=f"pass axis={mesh.axis_names[-1]!r}, or make a mesh with an axis {axis!r}",
        )
    if not model.built or not model.weights:
        raise problem(
            "Nothing is known of the weights of a model that is not built.",
            received=f"{type(model).__name__} {model.name!r}, without weights",
            expected="a built model",
            fix="build it first: give it a `keras.Input`, or call it on data",
        )
    parts = mesh.shape[mesh.axis_names.index(axis)]
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for variable in model.trainable_weights:
        shapes.setdefault(_pattern(variable.path), []).append(tuple(variable.shape))
    layouts = keras.distribution.LayoutMap(mesh)
    for pattern, found in shapes.items():
        ranks = {len(shape) for shape in found}
        if min(ranks) > 1 and len(ranks) == 1 and all(s[-1] % parts == 0 for s in found):
            layouts[pattern] = (*[None] * (min(ranks) - 1), axis)
    return layouts


def _pattern(path: str) -> str:
    """Return a pattern for a path, whatever numbers Keras appends to names."""
    names = [re.sub(r"_\d+$", "", name) for name in path.split("/")]
    return "/".join(rf"{re.escape(name)}(_\d+)?" for name in names)
