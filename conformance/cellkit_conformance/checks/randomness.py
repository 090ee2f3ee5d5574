"""RNG: dropout, the training flag, determinism."""

from __future__ import annotations

import numpy as np

from cellkit_conformance import backend
from cellkit_conformance.checks import check
from cellkit_conformance.checks.gradients import gradients
from cellkit_conformance.context import Context
from cellkit_conformance.strategies import Example
from cellkit_conformance.subject import Subject
from cellkit_conformance.trees import leaves

SEQUENCES = {"return_sequences": True}


@check("RNG-01")
def inference_is_deterministic(ctx: Context) -> None:
    """Call twice in inference, also with dropout configured, and watch the variables."""
    extras = [{}, {"dropout": 0.5}] if "dropout" in ctx.target.traits else [{}]
    for subject in list(ctx.cases()):
        for extra in extras:
            subject = ctx.subject(subject.case, **extra)
            inputs = subject.inputs(Example(3, 5, seed=ctx.seed))
            layer = subject.layer(**SEQUENCES)
            first = subject.run(layer, inputs)
            before = [np.array(backend.to_numpy(v.value)) for v in layer.variables]
            for training in (False, None):
                again = subject.run(layer, inputs, training=training)
                said = "by default" if training is None else "with training=False"
                ctx.same(f"second output {said}", again.output, first.output)
                ctx.same(f"second state {said}", again.states, first.states)
            after = [np.array(backend.to_numpy(v.value)) for v in layer.variables]
            for variable, old, new in zip(layer.variables, before, after, strict=True):
                ctx.require(np.array_equal(old, new), f"inference changed {variable.path}")


@check("RNG-02")
def training_differs(ctx: Context) -> None:
    """Compare training with inference and with the next training call."""
    for subject in _dropping(ctx):
        inputs = subject.inputs(Example(8, 5, seed=ctx.seed))
        layer = subject.layer(**SEQUENCES)
        inference = subject.run(layer, inputs, training=False)
        first = subject.run(layer, inputs, training=True)
        second = subject.run(layer, inputs, training=True)
        ctx.require(_differ(first, inference), "training gives what inference gives")
        ctx.require(_differ(first, second), "two training calls give the same: one mask is kept")


@check("RNG-03")
def dropout_masks(ctx: Context) -> None:
    """Read the masks off the gradient: an input that was dropped has none, at any step."""
    for subject in _dropping(ctx):
        example = Example(8, 5, seed=ctx.seed)
        inputs = subject.inputs(example)
        # Of the outputs alone: a state may well remember what dropout kept from the gates.
        whole = gradients(subject, inputs, None, which="outputs", training=False).inputs
        patterns = []
        for _ in range(2):
            found = gradients(subject, inputs, None, which="outputs", training=True)
            ctx.examples += 1
            for name, gradient in found.inputs.items():
                dropped = gradient == 0
                if len(found.inputs) > 1 and not dropped.any():
                    continue  # a time or a mask among the inputs comes through whole
                if len(found.inputs) > 1 and (whole[name] == 0).any():
                    continue  # zeros without dropout too (a decay at rest): they tell nothing
                constant = (dropped == dropped[:, :1]).all()
                ctx.require(bool(constant), f"the mask of input {name} changes from step to step")
                ctx.require(
                    bool(dropped.any() and not dropped.all()),
                    f"a rate of 0.5 dropped {dropped.mean():.0%} of the entries of input {name}",
                )
                rows = dropped[:, 0].reshape(len(dropped), -1)
                same = bool((rows == rows[:1]).all())
                ctx.require(not same, f"all rows have the same mask of input {name}")
                patterns.append(rows)
            subject.run(subject.layer(**SEQUENCES), inputs, training=True)  # moves the seed on
        ctx.require(bool(patterns), "a rate of 0.5 dropped no entry of any input")
        half = len(patterns) // 2
        pairs = zip(patterns[:half], patterns[half:], strict=True)
        same = all(np.array_equal(a, b) for a, b in pairs)
        ctx.require(not same, "two calls have the same mask")


@check("RNG-08")
def no_hidden_randomness(ctx: Context) -> None:
    """Compare training with inference where no randomness is claimed."""
    for subject in ctx.cases():
        inputs = subject.inputs(Example(3, 5, seed=ctx.seed))
        layer = subject.layer(**SEQUENCES)
        inference = subject.run(layer, inputs, training=False)
        training = subject.run(layer, inputs, training=True)
        ctx.same("output in training", training.output, inference.output)
        ctx.same("state in training", training.states, inference.states)


def _dropping(ctx: Context) -> list[Subject]:
    """Give the subjects with a dropout rate of a half."""
    subjects = []
    for subject in list(ctx.cases()):
        dropping = ctx.subject(subject.case, dropout=0.5)
        dropping.set_weights(ctx.seed % 1000)
        subjects.append(dropping)
    return subjects


def _differ(first: object, second: object) -> bool:
    pairs = zip(leaves(first.output), leaves(second.output), strict=True)  # type: ignore[attr-defined]
    return any(not np.array_equal(a, b) for a, b in pairs)
