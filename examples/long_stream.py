"""An endless sequence in pieces: the state goes on from one piece to the next.

A machine is switched on and off by rare pulses, in the middle of noise; is it running now? Who sees
only the last fifty steps mostly saw no pulse, so a layer has to carry what it knows. It shows

- training on pieces with `stateful=True`: in `cellkit.RNN`, `fit` and `predict` carry the state on
  on every backend; `keras.layers.LSTM` stops with an error on PyTorch and forgets it on JAX;
- three ways through the same stream that give the same numbers: in one call, piece by piece, and
  step by step with `layer.step`;
- the memory of the process on the way: it grows with the length in one call, and not in pieces.

It ends with exit code 1 if carrying the state is not much better than starting afresh with every
piece, if the three ways differ, or if the memory of the pieces grows like that of one call.

    python examples/long_stream.py --backend torch
"""

from __future__ import annotations

import sys
from pathlib import Path

import _options
import numpy as np

options = _options.parse(__doc__, plot="long_stream.png")

import _show  # noqa: E402
import keras  # noqa: E402

import cellkit  # noqa: E402

STREAMS, PIECE = 16, 50  # streams side by side; steps of a piece
PIECES = 40
EPOCHS = 10
UNITS = 16
RARE = 1 / 100  # how probable a pulse is in a step
WIDE, WIDE_UNITS = 32, 64  # for the memory: streams and units
LENGTHS = (1000, 2000, 4000) if options.quick else (1000, 2000, 4000, 8000, 16000)


