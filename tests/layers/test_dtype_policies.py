"""Every option under every dtype policy, forwards and backwards: numbers, and their dtypes."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from cell_numbers import DTYPE
from cheap import cheaply
from differences import differentiate, npy
from keras import ops
from portions import pairs

import cellkit
from cellkit.cells import matmul

BACKEND = keras.backend.backend()
POLICIES = ["mixed_bfloat16", "float16", "float32", "mixed_float16", "bfloat16"]
POLICIES += ["float64"] * (DTYPE == "float64")
# Of the largest number in an array: some roundings of the compute dtype, forwards and backwards.
FORWARDS = {"float64": 1e-6, "float32": 2e-6, "float16": 6e-3, "bfloat16": 5e-2}
BACKWARDS = {"float64": 1e-6, "float32": 5e-6, "float16": 1.5e-2, "bfloat16": 1e-1}
BATCH, TIME, FEATURES = 3, 5, 3
MASK = np.array([[1, 1, 0, 1, 1], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]], bool)


@keras.saving.register_keras_serializable(package="cellkit_tests")
class Meter(cellkit.Cell):
    """Has states with dtypes of their own: a counter, a wide sum, a phase that is complex."""

    @property
    def state_size(self):
        own = [cellkit.TensorSpec((), "int32"), cellkit.TensorSpec((self.units,), "float32")]
        return [self.units, *own, cellkit.TensorSpec((self.units,), "complex64")]

    @property
    def output_size(self):
        wide = cellkit.TensorSpec((self.units,), "float32")
        return {"h": self.units, "sum": wide, "angle": wide}

    def build(self, shape):
        super().build(shape)
        self.kernel = self.add_kernel((shape[-1], self.units))
        self.recurrent_kernel = self.add_kernel((self.units, self.units))
        self.bias = self.add_bias((self.units,))

    def project(self, inputs):
        return matmul(inputs, self.kernel) + self.bias.value

    def step(self, projected, states):
        h, count, total, phase = states
        slower = ops.cast(1 / (1 + ops.cast(count, "float32")), h.dtype)
        h = ops.tanh(projected + matmul(h, self.recurrent_kernel) * slower[:, None])
        total = total + ops.cast(h, "float32")
        phase = phase * complex(0.8, 0.3) + ops.cast(h, "complex64")
        outputs = {"h": h, "sum": total, "angle": ops.real(phase) * ops.imag(phase)}
        return outputs, [h, count + 1, total, phase]


@keras.saving.register_keras_serializable(package="cellkit_tests")
class Steered(keras.layers.Layer):
    """A cell of Keras' kind that takes constants, and has a layer inside."""

    state_size = 4
    output_size = 4

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = keras.layers.Dense(4, bias_initializer="normal", dtype=self.dtype_policy)

    def build(self, shape):
        self.inner.build((shape[0], shape[-1] + 4))
        self.built = True

    def call(self, inputs, states, constants=None):
        steer = keras.tree.flatten(constants)[0]
        h = ops.tanh(self.inner(ops.concatenate([inputs, states[0] * steer], axis=-1)))
        return h, [h]


def meter(policy):
    return Meter(4, dtype=policy)


def named(name, **options):
    return lambda policy: cellkit.create(name, units=4, dtype=policy, **options)


def stack(policy):
    return cellkit.StackedCells([named("lstm")(policy), meter(policy)], dtype=policy)


