"""The registry of cells: those that installed distributions declare, and those registered here.

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

import contextlib
import dataclasses
import fnmatch
import functools
import importlib
import inspect
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, overload

from cellkit import _backends
from cellkit.errors import problem
from cellkit.registry.checks import check_class, check_name, checked_spec, target
from cellkit.registry.constructor import accepted_arguments, explain_arguments
from cellkit.registry.declared import (
    GROUP,
    THIS_PROCESS,
    Declaration,
    RegisteredCell,
    import_plugins,
    installed,
    same_class,
)
from cellkit.registry.names import did_you_mean
from cellkit.registry.spec import CellSpec, check_trait

__all__ = [
    "GROUP",
    "Declaration",
    "PluginWarning",
    "RegisteredCell",
    "accepted_arguments",
    "create",
    "declarations",
    "forgotten",
    "get",
    "import_plugins",
    "list_cells",
    "problem_of",
    "register",
    "spec_of",
]
_PATH = re.compile(r"[\w.]+:[\w.]+")

_Class = TypeVar("_Class", bound=type)


class PluginWarning(UserWarning):
    """A plugin can't be used; the other cells can."""


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
        overwrite: True if the cell takes the name from another one, also from one that an
            installed distribution declares.

    Returns:
        The class itself; a decorator that returns it when `cls` is left out.

    Raises:
        ValueError: When the name is malformed or taken, or when the class is not a cell.

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
    check_name(name)
    if cls is None:
        return functools.partial(register, name, spec=spec, overwrite=overwrite)
    check_class(name, cls)
    spec = checked_spec(name, cls, spec)
    new = Declaration(name, f"{cls.__module__}:{cls.__qualname__}", THIS_PROCESS)
    with _lock:
        if not overwrite:
            for old in declarations().get(name, ()):
                if not same_class(old, new):
                    raise problem(
                        f"There is a cell {name!r} already.",
                        received=f"{new.target} from {new}, and the name is taken by {old}",
                        expected="a name that is free",
                        fix=f"choose another name, or pass overwrite=True to take over {name!r} "
                        "for this process",
                    )
        _local[name] = _Local(new, cls, spec, overwrites=overwrite)
    return cls


@contextlib.contextmanager
def forgotten() -> Iterator[None]:
    """Forget at the end which cells were registered in here for the running process."""
    with _lock:
        before = dict(_local)
    try:
        yield
    finally:
        with _lock:
            _local.clear()
            _local.update(before)


def declarations() -> dict[str, tuple[Declaration, ...]]:
    """Return what is declared under which name, sorted by name. Nothing is imported.

    Returns:
        The declarations by name: one, or several when distributions collide.
    """
    found: dict[str, list[Declaration]] = {}
    for declaration in installed():
        found.setdefault(declaration.name, []).append(declaration)
    with _lock:
        local = dict(_local)
    for name, entry in local.items():
        others = [
            old
            for old in found.get(name, ())
            if not entry.overwrites and not same_class(old, entry.declaration)
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
        ValueError: When the filter is not a pattern, or a trait is unknown.

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


def create(cell: str, /, *args: Any, **kwargs: Any) -> Any:
    """Make a cell by its name.

    Args:
        cell: The name of a cell, or ``"module:Class"``.
        *args: Nothing: the arguments of a cell go by keyword.
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
    if args:
        given = ", ".join([*map(repr, args), *(f"{k}={v!r}" for k, v in kwargs.items())])
        names = [p for p in inspect.signature(get(cell).cls).parameters if p not in kwargs]
        words = ", ".join(f"{n}={v!r}" for n, v in zip(names, args, strict=False))
        raise problem(
            "The arguments of a cell that is made by its name go by keyword.",
            received=f"cellkit.create({cell!r}, {given})",
            expected="a name, and keywords",
            fix=f"write e.g. cellkit.create({cell!r}, {words})",
        )
    return make(cell, kwargs, "cellkit.create")


def make(cell: str, kwargs: dict[str, Any], maker: str) -> Any:
    """Make a cell by its name, as `create` does.

    Args:
        cell: The name of a cell, or ``"module:Class"``.
        kwargs: The arguments of its constructor.
        maker: What the user called, for the advice: ``"cellkit.create"`` or ``"cellkit.RNN"``.
    """
    registered = get(cell)
    try:
        made = registered.cls(**kwargs)
    except (TypeError, ValueError) as error:
        explain_arguments(registered, kwargs, error, maker)
        raise
    if not hasattr(made, "state_size"):
        raise problem(
            f"The cell {cell!r} does not say how large its states are.",
            received=f"an object of {target(registered.cls)} without state_size",
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
    return spec.completed(cls) if isinstance(spec, CellSpec) else None


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
            check_name(declaration.name, declaration)
        cls = _imported(declaration)
        check_class(declaration.name, cls)
        spec = checked_spec(declaration.name, cls, None)
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
