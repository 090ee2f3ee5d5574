"""Constructor arguments that are tried, as names, annotations and errors let one guess them."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cellkit.errors import problem

SIZES = ((4, 3, 5, 6, 7), (4, 4, 4, 4, 4), (8, 2, 2, 2, 2), (9, 3, 3, 3, 3))
"""What integers are tried: all different, all equal, and one that the others divide."""

FRACTIONS: tuple[str, ...] = (
    "alpha",
    "beta",
    "connectivity",
    "decay",
    "density",
    "dropout",
    "dt",
    "epsilon",
    "gamma",
    "leak",
    "leaking",
    "leaky",
    "momentum",
)
FRACTIONS += ("noise", "prob", "probability", "radius", "rate", "ratio", "scale", "scaling")
FRACTIONS += ("sparsity", "stddev", "tau", "theta", "threshold")
"""Words in the names of arguments that are fractions."""

LAYERS: Mapping[str, str] = {
    "cell": "keras.layers.SimpleRNNCell(4)",
    "cells": "[keras.layers.SimpleRNNCell(4), keras.layers.SimpleRNNCell(3)]",
    "layer": "keras.layers.Dense(4)",
    "layers": "[keras.layers.Dense(4), keras.layers.Dense(4)]",
    "backbone": "keras.layers.Dense(4)",
    "encoder": "keras.layers.Dense(4)",
    "module": "keras.layers.Dense(4)",
    "network": "keras.layers.Dense(4)",
    "projection": "keras.layers.Dense(4)",
}
"""Words in the names of arguments that are layers, and what is given for them."""

OPTIONS = 6
"""Values out of the text of an error that are tried for an argument."""


@dataclass(frozen=True)
class Code:
    """A value that is written down as an expression of Python.

    Attributes:
        text: The expression, of `keras` alone.
    """

    text: str

    def make(self) -> Any:
        """Evaluate it."""
        import keras

        return eval(self.text, {"keras": keras})  # noqa: S307 (one of `LAYERS`)

    def __repr__(self) -> str:
        """Give the expression."""
        return self.text


def anew(value: Any) -> Any:
    """Make a layer like one that was given, because two cells must not share it.

    Args:
        value: An argument of a constructor.
    """
    import keras

    if isinstance(value, keras.layers.Layer) and not value.built:
        return value.__class__.from_config(value.get_config())
    if type(value) in (list, tuple):
        return type(value)(anew(entry) for entry in value)
    return {key: anew(entry) for key, entry in value.items()} if type(value) is dict else value


def _values(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {key: v.make() if isinstance(v, Code) else v for key, v in kwargs.items()}


def make(cls: Any, kwargs: Mapping[str, Any]) -> Any:
    """Make a cell of guessed arguments.

    Args:
        cls: The class.
        kwargs: The arguments, of which some may be code.
    """
    return cls(**_values(kwargs))


def case_of(kwargs: dict[str, Any]) -> Any:
    """Give the arguments, or where one of them is a layer a function that makes them.

    Args:
        kwargs: The arguments, of which some may be code.
    """
    if any(isinstance(value, Code) for value in kwargs.values()):
        return lambda: _values(kwargs)
    return kwargs


def arguments_of(cls: Any) -> dict[str, inspect.Parameter]:
    """List the arguments that have to be given, and `units`, which every width hangs on.

    Args:
        cls: The class.
    """
    try:
        parameters = inspect.signature(cls).parameters
    except (TypeError, ValueError):  # nothing is known of it
        return {}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        key: parameter
        for key, parameter in parameters.items()
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY
        and parameter.default is parameter.empty
        or parameter.kind in named
        and (parameter.default is parameter.empty or key == "units")
    }


class Attempts:
    """Constructor arguments to try, each set once; what errors say adds to them.

    Args:
        name: The name of the class in reports.
        cls: The class.
    """

    def __init__(self, name: str, cls: Any) -> None:
        self.arguments = arguments_of(cls)
        for parameter in self.arguments.values():
            if parameter.kind is parameter.POSITIONAL_ONLY:
                raise problem(
                    f"{name} has an argument that cannot be given by name.",
                    received=f"{parameter.name}, which stands before a `/`",
                    expected="arguments that can be given by name, as a config gives them",
                    fix="take the `/` out of the signature of `__init__`",
                )
        self.left: list[dict[str, Any]] = []
        self.learnt: list[dict[str, Any]] = []
        for sizes in SIZES:
            size = itertools.chain(sizes, itertools.repeat(sizes[-1]))
            self._add({key: _value(p, size) for key, p in self.arguments.items()})
        first = self.left[0]
        for key in self.arguments:  # of an argument whose name says nothing
            if type(first[key]) is int and key != "units":
                for code in (LAYERS["cell"], LAYERS["layer"], LAYERS["cells"]):
                    self._add({**first, key: Code(code)})

    def _add(self, kwargs: dict[str, Any], soon: bool = False) -> None:
        if repr(kwargs) not in {repr(known) for known in self.learnt}:
            self.learnt.append(kwargs)
            self.left.insert(0, kwargs) if soon else self.left.append(kwargs)

    def learn(self, kwargs: dict[str, Any], text: str) -> None:
        """Try the values that an error offers for an argument.

        Args:
            kwargs: Arguments that were refused.
            text: The text of the error.
        """
        offered = re.findall(r"'([A-Za-z][\w-]*)'|\"([A-Za-z][\w-]*)\"", text[:2000])
        words = [a or b for a, b in offered]
        named = [key for key in kwargs if re.search(rf"\b{re.escape(key)}\b", text)]
        for key in named:
            fitting = [w for w in words if w not in self.arguments and w != kwargs[key]]
            for word in reversed(fitting[:OPTIONS]):
                if not isinstance(kwargs[key], Code):
                    self._add({**kwargs, key: word}, soon=True)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Give one set after the other."""
        while self.left:
            yield self.left.pop(0)


def _value(parameter: inspect.Parameter, sizes: Iterator[int]) -> Any:
    """Guess one argument by its name and annotation."""
    name, annotation = parameter.name.lower(), str(parameter.annotation).lower()
    words = set(name.split("_"))
    choice = re.search(r"literal\[['\"]([\w-]+)", annotation)
    if choice:
        return choice[1]
    if "activation" in name:
        return "tanh"
    if "initializer" in name:
        return "glorot_uniform"
    if "bool" in annotation or words & {"use", "is", "with"}:
        return True
    layer = next((code for word, code in LAYERS.items() if name.split("_")[-1] == word), None)
    if layer is not None and "int" not in annotation and not words & {"num", "n"}:
        return Code(layer)
    if "int" not in annotation and ("float" in annotation or words & set(FRACTIONS)):
        return 0.5
    if "shape" in words:
        return (next(sizes),)
    return next(sizes)
