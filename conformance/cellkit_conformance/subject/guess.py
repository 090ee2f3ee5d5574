"""How to make a cell of which nothing is known but its class: what is not said is tried.

Arguments are guessed from their names and annotations, and the inputs of a step from what `build`
accepts. What was guessed stands in the notes of the report; where nothing works, the error says
what a spec has to say.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cellkit.errors import problem
from cellkit_conformance.outcome import one_line, text_of
from cellkit_conformance.trees import Tree, map_shapes

SIZES = ((4, 3, 5, 6, 7), (4, 4, 4, 4, 4), (8, 2, 2, 2, 2), (9, 3, 3, 3, 3))
"""What integers are tried: all different, all equal, and one that the others divide."""

FRACTIONS: tuple[str, ...] = (
    "alpha",
    "beta",
    "decay",
    "dropout",
    "dt",
    "epsilon",
    "gamma",
    "leak",
    "momentum",
)
FRACTIONS += ("prob", "probability", "radius", "rate", "ratio", "scale", "sparsity", "tau")
"""Words in the names of arguments that are fractions."""

INPUTS: tuple[Tree, ...] = (
    ("features",),
    [("features",), ("others",)],
    [("features",), ("rows", "columns")],
    ("height", "width", "channels"),
    (),
)
"""Inputs of one step that are tried: a vector, two of them, as in Keras' guide, an image, a number.

