"""The recurrent highway network."""

from __future__ import annotations

from typing import Any

import keras

from cellkit.cells import Cell, matmul, plus, positive_int, split, vector_size
from cellkit.registry import CellSpec, Guide, WeightMap, blocks, configured
from cellkit.registry.reference import activation


@keras.saving.register_keras_serializable(package="cellkit_plain")
class RHNCell(Cell):
    """The recurrent highway network: several highway layers within one step.

    Paper: Zilly, Srivastava, Koutnik and Schmidhuber 2017, "Recurrent Highway Networks",
    arXiv:1607.03474, section 4.

    ```
    v = h
    for d = 1..depth:
      p = tanh(W_p @ x + U_p<d> @ v + b_p<d>)       proposal; W @ x for d = 1 alone
      t = s(W_t @ x + U_t<d> @ v + b_t<d>)          transform gate
      c = 1 - t                                     coupled=True
      c = s(W_c @ x + U_c<d> @ v + b_c<d>)          coupled=False: a carry gate of its own
      v := p * t + v * c
    h' = v
    ```

    A step of depth d has d products in a row, which a step of an LSTM does not: transitions from
    state to state may be that complicated.

    Args:
        units: Number of units H.
        depth: Number of layers in a step. Default 3. The paper goes to 10; a step takes that much
            longer.
        coupled: True where the carry gate is what the transform gate leaves. Default True, as in
            most of the paper's experiments.
        transform_bias: Initial bias of the transform gates. Default -2.0: at first a step keeps
            most of the state at every layer, as the paper starts them.
        **kwargs: Options of `cellkit.Cell`. `recurrent_dropout` has a mask for each layer.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(RHNCell(8, depth=4))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    def __init__(
        self,
        units: int,
        *,
        depth: int = 3,
        coupled: bool = True,
        transform_bias: float = -2.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, **kwargs)
        self.depth = positive_int(type(self), "depth", depth)
        self.coupled = bool(coupled)
        self.transform_bias = float(transform_bias)

    def build(self, input_shape: Any) -> None:
        """Create `kernel`, and a recurrent kernel and a bias for each layer."""
        super().build(input_shape)
        names = _gates(self.coupled)
        width = len(names) * self.units
        special = {"t": keras.initializers.Constant(self.transform_bias)}

        def biases(shape: Any, dtype: Any = None) -> Any:
            return self.draw_by_gate(names, special, (self.units,), dtype=dtype)

        self.kernel = self.add_kernel((vector_size(self, input_shape), width))
        recurrent, bias = [], []
        for d in range(1, self.depth + 1):
            recurrent.append(
                self.add_recurrent_kernel((self.units, width), f"recurrent_kernel_{d}")
            )
            bias.append(self.add_bias((width,), f"bias_{d}", initializer=biases))
        self.recurrent_kernels, self.biases = recurrent, bias

    def project(self, inputs: Any) -> Any:
        """Return ``W @ x + b`` of the first layer."""
        return plus(matmul(inputs, self.kernel), self.biases[0])

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        v, a = states[0], projected
        for d, kernel in enumerate(self.recurrent_kernels):
            if d and self.biases[d] is not None:
                a = a + self.biases[d]
            product = matmul(self.drop(v, f"layer {d}"), kernel)
            blocks = split(a + product, 2 if self.coupled else 3)
            p, t = self.activation(blocks[0]), self.recurrent_activation(blocks[1])
            c = 1 - t if self.coupled else self.recurrent_activation(blocks[2])
            v, a = p * t + v * c, 0.0
        return v, [v]


def _gates(coupled: bool) -> str:
    return "pt" if coupled else "ptc"


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    (v,) = states
    s, tanh = activation(config["recurrent_activation"]), activation(config["activation"])
    for d in range(1, config["depth"] + 1):
        a = {
            gate: (x @ w[f"W_{gate}"] if d == 1 else 0) + v @ w[f"U_{gate}{d}"] + w[f"b_{gate}{d}"]
            for gate in _gates(config["coupled"])
        }
        t = s(a["t"])
        v = tanh(a["p"]) * t + v * (1 - t if config["coupled"] else s(a["c"]))
    return v, [v]


def _symbols(config: Any) -> WeightMap:
    """Return the map of `kernel` and of the weights of every layer."""
    gates = _gates(config["coupled"])
    found = blocks("kernel", [f"W_{gate}" for gate in gates])
    for d in range(1, config["depth"] + 1):
        found |= blocks(f"recurrent_kernel_{d}", [f"U_{gate}{d}" for gate in gates])
        found |= blocks(f"bias_{d}", [f"b_{gate}{d}" for gate in gates], like="kernel")
    return found


RHNCell.spec = CellSpec(
    guide=Guide(
        "plain",
        "Use it when the way from one state to the next is more than one layer can say.",
        ("depth", "language"),
    ),
    reference=reference,
    states=("h",),
    symbols=configured(_symbols),
    cases={
        "default": {"units": 4},
        "flat": {"units": 3, "depth": 1, "transform_bias": 0.0},
        "carry": {"units": 3, "depth": 2, "coupled": False, "activation": "softsign"},
        "no_bias": {
            "units": 3,
            "depth": 2,
            "use_bias": False,
            "recurrent_activation": "hard_sigmoid",
        },
        "dropout": {"units": 4, "depth": 2, "dropout": 0.4, "recurrent_dropout": 0.3, "seed": 1},
    },
).completed(RHNCell)
