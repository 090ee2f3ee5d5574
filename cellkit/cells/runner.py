"""One face for every cell that a layer runs: structures, dtypes, building, tracing.

Any Keras layer with `state_size` and `call` is a cell, and so is any plain object with these two.
`CellRunner` gives them all one face: it knows the structure of the states, calls the step without
the machinery of `Layer.__call__` where that changes nothing, and checks what comes back.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras

from cellkit import _keras_compat as compat
from cellkit._backends import running
from cellkit.cells.cell import Cell
from cellkit.cells.recorder import Recorder, current_values
from cellkit.cells.scope import SequenceScope, sequence_scope
from cellkit.cells.stock_masks import lend_masks
from cellkit.cells.structure import (
    Mismatch,
    TensorSpec,
    declared_state,
    describe_shapes,
    has_mapping,
    is_namedtuple,
    match,
)
from cellkit.cells.surroundings import Surroundings
from cellkit.errors import problem
from cellkit.typing import States, Tensor, Tree


def without_autograph(method: Any) -> Any:
    """Keep TensorFlow's AutoGraph from rewriting a method of a layer and the cells below it.

    AutoGraph leaves Keras' own layers alone, and with them every cell in `keras.layers.RNN`.
    Rewriting all functions of a call takes seconds, once per process.
    """
    if running() != "tensorflow":
        return method
    import tensorflow as tf

    return tf.autograph.experimental.do_not_convert(method)


def check_cell(cell: Any) -> None:
    """Raise a three-part `ValueError` unless `cell` is a cell.

    A cell has a method `call` and an attribute or property `state_size`.
    """
    if isinstance(cell, str):
        raise problem(
            "A name is not a cell.",
            received=f"{cell!r}",
            expected="a cell object",
            fix=f"make one with `cellkit.create({cell!r}, units=32)`",
        )
    if inspect.isclass(cell):
        raise problem(
            "A class of cells was passed instead of a cell.",
            received=f"the class {cell.__name__}",
            expected="an instance",
            fix=f"call the class, e.g. `{cell.__name__}(32)`",
        )
    if isinstance(cell, (keras.layers.RNN, keras.layers.Bidirectional)):
        name, inner = type(cell).__name__, getattr(cell, "cell", None)
        within = f", e.g. `RNN({type(inner).__name__}(...))`" if inner is not None else ""
        raise problem(
            "A layer was passed where a cell is needed.",
            received=f"the layer {name}, which runs over a whole sequence",
            expected="a cell, which computes one time step",
            fix=f"use the layer {name} as it is, without one around it; or pass its cell{within}",
        )
    # `dir` finds a property without evaluating it: a cell may know its sizes only once built.
    missing = [name for name in ("call", "state_size") if name not in dir(cell)]
    if missing or (not isinstance(cell, keras.layers.Layer) and cell.state_size is None):
        raise problem(
            "This object is not a recurrent cell.",
            received=f"{cell!r}, of type {type(cell).__name__}, without "
            + (" and ".join(f"`{m}`" for m in missing) or "a `state_size` that is set"),
            expected="an object with a method `call(inputs, states)` and an attribute "
            "`state_size`, or the name of a registered cell",
            fix="pass a cell, e.g. `cellkit.create('lstm', units=32)`; where this was meant to be "
            "one, derive it from `cellkit.Cell`, or add what is missing",
        )


def takes_constants(cell: Any) -> bool:
    """Tell whether a cell, or one inside of it, takes constants."""
    said = getattr(cell, "takes_constants", None)  # of a `CellWrapper`
    if isinstance(said, bool):
        return said
    if isinstance(cell, keras.layers.StackedRNNCells):
        taking = [takes_constants(inner) for inner in cell.cells]
        # A stack of Keras' own hands them to all of its cells.
        return all(taking) if type(cell) is keras.layers.StackedRNNCells else any(taking)
    return compat.takes(cell.call, "constants")


def needs_constants(cell: Any) -> bool:
    """Tell whether a cell, or one inside of it, can't do without constants."""
    said = getattr(cell, "needs_constants", None)  # of a `CellWrapper`
    if isinstance(said, bool):
        return said
    if isinstance(cell, keras.layers.StackedRNNCells):
        return any(map(needs_constants, cell.cells))
    parameter = inspect.signature(cell.call).parameters.get("constants")
    return parameter is not None and parameter.default is inspect.Parameter.empty


