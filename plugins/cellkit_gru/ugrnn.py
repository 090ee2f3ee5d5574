"""The update gate recurrent network."""

from __future__ import annotations

from typing import Any, ClassVar

import keras

from cellkit.cells import GatedCell
from cellkit.registry import CellSpec, Guide


@keras.saving.register_keras_serializable(package="cellkit_gru")
class UGRNNCell(GatedCell):
    """The update gate recurrent network: a simple cell and one gate that decides how much it moves.

    Paper: Collins, Sohl-Dickstein and Sussillo 2016, "Capacity and Trainability in Recurrent
    Neural Networks", arXiv:1611.09913.

    ```
    g = s(W_g @ x + U_g @ h + b_g)          update gate
    n = tanh(W_n @ x + U_n @ h + b_n)       candidate
    h' = g * h + (1 - g) * n
    ```

    It is a GRU without reset gate. The weights have the gates in the order g, n;
    torchrecurrent has n, g.

    Args:
        units: Number of units H.
        unit_update_bias: True if the biases of the gate start at one. Default True: a new cell
            then keeps most of its state, for the reason that an LSTM's forget gate starts so.
        **kwargs: Options of `cellkit.Cell`: `activation` for n, `recurrent_activation` for g.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(UGRNNCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    gates: ClassVar[dict[str, str]] = {"g": "recurrent_activation", "n": "activation"}

    def __init__(self, units: int, *, unit_update_bias: bool = True, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        self.unit_update_bias = bool(unit_update_bias)

    def gate_bias_initializers(self) -> dict[str, Any]:
        """Start with a gate that keeps."""
        return {"g": "ones"} if self.unit_update_bias else {}

    def combine(self, gates: dict[str, Any], states: Any) -> tuple[Any, Any]:
        """Move from the old state towards the candidate."""
        g, n = gates["g"], gates["n"]
        h = g * states[0] + (1 - g) * n
        return h, [h]

    spec = CellSpec(
        guide=Guide(
            "gru", "Use it when one gate should decide how much a simple cell moves.", ("tiny",)
        ),
    )
