"""PUR: nothing outside a call changes it, and a call changes nothing outside."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import inspect
import itertools
import random
import sys
import threading
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from cellkit.registry import cell_weights, set_cell_weights
from cellkit_conformance.checks import check
from cellkit_conformance.checks.context import Context
from cellkit_conformance.checks.differentiate import gradients
from cellkit_conformance.checks.options import options
from cellkit_conformance.checks.parameters import FRAMEWORKS, own_parameters
from cellkit_conformance.checks.statistics import restore, statistics
from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.subject import backend
from cellkit_conformance.subject.steps import call_cell
from cellkit_conformance.subject.subject import Subject
from cellkit_conformance.trees import leaves, map_trees, pair_leaves

SEQUENCES = {"return_sequences": True}


@check("PUR-02")
def results_and_inputs_are_not_kept(ctx: Context) -> None:
    """Overwrite the arrays that were passed in, and those that came back, and call again."""
    for subject in ctx.cases():
        inputs = subject.inputs(Example(3, 5, seed=ctx.seed))
        other = subject.inputs(Example(3, 5, seed=ctx.seed + 1))
        layer = subject.layer(**SEQUENCES)
        before = [np.array(backend.to_numpy(v.value)) for v in layer.variables]
        want = subject.run(layer, other)
        first = layer(inputs)
        kept = leaves(backend.to_numpy(list(first)))
        for array, new in zip(leaves(inputs), leaves(other), strict=True):
            array[...] = new  # the same objects, with other numbers in them
        _require_unchanged(
            ctx, "an earlier result, after its inputs were overwritten,", first, kept
        )
        got = layer(inputs)
        again = subject.unpack(layer, got)
        ctx.same("output for inputs that were overwritten", again.output, want.output)
        ctx.same("state for inputs that were overwritten", again.states, want.states)
        for leaf in leaves(list(got)):
            _overwrite(leaf)
        final = subject.run(layer, other)
        ctx.same("output after an earlier result was overwritten", final.output, want.output)
        for variable, old in zip(layer.variables, before, strict=True):
            now = backend.to_numpy(variable.value)
            ctx.require(np.array_equal(old, now), f"inference changed {variable.path}")
        _require_no_past(ctx, subject)


def _require_no_past(ctx: Context, subject: Subject) -> None:
    """Give two cells the same variables: what one of them has seen before must not show.

    It has run before, with other weights and inputs, and in training, while its twin is new.
    """
    used, new = subject.built_cell(), subject.built_cell()
    if isinstance(new, keras.layers.Layer):
        set_cell_weights(new, cell_weights(subject.cell))
    x, other = (
        map_trees(lambda a: a[:, 0], subject.inputs(Example(3, 1, seed=ctx.seed + n)))
        for n in (0, 1)
    )
    large = map_trees(lambda a: (3 * a).astype(a.dtype)[:, None], other)
    large = map_trees(lambda a: a[:, 0], subject.valid_inputs(large))
    states = subject.random_states(Example(3, 1, seed=ctx.seed, initial_state=True))
    for training in (False, True):
        subject.step_cell(large, states, used, training)
    mine, theirs = (list(getattr(cell, "variables", ())) for cell in (used, new))
    if [v.shape for v in mine] != [v.shape for v in theirs]:
        return  # the call has made some, which STR-06 tells
    for variable, value in zip(mine, theirs, strict=True):
        variable.assign(value)
    want, got = (list(subject.step_cell(x, states, cell)) for cell in (new, used))
    ctx.examples += 1
    what = "of a cell that has run before with other weights, beside a new one with the same,"
    ctx.same(f"output {what}", got[0], want[0])
    ctx.same(f"state {what}", got[1], want[1])


def _require_unchanged(ctx: Context, what: str, result: Any, kept: list[np.ndarray]) -> None:
    for leaf, old in zip(leaves(backend.to_numpy(list(result))), kept, strict=True):
        ctx.same(what, leaf, old)


def _overwrite(leaf: Any) -> None:
    """Change a tensor in place where the backend has such a thing."""
    if keras.backend.backend() == "torch":
        leaf.detach().zero_()


@check("PUR-03")
def layers_do_not_meet(ctx: Context) -> None:
    """Make other cells and layers, call and fail them, forget the session, and call the first."""
    for subject in itertools.islice(ctx.cases(), 1):
        inputs = subject.inputs(Example(3, 5, seed=ctx.seed))
        layer = subject.layer(**SEQUENCES)
        subject.build(subject.fresh_cell())
        want = subject.run(layer, inputs)
        sizes = _sizes(subject.cell)
        # Of a step too, which no compiled function keeps as it was when it was traced.
        first = map_trees(lambda a: a[:, 0], inputs), subject.own_initial_states(3)
        alone = list(subject.step_cell(*first))
        for said in _others(ctx, subject):
            ctx.require(
                _sizes(subject.cell) == sizes,
                f"after a cell was made with {said}, the sizes of this one are "
                f"{_sizes(subject.cell)}, not {sizes}",
            )
            step = list(subject.step_cell(*first))
            ctx.same(f"a step after a cell was made with {said}", step, alone)
            got = subject.run(layer, inputs)
            ctx.same(f"output after a cell was made with {said}", got.output, want.output)
            ctx.same(f"state after a cell was made with {said}", got.states, want.states)
        other = ctx.layer(subject.fresh_cell(), return_sequences=True)
        other(map_trees(backend.to_tensor, subject.inputs(Example(2, 5, seed=ctx.seed))))
        try:
            other(map_trees(lambda a: backend.to_tensor(a.reshape(-1)[:3]), inputs))
        except Exception:  # noqa: BLE001 (ERR-01 judges it; here its traces are looked for)
            got = subject.run(layer, inputs)
            ctx.same("output after another layer failed", got.output, want.output)
        if keras.backend.backend() != "torch":
            # On Torch this imports the compiler, which takes seconds and does not belong to a cell.
            keras.utils.clear_session(free_memory=False)
        got = subject.run(layer, inputs)
        ctx.same("output beside another layer", got.output, want.output)
        ctx.same("state beside another layer", got.states, want.states)


def _sizes(cell: Any) -> str:
    """Write down what a cell says of its states and its output."""
    return f"{cell.state_size!r}, {getattr(cell, 'output_size', None)!r}"


def _others(ctx: Context, subject: Subject) -> Iterator[str]:
    """Make cells with other arguments, which may not meet this one in something that both share.

    Yields:
        What was given, once such a cell is there and built.
    """
    own = own_parameters(ctx.target.cls)
    values = {name: value for name, value in options(ctx, subject) if name in own}  # one of each
    for name, value in values.items():
        other = Subject(ctx.target, subject.case, ctx.layer, {name: value})
        try:
            other.build(other.fresh_cell())
        except Exception:  # noqa: BLE001, S112 (a value that it does not take, or of another width)
            continue
        ctx.examples += 1
        yield ", ".join(f"{name}={value!r}" for name, value in other.kwargs.items())


@check("PUR-04")
def threads_do_not_meet(ctx: Context) -> None:
    """Run one layer from two threads at a time."""
    for subject in itertools.islice(ctx.cases(), 1):
        layer = subject.layer(**SEQUENCES)
        data = [subject.inputs(Example(3, 5, seed=ctx.seed + i)) for i in range(2)]
        want = [subject.run(layer, inputs) for inputs in data]
        found: dict[int, list[Any]] = {0: [], 1: []}
        errors: list[BaseException] = []
        start = threading.Barrier(2)

        def work(number: int) -> None:
            start.wait(timeout=30)  # noqa: B023
            for _ in range(4):
                try:
                    x = map_trees(backend.to_tensor, data[number])  # noqa: B023
                    output, states = subject.split(layer, layer(x))  # noqa: B023
                    found[number].append(backend.to_numpy([output, states]))  # noqa: B023
                except Exception as error:  # noqa: BLE001 (raised in the main thread)
                    errors.append(error)  # noqa: B023

        threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        if errors:
            ctx.fail(f"two threads at a time: {type(errors[0]).__name__}: {errors[0]}")
        for number, results in found.items():
            for output, states in results:
                ctx.examples += 1
                ctx.same("output in a thread", output, want[number].output)
                ctx.same("state in a thread", states, want[number].states)
        _interrupt(ctx, subject)


MOST_LINES = 60
"""Lines of a step at which another thread is let in."""

WAITING = 2.0
"""Seconds after which a step in another thread is taken to wait for this one, as by a lock."""


def _interrupt(ctx: Context, subject: Subject) -> None:
    """Run a step, and at each of its lines let another thread run one: no luck is needed then.

    What a step keeps on the cell between two of its lines is overwritten in the meantime.
    """
    files = {
        inspect.getsourcefile(base)
        for base in type(subject.cell).__mro__
        if base.__module__.split(".")[0] not in FRAMEWORKS
    }
    data = []
    for number in range(2):
        example = Example(3, 1, seed=ctx.seed + number, initial_state=True)
        x = map_trees(lambda a: backend.to_tensor(a[:, 0]), subject.inputs(example))
        data.append((x, map_trees(backend.to_tensor, subject.random_states(example))))
    want = [backend.to_numpy(list(call_cell(subject.cell, *one))) for one in data]
    others: list[Any] = []
    lines, waiting = 0, None

    def other() -> None:
        try:
            others.append(backend.to_numpy(list(call_cell(subject.cell, *data[1]))))
        except Exception as error:  # noqa: BLE001 (raised in the main thread)
            others.append(error)

    def at_line(frame: Any, event: str, _: Any) -> Any:
        nonlocal lines, waiting
        if event == "line" and waiting is None and lines < MOST_LINES:
            lines += 1
            thread = threading.Thread(target=other, daemon=True)
            thread.start()
            thread.join(timeout=WAITING)
            waiting = thread if thread.is_alive() else None
        return at_line

    def into(frame: Any, event: str, _: Any) -> Any:
        return at_line if frame.f_code.co_filename in files else None

    before = sys.gettrace()
    sys.settrace(into)
    try:
        result = call_cell(subject.cell, *data[0])
    finally:
        sys.settrace(before)
    ctx.examples += lines
    if waiting is not None:
        waiting.join(timeout=30)
        ctx.require(not waiting.is_alive(), "a step that began within another one never ends")
    what = "of a step, with one in another thread at each of its lines,"
    for a, b in pair_leaves(backend.to_numpy(list(result)), want[0]):
        ctx.same(f"the result {what}", a, b)
    for found in others:
        if isinstance(found, Exception):
            ctx.fail(f"a step beside another one: {type(found).__name__}: {found}")
        for a, b in pair_leaves(found, want[1]):
            ctx.same("the result of a step within another one,", a, b)


@check("PUR-07")
def nothing_piles_up(ctx: Context) -> None:
    """Call the cell again and again, and look at what it holds: no more than before, no graph."""
    for subject in itertools.islice(ctx.cases(), 1):
        layer = subject.layer(**SEQUENCES)
        example = Example(3, 5, seed=ctx.seed, initial_state=True)
        inputs, states = subject.inputs(example), subject.random_states(example)
        kept = statistics(layer)

        def use() -> None:
            for training in (False, True):
                subject.run(layer, inputs, states, training=training)  # noqa: B023
                x = map_trees(lambda a: a[:, 0], inputs)  # noqa: B023
                subject.step_cell(x, states, training=training)  # noqa: B023
            gradients(subject, inputs, states)  # noqa: B023

        for _ in range(2):
            use()
        before = _held(subject.cell)
        for _ in range(3):
            use()
        after = _held(subject.cell)
        ctx.examples += 3
        grown = {name: n - before.sizes.get(name, 0) for name, n in after.sizes.items()}
        piles = [f"{name} by {n}" for name, n in grown.items() if n > 0]
        ctx.require(not piles, f"three more calls make grow: {', '.join(piles)}")
        if backend.can_compile():
            backend.call_compiled(layer, inputs, states)
            after = _held(subject.cell)
        restore(kept)
        ctx.require(
            not after.of_graphs,
            f"after a call it still holds a tensor of its graph: {', '.join(after.of_graphs)}",
        )


@dataclasses.dataclass
class Held:
    """Objects that a cell holds.

    Attributes:
        sizes: Entries of lists, dicts, sets and the like, by where they stand.
        of_graphs: Places of tensors that belong to a graph, a trace or a recorded gradient.
    """

    sizes: dict[str, int] = dataclasses.field(default_factory=dict)
    of_graphs: list[str] = dataclasses.field(default_factory=list)


def _held(cell: Any) -> Held:
    """Walk through attributes of the cell and its classes, and globals of their modules."""
    found, seen = Held(), set[int]()
    owners: list[tuple[str, Any]] = [(f"cell.{k}", v) for k, v in vars(cell).items()]
    for base in type(cell).__mro__:
        if base.__module__.split(".")[0] not in FRAMEWORKS:
            owners += [(f"{base.__name__}.{k}", v) for k, v in vars(base).items()]
            module = vars(sys.modules.get(base.__module__, object)) or {}
            owners += [
                (f"{base.__module__}.{k}", v)
                for k, v in module.items()
                if isinstance(v, PILES) and not k.startswith("__")
            ]
            for k, v in vars(base).items():
                function = getattr(v, "__func__", v)
                if inspect.isfunction(function):
                    owners += [(f"{base.__name__}.{k}, {n}", x) for n, x in _kept_by(function)]
    for name, value in owners:
        if name.removeprefix("cell.") in OF_KERAS:
            continue
        _walk(name, value, 0, found, seen)
    return found


def _kept_by(function: Any) -> list[tuple[str, Any]]:
    """List what a function keeps from call to call: defaults, attributes, what it closes over."""
    found = [("its default", value) for value in function.__defaults__ or ()]
    found += [(f"default of {k}", v) for k, v in (function.__kwdefaults__ or {}).items()]
    found += [(f"attribute {k}", v) for k, v in vars(function).items()]
    names = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    for name, cell in names:
        with contextlib.suppress(ValueError):  # not filled yet
            found.append((f"variable {name}", cell.cell_contents))
    return [(name, value) for name, value in found if isinstance(value, PILES)]


PILES = (list, dict, set, collections.deque)
OF_KERAS = {"_inbound_nodes", "_outbound_nodes", "_tracker", "_losses", "_metrics"}
"""Attributes in which Keras itself writes down what a layer was part of."""


def _walk(name: str, value: Any, depth: int, found: Held, seen: set[int]) -> None:
    if id(value) in seen or depth > 4 or isinstance(value, keras.Variable):
        return
    if isinstance(value, (*PILES, tuple)):
        seen.add(id(value))
        if not isinstance(value, tuple):
            found.sizes[name] = len(value)
        entries = value.items() if isinstance(value, dict) else enumerate(list(value)[:50])
        for key, entry in list(entries)[:50]:
            _walk(f"{name}[{key!r}]", entry, depth + 1, found, seen)
    elif _is_of_graph(value):
        found.of_graphs.append(name)
    elif isinstance(value, keras.layers.Layer) and depth < 3 or _is_own_object(value):
        seen.add(id(value))
        for key, entry in vars(value).items():
            if key not in OF_KERAS:
                _walk(f"{name}.{key}", entry, depth + 1, found, seen)


def _is_own_object(value: Any) -> bool:
    """Say whether a value is an object of the author's own code."""
    kind = type(value)
    own = kind.__module__.split(".")[0] not in {*FRAMEWORKS, "numpy", "collections", "functools"}
    return own and hasattr(value, "__dict__") and not isinstance(value, (type, keras.layers.Layer))


