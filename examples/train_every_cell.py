"""Every registered cell learns something real, with its own defaults.

The cells are those that `cellkit.list_cells()` names, plugins of your own included. Each reads
handwritten digits row by row, or, when it takes the time or what is missing as well, tells speakers
apart by utterances that have gaps. All have the same head and the same optimiser, and nothing is
tuned: the numbers say that a cell learns, not which one is best.

It prints accuracy, time per step and parameters, draws them, and ends with exit code 1 if a cell
diverges or is no better than guessing.

    python examples/train_every_cell.py --backend torch
    python examples/train_every_cell.py --cells "*lstm" --data japanese_vowels
"""

from __future__ import annotations

import inspect
import json
import math
import sys
import time
from pathlib import Path

import _feed
import _options
import numpy as np

import cellkit


def _more(parser) -> None:
    parser.add_argument(
        "--cells", default="*", metavar="PATTERN", help="which cells, e.g. '*lstm' (default: all)"
    )
    parser.add_argument(
        "--data",
        choices=("digits", "japanese_vowels"),
        help="one set of data for all cells (default: what fits the inputs of each)",
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="training steps (default: 120, or 60 with --quick)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")


options = _options.parse(__doc__, plot="train_every_cell.png", more=_more)
if not cellkit.list_cells(options.cells):
    print(f"No registered cell fits the pattern {options.cells!r}.", file=sys.stderr)
    sys.exit(2)

import keras  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import (  # noqa: E402
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table  # noqa: E402

BATCH = 32
STEPS = options.steps or (60 if options.quick else 120)
RATE = 0.005
SCALE = 8  # how much larger a cell is than in the first case of its spec
MARGIN = 5  # standard errors by which a cell must be better than the largest class
LABELS = {"digits": "digits", "japanese_vowels": "Japanese vowels"}
console = Console()


# --- cells and models --------------------------------------------------------------------------


def make(name: str):
    """Create a cell with its defaults; only the sizes that have none are chosen.

    They are those of the first case in its spec, eight times as wide.
    """
    registered = cellkit.get(name)
    case = next(iter(registered.spec.cases.values()))
    parameters = inspect.signature(registered.cls).parameters
    arguments = {}
    for key, value in case.items():
        default = parameters[key].default if key in parameters else ...
        width = "unit" in key or "filter" in key
        if default is inspect.Parameter.empty or (default is None and width):
            arguments[key] = value * SCALE if width and isinstance(value, int) else value
    return registered.cls(**arguments)


def model_of(cell, task: _feed.Task) -> keras.Model:
    """Put the cell between its inputs and one dense layer, on all that the last output holds."""
    inputs = keras.tree.map_structure(lambda x: keras.Input((None, *x.shape[2:])), task.inputs)
    mask = None if task.mask is None else keras.Input((None,), dtype="bool")
    output = cellkit.RNN(cell)(inputs, mask=mask)
    features = [keras.layers.Flatten()(leaf) for leaf in keras.tree.flatten(output)]
    joined = keras.layers.Concatenate()(features) if len(features) > 1 else features[0]
    scores = keras.layers.Dense(task.classes, activation="softmax")(joined)
    flat = [*keras.tree.flatten(inputs), *([] if mask is None else [mask])]
    model = keras.Model(flat, scores)
    model.compile(
        keras.optimizers.Adam(RATE),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        # On TensorFlow, XLA takes longer to compile such a model than this example to train it.
        jit_compile=keras.backend.backend() == "jax",
    )
    return model


def arrays(task: _feed.Task) -> list[np.ndarray]:
    """Return the inputs in the order of the model's."""
    return [*keras.tree.flatten(task.inputs), *([] if task.mask is None else [task.mask])]


class Watch(keras.callbacks.Callback):
    """Keeps what a training took, shows how far it is, and ends it when the loss is no number."""

    def __init__(self, progress: Progress, bar) -> None:
        super().__init__()
        self.progress, self.bar = progress, bar
        self.seconds, self.losses = [], []

    def on_epoch_begin(self, epoch, logs=None):
        """Start the clock."""
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs):
        """Stop the clock."""
        self.seconds.append(time.perf_counter() - self.start)
        self.losses.append(logs["loss"])
        self.progress.update(self.bar, advance=1, loss=f"loss {logs['loss']:.2f}")
        if not math.isfinite(logs["loss"]):
            self.model.stop_training = True


