"""Linear functions with a transposition of their own, for every transformation of JAX.

A function with a `jax.custom_vjp` cannot be differentiated forwards. One with a `jax.custom_jvp`
can, both ways, if its tangent is a linear function that JAX can transpose; here that function says
itself how. (`jax.custom_derivatives.linear_call` is such a function, but knows no `jax.vmap`.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Linear = Callable[[Sequence[Any], Sequence[Any]], Sequence[Any]]


def linear(
    function: Linear, transpose: Linear, fixed: Sequence[Any], arguments: Sequence[Any]
) -> list[Any]:
    """Return ``function(fixed, arguments)``, which is linear in `arguments`.

    Args:
        function: Takes the arrays `fixed` and `arguments`, returns a list of arrays.
        transpose: Takes `fixed` and cotangents of the results, returns those of `arguments`.
        fixed: Arrays that the function depends on in any way, differentiable.
        arguments: Arrays that it is linear in.
    """
    results: list[Any] = _linear.bind(
        *fixed, *arguments, function=function, transpose=transpose, count=len(fixed)
    )
    return results


def _run(*arrays: Any, function: Linear, transpose: Linear, count: int) -> list[Any]:
    return list(function(arrays[:count], arrays[count:]))


def _shapes(*avals: Any, **options: Any) -> Any:
    return jax.make_jaxpr(lambda *arrays: _run(*arrays, **options))(*avals).out_avals


def _tangents(primals: Any, tangents: Any, **options: Any) -> tuple[list[Any], list[Any]]:
    results = _linear.bind(*primals, **options)
    count = options["count"]
    moving = [i for i in range(count) if type(tangents[i]) is not ad.Zero]
    parts = []
    if any(type(t) is not ad.Zero for t in tangents[count:]):
        steps = [ad.instantiate_zeros(t) for t in tangents[count:]]
        parts.append(_linear.bind(*primals[:count], *steps, **options))
    if moving:

        def of_fixed(*values: Any) -> list[Any]:
            arrays = list(primals)
            for i, value in zip(moving, values, strict=True):
                arrays[i] = value
            return _run(*arrays, **options)

        at, towards = ([x[i] for i in moving] for x in (primals, tangents))
        parts.append(jax.jvp(of_fixed, at, towards)[1])
    return results, [sum(ts[1:], ts[0]) for ts in zip(*parts, strict=True)]


def _transposed(cotangents: Any, *arrays: Any, transpose: Linear, count: int, **_: Any) -> Any:
    grads = transpose(arrays[:count], [ad.instantiate_zeros(t) for t in cotangents])
    wanted = zip(grads, arrays[count:], strict=True)
    return [None] * count + [g if ad.is_undefined_primal(x) else None for g, x in wanted]


def _batched(arrays: Any, axes: Any, *, function: Linear, transpose: Linear, count: int) -> Any:
    mapped = [axis is not None for axis in axes]
    size = next(x.shape[a] for x, a, m in zip(arrays, axes, mapped, strict=True) if m)
    first = [
        jnp.moveaxis(x, a, 0) if m else x for x, a, m in zip(arrays, axes, mapped, strict=True)
    ]
    for i in range(count, len(first)):
        if not mapped[i]:
            first[i] = jnp.broadcast_to(first[i], (size, *first[i].shape))
    of_fixed = tuple(0 if m else None for m in mapped[:count])

    def over(inner: Linear) -> Linear:
        def run(fixed: Sequence[Any], arguments: Sequence[Any]) -> Sequence[Any]:
            each = jax.vmap(
                lambda fixed, arguments: list(inner(fixed, arguments)),
                in_axes=(of_fixed, 0),
                axis_size=size,
            )
            found: list[Any] = each(tuple(fixed), list(arguments))
            return found

        return run

    results = _linear.bind(*first, function=over(function), transpose=over(transpose), count=count)
    return results, [0] * len(results)


_linear = Primitive("cellkit_linear")
_linear.multiple_results = True
_linear.def_impl(_run)
_linear.def_abstract_eval(_shapes)
ad.primitive_jvps[_linear] = _tangents
ad.primitive_transposes[_linear] = _transposed
batching.primitive_batchers[_linear] = _batched
mlir.register_lowering(_linear, mlir.lower_fun(_run, multiple_results=True))
