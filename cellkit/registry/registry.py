"""Which cells there are: those that installed distributions declare, and those registered here.

A distribution declares its cells as entry points of the group ``cellkit.cells``::

    [project.entry-points."cellkit.cells"]
    mgu = "cellkit_gru:MGUCell"

The names are read from the metadata of the installed distributions. A plugin is imported when one
of its cells is asked for, not before. In a notebook, `register` does the same for the running
process.

One rule for all troubles: a cell that can't be had never stands in the way of the others. Asking
for it raises an error that says what to do; a listing that needs the plugin warns and goes on.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import importlib
import inspect
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar, overload

from cellkit import _backends
from cellkit.errors import problem
from cellkit.registry.names import did_you_mean, nearest
from cellkit.registry.spec import CellSpec, check_trait

__all__ = [
    "GROUP",
    "Declaration",
    "PluginWarning",
    "RegisteredCell",
    "create",
    "declarations",
    "get",
    "import_plugins",
    "list_cells",
    "problem_of",
    "register",
    "spec_of",
]

GROUP = "cellkit.cells"
"""The entry point group in which distributions declare their cells."""

THIS_PROCESS = "this process"
"""Stands in the place of a distribution for a cell that was registered by `register`."""

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_PATH = re.compile(r"[\w.]+:[\w.]+")

_Class = TypeVar("_Class", bound=type)


class PluginWarning(UserWarning):
    """A plugin can't be used; the other cells can."""


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


@dataclasses.dataclass(frozen=True)
class _Local:
    """A cell of the running process."""

    declaration: Declaration
    cls: type
    spec: CellSpec | None
    overwrites: bool


_lock = threading.RLock()
_local: dict[str, _Local] = {}
_warned: set[tuple[Declaration, str]] = set()


@overload
def register(
    name: str, *, spec: CellSpec | None = None, overwrite: bool = False
) -> Callable[[_Class], _Class]: ...


@overload
def register(
    name: str, cls: _Class, *, spec: CellSpec | None = None, overwrite: bool = False
) -> _Class: ...


def register(
    name: str, cls: Any = None, *, spec: CellSpec | None = None, overwrite: bool = False
) -> Any:
    """Register a cell for the running process.

    Used as a decorator, ``@cellkit.register("my_cell")``, or as a function,
    ``cellkit.register("their_cell", TheirCell)``. Everything is checked before anything changes.

    Registering a class again under its name replaces it, when module and qualified name are the
    same: running a notebook's cell a second time just works. Another class under a name that is
    taken is an error, unless `overwrite` is set.

    Args:
        name: The name of the cell, in lower_snake_case.
        cls: The class of the cell: any that has ``call`` and ``state_size``.
        spec: The spec of the cell. Default: the attribute ``spec`` of the class, if there is one.
        overwrite: Whether the cell takes the name from another one, also from one that an
            installed distribution declares.

    Returns:
        The class itself; a decorator that returns it when `cls` is left out.

    Raises:
        ValueError: When the name is malformed or taken, or when the class is no cell.

    Example:
    >>> class Running:
    ...     state_size = 1
    ...
    ...     def call(self, inputs, states, training=False):
    ...         total = states[0] + inputs
    ...         return total, [total]
    >>> import cellkit
    >>> cellkit.register("running_total", Running) is Running
    True
    >>> "running_total" in cellkit.list_cells("running*")
    True
    """
    _check_name(name)
    if cls is None:
        return functools.partial(register, name, spec=spec, overwrite=overwrite)
    _check_class(name, cls)
    spec = _checked_spec(name, cls, spec)
    new = Declaration(name, f"{cls.__module__}:{cls.__qualname__}", THIS_PROCESS)
    with _lock:
        if not overwrite:
            for old in declarations().get(name, ()):
                if not _same_class(old, new):
                    raise problem(
                        f"There is a cell {name!r} already.",
                        received=f"{new.target} from {new}, and the name is taken by {old}",
                        expected="a name that is free",
                        fix=f"choose another name, or pass overwrite=True to take over {name!r} "
                        "for this process",
                    )
        _local[name] = _Local(new, cls, spec, overwrites=overwrite)
    return cls


