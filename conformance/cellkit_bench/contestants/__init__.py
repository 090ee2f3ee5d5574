"""Who runs: the layers and loops that can do the same work on one backend.

Every contestant runs forward without gradients, and a training step: forward, a loss, and the
gradients of all its weights (not of the inputs, and no update). All return the output of the last
step, or the gradients, and only when these are there: devices are waited for.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

import cellkit
from cellkit.errors import problem
from cellkit_bench import equations
from cellkit_bench.plan import Work

CELLKIT = "cellkit.RNN"
KERAS = "keras.layers.RNN"
BY_HAND = "by hand"
PRODUCT = "matrix product"
"""The rate of one large product is what the others are measured against; it does other work."""

BUILT_IN = {"lstm": "LSTM", "gru": "GRU", "simple_rnn": "SimpleRNN"}
TORCH = {"lstm": "LSTM", "gru": "GRU", "simple_rnn": "RNN"}
FLAX = {"lstm": "OptimizedLSTMCell", "gru": "GRUCell", "simple_rnn": "SimpleCell"}
TORCHRECURRENT = {
    "peephole_lstm": "PeepholeLSTM",
    "mgu": "MGU",
    "janet": "JANET",
    "nas": "NAS",
    "scrn": "SCRN",
    "ugrnn": "UGRNN",
}


@dataclasses.dataclass
class Contestant:
    """One way to do the work.

    Args:
        name: Its name in the results.
        inference: Runs forward and returns the output.
        training: Runs a training step and returns its gradients.
        comparable: True if it has the weights of the cell, so that outputs must agree.
        layer: The layer, where it is one of Keras.
    """

    name: str
    inference: Callable[[], Any]
    training: Callable[[], Any]
    comparable: bool = True
    layer: Any = None


def installed(module: str) -> bool:
    """Tell whether a module can be imported, without importing it."""
    return importlib.util.find_spec(module) is not None


def data(work: Work) -> np.ndarray[Any, Any]:
    """Return inputs of shape `(batch, length, width)`."""
    shape = (work.batch, work.length, work.width)
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def make_cell(work: Work) -> Any:
    """Make the cell, with a seed of its own."""
    keras.utils.set_random_seed(1)
    try:
        cell = cellkit.create(work.cell, units=work.width)
        cell.build((work.batch, work.width))
    except (TypeError, ValueError) as error:
        raise problem(
            f"The cell {work.cell!r} can't be measured.",
            received=f"{type(error).__name__}: {error}",
            expected="a cell that is made with `units` alone and takes one vector per step",
            fix="name another cell",
        ) from error
    rng = np.random.default_rng(2)
    # Not the initial values: with zeros for biases a misplaced one would go unseen.
    small = [
        0.1 * rng.standard_normal(tuple(v.shape)).astype("float32")
        for v in cell.trainable_variables
    ]
    for variable, change in zip(cell.trainable_variables, small, strict=True):
        variable.assign(keras.ops.convert_to_numpy(variable) + change)
    return cell


def weights(cell: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Return the trainable weights of a cell by name."""
    return {v.name: np.asarray(keras.ops.convert_to_numpy(v)) for v in cell.trainable_variables}


def layers(work: Work, engines: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield the Keras layers that can do the work, by name; each has a cell of its own."""
    shape = (work.batch, work.length, work.width)

    def built(layer: Any) -> Any:
        layer.build(shape)
        return layer

    yield CELLKIT, built(cellkit.RNN(make_cell(work)))
    for engine in engines:
        layer = cellkit.RNN(make_cell(work), engine=engine)
        yield f"{CELLKIT} engine={engine}", built(layer)
    cell = make_cell(work)
    # Keras takes no states with a shape or a dtype of their own.
    if all(isinstance(size, int) for size in keras.tree.flatten(cell.state_size)):
        yield KERAS, built(keras.layers.RNN(cell))
    if work.cell in BUILT_IN:
        name = BUILT_IN[work.cell]
        layer = built(getattr(keras.layers, name)(work.width))
        layer.set_weights(list(weights(make_cell(work)).values()))
        yield f"keras.layers.{name}", layer


def layer_steps(work: Work) -> Iterator[tuple[str, Callable[..., Any], Callable[[], Any]]]:
    """Yield what Keras users have for one step of a stream.

    Yields:
        The name; a function of inputs and states that returns the output and the new states; and
        one that returns the states to begin with.
    """
    layer = cellkit.RNN(make_cell(work))
    layer.build((work.batch, 1, work.width))
    yield "cellkit layer.step", layer.step, lambda: layer.get_initial_state(work.batch)
    cell = make_cell(work)
    yield "cell(x, states)", cell, lambda: _states(cell, work.batch)


def _states(cell: Any, batch: int) -> list[Any]:
    states = cell.get_initial_state(batch)
    return states if isinstance(states, list) else [states]


def hand_step(work: Work) -> tuple[int, equations.Step] | None:
    """Return the number of states and the step of a cell written by hand, if there is one."""
    return equations.STEPS.get(work.cell)


def operations(cell: Any, work: Work) -> dict[str, int]:
    """Count the floating-point operations of the matrix products, by mode.

    Every weight matrix multiplies one vector per row and step. In training there is also a product
    for the gradient of each matrix, and one for the gradient of the states; the inputs need none.
    Element by element work isn't counted: what is left is a floor.
    """
    rows = 2 * work.batch * work.length
    matrices = [v for v in cell.trainable_variables if len(v.shape) == 2 and v.shape[0] > 2]
    sizes = {v.path: int(np.prod(v.shape)) for v in matrices}
    recurrent = sum(size for path, size in sizes.items() if "recurrent" in path.split("/")[-1])
    total = sum(sizes.values())
    return {"inference": rows * total, "training": rows * (2 * total + recurrent)}


def product_shapes(work: Work) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the shapes of the product whose rate is measured: an LSTM's inputs of all steps."""
    return (work.batch * work.length, work.width), (work.width, 4 * work.width)
