"""Facts of a cell for people: what `cellkit show` prints and the site's pages are made of.

They are read from the class and its spec, which needs a backend and seconds. For the cells that
come with cellkit they lie beside this module as well, so that they are there at once: each under a
fingerprint of its package's code, and never used where the code has changed since. The file is
written by ``tools/cell_facts.py``.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import json
import re
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cellkit import _distribution
from cellkit.registry import registry

__all__ = ["FILE", "example", "facts_of", "fingerprint", "guide_of", "kept", "read", "to_file"]

FILE = Path(__file__).with_name("facts.json")
"""The facts that are kept, by the name of the cell."""

Facts = dict[str, Any]

_WIDTH = 88  # of a line of an example


def read(name: str) -> Facts:
    """Return the facts of a cell: those that are kept, or those of its class.

    Args:
        name: The name of a cell, or ``"module:Class"``.

    Raises:
        ValueError: If there is no such cell, or if it has to be imported and can't be.
    """
    declared = registry.declarations().get(name, ())
    found = kept(declared[0]) if len(declared) == 1 else None
    return facts_of(registry.get(name)) if found is None else found


def kept(declared: registry.Declaration) -> Facts | None:
    """Return the facts that are kept of a cell, or None where there are none, or none of today.

    Args:
        declared: The declaration of its distribution.
    """
    entry = _file().get(declared.name)
    if entry is None or not _distribution.is_own(declared.distribution):
        return None
    package = declared.target.partition(":")[0].partition(".")[0]
    if entry["target"] != declared.target or entry["fingerprint"] != fingerprint(package):
        return None
    version = f"{declared.distribution} {declared.version or ''}".strip()
    return {**_decoded(entry["facts"]), "distribution": version}


@functools.cache
def _file() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}


@functools.cache
def fingerprint(package: str) -> str:
    """Return a fingerprint of the code of a package, which is not imported for it.

    Args:
        package: Its name.
    """
    spec = importlib.util.find_spec(package)
    digest = hashlib.sha256()
    for folder in (spec.submodule_search_locations if spec else None) or ():
        for path in sorted(Path(folder).rglob("*.py")):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
            digest.update(path.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return digest.hexdigest()


def to_file(cells: list[registry.RegisteredCell]) -> str:
    """Return the text of the file that keeps the facts of some cells.

    Args:
        cells: The cells, as they are registered.
    """
    entries = {}
    for cell in cells:
        (declared,) = registry.declarations()[cell.name]
        package = declared.target.partition(":")[0].partition(".")[0]
        facts = {
            key: value
            for key, value in facts_of(cell, counted=True).items()
            if key != "distribution"
        }
        entries[cell.name] = {
            "target": declared.target,
            "fingerprint": fingerprint(package),
            "facts": _encoded(facts),
        }
    return json.dumps(entries, indent=1, ensure_ascii=False) + "\n"


def _encoded(value: Any) -> Any:
    """Return a value as JSON takes it, tuples marked: a shape is not a list of inputs."""
    if isinstance(value, tuple):
        return {"()": [_encoded(entry) for entry in value]}
    if isinstance(value, Mapping):
        return {key: _encoded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_encoded(entry) for entry in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)


def _decoded(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"()"}:
            return tuple(_decoded(entry) for entry in value["()"])
        return {key: _decoded(entry) for key, entry in value.items()}
    return [_decoded(entry) for entry in value] if isinstance(value, list) else value


# --- from the class and its spec ---------------------------------------------------------------


def facts_of(cell: registry.RegisteredCell, *, counted: bool = False) -> Facts:
    """Return what there is to say of a cell, which is imported already.

    Args:
        cell: The cell.
        counted: True if the formula of its parameters is to be found too, for which the cell is
            built in many sizes.

    Returns:
        By name; None where there is nothing to say.
    """
    # They need a parser or an array library, which nobody waits for who reads what is kept.
    from cellkit import _outline, _parameters

    spec, arguments = cell.spec, _arguments(cell.cls)
    options = _options(cell.cls, arguments)
    facts: Facts = {
        "name": cell.name,
        "docstring": _head(cell.cls),
        "class": f"{cell.cls.__module__}:{cell.cls.__qualname__}",
        "distribution": f"{cell.distribution} {cell.version or ''}".strip(),
    }
    if spec is None:
        none = "none: the conformance suite can't compare it with its paper"
        return {**facts, "spec": none, "arguments": arguments, "options": options}
    first = next(iter(spec.cases))
    case = spec.cases[first]
    made = cell.cls(**(case() if callable(case) else case))
    return {
        **facts,
        **guide_of(spec),
        "paper": str(spec.paper),
        "link": spec.paper.url,
        "bibtex": spec.paper.bibtex(cell.name),
        "equations": _outline.equations_of(cell.cls),
        "outline": _tree(cell.cls),
        "shapes": _shapes(cell.cls),
        "inputs": spec.inputs,
        "dims": dict(spec.dims) or None,
        "states": (", ".join(spec.states) + ": " if spec.states else "")
        + f"{_size(made.state_size)} (case {first!r})",
        "weights": repr(spec.symbols),
        "cases": dict(spec.cases),
        "traits": sorted(spec.traits),
        "reference": "NumPy" if spec.reference else "none",
        "tolerance": f"{spec.tolerance:g}: {spec.tolerance_reason}"
        if spec.tolerance_reason
        else spec.tolerance,
        "deviations": list(spec.deviations) or None,
        "aliases": dict(spec.aliases) or None,
        "signature": f"{cell.cls.__name__}{_signature(cell.cls)}",
        "arguments": arguments,
        "documented": _told(cell.cls, arguments),
        "options": options,
        "parameters": _parameters.formula(cell) if counted else None,
        "example": example(cell),
    }


def guide_of(spec: Any) -> Facts:
    """Return when to use a cell, with None where its spec says nothing of that.

    Args:
        spec: The spec of the cell, or None.
    """
    guide = getattr(spec, "guide", None)
    if guide is None:
        return {"family": None, "use_when": None, "tags": None}
    return {"family": guide.family, "use_when": guide.use_when, "tags": list(guide.tags)}


def _head(cls: type) -> str:
    """Return a docstring up to its arguments: one line, paper, equations, deviations."""
    lines = (inspect.getdoc(cls) or "").splitlines()
    ends = (i for i, line in enumerate(lines) if line.startswith(("Args:", "Arguments:")))
    return "\n".join(lines[: next(ends, None)]).strip()


def _shapes(cls: type) -> str | None:
    """Return what a docstring says of inputs, states and output, behind the arguments."""
    text = inspect.getdoc(cls) or ""
    found = re.search(r"^Inputs?:.*?(?=\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
    return found[0] if found else None


def _tree(cls: type) -> list[list[Any]] | None:
    """Return the outline of a step, or None where the language of equations can't say it."""
    from cellkit import _outline
    from cellkit.equations.analyse import analyse
    from cellkit.equations.declare import declare

    declaration = getattr(cls, "declaration", None)
    text = _outline.equations_of(cls)
    try:
        declaration = declaration or (declare(cls.__name__, text) if text else None)
        analysis = analyse(declaration) if declaration else None
    except ValueError:
        return None
    if analysis is None:
        return None
    lines = _outline.outline(analysis.declaration.text, analysis.output_name)
    return [list(line) for line in lines]


