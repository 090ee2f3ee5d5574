"""The parallel scan equals the loop: outputs, states, gradients, masks, every length."""

import keras
import numpy as np
import pytest
from against_reference import DTYPE, TOLERANCE, map_structure, randomise, to_numpy
from three_parts import raised

import cellkit
from cellkit.cells import matmul, split
from cellkit.engines.backend import backend as engines_backend
from cellkit.registry import cell_weights, set_cell_weights
from cellkit_conformance.subject import backend

BACKEND = keras.backend.backend()
ops = keras.ops
# Every length is compiled anew on JAX.
LENGTHS = (7,) if BACKEND == "jax" else (1, 2, 7, 33)
BATCH, FEATURES = 5, 3


class DecayCell(cellkit.LinearCell):
    """One real state, with both coefficients from the inputs."""

    def build(self, input_shape):
        super().build(input_shape)
        self.kernel = self.add_kernel((input_shape[-1], 2 * self.units))

    def project(self, inputs):
        return matmul(inputs, self.kernel)

    def coefficients(self, projected):
        z, n = split(projected, 2)
        z = ops.sigmoid(z)
        return 1 - z, z * n


class WindowCell(DecayCell):
    """Reads the last three inputs; its output is not a state, and sees the inputs too."""

    window = 3

    @property
    def state_size(self):
        return [cellkit.TensorSpec(self.units), cellkit.TensorSpec((2, FEATURES))]

    @property
    def output_size(self):
        return {"a": self.units, "b": 2}

    def build(self, input_shape):
        super().build((None, self.window * input_shape[-1]))

    def project(self, inputs):
        return inputs

    def look(self, window):
        return matmul(ops.reshape(window, (-1, self.window * FEATURES)), self.kernel)

    def read(self, states, projected):
        return {"a": 2.0 * states[0], "b": projected[:, :2]}


class NestedCell(DecayCell):
    """A complex state with a constant coefficient beside a matrix, in a dict."""

    @property
    def state_size(self):
        dtype = "complex128" if self.accumulator_dtype == "float64" else "complex64"
        return {"m": (2, self.units), "z": cellkit.TensorSpec(self.units, dtype=dtype)}

    def build(self, input_shape):
        super().build(input_shape)
        self.angle = self.add_weight(shape=(self.units,), name="angle")

    def coefficients(self, projected):
        turned = ops.cast(ops.tanh(self.angle + 0.0), self.state_size["z"].dtype)
        u, v = split(projected, 2)
        a = {"m": 0.5, "z": 0.6 * turned + 0.7j * turned}
        return a, {"m": u[:, None], "z": ops.cast(v, turned.dtype) * (1 - 2j)}

    def read(self, states, projected):
        return ops.real(states["z"]) * ops.imag(states["z"]) + ops.sum(states["m"], axis=1)


CELLS = (DecayCell, WindowCell, NestedCell)


def masks(time):
    """Return a mask whose rows are whole, left, right and interior padding, and nothing at all."""
    t = np.arange(time)
    rows = [t >= 0, t >= time // 2, t <= time // 2, (t < 1) | (t > time // 2), t < 0]
    return np.stack(rows)


def pair(cls, time, **options):
    """Return the loop and the scan over one cell with random weights."""
    cell = cls(4, dtype=DTYPE, dropout=options.pop("dropout", 0.0), seed=3)
    layers = [
        cellkit.RNN(cell, return_state=True, dtype=DTYPE, engine=engine, **options)
        for engine in ("loop", "scan")
    ]
    for layer in layers:
        layer.build((BATCH, time, FEATURES))
    randomise(cell, np.random.default_rng(4))
    return layers


def draw(layer, time, seed=6):
    """Return random inputs and initial states, complex ones with imaginary parts."""
    rng = np.random.default_rng(seed)

    def like(x):
        value = rng.normal(size=x.shape)
        value = value + 1j * rng.normal(size=x.shape) if x.dtype.kind == "c" else value
        return value.astype(x.dtype)

    x = rng.normal(size=(BATCH, time, FEATURES)).astype(DTYPE)
    return x, map_structure(like, to_numpy(layer.get_initial_state(BATCH)))


def assert_close(got, want):
    got, want = keras.tree.flatten(to_numpy(got)), keras.tree.flatten(to_numpy(want))
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=10 * TOLERANCE, atol=10 * TOLERANCE)


