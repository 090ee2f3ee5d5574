"""IntersectionRNN."""

from __future__ import annotations

from typing import Any, ClassVar

import keras

from cellkit.cells import GatedCell, vector_size
from cellkit.errors import problem
from cellkit.registry import CellSpec, Guide
from cellkit.registry.reference import activation, relu


@keras.saving.register_keras_serializable(package="cellkit_plain")
class IntersectionRNNCell(GatedCell):
    """The +RNN, or intersection RNN: a gate for the way through time, and one for depth.

    Paper: Collins, Sohl-Dickstein and Sussillo 2016, "Capacity and Trainability in Recurrent
    Neural Networks", arXiv:1611.09913.

    ```
    y~ = relu(W_y @ x + U_y @ h + b_y)         candidate of the output
    h~ = tanh(W_h @ x + U_h @ h + b_h)         candidate of the state
    p  = s(W_p @ x + U_p @ h + b_p)            gate of the output
    q  = s(W_q @ x + U_q @ h + b_q)            gate of the state
    y  = p * x + (1 - p) * y~
    h' = q * h + (1 - q) * h~
    ```

    A gate takes the output, which is not the state, from the input or from a candidate: inputs are
    as wide as the cell.

    Args:
        units: Number of units H.
        **kwargs: Options of `cellkit.Cell`: `activation` for the candidate of the state,
            `recurrent_activation` for the gates.

    Inputs: `(batch, units)`. States: `[h]` of shape `(batch, units)`. Output: `y` of shape
    `(batch, units)`.

    Raises:
        ValueError: If the inputs are not `units` wide.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(IntersectionRNNCell(8))
    >>> layer.compute_output_shape((None, 10, 8))
    (None, 8)
    """

    gates: ClassVar[dict[str, str]] = {
        "y": "output_activation",
        "h": "activation",
        "p": "recurrent_activation",
        "q": "recurrent_activation",
    }

    @property
    def output_activation(self) -> Any:
        """The function of the output's candidate."""
        return keras.activations.relu

    def build(self, input_shape: Any) -> None:
        """Check that inputs are as wide as the cell, and create the weights."""
        features = vector_size(self, input_shape)
        if features != self.units:
            raise problem(
                "An IntersectionRNNCell takes inputs as wide as itself.",
                received=f"{features} features for units={self.units}",
                expected="as many features as units: the output is in part the input",
                fix=f"make the cell with units={features}, or put a `keras.layers.Dense"
                f"({self.units})` in front of it",
            )
        super().build(input_shape)

    def project(self, inputs: Any) -> Any:
        """Return the products of the inputs, and the inputs themselves."""
        return super().project(inputs), inputs

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Take the output from the input where its gate is open."""
        products, x = projected
        (p, y), new = super().step(products, states)
        return p * x + (1 - p) * y, new

    def combine(self, gates: dict[str, Any], states: Any) -> tuple[Any, Any]:
        """Move the state, and hand on what the output is made of."""
        h = gates["q"] * states[0] + (1 - gates["q"]) * gates["h"]
        return (gates["p"], gates["y"]), [h]


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    (h,) = states
    s, tanh = activation(config["recurrent_activation"]), activation(config["activation"])
    a = {k: x @ w[f"W_{k}"] + h @ w[f"U_{k}"] + w[f"b_{k}"] for k in "yhpq"}
    p, q = s(a["p"]), s(a["q"])
    y = p * x + (1 - p) * relu(a["y"])
    return y, [q * h + (1 - q) * tanh(a["h"])]


IntersectionRNNCell.spec = CellSpec(
    guide=Guide(
        "plain",
        "Use it when many recurrent layers are stacked and gradients must find a way through "
        "depth.",
        ("depth",),
    ),
    reference=reference,
    inputs=(4,),
    states=("h",),
    cases={
        "default": {"units": 4},
        "softsign": {"units": 4, "activation": "softsign", "recurrent_activation": "hard_sigmoid"},
        "no_bias": {"units": 4, "use_bias": False},
        "dropout": {"units": 4, "dropout": 0.4, "recurrent_dropout": 0.3, "seed": 1},
    },
).completed(IntersectionRNNCell)
