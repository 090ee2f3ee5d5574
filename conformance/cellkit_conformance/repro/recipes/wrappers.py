"""WRP: the layer inside wrappers, stacks and models; and the padding of both directions."""

from __future__ import annotations

import numpy as np

from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.repro.literals import plain_array
from cellkit_conformance.repro.recipes.common import (
    MASK_ROWS,
    inputs_of,
    layer_of,
    limit_of,
    mask_argument,
    recipe,
    symbolic,
    wrapper,
)
from cellkit_conformance.repro.writer import NoScript, Writer
from cellkit_conformance.trees import leaves


def _layer(w: Writer) -> str:
    """Define the cell, and name the class of the layer under test."""
    w.cell()
    return w.name_of_class(type(w.subject.layer()))


def _both_directions(w: Writer, merge: str = "concat") -> tuple[str, str]:
    """Define a bidirectional layer whose two cells have the same literal weights."""
    cls, inputs = _layer(w), inputs_of(w)
    w.lines(
        f"forward = {cls}(cell, return_sequences=True)",
        f"both = {wrapper(w)}(forward, merge_mode={merge!r})",
        f"both({inputs})",
        "for direction in (both.forward_layer, both.backward_layer):",
        "    direction.cell.set_weights(weights)" if w.subject.cell.weights else "    pass",
    )
    return cls, inputs


@recipe("WRP-01", alone=True)
def _merges(w: Writer) -> None:
    cls, inputs = _both_directions(w)
    mask = mask_argument(w)
    plain = w.subject.inputs(Example(3, 5, seed=w.context.seed))
    array = np.array(MASK_ROWS, bool) if mask else None
    options = {"zero_output_for_mask": True}
    ahead = w.subject.expect(plain, None, array, **options).sequence
    behind = w.subject.expect(plain, None, array, go_backwards=True, **options).sequence
    if len(leaves(ahead)) > 1:
        raise NoScript("the output is a structure")
    w.lines(
        f"a = {plain_array(leaves(ahead)[0].astype(np.float32))}  # by the loop in NumPy",
        f"b = {plain_array(leaves(behind)[0][:, ::-1].astype(np.float32))}  # backwards",
        "merges = {'sum': keras.ops.add, 'mul': keras.ops.multiply,",
        "          'ave': lambda a, b: (a + b) / 2,",
        "          'concat': lambda a, b: keras.ops.concatenate([a, b], -1)}",
        "for mode, merge in merges.items():",
        "    both.merge_mode = mode",
        f"    got = both({inputs}{mask})",
        f"    close(got, merge(a, b), {limit_of(w)!r})",
    )


@recipe("WRP-02", alone=True)
def _two_layers(w: Writer) -> None:
    cls, inputs = _layer(w), inputs_of(w)
    plain = w.subject.inputs(Example(3, 5, seed=w.context.seed))
    first, second = (w.subject.random_states(Example(3, 5, seed=n)) for n in (w.context.seed, 9))
    ahead = w.subject.expect(plain, first)
    behind = w.subject.expect(plain, second, go_backwards=True)
    states = [np.asarray(leaf) for leaf in (*leaves(ahead.states), *leaves(behind.states))]
    w.lines(
        "options = {'return_sequences': True, 'return_state': True}",
        f"ahead = {cls}(cell, **options)",
        f"behind = {cls}(cell, go_backwards=True, **options)",
        f"both = {wrapper(w)}(ahead, backward_layer=behind)",
        f"both({inputs})",
        "for direction in (both.forward_layer, both.backward_layer):",
        "    direction.cell.set_weights(cell.get_weights())",
        f"start = {w.literal([*leaves(first), *leaves(second)])}",
        f"output, *states = both({inputs}, initial_state=start)",
        "want = [  # by the loop in NumPy, forwards and backwards",
        *(f"    {plain_array(leaf)}," for leaf in states),
        "]",
        f"close(states, want, {limit_of(w)!r})",
        f"a = ahead({inputs}, initial_state=start[: len(start) // 2])[0]",
        f"b = behind({inputs}, initial_state=start[len(start) // 2 :])[0]",
        f"close(output, keras.ops.concatenate([a, keras.ops.flip(b, 1)], -1), {limit_of(w)!r})",
    )


