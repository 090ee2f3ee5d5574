"""A gated recurrent unit that weighs its modalities at every step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from cellkit.cells import Cell, TensorSpec, matmul, plus, split
from cellkit.registry import CellSpec, Guide, Paper, custom
from cellkit.registry.reference import activation
from cellkit_nested._modalities import flatten, modalities


@keras.saving.register_keras_serializable(package="cellkit_nested")
class GatedFusionCell(Cell):
    """A gated recurrent unit over several modalities, with a learned weight for each of them.

    Source: a design of this package, out of two published units. Arevalo, Solorio, Montes-y-Gomez
    and Gonzalez 2017, "Gated Multimodal Units for Information Fusion", arXiv:1702.01992:
    encode each modality, and let gates decide how much of each to take. Cho et al. 2014,
    arXiv:1406.1078v1: the gated recurrent unit, here with the reset after the recurrent product.

    With the modalities x_1 ... x_M of a step, each flattened to a vector, and x all of them in
    one vector:

    ```
    e_m = tanh(E_m @ x_m + d_m)                             encoding of modality m
    a = softmax over m of (A_m @ x + B_m @ h + c_m)         how much of it to take, per unit
    z = s(W_z @ x + U_z @ h + b_z)                          update gate
    r = s(W_r @ x + U_r @ h + b_r)                          reset gate
    n = tanh(sum over m of a_m * e_m + r * (U_n @ h + b_n))
    h' = z * h + (1 - z) * n
    ```

    For each unit the weights a_1 ... a_M add up to one, so they say which modality the unit
    listens to, and no modality drowns the others by its scale or its number of features. They
    see the state: a cell can learn to look elsewhere while one sensor says nothing new.

    Args:
        units: Number of units H.
        return_gates: True if the output is `{"gates": a, "output": h'}` instead of h', to see
            which modality counted when. Default False. It changes no number.
        **kwargs: Options of `cellkit.Cell`: `activation` for e and n, `recurrent_activation` for
            z and r, `kernel_*` for E, A and W, `recurrent_*` for B and U, `bias_*` for the rest.

    Inputs: any structure of modalities, leaves `(batch, ...)`; one tensor is one modality. States:
    `[h]` of shape `(batch, units)`. Output: h', or with `return_gates` a dict of h' and the
    weights a, of shape `(batch, modalities, units)`, modalities in the order in which Keras
    flattens the inputs (a dict by its sorted keys).

    Example:
    >>> import cellkit
    >>> import numpy as np
    >>> layer = cellkit.RNN(GatedFusionCell(8))
    >>> watch = {"acc": np.zeros((2, 10, 3)), "gyro": np.zeros((2, 10, 3))}
    >>> tuple(layer(watch).shape)
    (2, 8)
    """

    def __init__(self, units: int, *, return_gates: bool = False, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        self.return_gates = bool(return_gates)

    @property
    def output_size(self) -> Any:
        """Size of h', or with `return_gates` the shapes of both outputs."""
        if not self.return_gates:
            return self.units
        return {"gates": TensorSpec((None, self.units)), "output": TensorSpec(self.units)}

    def build(self, input_shape: Any) -> None:
        """Create the encoders, one kernel for all gates, the recurrent kernel and the biases."""
        super().build(input_shape)
        self._inputs = modalities(self, input_shape)
        count, size = len(self._inputs), sum(m.size for m in self._inputs)
        gates = (2 + count) * self.units
        self.encoders = [
            self.add_kernel((m.size, self.units), f"encoder_{m.name}") for m in self._inputs
        ]
        self.kernel = self.add_kernel((size, gates))
        self.recurrent_kernel = self.add_recurrent_kernel((self.units, gates + self.units))
        self.encoding_bias = self.add_bias((count, self.units), "encoding_bias")
        self.bias = self.add_bias((gates + self.units,))

    def project(self, inputs: Any) -> tuple[Any, Any]:
        """Return the encodings `(rows, modalities, units)`, and all gates before the state."""
        leaves = flatten(self, inputs, self._inputs)
        x = [
            keras.ops.reshape(leaf, (-1, m.size))
            for leaf, m in zip(leaves, self._inputs, strict=True)
        ]
        products = [matmul(x_m, encoder) for x_m, encoder in zip(x, self.encoders, strict=True)]
        e = keras.ops.stack(products, axis=1)
        e = plus(e, self.encoding_bias)
        return self.activation(e), matmul(keras.ops.concatenate(x, axis=-1), self.kernel)

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        (e, gates), h, count = projected, states[0], len(self._inputs)
        recurrent = plus(matmul(self.drop(h), self.recurrent_kernel), self.bias)
        *parts, h_n = split(recurrent, 3 + count)
        z, r, *a = [x + u for x, u in zip(split(gates, 2 + count), parts, strict=True)]
        z, r = self.recurrent_activation(z), self.recurrent_activation(r)
        a = _shares(keras.ops.stack(a, axis=1))
        n = self.activation(keras.ops.sum(a * e, axis=1) + r * h_n)
        h = z * h + (1 - z) * n
        return ({"gates": a, "output": h} if self.return_gates else h), [h]


