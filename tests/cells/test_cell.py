"""The base classes of cells: configuration, randomness, initial states, dtypes, errors."""

import keras
import numpy as np
import pytest
from keras import ops
from three_parts import raised

import cellkit
from cellkit.cells import GatedCell, matmul, number


def npy(x):
    return np.array(ops.convert_to_numpy(x))


def data(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


class ProbeCell(cellkit.Cell):
    """Shows what reaches the step: the inputs, and the state on its way into a product."""

    @property
    def state_size(self):
        return [self.units, self.units]

    @property
    def output_size(self):
        return [self.units, self.units]

    def step(self, inputs, states):
        return [inputs, self.drop(ops.ones_like(states[0]))], states


def probe(**options):
    layer = cellkit.RNN(ProbeCell(64, seed=3, **options), return_sequences=True)
    return lambda training=True: [npy(y) for y in layer(np.ones((8, 6, 64)), training=training)]


@pytest.mark.parametrize("which", ["dropout", "recurrent_dropout"])
@pytest.mark.parametrize("unroll", [False, True])
def test_dropout_is_constant_over_time_and_fresh_between_calls(which, unroll):
    layer = cellkit.RNN(ProbeCell(64, **{which: 0.4}), return_sequences=True, unroll=unroll)
    part, x = int(which == "recurrent_dropout"), np.ones((8, 6, 64))
    first, second = npy(layer(x, training=True)[part]), npy(layer(x, training=True)[part])
    for y in (first, second):
        assert np.all(y == y[:, :1])  # one mask for all steps
        assert set(np.round(np.unique(y), 5)) == {0.0, np.float32(round(1 / 0.6, 5))}
        kept = (y[:, 0] > 0).mean()
        assert abs(kept - 0.6) < 6 * np.sqrt(0.24 / 512)
    assert np.any(first != second)
    assert np.any(first[0, 0] != first[1, 0])  # rows have masks of their own
    other = npy(layer(x, training=True)[1 - part])
    assert np.all(other == 1.0)
    assert np.all(npy(layer(x)[part]) == 1.0)


def test_dropout_masks_are_the_same_looped_and_unrolled_from_one_seed():
    x, outputs = np.ones((4, 5, 16)), []
    for unroll in (False, True, 2):
        cell = ProbeCell(16, dropout=0.5, recurrent_dropout=0.5, seed=11)
        layer = cellkit.RNN(cell, return_sequences=True, unroll=unroll)
        outputs.append([npy(y) for _ in range(2) for y in layer(x, training=True)])
    for other in outputs[1:]:
        for a, b in zip(outputs[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_an_exception_leaves_no_mask_behind():
    class Breaking(ProbeCell):
        broken = True

        def step(self, inputs, states):
            if self.broken:
                raise RuntimeError("broken")
            return super().step(inputs, states)

    layer = cellkit.RNN(Breaking(8, dropout=0.5, recurrent_dropout=0.5), return_sequences=True)
    layer.cell.broken = False
    layer(np.ones((4, 3, 8)), training=True)
    layer.cell.broken = True
    with pytest.raises(RuntimeError, match="broken"):
        layer(np.ones((4, 3, 8)), training=True)
    layer.cell.broken = False
    assert tuple(layer(np.ones((2, 3, 8)), training=True)[0].shape) == (2, 3, 8)


def test_dropout_in_fit_is_fresh_for_every_batch():
    layer = cellkit.RNN(ProbeCell(8, dropout=0.5, recurrent_dropout=0.5))
    i = keras.Input((None, 8))
    model = keras.Model(i, keras.layers.Dense(1)(layer(i)[0]))
    model.compile("sgd", "mse")
    state = npy(layer.cell.seed_generator.state)
    x = np.ones((4, 3, 8), "float32")
    model.fit(x, x[:, :1, 0], batch_size=2, verbose=0)
    drawn = npy(layer.cell.seed_generator.state) - state
    assert drawn.tolist() == [0, 4]  # two masks for each of two batches


class CountingNoise(GatedCell):
    gates = {"h": "activation"}  # noqa: RUF012

    def combine(self, gates, states):
        return gates["h"], [gates["h"]]


def test_zoneout_keeps_old_elements_in_training_and_mixes_at_inference():
    cell = CountingNoise(32, zoneout=0.3, activation="linear", seed=5)
    layer = cellkit.RNN(cell, return_sequences=True)
    x, start = np.ones((16, 8, 4), "float32"), data(16, 32, seed=2)
    layer.build(x.shape)
    kernel = data(4, 32, seed=4)
    layer.set_weights([kernel, np.zeros((32, 32)), np.zeros(32)])
    candidate = (x @ kernel)[:, 0]
    y = npy(layer(x, initial_state=start, training=True))
    kept = np.isclose(y[:, 0], start)
    assert np.all(kept | np.isclose(y[:, 0], candidate, atol=1e-5))
    assert abs(kept.mean() - 0.3) < 6 * np.sqrt(0.21 / 512)
    twice = np.isclose(y[:, 1], start)  # drawn anew: kept by both of two independent draws
    assert abs(twice.mean() - 0.09) < 6 * np.sqrt(0.09 * 0.91 / 512)
    want, old = [], start
    for _ in range(8):
        old = 0.3 * old + 0.7 * candidate
        want.append(old)
    np.testing.assert_allclose(
        npy(layer(x, initial_state=start)), np.stack(want, 1), rtol=1e-5, atol=1e-5
    )


@keras.saving.register_keras_serializable(package="cellkit_tests")
class LearnedStartCell(cellkit.Cell):
    def __init__(self, units, scale=1.0, mode="plain", **kwargs):
        super().__init__(units, **kwargs)
        self.scale = scale
        self.mode = mode

    @property
    def state_size(self):
        return cellkit.TensorSpec(self.units, initializer="glorot_uniform", trainable=True)

    def build(self, input_shape):
        super().build(input_shape)
        self.kernel = self.add_kernel((input_shape[-1], self.units))

    def step(self, inputs, states):
        h = states[0] * self.scale + matmul(inputs, self.kernel)
        return h, [h]


def test_a_learned_initial_state_is_trained():
    layer = cellkit.RNN(LearnedStartCell(3))
    model = keras.Sequential([keras.Input((None, 2)), layer])
    before = npy(layer.cell.initial_state_variables[0])
    assert np.abs(before).max() > 0
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(data(4, 3, 2), data(4, 3), verbose=0)
    assert np.all(npy(layer.cell.initial_state_variables[0]) != before)
    np.testing.assert_allclose(
        npy(layer.get_initial_state(2)[0]),
        np.stack([npy(layer.cell.initial_state_variables[0])] * 2),
    )


def test_the_configuration_holds_every_argument_and_comes_back():
    options = {
        "scale": 0.5,
        "mode": "other",
        "activation": "relu",
        "use_bias": False,
        "kernel_initializer": keras.initializers.RandomNormal(stddev=0.1, seed=1),
        "recurrent_regularizer": keras.regularizers.L2(0.1),
        "kernel_constraint": keras.constraints.MaxNorm(2.0),
        "dropout": 0.1,
        "recurrent_dropout": 0.2,
        "zoneout": 0.3,
        "seed": 7,
        "name": "named",
        "dtype": "mixed_bfloat16",
    }
    cell = LearnedStartCell(4, **options)
    config = cell.get_config()
    twin = LearnedStartCell.from_config(config)
    assert twin.get_config() == config
    plain = LearnedStartCell(4).get_config()
    assert {k for k in options if config[k] != plain[k]} == set(options)
    import json

    json.dumps(config)


def test_an_argument_that_is_not_kept_is_told():
    class Forgetful(cellkit.Cell):
        def __init__(self, units, extra=1, **kwargs):
            super().__init__(units, **kwargs)

    what, received, _, fix = raised(Forgetful(3).get_config)
    assert what == "Forgetful does not keep its constructor argument `extra`."
    assert received == "no attribute `extra`"
    assert "self.extra = extra" in fix


@pytest.mark.parametrize(
    ("options", "what", "received"),
    [
        ({"units": 0}, "`units` of LSTMCell is not a positive integer.", "units=0"),
        ({"units": -3}, "`units` of LSTMCell is not a positive integer.", "units=-3"),
        ({"units": 2.5}, "`units` of LSTMCell is not a positive integer.", "units=2.5"),
        ({"units": True}, "`units` of LSTMCell is not a positive integer.", "units=True"),
        ({"dropout": 1.0}, "`dropout` of LSTMCell is not a rate.", "dropout=1.0"),
        ({"zoneout": -0.1}, "`zoneout` of LSTMCell is not a rate.", "zoneout=-0.1"),
        ({"recurrent_dropout": "a"}, "`recurrent_dropout` of LSTMCell is not a rate.", None),
        ({"droput": 0.1}, "LSTMCell has no argument `droput`.", "droput=0.1"),
    ],
)
def test_wrong_arguments_are_told(options, what, received):
    from cellkit_classic import LSTMCell

    told = raised(lambda: LSTMCell(**{"units": 4, **options}))
    assert told[0] == what
    assert received is None or told[1] == received
    if "droput" in options:
        assert told[3] == "did you mean `dropout`?"


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), {"a": (2, 3, 4)}])
def test_inputs_that_are_no_vector_per_step_are_told(shape):
    x = {k: data(*s) for k, s in shape.items()} if isinstance(shape, dict) else data(*shape)
    layer = cellkit.RNN(cellkit.create("lstm", units=3))
    assert raised(layer, x)[0] == "LSTMCell takes one vector per time step."


