"""The layer-normalised simple recurrent cell."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
import numpy as np

from cellkit.cells import GatedCell, matmul, normalize
from cellkit.errors import problem
from cellkit.registry import CellSpec, Paper, rename
from cellkit.registry.reference import activation


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
        number = isinstance(epsilon, (int, float)) and not isinstance(epsilon, bool)
        if not number or not epsilon > 0:
            raise problem(
                "`epsilon` of LayerNormSimpleRNNCell is not a positive number.",
                received=f"epsilon={epsilon!r}",
                expected="a number above 0",
                fix="leave it out for 1e-5",
            )
        self.epsilon = float(epsilon)

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
        h = self.activation(normed if self.bias is None else normed + self.bias)
        return h, [h]


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equation."""
    (h,) = states
    v = x @ w["W"] + h @ w["U"]
    deviation = np.sqrt(v.var(axis=-1, keepdims=True) + config["epsilon"])
    normed = (v - v.mean(axis=-1, keepdims=True)) / deviation
    h = activation(config["activation"])(w["gamma"] * normed + w["b"])
    return h, [h]


def configure(hyper: Any, arrays: Any) -> dict[str, Any]:
    """Read the options of a frozen file."""
    given = {name: hyper[name] for name in ("epsilon", "activation") if name in hyper}
    return {"units": int(arrays["w.U"].shape[-1]), "use_bias": "w.b" in arrays, **given}


LayerNormSimpleRNNCell.spec = CellSpec(
    reference=reference,
    inputs=("features",),
    cases={
        "default": {"units": 4},
        "relu": {"units": 3, "activation": "relu", "epsilon": 1e-3},
        "no_bias": {"units": 3, "use_bias": False, "activation": "sigmoid"},
        "dropout": {"units": 4, "dropout": 0.4, "recurrent_dropout": 0.3, "seed": 1},
    },
    paper=Paper("Ba, Kiros and Hinton", 2016, "Layer Normalization", "arXiv:1607.06450"),
    symbols=rename({"kernel": "W", "recurrent_kernel": "U", "bias": "b", "gamma": "gamma"}),
    traits=frozenset({"masking", "stateful", "dropout", "recurrent_dropout", "zoneout"}),
    # A rounding error is divided by the standard deviation of the units, which of the four here may
    # be a quarter, and smaller weights don't damp it: they are normalised away.
    tolerance=4.0,
    states=("h",),
    configure=configure,
)