def _shares(scores: Any) -> Any:
    """Return the softmax over the modalities, of which there may be one."""
    if scores.shape[1] == 1:  # Keras warns of a softmax over one value
        return keras.ops.ones_like(scores)
    return keras.ops.softmax(scores, axis=1)


def reference(w: Any, inputs: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    (h,) = states
    s, tanh = activation(config["recurrent_activation"]), activation(config["activation"])
    named = sorted(inputs.items()) if isinstance(inputs, Mapping) else enumerate(inputs)
    flat = {name: v.reshape(len(v), np.prod(v.shape[1:], dtype=int)) for name, v in named}
    x = np.concatenate(list(flat.values()), axis=1)
    scores, encodings = [], []
    for m, name in enumerate(flat):
        encodings.append(tanh(flat[name] @ w[f"E_{name}"] + w["d"][m]))
        scores.append(x @ w["A"][m] + h @ w["B"][m] + w["c"][m])
    exp = np.exp(np.array(scores) - np.max(scores, axis=0))
    a = exp / exp.sum(axis=0)
    z = s(x @ w["W_z"] + h @ w["U_z"] + w["b_z"])
    r = s(x @ w["W_r"] + h @ w["U_r"] + w["b_r"])
    n = tanh((a * np.array(encodings)).sum(axis=0) + r * (h @ w["U_n"] + w["b_n"]))
    h = z * h + (1 - z) * n
    return ({"gates": a.swapaxes(0, 1), "output": h} if config["return_gates"] else h), [h]


def _to_symbols(weights: Any, config: Any) -> dict[str, Any]:
    """Split the weights by gate; A, B and c hold one block per modality along their first axis."""
    encoders = {k: v for k, v in weights.items() if k.startswith("encoder_")}
    count, units = len(encoders), weights["recurrent_kernel"].shape[0]
    if config["use_bias"]:
        d, bias = weights["encoding_bias"], weights["bias"]
    else:
        d, bias = np.zeros((count, units)), np.zeros((3 + count) * units)
    w_z, w_r, *a = np.split(weights["kernel"], 2 + count, axis=1)
    u_z, u_r, *b, u_n = np.split(weights["recurrent_kernel"], 3 + count, axis=1)
    b_z, b_r, *c, b_n = np.split(bias, 3 + count)
    return {
        **{f"E_{k.removeprefix('encoder_')}": v for k, v in encoders.items()},
        **{"d": d, "A": np.stack(a), "B": np.stack(b), "c": np.stack(c)},
        **{"W_z": w_z, "W_r": w_r, "U_z": u_z, "U_r": u_r, "U_n": u_n},
        **{"b_z": b_z, "b_r": b_r, "b_n": b_n},
    }


def _from_symbols(symbols: Any, config: Any) -> dict[str, Any]:
    """Join the gates in the order z, r, one per modality, n."""
    s = symbols
    weights = {f"encoder_{k.removeprefix('E_')}": v for k, v in s.items() if k.startswith("E_")}
    weights["kernel"] = np.concatenate([s["W_z"], s["W_r"], *s["A"]], axis=1)
    weights["recurrent_kernel"] = np.concatenate([s["U_z"], s["U_r"], *s["B"], s["U_n"]], axis=1)
    bias = np.concatenate([s["b_z"], s["b_r"], *s["c"], s["b_n"]])
    biases = {"encoding_bias": s["d"], "bias": bias} if config["use_bias"] else {}
    return {**weights, **biases}


GatedFusionCell.spec = CellSpec(
    paper=Paper(
        "Arevalo, Solorio, Montes-y-Gomez and Gonzalez",
        2017,
        "Gated Multimodal Units for Information Fusion",
        "arXiv:1702.01992",
    ),
    guide=Guide(
        "several inputs",
        "Use it when several sensors or modalities describe one moment and their worth changes.",
        ("several inputs", "interpretable"),
    ),
    reference=reference,
    inputs={"acc": ("f_acc",), "gyro": ("axes", "samples")},
    states=("h",),
    symbols=custom(to_symbols=_to_symbols, from_symbols=_from_symbols),
    more_cases={"gates": {"units": 3, "return_gates": True}},
    deviations=(
        "The paper's unit has no recurrence; here it makes the candidate of a recurrent one.",
        "The paper ties the gates of two modalities as g and 1 - g, and gives three or more "
        "independent sigmoids; here softmax ties any number of them.",
        "The paper's gates see the inputs alone and have no biases; these see the state too.",
    ),
).completed(GatedFusionCell)
