"""`RNN`: the recurrent layer with one exact semantics on every backend."""

from __future__ import annotations

from typing import Any

import keras

from cellkit import _keras_compat as compat
from cellkit import engines
from cellkit.cells.memo import Memo
from cellkit.cells.operations import to_tensor
from cellkit.cells.runner import (
    CellRunner,
    build_cell,
    check_cell,
    flatten_shapes,
    map_shapes,
    without_autograph,
)
from cellkit.cells.scope import SequenceScope, current_scope, sequence_scope
from cellkit.cells.stock_masks import lend_masks
from cellkit.cells.structure import describe_shapes
from cellkit.cells.validate import check_dtype
from cellkit.cells.watch import Watch
from cellkit.equations.restore import restore as restore_definitions
from cellkit.errors import problem
from cellkit.layers import plan
from cellkit.layers.arguments import (
    check_call,
    merge_masks,
    shape_text,
)
from cellkit.layers.constants import needs_them
from cellkit.layers.exporting import check_backend, traced
from cellkit.layers.initial_states import fitted_states, initial_states
from cellkit.layers.known_shapes import (
    build_config,
    read_build_config,
    specs_from_shapes,
)
from cellkit.layers.normalise import normalised
from cellkit.layers.options import (
    cells_by_name,
    check_flags,
    check_options,
    check_remat,
    check_truncation,
    check_unroll,
    engine_config,
)
from cellkit.layers.outputs import with_states
from cellkit.layers.requests import output_form, request_of, stock_cells
from cellkit.layers.resets import merge_resets, resets_of_step
from cellkit.layers.stacked import StackedCells
from cellkit.layers.states import StateStore
from cellkit.layers.stream import Stream
from cellkit.layers.symbolic import output_shape, output_spec
from cellkit.registry.registry import import_plugins
from cellkit.typing import States, Tensor, Tree

__all__ = ["RNN"]


