"""Checks of constructor arguments that no case of a spec need show: each acts, and is kept."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from cellkit.registry import cell_weights, set_cell_weights
from cellkit_conformance.checks import check
from cellkit_conformance.checks.context import Context
from cellkit_conformance.checks.differentiate import gradients
from cellkit_conformance.checks.parameters import (
    another,
    defaults_of,
    own_parameters,
    parameters_of,
    settings,
)
from cellkit_conformance.checks.random_runs import differ, rates_of
from cellkit_conformance.checks.serialization import require_config
from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.outcome import NotApplicable, SpecFailure
from cellkit_conformance.subject import backend
from cellkit_conformance.subject.rounding import allowance, effect_of_rounding, widened
from cellkit_conformance.subject.subject import REFUSALS, Subject
from cellkit_conformance.subject.tolerance import EPSILON
from cellkit_conformance.trees import leaves, map_trees

SEQUENCES = {"return_sequences": True}
ACTIVATIONS = ("sigmoid", "tanh", "relu", "linear")
KNOWN = (*ACTIVATIONS, "hard_sigmoid", "softplus", "softsign", "elu", "selu", "gelu", "silu")
"""Activations by which a cell is compared with a reference, as far as that knows them."""
OBJECTS = ("initializer", "regularizer", "constraint")
MOST = 8
"""Cells beside which an argument is tried that seems to change nothing."""

NO_CHOICE = "no_such_choice"


def options(
    ctx: Context, subject: Subject, activations: tuple[str, ...] = ()
) -> Iterator[tuple[str, Any]]:
    """Give other values than a case has for the arguments that are plain values, one by one.

    Names of activations are exchanged, flags flipped, numbers moved, and a name out of a choice is
    replaced by those that the error for a wrong one offers.

    Args:
        ctx: Of the check.
        subject: The case.
        activations: Those to try; two common ones unless given.

    Yields:
        The name of an argument, and a value for it.
    """
    cls = ctx.target.cls
    given = {**defaults_of(cls), **_config(subject), **subject.kwargs}
    skipped = {"seed", "name", "dtype", "trainable", *rates_of(cls)}
    for name in parameters_of(cls):
        value = given.get(name)
        if name in skipped or name.endswith(OBJECTS):
            continue
        if isinstance(value, bool):
            yield name, not value
        elif isinstance(value, int):
            if ctx.target.spec is not None or not _pinned(ctx.target.inputs):
                yield name, value + 1
        elif isinstance(value, float):
            yield name, another(value)
        elif "activation" in name or (isinstance(value, str) and value in ACTIVATIONS):
            now = getattr(value, "__name__", value)
            others = activations or [a for a in ACTIVATIONS if a != now][:2]
            yield from ((name, other) for other in others if other != now)
        elif isinstance(value, str):
            yield from ((name, other) for other in _choices(subject, name, value))


def _pinned(inputs: Any) -> bool:
    """Say whether inputs of a guess have a size of the cell's own."""
    if isinstance(inputs, tuple) and all(isinstance(d, (int, str)) for d in inputs):
        return any(type(d) is int for d in inputs)
    return any(map(_pinned, inputs.values() if isinstance(inputs, dict) else inputs))


def _config(subject: Subject) -> dict[str, Any]:
    return subject.fresh_cell().get_config() if hasattr(subject.target.cls, "get_config") else {}


def _choices(subject: Subject, name: str, value: str) -> list[str]:
    """Read from the error for a wrong name which names there are."""
    try:
        subject.target.make({**subject.target.arguments(subject.case), name: NO_CHOICE})
    except REFUSALS as error:
        words = re.findall(r"['\"]([A-Za-z][\w-]*)['\"]", str(error)[:2000])
        known = [w for w in words if w not in (value, name, NO_CHOICE)]
        return list(dict.fromkeys(known))[:4]
    return [NO_CHOICE]  # any name will do


