"""`Bidirectional`: a recurrent layer that reads its inputs from both ends."""

from __future__ import annotations

import copy
from typing import Any

import keras
import numpy as np

from cellkit import _keras_compat as compat
from cellkit.cells.memo import Memo
from cellkit.cells.operations import to_tensor
from cellkit.cells.runner import (
    flatten_shapes,
    pack_like_shapes,
    without_autograph,
)
from cellkit.cells.structure import describe_shapes, is_numbers
from cellkit.cells.validate import check_dtype
from cellkit.errors import problem
from cellkit.layers.arguments import (
    check_call,
    check_inputs,
    merge_masks,
    validate_mask,
)
from cellkit.layers.constants import check_constants
from cellkit.layers.copying import copy_layer
from cellkit.layers.directions import (
    check_layer,
    forward_copy,
    output_count,
    reset,
    state_count,
    stored,
    unpacked,
)
from cellkit.layers.initial_states import fitted_states
from cellkit.layers.known_shapes import (
    build_config,
    read_build_config,
    specs_from_shapes,
)
from cellkit.layers.merging import merge_pair
from cellkit.layers.normalise import build_once
from cellkit.layers.resets import validate_resets
from cellkit.layers.rnn import RNN
from cellkit.typing import States, Tensor, Tree

__all__ = ["Bidirectional"]

_MERGE_MODES = ("sum", "mul", "concat", "ave", None)


