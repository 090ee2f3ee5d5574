"""Inputs of a step that are tried, until `build` and a step accept some."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cellkit_conformance.outcome import one_line, text_of
from cellkit_conformance.subject.guess_arguments import make
from cellkit_conformance.trees import Tree, is_branch, leaves, map_shapes, map_trees

INPUTS: tuple[Tree, ...] = (
    ("features",),
    [("features",), ("others",)],
    [("features",), (1,)],
    [("features",), ("rows", "columns")],
    ("height", "width", "channels"),
    (),
    (1,),
)
"""Inputs of one step that are tried: a vector, two of them, as in Keras' guide, a vector with a
time gap, an image, a number.

After the first, vectors as wide as a state or an argument is.
"""

NUMBERED = (11, 2, 13, 17, 19, 23)
"""Sizes of named dimensions in order of appearance: none is that of an argument by chance."""

KEYS = 6
"""Entries of a dict of inputs that are asked for by `build` and given."""


def _identity(inputs: Tree) -> Tree:
    return inputs


def _not_negative(inputs: Tree) -> Tree:
    return map_trees(np.abs, inputs)


def _ids(inputs: Tree) -> Tree:
    return map_trees(lambda a: np.abs(1000 * a).astype("int32") % 4, inputs)


DRAWS: Mapping[str, Callable[[Tree], Tree] | None] = {
    "": None,
    "numbers that are not negative": _not_negative,
    "ids from 0 to 3": _ids,
}
"""Ranges of inputs that are tried, by what the notes say of them."""


def inputs_of(cls: Any, kwargs: Mapping[str, Any]) -> tuple[tuple[Tree, str] | None, list[str]]:
    """Find inputs that a cell accepts, the simplest first.

    Args:
        cls: The class.
        kwargs: Arguments, of which some may be code.

    Returns:
        The inputs and the name of their range, or None; and what was said of those refused.
    """
    said: list[str] = []
    keys: dict[str, tuple[Any, ...]] = {}
    takes_ids = _has_embedding(cls, kwargs) or _reads_whole_numbers(cls, kwargs)
    candidates = _candidates(cls, kwargs)
    if takes_ids:
        candidates = [(), (1,), *candidates]
    for inputs in candidates:
        try:
            if takes_ids and inputs in ((), (1,)) and not _keeps_rows_apart(cls, kwargs, inputs):
                continue
            vectors = all(len(shape) == 1 for shape in _state_shapes(cls, kwargs))
            plain = inputs == INPUTS[0] and vectors and not takes_ids
            if plain and _is_built_for(cls, kwargs):
                return (inputs, ""), said
            return (inputs, _range(cls, kwargs, inputs, takes_ids)), said
        except Exception as error:  # noqa: BLE001 (the next structure may do)
            said.append(f"{inputs}: {type(error).__name__}: {one_line(text_of(error), 120)}")
            wanted = error.args[0] if isinstance(error, KeyError) and error.args else None
            strings = isinstance(error, TypeError) and "not str" in str(error)
            if isinstance(wanted, str) and wanted not in keys and len(keys) < KEYS:
                keys = {**keys, wanted: (f"{wanted}_features",)}
                candidates.append(keys)
            elif strings and {} not in candidates:
                candidates.append({})
    if keys:  # a time gap, or a mask, among the entries
        for entry in keys:
            narrow = {**keys, entry: (1,)}
            try:
                return (narrow, _range(cls, kwargs, narrow, False)), said
            except Exception as error:  # noqa: BLE001 (the next one may be it)
                said.append(f"{narrow}: {type(error).__name__}: {one_line(text_of(error), 120)}")
    return None, said


def _candidates(cls: Any, kwargs: Mapping[str, Any]) -> list[Tree]:
    """List the inputs to try."""
    states = _state_shapes(cls, kwargs)
    widths = [shape[0] for shape in states if len(shape) == 1]
    widths += [shape[-1] for shape in states if len(shape) > 1]  # rows that are kept
    widths += [value for value in kwargs.values() if type(value) is int and value > 0]
    widths += [value[0] for value in kwargs.values() if type(value) is tuple and value]
    vectors = [(width,) for width in dict.fromkeys(widths)]
    images = [(*shape[:-1], "channels") for shape in states if len(shape) > 1]
    images += [shape for shape in states if len(shape) > 1]
    found: list[Tree] = [INPUTS[0], *vectors, *images, *INPUTS[1:]]
    found += [[vector, (1,)] for vector in vectors]
    return [entry for i, entry in enumerate(found) if entry not in found[:i]]


def _state_shapes(cls: Any, kwargs: Mapping[str, Any]) -> list[tuple[int, ...]]:
    """List the shapes of the states, without the batch, that a cell declares."""
    try:
        size = make(cls, kwargs).state_size
    except Exception:  # noqa: BLE001 (a check says it better)
        return []

    def shapes(node: Any, top: bool = False) -> list[tuple[int, ...]]:
        if type(node) is int:
            return [(node,)]
        whole = isinstance(node, tuple) and all(type(n) is int for n in node)
        if whole and not top:
            return [tuple(node)]
        if isinstance(node, dict):
            return [shape for child in node.values() for shape in shapes(child)]
        if is_branch(node):
            found = [shape for child in node for shape in shapes(child)]
            return [*found, tuple(node)] if whole and len(node) > 1 else found
        shape = getattr(node, "shape", None)
        return [tuple(shape)] if isinstance(shape, tuple) else []

    return [shape for shape in shapes(size, top=True) if all(type(n) is int for n in shape)]


def _has_embedding(cls: Any, kwargs: Mapping[str, Any]) -> bool:
    """Say whether a cell holds a layer that looks up ids."""
    import keras

    cell = make(cls, kwargs)
    inside = cell._flatten_layers() if isinstance(cell, keras.layers.Layer) else ()
    return any(isinstance(layer, keras.layers.Embedding) for layer in inside)


def _reads_whole_numbers(cls: Any, kwargs: Mapping[str, Any]) -> bool:
    """Say whether a step rounds its inputs, as one that looks up rows of a table does."""
    try:
        if _is_built_for(cls, kwargs):
            return False
    except Exception:  # noqa: BLE001 (then it takes something else)
        return False
    for shape in ((2, 3), (2,), (2, 1)):
        ids = (np.arange(np.prod(shape), dtype="float32").reshape(shape) + 2) % 4
        try:
            step = _stepper(cls, kwargs, shape)
            same, near, other = (step(x) for x in (ids, ids + 0.25, ids[::-1].copy()))
        except Exception:  # noqa: BLE001, S112 (then it takes another shape)
            continue
        return _equal(same, near) and not _equal(same, other)
    return False


def _keeps_rows_apart(cls: Any, kwargs: Mapping[str, Any], inputs: Tree) -> bool:
    """Say whether ids of this shape give a row of results for each: a wrong one may broadcast."""
    ids = np.arange(3, dtype="int32").reshape(3, *inputs)
    step = _stepper(cls, kwargs, ids.shape)
    found, turned = step(ids), step(ids[::-1].copy())
    rows = all(a.shape[:1] == (3,) for a in found)
    return rows and all(
        np.allclose(a[::-1], b, atol=1e-4) for a, b in zip(found, turned, strict=True)
    )


def _stepper(
    cls: Any, kwargs: Mapping[str, Any], shape: tuple[int, ...]
) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Make and build a cell, and give a function that runs one step of it from rest."""
    import keras

    cell = make(cls, kwargs)
    if isinstance(cell, keras.layers.Layer) and type(cell).build is not keras.layers.Layer.build:
        cell.build(shape)
        cell.built = True

    def step(x: np.ndarray) -> list[np.ndarray]:
        result = cell.call(keras.ops.convert_to_tensor(x), _states(cell, len(x)))
        return [keras.ops.convert_to_numpy(leaf) for leaf in leaves(list(result))]

    return step