# Cells of Keras that start from zeros.
_ZEROS = (keras.layers.SimpleRNNCell, keras.layers.GRUCell, keras.layers.LSTMCell)


class Layout:
    """The structure of a cell's states, with a resolved `TensorSpec` at every leaf."""

    def __init__(self, structure: Any) -> None:
        self.structure = structure
        self.specs: list[TensorSpec] = keras.tree.flatten(structure)
        if not self.specs:
            raise problem(
                "The cell has no state.",
                received=f"state_size={structure!r}",
                expected="at least one state, which is what makes a layer recurrent",
                fix="apply a layer without a state with `keras.layers.TimeDistributed`",
            )
        flat = type(structure) is list and all(isinstance(s, TensorSpec) for s in structure)
        self.flat = flat
        self.ordered = not has_mapping(structure)

    def pack(self, leaves: list[Any]) -> Any:
        """Put leaves into the structure."""
        if self.flat:
            return list(leaves)
        return keras.tree.pack_sequence_as(self.structure, leaves)

    def leaves_of(self, states: States) -> list[Any] | None:
        """Return the leaves of states that a cell returned, or None if they do not fit.

        They need not be nested like those declared: `[a, [b]]` or a bare tensor will do, where the
        same leaves come in the same order.
        """
        if self.flat and type(states) is list and not any(map(keras.tree.is_nested, states)):
            leaves = states
        elif self.ordered and not has_mapping(states):
            leaves = keras.tree.flatten(states)
        else:
            try:  # by their keys: the order of a dict's entries says nothing
                leaves = keras.tree.flatten(match(self.structure, states))
            except Mismatch:
                return None
        return leaves if len(leaves) == len(self.specs) else None

    def match(self, given: Any, what: str = "states") -> list[Any]:
        """Fit what was passed to the structure and return its leaves.

        Raises:
            ValueError: If the structure does not fit.
        """
        if self.flat and type(given) is list and len(given) == len(self.specs):
            if all(keras.ops.is_tensor(x) for x in given):
                return list(given)  # at every step of a stream: no walk through structures
        try:
            return keras.tree.flatten(match(self.structure, given))
        except Mismatch:
            raise problem(
                f"The {what} do not have the structure of the cell's states.",
                received=describe_shapes(given),
                expected=describe_shapes(self.structure),
                fix="pass one tensor per state, in the structure of `cell.state_size`; what "
                "`layer.get_initial_state(batch_size)` and `return_state=True` return fits",
            ) from None

    def fits(self, given: Any) -> bool:
        """Tell whether what was passed has the structure."""
        try:
            match(self.structure, given)
        except Mismatch:
            return False
        return True


