"""MSK-08 to MSK-10: what stands in the padding reaches nothing, forwards or backwards."""

from __future__ import annotations

import numpy as np

from cellkit_conformance.checks import check
from cellkit_conformance.checks.context import Context
from cellkit_conformance.checks.differentiate import gradients
from cellkit_conformance.checks.gradients import compare_with_differences
from cellkit_conformance.edition import requirements
from cellkit_conformance.examples.strategies import MIXED, Example, Space
from cellkit_conformance.outcome import NotApplicable
from cellkit_conformance.subject.record import Claim
from cellkit_conformance.subject.subject import Subject
from cellkit_conformance.trees import Tree, map_trees

SEQUENCES = {"return_sequences": True}
POISONS = (np.nan, np.inf, -np.inf, 1e30)


@check("MSK-08")
def forward_poison(ctx: Context) -> None:
    """Put NaN, infinities and 1e30 into masked inputs."""

    def body(subject: Subject, example: Example) -> None:
        inputs, states = subject.inputs(example), subject.states(example)
        layer, mask = subject.layer(**example.options), example.own_mask
        want = subject.run(layer, inputs, states, mask)
        poison = POISONS[example.seed % len(POISONS)]
        got = subject.run(layer, _fill(inputs, mask, poison), states, mask)
        ctx.same(f"output with {poison} in masked inputs", got.output, want.output)
        ctx.same(f"state with {poison} in masked inputs", got.states, want.states)

    for subject in ctx.cases():
        space = Space(
            masks=["left", "right", "interior", "any", "all_masked"],
            options=[SEQUENCES, {"return_sequences": False}],
        )
        ctx.each(subject, space, body)


@check("MSK-09")
def backward_poison(ctx: Context) -> None:
    """Differentiate with NaN and both infinities in masked inputs, and with zeros there."""

    def body(subject: Subject, example: Example) -> None:
        mask = example.own_mask
        inputs, states = subject.inputs(example), subject.random_states(example)
        clean = gradients(subject, _fill(inputs, mask, 0.0), states, mask)
        poisoned = gradients(subject, _fill(inputs, mask, *POISONS[:3]), states, mask)
        for (name, got), (_, want) in zip(poisoned.items(), clean.items(), strict=True):
            if got is None or want is None:
                continue
            ctx.require(
                bool(np.isfinite(got).all()),
                f"{int((~np.isfinite(got)).sum())} of {got.size} gradients of {name} are not "
                "finite with NaN and infinities in masked inputs",
                Claim("finite", [got]),
            )
            ctx.close(f"gradient of {name}", got, want, subject.tolerance(example.time))

    for subject in ctx.cases():
        space = Space(masks=tuple(MIXED), initial_states=[True], values=["normal"], weight_sets=2)
        ctx.each(subject, space, body, ctx.profile.examples // 2)


@check("MSK-10")
def gradient_passes_the_gap(ctx: Context) -> None:
    """See zero gradients at masked inputs, and others before the gap."""
    passed: list[bool] = []
    # What passes through the gap has to be all of it.
    compared = requirements()["GRD-01"].denied_by(ctx.target.traits) is None

    def body(subject: Subject, example: Example) -> None:
        mask = np.ones((example.batch, example.time), dtype=bool)
        gap = 1 + example.seed % (example.time - 2)
        mask[:, gap : example.time - 1] = False
        inputs, states = subject.inputs(example), subject.random_states(example)
        # The loss sees the last output and the final states only, so what arrives before the gap
        # went through it.
        found = gradients(subject, inputs, states, mask, which="last")
        if compared and not passed:
            compare_with_differences(ctx, subject, found, inputs, states, mask, which="last")
        for name, gradient in found.inputs.items():
            if gradient is None:
                continue
            masked = gradient[~mask]
            ctx.require(
                not np.any(masked),
                f"the gradient of masked input {name} is {np.abs(masked).max():.3g}, not 0",
                Claim("zero", [gradient], at=(~mask,)),
            )
        if not found.inputs:
            raise NotApplicable("its inputs are whole numbers, by which nothing is differentiated")
        before = [g[:, :gap] for g in found.inputs.values() if g is not None]
        passed.append(any(np.any(g) for g in before))

    for subject in ctx.cases():
        ctx.each(subject, Space(values=["normal"]), body, ctx.profile.examples // 4)
        if "truncated" not in ctx.target.traits:
            ctx.require(any(passed), "no gradient passes through a masked gap to the inputs before")


def _fill(inputs: Tree, mask: np.ndarray, *values: float) -> Tree:
    """Put values into all masked inputs, in turns."""

    def fill(array: np.ndarray) -> np.ndarray:
        changed = array.copy()
        if array.dtype.kind != "f":
            return changed  # an id, which is never other than whole and known
        changed[~mask] = np.resize(values, changed[~mask].shape)
        return changed

    return map_trees(fill, inputs)
