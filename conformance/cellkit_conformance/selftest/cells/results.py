"""Changes to what a step returns: states that are detached, kept or exchanged, a wrong output.

They are made around the step itself, so that they are the same for cells of equations and others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import ops, tree

from cellkit_conformance.selftest.cells.change import Change, subclass

Act = Callable[[Any, list[Any], list[Any]], tuple[Any, list[Any]]]
"""Of the output, the old and the new states as lists, to output and new states."""


def changes(cls: type) -> Iterator[Change]:
    """List the changes to what a cell returns.

    Args:
        cls: The class of the cell.
    """
    count = _states_of(cls)
    acts: list[tuple[str, str, Act]] = [
        ("detached", "the output has no gradient", lambda y, a, b: (_cut(y), b)),
        ("number", "the output is 1.01 times as large", lambda y, a, b: (_scaled(y), b)),
        (
            "rows",
            "the output of a row has a part of the batch's mean",
            lambda y, a, b: (_leak(y), b),
        ),
    ]
    for k in range(count):
        acts += [
            ("detached", f"new state {k} has no gradient", _at(k, lambda a, b: _cut(b))),
            ("old for new", f"new state {k} is the old one", _at(k, lambda a, b: a)),
            ("number", f"new state {k} is 1.01 times as large", _at(k, lambda a, b: _scaled(b))),
            ("wrong output", f"the output is old state {k}", _output(k, old=True)),
            ("wrong output", f"the output is new state {k}", _output(k, old=False)),
        ]
        acts += [
            ("wrong state", f"new states {k} and {m} are exchanged", _swapped(k, m))
            for m in range(k)
        ]
    for kind, what, act in acts:

        def make(base: type, act: Act = act) -> type:
            return subclass(base, {_method(base): _wrapped(base, act)})

        yield Change(kind, what, "what the step returns", make)


def _method(cls: Any) -> str:
    """Name the method that makes a step."""
    return "step" if hasattr(cls, "step") else "call"


def _wrapped(cls: Any, act: Act) -> Any:
    inner = getattr(cls, _method(cls))

    def step(self: Any, inputs: Any, states: Any, *args: Any, **kwargs: Any) -> Any:
        output, new = inner(self, inputs, states, *args, **kwargs)
        output, flat = act(output, tree.flatten(states), tree.flatten(new))
        return output, tree.pack_sequence_as(new, flat)

    return step


def _states_of(cls: Any) -> int:
    """Count the states of the first case of a cell."""
    cell = cls(**next(iter(cls.spec.cases.values())))
    inputs = cls.spec.inputs
    plain = isinstance(inputs, tuple) and all(isinstance(d, (str, int)) for d in inputs)
    if plain:
        cell.build((None, *(d if isinstance(d, int) else 3 for d in inputs)))
    size = cell.state_size
    single = isinstance(size, int) or hasattr(size, "shape")
    return 1 if single else len(tree.flatten(tree.map_structure(lambda s: 0, size)))


def _is_float(x: Any) -> bool:
    return bool(keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype)))


def _cut(x: Any) -> Any:
    return tree.map_structure(lambda v: ops.stop_gradient(v) if _is_float(v) else v, x)


def _scaled(x: Any) -> Any:
    return tree.map_structure(lambda v: 1.01 * v if _is_float(v) else v, x)


def _leak(x: Any) -> Any:
    return tree.map_structure(
        lambda v: v + 0.01 * ops.mean(v, axis=0, keepdims=True) if _is_float(v) else v, x
    )


def _at(k: int, change: Callable[[Any, Any], Any]) -> Act:
    def act(output: Any, old: list[Any], new: list[Any]) -> tuple[Any, list[Any]]:
        return output, [
            change(a, b) if i == k else b for i, (a, b) in enumerate(zip(old, new, strict=True))
        ]

    return act


def _output(k: int, old: bool) -> Act:
    def act(output: Any, a: list[Any], b: list[Any]) -> tuple[Any, list[Any]]:
        return (a if old else b)[k], b

    return act


def _swapped(k: int, m: int) -> Act:
    def act(output: Any, old: list[Any], new: list[Any]) -> tuple[Any, list[Any]]:
        changed = list(new)
        changed[k], changed[m] = changed[m], changed[k]
        return output, changed

    return act
