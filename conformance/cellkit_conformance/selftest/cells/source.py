"""Changes to the methods of a cell, on their syntax trees.

Only what a step runs is changed: the methods that a cell's base calls for it, and those of the
same class that they call.
"""

from __future__ import annotations

import ast
import copy
import inspect
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

from cellkit_conformance.selftest.cells.change import Change, subclass

ROOTS = ("call", "step", "combine", "project", "coefficients", "read", "prepare")
"""What a base class, or a layer, calls for a step."""

OTHER_FUNCTION = {
    "sigmoid": "tanh",
    "tanh": "sigmoid",
    "relu": "tanh",
    "softplus": "tanh",
    "maximum": "minimum",
    "minimum": "maximum",
    "sin": "cos",
    "cos": "sin",
}


def changes(cls: type) -> Iterator[Change]:
    """List the changes to the methods of a cell.

    Args:
        cls: The class of the cell.
    """
    for owner, name in methods(cls):
        function = vars(owner)[name]
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        definition = tree.body[0]
        if not isinstance(definition, ast.FunctionDef):
            continue
        first = inspect.getsourcelines(function)[1]
        for kind, what, line, changed in _Editor(definition).edits():
            reached: list[bool] = []

            def make(
                base: type,
                changed: ast.FunctionDef = changed,
                owner: type = owner,
                name: str = name,
                reached: list[bool] = reached,
            ) -> type:
                return subclass(base, {name: compiled(changed, owner, reached)})

            yield Change(
                kind, what, f"{owner.__name__}.{name}, line {first + line - 1}", make, reached
            )


def methods(cls: type) -> list[tuple[type, str]]:
    """List the methods that a step runs, with the class of a plugin that has them.

    Args:
        cls: The class of the cell.
    """
    owners: dict[str, type] = {}
    for owner in reversed(cls.__mro__):
        top = owner.__module__.partition(".")[0]
        if top not in ("cellkit", "keras", "builtins", "tensorflow", "torch", "jax"):
            owners |= {name: owner for name, v in vars(owner).items() if inspect.isfunction(v)}
    found: list[str] = []
    waiting = [name for name in ROOTS if name in owners]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.append(name)
        source = textwrap.dedent(inspect.getsource(vars(owners[name])[name]))
        for node in ast.walk(ast.parse(source)):
            function = node.func if isinstance(node, ast.Call) else None
            if not isinstance(function, ast.Attribute) or ast.unparse(function.value) != "self":
                continue
            if function.attr in owners and not function.attr.startswith("__"):
                waiting.append(function.attr)
    return [(owners[name], name) for name in sorted(found)]


def compiled(definition: ast.FunctionDef, owner: type, reached: list[bool]) -> Any:
    """Compile a changed method of a class, so that it may stand in a subclass.

    Args:
        definition: The method.
        owner: The class that it is from.
        reached: Filled when the changed part runs.
    """

    def reach(value: Any) -> Any:
        reached[:] = [True]
        return value

    module = ast.Module([_Supers().visit(copy.deepcopy(definition))], [])
    ast.fix_missing_locations(module)
    names = {"_owner_": owner, "_reached_": reach}
    space = _Space(vars(sys.modules[owner.__module__]), names)
    exec(compile(module, f"<{owner.__name__}, changed>", "exec"), space)  # noqa: S102 (own code)
    return space[definition.name]


class _Space(dict[str, Any]):
    """The names of a module, with some more."""

    def __init__(self, module: dict[str, Any], names: dict[str, Any]) -> None:
        super().__init__({**module, **names})


