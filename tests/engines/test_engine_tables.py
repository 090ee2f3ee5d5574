"""The tables of engines in the docs, and that they are true: every engine with every option."""

import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest
from cell_numbers import random_weights
from three_parts import raised

import cellkit
from cellkit import engines

BACKEND = keras.backend.backend()
ROOT = Path(__file__).resolve().parents[2]
BATCH, TIME, FEATURES = 2, 4, 3


@pytest.fixture(scope="module")
def tool():
    place = ROOT / "tools" / "engine_tables.py"
    spec = importlib.util.spec_from_file_location("engine_tables", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_says_what_the_engines_say(tool):
    page = tool.PAGE.read_text(encoding="utf-8")
    found = tool.facts()
    assert tool.section(BACKEND, found) in page
    if BACKEND == "torch":
        assert tool.overview(found) in page


def test_every_need_is_named_and_every_option_known():
    for name, engine in engines.ENGINES.items():
        assert engine.name == name
        for need in (*engine.needs, *engine.worth, *engine.pays):
            assert need.name == need.name.strip()
            assert set(need.rules_out) <= set(engines.OPTIONS)
    assert list(engines.ENGINES) == [n for n in engines.NAMES if n in engines.ENGINES]


CELLS = {"kernel": "lstm", "scan": "min_gru", "chunked": "linear_attention", "stack": "gru"}
LAYER = {
    "return_sequences": {"return_sequences": True},
    "go_backwards": {"go_backwards": True},
    "stateful": {"stateful": True},
    "zero_output_for_mask": {"return_sequences": True, "zero_output_for_mask": True},
    "unroll": {"unroll": True},
    "unroll_by": {"unroll": 8},
    "remat": {"remat": True},
    "truncate_gradient": {"truncate_gradient": 2},
}
CELL = {"dropout": {"dropout": 0.3}, "zoneout": {"zoneout": 0.3}}


def taking_constants(name):
    """Return a class of cells that adds its constants to its inputs."""

    class Taking(cellkit.get(name).cls):
        def call(self, inputs, states, constants=None, training=False):
            return super().call(inputs + keras.tree.flatten(constants)[0], states, training)

    return Taking


def layer_with(engine, option):
    name = CELLS.get(engine, "ugrnn")
    options = {"units": 5, **CELL.get(option, {})}
    cell = taking_constants(name)(**options) if option == "constants" else None
    if cell and engines.ENGINES[engine].takes(option) and engine != "loop":
        cell = cellkit.create("attention", inner=name, memory_units=FEATURES, **options)
    cell = cell or cellkit.create(name, **options)
    if engine == "stack":
        cell = cellkit.StackedCells([cell, cellkit.create("lstm", units=5)])
    return cellkit.RNN(cell, engine=engine, **LAYER.get(option, {}))


@pytest.mark.parametrize("option", engines.OPTIONS)
@pytest.mark.parametrize("engine", engines.ENGINES)
def test_an_engine_takes_the_options_that_it_says_it_takes(engine, option):
    layer = layer_with(engine, option)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH, TIME, FEATURES)).astype("float32")
    call = {"training": True}
    if option in ("mask", "zero_output_for_mask"):
        call["mask"] = np.array([[1, 1, 0, 1], [0, 1, 1, 0]], bool)
    if option == "resets":
        call["resets"] = np.array([[0, 1, 0, 1], [1, 0, 0, 0]], bool)
    if option == "constants":
        places = (5,) if isinstance(layer.cell, cellkit.CellWrapper) else ()
        call["constants"] = [rng.normal(size=(BATCH, *places, FEATURES)).astype("float32")]
    shapes = (
        {"constants_shape": [c.shape for c in call["constants"]]} if option == "constants" else {}
    )
    layer.build((BATCH, TIME, FEATURES), **shapes)
    random_weights(layer.cell, rng)
    if option == "initial_state":
        call["initial_state"] = layer.get_initial_state(BATCH)

    def run():
        if BACKEND != "tensorflow":
            return layer(x, **call)
        import tensorflow as tf

        return tf.function(lambda x: layer(x, **call), autograph=False)(x)

    if engines.ENGINES[engine].takes(option):
        run()
        assert layer.engine_report().engine == engine
    else:
        assert f"engine='{engine}'" in raised(run)[1]
