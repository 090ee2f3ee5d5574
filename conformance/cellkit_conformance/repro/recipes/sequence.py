"""SEQ, STA and MSK: the loop over time, its states and its masks."""

from __future__ import annotations

import re

import numpy as np

from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.repro.literals import access, plain_array
from cellkit_conformance.repro.recipes.common import (
    MASK,
    count_of,
    differentiate,
    inputs_expression,
    inputs_of,
    last,
    layer_and_inputs,
    layer_of,
    limit_of,
    recipe,
    step,
    symbolic,
)
from cellkit_conformance.repro.writer import NoScript, Writer
from cellkit_conformance.subject.record import Values
from cellkit_conformance.trees import leaves, map_trees, paths


@recipe("SEQ-04", "SEQ-06")
def _shapes_of_results(w: Writer) -> None:
    call = last(w, "layer")
    states = call.states
    if states is None and w.result.requirement == "SEQ-06":
        states = w.subject.random_states(Example(0, 3))
    want = w.subject.expect(call.inputs, states)
    output = want.result(bool(call.layer.return_sequences))
    shapes = [leaf.shape for leaf in leaves(output)] + [leaf.shape for leaf in leaves(want.states)]
    name = w.run(call)
    w.lines(
        f"got = sorted(tuple(leaf.shape) for leaf in keras.tree.flatten({name}))",
        f"assert got == {sorted(shapes)!r}, got",
    )


@recipe("SEQ-08")
def _memory(w: Writer) -> None:
    base, changed = w.run(last(w, "layer", 3)), w.run(last(w, "layer"))
    w.lines(
        "later = lambda result: keras.tree.map_structure(lambda y: y[:, 1:], result[0])",
        f"one, other = [later({base}), {base}[1:]], [later({changed}), {changed}[1:]]",
        "assert not same(one, other), 'the first input changes nothing afterwards'",
    )


@recipe("SEQ-12")
def _model(w: Writer) -> None:
    values = w.context.evidence
    if not isinstance(values, Values):
        raise NoScript("nothing was compared")
    batch, time = values.want.shape[:2]
    inputs = w.subject.inputs(Example(batch, time, seed=w.context.seed))
    want = w.subject.expect(inputs).sequence
    w.layer(w.subject.layer(return_sequences=True))
    symbolic = map_trees(lambda a: a.shape[2:], inputs)
    w.lines(f"inputs = {w.literal(inputs)}")
    shapes = inputs_expression(symbolic)
    w.lines(
        f"symbolic = {shapes}",
        "model = keras.Model(symbolic, layer(symbolic)[0])",
        "got = keras.tree.flatten(model.predict_on_batch(inputs))",
    )
    number = next(n for n, leaf in enumerate(leaves(want)) if leaf.shape == values.want.shape)
    w.lines(f"got = got[{number}]", f"want = {plain_array(values.want)}")
    w.compare(values)


@recipe("SEQ-14")
def _layouts(w: Writer) -> None:
    call = last(w, "layer")
    layer, inputs = layer_and_inputs(w, call)
    w.lines(
        f"want = {layer}({inputs})",
        f"plain = keras.tree.map_structure(keras.ops.convert_to_numpy, {inputs})",
        "layouts = {",
        "    'Fortran order': np.asfortranarray,",
        "    'negative strides': lambda a: a[:, ::-1].copy()[:, ::-1],",
        "    'a view': lambda a: np.repeat(a, 2, axis=0)[::2],",
        "}",
        "for name, change in layouts.items():",
        f"    got = {layer}(keras.tree.map_structure(change, plain))",
        "    assert same(got, want), name",
    )


