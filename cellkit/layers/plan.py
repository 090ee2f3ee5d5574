"""Plans: how the calls of one signature run, found once.

The first call with a signature takes the whole way: arguments are checked, engines asked, Keras'
`Layer.__call__` passed through. It leaves a `Plan`, with which the next one goes straight to the
engine. A plan holds as long as the watch sees no change of the layer and all that can be reached
from it, and only for eager calls on plain tensors for which `Layer.__call__` does nothing but to
hand on the training flag and the mask; all other calls take the whole way.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from cellkit import _keras_compat as compat
from cellkit import engines
from cellkit.cells.operations import to_tensor
from cellkit.cells.scope import SequenceScope, sequence_scope
from cellkit.cells.watch import Watch
from cellkit.engines.backend import backend
from cellkit.layers.arguments import check_values, merge_masks
from cellkit.layers.initial_states import fitted_states, initial_states
from cellkit.layers.outputs import with_states
from cellkit.layers.requests import request_of, stock_cells
from cellkit.layers.resets import merge_resets
from cellkit.typing import States, Tensor, Tree

if TYPE_CHECKING:
    from cellkit.layers.rnn import RNN

# Signatures of one layer whose plans are kept.
_MOST = 64


@dataclasses.dataclass(frozen=True)
class Call:
    """The arguments of a call that a plan may run.

    Args:
        x: The inputs: a single tensor `(batch, time, ...)`.
        initial_state: Initial states as they were passed, or None.
        mask: The mask as it was passed, or attached to `x`, or None.
        lengths: Lengths as they were passed, or None.
        resets: Resets as they were passed, or None.
        segments: Segments as they were passed, or None.
        kind: The traits of the inputs that a plan depends on: shape, dtype, device and the like.
    """

    x: Tensor
    initial_state: States
    mask: Tensor
    lengths: Any
    resets: Tensor
    segments: Tensor
    kind: tuple[Any, ...]

    def signature(self, training: bool) -> tuple[Any, ...]:
        """Return what tells the plan of this call from others."""
        masked = self.mask is not None or self.lengths is not None
        resets = self.resets is not None or self.segments is not None
        return self.kind, self.initial_state is not None, masked, resets, training


@dataclasses.dataclass(frozen=True)
class Plan:
    """The part that the calls of one signature have in common.

    Args:
        watch: The watch over the layer and its cell.
        choice: The engine, and why not the others.
        request: What all calls have in common; their tensors and their scope are missing.
        stock: Cells that keep masks on themselves.
        zeros: True if the cell's own initial states are zeros.
        start: These zeros; None where they were made in a trace.
        looks: True if the cell wants to see the inputs.
        variable: A variable of the layer, and its dtype where nothing casts it; None if there is
            no variable.
    """

    watch: Watch
    choice: engines.Choice
    request: engines.Request
    stock: list[Any]
    zeros: bool
    start: list[Any] | None
    looks: bool
    variable: tuple[keras.Variable, str] | None

    def holds(self, layer: RNN) -> bool:
        """Tell whether nothing has changed since the plan was made."""
        # An outer layer of mixed precision casts the variables in here, unless Keras ends that.
        cast = self.variable is not None and self.variable[0].dtype != self.variable[1]
        return not cast and self.request.edition == self.watch.key() and _is_usual(type(layer))

    def run(self, layer: RNN, call: Call, training: bool) -> Any:
        """Run a call."""
        x, mask, given = call.x, call.mask, call.initial_state
        if mask is not None or call.lengths is not None:
            mask = merge_masks(x, mask, [], call.lengths)
        resets = None
        if call.resets is not None or call.segments is not None:
            resets = merge_resets(x, call.resets, call.segments, layer.go_backwards)
        if given is not None:
            given = fitted_states(layer.runner, given, x.shape[0])
        if self.looks:
            check_values(layer.cell, x, mask)
        try:
            output = self._run(layer, x, given, mask, resets, training)
        except Exception as error:
            arguments = {
                "initial_state": given,
                "mask": mask,
                "training": training,
                "resets": resets,
            }
            compat.raise_from_call(layer, error, x, arguments)
        if mask is not None:
            compat.pass_mask_on(layer, x, output, mask)
        return output

    def _run(
        self, layer: RNN, x: Tensor, given: Any, mask: Tensor, resets: Tensor, training: bool
    ) -> Any:
        batch, store, request = x.shape[0], layer.state_store, self.request
        scope = SequenceScope(batch, resets=resets)
        with sequence_scope(scope, self.stock, training):
            if self.zeros and given is None and store is None:
                states = self._zeros(batch)
            else:
                states = keras.tree.flatten(initial_states(layer, given, batch))
            starts = None if resets is None else request.runner.initial(batch)
            request = request.of_call(x, states, mask, scope, resets, starts)
            last, outputs, states = engines.run(request, self.choice)
        if store is not None:
            store.assign(states)
        output = request.form.pack(last if outputs is None else outputs)
        if layer.return_state:
            return with_states(output, request.runner.layout.pack(states))
        return output

    def _zeros(self, batch: int) -> list[Any]:
        """Return states of zeros, which the call may keep."""
        if self.start is None:
            return self.request.runner.zeros(batch)
        return [backend.own(s) for s in self.start]


def call_of(
    layer: RNN,
    sequences: Tree,
    initial_state: States,
    mask: Tensor,
    lengths: Any,
    resets: Tensor,
    segments: Tensor,
) -> Call | None:
    """Return a call that a plan may run, or None for one that takes the whole way."""
    if type(sequences) is np.ndarray:
        sequences = to_tensor(sequences, layer.compute_dtype)
    kind = backend.signature(sequences)
    if kind is None or not compat.is_transparent(layer):
        return None
    if mask is None:
        mask = compat.keras_mask(sequences)
    return Call(sequences, initial_state, mask, lengths, resets, segments, kind)


def run(layer: RNN, call: Call, training: bool | None) -> tuple[bool, Any]:
    """Run a call if there is a plan for it.

    Returns:
        Whether there was a plan that holds; and what the call returned, or else the training flag
        that holds for it.
    """
    plans = layer._memo.memoize("call plans", dict)
    outermost, found = compat.open_call(layer, training)
    try:
        training = bool(found)
        plan: Plan | None = plans.get(call.signature(training))
        if plan is None or not plan.holds(layer) or not (outermost or plan.variable):
            return False, training
        return True, plan.run(layer, call, training)
    finally:
        compat.close_call(layer)


def keep(layer: RNN, call: Call, training: bool) -> None:
    """Keep a plan for the signature of a call that has just run, if calls like it may have one."""
    dtype, policy = keras.backend.standardize_dtype(call.x.dtype), layer.compute_dtype
    taken = dtype == policy or not keras.backend.is_float_dtype(dtype)
    choice = layer._memo.get("engine")
    plain = layer.variable_dtype == policy and not compat.is_quantized(layer)
    if not (taken and plain and _is_usual(type(layer)) and choice) or "call" in vars(layer):
        return
    zeros = layer.runner.starts_at_zero()
    start = layer.runner.zeros(call.x.shape[0]) if zeros else None
    if start is not None and any(backend.signature(s) is None for s in start):
        start = None  # made inside of a trace
    variables = [v for v in layer.variables if keras.backend.is_float_dtype(v.dtype)]
    plans = layer._memo.memoize("call plans", dict)
    if len(plans) >= _MOST:
        plans.clear()
    request = request_of(layer, None, [], training, SequenceScope(0))
    plans[call.signature(training)] = Plan(
        watch=layer._memo.get("watch"),
        choice=choice[:2],
        request=request,
        stock=stock_cells(layer),
        zeros=zeros,
        start=start,
        looks=hasattr(layer.cell, "check_values"),
        variable=(variables[0], variables[0].dtype) if variables else None,
    )


_USUAL: dict[str, Any] = {}


def planned(cls: Any) -> Any:
    """Decorate the class whose methods plans stand for."""
    _USUAL.update({name: getattr(cls, name) for name in ("call", "inner_loop", "compute_mask")})
    return cls


def _is_usual(cls: Any) -> bool:
    """Tell whether the methods that plans stand for are there as they were written."""
    for name, method in _USUAL.items():
        if getattr(cls, name) is not method:
            return False
    return True
