"""The cells for nested inputs: numbers against plain NumPy loops, structures, errors, saving."""

import collections
import json

import keras
import numpy as np
import pytest
from three_parts import raised

import cellkit
from cellkit.registry import cell_weights, export_weights, import_weights, set_cell_weights
from cellkit_nested import GatedFusionCell, NestedCell

B, T = 3, 5
Watch = collections.namedtuple("Watch", "vector matrix")


def values(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype("float32")


def randomise(cell, seed=1):
    """Give every weight and bias of a built cell values of its own."""
    rng = np.random.default_rng(seed)
    weights = {k: rng.normal(size=w.shape) * 0.6 for k, w in cell_weights(cell).items()}
    set_cell_weights(cell, weights)
    return weights


def numpy(tree):
    return keras.tree.map_structure(keras.ops.convert_to_numpy, tree)


def assert_close(actual, expected):
    actual, expected = numpy(actual), numpy(expected)
    keras.tree.assert_same_structure(actual, expected)
    for a, e in zip(keras.tree.flatten(actual), keras.tree.flatten(expected), strict=True):
        assert a.shape == e.shape
        np.testing.assert_allclose(a, e, rtol=2e-5, atol=2e-5)


def where(keep, new, old):
    def one(n, o):
        return np.where(keep.reshape(-1, *[1] * (n.ndim - 1)), n, o)

    return keras.tree.map_structure(one, new, old)


def loop(step, inputs, states, mask=None):
    """Run a NumPy step over time as the layer should: outputs of all steps, and final states."""
    y, outputs = None, []
    for t in range(T):
        x = keras.tree.map_structure(lambda leaf, t=t: leaf[:, t].astype("float64"), inputs)
        out, new = step(x, states)
        y = keras.tree.map_structure(np.zeros_like, out) if y is None else y
        keep = np.ones(B, bool) if mask is None else mask[:, t]
        states, y = where(keep, new, states), where(keep, out, y)
        outputs.append(y)
    return keras.tree.map_structure(lambda *ys: np.stack(ys, axis=1), *outputs), states


def layer_of(cell, inputs, **options):
    layer = cellkit.RNN(cell, return_sequences=True, return_state=True, **options)
    layer.build(shapes(inputs))
    return layer, randomise(cell)


def shapes(inputs):
    if isinstance(inputs, dict):
        return type(inputs)((k, shapes(v)) for k, v in inputs.items())
    if hasattr(inputs, "_fields"):
        return type(inputs)(*map(shapes, inputs))
    if isinstance(inputs, (list, tuple)):
        return type(inputs)(map(shapes, inputs))
    return inputs.shape


VECTOR, MATRIX = values(B, T, 3), values(B, T, 4, 2)
MASK = np.array([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1], [0, 0, 0, 0, 0]], bool)


# --- NestedCell(unit_1, unit_2, unit_3) --------------------------------------------------------

PAIRS = {
    "list": [VECTOR, MATRIX],
    "tuple": (VECTOR, MATRIX),
    "dict": {"location": VECTOR, "pressure": MATRIX},
    "dict with the matrix first": {"audio": MATRIX, "video": VECTOR},
    "list with the matrix first": [MATRIX, VECTOR],
    "namedtuple": Watch(VECTOR, MATRIX),
    "nested": {"watch": {"wrist": [VECTOR], "ankle": (MATRIX,)}},
}


@pytest.mark.parametrize(
    ("inputs", "mask"),
    [(PAIRS["tuple"], None), *((inputs, MASK) for inputs in PAIRS.values())],
    ids=["no mask", *PAIRS],
)
def test_guide_cell_equals_its_einsum_for_every_structure(inputs, mask):
    layer, w = layer_of(NestedCell(6, 2, 5), inputs)
    start = [values(B, 6, seed=8), values(B, 2, 5, seed=9)]

    def step(x, states):
        x1, x2 = x
        o1 = np.einsum("bi,ij->bj", x1, w["kernel_1"])
        o2 = np.einsum("bij,ijkl->bkl", x2, w["kernel_2_3"])
        return (o1, o2), [states[0] + o1, states[1] + o2]

    outputs, states = loop(step, (VECTOR, MATRIX), start, mask)
    assert_close(layer(inputs, initial_state=start, mask=mask), (outputs, *states))


