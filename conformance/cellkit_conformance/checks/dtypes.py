"""DTY: what a cell computes in, and what it keeps in full precision."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from cellkit.cells.structure import declared_state
from cellkit_conformance.checks import check
from cellkit_conformance.checks.context import Context
from cellkit_conformance.checks.statistics import restore, statistics
from cellkit_conformance.checks.structure import map_like
from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.outcome import NotApplicable, describe_error, one_line
from cellkit_conformance.subject import backend
from cellkit_conformance.subject.steps import call_cell, like_states, trace_cell
from cellkit_conformance.subject.subject import Subject, process_policy
from cellkit_conformance.trees import leaves, map_trees, paths

SEQUENCES = {"return_sequences": True}
MIXED = ("mixed_float16", "mixed_bfloat16")


@check("DTY-01")
def mixed_precision(ctx: Context) -> None:
    """Run the mixed policies and compare with the reference in the narrow dtype's tolerance."""
    for subject in itertools.islice(ctx.cases(), 1):
        for policy in MIXED:
            mixed = _with_policy(ctx, subject, policy)
            layer = mixed.layer(**SEQUENCES)
            example = Example(3, 5, seed=ctx.seed, options=SEQUENCES)
            inputs = mixed.inputs(example)
            output, _ = mixed.split(layer, layer(map_trees(backend.to_tensor, inputs)))
            for path, leaf in paths(output):
                _require_dtype(ctx, f"{f'output {path}'.strip()} under {policy}", leaf, policy[6:])
            for variable in layer.trainable_variables:
                name = f"the weight {variable.path} under {policy}"
                _require_dtype(ctx, name, variable, "float32")
            got = mixed.run(layer, inputs)
            ctx.examples += 1
            want = mixed.expect(inputs)
            tolerance = mixed.tolerance(example.time)
            ctx.close(f"output under {policy}", _wide(got.output), want.sequence, tolerance)
            ctx.close(f"state under {policy}", _wide(got.states), want.states, tolerance)


@check("DTY-02")
def double_precision(ctx: Context) -> None:
    """Run in float64 and look at every dtype."""
    if keras.backend.backend() == "jax" and not _jax_has_float64():
        raise NotApplicable("JAX runs without x64 here, and has no float64 then")
    for subject in itertools.islice(ctx.cases(), 1):
        double = _with_policy(ctx, subject, "float64")
        layer = double.layer(**SEQUENCES)
        inputs = map_trees(lambda a: a.astype(np.float64), double.inputs(Example(3, 3)))
        x = map_trees(backend.to_tensor, inputs)
        with supported(double, "float64"):
            output, states = double.split(layer, layer(x))
        chosen = {f"state/{path}" for path in _chosen_dtypes(double)}
        for path, leaf in paths({"output": output, "state": states}):
            dtype = keras.backend.standardize_dtype(leaf.dtype)
            if keras.backend.is_float_dtype(dtype) and path not in chosen:
                _require_dtype(ctx, path, leaf, "float64")
        for variable in layer.weights:
            if keras.backend.is_float_dtype(variable.dtype):
                _require_dtype(ctx, f"the weight {variable.path}", variable, "float64")


@contextlib.contextmanager
def supported(subject: Subject, policy: str) -> Iterator[None]:
    """Say that nothing applies where a cell without a reference does not run under a policy.

    Nobody has promised it: constants that are float32, or a product that Keras itself rounds to
    it, meet other numbers, and the backend refuses to mix them. That is heard, and not wrong.

    Args:
        subject: Of the policy.
        policy: Its name.
    """
    try:
        yield
    except Exception as error:
        if subject.has_reference:
            raise
        said = one_line(describe_error(error))
        raise NotApplicable(f"it does not run under {policy}: {said}") from error


@check("DTY-03")
def no_silent_promotion(ctx: Context) -> None:
    """Run one step under every policy and compare each dtype with the declared one."""
    exempt = "fp32_state" in ctx.target.traits
    for subject in ctx.cases():
        for policy in ("float32", *MIXED):
            mixed = _with_policy(ctx, subject, policy)
            x, states = _step_data(mixed)
            with supported(mixed, policy):
                output, new = trace_cell(mixed.cell, x, states)
            compute = policy.removeprefix("mixed_")
            for path, leaf in paths(output):
                _require_dtype(ctx, f"{f'output {path}'.strip()} under {policy}", leaf, compute)
            new, chosen = map_like(states, like_states(states, new)), _chosen_dtypes(mixed)
            for (path, old), leaf in zip(paths(states), leaves(new), strict=True):
                was = keras.backend.standardize_dtype(old.dtype)
                what = f"state {path} under {policy}"
                _require_dtype(ctx, f"{what}, after a step,", leaf, was)
                if keras.backend.is_float_dtype(was) and not exempt and path not in chosen:
                    _require_dtype(ctx, f"{what}, without the claim of fp32_state,", old, compute)


