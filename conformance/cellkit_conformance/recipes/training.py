"""GRD and RNG: gradients, and what is random in training."""

from __future__ import annotations

import re

import numpy as np

from cellkit_conformance.recipes.common import (
    CLOSE,
    SAME,
    count_of,
    differentiate,
    inputs_of,
    last,
    layer_and_inputs,
    layer_of,
    limit_of,
    recipe,
    symbolic,
)
from cellkit_conformance.scripts import NoScript, Writer, plain_array
from cellkit_conformance.strategies import Example
from cellkit_conformance.trees import Tree, leaves, map_trees, paths


@recipe("GRD-03")
def _learns(w: Writer) -> None:
    differentiate(w, last(w, "gradient"))
    w.lines(
        "dead = [name for name, g in found.items() if name.startswith('weight') and not g.any()]",
        "assert not dead, f'no gradient reaches {dead}'",
    )


@recipe("GRD-04")
def _reaches(w: Writer) -> None:
    differentiate(w, last(w, "gradient"))
    w.lines(
        "first = [g[:, 0] for name, g in found.items() if name.startswith('input')]",
        "assert any(g.any() for g in first), 'no gradient reaches the first input'",
    )


@recipe("GRD-05")
def _finite_gradients(w: Writer) -> None:
    differentiate(w, last(w, "gradient"))
    w.lines(
        "for name, gradient in found.items():",
        "    assert np.isfinite(gradient).all(), f'the gradient of {name} is not finite'",
    )


@recipe("RNG-01")
def _variables_stay(w: Writer) -> None:
    call = last(w, "layer")
    layer, inputs = layer_and_inputs(w, call)
    w.helpers["same"] = SAME
    w.lines(
        f"first = {layer}({inputs})",
        f"before = [keras.ops.convert_to_numpy(v).copy() for v in {layer}.variables]",
        f"assert same({layer}({inputs}), first), 'two calls in inference differ'",
        f"assert same({layer}({inputs}, training=False), first), 'training=False differs'",
        f"for variable, old in zip({layer}.variables, before):",
        "    now = keras.ops.convert_to_numpy(variable)",
        "    assert np.array_equal(now, old), f'inference changed {variable.path}'",
    )


@recipe("RNG-02")
def _training_differs(w: Writer) -> None:
    call = last(w, "layer")
    layer, inputs = layer_and_inputs(w, call)
    w.helpers["same"] = SAME
    w.lines(
        f"inference = {layer}({inputs}, training=False)",
        f"first, second = ({layer}({inputs}, training=True) for _ in range(2))",
        "assert not same(first, inference), 'training gives what inference gives'",
        "assert not same(first, second), 'two training calls give the same'",
    )


@recipe("RNG-03")
def _masks_of_dropout(w: Writer) -> None:
    call = last(w, "gradient")
    differentiate(w, call)
    first = w.body.pop()
    w.lines(
        "patterns = []",
        "for _ in range(2):",
        f"    {first}",
        "    dropped = [g == 0 for name, g in found.items() if name.startswith('input')]",
        "    dropped = [mask for mask in dropped if mask.any()]",
        "    assert dropped, 'a rate of 0.5 dropped no entry of any input'",
        "    for mask in dropped:",
        "        assert (mask == mask[:, :1]).all(), 'the mask changes from step to step'",
        "        assert not (mask == mask[:1]).all(), 'all rows have the same mask'",
        "    patterns.append(dropped)",
        f"    {w.layer(call.layer)}({w.data('inputs', call.inputs)}, training=True)",
        "pairs = zip(*patterns)",
        "assert not all(np.array_equal(a, b) for a, b in pairs), 'two calls have the same mask'",
    )


@recipe("RNG-07")
def _random_state(w: Writer) -> None:
    call = last(w, "layer")
    layer, inputs = w.layer(w.subject.layer(return_sequences=True)), w.data("inputs", call.inputs)
    w.lines(
        f"{layer}({inputs}, training=True)",
        f"before = [keras.ops.convert_to_numpy(v).copy() for v in {layer}.variables]",
        f"{layer}({inputs}, training=True)",
        f"after = [keras.ops.convert_to_numpy(v) for v in {layer}.variables]",
        "moved = not all(np.array_equal(a, b) for a, b in zip(before, after))",
        "assert moved, 'training with dropout moves no variable: its random state is not one'",
    )


