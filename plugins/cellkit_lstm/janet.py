"""JANET: an LSTM with its forget gate alone."""

from __future__ import annotations

from typing import Any, ClassVar

import keras

from cellkit.cells import matmul, split
from cellkit.registry import CellSpec, Paper, gate_blocks
from cellkit.registry.reference import activation
from cellkit_lstm._base import LSTMBase, from_file


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
        beta: How much further the input is open than the forget gate is closed. Default 1.0, the
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


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    h, s = states[0], activation(config["recurrent_activation"])
    a = x @ w["W_f"] + h @ w["U_f"] + w["b_f"]
    g = activation(config["activation"])(x @ w["W_g"] + h @ w["U_g"] + w["b_g"])
    h = s(a) * h + (1 - s(a - config["beta"])) * g
    return h, [h]


def configure(hyper: Any, arrays: Any) -> dict[str, Any]:
    """Read the options of a frozen file."""
    return from_file(hyper, arrays, "beta")


JANETCell.spec = CellSpec(
    reference=reference,
    inputs=("features",),
    cases={
        "default": {"units": 4},
        "chrono": {"units": 3, "max_time": 30, "beta": 0.5},
        "relu": {"units": 3, "activation": "relu", "recurrent_activation": "hard_sigmoid"},
        "no_bias": {"units": 2, "use_bias": False},
        "dropout": {"units": 4, "dropout": 0.4, "recurrent_dropout": 0.3, "seed": 1},
    },
    paper=Paper(
        "van der Westhuizen and Lasenby",
        2018,
        "The unreasonable effectiveness of the forget gate",
        "arXiv:1804.04849",
    ),
    symbols=gate_blocks(["f", "g"]),
    traits=frozenset({"masking", "stateful", "dropout", "recurrent_dropout", "zoneout"}),
    deviations=("torchrecurrent keeps the one state twice, and learns beta.",),
    states=("h",),
    configure=configure,
)
