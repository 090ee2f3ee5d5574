"""Saved models find cellkit's layers as soon as both cellkit and Keras are imported."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import cellkit

pytestmark = [pytest.mark.one_backend, pytest.mark.slow]

REGISTERED = (
    "import sys; found = keras.saving.get_custom_objects();"
    "missing = {'cellkit>RNN', 'cellkit>Bidirectional', 'cellkit>StackedCells'} - set(found);"
    "assert not missing, missing"
)


def python(code, backend="numpy"):
    """Run code in a process of its own, where nothing is computed with the backend that starts."""
    environment = {**os.environ, "KERAS_BACKEND": backend}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.part(2)
@pytest.mark.parametrize(
    "imports",
    [
        "import cellkit; import keras",
        "import keras; import cellkit",
        "from cellkit import GatedCell; import keras",
        "import cellkit_classic, keras",
    ],
)
def test_layers_are_registered_whichever_is_imported_first(imports):
    python(f"{imports}; {REGISTERED}")


def test_any_module_of_cellkit_can_be_imported_first():
    # Each of them imports Keras before it has defined anything itself.
    for module in ("cell", "bidirectional"):
        python(f"import cellkit.{module}; import cellkit; import keras; cellkit.RNN; {REGISTERED}")


def test_a_saved_model_loads_where_the_plugin_is_merely_installed(tmp_path):
    def layer(units):
        return cellkit.RNN(cellkit.create("lstm", units=units), return_sequences=True)

    model = keras.Sequential(
        [
            keras.Input((None, 3)),
            layer(2),
            cellkit.Bidirectional(layer(3)),
            cellkit.RNN([cellkit.create("gru", units=4), keras.layers.GRUCell(2)]),
        ]
    )
    x = np.random.default_rng(1).normal(size=(2, 5, 3)).astype("float32")
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "numbers.npz", x=x, y=keras.ops.convert_to_numpy(model(x)))
    python(
        "import cellkit, keras, numpy as np, sys; assert 'cellkit_classic' not in sys.modules;"
        f"model = keras.saving.load_model({str(tmp_path / 'model.keras')!r});"
        f"held = np.load({str(tmp_path / 'numbers.npz')!r});"
        "y = keras.ops.convert_to_numpy(model(held['x']));"
        "np.testing.assert_allclose(y, held['y'], rtol=1e-6, atol=1e-6)",
        keras.backend.backend(),
    )


def test_keras_is_loaded_as_ever():
    python(
        "import cellkit, sys; from cellkit._with_keras import _KerasFinder;"
        "waiting = lambda: [f for f in sys.meta_path if isinstance(f, _KerasFinder)];"
        "assert len(waiting()) == 1; import keras, inspect, importlib.util; assert not waiting();"
        "assert 'keras' in inspect.getsource(keras);"
        "assert keras.__spec__.origin == importlib.util.find_spec('keras').origin == keras.__file__"
    )


def test_without_keras_cellkit_is_as_light_as_ever():
    python("import cellkit, sys; assert not {'keras', 'cellkit.rnn', 'numpy'} & set(sys.modules)")