def test_guide_cell_has_the_weights_and_sizes_of_the_guide():
    cell = NestedCell(10, 20, 30)
    assert cell.state_size == [10, (20, 30)]
    cell.build([(None, 32), (None, 64, 32)])
    assert {k: w.shape for k, w in cell_weights(cell).items()} == {
        "kernel_1": (32, 10),
        "kernel_2_3": (64, 32, 20, 30),
    }


def test_output_of_the_last_step_is_what_it_contributes_not_the_sum():
    inputs = [VECTOR, MATRIX]
    layer = cellkit.RNN(NestedCell(6, 2, 5))
    layer.build(shapes(inputs))
    kernel = randomise(layer.cell)["kernel_1"]
    np.testing.assert_allclose(
        numpy(layer(inputs))[0], VECTOR[:, -1] @ kernel, rtol=1e-4, atol=1e-5
    )


# --- NestedCell(units=...) ---------------------------------------------------------------------

FRAMES, SOUND, POSE = values(B, T, 4, 3, 2), values(B, T, 5), values(B, T, 2, 2)

GENERAL = {
    "dict": ({"video": (2, 3), "audio": 4}, {"video": FRAMES, "audio": SOUND}),
    "list": ([4, (3, 1)], [SOUND, POSE]),
    "tuple of vectors": ((4, 3), (SOUND, POSE)),
    "one": (4, POSE),
    "rank 3 out": ({"audio": (2, 1, 3)}, {"audio": SOUND}),
    "deeper": (
        {"av": {"video": (2, 3), "audio": 4}, "pose": [(2, 2), 3]},
        {"av": {"video": FRAMES, "audio": SOUND}, "pose": [POSE, SOUND]},
    ),
    "namedtuple inputs": ([4, 3], Watch(SOUND, POSE)),
    "ordered dict": ({"b": 2, "a": 3}, collections.OrderedDict(b=SOUND, a=POSE)),
}


@pytest.mark.parametrize(
    ("units", "inputs", "bias"),
    [(*GENERAL["deeper"], True), *((*case, False) for case in GENERAL.values())],
    ids=["tanh with bias", *GENERAL],
)
def test_general_cell_contracts_every_modality_at_its_place(units, inputs, bias):
    cell = NestedCell(units=units, use_bias=bias, activation="tanh" if bias else None)
    layer, w = layer_of(cell, inputs)
    outputs, *states = numpy(layer(inputs, mask=MASK))
    by_path, sums = paths(outputs), paths(_alone(cell, states))
    assert paths(inputs).keys() == by_path.keys() == sums.keys()
    for path, x in paths(inputs).items():
        name = "_".join(map(str, path)) or "input"
        kernel, b = w[f"kernel_{name}"], w.get(f"bias_{name}", 0)
        rank = x.ndim - 2

        def step(x, states, kernel=kernel, b=b, rank=rank):
            o = np.tensordot(x, kernel, axes=rank) + b
            o = np.tanh(o) if bias else o
            return o, states + o

        expected, total = loop(step, x, np.zeros((B, *kernel.shape[rank:])), MASK)
        assert_close(by_path[path], expected)
        assert_close(sums[path], total)


