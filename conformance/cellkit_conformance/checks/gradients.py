"""GRD: gradients exist, reach back through time, and are finite."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from cellkit.registry import cell_weights, set_cell_weights, variables_by_path
from cellkit_conformance.checks import check
from cellkit_conformance.checks.context import Context
from cellkit_conformance.checks.differentiate import (
    close_gradient,
    connected,
    cosines,
    gradients,
    weights_of_outputs,
)
from cellkit_conformance.checks.random_runs import rates_of
from cellkit_conformance.examples.strategies import Example, Space
from cellkit_conformance.outcome import NotApplicable
from cellkit_conformance.subject import backend, oracle
from cellkit_conformance.subject.names import stable_names
from cellkit_conformance.subject.record import Claim
from cellkit_conformance.subject.subject import Subject
from cellkit_conformance.trees import Tree, leaves, map_trees, pair_leaves, paths

SEQUENCES = {"return_sequences": True}


@check("GRD-01")
def gradients_equal_central_differences(ctx: Context) -> None:
    """Compare gradients with central differences of the reference, which is in float64.

    The layer computes in float32 and the differences are good to nine digits, so this needs no
    backend that has float64, and is as sharp as the layer is.
    """
    for subject in ctx.cases():
        example = Example(3, 5, seed=ctx.seed + 1, initial_state=True)
        inputs, states = subject.inputs(example), subject.random_states(example)
        compare_with_differences(ctx, subject, gradients(subject, inputs, states), inputs, states)
        # From the cell's own initial states too, which may be learned.
        compare_with_differences(ctx, subject, gradients(subject, inputs, None), inputs, None)


def compare_with_differences(
    ctx: Context,
    subject: Subject,
    found: backend.Gradients,
    inputs: Tree,
    states: Tree | None,
    mask: np.ndarray | None = None,
    which: str = "all",
) -> None:
    """Compare gradients with central differences of the reference in random directions.

    Args:
        ctx: Of the check.
        subject: The cell, with a reference.
        found: The result of `gradients` for the same inputs, states, mask and outputs.
        inputs: Leaves (B, T, ...).
        states: Initial states, or None for the reference's own.
        mask: (B, T), or None.
        which: As of `gradients`.
    """
    weights = {k: np.asarray(v, np.float64) for k, v in cell_weights(subject.cell).items()}
    names = {id(v): k for k, v in variables_by_path(subject.cell).items()}
    trainable = {
        names[id(v)]: found.weights.get(v.path)
        for v in subject.cell.trainable_variables
        if v.path in found.weights
    }

    def loss(weights: Any, inputs: Tree, states: Tree | None) -> float:
        return _loss_of_reference(subject, weights, inputs, states, mask, which)

    for path, gradient in found.inputs.items():
        _compare_slopes(
            ctx,
            subject,
            f"input {path}".strip(),
            gradient,
            lambda step, path=path: loss(weights, _moved(inputs, path, step), states),
        )
    for path, gradient in found.states.items():
        _compare_slopes(
            ctx,
            subject,
            f"state {path}".strip(),
            gradient,
            lambda step, path=path: loss(weights, inputs, _moved(states, path, step)),
        )
    for name, gradient in trainable.items():
        _compare_slopes(
            ctx,
            subject,
            f"weight {name}",
            gradient,
            lambda step, name=name: loss({**weights, name: weights[name] + step}, inputs, states),
        )


def _compare_slopes(
    ctx: Context,
    subject: Subject,
    name: str,
    gradient: np.ndarray | None,
    loss: Callable[[np.ndarray], float],
) -> None:
    """Compare a gradient with slopes of the reference in random directions."""
    if gradient is None or np.iscomplexobj(gradient):
        return
    rng = np.random.default_rng([ctx.seed, 5])
    first = subject.case == next(iter(ctx.target.cases))
    for _ in range(3 if first else 1):
        direction = rng.standard_normal(gradient.shape)
        width = 1e-6
        slope = (loss(width * direction) - loss(-width * direction)) / (2 * width)
        terms = gradient.astype(np.float64) * direction
        # The terms of the sum round too, so the limit grows with them and not with their sum.
        size = max(1.0, float(np.abs(terms).sum()))
        ctx.examples += 1
        ctx.close(
            f"slope by {name}, as a part of its terms,",
            np.asarray(terms.sum() / size),
            np.asarray(slope / size),
            subject.tolerance(10),
        )


def _loss_of_reference(
    subject: Subject,
    weights: dict[str, np.ndarray],
    inputs: Tree,
    states: Tree | None,
    mask: np.ndarray | None,
    which: str,
) -> float:
    """Compute what `_projection` computes of the layer, in NumPy of the reference."""
    spec = subject.target.spec
    symbols = spec.symbols.to_symbols(weights, subject.config)
    batch, time = leaves(inputs)[0].shape[:2]
    states = subject.reference_states(batch, symbols) if states is None else states
    run = oracle.run(
        lambda x, s: spec.reference(symbols, x, s, subject.config), inputs, states, mask=mask
    )
    counts, total = weights_of_outputs(time, which), 0.0
    for number, leaf in enumerate(leaves(like_output(subject, run.sequence))):
        steps = counts[:-1].reshape(1, -1, *(1,) * (leaf.ndim - 2))
        total += _project_reference(leaf, number, steps)
    ordered = map_trees(lambda _, leaf: leaf, subject.template, run.states)
    for number, leaf in enumerate(leaves(ordered)):
        total += _project_reference(leaf, 20 + number, counts[-1])
    return total


def like_output(subject: Subject, output: Tree) -> Tree:
    """Bring the reference's output into the order of leaves that the layer's has."""
    if "output order" not in subject.compiled:
        layer = subject.layer(**SEQUENCES)
        found = subject.run(layer, subject.inputs(Example(3, 3)))
        subject.compiled["output order"] = found.output
    return map_trees(lambda _, leaf: leaf, subject.compiled["output order"], output)


def _project_reference(leaf: np.ndarray, number: int, counts: np.ndarray) -> float:
    if np.iscomplexobj(leaf):
        real = _project_reference(leaf.real, number, counts)
        return real + _project_reference(leaf.imag, number + 50, counts)
    if not np.issubdtype(leaf.dtype, np.floating):
        return 0.0
    return float(np.sum(leaf * cosines(leaf.shape, number) * counts))


def _moved(tree: Tree, path: str, step: np.ndarray) -> Tree:
    names = iter([name for name, _ in paths(tree)])
    return map_trees(
        lambda leaf: leaf.astype(np.float64) + step if next(names) == path else leaf, tree
    )


@check("GRD-02")
def gradients_agree_between_backends(ctx: Context) -> None:
    """Leave gradients for the other backends, and compare with what they have left."""
    for subject in ctx.cases():
        example = Example(3, 5, seed=ctx.seed, initial_state=True)
        states = subject.random_states(example)
        found = gradients(subject, subject.inputs(example), states)
        names = {f"weight {path}": f"weight {name}" for path, name in stable_names(subject.cell)}
        own = {
            names.get(name, name): gradient
            for name, gradient in found.items()
            if gradient is not None
        }
        ctx.examples += 1
        topic = f"gradients-{list(ctx.target.cases).index(subject.case)}"
        for backend_name, theirs in ctx.exchange.arrays(topic, own).items():
            ctx.require(
                set(theirs) == set(own),
                f"{sorted(set(theirs) ^ set(own))} have a gradient here or on {backend_name} only",
            )
            for name, gradient in own.items():
                what = f"gradient of {name}, in units of its largest on {backend_name},"
                close_gradient(ctx, subject, what, gradient, theirs[name])


@check("GRD-06")
def gradients_are_deterministic(ctx: Context) -> None:
    """Differentiate twice, tracing anew the second time."""
    for subject in itertools.islice(ctx.cases(), 1):
        example = Example(3, 3, seed=ctx.seed, initial_state=True)
        inputs, states = subject.inputs(example), subject.random_states(example)
        first = gradients(subject, inputs, states)
        second = gradients(subject, inputs, states, anew=True)
        for (name, a), (_, b) in zip(first.items(), second.items(), strict=True):
            if a is not None and b is not None:
                ctx.same(f"second gradient of {name}", b, a)


@check("GRD-09")
def one_step_of_training(ctx: Context) -> None:
    """Train one step with plain gradient descent and compare the weights."""
    backend.need_gradients()
    rate = 0.125
    # A layer inside may draw otherwise in a model: where there is no spec, rates are zero.
    still = {} if ctx.target.spec is not None else dict.fromkeys(rates_of(ctx.target.cls), 0.0)
    for case in itertools.islice(ctx.target.cases, 1):
        subject = ctx.subject(case, **still)
        subject.set_weights(ctx.seed % 1000)
        layer = subject.layer(**SEQUENCES)
        symbolic = subject.symbolic_inputs()
        output, _ = subject.split(layer, layer(symbolic))
        outputs = leaves(output)
        model = keras.Model(symbolic, outputs)
        model.compile(keras.optimizers.SGD(rate), loss=[_half_square] * len(outputs))
        inputs = subject.inputs(Example(3, 5, seed=ctx.seed))
        # A cell that draws noise in training is compared there, from the same seeds.
        seeds = [(v, np.array(backend.to_numpy(v.value))) for v in layer.non_trainable_variables]
        one, other = (subject.run(layer, inputs, training=flag).output for flag in (True, False))
        pairs = pair_leaves(one, other)
        noisy = any(not np.array_equal(a, b) for a, b in pairs)
        _assign(seeds)
        found = gradients(
            subject, inputs, None, which="outputs", training=noisy, losses=bool(layer.losses)
        )
        _assign(seeds)
        now = leaves(subject.run(layer, inputs, training=noisy).output)
        _assign(seeds)
        # The loss has the gradient of the projection here. It is not linear: where nothing
        # of the gradient depends on the outputs, TensorFlow may update a weight before it is read.
        targets = [(y - cosines(y.shape, n)).astype(np.float32) for n, y in enumerate(now)]
        before = {v.path: np.array(backend.to_numpy(v.value)) for v in layer.trainable_variables}
        constrained = {v.path for v in layer.trainable_variables if v.constraint is not None}
        try:
            model.train_on_batch(inputs, targets if len(targets) > 1 else targets[0])
            for variable in layer.trainable_variables:
                path = variable.path
                gradient, got = found.weights[path], backend.to_numpy(variable.value)
                if gradient is None or path in constrained:
                    continue
                want = before[path] - rate * gradient
                size = max(1.0, float(np.abs(want).max(initial=0)))
                ctx.close(f"{path} after a step", got / size, want / size, subject.tolerance(10))
        finally:
            for variable in layer.trainable_variables:
                variable.assign(before[variable.path])


def _assign(values: Iterable[tuple[Any, Any]]) -> None:
    for variable, value in values:
        variable.assign(value)


def _half_square(y_true: Any, y_pred: Any) -> Any:
    return keras.ops.sum(keras.ops.square(y_pred - y_true)) / 2


@check("GRD-14")
def recording_changes_nothing(ctx: Context) -> None:
    """Call with and without a gradient being recorded, and watch the variables without."""
    for subject in itertools.islice(ctx.cases(), 1):
        layer = subject.layer(**SEQUENCES)
        example = Example(3, 5, seed=ctx.seed, initial_state=True)
        inputs, states = subject.inputs(example), subject.random_states(example)
        found = gradients(subject, inputs, states)
        recorded = subject.unpack(layer, found.result)
        before = [(v, np.array(backend.to_numpy(v.value))) for v in layer.variables]
        with backend.without_gradients():
            for _ in range(2):
                got = subject.run(layer, inputs, states)
                ctx.examples += 1
                tolerance = subject.tolerance(example.time)
                what = "of a call without gradients, beside one with them,"
                ctx.close(f"output {what}", got.output, recorded.output, tolerance)
                ctx.close(f"state {what}", got.states, recorded.states, tolerance)
                # A layer may compile its loop; nobody compiles a step that is called by hand.
                subject.step_cell(map_trees(lambda a: a[:, 0], inputs), states)
        for variable, old in before:
            now = backend.to_numpy(variable.value)
            ctx.require(
                np.array_equal(now, old),
                f"a call without gradients changes {variable.path}",
            )


@check("GRD-10")
def training_after_a_stateful_call(ctx: Context) -> None:
    """Differentiate a stateful layer twice in a row, with a call between."""
    for subject in itertools.islice(ctx.cases(), 1):
        layer = subject.layer(return_sequences=True, stateful=True)
        example = Example(3, 3, seed=ctx.seed)
        inputs = subject.inputs(example)
        subject.run(layer, inputs)
        layer.reset_state()
        states: Tree | None = None
        for turn in ("first", "second"):
            found = gradients(subject, inputs, None, layer=layer)
            # After a reset it starts as the cell does, from initial states that may be learned.
            want = gradients(subject, inputs, None if turn == "first" else states)
            for name, gradient in found.items():
                other = dict(want.items()).get(name)
                if gradient is None or other is None:
                    continue
                close_gradient(ctx, subject, f"{turn} gradient of {name}", gradient, other)
            layer.reset_state()
            states = subject.run(layer, inputs).states


@check("GRD-04")
def gradient_reaches_the_first_input(ctx: Context) -> None:
    """Differentiate the last of five outputs and the final states by the first input."""
    reached: list[bool] = []
    seen: list[np.ndarray] = []

    def body(subject: Subject, example: Example) -> None:
        found = gradients(subject, subject.inputs(example), None, which="last")
        seen[:] = connected(found.inputs.values())
        reached.append(any(np.any(g[:, 0]) for g in seen))

    for subject in ctx.cases():
        ctx.each(subject, Space(initial_states=[False], values=["normal"]), body, 0)
        if not seen:
            raise NotApplicable("its inputs are whole numbers, by which nothing is differentiated")
        first = 0 if any(reached) else _first_that_acts(subject, Example(3, 5, seed=ctx.seed))
        first = 0 if first == 4 else first  # which is no memory at all
        ctx.require(
            any(reached) or first > 0 and any(np.any(g[:, first]) for g in seen),
            f"neither output 5 nor the states after it have a gradient by input {first + 1}",
            Claim("moves", seen, at=(slice(None), first)),
        )


def _first_that_acts(subject: Subject, example: Example) -> int:
    """Give the first step whose input the last output or the final states depend on.

    A delay line, or a filter with as many taps, forgets by design what is longer ago.
    """
    layer, inputs = subject.layer(**SEQUENCES), subject.inputs(example)

    def ends(inputs: Tree) -> list[np.ndarray]:
        got = subject.run(layer, inputs)
        return [*(leaf[:, -1] for leaf in leaves(got.output)), *leaves(got.states)]

    def moved(array: np.ndarray, step: int) -> np.ndarray:
        array = array.copy()
        array[:, step] += array.dtype.type(1)
        return array

    base = ends(inputs)
    for t in range(example.time - 1):
        other = ends(subject.valid_inputs(map_trees(lambda a, t=t: moved(a, t), inputs)))
        if any(not np.array_equal(a, b) for a, b in zip(base, other, strict=True)):
            return t
    return example.time - 1


@check("GRD-05")
def gradients_are_finite(ctx: Context) -> None:
    """Differentiate at one step, at zeros, and at large inputs."""
    for number, subject in enumerate(ctx.cases()):
        # One step is an edge of the loop, which one case shows.
        for time, scale in ((1, 1.0), (5, 0.0), (5, 1e3))[0 if number == 0 else 1 :]:
            example = Example(3, time, seed=ctx.seed)
            scaled = map_trees(lambda a, k=scale: (a * k).astype(a.dtype), subject.inputs(example))
            inputs = subject.valid_inputs(scaled)
            said = f"{time} step(s) and inputs of magnitude {scale:g}"
            _require_finite(ctx, subject, inputs, said)
            if number == 0 and scale == 0.0:  # biases start at zero, and states then stay there
                set_cell_weights(subject.cell, subject.initial_weights)
                _require_finite(ctx, subject, inputs, f"{said}, with weights as they start")
                subject.forget_weights()


def _require_finite(ctx: Context, subject: Subject, inputs: Tree, said: str) -> None:
    """Require that every gradient of a call is finite."""
    ctx.examples += 1
    for name, gradient in gradients(subject, inputs, None).items():
        ok = gradient is None or bool(np.isfinite(gradient).all())
        what = f"a gradient of {name} is not finite for {said}"
        ctx.require(ok, what, Claim("finite", connected([gradient])))
