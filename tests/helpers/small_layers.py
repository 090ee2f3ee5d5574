"""Small layers in float32, as they are called again and again, and what such calls return."""

import keras
import numpy as np
from cell_numbers import random_weights
from keras import ops

import cellkit

BATCH, TIME, FEATURES, UNITS = 3, 6, 4, 5
# One row each: whole, with a gap and padded, and without any step.
MASK = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 0, 1, 0, 0], [0] * 6], bool)


def data(shape=(BATCH, TIME, FEATURES), seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def layer_of(cell="lstm", **options):
    """Return a built layer with random weights; `cell` is a cell, or the name of one."""
    cell = cellkit.create(cell, units=UNITS) if isinstance(cell, str) else cell
    layer = cellkit.RNN(cell, **options)
    layer.build((BATCH, TIME, FEATURES))
    random_weights(cell, np.random.default_rng(1))
    return layer


def leaves(result):
    return [np.asarray(ops.convert_to_numpy(y)) for y in keras.tree.flatten(result)]
