"""RNG: dropout, the training flag, determinism."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import keras
import numpy as np

from cellkit_conformance.checks import check
from cellkit_conformance.checks.context import Context
from cellkit_conformance.checks.random_runs import (
    claim,
    differ,
    rates_of,
    with_a_seed,
    with_dropout,
)
from cellkit_conformance.checks.rates import acts_in_training
from cellkit_conformance.checks.statistics import moved_since, restore, statistics
from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.outcome import NotApplicable
from cellkit_conformance.subject import backend
from cellkit_conformance.subject.steps import call_cell
from cellkit_conformance.trees import leaves, map_trees, pair_leaves

SEQUENCES = {"return_sequences": True}


@check("RNG-01")
def inference_is_deterministic(ctx: Context) -> None:
    """Call twice in inference, also with dropout configured, and watch the variables."""
    extras = [{}, {"dropout": 0.5}] if "dropout" in ctx.target.traits else [{}]
    for subject in list(ctx.cases()):
        for extra in extras:
            subject = ctx.subject(subject.case, **extra)
            # The shape of the checks of dropout, where the cell is that of the checks of dropout.
            inputs = subject.inputs(Example(8 if extra else 3, 5, seed=ctx.seed))
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
    for subject in with_dropout(ctx):
        inputs = subject.inputs(Example(8, 5, seed=ctx.seed))
        layer = subject.layer(**SEQUENCES)
        inference = subject.run(layer, inputs, training=False)
        first = subject.run(layer, inputs, training=True)
        second = subject.run(layer, inputs, training=True)
        said = "training gives what inference gives"
        ctx.require(differ(first, inference), said, claim(first, inference))
        said = "two training calls give the same: one mask is kept"
        ctx.require(differ(first, second), said, claim(first, second))


@check("RNG-05")
def same_seed_same_masks(ctx: Context) -> None:
    """Train with one seed in a loop and unrolled, eager and compiled."""
    for subject in itertools.islice(ctx.cases(), 1):
        seeded = with_a_seed(ctx, subject)
        inputs = seeded.inputs(Example(3, 3, seed=ctx.seed))
        looped = seeded.run(seeded.fresh_layer(**SEQUENCES), inputs, training=True)
        again = seeded.run(seeded.fresh_layer(**SEQUENCES), inputs, training=True)
        ctx.same("output of a second layer with the same seed", again.output, looped.output)
        tolerance = seeded.tolerance(3)
        unrolled = seeded.fresh_layer(unroll=True, **SEQUENCES)
        got = seeded.run(unrolled, inputs, training=True)
        ctx.close("output, unrolled with the same seed,", got.output, looped.output, tolerance)
        if backend.can_compile():
            layer = seeded.fresh_layer(**SEQUENCES)
            got = seeded.unpack(layer, backend.call_compiled(layer, inputs, training=True))
            ctx.close("output, compiled with the same seed,", got.output, looped.output, tolerance)


@check("RNG-06")
def errors_leave_no_mask(ctx: Context) -> None:
    """Fail in training, then train with another batch size."""
    for subject in itertools.islice(with_dropout(ctx), 1):
        layer = subject.layer(**SEQUENCES)
        inputs = subject.inputs(Example(3, 5, seed=ctx.seed))
        states = subject.random_states(Example(3, 5, seed=ctx.seed))
        wrong = map_trees(lambda a: np.concatenate([a, a], axis=-1), states)
        subject.run(layer, inputs, training=True)
        with contextlib.suppress(Exception):  # ERR-01 judges it; here its traces are looked for
            subject.run(layer, inputs, wrong, training=True)
        other = subject.inputs(Example(8, 5, seed=ctx.seed))
        try:
            got = subject.run(layer, other, training=True)
        except Exception as error:  # noqa: BLE001 (whatever it is, it is the finding)
            ctx.fail(
                f"after a failed call, training with 8 rows instead of 3 raises "
                f"{type(error).__name__}: {error}"
            )
        ctx.require(leaves(got.output)[0].shape[0] == 8, "the output does not have 8 rows")


@check("RNG-07")
def random_state_is_saved(ctx: Context) -> None:
    """Copy all variables of a trained layer to another, and train both on."""
    for subject in itertools.islice(with_dropout(ctx), 1):
        layer, other = subject.layer(**SEQUENCES), subject.fresh_layer(**SEQUENCES)
        inputs = subject.inputs(Example(8, 5, seed=ctx.seed))
        subject.run(other, inputs, training=True)
        before = [np.array(backend.to_numpy(v.value)) for v in layer.variables]
        subject.run(layer, inputs, training=True)
        after = [np.array(backend.to_numpy(v.value)) for v in layer.variables]
        moved = any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
        ctx.require(moved, "training with dropout moves no variable: its random state is not one")
        for mine, theirs in zip(layer.variables, other.variables, strict=True):
            theirs.assign(backend.to_numpy(mine.value))
        want = subject.run(layer, inputs, training=True)
        got = subject.run(other, inputs, training=True)
        ctx.same("output of a layer that was given all variables", got.output, want.output)


@check("RNG-10")
def layers_drop_differently(ctx: Context) -> None:
    """Train two layers of the same config, without a seed."""
    for subject in itertools.islice(with_dropout(ctx), 1):
        if subject.kwargs.get("seed") is not None:
            subject = ctx.subject(subject.case, dropout=0.5, seed=None)
        inputs = subject.inputs(Example(8, 5, seed=ctx.seed))
        first = subject.run(subject.fresh_layer(**SEQUENCES), inputs, training=True)
        second = subject.run(subject.fresh_layer(**SEQUENCES), inputs, training=True)
        ctx.require(differ(first, second), "two layers without a seed drop the same entries")


@check("RNG-08")
def no_hidden_randomness(ctx: Context) -> None:
    """Compare training with inference where no randomness is claimed.

    A cell without a spec cannot claim any, so its rates are set to zero: they may act, and what is
    random beside them may not. One without a rate that holds a seed generator means to draw.
    """
    rates = {} if ctx.target.spec is not None else dict.fromkeys(rates_of(ctx.target.cls), 0.0)
    if ctx.target.spec is None and not rates and _holds_generator(ctx.subject().cell):
        acts_in_training(ctx, ctx.subject(), "what it draws")
        raise NotApplicable("it holds a seed generator, so what it draws in training is meant")
    for case in [subject.case for subject in ctx.cases()]:
        subject = ctx.subject(case, **rates)
        subject.set_weights(ctx.seed % 1000)
        inputs = subject.inputs(Example(3, 5, seed=ctx.seed))
        layer = subject.layer(**SEQUENCES)
        inference = subject.run(layer, inputs, training=False)
        kept = statistics(layer)
        training = subject.run(layer, inputs, training=True)
        moved = moved_since(kept)
        restore(kept)
        if moved:
            # What training gives then need not be what inference gives, and is not random.
            claimed = "running_statistics" in ctx.target.traits or ctx.target.spec is None
            ctx.require(
                claimed,
                f"training moves {', '.join(moved)}, and the spec does not claim "
                "'running_statistics'",
            )
            inference = subject.run(layer, inputs, training=True)
            restore(kept)
        ctx.same("output in training", training.output, inference.output)
        ctx.same("state in training", training.states, inference.states)


def _holds_generator(cell: Any) -> bool:
    """Say whether a cell, or a layer inside of it, has a seed generator that Keras tracks."""
    inside = cell._flatten_layers() if isinstance(cell, keras.layers.Layer) else ()
    return any(getattr(layer, "_seed_generators", ()) for layer in inside)


@check("RNG-12")
def untold_is_inference(ctx: Context) -> None:
    """Call the cell itself without a flag, through the layer's `__call__` and through `call`."""
    rates = {name: 0.5 for name in rates_of(ctx.target.cls)}
    for case in [subject.case for subject in ctx.cases()]:
        for extra in [{}, rates] if rates else [{}]:
            try:
                subject = ctx.subject(case, **extra)
                subject.set_weights(ctx.seed % 1000)
            except (ValueError, TypeError, NotImplementedError):
                continue  # a rate that this cell restricts
            example = Example(3, 1, seed=ctx.seed, initial_state=True)
            x = map_trees(lambda a: backend.to_tensor(a[:, 0]), subject.inputs(example))
            states = map_trees(backend.to_tensor, subject.random_states(example))
            kept = statistics(subject.cell) if hasattr(subject.cell, "weights") else []
            want = backend.to_numpy(list(call_cell(subject.cell, x, states, False)))
            calls = {"`call(inputs, states)`": subject.cell.call}
            if callable(subject.cell):
                calls["the cell without a flag"] = subject.cell
            for what, call in calls.items():
                got = backend.to_numpy(list(call(x, states)))
                ctx.examples += 1
                restore(kept)
                for a, b in pair_leaves(got, want):
                    ctx.same(f"what {what} gives, beside training=False,", a, b)
