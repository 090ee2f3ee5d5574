"""Dropout and zoneout around a cell that has none of its own."""

from __future__ import annotations

from typing import Any

import keras

from cellkit.cells import CellWrapper, probability
from cellkit.registry import CellSpec, Guide, Paper
from cellkit_wrappers._inside import TRAITS, around, known


@keras.saving.register_keras_serializable(package="cellkit_wrappers")
class DropoutCell(CellWrapper):
    """Any cell, with dropout of its inputs and outputs and zoneout of its states.

    Papers: Gal and Ghahramani 2016, "A Theoretically Grounded Application of Dropout in Recurrent
    Neural Networks", arXiv:1512.05287, for masks that stay the same over a sequence; Krueger et al.
    2017, "Zoneout", arXiv:1606.01305.

    ```
    o, s~ = cell(d_x * x, s)
    y = d_y * o
    s' = z * s + (1 - z) * s~
    ```

    d_x and d_y are drawn once per sequence, zero with the rate and otherwise scaled so that the
    mean stays; z is drawn at every step. At inference d_x = d_y = 1 and z is the rate.

    Args:
        inner: The cell: any cell, a list of cells, or the name of a registered one.
        units: Number of units of a cell that is given by its name.
        output_dropout: Rate of d_y, of at least 0 and below 1.
        **kwargs: Options of `cellkit.Cell`: `dropout` for d_x, `zoneout` for z, `seed`.

    Inputs: those of the cell. States: those of the cell. Output: y, in the shape of o.

    Example:
    >>> import cellkit
    >>> cell = DropoutCell(keras.layers.GRUCell(8), dropout=0.2, output_dropout=0.3, zoneout=0.1)
    >>> cellkit.RNN(cell).compute_output_shape((None, 10, 3))
    (None, 8)
    """

    def __init__(
        self, inner: Any, *, units: int | None = None, output_dropout: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(inner, units=units, **kwargs)
        self.output_dropout = probability(type(self), "output_dropout", output_dropout)

    def project(self, inputs: Any) -> Any:
        """Return what the cell makes of its inputs alone."""
        return self.inside.prepare(inputs)

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance the cell, and drop elements of its output."""
        o, states = self.inside.advance(projected, states)
        if not self.output_dropout:
            return o, states  # an output that is a state stays that state
        leaves = [
            self.dropped(y, self.output_dropout, f"output_{i}")
            for i, y in enumerate(keras.tree.flatten(o))
        ]
        return keras.tree.pack_sequence_as(o, leaves), states


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step at inference."""
    return known(config).step_alone(w, x, states)


DropoutCell.spec = CellSpec(
    paper=Paper(
        "Gal and Ghahramani",
        2016,
        "A Theoretically Grounded Application of Dropout in Recurrent Neural Networks",
        "arXiv:1512.05287",
    ),
    guide=Guide(
        "wrapper",
        "Use it when a cell that has no dropout of its own learns its data by heart.",
        ("regularised", "wraps cells"),
    ),
    reference=reference,
    symbols=around(),
    cases={
        "default": {"inner": "lstm", "units": 4},
        "stack": {"inner": ["gru", "simple_rnn"], "units": 3},
        "dropout": {"inner": "gru", "units": 4, "dropout": 0.4, "output_dropout": 0.3, "seed": 1},
    },
    traits=TRAITS,
    deviations=("The paper drops states too: give `recurrent_dropout` to the cell inside.",),
).completed(DropoutCell)
