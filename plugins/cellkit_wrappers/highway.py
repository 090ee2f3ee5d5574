"""A gate between the outputs of a cell and its inputs."""

from __future__ import annotations

from typing import Any

import keras

from cellkit.cells import CellWrapper, as_dtype, matmul, plus, vector_size
from cellkit.registry import CellSpec, Guide, rename
from cellkit.registry.reference import activation
from cellkit_wrappers._inside import TRAITS, around, known
from cellkit_wrappers.residual import check_widths


@keras.saving.register_keras_serializable(package="cellkit_wrappers")
class HighwayCell(CellWrapper):
    """Any cell, with a gate that lets its outputs or its inputs through.

    Paper: Srivastava, Greff and Schmidhuber 2015, "Highway Networks", arXiv:1505.00387.

    ```
    t = s(W_t @ x + b_t)            transform gate
    o, s' = cell(x, s)
    y = t * o + (1 - t) * x
    ```

    Args:
        inner: The cell: any cell, a list of cells, or the name of a registered one. Its output must
            be as wide as its input.
        units: Number of units of a cell that is given by its name.
        initial_gate_bias: Start of b_t. Default -1.0: at first the inputs pass by.
        **kwargs: Options of `cellkit.Cell`: `recurrent_activation` for t, `kernel_*` for W_t,
            `dropout` on x, `zoneout`.

    Inputs: `(batch, features)`. States: those of the cell. Output: y, in the shape of x.

    Raises:
        ValueError: If output and input of the cell have different widths.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(HighwayCell("gru", units=8))
    >>> layer.compute_output_shape((None, 10, 8))
    (None, 8)
    """

    def __init__(
        self,
        inner: Any,
        *,
        units: int | None = None,
        initial_gate_bias: float = -1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(inner, units=units, **kwargs)
        self.initial_gate_bias = float(initial_gate_bias)

    def build(self, input_shape: Any) -> None:
        """Build the cell, and create the gate."""
        super().build(input_shape)
        features = vector_size(self, input_shape)
        check_widths(self, input_shape)
        start = keras.initializers.Constant(self.initial_gate_bias)
        self.gate_kernel = self.add_kernel((features, features), "gate_kernel")
        self.gate_bias = self.add_bias((features,), "gate_bias", initializer=start)

    def project(self, inputs: Any) -> Any:
        """Return the inputs, the gate, and what the cell makes of the inputs alone."""
        x = as_dtype(inputs, self.compute_dtype)
        z = plus(matmul(x, self.gate_kernel), self.gate_bias)
        return x, self.recurrent_activation(z), self.inside.prepare(inputs)

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance the cell, and mix its output with the inputs."""
        x, t, projected = projected
        o, states = self.inside.advance(projected, states)
        return t * self.as_computed(o) + (1 - t) * x, states


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    bias = w["b_t"] if config["use_bias"] else 0
    t = activation(config["recurrent_activation"])(x @ w["W_t"] + bias)
    o, states = known(config).step_alone(w, x, states)
    return t * o + (1 - t) * x, states


HighwayCell.spec = CellSpec(
    guide=Guide(
        "wrapper",
        "Use it when a deep stack should learn at each unit whether a cell acts or steps aside.",
        ("depth", "wraps cells"),
    ),
    reference=reference,
    inputs=(4,),
    symbols=around(rename({"gate_kernel": "W_t"}) | rename({"gate_bias": "b_t"}, optional=True)),
    cases={
        "default": {"inner": "lstm", "units": 4},
        "gru": {"inner": "gru", "units": 4, "recurrent_activation": "hard_sigmoid"},
        "no_bias": {"inner": "simple_rnn", "units": 4, "use_bias": False},
        "dropout": {"inner": "lstm", "units": 4, "dropout": 0.4, "seed": 1},
    },
    traits=TRAITS,
    deviations=("The paper stacks layers that are no recurrent cells; a step of a cell is one.",),
).completed(HighwayCell)
