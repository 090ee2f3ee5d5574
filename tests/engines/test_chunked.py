"""The chunks of matrix states equal the loop: outputs, states, gradients, masks, every length."""

import keras
import numpy as np
import pytest
from against_reference import DTYPE, TOLERANCE, randomise, to_numpy
from engine_runs import assert_equal, npy
from three_parts import raised

import cellkit
from cellkit.cells import matmul, split
from cellkit.engines.backend import backend as engines_backend
from cellkit.engines.shared import at_once, chunked
from cellkit_conformance.subject import backend

BACKEND = keras.backend.backend()
ops = keras.ops
BATCH, FEATURES, HEADS, KEYS, VALUES = 5, 3, 2, 3, 2


class AttentionCell(cellkit.MatrixCell):
    """Queries, keys and values; the others add letters to it."""

    letters = "qkv"

    @property
    def matrix_shape(self):
        return HEADS, KEYS, VALUES

    def build(self, input_shape):
        super().build(input_shape)
        width = HEADS * KEYS * len(self.letters)
        self.kernel = self.add_kernel((input_shape[-1], width))

    def project(self, inputs):
        return matmul(inputs, self.kernel)

    def factors(self, projected):
        parts = split(projected, len(self.letters))
        f = {n: ops.reshape(x, (-1, HEADS, KEYS)) for n, x in zip(self.letters, parts, strict=True)}
        return {**f, "v": f["v"][..., :VALUES]}


class HeadDecayCell(AttentionCell):
    letters = "qkvg"

    def factors(self, projected):
        f = super().factors(projected)
        return {**f, "g": -ops.exp(f["g"][..., :1])}


class FixedDecayCell(AttentionCell):
    """A decay that no input changes."""

    def build(self, input_shape):
        super().build(input_shape)
        self.decay = self.add_weight(shape=(HEADS, 1), name="decay")

    def factors(self, projected):
        return {**super().factors(projected), "g": -ops.softplus(self.decay + 0.0)}


class KeyDecayCell(AttentionCell):
    """A decay for each key, fast for some; the query sees the state before, and a bonus."""

    letters = "qkvg"

    def build(self, input_shape):
        super().build(input_shape)
        self.bonus = self.add_weight(shape=(HEADS, KEYS), name="bonus")

    def factors(self, projected):
        f = super().factors(projected)
        return {**f, "g": -ops.exp(4.0 * f["g"]), "u": self.bonus + 0.0}


class DeltaCell(AttentionCell):
    letters = "qkvp"

    def factors(self, projected):
        f = super().factors(projected)
        p = f["p"] / ops.sqrt(0.1 + ops.sum(f["p"] * f["p"], axis=-1, keepdims=True))
        return {**f, "p": p, "e": -0.9 * p}


class WindowedCell(DeltaCell):
    """All letters but the bonus, from two inputs at once; the output sees the inputs too."""

    letters = "qkvpg"
    window = 2

    @property
    def state_size(self):
        return [super().state_size, cellkit.TensorSpec((1, FEATURES))]

    @property
    def output_size(self):
        return {"a": HEADS * VALUES, "b": 2}

    def build(self, input_shape):
        super().build((None, 2 * input_shape[-1]))

    def project(self, inputs):
        return inputs

    def look(self, window):
        x = ops.reshape(window, (-1, 2 * FEATURES))
        return {"all": matmul(x, self.kernel), "x": window[:, 1]}

    def factors(self, projected):
        f = super().factors(projected["all"])
        return {**f, "g": -ops.softplus(f["g"])}

    def read(self, read, projected):
        return {"a": super().read(read, projected), "b": projected["x"][:, :2]}


CELLS = (AttentionCell, HeadDecayCell, FixedDecayCell, KeyDecayCell, DeltaCell, WindowedCell)
LENGTHS = (1, 2, 7, 21)
if BACKEND != "torch":
    # Every cell and length is traced or compiled anew; all letters are in these.
    CELLS, LENGTHS = (KeyDecayCell, WindowedCell), (7,)


@pytest.fixture(autouse=True)
def _short_chunks(monkeypatch):
    monkeypatch.setattr(chunked, "LONG", 4)
    monkeypatch.setattr(chunked, "SHORT", 3)


