"""GRD: gradients exist, reach back through time, and are finite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from cellkit_conformance import backend
from cellkit_conformance.checks import check
from cellkit_conformance.context import Context
from cellkit_conformance.strategies import Example, Space
from cellkit_conformance.subject import Subject
from cellkit_conformance.trees import Tree, leaves, map_trees

SEQUENCES = {"return_sequences": True}


def gradients(
    subject: Subject,
    inputs: Tree,
    states: Tree | None,
    mask: np.ndarray | None = None,
    which: str = "all",
    training: bool = False,
) -> backend.Gradients:
    """Differentiate a fixed random projection of what the layer returns.

    Args:
        subject: The cell.
        inputs: Leaves (B, T, ...).
        states: Initial states, or None.
        mask: (B, T), or None.
        which: "all" for all outputs and states, "outputs" for all outputs, "last" for the last
            output and the final states: the output of a cell need not read its states.
        training: The training flag.
    """
    layer = subject.layer(**SEQUENCES)
    if not layer.built:
        layer.build(map_trees(np.shape, inputs))
    batch, time = leaves(inputs)[0].shape[:2]
    # Which outputs count is data and not code, so that one compiled function serves both.
    counts = np.ones(time + 1, np.float32)
    if which == "outputs":
        counts[time] = 0.0
    if which == "last":
        counts[:] = 0.0
        counts[time - 1 :] = 1.0
    return backend.differentiate(
        layer,
        _projection(subject, layer),
        inputs,
        states,
        counts,
        mask=mask,
        training=training,
        compiled=subject.compiled,
    )


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
    angles = np.arange(int(np.prod(shape)), dtype=np.float64) * 1.7 + 0.3 + number
    weights = backend.to_tensor(np.cos(angles).reshape(shape).astype(np.float32))
    return keras.ops.sum(keras.ops.cast(leaf, "float32") * weights * counts)


@check("GRD-03")
def every_weight_learns(ctx: Context) -> None:
    """Look for weights without a gradient."""
    for subject in ctx.cases():
        seen: dict[str, bool] = {}
        for seed in range(3):
            subject.set_weights(seed)
            # From the cell's own initial states, which may be learned, and from others, which
            # reach what a slow part of a cell does at its first step alone.
            example = Example(3, 5, seed=ctx.seed + seed, weights=seed, initial_state=seed > 0)
            found = gradients(subject, subject.inputs(example), subject.states(example))
            ctx.examples += 1
            for name, gradient in found.weights.items():
                learns = gradient is not None and bool(np.any(gradient))
                seen[name] = seen.get(name, False) or learns
        dead = [name for name, learns in seen.items() if not learns]
        ctx.require(not dead, f"no gradient reaches the trainable weight(s) {', '.join(dead)}")


@check("NUM-10")
def no_dead_inputs(ctx: Context) -> None:
    """Look for input features, state entries and weight entries that change nothing."""
    for subject in ctx.cases():
        alive: dict[str, np.ndarray] = {}
        for seed in range(4):
            subject.set_weights(seed)
            example = Example(3, 5, seed=ctx.seed + seed, weights=seed, initial_state=True)
            found = gradients(subject, subject.inputs(example), subject.states(example))
            ctx.examples += 1
            for name, gradient in found.items():
                if gradient is None:
                    ctx.fail(f"{name} changes nothing")
                moves = gradient != 0
                if name.startswith("input"):
                    moves = moves.any(axis=(0, 1))
                elif name.startswith("state"):
                    moves = moves.any(axis=0)
                alive[name] = alive.get(name, np.False_) | moves
        for name, moves in alive.items():
            dead = int((~np.asarray(moves)).sum())
            ctx.require(dead == 0, f"{dead} of {np.size(moves)} entries of {name} change nothing")


@check("GRD-04")
def gradient_reaches_the_first_input(ctx: Context) -> None:
    """Differentiate the last of five outputs and the final states by the first input."""
    reached: list[bool] = []

    def body(subject: Subject, example: Example) -> None:
        found = gradients(subject, subject.inputs(example), None, which="last")
        first = [g[:, 0] for g in found.inputs.values() if g is not None]
        reached.append(any(np.any(g) for g in first))

    for subject in ctx.cases():
        ctx.each(subject, Space(initial_states=[False], values=["normal"]), body, 0)
        ctx.require(
            any(reached), "neither output 5 nor the states after it have a gradient by input 1"
        )


@check("GRD-05")
def gradients_are_finite(ctx: Context) -> None:
    """Differentiate at one step, at zeros, and at large inputs."""
    for subject in ctx.cases():
        for time, scale in ((1, 1.0), (5, 0.0), (5, 1e3)):
            example = Example(3, time, seed=ctx.seed)
            inputs = map_trees(lambda a, k=scale: (a * k).astype(a.dtype), subject.inputs(example))
            found = gradients(subject, inputs, None)
            ctx.examples += 1
            for name, gradient in found.items():
                ok = gradient is None or bool(np.isfinite(gradient).all())
                ctx.require(
                    ok,
                    f"a gradient of {name} is not finite for {time} step(s) and inputs of "
                    f"magnitude {scale:g}",
                )
