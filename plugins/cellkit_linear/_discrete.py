"""Diagonal systems in continuous time: how they are stored, and their form for equal steps."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells import as_dtype
from cellkit.errors import problem
from cellkit.registry import WeightMap, custom
from cellkit_linear._complex import complex_dtype, join, sin

DISCRETIZATIONS = ("zoh", "bilinear")


def discretized(cell: Any, rate: Any, frequency: Any, step: Any) -> tuple[Any, Any]:
    """Return the decay of a state in one step, and the factor of what is added.

    Args:
        cell: The cell, which has a `discretization`.
        rate: The real parts of the eigenvalues.
        frequency: Their imaginary parts.
        step: The length of the step.
    """
    if cell.discretization == "zoh":
        # lb - 1 without the loss of digits for small steps.
        grown = exponential_less_one(rate * step, frequency * step)
        return 1 + grown, grown / join(rate, frequency)
    half = join(rate * step / 2, frequency * step / 2)
    return (1 + half) / (1 - half), as_dtype(step, complex_dtype(cell)) / (1 - half)


def exponential_less_one(real: Any, imaginary: Any) -> Any:
    """Return ``exp(real + 1j * imaginary) - 1``, as a complex number."""
    half = sin(imaginary / 2)
    grown = keras.ops.expm1(real)
    e = grown + 1
    return join(grown - 2 * e * half * half, e * sin(imaginary))


def reference_discretized(lam: Any, step: Any, config: Any) -> tuple[Any, Any]:
    """Compute decay and factor from the equations, in NumPy."""
    if config.get("discretization", "zoh") == "zoh":
        lb = np.exp(lam * step)
        return lb, (lb - 1) / lam
    return (1 + lam * step / 2) / (1 - lam * step / 2), step / (1 - lam * step / 2)


def stored_eigenvalues(owner: str) -> WeightMap:
    """Return the map of eigenvalues, the symbol lam, to `log_decay` and `frequency`.

    Its weights can't be made of a lam whose real part has no logarithm: that is a `ValueError`.

    Args:
        owner: Name of the cell, for the error.
    """

    def to_symbols(weights: Any, config: Any) -> dict[str, Any]:
        return {"lam": -np.exp(weights["log_decay"]) + 1j * weights["frequency"]}

    def from_symbols(symbols: Any, config: Any) -> dict[str, Any]:
        lam = symbols["lam"]
        if np.any(np.real(lam) >= 0):
            raise problem(
                f"A symbol of {owner} describes an unstable system.",
                received=f"lam with real parts up to {np.real(lam).max():g}",
                expected="negative real parts, which are stored as logarithms",
                fix="make the real parts negative, for example clip them at -1e-4",
            )
        return {"log_decay": np.log(-np.real(lam)), "frequency": np.imag(lam)}

    return custom(to_symbols=to_symbols, from_symbols=from_symbols)
