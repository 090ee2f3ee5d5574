"""Checks and conversions of what a user passes to a recurrent layer."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from cellkit.cells.operations import BACKEND, known, numbered
from cellkit.cells.runner import flatten_shapes, is_shape, map_shapes
from cellkit.cells.structure import describe, describe_shapes
from cellkit.cells.validate import TIME_AXIS, dtype_of
from cellkit.errors import problem
from cellkit.registry.names import did_you_mean
from cellkit.registry.registry import spec_of
from cellkit.typing import Tensor, Tree


def shape_text(shapes: Any, lead: tuple[str, ...] = ()) -> str:
    """Write a shape, or a structure of shapes, for an error text.

    Args:
        shapes: The shapes.
        lead: Names to write in place of the first axes.
    """

    def text(shape: tuple[int | None, ...]) -> _Text:
        axes = [*lead, *map(str, shape[len(lead) :])]
        return _Text("(" + ", ".join(axes) + ("," if len(axes) == 1 else "") + ")")

    return describe(map_shapes(text, shapes), str)


class _Text:
    """A shape, written out: a leaf that `describe` does not descend into."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


def check_call(layer: Any, kwargs: dict[str, Any]) -> None:
    """Reject the keywords of a call that the method `call` of a layer does not have."""
    if not kwargs:
        return
    known = inspect.signature(layer.call).parameters
    unknown = [name for name in kwargs if name not in known]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
        shown = [name for name in known if name != "one_step"]
        meant = did_you_mean(unknown[0], shown)
        raise problem(
            f"A call of {type(layer).__name__} has no argument {unknown[0]!r}.",
            received=", ".join(f"{name}=..." for name in unknown),
            expected=", ".join(shown),
            fix=meant.strip() or "remove it; options of the layer go to its constructor",
        )


def check_inputs(layer: Any, sequences: Tree, built_for: Any) -> None:
    """Check structure, ranks and sizes of the inputs.

    Args:
        layer: The layer, for its name and options.
        sequences: The inputs.
        built_for: Structure of the shapes that the layer was built for, or None.

    Raises:
        ValueError: If something does not fit.
    """
    name = type(layer).__name__
    leaves = keras.tree.flatten(sequences)
    if not leaves or any(not hasattr(x, "shape") for x in leaves):
        raise problem(
            f"The inputs of {name} are not tensors.",
            received="None"
            if sequences is None
            else f"{type(sequences).__name__} with "
            + (", ".join(type(x).__name__ for x in leaves) or "nothing in it"),
            expected="tensors or arrays of shape (batch, time, ...), in any nested structure",
            fix="pass at least one tensor, and no None",
        )
    shapes = keras.tree.map_structure(lambda x: tuple(x.shape), sequences)
    flat = [tuple(x.shape) for x in leaves]
    if any(len(s) < 2 for s in flat):
        raise problem(
            f"The inputs of {name} lack a batch or a time axis.",
            received=f"inputs of shape {shape_text(shapes)}",
            expected="(batch, time, ...) for every input",
            fix="add what is missing: `x[None]` for a batch of one, `x[None, :, None]` for a "
            "single sequence of numbers; a Keras input is `keras.Input((time, features))`",
        )
    for axis, what in ((0, "batch size"), (1, "number of time steps")):
        sizes = [s[axis] for s in flat if s[axis] is not None]
        if any(size != sizes[0] for size in sizes[1:]):
            if axis == 1 and _lacks_time_axis(getattr(layer, "cell", None), shapes):
                raise _no_time_axis(layer.cell, shapes)
            raise problem(
                f"The inputs of {name} differ in their {what}.",
                received=f"inputs of shape {shape_text(shapes)}",
                expected=f"the same {what} for every input",
                fix="cut or pad the inputs to one length, or select the same rows from each",
            )
    if built_for is not None:
        _check_built(name, shapes, built_for)
    if layer.unroll is True and flat[0][1] is None:
        raise problem(
            f"{name} cannot be unrolled over an unknown number of time steps.",
            received=f"unroll=True and inputs of shape {shape_text(shapes)}",
            expected="a fixed number of time steps",
            fix="name it in `keras.Input(shape=(time, features))`, or leave out `unroll`",
        )


