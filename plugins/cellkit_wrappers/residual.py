"""A connection around a cell, from its inputs to its outputs."""

from __future__ import annotations

from typing import Any

import keras

from cellkit.cells import CellWrapper, as_dtype
from cellkit.errors import problem
from cellkit.registry import CellSpec, Guide
from cellkit_wrappers._inside import TRAITS, around, known


@keras.saving.register_keras_serializable(package="cellkit_wrappers")
class ResidualCell(CellWrapper):
    """Any cell, with its inputs added to its outputs.

    Paper: Wu et al. 2016, "Google's Neural Machine Translation System", arXiv:1609.08144, section
    3.1; the connection itself is He et al. 2015, arXiv:1512.03385.

    ```
    o, s' = cell(x, s)
    y = o + x
    ```

    Around each cell of a stack it lets gradients pass by: stacks of eight cells then train.

    Args:
        inner: The cell: any cell, a list of cells, or the name of a registered one. Its outputs
            must have the shapes of its inputs.
        units: Number of units of a cell that is given by its name.
        **kwargs: Options of `cellkit.Cell`: `dropout` on x, `zoneout`.

    Inputs: those of the cell. States: those of the cell. Output: y, in the shape of x.

    Raises:
        ValueError: If outputs and inputs of the cell have different shapes.

    Example:
    >>> import cellkit
    >>> deep = cellkit.RNN([ResidualCell("lstm", units=8) for _ in range(3)])
    >>> deep.compute_output_shape((None, 10, 8))
    (None, 8)
    """

    def build(self, input_shape: Any) -> None:
        """Build the cell, and compare what goes in with what comes out."""
        super().build(input_shape)
        check_widths(self, input_shape)

    def project(self, inputs: Any) -> Any:
        """Return the inputs, and what the cell makes of them alone."""
        return inputs, self.inside.prepare(inputs)

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance the cell, and add the inputs."""
        x, projected = projected
        o, states = self.inside.advance(projected, states)
        o = self.as_computed(o)
        return keras.tree.map_structure(lambda o, x: o + as_dtype(x, o.dtype), o, x), states


def check_widths(cell: CellWrapper, input_shape: Any) -> None:
    """Raise a three-part `ValueError` unless outputs have the shapes of the inputs.

    Args:
        cell: A wrapper whose cell is built.
        input_shape: Shape, or structure of shapes, of the inputs of one step.
    """
    output = cell.inside.output_shape(input_shape)
    into, out = ([s[1:] for s in _shapes(x)] for x in (input_shape, output))
    if into != out:
        raise problem(
            f"{type(cell).__name__} cannot add inputs to outputs of another shape.",
            received=f"inputs of one step with shapes (batch, ...) + {into}, outputs {out}",
            expected=f"as many numbers out of {type(cell.inner).__name__} as go into it",
            fix="make the cell as wide as its inputs, or bring the inputs to its width with a "
            "`keras.layers.Dense` before the layer",
        )


def _shapes(shapes: Any) -> list[tuple[int | None, ...]]:
    """Return the shapes of a structure, in the order in which Keras flattens it."""
    if isinstance(shapes, dict):
        return [s for key in sorted(shapes) for s in _shapes(shapes[key])]
    if all(size is None or isinstance(size, int) for size in shapes):
        return [tuple(shapes)]
    return [s for child in shapes for s in _shapes(child)]


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    o, states = known(config).step_alone(w, x, states)
    return o + x, states


ResidualCell.spec = CellSpec(
    guide=Guide(
        "wrapper",
        "Use it when a stack of cells is so deep that its lower cells stop learning.",
        ("depth", "wraps cells"),
    ),
    reference=reference,
    inputs=(4,),
    symbols=around(),
    cases={
        "default": {"inner": "lstm", "units": 4},
        "gru": {"inner": "gru", "units": 4},
        "stack": {"inner": ["gru", "simple_rnn"], "units": 4},
        "dropout": {"inner": "lstm", "units": 4, "dropout": 0.4, "seed": 1},
    },
    traits=TRAITS,
).completed(ResidualCell)
