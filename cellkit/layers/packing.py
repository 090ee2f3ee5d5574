"""`pack` and `unpack`: sequences of different lengths, one behind the other in rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np

from cellkit.cells.structure import describe_shapes
from cellkit.errors import problem
from cellkit.typing import Tree

__all__ = ["Packed", "Place", "pack", "unpack"]


class Place(NamedTuple):
    """The place of a packed sequence.

    Attributes:
        row: Its row.
        start: Its first step.
        length: Its number of steps.
    """

    row: int
    start: int
    length: int


class Packed(NamedTuple):
    """The result of `pack`.

    Attributes:
        inputs: Arrays `(rows, length, ...)` in the structure of the sequences, zeros where nothing
            stands.
        mask: bool `(rows, length)`, True where something stands.
        segments: int32 `(rows, length)`: the number of the sequence in its row, from 0, and -1
            where nothing stands.
        places: The place of each sequence, in the order in which they were given.
    """

    inputs: Tree
    mask: np.ndarray
    segments: np.ndarray
    places: tuple[Place, ...]


def pack(sequences: Tree, rows: int | None = None, length: int | None = None) -> Packed:
    """Put sequences of different lengths one behind the other into rows of one length.

    The longest sequence is placed first, each into the first row that has room for it. A layer that
    is called with `mask` and `segments` treats each sequence as if it were alone; `unpack` takes
    the results apart:

    ```python
    packed = cellkit.pack(sequences)
    outputs = layer(packed.inputs, mask=packed.mask, segments=packed.segments)
    outputs = cellkit.unpack(outputs, packed)      # one (time, units) for each sequence
    ```

    Args:
        sequences: A list of arrays `(time, ...)`, or of structures of arrays with the same time.
        rows: Number of rows. Default: as many as are needed.
        length: Number of steps of a row. Default: that of the longest sequence.

    Returns:
        `Packed`: inputs, mask, segments and places, in NumPy.

    Raises:
        ValueError: If there is no sequence, if one has no step or another shape than the others,
            or if they do not fit.

    Example:
    >>> import numpy as np
    >>> packed = pack([np.ones((n, 3)) for n in (2, 5, 3)])
    >>> packed.inputs.shape, packed.places[2]
    ((2, 5, 3), Place(row=1, start=0, length=3))
    >>> packed.segments.tolist()
    [[0, 0, 0, 0, 0], [0, 0, 0, 1, 1]]
    """
    arrays = [keras.tree.map_structure(np.asarray, s) for s in sequences]
    lengths = _lengths(arrays)
    longest = max(lengths)
    width = longest if length is None else _positive("length", length)
    if longest > width:
        raise problem(
            "A sequence is longer than a row.",
            received=f"length={width}, and a sequence of {longest} steps",
            expected="rows that hold the longest sequence",
            fix=f"pass length={longest}, or cut the sequence",
        )
    limit = None if rows is None else _positive("rows", rows)
    places = _first_fit(lengths, width)
    needed = 1 + max(place.row for place in places)
    if limit is not None and needed > limit:
        raise problem(
            "The sequences do not fit into the rows.",
            received=f"rows={limit} of {width} steps, and {sum(lengths)} steps in all",
            expected=f"{needed} rows of this length",
            fix="pass more or longer rows, or fewer sequences",
        )
    count = needed if limit is None else limit
    segments = np.full((count, width), -1, "int32")
    for place in sorted(places, key=lambda p: (p.row, p.start)):
        steps = slice(place.start, place.start + place.length)
        segments[place.row, steps] = segments[place.row].max() + 1

    def joined(*leaves: Any) -> np.ndarray:
        found = np.zeros((count, width, *leaves[0].shape[1:]), np.result_type(*leaves))
        for leaf, place in zip(leaves, places, strict=True):
            found[place.row, place.start : place.start + place.length] = leaf
        return found

    inputs = keras.tree.map_structure(joined, *arrays)
    return Packed(inputs, segments >= 0, segments, places)


def unpack(outputs: Tree, packed: Packed, last: bool = False) -> Any:
    """Take the results of packed sequences apart, in the order in which these were given.

    Args:
        outputs: Tensors or arrays `(rows, length, ...)`, in any structure: what a layer with
            `return_sequences=True` returned for `packed.inputs`.
        packed: The result of `pack`.
        last: True if only the last step of each sequence is wanted.

    Returns:
        A list with one `(time, ...)` for each sequence, in the structure of `outputs`; with `last`
        one `(sequences, ...)` in that structure. Tensors stay tensors, with their gradients.

    Raises:
        ValueError: If the results are not those of packed sequences.
    """
    for leaf in keras.tree.flatten(outputs):
        if tuple(leaf.shape[:2]) != packed.mask.shape:
            raise problem(
                "The results are not those of the packed sequences.",
                received=describe_shapes(outputs),
                expected=f"{packed.mask.shape[0]} rows of {packed.mask.shape[1]} steps",
                fix="pass what a layer with `return_sequences=True` returned for `packed.inputs`",
            )
    if last:
        width = packed.mask.shape[1]
        at = np.array([p.row * width + p.start + p.length - 1 for p in packed.places])

        def final(leaf: Any) -> Any:
            if isinstance(leaf, np.ndarray):
                return leaf.reshape(-1, *leaf.shape[2:])[at]
            rows = keras.ops.reshape(leaf, (-1, *leaf.shape[2:]))
            return keras.ops.take(rows, keras.ops.convert_to_tensor(at, dtype="int32"), axis=0)

        return keras.tree.map_structure(final, outputs)
    return [
        keras.tree.map_structure(lambda x, p=p: x[p.row, p.start : p.start + p.length], outputs)
        for p in packed.places
    ]


def _first_fit(lengths: list[int], width: int) -> tuple[Place, ...]:
    """Return a place for each sequence, the longest one first, in the first row with room."""
    room: list[int] = []
    places: dict[int, Place] = {}
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        need = lengths[index]
        row = next((r for r, free in enumerate(room) if free >= need), len(room))
        if row == len(room):
            room.append(width)
        places[index] = Place(row, width - room[row], need)
        room[row] -= need
    return tuple(places[index] for index in range(len(lengths)))


def _lengths(sequences: list[Any]) -> list[int]:
    """Return the number of steps of each sequence, all checked to be alike but for that."""
    if not sequences:
        raise problem(
            "There is nothing to pack.",
            received="no sequences",
            expected="a list of one or more arrays (time, ...)",
            fix="leave out batches that are empty",
        )
    first = [x.shape[1:] for x in keras.tree.flatten(sequences[0])]
    lengths = []
    for index, sequence in enumerate(sequences):
        leaves = keras.tree.flatten(sequence)
        steps = {x.shape[0] if x.ndim else 0 for x in leaves}
        alike = [x.shape[1:] for x in leaves] == first
        if not alike or len(steps) != 1 or 0 in steps:
            raise problem(
                f"Sequence {index} cannot be packed with the others.",
                received=describe_shapes(sequence),
                expected="(time, ...) with one step or more, the rest as in the first sequence: "
                + describe_shapes(sequences[0]),
                fix="give all sequences the same features, and leave out those without any step",
            )
        lengths.append(steps.pop())
    return lengths


def _positive(name: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or int(value) < 1:
        raise problem(
            f"`{name}` is not a positive integer.",
            received=f"{name}={value!r}",
            expected="an int of 1 or more, or None",
            fix="leave it out to have it chosen",
        )
    return int(value)