def _made(ctx: Context, subject: Subject, name: str, value: Any) -> Subject | None:
    """Make the case with another value of an argument, or return None where the cell refuses it."""
    # Nobody said which numbers and names a cell can take: with those any error is a refusal.
    guessed = type(value) is int or value == NO_CHOICE
    refusals = (Exception,) if guessed else REFUSALS
    try:
        other = ctx.subject(subject.case, **{name: value})
        other.cell  # noqa: B018 (made here, so that a refusal is seen)
        other.template  # noqa: B018
        if guessed:  # inputs may have to be of another width, or a name is refused when it is used
            x = map_trees(lambda a: a[:, 0], other.inputs(Example(2, 1, seed=ctx.seed)))
            other.step_cell(x, other.own_initial_states(2))
    except refusals:
        return None
    other.set_weights(ctx.seed % 1000)
    return other


@check("NUM-13")
def options_that_no_case_shows(ctx: Context) -> None:
    """Change the arguments one by one, and compare a step with the reference."""
    for subject in itertools.islice(ctx.cases(), 1):
        tried = ACTIVATIONS if ctx.profile.name == "quick" else KNOWN
        for name, value in options(ctx, subject, tried):
            other = _made(ctx, subject, name, value)
            if other is None:
                continue
            # What an activation is shows where it is far from zero, too.
            for size in (1, 30) if "activation" in name else (1,):
                _compare_with_reference(ctx, other, size, name, value)


class _Asked(dict[str, Any]):
    """A config that remembers what was asked of it."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.names.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Give an option, or a default."""
        self.names.add(name)
        return super().get(name, default)


def _compare_with_reference(
    ctx: Context, subject: Subject, size: int, name: str, value: Any
) -> None:
    """Compare a step with the reference, where that asks for the option."""
    example = Example(3, 1, seed=ctx.seed, initial_state=True)
    drawn = map_trees(lambda a: (a * size).astype(a.dtype), subject.inputs(example))
    x = map_trees(lambda a: a[:, 0], subject.valid_inputs(drawn))
    states = subject.random_states(example)
    config = _Asked(subject.config)
    tolerance = subject.tolerance(1)

    def reference(symbols: dict[str, Any], x: Any, states: Any) -> Any:
        return list(subject.target.spec.reference(symbols, x, states, config))

    try:
        want, moved = effect_of_rounding(
            reference,
            subject.symbols,
            map_trees(np.float64, x),
            widened(states),
            EPSILON[tolerance.dtype],
            np.random.default_rng([ctx.seed, 22]),
        )
    except (*REFUSALS, SpecFailure):
        return  # the reference does not know this option
    if "activation" in name and name not in config.names:
        return  # it has a function of its own, and no option
    if not all(np.isfinite(leaf).all() for leaf in leaves(want)):
        return  # outside of what the equation allows
    got = subject.step_cell(x, states)
    ctx.examples += 1
    for number, part in enumerate(("output", "state")):
        more = map_trees(lambda move: allowance(move, tolerance), moved[number])
        ctx.close(f"{part} with {name}={value!r}", got[number], want[number], tolerance, more=more)


HOW = {
    *("implementation", "unroll", "jit", "fused", "fast", "cudnn", "parallel", "engine", "method"),
    *("backend", "checkpoint", "remat", "compile", "scan", "debug", "verbose", "chunk", "stable"),
    *("max", "min", "length", "len", "steps", "horizon", "capacity", "dtype", "name"),
}
"""Words in the names of arguments that say how to compute, or up to where, and not what."""


