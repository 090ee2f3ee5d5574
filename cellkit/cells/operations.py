"""Conversions and products that keep to their dtype on every backend."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from cellkit.errors import problem


class _Products(threading.local):
    """What stands in for products with weights in each thread."""

    function: Callable[[Any, Any, slice], Any] | None = None


_products = _Products()


@contextlib.contextmanager
def matmul_as(function: Callable[[Any, Any, slice], Any]) -> Iterator[None]:
    """Let `function` compute every `matmul` with a weight in here.

    For engines that differentiate the products of a step in their own way.

    Args:
        function: Takes the tensor, the Keras variable and which of its columns, and returns their
            product.
    """
    outer, _products.function = _products.function, function
    try:
        yield
    finally:
        _products.function = outer


def value_of(x: Any) -> Any:
    """Return the tensor behind `x`, which may be a Keras variable."""
    return x.value if isinstance(x, keras.Variable) else x


def matmul(x: Any, kernel: Any, columns: slice = slice(None)) -> Any:
    """Return ``x @ kernel[:, columns]`` over the last axis of `x`, in the dtype of its operands.

    `keras.ops.matmul` of two float64 tensors gives float32 on Torch, so cells use the backend's
    own operator.

    Args:
        x: Tensor of shape `(..., n)`.
        kernel: Matrix of shape `(n, m)`: a tensor or a Keras variable.
        columns: Which of its columns, all by default. A step that multiplies with a part of a
            variable names it here: the engines that know a product by its variable know it still.

    Returns:
        Tensor of shape `(..., m)`, or with as many columns as were chosen.
    """
    if _products.function is not None and isinstance(kernel, keras.Variable):
        return _products.function(value_of(x), kernel, columns)
    return value_of(x) @ columns_of(kernel, columns)


def columns_of(kernel: Any, columns: slice) -> Any:
    """Return the tensor behind a matrix, or these columns of it."""
    value = value_of(kernel)
    return value if columns == slice(None) else value[:, columns]


def normalize(x: Any, epsilon: float) -> Any:
    """Shift and scale the last axis of `x` to mean zero and variance one.

    Written out with sums, because Keras' own `mean` and `var` of float64 round to float32 on Torch
    and JAX. Narrower floats are summed in float32.

    Args:
        x: Tensor of shape `(..., n)`.
        epsilon: Added to the variance (the biased one).

    Returns:
        Tensor of the same shape and dtype.
    """
    dtype, size = keras.backend.standardize_dtype(x.dtype), x.shape[-1]
    wide = keras.ops.cast(x, "float32") if dtype in ("float16", "bfloat16") else x
    if keras.backend.backend() == "torch" and size:
        import torch

        # One operation in the place of seven, and another one in the place of its gradient's.
        normal = torch.nn.functional.layer_norm(wide, (size,), eps=epsilon)
        return keras.ops.cast(normal, dtype)
    centred = wide - keras.ops.sum(wide, axis=-1, keepdims=True) / size
    variance = keras.ops.sum(centred * centred, axis=-1, keepdims=True) / size
    return keras.ops.cast(centred * keras.ops.rsqrt(variance + epsilon), dtype)


def where(condition: Any, x: Any, y: Any) -> Any:
    """Return `keras.ops.where`, but in the dtype of `x` and `y`: TensorFlow's rounds complex128."""
    if keras.backend.backend() == "tensorflow" and x.dtype == y.dtype:
        import tensorflow as tf

        return tf.where(condition, x, y)
    return keras.ops.where(condition, x, y)


def precise(activation: Any) -> Any:
    """Return an activation that keeps to float64: Keras' `tanh` rounds to float32 on JAX.

    Args:
        activation: A Keras activation.

    Returns:
        The same function of the same name, for serialisation.
    """
    on_jax = keras.backend.backend() == "jax"
    return tanh if on_jax and activation is keras.activations.tanh else activation


def tanh(x: Any) -> Any:
    """Return the hyperbolic tangent on JAX, in the dtype of `x`."""
    import jax.numpy

    return jax.numpy.tanh(x)


def to_tensor(x: Any, compute_dtype: str, dtype: str | None = None) -> Any:
    """Convert `x` as Keras does for a layer's inputs: floats take the compute dtype.

    Args:
        x: Tensor, array, nested numbers or `KerasTensor`.
        compute_dtype: What floating values are cast to.
        dtype: A certain dtype instead.
    """
    if x is None or isinstance(x, keras.KerasTensor):
        return x
    if not keras.ops.is_tensor(x):
        array = x if hasattr(x, "dtype") else np.asarray(x)
        if getattr(array.dtype, "kind", "f") not in "biufcV":  # V: bfloat16
            raise problem(
                "An input is not made of numbers.",
                received=f"a {type(x).__name__} that becomes an array of dtype {array.dtype}",
                expected="a tensor, an array, or nested lists of numbers of one length",
                fix="convert it to an array of numbers first",
            )
        x = keras.ops.convert_to_tensor(array)
    have = keras.backend.standardize_dtype(x.dtype)
    want = dtype or (compute_dtype if keras.backend.is_float_dtype(have) else have)
    return x if have == want else keras.ops.cast(x, want)


def known(x: Any) -> bool:
    """Tell whether the values of a tensor can be read now, outside of any trace."""
    if isinstance(x, keras.KerasTensor):
        return False
    if keras.backend.backend() == "jax":
        import jax

        return not isinstance(x, jax.core.Tracer)
    if keras.backend.backend() == "torch":
        import torch

        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return False
        return not torch.is_tensor(x) or x.device.type != "meta"
    return not keras.ops.is_tensor(x) or hasattr(x, "numpy")


def split(x: Any, parts: int | Sequence[int]) -> list[Any]:
    """Split the last axis of `x` by one operation where there is one, not by slices.

    Args:
        x: Tensor of shape `(..., n)`.
        parts: Number of equal blocks, or the width of each block.
    """
    if isinstance(parts, int):
        return list(keras.ops.split(x, parts, axis=-1))
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return list(tf.split(x, list(parts), axis=-1))
    ends = itertools.accumulate(parts)
    return [x[..., end - width : end] for end, width in zip(ends, parts, strict=True)]