def test_integer_inputs_are_cast():
    layer = cellkit.RNN(cellkit.create("gru", units=3))
    x = np.arange(24).reshape(2, 4, 3) % 5
    np.testing.assert_allclose(npy(layer(x)), npy(layer(x.astype("float32"))), rtol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_a_declared_float32_state_stays_float32_under_mixed_precision(policy):
    class Accumulator(cellkit.Cell):
        @property
        def state_size(self):
            return [cellkit.TensorSpec((), dtype="float32")]

        @property
        def output_size(self):
            return cellkit.TensorSpec((), dtype="float32")

        def step(self, inputs, states):
            total = states[0] + 1.0
            return total, [total]

    layer = cellkit.RNN(Accumulator(dtype=policy), dtype=policy, return_state=True)
    y, s = layer(np.zeros((1, 4096, 1)))
    assert npy(y).tolist() == npy(s).tolist() == [4096.0]
    y, s = layer(np.zeros((1, 1, 1)), initial_state=np.array([4096.0]))
    assert npy(s).tolist() == [4097.0]  # float16 has no 4097


def test_a_cell_called_by_itself_takes_arrays_and_either_kind_of_sequence():
    cell = cellkit.create("lstm", units=3)
    x, h, c = data(2, 4), data(2, 3, seed=1), data(2, 3, seed=2)
    y, states = cell(x, [h, c])
    z, others = cell(ops.convert_to_tensor(x), (h, c))
    np.testing.assert_array_equal(npy(y), npy(z))
    np.testing.assert_array_equal(npy(states[1]), npy(others[1]))


def test_two_weights_of_one_shape_start_with_different_numbers():
    class Twins(cellkit.Cell):
        def build(self, input_shape):
            super().build(input_shape)
            self.a = self.add_kernel((3, 3), name="a")
            self.b = self.add_kernel((3, 3), name="b")

        def step(self, inputs, states):
            return states[0], states

    cell = Twins(3)
    cell.build((None, 3))
    assert np.any(npy(cell.a) != npy(cell.b))


@pytest.mark.parametrize("columns", [slice(2), slice(2, None), slice(1, 3), slice(None)])
def test_a_product_with_some_columns_of_a_weight(columns):
    x, kernel = np.random.default_rng(1).normal(size=(2, 3, 4)), np.arange(20.0).reshape(4, 5)
    variable = keras.Variable(kernel.astype("float32"))
    product = matmul(ops.convert_to_tensor(x.astype("float32")), variable, columns)
    want = x @ kernel[:, columns]
    np.testing.assert_allclose(ops.convert_to_numpy(product), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("value", "bounds", "expected"),
    [
        (0, {"above": 0, "at_most": 1}, "a number that is above 0 and at most 1"),
        (1, {"at_least": 0, "below": 1}, "a number that is at least 0 and below 1"),
        (float("nan"), {"at_least": 0}, "a number that is at least 0"),
        (float("inf"), {"above": 0}, "a number that is above 0"),
        (True, {"above": 0}, "a number that is above 0"),
        ("2", {}, "a finite number"),
        (float("-inf"), {}, "a finite number"),
    ],
)
def test_a_number_out_of_its_range_is_told(value, bounds, expected):
    _, received, wanted, _ = raised(number, ProbeCell, "leak", value, **bounds)
    assert (received, wanted) == (f"leak={value!r}", expected)


def test_a_number_in_its_range_is_a_float_of_pythons():
    found = number(ProbeCell, "leak", np.float32(1), above=0, at_most=1)
    assert (type(found), found) == (float, 1.0)
    assert number(ProbeCell, "leak", -3) == -3.0
