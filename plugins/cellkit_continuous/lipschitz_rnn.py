"""The Lipschitz RNN."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells import Cell, matmul, number, plus, positive_number, vector_size
from cellkit.errors import problem
from cellkit.registry import CellSpec, Guide, rename
from cellkit.registry.reference import activation
from cellkit_continuous._euler import mixed


@keras.saving.register_keras_serializable(package="cellkit_continuous")
class LipschitzRNNCell(Cell):
    """The Lipschitz RNN: an ODE with a linear and a bounded part, both stable by construction.

    Paper: Erichson, Azencot, Queiruga, Hodgkinson and Mahoney 2021, "Lipschitz Recurrent Neural
    Networks", arXiv:2006.12070, sections 3 and 5.

    ```
    A = (1 - beta) * (M_A + M_A^T) + beta * (M_A - M_A^T) - gamma * I
    W = (1 - beta) * (M_W + M_W^T) + beta * (M_W - M_W^T) - gamma * I
    h' = h + epsilon * (A @ h + tanh(W @ h + U @ x + b))
    ```

    beta says how antisymmetric the matrices are, gamma how much they damp: together they bound
    their eigenvalues, and with them how fast states and gradients can grow. Steps are Euler's.

    rnn_jax takes the tanh from the step before: another cell.

    Args:
        units: Number of units H.
        epsilon: Length of an Euler step. Default 0.1. The authors' code has 0.01, for sequences of
            hundreds of steps; shorter ones need longer steps.
        beta: From 0 (symmetric) to 1 (antisymmetric). Default 0.8, as in the authors' code.
        gamma: Damping, 0 or more. Default 0.01, as in the authors' code.
        recurrent_initializer: Initializer of M_A and M_W. Default: normal of deviation 1 / H, as in
            the authors' code.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(LipschitzRNNCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    def __init__(
        self,
        units: int,
        *,
        epsilon: float = 0.1,
        beta: float = 0.8,
        gamma: float = 0.01,
        recurrent_initializer: Any = None,
        **kwargs: Any,
    ) -> None:
        if recurrent_initializer is None and isinstance(units, int) and units > 0:
            recurrent_initializer = keras.initializers.RandomNormal(stddev=1.0 / units)
        super().__init__(units, recurrent_initializer=recurrent_initializer, **kwargs)
        self.epsilon = positive_number(type(self), "epsilon", epsilon)
        self.beta = number(type(self), "beta", beta, at_least=0)
        self.gamma = number(type(self), "gamma", gamma, at_least=0)
        if self.beta > 1:
            raise problem(
                "`beta` of LipschitzRNNCell is out of its range.",
                received=f"beta={beta!r}",
                expected="a number from 0 (symmetric) to 1 (antisymmetric)",
                fix="leave `beta` out for its default",
            )

    def build(self, input_shape: Any) -> None:
        """Create `kernel` (U), `linear_kernel` (M_A), `recurrent_kernel` (M_W) and `bias`."""
        super().build(input_shape)
        square = (self.units, self.units)
        self.kernel = self.add_kernel((vector_size(self, input_shape), self.units))
        self.linear_kernel = self.add_recurrent_kernel(square, "linear_kernel")
        self.recurrent_kernel = self.add_recurrent_kernel(square)
        self.bias = self.add_bias((self.units,))

    def project(self, inputs: Any) -> Any:
        """Return ``U @ x + b``."""
        return plus(matmul(inputs, self.kernel), self.bias)

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        h, dropped = states[0], self.drop(states[0])
        damping = self.gamma * h
        linear = mixed(dropped, self.linear_kernel, self.beta) - damping
        a = mixed(dropped, self.recurrent_kernel, self.beta) - damping + projected
        h = h + self.epsilon * (linear + self.activation(a))
        return h, [h]


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    (h,) = states
    beta, gamma = config["beta"], config["gamma"]

    def stable(m: Any) -> Any:
        return (1 - beta) * (m + m.T) + beta * (m - m.T) - gamma * np.eye(len(m))

    tanh = activation(config["activation"])
    change = h @ stable(w["M_A"]) + tanh(h @ stable(w["M_W"]) + x @ w["U"] + w["b"])
    h = h + config["epsilon"] * change
    return h, [h]


LipschitzRNNCell.spec = CellSpec(
    guide=Guide(
        "continuous",
        "Use it when long dependencies and robustness to noise in the inputs both count.",
        ("long memory", "stable"),
    ),
    reference=reference,
    states=("h",),
    symbols=rename({"kernel": "U", "linear_kernel": "M_A", "recurrent_kernel": "M_W", "bias": "b"}),
    more_cases={
        "symmetric": {"units": 3, "beta": 0.25, "gamma": 0.0, "epsilon": 0.5},
        "relu": {"units": 3, "gamma": 0.5, "activation": "relu"},
        "no_bias": {"units": 3, "use_bias": False},
    },
    deviations=(
        "The paper may give A and W a beta and a gamma each; here, as in the authors' code, they "
        "share them.",
        "rnn_jax takes the tanh from the step before.",
    ),
).completed(LipschitzRNNCell)
