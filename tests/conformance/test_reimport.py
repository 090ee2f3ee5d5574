"""A cell's module, imported a second time beside the first."""

import importlib
import sys

import keras
import pytest

import cellkit
from cellkit_conformance.subject.reimport import imported_anew

pytestmark = pytest.mark.one_backend

MODULE = '''
import keras
import cellkit

@cellkit.register("imported_twice")
@keras.saving.register_keras_serializable("twice")
class TwiceCell(keras.layers.SimpleRNNCell):
    """A cell that is known by its name."""

class Inside:
    class Cell(TwiceCell):
        """A cell inside of a class."""
'''


@pytest.fixture
def module(tmp_path, monkeypatch, own_registry):
    (tmp_path / "imported_twice.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("imported_twice")
    del sys.modules["imported_twice"]


def test_the_first_import_stays_what_everybody_sees(module):
    again = imported_anew(module.TwiceCell)
    assert again.__qualname__ == "TwiceCell" and again is not module.TwiceCell
    assert sys.modules["imported_twice"] is module
    assert cellkit.get("imported_twice").cls is module.TwiceCell
    assert keras.saving.get_registered_object("twice>TwiceCell") is module.TwiceCell
    assert imported_anew(module.Inside.Cell) is not module.Inside.Cell


def test_what_cannot_be_imported_twice_is_left_alone(module, tmp_path):
    (tmp_path / "imported_twice.py").write_text(MODULE + "\nraise SystemExit(1)\n")
    assert imported_anew(module.TwiceCell) is None
    assert sys.modules["imported_twice"] is module
    assert cellkit.get("imported_twice").cls is module.TwiceCell


def test_frameworks_are_not_imported_twice():
    assert imported_anew(keras.layers.LSTMCell) is None
