"""RNG: what is random in training."""

from __future__ import annotations

import re
from typing import Any

from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.repro.recipes.common import (
    count_of,
    differentiate,
    inputs_of,
    last,
    layer_and_inputs,
    layer_of,
    limit_of,
    recipe,
)
from cellkit_conformance.repro.writer import Writer


@recipe("RNG-01")
def _variables_stay(w: Writer) -> None:
    call = last(w, "layer")
    layer, inputs = layer_and_inputs(w, call)
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
    w.lines(
        f"inference = {layer}({inputs}, training=False)",
        f"first, second = ({layer}({inputs}, training=True) for _ in range(2))",
        "assert not same(first, inference), 'training gives what inference gives'",
        "assert not same(first, second), 'two training calls give the same'",
    )


@recipe("RNG-03", alone=True)
def _masks_of_dropout(w: Writer) -> None:
    if "with step 1 masked" in w.result.message:
        _recurrent_masks(w)
        return
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


def _layer_with(w: Writer, return_sequences: bool = True, **rate: float) -> str:
    """Define a layer around a cell of the first case with a rate; the script is about that one."""
    w.subject = w.context.subject(next(iter(w.context.target.cases)), **rate)
    return layer_of(w, return_sequences=return_sequences)


def _recurrent_masks(w: Writer) -> None:
    layer = _layer_with(w, recurrent_dropout=0.5, return_sequences=False)
    example = Example(8, 2, seed=w.context.seed)
    inputs = w.data("inputs", w.subject.inputs(example))
    states = w.data("states", w.subject.random_states(example))
    w.lines(
        f"twice = keras.tree.map_structure(lambda x: keras.ops.repeat(x[:, :1], 2, 1), {inputs})",
        f"{layer}(twice)",
        f"seeds = [keras.ops.convert_to_numpy(v).copy() for v in {layer}.non_trainable_variables]",
        "ends = []",
        "for step in range(2):  # from the same seeds, with the other step masked",
        "    keras.utils.set_random_seed(0)",
        f"    for variable, seed in zip({layer}.non_trainable_variables, seeds):",
        "        variable.assign(seed)",
        "    mask = np.arange(2)[None].repeat(8, axis=0) == step",
        f"    ends.append({layer}(twice, initial_state={states}, mask=mask, training=True))",
        f"close(ends[1], ends[0], {limit_of(w)!r})",
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
    w.lines(
        f"inference = {layer}({inputs}, initial_state={states}, training=False)",
        f"training = {layer}({inputs}, initial_state={states}, training=True)",
        "acts = not same(training, inference)",
        f"assert acts == {claimed}, {w.result.message!r}",
    )


@recipe("RNG-05", alone=True)
def _same_masks(w: Writer) -> None:
    cls = w.name_of_class(type(w.subject.layer()))
    layer, inputs = layer_of(w), inputs_of(w, time=3)
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


ROWS = 96
"""Rows over which a program counts: each has masks of its own."""


def _two_cells(w: Writer, name: str, rate: float) -> tuple[str, str]:
    """Define a layer with a rate and one without it, of the same weights, and give their names."""
    layer = _layer_with(w, **{name: rate})
    cls = w.name_of_class(type(w.subject.layer()))
    w.lines(
        f"still = {w.make(**{name: 0.0})}",
        f"still.build({w.shapes()})",
        "still.set_weights(cell.get_weights())",
        f"plain = {cls}(still, return_sequences=True, return_state=True)",
    )
    return layer, "plain"


def _many(w: Writer, name: str, tree: Any) -> str:
    """Define tensors of many rows that are three, again and again."""
    few = w.data(name, tree)
    w.lines(
        f"many_{name} = keras.tree.map_structure("
        f"lambda a: keras.ops.concatenate([a] * {ROWS // 3}), {few})"
    )
    return f"many_{name}"


@recipe("RNG-04", alone=True)
def _scaled(w: Writer) -> None:
    recurrent = re.search(r"with recurrent_dropout=0.5, state (\S*)", w.result.message)
    if recurrent:
        _recurrent_mean(w)
        return
    layer, plain = _two_cells(w, "dropout", 0.3)
    rows = _many(w, "inputs", w.subject.inputs(Example(3, 2, seed=w.context.seed)))
    w.import_backend()
    w.lines(
        "outputs, kept, total = (lambda result: result[0]), 0, 0",
        "for _ in range(4):",
        f"    found = gradients({layer}, {rows}, None, training=True, part=outputs)",
        "    scaled, masks = [], []",
        f"    for number, x in enumerate(keras.tree.flatten({rows})):",
        "        mask = (found[f'input {number}'] != 0).any(axis=1, keepdims=True)",
        "        if not mask.all():  # else this input comes through whole",
        "            kept, total = kept + mask.sum(), total + mask.size",
        "            mask = mask / 0.7",
        "        masks.append(mask)",
        "        scaled.append(keras.ops.convert_to_numpy(x) * mask.astype('float32'))",
        f"    x = keras.tree.pack_sequence_as({rows}, scaled)",
        f"    want = gradients({plain}, x, None, training=True, part=outputs)",
        "    for number, mask in enumerate(masks):",
        "        got, slope = found[f'input {number}'], want[f'input {number}'] * mask",
        "        error = np.abs(got - slope).max() / max(1, np.abs(slope).max())",
        f"        assert error < {max(limit_of(w), 1e-4)!r}, f'the scale is off by {{error}}'",
        f"    {layer}({rows}, training=True)  # moves the seed on",
        "bound = 6 * np.sqrt(0.3 * 0.7 / total)",
        "said = f'a rate of 0.3 kept {kept} of {total} entries'",
        "assert abs(kept / total - 0.7) < bound, said",
    )


def _recurrent_mean(w: Writer) -> None:
    layer = _layer_with(w, recurrent_dropout=0.5)
    example = Example(3, 1, seed=w.context.seed)
    inputs = _many(w, "inputs", w.subject.inputs(example))
    states = _many(w, "states", w.subject.random_states(example))
    w.lines(
        "",
        "",
        "def effect(size, training):",
        "    small = lambda s: keras.ops.cast(size, s.dtype) * s",
        f"    start = keras.tree.map_structure(small, {states})",
        f"    result = {layer}({inputs}, initial_state=start, training=training)",
        "    leaves = map(keras.ops.convert_to_numpy, keras.tree.flatten(result))",
        "    leaves = [leaf.reshape(len(leaf), -1) for leaf in leaves]",
        "    return np.concatenate([leaf for leaf in leaves if leaf.dtype == 'float32'], axis=1)",
        "",
        "",
        "rest = effect(0.0, False)",
        "mean, drawn = effect(0.05, False) - rest, effect(0.05, True) - rest",
        "along, size = (drawn * mean).sum(axis=1), (mean * mean).sum(axis=1)",
        "share = along.sum() / size.sum()",
        "bound = 0.05 + 6 * np.sqrt(((along - share * size) ** 2).sum()) / size.sum()",
        "said = f'in training a small state has {share:.2f} times the effect, on average'",
        "assert abs(share - 1) < bound, said",
    )


@recipe("RNG-09", alone=True)
def _zoned(w: Writer) -> None:
    layer, plain = _two_cells(w, "zoneout", 0.4)
    example = Example(3, 5, seed=w.context.seed, initial_state=True)
    inputs = _many(w, "inputs", w.subject.inputs(example))
    states = _many(w, "states", w.subject.random_states(example))
    limit = max(limit_of(w), 1e-5)
    w.lines(
        "",
        "",
        "def after(layer, steps, start, training=False):",
        f"    x = keras.tree.map_structure(lambda a: a[:, steps], {inputs})",
        "    states = list(layer(x, initial_state=start, training=training)[1:])",
        f"    return states if len(states) == {count_of(w)} else states[0]",
        "",
        "",
        "def floats(tree):",
        "    arrays = [keras.ops.convert_to_numpy(leaf) for leaf in keras.tree.flatten(tree)]",
        "    arrays = [a.reshape(len(a), -1) for a in arrays if a.dtype == 'float32']",
        "    return np.concatenate(arrays, axis=1)",
        "",
        "",
        "first = slice(0, 1)",
        f"old, new = floats({states}), floats(after({plain}, first, {states}))",
        f"mean = floats(after({layer}, first, {states}))",
        "error = np.abs(mean - (0.4 * old + 0.6 * new)).max()",
        f"assert error < {limit!r} * max(1, np.abs(new).max()), f'the mean is off by {{error}}'",
        f"drawn, again = (floats(after({layer}, first, {states}, True)) for _ in range(2))",
        f"is_old, is_new = np.abs(drawn - old) < {limit!r}, np.abs(drawn - new) < {limit!r}",
        "assert (is_old | is_new).all(), 'some entries are neither the old nor the new ones'",
        "kept, total = is_old[is_old != is_new].sum(), (is_old != is_new).sum()",
        "said = f'a rate of 0.4 kept {kept} of {total} entries'",
        "assert abs(kept / total - 0.4) < 6 * np.sqrt(0.24 / total), said",
        "assert not np.array_equal(drawn, again), 'two calls keep the same entries'",
        f"moving, start = True, {states}",
        "for t in range(5):",
        f"    following = after({plain}, slice(t, t + 1), start)",
        "    moving, start = moving & (floats(start) != floats(following)), following",
        f"kept = floats(after({layer}, slice(0, 5), {states}, True)) == old",
        "assert kept[moving].mean() < 0.2, f'{kept[moving].mean():.0%} are kept at all five steps'",
    )
