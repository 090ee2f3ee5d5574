"""The constructor of a cell that is made from equations: its options, numbers and sizes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from cellkit.cells import positive_int
from cellkit.equations.analyse import Analysis
from cellkit.equations.declare import Declaration
from cellkit.errors import problem

__all__ = ["check", "check_activations", "constructor", "names", "own"]


def names(declaration: Declaration) -> tuple[str, ...]:
    """Return the names of the constructor arguments that a text adds."""
    return (*declaration.options, *declaration.numbers, *declaration.size_names)


def check(declaration: Declaration, base: type) -> None:
    """Refuse arguments that cells have already."""
    parameters = set(inspect.signature(base).parameters)
    for name in names(declaration):
        if name in parameters or hasattr(base, name) or not name.isidentifier():
            raise problem(
                f"`{name}` can't be an argument of {declaration.name}.",
                received=f"an option, a number or a size `{name}` of the equations",
                expected="a name that no cell has already, of letters, digits and underscores",
                fix="give it another name",
            )


def constructor(declaration: Declaration) -> Callable[..., None]:
    """Return the constructor of the class of a text, with a signature that names its arguments."""

    def __init__(self: Any, units: int, **kwargs: Any) -> None:
        owner: Any = _owner(type(self), __init__)
        super(owner, self).__init__(units, **kwargs)

    kind = inspect.Parameter
    defaults: dict[str, Any] = {
        **{name: values[0] for name, values in declaration.options.items()},
        **declaration.numbers,
        **dict.fromkeys(declaration.size_names),
    }
    own_parameters = [
        kind(
            name,
            kind.KEYWORD_ONLY,
            default=kind.empty if name in declaration.numbers and value is None else value,
        )
        for name, value in defaults.items()
    ]
    parameters = [
        kind("self", kind.POSITIONAL_OR_KEYWORD),
        kind("units", kind.POSITIONAL_OR_KEYWORD),
        *own_parameters,
        kind("kwargs", kind.VAR_KEYWORD),
    ]
    __init__.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return __init__


def _owner(cls: type, function: Any) -> type:
    """Return the class whose constructor a function is."""
    return next(base for base in cls.__mro__ if vars(base).get("__init__") is function)


def own(cls: Any, kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split keyword arguments into those of the text, checked and complete, and the others."""
    made: Declaration = cls.declaration
    rest = dict(kwargs)
    found: dict[str, Any] = {}
    for name, values in made.options.items():
        found[name] = _option(cls, name, rest.pop(name, values[0]), values)
    for name, default in made.numbers.items():
        found[name] = _number(cls, name, rest.pop(name, default), name in made.counts)
    for name in made.size_names:
        value = rest.pop(name, None)
        found[name] = None if value is None else positive_int(cls, name, value)
    return found, rest


def _option(cls: type, name: str, value: Any, values: tuple[Any, ...]) -> Any:
    for known in values:
        if value == known and (type(value) is type(known) or not isinstance(known, bool)):
            return known
    raise problem(
        f"{cls.__name__} has no such `{name}`.",
        received=f"{name}={value!r}",
        expected="one of " + ", ".join(map(repr, values)),
        fix=f"leave it out for {values[0]!r}",
    )


def _number(cls: type, name: str, value: Any, count: bool) -> Any:
    if count:
        return positive_int(cls, name, value)
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not plain or not abs(value) < float("inf"):
        raise problem(
            f"`{name}` of {cls.__name__} is not a number.",
            received=f"{name}={value!r}",
            expected="a finite number",
            fix=f"leave it out, or pass e.g. {name}=0.5",
        )
    return value


def check_activations(cls: type, analysis: Analysis, kwargs: Mapping[str, Any]) -> None:
    """Refuse an activation that the equations never apply."""
    nodes = analysis.graph.nodes
    applied = {node.value for node in nodes if node.op == "call"}
    for option, function, usual in (
        ("activation", "tanh", "tanh"),
        ("recurrent_activation", "s", "sigmoid"),
    ):
        given = kwargs.get(option, usual)
        name = getattr(given, "__name__", given)
        if function not in applied and name != usual:
            raise problem(
                f"The equations of {cls.__name__} do not apply `{option}`.",
                received=f"{option}={given!r}",
                expected=f"an equation with `{function}(...)`, which stands for it",
                fix=f"leave `{option}` out",
            )