@check("STR-11")
def arguments_act(ctx: Context) -> None:
    """Change the arguments one by one, and look for anything that becomes of it."""
    for subject in itertools.islice(ctx.cases(), 1):
        tried: dict[str, bool] = {}
        met: dict[Any, list[Any]] = {}
        known = {} if ctx.target.spec is None else ctx.target.spec.unused
        own = [name for name in own_parameters(ctx.target.cls) if name not in known]
        for name, first in options(ctx, subject):
            how = not isinstance(first, float) and HOW.intersection(name.split("_"))
            if how or first == NO_CHOICE or name not in own:
                continue
            # A number of steps may act late, a small one early.
            others = [n for n in (1, 2) if n != first - 1] if type(first) is int else []
            for value in [first, *others]:
                if tried.get(name) or _made(ctx, subject, name, value) is None:
                    continue
                ctx.examples += 1
                acts = _acts(ctx, subject.case, name, value, met)
                if acts is not None:
                    tried[name] = acts
        if "seed" in own and not _seed_acts(ctx, subject.case):
            tried["seed"] = False
        dead = [name for name, acts in tried.items() if not acts]
        ctx.require(not dead, f"no value of the argument(s) {', '.join(dead)} changes anything")


def _acts(
    ctx: Context, first: str, name: str, value: Any, met: dict[Any, list[Any]]
) -> bool | None:
    """Say whether a value changes the cell, as it is or with one of its flags the other way.

    None says that no step runs with it: it was refused late, by a function that it should be.

    Args:
        ctx: Of the check.
        first: The case to begin with.
        name: Of the argument.
        value: Another value for it.
        met: Filled with what the cell shows without it, which the next argument needs again.
    """
    ran = False
    for look in (_at_start, _results, _gradients):
        for case, beside in itertools.islice(settings(ctx, first), MOST):
            try:
                key = look, case, *beside.items()
                if key not in met:
                    met[key] = look(ctx, case, beside)
                if met[key] != look(ctx, case, {**beside, name: value}):
                    return True
                ran = ran or look is _results
            except REFUSALS:
                continue
    return False if ran else None


def _seed_acts(ctx: Context, case: str) -> bool:
    """Say whether two seeds train otherwise, where the cell is seen to draw at all."""
    inputs = None
    for rates in ({name: 0.5 for name in rates_of(ctx.target.cls)}, {}):
        runs = []
        try:
            for seed in (1, 2):
                keras.utils.set_random_seed(ctx.seed)
                subject = Subject(ctx.target, case, ctx.layer, {**rates, "seed": seed})
                subject.set_weights(ctx.seed % 1000)
                inputs = subject.inputs(Example(3, 5, seed=ctx.seed))
                layer = subject.layer(**SEQUENCES)
                runs.append(subject.run(layer, inputs, training=True))
            still = subject.run(layer, inputs, training=False)
        except REFUSALS:
            continue
        return differ(*runs) or not differ(runs[1], still)
    return True


def _gradients(ctx: Context, case: str, extra: dict[str, Any]) -> list[Any]:
    """List the gradients of a cell, by which an argument may be all that it is about."""
    subject = Subject(ctx.target, case, ctx.layer, extra)
    subject.set_weights(ctx.seed % 1000)
    found = gradients(subject, subject.inputs(Example(3, 5, seed=ctx.seed)), None)
    return [
        None if g is None else g.tobytes()
        for g in (*found.inputs.values(), *found.weights.values())
    ]


def _at_start(ctx: Context, case: str, extra: dict[str, Any]) -> list[Any]:
    """List what can be seen before a step: sizes, weights that a cell starts with, and states."""
    keras.utils.set_random_seed(ctx.seed)  # so that random weights start alike
    subject = Subject(ctx.target, case, ctx.layer, extra)
    found: list[Any] = [(k, w.shape, w.tobytes()) for k, w in subject.initial_weights.items()]
    found.append([v.trainable for v in getattr(subject.cell, "weights", ())])
    subject.set_weights(ctx.seed % 1000)
    return [*found, *(leaf.tobytes() for leaf in leaves(subject.own_initial_states(2)))]


