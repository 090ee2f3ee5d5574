"""STR and NUM: what a cell declares, and its numbers."""

from __future__ import annotations

import re

import numpy as np

from cellkit.structure import declared_output, declared_state
from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.repro.literals import access, plain_array
from cellkit_conformance.repro.recipes.common import (
    differentiate,
    last,
    layers_of_all_pairs,
    make,
    recipe,
    step,
)
from cellkit_conformance.repro.writer import NoScript, Writer
from cellkit_conformance.trees import leaves, map_trees, paths


@recipe("STR-01")
def _sizes(w: Writer) -> None:
    make(w)
    w.lines(
        "cell = make()",
        "sizes = lambda: [getattr(cell, n, None) for n in ('state_size', 'output_size')]",
        "before = sizes()",
        "cell.build(shape)",
        "after = sizes()",
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
    x, states = step(w)
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
    layers_of_all_pairs(w)
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
    make(w)
    x, states = step(w)
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
    make(w)
    w.lines(
        "one, other = make(), make()",
        "one.build(shape)",
        "other.build(shape)",
        "shared = {id(v) for v in one.variables} & {id(v) for v in other.variables}",
        "assert not shared, f'two instances share {len(shared)} variable(s)'",
    )


@recipe("STR-08")
def _stable_names(w: Writer) -> None:
    make(w)
    w.lines(
        "names = []",
        "for _ in range(3):",
        "    cell = make()",
        "    cell.build(shape)",
        "    names.append([v.path.removeprefix(cell.path + '/') for v in cell.weights])",
        "assert len(set(names[0])) == len(names[0]), f'a name stands twice: {names[0]}'",
        "assert names[0] == names[1] == names[2], names",
    )


@recipe("STR-09")
def _lists_and_tuples(w: Writer) -> None:
    cell = w.cell()
    x, states = step(w)
    w.lines(
        f"want = {cell}({x}, {states})",
        f"if isinstance({states}, list):",
        f"    assert same({cell}({x}, tuple({states})), want), 'a tuple of states'",
        f"assert same({cell}({x}, {states}, training=False), want), 'training=False'",
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
    call = last(w, "layer")
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
    differentiate(w, last(w, "gradient"))
    w.lines(
        "for name, gradient in found.items():",
        "    moves = gradient != 0",
        "    if name.startswith('input'):",
        "        moves = moves.any(axis=(0, 1))",
        "    elif name.startswith('state'):",
        "        moves = moves.any(axis=0)",
        "    assert moves.all(), f'{(~moves).sum()} of {moves.size} entries of {name} do nothing'",
    )
