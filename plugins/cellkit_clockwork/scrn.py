"""The structurally constrained recurrent network."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells import Cell, matmul, positive_int, vector_size
from cellkit.errors import problem
from cellkit.registry import CellSpec, Paper, custom
from cellkit.registry.reference import activation, sigmoid


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

    The output is no state: what recurs is h. (torchrecurrent and RecurrentLayers.jl feed y back in
    the place of h.) In the paper y is a softmax over words and has no bias; here it is the output
    of a layer, for others to build on. `a` is one constant in the paper's main model and
    learned per unit, as the logistic function of a weight, in the other.

    Args:
        units: Number of hidden units H.
        context_units: Number of context units C. Default None: as many as hidden units.
        output_units: Size O of the output. Default None: as many as hidden units.
        alpha: Value of a, between 0 and 1. Default 0.95, the paper's: a memory of some 20 steps.
        learn_alpha: Whether a is learned, per unit, from there. Default False, as in the paper's
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
        if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 < alpha < 1:
            raise problem(
                "The context of SCRNCell cannot forget at this rate.",
                received=f"alpha={alpha!r}",
                expected="a number between 0 (forget at once) and 1 (never), neither of them",
                fix="pass e.g. alpha=0.95, the value of the paper",
            )
        self.context_units = positive_int(
            type(self), "context_units", self.units if context_units is None else context_units
        )
        self.output_units = positive_int(
            type(self), "output_units", self.units if output_units is None else output_units
        )
        self.alpha = float(alpha)
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
        return self.activation(y if self.bias is None else y + self.bias), [h, s]


def _logit(a: Any) -> Any:
    return np.log(a) - np.log1p(-a)


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    h, s = states
    a = w["a"]
    s = (1 - a) * (x @ w["B"]) + a * s
    h = activation(config["recurrent_activation"])(s @ w["P"] + x @ w["A"] + h @ w["R"])
    y = activation(config["activation"])(h @ w["U"] + s @ w["V"] + w["b"])
    return y, [h, s]


_SYMBOLS = {
    "kernel": "A",
    "context_kernel": "B",
    "recurrent_kernel": "R",
    "context_to_hidden": "P",
    "hidden_to_output": "U",
    "context_to_output": "V",
}


def _to_symbols(weights: Any, config: Any) -> dict[str, Any]:
    """Turn the logits of a into a."""
    symbols = {symbol: weights[name] for name, symbol in _SYMBOLS.items()}
    zeros = np.zeros(symbols["U"].shape[-1:], symbols["U"].dtype)
    bias = weights["bias"] if config.get("use_bias", True) else zeros
    return {**symbols, "a": sigmoid(weights["alpha_logit"]), "b": bias}


def _from_symbols(symbols: Any, config: Any) -> dict[str, Any]:
    """Turn a into its logits."""
    weights = {name: symbols[symbol] for name, symbol in _SYMBOLS.items()}
    weights["alpha_logit"] = _logit(symbols["a"])
    if config.get("use_bias", True):
        weights["bias"] = symbols["b"]
    elif np.any(symbols["b"]):
        raise problem(
            "The symbol 'b' is a bias, and the cell has none.",
            received="b with values other than zero, and use_bias=False",
            expected="zeros, or no bias",
            fix="make the cell with use_bias=True",
        )
    return weights


def configure(hyper: Any, arrays: Any) -> dict[str, Any]:
    """Return the options that a frozen file implies."""
    return {
        "units": arrays["w.R"].shape[0],
        "context_units": arrays["w.P"].shape[0],
        "output_units": arrays["w.U"].shape[-1],
        "activation": hyper.get("output_activation", "tanh"),
    }


SCRNCell.spec = CellSpec(
    reference=reference,
    inputs=("features",),
    cases={
        "default": {"units": 4},
        "widths": {"units": 4, "context_units": 3, "output_units": 2, "learn_alpha": True},
        "relu": {"units": 3, "activation": "linear", "recurrent_activation": "relu", "alpha": 0.5},
        "no_bias": {"units": 3, "context_units": 2, "use_bias": False},
        "dropout": {"units": 4, "dropout": 0.4, "recurrent_dropout": 0.3, "seed": 1},
    },
    paper=Paper(
        "Mikolov, Joulin, Chopra, Mathieu and Ranzato",
        2014,
        "Learning Longer Memory in Recurrent Neural Networks",
        "arXiv:1412.7753",
    ),
    symbols=custom(to_symbols=_to_symbols, from_symbols=_from_symbols),
    traits=frozenset({"masking", "stateful", "dropout", "recurrent_dropout", "zoneout"}),
    deviations=(
        "The output has a bias, which use_bias=False takes away, and tanh in place of softmax.",
        "torchrecurrent and RecurrentLayers.jl feed the output back in the place of h.",
    ),
    aliases={"scrn": {}},
    states=("h", "s"),
    configure=configure,
)
