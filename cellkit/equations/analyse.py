"""Analysis of equations: what each name is, what size it has, and whether all of it fits together.

`analyse` turns a declared text into an `Analysis` for certain options: the dataflow of a step
(`cellkit.equations.graph`), the states, the output, and every parameter with its role and shape.

- A name on the left of ``@`` is a matrix: a *kernel* where it is applied to inputs, a *recurrent
  kernel* where it is applied to anything that depends on a state.
- A parameter that is only ever added is a *bias*, if it is added to a product with a matrix, or if
  its name begins with a b.
- Any other is a *vector*, or a *scalar* where its name is that of a small Greek letter alone (but
  for gamma, sigma, mu, tau and lambda, which usually are vectors), or where `sizes` says so.

Sizes follow by unification: what is added or multiplied has one size, or a single element. The
first input is ``features`` wide; what nothing determines is ``units`` wide.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from cellkit.equations.build import Builder
from cellkit.equations.declare import NAME, Declaration, Value
from cellkit.equations.errors import wrong
from cellkit.equations.graph import INPUTS, Graph
from cellkit.equations.linear import Linear, linear_form
from cellkit.equations.names import Names
from cellkit.equations.sizes import Size
from cellkit.equations.syntax import Literal, Place
from cellkit.errors import problem
from cellkit.registry.names import did_you_mean, listed

__all__ = ["Analysis", "Definition", "Parameter", "analyse", "check_all"]

MAX_COMBINATIONS = 64


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A weight, under the letter that the text gives it.

    Args:
        name: The letter, ``W_i``.
        role: "kernel", "recurrent_kernel", "bias", "vector" or "scalar".
        shape: Its sizes: of a matrix rows (what it is applied to) and columns, of a vector one.
        place: Its first use in the text.
        operands: The nodes that a matrix is applied to.
        parts: The names that a split gives its columns to, if there is one.
    """

    name: str
    role: str
    shape: tuple[Size, ...]
    place: Place
    operands: tuple[int, ...] = ()
    parts: tuple[str, ...] = ()

    @property
    def is_matrix(self) -> bool:
        """True if it is applied with ``@``."""
        return len(self.shape) == 2


@dataclasses.dataclass(frozen=True)
class Definition:
    """A name of the text with its value.

    Args:
        name: As it is written, a new state with its prime.
        node: Its value.
        place: The place of its definition.
        remark: The remark behind the definition.
    """

    name: str
    node: int
    place: Place
    remark: str


@dataclasses.dataclass(frozen=True)
class Analysis:
    """The analysis of a text for certain options.

    Args:
        declaration: The text, and what was declared beside it.
        options: The value of every option.
        graph: The dataflow of a step.
        inputs: The nodes of the inputs, by name.
        old: The nodes of the old states, by name and in the order of the states.
        new: Those of the new states.
        output: The node that is given out.
        output_name: Its name, with a prime where it is a new state.
        parameters: The weights by their letters, in the order of the text.
        definitions: The names of the text in the order of its lines.
        linear: The recurrence as one that can be scanned, or None.
        drops: The states that recurrent dropout applies to.
        called: The functions of the text that are called.
        unused: The names that nothing needs, with their places.
    """

    declaration: Declaration
    options: Mapping[str, Literal]
    graph: Graph
    inputs: Mapping[str, int]
    old: Mapping[str, int]
    new: Mapping[str, int]
    output: int
    output_name: str
    parameters: Mapping[str, Parameter]
    definitions: tuple[Definition, ...]
    linear: Linear | None
    drops: tuple[str, ...]
    called: frozenset[str]
    unused: tuple[tuple[Place, str], ...]

    @property
    def states(self) -> tuple[str, ...]:
        """The names of the states in their order."""
        return tuple(self.new)

    @property
    def roots(self) -> list[int]:
        """The nodes that a step is there for: the new states and the output."""
        return [*self.new.values(), self.output]

    @property
    def needed(self) -> set[int]:
        """The nodes that a step computes; of a linear recurrence those of its coefficients."""
        if self.linear is None:
            return self.graph.below(self.roots)
        parts = [*self.linear.a.values(), *self.linear.b.values()]
        found = self.graph.below([i for i in parts if i is not None])
        return found | self.graph.below([self.output], leaves=frozenset(self.new.values()))

    def size(self, node: int) -> Size:
        """Return the size of a node; that of a single number is one."""
        return self.graph.sizes[node] or Size.of(1)