class CellRunner:
    """One cell, as a layer (or a stack) with certain dtypes runs it.

    Args:
        cell: Any cell.
        compute_dtype: Compute dtype of the layer.
        variable_dtype: Variable dtype of the layer.

    Attributes:
        direct: True if a step is `cell.call` itself, without the machinery of `Layer.__call__`.
    """

    def __init__(self, cell: Any, compute_dtype: str, variable_dtype: str) -> None:
        self.cell = cell
        self.compute_dtype = compute_dtype
        self.variable_dtype = variable_dtype
        self.direct = True
        if isinstance(cell, keras.layers.Layer):
            same = (cell.compute_dtype, cell.variable_dtype) == (compute_dtype, variable_dtype)
            # `Layer.__call__` costs more than a small step. It is needed only where it does
            # something: casts to other dtypes, or an activity regularizer.
            self.direct = same and cell.activity_regularizer is None
        self._training = compat.takes(cell.call, "training")
        self.takes_constants = takes_constants(cell)
        self._layout: Layout | None = None
        self._surroundings: Surroundings | None = None

    def within(self, function: Callable[[], Any], training: bool) -> Any:
        """Return what `function` returns in a call of the layer, also when that call is over.

        Args:
            function: The function to run.
            training: True if the layer was called in training mode.
        """
        if self._surroundings is None:
            self._surroundings = Surroundings(self.compute_dtype, self.variable_dtype)
        errors: list[Exception] = []

        def run() -> Any:
            try:
                return function()
            except Exception as error:
                errors.append(error)
                raise

        try:
            return self._surroundings(run, training=training)
        except Exception:
            if errors:
                # Keras wraps what goes wrong inside; the error itself says it better.
                raise errors[0] from None
            raise

    def with_constants(self, constants: Tree) -> dict[str, Any]:
        """Return the keyword arguments of a step that hand on constants, where there are any."""
        return {} if constants is None or not self.takes_constants else {"constants": constants}

    @property
    def layout(self) -> Layout:
        """The structure of the states. The cell must be built."""
        if self._layout is None:
            self._layout = Layout(self._structure())
        return self._layout

    def _function(self) -> Any:
        # Looked up at every step: `call` may be replaced on the cell.
        return self.cell.call if self.direct else self.cell

    def _dtype(self) -> str:
        return str(getattr(self.cell, "compute_dtype", None) or self.compute_dtype)

    def _structure(self) -> Any:
        cell, dtype = self.cell, self._dtype()
        if hasattr(cell, "state_spec"):
            return declared_state(cell.state_spec())
        if isinstance(cell, keras.layers.StackedRNNCells):
            return [
                _single(c, CellRunner(c, dtype, cell.variable_dtype).layout.structure)
                for c in cell.cells
            ]
        if not hasattr(cell, "get_initial_state"):
            return keras.tree.map_structure(
                lambda s: TensorSpec(s.shape, s.dtype or dtype), declared_state(cell.state_size)
            )
        # The tensors a cell starts from say more than `state_size`: ConvLSTM cells declare -1, and
        # a counter shows its dtype only here.
        sample = cell.get_initial_state(batch_size=1)
        starts = keras.tree.flatten(sample)
        declared = declared_state(cell.state_size)
        if len(keras.tree.flatten(declared)) != len(starts):
            declared = declared_state_like(sample)
        # An explicit declaration of the cell comes first.
        leaves = [
            TensorSpec(tuple(x.shape[1:]), getattr(d, "dtype", None) or _state_dtype(x, dtype))
            for x, d in zip(starts, keras.tree.flatten(declared), strict=True)
        ]
        return keras.tree.pack_sequence_as(declared, leaves)

    def starts_at_zero(self) -> bool:
        """Tell whether the cell's own initial states are known to be zeros."""
        if not isinstance(self.cell, Cell):
            return type(self.cell) in _ZEROS
        for name in ("get_initial_state", "_initial_leaf"):
            if getattr(getattr(self.cell, name), "__func__", None) is not getattr(Cell, name):
                return False
        return all(s.initializer == "zeros" and not s.trainable for s in self.layout.specs)

    def zeros(self, batch: Any) -> list[Any]:
        """Return zeros in the shapes and dtypes of the states of `batch` rows."""
        return [keras.ops.zeros((batch, *s.shape), dtype=s.dtype) for s in self.layout.specs]

    def initial(self, batch: Any) -> list[Any]:
        """Return the leaves of the cell's own initial states for `batch` rows."""
        if not hasattr(self.cell, "get_initial_state"):
            return self.zeros(batch)
        leaves = self.layout.match(
            self.cell.get_initial_state(batch_size=batch), "initial states of the cell"
        )
        return [
            keras.ops.convert_to_tensor(x, dtype=spec.dtype)
            for x, spec in zip(leaves, self.layout.specs, strict=True)
        ]

    def step(
        self, inputs: Tree, leaves: list[Any], training: bool, extra: dict[str, Any]
    ) -> tuple[Any, list[Any]]:
        """Run one time step.

        Args:
            inputs: The inputs of the step, in the cell's structure.
            leaves: The leaves of the states.
            training: Passed on if the cell takes it.
            extra: Further keyword arguments of the cell's `call`.

        Returns:
            The output in the cell's structure, and the leaves of the new states, in the shapes and
            dtypes of the old ones.
        """
        return self.run(self._function(), inputs, leaves, training, extra)

    def run(
        self, function: Any, inputs: Tree, leaves: list[Any], training: bool, extra: dict[str, Any]
    ) -> tuple[Any, list[Any]]:
        """Run one time step with `function` in the place of the cell's `call`; see `step`."""
        if self._training:
            extra = {**extra, "training": training}
        output, new = function(inputs, self.layout.pack(leaves), **extra)
        news = self.layout.leaves_of(new)
        if news is None:
            raise self._bad_states(new, leaves)
        return output, [self._fit(n, o, new, leaves) for n, o in zip(news, leaves, strict=True)]

    def _fit(self, new: Tensor, old: Tensor, news: Any, olds: list[Any]) -> Any:
        if getattr(new, "dtype", None) == old.dtype and new.shape == old.shape:
            return new
        if not hasattr(new, "shape") or not _fits(new.shape, old.shape):
            raise self._bad_states(news, olds)
        dtype = keras.backend.standardize_dtype(new.dtype)
        want = keras.backend.standardize_dtype(old.dtype)
        if dtype == want:
            return new
        if _kind(dtype) > _kind(want):
            raise problem(
                f"{type(self.cell).__name__} returned a state that its dtype cannot hold.",
                received=f"a new state of dtype {dtype}",
                expected=f"dtype {want}, as the state had before the step",
                fix="cast the state in the cell, or declare its dtype with "
                f"`cellkit.TensorSpec(shape, dtype={dtype!r})` in `state_size`",
            )
        return keras.ops.cast(new, want)

    def _bad_states(self, new: Tensor, old: list[Any]) -> ValueError:
        return problem(
            f"{type(self.cell).__name__} returned states unlike those it was given.",
            received=describe_shapes(new),
            expected=describe_shapes(self.layout.pack(old)),
            fix="return `(output, new_states)` with new states in the structure and shapes of "
            "`state_size`",
        )

    def trace(self, input_specs: Any, extra: dict[str, Any] | None = None) -> Any:
        """Learn the output of one step without running it.

        Args:
            input_specs: `keras.KerasTensor` of shape `(batch, ...)` in the cell's input structure.
            extra: Further keyword arguments of the cell's `call`, with `KerasTensor` leaves.

        Returns:
            `keras.KerasTensor` in the structure of the output.
        """
        batch = keras.tree.flatten(input_specs)[0].shape[0]
        states = [keras.KerasTensor((batch, *s.shape), dtype=s.dtype) for s in self.layout.specs]
        stock = lend_masks(self.cell)

        def one(x: Tensor, s: list[Any], e: dict[str, Any]) -> Any:
            # Masks that the trace draws must not stay on a cell.
            rows = keras.ops.shape(keras.tree.flatten(x)[0])[0]
            with sequence_scope(SequenceScope(rows), stock):
                return self._trace(x, s, e)[0]

        return trace(one, input_specs, states, extra or {})

    def _trace(self, inputs: Tree, leaves: list[Any], extra: dict[str, Any]) -> Any:
        """Run a step as the cell's `__call__` does, which sets up its policy and its sublayers."""
        cell = self.cell
        if not isinstance(cell, keras.layers.Layer) or not self.direct:
            return self.run(self._function(), inputs, leaves, False, extra)
        if compat.converts_its_own(cell):
            return self.run(cell, inputs, leaves, False, extra)

        # But Keras' own would also round states that have a dtype of their own.
        def cast(x: Tensor) -> Any:
            real = keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype))
            return keras.ops.cast(x, self.compute_dtype) if real else x

        inputs, extra = keras.tree.map_structure(cast, (inputs, extra))
        with keras.name_scope(cell.name, caller=cell):
            return self.within(lambda: self.run(cell.call, inputs, leaves, False, extra), False)


