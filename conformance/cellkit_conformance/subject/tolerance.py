"""The tolerance model: how far a float result may be from the float64 reference.

    limit = m * k * eps(dtype) * sqrt(T * fan_in) * max(1, |ref|)

`eps` is the spacing of the dtype at 1, `T` the number of steps, `fan_in` the number of terms that
a unit sums per step (all inputs and all states), and `m` the multiplier that a cell's spec may
claim with a reason. Rounding errors of independent sums grow with the square root of their number,
hence the root.

`k` is fixed at 8 for everybody. One rounding of a sum is half an `eps`; a step of a gated cell
chains a product, a sum, a squashing function whose vector form is wrong by up to four `eps`, and an
elementwise update: about eight `eps` in all. A constant that a failing test could move would
prove nothing, so no option changes it; the report shows the headroom instead, that is how many
times smaller than the limit the largest error was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

K = 8.0

EPSILON = {
    "bfloat16": 2.0**-7,
    "float16": 2.0**-10,
    "float32": 2.0**-23,
    "float64": 2.0**-52,
    "complex64": 2.0**-23,
    "complex128": 2.0**-52,
}


@dataclass(frozen=True)
class Comparison:
    """Distance of a result from its reference.

    Attributes:
        ok: True if every entry is within its limit.
        error: The largest error, NaN and Inf counting as infinite where the reference is finite.
        limit: The limit at the entry that is worst relative to its limit.
        ratio: The largest error as a part of its limit; above 1 is a failure.
        where: The index of that entry.
        got: The value there.
        want: The reference there.
    """

    ok: bool
    error: float
    limit: float
    ratio: float
    where: tuple[int, ...] = ()
    got: float | None = None
    want: float | None = None

    @property
    def headroom(self) -> float:
        """Limit over error; infinite without an error."""
        return math.inf if self.ratio == 0 else 1 / self.ratio


def beyond(ratio: float) -> str:
    """Say how far an error is beyond its limit, in a number that can be read aloud.

    Args:
        ratio: The error as a part of its limit.
    """
    if not math.isfinite(ratio):
        return "infinitely far beyond the limit"
    return f"{ratio:,.0f} x the limit" if ratio >= 10 else f"{ratio:.2g} x the limit"


@dataclass(frozen=True)
class Tolerance:
    """The limit for one cell, length and dtype.

    Attributes:
        dtype: The dtype that the layer computes in.
        steps: T, the number of time steps.
        fan_in: The number of terms that a unit sums per step.
        multiplier: The spec's `tolerance`.
    """

    dtype: str
    steps: int
    fan_in: int
    multiplier: float = 1.0

    @property
    def roundings(self) -> float:
        """Number of roundings that add up in the steps, without the multiplier."""
        return K * math.sqrt(max(1, self.steps) * max(1, self.fan_in))

    def limit(self, reference: np.ndarray) -> np.ndarray:
        """Give the limit of every entry.

        Args:
            reference: The float64 reference, any shape.

        Returns:
            Limits in the reference's shape.

        Raises:
            ValueError: The dtype is not a floating one.
        """
        if self.dtype not in EPSILON:
            raise ValueError(f"No tolerance for dtype {self.dtype!r}; known: {sorted(EPSILON)}.")
        scale = np.maximum(1.0, np.abs(np.nan_to_num(reference, posinf=1.0, neginf=1.0)))
        return self.multiplier * EPSILON[self.dtype] * self.roundings * scale

    def compare(
        self, got: np.ndarray, want: np.ndarray, more: np.ndarray | float = 0.0
    ) -> Comparison:
        """Compare a result with its reference, entry by entry.

        Entries that are not floating (counters, flags) must be equal. Where the reference is not
        finite, the result must be the same infinity, or NaN for NaN.

        Args:
            got: The result of the layer.
            want: The reference, of the same shape.
            more: What is added to the limit of floating entries.

        Returns:
            The comparison.

        Raises:
            ValueError: The shapes differ.
        """
        got, want = np.asarray(got), np.asarray(want)
        if got.shape != want.shape:
            raise ValueError(f"Cannot compare shape {got.shape} with {want.shape}.")
        if got.size == 0:
            return Comparison(True, 0.0, 0.0, 0.0)
        exact = got.dtype.kind in "iub" and want.dtype.kind in "iub"
        wide = np.complex128 if "c" in (got.dtype.kind, want.dtype.kind) else np.float64
        got, want = got.astype(wide), want.astype(wide)
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.abs(got - want)
        same = (got == want) | (np.isnan(got) & np.isnan(want))
        error = np.where(same, 0.0, np.where(np.isfinite(error), error, np.inf))
        limit = np.zeros_like(error) if exact else self.limit(want) + more
        ratio = np.divide(error, limit, out=np.where(error > 0, np.inf, 0.0), where=limit > 0)
        where = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
        worst = float(ratio[where])
        return Comparison(
            ok=worst <= 1.0,
            error=float(error.max()),
            limit=float(limit[where]),
            ratio=worst,
            where=tuple(int(i) for i in where),
            got=_scalar(got[where]),
            want=_scalar(want[where]),
        )


def _scalar(value: complex) -> float:
    return float(np.real(value)) if np.isreal(value) else float(np.abs(value))