@recipe("STA-02")
def _forms_of_states(w: Writer) -> None:
    example = w.context.current
    if example is None:
        raise NoScript("no example was drawn")
    inputs, states = w.subject.inputs(example), w.subject.random_states(example)
    want = w.subject.expect(inputs, states)
    layer = w.layer(w.subject.layer(return_sequences=True))
    w.data("inputs", inputs)
    w.data("states", states)
    values = w.context.evidence
    limit = values.limit if isinstance(values, Values) else 0.0
    w.lines(
        "forms = [states, keras.tree.map_structure(keras.ops.convert_to_numpy, states)]",
        "if isinstance(states, list):",
        "    forms.append(tuple(states))",
        "for form in forms:",
        f"    result = {layer}(inputs, initial_state=form)",
    )
    for path, leaf in paths(want.sequence):
        w.lines(
            f"    got = keras.ops.convert_to_numpy(result[0]{access(want.sequence, path)})",
            f"    want = {plain_array(leaf)}",
            f"    error = np.abs(got - want) / np.maximum(1, np.abs(want))",  # noqa: F541
            f"    assert np.all(error <= {limit or 1e-5!r}), f'the error is {{error.max()}}'",
        )


@recipe("STA-04", "STA-05", "STA-06")
def _stored_states(w: Writer) -> None:
    layer = w.layer(w.subject.layer(return_sequences=True, stateful=True))
    if w.result.requirement == "STA-05":
        w.lines(f"{layer}.reset_state()  # before the first call")
        if not w.calls:
            return
    call = last(w, "layer")
    layer = w.layer(call.layer)
    name = w.run(call)
    if w.result.requirement == "STA-06":
        w.lines(f"want = {name}[1:]")
    else:
        batch = leaves(call.inputs)[0].shape[0]
        w.lines(f"{layer}.reset_state()", f"want = {layer}.get_initial_state(batch_size={batch})")
    w.lines(f"assert same({layer}.states, want), 'the stored states are others'")


@recipe("STA-10")
def _kinds_of_states(w: Writer) -> None:
    cell = w.cell()
    x, states = step(w)
    w.lines(
        f"_, new = {cell}({x}, {states})",
        f"layer = {w.name_of_class(type(w.subject.layer()))}({cell}, return_state=True)",
        f"run = layer(keras.tree.map_structure(lambda a: a[:, None], {x}), initial_state={states})",
        f"before = sorted(str(leaf.dtype) for leaf in keras.tree.flatten({states}))",
        "for after in (new, run[1:]):",
        "    after = sorted(str(leaf.dtype) for leaf in keras.tree.flatten(after))",
        "    assert after == before, f'{before} became {after}'",
    )


@recipe("STA-13")
def _learned_states(w: Writer) -> None:
    path = re.search(r"state (\S+) has no gradient", w.result.message)
    if path is None:
        raise NoScript("the message names no weight")
    number = [v.path for v in w.subject.cell.weights].index(path.group(1))
    differentiate(w, last(w, "gradient"))
    w.lines(
        f"name = 'weight ' + cell.weights[{number}].path",
        "assert found[name].any(), f'{name}, a learned initial state, has no gradient'",
    )


@recipe("MSK-05", "MSK-06")
def _zeros(w: Writer) -> None:
    call = last(w, "layer")
    mask = np.asarray(call.mask, bool)
    first = w.result.requirement == "MSK-05"
    where = ~np.logical_or.accumulate(mask, axis=1) if first else ~mask
    name = w.run(call)
    w.lines(
        f"where = np.array({where.tolist()})"
        + ("  # before the first valid step" if first else "  # masked steps"),
        f"for output in keras.tree.flatten({name}[0]):",
        "    largest = np.abs(keras.ops.convert_to_numpy(output)[where]).max()",
        "    assert largest == 0, f'the output there is {largest}'",
    )


@recipe("MSK-09")
def _backward_poison(w: Writer) -> None:
    differentiate(w, last(w, "gradient", 2), "clean")
    differentiate(w, last(w, "gradient"), "poisoned")
    w.lines(
        "for name, want in clean.items():",
        "    got = poisoned[name]",
        "    assert np.isfinite(got).all(), f'the gradient of {name} is not finite'",
        "    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5, err_msg=name)",
    )


