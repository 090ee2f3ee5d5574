"""RNG: zoneout, noise, and the rates of a cell, which act where they are claimed and only there."""

from __future__ import annotations

import functools
import inspect
import itertools
from typing import Any
from unittest import mock

import keras
import numpy as np

from cellkit.registry import cell_weights, set_cell_weights
from cellkit_conformance.checks import check
from cellkit_conformance.checks.context import Context
from cellkit_conformance.checks.dropout import require_effect_kept
from cellkit_conformance.checks.parameters import (
    FRAMEWORKS,
    own_parameters,
    parameters_of,
    settings,
)
from cellkit_conformance.checks.random_runs import claim, differ, rates_of
from cellkit_conformance.checks.statistics import restore, statistics
from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.outcome import NotApplicable
from cellkit_conformance.subject.subject import REFUSALS, Returned, Subject
from cellkit_conformance.trees import leaves, map_trees, paths

SEQUENCES = {"return_sequences": True}


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
        runs = [zoned.run(layer, inputs, old, training=True) for _ in range(2)]
        drawn = [run.states for run in runs]
        _require_output_zoned(ctx, plain.run(plain.layer(**SEQUENCES), inputs, old), runs)
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


def _require_output_zoned(ctx: Context, plain: Returned, runs: list[Returned]) -> None:
    """Compare an output that is a state with that state: zoneout makes one choice for both."""
    outputs, states = leaves(plain.output), leaves(plain.states)
    for number, output in enumerate(outputs):
        same = [i for i, state in enumerate(states) if np.array_equal(output[:, -1], state)]
        if len(same) != 1:
            continue
        for run in runs:
            state = leaves(run.states)[same[0]]
            ctx.same(
                "the output of one step, which is a state,",
                leaves(run.output)[number][:, -1],
                state,
            )


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


RATES = ("dropout", "recurrent_dropout", "zoneout")


@check("RNG-11")
def unclaimed_rates_do_nothing(ctx: Context) -> None:
    """Try every rate: one that is claimed acts in training, one that is not does not act."""
    if ctx.target.spec is None:
        raise NotApplicable("there is no spec that could claim a rate; see RNG-14")
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
        acts = differ(trial.run(layer, inputs, states, training=True), inference)
        if claimed and not acts:
            elsewhere = _first_that_acts(ctx, rate)
            if elsewhere is not None and elsewhere[2]:
                continue
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
        differ(*runs), f"{rate}=0.5 is claimed and refused, and training is inference: {error}"
    )


@check("RNG-13")
def noise_acts(ctx: Context) -> None:
    """Compare training with inference, with itself, and between rows of the same data."""
    found = []
    for subject in map(ctx.subject, ctx.target.cases):
        subject.set_weights(ctx.seed % 1000)
        found.append(acts_in_training(ctx, subject, "noise"))
    ctx.require(any(found), "the spec claims 'noise', and training is inference in every case")


def acts_in_training(ctx: Context, subject: Subject, what: str, rows: bool = True) -> bool:
    """Say whether training draws something; what it draws must be new for every call and row."""
    example = Example(8, 5, seed=ctx.seed, initial_state=True)
    inputs, states = subject.inputs(example), subject.random_states(example)
    inputs, states = map_trees(_first_row, inputs), map_trees(_first_row, states)
    layer = subject.layer(**SEQUENCES)
    kept = statistics(layer)
    inference = subject.run(layer, inputs, states, training=False)
    first, second = (subject.run(layer, inputs, states, training=True) for _ in range(2))
    restore(kept)
    ctx.examples += 1
    if not differ(first, inference):
        return False
    ctx.require(differ(first, second), f"{what} is the same in two calls", claim(first, second))
    alike = all((leaf == leaf[:1]).all() for leaf in leaves([first.output, first.states]))
    ctx.require(not (rows and alike), f"{what} is drawn for one row, and used for all")
    return True


