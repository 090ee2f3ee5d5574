"""Reproduction scripts of the requirements that compare no arrays: the check's few lines each.

A recipe adds lines to a `scripts.Writer`. It may use `cell` (built, with literal weights), `make()`
for a new cell, and the data of the calls that the check made.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from cellkit.structure import declared_output, declared_state
from cellkit_conformance.evidence import Call, Values
from cellkit_conformance.scripts import NoScript, Writer, access, plain_array
from cellkit_conformance.strategies import Example
from cellkit_conformance.trees import leaves, map_trees, paths

Recipe = Callable[[Writer], None]

RECIPES: dict[str, Recipe] = {}

SAME = """\
def same(one, other):
    one, other = keras.tree.flatten(one), keras.tree.flatten(other)
    pairs = zip(one, other, strict=True)
    to_numpy = keras.ops.convert_to_numpy
    return all(np.array_equal(to_numpy(a), to_numpy(b), equal_nan=True) for a, b in pairs)
"""

PROJECT = """\
def project(result):
    total = 0.0
    for number, leaf in enumerate(keras.tree.flatten(result)):
        if keras.backend.is_float_dtype(keras.backend.standardize_dtype(leaf.dtype)):
            angles = 1.7 * np.arange(int(np.prod(leaf.shape))) + 0.3 + number
            weigh = np.cos(angles).reshape(tuple(leaf.shape)).astype("float32")
            total = total + keras.ops.sum(leaf * keras.ops.convert_to_tensor(weigh))
    return total
"""

DIFFERENTIATE = {
    "torch": """\
def differentiate(function, arrays):
    xs = [torch.tensor(array, requires_grad=True) for array in arrays]
    found = torch.autograd.grad(function(xs), xs, allow_unused=True)
    return [np.zeros_like(a) if g is None else g.numpy() for a, g in zip(arrays, found)]
""",
    "tensorflow": """\
def differentiate(function, arrays):
    xs = [tf.constant(array) for array in arrays]
    with tf.GradientTape() as tape:
        tape.watch(xs)
        value = function(xs)
    found = tape.gradient(value, xs, unconnected_gradients="zero")
    return [tf.convert_to_tensor(g).numpy() for g in found]
""",
    "jax": """\
def differentiate(function, arrays):
    return [np.array(g) for g in jax.grad(function)([jax.numpy.array(a) for a in arrays])]
