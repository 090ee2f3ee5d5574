"""LiGRU."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
import numpy as np

from cellkit.cells import GatedCell, as_dtype, matmul, plus, positive_number, probability
from cellkit.errors import problem
from cellkit.registry import CellSpec, Guide, blocks, gate_blocks
from cellkit.registry.reference import activation

_NORMALIZATIONS = (None, "batch")


@keras.saving.register_keras_serializable(package="cellkit_gru")
class LiGRUCell(GatedCell):
    """Li-GRU: a GRU without reset gate, with rectified candidates.

    Paper: Ravanelli, Brakel, Omologo and Bengio 2018, "Light Gated Recurrent Units for Speech
    Recognition", arXiv:1803.10225.

    ```
    z  = s(W_z @ x + U_z @ h + b_z)            update gate
    n  = relu(W_n @ x + U_n @ h + b_n)         candidate
    h' = z * h + (1 - z) * n
    ```

    The states of a rectified cell may grow. The paper normalises what comes from the inputs over
    the batch; with ``normalization="batch"``

    ```
    g * (W @ x - m) / sqrt(v + epsilon)
    ```

    stands for ``W @ x`` in both lines. In training m and v are mean and variance over the rows of
    the step, which means that rows see each other, padding included. They are mixed into running
    averages, which take their place at inference.

    Departures: batch normalisation is an option; and its statistics are those of each step
    (frame-wise), where the authors' code takes those of all steps of a batch at once, which a cell
    of one step does not see.

    Args:
        units: Number of units H.
        normalization: None (default), or `"batch"`, as in the paper. With it training needs
            batches of some ten sequences or more, of like lengths.
        momentum: Part of the running averages that is left after a step, in [0, 1). Default 0.99:
            there is an update at every step, so that they reach back over a hundred of them.
        epsilon: Added to the variances. Default 1e-5.
        **kwargs: Options of `cellkit.Cell`. `activation` is not used: the candidate is rectified.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(LiGRUCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    gates: ClassVar[dict[str, str]] = {"z": "recurrent_activation", "n": "rectifier"}
    rectifier = staticmethod(keras.activations.relu)

    def __init__(
        self,
        units: int,
        *,
        normalization: str | None = None,
        momentum: float = 0.99,
        epsilon: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, **kwargs)
        given = kwargs.get("activation", "tanh")  # what a configuration says, too
        if keras.activations.get(given) is not keras.activations.tanh:
            raise problem(
                "LiGRUCell does not apply `activation`.",
                received=f"activation={given!r}",
                expected="no such argument: the candidate is rectified",
                fix="leave `activation` out",
            )
        if normalization not in _NORMALIZATIONS:
            raise problem(
                "LiGRUCell has no such `normalization`.",
                received=f"normalization={normalization!r}",
                expected="None or 'batch'",
                fix="leave it out, or pass normalization='batch'",
            )
        self.normalization = normalization
        self.momentum = probability(type(self), "momentum", momentum)
        self.epsilon = positive_number(type(self), "epsilon", epsilon)

    def build(self, input_shape: Any) -> None:
        """Create the weights, and with a normalisation its gain and running averages."""
        super().build(input_shape)
        if self.normalization is None:
            return
        shape, dtype = (2 * self.units,), self.accumulator_dtype
        self.gain = self.add_weight(shape, "ones", name="gain")
        running = {"trainable": False, "dtype": dtype, "autocast": False}
        self.mean = self.add_weight(shape, "zeros", name="running_mean", **running)
        self.variance = self.add_weight(shape, "ones", name="running_variance", **running)

    def project(self, inputs: Any) -> Any:
        """Return ``W @ x + b``, normalised unless the statistics of the step are needed."""
        if self.normalization is None:
            return super().project(inputs)
        projected = matmul(inputs, self.kernel)
        if self.in_training:
            return projected
        return self.normal(projected, self.mean.value, self.variance.value)

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step; in training normalise first."""
        if self.normalization is not None and self.in_training:
            wide = as_dtype(projected, self.accumulator_dtype)
            mean = _mean_of_rows(wide)
            variance = _mean_of_rows((wide - mean) ** 2)
            for average, value in ((self.mean, mean), (self.variance, variance)):
                value = keras.ops.stop_gradient(value)
                average.assign(self.momentum * average.value + (1 - self.momentum) * value)
            projected = self.normal(projected, mean, variance)
        return super().step(projected, states)

    def normal(self, projected: Any, mean: Any, variance: Any) -> Any:
        """Return ``g * (W @ x - m) / sqrt(v + epsilon) + b``."""
        wide = as_dtype(projected, self.accumulator_dtype)
        wide = (wide - mean) * keras.ops.rsqrt(variance + self.epsilon)
        normal = self.gain * as_dtype(wide, self.compute_dtype)
        return plus(normal, self.bias)

    def combine(self, gates: Any, states: Any) -> tuple[Any, Any]:
        """Mix the old state and the candidate."""
        h = gates["z"] * states[0] + (1 - gates["z"]) * gates["n"]
        return h, [h]


def _mean_of_rows(x: Any) -> Any:
    """Return the mean over the batch; Keras' own rounds float64 on PyTorch and JAX."""
    rows = keras.ops.cast(keras.ops.shape(x)[0], x.dtype)
    return keras.ops.sum(x, axis=0) / rows


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step of inference from the equations."""
    (h,) = states
    s = activation(config["recurrent_activation"])

    def fed(gate: str) -> Any:
        a = x @ w[f"W_{gate}"]
        if config["normalization"] == "batch":
            spread = np.sqrt(w[f"v_{gate}"] + config["epsilon"])
            a = w[f"g_{gate}"] * (a - w[f"m_{gate}"]) / spread
        return a + h @ w[f"U_{gate}"] + w[f"b_{gate}"]

    z, n = s(fed("z")), np.maximum(fed("n"), 0)
    h = z * h + (1 - z) * n
    return h, [h]


LiGRUCell.spec = CellSpec(
    reference=reference,
    cases={
        "default": {"units": 4},
        "no_bias": {"units": 3, "use_bias": False},
        "activations": {"units": 3, "recurrent_activation": "hard_sigmoid"},
        "batch": {"units": 3, "normalization": "batch", "epsilon": 0.01},
        "batch_dropout": {
            "units": 3,
            "normalization": "batch",
            "momentum": 0.6,
            "use_bias": False,
            "dropout": 0.2,
            "seed": 1,
        },
        "dropout": {"units": 4, "dropout": 0.4, "recurrent_dropout": 0.3, "seed": 1},
    },
    symbols=gate_blocks(["z", "n"])
    | blocks("gain", ["g_z", "g_n"], optional=True)
    | blocks("running_mean", ["m_z", "m_n"], optional=True)
    | blocks("running_variance", ["v_z", "v_n"], optional=True),
    traits=frozenset(
        {
            "masking",
            "stateful",
            "dropout",
            "recurrent_dropout",
            "zoneout",
            "running_statistics",
        }
    ),
    deviations=(
        "Batch normalisation is an option, and its statistics are those of each step; the authors' "
        "code takes those of all steps of a batch.",
    ),
    aliases={"ligru_batch_norm": {"normalization": "batch"}},
    states=("h",),
    # A variance is positive.
    draw_weights=lambda weights: {
        name: np.abs(w) + 0.1 if "variance" in name else w for name, w in weights.items()
    },
    guide=Guide(
        "gru",
        "Use it when acoustic features are modelled and a GRU should be smaller and faster.",
        ("tiny", "speech"),
    ),
).completed(LiGRUCell)
