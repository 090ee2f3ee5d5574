"""The classes under test: cellkit's, or Keras' own to show that the tests can fail.

`CELLKIT_TEST_LAYER=keras pytest tests/defects` runs every test against `keras.layers`: what fails
there is what docs/keras-defects.md says of Keras on that backend.
"""

import os

import keras

LAYER = os.environ.get("CELLKIT_TEST_LAYER", "cellkit")

if LAYER == "keras":
    RNN = keras.layers.RNN
    Bidirectional = keras.layers.Bidirectional
    StackedCells = keras.layers.StackedRNNCells
elif LAYER == "cellkit":
    from cellkit import RNN, Bidirectional, StackedCells
else:
    raise ValueError(f"CELLKIT_TEST_LAYER is 'cellkit' or 'keras', not {LAYER!r}")

__all__ = [
    "LAYER",
    "RNN",
    "Bidirectional",
    "StackedCells",
    "conv_lstm",
    "gru",
    "gru_cell",
    "lstm",
    "lstm_cell",
    "simple_rnn",
    "simple_rnn_cell",
]

# The tests set the weights themselves, and the default orthogonal matrices cost JAX a compilation
# for every shape.
_CHEAP = {"kernel_initializer": "zeros", "recurrent_initializer": "zeros"}

# Keras' stock layers hold defects of their own beside those of `keras.layers.RNN`, so the layer
# that a user would take is tested: `keras.layers.LSTM` there, `cellkit.RNN(LSTMCell)` here.
_LAYER_OPTIONS = (
    "go_backwards",
    "name",
    "return_sequences",
    "return_state",
    "stateful",
    "unroll",
    "zero_output_for_mask",
)


def _stock(layer, cell):
    def make(units, **options):
        options = {**_CHEAP, **options}
        if LAYER == "keras":
            return layer(units, **options)
        own = {k: options.pop(k) for k in _LAYER_OPTIONS if k in options}
        if "dtype" in options:
            own["dtype"] = options["dtype"]
        return RNN(cell(units, **options), **own)

    return make


def _cheap(cell):
    def make(units, **options):
        return cell(units, **{**_CHEAP, **options})

    return make


simple_rnn = _stock(keras.layers.SimpleRNN, keras.layers.SimpleRNNCell)
gru = _stock(keras.layers.GRU, keras.layers.GRUCell)
lstm = _stock(keras.layers.LSTM, keras.layers.LSTMCell)
simple_rnn_cell = _cheap(keras.layers.SimpleRNNCell)
gru_cell = _cheap(keras.layers.GRUCell)
lstm_cell = _cheap(keras.layers.LSTMCell)


def conv_lstm(filters, kernel_size, **options):
    """Make a convolutional LSTM over one spatial dimension."""
    if LAYER == "keras":
        return keras.layers.ConvLSTM1D(filters, kernel_size, **_CHEAP, **options)
    # Keras exports no cell for it: take it out of the layer.
    return RNN(keras.layers.ConvLSTM1D(filters, kernel_size, **_CHEAP).cell, **options)
