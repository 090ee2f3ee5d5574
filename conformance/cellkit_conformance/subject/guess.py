"""Guesses at a cell of which nothing is known but its class: what is not said is tried.

Arguments are guessed from their names, annotations and from what errors say, and the inputs of a
step from what `build` and a step accept: a cell is made, built, asked for its initial states and
run for one step. What was guessed stands in the notes of the report; where nothing works, the error
shows a spec to begin with.
"""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cellkit.errors import problem
from cellkit_conformance.outcome import one_line, text_of
from cellkit_conformance.trees import Tree, is_branch, leaves, map_shapes, map_trees

SIZES = ((4, 3, 5, 6, 7), (4, 4, 4, 4, 4), (8, 2, 2, 2, 2), (9, 3, 3, 3, 3))
"""What integers are tried: all different, all equal, and one that the others divide."""

FRACTIONS: tuple[str, ...] = (
    "alpha",
    "beta",
    "connectivity",
    "decay",
    "density",
    "dropout",
    "dt",
    "epsilon",
    "gamma",
    "leak",
    "leaking",
    "leaky",
    "momentum",
)
FRACTIONS += ("noise", "prob", "probability", "radius", "rate", "ratio", "scale", "scaling")
FRACTIONS += ("sparsity", "stddev", "tau", "theta", "threshold")
"""Words in the names of arguments that are fractions."""

LAYERS: Mapping[str, str] = {
    "cell": "keras.layers.SimpleRNNCell(4)",
    "cells": "[keras.layers.SimpleRNNCell(4), keras.layers.SimpleRNNCell(3)]",
    "layer": "keras.layers.Dense(4)",
    "layers": "[keras.layers.Dense(4), keras.layers.Dense(4)]",
    "backbone": "keras.layers.Dense(4)",
    "encoder": "keras.layers.Dense(4)",
    "module": "keras.layers.Dense(4)",
    "network": "keras.layers.Dense(4)",
    "projection": "keras.layers.Dense(4)",
}
"""Words in the names of arguments that are layers, and what is given for them."""

INPUTS: tuple[Tree, ...] = (
    ("features",),
    [("features",), ("others",)],
    [("features",), (1,)],
    [("features",), ("rows", "columns")],
    ("height", "width", "channels"),
    (),
    (1,),
)
"""Inputs of one step that are tried: a vector, two of them, as in Keras' guide, a vector with a
time gap, an image, a number.

After the first, vectors as wide as a state or an argument is.
"""

NUMBERED = (11, 2, 13, 17, 19, 23)
"""Sizes of named dimensions in order of appearance: none is that of an argument by chance."""

KEYS = 6
"""Entries of a dict of inputs that are asked for by `build` and given."""

OPTIONS = 6
"""Values out of the text of an error that are tried for an argument."""


@dataclass(frozen=True)
class Code:
    """A value that is written down as an expression of Python.

    Attributes:
        text: The expression, of `keras` alone.
    """

    text: str

    def make(self) -> Any:
        """Evaluate it."""
        import keras

        return eval(self.text, {"keras": keras})  # noqa: S307 (one of `LAYERS`)

    def __repr__(self) -> str:
        """Give the expression."""
        return self.text


@dataclass(frozen=True)
class Guess:
    """Arguments and inputs that were found to work.

    Attributes:
        cases: Constructor arguments by case, or functions that return them.
        inputs: The shapes of one time step.
        notes: Assumptions, for the report.
        draw_inputs: Brings random inputs into the range that the cell takes, or None.
    """

    cases: Mapping[str, Any]
    inputs: Tree
    notes: tuple[str, ...]
    draw_inputs: Callable[[Tree], Tree] | None = None