""",
}

GRADIENTS = '''\
def gradients(layer, inputs, states, mask=None, training=False, part=lambda result: result):
    """Give the gradients of one number by inputs, states and weights, in that order."""
    layer(inputs)  # builds what there is to build
    states = [] if states is None else states
    weights = layer.trainable_variables
    data = [inputs, states, [w.value for w in weights]]
    flat = [keras.ops.convert_to_numpy(leaf) for leaf in keras.tree.flatten(data)]
    floats = [i for i, leaf in enumerate(flat) if leaf.dtype == "float32"]

    def function(xs):
        leaves = [keras.ops.convert_to_tensor(leaf) for leaf in flat]
        for i, x in zip(floats, xs):
            leaves[i] = x
        x, s, values = keras.tree.pack_sequence_as(data, leaves)
        given = {"initial_state": s or None, "mask": mask, "training": training}
        given = {key: value for key, value in given.items() if value is not None}
        with keras.StatelessScope(state_mapping=list(zip(weights, values))):
            return project(part(layer(x, **given)))

    found = dict(zip(floats, differentiate(function, [flat[i] for i in floats])))
    names = [f"input {i}" for i, _ in enumerate(keras.tree.flatten(inputs))]
    names += [f"state {i}" for i, _ in enumerate(keras.tree.flatten(states))]
    names += [f"weight {w.path}" for w in weights]
    return {names[i]: gradient for i, gradient in found.items()}
'''

PARTS = {
    "all": "",
    "outputs": ", part=lambda result: result[0]",
    "last": ", part=lambda r: [keras.tree.map_structure(lambda y: y[:, -1], r[0]), r[1:]]",
}


def recipe(*identifiers: str) -> Callable[[Recipe], Recipe]:
    """Register a recipe.

    Args:
        *identifiers: Of the requirements.
    """

    def register(function: Recipe) -> Recipe:
        RECIPES.update(dict.fromkeys(identifiers, function))
        return function

    return register


# What a recipe starts from ------------------------------------------------------------------------


def _make(w: Writer) -> None:
    w.lines("def make():", f"    return {w.make()}", "", "", f"shape = {w.shapes()}")


def _step(w: Writer) -> tuple[str, str]:
    """Define tensors for one step, as the check of STR-03 draws them."""
    example = Example(3, 1, initial_state=True)
    x = map_trees(lambda a: a[:, 0], w.subject.inputs(example))
    return w.data("x", x), w.data("states", w.subject.random_states(example))


def _last(w: Writer, kind: str, back: int = 1) -> Call:
    found = [call for call in w.calls if call.kind == kind]
    if len(found) < back:
        raise NoScript(f"the check made no {kind} call")
    return found[-back]


def differentiate(w: Writer, call: Call, name: str = "found") -> None:
    """Add the gradients of a call, by inputs, states and weights.

    Args:
        w: The script.
        call: Of a gradient.
        name: What the script calls them.
    """
    for helper, text in (
        ("project", PROJECT),
        ("differentiate", DIFFERENTIATE[w.result.backend]),
        ("gradients", GRADIENTS),
    ):
        w.helpers[helper] = text
    w.imports |= {
        "torch": {"import torch"},
        "tensorflow": {"import tensorflow as tf"},
        "jax": {"import jax"},
    }[w.result.backend]
    states = "None" if call.states is None else w.data("states", call.states)
    more = f", mask={w.data('mask', np.asarray(call.mask))}" if call.mask is not None else ""
    more += ", training=True" if call.training else ""
    layer, inputs = w.layer(call.layer), w.data("inputs", call.inputs)
    w.lines(f"{name} = gradients({layer}, {inputs}, {states}{more}{PARTS[call.which]})")


def _layers_of_all_pairs(w: Writer) -> str:
    """Start a loop over the return options, and return the layer's class."""
    w.cell()
    example = Example(3, 5, seed=w.context.seed if w.result.requirement == "CMP-08" else 0)
    w.data("inputs", w.subject.inputs(example))
    cls = w.name_of_class(type(w.subject.layer()))
    w.lines(
        "for sequences in (False, True):",
        "    for with_state in (True, False):",
        f"        layer = {cls}(cell, return_sequences=sequences, return_state=with_state)",
    )
    return cls


# STR ----------------------------------------------------------------------------------------------


@recipe("STR-01")
def _sizes(w: Writer) -> None:
    _make(w)
    w.lines(
        "cell = make()",
        'before = cell.state_size, getattr(cell, "output_size", None)',
        "cell.build(shape)",
        'after = cell.state_size, getattr(cell, "output_size", None)',
        "assert before[0] is not None, 'there is no state_size before build'",
        "assert before == after, f'{before} before build, {after} after'",
    )


@recipe("STR-02")
def _cases(w: Writer) -> None:
    cls = w.name_of_class(w.context.target.cls)
    w.lines(
        f"cases = {cls}.spec.cases.values()",
        f"configs = [{cls}(**case).get_config() for case in cases]",
        "configs = {repr({**config, 'name': None}) for config in configs}",
        "assert len(configs) >= 2, 'all cases have the same config'",
    )


@recipe("STR-03")
def _forms(w: Writer) -> None:
    cell = w.cell()
    x, states = _step(w)
    w.lines(
        f"result = {cell}({x}, {states})",
        "assert isinstance(result, (tuple, list)) and len(result) == 2, type(result)",
        "output, new = result",
        f"keras.tree.assert_same_structure({states}, new)",
        f"for old, fresh in zip(keras.tree.flatten({states}), keras.tree.flatten(new)):",
        "    assert old.shape == fresh.shape, f'{old.shape} became {fresh.shape}'",
        "    assert old.dtype == fresh.dtype, f'{old.dtype} became {fresh.dtype}'",
    )


@recipe("STR-04")
def _initial_states(w: Writer) -> None:
    shapes = [tuple(spec.shape) for spec in leaves(declared_state(w.subject.cell.state_size))]
    layer = w.layer(w.subject.layer(return_sequences=True))
    w.lines(
        f"shapes = {sorted(shapes)!r}",
        "for batch in (1, 2, 5):",
        f"    states = keras.tree.flatten({layer}.get_initial_state(batch_size=batch))",
        "    got = sorted(tuple(state.shape) for state in states)",
        "    assert got == [(batch, *shape) for shape in shapes], f'batch {batch}: {got}'",
    )