def analyse(
    declaration: Declaration,
    options: Mapping[str, Literal] | None = None,
    numbers: Mapping[str, Value] | None = None,
) -> Analysis:
    """Analyse a text.

    Args:
        declaration: The text.
        options: Values of its options; the defaults where none is given.
        numbers: Values of its numbers, likewise. They matter where they say how often something is
            repeated.

    Returns:
        The analysis.

    Raises:
        ValueError: The text does not make sense; in three parts, with the line and a caret.

    Example:
    >>> from cellkit.equations.declare import declare
    >>> known = analyse(declare("MyCell", "h' = tanh(W @ x + U @ h + b)"))
    >>> [(p.name, p.role, [str(s) for s in p.shape]) for p in known.parameters.values()]
    ... # doctest: +NORMALIZE_WHITESPACE
    [('W', 'kernel', ['features', 'units']), ('U', 'recurrent_kernel', ['units', 'units']),
     ('b', 'bias', ['units'])]
    """
    chosen = {name: values[0] for name, values in declaration.options.items()}
    chosen.update(options or {})
    # A number of repetitions without a default stands for any; two show a repetition.
    values: dict[str, Value] = {
        name: 2 if value is None else value for name, value in declaration.numbers.items()
    }
    values.update(numbers or {})
    names = Names(declaration, chosen, values)
    builder = Builder(names, values)
    if not builder.drops:
        # No state enters a product with a matrix: then those with vectors are the recurrent ones.
        builder = Builder(names, values, drop_elements=True)
    new = {name: builder.values[names.defined[name, True][-1]] for name in names.states}
    output = builder.values[names.defined[names.output][-1]]
    graph = builder.graph
    if graph.is_condition(output):
        raise wrong(
            declaration.source,
            graph.places[output],
            "What is given out is a condition.",
            expected="a number or a vector",
            fix="write `1[condition]`",
        )
    _check_declared(builder)
    _settle(builder)
    roots = [*new.values(), output]
    below = graph.below(roots)
    parameters = _parameters(builder, below)
    linear = linear_form(graph, builder.old, new, output)
    drops = dict.fromkeys(
        str(graph.nodes[i].value) for i in sorted(below) if graph.nodes[i].op == "drop"
    )
    return Analysis(
        declaration=declaration,
        options=chosen,
        graph=graph,
        inputs=builder.inputs,
        old=builder.old,
        new=new,
        output=output,
        output_name=names.output[0] + "'" * names.output[1],
        parameters=parameters,
        definitions=_definitions(builder),
        linear=linear,
        drops=tuple(drops),
        called=frozenset(builder.called),
        unused=(*names.unused(), *_uncalled(builder)),
    )


def _definitions(builder: Builder) -> tuple[Definition, ...]:
    names = builder.names
    found = []
    for number, line in enumerate(names.lines):
        for target, (name, primed) in enumerate(line.targets):
            node = builder.values.get((number, target))
            if node is not None:
                place = line.places[target]
                found.append(Definition(name + "'" * primed, node, place, line.remark))
    return tuple(found)


def _uncalled(builder: Builder) -> list[tuple[Place, str]]:
    functions = builder.names.functions.values()
    return [(f.place, f.name) for f in functions if f.name not in builder.called]


