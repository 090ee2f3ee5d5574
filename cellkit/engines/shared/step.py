"""One step of a cell as a function of tensors alone, for engines that differentiate it themselves.

All cells of cellkit qualify whose step depends on nothing but its inputs, its states, weights, and
masks that are drawn once per call. Its products with weights (`cellkit.matmul`) are known by name:
an engine may compute them as it likes, and sum their gradients up in one product per weight.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras

from cellkit import _keras_compat as compat
from cellkit.cells.cell import Cell
from cellkit.cells.effects import Undone
from cellkit.cells.operations import columns_of, matmul_as
from cellkit.cells.recorder import Recorder
from cellkit.cells.runner import trace
from cellkit.cells.scope import SequenceScope, sequence_scope
from cellkit.cells.wrapper import handing, projected_constants
from cellkit.engines.backend import backend
from cellkit.engines.engine import Need
from cellkit.engines.request import pack
from cellkit.engines.shared import needs
from cellkit.engines.shared.around import Around
from cellkit.engines.shared.loop import ROWS
from cellkit.engines.shared.project import ROW_WISE
from cellkit.typing import Tensor, Tree

if TYPE_CHECKING:
    from cellkit.engines.request import Request
    from cellkit.engines.shared.loop import Leaves

Product = Callable[[int, Any], Any]


def _no_function(request: Request) -> str | None:
    return plan_of(request).reason


SUMMARY = (
    "`project` for all time steps in one product, and a gradient of the whole sequence of its own: "
    "a weight's is one product, or one sum, after the loop."
)
CELLS = (
    "Every `cellkit.Cell` whose step is a function of its inputs, states, weights and the masks of "
    "the call; on Torch, one that treats the rows of the batch one by one, in one floating dtype"
)


def needs_of(constants: bool) -> tuple[Need, ...]:
    """Return the needs of an engine that differentiates steps itself, beside the dtypes.

    Args:
        constants: True if it takes constants of wrappers, and gives them gradients.
    """
    return (
        needs.A_CELL,
        needs.untouched({"call": Cell, "prepare": Cell, "advance": Cell}, constants),
        needs.NOT_FULLY_UNROLLED,
        ROW_WISE,
        Need(
            "a step that is a function of inputs, states, weights and the masks of the call",
            _no_function,
            rules_out=("zoneout",),
        ),
    )


def _many_rows(request: Request) -> str | None:
    """Return why the plain loop is faster than to differentiate the sequence, or None.

    What is gained is the addition of each kernel's gradients, step by step. What is paid is that
    all that the gradient of a step takes is kept, and stacked, for each of its rows.
    """
    kernels = [tuple(k.shape) for k in plan_of(request).values()]
    rows = request.states[0].shape[0] or ROWS
    gained = sum(math.prod(shape) for shape in kernels)
    # Products and states, and the gradients of both.
    paid = 2 * (sum(shape[-1] for shape in kernels) + sum(s.shape[-1] for s in request.states))
    if gained < rows * paid:
        return f"with {rows} rows a step keeps more numbers than its kernels have"
    return None


FEW_ROWS = Need("so few rows that a step keeps fewer numbers than its kernels have", _many_rows)


@dataclasses.dataclass
class Plan:
    """The facts about one step, learnt from tracing it.

    Args:
        reason: Reason why a step is not a function of tensors alone, or None.
        kernels: The weights of the products, in the order of the products: variables, and which of
            their columns.
        others: The variables that a step reads beside them.
    """

    reason: str | None
    kernels: list[tuple[Any, slice]] = dataclasses.field(default_factory=list)
    others: list[Any] = dataclasses.field(default_factory=list)

    def values(self) -> Leaves:
        """Return the kernels as they are now."""
        return [columns_of(variable, columns) for variable, columns in self.kernels]


def plan_of(request: Request) -> Plan:
    """Return what a step of this request does."""
    given = keras.tree.flatten(request.constants)
    leaves = [*keras.tree.flatten(request.inputs), *request.states, *given]
    # Inputs of another dtype may be handed on as they are, and be other steps then.
    key = tuple(x.dtype for x in leaves)
    if backend.name != "torch":
        # Steps that are traced anew for other numbers of rows may be other steps then.
        key += tuple((x.shape[0], *x.shape[2:]) for x in leaves)
    plan: Plan = remember(request, "plans", key, lambda: _quietly(request))
    return plan


def _quietly(request: Request) -> Plan:
    """Explore a step, and leave nothing of that behind."""
    name, kept = type(request.cell).__name__, request.options.cache.memoize(EFFECTS, list)
    if len(kept) < _TRIES:
        plan: Plan | None = None
        with Undone(request.cell) as effects:
            if effects.found is None:
                plan = _explore(request)
        if plan is not None and (effects.found is None or plan.reason is not None):
            return plan
        kept.append(effects.found)
    return Plan(f"a step of {name} {kept[-1]}")


def remember(request: Request, name: str, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
    """Return what `make` finds out about a request's step, once for each edition.

    Args:
        request: The run.
        name: Under which the layer keeps it.
        key: The rest of what it depends on, beside the cell and the training flag.
        make: Finds it out.
    """
    full = (request.training, *key)
    kept = request.options.cache.current(name, request.edition, dict)
    found = kept.get(full)
    if found is None:
        if len(kept) > 7:
            kept.clear()
        found = kept[full] = (make(),)
    return found[0]


def remembered(request: Request, name: str, key: tuple[Any, ...]) -> tuple[Any] | None:
    """Return what `remember` keeps, in a tuple, or None where it has found nothing out yet."""
    found: tuple[Any] | None = request.options.cache.current(name, request.edition, dict).get(
        (request.training, *key)
    )
    return found


EFFECTS = "effects"
"""Under which a layer keeps what effects a step of its cell was seen to have."""

# A step with effects changes what is watched at every call: it is not explored each time.
_TRIES = 3


def _explore(request: Request) -> Plan:
    """Trace one step abstractly. Nothing runs, so nothing happens one time too often."""
    cell, name, training = request.cell, type(request.cell).__name__, request.training
    if next(compat.dropout_caches(cell), None) is not None:
        return Plan(f"{name} has cells of Keras inside, which keep masks to themselves")
    own = (request.runner.compute_dtype, request.runner.variable_dtype)
    for part in compat.parts(cell):
        if isinstance(part, keras.layers.Layer):
            if (part.compute_dtype, part.variable_dtype) != own:
                return Plan(f"{type(part).__name__} inside {name} has a dtype of its own")
    if any(isinstance(part, keras.layers.RNN) for part in compat.parts(cell)):
        return Plan(f"{name} has a recurrent layer inside, which chooses how to run by itself")
    kernels: list[tuple[Any, slice]] = []
    recorder = Recorder()

    def product(x: Tensor, kernel: Tensor, columns: slice) -> Any:
        if not _of_rows(x):
            return x @ columns_of(kernel, columns)
        known = id(kernel) in recorder.read
        result = x @ columns_of(kernel, columns)
        if not known:
            recorder.read.pop(id(kernel), None)
        kernels.append((kernel, columns))
        return result

    def one(inputs: Tree, states: Leaves, constants: Tree) -> Any:
        kernels.clear()
        given = constants_of(request, constants)
        scope = SequenceScope(keras.ops.shape(states[0])[0])
        with sequence_scope(scope, [], training), handing(given):
            with Recorder():
                projected = cell.prepare(inputs, training)
                # Draws the masks that are drawn once per call.
                request.runner.run(cell.advance, projected, states, training, {})
            with recorder, matmul_as(product):
                output, news = request.runner.run(cell.advance, projected, states, training, {})
        return keras.tree.flatten(projected), keras.tree.flatten(output), news

    inputs = keras.tree.map_structure(
        lambda x: keras.KerasTensor((x.shape[0], *x.shape[2:]), dtype=_dtype(x)), request.inputs
    )
    states = [keras.KerasTensor(tuple(s.shape), dtype=_dtype(s)) for s in request.states]
    constants = keras.tree.map_structure(
        lambda x: keras.KerasTensor(tuple(x.shape), dtype=_dtype(x)), request.constants
    )
    found = trace(one, inputs, states, constants, variables=cell.variables)
    if recorder.written:
        return Plan(f"a step of {name} writes a variable, or draws random numbers")
    if recorder.losses:
        return Plan(f"a step of {name} adds a loss")
    if not all(keras.backend.is_float_dtype(_dtype(x)) for x in keras.tree.flatten(found)):
        return Plan(f"not all that a step of {name} takes and returns are real numbers")
    others = list(recorder.read.values())
    if not all(keras.backend.is_float_dtype(v.dtype) for v in others):
        return Plan(f"a step of {name} reads a variable that is not a real number")
    return Plan(None, kernels, others)


def _of_rows(x: Tensor) -> bool:
    """Return True for a vector per row: products of windows of steps are not cut apart."""
    return len(x.shape) == 2


def constants_of(request: Request, constants: Tree) -> Any:
    """Return the constants of a run as its steps take them, or None where they take none.

    Args:
        request: The run.
        constants: Its constants, or others in their place.
    """
    if not request.runner.takes_constants:
        return None
    return projected_constants(request.cell, (constants or {}).get("constants"))


def _dtype(x: Tensor) -> str:
    return str(keras.backend.standardize_dtype(x.dtype))


class Step:
    """The step as a function of arrays.

    Args:
        request: The run.
        plan: The facts about a step.
        projected: The structure of its inputs.
        constants: The structure of the constants that it takes, or None.

    Attributes:
        writes: True if the last run wrote a variable (without effect).
        adds_losses: True if it added a loss.
    """

    def __init__(
        self, request: Request, plan: Plan, projected: Tree, constants: Tree = None
    ) -> None:
        self.request, self.plan, self.projected = request, plan, projected
        self.constants = constants
        self.writes = self.adds_losses = False

    def __call__(
        self, inputs: Leaves, states: Leaves, others: Leaves, masks: Any, product: Product
    ) -> tuple[Leaves, Leaves]:
        """Return the output and the new states.

        Args:
            inputs: The projected inputs of the step.
            states: The states.
            others: Values of the variables beside the kernels.
            masks: The masks of this call, by their keys.
            product: Returns the product of a tensor with the kernel of this index.
        """
        with self.request.scope.substituted(masks):
            return self.traced(inputs, states, others, product)

    def advance(
        self,
        inputs: Leaves,
        keep: Tensor,
        states: Leaves,
        last: Leaves,
        others: Leaves,
        masks: Any,
        product: Product,
    ) -> tuple[Leaves, Leaves, Leaves]:
        """Return the new states, the last output, and what is emitted; see `cellkit.engines`.

        Args:
            inputs: The projected inputs of the step.
            keep: True for the rows that the step counts for, `(batch,)`, or None for all.
            states: The states.
            last: The last output so far.
            others: Values of the variables beside the kernels.
            masks: The masks of this call, by their keys.
            product: Returns the product of a tensor with the kernel of this index.
        """
        output, news = self(inputs, states, others, masks, product)
        around = Around(backend.select, self.request.zero_masked)
        news, held, emitted = around.after(keep, output, news, states, last)
        return news, held, emitted if self.request.collect else []

    def traced(
        self,
        inputs: Leaves,
        states: Leaves,
        others: Leaves,
        product: Product,
        given: Leaves | None = None,
    ) -> tuple[Leaves, Leaves]:
        """Return the output and the new states, and let the scope draw its masks."""
        constants = pack(self.constants, given) if given else None
        request, count = self.request, iter(range(len(self.plan.kernels)))
        values = Recorder(zip(self.plan.others, others, strict=True))
        # A backward loop is traced when the call of the layer is over: all that the step takes
        # from its surroundings is put up again.
        with (
            sequence_scope(request.scope, [], request.training),
            values,
            handing(constants),
            matmul_as(
                lambda x, kernel, columns: (
                    product(next(count), x) if _of_rows(x) else x @ columns_of(kernel, columns)
                )
            ),
        ):
            output, states = request.runner.within(
                lambda: request.runner.run(
                    request.cell.advance,
                    pack(self.projected, inputs),
                    states,
                    request.training,
                    {},
                ),
                request.training,
            )
            self.writes, self.adds_losses = bool(values.written), bool(values.losses)
            return request.form.flatten(output), states
