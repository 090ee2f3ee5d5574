"""A model saved on one backend gives the same numbers on the others."""

import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops
from portions import full

import cellkit
import cellkit_nested

BACKENDS = [b for b in ("tensorflow", "torch", "jax") if importlib.util.find_spec(b)]
OTHERS = [b for b in BACKENDS if b != keras.backend.backend()]

LOAD = """
import sys
import cellkit
import keras
import numpy as np

folder = sys.argv[1]
x = dict(np.load(folder + "/inputs.npz"))
model = keras.saving.load_model(folder + "/model.keras")
want = [x.pop(k) for k in sorted(x) if k.startswith("output")]
states = x.pop("stored")
for layer in model.layers:
    if getattr(layer, "stateful", False):
        loaded = keras.ops.convert_to_numpy(layer.states[0][0])
        np.testing.assert_allclose(loaded, states, 1e-5, 1e-6)
got = [keras.ops.convert_to_numpy(y) for y in model.predict(x, verbose=0)]
for g, w in zip(got, want, strict=True):
    np.testing.assert_allclose(g, w, 1e-5, 1e-5)
twin = keras.models.clone_model(model)
twin.load_weights(folder + "/model.weights.h5")
for a, b in zip(twin.get_weights(), model.get_weights(), strict=True):
    np.testing.assert_array_equal(a, b)
print("the same on", keras.backend.backend())
"""


@pytest.mark.slow
@pytest.mark.part(2)
# What PyTorch saves is loaded every day.
@pytest.mark.parametrize(
    "other",
    [pytest.param(b, marks=full(keras.backend.backend() != "torch")) for b in OTHERS],
)
def test_a_saved_model_gives_the_same_numbers_elsewhere(other, tmp_path):
    rng = np.random.default_rng(0)
    a = keras.Input(batch_shape=(3, None, 4), name="a")
    b = keras.Input(batch_shape=(3, None, 2, 5), name="b")
    m = keras.Input(batch_shape=(3, None), dtype="bool", name="m")
    stack = [cellkit.create("lstm", units=3), keras.layers.GRUCell(2)]
    y = cellkit.RNN(stack, stateful=True, return_sequences=True)(a, mask=m)
    y = cellkit.Bidirectional(cellkit.RNN(cellkit.create("gru", units=2)))(y)
    n1, n2 = cellkit.RNN(cellkit_nested.NestedCell(3, 2, 4))([a, b], mask=m)
    model = keras.Model([a, b, m], [y, n1, n2])
    model.set_weights([rng.normal(size=w.shape) * 0.5 for w in model.get_weights()])
    x = {
        "a": rng.normal(size=(3, 6, 4)).astype("float32"),
        "b": rng.normal(size=(3, 6, 2, 5)).astype("float32"),
        "m": rng.random((3, 6)) < 0.7,
    }
    model.predict(x, verbose=0)  # so that there are states to save
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    stateful = next(layer for layer in model.layers if getattr(layer, "stateful", False))
    stored = ops.convert_to_numpy(stateful.states[0][0])
    outputs = {f"output{i}": y for i, y in enumerate(model.predict(x, verbose=0))}
    np.savez(tmp_path / "inputs.npz", stored=stored, **x, **outputs)
    run = subprocess.run(
        [sys.executable, "-c", LOAD, tmp_path],
        env={**os.environ, "KERAS_BACKEND": other},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == f"the same on {other}"
