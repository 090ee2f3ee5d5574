"""Complex states, whose weights are real: a pair of numbers, side by side."""

from __future__ import annotations

import random
from typing import Any

import keras
import numpy as np

from cellkit.errors import problem


def to_complex(pairs: Any) -> Any:
    """Return `(..., 2 n)` real numbers, the parts of each number in turn, as `(..., n)` complex.

    `keras.ops.view_as_complex` rounds float64 to complex64.
    """
    shape = tuple(keras.ops.shape(pairs))
    pairs = keras.ops.reshape(pairs, (*shape[:-1], shape[-1] // 2, 2))
    if keras.backend.backend() == "torch":
        import torch

        return torch.view_as_complex(pairs.contiguous())
    return join(*keras.ops.unstack(pairs, axis=-1))


def join(real: Any, imaginary: Any) -> Any:
    """Return the complex number of two real ones."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.complex(real, imaginary)
    if keras.backend.backend() == "tensorflow":
        import tensorflow

        return tensorflow.complex(real, imaginary)
    if keras.backend.backend() == "numpy":
        return real + 1j * imaginary
    import jax

    return jax.lax.complex(real, imaginary)


def cos(x: Any) -> Any:
    """Return the cosine; Keras' own rounds float64 to float32 on JAX."""
    return _own("cos")(x)


def sin(x: Any) -> Any:
    """Return the sine; see `cos`."""
    return _own("sin")(x)


def _own(name: str) -> Any:
    if keras.backend.backend() != "jax":
        return getattr(keras.ops, name)
    import jax.numpy

    return getattr(jax.numpy, name)


def to_pairs(x: Any) -> Any:
    """Return `(..., n)` complex numbers as `(..., 2 n)` real ones; see `to_complex`."""
    pairs = keras.ops.stack([keras.ops.real(x), keras.ops.imag(x)], axis=-1)
    shape = tuple(keras.ops.shape(x))
    return keras.ops.reshape(pairs, (*shape[:-1], 2 * shape[-1]))


def complex_dtype(cell: Any) -> str:
    """Return the dtype of a cell's complex states, which are never narrower than complex64."""
    return "complex128" if cell.accumulator_dtype == "float64" else "complex64"


def columns(kernel: Any) -> Any:
    """Return the complex matrix of a real one with pairs of columns, in NumPy."""
    return kernel[:, 0::2] + 1j * kernel[:, 1::2]


def from_columns(matrix: Any) -> Any:
    """Return the real matrix of `columns`."""
    parts = np.stack([np.real(matrix), np.imag(matrix)], axis=-1)
    return parts.reshape(len(matrix), -1)


def readout(kernel: Any) -> Any:
    """Return the complex C of the real matrix that maps pairs to ``Re(C @ s)``, in NumPy."""
    return kernel[0::2] - 1j * kernel[1::2]


def from_readout(matrix: Any) -> Any:
    """Return the real matrix of `readout`."""
    parts = np.stack([np.real(matrix), -np.imag(matrix)], axis=1)
    return parts.reshape(-1, matrix.shape[-1])


def generator(cell: Any) -> np.random.Generator:
    """Return the source of a cell's special initial weights, ruled by its seed or Python's."""
    return np.random.default_rng(random.getrandbits(32) if cell.seed is None else cell.seed)


def fixed(values: Any) -> Any:
    """Return an initializer that gives an array."""

    def initializer(shape: Any, dtype: Any = None) -> Any:
        return keras.ops.reshape(keras.ops.convert_to_tensor(values, dtype=dtype), shape)

    return initializer


def refuse_zoneout(cell: Any) -> None:
    """Raise a three-part `ValueError` for zoneout, which complex states do not have."""
    if cell.zoneout:
        raise problem(
            f"{type(cell).__name__} has no zoneout.",
            received=f"zoneout={cell.zoneout}",
            expected="zoneout=0.0: its states are complex",
            fix="use `dropout`, which drops inputs",
        )


def number_range(cell: Any, **bounds: Any) -> tuple[float, float]:
    """Return two numbers if ``0 <= low < high <= 1``, else raise a three-part `ValueError`."""
    (low_name, low), (high_name, high) = bounds.items()
    plain = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (low, high))
    if not plain or not 0 <= low < high <= 1:
        raise problem(
            f"`{low_name}` and `{high_name}` of {type(cell).__name__} are not a range.",
            received=f"{low_name}={low!r}, {high_name}={high!r}",
            expected=f"numbers with 0 <= {low_name} < {high_name} <= 1",
            fix="leave both out for the paper's range",
        )
    return float(low), float(high)
