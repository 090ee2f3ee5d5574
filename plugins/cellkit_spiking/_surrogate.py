"""Spikes, whose derivative is replaced by that of a smooth function."""

from __future__ import annotations

import math
from typing import Any

import keras

SURROGATES = ("atan", "fast_sigmoid", "triangle")


def spike(v: Any, surrogate: str, slope: float) -> Any:
    """Return 1 where v is above zero, else 0, with the gradient of a smooth step.

    Args:
        v: Potential above the threshold.
        surrogate: `"atan"`, whose derivative is ``slope / 2 / (1 + (pi / 2 * slope * v) ** 2)``,
            `"fast_sigmoid"`, ``1 / (1 + slope * |v|) ** 2``, or `"triangle"`,
            ``slope * max(0, 1 - |v|)``.
        slope: Steepness of the step.
    """
    fired = keras.ops.cast(v > 0, keras.backend.standardize_dtype(v.dtype))
    if surrogate == "atan":
        smooth = keras.ops.arctan(math.pi / 2 * slope * v) / math.pi
    elif surrogate == "triangle":
        near = keras.ops.clip(v, -1.0, 1.0)
        smooth = slope * near * (1 - 0.5 * keras.ops.abs(near))
    else:
        smooth = v / (1 + slope * keras.ops.abs(v))
    # The difference is zero: the value is that of the spike, to the bit.
    return fired + (smooth - keras.ops.stop_gradient(smooth))
