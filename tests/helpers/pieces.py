"""A row with resets, and its pieces run as sequences of their own."""

import keras
import numpy as np
from cell_numbers import DTYPE, TOLERANCE
from engine_runs import data, npy
from keras import ops

from cellkit.cells.operations import where

BACKEND = keras.backend.backend()
TIME = 7
# A reset at the first step, at the last one, at two in a row, none at all, and by one alone.
RESETS = np.array(
    [
        [1, 0, 0, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 1, 0],
    ],
    bool,
)
ROWS = len(RESETS)
# At a reset and not, before one and after, and a piece of which no step counts.
MASK = np.array(
    [
        [0, 1, 1, 0, 1, 1, 1],
        [1, 0, 0, 1, 1, 1, 0],
        [1, 1, 0, 1, 1, 0, 1],
        [1, 0, 0, 0, 0, 1, 1],
    ],
    bool,
)


def pieces(resets, reverse):
    """Return (row, first, end, whether it begins by a reset), in the order processed."""
    found = []
    for row, flags in enumerate(resets):
        steps = range(len(flags))[::-1] if reverse else range(len(flags))
        groups = []
        for t in steps:
            if flags[t] or not groups:
                groups.append(([], flags[t]))
            groups[-1][0].append(t)
        found += [(row, min(ts), max(ts) + 1, bool(fresh)) for ts, fresh in groups]
    return found


def in_pieces(layer, x, states, resets, mask):
    """Return outputs and states of a layer that runs every piece as a sequence of its own.

    All pieces are rows of one batch: each is moved to where its processing begins, and the steps
    behind it are masked. With `truncate_gradient`, which counts masked steps, pieces of one length
    are rows of a batch instead.

    Args:
        layer: Returns sequences and states.
        x: Tensors `(batch, time, ...)`, in any structure.
        states: Leaves of the states before the call.
        resets: `(batch, time)`.
        mask: `(batch, time)`, or None.
    """
    time, found = resets.shape[1], pieces(resets, layer.go_backwards)
    batches = {}
    for i, (_, first, end, _) in enumerate(found):
        batches.setdefault(end - first if layer.truncate_gradient else time, []).append(i)
    # The steps of all batches one behind the other, and where each step of a row is among them.
    outputs, finals, count, done = [], [], 0, 0
    places, last = np.zeros(resets.shape, int), np.zeros(len(resets), int)
    for length, batch in batches.items():
        ys, final = _batch(layer, x, states, mask, [found[i] for i in batch], length)
        for n, i in enumerate(batch):
            row, first, end, _ = found[i]
            begun = time - end if layer.go_backwards else first  # in the order processed
            places[row, begun : begun + end - first] = count + n * length + np.arange(end - first)
            if begun + end - first == time:
                last[row] = done + n
        outputs.append([ops.reshape(y, (-1, *y.shape[2:])) for y in ys])
        finals.append(final)
        count, done = count + len(batch) * length, done + len(batch)
    outputs, finals = (
        [ops.concatenate(parts, axis=0) for parts in zip(*lists, strict=True)]
        for lists in (outputs, finals)
    )
    return [*(_pick(y, places) for y in outputs), *(_pick(s, last) for s in finals)]


def _batch(layer, x, states, mask, found, length):
    """Run pieces as rows of a batch with so many steps."""
    reverse, time = layer.go_backwards, keras.tree.flatten(x)[0].shape[1]
    index, keep = [], np.zeros((len(found), length), bool)
    for i, (row, first, end, _) in enumerate(found):
        own, rest = list(range(first, end)), [t for t in range(time) if not first <= t < end]
        rest = rest[: length - len(own)]
        index.append([row * time + t for t in (rest + own if reverse else own + rest)])
        counts = np.ones(end - first, bool) if mask is None else mask[row, first:end]
        keep[i, slice(length - len(own), None) if reverse else slice(len(own))] = counts
    rows = np.array([row for row, *_ in found])
    fresh = np.array([new for *_, new in found])
    starts = [
        where(fresh.reshape(-1, *[1] * (len(s.shape) - 1)), s, _pick(given, rows))
        for s, given in zip(layer.runner.initial(len(found)), states, strict=True)
    ]

    def moved(v):
        return _pick(ops.reshape(v, (v.shape[0] * time, *v.shape[2:])), index)

    return split(
        layer(
            keras.tree.map_structure(moved, x),
            initial_state=layer.runner.layout.pack(starts),
            mask=keep,
        )
    )