def _check_built(name: str, shapes: Any, built_for: Any) -> None:
    same = _structure(shapes) == _structure(built_for)
    if same:
        now, then = flatten_shapes(shapes), flatten_shapes(built_for)
        same = all(
            len(a) == len(b)
            and all(x is None or y is None or x == y for x, y in zip(a[2:], b[2:], strict=True))
            for a, b in zip(now, then, strict=True)
        )
    if not same:
        raise problem(
            f"The inputs do not fit the ones that {name} was built for.",
            received=f"inputs of shape {shape_text(shapes)}",
            expected=f"inputs of shape {shape_text(built_for, ('batch', 'time'))}",
            fix="pass inputs of the same structure, rank and feature sizes, or make a new layer",
        )


def _structure(shapes: Any) -> Any:
    """Return what must agree between two structures of inputs: keys, counts and nesting."""
    if isinstance(shapes, dict):
        return {k: _structure(v) for k, v in shapes.items()}
    if isinstance(shapes, (list, tuple)) and not is_shape(shapes):
        return [_structure(v) for v in shapes]
    return None


@contextlib.contextmanager
def time_axis_told(cell: Any, shapes: Any) -> Iterator[None]:
    """Say of a cell that can't be built that the inputs of the layer have no time axis, if so.

    A cell may take inputs of any rank, so it is found out only where something fails.

    Args:
        cell: The cell of the layer.
        shapes: The shapes of the layer's inputs.
    """
    try:
        yield
    except Exception as error:
        if not _lacks_time_axis(cell, shapes):
            raise
        raise _no_time_axis(cell, shapes) from error


def _no_time_axis(cell: Any, shapes: Any) -> ValueError:
    fix = TIME_AXIS
    if any(len(shape) > 3 for shape in flatten_shapes(shapes)):
        fix += "; where the channels are what is missing, add them: `x[..., None]`"
    return problem(
        "The inputs have no time axis.",
        received=f"inputs of shape {shape_text(shapes)} for {type(cell).__name__}",
        expected="(batch, time, ...): one axis more than the cell takes at a step",
        fix=fix,
    )


def _lacks_time_axis(cell: Any, shapes: Any) -> bool:
    cell = getattr(cell, "cells", [cell])[0]
    spec = spec_of(type(cell))
    if spec is not None:
        ranks = _ranks(spec.inputs)
    elif type(cell).__module__.startswith("keras."):
        ranks = [1]  # Keras' own cells take vectors
    else:
        return False
    return [len(shape) for shape in flatten_shapes(shapes)] == [rank + 1 for rank in ranks]


def _ranks(inputs: Tree) -> list[int]:
    """Return the ranks of the inputs of one step as a spec names them, without the batch."""
    if isinstance(inputs, tuple) and all(isinstance(size, (int, str)) for size in inputs):
        return [len(inputs)]
    entries = inputs.values() if isinstance(inputs, dict) else inputs
    return [rank for entry in entries for rank in _ranks(entry)]


def of_one_length(sequences: Tree, *others: Any) -> tuple[Any, ...]:
    """Return tensors that are traced with unknown numbers of time steps as ones of one number.

    Exporters on JAX give the unknown length of each argument a name of its own. All of them have
    the length of the first input, or one that is known.

    Args:
        sequences: The inputs, `(batch, time, ...)`, in any structure.
        *others: Masks `(batch, time, ...)`, in any structure, or None.
    """
    if BACKEND != "jax":
        return sequences, *others
    given = [x for x in keras.tree.flatten((sequences, others)) if len(np.shape(x)) > 1]
    lengths = [np.shape(x)[1] for x in given]
    named = [n for n in lengths if n is not None and not isinstance(n, int)]
    if not named or all(n == named[0] for n in lengths):
        return sequences, *others
    length = next((n for n in lengths if isinstance(n, int)), named[0])

    def cut(x: Tensor) -> Any:
        if x is None or len(np.shape(x)) < 2 or np.shape(x)[1] == length:
            return x
        return keras.ops.take(x, numbered(length), axis=1)

    return tuple(keras.tree.map_structure(cut, (sequences, *others)))