def masks(time):
    """Return a mask whose rows are whole, left, right and interior padding, and nothing at all."""
    t = np.arange(time)
    rows = [t >= 0, t >= time // 2, t <= time // 2, (t < 1) | (t > time // 2), t < 0]
    return np.stack(rows)


def pair(cls, time, dropout=0.0, **options):
    """Return the loop and the chunks over one cell with random weights."""
    cell = cls(dtype=DTYPE, dropout=dropout, seed=3)
    layers = [
        cellkit.RNN(cell, return_state=True, dtype=DTYPE, engine=engine, **options)
        for engine in ("loop", "chunked")
    ]
    for layer in layers:
        layer.build((BATCH, time, FEATURES))
    randomise(cell, np.random.default_rng(4))
    return layers


def draw(layer, time, seed=6):
    rng = np.random.default_rng(seed)
    states = to_numpy(layer.get_initial_state(BATCH))
    states = keras.tree.map_structure(lambda s: rng.normal(size=s.shape).astype(s.dtype), states)
    return rng.normal(size=(BATCH, time, FEATURES)).astype(DTYPE), states


def assert_close(got, want):
    got, want = keras.tree.flatten(to_numpy(got)), keras.tree.flatten(to_numpy(want))
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=20 * TOLERANCE, atol=20 * TOLERANCE)


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
def test_chunks_equal_the_loop(cls, masked, options):
    for time in LENGTHS:
        loop, fast = pair(cls, time, **options)
        x, states = draw(loop, time)
        mask = masks(time) if masked else None
        if masked:
            x[~mask] = np.nan
        want = loop(x, initial_state=states, mask=mask)
        assert_close(fast(x, initial_state=states, mask=mask), want)
        assert fast.engine_report().engine == "chunked"


def loss(result, counts):
    """Let each entry count differently, or errors could cancel."""
    total = 0.0
    for number, y in enumerate(keras.tree.flatten(result)):
        angles = np.arange(int(np.prod(y.shape))) * 1.7 + number
        weights = np.cos(angles).reshape(y.shape).astype(DTYPE)
        total = total + ops.sum(y * ops.convert_to_tensor(weights)) * counts[0]
    return total


def gradients(layer, x, states, mask):
    found = backend.differentiate(layer, loss, x, states, np.ones(1, DTYPE), mask=mask, compiled={})
    return dict(found.items())


@pytest.mark.parametrize("cls", CELLS)
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_equal_those_of_the_loop(cls, masked):
    for time in LENGTHS[-2:]:
        loop, fast = pair(cls, time, return_sequences=True)
        x, states = draw(loop, time)
        mask = masks(time) if masked else None
        want, got = (gradients(layer, x, states, mask) for layer in (loop, fast))
        for name, value in want.items():
            assert value is not None and np.any(value), name
            atol = 2e-4 if DTYPE == "float32" else 1e-9
            np.testing.assert_allclose(got[name], value, rtol=2e-4, atol=atol, err_msg=name)


# At the first step and the last, two in a row, at the seams of chunks of 3 and 4 steps and not.
RESETS = np.zeros((BATCH, 7), bool)
RESETS[0, [0, 3]] = RESETS[1, [2, 3, 6]] = RESETS[3, [1, 4]] = RESETS[4, 5] = True


class LearnedStartCell(DeltaCell):
    """Starts from a weight."""

    letters = "qkvpg"

    @property
    def state_size(self):
        shape = super().state_size.shape
        return cellkit.TensorSpec(shape, dtype=DTYPE, initializer="normal", trainable=True)

    def factors(self, projected):
        f = super().factors(projected)
        return {**f, "g": -ops.softplus(f["g"])}


CUT = [(cls, masked) for cls in (*CELLS, LearnedStartCell) for masked in (False, True)]
if BACKEND != "torch":
    CUT = [(KeyDecayCell, False), (WindowedCell, True), (LearnedStartCell, True)]