def declarations() -> dict[str, tuple[Declaration, ...]]:
    """Return what is declared under which name, sorted by name. Nothing is imported.

    Returns:
        The declarations by name: one, or several when distributions collide.
    """
    found: dict[str, list[Declaration]] = {}
    for declaration in _installed(_search_path()):
        found.setdefault(declaration.name, []).append(declaration)
    with _lock:
        local = dict(_local)
    for name, entry in local.items():
        others = [
            old
            for old in found.get(name, ())
            if not entry.overwrites and not _same_class(old, entry.declaration)
        ]
        found[name] = [*others, entry.declaration]
    return {name: tuple(found[name]) for name in sorted(found)}


def list_cells(
    filter: str | Iterable[str] = "*", traits: str | Iterable[str] | None = None
) -> list[str]:
    """Return the names of the cells.

    Args:
        filter: A pattern such as ``"*lstm"`` (as of `fnmatch`), or several; a name that fits one
            of them is listed.
        traits: One trait or several that the cells must claim, all of them. Since traits stand
            in a cell's spec, this imports the plugins of the matching cells; a plugin that fails
            is reported by a `PluginWarning` and left out.

    Returns:
        The names, sorted.

    Raises:
        ValueError: When the filter is no pattern, or a trait is unknown.

    Example:
    >>> import cellkit
    >>> cellkit.list_cells("simple_*")
    ['simple_rnn']
    """
    patterns = _texts("filter", filter, "'*lstm'")
    known = declarations()
    names = [name for name in known if any(fnmatch.fnmatchcase(name, p) for p in patterns)]
    if traits is None:
        return names
    wanted = {check_trait(trait) for trait in _texts("traits", traits, "'masking'")}
    fitting = []
    for name in names:
        cell = _usable(known[name])
        if cell is not None and cell.spec is not None and wanted <= cell.spec.traits:
            fitting.append(name)
    return fitting


def get(name: str) -> RegisteredCell:
    """Return a cell's class and spec, importing its plugin.

    Args:
        name: The name of a cell, or ``"module:Class"`` for a class that need not be registered.

    Returns:
        The cell; it unpacks to ``(class, spec)``.

    Raises:
        ValueError: When there is no such cell, when several distributions declare it, or when
            its plugin can't be imported.

    Example:
    ```python
    cell_class, spec = cellkit.get("lstm")
    ```
    """
    if not isinstance(name, str):
        raise problem(
            "A cell is asked for by its name.",
            received=f"{name!r}, a {type(name).__name__}",
            expected="a text such as 'lstm', or 'module:Class'",
            fix="pass the name; a class or a cell that you have already needs no registry",
        )
    if _PATH.fullmatch(name):
        return _load(Declaration(name, name, THIS_PROCESS))
    known = declarations()
    if name not in known:
        raise problem(
            f"There is no cell {name!r}.",
            received=repr(name),
            expected=f"one of the {len(known)} registered cells",
            fix=f"{did_you_mean(name, known)}cellkit.list_cells() and `cellkit list` show all of "
            "them; a cell of another distribution has to be installed first",
        )
    return _load_only(known[name])


def create(cell: str, /, **kwargs: Any) -> Any:
    """Make a cell by its name.

    Args:
        cell: The name of a cell, or ``"module:Class"``.
        **kwargs: The arguments of its constructor; ``name=`` names the new cell itself.

    Returns:
        The new cell.

    Raises:
        ValueError: When there is no such cell (see `get`), or when an argument is unknown or
            missing.

    Example:
    ```python
    layer = cellkit.RNN(cellkit.create("lstm", units=32))
    ```
    """
    registered = get(cell)
    try:
        made = registered.cls(**kwargs)
    except (TypeError, ValueError) as error:
        _explain_arguments(registered, kwargs, error)
        raise
    if not hasattr(made, "state_size"):
        raise problem(
            f"The cell {cell!r} does not say how large its states are.",
            received=f"an object of {_target(registered.cls)} without state_size",
            expected="state_size: an int, a shape, or a structure of them",
            fix="set self.state_size in the constructor, or define it as a property",
        )
    return made


def problem_of(name: str) -> Exception | None:
    """Return why a declared cell can't be used, or None when it can. Imports its plugin."""
    try:
        get(name)
    except ValueError as error:
        return error
    return None