def _signature(cls: type) -> str:
    """Write the signature of a class, without types."""
    empty = inspect.Parameter.empty
    parameters = [
        parameter.replace(
            annotation=empty,
            default=empty if parameter.default is empty else _Written(_default(parameter)),
        )
        for parameter in inspect.signature(cls).parameters.values()
    ]
    return str(inspect.Signature(parameters))


class _Written(str):
    """A text whose representation is itself."""

    __slots__ = ()
    __repr__ = str.__str__


def _told(cls: type, names: Iterable[str]) -> dict[str, str]:
    """Return all that docstrings say of some arguments."""
    said: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        said |= _entries(base)
    return {name: said[name] for name in names if name in said}


def _size(declared: Any) -> str:
    """Write a declared state: sizes and shapes, with a dtype where one is fixed."""
    if isinstance(declared, Mapping):
        return "{" + ", ".join(f"{key!r}: {_size(v)}" for key, v in declared.items()) + "}"
    if isinstance(declared, list):
        return "[" + ", ".join(map(_size, declared)) + "]"
    shape, dtype = getattr(declared, "shape", None), getattr(declared, "dtype", None)
    return repr(declared) if shape is None else f"{shape!r} {dtype or ''}".strip()


def _arguments(cls: type) -> dict[str, str]:
    """Return the arguments of a class of cells, each with its default and what it is."""
    accepted = registry.accepted_arguments(cls)
    own = [name for name in inspect.signature(cls).parameters if name in accepted]
    said: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        documented = _documented(base)
        said |= documented
        if not _is_base(base):
            own += [name for name in documented if name in accepted and name not in own]
    return {name: f"{_default(accepted[name])}. {said.get(name, '')}".strip() for name in own}


