"""Checks at the edges of what can be computed: wide, long, far from zero, narrow dtypes, counts."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any
from unittest import mock

import keras
import numpy as np

from cellkit.registry import cell_weights, set_cell_weights, variables_by_path
from cellkit_conformance.checks import check
from cellkit_conformance.checks.context import Context
from cellkit_conformance.checks.dtypes import supported
from cellkit_conformance.checks.learning import require_alive
from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.outcome import NotApplicable, describe_error, one_line
from cellkit_conformance.subject import backend
from cellkit_conformance.subject.rounding import allowance, effect_of_rounding, widened
from cellkit_conformance.subject.steps import call_cell, like_states
from cellkit_conformance.subject.subject import Subject
from cellkit_conformance.subject.tolerance import EPSILON
from cellkit_conformance.trees import Tree, leaves, map_trees, pair_leaves, paths

SEQUENCES = {"return_sequences": True}

FEATURES = 11
UNITS = (19, 16, 24, 12)
"""Sizes beyond eight, which some code takes for the most; a cell in blocks may take the later."""

LONG = 150
"""Steps beyond 64 and 128, at which some code begins another block."""


@check("NUM-11")
def wide_cells(ctx: Context) -> None:
    """Run the cell with more units and features than any case has, and look for what is dead."""
    subject = _wide(ctx)
    subject.set_weights(ctx.seed % 1000)
    for states in (True, False):
        example = Example(3, 5, seed=ctx.seed, initial_state=states, options=SEQUENCES)
        ctx.examples += 1
        ctx.agrees(subject, example)
    require_alive(ctx, subject)


def _wide(ctx: Context) -> Subject:
    """Make the first case wider than eight, in units and in features."""
    case = next(iter(ctx.target.cases))
    shapes: list[tuple[Any, ...]] = []
    _each_shape(ctx.target.inputs, shapes)
    named = {d for shape in shapes for d in shape if isinstance(d, str)} - set(ctx.target.dims)
    if ctx.target.spec is None and any(type(d) is int for shape in shapes for d in shape):
        raise NotApplicable("nothing says how wide its inputs may be")
    wide = dataclasses.replace(
        ctx.target, dims={**ctx.target.dims, **dict.fromkeys(named, FEATURES)}
    )
    units: list[dict[str, Any]] = [{}]
    if type(ctx.target.arguments(case).get("units")) is int:
        units = [{"units": number} for number in UNITS]
    elif not named:
        raise NotApplicable("the cell has neither a width nor features to widen")
    refused = ""
    for extra in units:
        subject = Subject(wide, case, ctx.layer, extra)
        try:
            subject.build(subject.fresh_cell())
            if ctx.target.spec is None:  # its width may hang on its inputs' in a way nobody told
                example = Example(2, 1, seed=ctx.seed)
                x = map_trees(lambda a: a[:, 0], subject.inputs(example))
                subject.step_cell(x, subject.own_initial_states(2))
        except ValueError as error:
            refused = str(error)
            continue
        except Exception as error:
            if ctx.target.spec is not None:
                raise
            refused = str(error)
            continue
        return subject
    raise NotApplicable(f"the cell refuses other sizes: {refused}")


def _each_shape(node: Any, found: list[tuple[Any, ...]]) -> None:
    if isinstance(node, tuple) and all(isinstance(d, (int, str)) for d in node):
        found.append(node)
    else:
        for child in node.values() if isinstance(node, dict) else node:
            _each_shape(child, found)


@check("SEQ-17")
def long_sequences(ctx: Context) -> None:
    """Compare a run of 150 steps with the oracle; with small weights, so that no chaos grows."""
    for subject in itertools.islice(ctx.cases(), 1):
        subject.set_weights(ctx.seed % 1000, scale=0.25)
        example = Example(2, LONG, seed=ctx.seed, initial_state=True, options=SEQUENCES)
        inputs, states = subject.inputs(example), subject.random_states(example)
        got = subject.run(subject.layer(**SEQUENCES), inputs, states, graph=True)
        ctx.examples += 1
        ctx.compare(subject, example, got, subject.expect(inputs, states))


ROUNDS = 4
"""Sets of weights that lie close together."""


@check("NUM-12")
def values_far_from_zero(ctx: Context) -> None:
    """Compare a step where weights, inputs or states lie close together and far from zero.

    A mean is taken away there from numbers that are nearly equal. What that costs in digits is
    measured on the reference, whose data are rounded at random; a cell may lose some more.
    """
    for subject in ctx.cases():
        twin = None if subject.has_reference else _in_float64(ctx, subject)
        example = Example(3, 1, seed=ctx.seed, initial_state=True)
        inputs, states = subject.inputs(example), subject.random_states(example)
        x = map_trees(lambda a: a[:, 0], inputs)
        for number in range(ROUNDS + 2):
            subject.set_weights(ctx.seed % 1000)
            if number == 0:
                what, by = "inputs", 1000.0
            elif number <= ROUNDS:
                what, by = "weights", 30.0
                _gather(subject, np.random.default_rng([ctx.seed, number, 23]))
            else:
                what, by = "biases", 0.0
                _lift(subject)
            near = _valid_step(subject, map_trees(lambda a, b=by: _offset(a, b, 1.0), x))
            ctx.examples += 1
            _compare_rounded(ctx, subject, twin, what, near, states)
            subject.forget_weights()


def _in_float64(ctx: Context, subject: Subject) -> Subject:
    """Make the same cell in double precision, which takes the part of a reference."""
    if keras.backend.backend() == "jax":
        raise NotApplicable("there is no reference, and JAX has no float64 to stand in for it")
    if not isinstance(subject.cell, keras.layers.Layer) or not subject.cell.weights:
        raise NotApplicable("there is no reference, and no weight to round")
    twin = ctx.subject(subject.case, dtype="float64")
    dtypes = {str(v.dtype) for v in twin.cell.weights if keras.backend.is_float_dtype(v.dtype)}
    if dtypes != {"float64"}:
        raise NotApplicable("there is no reference, and the cell has weights that stay narrow")
    return twin


def _offset(array: np.ndarray, by: float, scale: float) -> np.ndarray:
    if array.dtype.kind != "f":
        return array
    return (scale * array + array.dtype.type(by)).astype(array.dtype)


def _valid_step(subject: Subject, x: Tree) -> Tree:
    """Bring one step into the range of the inputs."""
    whole = subject.valid_inputs(map_trees(lambda a: a[:, None], x))
    return map_trees(lambda a: a[:, 0], whole)


def _gather(subject: Subject, rng: np.random.Generator) -> None:
    """Move every matrix that trains towards one number, so that its columns are nearly equal.

    The numbers have signs of their own: a gate that is shut hides what it lets through when open.
    """
    trainable = {id(v) for v in subject.cell.trainable_variables}
    starts = {id(v): subject.initial_weights[k] for k, v in variables_by_path(subject.cell).items()}
    for variable in subject.cell.weights:
        value = backend.to_numpy(variable.value)
        if id(variable) not in trainable or variable.constraint or value.dtype.kind != "f":
            continue
        if value.ndim > 1:
            middle = 0.3 * rng.choice([-1, 1])
            variable.assign((middle + 0.002 * value).astype(value.dtype))
        elif not np.any(starts.get(id(variable), 1.0)):  # a bias
            variable.assign((0.01 * value).astype(value.dtype))
    subject.__dict__.pop("symbols", None)


def _lift(subject: Subject) -> None:
    """Add one large number to every bias that trains: what is normalised afterwards loses it."""
    trainable = {id(v) for v in getattr(subject.cell, "trainable_variables", ())}
    starts = {id(v): subject.initial_weights[k] for k, v in variables_by_path(subject.cell).items()}
    for variable in getattr(subject.cell, "weights", ()):
        value = backend.to_numpy(variable.value)
        free = id(variable) in trainable and not variable.constraint and value.dtype.kind == "f"
        if free and value.ndim == 1 and not np.any(starts.get(id(variable), 1.0)):
            variable.assign(value + value.dtype.type(3000.0))
    subject.__dict__.pop("symbols", None)


@contextlib.contextmanager
def _products_in_float64() -> Iterator[None]:
    """Let `keras.ops.matmul` keep float64 on PyTorch, where Keras itself rounds it to float32."""
    if keras.backend.backend() != "torch":
        yield
        return
    import torch

    rounding = keras.ops.matmul

    def exact(x1: Any, x2: Any) -> Any:
        one, other = keras.ops.convert_to_tensor(x1), keras.ops.convert_to_tensor(x2)
        wide = torch.float64 in (one.dtype, other.dtype)
        floats = one.is_floating_point() and other.is_floating_point()
        return torch.matmul(one.double(), other.double()) if wide and floats else rounding(x1, x2)

    with mock.patch.object(keras.ops, "matmul", exact):
        yield


def _compare_rounded(
    ctx: Context, subject: Subject, twin: Subject | None, what: str, x: Tree, states: Tree
) -> None:
    """Compare a step with the reference, or where there is none with the cell in float64."""
    output, new = subject.step_cell(x, states)
    exact = map_trees(np.float64, x)
    wide = widened(states)
    symbols = cell_weights(subject.cell) if twin is not None else subject.symbols

    def reference(w: Any, x: Tree, s: Tree) -> Tree:
        if twin is not None:
            set_cell_weights(twin.cell, w)
            tensors = map_trees(backend.to_tensor, x), map_trees(backend.to_tensor, s)
            try:
                with _products_in_float64():
                    out, after = call_cell(twin.cell, *tensors)
            except Exception as error:
                said = one_line(describe_error(error))
                raise NotApplicable(f"there is no reference, and in float64 {said}") from error
            found = backend.to_numpy([out, like_states(s, after)])
        else:
            found = list(subject.target.spec.reference(w, x, s, subject.config))
        return map_trees(lambda _, want: np.asarray(want), [output, new], found)

    # Some operations of Keras round float64 to float32, so a cell in float64 is not quite exact:
    # its data are moved further, and the effect is scaled.
    further = 1.0 if twin is None else 1000.0
    tolerance = subject.tolerance(1)
    wants, moves = effect_of_rounding(
        reference,
        symbols,
        exact,
        wide,
        further * EPSILON[tolerance.dtype],
        np.random.default_rng([ctx.seed, 21]),
    )
    found = [leaves(tree) for tree in ([output, new], wants, moves)]
    names = [name for name, _ in paths({"output": output, "state": new})]
    for name, got, want, move in zip(names, *found, strict=True):
        if got.dtype.kind not in "fc" or not np.isfinite(want).all() or not np.isfinite(move).all():
            continue
        if what == "biases" and not np.isfinite(got).all():
            continue  # an exponential, say
        compared = tolerance.compare(got, want, allowance(move / further, tolerance))
        ctx.note(compared)
        ctx.require(
            compared.ok,
            f"{name} is off by {compared.error:.3g} where {what} are close together and far from "
            f"zero: {compared.ratio:,.0f} times what rounding the data explains",
        )


@check("STA-16")
def counters_go_on(ctx: Context) -> None:
    """Start states that count near the end of what a narrow type holds, and look what steps add.

    What counts is found out: a leaf of which three steps make the same whole number more, whatever
    it was and whatever the inputs are.
    """
    found = False
    for subject in itertools.islice(ctx.cases(), 1):
        example = Example(3, 3, seed=ctx.seed, initial_state=True)
        data = subject.inputs(example), subject.random_states(example)
        found = _agrees_on_large(ctx, subject, *data) if subject.has_reference else False
        for path, counted in _counters(ctx, subject, *data):
            found = True
            kind = str(counted.dtype)
            _require_counting(ctx, subject, data, path, _last_of(counted.dtype), kind)
            policies = NARROW if counted.dtype.kind == "f" and _has_policy(ctx, subject) else ()
            for policy in policies:
                mixed = ctx.subject(subject.case, dtype=policy)
                mixed.set_weights(ctx.seed % 1000)
                leaf = dict(paths(mixed.template))[path]
                digits = 2**11 if policy == "mixed_float16" else 2**8
                if str(leaf.dtype) == "float16" or "bfloat16" in policy:
                    _require_counting(ctx, mixed, data, path, digits, policy)
    if not found:
        raise NotApplicable("no state of the cell counts its steps")


def _agrees_on_large(ctx: Context, subject: Subject, inputs: Tree, states: Tree) -> bool:
    """Compare whole numbers that float32 does not have with the reference, which may not add one.

    Returns:
        True if there are such states.
    """

    def is_large(leaf: np.ndarray) -> bool:
        return leaf.dtype.kind in "iu" and leaf.dtype.itemsize >= 4

    begun = map_trees(lambda a: np.full_like(a, LARGE + 1) if is_large(a) else a, states)
    if not any(map(is_large, leaves(states))) or not _is_valid(subject, begun):
        return False
    ctx.examples += 1
    try:
        got, want = _end(subject, inputs, begun), subject.expect(inputs, begun).states
    except Exception:  # noqa: BLE001 (of an index, and no count)
        return False
    for (path, _), (a, b) in zip(paths(got), pair_leaves(got, want), strict=True):
        if is_large(a):
            ctx.same(f"state {path}, begun at {LARGE + 1},", a, np.asarray(b).astype(a.dtype))
    return True


def _last_of(dtype: np.dtype) -> int:
    """Give a number from which a count may fail: of integers by float32, or by their own width."""
    if dtype.kind == "f" or dtype.itemsize >= 4:
        return LARGE
    return int(np.iinfo(dtype).max) - 1


def _has_policy(ctx: Context, subject: Subject) -> bool:
    layers = [v for v in keras.tree.flatten(subject.kwargs) if isinstance(v, keras.layers.Layer)]
    is_layer = isinstance(ctx.target.cls, type) and issubclass(ctx.target.cls, keras.layers.Layer)
    return is_layer and not layers


def _counters(
    ctx: Context, subject: Subject, inputs: Tree, states: Tree
) -> list[tuple[str, np.ndarray]]:
    """Find the leaves that count; a first look leaves out most cells at the cost of one call."""
    numbers = [(path, a) for path, a in paths(states) if a.dtype.kind in "iuf" and a.size]
    if not numbers:
        return []
    end = dict(paths(_end(subject, inputs, states)))
    likely = [(path, a) for path, a in numbers if _added(a, end[path]) not in (None, 0)]
    found = []
    for path, a in likely:
        steps = set()
        for start in (0, 1, 40):
            begun = _with_leaf(states, path, start)
            if not _is_valid(subject, begun):
                break  # by its spec it is no count
            ctx.examples += 1
            try:
                end = dict(paths(_end(subject, inputs, begun)))
            except Exception:  # noqa: BLE001 (each backend has types of its own)
                break  # an index, and no count
            steps.add(_added(dict(paths(begun))[path], end[path]))
        else:
            if len(steps) == 1 and None not in steps:
                found.append((path, a))
    return found


def _added(before: np.ndarray, after: np.ndarray) -> int | None:
    """Give the whole number that all entries of a leaf have more, or None where there is none."""
    more = (after.astype(np.float64) - before.astype(np.float64)).ravel()
    count = round(float(more[0])) if np.isfinite(more).all() else 0
    return count if np.abs(more - count).max() < 1e-4 else None


def _end(subject: Subject, inputs: Tree, states: Tree) -> Tree:
    return subject.run(subject.layer(**SEQUENCES), inputs, states).states


def _with_leaf(states: Tree, path: str, start: int) -> Tree:
    """Fill one leaf with a number."""
    names = iter([name for name, _ in paths(states)])
    return map_trees(lambda a: np.full_like(a, start) if next(names) == path else a, states)


def _is_valid(subject: Subject, states: Tree) -> bool:
    valid = subject.valid_states(map_trees(np.copy, states))
    return not any(np.any(a != b) for a, b in pair_leaves(states, valid))


def _require_counting(
    ctx: Context, subject: Subject, data: tuple[Tree, Tree], path: str, start: int, kind: str
) -> None:
    """Require that a count goes on from a number as it does from zero."""
    inputs, states = data
    few, large = _with_leaf(states, path, 0), _with_leaf(states, path, start)
    if not _is_valid(subject, large):
        return  # by its spec it never gets there
    ctx.examples += 1
    begun, wanted = dict(paths(large))[path], dict(paths(few))[path]
    want = _added(wanted, dict(paths(_end(subject, inputs, few)))[path])
    end = dict(paths(_end(subject, inputs, large)))[path]
    got = (end.astype(np.float64) - begun.astype(np.float64)).ravel()[0]
    if got != want and 0 < end.ravel()[0] < start - 1:
        return  # bounded by design
    if np.dtype(end.dtype).kind in "iu" and end.ravel()[0] == np.iinfo(end.dtype).max:
        return  # it stays at the most that it can hold
    ctx.require(
        got == want,
        f"state {path} ({kind}) counts {want} in three steps, and {got:.0f} from {start} on",
    )


LARGE = 2**24
"""The last whole number up to which float32 has all."""


NARROW = ("mixed_float16", "mixed_bfloat16")
AT_REST = "zeros, and weights as they start"
SIZED = (("zeros", 0.0), (AT_REST, 0.0), ("values of 1e-4", 1e-4), ("values of 30", 30.0))


@check("DTY-08")
def half_precision_at_the_edges(ctx: Context) -> None:
    """Run zeros, tiny and large inputs in half precision, in training too."""
    if not (isinstance(ctx.target.cls, type) and issubclass(ctx.target.cls, keras.layers.Layer)):
        raise NotApplicable("a plain object has no dtype policy")
    for subject in itertools.islice(ctx.cases(), 1):
        for policy in NARROW:
            mixed = ctx.subject(subject.case, dtype=policy)
            layer = mixed.layer(**SEQUENCES)
            for what, size in SIZED:
                mixed.set_weights(ctx.seed % 1000)
                if what == AT_REST:
                    set_cell_weights(mixed.cell, mixed.initial_weights)
                    mixed.forget_weights()
                example = Example(3, 5, seed=ctx.seed)
                inputs = mixed.valid_inputs(
                    map_trees(lambda a, s=size: _offset(a, 0.0, s), mixed.inputs(example))
                )
                for training in (False, True):
                    with contextlib.nullcontext() if training else supported(mixed, policy):
                        got = mixed.run(layer, inputs, training=training)
                    ctx.examples += 1
                    _require_sound(ctx, mixed, got, inputs, f"for {what} under {policy}", training)


def _require_sound(
    ctx: Context, mixed: Subject, got: Any, inputs: Tree, said: str, training: bool
) -> None:
    """Require finite numbers where the reference, or the cell in full precision, has such."""
    if mixed.has_reference:
        want: Any = mixed.expect(inputs)
        wanted = [want.sequence, want.states]
    else:
        plain = ctx.subject(mixed.case)
        set_cell_weights(plain.cell, cell_weights(mixed.cell))
        plain.forget_weights()
        want = plain.run(plain.layer(**SEQUENCES), inputs)
        wanted = [want.output, want.states]
    largest = 6e4 if "float16" in said and "bfloat16" not in said else 1e38
    if any(np.abs(b).max(initial=0) > largest for b in leaves(wanted)):
        return  # a state outgrows the dtype, and takes with it what is made of it
    size = max(1.0, max((float(np.abs(a).max(initial=0)) for a in leaves(inputs)), default=1.0))
    for (path, a), b in zip(
        paths({"output": got.output, "state": got.states}),
        (o for _, o in pair_leaves([got.output, got.states], wanted)),
        strict=True,
    ):
        if a.dtype.kind not in "fc" or not np.all(np.isfinite(b)):
            continue
        ctx.require(
            bool(np.isfinite(a).all()),
            f"{path} is not finite {said}{' in training' if training else ''}",
        )
        ctx.require(
            training or not _vanishes(a, b), f"{path} is zero {said}, and not in full precision"
        )
        if not training and a.dtype.kind == "f":
            tolerance = mixed.tolerance(5)
            tolerance = dataclasses.replace(tolerance, multiplier=size * tolerance.multiplier)
            ctx.close(f"{path} {said}", a.astype(np.float32), np.asarray(b, np.float64), tolerance)


def _vanishes(got: np.ndarray, want: np.ndarray) -> bool:
    """Say whether most of the vectors that are there in full precision are zero throughout.

    What is divided by an infinite norm is finite, and within a limit that grows with the inputs.
    """
    if got.ndim < 2 or got.shape[-1] < 2 or not got.size:
        return False
    there = np.abs(want).max(axis=-1) > 0.25
    return bool(there.any()) and bool((~got[there].any(axis=-1)).mean() > 0.5)