def guess(name: str, cls: Any) -> Guess:
    """Find constructor arguments and inputs for a class without a spec.

    Args:
        name: Its name in reports.
        cls: The class of a cell.

    Returns:
        One or two cases, and inputs that a step accepts. A class that cannot be made in any of the
        ways tried, although all of its arguments have a name that says enough, is given as it is:
        the checks tell what it raises.

    Raises:
        ValueError: Nothing says how to construct the class, or what it takes.
    """
    tried: list[str] = []
    refused: list[tuple[dict[str, Any], list[str]]] = []
    attempts = Attempts(name, cls)
    for kwargs in attempts:
        try:
            _make(cls, kwargs)
        except Exception as error:  # noqa: BLE001 (the next attempt may do)
            tried.append(f"{type(error).__name__}: {one_line(text_of(error))} for {_said(kwargs)}")
            attempts.learn(kwargs, text_of(error))
            continue
        found, said = _inputs(cls, kwargs)
        if found is None:
            refused.append((kwargs, said))
            for text in said:
                attempts.learn(kwargs, text)
            continue
        inputs, draw = found
        cases: dict[str, Any] = {_said(kwargs): _case(kwargs)}
        larger = {k: v + 1 if type(v) is int else v for k, v in kwargs.items()}
        if len(tried) == 0 and larger != kwargs and _works(cls, larger, inputs, draw):
            cases[_said(larger)] = _case(larger)
        return Guess(cases, inputs, _notes(cls, cases, inputs, draw), DRAWS[draw])
    if not refused and set(_arguments(cls)) <= {"units"}:
        # There is nothing to guess: this is what the author wants to see.
        return Guess(
            {"units=4": {"units": 4}} if _arguments(cls) else {"default": {}}, INPUTS[0], ()
        )
    if refused:
        kwargs, said = refused[0]
        return _of_no_inputs(name, cls, kwargs, said)
    once = {text.partition(" for ")[0]: text for text in reversed(tried)}
    raise _unknown(name, cls, "; ".join(reversed(once.values())))


def _of_no_inputs(name: str, cls: Any, kwargs: dict[str, Any], said: list[str]) -> Guess:
    """Leave it to the checks to tell what is wrong, or say that nothing is known of the inputs."""
    reasons = {text.partition(": ")[2] for text in said}
    if not hasattr(cls, "state_size") and not hasattr(_make(cls, kwargs), "state_size"):
        return Guess({_said(kwargs): _case(kwargs)}, INPUTS[0], ())
    # Of vectors of all widths the same is said: then it is not for its inputs that it raises.
    vectors = {text.partition(": ")[2] for text in said if re.match(r"\(('\w+'|\d+),\): ", text)}
    shared = _shared(cls, kwargs)
    if shared:
        raise problem(
            f"Two instances of {name} share a layer.",
            received=f"{shared}, which both hold: once it is built it fits no other inputs",
            expected="layers that each instance makes for itself",
            fix="give the argument the default None, and make the layer in `__init__`",
        )
    of_structure = any(re.match("TypeError|IndexError|.*unpack", text) for text in vectors)
    if len(reasons) == 1 or len(vectors) == 1 and not of_structure:
        return Guess({_said(kwargs): _case(kwargs)}, INPUTS[0], _notes(cls, {}, INPUTS[0], ""))
    raise problem(
        f"Nothing says what {name} takes as the input of one step.",
        received="a class without a spec, which raised for " + "; ".join(said[:4]),
        expected="a cell that takes a vector, two tensors, a dict of vectors, an image or ids",
        fix=_spec_to_add(name, kwargs),
    )


def _shared(cls: Any, kwargs: dict[str, Any]) -> str:
    """Name a layer that two instances hold, as a default argument of one makes it, or give ""."""
    import keras

    cells = [_make(cls, kwargs) for _ in range(2)]
    if not all(isinstance(cell, keras.layers.Layer) for cell in cells):
        return ""
    one, other = ({id(part): part for part in c._flatten_layers(include_self=False)} for c in cells)
    both = [part for key, part in one.items() if key in other]
    return f"a {type(both[0]).__name__}" if both else ""


def anew(value: Any) -> Any:
    """Make a layer like one that was given, because two cells must not share it.

    Args:
        value: An argument of a constructor.
    """
    import keras

    if isinstance(value, keras.layers.Layer) and not value.built:
        return value.__class__.from_config(value.get_config())
    if type(value) in (list, tuple):
        return type(value)(anew(entry) for entry in value)
    return {key: anew(entry) for key, entry in value.items()} if type(value) is dict else value


