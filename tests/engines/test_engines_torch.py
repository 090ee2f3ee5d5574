"""The fused engine of PyTorch: any step that treats rows one by one, recorded once."""

import keras
import numpy as np
import pytest
from cell_numbers import DTYPE, TOLERANCE
from engine_runs import BATCH, FEATURES, MASK, TIME, assert_equal, data, initial, layer_of, npy
from keras import ops

import cellkit
from cellkit.cells import matmul, normalize

if keras.backend.backend() != "torch":
    pytest.skip("other backends' fused engines are others", allow_module_level=True)

import torch  # noqa: E402 - where it is the backend, it is there


class Overridden(cellkit.get("lstm").cls):
    """Takes a step of its own."""

    def step(self, projected, states):
        h, new = super().step(projected, states)
        return 2.0 * h, new


class Summing(cellkit.get("ugrnn").cls):
    """Mixes the units."""

    def combine(self, gates, states):
        h, new = super().combine(gates, states)
        return h - ops.sum(h, axis=-1, keepdims=True) * ops.sum(states[0], axis=1)[:, None], new


class Scaled(cellkit.get("ugrnn").cls):
    """Has a weight beside the three of a gated cell, and keeps one state of two as it was."""

    @property
    def state_size(self):
        return [self.units, self.units]

    def build(self, input_shape):
        super().build(input_shape)
        self.scale = self.add_weight(shape=(1, self.units), name="scale")
        self.fixed = self.add_weight(shape=(self.units,), name="fixed", trainable=False)

    def combine(self, gates, states):
        h, _ = super().combine(gates, states)
        return self.scale * h * states[1] + self.fixed, [h, states[1]]


