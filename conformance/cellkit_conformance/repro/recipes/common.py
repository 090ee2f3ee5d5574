"""What recipes start from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.repro.writer import NoScript, Writer
from cellkit_conformance.subject.record import Call, Values
from cellkit_conformance.trees import map_trees

Recipe = Callable[[Writer], None]

RECIPES: dict[str, Recipe] = {}

ALONE: set[str] = set()
"""Requirements whose recorded calls alone would mislead: what counts is between them."""

MASK_ROWS = [[1, 1, 0, 1, 0], [0, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
MASK = f"np.array({MASK_ROWS}, bool)"

PARTS = {
    "all": "",
    "outputs": ", part=lambda result: result[0]",
    "last": ", part=lambda r: [keras.tree.map_structure(lambda y: y[:, -1], r[0]), r[1:]]",
    "states": ", part=lambda result: result[1:]",
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
    w.import_backend()
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
    """Count the states that a layer returns behind its output; 0 where they are one structure."""
    template = w.subject.template
    return len(template) if isinstance(template, (list, tuple)) else 0