@recipe("STR-05")
def _announced_shapes(w: Writer) -> None:
    example = Example(3, 5)
    shape = map_trees(np.shape, w.subject.inputs(example))
    size = getattr(w.subject.cell, "output_size", None)
    widths = None
    if size is not None:
        widths = sorted(tuple(spec.shape) for spec in leaves(declared_output(size)))
    _layers_of_all_pairs(w)
    w.lines(
        "        result = layer(inputs)",
        "        real = sorted(tuple(leaf.shape) for leaf in keras.tree.flatten(result))",
        "        said = []",
        f"        announced = layer.compute_output_shape({shape!r})",
        "        keras.tree.map_shape_structure(lambda s: said.append(tuple(s)), announced)",
        "        assert sorted(said) == real, f'announced {sorted(said)}, got {real}'",
    )
    if widths is not None and all(None not in width for width in widths):
        said = "[(cell.output_size,)]" if isinstance(size, int) else repr(widths)
        w.lines(
            "        output = keras.tree.flatten(result[0] if with_state else result)",
            "        got = sorted(tuple(y.shape[2 if sequences else 1 :]) for y in output)",
            f"        assert got == {said}, f'output_size is {{cell.output_size}}, got {{got}}'",
        )


@recipe("STR-06")
def _weights_once(w: Writer) -> None:
    _make(w)
    x, states = _step(w)
    w.lines(
        "cell = make()",
        "cell.build(shape)",
        "count = len(cell.variables)",
        "try:",
        "    cell.build(shape)",
        "except (ValueError, RuntimeError, AttributeError) as error:",
        "    print(f'a second build is refused, which is fine: {error}')",
        "assert len(cell.variables) == count, 'a second build made more weights'",
        f"cell({x}, {states})",
        "assert len(cell.variables) == count, 'the first call made more weights'",
    )


@recipe("STR-07")
def _shared(w: Writer) -> None:
    _make(w)
    w.lines(
        "one, other = make(), make()",
        "one.build(shape)",
        "other.build(shape)",
        "shared = {id(v) for v in one.variables} & {id(v) for v in other.variables}",
        "assert not shared, f'two instances share {len(shared)} variable(s)'",
    )


@recipe("STR-09")
def _lists_and_tuples(w: Writer) -> None:
    cell = w.cell()
    x, states = _step(w)
    w.helpers["same"] = SAME
    w.lines(
        f"want = {cell}({x}, {states})",
        f"if isinstance({states}, list):",
        f"    assert same({cell}({x}, tuple({states})), want), 'a tuple of states'",
        f"assert same({cell}({x}, {states}, training=False), want), 'training=False'",
    )


# NUM ----------------------------------------------------------------------------------------------


@recipe("NUM-04")
def _exchange(w: Writer) -> None:
    found = re.search(r"exchanging (\S+) and (\S+) in the reference", w.result.message)
    if found is None:
        raise NoScript("the message names no symbols")
    a, b = found.groups()
    example = Example(3, 5, seed=w.context.seed, initial_state=True)
    cell, cls = w.cell(), w.name_of_class(w.context.target.cls)
    inputs = w.data("inputs", w.subject.inputs(example))
    states = w.data("states", w.subject.states(example))
    w.imports.add("from cellkit.spec import export_weights")
    w.lines(
        f"config = {{**{cell}.get_config(), **{w.subject.kwargs!r}}}",
        f"symbols = export_weights({cell}, spec={cls}.spec)",
        f"exchanged = {{**symbols, {a!r}: symbols[{b!r}], {b!r}: symbols[{a!r}]}}",
        "numpy = lambda tree: keras.tree.map_structure(keras.ops.convert_to_numpy, tree)",
        "ends = []",
        "for weights in (symbols, exchanged):",
        f"    state, outputs = numpy({states}), []",
        "    for t in range(5):",
        f"        x = keras.tree.map_structure(lambda a: a[:, t], numpy({inputs}))",
        f"        output, state = {cls}.spec.reference(weights, x, state, config)",
        "        outputs.append(output)",
        "    ends.append(keras.tree.flatten([outputs, state]))",
        "moved = max(np.max(np.abs(a - b)) for a, b in zip(*ends))",
        f"assert moved > 1e-3, 'exchanging {a} and {b} changes the reference by ' + str(moved)",
    )


