"""Chunk by chunk, for cells whose state is a matrix (`cellkit.MatrixCell`).

With ``S' = diag(a) S + e (p^T S) + k v^T``, what a probe finds, ``f = S^T p``, stands for a second
value that e writes. So all steps of a chunk are one system of equations with a triangular matrix,
solved for the f of all steps, and a few products with the state before the chunk (the chunked form
of linear attention, and the WY form of products of Householder matrices: Yang et al. 2024,
arXiv:2406.06484, and 2025, arXiv:2412.06464). What is kept for the backward pass is the state
before each chunk, and what the cell projects: less than a matrix for every step.

Decays are added up as logarithms, each span of steps for itself: no quotient of two decays is
formed, which for fast ones would be 0 / 0. With a decay of its own for each key a span is a vector,
chunks are shorter, and computed again in the backward pass.

A reset within a chunk cuts it into sequences. What steps of two of them exchange is left out of
every product, and the steps behind a reset see the cell's own initial state in the place of the
state before the chunk.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import keras

from cellkit.cells.cell import training_mode
from cellkit.cells.matrix import MatrixCell
from cellkit.cells.operations import cumsum
from cellkit.engines.backend import backend
from cellkit.engines.engine import Engine, Need
from cellkit.engines.shared import at_once
from cellkit.typing import Tensor

if TYPE_CHECKING:
    from cellkit.engines.request import Request
    from cellkit.engines.shared.loop import Leaves

LONG, SHORT = 64, 16
"""Steps of a chunk with one decay for all keys of a head, and with one for each of them."""


def _no_matrix(request: Request) -> str | None:
    if isinstance(request.cell, MatrixCell):
        return None
    return f"{type(request.cell).__name__} is not a `cellkit.MatrixCell`"


def run(request: Request) -> tuple[Leaves, Any, Leaves]:
    """Run chunk by chunk; see `cellkit.engines`."""
    return at_once.run(request, _advance)


def _advance(
    request: Request, x: Tensor, states: Leaves, mask: Tensor, last: Leaves | None, resets: Tensor
) -> tuple[Leaves, Any, Leaves]:
    """Advance many steps; see `at_once.Advance`."""
    cell = request.cell
    own, seen = cell.split_states(request.runner.layout.pack(states))
    sizes = at_once.sizes_of(keras.tree.flatten(x)[0])
    start = None
    if resets is not None:
        fresh, unseen = cell.split_states(request.runner.layout.pack(request.starts or []))
        start = None if request.runner.starts_at_zero() else cell.to_matrix(fresh)
    if seen:
        x, seen = at_once.windows(x, seen[0], mask, resets, resets is not None and unseen[0])
    rows = keras.tree.map_structure(at_once.rows_of, x)
    with training_mode(request.training):
        if seen:
            rows = cell.look(rows)
            x = keras.tree.map_structure(lambda v: at_once.steps_of(v, sizes), rows)
        matrix = cell.to_matrix(own)
        factors = {
            name: _in_time(value, name, sizes)
            for name, value in cell.checked_factors(rows, matrix.dtype).items()
        }
        if mask is not None:
            # A masked step writes nothing, takes nothing out, and nothing decays in it.
            factors.update(
                {n: backend.select(mask, factors[n], 0) for n in ("k", "e", "g") if n in factors}
            )
        found, matrix = _in_chunks(request, factors, matrix, sizes, resets, start)

        def read(values: Leaves, x: Tensor) -> Any:
            return cell.read(values[0], x)

        last, outputs = at_once.read_out(request, read, [found], x, mask, last, resets, held=False)
        own = cell.from_matrix(matrix, own)
    return last, outputs, [*keras.tree.flatten(own), *seen]


def _in_time(x: Tensor, name: str, sizes: tuple[Any, Any]) -> Any:
    """Return a factor of rows as `(batch, time, heads, ...)`; that of no row for all of them."""
    if len(x.shape) == 2:
        return x if name == "u" else keras.ops.broadcast_to(x[None, None], (*sizes, *x.shape))
    return at_once.steps_of(x, sizes)


def _in_chunks(
    request: Request,
    factors: dict[str, Any],
    matrix: Any,
    sizes: tuple[Any, Any],
    resets: Tensor,
    start: Any,
) -> tuple[Any, Any]:
    """Return what queries read, `(batch, time, heads, values)`, and the last state.

    Args:
        request: The run.
        factors: The factors of all steps, `(batch, time, heads, ...)`.
        matrix: The state before the first step.
        sizes: Batch and time.
        resets: Boolean tensor `(batch, time)`, or None.
        start: The state from which a sequence begins at a reset, None for zeros.
    """
    batch, time = sizes
    by_key = "g" in factors and factors["g"].shape[-1] > 1
    longest = SHORT if by_key else LONG
    count = (time + longest - 1) // longest
    size = -(-time // count) if isinstance(time, int) else longest
    extra = count * size - time
    before = "u" in factors
    bonus = _bonus(factors) if before else None
    names = [name for name in factors if name != "u"]

    def chunks(x: Tensor) -> Any:
        """Return `(batch, chunks, steps, ...)`: steps that are added change nothing."""
        if not isinstance(extra, int) or extra:
            zeros = keras.ops.zeros((batch, extra, *x.shape[2:]), dtype=x.dtype)
            x = keras.ops.concatenate([x, zeros], axis=1)
        return keras.ops.reshape(x, (batch, count, size, *x.shape[2:]))

    def step(inputs: Leaves, states: Leaves) -> tuple[Leaves, Leaves]:
        f = dict(zip(names, inputs, strict=False))
        if resets is None:
            found, after = advance_chunk(f, before, states[0])
        else:
            found, after = advance_sequences(f, before, states[0], states[1:], inputs[-1])
        return [found], [after, *states[1:]]

    loop = dataclasses.replace(
        request.loop(step),
        reverse=False,
        unroll=False,
        collect=True,
        zero_masked=False,
        on=None,
        linked=None,
    )
    loop = backend.recomputed(loop) if by_key else loop
    inputs = [keras.ops.transpose(chunks(factors[n]), (0, 1, 3, 2, 4)) for n in names]
    inputs += [] if resets is None else [chunks(resets)]
    # A step that is computed again has the gradients of its arguments alone: the start is one.
    states = [matrix] if start is None else [matrix, start]
    _, [found], [matrix, *_] = backend.run(loop, inputs, states, None)
    found = keras.ops.transpose(found, (0, 1, 3, 2, 4))
    found = keras.ops.reshape(found, (batch, count * size, *found.shape[3:]))
    found = found[:, :time]
    return found if bonus is None else found + bonus, matrix


def _bonus(f: dict[str, Any]) -> Any:
    """Return what queries read of the keys of their own steps."""
    return keras.ops.sum(f["q"] * f["u"] * f["k"], axis=-1, keepdims=True) * f["v"]


def advance_chunk(f: dict[str, Any], before: bool, s: Any) -> tuple[Any, Any]:
    """Advance all steps of a chunk; see `cellkit.MatrixCell` for the letters.

    Args:
        f: The factors, `(batch, heads, steps, ...)`.
        before: True if queries read the state before their step.
        s: The state before, `(batch, heads, keys, values)`.

    Returns:
        What queries read, `(batch, heads, steps, values)`, and the state after.
    """
    q, k, v = f["q"], f["k"], f["v"]
    spans = _Spans(f.get("g"), k)
    writers = [(k, v)]
    if "e" in f:
        seen = spans.since_start(f["p"], before=True) @ s + spans.pairs(f["p"], k, before=True) @ v
        writers.append((f["e"], keras.ops.solve_triangular(_system(f, spans), seen, lower=True)))
    found = spans.since_start(q, before=before) @ s
    new = spans.over_all(s)
    for key, value in writers:
        found = found + spans.pairs(q, key, before=before) @ value
        new = new + _turned(spans.until_end(key)) @ value
    return found, new


def advance_sequences(
    f: dict[str, Any], before: bool, s: Any, start: Leaves, resets: Tensor
) -> tuple[Any, Any]:
    """Advance all steps of a chunk that resets cut into sequences.

    A product of matrices would carry NaN and infinity from one sequence into the others, as
    ``0 * inf``. So it is given zeros in their place, and results are set to NaN where they belong.

    Args:
        f: The factors, `(batch, heads, steps, ...)`.
        before: True if queries read the state before their step.
        s: The state before, `(batch, heads, keys, values)`.
        start: The state from which a sequence begins at a reset, likewise; empty for zeros.
        resets: Boolean tensor `(batch, steps)`.

    Returns:
        The same as `advance_chunk`.
    """
    number = keras.ops.cumsum(keras.ops.cast(resets, "int32"), axis=1)[:, None, :, None]
    same, old = keras.ops.equal(number, _turned(number)), keras.ops.equal(number, 0)
    # Lost is 1 or more for every step, or state, and value that no number can be made of.
    lost = {n: _not_finite(x, n) for n, x in f.items()}
    s_lost = keras.ops.max(_not_finite(s), axis=-2, keepdims=True)
    f, s = {n: _finite(x, n) for n, x in f.items()}, _finite(s)
    q, k, v = f["q"], f["k"], f["v"]
    spans = _Spans(f.get("g"), k, same)

    def begun(x: Tensor, before: bool) -> Any:
        """Return what readers find of the state with which their sequence begins."""
        x = spans.since_start(x, before)
        return backend.select(old, x @ s, x @ start[0] if start else 0)

    by_key = [keras.ops.max(x, axis=-1, keepdims=True) for n, x in lost.items() if n not in "qv"]
    writers, values_lost = [(k, v)], sum(by_key, lost["v"])
    if "e" in f:
        seen = begun(f["p"], True) + spans.pairs(f["p"], k, before=True) @ v
        system = _system(f, spans)
        # The inverse of the matrix, unlike a solution, has a block for every sequence.
        eye = keras.ops.eye(k.shape[2], dtype=k.dtype) + 0 * system
        inverse = keras.ops.solve_triangular(system, eye, lower=True)
        value = backend.select(same, inverse, 0) @ _finite(seen)
        values_lost = values_lost + _not_finite(seen) + _not_finite(value)
        writers.append((f["e"], _finite(value)))
    found = begun(q, before)
    new = spans.over_all(backend.select(old[:, 0, -1, 0], s, start[0] if start else 0))
    at_end = same[:, :, -1, :, None]
    for key, value in writers:
        found = found + spans.pairs(q, key, before=before) @ value
        new = new + _turned(backend.select(at_end, spans.until_end(key), 0)) @ value

    s_lost = keras.ops.cast(old, k.dtype) * s_lost
    found_lost = keras.ops.cast(spans.mask(before), k.dtype) @ values_lost + s_lost
    found_lost = found_lost + keras.ops.max(lost["q"], axis=-1, keepdims=True)
    new_lost = keras.ops.sum(keras.ops.cast(at_end, k.dtype) * values_lost, axis=2, keepdims=True)
    new_lost = new_lost + s_lost[:, :, -1:]
    nan = float("nan")
    found = backend.select(keras.ops.equal(found_lost, 0), found, nan)
    return found, backend.select(keras.ops.equal(new_lost, 0), new, nan)


def _system(f: dict[str, Any], spans: _Spans) -> Any:
    """Return the matrix of the system of equations for what e writes."""
    return keras.ops.eye(f["e"].shape[2], dtype=f["e"].dtype) - spans.pairs(
        f["p"], f["e"], before=True
    )


def _is_finite(x: Tensor, name: str) -> Any:
    """Tell which numbers of a factor are finite. A decay to nothing, g of minus infinity, is."""
    return keras.ops.isfinite(keras.ops.exp(x) if name == "g" else x)


def _not_finite(x: Tensor, name: str = "") -> Any:
    """Return 1 in the places of NaN and infinity, else 0."""
    return keras.ops.cast(keras.ops.logical_not(_is_finite(x, name)), x.dtype)


def _finite(x: Tensor, name: str = "") -> Any:
    """Return x with zeros in the places of NaN and infinity."""
    return backend.select(_is_finite(x, name), x, 0)


class _Spans:
    """Decays within spans of the steps of a chunk.

    Args:
        g: Logarithms of the decays, `(batch, heads, steps, keys or 1)`, or None for no decay.
        like: A tensor of the dtype and number of steps.
        same: Boolean tensor `(batch, 1, steps, steps)`, True where two steps are of one sequence;
            None if all are.
    """

    def __init__(self, g: Any, like: Any, same: Any = None) -> None:
        size, dtype = like.shape[2], like.dtype
        upto, later = ((keras.ops.tri(size, k=k, dtype=dtype) > 0)[None, None] for k in (0, -1))
        self.masks = [m if same is None else keras.ops.logical_and(m, same) for m in (upto, later)]
        self.by_key = g is not None and g.shape[-1] > 1
        self.g = g
        if g is None:
            return
        if same is None:
            self.total = keras.ops.exp(cumsum(g, axis=2))
            self.total_before = _a_step_later(self.total)
        else:
            # A sequence that a reset begins has decayed since then.
            every = [backend.select(m[..., None], g[:, :, None], 0) for m in self.masks]
            self.total, self.total_before = (keras.ops.exp(keras.ops.sum(x, axis=3)) for x in every)
        # The sum of the steps after j up to t, each span by itself: [t, j] adds up g_t where j < t.
        g = g[..., None, :] if self.by_key else g
        later = later[..., None] if self.by_key else later
        spans = cumsum(backend.select(later, g, 0), axis=2)
        self.decays = keras.ops.exp(spans)
        self.decays_before = _a_step_later(self.decays)

    def mask(self, before: bool) -> Any:
        """Return which steps a reader sees, `[t, j]`: those before it, and else its own too."""
        return self.masks[before]

    def since_start(self, x: Tensor, before: bool = False) -> Any:
        """Return x of every step, times what its sequence has decayed by then."""
        if self.g is None:
            return x
        return x * (self.total_before if before else self.total)

    def until_end(self, x: Tensor) -> Any:
        """Return x of every step, times what decays after it."""
        if self.g is None:
            return x
        last = self.decays[:, :, -1]
        return x * (last if self.by_key else last[..., None])

    def over_all(self, s: Any) -> Any:
        """Return the state with which the last sequence begins as it is at the end."""
        return s if self.g is None else s * self.total[:, :, -1][..., None]

    def pairs(self, x: Tensor, y: Any, before: bool = False) -> Any:
        """Return ``x_t . y_j`` for every step t and those up to it, times what has decayed between.

        Args:
            x: The readers, `(batch, heads, steps, keys)`.
            y: The writers, likewise.
            before: True if x reads the state before its step.
        """
        mask = self.mask(before)
        if self.g is None:
            return backend.select(mask, x @ _turned(y), 0)
        decays = self.decays_before if before else self.decays
        if not self.by_key:
            return backend.select(mask, x @ _turned(y), 0) * decays
        products = x[:, :, :, None] * y[:, :, None] * decays
        return backend.select(mask, keras.ops.sum(products, axis=-1), 0)


def _a_step_later(decays: Any) -> Any:
    """Return decays of the steps up to the one before, along axis 2; none before the first."""
    first = keras.ops.ones_like(decays[:, :, :1])
    return keras.ops.concatenate([first, decays[:, :, :-1]], axis=2)


def _turned(x: Tensor) -> Any:
    return keras.ops.swapaxes(x, -1, -2)


ENGINE = Engine(
    name="chunked",
    summary="Chunk by chunk: products of matrices for all steps of a chunk.",
    cells="Cells whose state is a matrix (`cellkit.MatrixCell`)",
    run=run,
    needs=(Need("a `cellkit.MatrixCell`", _no_matrix), *at_once.needs_of(MatrixCell)),
)
