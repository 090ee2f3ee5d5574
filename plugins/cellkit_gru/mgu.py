"""The minimal gated unit: a GRU with one gate."""

from __future__ import annotations

from typing import Any

import keras

from cellkit.cells import Cell, choice, matmul, plus, split, vector_size
from cellkit.registry import CellSpec, Guide, gate_blocks, rename


@keras.saving.register_keras_serializable(package="cellkit_gru")
class MGUCell(Cell):
    """The minimal gated unit: one gate both resets and updates.

    Paper: Zhou, Wu, Zhang and Zhou 2016, "Minimal Gated Unit for Recurrent Neural Networks",
    arXiv:1603.09420.

    ```
    f = s(W_f @ x + U_f @ h + b_f)                     the gate

    variant="paper":
    n = tanh(W_n @ x + U_n @ (f * h) + b_n)            candidate
    h' = (1 - f) * h + f * n

    variant="flax":
    n = tanh(W_n @ x + b_n + f * (U_n @ h + b_hn))
    h' = (1 - f) * n + f * h
    ```

    The two variants are different functions: no choice of weights turns one into the other. Flax
    (`flax.linen.MGUCell`) resets after the recurrent product, where the candidate has a bias of
    its own, and its gate keeps the old state where the paper's replaces it. Chainer
    (`chainer.links.StatefulMGU`) computes the paper's form.

    Args:
        units: Number of units H.
        variant: `"paper"` (default) or `"flax"`, for weights that come from there.
        **kwargs: Options of `cellkit.Cell`: `activation` for n, `recurrent_activation` for f. The
            bias of f starts at zero as the others do: half of a new state is old.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(MGUCell(8), return_sequences=True)
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 10, 8)
    """

    def __init__(self, units: int, *, variant: str = "paper", **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        self.variant = choice(type(self), "variant", variant, ("paper", "flax"))

    def build(self, input_shape: Any) -> None:
        """Create `kernel`, `recurrent_kernel` and `bias`, and flax's `recurrent_bias`."""
        super().build(input_shape)
        width = 2 * self.units
        self.kernel = self.add_kernel((vector_size(self, input_shape), width))
        self.recurrent_kernel = self.add_recurrent_kernel((self.units, width))
        self.bias = self.add_bias((width,))
        flax = self.variant == "flax"
        self.recurrent_bias = self.add_bias((self.units,), "recurrent_bias") if flax else None

    def project(self, inputs: Any) -> Any:
        """Return ``inputs @ kernel + bias`` for f and n at once."""
        return plus(matmul(inputs, self.kernel), self.bias)

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        h, dropped = states[0], self.drop(states[0])
        x_f, x_n = split(projected, 2)
        if self.variant == "flax":
            h_f, h_n = split(matmul(dropped, self.recurrent_kernel), 2)
            f = self.recurrent_activation(x_f + h_f)
            h_n = plus(h_n, self.recurrent_bias)
            h = (1 - f) * self.activation(x_n + f * h_n) + f * h
        else:
            u, of_f, of_n = self.recurrent_kernel, slice(self.units), slice(self.units, None)
            f = self.recurrent_activation(x_f + matmul(dropped, u, of_f))
            h = (1 - f) * h + f * self.activation(x_n + matmul(f * dropped, u, of_n))
        return h, [h]

    spec = CellSpec(
        guide=Guide("gru", "Use it when a GRU should be a third smaller.", ("tiny",)),
        symbols=gate_blocks(["f", "n"]) | rename({"recurrent_bias": "b_hn"}, optional=True),
        cases={
            "default": {"units": 4},
            "flax": {"units": 3, "variant": "flax"},
            "flax_no_bias": {"units": 3, "variant": "flax", "use_bias": False},
            "relu": {"units": 3, "activation": "relu", "recurrent_activation": "hard_sigmoid"},
            "dropout": {"units": 4, "dropout": 0.4, "recurrent_dropout": 0.3, "seed": 1},
        },
        deviations=(
            "flax.linen.MGUCell is another function, offered as variant='flax': it resets after "
            "the recurrent product, and its gate keeps the old state instead of replacing it.",
        ),
        aliases={"mgu_flax": {"variant": "flax"}},
    )
