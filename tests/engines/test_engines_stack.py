"""A stack that runs cell by cell computes what it computes step by step."""

import keras
import numpy as np
import pytest
from cell_numbers import DTYPE
from engine_runs import BATCH, FEATURES, MASK, TIME, assert_equal, data, initial, layer_of, npy
from keras import ops
from three_parts import raised

import cellkit

BACKEND = keras.backend.backend()


class Pair(cellkit.Cell):
    """Returns two tensors, and keeps a dict."""

    @property
    def state_size(self):
        return {"b": 2, "a": self.units}

    @property
    def output_size(self):
        return [self.units, 2]

    def build(self, input_shape):
        super().build(input_shape)
        self.kernel = self.add_kernel((input_shape[-1], self.units))

    def project(self, inputs):
        return cellkit.cells.matmul(inputs, self.kernel)

    def step(self, projected, states):
        a = ops.tanh(projected + 0.5 * states["a"])
        b = 0.8 * states["b"] + a[:, :2]
        return [a, b], {"a": a, "b": b}


class Counting(Pair):
    """Counts its steps in a variable, and adds a loss at each."""

    def build(self, input_shape):
        super().build(input_shape)
        self.steps = self.add_weight(shape=(), initializer="zeros", trainable=False, name="steps")

    def step(self, projected, states):
        self.steps.assign(self.steps + 1)
        self.add_loss(0.1 * ops.sum(projected))
        return super().step(projected, states)


class Both(cellkit.Cell):
    """Takes two tensors."""

    def step(self, projected, states):
        x, y = projected
        h = ops.tanh(0.5 * states[0] + x[:, : self.units] * y[:, :1])
        return h, [h]


def make(name, **options):
    return cellkit.create(name, units=4, dtype=DTYPE, **options)


def stack_of(*cells, **options):
    return layer_of(cellkit.StackedCells(list(cells), dtype=DTYPE), **options)


@pytest.mark.parametrize(
    ("mask", "options"),
    [
        (None, {"return_sequences": True, "go_backwards": True}),
        (MASK, {}),
        (MASK, {"return_sequences": True, "zero_output_for_mask": True, "go_backwards": True}),
    ],
    ids=["backwards", "last", "zeros"],
)
def test_cell_by_cell_is_step_by_step(mask, options):
    layer = stack_of(make("lstm"), make("min_gru"), make("ugrnn"), **options)
    x = data((BATCH, TIME, FEATURES))
    if mask is not None:
        x[~mask] = np.nan
    assert_equal(layer, "stack", x, initial(layer), mask=mask)


def test_random_masks_are_those_of_the_steps():
    drops = {"dropout": 0.4, "recurrent_dropout": 0.3, "seed": 3}
    cells = (make("lstm", **drops), make("gru", zoneout=0.3, **drops))
    layer = stack_of(*cells, return_sequences=True)
    assert_equal(layer, "stack", data((BATCH, TIME, FEATURES)), mask=MASK, training=True)


def test_cells_of_keras_keep_their_masks_to_themselves():
    cells = [
        keras.layers.LSTMCell(4, dropout=0.4, seed=1, dtype="float32"),
        keras.layers.GRUCell(4, recurrent_dropout=0.4, seed=3, dtype="float32"),
    ]
    stack = cellkit.StackedCells(cells, dtype="float32")
    layer = layer_of(stack, return_sequences=True, dtype="float32")
    x = data((BATCH, TIME, FEATURES), dtype="float32")
    assert_equal(layer, "stack", x, tolerance=3e-5, training=True)


def test_outputs_and_states_of_any_structure():
    layer = stack_of(Pair(4, dtype=DTYPE), Both(3, dtype=DTYPE), return_sequences=True)
    x = data((BATCH, TIME, FEATURES))
    assert_equal(layer, "stack", x, mask=MASK)


