"""One step of a stream on PyTorch: the operations of a recorded step, one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import torch

from cellkit.cells.operations import value_of
from cellkit.cells.scope import SequenceScope, sequence_scope
from cellkit.cells.standard import standard_weights
from cellkit.engines.request import pack
from cellkit.engines.shared.one_step import restarted
from cellkit.engines.torch import fused, kernel
from cellkit.engines.torch.derive.codegen import straight
from cellkit.typing import Tensor

if TYPE_CHECKING:
    from cellkit.engines.request import Request
    from cellkit.engines.shared.loop import Leaves
    from cellkit.engines.shared.one_step import OneStep


def one_step(request: Request, step: OneStep, stock: list[Any], usual: bool) -> OneStep:
    """Return the fastest form of a step that gives the numbers of the layer's engine.

    Args:
        request: A request for one step.
        step: The cell's own step.
        stock: Cells that keep masks on themselves.
        usual: True if the layer computes in the dtype of its variables.
    """
    engine = request.options.engine
    if not usual or engine == "loop":
        return _Eager(step)
    if engine in ("auto", "kernel") and kernel.ENGINE.why_not(request) is None:
        return _Kernel(request)
    record = fused.recorded_step(request) if fused.ENGINE.why_not(request) is None else None
    return _Eager(step) if record is None else _Recorded(request, stock, *record)


class _Eager:
    """The cell's own step, without gradients."""

    def __init__(self, step: OneStep) -> None:
        self.step = step

    def __call__(
        self, inputs: Leaves, states: Leaves, resets: Tensor, constants: dict[str, Any]
    ) -> tuple[Leaves, Leaves]:
        with torch.no_grad():
            return self.step(inputs, states, resets, constants)


class _Kernel:
    """A standard LSTM or GRU."""

    def __init__(self, request: Request) -> None:
        weights = standard_weights(request.cell)
        assert weights is not None  # noqa: S101 - or the engine `kernel` would have refused
        self.request, self.weights = request, weights
        self.function = _lstm if weights.kind == "lstm" else _gru

    def __call__(
        self, inputs: Leaves, states: Leaves, resets: Tensor, constants: dict[str, Any]
    ) -> tuple[Leaves, Leaves]:
        with torch.no_grad():
            states = restarted(self.request, states, resets)
            weights = self.weights
            w, u = value_of(weights.kernel), value_of(weights.recurrent_kernel)
            b, c = value_of(weights.bias), value_of(weights.recurrent_bias)
            x = inputs[0] if inputs[0].dtype is w.dtype else inputs[0].to(w.dtype)
            found = self.function(x, states, w, u, b, c)
            return self.request.form.flatten(found[0]), list(found)


def _lstm(x: Tensor, states: Leaves, w: Any, u: Any, b: Tensor, c: Any) -> Any:
    return torch.lstm_cell(x, states, w.t(), u.t(), b, c)


def _gru(x: Tensor, states: Leaves, w: Any, u: Any, b: Tensor, c: Any) -> tuple[Any]:
    """Run a step of a GRU whose weights are in the order update, reset, new."""
    (h,) = states
    units = h.shape[1]
    of_x, x_new = _affine(x, w, b).split((2 * units, units), 1)
    of_h, h_new = _affine(h, u, c).split((2 * units, units), 1)
    z, r = of_x.add_(of_h).sigmoid_().chunk(2, 1)
    return (torch.lerp(torch.addcmul(x_new, r, h_new).tanh_(), h, z),)


def _affine(x: Tensor, kernel: Tensor, bias: Tensor) -> Any:
    return x @ kernel if bias is None else torch.addmm(bias, x, kernel)


class _Recorded:
    """The operations of a step that the engine `fused` has recorded and compared."""

    def __init__(self, request: Request, stock: list[Any], tape: Any, variables: list[Any]) -> None:
        self.request, self.stock, self.variables = request, stock, variables
        self.function = straight(tape)
        self.projection: Any = None
        projection = fused.recorded_projection(request)
        if projection is not None:
            tape, self.projected, _ = projection
            self.projection = straight(tape)

    def __call__(
        self, inputs: Leaves, states: Leaves, resets: Tensor, constants: dict[str, Any]
    ) -> tuple[Leaves, Leaves]:
        with torch.no_grad():
            states = restarted(self.request, states, resets)
            if self.projection is None:
                x = pack(self.request.inputs, inputs)
                with sequence_scope(SequenceScope(self.request.scope.batch), self.stock):
                    inputs = keras.tree.flatten(self.request.cell.prepare(x, False))
            else:
                inputs, _ = self.projection(inputs, (), [value_of(v) for v in self.projected])
            weights = [value_of(v) for v in self.variables]
            found: tuple[Leaves, Leaves] = self.function(inputs, states, weights)
            return found
