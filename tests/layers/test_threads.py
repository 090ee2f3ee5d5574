"""Calls from many threads at once: each gives what it gives alone, and leaves nothing behind."""

import sys
import threading
import time

import keras
import numpy as np
import pytest

import cellkit
from cellkit.cells import effects
from cellkit.cells.stock_masks import lend_masks

CELLS = keras.layers.SimpleRNNCell, keras.layers.GRUCell, keras.layers.LSTMCell


@pytest.fixture
def hasty():
    """Let threads change after almost every operation."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def at_once(functions, rounds=1):
    """Run the functions in as many threads, all begun together; return their results."""
    results, errors = [None] * len(functions), []
    begin = threading.Barrier(len(functions))

    def work(index):
        begin.wait()
        try:
            for _ in range(rounds):
                results[index] = functions[index]()
        except BaseException as error:  # noqa: BLE001 - raised again below, in the main thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def sequences(count, batches=(2,), features=3, time=5, seed=0):
    rng = np.random.default_rng(seed)
    sizes = [batches[i % len(batches)] for i in range(count)]
    return [rng.normal(size=(n, time, features)).astype("float32") for n in sizes]


def values(x):
    return [keras.ops.convert_to_numpy(v) for v in keras.tree.flatten(x)]


def cells_of(kind):
    return {
        "simple": lambda: keras.layers.SimpleRNNCell(4, dropout=0.4, recurrent_dropout=0.3),
        "gru": lambda: keras.layers.GRUCell(4, dropout=0.4, recurrent_dropout=0.3),
        "lstm": lambda: keras.layers.LSTMCell(4, dropout=0.4),
        "cellkit": lambda: cellkit.create("gru", units=4, dropout=0.4, recurrent_dropout=0.2),
        "linear": lambda: cellkit.create("min_gru", units=4),
        "stack": lambda: [
            keras.layers.SimpleRNNCell(4, dropout=0.4, recurrent_dropout=0.3),
            cellkit.create("mgu", units=3, dropout=0.2),
            keras.layers.LSTMCell(2, recurrent_dropout=0.3),
        ],
    }[kind]()


KINDS = ["simple", "gru", "lstm", "cellkit", "linear", "stack"]


@pytest.mark.parametrize("kind", KINDS)
def test_inference_in_many_threads(kind, hasty):
    layer = cellkit.RNN(cells_of(kind), return_sequences=True, return_state=True)
    xs = sequences(4, batches=(2, 3))
    alone = [values(layer(x)) for x in xs]
    for _ in range(3):
        together = at_once([lambda x=x: values(layer(x)) for x in xs], rounds=4)
        for a, b in zip(alone, together, strict=True):
            for u, v in zip(a, b, strict=True):
                np.testing.assert_allclose(v, u, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_call_in_many_threads_builds_once(kind, hasty):
    for wrap in (lambda layer: layer, cellkit.Bidirectional):
        layer = wrap(cellkit.RNN(cells_of(kind)))
        x = sequences(1)[0]
        results = at_once([lambda layer=layer, x=x: values(layer(x))] * 4)
        for other in results[1:]:
            np.testing.assert_allclose(other[0], results[0][0], rtol=1e-6, atol=1e-7)
        paths = [w.path for w in layer.weights]
        assert len(paths) == len(set(paths))
        np.testing.assert_allclose(values(layer(x))[0], results[0][0], rtol=1e-6, atol=1e-7)


def transparent(cell, units):
    """Make a cell hand its inputs through, so that its output shows what was dropped."""
    layer = cellkit.RNN(cell, return_sequences=True)
    layer.build((None, None, units))
    kernel, recurrent = (np.zeros(w.shape, "float32") for w in cell.weights[:2])
    kernel[:, :units] = np.eye(units)
    cell.set_weights([kernel, recurrent])
    return layer


@pytest.mark.parametrize("wrapped", [False, True])
def test_masks_of_a_stock_cell_stay_with_their_call(wrapped, hasty):
    units = 16
    cell = keras.layers.SimpleRNNCell(units, activation=None, use_bias=False, dropout=0.5)
    layer = transparent(cell, units)
    if wrapped:
        layer = cellkit.RNN(cellkit.StackedCells([cell]), return_sequences=True)
    xs = [np.ones((n, 6, units), "float32") for n in (1, 2, 3, 4)]
    for _ in range(3):
        results = at_once([lambda x=x: values(layer(x, training=True))[0] for x in xs], rounds=3)
        for x, y in zip(xs, results, strict=True):
            assert y.shape == x.shape
            assert set(np.unique(y)) <= {0.0, 2.0}
            np.testing.assert_array_equal(y, np.repeat(y[:, :1], 6, axis=1))
    assert any((y == 0).any() and (y == 2).any() for y in results)
    np.testing.assert_array_equal(values(layer(xs[3]))[0], xs[3])


def test_training_and_inference_of_one_cell_at_once(hasty):
    units = 16
    cell = keras.layers.SimpleRNNCell(units, activation=None, use_bias=False, dropout=0.5)
    layer = transparent(cell, units)
    x = np.ones((3, 6, units), "float32")
    functions = [lambda: values(layer(x, training=True))[0], lambda: values(layer(x))[0]] * 2
    for _ in range(4):
        trained, plain, again, also = at_once(functions, rounds=2)
        np.testing.assert_array_equal(plain, x)
        np.testing.assert_array_equal(also, x)
        for y in (trained, again):
            np.testing.assert_array_equal(y, np.repeat(y[:, :1], 6, axis=1))


@pytest.mark.parametrize("cls", CELLS)
def test_a_call_changes_nothing_on_a_stock_cell(cls):
    cell = cls(4, dropout=0.4, recurrent_dropout=0.3)
    layer = cellkit.RNN(cell)
    x = sequences(1)[0]
    layer(x)
    cell(x[:, 0], layer.get_initial_state(2))  # Keras notes that a layer was called
    cell.reset_dropout_mask()
    cell.reset_recurrent_dropout_mask()
    before = {k: id(v) for k, v in vars(cell).items()}
    layer(x)
    layer(x, training=True)
    layer.compute_output_spec(keras.KerasTensor((2, 5, 3)))
    assert {k: id(v) for k, v in vars(cell).items()} == before


@pytest.mark.parametrize("cls", CELLS)
def test_a_stock_cell_does_for_others_what_it_did(cls):
    cell = cls(4, dropout=0.5, recurrent_dropout=0.5, seed=1)
    fresh = cls(4, dropout=0.5, recurrent_dropout=0.5, seed=1)
    x = sequences(1)[0]
    cellkit.RNN(cell)(x)
    theirs, own = keras.layers.RNN(cell), keras.layers.RNN(fresh)
    own.build(x.shape)
    fresh.set_weights(cell.get_weights())
    np.testing.assert_allclose(
        values(theirs(x, training=True))[0], values(own(x, training=True))[0], rtol=1e-6
    )
    like = keras.ops.ones((2, 3))
    first = cell.get_dropout_mask(like)
    assert cell.get_dropout_mask(like) is first
    cell.reset_dropout_mask()
    cell.reset_recurrent_dropout_mask()
    assert cell.get_dropout_mask(like) is not first
    assert type(cell).from_config(cell.get_config()).dropout == 0.5


def test_masks_of_the_two_layers_agree_for_one_seed():
    for cls in CELLS:
        x = sequences(1, time=4)[0]
        cells = [cls(4, dropout=0.5, seed=3) for _ in range(2)]
        theirs = keras.layers.RNN(cells[0], return_sequences=True)
        ours = cellkit.RNN(cells[1], return_sequences=True)
        theirs.build(x.shape)
        ours.build(x.shape)
        cells[1].set_weights(cells[0].get_weights())
        np.testing.assert_allclose(
            values(ours(x, training=True))[0], values(theirs(x, training=True))[0], rtol=1e-5
        )


def test_a_class_with_caches_of_its_own_keeps_them():
    class Own(keras.layers.SimpleRNNCell):
        drawn = 0

        def get_dropout_mask(self, step_input):
            if getattr(self, "_dropout_mask", None) is None:
                type(self).drawn += 1
            return super().get_dropout_mask(step_input)

    cell = Own(4, dropout=0.5)
    assert lend_masks(cell) == [cell] and "get_dropout_mask" not in vars(cell)
    layer = cellkit.RNN(cell)
    layer(sequences(1)[0], training=True)
    assert Own.drawn >= 1
    assert cell._dropout_mask is None


def test_threads_with_layers_of_one_cell(hasty):
    cell = keras.layers.GRUCell(4, dropout=0.3, recurrent_dropout=0.3)
    layers = [cellkit.RNN(cell, go_backwards=back) for back in (False, True)]
    x = sequences(1)[0]
    alone = [values(layer(x))[0] for layer in layers]
    together = at_once([lambda la=la: values(la(x))[0] for la in layers * 2], rounds=6)
    for a, b in zip(alone * 2, together, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", ["gru", "cellkit", "stack"])
def test_settings_that_differ_from_thread_to_thread(kind, hasty):
    """Masks, lengths, states and training at once: no call sees another one's arguments."""
    layer = cellkit.RNN(cells_of(kind), return_sequences=True)
    x = sequences(1)[0]
    layer(x)
    state = keras.tree.map_structure(lambda s: s + 0.5, layer.get_initial_state(2))
    mask = np.array([[1, 0, 1, 1, 0], [0, 1, 1, 0, 1]], bool)
    calls = [{}, {"mask": mask}, {"lengths": [3, 5]}, {"initial_state": state}]
    alone = [values(layer(x, **kw))[0] for kw in calls]
    together = at_once([lambda kw=kw: values(layer(x, **kw))[0] for kw in calls], rounds=5)
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-7)


