"""The echo state network."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells import Cell, matmul, vector_size
from cellkit.errors import problem
from cellkit.registry import CellSpec, Paper, rename
from cellkit.registry.reference import activation

_TRIES = 100


@keras.saving.register_keras_serializable(package="cellkit_reservoir")
class ESNCell(Cell):
    """The echo state network: a fixed random reservoir of leaky units.

    Paper: Jaeger 2001, "The 'echo state' approach to analysing and training recurrent neural
    networks", GMD Report 148. The leak as in Jaeger, Lukosevicius, Popovici and Siewert 2007,
    "Optimization and applications of echo state networks with leaky-integrator neurons",
    doi:10.1016/j.neunet.2007.04.016.

    ```
    h' = (1 - leaky) * h + leaky * tanh(W @ x + U @ h + b)
    ```

    W, U and b are drawn once and never trained; a dense layer after this one reads the states. U is
    sparse and scaled so that the largest absolute value of its eigenvalues is `spectral_radius`.
    TensorFlow Addons' cell returns its state without a list, and may scale by the norm in place of
    the eigenvalues.

    Args:
        units: Number of units H of the reservoir.
        leaky: How far a unit moves towards its new value, in (0, 1]. Default 1.0, no leak.
        connectivity: Probability in (0, 1] that one unit feeds another. Default 0.1: sparse
            reservoirs have a richer set of dynamics.
        spectral_radius: Size of the largest eigenvalue of U. Default 0.9; below 1 the states forget
            where they started, in most cases.
        recurrent_initializer: Initializer of U before it is thinned out and scaled. Default
            `"glorot_uniform"`.
        **kwargs: Options of `cellkit.Cell`. `seed` also fixes which connections there are. Give
            `bias_initializer` other than zeros to break the symmetry between h and -h.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(ESNCell(50, leaky=0.3, seed=1))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 50)
    >>> layer.build((None, 10, 3))
    >>> len(layer.trainable_weights)
    0
    """

    def __init__(
        self,
        units: int,
        *,
        leaky: float = 1.0,
        connectivity: float = 0.1,
        spectral_radius: float = 0.9,
        recurrent_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(units, recurrent_initializer=recurrent_initializer, **kwargs)
        self.leaky = _above_zero("leaky", leaky, 1.0)
        self.connectivity = _above_zero("connectivity", connectivity, 1.0)
        self.spectral_radius = _above_zero("spectral_radius", spectral_radius, float("inf"))

    def build(self, input_shape: Any) -> None:
        """Draw the weights, none of which is trained."""
        super().build(input_shape)
        self.kernel = self.add_kernel((vector_size(self, input_shape), self.units), trainable=False)
        self.recurrent_kernel = self.add_recurrent_kernel(
            (self.units, self.units), initializer=self._reservoir, trainable=False
        )
        self.bias = self.add_bias((self.units,), trainable=False)

    def _reservoir(self, shape: Any, dtype: Any = None) -> Any:
        """Draw a sparse matrix and scale its largest eigenvalue."""
        full = keras.ops.convert_to_numpy(self.recurrent_initializer(shape)).astype("float64")
        # Python's generator where there is no seed: keras.utils.set_random_seed rules it.
        rng = np.random.default_rng(keras.random.SeedGenerator(self.seed).get_config()["seed"])
        for _ in range(_TRIES):
            sparse = full * (rng.random(shape) < self.connectivity)
            radius = np.abs(np.linalg.eigvals(sparse)).max()
            if radius > 1e-6:
                scaled = sparse * (self.spectral_radius / radius)
                return keras.ops.convert_to_tensor(scaled, dtype=dtype)
        raise problem(
            "The reservoir of ESNCell has no loops, so it cannot be scaled.",
            received=f"units={self.units}, connectivity={self.connectivity}",
            expected="enough connections for a state to come round",
            fix="raise `connectivity` (1.0 connects all units) or `units`",
        )

    def project(self, inputs: Any) -> Any:
        """Return ``inputs @ kernel + bias``."""
        projected = matmul(inputs, self.kernel)
        return projected if self.bias is None else projected + self.bias

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        h = states[0]
        new = self.activation(projected + matmul(self.drop(h), self.recurrent_kernel))
        h = (1 - self.leaky) * h + self.leaky * new
        return h, [h]


def _above_zero(name: str, value: Any, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most:
        raise problem(
            f"`{name}` of ESNCell is out of range.",
            received=f"{name}={value!r}",
            expected="a number above 0"
            + ("" if most == float("inf") else f" and at most {most:g}"),
            fix=f"pass e.g. {name}=0.5",
        )
    return float(value)


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equation."""
    (h,) = states
    a = config["leaky"]
    h = (1 - a) * h + a * activation(config["activation"])(x @ w["W"] + h @ w["U"] + w["b"])
    return h, [h]


def configure(hyper: Any, arrays: Any) -> dict[str, Any]:
    """Read the options of a frozen file."""
    given = {name: hyper[name] for name in ("leaky", "activation") if name in hyper}
    sizes = {"units": int(arrays["w.U"].shape[-1]), "use_bias": "w.b" in arrays}
    return {**sizes, "connectivity": 1.0, **given}  # U itself is read from the file


ESNCell.spec = CellSpec(
    reference=reference,
    inputs=("features",),
    cases={
        "default": {"units": 5, "connectivity": 0.8, "seed": 3},
        "sparse": {"units": 12, "leaky": 0.7, "seed": 2, "bias_initializer": "random_normal"},
        "relu": {"units": 4, "activation": "relu", "connectivity": 1.0, "spectral_radius": 1.2},
        "no_bias": {"units": 4, "use_bias": False, "connectivity": 0.9, "leaky": 0.3, "seed": 4},
        "dropout": {
            "units": 4,
            "connectivity": 1.0,
            "dropout": 0.4,
            "recurrent_dropout": 0.3,
            "seed": 1,
        },
    },
    paper=Paper(
        "Jaeger",
        2001,
        "The 'echo state' approach to analysing and training recurrent neural networks",
        "https://www.researchgate.net/publication/215385037",
    ),
    symbols=rename({"kernel": "W", "recurrent_kernel": "U", "bias": "b"}),
    traits=frozenset({"masking", "stateful", "dropout", "recurrent_dropout", "zoneout"}),
    deviations=("TensorFlow Addons can scale by the norm of U in place of its eigenvalues.",),
    states=("h",),
    configure=configure,
)