def _check_declared(builder: Builder) -> None:
    """Refuse declared sizes and inputs that the text does not have."""
    declaration = builder.declaration
    known = {
        *builder.uses,
        *builder.scalars,
        *(name for name, _ in builder.names.defined),
        *builder.names.states,
        *declaration.input_names,
    }
    everywhere = set(NAME.findall(declaration.source))
    for name in declaration.sizes:
        # A name of another variant is in the text as well.
        if name not in known and name not in everywhere:
            raise problem(
                "A size is declared for a name that the equations don't have.",
                received=f"sizes={dict(declaration.sizes)!r}",
                expected=f"names out of {listed(sorted(known))}",
                fix=did_you_mean(name, known) + "leave it out, or use it in a line",
            )


def _settle(builder: Builder) -> None:
    """Let what nothing determines be `units` wide, and resolve all sizes."""
    sizes, graph, units = builder.sizes, builder.graph, Size.of("units")

    def settled(size: Size) -> Size:
        size = sizes.resolve(size)
        while size.unknowns:
            for unknown in size.unknowns:
                sizes.equal(Size(((unknown, ONE_TIMES),)), units)
            size = sizes.resolve(size)
        return size

    # States first: what belongs to them has their size, and the rest follows.
    everything = [*builder.old.values(), *range(len(graph.nodes))]
    for index in everything:
        size = graph.sizes[index]
        graph.sizes[index] = None if size is None else settled(size)
        if size is not None:
            _check_size(builder, graph.sizes[index], graph.places[index])
    for use in builder.uses.values():
        use.shape = tuple(settled(size) for size in use.shape)
        for size in use.shape:
            _check_size(builder, size, use.place)
    all_sizes = [size for size in graph.sizes if size is not None]
    all_sizes += [size for use in builder.uses.values() for size in use.shape]
    if not any("units" in size.names for size in all_sizes) and not _has_units(builder):
        # All of it is as wide as the inputs: then so many are the units.
        def renamed(size: Size) -> Size:
            total = Size((), size.constant)
            for key, coefficient in size.terms:
                name = "units" if key == "features" else key
                total = total + Size(((name, coefficient),))
            return total

        graph.sizes = [None if size is None else renamed(size) for size in graph.sizes]
        for use in builder.uses.values():
            use.shape = tuple(map(renamed, use.shape))


def _check_size(builder: Builder, size: Size | None, place: Place) -> None:
    """Refuse a vector that could not have a single element."""
    if size is not None and size.constant <= 0 and all(c <= 0 for _, c in size.terms):
        raise wrong(
            builder.declaration.source,
            place,
            "The sizes of the vectors leave nothing for one of them.",
            expected=f"sizes of one or more; here it is `{size}`",
            fix="declare the size of one of those put side by side, for example sizes={'W': 8}",
        )


def _has_units(builder: Builder) -> bool:
    return any(node.op == "size" and node.value == "units" for node in builder.graph.nodes)


ONE_TIMES = Size.of("units").terms[0][1]


def _parameters(builder: Builder, below: set[int]) -> dict[str, Parameter]:
    """Return the parameters with their roles, in the order of the text."""
    graph, found = builder.graph, {}
    parents = graph.parents(below)
    for name in builder.order:
        use = builder.uses.get(name)
        if use is None:
            continue
        if use.matrix:
            operands = tuple(i for i in use.operands if i in below)
            inputs = all(graph.levels[i] <= INPUTS or i in use.of_inputs for i in operands)
            states = all(graph.levels[i] > INPUTS and i not in use.of_inputs for i in operands)
            if not inputs and not states:
                first = use.operands[0]
                other = next(
                    place
                    for operand, place in use.places.items()
                    if (graph.levels[operand] <= INPUTS) != (graph.levels[first] <= INPUTS)
                )
                raise wrong(
                    builder.declaration.source,
                    other,
                    f"`{name}` is used in two roles: for an input and for a state.",
                    expected="a kernel for inputs and another one for states",
                    fix=f"give one of the two another letter, for example `U` in place of `{name}`",
                    other=use.place,
                )
            role = "kernel" if inputs else "recurrent_kernel"
            parts = builder.parts_of(name)
            found[name] = Parameter(name, role, use.shape, use.place, operands, parts)
            continue
        role = "scalar" if not use.shape else "vector"
        if use.shape and _is_bias(graph, parents, use.node, name):
            role = "bias"
        found[name] = Parameter(name, role, use.shape, use.place, (), builder.parts_of(name))
    return found


