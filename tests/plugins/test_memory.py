"""LMU: references, popgym, what its memory holds, errors."""

import numpy as np
import pytest
from against_reference import DTYPE, MASK, TOLERANCE, B, cases, check_case, check_golden, to_numpy
from three_parts import raised

import cellkit
from cellkit_memory import LMUCell
from cellkit_memory.lmu import legendre, zero_order_hold

pytestmark = pytest.mark.one_backend


@pytest.fixture
def rng():
    return np.random.default_rng(1909)


@pytest.mark.parametrize(("name", "case"), cases("lmu"))
def test_the_layer_computes_the_reference(name, case, rng):
    check_case(name, case, rng, mask=MASK)


def test_popgym_agrees():
    check_golden("lmu")


@pytest.mark.parametrize(("order", "theta"), [(1, 3.0), (6, 0.5), (16, 64.0), (128, 300.0)])
def test_the_hold_solves_the_system_over_one_step(order, theta):
    """The half step, taken twice, is the step; a constant input ends in the same place."""
    a, b = legendre(order, theta)
    whole, drive = zero_order_hold(a, b)
    half, half_drive = zero_order_hold(a / 2, b / 2)
    np.testing.assert_allclose(half @ half, whole, atol=1e-11)
    np.testing.assert_allclose(half @ half_drive + half_drive, drive, atol=1e-11)


def test_the_memory_holds_the_signal_of_the_window(rng):
    """The polynomials at the far end of the window give the input of theta steps ago."""
    order, theta, steps = 12, 40, 160
    layer = cellkit.RNN(
        LMUCell(1, order=order, theta=float(theta), dtype=DTYPE), return_state=True, dtype=DTYPE
    )
    u = np.sin(2 * np.pi * np.arange(steps) / 60)[None, :, None]
    layer.build(u.shape)
    for name, value in (("input_encoder", 1.0), ("hidden_encoder", 0.0), ("memory_encoder", 0.0)):
        weight = getattr(layer.cell, name)
        weight.assign(np.full(weight.shape, value))
    m = to_numpy(layer(u.astype(DTYPE))[2])[0]
    far = np.ones(order)  # shifted Legendre polynomials at their end
    assert abs(m @ far - u[0, steps - 1 - theta, 0]) < 0.06
    near = (-1.0) ** np.arange(order)
    assert abs(m @ near - u[0, -1, 0]) < 0.06


def test_signals_have_memories_of_their_own(rng):
    x = rng.normal(size=(B, 5, 3)).astype(DTYPE)
    layer = cellkit.RNN(LMUCell(2, order=4, theta=6.0, memory_d=2, dtype=DTYPE), dtype=DTYPE)
    layer = cellkit.RNN(layer.cell, return_state=True, dtype=DTYPE)
    layer.build(x.shape)
    encoder = np.zeros((3, 2))
    encoder[0, 0] = encoder[1, 1] = 1.0
    layer.cell.input_encoder.assign(encoder)
    layer.cell.hidden_encoder.assign(np.zeros((2, 2)))
    m = to_numpy(layer(x)[2])
    swapped = to_numpy(layer(x[..., [1, 0, 2]])[2])
    np.testing.assert_allclose(swapped, np.roll(m, 4, axis=1), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("options", "named"),
    [({"order": 0}, "order=0"), ({"theta": 0.0}, "theta=0.0"), ({"memory_d": 1.5}, "memory_d=1.5")],
)
def test_options_out_of_range(options, named):
    assert named in raised(LMUCell, **{"units": 3, **options})[1]