@recipe("MSK-10")
def _gap(w: Writer) -> None:
    call = last(w, "gradient")
    differentiate(w, call)
    gap = int(np.argmin(np.asarray(call.mask)[0]))
    w.lines(
        "masked = ~keras.ops.convert_to_numpy(mask)",
        "inputs = {name: g for name, g in found.items() if name.startswith('input')}",
        "for name, gradient in inputs.items():",
        "    assert not gradient[masked].any(), f'masked {name} has a gradient'",
    )
    if "truncated" not in w.context.target.traits:
        w.lines(
            f"assert any(g[:, :{gap}].any() for g in inputs.values()), 'nothing passes the gap'"
        )


@recipe("MSK-11")
def _mask_dtypes(w: Writer) -> None:
    example = w.context.current
    if example is None:
        raise NoScript("no example was drawn")
    layer = w.layer(w.subject.layer(return_sequences=True))
    w.data("inputs", w.subject.inputs(example))
    w.lines(
        f"mask = {plain_array(np.asarray(example.mask_array()))}",
        f"want = {layer}(inputs, mask=keras.ops.convert_to_tensor(mask))",
        'for dtype in ("bool", "int32", "uint8", "float32"):',
        "    cast = mask.astype(dtype)",
        "    for form in (cast, keras.ops.convert_to_tensor(cast)):",
        f"        got = {layer}(inputs, mask=form)",
        "        assert same(got, want), f'a mask of {dtype} as {type(form).__name__}'",
    )


@recipe("MSK-15")
def _handed_on(w: Writer) -> None:
    w.cell()
    inputs = w.data("inputs", w.subject.inputs(Example(3, 5)))
    cls = w.name_of_class(type(w.subject.layer()))
    w.lines(
        "mask = tensor([[1, 1, 0, 1, 0]] * 3, 'bool')",
        "for sequences in (True, False):",
        "    for with_state in (True, False):",
        f"        layer = {cls}(cell, return_sequences=sequences, return_state=with_state)",
        f"        result = layer({inputs})",
        "        count = len(keras.tree.flatten(result[0] if with_state else result))",
        f"        found = keras.tree.flatten(layer.compute_mask({inputs}, mask))",
        "        handed = [m is not None for m in found]",
        "        said = f'return_sequences={sequences}, return_state={with_state}: {handed}'",
        "        assert all(h == sequences for h in handed[:count]), said",
        "        assert not any(handed[count:]), said",
        "        for m in found[: count if sequences else 0]:",
        "            m = keras.ops.convert_to_numpy(m).astype(bool)",
        "            np.testing.assert_array_equal(m, keras.ops.convert_to_numpy(mask))",
    )


@recipe("MSK-17")
def _denied(w: Writer) -> None:
    action = w.expression(last(w, "layer"))
    w.lines(
        "try:",
        f"    {action}",
        "except (ValueError, NotImplementedError) as error:",
        "    print(f'refused, as it must be: {error}')",
        "else:",
        "    raise AssertionError('a mask was accepted; the spec does not claim masking')",
    )


GIVES_MASK = """\
class GivesMask(keras.layers.Layer):
    supports_masking = True

    def call(self, inputs):
        return inputs

    def compute_mask(self, inputs, previous_mask=None):
        return tensor(MASK, "bool")
"""


@recipe("MSK-16", alone=True)
def _implicit(w: Writer) -> None:
    layer, inputs = layer_of(w), inputs_of(w)
    w.helpers["GivesMask"] = GIVES_MASK
    w.lines(
        f"MASK = {MASK}",
        "giver = GivesMask()",
        f"want = {layer}({inputs}, mask=tensor(MASK, 'bool'))",
        f"got = {layer}(keras.tree.map_structure(giver, {inputs}))",
        "assert same(got, want), 'the mask of the layer before is not the explicit one'",
        f"symbolic = {symbolic(w)}",
        "masked = keras.tree.map_structure(giver, symbolic)",
        f"model = keras.Model(symbolic, {layer}(masked)[0])",
        f"close(model.predict_on_batch({inputs}), want[0], {limit_of(w)!r})",
    )


