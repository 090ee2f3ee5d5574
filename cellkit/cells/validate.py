"""Checks of what a cell is given, made and called, each with a three-part error."""

from __future__ import annotations

import math
import sys
from typing import Any

import keras
import numpy as np

from cellkit.cells.operations import known, to_tensor
from cellkit.cells.structure import Mismatch, describe_shapes, match
from cellkit.errors import problem
from cellkit.typing import Tensor

NOT_GIVEN = object()
"""Stands for the states in a call of a cell without any."""

TIME_AXIS = (
    "give the layer inputs with a time axis, e.g. `keras.Input((time, features))`, or `x[:, None]` "
    "for sequences of one step"
)
"""Advice on inputs of a layer that have no time axis."""


def vector_size(cell: keras.layers.Layer, input_shape: Any) -> int:
    """Return the feature size of a cell that takes one vector per step.

    Raises:
        ValueError: If the step's input is no `(batch, features)` with a known size.
    """
    shape, name = input_shape, type(cell).__name__
    flat = isinstance(shape, (list, tuple)) and all(d is None or isinstance(d, int) for d in shape)
    expected = "(batch, features) per step, so (batch, time, features) for the layer"
    if flat and len(shape) < 2:
        what, fix = f"The inputs of {name} lack an axis.", TIME_AXIS
    elif flat and len(shape) == 2 and shape[-1] is None:
        what = f"{name} must know the number of features."
        fix = "name it, e.g. `keras.Input((time, 8))`, or `keras.Input((None, 8))` for any time"
    elif flat and len(shape) == 2:
        return int(shape[-1])
    else:
        what = f"{name} takes one vector per time step."
        expected += ", with the number of features known"
        fix = (
            "flatten what a step holds into one feature axis, e.g. "
            "`keras.ops.reshape(x, (batch, time, -1))`"
            if flat
            else "join the inputs into one, e.g. `keras.ops.concatenate(inputs, axis=-1)`"
        ) + ", or use a cell that takes such inputs"
    received = tuple(shape) if flat else shape
    raise problem(
        what,
        received=f"inputs of one step with shape {received}",
        expected=expected,
        fix=fix,
    )


def check_states(cell: Any, inputs: Any, states: Any) -> Any:
    """Return the states that a cell is called with, in the structure that it declares.

    Args:
        cell: The cell.
        inputs: The inputs of the step.
        states: The value passed, or `NOT_GIVEN`.

    Raises:
        ValueError: If there are none, or if they are not the cell's.
    """
    name = type(cell).__name__
    if states is NOT_GIVEN:
        raise problem(
            f"{name} is one step of a recurrence, and was called without states.",
            received=f"inputs {describe_shapes(inputs)} and no states",
            expected="cell(inputs, states) -> (output, new_states)",
            fix="a cell is one step: to run it over time, wrap it in `cellkit.RNN(cell)`; for the "
            "first of your own steps, pass `cell.get_initial_state(batch_size)`",
        )
    declared = cell.state_spec()
    try:
        states = match(declared, states)
    except Mismatch:
        raise _wrong_states(name, states, declared) from None
    batch = {x.shape[0] for x in keras.tree.flatten(inputs) if len(getattr(x, "shape", ()))}
    for spec, state in zip(keras.tree.flatten(declared), keras.tree.flatten(states), strict=True):
        shape = tuple(getattr(state, "shape", None) or np.shape(state))
        fits = len(shape) == len(spec.shape) + 1 and all(
            a is None or b is None or a == b for a, b in zip(shape[1:], spec.shape, strict=True)
        )
        rows = {size for size in (*batch, shape[0] if shape else None) if isinstance(size, int)}
        if not fits or len(rows) > 1:
            raise _wrong_states(name, states, declared, inputs)
    return states


def other_inputs(cell: Any, inputs: Any) -> ValueError | None:
    """Return what to say of a failed step whose inputs are not those that the cell was built for.

    Returns:
        The error, or None where the inputs are not to blame.
    """
    then = (cell.get_build_config() or {}).get("input_shape")
    now = getattr(inputs, "shape", None)
    if then is None or now is None or tuple(then[1:]) == tuple(now[1:]):
        return None
    return problem(
        f"The inputs do not fit the ones that {type(cell).__name__} was built for.",
        received=f"inputs of shape {tuple(now)}",
        expected=f"({', '.join(map(str, ('batch', *then[1:])))})",
        fix="pass inputs of the same rank and feature sizes, or make a new cell",
    )


def _wrong_states(name: str, states: Any, declared: Any, inputs: Any = None) -> ValueError:
    beside = "" if inputs is None else f", beside inputs {describe_shapes(inputs)}"
    return problem(
        f"The states that {name} was called with are not its states.",
        received=f"{describe_shapes(states)}{beside}",
        expected=f"{describe_shapes(declared)}, with the batch of the inputs",
        fix="pass what `cell.get_initial_state(batch_size)` or the step before returned",
    )


