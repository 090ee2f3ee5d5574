"""`ParallelCell`: the base class of cells that a layer need not run step by step."""

from __future__ import annotations

from typing import Any

import keras

from cellkit.cells.cell import Cell
from cellkit.errors import problem
from cellkit.typing import States, Tensor, Tree

__all__ = ["ParallelCell", "as_dtype"]


class ParallelCell(Cell):
    """Base class of cells whose coefficients see inputs alone, so that all steps have them at once.

    `cellkit.LinearCell` and `cellkit.MatrixCell` are its two kinds. A subclass of this class itself
    would write `advance_states`, and run step by step.

    **Earlier inputs.** A cell whose coefficients need the inputs of steps before sets `window` to
    the number of steps it looks at, its own included. Its last state then holds the ``window - 1``
    inputs before, as `project` returned them (a state that is linear, too: ``a = 0, b = x``), and
    `look` is given whole windows of shape `(rows, window, ...)`, oldest first, from which it makes
    what coefficients and outputs are made of. Steps that are masked do not count as inputs.

    Args:
        units: Positive int, the number of units.
        **kwargs: Options of `cellkit.Cell`. There is no product with a state, so nothing that
            `recurrent_dropout` could drop.

    Raises:
        ValueError: If an argument is out of its range, or for `recurrent_dropout`.
    """

    window: int = 1

    def __init__(self, units: int | None = None, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        if self.recurrent_dropout:
            raise problem(
                f"{type(self).__name__} has no recurrent product to drop states from.",
                received=f"recurrent_dropout={self.recurrent_dropout}",
                expected="recurrent_dropout=0.0",
                fix="use `dropout`, which drops inputs",
            )

    @classmethod
    def spec_defaults(cls) -> dict[str, Any]:
        """Return what a spec says by default: nothing of states that are dropped."""
        usual = super().spec_defaults()
        cases = {name: usual["cases"][name] for name in ("default", "no_bias")}
        return {
            **usual,
            "cases": {**cases, "dropout": {"units": 4, "dropout": 0.4, "seed": 1}},
            "traits": usual["traits"] - {"recurrent_dropout"} | {"fp32_state"},
        }

    def look(self, window: Any) -> Any:
        """Return what coefficients and outputs are made of. The default passes the window on.

        Args:
            window: The result of `project` at the last `window` steps, `(rows, window, ...)`,
                oldest first.
        """
        return window

    def advance_states(self, projected: Tree, states: States) -> tuple[Tree, States]:
        """Return the output and the new states of one step.

        Args:
            projected: The result of `project`; with a `window` above 1 that of `look`.
            states: The states, without the inputs that a `window` keeps.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `advance_states`.")

    def for_rows(self, states: States, projected: Tree) -> list[Any]:
        """Return all tensors that an engine has computed for the rows of all steps at once.

        Engines look at them to see that each row stands alone.

        Args:
            states: The states, without the inputs that a `window` keeps.
            projected: The argument of `advance_states`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `for_rows`.")

    def as_output(self, x: Tensor) -> Any:
        """Return `x` in the compute dtype."""
        return as_dtype(x, self.compute_dtype)

    def step(self, projected: Tree, states: States) -> tuple[Tree, States]:
        """Advance one time step."""
        own, seen = self.split_states(states)
        if self.window > 1:
            inputs = keras.ops.concatenate([seen[0], projected[:, None]], axis=1)
            projected, seen = self.look(inputs), [inputs[:, 1:]]
        output, new = self.advance_states(projected, own)
        return output, [*new, *seen] if self.window > 1 else new

    def split_states(self, states: States) -> tuple[Any, list[Any]]:
        """Return the states of the recurrence, and the inputs that a `window` keeps in a list."""
        return (states[:-1], list(states[-1:])) if self.window > 1 else (states, [])

    def _zone_out(self, output: Tree, old: Tensor, new: Tensor, training: bool) -> tuple[Any, Any]:
        """Keep elements of the old states, and all inputs that a window keeps."""
        (old, _), (new, seen) = self.split_states(old), self.split_states(new)
        output, new = super()._zone_out(output, old, new, training)
        return output, [*new, *seen] if self.window > 1 else new


def as_dtype(x: Tensor, dtype: Any) -> Any:
    """Return `x` in a dtype; a number stays a number, which takes the dtype of its partner."""
    if isinstance(x, (int, float)):
        return x
    dtype = keras.backend.standardize_dtype(dtype)
    return x if keras.backend.standardize_dtype(x.dtype) == dtype else keras.ops.cast(x, dtype)