def paths(tree, prefix=()):
    """Return the leaves of a tree by the keys and positions that lead to them."""
    if not isinstance(tree, (dict, list, tuple)):
        return {prefix: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {p: leaf for key, v in items for p, leaf in paths(v, (*prefix, key)).items()}


def _alone(cell, states):
    """Return the states in the structure of the inputs; a layer hands on a list as its entries."""
    if isinstance(cell.units, dict):
        return states[0]
    return states[0] if isinstance(cell.units, int) else states


def test_outputs_and_states_have_the_structure_of_units():
    units, inputs = GENERAL["deeper"]
    layer, _ = layer_of(NestedCell(units=units), inputs)
    outputs, states = layer(inputs)
    assert {k: type(v) for k, v in outputs.items()} == {"av": dict, "pose": tuple}
    assert tuple(states["av"]["video"].shape) == (B, 2, 3)
    assert tuple(outputs["pose"][0].shape) == (B, T, 2, 2)


def test_a_dict_may_be_passed_in_any_order():
    layer, _ = layer_of(NestedCell(units={"x": 2, "a": 3}), {"x": SOUND, "a": SOUND})
    other = values(B, T, 5, seed=5)
    one, two = layer({"x": SOUND, "a": other})[0], layer({"a": other, "x": SOUND})[0]
    assert_close(one, two)
    assert not np.allclose(numpy(one["a"])[..., :2], numpy(one["x"]))


# --- GatedFusionCell ---------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def fusion_step(w, count, units, relu=False):
    """Return one step of the gated fusion cell, written with slices of its weights."""
    f = (lambda x: np.maximum(x, 0)) if relu else np.tanh

    def block(name, i):
        return w[name][..., i * units : (i + 1) * units]

    names = [k for k in w if k.startswith("encoder_")]

    def step(x, states):
        h = states[0]
        flat = [leaf.reshape(B, -1) for leaf in x]
        x = np.concatenate(flat, axis=1)
        pre = [
            x @ block("kernel", i) + h @ block("recurrent_kernel", i) + block("bias", i)
            for i in range(2 + count)
        ]
        z, r = sigmoid(pre[0]), sigmoid(pre[1])
        a = np.exp(pre[2:]) / np.exp(pre[2:]).sum(axis=0)
        n = r * (h @ block("recurrent_kernel", -1 % (3 + count)) + block("bias", 2 + count))
        for m in range(count):
            n = n + a[m] * f(flat[m] @ w[names[m]] + w["encoding_bias"][m])
        h = z * h + (1 - z) * f(n)
        return {"gates": a.swapaxes(0, 1), "output": h}, [h]

    return step


FUSED = {
    "dict": ({"acc": SOUND, "gyro": POSE}, [SOUND, POSE]),
    "dict in another order": ({"gyro": SOUND, "acc": POSE}, [POSE, SOUND]),
    "tuple": ((FRAMES, SOUND, POSE), [FRAMES, SOUND, POSE]),
    "nested": ({"b": [SOUND, FRAMES], "a": POSE}, [POSE, SOUND, FRAMES]),
    "one": (POSE, [POSE]),
}


@pytest.mark.parametrize(
    ("inputs", "order", "mask"),
    [(*FUSED["tuple"], None), *((*case, MASK) for case in FUSED.values())],
    ids=["no mask", *FUSED],
)
def test_fusion_cell_equals_its_equations_for_every_structure(inputs, order, mask):
    layer, w = layer_of(GatedFusionCell(4, return_gates=True), inputs)
    start = [values(B, 4, seed=8)]
    outputs, states = loop(fusion_step(w, len(order), 4), order, start, mask)
    assert_close(layer(inputs, initial_state=start, mask=mask), (outputs, *states))


def test_gates_are_shares_and_returning_them_changes_no_number():
    inputs = {"acc": SOUND, "gyro": POSE}
    layer, w = layer_of(GatedFusionCell(4, return_gates=True), inputs)
    plain, _ = layer_of(GatedFusionCell(4), inputs)
    set_cell_weights(plain.cell, w)
    out, state = layer(inputs)
    assert tuple(out["gates"].shape) == (B, T, 2, 4)
    np.testing.assert_allclose(numpy(out["gates"]).sum(axis=2), 1, rtol=1e-5)
    assert numpy(out["gates"]).std() > 0.05
    assert_close(plain(inputs), (out["output"], state))


def test_gates_see_the_state():
    inputs = {"acc": SOUND, "gyro": POSE}
    layer, _ = layer_of(GatedFusionCell(4, return_gates=True), inputs)
    one = layer(inputs, initial_state=[values(B, 4, seed=1)])[0]["gates"]
    two = layer(inputs, initial_state=[values(B, 4, seed=2)])[0]["gates"]
    assert np.abs(numpy(one) - numpy(two))[:, 0].max() > 0.01


@pytest.mark.parametrize("rate", ["dropout", "recurrent_dropout", "zoneout"])
def test_randomness_of_the_base_class_reaches_the_fusion_cell(rate):
    inputs = {"acc": SOUND, "gyro": POSE}
    layer, _ = layer_of(GatedFusionCell(16, seed=3, **{rate: 0.5}), inputs)
    still, again = layer(inputs)[0], layer(inputs)[0]
    assert_close(still, again)
    one, two = layer(inputs, training=True)[0], layer(inputs, training=True)[0]
    assert not np.allclose(numpy(one), numpy(two))
    assert not np.allclose(numpy(one), numpy(still))


@pytest.mark.slow
def test_fusion_cell_learns_from_both_modalities():
    # The label is the product of a sign in one modality and a sign in the other, at other steps.
    rng = np.random.default_rng(0)
    a, b = rng.choice([-1.0, 1.0], size=(2, 256))
    inputs = {"a": rng.normal(size=(256, 4, 2)) * 0.1, "b": rng.normal(size=(256, 4, 3)) * 0.1}
    inputs["a"][:, 0, 0] += a
    inputs["b"][:, 2, 1] += b
    labels = (a * b > 0).astype("float32")[:, None]
    steps = {k: keras.Input((4, v.shape[-1]), name=k) for k, v in inputs.items()}
    h = cellkit.RNN(GatedFusionCell(16))(steps)
    model = keras.Model(steps, keras.layers.Dense(1, activation="sigmoid")(h))
    model.compile(keras.optimizers.Adam(0.03), "binary_crossentropy", metrics=["accuracy"])
    model.fit(inputs, labels, epochs=25, batch_size=64, verbose=0)
    assert model.evaluate(inputs, labels, verbose=0)[1] > 0.95


# --- both ------------------------------------------------------------------------------------

CELLS = {
    "guide": lambda **kw: NestedCell(4, 2, 3, **kw),
    "named": lambda **kw: NestedCell(units={"location": (2, 3), "pressure": 4}, **kw),
    "fusion": lambda **kw: GatedFusionCell(4, **kw),
    "fusion with gates": lambda **kw: GatedFusionCell(4, return_gates=True, **kw),
}
SIGNALS = {"location": VECTOR, "pressure": MATRIX}


@pytest.mark.parametrize("make", CELLS.values(), ids=CELLS)
def test_padding_may_hold_anything(make):
    layer, _ = layer_of(make(), SIGNALS)
    poisoned = {k: x.copy() for k, x in SIGNALS.items()}
    poisoned["location"][~MASK] = np.nan
    poisoned["pressure"][~MASK] = np.inf
    assert_close(layer(poisoned, mask=MASK), layer(SIGNALS, mask=MASK))


@pytest.mark.parametrize("make", CELLS.values(), ids=CELLS)
def test_integer_inputs_are_cast(make):
    whole = {k: np.round(x * 3).astype("int32") for k, x in SIGNALS.items()}
    layer, _ = layer_of(make(), SIGNALS)
    assert_close(layer(whole), layer({k: x.astype("float32") for k, x in whole.items()}))


@pytest.mark.parametrize("make", CELLS.values(), ids=CELLS)
def test_float64_stays_float64(make, backend):
    if backend == "jax":
        pytest.skip("JAX computes in float32 unless the process was started otherwise")
    layer, _ = layer_of(make(dtype="float64"), SIGNALS, dtype="float64")
    for x in keras.tree.flatten(layer({k: x.astype("float64") for k, x in SIGNALS.items()})):
        assert keras.backend.standardize_dtype(x.dtype) == "float64"


@pytest.mark.parametrize("make", CELLS.values(), ids=CELLS)
def test_a_saved_model_gives_the_same_numbers(make, tmp_path):
    steps = {k: keras.Input((None, *x.shape[2:]), name=k) for k, x in SIGNALS.items()}
    layer = cellkit.RNN(make(dropout=0.1, zoneout=0.2), return_sequences=True)
    model = keras.Model(steps, layer(steps))
    randomise(layer.cell)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    # A model that is loaded may return a list for a tuple.
    assert_close(keras.tree.flatten(loaded(SIGNALS)), keras.tree.flatten(model(SIGNALS)))


@pytest.mark.parametrize("make", CELLS.values(), ids=CELLS)
def test_a_cell_survives_its_config_as_json(make):
    cell = make(dropout=0.25, seed=7, name="cell")
    config = cell.get_config()
    again = type(cell).from_config(json.loads(json.dumps(config)))
    assert json.dumps(again.get_config()) == json.dumps(config)
    assert again.state_size == cell.state_size


@pytest.mark.one_backend
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("make", CELLS.values(), ids=CELLS)
def test_symbols_of_the_equations_go_both_ways(make, bias):
    layer, weights = layer_of(make(use_bias=bias), SIGNALS)
    symbols = export_weights(layer.cell)
    other, _ = layer_of(make(use_bias=bias), SIGNALS)
    randomise(other.cell, seed=2)
    import_weights(other.cell, symbols)
    for name, value in cell_weights(other.cell).items():
        np.testing.assert_allclose(value, weights[name], rtol=1e-6)


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"unit_1": 3},
        {"unit_1": 3, "unit_2": 4},
        {"unit_1": 3, "unit_2": 4, "unit_3": 5, "units": {"a": 3}},
        {"unit_2": 4, "units": 3},
    ],
)
def test_nested_cell_needs_three_units_or_a_structure(arguments):
    what, received, expected, fix = raised(NestedCell, **arguments)
    assert "either" in what
    assert all(f"{k}={v!r}" in received for k, v in arguments.items())


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "arguments",
    [
        {"unit_1": 0, "unit_2": 4, "unit_3": 5},
        {"unit_1": 3, "unit_2": 4, "unit_3": 2.5},
        {"units": {"a": -1}},
        {"units": {"a": (4, 0)}},
        {"units": {"a": "big"}},
        {"units": {}},
        {"units": []},
    ],
)
def test_nested_cell_rejects_sizes_that_are_none(arguments):
    what, received, expected, fix = raised(NestedCell, **arguments)
    assert "not a positive integer" in what


