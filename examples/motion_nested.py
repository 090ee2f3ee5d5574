"""What is someone doing? Two sensors of a smart watch, as two inputs per time step.

Half a second of a watch: five steps, each with three numbers of the accelerometer and three of the
gyroscope. The cell takes both as {"acc": ..., "gyro": ...} and `cellkit.RNN` runs it over time. It
shows

- nested inputs, from `keras.Input` to `model.fit`;
- what fusion is worth: the same gated cell with one sensor and with both;
- what gates are worth: the nested cell of Keras' guide, which only adds up, on the same data;
- which sensor the gated cell listens to, from its own gates.

It ends with exit code 1 if the gated cell with both sensors is not the best at half a second, or if
on ten seconds, where twenty half seconds vote, it is not better than a linear model that sees them
at once.

    python examples/motion_nested.py --backend jax
"""

from __future__ import annotations

import os
import sys
import time

import _data
import _options
import numpy as np

options = _options.parse(__doc__, plot="motion_nested.png")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for tensors this small a second thread only waits

import keras  # noqa: E402
import rich.box  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: E402
from rich.table import Table  # noqa: E402

import cellkit  # noqa: E402
from cellkit_nested import GatedFusionCell, NestedCell  # noqa: E402

WINDOW = 5  # steps; the watch records ten a second
UNITS = 24
EPOCHS = 6 if options.quick else 12
BATCH = 32
SENSORS = {"acc": "accelerometer", "gyro": "gyroscope"}
BOTH = tuple(SENSORS)
CLASSES = _data.class_names("basic_motions")
console = Console()


# --- data --------------------------------------------------------------------------------------


def recordings() -> tuple[dict, np.ndarray, dict, np.ndarray]:
    """Load both splits, standardised per channel with what the training split says."""
    train, train_labels = _data.load("basic_motions", "train")
    test, test_labels = _data.load("basic_motions", "test")
    for name in SENSORS:
        mean, std = train[name].mean(axis=(0, 1)), train[name].std(axis=(0, 1))
        train[name], test[name] = (train[name] - mean) / std, (test[name] - mean) / std
    return train, train_labels, test, test_labels


