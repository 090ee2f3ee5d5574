"""The nested cell of Keras' own guide, with one import changed.

The guide "Working with RNNs" (https://keras.io/guides/working_with_rnns) ends with a cell that
takes two inputs, keeps two states and returns two outputs. With `keras.layers.RNN` its script stops
with an error on every backend. With `RNN` from cellkit it trains; nothing else about it is special.

The numbers are random, so the loss says only that training works.

    python examples/guide_nested_cell.py --backend torch
"""

from __future__ import annotations

import sys

import _options

options = _options.parse(__doc__)

import keras  # noqa: E402
import numpy as np  # noqa: E402

from cellkit import RNN  # noqa: E402  # in the guide: from keras.layers import RNN

unit_1, unit_2, unit_3 = 10, 20, 30
i1, i2, i3 = 32, 64, 32
batch_size, num_batches, timestep = 64, 10, 50


@keras.saving.register_keras_serializable(package="examples")
class NestedCell(keras.layers.Layer):
    """The guide's cell: a plain Keras layer, without anything of cellkit."""

    def __init__(self, unit_1, unit_2, unit_3, **kwargs):
        super().__init__(**kwargs)
        self.unit_1, self.unit_2, self.unit_3 = unit_1, unit_2, unit_3
        self.state_size = [unit_1, (unit_2, unit_3)]
        self.output_size = [unit_1, (unit_2, unit_3)]

    def build(self, input_shapes):
        """Create a kernel for the vector and one for the matrix."""
        (_, i1), (_, i2, i3) = input_shapes
        self.kernel_1 = self.add_weight(
            shape=(i1, self.unit_1), initializer="uniform", name="kernel_1"
        )
        self.kernel_2_3 = self.add_weight(
            shape=(i2, i3, self.unit_2, self.unit_3), initializer="uniform", name="kernel_2_3"
        )

    def call(self, inputs, states):
        """Map both inputs linearly, and add the results to the states."""
        input_1, input_2 = inputs
        state_1, state_2_3 = states
        output_1 = keras.ops.matmul(input_1, self.kernel_1)
        output_2_3 = keras.ops.einsum("bij,ijkl->bkl", input_2, self.kernel_2_3)
        return (output_1, output_2_3), (state_1 + output_1, state_2_3 + output_2_3)

    def get_config(self):
        """Return the three units."""
        units = {"unit_1": self.unit_1, "unit_2": self.unit_2, "unit_3": self.unit_3}
        return {**super().get_config(), **units}


def main() -> int:
    """Build the guide's model and train it for one epoch; return the exit code."""
    keras.utils.set_random_seed(0)
    cell = NestedCell(unit_1, unit_2, unit_3)
    rnn = RNN(cell)

    input_1 = keras.Input((None, i1))
    input_2 = keras.Input((None, i2, i3))
    outputs = rnn((input_1, input_2))
    model = keras.Model([input_1, input_2], outputs)
    model.compile(optimizer="adam", loss="mse", metrics=["mae", "mae"])

    rows = batch_size * (2 if options.quick else num_batches)
    rng = np.random.default_rng(0)

    def random(*shape):
        return rng.random((rows, *shape), "float32")

    inputs = [random(timestep, i1), random(timestep, i2, i3)]
    targets = [random(unit_1), random(unit_2, unit_3)]
    some = [x[:batch_size] for x in inputs], [y[:batch_size] for y in targets]

    before = model.evaluate(*some, verbose=0)[0]
    model.fit(inputs, targets, batch_size=batch_size)
    after = model.evaluate(*some, verbose=0)[0]
    print(f"Loss {before:.4f} before training, {after:.4f} after one epoch.")
    return 0 if after < before else 1


if __name__ == "__main__":
    sys.exit(main())