def train(name: str, progress: Progress) -> dict:
    """Train one cell and return what is known about it then."""
    keras.utils.set_random_seed(3)
    inputs = cellkit.get(name).spec.inputs
    task, test = (_feed.feed(name, inputs, split, options.data) for split in ("train", "test"))
    # At least two epochs, if need be of fewer rows: the first one compiles, the others are timed.
    rows = min(len(task.labels), max(1, STEPS // 2) * BATCH)
    batches = math.ceil(rows / BATCH)
    epochs = max(2, math.ceil(STEPS / batches))
    bar = progress.add_task(name, total=epochs, loss="")
    cell = make(name)
    model = model_of(cell, task)
    watch = Watch(progress, bar)
    inputs, labels = [x[:rows] for x in arrays(task)], task.labels[:rows]
    model.fit(inputs, labels, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=[watch])
    scores = model.predict(arrays(test), batch_size=200, verbose=0)
    progress.remove_task(bar)
    share = np.bincount(test.labels).max() / len(test.labels)
    return {
        "cell": name,
        "data": task.data,
        "accuracy": float((scores.argmax(axis=-1) == test.labels).mean()),
        "needed": share + MARGIN * math.sqrt(share * (1 - share) / len(test.labels)),
        "finite": bool(np.isfinite([*watch.losses, scores.sum()]).all()),
        "milliseconds": 1000 * min(watch.seconds[1:] or watch.seconds) / batches,
        "weights": cell.count_params(),
        "trained": sum(math.prod(v.shape) for v in cell.trainable_weights),
    }


def verdict(row: dict) -> str:
    """Say in a word or two how a cell did."""
    if not row["finite"]:
        return "diverges"
    return "learns" if row["accuracy"] >= row["needed"] else "no better than guessing"


# --- what came out -----------------------------------------------------------------------------


def table(rows: list[dict]) -> Table:
    """Return the table of all cells."""
    shown = Table(
        title=f"Every cell with its defaults, {STEPS} steps of {BATCH} on the "
        f"{keras.backend.backend()} backend",
        title_justify="left",
    )
    for heading in ("cell", "data"):
        shown.add_column(heading, no_wrap=True)
    for heading in ("test accuracy", "must reach", "ms per step", "parameters", "of them fixed"):
        shown.add_column(heading, justify="right")
    shown.add_column("")
    for row in rows:
        fixed = row["weights"] - row["trained"]
        word = verdict(row)
        shown.add_row(
            row["cell"],
            row["data"].split("_")[-1],
            f"{row['accuracy']:.3f}",
            f"{row['needed']:.3f}",
            f"{row['milliseconds']:.1f}",
            f"{row['weights']:,}",
            f"{fixed:,}" if fixed else "",
            word if word == "learns" else f"[red]{word}",
        )
    return shown


def draw(rows: list[dict]) -> None:
    """Draw accuracies and times, the cells in the order of their accuracy."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colors = {"digits": "#3b6ea8", "japanese_vowels": "#d9822b"}
    rows = sorted(rows, key=lambda row: (row["data"] == "digits", row["accuracy"]))
    figure, (left, right) = plt.subplots(
        1,
        2,
        figsize=(11, 1.8 + 0.27 * len(rows)),
        sharey=True,
        width_ratios=(3, 2),
        layout="constrained",
    )
    figure.suptitle(
        f"Every cell with its defaults after {STEPS} steps ({keras.backend.backend()} backend)"
    )
    for place, row in enumerate(rows):
        color = colors[row["data"]]
        left.barh(place, row["accuracy"], color=color, height=0.72)
        left.plot([row["needed"]] * 2, [place - 0.45, place + 0.45], color="#222222", lw=1.5)
        left.text(row["accuracy"] + 0.01, place, f"{row['accuracy']:.2f}", va="center", fontsize=9)
        right.barh(place, row["milliseconds"], color=color, height=0.72)
        text = f" {row['milliseconds']:.0f} ms, {row['weights']:,}"
        right.text(row["milliseconds"], place, text, va="center", fontsize=9)
    left.set_yticks(range(len(rows)), [row["cell"] for row in rows])
    left.set(title="Test accuracy", xlim=(0, 1.09), ylim=(-0.6, len(rows) - 0.4))
    right.set(title="Time per training step, parameters", xlabel="milliseconds per batch of 32")
    right.set_xlim(0, 1.45 * max(row["milliseconds"] for row in rows))
    handles = [
        plt.Rectangle((0, 0), 1, 1, color=color, label=LABELS[data])
        for data, color in colors.items()
        if any(row["data"] == data for row in rows)
    ]
    handles.append(plt.Line2D([], [], color="#222222", lw=1.5, label="what guessing can't reach"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="x", alpha=0.25)
        axis.set_axisbelow(True)
    options.plot.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.plot, dpi=130)
    plt.close(figure)


def main() -> int:
    """Train all cells that were asked for; return the exit code."""
    names = [name for name in cellkit.list_cells(options.cells) if cellkit.get(name).spec]
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    rows = []
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        total = progress.add_task("cells", total=len(names), loss="")
        for name in names:
            rows.append(train(name, progress))
            progress.update(total, advance=1)
    console.print(table(rows))
    draw(rows)
    console.print(f"Plot: {options.plot}")
    if options.json:
        results = {"backend": keras.backend.backend(), "steps": STEPS, "batch": BATCH}
        rows_with_verdicts = [{**row, "verdict": verdict(row)} for row in rows]
        options.json.write_text(json.dumps({**results, "cells": rows_with_verdicts}, indent=1))
    bad = [f"{row['cell']} ({verdict(row)})" for row in rows if verdict(row) != "learns"]
    if bad:
        console.print(f"[red]{len(bad)} of {len(rows)} cells fail:[/] {', '.join(bad)}")
    else:
        console.print(f"All {len(rows)} cells learn.")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
