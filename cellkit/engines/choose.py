"""The choice of an engine for a request, and its run."""

from __future__ import annotations

import importlib
from typing import Any

import keras

from cellkit.cells.linear import LinearCell
from cellkit.engines.backend import backend
from cellkit.engines.request import EngineReport, Request, pack
from cellkit.engines.shared.loop import Leaves
from cellkit.errors import problem

# Keras has one backend per process. Not imported in a call, where `torch.compile` would stop.
_own = importlib.import_module(f"cellkit.engines.{backend.name}.engines")
ENGINES: dict[str, Any] = _own.ENGINES
CHUNKS: Any = _own.CHUNKS

# In the order in which "auto" tries them.
NAMES = ("stack", "kernel", "scan", "gated", "projected", "loop")

# Engines that a transformation of PyTorch could not see through.
_OPAQUE = ("stack", "kernel", "gated")


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
    if name not in ENGINES:
        return f"it does not exist on {backend.name}"
    if name == "loop":
        return None
    layer, kind = request.layer, type(request.cell).__name__
    chunked = layer.remat or layer.truncate_gradient is not None
    if chunked and backend.name != "torch" and name != "projected":
        return f"remat and truncate_gradient are those of the loop on {backend.name}"
    if name == "scan" and not isinstance(request.cell, LinearCell):
        return f"{kind} is no `cellkit.linear.LinearCell`"
    if not request.runner.direct:
        return f"{kind} has a dtype of its own, or an activity regularizer"
    if any(0 in x.shape[:2] for x in keras.tree.flatten(request.inputs)):
        return "there is nothing to compute: no row, or no time step"
    if name in _OPAQUE and (transformation := backend.transformed()):
        return transformation
    reason: str | None = ENGINES[name].why_not(request)
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
    if backend.name == "torch":
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
        if backend.name == "jax":
            return "it is no faster than the loop where there is no gradient"
    return None


def _slower(name: str, request: Request) -> str | None:
    """Return why an engine that applies is slower here than one further down, or None."""
    slower = getattr(ENGINES[name], "slower", None)
    reason: str | None = None if slower is None else slower(request)
    return reason


def run(request: Request) -> tuple[Leaves, Any, Leaves]:
    """Run a request with the engine that the layer asks for or that suits it best."""
    if request.scope.one_step:
        name, reasons = "loop", {n: "the call was a single step" for n in NAMES if n != "loop"}
    else:
        name, reasons = choose(request)
    layer, engine = request.layer, ENGINES[name]
    structure, constants = request.inputs, request.scope.constants

    def body(
        inputs: Leaves, states: Leaves, mask: Any, constants: Any
    ) -> tuple[Leaves, Any, Leaves]:
        if mask is not None and not (backend.name == "jax" and name == "loop"):
            # A masked step must not see what is in the padding: a NaN there would reach the
            # gradients through `0 * NaN` even though the step's result is discarded. (JAX's loop
            # sees to it itself.)
            inputs = [backend.select(mask, x, 0) for x in inputs]
        # Tensors of the call, or on JAX the tracers that stand for them.
        request.inputs = pack(structure, inputs)
        request.states, request.mask, request.scope.constants = states, mask, constants
        result: tuple[Leaves, Any, Leaves]
        if CHUNKS is not None and CHUNKS.wanted(request):
            result = CHUNKS.run(request, engine)
        else:
            result = engine.run(request)
        return result

    key = (name, request.training, request.scope.one_step, *layer._settings())
    leaves = keras.tree.flatten(structure)
    arguments = (leaves, request.states, request.mask, constants)
    layer._holder.set("engine", (name, reasons, ()))
    result = backend.compiled(body, arguments, layer, key, request.scope)
    if name == "stack":
        # A compiled call tells nothing of its parts: they are as they were when it was compiled.
        known = layer._holder.make("parts", dict) if backend.name == "jax" else {}
        shapes = (key, request.mask is None, *(tuple(x.shape) for x in leaves))
        parts = tuple(request.parts) or known.get(shapes, ())
        known[shapes] = parts
        layer._holder.set("engine", (name, reasons, parts))
    return result


def run_with(name: str, request: Request) -> tuple[Leaves, Any, Leaves]:
    """Run a request, as it stands, with the engine `name`."""
    result: tuple[Leaves, Any, Leaves] = ENGINES[name].run(request)
    return result


def report(layer: Any) -> EngineReport:
    """Return which engine ran in the last call of `layer`."""
    name, reasons, parts = layer._holder.get("engine") or (None, {}, ())
    return EngineReport(layer.engine, name, dict(reasons), parts)
