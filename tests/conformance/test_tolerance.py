"""The tolerance model: its formula, and that nothing slips through it."""

import math

import numpy as np
import pytest

from cellkit_conformance.subject.rounding import allowance, effect_of_rounding
from cellkit_conformance.subject.tolerance import EPSILON, K, Tolerance

pytestmark = pytest.mark.one_backend


def test_the_formula():
    tolerance = Tolerance("float32", steps=4, fan_in=9, multiplier=2.0)
    want = 2.0 * K * 2.0**-23 * math.sqrt(36)
    reference = np.array([0.5, -1.0, 10.0, -100.0])
    np.testing.assert_allclose(tolerance.limit(reference), [want, want, want * 10, want * 100])


def test_k_is_what_the_documentation_says():
    assert K == 8.0


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_epsilon_is_numpys(dtype):
    assert EPSILON[dtype] == np.finfo(dtype).eps


def test_just_inside_and_just_outside():
    tolerance = Tolerance("float32", 1, 1)
    limit = float(tolerance.limit(np.zeros(())))
    inside = tolerance.compare(np.array([0.0, 0.99 * limit]), np.zeros(2))
    outside = tolerance.compare(np.array([0.0, 1.01 * limit]), np.zeros(2))
    assert inside.ok and inside.headroom == pytest.approx(1 / 0.99)
    assert not outside.ok and outside.where == (1,)
    assert outside.error == pytest.approx(1.01 * limit)


def test_the_worst_entry_is_the_worst_relative_to_its_limit():
    found = Tolerance("float32", 1, 1).compare(np.array([1e-3, 1000.001]), np.array([0.0, 1000.0]))
    assert found.where == (0,)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_wrong_where_the_reference_is_finite(bad):
    found = Tolerance("float32", 1, 1).compare(np.array([bad]), np.array([1.0]))
    assert not found.ok and found.error == math.inf


def test_the_same_infinity_and_nan_are_right():
    values = np.array([np.nan, np.inf, -np.inf])
    assert Tolerance("float32", 1, 1).compare(values, values).ok
    assert not Tolerance("float32", 1, 1).compare(values, values[[0, 2, 1]]).ok


def test_integers_and_flags_must_be_equal():
    tolerance = Tolerance("float32", 100, 100)
    assert tolerance.compare(np.array([3]), np.array([3])).ok
    assert not tolerance.compare(np.array([4]), np.array([3])).ok
    assert not tolerance.compare(np.array([True]), np.array([False])).ok


def test_complex_numbers_count_both_parts():
    tolerance = Tolerance("float32", 1, 1)
    assert tolerance.compare(np.array([1 + 1j], np.complex64), np.array([1 + 1j])).ok
    assert not tolerance.compare(np.array([1 + 1.01j], np.complex64), np.array([1 + 1j])).ok


def test_shapes_must_agree_and_nothing_is_fine():
    with pytest.raises(ValueError, match="shape"):
        Tolerance("float32", 1, 1).compare(np.zeros((1, 2)), np.zeros((2,)))
    empty = Tolerance("float32", 1, 1).compare(np.zeros((0, 2)), np.zeros((0, 2)))
    assert empty.ok and empty.headroom == math.inf


def test_an_unknown_dtype_has_no_tolerance():
    with pytest.raises(ValueError, match="int8"):
        Tolerance("int8", 1, 1).limit(np.zeros(1))


def test_the_effect_of_rounding_is_that_of_weights_inputs_and_states():
    ones = np.ones((2, 3))
    steps = {
        "weights": lambda w, x, s: [w["a"] * ones, [s[0] * 0]],
        "inputs": lambda w, x, s: [x - 0.5, [s[0] * 0]],
        "states": lambda w, x, s: [s[0] * 1j, [s[0] * 0]],
    }
    for step in steps.values():
        given = step, {"a": np.float64(1.0)}, ones, [ones], 1e-3, np.random.default_rng(0)
        (output, _), (moved, still) = effect_of_rounding(*given)
        assert output.shape == (2, 3) and moved.shape == (2, 1)
        assert (1e-5 < moved).all() and (moved <= 1e-3).all() and not still[0].any()
    tolerance = Tolerance("float32", 1, 4)
    assert np.allclose(allowance(moved, tolerance), 16 * moved)


def test_what_rounding_explains_is_added_to_the_limit():
    tolerance, got, want = Tolerance("float32", 1, 4), np.full((2, 2), 1.1), np.ones((2, 2))
    assert not tolerance.compare(got, want).ok
    found = tolerance.compare(got, want, more=np.array([[0.2], [0.0]]))
    assert not found.ok and found.where[0] == 1
    assert tolerance.compare(got, want, more=0.2).ok
    assert not tolerance.compare(np.array([2]), np.array([1]), more=5.0).ok
