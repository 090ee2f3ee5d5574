"""A step and its gradient as graphs of TensorFlow, which a loop puts into its body."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from cellkit.engines.tensorflow.products import cut, times, widths
from cellkit.typing import Tensor

if TYPE_CHECKING:
    from cellkit.engines.shared.loop import Leaves
    from cellkit.engines.shared.step import Step


class StepGraph:
    """A step and, beside it, its gradient, each traced once.

    Args:
        step: The step.
        masks: The masks of this call, by their keys.
        arguments: Kernels, other weights, inputs `(time, batch, ...)`, states.
        keep: True for the steps that count, `(time, batch)`, in a list; empty if all do.
        last: The last output before all steps.
        save: True if there is a gradient.
        hold: True if the last output must be carried from step to step in any case.

    Attributes:
        as_state: The index of the state that each output is, if all are and no step is masked; else
            empty. The last output need not be carried from step to step then.
        kept: Specs of what is kept of each step for the gradient.
        read: The part of it for the gradient of a step; the kernels' gradients take the rest.
        factors: The part of it that each kernel is multiplied with.
        written: Specs of the gradients that are kept of each step.
        d_inputs: The gradients of the inputs among them.
        d_products: The gradients of the products among them.
    """

    def __init__(
        self,
        step: Step,
        masks: Any,
        arguments: list[Leaves],
        keep: Leaves,
        last: Leaves,
        save: bool,
        hold: bool,
    ) -> None:
        self._run, self._masks, self._save, self._hold = step, masks, save, hold
        kernels, self._others, inputs, states = arguments
        rows = states[0].shape[0]
        blocks = [cut(k, rows) for k in kernels]
        self._kernels, self._cuts = [b for bs in blocks for b in bs], [len(bs) for bs in blocks]
        self._back = [
            [tf.TensorSpec([k.shape[1], w], k.dtype) for w in widths(k.shape[::-1], k.dtype, rows)]
            for k in kernels
        ]
        parts = [specs(inputs, 1), specs(keep, 1)]
        parts += [specs(leaves) for leaves in (states, last, self._others, self._kernels)]
        self._sizes = [len(p) for p in parts]
        self.as_state: list[int] = []
        self.kept: list[Any] = []
        self.factors: list[int] = []
        self.written: list[Any] = []
        self.d_inputs: list[int] = []
        self.d_products: list[int] = []
        # For every tensor that the gradient takes of the step: its place among what is kept, or
        # the tensor itself, if it is the same at all steps.
        self._taken: list[Any] = []
        self._constant: dict[int, Any] = {}
        self._pull: _Graph | None = None
        traced = tf.function(self._step, autograph=False)
        self._step_graph = _Graph(traced.get_concrete_function(*(s for p in parts for s in p)))

    @property
    def read(self) -> set[int]:
        """Places among what is kept."""
        return {i for i in self._taken if isinstance(i, int)}

    def step(self, x: Leaves, keep: Leaves, states: Leaves, last: Leaves) -> list[Leaves]:
        """Return new states, the last output (or none), what is emitted, and what to keep."""
        values = [*x, *keep, *states, *last, *self._others, *self._kernels]
        return divide(self._step_graph(values), self._results)

    def pull(self, grads: Leaves, transposed: Leaves, kept: Any) -> list[Leaves]:
        """Return gradients of the states, the last output, other weights, and `written`.

        Args:
            grads: Those of the new states, the last output (or none), and what is emitted.
            transposed: The kernels, transposed and cut.
            kept: The values kept of the step, by their places.
        """
        assert self._pull is not None  # noqa: S101 - there is one with `save`
        taken = [kept[v] if isinstance(v, int) else v for v in self._taken]
        return divide(self._pull([*grads, *transposed], taken), self._grads)

    def _step(self, *arguments: Any) -> list[Any]:
        x, keep, states, last, others, kernels = divide(arguments, self._sizes)
        blocks = divide(kernels, self._cuts)
        outside = zip([*others, *kernels], [*self._others, *self._kernels], strict=True)
        self._constant = {id(inside): value for inside, value in outside}
        factors: Leaves = []
        products: Leaves = []
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch([*x, *states, *last, *others])

            def product(index: int, value: Any) -> Any:
                with tape.stop_recording():
                    result = times(value, blocks[index])
                tape.watch(result)
                factors.append(value)
                products.append(result)
                return result

            news, held, out = self._run.advance(
                x, keep[0] if keep else None, states, last, others, self._masks, product
            )
        same = [_place(y, news) for y in held]
        if not (keep or self._hold) and None not in same:
            self.as_state, held, last = [i for i in same if i is not None], [], []
        self._results = [len(news), len(held), len(out)]
        kept: Leaves = []
        if self._save:
            sources = [states, last, others, x, products]
            kept = self._differentiate(tape, [*news, *held, *out], sources, factors)
        self._results.append(len(kept))
        self.kept = specs(kept)
        return [*news, *held, *out, *kept]

    def _differentiate(
        self, tape: Any, results: Leaves, sources: list[Leaves], factors: Leaves
    ) -> Leaves:
        """Trace the gradient of the step, and return what it takes of the step."""
        states, _, _, x, products = sources
        flat = [s for part in sources for s in part]
        sizes = [len(part) for part in sources]

        def pull(*arguments: Any) -> Leaves:
            upstream, *transposed = divide(arguments, [len(results), *map(len, self._back)])
            grads = tape.gradient(results, flat, upstream)
            # A later product may depend on an earlier one.
            for index in range(len(products) - 1, -1, -1):
                d_product = grads[len(flat) - len(products) + index]
                if d_product is None:
                    continue
                back = tf.cast(times(d_product, transposed[index]), factors[index].dtype)
                at = _place(factors[index], states)
                if at is None:
                    more = tape.gradient([factors[index]], flat, [back])
                else:
                    more = [back if i == at else None for i in range(len(flat))]
                grads = [_sum(a, b) for a, b in zip(grads, more, strict=True)]
            grads = [tf.zeros_like(s) if d is None else d for s, d in zip(flat, grads, strict=True)]
            carried, steps = grads[: sum(sizes[:3])], grads[sum(sizes[:3]) :]
            # A product and the inputs that it is added to have the same gradient.
            written: Leaves = []
            places = [_add(d, written) for d in steps]
            self.d_inputs, self.d_products = places[: len(x)], places[len(x) :]
            self.written, self._grads = specs(written), [*sizes[:3], len(written)]
            return [*carried, *written]

        back = [part for parts in self._back for part in parts]
        traced = tf.function(pull, autograph=False)
        concrete = traced.get_concrete_function(*specs(results), *back)
        self._pull = _Graph(concrete)
        kept: Leaves = []
        self._taken = [self._source(t, kept) for t in self._pull.captured]
        self.factors = [_add(v, kept) for v in factors]
        return kept

    def _source(self, tensor: Any, kept: Leaves) -> Any:
        """Return where a tensor of the step comes from; what differs between steps is kept."""
        here = tf.compat.v1.get_default_graph()
        if tensor.graph is not here:
            return tensor
        known = {**self._constant, **{id(inside): outside for outside, inside in here.captures}}
        if id(tensor) in known:
            return known[id(tensor)]
        value = tf.get_static_value(tensor) if tensor.op.type == "Const" else None
        return _add(tensor, kept) if value is None else np.asarray(value)


class _Graph:
    """The operations of a concrete function, to be put into other graphs one by one.

    A call of the function would do the same, but what it captured is fixed.
    """

    def __init__(self, concrete: Any) -> None:
        graph = concrete.graph
        self.captured = list(concrete.captured_inputs)
        self._names = [t.name for t in graph.inputs]
        self._results = [t.name for t in graph.outputs]
        self._definition = graph.as_graph_def()
        nodes = [n for n in self._definition.node if f"{n.name}:0" not in set(self._names)]
        used = {name for n in nodes for name in n.input}
        self._used = [n.removesuffix(":0") in used for n in self._names]
        del self._definition.node[:]
        self._definition.node.extend(nodes)

    def __call__(self, values: Leaves, captured: Leaves | None = None) -> Leaves:
        """Return the results in the graph that is being built.

        Args:
            values: The arguments.
            captured: Tensors in the place of the captured ones; these themselves by default.
        """
        values = [*values, *(self.captured if captured is None else captured)]
        here = tf.compat.v1.get_default_graph()
        # A tensor of an enclosing graph must be brought into this one.
        values = [tf.convert_to_tensor(v) for v in values]
        values = [v if v.graph is here else tf.identity(v) for v in values]
        fed = zip(self._names, values, self._used, strict=True)
        return list(
            tf.graph_util.import_graph_def(
                self._definition,
                input_map={name: value for name, value, used in fed if used},
                return_elements=self._results,
                name="step",
            )
        )


def specs(leaves: Leaves, skip: int = 0) -> list[Any]:
    """Return the shapes, without the first `skip` axes, and dtypes of tensors."""
    return [tf.TensorSpec(x.shape[skip:], x.dtype) for x in leaves]


def divide(values: Any, sizes: list[int]) -> list[list[Any]]:
    """Cut a list into lists of these sizes."""
    rest = iter(values)
    return [[next(rest) for _ in range(size)] for size in sizes]


def _place(value: Any, values: Leaves) -> int | None:
    return next((i for i, v in enumerate(values) if v is value), None)


def _add(value: Any, values: Leaves) -> int:
    """Return the place of `value` among `values`, where it is put unless it is there."""
    place = _place(value, values)
    if place is None:
        values.append(value)
        return len(values) - 1
    return place


def _sum(a: Tensor, b: Tensor) -> Any:
    return b if a is None else a if b is None else a + b