def validate_mask(sequences: Tree, mask: Tensor) -> None:
    """Check the shapes of one mask, or of one mask per input.

    Raises:
        ValueError: If a mask is neither `(batch, time)` nor `(batch, time, 1)` of the inputs.
    """
    for m in _masks(sequences, mask):
        _check_mask(sequences, m)


def _masks(sequences: Tree, mask: Tensor) -> list[Any]:
    """Return the masks among `mask`, which may be one, a nested list of numbers or a structure."""
    if mask is None:
        return []
    if _is_written_out(mask):
        mask = np.asarray(mask)
    masks = [m for m in keras.tree.flatten(mask) if m is not None]
    inputs = len(keras.tree.flatten(sequences))
    count = len(keras.tree.flatten(mask))
    if keras.tree.is_nested(mask) and count not in (1, inputs):
        raise problem(
            "The number of masks does not fit the inputs.",
            received=f"{count} masks for {inputs} inputs",
            expected="one mask for all inputs, or one per input (None where there is none)",
            fix="pass a single mask of shape (batch, time), or the masks in the inputs' structure",
        )
    return masks


def _is_written_out(mask: Tensor) -> bool:
    """Tell whether a mask is given as nested lists of numbers."""
    if not isinstance(mask, (list, tuple)):
        return False
    return all(isinstance(m, (bool, int, float, np.generic)) or _is_written_out(m) for m in mask)


def _check_mask(sequences: Tree, mask: Tensor, attached: bool = False) -> None:
    want = tuple(keras.tree.flatten(sequences)[0].shape[:2])
    have = tuple(getattr(mask, "shape", np.shape(mask)))
    ranked = len(have) == 2 or (len(have) == 3 and have[2] == 1)
    sized = ranked and all(
        a is None or b is None or a == b for a, b in zip(have, want, strict=False)
    )
    if not sized and attached:
        raise problem(
            "The mask that an earlier layer has attached to the inputs does not fit them.",
            received=f"a mask of shape {have}, for inputs of shape {describe_shapes(sequences)}",
            expected=f"{want} or {(*want, 1)}: one value per row and time step",
            fix="pass a mask of the time steps, e.g. `mask=keras.ops.any(inner, axis=-1)` where "
            "`inner` is the mask of inner sequences: keras.layers.TimeDistributed hands that on",
        )
    if not sized:
        if len(have) > 2:
            fix = "make one mask value per time step, e.g. `keras.ops.any(mask, axis=-1)` for a "
            fix += "mask per feature, and cut or pad it to the inputs' length"
        elif len(have) == 2:
            fix = "cut or pad it to the inputs' length, and select the same rows"
        else:
            fix = "leave it out where every step counts; one for all rows is "
            fix += "`keras.ops.broadcast_to(mask, (batch, time))`"
        raise problem(
            "The mask does not fit the inputs.",
            received=f"a mask of shape {have}" if hasattr(mask, "shape") else f"mask={mask!r}",
            expected=f"{want} or {(*want, 1)}: one value per row and time step",
            fix=fix,
        )
    _check_mask_dtype(mask)


def _check_mask_dtype(mask: Tensor) -> None:
    """Raise unless a mask says of every step that it counts or that it doesn't."""
    kind = dtype_of(mask)
    if kind == "bool" or "int" in kind:
        return
    found = f"a mask of dtype {kind}"
    if "float" in kind and known(mask):
        numbers = np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(mask, "float32")))
        # Flags in a float: what arithmetic on masks gives.
        other = numbers[(numbers != 0) & (numbers != 1)]
        if not other.size:
            return
        found += f" that holds {other[0]:.6g}"
    numeric = "float" in kind or "complex" in kind
    raise problem(
        "The mask is not made of flags.",
        received=found,
        expected="bool or integers, true where a step counts; floats only where their values can "
        "be seen and all of them are 0 or 1",
        fix="compare it with what marks a step that counts, e.g. "
        + ("`mask > 0.5`" if numeric else "`mask != 'padding'`"),
    )


