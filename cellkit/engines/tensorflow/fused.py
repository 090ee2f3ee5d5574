"""Cells on TensorFlow: the whole sequence as one function with a gradient of its own.

The gradient of a `tf.while_loop` adds up the gradients of the weights step by step. Here the
products of a step with weights (`cellkit.matmul`) are known by name: the backward loop carries back
the gradients of the states and keeps those of the products, and each weight's gradient is one
product after the loop. Everything else in a step is differentiated by TensorFlow as it stands.

A step is traced once, and its gradient beside it: what the gradient takes of the step is known
then, and nothing else is kept. To keep a tensor in a `TensorArray` copies nothing, so what one loop
writes the other one reads, and only what a weight's gradient is made of is ever stacked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from cellkit import _keras_compat as compat
from cellkit.cells.effects import Undone
from cellkit.cells.operations import value_of
from cellkit.cells.recorder import Recorder
from cellkit.cells.scope import SequenceScope, sequence_scope
from cellkit.engines.engine import Engine, Need
from cellkit.engines.request import pack
from cellkit.engines.shared import needs
from cellkit.engines.shared import step as steps
from cellkit.engines.shared.around import Around
from cellkit.engines.shared.project import project
from cellkit.engines.tensorflow.loop import count_to, in_steps, select
from cellkit.engines.tensorflow.products import cut
from cellkit.engines.tensorflow.step_graph import StepGraph, divide, specs
from cellkit.typing import Tensor

if TYPE_CHECKING:
    from cellkit.engines.request import Request
    from cellkit.engines.shared.loop import Leaves


def _eager(request: Request) -> str | None:
    if tf.executing_eagerly():
        return "the call is eager: compile it with tf.function, as `fit` and `predict` do"
    return None


def _unknown_sizes(request: Request) -> str | None:
    leaves = keras.tree.flatten(request.inputs)
    if any(x.shape.rank is None or None in x.shape[2:] for x in leaves):
        return "not all sizes of the inputs are known"
    return None


# Operations that do more than to compute: they must happen once for each step.
_EFFECTS = ("EagerPyFunc", "PrintV2", "PyFunc", "StringFormat")


def _not_of_keras(request: Request) -> str | None:
    leaves = keras.tree.flatten(request.inputs)
    key = tuple((x.dtype, tuple(x.shape[2:])) for x in leaves)
    reason: str | None = steps.remember(request, "of TensorFlow", key, lambda: _look(request))
    return reason


def _look(request: Request) -> str | None:
    """Trace a step in a graph that is thrown away: its gradient must know all that it reads."""
    cell, runner, name = request.cell, request.runner, type(request.cell).__name__

    @tf.function(autograph=False)
    def one(x: Leaves, s: Leaves) -> Any:
        rows = pack(request.inputs, x)
        with sequence_scope(SequenceScope(tf.shape(x[0])[0]), [], request.training), Recorder():
            return runner.step(rows, s, request.training, request.constants)

    leaves = keras.tree.flatten(request.inputs)
    inputs = [tf.TensorSpec([None, *x.shape[2:]], x.dtype) for x in leaves]
    states = [tf.TensorSpec([None, *s.shape[1:]], s.dtype) for s in request.states]
    try:
        with Undone(cell) as effects:
            if effects.found is not None:
                return f"a step of {name} {effects.found}"
            graph = one.get_concrete_function(inputs, states).graph
    except Exception as error:  # if it is the cell's own, the loop will raise it
        return f"a step of {name} can't be traced for any number of rows: {type(error).__name__}"
    known = {id(compat.raw_value(v)) for v in cell.variables}
    if any(id(v) not in known for v in graph.variables):
        return f"a step of {name} uses a variable of TensorFlow's, which Keras does not know"
    more = sorted({op.type for op in graph.get_operations()} & set(_EFFECTS))
    if more:
        return f"a step of {name} does more than to compute: {more[0]}"
    return None


def run(request: Request) -> tuple[Leaves, Any, Leaves]:
    """Run the sequence; see `cellkit.engines`."""
    plan, scope = steps.plan_of(request), request.scope
    projected = project(request, time_major=True)
    inputs = keras.tree.flatten(projected)
    kernels, others = plan.values(), [value_of(v) for v in plan.others]
    kernels, others = ([tf.convert_to_tensor(v) for v in vs] for vs in (kernels, others))
    step = steps.Step(request, plan, projected)
    output = _draw(step, inputs, request.states, kernels, others)
    scope.redraw()
    sequence = _Sequence(step, request, output, scope.drawn(), inputs)
    states = [*request.states, *(request.starts or [])]
    last, emitted, states = sequence(kernels, others, inputs, states)
    for s, old in zip(states, request.states, strict=True):
        s.set_shape(old.shape)
    batch, time = keras.tree.flatten(request.inputs)[0].shape[:2]
    for y, spec in zip(last, output, strict=True):
        y.set_shape([batch, *spec.shape[1:]])
    if emitted is None:
        return last, None, states
    emitted = [tf.reverse(y, [0]) if request.reverse else y for y in emitted]
    emitted = [tf.transpose(y, [1, 0, *range(2, y.shape.rank)]) for y in emitted]
    for y, spec in zip(emitted, output, strict=True):
        y.set_shape([batch, time, *spec.shape[1:]])
    return last, emitted, states


def _draw(
    step: steps.Step, inputs: Leaves, states: Leaves, kernels: Leaves, others: Leaves
) -> Leaves:
    """Run a step in a graph that is thrown away, to learn of its output and of its masks."""

    @tf.function(autograph=False)
    def one(x: Leaves, s: Leaves, k: Leaves, o: Leaves) -> Leaves:
        return step.traced(x, s, o, lambda index, x: x @ k[index])[0]

    concrete = one.get_concrete_function(
        specs(inputs, 1), specs(states), specs(kernels), specs(others)
    )
    return tf.nest.flatten(concrete.structured_outputs)


class _Sequence:
    """All steps of one call, with their gradient.

    Args:
        step: The step.
        request: The run.
        output: Specs of the step's output.
        masks: The masks of this call, by their keys.
        inputs: The projected inputs, `(time, batch, ...)`.
    """

    def __init__(
        self, step: steps.Step, request: Request, output: Leaves, masks: Any, inputs: Leaves
    ) -> None:
        self.step, self.masks, self.output = step, masks, output
        self.collect = request.collect
        self.reverse, self.training = request.reverse, request.training
        self.keep = [] if request.mask is None else [tf.transpose(request.mask)]
        self.on = [] if request.resets is None else [tf.transpose(~request.resets)]
        self.count, self.zero_masked = len(request.states), request.zero_masked
        first = inputs[0]
        self.length = first.shape[0] if first.shape[0] is not None else tf.shape(first)[0]
        self.batch = first.shape[1] if first.shape[1] is not None else tf.shape(first)[1]

    def __call__(self, kernels: Leaves, others: Leaves, inputs: Leaves, states: Leaves) -> Any:
        """Return the last output, what is emitted, and the final states."""
        counts = [len(kernels), len(others), len(inputs), len(states)]

        @tf.custom_gradient
        def function(*arguments: Any) -> Any:
            parts = divide(arguments, counts)
            last, emitted, finals, saved = self.forward(parts, self.training)
            results = [*last, *emitted, *finals]
            sizes = [len(last), len(emitted), len(finals)]

            def gradient(*grads: Any) -> Any:
                d_last, d_emitted, d_states = divide(grads, sizes)
                # A gradient at inference is rare: what it needs was not kept.
                kept = saved or self.forward(parts, True)[-1]
                return self.backward(parts, kept, d_last, d_emitted, d_states)

            return results, gradient

        results = list(function(*kernels, *others, *inputs, *states))
        size = len(self.output)
        last, rest = results[:size], results[size:]
        emitted, finals = (rest[:size], rest[size:]) if self.collect else (None, rest)
        return last, emitted, finals

    def forward(self, arguments: list[Leaves], save: bool) -> Any:
        """Run all steps.

        Returns:
            The last output, what is emitted, the final states; and with `save` what a gradient
            needs, else None.
        """
        *weights, inputs, states = arguments
        states, starts = states[: self.count], states[self.count :]
        around = Around(select, self.zero_masked, starts=starts or None)
        arguments = [*weights, inputs, states]
        shapes = [[self.batch, *s.shape[1:]] for s in self.output]
        zeros = [tf.zeros(shape, s.dtype) for shape, s in zip(shapes, self.output, strict=True)]
        # No output is a state before the first step.
        empty = not (isinstance(self.length, int) and self.length)
        graph = StepGraph(self.step, self.masks, arguments, self.keep, zeros, save, empty)
        fetch = [in_steps(x, self.length) for x in (*inputs, *self.keep, *self.on)]
        sizes = [len(inputs), len(self.keep), len(self.on)]
        emitted = [self._array(z) for z in zeros] if self.collect else []
        kept = [self._array(x) for x in graph.kept]
        # An output that is a state is not carried twice.
        carried = [] if graph.as_state else zeros

        def body(t: Any, states: Leaves, last: Leaves, emitted: Any, kept: Any) -> Any:
            x, keep, on = divide([a.read(t) for a in fetch], sizes)
            if on:
                states, last = around.before(on[0], None, states, last)
            news, last, out, values = graph.step(x, keep, states, last or zeros)
            emitted = [a.write(t, y) for a, y in zip(emitted, out, strict=True)]
            kept = [a.write(t, v) for a, v in zip(kept, values, strict=True)]
            return self._next(t), _shaped(news, states), _shaped(last, carried), emitted, kept

        _, states, last, emitted, kept = self._while(body, (states, carried, emitted, kept))
        last = [states[k] for k in graph.as_state] if graph.as_state else last
        return last, [a.stack() for a in emitted], states, (graph, kept) if save else None

    def backward(
        self, arguments: Any, saved: Any, d_last: Leaves, d_emitted: Leaves, d_states: Leaves
    ) -> list[Any]:
        """Return the gradients of the kernels, the other weights, the inputs, and the states."""
        kernels, others = arguments[:2]
        graph, kept = saved
        rows = arguments[-1][0].shape[0]
        transposed = [b for k in kernels for b in cut(tf.transpose(k), rows)]
        fetch = [in_steps(x, self.length) for x in (*self.on, *d_emitted)]
        around = Around(select, self.zero_masked)
        for k, d in zip(graph.as_state, d_last, strict=False):
            d_states[k] += d
        carried = [] if graph.as_state else d_last
        written = [self._array(d) for d in graph.written]

        def body(
            t: Any,
            d_states: Leaves,
            d_last: Leaves,
            d_others: Leaves,
            d_starts: Leaves,
            written: Any,
        ) -> Any:
            on, d_out = divide([a.read(t) for a in fetch], [len(self.on), len(d_emitted)])
            values = {i: kept[i].read(t) for i in graph.read}
            d_olds, d_held, d_new, d_steps = graph.pull(
                [*d_states, *d_last, *d_out], transposed, values
            )
            d_others = [a + b for a, b in zip(d_others, d_new, strict=True)]
            written = [a.write(t, d) for a, d in zip(written, d_steps, strict=True)]
            if on:
                d_olds, d_held, d_starts = around.back(on[0], d_olds, d_held, d_starts)
                d_starts = _shaped(d_starts, d_states)
            d_olds, d_held = _shaped(d_olds, d_states), _shaped(d_held, d_last)
            return self._next(t, back=True), d_olds, d_held, d_others, d_starts, written

        d_others = [tf.zeros_like(w) for w in others]
        d_starts = [tf.zeros_like(d) for d in d_states] if self.on else []
        start = (d_states, carried, d_others, d_starts, written)
        _, d_states, _, d_others, d_starts, written = self._while(body, start, back=True)
        d_steps = [a.stack() for a in written]
        factors: dict[int, Any] = {}
        d_kernels = []
        for kernel, at, i in zip(kernels, graph.factors, graph.d_products, strict=True):
            factors[at] = kept[at].stack() if at not in factors else factors[at]
            # By the kernel's shape: what a step makes of its own shapes may be unknown.
            rows = tf.reshape(factors[at], [-1, kernel.shape[0]])
            d_rows = tf.reshape(d_steps[i], [-1, kernel.shape[1]])
            d_kernels.append(tf.cast(tf.matmul(rows, d_rows, transpose_a=True), kernel.dtype))
        d_inputs = [d_steps[i] for i in graph.d_inputs]
        return [*d_kernels, *d_others, *d_inputs, *d_states, *d_starts]

    def _array(self, x: Tensor) -> Any:
        """Return an array for something like `x` at every step."""
        return tf.TensorArray(x.dtype, self.length, element_shape=x.shape)

    def _next(self, t: Any, back: bool = False) -> Any:
        return t - 1 if self.reverse != back else t + 1

    def _while(self, body: Any, start: Any, back: bool = False) -> Any:
        down = self.reverse != back
        first = self.length - 1 if down else tf.constant(0)
        return count_to(self.length, body, (first, *start))


def _shaped(new: Leaves, old: Leaves) -> Leaves:
    for a, b in zip(new, old, strict=True):
        a.set_shape(b.shape)  # a `where` on an unknown batch loses the static shape
    return new


ENGINE = Engine(
    name="fused",
    summary=steps.SUMMARY,
    cells=steps.CELLS,
    run=run,
    needs=(
        needs.SAME_DTYPE,
        needs.SOMETHING,
        Need("a call that is compiled", _eager),
        Need("sizes of the inputs that are known, but for batch and time", _unknown_sizes),
        *steps.needs_of(constants=False),
        Need("no variables of TensorFlow's own, no printing, no Python in a step", _not_of_keras),
    ),
    pays=(steps.FEW_ROWS,),
)
