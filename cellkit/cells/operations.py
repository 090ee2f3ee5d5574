"""Conversions and products that keep to their dtype on every backend."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from cellkit._backends import running
from cellkit.errors import problem
from cellkit.typing import Tensor

BACKEND = running()
"""The backend of this process: Keras has one."""


class _Products(threading.local):
    """The stand-in for products with weights, one for each thread."""

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


def value_of(x: Tensor) -> Tensor:
    """Return the tensor behind `x`, which may be a Keras variable."""
    return x.value if isinstance(x, keras.Variable) else x


def matmul(x: Tensor, kernel: Tensor, columns: slice = slice(None)) -> Tensor:
    """Return ``x @ kernel[:, columns]`` over the last axis of `x`, in the dtype of its operands.

    `keras.ops.matmul` of two float64 tensors gives float32 on Torch, so cells use the backend's
    own operator. NumPy's has no bfloat16, which Keras computes in float32 and rounds.

    Args:
        x: Tensor of shape `(..., n)`.
        kernel: Matrix of shape `(n, m)`: a tensor or a Keras variable.
        columns: The columns to take, all by default. A step that multiplies with a part of a
            variable names it here: the engines that know a product by its variable know it still.

    Returns:
        Tensor of shape `(..., m)`, or with as many columns as were chosen.
    """
    if _products.function is not None and isinstance(kernel, keras.Variable):
        return _products.function(value_of(x), kernel, columns)
    if BACKEND == "numpy":
        return keras.ops.matmul(value_of(x), columns_of(kernel, columns))
    return value_of(x) @ columns_of(kernel, columns)


def columns_of(kernel: Tensor, columns: slice) -> Tensor:
    """Return the tensor behind a matrix, or these columns of it."""
    value = value_of(kernel)
    return value if columns == slice(None) else value[:, columns]


def normalize(x: Tensor, epsilon: float) -> Tensor:
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
    if BACKEND == "torch":
        import torch

        # One operation in the place of seven, and another one in the place of its gradient's. It
        # takes the size as a number, which is none where `torch.jit` traces.
        if not torch.jit.is_tracing() and size:
            normal = torch.nn.functional.layer_norm(wide, (size,), eps=epsilon)
            return keras.ops.cast(normal, dtype)
    return _scaled(wide - keras.ops.sum(wide, axis=-1, keepdims=True) / size, epsilon, dtype)


def rms_normalize(x: Tensor, epsilon: float) -> Tensor:
    """Scale the last axis of `x` to a mean square of one; see `normalize`.

    Args:
        x: Tensor of shape `(..., n)`.
        epsilon: Added to the mean square.

    Returns:
        Tensor of the same shape and dtype.
    """
    dtype = keras.backend.standardize_dtype(x.dtype)
    wide = keras.ops.cast(x, "float32") if dtype in ("float16", "bfloat16") else x
    return _scaled(wide, epsilon, dtype)


def _scaled(x: Tensor, epsilon: float, dtype: str) -> Tensor:
    """Return `x` with a mean square of one over its last axis, in a dtype."""
    square = keras.ops.sum(x * x, axis=-1, keepdims=True) / x.shape[-1]
    return keras.ops.cast(x * keras.ops.rsqrt(square + epsilon), dtype)


def cumsum(x: Tensor, axis: int) -> Tensor:
    """Return `keras.ops.cumsum`, but in the dtype of `x`: Keras' own rounds float64 on Torch."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.cumsum(x, axis)
    return keras.ops.cumsum(x, axis=axis)


def where(condition: Any, x: Tensor, y: Any) -> Tensor:
    """Return `keras.ops.where`, but in the dtype of `x` and `y`: TensorFlow's rounds complex128."""
    if BACKEND == "tensorflow" and x.dtype == y.dtype:
        import tensorflow as tf

        return tf.where(condition, x, y)
    return keras.ops.where(condition, x, y)


def plus(x: Tensor, bias: Any) -> Tensor:
    """Return `x` with a bias added, where there is one.

    Args:
        x: Tensor.
        bias: Weight that `Cell.add_bias` gave, or a part of it; None of a cell without biases.
    """
    return x if bias is None else x + bias


