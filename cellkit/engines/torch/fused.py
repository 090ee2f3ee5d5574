"""Steps on PyTorch: the whole sequence as one function with a gradient of its own.

A step is run once with a few rows, and every operation that PyTorch executes in it is recorded
(`tape_torch`). If each of them treats rows one by one, the gradient of the whole sequence follows
(`adjoint_torch`): what the step's gradients are multiplied with is computed for many steps at once,
the loop backward does little more than to multiply with it and with the recurrent kernels, and the
gradient of a weight is one product, or one sum, after the loop. Both loops run as code that is
written for the step (`code_torch`).

That this is right is not taken on trust: anything but known operations is refused, and before a
program is used, its numbers and gradients are compared with what PyTorch itself makes of the cell.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import keras
import torch

from cellkit.cells.effects import Undone
from cellkit.cells.operations import columns_of, value_of
from cellkit.cells.recorder import Recorder
from cellkit.cells.scope import SequenceScope, sequence_scope
from cellkit.engines.engine import Engine, Need
from cellkit.engines.request import pack
from cellkit.engines.shared import needs
from cellkit.engines.shared import step as steps
from cellkit.engines.shared.around import in_order
from cellkit.engines.shared.project import project
from cellkit.engines.torch.derive.guard import Refused
from cellkit.engines.torch.derive.program import Program, Sequence, apply
from cellkit.engines.torch.derive.record import Tape, evaluate, record, same
from cellkit.engines.torch.loop import select
from cellkit.typing import States, Tensor, Tree

if TYPE_CHECKING:
    from cellkit.engines.request import Request
    from cellkit.engines.shared.loop import Leaves

# By how much a program may differ from the cell's own step, by dtype.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2**-7, torch.bfloat16: 2**-4}

_DTYPES = "has tensors of several dtypes, or of one that is not a real number"


def _not_recorded(request: Request) -> str | None:
    return _known_step(request)[1]


def run(request: Request) -> tuple[Leaves, Any, Leaves]:
    """Run the sequence; see `cellkit.engines`."""
    known, _ = _known_step(request)
    program, tape = known.program, known.program.tape
    projected = project(request, time_major=True, prepare=_projection(request))
    flags = [None if x is None else x.t() for x in (request.mask, request.resets)]
    given = [*keras.tree.flatten(projected), *flags]
    *inputs, keep, resets = in_order(request.reverse, lambda x: x.flip(0), given)
    masks = _draw(request, known, projected, inputs) if known.masks else []
    weights = dict(zip(tape.weights, map(value_of, known.variables), strict=True))
    constants = [evaluate(c, weights) for c in tape.constants]
    given = _given(request)
    sequence = Sequence(program, masks, keep, request.collect or keep is not None, resets)
    starts = request.starts or []
    results = apply(sequence, (*inputs, *constants, *given, *request.states, *starts))
    outputs, states = list(results[: program.outputs]), list(results[program.outputs :])
    last, collected = [y[-1] for y in outputs], outputs
    if keep is not None:
        held = [hold(y, keep, request.collect, resets) for y in outputs]
        last = [y for y, _ in held]
        collected = [y for _, y in held]
        if request.zero_masked and request.collect:
            collected = [select(keep, y, 0) for y in outputs]
    return last, [y.transpose(0, 1) for y in collected] if request.collect else None, states


def hold(outputs: Tree, keep: Tensor, collect: bool, resets: Tensor = None) -> tuple[Any, Any]:
    """Repeat the previous output at masked steps, zeros where there is none.

    Args:
        outputs: The outputs of the steps, `(time, batch, ...)`.
        keep: `(time, batch)`.
        collect: True if all outputs are wanted.
        resets: `(time, batch)`, True where there is no previous output; or None.

    Returns:
        The last output, and all of them (None unless wanted).
    """
    steps = torch.arange(len(keep), device=keep.device)[:, None]

    def newest(flags: Any) -> Any:
        found = torch.where(flags, steps, -1)
        return found.cummax(0).values if collect else found.max(0, keepdim=True).values

    latest, least = newest(keep), 0 if resets is None else newest(resets).clamp(min=0)
    index = latest.clamp(min=0)
    index = index.reshape(*index.shape, *[1] * (outputs.ndim - 2))
    index = index.expand(-1, -1, *outputs.shape[2:])
    held = select(latest >= least, outputs.gather(0, index), 0)
    return held[-1], held if collect else None


def _given(request: Request) -> Leaves:
    """Return the leaves of the constants that the steps take."""
    constants = steps.constants_of(request, request.constants)
    return [] if constants is None else keras.tree.flatten(constants)


@dataclasses.dataclass
class _Known:
    """The facts about a step.

    Args:
        program: Its program.
        variables: The variables that it reads.
        masks: The keys of the masks that are drawn once per call.
    """

    program: Program
    variables: list[Any]
    masks: list[Any]


def _known_step(request: Request) -> tuple[Any, str | None]:
    """Return what is known of a request's step, or None and why it can't be recorded."""
    like = request.states[0]
    # A record holds for one number of places in a memory.
    shapes = [tuple(x.shape[1:]) for x in keras.tree.flatten(request.constants)]

    def learn() -> tuple[Any, str | None]:
        try:
            # Tensors made in inference mode could not be trained with later.
            with torch.inference_mode(False):
                return _learn(request), None
        except Refused as refused:
            return None, f"a step of {type(request.cell).__name__} {refused}"

    known: tuple[Any, str | None]
    known = steps.remember(request, "recorded", (like.dtype, like.device, *shapes), learn)
    return known


def _learn(request: Request) -> _Known:
    """Record one step with a few rows of made-up numbers. Nothing is drawn or written for good."""
    plan = steps.plan_of(request)
    kernels = [variable for variable, _ in plan.kernels]
    variables = list({id(v): v for v in (*kernels, *plan.others)}.values())
    tensors = [*request.states, *(value_of(v) for v in variables)]
    dtype = request.states[0].dtype
    with torch.no_grad():
        constants = steps.constants_of(request, request.constants)
    given = [*keras.tree.flatten(request.inputs), *keras.tree.flatten(constants or ())]
    if dtype not in _TOLERANCE or any(t.dtype != dtype for t in (*tensors, *given)):
        raise Refused(_DTYPES)
    with Undone(request.cell) as effects:
        if effects.found is not None:
            raise Refused(effects.found)
        # Twice, with other numbers and another number of rows: what depends on them by anything
        # but the operations shows as a difference. The second rows are what is compared, too.
        numbers = [_Numbers(request.states[0], (*given, *tensors), again) for again in (0, 1)]
        (tape, *_), (other, step, masks) = [
            _recorded(request, plan, variables, constants, draw) for draw in numbers
        ]
        if not same(tape, other):
            raise Refused("is another one for other values, or another number of rows")
        known = _Known(Program(tape), variables, step.keys)
        with torch.no_grad(), Recorder():
            if not _agrees(known, step, numbers[1], masks):
                raise Refused("has another gradient than its operations")
    if effects.found is not None:
        raise Refused(effects.found)
    return known


def _recorded(
    request: Request, plan: steps.Plan, variables: list[Any], constants: Tree, draw: _Numbers
) -> tuple[Any, _Step, list[Any]]:
    """Return a record of one step, the step, and the masks that it used."""
    dtype = request.states[0].dtype
    request = dataclasses.replace(request, scope=SequenceScope(draw.rows))
    with torch.no_grad(), Recorder():
        x = keras.tree.map_structure(lambda x: draw(x.shape[2:]), request.inputs)
        projected = request.cell.prepare(x, False)
        leaves = keras.tree.flatten(projected)
        if any(t.dtype != dtype for t in leaves):
            raise Refused(_DTYPES)
        step = _Step(request, plan, projected, variables, constants)
        given = [draw(x.shape[1:]) for x in keras.tree.flatten(constants or ())]
        inputs = [draw(x.shape[1:]) for x in leaves]
        states = [draw(s.shape[1:]) for s in request.states]
        weights = [value_of(v).detach() for v in variables]
        step(inputs, states, None, weights, given)  # draws the masks that are drawn once per call
        drawn = request.scope.drawn()
        step.keys, masks = list(drawn), [*drawn.values()]
        step(inputs, states, masks, weights, given)
        if step.step.writes:
            raise Refused("writes a variable, or draws random numbers")
        if step.step.adds_losses:
            raise Refused("adds a loss")
        return record(step, inputs, states, masks, weights, given), step, masks


def _projection(request: Request) -> Any:
    """Return what projects the rows of the inputs, with operations joined where they can be."""
    plain = functools.partial(request.cell.prepare, training=request.training)
    known = recorded_projection(request)
    if known is None:
        return plain
    tape, variables, structure = known

    def joined(rows: Any) -> Any:
        leaves = [*keras.tree.flatten(rows), *map(value_of, variables)]
        nodes = [*tape.inputs, *tape.weights]
        if any(x.dtype != leaves[0].dtype for x in leaves):
            return plain(rows)  # other weights than those that were recorded
        values = dict(zip(nodes, leaves, strict=True))
        return pack(structure, [evaluate(y, values) for y in tape.outputs])

    return joined


def recorded_projection(request: Request) -> Any:
    """Return a record of `prepare`, its variables and the structure of its result, or None."""
    given = keras.tree.flatten(request.inputs)
    key = tuple((x.dtype, x.device, x.shape[2:]) for x in given)
    return steps.remember(request, "projection", key, lambda: _record_projection(request))


def recorded_step(request: Request) -> tuple[Tape, list[Any]] | None:
    """Return the record of a step and its variables; None without one, or with other arguments."""
    known, _ = _known_step(request)
    if known is None or known.masks or known.program.tape.given:
        return None
    return known.program.tape, known.variables


def _record_projection(request: Request) -> Any:
    """Record `prepare` with a few rows, or return None where it can't be, or draws masks."""
    cell, given = request.cell, keras.tree.flatten(request.inputs)
    dtype = given[0].dtype
    if dtype not in _TOLERANCE or any(x.dtype != dtype for x in given):
        return None
    variables = [v for v in cell.variables if value_of(v).dtype == dtype]
    values = [value_of(v).detach() for v in variables]
    draw = _Numbers(given[0], (*given, *values))
    scope = SequenceScope(draw.rows)
    structure: Any = None

    def prepare(inputs: Tree, _: Any, __: Any, weights: Any, *___: Any) -> Any:
        nonlocal structure
        mapping = list(zip(variables, weights, strict=True))
        with sequence_scope(scope, [], request.training), Recorder(mapping) as recorder:
            structure = cell.prepare(pack(request.inputs, inputs), request.training)
        if recorder.written or recorder.losses or scope.drawn():
            raise Refused("does more than to compute")
        return keras.tree.flatten(structure), []

    inputs = [draw(x.shape[2:]) for x in given]
    try:
        tape = record(prepare, inputs, [], [], values)
    except Refused:
        return None
    with torch.no_grad():
        want, _ = prepare(inputs, None, None, values)
        known = dict(zip([*tape.inputs, *tape.weights], [*inputs, *values], strict=True))
        have = [evaluate(y, known) for y in tape.outputs]
    close = {"rtol": _TOLERANCE[dtype], "atol": _TOLERANCE[dtype]}
    agrees = all(torch.allclose(a, b, **close) for a, b in zip(want, have, strict=True))
    structure = keras.tree.map_structure(lambda _: None, structure)
    return (tape, variables, structure) if agrees else None


