"""States nested otherwise than declared: the same tensors in the same order are the same states."""

import collections

import keras
import numpy as np
import pytest
from keras import ops
from three_parts import raised

import cellkit

X = np.random.default_rng(1).normal(size=(2, 5, 3)).astype("float32")
MASK = np.array([[1, 0, 1, 1, 0], [0, 1, 1, 1, 1]], bool)
UNITS = 3


def close(a, b):
    a, b = (list(map(ops.convert_to_numpy, keras.tree.flatten(v))) for v in (a, b))
    assert len(a) == len(b)
    for u, v in zip(a, b, strict=True):
        np.testing.assert_allclose(u, v, rtol=1e-5, atol=1e-6)


class Loose(keras.layers.Layer):
    """A cell with two states that it returns nested as it pleases."""

    nest = staticmethod(lambda a, b: [a, b])
    sizes: object = (UNITS, UNITS)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.state_size = list(self.sizes) if isinstance(self.sizes, tuple) else self.sizes
        self.output_size = UNITS

    def build(self, shape):
        rng = np.random.default_rng(5)
        start = rng.normal(size=(shape[-1] + 2 * UNITS, 2 * UNITS))
        self.w = self.add_weight(shape=start.shape, initializer=lambda s, dtype=None: start)

    def call(self, inputs, states):
        flat = keras.tree.flatten(states)
        z = ops.tanh(ops.matmul(ops.concatenate([inputs, *flat], -1), self.w))
        a, b = z[:, :UNITS], 0.5 * flat[1] + z[:, UNITS:]
        return a + b, self.nest(a, b)


NESTINGS = {
    "list": lambda a, b: [a, b],
    "tuple": lambda a, b: (a, b),
    "inner list": lambda a, b: [a, [b]],
    "outer list": lambda a, b: [[a, b]],
    "both lists": lambda a, b: [[a], [b]],
    "deep": lambda a, b: ((a,), [[[b]]]),
}


def loose(nesting, sizes=(UNITS, UNITS), base=Loose):
    return type("Loose", (base,), {"nest": staticmethod(NESTINGS[nesting]), "sizes": sizes})


