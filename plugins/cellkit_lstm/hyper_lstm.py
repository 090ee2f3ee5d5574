"""The hyper-LSTM."""

from __future__ import annotations

import functools
import operator
from typing import Any

import keras
import numpy as np

from cellkit.cells import (
    Cell,
    TensorSpec,
    matmul,
    normalize,
    plus,
    positive_int,
    positive_number,
    split,
    vector_size,
)
from cellkit.registry import CellSpec, Guide, WeightMap, blocks, configured, custom, rename
from cellkit.registry.reference import activation

_GATES = ("i", "f", "g", "o")
# Letters of the matrices that make features of p, of the biases there, and of those that use them.
_SCALES = {"row": ("A", "a", "D"), "input": ("B", "e", "E"), "shift": ("C", None, "L")}


@keras.saving.register_keras_serializable(package="cellkit_lstm")
class HyperLSTMCell(Cell):
    """The hyper-LSTM: a small LSTM changes the weights of a large one from step to step.

    Paper: Ha, Dai and Le 2017, "HyperNetworks", arXiv:1609.09106, appendix A.2.2 and A.2.3.

    ```
    the small LSTM, for each gate k of i, f, g, o:
    n_k = gamma_p<k> * norm(P_k @ [h; x] + Q_k @ p + b_k) + beta_p<k>
    q' = s(n_f) * q + s(n_i) * tanh(n_g)
    p' = s(n_o) * tanh(gamma_q * norm(q') + beta_q)

    the large one, for each gate k:
    r_k = D_k @ (A_k @ p' + a_k)                       scales of the rows of U_k
    t_k = E_k @ (B_k @ p' + e_k)                       and of W_k
    y_k = r_k * (U_k @ h) + t_k * (W_k @ x) + L_k @ (C_k @ p') + d_k
    m_k = gamma_<k> * norm(y_k) + beta_<k>
    c' = s(m_f) * c + s(m_i) * tanh(m_g)
    h' = s(m_o) * tanh(gamma_c * norm(c') + beta_c)
    norm(v) = (v - mean(v)) / sqrt(var(v) + epsilon)
    ```

    The small LSTM scales the rows of each matrix of the large one, through a few features for each
    gate. At the start all scales are 0.1, whatever it says, as in the paper.

    Args:
        units: Number of units H of the large LSTM.
        hyper_units: Number of units of the small one. Default 16; the paper has 64 to 128 for a
            thousand units.
        hyper_features: Number of features that scale a matrix. Default 4; the paper has 4 to 32.
        epsilon: Added to the variances. Default 1e-5, as in labml.
        **kwargs: Options of `cellkit.Cell`. `use_bias` is for b, a, e and d; scales and shifts of
            the norms stay.

    Inputs: `(batch, features)`. States: `[h, c, p, q]`, two of shape `(batch, units)` and two of
    `(batch, hyper_units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(HyperLSTMCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    def __init__(
        self,
        units: int,
        *,
        hyper_units: int = 16,
        hyper_features: int = 4,
        epsilon: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, **kwargs)
        self.hyper_units = positive_int(type(self), "hyper_units", hyper_units)
        self.hyper_features = positive_int(type(self), "hyper_features", hyper_features)
        self.epsilon = positive_number(type(self), "epsilon", epsilon)

    @property
    def state_size(self) -> list[TensorSpec]:
        """The states of the large LSTM, then of the small one."""
        large, small = TensorSpec((self.units,)), TensorSpec((self.hyper_units,))
        return [large, large, small, small]

    @property
    def output_size(self) -> int:
        """Width of the output: `units`."""
        return int(self.units)

    def build(self, input_shape: Any) -> None:
        """Create the weights of both LSTMs, of what joins them, and of the norms."""
        super().build(input_shape)
        units, small, features = self.units, self.hyper_units, self.hyper_features
        self.widths = [4 * small, 4 * units]
        self.kernel = self.add_kernel((vector_size(self, input_shape), sum(self.widths)))
        self.recurrent_kernel = self.add_recurrent_kernel((units, sum(self.widths)))
        self.hyper_kernel = self.add_recurrent_kernel((small, 4 * small), "hyper_kernel")
        self.hyper_bias = self.add_bias((4 * small,), "hyper_bias")
        tenth = keras.initializers.Constant(0.1 / features)
        self.features = {}
        for name, (_, bias, _) in _SCALES.items():
            shift = name == "shift"
            start: Any = {} if shift else {"initializer": "zeros"}
            self.features[name] = (
                self.add_recurrent_kernel((small, 4 * features), f"{name}_features", **start),
                self.add_bias((4 * features,), f"{name}_bias", initializer="ones")
                if bias
                else None,
                self.add_weight(
                    shape=(4, features, units),
                    name=f"{name}_scales",
                    initializer="zeros" if shift else tenth,
                ),
            )
        self.bias = self.add_bias((4 * units,))
        for name, size in (
            ("gates", 4 * units),
            ("c", units),
            ("hyper_gates", 4 * small),
            ("q", small),
        ):
            scale = self.add_weight(shape=(size,), name=f"gamma_{name}", initializer="ones")
            shift = self.add_weight(shape=(size,), name=f"beta_{name}", initializer="zeros")
            setattr(self, f"gamma_{name}", scale)
            setattr(self, f"beta_{name}", shift)

    def project(self, inputs: Any) -> Any:
        """Return the products with the inputs, of both LSTMs."""
        return matmul(inputs, self.kernel)

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        h, c, p, q = states
        s, tanh, split_at = self.recurrent_activation, self.activation, self.widths
        x_p, x_y = split(projected, split_at)
        h_p, h_y = split(matmul(self.drop(h), self.recurrent_kernel), split_at)
        a = plus(x_p + h_p + matmul(self.drop(p, "p"), self.hyper_kernel), self.hyper_bias)
        i, f, g, o = split(self.normal(a, 4, "hyper_gates"), 4)
        q = s(f) * q + s(i) * tanh(g)
        p = s(o) * tanh(self.normal(q, 1, "q"))
        y = self.scale("row", p) * h_y + self.scale("input", p) * x_y + self.scale("shift", p)
        i, f, g, o = split(self.normal(plus(y, self.bias), 4, "gates"), 4)
        c = s(f) * c + s(i) * tanh(g)
        h = s(o) * tanh(self.normal(c, 1, "c"))
        return h, [h, c, p, q]

    def normal(self, x: Any, blocks: int, name: str) -> Any:
        """Normalise each block of the last axis apart, then scale and shift."""
        width = x.shape[-1]
        parts = keras.ops.reshape(x, (-1, blocks, width // blocks))
        normed = keras.ops.reshape(normalize(parts, self.epsilon), (-1, width))
        return getattr(self, f"gamma_{name}") * normed + getattr(self, f"beta_{name}")

    def scale(self, name: str, p: Any) -> Any:
        """Return what the small LSTM makes of all rows, gate by gate."""
        kernel, bias, scales = self.features[name]
        features = keras.ops.reshape(plus(matmul(p, kernel), bias), (-1, 4, self.hyper_features, 1))
        rows = keras.ops.sum(features * scales, axis=2)
        return keras.ops.reshape(rows, (-1, 4 * self.units))


def norm(v: Any, epsilon: float) -> Any:
    """Return `v` with mean zero and variance one over the last axis."""
    return (v - v.mean(axis=-1, keepdims=True)) / np.sqrt(v.var(axis=-1, keepdims=True) + epsilon)


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    h, c, p, q = states
    s, tanh = activation(config["recurrent_activation"]), activation(config["activation"])
    epsilon, hx = config["epsilon"], np.concatenate([h, x], axis=-1)
    n = {
        k: w[f"gamma_p{k}"] * norm(hx @ w[f"P_{k}"] + p @ w[f"Q_{k}"] + w.get(f"b_{k}", 0), epsilon)
        + w[f"beta_p{k}"]
        for k in _GATES
    }
    q = s(n["f"]) * q + s(n["i"]) * tanh(n["g"])
    p = s(n["o"]) * tanh(w["gamma_q"] * norm(q, epsilon) + w["beta_q"])
    m = {}
    for k in _GATES:
        r = (p @ w[f"A_{k}"] + w.get(f"a_{k}", 0)) @ w[f"D_{k}"]
        t = (p @ w[f"B_{k}"] + w.get(f"e_{k}", 0)) @ w[f"E_{k}"]
        y = r * (h @ w[f"U_{k}"]) + t * (x @ w[f"W_{k}"])
        y = y + p @ w[f"C_{k}"] @ w[f"L_{k}"] + w.get(f"d_{k}", 0)
        m[k] = w[f"gamma_{k}"] * norm(y, epsilon) + w[f"beta_{k}"]
    c = s(m["f"]) * c + s(m["i"]) * tanh(m["g"])
    h = s(m["o"]) * tanh(w["gamma_c"] * norm(c, epsilon) + w["beta_c"])
    return h, [h, c, p, q]


def _blocks(config: Any) -> dict[str, str]:
    """Return the letter of each weight whose four blocks, one for each gate, lie side by side."""
    names = {"hyper_kernel": "Q", "gamma_gates": "gamma", "beta_gates": "beta"}
    if config.get("use_bias", True):
        names |= {"hyper_bias": "b", "bias": "d"}
    for name, (kernel, bias, _) in _SCALES.items():
        names[f"{name}_features"] = kernel
        if bias and config.get("use_bias", True):
            names[f"{name}_bias"] = bias
    return names


def _by_gate(config: Any) -> WeightMap:
    """Return the map of the weights whose four blocks are the gates."""
    names = {f"{start}_hyper_gates": f"{start}_p" for start in ("gamma", "beta")}
    names |= {weight: f"{letter}_" for weight, letter in _blocks(config).items()}
    maps = [blocks(weight, [letter + k for k in _GATES]) for weight, letter in names.items()]
    return functools.reduce(operator.or_, maps)


def _to_symbols(weights: Any, config: Any) -> dict[str, Any]:
    found = {}
    small = 4 * config["hyper_units"]
    for weight, first, second in (("kernel", "x", "W"), ("recurrent_kernel", "h", "U")):
        pair = np.split(weights[weight], [small], axis=-1)
        for letter, whole in zip((first, second), pair, strict=True):
            parts = np.split(whole, 4, axis=-1)
            found |= {f"{letter}_{k}": part for k, part in zip(_GATES, parts, strict=True)}
    for k in _GATES:
        found[f"P_{k}"] = np.concatenate([found.pop(f"h_{k}"), found.pop(f"x_{k}")])
    for name, (_, _, letter) in _SCALES.items():
        found |= {f"{letter}_{k}": weights[f"{name}_scales"][j] for j, k in enumerate(_GATES)}
    return found


def _from_symbols(symbols: Any, config: Any) -> dict[str, Any]:
    units = config["units"]

    def joined(letter: str, cut: slice = slice(None)) -> Any:
        return np.concatenate([symbols[f"{letter}{k}"][..., cut, :] for k in _GATES], axis=-1)

    def vectors(letter: str) -> Any:
        return np.concatenate([symbols[f"{letter}{k}"] for k in _GATES], axis=-1)

    weights = {}
    above, below = joined("P_", slice(units)), joined("P_", slice(units, None))
    weights["kernel"] = np.concatenate([below, vectors("W_")], axis=-1)
    weights["recurrent_kernel"] = np.concatenate([above, vectors("U_")], axis=-1)
    for name, (_, _, letter) in _SCALES.items():
        weights[f"{name}_scales"] = np.stack([symbols[f"{letter}_{k}"] for k in _GATES])
    return weights


HyperLSTMCell.spec = CellSpec(
    guide=Guide(
        "lstm",
        "Use it when what a step should do changes along the sequence, as in text or handwriting.",
        ("normalised", "language"),
    ),
    reference=reference,
    states=("h", "c", "p", "q"),
    symbols=configured(_by_gate)
    | rename({name: name for name in ("gamma_c", "beta_c", "gamma_q", "beta_q")})
    | custom(to_symbols=_to_symbols, from_symbols=_from_symbols),
    cases={
        # A norm over very few units divides by what may be next to nothing.
        "default": {"units": 6, "hyper_units": 7, "hyper_features": 2},
        "small": {"units": 5, "hyper_units": 4, "hyper_features": 3, "epsilon": 0.1},
        "softsign": {
            "units": 5,
            "hyper_units": 6,
            "hyper_features": 1,
            "activation": "softsign",
            "recurrent_activation": "hard_sigmoid",
        },
        "no_bias": {"units": 5, "hyper_units": 6, "hyper_features": 2, "use_bias": False},
        "dropout": {
            "units": 6,
            "hyper_units": 7,
            "hyper_features": 2,
            "dropout": 0.4,
            "recurrent_dropout": 0.3,
            "seed": 1,
        },
    },
).completed(HyperLSTMCell)