def merge_masks(sequences: Tree, mask: Tensor, implicit: list[Any], lengths: Any) -> Any:
    """Make one boolean mask of all that was given; a step counts if every mask says so.

    Args:
        sequences: The inputs.
        mask: The value passed as `mask`, or None.
        implicit: Masks attached to the inputs by earlier layers; they count where none is passed.
        lengths: Number of steps that count, `(batch,)`, or None.

    Returns:
        Boolean tensor of shape `(batch, time)`, or None.
    """
    given = _masks(sequences, mask)
    masks = given or [m for m in implicit if m is not None]
    first = keras.tree.flatten(sequences)[0]
    merged = None
    for m in masks:
        # A functional model passes on the masks that it finds attached.
        _check_mask(sequences, m, attached=any(m is other for other in implicit))
        m = keras.ops.convert_to_tensor(m)
        if keras.backend.standardize_dtype(m.dtype) != "bool":
            m = keras.ops.not_equal(m, 0)
        m = keras.ops.squeeze(m, -1) if len(m.shape) == 3 else m
        merged = m if merged is None else keras.ops.logical_and(merged, m)
    if lengths is not None:
        m = mask_from_lengths(lengths, first)
        merged = m if merged is None else keras.ops.logical_and(merged, m)
    return merged


def mask_from_lengths(lengths: Any, like: Any) -> Any:
    """Return the mask `(batch, time)` that is true for the first `lengths` steps of each row.

    In a traced call, where the values can't be seen, what is out of range counts as the nearest
    length in it.

    Args:
        lengths: Integers of shape `(batch,)`.
        like: A tensor of shape `(batch, time, ...)`.

    Raises:
        ValueError: If `lengths` are not one integer per row, or out of range.
    """
    if not hasattr(lengths, "dtype"):
        lengths = _as_array(lengths)
    batch, time = like.shape[:2]
    shape = tuple(getattr(lengths, "shape", np.shape(lengths)))
    dtype = dtype_of(lengths)
    wrong_shape = len(shape) != 1 or (None not in (batch, shape[0]) and shape[0] != batch)
    beyond = ""
    if "int" in dtype and not wrong_shape and shape[0] != 0 and known(lengths):
        numbers = np.asarray(keras.ops.convert_to_numpy(lengths))
        low, high = numbers.min(), numbers.max()
        if low < 0 or (time is not None and high > time):
            beyond = f" between {low} and {high}"
    if wrong_shape or "int" not in dtype or beyond:
        raise problem(
            "The lengths do not fit the inputs.",
            received=f"lengths of shape {shape} and dtype {dtype}{beyond}",
            expected=f"integers of shape ({batch},) between 0 and {time}: one per row",
            fix="pass the number of valid steps of each row, e.g. `mask.sum(axis=1)`",
        )
    lengths = keras.ops.cast(keras.ops.convert_to_tensor(lengths), "int32")
    steps = numbered(keras.ops.shape(like)[1])
    return steps[None, :] < lengths[:, None]


def _as_array(lengths: Any) -> np.ndarray:
    """Return lengths that are written out; what has no even shape becomes an array of objects."""
    try:
        return np.asarray(lengths)
    except ValueError:
        return np.asarray(lengths, dtype=object)


def check_values(cell: Any, sequences: Tree, mask: Tensor) -> None:
    """Show a cell with a method `check_values` the inputs of a call, where their values are known.

    In a traced call they are not. What is masked becomes zero first: padding may be anything.

    Args:
        cell: Any cell.
        sequences: Tensors of shape `(batch, time, ...)`, in the cell's structure.
        mask: Boolean tensor of shape `(batch, time)`, or None.

    Raises:
        ValueError: If the cell finds values that it can't take.
    """
    look = getattr(cell, "check_values", None)
    leaves = [*keras.tree.flatten(sequences), mask]
    if look is None or not all(x is None or known(x) for x in leaves):
        return
    keep = None if mask is None else keras.ops.convert_to_numpy(mask)

    def visible(x: Tensor) -> np.ndarray:
        array = np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(x, "float32")))
        if keep is None:
            return array
        return np.where(keep.reshape(keep.shape + (1,) * (array.ndim - 2)), array, 0.0)

    look(keras.tree.map_structure(visible, sequences))
