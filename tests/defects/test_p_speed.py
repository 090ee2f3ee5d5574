"""Table P of docs/keras-defects.md: speed and memory, by counting: never by the clock."""

import weakref

import keras
import numpy as np
import pytest
from defect_classes import RNN, Bidirectional, gru, lstm, lstm_cell
from defect_tools import (
    BACKEND,
    MASK,
    TanhCell,
    WideCell,
    built,
    close,
    data,
    loop,
    npy,
    randomise,
    serializable,
    tanh_step,
    wide_step,
)
from keras import ops

only_jax = pytest.mark.skipif(BACKEND != "jax", reason="about JAX' compiler")
only_torch = pytest.mark.skipif(BACKEND != "torch", reason="about Torch's eager loop")
only_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="about tf.function")
eager_loop = pytest.mark.skipif(BACKEND == "jax", reason="JAX traces the step, once")


@serializable
class Counting(TanhCell):
    """Counts how often Python runs its step, and how often by way of `Layer.__call__`."""

    def __init__(self, units, **kwargs):
        super().__init__(units, **kwargs)
        self.calls = 0
        self.layer_calls = 0

    def __call__(self, *args, **kwargs):
        self.layer_calls += 1
        return super().__call__(*args, **kwargs)

    def call(self, inputs, states):
        self.calls += 1
        return super().call(inputs, states)


def counted(layer, cell, *args, **kwargs):
    """Count the calls of the cell in one call of the layer: in all, and by `Layer.__call__`."""
    cell.calls = cell.layer_calls = 0
    layer(*args, **kwargs)
    return cell.calls, cell.layer_calls


@eager_loop
@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_p1_no_layer_call_per_step(masked, unroll):
    """TF, Torch: `Layer.__call__` at every step."""
    cell = Counting(4)
    layer = built(RNN(cell, unroll=unroll), 3, 5, 3)
    mask = MASK if masked else None
    assert counted(layer, cell, data(3, 5, 3), mask=mask) == (5, 0)


@pytest.fixture
def compilations():
    """A list that grows by one with every compilation of XLA."""
    import jax

    seen = []

    def listener(event, duration, **kwargs):
        if "backend_compile" in event:
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listener)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listener)


EAGER = {
    "custom": lambda: RNN(WideCell(4)),
    "sequences": lambda: RNN(TanhCell(4), return_sequences=True, return_state=True),
    "lstm": lambda: lstm(4),
    "dropout": lambda: lstm(4, dropout=0.3, recurrent_dropout=0.3),
    "stateful": lambda: RNN(TanhCell(4), stateful=True),
    "stack": lambda: RNN([lstm_cell(4), TanhCell(4)]),
    "bidirectional": lambda: Bidirectional(RNN(TanhCell(4))),
}


@only_jax
@pytest.mark.parametrize(
    ("name", "masked"), [*((n, False) for n in EAGER), ("custom", True), ("stateful", True)]
)
def test_p2_a_second_eager_call_compiles_nothing(name, masked, compilations):
    """JAX: compiles the scan in every eager call."""
    layer = built(EAGER[name](), 3, 5, 3)
    x = ops.convert_to_tensor(data(3, 5, 3))
    mask = ops.convert_to_tensor(MASK) if masked else None

    def call():
        return layer(x, mask=mask, training=name == "dropout")

    call()
    call()  # a stateful layer's first call differs from the others
    assert compilations, "the listener hears nothing"
    del compilations[:]
    for _ in range(3):
        call()
    assert compilations == []


@only_jax
def test_p2_other_weights_compile_nothing(compilations):
    """JAX: compiles in every eager call."""
    layer = built(RNN(TanhCell(4)), 3, 5, 3)
    x = ops.convert_to_tensor(data(3, 5, 3))
    layer(x)
    randomise(layer, seed=2)
    layer(x)
    randomise(layer, seed=3)
    del compilations[:]
    y = layer(x)
    assert compilations == []
    _, last, _ = loop(tanh_step(layer.cell), npy(x), [np.zeros((3, 4))])
    close(y, last)


@only_tensorflow
def test_p2_one_graph_serves_all_lengths():
    """Keras is right here: a model of unknown length is traced for it once."""
    cell = Counting(4)
    layer = RNN(cell)
    model = keras.Sequential([keras.Input((None, 3)), layer])
    randomise(model)
    for time in (5, 7):  # the second length makes the traced one unknown
        model.predict(data(3, time, 3), verbose=0)
    cell.calls = 0
    for time in (9, 2, 30):
        x = data(3, time, 3)
        _, last, _ = loop(tanh_step(cell), x, [np.zeros((3, 4))])
        close(model.predict(x, verbose=0), last)
    assert cell.calls == 0


