"""PUR: nothing outside a call changes it, and a call changes nothing outside."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import keras
import numpy as np

from cellkit_conformance.checks import check
from cellkit_conformance.checks.context import Context
from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.subject import backend
from cellkit_conformance.trees import leaves, map_trees

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


def _require_unchanged(ctx: Context, what: str, result: Any, kept: list[np.ndarray]) -> None:
    for leaf, old in zip(leaves(backend.to_numpy(list(result))), kept, strict=True):
        ctx.same(what, leaf, old)


def _overwrite(leaf: Any) -> None:
    """Change a tensor in place where the backend has such a thing."""
    if keras.backend.backend() == "torch":
        leaf.detach().zero_()


@check("PUR-03")
def layers_do_not_meet(ctx: Context) -> None:
    """Make, call and fail other layers of the cell, forget the session, and call the first."""
    for subject in itertools.islice(ctx.cases(), 1):
        inputs = subject.inputs(Example(3, 5, seed=ctx.seed))
        layer = subject.layer(**SEQUENCES)
        want = subject.run(layer, inputs)
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


@check("PUR-06")
def importing_is_harmless(ctx: Context) -> None:
    """Read what importing the cell's module did to this process."""
    effects = ctx.target.effects
    ctx.require(not effects, f"importing the cell {'; '.join(effects)}")