def trace(function: Callable[..., Any], *args: Any, variables: Any = ()) -> Any:
    """Return what `function` would return for symbolic arguments, as symbolic tensors.

    Args:
        function: The function to trace.
        *args: Its arguments, structures of `KerasTensor`.
        variables: Variables to which an enclosing scope may have given values. Tracing opens a
            scope of its own, which would hide them; in `fit` on JAX they have no other values.
    """
    values = list(zip(variables, current_values(variables), strict=True))

    def within(*args: Any) -> Any:
        with Recorder(values):
            return function(*args)

    operation = _Traced(within if values else function)
    try:
        return operation.compute_output_spec(*args)
    except Exception:
        if operation.error is not None:
            # Keras wraps what goes wrong inside; the error itself says it better.
            raise operation.error from None
        raise


class _Traced(keras.Operation):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(name="cellkit_trace")
        self.function = function
        self.error: Exception | None = None

    def call(self, *args: Any) -> Any:
        try:
            return self.function(*args)
        except Exception as error:
            self.error = error
            raise


def build_cell(
    runner: CellRunner, step_shape: Any, dtypes: list[str] | None = None, constants: Tree = None
) -> None:
    """Build a cell and everything in it.

    Sublayers that `build` does not build are built by tracing one symbolic step, so that every
    weight exists before the first call and a saved model finds them.

    Args:
        runner: The cell.
        step_shape: Shape, or structure of shapes, of the inputs of one step.
        dtypes: Dtypes of the inputs' leaves, where they are known.
        constants: The constants of a step as `KerasTensor`, in the structure in which the cell
            gets them. None: there are none, or none are known yet.

    Raises:
        ValueError: If the cell can't be built without its constants.
    """
    cell = runner.cell
    layer = isinstance(cell, keras.layers.Layer)
    overridden = layer and type(cell).build is not keras.layers.Layer.build
    if hasattr(cell, "expect"):
        cell.expect(dtypes, constants)
    if (overridden or (not layer and hasattr(cell, "build"))) and not getattr(cell, "built", False):
        cell.build(step_shape)
        if not layer:
            cell.built = True
    unbuilt = [
        p
        for p in compat.parts(cell)
        if isinstance(p, keras.layers.Layer) and not p.built and p is not cell
    ]
    if unbuilt:
        shapes = flatten_shapes(step_shape)
        names = dtypes or [runner.compute_dtype] * len(shapes)
        leaves = [keras.KerasTensor(s, dtype=d) for s, d in zip(shapes, names, strict=True)]
        _build_by_tracing(runner, pack_like_shapes(step_shape, leaves), constants)
    if layer and not cell.built:
        cell.built = True