def _results(ctx: Context, case: str, extra: dict[str, Any]) -> list[Any]:
    """List what a cell computes: outputs, states and losses, in training and for large inputs."""
    keras.utils.set_random_seed(ctx.seed)
    subject = Subject(ctx.target, case, ctx.layer, extra)
    subject.set_weights(ctx.seed % 1000)
    layer, inputs = subject.layer(**SEQUENCES), subject.inputs(Example(3, 5, seed=ctx.seed))
    found: list[Any] = []
    for size, training in ((1, False), (1, True), (30, False)):
        x = map_trees(lambda a, k=size: (a * k).astype(a.dtype), inputs)
        got = subject.run(layer, subject.valid_inputs(x), training=training)
        found += [leaf.tobytes() for leaf in leaves([got.output, got.states])]
    return [*found, *(float(backend.to_numpy(loss)) for loss in layer.losses)]


@check("SER-12")
def options_come_back(ctx: Context) -> None:
    """Make cells again from their configs, with options that no case shows, and name and dtype."""
    for subject in itertools.islice(ctx.cases(), 1):
        if not hasattr(ctx.target.cls, "get_config"):
            raise NotApplicable("a plain object has no config")
        require_config(ctx.target.cls)
        for name, value in options(ctx, subject):
            other = _made(ctx, subject, name, value)
            if other is None:
                continue
            config = other.fresh_cell().get_config()
            if name in config:
                _require_kept(ctx, name, value, config[name])
            again = other.cell.__class__.from_config(dict(config))
            _require_alike(ctx, other, again, f"{name}={value!r}")
            ctx.examples += 1
        for name, value in (("name", "a_name"), ("dtype", "float16"), ("trainable", False)):
            try:
                cell = ctx.target.make({**ctx.target.arguments(subject.case), name: value})
            except REFUSALS:
                continue
            if not isinstance(cell, keras.layers.Layer):
                continue
            again = cell.__class__.from_config(cell.get_config())
            ctx.examples += 1
            for one, said in ((cell, "a cell"), (again, "a cell made from the config of one")):
                now = one.dtype_policy.name if name == "dtype" else getattr(one, name)
                ctx.require(
                    now == value, f"{said} that was given {name}={value!r} has {name}={now!r}"
                )


def _require_kept(ctx: Context, name: str, value: Any, kept: Any) -> None:
    now = getattr(kept, "__name__", kept)
    if isinstance(now, dict):  # an object, written by Keras
        now = now.get("config", now)
    if isinstance(value, (bool, int, float, str)) and isinstance(now, (bool, int, float, str)):
        ctx.require(now == value, f"{name}={value!r} was given, and the config says {now!r}")


def _require_alike(ctx: Context, subject: Subject, again: Any, said: str) -> None:
    """Require the same results of a cell that was made again, given the same weights."""
    subject.build(again)
    subject.complete(again)
    mine, theirs = cell_weights(subject.cell), cell_weights(again)
    shapes = [{k: w.shape for k, w in weights.items()} for weights in (mine, theirs)]
    ctx.require(
        shapes[0] == shapes[1],
        f"with {said}, the weights of a cell made from the config are {shapes[1]}, not {shapes[0]}",
    )
    set_cell_weights(again, mine)
    example = Example(3, 1, seed=ctx.seed, initial_state=True)
    x = map_trees(lambda a: a[:, 0], subject.inputs(example))
    states = subject.random_states(example)
    want, got = subject.step_cell(x, states), subject.step_cell(x, states, again)
    ctx.same(f"output of a cell made from the config with {said}", got[0], want[0])
    ctx.same(f"state of a cell made from the config with {said}", got[1], want[1])


