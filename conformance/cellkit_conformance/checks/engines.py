"""DEV and GRD: whichever way a layer runs its loop, the numbers are those of the plain loop."""

from __future__ import annotations

import inspect
import itertools
from typing import Any

import keras
import numpy as np

from cellkit.engines import NAMES
from cellkit_conformance.checks import check
from cellkit_conformance.checks.context import Context
from cellkit_conformance.checks.differentiate import close_gradient, gradients
from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.outcome import NotApplicable
from cellkit_conformance.subject.backend import Gradients
from cellkit_conformance.subject.record import Claim
from cellkit_conformance.subject.subject import Returned, Subject
from cellkit_conformance.trees import Tree, map_trees

Data = tuple[Tree, Tree, np.ndarray | None]

# A gap, a start that is masked, and a row without any step.
MASK = np.array([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1], [0, 0, 0, 0, 0]], dtype=bool)


@check("DEV-02")
def engines_are_the_loop(ctx: Context) -> None:
    """Ask for every engine by name, and compare it with the loop.

    On TensorFlow they run in a graph, since some of them need one. Backwards is forwards and more:
    where every run is compiled, it does for both in all profiles but the thorough one.
    """
    _require_option(ctx, "engine")
    for subject in itertools.islice(ctx.cases(), 1):
        data = _data(ctx, subject)
        names = [name for name in NAMES if name != "loop"]
        both = keras.backend.backend() == "torch" or ctx.profile.name == "thorough"
        for reverse in (False, True) if both else (True,):
            options = {"return_sequences": True, "go_backwards": reverse}
            want = _everything(ctx, subject, data, engine="loop", **options)
            for name in list(names):
                try:
                    got = _everything(ctx, subject, data, graph=True, engine=name, **options)
                except ValueError as error:
                    if repr(name) not in str(error):  # no refusal: it failed
                        raise
                    names.remove(name)
                    continue
                how = f"by engine {name!r}" + (", backwards," if reverse else "")
                _compare(ctx, subject, how, got, want)
        if not names:
            raise NotApplicable("no engine but the loop applies to the cell here")


@check("DEV-03")
def engines_are_told(ctx: Context) -> None:
    """Ask for every engine, and read in the report which one ran, and why no other."""
    _require_option(ctx, "engine")
    for subject in itertools.islice(ctx.cases(), 1):
        inputs = subject.inputs(Example(3, 5, seed=ctx.seed))
        for name in ("auto", *NAMES):
            layer = subject.layer(engine=name, return_sequences=True)
            try:
                subject.run(layer, inputs)
            except ValueError as error:
                text = str(error)
                ctx.require(
                    name not in ("auto", "loop") and repr(name) in text,
                    f"engine={name!r} is refused by: {text[:200]!r}",
                )
                continue
            report = layer.engine_report()
            ran, others = report.engine, set(report.reasons)
            ctx.examples += 1
            ctx.require(
                ran == name or (name == "auto" and ran in NAMES),
                f"engine={name!r} was asked for, and the report says that {ran!r} ran",
            )
            ctx.require(
                others == set(NAMES) - {ran} and all(report.reasons.values()),
                f"engine={name!r}: {ran!r} ran, and the report has reasons for {sorted(others)}",
            )


@check("GRD-12")
def recomputing_changes_nothing(ctx: Context) -> None:
    """Compare a layer that computes chunks of steps again for its gradients with a plain one."""
    _require_option(ctx, "remat")
    for subject in itertools.islice(ctx.cases(), 1):
        data = _data(ctx, subject)
        want = _everything(ctx, subject, data, return_sequences=True)
        got = _everything(ctx, subject, data, return_sequences=True, remat=2)
        _compare(ctx, subject, "with remat=2", got, want)


@check("GRD-13")
def truncation_cuts_between_blocks(ctx: Context) -> None:
    """Compare the gradient of the final states with that of the last block alone."""
    _require_option(ctx, "truncate_gradient")
    size, time = 3, 5
    for subject in itertools.islice(ctx.cases(), 1):
        inputs, states, mask = _data(ctx, subject)
        plain = subject.layer(return_sequences=True)
        cut = subject.layer(return_sequences=True, truncate_gradient=size)
        want = subject.run(plain, inputs, states, mask)
        got = subject.run(cut, inputs, states, mask)
        tolerance = subject.tolerance(time)
        ctx.close("output with truncate_gradient=3", got.output, want.output, tolerance)
        ctx.close("state with truncate_gradient=3", got.states, want.states, tolerance)
        first, last = slice(0, size), slice(size, time)
        middle = subject.run(
            plain, _steps(inputs, first), states, None if mask is None else mask[:, first]
        ).states
        found = gradients(subject, inputs, states, mask, which="states", layer=cut)
        alone = gradients(
            subject,
            _steps(inputs, last),
            middle,
            None if mask is None else mask[:, last],
            which="states",
        )
        ctx.examples += 1
        for name, gradient in found.states.items():
            ctx.require(
                gradient is None or not np.any(gradient),
                f"the gradient of the final states reaches the initial state {name} through a cut",
                Claim("zero", [] if gradient is None else [gradient]),
            )
        for name, gradient in found.inputs.items():
            ctx.require(
                gradient is None or not np.any(gradient[:, first]),
                f"the gradient of the final states reaches the first block of input {name}",
                Claim("zero", [] if gradient is None else [gradient], at=(slice(None), first)),
            )
            part = None if gradient is None else gradient[:, last]
            what = f"gradient of the last block of input {name}".strip()
            _close(ctx, subject, what, part, alone.inputs[name])
        for name, gradient in found.weights.items():
            other = alone.weights[name]
            _close(ctx, subject, f"truncated gradient of weight {name}", gradient, other)


def _require_option(ctx: Context, name: str) -> None:
    if name not in inspect.signature(ctx.layer.__init__).parameters:
        raise NotApplicable(f"the layer has no option `{name}`")


def _data(ctx: Context, subject: Subject) -> Data:
    """Draw inputs of five steps, states, and a mask where the cell takes one."""
    example = Example(3, 5, seed=ctx.seed, initial_state=True)
    mask = MASK if "masking" in ctx.target.traits else None
    return subject.inputs(example), subject.random_states(example), mask


def _everything(
    ctx: Context, subject: Subject, data: Data, graph: bool = False, **options: Any
) -> tuple[Returned, Gradients]:
    """Run and differentiate a layer, in one go."""
    layer = subject.layer(**options)
    found = gradients(subject, *data, layer=layer, graph=graph)
    ctx.examples += 1
    return subject.note(layer, data, found.result, graph), found


def _compare(ctx: Context, subject: Subject, how: str, got: Any, want: Any) -> None:
    tolerance = subject.tolerance(5)
    ctx.close(f"output {how}", got[0].output, want[0].output, tolerance)
    ctx.close(f"state {how}", got[0].states, want[0].states, tolerance)
    for (name, a), (_, b) in zip(got[1].items(), want[1].items(), strict=True):
        _close(ctx, subject, f"gradient of {name} {how}", a, b)


def _close(ctx: Context, subject: Subject, what: str, got: Any, want: Any) -> None:
    """Compare gradients; none at all is one of zeros."""
    if got is None and want is None:
        return
    got = np.zeros_like(want) if got is None else got
    want = np.zeros_like(got) if want is None else want
    close_gradient(ctx, subject, what, got, want)


def _steps(tree: Any, steps: slice) -> Any:
    return map_trees(lambda a: a[:, steps], tree)
