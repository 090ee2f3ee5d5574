"""NUM: the cell computes what its paper says."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import re
from collections.abc import Callable
from itertools import combinations
from typing import Any

import keras
import numpy as np

from cellkit.equations.analyse import check_all
from cellkit.equations.declare import declare
from cellkit.equations.reference import reference_of
from cellkit.equations.shown import shown_equations
from cellkit.registry import cell_weights
from cellkit_conformance.checks import check
from cellkit_conformance.checks.context import Context
from cellkit_conformance.examples.strategies import Example, Space
from cellkit_conformance.outcome import NotApplicable, one_line
from cellkit_conformance.subject import backend, oracle
from cellkit_conformance.subject.record import Claim
from cellkit_conformance.subject.rounding import allowance, effect_of_rounding, widened
from cellkit_conformance.subject.subject import Subject
from cellkit_conformance.subject.tolerance import EPSILON, Tolerance
from cellkit_conformance.trees import Tree, leaves, map_trees, pair_leaves

SEQUENCES = {"return_sequences": True}


@check("NUM-01")
def one_step(ctx: Context) -> None:
    """Compare one step with the reference: fifty draws at once, one per row, then large ones.

    Large inputs and states find what is clipped or saturates too early. Their size is that of the
    errors too, before a gate takes it away, so the limit grows with it. Products of many data lose
    more digits than one sum: what rounding the data does to the reference is allowed too.
    """
    for subject in ctx.cases():
        for weights, size in ((0, 1), (1, 1), (2, 1), (2, 30)):
            subject.set_weights(weights)
            example = Example(50, 1, seed=ctx.seed + weights, weights=weights, initial_state=True)
            ctx.example, ctx.examples = example.describe(), ctx.examples + 50
            inputs = map_trees(_times(size), subject.inputs(example))
            x = map_trees(lambda a: a[:, 0], subject.valid_inputs(inputs) if size > 1 else inputs)
            states = subject.states(example)
            if size > 1:
                states = subject.valid_states(map_trees(_times(size), states))
            output, new = subject.step_cell(x, states)
            want_output, want_new = subject.reference_step(
                map_trees(np.float64, x), widened(states)
            )
            tolerance = subject.tolerance(1)
            more = _lost_by_rounding(ctx, subject, x, states, tolerance)
            tolerance = dataclasses.replace(tolerance, multiplier=size * tolerance.multiplier)
            ctx.close("output", output, want_output, tolerance, more=more[0])
            ctx.close("state", new, want_new, tolerance, more=more[1])
    ctx.example = None


def _lost_by_rounding(
    ctx: Context, subject: Subject, x: Tree, states: Tree, tolerance: Tolerance
) -> list[Tree | None]:
    """Measure on the reference what a step may lose that chains roundings of its data."""
    if not subject.has_reference:
        return [None, None]
    _, moved = effect_of_rounding(
        lambda w, x, s: list(subject.target.spec.reference(w, x, s, subject.config)),
        subject.symbols,
        map_trees(np.float64, x),
        widened(states),
        EPSILON[tolerance.dtype],
        np.random.default_rng([ctx.seed, 24]),
    )
    return [map_trees(lambda move: allowance(np.nan_to_num(move), tolerance), m) for m in moved]


@check("NUM-02")
def every_step_of_a_loop(ctx: Context) -> None:
    """Compare a loop with the oracle: the outputs of every step, the states after 1, 4 and 5."""
    for subject in ctx.cases():
        space = Space(shapes=[(3, 5), (3, 1), (3, 4)], options=[SEQUENCES])
        ctx.each(subject, space, ctx.agrees)


@check("NUM-03")
def every_case(ctx: Context) -> None:
    """Compare a loop with the oracle for every constructor case."""
    for subject in ctx.cases(every=True):
        space = Space(options=[SEQUENCES])
        ctx.each(subject, space, ctx.agrees, ctx.profile.examples // 2)


@check("NUM-04")
def data_can_see_the_order_of_gates(ctx: Context) -> None:
    """Exchange equal-shaped weights in the reference and see that its result moves."""
    for subject in ctx.cases():
        example = Example(3, 5, seed=ctx.seed, initial_state=True)
        inputs, states = subject.inputs(example), subject.states(example)
        reference = subject.target.spec.reference

        def run(
            symbols: Any,
            subject: Subject = subject,
            inputs: Tree = inputs,
            states: Tree = states,
            reference: Any = reference,
        ) -> oracle.Run:
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
            inputs = subject.valid_inputs(map_trees(scale, subject.inputs(example)))
            states = map_trees(scale, subject.states(example))
            ctx.examples += 1
            got = subject.run(subject.layer(**SEQUENCES), inputs, states)
            want = subject.expect(inputs, states)
            for a, b in pair_leaves([got.output, got.states], [want.sequence, want.states]):
                if not np.issubdtype(a.dtype, np.inexact):
                    continue
                # The cell is not at fault where float32 cannot hold a value.
                lost = ~np.isfinite(a) & (np.abs(b) < np.finfo(np.float32).max)
                ctx.require(
                    not lost.any(),
                    f"{int(lost.sum())} of {a.size} values are not finite for inputs of "
                    "magnitude 1e3, and the reference's are",
                    Claim("finite", [a], at=(np.abs(b) < np.finfo(np.float32).max,)),
                )


@check("NUM-06")
def zeros_and_denormals(ctx: Context) -> None:
    """Feed zeros, negative zeros and denormals."""
    for subject in ctx.cases():
        for value in (0.0, -0.0, 1e-40):
            example = Example(3, 5, seed=ctx.seed, options=SEQUENCES)
            fill = np.float32(value)
            filled = map_trees(lambda a, v=fill: np.full_like(a, v), subject.inputs(example))
            inputs = subject.valid_inputs(filled)
            ctx.examples += 1
            got = subject.run(subject.layer(**SEQUENCES), inputs)
            ctx.compare(subject, example, got, subject.expect(inputs))


@check("NUM-07")
def long_sequences_do_not_drift(ctx: Context) -> None:
    """Compare a run of 512 steps with the oracle; with small weights, so that no chaos grows."""
    for subject in itertools.islice(ctx.cases(), 1):
        subject.set_weights(ctx.seed % 1000, scale=0.25)
        example = Example(2, 512, seed=ctx.seed, options=SEQUENCES)
        inputs = subject.inputs(example)
        got = subject.run(subject.layer(**SEQUENCES), inputs, graph=True)
        ctx.compare(subject, example, got, subject.expect(inputs))
        ctx.examples += 1


@check("NUM-08")
def equals_the_framework(ctx: Context) -> None:
    """Give Keras' own layer the same weights and compare outputs and states, with a mask too."""
    names = sorted(t.split(":", 1)[1] for t in ctx.target.traits if t.startswith("equiv:"))
    if not names:
        raise NotApplicable("the spec claims no 'equiv:...'")
    for subject in ctx.cases(every=True):
        known = set(inspect.signature(getattr(keras.layers, names[0]).__init__).parameters)
        kwargs = {k: v for k, v in subject.kwargs.items() if k not in {"dropout", "seed"}}
        kwargs.pop("recurrent_dropout", None)
        if not set(kwargs) <= known:
            continue  # a case with an option of the cell's own
        for name in names:
            peer = getattr(keras.layers, name)(**kwargs, return_sequences=True, return_state=True)
            example = Example(3, 5, seed=ctx.seed, initial_state=True)
            inputs, states = subject.inputs(example), subject.random_states(example)
            _copy_weights(ctx, subject, peer, inputs, name)
            want = backend.call_layer(
                peer, map_trees(backend.to_tensor, inputs), _tensors(states), None, None
            )
            got = subject.run(subject.layer(**SEQUENCES), inputs, states)
            tolerance = subject.tolerance(example.time)
            ctx.examples += 1
            ctx.close(f"output, by keras.layers.{name}", got.output, _numpy(want[0]), tolerance)
            ctx.close(
                f"state, by keras.layers.{name}", got.states, _numpy(list(want[1:])), tolerance
            )


