"""Parts that the examples share once Keras is there: training bars, tables, plots, verdicts."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import rich.box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

console = Console()
if not console.is_terminal and "COLUMNS" not in os.environ:
    console.width = 110  # what is written to a file or a pipe has no width of its own
BACKEND = keras.backend.backend()
# On TensorFlow, XLA takes longer to compile models this small than these examples to train them.
COMPILED = BACKEND == "jax"
# Examples train one model after the other; TensorFlow takes that for one that it traces too often.
logging.getLogger("tensorflow").setLevel(logging.ERROR)

# All of these can be read on a white page and on a dark one: a plot has no background of its own.
KERAS, CELLKIT, GREY, INK = "#4a86c8", "#e08a2e", "#8f949c", "#7d8590"
COLORS = (KERAS, CELLKIT, "#2f9e6b", "#b06ab3", "#d1574f", "#4fa3a5", "#8f8f3f", "#c9a227")
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.framealpha": 0.0,
    **{name: INK for name in ("text.color", "axes.edgecolor", "axes.labelcolor")},
    **{name: INK for name in ("axes.titlecolor", "xtick.color", "ytick.color", "grid.color")},
}


def progress() -> Progress:
    """Return the bars that `fit` adds its own to; use it in a `with`."""
    columns = (TextColumn("{task.description:<26}"), BarColumn(), TextColumn("{task.fields[now]}"))
    return Progress(*columns, TimeElapsedColumn(), console=console)


def fit(bars: Progress, name: str, model: keras.Model, *data: Any, **options: Any) -> dict:
    """Train a compiled model with a bar of its own.

    Args:
        bars: From `progress()`.
        name: Label of the bar.
        model: The model.
        *data: Arguments for `model.fit`: inputs and targets, or a pipeline.
        **options: Options of `model.fit`, among them `epochs`.

    Returns:
        The curves, and `seconds`: how long it took.
    """
    task = bars.add_task(name, total=options["epochs"], now="")

    def show(epoch: int, logs: dict) -> None:
        logs = {k.removeprefix("val_"): v for k, v in logs.items()}  # validation is shown if any
        key = next((k for k in ("accuracy", "mae") if k in logs), "loss")
        bars.update(task, advance=1, now=f"{key} {logs[key]:.3f}")

    callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=show), *options.pop("callbacks", [])]
    start = time.perf_counter()
    history = model.fit(*data, verbose=0, callbacks=callbacks, **options).history
    bars.update(task, completed=options["epochs"])
    return {**history, "seconds": time.perf_counter() - start}


def array(tensor: Any) -> np.ndarray:
    """Return a tensor as a NumPy array, without its gradient."""
    tensor = keras.ops.stop_gradient(keras.ops.convert_to_tensor(tensor))
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def table(
    title: str, columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]], caption: str = ""
) -> None:
    """Print a table.

    Args:
        title: Stands above it, with the backend.
        columns: Format of a row's value in each column, by heading: `{"s": "{seconds:.1f}"}`.
            A cell is empty where the row has no such key.
        rows: One mapping per row; `bold` marks a row.
        caption: Stands below it.
    """
    shown = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for place, heading in enumerate(columns):
        shown.add_column(heading, justify="right" if place else "left", no_wrap=place == 0)
    for row in rows:
        cells = [_cell(text, row) for text in columns.values()]
        shown.add_row(*cells, style="bold" if row.get("bold") else None)
    # Not as the table's own title and caption, which would be broken to the width of its columns.
    console.print(f"\n[bold]{title}[/], {BACKEND} backend", highlight=False)
    console.print(shown)
    if caption:
        console.print(f"[italic]{caption}[/]\n", highlight=False)


def _cell(text: str, row: Mapping[str, Any]) -> str:
    try:
        return text.format_map(row)
    except KeyError:
        return ""


def shades() -> Any:
    """Return colours from that of the page, whichever it is, to a full blue."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    return LinearSegmentedColormap.from_list("shades", [(*to_rgb(KERAS), 0.0), KERAS])


@contextlib.contextmanager
def figure(path: Path, title: str, columns: int, rows: int = 1, **options: Any) -> Iterator[Any]:
    """Give axes to draw on, and write them to a file.

    Args:
        path: The file; its folder is made.
        title: Stands above all axes.
        columns: Axes beside each other.
        rows: Axes below each other.
        **options: Options of `matplotlib.pyplot.subplots`.

    Yields:
        The axes, as `matplotlib.pyplot.subplots` gives them.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(STYLE)
    options = {"figsize": (5.5 * columns, 4.2 * rows), "layout": "constrained", **options}
    drawn, axes = plt.subplots(rows, columns, **options)
    drawn.suptitle(f"{title}  ({BACKEND} backend)", fontsize=13)
    yield axes
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, dpi=220, transparent=True)
    plt.close(drawn)
    console.print(f"Plot: {path}", soft_wrap=True)


def verdict(claims: Mapping[str, bool]) -> int:
    """Print which claims hold; return the exit code, 0 if all do."""
    for text, holds in claims.items():
        word = "[green]holds" if holds else "[red]FAILS"
        console.print(f"{word}[/] {text}", highlight=False, soft_wrap=True)
    return 0 if all(claims.values()) else 1