def _draw(request: Request, known: _Known, projected: Tree, inputs: Leaves) -> list[Any]:
    """Return the random masks of this call, which a step that is thrown away asks for."""
    with torch.no_grad():
        constants = steps.constants_of(request, request.constants)
        step = _Step(request, steps.plan_of(request), projected, known.variables, constants)
        weights, given = [value_of(v) for v in known.variables], keras.tree.flatten(constants or ())
        step([x[0] for x in inputs], request.states, None, weights, given)
    request.scope.redraw()
    # Those of an earlier chunk of the same call are there, and stay.
    return [request.scope.mask(key, torch.ones) for key in known.masks]


class _Numbers:
    """Makes numbers up, without touching any random generator of the user's.

    Args:
        like: A tensor of the dtype and device to use.
        tensors: The tensors of the computation: no axis of theirs has as many entries as rows.
        again: The number of earlier trials: numbers are others, and larger, and so is the
            number of rows.
    """

    def __init__(self, like: Any, tensors: Iterable[Any], again: int = 0) -> None:
        taken = {n for x in tensors for n in x.shape}
        free = (n for n in itertools.count(7) if n not in taken)
        self.rows, self.like = next(itertools.islice(free, again, None)), like
        self.generator = torch.Generator(device="cpu").manual_seed(7 + again)
        self.scale = 1.0 + again

    def __call__(self, shape: Any, *lead: int) -> Any:
        shape = (*lead, self.rows, *shape)
        x = torch.randn(shape, generator=self.generator, dtype=self.like.dtype, device="cpu")
        return (self.scale * x).to(self.like.device)


