"""Targets on the command line: a registered cell, or `module:Class`, and the facts about it."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import inspect
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cellkit.errors import problem
from cellkit.registry import CellSpec
from cellkit_conformance.edition import requirements
from cellkit_conformance.outcome import text_of
from cellkit_conformance.subject.constants import fed, fed_spec
from cellkit_conformance.subject.guess import guess
from cellkit_conformance.subject.guess_arguments import anew
from cellkit_conformance.trees import Tree

Imported = TypeVar("Imported")


@dataclass(frozen=True)
class Target:
    """A cell to be checked.

    Attributes:
        name: As on the command line.
        cls: The class.
        spec: Its `CellSpec`, or None.
        cases: Constructor arguments by case, or functions that return them; from the spec, or
            guessed.
        inputs: The shapes of one time step.
        dims: Sizes that the spec pins.
        traits: The claims, and "reference" where the spec has one.
        notes: Assumptions that stand in for a spec, for the report.
        effects: Effects of importing the cell's module, beside defining the cell.
        spec_file: The file that the spec is from, or None where it is the class's own.
        draw_inputs: Brings random inputs into the range that the cell takes; the spec's, or
            guessed, or None.
    """

    name: str
    cls: Any
    spec: Any
    cases: Mapping[str, Any]
    inputs: Tree
    dims: Mapping[str, Any]
    traits: frozenset[str]
    notes: tuple[str, ...] = ()
    effects: tuple[str, ...] = ()
    spec_file: str | None = None
    draw_inputs: Callable[[Tree], Tree] | None = None

    def arguments(self, case: str) -> dict[str, Any]:
        """Give the constructor arguments of a case; a case that is a function is called.

        Args:
            case: A name in `cases`.
        """
        given = self.cases[case]
        return dict(given() if callable(given) else given)

    def make(self, kwargs: Mapping[str, Any]) -> Any:
        """Make a cell, not built; of an argument that is a layer, a new one like it."""
        return self.cls(**{key: anew(value) for key, value in kwargs.items()})

    @functools.cached_property
    def takes_dtype(self) -> bool:
        """Say whether the constructor takes a dtype, by name or among others."""
        try:
            parameters = inspect.signature(self.cls).parameters
        except (TypeError, ValueError):  # nothing is known of it
            return True
        return "dtype" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    def try_to_make(self) -> None:
        """Make a cell of every case, so that one that hangs or crashes then is known at once.

        Raises:
            Exception: The cell's own, raised in all cases; where it can be made in one, the checks
                of the others tell.
        """
        errors: list[Exception] = []
        for case in self.cases:
            try:
                self.make(self.arguments(case))
            except Exception as error:  # noqa: BLE001 (whatever a cell raises)
                errors.append(error)
        if len(errors) == len(self.cases):
            raise errors[0]


def resolve(name: str) -> Target:
    """Find a cell.

    Args:
        name: A registered name, `module:Class`, or `path/to/file.py:Class`.

    Returns:
        The target.

    Raises:
        ValueError: There is no such cell, its module does not import, or it is not a cell.
    """
    return describe_found(find(name))


@dataclass(frozen=True)
class Found:
    """A class that was imported.

    Attributes:
        name: As on the command line.
        cls: The class.
        spec: Its `spec`, whatever that is, or None.
        effects: Effects of the import on the process.
        spec_file: The file that the spec is from, where it is not the class's own.
    """

    name: str
    cls: Any
    spec: Any
    effects: tuple[str, ...]
    spec_file: str | None = None


def find(name: str, spec_file: str | None = None) -> Found:
    """Import a cell.

    Args:
        name: As of `resolve`.
        spec_file: A Python file whose `spec` takes the place of the cell's own, or None.

    Raises:
        ValueError: There is none, or a module does not import.
    """
    (cls, spec), effects = observe(lambda: load(name) if ":" in name else _registered(name))
    if spec_file is not None:
        spec, _ = load(f"{spec_file}:spec")
        if not isinstance(spec, CellSpec):
            raise problem(
                f"The `spec` of {spec_file} is no spec.",
                received=f"an object of the type {type(spec).__name__}",
                expected="what cellkit.CellSpec(...) makes",
                fix="write spec = cellkit.CellSpec(cases=..., inputs=..., ...)",
            )
    return Found(name, cls, spec, effects, spec_file)


def observe(imports: Callable[[], Imported]) -> tuple[Imported, tuple[str, ...]]:
    """Import something, and say what that did to the process.

    Args:
        imports: Imports and returns it.
    """
    before = settings()
    imported = imports()
    after = settings()
    effects = [_effect(key, before.get(key), value) for key, value in after.items()]
    return imported, tuple(effect for effect in effects if effect)


def describe_found(found: Found) -> Target:
    """Make a target of a class that was imported.

    Args:
        found: The result of `find`.

    Raises:
        ValueError: It is not a cell, or nothing says how to construct it.
    """
    target = describe(found.name, found.cls, found.spec)
    return dataclasses.replace(target, effects=found.effects, spec_file=found.spec_file)


BACKENDS = ("tensorflow", "torch", "jax")


def settings() -> dict[str, Any]:
    """Read what an import of a cell must not change: backends, and settings of the process."""
    import keras

    found: dict[str, Any] = {name: sys.modules.get(name) is not None for name in BACKENDS}
    found["keras.config.floatx"] = keras.config.floatx()
    found["keras.config.epsilon"] = keras.config.epsilon()
    found["the global dtype policy"] = keras.config.dtype_policy().name
    found["the image data format"] = keras.config.image_data_format()
    found["KERAS_BACKEND"] = os.environ.get("KERAS_BACKEND")
    if found["jax"]:
        found["jax_enable_x64"] = sys.modules["jax"].config.jax_enable_x64
    if found["torch"]:
        found["torch's default dtype"] = str(sys.modules["torch"].get_default_dtype())
    return found


def _effect(key: str, before: Any, after: Any) -> str:
    """Say what became of a setting, or return "" where nothing did."""
    if before == after or before is None:
        return ""
    return f"imports {key}" if key in BACKENDS else f"changes {key} from {before} to {after}"


def describe(name: str, cls: Any, spec: Any) -> Target:
    """Make a target of a class.

    Args:
        name: Its name in reports.
        cls: A class with `call` and `state_size`.
        spec: Its `CellSpec`, or None.

    Raises:
        ValueError: The class is not a cell, or nothing says how to construct it.
    """
    if not (inspect.isclass(cls) and callable(getattr(cls, "call", None))):
        raise problem(
            f"{name} is not a recurrent cell.",
            received=_kind(cls),
            expected="a class with `state_size` and `call(inputs, states)`, as any Keras RNN takes",
            fix="name the class of a cell",
        )
    ignored: tuple[str, ...] = ()
    if spec is not None and not isinstance(spec, CellSpec):
        ignored = (f"its `spec` is not used: it is no cellkit.CellSpec but {type(spec).__name__}",)
        spec = None
    if spec is not None:
        spec = spec.completed(cls)
        if spec.constants is not None:
            cls, spec = fed(cls, spec), fed_spec(spec)
        traits = set(spec.traits) | ({"reference"} if spec.reference is not None else set())
        notes: tuple[str, ...] = ()
        if spec.tolerance_reason:
            notes = (f"its tolerance is {spec.tolerance:g}: {spec.tolerance_reason}",)
        return Target(
            name,
            cls,
            spec,
            spec.cases,
            spec.inputs,
            spec.dims,
            frozenset(traits),
            notes,
            draw_inputs=spec.draw_inputs,
        )
    guessed = guess(name, cls)
    vector = guessed.inputs == ("features",)
    notes = (
        *ignored,
        "no spec: nothing is compared with a paper; checked is what needs no reference",
        "no spec: assumed "
        + ("are one input vector per step, and " if vector else "is ")
        + "the trait 'masking' alone",
        *guessed.notes,
        "a spec with a NumPy `reference` of one step would add " + _of_a_reference(),
    )
    return Target(
        name,
        cls,
        None,
        guessed.cases,
        guessed.inputs,
        {},
        frozenset({"masking"}),
        notes,
        draw_inputs=guessed.draw_inputs,
    )


def _kind(found: Any) -> str:
    """Say what was found where a cell was expected; its own `repr` may say too much, or raise."""
    if inspect.isclass(found):
        return f"the class {found.__name__}, which has no `call`"
    return f"an object of the type {type(found).__name__}"


def _of_a_reference() -> str:
    """List what is checked only where there is a reference."""
    ids = [id for id, r in requirements().items() if "reference" in r.traits]
    return f"{len(ids)} checks of the numbers themselves: {', '.join(ids)}"


def load(name: str) -> tuple[Any, Any]:
    """Import `module:Class` or `file.py:Class`.

    Args:
        name: The module or file, a colon, and the class.

    Returns:
        The class, and its spec or None.

    Raises:
        ValueError: There is no such module or class, or the module does not import.
    """
    where, _, attribute = name.rpartition(":")
    try:
        module = _import_file(Path(where)) if where.endswith(".py") else _import_module(where)
    except (Exception, SystemExit) as error:
        alone = shlex.join(["python", where] if where.endswith(".py") else ["python", "-c"])
        alone += "" if where.endswith(".py") else f" 'import {where}'"
        raise problem(
            f"The module of {name} does not import.",
            received=f"{type(error).__name__}: {text_of(error)}{_line_of(error)}",
            expected="a module that imports",
            fix=f"run it alone: {alone} (the working directory is on the path)",
        ) from error
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise problem(
                f"The module {where} has no {attribute!r}.",
                received=name,
                expected="module:Class",
                fix=f"it has: {', '.join(n for n in vars(module) if not n.startswith('_'))[:200]}",
            )
        found = getattr(found, part)
    return found, getattr(found, "spec", None)


_FILES: dict[str, Any] = {}
"""Modules that were imported from a file by its path, by name."""


def _line_of(error: BaseException) -> str:
    """Say in which line a module raised, past the machinery of imports."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "importlib" not in f.filename and f.filename != __file__]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""


def _import_module(where: str) -> Any:
    _add_path(Path.cwd())
    return importlib.import_module(where)


def _import_file(path: Path) -> Any:
    """Import a file: as a part of its package where it lies in one, else as a module of its name.

    Its folder is on the path, as when Python runs it, so that it finds what lies beside it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    path = path.resolve()
    root, names = path.parent, [path.stem]
    while (root / "__init__.py").is_file():
        root, names = root.parent, [root.name, *names]
    _add_path(root)
    name = ".".join(names)
    if len(names) > 1:
        return importlib.import_module(name)
    if name in sys.modules and name not in _FILES:
        raise ImportError(f"another module is called {name!r} already; rename the file")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    _FILES[name] = sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _add_path(folder: Path) -> None:
    if str(folder) not in sys.path and not ("" in sys.path and folder == Path.cwd()):
        sys.path.insert(0, str(folder))


def _registered(name: str) -> tuple[Any, Any]:
    import cellkit

    found = cellkit.get(name)
    return found.cls, found.spec