@pytest.mark.parametrize(("cls", "masked"), CUT)
def test_resets_equal_those_of_the_loop(cls, masked):
    for backwards in (False, True) if BACKEND == "torch" else (masked,):
        _, fast = pair(cls, 7, return_sequences=True, go_backwards=backwards)
        x, states = draw(fast, 7)
        mask = masks(7) if masked else None
        leaves = keras.tree.flatten(states)
        assert_equal(fast, "chunked", x, leaves, mask=mask, resets=RESETS)


@pytest.mark.parametrize("sequences", [False, True])
def test_blocks_give_what_the_whole_gives(monkeypatch, sequences):
    """Memory does not grow with the length where only the last output is wanted."""
    monkeypatch.setattr(engines_backend, "block", 5)
    loop, fast = pair(WindowedCell, 11, return_sequences=sequences)
    x, states = draw(loop, 11)
    want = loop(x, initial_state=states, mask=masks(11))
    assert_close(fast(x, initial_state=states, mask=masks(11)), want)


def test_dropout_drops_the_same_elements_at_all_steps():
    loop, fast = pair(KeyDecayCell, 7, dropout=0.5, return_sequences=True)
    x, states = draw(loop, 7)
    again, _ = pair(KeyDecayCell, 7, dropout=0.5, return_sequences=True)  # the seed at its start
    want = again(x, initial_state=states, training=True)
    got = fast(x, initial_state=states, training=True)
    assert_close(got, want)
    assert not np.allclose(npy(got[0]), npy(loop(x, initial_state=states)[0]))


@pytest.mark.parametrize("cls", [HeadDecayCell, KeyDecayCell][BACKEND != "torch" :])
def test_decays_to_nothing_leave_no_quotient(cls):
    """A state that decays to zero within a step is gone, and its gradients are numbers."""

    class Sudden(cls):
        def factors(self, projected):
            f = super().factors(projected)
            return {**f, "g": 200.0 * f["g"]}

    loop, fast = pair(Sudden, 7, return_sequences=True)
    x, states = draw(loop, 7)
    assert_close(fast(x, initial_state=states), loop(x, initial_state=states))
    want, got = (gradients(layer, x, states, None) for layer in (loop, fast))
    for name, value in want.items():
        assert np.isfinite(got[name]).all(), name
        np.testing.assert_allclose(got[name], value, rtol=2e-4, atol=1e-4, err_msg=name)


def test_a_state_of_float32_under_a_policy_of_16_bits():
    cell = KeyDecayCell(dtype="mixed_bfloat16", seed=1)
    layer = cellkit.RNN(cell, dtype="mixed_bfloat16", return_state=True, engine="chunked")
    x = np.random.default_rng(1).normal(size=(2, 7, FEATURES)).astype("float32")
    output, state = layer(x)
    assert keras.backend.standardize_dtype(output.dtype) == "bfloat16"
    assert keras.backend.standardize_dtype(state.dtype) == "float32"
    loop = cellkit.RNN(cell, dtype="mixed_bfloat16", return_state=True, engine="loop")
    np.testing.assert_allclose(npy(state), npy(loop(x)[1]), rtol=0.02, atol=0.02)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow traces unknown lengths")
def test_unknown_lengths_down_to_none():
    import tensorflow as tf

    loop, fast = pair(KeyDecayCell, None, return_sequences=True)
    spec = [tf.TensorSpec([None, None, FEATURES], DTYPE), tf.TensorSpec([None, None], "bool")]
    masked = tf.function(lambda x, m: fast(x, mask=m), input_signature=spec)
    for time in (0, 1, 7):
        x, _ = draw(loop, time)
        assert_close(masked(x, masks(time)), loop(x, mask=masks(time)))
    assert masked.experimental_get_tracing_count() == 1
    assert fast.engine_report().engine == "chunked"