def _pick(v, index):
    index = np.array(index, "int64")
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.gather(v, index)
    return v[index]


def split(result):
    """Return the leaves of the output and of the states of a layer that returns both."""
    output, *states = result
    return keras.tree.flatten(output), keras.tree.flatten(states)


def differentiated(run, tensors, weights):
    """Return what `run` returns for tensors, and the gradients of the tensors and the weights."""
    smooth = [i for i, t in enumerate(tensors) if _is_smooth(t)]

    def loss(results):
        total = 0.0
        for i, y in enumerate(filter(_is_smooth, results)):
            y = ops.real(y) + 0.7 * ops.imag(y) if "complex" in _dtype(y) else y
            factors = ops.convert_to_tensor(data(tuple(y.shape), seed=50 + i, dtype=_dtype(y)))
            weighed = y * factors
            total = total + (ops.sum(weighed) if BACKEND == "tensorflow" else weighed.sum())
        return total

    if BACKEND == "torch":
        import torch

        given = [t.detach().requires_grad_(i in smooth) for i, t in enumerate(tensors)]
        results = run(given)
        wrt = [given[i] for i in smooth] + [v.value for v in weights]
        return results, torch.autograd.grad(loss(results), wrt, allow_unused=True)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        @tf.function(autograph=False)
        def traced():
            with tf.GradientTape() as tape:
                tape.watch([tensors[i] for i in smooth])
                results = run(tensors)
                total = loss(results)
            wrt = [tensors[i] for i in smooth] + [v.value for v in weights]
            return results, tape.gradient(total, wrt)

        return traced()
    import jax

    def value(moving, values):
        given = list(tensors)
        for i, t in zip(smooth, moving, strict=True):
            given[i] = t
        with keras.StatelessScope(state_mapping=list(zip(weights, values, strict=True))):
            results = run(given)
        return loss(results), results

    function = jax.jit(jax.grad(value, argnums=(0, 1), has_aux=True))
    grads, results = function([tensors[i] for i in smooth], [v.value for v in weights])
    return results, [*grads[0], *grads[1]]


def _is_smooth(x):
    return "float" in _dtype(x) or "complex" in _dtype(x)


def _dtype(x):
    return keras.backend.standardize_dtype(x.dtype)


def assert_pieces(
    layer, x, states, resets=RESETS, mask=None, engine="auto", tolerance=None, **call
):
    """Compare a call with resets with its pieces: outputs, states and all gradients."""
    weights = layer.trainable_variables
    leaves = [ops.convert_to_tensor(v) for v in [*keras.tree.flatten(x), *states]]
    count = len(leaves) - len(states)
    layout = layer.runner.layout

    def whole(tensors):
        given = keras.tree.pack_sequence_as(x, tensors[:count])
        out, final = split(
            layer(
                given, initial_state=layout.pack(tensors[count:]), mask=mask, resets=resets, **call
            )
        )
        return [*out, *final]

    def apart(tensors):
        given = keras.tree.pack_sequence_as(x, tensors[:count])
        return in_pieces(layer, given, tensors[count:], resets, mask)

    layer.engine = "loop"
    want = differentiated(apart, leaves, weights)
    layer.engine = engine
    have = differentiated(whole, leaves, weights)
    ran = layer.engine_report()
    assert engine in ("auto", ran.engine), ran
    names = [f"result {i}" for i in range(len(want[0]))]
    names += [f"gradient {i}" for i in range(len(leaves))] + [v.path for v in weights]
    tolerance = tolerance or TOLERANCE
    for name, a, b in zip(names, [*want[0], *want[1]], [*have[0], *have[1]], strict=False):
        if a is None or b is None:
            assert a is None or not np.any(npy(a)), name
            assert b is None or not np.any(npy(b)), name
            continue
        a, b = npy(a), npy(b)
        scale = max(1.0, np.abs(a).max(initial=0))
        np.testing.assert_allclose(b, a, rtol=0, atol=tolerance * scale, err_msg=name)
    return ran


def start(layer, rows=ROWS, seed=3):
    """Return random states before a call, in their dtypes."""
    found = []
    for i, s in enumerate(layer.runner.layout.specs):
        numbers = data((rows, *s.shape), seed + i)
        found.append(numbers.astype(s.dtype or DTYPE))
    return found
