"""Constants: a cell may need them in every phase of a layer's life, the first build included."""

import keras
import numpy as np
import pytest
from keras import ops
from three_parts import raised

import cellkit
from cellkit.registry.symbols import rename

rng = np.random.default_rng(0)
X = rng.normal(size=(4, 5, 2)).astype("float32")
M = rng.normal(size=(4, 6, 3)).astype("float32")


def close(a, b):
    a, b = (list(map(ops.convert_to_numpy, keras.tree.flatten(v))) for v in (a, b))
    for u, v in zip(a, b, strict=True):
        np.testing.assert_allclose(u, v, rtol=1e-5, atol=1e-6)


@keras.saving.register_keras_serializable("constants")
class Attend(keras.layers.Layer):
    """Attention over constants, with inner layers that are built when they are first called."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = self.output_size = units
        self.query, self.out = keras.layers.Dense(3), keras.layers.Dense(units, "tanh")

    def call(self, inputs, states, constants):
        (memory,) = constants
        scores = ops.softmax(ops.einsum("bd,bpd->bp", self.query(states[0]), memory))
        read = ops.einsum("bp,bpd->bd", scores, memory)
        h = self.out(ops.concatenate([inputs, read, states[0]], -1))
        return h, [h]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("constants")
class Optional(Attend):
    """The same with a default that it can't work with."""

    def call(self, inputs, states, constants=None):
        return super().call(inputs, states, constants)


@keras.saving.register_keras_serializable("constants")
class Built(Attend):
    """The same, which builds its layers itself."""

    def build(self, shape):
        self.query.build((None, self.units))
        self.out.build((None, shape[-1] + 3 + self.units))


