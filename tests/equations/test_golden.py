"""Cells made of the frozen files' own equations agree with what other authors' code computed."""

import keras
import numpy as np
import pytest
from cell_numbers import DTYPE, GOLDEN, X64
from equation_texts import AS_THEY_STAND, NOT_SAID, REWRITTEN

import cellkit
from cellkit_conformance.golden.manifest import read_manifest

pytestmark = pytest.mark.one_backend

# Frozen with the letters of registered cells: their entries quote the texts of those.
QUOTED = {
    "torchrecurrent",
    "labml-nn",
    "memax",
    "sinabs",
    "torchrl",
    "LipschitzRNN",
    "neuralhydrology",
    "ur-lstm-torch",
    "sru",
}
ENTRIES = {
    entry["cell"]: entry
    for entry in read_manifest(GOLDEN)["cells"]
    if entry["library"] not in QUOTED
    and entry["cell"] not in ("layer_norm_gru", "ligru_batch_norm")
}


def defined(name):
    """Return the cell of an entry, and the entry."""
    entry = ENTRIES[name]
    if name in AS_THEY_STAND:
        text, declared = "\n".join(entry["equation"]), AS_THEY_STAND[name]
    else:
        text, declared = REWRITTEN[name]
    with np.load(GOLDEN / entry["file"], allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    if "period_of_unit" in arrays:
        arrays["w.period_of_unit"] = arrays.pop("period_of_unit")
    return cellkit.define("GoldenCell", text, **declared), entry, arrays


def limit(arrays):
    """Return by how much outputs of about one may differ: files in float32 are what they are."""
    return 2e-6 if arrays["y"].dtype == "float32" else 1e-12


def test_at_least_28_files_are_said_and_every_one_is_spoken_of():
    assert len(AS_THEY_STAND) + len(REWRITTEN) >= 28
    spoken_of = {*AS_THEY_STAND, *REWRITTEN, *NOT_SAID}
    assert len(spoken_of) == 38 and spoken_of <= set(ENTRIES)


@pytest.mark.parametrize("name", [*AS_THEY_STAND, *REWRITTEN])
def test_cell_and_reference_agree_with_the_frozen_file(name):
    cls, entry, arrays = defined(name)
    cell = cls(**cls.spec.configure(entry["hyper"], arrays), dtype=DTYPE)
    layer = cellkit.RNN(cell, return_sequences=True, return_state=True, dtype=DTYPE)
    names = cls.declaration.input_names
    inputs = [arrays[n].astype(DTYPE) for n in names]
    tensors = [keras.ops.convert_to_tensor(x) for x in inputs]
    layer.build(tuple(tensors[0].shape) if len(names) == 1 else [tuple(x.shape) for x in tensors])
    weights = {key[2:]: value for key, value in arrays.items() if key.startswith("w.")}
    cellkit.import_weights(cell, weights)
    own = [keras.ops.convert_to_numpy(s) for s in layer.get_initial_state(batch_size=3)]
    start = [arrays.get(f"state0.{n}", s) for n, s in zip(cls.spec.states, own, strict=True)]
    output, *final = layer(
        tensors[0] if len(names) == 1 else tensors, initial_state=[s.astype(DTYPE) for s in start]
    )
    close = limit(arrays) if X64 else 3e-5
    compare(keras.ops.convert_to_numpy(output), arrays["y"], close)
    for state, value in zip(cls.spec.states, final, strict=True):
        if f"stateT.{state}" in arrays:
            compare(keras.ops.convert_to_numpy(value), arrays[f"stateT.{state}"], close)

    states, outputs, config = [s.astype("float64") for s in start], [], cell.get_config()
    weights = {key: value.astype("float64") for key, value in weights.items()}
    for t in range(arrays["x"].shape[1]):
        step = [arrays[n][:, t].astype("float64") for n in names]
        y, states = cls.spec.reference(weights, step if len(names) > 1 else step[0], states, config)
        outputs.append(y)
    compare(np.stack(outputs, axis=1), arrays["y"], limit(arrays))
    for state, value in zip(cls.spec.states, states, strict=True):
        if f"stateT.{state}" in arrays:
            compare(value, arrays[f"stateT.{state}"], limit(arrays))


def compare(got, want, close):
    assert got.shape == want.shape
    scale = max(1.0, float(np.abs(want).max()))
    np.testing.assert_allclose(got, want, rtol=0, atol=close * scale)