@recipe("WRP-03", alone=True)
def _stack_of_two(w: Writer) -> None:
    cls, inputs = _layer(w), inputs_of(w)
    mask = mask_argument(w)
    w.lines(
        "options = {'return_sequences': True, 'return_state': True}",
        "upper = keras.layers.SimpleRNNCell(2, seed=1)",
        f"stack = {cls}([cell, upper], **options)",
        f"output, *states = stack({inputs}{mask})",
        f"middle, *lower_states = {cls}(cell, **options)({inputs}{mask})",
        f"want, *upper_states = {cls}(upper, **options)(middle{mask})",
        f"close(output, want, {limit_of(w)!r})",
        f"close(states, [lower_states, upper_states], {limit_of(w)!r})",
    )


@recipe("WRP-04", alone=True)
def _stack_of_one(w: Writer) -> None:
    cls, inputs = _layer(w), inputs_of(w)
    w.lines(
        "options = {'return_sequences': True, 'return_state': True}",
        f"want = {cls}(cell, **options)({inputs})",
        f"got = {cls}([cell], **options)({inputs})",
        f"close(keras.tree.flatten(got), keras.tree.flatten(want), {limit_of(w)!r})",
    )


@recipe("WRP-05", alone=True)
def _models(w: Writer) -> None:
    layer, inputs = layer_of(w, return_state=False), inputs_of(w)
    w.lines(
        f"want = {layer}({inputs})",
        f"symbolic = {symbolic(w)}",
        f"models = [keras.Model(symbolic, {layer}(symbolic))]",
        f"if len(keras.tree.flatten([{inputs}, want])) == 2:",
        f"    models.append(keras.Sequential([{layer}]))",
        "for model in models:",
        f"    close(model({inputs}), want, {limit_of(w)!r})",
    )


@recipe("WRP-06", alone=True)
def _used_twice(w: Writer) -> None:
    layer = layer_of(w)
    first, second = inputs_of(w), inputs_of(w, seed=1)
    w.lines(
        f"want = [{layer}(x)[0] for x in ({first}, {second})]",
        f"count = len({layer}.weights)",
        "clone = lambda node: keras.KerasTensor(node.shape, node.dtype)",
        f"one, other = {symbolic(w)}, {symbolic(w)}",
        f"model = keras.Model([one, other], [{layer}(one)[0], {layer}(other)[0]])",
        "assert len(model.weights) == count, f'{len(model.weights)} weights, not {count}'",
        f"close(model([{first}, {second}]), want, {limit_of(w)!r})",
    )
    w.body = [line for line in w.body if not line.startswith("clone = ")]


@recipe("MSK-18", alone=True)
def _padding_of_both(w: Writer) -> None:
    _, _ = _both_directions(w)
    valid = inputs_of(w, time=3)
    w.lines(
        "found = []",
        "for places in ([0, 1, 2], [2, 3, 4], [0, 2, 4]):  # where the three valid steps stand",
        "    def pad(steps):",
        "        padded = np.full((3, 5, *steps.shape[2:]), 7.0, 'float32')",
        "        padded[:, places] = keras.ops.convert_to_numpy(steps)",
        "        return tensor(padded)",
        "    mask = np.zeros((3, 5), bool)",
        "    mask[:, places] = True",
        f"    output = both(keras.tree.map_structure(pad, {valid}), mask=mask)",
        "    output = keras.tree.map_structure(keras.ops.convert_to_numpy, output)",
        "    found.append(keras.tree.map_structure(lambda y: y[:, places], output))",
        "for other in found[1:]:",
        f"    close(other, found[0], {limit_of(w)!r})",
    )
