"""Structures of inputs, states and outputs: how they are declared, matched and described.

A cell may take, carry and return any nested structure of tensors. A *leaf* of such a structure is
declared by an ``int`` (a vector of that size), a tuple (a shape without the batch axis) or a
`TensorSpec`. This module turns declarations into structures of `TensorSpec`, and fits what a user
passes (lists for tuples, one tensor for a single state, ...) to what a cell declared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import keras
import numpy as np

from cellkit.errors import problem

__all__ = ["TensorSpec", "declared_output", "declared_state", "describe", "match"]


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """The declaration of one leaf of a state or an output.

    Args:
        shape: Shape without the batch axis; an ``int`` stands for a vector. ``None`` marks an axis
            whose size follows from the inputs.
        dtype: Name of the dtype, e.g. ``"int32"`` for a counter or ``"float32"`` for an
            accumulator that must stay exact under mixed precision. ``None``: the compute dtype.
        initializer: Initial value of a state: a number, the name of a Keras initializer, or a
            callable ``(shape, dtype) -> tensor`` that is given the shape without the batch axis.
        trainable: True if the initial value of a state is a variable that is learned.

    Example:
    >>> TensorSpec(4).shape
    (4,)
    >>> TensorSpec((2, 3), dtype="int32").dtype
    'int32'
    """

    shape: Any
    dtype: str | None = None
    initializer: Any = "zeros"
    trainable: bool = False

    def __post_init__(self) -> None:
        shape = _as_shape(self.shape)
        if shape is None:
            raise problem(
                "The shape of a TensorSpec is not a shape.",
                received=f"shape={self.shape!r}",
                expected="an int, or a tuple of non-negative ints (without the batch axis)",
                fix="write TensorSpec(8) for a vector of size 8, TensorSpec((4, 4)) for a matrix",
            )
        object.__setattr__(self, "shape", shape)
        if self.dtype is not None:
            object.__setattr__(self, "dtype", keras.backend.standardize_dtype(self.dtype))


def _as_shape(value: Any) -> tuple[int | None, ...] | None:
    """Return `value` as a shape, or None when it is not one."""
    if isinstance(value, bool):
        return None
    if hasattr(value, "__index__") and not hasattr(value, "__len__"):  # also an int of NumPy's
        return (int(value),) if _is_dimension(value) else None
    if hasattr(value, "as_list"):  # tf.TensorShape, as older cells declare
        value = tuple(value.as_list())
    if isinstance(value, (list, tuple)) and all(_is_dimension(d) for d in value):
        return tuple(None if d is None else int(d) for d in value)
    return None


def _is_dimension(value: Any) -> bool:
    if value is None:
        return True
    return not isinstance(value, bool) and hasattr(value, "__index__") and int(value) >= -1


def is_namedtuple(value: Any) -> bool:
    """Tell whether `value` is an instance of a namedtuple class."""
    return isinstance(value, tuple) and hasattr(value, "_fields")


def rebuild(like: Any, children: Iterable[Any]) -> Any:
    """Make a container of the kind of `like` (list, tuple, namedtuple or dict) with `children`.

    Children of a dict are given in the order of the dict's own keys.
    """
    children = list(children)
    if isinstance(like, Mapping):
        return cast(Any, type(like))(zip(like, children, strict=True))
    if is_namedtuple(like):
        return type(like)(*children)
    return type(like)(children) if type(like) in (list, tuple) else list(children)


def _declare(value: Any, what: str) -> Any:
    """Turn a nested declaration into the same structure with `TensorSpec` leaves."""
    if isinstance(value, TensorSpec):
        return value
    if isinstance(value, Mapping):
        return rebuild(value, (_declare(v, what) for v in value.values()))
    if is_namedtuple(value):
        return rebuild(value, (_declare(v, what) for v in value))
    if isinstance(value, list):  # a list is always a structure: [3, 4] are two vectors
        return [_declare(v, what) for v in value]
    shape = _as_shape(value)
    if shape is not None:
        return TensorSpec(shape)
    if isinstance(value, tuple):
        return tuple(_declare(v, what) for v in value)
    raise problem(
        f"The {what} of a cell holds something that declares no tensor.",
        received=f"{value!r} of type {type(value).__name__}",
        expected="ints, shape tuples, cellkit.TensorSpec, and lists, tuples or dicts of them",
        fix=f"declare every leaf of {what} by its size or shape, without the batch axis",
    )


def declared_state(state_size: Any) -> Any:
    """Return the structure of a cell's states, with `TensorSpec` leaves.

    A single leaf becomes a list of one, and a top-level list or tuple of ints keeps the meaning it
    has in Keras: several vector states.

    Args:
        state_size: The value that the cell declares.

    Returns:
        A list, namedtuple or dict, possibly nested.

    Raises:
        ValueError: If a leaf is neither a size, nor a shape, nor a `TensorSpec`.
    """
    if isinstance(state_size, TensorSpec) or not _is_container(state_size):
        return [_declare(state_size, "state_size")]
    if isinstance(state_size, Mapping) or is_namedtuple(state_size):
        return _declare(state_size, "state_size")
    return [_declare(v, "state_size") for v in state_size]


def declared_output(output_size: Any) -> Any:
    """Return the structure of a cell's output, with `TensorSpec` leaves.

    Unlike for states, a top-level tuple of ints is the shape of one output.
    """
    return _declare(output_size, "output_size")


def _is_container(value: Any) -> bool:
    return isinstance(value, (list, tuple, Mapping))


def describe(structure: Any, leaf: Callable[[Any], str]) -> str:
    """Write a structure in one line for an error text, e.g. ``{'h': (batch, 4)}``."""
    if isinstance(structure, Mapping):
        return "{" + ", ".join(f"{k!r}: {describe(v, leaf)}" for k, v in structure.items()) + "}"
    if is_namedtuple(structure):
        inner = ", ".join(
            f"{k}={describe(v, leaf)}" for k, v in zip(structure._fields, structure, strict=True)
        )
        return f"{type(structure).__name__}({inner})"
    if isinstance(structure, (list, tuple)):
        inner = ", ".join(describe(v, leaf) for v in structure)
        return f"[{inner}]" if isinstance(structure, list) else f"({inner})"
    return leaf(structure)


def describe_shapes(structure: Any) -> str:
    """Write the shapes of tensors (or of their specs) in one line."""

    def shape_of(value: Any) -> str:
        if isinstance(value, TensorSpec):
            return "(" + ", ".join(["batch", *map(str, value.shape)]) + ")"
        shape = getattr(value, "shape", None)
        return f"a {type(value).__name__}" if shape is None else str(tuple(shape))

    return describe(structure, shape_of)


class Mismatch(Exception):
    """Raised inside `match`; the caller turns it into a three-part `ValueError`."""


def match(layout: Any, given: Any) -> Any:
    """Fit what a user passed to the structure that a cell declared.

    Lists and tuples are alike, a bare tensor stands for a list of one, a namedtuple may be given
    as any sequence or a dict of its fields. Lists may be nested in any way, or flat, as long as
    they hold the same tensors in the same order: that is how `keras.layers.RNN` compares states.
    Entries of a dict are found by their keys, never by their order.

    Args:
        layout: The declared structure, with `TensorSpec` leaves.
        given: The states that the user passed.

    Returns:
        The leaves of `given` in the structure of `layout`.

    Raises:
        Mismatch: If `given` does not fit.
    """
    if isinstance(layout, TensorSpec):
        while isinstance(given, (list, tuple)) and len(given) == 1 and not is_numbers(given):
            given = given[0]
        if given is None or isinstance(given, Mapping) or _holds_tensors(given):
            raise Mismatch
        try:
            return np.asarray(given) if is_numbers(given) else given
        except ValueError:  # lists of different lengths
            raise Mismatch from None
    if isinstance(layout, Mapping):
        if not isinstance(given, Mapping) or set(given) != set(layout):
            raise Mismatch
        return rebuild(layout, (match(v, given[k]) for k, v in layout.items()))
    if is_namedtuple(layout) and isinstance(given, Mapping):
        if set(given) != set(layout._fields):
            raise Mismatch
        given = [given[k] for k in layout._fields]
    if not isinstance(given, (list, tuple)) or is_numbers(given):
        given = [given]
    given = list(given)
    if len(given) == len(layout):
        try:
            return rebuild(layout, (match(s, g) for s, g in zip(layout, given, strict=True)))
        except Mismatch:
            pass  # perhaps the lists are nested in another way: tried next
    if has_mapping(layout):
        raise Mismatch
    specs, leaves = keras.tree.flatten(layout), _leaves(given)
    if len(specs) != len(leaves):
        raise Mismatch
    leaves = [match(s, g) for s, g in zip(specs, leaves, strict=True)]
    return keras.tree.pack_sequence_as(layout, leaves)


def _leaves(given: Any) -> list[Any]:
    """Return the tensors in nested lists, in their order."""
    if isinstance(given, (list, tuple)) and not is_numbers(given):
        return [leaf for value in given for leaf in _leaves(value)]
    return [given]


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and not is_numbers(value)


def is_numbers(value: Any) -> bool:
    """Tell whether `value` is a plain (nested) sequence of numbers, i.e. an array written out."""
    if isinstance(value, (list, tuple)):
        return len(value) > 0 and all(is_numbers(v) for v in value)
    return isinstance(value, (bool, int, float, complex))


def has_mapping(layout: Any) -> bool:
    """Tell whether there is a dict anywhere in nested lists."""
    if isinstance(layout, Mapping):
        return True
    return isinstance(layout, (list, tuple)) and any(has_mapping(v) for v in layout)
