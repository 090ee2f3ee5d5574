"""A state of a cell that the inputs choose: its factorised form."""

from __future__ import annotations

from typing import Any

import keras

from cellkit.cells import CellWrapper, as_dtype, matmul, vector_size
from cellkit.errors import problem
from cellkit.registry import CellSpec, Guide, rename
from cellkit_wrappers._inside import TRAITS, around, known


@keras.saving.register_keras_serializable(package="cellkit_wrappers")
class MultiplicativeCell(CellWrapper):
    """Any cell, whose first state enters the step multiplied with a function of the inputs.

    Paper: Krause, Murray, Renals and Lu 2016, "Multiplicative LSTM for Sequence Modelling",
    arXiv:1609.07959.

    ```
    m = (W_m @ x) * (U_m @ h)           h is the first state
    o, s' = cell(x, [m, c, ...])        m in the place of h, the other states as they are
    ```

    Every input then has transitions of its own. Around an LSTM this is the paper's cell.

    Args:
        inner: The cell: any cell, a list of cells, or the name of a registered one. Its first state
            must be a vector.
        units: Number of units of a cell that is given by its name.
        **kwargs: Options of `cellkit.Cell`: `kernel_*` for W_m, `recurrent_*` for U_m, `dropout` on
            x, `zoneout`.

    Inputs: `(batch, features)`. States: those of the cell. Output: that of the cell.

    Raises:
        ValueError: If the first state is not a vector.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(MultiplicativeCell("lstm", units=8), return_state=True)
    >>> layer.compute_output_shape((None, 10, 3))
    ((None, 8), (None, 8), (None, 8))
    """

    def build(self, input_shape: Any) -> None:
        """Build the cell, and create W_m and U_m."""
        super().build(input_shape)
        features = vector_size(self, input_shape)
        first = keras.tree.flatten(self.state_spec())[0]
        if len(first.shape) != 1 or not keras.backend.is_float_dtype(first.dtype):
            raise problem(
                f"{type(self).__name__} needs a vector of real numbers to multiply.",
                received=f"{type(self.inner).__name__}, whose first state has shape (batch, "
                f"{', '.join(map(str, first.shape))}) and dtype {first.dtype}",
                expected="a cell whose first state is (batch, units), in a floating dtype",
                fix="take a cell such as an LSTM or a GRU",
            )
        (width,) = first.shape
        self.multiplying_kernel = self.add_kernel((features, width), "multiplying_kernel")
        self.multiplied_kernel = self.add_recurrent_kernel((width, width), "multiplied_kernel")

    def project(self, inputs: Any) -> Any:
        """Return the factor of the inputs, and what the cell makes of them alone."""
        x = as_dtype(inputs, self.compute_dtype)
        return matmul(x, self.multiplying_kernel), self.inside.prepare(inputs)

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Multiply the first state, and advance the cell from there."""
        factor, projected = projected
        h, *others = keras.tree.flatten(states)
        m = factor * matmul(as_dtype(h, self.compute_dtype), self.multiplied_kernel)
        return self.inside.advance(
            projected, keras.tree.pack_sequence_as(states, [as_dtype(m, h.dtype), *others])
        )


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    h, *others = states
    m = (x @ w["W_m"]) * (h @ w["U_m"])
    return known(config).step_alone(w, x, [m, *others])


MultiplicativeCell.spec = CellSpec(
    guide=Guide(
        "wrapper",
        "Use it when each input should have transitions of its own, as characters of text have.",
        ("language", "wraps cells"),
    ),
    reference=reference,
    symbols=around(rename({"multiplying_kernel": "W_m", "multiplied_kernel": "U_m"})),
    cases={
        "default": {"inner": "lstm", "units": 4},
        "gru": {"inner": "gru", "units": 3},
        "dropout": {"inner": "simple_rnn", "units": 4, "dropout": 0.4, "seed": 1},
    },
    traits=TRAITS,
    deviations=(
        "The paper replaces h in the recurrent products; a cell that uses h elsewhere too, as a "
        "GRU carries it on, sees m there as well.",
    ),
).completed(MultiplicativeCell)
