"""DST: training over several devices is training on one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from cellkit_conformance.checks import check
from cellkit_conformance.checks.context import Context
from cellkit_conformance.checks.states import is_random
from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.outcome import NotApplicable
from cellkit_conformance.subject import backend, replicas
from cellkit_conformance.subject.replicas import ROWS, STEPS, Trained, model_of
from cellkit_conformance.subject.subject import Subject

TIME = 3


@check("DST-01")
def rows_are_divided(ctx: Context) -> None:
    """Train with the rows of a batch divided between two replicas."""
    for subject, inputs in _subjects(ctx):
        want = replicas.alone(lambda: model_of(subject), inputs)  # noqa: B023
        got = replicas.data_parallel(lambda rows: model_of(subject), inputs)  # noqa: B023
        _same_weights(ctx, subject, got, want)


@check("DST-02")
def kernels_are_divided(ctx: Context) -> None:
    """Train with the kernels divided between two devices."""
    for subject, inputs in _subjects(ctx):
        want = replicas.alone(lambda: model_of(subject), inputs)  # noqa: B023
        got = replicas.model_parallel(lambda: model_of(subject), inputs)  # noqa: B023
        _same_weights(ctx, subject, got, want)


@check("DST-03")
def states_stay_with_their_rows(ctx: Context) -> None:
    """Train a stateful layer over two replicas, and look at the states that each has stored."""
    for subject, inputs in _subjects(ctx):
        want = replicas.alone(lambda: model_of(subject, ROWS, stateful=True), inputs)  # noqa: B023
        got = replicas.data_parallel(
            lambda rows: model_of(subject, rows, stateful=True),  # noqa: B023
            inputs,
        )
        _same_weights(ctx, subject, got, want)
        tolerance = subject.tolerance(STEPS * TIME)
        ctx.close("state that the replicas have stored", got.states, want.states, tolerance)


@check("DST-04")
def processes_train_together(ctx: Context) -> None:
    """Train in two processes, each with half of the rows, and on PyTorch of the weights."""
    for subject, inputs in _subjects(ctx):
        want = replicas.alone(lambda: model_of(subject), inputs)  # noqa: B023
        _same_weights(ctx, subject, replicas.over_processes(subject, inputs), want)


def _subjects(ctx: Context) -> Iterator[tuple[Subject, Any]]:
    """Go through the first case, if its training is the same on one device every time."""
    backend.need_gradients()
    for subject in itertools.islice(ctx.cases(), 1):
        if not subject.cell.trainable_variables:
            raise NotApplicable("no weight of the cell is trained")
        if is_random(subject):
            raise NotApplicable("the cell draws random numbers in training, each replica its own")
        ctx.examples += 1
        yield subject, subject.inputs(Example(ROWS, TIME, seed=ctx.seed))


def _same_weights(ctx: Context, subject: Subject, got: Trained, want: Trained) -> None:
    for name, weight in want.weights.items():
        size = max(1.0, float(np.abs(weight).max(initial=0)))
        found = got.weights[name] / size
        ctx.close(f"{name} after training", found, weight / size, subject.tolerance(STEPS * TIME))
