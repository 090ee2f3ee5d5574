"""Weights of Keras' own recurrent layers for cellkit's: from a file, a model, or a layer.

A file of weights names a layer after its class, so what `keras.layers.LSTM` saved as ``lstm`` is
not found by an `RNN(cell)`, which looks for ``rnn``. Here a copy of the file is made in which every
layer has the name that the target looks for, and Keras loads that.
"""

from __future__ import annotations

import os
import re
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from cellkit.errors import problem
from cellkit.layers.rnn import RNN
from cellkit.registry.registry import spec_of

__all__ = ["load_keras_weights"]

_STOCK = {
    keras.layers.LSTMCell: "lstm",
    keras.layers.GRUCell: "gru",
    keras.layers.SimpleRNNCell: "simple_rnn",
}


def load_keras_weights(target: Any, source: Any, *, name: str | None = None) -> None:
    """Load the weights of Keras' recurrent layers into the corresponding layers of cellkit.

    An `RNN` corresponds to the Keras layer whose weights its cell has: `RNN(keras.layers.LSTMCell)`
    and `RNN` of the cell `lstm` to `keras.layers.LSTM`, likewise `gru`, `simple_rnn` and
    `conv_lstm`; an `RNN` over a stack of such cells to as many Keras layers in a row. A
    `Bidirectional` corresponds to one of Keras around such a layer. All other layers of a model
    are loaded as they are.

    Args:
        target: A built layer of cellkit, or a built model with such layers.
        source: Path of a ``.weights.h5`` or ``.keras`` file, a Keras model, or a Keras layer.
        name: For a single layer as target: the name of the layer in a file or model with several
            that would fit.

    Raises:
        ValueError: If the source has no weights that fit. The target is then as it was.

    Example:
    >>> theirs = keras.layers.LSTM(4)
    >>> theirs.build((None, 5, 3))
    >>> ours = RNN(keras.layers.LSTMCell(4))
    >>> ours.build((None, 5, 3))
    >>> load_keras_weights(ours, theirs)
    """
    if not isinstance(target, keras.layers.Layer) or not target.built:
        raise problem(
            "The weights have nowhere to go.",
            received=f"a {type(target).__name__}"
            + (" that is not built" if isinstance(target, keras.layers.Layer) else ""),
            expected="a built layer of cellkit, or a built model",
            fix="call it once, or build it with the shape of its inputs",
        )
    before = [(v, keras.ops.copy(v.value)) for v in target.variables]
    try:
        with tempfile.TemporaryDirectory() as folder, _opened(source, Path(folder)) as file:
            if isinstance(target, keras.Model):
                _load_model(target, file, Path(folder) / "renamed.weights.h5")
            else:
                _load_layer(target, file, name)
    except Exception:
        for variable, value in before:
            variable.assign(value)
        raise


# The source -------------------------------------------------------------------------------------


def _opened(source: Any, folder: Path) -> h5py.File:
    """Return the weights of a source as an open file."""
    if isinstance(source, keras.Model):
        path = folder / "source.weights.h5"
        source.save_weights(path)
        return h5py.File(path, "r")
    if isinstance(source, keras.layers.Layer):
        return _opened(_model_of(source), folder)
    if not isinstance(source, (str, os.PathLike)):
        raise problem(
            "There are no weights in this source.",
            received=f"a {type(source).__name__}",
            expected="the path of a .weights.h5 or .keras file, a Keras model or a Keras layer",
            fix="pass the path of the file",
        )
    path = Path(source)
    try:
        if path.name.endswith(".keras"):
            with zipfile.ZipFile(path) as archive:
                data = archive.read("model.weights.h5")
            path = folder / "source.weights.h5"
            path.write_bytes(data)
        return h5py.File(path, "r")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise problem(
            "The file of weights cannot be read.",
            received=f"{str(source)!r}: {type(error).__name__}: {error}",
            expected="a .weights.h5 or .keras file as Keras 3 saves it",
            fix="check the path; save the model again with `model.save_weights('x.weights.h5')`",
        ) from error


