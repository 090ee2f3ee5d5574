"""Things that a cell keeps beside its weights: attributes that change, parts, effects."""

from __future__ import annotations

import dataclasses

PRELUDE = '''\
import collections
import dataclasses
import functools
import itertools
import math
import types

import keras
import numpy as np
from keras import ops

import cellkit


class Scaler:
    """An object that can be called, with an attribute that can be changed."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return x * self.factor

    def scaled(self, x):
        return x * self.factor


class Slotted:
    """An object without a `__dict__`."""

    __slots__ = ("factor",)

    def __init__(self, factor):
        self.factor = factor


@dataclasses.dataclass(frozen=True)
class Setting:
    """An object that can only be replaced."""

    factor: float


Pair = collections.namedtuple("Pair", ["a", "b"])


def closed(scaler):
    """Return a function that finds the scaler in its closure."""
    return lambda x: x * scaler.factor


def defaulted(scaler):
    """Return a function that finds the scaler in its defaults."""

    def function(x, by=scaler):
        return x * by.factor

    return function


def complex_like(x):
    """Return the name of the complex dtype of a real one."""
    return "complex64" if keras.backend.standardize_dtype(x.dtype) == "float32" else "complex128"


def tanh(x):
    """Compute what `ops.tanh` rounds to float32 on JAX (Keras 3.15.1)."""
    return 2 * ops.sigmoid(2 * x) - 1


def halved(h):
    """Halve a tensor until it is small: a loop whose turns depend on the values."""
    while float(ops.max(ops.abs(ops.stop_gradient(h)))) > 0.4:
        h = 0.5 * h
    return h


def guarded(h):
    """Read a value where it can be read."""
    try:
        return h * float(ops.max(ops.stop_gradient(h)))
    except Exception:
        return 0.5 * h


LEVEL = 0.6
TABLE = {"a": [0.7]}


def through(x):
    """Read a global."""
    return x * TABLE["a"][0]


class Fuse(cellkit.GatedCell):
    """A cell with two gates."""

    gates = {"z": "recurrent_activation", "n": "activation"}

    def combine(self, gates, states):
        h = gates["z"] * states[0] + (1 - gates["z"]) * gates["n"]
        return h, [h]
'''


@dataclasses.dataclass(frozen=True)
class Part:
    """An attribute of a cell.

    Args:
        init: The lines that make it, for `__init__`.
        uses: Expressions that read it, from vectors of four to vectors of four.
        changes: Statements about `cell` that change it between two calls.
        kind: `"attribute"`, `"inner"`, or `"effect"`.
        build: The lines that build it, for `build`.
        declared: A line of the class itself.
        rounds: True if it computes in float32 on some backend (3.15.1: `ops.matmul`).
    """

    init: str
    uses: tuple[str, ...]
    changes: tuple[str, ...] = ()
    kind: str = "attribute"
    build: str = ""
    rounds: bool = False
    declared: str = ""