@recipe("NUM-05")
def _finite(w: Writer) -> None:
    call = _last(w, "layer")
    run = w.subject.expect(call.inputs, call.states)
    name = w.run(call)
    for part, got, want in (("0", call.output, run.sequence), ("1:", call.new_states, run.states)):
        for path, leaf in paths(want):
            if leaf.dtype.kind not in "fc":
                continue
            holds = np.abs(leaf) < np.finfo(np.float32).max
            w.lines(
                f"expected = {plain_array(holds)}  # where the reference is finite",
                f"got = keras.ops.convert_to_numpy({name}[{part}]{access(got, path)})",
                "assert np.isfinite(got[expected]).all(), got",
            )


@recipe("NUM-10")
def _dead(w: Writer) -> None:
    differentiate(w, _last(w, "gradient"))
    w.lines(
        "for name, gradient in found.items():",
        "    moves = gradient != 0",
        "    if name.startswith('input'):",
        "        moves = moves.any(axis=(0, 1))",
        "    elif name.startswith('state'):",
        "        moves = moves.any(axis=0)",
        "    assert moves.all(), f'{(~moves).sum()} of {moves.size} entries of {name} do nothing'",
    )


# SEQ ----------------------------------------------------------------------------------------------


@recipe("SEQ-04", "SEQ-06")
def _shapes_of_results(w: Writer) -> None:
    call = _last(w, "layer")
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
    w.helpers["same"] = SAME
    base, changed = w.run(_last(w, "layer", 3)), w.run(_last(w, "layer"))
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
    shapes = _inputs_expression(symbolic)
    w.lines(
        f"symbolic = {shapes}",
        "model = keras.Model(symbolic, layer(symbolic)[0])",
        "got = keras.tree.flatten(model.predict_on_batch(inputs))",
    )
    number = next(n for n, leaf in enumerate(leaves(want)) if leaf.shape == values.want.shape)
    w.lines(f"got = got[{number}]", f"want = {plain_array(values.want)}")
    w.compare(values)


def _inputs_expression(shapes: Any) -> str:
    if isinstance(shapes, tuple) and all(isinstance(size, int) for size in shapes):
        return f"keras.Input({(None, *shapes)!r})"
    if isinstance(shapes, dict):
        inner = ", ".join(f"{key!r}: {_inputs_expression(v)}" for key, v in shapes.items())
        return f"{{{inner}}}"
    inner = ", ".join(_inputs_expression(shape) for shape in shapes)
    return f"({inner},)" if isinstance(shapes, tuple) else f"[{inner}]"


# STA ----------------------------------------------------------------------------------------------


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
    w.helpers["same"] = SAME
    layer = w.layer(w.subject.layer(return_sequences=True, stateful=True))
    if w.result.requirement == "STA-05":
        w.lines(f"{layer}.reset_state()  # before the first call")
        if not w.calls:
            return
    call = _last(w, "layer")
    layer = w.layer(call.layer)
    name = w.run(call)
    if w.result.requirement == "STA-06":
        w.lines(f"want = {name}[1:]")
    else:
        batch = leaves(call.inputs)[0].shape[0]
        w.lines(f"{layer}.reset_state()", f"want = {layer}.get_initial_state(batch_size={batch})")
    w.lines(f"assert same({layer}.states, want), 'the stored states are others'")


# MSK ----------------------------------------------------------------------------------------------


@recipe("MSK-05", "MSK-06")
def _zeros(w: Writer) -> None:
    call = _last(w, "layer")
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
    differentiate(w, _last(w, "gradient", 2), "clean")
    differentiate(w, _last(w, "gradient"), "poisoned")
    w.lines(
        "for name, want in clean.items():",
        "    got = poisoned[name]",
        "    assert np.isfinite(got).all(), f'the gradient of {name} is not finite'",
        "    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5, err_msg=name)",
    )


@recipe("MSK-10")
def _gap(w: Writer) -> None:
    call = _last(w, "gradient")
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
    w.helpers["same"] = SAME
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
    action = w.expression(_last(w, "layer"))
    w.lines(
        "try:",
        f"    {action}",
        "except (ValueError, NotImplementedError) as error:",
        "    print(f'refused, as it must be: {error}')",
        "else:",
        "    raise AssertionError('a mask was accepted; the spec does not claim masking')",
    )


