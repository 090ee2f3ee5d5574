"""WRP: the layer inside wrappers, stacks and models."""

from __future__ import annotations

import itertools
from typing import Any

import keras
import numpy as np

from cellkit_conformance.checks import check
from cellkit_conformance.checks.context import Context
from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.outcome import NotApplicable
from cellkit_conformance.subject import backend
from cellkit_conformance.subject.subject import Subject
from cellkit_conformance.trees import Tree, leaves, map_trees

SEQUENCES = {"return_sequences": True}
MASK = np.array([[1, 1, 0, 1, 0], [0, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=bool)

MERGES: dict[str | None, Any] = {
    "concat": lambda a, b: np.concatenate([a, b], axis=-1),
    "sum": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "ave": lambda a, b: (a + b) / 2,
    None: None,
}


@check("WRP-01")
def both_directions(ctx: Context) -> None:
    """Compare every merge mode with a forward and a backward run of the oracle."""
    for subject in itertools.islice(ctx.cases(), 1):
        example = Example(3, 5, seed=ctx.seed)
        inputs, mask = subject.inputs(example), _mask(ctx)
        forward = subject.fresh_layer(return_sequences=True, return_state=False)
        wrapper = ctx.bidirectional()(forward)
        given = {} if mask is None else {"mask": backend.to_tensor(mask)}
        x = map_trees(backend.to_tensor, inputs)
        wrapper(x, **given)
        expected = _both(subject, wrapper, inputs, mask)
        for mode, merge in MERGES.items():
            wrapper.merge_mode = mode
            got = backend.to_numpy(wrapper(x, **given))
            ctx.examples += 1
            want = list(expected) if merge is None else map_trees(merge, *expected)
            if merge is None:
                got = list(got)
            ctx.close(f"output merged by {mode!r}", got, want, _merged(subject, expected))


@check("WRP-02")
def two_different_layers(ctx: Context) -> None:
    """Give the backward direction explicitly, return states, and start from some."""
    for subject in itertools.islice(ctx.cases(), 1):
        example = Example(3, 5, seed=ctx.seed)
        inputs = subject.inputs(example)
        options = {"return_sequences": True, "return_state": True}
        forward = subject.fresh_layer(**options)
        backward = subject.fresh_layer(go_backwards=True, **options)
        wrapper = ctx.bidirectional()(forward, backward_layer=backward, merge_mode="concat")
        x = map_trees(backend.to_tensor, inputs)
        first, second = subject.random_states(example), subject.random_states(Example(3, 5, seed=9))
        if not isinstance(first, list):
            raise NotApplicable("the states are not a flat list, which is what the wrapper takes")
        start = [backend.to_tensor(a) for a in (*leaves(first), *leaves(second))]
        flat = all(not isinstance(entry, (list, tuple, dict)) for entry in first)
        if not flat:
            raise NotApplicable("the states are not a flat list, which is what the wrapper takes")
        output, *states = wrapper(x, initial_state=start)
        ahead, behind = _both(subject, wrapper, inputs, None, (first, second))
        want = map_trees(MERGES["concat"], ahead, behind)
        tolerance = _merged(subject, (ahead, behind))
        ctx.close("output", backend.to_numpy(output), want, tolerance)
        runs = [
            _run(subject, wrapper.forward_layer, inputs, None, first, False),
            _run(subject, wrapper.backward_layer, inputs, None, second, True),
        ]
        final = [leaf for run in runs for leaf in leaves(run.states)]
        got = backend.to_numpy(leaves(list(states)))
        ctx.close("state", got, [np.asarray(leaf) for leaf in final], tolerance)


def _both(
    subject: Subject,
    wrapper: Any,
    inputs: Tree,
    mask: np.ndarray | None,
    states: tuple[Tree, Tree] | None = None,
) -> tuple[Tree, Tree]:
    """Run the oracle in both directions, with the weights of each, in the order of time."""
    first, second = states or (None, None)
    ahead = _run(subject, wrapper.forward_layer, inputs, mask, first, False)
    behind = _run(subject, wrapper.backward_layer, inputs, mask, second, True)
    return ahead.sequence, map_trees(lambda a: a[:, ::-1], behind.sequence)


def _run(
    subject: Subject,
    layer: Any,
    inputs: Tree,
    mask: np.ndarray | None,
    states: Tree | None,
    go_backwards: bool,
) -> Any:
    """Run the oracle with the weights of another layer than the subject's."""
    from cellkit.registry import cell_weights, set_cell_weights

    kept = cell_weights(subject.cell)
    set_cell_weights(subject.cell, cell_weights(layer.cell))
    subject.__dict__.pop("symbols", None)
    try:
        # A wrapper returns zeros at masked steps, as Keras' own does.
        options = {"go_backwards": go_backwards, "zero_output_for_mask": True}
        return subject.expect(inputs, states, mask, **options)
    finally:
        set_cell_weights(subject.cell, kept)
        subject.__dict__.pop("symbols", None)


def _merged(subject: Subject, outputs: tuple[Tree, Tree]) -> Any:
    """Give the tolerance of a product of two results: their sizes multiply the errors."""
    import dataclasses

    size = max(float(np.abs(leaf).max(initial=0)) for leaf in leaves(list(outputs)))
    tolerance = subject.tolerance(5)
    return dataclasses.replace(tolerance, multiplier=2 * tolerance.multiplier * max(1.0, size))


@check("WRP-03")
def stack_equals_two_layers(ctx: Context) -> None:
    """Compare a stack of two cells in one layer with two layers, with a mask too."""
    for subject in itertools.islice(ctx.cases(), 1):
        inputs, mask = subject.inputs(Example(3, 5, seed=ctx.seed)), _mask(ctx)
        first = subject.fresh_layer(**SEQUENCES)
        middle = subject.run(first, inputs, None, mask)
        if len(leaves(middle.output)) != 1 or leaves(middle.output)[0].ndim != 3:
            raise NotApplicable("the output is not a vector, which the second cell would take")
        upper = keras.layers.SimpleRNNCell(2)
        second = ctx.layer(upper, return_sequences=True, return_state=True)
        given = {} if mask is None else {"mask": backend.to_tensor(mask)}
        passed = leaves(middle.output)[0]
        want = [backend.to_numpy(y) for y in second(backend.to_tensor(passed), **given)]
        stack = ctx.layer([first.cell, upper], return_sequences=True, return_state=True)
        output, *states = stack(map_trees(backend.to_tensor, inputs), **given)
        tolerance = subject.tolerance(5)
        ctx.close("output of the stack", backend.to_numpy(output), want[0], tolerance)
        got = backend.to_numpy(leaves(list(states)))
        ctx.close("states of the stack", got, [*leaves(middle.states), want[1]], tolerance)


@check("WRP-04")
def stack_of_one(ctx: Context) -> None:
    """Compare a stack of one cell with the cell."""
    for subject in itertools.islice(ctx.cases(), 1):
        inputs = subject.inputs(Example(3, 5, seed=ctx.seed))
        want = subject.run(subject.layer(**SEQUENCES), inputs)
        stack = ctx.layer([subject.cell], return_sequences=True, return_state=True)
        output, *states = stack(map_trees(backend.to_tensor, inputs))
        tolerance = subject.tolerance(5)
        ctx.close("output of a stack of one", backend.to_numpy(output), want.output, tolerance)
        got = backend.to_numpy(leaves(list(states)))
        ctx.close("states of a stack of one", got, leaves(want.states), tolerance)


@check("WRP-05")
def models_of_every_kind(ctx: Context) -> None:
    """Use the layer in Sequential, functional and subclassed models."""
    for subject in itertools.islice(ctx.cases(), 1):
        inputs = subject.inputs(Example(3, 5, seed=ctx.seed))
        layer = subject.layer(return_sequences=True, return_state=False)
        want = leaves(subject.run(layer, inputs).output)
        x, symbolic = map_trees(backend.to_tensor, inputs), subject.symbolic_inputs()

        class Subclassed(keras.Model):
            """Calls the layer."""

            def __init__(self, inner: Any) -> None:
                super().__init__()
                self.inner = inner

            def call(self, data: Any) -> Any:
                """Run the layer."""
                return self.inner(data)

        models = {
            "a functional model": keras.Model(symbolic, leaves(layer(symbolic))),
            "a subclassed model": Subclassed(layer),
        }
        if len(leaves(inputs)) == 1 and len(want) == 1:
            models["a sequential model"] = keras.Sequential([layer])
        for name, model in models.items():
            got = leaves(backend.to_numpy(model(x)))
            ctx.examples += 1
            ctx.close(f"output of {name}", got, want, subject.tolerance(5))


@check("WRP-06")
def one_layer_used_twice(ctx: Context) -> None:
    """Call one layer on two inputs of one model."""
    for subject in itertools.islice(ctx.cases(), 1):
        layer = subject.fresh_layer(**SEQUENCES)
        data = [subject.inputs(Example(3, 5, seed=ctx.seed + i)) for i in range(2)]
        want = [leaves(subject.run(layer, inputs).output) for inputs in data]
        count = len(layer.weights)
        symbolic = [_renamed(subject, i) for i in range(2)]
        outputs = [leaves(subject.split(layer, layer(node))[0]) for node in symbolic]
        model = keras.Model(symbolic, outputs)
        ctx.require(
            len(model.weights) == count,
            f"a model that uses the layer twice has {len(model.weights)} weights, not {count}",
        )
        got = model([map_trees(backend.to_tensor, inputs) for inputs in data])
        for number, (mine, theirs) in enumerate(zip(got, want, strict=True), 1):
            mine = leaves(backend.to_numpy(mine))
            ctx.close(f"output of use {number}", mine, theirs, subject.tolerance(5))


def _renamed(subject: Subject, number: int) -> Tree:
    """Make symbolic inputs whose names are taken once only."""
    return map_trees(
        lambda node: keras.Input(batch_shape=node.shape, name=f"{node.name}_use_{number}"),
        subject.symbolic_inputs(),
    )


def _mask(ctx: Context) -> np.ndarray | None:
    return MASK if "masking" in ctx.target.traits else None
