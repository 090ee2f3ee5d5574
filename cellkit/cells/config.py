"""The configuration of a cell, from the arguments of its constructors.

Every constructor argument is kept under an attribute of its own name; the names come from the
signatures, so that no cell repeats them.
"""

from __future__ import annotations

import difflib
import inspect
import itertools
from typing import Any

import keras

from cellkit.cells.operations import tanh
from cellkit.errors import problem


def _of_activation(activation: Any) -> Any:
    """Return an activation as it stands in a configuration: by its name, if Keras has it.

    The `tanh` that keeps to float64 goes by the name of Keras' own.
    """
    return "tanh" if activation is tanh else keras.activations.serialize(activation)


_SERIALIZERS = {
    "activation": _of_activation,
    "initializer": keras.initializers.serialize,
    "regularizer": keras.regularizers.serialize,
    "constraint": keras.constraints.serialize,
}


def arguments(cls: type) -> list[str]:
    """Return the names of the constructor arguments of `cls`, the base classes' included."""
    names: dict[str, None] = {}
    for base in cls.__mro__:
        if base is keras.layers.Layer:
            break
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        for p in itertools.islice(parameters, 1, None):
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
                names[p.name] = None
        # A constructor without **kwargs takes nothing from the classes above it.
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return list(names)


def must_have(cls: type, name: str) -> bool:
    """Tell whether a constructor has an argument of this name that cannot be left out."""
    found = inspect.signature(cls).parameters.get(name)
    return found is not None and found.default is found.empty


def check_keywords(cls: type, kwargs: dict[str, Any]) -> None:
    """Reject unknown keywords with the nearest known one."""
    of_layer = ("name", "dtype", "trainable", "activity_regularizer", "autocast")
    unknown = [k for k in kwargs if k not in of_layer]
    if unknown:
        known = [*arguments(cls), *of_layer]
        near = difflib.get_close_matches(unknown[0], known, n=1)
        raise problem(
            f"{cls.__name__} has no argument `{unknown[0]}`.",
            received=", ".join(f"{k}={kwargs[k]!r}" for k in unknown),
            expected="one of " + ", ".join(known),
            fix=f"did you mean `{near[0]}`?" if near else "remove it",
        )


def serialize(name: str, value: Any) -> Any:
    """Return the value of the argument `name` as it stands in a configuration."""
    for suffix, serialize in _SERIALIZERS.items():
        if name.endswith(suffix):
            return None if value is None else serialize(value)
    return keras.saving.serialize_keras_object(value)


def deserialize(value: Any) -> Any:
    """Return the object that a value of a configuration stands for."""
    if isinstance(value, dict) and "class_name" in value:
        return keras.saving.deserialize_keras_object(value)
    if isinstance(value, list):
        return [deserialize(v) for v in value]
    return value