@recipe("STA-07", alone=True)
def _ways_of_running(w: Writer) -> None:
    layer, inputs = layer_of(w, stateful=True), inputs_of(w, time=3)
    plain = layer_of(w)
    shapes = symbolic(w).replace("keras.Input((None", "keras.Input(batch_shape=(3, 3")
    w.lines(
        f"symbolic = {shapes}",
        f"outputs = keras.tree.flatten({layer}(symbolic)[0])",
        "model = keras.Model(symbolic, outputs)",
        "loss = lambda y_true, y_pred: keras.ops.mean(0.0 * y_pred)",
        "model.compile(keras.optimizers.SGD(0.0), loss=[loss] * len(outputs))",
        "zeros = [np.zeros((3, 3, *y.shape[2:]), 'float32') for y in outputs]",
        f"numpy = keras.tree.map_structure(keras.ops.convert_to_numpy, {inputs})",
        "options = {'batch_size': 3, 'verbose': 0}",
        "ways = {",
        "    'predict': lambda: model.predict(numpy, **options),",
        "    'evaluate': lambda: model.evaluate(numpy, zeros, **options),",
        "    'fit': lambda: model.fit(numpy, zeros, shuffle=False, **options),",
        "    'train_on_batch': lambda: model.train_on_batch(numpy, zeros),",
        f"    'a call': lambda: {layer}({inputs}),",
        "}",
        f"{layer}.reset_state()",
        f"states = {plain}.get_initial_state(batch_size=3)",
        "for way, run in ways.items():",
        "    print(way)",
        "    run()",
        "    states = list(states) if isinstance(states, tuple) else states",
        f"    states = {plain}({inputs}, initial_state=states)[1:]",
        f"    states = states if len(states) == {count_of(w)} else states[0]",
        f"    close({layer}.states, states, {limit_of(w)!r})",
    )


@recipe("STA-09", alone=True)
def _saved_states(w: Writer) -> None:
    layer, inputs = layer_of(w, stateful=True), inputs_of(w, time=3)
    w.imports.add("import tempfile")
    shapes = symbolic(w).replace("keras.Input((None", "keras.Input(batch_shape=(3, 3")
    w.lines(
        f"symbolic = {shapes}",
        f"model = keras.Model(symbolic, {layer}(symbolic)[0])",
        f"{layer}.reset_state()",
        f"{layer}({inputs})",
        "with tempfile.TemporaryDirectory() as folder:",
        "    model.save(f'{folder}/model.keras')",
        "    again = keras.models.load_model(f'{folder}/model.keras')",
        "loaded = next(la for la in again.layers if hasattr(la, 'reset_state'))",
        f"assert same(loaded.states, {layer}.states), 'the stored states are not loaded'",
        f"close(loaded({inputs}), {layer}({inputs}), {limit_of(w)!r})",
        "loaded.reset_state()",
        "fresh = loaded.get_initial_state(batch_size=3)",
        "assert same(loaded.states, fresh), 'reset_state does not reset what was loaded'",
    )


@recipe("STA-14", alone=True)
def _encoder_and_decoder(w: Writer) -> None:
    encoder, inputs = layer_of(w), inputs_of(w)
    decoder = layer_of(w, return_sequences=False)
    w.lines(
        f"_, *states = {encoder}({inputs})",
        f"states = states if len(states) == {count_of(w)} else states[0]",
        f"got = {decoder}({inputs}, initial_state=states)",
        f"twice = keras.tree.map_structure(lambda x: keras.ops.concatenate([x, x], 1), {inputs})",
        f"want = {decoder}(twice)",
        f"close(keras.tree.flatten(got), keras.tree.flatten(want), {limit_of(w)!r})",
        f"symbolic = {symbolic(w)}",
        f"_, *states = {encoder}(symbolic)",
        f"states = states if len(states) == {count_of(w)} else states[0]",
        f"announced = keras.tree.flatten({decoder}(symbolic, initial_state=states))",
        "for said, real in zip(announced, keras.tree.flatten(got)):",
        "    assert tuple(said.shape[1:]) == tuple(real.shape[1:]), (said.shape, real.shape)",
    )
