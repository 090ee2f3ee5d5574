"""NumPy functions for references: what a paper's equations are written with.

A reference is written from the paper, in float64, and shares no code with the cell. These are the
elementary functions both need, by the names that Keras gives them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

__all__ = ["ACTIVATIONS", "activation", "relu", "sigmoid", "softmax", "softplus"]


def sigmoid(x: Array) -> Array:
    """Return the logistic function, without overflow for large negative `x`."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def relu(x: Array) -> Array:
    """Return the positive part of `x`."""
    return np.maximum(x, 0)


def softplus(x: Array) -> Array:
    """Return ``log(1 + exp(x))``, without overflow."""
    return np.logaddexp(x, 0)


def softmax(x: Array) -> Array:
    """Return the softmax over the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "relu": relu,
    "linear": lambda x: x,
    "softplus": softplus,
    "softmax": softmax,
    "softsign": lambda x: x / (1 + np.abs(x)),
    "hard_sigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "silu": lambda x: x * sigmoid(x),
    "exponential": np.exp,
}


def activation(name: Any) -> Callable[[Array], Array]:
    """Return the NumPy function of a Keras activation, as it stands in a cell's config.

    Args:
        name: Name of the activation; None means linear.

    Raises:
        KeyError: If there is no NumPy form of it here.
    """
    return ACTIVATIONS["linear" if name is None else name]
