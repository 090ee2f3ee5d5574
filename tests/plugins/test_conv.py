"""The convolutional cells: numbers against references and Keras, ranks, data formats, errors."""

import keras
import numpy as np
import pytest
from against_reference import (
    DTYPE,
    MASK,
    TOLERANCE,
    B,
    T,
    cases,
    check,
    check_case,
    check_golden,
    make,
    to_numpy,
)
from three_parts import raised

import cellkit
from cellkit.registry import cell_weights, set_cell_weights
from cellkit_conv import ConvGRUCell, ConvLSTMCell, ConvRNNCell
from cellkit_conv._base import convolve

FAMILY = ("conv_rnn", "conv_lstm", "conv_gru")
IMAGE = (7, 6, 5)
KERAS = {1: keras.layers.ConvLSTM1D, 2: keras.layers.ConvLSTM2D, 3: keras.layers.ConvLSTM3D}


@pytest.fixture
def rng():
    return np.random.default_rng(1506)


def images(rng, rank, channels=2):
    return rng.normal(size=(B, T, *IMAGE[:rank], channels)).astype(DTYPE)


def test_the_convolution_of_the_references_by_hand():
    """One output per axis case, written out; x is 0..4 and the kernel (1, 10)."""
    x, kernel = np.arange(5.0).reshape(1, 5, 1), np.array([1.0, 10.0]).reshape(2, 1, 1)
    options = {"strides": 1, "dilation_rate": 1, "padding": "valid"}

    def of(**changed):
        return convolve(x, kernel, {**options, **changed}).ravel().tolist()

    assert of() == [10, 21, 32, 43]
    assert of(padding="same") == [10, 21, 32, 43, 4]  # one zero, at the end
    assert of(strides=2) == [10, 32]
    assert of(strides=2, padding="same") == [10, 32, 4]
    assert of(dilation_rate=3) == [30, 41]
    assert of(dilation_rate=2, padding="same") == [10, 20, 31, 42, 3]


@pytest.mark.one_backend
@pytest.mark.parametrize(("name", "case"), cases(*FAMILY))
def test_the_layer_computes_the_reference(name, case, rng):
    check_case(name, case, rng, mask=MASK)


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize(
    "options",
    [{"padding": "same", "strides": 2}, {"dilation_rate": 2, "padding": "same"}, {}],
    ids=["strides", "dilation", "valid"],
)
def test_signals_and_volumes_compute_the_reference(name, rank, options, rng):
    layer = check(name, images(rng, rank), rng, filters=2, kernel_size=2, rank=rank, **options)
    assert len(layer.cell.kernel.shape) == rank + 2


@pytest.mark.parametrize("name", FAMILY)
def test_the_initial_states_are_those_of_the_reference(name, rng):
    check_case(name, "default", rng, given=False)


@pytest.mark.parametrize("name", ["conv_lstm", "conv_gru"])
def test_other_libraries_agree(name):
    check_golden(name)


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_channels_may_come_first(name, rank, rng):
    """On every backend, whether its own convolutions can do that on this device or not."""
    x = images(rng, rank)
    options = {"filters": 3, "kernel_size": 2, "rank": rank, "strides": 2, "padding": "same"}
    last, _ = make(name, x, rng, **options)
    first = check(name, np.moveaxis(x, -1, 2), rng, data_format="channels_first", **options)
    set_cell_weights(first.cell, cell_weights(last.cell))
    outputs, *states = first(np.moveaxis(x, -1, 2))
    want, *wanted = to_numpy(last(x))
    assert tuple(outputs.shape[2:]) == (3, *want.shape[2:-1])
    np.testing.assert_allclose(np.moveaxis(to_numpy(outputs), 2, -1), want, atol=TOLERANCE)
    for got, state in zip(states, wanted, strict=True):
        np.testing.assert_allclose(np.moveaxis(to_numpy(got), 1, -1), state, atol=TOLERANCE)