def test_exploring_in_many_threads_leaves_the_streams_of_the_process_alone(hasty):
    class Slow(type(cellkit.create("gru", units=4))):
        def step(self, projected, states):
            time.sleep(0.005)  # long enough for the threads to meet
            return super().step(projected, states)

    layers = [cellkit.RNN(Slow(4)) for _ in range(4)]
    x = sequences(1)[0]
    for layer in layers:
        layer.build(x.shape)
    before = sys.stdout
    at_once([lambda layer=layer: values(layer(x)) for layer in layers])
    assert sys.stdout is before


def test_a_thread_waits_for_another_that_tries_a_step_but_not_for_ever(monkeypatch):
    monkeypatch.setattr(effects, "_PATIENCE", 0.05)
    layer, x = cellkit.RNN(cellkit.create("mgu", units=4)), sequences(1)[0]
    with effects.Undone(layer.cell):
        (output,) = at_once([lambda: values(layer(x))])
    layer.engine = "loop"
    np.testing.assert_allclose(output[0], values(layer(x))[0], rtol=1e-6, atol=1e-7)


class Stopped(BaseException):
    """An exception that no engine takes for the cell's own, like a key that is pressed."""


@pytest.mark.parametrize("error", [ValueError, Stopped])
def test_a_step_that_ends_with_an_error_keeps_no_thread_waiting(monkeypatch, error):
    monkeypatch.setattr(effects, "_PATIENCE", 0.05)

    class Failing(type(cellkit.create("mgu", units=4))):
        fails = True

        def step(self, projected, states):
            if self.fails:
                raise error("stop")
            return super().step(projected, states)

    layer, before = cellkit.RNN(Failing(4)), sys.stdout
    layer.build((2, 5, 3))
    for _ in range(3):
        with pytest.raises(error):
            layer(sequences(1)[0])
    assert sys.stdout is before

    def busy():
        with effects.Undone(layer.cell) as trial:
            return trial.found

    assert at_once([busy]) == [None]
