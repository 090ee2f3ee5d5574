"""Models around a layer of a cell: trained, and saved and loaded."""

import keras
import numpy as np
from cell_numbers import to_numpy

import cellkit


def train(name, epochs):
    """Train a cell to add up the last inputs, and demand that it gets better."""
    keras.utils.set_random_seed(1)
    x = np.random.default_rng(0).normal(size=(16, 12, 3)).astype("float32")
    y = x[:, -4:].sum(axis=(1, 2))[:, None]
    model = keras.Sequential(
        [keras.Input((12, 3)), cellkit.RNN(cellkit.create(name, units=6)), keras.layers.Dense(1)]
    )
    model.compile(keras.optimizers.Adam(0.05), "mse", jit_compile=False)
    losses = model.fit(x, y, epochs=epochs, batch_size=16, verbose=0).history["loss"]
    assert np.isfinite(losses).all() and losses[-1] < 0.8 * losses[0]


def save_and_load(name, folder):
    """Save a model with a cell, load it, and demand the same numbers and configuration."""
    x = np.random.default_rng(1).normal(size=(2, 5, 3)).astype("float32")
    layer = cellkit.RNN(cellkit.create(name, units=4, dropout=0.1), return_sequences=True)
    model = keras.Sequential([keras.Input((5, 3)), layer])
    model.save(folder / "model.keras")
    loaded = keras.models.load_model(folder / "model.keras")
    np.testing.assert_array_equal(to_numpy(loaded(x)), to_numpy(model(x)))
    assert loaded.layers[-1].cell.get_config() == layer.cell.get_config()
