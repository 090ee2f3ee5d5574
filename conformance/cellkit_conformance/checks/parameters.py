"""Arguments of the constructor of a cell, and the name it is registered under."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import keras

from cellkit_conformance.checks.context import Context
from cellkit_conformance.subject.subject import Subject

FRAMEWORKS = {"keras", "cellkit", "torch", "tensorflow", "jax", "builtins", "abc", "typing"}
"""Packages whose code is not the cell's own."""


def others_for(subject: Subject, name: str) -> list[Any]:
    """Give values for an argument of which only the default is known."""
    default = defaults_of(subject.target.cls).get(name)
    given = subject.kwargs.get(name, default)
    if isinstance(given, bool):
        return [not given]
    if isinstance(given, (int, float)):
        return [given + 1, 0.5 * given]
    return ["relu" if given != "relu" else "tanh", 1, 0.5, True, [1]]


def another(value: float) -> float:
    """Give another number than a float argument has, between nought and one where it is.

    Args:
        value: The number that it has.
    """
    moved = 0.5 * value + 0.125
    return moved if moved != value else 1.5 * value


def defaults_of(cls: type) -> dict[str, Any]:
    """Give the defaults of the constructor arguments that have one.

    Args:
        cls: A class of cells.
    """
    found: dict[str, Any] = {}
    for base in cls.__mro__:
        if base in (keras.layers.Layer, object):
            break
        if "__init__" not in vars(base):
            continue
        for p in inspect.signature(vars(base)["__init__"]).parameters.values():
            if p.default is not p.empty:
                found.setdefault(p.name, p.default)
    return found


def optional_arguments(cls: type) -> list[str]:
    """List the constructor arguments that may be left out."""
    names = []
    for base in cls.__mro__:
        if base in (keras.layers.Layer, object):
            break
        parameters = inspect.signature(base.__init__).parameters.values()
        names += [p.name for p in parameters if p.default is not p.empty and p.name != "self"]
    return list(dict.fromkeys(names))


def snake(name: str) -> str:
    """Return a name without underscores, in lower-case letters."""
    return name.replace("_", "").lower()


def parameters_of(cls: type) -> list[str]:
    """List the named constructor arguments of a class and of those it passes **kwargs on to."""
    names: dict[str, None] = {}
    for base in cls.__mro__:
        if base in (keras.layers.Layer, object):
            break
        if "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        names.update({p.name: None for p in parameters if p.kind in named})
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return list(names)


def is_registered(cls: type) -> bool:
    """Say whether Keras finds a class by what it writes into a file.

    Args:
        cls: A class of cells.
    """
    name = keras.saving.get_registered_name(cls)
    return (
        cls.__module__.split(".")[0] == "keras" or keras.saving.get_registered_object(name) is cls
    )


def known_to_keras(cls: type) -> contextlib.AbstractContextManager[object]:
    """Let Keras find a class that nobody registered, which STR-14 speaks of, once.

    Args:
        cls: A class of cells.
    """
    if is_registered(cls):
        return contextlib.nullcontext()
    return keras.saving.custom_object_scope({cls.__name__: cls})


def settings(ctx: Context, case: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give what an argument may need beside it to act: other cases, and flags the other way.

    Args:
        ctx: Of the check.
        case: The case to begin with.

    Yields:
        A case, and arguments beyond its own.
    """
    yield case, {}
    yield from ((other, {}) for other in ctx.target.cases if other != case)
    given = {**defaults_of(ctx.target.cls), **ctx.target.arguments(case)}
    for name, value in given.items():
        if isinstance(value, bool) and name != "trainable":
            yield case, {name: not value}


def own_parameters(cls: type) -> list[str]:
    """List the constructor arguments that a class of the author names, and no framework's base.

    Args:
        cls: A class of cells.
    """
    names: dict[str, None] = {}
    for base in cls.__mro__:
        init = vars(base).get("__init__")
        if init is not None and base.__module__.split(".")[0] not in FRAMEWORKS:
            names.update(dict.fromkeys(list(inspect.signature(init).parameters)[1:]))
    known = parameters_of(cls)
    return [name for name in known if name in names]