@keras.saving.register_keras_serializable("constants")
class Lookup(keras.layers.Layer):
    """Takes a dict of constants: integers and a table of features."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.state_size = self.output_size = 3
        self.table, self.mix = keras.layers.Embedding(7, 3), keras.layers.Dense(3)

    def call(self, inputs, states, constants):
        found = ops.sum(self.table(constants["words"]), axis=1) + constants["bias"]
        h = ops.tanh(self.mix(inputs) + found + states[0])
        return h, [h]


WORDS = {"words": np.array([[1, 2], [3, 0], [6, 6], [2, 5]], "int32"), "bias": M[:, 0]}


def by_hand(cell, x, memory):
    """Return the last state of an attending cell, step by step."""
    weights = [ops.convert_to_numpy(w).astype("float64") for w in cell.weights]
    (wq, bq), (wo, bo) = sorted([weights[:2], weights[2:]], key=lambda w: w[0].shape[-1] != 3)
    h = np.zeros((x.shape[0], wo.shape[-1]))
    for t in range(x.shape[1]):
        z = np.einsum("bd,bpd->bp", h @ wq + bq, memory)
        a = np.exp(z - z.max(-1, keepdims=True))
        read = np.einsum("bp,bpd->bd", a / a.sum(-1, keepdims=True), memory)
        h = np.tanh(np.concatenate([x[:, t], read, h], -1) @ wo + bo)
    return h


@pytest.mark.parametrize("cls", [Attend, Optional, Built])
def test_eager_and_symbolic_calls_build_with_constants(cls):
    layer = cellkit.RNN(cls(4))
    y = layer(X, constants=(M,))
    close(y, by_hand(layer.cell, X, M))
    a, b = keras.Input((5, 2)), keras.Input((6, 3))
    model = keras.Model([a, b], cellkit.RNN(cls(4))(a, constants=(b,)))
    model.set_weights(layer.get_weights())
    close(model.predict([X, M], verbose=0), y)
    assert layer.compute_output_shape((4, 5, 2)) == (4, 4)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("cls", [Attend, Built])
def test_constants_reach_every_place_of_a_stack(place, cls):
    def cells():
        stack = [keras.layers.GRUCell(4), keras.layers.LSTMCell(4)]
        stack.insert(place, cls(4))
        return stack

    layer = cellkit.RNN(cells(), return_sequences=True)
    y = layer(X, constants=[M])
    below = cellkit.RNN(layer.cell.cells[0], return_sequences=True)
    first = {"constants": [M]} if place == 0 else {}
    hidden = below(X, **first)
    for i, cell in enumerate(layer.cell.cells[1:], 1):
        given = {"constants": [M]} if place == i else {}
        hidden = cellkit.RNN(cell, return_sequences=True)(hidden, **given)
    close(y, hidden)


@pytest.mark.parametrize("cls", [Attend, Optional, Built])
@pytest.mark.parametrize("wrap", ["layer", "stack", "bidirectional"])
def test_saved_loaded_and_cloned(tmp_path, cls, wrap):
    cell = cls(4)
    layer = cellkit.RNN([cell, keras.layers.GRUCell(3)] if wrap == "stack" else cell)
    if wrap == "bidirectional":
        layer = cellkit.Bidirectional(layer)
    a, b = keras.Input((5, 2)), keras.Input((6, 3))
    model = keras.Model([a, b], layer(a, constants=[b]))
    want = model.predict([X, M], verbose=0)
    path = tmp_path / "model.keras"
    model.save(path)
    close(keras.models.load_model(path).predict([X, M], verbose=0), want)
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    close(copy.predict([X, M], verbose=0), want)
    weights = tmp_path / "model.weights.h5"
    model.save_weights(weights)
    for v in copy.variables:
        v.assign(ops.zeros(v.shape, dtype=v.dtype))
    copy.load_weights(weights)
    close(copy.predict([X, M], verbose=0), want)


@pytest.mark.parametrize("wrap", [lambda la: la, cellkit.Bidirectional])
def test_a_layer_is_built_from_its_build_config(wrap):
    layer = wrap(cellkit.RNN(Lookup()))
    y = layer(X, constants=WORDS)
    config = layer.get_build_config()
    assert config["constants_shape"] == {"words": (4, 2), "bias": (4, 3)}
    saved = keras.saving.serialize_keras_object(config)
    again = wrap(cellkit.RNN(Lookup()))
    again.build_from_config(keras.saving.deserialize_keras_object(saved))
    assert [tuple(w.shape) for w in again.weights] == [tuple(w.shape) for w in layer.weights]
    again.set_weights(layer.get_weights())
    close(again(X, constants=WORDS), y)


def test_a_layer_without_constants_keeps_its_build_config():
    layer = cellkit.RNN(keras.layers.GRUCell(3))
    layer(X)
    assert layer.get_build_config() == {"sequences_shape": (4, 5, 2)}


@pytest.mark.parametrize("wrap", [lambda la: la, cellkit.Bidirectional])
def test_built_from_shapes(wrap):
    layer = wrap(cellkit.RNN(Attend(4)))
    layer.build((None, 5, 2), constants_shape=[(None, 6, 3)])
    shapes = [tuple(w.shape) for w in layer.weights]
    assert (4, 3) in shapes and (9, 4) in shapes
    assert layer.compute_output_shape((None, 5, 2))[0] is None
    assert tuple(layer(X, constants=[M]).shape)[0] == 4


def test_steps_of_a_stream_take_constants():
    layer, states = cellkit.RNN(Attend(4)), None
    for t in range(5):
        y, states = layer.step(X[:, t], states, constants=[M])
    close(y, layer(X, constants=[M]))


@pytest.mark.parametrize(
    "options",
    [
        {"unroll": True},
        {"remat": 2},
        {"go_backwards": True},
        {"stateful": True},
        {"engine": "loop"},
    ],
    ids=str,
)
def test_options(options):
    layer = cellkit.RNN(Attend(4), **options)
    x = X[:, ::-1] if options.get("go_backwards") else X
    close(layer(X, constants=[M]), by_hand(layer.cell, x, M))


def test_training_with_constants():
    a, b = keras.Input((5, 2)), keras.Input((6, 3))
    model = keras.Model([a, b], cellkit.RNN(Attend(4))(a, constants=[b]))
    model.compile("sgd", "mse")
    before = [w.copy() for w in model.get_weights()]
    model.fit([X, M], np.ones((4, 4), "float32"), verbose=0)
    moved = [np.abs(u - v).max() for u, v in zip(before, model.get_weights(), strict=True)]
    assert min(moved) > 0


# Constants that do not fit -----------------------------------------------------------------------


def test_constants_that_are_missing():
    for layer in (
        cellkit.RNN(Attend(4)),
        cellkit.RNN([keras.layers.GRUCell(4), Built(4)]),
        cellkit.Bidirectional(cellkit.RNN(Built(4))),
    ):
        what, received, expected, fix = raised(layer, X)
        assert "needs constants" in what and "without" in received and "constants=[...]" in fix
        assert tuple(layer(X, constants=[M]).shape)[0] == 4


def test_a_build_that_lacks_them_says_so_and_can_be_repeated():
    layer = cellkit.RNN(Attend(4))
    what, received, _, fix = raised(layer.build, (None, 5, 2))
    assert "without its constants" in what and "constants_shape" in fix
    close(layer(X, constants=[M]), by_hand(layer.cell, X, M))
    what, *_ = raised(cellkit.RNN(Optional(4)), X)
    assert "without its constants" in what


def test_constants_that_no_cell_takes():
    for cells in (keras.layers.GRUCell(3), [keras.layers.GRUCell(3), keras.layers.GRUCell(3)]):
        assert "takes no constants" in raised(cellkit.RNN(cells), X, constants=[M])[0]


def test_a_spec_declares_constants():
    def spec(**options):
        return cellkit.CellSpec(
            reference=None,
            inputs=("features",),
            cases={"a": {"units": 3}, "b": {"units": 4}},
            paper=cellkit.Paper("A", 2020, "T", "arXiv:1"),
            symbols=rename({"kernel": "W"}),
            **options,
        )

    assert spec().constants is None
    declared = spec(constants=[("places", 3)], dims={"places": (2, 6)})
    assert declared.constants == [("places", 3)]
    assert "constants" in raised(spec, constants=[("a b", 3)])[0]
    assert "constants" in raised(spec, constants=3)[0]
    assert "dims" in raised(spec, dims={"places": 3})[0]
