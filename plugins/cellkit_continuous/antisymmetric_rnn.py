"""The antisymmetric RNN."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells import Cell, matmul, number, plus, positive_number, vector_size
from cellkit.registry import CellSpec, Guide, custom, rename
from cellkit.registry.reference import activation
from cellkit_continuous._euler import antisymmetric


@keras.saving.register_keras_serializable(package="cellkit_continuous")
class AntisymmetricRNNCell(Cell):
    """The antisymmetric RNN: an ODE that neither damps nor amplifies, solved by Euler's method.

    Paper: Chang, Chen, Haber and Chi 2019, "AntisymmetricRNN: A Dynamical System View on Recurrent
    Neural Networks", arXiv:1902.09689, section 3.

    ```
    M = U - U^T - gamma * I
    h' = h + epsilon * tanh(M @ h + W @ x + b)
    ```

    Of U, only ``U - U^T`` has an effect, and one half of that is the weight: what stands above its
    diagonal, as a vector of H (H - 1) / 2 numbers.

    The eigenvalues of an antisymmetric matrix are imaginary, so the ODE keeps what it has seen, and
    gradients neither vanish nor explode. Euler's method alone would let the state grow; the
    diffusion gamma moves the eigenvalues to the left by as much as that takes.

    rnn_jax subtracts the number gamma where the paper has gamma * h: another cell unless gamma is
    zero.

    Args:
        units: Number of units H.
        epsilon: Length of an Euler step. Default 0.1: a step turns the state by a small angle, so
            that the method follows the ODE. torchrecurrent has 1.0.
        gamma: Diffusion, 0 or more. Default 0.01, of the size that the paper searches.
            torchrecurrent has none.
        recurrent_initializer: Initializer of U. It draws a whole matrix. Default: normal of
            variance 1 / H, as in the paper.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(AntisymmetricRNNCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    def __init__(
        self,
        units: int,
        *,
        epsilon: float = 0.1,
        gamma: float = 0.01,
        recurrent_initializer: Any = "lecun_normal",
        **kwargs: Any,
    ) -> None:
        super().__init__(units, recurrent_initializer=recurrent_initializer, **kwargs)
        self.epsilon = positive_number(type(self), "epsilon", epsilon)
        self.gamma = number(type(self), "gamma", gamma, at_least=0)

    def build(self, input_shape: Any) -> None:
        """Create `kernel`, `recurrent_kernel` (the half of M above its diagonal) and `bias`."""
        super().build(input_shape)
        self.add_weights(vector_size(self, input_shape), 1)

    def add_weights(self, features: int, blocks: int) -> None:
        """Create the weights for so many blocks of the input's product."""
        units = self.units
        draw = self.draw_apart(self.recurrent_initializer, (units, units))

        def half(shape: Any, dtype: Any = None) -> Any:
            whole = keras.ops.convert_to_numpy(draw((units, units), dtype=dtype))
            return keras.ops.convert_to_tensor(above(whole), dtype=dtype)

        self.kernel = self.add_kernel((features, blocks * units))
        shape = (units * (units - 1) // 2,)
        # One unit alone has nothing to be antisymmetric to.
        add = self.add_recurrent_kernel
        self.recurrent_kernel = add(shape, initializer=half) if units > 1 else None
        self.bias = self.add_bias((blocks * units,))

    def project(self, inputs: Any) -> Any:
        """Return ``W @ x + b``."""
        return plus(matmul(inputs, self.kernel), self.bias)

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        h = states[0]
        flow = antisymmetric(self.drop(h), self.recurrent_kernel) - self.gamma * h
        h = h + self.epsilon * self.activation(flow + projected)
        return h, [h]


def above(matrix: Any) -> Any:
    """Return what stands above the diagonal of ``U - U^T``, in NumPy."""
    return (matrix - matrix.T)[np.triu_indices(len(matrix), 1)]


def from_above(half: Any) -> Any:
    """Return a U of which `half` is what `above` gives: nothing on and below its diagonal."""
    units = round((1 + (1 + 8 * len(half)) ** 0.5) / 2)
    matrix = np.zeros((units, units), half.dtype)
    matrix[np.triu_indices(units, 1)] = half
    return matrix


def _to_symbols(weights: Any, config: Any) -> dict[str, Any]:
    if config["units"] == 1:
        return {"U": np.zeros((1, 1))}
    return {"U": from_above(weights["recurrent_kernel"])}


def _from_symbols(symbols: Any, config: Any) -> dict[str, Any]:
    half = above(symbols["U"])
    return {"recurrent_kernel": half} if half.size else {}


SYMBOLS = custom(to_symbols=_to_symbols, from_symbols=_from_symbols)


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    (h,) = states
    skew = w["U"] - w["U"].T
    flow = h @ skew - config["gamma"] * h + x @ w["W"] + w["b"]
    h = h + config["epsilon"] * activation(config["activation"])(flow)
    return h, [h]


AntisymmetricRNNCell.spec = CellSpec(
    guide=Guide(
        "continuous",
        "Use it when dependencies are long and one recurrent matrix is all you can afford.",
        ("long memory", "stable"),
    ),
    reference=reference,
    states=("h",),
    symbols=rename({"kernel": "W", "bias": "b"}) | SYMBOLS,
    more_cases={
        "undamped": {"units": 3, "epsilon": 1.0, "gamma": 0.0},
        "relu": {"units": 3, "gamma": 0.5, "activation": "relu"},
        "no_bias": {"units": 3, "use_bias": False},
    },
    deviations=("rnn_jax subtracts gamma where the paper has gamma * h.",),
).completed(AntisymmetricRNNCell)