OPTIONS = [
    {},
    {"engine": "loop"},
    {"unroll": True},
    {"unroll": 2},
    {"go_backwards": True},
    {"remat": 2},
    {"stateful": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("nesting", NESTINGS)
def test_new_states_may_be_nested_in_any_way(nesting, options):
    arguments = {"return_sequences": True, "return_state": True, **options}
    want = cellkit.RNN(loose("list")(), **arguments)
    got = cellkit.RNN(loose(nesting)(), **arguments)
    for given in ({}, {"mask": MASK}, {"training": True}):
        y = got(X, **given)
        close(y, want(X, **given))
        assert [tuple(s.shape) for s in y[1:]] == [(2, UNITS)] * 2


@pytest.mark.parametrize("nesting", NESTINGS)
def test_what_the_layer_of_keras_runs_runs(nesting):
    try:
        want = keras.layers.RNN(loose(nesting)(), return_sequences=True)(X)
    except Exception:  # noqa: BLE001 - some of its loops compare structures, with errors of many kinds
        pytest.skip("this backend of Keras refuses it")
    close(cellkit.RNN(loose(nesting)(), return_sequences=True)(X), want)


@pytest.mark.parametrize("nesting", NESTINGS)
def test_wrappers_and_symbolic_calls(nesting):
    def both(make):
        close(make(loose(nesting)), make(loose("list")))

    both(lambda c: cellkit.RNN([c(), c()], return_state=True)(X, mask=MASK))
    both(lambda c: cellkit.Bidirectional(cellkit.RNN(c(), return_state=True))(X))
    inputs = keras.Input((5, 3))
    both(lambda c: keras.Model(inputs, cellkit.RNN(c())(inputs)).predict(X, verbose=0))
    assert cellkit.RNN(loose(nesting)()).compute_output_shape((2, 5, 3)) == (2, UNITS)


def streamed(layer):
    states, y = None, None
    for t in range(X.shape[1]):
        y, states = layer.step(X[:, t], states)
    return y, states


@pytest.mark.parametrize("nesting", NESTINGS)
def test_a_stream_hands_back_the_declared_structure(nesting):
    y, states = streamed(cellkit.RNN(loose(nesting)()))
    assert type(states) is list and len(states) == 2
    close((y, states), streamed(cellkit.RNN(loose("list")())))


@pytest.mark.parametrize(
    "form",
    [
        lambda a, b: [a, b],
        lambda a, b: (a, b),
        lambda a, b: [a, [b]],
        lambda a, b: [[a, b]],
        lambda a, b: [[a], [[b]]],
    ],
)
@pytest.mark.parametrize("sizes", [(UNITS, UNITS), (UNITS, [UNITS])])
def test_initial_states_in_any_nesting(form, sizes):
    rng = np.random.default_rng(3)
    a, b = (rng.normal(size=(2, UNITS)).astype("float32") for _ in range(2))
    layer = cellkit.RNN(loose("list", sizes)(), return_state=True)
    want = layer(X, initial_state=[a, b])
    close(layer(X, initial_state=form(a, b)), want)
    start = keras.tree.map_structure(ops.convert_to_tensor, form(a, b))
    close(layer(X, initial_state=start), want)
    both = cellkit.Bidirectional(layer)
    close(
        both(X, initial_state=[form(a, b), form(b, a)]),
        both(X, initial_state=[[a, b], [b, a]]),
    )
    stateful = cellkit.RNN(loose("list", sizes)(), stateful=True, return_state=True)
    stateful(X)
    stateful.reset_state(form(a, b))
    close(stateful(X), want)


class Bare(keras.layers.Layer):
    """A cell with one state, which it returns bare, as in the examples of older Keras."""

    def __init__(self, form="bare", **kwargs):
        super().__init__(**kwargs)
        self.form = form
        self.state_size = self.output_size = UNITS

    def build(self, shape):
        start = np.random.default_rng(4).normal(size=(shape[-1] + UNITS, UNITS))
        self.w = self.add_weight(shape=start.shape, initializer=lambda s, dtype=None: start)

    def call(self, inputs, states):
        h = ops.tanh(ops.matmul(ops.concatenate([inputs, states[0]], -1), self.w))
        return h, {"bare": h, "list": [h], "tuple": (h,), "nested": [[h]]}[self.form]

    def get_config(self):
        return {**super().get_config(), "form": self.form}


@pytest.mark.parametrize("form", ["bare", "tuple", "nested"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_single_state_in_any_nesting(form, options):
    def results(form):
        layer = cellkit.RNN(Bare(form), return_state=True, **options)
        yield layer(X)
        yield layer(X, mask=MASK, training=True)
        yield layer(X, initial_state=np.ones((2, UNITS), "float32"))
        yield layer(X, initial_state=[np.ones((2, UNITS), "float32")])
        yield layer(X, initial_state=[[np.ones((2, UNITS), "float32")]])
        yield cellkit.RNN([Bare(form), Bare(form)], return_state=True)(X)
        yield keras.layers.RNN(Bare("list"), return_state=True)(X)

    for got, want in zip(results(form), results("list"), strict=True):
        close(got, want)


def test_a_cell_around_a_cell_of_keras():
    class Memory(keras.layers.Layer):
        def __init__(self, as_returned, **kwargs):
            super().__init__(**kwargs)
            self.as_returned = as_returned
            self.inner = keras.layers.SimpleRNNCell(UNITS)
            self.state_size, self.output_size = [UNITS, UNITS], UNITS

        def build(self, shape):
            self.inner.build(shape)
            self.inner.set_weights([0.1 * np.ones(w.shape) for w in self.inner.weights])

        def call(self, inputs, states):
            y, inner = self.inner(inputs, [states[1]])
            return y, [states[0] + y, inner if self.as_returned else inner[0]]

    close(cellkit.RNN(Memory(True))(X), keras.layers.RNN(Memory(False))(X))


@pytest.mark.parametrize("stack", [cellkit.StackedCells, keras.layers.StackedRNNCells])
def test_stacks_of_cells_that_return_lists_of_one(stack):
    cells = [keras.layers.SimpleRNNCell(4), keras.layers.SimpleRNNCell(UNITS)]
    layer = cellkit.RNN(stack(cells), return_state=True)
    theirs = keras.layers.RNN(keras.layers.StackedRNNCells(cells), return_state=True)
    close(layer(X)[0], theirs(X)[0])
    a, b = np.ones((2, 4), "float32"), np.full((2, UNITS), 0.5, "float32")
    want = layer(X, initial_state=[a, b])
    for form in ([[a], [b]], ([a], b), [[a, b]]):
        close(layer(X, initial_state=form), want)


def test_a_stack_takes_its_states_flat():
    stack = cellkit.StackedCells([keras.layers.LSTMCell(2), keras.layers.GRUCell(UNITS)])
    stack.build((2, 3))
    h, c, g = np.ones((2, 2), "float32"), np.zeros((2, 2), "float32"), np.ones((2, 3), "float32")
    h, c, g = map(ops.convert_to_tensor, (h, c, g))
    want = stack.call(X[:, 0], [[h, c], g])
    close(stack.call(X[:, 0], [h, c, g]), want)
    assert "stack" in raised(stack.call, X[:, 0], [h])[0]


# Dicts: by their keys ---------------------------------------------------------------------------

Pair = collections.namedtuple("Pair", "first second")


class Named(Loose):
    """A cell whose states have names."""

    def __init__(self, form, **kwargs):
        super().__init__(**kwargs)
        self.form = form
        self.state_size = {"one": UNITS, "alpha": UNITS}

    def call(self, inputs, states):
        one, alpha = states["one"], states["alpha"]
        z = ops.tanh(ops.matmul(ops.concatenate([inputs, one, alpha], -1), self.w))
        return z[:, :UNITS], self.form(z[:, :UNITS], 0.5 * alpha + z[:, UNITS:])


def test_states_with_names_are_found_by_them():
    want = cellkit.RNN(Named(lambda a, b: {"one": a, "alpha": b}), return_state=True)(X)
    for form in (
        lambda a, b: {"alpha": b, "one": a},
        lambda a, b: collections.OrderedDict(one=[a], alpha=b),
        lambda a, b: collections.OrderedDict(alpha=b, one=(a,)),
    ):
        layer = cellkit.RNN(Named(form), return_state=True)
        output, states = layer(X)
        close(output, want[0])
        close([states["one"], states["alpha"]], [want[1]["one"], want[1]["alpha"]])


@pytest.mark.parametrize(
    "form",
    [
        lambda a, b: [a, b],
        lambda a, b: {"one": a, "beta": b},
        lambda a, b: {"one": a},
        lambda a, b: a,
    ],
)
def test_names_are_not_guessed_from_an_order(form):
    with pytest.raises(ValueError, match="states unlike those it was given"):
        cellkit.RNN(Named(form))(X)


@pytest.mark.parametrize(
    "nest",
    [
        lambda a, b: {"a": a, "b": b},
        lambda a, b: [a],
        lambda a, b: [a, b, a],
        lambda a, b: [a, None],
        lambda a, b: [a, [b, a]],
        lambda a, b: [],
    ],
)
def test_other_leaves_are_refused(nest):
    cell = type("Wrong", (Loose,), {"nest": staticmethod(nest)})()
    with pytest.raises(ValueError, match="states unlike those it was given"):
        cellkit.RNN(cell)(X)


@pytest.mark.parametrize(
    "wrong", [lambda a: [a], lambda a: [a, a, a], lambda a: {"x": a, "y": a}, lambda a: [a, None]]
)
def test_initial_states_with_other_leaves_are_refused(wrong):
    layer = cellkit.RNN(loose("list")())
    what, received, expected, fix = raised(layer, X, initial_state=wrong(np.ones((2, UNITS))))
    assert "structure" in what and "(2, 3)" in received and "return_state" in fix
    close(layer(X), layer(X))


class Undeclared(cellkit.Cell):
    """Returns two tensors, and does not say so."""

    def step(self, inputs, states):
        return {"a": inputs, "b": states[0]}, states


def test_an_output_that_is_not_declared_is_told_in_three_parts():
    layer = cellkit.RNN(Undeclared(3))
    what, received, expected, fix = raised(layer, np.zeros((2, 4, 3), "float32"))
    assert "The cell's output is not what the cell declares." in what
    assert "2 tensors" in received and expected.startswith("1") and "output_size" in fix