def _model_of(layer: Any) -> Any:
    """Return a model of one built layer, to save it as it would be saved in one."""
    if not layer.built:
        raise problem(
            "A layer that is not built has no weights.",
            received=f"the layer {layer.name!r}, which is not built",
            expected="a built layer",
            fix="call it once, or build it with the shape of its inputs",
        )

    class Single(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.only = [layer]
            self.built = True

    return Single()


def _kind_of_entry(entry: str) -> str:
    """Return the class that an entry such as ``lstm_1`` is named after."""
    return re.sub(r"_\d+$", "", entry)


def _arrays(file: Any, path: str) -> list[np.ndarray]:
    """Return the arrays of one layer, in their order."""
    group = file.get(f"{path}/vars")
    return [] if group is None else [np.asarray(group[k]) for k in sorted(group, key=int)]


# Correspondence ---------------------------------------------------------------------------------


def _kind(cell: Any) -> str | None:
    """Return the name of Keras' layer that stores its weights as a cell does, or None."""
    for cls, kind in _STOCK.items():
        if isinstance(cell, cls):
            return kind
    spec = spec_of(type(cell))
    claims = [t.split(":", 1)[1] for t in (spec.traits if spec else ()) if t.startswith("equiv:")]
    if not claims:
        return None
    layer = claims[0]
    if layer.startswith("ConvLSTM"):
        layer = f"ConvLSTM{cell.rank}D"
    return _snake_case(layer)


def _snake_case(name: str) -> str:
    """Return the name of a class as an entry of a file has it."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _cells(layer: Any) -> list[Any]:
    """Return the cells of an `RNN`, in their order."""
    cell = layer.cell
    return list(cell.cells) if isinstance(cell, keras.layers.StackedRNNCells) else [cell]


def _is_ours(layer: Any) -> bool:
    return isinstance(layer, RNN) and all(_kind(cell) is not None for cell in _cells(layer))


def _fits(file: Any, path: str, cell: Any) -> bool:
    shapes = [tuple(w.shape) for w in cell.weights]
    return [a.shape for a in _arrays(file, path)] == shapes


# A single layer ---------------------------------------------------------------------------------


def _load_layer(target: Any, file: Any, name: str | None) -> None:
    wrapped = isinstance(target, keras.layers.Bidirectional)
    parts = [target.forward_layer, target.backward_layer] if wrapped else [target]
    if not all(_is_ours(part) for part in parts):
        raise problem(
            f"No layer of Keras has the weights of {target.name!r}.",
            received=f"a {type(target).__name__} of "
            + ", ".join(type(getattr(p, "cell", p)).__name__ for p in parts),
            expected="an RNN of cells whose weights are those of Keras' LSTM, GRU, SimpleRNN or "
            "ConvLSTM layers, or a Bidirectional around one",
            fix="use `cellkit.import_weights(cell, {symbol: array})`, which takes any layout",
        )
    found = [
        paths
        for entry, names in _entries(file)
        for paths in [_paths(file, entry, target)]
        if paths is not None and (name is None or name in names)
    ]
    if len(found) != 1:
        every = ", ".join(sorted({n for _, names in _entries(file) for n in names})) or "none"
        raise problem(
            f"The weights of {target.name!r} are not found."
            if not found
            else f"Several layers have the weights of {target.name!r}.",
            received=f"{len(found)} layers that fit"
            + (f" under the name {name!r}" if name else "")
            + f", among {every}",
            expected="one layer of the same kind, with weights of shapes "
            + ", ".join(str(tuple(w.shape)) for w in target.weights),
            fix="say which one with `name=...`"
            if found
            else "make the layer with the same cell, "
            "sizes and options (`use_bias`, `reset_after`, ...) as the one that was saved",
        )
    for cell, path in zip((c for p in parts for c in _cells(p)), found[0], strict=True):
        _assign(cell, _arrays(file, path))


def _entries(file: Any) -> Iterator[tuple[str, set[str]]]:
    """Yield the path of everything that may be a layer, with the names it goes by."""
    paths: list[str] = []
    file.visititems(lambda path, item: paths.append(path) if isinstance(item, h5py.Group) else None)
    for path in sorted(paths):
        own = file.get(f"{path}/vars")
        if own is None or path.endswith("/cell") or "/cell/" in path:
            continue
        names = {path.rsplit("/", 1)[-1]}
        if "name" in own.attrs:
            names.add(str(own.attrs["name"]))
        yield path, names


def _paths(file: Any, entry: str, target: Any) -> list[str] | None:
    """Return where the weights of each cell of `target` stand below `entry`, if they do."""
    last = entry.rsplit("/", 1)[-1]
    if isinstance(target, keras.layers.Bidirectional):
        halves = [
            _paths(file, f"{entry}/{side}", getattr(target, side))
            for side in ("forward_layer", "backward_layer")
        ]
        return None if None in halves else [p for half in halves if half for p in half]
    cells = _cells(target)
    stacked = file.get(f"{entry}/cell/cells")
    if stacked is not None:
        paths = _in_stack(entry, cells)
    elif len(cells) == 1:
        named = _kind_of_entry(last)
        others = {*_STOCK.values(), "conv_lstm1d", "conv_lstm2d", "conv_lstm3d"}
        if named in others and named != _kind(cells[0]):
            return None
        paths = [f"{entry}/cell"]
    else:
        return None
    fit = len(paths) == len(cells) and all(map(_fits, [file] * len(cells), paths, cells))
    return paths if fit else None


def _in_stack(entry: str, cells: list[Any]) -> list[str]:
    """Return the places of the cells of a saved stack, which are named after Keras' classes."""
    counts: dict[str, int] = {}
    paths = []
    for cell in cells:
        kind = f"{_kind(cell)}_cell"
        number = counts[kind] = counts.get(kind, -1) + 1
        paths.append(f"{entry}/cell/cells/{kind}" + (f"_{number}" if number else ""))
    return paths


def _assign(cell: Any, arrays: list[np.ndarray]) -> None:
    for variable, array in zip(cell.weights, arrays, strict=True):
        variable.assign(array)


# A model ----------------------------------------------------------------------------------------


def _load_model(target: Any, file: Any, path: Path) -> None:
    """Copy the file with the names that `target` looks for, and load it."""
    with h5py.File(path, "w") as renamed:
        for key in file:
            if key not in ("layers", "optimizer"):
                file.copy(key, renamed)
        for key, value in file.attrs.items():
            renamed.attrs[key] = value
        if "layers" in file:
            _rename(target, file["layers"], renamed.create_group("layers"))
    try:
        target.load_weights(path)
    except ValueError as error:
        raise problem(
            "The weights do not fit the model.",
            received=str(error).split("\n", 1)[0],
            expected="a file of a model of the same layers, with Keras' recurrent layers in the "
            "place of cellkit's",
            fix="make the model with the same layers, sizes and options as the one that was saved",
        ) from error


def _rename(model: Any, source: Any, target: Any) -> None:
    """Copy the layers of a model to the names that it looks for, inner models included."""
    theirs: dict[str, int] = {}
    own: dict[str, int] = {}

    def next_of(kind: str, counts: dict[str, int]) -> str:
        number = counts[kind] = counts.get(kind, -1) + 1
        return f"{kind}_{number}" if number else kind

    for layer in model.layers:
        place = next_of(_snake_case(type(layer).__name__), own)
        if _is_ours(layer):
            _rename_rnn(layer, source, target.create_group(place), theirs, next_of)
            continue
        found = next_of(_snake_case(type(layer).__name__), theirs)
        if found not in source:
            continue  # a layer without weights; what Keras misses it says itself
        if isinstance(layer, keras.Model) and "layers" in source[found]:
            group = target.create_group(place)
            for key in source[found]:
                if key != "layers":
                    source.copy(f"{found}/{key}", group)
            _rename(layer, source[f"{found}/layers"], group.create_group("layers"))
        else:
            source.copy(found, target, name=place)


def _rename_rnn(layer: Any, source: Any, place: Any, theirs: Any, next_of: Any) -> None:
    """Copy the weights of one `RNN` from the Keras layers that correspond to it."""
    cells = _cells(layer)
    peek = dict(theirs)
    kept = next_of("rnn", peek)
    if kept in source and _paths(source, kept, layer) is not None:
        theirs.update(peek)  # a `keras.layers.RNN`: its file has the form already
        for key in source[kept]:
            source.copy(f"{kept}/{key}", place)
        return
    entries = [next_of(str(_kind(cell)), theirs) for cell in cells]
    stacked = isinstance(layer.cell, keras.layers.StackedRNNCells)
    inside: dict[str, int] = {}
    for cell, entry in zip(cells, entries, strict=True):
        if entry not in source or not _fits(source, f"{entry}/cell", cell):
            have = [a.shape for a in _arrays(source, f"{entry}/cell")]
            raise problem(
                f"The weights of the layer {layer.name!r} are not found.",
                received=f"{entry!r} in the file: "
                + (f"weights of shapes {have}" if entry in source else "missing"),
                expected=f"a layer {entry!r} with weights of shapes "
                f"{[tuple(w.shape) for w in cell.weights]}",
                fix="make the layer with the same cell, sizes and options (`use_bias`, "
                "`reset_after`, ...) as the one that was saved",
            )
        if stacked:
            name = next_of(_snake_case(type(cell).__name__), inside)
            source.copy(f"{entry}/cell", place.require_group("cell/cells"), name=name)
        else:
            source.copy(f"{entry}/cell", place, name="cell")