# GRD ----------------------------------------------------------------------------------------------


@recipe("GRD-03")
def _learns(w: Writer) -> None:
    differentiate(w, _last(w, "gradient"))
    w.lines(
        "dead = [name for name, g in found.items() if name.startswith('weight') and not g.any()]",
        "assert not dead, f'no gradient reaches {dead}'",
    )


@recipe("GRD-04")
def _reaches(w: Writer) -> None:
    differentiate(w, _last(w, "gradient"))
    w.lines(
        "first = [g[:, 0] for name, g in found.items() if name.startswith('input')]",
        "assert any(g.any() for g in first), 'no gradient reaches the first input'",
    )


@recipe("GRD-05")
def _finite_gradients(w: Writer) -> None:
    differentiate(w, _last(w, "gradient"))
    w.lines(
        "for name, gradient in found.items():",
        "    assert np.isfinite(gradient).all(), f'the gradient of {name} is not finite'",
    )


# RNG ----------------------------------------------------------------------------------------------


@recipe("RNG-01")
def _variables_stay(w: Writer) -> None:
    call = _last(w, "layer")
    layer, inputs = w.layer(call.layer), w.data("inputs", call.inputs)
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
    call = _last(w, "layer")
    layer, inputs = w.layer(call.layer), w.data("inputs", call.inputs)
    w.helpers["same"] = SAME
    w.lines(
        f"inference = {layer}({inputs}, training=False)",
        f"first, second = ({layer}({inputs}, training=True) for _ in range(2))",
        "assert not same(first, inference), 'training gives what inference gives'",
        "assert not same(first, second), 'two training calls give the same'",
    )


@recipe("RNG-03")
def _masks_of_dropout(w: Writer) -> None:
    call = _last(w, "gradient")
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


# SER, CMP, PUR, ERR -------------------------------------------------------------------------------


@recipe("SER-01")
def _round_trip(w: Writer) -> None:
    cell = w.cell()
    x, states = _step(w)
    w.helpers["same"] = SAME
    w.imports.add("import json")
    w.lines(
        f"config = {cell}.get_config()",
        f"again = type({cell}).from_config(config)",
        "plain = lambda value: json.dumps(value, default=str, sort_keys=True)",
        "assert plain(again.get_config()) == plain(config), (config, again.get_config())",
        f"again.build({w.shapes()})",
        f"for new, old in zip(again.weights, {cell}.weights, strict=True):",
        "    new.assign(old)",
        f"assert same(again({x}, {states}), {cell}({x}, {states})), 'the copy gives other results'",
    )


@recipe("SER-02")
def _complete(w: Writer) -> None:
    from cellkit_conformance.checks.serialization import parameters_of

    names = sorted({*parameters_of(type(w.subject.cell)), *w.subject.kwargs})
    w.imports.add("import json")
    w.lines(
        f"config = {w.make()}.get_config()",
        "json.dumps(config)",
        f"for name in {names!r}:",
        "    assert name in config, f'the argument {name!r} is not in the config'",
    )
    told = re.search(r"(\w+)=.* was given, and the config says", w.result.message)
    if told:
        name = told.group(1)
        w.lines(f"assert config[{name!r}] == {w.subject.kwargs[name]!r}, config[{name!r}]")


@recipe("CMP-08")
def _symbolic(w: Writer) -> None:
    symbolic = _inputs_expression(map_trees(lambda a: a.shape[2:], w.subject.inputs(Example(3, 5))))
    _layers_of_all_pairs(w)
    w.lines(
        f"        announced = keras.tree.flatten(layer({symbolic}))",
        "        real = keras.tree.flatten(layer(inputs))",
        "        assert len(announced) == len(real), (len(announced), len(real))",
        "        for said, got in zip(announced, real):",
        "            pairs = zip(said.shape, got.shape, strict=True)",
        "            fits = all(a in (None, b) for a, b in pairs)",
        "            assert fits, f'announced {said.shape}, got {tuple(got.shape)}'",
        "            dtype = keras.backend.standardize_dtype(got.dtype)",
        "            assert said.dtype == dtype, f'announced {said.dtype}, got {dtype}'",
    )


