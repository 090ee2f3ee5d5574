"""Defined cells in saved models: their configuration carries the text, which makes their class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

__all__ = ["plain", "restore"]


def restore(config: Any) -> None:
    """Define the cells of a configuration whose classes this process has not defined.

    Args:
        config: The configuration of a layer, with those of its cells in it.
    """
    if isinstance(config, Mapping):
        definition = config.get("equations")
        if isinstance(definition, Mapping) and "package" in definition:
            _define(definition)
        for value in config.values():
            restore(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            restore(value)


def _define(definition: Mapping[str, Any]) -> None:
    from cellkit.equations.cell import define

    known = f"{definition['package']}>{definition['name']}"
    if keras.saving.get_registered_object(known) is not None:
        return
    options = dict(definition)
    options["initializers"] = {
        name: keras.initializers.get(value)
        for name, value in definition.get("initializers", {}).items()
    }
    define(options.pop("name"), options.pop("equations"), **options)


def plain(value: Any) -> Any:
    """Return a structure with lists in the place of tuples, as JSON has them."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return value