def _is_of_graph(value: Any) -> bool:
    """Say whether a value is a tensor of a graph, a trace or a recorded gradient."""
    name = keras.backend.backend()
    if name == "torch":
        import torch

        plain = isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter)
        return plain and value.grad_fn is not None
    if name == "jax":
        import jax

        return isinstance(value, jax.core.Tracer)
    import tensorflow as tf

    if not isinstance(value, tf.Tensor):
        return False
    return not hasattr(value, "numpy")


@check("PUR-08")
def seeds_stay(ctx: Context) -> None:
    """Make, build and run two cells, and draw after each: equal draws mean that a seed was set."""
    for subject in itertools.islice(ctx.cases(), 1):
        x = map_trees(
            lambda a: backend.to_tensor(a[:, 0]), subject.inputs(Example(3, 1, seed=ctx.seed))
        )
        states = map_trees(backend.to_tensor, subject.own_initial_states(3))

        def steps(subject: Subject = subject, x: Any = x, states: Any = states) -> Any:
            cell = subject.fresh_cell()
            yield "making a cell"
            subject.build(cell)
            yield "`build`"
            call_cell(cell, x, states)
            yield "a step"
            call_cell(cell, x, states, training=True)
            yield "a step in training"

        first, second = ([(what, _draw()) for what in steps()] for _ in range(2))
        for (what, one), (_, other) in zip(first, second, strict=True):
            ctx.examples += 1
            for generator, drawn in one.items():
                ctx.require(
                    drawn != other[generator],
                    f"after {what}, {generator} draws what it drew after the one before: a seed of "
                    "the process is set",
                )


def _draw() -> dict[str, float]:
    """Draw a number from each generator of the process."""
    found = {"Python's `random`": random.random(), "NumPy": float(np.random.rand())}
    name = keras.backend.backend()
    if name == "torch":
        import torch

        found["PyTorch"] = float(torch.rand((), dtype=torch.float64))
    if name == "tensorflow":
        import tensorflow as tf

        found["TensorFlow"] = float(tf.random.uniform((), dtype=tf.float64))
    return found


@check("PUR-06")
def importing_is_harmless(ctx: Context) -> None:
    """Read what importing the cell's module did to this process."""
    effects = ctx.target.effects
    ctx.require(not effects, f"importing the cell {'; '.join(effects)}")
