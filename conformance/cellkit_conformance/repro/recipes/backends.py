"""GRD, SER and ERR: what one backend, or one process, makes of what another has left.

A program has one backend. What the other one gave stands in it as literals.
"""

from __future__ import annotations

import re
from typing import Any

import keras
import numpy as np

from cellkit_conformance.repro.literals import plain_array
from cellkit_conformance.repro.recipes.common import (
    differentiate,
    inputs_of,
    last,
    limit_of,
    make,
    recipe,
    symbolic,
)
from cellkit_conformance.repro.writer import NoScript, Writer
from cellkit_conformance.trees import children, is_branch, leaves, paths, rebuild


def _left(w: Writer, topic: str) -> tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]]:
    """Read what this backend and the others have left for each other.

    Args:
        w: The script.
        topic: What it is about.

    Returns:
        This backend's arrays by name, and those of the others by backend and name.
    """
    exchange = w.context.exchange
    if exchange is None:
        raise NoScript("nothing was left by another backend")
    files = {"": exchange.mine(topic, ".npz"), **exchange.others(topic, ".npz")}
    found = {}
    for backend, path in files.items():
        with np.load(path) as data:
            found[backend] = {key: data[key] for key in data.files}
    return found.pop(""), found


@recipe("ERR-02", alone=True)
def _texts(w: Writer) -> None:
    from cellkit_conformance.checks.errors import BACKEND_WORDS

    own, others = _left(w, "errors")
    what = next((name for name in own if name in w.result.message), None)
    if what is None:
        raise NoScript("the message names no mistake")
    # The last calls are the mistakes, one by one; before them stands one that is right.
    mistakes = w.calls[-len(own) :]
    right = next(call for call in w.calls if call.output is not None)
    w.run(right)
    w.imports.add("import re")
    w.lines(
        "try:",
        f"    {w.expression(mistakes[list(own).index(what)])}",
        "    said = 'accepted'",
        "except Exception as error:",
        "    said = re.sub(r'_\\d+\\b', '', f'{type(error).__name__}: {error}')",
    )
    if "speaks of" in w.result.message:
        w.lines(
            f"words = [word for word in {BACKEND_WORDS!r} if word in said.lower()]",
            "assert not words, said",
        )
        return
    for backend, theirs in others.items():
        if str(theirs.get(what)) != str(own[what]):
            w.lines(f"on_{backend.partition('@')[0]} = {str(theirs.get(what))!r}")
            w.lines(f"assert said == on_{backend.partition('@')[0]}, said")
            return
    raise NoScript("the other backends say the same")


@recipe("GRD-02", alone=True)
def _slopes(w: Writer) -> None:
    number = list(w.context.target.cases).index(w.subject.case)
    own, others = _left(w, f"gradients-{number}")
    found = re.search(r"gradient of (.+?), in units of its largest on (\S+?),", w.result.message)
    if found is None:
        alone = re.search(r"\['([^']+)'.*or on (\S+) only", w.result.message)
        if alone is None or alone[1] not in others.get(alone[2], {}):
            raise NoScript("the message names no gradient that the other backend has")
        found = alone
    name, backend = found.groups()
    call = last(w, "gradient")
    differentiate(w, call)
    w.helpers["project"] = _projection(w, call.layer)
    w.lines(
        f"want = {plain_array(others[backend][name])}  # on {backend}",
        f"error = np.abs(found[{_name(w, call, name)}] - want).max() / max(1, np.abs(want).max())",
        f"assert error <= {limit_of(w)!r}, f'the error of the gradient by {name} is {{error}}'",
    )


def _name(w: Writer, call: Any, name: str) -> str:
    """Write the name that a program's `gradients` gives what a check calls by its path."""
    kind, _, path = name.partition(" ")
    if kind == "weight":
        prefix = w.subject.cell.name + "/"
        known = [v.path.replace(prefix, "", 1) for v in w.subject.cell.trainable_variables]
        return f"'weight ' + cell.trainable_variables[{known.index(path)}].path"
    order = keras.tree.flatten(_of_paths(call.inputs if kind == "input" else call.states))
    return repr(f"{kind} {order.index(path)}")


def _of_paths(tree: Any, prefix: str = "") -> Any:
    """Put the path of every leaf in its place."""
    if not is_branch(tree):
        return prefix
    named = [
        _of_paths(child, f"{prefix}/{key}" if prefix else str(key)) for key, child in children(tree)
    ]
    return rebuild(tree, named)


def _projection(w: Writer, layer: Any) -> str:
    """Write the number that the check differentiates; on all backends it has to be the same."""
    output, states = map(_of_paths, _result(w, layer))
    numbers = {("output", path): n for n, (path, _) in enumerate(paths(output))}
    numbers |= {("state", path): 20 + n for n, (path, _) in enumerate(paths(states))}
    ordered = [numbers["output", path] for path in keras.tree.flatten(output)]
    ordered += [numbers["state", path] for path in keras.tree.flatten(states)]
    return f"""\
def project(result):
    total = 0.0
    for number, leaf in zip({ordered}, keras.tree.flatten(result), strict=True):
        parts = [(number, leaf)]
        if "complex" in keras.backend.standardize_dtype(leaf.dtype):
            parts = [(number, keras.ops.real(leaf)), (number + 50, keras.ops.imag(leaf))]
        for number, leaf in parts:
            if keras.backend.is_float_dtype(keras.backend.standardize_dtype(leaf.dtype)):
                angles = 1.7 * np.arange(int(np.prod(leaf.shape))) + 0.3 + number
                weigh = np.cos(angles).reshape(tuple(leaf.shape)).astype("float32")
                total = total + keras.ops.sum(leaf * keras.ops.convert_to_tensor(weigh))
    return total
"""


