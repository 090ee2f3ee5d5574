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
        "--cells",
        default="*",
        metavar="PATTERN",
        help="which cells, e.g. '*lstm' or 'gru,mgu' (default: all)",
    )
    parser.add_argument(
        "--data",
        choices=("digits", "japanese_vowels"),
        help="one set of data for all cells (default: what fits the inputs of each)",
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="training steps (default: 120, or 60 with --quick)"
    )
    parser.add_argument(
        "--longest",
        type=int,
        metavar="N",
        help="train a cell that is still guessing for up to so many steps (default: no longer)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")


options = _options.parse(__doc__, plot="train_every_cell.png", more=_more)
PATTERNS = options.cells.split(",")
if not cellkit.list_cells(PATTERNS):
    print(f"No registered cell fits the pattern {options.cells!r}.", file=sys.stderr)
    sys.exit(2)

import _show  # noqa: E402
import keras  # noqa: E402

BATCH = 32
STEPS = options.steps or (60 if options.quick else 120)
RATE = 0.005
SCALE = 8  # how much larger a cell is than in the first case of its spec
MARGIN = 5  # standard errors by which a cell must be better than the largest class
LABELS = {"digits": "digits", "japanese_vowels": "Japanese vowels"}


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


def inputs_of(name: str):
    """Return the inputs of a cell, as wide as the cell where its spec says that they must be."""
    spec = cellkit.get(name).spec
    units = next(iter(spec.cases.values())).get("units")
    return (units * SCALE,) if spec.inputs == (units,) else spec.inputs


def constants_of(name: str):
    """Return the constants of a cell, as wide as it takes them, or None where it takes none."""
    spec, made = cellkit.get(name).spec, make(name)
    if spec.constants is None:
        return None
    case = next(iter(spec.cases.values()))
    wide = {v: getattr(made, k, v) for k, v in case.items() if "unit" in k and k != "units"}
    return [tuple(wide.get(size, size) for size in shape) for shape in spec.constants]


def model_of(cell, task: _feed.Task) -> keras.Model:
    """Put the cell between its inputs and one dense layer, on all that the last output holds."""
    inputs = keras.tree.map_structure(lambda x: keras.Input((None, *x.shape[2:])), task.inputs)
    mask = None if task.mask is None else keras.Input((None,), dtype="bool")
    constants = [keras.Input(x.shape[1:]) for x in task.constants]
    output = cellkit.RNN(cell)(inputs, mask=mask, constants=constants or None)
    features = [keras.layers.Flatten()(leaf) for leaf in keras.tree.flatten(output)]
    joined = keras.layers.Concatenate()(features) if len(features) > 1 else features[0]
    scores = keras.layers.Dense(task.classes, activation="softmax")(joined)
    flat = [*keras.tree.flatten(inputs), *constants, *([] if mask is None else [mask])]
    model = keras.Model(flat, scores)
    model.compile(
        keras.optimizers.Adam(RATE),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=_show.COMPILED,
    )
    return model


def arrays(task: _feed.Task) -> list[np.ndarray]:
    """Return the inputs in the order of the model's."""
    masks = [] if task.mask is None else [task.mask]
    return [*keras.tree.flatten(task.inputs), *task.constants, *masks]


class Watch(keras.callbacks.Callback):
    """Keeps what a training took, shows its progress, and ends it when the loss is NaN."""

    def __init__(self, bars, bar) -> None:
        super().__init__()
        self.bars, self.bar = bars, bar
        self.seconds, self.losses = [], []

    def on_epoch_begin(self, epoch, logs=None):
        """Start the clock."""
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs):
        """Stop the clock."""
        self.seconds.append(time.perf_counter() - self.start)
        self.losses.append(logs["loss"])
        self.bars.update(self.bar, advance=1, now=f"loss {logs['loss']:.2f}")
        if not math.isfinite(logs["loss"]):
            self.model.stop_training = True