@pytest.mark.parametrize("cls", CELLS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_sequences": True},
        {"return_sequences": True, "go_backwards": True, "zero_output_for_mask": True},
    ],
    ids=["last", "sequences", "backwards"],
)
def test_the_scan_equals_the_loop(cls, masked, options):
    for time in LENGTHS:
        loop, fast = pair(cls, time, **options)
        x, states = draw(loop, time)
        mask = masks(time) if masked else None
        if masked:
            x[~mask] = np.nan
        want = loop(x, initial_state=states, mask=mask)
        assert_close(fast(x, initial_state=states, mask=mask), want)
        assert fast.engine_report().engine == "scan"


@pytest.mark.parametrize("cls", CELLS)
def test_gradients_equal_those_of_the_loop(cls, monkeypatch):
    monkeypatch.setattr(engines_backend, "block", 10)
    for time in LENGTHS[-2:]:
        x, states = draw(pair(cls, time)[0], time)

        def loss(result, counts):
            # Each entry counts differently, or errors could cancel.
            total = 0.0
            for number, leaf in enumerate(keras.tree.flatten(result)):
                complex_ = "complex" in keras.backend.standardize_dtype(leaf.dtype)
                for y in (ops.real(leaf), ops.imag(leaf)) if complex_ else (leaf,):
                    angles = np.arange(int(np.prod(y.shape))) * 1.7 + number
                    weights = np.cos(angles).reshape(y.shape).astype(DTYPE)
                    total = total + ops.sum(y * ops.convert_to_tensor(weights)) * counts[0]
            return total

        loop, fast = pair(cls, time, return_sequences=True)
        set_cell_weights(fast.cell, cell_weights(loop.cell))
        given = None if cls is NestedCell else states  # complex gradients differ by convention
        found = [
            backend.differentiate(
                layer, loss, x, given, np.ones(1, DTYPE), mask=masks(time), compiled={}
            )
            for layer in (loop, fast)
        ]
        for (name, want), (_, got) in zip(*(f.items() for f in found), strict=True):
            assert want is not None and np.any(want), name
            np.testing.assert_allclose(
                got, want, rtol=2e-4, atol=2e-4 if DTYPE[5:] == "32" else 1e-9
            )


@pytest.mark.parametrize("masked", [False, True])
def test_blocks_give_what_the_whole_gives(monkeypatch, masked):
    """Memory does not grow with the length where only the last output is wanted."""
    monkeypatch.setattr(engines_backend, "block", 4)
    for cls in CELLS:
        for time, sequences in ((8, False), (11, False), (11, True)):
            loop, fast = pair(cls, time, return_sequences=sequences)
            x, states = draw(loop, time)
            mask = masks(time) if masked else None
            want = loop(x, initial_state=states, mask=mask)
            assert_close(fast(x, initial_state=states, mask=mask), want)


def test_dropout_drops_the_same_elements_at_all_steps():
    loop, fast = pair(DecayCell, 7, dropout=0.5, return_sequences=True)
    x, states = draw(loop, 7)
    again, _ = pair(DecayCell, 7, dropout=0.5, return_sequences=True)  # the seed at its start
    want = again(x, initial_state=states, training=True)
    got = fast(x, initial_state=states, training=True)
    assert_close(got, want)
    assert not np.allclose(to_numpy(got[0]), to_numpy(loop(x, initial_state=states)[0]))


