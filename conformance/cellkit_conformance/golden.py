"""Golden files: frozen inputs, weights and outputs of implementations by other authors.

A folder holds `manifest.json` and one `.npz` per cell, in the format that `tests/golden/README.md`
describes. A file is compared when its cell is registered, under its own name or as an alias in a
spec; the spec's weight map brings the paper's symbols onto the cell's weights.

Files in float64 are compared in float64 on every backend; JAX workers run with x64 for that.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cellkit._errors import problem
from cellkit_conformance.process import Process, WorkerGone
from cellkit_conformance.trees import Tree, map_trees, paths

TIMEOUT = 180.0
"""Seconds that one file may take."""

DEFAULT_LIMITS = {"float64": 1e-9, "float32": 1e-5}
"""Relative to the largest magnitude of an array, where the manifest says nothing."""


@dataclass
class Match:
    """What became of one file on one backend.

    Attributes:
        name: The cell in the manifest.
        cell: The registered cell, or "" where there is none.
        dtype: What was computed in.
        error: The largest difference relative to the largest magnitude, by array.
        limit: The largest one allowed.
        problem: Why nothing could be compared, or "".
    """

    name: str
    cell: str = ""
    dtype: str = ""
    error: dict[str, float] | None = None
    limit: float = 0.0
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Whether every array is within the limit."""
        return not self.problem and bool(self.error) and self.worst <= self.limit

    @property
    def worst(self) -> float:
        """The largest relative difference."""
        return max(self.error.values()) if self.error else float("nan")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a folder.

    Args:
        folder: Holds `manifest.json`.

    Raises:
        ValueError: There is none, or it is not one.
    """
    file = folder / "manifest.json"
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        cells = manifest["cells"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise problem(
            f"{folder} is no folder of golden files.",
            received=f"{type(error).__name__}: {error}",
            expected="a folder with manifest.json, which has a list `cells`, and .npz files",
            fix="pass such a folder, for example tests/golden",
        ) from error
    return {**manifest, "cells": cells}


def run_golden(
    folder: Path, backends: Sequence[str], console: Console, list_all: bool = False
) -> int:
    """Compare all files of a folder on some backends and print a table.

    Args:
        folder: The folder.
        backends: Keras backends, one process each.
        console: Where to print.
        list_all: Whether to list every file whose cell is not registered, by name.

    Returns:
        0 when every file whose cell is registered matches, 1 when one does not, 3 when nothing
        could be compared.
    """
    manifest = read_manifest(folder)
    found = {name: _on_backend(folder, manifest, name) for name in backends}
    table = Table(title=f"Golden files of {folder}", title_justify="left", pad_edge=False)
    for heading in ("file", "cell", "library", "dtype"):
        table.add_column(heading, overflow="fold")
    for name in backends:
        table.add_column(f"error on {name}", justify="right")
    unregistered, broken, compared = [], [], 0
    for entry in manifest["cells"]:
        name = entry["cell"]
        row = [found[backend][name] for backend in backends]
        if not any(match.cell or match.problem for match in row):
            unregistered.append(name)
            continue
        compared += 1
        broken += [(backend, m) for backend, m in zip(backends, row, strict=True) if not m.ok]
        library = f"{entry.get('library', '?')} {entry.get('version', '')}"
        cells = [_cell_text(match) for match in row]
        table.add_row(name, row[0].cell, escape(library), row[0].dtype, *cells)
    console.print(table)
    for backend, match in broken:
        text = match.problem or f"{match.error} is above {match.limit:g}"
        console.print(f"[red]{match.name} on {backend}:[/] {escape(text)}", highlight=False)
    if unregistered:
        names = ", ".join(unregistered) if list_all else f"{len(unregistered)} (--all names them)"
        console.print(f"[dim]Not registered, so not compared: {names}[/]", highlight=False)
    console.print(f"{compared} file(s) compared on {len(backends)} backend(s), {len(broken)} miss.")
    return 1 if broken else 0 if compared else 3


def _cell_text(match: Match) -> str:
    if match.problem:
        return "[red]not compared[/]"
    return f"[{'green' if match.ok else 'red'}]{match.worst:.1e}[/]"


def _on_backend(folder: Path, manifest: Mapping[str, Any], backend: str) -> dict[str, Match]:
    """Compare all files on one backend, with a new worker after a crash."""
    matches: dict[str, Match] = {}
    process: Process | None = None
    options = {"profile": "quick", "seed": 0, "layer": "cellkit"}
    for entry in manifest["cells"]:
        name = entry["cell"]
        request = {
            "op": "golden",
            "folder": str(folder.resolve()),
            "entry": entry,
            "limits": limits(manifest),
        }
        try:
            process = process or Process(backend, options, {"JAX_ENABLE_X64": "1"})
            answer = process.ask(request, TIMEOUT)
        except WorkerGone as gone:
            process, matches[name] = None, Match(name, problem=f"{gone.kind}: {gone.reason}")
            continue
        if answer["event"] == "golden":
            matches[name] = Match(**answer["match"])
        else:
            matches[name] = Match(name, problem=answer["reason"])
    if process is not None:
        process.close()
    return matches


def limits(manifest: Mapping[str, Any]) -> dict[str, float]:
    """Give the relative limits of a manifest by dtype."""
    return {
        dtype: float(manifest.get(f"tolerance_rel_{dtype}", default))
        for dtype, default in DEFAULT_LIMITS.items()
    }


# In the worker -----------------------------------------------------------------------------------


def compare_entry(
    folder: Path, entry: Mapping[str, Any], limit_by_dtype: Mapping[str, float]
) -> Match:
    """Compare one file with the registered cell, in this process.

    Args:
        folder: Where the file is.
        entry: Its entry in the manifest.
        limit_by_dtype: The relative limits.

    Returns:
        The match; one without a cell where none is registered under this name.
    """
    match = Match(entry["cell"])
    found = _registered(entry["cell"])
    if found is None:
        return match
    registered, kwargs = found
    match.cell = registered.name
    with np.load(folder / entry["file"], allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    match.dtype = entry.get("dtype", str(arrays["y"].dtype))
    match.limit = limit_by_dtype[match.dtype]
    try:
        got = run_entry(registered, kwargs, entry, arrays, match.dtype)
    except (ValueError, TypeError, KeyError) as error:
        match.problem = f"{type(error).__name__}: {error}"
        return match
    match.error = {
        key: _relative_error(value, arrays[key]) for key, value in got.items() if key in arrays
    }
    return match


def run_entry(
    registered: Any,
    kwargs: Mapping[str, Any],
    entry: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    dtype: str,
) -> dict[str, np.ndarray]:
    """Run a registered cell on the data of a golden file.

    Args:
        registered: The cell's class and spec.
        kwargs: Constructor arguments that the alias stands for.
        entry: The manifest's entry.
        arrays: The arrays of the file.
        dtype: What to compute in.

    Returns:
        The outputs as "y" and the final states as "stateT.<name>".
    """
    import cellkit
    from cellkit_conformance.backend import to_numpy, to_tensor

    options = dict(kwargs)
    if registered.spec.configure is not None:
        options.update(registered.spec.configure(entry.get("hyper", {}), arrays))
    elif "units" in inspect.signature(registered.cls).parameters:
        options.setdefault("units", int(_state_width(arrays, list(entry["states"]))))
    cell = registered.cls(**options, dtype=dtype)
    layer = cellkit.RNN(cell, return_sequences=True, return_state=True, dtype=dtype)
    inputs = map_trees(lambda a: to_tensor(a.astype(dtype)), _inputs(registered.spec, arrays))
    layer.build(map_trees_to_shapes(inputs))
    symbols = {key[2:]: value for key, value in arrays.items() if key.startswith("w.")}
    cellkit.import_weights(cell, symbols, spec=registered.spec)
    names = _state_names(registered.spec, entry)
    output, *final = layer(inputs, initial_state=_initial_states(layer, names, arrays))
    found = {"y": to_numpy(output)}
    for name, (_, state) in zip(names, paths(final), strict=False):
        found[f"stateT.{name}"] = to_numpy(state)
    for key, value in found.items():
        if value.dtype.kind == "f" and str(value.dtype) != dtype:
            raise ValueError(f"{key} is {value.dtype}; the cell was asked for {dtype}")
    return found


def _state_names(spec: Any, entry: Mapping[str, Any]) -> list[str]:
    """Name the cell's states as the file does; libraries order them in their own ways."""
    in_file = list(entry["states"])
    return list(spec.states) if set(spec.states) & set(in_file) else in_file


