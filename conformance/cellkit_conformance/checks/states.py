"""STA: initial states, and the states that a stateful layer keeps."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cellkit_conformance.checks import check
from cellkit_conformance.checks.context import Context
from cellkit_conformance.checks.differentiate import gradients
from cellkit_conformance.checks.parameters import known_to_keras
from cellkit_conformance.checks.statistics import restore, statistics
from cellkit_conformance.examples.strategies import Example, Space
from cellkit_conformance.outcome import NotApplicable
from cellkit_conformance.subject import backend, oracle
from cellkit_conformance.subject.names import describe_leaves
from cellkit_conformance.subject.record import Claim
from cellkit_conformance.subject.subject import Subject
from cellkit_conformance.trees import Tree, leaves, map_trees, paths

SEQUENCES = {"return_sequences": True}
STATEFUL = {"return_sequences": True, "stateful": True}

TRAINING = frozenset({"fit", "train_on_batch"})
"""Ways of running a model that take gradients."""


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


@check("STA-07")
def every_way_of_running_carries_the_state(ctx: Context) -> None:
    """Predict, evaluate, train and call: every one starts where the last one ended."""
    for subject in itertools.islice(ctx.cases(), 1):
        layer = subject.fresh_layer(**STATEFUL)
        symbolic = subject.symbolic_inputs(batch=3, time=3)
        output, _ = subject.split(layer, layer(symbolic))
        outputs = leaves(output)
        model = keras.Model(symbolic, outputs)
        losses = [_nothing] * len(outputs)
        # A rate of zero: training must move the states, and not the weights that they depend on.
        model.compile(keras.optimizers.SGD(0.0), loss=losses)
        layer.reset_state()
        inputs = subject.inputs(Example(3, 3, seed=ctx.seed))
        zeros = [np.zeros((3, 3, *leaf.shape[2:]), np.float32) for leaf in outputs]
        ways: dict[str, Callable[[], Any]] = {
            "predict": lambda: model.predict(inputs, batch_size=3, verbose=0),  # noqa: B023
            "evaluate": lambda: model.evaluate(inputs, zeros, batch_size=3, verbose=0),  # noqa: B023
            "fit": lambda: model.fit(inputs, zeros, batch_size=3, shuffle=False, verbose=0),  # noqa: B023
            "train_on_batch": lambda: model.train_on_batch(inputs, zeros),  # noqa: B023
            "a call": lambda: subject.run(layer, inputs),  # noqa: B023
        }
        if not backend.has_gradients():
            ways = {way: run for way, run in ways.items() if way not in TRAINING}
        states, random = subject.reference_states(3), is_random(subject)
        kept = statistics(layer.cell)  # the stored states are of the layer
        for number, (way, run) in enumerate(ways.items(), 1):
            run()
            ctx.examples += 1
            if random and way in TRAINING:
                restore(kept)
                after = _stored(layer)
                moved = zip(leaves(after), leaves(_like(states, after)), strict=True)
                changed = any(not np.array_equal(a, b) for a, b in moved)
                ctx.require(changed, f"{way} left the stored state as it was")
                states = after
                continue
            states = subject.expect(inputs, states).states
            tolerance = subject.tolerance(3 * number)
            ctx.close(f"stored state after {way}", _stored(layer), states, tolerance)


def is_random(subject: Subject) -> bool:
    """Say whether the cell draws anything in training, as it stands.

    Args:
        subject: The cell.
    """
    layer, inputs = subject.layer(**SEQUENCES), subject.inputs(Example(8, 5))
    kept = statistics(layer)
    runs = [subject.run(layer, inputs, training=training) for training in (False, True)]
    restore(kept)
    pairs = zip(*(leaves([run.output, run.states]) for run in runs), strict=True)
    return any(not np.array_equal(a, b) for a, b in pairs)


def _nothing(y_true: Any, y_pred: Any) -> Any:
    return keras.ops.mean(0.0 * y_pred)


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


@check("STA-09")
def stored_states_are_saved(ctx: Context) -> None:
    """Save a stateful layer in the middle of a sequence and go on with the one that is loaded."""
    for subject in itertools.islice(ctx.cases(), 1):
        layer = subject.fresh_layer(**STATEFUL)
        symbolic = subject.symbolic_inputs(batch=3, time=3)
        output, _ = subject.split(layer, layer(symbolic))
        model = keras.Model(symbolic, output)
        layer.reset_state()
        inputs = subject.inputs(Example(3, 3, seed=ctx.seed))
        subject.run(layer, inputs)
        if not hasattr(ctx.target.cls, "get_config"):
            raise NotApplicable("a plain object is not saved with a model")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"
            model.save(path)
            with known_to_keras(ctx.target.cls):
                again = keras.models.load_model(path)
        loaded = next(la for la in again.layers if hasattr(la, "reset_state"))
        ctx.same("stored state after loading", _stored(loaded), _stored(layer))
        got, want = subject.run(loaded, inputs), subject.run(layer, inputs)
        ctx.close("output after loading", got.output, want.output, subject.tolerance(6))
        loaded.reset_state()
        ctx.same("stored state after a reset", _stored(loaded), subject.own_initial_states(3))


@check("STA-10")
def dtypes_of_states_survive(ctx: Context) -> None:
    """Compare the dtypes of states before and after a loop, with a mask and without."""
    masks = [None, np.array([[1, 1, 0, 1, 0]] * 3, dtype=bool)]
    for subject in ctx.cases():
        inputs = subject.inputs(Example(3, 5, seed=ctx.seed))
        before = describe_leaves(subject.template)
        for mask in masks if "masking" in ctx.target.traits else masks[:1]:
            got = subject.run(subject.layer(**SEQUENCES), inputs, mask=mask)
            for path, (_, dtype) in describe_leaves(got.states).items():
                want = before[path][1]
                ctx.require(
                    dtype == want, f"state {path} is {want} before a loop and {dtype} after"
                )


@check("STA-11")
def counters_are_exact(ctx: Context) -> None:
    """Start whole-number states beyond what half precision can count."""
    found = [leaf for leaf in leaves(ctx.subject().template) if leaf.dtype.kind in "iu"]
    if not found or not ctx.subject().has_reference:
        raise NotApplicable("the cell has no integer state, or no reference of it")
    for policy in ("float32", "mixed_float16", "mixed_bfloat16"):
        subject = ctx.subject(dtype=policy)
        subject.set_weights(ctx.seed % 1000)
        example = Example(3, 5, seed=ctx.seed, initial_state=True)
        states = map_trees(
            lambda a: a + a.dtype.type(4090) if a.dtype.kind in "iu" else a,
            subject.random_states(example),
        )
        inputs = subject.inputs(example)
        got = subject.run(subject.layer(**SEQUENCES), inputs, states)
        want = subject.expect(inputs, states).states
        for (path, a), b in zip(paths(got.states), leaves(_like(want, got.states)), strict=True):
            if np.asarray(b).dtype.kind in "iu":
                ctx.same(f"state {path} under {policy}", a, b.astype(a.dtype))


@check("STA-12")
def deep_states_are_carried(ctx: Context) -> None:
    """Run states of rank 3 and more through masks, both loops and back into the layer."""
    deep = [leaf for leaf in leaves(ctx.subject().template) if leaf.ndim > 2]
    if not deep:
        raise NotApplicable("all states are vectors")
    masks = ("none", "any", "one_row_masked") if "masking" in ctx.target.traits else ("none",)
    for subject in ctx.cases():
        space = Space(shapes=[(3, 3)], masks=masks, initial_states=[True], options=[SEQUENCES])
        ctx.each(subject, space, ctx.agrees, 0)


@check("STA-13")
def learned_initial_states(ctx: Context) -> None:
    """Move every weight and see which reach the initial states; those must learn and be saved."""
    subject = ctx.subject()
    subject.set_weights(ctx.seed % 1000)
    before = subject.own_initial_states(2)
    learned = []
    for variable in getattr(subject.cell, "trainable_variables", ()):
        kept = backend.to_numpy(variable.value)
        variable.assign(kept + 1)
        moved = zip(leaves(subject.own_initial_states(2)), leaves(before), strict=True)
        if any(not np.array_equal(a, b) for a, b in moved):
            learned.append(variable.path)
        variable.assign(kept)
    if not learned:
        raise NotApplicable("no initial state is learned")
    found = gradients(subject, subject.inputs(Example(3, 5, seed=ctx.seed)), None)
    for path in learned:
        gradient = found.weights[path]
        ctx.require(
            gradient is not None and bool(np.any(gradient)),
            f"the learned initial state {path} has no gradient",
            Claim("moves", [] if gradient is None else [gradient]),
        )
    other = subject.fresh_cell()
    subject.build(other)
    other.set_weights(subject.cell.get_weights())
    ctx.same(
        "initial states of a cell with the same weights",
        backend.to_numpy(other.get_initial_state(batch_size=2)),
        backend.to_numpy(subject.cell.get_initial_state(batch_size=2)),
    )


@check("STA-14")
def states_fit_another_layer(ctx: Context) -> None:
    """Hand the states of one layer to another, as tensors, as an encoder does to a decoder."""
    for subject in ctx.cases():
        encoder, decoder = subject.layer(**SEQUENCES), subject.layer(return_sequences=False)
        inputs = subject.inputs(Example(3, 5, seed=ctx.seed))
        x = map_trees(backend.to_tensor, inputs)
        _, states = subject.split(encoder, encoder(x))
        got = subject.unpack(decoder, decoder(x, initial_state=states))
        twice = map_trees(lambda a: np.concatenate([a, a], axis=1), inputs)
        want = subject.expect(twice)
        tolerance = subject.tolerance(10)
        ctx.close("output of the decoder", got.output, want.last, tolerance)
        ctx.close("state of the decoder", got.states, want.states, tolerance)
        symbolic = subject.symbolic_inputs()
        _, given = subject.split(encoder, encoder(symbolic))
        announced, _ = subject.split(decoder, decoder(symbolic, initial_state=given))
        shapes = [tuple(leaf.shape)[1:] for leaf in leaves(announced)]
        real = [leaf.shape[1:] for leaf in leaves(got.output)]
        ctx.require(
            shapes == real, f"a symbolic decoder announces {shapes}, and its output is {real}"
        )


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
        chunk = map_trees(lambda a, cut=cut: a[:, cut], inputs)
        chunks.append((chunk, None if mask is None else mask[:, cut]))
        start += length
    want = oracle.run_chunks(
        subject.reference_step, chunks, subject.reference_states(example.batch)
    )
    for number, ((chunk, chunk_mask), run) in enumerate(zip(chunks, want, strict=True)):
        got = subject.run(layer, chunk, mask=chunk_mask)
        tolerance = subject.tolerance(total)
        ctx.close(f"output of call {number}", got.output, run.sequence, tolerance)
        ctx.close(f"state after call {number}", got.states, run.states, tolerance)


def _like(tree: Tree, like: Tree) -> Tree:
    """Bring the keys of dicts into the order of another tree."""
    return map_trees(lambda _, leaf: np.asarray(leaf), like, tree)


def _stored(layer: object) -> Tree:
    """Read the stored states of a layer."""
    states = layer.states  # type: ignore[attr-defined]
    states = list(states) if type(states) is tuple else states
    states = states if isinstance(states, (list, dict, tuple)) else [states]
    return map_trees(np.array, backend.to_numpy(states))