@check("DTY-04")
def accumulators_stay_wide(ctx: Context) -> None:
    """Look for the float32 states that the spec claims."""
    for subject in ctx.cases():
        for policy in MIXED:
            mixed = _with_policy(ctx, subject, policy)
            x, states = _step_data(mixed)
            _, new = trace_cell(mixed.cell, x, states)
            for when, tree in (("before", states), ("after", like_states(states, new))):
                wide = [
                    leaf
                    for leaf in leaves(tree)
                    if keras.backend.standardize_dtype(leaf.dtype) in {"float32", "complex64"}
                ]
                ctx.require(bool(wide), f"no state is float32 {when} a step under {policy}")


@check("DTY-06")
def policies_of_layer_and_process(ctx: Context) -> None:
    """Set a policy for the cell, and the same one for the process."""
    if ctx.target.spec is None:
        raise NotApplicable("a cell without a spec is only asked to follow the process")
    for subject in itertools.islice(ctx.cases(), 1):
        policy = "mixed_bfloat16"
        own = _with_policy(ctx, subject, policy)
        x, states = _step_data(own)
        want = call_cell(own.cell, x, states)
        with process_policy(policy):
            cell = subject.fresh_cell()
            subject.build(cell)
            cell.set_weights(own.cell.get_weights())
            layer = ctx.layer(cell)
        got = call_cell(cell, x, states)
        for what, mine, theirs in (("output", got[0], want[0]), ("state", got[1], want[1])):
            for (path, a), b in zip(paths(mine), leaves(map_like(mine, theirs)), strict=True):
                dtype = keras.backend.standardize_dtype(b.dtype)
                _require_dtype(ctx, f"{what} {path} under a global {policy}", a, dtype)
            ctx.same(f"{what} under a global policy", _array(mine), _array(theirs))
        ctx.require(
            layer.compute_dtype == own.layer(**SEQUENCES).compute_dtype,
            f"a layer made under a global {policy} computes in {layer.compute_dtype}",
        )


@check("DTY-07")
def quantisation_is_refused(ctx: Context) -> None:
    """Ask for int8, which the spec does not claim."""
    for subject in itertools.islice(ctx.cases(), 1):
        cell = subject.fresh_cell()
        subject.build(cell)
        if not hasattr(cell, "quantize"):
            raise NotApplicable("a plain object cannot be quantised")
        try:
            cell.quantize("int8")
        except (NotImplementedError, ValueError, TypeError):
            continue
        ctx.fail("quantize('int8') was accepted, and the spec does not claim 'quantized'")


@check("DTY-09")
def training_keeps_dtypes(ctx: Context) -> None:
    """Run one step in training under every policy, and compare each dtype with inference's."""
    for subject in ctx.cases():
        for policy in ("float32", *MIXED):
            mixed = _with_policy(ctx, subject, policy)
            x, states = _step_data(mixed)
            kept = statistics(mixed.cell)
            with supported(mixed, policy):
                want = trace_cell(mixed.cell, x, states)
            got = trace_cell(mixed.cell, x, states, training=True)
            restore(kept)
            for what, mine, theirs in (("output", got[0], want[0]), ("state", got[1], want[1])):
                for (path, a), b in zip(paths(mine), leaves(map_like(mine, theirs)), strict=True):
                    dtype = keras.backend.standardize_dtype(b.dtype)
                    said = f"{what} {path} of a step in training under {policy}"
                    _require_dtype(ctx, said, a, dtype)


def _with_policy(ctx: Context, subject: Subject, policy: str) -> Subject:
    if not (isinstance(ctx.target.cls, type) and issubclass(ctx.target.cls, keras.layers.Layer)):
        raise NotApplicable("a plain object has no dtype policy")
    if any(isinstance(v, keras.layers.Layer) for v in keras.tree.flatten(subject.kwargs)):
        raise NotApplicable("a layer that it is given has a dtype policy of its own")
    mixed = ctx.subject(subject.case, dtype=policy)
    mixed.set_weights(ctx.seed % 1000)
    return mixed


def _chosen_dtypes(subject: Subject) -> set[str]:
    """Give the states whose dtype a cell without a spec, which claims nothing, declares itself."""
    if subject.target.spec is not None:
        return set()
    declared = declared_state(subject.cell.state_size)
    return {path for path, leaf in paths(declared) if getattr(leaf, "dtype", None) is not None}


def _step_data(subject: Subject) -> tuple[Any, Any]:
    """Make the inputs of a step, and the states that the layer itself would begin with."""
    example = Example(3, 1, seed=3)
    x = map_trees(lambda a: backend.to_tensor(a[:, 0]), subject.inputs(example))
    dtype = subject.compute_dtype
    x = map_trees(lambda a: keras.ops.cast(a, dtype), x)
    return x, subject.layer(**SEQUENCES).get_initial_state(batch_size=3)


def _require_dtype(ctx: Context, what: str, leaf: Any, want: str) -> None:
    dtype = keras.backend.standardize_dtype(leaf.dtype)
    ctx.require(dtype == want, f"{what} is {dtype}, expected {want}")


def _wide(tree: Any) -> Any:
    """Bring half precision to what NumPy and the tolerance can compare."""
    return map_trees(
        lambda a: a.astype(np.float32) if a.dtype == np.float16 else a, backend.to_numpy(tree)
    )


def _array(tree: Any) -> Any:
    return backend.to_numpy(tree)


def _jax_has_float64() -> bool:
    import jax

    return bool(jax.config.jax_enable_x64)
