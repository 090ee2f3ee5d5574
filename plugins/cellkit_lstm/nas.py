"""The recurrent cell that neural architecture search found."""

from __future__ import annotations

from typing import Any, ClassVar

import keras

from cellkit.cells import GatedCell, choice, matmul, plus, split
from cellkit.registry import CellSpec, Guide

THIRD_GATES = ("multiply", "add")


@keras.saving.register_keras_serializable(package="cellkit_lstm")
class NASCell(GatedCell):
    """The cell that neural architecture search found on Penn Treebank.

    Paper: Zoph and Le 2016, "Neural Architecture Search with Reinforcement Learning",
    arXiv:1611.01578, appendix.

    ```
    x_k = W_k @ x,  m_k = U_k @ h + b_k                    for k = 0..7
    a0 = s(x_0 + m_0)        a1 = relu(x_1 + m_1)
    a2 = s(x_2 + m_2)
    a3 = relu(x_3 * m_3)     third_gate="multiply"
    a3 = relu(x_3 + m_3)     third_gate="add"
    a4 = tanh(x_4 + m_4)     a5 = s(x_5 + m_5)
    a6 = tanh(x_6 + m_6)     a7 = s(x_7 + m_7)
    l0 = tanh(a0 * a1)       l1 = tanh(a2 + a3)
    l2 = tanh(a4 * a5)       l3 = s(a6 + a7)
    c' = tanh(l0 + c) * l1
    h' = tanh(c' * tanh(l2 + l3))
    ```

    Implementations disagree on gate 3. TensorFlow contrib and TensorFlow Addons multiply;
    torchrecurrent and RecurrentLayers.jl add. TensorFlow Addons orders its states [c, h], and can
    project h.

    Args:
        units: Number of units H.
        third_gate: `"multiply"` (default) or `"add"`. The default is TensorFlow's form.
        **kwargs: Options of `cellkit.Cell`: `activation` for tanh, `recurrent_activation` for s.

    Inputs: `(batch, features)`. States: `[h, c]`, each `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(NASCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    # The blocks of the weights; `step` gives each its activation.
    gates: ClassVar[dict[str, str]] = {str(k): "recurrent_activation" for k in range(8)}

    def __init__(self, units: int, *, third_gate: str = "multiply", **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        self.third_gate = choice(type(self), "third_gate", third_gate, THIRD_GATES)

    @property
    def state_size(self) -> list[int]:
        """Sizes of h and c."""
        return [self.units, self.units]

    def project(self, inputs: Any) -> Any:
        """Return the product with the inputs; the bias belongs to the recurrent side."""
        return matmul(inputs, self.kernel)

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        h, c = states
        s, tanh, relu = self.recurrent_activation, self.activation, keras.ops.relu
        m = matmul(self.drop(h), self.recurrent_kernel)
        m = split(plus(m, self.bias), 8)
        x = split(projected, 8)
        a3 = x[3] * m[3] if self.third_gate == "multiply" else x[3] + m[3]
        l0 = tanh(s(x[0] + m[0]) * relu(x[1] + m[1]))
        l1 = tanh(s(x[2] + m[2]) + relu(a3))
        l2 = tanh(tanh(x[4] + m[4]) * s(x[5] + m[5]))
        l3 = s(tanh(x[6] + m[6]) + s(x[7] + m[7]))
        c = tanh(l0 + c) * l1
        h = tanh(c * tanh(l2 + l3))
        return h, [h, c]

    spec = CellSpec(
        guide=Guide(
            "lstm",
            "Use it when you model text and can pay for eight products to get more out of each "
            "unit.",
            ("language",),
        ),
        cases={
            "default": {"units": 4},
            "add": {"units": 3, "third_gate": "add"},
            "softsign": {
                "units": 3,
                "activation": "softsign",
                "recurrent_activation": "hard_sigmoid",
            },
            "no_bias": {"units": 2, "use_bias": False},
            "dropout": {"units": 4, "dropout": 0.4, "recurrent_dropout": 0.3, "seed": 1},
        },
        deviations=(
            "torchrecurrent and RecurrentLayers.jl add the projections of gate 3: "
            "third_gate='add'.",
            "TensorFlow Addons orders its states [c, h].",
        ),
        aliases={"nas_add": {"third_gate": "add"}},
    )
