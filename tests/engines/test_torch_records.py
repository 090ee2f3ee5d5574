"""A record of a step is trusted only where it shows all that the step depends on.

Every cell below must give the numbers of the plain loop, at every call, and run as often as in it.
"""

from __future__ import annotations

import functools
import io
import itertools
import math
import random
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import cellkit
from cellkit.cells import matmul

if keras.backend.backend() != "torch":
    pytest.skip("records are those of PyTorch's engine", allow_module_level=True)

import torch  # noqa: E402 - where it is the backend, it is there

FEATURES, UNITS, TIME = 4, 4, 6
CALLS: list[int] = []
COUNT = 0


class Base(cellkit.Cell):
    """A step whose part `extra` each test replaces."""

    extra: Any = staticmethod(lambda cell, h: h)

    def build(self, shape: Any) -> None:
        super().build(shape)
        self.kernel = self.add_kernel((shape[-1], self.units))
        self.recurrent_kernel = self.add_recurrent_kernel((self.units, self.units))
        self.generator = keras.random.SeedGenerator(3)
        self.log: list[int] = []
        self.count = 0
        self.table = np.zeros(2)
        self.seen: dict[str, int] = {}
        self.names: set[int] = set()
        self.numbers = random.Random(3)
        self.draws = np.random.default_rng(3)

    def project(self, x: Any) -> Any:
        return matmul(x, self.kernel)

    def step(self, projected: Any, states: Any) -> Any:
        h = ops.tanh(projected + matmul(states[0], self.recurrent_kernel))
        h = type(self).extra(self, h)
        return h, [h]


def halved(h: Any, test: Any) -> Any:
    return h * 0.5 if test else h


def caught(cell: Any, h: Any) -> Any:
    """Read a value and hide what is raised."""
    try:
        return halved(h, float(h.detach().max()) > 0.9)
    except Exception:
        return h


READS: dict[str, Any] = {
    "convert_to_numpy": lambda c, h: halved(h, ops.convert_to_numpy(h).max() > 0.9),
    "tolist": lambda c, h: halved(h, h.tolist()[0][0] > 0.1),
    "item": lambda c, h: halved(h, h[0, 0].item() > 0.1),
    "float": lambda c, h: halved(h, float(h.detach().max()) > 0.9),
    "int": lambda c, h: halved(h, int(10 * h.detach()[0, 0]) > 1),
    "bool": lambda c, h: halved(h, bool((h > 0.9).any())),
    "if": lambda c, h: h * 0.5 if h[0, 0] > 0.1 else h,
    "asarray": lambda c, h: halved(h, np.asarray(h.detach()).max() > 0.9),
    "function of NumPy": lambda c, h: halved(h, np.linalg.norm(h.detach()) > 2.0),
    "dlpack": lambda c, h: halved(h, np.from_dlpack(h.detach()).max() > 0.9),
    "format": lambda c, h: halved(h, f"{h[0, 0]:.3f}" > "0.1"),
    "repr": lambda c, h: halved(h, len(repr(h)) % 2),
    "contains": lambda c, h: halved(h, 0.0 in h),
    "equal": lambda c, h: halved(h, torch.equal(h, h.abs())),
    "allclose": lambda c, h: halved(h, torch.allclose(h, h.abs())),
    "detach": lambda c, h: halved(h, h.detach().numpy().max() > 0.9),
    "data": lambda c, h: halved(h, h.data.max() > 0.9),
    "weight": lambda c, h: halved(h, float(ops.sum(c.kernel).detach()) > 0.1),
    "weight as an array": lambda c, h: halved(h, np.asarray(c.kernel).sum() > 0.1),
    "nonzero": lambda c, h: halved(h, len(torch.nonzero(h > 0.9)) > 1),
    "caught": caught,
}

SIZES: dict[str, Any] = {
    "shape": lambda c, h: h / h.shape[0],
    "size": lambda c, h: h / h.size(0),
    "size of all": lambda c, h: h / h.size()[0],
    "len": lambda c, h: h / len(h),
    "numel": lambda c, h: h / h.numel(),
    "ops.shape": lambda c, h: h / ops.shape(h)[0],
    "ops.size": lambda c, h: h / float(ops.size(h)),
    "one row": lambda c, h: halved(h, h.shape[0] == 1),
    "many rows": lambda c, h: halved(h, h.shape[0] > 100),
    "few rows": lambda c, h: halved(h, 2 >= h.shape[0]),
    "square root": lambda c, h: h / math.sqrt(h.shape[0]),
    "square root of NumPy": lambda c, h: h / float(np.sqrt(h.shape[0])),
    "product": lambda c, h: h / math.prod(h.shape),
    "turns": lambda c, h: functools.reduce(lambda y, _: y * 0.9, range(h.shape[0]), h),
    "text": lambda c, h: halved(h, str(h.shape[0]) == "2"),
    "key": lambda c, h: h * {2: 0.5}.get(h.shape[0], 1.0),
    "mean": lambda c, h: h - ops.mean(h, axis=0, keepdims=True),
    "shape in torch": lambda c, h: torch.div(h, h.shape[0]),
    "parity": lambda c, h: halved(h, h.shape[0] % 2),
}


