"""Resets: where in a row of the batch a new sequence begins, as users say it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.errors import problem
from cellkit.typing import Tensor, Tree


def validate_resets(sequences: Tree, resets: Tensor, segments: Tensor) -> None:
    """Check shapes and dtypes of resets and segments.

    Args:
        sequences: Tensors of shape `(batch, time, ...)`, in any structure.
        resets: The value passed as `resets`, or None.
        segments: The value passed as `segments`, or None.

    Raises:
        ValueError: If one does not fit.
    """
    lead = tuple(keras.tree.flatten(sequences)[0].shape[:2])
    if resets is not None:
        _check("resets", resets, lead)
    if segments is not None:
        _check("segments", segments, lead)


def merge_resets(sequences: Tree, resets: Tensor, segments: Tensor, reverse: bool) -> Any:
    """Make one boolean tensor of all that was given; a new sequence begins where either says so.

    Args:
        sequences: Tensors of shape `(batch, time, ...)`, in any structure.
        resets: Booleans or integers of shape `(batch, time)`, true where a new sequence begins.
        segments: Integers of shape `(batch, time)`, equal where steps belong together.
        reverse: True to go from the last step to the first.

    Returns:
        Boolean tensor of shape `(batch, time)`, or None where nothing was given.

    Raises:
        ValueError: If something does not fit.
    """
    validate_resets(sequences, resets, segments)
    merged = None if resets is None else _flags(resets)
    if segments is not None:
        changes = _changes(segments, reverse)
        merged = changes if merged is None else keras.ops.logical_or(merged, changes)
    return merged


def resets_of_step(sequences: Tree, resets: Tensor, segments: Tensor) -> Any:
    """Return the resets of a single step, `(batch, 1)`, or None.

    Args:
        sequences: The inputs of the step, with a time axis of one step.
        resets: Booleans or integers of shape `(batch,)`, or None.
        segments: A pair of integers `(batch,)`, those of the step before and of this one, or None.

    Raises:
        ValueError: If something does not fit.
    """
    batch = (keras.tree.flatten(sequences)[0].shape[0],)
    merged = None
    if resets is not None:
        _check("resets", resets, batch)
        merged = _flags(resets)
    if segments is not None:
        if not isinstance(segments, (list, tuple)) or len(segments) != 2:
            raise problem(
                "The segments of a single step are not a pair.",
                received=f"segments={segments!r}",
                expected="a pair of integers of shape (batch,): those of the step before and those "
                "of this step",
                fix="pass `segments=(before, now)`, or say by `resets` where a sequence begins",
            )
        for numbers in segments:
            _check("segments", numbers, batch)
        before, now = map(_numbers, segments)
        changes = keras.ops.convert_to_tensor(before != now)
        merged = changes if merged is None else keras.ops.logical_or(merged, changes)
    return None if merged is None else keras.ops.expand_dims(merged, 1)


_DTYPES = {
    "resets": ("bool or integers, true where a new sequence begins", "compare: `resets > 0.5`"),
    "segments": (
        "integers, equal where steps belong to one sequence",
        "number the sequences of a row, e.g. 0, 0, 0, 1, 1; flags belong into `resets`",
    ),
}


def _check(name: str, given: Any, lead: tuple[int | None, ...]) -> None:
    """Raise unless `given` has one flag, or number, for each row and step."""
    have = tuple(given.shape) if hasattr(given, "shape") else _array(given).shape
    axes = ("batch", "time")[: len(lead)]
    want = "(" + ", ".join(axes) + ("," if len(axes) == 1 else "") + ")"
    sized = len(have) == len(lead) and all(
        not (isinstance(a, int) and isinstance(b, int)) or a == b
        for a, b in zip(have, lead, strict=True)
    )
    if not sized:
        sizes = ", ".join(f"{axis}={size}" for axis, size in zip(axes, lead, strict=True))
        raise problem(
            f"The {name} do not fit the inputs.",
            received=f"{name} of shape {have}",
            expected=f"{want}, one for each row and step, with {sizes}"
            if len(lead) == 2
            else f"{want}, one for each row, with {sizes}",
            fix=f"make one entry for each step of each row, e.g. `{name}[..., 0]` for a trailing "
            "axis of one, and cut or pad them as the inputs"
            if len(lead) == 2
            else f"pass one entry for each row, e.g. `{name}[:, t]`",
        )
    dtype = getattr(given, "dtype", None)
    dtype = _array(given).dtype if dtype is None else dtype
    kind = (
        str(dtype)
        if isinstance(dtype, np.dtype) and dtype.kind not in "biufcV"
        else keras.backend.standardize_dtype(dtype)
    )
    if "int" not in kind and not (name == "resets" and kind == "bool"):
        expected, fix = _DTYPES[name]
        raise problem(
            f"The {name} are of another dtype than they can be.",
            received=f"{name} of dtype {kind}",
            expected=expected,
            fix=fix,
        )


def _array(given: Any) -> Any:
    """Return what is written out as an array; what has no even shape becomes one of objects."""
    try:
        return np.asarray(given)
    except ValueError:
        return np.asarray(given, dtype=object)


def _numbers(given: Any) -> Any:
    """Return numbers in a form in which they can be compared, whatever their width."""
    return given if keras.ops.is_tensor(given) else np.asarray(given)


def _flags(given: Any) -> Any:
    flags = given if keras.ops.is_tensor(given) else np.asarray(given)
    if keras.backend.standardize_dtype(flags.dtype) == "bool":
        return keras.ops.convert_to_tensor(flags)
    return keras.ops.convert_to_tensor(flags != 0)


def _changes(segments: Tensor, reverse: bool) -> Any:
    """Return where the number differs from that of the step processed before."""
    numbers = _numbers(segments)
    # Compared as they were given: JAX would first cut integers to 32 bits.
    changes = keras.ops.convert_to_tensor(numbers[:, 1:] != numbers[:, :-1])
    first = keras.ops.convert_to_tensor(numbers[:, :1] != numbers[:, :1])
    parts = [changes, first] if reverse else [first, changes]
    return keras.ops.concatenate(parts, axis=1)