PARTS = {
    "gain": Part("self.gain = 0.7", ("{0} * self.gain", "self.gain - {0}"), ("cell.gain = -0.4",)),
    "_gain": Part("self._gain = 0.7", ("{0} * self._gain",), ("cell._gain = -0.4",)),
    "scales": Part(
        "self.scales = (0.6, 0.8)",
        ("{0} * self.scales[1]", "sum(s * {0} for s in self.scales)"),
        ("cell.scales = (0.6, -0.5)", "cell.scales = (0.6, 0.8, 0.9)"),
    ),
    "levels": Part(
        "self.levels = [0.6, 0.8]",
        ("{0} * self.levels[1]", "sum(s * {0} for s in self.levels)"),
        ("cell.levels[1] = -0.5", "cell.levels.append(0.9)", "cell.levels = [0.3, 0.2]"),
    ),
    "table": Part(
        "self.table = {'a': 0.6, 'b': [0.4]}",
        ("{0} * self.table['a']", "{0} + self.table['b'][0]"),
        ("cell.table['a'] = -0.5", "cell.table['b'][0] = -0.5"),
    ),
    "vector": Part(
        "self.vector = np.array([0.5, -0.7, 0.9, 0.3])",
        (
            "{0} * ops.convert_to_tensor(self.vector, {0}.dtype)",
            "{0} * ops.cast(self.vector, {0}.dtype)",
            "{0} * float(self.vector[2])",
            "{0} + float(self.vector.sum())",
        ),
        ("cell.vector[2] = -0.8", "cell.vector *= -1", "cell.vector = cell.vector[::-1].copy()"),
    ),
    "_array": Part(
        "self._array = np.array([[0.5, -0.7], [0.9, 0.3]])",
        ("{0} * float(self._array[1, 0])", "ops.tanh({0} * self._array[1, 0].item())"),
        ("cell._array[1, 0] = -0.8",),
    ),
    "tensor": Part(
        "self.tensor = ops.convert_to_tensor(np.array([0.5, -0.7, 0.9, 0.3]))",
        ("{0} * ops.cast(self.tensor, {0}.dtype)",),
        ("cell.tensor = ops.convert_to_tensor(np.array([0.1, 0.2, -0.9, 0.4]))",),
    ),
    "partial": Part(
        "self.partial = functools.partial(ops.multiply, 0.6)",
        ("self.partial({0})", "ops.tanh(self.partial({0}))"),
        ("cell.partial = functools.partial(ops.multiply, -0.4)",),
    ),
    "keyword": Part(
        "self.keyword = functools.partial(ops.leaky_relu, negative_slope=0.3)",
        ("self.keyword({0})",),
        ("cell.keyword.keywords['negative_slope'] = 0.8",),
    ),
    "scaler": Part(
        "self.scaler = Scaler(0.6)",
        ("self.scaler({0})", "{0} * self.scaler.factor"),
        (
            "cell.scaler.factor = -0.4",
            "cell.scaler = Scaler(-0.4)",
            "Scaler.__call__ = lambda self, x: 0.2 - x",
        ),
    ),
    "method": Part(
        "self.method = Scaler(0.6).scaled",
        ("self.method({0})",),
        ("cell.method.__self__.factor = -0.4", "cell.method = Scaler(0.3).scaled"),
    ),
    "slotted": Part(
        "self.slotted = Slotted(0.6)",
        ("{0} * self.slotted.factor",),
        ("cell.slotted.factor = -0.4",),
    ),
    "setting": Part(
        "self.setting = Setting(0.6)",
        ("{0} * self.setting.factor",),
        ("cell.setting = Setting(-0.4)",),
    ),
    "settings": Part(
        "self.settings = types.SimpleNamespace(rates={'a': [0.6]})",
        ("{0} * self.settings.rates['a'][0]",),
        ("cell.settings.rates['a'][0] = -0.4",),
    ),
    "deep": Part(
        "self.deep = {'x': [Scaler(0.6), (Scaler(0.8),)]}",
        ("self.deep['x'][0]({0})", "self.deep['x'][1][0]({0})"),
        ("cell.deep['x'][0].factor = -0.4; cell.deep['x'][1][0].factor = 0.1",),
    ),
    "pair": Part(
        "self.pair = Pair(0.6, [0.8])",
        ("{0} * self.pair.a * self.pair.b[0]",),
        ("cell.pair = Pair(-0.6, [0.8])", "cell.pair.b[0] = -0.5"),
    ),
    "function": Part(
        "self.function = closed(Scaler(0.6))",
        ("self.function({0})",),
        (
            "cell.function.__closure__[0].cell_contents.factor = -0.4",
            "cell.function = closed(Scaler(0.3))",
        ),
    ),
    "default": Part(
        "self.default = defaulted(Scaler(0.6))",
        ("self.default({0})",),
        ("cell.default.__defaults__[0].factor = -0.4",),
    ),
    "mode": Part(
        "self.mode = 'a'", ("({0} if self.mode == 'a' else 0.3 * {0})",), ("cell.mode = 'b'",)
    ),
    "flag": Part("self.flag = True", ("({0} if self.flag else -{0})",), ("cell.flag = False",)),
    "count": Part(
        "self.count = 2",
        ("functools.reduce(lambda h, _: ops.tanh(h), range(self.count), {0})",),
        ("cell.count = 1", "cell.count += 1"),
    ),
    "names": Part(
        "self.names = {'a'}", ("{0} * (0.5 * len(self.names))",), ("cell.names.add('b')",)
    ),
    "queue": Part(
        "self.queue = collections.deque([0.6, 0.7])",
        ("{0} * self.queue[0]",),
        ("cell.queue.appendleft(-0.4)",),
    ),
    "number": Part(
        "self.number = np.float64(0.6)",
        ("{0} * float(self.number)",),
        ("cell.number = np.float64(-0.4)",),
    ),
    "optional": Part(
        "self.optional = None",
        ("({0} if self.optional is None else 0.3 * {0})",),
        ("cell.optional = 1",),
    ),
    "raw": Part(
        "self.raw = bytearray(b'ab')", ("{0} * (self.raw[0] / 97)",), ("cell.raw[0] = 50",)
    ),
    "helper": Part(
        "self.helper = lambda x: 0.6 * x",
        ("self.helper({0})",),
        (
            "cell.helper = lambda x: -0.4 * x",
            "cell.helper = types.MethodType(lambda self, x: -x, cell)",
        ),
    ),
    "LEVEL": Part("", ("{0} * LEVEL",), ("LEVEL = -0.4",)),
    "through": Part("", ("through({0})",), ("TABLE['a'][0] = -0.4", "TABLE = {'a': [0.2]}")),
    "grade": Part(
        "",
        ("{0} * self.grade",),
        ("type(cell).grade = -0.4", "cell.grade = 0.3"),
        declared="grade = 0.6",
    ),
    "turned": Part(
        "",
        ("self.turned({0})",),
        (
            "type(cell).turned = lambda self, x: 0.3 * x",
            "cell.turned = types.MethodType(lambda self, x: -x, cell)",
        ),
        declared="turned = lambda self, x: 0.6 * x",
    ),
    # Parts that are layers or cells.
    "leaky": Part(
        "self.leaky = keras.layers.LeakyReLU(0.3, dtype=self.dtype_policy)",
        ("self.leaky({0})",),
        ("cell.leaky.negative_slope = 0.9",),
        kind="inner",
    ),
    "dense": Part(
        "self.dense = keras.layers.Dense(4, 'tanh', dtype=self.dtype_policy)",
        ("self.dense({0})",),
        ("cell.dense.activation = keras.activations.relu",),
        kind="inner",
        rounds=True,
        build="self.dense.build((None, 4))",
    ),
    "late": Part(
        "self.late = keras.layers.Dense(4, Scaler(0.7), dtype=self.dtype_policy)",
        ("self.late({0})",),
        ("cell.late.activation.factor = -0.4", "cell.late.use_bias = False"),
        kind="inner",
        rounds=True,
    ),
    "norm": Part(
        "self.norm = keras.layers.LayerNormalization(dtype=self.dtype_policy)",
        ("self.norm({0})",),
        ("cell.norm.epsilon = 0.5",),
        kind="inner",
        rounds=True,
        build="self.norm.build((None, 4))",
    ),
    "mgu": Part(
        "self.mgu = cellkit.create('mgu', units=4, dtype=self.dtype_policy)",
        ("self.mgu({0}, [{0}])[0]",),
        ("cell.mgu.activation = keras.activations.relu",),
        kind="inner",
        build="self.mgu.build((None, 4))",
    ),
    "fuse": Part(
        "self.fuse = Fuse(4, activation=Scaler(0.8), dtype=self.dtype_policy)",
        ("self.fuse({0}, [0.5 * {0}])[0]", "self.fuse({0}, [ops.tanh({0})])[1][0]"),
        (
            "cell.fuse.activation.factor = -0.4",
            "cell.fuse.zoneout = 0.4",
            "cell.fuse.recurrent_activation = ops.tanh",
        ),
        kind="inner",
        build="self.fuse.build((None, 4))",
    ),
    "gru": Part(
        "self.gru = keras.layers.GRUCell(4, dtype=self.dtype_policy)",
        ("self.gru({0}, [{0}])[0]",),
        ("cell.gru.activation = keras.activations.relu",),
        kind="inner",
        rounds=True,
        build="self.gru.build((None, 4))",
    ),
    "blocks": Part(
        "self.blocks = [keras.layers.Dense(4, dtype=self.dtype_policy) for _ in range(2)]",
        ("self.blocks[1](ops.tanh(self.blocks[0]({0})))",),
        (
            "cell.blocks[0].activation = keras.activations.relu",
            "cell.blocks[1].kernel.assign(-0.5 * cell.blocks[1].kernel)",
        ),
        kind="inner",
        rounds=True,
        build="for block in self.blocks: block.build((None, 4))",
    ),
}


