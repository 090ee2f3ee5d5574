"""Every change of what a cell computes with is noticed; what changes by itself is not."""

from __future__ import annotations

import array
import collections
import copy
import functools
import random
import types
from typing import Any

import keras
import numpy as np
import pytest

import cellkit
from cellkit.cells.watch import Watch

pytestmark = pytest.mark.one_backend

BACKEND = keras.backend.backend()


class Plain:
    """An object with attributes."""

    shared = [1, 2]

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)

    def __call__(self, x: Any) -> Any:
        """Scale."""
        return x * self.scale

    def method(self, x: Any) -> Any:
        """Scale too."""
        return x * self.scale


class Slotted:
    """An object without a dict."""

    __slots__ = ("scale",)

    def __init__(self, scale: float) -> None:
        self.scale = scale


class Equal(Plain):
    """An object that is equal to all others."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True


Pair = collections.namedtuple("Pair", "left right")

LEVEL = [0.5]
FACTOR = 0.5


def reads_globals(x: Any) -> Any:
    """Scale by what stands in the module."""
    return x * FACTOR + [y for y in LEVEL][0]


def scaled(x: Any, *, by: Any = (2.0,)) -> Any:
    """Scale by an argument."""
    return x * by[0]


def closure(box: Any) -> Any:
    """Return a function that holds `box`."""

    def function(x: Any) -> Any:
        return x * box[0]

    return function


def rebinding() -> tuple[Any, Any]:
    """Return two functions that share a variable."""
    level = 1.0

    def function(x: Any) -> Any:
        return x * level

    def change() -> None:
        nonlocal level
        level = 2.0

    function.change = change  # type: ignore[attr-defined]
    return function, change


def _inner() -> Any:
    cell = cellkit.create("mgu", units=4)
    return cell, lambda: setattr(cell, "activation", keras.activations.relu)


def _layer() -> Any:
    layer = keras.layers.LeakyReLU(negative_slope=0.3)
    return layer, lambda: setattr(layer, "negative_slope", 0.9)


def _trainable() -> Any:
    layer = keras.layers.Dense(3)
    layer.build((None, 2))
    return layer, lambda: setattr(layer, "trainable", False)


def _replaced() -> Any:
    cell = cellkit.create("lstm", units=4)
    cell.build((None, 2))
    return cell, lambda: vars(cell).update(bias=keras.Variable(np.ones(16)))


def _policy() -> Any:
    layer = keras.layers.Dense(3)
    return layer, lambda: setattr(layer, "dtype_policy", "float64")


def _rebinding() -> Any:
    return rebinding()


def _weights() -> Any:
    layer = keras.layers.Dense(2, kernel_initializer=keras.initializers.Constant(1.0))
    return layer, lambda: setattr(layer.kernel_initializer, "value", 2.0)


def held(value: Any, change: Any) -> Any:
    """Return a maker of `value` and of what changes it."""
    return lambda: (lambda v: (v, lambda: change(v)))(copy.deepcopy(value))


CHANGES: dict[str, Any] = {
    "number": held(Plain(scale=1.0), lambda v: setattr(v, "scale", 2.0)),
    "kind of a number": held(Plain(scale=1), lambda v: setattr(v, "scale", 1.0)),
    "flag for a number": held(Plain(scale=1), lambda v: setattr(v, "scale", True)),
    "sign of zero": held(Plain(scale=0.0), lambda v: setattr(v, "scale", -0.0)),
    "private": held(Plain(_scale=1.0), lambda v: setattr(v, "_scale", 2.0)),
    "new attribute": held(Plain(), lambda v: setattr(v, "scale", 2.0)),
    "attribute gone": held(Plain(scale=1.0), lambda v: delattr(v, "scale")),
    "renamed": held(Plain(a=1.0), lambda v: setattr(v, "b", vars(v).pop("a"))),
    "deep": held(Plain(a=Plain(b=[Plain(c=1)])), lambda v: setattr(v.a.b[0], "c", 2)),
    "equal object": held(Plain(a=Equal(scale=1)), lambda v: setattr(v, "a", Equal(scale=2))),
    "slots": held(Slotted(1.0), lambda v: setattr(v, "scale", 2.0)),
    "list": held(Plain(a=[1, 2]), lambda v: v.a.append(3)),
    "list in place": held(Plain(a=[1, 2]), lambda v: v.a.__setitem__(0, 3)),
    "order": held(Plain(a=[1, 2]), lambda v: v.a.reverse()),
    "tuple": held(Plain(a=(1, 2)), lambda v: setattr(v, "a", (1, 3))),
    "in a tuple": held(Plain(a=([1], 2)), lambda v: v.a[0].append(3)),
    "namedtuple": held(Plain(a=Pair(1, 2)), lambda v: setattr(v, "a", Pair(1, 3))),
    "dict": held(Plain(a={"x": 1}), lambda v: v.a.update(x=2)),
    "key of a dict": held(Plain(a={"x": 1}), lambda v: v.a.update(y=v.a.pop("x"))),
    "keys that are not names": held(Plain(a={(1, 2): 1}), lambda v: v.a.update({(1, 2): 2})),
    "ordered dict": held(Plain(a=collections.OrderedDict(x=1)), lambda v: v.a.update(x=2)),
    "mapping": lambda: (lambda d: (Plain(a=types.MappingProxyType(d)), lambda: d.update(x=2)))(
        {"x": 1}
    ),
    "user dict": held(Plain(a=collections.UserDict(x=1)), lambda v: v.a.update(x=2)),
    "set": held(Plain(a={1, 2}), lambda v: v.a.add(3)),
    "deque": held(Plain(a=collections.deque([1])), lambda v: v.a.append(3)),
    "bytes": held(Plain(a=bytearray(b"ab")), lambda v: v.a.__setitem__(0, 3)),
    "packed array": held(Plain(a=array.array("d", [1.0])), lambda v: v.a.__setitem__(0, 3.0)),
    "array in place": held(Plain(a=np.arange(4.0)), lambda v: v.a.__setitem__(1, 7.0)),
    "large array": held(Plain(a=np.zeros(10**5)), lambda v: v.a.__setitem__(99_999, 7.0)),
    "strided array": held(Plain(a=np.arange(8.0)[::2]), lambda v: v.a.__setitem__(1, 7.0)),
    "array replaced": held(Plain(a=np.arange(4)), lambda v: setattr(v, "a", np.arange(4.0))),
    "array of objects": held(
        Plain(a=np.array([Plain(b=1)], dtype=object)), lambda v: setattr(v.a[0], "b", 2)
    ),
    "scalar array": held(Plain(a=np.float32(1)), lambda v: setattr(v, "a", np.float64(1))),
    "partial": held(
        Plain(a=functools.partial(scaled, by=[1.0])), lambda v: v.a.keywords.update(by=[2.0])
    ),
    "in a partial": held(
        Plain(a=functools.partial(scaled, by=[1.0])), lambda v: v.a.keywords["by"].append(2.0)
    ),
    "callable object": held(Plain(a=Plain(scale=1)), lambda v: setattr(v.a, "scale", 2)),
    "bound method": held(
        Plain(a=Plain(scale=1).method), lambda v: setattr(v.a.__self__, "scale", 2)
    ),
    "closure": lambda: (lambda box: (closure(box), lambda: box.append(2)))([1]),
    "variable of a closure": _rebinding,
    "default of a function": lambda: (
        lambda box: (lambda x, y=box: x * y[0], lambda: box.append(2))
    )([1]),
    "attribute of a function": lambda: (lambda f: (f, lambda: setattr(f, "count", 2)))(_counted()),
    "random numbers of NumPy": lambda: (lambda r: (Plain(a=r), r.random))(np.random.default_rng(1)),
    "older random numbers": lambda: (lambda r: (Plain(a=r), r.random))(np.random.RandomState(1)),
    "random numbers of Python": lambda: (lambda r: (Plain(a=r), r.random))(random.Random(1)),
    "inner cell": _inner,
    "layer": _layer,
    "trainable": _trainable,
    "replaced weight": _replaced,
    "dtype policy": _policy,
    "initializer": _weights,
    "method of a cell": lambda: (lambda c: (c, lambda: setattr(c, "step", scaled)))(
        cellkit.create("mgu", units=4)
    ),
}


def _counted() -> Any:
    def function(x: Any) -> Any:
        return x

    function.count = 1  # type: ignore[attr-defined]
    return function


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("place", ["root", "attribute", "list", "closure"])
def test_a_change_is_noticed_once(name: str, place: str) -> None:
    """A change at any depth changes the key, once."""
    value, change = CHANGES[name]()
    root = {
        "root": lambda: value,
        "attribute": lambda: Plain(x=Plain(_y=value)),
        "list": lambda: [{"x": (value,)}],
        "closure": lambda: closure([1, value]),
    }[place]()
    watch = Watch(root)
    before = watch.key()
    assert not watch.changed()
    assert watch.key() == before
    change()
    after = watch.key()
    assert after != before
    assert watch.changed()
    assert not watch.changed()
    assert watch.key() == after


def test_what_the_module_holds_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Globals that a function names count."""
    watch = Watch(Plain(activation=reads_globals))
    monkeypatch.setitem(reads_globals.__globals__, "FACTOR", 0.25)
    assert watch.changed()
    LEVEL.append(1.0)
    assert watch.changed()
    LEVEL.pop()
    assert watch.changed()
    assert not watch.changed()


