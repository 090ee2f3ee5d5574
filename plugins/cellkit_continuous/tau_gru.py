"""The GRU with delayed feedback."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells import Cell, TensorSpec, matmul, plus, positive_int, split, vector_size
from cellkit.errors import problem
from cellkit.registry import CellSpec, Guide, blocks, gate_blocks, rename
from cellkit.registry.reference import activation


@keras.saving.register_keras_serializable(package="cellkit_continuous")
class TauGRUCell(Cell):
    """tau-GRU: a GRU whose candidate hears, through a gate, what the state was `delay` steps ago.

    Paper: Erichson, Lim and Mahoney 2022, "Gated Recurrent Neural Networks with Weighted Time-Delay
    Feedback", arXiv:2212.00228, section 3.

    ```
    u = tanh(W_u @ x + U_u @ h + b_u)              candidate of now
    z = tanh(W_z @ x + U_z @ h_d + b_z)            candidate of d = delay steps before
    g = s(W_g @ x + U_g @ h + b_g)                 how far the state moves
    a = s(W_a @ x + U_a @ h + b_a)                 how much of the delayed candidate enters
    h' = (1 - g) * h + g * (u + a * z)
    ```

    It discretises a delay differential equation. The way through the delayed candidate is `delay`
    times shorter for gradients, which is how the cell learns long dependencies. States before the
    first are zero; a step that is masked delays nothing.

    Args:
        units: Number of units H.
        delay: d, in steps, 1 or more. Default 4. The paper tunes it for each task, up to dozens of
            steps: about the distance over which something has to be remembered.
        **kwargs: Options of `cellkit.Cell`: `activation` for u and z, `recurrent_activation` for g
            and a. There is no `zoneout`, which would hold back the delay line too.

    Inputs: `(batch, features)`. States: `[h, past]` of shapes `(batch, units)` and
    `(batch, delay, units)`, the states before, oldest first. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(TauGRUCell(8, delay=3), return_state=True)
    >>> layer.compute_output_shape((None, 10, 3))
    ((None, 8), (None, 8), (None, 3, 8))
    """

    def __init__(self, units: int, *, delay: int = 4, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        self.delay = positive_int(type(self), "delay", delay)
        if self.zoneout:
            raise problem(
                "TauGRUCell has no zoneout.",
                received=f"zoneout={self.zoneout}",
                expected="zoneout=0.0: the states of the delay line must move on at every step",
                fix="use `recurrent_dropout`",
            )

    @property
    def state_size(self) -> list[Any]:
        """Sizes of h and of the delay line."""
        return [TensorSpec((self.units,)), TensorSpec((self.delay, self.units))]

    @property
    def output_size(self) -> int:
        """Width of the output: `units`."""
        return int(self.units)

    def build(self, input_shape: Any) -> None:
        """Create `kernel`, `recurrent_kernel`, `delay_kernel` and `bias`."""
        super().build(input_shape)
        self.kernel = self.add_kernel((vector_size(self, input_shape), 4 * self.units))
        self.recurrent_kernel = self.add_recurrent_kernel((self.units, 3 * self.units))
        self.delay_kernel = self.add_recurrent_kernel((self.units, self.units), "delay_kernel")
        self.bias = self.add_bias((4 * self.units,))

    def project(self, inputs: Any) -> Any:
        """Return ``W @ x + b`` for all gates at once."""
        return plus(matmul(inputs, self.kernel), self.bias)

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        h, past = states
        x_u, x_z, x_g, x_a = split(projected, 4)
        h_u, h_g, h_a = split(matmul(self.drop(h), self.recurrent_kernel), 3)
        delayed = matmul(self.drop(past[:, 0], "past"), self.delay_kernel)
        u, z = self.activation(x_u + h_u), self.activation(x_z + delayed)
        g, a = self.recurrent_activation(x_g + h_g), self.recurrent_activation(x_a + h_a)
        new = (1 - g) * h + g * (u + a * z)
        return new, [new, keras.ops.concatenate([past[:, 1:], h[:, None]], axis=1)]


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    h, past = states
    s, tanh = activation(config["recurrent_activation"]), activation(config["activation"])
    u = tanh(x @ w["W_u"] + h @ w["U_u"] + w["b_u"])
    z = tanh(x @ w["W_z"] + past[:, 0] @ w["U_z"] + w["b_z"])
    g = s(x @ w["W_g"] + h @ w["U_g"] + w["b_g"])
    a = s(x @ w["W_a"] + h @ w["U_a"] + w["b_a"])
    new = (1 - g) * h + g * (u + a * z)
    return new, [new, np.concatenate([past[:, 1:], h[:, None]], axis=1)]


TauGRUCell.spec = CellSpec(
    guide=Guide(
        "continuous",
        "Use it when what matters happened a known number of steps ago.",
        ("long memory",),
    ),
    reference=reference,
    states=("h", "past"),
    symbols=gate_blocks(["u", "z", "g", "a"], recurrent_kernel=None)
    | blocks("recurrent_kernel", ["U_u", "U_g", "U_a"])
    | rename({"delay_kernel": "U_z"}),
    cases={
        "default": {"units": 4},
        "short": {"units": 3, "delay": 1},
        "softsign": {
            "units": 3,
            "delay": 2,
            "activation": "softsign",
            "recurrent_activation": "hard_sigmoid",
        },
        "no_bias": {"units": 3, "delay": 2, "use_bias": False},
        "dropout": {"units": 4, "delay": 2, "dropout": 0.4, "recurrent_dropout": 0.3, "seed": 1},
    },
    traits={"masking", "stateful", "dropout", "recurrent_dropout"},
).completed(TauGRUCell)
