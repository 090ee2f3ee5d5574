"""The results as pictures: bars per cell, and curves over length, batch and width."""

from __future__ import annotations

import io
import operator
from pathlib import Path
from typing import Any

from cellkit_bench import report
from cellkit_bench.report import CELLKIT, PRODUCT
from cellkit_conformance.files import write_bytes

MODES = {"inference": "inference", "training": "training step"}

_COLOURS = (
    (CELLKIT, "#0b6e4f"),
    ("keras.layers.RNN", "#c8553d"),
    ("keras.layers.", "#e9a178"),
    ("torch.nn.", "#4a6fa5"),
    ("torchrecurrent", "#8fa8cc"),
    ("flax", "#7d5ba6"),
    ("by hand", "#8a8a8a"),
)
_TEXT = "#333333"


def draw(results: dict[str, Any], folder: Path) -> list[Path]:
    """Draw what there is to draw.

    Args:
        results: The return value of `run.measure`.
        folder: Folder for the pictures.

    Returns:
        Their paths.
    """
    import matplotlib

    matplotlib.use("Agg")
    written = []
    for backend in dict.fromkeys(entry["backend"] for entry in results["times"]):
        for name, make in (("cells", _bars), ("curves", _curves)):
            figure = make(results, backend)
            if figure is not None:
                path = folder / f"{name}-{backend}.png"
                picture = io.BytesIO()
                figure.savefig(picture, dpi=110, bbox_inches="tight", facecolor="white")
                write_bytes(path, picture.getvalue())
                written.append(path)
    return written


def _colour(name: str) -> str:
    if name.startswith(f"{CELLKIT} engine"):
        return "#63a88c"
    return next((colour for start, colour in _COLOURS if name.startswith(start)), "#bbbbbb")


def _subtitle(results: dict[str, Any], backend: str) -> str:
    machine = results["machine"]
    versions: dict[str, str] = next(
        (b["versions"] for b in results["backends"] if b["backend"] == backend), {}
    )
    device = next((b["device"] for b in results["backends"] if b["backend"] == backend), "cpu")
    where = f"{machine['cpu']}, {machine['cpus']} CPUs" if device == "cpu" else device
    stack = ", ".join(f"{name} {version}" for name, version in versions.items() if name != "numpy")
    return f"{where}; cellkit {results['cellkit']}, {stack}; {results['date'][:10]}"


def _bars(results: dict[str, Any], backend: str) -> Any:
    """Draw one row per cell of the main part, one column per mode."""
    from matplotlib.figure import Figure

    plan = results["plan"]
    shapes = {(w["cell"], w["batch"], w["length"], w["width"]) for w in plan["main"]}
    groups = {
        (cell, mode): entries
        for (b, cell, shape, mode), entries in report.group(results).items()
        if b == backend and (cell, *shape) in shapes and mode in MODES
    }
    cells = list(dict.fromkeys(cell for cell, _ in groups))
    if not cells:
        return None
    rate = report.rates(results)
    counts = [max(len(_shown(groups.get((c, m), {}))) for m in MODES) for c in cells]
    heights = [count + 1.2 for count in counts]
    figure = Figure(figsize=(11.5, 0.27 * sum(heights) + 1.5))
    axes = figure.subplots(len(cells), 2, squeeze=False, height_ratios=heights)
    for row, cell in enumerate(cells):
        for column, mode in enumerate(MODES):
            axis = axes[row][column]
            entries = _shown(groups.get((cell, mode), {}))
            _bar_panel(axis, entries, rate, labels=column == 0)
            axis.set_ylim(counts[row] - 0.4, -0.6)
            if row == 0:
                axis.set_title(MODES[mode], loc="left", fontsize=11, color=_TEXT, pad=22)
            if column == 0:
                axis.annotate(
                    cell,
                    (0, 1),
                    xytext=(-8, 5),
                    xycoords="axes fraction",
                    textcoords="offset points",
                    ha="right",
                    fontsize=10,
                    fontweight="bold",
                    color=_TEXT,
                )
        axes[row][1].set_yticks([])
    first = plan["main"][0]
    size = f"batch {first['batch']}, {first['length']} steps, width {first['width']}, float32"
    # The space above the panels is measured in inches, however many rows there are.
    inch = 1 / figure.get_figheight()
    figure.subplots_adjust(hspace=0.55, wspace=0.1, top=1 - 1.2 * inch, bottom=0.3 * inch)
    figure.text(
        0.02, 1 - 0.15 * inch, f"Milliseconds on {backend}: {size}", fontsize=13, color=_TEXT
    )
    note = "medians, with quartiles; dashed: the floor, the matrix products alone"
    figure.text(
        0.02,
        1 - 0.38 * inch,
        f"{note}\n{_subtitle(results, backend)}",
        fontsize=8,
        color="#666666",
        va="top",
    )
    return figure