def test_misspelt_option():
    *_, fix = raised(GatedFusionCell, 4, return_gate=True)
    assert "return_gates" in fix


@pytest.mark.parametrize(
    "inputs",
    [
        [VECTOR, VECTOR],
        [MATRIX, MATRIX],
        [VECTOR, MATRIX, VECTOR],
        VECTOR,
        {"video": FRAMES, "audio": SOUND},
    ],
    ids=["two vectors", "two matrices", "three", "one", "a volume"],
)
def test_guide_cell_takes_a_vector_and_a_matrix(inputs):
    what, received, expected, fix = raised(cellkit.RNN(NestedCell(4, 2, 3)), inputs)
    assert "a vector and a matrix" in what
    assert (
        f"(batch, {', '.join(map(str, np.shape(keras.tree.flatten(inputs)[0])[2:]))})" in received
    )
    assert "units=" in fix


@pytest.mark.parametrize(
    "inputs",
    [
        {"video": FRAMES},
        {"video": FRAMES, "sound": SOUND},
        {"video": FRAMES, "audio": SOUND, "pose": POSE},
        {"video": FRAMES, "audio": [SOUND]},
        [FRAMES, SOUND],
        SOUND,
    ],
    ids=["missing", "other key", "one too many", "deeper", "list", "one"],
)
def test_inputs_have_the_structure_of_units(inputs):
    cell = NestedCell(units={"video": (2, 3), "audio": 4})
    what, received, expected, fix = raised(cellkit.RNN(cell), inputs)
    assert "structure of its units" in what
    assert "'audio': 4" in expected


