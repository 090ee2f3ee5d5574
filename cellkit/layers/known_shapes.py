"""Structures, shapes and dtypes of a layer's inputs and constants, kept from its first build.

A cell may need its constants while it is built, when sublayers are made by tracing a step. So the
layer keeps what it was built for, and a saved layer is built from that again.
"""

from __future__ import annotations

from typing import Any

import keras

from cellkit.cells.memo import Memo
from cellkit.cells.operations import to_tensor
from cellkit.cells.runner import (
    flatten_shapes,
    map_shapes,
    pack_like_shapes,
    static_shape,
)
from cellkit.typing import Tensor, Tree


def specs_of(constants: Tree, compute_dtype: str) -> Any:
    """Return constants as symbolic tensors of the shapes and dtypes in which a cell gets them."""

    def spec(x: Tensor) -> Any:
        x = to_tensor(x, compute_dtype)
        return keras.KerasTensor(static_shape(x.shape), keras.backend.standardize_dtype(x.dtype))

    return keras.tree.map_structure(spec, constants)


def specs_from_shapes(shapes: Any, dtypes: list[str] | None, compute_dtype: str) -> Any:
    """Return symbolic constants of these shapes.

    Args:
        shapes: A shape, or a structure of shapes.
        dtypes: Dtypes of the leaves. None: the compute dtype.
        compute_dtype: The layer's.
    """
    flat = flatten_shapes(shapes)
    names = dtypes or [compute_dtype] * len(flat)
    leaves = [keras.KerasTensor(s, dtype=d) for s, d in zip(flat, names, strict=True)]
    return pack_like_shapes(shapes, leaves)


def leaves_of_a_step(layer: Any) -> list[tuple[tuple[int | None, ...], str]]:
    """Return shape and dtype of each leaf of one step's inputs, the shape without the batch.

    Args:
        layer: A built layer.
    """
    flat, dtypes = flatten_shapes(layer._memo.get("input_shapes")), layer._memo.get("input_dtypes")
    dtypes = dtypes or [layer.compute_dtype] * len(flat)
    return [(shape[2:], dtype) for shape, dtype in zip(flat, dtypes, strict=True)]


def build_config(memo: Memo) -> dict[str, Any]:
    """Return the shapes that a layer was built for, as they are saved."""
    config = {"sequences_shape": memo.get("input_shapes")}
    constants = memo.get("constants")
    if constants is not None and keras.tree.flatten(constants):
        config["constants_shape"] = keras.tree.map_structure(lambda x: tuple(x.shape), constants)
        config["constants_dtypes"] = [x.dtype for x in keras.tree.flatten(constants)]
    return config


def read_build_config(memo: Memo, config: dict[str, Any], compute_dtype: str) -> Any:
    """Return the shape of the inputs from a saved configuration, and keep what else it says.

    Args:
        memo: Takes the constants.
        config: The result of `build_config`, or what a layer of Keras saved.
        compute_dtype: The layer's.
    """
    shapes = config.get("sequences_shape", config.get("input_shape"))
    if shapes is None:
        shapes = config["shapes_dict"]["sequences_shape"]
    constants = config.get("constants_shape")
    if constants is not None:
        dtypes = config.get("constants_dtypes")
        memo.set("constants", specs_from_shapes(constants, dtypes, compute_dtype))
    return map_shapes(tuple, shapes)
