"""Functions of JAX that take the values of variables and return what was written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras

from cellkit import _keras_compat as compat
from cellkit.cells.recorder import Recorder


class Outcome(NamedTuple):
    """The outcome of a run.

    Attributes:
        result: The result of the function.
        updates: The new values of the variables that were written, by their numbers as text.
        losses: The losses that were added.
        unknown: Variables that were used and are not among the given ones, by their ids.
    """

    result: Any
    updates: dict[str, Any]
    losses: list[Any]
    unknown: dict[int, keras.Variable]


def run(function: Callable[[], Any], variables: list[keras.Variable], values: list[Any]) -> Outcome:
    """Run a function in which variables have the given values; none is written for good."""
    with Recorder(zip(variables, values, strict=True)) as recorder:
        result = function()
    known = {id(v) for v in variables}
    used = {**recorder.read, **recorder.written}
    updates = {
        str(i): recorder.get_current_value(v)
        for i, v in enumerate(variables)
        if id(v) in recorder.written
    }
    unknown = {i: v for i, v in used.items() if i not in known}
    return Outcome(result, updates, recorder.losses, unknown)


def values_of(variables: list[keras.Variable]) -> list[Any]:
    """Return the values of variables as they are stored."""
    with Recorder() as scope:
        return compat.raw_values(variables, scope)
