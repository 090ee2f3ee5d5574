"""The LSTM with coupled input and forget gates."""

from __future__ import annotations

from typing import Any, ClassVar

import keras

from cellkit.cells import matmul, split
from cellkit.registry import CellSpec, Guide, blocks, gate_blocks
from cellkit_lstm.peephole_lstm import PeepholeLSTMCell


@keras.saving.register_keras_serializable(package="cellkit_lstm")
class CIFGLSTMCell(PeepholeLSTMCell):
    """The LSTM with coupled input and forget gates: it forgets exactly what it replaces.

    Paper: Greff, Srivastava, Koutnik, Steunebrink and Schmidhuber 2015, "LSTM: A Search Space
    Odyssey", arXiv:1503.04069, the variant CIFG.

    ```
    i = s(W_i @ x + U_i @ h + p_i * c + b_i)         input gate
    g = tanh(W_g @ x + U_g @ h + b_g)                candidate
    f = 1 - i                                        forget gate
    c' = f * c + i * g
    o = s(W_o @ x + U_o @ h + p_o * c' + b_o)        output gate
    h' = o * tanh(c')
    ```

    The variants of the paper start from an LSTM with peepholes; those are an option here, and
    ONNX Runtime (`input_forget=1`) has the form without. DyNet's peepholes are full matrices.

    Args:
        units: Number of units H.
        peepholes: True to have the peepholes p of the paper. Default False: the paper itself
            finds that they can be left out.
        **kwargs: `peephole_initializer` as in `PeepholeLSTMCell`; `unit_forget_bias` and `max_time`
            as in `LSTMBase`, turned round: the input gate starts at minus one, or at the negative
            of the chrono initialisation, so that a new cell remembers. Options of `cellkit.Cell`:
            `activation` for g and the output, `recurrent_activation` for the gates.

    Inputs: `(batch, features)`. States: `[h, c]`, each `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> cell = CIFGLSTMCell(8)
    >>> cell.build((None, 3))
    >>> tuple(cell.kernel.shape)
    (3, 24)
    """

    gates: ClassVar[dict[str, str]] = {
        "i": "recurrent_activation",
        "g": "activation",
        "o": "recurrent_activation",
    }
    peephole_gates: ClassVar[tuple[str, ...]] = ("i", "o")

    def __init__(self, units: int, *, peepholes: bool = False, **kwargs: Any) -> None:
        super().__init__(units, peepholes=peepholes, **kwargs)

    def gate_bias_initializers(self) -> dict[str, Any]:
        """Start the input gate nearly closed: what it lets in is forgotten elsewhere."""
        if self.max_time is None and self.unit_forget_bias:
            return {"i": keras.initializers.Constant(-1.0)}
        return super().gate_bias_initializers()

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        h, c = states
        s, tanh = self.recurrent_activation, self.activation
        i, g, o = split(projected + matmul(self.drop(h), self.recurrent_kernel), 3)
        i = s(self.peep(i, "i", c))
        c = (1 - i) * c + i * tanh(g)
        h = s(self.peep(o, "o", c)) * tanh(c)
        return h, [h, c]

    spec = CellSpec(
        guide=Guide(
            "lstm",
            "Use it when an LSTM should be a quarter smaller and may forget only what it replaces.",
            ("tiny",),
        ),
        symbols=gate_blocks(["i", "g", "o"])
        | blocks("peephole_kernel", ["p_i", "p_o"], optional=True),
        more_cases={"peepholes": {"units": 3, "peepholes": True, "max_time": 20}},
        deviations=(
            "The paper's variants have peepholes; here they are an option, and off.",
            "DyNet's coupled LSTM has full matrices for peepholes.",
        ),
    )
