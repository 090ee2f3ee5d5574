"""Checks of what a cell is given, made and called, each with a three-part error."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells.structure import Mismatch, describe_shapes, match
from cellkit.errors import problem

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
    shape = input_shape
    flat = isinstance(shape, (list, tuple)) and all(d is None or isinstance(d, int) for d in shape)
    if flat and len(shape) < 2:
        raise problem(
            f"The inputs of {type(cell).__name__} lack an axis.",
            received=f"inputs of one step with shape {tuple(shape)}",
            expected="(batch, features) per step, so (batch, time, features) for the layer",
            fix=TIME_AXIS,
        )
    if not flat or len(shape) != 2 or shape[-1] is None:
        raise problem(
            f"{type(cell).__name__} takes one vector per time step.",
            received=f"inputs of one step with shape {shape}",
            expected="(batch, features) per step, so (batch, time, features) for the layer, with "
            "the number of features known",
            fix="flatten what a step holds into one feature axis, or use a cell that takes "
            "such inputs",
        )
    return int(shape[-1])


def check_states(cell: Any, inputs: Any, states: Any) -> Any:
    """Return the states that a cell is called with, in the structure that it declares.

    Args:
        cell: The cell.
        inputs: The inputs of the step.
        states: What was passed, or `NOT_GIVEN`.

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


def _wrong_states(name: str, states: Any, declared: Any, inputs: Any = None) -> ValueError:
    beside = "" if inputs is None else f", beside inputs {describe_shapes(inputs)}"
    return problem(
        f"The states that {name} was called with are not its states.",
        received=f"{describe_shapes(states)}{beside}",
        expected=f"{describe_shapes(declared)}, with the batch of the inputs",
        fix="pass what `cell.get_initial_state(batch_size)` or the step before returned",
    )


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
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value:
        raise problem(
            f"`{name}` of {owner.__name__} is not a positive number.",
            received=f"{name}={value!r}",
            expected="a number above 0",
            fix=f"pass e.g. {name}=1e-5, or leave it out",
        )
    return float(value)


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
