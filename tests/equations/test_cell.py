"""Cells that are made of equations: constructor, weights, engines, saving, dropout, errors."""

import copy
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from cell_numbers import DTYPE, TOLERANCE
from three_parts import parts, raised

import cellkit
from cellkit.equations.cell import LinearEquationCell

LIGRU = """
    z  = s(W_z @ x + U_z @ h + b_z)          update gate
    n  = relu(W_n @ x + U_n @ h + b_n)       candidate
    h' = z * h + (1 - z) * n
"""

OPTIONS = """
    leaky = 0.5
    repeat depth: h := tanh(U @ h + b)
    form="a": z = s(W_z @ x + b_z)
    form="b": z = s(W_z @ x)
    h' = leaky * h + (1 - leaky) * (P @ z) * dt * alpha
"""


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def values(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(DTYPE)


def test_weights_lie_side_by_side_in_the_order_of_the_text():
    cell = cellkit.define("LiGRUCell", LIGRU)(4)
    cell.build((None, 3))
    assert [(w.name, tuple(w.shape)) for w in cell.weights] == [
        ("kernel", (3, 8)),
        ("recurrent_kernel", (4, 8)),
        ("bias", (8,)),
    ]
    symbols = cellkit.export_weights(cell)
    assert list(symbols) == ["W_z", "W_n", "U_z", "U_n", "b_z", "b_n"]
    np.testing.assert_array_equal(symbols["W_n"], numpy(cell.kernel)[:, 4:])


def test_weights_of_other_operands_have_their_letters():
    text = (
        "q = tanh(P @ (r * h) + V @ c + b)\nr = s(A @ x + B @ h)\nc' = W_c @ [x; q] + p * c\nh' = q"
    )
    cell = cellkit.define("OtherCell", text)(4)
    cell.build((None, 3))
    shapes = {w.name: tuple(w.shape) for w in cell.weights}
    assert shapes == {
        "kernel": (3, 4),
        "recurrent_kernel": (4, 8),
        "V": (4, 4),
        "W_c": (7, 4),
        "bias": (4,),
        "p": (4,),
    }


@pytest.mark.one_backend
def test_options_numbers_and_sizes_are_arguments():
    cls = cellkit.define(
        "OptionsCell",
        OPTIONS,
        inputs=("x", "dt"),
        sizes={"z": "width", "alpha": ()},
        initializers={"alpha": 0.3, "b": "ones"},
    )
    cell = cls(4, depth=3, form="b", leaky=0.25, width=6)
    config = cell.get_config()
    assert (config["depth"], config["form"], config["leaky"], config["width"]) == (3, "b", 0.25, 6)
    again = cls.from_config(config)
    assert again.get_config() == config
    again.build(((None, 3), (None, 1)))
    assert numpy(again.equation_weights["alpha"]) == pytest.approx(0.3)
    assert {tuple(w.shape) for w in again.weights} == {(3, 6), (4, 4), (6, 4), (4,), ()}
    for wrong in ({"form": "c"}, {"leaky": "1"}, {"width": 0}, {"depth": 0}, {"unknown": 1}):
        raised(cls, 4, **{"depth": 2, **wrong})
    with pytest.raises(ValueError):
        cls(4)  # how often to repeat is not known
    raised(again.build, ((None, 3), (None, 2)))
    raised(cls(4, depth=1).build, (None, 3))


@pytest.mark.one_backend
def test_a_trainable_number_is_a_weight():
    text = "beta = 0.75\nh' = s(W @ x) + beta * h"
    cell = cellkit.define("DecayCell", text, trainable=("beta",))(4, beta=0.5)
    cell.build((None, 3))
    assert numpy(cell.equation_weights["beta"]) == 0.5
    assert len(cell.trainable_variables) == 2


@pytest.mark.one_backend
def test_errors_of_definitions():
    raised(cellkit.define, "no name", LIGRU)
    raised(cellkit.define, "Name", LIGRU, package="no name")
    raised(cellkit.define, "Name", "dropout = 0.5\nh' = dropout * (W @ x)")
    raised(cellkit.define, "Name", LIGRU, initializers={"W_q": "ones"})
    raised(cellkit.EquationCell, 4)
    cls = cellkit.define("Name", LIGRU)
    parts_of = raised(cls, 4, activation="elu")
    assert "do not apply `activation`" in parts_of[0]
    raised(cellkit.define("Name", "h' = W @ x + 0.5 * h"), 4, recurrent_dropout=0.5)
    with pytest.raises(ValueError) as caught:
        type("Bad", (cellkit.EquationCell,), {"equations": "h' = foo(x)"})
    parts(caught.value)
    with pytest.raises(ValueError) as caught:

        class Declared(cellkit.EquationCell, sizes={"P": 3}):
            pass

    parts(caught.value)
    with pytest.raises(ValueError) as caught:

        class Unknown(cellkit.EquationCell, size={"P": 3}):
            equations = LIGRU

    parts(caught.value)


@pytest.mark.one_backend
def test_inputs_as_wide_as_the_states():
    cell = cellkit.define("LifCell", "u' = 0.5 * u + x\ny = 1[u' > 0.5]")(4)
    assert "4 features" in raised(cell.build, (None, 3))[2]
    cell.build((None, 4))
    assert cell.output_size == 4


@pytest.mark.one_backend
def test_sizes_that_are_not_whole():
    text = "chunk = 2\nm = W_m @ x\nh' = tanh(repeat(m, chunk) + U @ h)"
    cell = cellkit.define("ChunkCell", text)(5)
    assert "not a positive integer" in raised(cell.build, (None, 3))[0]


class LSTMPCell(cellkit.EquationCell, sizes={"P": "projection_units"}):
    """An LSTM with a projection.

    Args:
        units: Number of units.
    """

    equations = """
    i, f, o = s(W @ x + U @ h + b)
    g = tanh(W_g @ x + U_g @ h + b_g)
    c' = f * c + i * g
    h' = P @ (o * tanh(c'))
    """


@pytest.mark.one_backend
def test_a_class_in_a_file_says_its_equations():
    assert "    i, f, o = s(W @ x + U @ h + b)" not in LSTMPCell.__doc__
    head, _, rest = LSTMPCell.__doc__.partition("Args:")
    assert "\n```\ni, f, o = s(W @ x + U @ h + b)\n" in head and "units: Number" in rest
    assert LSTMPCell(4, projection_units=3).state_size == [3, 4]
    assert LSTMPCell(4).output_size == 4
    assert "equations" not in LSTMPCell(4).get_config()


def test_a_defined_cell_trains_with_all_that_cells_have():
    cls = cellkit.define("LiGRUCell", LIGRU, package="my_lab")
    cell = cls(
        6,
        dropout=0.2,
        recurrent_dropout=0.2,
        zoneout=0.1,
        kernel_regularizer="l2",
        recurrent_constraint="max_norm",
        seed=3,
    )
    model = keras.Sequential([keras.Input((5, 3)), cellkit.RNN(cell), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    x, y = values(0, 8, 5, 3), values(1, 8, 1)
    before = model.evaluate(x, y, verbose=0)
    model.fit(x, y, epochs=3, verbose=0)
    assert model.evaluate(x, y, verbose=0) < before


def compiled(layer):
    """Return a call in training, as `fit` makes it: on TensorFlow compiled."""

    def call(x, mask):
        return layer(x, mask=keras.ops.convert_to_tensor(mask), training=True)

    if keras.backend.backend() != "tensorflow":
        return call
    import tensorflow

    return tensorflow.function(call)


@pytest.mark.parametrize(
    ("text", "linear"),
    [(LIGRU, False), ("z = s(W_z @ x + b_z)\nh' = z * h + (1 - z) * tanh(W_n @ x + b_n)", True)],
)
def test_engines_agree(text, linear):
    cls = cellkit.define("EngineCell", text)
    assert issubclass(cls, LinearEquationCell) == issubclass(cls, cellkit.LinearCell) == linear
    cell = cls(4, dtype=DTYPE, bias_initializer="random_normal")
    x, mask = values(2, 3, 7, 5), np.random.default_rng(3).random((3, 7)) > 0.3
    names = ["loop", "projected", "scan" if linear else "fused"]
    found = {}
    for name in names:
        layer = cellkit.RNN(cell, return_sequences=True, engine=name, dtype=DTYPE)
        found[name] = numpy(compiled(layer)(keras.ops.convert_to_tensor(x), mask))
        assert layer.engine_report().engine == name
    for name in names[1:]:
        np.testing.assert_allclose(found[name], found["loop"], rtol=0, atol=TOLERANCE)


STANDARD = {
    "lstm": """
        q = s(A @ x + B @ h + d)
        f = s(W_f @ x + U_f @ h + b_f)
        h' = s(W_o @ x + U_o @ h + b_o) * tanh(c')
        c' = q * tanh(W_g @ x + U_g @ h + b_g) + c * f
    """,
    "gru": """
        r = s(W_r @ x + U_r @ h + b_r)
        z = s(W_z @ x + U_z @ h + b_z)
        n = tanh(W_n @ x + b_n + r * (U_n @ h + b_hn))
        h' = (1 - z) * n + h * z
    """,
}


@pytest.mark.parametrize("kind", STANDARD)
@pytest.mark.parametrize("use_bias", [True, False])
def test_texts_of_standard_cells_get_the_frameworks_kernels(kind, use_bias):
    cls = cellkit.define("StandardCell", STANDARD[kind])
    cell = cls(4, dtype=DTYPE, use_bias=use_bias, bias_initializer="random_normal")
    x = values(4, 3, 7, 5)
    outputs = []
    for engine in ("auto", "loop"):
        layer = cellkit.RNN(cell, return_sequences=True, engine=engine, dtype=DTYPE)
        outputs.append(numpy(layer(x)))
        if keras.backend.backend() == "torch" and engine == "auto":
            assert layer.engine_report().engine == "kernel"
    np.testing.assert_allclose(*outputs, rtol=0, atol=TOLERANCE)
    found = cell.standard()
    assert (found.kind, found.recurrent_bias is not None) == (kind, use_bias and kind == "gru")


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "text",
    [
        STANDARD["lstm"].replace("c * f", "c * q + 0 * f"),
        STANDARD["lstm"].replace("tanh(c')", "c'"),
        STANDARD["gru"].replace("(1 - z) * n + h * z", "(1 - z) * h + n * z"),
        STANDARD["gru"].replace("r * (U_n @ h + b_hn)", "U_n @ (r * h) + b_hn"),
        STANDARD["lstm"].replace("B @ h", "U_f @ h"),
        STANDARD["gru"] + "\n y = 2 * h'",
    ],
)
def test_other_texts_are_not_taken_for_standard_cells(text):
    text = "\n".join(line.strip() for line in text.splitlines())
    assert cellkit.define("OtherCell", text)(4).standard() is None


def test_a_copy_has_weights_of_its_own():
    cell = cellkit.define("LiGRUCell", LIGRU)(4, dtype=DTYPE)
    layer = cellkit.RNN(cell, dtype=DTYPE)
    x = values(5, 2, 4, 3)
    before = numpy(layer(x))
    other = copy.deepcopy(layer)
    other.cell.kernel.assign(2 * numpy(other.cell.kernel))
    np.testing.assert_array_equal(numpy(layer(x)), before)
    assert np.abs(numpy(other(x)) - before).max() > 1e-3


def test_a_saved_model_loads_where_its_cell_was_never_defined(tmp_path):
    cls = cellkit.define(
        "SavedCell",
        OPTIONS,
        package="my_lab",
        inputs=("x", "dt"),
        sizes={"z": "width", "alpha": ()},
        initializers={"alpha": 0.3},
    )
    inputs = [keras.Input((5, 3)), keras.Input((5, 1))]
    layer = cellkit.RNN(cls(4, depth=2, form="b", width=6), return_sequences=True)
    model = keras.Model(inputs, layer(inputs))
    x = [values(6, 2, 5, 3).astype("float32"), values(7, 2, 5, 1).astype("float32")]
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "numbers.npz", *x, y=model.predict(x, verbose=0))
    program = f"""
import json, keras, numpy as np, cellkit
model = keras.saving.load_model({str(tmp_path / "model.keras")!r})
numbers = np.load({str(tmp_path / "numbers.npz")!r})
y = model.predict([numbers["arr_0"], numbers["arr_1"]], verbose=0)
cell = model.layers[-1].cell
name = keras.saving.get_registered_name(type(cell))
print(json.dumps([float(np.abs(y - numbers["y"]).max()), cell.form, cell.width, name]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr[-2000:]
    difference, form, width, name = json.loads(done.stdout.strip().splitlines()[-1])
    assert (form, width, name) == ("b", 6, "my_lab>SavedCell")
    assert difference < 1e-6


@pytest.mark.one_backend
def test_a_saved_cell_of_other_equations_is_refused():
    config = cellkit.define("LiGRUCell", LIGRU)(4).get_config()
    changed = cellkit.define("LiGRUCell", LIGRU.replace("relu", "tanh"))
    assert "other equations" in raised(changed.from_config, config)[0]
    same = cellkit.define("LiGRUCell", LIGRU.replace("update gate", "another remark"))
    assert same.from_config(config).units == 4


@pytest.mark.one_backend
def test_nothing_of_a_text_is_executed(tmp_path):
    marker = tmp_path / "made"
    for text in (
        f"h' = __import__('pathlib').Path({str(marker)!r}).touch()",
        f"h' = open({str(marker)!r}, 'w')",
        f"h' = x  # {{__import__('os').system('touch {marker}')}}",
        "h' = x.__class__.__mro__",
        "h' = (lambda: x)()",
        "h' = eval(x)",
        "h' = __builtins__",
    ):
        try:
            cellkit.define("EvilCell", text)(4).build((None, 4))
        except ValueError as error:
            parts(error)
    assert not marker.exists()


@pytest.mark.one_backend
def test_a_spec_has_cases_symbols_and_traits():
    spec = cellkit.define("LiGRUCell", LIGRU).spec
    assert spec.inputs == ("features",)
    assert set(spec.cases) == {"default", "no_bias", "activations", "dropout"}
    assert spec.traits == {"masking", "stateful", "dropout", "recurrent_dropout", "zoneout"}
    cell = cellkit.define("LiGRUCell", LIGRU)(4, use_bias=False)
    cell.build((None, 3))
    symbols = cellkit.export_weights(cell)
    assert not symbols["b_z"].any() and symbols["b_z"].shape == (4,)
    cellkit.import_weights(cell, symbols)
    raised(cellkit.import_weights, cell, {**symbols, "b_n": np.ones(4)})
    raised(cellkit.import_weights, cell, {k: v for k, v in symbols.items() if k != "U_z"})
    raised(cellkit.import_weights, cell, {**symbols, "q": np.ones(4)})


@pytest.mark.one_backend
def test_weights_behind_a_split_may_be_given_by_their_parts():
    cls = cellkit.define("SplitCell", "i, f = split(W @ x + U @ h + b)\nh' = s(i) * h + tanh(f)")
    cell = cls(4)
    cell.build((None, 3))
    rng = np.random.default_rng(8)
    shapes = {"W": (3, 4), "U": (4, 4), "b": (4,)}
    given = {f"{n}_{g}": rng.normal(size=s) for n, s in shapes.items() for g in "if"}
    cellkit.import_weights(cell, given)
    whole = cellkit.export_weights(cell)
    np.testing.assert_allclose(
        whole["W"], np.concatenate([given["W_i"], given["W_f"]], axis=1), rtol=1e-6
    )


# Easily forgotten: numbers in functions, states of other sizes, outputs of a single number.
ODD = [
    ("p' = x\nh' = tanh(W @ x + U @ p + V @ h)", {}),
    ("t' = t + 1\nh' = tanh(W @ x + U @ h) * t", {"sizes": {"t": 1}}),
    ("h' = tanh(W @ x + U @ h)\ny = mean(h')", {}),
    ("h' = s(0.3) * tanh(U @ h) + max(W @ x, 0.5) * exp(-2)", {}),
    ("h' = clip(W @ x + U @ h, -1, 1) ^ 3 + 2 ^ (V @ x) / pi", {}),
    ("open = W @ x > 0 and not V @ x > 1\nh' = 1[open or h > 0] * h + tanh(U @ h) / 2", {}),
    ("h' = tanh(b_1 + b_2) * where(1 > 2, x, 0.5) + alpha", {}),
    ("h', c' = split(tanh(W @ x + U @ [h; c])) ", {}),
]


@pytest.mark.parametrize(("text", "declared"), ODD)
def test_odd_texts_compute_what_they_say(text, declared):
    cls = cellkit.define("OddCell", text, **declared)
    cell = cls(4, dtype=DTYPE)
    layer = cellkit.RNN(cell, return_sequences=True, dtype=DTYPE)
    x = values(9, 2, 3, 3)
    layer.build(x.shape)
    rng = np.random.default_rng(10)
    layer.set_weights([rng.normal(size=w.shape) for w in layer.get_weights()])
    weights = {k: v.astype("float64") for k, v in cellkit.export_weights(cell).items()}
    states = [np.zeros(s.shape) for s in map(numpy, layer.get_initial_state(batch_size=2))]
    outputs = []
    for t in range(x.shape[1]):
        y, states = cls.spec.reference(
            weights, x[:, t].astype("float64"), states, cell.get_config()
        )
        outputs.append(y)
    np.testing.assert_allclose(
        numpy(layer(x)), np.stack(outputs, axis=1), rtol=0, atol=10 * TOLERANCE
    )
