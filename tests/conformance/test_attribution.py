"""A requirement that fails on a cell known to be right accuses no other cell."""

import keras

import cellkit
from cellkit_conformance.edition.profiles import PROFILES
from cellkit_conformance.judge import Judge
from cellkit_conformance.outcome import Outcome
from cellkit_conformance.selftest.mutants.numerics import WrongSign
from cellkit_conformance.selftest.mutants.sequence import NotTheLast
from cellkit_conformance.subject.targets import describe

BACKEND = keras.backend.backend()
BROKEN = describe("wrong_sign", WrongSign, WrongSign.spec)


def judge(layer):
    return Judge(BROKEN, BACKEND, PROFILES["quick"], 0, layer, shrink=False)


def test_a_broken_cell_in_a_good_layer_is_the_cells_defect():
    assert judge(cellkit.RNN).run("NUM-01").outcome is Outcome.FAIL


def test_a_good_step_in_a_broken_layer_is_not_the_cells_defect():
    result = judge(NotTheLast).run("SEQ-01")
    assert result.outcome is Outcome.BACKEND_DEFECT
    assert result.extra["canary"] == "PlainCanary" and result.extra["known"] == ""
    assert "canary fails too" in result.message


def test_a_known_defect_of_keras_is_named():
    result = judge(keras.layers.RNN).run("STA-09")
    assert result.outcome is Outcome.BACKEND_DEFECT
    assert result.extra["known"] == "KD-A7"
    assert result.extra["link"].startswith("keras-defects.md#")