def _is_bias(graph: Graph, parents: dict[int, list[int]], node: int, name: str) -> bool:
    """Tell whether a vector is only ever added, to a product with a matrix or by a b."""
    sums = parents.get(node, [])
    if not sums or any(graph.nodes[i].op != "add" for i in sums):
        return False

    def top(index: int) -> int:
        above = parents.get(index, [])
        while len(above) == 1 and graph.nodes[above[0]].op == "add":
            index, above = above[0], parents.get(above[0], [])
        return index

    def has_product(index: int) -> bool:
        return any(graph.nodes[t].op == "product" for t in graph.terms(top(index)))

    return name.startswith(("b", "B")) or all(map(has_product, sums))


def check_all(declaration: Declaration) -> list[Analysis]:
    """Analyse a text for every choice of its options.

    Returns:
        One analysis for each, the default first.

    Raises:
        ValueError: One of them does not make sense, or a line is used by none.
    """
    choices: list[dict[str, Literal]] = [{}]
    for name, values in declaration.options.items():
        choices = [{**choice, name: value} for choice in choices for value in values]
        if len(choices) > MAX_COMBINATIONS:
            raise problem(
                "The equations have too many variants.",
                received=", ".join(f"{n}: {len(v)}" for n, v in declaration.options.items()),
                expected=f"at most {MAX_COMBINATIONS} combinations of options",
                fix="make cells of their own of some variants",
            )
    found = [analyse(declaration, choice) for choice in choices]
    _check_unused(declaration, found)
    return found


def _check_unused(declaration: Declaration, found: list[Analysis]) -> None:
    """Refuse lines that no variant uses."""
    used = {
        definition.place
        for analysis in found
        for definition in analysis.definitions
        if (definition.place, definition.name) not in analysis.unused
    }
    called = {name for analysis in found for name in analysis.called}
    for analysis in found:
        for place, name in analysis.unused:
            if place not in used and name not in called:
                raise wrong(
                    declaration.source,
                    place,
                    f"`{name}` is defined and never used.",
                    expected="a line that a new state or the output needs",
                    fix=f"use `{name}`, remove the line, or name it as the output: output={name!r}",
                )
    _check_reached(declaration, found)


def _check_reached(declaration: Declaration, found: list[Analysis]) -> None:
    below = [(a.graph, a.graph.below(a.roots)) for a in found]
    reached = {g.nodes[i] for g, indices in below for i in indices}
    numbers = {node.value for node in reached if node.op in ("number", "parameter")}
    for name in declaration.numbers:
        if name in numbers or name in declaration.counts:
            continue
        place = declaration.places.get(name)
        if place is None:
            raise problem(
                "A number is declared and never used.",
                received=f"{name}={declaration.numbers[name]!r}",
                expected="names that the equations use and do not define",
                fix=did_you_mean(name, map(str, numbers)) + "use it in a line, or leave it out",
            )
        raise wrong(
            declaration.source,
            place,
            f"`{name}` is defined and never used.",
            expected="a number that a line needs",
            fix=f"use `{name}`, or remove the line",
        )
    inputs = {node.value for node in reached if node.op == "input"}
    for name in declaration.input_names[1:]:
        if name not in inputs:
            raise problem(
                "An input is declared and never used.",
                received=f"inputs={declaration.inputs!r}, and no use of {name!r}",
                expected="inputs that the equations use",
                fix=f"use `{name}` in a line, or leave it out of `inputs`",
            )