GATED, LINEAR, COMPLEX = named("lstm"), named("min_gru"), named("lru")
SEQUENCES = {"return_sequences": True}
# The cell, options and arguments that a layer is made and called with.
CASES = {
    "plain": (meter, {}, {}),
    "sequences": (meter, SEQUENCES, {}),
    "unroll": (meter, {**SEQUENCES, "unroll": True}, {}),
    "unroll-2": (meter, {**SEQUENCES, "unroll": 2}, {}),
    "remat": (meter, {**SEQUENCES, "remat": True}, {}),
    "remat-3-mask": (meter, {**SEQUENCES, "remat": 3}, {"mask": MASK}),
    "remat-unroll": (GATED, {"remat": True, "unroll": True}, {}),
    "remat-constants": (Steered, {**SEQUENCES, "remat": 2}, {"constants": True}),
    "remat-linear": (LINEAR, {"remat": True}, {"mask": MASK}),
    "remat-complex": (COMPLEX, {"remat": 2}, {}),
    "remat-stack": (stack, {"remat": 2}, {}),
    "truncate": (meter, {**SEQUENCES, "truncate_gradient": 2}, {}),
    "truncate-remat": (meter, {"truncate_gradient": 3, "remat": 2}, {"mask": MASK}),
    "stateful": (meter, {**SEQUENCES, "stateful": True}, {}),
    "stateful-remat": (GATED, {"stateful": True, "remat": True}, {"mask": MASK}),
    "stateful-complex": (COMPLEX, {"stateful": True}, {}),
    "backwards": (meter, {**SEQUENCES, "go_backwards": True}, {"mask": MASK}),
    "mask": (meter, SEQUENCES, {"mask": MASK}),
    "mask-zero": (meter, {**SEQUENCES, "zero_output_for_mask": True}, {"mask": MASK}),
    "lengths": (meter, SEQUENCES, {"lengths": np.array([5, 2, 0])}),
    "constants": (Steered, SEQUENCES, {"constants": True}),
    "stack": (stack, SEQUENCES, {"mask": MASK}),
    "engine-loop": (GATED, {**SEQUENCES, "engine": "loop"}, {"mask": MASK}),
    "engine-projected": (GATED, {**SEQUENCES, "engine": "projected"}, {"mask": MASK}),
    "engine-fused": (GATED, {**SEQUENCES, "engine": "fused"}, {"mask": MASK}),
    "engine-stack": (stack, {**SEQUENCES, "engine": "stack"}, {"mask": MASK}),
    "engine-scan": (LINEAR, {**SEQUENCES, "engine": "scan"}, {"mask": MASK}),
    "engine-scan-complex": (COMPLEX, {**SEQUENCES, "engine": "scan"}, {"mask": MASK}),
    "both-ways": (meter, {**SEQUENCES, "both": "concat"}, {"mask": MASK}),
    "both-ways-remat": (GATED, {"both": "ave", "remat": 2}, {"mask": MASK}),
    "both-ways-stateful": (COMPLEX, {"both": "sum", "stateful": True}, {}),
}


# On TensorFlow also in a graph, where these take other ways than in eager calls.
IN_GRAPHS = [c for c in CASES if c.startswith(("remat", "truncate", "stateful", "engine", "stack"))]
# Options that change no number: the results are those of a layer without.
WAYS = ("engine", "remat", "unroll")


def layer_for(case, policy, plain):
    """Return a layer with the same random weights under every policy."""
    make, options, _ = CASES[case]
    options = {k: v for k, v in options.items() if not (plain and k in WAYS)}
    both = options.pop("both", None)
    cell = make(policy) if make is not Steered else Steered(dtype=policy)
    layer = cellkit.RNN(cell, return_state=True, dtype=policy, **options)
    if both:
        layer = cellkit.Bidirectional(layer, merge_mode=both, dtype=policy)
    layer.build((BATCH, TIME, FEATURES))
    rng = np.random.default_rng(3)
    for weight in layer.weights:
        if weight.dtype != "uint32":
            weight.assign(0.1 + 0.4 * rng.normal(size=weight.shape))
    return layer


@functools.cache
def run(case, policy, compiled=False, plain=False):
    """Return results and gradients, and the symbolic dtypes of the results."""
    call = dict(CASES[case][2])
    layer = layer_for(case, policy, plain)
    rng = np.random.default_rng(5)
    tensors = [rng.normal(size=(BATCH, TIME, FEATURES)).astype("float32")]
    if call.pop("constants", None):
        tensors.append(rng.normal(size=(BATCH, 4)).astype("float32"))

    def apply(x, *constants):
        extra = {"constants": list(constants)} if constants else {}
        if layer.stateful:
            layer(x, **call, **extra)
        return keras.tree.flatten(layer(x, **call, **extra))

    results, grads = differentiate(layer, apply, tensors, compiled)
    specs = [keras.KerasTensor(t.shape, dtype="float32") for t in tensors]
    mask = {k: keras.KerasTensor(v.shape, dtype=str(v.dtype)) for k, v in call.items()}
    constants = {"constants": specs[1:]} if specs[1:] else {}
    symbolic = keras.tree.flatten(layer(specs[0], **mask, **constants))
    return results, grads, [s.dtype for s in symbolic]


def assert_close(have, want, tolerance, name):
    if have is None or want is None:
        # Weights that are connected nowhere may have zeros for a gradient.
        assert not np.any(have or 0) and not np.any(want or 0), name
        return
    wide = "complex128" if np.iscomplexobj(want) else "float64"
    have, want = have.astype(wide), want.astype(wide)
    scale = max(0.1, np.abs(want).max(initial=0))
    np.testing.assert_allclose(have, want, rtol=0, atol=tolerance * scale, err_msg=name)


@pytest.mark.parametrize(("case", "policy"), pairs(list(CASES), POLICIES))
def test_an_option_keeps_its_numbers_and_dtypes(case, policy):
    # An eager call on TensorFlow refuses this engine.
    check(case, policy, compiled=case == "engine-fused")


@pytest.mark.skipif(BACKEND != "tensorflow", reason="there is one way on this backend")
@pytest.mark.parametrize("case", IN_GRAPHS)
def test_an_option_keeps_its_numbers_and_dtypes_in_a_graph(case):
    check(case, "mixed_bfloat16", compiled=True)


