"""Compare a cell's layer with the loop over its NumPy reference, and with golden files."""

import json
import os
from pathlib import Path

import keras
import numpy as np

import cellkit
from cellkit.registry import cell_weights, export_weights, import_weights, set_cell_weights
from cellkit_conformance.golden.arguments import arguments_of

GOLDEN = Path(__file__).parents[1] / "golden"
# JAX has no float64 unless a process is started for it.
X64 = keras.backend.backend() != "jax" or os.environ.get("JAX_ENABLE_X64") == "1"
DTYPE, TOLERANCE = ("float64", 1e-11) if X64 else ("float32", 3e-5)


def cases(*names):
    """Return (name, case) of every case of these cells."""
    return [(name, case) for name in names for case in cellkit.get(name).spec.cases]


def sizes(shape, batch_and_time=()):
    """Make the symbolic shapes of a spec concrete; a tuple of shapes is a tuple of inputs."""
    if shape and isinstance(shape[0], tuple):
        return tuple(sizes(s, batch_and_time) for s in shape)
    return (*batch_and_time, *(5 if isinstance(d, str) else d for d in shape))


def draw(rng, shape):
    if shape and isinstance(shape[0], tuple):
        return tuple(draw(rng, s) for s in shape)
    return rng.normal(size=shape)


def random_weights(cell, rng):
    """Give every trainable weight values of its own; a positive one stays positive."""
    trainable = {id(v) for v in cell.trainable_variables}
    fixed = [k for k, v in _by_path(cell).items() if id(v) not in trainable]
    weights = {}
    for path, w in cell_weights(cell).items():
        noise = rng.normal(size=w.shape) * 0.7
        weights[path] = w if path in fixed else np.abs(noise) + 0.3 if (w > 0).all() else noise
    set_cell_weights(cell, weights)


def _by_path(cell):
    return {path: v for path in cell_weights(cell) for v in cell.variables if v.name == path}


def layer_of(name, options, shape, **layer_options):
    """Return a built layer around a cell with random weights, and a generator of numbers."""
    found = cellkit.get(name)
    cell = found.cls(**options, dtype=DTYPE)
    layer = cellkit.RNN(
        cell, return_sequences=True, return_state=True, dtype=DTYPE, **layer_options
    )
    layer.build(shape)
    rng = np.random.default_rng(11)
    random_weights(cell, rng)
    return layer, found.spec, rng


def to_numpy(tree):
    return keras.tree.map_structure(lambda x: np.asarray(keras.ops.convert_to_numpy(x)), tree)


def at(inputs, t):
    return tuple(x[:, t] for x in inputs) if isinstance(inputs, tuple) else inputs[:, t]


def loop(spec, symbols, config, inputs, states, mask):
    """Run the reference over time, as the layer is meant to."""
    time = (inputs[0] if isinstance(inputs, tuple) else inputs).shape[1]
    outputs, y = [], None
    for t in range(time):
        out, new = spec.reference(symbols, at(inputs, t), states, config)
        y = np.zeros_like(out) if y is None else y
        keep = mask[:, t]
        states = [
            np.where(keep.reshape(-1, *[1] * (n.ndim - 1)), n, s)
            for n, s in zip(new, states, strict=True)
        ]
        y = np.where(keep[:, None], out, y)
        outputs.append(y)
    return np.stack(outputs, axis=1), states


def compare(name, case, masked):
    """Compare a layer with the reference; return the largest error relative to the magnitude."""
    options = cellkit.get(name).spec.cases[case]
    shape = sizes(cellkit.get(name).spec.inputs, (3, 6))
    layer, spec, rng = layer_of(name, options, shape)
    inputs = draw(rng, shape)
    initial = [rng.normal(size=(3, *s.shape)) for s in layer.cell.state_spec()]
    if spec.draw_states is not None:
        initial = spec.draw_states(initial)
    mask = np.ones((3, 6), bool)
    if masked:
        mask = np.array([[1, 1, 0, 1, 0, 0], [0, 1, 1, 0, 1, 1], [0] * 6], bool)
    got = to_numpy(layer(inputs, initial_state=initial, mask=mask if masked else None))
    weights = {k: np.asarray(v, "float64") for k, v in cell_weights(layer.cell).items()}
    config = layer.cell.get_config()
    symbols = spec.symbols.to_symbols(weights, config)
    output, states = loop(spec, symbols, config, inputs, initial, mask)
    return worst(got, [output, *states])


def worst(got, want):
    """Return the largest difference relative to the magnitude of each array."""
    assert len(got) == len(want)
    errors = []
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape
        errors.append(np.abs(g - w).max() / max(1.0, np.abs(w).max()))
    return max(errors)


def compare_golden(name, **overrides):
    """Run a golden file; return the largest relative error over the outputs and final states."""
    manifest = json.loads((GOLDEN / "manifest.json").read_text())
    (entry,) = (e for e in manifest["cells"] if e["cell"] == name)
    with np.load(GOLDEN / entry["file"]) as file:
        arrays = dict(file)
    found = next(f for f in map(cellkit.get, cellkit.list_cells()) if _knows(f, name))
    options = arguments_of(found, found.spec.aliases.get(name, {}), entry, arrays)
    cell = found.cls(**{**options, **overrides}, dtype=DTYPE)
    layer = cellkit.RNN(cell, return_sequences=True, return_state=True, dtype=DTYPE)
    inputs = (arrays["x"], arrays["time"]) if "time" in arrays else arrays["x"]
    layer.build(keras.tree.map_structure(lambda x: x.shape, inputs))
    symbols = {key[2:]: a for key, a in arrays.items() if key.startswith("w.")}
    import_weights(cell, symbols)
    for symbol, a in export_weights(cell).items():
        np.testing.assert_allclose(a, symbols[symbol], rtol=1e-6)
    initial = [arrays[f"state0.{s}"] for s in found.spec.states]
    got = to_numpy(layer(inputs, initial_state=initial))
    want = [arrays["y"], *(arrays[f"stateT.{s}"] for s in found.spec.states)]
    return worst(got, want), entry["dtype"]


def _knows(found, name):
    return found.spec is not None and (name == found.name or name in found.spec.aliases)
