"""The output of a cell: its structure, and the dtypes in which a layer returns it."""

from __future__ import annotations

from typing import Any

import keras

from cellkit.cells.structure import describe_shapes
from cellkit.errors import problem
from cellkit.typing import States, Tree


class OutputForm:
    """The structure of a cell's output and the dtypes in which the layer returns it.

    Args:
        compute_dtype: Dtype of floating outputs that declare no dtype, or None to leave them alone.
        declared: Declared dtypes of the leaves, or None where the cell declares none.
    """

    def __init__(
        self, compute_dtype: str | None = None, declared: list[str | None] | None = None
    ) -> None:
        self._compute_dtype = compute_dtype
        self._declared = declared
        # The structure, and whether it is a single tensor: set at once, for other threads.
        self._learned: tuple[Any, bool] | None = None
        # For each leaf and dtype what it is cast to, None for nothing.
        self._casts: dict[tuple[int, Any], str | None] = {}

    @property
    def count(self) -> int:
        """Number of leaves."""
        return len(keras.tree.flatten(self._learned[0])) if self._learned else 1

    def _learn(self, output: Tree) -> list[Any]:
        count = len(keras.tree.flatten(output))
        if self._declared is not None and len(self._declared) != count:
            raise problem(
                "The cell's output is not what the cell declares.",
                received=f"an output of {count} tensor{'s' * (count != 1)}: "
                f"{describe_shapes(output)}",
                expected=f"{len(self._declared)}, as `output_size` says",
                fix="give the cell an `output_size` in the structure of its output: sizes, or "
                "`cellkit.TensorSpec`s",
            )
        template = keras.tree.map_structure(lambda _: 0, output)
        self._learned = (template, not keras.tree.is_nested(output))
        return keras.tree.flatten(output)

    def flatten(self, output: Tree) -> list[Any]:
        """Return the leaves of an output, cast."""
        if self._learned is None:
            self._learn(output)
        single = self._learned is not None and self._learned[1]
        leaves = [output] if single else keras.tree.flatten(output)
        return [self._cast(i, y) for i, y in enumerate(leaves)]

    def specs(self, output: Tree) -> list[keras.KerasTensor]:
        """Return the leaves of a symbolic output, in the dtypes of the eager one."""
        return [
            keras.KerasTensor(y.shape, dtype=self._target(i, y.dtype))
            for i, y in enumerate(self._learn(output))
        ]

    def _target(self, index: int, dtype: str) -> str:
        if self._declared is not None and self._declared[index] is not None:
            return self._declared[index]  # type: ignore[return-value]
        wanted = self._compute_dtype if keras.backend.is_float_dtype(dtype) else None
        return wanted or dtype

    def _cast(self, index: int, y: Any) -> Any:
        key = index, y.dtype
        if key not in self._casts:
            dtype = keras.backend.standardize_dtype(y.dtype)
            wanted = self._target(index, dtype)
            self._casts[key] = None if wanted == dtype else wanted
        target = self._casts[key]
        return y if target is None else keras.ops.cast(y, target)

    def pack(self, leaves: list[Any]) -> Any:
        """Put leaves into the structure of the output."""
        if self._learned is None or self._learned[1]:
            return leaves[0]
        return keras.tree.pack_sequence_as(self._learned[0], leaves)


def with_states(output: Tree, states: States) -> Any:
    """Return what a call returns with `return_state`: the states of a list one by one."""
    return (output, *states) if isinstance(states, list) else (output, states)
