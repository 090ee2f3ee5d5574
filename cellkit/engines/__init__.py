"""Engines: the ways in which a layer may compute its loop over time.

Every engine computes the same function, that of the plain loop over `cell.call`, gradients
included; they differ in speed and in what they ask of the cell. An engine is a module with two
functions::

    why_not(request) -> str | None    # why it does not apply, or None
    run(request) -> (last, outputs, states)

and perhaps a third, ``slower(request) -> str | None``: why "auto" is better off with an engine
further down, though this one applies.

`run` returns the leaves of the last output, those of all outputs `(batch, time, ...)` in the order
processed (None unless `request.collect`), and those of the final states. When it runs, the inputs
of masked steps are zeros already, so that what stands in the padding reaches nothing (but for JAX's
plain loop, which sees to that).
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import keras

from cellkit import loops
from cellkit._errors import problem
from cellkit._sequence import SequenceScope
from cellkit.loops import Leaves, Loop
from cellkit.outputs import OutputForm
from cellkit.running import CellRunner

__all__ = ["NAMES", "EngineReport", "Request", "check_name", "choose", "report", "run"]

# In the order in which "auto" tries them.
NAMES = ("stack", "kernel", "scan", "gated", "projected", "loop")

# Engines that a transformation of PyTorch could not see through.
_OPAQUE = ("stack", "kernel", "gated")

_BACKENDS = ("torch", "jax", "tensorflow")

# The module of each engine, where not all backends share one. Modules of other backends are not
# imported, and what is not listed does not exist.
_MODULES: dict[str, dict[str, str]] = {
    "stack": dict.fromkeys(_BACKENDS, "stack"),
    "kernel": {"torch": "kernel_torch"},
    "scan": dict.fromkeys(_BACKENDS, "scan"),
    "gated": {b: f"gated_{b}" for b in _BACKENDS},
    "projected": dict.fromkeys(_BACKENDS, "projected"),
    "loop": dict.fromkeys(_BACKENDS, "loop"),
}


@dataclasses.dataclass
class Request:
    """One run of a cell over time.

    Args:
        layer: The layer.
        runner: What runs the cell for the layer.
        inputs: Tensors of shape `(batch, time, ...)`, in the cell's structure.
        states: The leaves of the initial states, each `(batch, ...)`.
        mask: Boolean tensor of shape `(batch, time)`, True where a step counts, or None.
        training: Whether the cell runs in training mode.
        scope: Random masks and constants of this call.
        form: The structure of the output, and the dtypes in which it is returned.
        collect: Whether to return the output of every step.
        zero_masked: Whether collected outputs are zero at masked steps.
        reverse: Whether to go from the last step to the first.
        parts: Takes the reports of the cells of a stack that ran one after the other.
    """

    layer: Any
    runner: CellRunner
    inputs: Any
    states: Leaves
    mask: Any
    training: bool
    scope: SequenceScope
    form: OutputForm
    collect: bool
    zero_masked: bool
    reverse: bool
    parts: list[EngineReport] = dataclasses.field(default_factory=list)

    @property
    def cell(self) -> Any:
        """The cell."""
        return self.runner.cell

    def loop(self, step: Callable[[Leaves, Leaves], tuple[Leaves, Leaves]]) -> Loop:
        """Return the loop over `step` that this request describes."""
        return Loop(
            step=step,
            reverse=self.reverse,
            collect=self.collect,
            zero_masked=self.zero_masked,
            unroll=self.layer.unroll,
            scope=self.scope,
            add_loss=self.layer.add_loss,
            remat=self.layer.remat,
            truncate=self.layer.truncate_gradient,
        )


@dataclasses.dataclass(frozen=True)
class EngineReport:
    """Which engine ran in the last call of a layer, and why no other one did.

    Args:
        asked: The layer's option `engine`.
        engine: Name of the engine that ran, or None before the first call.
        reasons: For every other engine why it did not run.
        parts: Where the cells of a stack ran one after the other, a report for each of them.
    """

    asked: str
    engine: str | None
    reasons: dict[str, str]
    parts: tuple[EngineReport, ...] = ()

    def __str__(self) -> str:
        """Return one line for the engine that ran and one for each other; then the parts'."""
        if self.engine is None:
            return f"engine={self.asked!r}: the layer has not run yet"
        lines = [f"engine={self.asked!r}: {self.engine!r} ran"]
        lines += [f"  not {k!r}: {v}" for k, v in self.reasons.items()]
        for index, part in enumerate(self.parts):
            lines += textwrap.indent(f"cell {index}: {part}", "  ").splitlines()
        return "\n".join(lines)


