"""Cells that misbehave: for the tests of the runner, which loads them by file in its workers."""

import ctypes
import os
import sys
import time

import keras


class Good(keras.layers.Layer):
    """A cell without a spec, which is right."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.state_size = units
        self.output_size = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.recurrent = self.add_weight(shape=(self.units, self.units), name="recurrent")
        self.built = True

    def call(self, inputs, states, training=False):
        h = keras.ops.tanh(
            keras.ops.matmul(inputs, self.kernel) + keras.ops.matmul(states[0], self.recurrent)
        )
        return h, [h]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class Crashes(Good):
    """Ends the process without a word whenever it is called."""

    def call(self, inputs, states, training=False):
        os._exit(17)


class Hangs(Good):
    """Never returns from a call."""

    def call(self, inputs, states, training=False):
        while True:
            time.sleep(0.1)


class Shouts(Good):
    """Prints megabytes, to both streams, and raises with more."""

    def call(self, inputs, states, training=False):
        print("x" * 3_000_000)
        sys.stderr.write("y" * 3_000_000)
        raise RuntimeError("z" * 3_000_000)


class Segfaults(Good):
    """Reads where there is no memory."""

    def call(self, inputs, states, training=False):
        ctypes.string_at(0)


class Lines(Good):
    """Raises with ten million lines."""

    def call(self, inputs, states, training=False):
        raise RuntimeError("<script>alert(1)</script>\n" * 10_000_000)


class Exits(Good):
    """Ends the process as if all were well."""

    def call(self, inputs, states, training=False):
        sys.exit(0)


class NeedsArguments(keras.layers.Layer):
    """Nothing says how to construct it."""

    state_size = 3

    def __init__(self, depth, width):
        super().__init__()

    def call(self, inputs, states):
        return inputs, states


class RaisesInInit(Good):
    """Cannot be made."""

    def __init__(self, units, **kwargs):
        raise OSError("no such file: weights.bin")


NOT_A_CELL = 3
