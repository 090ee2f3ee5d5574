"""The Legendre memory unit."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from cellkit.cells import Cell, TensorSpec, matmul, plus, positive_int, positive_number, vector_size
from cellkit.registry import CellSpec, Guide, Paper, rename
from cellkit.registry.reference import activation


@keras.saving.register_keras_serializable(package="cellkit_memory")
class LMUCell(Cell):
    """The Legendre memory unit: a linear memory holds the last `theta` steps of a signal.

    Paper: Voelker, Kajic and Eliasmith 2019, "Legendre Memory Units: Continuous-Time Representation
    in Recurrent Neural Networks", NeurIPS 2019, https://papers.nips.cc/paper/9689, section 2.

    ```
    u  = e_x @ x + e_h @ h + e_m @ m               what is written
    m' = Ad @ m + Bd @ u                           the memory
    h' = tanh(W_x @ x + W_h @ h + W_m @ m' + b)
    ```

    m holds the coefficients of Legendre polynomials for u over the last `theta` steps: the more of
    them, the finer. Ad and Bd are not trained. They come from

    ```
    A_ij = (2 i + 1) / theta * (-1 if i < j else (-1)^(i - j + 1));  B_i = (2 i + 1) (-1)^i / theta
    ```

    by zero-order hold over one step.

    Args:
        units: Number of units H.
        order: Number of coefficients. Default 16. The paper has 4 to 256: at least as many as the
            signal turns round within `theta` steps.
        theta: Length of the window, in steps. Default 64.0. Choose it as long as the dependencies
            in the data; the memory knows nothing older.
        memory_d: Number of signals, each with a memory. Default 1, as in the paper; keras-lmu has
            it too.
        use_bias: True for a bias b. Default False, as in the paper.
        recurrent_initializer: Initializer of W_h. Default `"glorot_normal"`, as in the paper; so
            are the others: Glorot's for W_x and W_m, LeCun's uniform one for e_x and e_h, and
            zeros for e_m.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[h, m]` of shapes `(batch, units)` and
    `(batch, memory_d * order)`, one signal after the other. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(LMUCell(8, order=6, theta=20.0), return_state=True)
    >>> layer.compute_output_shape((None, 10, 3))
    ((None, 8), (None, 8), (None, 6))
    """

    def __init__(
        self,
        units: int,
        *,
        order: int = 16,
        theta: float = 64.0,
        memory_d: int = 1,
        use_bias: bool = False,
        kernel_initializer: Any = "glorot_normal",
        recurrent_initializer: Any = "glorot_normal",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            units,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            recurrent_initializer=recurrent_initializer,
            **kwargs,
        )
        self.order = positive_int(type(self), "order", order)
        self.theta = positive_number(type(self), "theta", theta)
        self.memory_d = positive_int(type(self), "memory_d", memory_d)

    @property
    def state_size(self) -> list[TensorSpec]:
        """Sizes of h and of the memory."""
        return [TensorSpec((self.units,)), TensorSpec((self.memory_d * self.order,))]

    @property
    def output_size(self) -> int:
        """Width of the output: `units`."""
        return int(self.units)

    def build(self, input_shape: Any) -> None:
        """Create the encoders, the kernels, and the fixed memory."""
        super().build(input_shape)
        features, size = vector_size(self, input_shape), self.memory_d * self.order
        lecun = {"initializer": "lecun_uniform"}
        self.input_encoder = self.add_kernel((features, self.memory_d), "input_encoder", **lecun)
        self.hidden_encoder = self.add_recurrent_kernel(
            (self.units, self.memory_d), "hidden_encoder", **lecun
        )
        self.memory_encoder = self.add_recurrent_kernel(
            (size, self.memory_d), "memory_encoder", initializer="zeros"
        )
        self.kernel = self.add_kernel((features, self.units))
        self.recurrent_kernel = self.add_recurrent_kernel((self.units, self.units))
        self.memory_kernel = self.add_recurrent_kernel((size, self.units), "memory_kernel")
        self.bias = self.add_bias((self.units,))
        transition, drive = zero_order_hold(*legendre(self.order, self.theta))

        def fixed(values: Any) -> Any:
            return lambda shape, dtype=None: keras.ops.convert_to_tensor(values, dtype=dtype)

        self.transition = self.add_weight(
            shape=(self.order, self.order),
            name="transition",
            initializer=fixed(transition.T),
            trainable=False,
        )
        self.drive = self.add_weight(
            shape=(1, self.order), name="drive", initializer=fixed(drive[None]), trainable=False
        )

    def project(self, inputs: Any) -> Any:
        """Return what the inputs write, and what they bring to the units."""
        a = matmul(inputs, self.kernel)
        return matmul(inputs, self.input_encoder), plus(a, self.bias)

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        (x_u, x_h), (h, m) = projected, states
        dropped = self.drop(h)
        u = x_u + matmul(dropped, self.hidden_encoder) + matmul(m, self.memory_encoder)
        m = self.remember(u, m)
        a = x_h + matmul(dropped, self.recurrent_kernel) + matmul(m, self.memory_kernel)
        h = self.activation(a)
        return h, [h, m]

    def remember(self, u: Any, m: Any) -> Any:
        """Return the memory after u has been written."""
        if self.memory_d == 1:
            return matmul(m, self.transition) + matmul(u, self.drive)
        signals = keras.ops.reshape(m, (-1, self.order))
        written = keras.ops.reshape(u, (-1, 1))
        new = matmul(signals, self.transition) + matmul(written, self.drive)
        return keras.ops.reshape(new, (-1, self.memory_d * self.order))


def legendre(order: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """Return A and B of the system that delays its input by up to `theta`, in float64.

    Args:
        order: Number of coefficients.
        theta: Length of the window.
    """
    i, j = np.ogrid[:order, :order]
    signs = np.where(i < j, -1.0, (-1.0) ** (i - j + 1))
    scale = (2 * np.arange(order) + 1) / theta
    return scale[:, None] * signs, scale * (-1.0) ** np.arange(order)


def zero_order_hold(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the system ``m' = A m + B u`` after one time step in which u is constant.

    Args:
        a: A, square.
        b: B, a vector.
    """
    size = len(b)
    joined = np.zeros((size + 1, size + 1))
    joined[:size, :size], joined[:size, size] = a, b
    # The exponential by its series, of a matrix halved until its norm is small, then squared back.
    halvings = max(0, math.ceil(math.log2(max(np.abs(joined).sum(axis=1).max(), 1e-300))) + 4)
    joined /= 2.0**halvings
    term = result = np.eye(size + 1)
    for k in range(1, 16):
        term = term @ joined / k
        result = result + term
    for _ in range(halvings):
        result = result @ result
    return result[:size, :size], result[:size, size]


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    h, m = states
    u = x @ w["e_x"] + h @ w["e_h"] + m @ w["e_m"]
    signals = m.reshape(len(m), config["memory_d"], config["order"])
    m = (signals @ w["Ad"] + u[:, :, None] * w["Bd"]).reshape(m.shape)
    tanh = activation(config["activation"])
    h = tanh(x @ w["W_x"] + h @ w["W_h"] + m @ w["W_m"] + w.get("b", 0))
    return h, [h, m]


LMUCell.spec = CellSpec(
    paper=Paper(
        "Voelker, Kajic and Eliasmith",
        2019,
        "Legendre Memory Units: Continuous-Time Representation in Recurrent Neural Networks",
        "https://papers.nips.cc/paper/9689",
    ),
    guide=Guide(
        "memory",
        "Use it when the last so many steps of a signal have to be kept as a whole.",
        ("long memory",),
    ),
    reference=reference,
    states=("h", "m"),
    symbols=rename(
        {
            "input_encoder": "e_x",
            "hidden_encoder": "e_h",
            "memory_encoder": "e_m",
            "kernel": "W_x",
            "recurrent_kernel": "W_h",
            "memory_kernel": "W_m",
            "transition": "Ad",
            "drive": "Bd",
        }
    )
    | rename({"bias": "b"}, optional=True),
    cases={
        "default": {"units": 4, "order": 5, "theta": 12.0},
        "two_signals": {"units": 3, "order": 3, "theta": 4.0, "memory_d": 2},
        "bias": {"units": 3, "order": 2, "theta": 6.0, "use_bias": True, "activation": "softsign"},
        "dropout": {
            "units": 4,
            "order": 3,
            "theta": 8.0,
            "dropout": 0.4,
            "recurrent_dropout": 0.3,
            "seed": 1,
        },
    },
    deviations=(
        "keras-lmu leaves out e_h, e_m and W_h unless asked for them.",
        "popgym rounds Ad and Bd to float32.",
    ),
).completed(LMUCell)