def temporary_bytes(layer, batch, time, features, masked):
    """The working memory of the compiled inference pass."""
    import jax

    trainable = [v.value for v in layer.trainable_variables]
    other = [v.value for v in layer.non_trainable_variables]

    def function(x, mask):
        kwargs = {"mask": mask} if masked else {}
        return layer.stateless_call(trainable, other, x, training=False, **kwargs)[0]

    x = jax.ShapeDtypeStruct((batch, time, features), "float32")
    mask = jax.ShapeDtypeStruct((batch, time), "bool")
    return jax.jit(function).lower(x, mask).compile().memory_analysis().temp_size_in_bytes


@only_jax
@pytest.mark.parametrize(
    ("name", "masked"),
    [
        ("custom", False),
        ("custom", True),
        ("lstm", False),
        ("gru", False),
        ("stack", True),
        ("cellkit lstm", False),
    ],
)
def test_p3_last_output_needs_no_memory_per_step(name, masked):
    """JAX: keeps the outputs of all steps, the GRU six times as much."""
    import cellkit

    batch, units, features = 8, 64, 2
    layer = {
        "custom": lambda: RNN(TanhCell(units)),
        "lstm": lambda: lstm(units),
        "gru": lambda: gru(units),
        "stack": lambda: RNN([lstm_cell(units), TanhCell(units)]),
        "cellkit lstm": lambda: RNN(cellkit.create("lstm", units=units)),
    }[name]()
    layer.build((batch, None, features))
    short, long = (temporary_bytes(layer, batch, t, features, masked) for t in (200, 1200))
    # A transposed copy of the inputs and of the mask may be there, of the outputs it may not.
    inputs = batch * (features * 4 + masked * 4)
    outputs = batch * units * 4
    assert (long - short) / 1000 < inputs * 2 + 8 < outputs / 4


@eager_loop
@pytest.mark.parametrize("masked", [False, True])
def test_p3_last_output_keeps_no_other_outputs(masked):
    """TF, Torch: keep the outputs of all steps."""
    alive = []

    class Watched(TanhCell):
        def call(self, inputs, states):
            h, [new] = super().call(inputs, states)
            output = h + 1
            alive.append([r for r in watched if r() is not None])
            watched.append(weakref.ref(output))
            return output, [new]

    watched = []
    layer = built(RNN(Watched(4)), 3, 30, 3)
    mask = np.tile(MASK, (1, 6)) if masked else None
    x = data(3, 30, 3)
    watched.clear()
    alive.clear()
    if BACKEND == "torch":
        import torch

        with torch.no_grad():
            layer(x, mask=mask)
    else:
        layer(x, mask=mask)
    assert len(alive) == 30
    assert max(len(a) for a in alive) <= 2


def primitives(jaxpr, found=None):
    """The names of all primitives in a jaxpr, however deep."""
    import jax

    found = [] if found is None else found
    for equation in jaxpr.eqns:
        found.append(equation.primitive.name)
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                primitives(inner, found)
    return found


def traced(layer, time=5, **kwargs):
    """The primitives that the layer traces to."""
    import jax

    trainable = [v.value for v in layer.trainable_variables]
    other = [v.value for v in layer.non_trainable_variables]

    def function(x):
        return layer.stateless_call(trainable, other, x, **kwargs)[0]

    return primitives(jax.make_jaxpr(function)(ops.convert_to_tensor(data(3, time, 3))).jaxpr)


def loops_in(names):
    return [n for n in names if n in ("scan", "while")]


def counting(cell):
    """A subclass of a stock cell that counts its calls in `seen`."""

    class CountingStock(cell):
        def call(self, *args, **kwargs):
            self.seen.append(1)
            return super().call(*args, **kwargs)

    return CountingStock


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_p4_a_mask_costs_no_other_path(name):
    """Torch, JAX: a mask leaves the fast path; here both take the same loop."""
    stock = {"lstm": keras.layers.LSTMCell, "gru": keras.layers.GRUCell}[name]
    cell = counting(stock)(4)
    cell.seen = []
    layer = built(RNN(cell), 3, 5, 3)
    x = data(3, 5, 3)
    close(layer(x, mask=np.ones((3, 5), bool)), npy(layer(x)), 1e-6)
    if BACKEND == "jax":
        plain, masked = traced(layer), traced(layer, mask=ops.convert_to_tensor(MASK))
        assert len(loops_in(plain)) == len(loops_in(masked)) == 1
        assert plain.count("dot_general") == masked.count("dot_general")
        return
    for mask in (None, MASK):
        del cell.seen[:]
        layer(x, mask=mask)
        assert len(cell.seen) == 5


@eager_loop
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("time", [1, 4])
def test_p5_a_step_runs_once(time, training):
    """TF, Torch: T+1 calls, T+2 in a stack, two for a single step."""
    x = data(2, time, 3)
    cell = Counting(4)
    layer = built(RNN(cell), 2, time, 3)
    assert counted(layer, cell, x, training=training)[0] == time
    below, above = Counting(4), Counting(4)
    layer = built(RNN([below, above]), 2, time, 3)
    assert counted(layer, below, x, training=training)[0] == time
    assert counted(layer, above, x, training=training)[0] == time