def effect(act: Any) -> Any:
    """Return a step that acts, and computes with how often it did."""

    def extra(cell: Any, h: Any) -> Any:
        return h * (1.0 if act(cell) % 2 else 0.5)

    return extra


def _attribute(cell: Any) -> int:
    cell.count += 1
    return int(cell.count)


def _list(cell: Any) -> int:
    cell.log.append(1)
    return len(cell.log)


def _array(cell: Any) -> int:
    cell.table[0] += 1
    return int(cell.table[0])


def _dict(cell: Any) -> int:
    cell.seen["n"] = cell.seen.get("n", 0) + 1
    return int(cell.seen["n"])


def _set(cell: Any) -> int:
    cell.names.add(len(cell.names))
    return len(cell.names)


def _global_list(cell: Any) -> int:
    CALLS.append(1)
    return len(CALLS)


def _global_number(cell: Any) -> int:
    global COUNT
    COUNT += 1
    return COUNT


def _class(cell: Any) -> int:
    Base.shared.append(1)
    return len(Base.shared)


Base.shared = []  # type: ignore[attr-defined]


EFFECTS: dict[str, Any] = {
    "attribute": effect(_attribute),
    "list": effect(_list),
    "array": effect(_array),
    "dict": effect(_dict),
    "set": effect(_set),
    "global list": effect(_global_list),
    "global number": effect(_global_number),
    "attribute of the class": effect(_class),
    "numbers of its own": lambda c, h: h * c.numbers.random(),
    "NumPy's of its own": lambda c, h: h * c.draws.random(),
    "Python's random numbers": lambda c, h: h * random.random(),
    "NumPy's random numbers": lambda c, h: h * float(np.random.rand()),
}


def pair(extra: Any, time: int = TIME) -> Any:
    """Return two layers of equal weights: one chooses its engine, one runs the loop."""
    layers = []
    for engine in ("auto", "loop"):
        kind = type("Made", (Base,), {"extra": staticmethod(extra), "__module__": __name__})
        layer = cellkit.RNN(kind(UNITS), engine=engine, return_sequences=True)
        layer.build((None, time, FEATURES))
        for i, variable in enumerate(layer.trainable_variables):
            variable.assign(np.random.RandomState(i).randn(*variable.shape))
        layers.append(layer)
    return layers


def state(cell: Any) -> Any:
    """Return all that the effects above change."""
    return (
        list(cell.log),
        cell.count,
        cell.table.tolist(),
        dict(cell.seen),
        set(cell.names),
        cell.numbers.getstate(),
        repr(cell.draws.bit_generator.state),
    )


def start() -> None:
    global COUNT
    COUNT = 0
    CALLS.clear()
    Base.shared.clear()  # type: ignore[attr-defined]
    random.seed(4)
    np.random.seed(4)


@pytest.mark.parametrize("extra", [*READS.values(), *SIZES.values()], ids=[*READS, *SIZES])
def test_no_branch_and_no_size_is_frozen(extra: Any) -> None:
    """Other rows, other values, other weights: always the loop's numbers."""
    auto, loop = pair(extra)
    for batch, scale in ((3, 1.0), (1, 0.01), (2, 3.0), (7, 0.1)):
        x = (scale * np.random.RandomState(batch).randn(batch, TIME, FEATURES)).astype("float32")
        np.testing.assert_allclose(auto(x).detach(), loop(x).detach(), atol=1e-6)
        for layer in (auto, loop):
            layer.cell.kernel.assign(-layer.cell.kernel)
    report = auto.engine_report()
    assert report.engine in ("projected", "loop")
    assert report.reasons["fused"].startswith("a step of Made ")