def windows(inputs: dict, labels: np.ndarray) -> tuple[dict, np.ndarray]:
    """Cut recordings of shape (n, 100, 3) into windows of shape (n * 100 / WINDOW, WINDOW, 3)."""
    cut = {name: x.reshape(-1, WINDOW, x.shape[-1]) for name, x in inputs.items()}
    return cut, np.repeat(labels, len(cut["acc"]) // len(labels))


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of rows whose highest score is that of their label."""
    return float((scores.argmax(axis=-1) == labels).mean())


def vote(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the accuracy on whole recordings, whose windows vote with their scores."""
    per_recording = scores.reshape(len(labels), -1, scores.shape[-1])
    return accuracy(per_recording.mean(axis=1), labels)


# --- a linear model to beat ----------------------------------------------------------------------


def linear(train: dict, labels: np.ndarray, test: dict, sensors: tuple[str, ...]) -> np.ndarray:
    """Return the test scores of ridge regression on mean, deviation, first and last value."""

    def features(inputs: dict) -> np.ndarray:
        x = np.concatenate([inputs[name] for name in sensors], axis=-1)
        return np.concatenate([x.mean(axis=1), x.std(axis=1), x[:, 0], x[:, -1]], axis=-1)

    a, b = features(train), features(test)
    mean, std = a.mean(axis=0), a.std(axis=0)
    a, b = (np.pad((x - mean) / std, [(0, 0), (0, 1)], constant_values=1) for x in (a, b))
    weights = np.linalg.solve(a.T @ a + np.eye(a.shape[1]), a.T @ np.eye(len(CLASSES))[labels])
    return b @ weights


# --- models --------------------------------------------------------------------------------------


def gated(sensors: tuple[str, ...]) -> tuple[keras.Model, keras.Model]:
    """Return a classifier with the gated cell, and a model of the cell's gates."""
    steps = {name: keras.Input((WINDOW, 3), name=name) for name in sensors}
    out = cellkit.RNN(GatedFusionCell(UNITS, return_gates=True))(steps)
    h = keras.layers.Dropout(0.3)(out["output"])
    scores = keras.layers.Dense(len(CLASSES), activation="softmax")(h)
    return keras.Model(steps, scores), keras.Model(steps, out["gates"])


def added_up() -> keras.Model:
    """Return a classifier on the states of the guide's cell: sums over time, per sensor."""
    steps = {name: keras.Input((WINDOW, 3), name=name) for name in SENSORS}
    cell = NestedCell(units={name: UNITS for name in SENSORS})
    _, sums = cellkit.RNN(cell, return_state=True)(steps)
    h = keras.layers.Concatenate()([sums[name] for name in SENSORS])
    scores = keras.layers.Dense(len(CLASSES), activation="softmax")(h)
    return keras.Model(steps, scores)


def fit(model: keras.Model, name: str, train: tuple, test: tuple, progress: Progress) -> dict:
    """Train a model and return its curves, with the seconds it took.

    The test windows draw a curve; nothing is chosen by it.
    """
    sensors = list(model.input)
    data = [({s: x[s] for s in sensors}, labels) for x, labels in (train, test)]
    total = EPOCHS * -(-len(train[1]) // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(0.01, total)
    model.compile(
        keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    task = progress.add_task(name, total=EPOCHS, accuracy="")

    def show(epoch: int, logs: dict) -> None:
        progress.update(task, advance=1, accuracy=f"test accuracy {logs['val_accuracy']:.3f}")

    start = time.perf_counter()
    history = model.fit(
        *data[0],
        validation_data=data[1],
        epochs=EPOCHS,
        batch_size=BATCH,
        validation_batch_size=400,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=show)],
    ).history
    return {**history, "seconds": time.perf_counter() - start}


def run(model: keras.Model, inputs: dict) -> np.ndarray:
    """Call a model on all inputs at once."""
    return keras.ops.convert_to_numpy(keras.ops.stop_gradient(model(inputs)))


# --- what comes out ------------------------------------------------------------------------------


def table(rows: list[dict]) -> Table:
    """Return the results as a table."""
    found = Table(
        title=f"Accuracy on the test split, {keras.backend.backend()} backend",
        caption="0.5 s: windows of half a second. 10 s: recordings, by vote of their twenty "
        "windows, or whole.",
        box=rich.box.SIMPLE_HEAD,
    )
    for header in ("model", "sensors"):
        found.add_column(header, no_wrap=True)
    columns = {
        "weights": ("weights", "d"),
        "window": ("0.5 s", ".3f"),
        "vote": ("10 s vote", ".3f"),
        "whole": ("10 s whole", ".3f"),
        "seconds": ("seconds", ".1f"),
    }
    for header, _ in columns.values():
        found.add_column(header, justify="right")
    for row in rows:
        cells = [format(row[key], how) if key in row else "" for key, (_, how) in columns.items()]
        best = row["model"] == "gated cell" and row["sensors"] == BOTH
        found.add_row(row["model"], " + ".join(row["sensors"]), *cells, style="bold" * best)
    return found


def draw(results: dict, shares: np.ndarray, labels: np.ndarray) -> None:
    """Draw curves, sensors against each other, and what the gates say; write them to a file."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colors = {("acc",): "#3b6fb6", ("gyro",): "#d9822b", BOTH: "#1f7a4d"}
    names = {("acc",): "accelerometer", ("gyro",): "gyroscope", BOTH: "both"}
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(2, 2, figsize=(11, 7.6), layout="constrained")
    figure.suptitle(
        "Telling four activities apart by half a second of a smart watch"
        f"  ({keras.backend.backend()} backend)",
        fontsize=13,
    )
    epochs = np.arange(1, EPOCHS + 1)
    for axis, key, title in (
        (axes[0, 0], "loss", "Training loss"),
        (axes[0, 1], "val_accuracy", "Test accuracy while training"),
    ):
        for sensors, color in colors.items():
            curve = results["gated cell", sensors][key]
            axis.plot(
                epochs, curve, color=color, marker="o", ms=3, label=f"gated, {names[sensors]}"
            )
        curve = results["guide's cell", BOTH][key]
        axis.plot(epochs, curve, color="#8a8a8a", ls="--", marker="o", ms=3, label="guide's, both")
        axis.set(title=title, xlabel="epoch", xlim=(0.5, EPOCHS + 0.5))
        axis.grid(axis="y", alpha=0.25)
    axes[0, 0].set_ylim(0)
    axes[0, 0].legend(frameon=False)

    axis = axes[1, 0]
    for i, sensors in enumerate(colors):
        for shift, model, color in (
            (-0.19, "linear model", "#c4c4c4"),
            (0.19, "gated cell", colors[sensors]),
        ):
            height = results[model, sensors]["window"]
            axis.bar(i + shift, height, 0.36, color=color)
            axis.text(i + shift, height + 0.012, f"{height:.2f}", ha="center")
    axis.plot([-0.5, 2.48], [1 / len(CLASSES)] * 2, color="#555555", lw=1, ls=":")
    axis.text(2.52, 1 / len(CLASSES), "guessing", va="center", color="#555555")
    axis.set(
        title="Linear model (grey) and gated cell",
        ylabel="test accuracy",
        xlim=(-0.5, 3.0),
        ylim=(0, 1.05),
    )
    axis.set_xticks(range(3), [names[s] for s in colors])

    axis = axes[1, 1]
    gyro = shares[:, BOTH.index("gyro")].mean(axis=-1)
    parts = axis.violinplot([gyro[labels == k] for k in range(len(CLASSES))], showmedians=True)
    for body in parts["bodies"]:
        body.set(facecolor="#d9822b", alpha=0.55)
    for name in ("cmedians", "cmins", "cmaxes", "cbars"):
        parts[name].set(color="#8f4f0f", lw=1)
    axis.axhline(0.5, color="#555555", lw=1, ls=":")
    axis.set(
        title="Which sensor the gated cell listens to, at the last step",
        ylabel="share of the gyroscope",
    )
    axis.set_xticks(range(1, len(CLASSES) + 1), CLASSES)
    options.plot.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.plot, dpi=130)
    plt.close(figure)


def main() -> int:
    """Train, compare, draw; return the exit code."""
    train_recordings, train_labels, test_recordings, test_labels = recordings()
    train, test = windows(train_recordings, train_labels), windows(test_recordings, test_labels)
    guess = float(np.bincount(test_labels).max() / len(test_labels))
    results = {("guessing", ()): {"window": guess, "vote": guess, "whole": guess}}
    for sensors in (("acc",), ("gyro",), BOTH):
        whole = linear(train_recordings, train_labels, test_recordings, sensors)
        cut = linear(*train, test[0], sensors)
        results["linear model", sensors] = {
            "window": accuracy(cut, test[1]),
            "vote": vote(cut, test_labels),
            "whole": accuracy(whole, test_labels),
        }

    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        TextColumn("{task.fields[accuracy]}"),
    )
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        for name, sensors in (
            ("guide's cell", BOTH),
            ("gated cell", ("acc",)),
            ("gated cell", ("gyro",)),
            ("gated cell", BOTH),
        ):
            keras.utils.set_random_seed(1)
            model, gates = gated(sensors) if name == "gated cell" else (added_up(), None)
            curves = fit(model, f"{name}, {' + '.join(sensors)}", train, test, progress)
            scores = run(model, {s: test[0][s] for s in sensors})
            results[name, sensors] = {
                **curves,
                "weights": model.count_params(),
                "window": accuracy(scores, test[1]),
                "vote": vote(scores, test_labels),
            }
    shares = run(gates, test[0])

    rows = [{"model": m, "sensors": s, **found} for (m, s), found in results.items()]
    console.print(table(rows))
    draw(results, shares, test[1])
    console.print(f"Plot: {options.plot}")

    best = results.pop(("gated cell", BOTH))
    window = max(found["window"] for found in results.values())
    whole = max(found["whole"] for found in results.values() if "whole" in found)
    checks = {
        f"0.5 s: {best['window']:.3f}, best other {window:.3f}": best["window"] > window,
        f"10 s: {best['vote']:.3f} by vote, best linear model {whole:.3f}": best["vote"] > whole,
    }
    console.print("The gated cell with both sensors is the best:")
    for text, holds in checks.items():
        console.print(f"{'[green]holds' if holds else '[red]FAILS'}[/] {text}", highlight=False)
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
