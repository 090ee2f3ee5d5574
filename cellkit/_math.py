"""Products that keep their dtype on every backend."""

from __future__ import annotations

from typing import Any

import keras


def value_of(x: Any) -> Any:
    """Return the tensor behind `x`, which may be a Keras variable."""
    return x.value if isinstance(x, keras.Variable) else x


def matmul(x: Any, kernel: Any) -> Any:
    """Return ``x @ kernel`` over the last axis of `x`, in the dtype of its operands.

    `keras.ops.matmul` of two float64 tensors gives float32 on Torch, so cells use the backend's
    own operator.

    Args:
        x: Tensor of shape `(..., n)`.
        kernel: Matrix of shape `(n, m)`: a tensor or a Keras variable.

    Returns:
        Tensor of shape `(..., m)`.
    """
    return value_of(x) @ value_of(kernel)
