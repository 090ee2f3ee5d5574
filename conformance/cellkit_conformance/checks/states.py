"""STA: initial states, and the states that a stateful layer keeps."""

from __future__ import annotations

import numpy as np

from cellkit_conformance import backend, oracle
from cellkit_conformance.checks import check
from cellkit_conformance.context import Context
from cellkit_conformance.strategies import Example, Space
from cellkit_conformance.subject import Subject
from cellkit_conformance.trees import Tree, map_trees

SEQUENCES = {"return_sequences": True}
STATEFUL = {"return_sequences": True, "stateful": True}


@check("STA-01")
def own_initial_state(ctx: Context) -> None:
    """Pass the cell's own initial state, and none."""

    def body(subject: Subject, example: Example) -> None:
        inputs, layer = subject.inputs(example), subject.layer(**SEQUENCES)
        got = subject.run(layer, inputs, subject.own_initial_states(example.batch))
        want = subject.run(layer, inputs)
        ctx.close("output", got.output, want.output, subject.tolerance(example.time))
        ctx.close("state", got.states, want.states, subject.tolerance(example.time))
        if subject.has_reference:
            ctx.compare(subject, example, want, subject.expect(inputs))

    for subject in ctx.cases():
        space = Space(initial_states=[False], options=[SEQUENCES])
        ctx.each(subject, space, body, ctx.profile.examples // 2)


@check("STA-02")
def given_initial_state(ctx: Context) -> None:
    """Pass initial states in every form."""

    def body(subject: Subject, example: Example) -> None:
        inputs, states = subject.inputs(example), subject.random_states(example)
        layer, want = subject.layer(**SEQUENCES), subject.expect(inputs, states)
        tensors = map_trees(backend.to_tensor, states)
        forms = {"a structure of tensors": tensors, "a structure of NumPy arrays": states}
        if isinstance(states, list):
            forms["a tuple of tensors"] = tuple(tensors)
        if isinstance(states, list) and len(states) == 1:
            forms["one tensor"] = tensors[0]
        x = map_trees(backend.to_tensor, inputs)
        for form, value in forms.items():
            got = subject.unpack(layer, layer(x, initial_state=value))
            tolerance = subject.tolerance(example.time)
            ctx.close(f"output with {form} as initial state", got.output, want.sequence, tolerance)
            ctx.close(f"state with {form} as initial state", got.states, want.states, tolerance)

    for subject in ctx.cases():
        space = Space(initial_states=[True], options=[SEQUENCES])
        ctx.each(subject, space, body, ctx.profile.examples // 2)


@check("STA-03")
def second_call_goes_on(ctx: Context) -> None:
    """Call a stateful layer twice."""

    def body(subject: Subject, example: Example) -> None:
        layer = subject.layer(**STATEFUL)
        layer.reset_state()
        _run_chunks(ctx, subject, layer, example, [example.time] * 2)

    for subject in ctx.cases():
        space = Space(shapes=[(3, 3)], initial_states=[False])
        ctx.each(subject, space, body, ctx.profile.examples // 2)


@check("STA-04")
def reset_restores(ctx: Context) -> None:
    """Reset a stateful layer and compare it with what it was before its first call."""
    for subject in ctx.cases():
        layer = subject.layer(**STATEFUL)
        layer.reset_state()
        example = Example(3, 3, seed=ctx.seed)
        inputs = subject.inputs(example)
        first = subject.run(layer, inputs)
        layer.reset_state()
        ctx.same("stored state after reset", _stored(layer), subject.own_initial_states(3))
        again = subject.run(layer, inputs)
        ctx.same("output after reset", again.output, first.output)
        ctx.same("state after reset", again.states, first.states)


@check("STA-05")
def reset_before_the_first_call(ctx: Context) -> None:
    """Reset a stateful layer that was never called."""
    for subject in ctx.cases():
        layer = subject.fresh_layer(**STATEFUL)
        layer.reset_state()
        example = Example(3, 3, seed=ctx.seed, options=SEQUENCES)
        inputs = subject.inputs(example)
        got = subject.run(layer, inputs)
        ctx.compare(subject, example, got, subject.expect(inputs))
        layer.reset_state()
        ctx.same("stored state after reset", _stored(layer), subject.own_initial_states(3))


@check("STA-06")
def given_state_wins(ctx: Context) -> None:
    """Pass an initial state to a stateful layer that has stored another."""

    def body(subject: Subject, example: Example) -> None:
        layer = subject.layer(**STATEFUL)
        layer.reset_state()
        inputs, states = subject.inputs(example), subject.random_states(example)
        subject.run(layer, inputs)
        got = subject.run(layer, inputs, states)
        want = subject.expect(inputs, states)
        tolerance = subject.tolerance(example.time)
        ctx.close("output", got.output, want.sequence, tolerance)
        ctx.close("returned state", got.states, want.states, tolerance)
        ctx.same("stored state", _stored(layer), got.states)

    for subject in ctx.cases():
        space = Space(shapes=[(3, 3)], initial_states=[True])
        ctx.each(subject, space, body, ctx.profile.examples // 4)


@check("STA-08")
def other_batch_size(ctx: Context) -> None:
    """Call a stateful layer with another number of rows."""
    for subject in ctx.cases():
        layer = subject.layer(**STATEFUL)
        layer.reset_state()
        subject.run(layer, subject.inputs(Example(3, 3, seed=ctx.seed)))
        before = _stored(layer)
        inputs = subject.inputs(Example(5, 3, seed=ctx.seed))
        ctx.raises(
            "a batch of 5 in a stateful layer that has stored 3",
            lambda s=subject, la=layer, x=inputs: s.run(la, x),
            "3",
            "5",
        )
        ctx.same("stored state after the error", _stored(layer), before)


@check("STA-15")
def unequal_chunks(ctx: Context) -> None:
    """Feed a stateful layer in chunks of unequal length."""

    def body(subject: Subject, example: Example) -> None:
        layer = subject.layer(**STATEFUL)
        layer.reset_state()
        _run_chunks(ctx, subject, layer, example, list(example.split))

    masking = "masking" in ctx.target.traits
    for subject in ctx.cases():
        space = Space(
            shapes=[(3, 5)],
            masks=("interior", "one_row_masked", "any") if masking else ("none",),
            initial_states=[False],
            splits=[(2, 3), (3, 2)],
        )
        ctx.each(subject, space, body, ctx.profile.examples // 2)


def _run_chunks(
    ctx: Context, subject: Subject, layer: object, example: Example, lengths: list[int]
) -> None:
    """Feed a stateful layer chunk by chunk and compare every chunk with the oracle."""
    total = sum(lengths)
    whole = Example(example.batch, total, example.values, example.seed, example.weights)
    inputs, mask = subject.inputs(whole), example.mask_array()
    chunks, start = [], 0
    for length in lengths:
        cut = slice(start, start + length)
        part = map_trees(lambda a, cut=cut: a[:, cut], inputs)
        chunks.append((part, None if mask is None else mask[:, cut]))
        start += length
    want = oracle.run_chunks(
        subject.reference_step, chunks, subject.reference_states(example.batch)
    )
    for number, ((part, part_mask), run) in enumerate(zip(chunks, want, strict=True)):
        got = subject.run(layer, part, mask=part_mask)
        tolerance = subject.tolerance(total)
        ctx.close(f"output of call {number}", got.output, run.sequence, tolerance)
        ctx.close(f"state after call {number}", got.states, run.states, tolerance)


def _stored(layer: object) -> Tree:
    """Read the stored states of a layer."""
    states = layer.states  # type: ignore[attr-defined]
    states = list(states) if type(states) is tuple else states
    states = states if isinstance(states, (list, dict, tuple)) else [states]
    return map_trees(np.array, backend.to_numpy(states))