def test_what_steps_write_and_add():
    layer = stack_of(Counting(4, dtype=DTYPE), Both(3, dtype=DTYPE))
    x, found = data((BATCH, TIME, FEATURES)), []
    for layer.engine in ("loop", "stack"):
        layer.cell.cells[0].steps.assign(0.0)
        layer(x, mask=MASK)
        found.append((float(npy(layer.cell.cells[0].steps)), float(npy(sum(layer.losses)))))
    assert found[0][0] == found[1][0] == TIME
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=1e-4)


def test_stacks_in_stacks_and_stored_states():
    inner = cellkit.StackedCells([make("lstm"), make("ugrnn")], dtype=DTYPE)
    whole = stack_of(inner, make("min_gru"), return_sequences=True, engine="loop")
    parts = cellkit.RNN(
        whole.cell, return_sequences=True, stateful=True, dtype=DTYPE, engine="stack"
    )
    x = data((BATCH, TIME, FEATURES))
    y = np.concatenate([npy(parts(x[:, :4])), npy(parts(x[:, 4:]))], axis=1)
    np.testing.assert_allclose(y, npy(whole(x)[0]), atol=1e-5)
    report = parts.engine_report()
    # Eager TensorFlow runs loops; on JAX the inner stack is one loop, as there is no gradient.
    inner_engines = {"torch": ["kernel", "fused"], "tensorflow": ["loop", "loop"], "jax": []}
    assert [p.engine for p in report.parts[0].parts] == inner_engines[BACKEND]
    assert report.parts[1].engine == "scan"
    assert "\n  cell 1: engine='auto': 'scan' ran" in str(report)
    again = parts(x[:, 4:])  # on JAX compiled before: the report is the same
    assert again is not None and parts.engine_report() == report


class Own(cellkit.StackedCells):
    """Adds what goes in to what comes out."""

    def call(self, inputs, states, training=False, **kwargs):
        output, states = super().call(inputs, states, training, **kwargs)
        return output + ops.sum(inputs), states


class Object:
    """A cell that is not a layer."""

    state_size = output_size = 3

    def call(self, inputs, states):
        return inputs, states


def _shared():
    cell = cellkit.create("lstm", units=FEATURES)
    return [cell, cell]


def _drawing():
    cells = [cellkit.create("lstm", units=4, seed=1) for _ in range(2)]
    cells[1].seed_generator = cells[0].seed_generator
    return cells


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("cell", "options", "reason"),
    [
        (cellkit.create("lstm", units=4), {}, "no `cellkit.StackedCells`"),
        (Own([cellkit.create("lstm", units=4)]), {}, "a `call` of its own"),
        (cellkit.StackedCells(_shared()), {}, "share layers, weights"),
        (cellkit.StackedCells(_drawing()), {}, "share layers, weights"),
        (cellkit.StackedCells([Object()]), {}, "not a Keras layer"),
        (cellkit.StackedCells([cellkit.create("lstm", units=4)]), {"dtype": "float64"}, "a dtype"),
    ],
    ids=["cell", "call", "shared", "generator", "object", "dtype"],
)
def test_other_stacks_go_step_by_step(cell, options, reason):
    layer = cellkit.RNN(cell, **options)
    x = data((BATCH, TIME, FEATURES), dtype="float32")
    layer(x, training=True)
    report = layer.engine_report()
    assert report.engine != "stack" and not report.parts
    assert reason in report.reasons["stack"]
    assert reason in raised(cellkit.RNN(cell, engine="stack", **options), x)[1]


@pytest.mark.skipif(BACKEND != "torch", reason="remat is the plain loop's own here")
@pytest.mark.parametrize("option", [{"remat": True}, {"truncate_gradient": 4}])
def test_chunks_of_a_stack(option):
    drops = {"dropout": 0.4, "seed": 3}
    layer = stack_of(make("lstm", **drops), make("ugrnn", **drops), return_sequences=True, **option)
    assert_equal(layer, "stack", data((BATCH, TIME, FEATURES)), mask=MASK, training=True)