def _build_by_tracing(runner: CellRunner, inputs: Tree, constants: Tree) -> None:
    """Build the sublayers of a cell by a symbolic step."""
    cell = runner.cell
    marked = isinstance(cell, keras.layers.Layer) and not cell.built
    if marked:
        cell.built = True  # or Keras would trace it first, in a way that knows no constants
    try:
        runner.trace(inputs, runner.with_constants(constants))
    except Exception as error:
        if marked:
            cell.built = False
        if not runner.takes_constants or constants is not None:
            raise
        raise problem(
            f"{type(cell).__name__} cannot be built without its constants.",
            received=f"no constants, with which a step ends in {type(error).__name__}: {error}",
            expected="the constants, or their shapes: the layers inside are built by a step",
            fix="pass `constants` in the first call, or build the layer with "
            "`layer.build(sequences_shape, constants_shape=[(batch, ...)])`",
        ) from error


def is_shape(value: Any) -> bool:
    """Tell whether `value` is a shape, not a structure of shapes."""
    # A size need not be an int: JAX has sizes that are known when an exported function is called.
    return isinstance(value, (list, tuple)) and not any(
        not isinstance(d, int) and (isinstance(d, (list, tuple, dict)) or hasattr(d, "as_list"))
        for d in value
    )


def static_shape(shape: Any) -> tuple[int | None, ...]:
    """Return a shape with None for every size that is not known yet."""
    return tuple(d if isinstance(d, int) else None for d in shape)


