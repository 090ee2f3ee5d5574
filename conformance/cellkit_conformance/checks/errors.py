"""ERR and PUR: bad input is refused with reasons, and what is passed in is left alone.

CMP-08 is here too, as the third kind of promise about a call rather than about its numbers.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from cellkit_conformance.checks import check
from cellkit_conformance.checks.context import Context
from cellkit_conformance.checks.structure import PAIRS, fits
from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.subject import backend
from cellkit_conformance.subject.names import describe_leaves
from cellkit_conformance.subject.subject import Subject
from cellkit_conformance.trees import Tree, difference, leaves, map_trees

SEQUENCES = {"return_sequences": True}


@check("CMP-08")
def symbolic_equals_eager(ctx: Context) -> None:
    """Call every pair of return options symbolically and compare with the eager call."""
    for subject in ctx.cases():
        inputs = subject.inputs(Example(3, 5, seed=ctx.seed))
        x = map_trees(backend.to_tensor, inputs)
        for options in PAIRS:
            layer = subject.layer(**options)
            announced, real = layer(subject.symbolic_inputs()), layer(x)
            announced = list(announced) if type(announced) is tuple else announced
            real = list(real) if type(real) is tuple else real
            found = difference(announced, real)
            ctx.require(found is None, f"with {options} symbolic and eager result differ: {found}")
            forms, actual = describe_leaves(announced), describe_leaves(real)
            for path, (shape, dtype) in forms.items():
                got, got_dtype = actual[path]
                ctx.require(
                    fits(shape, got) and dtype == got_dtype,
                    f"with {options} result {path} is announced as {shape} {dtype} and is "
                    f"{got} {got_dtype}",
                )


@check("PUR-01")
def nothing_passed_is_changed(ctx: Context) -> None:
    """Watch inputs, mask and states during a call; the list of states through `call` itself."""
    for subject in ctx.cases():
        example = Example(3, 5, seed=ctx.seed, initial_state=True)
        inputs, states = subject.inputs(example), subject.random_states(example)
        mask = np.array([[1, 1, 0, 1, 0]] * 3, dtype=bool)
        passed = (inputs, states, mask) if "masking" in ctx.target.traits else (inputs, states)
        before = copy.deepcopy(passed)
        layer = subject.layer(**SEQUENCES)
        given = {"mask": mask} if len(passed) == 3 else {}
        layer(inputs, initial_state=states, **given)
        for name, was, now in zip(("inputs", "states", "mask"), before, passed, strict=False):
            ctx.same(f"{name} passed to the layer", now, was)
        x = map_trees(lambda a: backend.to_tensor(a[:, 0]), inputs)
        tensors = map_trees(backend.to_tensor, states)
        entries = list(tensors.values() if isinstance(tensors, dict) else tensors)
        # Keras copies the list in `__call__`, so only `call` itself can be caught at it.
        subject.cell.call(x, tensors)
        after = list(tensors.values() if isinstance(tensors, dict) else tensors)
        untouched = len(after) == len(entries) and all(
            a is b for a, b in zip(after, entries, strict=True)
        )
        ctx.require(untouched, "`call` changed the list of states that it was given")
        ctx.same("states passed to the cell", backend.to_numpy(tensors), states)
        step = map_trees(lambda a: a[:, 0], inputs)
        ctx.same("inputs passed to the cell", backend.to_numpy(x), step)


@check("ERR-01")
def bad_input_is_refused(ctx: Context) -> None:
    """Pass what does not fit, and read the error."""
    for subject in ctx.cases():
        for what, action in _mistakes(subject):
            ctx.raises(what, action, "received", "expected")
        if "units" in subject.kwargs:
            for value in (0, -1, "many"):
                ctx.raises(
                    f"units={value!r}",
                    lambda s=subject, v=value: s.target.make({**s.kwargs, "units": v}),
                    repr(value),
                )


@check("ERR-02")
def errors_are_the_same_everywhere(ctx: Context) -> None:
    """Leave the texts of errors for the other backends, and compare with theirs."""
    texts: dict[str, np.ndarray] = {}
    for subject in itertools.islice(ctx.cases(), 1):
        for what, action in _mistakes(subject):
            try:
                action()
            except Exception as error:  # noqa: BLE001 (ERR-01 judges the type)
                text = f"{type(error).__name__}: {error}"
                # Keras numbers the layers of a process in their names.
                texts[what] = np.array(re.sub(r"_\d+\b", "", text))
            else:
                texts[what] = np.array("accepted")
            ctx.examples += 1
    for what, array in texts.items():
        named = [word for word in BACKEND_WORDS if word in str(array).lower()]
        ctx.require(not named, f"the error for {what} speaks of {named}: {str(array)[:200]}")
    for name, theirs in ctx.exchange.arrays("errors", texts).items():
        for what, array in texts.items():
            other = str(theirs.get(what, "nothing"))
            ctx.require(
                other == str(array), f"{what}: {str(array)[:150]!r}, and on {name} {other[:150]!r}"
            )


BACKEND_WORDS = ("tracer", "torch.", "tensorflow", "jax", "xla", "eagertensor", "op_name")


@check("ERR-03")
def layer_survives_errors(ctx: Context) -> None:
    """Use the layer again after every error."""
    for subject in ctx.cases():
        inputs = subject.inputs(Example(3, 5, seed=ctx.seed))
        layer = subject.layer(**SEQUENCES)
        want = subject.run(layer, inputs)
        for what, action in _mistakes(subject):
            _attempt(action)
            got = subject.run(layer, inputs)
            ctx.same(f"output after {what}", got.output, want.output)
            ctx.same(f"state after {what}", got.states, want.states)


def _mistakes(subject: Subject) -> list[tuple[str, Callable[[], Any]]]:
    """List calls that must be refused."""
    example = Example(3, 5, initial_state=True)
    inputs, states = subject.inputs(example), subject.random_states(example)
    layer = subject.layer(**SEQUENCES)
    subject.run(layer, inputs)

    def call(x: Tree, s: Tree | None = None) -> Callable[[], Any]:
        return lambda: subject.run(layer, x, s)

    wide = map_trees(lambda a: np.concatenate([a, a[..., :1]], axis=-1), inputs)
    flat = map_trees(lambda a: a.reshape(-1)[:3], inputs)
    step = map_trees(lambda a: a[:, 0], inputs)
    mistakes = [
        ("inputs of rank 1", call(flat)),
        ("the inputs of a single step", call(step)),
        ("states of another batch", call(inputs, map_trees(lambda a: a[:2], states))),
        ("states of one row", call(inputs, map_trees(lambda a: a[:1], states))),
        ("states of another width", call(inputs, map_trees(_widen, states))),
    ]
    if all(leaf.ndim > 2 for leaf in leaves(inputs)):
        mistakes.append(("one feature too many", call(wide)))
        if all(leaf.shape[-1] > 1 for leaf in leaves(inputs)):
            narrow = map_trees(lambda a: a[..., :-1], inputs)
            mistakes.append(("one feature too few", call(narrow)))
    if isinstance(states, list) and len(states) > 1:
        mistakes.append(("one state too few", call(inputs, states[:-1])))
    if isinstance(states, list):
        mistakes.append(("one state too many", call(inputs, [*states, states[0]])))
    return mistakes


def _widen(array: np.ndarray) -> np.ndarray:
    return np.concatenate([array, array], axis=-1)


def _attempt(action: Callable[[], Any]) -> None:
    """Make a mistake; ERR-01 judges how it is refused, this check what is left afterwards."""
    try:
        action()
    except Exception:  # noqa: BLE001, S110 (whatever it raises, the layer must work afterwards)
        return
