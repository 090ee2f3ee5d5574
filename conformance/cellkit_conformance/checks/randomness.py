"""RNG: dropout, the training flag, determinism."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from cellkit.registry import cell_weights, set_cell_weights
from cellkit_conformance.checks import check
from cellkit_conformance.checks.context import Context
from cellkit_conformance.checks.gradients import close_gradient, gradients
from cellkit_conformance.checks.serialization import parameters_of
from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.outcome import NotApplicable
from cellkit_conformance.subject import backend
from cellkit_conformance.subject.backend import Gradients
from cellkit_conformance.subject.record import Claim
from cellkit_conformance.subject.subject import Returned, Subject
from cellkit_conformance.trees import leaves, map_trees, paths

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
    for subject in _dropping(ctx):
        inputs = subject.inputs(Example(8, 5, seed=ctx.seed))
        layer = subject.layer(**SEQUENCES)
        inference = subject.run(layer, inputs, training=False)
        first = subject.run(layer, inputs, training=True)
        second = subject.run(layer, inputs, training=True)
        said = "training gives what inference gives"
        ctx.require(_differ(first, inference), said, _claim(first, inference))
        said = "two training calls give the same: one mask is kept"
        ctx.require(_differ(first, second), said, _claim(first, second))


def _claim(one: Returned, other: Returned) -> Claim:
    """Claim that two results differ somewhere."""
    arrays, others = (leaves([r.output, r.states]) for r in (one, other))
    return Claim("differ", arrays, others)


@check("RNG-03")
def dropout_masks(ctx: Context) -> None:
    """Read the masks off the gradient: an input that was dropped has none, at any step."""
    for subject in _dropping(ctx):
        example = Example(8, 5, seed=ctx.seed)
        inputs = subject.inputs(example)
        # Of the outputs alone: a state may well remember what dropout kept from the gates.
        whole: Mapping[str, Any] = {}
        if len(leaves(inputs)) > 1:  # one of them may be no data, and come through whole
            whole = _by_input(gradients(subject, inputs, None, which="outputs", training=False))
        patterns = []
        for _ in range(2):
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
                same = bool((rows == rows[:1]).all())
                ctx.require(not same, f"all rows have the same mask of input {name}")
                patterns.append(kept)
            subject.run(subject.layer(**SEQUENCES), inputs, training=True)  # moves the seed on
        ctx.require(bool(patterns), "a rate of 0.5 dropped no entry of any input")
        half = len(patterns) // 2
        pairs = zip(patterns[:half], patterns[half:], strict=True)
        same = all(np.array_equal(a, b) for a, b in pairs)
        ctx.require(not same, "two calls have the same mask")
    if {"masking", "recurrent_dropout"} <= set(ctx.target.traits):
        _recurrent_masks_hold(ctx)


def _recurrent_masks_hold(ctx: Context) -> None:
    """Take one and the same step as the first of two and as the second, from the same seeds.

    The other one is masked, so the two runs differ in nothing but in which of two steps' masks of
    recurrent dropout they meet.
    """
    try:
        subject = ctx.subject(next(iter(ctx.target.cases)), recurrent_dropout=0.5)
        subject.set_weights(ctx.seed % 1000)
    except ValueError:
        return  # the cell has rates of its own names
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
    if _differ(*found):
        plain = ctx.subject(next(iter(ctx.target.cases)))
        runs = [plain.run(plain.layer(**SEQUENCES), inputs, training=t) for t in (False, True)]
        if _differ(*runs):
            return  # the cell draws at every step as it is
    tolerance, what = subject.tolerance(1), "after step 2, with step 1 masked, in place of step 1,"
    ctx.close(f"output {what}", found[1].output, found[0].output, tolerance)
    ctx.close(f"state {what}", found[1].states, found[0].states, tolerance)


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
        noisy = _differ(*twice)  # then no two gradients in training can be compared
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
    try:
        subject = ctx.subject(next(iter(ctx.target.cases)), recurrent_dropout=0.5)
        subject.set_weights(ctx.seed % 1000)
    except ValueError:
        return  # the cell has rates of its own names
    example = Example(256, 1, seed=ctx.seed)
    inputs, layer = subject.inputs(example), subject.layer(**SEQUENCES)
    rest = map_trees(np.zeros_like, subject.random_states(example))
    base = leaves([(run := subject.run(layer, inputs, rest)).output, run.states])
    small = subject.random_states(example)
    for name, leaf in paths(small):
        if leaf.dtype.kind != "f":
            continue

        def effect(size: float, training: bool, name: str = name) -> np.ndarray:
            """Say what the state does to a step, by row, beside no state at all."""
            names = iter([path for path, _ in paths(small)])
            start = map_trees(
                lambda a, zero: size * a if next(names) == name else zero, small, rest
            )
            run = subject.run(layer, inputs, start, training=training)
            pairs = zip(leaves([run.output, run.states]), base, strict=True)
            moved = [(a - b).reshape(len(a), -1) for a, b in pairs if a.dtype.kind == "f"]
            return np.concatenate(moved, axis=1).astype(np.float64)

        half, mean, drawn = effect(0.025, False), effect(0.05, False), effect(0.05, True)
        bend = float(np.abs(mean - 2 * half).sum())
        if not np.isfinite(drawn).all() or bend >= 0.05 * float(np.abs(mean).sum()):
            continue  # not even small states enter linearly, as where they are normalised
        along, size = (drawn * mean).sum(axis=1), (mean * mean).sum(axis=1)
        share = along.sum() / size.sum()
        bound = 0.05 + 6 * float(np.sqrt(((along - share * size) ** 2).sum())) / size.sum()
        ctx.examples += 1
        ctx.require(
            abs(share - 1) < bound,
            f"with recurrent_dropout=0.5, state {name} has {share:.2f} times the effect on a step "
            f"in training, on average, that it has at inference; expected 1 within {bound:.2f}",
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


@check("RNG-05")
def same_seed_same_masks(ctx: Context) -> None:
    """Train with one seed in a loop and unrolled, eager and compiled."""
    for subject in itertools.islice(ctx.cases(), 1):
        seeded = _seeded(ctx, subject)
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
    for subject in itertools.islice(_dropping(ctx), 1):
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
    for subject in itertools.islice(_dropping(ctx), 1):
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


@check("RNG-09")
def zoneout_keeps_old_states(ctx: Context) -> None:
    """Compare states after one step with the old and the new ones, at inference and in training."""
    if "zoneout" not in parameters_of(ctx.target.cls):
        raise NotApplicable("the cell has rates of its own names")
    rate = 0.4
    for subject in itertools.islice(ctx.cases(), 1):
        zoned, plain = (ctx.subject(subject.case, zoneout=z) for z in (rate, 0.0))
        try:
            zoned.set_weights(ctx.seed % 1000)
        except ValueError:
            raise NotApplicable("the cell has rates of its own names") from None
        set_cell_weights(plain.cell, cell_weights(zoned.cell))
        example = Example(64, 1, seed=ctx.seed, initial_state=True)
        inputs, old = zoned.inputs(example), zoned.random_states(example)
        layer = zoned.layer(**SEQUENCES)
        new = plain.run(plain.layer(**SEQUENCES), inputs, old).states
        mean = zoned.run(layer, inputs, old).states
        drawn = [zoned.run(layer, inputs, old, training=True).states for _ in range(2)]
        kept, total, moved = 0, 0, False
        names = [name for name, _ in paths(new)]
        trees = [map_trees(lambda _, leaf: leaf, new, tree) for tree in (old, mean, *drawn)]
        for name, b, a, middle, first, second in zip(
            names, leaves(new), *(leaves(tree) for tree in trees), strict=True
        ):
            if b.dtype.kind != "f":
                continue
            want = rate * a + (1 - rate) * b
            ctx.close(f"state {name} at inference", middle, want, zoned.tolerance(1))
            limit = zoned.tolerance(1).limit(b)
            is_old, is_new = np.abs(first - a) <= limit, np.abs(first - b) <= limit
            ctx.require(
                bool((is_old | is_new).all()),
                f"in training, {int((~(is_old | is_new)).sum())} of {b.size} entries of state "
                f"{name} are neither the old nor the new ones",
            )
            clear = ~(is_old & is_new)
            kept, total = kept + int(is_old[clear].sum()), total + int(clear.sum())
            moved = moved or not np.array_equal(first, second)
        ctx.examples += 1
        bound = 6 * np.sqrt(rate * (1 - rate) / max(1, total))
        ctx.require(
            total > 0 and abs(kept / total - rate) < bound,
            f"a rate of {rate} kept {kept} of {total} entries; expected {rate:.0%} "
            f"within {bound:.1%}",
        )
        ctx.require(moved, "two calls keep the same entries")
        _require_fresh(ctx, zoned, plain, layer)


def _require_fresh(ctx: Context, zoned: Subject, plain: Subject, layer: Any) -> None:
    """Keep one state over five steps: each step keeps entries of its own choice.

    An entry that was kept at every step still has its first value. With one choice for all steps
    that would be as many as the rate says, and with a new one its fifth power. Entries that rest
    without zoneout too (of a slow clock) tell nothing.
    """
    example = Example(64, 5, seed=ctx.seed, initial_state=True)
    inputs, old = zoned.inputs(example), zoned.random_states(example)
    got = zoned.run(layer, inputs, old, training=True).states
    moving, before = map_trees(lambda a: np.ones(a.shape, bool), got), old
    for t in range(example.time):
        _, after = plain.step_cell(map_trees(lambda a, t=t: a[:, t], inputs), before)
        moving = map_trees(lambda m, a, b: m & (a != b), moving, before, after)
        before = after
    same, total = 0, 0
    old = map_trees(lambda _, leaf: leaf, got, old)
    for a, b, free in zip(leaves(old), leaves(got), leaves(moving), strict=True):
        if b.dtype.kind == "f":
            same, total = same + int((a == b)[free].sum()), total + int(free.sum())
    ctx.require(
        same / max(1, total) < 0.2,
        f"{same} of {total} entries were kept at every one of five steps: the choice is made once",
    )


@check("RNG-10")
def layers_drop_differently(ctx: Context) -> None:
    """Train two layers of the same config, without a seed."""
    for subject in itertools.islice(_dropping(ctx), 1):
        if subject.kwargs.get("seed") is not None:
            subject = ctx.subject(subject.case, dropout=0.5, seed=None)
        inputs = subject.inputs(Example(8, 5, seed=ctx.seed))
        first = subject.run(subject.fresh_layer(**SEQUENCES), inputs, training=True)
        second = subject.run(subject.fresh_layer(**SEQUENCES), inputs, training=True)
        ctx.require(_differ(first, second), "two layers without a seed drop the same entries")


RATES = ("dropout", "recurrent_dropout", "zoneout")


@check("RNG-11")
def unclaimed_rates_do_nothing(ctx: Context) -> None:
    """Try every rate: one that is claimed acts in training, one that is not does not act."""
    if ctx.target.spec is None:
        raise NotApplicable("there is no spec that could claim a rate")
    subject = ctx.subject()
    accepted = set(parameters_of(ctx.target.cls))
    for rate in RATES:
        claimed = rate in ctx.target.traits
        if rate not in accepted:
            # A cell may name its own rates otherwise, as those of two states.
            continue
        off = {name: 0.0 for name in RATES if name in accepted and name in subject.kwargs}
        try:
            trial = ctx.subject(subject.case, **{**off, rate: 0.5})
            trial.cell  # noqa: B018 (made here, so that a refusal is seen)
        except (ValueError, NotImplementedError) as error:
            if claimed:
                _require_rates_of_its_own(ctx, rate, error)
            continue
        trial.set_weights(ctx.seed % 1000)
        example = Example(8, 5, seed=ctx.seed, initial_state=True)
        inputs, states = trial.inputs(example), trial.random_states(example)
        layer = trial.layer(**SEQUENCES)
        inference = trial.run(layer, inputs, states, training=False)
        acts = _differ(trial.run(layer, inputs, states, training=True), inference)
        ctx.examples += 1
        ctx.require(
            acts == claimed,
            f"{rate}=0.5 acts in training, and the spec does not claim {rate!r}"
            if acts
            else f"the spec claims {rate!r}, and {rate}=0.5 does nothing in training",
        )
        if not claimed:
            continue
        if rate != "zoneout" and trial.has_reference:
            want, tolerance = trial.expect(inputs, states), trial.tolerance(example.time)
            what = f"at inference with {rate}=0.5"
            ctx.close(f"output {what}", inference.output, want.sequence, tolerance)
            ctx.close(f"state {what}", inference.states, want.states, tolerance)
        inputs, states = map_trees(_first_row, inputs), map_trees(_first_row, states)
        alike = trial.run(layer, inputs, states, training=True)
        same = all((leaf == leaf[:1]).all() for leaf in leaves([alike.output, alike.states]))
        ctx.require(not same, f"{rate}=0.5 draws the same for all rows")


def _first_row(array: np.ndarray) -> np.ndarray:
    """Put the first row in the place of all."""
    return np.repeat(array[:1], len(array), axis=0)


def _require_rates_of_its_own(ctx: Context, rate: str, error: Exception) -> None:
    """A cell that refuses the common rate has to be random in training as it is."""
    subject = ctx.subject()
    example = Example(8, 5, seed=ctx.seed, initial_state=True)
    inputs, states = subject.inputs(example), subject.random_states(example)
    runs = [
        subject.run(subject.layer(**SEQUENCES), inputs, states, training=t) for t in (False, True)
    ]
    ctx.require(
        _differ(*runs), f"{rate}=0.5 is claimed and refused, and training is inference: {error}"
    )


def _seeded(ctx: Context, subject: Subject) -> Subject:
    if "seed" not in parameters_of(ctx.target.cls):
        raise NotApplicable("the cell takes no seed")
    seeded = ctx.subject(subject.case, dropout=0.5, seed=11)
    seeded.set_weights(ctx.seed % 1000)
    return seeded


@check("RNG-08")
def no_hidden_randomness(ctx: Context) -> None:
    """Compare training with inference where no randomness is claimed.

    A cell without a spec cannot claim any, so its rates are set to zero: they may act, and what is
    random beside them may not.
    """
    rates = {} if ctx.target.spec is not None else dict.fromkeys(_rates_of(ctx.target.cls), 0.0)
    for case in [subject.case for subject in ctx.cases()]:
        subject = ctx.subject(case, **rates)
        subject.set_weights(ctx.seed % 1000)
        inputs = subject.inputs(Example(3, 5, seed=ctx.seed))
        layer = subject.layer(**SEQUENCES)
        inference = subject.run(layer, inputs, training=False)
        training = subject.run(layer, inputs, training=True)
        ctx.same("output in training", training.output, inference.output)
        ctx.same("state in training", training.states, inference.states)


def _rates_of(cls: type) -> list[str]:
    """List the constructor arguments that are rates of something random, by their names."""
    words = ("dropout", "drop", "zoneout", "noise")
    parameters = parameters_of(cls)
    return [name for name in parameters if name.endswith((*words, *(f"{w}_rate" for w in words)))]


def _by_input(found: Gradients) -> Mapping[str, Any]:
    """Give the gradients by inputs, which are all there: a layer reads its inputs."""
    return found.inputs


def _dropping(ctx: Context) -> list[Subject]:
    """Give the subjects with a dropout rate of a half."""
    subjects = []
    for subject in list(ctx.cases()):
        dropping = ctx.subject(subject.case, dropout=0.5)
        dropping.set_weights(ctx.seed % 1000)
        subjects.append(dropping)
    return subjects


def _differ(first: object, second: object) -> bool:
    pairs = zip(
        leaves([first.output, first.states]),  # type: ignore[attr-defined]
        leaves([second.output, second.states]),  # type: ignore[attr-defined]
        strict=True,
    )
    return any(not np.array_equal(a, b) for a, b in pairs)