def dtype_of(x: Tensor) -> str:
    """Return the name of the dtype of a tensor or array, whatever an array holds."""
    dtype = getattr(x, "dtype", None)
    dtype = np.asarray(x).dtype if dtype is None else dtype
    if isinstance(dtype, np.dtype) and dtype.kind not in "biufcV":
        return str(dtype)
    return str(keras.backend.standardize_dtype(dtype))


def as_state(given: Any, compute_dtype: str, dtype: str | None) -> Any:
    """Return one state that a user passed, in its declared dtype.

    Args:
        given: Tensor or array.
        compute_dtype: The layer's.
        dtype: Declared dtype of the state.

    Raises:
        ValueError: If the dtype can't hold what was given.
    """
    have, whole = dtype_of(given), not ("float" in str(dtype) or "complex" in str(dtype))
    lost = "complex" in have and "complex" not in str(dtype)
    if whole and "float" in have and known(given):
        numbers = np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(given, "float32")))
        lost = not np.array_equal(numbers, np.trunc(numbers))
    if lost:
        raise problem(
            "A state does not fit the dtype of the cell's state.",
            received=f"a state of dtype {have}",
            expected=f"dtype {dtype}, or values that it can hold",
            fix=f"convert it, e.g. `keras.ops.cast(state, {dtype!r})`",
        )
    return to_tensor(given, compute_dtype, dtype)


def plain_number(value: Any) -> Any:
    """Return a number of NumPy's as one of Python's; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def positive_int(owner: type, name: str, value: Any) -> int:
    """Return `value` if it is a positive int, else raise a three-part `ValueError`."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or int(value) <= 0:
        raise problem(
            f"`{name}` of {owner.__name__} is not a positive integer.",
            received=f"{name}={value!r}",
            expected="an int of 1 or more",
            fix=f"pass e.g. {name}=32",
        )
    return int(value)


def checked_seed(owner: type, seed: Any) -> int | None:
    """Return `seed` if it is None or an int, else raise a three-part `ValueError`."""
    seed = plain_number(seed)
    if seed is None or (isinstance(seed, int) and not isinstance(seed, bool)):
        return seed
    raise problem(
        f"`seed` of {owner.__name__} is not an integer.",
        received=f"seed={seed!r}",
        expected="an int, or None for a random seed",
        fix="pass e.g. seed=1",
    )


def probability(owner: type, name: str, value: Any) -> float:
    """Return `value` if it is a rate in `[0, 1)`, else raise a three-part `ValueError`."""
    value = plain_number(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise problem(
            f"`{name}` of {owner.__name__} is not a rate.",
            received=f"{name}={value!r}",
            expected="a number of at least 0 and below 1",
            fix=f"pass e.g. {name}=0.2 to drop one element in five",
        )
    return float(value)


def check_dtype(layer: Any) -> None:
    """Raise a `ValueError` unless a layer computes in a floating dtype."""
    if not keras.backend.is_float_dtype(layer.compute_dtype):
        raise problem(
            f"{type(layer).__name__} cannot compute in this dtype.",
            received=f"dtype={layer.compute_dtype!r}",
            expected="a floating dtype, such as 'float32', 'bfloat16' or 'mixed_float16'",
            fix="leave `dtype` out; integer inputs keep their dtype as they are, and a state "
            "declares its own with `cellkit.TensorSpec(shape, dtype='int32')`",
        )


def positive_number(owner: type, name: str, value: Any) -> float:
    """Return `value` if it is a number above 0, else raise a three-part `ValueError`."""
    return number(owner, name, value, above=0)


def number(
    owner: type,
    name: str,
    value: Any,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
) -> float:
    """Return `value` if it is a finite number within bounds.

    Args:
        owner: Class whose argument it is.
        name: Name of the argument.
        value: The value passed.
        above: A bound below, which is out of the range.
        at_least: A bound below, which is in the range.
        below: A bound above, which is out of the range.
        at_most: A bound above, which is in the range.

    Raises:
        ValueError: It is not a number, or out of the range.
    """
    value = plain_number(value)
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    if plain and max(at_least, -sys.float_info.max) <= value <= min(at_most, sys.float_info.max):
        if above < value < below:
            return float(value)
    named = {"above": above, "at least": at_least, "below": below, "at most": at_most}
    bounds = " and ".join(f"{word} {x:g}" for word, x in named.items() if abs(x) < math.inf)
    raise problem(
        f"`{name}` of {owner.__name__} is not in its range.",
        received=f"{name}={value!r}",
        expected=f"a number that is {bounds}" if bounds else "a finite number",
        fix=f"pass such a number, or leave `{name}` out for its default",
    )


def choice(owner: type, name: str, value: Any, options: tuple[str, ...]) -> str:
    """Return `value` if it is one of `options`, else raise a three-part `ValueError`."""
    if value in options:
        return str(value)
    raise problem(
        f"{owner.__name__} has no such `{name}`.",
        received=f"{name}={value!r}",
        expected=" or ".join(repr(option) for option in options),
        fix=f"leave it out for {options[0]!r}",
    )