def check(case, policy, compiled):
    results, grads, symbolic = run(case, policy, compiled)
    wants, want_grads, _ = run(case, DTYPE, plain=True)
    assert [keras.backend.standardize_dtype(y.dtype) for y in results] == symbolic
    compute = keras.DTypePolicy(policy).compute_dtype
    for i, (have, want) in enumerate(zip(results, wants, strict=True)):
        assert_close(npy(have), npy(want), FORWARDS[compute], f"result {i}")
    assert grads.keys() == want_grads.keys()
    for name, want in want_grads.items():
        assert_close(grads[name], want, BACKWARDS[compute], name)
    assert any(np.any(g) for g in grads.values() if g is not None)


class Thinning(cellkit.Cell):
    """Has a layer inside that works in training alone, and that is not told of it."""

    def __init__(self, units, **kwargs):
        super().__init__(units, **kwargs)
        self.inner = Halving(dtype=self.dtype_policy)

    def step(self, projected, states):
        h = ops.tanh(self.inner(projected) + 0.5 * states[0])
        return h, [h]


class Halving(keras.layers.Layer):
    def call(self, x, training=False):
        return 0.5 * x if training else x


@pytest.mark.parametrize("engine", ["loop", "fused"])
def test_a_second_run_trains_as_the_first_did(engine):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(BATCH, TIME, FEATURES)).astype("float32")
    both = []
    for remat in (False, 2) if engine == "loop" or BACKEND == "torch" else (False,):
        layer = cellkit.RNN(Thinning(FEATURES), engine=engine, remat=remat)
        layer.build(x.shape)
        apply = lambda x: [layer(x, training=True)]  # noqa: E731, B023
        _, grads = differentiate(layer, apply, [x], compiled=True)
        both.append(grads["argument 0"])
    plain = cellkit.RNN(Thinning(FEATURES), engine="loop", unroll=True)
    plain.build(x.shape)
    _, grads = differentiate(plain, lambda x: [plain(x, training=True)], [x], compiled=True)
    for have in both:
        assert_close(have, grads["argument 0"], 1e-5, engine)


class Precise(cellkit.Cell):
    """Has a layer of float32 inside, whatever its own policy says."""

    def build(self, shape):
        super().build(shape)
        self.inner = keras.layers.Dense(self.units, dtype="float32", bias_initializer="normal")
        self.inner.build((None, self.units))

    def project(self, inputs):
        return inputs * 1

    def step(self, projected, states):
        wide = self.inner(ops.cast(projected, "float32") + ops.cast(states[0], "float32"))
        h = ops.cast(ops.tanh(wide), self.compute_dtype)
        return h, [h]


@pytest.mark.parametrize("options", [{}, {"remat": 2}, {"engine": "projected"}])
def test_a_layer_inside_keeps_its_own_dtype(options):
    """A weight rounded to the policy of the cell around it would show in the last digits."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(BATCH, 1, FEATURES)).astype("float32")
    layer = cellkit.RNN(Precise(FEATURES, dtype="mixed_bfloat16"), dtype="mixed_bfloat16")
    layer = cellkit.RNN(layer.cell, dtype="mixed_bfloat16", **options)
    layer.build(x.shape)
    kernel = rng.normal(size=(FEATURES, FEATURES)).astype("float32")
    layer.cell.inner.kernel.assign(kernel)
    rounded = npy(ops.cast(x, "bfloat16"))
    _, grads = differentiate(layer, lambda x: [layer(x, training=True)], [x])
    wide = rounded[:, 0] @ kernel + npy(layer.cell.inner.bias.value)
    factors = np.random.default_rng(50).normal(size=(BATCH, FEATURES)).astype("float32")
    want = rounded[:, 0].T @ (npy(ops.cast(factors, "bfloat16")) * (1 - np.tanh(wide) ** 2))
    [found] = [g for g in grads.values() if g is not None and g.shape == kernel.shape]
    assert_close(found, want, 1e-2, "kernel")
    have = npy(layer(x)).astype("float32")
    np.testing.assert_array_equal(have, npy(ops.cast(np.tanh(wide), "bfloat16")))
    layer.engine, layer.remat = "fused", False
    with pytest.raises(ValueError, match="dtype of its own|is eager"):
        layer(np.ones((BATCH, TIME, FEATURES), "float32"))


@pytest.mark.skipif(BACKEND != "jax" or DTYPE == "float64", reason="the others have float64 anyway")
def test_float64_where_jax_has_it():
    words = ["-m", "pytest", __file__, "-q", "-k", "float64", "-p", "no:cacheprovider"]
    environment = {**os.environ, **cheaply(), "JAX_ENABLE_X64": "1"}
    environment.pop("PYTEST_XDIST_WORKER", None)
    done = subprocess.run(
        [sys.executable, *words],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