def train(name: str, bars) -> dict:
    """Train one cell and return what is known about it then."""
    keras.utils.set_random_seed(3)
    inputs, constants = inputs_of(name), constants_of(name)
    task, test = (
        _feed.feed(name, inputs, split, options.data, constants) for split in ("train", "test")
    )
    # At least two epochs, if need be of fewer rows: the first one compiles, the others are timed.
    rows = min(len(task.labels), max(1, STEPS // 2) * BATCH)
    batches = math.ceil(rows / BATCH)
    epochs = max(2, math.ceil(STEPS / batches))
    bar = bars.add_task(name, total=epochs, now="")
    cell = make(name)
    model = model_of(cell, task)
    watch = Watch(bars, bar)
    inputs, labels = [x[:rows] for x in arrays(task)], task.labels[:rows]
    share = np.bincount(test.labels).max() / len(test.labels)
    needed = share + MARGIN * math.sqrt(share * (1 - share) / len(test.labels))
    steps = 0
    while True:
        model.fit(inputs, labels, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=[watch])
        steps += epochs * batches
        scores = model.predict(arrays(test), batch_size=200, verbose=0)
        accuracy = float((scores.argmax(axis=-1) == test.labels).mean())
        finite = bool(np.isfinite([*watch.losses, scores.sum()]).all())
        if accuracy >= needed or not finite or steps >= (options.longest or 0):
            break
    bars.remove_task(bar)
    fixed = cell.count_params() - sum(math.prod(v.shape) for v in cell.trainable_weights)
    row = {
        "cell": name,
        "data": task.data,
        "shown": task.data.split("_")[-1],
        "accuracy": accuracy,
        "needed": needed,
        "steps": steps,
        "milliseconds": 1000 * min(watch.seconds[1:] or watch.seconds) / batches,
        "weights": cell.count_params(),
        "fixed": f"{fixed:,}" if fixed else "",
    }
    learns = "learns" if row["accuracy"] >= row["needed"] else "no better than guessing"
    return {**row, "verdict": learns if finite else "diverges"}


# --- what came out -----------------------------------------------------------------------------


def draw(rows: list[dict]) -> None:
    """Draw accuracies and times, the cells in the order of their accuracy."""
    colors = {"digits": _show.KERAS, "japanese_vowels": _show.CELLKIT}
    rows = sorted(rows, key=lambda row: (row["data"] == "digits", row["accuracy"]))
    size = {"figsize": (11, 1.8 + 0.27 * len(rows)), "width_ratios": (3, 2), "sharey": True}
    title = f"Every cell with its defaults after {STEPS} steps"
    with _show.figure(options.plot, title, 2, **size) as (left, right):
        for place, row in enumerate(rows):
            style = {"color": colors[row["data"]], "height": 0.72}
            words = {"va": "center", "fontsize": 9}
            left.barh(place, row["accuracy"], **style)
            left.plot([row["needed"]] * 2, [place - 0.45, place + 0.45], color=_show.INK, lw=1.5)
            left.text(row["accuracy"] + 0.01, place, f"{row['accuracy']:.2f}", **words)
            right.barh(place, row["milliseconds"], **style)
            text = f" {row['milliseconds']:.0f} ms, {row['weights']:,}"
            right.text(row["milliseconds"], place, text, **words)
        left.set_yticks(range(len(rows)), [row["cell"] for row in rows])
        left.set(title="Test accuracy", xlim=(0, 1.09), ylim=(-0.6, len(rows) - 0.4))
        right.set(title="Time per training step, parameters")
        right.set(xlabel=f"milliseconds per batch of {BATCH}")
        right.set_xlim(0, 1.45 * max(row["milliseconds"] for row in rows))
        for data in sorted({row["data"] for row in rows}):
            left.barh(0, 0, color=colors[data], label=LABELS[data])
        left.plot([], [], color=_show.INK, lw=1.5, label="what guessing can't reach")
        left.figure.legend(loc="outside lower center", ncols=3, frameon=False)
        for axis in (left, right):
            axis.grid(axis="x", alpha=0.25)
            axis.set_axisbelow(True)


def main() -> int:
    """Train all cells that were asked for; return the exit code."""
    names = [name for name in cellkit.list_cells(PATTERNS) if cellkit.get(name).spec]
    rows = []
    with _show.progress() as bars:
        total = bars.add_task("cells", total=len(names), now="")
        for place, name in enumerate(names, start=1):
            rows.append(train(name, bars))
            bars.update(total, advance=1, now=f"{place} of {len(names)}")
    _show.table(
        f"Every cell with its defaults, {STEPS} steps of {BATCH}",
        {
            "cell": "{cell}",
            "data": "{shown}",
            "accuracy": "{accuracy:.3f}",
            "needed": "{needed:.3f}",
            "ms/step": "{milliseconds:.1f}",
            "weights": "{weights:,}",
            "fixed": "{fixed}",
            "": "{verdict}",
        },
        rows,
    )
    draw(rows)
    if options.json:
        results = {"backend": _show.BACKEND, "steps": STEPS, "batch": BATCH, "cells": rows}
        options.json.write_text(json.dumps(results, indent=1))
    bad = [f"{row['cell']} ({row['verdict']})" for row in rows if row["verdict"] != "learns"]
    others = f"; not {', '.join(bad)}" if bad else ""
    return _show.verdict({f"{len(rows) - len(bad)} of {len(rows)} cells learn{others}": not bad})


if __name__ == "__main__":
    sys.exit(main())
