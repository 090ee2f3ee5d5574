"""The antisymmetric RNN with an input gate."""

from __future__ import annotations

from typing import Any

import keras

from cellkit.cells import split, vector_size
from cellkit.registry import CellSpec, Guide, gate_blocks
from cellkit.registry.reference import activation
from cellkit_continuous._euler import antisymmetric
from cellkit_continuous.antisymmetric_rnn import SYMBOLS, AntisymmetricRNNCell


@keras.saving.register_keras_serializable(package="cellkit_continuous")
class GatedAntisymmetricRNNCell(AntisymmetricRNNCell):
    """The antisymmetric RNN with a gate that says how far each unit moves.

    Paper: Chang, Chen, Haber and Chi 2019, "AntisymmetricRNN: A Dynamical System View on Recurrent
    Neural Networks", arXiv:1902.09689, section 3.3.

    ```
    M = U - U^T - gamma * I
    z = s(M @ h + W_z @ x + b_z)
    h' = h + epsilon * z * tanh(M @ h + W_n @ x + b_n)
    ```

    The gate has no recurrent matrix of its own: it shares M, so that the Jacobian keeps its
    eigenvalues near the imaginary axis.

    Args:
        units: Number of units H.
        **kwargs: `epsilon`, `gamma` and `recurrent_initializer` as in `AntisymmetricRNNCell`, with
            its defaults, and options of `cellkit.Cell`: `recurrent_activation` for z.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(GatedAntisymmetricRNNCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    def build(self, input_shape: Any) -> None:
        """Create `kernel` and `bias` for gate and candidate, and the one `recurrent_kernel`."""
        super(AntisymmetricRNNCell, self).build(input_shape)
        self.add_weights(vector_size(self, input_shape), 2)

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        h = states[0]
        x_z, x_n = split(projected, 2)
        flow = antisymmetric(self.drop(h), self.recurrent_kernel) - self.gamma * h
        z = self.recurrent_activation(flow + x_z)
        h = h + self.epsilon * z * self.activation(flow + x_n)
        return h, [h]


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    (h,) = states
    s, tanh = activation(config["recurrent_activation"]), activation(config["activation"])
    skew = w["U"] - w["U"].T
    flow = h @ skew - config["gamma"] * h
    z = s(flow + x @ w["W_z"] + w["b_z"])
    h = h + config["epsilon"] * z * tanh(flow + x @ w["W_n"] + w["b_n"])
    return h, [h]


GatedAntisymmetricRNNCell.spec = CellSpec(
    guide=Guide(
        "continuous",
        "Use it when dependencies are long and single units have to hold still while others move.",
        ("long memory", "stable"),
    ),
    reference=reference,
    states=("h",),
    symbols=gate_blocks(["z", "n"], recurrent_kernel=None) | SYMBOLS,
    more_cases={
        "undamped": {"units": 3, "epsilon": 1.0, "gamma": 0.0},
        "relu": {
            "units": 3,
            "gamma": 0.5,
            "activation": "relu",
            "recurrent_activation": "hard_sigmoid",
        },
        "no_bias": {"units": 3, "use_bias": False},
    },
    deviations=(
        "torchrecurrent leaves its recurrent bias out of the gate, which has one of the input's.",
    ),
).completed(GatedAntisymmetricRNNCell)
