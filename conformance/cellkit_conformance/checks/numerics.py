"""NUM: the cell computes what its paper says."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from cellkit_conformance.checks import check
from cellkit_conformance.context import Context
from cellkit_conformance.strategies import Example, Space
from cellkit_conformance.trees import leaves, map_trees

SEQUENCES = {"return_sequences": True}


@check("NUM-01")
def one_step(ctx: Context) -> None:
    """Compare one step with the reference: fifty draws at once, one per row."""
    for subject in ctx.cases():
        for weights in range(3):
            subject.set_weights(weights)
            example = Example(50, 1, seed=ctx.seed + weights, weights=weights, initial_state=True)
            ctx.example, ctx.examples = example.describe(), ctx.examples + 50
            x = map_trees(lambda a: a[:, 0], subject.inputs(example))
            states = subject.states(example)
            output, new = subject.step_cell(x, states)
            want_output, want_new = subject.reference_step(map_trees(np.float64, x), _wide(states))
            tolerance = subject.tolerance(1)
            ctx.close("output", output, want_output, tolerance)
            ctx.close("state", new, want_new, tolerance)
    ctx.example = None


@check("NUM-02")
def every_step_of_a_loop(ctx: Context) -> None:
    """Compare a loop with the oracle: the outputs of every step, the states after 1, 3 and 5."""
    for subject in ctx.cases():
        space = Space(shapes=[(3, 5), (3, 1), (3, 3)], options=[SEQUENCES])
        ctx.each(subject, space, lambda s, e: ctx.agrees(s, e) and None)


@check("NUM-03")
def every_case(ctx: Context) -> None:
    """Compare a loop with the oracle for every constructor case."""
    for subject in ctx.cases(every=True):
        space = Space(options=[SEQUENCES])
        ctx.each(subject, space, lambda s, e: ctx.agrees(s, e) and None, ctx.profile.examples // 2)


@check("NUM-04")
def data_can_see_the_order_of_gates(ctx: Context) -> None:
    """Exchange equal-shaped weights in the reference and see that its result moves."""
    for subject in ctx.cases(every=True):
        example = Example(3, 5, seed=ctx.seed, initial_state=True)
        inputs, states = subject.inputs(example), subject.states(example)
        reference = subject.target.spec.reference

        def run(symbols, subject=subject, inputs=inputs, states=states, reference=reference):
            from cellkit_conformance import oracle

            return oracle.run(lambda x, s: reference(symbols, x, s, subject.config), inputs, states)

        want = run(subject.symbols)
        for a, b in combinations(subject.symbols, 2):
            first, second = subject.symbols[a], subject.symbols[b]
            if first.shape != second.shape or np.array_equal(first, second):
                continue
            got = run({**subject.symbols, a: second, b: first})
            moved = max(
                float(np.max(np.nan_to_num(np.abs(g - w), nan=np.inf), initial=0.0))
                for g, w in zip(
                    leaves([got.sequence, got.states]),
                    leaves([want.sequence, want.states]),
                    strict=True,
                )
            )
            ctx.examples += 1
            limit = 10 * float(subject.tolerance(5).limit(np.ones(())))
            ctx.require(moved > limit, f"exchanging {a} and {b} in the reference changes nothing")


@check("NUM-05")
def large_values_stay_finite(ctx: Context) -> None:
    """Feed values of magnitude 1e3."""
    for subject in ctx.cases():
        for seed in range(3):
            example = Example(3, 5, seed=ctx.seed + seed, initial_state=True)
            scale = _times(1e3)
            inputs = map_trees(scale, subject.inputs(example))
            states = map_trees(scale, subject.states(example))
            ctx.examples += 1
            got = subject.run(subject.layer(**SEQUENCES), inputs, states)
            want = subject.expect(inputs, states)
            pairs = zip(
                leaves([got.output, got.states]),
                leaves([want.sequence, want.states]),
                strict=True,
            )
            for a, b in pairs:
                if not np.issubdtype(a.dtype, np.inexact):
                    continue
                # What float32 cannot hold is no fault of the cell.
                lost = ~np.isfinite(a) & (np.abs(b) < np.finfo(np.float32).max)
                ctx.require(
                    not lost.any(),
                    f"{int(lost.sum())} of {a.size} values are not finite for inputs of "
                    "magnitude 1e3, and the reference's are",
                )


@check("NUM-06")
def zeros_and_denormals(ctx: Context) -> None:
    """Feed zeros, negative zeros and denormals."""
    for subject in ctx.cases():
        for value in (0.0, -0.0, 1e-40):
            example = Example(3, 5, seed=ctx.seed, options=SEQUENCES)
            fill = np.float32(value)
            inputs = map_trees(lambda a, v=fill: np.full_like(a, v), subject.inputs(example))
            ctx.examples += 1
            got = subject.run(subject.layer(**SEQUENCES), inputs)
            ctx.compare(subject, example, got, subject.expect(inputs))


def _wide(states):
    return map_trees(
        lambda leaf: leaf.astype(np.float64) if leaf.dtype == np.float32 else leaf, states
    )


def _times(factor: float):
    def scale(array: np.ndarray) -> np.ndarray:
        inexact = np.issubdtype(array.dtype, np.inexact)
        return (array * factor).astype(array.dtype) if inexact else array

    return scale