def _options(cls: type, arguments: Mapping[str, str]) -> dict[str, str]:
    """Return what every cell takes beside its own arguments, with the defaults of this one."""
    accepted = registry.accepted_arguments(cls)
    known: set[str] = set().union(*(_documented(base) for base in cls.__mro__ if _is_base(base)))
    names = (name for name in accepted if name in known and name not in {"units", *arguments})
    return {name: _default(accepted[name]) for name in names}


def _default(parameter: inspect.Parameter) -> str:
    value = parameter.default
    if value is inspect.Parameter.empty:
        return "has to be given"
    # The text that Python has for a function is another one in every process.
    return value.__qualname__ if inspect.isroutine(value) else repr(value)


def _is_base(cls: type) -> bool:
    """Tell whether a class is one that cells are derived from, and none itself."""
    return cls.__module__.startswith(("keras.", "cellkit.cells"))


def _documented(cls: type) -> dict[str, str]:
    """Return the first sentence that a docstring says of each argument."""
    return {
        name: re.split(r"(?<=\.)\s(?=[A-Z`])", said, maxsplit=1)[0]
        for name, said in _entries(cls).items()
    }


def _entries(cls: type) -> dict[str, str]:
    """Return what a docstring says of each argument."""
    text = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
    section = re.search(r"^Arg(?:ument)?s:\n((?:[ \t]+.*\n?|\n)*)", text, re.MULTILINE)
    found = {}
    for entry in re.split(r"\n(?=    [\w*])", "\n" + section[1] if section else ""):
        name, colon, said = entry.strip().partition(":")
        if colon and name.isidentifier():
            found[name] = " ".join(said.split())
    return found


def example(cell: registry.RegisteredCell) -> str | None:
    """Return a program that puts a cell into a model, or None for a cell without a spec.

    Args:
        cell: The cell.
    """
    if cell.spec is None:
        return None
    case = next(iter(cell.spec.cases.values()))
    words = "".join(f", {name}={_literal(value)}" for name, value in case.items())
    sizes = {
        name: size if isinstance(size, int) else size[0] for name, size in cell.spec.dims.items()
    }
    inputs, given, fed = _inputs(cell.spec.inputs, sizes), "inputs", ""
    if cell.spec.constants is not None:
        constants = _inputs(cell.spec.constants, sizes, time=False)
        given, fed = "inputs, constants=constants", f"constants = {constants}\n"
    arguments = f'"{cell.name}"{words}, return_sequences=True'
    made = f"outputs = cellkit.RNN({arguments})({given})"
    if len(made) > _WIDTH:
        made = f"outputs = cellkit.RNN(\n    {arguments}\n)({given})"
    return (
        f"import keras\n\nimport cellkit\n\ninputs = {inputs}\n{fed}{made}\n"
        f"model = keras.Model({'[inputs, constants]' if fed else 'inputs'}, outputs)\n"
    )


def _literal(value: Any) -> str:
    """Write a value as programs have it, with double quotes."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return "[" + ", ".join(_literal(entry) for entry in value) + "]"
    return repr(value)


def _inputs(inputs: Any, sizes: dict[str, int], name: str | None = None, time: bool = True) -> str:
    """Write the inputs of a model, with a number for every size that has a name."""
    if isinstance(inputs, Mapping):
        entries = [f'"{key}": {_inputs(v, sizes, key, time)}' for key, v in inputs.items()]
        line = "{" + ", ".join(entries) + "}"
        if len(line) > _WIDTH - len("inputs = "):
            line = "{\n" + textwrap.indent("".join(f"{e},\n" for e in entries), "    ") + "}"
        return line
    if isinstance(inputs, tuple) and all(isinstance(size, (int, str)) for size in inputs):
        numbers = [
            size if isinstance(size, int) else sizes.setdefault(size, 8 + len(sizes))
            for size in inputs
        ]
        called = f", name={_literal(name)}" if name else ""
        shape = (None, *numbers) if time else tuple(numbers)
        return f"keras.Input({shape!r}{called})"
    return "[" + ", ".join(_inputs(value, sizes, time=time) for value in inputs) + "]"
