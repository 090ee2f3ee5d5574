"""The minimal GRU whose gate sees the input alone."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
import numpy as np

from cellkit.cells import LinearCell, matmul, plus, split, vector_size
from cellkit.registry import CellSpec, Guide, gate_blocks
from cellkit.registry.reference import activation, sigmoid


@keras.saving.register_keras_serializable(package="cellkit_linear")
def positive(x: Any) -> Any:
    """Return ``x + 0.5`` where x is not negative, else ``sigmoid(x)``: above zero and monotonic."""
    return keras.ops.where(x >= 0, x + 0.5, keras.activations.sigmoid(x))


class InputGatedCell(LinearCell):
    """Base class of cells with gates that are products of the input alone, side by side.

    Args:
        units: Number of units H.
        **kwargs: Options of `cellkit.LinearCell`.
    """

    gates: ClassVar[tuple[str, ...]] = ()

    def build(self, input_shape: Any) -> None:
        """Create `kernel` and `bias`, with one block per gate."""
        super().build(input_shape)
        width = len(self.gates) * self.units
        self.kernel = self.add_kernel((vector_size(self, input_shape), width))
        self.bias = self.add_bias((width,))

    def project(self, inputs: Any) -> Any:
        """Return ``inputs @ kernel + bias`` for all gates at once."""
        return plus(matmul(inputs, self.kernel), self.bias)


# By hand, since `activation` has a default of its own. As equations the cell computes the same, one
# operation for the other.
@keras.saving.register_keras_serializable(package="cellkit_linear")
class MinGRUCell(InputGatedCell):
    """The minimal GRU without a recurrent product: it trains in parallel over time.

    Paper: Feng et al. 2024, "Were RNNs All We Needed?", arXiv:2410.01201.

    ```
    z = s(W_z @ x + b_z)
    n = g(W_n @ x + b_n)
    g(v) = v + 0.5 if v >= 0 else sigmoid(v)
    h' = (1 - z) * h + z * n
    ```

    This is the form for which the paper gives code. It computes in the logarithm, so n must be
    positive, hence g; the cell needs no logarithm, and takes states of any sign. With
    `activation="linear"` it is the form of the paper's text, `n = W_n @ x`.

    Args:
        units: Number of units H.
        activation: Activation of the candidate. Default g, named `positive`, as in the paper's
            code.
        **kwargs: Options of `cellkit.LinearCell`: `recurrent_activation` for z.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`, float32 under a 16-bit
    policy. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(MinGRUCell(8), return_sequences=True)
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 10, 8)
    """

    gates: ClassVar[tuple[str, ...]] = ("z", "n")

    def __init__(self, units: int, *, activation: Any = positive, **kwargs: Any) -> None:
        super().__init__(units, activation=activation, **kwargs)

    def coefficients(self, projected: Any) -> tuple[Any, Any]:
        """Return how much is kept, and what is added."""
        z, n = split(projected, 2)
        z = self.recurrent_activation(z)
        return 1 - z, z * self.activation(n)


def numpy_activation(name: Any) -> Any:
    """Return the NumPy function of a candidate's activation, as it stands in a configuration."""
    if "positive" in str(name):  # a function, its name, or what Keras serialises it to
        return lambda v: np.where(v >= 0, v + 0.5, sigmoid(v))
    return activation(name)


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    (h,) = states
    z = activation(config["recurrent_activation"])(x @ w["W_z"] + w["b_z"])
    n = numpy_activation(config["activation"])(x @ w["W_n"] + w["b_n"])
    h = (1 - z) * h + z * n
    return h, [h]


MinGRUCell.spec = CellSpec(
    guide=Guide(
        "linear",
        "Use it when training has to be parallel over long sequences with a cell as simple as "
        "can be.",
        ("baseline", "tiny", "parallel", "long memory"),
    ),
    reference=reference,
    states=("h",),
    symbols=gate_blocks(["z", "n"], recurrent_kernel=None),
    more_cases={
        "linear": {"units": 3, "activation": "linear"},
        "no_bias": {"units": 2, "use_bias": False, "recurrent_activation": "hard_sigmoid"},
    },
    deviations=(
        "The paper's maps have no bias in its text; here they have one unless use_bias=False.",
        "The paper's code starts from g of the initial state; here the state is h itself.",
    ),
).completed(MinGRUCell)
