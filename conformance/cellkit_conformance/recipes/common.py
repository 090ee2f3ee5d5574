"""What recipes start from, and the helpers that scripts carry with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cellkit_conformance.evidence import Call, Values
from cellkit_conformance.places import backend_of
from cellkit_conformance.scripts import NoScript, Writer
from cellkit_conformance.strategies import Example
from cellkit_conformance.trees import map_trees

Recipe = Callable[[Writer], None]

RECIPES: dict[str, Recipe] = {}

ALONE: set[str] = set()
"""Requirements whose recorded calls alone would mislead: what counts is between them."""

SAME = """\
def same(one, other):
    one, other = keras.tree.flatten(one), keras.tree.flatten(other)
    pairs = zip(one, other, strict=True)
    to_numpy = keras.ops.convert_to_numpy
    return all(np.array_equal(to_numpy(a), to_numpy(b), equal_nan=True) for a, b in pairs)
"""

CLOSE = """\
def close(one, other, limit):
    one, other = keras.tree.flatten(one), keras.tree.flatten(other)
    for a, b in zip(one, other, strict=True):
        a, b = keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b)
        error = np.abs(a - b) / np.maximum(1, np.abs(b))
        assert np.all(error <= limit), f"the error is {error.max()}"
"""

MASK_ROWS = [[1, 1, 0, 1, 0], [0, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
MASK = f"np.array({MASK_ROWS}, bool)"

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
    if not layer.built:
        layer(inputs)
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


def recipe(*identifiers: str, alone: bool = False) -> Callable[[Recipe], Recipe]:
    """Register a recipe.

    Args:
        *identifiers: Of the requirements.
        alone: Whether to write no script from the recorded calls.
    """

    def register(function: Recipe) -> Recipe:
        RECIPES.update(dict.fromkeys(identifiers, function))
        ALONE.update(identifiers if alone else ())
        return function

    return register


# What a recipe starts from ------------------------------------------------------------------------


def make(w: Writer) -> None:
    """Define `make()`, which makes a cell, and `shape`, what it is built for."""
    w.lines("def make():", f"    return {w.make()}", "", "", f"shape = {w.shapes()}")


def step(w: Writer) -> tuple[str, str]:
    """Define tensors for one step, as the check of STR-03 draws them."""
    example = Example(3, 1, initial_state=True)
    x = map_trees(lambda a: a[:, 0], w.subject.inputs(example))
    return w.data("x", x), w.data("states", w.subject.random_states(example))


def last(w: Writer, kind: str, back: int = 1) -> Call:
    """Give the last recorded call of a kind, or the last but some.

    Args:
        w: The script.
        kind: "layer", "step" or "gradient".
        back: One for the last.

    Raises:
        NoScript: There are not as many.
    """
    found = [call for call in w.calls if call.kind == kind]
    if len(found) < back:
        raise NoScript(f"the check made no {kind} call")
    return found[-back]


def layer_and_inputs(w: Writer, call: Call) -> tuple[str, str]:
    """Define the layer and the inputs of a call, and return their names."""
    return w.layer(call.layer), w.data("inputs", call.inputs)


def differentiate(w: Writer, call: Call, name: str = "found") -> None:
    """Add the gradients of a call, by inputs, states and weights.

    Args:
        w: The script.
        call: Of a gradient.
        name: What the script calls them.
    """
    for helper, text in (
        ("project", PROJECT),
        ("differentiate", DIFFERENTIATE[backend_of(w.result.backend)]),
        ("gradients", GRADIENTS),
    ):
        w.helpers[helper] = text
    w.imports |= {
        "torch": {"import torch"},
        "tensorflow": {"import tensorflow as tf"},
        "jax": {"import jax"},
    }[backend_of(w.result.backend)]
    states = "None" if call.states is None else w.data("states", call.states)
    more = f", mask={w.data('mask', np.asarray(call.mask))}" if call.mask is not None else ""
    more += ", training=True" if call.training else ""
    layer, inputs = layer_and_inputs(w, call)
    w.lines(f"{name} = gradients({layer}, {inputs}, {states}{more}{PARTS[call.which]})")


def layers_of_all_pairs(w: Writer) -> str:
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


def inputs_expression(shapes: Any) -> str:
    """Write symbolic inputs of some shapes of a step.

    Args:
        shapes: A structure of shapes without batch and time.
    """
    if isinstance(shapes, tuple) and all(isinstance(size, int) for size in shapes):
        return f"keras.Input({(None, *shapes)!r})"
    if isinstance(shapes, dict):
        inner = ", ".join(f"{key!r}: {inputs_expression(v)}" for key, v in shapes.items())
        return f"{{{inner}}}"
    inner = ", ".join(inputs_expression(shape) for shape in shapes)
    return f"({inner},)" if isinstance(shapes, tuple) else f"[{inner}]"


def layer_of(w: Writer, **options: Any) -> str:
    """Define the layer around the cell, with sequences and states unless told otherwise.

    Args:
        w: The script.
        **options: Of the layer.
    """
    return w.layer(w.subject.layer(**{"return_sequences": True, **options}))


def inputs_of(w: Writer, batch: int = 3, time: int = 5, seed: int = 0) -> str:
    """Define inputs as a check draws them, and return their name.

    Args:
        w: The script.
        batch: B.
        time: T.
        seed: Added to the run's.
    """
    example = Example(batch, time, seed=w.context.seed + seed)
    return w.data("inputs", w.subject.inputs(example))


def limit_of(w: Writer) -> float:
    """Give the tolerance of the comparison that failed."""
    values = w.context.evidence
    return float(values.limit) if isinstance(values, Values) and values.limit else 1e-5


def symbolic(w: Writer) -> str:
    """Write symbolic inputs of the cell, of unknown batch and time."""
    inputs = w.subject.inputs(Example(1, 1))
    return inputs_expression(map_trees(lambda a: a.shape[2:], inputs))


def mask_argument(w: Writer) -> str:
    """Write the argument of a mask where the cell claims to take one, else nothing."""
    return f", mask={MASK}" if "masking" in w.context.target.traits else ""


def wrapper(w: Writer) -> str:
    """Name the bidirectional layer that belongs to the layer under test."""
    cls = w.context.bidirectional()
    if cls.__module__.split(".")[0] == "keras":
        return "keras.layers.Bidirectional"
    return w.name_of_class(cls)


def count_of(w: Writer) -> int:
    """Count the entries that a layer returns behind its output."""
    template = w.subject.template
    return len(template) if isinstance(template, (list, tuple)) else 1
