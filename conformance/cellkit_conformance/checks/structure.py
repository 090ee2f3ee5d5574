"""STR: what a cell declares about itself, and whether it keeps to it."""

from __future__ import annotations

import json
import re
from typing import Any

import keras
import numpy as np

from cellkit.cells.structure import declared_output, declared_state
from cellkit_conformance.checks import check
from cellkit_conformance.checks.context import Context
from cellkit_conformance.checks.parameters import FRAMEWORKS, is_registered
from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.outcome import NotApplicable
from cellkit_conformance.subject import backend
from cellkit_conformance.subject.constants import is_fed
from cellkit_conformance.subject.names import describe_leaves, stable_names
from cellkit_conformance.subject.steps import call_cell, like_states, trace_cell
from cellkit_conformance.subject.subject import Subject
from cellkit_conformance.trees import (
    Tree,
    children,
    difference,
    is_branch,
    leaves,
    map_shapes,
    map_trees,
    rebuild,
)

SEQUENCES = {"return_sequences": True}
PAIRS = [{"return_sequences": a, "return_state": b} for a in (False, True) for b in (True, False)]


@check("STR-01")
def sizes_are_stable(ctx: Context) -> None:
    """Read the sizes before and after build."""
    for subject in ctx.cases():
        cell = subject.fresh_cell()
        before = {name: getattr(cell, name, None) for name in ("state_size", "output_size")}
        ctx.require(before["state_size"] is not None, "the cell has no `state_size` before `build`")
        subject.build(cell)
        for name, value in before.items():
            after = getattr(cell, name, None)
            ctx.require(after == value, f"`{name}` was {value!r} before build, {after!r} after")


@check("STR-02")
def cases_differ(ctx: Context) -> None:
    """Compare the configs of the cases."""
    if ctx.target.spec is None:
        raise NotApplicable("there is no spec")
    ctx.require(len(ctx.target.cases) >= 2, f"the spec has {len(ctx.target.cases)} case(s)")
    configs = {
        json.dumps(_without_name(subject.fresh_cell().get_config()), sort_keys=True, default=str)
        for subject in map(ctx.subject, ctx.target.cases)
    }
    ctx.require(len(configs) >= 2, "all cases have the same config")


@check("STR-03")
def states_keep_their_form(ctx: Context) -> None:
    """Run one step and compare the states before and after."""
    for subject in ctx.cases():
        x, states = _one_step(subject)
        result = trace_cell(subject.cell, x, states)
        ctx.require(
            isinstance(result, (tuple, list)) and len(result) == 2,
            f"a step returned {type(result).__name__}, expected (output, new_states)",
        )
        new = like_states(states, result[1])
        found = difference(states, new)
        ctx.require(found is None, f"new states have another structure than the states: {found}")
        before, after = describe_leaves(states), describe_leaves(new)
        for path, form in before.items():
            ctx.require(
                after[path] == form,
                f"state {path} was {form[0]} {form[1]} and became {after[path][0]} "
                f"{after[path][1]}",
            )


@check("STR-04")
def initial_states_fit(ctx: Context) -> None:
    """Ask for initial states of three batch sizes."""
    for subject in ctx.cases():
        source = subject.cell
        if not hasattr(source, "get_initial_state"):
            source = subject.layer(return_sequences=True)
        declared = declared_state(subject.cell.state_size)
        for batch in (1, 2, 5):
            states = _bare(declared, _as_list(source.get_initial_state(batch_size=batch)))
            found = difference(declared, states)
            ctx.require(found is None, f"initial states are not structured as state_size: {found}")
            states = leaves(map_like(declared, states))
            for spec, leaf in zip(leaves(declared), states, strict=True):
                want, got = (batch, *spec.shape), tuple(leaf.shape)
                ctx.require(fits(want, got), f"an initial state has shape {got}, expected {want}")


