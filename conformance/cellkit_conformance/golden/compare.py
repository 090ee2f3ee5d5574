"""The comparison of one golden file with a registered cell, in the process of a backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from cellkit_conformance.golden.arguments import arguments_of
from cellkit_conformance.golden.inputs import inputs_of
from cellkit_conformance.golden.manifest import Match
from cellkit_conformance.trees import Tree, map_trees, paths


def compare_entry(
    folder: Path, entry: Mapping[str, Any], limit_by_dtype: Mapping[str, float]
) -> Match:
    """Compare one file with the registered cell, in this process.

    Args:
        folder: Folder of the file.
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
        dtype: The dtype to compute in.

    Returns:
        The outputs as "y" and the final states as "stateT.<name>".
    """
    import cellkit
    from cellkit_conformance.subject.backend import to_numpy, to_tensor

    options = arguments_of(registered, kwargs, entry, arrays)
    cell = registered.cls(**options, dtype=dtype)
    layer = cellkit.RNN(cell, return_sequences=True, return_state=True, dtype=dtype)
    inputs = map_trees(
        lambda a: to_tensor(a.astype(dtype)), inputs_of(registered.spec, entry, arrays)
    )
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


def _relative_error(got: np.ndarray, want: np.ndarray) -> float:
    if got.shape != want.shape:
        return float("inf")
    scale = float(np.max(np.abs(want), initial=0.0)) or 1.0
    error = np.abs(got.astype(np.complex128) - want.astype(np.complex128))
    return float(np.max(error, initial=0.0)) / scale


def to_answer(match: Match) -> dict[str, Any]:
    """Make the worker's answer of a match."""
    return {"event": "golden", "match": asdict(match)}
