"""What digit is it, row by row? And how long does a step take, fused or not?

The tutorials' comparison of a fused LSTM (cuDNN on a GPU) with a generic one: a digit is a sequence
of rows of pixels. The same LSTM runs in several ways, from the same weights. It shows

- `keras.layers.LSTM`, which uses what the backend has fused; `keras.layers.RNN(LSTMCell)`, which
  loops over the cell; and `cellkit.RNN`, once told to loop and once free to choose its engine;
- what `layer.engine_report()` says about the choice;
- time per training step, per prediction and accuracy, in one table, on whatever device is there;
- a cell that no backend has fused, with the same two engines (left out by `--quick`).

Times are the best of several rounds, in which the models take turns; they are measured, not
promised. It ends with exit code 1 if the ways differ in what they compute, or if one tells fewer
digits than a linear model of the whole image.

    python examples/digit_rows.py --backend torch
    python examples/digit_rows.py --data digits --quick
"""

from __future__ import annotations

import sys
import time

import _data
import _options
import numpy as np

options = _options.parse(
    __doc__,
    plot="digit_rows.png",
    more=lambda parser: parser.add_argument(
        "--data",
        choices=("mnist", "mnist_5k", "digits"),
        help="MNIST from keras.datasets, 5,000 of its images from a wheel, or the 8x8 digits that "
        "need no network (default: the first that is to be had)",
    ),
)

import _show  # noqa: E402
import keras  # noqa: E402

import cellkit  # noqa: E402

UNITS = 64
BATCH = 32 if options.data == "digits" else 64  # the smaller set needs more steps
IMAGES = 4000
EPOCHS = 12 if options.data == "digits" else 5
ROUNDS, CALLS = (3, 3) if options.quick else (6, 5)


def generic(cell) -> keras.layers.Layer:
    """Return Keras' loop over a cell."""
    return keras.layers.RNN(cell)


WAYS = {
    "keras.layers.LSTM": lambda: keras.layers.LSTM(UNITS),
    "keras.layers.RNN": lambda: generic(keras.layers.LSTMCell(UNITS)),
    "cellkit, its LSTMCell": lambda: cellkit.RNN(keras.layers.LSTMCell(UNITS)),
    "cellkit, lstm, loop": lambda: cellkit.RNN(cellkit.create("lstm", units=UNITS), engine="loop"),
    "cellkit, lstm": lambda: cellkit.RNN(cellkit.create("lstm", units=UNITS)),
    "cellkit, ugrnn, loop": lambda: cellkit.RNN(
        cellkit.create("ugrnn", units=UNITS), engine="loop"
    ),
    "cellkit, ugrnn": lambda: cellkit.RNN(cellkit.create("ugrnn", units=UNITS)),
}
if options.quick:
    names = ("keras.layers.LSTM", "keras.layers.RNN", "cellkit, lstm, loop", "cellkit, lstm")
    WAYS = {name: WAYS[name] for name in names}


def images() -> tuple[str, tuple, tuple]:
    """Return the name of the set, and images with labels for training and for testing."""
    name = options.data
    if name in (None, "mnist") and (found := _data.classic("mnist", name is None)):
        splits = [((x[:IMAGES] / 255).astype("float32"), y[:IMAGES]) for x, y in found]
        return "MNIST", *splits
    name = name or "mnist_5k"
    return name, _data.load(name, "train"), _data.load(name, "test")


def linear(train: tuple, test: tuple) -> float:
    """Return the test accuracy of ridge regression on all pixels."""
    (x, y), (x_test, y_test) = train, test
    a, b = (np.pad(v.reshape(len(v), -1), ((0, 0), (0, 1)), constant_values=1) for v in (x, x_test))
    weights = np.linalg.solve(a.T @ a + 10 * np.eye(a.shape[1]), a.T @ np.eye(10)[y])
    return float(((b @ weights).argmax(axis=1) == y_test).mean())


def build(name: str, shape: tuple[int, ...], steps: int) -> keras.Sequential:
    """Return a compiled classifier: the recurrent layer and a dense one."""
    model = keras.Sequential([keras.Input(shape), WAYS[name](), keras.layers.Dense(10)])
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.015, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=_show.COMPILED,
    )
    return model


def best_times(models: dict[str, keras.Model], x, y) -> dict[str, dict[str, float]]:
    """Return milliseconds per training step and per prediction of one batch, the best of rounds."""
    calls = {
        "step": lambda model: model.train_on_batch(x, y),
        "predict": lambda model: model.predict_on_batch(x),
    }
    best = {name: dict.fromkeys(calls, np.inf) for name in models}
    for turn in range(ROUNDS + 1):
        for name, model in models.items():
            for kind, call in calls.items():
                start = time.perf_counter()
                for _ in range(CALLS):
                    call(model)
                took = 1000 * (time.perf_counter() - start) / CALLS
                if turn:  # the first round compiles
                    best[name][kind] = min(best[name][kind], took)
    return best