def map_shapes(function: Callable[[tuple[int | None, ...]], Any], shapes: Any) -> Any:
    """Apply `function` to every shape of a structure of shapes."""
    if hasattr(shapes, "as_list"):  # tf.TensorShape
        shapes = shapes.as_list()
    if is_shape(shapes):
        return function(tuple(shapes))
    if isinstance(shapes, dict):
        return type(shapes)((k, map_shapes(function, v)) for k, v in shapes.items())
    children = [map_shapes(function, v) for v in shapes]
    if is_namedtuple(shapes):
        return type(shapes)(*children)
    return tuple(children) if isinstance(shapes, tuple) else children


class _ShapeLeaf:
    """A shape as one leaf: `keras.tree` would descend into a tuple."""

    def __init__(self, shape: tuple[int | None, ...]) -> None:
        self.shape = shape


def flatten_shapes(shapes: Any) -> list[tuple[int | None, ...]]:
    """Return the shapes of a structure, in the order in which Keras flattens its tensors."""
    return [leaf.shape for leaf in keras.tree.flatten(map_shapes(_ShapeLeaf, shapes))]


def pack_like_shapes(shapes: Any, leaves: list[Any]) -> Any:
    """Put `leaves` into the structure of `shapes`."""
    return keras.tree.pack_sequence_as(map_shapes(_ShapeLeaf, shapes), leaves)


def declared_state_like(sample: Any) -> Any:
    """Return the structure of the initial states of a cell whose `state_size` says nothing."""
    structure = keras.tree.map_structure(lambda x: TensorSpec(tuple(x.shape[1:])), sample)
    if isinstance(structure, tuple) and not is_namedtuple(structure):
        return list(structure)
    return structure if keras.tree.is_nested(sample) else [structure]


def _single(cell: Any, structure: Any) -> Any:
    """Return the entry of one cell in the states of a stack."""
    declared = cell.state_size
    nested = isinstance(declared, (list, tuple, dict))
    return structure if nested or len(keras.tree.flatten(structure)) != 1 else structure[0]


def _state_dtype(x: Tensor, compute_dtype: str) -> str:
    """Return the dtype of a state that starts as `x`.

    Counters, flags and complex states keep their dtype. A state in Keras' default float is an
    ordinary one and follows the cell's compute dtype.
    """
    dtype = keras.backend.standardize_dtype(x.dtype)
    ordinary = keras.backend.is_float_dtype(dtype) and dtype == keras.config.floatx()
    return compute_dtype if ordinary else dtype


def _kind(dtype: str) -> int:
    """Order dtypes by what they can hold: bool, int, float, complex."""
    if dtype == "bool":
        return 0
    if "int" in dtype:
        return 1
    return 3 if "complex" in dtype else 2


def _fits(new: Tensor, old: Tensor) -> bool:
    new, old = tuple(new), tuple(old)
    return len(new) == len(old) and all(
        a is None or b is None or a == b for a, b in zip(new, old, strict=True)
    )