@recipe("RNG-10")
def _no_seed(w: Writer) -> None:
    inputs = w.data("inputs", last(w, "layer").inputs)
    cls = w.name_of_class(type(w.subject.layer()))
    w.helpers["same"] = SAME
    w.lines(
        f"cells = [{w.make(seed=None)} for _ in range(2)]",
        "for cell in cells:",
        f"    cell.build({w.shapes()})",
        "cells[1].set_weights(cells[0].get_weights())",
        f"one, other = ({cls}(cell)({inputs}, training=True) for cell in cells)",
        "assert not same(one, other), 'two layers without a seed drop the same entries'",
    )


@recipe("RNG-11")
def _rates(w: Writer) -> None:
    call = last(w, "layer")
    claimed = "does nothing in training" in w.result.message
    layer, inputs = layer_and_inputs(w, call)
    states = w.data("states", call.states)
    w.helpers["same"] = SAME
    w.lines(
        f"inference = {layer}({inputs}, initial_state={states}, training=False)",
        f"training = {layer}({inputs}, initial_state={states}, training=True)",
        "acts = not same(training, inference)",
        f"assert acts == {claimed}, {w.result.message!r}",
    )


@recipe("GRD-01", alone=True)
def _slopes(w: Writer) -> None:
    found = re.search(r"slope by (input|state|weight) ?(\S*), as a part", w.result.message)
    if found is None:
        raise NoScript("the message names no slope")
    call, kind = last(w, "gradient"), found[1]
    inputs = map_trees(lambda a: a.astype(np.float64), call.inputs)
    states = map_trees(_wide, call.states)
    tree = {"input": inputs, "state": states, "weight": w.subject.symbols}[kind]
    if kind == "weight":
        raise NoScript("the reference has the weights of the paper, which may be others")
    order = [path for path, _ in paths(tree)]
    leaf = dict(paths(tree))[found[2]]
    if leaf.size > 60 or np.iscomplexobj(leaf):
        raise NoScript("its gradient has too many entries for a program")
    want = np.zeros(leaf.shape)
    for index in np.ndindex(leaf.shape):
        ends = []
        for change in (1e-6, -1e-6):
            kept, leaf[index] = leaf[index], leaf[index] + change
            ends.append(_projected(w, inputs, states))
            leaf[index] = kept
        want[index] = (ends[0] - ends[1]) / 2e-6
    differentiate(w, call)
    name = f"{kind} {order.index(found[2])}"
    w.lines(
        f"want = {plain_array(want.astype(np.float32))}  # by central differences, in float64",
        f"error = np.abs(found[{name!r}] - want).max() / max(1, np.abs(want).max())",
        f"assert error < 1e-3, f'the error of the gradient by {name} is {{error}}'",
    )


def _wide(leaf: np.ndarray) -> np.ndarray:
    return leaf.astype(np.float64) if leaf.dtype == np.float32 else leaf


def _projected(w: Writer, inputs: Tree, states: Tree) -> float:
    """Compute of the reference what a script's `project` computes of the layer."""
    run = w.subject.expect(inputs, states)
    total = 0.0
    for number, leaf in enumerate([*leaves(run.sequence), *leaves(run.states)]):
        if leaf.dtype.kind == "f":
            angles = 1.7 * np.arange(leaf.size) + 0.3 + number
            total += float(np.sum(leaf * np.cos(angles).reshape(leaf.shape)))
    return total


@recipe("GRD-06", alone=True)
def _twice(w: Writer) -> None:
    call = last(w, "gradient")
    differentiate(w, call, "first")
    differentiate(w, call, "second")
    w.lines(
        "for name, gradient in first.items():",
        "    np.testing.assert_array_equal(second[name], gradient, err_msg=name)",
    )


