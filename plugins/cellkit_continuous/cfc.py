"""The closed-form continuous-time cell."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells import (
    Cell,
    TimeGaps,
    choice,
    constant_gap,
    features_beside_gap,
    matmul,
    plus,
    positive_int,
    precise,
    resolve,
    split,
)
from cellkit.registry import CellSpec, Guide, WeightMap, blocks, configured, rename
from cellkit.registry.reference import activation

_HEADS = {
    "default": ("1", "2", "a", "b"),
    "no_gate": ("1", "2", "a", "b"),
    "pure": ("1",),
}


@keras.saving.register_keras_serializable(package="cellkit_continuous")
def lecun_tanh(x: Any) -> Any:
    """Return ``1.7159 * tanh(0.666 * x)``, which keeps the variance of its inputs near one."""
    return 1.7159 * precise(keras.activations.tanh)(0.666 * x)


@keras.saving.register_keras_serializable(package="cellkit_continuous")
class CfCCell(TimeGaps, Cell):
    """The closed-form continuous-time cell: an ODE's solution, approximated without a solver.

    Paper: Hasani et al. 2021, "Closed-form Continuous-time Neural Models", arXiv:2106.13898, and
    2022 as "Closed-form continuous-time neural networks", doi:10.1038/s42256-022-00556-7.

    ```
    u = act(W_bb @ [x; h] + b_bb)                       backbone, one such layer or several
    f1 = tanh(A_1 @ u + b_1);  f2 = tanh(A_2 @ u + b_2)
    g = s((A_a @ u + b_a) * dt + A_b @ u + b_b)         where on the way from f1 to f2 after dt

    mode="default":  h' = (1 - g) * f1 + g * f2
    mode="no_gate":  h' = f1 + g * f2
    mode="pure":     f = A_1 @ u + b_1
                     h' = A - A * exp(-dt * (|w_tau| + |f|)) * f
    ```

    This is the form of the authors' package (ncps). In the paper the gate is `s(-f * dt)` with f a
    network of its own; the package, and this cell, write the sign into the weights and add A_b.

    Args:
        units: Number of units H.
        mode: `"default"`, `"no_gate"` or `"pure"` (the solution itself, with a decay and a target
            per unit). Default: the gated form, with which the paper reports its results.
        backbone_units: Width of the backbone. Default 128, as in the authors' package.
        backbone_layers: Number of its layers; 0 leaves it out, and u = [x; h]. Default 1.
        backbone_activation: Its activation. Default `"lecun_tanh"`, 1.7159 * tanh(0.666 * v).
        dt: A number: the time gap of every step; the inputs are then x alone. Default None: gaps
            are inputs.
        **kwargs: Options of `cellkit.Cell`: `activation` for f1 and f2, `recurrent_activation` for
            g. One product serves x and h, with the `kernel_*` options. `dropout` drops elements
            of x; time gaps come through whole.

    Inputs: `(x, dt)` of shapes `(batch, features)` and `(batch, 1)`, the gap being the time that
    the step covers; with `dt=1.0` in the constructor x alone. Gaps are 0 or more; a
    negative one is an error wherever its value is known before the run (not in a compiled one).
    States: `[h]` of shape `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(CfCCell(8, backbone_units=16), return_sequences=True)
    >>> layer.compute_output_shape(((None, 10, 3), (None, 10, 1)))
    (None, 10, 8)
    """

    def __init__(
        self,
        units: int,
        *,
        mode: str = "default",
        backbone_units: int = 128,
        backbone_layers: int = 1,
        backbone_activation: Any = "lecun_tanh",
        dt: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, **kwargs)
        self.mode = choice(type(self), "mode", mode, tuple(_HEADS))
        self.backbone_units = positive_int(type(self), "backbone_units", backbone_units)
        self.backbone_layers = _layers(backbone_layers)
        own = backbone_activation == "lecun_tanh"
        named = lecun_tanh if own else backbone_activation
        function = resolve(type(self), "backbone_activation", named)
        self.backbone_activation = precise(function)
        self.dt = constant_gap(type(self), dt, "pass e.g. dt=1.0 for regular steps")

    def build(self, input_shape: Any) -> None:
        """Create the backbone and the heads that the mode has."""
        super().build(input_shape)
        width = (
            features_beside_gap(self, input_shape, "make the cell with dt=1.0 for regular steps")
            + self.units
        )
        backbone = []
        for i in range(self.backbone_layers):
            kernel = self.add_kernel((width, self.backbone_units), f"backbone_kernel_{i}")
            bias = self.add_bias((self.backbone_units,), f"backbone_bias_{i}")
            backbone.append((kernel, bias))
            width = self.backbone_units
        self.backbone = backbone
        heads = len(_HEADS[self.mode]) * self.units
        self.kernel = self.add_kernel((width, heads))
        self.bias = self.add_bias((heads,))
        if self.mode == "pure":
            self.w_tau = self.add_weight(shape=(self.units,), name="w_tau", initializer="zeros")
            self.target = self.add_weight(shape=(self.units,), name="target", initializer="ones")

    def step(self, inputs: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        x, dt = inputs if self.dt is None else (inputs, self.dt)
        u = keras.ops.concatenate([x, self.drop(states[0])], axis=-1)
        for kernel, bias in self.backbone:
            u = self.backbone_activation(_affine(u, kernel, bias))
        heads = split(_affine(u, self.kernel, self.bias), len(_HEADS[self.mode]))
        if self.mode == "pure":
            (f,), a = heads, self.target
            h = a - a * keras.ops.exp(-dt * (keras.ops.abs(self.w_tau) + keras.ops.abs(f))) * f
        else:
            f1, f2 = self.activation(heads[0]), self.activation(heads[1])
            g = self.recurrent_activation(heads[2] * dt + heads[3])
            h = f1 + g * f2 if self.mode == "no_gate" else (1 - g) * f1 + g * f2
        return h, [h]


def _affine(x: Any, kernel: Any, bias: Any) -> Any:
    y = matmul(x, kernel)
    return plus(y, bias)


def _layers(count: Any) -> int:
    return (
        0 if count == 0 and count is not False else positive_int(CfCCell, "backbone_layers", count)
    )


def reference(w: Any, inputs: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    (h,) = states
    x, dt = inputs if config["dt"] is None else (inputs, config["dt"])
    s, tanh = activation(config["recurrent_activation"]), activation(config["activation"])
    u = np.concatenate([x, h], axis=-1)
    for i in _suffixes(config["backbone_layers"]):
        u = _numpy_activation(config["backbone_activation"])(u @ w[f"W_bb{i}"] + w[f"b_bb{i}"])
    f = u @ w["A_1"] + w["b_1"]
    if config["mode"] == "pure":
        h = w["A"] - w["A"] * np.exp(-dt * (np.abs(w["w_tau"]) + np.abs(f))) * f
        return h, [h]
    f1, f2 = tanh(f), tanh(u @ w["A_2"] + w["b_2"])
    g = s((u @ w["A_a"] + w["b_a"]) * dt + u @ w["A_b"] + w["b_b"])
    h = f1 + g * f2 if config["mode"] == "no_gate" else (1 - g) * f1 + g * f2
    return h, [h]


def _numpy_activation(name: Any) -> Any:
    if "lecun_tanh" in str(name):  # a name, or what Keras serialises the function to
        return lambda x: 1.7159 * np.tanh(0.666 * x)
    return activation(name)


def _suffixes(layers: int) -> list[str]:
    """Return the suffixes of the backbone's symbols: none for the first layer, then 2, 3, ..."""
    return ["" if i == 0 else str(i + 1) for i in range(layers)]


def _symbols(config: Any) -> WeightMap:
    """Return the map of the backbone's layers, and of the heads that the mode has."""
    heads = _HEADS[config.get("mode", "default")]
    found = blocks("kernel", [f"A_{h}" for h in heads])
    found |= blocks("bias", [f"b_{h}" for h in heads], like="kernel")
    for i, suffix in enumerate(_suffixes(config.get("backbone_layers", 1))):
        kernel = f"backbone_kernel_{i}"
        found |= rename({kernel: f"W_bb{suffix}"})
        found |= rename({f"backbone_bias_{i}": f"b_bb{suffix}"}, like=kernel)
    pure = rename({"w_tau": "w_tau", "target": "A"})
    return found | pure if config.get("mode") == "pure" else found


CfCCell.spec = CellSpec(
    guide=Guide(
        "continuous",
        "Use it when times between steps differ and a solver of differential equations is too "
        "slow.",
        ("irregular time",),
    ),
    reference=reference,
    inputs=(("features",), (1,)),
    states=("h",),
    symbols=configured(_symbols),
    cases={
        "default": {"units": 4, "backbone_units": 7},
        "no_gate": {"units": 3, "backbone_units": 5, "mode": "no_gate"},
        "pure": {"units": 3, "backbone_units": 5, "mode": "pure"},
        "deep": {"units": 3, "backbone_units": 5, "backbone_layers": 2, "use_bias": False},
        "no_backbone": {"units": 3, "backbone_layers": 0, "activation": "relu"},
        "dropout": {
            "units": 4,
            "backbone_units": 6,
            "backbone_activation": "silu",
            "dropout": 0.4,
            "recurrent_dropout": 0.3,
            "seed": 1,
        },
    },
    deviations=(
        "The gate is s(A_a u dt + A_b u), as in the authors' package; the paper's is s(-f dt).",
    ),
    draw_inputs=lambda inputs: (inputs[0], np.abs(inputs[1])),
).completed(CfCCell)
