"""The functions of equations on tensors, by the backend's own operations.

Keras' operations round float64 to float32 here and there (means and sums on Torch and JAX, the
cosine on JAX), and turn numbers into float32 tensors first. The backends' own do neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from cellkit._backends import running
from cellkit.cells import normalize, split

__all__ = [
    "FUNCTIONS",
    "broadcast",
    "cast",
    "concatenate",
    "elementwise",
    "normalize",
    "number",
    "repeat",
    "split",
    "where",
]

Function = Callable[..., Any]


def _torch() -> dict[str, Function]:
    import torch
    from torch.nn import functional

    return {
        "sigmoid": torch.sigmoid,
        "relu": torch.relu,
        "exp": torch.exp,
        "log": torch.log,
        "sqrt": torch.sqrt,
        "abs": torch.abs,
        "sin": torch.sin,
        "cos": torch.cos,
        "softplus": _softplus,
        "logsigmoid": lambda x: -_softplus(-x),
        "log1p": torch.log1p,
        "expm1": torch.expm1,
        "square": lambda x: x * x,
        "sign": torch.sign,
        "floor": torch.floor,
        "softsign": functional.softsign,
        "silu": functional.silu,
        "hard_sigmoid": lambda x: torch.clamp(x / 6 + 0.5, 0, 1),
        "elu": lambda x: torch.where(x > 0, x, torch.expm1(torch.clamp(x, max=0))),
        "maximum": torch.maximum,
        "minimum": torch.minimum,
        "mod": torch.remainder,
        "softmax": lambda x: torch.softmax(x, -1),
        "cumsum": lambda x: torch.cumsum(x, -1),
        "mean": lambda x: torch.mean(x, -1, keepdim=True),
        "sum": lambda x: torch.sum(x, -1, keepdim=True),
        "max": lambda x: torch.amax(x, -1, keepdim=True),
        "min": lambda x: torch.amin(x, -1, keepdim=True),
        "where": torch.where,
        "concatenate": lambda parts: torch.cat(parts, -1),
        "repeat": lambda x, n: torch.repeat_interleave(x, n, -1),
        "zeros_like": torch.zeros_like,
    }


def _jax() -> dict[str, Function]:
    import jax
    from jax import numpy

    return {
        "sigmoid": jax.nn.sigmoid,
        "relu": jax.nn.relu,
        "exp": numpy.exp,
        "log": numpy.log,
        "sqrt": numpy.sqrt,
        "abs": numpy.abs,
        "sin": numpy.sin,
        "cos": numpy.cos,
        "softplus": _softplus,
        "logsigmoid": lambda x: -_softplus(-x),
        "log1p": numpy.log1p,
        "expm1": numpy.expm1,
        "square": lambda x: x * x,
        "sign": numpy.sign,
        "floor": numpy.floor,
        "softsign": jax.nn.soft_sign,
        "silu": jax.nn.silu,
        "hard_sigmoid": lambda x: numpy.clip(x / 6 + 0.5, 0, 1),
        "elu": lambda x: numpy.where(x > 0, x, numpy.expm1(numpy.minimum(x, 0))),
        "maximum": numpy.maximum,
        "minimum": numpy.minimum,
        "mod": numpy.mod,
        "softmax": lambda x: jax.nn.softmax(x, -1),
        "cumsum": lambda x: numpy.cumsum(x, -1),
        "mean": lambda x: numpy.mean(x, -1, keepdims=True),
        "sum": lambda x: numpy.sum(x, -1, keepdims=True),
        "max": lambda x: numpy.max(x, -1, keepdims=True),
        "min": lambda x: numpy.min(x, -1, keepdims=True),
        "where": numpy.where,
        "concatenate": lambda parts: numpy.concatenate(parts, -1),
        "repeat": lambda x, n: numpy.repeat(x, n, -1),
        "zeros_like": numpy.zeros_like,
    }


def _tensorflow() -> dict[str, Function]:
    import tensorflow

    math = tensorflow.math
    return {
        "sigmoid": math.sigmoid,
        "relu": tensorflow.nn.relu,
        "exp": math.exp,
        "log": math.log,
        "sqrt": math.sqrt,
        "abs": math.abs,
        "sin": math.sin,
        "cos": math.cos,
        "softplus": _softplus,
        "logsigmoid": lambda x: -_softplus(-x),
        "log1p": math.log1p,
        "expm1": math.expm1,
        "square": lambda x: x * x,
        "sign": math.sign,
        "floor": math.floor,
        "softsign": math.softsign,
        "silu": lambda x: x * math.sigmoid(x),
        "hard_sigmoid": lambda x: tensorflow.clip_by_value(x / 6 + 0.5, 0, 1),
        "elu": lambda x: tensorflow.where(x > 0, x, math.expm1(math.minimum(x, 0))),
        "maximum": math.maximum,
        "minimum": math.minimum,
        "mod": math.floormod,
        "softmax": lambda x: tensorflow.nn.softmax(x, -1),
        "cumsum": lambda x: math.cumsum(x, -1),
        "mean": lambda x: math.reduce_mean(x, -1, keepdims=True),
        "sum": lambda x: math.reduce_sum(x, -1, keepdims=True),
        "max": lambda x: math.reduce_max(x, -1, keepdims=True),
        "min": lambda x: math.reduce_min(x, -1, keepdims=True),
        "where": tensorflow.where,
        "concatenate": lambda parts: tensorflow.concat(parts, -1),
        "repeat": lambda x, n: tensorflow.repeat(x, n, -1),
        "zeros_like": tensorflow.zeros_like,
    }


def _keras() -> dict[str, Function]:
    """Return the functions by Keras' operations, which round nothing where NumPy computes them."""
    ops = keras.ops
    elementwise = (
        "sigmoid relu exp log sqrt abs sin cos softplus log1p expm1 square sign floor maximum "
        "minimum mod where zeros_like"
    )
    return {
        **{name: getattr(ops, name) for name in elementwise.split()},
        "logsigmoid": ops.log_sigmoid,
        "softsign": lambda x: x / (1 + ops.abs(x)),
        "silu": lambda x: x * ops.sigmoid(x),
        "hard_sigmoid": lambda x: ops.clip(x / 6 + 0.5, 0, 1),
        "elu": lambda x: ops.where(x > 0, x, ops.expm1(ops.minimum(x, 0))),
        "softmax": lambda x: ops.softmax(x, axis=-1),
        "cumsum": lambda x: ops.cumsum(x, axis=-1),
        "mean": lambda x: ops.mean(x, axis=-1, keepdims=True),
        "sum": lambda x: ops.sum(x, axis=-1, keepdims=True),
        "max": lambda x: ops.max(x, axis=-1, keepdims=True),
        "min": lambda x: ops.min(x, axis=-1, keepdims=True),
        "concatenate": lambda parts: ops.concatenate(parts, axis=-1),
        "repeat": lambda x, n: ops.repeat(x, n, axis=-1),
    }