def check_name(name: Any) -> str:
    """Return `name` if it is the name of an engine or "auto", else raise a `ValueError`."""
    if name == "auto" or name in NAMES:
        return str(name)
    raise problem(
        "There is no such engine.",
        received=f"engine={name!r}",
        expected="one of " + ", ".join(repr(n) for n in ("auto", *NAMES)),
        fix="leave it out: 'auto' takes the fastest that gives the same numbers",
    )


def why_not(name: str, request: Request) -> str | None:
    """Return why the engine `name` does not apply to `request`, or None if it does."""
    if name not in _engines:
        return f"it does not exist on {keras.backend.backend()}"
    if name == "loop":
        return None
    layer, kind = request.layer, type(request.cell).__name__
    chunked = layer.remat or layer.truncate_gradient is not None
    if chunked and _backend != "torch" and name != "projected":
        return f"remat and truncate_gradient are those of the loop on {_backend}"
    if name == "scan" and not _is_linear(request.cell):
        return f"{kind} is no `cellkit.linear.LinearCell`"
    if not request.runner.direct:
        return f"{kind} has a dtype of its own, or an activity regularizer"
    if any(0 in x.shape[:2] for x in keras.tree.flatten(request.inputs)):
        return "there is nothing to compute: no row, or no time step"
    if name in _OPAQUE and (transformation := _transformed()):
        return transformation
    reason: str | None = _engine(name).why_not(request)
    return reason


def choose(request: Request) -> tuple[str, dict[str, str]]:
    """Choose the engine of a request.

    Returns:
        Its name, and why each other engine is not used.

    Raises:
        ValueError: If the layer names an engine that does not apply.
    """
    asked = request.layer.engine
    if asked != "auto":
        reason = why_not(asked, request)
        if reason is not None:
            raise problem(
                f"The engine {asked!r} cannot run this layer.",
                received=f"engine={asked!r}: {reason}",
                expected="an engine that gives the numbers of the plain loop for this cell, these "
                "options and this backend",
                fix="use engine='auto', which takes the fastest that does",
            )
        return asked, {n: f"engine={asked!r} was asked for" for n in NAMES if n != asked}
    reasons: dict[str, str] = {}
    chosen = "loop"
    for name in NAMES:
        reason = _why_not_unasked(name, request) or why_not(name, request)
        reason = reason or _slower(name, request)
        if reason is None:
            chosen = name
            break
        reasons[name] = reason
    later = NAMES[NAMES.index(chosen) + 1 :]
    reasons.update({n: f"{chosen!r} comes first" for n in later})
    return chosen, reasons


def _why_not_unasked(name: str, request: Request) -> str | None:
    """Return why an engine that may well apply is used only where a layer names it, or None."""
    if _backend == "torch":
        if all(x.shape[1] == 1 for x in keras.tree.flatten(request.inputs)):
            return "for a single step the plain loop has the least to set up"
        return None
    if name == "projected":
        # Compilers move the projection of the inputs as they like; measured, most cells were slower
        # with it done by hand.
        return "it is no faster than the loop where a compiler runs the loop"
    if name in ("stack", "gated") and not request.training:
        if not request.collect:
            return "at inference the loop keeps nothing of a step whose output is not wanted"
        if _backend == "jax":
            return "it is no faster than the loop where there is no gradient"
    return None


def _slower(name: str, request: Request) -> str | None:
    """Return why an engine that applies is slower here than one further down, or None."""
    slower = getattr(_engine(name), "slower", None)
    reason: str | None = None if slower is None else slower(request)
    return reason


