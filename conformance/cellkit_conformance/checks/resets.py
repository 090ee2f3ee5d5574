"""RST: a row with resets is several sequences."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from cellkit_conformance.checks import check
from cellkit_conformance.checks.context import Context
from cellkit_conformance.checks.differentiate import gradients
from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.outcome import NotApplicable
from cellkit_conformance.subject import backend
from cellkit_conformance.subject.record import Claim
from cellkit_conformance.subject.subject import Returned, Subject
from cellkit_conformance.trees import Tree, map_trees

# At the first step, in the middle, two in a row, and none; of the masked steps one has a reset with
# a step that counts before it.
RESETS = np.array([[1, 0, 0, 1, 0], [0, 0, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]], dtype=bool)
MASK = np.array([[1, 1, 0, 1, 1], [1, 1, 0, 0, 1], [1, 1, 0, 1, 0], [1, 0, 1, 1, 0]], dtype=bool)
SEGMENTS = np.array([[7, 7, 7, 2, 2], [1, 3, 3, 3, 3], [4, 4, 4, 4, 9], [5, 5, 5, 5, 5]], "int32")
SEQUENCES = {"return_sequences": True}


@check("RST-01")
def resets_begin_anew(ctx: Context) -> None:
    """Run rows with resets, some of them at masked steps, and compare with the oracle."""
    for subject in ctx.cases():
        layer, inputs, states = _layer(subject), *_data(ctx, subject)
        got = _run(subject, layer, inputs, states, mask=MASK, resets=RESETS)
        want = subject.expect(inputs, states, MASK, resets=RESETS)
        tolerance = subject.tolerance(5)
        ctx.examples += 1
        ctx.close("output", got.output, want.sequence, tolerance)
        ctx.close("state", got.states, want.states, tolerance)


@check("RST-02")
def resets_of_a_backward_run(ctx: Context) -> None:
    """Run backwards with resets and segments, and compare with the oracle."""
    for subject in ctx.cases():
        layer, inputs, states = _layer(subject, go_backwards=True), *_data(ctx, subject)
        got = _run(subject, layer, inputs, states, resets=RESETS, segments=SEGMENTS)
        changes = SEGMENTS[:, :-1] != SEGMENTS[:, 1:]
        resets = RESETS.copy()
        resets[:, :-1] |= changes
        want = subject.expect(inputs, states, resets=resets, go_backwards=True)
        tolerance = subject.tolerance(5)
        ctx.examples += 1
        ctx.close("output", got.output, want.sequence, tolerance)
        ctx.close("state", got.states, want.states, tolerance)


class _Resetting:
    """A layer whose calls all have the same resets.

    Args:
        layer: The layer.
        resets: (B, T).
    """

    def __init__(self, layer: Any, resets: np.ndarray) -> None:
        self._layer, self._resets = layer, resets

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._layer(*args, resets=self._resets, **kwargs)

    def stateless_call(self, *args: Any, **kwargs: Any) -> Any:
        """Call the layer as a function of its variables."""
        return self._layer.stateless_call(*args, resets=self._resets, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)


@check("RST-03")
def no_gradient_passes_a_reset(ctx: Context) -> None:
    """Differentiate the last output and the final states by inputs on both sides of a reset."""
    reached: list[bool] = []
    for subject in ctx.cases():
        layer, inputs, states = _layer(subject), *_data(ctx, subject)
        resets = np.zeros((4, 5), bool)
        resets[:, 2] = True
        if not layer.built:
            layer.build(map_trees(np.shape, inputs))
        found = gradients(subject, inputs, states, which="last", layer=_Resetting(layer, resets))
        ctx.examples += 1
        for name, gradient in (*found.inputs.items(), *found.states.items()):
            before = gradient if name in found.states else None
            if gradient is not None and name in found.inputs:
                before = gradient[:, :2]
                reached.append(bool(np.any(gradient[:, 2:])))
            ctx.require(
                before is None or not np.any(before),
                f"what is behind the reset has a gradient by what is before it {name}".rstrip(),
                None if before is None else Claim("zero", [before]),
            )
    if not reached:
        raise NotApplicable("its inputs are whole numbers, by which nothing is differentiated")
    ctx.require(any(reached), "no input behind the reset has a gradient")


@check("RST-04")
def a_reset_at_the_first_step(ctx: Context) -> None:
    """Reset the first step of rows that are given states, and of rows that are not."""
    for subject in ctx.cases():
        layer, inputs, states = _layer(subject), *_data(ctx, subject)
        resets = np.zeros((4, 5), bool)
        resets[:2, 0] = True
        got = _run(subject, layer, inputs, states, resets=resets)
        own = subject.reference_states(4)
        fresh = np.array([True, True, False, False])

        def chosen(a: Any, b: Any, fresh: np.ndarray = fresh) -> np.ndarray:
            return np.where(fresh.reshape((-1,) + (1,) * (np.ndim(b) - 1)), a, b)

        want = subject.expect(inputs, map_trees(chosen, own, states))
        tolerance = subject.tolerance(5)
        ctx.examples += 1
        ctx.close("output", got.output, want.sequence, tolerance)
        ctx.close("state", got.states, want.states, tolerance)


def _layer(subject: Subject, **options: Any) -> Any:
    layer = subject.layer(**SEQUENCES, **options)
    parameters = inspect.signature(layer.call).parameters
    if "resets" not in parameters and all(p.kind is not p.VAR_KEYWORD for p in parameters.values()):
        raise NotApplicable("the layer knows no resets")
    return layer


def _data(ctx: Context, subject: Subject) -> tuple[Tree, Tree]:
    example = Example(4, 5, seed=ctx.seed)
    return subject.inputs(example), subject.random_states(example)


def _run(
    subject: Subject, layer: Any, inputs: Tree, states: Tree, mask: Any = None, **flags: Any
) -> Returned:
    given = {name: flag for name, flag in {"mask": mask, **flags}.items() if flag is not None}
    tensors = [map_trees(backend.to_tensor, tree) for tree in (inputs, states)]
    return subject.unpack(layer, layer(tensors[0], initial_state=tensors[1], **given))