def _shown(entries: dict[str, Any]) -> dict[str, Any]:
    return {name: entry for name, entry in entries.items() if name != PRODUCT}


def _bar_panel(axis: Any, entries: dict[str, Any], rate: dict[str, float], labels: bool) -> None:
    names = list(entries)
    widest = max((entries[n]["seconds"]["upper"] for n in names), default=1e-3) * 1e3
    for y, name in enumerate(names):
        seconds = {k: 1e3 * v for k, v in entries[name]["seconds"].items() if k != "count"}
        axis.barh(y, seconds["median"], height=0.72, color=_colour(name))
        axis.plot([seconds["lower"], seconds["upper"]], [y, y], color="#222222", lw=1)
        text = f"{seconds['median']:.3g}"
        axis.text(
            max(seconds["upper"], seconds["median"]) + 0.012 * widest,
            y,
            text,
            va="center",
            fontsize=8,
            color=_TEXT,
            fontweight="bold" if name == CELLKIT else "normal",
        )
    axis.set_yticks(range(len(names)), names if labels else [""] * len(names), fontsize=8)
    for tick, name in zip(axis.get_yticklabels(), names, strict=False):
        tick.set_color(_TEXT)
        tick.set_fontweight("bold" if name == CELLKIT else "normal")
    least = report.floor(next(iter(entries.values())), rate) if entries else None
    if least is not None:
        axis.axvline(1e3 * least, color="#222222", lw=0.9, ls=(0, (3, 2)))
    axis.set_xlim(0, 1.1 * widest)
    axis.tick_params(axis="x", labelsize=7, colors="#666666", length=2)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color("#bbbbbb")


def _curves(results: dict[str, Any], backend: str) -> Any:
    """Draw times over length, batch and width, around the shape of the main part."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

    plan = results["plan"]
    if not plan["curves"]:
        return None
    first = plan["main"][0]
    centre = (first["batch"], first["length"], first["width"])
    groups = {
        (shape, mode): _shown(entries)
        for (b, cell, shape, mode), entries in report.group(results).items()
        if b == backend and cell == first["cell"] and mode in MODES
    }
    extra = {(w["batch"], w["length"], w["width"]) for w in plan["curves"]}
    names = next((list(g) for (shape, _), g in groups.items() if shape in extra), None)
    if names is None:
        return None
    figure = Figure(figsize=(11.5, 6.6))
    axes = figure.subplots(2, 3, squeeze=False)
    titles = {1: "steps", 0: "batch", 2: "width"}
    for column, (which, title) in enumerate(titles.items()):
        shapes = sorted(
            (s for s in {centre, *extra} if _differs_only_in(s, centre, which)),
            key=operator.itemgetter(which),
        )
        for row, mode in enumerate(MODES):
            axis = axes[row][column]
            for name in names:
                found = [
                    (s[which], groups[s, mode][name]["seconds"])
                    for s in shapes
                    if name in groups.get((s, mode), {})
                ]
                x = [value for value, _ in found]
                y, low, high = (
                    [1e3 * t[k] for _, t in found] for k in ("median", "lower", "upper")
                )
                axis.plot(x, y, "o-", color=_colour(name), label=name, ms=4, lw=1.6)
                axis.fill_between(x, low, high, color=_colour(name), alpha=0.15, lw=0)
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.set_xticks([s[which] for s in shapes], [str(s[which]) for s in shapes])
            axis.xaxis.set_minor_locator(NullLocator())
            axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.yaxis.set_minor_formatter(NullFormatter())
            axis.grid(axis="y", color="#e4e4e4", lw=0.7)
            axis.set_axisbelow(True)
            axis.tick_params(labelsize=8, colors="#555555")
            axis.spines[["top", "right"]].set_visible(False)
            if row == 1:
                axis.set_xlabel(title, color=_TEXT)
            if column == 0:
                axis.set_ylabel(f"{MODES[mode]}, ms", color=_TEXT)
    figure.subplots_adjust(top=0.84, wspace=0.22, hspace=0.2)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="upper left", bbox_to_anchor=(0.115, 0.905), ncols=5, frameon=False
    )
    size = f"around batch {centre[0]}, {centre[1]} steps, width {centre[2]}, float32"
    figure.text(0.12, 0.955, f"{first['cell']} on {backend}, {size}", fontsize=13, color=_TEXT)
    figure.text(
        0.12,
        0.918,
        f"medians, with quartiles; {_subtitle(results, backend)}",
        fontsize=8,
        color="#666666",
    )
    return figure


def _differs_only_in(shape: tuple[int, ...], centre: tuple[int, ...], which: int) -> bool:
    return all(a == b for i, (a, b) in enumerate(zip(shape, centre, strict=True)) if i != which)
