"""RNG: the masks of dropout and of recurrent dropout."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from cellkit.registry import cell_weights, set_cell_weights
from cellkit_conformance.checks import check
from cellkit_conformance.checks.context import Context
from cellkit_conformance.checks.differentiate import close_gradient, gradients
from cellkit_conformance.checks.parameters import parameters_of
from cellkit_conformance.checks.random_runs import claim, differ, rates_of, with_dropout
from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.outcome import NotApplicable
from cellkit_conformance.subject import backend
from cellkit_conformance.subject.backend import Gradients
from cellkit_conformance.subject.subject import Returned, Subject
from cellkit_conformance.trees import leaves, map_trees, paths

SEQUENCES = {"return_sequences": True}


@check("RNG-03")
def dropout_masks(ctx: Context) -> None:
    """Read the masks off the gradient: an input that was dropped has none, at any step."""
    for subject in with_dropout(ctx):
        example = Example(8, 5, seed=ctx.seed)
        inputs = subject.inputs(example)
        # Of the outputs alone: a state may well remember what dropout kept from the gates.
        whole: Mapping[str, Any] = {}
        if len(leaves(inputs)) > 1:  # one of them may be no data, and come through whole
            whole = _by_input(gradients(subject, inputs, None, which="outputs", training=False))
        # Of each call, by input: the entries kept, and whether all rows have the same.
        calls: list[dict[str, tuple[np.ndarray, bool]]] = []
        for _ in range(2):
            calls.append({})
            found = _by_input(gradients(subject, inputs, None, which="outputs", training=True))
            ctx.examples += 1
            for name, gradient in found.items():
                dropped = gradient == 0
                if len(found) > 1 and dropped.mean() < 0.2:
                    continue  # a time or a mask among the inputs comes through whole
                if len(found) > 1 and (whole[name] == 0).any():
                    continue  # zeros without dropout too (a decay at rest): they tell nothing
                # A step whose gradient is zero throughout (relu at rest) tells nothing either.
                axes = tuple(range(2, dropped.ndim))
                known = ~dropped.all(axis=axes, keepdims=True)
                kept = (~dropped & known).any(axis=1)
                # A mask drawn at every step would differ in nine entries of ten; an entry that is
                # kept may still have no gradient at a single step.
                differs = (~dropped != kept[:, None]) & known
                ctx.require(
                    differs.sum() <= 0.25 * known.sum() * dropped[0, 0].size,
                    f"the mask of input {name} changes from step to step",
                )
                rows = kept[known.any(axis=(1, *axes))]
                if len(found) > 1 and rows.all():
                    continue  # zeros at single steps, and no entry dropped: it comes through whole
                ctx.require(
                    bool((~rows).any() and rows.any()),
                    f"a rate of 0.5 dropped {(~rows).mean():.0%} of the entries of input {name}",
                )
                calls[-1][name] = kept, bool((rows == rows[:1]).all())
            subject.run(subject.layer(**SEQUENCES), inputs, training=True)  # moves the seed on
        ctx.require(bool(calls[0]), "a rate of 0.5 dropped no entry of any input")
        both = [name for name in calls[0] if name in calls[1]]
        for name in both:
            # Narrow inputs have equal rows in one call now and then, by chance.
            same = all(call[name][1] for call in calls)
            ctx.require(not same, f"all rows have the same mask of input {name}")
        same = bool(both) and all(
            np.array_equal(calls[0][name][0], calls[1][name][0]) for name in both
        )
        ctx.require(not same, "two calls have the same mask")
    if {"masking", "recurrent_dropout"} <= set(ctx.target.traits):
        _recurrent_masks_hold(ctx)


def _dropping_states(ctx: Context) -> Subject | None:
    """Return the first case with recurrent dropout, or None: rates may have other names."""
    try:
        subject = ctx.subject(next(iter(ctx.target.cases)), recurrent_dropout=0.5)
        subject.set_weights(ctx.seed % 1000)
    except ValueError:
        return None
    return subject


def _recurrent_masks_hold(ctx: Context) -> None:
    """Take one and the same step as the first of two and as the second, from the same seeds.

    The other one is masked, so the two runs differ in nothing but in which of two steps' masks of
    recurrent dropout they meet.
    """
    subject = _dropping_states(ctx)
    if subject is None:
        return
    example = Example(8, 2, seed=ctx.seed)
    inputs, states = subject.inputs(example), subject.random_states(example)
    inputs = map_trees(lambda a: np.repeat(a[:, :1], 2, axis=1), inputs)
    layer = subject.layer(return_sequences=False)
    layer.build(map_trees(np.shape, inputs))
    seeds = [(v, backend.to_numpy(v.value)) for v in layer.non_trainable_variables]
    found = []
    for step in range(2):
        keras.utils.set_random_seed(ctx.seed)  # a cell may draw from the generator of the process
        for variable, value in seeds:
            variable.assign(value)
        mask = np.arange(2)[None].repeat(8, axis=0) == step
        found.append(subject.run(layer, inputs, states, mask, training=True))
    ctx.examples += 1
    if differ(*found):
        plain = ctx.subject(next(iter(ctx.target.cases)))
        runs = [plain.run(plain.layer(**SEQUENCES), inputs, training=t) for t in (False, True)]
        if differ(*runs):
            return  # the cell draws at every step as it is
    tolerance, what = subject.tolerance(1), "after step 2, with step 1 masked, in place of step 1,"
    ctx.close(f"output {what}", found[1].output, found[0].output, tolerance)
    ctx.close(f"state {what}", found[1].states, found[0].states, tolerance)
    # From a fresh mask to the next: recurrent dropout alone is on.
    calls = [subject.run(layer, inputs, states, training=flag) for flag in (False, True, True)]
    if differ(calls[0], calls[1]):  # else it drops nothing that counts here
        said = "two calls have the same mask of recurrent dropout"
        ctx.require(differ(calls[1], calls[2]), said, claim(calls[1], calls[2]))


@check("RNG-04")
def dropout_scales_what_it_keeps(ctx: Context) -> None:
    """Read masks off the gradient; find its values from the inputs that the masks leave over."""
    rate, kept, total = 0.3, 0, 0
    for subject in itertools.islice(ctx.cases(), 1):
        dropping = ctx.subject(subject.case, dropout=rate)
        dropping.set_weights(ctx.seed % 1000)
        still = ctx.subject(subject.case, dropout=0.0)
        set_cell_weights(still.cell, cell_weights(dropping.cell))
        inputs = dropping.inputs(Example(64, 2, seed=ctx.seed))
        twice = [still.run(still.layer(**SEQUENCES), inputs, training=True) for _ in range(2)]
        noisy = differ(*twice)  # then no two gradients in training can be compared
        whole = _by_input(gradients(still, inputs, None, which="outputs", training=True))
        for _ in range(4):
            found = _by_input(gradients(dropping, inputs, None, which="outputs", training=True))
            masks = {}
            for name, gradient in found.items():
                dropped = gradient == 0
                through = not dropped.any() or bool((whole[name] == 0).any())
                # Over both steps: at one of them the gradient may vanish by itself (relu at rest).
                mask = np.broadcast_to((~dropped).any(axis=1, keepdims=True), dropped.shape)
                masks[name] = None if through else mask
                if not through:
                    kept, total = kept + int(mask[:, 0].sum()), total + mask[:, 0].size
            if not noisy and any(mask is not None for mask in masks.values()):
                _compare_scaled(ctx, dropping, still, inputs, found, masks, rate)
            dropping.run(dropping.layer(**SEQUENCES), inputs, training=True)
    if total:
        bound = 6 * np.sqrt(rate * (1 - rate) / total)
        ctx.require(
            abs(kept / total - (1 - rate)) < bound,
            f"a rate of {rate} kept {kept} of {total} entries; expected {1 - rate:.0%} "
            f"within {bound:.1%}",
        )
    if {"recurrent_dropout", "reference"} <= set(ctx.target.traits):
        _recurrent_dropout_keeps_the_mean(ctx)


def _recurrent_dropout_keeps_the_mean(ctx: Context) -> None:
    """Compare what a small state does to a step in training with what it does at inference.

    Where a state is small the step is linear in it, so that dropping entries and scaling the others
    leaves the mean over many rows as it was, whatever else the state is used for.
    """
    subject = _dropping_states(ctx)
    if subject is None:
        return
    example = Example(256, 1, seed=ctx.seed)
    inputs, layer = subject.inputs(example), subject.layer(**SEQUENCES)
    rest, small = (map_trees(f, subject.random_states(example)) for f in (np.zeros_like, np.copy))

    def run(states: Any, training: bool) -> Returned:
        return subject.run(layer, inputs, states, training=training)

    require_effect_kept(ctx, "recurrent_dropout=0.5", "state", run, small, rest)


def require_effect_kept(
    ctx: Context, rate: str, kind: str, run: Callable[[Any, bool], Returned], small: Any, rest: Any
) -> None:
    """Require that data have the effect on a step in training, on average, that they have else.

    Args:
        ctx: Of the check.
        rate: The rate, for the message.
        kind: "input" or "state".
        run: Runs a step on such data, in training or at inference.
        small: The data, many rows; a small part of them enters linearly, or nothing is said.
        rest: Data without an effect.
    """
    base = leaves([(still := run(rest, False)).output, still.states])
    for name, leaf in paths(small):
        if leaf.dtype.kind != "f":
            continue

        def effect(size: float, training: bool, name: str = name) -> np.ndarray:
            """Say what the data do to a step, by row, beside none at all."""
            names = iter([path for path, _ in paths(small)])
            given = map_trees(
                lambda a, zero: size * a if next(names) == name else zero, small, rest
            )
            got = run(given, training)
            pairs = zip(leaves([got.output, got.states]), base, strict=True)
            moved = [(a - b).reshape(len(a), -1) for a, b in pairs if a.dtype.kind == "f"]
            return np.concatenate(moved, axis=1).astype(np.float64)

        half, mean, drawn = effect(0.025, False), effect(0.05, False), effect(0.05, True)
        bend = float(np.abs(mean - 2 * half).sum())
        if not np.isfinite(drawn).all() or bend >= 0.05 * float(np.abs(mean).sum()):
            continue  # not even small data enter linearly, as where they are normalised
        along, size = (drawn * mean).sum(axis=1), (mean * mean).sum(axis=1)
        share = along.sum() / size.sum()
        bound = 0.05 + 6 * float(np.sqrt(((along - share * size) ** 2).sum())) / size.sum()
        ctx.examples += 1
        ctx.require(
            abs(share - 1) < bound,
            f"with {rate}, {' '.join(filter(None, (kind, name)))} has {share:.2f} times the effect "
            f"on a step in training, on average, that it has at inference; expected 1 within "
            f"{bound:.2f}",
        )


def _compare_scaled(
    ctx: Context,
    dropping: Subject,
    still: Subject,
    inputs: Any,
    found: Mapping[str, Any],
    masks: Mapping[str, Any],
    rate: float,
) -> None:
    """Compare a gradient in training with one without dropout, at the scaled inputs."""
    names = iter([name for name, _ in paths(inputs)])

    def scale(array: np.ndarray) -> np.ndarray:
        mask = masks.get(next(names))
        return array if mask is None else (array * mask / (1 - rate)).astype(array.dtype)

    at = _by_input(gradients(still, map_trees(scale, inputs), None, which="outputs", training=True))
    ctx.examples += 1
    for name, gradient in found.items():
        factor = 1.0 if masks[name] is None else masks[name] / (1 - rate)
        want = at[name] * factor
        what = f"gradient of input {name} in training, by the entries it kept,"
        close_gradient(ctx, dropping, what, gradient, want)


def _require_inputs_whole(
    ctx: Context, at_rest: Mapping[str, Any], in_training: Mapping[str, Any]
) -> None:
    """Require that every input has a gradient in training, which one that was dropped has not."""
    for name, want in at_rest.items():
        got = in_training[name]
        if want is None or got is None:
            continue
        gone = int(((want != 0) & (got == 0)).sum())
        ctx.require(
            gone < 0.25 * max(1, int((want != 0).sum())),
            f"recurrent_dropout=0.5 drops inputs: {gone} of {want.size} entries of "
            f"{f'input {name}'.strip()} have no gradient in training",
        )


@check("RNG-15")
def recurrent_dropout_spares_the_memory(ctx: Context) -> None:
    """Differentiate the carried state without recurrent weights, and compare two kinds of masks."""
    if "recurrent_dropout" not in parameters_of(ctx.target.cls):
        raise NotApplicable("the cell takes no recurrent_dropout")
    if ctx.target.spec is not None and "recurrent_dropout" not in ctx.target.traits:
        raise NotApplicable("the spec does not claim 'recurrent_dropout'")
    case = next(iter(ctx.target.cases))
    try:
        off = {n: 0.0 for n in rates_of(ctx.target.cls)}
        subject = ctx.subject(case, **{**off, "recurrent_dropout": 0.5})
        subject.set_weights(ctx.seed % 1000)
    except (ValueError, TypeError, NotImplementedError):
        raise NotApplicable("the cell has rates of its own names") from None
    example = Example(8, 1, seed=ctx.seed, initial_state=True)
    inputs, states = subject.inputs(example), subject.random_states(example)
    widths = {leaf.shape[-1] for leaf in leaves(inputs)}
    numbers = [leaf for leaf in leaves(states) if leaf.dtype.kind == "f"]
    if any(leaf.ndim != 2 or leaf.shape[-1] in widths for leaf in numbers):
        raise NotApplicable("its kernels cannot be told from its recurrent weights by their shape")
    recurrent = {}
    for variable in subject.cell.weights:
        if not keras.backend.is_float_dtype(variable.dtype):
            continue
        if len(variable.shape) < 2 or variable.shape[0] not in widths:
            value = backend.to_numpy(variable.value)
            variable.assign(np.zeros_like(value))
            if value.ndim == 2:
                recurrent[variable.path] = variable, value

    by_inputs: list[Mapping[str, Any]] = []

    def run(training: bool) -> Mapping[str, Any]:
        ctx.examples += 1
        found = gradients(subject, inputs, states, which="states", training=training)
        by_inputs.append(found.inputs)
        return found.states

    rest, dropped = run(False), run(True)
    _require_inputs_whole(ctx, *by_inputs)
    for name, got in dropped.items():
        want = rest[name]
        if want is None or got is None:
            continue
        if not np.any(want):
            ctx.require(
                not np.any(got),
                f"in training with no recurrent weights the new states depend on state {name}, "
                "and at inference they do not: what was dropped is used beside the products",
            )
            continue
        if not np.any((want != 0) & (got == 0)):
            continue  # what is dropped is what comes in, which leaves the way of the state open
        what = f"gradient by state {name}, in training with no recurrent weights,"
        close_gradient(ctx, subject, what, got, want)
    if ctx.target.spec is not None:
        for path, (variable, value) in recurrent.items():
            found = _columns_reached(variable, value, rest, run)
            for name in {name for of_column in found.values() for name in of_column}:
                # A state that no column drops is none that recurrent dropout is about.
                missed = [c for c, of_column in found.items() if of_column.get(name) is False]
                ctx.require(
                    not missed or not any(of_column.get(name) for of_column in found.values()),
                    f"recurrent dropout of state {name} reaches some products with {path}, and "
                    f"not those with its column(s) {', '.join(map(str, missed))}",
                )
    subject.forget_weights()
    _require_masks_of_their_own(ctx, case)
    if "dropout" not in ctx.target.traits and ctx.target.spec is not None:  # else RNG-03 and RNG-04
        if "masking" in ctx.target.traits:
            _recurrent_masks_hold(ctx)
        if subject.has_reference:
            _recurrent_dropout_keeps_the_mean(ctx)


MOST_COLUMNS = 8


def _columns_reached(
    variable: Any, value: np.ndarray, rest: Mapping[str, Any], run: Any
) -> dict[int, dict[str, bool]]:
    """Let one column of a recurrent weight act at a time, and see whether dropout changes that.

    Args:
        variable: The weight; all others that meet a state are zero.
        value: Its value.
        rest: The gradients by states where this weight is zero too.
        run: Gives the gradients by states, in training or at inference.

    Returns:
        By column and state whether dropout reaches the product; only where it has an effect.
    """
    found: dict[int, dict[str, bool]] = {}
    width = value.shape[1]
    for column in sorted({int(c) for c in np.linspace(0, width - 1, min(width, MOST_COLUMNS))}):
        one = np.zeros_like(value)
        one[:, column] = value[:, column]
        variable.assign(one)
        still, drawn = run(False), run(True)
        found[column] = {
            name: not np.allclose(drawn[name], still[name], rtol=1e-4, atol=1e-6)
            for name, before in rest.items()
            if before is not None and not np.allclose(still[name], before, rtol=1e-4, atol=1e-6)
        }
    variable.assign(np.zeros_like(value))
    return found


def _require_masks_of_their_own(ctx: Context, case: str) -> None:
    """Read the masks of inputs and states off the gradients of one step, where they are as wide."""
    template = leaves(ctx.subject(case).template)
    flat = isinstance(ctx.target.inputs, tuple) and len(ctx.target.inputs) == 1
    if not flat or not isinstance(ctx.target.inputs[0], str) or template[0].ndim != 2:
        return
    width = template[0].shape[-1]
    even = dataclasses.replace(ctx.target, dims={ctx.target.inputs[0]: width})
    try:
        subject = Subject(even, case, ctx.layer, {"dropout": 0.5, "recurrent_dropout": 0.5})
        subject.set_weights(ctx.seed % 1000)
    except (ValueError, TypeError, NotImplementedError):
        return
    example = Example(16, 1, seed=ctx.seed, initial_state=True)
    data = subject.inputs(example), subject.random_states(example)
    found = gradients(subject, *data, which="outputs", training=True)
    (of_inputs,) = (None if g is None else g[:, 0] == 0 for g in found.inputs.values())
    for gradient in found.states.values():
        if of_inputs is None or gradient is None or gradient.shape != of_inputs.shape:
            continue
        dropped = gradient == 0
        if 0.2 < dropped.mean() < 0.8:
            ctx.require(
                not np.array_equal(dropped, of_inputs),
                "inputs and states are dropped by one and the same mask",
            )


def _by_input(found: Gradients) -> Mapping[str, Any]:
    """Give the gradients by inputs, which are all there: a layer reads its inputs."""
    return found.inputs
