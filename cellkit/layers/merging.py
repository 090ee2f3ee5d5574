"""Merging of the outputs of the two directions of a `Bidirectional`."""

from __future__ import annotations

from typing import Any

import keras

from cellkit.errors import problem
from cellkit.typing import Tensor


def merge_pair(mode: str, a: Tensor, b: Tensor, sequences: bool) -> Any:
    """Return one output in the place of two.

    Args:
        mode: "sum", "mul", "ave" or "concat".
        a: An output of the forward layer.
        b: The output of the backward layer, its steps in the same order.
        sequences: True if they have a time axis.
    """
    if mode != "concat":
        return _elementwise(mode, a, b)
    if len(a.shape) < (3 if sequences else 2):
        raise problem(
            "Outputs without a feature axis cannot be concatenated.",
            received=f'merge_mode="concat" and an output of shape {tuple(a.shape)}',
            expected="outputs with at least one axis besides batch and time",
            fix="use another merge_mode, or let the cell return shape (batch, 1)",
        )
    joined = keras.ops.concatenate([a, b], axis=-1)
    return _with_dtype(joined, _common_dtype(a, b))


def _elementwise(mode: str, a: Tensor, b: Tensor) -> Any:
    dtype = _common_dtype(a, b)
    if dtype is None:
        merged = keras.ops.multiply(a, b) if mode == "mul" else keras.ops.add(a, b)
        return keras.ops.divide(merged, 2) if mode == "ave" else merged
    # By operators: on TensorFlow `keras.ops` rounds complex128, and takes a tensor without steps
    # for a bias.
    merged = a * b if mode == "mul" else a + b
    return _with_dtype(merged / 2 if mode == "ave" else merged, dtype)


def _common_dtype(a: Tensor, b: Tensor) -> str | None:
    """Return the dtype of two outputs, None if it is not one, floating or complex."""
    dtype = str(keras.backend.standardize_dtype(a.dtype))
    real = keras.backend.is_float_dtype(dtype) or "complex" in dtype
    return dtype if real and dtype == keras.backend.standardize_dtype(b.dtype) else None


def _with_dtype(merged: Any, dtype: str | None) -> Any:
    """Correct a symbolic tensor: Keras says float32 for what is float64 on Torch."""
    if dtype is None or not isinstance(merged, keras.KerasTensor):
        return merged
    return keras.KerasTensor(merged.shape, dtype=dtype)
