"""The echo state network."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells import Cell, matmul, number, plus, positive_number, vector_size
from cellkit.errors import problem
from cellkit.registry import CellSpec, Guide, Paper, rename

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
        leaky: Part of the way that a unit moves to its new value, in (0, 1]. Default 1.0, no leak.
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
        cls = type(self)
        self.leaky = number(cls, "leaky", leaky, above=0, at_most=1)
        self.connectivity = number(cls, "connectivity", connectivity, above=0, at_most=1)
        self.spectral_radius = positive_number(cls, "spectral_radius", spectral_radius)

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
        return plus(matmul(inputs, self.kernel), self.bias)

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        h = states[0]
        new = self.activation(projected + matmul(self.drop(h), self.recurrent_kernel))
        h = (1 - self.leaky) * h + self.leaky * new
        return h, [h]

    spec = CellSpec(
        paper=Paper(
            "Jaeger",
            2001,
            "The 'echo state' approach to analysing and training recurrent neural networks",
            "https://www.researchgate.net/publication/215385037",
        ),
        guide=Guide(
            "reservoir",
            "Use it when data are few and only a linear readout should be trained.",
            ("time scales", "untrained"),
        ),
        symbols=rename({"kernel": "W", "recurrent_kernel": "U", "bias": "b"}),
        cases={
            "default": {"units": 5, "connectivity": 0.8, "seed": 3},
            "sparse": {"units": 12, "leaky": 0.7, "seed": 2, "bias_initializer": "random_normal"},
            "relu": {"units": 4, "activation": "relu", "connectivity": 1.0, "spectral_radius": 1.2},
            "no_bias": {
                "units": 4,
                "use_bias": False,
                "connectivity": 0.9,
                "leaky": 0.3,
                "seed": 4,
            },
            "dropout": {
                "units": 4,
                "connectivity": 1.0,
                "dropout": 0.4,
                "recurrent_dropout": 0.3,
                "seed": 1,
            },
        },
        deviations=("TensorFlow Addons can scale by the norm of U in place of its eigenvalues.",),
    )
