"""The LSTM whose gates see its cell state."""

from __future__ import annotations

from typing import Any, ClassVar

import keras

from cellkit.cells import matmul, resolve, split
from cellkit.registry import CellSpec, Guide, Paper, blocks, gate_blocks
from cellkit_lstm._base import LSTMBase


@keras.saving.register_keras_serializable(package="cellkit_lstm")
class PeepholeLSTMCell(LSTMBase):
    """The LSTM with peepholes: each gate sees the cell state of its own unit.

    Paper: Gers, Schraudolph and Schmidhuber 2002, "Learning Precise Timing with LSTM Recurrent
    Networks", Journal of Machine Learning Research 3,
    https://www.jmlr.org/papers/v3/gers02a.html.

    ```
    i = s(W_i @ x + U_i @ h + p_i * c + b_i)         input gate
    f = s(W_f @ x + U_f @ h + p_f * c + b_f)         forget gate
    g = tanh(W_g @ x + U_g @ h + b_g)                candidate
    c' = f * c + i * g
    o = s(W_o @ x + U_o @ h + p_o * c' + b_o)        output gate: it sees the new c
    h' = o * tanh(c')
    ```

    The peepholes are vectors, as in the paper. Chainer and DyNet have full matrices in their
    place; PyPOTS has full matrices, and its output gate sees the old c.

    Args:
        units: Number of units H.
        peepholes: True if there are peepholes. Default True; without them it is the plain LSTM.
        peephole_initializer: Initializer of p. Default `"random_uniform"`, small numbers: the gates
            of a new cell then depend on little but x and h.
        **kwargs: `unit_forget_bias` and `max_time` as in `LSTMBase`, and options of `cellkit.Cell`:
            `activation` for g and the output, `recurrent_activation` for the gates.

    Inputs: `(batch, features)`. States: `[h, c]`, each `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(PeepholeLSTMCell(8), return_sequences=True)
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 10, 8)
    """

    peephole_gates: ClassVar[tuple[str, ...]] = ("i", "f", "o")

    def __init__(
        self,
        units: int,
        *,
        peepholes: bool = True,
        peephole_initializer: Any = "random_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(units, **kwargs)
        self.peepholes = bool(peepholes)
        self.peephole_initializer = resolve(
            type(self), "peephole_initializer", peephole_initializer
        )

    def build(self, input_shape: Any) -> None:
        """Create the weights of the LSTM, and `peephole_kernel`."""
        super().build(input_shape)
        if self.peepholes:
            shape = (len(self.peephole_gates) * self.units,)
            self.peephole_kernel = self.add_recurrent_kernel(
                shape, "peephole_kernel", initializer=self.peephole_initializer
            )

    def peep(self, z: Any, gate: str, c: Any) -> Any:
        """Return ``z + p_gate * c``; `z` itself without peepholes."""
        if not self.peepholes:
            return z
        vectors = split(self.peephole_kernel, len(self.peephole_gates))
        return z + vectors[self.peephole_gates.index(gate)] * c

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        h, c = states
        s, tanh = self.recurrent_activation, self.activation
        i, f, g, o = split(projected + matmul(self.drop(h), self.recurrent_kernel), 4)
        i, f = s(self.peep(i, "i", c)), s(self.peep(f, "f", c))
        c = f * c + i * tanh(g)
        h = s(self.peep(o, "o", c)) * tanh(c)
        return h, [h, c]

    spec = CellSpec(
        paper=Paper(
            "Gers, Schraudolph and Schmidhuber",
            2002,
            "Learning Precise Timing with LSTM Recurrent Networks",
            "https://www.jmlr.org/papers/v3/gers02a.html",
        ),
        guide=Guide(
            "lstm",
            "Use it when exact timing counts, such as the length of a pause between two events.",
            ("speech",),
        ),
        symbols=gate_blocks(["i", "f", "g", "o"])
        | blocks("peephole_kernel", ["p_i", "p_f", "p_o"], optional=True),
        more_cases={"no_peepholes": {"units": 3, "peepholes": False, "unit_forget_bias": False}},
        deviations=(
            "Chainer, DyNet and PyPOTS have full matrices for peepholes; in PyPOTS the output gate "
            "sees the old cell state.",
        ),
    )