class _Step:
    """The cell's own step as a function of tensors.

    Args:
        request: The run.
        plan: The facts about a step.
        projected: The structure of its inputs.
        variables: The variables that it reads, each once.
        constants: The structure of the constants that it takes, or None.
    """

    def __init__(
        self,
        request: Request,
        plan: steps.Plan,
        projected: Tree,
        variables: list[Any],
        constants: Tree,
    ) -> None:
        self.step = steps.Step(request, plan, projected, constants)
        at = {id(v): i for i, v in enumerate(variables)}
        self.kernels = [(at[id(v)], columns) for v, columns in plan.kernels]
        self.others = [at[id(v)] for v in plan.others]
        self.keys: list[Any] = []

    def __call__(
        self, inputs: Tree, states: States, masks: Any, weights: Any, given: Leaves
    ) -> Any:
        """Return the leaves of the output, and the new states."""
        others = [weights[i] for i in self.others]

        def product(index: int, x: Tensor) -> Any:
            at, columns = self.kernels[index]
            return x @ columns_of(weights[at], columns)

        if masks is None:  # the step draws them
            return self.step.traced(inputs, list(states), others, product, given)
        by_key = dict(zip(self.keys, masks, strict=True))
        with self.step.request.scope.substituted(by_key):
            return self.step.traced(inputs, list(states), others, product, given)


