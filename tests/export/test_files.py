"""Every format: what is written loads in a process without cellkit, and gives what the layer gives.

A run by name takes a few cells and the formats that need nothing installed beside the backends.
`make test-export` takes the sample: the LSTM in every way, and the other cells in turn with every
other format and one choice of sizes. `make test-export FULL=1` takes every cell in every way, and
`make test-export CELLS=gru,lru` those.
"""

import os

import keras
import numpy as np
import pytest
from exporting import (
    BACKEND,
    FORMATS,
    NAMES,
    builtin_only,
    chosen,
    data_for,
    expected,
    export,
    installed,
    model_of,
    operations_of_litert,
)
from three_parts import raised

import cellkit
from cellkit.cells.parallel import ParallelCell

SIZE = os.environ.get("EXPORT_CELLS", "few")
FEW = ("lstm", "min_gru")
# Among them, each at a place where it fell once: `min_gru` of a fixed length from JAX to ONNX, and
# `mamba` with a fixed batch from PyTorch to ONNX.
SAMPLE = (
    *("lstm", "gru_d", "min_gru", "layer_norm_lstm", "clockwork"),
    *("mamba", "conv_lstm", "nested", "s5"),
)
CELLS = chosen(FEW, SAMPLE)
COMPLEX = {"ffm", "lru", "s5", "s4d"}
# States that are matrices, and chunks of steps that are products of matrices alone.
PRODUCTS = ("linear_attention", "mamba2", "retnet")
# Delta rules: their chunks solve systems of equations.
SYSTEMS = ("delta_net", "gated_delta_net", "rwkv7")

# Of the layer: whether it was called before, its batch and its time where they are fixed. Lengths
# that no block of an engine divides, and a single step.
VARIANTS = {
    "free": {"warm": False, "batch": None, "time": None},
    "free batch": {"warm": False, "batch": None, "time": 7},
    "free time": {"warm": True, "batch": 3, "time": None},
    "fixed": {"warm": True, "batch": 3, "time": 7},
}
CALLS = ((3, 7), (2, 45), (5, 1))
ENGINES = {
    "tensorflow": ("projected", "fused"),
    "torch": ("projected", "fused", "kernel"),
    "jax": ("fused",),
}[BACKEND]

# Cells with an operation that a backend's exporter to ONNX has not: at all, or for an open batch.
NOT_IN_ONNX = {"tensorflow": ("rg_lru", "sgu"), "jax": ("on_lstm",)}.get(BACKEND, ())
NOT_FOR_ANY_BATCH = {"torch": ("rg_lru",), "jax": ("clockwork", "phased_lstm")}.get(BACKEND, ())


def beyond_onnx(form, variant, cell):
    """Tell whether a file of ONNX's could not be written, or not be loaded."""
    open_batch = VARIANTS[variant]["batch"] is None
    return form == "onnx" and (cell in NOT_IN_ONNX or (open_batch and cell in NOT_FOR_ANY_BATCH))


def refused(form, variant, cell, engine="auto"):
    """Tell whether `check_export` must refuse a case."""
    fixed = VARIANTS[variant]
    if form in ("onnx", "openvino", "litert") and cell in COMPLEX:
        return True
    if BACKEND == "jax" and form == "openvino":
        return True
    if BACKEND == "torch" and fixed["time"] is None:
        return True
    if beyond_onnx(form, variant, cell):
        return True
    looped = engine == "loop"
    if BACKEND == "jax" and form == "saved_model" and cell in SYSTEMS and not looped:
        return True
    if BACKEND == "tensorflow" and form in ("onnx", "openvino", "litert") and not looped:
        matrix = issubclass(cellkit.get(cell).cls, cellkit.MatrixCell)
        if matrix and (fixed["time"] is None or cell not in PRODUCTS):
            return True
    if form != "litert":
        return False
    linear = issubclass(cellkit.get(cell).cls, cellkit.LinearCell)
    return fixed["batch"] is None or (fixed["time"] is None and linear and not looped)


def cases():
    for form in FORMATS:
        if SIZE == "few" and form not in ("saved_model", "pt2", "torchscript", "stablehlo"):
            continue
        variants = ("free", "fixed") if BACKEND != "torch" else ("free", "free batch", "fixed")
        if form == "litert":
            variants = ("free", "free time", "fixed")
        if SIZE == "few":
            variants = variants[-2:]
        for variant in variants:
            for cell in CELLS:
                if in_turn(cell, form, variant, variants):
                    yield form, variant, "auto", cell
        if SIZE != "few" and "lstm" in CELLS:
            for engine in ENGINES:
                yield form, "fixed", engine, "lstm"
        if SIZE != "few" and BACKEND in ("tensorflow", "jax"):
            yield from looped(form, variants)