def test_a_stream_of_steps_equals_the_scan():
    for cls in CELLS:
        _, fast = pair(cls, 7, return_sequences=True)
        x, states = draw(fast, 7)
        output, *final = fast(x, initial_state=states)
        for t in range(7):
            y, states = fast.step(x[:, t], states)
            assert_close(y, map_structure(lambda v, t=t: v[:, t], to_numpy(output)))
        assert_close(states if isinstance(states, dict) else list(states), _same(states, final))


def _same(states, final):
    return final[0] if isinstance(states, dict) else final


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow traces unknown lengths")
@pytest.mark.parametrize("sequences", [False, True])
def test_unknown_lengths_down_to_none(sequences):
    import tensorflow as tf

    loop, fast = pair(WindowCell, None, return_sequences=sequences)
    spec = [tf.TensorSpec([None, None, FEATURES], DTYPE), tf.TensorSpec([None, None], "bool")]
    masked = tf.function(lambda x, m: fast(x, mask=m), input_signature=spec)
    plain = tf.function(lambda x: fast(x), input_signature=spec[:1])
    for time in (0, 1, 7):
        x, _ = draw(loop, time)
        assert_close(plain(x), loop(x))
        if time:
            assert_close(masked(x, masks(time)), loop(x, mask=masks(time)))
    assert plain.experimental_get_tracing_count() == 1
    assert fast.engine_report().engine == "scan"


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow traces unknown batches")
def test_blocks_of_an_unknown_batch(monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(engines_backend, "block", 4)
    loop, fast = pair(WindowCell, 11, return_sequences=True)
    spec = [tf.TensorSpec([None, 11, FEATURES], DTYPE), tf.TensorSpec([None, 11], "bool")]
    x, _ = draw(loop, 11)
    masked = tf.function(lambda x, m: fast(x, mask=m, training=True), input_signature=spec)
    assert_close(masked(x, masks(11)), loop(x, mask=masks(11)))


def ordered(a, b, start):
    """Compute a recurrence step by step in NumPy."""
    h, out = start, []
    for t in range(b.shape[1]):
        h = np.broadcast_to(a, b.shape)[:, t] * h + b[:, t]
        out.append(h)
    return np.stack(out, axis=1)


@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("shape", [(2, 1, 4), (1, 1, 4), "full"], ids=str)
def test_the_recurrence_of_long_sequences(kind, shape):
    """Long enough for chunks, in a number of steps that they do not divide."""
    rng = np.random.default_rng(0)

    def draw_numbers(*size):
        x = rng.normal(size=size)
        return x if kind == "real" else x + 1j * rng.normal(size=size)

    time = 131
    a = draw_numbers(*((2, time, 4) if shape == "full" else shape))
    a = a / np.maximum(1.0, np.abs(a))
    b, start = draw_numbers(2, time, 4), draw_numbers(2, 4)
    dtype = DTYPE if kind == "real" else {"float64": "complex128"}.get(DTYPE, "complex64")
    tensors = [ops.convert_to_tensor(v.astype(dtype)) for v in (a, b, start)]
    got = to_numpy(engines_backend.recurrence(*tensors))
    np.testing.assert_allclose(got, ordered(a, b, start), rtol=100 * TOLERANCE, atol=TOLERANCE * 10)
    if BACKEND == "jax":
        from cellkit.engines.jax import recurrence as recurrence_jax

        got = to_numpy(recurrence_jax.tree(*tensors, reverse=False))
        want = ordered(a, b, start)
        np.testing.assert_allclose(got, want, rtol=100 * TOLERANCE, atol=TOLERANCE * 10)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow has a graph for eager calls")
@pytest.mark.parametrize(("shape", "time"), [("full", 1), ("full", 33), ((1, 1, 3), 7)], ids=str)
def test_eager_recurrences_equal_those_of_known_lengths_in_a_graph(shape, time):
    import tensorflow as tf

    rng = np.random.default_rng(2)
    sizes = ((2, time, 3) if shape == "full" else shape, (2, time, 3), (2, 3))
    a, b, start = (tf.constant(0.5 * rng.normal(size=size), DTYPE) for size in sizes)

    def slopes(a, b, start):
        """Return states, their gradients, and the gradients of those."""
        with tf.GradientTape() as outer:
            outer.watch([a, b, start])
            with tf.GradientTape() as inner:
                inner.watch([a, b, start])
                h = engines_backend.recurrence(a, b, start)
                loss = tf.reduce_sum(h**3)
            first = inner.gradient(loss, [a, b, start])
            total = sum(tf.reduce_sum(g**2) for g in first)
        return h, first, outer.gradient(total, [a, b, start])

    got, want = (tf.nest.flatten(f(a, b, start)) for f in (slopes, tf.function(slopes)))
    for ours, theirs in zip(got, want, strict=True):
        assert_close(ours, theirs)


@pytest.mark.skipif(BACKEND != "torch", reason="gradcheck is a tool of PyTorch")
@pytest.mark.parametrize("time", [1, 2, 70])
def test_first_and_second_derivatives_of_the_recurrence(time):
    import torch

    rng = np.random.default_rng(1)

    def leaf(*size):
        x = (rng.normal(size=size) + 1j * rng.normal(size=size)) / 2
        return torch.tensor(x, requires_grad=True)

    arguments = (leaf(1, 1, 2), leaf(1, time, 2), leaf(1, 2))
    assert torch.autograd.gradcheck(engines_backend.recurrence, arguments)
    if time < 70:
        assert torch.autograd.gradgradcheck(engines_backend.recurrence, arguments)


# Cells that the scan does not run -----------------------------------------------------------------


class OwnStepCell(DecayCell):
    def step(self, projected, states):
        return super().step(projected, states)


class NormCell(DecayCell):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.norm = keras.layers.BatchNormalization()

    def project(self, inputs):
        return super().project(self.norm(inputs))


class CountingCell(DecayCell):
    @property
    def state_size(self):
        return cellkit.TensorSpec(self.units, dtype="int32")

    def coefficients(self, projected):
        return 1, ops.ones_like(projected[:, : self.units], "int32")

    def read(self, states, projected):
        return projected


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("cell", "options", "shape", "reason"),
    [
        (OwnStepCell(2), {}, (2, 3, 3), "`step` of its own"),
        (NormCell(2), {}, (2, 3, 3), "a step may update"),
        (CountingCell(2), {}, (2, 3, 3), "neither floating nor complex"),
        (DecayCell(2, zoneout=0.1), {}, (2, 3, 3), "zoneout"),
        (DecayCell(2), {"unroll": True}, (2, 3, 3), "`unroll`"),
        (DecayCell(2), {}, (2, 0, 3), "nothing to compute"),
        (DecayCell(2), {"dtype": "float64"}, (2, 3, 3), "a dtype of its own"),
        (cellkit.create("mgu", units=2), {}, (2, 3, 3), "no `cellkit.LinearCell`"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, keras.layers.Layer) else None,
)
def test_other_layers_are_looped_over_with_a_reason(cell, options, shape, reason):
    layer = cellkit.RNN(cell, **options)
    layer(np.ones(shape))
    report = layer.engine_report()
    assert report.engine != "scan" and reason in report.reasons["scan"]
    named = cellkit.RNN(cell, engine="scan", **options)
    assert reason in raised(named, np.ones(shape))[1]


@pytest.mark.one_backend
def test_coefficients_come_one_per_state():
    class HalfCell(NestedCell):
        def coefficients(self, projected):
            return super().coefficients(projected)[0], projected

    for engine in ("loop", "scan"):
        layer = cellkit.RNN(HalfCell(2), engine=engine)
        what, received, *_ = raised(layer, np.ones((1, 2, FEATURES)))
        assert "a and b" in what and "2 a and 1 b" in received


@pytest.mark.one_backend
def test_there_is_no_recurrent_product_to_drop_from():
    assert "recurrent_dropout=0.2" in raised(DecayCell, 2, recurrent_dropout=0.2)[1]