def _agrees(known: _Known, step: _Step, draw: _Numbers, masks: list[Any]) -> bool:
    """Tell whether a program gives the numbers and gradients of two steps of the cell."""
    program, tape, length = known.program, known.program.tape, 2
    xs = [draw(x.shape, length).requires_grad_() for x in tape.inputs]
    states = [draw(s.shape).requires_grad_() for s in tape.states]
    given = [draw(c.shape).requires_grad_() for c in tape.given]
    weights = [value_of(v).detach().clone().requires_grad_() for v in known.variables]
    arguments = [*xs, *states, *weights, *given]

    def outcome(results: list[Any]) -> list[Any]:
        total: Any = 0.0
        for y in results:
            weight = torch.linspace(0.5, 1.5, y.numel(), device=y.device, dtype=y.dtype)
            total = total + (y * weight.reshape(y.shape)).sum()
        if not torch.is_tensor(total) or not total.requires_grad:
            return [*results, *[None] * len(arguments)]
        return [*results, *torch.autograd.grad(total, arguments, allow_unused=True)]

    with torch.enable_grad():
        now, emitted = states, []
        for t in range(length):
            output, now = step([x[t] for x in xs], now, masks, weights, given)
            emitted.append(output)
        want = outcome([*(torch.stack(ys) for ys in zip(*emitted, strict=True)), *now])
        values = dict(zip(tape.weights, weights, strict=True))
        constants = [evaluate(c, values) for c in tape.constants]
        sequence = Sequence(program, masks, None, True)
        have = outcome(list(apply(sequence, (*xs, *constants, *given, *states))))
    tolerance = _TOLERANCE[states[0].dtype]
    for a, b in zip(want, have, strict=True):
        if a is None or b is None:
            if any(x is not None and bool(x.any()) for x in (a, b)):
                return False
            continue
        scale = max(1.0, float(a.detach().abs().nan_to_num().max())) if a.numel() else 1.0
        if not torch.allclose(a, b, rtol=0.0, atol=tolerance * scale, equal_nan=True):
            return False
    return True


ENGINE = Engine(
    name="fused",
    summary=steps.SUMMARY,
    cells=steps.CELLS,
    run=run,
    needs=(
        needs.SAME_DTYPE,
        needs.SOMETHING,
        *steps.needs_of(constants=True),
        Need("a step that treats rows one by one, in one floating dtype", _not_recorded),
    ),
)
