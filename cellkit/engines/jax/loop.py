"""The loop on JAX: `lax.scan`, compiled once per shape also for eager calls.

A traced step must not touch Keras variables: every read and write goes through a `Recorder`, a
stateless scope that knows which variables the step used. What a step writes travels in the carry
of the scan and is assigned once, after the loop.
"""

from __future__ import annotations

import contextvars
import sys
import threading
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import keras

from cellkit import _keras_compat as compat
from cellkit.cells.recorder import Recorder
from cellkit.cells.scope import SequenceScope
from cellkit.engines.jax import stateless
from cellkit.engines.shared import unrolled as python
from cellkit.engines.shared.around import Around, in_order
from cellkit.engines.shared.loop import Leaves, Loop, as_states, chunk_length
from cellkit.typing import Tensor

if TYPE_CHECKING:
    from cellkit.engines.request import Options


def unstack(x: Tensor) -> list[Any]:
    """Split `(batch, time, ...)` into its time steps."""
    return [x[:, t] for t in range(x.shape[1])]


def stack(steps: list[Any]) -> Any:
    """Join time steps to `(batch, time, ...)`."""
    return jnp.stack(steps, axis=1)


def select(keep: Tensor, new: Tensor, old: Tensor) -> Any:
    """Take `new` where `keep`, else `old`; `keep` has the leading axes of `new`."""
    keep = keep.reshape(keep.shape + (1,) * (new.ndim - keep.ndim))
    return jnp.where(keep, new, jnp.asarray(old, dtype=new.dtype))


zeros_like = jnp.zeros_like


def run(loop: Loop, inputs: Leaves, states: Leaves, mask: Tensor) -> tuple[Leaves, Any, Leaves]:
    """Run the loop; see `cellkit.engines.backend`."""
    with Recorder() as recorder:
        result = _loop(loop, recorder, inputs, states, mask)
    for variable in recorder.written.values():
        variable.assign(recorder.get_current_value(variable))
    if recorder.losses:
        loop.add_loss(sum(recorder.losses))
    return result


def compiled(body: Any, arguments: Any, options: Options, key: Any, scope: SequenceScope) -> Any:
    """Run `body`; see `cellkit.engines.backend`."""
    cache = options.cache.current("jax", key[0], lambda: _Compiled(options.variables()))
    if cache.traced(arguments):
        return body(*arguments)

    def fresh(*arguments: Any) -> Any:
        # Masks drawn in an earlier trace are of no use in this one.
        scope.forget()
        return body(*arguments)

    result, updates, losses = cache(fresh, key, arguments)
    for variable, value in updates:
        variable.assign(value)
    if losses:
        options.add_loss(sum(losses))
    return result


class _Compiled:
    """The compiled functions of one layer, for calls outside of any JAX transformation.

    Variables that the loop reads are arguments of the compiled function, never constants in it, so
    that a call sees what was assigned since.
    """

    def __init__(self, variables: list[keras.Variable]) -> None:
        self.variables = variables
        self.functions: dict[Any, _Function] = {}
        self.lock = threading.Lock()

    def traced(self, values: Any) -> bool:
        """Tell whether the call runs on the tracers of a JAX transformation."""
        stored = stateless.values_of(self.variables)
        return any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((values, stored)))

    def __call__(self, body: Any, key: Any, arguments: Any) -> Any:
        """Run a compiled function, compiling it on first use."""
        while True:
            function = self.functions.get(key)
            if function is None:
                function = self.functions[key] = _Function(self.variables)
            values = stateless.values_of(function.variables)
            result, updates, losses = function(body, values, arguments)
            unknown = list(function.unknown.values())
            if not unknown:
                assigned = [(function.variables[int(i)], value) for i, value in updates.items()]
                return result, assigned, losses
            # The body used variables that were not among its arguments: give it those as well,
            # beside those that another thread may have found.
            with self.lock:
                known = {id(v) for v in self.variables}
                self.variables = [*self.variables, *(v for v in unknown if id(v) not in known)]
                if self.functions.get(key) is function:
                    self.functions = {}


# The body of the running call, for the trace that the call may set off. It cannot be an argument
# of the compiled function, and must not outlive the call.
_running: contextvars.ContextVar[Any] = contextvars.ContextVar("cellkit_running_body")


class _Function:
    """One compiled function and the variables that are its arguments."""

    def __init__(self, variables: list[keras.Variable]) -> None:
        self.variables = variables
        self.unknown: dict[int, keras.Variable] = {}
        self._jitted = jax.jit(self._traced)

    def __call__(self, body: Any, values: Leaves, arguments: Any) -> Any:
        token = _running.set(body)
        try:
            return self._jitted(values, arguments)
        finally:
            _running.reset(token)

    def _traced(self, values: Leaves, arguments: Any) -> Any:
        body = _running.get()
        outcome = stateless.run(lambda: body(*arguments), self.variables, values)
        self.unknown.update(outcome.unknown)
        return outcome[:3]