After the first, a vector as wide as the state is.
"""

KEYS = 6
"""Entries of a dict of inputs that are asked for by `build` and given."""


@dataclass(frozen=True)
class Guess:
    """What was found to work.

    Attributes:
        cases: Constructor arguments by case.
        inputs: The shapes of one time step.
        notes: Assumptions, for the report.
    """

    cases: Mapping[str, dict[str, Any]]
    inputs: Tree
    notes: tuple[str, ...]


def guess(name: str, cls: Any) -> Guess:
    """Find constructor arguments and inputs for a class without a spec.

    Args:
        name: Its name in reports.
        cls: The class of a cell.

    Returns:
        One or two cases, and inputs that `build` accepts. A class that cannot be made in any of the
        ways tried, although all of its arguments have a name that says enough, is given as it is:
        the checks tell what it raises.

    Raises:
        ValueError: Nothing says how to construct the class, or what it takes.
    """
    tried: list[str] = []
    for kwargs in _attempts(name, cls):
        try:
            cls(**kwargs)
        except Exception as error:  # noqa: BLE001 (the next attempt may do)
            tried.append(f"{type(error).__name__}: {one_line(text_of(error))} for {_said(kwargs)}")
            continue
        inputs = _inputs(name, cls, kwargs)
        cases = {_said(kwargs): kwargs}
        larger = {k: v + 1 if type(v) is int else v for k, v in kwargs.items()}
        if len(tried) == 0 and larger != kwargs and _works(cls, larger, inputs):
            cases[_said(larger)] = larger
        return Guess(cases, inputs, _notes(cls, cases, inputs))
    if set(_arguments(cls)) <= {"units"}:
        # There is nothing to guess: this is what the author wants to see.
        return Guess(
            {"units=4": {"units": 4}} if _arguments(cls) else {"default": {}}, INPUTS[0], ()
        )
    once = {text.partition(" for ")[0]: text for text in reversed(tried)}
    raise _unknown(name, cls, "; ".join(reversed(once.values())))


def _arguments(cls: Any) -> dict[str, inspect.Parameter]:
    """List the arguments that have to be given, and `units`, which every width hangs on."""
    try:
        parameters = inspect.signature(cls).parameters
    except (TypeError, ValueError):  # nothing is known of it
        return {}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        key: parameter
        for key, parameter in parameters.items()
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY
        and parameter.default is parameter.empty
        or parameter.kind in named
        and (parameter.default is parameter.empty or key == "units")
    }


def _attempts(name: str, cls: Any) -> Iterator[dict[str, Any]]:
    """Give constructor arguments to try, each set once."""
    arguments, seen = _arguments(cls), []
    for parameter in arguments.values():
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise problem(
                f"{name} has an argument that cannot be given by name.",
                received=f"{parameter.name}, which stands before a `/`",
                expected="arguments that can be given by name, as a config gives them",
                fix="take the `/` out of the signature of `__init__`",
            )
    for sizes in SIZES:
        size = itertools.chain(sizes, itertools.repeat(sizes[-1]))
        kwargs = {key: _value(parameter, size) for key, parameter in arguments.items()}
        if kwargs not in seen:
            seen.append(kwargs)
            yield kwargs


def _value(parameter: inspect.Parameter, sizes: Iterator[int]) -> Any:
    """Guess one argument by its name and annotation."""
    name, annotation = parameter.name.lower(), str(parameter.annotation).lower()
    words = set(name.split("_"))
    if "activation" in name:
        return "tanh"
    if "initializer" in name:
        return "glorot_uniform"
    if "bool" in annotation or words & {"use", "is", "with"}:
        return True
    if "int" not in annotation and ("float" in annotation or words & set(FRACTIONS)):
        return 0.5
    if "shape" in words:
        return (next(sizes),)
    return next(sizes)


def _inputs(name: str, cls: Any, kwargs: Mapping[str, Any]) -> Tree:
    """Find inputs that a cell accepts, the simplest first."""
    said: list[str] = []
    keys: dict[str, tuple[Any, ...]] = {}
    width = _width(cls, kwargs)
    candidates = [INPUTS[0], *([(width,)] if width else []), *INPUTS[1:]]
    usual = len(candidates)
    for inputs in candidates:
        try:
            _probe(cls(**kwargs), inputs)
            if width and inputs == INPUTS[0] and _ignores_features(cls, kwargs):
                return (width,)
        except Exception as error:  # noqa: BLE001 (the next structure may do)
            said.append(f"{inputs}: {type(error).__name__}: {one_line(text_of(error), 120)}")
            wanted = error.args[0] if isinstance(error, KeyError) and error.args else None
            strings = isinstance(error, TypeError) and "not str" in str(error)
            if isinstance(wanted, str) and wanted not in keys and len(keys) < KEYS:
                keys = {**keys, wanted: (f"{wanted}_features",)}
                candidates.append(keys)
            elif strings and {} not in candidates:
                candidates.append({})
            continue
        return inputs
    if not hasattr(cls(**kwargs), "state_size"):
        return INPUTS[0]  # which a check says better
    if len(said) == usual and len({text.partition(": ")[2] for text in said}) == 1:
        return INPUTS[0]  # it raises whatever it is given: not for its inputs
    raise problem(
        f"Nothing says what {name} takes as the input of one step.",
        received="a class without a spec, which raised for " + "; ".join(said[:4]),
        expected="a cell that takes a vector, two tensors, a dict of vectors or an image",
        fix=_spec_to_add(kwargs, "{...}  # the shapes of one step, such as ('features',)"),
    )


def _width(cls: Any, kwargs: Mapping[str, Any]) -> int | None:
    """Give the width of the first state, which some cells want their inputs to have."""
    size = getattr(cls(**kwargs), "state_size", None)
    while isinstance(size, (list, tuple)) and size:
        size = size[0]
    return size if type(size) is int and size > 0 else None


def _ignores_features(cls: Any, kwargs: Mapping[str, Any]) -> bool:
    """Say whether the weights of a cell are the same for any number of features.

    Then no kernel brings the inputs to the width of the states: they are added entry by entry.
    """
    import keras

    shapes = []
    for features in (3, 11):
        cell = cls(**kwargs)
        if not isinstance(cell, keras.layers.Layer):
            return False
        cell.build((2, features))
        if any(not layer.built for layer in cell._flatten_layers(include_self=False)):
            return False  # its weights are made in a call
        shapes.append([tuple(variable.shape) for variable in cell.weights])
    return bool(shapes[0]) and shapes[0] == shapes[1]


def _works(cls: Any, kwargs: Mapping[str, Any], inputs: Tree) -> bool:
    try:
        _probe(cls(**kwargs), inputs)
    except Exception:  # noqa: BLE001 (then it cannot be a second case)
        return False
    return True


def _probe(cell: Any, inputs: Tree) -> None:
    """Build a cell for some inputs, and run a step unless building a plain vector is enough.

    What hangs or crashes in a step shall do so in a check, where it costs one result.
    """
    import keras

    sizes: dict[str, int] = {}

    def concrete(shape: tuple[Any, ...]) -> tuple[int, ...]:
        named = (d if type(d) is int else sizes.setdefault(d, 3 + len(sizes)) for d in shape)
        return (2, *named)

    shapes = map_shapes(concrete, inputs)
    is_layer = isinstance(cell, keras.layers.Layer)
    builds = is_layer and type(cell).build is not keras.layers.Layer.build
    if builds:
        cell.build(shapes)
    if builds and inputs == INPUTS[0]:
        return
    if is_layer:
        cell.call(map_shapes(keras.ops.zeros, shapes), _states(cell))


def _states(cell: Any) -> Any:
    """Make the states of a cell for two rows, as a layer would."""
    import cellkit

    states = cellkit.RNN(cell).get_initial_state(batch_size=2)
    return list(states) if type(states) is tuple else states


def _notes(cls: Any, cases: Mapping[str, Any], inputs: Tree) -> tuple[str, ...]:
    required = [key for key in _arguments(cls) if key != "units"]
    made = " and ".join(cases) if required else ""
    vector = inputs == INPUTS[0]
    return (
        *([f"no spec: guessed are the arguments {made}"] if made else []),
        *([] if vector else [f"no spec: guessed are the inputs of a step, {inputs}"]),
    )


def _said(kwargs: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in kwargs.items()) or "default"


def _unknown(name: str, cls: Any, tried: str) -> ValueError:
    needs = _arguments(cls)
    return problem(
        f"Nothing says how to construct {name}.",
        received=f"a class without a spec that needs {', '.join(needs)}; what was tried: {tried}",
        expected="a class with a spec, or one whose arguments can be guessed",
        fix=_spec_to_add(dict.fromkeys(needs, ...), "('features',)"),
    )


def _spec_to_add(kwargs: Mapping[str, Any], inputs: str) -> str:
    case = ", ".join(f"{key!r}: {'...' if v is ... else repr(v)}" for key, v in kwargs.items())
    return (
        "add this to the class, and fill in the dots:\n\n"
        "    spec = cellkit.CellSpec(\n"
        f"        cases={{'small': {{{case}}}, 'large': {{{case}}}}},\n"
        f"        inputs={inputs},\n"
        "        reference=None,\n"
        "        symbols=cellkit.spec.rename({}),\n"
        "        paper=cellkit.Paper('Your name', 2026, 'Title', 'https://...'),\n"
        "    )"
    )
