"""Products of a step in blocks of columns, and when they pay (TensorFlow)."""

import keras
import numpy as np
import pytest
from cell_numbers import DTYPE
from engine_runs import BATCH, FEATURES, MASK, TIME, data, initial, layer_of, outcome

if keras.backend.backend() != "tensorflow":
    pytest.skip("of TensorFlow alone", allow_module_level=True)

import tensorflow as tf

from cellkit.engines.tensorflow import products


@pytest.fixture(autouse=True)
def blocks_pay(monkeypatch):
    """Let blocks pay, as they do with several threads and without oneDNN."""
    monkeypatch.setattr(products, "blocks_pay", lambda: True)


@pytest.mark.parametrize(
    ("shape", "rows", "widths"),
    [
        ((128, 512), 32, [256, 256]),
        ((128, 512), None, [256, 256]),
        ((128, 500), 32, [250, 250]),
        ((128, 384), 32, [384]),
        ((512, 128), 32, [64, 64]),
        ((256, 1024), 32, [128] * 8),
        ((128, 512), 1, [512]),
        ((32, 128), 32, [128]),
        ((128, 512), 256, [512]),
        ((4096, 40), 32, [32, 8]),
        ((3, 0), 32, [0]),
    ],
)
def test_blocks_are_as_large_as_one_thread_takes(shape, rows, widths):
    assert products.widths(shape, tf.float32, rows) == widths
    assert products.widths(shape, tf.bfloat16, rows) == [shape[1]]


def test_numbers_of_twice_the_size_make_smaller_blocks():
    assert products.widths((128, 512), tf.float64, 32) == [128] * 4


MACHINES = {
    "threads": ({"TF_NUM_INTRAOP_THREADS": "4"}, "flags : avx2 fma", True),
    "one thread": ({"TF_NUM_INTRAOP_THREADS": "1"}, "flags : avx2 fma", False),
    "oneDNN by itself": ({"TF_NUM_INTRAOP_THREADS": "4"}, "flags : avx2 avx512_vnni", False),
    "oneDNN turned on": (
        {"TF_NUM_INTRAOP_THREADS": "4", "TF_ENABLE_ONEDNN_OPTS": "1"},
        "flags : avx2",
        False,
    ),
    "oneDNN turned off": (
        {"TF_NUM_INTRAOP_THREADS": "4", "TF_ENABLE_ONEDNN_OPTS": "0"},
        "flags : avx2 avx512_vnni",
        True,
    ),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_the_machine_is_asked_whether_blocks_pay(machine, monkeypatch, tmp_path):
    monkeypatch.undo()
    settings, flags, pays = MACHINES[machine]
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(products, "CPU", tmp_path / "cpuinfo")
    products.CPU.write_text(flags)
    assert products.blocks_pay.__wrapped__() == pays


def test_nothing_is_cut_where_blocks_do_not_pay(monkeypatch):
    monkeypatch.setattr(products, "blocks_pay", lambda: False)
    assert products.widths((128, 512), tf.float32, 32) == [512]


def test_a_product_in_blocks_is_the_product(monkeypatch):
    monkeypatch.setattr(products, "_ALONE", 1)
    monkeypatch.setattr(products, "_BLOCK", 1)
    monkeypatch.setattr(products, "_NARROWEST", 3)
    x, kernel = data((5, 4), dtype="float64"), data((4, 8), seed=2, dtype="float64")
    blocks = products.cut(tf.constant(kernel), 5)
    assert [b.shape[1] for b in blocks] == [3, 3, 2]
    np.testing.assert_allclose(products.times(tf.constant(x), blocks), x @ kernel, atol=1e-15)


@pytest.mark.parametrize("engine", ["loop", "fused"])
@pytest.mark.parametrize(
    "cell",
    [
        ("peephole_lstm", {"units": 4, "recurrent_dropout": 0.3}),
        ("gru", {"units": 5}),
        ("scrn", {"units": 4}),
        ("nested_lstm", {"units": 4}),
    ],
    ids=lambda cell: cell[0],
)
def test_blocks_change_nothing(cell, engine, monkeypatch):
    layer = layer_of(cell, return_sequences=True, go_backwards=True)
    arguments = data((BATCH, TIME, FEATURES)), initial(layer)
    whole = outcome(layer, engine, *arguments, mask=MASK, training=True)
    counts = []
    widths = products.widths

    def counted(*arguments):
        counts.append(len(widths(*arguments)))
        return widths(*arguments)

    monkeypatch.setattr(products, "_ALONE", 1)
    monkeypatch.setattr(products, "_BLOCK", 1)
    monkeypatch.setattr(products, "_NARROWEST", 2)
    monkeypatch.setattr(products, "widths", counted)
    parts = outcome(layer, engine, *arguments, mask=MASK, training=True)
    assert max(counts) > 1
    assert parts.keys() == whole.keys()
    tolerance = 1e-12 if DTYPE == "float64" else 1e-5
    for name, want in whole.items():
        if want is None:
            assert parts[name] is None, name
            continue
        scale = max(1.0, np.abs(want.astype("float64")).max(initial=0))
        error = np.abs(parts[name].astype("float64") - want.astype("float64")).max(initial=0)
        assert error <= tolerance * scale, name
