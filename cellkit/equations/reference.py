"""The reference of equations: an interpreter that goes through a text in NumPy, in float64.

It shares the parser with the cell and nothing else: it writes families and repetitions out by
itself, finds out by itself what a name stands for, and computes line by line as a reader would. So
what the two agree on is what the text says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from cellkit.equations.declare import Declaration, leaves
from cellkit.equations.syntax import (
    Binary,
    Call,
    Compare,
    Concatenation,
    Conditional,
    Definition,
    Expression,
    Function,
    Guard,
    Indicator,
    Logical,
    Name,
    Negative,
    Number,
    Repeat,
    Statement,
    Variant,
)
from cellkit.registry.reference import ACTIVATIONS, activation

__all__ = ["reference_of"]

Array = Any

_BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "^": np.power,
    "mod": np.mod,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
    "!=": np.not_equal,
    "and": np.logical_and,
    "or": np.logical_or,
}


def _over_the_last(function: Callable[..., Array]) -> Callable[[Array], Array]:
    return lambda v: function(v, axis=-1, keepdims=True)


_FUNCTIONS: dict[str, Callable[..., Array]] = {
    **{name: ACTIVATIONS[name] for name in ("sigmoid", "relu", "softplus", "softmax", "softsign")},
    **{name: ACTIVATIONS[name] for name in ("silu", "hard_sigmoid", "elu")},
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "abs": np.abs,
    "sin": np.sin,
    "cos": np.cos,
    "log1p": np.log1p,
    "expm1": np.expm1,
    "square": np.square,
    "sign": np.sign,
    "floor": np.floor,
    "logsigmoid": lambda v: -np.logaddexp(0, -v),
    "clip": np.clip,
    "mod": np.mod,
    "cumsum": lambda v: np.cumsum(v, axis=-1),
    "mean": _over_the_last(np.mean),
    "var": _over_the_last(np.var),
    "sum": _over_the_last(np.sum),
}


@dataclasses.dataclass(frozen=True)
class _Line:
    """One definition, with the numbers of its indices."""

    targets: tuple[tuple[str, bool], ...]
    value: Expression
    indices: Mapping[str, int]
    suffix: str | None
    own: tuple[str, ...] | None


@dataclasses.dataclass(frozen=True)
class _Scope:
    """The place of an expression: the number of its line, and what its names depend on there."""

    at: int
    indices: Mapping[str, int]
    suffix: str | None
    own: tuple[str, ...] | None
    parts: tuple[str, ...]


class _NotYet(Exception):
    """Raised where a line needs another one that has not been computed."""


def reference_of(declaration: Declaration) -> Callable[[Any, Any, Any, Any], tuple[Any, Any]]:
    """Return the reference of a text, as a `cellkit.CellSpec` takes it.

    Args:
        declaration: The text.

    Returns:
        The function ``(w, inputs, states, config) -> (output, new_states)``: one step.
    """

    def reference(w: Any, inputs: Any, states: Any, config: Any) -> tuple[Any, Any]:
        """Compute one step from the equations."""
        with np.errstate(all="ignore"):
            return _Step(declaration, w, inputs, states, config).run()

    return reference


class _Step:
    def __init__(
        self, declaration: Declaration, w: Any, inputs: Any, states: Any, config: Any
    ) -> None:
        self.declaration, self.w, self.config = declaration, w, config
        self.functions: dict[str, Function] = {}
        self.lines = list(self.written_out(declaration.text.statements, {}))
        named = [name for line in self.lines for name, primed in line.targets if primed]
        self.states = declaration.states or tuple(sorted(named, key=lambda name: name != "h"))
        given = dict(
            zip(leaves(declaration.inputs), _flat(inputs, declaration.inputs), strict=True)
        )
        self.start = {**given, **dict(zip(self.states, states, strict=True))}
        self.values: dict[tuple[int, str, bool], Array] = {}

    def written_out(
        self, statements: tuple[Statement, ...], indices: Mapping[str, int]
    ) -> Iterator[_Line]:
        """Yield the lines that hold for this configuration."""
        for statement in statements:
            if isinstance(statement, Function):
                self.functions[statement.name] = statement
            elif isinstance(statement, Variant):
                default = self.declaration.options[statement.option][0]
                chosen = self.config.get(statement.option, default)
                if chosen == statement.value and type(chosen) is type(statement.value):
                    yield from self.written_out(statement.body, indices)
            elif isinstance(statement, Repeat):
                for i in range(statement.first, self.count(statement.last) + 1):
                    inner = {**indices, statement.index or "": i}
                    yield from self.written_out(statement.body, inner)
            elif isinstance(statement, Guard):
                if indices[statement.index] % 2 == int(statement.odd):
                    yield from self.written_out(statement.body, indices)
            elif statement.targets[0].name not in self.declaration.places:
                yield from self.definition(statement, indices)

    def definition(self, statement: Definition, indices: Mapping[str, int]) -> Iterator[_Line]:
        family = statement.family
        if family is not None:
            for i in range(family.first, self.count(family.last) + 1):
                inner = {**indices, family.index: i}
                alone = dataclasses.replace(statement, family=None)
                yield from self.definition(alone, inner)
                if all(_numbered(t.name, inner) == t.name for t in statement.targets):
                    return
            return
        targets = tuple((_numbered(t.name, indices), t.primed) for t in statement.targets)
        value = statement.value
        if isinstance(value, Call) and value.function == "split":
            yield _Line(targets, value.arguments[0], indices, None, None)
        elif len(targets) == 1:
            yield _Line(targets, value, indices, None, None)
        else:
            heads = {name.split("_")[0] for name, _ in targets}
            shared = len(heads) == 1 and all("_" in name for name, _ in targets)
            for target in targets:
                # Of `a_i, a_f = W @ x` the weights are W_i and W_f.
                suffix = target[0].split("_", 1)[1] if shared else target[0]
                yield _Line((target,), value, indices, suffix, statement.own)

    def count(self, last: int | str) -> int:
        return last if isinstance(last, int) else int(self.number(last))

    def number(self, name: str) -> float:
        return self.config.get(name, self.declaration.numbers[name])

    def run(self) -> tuple[Any, Any]:
        """Return the output and the new states."""
        left = list(range(len(self.lines)))
        while left:
            later = []
            for at in left:
                try:
                    self.compute(at)
                except _NotYet:
                    later.append(at)
            if len(later) == len(left):
                raise RecursionError("the definitions go round in a loop")
            left = later
        end = len(self.lines)
        news = [
            np.broadcast_to(np.asarray(self.look_up(s, True, end)), np.shape(self.start[s]))
            for s in self.states
        ]
        name = self.output()
        if name in self.states:
            return news[self.states.index(name)], news
        output, rows = np.asarray(self.look_up(name, False, end)), len(news[0])
        width = output.shape[-1] if output.ndim else 1
        return np.broadcast_to(output, (rows, width)), news

    def output(self) -> str:
        plain = {name for line in self.lines for name, primed in line.targets if not primed}
        if self.declaration.output is not None:
            return self.declaration.output
        if "y" in plain or "y" in self.states:
            return "y"
        return "h" if "h" in plain and "h" not in self.states else self.states[0]

    def compute(self, at: int) -> None:
        """Compute one line."""
        line = self.lines[at]
        parts = tuple(name for name, _ in line.targets)
        scope = _Scope(at, line.indices, line.suffix, line.own, parts)
        value = self.evaluate(line.value, scope, {})
        pieces = np.split(value, len(parts), axis=-1) if len(parts) > 1 else [value]
        for (name, primed), part in zip(line.targets, pieces, strict=True):
            self.values[at, name, primed] = part

    def look_up(self, name: str, primed: bool, at: int) -> Array | None:
        """Return what a name stands for on a line, or None where it is a weight."""
        places = [i for i, line in enumerate(self.lines) if (name, primed) in line.targets]
        before = [i for i in places if i < at]
        if not before and not primed and name in self.start:
            return self.start[name]
        if not places:
            return None
        place = before[-1] if before else places[0]
        if (place, name, primed) not in self.values:
            raise _NotYet
        return self.values[place, name, primed]

    def named(self, node: Name, scope: _Scope) -> Array:
        if node.name in scope.indices and not node.primed:
            return float(scope.indices[node.name])
        name = _numbered(node.name, scope.indices)
        value = self.look_up(name, node.primed, scope.at)
        if value is not None:
            return value
        own = scope.suffix is not None and (scope.own is None or name in scope.own)
        if own:
            value = self.look_up(f"{name}_{scope.suffix}", False, scope.at)
            if value is not None:
                return value
        if name in self.declaration.numbers and name not in self.declaration.trainable:
            return float(self.number(name))
        if name == "pi" and "pi" not in self.w:
            return np.pi
        if name in ("units", *self.declaration.size_names):
            size = self.config.get(name)
            return float(self.config["units"] if size is None else size)
        if name == "features" and name not in self.w:
            return float(self.start[next(leaves(self.declaration.inputs))].shape[-1])
        name = f"{name}_{scope.suffix}" if own else name
        if name not in self.w and len(scope.parts) > 1:
            # The weights behind a split may be given by its parts.
            return np.concatenate([self.w[f"{name}_{part}"] for part in scope.parts], axis=-1)
        return self.w[name]

    def evaluate(self, node: Expression, scope: _Scope, env: Mapping[str, Array]) -> Array:
        """Return the value of an expression on a line."""
        if isinstance(node, Number):
            return node.value
        if isinstance(node, Name):
            return (
                env[node.name] if node.name in env and not node.primed else self.named(node, scope)
            )
        if isinstance(node, Negative):
            return -self.evaluate(node.operand, scope, env)
        if isinstance(node, Binary):
            return self.binary(node, scope, env)
        if isinstance(node, Compare):
            left, right = (self.evaluate(n, scope, env) for n in (node.left, node.right))
            return _BINARY[node.operator](left, right)
        if isinstance(node, Logical):
            values = [self.evaluate(n, scope, env) for n in node.operands]
            return (
                np.logical_not(values[0])
                if node.operator == "not"
                else _BINARY[node.operator](*values)
            )
        if isinstance(node, Conditional):
            return self.choose((node.condition, node.yes, node.no), scope, env)
        if isinstance(node, Indicator):
            return 1.0 * np.asarray(self.evaluate(node.condition, scope, env))
        if isinstance(node, Concatenation):
            parts = [np.asarray(self.evaluate(p, scope, env)) for p in node.parts]
            rows = len(next(iter(self.start.values())))
            return np.concatenate([np.broadcast_to(p, (rows, p.shape[-1])) for p in parts], axis=-1)
        return self.call(node, scope, env)

    def binary(self, node: Binary, scope: _Scope, env: Mapping[str, Array]) -> Array:
        right = self.evaluate(node.right, scope, env)
        if node.operator == "@":
            return right @ self.evaluate(node.left, scope, env)
        left = node.left
        if node.operator == "^" and isinstance(left, Name) and left.name == "e":
            if "e" not in env and self.look_up("e", False, scope.at) is None and "e" not in self.w:
                return np.exp(right)
        return _BINARY[node.operator](
            np.asarray(self.evaluate(left, scope, env), "float64"), np.asarray(right, "float64")
        )

    def choose(
        self, parts: tuple[Expression, ...], scope: _Scope, env: Mapping[str, Array]
    ) -> Array:
        condition = self.evaluate(parts[0], scope, env)
        if np.ndim(condition) == 0:
            return self.evaluate(parts[1] if condition else parts[2], scope, env)
        yes, no = (self.evaluate(p, scope, env) for p in parts[1:])
        return np.where(condition, yes, no)

    def call(self, node: Call, scope: _Scope, env: Mapping[str, Array]) -> Array:
        name = node.function
        if name in self.functions:
            function = self.functions[name]
            args = [self.evaluate(a, scope, env) for a in node.arguments]
            # The names in a function are those of the text, whatever a line's indices are.
            inner = _Scope(scope.at, {}, None, None, scope.parts)
            return self.evaluate(
                function.value, inner, dict(zip(function.arguments, args, strict=True))
            )
        if name == "where":
            return self.choose(node.arguments, scope, env)
        if name == "repeat":
            vector, count = node.arguments
            if isinstance(count, Number):
                times = int(count.value)
            else:
                times = int(self.evaluate(count, scope, env))
            return np.repeat(self.evaluate(vector, scope, env), times, axis=-1)
        args = [np.asarray(self.evaluate(a, scope, env), "float64") for a in node.arguments]
        if name == "s":
            return activation(self.config.get("recurrent_activation", "sigmoid"))(args[0])
        if name == "tanh":
            return activation(self.config.get("activation", "tanh"))(args[0])
        if name in ("max", "min"):
            if len(args) == 1:
                return _over_the_last(np.max if name == "max" else np.min)(args[0])
            pairwise = np.maximum if name == "max" else np.minimum
            total = args[0]
            for other in args[1:]:
                total = pairwise(total, other)
            return total
        return _FUNCTIONS[name](*args)


def _numbered(name: str, indices: Mapping[str, int]) -> str:
    """Return a name with the numbers of its indices: ``W_k`` as ``W_3``, ``xk`` as ``x3``."""
    for index, number in indices.items():
        first, *rest = name.split("_")
        if index in rest:
            name = "_".join([first, *(str(number) if part == index else part for part in rest)])
        elif index and len(name) == 2 and name.endswith(index):
            name = name[0] + str(number)
    return name


def _flat(given: Any, structure: Any) -> Iterator[Array]:
    """Yield the inputs in the order of their names."""
    if isinstance(structure, str):
        yield given
    elif isinstance(structure, Mapping):
        for key, inner in structure.items():
            yield from _flat(given[key], inner)
    else:
        for part, inner in zip(given, structure, strict=True):
            yield from _flat(part, inner)
