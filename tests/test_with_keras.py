"""Saved models find cellkit's layers as soon as both cellkit and Keras are imported."""

import subprocess
import sys

import pytest

REGISTERED = (
    "import sys; found = keras.saving.get_custom_objects();"
    "missing = {'cellkit>RNN', 'cellkit>Bidirectional', 'cellkit>StackedCells'} - set(found);"
    "assert not missing, missing"
)


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "imports",
    [
        "import cellkit; import keras",
        "import keras; import cellkit",
        "from cellkit import GatedCell; import keras",
        "import cellkit, cellkit_classic, keras",
        "import cellkit_classic, keras",
        "from cellkit.rnn import RNN; from cellkit import Cell; import keras",
        "import cellkit; cellkit.get('lstm'); import keras",
    ],
)
def test_layers_are_registered_whichever_is_imported_first(imports):
    python(f"{imports}; {REGISTERED}")


def test_any_module_of_cellkit_can_be_imported_first():
    for module in ("cell", "rnn", "stacked", "bidirectional", "structure", "spec", "registry"):
        python(f"import cellkit.{module}; import cellkit; assert cellkit.RNN and cellkit.Cell")


def test_keras_is_loaded_as_ever():
    python(
        "import cellkit, sys; before = list(sys.meta_path); import keras, inspect, importlib.util;"
        "assert len(sys.meta_path) == len(before) - 1;"
        "assert 'keras' in inspect.getsource(keras);"
        "assert keras.__spec__.origin == importlib.util.find_spec('keras').origin == keras.__file__"
    )


def test_without_keras_cellkit_is_as_light_as_ever():
    python("import cellkit, sys; assert not {'keras', 'cellkit.rnn', 'numpy'} & set(sys.modules)")
