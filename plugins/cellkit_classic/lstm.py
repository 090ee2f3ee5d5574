"""Long short-term memory."""

from __future__ import annotations

from typing import Any, ClassVar

import keras

from cellkit.cells import GatedCell, StandardWeights, has_standard_activations
from cellkit.registry import CellSpec, Guide, Paper


@keras.saving.register_keras_serializable(package="cellkit_classic")
class LSTMCell(GatedCell):
    """The long short-term memory cell with a forget gate.

    Papers: Hochreiter and Schmidhuber 1997, "Long Short-Term Memory",
    doi:10.1162/neco.1997.9.8.1735; the forget gate from Gers, Schmidhuber and Cummins 2000,
    "Learning to Forget", doi:10.1162/089976600300015015.

    ```
    i = s(W_i @ x + U_i @ h + b_i)          input gate
    f = s(W_f @ x + U_f @ h + b_f)          forget gate
    g = tanh(W_g @ x + U_g @ h + b_g)       candidate
    o = s(W_o @ x + U_o @ h + b_o)          output gate
    c' = f * c + i * g
    h' = o * tanh(c')
    ```

    The weights are those of `keras.layers.LSTM`, with the gates in the order i, f, g, o.

    Args:
        units: Number of units H.
        unit_forget_bias: True if the biases of the forget gate start at one. Default True: a new
            cell then remembers (Jozefowicz et al. 2015).
        **kwargs: Options of `cellkit.Cell`: `activation` for g and the output,
            `recurrent_activation` for the gates.

    Inputs: `(batch, features)`. States: `[h, c]`, each `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(LSTMCell(8), return_state=True)
    >>> layer.compute_output_shape((None, 10, 3))
    ((None, 8), (None, 8), (None, 8))
    """

    gates: ClassVar[dict[str, str]] = {
        "i": "recurrent_activation",
        "f": "recurrent_activation",
        "g": "activation",
        "o": "recurrent_activation",
    }

    def __init__(self, units: int, *, unit_forget_bias: bool = True, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        self.unit_forget_bias = bool(unit_forget_bias)

    @property
    def state_size(self) -> list[int]:
        """Sizes of h and c."""
        return [self.units, self.units]

    def gate_bias_initializers(self) -> dict[str, Any]:
        """Start the forget gate open."""
        return {"f": "ones"} if self.unit_forget_bias else {}

    def combine(self, gates: dict[str, Any], states: Any) -> tuple[Any, Any]:
        """Update the cell state, and let out what the output gate allows."""
        c = gates["f"] * states[1] + gates["i"] * gates["g"]
        h = gates["o"] * self.activation(c)
        return h, [h, c]

    def standard(self) -> StandardWeights | None:
        """Return the weights where the activations are those of the standard LSTM."""
        if not has_standard_activations(self):
            return None
        return StandardWeights("lstm", self.kernel, self.recurrent_kernel, self.bias)

    spec = CellSpec(
        paper=Paper(
            "Hochreiter and Schmidhuber",
            1997,
            "Long Short-Term Memory",
            "doi:10.1162/neco.1997.9.8.1735",
        ),
        guide=Guide(
            "lstm",
            "Use it when you do not know yet which cell you need and have data for its four gates.",
            ("baseline",),
        ),
        more_traits={"equiv:LSTM"},
        deviations=(
            "The cell of 1997 has no forget gate; this is the form of Gers et al. (2000) that the "
            "name stands for today.",
        ),
    )
