"""Run a cell's layer and, beside it, the oracle's loop over the cell's NumPy reference."""

import json
import os
from pathlib import Path

import keras
import numpy as np

import cellkit
from cellkit.registry import cell_weights, export_weights, import_weights, set_cell_weights
from cellkit_conformance.golden.arguments import arguments_of
from cellkit_conformance.subject import oracle

GOLDEN = Path(__file__).parents[1] / "golden"
# JAX has float64 only in a process that was started for it.
X64 = keras.backend.backend() != "jax" or os.environ.get("JAX_ENABLE_X64") == "1"
DTYPE, TOLERANCE = ("float64", 1e-12) if X64 else ("float32", 3e-5)
B, T = 3, 6
MASK = np.array([[1, 1, 0, 1, 1, 0], [0, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0]], bool)

map_structure = keras.tree.map_structure


def cases(*names):
    """Return (name, case) of every case of these cells."""
    return [(name, case) for name in names for case in cellkit.get(name).spec.cases]


def draw(shapes, sizes, rng):
    """Draw inputs (B, T, ...) for the structure of shapes in a spec."""
    if isinstance(shapes, dict):
        return {key: draw(shape, sizes, rng) for key, shape in shapes.items()}
    if all(isinstance(d, (int, str)) for d in shapes):
        return rng.normal(
            size=(B, T, *(sizes.get(d, 4) if isinstance(d, str) else d for d in shapes))
        )
    return tuple(draw(shape, sizes, rng) for shape in shapes)


def shapes_of(inputs):
    if isinstance(inputs, dict):
        return {key: x.shape for key, x in inputs.items()}
    return tuple(x.shape for x in inputs) if isinstance(inputs, tuple) else inputs.shape


def to_numpy(structure):
    return map_structure(lambda x: np.array(keras.ops.convert_to_numpy(x)), structure)


def valid(name, inputs):
    """Bring drawn inputs into the range that the cell takes."""
    bring = cellkit.get(name).spec.draw_inputs
    return inputs if bring is None else bring(inputs)


def randomise(cell, rng):
    """Give every weight values of its own, biases and those that do not train included."""
    set_cell_weights(
        cell, {k: 0.1 + 0.5 * rng.normal(size=w.shape) for k, w in cell_weights(cell).items()}
    )


def random_states(layer, rng):
    """Draw states; counters are small integers."""
    return [
        rng.integers(0, 9, x.shape).astype(x.dtype)
        if x.dtype.kind == "i"
        else rng.normal(size=x.shape).astype(x.dtype)
        for x in to_numpy(layer.get_initial_state(B))
    ]


def make(name, inputs, rng, **options):
    """Return a layer around a new cell with random weights, and the cell's spec."""
    found = cellkit.get(name)
    cell = found.cls(**options, dtype=DTYPE)
    layer = cellkit.RNN(cell, return_sequences=True, return_state=True, dtype=DTYPE)
    layer.build(shapes_of(inputs))
    randomise(cell, rng)
    return layer, found.spec


def expected(layer, spec, inputs, states, mask=None, **options):
    """Run the oracle over the reference; None as states means the spec's own initial ones."""
    weights = export_weights(layer.cell, spec=spec)
    symbols = {k: w.astype(np.promote_types(w.dtype, "float64")) for k, w in weights.items()}
    config = {**layer.cell.get_config(), **options}
    if states is None and spec.initial_state is not None:
        states = spec.initial_state(symbols, B, config)
    elif states is None:
        states = map_structure(np.zeros_like, to_numpy(layer.get_initial_state(B)))
    step = lambda x, s: spec.reference(symbols, x, s, config)  # noqa: E731
    return oracle.run(step, inputs, states, mask=mask)


def check(name, inputs, rng, mask=None, given=True, **options):
    """Compare the outputs and all final states of a layer with the reference in a loop."""
    layer, spec = make(name, inputs, rng, **options)
    states = random_states(layer, rng) if given else None
    run = expected(layer, spec, inputs, states, mask, **options)
    output, *final = layer(inputs, initial_state=states, mask=mask)
    assert keras.backend.standardize_dtype(output.dtype) == DTYPE
    np.testing.assert_allclose(to_numpy(output), run.sequence, rtol=TOLERANCE, atol=TOLERANCE)
    for got, want in zip(final, run.states, strict=True):
        np.testing.assert_allclose(to_numpy(got), want, rtol=TOLERANCE, atol=TOLERANCE)
    return layer


def check_case(name, case, rng, **options):
    """Do `check` for a case of the spec, with inputs drawn as the spec describes them."""
    spec = cellkit.get(name).spec
    inputs = valid(name, draw(spec.inputs, dict(spec.dims), rng))
    return check(name, inputs, rng, **spec.cases[case], **options)


def check_golden(name, order=("x",)):
    """Compare a cell with the frozen output of another implementation; return the error."""
    entries = json.loads((GOLDEN / "manifest.json").read_text(encoding="utf-8"))["cells"]
    entry = next(e for e in entries if e["cell"] == name)
    with np.load(GOLDEN / entry["file"], allow_pickle=False) as file:
        arrays = {
            key: file[key] if file[key].dtype.kind == "c" else file[key].astype(DTYPE)
            for key in file.files
        }
    names = sorted(cellkit.list_cells(), key=lambda other: other != name)
    found = next(c for c in map(cellkit.get, names) if name in (c.name, *c.spec.aliases))
    options = arguments_of(found, found.spec.aliases.get(name, {}), entry, arrays)
    cell = found.cls(**options, dtype=DTYPE)
    layer = cellkit.RNN(cell, return_sequences=True, return_state=True, dtype=DTYPE)
    inputs = tuple(arrays[key] for key in entry.get("inputs", order))
    inputs = inputs if len(inputs) > 1 else inputs[0]
    layer.build(shapes_of(inputs))
    symbols = {key[2:]: w for key, w in arrays.items() if key.startswith("w.")}
    import_weights(cell, symbols, spec=found.spec)
    names = found.spec.states
    states = to_numpy(layer.get_initial_state(len(arrays["x"])))
    states = [arrays.get(f"state0.{n}", s) for n, s in zip(names, states, strict=True)]
    output, *final = layer(inputs, initial_state=states)
    got = {"y": output, **{f"stateT.{n}": s for n, s in zip(names, final, strict=True)}}
    assert {key for key in arrays if key == "y" or key.startswith("stateT.")} <= set(got)
    errors = [np.abs(to_numpy(got[key]) - arrays[key]).max() for key in got if key in arrays]
    exact = X64 and entry["dtype"] == "float64"
    assert max(errors) <= (1e-12 if exact else 1e-5), dict(zip(got, errors, strict=False))
    return max(errors)
