"""Streams: a layer's step with states of its own, compiled once."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import keras

from cellkit import _keras_compat as compat
from cellkit.cells.operations import to_tensor
from cellkit.cells.scope import SequenceScope
from cellkit.cells.structure import describe_shapes
from cellkit.engines.backend import backend
from cellkit.engines.shared.one_step import OneStep, plain_step
from cellkit.errors import problem
from cellkit.layers.arguments import check_values
from cellkit.layers.initial_states import fitted_states
from cellkit.layers.normalise import ready
from cellkit.layers.requests import edition_of, output_form, request_of, stock_cells
from cellkit.layers.resets import resets_of_step
from cellkit.typing import States, Tensor, Tree

if TYPE_CHECKING:
    from cellkit.layers.rnn import RNN


class Stream:
    """One layer run step by step: each call is a time step, and the states are kept in between.

    Made by `cellkit.RNN.stream`. As many calls as a sequence has steps give the outputs and states
    of one call of the layer, bit by bit where the layer's engine is the loop. The cell runs at
    inference, and no gradient is recorded. A stream shares no states with other streams of the
    layer, nor with the layer if that is stateful. Threads may share one: calls run one by one.

    The first call with new shapes compiles the step: with `jax.jit` on JAX, where the old states
    give their memory to the new ones, and as a `tf.function` on TensorFlow. On PyTorch the
    operations of the step are recorded, as the engine `fused` does. Weights are read anew at every
    call, and every change that makes the layer compile anew does so here.

    Args:
        layer: The layer.
        batch_size: Number of rows.
        initial_state: States to start from, in the cell's structure. None: the cell's own.

    Raises:
        ValueError: If the batch size is not a positive integer, or the states do not fit.

    Example:
    >>> import numpy as np
    >>> import cellkit
    >>> stream = cellkit.RNN(keras.layers.GRUCell(4)).stream(2)
    >>> for x in np.zeros((3, 2, 5), "float32"):  # three steps of two rows
    ...     y = stream(x)
    >>> tuple(y.shape)
    (2, 4)
    """

    def __init__(self, layer: RNN, batch_size: int, initial_state: States = None) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise problem(
                "The batch size of a stream is not a positive integer.",
                received=f"batch_size={batch_size!r}",
                expected="the number of rows of each step",
                fix="pass an int, e.g. `layer.stream(1)` for a single sequence",
            )
        self.layer, self.batch_size = layer, batch_size
        self._lock = threading.RLock()
        self._initial = initial_state
        self._states: list[Any] = []
        # The steps of one edition of the layer, by the kind of their inputs.
        self._edition: int | None = None
        self._steps: dict[Any, OneStep] = {}
        if layer.built:
            self._start()

    def __call__(self, inputs: Tree, resets: Tensor = None, constants: Tree = None) -> Any:
        """Run one time step.

        Args:
            inputs: The inputs of the step: leaves of shape `(batch, ...)`, without a time axis.
            resets: Booleans or integers `(batch,)`, true where a new sequence begins: the row
                starts from the cell's own initial states.
            constants: Tensors that are handed to the cell, as in a call of the layer.

        Returns:
            The output of the step, `(batch, ...)`, in the structure of the cell's output.

        Raises:
            ValueError: If the inputs, resets or constants do not fit, or in a traced function.
        """
        with self._lock:
            kind = backend.signature(inputs)
            step = None
            if kind is not None and constants is None and self._edition == edition_of(self.layer):
                step = self._steps.get(kind)
            extra: dict[str, Any] = {}
            if step is None or self._looks:
                inputs, kind, extra = self._taken(inputs, constants)
                step = self._step(inputs, kind, extra)
            leaves = [inputs] if self._single else keras.tree.flatten(inputs)
            rows = None
            if resets is not None:
                rows = resets_of_step(leaves, resets, None)[:, 0]
            outputs, self._states = step(leaves, self._states, rows, extra)
            return self._form.pack(outputs)

    @property
    def states(self) -> Any:
        """The current states, in the cell's structure; None as long as the layer is not built."""
        with self._lock:
            if not self.layer.built:
                return None
            return self.layer.runner.layout.pack([backend.copied(s) for s in self._states])

    def reset(self, initial_state: States = None) -> None:
        """Begin a new sequence in all rows.

        Args:
            initial_state: States to start from, now and after later resets. None: those that the
                stream started from before.
        """
        with self._lock:
            if initial_state is not None:
                self._initial = initial_state
            if self.layer.built:
                self._start()

    def _start(self) -> None:
        layer, batch = self.layer, self.batch_size
        self._looks = hasattr(layer.cell, "check_values")
        self._form = output_form(layer)
        if self._initial is None:
            leaves = layer.runner.initial(batch)
        else:
            leaves = keras.tree.flatten(fitted_states(layer.runner, self._initial, batch))
        self._states = [backend.copied(s) for s in leaves]

    def _taken(self, inputs: Tree, constants: Tree) -> tuple[Any, Any, dict[str, Any]]:
        """Return checked inputs, their kind, and the keyword arguments of the cell's step."""
        layer, one = self.layer, keras.tree.map_structure
        inputs = one(lambda x: to_tensor(x, layer.compute_dtype), inputs)
        leaves = keras.tree.flatten(inputs)
        if any(len(x.shape) < 1 or x.shape[0] != self.batch_size for x in leaves):
            raise problem(
                "The inputs of a step have another batch size than the stream.",
                received=describe_shapes(inputs),
                expected=f"({self.batch_size}, ...) for every input, without a time axis",
                fix="pass one row per row of the stream, or make one of another size with "
                "`layer.stream(batch_size)`",
            )
        kinds = [backend.signature(x) for x in leaves]
        if None in kinds:
            raise problem(
                "A stream was called in a traced function.",
                received=describe_shapes(inputs),
                expected="tensors with values: a stream keeps its states from call to call",
                fix="use `layer.step`, which takes the states and returns them",
            )
        started = layer.built
        sequences, constants = ready(
            layer, one(lambda x: keras.ops.expand_dims(x, 1), inputs), constants
        )
        if not started:
            self._start()
        check_values(layer.cell, sequences, None)
        extra = {} if constants is None else {"constants": constants}
        self._single = not keras.tree.is_nested(inputs)
        kind = kinds[0] if self._single else tuple(kinds)
        return inputs, kind if constants is None else (kind, "constants"), extra

    def _step(self, inputs: Tree, kind: Any, extra: dict[str, Any]) -> OneStep:
        """Return the step for inputs of a kind, made anew after a change of the layer."""
        layer, edition = self.layer, edition_of(self.layer)
        if self._edition != edition:
            self._edition, self._steps, self._form = edition, {}, output_form(layer)
        if kind in self._steps:
            return self._steps[kind]
        request = request_of(
            layer,
            keras.tree.map_structure(lambda x: keras.ops.expand_dims(x, 1), inputs),
            self._states,
            training=False,
            scope=SequenceScope(self.batch_size, extra, one_step=True),
        )
        usual = layer.variable_dtype == layer.compute_dtype and not compat.is_quantized(layer)
        stock = stock_cells(layer)
        step = plain_step(request, stock, within=not usual)
        self._steps[kind] = made = backend.one_step(request, step, stock, usual)
        return made
