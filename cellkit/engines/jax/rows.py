"""A trial of what is computed for all steps at once: each step must compute the same alone.

A compiled function knows the number of its rows, and may compute with it or with other rows: that
is right in a step, which has the rows of the batch, and wrong for the rows of all steps. So it is
run once for all rows and once for those of a step, with numbers and weights that are made up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from cellkit.cells.recorder import Recorder
from cellkit.engines.engine import Need
from cellkit.engines.shared import rows
from cellkit.engines.shared import step as steps

if TYPE_CHECKING:
    from cellkit.engines.request import Request
    from cellkit.engines.shared.loop import Leaves

# The rows of a batch, and the steps, to try where they are unknown or too many.
_BATCH, _TIME, _MOST = 5, 3, 1 << 14


def _not_apart(request: Request) -> str | None:
    leaves = keras.tree.flatten(request.inputs)
    batch, time = leaves[0].shape[:2]
    known = isinstance(batch, int) and isinstance(time, int) and 0 < batch * time <= _MOST
    batch, time = (batch, time) if known else (_BATCH, _TIME)
    key = (batch, time, *((x.dtype, tuple(x.shape[2:])) for x in leaves))
    reason: str | None = steps.remember(
        request, "rows", key, lambda: rows.quietly(request, lambda: _examine(request, batch, time))
    )
    return reason


APART = Need(rows.NAME, _not_apart, costly=True)


def _examine(request: Request, batch: int, time: int) -> str | None:
    """Return what is wrong with rows that are computed together, or None."""
    variables = request.cell.variables
    try:
        reason = rows.traced(request)
        if reason is not None:
            return reason

        @jax.jit
        def computed(inputs: Leaves, states: Leaves, weights: Leaves) -> Leaves:
            with Recorder(zip(variables, weights, strict=True)):
                return rows.results(request, inputs, states)

        # Also where a function is traced: values are compared here and now.
        with jax.ensure_compile_time_eval():
            rng = np.random.default_rng(5)
            inputs = [
                _made_up(x.shape[2:], x.dtype, batch * time, rng)
                for x in keras.tree.flatten(request.inputs)
            ]
            states = [_made_up(s.shape[1:], s.dtype, batch * time, rng) for s in request.states]
            weights = [_weight(v.shape, v.dtype, rng) for v in variables]
            whole = computed(inputs, states, weights)
            for start in {0, batch * (time - 1)}:
                places = slice(start, start + batch)
                part = computed([x[places] for x in inputs], [s[places] for s in states], weights)
                if not rows.alike(whole, part, places, batch * time):
                    return "depends on the other rows, or on their number"
    except Exception as error:  # if it is the cell's own, the loop will raise it
        return f"raises {type(error).__name__} for rows that are made up"
    return None


def _made_up(shape: Any, dtype: Any, count: int, rng: Any) -> Any:
    # Unknown sizes, such as that of an image in an exported function, are made up as well.
    shape = [count, *(n if isinstance(n, int) else 8 for n in shape)]
    if jnp.issubdtype(dtype, jnp.inexact):
        return jnp.asarray(rng.normal(size=shape), dtype)
    return jnp.asarray(rng.integers(0, 2, size=shape), dtype)


def _weight(shape: Any, dtype: Any, rng: Any) -> Any:
    if jnp.issubdtype(jnp.dtype(dtype), jnp.inexact):
        return jnp.asarray(rng.normal(size=shape) * 0.5, dtype)
    return jnp.ones(shape, dtype)
