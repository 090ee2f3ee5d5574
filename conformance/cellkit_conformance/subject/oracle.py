"""The oracle: what a recurrent layer must compute, as a plain loop in NumPy float64.

This is the semantics of `cellkit.RNN`, over any nested structure of inputs, states and outputs:

    for t in order:
        out, new = cell(x[t], s)
        s = where(mask[:, t], new, s)          # per row, every leaf
        y = where(mask[:, t], out, y)          # repeats the previous output, never a state
        emit(y), or with zero_output_for_mask: emit(where(mask[:, t], out, 0))

It knows nothing of Keras, and it is written to be read, not to be fast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cellkit_conformance.trees import Tree, leaves, map_trees

Step = Callable[[Tree, Tree], tuple[Tree, Tree]]
"""One time step: (inputs of the step, states) -> (output, new states), batch first."""


@dataclass(frozen=True)
class Run:
    """Results of a run of the oracle.

    Attributes:
        sequence: The emitted outputs in the order processed, leaves of shape (B, T, ...).
        last: The last `y`, leaves of shape (B, ...): zeros where no step was valid.
        states: The final states, in the structure of the initial ones.
        history: The states after every processed step; T entries.
    """

    sequence: Tree
    last: Tree
    states: Tree
    history: tuple[Tree, ...]

    def result(self, return_sequences: bool) -> Tree:
        """Give what a layer returns as its output.

        Args:
            return_sequences: True if the layer returns the sequence or the last output.
        """
        return self.sequence if return_sequences else self.last


def run(
    step: Step,
    inputs: Tree,
    states: Tree,
    *,
    mask: Tree | None = None,
    go_backwards: bool = False,
    zero_output_for_mask: bool = False,
    resets: np.ndarray | None = None,
    starts: Tree | None = None,
) -> Run:
    """Run a cell over a sequence.

    Args:
        step: One time step in NumPy.
        inputs: Structure of arrays of shape (B, T, ...).
        states: Structure of arrays of shape (B, ...): the initial states. A state keeps its dtype;
            floating ones are computed in float64.
        mask: (B, T) or (B, T, 1), True where a step counts; or a structure of them, one per input,
            all of which must hold. None: every step counts.
        go_backwards: Process the time steps from last to first.
        zero_output_for_mask: Emit zeros at masked steps instead of the previous output.
        resets: (B, T), True where the row begins anew before the step; or None.
        starts: The states from which it does.

    Returns:
        The outputs and states.

    Raises:
        ValueError: The leaves disagree on batch or time, or the mask does not fit them.

    Example:
        >>> counter = lambda x, states: (states[0] + x, [states[0] + x])
        >>> run(counter, np.ones((1, 3, 1)), [np.zeros((1, 1))]).sequence.ravel().tolist()
        [1.0, 2.0, 3.0]
    """
    inputs = map_trees(_to_float64, inputs)
    states = map_trees(_to_float64, states)
    batch, time = _batch_and_time(inputs)
    keep = combine_masks(mask, batch, time)
    y = None if time else map_trees(np.zeros_like, _probe_output(step, inputs, states, batch))
    emitted, history = [], []
    order = range(time - 1, -1, -1) if go_backwards else range(time)
    with np.errstate(all="ignore"):  # a masked step may hold NaN, and its result is thrown away
        for t in order:
            if resets is not None:
                fresh = resets[:, t]
                begun = map_trees(_to_float64, starts)
                states = map_trees(lambda a, b, row=fresh: _where(row, a, b), begun, states)
            out, new = step(map_trees(lambda leaf, t=t: leaf[:, t], inputs), states)
            row = keep[:, t]
            y = map_trees(lambda leaf: np.zeros_like(_to_float64(leaf)), out) if y is None else y
            if resets is not None:
                y = map_trees(lambda a, row=resets[:, t]: _where(row, np.zeros_like(a), a), y)
            states = map_trees(lambda old, fresh, row=row: _where(row, fresh, old), states, new)
            y = map_trees(lambda old, fresh, row=row: _where(row, fresh, old), y, out)
            zeros = map_trees(np.zeros_like, y)
            blank = zeros if zero_output_for_mask else y
            emitted.append(map_trees(lambda a, b, row=row: _where(row, a, b), y, blank))
            history.append(states)
    return Run(_stack(emitted, y), y, states, tuple(history))


def run_chunks(
    step: Step,
    chunks: Sequence[tuple[Tree, Tree | None]],
    states: Tree,
    **options: Any,
) -> list[Run]:
    """Run one chunk after another, each from the states that the previous one ended with.

    Args:
        step: One time step in NumPy.
        chunks: Pairs of inputs and mask (or None), as `run` takes them.
        states: The states before the first chunk.
        **options: Further options of `run`.

    Returns:
        One run per chunk. This is what a stateful layer computes over consecutive calls.
    """
    runs = []
    for inputs, mask in chunks:
        runs.append(run(step, inputs, states, mask=mask, **options))
        states = runs[-1].states
    return runs


def combine_masks(mask: Tree | None, batch: int, time: int) -> np.ndarray:
    """Turn every accepted form of a mask into one bool array of shape (B, T).

    Args:
        mask: None, one mask, or a structure of masks and Nones, one per input.
        batch: The expected B.
        time: The expected T.

    Returns:
        True where all the masks hold.

    Raises:
        ValueError: A mask is of another shape than (B, T) or (B, T, 1).
    """
    keep = np.ones((batch, time), dtype=bool)
    for leaf in leaves(mask):
        if leaf is None:
            continue
        array = np.asarray(leaf)
        if array.shape not in {(batch, time), (batch, time, 1)}:
            raise ValueError(
                f"A mask has shape {array.shape}; expected {(batch, time)} or {(batch, time, 1)}."
            )
        keep &= array.reshape(batch, time).astype(bool)
    return keep


def compact(array: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Take the unmasked steps of one row.

    Args:
        array: (T, ...), one row of an input.
        keep: (T,), True where a step counts.

    Returns:
        (number of unmasked steps, ...).
    """
    return array[np.asarray(keep, dtype=bool)]


