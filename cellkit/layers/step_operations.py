"""Names of the operations of one step, as the backend calls them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import keras

from cellkit.cells.effects import Undone
from cellkit.cells.operations import BACKEND, as_exported
from cellkit.cells.runner import needs_constants, pack_like_shapes
from cellkit.layers.known_shapes import leaves_of_a_step

if TYPE_CHECKING:
    from cellkit.layers.rnn import RNN

__all__ = ["operations_of_step"]

ROWS = 2


def operations_of_step(layer: RNN) -> set[str]:
    """Name the operations that one step of a built layer computes for a file, at inference.

    Args:
        layer: The layer.

    Returns:
        Types of TensorFlow's nodes (`Softplus` of numbers without a limit alone), names of
        PyTorch's operators (`aten::expm1`) or of JAX's primitives and compiled functions. Nothing
        on other backends, of a cell that needs the constants of a call, and of one whose effects
        could not be put back.
    """
    named = {"tensorflow": _of_tensorflow, "torch": _of_torch, "jax": _of_jax}.get(BACKEND)
    if named is None or needs_constants(layer.cell):
        return set()
    shapes = layer._memo.get("input_shapes")
    with Undone(layer.cell) as effects:
        if effects.found is not None:
            return set()
        rows = [
            keras.ops.zeros((ROWS, *shape), dtype=dtype) for shape, dtype in leaves_of_a_step(layer)
        ]

        def step(rows: list[Any], states: list[Any]) -> Any:
            inputs = pack_like_shapes(shapes, rows)
            output, new = layer.runner.step(inputs, states, False, {})
            return keras.tree.flatten(output), new

        with as_exported():
            return named(step, rows, layer.runner.initial(ROWS))


def _of_tensorflow(step: Callable[..., Any], *tensors: Any) -> set[str]:
    import tensorflow as tf

    traced = tf.function(step, autograph=False).get_concrete_function(*tensors)
    graph = traced.graph.as_graph_def()
    found = set()
    for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
        types = {node.name: node.op for node in nodes}
        # `cellkit.cells.softplus` is one of numbers with a limit, which no format gets wrong.
        found |= {
            node.op
            for node in nodes
            if node.op != "Softplus" or types.get(node.input[0].partition(":")[0]) != "Minimum"
        }
    return found


def _of_torch(step: Callable[..., Any], *tensors: Any) -> set[str]:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    names = set()

    class Seen(TorchDispatchMode):
        """Notes the operators that are called."""

        def __torch_dispatch__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            names.add(function.name().partition(".")[0])
            return function(*args, **(kwargs or {}))

    with torch.no_grad(), Seen():
        step(*tensors)
    return names


def _of_jax(step: Callable[..., Any], *tensors: Any) -> set[str]:
    import jax

    return set(_primitives(jax.make_jaxpr(step)(*tensors).jaxpr))


def _primitives(jaxpr: Any) -> Iterator[str]:
    """Give the names of the primitives of a program, and of those that are inside of them.

    A function that is compiled by itself has a name too, by which exporters know some.
    """
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        if equation.primitive.name == "jit":
            yield equation.params["name"]
        for value in equation.params.values():
            for part in value if isinstance(value, (list, tuple)) else (value,):
                inner = getattr(part, "jaxpr", part)
                if hasattr(inner, "eqns"):
                    yield from _primitives(inner)