@check("STR-05")
def outputs_have_the_announced_shape(ctx: Context) -> None:
    """Compare eager shapes with what is announced, for every pair of return options.

    What is returned is the layer's part, so the cases beyond the first show one pair.
    """
    for number, subject in enumerate(ctx.cases()):
        example = Example(3, 5)
        inputs = subject.inputs(example)
        for options in PAIRS if number == 0 else [{"return_sequences": True, "return_state": True}]:
            layer = subject.layer(**options)
            got = subject.run(layer, inputs)
            announced = layer.compute_output_shape(
                map_shapes(lambda shape: (3, 5, *shape), subject.input_shapes)
            )
            real = [leaf.shape for leaf in leaves(got.output) + leaves(got.states or [])]
            expected = _shapes(announced)
            ctx.require(
                sorted(real) == sorted(expected),
                f"with {options} compute_output_shape says {expected}, the call gives {real}",
            )
            _check_output_size(ctx, subject, got.output, options["return_sequences"])
        _check_own_announcement(ctx, subject)


def _check_own_announcement(ctx: Context, subject: Subject) -> None:
    """Compare what the author's own `compute_output_spec` or `compute_output_shape` says."""
    own = [b for b in type(subject.cell).__mro__ if b.__module__.split(".")[0] not in FRAMEWORKS]
    written = {name for b in own for name in vars(b) if name.startswith("compute_output_")}
    if not written or is_fed(ctx.target.cls):
        return
    x, states = _one_step(subject)
    output, new = call_cell(subject.cell, x, states)
    if "compute_output_spec" in written:
        symbolic = map_trees(lambda t: keras.KerasTensor(t.shape, t.dtype), [x, states])
        announced = subject.cell.compute_output_spec(*symbolic)
        _require_announced(ctx, "compute_output_spec", list(announced), [output, new])
    elif "compute_output_shape" in written:
        shapes = [map_trees(lambda t: tuple(t.shape), tree) for tree in (x, states)]
        for given in (shapes, shapes[:1]):
            try:
                said = subject.cell.compute_output_shape(*given)
            except TypeError:  # it takes the shape of the inputs alone
                continue
            # Of the output alone, or of the output and then the states.
            found, real = _shapes(said), [tuple(leaf.shape) for leaf in leaves(output)]
            ctx.require(
                found[: len(real)] == real,
                f"the cell's compute_output_shape says {found}, a step gives {real}",
            )
            return


def _require_announced(ctx: Context, what: str, announced: Tree, real: Tree) -> None:
    """Compare shapes and dtypes, leaf by leaf."""
    said, found = (
        [(tuple(t.shape), keras.backend.standardize_dtype(t.dtype)) for t in leaves(tree)]
        for tree in (announced, real)
    )
    alike = len(said) == len(found) and all(
        fits(a, b) and c == d for (a, c), (b, d) in zip(said, found, strict=False)
    )
    ctx.require(alike, f"the cell's {what} says {said}, a step gives {found}")


def _check_output_size(ctx: Context, subject: Subject, output: Tree, sequences: bool) -> None:
    """An output size may be left out; one that is declared must be true."""
    size = getattr(subject.cell, "output_size", None)
    if size is None:
        return
    declared = declared_output(size)
    found = difference(declared, output)
    ctx.require(found is None, f"the output does not have the structure of output_size: {found}")
    for spec, leaf in zip(leaves(declared), leaves(map_like(declared, output)), strict=True):
        got = leaf.shape[2:] if sequences else leaf.shape[1:]
        ctx.require(fits(spec.shape, got), f"the output has shape {got} per row, not {spec.shape}")


@check("STR-06")
def build_makes_all_weights_once(ctx: Context) -> None:
    """Count the weights after build, after a second build, and after a call."""
    for subject in ctx.cases():
        cell = subject.fresh_cell()
        if not isinstance(cell, keras.layers.Layer):
            return
        subject.build(cell)
        first = [id(v) for v in cell.variables]
        _build_again(subject, cell)
        second = [id(v) for v in cell.variables]
        ctx.require(second == first, f"a second build made {len(second) - len(first)} more weights")
        x, states = _one_step(subject)
        call_cell(cell, x, states)
        third = [id(v) for v in cell.variables]
        ctx.require(third == first, f"the first call made {len(third) - len(first)} more weights")


