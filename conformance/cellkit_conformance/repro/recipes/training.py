"""GRD and RNG: gradients, and what is random in training."""

from __future__ import annotations

import re

import numpy as np

from cellkit.spec import cell_weights, variables_by_path
from cellkit_conformance.repro.recipes.common import (
    count_of,
    differentiate,
    inputs_of,
    last,
    layer_of,
    recipe,
    symbolic,
)
from cellkit_conformance.repro.writer import NoScript, Writer
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


@recipe("GRD-01", alone=True)
def _slopes(w: Writer) -> None:
    found = re.search(r"slope by (input|state|weight) ?(\S*), as a part", w.result.message)
    if found is None:
        raise NoScript("the message names no slope")
    call, kind, path = last(w, "gradient"), found[1], found[2]
    data = {
        "input": map_trees(_wide, call.inputs),
        "state": None if call.states is None else map_trees(_wide, call.states),
        "weight": {k: np.asarray(v, np.float64) for k, v in cell_weights(w.subject.cell).items()},
    }
    leaf = data["weight"][path] if kind == "weight" else dict(paths(data[kind]))[path]
    if np.iscomplexobj(leaf):
        raise NoScript("a program's gradients are of real numbers")
    start, ends = leaf.copy(), []
    for change in (1e-6, -1e-6):
        leaf[...] = start + change * np.cos(np.arange(leaf.size)).reshape(leaf.shape)
        ends.append(_projected(w, data))
    differentiate(w, call)
    if kind == "weight":
        variable = id(variables_by_path(w.subject.cell)[path])
        number = [id(v) for v in w.subject.cell.weights].index(variable)
        name = f"'weight ' + cell.weights[{number}].path"
    else:
        name = repr(f"{kind} {[p for p, _ in paths(data[kind])].index(path)}")
    w.lines(
        f"terms = found[{name}] * np.cos(np.arange({leaf.size})).reshape({leaf.shape})",
        f"want = {(ends[0] - ends[1]) / 2e-6:.9g}  # by central differences, in float64",
        "error = abs(terms.sum() - want) / max(1, np.abs(terms).sum())",
        f"assert error < 1e-4, f'the slope by {kind} {path} is {{terms.sum()}}, not {{want}}'",
    )


def _wide(leaf: np.ndarray) -> np.ndarray:
    return leaf.astype(np.float64 if leaf.dtype == np.float32 else leaf.dtype)


def _projected(w: Writer, data: dict[str, Tree]) -> float:
    """Compute of the reference what a script's `project` computes of the layer."""
    subject = w.subject
    kept = subject.symbols
    symbols = subject.target.spec.symbols.to_symbols(data["weight"], subject.config)
    subject.__dict__["symbols"] = symbols
    run = subject.expect(data["input"], data["state"])
    subject.__dict__["symbols"] = kept
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
