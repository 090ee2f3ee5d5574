"""Random cells: the source of a class, how a layer runs it, and what happens between its calls."""

from __future__ import annotations

import dataclasses
import itertools
import linecache
from typing import Any

from .choices import Choices
from .parts import EFFECTS, PRELUDE
from .writer import Writer

FEATURES = 3
# A few shapes only, since JAX compiles for each. A batch of one, a batch as wide as the state, and
# a single step are among them.
SHAPES = {(3, 4): 6, (2, 5): 3, (4, 3): 2, (1, 4): 1, (3, 1): 1}
KINDS = {"cell": 8, "layer": 3, "gated": 4, "linear": 3, "stock": 2, "stack": 2}
DTYPES = {"float64": 9, "float32": 1}
MASKS = {"none": 4, "random": 3, "right": 1, "nothing": 1, "integers": 1}
STOCK = {
    "lstm": ("activation", "recurrent_activation"),
    "gru": ("activation", "recurrent_activation"),
    "simple_rnn": ("activation",),
    "mgu": ("activation", "recurrent_activation"),
    "peephole_lstm": ("activation", "recurrent_activation"),
    "min_gru": (),
    "qrnn": (),
    "ugrnn": ("activation",),
    "slstm": (),
    "lru": (),
}
# Activations, and the ways to change them.
ACTIVATIONS = {
    "'tanh'": ("cell.{0} = ops.sin",),
    "'sigmoid'": ("cell.{0} = keras.activations.relu",),
    "'relu'": ("cell.{0} = ops.tanh",),
    "ops.sin": ("cell.{0} = ops.tanh", "cell.{0} = Scaler(0.4)"),
    "Scaler(0.6)": ("cell.{0}.factor = -0.4",),
    "Scaler(0.6).scaled": ("cell.{0}.__self__.factor = -0.4",),
    "functools.partial(ops.multiply, 0.6)": ("cell.{0} = functools.partial(ops.multiply, -0.4)",),
    "functools.partial(ops.leaky_relu, negative_slope=0.3)": (
        "cell.{0}.keywords['negative_slope'] = 0.8",
    ),
    "keras.layers.LeakyReLU(0.3)": ("cell.{0}.negative_slope = 0.9",),
    "closed(Scaler(0.6))": ("cell.{0}.__closure__[0].cell_contents.factor = -0.4",),
}
WEIGHTS = (
    "for v in cell.trainable_variables: v.assign(-0.7 * ops.convert_to_tensor(v))",
    "cell.trainable_variables[0].assign(0.5 * ops.convert_to_tensor(cell.trainable_variables[0]))",
)
LAYER_CHANGES = (
    "layer.go_backwards = not layer.go_backwards",
    "layer.return_sequences = not layer.return_sequences",
    "layer.zero_output_for_mask = not layer.zero_output_for_mask",
)


RESETS = {"none": 70, "resets": 14, "segments": 10, "both": 6}


@dataclasses.dataclass
class Call:
    """One call of a layer, and what is changed before it."""

    shape: tuple[int, int]
    seed: int
    mask: str
    lengths: bool
    states: bool
    training: bool
    gradient: bool
    change: str | None
    resets: str = "none"


@dataclasses.dataclass
class Recipe:
    """A random cell and its calls.

    Args:
        choices: The choices that it was drawn with.
        source: The classes that it needs, after the prelude.
        cell: The expression that makes it.
        dtype: Of the layer and the cell.
        options: The options of the layer.
        calls: The calls.
        probes: Expressions that show what the effects of Python have come to.
        tags: Names of its parts.
        rules: The expressions that it is made of.
        rounded: True if some of it is computed in float32.
    """

    choices: list[int]
    source: str
    cell: str
    dtype: str
    options: dict[str, Any]
    calls: list[Call]
    probes: list[str]
    tags: set[str]
    rules: set[str]
    rounded: bool

    def text(self) -> str:
        """Return the recipe for a reader."""
        lines = [self.source.strip(), "", f"cell = {self.cell}"]
        options = "".join(f", {k}={v!r}" for k, v in self.options.items())
        lines.append(f"layer = cellkit.RNN(cell, dtype={self.dtype!r}{options})")
        for number, call in enumerate(self.calls):
            if call.change:
                lines.append(call.change)
            fields = dataclasses.asdict(call)
            del fields["change"]
            said = ", ".join(f"{k}={v}" for k, v in fields.items())
            lines.append(f"# call {number}: {said}")
        return "\n".join(lines)

    def namespace(self) -> dict[str, Any]:
        """Run the source and return its names."""
        return executed(PRELUDE + "\n\n" + self.source)


_numbers = itertools.count()


def executed(source: str) -> dict[str, Any]:
    """Return the names that a module with this source defines."""
    number = next(_numbers)
    name = f"<random cell {number}>"
    # Where TensorFlow and error messages look for the source, as long as the cell is in use.
    linecache.cache.pop(f"<random cell {number - 50}>", None)
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    names: dict[str, Any] = {"__name__": __name__}
    exec(compile(source, name, "exec"), names)
    return names