@only_tensorflow
def test_p6_an_eager_call_traces_no_function():
    """TF: the eager loop calls the cell by way of `Layer.__call__` at every step."""
    import tensorflow as tf

    cell = Counting(4)
    layer = built(RNN(cell), 2, 5, 3)
    traces = []

    @tf.function
    def function(x):
        traces.append(1)
        return layer(x)

    x = ops.convert_to_tensor(data(2, 5, 3))
    first = function(x)
    in_graph = cell.calls
    for _ in range(3):
        close(function(x), npy(first))
    assert len(traces) == 1
    # The step is traced into the loop's body, not once per time step.
    assert in_graph <= 5
    assert counted(layer, cell, x) == (5, 0)


@only_jax
def test_p7_last_output_is_not_stacked():
    """JAX: all outputs are stacked by the scan and thrown away."""
    import jax

    layer = built(RNN(WideCell(4)), 3, 5, 3)
    trainable = [v.value for v in layer.trainable_variables]
    jaxpr = jax.make_jaxpr(lambda x: layer.stateless_call(trainable, [], x)[0])(
        ops.convert_to_tensor(data(3, 5, 3))
    )
    assert "f32[5,3,8]" not in str(jaxpr)
    assert "f32[3,5,8]" not in str(jaxpr)


@pytest.mark.parametrize(
    ("unroll", "masked"),
    [(1, False), (2, True), (3, False), (3, True), (5, False), (8, True), (True, False)],
)
def test_p8_unroll_by_a_factor(unroll, masked):
    """All backends: `unroll=8` is accepted and means True."""
    layer = built(RNN(WideCell(4), unroll=unroll, return_sequences=True), 3, 5, 3)
    x, mask = data(3, 5, 3), MASK if masked else None
    sequence, _, _ = loop(wide_step(layer.cell), x, [np.zeros((3, 4))], mask)
    close(layer(x, mask=mask), sequence)
    if BACKEND == "jax":
        assert bool(loops_in(traced(layer, time=20))) == (unroll is not True)


@pytest.mark.parametrize("unroll", [0, -1, 2.5, "yes", None])
def test_p8_other_values_of_unroll_are_refused(unroll):
    """All backends: accepted."""
    with pytest.raises(ValueError, match="(?s)Received.*Expected.*How to fix"):
        RNN(TanhCell(4), unroll=unroll)


def test_p8_a_factor_serves_an_unknown_length():
    """All backends: 'Cannot unroll a RNN if the time dimension is undefined'."""
    layer = RNN(TanhCell(4), unroll=4)
    model = keras.Sequential([keras.Input((None, 3)), layer])
    randomise(model)
    for time in (3, 4, 9):
        x = data(2, time, 3)
        _, last, _ = loop(tanh_step(layer.cell), x, [np.zeros((2, 4))])
        close(model.predict(x, verbose=0), last)


@pytest.mark.slow
@only_torch
@pytest.mark.xfail(
    tuple(map(int, keras.__version__.split(".")[:2])) < (3, 15),
    reason="before 3.15, what Keras does with structures can't be traced",
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("name", "masked"), [("custom", True), ("lstm", False)])
def test_p9_torch_compile_finds_one_graph(name, masked):
    """Torch: 6 graph breaks, 8 to 10 with a mask."""
    import torch
    import torch._dynamo

    layer = built(RNN(TanhCell(4)) if name == "custom" else lstm(4), 3, 5, 3)
    x = ops.convert_to_tensor(data(3, 5, 3))
    mask = ops.convert_to_tensor(MASK) if masked else None
    expected = npy(layer(x, mask=mask))
    torch._dynamo.reset()
    # A graph break is an error with `fullgraph`.
    run = torch.compile(lambda x: layer(x, mask=mask), backend="eager", fullgraph=True)
    with torch.no_grad():
        close(run(x), expected)
    torch._dynamo.reset()


@only_torch
@pytest.mark.parametrize("name", ["custom", "dropout", "stateful", "stack"])
@pytest.mark.parametrize("masked", [False, True])
def test_p10_the_loop_reads_no_number_back(masked, name):
    """Torch: the loop counter is a tensor; on a device each look at it waits for the device."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Reads(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.found = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            name = str(function)
            if "_local_scalar_dense" in name or "nonzero" in name or "aten.equal" in name:
                self.found.append(name)
            return function(*args, **(kwargs or {}))

    layer = built(EAGER[name](), 3, 5, 3)
    x, mask = ops.convert_to_tensor(data(3, 5, 3)), ops.convert_to_tensor(MASK)
    mask = mask if masked else None
    layer(x, mask=mask, training=True)
    with Reads() as reads:
        layer(x, mask=mask, training=True)
    assert reads.found == []
    with Reads() as reads:
        x.sum().item()
    assert reads.found, "the mode sees nothing"