def spec_of(cls: type) -> CellSpec | None:
    """Return the spec of a class: the one it was registered with, or its attribute ``spec``."""
    with _lock:
        for entry in _local.values():
            if entry.cls is cls:
                return entry.spec
    spec = getattr(cls, "spec", None)
    return spec if isinstance(spec, CellSpec) else None


def import_plugins(config: Any) -> list[str]:
    """Import the installed plugins whose classes a serialised configuration names.

    Keras finds a saved class by the name it was registered under, which takes place when its
    module is imported. Called before a configuration is deserialised, this lets a ``.keras`` file
    load in a process where the plugin is merely installed. Only modules that entry points declare
    are imported, whatever a file says: a file may come from anyone, and an import runs code.

    Args:
        config: What `keras.saving.serialize_keras_object` returns, or any structure with such
            entries.

    Returns:
        The modules that were imported, sorted.
    """
    packages: dict[str, set[str]] = {}
    for declaration in _installed(_search_path()):
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


# --- what is installed -----------------------------------------------------------------------


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
    """Return what the distributions on `sys.path` declare."""
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


# --- from a declaration to a class -----------------------------------------------------------


def _load_only(found: tuple[Declaration, ...]) -> RegisteredCell:
    """Load the cell that a name stands for, if it stands for one."""
    if len(found) == 1:
        return _load(found[0])
    name = found[0].name
    raise problem(
        f"The cell {name!r} is declared more than once, so the name does not say which is meant.",
        received="; ".join(map(str, found)),
        expected="one declaration of a name",
        fix="uninstall one of them, or import the class you mean from its module",
    )


def _load(declaration: Declaration) -> RegisteredCell:
    """Import the class of a declaration and check it."""
    with _lock:
        entry = _local.get(declaration.name)
    if entry is not None and entry.declaration == declaration:
        cls, spec = entry.cls, entry.spec
    else:
        if declaration.name != declaration.target:
            _check_name(declaration.name, declaration)
        cls = _imported(declaration)
        _check_class(declaration.name, cls)
        spec = _checked_spec(declaration.name, cls, None)
    return RegisteredCell(
        declaration.name, cls, spec, declaration.distribution, declaration.version
    )


def _imported(declaration: Declaration) -> Any:
    module, _, attribute = declaration.target.partition(":")
    local = declaration.distribution == THIS_PROCESS
    try:
        value: Any = importlib.import_module(module)
    # A plugin may do anything while it is imported, even end the process; it must not take the
    # others with it. The cause is told, and chained.
    except (Exception, SystemExit) as error:
        # A plugin is not to blame for a backend that is missing.
        of_backend = _backends.explain(error)
        if of_backend is not None:
            raise of_backend from error
        raise problem(
            f"The cell {declaration.name!r} can't be imported.",
            received=f"{type(error).__name__}: {error}, from {declaration}",
            expected=f"a module {module} that can be imported",
            fix=f"run `python -c 'import {module}'` to see the whole error; "
            + (
                "check the spelling, and that it is run from the folder of the module"
                if local
                else f"install what it lacks, or update or uninstall {declaration.distribution}"
            ),
        ) from error
    for part in attribute.split("."):
        if not hasattr(value, part):
            raise problem(
                f"The cell {declaration.name!r} can't be found in its module.",
                received=f"{module} without {attribute or 'a class'}, from {declaration}",
                expected="'module:Class' with a class that the module has",
                fix="check the spelling of the class"
                if local
                else f"correct the entry point in the project of {declaration.distribution}, and "
                "install that again",
            )
        value = getattr(value, part)
    return value


def _usable(found: tuple[Declaration, ...]) -> RegisteredCell | None:
    """Load a cell for a listing: one that can't be used is warned about, once, and left out."""
    try:
        return _load_only(found)
    except ValueError as error:
        key = (found[0], str(error))
        with _lock:
            new = key not in _warned
            _warned.add(key)
        if new:
            # Level 3 is the caller of `list_cells`.
            warnings.warn(f"The cell is left out. {error}", PluginWarning, stacklevel=3)
        return None