def drawn(choices: Choices, host: bool = True, flavour: str | None = None) -> Recipe:
    """Draw a cell and its calls.

    Args:
        choices: The source of choices.
        host: True if values of tensors may reach Python, and effects of Python the numbers. A
            compiled loop runs no such cell.
        flavour: The kind of operation beside row-wise ones in each step. None: it is drawn.
    """
    kind = choices.weighted(KINDS)
    dtype = choices.weighted(DTYPES)
    sources, makers, changes, probes = [], [], [], []
    tags, rounded = {f"kind {kind}"}, False
    rules: set[str] = set()
    parts = [kind]
    if kind == "stack":
        parts = [choices.one(["cell", "gated", "linear", "layer"]), choices.one(["stock", "gated"])]
    for index, part in enumerate(parts):
        place = "cell" if kind != "stack" else f"cell.cells[{index}]"
        if part == "stock":
            maker, own = _stock(choices, dtype)
        else:
            writer = Writer(choices, host, f"Cell{index}", dtype, kind == "stack", flavour)
            sources.append(writer.write(part))
            own = writer.changes()
            options = _options(choices, part, own, tags)
            maker = f"Cell{index}({'4, ' if part != 'layer' else ''}{options}dtype={dtype!r})"
            shown = [EFFECTS[n].probe for n in EFFECTS if n in writer.parts]
            probes += [p.replace("cell.", f"{place}.") for p in shown]
            tags |= writer.tags
            rules |= writer.rules
            rounded |= writer.rounded
        makers.append(maker)
        changes += [c.replace("cell.", f"{place}.") for c in own]
    cell = makers[0]
    if kind == "stack":
        cell = f"cellkit.StackedCells([{', '.join(makers)}], dtype={dtype!r})"
    rounded = rounded or dtype == "float32"
    source = "\n\n".join(sources)
    if not host and not rounded:
        # Another way to compute what Keras computes in float32 on JAX.
        source, cell, *changes = [
            text.replace("ops.tanh", "tanh").replace("ops.sin", "ops.softsign")
            for text in (source, cell, *changes)
        ]
    options = _layer_options(choices)
    calls = _calls(choices, changes, bool(options.get("stateful")))
    return Recipe(choices.made, source, cell, dtype, options, calls, probes, tags, rules, rounded)


def _options(choices: Choices, kind: str, changes: list[str], tags: set[str]) -> str:
    """Draw keyword arguments of a cell of cellkit."""
    if kind == "layer":
        return ""
    said = "seed=5, "
    if kind == "gated":
        for name in ("activation", "recurrent_activation"):
            if choices.chance(50):
                value = choices.one(list(ACTIVATIONS))
                said += f"{name}={value}, "
                changes += [c.replace("{0}", name) for c in ACTIVATIONS[value]]
        if choices.chance(15):
            said += "recurrent_dropout=0.4, "
            tags.add("random")
    if choices.chance(12):
        said += "zoneout=0.3, "
        tags.add("random")
    if choices.chance(10):
        said += "dropout=0.4, "
        tags.add("random")
    if choices.chance(20):
        changes.append(choices.one(["cell.zoneout = 0.2", "cell.dropout = 0.3"]))
    return said


def _stock(choices: Choices, dtype: str) -> tuple[str, list[str]]:
    name = choices.one(list(STOCK))
    said, changes = "", []
    for activation in STOCK[name]:
        if choices.chance(50):
            value = choices.one(list(ACTIVATIONS))
            said += f"{activation}={value}, "
            changes += [c.replace("{0}", activation) for c in ACTIVATIONS[value]]
        else:
            changes.append(f"cell.{activation} = ops.sin")
    return f"cellkit.create({name!r}, units=4, {said}seed=5, dtype={dtype!r})", changes


def _layer_options(choices: Choices) -> dict[str, Any]:
    options: dict[str, Any] = {"return_sequences": choices.chance(60), "return_state": True}
    if not choices.chance(60):
        return options
    if choices.chance(10):
        options["return_state"] = False
    for name, percent, values in (
        ("go_backwards", 20, [True]),
        ("zero_output_for_mask", 20, [True]),
        ("stateful", 12, [True]),
        ("remat", 12, [True, 2]),
        ("truncate_gradient", 12, [2, 1, 3]),
        ("unroll", 10, [True, 2]),
    ):
        if choices.chance(percent):
            options[name] = choices.one(values)
    return options


def _calls(choices: Choices, changes: list[str], stateful: bool) -> list[Call]:
    calls: list[Call] = []
    for number in range(2 + choices.below(3)):
        shape = choices.weighted(SHAPES)
        if calls and (stateful or choices.chance(80)):
            shape = calls[0].shape
        change = None
        if number and choices.chance(75):
            pool = changes if changes and choices.chance(75) else [*WEIGHTS, *LAYER_CHANGES]
            change = choices.one(pool)
        calls.append(
            Call(
                shape=shape,
                seed=choices.below(1000),
                mask=choices.weighted(MASKS),
                lengths=choices.chance(15),
                states=choices.chance(35),
                training=choices.chance(40),
                gradient=choices.chance(50)
                if not calls or choices.chance(40)
                else calls[0].gradient,
                change=change,
                resets=choices.weighted(RESETS),
            )
        )
    return calls
