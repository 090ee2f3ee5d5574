"""What the command line names: a registered cell, or `module:Class`, and what is known about it."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellkit._errors import problem
from cellkit_conformance.edition import requirements
from cellkit_conformance.trees import Tree


@dataclass(frozen=True)
class Target:
    """A cell to be checked.

    Attributes:
        name: As on the command line.
        cls: The class.
        spec: Its `CellSpec`, or None.
        cases: Constructor arguments by case; from the spec, or guessed.
        inputs: The shapes of one time step.
        dims: Sizes that the spec pins.
        traits: What is claimed, and "reference" where the spec has one.
        notes: What was assumed because there is no spec, for the report.
        effects: What importing the cell's module did to the process, beside defining the cell.
    """

    name: str
    cls: Any
    spec: Any
    cases: Mapping[str, dict[str, Any]]
    inputs: Tree
    dims: Mapping[str, Any]
    traits: frozenset[str]
    notes: tuple[str, ...] = ()
    effects: tuple[str, ...] = ()

    def make(self, kwargs: Mapping[str, Any]) -> Any:
        """Make a cell, not built."""
        return self.cls(**kwargs)


def resolve(name: str) -> Target:
    """Find a cell.

    Args:
        name: A registered name, `module:Class`, or `path/to/file.py:Class`.

    Returns:
        The target.

    Raises:
        ValueError: There is no such cell, its module does not import, or it is no cell.
    """
    before = _settings()
    cls, spec = load(name) if ":" in name else _registered(name)
    after = _settings()
    effects = [_effect(key, before.get(key), value) for key, value in after.items()]
    return dataclasses.replace(
        describe(name, cls, spec), effects=tuple(effect for effect in effects if effect)
    )


BACKENDS = ("tensorflow", "torch", "jax")


def _settings() -> dict[str, Any]:
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
        name: What reports call it.
        cls: A class with `call` and `state_size`.
        spec: Its `CellSpec`, or None.

    Raises:
        ValueError: The class is no cell, or nothing says how to construct it.
    """
    if not callable(cls) or not (inspect.isclass(cls) and hasattr(cls, "call")):
        raise problem(
            f"{name} is not a recurrent cell.",
            received=f"{cls!r}",
            expected="a class with `state_size` and `call(inputs, states)`, as any Keras RNN takes",
            fix="name the class of a cell",
        )
    if spec is not None:
        traits = set(spec.traits) | ({"reference"} if spec.reference is not None else set())
        return Target(name, cls, spec, spec.cases, spec.inputs, spec.dims, frozenset(traits))
    notes = (
        "no spec: nothing is compared with a paper; checked is what needs no reference",
        "no spec: assumed are one input vector per step, and the trait 'masking' alone",
        "a spec with a NumPy `reference` of one step would add " + _of_a_reference(),
    )
    return Target(
        name, cls, None, _guess_cases(name, cls), ("features",), {}, frozenset({"masking"}), notes
    )


def _of_a_reference() -> str:
    """List what is checked only where there is a reference."""
    ids = [id for id, r in requirements().items() if "reference" in r.traits]
    return f"{len(ids)} checks of the numbers themselves: {', '.join(ids)}"


def _guess_cases(name: str, cls: Any) -> dict[str, dict[str, Any]]:
    """Find constructor arguments for a class without a spec."""
    parameters = list(inspect.signature(cls).parameters.values())
    required = [
        p
        for p in parameters
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    if any(p.name == "units" for p in parameters):
        if all(p.name == "units" for p in required):
            return {"units=4": {"units": 4}, "units=3": {"units": 3}}
    elif not required:
        return {"default": {}}
    raise problem(
        f"Nothing says how to construct {name}.",
        received="a class without a spec that needs " + ", ".join(p.name for p in required),
        expected="a class with a spec, or one that needs nothing but `units`",
        fix="give the class a `spec = cellkit.CellSpec(cases={...}, ...)`",
    )


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
    except Exception as error:
        raise problem(
            f"The module of {name} does not import.",
            received=f"{type(error).__name__}: {error}",
            expected="a module that imports",
            fix="run it alone; the working directory is on the path",
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


def _import_module(where: str) -> Any:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(where)


def _import_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module


def _registered(name: str) -> tuple[Any, Any]:
    import cellkit

    found = cellkit.get(name)
    return found.cls, found.spec