def _build_again(subject: Subject, cell: Any) -> None:
    """Build a second time; refusing to is one way of making no new weights."""
    try:
        cell.build(subject.step_shapes())
    except (ValueError, RuntimeError, AttributeError):
        return


@check("STR-07")
def instances_share_nothing(ctx: Context) -> None:
    """Compare the variables of two instances."""
    for subject in ctx.cases():
        cell, other = subject.fresh_cell(), subject.fresh_cell()
        subject.build(cell)
        subject.build(other)
        shared = {id(v) for v in getattr(cell, "variables", ())} & {
            id(v) for v in getattr(other, "variables", ())
        }
        ctx.require(not shared, f"two instances share {len(shared)} variable(s)")


@check("STR-08")
def weights_have_stable_names(ctx: Context) -> None:
    """Make three instances and compare the names of their weights."""
    for subject in ctx.cases():
        names = []
        for _ in range(3):
            cell = subject.fresh_cell()
            subject.build(cell)
            names.append([name for _, name in stable_names(cell)])
        first = names[0]
        doubled = sorted({name for name in first if first.count(name) > 1})
        ctx.require(not doubled, f"several weights are called {doubled}")
        for later in names[1:]:
            ctx.require(later == first, f"weights were called {first} and in a later cell {later}")


@check("STR-12")
def weights_start_apart(ctx: Context) -> None:
    """Look for random matrices that begin as copies of each other, or in equal blocks."""
    for subject in ctx.cases():
        cell = subject.fresh_cell()
        if not isinstance(cell, keras.layers.Layer):
            raise NotApplicable("a plain object has no weights")
        subject.build(cell)
        found = [
            (name, np.asarray(backend.to_numpy(variable.value)))
            for (_, name), variable in zip(stable_names(cell), cell.weights, strict=True)
            if any(variable is v for v in cell.trainable_variables)
        ]
        drawn = [(name, w) for name, w in found if w.ndim > 1 and _looks_random(w)]
        for number, (name, weight) in enumerate(drawn):
            for other, same in drawn[:number]:
                ctx.require(
                    weight.shape != same.shape or not np.array_equal(weight, same),
                    f"{name} starts as a copy of {other}: one seed made both",
                )
            columns = weight.reshape(-1, weight.shape[-1])
            if len(columns) > 1:
                distinct = len(np.unique(columns, axis=1).T)
                ctx.require(
                    2 * distinct > columns.shape[1],
                    f"{name} starts with {columns.shape[1] - distinct} columns that are copies of "
                    "others: its parts learn the same",
                )