def _softplus(x: Any) -> Any:
    """Return ``log(1 + exp(x))``, to the last digit for large x of either sign."""
    f = FUNCTIONS
    return f["relu"](x) + f["log1p"](f["exp"](-f["abs"](x)))


# Keras has one backend per process.
FUNCTIONS: dict[str, Function] = {
    "torch": _torch,
    "jax": _jax,
    "tensorflow": _tensorflow,
}.get(running(), _keras)()


def _var(x: Any) -> Any:
    """Return the variance of the last axis, the biased one."""
    centred = x - FUNCTIONS["mean"](x)
    return FUNCTIONS["mean"](centred * centred)


FUNCTIONS["var"] = _var


def cast(condition: Any, dtype: str) -> Any:
    """Return one where a condition holds, else zero."""
    return keras.ops.cast(condition, dtype)


def where(condition: Any, yes: Any, no: Any, dtype: str) -> Any:
    """Choose between two values, of which either may be a number.

    Args:
        condition: True where `yes` is taken.
        yes: A tensor or a number.
        no: A tensor or a number.
        dtype: That of the tensors.
    """
    return FUNCTIONS["where"](condition, number(yes, dtype), number(no, dtype))


def number(x: Any, dtype: str) -> Any:
    """Return a number as a tensor; a tensor stays what it is."""
    return keras.ops.convert_to_tensor(x, dtype=dtype) if isinstance(x, (int, float)) else x


def elementwise(name: str, args: Sequence[Any], dtype: str) -> Any:
    """Return a function of two or more tensors, of which some may be numbers."""
    tensors = [number(x, dtype) for x in args]
    total = tensors[0]
    for x in tensors[1:]:
        total = FUNCTIONS[name](total, x)
    return total


def concatenate(parts: Sequence[Any], like: Any) -> Any:
    """Put vectors one after the other.

    Args:
        parts: Tensors of shape `(batch, n)`, or `(n,)` where all rows share one.
        like: A tensor with the rows.
    """
    rows = [p if len(p.shape) > 1 else broadcast(p, like, p.shape[0], "") for p in parts]
    return FUNCTIONS["concatenate"](rows)


def repeat(x: Any, count: int) -> Any:
    """Return a vector with each element `count` times beside itself."""
    return FUNCTIONS["repeat"](x, count)


def broadcast(x: Any, like: Any, size: int, dtype: str) -> Any:
    """Return a number, or a vector that all rows share, as a tensor `(batch, size)`.

    Args:
        x: The number or vector.
        like: A tensor with the rows.
        size: The size.
        dtype: The dtype of a number.
    """
    x = number(x, dtype)
    return keras.ops.broadcast_to(x, (keras.ops.shape(like)[0], size))
