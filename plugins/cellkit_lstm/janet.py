"""JANET: an LSTM with its forget gate alone."""

from __future__ import annotations

from typing import Any, ClassVar

import keras

from cellkit.cells import matmul, split
from cellkit.registry import CellSpec, Guide
from cellkit_lstm._base import LSTMBase


@keras.saving.register_keras_serializable(package="cellkit_lstm")
class JANETCell(LSTMBase):
    """JANET, "just another network": an LSTM with its forget gate alone.

    Paper: van der Westhuizen and Lasenby 2018, "The unreasonable effectiveness of the forget gate",
    arXiv:1804.04849.

    ```
    a = W_f @ x + U_f @ h + b_f
    g = tanh(W_g @ x + U_g @ h + b_g)
    h' = s(a) * h + (1 - s(a - beta)) * g
    ```

    The paper's c and h are one and the same here: h' = c'. With beta above zero the cell takes in
    more than it forgets. torchrecurrent keeps the state twice, and learns beta.

    Args:
        units: Number of units H.
        beta: Excess of the input gate's opening over the forget gate's closing. Default 1.0, the
            paper's. With 0 the two are coupled.
        **kwargs: `unit_forget_bias` and `max_time` as in `LSTMBase`: the paper uses chrono
            initialisation, so pass `max_time` when you know how far the data reach back. Options of
            `cellkit.Cell`: `activation` for g, `recurrent_activation` for s.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(JANETCell(8, max_time=784), return_state=True)
    >>> layer.compute_output_shape((None, 784, 1))
    ((None, 8), (None, 8))
    """

    gates: ClassVar[dict[str, str]] = {"f": "recurrent_activation", "g": "activation"}

    def __init__(self, units: int, *, beta: float = 1.0, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        self.beta = float(beta)

    @property
    def state_size(self) -> int:
        """Size of h."""
        return self.units

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        h, s = states[0], self.recurrent_activation
        a, g = split(projected + matmul(self.drop(h), self.recurrent_kernel), 2)
        h = s(a) * h + (1 - s(a - self.beta)) * self.activation(g)
        return h, [h]

    spec = CellSpec(
        guide=Guide(
            "lstm",
            "Use it when dependencies are long and one gate should be enough.",
            ("tiny", "long memory"),
        ),
        more_cases={"chrono": {"units": 3, "max_time": 30, "beta": 0.5}},
        deviations=("torchrecurrent keeps the one state twice, and learns beta.",),
    )