@pytest.mark.parametrize("make", CELLS.values(), ids=CELLS)
def test_sizes_must_be_known(make):
    steps = {"location": keras.Input((None, 3)), "pressure": keras.Input((None, 4, None))}
    what, received, expected, fix = raised(cellkit.RNN(make()), steps)
    assert received == "one step of pressure: (batch, 4, None)"


@pytest.mark.parametrize("make", CELLS.values(), ids=CELLS)
def test_numbers_without_an_axis(make):
    what, received, expected, fix = raised(
        cellkit.RNN(make()), {"location": values(B, T), "pressure": MATRIX}
    )
    assert received == "one step of location: (batch)"
    assert "[..., None]" in fix


@pytest.mark.parametrize("make", CELLS.values(), ids=CELLS)
def test_a_built_cell_called_with_other_sizes(make):
    layer, _ = layer_of(make(), SIGNALS)
    cell = layer.cell
    states = cell.get_initial_state(batch_size=B)
    before = numpy(cell({k: x[:, 0] for k, x in SIGNALS.items()}, states))
    what, received, expected, fix = raised(
        cell, {"location": values(B, 3), "pressure": values(B, 4, 5)}, states
    )
    assert "was built for" in what
    assert received == "(batch, 3), (batch, 4, 5)"
    assert expected == "location: (batch, 3), pressure: (batch, 4, 2)"
    assert_close(cell({k: x[:, 0] for k, x in SIGNALS.items()}, states), before)