def _to_float64(leaf: Any) -> np.ndarray:
    """Compute in double precision; integers, bools and complex numbers stay what they are."""
    array = np.asarray(leaf)
    if np.issubdtype(array.dtype, np.complexfloating):
        return array.astype(np.complex128)
    if np.issubdtype(array.dtype, np.integer) or array.dtype == bool:
        return array
    return array.astype(np.float64)


def _where(row: np.ndarray, new: Any, old: np.ndarray) -> np.ndarray:
    """Choose per row of the batch, whatever the rank, keeping the dtype of the old value."""
    new = np.asarray(new)
    if new.shape != old.shape:
        raise ValueError(f"The step changed a shape from {old.shape} to {new.shape}.")
    return np.where(row.reshape(row.shape + (1,) * (old.ndim - 1)), new, old).astype(old.dtype)


def _batch_and_time(inputs: Tree) -> tuple[int, int]:
    shapes = {leaf.shape[:2] for leaf in leaves(inputs)}
    if len(shapes) != 1:
        raise ValueError(f"The inputs disagree on (batch, time): {sorted(shapes)}.")
    return shapes.pop()


def _probe_output(step: Step, inputs: Tree, states: Tree, batch: int) -> Tree:
    """Find the structure and shape of the output where there is no step."""
    blank = map_trees(lambda leaf: np.zeros((batch, *leaf.shape[2:]), leaf.dtype), inputs)
    with np.errstate(all="ignore"):
        return map_trees(_to_float64, step(blank, states)[0])


def _stack(emitted: list[Tree], like: Tree) -> Tree:
    if not emitted:
        return map_trees(lambda y: np.zeros((y.shape[0], 0, *y.shape[1:]), y.dtype), like)
    return map_trees(lambda *steps: np.stack(steps, axis=1), emitted[0], *emitted[1:])
