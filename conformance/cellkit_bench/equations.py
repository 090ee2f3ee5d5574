"""Steps written by hand, as a user of a bare framework would write them.

Each takes `xp` (functions of one framework), the weights of the cell by name, the inputs of one
step and the states, and returns the output and the new states.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Step = Callable[[Any, dict[str, Any], Any, list[Any]], tuple[Any, list[Any]]]


def _lstm(xp: Any, w: dict[str, Any], x: Any, states: list[Any]) -> tuple[Any, list[Any]]:
    h, c = states
    i, f, g, o = xp.split(x @ w["kernel"] + h @ w["recurrent_kernel"] + w["bias"], 4)
    c = xp.sigmoid(f) * c + xp.sigmoid(i) * xp.tanh(g)
    h = xp.sigmoid(o) * xp.tanh(c)
    return h, [h, c]


def _peephole_lstm(xp: Any, w: dict[str, Any], x: Any, states: list[Any]) -> tuple[Any, list[Any]]:
    h, c = states
    i, f, g, o = xp.split(x @ w["kernel"] + h @ w["recurrent_kernel"] + w["bias"], 4)
    p_i, p_f, p_o = xp.split(w["peephole_kernel"], 3)
    c = xp.sigmoid(f + p_f * c) * c + xp.sigmoid(i + p_i * c) * xp.tanh(g)
    h = xp.sigmoid(o + p_o * c) * xp.tanh(c)
    return h, [h, c]


def _norm(xp: Any, x: Any) -> Any:
    centred = x - xp.mean(x)
    return centred * (xp.mean(centred * centred) + 1e-5) ** -0.5


def _layer_norm_lstm(
    xp: Any, w: dict[str, Any], x: Any, states: list[Any]
) -> tuple[Any, list[Any]]:
    h, c = states
    from_x = w["gamma_x"] * _norm(xp, x @ w["kernel"])
    from_h = w["gamma_h"] * _norm(xp, h @ w["recurrent_kernel"])
    i, f, g, o = xp.split(from_x + from_h + w["bias"], 4)
    c = xp.sigmoid(f) * c + xp.sigmoid(i) * xp.tanh(g)
    h = xp.sigmoid(o) * xp.tanh(w["gamma_c"] * _norm(xp, c) + w["beta_c"])
    return h, [h, c]


def _gru(xp: Any, w: dict[str, Any], x: Any, states: list[Any]) -> tuple[Any, list[Any]]:
    (h,) = states
    x_z, x_r, x_n = xp.split(x @ w["kernel"] + w["bias"][0], 3)
    h_z, h_r, h_n = xp.split(h @ w["recurrent_kernel"] + w["bias"][1], 3)
    z, r = xp.sigmoid(x_z + h_z), xp.sigmoid(x_r + h_r)
    h = z * h + (1 - z) * xp.tanh(x_n + r * h_n)
    return h, [h]


def _simple_rnn(xp: Any, w: dict[str, Any], x: Any, states: list[Any]) -> tuple[Any, list[Any]]:
    h = xp.tanh(x @ w["kernel"] + states[0] @ w["recurrent_kernel"] + w["bias"])
    return h, [h]


STEPS: dict[str, tuple[int, Step]] = {
    "lstm": (2, _lstm),
    "peephole_lstm": (2, _peephole_lstm),
    "layer_norm_lstm": (2, _layer_norm_lstm),
    "gru": (1, _gru),
    "simple_rnn": (1, _simple_rnn),
}
"""By cell: the number of its states, and the step."""
