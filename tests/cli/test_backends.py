"""Messages where no backend is set, none is installed, or its name is misspelt."""

import os
import subprocess
import sys
import warnings

import pytest
from three_parts import parts

from cellkit import _backends

ALL = ["tensorflow", "torch", "jax"]


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine on which Keras is not imported yet, with the backends that a test names."""
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))

    def installed(*names):
        monkeypatch.setattr(_backends, "installed", lambda: list(names))
        return tmp_path

    return installed


@pytest.mark.parametrize(
    ("configured", "there", "line"),
    [
        ("pytorch", ALL, "export KERAS_BACKEND=torch"),
        ("Torch", ALL, "export KERAS_BACKEND=torch"),
        ("tf", ALL, "export KERAS_BACKEND=tensorflow"),
        ("tensorfow", ["jax", "tensorflow"], "export KERAS_BACKEND=tensorflow"),
        ("pytorch", ["jax"], "export KERAS_BACKEND=jax"),
        ("theano", ["jax"], "export KERAS_BACKEND=jax"),
        ("jax", ["torch"], "export KERAS_BACKEND=torch"),
        ("jax", [], "pip install 'keras-cellkit[jax]' && export KERAS_BACKEND=jax"),
        ("pytorch", [], "pip install 'keras-cellkit[torch]' && export KERAS_BACKEND=torch"),
        ("theano", [], "pip install 'keras-cellkit[torch]' && export KERAS_BACKEND=torch"),
    ],
)
def test_the_line_that_sets_a_backend(configured, there, line):
    assert _backends.advice(configured, there) == line


def test_a_misspelt_backend(machine, monkeypatch):
    machine("torch", "jax")
    monkeypatch.setenv("KERAS_BACKEND", "pytorch")
    what, received, expected, fix = parts(_backends.trouble())
    assert what == "cellkit does not run on a backend called 'pytorch'."
    assert received == "KERAS_BACKEND=pytorch"
    assert expected == (
        "one of tensorflow, torch, jax, or, for inference alone, numpy or openvino; "
        "installed: torch, jax"
    )
    assert fix == "set one and start Python again: export KERAS_BACKEND=torch"


def test_a_backend_that_is_not_installed(machine, monkeypatch):
    machine("jax")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    what, received, expected, fix = parts(_backends.trouble())
    assert what == "Keras' backend 'torch' is not installed."
    assert received == "KERAS_BACKEND=torch" and expected.endswith("installed: jax")
    assert fix.endswith("export KERAS_BACKEND=jax")


def test_no_backend_is_set_and_the_default_is_not_there(machine):
    machine("torch")
    what, received, _, fix = parts(_backends.trouble())
    assert what == "Keras' backend 'tensorflow' is not installed."
    assert received == "neither KERAS_BACKEND nor keras.json, so Keras takes tensorflow"
    assert fix.endswith("export KERAS_BACKEND=torch")


def test_no_backend_is_installed(machine):
    machine()
    _, _, expected, fix = parts(_backends.trouble())
    assert expected.endswith("installed: none")
    assert "pip install 'keras-cellkit[tensorflow]' && export KERAS_BACKEND=tensorflow" in fix


def test_a_backend_of_the_settings_file(machine):
    home = machine("torch")
    (home / "keras.json").write_text('{"backend": "jax"}')
    _, received, _, _ = parts(_backends.trouble())
    assert received == f"backend jax in {home / 'keras.json'}"
    (home / "keras.json").write_text('{"backend": "torch"}')
    assert _backends.trouble() is None


def test_the_variable_goes_before_the_file_and_an_empty_one_does_not_count(machine, monkeypatch):
    home = machine("torch")
    (home / "keras.json").write_text('{"backend": "jax"}')
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    assert _backends.choice().backend == "torch"
    monkeypatch.setenv("KERAS_BACKEND", "")
    assert _backends.choice().backend == "jax"


def test_a_file_that_cannot_be_read_is_passed_over_as_keras_does(machine):
    home = machine("tensorflow")
    (home / "keras.json").write_text("{broken")
    assert _backends.choice().backend == "tensorflow" and _backends.choice().trouble


def test_where_keras_is_imported_the_question_is_settled(machine, monkeypatch):
    machine()
    monkeypatch.setitem(sys.modules, "keras", object())
    assert _backends.trouble() is None


def test_the_command_line_does_not_warn_of_what_it_may_not_need(machine, monkeypatch):
    machine()
    monkeypatch.setattr(sys, "argv", ["/usr/bin/cellkit", "list"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _backends.warn()
    monkeypatch.setattr(sys, "argv", ["notebook.py"])
    with pytest.warns(_backends.BackendWarning, match="installed: none"):
        _backends.warn()


# --- in a process of its own -------------------------------------------------------------------

WITHOUT = """
import importlib.machinery, sys