def in_turn(cell, form, variant, variants):
    """Tell whether a case is a cell's, of which those of the sample have some each."""
    if SIZE != "sample" or cell == "lstm":
        return True
    place = SAMPLE.index(cell)
    others = (place + FORMATS.index(form)) % 2 == 0
    return others and variant == variants[place // 2 % len(variants)]


def looped(form, variants):
    """Yield the cases in which the plain loop is asked for instead of scans and chunks."""
    for cell in CELLS:
        parallel = issubclass(cellkit.get(cell).cls, ParallelCell)
        for variant in variants:
            # What is refused as it stands, and the small file.
            asked = refused(form, variant, cell) or (form, variant) == ("litert", "fixed")
            asked = asked and in_turn(cell, form, variant, variants)
            if parallel and asked and not refused(form, variant, cell, "loop"):
                yield form, variant, "loop", cell


@pytest.mark.slow
@pytest.mark.full  # `make test-export` runs it, with more formats
@pytest.mark.parametrize(("form", "variant", "engine", "cell"), [*cases()])
def test_file_gives_what_the_layer_gives(form, variant, engine, cell, runtime, record, tmp_path):
    if not installed(form):
        pytest.skip(f"what writes or runs {form} is not installed")
    case = form, variant, engine, cell
    model = model_of(cell, engine=engine, return_sequences=True, **VARIANTS[variant])
    name = NAMES.get(form, form)
    signature = model.inputs
    if refused(form, variant, cell, engine):
        raised(lambda: cellkit.check_export(model, name, signature))
        record(*case, outcome="refused beforehand")
        # Or nothing need be refused. Where jax2onnx fails, it leaves JAX changed.
        if beyond_onnx(form, variant, cell) and BACKEND != "jax":
            with pytest.raises(Exception):  # noqa: B017 - of another library
                compare(model, form, variant, runtime, tmp_path)
        return
    cellkit.check_export(model, name, signature)
    record(*case, outcome="fails")
    path = compare(model, form, variant, runtime, tmp_path)
    file = in_file(path) if (form, variant) == ("litert", "fixed") else None
    record(*case, outcome="equal", file=file)


def in_file(path):
    """Return the size and the operations of a file of LiteRT's, which must all be its own."""
    counts = operations_of_litert(path)
    assert not [name for name in counts if name.startswith(("FLEX", "custom"))]
    listed = ", ".join(f"{name} {count}" for name, count in counts.items())
    return {"bytes": path.stat().st_size, "operations": listed}


def compare(model, form, variant, runtime, folder):
    path = export(model, form, folder)
    for rows, steps in CALLS if "free" in variant else CALLS[:1]:
        arrays = data_for(model, rows, steps)
        got = runtime.run(form, path, arrays)
        for one, other in zip(got, expected(model, arrays), strict=True):
            assert one.shape == other.shape
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5)
    return path


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.parametrize("cell", ["lstm", "mlstm", "hyper_lstm"])
def test_an_export_leaves_the_model_as_it_was(cell, tmp_path):
    model = model_of(cell, return_sequences=True, **VARIANTS["fixed"])
    arrays = data_for(model, 3, 7)
    before = expected(model, arrays)
    export(model, FORMATS[0], tmp_path)
    for one, other in zip(expected(model, arrays), before, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="Keras writes LiteRT on TensorFlow")
def test_file_of_litert_has_its_own_operations_only(tmp_path):
    if not installed("litert"):
        pytest.skip("LiteRT is not installed")
    model = model_of("lstm", masked=False, return_sequences=True, **VARIANTS["fixed"])
    path = export(model, "litert", tmp_path)
    assert builtin_only()
    counts = operations_of_litert(path)
    # The loop and what is inside of it.
    assert counts["WHILE"] == 1
    assert counts["TANH"] == 2
    assert in_file(path)["bytes"] < 20_000


@pytest.mark.parametrize("format", ["pickle", "torch" if BACKEND == "jax" else "jax_export"])
def test_a_format_that_is_not_there_is_refused(format):
    layer = cellkit.RNN(cellkit.create("gru", units=2))
    layer.build((2, 3, 4))
    assert repr(format) in str(raised(lambda: cellkit.check_export(layer, format)))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="converters of TensorFlow's graphs")