def test_attributes_of_a_class_of_the_users_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers, lists and methods of the class count."""
    watch = Watch(Plain())
    Plain.shared.append(3)
    assert watch.changed()
    Plain.shared.pop()
    assert watch.changed()
    monkeypatch.setattr(Plain, "method", scaled)
    assert watch.changed()
    assert not watch.changed()


def test_equal_values_are_no_change() -> None:
    """Numbers, texts, tuples and arrays that are replaced by equal ones change nothing."""
    thing = Plain(a=1000, b=1.5, c="ab" * 3, d=(1, (2.5, "x")), e=np.arange(3.0), f=float("nan"))
    watch = Watch(thing)
    thing.a, thing.b, thing.c = int("1000"), float("1.5"), "".join(["ab"] * 3)
    thing.d, thing.e, thing.f = (1, (float("2.5"), "x")), np.arange(3.0), float("nan")
    assert not watch.changed()
    thing.e[0] = 5.0
    assert watch.changed()


def test_values_of_variables_are_no_change() -> None:
    """They are arguments of what is compiled."""
    cell = cellkit.create("lstm", units=4)
    layer = cellkit.RNN(cell)
    layer(np.zeros((2, 3, 5), "float32"))
    watch = Watch(layer)
    cell.kernel.assign(np.ones(cell.kernel.shape))
    cell.set_weights([w + 1 for w in cell.get_weights()])
    assert not watch.changed()


CELLS = {
    "lstm": lambda: cellkit.create("lstm", units=3, dropout=0.2, recurrent_dropout=0.2),
    "zoneout": lambda: cellkit.create("gru", units=3, zoneout=0.2),
    "keras lstm": lambda: keras.layers.LSTMCell(3, dropout=0.2, recurrent_dropout=0.2),
    "keras gru": lambda: keras.layers.GRUCell(3, dropout=0.2),
    "keras rnn": lambda: keras.layers.SimpleRNNCell(3, dropout=0.2),
    "stack": lambda: [cellkit.create("mgu", units=3), keras.layers.GRUCell(3, dropout=0.2)],
    "convolution": lambda: cellkit.create("lstm", units=3, activation=keras.layers.PReLU()),
}


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("stateful", [False, True])
def test_calls_are_no_change(name: str, stateful: bool) -> None:
    """Things that Keras and this package keep in a call do not count, in any mode and order."""
    layer = cellkit.RNN(CELLS[name](), stateful=stateful, return_sequences=True)
    x = np.random.RandomState(0).randn(2, 3, 4).astype("float32")
    layer(x)
    watch = Watch(layer)
    for training in (False, True, False):
        layer(x, training=training, mask=np.ones((2, 3), bool))
        assert not watch.changed()
    model = keras.Sequential([keras.Input(batch_shape=(2, 3, 4)), layer])
    model.compile("sgd", "mse")
    model.predict(x, verbose=0)
    watch = Watch(layer)
    model.fit(x, np.zeros((2, 3, 3)), verbose=0, epochs=2)
    assert not watch.changed()


def test_a_check_finds_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is walked through in calls of the usual cells where nothing changed."""
    import cellkit.cells.watch as module

    for make in CELLS.values():
        layer = cellkit.RNN(make())
        layer(np.zeros((2, 3, 4), "float32"))
        watch = Watch(layer)
        with monkeypatch.context() as patch:
            patch.setattr(module, "View", lambda *_: pytest.fail("walked through all of it"))
            layer(np.zeros((2, 3, 4), "float32"))
            watch.key()