def _result(w: Writer, layer: Any) -> tuple[Any, Any]:
    """Find the structure of what a layer returns: the output, and the states."""
    return w.subject.split(layer, layer(w.subject.symbolic_inputs()))


def _model(w: Writer, cls: str) -> None:
    """Define a function that puts a cell into a model of one layer, whose name is `layer`."""
    w.lines(
        f"symbolic = {symbolic(w)}",
        "",
        "",
        "def model_of(cell):",
        f"    layer = {cls}(cell, name='layer', return_sequences=True, return_state=True)",
        "    return layer, keras.Model(symbolic, layer(symbolic)[0])",
        "",
        "",
    )


@recipe("SER-04", alone=True)
def _weights(w: Writer) -> None:
    cls = w.name_of_class(type(w.subject.layer()))
    w.imports |= {"import tempfile"}
    if found := re.match(r"(?:case '\w+': )?(\S+) stores", w.result.message):
        _content(w, cls, found[1])
        return
    w.cell()
    make(w)
    inputs = inputs_of(w)
    _model(w, cls)
    w.lines(
        "layer, model = model_of(cell)",
        "with tempfile.TemporaryDirectory() as folder:",
        "    model.save_weights(f'{folder}/layer.weights.h5')",
        "    other, other_model = model_of(make())",
        "    other_model.load_weights(f'{folder}/layer.weights.h5')",
        f"close(other({inputs}), layer({inputs}), {limit_of(w)!r})",
    )
    elsewhere = re.search(r"result on (\S+)", w.result.message)
    if elsewhere:
        _, others = _left(w, f"outputs-{w.subject.case}")
        w.lines(
            f"want = [  # what {elsewhere[1]} makes of the same weights",
            *(f"    {plain_array(leaf)}," for leaf in _flattened(w, others[elsewhere[1]])),
            "]",
            f"close(keras.tree.flatten(layer({inputs})), want, {limit_of(w)!r})",
        )


def _flattened(w: Writer, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Bring the leaves of a result from the suite's order into that of Keras."""
    layer = w.subject.layer(return_sequences=True)
    named = [_of_paths(tree, str(number)) for number, tree in enumerate(_result(w, layer))]
    order, wanted = leaves(named), keras.tree.flatten(named)
    return [arrays[str(order.index(path))] for path in wanted]


def _content(w: Writer, cls: str, backend: str) -> None:
    """Compare what is in a file of weights with what another backend writes into it."""
    from cellkit_conformance.checks.serialization import _content as content_of

    topic = f"weights-{w.subject.case}"
    files = w.context.exchange.others(topic, ".weights.h5") if w.context.exchange else {}
    make(w)
    _model(w, cls)
    w.imports.add("import h5py")
    w.lines(
        "found = {}",
        "",
        "",
        "def visit(name, node):",
        "    if isinstance(node, h5py.Dataset):",
        "        found[name] = f'{node.shape} {node.dtype}'",
        "",
        "",
        "with tempfile.TemporaryDirectory() as folder:",
        "    model_of(make())[1].save_weights(f'{folder}/layer.weights.h5')",
        "    with h5py.File(f'{folder}/layer.weights.h5') as file:",
        "        file.visititems(visit)",
        f"want = {{  # on {backend}",
        *(f"    {name!r}: {form!r}," for name, form in content_of(files[backend]).items()),
        "}",
        "assert found == want, found",
    )


LOADER = '''\
LOADER = """
import os, sys
import PACKAGE
import keras, numpy as np
model = keras.models.load_model(sys.argv[1] + "/model.keras")
with np.load(sys.argv[1] + "/inputs.npz") as data:
    inputs = keras.tree.pack_sequence_as(model.input, [data[key] for key in data.files])
outputs = map(keras.ops.convert_to_numpy, keras.tree.flatten(model(inputs)))
np.savez(sys.argv[1] + "/outputs.npz", *outputs)
"""
'''


@recipe("SER-03", alone=True)
def _elsewhere(w: Writer) -> None:
    cls, inputs = w.name_of_class(type(w.subject.layer())), inputs_of(w)
    package = type(w.subject.layer()).__module__.split(".")[0]
    w.imports |= {"import subprocess", "import sys", "import tempfile"}
    w.lines(
        *LOADER.replace("PACKAGE", package).splitlines(),
        f"layer = {cls}({w.make()}, return_sequences=True)",
        f"symbolic = {symbolic(w)}",
        "model = keras.Model(symbolic, keras.tree.flatten(layer(symbolic)))",
        f"want = keras.tree.flatten(layer({inputs}))",
        "with tempfile.TemporaryDirectory() as folder:",
        "    model.save(f'{folder}/model.keras')",
        "    flat = map(keras.ops.convert_to_numpy, keras.tree.flatten(inputs))",
        "    np.savez(f'{folder}/inputs.npz', *flat)",
        "    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, sys.path))}",
        "    done = subprocess.run([sys.executable, '-c', LOADER, folder], env=environment,",
        "                          capture_output=True, text=True)",
        "    assert done.returncode == 0, done.stderr[-2000:]",
        "    with np.load(f'{folder}/outputs.npz') as data:",
        "        got = [data[key] for key in data.files]",
        f"close(got, want, {limit_of(w)!r})",
    )