def stream(seed: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return noise with pulses `(streams, steps, 2)`, and whether the machine runs."""
    random = np.random.default_rng(seed)
    pulses = random.random((STREAMS, steps)) < RARE
    pulses[:, 0] = True
    directions = np.where(pulses, random.choice((-2.0, 2.0), size=pulses.shape), 0)
    last = np.maximum.accumulate(np.where(pulses, np.arange(steps), 0), axis=1)
    running = np.take_along_axis(directions, last, axis=1) > 0
    values = np.stack([directions, random.normal(0, 0.5, pulses.shape)], axis=-1)
    return values.astype("float32"), running[..., None].astype("float32")


def pieces(values: np.ndarray) -> np.ndarray:
    """Cut streams into pieces, all streams' first piece first: the order that `stateful` wants."""
    cut = values.reshape(STREAMS, -1, PIECE, values.shape[-1])
    return cut.swapaxes(0, 1).reshape(-1, PIECE, values.shape[-1])


def build(layer: keras.layers.Layer) -> keras.Model:
    """Return a compiled model that says of every step whether the machine runs."""
    inputs = keras.Input(batch_shape=(STREAMS, PIECE, 2))
    running = keras.layers.Dense(1, activation="sigmoid")(layer(inputs))
    model = keras.Model(inputs, running)
    model.compile(
        keras.optimizers.Adam(0.03),
        "binary_crossentropy",
        metrics=["accuracy"],
        jit_compile=_show.COMPILED,
    )
    return model


def accuracy(model: keras.Model, layer, values, running, carried: bool) -> float:
    """Return the accuracy on a stream, with the state carried on or not."""
    layer.reset_state()
    right = []
    cut = [np.split(pieces(v), v.shape[1] // PIECE) for v in (values, running)]
    for x, y in zip(*cut, strict=True):
        if not carried:
            layer.reset_state()
        right.append((model.predict(x, batch_size=STREAMS, verbose=0) > 0.5) == (y > 0.5))
    return float(np.mean(right))


def trained(bars, name: str, model: keras.Model, layer, train, test) -> dict:
    """Train on the pieces in their order, and return how well it does."""
    start = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: layer.reset_state())
    run = {"epochs": EPOCHS, "batch_size": STREAMS, "shuffle": False, "callbacks": [start]}
    try:
        curves = _show.fit(bars, name, model, *map(pieces, train), **run)
    except RuntimeError as error:
        if isinstance(layer, cellkit.RNN):
            raise
        bars.console.print(f"{name} stops: {str(error).partition(':')[0]}.")
        return {"stopped": type(error).__name__}
    ways = {"carried": True, "afresh": False}
    scores = {way: accuracy(model, layer, *test, carried) for way, carried in ways.items()}
    return {"seconds": curves["seconds"], **scores}


def three_ways(cell, values: np.ndarray) -> dict[str, np.ndarray]:
    """Return the outputs of one cell for a stream: in one call, by pieces, by steps."""
    whole = cellkit.RNN(cell, return_sequences=True)
    carried = cellkit.RNN(cell, return_sequences=True, stateful=True)
    parts = np.split(values, values.shape[1] // PIECE, axis=1)
    by_step, states = [], None
    for t in range(values.shape[1]):
        output, states = whole.step(values[:, t], states)
        by_step.append(_show.array(output))
    return {
        "one call": _show.array(whole(values)),
        "pieces": np.concatenate([_show.array(carried(x)) for x in parts], axis=1),
        "steps": np.stack(by_step, axis=1),
    }


def memory() -> float:
    """Return the megabytes that this process holds; where there is no /proc, the most it held."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        import os

        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**20 if sys.platform == "darwin" else most / 2**10


def call_of(layer):
    """Return the layer; on TensorFlow as a graph, since eager loops there take minutes."""
    if _show.BACKEND != "tensorflow":
        return layer
    import tensorflow as tf

    return tf.function(layer, reduce_retracing=True)


def grown(bars) -> dict[str, list[float]]:
    """Return by how many megabytes the process has grown, for each of LENGTHS."""
    task = bars.add_task("memory", total=2 * len(LENGTHS), now="")
    random = np.random.default_rng(0)
    carried = cellkit.RNN(cellkit.create("gru", units=WIDE_UNITS), stateful=True)
    whole = cellkit.RNN(cellkit.create("gru", units=WIDE_UNITS), return_sequences=True)
    carried, whole = call_of(carried), call_of(whole)
    for layer in (carried, whole):
        layer(random.random((WIDE, PIECE, 2), "float32"))  # what is compiled once is not counted
    found = {"pieces": [], "one call": []}
    start, seen = memory(), 0
    for length in LENGTHS:
        while seen < length:
            carried(random.random((WIDE, PIECE, 2), "float32"))
            seen += PIECE
        found["pieces"].append(memory() - start)
        bars.update(task, advance=1)
    start = memory()
    for length in LENGTHS:
        outputs = whole(random.random((WIDE, length, 2), "float32"))
        found["one call"].append(memory() - start)
        del outputs
        bars.update(task, advance=1)
    return found


def main() -> int:
    """Train, compare, measure, draw; return the exit code."""
    train, test = stream(1, PIECES * PIECE), stream(2, 20 * PIECE)
    carrying = {"return_sequences": True, "stateful": True}
    layers = {
        "keras.layers.LSTM": keras.layers.LSTM(UNITS, **carrying),
        "its cell in cellkit.RNN": cellkit.RNN(keras.layers.LSTMCell(UNITS), **carrying),
        "ugrnn": cellkit.RNN(cellkit.create("ugrnn", units=UNITS), **carrying),
    }
    rows, models = [], {}
    with _show.progress() as bars:
        for name, layer in layers.items():
            keras.utils.set_random_seed(3)
            models[name] = build(layer)
            rows.append({"model": name, **trained(bars, name, models[name], layer, train, test)})
        # Not the trained cell: it switches, so that rounding at a switch is no longer small.
        ways = three_ways(cellkit.create("ugrnn", units=UNITS), test[0][:, : 10 * PIECE])
        used = grown(bars)

    share = test[1].mean()
    _show.table(
        f"Is the machine running? {STREAMS} streams of {test[0].shape[1]:,} steps",
        {
            "model": "{model}",
            "state carried on": "{carried:.3f}",
            "afresh every 50 steps": "{afresh:.3f}",
            "seconds": "{seconds:.1f}",
            "stops with": "{stopped}",
        },
        [{"model": "guessing", "carried": max(share, 1 - share)}, *rows],
    )
    apart = {name: float(np.abs(x - ways["one call"]).max()) for name, x in ways.items()}
    megabytes = WIDE * WIDE_UNITS * 4 * LENGTHS[-1] / 2**20
    _show.table(
        f"Megabytes after {WIDE} streams of {LENGTHS[-1]:,} steps",
        {"way": "{way}", "grown by": "{grown:.0f}", "of these outputs": "{outputs:.0f}"},
        [
            {"way": "one call", "grown": used["one call"][-1], "outputs": megabytes},
            {"way": "pieces of 50", "grown": used["pieces"][-1], "outputs": 0},
        ],
    )
    draw(models["ugrnn"], layers["ugrnn"], test, used)

    row = rows[-1]
    claims = {
        f"carried on {row['carried']:.3f}, afresh {row['afresh']:.3f}": row["carried"]
        > row["afresh"] + 0.1,
        f"pieces differ by {apart['pieces']:.1e} from one call": apart["pieces"] < 1e-5,
        f"steps differ by {apart['steps']:.1e} from one call": apart["steps"] < 1e-5,
        f"in pieces the process grew by {used['pieces'][-1]:.0f} MB; outputs of one call take "
        f"{megabytes:.0f} MB": used["pieces"][-1] < megabytes / 2,
    }
    return _show.verdict(claims)


def draw(model, layer, test, used) -> None:
    """Draw what the model says of one stream with switches, the most different, and the memory."""
    values, running = (v[:, : 12 * PIECE] for v in test)
    said = {}
    for carried in (True, False):
        layer.reset_state()
        found = []
        for x in np.split(pieces(values), 12):
            if not carried:
                layer.reset_state()
            found.append(model.predict(x, batch_size=STREAMS, verbose=0)[..., 0])
        said[carried] = np.concatenate(found, axis=1)
    switched = np.abs(np.diff(running[..., 0], axis=1)).sum(axis=1)
    apart = np.abs(said[True] - said[False]).sum(axis=1)
    shown = np.where(switched >= min(2, switched.max()), apart, -1.0).argmax()
    with _show.figure(options.plot, "An endless sequence in pieces of 50 steps", 2) as (
        left,
        right,
    ):
        left.fill_between(
            np.arange(12 * PIECE),
            running[shown, :, 0],
            color=_show.GREY,
            alpha=0.3,
            lw=0,
            label="running",
        )
        left.plot(said[True][shown], color=_show.CELLKIT, lw=2, label="state carried on")
        left.plot(said[False][shown], color=_show.KERAS, lw=1, label="afresh with every piece")
        left.set(title="One stream: is the machine running?", xlabel="step", ylim=(-0.05, 1.25))
        left.set(ylabel="what the model says", yticks=(0, 0.5, 1))
        left.legend(frameon=False, loc="upper right", ncols=3, fontsize=9)
        for way, color in (("one call", _show.KERAS), ("pieces", _show.CELLKIT)):
            right.plot(LENGTHS, used[way], "o-", color=color, label=way)
        title = f"Memory of the process: {WIDE} streams, {WIDE_UNITS} units"
        right.set(title=title, xlabel="steps so far", ylabel="megabytes more than before")
        right.set_ylim(min(-0.05 * max(used["one call"]), 1.1 * min(used["pieces"])))
        right.legend(frameon=False)


if __name__ == "__main__":
    sys.exit(main())