class Everything(cellkit.Cell):
    """One of each: products in a row, norms, parts, stacks, softmax, and what has no derivative."""

    @property
    def state_size(self):
        return {"a": self.units, "b": 1}

    @property
    def output_size(self):
        return {"y": self.units, "z": self.units}

    def build(self, input_shape):
        super().build(input_shape)
        self.kernel = self.add_kernel((input_shape[-1], 3 * self.units))
        self.recurrent_kernel = self.add_recurrent_kernel((self.units, 3 * self.units))
        self.second = self.add_recurrent_kernel((2 * self.units, self.units), "second")
        self.bias = self.add_bias((self.units,))

    def project(self, inputs):
        return {"x": matmul(inputs, self.kernel), "raw": ops.sum(inputs, axis=-1, keepdims=True)}

    def step(self, projected, states):
        n, (a, b) = self.units, (states["a"], states["b"])
        z = normalize(projected["x"] + matmul(self.drop(a), self.recurrent_kernel), 1e-3)
        u, v, w = z[:, :n], ops.tanh(z[:, n : 2 * n]), z[:, 1 : n + 1]
        wide = ops.concatenate([u * v, ops.where(w > 0.2, w, 0.3 * w)], axis=-1)
        c = ops.leaky_relu(matmul(wide, self.second) + self.bias, negative_slope=0.1)
        shares = ops.softmax(ops.stack([c, v, ops.relu(a) + 0.1 * w], axis=1), axis=1)
        a = ops.sum(shares * ops.stack([a, u, ops.exp(-ops.abs(c))], axis=1), axis=1)
        b = 0.5 * b + ops.sum(a, axis=-1, keepdims=True) * projected["raw"]
        z = ops.stop_gradient(ops.square(u)) * v - w
        return {"y": a / (1.0 + b * b), "z": z}, {"a": a, "b": b}


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
@pytest.mark.parametrize(
    ("cell", "arguments"),
    [
        (Overridden, {}),
        (Summing, {}),
        (Scaled, {}),
        (Everything, {"recurrent_dropout": 0.3, "seed": 2}),
        ("gru", {}),
        ("gru", {"reset_after": False, "dropout": 0.4, "recurrent_dropout": 0.3, "seed": 1}),
        ("lstm", {"activation": "softmax", "recurrent_activation": "hard_sigmoid"}),
        ("lstm", {"zoneout": 0.2}),
        ("peephole_lstm", {"activation": "softsign"}),
        ("lstmp", {"projection_units": 3, "peepholes": True}),
        ("layer_norm_lstm", {}),
        ("layer_norm_lstm", {"form": "tfa"}),
        ("nested_lstm", {"depth": 3}),
        ("nas", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", ""),
)
def test_steps_of_many_kinds(cell, arguments, mask):
    if isinstance(cell, str):
        made = cellkit.create(cell, units=4, dtype=DTYPE, **arguments)
    else:
        made = cell(4, dtype=DTYPE, **arguments)
    training = not made.zoneout  # which is random in training
    x = data((BATCH, TIME, FEATURES))
    for options in (
        {"return_sequences": True},
        {"go_backwards": True},
        {"return_sequences": True, "zero_output_for_mask": True, "truncate_gradient": 4},
    ):
        layer = layer_of(made, **options)
        states = layer.runner.layout.pack(initial(layer))
        assert_equal(layer, "fused", x, states, mask=mask, training=training)


class Drawing(cellkit.get("ugrnn").cls):
    """Draws at every step."""

    def combine(self, gates, states):
        h, new = super().combine(gates, states)
        return h + keras.random.normal(ops.shape(h), seed=self.seed_generator), new


class Counting(cellkit.get("lstm").cls):
    """Adds a loss at every step."""

    def step(self, projected, states):
        output, states = super().step(projected, states)
        self.add_loss(ops.sum(output))
        return output, states


class Centring(cellkit.get("ugrnn").cls):
    """Lets rows see each other."""

    def combine(self, gates, states):
        h, new = super().combine(gates, states)
        return h - ops.sum(h, axis=0), new


class Branching(cellkit.get("ugrnn").cls):
    """Does one thing or another, by the numbers that come."""

    def combine(self, gates, states):
        h, new = super().combine(gates, states)
        return (h if float(h.detach().max()) > 0.5 else -h), new


class Holding(cellkit.get("ugrnn").cls):
    """Uses a tensor that it made before."""

    def combine(self, gates, states):
        h, new = super().combine(gates, states)
        return h * MADE, new


MADE = torch.ones(4)


class Hiding(cellkit.get("ugrnn").cls):
    """Takes a gradient away where no operation shows it."""

    def combine(self, gates, states):
        with torch.no_grad():
            kept = 0.5 * gates["g"]
        h, _ = super().combine(gates, states)
        return h + kept, [h]


class Writing(cellkit.get("ugrnn").cls):
    """Changes a tensor in its place."""

    def combine(self, gates, states):
        h, _ = super().combine(gates, states)
        return h, [h.mul(1.0).add_(1.0)]


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (Drawing(4), "draws random numbers"),
        (cellkit.create("zoneout_lstm", units=4), "draws random numbers"),
        (Counting(4), "adds a loss"),
        (Centring(4), "over the rows"),
        (Branching(4), "executes `max`"),
        (Holding(4), "a tensor other than an input"),
        (Hiding(4), "another gradient"),
        (Writing(4), "writes in place"),
        (keras.layers.LSTMCell(4), "no `cellkit.Cell`"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_other_steps_are_left_to_the_loop(cell, reason):
    layer = cellkit.RNN(cell)
    layer(data((BATCH, TIME, FEATURES), dtype="float32"), training=True)
    report = layer.engine_report()
    assert report.engine in ("projected", "kernel", "loop")
    if report.engine != "kernel":
        assert reason in report.reasons["fused"]


def test_learning_a_step_touches_no_random_generator():
    layer = layer_of(("peephole_lstm", {"units": 4, "recurrent_dropout": 0.3, "seed": 5}))
    before = torch.get_rng_state()
    layer(data((BATCH, TIME, FEATURES)), training=True)
    assert torch.equal(before, torch.get_rng_state())
    # Two words: the seed, and how often numbers were drawn. There is one mask.
    assert npy(layer.cell.seed_generator.state).tolist() == [5, 1]


def test_an_option_that_changes_between_two_calls_is_seen():
    layer = layer_of(("cifg_lstm", {"units": 4}))
    x = data((BATCH, TIME, FEATURES))
    layer(x)
    layer.cell.activation = keras.activations.relu
    assert_equal(layer, "fused", x)


def test_long_sequences_are_differentiated_in_blocks(monkeypatch):
    from cellkit.engines.torch.derive import program as program_torch

    monkeypatch.setattr(program_torch, "_BLOCK", 200)
    for name in ("peephole_lstm", "layer_norm_lstm"):
        layer = layer_of((name, {"units": 4}), return_sequences=True)
        assert_equal(layer, "fused", data((BATCH, TIME, FEATURES)), initial(layer), mask=MASK)
        layer.return_sequences = False
        assert_equal(layer, "fused", data((BATCH, TIME, FEATURES)), initial(layer))


def test_the_gradient_has_a_gradient_with_masks():
    layer = layer_of(("peephole_lstm", {"units": 4}))
    found = []
    for layer.engine in ("loop", "fused"):
        x = torch.tensor(data((BATCH, TIME, FEATURES)), requires_grad=True)
        y = layer(x, mask=MASK)[0]
        (first,) = torch.autograd.grad((y**2).sum(), x, create_graph=True)
        weights = [v.value for v in layer.trainable_variables]
        found.append([npy(g) for g in torch.autograd.grad((first**2).sum(), [x, *weights])])
    for loop, gated in zip(*found, strict=True):
        np.testing.assert_allclose(gated, loop, atol=TOLERANCE * max(1, np.abs(loop).max()))


def test_a_step_is_learnt_once(monkeypatch):
    from cellkit.engines.torch import fused as fused_torch

    learnt, learn = [], fused_torch._learn

    def counted(request):
        learnt.append(request.training)
        return learn(request)

    monkeypatch.setattr(fused_torch, "_learn", counted)
    layer = layer_of(("cifg_lstm", {"units": 4}))
    for training in (False, True, False, True):
        layer(data((BATCH, TIME, FEATURES)), training=training)
    assert learnt == [False, True]


@pytest.mark.parametrize(
    ("name", "policy", "bits"),
    [("peephole_lstm", "mixed_float16", 11), ("mgu", "mixed_bfloat16", 8)],
)
def test_half_precision_rounds_no_more_than_in_the_loop(name, policy, bits):
    cell = cellkit.create(name, units=4, dtype=policy)
    layer = layer_of(cell, return_sequences=True, dtype=policy)
    x = data((BATCH, TIME, FEATURES), dtype="float32")
    # Each of six steps, forward and back, rounds some numbers to one part in 2 ** bits.
    assert_equal(layer, "fused", x, mask=MASK, tolerance=16 * 2.0**-bits)


def test_a_step_that_computes_in_two_dtypes_is_left_to_the_loop():
    # Its norms are those of float32, whatever the policy.
    layer = cellkit.RNN(cellkit.create("layer_norm_lstm", units=4, dtype="mixed_float16"))
    layer.dtype_policy = keras.dtype_policies.get("mixed_float16")
    layer(data((BATCH, TIME, FEATURES), dtype="float32"), training=True)
    report = layer.engine_report()
    assert report.engine in ("projected", "loop")
    assert "dtype" in report.reasons["fused"]


class Normed(cellkit.Cell):
    """Norms with and without scales and shifts, sums of products, and inputs used twice."""

    @property
    def state_size(self):
        return [self.units, self.units]

    def build(self, input_shape):
        super().build(input_shape)
        n = self.units
        self.kernel = self.add_kernel((input_shape[-1], n))
        self.recurrent_kernel = self.add_recurrent_kernel((n, n))
        self.bias = self.add_bias((n,))
        self.scale = self.add_weight(shape=(n,), initializer="normal", name="scale")
        self.shift = self.add_weight(shape=(n,), initializer="normal", name="shift")
        self.wide = self.add_weight(shape=(1, n), initializer="normal", name="wide")

    def project(self, inputs):
        x = matmul(inputs, self.kernel) + self.bias
        return {"x": self.scale * normalize(x, 1e-2) + self.shift, "raw": x}

    def step(self, projected, states):
        h, c = states
        x, raw = projected["x"], projected["raw"]
        u = matmul(h, self.recurrent_kernel)
        whole = torch.nn.functional.layer_norm(
            u, (self.units,), self.scale.value, self.shift.value, 1e-2
        )
        used = normalize(u + raw, 1e-2)
        shared = self.wide * used
        c = used * c + whole * x
        c = c + ops.sigmoid(x) * self.scale  # a product with a weight, which has no rows
        h = ops.tanh(self.shift + normalize(c, 1e-2) * self.scale) + shared * h + raw
        return h, [h + shared, normalize(c, 1e-2) + self.bias]


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
def test_norms_with_weights_and_sums_of_products(mask, monkeypatch):
    from cellkit.engines.torch.derive import program as program_torch

    x = data((BATCH, TIME, FEATURES))
    for block in (program_torch._BLOCK, 1):
        monkeypatch.setattr(program_torch, "_BLOCK", block)
        layer = layer_of(Normed(4, dtype=DTYPE), return_sequences=True)
        assert_equal(layer, "fused", x, initial(layer), mask=mask, training=True)


def test_what_is_projected_follows_the_weights():
    layer = layer_of(Normed(4, dtype=DTYPE), engine="fused")
    x = data((BATCH, TIME, FEATURES))
    for seed in (1, 2):
        for weight in layer.trainable_variables:
            weight.assign(data(weight.shape, seed=seed))
        assert_equal(layer, "fused", x, initial(layer), training=True)


def test_calls_keep_apart_what_they_hold():
    layer = layer_of(("layer_norm_lstm", {"units": 4}), return_sequences=True)
    weights = [v.value for v in layer.trainable_variables]

    def run(rows, seed):
        x = torch.tensor(data((rows, TIME, FEATURES), seed=seed)).requires_grad_()
        loss = sum((y**2).sum() for y in keras.tree.flatten(layer(x, training=True)))
        return loss, [x, *weights]

    alone = [torch.autograd.grad(*run(rows, seed)) for rows, seed in ((2, 1), (5, 2))]
    pending = [run(rows, seed) for rows, seed in ((2, 1), (5, 2))]
    again = [torch.autograd.grad(*pending[i], retain_graph=True) for i in (1, 0)]
    twice = [torch.autograd.grad(*pending[i]) for i in (0, 1)]
    for want, *have in zip(alone, again[::-1], twice, strict=True):
        for grads in have:
            for a, b in zip(want, grads, strict=True):
                np.testing.assert_array_equal(npy(a), npy(b))


class Stopped(torch.autograd.Function):
    """Hands its argument on, and no gradient back."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return None


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_a_kernel_is_differentiated_by_each_result_alone(name):
    layer = layer_of((name, {"units": 4}), return_sequences=True)
    weights = [v.value for v in layer.trainable_variables]
    found = []
    for layer.engine in ("loop", "kernel"):
        x = torch.tensor(data((BATCH, TIME, FEATURES)), requires_grad=True)
        results = keras.tree.flatten(layer(x, training=True))
        factors = [torch.tensor(data(y.shape, seed=i)) for i, y in enumerate(results)]
        for y, factor in zip(results, factors, strict=True):
            found.append(torch.autograd.grad((y * factor).sum(), [x, *weights], retain_graph=True))
    half = len(found) // 2
    for loop, kernel in zip(found[:half], found[half:], strict=True):
        for a, b in zip(loop, kernel, strict=True):
            np.testing.assert_allclose(npy(b), npy(a), atol=TOLERANCE * max(1, a.abs().max()))
    y = Stopped.apply(results[0])
    grads = torch.autograd.grad(y.sum() + (x * 1).sum(), [x, *weights], allow_unused=True)
    np.testing.assert_array_equal(npy(grads[0]), 1.0)
    assert all(g is None for g in grads[1:])


@pytest.mark.parametrize("engine", ["kernel", "fused", "loop"])
@pytest.mark.parametrize("name", ["lstm", "gru"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e21, 1e30, -0.0])
def test_no_arithmetic_touches_a_state_that_is_held(engine, name, value):
    """A row without a step that counts returns the very bits that it was given."""
    cell = cellkit.create(name, units=3)
    layer = cellkit.RNN(cell, return_sequences=True, return_state=True, engine=engine)
    x = np.random.RandomState(0).randn(3, 5, 4).astype("float32")
    layer.build(x.shape)
    starts = [
        torch.tensor(np.random.RandomState(i).randn(3, 3).astype("float32"))
        for i in range(2 if name == "lstm" else 1)
    ]
    for i in range(len(starts)):  # one state at a time is NaN: in the row of no step
        states = [s.clone() for s in starts]
        states[i][1] = value
        states = [s.requires_grad_() for s in states]
        mask = np.array([[1, 1, 0, 1, 0], [0] * 5, [0, 1, 1, 0, 0]], bool)
        y, *new = layer(x, initial_state=states, mask=mask)
        for a, b in zip(new, states, strict=True):
            assert a[1].detach().numpy().tobytes() == b[1].detach().numpy().tobytes()
        assert not y[1].any()
        assert torch.isfinite(y).all()
        if engine == "kernel":  # whose kernel sees nothing of that row
            kernel = cell.recurrent_kernel.value
            gradient = torch.autograd.grad(sum(s.sum() for s in new), kernel)[0]
            assert torch.isfinite(gradient).all()


def test_a_memory_is_held_where_the_output_is_no_number():
    """The output gate is NaN; the memory after the last step that counts is a number."""
    cell = cellkit.create("lstm", units=3)
    x = np.random.RandomState(0).randn(2, 4, 4).astype("float32")
    layers = [cellkit.RNN(cell, return_state=True, engine=e) for e in ("kernel", "loop")]
    for layer in layers:
        layer.build(x.shape)
    bias = np.random.RandomState(1).randn(12).astype("float32")
    bias[-3:] = np.nan
    cell.bias.assign(bias)
    mask = np.array([[1, 0, 0, 0], [1, 1, 0, 1]], bool)
    have, want = (layer(x, mask=mask) for layer in layers)
    for a, b in zip(have, want, strict=True):
        np.testing.assert_allclose(a.detach(), b.detach(), rtol=1e-6)
    assert torch.isfinite(have[2][0]).all()


def test_no_time_step_returns_states_of_its_own():
    """A change of a returned state does not reach the one that was passed."""
    layer = cellkit.RNN(cellkit.create("lstm", units=3), return_state=True)
    starts = [torch.ones(2, 3), torch.ones(2, 3)]
    _, *states = layer(np.zeros((2, 0, 4), "float32"), initial_state=starts)
    for state in states:
        state.zero_()
    assert all(bool((s == 1).all()) for s in starts)
