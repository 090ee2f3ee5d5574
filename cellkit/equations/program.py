"""The step of a cell as a program: one operation after the other, on tensors.

`Program` is made of a graph and a layout. It sorts operations by what they depend on:

- what depends on numbers alone is computed when the program is made;
- what depends on inputs alone is the projection, which a layer runs for all steps at once;
- the rest is the step, and takes from the projection what it needs of it.

Operations on weights alone are part of whichever of the two needs them.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cellkit.cells import matmul
from cellkit.equations import tensors
from cellkit.equations.analyse import Analysis
from cellkit.equations.graph import CONDITIONS, INPUTS, STATES, STATIC, WEIGHTS, Node
from cellkit.equations.layout import Group, Layout

__all__ = ["Program"]

Register = int

_ARITHMETIC: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "negative": operator.neg,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "and": operator.and_,
    "or": operator.or_,
    "not": operator.invert,
}


@dataclasses.dataclass
class _Operation:
    """One operation of a program.

    Args:
        function: The operation.
        args: The slots of its arguments.
        outs: The slots of its results; several for one that returns a list.
        level: The level of what it depends on; see `cellkit.equations.graph`.
        condition: True if its result is true or false.
    """

    function: Callable[..., Any]
    args: tuple[Register, ...]
    outs: tuple[Register, ...]
    level: int
    condition: bool = False

    @property
    def splits(self) -> bool:
        """True if it only takes a tensor apart."""
        return len(self.outs) > 1


class Program:
    """The step of one cell.

    Args:
        cell: The cell, which is built.
        analysis: The analysis of its text.
        layout: The layout of its parameters.
        values: The numbers behind the named sizes.
    """

    def __init__(
        self, cell: Any, analysis: Analysis, layout: Layout, values: Mapping[str, int]
    ) -> None:
        self._cell, self._analysis, self._layout = cell, analysis, layout
        self._values, self._graph = values, analysis.graph
        self._operations: list[_Operation] = []
        self._registers: list[Any] = []  # with the constants in their places
        self._levels: list[int] = []
        self._found: dict[int, Register | None] = {}
        self._parents = self._graph.parents(analysis.needed)
        self._blocks: dict[int, Register] = {}  # by product, or by sum
        self._sum_of = {
            node: (i, j)
            for i, indices in enumerate(layout.sums)
            for g in indices
            for j, node in enumerate(layout.groups[g].nodes)
        }
        self._group_of = {
            node: (g, j)
            for g, group in enumerate(layout.groups)
            for j, node in enumerate(group.nodes)
        }
        self._outputs: dict[tuple[str, int], tuple[Register, ...]] = {}
        self._inputs = {name: self._new(INPUTS) for name in analysis.inputs}
        self._states = {name: self._new(STATES) for name in analysis.old}
        for name, node in analysis.inputs.items():
            self._found[node] = self._inputs[name]
        for name, node in analysis.old.items():
            self._found[node] = self._states[name]
        if analysis.linear is None:
            roots = [self._whole(node, name) for name, node in analysis.new.items()]
            output = self._output(analysis, roots)
            self._results = [output, *roots]
            self._coefficients: list[Register | None] = []
        else:
            linear = analysis.linear
            pairs = [*linear.a.values(), *linear.b.values()]
            self._coefficients = [None if i is None else self._emit(i) for i in pairs]
            for name, node in analysis.new.items():
                self._found[node] = self._states[name]  # the output is made of new states
            self._results = [self._read(analysis)]
        self._arrange()

    # Running -------------------------------------------------------------------------------------

    def project(self, inputs: Sequence[Any]) -> Any:
        """Return what the step takes of the inputs: a tensor, or a list of them.

        Args:
            inputs: The inputs in the order of their names.
        """
        registers = list(self._registers)
        for register, x in zip(self._inputs.values(), inputs, strict=True):
            registers[register] = x
        _run(self._projection, registers)
        found = [registers[i] for i in self._frontier]
        return found[0] if len(found) == 1 else found

    def step(self, projected: Any, states: Sequence[Any]) -> tuple[Any, list[Any]]:
        """Return the output and the new states."""
        registers = self._load(projected)
        for register, state in zip(self._states.values(), states, strict=True):
            registers[register] = state
        _run(self._step, registers)
        output, *news = (registers[i] for i in self._results)
        return output, news

    def coefficients(self, projected: Any) -> tuple[list[Any], list[Any]]:
        """Return what each state is multiplied with, and what is added to it."""
        registers = self._load(projected)
        _run(self._constant, registers)
        found = [0.0 if i is None else registers[i] for i in self._coefficients]
        return found[: len(found) // 2], found[len(found) // 2 :]

    def read(self, projected: Any, states: Sequence[Any]) -> Any:
        """Return the output of a linear recurrence from its new states."""
        return self.step(projected, states)[0]

    def _load(self, projected: Any) -> list[Any]:
        registers = list(self._registers)
        found = [projected] if len(self._frontier) == 1 else projected
        for register, x in zip(self._frontier, found, strict=True):
            registers[register] = x
        return registers

    # Making --------------------------------------------------------------------------------------

    def _new(self, level: int, value: Any = None) -> Register:
        self._registers.append(value)
        self._levels.append(level)
        return len(self._registers) - 1

    def _add(
        self, function: Callable[..., Any], args: Iterable[Register], count: int = 1, level: int = 0
    ) -> tuple[Register, ...]:
        args = tuple(args)
        level = max([level, *(self._levels[a] for a in args)])
        if level == STATIC:
            return (self._new(STATIC, function(*(self._registers[a] for a in args))),)
        outs = tuple(self._new(level) for _ in range(count))
        self._operations.append(_Operation(function, args, outs, level))
        return outs

    def _emit(self, index: int) -> Register | None:
        """Return where the value of a node is; None for a bias that the cell does without."""
        todo = [index]
        while todo:
            at = todo[-1]
            if at in self._found:
                todo.pop()
                continue
            missing = [i for i in self._needs(at) if i not in self._found]
            if missing:
                todo.extend(reversed(missing))
            else:
                self._found[at] = self._make(at)
                todo.pop()
        return self._found[index]

    def _needs(self, index: int) -> list[int]:
        """Return the nodes that have to be there first."""
        node = self._graph.nodes[index]
        if node.op == "add":
            needed = []
            for term in self._terms(index):
                if term in self._layout.taken:
                    continue
                if term in self._sum_of:
                    groups = self._layout.sums[self._sum_of[term][0]]
                    needed += [self._layout.groups[g].operand for g in groups]
                else:
                    needed.append(term)
            return needed
        return list(node.args)

    def _make(self, index: int) -> Register | None:
        node, graph = self._graph.nodes[index], self._graph
        cell, dtype = self._cell, str(self._cell.compute_dtype)
        if node.op == "add":
            return self._sum(index)
        if node.op == "product":
            return self._block(*self._group_of[index])
        if node.op == "parameter":
            return self._parameter(node.value)
        args = [self._found[i] for i in node.args]
        if node.op == "subtract" and None in args:
            left, right = args
            if right is None:
                return left
            return self._add(operator.neg, [right])[0]
        known = [self._new(STATIC, 0.0) if a is None else a for a in args]
        if graph.levels[index] == STATIC and node.op != "call":
            return self._new(STATIC, self._static(node, [self._registers[a] for a in known]))
        if node.op == "drop":
            return self._add(functools.partial(_drop, cell, node.value), known)[0]
        if node.op in _ARITHMETIC:
            result = self._add(_ARITHMETIC[node.op], known)[0]
            if node.op in CONDITIONS and self._levels[result] > STATIC:
                self._operations[-1].condition = True
            return result
        if node.op == "power":
            return self._power(known)
        if node.op == "where":
            return self._add(functools.partial(_where, dtype), known)[0]
        if node.op == "indicator":
            return self._add(functools.partial(_indicator, dtype), known)[0]
        if node.op == "normalize":
            return self._add(tensors.normalize, known)[0]
        if node.op == "concatenate":
            rows = next((a for a in known if self._levels[a] >= INPUTS), None)
            like = next(iter(self._inputs.values())) if rows is None else rows
            return self._add(_concatenate, [like, *known])[0]
        if node.op == "repeat":
            return self._add(functools.partial(_repeat, node.value), known)[0]
        if node.op == "part":
            return self._part(node, known[0])
        return self._call(node, known)

    def _static(self, node: Node, args: list[Any]) -> Any:
        """Return a value that is known now."""
        if node.op == "constant":
            return node.value
        if node.op == "number":
            return getattr(self._cell, node.value)
        if node.op == "size":
            return self._values[node.value]
        if node.op == "where":
            return args[1] if args[0] else args[2]
        if node.op == "indicator":
            return float(args[0])
        if node.op in ("and", "or", "not"):
            return any(args) if node.op == "or" else all(args) != (node.op == "not")
        power: Callable[..., Any] = operator.pow
        function = power if node.op == "power" else _ARITHMETIC[node.op]
        # By numbers of Python where they do: PyTorch's compiler follows no settings of NumPy's.
        found: Any = None
        try:
            found = function(*(float(a) for a in args))
        except (ZeroDivisionError, OverflowError):
            pass  # NumPy's numbers have a result for it
        if isinstance(found, (bool, float)):
            return found
        with np.errstate(all="ignore"):  # a division by zero is infinite, as it is on tensors
            result: Any = function(*(np.float64(a) for a in args))
            return float(result) if isinstance(result, np.float64) else bool(result)

    def _power(self, args: list[Register]) -> Register:
        exponent = self._registers[args[1]] if self._levels[args[1]] == STATIC else None
        if exponent is not None and float(exponent).is_integer() and abs(exponent) <= 64:
            return self._add(functools.partial(_integer_power, int(exponent)), args[:1])[0]
        return self._add(operator.pow, args)[0]

    def _part(self, node: Node, whole: Register) -> Register:
        position, count = node.value
        key = ("part", whole)
        if key not in self._outputs:
            self._outputs[key] = self._add(functools.partial(_split, count), [whole], count)
        return self._outputs[key][position]

    def _call(self, node: Node, args: list[Register]) -> Register:
        name, cell = str(node.value), self._cell
        if all(self._levels[a] == STATIC for a in args):
            function = functools.partial(_tensors, str(cell.compute_dtype))
            values = [self._registers[a] for a in args]
            args = list(self._add(lambda: function(values), (), len(args), level=WEIGHTS))
        if name in ("s", "tanh"):
            attribute = "recurrent_activation" if name == "s" else "activation"
            return self._add(functools.partial(_activation, cell, attribute), args)[0]
        dtype = str(cell.compute_dtype)
        if name in ("max", "min") and len(args) > 1:
            name += "imum"
        if name == "clip":
            return self._add(functools.partial(_clip, dtype), args)[0]
        if len(args) > 1:
            return self._add(functools.partial(_elementwise, name, dtype), args)[0]
        return self._add(tensors.FUNCTIONS[name], args)[0]

    # Weights -------------------------------------------------------------------------------------

    def _parameter(self, name: str) -> Register | None:
        weight, block = self._layout.where[name]
        return self._slice(weight, block, block + 1)

    def _slice(self, weight: int, start: int, stop: int) -> Register | None:
        """Return where certain parameters of a vector weight are."""
        known = self._layout.weights[weight]
        variable = self._cell.equation_weights.get(known.name)
        if variable is None:
            return None
        columns = self._columns(weight, start, stop)
        function = functools.partial(_read, variable, columns)
        return self._add(function, (), level=WEIGHTS)[0]

    def _columns(self, weight: int, start: int, stop: int) -> slice | None:
        """Return the columns of certain parameters of a weight, or None for all of them."""
        known = self._layout.weights[weight]
        if (start, stop) == (0, len(known.parameters)):
            return None
        ends = [0]
        for size in known.widths:
            ends.append(ends[-1] + int(size.at(self._values)))
        return slice(ends[start], ends[stop])

    def _product(self, index: int) -> Register:
        """Return where the product of a group is, with its bias."""
        key = ("product", index)
        if key not in self._outputs:
            group = self._layout.groups[index]
            operand = self._emit(group.operand)
            variable = self._cell.equation_weights[self._layout.weights[group.weight].name]
            columns = self._columns(group.weight, group.start, group.stop)
            function = functools.partial(_matmul, variable, columns or slice(None))
            product = self._add(function, [] if operand is None else [operand])[0]
            self._outputs[key] = (self._biased(group, product),)
        return self._outputs[key][0]

    def _biased(self, group: Group, product: Register) -> Register:
        if group.bias is None:
            return product
        index = next(i for i, w in enumerate(self._layout.weights) if w.role == "bias")
        bias = self._slice(index, *group.bias)
        return product if bias is None else self._add(operator.add, [product, bias])[0]

    def _block(self, index: int, block: int) -> Register:
        """Return where one block of a product is."""
        return self._blocks_of("block", index, self._product(index), self._layout.groups[index])[
            block
        ]

    def _blocks_of(
        self, kind: str, index: int, whole: Register, group: Group
    ) -> tuple[Register, ...]:
        key = (kind, index)
        if key not in self._outputs:
            if len(group.nodes) == 1:
                self._outputs[key] = (whole,)
            else:
                sizes = [self._graph.sizes[node] for node in group.nodes]
                widths = [int(size.at(self._values)) for size in sizes if size is not None]
                parts: Any = len(widths) if len(set(widths)) == 1 else widths
                function = functools.partial(_split, parts)
                self._outputs[key] = self._add(function, [whole], len(widths))
        return self._outputs[key]

    # Sums ----------------------------------------------------------------------------------------

    def _terms(self, index: int) -> list[int]:
        """Return the terms of a sum; a sum that others use as well is one term."""
        found, todo = [], [index]
        while todo:
            at = todo.pop()
            inner = at != index and len(self._parents.get(at, ())) != 1
            if self._graph.nodes[at].op == "add" and not inner:
                todo.extend(reversed(self._graph.nodes[at].args))
            else:
                found.append(at)
        return found

    def _sum(self, index: int) -> Register | None:
        """Return where a sum is: first what depends on inputs alone, then the rest."""
        registers: list[Register] = []
        summed: set[int] = set()
        for term in self._terms(index):
            if term in self._layout.taken:
                continue
            if term in self._sum_of:
                number, block = self._sum_of[term]
                if number not in summed:
                    summed.add(number)
                    registers.append(self._sum_block(number, block))
                continue
            register = self._found[term]
            if register is not None:
                registers.append(register)
        if not registers:
            return None
        ordered = sorted(registers, key=lambda r: min(self._levels[r], STATES))
        return functools.reduce(lambda a, b: self._add(operator.add, [a, b])[0], ordered)

    def _sum_block(self, number: int, block: int) -> Register:
        """Return where one block of a sum of products is."""
        groups = self._layout.sums[number]
        key = ("sum", number)
        if key not in self._outputs:
            products = sorted((self._product(g) for g in groups), key=lambda r: self._levels[r])
            total = functools.reduce(lambda a, b: self._add(operator.add, [a, b])[0], products)
            self._outputs[key] = (total,)
        whole = self._outputs[key][0]
        return self._blocks_of("sum block", number, whole, self._layout.groups[groups[0]])[block]

    # Results -------------------------------------------------------------------------------------

    def _whole(self, node: int, state: str) -> Register:
        """Return where a new state is, as a tensor with its rows."""
        return self._rows(node, self._analysis.size(self._analysis.old[state]))

    def _rows(self, node: int, size: Any) -> Register:
        register, sizes = self._emit(node), self._graph.sizes
        if register is None:
            register = self._new(STATIC, 0.0)
        if self._levels[register] > WEIGHTS and sizes[node] == size:
            return register
        like = next(iter(self._states.values()))
        dtype = str(self._cell.compute_dtype)
        function = functools.partial(_broadcast, int(size.at(self._values)), dtype)
        return self._add(function, [like, register])[0]

    def _output(self, analysis: Analysis, roots: list[Register]) -> Register:
        news = list(analysis.new.values())
        if analysis.output in news and analysis.output_name.endswith("'"):
            return roots[[name + "'" for name in analysis.new].index(analysis.output_name)]
        return self._rows(analysis.output, analysis.size(analysis.output))

    def _read(self, analysis: Analysis) -> Register:
        """Return where the output of a linear recurrence is, made of its new states."""
        return self._rows(analysis.output, analysis.size(analysis.output))

    def _arrange(self) -> None:
        """Sort the operations into those of the projection and those of the step."""
        users: dict[Register, list[_Operation]] = {}
        for op in self._operations:
            for register in op.args:
                users.setdefault(register, []).append(op)
        results = {*self._results, *(c for c in self._coefficients if c is not None)}
        for op in reversed(self._operations):
            # To take a tensor apart is left to the step: the layer then hands one on, not many.
            taken = [user for out in op.outs for user in users.get(out, ())]
            if op.splits and op.level == INPUTS and not results & set(op.outs):
                if all(user.level == STATES for user in taken):
                    op.level = STATES
        self._move_conditions(users)
        inputs = [op for op in self._operations if op.level == INPUTS]
        states = [op for op in self._operations if op.level == STATES]
        made = {out for op in inputs for out in op.outs} | set(self._inputs.values())
        wanted = [a for op in states for a in op.args]
        wanted += [*self._results, *(c for c in self._coefficients if c is not None)]
        self._frontier = list(dict.fromkeys(a for a in wanted if a in made))
        if not self._frontier:
            self._frontier = [next(iter(self._inputs.values()))]
        coefficients = [c for c in self._coefficients if c is not None]
        self._projection = self._with_weights(inputs, [])
        self._step = self._with_weights(states, self._results)
        self._constant = self._with_weights([], coefficients)
        del self._found, self._outputs, self._parents

    def _move_conditions(self, users: dict[Register, list[_Operation]]) -> None:
        """Let the step find out for itself what is true: a projection is made of numbers."""
        for at in reversed(range(len(self._operations))):
            op = self._operations[at]
            if not op.condition or op.level != INPUTS:
                continue
            taken = [user for user in users.get(op.outs[0], ()) if user.level == STATES]
            if not taken:
                continue
            out = self._new(STATES)
            again = _Operation(op.function, op.args, (out,), STATES, True)
            self._operations.insert(at + 1, again)
            for register in op.args:
                users.setdefault(register, []).append(again)
            for user in taken:
                user.args = tuple(out if a == op.outs[0] else a for a in user.args)

    def _with_weights(
        self, operations: list[_Operation], results: list[Register]
    ) -> list[tuple[Callable[..., Any], tuple[Register, ...], tuple[Register, ...]]]:
        """Return operations with those on weights alone that they need."""
        needed = {a for op in operations for a in op.args} | set(results)
        chosen = {id(op) for op in operations}
        for op in reversed(self._operations):
            if op.level == WEIGHTS and needed & set(op.outs):
                chosen.add(id(op))
                needed |= set(op.args)
        return [(op.function, op.args, op.outs) for op in self._operations if id(op) in chosen]


def _run(operations: Iterable[tuple[Any, Any, Any]], registers: list[Any]) -> None:
    for function, args, outs in operations:
        result = function(*[registers[i] for i in args])
        if len(outs) == 1:
            registers[outs[0]] = result
        else:
            for out, part in zip(outs, result, strict=True):
                registers[out] = part


def _tensors(dtype: str, values: list[float]) -> Any:
    found = [tensors.number(value, dtype) for value in values]
    return found if len(found) > 1 else found[0]


def _drop(cell: Any, name: str, state: Any) -> Any:
    return cell.drop(state, name)


def _activation(cell: Any, attribute: str, x: Any) -> Any:
    return getattr(cell, attribute)(x)


def _matmul(variable: Any, columns: slice, x: Any) -> Any:
    return matmul(x, variable, columns)


def _read(variable: Any, columns: slice | None) -> Any:
    value = variable.value
    return value if columns is None else value[columns]


def _split(parts: Any, x: Any) -> Any:
    return tensors.split(x, parts)


def _where(dtype: str, condition: Any, yes: Any, no: Any) -> Any:
    return tensors.where(condition, yes, no, dtype)


def _indicator(dtype: str, condition: Any) -> Any:
    return tensors.cast(condition, dtype)


def _elementwise(name: str, dtype: str, *args: Any) -> Any:
    return tensors.elementwise(name, args, dtype)


def _clip(dtype: str, x: Any, low: Any, high: Any) -> Any:
    lifted = tensors.elementwise("maximum", (x, low), dtype)
    return tensors.elementwise("minimum", (lifted, high), dtype)


def _integer_power(exponent: int, x: Any) -> Any:
    if exponent == 2:
        return x * x
    return x**exponent


def _concatenate(like: Any, *parts: Any) -> Any:
    return tensors.concatenate(parts, like)


def _repeat(count: int, x: Any) -> Any:
    return tensors.repeat(x, count)


def _broadcast(size: int, dtype: str, like: Any, x: Any) -> Any:
    return tensors.broadcast(x, like, size, dtype)
