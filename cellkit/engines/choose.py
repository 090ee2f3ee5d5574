"""The choice of an engine for a request, and its run."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import keras

from cellkit import _former_names
from cellkit.cells.memo import Memo
from cellkit.engines.backend import backend
from cellkit.engines.engine import Engine
from cellkit.engines.request import EngineReport, Request, pack
from cellkit.engines.shared import needs
from cellkit.engines.shared.around import truncation
from cellkit.engines.shared.loop import Leaves
from cellkit.errors import problem

# Keras has one backend per process. Not imported in a call, where `torch.compile` would stop.
_own = importlib.import_module(f"cellkit.engines.{backend.name}.engines")
ENGINES: dict[str, Engine] = _own.ENGINES
CHUNKS: Any = _own.CHUNKS

# In the order in which "auto" tries them.
NAMES = ("stack", "kernel", "scan", "chunked", "fused", "projected", "loop")

# Former names of engines.
ALIASES = {"gated": "fused"}


# The name of an engine, and for each other one why it is not used.
Choice = tuple[str, dict[str, str]]


def check_name(name: Any) -> str:
    """Return the name of an engine, or "auto", as it is today, else raise a `ValueError`."""
    if isinstance(name, str) and name in ALIASES:
        _former_names.warn(f"engine={name!r}", f"engine={ALIASES[name]!r}")
        name = ALIASES[name]
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
    engine = ENGINES.get(name)
    return _absent() if engine is None else engine.why_not(request)


def _absent() -> str:
    return f"it does not exist on {backend.name}"


def choose(request: Request) -> Choice:
    """Choose the engine of a request.

    Returns:
        Its name, and why each other engine is not used.

    Raises:
        ValueError: If the layer names an engine that does not apply.
    """
    asked = request.options.engine
    if asked in ENGINES and needs.NO_TRANSFORMATION in ENGINES[asked].needs:
        transformation = needs.NO_TRANSFORMATION.why_not(request)
        if transformation is not None:
            # A layer that names an engine can still be exported, traced and transformed.
            return "loop", {n: transformation for n in NAMES if n != "loop"}
    if asked != "auto":
        reason = why_not(asked, request)
        if reason is not None and backend.transformed() is not None:
            return "loop", {n: reason for n in NAMES if n != "loop"}
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
        engine = ENGINES.get(name)
        reason = _absent() if engine is None else engine.why_not_unasked(request)
        if reason is None:
            chosen = name
            break
        reasons[name] = reason
    later = NAMES[NAMES.index(chosen) + 1 :]
    reasons.update({n: f"{chosen!r} comes first" for n in later})
    return chosen, reasons


def run(request: Request, choice: Choice | None = None) -> tuple[Leaves, Any, Leaves]:
    """Run a request.

    Args:
        request: The request.
        choice: The result of `choose` for a request like this one. None: the engine that the layer
            asks for or that suits it best.
    """
    if choice is not None:
        name, reasons = choice
    elif request.scope.one_step:
        name, reasons = "loop", {n: "the call was a single step" for n in NAMES if n != "loop"}
    else:
        name, reasons = choose(request)
    options, engine = request.options, ENGINES[name]
    options.cache.set("engine", (name, reasons, (), ""))
    if not backend.compiles:
        if backend.repeated is None or choice is None:
            result = _run(engine, request)
        else:
            result = backend.repeated(request, name, lambda request: _run(engine, request))
        if request.parts or request.notes:
            note = "; ".join(request.notes)
            options.cache.set("engine", (name, reasons, tuple(request.parts), note))
        return result
    structure = request.inputs
    names = ("states", "mask", "constants", "resets", "starts")

    def body(inputs: Leaves, *others: Any) -> tuple[Leaves, Any, Leaves]:
        # Tracers that stand for the tensors of the call.
        traced = dict(zip(names, others, strict=True))
        return _run(engine, dataclasses.replace(request, inputs=pack(structure, inputs), **traced))

    key = (request.edition, name, request.training, request.scope.one_step)
    leaves = keras.tree.flatten(structure)
    arguments = (leaves, *(getattr(request, name) for name in names))
    result = backend.compiled(body, arguments, options, key, request.scope)
    if name == "stack":
        # A compiled call tells nothing of its parts: they are as they were when it was compiled.
        known = options.cache.current("parts", request.edition, dict)
        given = (request.mask is None, request.resets is None)
        shapes = (key, *given, *(tuple(x.shape) for x in leaves))
        parts = tuple(request.parts) or known.get(shapes, ())
        known[shapes] = parts
        options.cache.set("engine", (name, reasons, parts, ""))
    return result


def _run(engine: Engine, request: Request) -> tuple[Leaves, Any, Leaves]:
    mask = request.mask
    if mask is not None and not engine.guards_padding:
        # A masked step must not see what is in the padding: a NaN there would reach the gradients
        # through `0 * NaN` even though the step's result is discarded.
        inputs = keras.tree.map_structure(lambda x: backend.select(mask, x, 0), request.inputs)
        request = dataclasses.replace(request, inputs=inputs)
    if request.resets is not None and request.options.truncate is not None:
        request = _truncated(request, request.options.truncate)
    result: tuple[Leaves, Any, Leaves]
    if CHUNKS is not None and CHUNKS.wanted(request, engine):
        result = CHUNKS.run(request, engine)
    else:
        result = engine.run(request)
    return result


def _truncated(request: Request, size: int) -> Request:
    """Return a request that says of every row where the blocks of `truncate_gradient` begin.

    A new sequence begins a block, so that it has the gradients that it has alone.
    """
    linked = truncation(request.resets, size, request.reverse)
    options = dataclasses.replace(request.options, truncate=None)
    return dataclasses.replace(request, linked=linked, options=options)


def report(asked: str, cache: Memo) -> EngineReport:
    """Return which engine ran in the last call of a layer.

    Args:
        asked: The layer's option `engine`.
        cache: The layer's cache.
    """
    name, reasons, parts, note = cache.get("engine") or (None, {}, (), "")
    return EngineReport(ALIASES.get(asked, asked), name, dict(reasons), parts, note)
