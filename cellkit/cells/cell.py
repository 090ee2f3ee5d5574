"""`Cell`: the base class that keeps the file of a cell short."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from cellkit import _keras_compat as compat
from cellkit.cells import scope as _sequence
from cellkit.cells.config import arguments, check_keywords, deserialize, must_have, serialize
from cellkit.cells.initializers import Draws
from cellkit.cells.named import check_dtype_name, resolve
from cellkit.cells.operations import precise, to_tensor, where
from cellkit.cells.standard import StandardWeights
from cellkit.cells.structure import TensorSpec, declared_output, declared_state
from cellkit.cells.validate import (
    NOT_GIVEN,
    as_state,
    check_dtype,
    check_states,
    checked_seed,
    other_inputs,
    positive_int,
    probability,
)
from cellkit.errors import problem
from cellkit.typing import States, Tensor, Tree


# The training flag of the running step, for `Cell.drop`, which a step calls without arguments.
# In each thread, and no ContextVar: `torch.compile` sees through none.
class _Training(threading.local):
    def __init__(self) -> None:
        self.flag = False


_training = _Training()


@contextlib.contextmanager
def training_mode(training: bool) -> Iterator[None]:
    """Let `Cell.drop` and `Cell.in_training` see this training flag, for steps run by an engine."""
    outer, _training.flag = _training.flag, bool(training)
    try:
        yield
    finally:
        _training.flag = outer


class Cell(keras.layers.Layer):
    """Base class of recurrent cells: one time step, and nothing that every cell repeats.

    A subclass writes `build` (its weights) and `step` (its equation), and sets `state_size` when
    it is not simply `units`. What every cell shares is here: activations, initializers,
    regularizers, constraints, bias, dropout, recurrent dropout, zoneout, initial states, dtypes
    and the configuration.

    Every constructor argument is kept under an attribute of its own name; `get_config` is made
    from that.

    Args:
        units: Positive int, the number of units. May be left out by cells that have no single
            such number.
        activation: Activation of the candidate and of the output. Default `"tanh"`, which keeps
            states bounded.
        recurrent_activation: Activation of the gates. Default `"sigmoid"`.
        use_bias: True if the cell has biases.
        kernel_initializer: Initializer of the weights applied to the inputs.
        recurrent_initializer: Initializer of the weights applied to the states. Default
            `"orthogonal"`, which keeps the norm of the state at the start of training.
        bias_initializer: Initializer of the biases.
        kernel_regularizer: Regularizer of the input weights.
        recurrent_regularizer: Regularizer of the recurrent weights.
        bias_regularizer: Regularizer of the biases.
        kernel_constraint: Constraint of the input weights.
        recurrent_constraint: Constraint of the recurrent weights.
        bias_constraint: Constraint of the biases.
        dropout: Rate in `[0, 1)` at which elements of the inputs are dropped in training, the same
            elements at all steps of a call (Gal and Ghahramani 2016, arXiv:1512.05287).
        recurrent_dropout: The same for the state that enters the recurrent product.
        zoneout: Probability in `[0, 1)` that an element of a state keeps its old value at a step,
            drawn anew at every step; at inference the expectation is taken (Krueger et al. 2016,
            arXiv:1606.01305).
        seed: Int seed of the cell's random numbers. `None`: a random one.
        **kwargs: `name`, `dtype` and `trainable`, as for any Keras layer.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
    >>> import keras
    >>> class LeakyCell(Cell):
    ...     def build(self, input_shape):
    ...         super().build(input_shape)
    ...         self.kernel = self.add_kernel((input_shape[-1], self.units))
    ...
    ...     def step(self, inputs, states):
    ...         h = 0.9 * states[0] + self.activation(matmul(inputs, self.kernel))
    ...         return h, [h]
    >>> LeakyCell(3, activation="relu").state_size
    3
    """

    def __init__(
        self,
        units: int | None = None,
        *,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        zoneout: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        check_keywords(type(self), kwargs)
        check_dtype_name(type(self), kwargs.get("dtype"))
        resolve(type(self), "activity_regularizer", kwargs.get("activity_regularizer"))
        super().__init__(**kwargs)
        check_dtype(self)
        compat.take_over_conversion(self)
        left_out = units is None and not must_have(type(self), "units")
        self.units: Any = None if left_out else positive_int(type(self), "units", units)
        self.activation = precise(resolve(type(self), "activation", activation))
        self.recurrent_activation = precise(
            resolve(type(self), "recurrent_activation", recurrent_activation)
        )
        self.use_bias = bool(use_bias)
        self.kernel_initializer = resolve(type(self), "kernel_initializer", kernel_initializer)
        self.recurrent_initializer = resolve(
            type(self), "recurrent_initializer", recurrent_initializer
        )
        self.bias_initializer = resolve(type(self), "bias_initializer", bias_initializer)
        self.kernel_regularizer = resolve(type(self), "kernel_regularizer", kernel_regularizer)
        self.recurrent_regularizer = resolve(
            type(self), "recurrent_regularizer", recurrent_regularizer
        )
        self.bias_regularizer = resolve(type(self), "bias_regularizer", bias_regularizer)
        self.kernel_constraint = resolve(type(self), "kernel_constraint", kernel_constraint)
        self.recurrent_constraint = resolve(
            type(self), "recurrent_constraint", recurrent_constraint
        )
        self.bias_constraint = resolve(type(self), "bias_constraint", bias_constraint)
        self.dropout = probability(type(self), "dropout", dropout)
        self.recurrent_dropout = probability(type(self), "recurrent_dropout", recurrent_dropout)
        self.zoneout = probability(type(self), "zoneout", zoneout)
        self.seed = seed = checked_seed(type(self), seed)
        # Numbers that every backend takes: JAX has none below zero, Torch none of 32 bits.
        self.seed_generator = keras.random.SeedGenerator(None if seed is None else seed % 2**31)
        self._draws = Draws()

    # Declarations ------------------------------------------------------------------------------

    @property
    def state_size(self) -> Any:
        """Structure of the states: sizes, shapes or `TensorSpec`, without the batch axis."""
        return self._width()

    def _width(self) -> Any:
        if self.units is None:
            raise problem(
                f"{type(self).__name__} does not say what its states are.",
                received="no `units`, and no `state_size` of its own",
                expected="a property `state_size`",
                fix=f"make it with a width, e.g. `{type(self).__name__}(units=32)`; a class of "
                "cells without one defines `state_size`",
            )
        return self.units

    @property
    def output_size(self) -> Any:
        """Structure of the output. The default is that of the first state."""
        return keras.tree.flatten(declared_state(self.state_size))[0]

    @property
    def accumulator_dtype(self) -> str:
        """Dtype of states that sum over many steps: float32 where the compute dtype is narrower."""
        narrow = self.compute_dtype in ("float16", "bfloat16")
        return "float32" if narrow else str(self.compute_dtype)

    def state_spec(self) -> Any:
        """Return the structure of the states with `TensorSpec` leaves and resolved dtypes."""
        return keras.tree.map_structure(
            lambda s: TensorSpec(
                s.shape, s.dtype or self.compute_dtype, s.initializer, s.trainable
            ),
            declared_state(self.state_size),
        )

    def output_spec(self) -> Any:
        """Return the structure of the output with `TensorSpec` leaves and resolved dtypes."""
        return keras.tree.map_structure(
            lambda s: TensorSpec(s.shape, s.dtype or self.compute_dtype),
            declared_output(self.output_size),
        )

    @classmethod
    def spec_defaults(cls) -> dict[str, Any]:
        """Return what the `cellkit.CellSpec` of a class says where its author leaves it out.

        Returns:
            Arguments of `cellkit.CellSpec` by name, among them `cases` and `traits`.
        """
        dropout = {"dropout": 0.4, "recurrent_dropout": 0.3, "seed": 1}
        return {
            "cases": {
                "default": {"units": 4},
                "relu": {
                    "units": 3,
                    "activation": "relu",
                    "recurrent_activation": "hard_sigmoid",
                },
                "no_bias": {"units": 2, "use_bias": False},
                "dropout": {"units": 4, **dropout},
            },
            "traits": frozenset({"masking", "stateful", "dropout", "recurrent_dropout", "zoneout"}),
        }

    # Weights ------------------------------------------------------------------------------------

    def build(self, input_shape: Any) -> None:
        """Create the weights. Subclasses call this first, then add their own.

        Args:
            input_shape: Shape of the inputs of one step, `(batch, ...)`, or a structure of shapes.
        """
        self.initial_state_variables = {
            i: self.add_weight(
                shape=spec.shape,
                dtype=spec.dtype,
                initializer=self.draw_apart(_initializer(spec.initializer), spec.shape),
                name=f"initial_state_{i}",
            )
            for i, spec in enumerate(keras.tree.flatten(declared_state(self.state_size)))
            if spec.trainable
        }

    def add_kernel(self, shape: tuple[int, ...], name: str = "kernel", **kwargs: Any) -> Any:
        """Add a weight that is applied to the inputs, with the `kernel_*` options."""
        return self._add("kernel", shape, name, kwargs)

    def add_recurrent_kernel(
        self, shape: tuple[int, ...], name: str = "recurrent_kernel", **kwargs: Any
    ) -> Any:
        """Add a weight that is applied to a state, with the `recurrent_*` options."""
        return self._add("recurrent", shape, name, kwargs)

    def add_bias(self, shape: tuple[int, ...], name: str = "bias", **kwargs: Any) -> Any:
        """Add a bias with the `bias_*` options, or return None when `use_bias` is False."""
        return self._add("bias", shape, name, kwargs) if self.use_bias else None

    def _add(self, kind: str, shape: tuple[int, ...], name: str, kwargs: dict[str, Any]) -> Any:
        options = {
            "initializer": getattr(self, f"{kind}_initializer"),
            "regularizer": getattr(self, f"{kind}_regularizer"),
            "constraint": getattr(self, f"{kind}_constraint"),
        }
        options.update(kwargs)
        options["initializer"] = _in_float32(self.draw_apart(options["initializer"], shape))
        return self.add_weight(shape=shape, name=name, **options)

    def draw_apart(self, initializer: Any, shape: tuple[int, ...]) -> Any:
        """Return an initializer whose numbers differ from all others of this cell.

        `add_kernel` and the like do so by themselves; a cell that joins a weight from blocks calls
        this for each block.

        Args:
            initializer: Anything that `keras.initializers.get` takes.
            shape: Shape of what it is to draw.
        """
        return self._draws.next(initializer, shape)

    def draw_by_gate(
        self, gates: Iterable[str], special: dict[str, Any], shape: tuple[int, ...], dtype: Any
    ) -> Any:
        """Return the biases of all gates, one block after the other.

        Args:
            gates: Names of the gates.
            special: Initializers of single gates; the others take `bias_initializer`.
            shape: Shape of one block.
            dtype: Dtype of the bias.
        """
        chosen = [self.draw_apart(special.get(g, self.bias_initializer), shape) for g in gates]
        return keras.ops.concatenate([draw(shape, dtype=dtype) for draw in chosen])

    # The step -----------------------------------------------------------------------------------

    def __call__(self, inputs: Tree, states: States = NOT_GIVEN, *args: Any, **kwargs: Any) -> Any:
        """Convert inputs and states, each to its own dtype, and advance one time step."""
        states = check_states(self, inputs, states)
        inputs = keras.tree.map_structure(lambda x: to_tensor(x, self.compute_dtype), inputs)
        # A state keeps its declared dtype: Keras would round a float32 accumulator to the compute
        # dtype of a mixed policy.
        dtypes = [s.dtype for s in keras.tree.flatten(self.state_spec())]
        leaves = [
            as_state(x, self.compute_dtype, d)
            for x, d in zip(keras.tree.flatten(states), dtypes, strict=True)
        ]
        states = keras.tree.pack_sequence_as(states, leaves)
        built = self.built
        try:
            return super().__call__(inputs, states, *args, **kwargs)
        except Exception as error:
            told = other_inputs(self, inputs) if built else None
            if told is None:
                raise
            raise told from error

    @property
    def in_training(self) -> bool:
        """True if the running step is one of training, for cells whose equation differs then."""
        return _training.flag

    def project(self, inputs: Tree) -> Any:
        """Compute the part of a step that depends on the inputs alone, row by row.

        The layer may call it with the steps of many rows at once. The default passes the inputs
        on.

        Args:
            inputs: The inputs of one step; leaves of shape `(rows, ...)`.

        Returns:
            Any structure of tensors with the same leading axis.
        """
        return inputs

    def step(self, projected: Tree, states: States) -> tuple[Tree, States]:
        """Advance one time step: the equation of the cell.

        Args:
            projected: The result of `project`.
            states: The states, in the structure of `state_size` (a single state in a list).

        Returns:
            The output and the new states, in the same structure as `states`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `step(projected, states)`.")

    def standard(self) -> StandardWeights | None:
        """Return the weights of a cell whose step is exactly that of the standard LSTM or GRU.

        The layer may then use the backend's own kernel, when no dropout and no zoneout is in the
        way. The default is None; a subclass that changes the step need not override this again.
        """
        return None

    def call(self, inputs: Tree, states: States, training: bool = False) -> tuple[Tree, States]:
        """Advance one time step, with dropout and zoneout in training.

        Args:
            inputs: The inputs of one step; leaves of shape `(batch, ...)`.
            states: The states.
            training: True if dropout and zoneout are random.

        Returns:
            The output and the new states.
        """
        return self.advance(self.prepare(inputs, training), states, training)

    def prepare(self, inputs: Tree, training: bool = False) -> Any:
        """Return what `step` takes of the inputs: cast, with elements dropped, projected.

        Args:
            inputs: The inputs of one step, or of many steps as so many rows.
            training: True if dropout is random.
        """
        outer, _training.flag = _training.flag, bool(training)
        try:
            inputs = keras.tree.map_structure(self._cast_input, inputs)
            return self.project(self.drop_inputs(inputs))
        finally:
            _training.flag = outer

    def advance(
        self, projected: Tree, states: States, training: bool = False
    ) -> tuple[Tree, States]:
        """Advance one time step from what `prepare` returned: `step`, then zoneout.

        Args:
            projected: The result of `prepare`.
            states: The states.
            training: True if recurrent dropout and zoneout are random.

        Returns:
            The output and the new states.
        """
        outer, _training.flag = _training.flag, bool(training)
        try:
            output, new_states = self.step(projected, states)
            if self.zoneout:
                output, new_states = self._zone_out(output, states, new_states, training)
        finally:
            _training.flag = outer
        return output, new_states

    def drop_inputs(self, inputs: Tree) -> Any:
        """Apply dropout to the inputs of one step.

        A cell overrides this when not all of its inputs are data: times, time gaps and masks must
        come through whole.

        Args:
            inputs: The inputs of one step; leaves of shape `(batch, ...)`.

        Returns:
            The same structure; in training with elements of every leaf dropped.
        """
        if not (self.dropout and _training.flag):
            return inputs
        leaves = keras.tree.flatten(inputs)
        dropped = [self._drop(x, self.dropout, ("inputs", i)) for i, x in enumerate(leaves)]
        return keras.tree.pack_sequence_as(inputs, dropped)

    def drop(self, state: Any, name: str = "h") -> Any:
        """Apply recurrent dropout to a state on its way into the recurrent product.

        A cell calls this in `step` around the state that is multiplied with a recurrent kernel,
        and only there: the path that carries the state on must stay whole.

        Args:
            state: Tensor of shape `(batch, ...)`.
            name: Tells apart several such states of one cell.
        """
        if not (self.recurrent_dropout and _training.flag):
            return state
        return self._drop(state, self.recurrent_dropout, ("recurrent", name))

    def _drop(self, x: Tensor, rate: float, key: tuple[str, Any]) -> Any:
        shape, dtype = tuple(x.shape[1:]), keras.backend.standardize_dtype(x.dtype)

        def recipe(batch: Any) -> Any:
            # Not `keras.random.dropout`, which draws from a global state on Torch when the seed is
            # left open: what it drew could not be saved and resumed.
            kept = keras.random.uniform((batch, *shape), seed=self.seed_generator) >= rate
            return keras.ops.cast(kept, dtype) / (1.0 - rate)

        scope = _sequence.current_scope() or _sequence.SequenceScope(keras.ops.shape(x)[0])
        return x * scope.mask((id(self), *key), recipe)

    def zone(self, old: Tensor, new: Tensor, rate: float) -> Any:
        """Keep elements of an old state with probability `rate`, drawn anew at every step.

        For cells whose states have rates of their own; `zoneout` treats all states alike.

        Args:
            old: The state before the step.
            new: The state after it, in the same shape.
            rate: Probability in `[0, 1)`. At inference the expectation is returned.
        """
        return self._zone(old, new, rate, _training.flag) if rate else new

    def _zone_out(self, output: Tree, old: Tensor, new: Tensor, training: bool) -> tuple[Any, Any]:
        """Keep elements of the old states with probability `zoneout`."""
        olds, news = keras.tree.flatten(old), keras.tree.flatten(new)
        mixed = [self._zone(o, n, self.zoneout, training) for o, n in zip(olds, news, strict=True)]
        # An output that *is* one of the states must stay that state.
        by_identity = {id(n): m for n, m in zip(news, mixed, strict=True)}
        output = keras.tree.map_structure(lambda y: by_identity.get(id(y), y), output)
        return output, keras.tree.pack_sequence_as(old, mixed)

    def _zone(self, old: Tensor, new: Tensor, rate: float, training: bool) -> Any:
        dtype = keras.backend.standardize_dtype(old.dtype)
        if not keras.backend.is_float_dtype(dtype):
            return new
        if not training:
            return rate * old + (1.0 - rate) * new
        noise = keras.random.uniform(keras.ops.shape(old), seed=self.seed_generator)
        return where(noise < rate, old, new)

    def _cast_input(self, x: Tensor) -> Any:
        """Cast integer and boolean inputs, which a product with a kernel would reject."""
        dtype = keras.backend.standardize_dtype(x.dtype)
        if keras.backend.is_float_dtype(dtype) or "complex" in dtype:
            return x
        return keras.ops.cast(x, self.compute_dtype)

    # Initial states -----------------------------------------------------------------------------

    def get_initial_state(self, batch_size: Any = None) -> Any:
        """Return the states before the first step.

        Args:
            batch_size: Int or scalar tensor.

        Returns:
            Tensors of shape `(batch_size, ...)` in the structure of `state_size`.

        Raises:
            ValueError: If a state is learned and its variable was never created.
        """
        specs = self.state_spec()
        leaves = [
            self._initial_leaf(i, spec, batch_size)
            for i, spec in enumerate(keras.tree.flatten(specs))
        ]
        return keras.tree.pack_sequence_as(specs, leaves)

    def _initial_leaf(self, index: int, spec: TensorSpec, batch: Any) -> Any:
        shape = (batch, *spec.shape)
        if spec.trainable:
            variable = getattr(self, "initial_state_variables", {}).get(index)
            if variable is None:
                raise problem(
                    f"{type(self).__name__} has a learned initial state that was never created.",
                    received="a cell whose `build` did not reach `cellkit.Cell.build`",
                    expected="the variables of learned initial states",
                    fix="build the cell first, and begin its `build` with "
                    "`super().build(input_shape)`",
                )
            value = keras.ops.cast(keras.ops.convert_to_tensor(variable), spec.dtype)
            return keras.ops.broadcast_to(value, shape)
        if spec.initializer == "zeros":
            return keras.ops.zeros(shape, dtype=spec.dtype)
        value = _initializer(spec.initializer)(spec.shape, dtype=spec.dtype)
        return keras.ops.broadcast_to(keras.ops.cast(value, spec.dtype), shape)

    # Configuration ------------------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """Return every constructor argument, from the attribute of the same name."""
        config = super().get_config()
        for name in arguments(type(self)):
            if name in config:
                continue
            if not hasattr(self, name):
                raise problem(
                    f"{type(self).__name__} does not keep its constructor argument `{name}`.",
                    received=f"no attribute `{name}`",
                    expected="every constructor argument under an attribute of the same name",
                    fix=f"set `self.{name} = {name}` in __init__",
                )
            config[name] = serialize(name, getattr(self, name))
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Cell:
        """Make a cell from what `get_config` returned."""
        return cls(**{k: deserialize(v) for k, v in config.items()})


def _in_float32(initializer: Any) -> Any:
    """Draw in float32 what is stored in half precision, for which few decompositions exist."""

    def draw(shape: Any, dtype: Any = None) -> Any:
        if dtype not in ("float16", "bfloat16"):
            return initializer(shape, dtype=dtype)
        return keras.ops.cast(initializer(shape, dtype="float32"), dtype)

    return draw


def _initializer(value: Any) -> Any:
    if isinstance(value, (int, float, complex)):
        return keras.initializers.Constant(value)
    return keras.initializers.get(value)