def _initial_states(
    layer: Any, names: Sequence[str], arrays: Mapping[str, np.ndarray]
) -> list[Any] | None:
    """Take the initial states from the file; what it does not give starts as the cell says."""
    if not any(f"state0.{name}" in arrays for name in names):
        return None
    own = layer.get_initial_state(batch_size=arrays["x"].shape[0])
    leaves = [leaf for _, leaf in paths(own)]
    pairs = zip_longest(names[: len(leaves)], leaves)
    return [arrays.get(f"state0.{name}", leaf) for name, leaf in pairs]


def map_trees_to_shapes(tree: Tree) -> Tree:
    """Give the shape of every leaf."""
    return map_trees(lambda leaf: tuple(leaf.shape), tree)


def _registered(name: str) -> tuple[Any, dict[str, Any]] | None:
    """Find the registered cell that a manifest calls by this name, and its arguments."""
    import cellkit
    from cellkit import registry

    names = list(cellkit.list_cells())
    for candidate in sorted(names, key=lambda other: other != name):
        if registry.problem_of(candidate) is not None:
            continue  # `cellkit doctor` and `cellkit conform` report a cell that cannot be had
        registered = cellkit.get(candidate)
        if registered.spec is None:
            continue
        if name in registered.spec.aliases:
            return registered, dict(registered.spec.aliases[name])
        if name == candidate:
            return registered, {}
    return None


def _inputs(spec: Any, arrays: Mapping[str, np.ndarray]) -> Tree:
    """Bring the file's inputs into the structure that the cell takes."""
    if isinstance(spec.inputs, dict):
        return {key: arrays[key] for key in spec.inputs}
    extra = [arrays[key] for key in ("dt", "time") if key in arrays]
    return [arrays["x"], *extra] if extra else arrays["x"]


def _state_width(arrays: Mapping[str, np.ndarray], names: Sequence[str]) -> int:
    first = arrays.get(f"state0.{names[0]}", arrays["y"])
    return first.shape[-1]


def _relative_error(got: np.ndarray, want: np.ndarray) -> float:
    if got.shape != want.shape:
        return float("inf")
    scale = float(np.max(np.abs(want), initial=0.0)) or 1.0
    error = np.abs(got.astype(np.complex128) - want.astype(np.complex128))
    return float(np.max(error, initial=0.0)) / scale


def to_answer(match: Match) -> dict[str, Any]:
    """Make the worker's answer of a match."""
    return {"event": "golden", "match": asdict(match)}