def test_iterators_are_not_seen() -> None:
    """An iterator that a step takes from is named: nobody can tell how far it is."""
    assert Watch(Plain(a=[1])).unseen is None
    assert "iterator" in str(Watch(Plain(a=iter([1]))).unseen)
    assert "objects" in str(Watch(Plain(a=list(range(30_000)))).unseen)


def test_a_watch_is_not_copied() -> None:
    """A copy has a view of its own roots, not of the original's."""
    assert copy.deepcopy(Watch(Plain())) is None


def test_to_forget_counts_as_a_change() -> None:
    """It is for what is not seen."""
    watch = Watch(Plain())
    before = watch.key()
    watch.forget()
    assert watch.key() != before


@pytest.mark.skipif(BACKEND != "torch", reason="tensors that change in place are PyTorch's")
def test_tensors_of_torch_are_noticed() -> None:
    """A tensor that is not a variable counts with its content, a trained one with its identity."""
    import torch

    for make in (lambda: torch.zeros(3), lambda: torch.zeros(10**5)):
        thing = Plain(a=make())
        watch = Watch(thing)
        thing.a[1] = 5.0
        assert watch.changed()
        thing.a = make()
        assert watch.changed()
        assert not watch.changed()
    thing = Plain(a=torch.zeros(3))
    watch = Watch(thing)
    thing.a.data[1] = 5.0
    assert watch.changed()
    thing = Plain(a=torch.nn.Linear(2, 2))
    watch = Watch(thing)
    with torch.no_grad():
        thing.a.weight.add_(1.0)
    assert not watch.changed()
    thing.a.weight = torch.nn.Parameter(torch.zeros(2, 2))
    assert watch.changed()
