"""Arguments of the constructors of cells, and errors in plain words where they do not fit."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from cellkit.errors import problem
from cellkit.registry.declared import RegisteredCell
from cellkit.registry.names import did_you_mean, nearest


def accepted_arguments(cls: type) -> dict[str, inspect.Parameter]:
    """Return the named arguments that a class and its bases take in their constructors."""
    parameters: dict[str, inspect.Parameter] = {}
    for base in reversed(cls.__mro__):
        if "__init__" in vars(base):
            found = inspect.signature(vars(base)["__init__"]).parameters
            parameters |= {
                name: parameter
                for name, parameter in list(found.items())[1:]
                if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            }
    return parameters


def explain_arguments(
    registered: RegisteredCell, kwargs: dict[str, Any], error: Exception, maker: str
) -> None:
    """Raise in plain words when a constructor failed for the names of its arguments."""
    if "\n  Received: " in str(error):  # says it all already
        return
    parameters = accepted_arguments(registered.cls)
    required = [
        p.name
        for p in inspect.signature(registered.cls).parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    missing = [name for name in required if name not in kwargs]
    unknown = [name for name in kwargs if name not in parameters]
    if not missing and not unknown:
        return
    call = _completed(registered, kwargs, required, unknown)
    # A class may refuse what its base class takes: `units`, where it has `filters` instead.
    unknown += [name for name in kwargs if name not in call and name not in unknown]
    optional = ", ".join(sorted(set(parameters) - set(required) - set(unknown)))
    received = ", ".join(f"{name}={value!r}" for name, value in kwargs.items())
    words = "".join(f", {n}={'...' if v is ... else repr(v)}" for n, v in call.items())
    meant = did_you_mean(unknown[0], set(parameters) - set(unknown)) if unknown else ""
    raise problem(
        f"The cell {registered.name!r} has no argument {unknown[0]!r}."
        if unknown
        else f"The cell {registered.name!r} lacks an argument.",
        received=received or "no arguments",
        expected=(", ".join(required) or "no argument that has to be given")
        + (f"; optional: {optional}" if unknown and optional else ""),
        fix=f"{meant}write {maker}({registered.name!r}{words})",
    ) from error


def _completed(
    registered: RegisteredCell, kwargs: dict[str, Any], required: list[str], unknown: list[str]
) -> dict[str, Any]:
    """Return arguments that the class takes, as near as possible to those that were given.

    A value that nothing gives, neither a misspelt argument nor a case of the spec, is an ellipsis.
    """
    cases = registered.spec.cases if registered.spec else {}
    case: Mapping[str, Any] = next(iter(cases.values()), {})
    given = {name: value for name, value in kwargs.items() if name not in unknown}
    for name in required:
        if name not in given:
            meant = [u for u in unknown if nearest(u, [name])]
            given[name] = kwargs[meant[0]] if meant else case.get(name, ...)
    own = inspect.signature(registered.cls).parameters
    of_this_class = {name: value for name, value in given.items() if name in own}
    # A wrapper can do without `units`, but not if its cell is a name: then the case says more.
    whole = {**case, **given}
    for better in (given, of_this_class, whole):
        if _takes(registered.cls, better):
            return better
    return given


def _takes(cls: type, kwargs: Mapping[str, Any]) -> bool:
    """Tell whether a class can be made with these arguments, where all of them are known."""
    if ... in kwargs.values():
        return False
    try:
        cls(**kwargs)
    except (TypeError, ValueError):
        return False
    return True