class Hidden:
    '''Hides the backends, as if they were not installed.'''

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in {hidden!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Hidden)
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name in {hidden!r} else find(name, *more)
"""


def python(code, home, hidden=(), **environment):
    """Run a program where some backends are hidden, and return its exit code and what it said."""
    outside = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(hidden=tuple(hidden)) + code],
        capture_output=True,
        text=True,
        env={**outside, "KERAS_HOME": str(home), **environment},
    )
    return done.returncode, done.stdout, done.stderr


CREATE = """
import cellkit
try:
    cellkit.create("lstm", units=3)
except ValueError as error:
    print(error)
"""


@pytest.mark.one_backend
def test_a_cell_is_not_blamed_for_a_misspelt_backend(tmp_path):
    code, out, err = python(CREATE, tmp_path, KERAS_BACKEND="pytorch")
    assert code == 0
    what, received, _, fix = parts(out.rstrip("\n"))
    assert "'pytorch'" in what and received == "KERAS_BACKEND=pytorch"
    assert "plugin" not in out and "lstm" not in out and "KERAS_BACKEND=torch" in fix
    assert "BackendWarning: cellkit does not run on a backend called 'pytorch'" in err


@pytest.mark.one_backend
@pytest.mark.parametrize("use", ["cellkit.create('lstm', units=3)", "cellkit.RNN"])
def test_nothing_else_is_blamed_for_a_missing_backend(tmp_path, use):
    code = CREATE.replace('cellkit.create("lstm", units=3)', use)
    _, out, err = python(code, tmp_path, hidden=["tensorflow"])
    what, _, expected, fix = parts(out.rstrip("\n"))
    assert what == "Keras' backend 'tensorflow' is not installed."
    assert "installed: torch, jax" in expected and fix.endswith("export KERAS_BACKEND=torch")
    assert "BackendWarning: Keras' backend 'tensorflow' is not installed." in err


@pytest.mark.one_backend
def test_a_backend_that_breaks_while_it_is_imported_is_named(tmp_path):
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").write_text("raise ImportError('libfoo.so')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + CREATE
    _, out, _ = python(code, tmp_path, KERAS_BACKEND="jax")
    what, received, _, fix = parts(out.rstrip("\n"))
    assert what == "Keras can't be imported with its backend 'jax'."
    assert received == "ImportError: libfoo.so, with KERAS_BACKEND=jax"
    assert fix.startswith("install jax again, or set another one: export KERAS_BACKEND=")


@pytest.mark.one_backend
def test_a_plugin_is_blamed_for_its_own_error_whatever_the_backend(tmp_path):
    (tmp_path / "bad_lab.py").write_text("1 / 0")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
    code += CREATE.replace('"lstm"', '"bad_lab:Cell"')
    _, out, _ = python(code, tmp_path, KERAS_BACKEND="pytorch")
    what, received, _, _ = parts(out.rstrip("\n"))
    assert "'bad_lab:Cell' can't be imported" in what and "ZeroDivisionError" in received


@pytest.mark.slow
@pytest.mark.one_backend
def test_looking_for_keras_does_not_keep_its_layers_from_being_registered(tmp_path):
    code = (
        "import cellkit, importlib.util; importlib.util.find_spec('keras'); import keras\n"
        "print('cellkit>RNN' in keras.saving.get_custom_objects())\n"
    )
    assert python(code, tmp_path, KERAS_BACKEND="torch")[1] == "True\n"


@pytest.mark.one_backend
def test_a_command_that_needs_a_backend_says_so(tmp_path):
    code = "from cellkit.cli import main; sys.exit(main(['golden', 'nowhere']))"
    status, _, err = python(code, tmp_path, KERAS_BACKEND="pytorch")
    assert status == 64 and "KERAS_BACKEND=torch" in err and "Traceback" not in err
