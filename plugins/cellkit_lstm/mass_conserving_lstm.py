"""The mass-conserving LSTM."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells import Cell, TensorSpec, as_dtype, choice, matmul, plus, split, vector_size
from cellkit.errors import problem
from cellkit.registry import CellSpec, Guide, WeightMap, configured, gate_blocks
from cellkit.registry.reference import activation

_VARIANTS = ("paper", "hydrology")
_EPSILON = 1e-5


@keras.saving.register_keras_serializable(package="cellkit_lstm")
class MassConservingLSTMCell(Cell):
    """The mass-conserving LSTM: what comes in is stored or given out, and nothing is lost.

    Paper: Hoedt et al. 2021, "MC-LSTM: Mass-Conserving LSTM", arXiv:2101.05186, section 2;
    the form for hydrology is that of its appendix B.4.

    ```
    q = c / (|c|_1 + 1e-5)                       the share of every cell
    variant="paper":      a = xa
    variant="hydrology":  a = [xm; xa]
    o = s(W_o @ a + U_o @ q + b_o)                             part that leaves
    i = rows(W_i @ a + U_i @ q + b_i)                          (M, H): where each mass goes
    R = rows(W_r @ a + U_r @ q + b_r)                          (H, H): where stored mass goes
    m = i^T @ xm + R^T @ c
    y = o * m;  c' = (1 - o) * m
    ```

    Every row of i and R sums to one, so that ``sum(y) + sum(c') = sum(xm) + sum(c)``. `rows` is the
    softmax of a row in the paper. For hydrology it is s(v), for i, or relu(v), for R, divided by
    the sum over the row: mass can then stay where it is entirely. A row of R in which no number is
    positive loses its mass there.

    It is not a relative of `MemoryControllerLSTMCell`, which papers also call MC-LSTM.

    neuralhydrology divides c by its norm over the whole batch, which makes a row depend on the
    others of its batch.

    Args:
        units: Number of cells H that hold mass.
        variant: `"paper"` (default) or `"hydrology"`.
        output_bias: Initial bias of o. Default 0.0. A negative number keeps mass in at first, as a
            forget gate that starts open does.
        **kwargs: Options of `cellkit.Cell`: `recurrent_activation` for o, and for i of hydrology.
            `dropout` drops elements of xa; mass comes through whole. There is no `zoneout`, which
            would make mass out of nothing.

    Inputs: `(xm, xa)` of shapes `(batch, M)`, masses of 0 or more, and `(batch, features)`, what
    the gates see. States: `[c]` of shape `(batch, units)`. Output: y of shape `(batch, units)`, the
    mass that leaves each cell.

    Raises:
        ValueError: If the inputs are not two, or a mass is negative.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(MassConservingLSTMCell(8), return_sequences=True)
    >>> layer.compute_output_shape(((None, 10, 1), (None, 10, 5)))
    (None, 10, 8)
    """

    def __init__(
        self,
        units: int,
        *,
        variant: str = "paper",
        output_bias: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, **kwargs)
        self.variant = choice(type(self), "variant", variant, _VARIANTS)
        self.output_bias = float(output_bias)
        if self.zoneout:
            raise problem(
                "MassConservingLSTMCell has no zoneout.",
                received=f"zoneout={self.zoneout}",
                expected="zoneout=0.0: a state that is kept after its mass has left makes mass",
                fix="use `recurrent_dropout`, which drops what the gates see",
            )

    @property
    def state_size(self) -> TensorSpec:
        """The mass in every cell."""
        return TensorSpec((self.units,))

    @property
    def output_size(self) -> int:
        """Width of the output: `units`."""
        return int(self.units)

    def build(self, input_shape: Any) -> None:
        """Create `kernel`, `recurrent_kernel` and `bias`, for o, i and R side by side."""
        masses, seen = _sizes(self, input_shape)
        super().build(input_shape)
        self.masses = masses
        self.widths = [self.units, masses * self.units, self.units * self.units]
        rows = seen + (masses if self.variant == "hydrology" else 0)
        self.kernel = self.add_kernel((rows, sum(self.widths)))
        self.recurrent_kernel = self.add_recurrent_kernel((self.units, sum(self.widths)))
        self.bias = self.add_bias((sum(self.widths),), initializer=self._biases)

    def _biases(self, shape: Any, dtype: Any = None) -> Any:
        rest = sum(self.widths[1:])
        draw = self.draw_apart(self.bias_initializer, (rest,))
        first = keras.ops.full((self.units,), self.output_bias, dtype=dtype)
        return keras.ops.concatenate([first, draw((rest,), dtype=dtype)])

    def drop_inputs(self, inputs: Any) -> Any:
        """Drop elements of xa alone."""
        return inputs[0], super().drop_inputs(inputs[1])

    def check_values(self, sequences: Any) -> None:
        """Refuse masses that are negative."""
        found = np.argwhere(sequences[0] < 0)
        if len(found):
            row, step = (int(i) for i in found[0][:2])
            raise problem(
                "A mass that goes into MassConservingLSTMCell is negative.",
                received=f"a mass of {sequences[0][tuple(found[0])]:g} at step {step} of row {row}",
                expected="masses of 0 or more, not centred",
                fix="pass what can be negative as the second input, which the gates see",
            )

    def project(self, inputs: Any) -> Any:
        """Return the masses, and what the gates make of the inputs."""
        xm, xa = inputs
        seen = keras.ops.concatenate([xm, xa], axis=-1) if self.variant == "hydrology" else xa
        projected = matmul(seen, self.kernel)
        return xm, plus(projected, self.bias)

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        (xm, a), c, reshape = projected, states[0], keras.ops.reshape
        wide = as_dtype(c, self.accumulator_dtype)  # the epsilon is nothing in float16
        total = keras.ops.sum(keras.ops.abs(wide), axis=-1, keepdims=True)
        q = as_dtype(wide / (total + _EPSILON), self.compute_dtype)
        o, i, r = split(a + matmul(self.drop(q), self.recurrent_kernel), self.widths)
        o = self.recurrent_activation(o)
        i = reshape(i, (-1, self.masses, self.units))
        r = reshape(r, (-1, self.units, self.units))
        if self.variant == "paper":
            i, r = keras.ops.softmax(i, axis=-1), keras.ops.softmax(r, axis=-1)
        else:
            i, r = _share(self.recurrent_activation(i)), _share(keras.ops.relu(r))
        m = keras.ops.sum(xm[:, :, None] * i, axis=1) + keras.ops.sum(c[:, :, None] * r, axis=1)
        return o * m, [(1 - o) * m]


def _share(values: Any) -> Any:
    """Divide each row by its sum; a row of zeros stays one."""
    total = keras.ops.sum(values, axis=-1, keepdims=True)
    return values / keras.ops.where(total > 0, total, keras.ops.ones_like(total))


def _sizes(cell: Any, shapes: Any) -> tuple[int, int]:
    """Return the number of masses and of other inputs, or raise a three-part `ValueError`."""
    pair = isinstance(shapes, (list, tuple)) and len(shapes) == 2
    if not pair or not all(isinstance(shape, (list, tuple)) for shape in shapes):
        raise problem(
            "MassConservingLSTMCell takes masses, and inputs for its gates.",
            received=f"inputs of one step with shape {shapes}",
            expected="a pair (xm, xa) of shapes (batch, M) and (batch, features)",
            fix="pass `(xm, xa)` to the layer; where everything is mass, pass it twice",
        )
    return vector_size(cell, shapes[0]), vector_size(cell, shapes[1])


def reference(w: Any, inputs: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    (xm, xa), (c,) = inputs, states
    s, units = activation(config["recurrent_activation"]), config["units"]
    q = c / (np.abs(c).sum(axis=-1, keepdims=True) + _EPSILON)
    a = np.concatenate([xm, xa], axis=-1) if config["variant"] == "hydrology" else xa
    o, i, r = (a @ w[f"W_{g}"] + q @ w[f"U_{g}"] + w.get(f"b_{g}", 0) for g in "oir")
    o, i, r = s(o), i.reshape(len(c), xm.shape[1], units), r.reshape(len(c), units, units)
    if config["variant"] == "paper":
        i, r = np.exp(i), np.exp(r)
    else:
        i, r = s(i), np.maximum(r, 0)
    total = i.sum(axis=-1, keepdims=True), r.sum(axis=-1, keepdims=True)
    i, r = (v / np.where(t > 0, t, 1) for v, t in zip((i, r), total, strict=True))
    m = np.einsum("bm,bmh->bh", xm, i) + np.einsum("bk,bkh->bh", c, r)
    return o * m, [(1 - o) * m]


def _gates(config: Any) -> WeightMap:
    """Return the map of the gates; i is as wide as the number of masses says."""
    units = config["units"]
    return gate_blocks({"o": units, "i": None, "r": units * units})


MassConservingLSTMCell.spec = CellSpec(
    guide=Guide(
        "lstm",
        "Use it when a quantity is conserved, such as water, money or people.",
        ("several inputs", "conservation", "interpretable"),
    ),
    reference=reference,
    inputs=(("masses",), ("features",)),
    states=("c",),
    symbols=configured(_gates),
    cases={
        "default": {"units": 4},
        "hydrology": {"units": 3, "variant": "hydrology", "output_bias": -1.0},
        "no_bias": {"units": 3, "use_bias": False, "recurrent_activation": "hard_sigmoid"},
        "dropout": {"units": 4, "dropout": 0.4, "recurrent_dropout": 0.3, "seed": 1},
    },
    traits={"masking", "stateful", "dropout", "recurrent_dropout"},
    deviations=(
        "neuralhydrology divides c by its norm over the whole batch.",
        "The paper divides c by its norm without 1e-5, which fails for empty cells.",
    ),
    aliases={
        "mass_conserving_lstm_hydrology": {"variant": "hydrology"},
    },
    # Masses are not negative; a tenth keeps their sum away from the 1e-5 beside it.
    draw_states=lambda states: [np.abs(states[0]) + 0.1],
    draw_inputs=lambda inputs: (np.abs(inputs[0]), inputs[1]),
).completed(MassConservingLSTMCell)
