"""Random cells: the source of a class, how a layer runs it, and what happens between its calls."""

from __future__ import annotations

import dataclasses
import itertools
import linecache
import re
from typing import Any

from .choices import Choices
from .grammar import FLAVOURS, FULL, HALF, MATRIX, ONE, READ, Body, Tail
from .parts import EFFECTS, PARTS, PRELUDE

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
# What an activation may be, and what changes it.
ACTIVATIONS = {
    "'tanh'": ("cell.{0} = ops.sin",),
    "'sigmoid'": ("cell.{0} = keras.activations.relu",),
    "'relu'": ("cell.{0} = ops.tanh",),
    "ops.sin": ("cell.{0} = ops.tanh", "cell.{0} = Scaler(0.4)"),
    "Scaler(0.6)": ("cell.{0}.factor = -0.4",),
    "Scaler(0.6).scaled": ("cell.{0}.__self__.factor = -0.4",),
    "functools.partial(ops.multiply, 0.6)": (
        "cell.{0} = functools.partial(ops.multiply, -0.4)",
    ),
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


@dataclasses.dataclass
class Recipe:
    """A random cell and its calls.

    Args:
        choices: What it was drawn from.
        source: The classes that it needs, after the prelude.
        cell: The expression that makes it.
        dtype: Of the layer and the cell.
        options: The options of the layer.
        calls: The calls.
        probes: Expressions that show what the effects of Python have come to.
        tags: What it has in it.
        rules: The expressions that it is made of.
        rounded: Whether some of it is computed in float32.
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
    name = f"<random cell {next(_numbers)}>"
    # Where TensorFlow and error messages look for the source.
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    names: dict[str, Any] = {"__name__": __name__}
    exec(compile(source, name, "exec"), names)
    return names


@dataclasses.dataclass
class _State:
    """A leaf of the states: how it is declared, read and updated."""

    declared: str
    tail: Tail | None
    read: str
    write: str

    def update(self, body: Body, old: str) -> str:
        """Return the expression of the new state."""
        if self.tail is None:
            value = body.pick(FULL)
        else:
            value = body.pick(self.tail)
        body.parts.update()
        return self.write.replace("{new}", value.name).replace("{old}", old)


def _states(dtype: str, cell: bool) -> dict[str, _State]:
    narrow = "float32" if dtype == "float64" else "float64"
    wide = "complex128" if dtype == "float64" else "complex64"
    spec = "cellkit.TensorSpec"
    plain = {
        "vector": _State("4", FULL, "{old}", "ops.tanh({new}) * 0.7 + 0.3 * {old}"),
        "bound": _State("4", FULL, "{old}", "ops.clip({new}, -2.0, 2.0)"),
        "half": _State("2", HALF, "{old}", "ops.tanh({new} + 0.5 * {old})"),
        "matrix": _State("(2, 2)", MATRIX, "{old}", "ops.tanh({new}) + 0.5 * {old}"),
        "ones": _State(f"{spec}(4, initializer='ones')", FULL, "{old}", "ops.tanh({new} - {old})"),
        "counter": _State(
            f"{spec}(1, dtype='int32')", ONE, "ops.cast({old}, DTYPE)", "{old} + 1"
        ),
        "steps": _State(
            f"{spec}(4, dtype='int32')",
            FULL,
            "ops.cast({old}, DTYPE) * 0.1",
            "{old} + ops.cast({new} > 0, 'int32')",
        ),
        "sum": _State(
            f"{spec}(4, dtype={narrow!r})",
            FULL,
            "ops.cast({old}, DTYPE)",
            f"0.5 * {{old}} + ops.cast(ops.tanh({{new}}), {narrow!r})",
        ),
        "flag": _State(f"{spec}(4, dtype='bool')", FULL, "ops.cast({old}, DTYPE)", "{new} > 0"),
        "wave": _State(
            f"{spec}(4, dtype={wide!r})",
            FULL,
            "ops.real({old}) + 0.3 * ops.imag({old})",
            f"(0.6 + 0.5j) * {{old}} + ops.cast(ops.tanh({{new}}), {wide!r})",
        ),
    }
    if cell:
        plain["learned"] = _State(
            f"{spec}(4, initializer=0.3, trainable=True)", FULL, "{old}", "ops.tanh({new} - {old})"
        )
    return plain


ORDINARY = ("vector", "bound", "half", "matrix", "ones", "learned")


class _Writer:
    """Draws one class of a cell."""

    def __init__(
        self, choices: Choices, host: bool, name: str, dtype: str, single: bool = False
    ) -> None:
        self.choices, self.host, self.name, self.dtype = choices, host, name, dtype
        self.weights: dict[str, Tail] = {}
        self.parts: set[str] = set()
        self.flavour = choices.weighted(FLAVOURS if host else {**FLAVOURS, "host": 0})
        self.tags = {self.flavour}
        exact = dtype == "float64" and not choices.chance(25)
        self.exact, self.rounded = exact, not exact
        self.common = choices.chance(65)
        self.rules: set[str] = set()
        self.single = single  # whether the output must be one vector

    def body(self) -> Body:
        return Body(
            self.choices,
            self.host,
            self.weights,
            self.parts,
            self.exact,
            self.common,
            self.rules,
        )

    def fill(self, body: Body, most: int, flavoured: bool = True) -> None:
        """Add operations, some of them of the flavour of this cell."""
        for _ in range(most):
            if self.choices.chance(60):
                body.grow()
        if flavoured and self.flavour != "plain":
            body.grow(self.flavour)
        for _ in range(most // 2):
            if self.choices.chance(40):
                body.grow()
        if self.flavour in ("attributes", "inner") and self.choices.chance(30):
            body.grow(self.choices.one(["attributes", "inner"]))

    def layout(self, cell: bool, mapping: bool) -> tuple[str, list[tuple[str, _State]], str]:
        """Draw the states.

        Returns:
            The declaration, an expression and the kind of each leaf, and a template of what a step
            returns.
        """
        choices = self.choices
        kinds = _states(self.dtype, cell)
        pure = choices.chance(75)
        names = [n for n in kinds if not pure or n in ORDINARY]
        if self.exact and "sum" in names:
            names.remove("sum")
        form = choices.weighted({"single": 5, "one": 1, "list": 4, "dict": 2, "nested": 1, "pair": 1})
        form = "list" if form == "dict" and not mapping else form
        count = {"single": 1, "one": 1, "pair": 2, "nested": 3}.get(form) or 2 + choices.below(2)
        drawn = ["vector"] + [choices.one(names) for _ in range(count - 1)]
        if form == "single" and choices.chance(30):
            drawn = [choices.one(names)]
        leaves = [kinds[n] for n in drawn]
        self.tags |= {f"state {n}" for n in drawn if n not in ORDINARY}
        declared = [leaf.declared for leaf in leaves]
        if form == "single":
            returned = "{0}" if not cell and choices.chance(10) else "[{0}]"
            return declared[0], [("states[0]", leaves[0])], returned
        if form == "dict":
            keys = ["h", "c", "a"][:count]
            size = ", ".join(f"{k!r}: {d}" for k, d in zip(keys, declared, strict=True))
            returned = ", ".join(f"{k!r}: {{{i}}}" for i, k in enumerate(keys))
            paths = [f"states[{k!r}]" for k in keys]
            return "{" + size + "}", list(zip(paths, leaves, strict=True)), "{" + returned + "}"
        if form == "pair":
            paths = ["states.a", "states.b"]
            size = f"Pair({declared[0]}, {declared[1]})"
            return size, list(zip(paths, leaves, strict=True)), "Pair({0}, {1})"
        if form == "nested":
            paths = ["states[0]", "states[1][0]", "states[1][1]"]
            size = f"[{declared[0]}, [{declared[1]}, {declared[2]}]]"
            return size, list(zip(paths, leaves, strict=True)), "[{0}, [{1}, {2}]]"
        paths = [f"states[{i}]" for i in range(count)]
        returned = ", ".join(f"{{{i}}}" for i in range(count))
        size = ", ".join(declared)
        return f"[{size}]", list(zip(paths, leaves, strict=True)), f"[{returned}]"

    def read(self, body: Body, leaves: list[tuple[str, _State]]) -> list[str]:
        """Give a body its states; return the names of their leaves."""
        names = []
        for i, (path, leaf) in enumerate(leaves):
            body.lines.append(f"s{i} = {path}")
            names.append(f"s{i}")
            if leaf.read != "{old}":
                read = leaf.read.replace("{old}", f"s{i}").replace("DTYPE", "self.compute_dtype")
                body.lines.append(f"r{i} = {read}")
            body.give(f"s{i}" if leaf.read == "{old}" else f"r{i}", leaf.tail or FULL)
        return names

    def finish(self, body: Body, leaves: list[tuple[str, _State]], returned: str) -> str:
        """Add the new states and the output; return the declared size of the output."""
        choices = self.choices
        news = []
        for i, (_, leaf) in enumerate(leaves):
            body.lines.append(f"n{i} = {leaf.update(body, f's{i}')}")
            news.append(f"n{i}")
        first = leaves[0][1]
        form = choices.weighted({"state": 5, "value": 4, "dict": 1, "tuple": 1})
        ordinary = first.read == "{old}" and first.tail == FULL
        if form == "state" and ordinary:
            output, size = "n0", "4"
        elif form == "dict" and not self.single:
            output = f"{{'a': {body.bounded(FULL)}, 'b': {body.bounded(HALF)}}}"
            size = "{'a': 4, 'b': 2}"
        elif form == "tuple" and not self.single:
            output, size = f"({body.bounded(FULL)}, {body.bounded(ONE)})", "[4, 1]"
        else:
            output, size = body.bounded(FULL), "4"
        for i, new in enumerate(news):
            returned = returned.replace(f"{{{i}}}", new)
        body.lines.append(f"return {output}, {returned}")
        return size

    def start(self, body: Body) -> None:
        """Give a body the inputs of a step."""
        form = self.choices.one(["cellkit.cells.matmul(inputs, W34)", "inputs @ W34"])
        body.let(form, FULL)
        if self.choices.chance(50):
            body.let("{0} + V4", FULL, body.values[-1])

    def write(self, kind: str) -> str:
        """Draw the class."""
        if kind == "linear":
            return self._linear()
        cell = kind != "layer"
        bodies: dict[str, Body] = {}
        size, leaves, returned = self.layout(cell, kind != "gated")
        if kind == "gated":
            if leaves[0][1].tail != FULL or leaves[0][1].read != "{old}":
                size, leaves, returned = "4", [("states[0]", _states(self.dtype, True)["vector"])], "[{0}]"
            gates = {"a": "activation", "b": "recurrent_activation", "c": "activation"}
            gates = dict(list(gates.items())[: 1 + self.choices.below(3)])
            body = bodies["combine(self, gates, states)"] = self.body()
            names = self.read(body, leaves)
            for gate in gates:
                body.lines.append(f"{gate} = gates[{gate!r}]")
                body.give(gate, FULL)
        elif kind == "cell" and self.choices.chance(60):
            before = bodies["project(self, inputs)"] = self.body()
            self.start(before)
            if self.choices.chance(40):
                # What is read on the host, or of other rows, breaks the rule of `project`.
                self.fill(before, 3, self.flavour in ("attributes", "inner"))
            before.lines.append(f"return {before.pick(FULL).name}")
            body = bodies["step(self, projected, states)"] = self.body()
            names = self.read(body, leaves)
            body.give("projected", FULL)
        else:
            head = "step(self, inputs, states)" if cell else "call(self, inputs, states, training=False)"
            body = bodies[head] = self.body()
            names = self.read(body, leaves)
            self.start(body)
        self.fill(body, 6)
        if len(leaves) and body.choices.chance(80):
            # Most steps are recurrent.
            value = body.values[len(names) - 1] if body.values else None
            if value is not None and value.tail == FULL:
                body.let("{0} + {1}", FULL, body.pick(FULL), value)
        output = self.finish(body, leaves, returned)
        base = {"cell": "cellkit.Cell", "layer": "keras.layers.Layer", "gated": "cellkit.GatedCell"}
        extra = [f"gates = {gates!r}"] if kind == "gated" else []
        return self._class(base[kind], extra, size, output, bodies, cell)

    def _linear(self) -> str:
        before, middle, after = self.body(), self.body(), self.body()
        self.start(before)
        if self.choices.chance(40):
            self.fill(before, 3, self.flavour in ("attributes", "inner"))
        before.lines.append(f"return {before.pick(FULL).name}")
        middle.give("projected", FULL)
        self.fill(middle, 4, self.flavour in ("attributes", "inner", "effects"))
        a = self.choices.one(["ops.sigmoid({0})", "0.8", "0.9 * ops.tanh({0})"])
        a = a.replace("{0}", middle.pick(FULL).name)
        middle.lines.append(f"return {a}, {middle.bounded(FULL)}")
        after.lines.append("h = ops.cast(keras.tree.flatten(states)[0], self.compute_dtype)")
        after.give("projected", FULL)
        after.give("h", FULL)
        self.fill(after, 3, False)
        after.lines.append(f"return {after.bounded(FULL)}")
        bodies = {"project(self, inputs)": before, "coefficients(self, projected)": middle}
        if self.choices.chance(60):
            bodies["read(self, states, projected)"] = after
        return self._class("cellkit.LinearCell", [], None, None, bodies, True)

    def _class(
        self, base: str, extra: list[str], size: Any, output: Any, bodies: dict[str, Body], cell: bool
    ) -> str:
        # Half of the cells keep values that nothing uses: a step may look at what it throws away.
        untidy = self.choices.chance(50)
        texts = {head: body.lines if untidy else body.tidied() for head, body in bodies.items()}
        text = "\n".join(line for lines in texts.values() for line in lines)
        read = set(re.findall(READ, text))
        self.parts &= read
        used = [n for n in (*PARTS, *EFFECTS) if n in read]
        inits = [PARTS[n].init if n in PARTS else EFFECTS[n].init for n in used]
        inits = [line for line in inits if line]
        declared = [PARTS[n].declared for n in used if n in PARTS and PARTS[n].declared]
        builds = [PARTS[n].build for n in used if n in PARTS and PARTS[n].build]
        for name, shape in self.weights.items():
            if name not in read:
                continue
            if not cell:
                builds.append(f"self.{name} = self.add_weight(shape={shape}, name={name!r})")
            elif name[0] == "V":
                builds.append(f"self.{name} = self.add_bias({shape}, name={name!r})")
            else:
                builds.append(f"self.{name} = self.add_kernel({shape}, name={name!r})")
        units, arguments = ("units=4, ", "units, ") if cell else ("", "")
        lines = [f"class {self.name}({base}):", *(f"    {line}" for line in (*extra, *declared))]
        lines += ["", f"    def __init__(self, {units}**kwargs):"]
        lines += [f"        super().__init__({arguments}**kwargs)"]
        if not cell:
            lines += [f"        self.state_size = {size}", f"        self.output_size = {output}"]
        lines += [f"        {line}" for line in inits]
        if cell and size is not None:
            lines += ["", "    @property", "    def state_size(self):", f"        return {size}"]
            lines += ["", "    @property", "    def output_size(self):", f"        return {output}"]
        if builds or not cell:
            lines += ["", "    def build(self, input_shape):"]
            lines += ["        super().build(input_shape)"] if cell else []
            lines += [f"        {line}" for line in builds] or ["        pass"]
        for head, body_lines in texts.items():
            lines += ["", f"    def {head}:", *(f"        {line}" for line in body_lines)]
        return "\n".join(lines) + "\n"

    def changes(self) -> list[str]:
        """Return what may be changed between two calls."""
        return [c for n in PARTS if n in self.parts for c in PARTS[n].changes]


def drawn(choices: Choices, host: bool = True) -> Recipe:
    """Draw a cell and its calls.

    Args:
        choices: What draws.
        host: Whether values of tensors may reach Python, and effects of Python the numbers. A
            compiled loop runs no such cell.
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
            writer = _Writer(choices, host, f"Cell{index}", dtype, kind == "stack")
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
        # What Keras computes in float32 on JAX, another way.
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
                gradient=choices.chance(50) if not calls or choices.chance(40) else calls[0].gradient,
                change=change,
            )
        )
    return calls