@check("NUM-14")
def equations_of_the_docstring(ctx: Context) -> None:
    """Evaluate the equations of the docstring, and compare two steps with the reference."""
    shown = shown_equations(ctx.target.cls)
    if shown is None:
        raise NotApplicable("the docstring shows no equations")
    subject = ctx.subject(next(iter(ctx.target.cases)))
    subject.set_weights(ctx.seed % 1000)
    spec, config = ctx.target.spec, subject.config
    try:
        numbers = {
            key: value
            for key, value in config.items()
            if isinstance(value, float) and re.search(rf"\b{re.escape(key)}\b", shown)
        }
        declaration = declare("ShownCell", shown, numbers=numbers)
        analysis = check_all(declaration)[0]
        names = declaration.states or analysis.states
        alone = len(names) == 1 and not spec.states  # then its name says nothing
        order = [0] if alone else [spec.states.index(name) for name in names]
    except ValueError as error:
        reason = one_line(str(error), 120)
        raise NotApplicable(f"what the docstring shows cannot be evaluated: {reason}") from None
    symbols = subject.symbols
    missing = [p.name for p in analysis.parameters.values() if p.name not in symbols]
    if missing or len(order) != len(leaves(subject.template)):
        raise NotApplicable(f"the spec has other symbols than the docstring: {', '.join(missing)}")
    example = Example(3, 2, seed=ctx.seed, initial_state=True)
    inputs = map_trees(np.float64, subject.inputs(example))
    states = leaves(widened(subject.random_states(example)))
    mine, step = [states[at] for at in order], reference_of(declaration)
    for t in range(2):
        x = map_trees(lambda a, t=t: a[:, t], inputs)
        want, states = spec.reference(symbols, x, list(states), config)
        try:
            got, mine = step(symbols, x, mine, config)
        except (KeyError, ValueError) as error:
            raise NotApplicable(f"the equations need more than is known: {error}") from None
        ctx.examples += 1
        pairs = [("the output", got, want)]
        pairs += [
            (f"the state {name}", mine[i], states[at])
            for i, (name, at) in enumerate(zip(names, order, strict=True))
        ]
        for what, a, b in pairs:
            error = float(np.max(np.abs(np.asarray(a) - np.asarray(b)), initial=0.0))
            ctx.require(
                error < 1e-9,
                f"by the equations of the docstring {what} after {t + 1} step(s) is another than "
                f"the reference's, by {error:.3g}",
            )


def _copy_weights(ctx: Context, subject: Subject, peer: Any, inputs: Tree, name: str) -> None:
    """Give a layer of the framework the cell's weights, which must be stored in its way."""
    peer.build(inputs.shape)
    own = [np.asarray(w) for w in cell_weights(subject.cell).values()]
    shapes = [tuple(v.shape) for v in peer.weights]
    ctx.require(
        [w.shape for w in own] == shapes,
        f"the weights have shapes {[w.shape for w in own]}, those of keras.layers.{name} {shapes}",
    )
    peer.set_weights(own)


def _tensors(tree: Tree) -> Tree:
    return map_trees(backend.to_tensor, tree)


def _numpy(tree: Tree) -> Tree:
    return backend.to_numpy(tree)


def _times(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    def scale(array: np.ndarray) -> np.ndarray:
        inexact = np.issubdtype(array.dtype, np.inexact)
        return (array * factor).astype(array.dtype) if inexact else array

    return scale