@pytest.mark.parametrize(
    ("cell", "steps"),
    [("delta_net", 5), ("gla", 5), ("rwkv6", 5), ("linear_attention", None), ("mamba2", None)],
)
def test_chunks_of_steps_are_refused_and_the_loop_is_not(cell, steps):
    layer = cellkit.RNN(cellkit.create(cell, units=4))
    layer.build((2, steps, 3))
    for form in ("onnx", "openvino", "litert"):
        *_, expected, fix = raised(lambda: cellkit.check_export(layer, form))  # noqa: B023
        assert "layer.engine = 'loop'" in fix
        assert ("fixed length" in expected) == (steps is None)
    cellkit.check_export(layer, "tf_saved_model")
    layer.engine = "loop"
    cellkit.check_export(layer, "onnx")


@pytest.mark.each_backend
@pytest.mark.skipif(BACKEND != "jax", reason="only JAX leaves them to LAPACK")
def test_systems_of_equations_are_refused_where_tensorflow_runs_the_file(runtime, tmp_path):
    layer = cellkit.RNN(cellkit.create("delta_net", units=4))
    layer.build((2, None, 3))
    *_, fix = raised(lambda: cellkit.check_export(layer, "tf_saved_model"))
    assert "layer.engine = 'loop'" in fix
    layer.engine = "loop"
    cellkit.check_export(layer, "tf_saved_model")
    layer = cellkit.RNN(Solving(2))
    layer.build((2, None, 3))
    raised(lambda: cellkit.check_export(layer, "tf_saved_model"))
    cellkit.check_export(layer, "jax_export")
    model = model_of("delta_net", engine="loop", return_sequences=True)
    arrays = data_for(model, 2, 45)
    path = export(model, "saved_model", tmp_path)
    for one, other in zip(
        runtime.run("saved_model", path, arrays), expected(model, arrays), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="converters of TensorFlow's graphs")
@pytest.mark.parametrize("cell", PRODUCTS)
@pytest.mark.parametrize("form", ["onnx", "openvino", "litert"])
def test_chunks_of_a_fixed_length_are_in_a_file(form, cell, runtime, tmp_path):
    if not installed(form):
        pytest.skip(f"what writes or runs {form} is not installed")
    # Three chunks, of a length that they do not divide; any batch, where the format has it.
    batch = 3 if form == "litert" else None
    model = model_of(cell, return_sequences=True, batch=batch, time=150)
    cellkit.check_export(model, form, model.inputs)
    path = export(model, form, tmp_path)
    for rows in (3,) if batch else (3, 1, 5):
        arrays = data_for(model, rows, 150)
        for one, other in zip(
            runtime.run(form, path, arrays), expected(model, arrays), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5)


class Solving(cellkit.Cell):
    """Solves a system of equations in each step."""

    def build(self, input_shape):
        self.kernel = self.add_kernel((input_shape[-1], self.units))

    def step(self, projected, states):
        h = keras.ops.matmul(projected, self.kernel) + states[0]
        system = 2.0 * keras.ops.eye(self.units) + keras.ops.transpose(h) @ h
        h = keras.ops.transpose(keras.ops.solve(system, keras.ops.transpose(h)))
        return h, [h]


class Counting(cellkit.Cell):
    """Has operations that some exporter to ONNX lacks, each inside of a step."""

    def build(self, input_shape):
        self.kernel = self.add_kernel((input_shape[-1], self.units))
        self.steps = 0

    def step(self, projected, states):
        self.steps += 1
        h = keras.ops.expm1(0.1 * keras.ops.tanh(keras.ops.matmul(projected, self.kernel)))
        h = keras.ops.cumsum(keras.ops.log1p(0.1 * h**2) + states[0], axis=-1)
        return h, [keras.ops.mod(h, 2.0)]


def test_operations_that_onnx_lacks_are_named_for_any_cell():
    layer = cellkit.RNN(Counting(4))
    layer.build((None, 5, 3))
    what, received, expected, fix = raised(lambda: cellkit.check_export(layer, "onnx"))
    name = {"tensorflow": "Expm1", "torch": "aten::expm1", "jax": "cumsum"}[BACKEND]
    assert name in what and "Counting" in received
    assert ("input_signature" in fix) == ("batch" in expected) == (BACKEND == "torch")
    assert layer.cell.steps == 0
    if BACKEND == "torch":
        cellkit.check_export(layer, "onnx", [keras.InputSpec(shape=(2, 5, 3))])


def test_cells_to_export_can_be_named(monkeypatch):
    monkeypatch.setenv("EXPORT_CELLS", "lru,gru")
    assert chosen(FEW, SAMPLE) == ("lru", "gru")
    monkeypatch.setenv("EXPORT_CELLS", "lru,grru")
    _, received, *_ = raised(lambda: chosen(FEW, SAMPLE))
    assert received == "'grru'"