@check("SER-13")
def objects_are_used(ctx: Context) -> None:
    """Give initializers, regularizers and constraints, and look for them at the weights."""
    names = [n for n in own_parameters(ctx.target.cls) if n.endswith(OBJECTS)]
    names = [name for name in names if not name.startswith("activity")]
    if not names:
        raise NotApplicable("the cell takes no initializer, regularizer or constraint")
    for name in names:
        used: list[bool | None] = []
        for case, beside in settings(ctx, next(iter(ctx.target.cases))):
            used.append(_is_used(ctx, case, beside, name))
            if used[-1]:
                if name.endswith("regularizer"):
                    _require_counted_once(ctx, case, beside, name)
                break
        ctx.examples += 1
        ctx.require(
            any(used) or all(found is None for found in used),
            f"{name} is accepted and not used: no weight shows it",
        )


def _require_counted_once(ctx: Context, case: str, beside: dict[str, Any], name: str) -> None:
    """Compare the losses after a step with the penalties of the weights that have a regularizer."""
    given, sums, penalty = keras.regularizers.L2(0.25), [], 0.0
    for extra in (beside, {**beside, name: given}):
        subject = Subject(ctx.target, case, ctx.layer, extra)
        subject.set_weights(ctx.seed % 1000)
        sums.append(_losses_of_a_step(ctx, subject))
        held = [(v, getattr(v, "regularizer", None)) for v in subject.cell.trainable_variables]
        own = [v for v, r in held if r is not None and r.get_config() == given.get_config()]
        penalty = sum(float(backend.to_numpy(given(v))) for v in own)
    counted = sums[1] - sums[0]
    ctx.require(
        penalty == 0 or abs(counted - penalty) <= 1e-3 * abs(penalty) + 1e-5 * abs(sums[0]),
        f"after one step {name} adds {counted:.4g} to the losses; the penalty of the weights that "
        f"have it is {penalty:.4g}",
    )


def _losses_of_a_step(ctx: Context, subject: Subject) -> float:
    """Run a step, and add up what the cell then wants to pay."""
    x = map_trees(lambda a: a[:, 0], subject.inputs(Example(3, 1, seed=ctx.seed)))
    subject.step_cell(x, subject.own_initial_states(3))
    return sum(float(backend.to_numpy(loss)) for loss in getattr(subject.cell, "losses", ()))


def _is_used(ctx: Context, case: str, beside: dict[str, Any], name: str) -> bool | None:
    """Say whether an object changes a weight of a case, or return None where it is refused."""
    kind = next(kind for kind in OBJECTS if name.endswith(kind))
    given: dict[str, list[Any]] = {
        # Not constants, which a cell may scale alike.
        "initializer": [keras.initializers.RandomUniform(0.1, 0.9, seed=n) for n in (3, 4)],
        "regularizer": [None, keras.regularizers.L2(0.25)],
        "constraint": [None, keras.constraints.MaxNorm(0.25)],
    }
    seen: list[list[Any]] = []
    for value in given[kind]:
        subject = Subject(ctx.target, case, ctx.layer, {**beside, name: value} if value else beside)
        try:
            cell = subject.cell
        except REFUSALS:
            return None
        weights = list(getattr(cell, "weights", ()))
        if kind == "initializer":
            seen.append([np.asarray(backend.to_numpy(v.value)).tobytes() for v in weights])
        elif kind == "regularizer":
            held = [getattr(v, "regularizer", None) is not None for v in weights]
            subject.set_weights(ctx.seed % 1000)
            seen.append([*held, _losses_of_a_step(ctx, subject)])  # it may be of states
        else:
            seen.append([getattr(v, "constraint", None) is not None for v in weights])
    if kind == "initializer" and seen[0] != seen[1]:
        # Other weights may be random, and differ in any case.
        subject = Subject(ctx.target, case, ctx.layer, {**beside, name: given[kind][0]})
        again = [np.asarray(backend.to_numpy(v.value)).tobytes() for v in subject.cell.weights]
        moved = [a != b for a, b in zip(seen[0], seen[1], strict=True)]
        random = [a != b for a, b in zip(seen[0], again, strict=True)]
        return any(m and not r for m, r in zip(moved, random, strict=True))
    return seen[0] != seen[1]
