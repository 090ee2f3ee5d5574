"""`step_model`: one step of a layer as a model of its own, to be exported and served."""

from __future__ import annotations

from typing import Any

import keras

from cellkit.cells.runner import pack_like_shapes
from cellkit.errors import problem
from cellkit.layers.known_shapes import leaves_of_a_step
from cellkit.layers.rnn import RNN
from cellkit.registry.registry import spec_of
from cellkit.typing import Tensor

__all__ = ["step_model"]


def step_model(layer: RNN, batch_size: int | None = None) -> keras.Model:
    """Return one step of a layer as a model: states go in and come out.

    It has the weights of the layer's cell, those themselves and not copies. As many calls as a
    sequence has steps, each given the states that the one before returned, give what the layer
    gives. Nothing in it loops, so that every format can hold it and every sequence may be of any
    length. It runs as at inference.

    Args:
        layer: A built layer that goes forwards.
        batch_size: Number of rows, for formats that want it fixed. None: any.

    Returns:
        A functional model. Its inputs are the leaves of the inputs, `(batch, ...)`, then those of
        the constants that the layer was built with, then those of the states; its outputs are the
        leaves of the output, then those of the new states. They are called `inputs`, `constants`
        and `output` (with the key, or a number, where there are several) and, by the names that
        the cell's spec gives its states, `state_h` and `new_state_h`. The states before the first
        step are those of `layer.get_initial_state(batch_size)`.

    Raises:
        ValueError: If the layer is not built, goes backwards, or is not a `cellkit.RNN`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(cellkit.create("lstm", units=4))
    >>> layer.build((None, None, 3))
    >>> model = cellkit.step_model(layer)
    >>> [x.name for x in model.inputs]
    ['inputs', 'state_h', 'state_c']
    >>> [tuple(y.shape) for y in model.outputs]
    [(None, 4), (None, 4), (None, 4)]
    """
    _check(layer)
    shapes, known = layer._memo.get("input_shapes"), leaves_of_a_step(layer)
    leaves = [
        keras.Input(batch_shape=(batch_size, *shape), dtype=dtype, name=name)
        for (shape, dtype), name in zip(known, _input_names(shapes, len(known)), strict=True)
    ]
    layout, names = layer.runner.layout, _state_names(layer)
    states = [
        keras.Input(batch_shape=(batch_size, *s.shape), dtype=s.dtype, name=f"state_{name}")
        for s, name in zip(layout.specs, names, strict=True)
    ]
    specs = layer._memo.get("constants")
    flat = [] if specs is None else keras.tree.flatten(specs)
    constants = [
        keras.Input(batch_shape=(batch_size, *c.shape[1:]), dtype=c.dtype, name=name)
        for c, name in zip(flat, _numbered("constants", len(flat)), strict=True)
    ]
    # Another layer around the same cell: it stores nothing, whatever this one does.
    stepping = RNN(layer.cell, dtype=layer.dtype_policy, name=f"{layer.name}_step")
    output, news = stepping.step(
        pack_like_shapes(shapes, leaves),
        layout.pack(states),
        constants=keras.tree.pack_sequence_as(specs, constants) if constants else None,
    )
    outputs, news = keras.tree.flatten(output), keras.tree.flatten(news)
    labels = [*_numbered("output", len(outputs)), *(f"new_state_{name}" for name in names)]
    named = [_Named(name=n)(y) for n, y in zip(labels, [*outputs, *news], strict=True)]
    return keras.Model([*leaves, *constants, *states], named, name=f"{layer.name}_step_model")


@keras.saving.register_keras_serializable(package="cellkit")
class _Named(keras.layers.Layer):
    """A tensor under a name, which outputs of a model take from the layer that returns them."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "autocast": False})

    def call(self, x: Tensor) -> Any:
        """Return `x`, as a tensor that is not `x`: a state may be the output as well."""
        return keras.ops.copy(x)

    def compute_output_spec(self, x: Tensor) -> Any:
        """Return the shape and dtype of `x`."""
        return keras.KerasTensor(x.shape, dtype=x.dtype)


def _check(layer: Any) -> None:
    if not isinstance(layer, RNN):
        raise problem(
            "Only a recurrent layer has a step.",
            received=f"a {type(layer).__name__}",
            expected="a cellkit.RNN",
            fix="pass the layer itself; a Bidirectional layer needs the whole sequence",
        )
    if not layer.built:
        raise problem(
            "The layer has no weights yet.",
            received=f"the layer {layer.name!r}, which is not built",
            expected="a layer that was called, built or loaded",
            fix="call it once, or `layer.build((None, None, features))`",
        )
    if layer.go_backwards:
        raise problem(
            "A layer that goes backwards cannot be run step by step.",
            received=f"the layer {layer.name!r} with go_backwards=True",
            expected="a layer that goes forwards: a stream has no end to begin with",
            fix="export the layer itself, for whole sequences",
        )


def _input_names(shapes: Any, count: int) -> list[str]:
    """Return a name for each leaf of the inputs, after its place in their structure."""
    names = [""] * count

    def walk(value: Any, name: str) -> None:
        if isinstance(value, int):
            names[value] = name
            return
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, entry in pairs:
            walk(entry, f"{name}_{key}")

    walk(pack_like_shapes(shapes, list(range(count))), "inputs")
    return names


def _numbered(name: str, count: int) -> list[str]:
    return [name] if count == 1 else [f"{name}_{i}" for i in range(count)]


def _state_names(layer: RNN) -> list[str]:
    """Return the names of the states, from the spec of the cell where it fits."""
    count, spec = len(layer.runner.layout.specs), spec_of(type(layer.cell))
    named = spec.states if spec is not None and len(spec.states) == count else ()
    if named and all(name.isidentifier() for name in named):
        return list(named)
    return [str(i) for i in range(count)]
