"""Cells on JAX: the whole sequence as one function with a gradient of its own.

Differentiating a `lax.scan` adds up the gradients of the weights step by step. Here the products of
a step with weights (`cellkit.matmul`) are known by name: the backward loop carries back the
gradients of the states and keeps those of the products, and each weight's gradient is one product
after the loop. Everything else in a step is differentiated by JAX as it stands, so that this holds
for every cell of cellkit whose step is a function of its inputs, states and weights alone.

What a step reads of a stacked array is fetched one step ahead. Otherwise XLA fuses the fetch with
the slicing of the gates and everything after it, into loops that it does not vectorise on a CPU.
Small steps are not worth the copy.

A sum of input and product takes the place of the input, and gradients that of what they are the
gradients of: half the memory, which XLA would else take anew, and fill with zeros, at every call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import keras

from cellkit.cells.operations import value_of
from cellkit.engines.backend import backend
from cellkit.engines.engine import Engine
from cellkit.engines.jax.linear import linear
from cellkit.engines.shared import needs
from cellkit.engines.shared import step as steps
from cellkit.engines.shared.around import Around
from cellkit.engines.shared.project import project
from cellkit.typing import Tensor, Tree

if TYPE_CHECKING:
    from cellkit.engines.request import Request
    from cellkit.engines.shared.loop import Leaves

AHEAD = 8192
"""Numbers that a step must read of stacked arrays to have them fetched one step ahead."""


def run(request: Request) -> tuple[Leaves, Any, Leaves]:
    """Run the sequence; see `cellkit.engines`."""
    plan, scope = steps.plan_of(request), request.scope
    projected = project(request, time_major=True)
    inputs = keras.tree.flatten(projected)
    kernels, others = plan.values(), [value_of(v) for v in plan.others]
    step = steps.Step(request, plan, projected)
    # A step that is thrown away, to learn of its output and of the masks that it draws.
    first = [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in inputs]
    output, _ = jax.eval_shape(
        lambda x, s, k, o: step.traced(x, s, o, lambda index, x: x @ k[index]),
        first,
        request.states,
        kernels,
        others,
    )
    scope.redraw()
    masks = scope.drawn()
    sums = _sums(step, first, request.states, kernels, others)
    keep = None if request.mask is None else jnp.swapaxes(request.mask, 0, 1)
    on = None if request.resets is None else ~jnp.swapaxes(request.resets, 0, 1)
    last, emitted, states = _sequence(step, request, output, list(masks), sums)(
        kernels,
        others,
        (list(masks.values()), keep, on),
        inputs,
        [*request.states, *(request.starts or [])],
    )
    if emitted is not None:
        emitted = [jnp.swapaxes(y, 0, 1) for y in emitted]
        emitted = [jnp.flip(y, axis=1) if request.reverse else y for y in emitted]
    return last, emitted, states


def _sums(
    step: steps.Step, inputs: Leaves, states: Leaves, kernels: Leaves, others: Leaves
) -> dict[int, int]:
    """Return for products that a step only adds to an input, used nowhere else, which input.

    Of these the sum alone is kept for the backward loop.
    """
    rows = states[0].shape[0]

    def call(inputs: Leaves, products: Leaves, states: Leaves, others: Leaves) -> Any:
        return step.traced(inputs, states, others, lambda index, _: products[index])

    products = [jax.ShapeDtypeStruct((rows, k.shape[1]), k.dtype) for k in kernels]
    jaxpr = jax.make_jaxpr(call)(inputs, products, states, others).jaxpr
    uses: dict[Any, list[Any]] = {v: [] for v in jaxpr.invars}
    for equation in (*jaxpr.eqns, jaxpr):
        read = equation.outvars if equation is jaxpr else equation.invars
        for variable in read:
            if not hasattr(variable, "val") and variable in uses:
                uses[variable].append(equation)
    found: dict[int, int] = {}
    for index in range(len(products)):
        product = jaxpr.invars[len(inputs) + index]
        for j, x in enumerate(jaxpr.invars[: len(inputs)]):
            once = len(uses[x]) == 1 and uses[x] == uses[product] and x.aval == product.aval
            if once and getattr(uses[x][0], "primitive", None) is jax.lax.add_p:
                found[index] = j
    return found


@jax.custom_vjp
def _known(x: Tensor, transposed: Any, product: Any) -> Any:
    """Return a product that was computed before, differentiable like the product."""
    return product


def _known_forward(x: Tensor, transposed: Any, product: Any) -> Any:
    return product, (transposed, jnp.zeros((), x.dtype))


def _known_backward(saved: Any, grad: Any) -> Any:
    transposed, like = saved
    return (grad @ transposed).astype(like.dtype), None, grad


_known.defvjp(_known_forward, _known_backward)


def _sequence(
    step: steps.Step, request: Request, output: Leaves, names: list[Any], sums: dict[int, int]
) -> Callable[..., Any]:
    """Return the function of a whole sequence, with its gradient.

    Args:
        step: The step.
        request: The run.
        output: Specs of its output.
        names: The keys of the masks.
        sums: Pairs of products and the inputs that they are added to.
    """
    reverse, unroll = request.reverse, max(1, int(request.options.unroll))
    count = len(request.states)

    def advance(
        others: Leaves, masks: Leaves, x: Tensor, states: Leaves, last: Leaves, product: Any
    ) -> tuple[Leaves, Leaves, Any]:
        inputs, keep = x
        by_key = dict(zip(names, masks, strict=True))
        news, held, out = step.advance(inputs, keep, states, last, others, by_key, product)
        return news, held, out if request.collect else None

    def forward(
        save: bool, kernels: Leaves, others: Leaves, fixed: Any, inputs: Leaves, states: Leaves
    ) -> Any:
        masks, keep, on = fixed
        taken = set(sums.values()) if save else set()
        states, starts = states[:count], states[count:]
        around = Around(backend.select, request.zero_masked, starts=starts or None)

        def body(carry: Any, x: Tensor, places: Any) -> Any:
            inputs, keep, on = x
            states, last = around.before(on, None, *carry)
            inputs = [x if x is not None else places[j] for j, x in enumerate(inputs)]
            products: Leaves = []

            def product(index: int, x: Tensor) -> Any:
                products.append(x @ kernels[index])
                return products[-1]

            news, last, out = advance(others, masks, (inputs, keep), states, last, product)
            if not save:
                return (news, last), (out, None), places
            places = dict(places)
            for i, j in sums.items():
                places[j] = products[i] + places[j]
            rest = [None if i in sums else p for i, p in enumerate(products)]
            return (news, last), (out, (states, rest)), places

        start = (states, [jnp.zeros(y.shape, y.dtype) for y in output])
        read = [None if j in taken else x for j, x in enumerate(inputs)]
        (states, last), (emitted, saved), places = _scan(
            body, start, (read, keep, on), {j: inputs[j] for j in taken}, reverse, unroll
        )
        return (last, emitted, states), (read, places, saved)

    @jax.custom_jvp
    def sequence(
        kernels: Leaves, others: Leaves, fixed: Any, inputs: Leaves, states: Leaves
    ) -> Any:
        return forward(False, kernels, others, fixed, inputs, states)[0]

    @sequence.defjvp
    def sequence_jvp(primals: Any, tangents: Any) -> Any:
        """Differentiate forwards step by step, and backwards by `sequence_backward`."""
        result, saved = forward(True, *primals)
        known, known_tree = jax.tree.flatten((primals, saved))
        moving, moving_tree = jax.tree.flatten([t for i, t in enumerate(tangents) if i != 2])
        result_tree = jax.tree.structure(result)

        def forwards(known: Any, moving: Any) -> Leaves:
            (*weights, fixed, inputs, states), _ = jax.tree.unflatten(known_tree, known)
            along = jax.tree.unflatten(moving_tree, moving)

            def plain(kernels: Leaves, others: Leaves, inputs: Leaves, states: Leaves) -> Any:
                return forward(False, kernels, others, fixed, inputs, states)[0]

            return jax.tree.leaves(jax.jvp(plain, (*weights, inputs, states), tuple(along))[1])

        def back(known: Any, grads: Any) -> Leaves:
            (*weights, fixed, _, _), saved = jax.tree.unflatten(known_tree, known)
            upstream = jax.tree.unflatten(result_tree, grads)
            return jax.tree.leaves(sequence_backward((*weights, fixed, saved), upstream))

        changes = linear(forwards, back, known, moving)
        return result, jax.tree.unflatten(result_tree, changes)

    def sequence_backward(residuals: Any, grads: Any) -> Any:
        kernels, others, fixed, (inputs, places, (befores, products)) = residuals
        masks, keep, on = fixed
        inputs = [places[j] if x is None else x for j, x in enumerate(inputs)]
        d_last, d_emitted, d_states = grads
        transposed = [k.T for k in kernels]
        zeros = [jnp.zeros_like(y) for y in d_last]
        from_state: list[int | None] = []

        def body(carry: Any, x: Tensor, places: Any) -> Any:
            d_states, d_last, d_others, d_starts = carry
            keep, on, states, d_out = x
            inputs, products = places
            # The step adds nothing to a sum, and both parts have its gradient.
            products = [
                jnp.zeros_like(inputs[sums[i]]) if i in sums else p for i, p in enumerate(products)
            ]
            factors: list[Any] = []

            def function(
                inputs: Leaves, states: Leaves, last: Leaves, products: Leaves, others: Leaves
            ) -> Any:
                factors.clear()

                def product(index: int, x: Tensor) -> Any:
                    at = next((i for i, s in enumerate(states) if s is x), None)
                    factors.append((at, x))
                    return _known(x, transposed[index], products[index])

                result = advance(others, masks, (inputs, keep), states, last, product)
                return result, [x for at, x in factors if at is None]

            _, pull, extra = jax.vjp(
                function, inputs, states, zeros, products, others, has_aux=True
            )
            d_inputs, d_states, d_last, d_products, d_new = pull((d_states, d_last, d_out))
            d_others = [a + b for a, b in zip(d_others, d_new, strict=True)]
            if on is not None:
                d_states, d_last, d_starts = around.back(on, d_states, d_last, d_starts)
            from_state[:] = [at for at, _ in factors]
            own = [None if i in sums else p for i, p in enumerate(d_products)]
            return (d_states, d_last, d_others, d_starts), extra, (d_inputs, own)

        around = Around(backend.select, request.zero_masked)
        d_starts = [] if on is None else [jnp.zeros_like(s) for s in d_states]
        start = (d_states, d_last, [jnp.zeros_like(w) for w in others], d_starts)
        (d_states, _, d_others, d_starts), extra, (d_inputs, d_products) = _scan(
            body, start, (keep, on, befores, d_emitted), (inputs, products), not reverse, unroll
        )
        rest = iter(extra)
        d_kernels = []
        for index, (kernel, at) in enumerate(zip(kernels, from_state, strict=True)):
            factor = next(rest) if at is None else befores[at]
            d_product = d_inputs[sums[index]] if index in sums else d_products[index]
            d_kernels.append((_rows(factor).T @ _rows(d_product)).astype(kernel.dtype))
        return d_kernels, d_others, d_inputs, [*d_states, *d_starts]

    return sequence


def _rows(x: Tensor) -> Any:
    return x.reshape(-1, x.shape[-1])


def _scan(
    body: Any, carry: Any, xs: Tree, places: Any, reverse: bool, unroll: int
) -> tuple[Any, Any, Any]:
    """Run a loop over time in which what is read of some arrays gives way to new values.

    What a step reads is fetched one step ahead if it is large.

    Args:
        body: Takes the carry and the step's parts of `xs` and of `places`; returns the new carry,
            what is to be stacked, and the new parts of `places`.
        carry: The values that a step hands on.
        xs: Arrays with the time in front.
        places: Arrays with the time in front, to be overwritten: what a step puts there takes no
            memory of its own.
        reverse: True to begin with the last step.
        unroll: Steps per turn of the loop.

    Returns:
        The last carry, what was stacked, and the new `places`.
    """
    leaves = jax.tree.leaves((xs, places))
    length = leaves[0].shape[0]
    if sum(x.size for x in leaves) < AHEAD * length:

        def at_once(carry: Any, x: Tensor) -> Any:
            carry, y, new = body(carry, *x)
            return carry, (y, new)

        carry, (ys, new) = jax.lax.scan(
            at_once, carry, (xs, places), reverse=reverse, unroll=unroll
        )
        return carry, ys, new
    step = -1 if reverse else 1

    def fetch(arrays: Any, t: Any) -> Any:
        return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, t, 0, False), arrays)

    def ahead(carry: Any, t: Any) -> Any:
        carry, places, x = carry
        carry, y, new = body(carry, *x)
        put = jax.lax.dynamic_update_index_in_dim
        places = jax.tree.map(lambda x, new: put(x, new, t, 0), places, new)
        return (carry, places, fetch((xs, places), t + step)), y

    start = (carry, places, fetch((xs, places), length - 1 if reverse else 0))
    (carry, places, _), ys = jax.lax.scan(
        ahead, start, jnp.arange(length), reverse=reverse, unroll=unroll
    )
    return carry, ys, places


ENGINE = Engine(
    name="fused",
    summary=steps.SUMMARY,
    cells=steps.CELLS,
    run=run,
    needs=(needs.SAME_DTYPE, needs.SOMETHING, *steps.needs_of(constants=False)),
    pays=(steps.FEW_ROWS,),
)
