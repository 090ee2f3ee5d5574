"""The layer-normalised simple recurrent cell."""

from __future__ import annotations

from typing import Any, ClassVar

import keras

from cellkit.cells import GatedCell, matmul, normalize, plus, positive_number
from cellkit.registry import CellSpec, Guide, rename


@keras.saving.register_keras_serializable(package="cellkit_norm")
class LayerNormSimpleRNNCell(GatedCell):
    """The simple recurrent cell with layer normalisation.

    Paper: Ba, Kiros and Hinton 2016, "Layer Normalization", arXiv:1607.06450, section 3.1.

    ```
    norm(v) = (v - mean(v)) / sqrt(var(v) + epsilon)
    h' = tanh(gamma * norm(W @ x + U @ h) + b)
    ```

    One norm over the sum of both products, and the bias b after it in the place of its shift, as in
    the paper and in TensorFlow Addons.

    Args:
        units: Number of units H. A norm needs at least two numbers to say anything.
        epsilon: Added to the variance. Default 1e-5, as in TensorFlow Addons; the paper gives none.
        **kwargs: Options of `cellkit.Cell`; `activation` is the one of the equation.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(LayerNormSimpleRNNCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    gates: ClassVar[dict[str, str]] = {"h": "activation"}

    def __init__(self, units: int, *, epsilon: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        self.epsilon = positive_number(type(self), "epsilon", epsilon)

    def build(self, input_shape: Any) -> None:
        """Create the weights of the simple cell, and the scale `gamma`."""
        super().build(input_shape)
        self.gamma = self.add_weight(shape=(self.units,), initializer="ones", name="gamma")

    def project(self, inputs: Any) -> Any:
        """Return the product with the inputs; the bias comes after the norm."""
        return matmul(inputs, self.kernel)

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        total = projected + matmul(self.drop(states[0]), self.recurrent_kernel)
        normed = self.gamma * normalize(total, self.epsilon)
        h = self.activation(plus(normed, self.bias))
        return h, [h]

    spec = CellSpec(
        guide=Guide(
            "plain",
            "Use it when a simple cell has to run over long sequences without its magnitudes "
            "drifting.",
            ("normalised",),
        ),
        symbols=rename({"kernel": "W", "recurrent_kernel": "U", "bias": "b", "gamma": "gamma"}),
        more_cases={
            "relu": {"units": 3, "activation": "relu", "epsilon": 1e-3},
            "no_bias": {"units": 3, "use_bias": False, "activation": "sigmoid"},
        },
        # A rounding error is divided by the standard deviation of the units, which of the four here
        # may be a quarter, and smaller weights don't damp it: they are normalised away.
        tolerance=4.0,
    )