@plan.planned
@keras.saving.register_keras_serializable(package="cellkit")
class RNN(keras.layers.RNN):
    """Runs a cell over time.

    A drop-in for `keras.layers.RNN` that gives the same numbers on TensorFlow, PyTorch and JAX,
    for inputs, outputs and states of any nested structure. For each row of the batch:

    ```
    y = zeros like the output; s = the initial state
    for t in order:                        # 0..T-1, or T-1..0 with go_backwards
        if resets[t]: y = zeros; s = the cell's own initial state
        out, new = cell(x[t], s)
        s = new if mask[t] else s
        y = out if mask[t] else y          # repeats the previous output, never a state
        emit y                             # with zero_output_for_mask: zeros where masked
    ```

    A masked step contributes nothing: what stands in the padding, NaN included, reaches neither
    outputs, nor states, nor gradients. What a cell does in a step (random draws, updates of
    variables, `add_loss`) happens exactly once per time step.

    Args:
        cell: Any Keras cell, a list of cells (which become `cellkit.StackedCells`), or any object
            with `call(inputs, states)` and `state_size`. The name of a registered cell makes that
            cell, with the keywords that are not the layer's: `RNN("lstm", units=64)`.
        return_sequences: True to return the output of every step. False: the last one.
        return_state: True to return the final states as well.
        go_backwards: True to process the sequence from its end. Outputs are returned in the
            order processed.
        stateful: True if the final states of a batch are the initial states of the next. They are
            tracked variables, saved with the model and carried on by `fit`, `predict` and the
            like on every backend. The batch size must be fixed.
        unroll: True for a plain Python loop, which needs a known number of steps; an int is the
            number of steps per turn of a compiled loop.
        zero_output_for_mask: True if returned sequences are zero at masked steps.
        engine: The way the loop is computed: `"auto"` takes the fastest way that gives the same
            numbers for this cell and these options; `"loop"`, `"projected"`, `"fused"`,
            `"kernel"`, `"scan"` and `"stack"` name one. `engine_report()` says which one ran.
        remat: True if training keeps only the states between chunks of steps, and computes the
            steps of each chunk once more in the backward pass: the same gradients, with memory
            that grows with the square root of the time. True for chunks of about sqrt(time) steps,
            an int for chunks of that many.
        truncate_gradient: Number k of steps, for truncated backpropagation through time. The
            steps, in the order processed, form blocks of k (the last one may be shorter), and no
            gradient passes through the states from one block into the block before: what a step
            contributes reaches back to the start of its block, so at most k steps. Outputs and
            states stay the same. `None`: the gradient reaches back to the first step.
        **kwargs: `name`, `dtype`, `trainable` and `activity_regularizer`, as for any Keras layer;
            with the name of a cell also the arguments of that cell, which takes `dtype` as well.

    Call arguments:
        sequences: Tensors or arrays of shape `(batch, time, ...)`, in any structure that the cell
            takes.
        initial_state: Initial states in the structure of `cell.state_size`: tensors or arrays of
            shape `(batch, ...)`. Overrides stored states.
        mask: Boolean or integer tensor of shape `(batch, time)` or `(batch, time, 1)`, true where
            a step counts; for nested inputs one, or one per input, of which all must hold.
        training: True if the cell runs in training mode.
        lengths: Integers of shape `(batch,)`, the number of steps of each row that count. May be
            given together with a mask.
        constants: Tensors that are handed to the cell at every step, as keyword `constants`.
        resets: Boolean or integer tensor of shape `(batch, time)`, true where a new sequence
            begins: before that step, in the order processed, the states of the row become the
            cell's own initial states, whatever the mask says, and no gradient passes. The row
            gives what its pieces give as sequences of their own.
        segments: Integers of shape `(batch, time)`, equal where steps belong to one sequence: a
            reset wherever the number differs from that of the step processed before. May be given
            together with `resets`.

    Returns:
        The output, or `(output, *states)` with `return_state`. States that are a dict or a
        namedtuple are returned as one: `(output, states)`.

    Raises:
        ValueError: If an argument does not fit, with what was passed, what is expected and how to
            fix it. The layer still works afterwards.

    Example:
    >>> import numpy as np
    >>> layer = RNN(keras.layers.LSTMCell(4), return_sequences=True)
    >>> tuple(layer(np.zeros((2, 5, 3)), lengths=[5, 3]).shape)
    (2, 5, 4)
    """

    def __init__(
        self,
        cell: Any,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool | int = False,
        zero_output_for_mask: bool = False,
        engine: str = "auto",
        remat: bool | int = False,
        truncate_gradient: int | None = None,
        **kwargs: Any,
    ) -> None:
        check_flags(cell, {"return_sequences": return_sequences, "return_state": return_state})
        cell, kwargs = cells_by_name(cell, kwargs)
        if not isinstance(cell, (list, tuple)):
            check_cell(cell)
        check_options(type(self), kwargs)
        if isinstance(cell, (list, tuple)):
            cell = StackedCells(list(cell), dtype=kwargs.get("dtype"))
        # Not Keras' own constructor: it rejects states that are a dict and keeps the stored states
        # out of the layer's variables.
        keras.layers.Layer.__init__(self, **kwargs)
        check_dtype(self)
        compat.take_over_conversion(self)
        self._memo = Memo()
        self.cell = cell
        if not isinstance(cell, keras.layers.Layer):
            self.plain_cell_parts = _tracked_parts(cell)
        self.return_sequences = return_sequences
        self.return_state = return_state
        self.go_backwards = go_backwards
        self.stateful = stateful
        self.unroll = check_unroll(unroll)
        self.zero_output_for_mask = zero_output_for_mask
        self.engine = engines.check_name(engine)
        self.remat = check_remat(remat)
        self.truncate_gradient = check_truncation(truncate_gradient)
        self.supports_masking = True
        self.input_spec = None
        self.state_store = StateStore(name="stored_states") if stateful else None
        size = cell.state_size
        self.single_state = not isinstance(size, (list, tuple, dict))
        self.state_size = [size] if self.single_state else size
        if isinstance(size, (list, tuple)) and not hasattr(size, "_fields"):
            self.state_size = list(size)

    # Building -----------------------------------------------------------------------------------

    @property
    def runner(self) -> CellRunner:
        """The runner of the cell for this layer."""
        return self._memo.memoize(
            "runner", lambda: CellRunner(self.cell, self.compute_dtype, self.variable_dtype)
        )

    def build(
        self, sequences_shape: Any, initial_state_shape: Any = None, constants_shape: Any = None
    ) -> None:
        """Build the cell and, for a stateful layer, the stored states.

        Args:
            sequences_shape: Shape `(batch, time, ...)`, or a structure of such shapes.
            initial_state_shape: Not used; Keras passes it when initial states are given.
            constants_shape: Shapes of the constants, in the structure in which they are passed. A
                cell needs them here only if it has layers inside that it doesn't build itself.
        """
        sequences_shape = map_shapes(tuple, sequences_shape)
        shapes = flatten_shapes(sequences_shape)
        batch = shapes[0][0]
        if self.stateful and batch is None:
            raise problem(
                "A stateful layer must know its batch size.",
                received=f"inputs of shape {shape_text(sequences_shape)}",
                expected="a fixed batch size: one stored state per row",
                fix="use `keras.Input(batch_shape=(batch, time, ...))`, or call the layer on data "
                "first",
            )
        if constants_shape is not None:
            specs = specs_from_shapes(constants_shape, None, self.compute_dtype)
            self._memo.set("constants", specs)
        check_backend(self)
        build_cell(
            self.runner,
            map_shapes(lambda s: (s[0], *s[2:]), sequences_shape),
            self._memo.get("input_dtypes"),
            self._memo.get("constants"),
        )
        # Kept for the checks of later calls and for saving, once the cell has taken them.
        self._memo.set("input_shapes", sequences_shape)
        # Found out now: `torch.compile` cannot trace what Keras does after a dict has changed.
        needs_them(self)
        lend_masks(self.cell)  # before the first look at what may change
        if not isinstance(self.cell, keras.layers.Layer):
            self.plain_cell_parts = _tracked_parts(self.cell)
        if self.state_store is not None and not self.state_store.built:
            self.state_store.create(self.runner.initial(batch))

    def get_build_config(self) -> dict[str, Any] | None:
        """Return the shapes of inputs and constants, from which a saved layer is built again."""
        return build_config(self._memo) if self.built else None

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Build from saved shapes, of this layer or of `keras.layers.RNN`."""
        self.build(read_build_config(self._memo, config, self.compute_dtype))

    # Calling ------------------------------------------------------------------------------------

    @without_autograph
    def __call__(
        self,
        sequences: Tree,
        initial_state: States = None,
        mask: Tensor = None,
        training: bool | None = None,
        lengths: Any = None,
        constants: Tree = None,
        resets: Tensor = None,
        segments: Tensor = None,
        **kwargs: Any,
    ) -> Any:
        """Check and convert the arguments, then run the layer; see the class for them."""
        call = None
        if constants is None and not kwargs:
            call = plan.call_of(self, sequences, initial_state, mask, lengths, resets, segments)
        arguments = (sequences, initial_state, mask, training, lengths, constants)
        if call is None:
            return self._whole_way(*arguments, resets, segments, kwargs)
        planned, found = plan.run(self, call, training)
        if planned:
            return found
        result = self._whole_way(*arguments, resets, segments, kwargs)
        plan.keep(self, call, training=found)
        return result

    def _whole_way(
        self,
        sequences: Tree,
        initial_state: States,
        mask: Tensor,
        training: bool | None,
        lengths: Any,
        constants: Tree,
        resets: Tensor,
        segments: Tensor,
        kwargs: dict[str, Any],
    ) -> Any:
        """Check and convert all arguments, and let Keras call the layer."""
        check_call(self, kwargs)
        given = (initial_state, mask, training, lengths, constants, resets, segments)
        sequences, optional = normalised(self, sequences, *given)
        return super().__call__(sequences, **kwargs, **optional)

    def call(
        self,
        sequences: Tree,
        initial_state: States = None,
        mask: Tensor = None,
        training: bool = False,
        lengths: Any = None,
        constants: Tree = None,
        one_step: bool = False,
        resets: Tensor = None,
        segments: Tensor = None,
    ) -> Any:
        """Run the cell over time; see the class for the arguments."""
        file = traced(self, sequences)
        # `stateless_call` comes here directly, with whatever it was given.
        sequences = keras.tree.map_structure(lambda x: to_tensor(x, self.compute_dtype), sequences)
        batch = keras.ops.shape(keras.tree.flatten(sequences)[0])[0]
        extra = {} if constants is None else {"constants": constants}
        resets = merge_resets(sequences, resets, segments, self.go_backwards)
        scope = SequenceScope(batch, extra, one_step, resets)
        with file, sequence_scope(scope, stock_cells(self), bool(training)):
            last, outputs, states = self.inner_loop(
                sequences=sequences,
                initial_state=initial_states(self, initial_state, batch),
                mask=merge_masks(sequences, mask, [], lengths),
                training=bool(training),
            )
        if self.state_store is not None:
            self.state_store.assign(keras.tree.flatten(states))
        if one_step:
            return last, states
        output = outputs if self.return_sequences else last
        return with_states(output, states) if self.return_state else output

    def inner_loop(
        self, sequences: Tree, initial_state: States, mask: Tensor, training: bool = False
    ) -> tuple[Any, Any, Any]:
        """Run the loop over time.

        Args:
            sequences: Tensors of shape `(batch, time, ...)`.
            initial_state: The states, in the cell's structure.
            mask: Boolean tensor of shape `(batch, time)`, or None.
            training: True if the cell runs in training mode.

        Returns:
            The last output, all outputs (None unless they are returned), the final states.
        """
        batch = keras.ops.shape(keras.tree.flatten(sequences)[0])[0]
        runner, scope = self.runner, current_scope() or SequenceScope(batch)
        starts = None if scope.resets is None else runner.initial(batch)
        states = keras.tree.flatten(initial_state)
        request = request_of(self, sequences, states, training, scope, mask=mask, starts=starts)
        last, outputs, states = engines.run(request)
        form = request.form
        packed = None if outputs is None else form.pack(outputs)
        return form.pack(last), packed, runner.layout.pack(states)

    def engine_report(self) -> engines.EngineReport:
        """Return which engine ran in the last call, and why no other one did.

        Example:
        >>> import numpy as np
        >>> layer = RNN(keras.layers.SimpleRNNCell(4))
        >>> y = layer(np.zeros((2, 5, 3)))
        >>> layer.engine_report().engine
        'loop'
        """
        return engines.report(self.engine, self._memo)

    def forget_compiled(self) -> None:
        """Forget what was compiled or recorded of the cell: the next call makes it anew.

        Changes of all that can be reached from the layer and its cell are noticed without it. It
        is for those that are not: of attributes of a module or of a class of a library, or of what
        an object that is not written in Python keeps to itself.

        Example:
        >>> layer = RNN(keras.layers.SimpleRNNCell(4))
        >>> layer.forget_compiled()
        """
        watch: Watch | None = self._memo.get("watch")
        if watch is not None:
            watch.forget()

    @without_autograph
    def step(
        self,
        inputs: Tree,
        states: States = None,
        training: bool = False,
        constants: Tree = None,
        resets: Tensor = None,
        segments: Tensor = None,
    ) -> tuple[Tree, States]:
        """Run one time step of a stream.

        As many calls as a sequence has steps give what one call on the whole sequence gives.

        Args:
            inputs: The inputs of one step: leaves of shape `(batch, ...)`, without a time axis.
            states: The states that the step before returned. `None`: the stored states of a
                stateful layer, otherwise the initial states.
            training: True if the cell runs in training mode.
            constants: Tensors that are handed to the cell, as in a call.
            resets: Booleans or integers of shape `(batch,)`, true where a new sequence begins: the
                row starts from the cell's own initial states, whatever `states` says.
            segments: A pair of integers of shape `(batch,)`, the numbers of the sequences that the
                step before and this step belong to: a reset where they differ.

        Returns:
            The output of the step, and the new states in the cell's structure.

        Raises:
            ValueError: If the inputs or the states do not fit.

        Example:
        >>> import numpy as np
        >>> layer, states = RNN(keras.layers.GRUCell(4)), None
        >>> for x in np.zeros((3, 2, 5)):  # three steps of two rows
        ...     y, states = layer.step(x, states)
        >>> tuple(y.shape)
        (2, 4)
        """
        inputs = keras.tree.map_structure(lambda x: to_tensor(x, self.compute_dtype), inputs)
        if any(len(getattr(x, "shape", ())) < 1 for x in keras.tree.flatten(inputs)):
            raise problem(
                "The inputs of one step lack a batch axis.",
                received=describe_shapes(inputs),
                expected="(batch, ...) for every input",
                fix="add it, e.g. `x[None]` for a batch of one",
            )
        sequences = keras.tree.map_structure(lambda x: keras.ops.expand_dims(x, 1), inputs)
        resets = resets_of_step(sequences, resets, segments)
        return self(
            sequences,
            initial_state=states,
            training=training,
            constants=constants,
            resets=resets,
            one_step=True,
        )

    def stream(self, batch_size: int, initial_state: States = None) -> Stream:
        """Return a stream: the layer's step with states of its own, compiled once.

        Args:
            batch_size: Number of rows.
            initial_state: States to start from, in the cell's structure. None: the cell's own.
        """
        return Stream(self, batch_size, initial_state)

    # States -------------------------------------------------------------------------------------

    @property
    def states(self) -> Any:
        """The stored states of a stateful layer: variables in the cell's structure, or None."""
        store = self.state_store
        return self.runner.layout.pack(store.values) if store is not None and store.built else None

    def get_initial_state(self, batch_size: Any) -> Any:
        """Return the initial states of the cell, `(batch_size, ...)`, in its structure.

        Args:
            batch_size: Int or scalar tensor.
        """
        check_backend(self)
        return self.runner.layout.pack(self.runner.initial(batch_size))

    def reset_state(self, states: States = None) -> None:
        """Set the stored states of a stateful layer.

        Args:
            states: New states: tensors or arrays in the cell's structure. `None`: the cell's own
                initial states.

        Raises:
            ValueError: If the layer is not stateful, or the states do not fit.
        """
        store = self.state_store
        if store is None:
            if states is None:
                return
            raise problem(
                "Only a stateful layer has states to set.",
                received="reset_state(states=...) of a layer with stateful=False",
                expected="stateful=True",
                fix="make the layer with `stateful=True`, or pass `initial_state` to the call",
            )
        if not store.built:
            if states is None:
                return
            raise problem(
                "The layer has no stored states yet.",
                received="reset_state(states=...) before the layer was built",
                expected="a built layer: its batch size is known then",
                fix="call the layer once or build it before setting its states",
            )
        batch = store.values[0].shape[0]
        if states is None:
            store.reset(self.runner.initial(batch))
        else:
            store.assign(keras.tree.flatten(fitted_states(self.runner, states, batch)))

    def reset_states(self, states: States = None) -> None:
        """Do the same as `reset_state`, under its older name."""
        self.reset_state(states)

    # Shapes and masks ---------------------------------------------------------------------------

    def compute_output_spec(
        self,
        sequences: Tree,
        initial_state: States = None,
        mask: Tensor = None,
        training: bool = False,
        lengths: Any = None,
        constants: Tree = None,
        one_step: bool = False,
        resets: Tensor = None,
        segments: Tensor = None,
    ) -> Any:
        """Return what a call returns, as symbolic tensors."""
        return output_spec(self, sequences, constants, one_step)

    def compute_output_shape(self, sequences_shape: Any, initial_state_shape: Any = None) -> Any:
        """Return the shapes of what a call returns.

        Args:
            sequences_shape: Shape `(batch, time, ...)`, or a structure of such shapes.
            initial_state_shape: Not used; Keras passes it when initial states are given.
        """
        return output_shape(self, sequences_shape)

    def compute_mask(self, sequences: Tree, mask: Tensor = None) -> Any:
        """Pass the mask on with returned sequences; states have none.

        Later layers rely on it: without it the second of two recurrent layers would read the
        padding.
        """
        out = merge_masks(sequences, mask, [], None) if self.return_sequences else None
        leaves = output_form(self).count
        output = [out] * leaves
        if self.return_state:
            output = output + [None] * len(self.runner.layout.specs)
        return output[0] if len(output) == 1 else output

    # Configuration ------------------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments, the cell serialised."""
        if not isinstance(self.cell, keras.layers.Layer):
            raise problem(
                "A layer with a plain object as cell cannot be saved.",
                received=f"a cell of type {type(self.cell).__name__}, which is not a Keras layer",
                expected="a cell that can be serialised",
                fix="derive the cell from `cellkit.Cell` or `keras.layers.Layer` and register it "
                "with `keras.saving.register_keras_serializable`",
            )
        config = super().get_config()
        config["cell"] = _without_build(config["cell"])
        config.update(engine_config(self))
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Make a layer from what `get_config` returned."""
        import_plugins(config)
        restore_definitions(config)
        return super().from_config(dict(config), custom_objects)


def _without_build(config: Any) -> Any:
    """Take the build configurations out of a serialised cell.

    The layer builds its cell itself, by tracing where the cell has no `build`; Keras would call
    that missing `build` when it loads the cell.
    """
    if isinstance(config, dict):
        return {k: _without_build(v) for k, v in config.items() if k != "build_config"}
    if isinstance(config, list):
        return [_without_build(v) for v in config]
    return config


def _tracked_parts(cell: Any) -> list[Any]:
    """Return the layers and variables inside a plain object, for the layer to track."""
    parts = [p for p in compat.parts(cell) if isinstance(p, keras.layers.Layer)]
    return parts + [v for v in vars(cell).values() if isinstance(v, keras.Variable)]