@recipe("PUR-01")
def _untouched(w: Writer) -> None:
    example = Example(3, 5, seed=w.context.seed, initial_state=True)
    inputs, states = w.subject.inputs(example), w.subject.random_states(example)
    layer = w.layer(w.subject.layer(return_sequences=True))
    w.helpers["same"] = SAME
    w.imports.add("import copy")
    masks = "masking" in w.context.target.traits
    mask = ", mask=np.array([[1, 1, 0, 1, 0]] * 3, bool)" if masks else ""
    w.lines(
        f"inputs, states = {w.literal(inputs)}, {w.literal(states)}",
        "numpy = lambda tree: keras.tree.map_structure(",
        "    lambda leaf: keras.ops.convert_to_numpy(leaf).copy(), tree",
        ")",
        "passed = numpy([inputs, states])",
        "before = copy.deepcopy(passed)",
        f"{layer}(passed[0], initial_state=passed[1]{mask})",
        "assert same(passed, before), 'the layer changed what it was given'",
        "before = list(states.values() if isinstance(states, dict) else states)",
        "cell.call(keras.tree.map_structure(lambda a: a[:, 0], inputs), states)",
        "after = list(states.values() if isinstance(states, dict) else states)",
        "untouched = len(after) == len(before) and all(a is b for a, b in zip(after, before))",
        "assert untouched, '`call` changed the list of states that it was given'",
    )


# What has no program of a few lines ---------------------------------------------------------------

WITHOUT = {
    "NUM-08": "it compares with the weights of another layer",
    "STA-07": "it trains a model",
    "STA-09": "it writes and reads a model file",
    "STA-14": "it makes an encoder and a decoder",
    "MSK-16": "it makes a model with a masking layer",
    "MSK-18": "it compares two paddings through a wrapper",
    "GRD-01": "it compares with central differences of the reference",
    "GRD-02": "it needs another backend beside this one",
    "GRD-06": "it differentiates twice",
    "GRD-09": "it trains a model",
    "GRD-10": "it differentiates through two calls",
    "RNG-04": "it compares the sizes of gradients over many rows",
    "RNG-05": "it compares two layers whose seeds stand at the same place",
    "RNG-06": "it compares a layer with itself after an error in training",
    "RNG-09": "it counts kept entries over many rows",
    "SER-03": "it reads a model file where the cell's module was not imported",
    "SER-04": "it needs another backend beside this one",
    "SER-05": "it writes and reads model files",
    "SER-07": "it reads weights of many wrong forms",
    "SER-08": "it copies layers in several ways",
    "SER-09": "it serialises wrappers around the layer",
    "SER-10": "it tries a table of objects",
    "ERR-02": "it needs another backend beside this one",
    "DTY-01": "it compares under several policies, with a tolerance of each",
    "DTY-02": "on JAX it needs a process with x64",
    "DTY-06": "it changes the policy of the process",
    "PUR-02": "it overwrites arrays after a call",
    "PUR-03": "it looks for what one layer leaves to another",
    "PUR-04": "it runs threads",
    "PUR-05": "it needs a fresh process",
    "PUR-06": "it is about importing the module",
    "DEV-01": "it needs several devices",
    "DEV-04": "it needs several devices",
}
"""Why a requirement has no script; the command that runs its check alone is always there."""

WITHOUT |= {f"CMP-0{i}": "it needs the backend's compiler" for i in range(1, 8)}
WITHOUT |= {f"WRP-0{i}": "it is about wrappers and models around the layer" for i in range(1, 9)}


@recipe("STR-08")
def _stable_names(w: Writer) -> None:
    _make(w)
    w.lines(
        "names = []",
        "for _ in range(3):",
        "    cell = make()",
        "    cell.build(shape)",
        "    names.append([v.path.removeprefix(cell.path + '/') for v in cell.weights])",
        "assert len(set(names[0])) == len(names[0]), f'a name stands twice: {names[0]}'",
        "assert names[0] == names[1] == names[2], names",
    )


@recipe("STR-10")
def _describes_itself(w: Writer) -> None:
    cell = w.cell()
    w.lines(
        f"assert isinstance(repr({w.make()}), str) and isinstance(repr({cell}), str)",
        f"stored = sum(int(np.prod(v.shape)) for v in {cell}.weights)",
        f"counted = {cell}.count_params()",
        "assert counted == stored, f'count_params() is {counted}, the weights have {stored}'",
    )


