"""Models of cells to be exported, their data, and what must come out."""

import os

import keras
import numpy as np
from cell_numbers import random_weights

import cellkit
from cellkit.errors import problem
from cellkit_conformance.subject import exports
from cellkit_conformance.subject.exports import (
    BACKEND,
    NAMES,
    Runtime,
    builtin_only,
    missing,
    operations_of_litert,
)

FORMATS = (*exports.FORMATS, "openvino") if BACKEND == "jax" else exports.FORMATS
"""Those that are written, and one that has to be refused."""

__all__ = ["BACKEND", "FORMATS", "NAMES", "Runtime", "builtin_only", "operations_of_litert"]


def chosen(few, sample):
    """Return the names of the cells to export, which EXPORT_CELLS says.

    Args:
        few: Those of `few`, which is what an unset variable means.
        sample: Those of `sample`.

    Raises:
        ValueError: If it is none of `few`, `sample` and `all`, and no list of registered cells.
    """
    asked, every = os.environ.get("EXPORT_CELLS", "few"), tuple(cellkit.list_cells())
    sizes = {"few": tuple(few), "sample": tuple(sample), "all": every}
    if asked in sizes:
        return sizes[asked]
    names = tuple(asked.split(","))
    unknown = sorted({*names} - {*every})
    if unknown:
        raise problem(
            "EXPORT_CELLS names cells that are not registered.",
            received=", ".join(map(repr, unknown)),
            expected="`few`, `sample`, `all`, or names that `cellkit list` shows",
            fix="write the names with commas between them, e.g. EXPORT_CELLS=lstm,gru",
        )
    return names


def model_of(name, time=None, batch=None, masked=True, engine="auto", warm=False, **options):
    """Return a model of a layer: its inputs are those of the layer, constants and, at last, a mask.

    Args:
        name: Of a registered cell.
        time: Number of steps, None for any.
        batch: Number of rows, None for any.
        masked: True if there is a mask.
        engine: The layer's option.
        warm: True if the layer is called before.
        **options: Of the layer.
    """
    found = cellkit.get(name)
    cell = found.cls(**next(iter(found.spec.cases.values())))
    layer = cellkit.RNN(cell, engine=engine, **options)
    leaves, structure = shapes_of(name)
    xs = [keras.Input(batch_shape=(batch, time, *s), name=f"a{i}") for i, s in enumerate(leaves)]
    kept = [
        keras.Input(batch_shape=(batch, *s), name=f"b{i}")
        for i, s in enumerate(shapes_of_constants(name))
    ]
    if warm:
        rng = np.random.default_rng(8)
        given = [
            np.abs(rng.normal(size=(batch or 4, time or 11, *s))).astype("float32") for s in leaves
        ]
        layer.build(
            nested(structure, [x.shape for x in xs]),
            constants_shape=[x.shape for x in kept] or None,
        )
        random_weights(cell, np.random.default_rng(7))
        layer.engine = "auto"  # some engines run in compiled calls only
        layer(nested(structure, given), constants=constants_of(name, batch or 4) or None)
        layer.engine = engine
    inputs = [*xs, *kept]
    given = {"constants": kept} if kept else {}
    if masked:
        inputs.append(keras.Input(batch_shape=(batch, time), dtype="bool", name="c"))
        given["mask"] = inputs[-1]
    outputs = layer(nested(structure, xs), **given)
    if not warm:
        random_weights(cell, np.random.default_rng(7))
    model = keras.Model(inputs if len(inputs) > 1 else inputs[0], keras.tree.flatten(outputs))
    model.layer = layer
    return model


def shapes_of(name):
    """Return the shapes of a cell's inputs in a list, and the structure with their places in it."""
    return _leaves(_concrete(cellkit.get(name).spec.inputs))


def shapes_of_constants(name):
    """Return the shapes of the constants that a cell takes."""
    return [_concrete(shape) for shape in cellkit.get(name).spec.constants or ()]


def constants_of(name, rows):
    """Make the constants that a cell takes."""
    rng = np.random.default_rng(2)
    return [
        rng.normal(size=(rows, *shape)).astype("float32") for shape in shapes_of_constants(name)
    ]


def _concrete(declared):
    """Return the shape, or structure of shapes, of a step's inputs with numbers for names."""
    if isinstance(declared, dict):
        return {k: _concrete(v) for k, v in declared.items()}
    if declared and not isinstance(declared[0], (str, int)):
        return tuple(_concrete(v) for v in declared)
    return tuple(5 if isinstance(d, str) else d for d in declared)


def _leaves(shapes):
    """Return shapes in a list, and the structure that they had, with their places in it."""
    leaves = []

    def place(value):
        if isinstance(value, dict):
            return {k: place(v) for k, v in value.items()}
        if value and not isinstance(value[0], int):
            return tuple(place(v) for v in value)
        leaves.append(value)
        return len(leaves) - 1

    structure = place(shapes)
    return leaves, structure


def nested(structure, leaves):
    """Put leaves in the places that a structure has for them."""
    return keras.tree.map_structure(lambda i: leaves[i], structure)


def data_for(model, rows, steps, seed=3):
    """Return arrays for a model."""
    rng = np.random.default_rng(seed)
    arrays = []
    for x in model.inputs:
        shape = (x.shape[0] or rows, *(n or steps for n in x.shape[1:]))
        if x.dtype == "bool":
            arrays.append(rng.random(shape) > 0.3)
        else:
            # Not negative: some inputs are durations.
            arrays.append(np.abs(rng.normal(size=shape)).astype("float32"))
    return arrays


def expected(model, arrays):
    """Return what the model makes of arrays."""
    given = [keras.ops.convert_to_tensor(a) for a in arrays]
    # The plain loop: what all engines must give.
    asked, model.layer.engine = model.layer.engine, "loop"
    results = model(given if len(given) > 1 else given[0])
    model.layer.engine = asked
    return [np.asarray(keras.ops.convert_to_numpy(y)) for y in keras.tree.flatten(results)]


def export(model, form, folder):
    """Write a model, and return the path.

    Args:
        model: The model.
        form: One of `FORMATS`.
        folder: Where to.
    """
    return exports.write(model, form, folder, data_for(model, 3, 6))


def installed(form):
    """Tell whether the libraries of a format are there."""
    return not missing(form)
