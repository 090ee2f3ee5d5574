"""Cells on TensorFlow: the whole sequence as one function with a gradient of its own.

The gradient of a `tf.while_loop` adds up the gradients of the weights step by step, and keeps every
tensor that any operation of the step might need. Here the products of a step with weights
(`cellkit.matmul`) are known by name: the forward loop keeps the states and the products, the
backward loop carries back the gradients of the states and keeps those of the products, and each
weight's gradient is one product after the loop. Everything else in a step is differentiated by
TensorFlow as it stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from cellkit._math import value_of
from cellkit.engines import steps
from cellkit.engines.projected import project
from cellkit.loops.tensorflow import in_steps

if TYPE_CHECKING:
    from cellkit.engines import Request
    from cellkit.loops import Leaves


def why_not(request: Request) -> str | None:
    """Return why this engine does not apply, or None; see `cellkit.engines`."""
    if tf.executing_eagerly():
        return "the call is eager: compile it with tf.function, as `fit` and `predict` do"
    leaves = keras.tree.flatten(request.inputs)
    if any(x.shape.rank is None or None in x.shape[2:] for x in leaves):
        return "not all sizes of the inputs are known"
    return steps.why_not(request)


def run(request: Request) -> tuple[Leaves, Any, Leaves]:
    """Run the sequence; see `cellkit.engines`."""
    plan, scope = steps.plan_of(request), request.scope
    projected = project(request, time_major=True)
    inputs = keras.tree.flatten(projected)
    kernels, others = ([value_of(v) for v in vs] for vs in (plan.kernels, plan.others))
    kernels, others = ([tf.convert_to_tensor(v) for v in vs] for vs in (kernels, others))
    step = steps.Step(request, plan, projected)
    output = _draw(step, inputs, request.states, kernels, others)
    scope.redraw()
    sequence = _Sequence(step, request, output, scope.drawn(), inputs)
    last, emitted, states = sequence(kernels, others, inputs, list(request.states))
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

    def specs(leaves: Leaves, skip: int = 0) -> list[Any]:
        return [tf.TensorSpec(x.shape[skip:], x.dtype) for x in leaves]

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
        self.keep = None if request.mask is None else tf.transpose(request.mask)
        first = inputs[0]
        self.length = first.shape[0] if first.shape[0] is not None else tf.shape(first)[0]
        self.batch = first.shape[1] if first.shape[1] is not None else tf.shape(first)[1]

    def __call__(self, kernels: Leaves, others: Leaves, inputs: Leaves, states: Leaves) -> Any:
        """Return the last output, what is emitted, and the final states."""
        counts = [len(kernels), len(others), len(inputs), len(states)]

        @tf.custom_gradient
        def function(*arguments: Any) -> Any:
            parts = _divide(arguments, counts)
            last, emitted, finals, saved = self.forward(parts, self.training)
            results = [*last, *emitted, *finals]
            sizes = [len(last), len(emitted), len(finals)]

            def gradient(*grads: Any) -> Any:
                d_last, d_emitted, d_states = _divide(grads, sizes)
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
            needs: the states before each step and the products, else None.
        """
        kernels, others, inputs, states = arguments
        shapes = [[self.batch, *s.shape[1:]] for s in self.output]
        zeros = [tf.zeros(shape, s.dtype) for shape, s in zip(shapes, self.output, strict=True)]
        fetch = [in_steps(x, self.length) for x in inputs]
        keeps = None if self.keep is None else in_steps(self.keep, self.length)

        def array(x: Any) -> Any:
            return tf.TensorArray(x.dtype, self.length, element_shape=x.shape)

        widths = [k.shape[-1] for k in kernels]
        kinds = [k.dtype for k in kernels]
        static = states[0].shape[0]
        befores = [array(s) for s in states if save]
        products = [
            tf.TensorArray(d, self.length, element_shape=[static, w])
            for d, w in zip(kinds, widths, strict=True)
            if save
        ]
        emitted = [array(z) for z in zeros] if self.collect else []

        def body(
            i: Any, states: Leaves, last: Leaves, befores: Any, products: Any, emitted: Any
        ) -> Any:
            t = self.length - 1 - i if self.reverse else i
            found: Leaves = []

            def product(index: int, x: Any) -> Any:
                found.append(x @ kernels[index])
                return found[-1]

            keep = None if keeps is None else keeps.read(t)
            x = [a.read(t) for a in fetch]
            news, new_last, out = self.step.advance(
                x, keep, states, last, others, self.masks, product
            )
            if save:
                befores = [a.write(t, s) for a, s in zip(befores, states, strict=True)]
                products = [a.write(t, p) for a, p in zip(products, found, strict=True)]
            emitted = [a.write(t, y) for a, y in zip(emitted, out, strict=True)]
            return i + 1, _shaped(news, states), _shaped(new_last, last), befores, products, emitted

        start = (tf.constant(0), states, zeros, befores, products, emitted)
        _, states, last, befores, products, emitted = self._while(body, start)
        saved = ([a.stack() for a in befores], [a.stack() for a in products]) if save else None
        return last, [a.stack() for a in emitted], states, saved

    def backward(
        self, arguments: Any, saved: Any, d_last: Leaves, d_emitted: Leaves, d_states: Leaves
    ) -> list[Any]:
        """Return the gradients of the kernels, the other weights, the inputs, and the states."""
        kernels, others, inputs, states = arguments
        befores, products = saved
        transposed = [tf.transpose(k) for k in kernels]
        fetch = [in_steps(x, self.length) for x in (*inputs, *befores, *products, *d_emitted)]
        sizes = [len(inputs), len(befores), len(products), len(d_emitted)]
        keeps = None if self.keep is None else in_steps(self.keep, self.length)
        from_state: list[int | None] = [None] * len(kernels)
        same: list[int | None] = [None] * len(kernels)
        zeros = [tf.zeros_like(d) for d in d_last]

        def array(x: Any) -> Any:
            return tf.TensorArray(x.dtype, self.length, element_shape=x.shape[1:])

        d_inputs, d_products = [array(x) for x in inputs], [array(x) for x in products]
        factors = [
            tf.TensorArray(p.dtype, self.length, element_shape=[p.shape[1], k.shape[0]])
            for p, k in zip(products, kernels, strict=True)
        ]

        def body(
            i: Any,
            d_states: Leaves,
            d_last: Leaves,
            d_others: Leaves,
            d_inputs: Any,
            d_products: Any,
            factors: Any,
        ) -> Any:
            t = i if self.reverse else self.length - 1 - i
            read = [a.read(t) for a in fetch]
            x, states, known, d_out = _divide(read, sizes)
            keep = None if keeps is None else keeps.read(t)
            taken: Leaves = []

            def product(index: int, value: Any) -> Any:
                taken.append(value)
                return known[index]

            sources = [*x, *states, *zeros, *known, *others]
            with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
                tape.watch(sources)
                news, last, out = self.step.advance(
                    x, keep, states, zeros, others, self.masks, product
                )
            results = [*news, *last, *out]
            grads = _gradient(tape, results, sources, [*d_states, *d_last, *d_out])
            parts = [len(x), len(states), len(zeros), len(known), len(others)]
            # A later product may depend on an earlier one.
            for index in range(len(known) - 1, -1, -1):
                d_product = grads[sum(parts[:3]) + index]
                back = tf.cast(d_product @ transposed[index], taken[index].dtype)
                at = next((j for j, s in enumerate(states) if s is taken[index]), None)
                from_state[index] = at
                if at is not None:
                    grads[len(x) + at] += back
                else:
                    more = _gradient(tape, [taken[index]], sources, [back])
                    grads = [a + b for a, b in zip(grads, more, strict=True)]
            del tape
            d_x, d_old, d_held, d_known, d_new = _divide(grads, parts)
            d_others = [a + b for a, b in zip(d_others, d_new, strict=True)]
            d_inputs = [a.write(t, d) for a, d in zip(d_inputs, d_x, strict=True)]
            # Where a product is added to the inputs, both have the same gradient.
            same[:] = [next((j for j, e in enumerate(d_x) if e is d), None) for d in d_known]
            d_products = [
                a.write(t, d) if j is None else a
                for a, d, j in zip(d_products, d_known, same, strict=True)
            ]
            factors = [
                a.write(t, v) if at is None else a
                for a, v, at in zip(factors, taken, from_state, strict=True)
            ]
            d_states, d_last = _shaped(d_old, d_states), _shaped(d_held, d_last)
            return i + 1, d_states, d_last, d_others, d_inputs, d_products, factors

        d_others = [tf.zeros_like(w) for w in others]
        start = (tf.constant(0), d_states, d_last, d_others, d_inputs, d_products, factors)
        _, d_states, _, d_others, d_inputs, d_products, factors = self._while(body, start)
        d_steps = [a.stack() for a in d_inputs]
        d_kernels = []
        for index, kernel in enumerate(kernels):
            at, j = from_state[index], same[index]
            factor = factors[index].stack() if at is None else befores[at]
            d_product = d_products[index].stack() if j is None else d_steps[j]
            rows, d_rows = (tf.reshape(v, [-1, v.shape[-1]]) for v in (factor, d_product))
            d_kernels.append(tf.cast(tf.matmul(rows, d_rows, transpose_a=True), kernel.dtype))
        return [*d_kernels, *d_others, *d_steps, *d_states]

    def _while(self, body: Any, start: Any) -> Any:
        return tf.while_loop(
            lambda i, *_: i < self.length, body, start, maximum_iterations=self.length
        )


def _gradient(tape: Any, targets: Leaves, sources: Leaves, grads: Leaves) -> list[Any]:
    found = tape.gradient(targets, sources, grads, unconnected_gradients="none")
    return [tf.zeros_like(s) if d is None else d for s, d in zip(sources, found, strict=True)]


def _divide(values: Any, sizes: list[int]) -> list[list[Any]]:
    """Cut a list into lists of these sizes."""
    rest = iter(values)
    return [[next(rest) for _ in range(size)] for size in sizes]


def _shaped(new: Leaves, old: Leaves) -> Leaves:
    for a, b in zip(new, old, strict=True):
        a.set_shape(b.shape)  # a `where` on an unknown batch loses the static shape
    return new