@recipe("SEQ-14")
def _layouts(w: Writer) -> None:
    call = _last(w, "layer")
    w.helpers["same"] = SAME
    layer, inputs = w.layer(call.layer), w.data("inputs", call.inputs)
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


@recipe("STA-10")
def _kinds_of_states(w: Writer) -> None:
    cell = w.cell()
    x, states = _step(w)
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
    differentiate(w, _last(w, "gradient"))
    w.lines(
        f"name = 'weight ' + cell.weights[{number}].path",
        "assert found[name].any(), f'{name}, a learned initial state, has no gradient'",
    )


@recipe("SER-06")
def _hidden(w: Writer) -> None:
    _make(w)
    x, states = _step(w)
    w.helpers["same"] = SAME
    w.lines(
        "one, other = make(), make()",
        "for cell in (one, other):",
        "    cell.build(shape)",
        "for mine, theirs in zip(one.variables, other.variables, strict=True):",
        "    theirs.assign(mine)",
        f"assert same(one({x}, {states}), other({x}, {states})), 'something is not tracked'",
    )


@recipe("SER-11")
def _older_configs(w: Writer) -> None:
    found = re.search(r"a config without '(\w+)'", w.result.message)
    if found is None:
        raise NoScript("the message names no argument")
    w.imports.add("import json")
    w.lines(
        f"cell = {w.make()}",
        "config = cell.get_config()",
        f"less = {{key: value for key, value in config.items() if key != {found[1]!r}}}",
        "again = type(cell).from_config(less).get_config()",
        "plain = lambda value: json.dumps(value, default=str, sort_keys=True)",
        "assert plain(again) == plain(config), (config, again)",
    )


@recipe("DTY-03", "DTY-04")
def _promotion(w: Writer) -> None:
    found = re.search(r"under (float32|mixed_\w+)", w.result.message)
    if found is None:
        raise NoScript("the message names no policy")
    compute = found[1].removeprefix("mixed_")
    x, _ = _step(w)
    w.lines(
        f"cell = {w.make(dtype=found[1])}",
        f"cell.build({w.shapes()})",
        f"layer = {w.name_of_class(type(w.subject.layer()))}(cell, dtype={found[1]!r})",
        "states = layer.get_initial_state(batch_size=3)",
        f"x = keras.tree.map_structure(lambda a: keras.ops.cast(a, {compute!r}), {x})",
        "output, new = cell(x, list(states) if isinstance(states, tuple) else states)",
        "kind = lambda leaf: keras.backend.standardize_dtype(leaf.dtype)",
        "dtypes = lambda tree: [kind(leaf) for leaf in keras.tree.flatten(tree)]",
        f"assert set(dtypes(output)) == {{{compute!r}}}, dtypes(output)",
        "assert dtypes(new) == dtypes(states), (dtypes(states), dtypes(new))",
    )
    if w.result.requirement == "DTY-04":
        w.lines("assert {'float32', 'complex64'} & set(dtypes(new)), dtypes(new)")


@recipe("DTY-07")
def _refuses_quantisation(w: Writer) -> None:
    cell = w.cell()
    w.lines(
        "try:",
        f"    {cell}.quantize('int8')",
        "except (NotImplementedError, ValueError, TypeError) as error:",
        "    print(f'refused, as it must be: {error}')",
        "else:",
        "    raise AssertionError('int8 was accepted; the spec does not claim quantized')",
    )


@recipe("RNG-07")
def _random_state(w: Writer) -> None:
    call = _last(w, "layer")
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
    inputs = w.data("inputs", _last(w, "layer").inputs)
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
    call = _last(w, "layer")
    claimed = "does nothing in training" in w.result.message
    layer, inputs = w.layer(call.layer), w.data("inputs", call.inputs)
    states = w.data("states", call.states)
    w.helpers["same"] = SAME
    w.lines(
        f"inference = {layer}({inputs}, initial_state={states}, training=False)",
        f"training = {layer}({inputs}, initial_state={states}, training=True)",
        "acts = not same(training, inference)",
        f"assert acts == {claimed}, {w.result.message!r}",
    )
