"""The weighted key-value memory of RWKV-4."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells import Cell, TensorSpec, as_dtype, matmul, split, vector_size
from cellkit.errors import problem
from cellkit.registry import CellSpec, Guide, blocks, rename


@keras.saving.register_keras_serializable(package="cellkit_linear")
class RWKV4Cell(Cell):
    """The memory of RWKV-4: a mean of all values so far, whose weights fade with time.

    Paper: Peng et al. 2023, "RWKV: Reinventing RNNs for the Transformer Era", arXiv:2305.13048,
    section 3.1.2 and appendix D.

    ```
    k = W_k @ x;  v = W_v @ x
    y = (N + e^(u + k) * v) / (D + e^(u + k))             with N = num * e^max, D = den * e^max
    N' = e^(-e^w) * N + e^k * v;  D' = e^(-e^w) * D + e^k
    max' = max(max - e^w, k);  num' = N' / e^max';  den' = D' / e^max'
    ```

    N and D are never computed: the sums are kept divided by e^max, the largest of their terms, so
    that no exponential overflows, and the step works on those. Every channel has a rate of its own;
    u is a bonus for the input of now.

    This is the core of the paper's time-mixing block, without its token shift, its receptance gate
    and its output matrix, which need no state but the input before: layers around the cell.

    Args:
        units: Number of channels H.
        decay_initializer: Initializer of w. Default None: as in the authors' code, from -5 for the
            first channel to 3 for the last, with exponent 0.7: some remember for hundreds of
            steps, others for one.
        **kwargs: Options of `cellkit.Cell`. There are no biases and no activation, and no
            `recurrent_dropout` and `zoneout`: the states are parts of one number.

    Inputs: `(batch, features)`. States: `[num, den, max]`, each `(batch, units)`, float32 under a
    16-bit policy; max starts at -1e38. Output: y of shape `(batch, units)`, which is not a state.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(RWKV4Cell(8), return_sequences=True)
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 10, 8)
    """

    def __init__(self, units: int, *, decay_initializer: Any = None, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        for name in ("recurrent_dropout", "zoneout"):
            if getattr(self, name):
                raise problem(
                    f"RWKV4Cell has no {name}.",
                    received=f"{name}={getattr(self, name)}",
                    expected=f"{name}=0.0: the three states are parts of one number",
                    fix="use `dropout`, which drops inputs",
                )
        self.decay_initializer = keras.initializers.get(decay_initializer)

    @property
    def state_size(self) -> list[TensorSpec]:
        """Numerator, denominator and exponent, not rounded to 16 bits."""
        sums = TensorSpec((self.units,), dtype=self.accumulator_dtype)
        return [sums, sums, TensorSpec(sums.shape, sums.dtype, initializer=-1e38)]

    @property
    def output_size(self) -> int:
        """Width of the output: `units`."""
        return int(self.units)

    def build(self, input_shape: Any) -> None:
        """Create `kernel` for keys and values, `decay` (w) and `bonus` (u)."""
        super().build(input_shape)
        size = (self.units,)
        self.kernel = self.add_kernel((vector_size(self, input_shape), 2 * self.units))
        start = self.decay_initializer or _rates
        self.decay = self.add_weight(shape=size, name="decay", initializer=start)
        bonus = keras.initializers.Constant(float(np.log(0.3)))
        self.bonus = self.add_weight(shape=size, name="bonus", initializer=bonus)

    def project(self, inputs: Any) -> Any:
        """Return keys and values."""
        return matmul(inputs, self.kernel)

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        num, den, old = states
        exp, dtype = keras.ops.exp, self.accumulator_dtype
        k, v = (as_dtype(part, dtype) for part in split(projected, 2))
        now = k + as_dtype(self.bonus + 0.0, dtype)
        faded = old - exp(as_dtype(self.decay + 0.0, dtype))
        top, new = _larger(old, now), _larger(faded, k)
        past, present = exp(old - top), exp(now - top)
        y = (past * num + present * v) / (past * den + present)
        kept, added = exp(faded - new), exp(k - new)
        states = [kept * num + added * v, kept * den + added, new]
        return as_dtype(y, self.compute_dtype), states


def _larger(a: Any, b: Any) -> Any:
    """Return the larger of two numbers; `keras.ops.maximum` rounds float64 on Torch."""
    return keras.ops.where(a > b, a, b)


def _rates(shape: Any, dtype: Any = None) -> Any:
    places = np.linspace(0.0, 1.0, shape[0])
    return keras.ops.convert_to_tensor(-5 + 8 * places**0.7, dtype=dtype)


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations, with exponents taken off before they overflow."""
    num, den, old = states
    k, v = x @ w["W_k"], x @ w["W_v"]
    top = np.maximum(old, w["u"] + k)
    now = np.exp(w["u"] + k - top)
    y = (num * np.exp(old - top) + now * v) / (den * np.exp(old - top) + now)
    faded = old - np.exp(w["w"])
    new = np.maximum(faded, k)
    num = np.exp(faded - new) * num + np.exp(k - new) * v
    den = np.exp(faded - new) * den + np.exp(k - new)
    return y, [num, den, new]


def initial_state(w: Any, batch: int, config: Any) -> list[Any]:
    """Return empty sums, whose exponent is so small that they count for nothing."""
    shape = (batch, config["units"])
    return [np.zeros(shape), np.zeros(shape), np.full(shape, -1e38)]


RWKV4Cell.spec = CellSpec(
    guide=Guide(
        "linear",
        "Use it when layers that read text are stacked and each needs a fading mean of the past.",
        ("long memory", "language"),
    ),
    reference=reference,
    initial_state=initial_state,
    states=("num", "den", "max"),
    symbols=blocks("kernel", ["W_k", "W_v"]) | rename({"decay": "w", "bonus": "u"}),
    cases={
        "default": {"units": 4},
        "slow": {"units": 3, "decay_initializer": "zeros"},
        "dropout": {"units": 4, "dropout": 0.4, "seed": 1},
    },
    traits={"masking", "stateful", "dropout", "fp32_state"},
    deviations=(
        "Token shift, receptance and output matrix of the paper's block are layers around it.",
    ),
    # A denominator is a sum of exponentials.
    draw_states=lambda states: [states[0], np.abs(states[1]) + 0.1, states[2]],
).completed(RWKV4Cell)
