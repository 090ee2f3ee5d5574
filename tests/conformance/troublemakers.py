"""Cells that misbehave: for the tests of the runner, which loads them by file in its workers."""

import ctypes
import functools
import os
import subprocess
import sys
import time

import keras


@keras.saving.register_keras_serializable("troublemakers")
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


def in_earnest(call):
    """Decorate a step that works where the suite tries whether one does, with two rows."""

    @functools.wraps(call)
    def tried_before(self, inputs, states, training=False):
        if inputs.shape[0] == 2:
            return Good.call(self, inputs, states)
        return call(self, inputs, states, training)

    return tried_before


class Crashes(Good):
    """Ends the process without a word."""

    @in_earnest
    def call(self, inputs, states, training=False):
        os._exit(17)


class Wide(Good):
    """Says that its output is wider than it is."""

    def __init__(self, units, **kwargs):
        super().__init__(units, **kwargs)
        self.output_size = units + 1


class Hangs(Good):
    """Never returns from a call."""

    @in_earnest
    def call(self, inputs, states, training=False):
        while True:
            time.sleep(0.1)


class Shouts(Good):
    """Prints megabytes, to both streams, and raises with more."""

    @in_earnest
    def call(self, inputs, states, training=False):
        print("x" * 3_000_000)
        sys.stderr.write("y" * 3_000_000)
        raise RuntimeError("z" * 3_000_000)


class Segfaults(Good):
    """Reads where there is no memory."""

    @in_earnest
    def call(self, inputs, states, training=False):
        ctypes.string_at(0)


class Lines(Good):
    """Raises with ten million lines."""

    @in_earnest
    def call(self, inputs, states, training=False):
        raise RuntimeError("<script>alert(1)</script>\n" * 10_000_000)


class Exits(Good):
    """Ends the process as if all were well."""

    @in_earnest
    def call(self, inputs, states, training=False):
        sys.exit(0)


class NeedsArguments(keras.layers.Layer):
    """Nothing says how to construct it."""

    state_size = 3

    def __init__(self, depth, width):
        super().__init__()
        self.depth = depth["of the network"]

    def call(self, inputs, states):
        return inputs, states


class RaisesInInit(Good):
    """Cannot be made."""

    def __init__(self, units, **kwargs):
        raise OSError("no such file: weights.bin")


NOT_A_CELL = 3


class Leaves(Good):
    """Ends the process, and the class of the exit is no `Exception`."""

    @in_earnest
    def call(self, inputs, states, training=False):
        os.chdir("/")
        os.close(0)
        sys.stdout.close()
        raise SystemExit("\x1b[2J \udcff [bold]\u202e")


class Patches(Good):
    """Puts a function of its own in the place of one of Keras'."""

    def call(self, inputs, states, training=False):
        keras.ops.tanh = keras.ops.sin
        return super().call(inputs, states)


class HangsInInit(Good):
    """Never comes to be."""

    def __init__(self, units, **kwargs):
        while True:
            time.sleep(0.1)


class HangsInTraining(Good):
    """Never returns from a call in training."""

    def call(self, inputs, states, training=False):
        while training:
            time.sleep(0.1)
        return super().call(inputs, states)


class Eats(Good):
    """Takes more and more memory, up to two gigabytes."""

    @in_earnest
    def call(self, inputs, states, training=False):
        taken = []
        for _ in range(40):
            taken.append(bytearray(os.urandom(1)) * (50 * 2**20))
            time.sleep(0.1)
        return super().call(inputs, states)


class Spins(Good):
    """Starts a process, says the numbers of both, and computes for ever without a look around."""

    @in_earnest
    def call(self, inputs, states, training=False):
        child = subprocess.Popen(["sleep", "1000"])
        with open(os.environ["CELLKIT_SPINS"], "w", encoding="utf-8") as file:
            file.write(f"{os.getpid()} {child.pid} .")
        sum(range(10**15))  # in C, where no other thread gets a turn


class TwoInputs(keras.layers.Layer):
    """Takes two tensors and needs three arguments, of which nothing but their names is known."""

    def __init__(self, rows, columns, leak_rate, **kwargs):
        super().__init__(**kwargs)
        self.rows, self.columns, self.leak_rate = rows, columns, leak_rate
        self.state_size = self.output_size = [(rows,), (rows, columns)]

    def build(self, shapes):
        one, other = shapes
        self.first = self.add_weight(shape=(one[1], self.rows), name="first")
        shape = (other[1] * other[2], self.rows * self.columns)
        self.second = self.add_weight(shape=shape, name="second")

    def call(self, inputs, states):
        x, y = inputs
        h, m = states
        h = keras.ops.tanh(keras.ops.matmul(x, self.first)) + self.leak_rate * h
        flat = keras.ops.reshape(y, (-1, y.shape[1] * y.shape[2]))
        m = m + keras.ops.reshape(keras.ops.matmul(flat, self.second), m.shape)
        return [h, m], [h, m]


class LateWeights(keras.layers.Layer):
    """Leaves it to the first call to build the layer inside, and has no config."""

    def __init__(self, units):
        super().__init__()
        self.state_size = units
        self.dense = keras.layers.Dense(units)

    def call(self, inputs, states):
        h = keras.ops.tanh(self.dense(inputs) + states[0])
        return h, [h]


class NoLayer:
    """A plain object, which Keras takes as a cell too; its `spec` is something else."""

    spec = "of the house"

    def __init__(self, units):
        self.state_size = units

    def call(self, inputs, states):
        h = keras.ops.tanh(keras.ops.sum(inputs, -1, keepdims=True) + states[0])
        return h, [h]


class OfOneBackend(Good):
    """Has a weight more on PyTorch."""

    def build(self, shape):
        super().build(shape)
        if keras.backend.backend() == "torch":
            self.extra = self.add_weight(shape=(2,), name="extra")