@dataclasses.dataclass(frozen=True)
class Effect:
    """Something that a step does to the objects of Python.

    Args:
        init: The line that makes what is changed, for `__init__`.
        line: The line of the step.
        uses: Expressions whose value depends on it.
        probe: Expression that shows, after a call, how often it happened.
    """

    init: str
    line: str
    uses: tuple[str, ...]
    probe: str


EFFECTS = {
    "calls": Effect(
        "self.calls = 0",
        "self.calls += 1",
        ("{0} * (1.0 if self.calls % 2 else 0.5)", "{0} / self.calls"),
        "cell.calls",
    ),
    "log": Effect("self.log = []", "self.log.append(1)", ("{0} / len(self.log)",), "len(cell.log)"),
    "seen": Effect(
        "self.seen = {}",
        "self.seen['n'] = self.seen.get('n', 0) + 1",
        ("{0} / self.seen['n']",),
        "dict(cell.seen)",
    ),
    "tally": Effect(
        "self.tally = Scaler(0)",
        "self.tally.factor += 1",
        ("{0} * (self.tally.factor % 3)",),
        "cell.tally.factor",
    ),
    "ticks": Effect(
        "self.ticks = itertools.count(1)",
        "tick = next(self.ticks)",
        ("{0} / tick", "{0} * (tick % 2)"),
        "repr(cell.ticks)",
    ),
    "marks": Effect(
        "self.marks = np.zeros(2)",
        "self.marks[1] += 1",
        ("{0} / float(self.marks[1])",),
        "cell.marks.tolist()",
    ),
    "generator": Effect(
        "self.generator = np.random.default_rng(3)",
        "noise = float(self.generator.normal())",
        ("{0} * noise", "{0} + noise"),
        "cell.generator.bit_generator.state['state']['state']",
    ),
    "queued": Effect(
        "self.queued = collections.deque(maxlen=3)",
        "self.queued.append(len(self.queued))",
        ("{0} * (1 + self.queued[0]) * 0.3",),
        "list(cell.queued)",
    ),
    "tried": Effect(
        "self.tried = set()",
        "self.tried.add(len(self.tried))",
        ("{0} / len(self.tried)",),
        "len(cell.tried)",
    ),
    "text": Effect(
        "self.text = ''", "self.text = self.text + 'x'", ("{0} / len(self.text)",), "cell.text"
    ),
}
