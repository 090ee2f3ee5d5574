"""Gradients of a fixed projection of what a layer returns, and how close two of them are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from cellkit_conformance.checks.context import Context
from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.subject import backend, record
from cellkit_conformance.subject.subject import Subject
from cellkit_conformance.trees import Tree, leaves, map_trees

SEQUENCES = {"return_sequences": True}


def gradients(
    subject: Subject,
    inputs: Tree,
    states: Tree | None,
    mask: np.ndarray | None = None,
    which: str = "all",
    training: bool = False,
    layer: Any = None,
    anew: bool = False,
    graph: bool = False,
    losses: bool = False,
) -> backend.Gradients:
    """Differentiate a fixed random projection of what the layer returns.

    Args:
        subject: The cell.
        inputs: Leaves (B, T, ...).
        states: Initial states, or None.
        mask: (B, T), or None.
        which: "all" for all outputs and states, "outputs" for all outputs, "last" for the last
            output and the final states: the output of a cell need not read its states. "states"
            for the final states alone.
        training: The training flag.
        layer: Another layer of the subject's than the plain one.
        anew: True to trace anew where a compiled function is at hand.
        graph: True if TensorFlow runs it in a graph, as JAX always does.
        losses: True to add the layer's own losses, such as those of regularizers.
    """
    layer = subject.layer(**SEQUENCES) if layer is None else layer
    if not layer.built:
        layer.build(map_trees(np.shape, inputs))
    call = record.Call("gradient", layer, inputs, states, mask, training, which=which, graph=graph)
    subject.calls.append(call)
    found = backend.differentiate(
        layer,
        _projection(subject, layer),
        inputs,
        states,
        weights_of_outputs(leaves(inputs)[0].shape[1], which),
        mask=mask,
        training=training,
        compiled=None if anew or losses else subject.compiled,
        graph=graph,
        losses=losses,
    )
    call.gradients = found.inputs, found.states, found.weights
    return found


def close_gradient(
    ctx: Context, subject: Subject, what: str, got: np.ndarray, want: np.ndarray
) -> None:
    """Compare a gradient with another, in units of the other's largest entry where that is above 1.

    Args:
        ctx: Of the check.
        subject: The cell.
        what: Names it in the message.
        got: The computed values.
        want: The expected value.
    """
    size = max(1.0, float(np.abs(want).max(initial=0)))
    ctx.close(what, got, want, subject.tolerance(10), unit=size)


def weights_of_outputs(time: int, which: str) -> np.ndarray:
    """Say which outputs count, and last of all whether the final states do.

    It is data and not code, so that one compiled function serves all.
    """
    counts = np.ones(time + 1, np.float32)
    if which == "outputs":
        counts[time] = 0.0
    if which == "last":
        counts[: time - 1] = 0.0
    if which == "states":
        counts[:time] = 0.0
    return counts


def _projection(subject: Subject, layer: Any) -> Callable[[Any, Any], Any]:
    """Make the scalar to differentiate, once per layer: compiled functions are found by it."""
    key = ("projection", id(layer))
    if key not in subject.compiled:
        subject.template  # noqa: B018 (made here, since inside a trace it would be a tracer)

        def loss(result: Any, counts: Any) -> Any:
            output, states = subject.split(layer, result)
            total = 0.0
            for number, leaf in enumerate(leaves(output)):
                steps = keras.ops.reshape(counts[:-1], (1, -1) + (1,) * (len(leaf.shape) - 2))
                total = total + _project(leaf, number, steps)
            for number, leaf in enumerate(leaves(states)):
                total = total + _project(leaf, 20 + number, counts[-1])
            return total

        subject.compiled[key] = loss
    return subject.compiled[key]


def _project(leaf: Any, number: int, counts: Any) -> Any:
    """Weigh every entry differently; constant weights would let errors cancel."""
    dtype = keras.backend.standardize_dtype(leaf.dtype)
    if "complex" in dtype:
        real = _project(keras.ops.real(leaf), number, counts)
        return real + _project(keras.ops.imag(leaf), number + 50, counts)
    if not keras.backend.is_float_dtype(dtype):
        return 0.0
    shape = tuple(int(size) for size in leaf.shape)
    weights = backend.to_tensor(cosines(shape, number).astype(np.float32))
    return keras.ops.sum(keras.ops.cast(leaf, "float32") * weights * counts)


def cosines(shape: tuple[int, ...], number: int) -> np.ndarray:
    """Return weights for the entries of a leaf, all of them different."""
    angles = np.arange(int(np.prod(shape)), dtype=np.float64) * 1.7 + 0.3 + number
    return np.cos(angles).reshape(shape)


def gradients_of_drawn_weights(ctx: Context, subject: Subject, seed: int) -> backend.Gradients:
    """Give the gradients for some weights: from the cell's own initial states for the first.

    Those may be learned; others reach what a slow part of a cell does at its first step alone.
    What the first ones tell is compiled for them alone, and is asked where the others have left
    something open.
    """
    subject.set_weights(seed)
    key = ("of drawn weights", ctx.seed, seed)
    if key not in subject.compiled:
        example = Example(3, 5, seed=ctx.seed + seed, weights=seed, initial_state=seed > 0)
        data = subject.inputs(example), subject.states(example)
        subject.compiled[key] = gradients(subject, *data), subject.calls.pop()
    found, call = subject.compiled[key]
    subject.calls.append(call)
    return found


def connected(gradients: Iterable[np.ndarray | None]) -> list[np.ndarray]:
    """Leave out what is not connected."""
    return [gradient for gradient in gradients if gradient is not None]