@check("RNG-14")
def rates_act(ctx: Context) -> None:
    """Set every rate that the cell accepts, under whatever name, and look at training."""
    claimed, idle = set(ctx.target.traits), list[str]()
    for rate in rates_of(ctx.target.cls):
        if ctx.target.spec is not None and (rate in RATES or _family(rate) not in claimed):
            continue  # RNG-11 speaks of it
        tried = _first_that_acts(ctx, rate)
        if tried is None:
            continue  # refused, which is honest
        trial, still, acts = tried
        if not acts and rate not in own_parameters(ctx.target.cls):
            idle.append(rate)  # an argument of the framework's base class
            continue
        ctx.require(acts, f"{rate}=0.5 is accepted, and does nothing in training")
        _require_size_to_matter(ctx, trial, rate)
        if _family(rate) == "zoneout":
            _require_a_mean(ctx, trial, still, rate)
            continue
        example = Example(3, 5, seed=ctx.seed)
        inputs = trial.inputs(example)
        got = trial.run(trial.layer(**SEQUENCES), inputs, training=False)
        want = still.run(still.layer(**SEQUENCES), inputs, training=False)
        tolerance = trial.tolerance(example.time)
        ctx.close(f"output at inference with {rate}=0.5", got.output, want.output, tolerance)
        ctx.close(f"state at inference with {rate}=0.5", got.states, want.states, tolerance)
        if _family(rate) == "dropout":
            _inputs_keep_their_mean(ctx, trial, rate)
    _require_training_inside(ctx)
    if idle:
        _require_training_above(ctx, idle)


def _require_a_mean(ctx: Context, trial: Subject, still: Subject, rate: str) -> None:
    """Look for the mean of old and new states at inference, where zoneout acts there at all.

    Further states may be made of those that it is about.
    """
    share = 0.3
    zoned = ctx.subject(trial.case, **{**trial.extra, rate: share})
    set_cell_weights(zoned.cell, cell_weights(trial.cell))
    example = Example(8, 1, seed=ctx.seed, initial_state=True)
    x, old = map_trees(lambda a: a[:, 0], zoned.inputs(example)), zoned.random_states(example)
    got, new = (
        map_trees(lambda _, leaf: leaf, old, s.step_cell(x, old)[1]) for s in (zoned, still)
    )
    moved, tolerance, means = False, zoned.tolerance(1), []
    for a, b, c in zip(leaves(old), leaves(new), leaves(got), strict=True):
        if b.dtype.kind == "f" and bool((np.abs(c - b) > tolerance.limit(b)).any()):
            moved = True
            want = share * a + (1 - share) * b
            means.append(bool((np.abs(c - want) <= tolerance.limit(want)).all()))
    ctx.examples += 1
    ctx.require(
        not moved or any(means),
        f"at inference with {rate}={share}, no state is {share} of the old and {1 - share} of the "
        "new one",
    )


def _require_training_inside(ctx: Context) -> None:
    """Give a wrapper cells that drop: what is inside trains when the wrapper does."""
    first = next(iter(ctx.target.cases))
    cell = ctx.subject(first).fresh_cell()
    for name in parameters_of(ctx.target.cls):
        given = _dropping(getattr(cell, name, None))
        if given is None:
            continue
        trial = Subject(ctx.target, first, ctx.layer, {name: given})
        try:
            trial.cell  # noqa: B018 (made here, so that a refusal is seen)
        except REFUSALS:
            continue
        trial.set_weights(ctx.seed % 1000)
        inputs, layer = trial.inputs(Example(8, 5, seed=ctx.seed)), trial.layer(**SEQUENCES)
        runs = [trial.run(layer, inputs, training=flag) for flag in (False, True)]
        ctx.examples += 1
        ctx.require(
            differ(*runs),
            f"{name} was given with dropout=0.5, and nothing is dropped in training: the flag does "
            "not reach what is inside",
        )


def _require_training_above(ctx: Context, idle: list[str]) -> None:
    """Watch the flag that a base class of a framework is given by the `call` that overrides its.

    Args:
        ctx: Of the check.
        idle: Rates of that base class that do nothing in training.
    """
    own = [b for b in ctx.target.cls.__mro__ if b.__module__.split(".")[0] not in FRAMEWORKS]
    above = next((b for b in ctx.target.cls.__mro__ if b not in own and "call" in vars(b)), None)
    if above is None or not any("call" in vars(b) for b in own):
        return
    subject, given = ctx.subject(next(iter(ctx.target.cases))), list[Any]()
    original = vars(above)["call"]
    names = list(inspect.signature(original).parameters)

    @functools.wraps(original)
    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        given.append({**dict(zip(names[1:], args, strict=False)), **kwargs}.get("training"))
        return original(self, *args, **kwargs)

    cell, example = subject.fresh_cell(), Example(3, 1, seed=ctx.seed)
    subject.build(cell)
    x = map_trees(lambda a: a[:, 0], subject.inputs(example))
    states = subject.own_initial_states(3)
    with mock.patch.object(above, "call", watched):
        subject.step_cell(x, states, cell, training=True)
    ctx.examples += 1
    ctx.require(
        not given or any(given),
        f"`call` was told that it trains, and calls that of {above.__name__} without saying so: "
        f"{', '.join(idle)} of 0.5 does nothing",
    )


