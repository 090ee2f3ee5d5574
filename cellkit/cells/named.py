"""Objects of Keras that a constructor takes by name: activations, initializers, dtypes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import keras

from cellkit.errors import problem
from cellkit.registry.names import did_you_mean

__all__ = ["check_dtype_name", "resolve"]

_DTYPES = ("float32", "float16", "bfloat16", "float64", "mixed_float16", "mixed_bfloat16")

_Kind = tuple[str, Any, Callable[[Any], Any]]

# The last word of an argument's name says what it takes.
_KINDS: dict[str, _Kind] = {
    "activation": ("an activation", keras.activations, keras.activations.get),
    "initializer": ("an initializer", keras.initializers, keras.initializers.get),
    "regularizer": ("a regularizer", keras.regularizers, keras.regularizers.get),
    "constraint": ("a constraint", keras.constraints, keras.constraints.get),
}


def resolve(owner: type, name: str, value: Any) -> Any:
    """Return the object of Keras that the value of an argument stands for.

    Args:
        owner: The class whose argument it is.
        name: The name of the argument, such as `"kernel_initializer"`.
        value: A name, a configuration, an object or None.

    Raises:
        ValueError: If Keras knows no such object.
    """
    what, module, get = _KINDS[name.rpartition("_")[2]]
    try:
        return get(value)
    except (KeyError, TypeError, ValueError) as error:
        known = _names(module, get)
        near = did_you_mean(value, known) if isinstance(value, str) else ""
        raise problem(
            f"`{name}` of {owner.__name__} does not name {what} of Keras.",
            received=f"{name}={value!r}",
            expected=f"{what} by its name ({', '.join(known)}), an object, or None",
            fix=near + "a function or class of your own needs no name: pass it itself",
        ) from error


def _names(module: Any, get: Callable[[Any], Any]) -> list[str]:
    """Return the names that a module of Keras knows its objects by, as people write them."""
    found = set()
    for name, value in vars(module).items():
        if name.startswith("_") or name in ("get", "serialize", "deserialize"):
            continue
        if name.lower() in _KINDS:  # the base class, which is good for nothing by itself
            continue
        if inspect.isclass(value) or inspect.isfunction(value):
            snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
            found |= {name} if inspect.isfunction(value) else {snake, name.lower()}
    return sorted(name for name in found if _is_known(get, name))


def _is_known(get: Callable[[Any], Any], name: str) -> bool:
    try:
        get(name)
    except (KeyError, TypeError, ValueError):  # KeyError: a constant needs its value
        return False
    return True


def check_dtype_name(owner: type, value: Any) -> None:
    """Raise a `ValueError` unless Keras knows a dtype, or a policy of dtypes, by this value.

    Args:
        owner: The class whose argument it is.
        value: The value passed as `dtype`.
    """
    try:
        keras.dtype_policies.get(value)
    except (TypeError, ValueError, AttributeError) as error:
        near = did_you_mean(value, _DTYPES) if isinstance(value, str) else ""
        raise problem(
            f"`dtype` of {owner.__name__} names neither a dtype nor a policy.",
            received=f"dtype={value!r}",
            expected=f"one of {', '.join(_DTYPES)}, or a keras.DTypePolicy",
            fix=near + "leave it out for the dtype that Keras is set to",
        ) from error