def _same_class(declared: Declaration, local: Declaration) -> bool:
    """Return whether a declaration and a local registration mean the same class.

    A plugin may declare a class that is defined in a submodule, so the package is compared.
    """
    if declared.distribution == THIS_PROCESS:
        return declared.target == local.target
    (declared_module, _, declared_class) = declared.target.partition(":")
    (local_module, _, local_class) = local.target.partition(":")
    same_package = declared_module.partition(".")[0] == local_module.partition(".")[0]
    return same_package and declared_class == local_class


# --- checks ----------------------------------------------------------------------------------


def _check_name(name: object, declaration: Declaration | None = None) -> None:
    if not isinstance(name, str):
        raise problem(
            "A cell is registered under a name.",
            received=repr(name),
            expected="a text in lower_snake_case, such as 'my_cell'",
            fix="write @cellkit.register('my_cell'), with the name in parentheses",
        )
    if not _NAME.fullmatch(name):
        proposal = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.removesuffix("Cell")).lower()
        proposal = re.sub(r"[^a-z0-9]+", "_", proposal).strip("_0123456789") or "my_cell"
        raise problem(
            f"{name!r} is not a name for a cell.",
            received=f"{name!r}" + (f" from {declaration}" if declaration else ""),
            expected="lower_snake_case: lower-case letters, digits, single underscores, a letter "
            "first",
            fix=f"use for example {proposal!r}",
        )


def _check_class(name: str, cls: object) -> None:
    if not isinstance(cls, type):
        raise problem(
            f"The cell {name!r} is not a class.",
            received=f"{cls!r}, a {type(cls).__name__}",
            expected="the class of a cell",
            fix="register the class itself, not an object of it or a function that makes one",
        )
    lacking = [] if callable(getattr(cls, "call", None)) else ["call(inputs, states)"]
    lacking += [] if _has_state_size(cls) else ["state_size"]
    if lacking:
        raise problem(
            f"The class of the cell {name!r} is no cell.",
            received=f"{_target(cls)} without {' and '.join(lacking)}",
            expected="call(inputs, states) -> (output, new_states), and state_size as an "
            "attribute, as a property, or set in the constructor",
            fix="add what is missing, or derive the class from cellkit.Cell",
        )


def _has_state_size(cls: type) -> bool:
    """Return whether objects of a class can be expected to have a `state_size`.

    Most cells set it in the constructor, so the class doesn't show it, but the names that its
    methods use do. `create` looks at the object itself.
    """
    for base in cls.__mro__:
        for name, value in vars(base).items():
            code = getattr(inspect.unwrap(value) if callable(value) else None, "__code__", None)
            if name == "state_size" or "state_size" in getattr(code, "co_names", ()):
                return True
    return "state_size" in inspect.get_annotations(cls)


def _checked_spec(name: str, cls: type, spec: CellSpec | None) -> CellSpec | None:
    spec = getattr(cls, "spec", None) if spec is None else spec
    if spec is not None and not isinstance(spec, CellSpec):
        raise problem(
            f"The spec of the cell {name!r} is not a cellkit.CellSpec.",
            received=f"{spec!r}, a {type(spec).__name__}",
            expected="a cellkit.CellSpec, or None",
            fix="make the attribute `spec` of the class a cellkit.CellSpec, or pass one to "
            "cellkit.register(name, cls, spec=...)",
        )
    return spec


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


def _explain_arguments(
    registered: RegisteredCell, kwargs: dict[str, Any], error: Exception
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
    # What a base class takes, a class may refuse: `units`, where it has `filters` instead.
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
        fix=f"{meant}write cellkit.create({registered.name!r}{words})",
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
    if not _takes(registered.cls, given) and _takes(registered.cls, of_this_class):
        return of_this_class
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


def _target(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _texts(what: str, value: Any, example: str) -> list[str]:
    """Return one text or several as a list; one text must not be taken letter by letter."""
    texts = [value] if isinstance(value, str) else value
    if isinstance(texts, Iterable):
        texts = list(texts)
        if all(isinstance(text, str) for text in texts):
            return texts
    raise problem(
        f"The {what} of a listing must be texts.",
        received=f"{what}={value!r}",
        expected="a text, or several of them",
        fix=f"write for example {what}={example}",
    )
