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

import sys

import _data
import _options
import numpy as np

options = _options.parse(__doc__, plot="motion_nested.png")

import _show  # noqa: E402
import keras  # noqa: E402

import cellkit  # noqa: E402
from cellkit_nested import GatedFusionCell, NestedCell  # noqa: E402

WINDOW = 5  # steps; the watch records ten a second
UNITS = 24
EPOCHS = 6 if options.quick else 12
BATCH = 32
SENSORS = {"acc": "accelerometer", "gyro": "gyroscope"}
BOTH = tuple(SENSORS)
CLASSES = _data.class_names("basic_motions")


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


def compiled(model: keras.Model, windows: int) -> keras.Model:
    """Compile a model to be trained on that many windows."""
    steps = EPOCHS * -(-windows // BATCH)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.01, steps)),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=_show.COMPILED,
    )
    return model


# --- what comes out ------------------------------------------------------------------------------


def draw(results: dict, shares: np.ndarray, labels: np.ndarray) -> None:
    """Draw curves, sensors against each other, and what the gates say."""
    colors = {("acc",): _show.KERAS, ("gyro",): _show.CELLKIT, BOTH: _show.COLORS[2]}
    names = {("acc",): "accelerometer", ("gyro",): "gyroscope", BOTH: "both"}
    title = "Four activities by half a second of a smart watch"
    with _show.figure(options.plot, title, 2, 2) as axes:
        epochs = np.arange(1, EPOCHS + 1)
        for axis, key, title in (
            (axes[0, 0], "loss", "Training loss"),
            (axes[0, 1], "val_accuracy", "Test accuracy while training"),
        ):
            for sensors, color in colors.items():
                curve = results["gated cell", sensors][key]
                axis.plot(epochs, curve, "o-", color=color, ms=3, label=f"gated, {names[sensors]}")
            curve = results["guide's cell", BOTH][key]
            axis.plot(epochs, curve, "o--", color=_show.GREY, ms=3, label="guide's cell, both")
            axis.set(title=title, xlabel="epoch", xticks=epochs)
        axes[0, 0].set_ylim(0, 1.75)
        axes[0, 0].legend(frameon=False, loc="upper right", ncols=2)

        bars = axes[1, 0]
        for place, (sensors, color) in enumerate(colors.items()):
            for shift, model, shade in (
                (-0.19, "linear model", "#c4c4c4"),
                (0.19, "gated cell", color),
            ):
                height = results[model, sensors]["window"]
                bars.bar(place + shift, height, 0.36, color=shade)
                bars.text(place + shift, height + 0.012, f"{height:.2f}", ha="center")
        bars.plot([-0.5, 2.48], [1 / len(CLASSES)] * 2, color=_show.INK, lw=1, ls=":")
        bars.text(2.52, 1 / len(CLASSES), "guessing", va="center", color=_show.INK)
        title = "Linear model (grey) and gated cell"
        bars.set(title=title, ylabel="test accuracy", xlim=(-0.5, 3), ylim=(0, 1.05))
        bars.set_xticks(range(3), names.values())

        gates = axes[1, 1]
        gyro = shares[:, BOTH.index("gyro")].mean(axis=-1)
        parts = gates.violinplot([gyro[labels == k] for k in range(len(CLASSES))], showmedians=True)
        for body in parts["bodies"]:
            body.set(facecolor=_show.CELLKIT, alpha=0.55)
        for name in ("cmedians", "cmins", "cmaxes", "cbars"):
            parts[name].set(color="#8f4f0f", lw=1)
        gates.axhline(0.5, color=_show.GREY, lw=1, ls=":")
        gates.set(title="What the gated cell listens to, at the last step")
        gates.set_ylabel("share of the gyroscope")
        gates.set_xticks(range(1, len(CLASSES) + 1), CLASSES)


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

    with _show.progress() as bars:
        for name, sensors in (
            ("guide's cell", BOTH),
            ("gated cell", ("acc",)),
            ("gated cell", ("gyro",)),
            ("gated cell", BOTH),
        ):
            keras.utils.set_random_seed(1)
            model, gates = gated(sensors) if name == "gated cell" else (added_up(), None)
            seen, unseen = ({s: x[s] for s in sensors} for x in (train[0], test[0]))
            # The test windows draw a curve; nothing is chosen by it.
            curves = _show.fit(
                bars,
                f"{name}, {' + '.join(sensors)}",
                compiled(model, len(train[1])),
                seen,
                train[1],
                validation_data=(unseen, test[1]),
                epochs=EPOCHS,
                batch_size=BATCH,
                validation_batch_size=400,
            )
            scores = _show.array(model(unseen))
            results[name, sensors] = {
                **curves,
                "weights": model.count_params(),
                "window": accuracy(scores, test[1]),
                "vote": vote(scores, test_labels),
            }
    _show.table(
        f"{len(test[1])} windows of half a second, {len(test_labels)} recordings",
        {
            "model": "{model}",
            "sensors": "{sensors}",
            "parameters": "{weights:,}",
            "0.5 s": "{window:.3f}",
            "10 s, vote": "{vote:.3f}",
            "10 s, whole": "{whole:.3f}",
            "seconds": "{seconds:.1f}",
        },
        [{"model": m, "sensors": " + ".join(s), **row} for (m, s), row in results.items()],
        caption="Test accuracy of windows, and of recordings: by vote of their twenty windows, or "
        "seen whole.",
    )
    draw(results, _show.array(gates(test[0])), test[1])

    best = results.pop(("gated cell", BOTH))
    window = max(found["window"] for found in results.values())
    whole = max(found["whole"] for found in results.values() if "whole" in found)
    claims = {
        f"0.5 s: the gated cell with both sensors {best['window']:.3f}, best other {window:.3f}": (
            best["window"] > window
        ),
        f"10 s: {best['vote']:.3f} by vote, best linear model {whole:.3f}": best["vote"] > whole,
    }
    return _show.verdict(claims)


if __name__ == "__main__":
    sys.exit(main())