def run(request: Request) -> tuple[Leaves, Any, Leaves]:
    """Run a request with the engine that the layer asks for or that suits it best."""
    if request.scope.one_step:
        name, reasons = "loop", {n: "the call was a single step" for n in NAMES if n != "loop"}
    else:
        name, reasons = choose(request)
    layer, engine = request.layer, _engine(name)
    structure, constants = request.inputs, request.scope.constants

    def body(
        inputs: Leaves, states: Leaves, mask: Any, constants: Any
    ) -> tuple[Leaves, Any, Leaves]:
        if mask is not None and not (_backend == "jax" and name == "loop"):
            # A masked step must not see what is in the padding: a NaN there would reach the
            # gradients through `0 * NaN` even though the step's result is discarded. (JAX's loop
            # sees to it itself.)
            inputs = [loops.select(mask, x, 0) for x in inputs]
        # Tensors of the call, or on JAX the tracers that stand for them.
        request.inputs = pack(structure, inputs)
        request.states, request.mask, request.scope.constants = states, mask, constants
        result: tuple[Leaves, Any, Leaves]
        if _chunks is not None and _chunks.wanted(request):
            result = _chunks.run(request, engine)
        else:
            result = engine.run(request)
        return result

    key = (name, request.training, request.scope.one_step, *layer._settings())
    leaves = keras.tree.flatten(structure)
    arguments = (leaves, request.states, request.mask, constants)
    layer._holder.set("engine", (name, reasons, ()))
    result = loops.compiled(body, arguments, layer, key, request.scope)
    if name == "stack":
        # A compiled call tells nothing of its parts: they are as they were when it was compiled.
        known = layer._holder.make("parts", dict) if _backend == "jax" else {}
        shapes = (key, request.mask is None, *(tuple(x.shape) for x in leaves))
        parts = tuple(request.parts) or known.get(shapes, ())
        known[shapes] = parts
        layer._holder.set("engine", (name, reasons, parts))
    return result


def in_order(request: Request) -> tuple[Any, Any]:
    """Return the inputs and the mask in the order of processing, for engines that know no other."""
    inputs, mask = request.inputs, request.mask
    if request.reverse:
        inputs = keras.tree.map_structure(lambda x: keras.ops.flip(x, axis=1), inputs)
        mask = None if mask is None else keras.ops.flip(mask, axis=1)
    return inputs, mask


def run_with(name: str, request: Request) -> tuple[Leaves, Any, Leaves]:
    """Run a request, as it stands, with the engine `name`."""
    result: tuple[Leaves, Any, Leaves] = _engine(name).run(request)
    return result


def report(layer: Any) -> EngineReport:
    """Return which engine ran in the last call of `layer`."""
    name, reasons, parts = layer._holder.get("engine") or (None, {}, ())
    return EngineReport(layer.engine, name, dict(reasons), parts)


def pack(structure: Any, leaves: Leaves) -> Any:
    """Put `leaves` into `structure`, which may be a single tensor."""
    if not keras.tree.is_nested(structure):
        return leaves[0]
    return keras.tree.pack_sequence_as(structure, leaves)


def _is_linear(cell: Any) -> bool:
    # A cell of a class that was never imported does not exist: no need to import it here.
    linear = sys.modules.get("cellkit.linear")
    return linear is not None and isinstance(cell, linear.LinearCell)


def _engine(name: str) -> Any:
    module = _engines[name]
    if isinstance(module, str):
        module = _engines[name] = importlib.import_module(f"cellkit.engines.{module}")
    return module


# Keras has one backend per process. The modules are imported last, since they take their types from
# above; and not at a call, where `torch.compile` would stop. Only the scan waits for a cell.
_backend = keras.backend.backend()
_engines: dict[str, Any] = {n: m[_backend] for n, m in _MODULES.items() if _backend in m}
# On Torch any engine may be given one chunk after the other; the other loops do that themselves.
_chunks: Any = None
_transformed: Callable[[], str | None] = lambda: None  # noqa: E731
if _backend == "torch":
    _transformed = importlib.import_module("cellkit.loops.torch").transformed
    _chunks = importlib.import_module("cellkit.engines.chunks_torch")
for _name in NAMES:
    if _name != "scan" and _name in _engines:
        _engine(_name)
