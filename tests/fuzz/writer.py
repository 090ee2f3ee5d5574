"""Random classes of cells: their states, the methods that compute a step, their constructor."""

from __future__ import annotations

import dataclasses
import re

from .choices import Choices
from .grammar import FLAVOURS, FULL, HALF, MATRIX, ONE, READ, Body, Tail
from .parts import EFFECTS, PARTS


@dataclasses.dataclass
class State:
    """A leaf of the states: how it is declared, read and updated."""

    declared: str
    tail: Tail
    read: str
    write: str

    def update(self, body: Body, old: str) -> str:
        """Return the expression of the new state."""
        return self.write.replace("{new}", body.pick(self.tail).name).replace("{old}", old)


def states_of(dtype: str, cell: bool) -> dict[str, State]:
    narrow = "float32" if dtype == "float64" else "float64"
    wide = "complex128" if dtype == "float64" else "complex64"
    spec = "cellkit.TensorSpec"
    plain = {
        "vector": State("4", FULL, "{old}", "ops.tanh({new}) * 0.7 + 0.3 * {old}"),
        "bound": State("4", FULL, "{old}", "ops.clip({new}, -2.0, 2.0)"),
        "half": State("2", HALF, "{old}", "ops.tanh({new} + 0.5 * {old})"),
        "matrix": State("(2, 2)", MATRIX, "{old}", "ops.tanh({new}) + 0.5 * {old}"),
        "ones": State(f"{spec}(4, initializer='ones')", FULL, "{old}", "ops.tanh({new} - {old})"),
        "counter": State(f"{spec}(1, dtype='int32')", ONE, "ops.cast({old}, DTYPE)", "{old} + 1"),
        "steps": State(
            f"{spec}(4, dtype='int32')",
            FULL,
            "ops.cast({old}, DTYPE) * 0.1",
            "{old} + ops.cast({new} > 0, 'int32')",
        ),
        "sum": State(
            f"{spec}(4, dtype={narrow!r})",
            FULL,
            "ops.cast({old}, DTYPE)",
            f"0.5 * {{old}} + ops.cast(ops.tanh({{new}}), {narrow!r})",
        ),
        "flag": State(f"{spec}(4, dtype='bool')", FULL, "ops.cast({old}, DTYPE)", "{new} > 0"),
        "wave": State(
            f"{spec}(4, dtype={wide!r})",
            FULL,
            "ops.real({old}) + 0.3 * ops.imag({old})",
            f"(0.6 + 0.5j) * {{old}} + ops.cast(ops.tanh({{new}}), {wide!r})",
        ),
    }
    if cell:
        plain["learned"] = State(
            f"{spec}(4, initializer=0.3, trainable=True)", FULL, "{old}", "ops.tanh({new} - {old})"
        )
    return plain


# Structures of states: how often each comes, where a step finds the leaves, how it is declared and
# how it is returned.
FORMS = {"single": 5, "one": 1, "two": 3, "three": 2, "named": 1, "pair": 1, "nested": 1}
FORMS_PATHS = {
    "single": ["states[0]"],
    "one": ["states[0]"],
    "two": ["states[0]", "states[1]"],
    "three": ["states[0]", "states[1]", "states[2]"],
    "named": ["states['h']", "states['c']"],
    "pair": ["states.a", "states.b"],
    "nested": ["states[0]", "states[1][0]", "states[1][1]"],
}
FORMS_TEMPLATES = {
    "single": ("{0}", "[{0}]"),
    "one": ("[{0}]", "[{0}]"),
    "two": ("[{0}, {1}]", "[{0}, {1}]"),
    "three": ("[{0}, {1}, {2}]", "[{0}, {1}, {2}]"),
    "named": ("{'h': {0}, 'c': {1}}", "{'h': {0}, 'c': {1}}"),
    "pair": ("Pair({0}, {1})", "Pair({0}, {1})"),
    "nested": ("[{0}, [{1}, {2}]]", "[{0}, [{1}, {2}]]"),
}
# Kinds of states that are tensors of the cell's own dtype.
ORDINARY = ("vector", "bound", "half", "matrix", "ones", "learned")