def _equal(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def _is_built_for(cls: Any, kwargs: Mapping[str, Any]) -> bool:
    """Say whether `build` makes a kernel for the number of features, which is enough of a sign.

    What hangs or crashes in a step shall do so in a check, where it costs one result.
    """
    import keras

    shapes = []
    for features in (3, 11):
        cell = make(cls, kwargs)
        if not isinstance(cell, keras.layers.Layer):
            return False
        if type(cell).build is keras.layers.Layer.build:
            return False
        cell.build((2, features))
        shapes.append([tuple(variable.shape) for variable in cell.weights])
        if any(not layer.built for layer in cell._flatten_layers(include_self=False)):
            return False  # its weights are made in a call
    return shapes[0] != shapes[1]


def works(cls: Any, kwargs: Mapping[str, Any], inputs: Tree, draw: str) -> bool:
    """Run a step of a cell on inputs, and tell whether it accepts them.

    Args:
        cls: The class.
        kwargs: Arguments, of which some may be code.
        inputs: The shapes of one step.
        draw: The name of a range, out of `DRAWS`.
    """
    try:
        _probe(make(cls, kwargs), inputs, DRAWS[draw] or _identity)
    except Exception:  # noqa: BLE001 (then it cannot be a second case)
        return False
    return True


def _range(cls: Any, kwargs: Mapping[str, Any], inputs: Tree, takes_ids: bool) -> str:
    """Run a step on inputs of several ranges, and name the first one that gives finite numbers."""
    names = list(DRAWS)
    first = ""
    for name in [names[2], *names[:2]] if takes_ids else names[:2]:
        if _probe(make(cls, kwargs), inputs, DRAWS[name] or _identity):
            return name
        first = first or name
    return first


def _probe(cell: Any, inputs: Tree, draw: Callable[[Tree], Tree]) -> bool:
    """Build a cell for some inputs, and run a step.

    Returns:
        Whether all that came out was finite.
    """
    import keras

    sizes: dict[str, int] = {}

    def concrete(shape: tuple[Any, ...]) -> tuple[int, ...]:
        named = (
            d if type(d) is int else sizes.setdefault(d, NUMBERED[len(sizes) % 6]) for d in shape
        )
        return (2, *named)

    rng = np.random.default_rng(5)
    shapes = map_shapes(concrete, inputs)
    data = draw(map_shapes(lambda shape: rng.standard_normal(shape).astype("float32"), shapes))
    is_layer = isinstance(cell, keras.layers.Layer)
    if is_layer and type(cell).build is not keras.layers.Layer.build:
        cell.build(shapes)
        cell.built = True
    tensors = map_trees(keras.ops.convert_to_tensor, data)
    output, states = cell.call(tensors, _states(cell))
    found = [keras.ops.convert_to_numpy(leaf) for leaf in leaves([output, states])]
    return all(np.isfinite(leaf).all() for leaf in found)


def _states(cell: Any, batch: int = 2) -> Any:
    """Make the states of a cell for a batch, as a layer would."""
    import cellkit

    states = cellkit.RNN(cell).get_initial_state(batch_size=batch)
    return list(states) if type(states) is tuple else states
