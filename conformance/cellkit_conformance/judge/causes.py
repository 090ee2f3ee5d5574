"""Tell the cause of an error: its place in the author's code, what to do, and what it prevents."""

from __future__ import annotations

import inspect
import re
import sysconfig
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

import cellkit
from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.outcome import describe_error, one_line, text_of
from cellkit_conformance.subject.steps import call_cell
from cellkit_conformance.subject.subject import Subject
from cellkit_conformance.trees import map_trees

STEP = "step"
"""The stage after which nothing that calls the cell can run."""

_LIBRARIES = (
    *(str(Path(module.__file__ or "").parent) for module in (cellkit, keras)),
    str(Path(__file__).parents[1]),
    sysconfig.get_path("stdlib"),
    sysconfig.get_path("purelib"),
    sysconfig.get_path("platlib"),
)

HINTS: dict[type[BaseException], str] = {
    NameError: "A name is misspelt, or not imported in the module of the cell.",
    ImportError: "A module that the cell imports is not installed, or its name is misspelt.",
    NotImplementedError: "A method that the base class leaves to the cell is missing.",
    RecursionError: "A method calls itself.",
}
"""What to look for where the exception itself tells it."""

WORDS = {
    "cannot add new elements of state": (
        "Make weights in `build`, and build a layer inside only where it is not `built`: one that "
        "comes from a config may be."
    ),
    "cannot contain character": "A slash ends a name: write an underscore, as in `gate_scale`.",
}
"""What to look for where words of Keras tell it."""


@dataclass(frozen=True)
class Trouble:
    """Trouble that keeps every check of a cell from running.

    Attributes:
        stage: "instance", "build", "initial state" or "step".
        reason: One line that says what happened.
        place: A place in the author's code, or "".
        hint: A place to look at first.
    """

    stage: str
    reason: str
    place: str
    hint: str


def place_of(error: BaseException, cls: Any) -> str:
    """Find where in the author's code an error was raised.

    Args:
        error: The error, with its traceback.
        cls: The class of the cell.

    Returns:
        File, line and source of the innermost frame in the cell's own file, else of the innermost
        one outside of libraries; "" where there is none.
    """
    frames: list[traceback.FrameSummary] = []
    link: BaseException | None = error
    while link is not None:
        frames = [*traceback.extract_tb(link.__traceback__), *frames]
        link = link.__cause__
    try:
        own = inspect.getsourcefile(cls)
    except (TypeError, OSError):  # a class that was made in an interpreter
        own = None
    found = [frame for frame in frames if frame.filename == own]
    found = found or [frame for frame in frames if not _of_library(frame.filename)]
    if not found:
        return ""
    frame = found[-1]
    source = f": {frame.line}" if frame.line else ""
    return f"{frame.filename}, line {frame.lineno}, in {frame.name}{source}"


def _of_library(file: str) -> bool:
    return file.startswith("<") or file.startswith(_LIBRARIES)


def hint_for(error: BaseException) -> str:
    """Say what to look for where the exception alone tells it, or return ""."""
    said = text_of(error)
    told = next((hint for words, hint in WORDS.items() if words in said), "")
    if told:
        return told
    return next((hint for kind, hint in HINTS.items() if isinstance(error, kind)), "")


_LACKING = re.compile(
    r"(not|n't) (support|implement)[^\n]{0,80}(Half|BFloat16|half|bfloat16|float16)"
    r"|Low precision dtypes not supported|attr 'T' of (half|bfloat16) is not in the list"
    r"|Could not find device for node[^\n]*(half|bfloat16)|Unsupported dtype b?float16"
)
"""Errors by which a backend says that it has an operation in full precision alone."""


def lacking(error: BaseException) -> str:
    """Say that a backend has no such operation in half precision, or return "".

    Args:
        error: Of a cell: its author can do nothing about it, and it does raise.
    """
    if not _LACKING.search(text_of(error)):
        return ""
    return one_line(f"the backend has it in full precision alone: {describe_error(error)}")


def explain(error: BaseException, cls: Any) -> dict[str, Any]:
    """Give what a result says about an error beside its message.

    Args:
        error: Of a cell.
        cls: The class of the cell.

    Returns:
        "cause", the same for the same error in the same place, and where known "place" and "hint".
    """
    place, hint = place_of(error, cls), hint_for(error)
    where = place or str([*traceback.extract_tb(error.__traceback__)][-1:])
    found = {"cause": f"{type(error).__name__} at {where}"}
    return found | ({"place": place} if place else {}) | ({"hint": hint} if hint else {})


def find_trouble(subjects: list[Subject]) -> Trouble | None:
    """Make the cell, build it, ask for its initial states and run one step.

    Args:
        subjects: One for each case, used for nothing else.

    Returns:
        The trouble of the first case where every case has one, or None.
    """
    troubles = []
    for subject in subjects:
        found = _trouble(subject)
        if found is None:
            return None
        troubles.append(found)
    return troubles[0] if troubles else None


def _trouble(subject: Subject) -> Trouble | None:
    stages: tuple[tuple[str, str, Callable[[], object], str], ...] = (
        (
            "instance",
            "making an instance raises",
            subject.fresh_cell,
            f"`__init__` was given {_said(subject)}; a spec says in `cases` what to give instead.",
        ),
        (
            "build",
            "building the cell raises",
            lambda: subject.cell,
            f"`build` was given {subject.step_shapes()} by a cell made with {_said(subject)}; "
            "a spec says in `inputs` and `cases` what to give instead.",
        ),
        (
            "initial state",
            "the initial states cannot be made:",
            lambda: subject.template,
            "Set `state_size` in `__init__`, to the width of each state; `get_initial_state`, "
            "where the cell has one, takes `batch_size`.",
        ),
        (
            STEP,
            "a single step raises",
            lambda: _step(subject),
            "`call(inputs, states)` was given one step, inputs of shape "
            f"{subject.step_shapes(2)}, and returns `(output, new_states)`.",
        ),
    )
    for stage, said, action, hint in stages:
        try:
            action()
        except (Exception, SystemExit) as error:  # noqa: BLE001 (whatever a cell raises)
            reason = one_line(f"{said} {describe_error(error)}")
            place = place_of(error, subject.target.cls)
            return Trouble(stage, reason, place, hint_for(error) or hint)
    return None


def _step(subject: Subject) -> None:
    from cellkit_conformance.subject import backend

    example = Example(2, 1, initial_state=False)
    inputs = map_trees(lambda a: backend.to_tensor(a[:, 0]), subject.inputs(example))
    states = map_trees(backend.to_tensor, subject.own_initial_states(2))
    result = call_cell(subject.cell, inputs, states)
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        kind = type(result).__name__
        raise TypeError(f"a step returned {kind}, expected (output, new_states)")


def _said(subject: Subject) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in subject.kwargs.items()) or "nothing"
