"""The layout map: which weights are divided, by whatever number a layer has in its name."""

import keras
from three_parts import raised

import cellkit


def mesh(*shape):
    names = ("batch", "model")[: len(shape)]
    count = 1
    for size in shape:
        count *= size
    return keras.distribution.DeviceMesh(shape, names, [f"cpu:{i}" for i in range(count)])


def model(units=4):
    inputs = keras.Input((5, 3))
    first = cellkit.RNN(cellkit.create("layer_norm_lstm", units=units), return_sequences=True)
    second = cellkit.RNN(cellkit.create("conv_gru", filters=4, kernel_size=3, padding="same"))
    image = keras.layers.Reshape((5, 2, 2, 1))(keras.layers.Dense(4)(first(inputs)))
    return keras.Model(inputs, second(image))


def test_matrices_and_kernels_are_cut_along_their_last_axis():
    layouts = cellkit.layout_map(model(), mesh(1, 2))
    again = model()  # with other numbers in the names of its layers
    cut = {v.path: layouts[v.path] for v in again.trainable_weights if layouts[v.path] is not None}
    for variable in again.trainable_weights:
        assert (variable.path in cut) == (len(variable.shape) > 1), variable.path
    for path, layout in cut.items():
        assert layout.axes[-1] == "model" and set(layout.axes[:-1]) == {None}, path


def test_what_is_no_multiple_of_the_devices_stays_whole():
    layer = cellkit.RNN(cellkit.create("gru", units=3))
    layer.build((None, 5, 2))
    assert not len(cellkit.layout_map(layer, mesh(1, 2)))
    assert len(cellkit.layout_map(layer, mesh(1, 3))) == 3  # its two biases are a matrix


def test_a_mesh_without_the_axis_and_a_model_without_weights_are_refused():
    layer = cellkit.RNN(cellkit.create("gru", units=2))
    what, received, _, fix = raised(cellkit.layout_map, model(), mesh(2))
    assert "no axis of this name" in what and "'batch'" in received and "axis='batch'" in fix
    what, _, _, fix = raised(cellkit.layout_map, layer, mesh(1, 2))
    assert "not built" in what and "keras.Input" in fix
