"""`StackedCells`: several cells that act as one."""

from __future__ import annotations

import itertools
from typing import Any

import keras

from cellkit import _keras_compat as compat
from cellkit.cells.memo import Memo
from cellkit.cells.operations import to_tensor
from cellkit.cells.runner import (
    CellRunner,
    build_cell,
    check_cell,
    flatten_shapes,
    pack_like_shapes,
)
from cellkit.cells.structure import describe_shapes
from cellkit.cells.validate import check_dtype
from cellkit.errors import problem
from cellkit.registry.registry import import_plugins
from cellkit.typing import States, Tree

__all__ = ["StackedCells"]


@keras.saving.register_keras_serializable(package="cellkit")
class StackedCells(keras.layers.StackedRNNCells):
    """A stack of cells: the output of one is the input of the next, within one time step.

    A drop-in for `keras.layers.StackedRNNCells` that also takes stacks of one, cells without
    `output_size`, plain objects, and cells with states of any structure. The states are a list
    with one entry per cell: a bare tensor for a cell that declares a single size, otherwise the
    cell's own structure.

    Args:
        cells: Non-empty list of cells.
        **kwargs: `name`, `dtype` and `trainable`, as for any Keras layer.

    Raises:
        ValueError: If `cells` is empty or holds something that is not a cell.

    Example:
    >>> stack = StackedCells([keras.layers.GRUCell(4), keras.layers.LSTMCell(3)])
    >>> stack.state_size
    [4, [3, 3]]
    """

    def __init__(self, cells: list[Any], **kwargs: Any) -> None:
        if not isinstance(cells, (list, tuple)) or not cells:
            raise problem(
                "A stack of cells needs at least one cell.",
                received=f"cells={cells!r}",
                expected="a non-empty list of cells",
                fix="pass e.g. [keras.layers.LSTMCell(32), keras.layers.LSTMCell(32)]",
            )
        for cell in cells:
            check_cell(cell)
        super().__init__(list(cells), **kwargs)
        check_dtype(self)
        compat.take_over_conversion(self)
        self._memo = Memo()

    @property
    def output_size(self) -> Any:
        """Output size of the last cell; None where that follows only from tracing it."""
        return getattr(self.cells[-1], "output_size", None)

    def runners(self) -> list[CellRunner]:
        """Return what runs each cell."""
        return self._memo.memoize(
            "runners",
            lambda: [CellRunner(c, self.compute_dtype, self.variable_dtype) for c in self.cells],
        )

    def get_initial_state(self, batch_size: Any = None) -> list[Any]:
        """Return the initial states of every cell, in the structure of `state_size`."""
        return [_entry(r, r.initial(batch_size)) for r in self.runners()]

    def expect(self, dtypes: list[str] | None, constants: Tree) -> None:
        """Say what `build` can't be told: the dtypes of the inputs, and the constants.

        Args:
            dtypes: Dtypes of the inputs' leaves, or None.
            constants: The constants as `KerasTensor`, or None.
        """
        self._memo.set("expected", (dtypes, constants))

    def build(self, input_shape: Any) -> None:
        """Build every cell, tracing each one to learn what the next one receives."""
        shape = input_shape
        dtypes, constants = self._memo.get("expected") or (None, None)
        for i, runner in enumerate(self.runners()):
            build_cell(runner, shape, dtypes, constants if runner.takes_constants else None)
            if i + 1 == len(self.cells):
                break
            flat = flatten_shapes(shape)
            names = dtypes or [self.compute_dtype] * len(flat)
            leaves = [keras.KerasTensor(s, dtype=d) for s, d in zip(flat, names, strict=True)]
            inputs = pack_like_shapes(shape, leaves)
            output = runner.trace(inputs, runner.with_constants(constants))
            shape = keras.tree.map_structure(lambda y: tuple(y.shape), output)
            dtypes = [y.dtype for y in keras.tree.flatten(output)]

    def __call__(self, inputs: Tree, states: States, *args: Any, **kwargs: Any) -> Any:
        """Convert inputs and states, each to its own dtype, and advance one time step."""
        inputs = keras.tree.map_structure(lambda x: to_tensor(x, self.compute_dtype), inputs)
        leaves = keras.tree.flatten(states)
        dtypes: list[str | None] = [None] * len(leaves)
        if self.built:
            dtypes = [s.dtype for r in self.runners() for s in r.layout.specs]
        if len(leaves) == len(dtypes):
            leaves = [
                to_tensor(x, self.compute_dtype, d) for x, d in zip(leaves, dtypes, strict=True)
            ]
            states = keras.tree.pack_sequence_as(states, leaves)
        return super().__call__(inputs, states, *args, **kwargs)

    def call(self, inputs: Tree, states: States, training: bool = False, **kwargs: Any) -> Any:
        """Advance every cell by one time step.

        Args:
            inputs: The inputs of the first cell.
            states: A list with the states of each cell.
            training: Passed on to the cells that take it.
            **kwargs: `constants`, passed on to the cells that take them.

        Returns:
            The output of the last cell, and the new states of all.
        """
        runners, new_states = self.runners(), []
        for runner, state in zip(runners, _by_cell(runners, states), strict=True):
            extra = kwargs if runner.takes_constants else {}
            inputs, new = runner.step(inputs, runner.layout.match(state), training, extra)
            new_states.append(_entry(runner, new))
        return inputs, new_states

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Make a stack from what `get_config` returned."""
        import_plugins(config)
        return super().from_config(dict(config), custom_objects)


def _by_cell(runners: list[CellRunner], states: States) -> list[Any]:
    """Return the states of each cell, which may be given as one flat list as well."""
    if len(states) == len(runners):
        return list(states)
    counts = [len(runner.layout.specs) for runner in runners]
    leaves = keras.tree.flatten(states)
    if len(leaves) != sum(counts):
        raise problem(
            "The states do not fit the cells of the stack.",
            received=describe_shapes(states),
            expected=describe_shapes([_entry(r, r.layout.specs) for r in runners]),
            fix="pass a list with the states of each cell",
        )
    ends = itertools.accumulate(counts)
    return [leaves[end - count : end] for end, count in zip(ends, counts, strict=True)]


def _entry(runner: CellRunner, leaves: list[Any]) -> Any:
    """Return the states of one cell as they stand in the states of the stack."""
    declared = runner.cell.state_size
    if isinstance(declared, (list, tuple, dict)) or len(leaves) != 1:
        return runner.layout.pack(leaves)
    return leaves[0]