@pytest.mark.parametrize("name", EFFECTS)
def test_effects_happen_as_often_as_in_the_loop(name: str) -> None:
    """A step leaves in Python what the loop leaves there, call by call."""
    auto, loop = pair(EFFECTS[name])
    x = np.random.RandomState(0).randn(3, TIME, FEATURES).astype("float32")
    outcomes = []
    for layer in (auto, loop):
        start()
        outcomes.append([])
        for training in (False, True, False, False, False):
            y = layer(x, training=training).detach().numpy()
            outcomes[-1].append((y, state(layer.cell), len(CALLS), COUNT, len(Base.shared)))
    for (a, *counts), (b, *want) in zip(*outcomes, strict=True):
        assert counts == want
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert auto.engine_report().engine in ("projected", "loop")


def test_what_is_printed_is_printed_by_the_loop_alone(capsys: Any) -> None:
    """A step that prints prints once for each step."""
    auto, loop = pair(lambda c, h: (print("step"), h)[1])
    x = np.zeros((3, TIME, FEATURES), "float32")
    for layer in (auto, loop):
        capsys.readouterr()
        layer(x)
        layer(x)
        assert capsys.readouterr().out.count("step") == 2 * TIME


def test_an_iterator_is_left_to_the_loop() -> None:
    """Nobody can tell how far it went, or set it back."""
    outcomes = []
    for engine in ("auto", "loop"):
        turns = itertools.count()
        auto, loop = pair(lambda c, h, turns=turns: h * (1.0 + next(turns) % 3))
        layer = auto if engine == "auto" else loop
        x = np.random.RandomState(0).randn(3, TIME, FEATURES).astype("float32")
        outcomes.append([layer(x).detach().numpy() for _ in range(3)])
    np.testing.assert_allclose(*outcomes, atol=1e-6)


def test_a_file_is_written_to_by_the_loop_alone() -> None:
    """A stream that the cell holds is not written to while a step is explored."""
    stream = io.StringIO()

    def extra(cell: Any, h: Any) -> Any:
        stream.write("x")
        return h

    auto, _ = pair(extra)
    x = np.zeros((3, TIME, FEATURES), "float32")
    auto(x)
    auto(x)
    assert stream.getvalue() == "x" * (2 * TIME)


def test_a_plain_step_is_still_recorded() -> None:
    """Shapes may be read where the number of rows is not computed with."""

    def extra(cell: Any, h: Any) -> Any:
        assert h.shape[0] >= 1
        assert len(h.shape) == 2
        assert h.shape == (h.shape[0], UNITS)
        return ops.reshape(h, h.shape) if h.shape[0] < 0 else h / h.shape[-1]

    auto, loop = pair(extra)
    x = np.random.RandomState(0).randn(3, TIME, FEATURES).astype("float32")
    np.testing.assert_allclose(auto(x).detach(), loop(x).detach(), atol=1e-6)
    assert auto.engine_report().engine == "fused"


def projecting(extra: Any) -> Any:
    """Return two layers whose `project` does something besides."""

    def project(self: Any, x: Any) -> Any:
        return extra(self, matmul(x, self.kernel))

    layers = pair(lambda c, h: h)
    for layer in layers:
        type(layer.cell).project = project
    return layers


PROJECTIONS = {
    **{f"read: {k}": v for k, v in READS.items() if k in ("float", "item", "convert_to_numpy")},
    **{
        f"size: {k}": v
        for k, v in SIZES.items()
        if k in ("shape", "one row", "many rows", "numel", "mean", "turns")
    },
    **{f"effect: {k}": v for k, v in EFFECTS.items()},
    "random": lambda c, h: h + keras.random.normal((h.shape[0], UNITS), seed=c.generator),
}


@pytest.mark.parametrize("name", [n for n in PROJECTIONS if n != "random"])
def test_a_projection_is_that_of_each_step(name: str) -> None:
    """Steps that depend on other rows, their number or the past run one by one."""
    auto, loop = projecting(PROJECTIONS[name])
    outcomes = []
    for layer in (auto, loop):
        start()
        outcomes.append([])
        for batch in (3, 1, 2):
            x = np.random.RandomState(batch).randn(batch, TIME, FEATURES).astype("float32")
            y = layer(x).detach().numpy()
            outcomes[-1].append((y, state(layer.cell), len(CALLS), COUNT, len(Base.shared)))
    for (a, *counts), (b, *want) in zip(*outcomes, strict=True):
        assert counts == want
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert auto.engine_report().engine == "loop"


def test_a_projection_that_draws_draws_at_every_step() -> None:
    """Random numbers of `project` are drawn as often as the loop draws them."""
    counts = []
    for layer in projecting(PROJECTIONS["random"]):
        layer(np.zeros((3, TIME, FEATURES), "float32"))
        counts.append(ops.convert_to_numpy(layer.cell.generator.state).tolist())
    assert counts[0] == counts[1]


