"""`CellWrapper`: the base class of cells around cells.

A wrapper computes something before, after or around the step of another cell, and knows nothing of
it: any cell will do. `InnerCell` runs that cell for it.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import keras

from cellkit import _keras_compat as compat
from cellkit.cells.cell import Cell
from cellkit.cells.config import deserialize
from cellkit.cells.linear import as_dtype
from cellkit.cells.memo import Memo
from cellkit.cells.runner import (
    CellRunner,
    build_cell,
    check_cell,
    flatten_shapes,
    needs_constants,
    pack_like_shapes,
)
from cellkit.cells.structure import TensorSpec, declared_output, declared_state
from cellkit.errors import problem
from cellkit.registry.registry import create, import_plugins

__all__ = ["CellWrapper", "InnerCell", "handing", "has_common_call", "projected_constants"]


def has_common_call(cell: Any) -> bool:
    """Tell whether the `call` of a cell is `prepare` and `advance`, one after the other."""
    found = getattr(cell.call, "__func__", None)
    return found is Cell.call or found is CellWrapper.call


class _Handed(threading.local):
    """The constants of the running step in each thread: `torch.compile` sees no ContextVar."""

    constants: Any = None


_handed = _Handed()


class ProjectedConstants(NamedTuple):
    """Constants of a call, as the steps of a wrapper take them.

    Attributes:
        own: The result of `CellWrapper.project_constants`, `()` for a wrapper that uses none.
        inside: The constants of each cell inside, in the order of `cells_inside`, `()` for one that
            takes none.
    """

    own: Any
    inside: tuple[Any, ...]


def projected_constants(cell: Any, constants: Any) -> Any:
    """Return constants as the steps of a cell take them, computed once for all steps of a call.

    Args:
        cell: The cell.
        constants: The constants of the layer, or what this function returned for them.
    """
    # A `call` of its own takes constants as they are, and may hand them to that of `CellWrapper`.
    return _projected(cell, constants) if has_common_call(cell) else constants


def _projected(cell: Any, constants: Any) -> Any:
    """Return what `projected_constants` returns, whatever the `call` of the cell is."""
    if isinstance(constants, ProjectedConstants) or not isinstance(cell, CellWrapper):
        return constants
    if constants is None and not cell.uses_constants:
        return constants
    inside = [
        projected_constants(c, constants) if cell.inside_of(c).runner.takes_constants else ()
        for c in cell.cells_inside()
    ]
    own = cell.project_constants(constants) if cell.uses_constants else ()
    return ProjectedConstants(own, tuple(inside))


@contextlib.contextmanager
def handing(constants: Any) -> Iterator[None]:
    """Let the steps of a wrapper see constants that `projected_constants` returned, or None."""
    outer, _handed.constants = _handed.constants, constants
    try:
        yield
    finally:
        _handed.constants = outer


class InnerCell:
    """One cell inside of another: structures, building, and its step in two parts.

    Args:
        owner: The cell around it.
        cell: Any cell.
    """

    def __init__(self, owner: CellWrapper, cell: Any) -> None:
        self.owner, self.cell = owner, cell
        self.runner = CellRunner(cell, owner.compute_dtype, owner.variable_dtype)

    @property
    def size(self) -> Any:
        """Entry of this cell in the `state_size` of the cell around it."""
        return self.cell.state_size

    @property
    def spec(self) -> Any:
        """The states with resolved `TensorSpec`; a bare one where the cell declares one size."""
        structure = self.runner.layout.structure
        return structure if self._several(structure) else structure[0]

    def _several(self, structure: Any) -> bool:
        nested = isinstance(self.cell.state_size, (list, tuple, dict))
        return nested or len(keras.tree.flatten(structure)) != 1

    def build(self, input_shape: Any) -> None:
        """Build the cell for inputs of this shape, or structure of shapes, `(batch, ...)`."""
        dtypes, constants = self.owner.expected()
        same = len(dtypes or ()) == len(flatten_shapes(input_shape))
        build_cell(
            self.runner,
            input_shape,
            dtypes if same else None,
            constants if self.runner.takes_constants else None,
        )

    def output_shape(self, input_shape: Any) -> Any:
        """Return the shapes `(batch, ...)` of the output, of a cell that is built.

        Args:
            input_shape: Shape, or structure of shapes, of the inputs of one step.
        """
        shapes = flatten_shapes(input_shape)
        declared = getattr(self.cell, "output_size", None)
        if declared is not None:
            specs = declared_output(declared)
            if all(None not in s.shape for s in keras.tree.flatten(specs)):
                return keras.tree.map_structure(lambda s: (shapes[0][0], *s.shape), specs)
        dtypes, constants = self.owner.expected()
        if len(dtypes or ()) != len(shapes):
            dtypes = [self.owner.compute_dtype] * len(shapes)
        leaves = [keras.KerasTensor(s, dtype=d) for s, d in zip(shapes, dtypes or (), strict=True)]
        output = self.runner.trace(
            pack_like_shapes(input_shape, leaves), self.runner.with_constants(constants)
        )
        return keras.tree.map_structure(lambda y: tuple(y.shape), output)

    def initial(self, batch: Any) -> Any:
        """Return the initial states of the cell, as they stand in the states around it."""
        return self._entry(self.runner.initial(batch))

    def _entry(self, leaves: list[Any]) -> Any:
        packed = self.runner.layout.pack(leaves)
        return packed if self._several(packed) else leaves[0]

    def prepare(self, inputs: Any) -> Any:
        """Return what `advance` takes: the part of the step that sees the inputs alone, if any.

        Args:
            inputs: The inputs of the cell, or the steps of many rows as so many rows.
        """
        if not self._in_two():
            return inputs
        return self.cell.prepare(inputs, self.owner.in_training)

    def advance(self, prepared: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step from what `prepare` returned.

        Args:
            prepared: The result of `prepare`.
            states: The states of the cell, in any structure that fits.

        Returns:
            The output, in the dtype of the cell, and the new states, in the structure of the cell,
            or bare where a single one was given bare. An output that is a state is the same object.
        """
        runner, owner = self.runner, self.owner
        leaves, training = runner.layout.match(states), owner.in_training
        if self._in_two():
            output, news = runner.run(self.cell.advance, prepared, leaves, training, {})
        else:
            extra = runner.with_constants(owner.constants_of(self.cell))
            output, news = runner.step(prepared, leaves, training, extra)
        # As they were given: a single state may stand bare in the states around the cell.
        return output, runner.layout.pack(news) if keras.tree.is_nested(states) else news[0]

    def step(self, inputs: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step, from the inputs of the cell."""
        return self.advance(self.prepare(inputs), states)

    def _in_two(self) -> bool:
        """Tell whether the step of the cell is `prepare` and `advance`, one after the other."""
        if not self.runner.direct or not has_common_call(self.cell):
            return False
        return _handed.constants is None or not self.runner.takes_constants


class CellWrapper(Cell):
    """Base class of cells around cells: what every wrapper repeats, and nothing of its equation.

    A subclass writes `project` and `step` with `self.inside`, and where it has weights `build`.
    Structure, dtypes, initial states, dropout masks and seeds of the cell inside come through, its
    constants too, and `get_config` holds it whole. The part of its step that sees the inputs alone
    is a method of its own, `inside.prepare`: in `project` it lets an engine run it for all time
    steps at once.

    Args:
        inner: The cell inside: Keras', cellkit's or any with `state_size` and `call`; a list of
            cells, which is stacked; or the name of a registered cell, made with `units`.
        units: Number of units of cells that are given by their names.
        **kwargs: Options of `cellkit.Cell`; `dropout` drops inputs of the wrapper, and `zoneout`
            acts on all states.

    Attributes:
        inside: The runner of the cell inside, an `InnerCell`.

    Raises:
        ValueError: If `inner` is not a cell, or for `recurrent_dropout`, which belongs to the cell.

    Example:
    >>> import cellkit
    >>> class Doubled(CellWrapper):
    ...     def project(self, inputs):
    ...         return self.inside.prepare(inputs)
    ...
    ...     def step(self, projected, states):
    ...         output, states = self.inside.advance(projected, states)
    ...         return 2 * output, states
    >>> layer = cellkit.RNN(Doubled(keras.layers.GRUCell(4)))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 4)
    """

    uses_constants: ClassVar[bool] = False
    """True if the wrapper itself reads `self.constants`, and can't do without."""

    def __init__(self, inner: Any, *, units: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.recurrent_dropout:
            raise problem(
                f"{type(self).__name__} has no recurrent product to drop states from.",
                received=f"recurrent_dropout={self.recurrent_dropout}",
                expected="recurrent_dropout=0.0",
                fix="give `recurrent_dropout` to the cell inside",
            )
        self._memo = Memo()
        self.units = None if units is None else self._checked_units(inner, units)
        self.inner = self.made(inner)

    def _checked_units(self, inner: Any, units: int) -> int:
        have = getattr(inner, "units", units)
        if not isinstance(inner, str) and have != units:
            raise problem(
                f"`units` of {type(self).__name__} is another number than that of its cell.",
                received=f"units={units!r}, and a {type(inner).__name__} of {have} units",
                expected="`units` beside the name of a cell, which is made with it",
                fix="leave `units` out where a cell is given",
            )
        return units

    def made(self, cell: Any, name: str | None = None) -> Any:
        """Return the cell that an argument stands for: a cell, a name, or a list of either.

        Args:
            cell: The argument.
            name: Name of the layer that is made, the same in every instance. Default: that of the
                registered cell.

        Raises:
            ValueError: If it stands for no cell.
        """
        if isinstance(cell, (list, tuple)):
            from cellkit.layers.stacked import StackedCells  # stacks are made of cells themselves

            cells = [self.made(c, f"{name or 'cell'}_{i}") for i, c in enumerate(cell)]
            return StackedCells(cells, dtype=self.dtype_policy, name=name or "cells")
        if isinstance(cell, str):
            if self.units is None:
                raise problem(
                    f"{type(self).__name__} cannot make its cell without a size.",
                    received=f"the name {cell!r} and no `units`",
                    expected="the number of units, or a cell that is made already",
                    fix=f"pass units=32, or cellkit.create({cell!r}, ...) in the place of the name",
                )
            return create(cell, units=self.units, dtype=self.dtype_policy, name=name or cell)
        check_cell(cell)
        return cell

    # The cells inside -------------------------------------------------------------------------

    @property
    def inside(self) -> InnerCell:
        """The runner of the cell inside."""
        return self.inside_of(self.inner)

    def inside_of(self, cell: Any) -> InnerCell:
        """Return what runs one of the cells inside, for wrappers of several.

        Args:
            cell: The cell.
        """
        found: InnerCell = self._memo.memoize(id(cell), lambda: InnerCell(self, cell))
        return found

    def cells_inside(self) -> list[Any]:
        """Return the cells inside: a wrapper of several overrides this."""
        return [self.inner]

    def cells_with_states(self) -> list[Any]:
        """Return the cells inside whose states are kept, all of them by default."""
        return self.cells_inside()

    # States -----------------------------------------------------------------------------------

    def own_states(self) -> list[TensorSpec]:
        """Return what the wrapper itself carries from step to step; nothing by default."""
        return []

    @property
    def state_size(self) -> Any:
        """The states of the cell inside; in a list with the wrapper's own where it has any."""
        cells, own = self.cells_with_states(), self.own_states()
        sizes = [self.inside_of(c).size for c in cells]
        return sizes[0] if len(cells) == 1 and not own else [*sizes, *own]

    @property
    def output_size(self) -> Any:
        """Output size of the cell inside; None where that follows only from tracing it."""
        return getattr(self.inner, "output_size", None)

    def state_spec(self) -> Any:
        """Return the structure of the states with `TensorSpec` leaves and resolved dtypes."""
        cells, own = self.cells_with_states(), self.own_states()
        if len(cells) == 1 and not own:
            return declared_state(self.inside_of(cells[0]).spec)
        resolved = [TensorSpec(s.shape, s.dtype or self.compute_dtype, s.initializer) for s in own]
        return [*(self.inside_of(c).spec for c in cells), *resolved]

    def get_initial_state(self, batch_size: Any = None) -> Any:
        """Return the states before the first step: those of the cell inside, and the own ones."""
        cells, own = self.cells_with_states(), self.own_states()
        entries = [self.inside_of(c).initial(batch_size) for c in cells]
        if len(cells) == 1 and not own:
            return entries[0] if keras.tree.is_nested(entries[0]) else [entries[0]]
        specs = self.state_spec()[len(entries) :]
        return [*entries, *(self._initial_leaf(i, s, batch_size) for i, s in enumerate(specs))]

    # Building ---------------------------------------------------------------------------------

    def expect(self, dtypes: list[str] | None, constants: Any) -> None:
        """Say what `build` can't be told: the dtypes of the inputs, and the constants.

        Args:
            dtypes: Dtypes of the inputs' leaves, or None.
            constants: The constants as `KerasTensor`, or None.
        """
        self._memo.set("expected", (dtypes, constants))

    def expected(self) -> tuple[list[str] | None, Any]:
        """Return what `expect` was told: dtypes of the inputs and constants, each None if not."""
        return self._memo.get("expected") or (None, None)

    def build(self, input_shape: Any) -> None:
        """Build the cell inside for the inputs of the wrapper.

        A wrapper that feeds it with something else builds it itself, with `inside.build`, and calls
        `build_own` in the place of this method.
        """
        self.build_own()
        self.inside.build(input_shape)

    def build_own(self) -> None:
        """Prepare for the weights of the wrapper itself."""
        self.initial_state_variables: dict[int, Any] = {}  # learned ones are the inner cell's

    # The step ---------------------------------------------------------------------------------

    @property
    def constants(self) -> Any:
        """The result of `project_constants` for the running call, or None."""
        handed = _handed.constants
        return handed.own if self.uses_constants and handed is not None else None

    def project_constants(self, constants: Any) -> Any:
        """Return what the steps find in `self.constants`; the constants as they are by default.

        A wrapper computes here what it makes of the constants alone: it is asked once for all
        steps of a call.

        Args:
            constants: The constants of the call, any structure.
        """
        return constants

    def constants_of(self, cell: Any) -> Any:
        """Return the constants of the running call for a cell inside, or None."""
        handed = _handed.constants
        if handed is None:
            return None
        each = zip(self.cells_inside(), handed.inside, strict=True)
        return next(found for c, found in each if c is cell)

    @property
    def takes_constants(self) -> bool:
        """True if the wrapper, or a cell inside, takes constants."""
        if not has_common_call(self):
            return compat.takes(self.call, "constants")
        inside = [self.inside_of(c).runner.takes_constants for c in self.cells_inside()]
        return self.uses_constants or any(inside)

    @property
    def needs_constants(self) -> bool:
        """True if the wrapper, or a cell inside, can't do without constants."""
        if not has_common_call(self):
            parameter = inspect.signature(self.call).parameters.get("constants")
            return parameter is not None and parameter.default is parameter.empty
        return self.uses_constants or any(map(needs_constants, self.cells_inside()))

    def call(
        self, inputs: Any, states: Any, training: bool = False, constants: Any = None
    ) -> tuple[Any, Any]:
        """Advance one time step.

        Args:
            inputs: The inputs of one step; leaves of shape `(batch, ...)`.
            states: The states.
            training: True if dropout and zoneout are random.
            constants: Tensors for every step, for the wrapper and all cells that take them.

        Returns:
            The output and the new states.
        """
        with handing(_projected(self, constants)):
            return super().call(inputs, states, training)

    def dropped(self, x: Any, rate: float, name: str) -> Any:
        """Drop elements of a tensor in training, with one mask per sequence.

        Args:
            x: Tensor of shape `(batch, ...)`.
            rate: Share of the elements.
            name: Tells apart several such tensors of one wrapper.
        """
        return self._drop(x, rate, ("wrapper", name)) if rate and self.in_training else x

    def as_computed(self, values: Any) -> Any:
        """Return floating tensors in the compute dtype: the cell inside may have another one.

        Args:
            values: A tensor, or a structure of tensors.
        """

        def one(x: Any) -> Any:
            real = keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype))
            return as_dtype(x, self.compute_dtype) if real else x

        return keras.tree.map_structure(one, values)

    def _cast_input(self, x: Any) -> Any:
        """Leave inputs to the cell inside, which may count, or look something up."""
        return x

    # Configuration ----------------------------------------------------------------------------

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Make a wrapper, and the cells inside, from what `get_config` returned."""
        import_plugins(config)
        return cls(**{k: deserialize(v) for k, v in config.items()})
