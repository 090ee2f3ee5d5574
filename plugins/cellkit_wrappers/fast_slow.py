"""Fast cells that share a state, and a slow one beside them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells import CellWrapper
from cellkit.errors import problem
from cellkit.registry import CellSpec, Guide
from cellkit_wrappers._inside import TRAITS, around, below, known


@keras.saving.register_keras_serializable(package="cellkit_wrappers")
class FastSlowCell(CellWrapper):
    """Several fast cells, one after the other within a step, and a slow one that steps once.

    Paper: Mujika, Meier and Steger 2017, "Fast-Slow Recurrent Neural Networks", arXiv:1705.08639.

    ```
    o_1, f = F_1(x, f)              the fast cells pass one state f on, from step to step too
    o_S, s' = S(o_1, s)             the slow cell
    o_2, f = F_2(o_S, f)
    o_i, f = F_i(1, f)              for i = 3 ... k
    y, f' = o_k, f
    ```

    Args:
        inner: The fast cells F_1 ... F_k, a list of two or more, each any cell or the name of a
            registered one. Their states have the same shapes.
        slow: The slow cell S: any cell, a list of cells, or a name.
        units: Number of units of cells that are given by their names.
        **kwargs: Options of `cellkit.Cell`: `dropout` on x, `zoneout`.

    Inputs: those of F_1. States: `[f, s]`, each as its cell declares it. Output: that of F_k.

    Raises:
        ValueError: If there are fewer than two fast cells, or if their states differ.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(FastSlowCell(["lstm", "lstm"], slow="gru", units=8))
    >>> layer.cell.state_size
    [[8, 8], 8]
    """

    def __init__(self, inner: Any, slow: Any, *, units: int | None = None, **kwargs: Any) -> None:
        several = isinstance(inner, (list, tuple, keras.layers.StackedRNNCells))
        count = len(inner.cells if hasattr(inner, "cells") else inner) if several else 1
        if count < 2:
            raise problem(
                "A fast-slow cell needs at least two fast cells.",
                received=f"inner={inner!r}",
                expected="a list of two or more cells",
                fix="pass e.g. ['lstm', 'lstm'] with units=32",
            )
        super().__init__(inner, units=units, **kwargs)
        self.slow = self.made(slow, "slow")

    def cells_inside(self) -> list[Any]:
        """Return the fast cells, and the slow one."""
        return [*self.inner.cells, self.slow]

    def cells_with_states(self) -> list[Any]:
        """Return the cells with the two states: all fast cells share that of the first."""
        return [self.inner.cells[0], self.slow]

    def build(self, input_shape: Any) -> None:
        """Build all cells, each for what it is given."""
        self.build_own()
        first, *others = (self.inside_of(c) for c in self.inner.cells)
        slow = self.inside_of(self.slow)
        first.build(input_shape)
        shape = first.output_shape(input_shape)
        slow.build(shape)
        shape = slow.output_shape(shape)
        for fast in others:
            fast.build(shape)
            shape = (shape[0] if isinstance(shape, tuple) else None, 1)
        want = _states(first)
        for i, fast in enumerate(others, start=2):
            if _states(fast) != want:
                raise problem(
                    "The fast cells of a fast-slow cell have different states.",
                    received=f"states {_states(fast)} of fast cell {i}, {want} of the first",
                    expected="the same shapes and dtypes: they pass one state on",
                    fix="make them cells of one kind and width",
                )
        self.inner.built = True  # the list of the fast cells, which never runs as a stack

    @property
    def output_size(self) -> Any:
        """Output size of the last fast cell; None where that follows only from tracing it."""
        return getattr(self.inner.cells[-1], "output_size", None)

    def project(self, inputs: Any) -> Any:
        """Return what the first fast cell makes of the inputs alone."""
        return self.inside_of(self.inner.cells[0]).prepare(inputs)

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance the fast cells, with the slow one behind the first."""
        f, s = states
        first, *others = (self.inside_of(c) for c in self.inner.cells)
        o, f = first.advance(projected, f)
        o, s = self.inside_of(self.slow).step(o, s)
        for fast in others:
            o, f = fast.step(o, f)
            y, o = o, _nothing(o)
        return y, [f, s]


def _nothing(output: Any) -> Any:
    """Return a one for each row of an output: an input that says nothing."""
    first = keras.tree.flatten(output)[0]
    if len(first.shape) != 2:
        first = keras.ops.reshape(first, (keras.ops.shape(first)[0], -1))
    return keras.ops.ones_like(first[:, :1])


def _states(inner: Any) -> list[tuple[Any, Any]]:
    """Return shapes and dtypes of the states of an inner cell."""
    return [(s.shape, s.dtype) for s in keras.tree.flatten(inner.spec)]


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    f, s = states
    fast = known(config).stack
    o, f = fast[0].step(below(w, "inner.0."), x, f)
    o, s = known(config, "slow").step(below(w, "slow."), o, s)
    y, f = fast[1].step(below(w, "inner.1."), o, f)
    for i in range(2, len(fast)):
        y, f = fast[i].step(below(w, f"inner.{i}."), np.ones((len(x), 1)), f)
    return y, [f, s]


FastSlowCell.spec = CellSpec(
    guide=Guide(
        "wrapper",
        "Use it when a step needs several updates, and something slower has to be remembered.",
        ("time scales", "language", "depth", "wraps cells"),
    ),
    reference=reference,
    symbols=around(None, "inner", "slow"),
    cases={
        "default": {"inner": ["lstm", "lstm"], "slow": "lstm", "units": 4},
        "three": {"inner": ["gru", "gru", "gru"], "slow": "simple_rnn", "units": 3},
        "dropout": {
            "inner": ["lstm", "lstm"],
            "slow": "gru",
            "units": 4,
            "dropout": 0.4,
            "seed": 1,
        },
    },
    traits=TRAITS,
    deviations=(
        "The paper gives F_3 ... F_k no input; here it is a constant one, so that any cell will "
        "do, and none of its weights is idle.",
        "The paper's cells are LSTMs with layer normalisation and zoneout; here they are any.",
    ),
).completed(FastSlowCell)
