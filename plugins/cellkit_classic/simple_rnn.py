"""The simple recurrent cell of Elman."""

from __future__ import annotations

from typing import Any, ClassVar

import keras

from cellkit.cells import GatedCell
from cellkit.registry import CellSpec, Guide, rename


@keras.saving.register_keras_serializable(package="cellkit_classic")
class SimpleRNNCell(GatedCell):
    """The simple recurrent cell.

    Paper: Elman 1990, "Finding Structure in Time", doi:10.1207/s15516709cog1402_1, where the
    activation is the logistic function; tanh has become the custom.

    ```
    h' = tanh(W @ x + U @ h + b)
    ```

    The weights are those of `keras.layers.SimpleRNN`.

    Args:
        units: Number of units H.
        **kwargs: Options of `cellkit.Cell`; `activation` is the one of the equation.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(SimpleRNNCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    gates: ClassVar[dict[str, str]] = {"h": "activation"}

    def combine(self, gates: dict[str, Any], states: Any) -> tuple[Any, Any]:
        """Return the activated sum as output and state."""
        return gates["h"], [gates["h"]]

    spec = CellSpec(
        guide=Guide(
            "plain",
            "Use it when the memory needed is short, or as the measure of what gates add.",
            ("baseline", "tiny"),
        ),
        symbols=rename({"kernel": "W", "recurrent_kernel": "U"})
        | rename({"bias": "b"}, optional=True),
        more_cases={
            "relu": {"units": 3, "activation": "relu"},
            "no_bias": {"units": 2, "use_bias": False, "activation": "sigmoid"},
        },
        more_traits={"equiv:SimpleRNN"},
        deviations=(
            "The default activation is tanh, as in Keras; the paper's is the logistic one.",
        ),
    )
