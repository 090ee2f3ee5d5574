"""`quantize("int8")` of a model reaches the layers of Keras that know it, and no cell."""

import warnings

import keras
import numpy as np

import cellkit


def test_quantizing_a_model_leaves_its_cells_as_they_are():
    layer = cellkit.RNN(cellkit.create("peephole_lstm", units=8))
    parts = [keras.Input((6,), dtype="int32"), keras.layers.Embedding(5, 4), layer]
    model = keras.Sequential([*parts, keras.layers.Dense(3)])
    tokens = np.array([[1, 2, 3, 4, 0, 1], [4, 4, 1, 0, 2, 3]], "int32")
    want = keras.ops.convert_to_numpy(model(tokens))
    before = layer.get_weights()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.quantize("int8")
    assert any("PeepholeLSTMCell" in str(warning.message) for warning in caught)
    embedding, _, dense = model.layers
    for part in (embedding.embeddings, dense._kernel):
        assert keras.backend.standardize_dtype(part.dtype) == "int8"
    for kept, now in zip(before, layer.get_weights(), strict=True):
        assert now.dtype == np.float32 and np.array_equal(kept, now)
    got = keras.ops.convert_to_numpy(model(tokens))
    # Entries of the two layers are rounded to a 127th of the largest one of a row or column.
    assert 0 < np.abs(got - want).max() < 0.05 * max(1.0, np.abs(want).max())
