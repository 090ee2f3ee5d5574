"""Declarations: what is known of a cell before its plugin is imported.

A distribution declares its cells as entry points; only its metadata is read here.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from cellkit.registry.spec import CellSpec

GROUP = "cellkit.cells"
"""The entry point group in which distributions declare their cells."""

THIS_PROCESS = "this process"
"""Stands in the place of a distribution for a cell that was registered by `register`."""


@dataclasses.dataclass(frozen=True)
class RegisteredCell:
    """A cell, as `get` returns it. It unpacks to its class and its spec.

    Args:
        name: The name it is registered under.
        cls: Its class.
        spec: Its spec, or None when it has none.
        distribution: The distribution that brings it, or ``"this process"``.
        version: The version of that distribution; None for this process.

    Example:
    ```python
    cell_class, spec = cellkit.get("lstm")
    ```
    """

    name: str
    cls: type
    spec: CellSpec | None
    distribution: str
    version: str | None = None

    def __iter__(self) -> Iterator[Any]:
        """Yield the class, then the spec."""
        yield self.cls
        yield self.spec


@dataclasses.dataclass(frozen=True)
class Declaration:
    """That a name stands for a class: what is known of a cell before its plugin is imported.

    Args:
        name: The name of the cell.
        target: Its class as ``"module:Class"``.
        distribution: The distribution that declares it, or ``"this process"``.
        version: The version of that distribution; None for this process.
    """

    name: str
    target: str
    distribution: str
    version: str | None = None

    def __str__(self) -> str:
        """Return who declares what, for messages."""
        if self.distribution == THIS_PROCESS:
            return f"this process ({self.target})"
        version = f" {self.version}" if self.version else ""
        return f"distribution {self.distribution}{version} ({self.target})"


def import_plugins(config: Any) -> list[str]:
    """Import the installed plugins whose classes a serialised configuration names.

    Keras finds a saved class by the name it was registered under, which takes place when its
    module is imported. Called before a configuration is deserialised, this lets a ``.keras`` file
    load in a process where the plugin is merely installed. Only modules that entry points declare
    are imported, whatever a file says: a file may come from anyone, and an import runs code.

    Args:
        config: The result of `keras.saving.serialize_keras_object`, or any structure with such
            entries.

    Returns:
        The modules that were imported, sorted.
    """
    packages: dict[str, set[str]] = {}
    for declaration in installed():
        module = declaration.target.partition(":")[0]
        packages.setdefault(module.partition(".")[0], set()).add(module)
    wanted: set[str] = set()
    for module in _modules_named(config):
        package = module.partition(".")[0]
        if package in packages and module not in sys.modules:
            # The file names the module that defines the class, mostly another one than the module
            # that the entry point declares, which imports it.
            wanted |= packages[package]
    missing = sorted(module for module in wanted if module not in sys.modules)
    for module in missing:
        importlib.import_module(module)
    return missing


def _modules_named(config: Any) -> Iterator[str]:
    """Yield every ``module`` of a serialised object inside a configuration."""
    if isinstance(config, Mapping):
        if isinstance(config.get("module"), str) and "class_name" in config:
            yield config["module"]
        for value in config.values():
            yield from _modules_named(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            yield from _modules_named(value)


def installed() -> tuple[Declaration, ...]:
    """Return what the distributions on `sys.path` declare."""
    return _installed(_search_path())


def _search_path() -> tuple[tuple[str, int], ...]:
    """Return the folders in which distributions are found, each with its time of change.

    Part of the key of a cache: a distribution that is installed while a notebook runs is seen.
    """
    return tuple((folder, _changed(folder)) for folder in sys.path)


def _changed(folder: str) -> int:
    try:
        return os.stat(folder or ".").st_mtime_ns
    except OSError:  # not there (yet), which is usual for entries of sys.path
        return 0


@functools.lru_cache(maxsize=1)
def _installed(search_path: tuple[tuple[str, int], ...]) -> tuple[Declaration, ...]:
    # A third of the time that `import cellkit` takes, and needed only here.
    from importlib import metadata

    entry_points = metadata.entry_points(group=GROUP)
    # A distribution reads its metadata anew for its name, and again for its version.
    owners = {id(e.dist): e.dist for e in entry_points if e.dist}
    known = {key: (owner.name, owner.version) for key, owner in owners.items()}
    unknown: tuple[str, str | None] = ("unknown", None)
    found: dict[tuple[str, str], Declaration] = {}
    for e in entry_points:
        target = e.value.replace(" ", "")
        # Two distributions that name the same class, such as a project installed under its former
        # name too, don't collide: whichever is asked, the cell is the same.
        declared = Declaration(e.name, target, *known.get(id(e.dist), unknown))
        found.setdefault((e.name, target), declared)
    return tuple(found.values())


def same_class(declared: Declaration, local: Declaration) -> bool:
    """Return whether a declaration and a local registration mean the same class.

    A plugin may declare a class that is defined in a submodule, so the package is compared.
    """
    if declared.distribution == THIS_PROCESS:
        return declared.target == local.target
    (declared_module, _, declared_class) = declared.target.partition(":")
    (local_module, _, local_class) = local.target.partition(":")
    same_package = declared_module.partition(".")[0] == local_module.partition(".")[0]
    return same_package and declared_class == local_class