def _dropping(held: Any) -> Any:
    """Give a cell like one that is held, or a list of such, with dropout; None if it has none."""
    if isinstance(held, (list, tuple)):
        found = [_dropping(entry) for entry in held]
        return found if found and None not in found else None
    known = type(held).__module__.startswith(("keras.", "cellkit"))  # to drop in training
    if not known or not isinstance(held, keras.layers.Layer) or not hasattr(held, "state_size"):
        return None
    config = held.get_config()
    return type(held).from_config({**config, "dropout": 0.5}) if "dropout" in config else None


def _require_size_to_matter(ctx: Context, trial: Subject, rate: str) -> None:
    """Train cells of two rates from the same seeds: they draw alike, and do not do alike."""
    inputs, found = trial.inputs(Example(8, 5, seed=ctx.seed)), []
    for size in (0.25, 0.75):
        keras.utils.set_random_seed(ctx.seed)
        subject = Subject(ctx.target, trial.case, ctx.layer, {**trial.extra, rate: size})
        try:
            subject.cell  # noqa: B018 (made here, so that a refusal is seen)
        except REFUSALS:
            return
        set_cell_weights(subject.cell, cell_weights(trial.cell))
        keras.utils.set_random_seed(ctx.seed)
        found.append(subject.run(subject.layer(**SEQUENCES), inputs, training=True))
    ctx.examples += 1
    ctx.require(differ(*found), f"{rate}=0.25 and {rate}=0.75 do the same in training")


def _inputs_keep_their_mean(ctx: Context, subject: Subject, rate: str) -> None:
    """Compare what small inputs do to a step in training with what they do at inference.

    Whatever is dropped, of inputs, states or results: where inference knows of no rate, training
    has to scale what it keeps.
    """
    example = Example(256, 1, seed=ctx.seed)
    small, layer = subject.inputs(example), subject.layer(**SEQUENCES)
    rest = map_trees(np.zeros_like, small)
    if subject.target.draw_inputs is not None:
        return  # zeros need not be inputs

    def run(inputs: Any, training: bool) -> Returned:
        return subject.run(layer, inputs, training=training)

    require_effect_kept(ctx, f"{rate}=0.5", "input", run, small, rest)


def _first_that_acts(ctx: Context, rate: str) -> tuple[Subject, Subject, bool] | None:
    """Look for a setting in which a rate acts: what it drops from may be there only with a flag.

    Args:
        ctx: Of the check.
        rate: The name of the rate.

    Returns:
        The cell with the rate and without, and whether it acts; None where it is always refused.
    """
    tried = None
    off = {n: 0.0 for n in rates_of(ctx.target.cls) if n != rate}
    of_weights = any(word in rate for word in ("weight", "kernel", "connect"))
    for case, beside in settings(ctx, next(iter(ctx.target.cases))):
        try:
            trial, still = (ctx.subject(case, **{**off, **beside, rate: r}) for r in (0.5, 0.0))
            trial.set_weights(ctx.seed % 1000)
            set_cell_weights(still.cell, cell_weights(trial.cell))
        except REFUSALS:
            continue
        acts = acts_in_training(ctx, trial, f"{rate}=0.5", rows=not of_weights)
        if acts or tried is None:
            tried = trial, still, acts
        if acts:
            break
    return tried


def _family(rate: str) -> str:
    """Give the trait that a rate is about, by its name."""
    for word, trait in (("zoneout", "zoneout"), ("noise", "noise")):
        if word in rate:
            return trait
    return "recurrent_dropout" if "recurrent" in rate else "dropout"