@recipe("GRD-09", alone=True)
def _one_step(w: Writer) -> None:
    noisy = bool(last(w, "gradient").training)
    layer, inputs = layer_of(w), inputs_of(w)
    differentiate(w, last(w, "gradient"))
    first = w.body.pop()
    again = (
        f"for variable, seed in zip({layer}.non_trainable_variables, seeds):",
        "    variable.assign(seed)",
    )
    w.lines(
        f"symbolic = {symbolic(w)}",
        f"outputs = keras.tree.flatten({layer}(symbolic)[0])",
        f"seeds = [v.value for v in {layer}.non_trainable_variables]" if noisy else "seeds = []",
        first,
        *again,
        f"now = keras.tree.flatten({layer}({inputs}, training={noisy})[0])",
        *again,
        f"before = [keras.ops.convert_to_numpy(v).copy() for v in {layer}.trainable_variables]",
        "angles = [1.7 * np.arange(int(np.prod((3, 5, *y.shape[2:])))) + 0.3 for y in outputs]",
        "targets = [keras.ops.convert_to_numpy(y) - np.cos(a + n).reshape(y.shape)",
        "           for n, (a, y) in enumerate(zip(angles, now))]",
        "model = keras.Model(symbolic, outputs)",
        "loss = lambda y_true, y_pred: keras.ops.sum(keras.ops.square(y_pred - y_true)) / 2",
        "model.compile(keras.optimizers.SGD(0.125), loss=[loss] * len(outputs))",
        f"numpy = keras.tree.map_structure(keras.ops.convert_to_numpy, {inputs})",
        "model.train_on_batch(numpy, targets if len(targets) > 1 else targets[0])",
        f"for variable, old in zip({layer}.trainable_variables, before):",
        "    if variable.constraint is None and 'weight ' + variable.path in found:",
        "        want = old - 0.125 * found['weight ' + variable.path]",
        "        got = keras.ops.convert_to_numpy(variable)",
        "        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)",
    )


@recipe("GRD-10", alone=True)
def _stateful_twice(w: Writer) -> None:
    stateful, inputs = layer_of(w, stateful=True), inputs_of(w, time=3)
    plain = layer_of(w)
    differentiate(w, last(w, "gradient"))
    w.body.pop()
    w.lines(
        f"{stateful}({inputs})",
        f"{stateful}.reset_state()",
        "states = None",
        "for turn in ('first', 'second'):",
        f"    found = gradients({stateful}, {inputs}, None)",
        f"    want = gradients({plain}, {inputs}, states)",
        "    for name in found:",
        "        size = max(1, np.abs(want[name]).max())",
        "        error = np.abs(found[name] - want[name]).max() / size",
        "        assert error < 1e-3, f'{turn} gradient of {name}: the error is {error}'",
        f"    {stateful}.reset_state()",
        f"    states = {stateful}({inputs})[1:]",
        f"    states = states if len(states) == {count_of(w)} else states[0]",
    )


@recipe("RNG-05", alone=True)
def _same_masks(w: Writer) -> None:
    cls = w.name_of_class(type(w.subject.layer()))
    layer, inputs = layer_of(w), inputs_of(w, time=3)
    w.helpers["close"] = CLOSE
    w.lines(
        "runs = []",
        "for unroll in (False, False, True):",
        f"    cell = {w.make()}",
        f"    cell.build({w.shapes()})",
        "    cell.set_weights([keras.ops.convert_to_numpy(w) for w in weights])",
        f"    other = {cls}(cell, return_sequences=True, unroll=unroll)",
        f"    runs.append(other({inputs}, training=True))",
        "close(runs[1], runs[0], 0.0)  # two layers with the same seed",
        f"close(runs[2], runs[0], {limit_of(w)!r})  # unrolled",
    )
    w.body = [line for line in w.body if not line.startswith(f"{layer} = ")]


@recipe("RNG-06", alone=True)
def _after_an_error(w: Writer) -> None:
    layer, inputs = layer_of(w), inputs_of(w)
    example = Example(3, 5, seed=w.context.seed)
    states = w.data("states", w.subject.random_states(example))
    more = inputs_of(w, batch=8)
    w.lines(
        f"{layer}({inputs}, training=True)",
        f"twice = keras.tree.map_structure(lambda s: keras.ops.concatenate([s, s], -1), {states})",
        "try:",
        f"    {layer}({inputs}, initial_state=twice, training=True)",
        "except Exception as error:",
        "    print(f'refused, as it must be: {type(error).__name__}')",
        f"output = keras.tree.flatten({layer}({more}, training=True)[0])[0]",
        "assert output.shape[0] == 8, output.shape",
    )