class _Supers(ast.NodeTransformer):
    """Writes `super()` out, which means another class where a method has moved."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "super" and not node.args:
            node.args = [ast.Name("_owner_", ast.Load()), ast.Name("self", ast.Load())]
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.decorator_list = []
        return node


Edit = tuple[str, ast.expr]
"""Kind, and the expression afterwards."""


class _Editor:
    """Lists the edits of a method.

    Args:
        definition: The method.
    """

    def __init__(self, definition: ast.FunctionDef) -> None:
        self.definition = definition
        self.locals: list[str] = []
        for node in ast.walk(definition):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                self.locals.append(node.id)
        self.keys = [
            node.slice.value
            for node in ast.walk(definition)
            if isinstance(node, ast.Subscript)
            and isinstance(node.slice, ast.Constant)
            and isinstance(node.slice.value, str)
        ]

    def edits(self) -> Iterator[tuple[str, str, int, ast.FunctionDef]]:
        """List the edits: kind, change, line of the method, and the method afterwards."""
        nodes = list(ast.walk(self.definition))
        # Neither annotations nor errors have a part in what a step computes.
        aside = {
            id(child)
            for node in nodes
            for part in (
                getattr(node, "annotation", None),
                getattr(node, "returns", None),
                node if isinstance(node, ast.Raise) else None,
            )
            if part is not None
            for child in ast.walk(part)
        }
        for number, node in enumerate(nodes):
            if not isinstance(node, ast.expr) or id(node) in aside:
                continue
            for kind, new in self._own(node):
                before, after = ast.unparse(node), ast.unparse(new)
                call = ast.Call(ast.Name("_reached_", ast.Load()), [new], [])
                changed = copy.deepcopy(self.definition)
                target = list(ast.walk(changed))[number]
                changed = _Replace(target, call).visit(changed)
                yield kind, f"{before} -> {after}", node.lineno, changed

    def _own(self, node: ast.expr) -> Iterator[Edit]:
        if isinstance(node, ast.BinOp):
            yield from self._binary(node)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            yield "sign", node.operand
        elif isinstance(node, ast.Call):
            yield from self._call(node)
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            yield from self._subscript(node)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            for name in dict.fromkeys(self.locals):
                if node.id in self.locals and name != node.id:
                    yield "wrong name", ast.Name(name, ast.Load())
        elif isinstance(node, ast.Constant) and isinstance(node.value, float):
            yield "number", ast.Constant(1.25 * node.value + 0.125)
        elif isinstance(node, ast.Compare) and len(node.ops) == 1:
            other = {ast.Lt: ast.GtE, ast.Gt: ast.LtE, ast.Eq: ast.NotEq}
            if type(node.ops[0]) in other:
                yield (
                    "comparison",
                    ast.Compare(node.left, [other[type(node.ops[0])]()], node.comparators),
                )

    def _binary(self, node: ast.BinOp) -> Iterator[Edit]:
        left, right = node.left, node.right
        if isinstance(node.op, (ast.Add, ast.Sub)):
            other = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
            yield "sign", ast.BinOp(left, other, right)
            if isinstance(left, ast.Constant):
                yield "complement", right
            else:
                yield "dropped term", ast.BinOp(_nothing(left), node.op, right)
            yield "dropped term", ast.BinOp(left, node.op, _nothing(right))
        elif isinstance(node.op, ast.Mult):
            yield "operator", ast.BinOp(left, ast.Add(), right)
        elif isinstance(node.op, ast.Div):
            yield "operator", ast.BinOp(left, ast.Mult(), right)

    def _call(self, node: ast.Call) -> Iterator[Edit]:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        name = node.func.id if isinstance(node.func, ast.Name) else name
        if name in OTHER_FUNCTION:
            func = copy.deepcopy(node.func)
            if isinstance(func, ast.Attribute):
                func.attr = OTHER_FUNCTION[name]
                yield "activation", ast.Call(func, node.args, node.keywords)
        if name in ("activation", "recurrent_activation") and len(node.args) == 1:
            yield "activation", node.args[0]
            yield "detached", _cut(node)
            other = "activation" if name != "activation" else "recurrent_activation"
            if isinstance(node.func, ast.Attribute):
                func = ast.Attribute(node.func.value, other, ast.Load())
                yield "activation", ast.Call(func, node.args, node.keywords)
        if name in ("matmul", "conv"):
            yield "detached", _cut(node)

    def _subscript(self, node: ast.Subscript) -> Iterator[Edit]:
        if not isinstance(node.slice, ast.Constant):
            return
        value = node.slice.value
        if isinstance(value, str):
            for key in dict.fromkeys(self.keys):
                if key != value:
                    yield "wrong gate", ast.Subscript(node.value, ast.Constant(key), ast.Load())
        if isinstance(value, int) and ast.unparse(node.value) == "states":
            other = ast.Constant(value - 1 if value else 1)
            yield "wrong state", ast.Subscript(node.value, other, ast.Load())


def _nothing(node: ast.expr) -> ast.expr:
    """Take a term away, and keep its shape."""
    return ast.BinOp(ast.Constant(0.0), ast.Mult(), node)


def _cut(node: ast.expr) -> ast.expr:
    """Detach an expression; every plugin has `keras` at hand."""
    module = ast.Call(ast.Name("__import__", ast.Load()), [ast.Constant("keras")], [])
    function = ast.Attribute(ast.Attribute(module, "ops", ast.Load()), "stop_gradient", ast.Load())
    return ast.Call(function, [node], [])


class _Replace(ast.NodeTransformer):
    """Puts one node in the place of another."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> Any:
        return self.new if node is self.old else super().visit(node)