def test_wide_states_of_a_scan_are_computed_again(monkeypatch):
    """A scan keeps the states between blocks where a state is larger than what makes it."""

    class Outer(cellkit.LinearCell):
        @property
        def state_size(self):
            return cellkit.TensorSpec((self.units, 8), dtype=self.accumulator_dtype)

        @property
        def output_size(self):
            return self.units

        def build(self, input_shape):
            super().build(input_shape)
            self.kernel = self.add_kernel((input_shape[-1], 2 * self.units))
            self.rate = self.add_weight(shape=(8,), name="rate")

        def project(self, inputs):
            return matmul(inputs, self.kernel)

        def coefficients(self, projected):
            u, z = split(projected, 2)
            rate = ops.exp(-ops.softplus(u)[..., None] * ops.softplus(self.rate + 0.0))
            return rate, z[..., None] * (1 - rate)

        def read(self, states, projected):
            return ops.sum(states[0] * states[0], axis=-1) + split(projected, 2)[0]

    monkeypatch.setattr(at_once, "RECOMPUTED", 4)
    asked = []
    own = engines_backend.recomputed
    monkeypatch.setattr(
        type(engines_backend), "recomputed", lambda self, loop: asked.append(1) or own(loop)
    )
    for options in [{"return_sequences": True}, {}][: 2 if BACKEND == "torch" else 1]:
        cell = Outer(4, dtype=DTYPE, dropout=0.2, seed=1)
        loop, fast = (
            cellkit.RNN(cell, dtype=DTYPE, return_state=True, engine=engine, **options)
            for engine in ("loop", "scan")
        )
        loop.build((BATCH, 11, FEATURES))
        fast.build((BATCH, 11, FEATURES))
        randomise(cell, np.random.default_rng(4))
        x, states = draw(loop, 11)
        for mask in (None, masks(11)):
            want, got = (gradients(layer, x, states, mask) for layer in (loop, fast))
            for name, value in want.items():
                assert value is not None and np.any(value), name
                atol = 2e-4 if DTYPE == "float32" else 1e-9
                np.testing.assert_allclose(got[name], value, rtol=2e-4, atol=atol, err_msg=name)
    assert asked


@pytest.mark.skipif(BACKEND != "torch", reason="gradients of gradients, as PyTorch offers them")
@pytest.mark.parametrize("cls", [KeyDecayCell, WindowedCell])
def test_second_gradients(cls):
    import torch

    loop, fast = pair(cls, 7, return_sequences=True)
    x, states = draw(loop, 7)
    found = []
    for layer in (loop, fast):
        leaf = torch.tensor(x, requires_grad=True)
        y = loss(layer(leaf, initial_state=states), torch.ones(1, dtype=leaf.dtype))
        (first,) = torch.autograd.grad((y**2).sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad((first**2).sum(), leaf)
        found.append(second.numpy())
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6, atol=1e-9)


# Cells that are not run in chunks ----------------------------------------------------------------


class OwnStepCell(AttentionCell):
    def advance_states(self, projected, states):
        return super().advance_states(projected, states)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("cell", "options", "reason"),
    [
        (OwnStepCell(), {}, "`advance_states` of its own"),
        (AttentionCell(zoneout=0.1), {}, "zoneout"),
        (AttentionCell(), {"unroll": True}, "`unroll`"),
        (cellkit.create("mgu", units=2), {}, "not a `cellkit.MatrixCell`"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, keras.layers.Layer) else None,
)
def test_other_layers_are_run_otherwise_with_a_reason(cell, options, reason):
    layer = cellkit.RNN(cell, **options)
    layer(np.ones((2, 3, 3)))
    report = layer.engine_report()
    assert report.engine != "chunked" and reason in report.reasons["chunked"]
    named = cellkit.RNN(cell, engine="chunked", **options)
    assert reason in raised(named, np.ones((2, 3, 3)))[1]


@pytest.mark.one_backend
@pytest.mark.parametrize("letters", [{"q", "k"}, {"q", "k", "v", "e"}, {"q", "k", "v", "w"}])
def test_factors_that_make_no_step(letters):
    class Wrong(AttentionCell):
        def factors(self, projected):
            q = super().factors(projected)["q"]
            return {letter: q for letter in letters}

    for engine in ("loop", "auto"):
        what, received, *_ = raised(cellkit.RNN(Wrong(), engine=engine), np.ones((1, 2, FEATURES)))
        assert "make no step" in what and ", ".join(sorted(letters)) in received


@pytest.mark.one_backend
def test_there_is_no_recurrent_product_to_drop_from():
    assert "recurrent_dropout=0.2" in raised(AttentionCell, recurrent_dropout=0.2)[1]
