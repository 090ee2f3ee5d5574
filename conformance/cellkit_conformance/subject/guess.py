"""Guesses at a cell of which nothing is known but its class: what is not said is tried.

Arguments are guessed from their names, annotations and from what errors say, and the inputs of a
step from what `build` and a step accept: a cell is made, built, asked for its initial states and
run for one step. What was guessed stands in the notes of the report; where nothing works, the error
shows a spec to begin with.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cellkit.errors import problem
from cellkit_conformance.outcome import one_line, text_of
from cellkit_conformance.subject.guess_arguments import (
    Attempts,
    Code,
    arguments_of,
    case_of,
    make,
)
from cellkit_conformance.subject.guess_inputs import DRAWS, INPUTS, inputs_of, works
from cellkit_conformance.trees import Tree


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
            make(cls, kwargs)
        except Exception as error:  # noqa: BLE001 (the next attempt may do)
            tried.append(f"{type(error).__name__}: {one_line(text_of(error))} for {_said(kwargs)}")
            attempts.learn(kwargs, text_of(error))
            continue
        found, said = inputs_of(cls, kwargs)
        if found is None:
            refused.append((kwargs, said))
            for text in said:
                attempts.learn(kwargs, text)
            continue
        inputs, draw = found
        cases: dict[str, Any] = {_said(kwargs): case_of(kwargs)}
        larger = {k: v + 1 if type(v) is int else v for k, v in kwargs.items()}
        if len(tried) == 0 and larger != kwargs and works(cls, larger, inputs, draw):
            cases[_said(larger)] = case_of(larger)
        return Guess(cases, inputs, _notes(cls, cases, inputs, draw), DRAWS[draw])
    if not refused and set(arguments_of(cls)) <= {"units"}:
        # There is nothing to guess: this is what the author wants to see.
        return Guess(
            {"units=4": {"units": 4}} if arguments_of(cls) else {"default": {}}, INPUTS[0], ()
        )
    if refused:
        kwargs, said = refused[0]
        return _of_no_inputs(name, cls, kwargs, said)
    once = {text.partition(" for ")[0]: text for text in reversed(tried)}
    raise _unknown(name, cls, "; ".join(reversed(once.values())))


def _of_no_inputs(name: str, cls: Any, kwargs: dict[str, Any], said: list[str]) -> Guess:
    """Leave it to the checks to tell what is wrong, or say that nothing is known of the inputs."""
    reasons = {text.partition(": ")[2] for text in said}
    if not hasattr(cls, "state_size") and not hasattr(make(cls, kwargs), "state_size"):
        return Guess({_said(kwargs): case_of(kwargs)}, INPUTS[0], ())
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
        return Guess({_said(kwargs): case_of(kwargs)}, INPUTS[0], _notes(cls, {}, INPUTS[0], ""))
    raise problem(
        f"Nothing says what {name} takes as the input of one step.",
        received="a class without a spec, which raised for " + "; ".join(said[:4]),
        expected="a cell that takes a vector, two tensors, a dict of vectors, an image or ids",
        fix=_spec_to_add(name, kwargs),
    )


def _shared(cls: Any, kwargs: dict[str, Any]) -> str:
    """Name a layer that two instances hold, as a default argument of one makes it, or give ""."""
    import keras

    cells = [make(cls, kwargs) for _ in range(2)]
    if not all(isinstance(cell, keras.layers.Layer) for cell in cells):
        return ""
    one, other = ({id(part): part for part in c._flatten_layers(include_self=False)} for c in cells)
    both = [part for key, part in one.items() if key in other]
    return f"a {type(both[0]).__name__}" if both else ""


def _notes(cls: Any, cases: Mapping[str, Any], inputs: Tree, draw: str) -> tuple[str, ...]:
    required = [key for key in arguments_of(cls) if key != "units"]
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
    needs = arguments_of(cls)
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