def _looks_random(weight: np.ndarray) -> bool:
    """Say whether a weight begins with many values, unlike zeros, a constant or an identity."""
    return len(np.unique(weight)) > max(2, weight.size // 8) and weight.size > 3


@check("STR-13")
def weights_have_portable_names(ctx: Context) -> None:
    """Read the names of the weights: TensorFlow makes scopes of them when it trains."""
    for subject in ctx.cases():
        cell = subject.fresh_cell()
        subject.build(cell)
        for _, name in stable_names(cell):
            strange = sorted(set(re.sub(r"[A-Za-z0-9_.>/-]", "", name)))
            ctx.require(
                not strange,
                f"a weight is called {name!r}; with {', '.join(map(repr, strange))} in a name, "
                "`fit` raises on TensorFlow",
            )


@check("STR-14")
def class_is_registered(ctx: Context) -> None:
    """Ask Keras for the class by the name that it writes into files."""
    cls = ctx.target.cls
    if not issubclass(cls, keras.layers.Layer) or is_fed(cls):
        raise NotApplicable("a plain object is not written into files")
    ctx.require(
        is_registered(cls),
        "Keras does not find the class when it loads a model: it is not registered "
        "(keras.saving.register_keras_serializable)",
    )


@check("STR-10")
def cell_describes_itself(ctx: Context) -> None:
    """Print the cell before and after build, summarise a model of it, and count its weights."""
    for subject in ctx.cases():
        cell = subject.fresh_cell()
        ctx.require(isinstance(repr(cell), str), "`repr` of an unbuilt cell is not a string")
        subject.build(cell)
        ctx.require(isinstance(repr(cell), str), "`repr` of a built cell is not a string")
        if not isinstance(cell, keras.layers.Layer):
            raise NotApplicable("a plain object has no summary")
        stored = sum(int(np.prod(v.shape)) for v in cell.weights)
        ctx.require(
            cell.count_params() == stored,
            f"count_params() is {cell.count_params()}; the weights have {stored} entries",
        )
        layer, symbolic = subject.layer(**SEQUENCES), subject.symbolic_inputs()
        output, _ = subject.split(layer, layer(symbolic))
        lines: list[str] = []
        keras.Model(symbolic, output).summary(print_fn=lines.append)
        ctx.require(bool(lines), "`summary()` of a model with the cell prints nothing")


@check("STR-09")
def step_takes_lists_tuples_and_training(ctx: Context) -> None:
    """Run the same step with states as list and tuple, and with `training` as a keyword."""
    for subject in ctx.cases():
        x, states = _one_step(subject)
        want = backend.to_numpy(call_cell(subject.cell, x, states))
        if isinstance(states, list):
            got = backend.to_numpy(call_cell(subject.cell, x, tuple(states)))
            ctx.same("result with states as a tuple", got, want)
        if isinstance(subject.cell, keras.layers.Layer):
            got = backend.to_numpy(subject.cell(x, states, training=False))
            ctx.same("result with training=False", got, want)


def fits(announced: tuple[int | None, ...], real: tuple[int, ...]) -> bool:
    """Say whether a shape is as announced, where None stands for any size."""
    return len(announced) == len(real) and all(
        want in (None, got) for want, got in zip(announced, real, strict=True)
    )


def map_like(like: Tree, tree: Tree) -> Tree:
    """Bring the keys of dicts into the order of another tree."""
    return map_trees(lambda _, leaf: leaf, like, tree)


def _one_step(subject: Subject) -> tuple[Tree, Tree]:
    """Draw tensors for one step of the cell."""
    example = Example(3, 1, initial_state=True)
    x = map_trees(lambda a: backend.to_tensor(a[:, 0]), subject.inputs(example))
    return x, map_trees(backend.to_tensor, subject.random_states(example))


def _bare(declared: Any, states: Any) -> Any:
    """Take single states out of lists of one, in which Keras' stacked cells give them."""
    if is_branch(declared) and is_branch(states) and len(declared) == len(states):
        entries = dict(children(states))
        if all(key in entries for key, _ in children(declared)):
            found = [_bare(node, entries[key]) for key, node in children(declared)]
            return rebuild(declared, found)
    alone = not is_branch(declared) and isinstance(states, (list, tuple)) and len(states) == 1
    return states[0] if alone else states


def _as_list(states: Any) -> Any:
    if isinstance(states, tuple) and not hasattr(states, "_fields"):
        return list(states)
    return states if isinstance(states, (list, dict, tuple)) else [states]


def _shapes(announced: Any) -> list[tuple[Any, ...]]:
    """List the shapes in a structure of shapes."""
    if isinstance(announced, dict):
        return [shape for value in announced.values() for shape in _shapes(value)]
    if all(entry is None or isinstance(entry, int) for entry in announced):
        return [tuple(announced)]
    return [shape for value in announced for shape in _shapes(value)]


def _without_name(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "name"}