def _loop(
    loop: Loop, outer: Recorder, inputs: Leaves, states: Leaves, mask: Tensor
) -> tuple[Leaves, Any, Leaves]:
    """Run the loop inside the recorder `outer`."""
    first = [jax.ShapeDtypeStruct((x.shape[0], *x.shape[2:]), x.dtype) for x in inputs]
    written, has_losses, specs, as_state = _explore(loop, first, states)
    loop.scope.redraw()
    chunked = loop.remat or loop.truncate is not None
    if loop.unroll is True and inputs[0].shape[1] and not chunked:
        if mask is not None and not loop.clean:
            inputs = [select(mask, x, 0) for x in inputs]
        return python.run(sys.modules[__name__], loop, inputs, states, mask)

    # An output that is a state is not carried beside it: it is that state, or zero as long as no
    # step counted. (But a state is cut off from the block before, and an output that is held, not.)
    # Of an output that is held the states say nothing after a reset either.
    parted = (loop.truncate is not None or loop.on is not None) and mask is not None
    same = as_state if inputs[0].shape[1] and not parted else []
    around = Around(select, loop.zero_masked, tuple(same), loop.starts)
    zeros = [] if same else [jnp.zeros(s.shape, s.dtype) for s in specs]
    values = [compat.raw_value(v, outer) for v in written]

    def body(carry: Any, steps: Any) -> Any:
        states, last, values, loss = carry
        x, keep, on, linked = steps
        states, last = around.before(on, linked, states, last)
        if keep is not None and not loop.clean:
            # Padding counts as zeros. Here that is a part of fetching the step, and before the loop
            # a pass over all inputs.
            x = [select(keep, v, 0) for v in x]
        with Recorder(zip(written, values, strict=True)) as recorder:
            output, news = loop.step(x, states)
        values = [recorder.get_current_value(v) for v in written]
        for extra in recorder.losses:
            loss = loss + jnp.asarray(extra, loss.dtype)
        states, last, out = around.after(keep, output, news, states, last)
        return (states, last, values, loss), out if loop.collect else None

    def flip(x: Tensor) -> Any:
        return jnp.flip(x, axis=0)

    given = [_swap(x) for x in (*inputs, mask, loop.on, loop.linked)]
    *xs, keep, on, linked = in_order(loop.reverse, flip, given)
    steps = (xs, keep, on, linked)
    carry = (states, zeros, values, jnp.zeros((), "float32"))
    time = inputs[0].shape[1]
    levels: list[Any] = []
    if loop.truncate is not None:
        levels.append((loop.truncate, _detached))
    # Without a number of steps (in an exported function) there is no number of chunks.
    if loop.remat and isinstance(time, int) and time:
        levels.append((chunk_length(loop.remat, time), _recomputed))
    carry, emitted = _scan(body, carry, steps, max(1, int(loop.unroll)), levels)
    states, last, values, loss = carry
    if same:
        last, emitted = around.at_the_end(keep, _ever, _so_far, states, emitted or [])
    for variable, value in zip(written, values, strict=True):
        variable.assign(value)  # into `outer`
    if has_losses:
        outer.add_loss(loss)
    outputs = [_swap(y) for y in emitted] if loop.collect else None
    return last, outputs, states


def _swap(x: Tensor) -> Any:
    return None if x is None else jnp.swapaxes(x, 0, 1)


def _ever(keep: Tensor) -> Any:
    return keep.any(axis=0)


def _so_far(keep: Tensor) -> Any:
    return jnp.cumsum(keep, axis=0) > 0


def _scan(body: Any, carry: Any, steps: Any, unroll: int, levels: list[Any]) -> tuple[Any, Any]:
    """Scan over `steps`, in chunks of the size of the first level, by the levels that follow.

    Args:
        body: The step.
        carry: The values that it hands on.
        steps: Leaves of shape `(time, ...)`.
        unroll: Steps per turn of the innermost loop.
        levels: Pairs of the length of a chunk, and of what makes a function of the chunk's carry,
            and of its number and steps, from one of its carry and steps.
    """
    if not levels:
        return jax.lax.scan(body, carry, steps, unroll=unroll)
    (size, around), *rest = levels
    length = jax.tree.leaves(steps)[0].shape[0]
    if not isinstance(length, int):
        # An exported function does not know the number of chunks: each step is one of its own, and
        # those that begin none have the number of the first.
        numbers = jnp.arange(length)
        numbers = jnp.where(numbers % size == 0, numbers, 0)
        return jax.lax.scan(around(body), carry, (numbers, steps), unroll=unroll)
    run = around(lambda carry, part: _scan(body, carry, part, unroll, rest))
    whole = length // size
    parts = jax.tree.map(lambda x: x[: whole * size].reshape(whole, size, *x.shape[1:]), steps)
    carry, emitted = jax.lax.scan(run, carry, (jnp.arange(whole), parts))
    emitted = jax.tree.map(lambda y: y.reshape(whole * size, *y.shape[2:]), emitted)
    if whole * size < length:
        rest_of_steps = jax.tree.map(lambda x: x[whole * size :], steps)
        carry, tail = run(carry, (jnp.asarray(whole), rest_of_steps))
        emitted = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), emitted, tail)
    return carry, emitted


def _recomputed(chunk: Any) -> Any:
    """Compute a chunk once more in the backward pass."""
    again = jax.checkpoint(chunk)
    return lambda carry, numbered: again(carry, numbered[1])


def _detached(chunk: Any) -> Any:
    """Let no gradient pass from the states before a chunk, unless it is the first."""

    def run(carry: Any, numbered: Any) -> Any:
        index, steps = numbered
        states, *others = carry
        cut = [jnp.where(index == 0, s, jax.lax.stop_gradient(s)) for s in states]
        return chunk((cut, *others), steps)

    return run


def _explore(
    loop: Loop, first: Leaves, states: Leaves
) -> tuple[list[Any], bool, Leaves, list[int]]:
    """Trace one step abstractly. Nothing runs, so nothing happens one time too often.

    Returns:
        What it writes, whether it adds losses, what it returns, and for each output the state that
        it is, if all are (else nothing).
    """
    found: dict[str, Any] = {}

    def step(x: Leaves, s: Leaves) -> Leaves:
        with Recorder() as recorder:
            output, news = loop.step(x, s)
        found["as_state"] = as_states(output, news)
        found["written"] = list(recorder.written.values())
        found["losses"] = bool(recorder.losses)
        return output

    specs = jax.eval_shape(step, first, states)
    return found["written"], found["losses"], specs, found["as_state"]