def _values(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {key: v.make() if isinstance(v, Code) else v for key, v in kwargs.items()}


def _make(cls: Any, kwargs: Mapping[str, Any]) -> Any:
    return cls(**_values(kwargs))


def _case(kwargs: dict[str, Any]) -> Any:
    """Give the arguments, or where one of them is a layer a function that makes them."""
    if any(isinstance(value, Code) for value in kwargs.values()):
        return lambda: _values(kwargs)
    return kwargs


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


class Attempts:
    """Constructor arguments to try, each set once; what errors say adds to them.

    Args:
        name: The name of the class in reports.
        cls: The class.
    """

    def __init__(self, name: str, cls: Any) -> None:
        self.arguments = _arguments(cls)
        for parameter in self.arguments.values():
            if parameter.kind is parameter.POSITIONAL_ONLY:
                raise problem(
                    f"{name} has an argument that cannot be given by name.",
                    received=f"{parameter.name}, which stands before a `/`",
                    expected="arguments that can be given by name, as a config gives them",
                    fix="take the `/` out of the signature of `__init__`",
                )
        self.left: list[dict[str, Any]] = []
        self.learnt: list[dict[str, Any]] = []
        for sizes in SIZES:
            size = itertools.chain(sizes, itertools.repeat(sizes[-1]))
            self._add({key: _value(p, size) for key, p in self.arguments.items()})
        first = self.left[0]
        for key in self.arguments:  # of an argument whose name says nothing
            if type(first[key]) is int and key != "units":
                for code in (LAYERS["cell"], LAYERS["layer"], LAYERS["cells"]):
                    self._add({**first, key: Code(code)})

    def _add(self, kwargs: dict[str, Any], soon: bool = False) -> None:
        if repr(kwargs) not in {repr(known) for known in self.learnt}:
            self.learnt.append(kwargs)
            self.left.insert(0, kwargs) if soon else self.left.append(kwargs)

    def learn(self, kwargs: dict[str, Any], text: str) -> None:
        """Try the values that an error offers for an argument.

        Args:
            kwargs: Arguments that were refused.
            text: The text of the error.
        """
        offered = re.findall(r"'([A-Za-z][\w-]*)'|\"([A-Za-z][\w-]*)\"", text[:2000])
        words = [a or b for a, b in offered]
        named = [key for key in kwargs if re.search(rf"\b{re.escape(key)}\b", text)]
        for key in named:
            fitting = [w for w in words if w not in self.arguments and w != kwargs[key]]
            for word in reversed(fitting[:OPTIONS]):
                if not isinstance(kwargs[key], Code):
                    self._add({**kwargs, key: word}, soon=True)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Give one set after the other."""
        while self.left:
            yield self.left.pop(0)


def _value(parameter: inspect.Parameter, sizes: Iterator[int]) -> Any:
    """Guess one argument by its name and annotation."""
    name, annotation = parameter.name.lower(), str(parameter.annotation).lower()
    words = set(name.split("_"))
    choice = re.search(r"literal\[['\"]([\w-]+)", annotation)
    if choice:
        return choice[1]
    if "activation" in name:
        return "tanh"
    if "initializer" in name:
        return "glorot_uniform"
    if "bool" in annotation or words & {"use", "is", "with"}:
        return True
    layer = next((code for word, code in LAYERS.items() if name.split("_")[-1] == word), None)
    if layer is not None and "int" not in annotation and not words & {"num", "n"}:
        return Code(layer)
    if "int" not in annotation and ("float" in annotation or words & set(FRACTIONS)):
        return 0.5
    if "shape" in words:
        return (next(sizes),)
    return next(sizes)


def _identity(inputs: Tree) -> Tree:
    return inputs


def _not_negative(inputs: Tree) -> Tree:
    return map_trees(np.abs, inputs)


def _ids(inputs: Tree) -> Tree:
    return map_trees(lambda a: np.abs(1000 * a).astype("int32") % 4, inputs)


DRAWS: Mapping[str, Callable[[Tree], Tree] | None] = {
    "": None,
    "numbers that are not negative": _not_negative,
    "ids from 0 to 3": _ids,
}
"""Ranges of inputs that are tried, by what the notes say of them."""


def _inputs(cls: Any, kwargs: Mapping[str, Any]) -> tuple[tuple[Tree, str] | None, list[str]]:
    """Find inputs that a cell accepts, the simplest first.

    Returns:
        The inputs and the name of their range, or None; and what was said of those refused.
    """
    said: list[str] = []
    keys: dict[str, tuple[Any, ...]] = {}
    takes_ids = _has_embedding(cls, kwargs) or _reads_whole_numbers(cls, kwargs)
    candidates = _candidates(cls, kwargs)
    if takes_ids:
        candidates = [(), (1,), *candidates]
    for inputs in candidates:
        try:
            if takes_ids and inputs in ((), (1,)) and not _keeps_rows_apart(cls, kwargs, inputs):
                continue
            vectors = all(len(shape) == 1 for shape in _state_shapes(cls, kwargs))
            plain = inputs == INPUTS[0] and vectors and not takes_ids
            if plain and _is_built_for(cls, kwargs):
                return (inputs, ""), said
            return (inputs, _range(cls, kwargs, inputs, takes_ids)), said
        except Exception as error:  # noqa: BLE001 (the next structure may do)
            said.append(f"{inputs}: {type(error).__name__}: {one_line(text_of(error), 120)}")
            wanted = error.args[0] if isinstance(error, KeyError) and error.args else None
            strings = isinstance(error, TypeError) and "not str" in str(error)
            if isinstance(wanted, str) and wanted not in keys and len(keys) < KEYS:
                keys = {**keys, wanted: (f"{wanted}_features",)}
                candidates.append(keys)
            elif strings and {} not in candidates:
                candidates.append({})
    if keys:  # a time gap, or a mask, among the entries
        for entry in keys:
            narrow = {**keys, entry: (1,)}
            try:
                return (narrow, _range(cls, kwargs, narrow, False)), said
            except Exception as error:  # noqa: BLE001 (the next one may be it)
                said.append(f"{narrow}: {type(error).__name__}: {one_line(text_of(error), 120)}")
    return None, said


def _candidates(cls: Any, kwargs: Mapping[str, Any]) -> list[Tree]:
    """List the inputs to try."""
    states = _state_shapes(cls, kwargs)
    widths = [shape[0] for shape in states if len(shape) == 1]
    widths += [shape[-1] for shape in states if len(shape) > 1]  # rows that are kept
    widths += [value for value in kwargs.values() if type(value) is int and value > 0]
    widths += [value[0] for value in kwargs.values() if type(value) is tuple and value]
    vectors = [(width,) for width in dict.fromkeys(widths)]
    images = [(*shape[:-1], "channels") for shape in states if len(shape) > 1]
    images += [shape for shape in states if len(shape) > 1]
    found: list[Tree] = [INPUTS[0], *vectors, *images, *INPUTS[1:]]
    found += [[vector, (1,)] for vector in vectors]
    return [entry for i, entry in enumerate(found) if entry not in found[:i]]


def _state_shapes(cls: Any, kwargs: Mapping[str, Any]) -> list[tuple[int, ...]]:
    """List the shapes of the states, without the batch, that a cell declares."""
    try:
        size = _make(cls, kwargs).state_size
    except Exception:  # noqa: BLE001 (a check says it better)
        return []

    def shapes(node: Any, top: bool = False) -> list[tuple[int, ...]]:
        if type(node) is int:
            return [(node,)]
        whole = isinstance(node, tuple) and all(type(n) is int for n in node)
        if whole and not top:
            return [tuple(node)]
        if isinstance(node, dict):
            return [shape for child in node.values() for shape in shapes(child)]
        if is_branch(node):
            found = [shape for child in node for shape in shapes(child)]
            return [*found, tuple(node)] if whole and len(node) > 1 else found
        shape = getattr(node, "shape", None)
        return [tuple(shape)] if isinstance(shape, tuple) else []

    return [shape for shape in shapes(size, top=True) if all(type(n) is int for n in shape)]


def _has_embedding(cls: Any, kwargs: Mapping[str, Any]) -> bool:
    """Say whether a cell holds a layer that looks up ids."""
    import keras

    cell = _make(cls, kwargs)
    inside = cell._flatten_layers() if isinstance(cell, keras.layers.Layer) else ()
    return any(isinstance(layer, keras.layers.Embedding) for layer in inside)


def _reads_whole_numbers(cls: Any, kwargs: Mapping[str, Any]) -> bool:
    """Say whether a step rounds its inputs, as one that looks up rows of a table does."""
    try:
        if _is_built_for(cls, kwargs):
            return False
    except Exception:  # noqa: BLE001 (then it takes something else)
        return False
    for shape in ((2, 3), (2,), (2, 1)):
        ids = (np.arange(np.prod(shape), dtype="float32").reshape(shape) + 2) % 4
        try:
            step = _stepper(cls, kwargs, shape)
            same, near, other = (step(x) for x in (ids, ids + 0.25, ids[::-1].copy()))
        except Exception:  # noqa: BLE001, S112 (then it takes another shape)
            continue
        return _equal(same, near) and not _equal(same, other)
    return False


def _keeps_rows_apart(cls: Any, kwargs: Mapping[str, Any], inputs: Tree) -> bool:
    """Say whether ids of this shape give a row of results for each: a wrong one may broadcast."""
    ids = np.arange(3, dtype="int32").reshape(3, *inputs)
    step = _stepper(cls, kwargs, ids.shape)
    found, turned = step(ids), step(ids[::-1].copy())
    rows = all(a.shape[:1] == (3,) for a in found)
    return rows and all(
        np.allclose(a[::-1], b, atol=1e-4) for a, b in zip(found, turned, strict=True)
    )


def _stepper(
    cls: Any, kwargs: Mapping[str, Any], shape: tuple[int, ...]
) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Make and build a cell, and give a function that runs one step of it from rest."""
    import keras

    cell = _make(cls, kwargs)
    if isinstance(cell, keras.layers.Layer) and type(cell).build is not keras.layers.Layer.build:
        cell.build(shape)
        cell.built = True

    def step(x: np.ndarray) -> list[np.ndarray]:
        result = cell.call(keras.ops.convert_to_tensor(x), _states(cell, len(x)))
        return [keras.ops.convert_to_numpy(leaf) for leaf in leaves(list(result))]

    return step


def _equal(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def _is_built_for(cls: Any, kwargs: Mapping[str, Any]) -> bool:
    """Say whether `build` makes a kernel for the number of features, which is enough of a sign.

    What hangs or crashes in a step shall do so in a check, where it costs one result.
    """
    import keras

    shapes = []
    for features in (3, 11):
        cell = _make(cls, kwargs)
        if not isinstance(cell, keras.layers.Layer):
            return False
        if type(cell).build is keras.layers.Layer.build:
            return False
        cell.build((2, features))
        shapes.append([tuple(variable.shape) for variable in cell.weights])
        if any(not layer.built for layer in cell._flatten_layers(include_self=False)):
            return False  # its weights are made in a call
    return shapes[0] != shapes[1]


def _works(cls: Any, kwargs: Mapping[str, Any], inputs: Tree, draw: str) -> bool:
    try:
        _probe(_make(cls, kwargs), inputs, DRAWS[draw] or _identity)
    except Exception:  # noqa: BLE001 (then it cannot be a second case)
        return False
    return True


def _range(cls: Any, kwargs: Mapping[str, Any], inputs: Tree, takes_ids: bool) -> str:
    """Run a step on inputs of several ranges, and name the first one that gives finite numbers."""
    names = list(DRAWS)
    first = ""
    for name in [names[2], *names[:2]] if takes_ids else names[:2]:
        if _probe(_make(cls, kwargs), inputs, DRAWS[name] or _identity):
            return name
        first = first or name
    return first


def _probe(cell: Any, inputs: Tree, draw: Callable[[Tree], Tree]) -> bool:
    """Build a cell for some inputs, and run a step.

    Returns:
        Whether all that came out was finite.
    """
    import keras

    sizes: dict[str, int] = {}

    def concrete(shape: tuple[Any, ...]) -> tuple[int, ...]:
        named = (
            d if type(d) is int else sizes.setdefault(d, NUMBERED[len(sizes) % 6]) for d in shape
        )
        return (2, *named)

    rng = np.random.default_rng(5)
    shapes = map_shapes(concrete, inputs)
    data = draw(map_shapes(lambda shape: rng.standard_normal(shape).astype("float32"), shapes))
    is_layer = isinstance(cell, keras.layers.Layer)
    if is_layer and type(cell).build is not keras.layers.Layer.build:
        cell.build(shapes)
        cell.built = True
    tensors = map_trees(keras.ops.convert_to_tensor, data)
    output, states = cell.call(tensors, _states(cell))
    found = [keras.ops.convert_to_numpy(leaf) for leaf in leaves([output, states])]
    return all(np.isfinite(leaf).all() for leaf in found)


def _states(cell: Any, batch: int = 2) -> Any:
    """Make the states of a cell for a batch, as a layer would."""
    import cellkit

    states = cellkit.RNN(cell).get_initial_state(batch_size=batch)
    return list(states) if type(states) is tuple else states


def _notes(cls: Any, cases: Mapping[str, Any], inputs: Tree, draw: str) -> tuple[str, ...]:
    required = [key for key in _arguments(cls) if key != "units"]
    made = " and ".join(cases) if required else ""
    vector = inputs == INPUTS[0]
    return (
        *([f"no spec: guessed are the arguments {made}"] if made else []),
        *([] if vector else [f"no spec: guessed are the inputs of a step, {inputs}"]),
        *([f"no spec: its inputs are drawn as {draw}"] if draw else []),
    )


def _said(kwargs: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in kwargs.items()) or "default"


def _unknown(name: str, cls: Any, tried: str) -> ValueError:
    needs = _arguments(cls)
    first = Attempts(name, cls).left[0]
    return problem(
        f"Nothing says how to construct {name}.",
        received=f"a class without a spec that needs {', '.join(needs)}; what was tried: {tried}",
        expected="a class with a spec, or one whose arguments can be guessed",
        fix=_spec_to_add(name, first),
    )


def _spec_to_add(name: str, kwargs: Mapping[str, Any]) -> str:
    """Write a spec that is valid as it is, to be changed where the guesses are wrong."""
    larger = {k: v + 1 if type(v) is int else v for k, v in kwargs.items()}
    if repr(larger) == repr(dict(kwargs)):
        larger = {**larger, "name": "second"}
    cases = [
        ", ".join(f"{key!r}: {value!r}" for key, value in given.items())
        for given in (kwargs, larger)
    ]
    by_function = any(isinstance(value, Code) for value in kwargs.values())
    small, large = (f"lambda: {{{c}}}" if by_function else f"{{{c}}}" for c in cases)
    return (
        "put this into a file my_spec.py, change what is guessed in it, and run `cellkit conform "
        f"{name} --spec my_spec.py` (or make it the attribute `spec` of the class):\n\n"
        "    import cellkit\n"
        "    import keras\n"
        "    import numpy as np\n\n"
        "    spec = cellkit.CellSpec(\n"
        f"        cases={{'small': {small}, 'large': {large}}},\n"
        "        inputs=('features',),  # the shapes of one step, such as [('features',), (1,)]\n"
        "        reference=None,  # one step in NumPy: (w, inputs, states, config)\n"
        "        symbols=cellkit.registry.rename({}),\n"
        "        paper=cellkit.Paper('Your name', 2026, 'Title', 'https://...'),\n"
        "        # Where not every number will do:\n"
        "        # draw_inputs=lambda inputs: np.abs(inputs),\n"
        "        # draw_states=lambda states: [np.abs(state) for state in states],\n"
        "        # draw_weights=lambda weights: {k: np.abs(w) for k, w in weights.items()},\n"
        "    )"
    )