class Decay(cellkit.LinearCell):
    """A linear recurrence whose coefficients do something besides."""

    extra: Any = None

    def build(self, shape: Any) -> None:
        super().build(shape)
        self.kernel = self.add_kernel((shape[-1], self.units))
        self.count = 0

    def project(self, x: Any) -> Any:
        return matmul(x, self.kernel)

    def coefficients(self, projected: Any) -> Any:
        return 0.9, type(self).extra(self, projected)


@pytest.mark.parametrize(
    "extra",
    [READS["item"], SIZES["shape"], SIZES["mean"], EFFECTS["attribute"], EFFECTS["global list"]],
    ids=["item", "shape", "mean", "attribute", "global list"],
)
def test_coefficients_are_those_of_each_step(extra: Any) -> None:
    """A scan computes them once for all steps, the loop at every step."""
    outcomes = []
    for engine in ("auto", "loop"):
        start()
        kind = type("Made", (Decay,), {"extra": staticmethod(extra), "__module__": __name__})
        layer = cellkit.RNN(kind(UNITS), engine=engine, return_sequences=True)
        layer.build((None, TIME, FEATURES))
        layer.cell.kernel.assign(np.random.RandomState(2).randn(FEATURES, UNITS))
        outcomes.append([])
        for batch in (3, 1):
            x = np.random.RandomState(batch).randn(batch, TIME, FEATURES).astype("float32")
            outcomes[-1].append((layer(x).detach().numpy(), layer.cell.count, len(CALLS)))
        assert layer.engine_report().engine == "loop"
    for (a, *counts), (b, *want) in zip(*outcomes, strict=True):
        assert counts == want
        np.testing.assert_allclose(a, b, atol=1e-6)


class Outer(cellkit.Cell):
    """A cell with a recurrent layer inside."""

    def build(self, shape: Any) -> None:
        super().build(shape)
        self.kernel = self.add_kernel((shape[-1], self.units))
        self.inner = cellkit.RNN(cellkit.create("mgu", units=self.units))
        self.inner.build((None, 2, self.units))

    def step(self, x: Any, states: Any) -> Any:
        v = matmul(x, self.kernel)
        h = self.inner(ops.stack([v, -v], axis=1)) + 0.3 * states[0]
        return h, [h]


def test_a_recurrent_layer_inside_a_step_runs_in_the_loop() -> None:
    """It chooses an engine of its own, and its products are not the outer step's."""
    cell = Outer(UNITS)
    auto, loop = cellkit.RNN(cell), cellkit.RNN(cell, engine="loop")
    x = np.random.RandomState(0).randn(3, TIME, FEATURES).astype("float32")
    for _ in range(2):
        np.testing.assert_allclose(auto(x).detach(), loop(x).detach(), atol=1e-6)
    assert "recurrent layer inside" in auto.engine_report().reasons["fused"]


@pytest.mark.parametrize("name", ["attribute", "global list", "array"])
def test_the_forward_pass_of_remat_has_the_effects_of_the_loop(name: str) -> None:
    """The masks of a call are learnt from a step that leaves nothing behind."""
    outcomes = []
    for remat in (False, 2):
        start()
        layer = pair(EFFECTS[name])[1]
        again = cellkit.RNN(layer.cell, engine="loop", remat=remat, return_sequences=True)
        x = np.random.RandomState(0).randn(3, TIME, FEATURES).astype("float32")
        y = again(x, training=True).detach().numpy()
        outcomes.append((y, state(layer.cell), len(CALLS)))
    (a, *counts), (b, *want) = outcomes
    assert counts == want
    np.testing.assert_allclose(a, b, atol=1e-6)


class Calling(cellkit.Cell):
    """A cell that calls another one as a layer."""

    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(units, **options)
        self.inner = cellkit.create("mgu", units=units)

    def step(self, x: Any, states: Any) -> Any:
        return self.inner(x, states, training=self.in_training)


def test_a_step_that_calls_a_layer_is_still_recorded() -> None:
    """Questions of Keras' about shapes, when a layer is called, decide nothing about numbers."""
    cell = Calling(UNITS)
    auto, loop = cellkit.RNN(cell), cellkit.RNN(cell, engine="loop")
    x = np.random.RandomState(0).randn(3, TIME, FEATURES).astype("float32")
    np.testing.assert_allclose(auto(x).detach(), loop(x).detach(), atol=1e-6)
    assert auto.engine_report().engine == "fused"