@dataclasses.dataclass
class Layout:
    """The states of a cell.

    Args:
        declared: The expression of `state_size`.
        leaves: Where a step finds each leaf, and of what kind it is.
        returned: The expression that a step returns, with `{0}` in the place of the first new leaf.
    """

    declared: str
    leaves: list[tuple[str, State]]
    returned: str

    @property
    def plain(self) -> bool:
        """True if the first leaf is an ordinary vector, found under the index 0."""
        path, state = self.leaves[0]
        return path == "states[0]" and state.tail == FULL and state.read == "{old}"


class Writer:
    """Draws one class of a cell.

    Args:
        choices: The source of choices.
        host: True if values of tensors may reach Python, and effects of Python the numbers.
        name: The name of the class.
        dtype: The dtype of the cell.
        single: True if its output must be one vector.
        flavour: The kind of operation beside row-wise ones in a step. None: it is drawn.
    """

    def __init__(
        self,
        choices: Choices,
        host: bool,
        name: str,
        dtype: str,
        single: bool = False,
        flavour: str | None = None,
    ) -> None:
        self.choices, self.host, self.name, self.dtype = choices, host, name, dtype
        self.weights: dict[str, Tail] = {}
        self.parts: set[str] = set()
        self.flavour = flavour or choices.weighted(FLAVOURS if host else {**FLAVOURS, "host": 0})
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

    def fill(self, body: Body, most: int) -> None:
        """Add operations to the body of a step, one of them of the flavour of this cell."""
        self._grow(body, most)
        if self.flavour != "plain":
            body.grow(self.flavour)
        self._grow(body, most // 2)
        if self.flavour in ("attributes", "inner") and self.choices.chance(30):
            body.grow(self.choices.one(["attributes", "inner"]))

    def fill_rows(self, body: Body, most: int) -> None:
        """Add operations to a body that may run for many rows at once.

        It computes row by row, without effects, and draws nothing at random: so the methods say.
        """
        self._grow(body, most)
        if self.flavour == "attributes":
            body.grow(self.flavour)

    def _grow(self, body: Body, most: int) -> None:
        for _ in range(most):
            if self.choices.chance(50):
                body.grow()

    def layout(self, cell: bool) -> Layout:
        """Draw the states."""
        choices = self.choices
        kinds = states_of(self.dtype, cell)
        pure = choices.chance(75)
        names = [n for n in kinds if not pure or n in ORDINARY]
        if self.exact and "sum" in names:
            names.remove("sum")
        form = choices.weighted(FORMS)
        count = len(FORMS_PATHS[form])
        drawn = ["vector"] + [choices.one(names) for _ in range(count - 1)]
        if form == "single" and choices.chance(30):
            drawn = [choices.one(names)]
        self.tags |= {f"state {n}" for n in drawn if n not in ORDINARY}
        leaves = [kinds[n] for n in drawn]
        declared, returned = FORMS_TEMPLATES[form]
        if form == "single" and not cell and choices.chance(10):
            returned = "{0}"
        for i, leaf in enumerate(leaves):
            declared = declared.replace(f"{{{i}}}", leaf.declared)
        return Layout(declared, list(zip(FORMS_PATHS[form], leaves, strict=True)), returned)

    def read(self, body: Body, layout: Layout) -> None:
        """Give a body its states."""
        for i, (path, leaf) in enumerate(layout.leaves):
            body.lines.append(f"s{i} = {path}")
            if leaf.read != "{old}":
                read = leaf.read.replace("{old}", f"s{i}").replace("DTYPE", "self.compute_dtype")
                body.lines.append(f"r{i} = {read}")
            body.give(f"s{i}" if leaf.read == "{old}" else f"r{i}", leaf.tail)

    def finish(self, body: Body, layout: Layout) -> str:
        """Add the new states and the output; return the declared size of the output."""
        choices, returned = self.choices, layout.returned
        for i, (_, leaf) in enumerate(layout.leaves):
            body.lines.append(f"n{i} = {leaf.update(body, f's{i}')}")
            returned = returned.replace(f"{{{i}}}", f"n{i}")
        form = choices.weighted({"state": 5, "value": 4, "dict": 1, "tuple": 1})
        first = layout.leaves[0][1]
        if form == "state" and first.tail == FULL and first.read == "{old}":
            output, size = "n0", "4"
        elif form == "dict" and not self.single:
            output = f"{{'a': {body.bounded(FULL)}, 'b': {body.bounded(HALF)}}}"
            size = "{'a': 4, 'b': 2}"
        elif form == "tuple" and not self.single:
            output, size = f"({body.bounded(FULL)}, {body.bounded(ONE)})", "[4, 1]"
        else:
            output, size = body.bounded(FULL), "4"
        body.lines.append(f"return {output}, {returned}")
        return size

    def start(self, body: Body) -> None:
        """Give a body the inputs of a step."""
        form = self.choices.one(["cellkit.cells.matmul(inputs, W34)", "inputs @ W34"])
        body.let(form, FULL)
        if self.choices.chance(50):
            body.let("{0} + V4", FULL, body.values[-1])

    def projection(self) -> Body:
        """Draw a method `project`: mostly row by row, at times with whatever a step may do."""
        body = self.body()
        self.start(body)
        if self.choices.chance(40):
            self.fill_rows(body, 3)
        elif self.choices.chance(20):
            self.fill(body, 2)
        body.lines.append(f"return {body.pick(FULL).name}")
        return body

    def write(self, kind: str) -> str:
        """Draw the class: a "cell", a "layer", a "gated" or a "linear" one."""
        if kind == "linear":
            return self._linear()
        layout = self.layout(kind != "layer")
        if kind == "gated":
            while not layout.plain:
                layout = self.layout(True)
            return self._gated(layout)
        bodies: dict[str, Body] = {}
        if kind == "cell" and self.choices.chance(60):
            bodies["project(self, inputs)"] = self.projection()
            body = bodies["step(self, projected, states)"] = self.body()
            self.read(body, layout)
            body.give("projected", FULL)
        else:
            name = "call" if kind == "layer" else "step"
            more = ", training=False" if kind == "layer" else ""
            body = bodies[f"{name}(self, inputs, states{more})"] = self.body()
            self.read(body, layout)
            self.start(body)
        output = self._rest(body, layout)
        base = "keras.layers.Layer" if kind == "layer" else "cellkit.Cell"
        return self._class(base, [], (layout.declared, output), bodies)

    def _gated(self, layout: Layout) -> str:
        gates = {"a": "activation", "b": "recurrent_activation", "c": "activation"}
        gates = dict(list(gates.items())[: 1 + self.choices.below(3)])
        body = self.body()
        self.read(body, layout)
        for gate in gates:
            body.lines.append(f"{gate} = gates[{gate!r}]")
            body.give(gate, FULL)
        output = self._rest(body, layout)
        bodies = {"combine(self, gates, states)": body}
        sizes = (layout.declared, output)
        return self._class("cellkit.GatedCell", [f"gates = {gates!r}"], sizes, bodies)

    def _rest(self, body: Body, layout: Layout) -> str:
        self.fill(body, 6)
        state = body.values[0]
        if state.tail == FULL and self.choices.chance(80):  # most steps are recurrent
            body.let("{0} + {1}", FULL, body.pick(FULL), state)
        return self.finish(body, layout)

    def _linear(self) -> str:
        middle, after = self.body(), self.body()
        bodies = {"project(self, inputs)": self.projection()}
        middle.give("projected", FULL)
        self.fill_rows(middle, 4)
        a = self.choices.one(["ops.sigmoid({0})", "0.8", "0.9 * ops.tanh({0})"])
        a = a.replace("{0}", middle.pick(FULL).name)
        middle.lines.append(f"return {a}, {middle.bounded(FULL)}")
        bodies["coefficients(self, projected)"] = middle
        after.lines.append("h = ops.cast(keras.tree.flatten(states)[0], self.compute_dtype)")
        after.give("projected", FULL)
        after.give("h", FULL)
        self.fill_rows(after, 3)
        after.lines.append(f"return {after.bounded(FULL)}")
        if self.choices.chance(60):
            bodies["read(self, states, projected)"] = after
        return self._class("cellkit.LinearCell", [], None, bodies)

    def _class(
        self,
        base: str,
        extra: list[str],
        sizes: tuple[str, str] | None,
        bodies: dict[str, Body],
    ) -> str:
        """Return the source of the class; `sizes` are those of its states and its output."""
        cell = base != "keras.layers.Layer"
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
        names = ("state_size", "output_size")
        if not cell and sizes:
            lines += [f"        self.{n} = {size}" for n, size in zip(names, sizes, strict=True)]
        lines += [f"        {line}" for line in inits]
        if cell and sizes:
            for name, size in zip(names, sizes, strict=True):
                lines += ["", "    @property", f"    def {name}(self):", f"        return {size}"]
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