@keras.saving.register_keras_serializable(package="cellkit")
class Bidirectional(keras.layers.Bidirectional):
    """Runs one layer forwards and one backwards, and merges what they return.

    A drop-in for `keras.layers.Bidirectional` that takes all that `cellkit.RNN` takes: inputs,
    outputs and states of any nested structure, `lengths`, `constants`, cells that are neither
    registered nor Keras layers. Nested outputs are merged leaf by leaf. With
    `return_sequences=True` the outputs of the backward layer are put in the order of time first:

    ```
    forward(x), reverse(backward(x))       # merged by merge_mode at every step
    ```

    The padding reaches neither direction, wherever it stands. As in Keras, returned sequences are
    zero at masked steps whatever the layer's own `zero_output_for_mask` says.

    The layer is copied for both directions, with fresh weights; a copy gets the same options. An
    explicit `seed` is replaced by another one, derived from it, in the backward copy, so that the
    two directions drop different units. Plain objects as cells are copied with `copy.deepcopy`,
    with whatever they hold.

    Args:
        layer: A `cellkit.RNN`, a Keras recurrent layer, or any layer with `go_backwards`,
            `return_sequences`, `return_state` and `stateful`.
        merge_mode: The rule that makes one output of two: `"concat"` along the last axis, `"sum"`,
            `"mul"`, `"ave"`, or None to return both.
        weights: Initial weights, those of the forward layer first.
        backward_layer: The layer that reads backwards, with `go_backwards=True`. `None`: a copy
            of `layer`. Where it is given, an unbuilt `layer` that cannot be copied is used itself.
        **kwargs: `name`, `dtype` and `trainable`, as for any Keras layer.

    Call arguments:
        sequences: Tensors or arrays of shape `(batch, time, ...)`, in any structure.
        initial_state: A list with the states of the forward layer, then those of the backward
            layer, as `return_state` gives them; or a pair (states of the forward layer, states of
            the backward layer).
        mask: Boolean or integer tensor of shape `(batch, time)`, true where a step counts; for
            nested inputs one, or one per input, of which all must hold.
        training: True if the layers run in training mode.
        lengths: Integers of shape `(batch,)`, the number of steps of each row that count.
        constants: Tensors that are handed to the cells at every step.
        resets: Boolean or integer tensor of shape `(batch, time)`, true where a direction begins a
            new sequence before that step, in its own order; see `cellkit.RNN`.
        segments: Integers of shape `(batch, time)`, equal where steps belong to one sequence: both
            directions cut where the number changes.

    Returns:
        The merged output, or a pair of outputs with `merge_mode=None`; with `return_state`
        followed by the states of the forward and of the backward layer.

    Raises:
        ValueError: If an argument does not fit, with what was passed, what is expected and how to
            fix it.

    Example:
    >>> import numpy as np
    >>> from cellkit import RNN
    >>> layer = Bidirectional(RNN(keras.layers.GRUCell(4), return_sequences=True))
    >>> tuple(layer(np.zeros((2, 5, 3)), lengths=[5, 3]).shape)
    (2, 5, 8)
    """

    def __init__(
        self,
        layer: Any,
        merge_mode: str | None = "concat",
        weights: list[Any] | None = None,
        backward_layer: Any = None,
        **kwargs: Any,
    ) -> None:
        check_layer("layer", layer)
        if backward_layer is not None:
            check_layer("backward_layer", backward_layer)
        if merge_mode not in _MERGE_MODES:
            raise problem(
                "Invalid merge mode.",
                received=f"merge_mode={merge_mode!r}",
                expected=", ".join(repr(mode) for mode in _MERGE_MODES),
                fix='use merge_mode="concat" to keep both outputs side by side',
            )
        # Not Keras' own constructor: it copies the layer by serialising it.
        keras.layers.Layer.__init__(self, **kwargs)
        check_dtype(self)
        compat.take_over_conversion(self)
        self._memo = Memo()
        self.forward_layer = forward_copy(layer, backward_layer)
        if backward_layer is None:
            name = f"backward_{layer.name.removeprefix('backward_')}"
            backward_layer = copy_layer(layer, name=name, go_backwards=True, new_seed=True)
        self.backward_layer = backward_layer
        self._verify_layer_config()
        for direction in (self.forward_layer, self.backward_layer):
            if hasattr(layer, "use_cudnn"):
                direction.use_cudnn = layer.use_cudnn
            if getattr(direction, "zero_output_for_mask", None) is not None:
                direction.zero_output_for_mask = direction.return_sequences
        self.merge_mode = merge_mode
        self.stateful = layer.stateful
        self.return_sequences = layer.return_sequences
        self.return_state = layer.return_state
        self.supports_masking = True
        self.input_spec = layer.input_spec
        self._memo.set("weights", weights)

    def _verify_layer_config(self) -> None:
        """Check that the two layers go in different directions and agree in the rest."""
        forward, backward = self.forward_layer, self.backward_layer
        if forward.go_backwards == backward.go_backwards:
            raise problem(
                "Both layers read in the same direction.",
                received=f"go_backwards={forward.go_backwards} for `layer` and "
                f"go_backwards={backward.go_backwards} for the backward layer",
                expected="go_backwards=False for `layer`, go_backwards=True for the backward layer",
                fix="set `go_backwards` of each layer; leave `backward_layer` out for a copy",
            )
        for option in ("stateful", "return_sequences", "return_state"):
            values = getattr(forward, option), getattr(backward, option)
            if values[0] != values[1]:
                raise problem(
                    f"The forward and the backward layer differ in `{option}`.",
                    received=f"{option}={values[0]} for `layer`, {option}={values[1]} for "
                    "`backward_layer`",
                    expected=f"the same `{option}` for both",
                    fix=f"set `{option}` of one of them",
                )

    # Building -----------------------------------------------------------------------------------

    def build(
        self, sequences_shape: Any, initial_state_shape: Any = None, constants_shape: Any = None
    ) -> None:
        """Build both layers.

        Args:
            sequences_shape: Shape `(batch, time, ...)`, or a structure of such shapes.
            initial_state_shape: Not used; Keras passes it when initial states are given.
            constants_shape: Shapes of the constants; see `cellkit.RNN.build`.
        """
        if constants_shape is not None:
            dtype = self.forward_layer.compute_dtype
            self._memo.set("constants", specs_from_shapes(constants_shape, None, dtype))
        for layer in (self.forward_layer, self.backward_layer):
            if not layer.built:
                if isinstance(layer, RNN):
                    for known in ("input_dtypes", "constants"):
                        layer._memo.set(known, self._memo.get(known))
                layer.build(sequences_shape)
        # Kept for the checks of later calls and for saving, once both layers have taken them.
        self._memo.set("input_shapes", sequences_shape)
        weights = self._memo.get("weights")
        if weights:
            count = len(self.forward_layer.weights)
            self.forward_layer.set_weights(weights[:count])
            self.backward_layer.set_weights(weights[count:])

    def get_build_config(self) -> dict[str, Any] | None:
        """Return the shapes of inputs and constants, from which a saved layer is built again."""
        return build_config(self._memo) if self.built else None

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Build from saved shapes, of this layer or of `keras.layers.Bidirectional`."""
        dtype = self.forward_layer.compute_dtype
        self.build(read_build_config(self._memo, config, dtype))

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
        check_call(self, kwargs)
        sequences = np.asarray(sequences) if is_numbers(sequences) else sequences
        given = keras.tree.flatten(
            (sequences, initial_state, mask, lengths, constants, resets, segments)
        )
        symbolic = any(isinstance(x, keras.KerasTensor) for x in given)
        implicit = [compat.keras_mask(x) for x in keras.tree.flatten(sequences)]
        dtype = self.forward_layer.compute_dtype
        sequences = keras.tree.map_structure(lambda x: to_tensor(x, dtype), sequences)
        if isinstance(self.forward_layer, RNN):
            check_inputs(self.forward_layer, sequences, self._memo.get("input_shapes"))
        self._check_constants(constants)
        if resets is not None or segments is not None:
            self._check_takes_resets()
            validate_resets(sequences, resets, segments)
        cell = getattr(self.forward_layer, "cell", None)
        build_once(self, cell, sequences, constants, dtype)
        if initial_state is not None:
            self._check_states(initial_state, keras.tree.flatten(sequences)[0].shape[0])
        if symbolic:
            # Implicit masks of symbolic tensors are found again when the model runs.
            validate_mask(sequences, mask)
        else:
            mask = merge_masks(sequences, mask, implicit, lengths)
            lengths = None
        optional = {
            "initial_state": keras.tree.map_structure(_array_to_tensor, initial_state),
            "mask": mask,
            "training": training,
            "lengths": lengths,
            "constants": keras.tree.map_structure(_array_to_tensor, constants),
            "resets": resets,
            "segments": segments,
        }
        kwargs.update({k: v for k, v in optional.items() if v is not None})
        return super().__call__(sequences, **kwargs)

    def call(
        self,
        sequences: Tree,
        initial_state: States = None,
        mask: Tensor = None,
        training: bool | None = None,
        lengths: Any = None,
        constants: Tree = None,
        resets: Tensor = None,
        segments: Tensor = None,
    ) -> Any:
        """Run both layers and merge their outputs; see the class for the arguments."""
        # `stateless_call` comes here directly, with whatever it was given.
        dtype = self.forward_layer.compute_dtype
        sequences = keras.tree.map_structure(lambda x: to_tensor(x, dtype), sequences)
        mask = merge_masks(sequences, mask, [], lengths)
        before = [(v, keras.ops.copy(v.value)) for v in stored(self.forward_layer)]
        try:
            if self._runs_as_in_keras():
                states = self._split(initial_state)
                joined = None if states is None else [*states[0], *states[1]]
                joined = keras.tree.map_structure(lambda x: to_tensor(x, dtype), joined)
                return super().call(sequences, initial_state=joined, mask=mask, training=training)
            return self._merge_results(
                *self._both(
                    "__call__",
                    sequences,
                    initial_state,
                    mask=mask,
                    training=training,
                    constants=constants,
                    resets=resets,
                    segments=segments,
                )
            )
        except Exception:
            # The forward layer has stored its states already when the backward layer fails.
            for variable, value in before:
                variable.assign(value)
            raise

    def _runs_as_in_keras(self) -> bool:
        """True if Keras' own `call` does it, with the fused kernels of `LSTM` and `GRU`."""
        fused = (keras.layers.LSTM, keras.layers.GRU)
        layers = (self.forward_layer, self.backward_layer)
        return all(not isinstance(x, RNN) or isinstance(x, fused) for x in layers)

    def _both(
        self,
        method: str,
        sequences: Tree,
        initial_state: States,
        **optional: Any,
    ) -> tuple[Any, Any]:
        """Call one method of both layers, each with its own initial states."""
        states = self._split(initial_state)
        results = []
        for i, layer in enumerate((self.forward_layer, self.backward_layer)):
            kwargs = {
                name: value
                for name, value in optional.items()
                if value is not None and compat.takes(layer.call, name)
            }
            if states is not None:
                kwargs["initial_state"] = states[i]
            results.append(getattr(layer, method)(sequences, **kwargs))
        return results[0], results[1]

    def _merge_results(self, forward: Any, backward: Any) -> Any:
        """Merge what the two layers returned."""
        states: tuple[Any, ...] = ()
        if self.return_state:
            states = (*forward[1:], *backward[1:])
            forward, backward = forward[0], backward[0]
        forward = self._cast(forward, self.forward_layer)
        backward = self._cast(backward, self.backward_layer)
        if self.return_sequences:
            flip = lambda y: keras.ops.flip(y, axis=1)  # noqa: E731
            backward = keras.tree.map_structure(flip, backward)
        if self.merge_mode is None:
            return (forward, backward, *states)
        mode, sequences = self.merge_mode, self.return_sequences
        output = keras.tree.map_structure(
            lambda a, b: merge_pair(mode, a, b, sequences), forward, backward
        )
        return (output, *states) if self.return_state else output

    def _cast(self, output: Tree, layer: Any) -> Any:
        """Cast outputs from the layer's compute dtype to this layer's own; declared dtypes stay."""

        def cast(y: Any) -> Any:
            ordinary = keras.backend.standardize_dtype(y.dtype) == layer.compute_dtype
            return keras.ops.cast(y, self.compute_dtype) if ordinary else y

        return keras.tree.map_structure(cast, output)

    def _check_constants(self, constants: Tree) -> None:
        for layer in (self.forward_layer, self.backward_layer):
            if isinstance(layer, RNN):
                check_constants(layer, constants)
            elif constants is not None and not compat.takes(layer.call, "constants"):
                raise problem(
                    f"{type(layer).__name__} takes no constants.",
                    received="constants=...",
                    expected="layers whose `call` has a parameter `constants`",
                    fix="wrap the cell in `cellkit.RNN`",
                )

    def _check_takes_resets(self) -> None:
        for layer in (self.forward_layer, self.backward_layer):
            if not compat.takes(layer.call, "resets"):
                raise problem(
                    f"{type(layer).__name__} knows no resets.",
                    received="resets=... or segments=...",
                    expected="layers whose `call` has the parameters `resets` and `segments`",
                    fix="wrap the cell in `cellkit.RNN`",
                )

    # States -------------------------------------------------------------------------------------

    def _split(self, states: States) -> tuple[Any, Any] | None:
        """Divide states into those of the forward and of the backward layer."""
        if states is None:
            return None
        if not isinstance(states, (list, tuple)) or len(states) == 0 or len(states) % 2:
            raise self._undivided(states)
        half = len(states) // 2
        forward, backward = list(states[:half]), list(states[half:])
        return unpacked(forward, self.forward_layer), unpacked(backward, self.backward_layer)

    def _undivided(self, states: States) -> ValueError:
        known = [
            describe_shapes(layer.runner.layout.structure)
            for layer in (self.forward_layer, self.backward_layer)
            if isinstance(layer, RNN) and layer.built
        ]
        return problem(
            "The initial states cannot be divided between the two directions.",
            received=f"initial states of shape {describe_shapes(states)}",
            expected="a list with the states of the forward layer, then as many of the "
            "backward layer; or a pair of both" + (f": {' and '.join(known)}" if known else ""),
            fix="pass `[*forward_states, *backward_states]`, as `return_state=True` returns them",
        )

    def _check_states(self, states: States, batch: int | None) -> None:
        """Check states before Keras calls the layer: it would put words of its own around these."""
        split = self._split(states) or ()
        for layer, given in zip((self.forward_layer, self.backward_layer), split, strict=False):
            if isinstance(layer, RNN):  # any other layer is checked by Keras
                if not layer.runner.layout.fits(given):
                    raise self._undivided(states)
                fitted_states(layer.runner, given, batch)

    @property
    def states(self) -> Any:
        """The stored states, of the forward layer and then of the backward layer, or None."""
        forward, backward = self.forward_layer.states, self.backward_layer.states
        if not forward or not backward:
            return None
        if isinstance(forward, (list, tuple)) and not hasattr(forward, "_fields"):
            return (*forward, *backward)
        return (forward, backward)

    def reset_state(self, states: States = None) -> None:
        """Set the stored states of both layers.

        Args:
            states: New states, in any form that `initial_state` may have. `None`: the cells' own
                initial states.

        Raises:
            ValueError: If the layer is not stateful, or the states do not fit.
        """
        if not self.stateful:
            raise problem(
                "Only a stateful layer has states to reset.",
                received="reset_state() of a layer with stateful=False",
                expected="stateful=True",
                fix="wrap a layer that was made with `stateful=True`",
            )
        split = self._split(states) or (None, None)
        before = [(v, keras.ops.copy(v.value)) for v in stored(self.forward_layer)]
        try:
            reset(self.forward_layer, split[0])
            reset(self.backward_layer, split[1])
        except Exception:
            for variable, value in before:
                variable.assign(value)
            raise

    def reset_states(self, states: States = None) -> None:
        """Do the same as `reset_state`, under its older name."""
        self.reset_state(states)

    # Shapes and masks ---------------------------------------------------------------------------

    def compute_output_spec(
        self,
        sequences: Tree,
        initial_state: States = None,
        mask: Tensor = None,
        training: bool | None = None,
        lengths: Any = None,
        constants: Tree = None,
        resets: Tensor = None,
        segments: Tensor = None,
    ) -> Any:
        """Return what a call returns, as symbolic tensors."""
        self._check_states(initial_state, keras.tree.flatten(sequences)[0].shape[0])
        merged = self._merge_results(
            *self._both(
                "compute_output_spec",
                sequences,
                initial_state,
                mask=mask,
                training=training,
                constants=constants,
            )
        )
        # Tensors of this layer, not of the operations that the merge consists of.
        return keras.tree.map_structure(lambda y: keras.KerasTensor(y.shape, dtype=y.dtype), merged)

    def compute_output_shape(self, sequences_shape: Any, initial_state_shape: Any = None) -> Any:
        """Return the shapes of what a call returns.

        Args:
            sequences_shape: Shape `(batch, time, ...)`, or a structure of such shapes.
            initial_state_shape: Not used; Keras passes it when initial states are given.
        """
        specs = []
        for layer in (self.forward_layer, self.backward_layer):
            shapes = layer.compute_output_shape(sequences_shape)
            leaves = [
                keras.KerasTensor(shape, layer.compute_dtype) for shape in flatten_shapes(shapes)
            ]
            specs.append(pack_like_shapes(shapes, leaves))
        merged = self._merge_results(*specs)
        return keras.tree.map_structure(lambda y: tuple(y.shape), merged)

    def compute_mask(self, sequences: Tree, mask: Tensor = None) -> Any:
        """Pass the mask on with returned sequences; states have none.

        Returns:
            The mask of the output, or a list with one entry for each tensor that a call returns.
        """
        masks = [m for m in keras.tree.flatten(mask) if m is not None]
        merged = masks[0] if len(masks) == 1 else None
        if len(masks) > 1:
            merged = merge_masks(sequences, masks, [], None)
        outputs = output_count(self.forward_layer, sequences, merged)
        if self.merge_mode is None:
            outputs += output_count(self.backward_layer, sequences, merged)
        flat = [merged if self.return_sequences else None] * outputs
        if self.return_state:
            flat += [None] * (state_count(self.forward_layer) + state_count(self.backward_layer))
        return flat[0] if len(flat) == 1 else flat

    # Configuration ------------------------------------------------------------------------------

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Make a layer from what `get_config` returned."""
        config = copy.deepcopy(config)
        for name in ("layer", "backward_layer"):
            if config.get(name) is not None:
                config[name] = keras.saving.deserialize_keras_object(
                    config[name], custom_objects=custom_objects
                )
        return cls(**config)


def _array_to_tensor(x: Tensor) -> Any:
    """Convert arrays, so that Keras sees tensors; each layer casts them by its own rule."""
    array = hasattr(x, "__array__") and not keras.ops.is_tensor(x)
    return keras.ops.convert_to_tensor(x) if array and not isinstance(x, keras.KerasTensor) else x
