"""Eager calls that repeat on TensorFlow: one graph in the place of all their operations.

Eagerly, every operation of every step goes through Python, which takes many times as long as the
operation itself. A graph of the whole call does not, and takes long to trace. So the calls of one
kind run operation by operation until that has cost about as much as a trace does.

The graph holds the operations of the eager loop as they are: the optimizers of graphs, which add
up in another order, are turned off for it, and it is used only if it gave the bits of the eager
call beside which it was traced. What it can't repeat stays eager: effects of a step (draws,
updates, losses, whatever Python sees), other engines' graphs, and calls that a gradient passes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from cellkit import _keras_compat as compat
from cellkit.cells.effects import Undone
from cellkit.cells.recorder import Recorder
from cellkit.typing import Tensor

try:
    # No public way tells whether a tape or an accumulator is recording.
    from tensorflow.python.eager.record import could_possibly_record as _recording
except ImportError:

    def _recording() -> bool:
        return True


if TYPE_CHECKING:
    from cellkit.engines.request import Request
    from cellkit.engines.shared.loop import Leaves

    Result = tuple[Leaves, Any, Leaves]
    Run = Callable[[Request], Result]

STEPS = 256
"""Steps that calls of one kind take eagerly, before one of them is traced."""

# Kinds of calls of one layer whose graphs are kept, and how often a layer is tried whose steps
# turn out to have effects: those change what is watched, and with it what is kept.
_KINDS, _TRIES = 16, 3
_FAILED = "failed traces"

_PLAIN = tf.compat.v1.ConfigProto()
_PLAIN.graph_options.rewrite_options.disable_meta_optimizer = True
_AS_WRITTEN: bytes = _PLAIN.SerializeToString()


def run(request: Request, name: str, eagerly: Run) -> Result:
    """Run an eager call for which there is a plan.

    Args:
        request: The request.
        name: The engine's.
        eagerly: Runs the request by that engine.
    """
    options, x = request.options, request.inputs
    batch, time, *sizes = x.shape.as_list()
    if not (batch and time and _may_be_traced(request, name)):
        return eagerly(request)
    kinds = options.cache.current("repeated", request.edition, dict)
    # The plain loop knows no number of steps; other engines choose by it what they do.
    length = None if name == "loop" else time
    key = (name, batch, length, *sizes, x.dtype, x.device)
    key += (request.mask is None, request.resets is None)
    kind: _Kind | None = kinds.get(key)
    if kind is None:
        if len(kinds) >= _KINDS:
            kinds.clear()
        kind = kinds[key] = _Kind()
    if kind.graph is not None:
        return kind.graph(request)
    kind.steps += time
    result = eagerly(request)
    if kind.steps >= STEPS:
        failed = options.cache.memoize(_FAILED, list)
        if not kind.tried and len(failed) < _TRIES:
            kind.tried = True
            kind.graph = _graph(request, length, eagerly, result)
            failed += [] if kind.graph else [True]
    return result


def _may_be_traced(request: Request, name: str) -> bool:
    # The parts of a stack choose their engines themselves, and would choose others in a graph;
    # `unroll=True` asks for a loop in Python.
    return not (
        request.training
        or name == "stack"
        or request.options.unroll is True
        or _recording()
        or compat.in_stateless_scope()
        or tf.config.functions_run_eagerly()
        or tf.distribute.has_strategy()
    )


@dataclasses.dataclass
class _Kind:
    """The calls of one kind.

    Args:
        steps: Number of steps that have run eagerly.
        tried: True if a call was traced.
        graph: The graph, if there is one.
    """

    steps: int = 0
    tried: bool = False
    graph: _Graph | None = None


class _Graph:
    """A call as a graph, run as it was traced.

    Args:
        concrete: The function.
    """

    def __init__(self, concrete: Any) -> None:
        self.concrete = concrete
        self.captured = list(concrete.captured_inputs)
        self.dtypes = [y.dtype for y in concrete.outputs]
        last, outputs, _ = concrete.structured_outputs
        self.collects = outputs is not None
        self.count = len(last)

    def __call__(self, request: Request) -> Result:
        """Run the call of a request."""
        given = [x for x in _arguments(request) if x is not None]
        flat = tf.raw_ops.StatefulPartitionedCall(
            args=[*given, *self.captured],
            Tout=self.dtypes,
            f=self.concrete,
            config_proto=_AS_WRITTEN,
        )
        last, rest = flat[: self.count], flat[self.count :]
        if not self.collects:
            return last, None, rest
        return last, rest[: self.count], rest[self.count :]


def _arguments(request: Request) -> list[Any]:
    """Return all tensors of a call, and None for those that are not there."""
    starts = request.starts or []
    return [request.inputs, request.mask, request.resets, *request.states, *starts]


def _graph(request: Request, length: int | None, run: Run, result: Result) -> _Graph | None:
    """Return the graph of a call, or None where it would not do the same.

    Args:
        request: The request.
        length: The number of steps that the graph is for, or None for any.
        run: Runs a request eagerly.
        result: Its result.
    """
    count = len(request.states)

    @tf.function(autograph=False)
    def call(*tensors: Any) -> Any:
        rest = iter(tensors)
        given = [None if x is None else next(rest) for x in _arguments(request)]
        (x, mask, resets), states, starts = given[:3], given[3 : 3 + count], given[3 + count :]
        return run(
            dataclasses.replace(
                request,
                inputs=x,
                mask=mask,
                resets=resets,
                states=states,
                starts=starts or None,
                parts=[],
                notes=[],
            )
        )

    specs = [tf.TensorSpec(x.shape, x.dtype) for x in _arguments(request) if x is not None]
    timed = sum(x is not None for x in _arguments(request)[:3])
    for i, spec in enumerate(specs[:timed]):
        specs[i] = tf.TensorSpec([spec.shape[0], length, *spec.shape[2:]], spec.dtype)
    try:
        with Undone(request.cell) as effects, Recorder() as recorder:
            if effects.found is not None:
                return None
            concrete = call.get_concrete_function(*specs)
    except Exception:  # such a step reads values: the eager loop has run it, and goes on to
        return None
    if effects.found or recorder.written or recorder.losses or request.scope.drawn():
        return None
    # A loop is stateful where its body is.
    operations = concrete.graph.get_operations()
    if any(op.op_def.is_stateful and op.type != "ReadVariableOp" for op in operations):
        return None
    graph = _Graph(concrete)
    return graph if _equal(graph(request), result) else None


def _equal(a: Result, b: Result) -> bool:
    """Tell whether two results are the same, bit by bit."""
    pairs = zip(tf.nest.flatten(a), tf.nest.flatten(b), strict=True)
    return all(x is y or _same(x, y) for x, y in pairs)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.numpy().tobytes() == b.numpy().tobytes()