# From here on, the softplus of a number is the number to the last bit.
_FAR = 40.0


def softplus(x: Tensor) -> Tensor:
    """Return `log(1 + exp(x))`, in files as well.

    LiteRT computes Keras' own by an exponential that overflows for numbers beyond 88.

    Args:
        x: Floating tensor.

    Example:
    >>> import keras
    >>> round(float(softplus(keras.ops.convert_to_tensor(100.0))), 3)
    100.0
    """
    if BACKEND != "tensorflow":
        return keras.ops.softplus(x)
    near = keras.ops.softplus(keras.ops.minimum(x, _FAR))
    return where(x > _FAR, x, near)


def log_sigmoid(x: Tensor) -> Tensor:
    """Return the logarithm of the sigmoid of `x`, in files as well.

    Exporters from JAX and PyTorch write Keras' own as the logarithm of a sigmoid, which is that of
    zero where a gate is closed. LiteRT computes an exponential that overflows there.

    Args:
        x: Floating tensor.

    Example:
    >>> import keras
    >>> round(float(log_sigmoid(keras.ops.convert_to_tensor(-30.0))), 3)
    -30.0
    """
    if BACKEND in ("jax", "tensorflow") or (BACKEND == "torch" and _is_exported()):
        return -softplus(-x)
    return keras.ops.log_sigmoid(x)


class _Files(threading.local):
    """Whether a step is computed as it is for a file, for each thread."""

    pretended: bool = False


_files = _Files()


@contextlib.contextmanager
def as_exported() -> Iterator[None]:
    """Compute in here what is computed for a file."""
    before, _files.pretended = _files.pretended, True
    try:
        yield
    finally:
        _files.pretended = before


def _is_exported() -> bool:
    import torch

    if torch.compiler.is_exporting() or torch.jit.is_tracing():
        return True
    return _files.pretended or torch.onnx.is_in_onnx_export()


def precise(activation: Any) -> Any:
    """Return an activation that keeps to float64: Keras' `tanh` rounds to float32 on JAX.

    Args:
        activation: A Keras activation.

    Returns:
        The same function of the same name, for serialisation.
    """
    on_jax = BACKEND == "jax"
    return tanh if on_jax and activation is keras.activations.tanh else activation


def tanh(x: Tensor) -> Tensor:
    """Return the hyperbolic tangent on JAX, in the dtype of `x`."""
    import jax.numpy

    return jax.numpy.tanh(x)


def to_tensor(x: Tensor, compute_dtype: str, dtype: str | None = None) -> Tensor:
    """Convert `x` as Keras does for a layer's inputs: floats take the compute dtype.

    Args:
        x: Tensor, array, nested numbers or `KerasTensor`.
        compute_dtype: The dtype that floating values are cast to.
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


def known(x: Tensor) -> bool:
    """Tell whether the values of a tensor can be read now, outside of any trace."""
    if isinstance(x, keras.KerasTensor):
        return False
    if BACKEND == "jax":
        import jax

        return not isinstance(x, jax.core.Tracer)
    if BACKEND == "torch":
        import torch

        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return False
        return not torch.is_tensor(x) or x.device.type != "meta"
    return BACKEND == "numpy" or not keras.ops.is_tensor(x) or hasattr(x, "numpy")


def numbered(count: Any) -> Any:
    """Return the int32 numbers from 0 to `count`, exclusive.

    Args:
        count: An int, or a size that is not known yet, which not every exporter takes in `arange`.
    """
    if BACKEND == "jax":
        import jax

        return jax.lax.broadcasted_iota("int32", (count,), 0)
    return keras.ops.arange(0, count, dtype="int32")


def split(x: Tensor, parts: int | Sequence[int]) -> list[Any]:
    """Split the last axis of `x` by one operation where there is one, not by slices.

    Args:
        x: Tensor of shape `(..., n)`.
        parts: Number of equal blocks, or the width of each block.
    """
    if isinstance(parts, int):
        return list(keras.ops.split(x, parts, axis=-1))
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return list(tf.split(x, list(parts), axis=-1))
    ends = itertools.accumulate(parts)
    return [x[..., end - width : end] for end, width in zip(ends, parts, strict=True)]
