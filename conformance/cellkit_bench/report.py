"""Results as tables: times, ratios and fractions of the floor, as tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cellkit_bench.timing import Summary, ratio

PRODUCT = "matrix product"
CELLKIT = "cellkit.RNN"


def group(results: dict[str, Any]) -> dict[tuple[Any, ...], dict[str, dict[str, Any]]]:
    """Sort the times: by backend, work and mode, then by contestant."""
    groups: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for entry in results["times"]:
        work = entry["work"]
        shape = (work["batch"], work["length"], work["width"])
        key = (entry["backend"], work["cell"], shape, entry["mode"])
        groups.setdefault(key, {})[entry["contestant"]] = entry
    return groups


def rates(results: dict[str, Any]) -> dict[str, float]:
    """Return the rate of the large product on each backend, in operations per second.

    The highest median of the run, since a busy moment can only lower it.
    """
    found: dict[str, float] = {}
    for entry in results["times"]:
        if entry["contestant"] == PRODUCT:
            rate = entry["operations"] / entry["seconds"]["median"]
            found[entry["backend"]] = max(rate, found.get(entry["backend"], 0.0))
    return found


def floor(entry: dict[str, Any], rate: dict[str, float]) -> float | None:
    """Return the seconds that the matrix products of an entry take at the rate of its backend."""
    if entry["operations"] is None or entry["backend"] not in rate:
        return None
    return float(entry["operations"] / rate[entry["backend"]])


def compare(results: dict[str, Any]) -> Iterator[tuple[tuple[Any, ...], str, Summary]]:
    """Yield the ratio of cellkit's time over that of every other contestant, in each group."""
    for key, entries in group(results).items():
        ours = next((n for n in entries if n in (CELLKIT, "cellkit layer.step")), None)
        if ours is None:
            continue
        for name, entry in entries.items():
            if name not in (ours, PRODUCT):
                yield key, name, ratio(entries[ours]["rounds"], entry["rounds"])


def show(console: Console, results: dict[str, Any]) -> None:
    """Print the results.

    Args:
        console: Console to print on.
        results: The return value of `run.measure`.
    """
    machine = results["machine"]
    console.print(
        f"cellkit {results['cellkit']}, {results['date']}: {machine['cpu']}, {machine['cpus']} "
        f"CPUs, load {machine['load_at_start']} at the start",
        highlight=False,
    )
    rate = rates(results)
    ratios = {(key, name): summary for key, name, summary in compare(results)}
    for mode in ("inference", "training", "stream"):
        table = Table(
            box=box.SIMPLE_HEAD, pad_edge=False, title=_TITLES[mode], title_justify="left"
        )
        for title in ("backend", "cell", "B x T x W", "contestant"):
            table.add_column(title)
        for title in ("median", "quartiles", "first call", "of the floor", "cellkit takes"):
            table.add_column(title, justify="right")
        for key, entries in group(results).items():
            if key[3] == mode:
                _add_rows(table, key, entries, rate, ratios)
        if table.row_count:
            console.print(table)
    _show_memory(console, results)
    for failure in results["failed"]:
        where = failure["work"]["cell"] if failure["work"] else "all"
        console.print(
            f"[red]failed[/] {failure['backend']} {where} {failure['mode'] or ''} "
            f"{failure['contestant'] or ''}: {escape(failure['reason'])}",
            highlight=False,
        )


_TITLES = {
    "inference": "Inference: forward, no gradients",
    "training": "Training step: forward, backward, the gradients of all weights",
    "stream": "Stream: one step, on a batch of one",
}


def _add_rows(
    table: Table,
    key: tuple[Any, ...],
    entries: dict[str, dict[str, Any]],
    rate: dict[str, float],
    ratios: dict[tuple[Any, str], Summary],
) -> None:
    backend, cell, shape, _ = key
    for index, (name, entry) in enumerate(entries.items()):
        if name == PRODUCT:
            continue
        seconds = entry["seconds"]
        least = floor(entry, rate)
        against = ratios.get((key, name))
        engine = f" ({entry['engine']})" if entry["engine"] else ""
        table.add_row(
            *((backend, cell, " x ".join(map(str, shape))) if index == 0 else ("", "", "")),
            f"[bold]{name}{engine}[/]" if name == CELLKIT else escape(name),
            duration(seconds["median"]),
            f"{duration(seconds['lower'])} to {duration(seconds['upper'])}",
            "" if entry["first"] is None else duration(entry["first"]),
            "" if least is None else f"{least / seconds['median']:.0%}",
            "" if against is None else f"{against.median:.2f} x",
        )
    table.add_section()


def _show_memory(console: Console, results: dict[str, Any]) -> None:
    if not results["memory"]:
        return
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, title="Memory at the peak", title_justify="left"
    )
    for title in ("backend", "cell", "B x T x W", "mode", "contestant", "counter"):
        table.add_column(title)
    table.add_column("MiB", justify="right")
    for entry in results["memory"]:
        work = entry["work"]
        shape = f"{work['batch']} x {work['length']} x {work['width']}"
        table.add_row(
            entry["backend"],
            work["cell"],
            shape,
            entry["mode"],
            entry["contestant"],
            entry["counter"],
            f"{entry['bytes'] / 2**20:.1f}",
        )
    console.print(table)


def duration(seconds: float) -> str:
    """Write a time with the unit that fits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"
