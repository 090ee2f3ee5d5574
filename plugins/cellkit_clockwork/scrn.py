"""The structurally constrained recurrent network."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells import Cell, matmul, number, plus, positive_int, vector_size
from cellkit.registry import CellSpec, Guide, rename
from cellkit.registry.reference import sigmoid


@keras.saving.register_keras_serializable(package="cellkit_clockwork")
class SCRNCell(Cell):
    """The structurally constrained recurrent network: hidden units beside a slow linear context.

    Paper: Mikolov, Joulin, Chopra, Mathieu and Ranzato 2014, "Learning Longer Memory in Recurrent
    Neural Networks", arXiv:1412.7753.

    ```
    s' = (1 - a) * (B @ x) + a * s         context: a running mean of the inputs
    h' = s(P @ s' + A @ x + R @ h)         hidden units
    y = tanh(U @ h' + V @ s' + b)          output
    ```

    The output is not a state: h recurs. (torchrecurrent and RecurrentLayers.jl feed y back in
    the place of h.) In the paper y is a softmax over words and has no bias; here it is the output
    of a layer, for others to build on. `a` is one constant in the paper's main model and
    learned per unit, as the logistic function of a weight, in the other.

    Args:
        units: Number of hidden units H.
        context_units: Number of context units C. Default None: as many as hidden units.
        output_units: Size O of the output. Default None: as many as hidden units.
        alpha: Value of a, between 0 and 1. Default 0.95, the paper's: a memory of some 20 steps.
        learn_alpha: True if a is learned, per unit, from there. Default False, as in the paper's
            main model.
        **kwargs: Options of `cellkit.Cell`: `activation` for y, `recurrent_activation` for h',
            `use_bias` for b.

    Inputs: `(batch, features)`. States: `[h, s]` of shapes `(batch, units)` and
    `(batch, context_units)`. Output: y of shape `(batch, output_units)`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(SCRNCell(8, context_units=3, output_units=5), return_state=True)
    >>> layer.compute_output_shape((None, 10, 2))
    ((None, 5), (None, 8), (None, 3))
    """

    def __init__(
        self,
        units: int,
        *,
        context_units: int | None = None,
        output_units: int | None = None,
        alpha: float = 0.95,
        learn_alpha: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, **kwargs)
        self.context_units = positive_int(
            type(self), "context_units", self.units if context_units is None else context_units
        )
        self.output_units = positive_int(
            type(self), "output_units", self.units if output_units is None else output_units
        )
        self.alpha = number(type(self), "alpha", alpha, above=0, below=1)
        self.learn_alpha = bool(learn_alpha)

    @property
    def state_size(self) -> list[int]:
        """Sizes of h and s."""
        return [self.units, self.context_units]

    @property
    def output_size(self) -> int:
        """Size of y."""
        return self.output_units

    def build(self, input_shape: Any) -> None:
        """Create the six matrices, the logits of a, and the bias."""
        super().build(input_shape)
        features, h, s = vector_size(self, input_shape), self.units, self.context_units
        self.kernel = self.add_kernel((features, h))
        self.context_kernel = self.add_kernel((features, s), "context_kernel")
        self.recurrent_kernel = self.add_recurrent_kernel((h, h))
        self.context_to_hidden = self.add_kernel((s, h), "context_to_hidden")
        self.hidden_to_output = self.add_kernel((h, self.output_units), "hidden_to_output")
        self.context_to_output = self.add_kernel((s, self.output_units), "context_to_output")
        self.alpha_logit = self.add_weight(
            shape=(s,),
            name="alpha_logit",
            trainable=self.learn_alpha,
            initializer=keras.initializers.Constant(_logit(self.alpha)),
        )
        self.bias = self.add_bias((self.output_units,))

    def project(self, inputs: Any) -> Any:
        """Return A @ x and B @ x."""
        return matmul(inputs, self.kernel), matmul(inputs, self.context_kernel)

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        (ax, bx), (h, s) = projected, states
        a = keras.ops.sigmoid(self.alpha_logit)
        s = (1 - a) * bx + a * s
        recurrent = matmul(self.drop(h), self.recurrent_kernel)
        h = self.recurrent_activation(matmul(s, self.context_to_hidden) + ax + recurrent)
        y = matmul(h, self.hidden_to_output) + matmul(s, self.context_to_output)
        return self.activation(plus(y, self.bias)), [h, s]


def _logit(a: Any) -> Any:
    return np.log(a) - np.log1p(-a)


SCRNCell.spec = CellSpec(
    guide=Guide(
        "plain",
        "Use it when a slow context, such as the topic of a text, should stand beside fast units.",
        ("time scales", "language"),
    ),
    symbols=rename(
        {
            "kernel": "A",
            "context_kernel": "B",
            "recurrent_kernel": "R",
            "context_to_hidden": "P",
            "hidden_to_output": "U",
            "context_to_output": "V",
        }
    )
    | rename({"bias": "b"}, like="hidden_to_output")
    | rename({"alpha_logit": "a"}, to_symbol=sigmoid, from_symbol=_logit),
    more_cases={
        "widths": {"units": 4, "context_units": 3, "output_units": 2, "learn_alpha": True},
        "relu": {"units": 3, "activation": "linear", "recurrent_activation": "relu", "alpha": 0.5},
        "no_bias": {"units": 3, "context_units": 2, "use_bias": False},
    },
    deviations=(
        "The output has a bias, which use_bias=False takes away, and tanh in place of softmax.",
        "torchrecurrent and RecurrentLayers.jl feed the output back in the place of h.",
    ),
).completed(SCRNCell)