class Engines(keras.callbacks.Callback):
    """Keeps what a layer of cellkit says of its engine, when it trains and when it predicts."""

    def __init__(self) -> None:
        super().__init__()
        self.reports = {}

    def on_train_batch_end(self, batch, logs=None):
        """Ask after the first batch of training."""
        self.ask("trains")

    def on_test_batch_end(self, batch, logs=None):
        """Ask after the first batch of validation."""
        self.ask("predicts")

    def ask(self, kind: str) -> None:
        """Keep the first report of a kind."""
        if isinstance(self.model.layers[0], cellkit.RNN):
            self.reports.setdefault(kind, self.model.layers[0].engine_report())


def device() -> str:
    """Name the device that Keras computes on."""
    if _show.BACKEND == "jax":
        import jax

        return jax.devices()[0].device_kind
    if _show.BACKEND == "torch":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    import tensorflow as tf

    return "gpu" if tf.config.list_physical_devices("GPU") else "cpu"


def draw(rows: list[dict], data: str) -> None:
    """Draw the times of all ways."""
    title = f"{len(rows)} ways to read {data} by rows, on {device()}"
    with _show.figure(options.plot, title, 2, sharey=True) as axes:
        for axis, kind, what in zip(axes, ("step", "predict"), ("train", "predict"), strict=True):
            for place, row in enumerate(rows):
                color = _show.CELLKIT if "cellkit" in row["model"] else _show.KERAS
                axis.barh(place, row[kind], color=color)
                axis.text(row[kind], place, f" {row[kind]:.1f}", va="center")
            axis.set(title=f"Time to {what} one batch of {BATCH}", xlabel="milliseconds")
            axis.set_xlim(0, 1.15 * max(row[kind] for row in rows))
        axes[0].set_yticks(range(len(rows)), [row["model"] for row in rows])
        axes[0].invert_yaxis()


def main() -> int:
    """Compare, train, measure, draw; return the exit code."""
    data, train, test = images()
    steps = EPOCHS * -(-len(train[1]) // BATCH)
    keras.utils.set_random_seed(3)
    models = {name: build(name, train[0].shape[1:], steps) for name in WAYS}
    # The same weights for the same cell: the layers differ only in how they compute.
    first, said = {}, {}
    for name, model in models.items():
        weights = first.setdefault("ugrnn" in name, model.get_weights())
        model.set_weights(weights)
        said[name] = _show.array(model(test[0][:BATCH]))
    rows, reports = [], {}
    with _show.progress() as bars:
        for name, model in models.items():
            keras.utils.set_random_seed(1)
            asked = Engines()
            curves = _show.fit(
                bars,
                name,
                model,
                *train,
                validation_data=test,
                epochs=EPOCHS,
                batch_size=BATCH,
                callbacks=[asked],
            )
            reports[name] = asked.reports
            row = {"model": name, "accuracy": curves["val_accuracy"][-1]}
            rows.append({**row, **{kind: told.engine for kind, told in asked.reports.items()}})
    times = best_times(models, train[0][:BATCH], train[1][:BATCH])
    rows = [{**row, **times[row["model"]]} for row in rows]
    baseline = linear(train, test)
    _show.table(
        f"{data}, {len(train[1]):,} images of {train[0].shape[1]} rows, {UNITS} units, {device()}",
        {
            "way": "{model}",
            "test accuracy": "{accuracy:.3f}",
            "trains with": "{trains}",
            "ms per step": "{step:.1f}",
            "predicts with": "{predicts}",
            "ms per batch": "{predict:.1f}",
        },
        [*rows, {"model": "linear model", "accuracy": baseline}],
    )
    report = reports["cellkit, lstm"]["trains"]
    _show.console.print(f"What the free layer says when it trains: {report}\n", highlight=False)
    draw(rows, data)
    lstm = [name for name in models if "ugrnn" not in name]
    apart = max(float(np.abs(said[name] - said[lstm[0]]).max()) for name in lstm)
    worst = min(rows, key=lambda row: row["accuracy"])
    claims = {
        f"with the same weights, all ways of the LSTM differ by {apart:.0e}": apart < 1e-4,
        f"the least accurate, {worst['model']}, has {worst['accuracy']:.3f}, a linear model of the "
        f"whole image {baseline:.3f}": worst["accuracy"] > baseline,
    }
    return _show.verdict(claims)


if __name__ == "__main__":
    sys.exit(main())