def test_peepholes_in_channels_first(rng):
    x = np.moveaxis(images(rng, 2), -1, 2)
    options = {"filters": 2, "kernel_size": 3, "data_format": "channels_first"}
    layer = check("conv_lstm", x, rng, peepholes=True, **options)
    assert cell_weights(layer.cell)["peephole_i"].shape == (2, 5, 4)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": "same", "strides": 2},
        {"padding": "same", "dilation_rate": 2},
        {"strides": 2, "use_bias": False, "activation": "relu"},
        {"data_format": "channels_first", "padding": "same"},
    ],
    ids=["valid", "strides", "dilation", "no bias", "channels first"],
)
def test_conv_lstm_is_that_of_keras(rank, options, rng):
    first = options.get("data_format") == "channels_first"
    if first and keras.backend.backend() == "tensorflow":
        pytest.skip("Keras' own layer cannot do this on the CPU with TensorFlow")
    x = images(rng, rank).astype("float32")
    x = np.moveaxis(x, -1, 2) if first else x
    arguments = {"filters": 3, "kernel_size": 2, **options}
    theirs = KERAS[rank](**arguments, return_sequences=True, return_state=True)
    theirs.build(x.shape)
    cell = ConvLSTMCell(**arguments, rank=rank)
    ours = cellkit.RNN(cell, return_sequences=True, return_state=True)
    ours.build(x.shape)
    weights = [0.4 * rng.normal(size=w.shape) for w in theirs.get_weights()]
    theirs.set_weights(weights)
    ours.set_weights(weights)
    for got, want in zip(ours(x), theirs(x), strict=True):
        np.testing.assert_allclose(to_numpy(got), to_numpy(want), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", FAMILY)
def test_the_states_have_the_size_of_the_convolved_image(name, rng):
    layer = cellkit.RNN(
        cellkit.create(name, filters=4, kernel_size=(3, 2), strides=(2, 1)), return_state=True
    )
    output, *states = layer(images(rng, 2))
    assert {tuple(s.shape) for s in (output, *states)} == {(B, 3, 5, 4)}
    shapes = layer.compute_output_shape((None, T, 7, 6, 2))
    assert set(map(tuple, shapes)) == {(None, 3, 5, 4)}


def test_a_stack_with_a_state_that_is_carried_on(rng):
    x = images(rng, 2).astype("float32")
    cells = [ConvLSTMCell(2, 3, padding="same"), ConvGRUCell(3, 2)]
    stack = cellkit.RNN(cells, stateful=True)
    stack(x[:, :3])
    whole = cellkit.RNN(cellkit.StackedCells(cells))
    np.testing.assert_allclose(to_numpy(stack(x[:, 3:])), to_numpy(whole(x)), atol=1e-5)


# Errors -------------------------------------------------------------------------------------------


@pytest.mark.one_backend
@pytest.mark.parametrize("cls", [ConvRNNCell, ConvLSTMCell, ConvGRUCell])
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"filters": -1}, "filters=-1"),
        ({"filters": 2.5}, "filters=2.5"),
        ({"kernel_size": 0}, "kernel_size=0"),
        ({"kernel_size": (3, 3, 3, 3)}, "rank=4"),
        ({"kernel_size": (3, 3), "rank": 3}, "rank 3"),
        ({"rank": 0}, "rank=0"),
        ({"rank": "2"}, "rank='2'"),
        ({"strides": (1, 2, 3)}, "strides=(1, 2, 3)"),
        ({"strides": 0}, "strides=0"),
        ({"dilation_rate": -2}, "dilation_rate=-2"),
        ({"strides": 2, "dilation_rate": 2}, "strides=2"),
        ({"padding": "causal"}, "padding='causal'"),
        ({"data_format": "NHWC"}, "data_format='NHWC'"),
        ({"units": 4}, "units=4"),
    ],
)
def test_options_out_of_range(cls, options, named):
    assert named in raised(cls, **{"filters": 2, "kernel_size": 3, **options})[1]


@pytest.mark.parametrize(
    ("shape", "options", "named"),
    [
        ((2, 5, 6, 3), {}, "no time axis"),
        ((2, 5, 2, 6, 3), {}, "larger than its inputs"),
        ((2, 5, 6, 6, 3), {"dilation_rate": 3}, "larger than its inputs"),
        ((2, 5, 2, 6, 3), {"data_format": "channels_first", "kernel_size": 4}, "larger"),
    ],
    ids=["no channels", "small image", "dilated", "channels first"],
)
def test_images_must_fit(shape, options, named):
    layer = cellkit.RNN(ConvGRUCell(**{"filters": 2, "kernel_size": 3, **options}))
    what, received, _, fix = raised(layer, np.zeros(shape))
    assert named in what and fix
    assert received
    if len(shape) == 4:  # what is missing may also be the channels
        assert "x[..., None]" in fix


@pytest.mark.parametrize("shape", [(5, None, 6, 2), (5, 6, 6, None)])
def test_the_size_of_the_images_must_be_known(shape):
    layer = cellkit.RNN(ConvRNNCell(2, 3))
    assert "None" in raised(layer, keras.Input(shape))[1]
