"""A recurrent layer is a loop: in plain NumPy, in Keras and in cellkit, with the same weights.

Every tutorial begins with this loop. Here it is for the SimpleRNN and for the LSTM, a few lines
each, beside the layers of Keras and of cellkit with the very same weights. It shows

- the numbers of all three, step by step, for one unit;
- how far apart they are: no further than the same loop in float32 is from the one in float64;
- for comparison a loop with a mistake, the gates i and f the wrong way round.

It ends with exit code 1 if a layer differs from the loop by more than rounding explains, or if the
mistake doesn't stand out.

    python examples/numpy_rnn.py --backend torch
"""

from __future__ import annotations

import sys

import _options
import numpy as np

options = _options.parse(__doc__, plot="numpy_rnn.png")

import _show  # noqa: E402
import keras  # noqa: E402

import cellkit  # noqa: E402

ROWS, STEPS, FEATURES, UNITS = 4, 12 if options.quick else 40, 3, 5
ROUNDING = 10  # a layer may be this many times as far off as the loop in float32


def simple_rnn(x: np.ndarray, W: np.ndarray, U: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the outputs of all steps, of shape (rows, steps, units)."""
    h = np.zeros((len(x), U.shape[0]), x.dtype)
    outputs = []
    for t in range(x.shape[1]):
        h = np.tanh(x[:, t] @ W + h @ U + b)  # the output is also the state of the next step
        outputs.append(h)
    return np.stack(outputs, axis=1)


def lstm(x, W, U, b, order=("i", "f", "c", "o")) -> np.ndarray:
    """The same with four gates, one beside the other in W, U and b, and a second state."""
    h = c = np.zeros((len(x), U.shape[0]), x.dtype)
    outputs = []
    for t in range(x.shape[1]):
        gates = dict(zip(order, np.split(x[:, t] @ W + h @ U + b, 4, axis=1), strict=True))
        i, f, o = (1 / (1 + np.exp(-gates[name])) for name in "ifo")
        c = f * c + i * np.tanh(gates["c"])
        h = o * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs, axis=1)


def compare(name: str, layer: keras.layers.Layer, loop, x: np.ndarray) -> tuple[dict, list]:
    """Run the loop, Keras' layer and cellkit's with the same weights; return these too."""
    random = np.random.default_rng(6)
    layer.build(x.shape)
    weights = [random.normal(0, 0.5, w.shape) for w in layer.get_weights()]  # biases are zero else
    layer.set_weights(weights)
    ours = cellkit.RNN(cellkit.create(name, units=UNITS), return_sequences=True)
    ours.build(x.shape)
    ours.set_weights(weights)
    return {
        "loop": loop(x, *weights),
        "Keras": _show.array(layer(x.astype("float32"))),
        "cellkit": _show.array(ours(x.astype("float32"))),
        "loop in float32": loop(x.astype("float32"), *(w.astype("float32") for w in weights)),
    }, weights


def main() -> int:
    """Compare, print, draw; return the exit code."""
    x = np.random.default_rng(5).normal(size=(ROWS, STEPS, FEATURES))
    results, claims, off = {}, {}, {}
    for name, layer, loop in (
        ("simple_rnn", keras.layers.SimpleRNN(UNITS, return_sequences=True), simple_rnn),
        ("lstm", keras.layers.LSTM(UNITS, return_sequences=True), lstm),
    ):
        found, weights = compare(name, layer, loop, x)
        if name == "lstm":
            found["mistake"] = lstm(x, *weights, order=("f", "i", "c", "o"))
        results[name] = found
        off[name] = {k: np.abs(v - found["loop"]).max(axis=(0, 2)) for k, v in found.items()}
        _show.table(
            f"{name}: output of unit 0 in row 0",
            {
                "step": "{step}",
                "NumPy, float64": "{loop:.7f}",
                "Keras": "{keras:.7f}",
                "cellkit": "{ours:.7f}",
            },
            [
                {
                    "step": t,
                    "loop": found["loop"][0, t, 0],
                    "keras": found["Keras"][0, t, 0],
                    "ours": found["cellkit"][0, t, 0],
                }
                for t in (0, 1, 2, 3, STEPS - 1)
            ],
        )
        rounding = off[name]["loop in float32"].max()
        for whose in ("Keras", "cellkit"):
            largest = off[name][whose].max()
            claims[
                f"{name} of {whose} is {largest:.1e} off the loop; float32 alone: {rounding:.1e}"
            ] = bool(largest <= ROUNDING * rounding)
    mistake = off["lstm"]["mistake"].max()
    claims[f"the loop with a mistake is {mistake:.1e} off"] = bool(mistake > 1e-2)

    with _show.figure(options.plot, "One loop, three times", 2) as (left, right):
        for unit, color in enumerate(_show.COLORS[2:5]):
            left.plot(results["lstm"]["loop"][0, :, unit], color=color, lw=1.5)
            left.plot(results["lstm"]["Keras"][0, :, unit], "o", color=color, mfc="none")
            left.plot(results["lstm"]["cellkit"][0, :, unit], "x", color=color)
        for style, label in (("-", "NumPy"), ("o", "Keras"), ("x", "cellkit")):
            left.plot([], [], style, color=_show.INK, mfc="none", label=label)
        left.set(title="LSTM: three units, one row", xlabel="step", ylabel="output")
        left.legend(frameon=False)
        for whose, label, color, width in (
            ("mistake", "NumPy, two gates swapped", "#b5403a", 1.5),
            ("Keras", "Keras", _show.KERAS, 5),  # wide, as the others lie on top of it
            ("cellkit", "cellkit", _show.CELLKIT, 2.5),
            ("loop in float32", "NumPy in float32", _show.INK, 1),
        ):
            values = np.maximum(off["lstm"][whose], 1e-9)
            right.semilogy(values, color=color, lw=width, label=label)
        right.set(title="LSTM: how far off the loop in float64", xlabel="step", ylim=(1e-9, 10))
        right.set(ylabel="largest difference")
        right.legend(frameon=False, loc="center right")
    return _show.verdict(claims)


if __name__ == "__main__":
    sys.exit(main())
