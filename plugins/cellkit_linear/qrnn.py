"""The quasi-recurrent network: convolutions over time, and a pooling that recurs."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells import (
    LinearCell,
    TensorSpec,
    choice,
    matmul,
    plus,
    positive_int,
    split,
    vector_size,
)
from cellkit.errors import problem
from cellkit.registry import CellSpec, Guide, configured, gate_blocks
from cellkit.registry.reference import activation

_GATES = {"fo": ("z", "f", "o"), "f": ("z", "f"), "ifo": ("z", "f", "o", "i")}


@keras.saving.register_keras_serializable(package="cellkit_linear")
class QRNNCell(LinearCell):
    """The quasi-RNN: gates from a window of inputs, and a gated sum over time.

    Paper: Bradbury et al. 2016, "Quasi-Recurrent Neural Networks", arXiv:1611.01576.

    ```
    X = [x at t-k+1; ...; x at t]              the last k inputs, zeros before the first
    z = tanh(W_z @ X + b_z)
    f = s(W_f @ X + b_f)
    o = s(W_o @ X + b_o)
    pooling="fo":   c' = f * c + (1 - f) * z;   h = o * c'
    pooling="f":    c' = f * c + (1 - f) * z;   h = c'
    pooling="ifo":  i = s(W_i @ X + b_i);  c' = f * c + i * z;   h = o * c'
    ```

    The paper's convolution over time is the product with the window. In a step of its own, the
    window needs a memory: the inputs of the k - 1 steps before are a state. Steps that are masked
    are not in it.

    Args:
        units: Number of units H.
        kernel_width: k, the number of inputs that the gates see. Default 2, as in most of the
            paper's experiments; 1 needs no memory of inputs.
        pooling: `"fo"` (default), `"f"` or `"ifo"`. The paper finds fo and ifo about equal, and fo
            has a gate less.
        **kwargs: Options of `cellkit.LinearCell`: `activation` for z, `recurrent_activation` for
            the gates. The paper's zoneout is `zoneout`, which needs a `kernel_width` of 1 here.

    Inputs: `(batch, features)`. States: `[c]` of shape `(batch, units)`, float32 under a 16-bit
    policy; with a `kernel_width` above 1 also the inputs before, `(batch, kernel_width - 1,
    features)`, oldest first. Output: h, which is not a state.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(QRNNCell(8), return_sequences=True)
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 10, 8)
    """

    def __init__(
        self, units: int, *, kernel_width: int = 2, pooling: str = "fo", **kwargs: Any
    ) -> None:
        super().__init__(units, **kwargs)
        self.kernel_width = positive_int(type(self), "kernel_width", kernel_width)
        self.pooling = choice(type(self), "pooling", pooling, tuple(_GATES))
        self.features: int | None = None
        if self.zoneout and self.kernel_width > 1:
            raise problem(
                "A QRNNCell that remembers inputs has no zoneout.",
                received=f"zoneout={self.zoneout}, kernel_width={self.kernel_width}",
                expected="zoneout=0.0 or kernel_width=1: inputs before must move on at every step",
                fix="use `dropout`, or kernel_width=1",
            )

    @property
    def window(self) -> int:
        """The number of inputs that a step sees."""
        return self.kernel_width

    @property
    def state_size(self) -> list[TensorSpec]:
        """Shapes of c and of the inputs before; the width of the latter follows from the inputs."""
        c = TensorSpec(self.units, dtype=self.accumulator_dtype)
        return [c] if self.window == 1 else [c, TensorSpec((self.window - 1, None))]

    def state_spec(self) -> list[TensorSpec]:
        """Return the states with the width of the inputs, once it is known."""
        specs = super().state_spec()
        if self.window > 1:
            shape = (self.window - 1, self.features)
            specs[1] = TensorSpec(shape, dtype=self.compute_dtype)
        return specs

    def build(self, input_shape: Any) -> None:
        """Create `kernel`, one window high, and `bias`, with one block per gate."""
        self.features = vector_size(self, input_shape)
        super().build(input_shape)
        width = len(_GATES[self.pooling]) * self.units
        self.kernel = self.add_kernel((self.window * self.features, width))
        self.bias = self.add_bias((width,))

    def project(self, inputs: Any) -> Any:
        """Return the gates where a step sees one input alone, else that input."""
        return self.look(inputs) if self.window == 1 else inputs

    def look(self, window: Any) -> Any:
        """Return all gates, not activated."""
        x = keras.ops.reshape(window, (-1, self.window * self.features))
        return plus(matmul(x, self.kernel), self.bias)

    def coefficients(self, projected: Any) -> tuple[Any, Any]:
        """Return the forget gate, and what is added."""
        z, f, *others = split(projected, len(_GATES[self.pooling]))
        f = self.recurrent_activation(f)
        i = self.recurrent_activation(others[1]) if self.pooling == "ifo" else 1 - f
        return f, i * self.activation(z)

    def read(self, states: Any, projected: Any) -> Any:
        """Return what the output gate lets out."""
        c = self.as_output(states[0])
        if self.pooling == "f":
            return c
        o = split(projected, len(_GATES[self.pooling]))[2]
        return self.recurrent_activation(o) * c


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    s, tanh = activation(config["recurrent_activation"]), activation(config["activation"])
    c, *memory = states
    inputs = [*(memory[0][:, k] for k in range(config.get("kernel_width", 2) - 1)), x]
    X = np.concatenate(inputs, axis=-1)
    z, f = tanh(X @ w["W_z"] + w["b_z"]), s(X @ w["W_f"] + w["b_f"])
    pooling = config.get("pooling", "fo")
    i = s(X @ w["W_i"] + w["b_i"]) if pooling == "ifo" else 1 - f
    c = f * c + i * z
    h = c if pooling == "f" else s(X @ w["W_o"] + w["b_o"]) * c
    return h, [c, *([np.stack(inputs[1:], axis=1)] if memory else [])]


QRNNCell.spec = CellSpec(
    guide=Guide(
        "linear",
        "Use it when a window of a few inputs decides the gates, as for characters of a text.",
        ("parallel", "language"),
    ),
    reference=reference,
    states=("c", "x"),
    symbols=configured(
        lambda config: gate_blocks(_GATES[config.get("pooling", "fo")], recurrent_kernel=None)
    ),
    cases={
        "default": {"units": 4},
        "narrow": {"units": 3, "kernel_width": 1},
        "ifo": {"units": 3, "kernel_width": 3, "pooling": "ifo"},
        "f": {
            "units": 2,
            "pooling": "f",
            "use_bias": False,
            "recurrent_activation": "hard_sigmoid",
        },
        "dropout": {"units": 4, "dropout": 0.4, "seed": 1},
    },
    traits={"masking", "stateful", "dropout", "linear", "fp32_state"},
    deviations=(
        "The paper's convolutions have no bias in its equations; here they have one unless "
        "use_bias=False.",
    ),
).completed(QRNNCell)
