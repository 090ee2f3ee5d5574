"""Cells on JAX: the whole sequence as one function with a gradient of its own.

Differentiating a `lax.scan` adds up the gradients of the weights step by step. Here the products of
a step with weights (`cellkit.matmul`) are known by name: the backward loop carries back the
gradients of the states and keeps those of the products, and each weight's gradient is one product
after the loop. Everything else in a step is differentiated by JAX as it stands, so that this holds
for every cell of cellkit whose step is a function of its inputs, states and weights alone.

What a step reads of a stacked array is fetched one step ahead. Otherwise XLA fuses the fetch with
the slicing of the gates and everything after it, into loops that it does not vectorise on a CPU.
Small steps are not worth the copy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import keras

from cellkit._math import value_of
from cellkit.engines import steps
from cellkit.engines.projected import project
from cellkit.engines.steps import slower

if TYPE_CHECKING:
    from cellkit.engines import Request
    from cellkit.loops import Leaves

__all__ = ["run", "slower", "why_not"]

AHEAD = 8192
"""Numbers that a step must read of stacked arrays to have them fetched one step ahead."""


def why_not(request: Request) -> str | None:
    """Return why this engine does not apply, or None; see `cellkit.engines`."""
    return steps.why_not(request)


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
    last, emitted, states = _sequence(step, request, output, list(masks), sums)(
        kernels, others, (list(masks.values()), keep), inputs, list(request.states)
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
def _known(x: Any, transposed: Any, product: Any) -> Any:
    """Return a product that was computed before, differentiable like the product."""
    return product


def _known_forward(x: Any, transposed: Any, product: Any) -> Any:
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
        sums: Which products are added to which inputs.
    """
    reverse, unroll = request.reverse, max(1, int(request.layer.unroll))

    def advance(
        others: Leaves, masks: Leaves, x: Any, states: Leaves, last: Leaves, product: Any
    ) -> tuple[Leaves, Leaves, Any]:
        inputs, keep = x
        by_key = dict(zip(names, masks, strict=True))
        news, held, out = step.advance(inputs, keep, states, last, others, by_key, product)
        return news, held, out if request.collect else None

    def forward(
        save: bool, kernels: Leaves, others: Leaves, fixed: Any, inputs: Leaves, states: Leaves
    ) -> Any:
        masks, keep = fixed

        def body(carry: Any, x: Any) -> Any:
            states, last = carry
            products: Leaves = []

            def product(index: int, x: Any) -> Any:
                products.append(x @ kernels[index])
                return products[-1]

            news, last, out = advance(others, masks, x, states, last, product)
            products = [p + x[0][sums[i]] if i in sums else p for i, p in enumerate(products)]
            return (news, last), (out, (states, products) if save else None)

        start = (states, [jnp.zeros(y.shape, y.dtype) for y in output])
        (states, last), (emitted, saved) = _scan(body, start, (inputs, keep), reverse, unroll)
        return (last, emitted, states), saved

    @jax.custom_vjp
    def sequence(
        kernels: Leaves, others: Leaves, fixed: Any, inputs: Leaves, states: Leaves
    ) -> Any:
        return forward(False, kernels, others, fixed, inputs, states)[0]

    def sequence_forward(
        kernels: Leaves, others: Leaves, fixed: Any, inputs: Leaves, states: Leaves
    ) -> Any:
        result, saved = forward(True, kernels, others, fixed, inputs, states)
        rest = [None if j in sums.values() else x for j, x in enumerate(inputs)]
        return result, (kernels, others, fixed, rest, saved)

    def sequence_backward(residuals: Any, grads: Any) -> Any:
        kernels, others, fixed, inputs, (befores, products) = residuals
        masks, keep = fixed
        # The step adds nothing to a sum, and both parts have its gradient.
        by_input = {j: products[i] for i, j in sums.items()}
        inputs = [by_input.get(j, x) for j, x in enumerate(inputs)]
        products = [None if i in sums else p for i, p in enumerate(products)]
        d_last, d_emitted, d_states = grads
        transposed = [k.T for k in kernels]
        zeros = [jnp.zeros_like(y) for y in d_last]
        from_state: list[int | None] = []
        same: list[int | None] = []

        def body(carry: Any, x: Any) -> Any:
            d_states, d_last, d_others = carry
            (inputs, keep), states, products, d_out = x
            products = [
                jnp.zeros_like(inputs[sums[i]]) if i in sums else p for i, p in enumerate(products)
            ]
            factors: list[Any] = []

            def function(
                inputs: Leaves, states: Leaves, last: Leaves, products: Leaves, others: Leaves
            ) -> Any:
                factors.clear()

                def product(index: int, x: Any) -> Any:
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
            from_state[:] = [at for at, _ in factors]
            same[:] = [
                next((i for i, d in enumerate(d_inputs) if d is p), None) for p in d_products
            ]
            own = [p for p, i in zip(d_products, same, strict=True) if i is None]
            return (d_states, d_last, d_others), (d_inputs, own, extra)

        start = (d_states, d_last, [jnp.zeros_like(w) for w in others])
        (d_states, _, d_others), (d_steps, own, extra) = _scan(
            body, start, ((inputs, keep), befores, products, d_emitted), not reverse, unroll
        )
        left, rest = iter(own), iter(extra)
        d_kernels = [jnp.zeros_like(k) for k in kernels]
        for index, (at, i) in enumerate(zip(from_state, same, strict=True)):
            factor = next(rest) if at is None else befores[at]
            d_product = next(left) if i is None else d_steps[i]
            d_kernels[index] = (_rows(factor).T @ _rows(d_product)).astype(kernels[index].dtype)
        return d_kernels, d_others, None, d_steps, d_states

    sequence.defvjp(sequence_forward, sequence_backward)
    return sequence


def _rows(x: Any) -> Any:
    return x.reshape(-1, x.shape[-1])


def _scan(body: Any, carry: Any, xs: Any, reverse: bool, unroll: int) -> tuple[Any, Any]:
    """Run `lax.scan`, each step's part of `xs` fetched one step ahead if it is large."""
    leaves = jax.tree.leaves(xs)
    length = leaves[0].shape[0]
    if sum(x.size for x in leaves) < AHEAD * length:
        return jax.lax.scan(body, carry, xs, reverse=reverse, unroll=unroll)
    step = -1 if reverse else 1
    first = jax.tree.map(lambda x: x[-1 if reverse else 0], xs)

    def ahead(carry: Any, t: Any) -> Any:
        carry, x = carry
        carry, y = body(carry, x)
        fetch = jax.lax.dynamic_index_in_dim
        return (carry, jax.tree.map(lambda x: fetch(x, t + step, 0, False), xs)), y

    (carry, _), ys = jax.lax.scan(
        ahead, (carry, first), jnp.arange(length), reverse=reverse, unroll=unroll
    )
    return carry, ys
