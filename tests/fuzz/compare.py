"""Compare every engine that accepts a random cell with a fresh layer that runs the plain loop."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

import cellkit
from cellkit.engines import NAMES

from .cells import FEATURES, Call, Recipe
from .differentiate import BACKEND, forward, npy, with_gradients

ENGINES = ("auto", *NAMES)
# By how much numbers may differ, relative to the largest of an array where that is beyond one.
EXACT, ROUNDED = 1e-10, 2e-5
# Values of tensors may reach Python where operations run at once. JAX compiles every loop.
HOST = BACKEND != "jax"
REFUSED = "The engine {!r} cannot run this layer."


@dataclasses.dataclass
class Outcome:
    """The outcome of one call.

    Args:
        numbers: Arrays by name; None for a gradient that is nowhere connected.
        effects: The effects of Python so far, for each probe.
        engine: The engine that ran.
    """

    numbers: dict[str, Any]
    effects: list[Any]
    engine: str | None


@dataclasses.dataclass
class Failure:
    """A difference or a crash.

    Args:
        kind: `"difference"`, `"effects"` or `"crash"`.
        engine: The engine that was asked for, and the one that ran.
        call: The number of the call.
        what: The first thing that differs, or the exception.
        size: The largest difference.
    """

    kind: str
    engine: str
    call: int
    what: str
    size: float = float("nan")

    def __str__(self) -> str:
        """Return one line, and the traceback of a crash."""
        size = "" if np.isnan(self.size) else f" by {self.size:.2g}"
        return f"{self.kind} in engine {self.engine}, call {self.call}: {self.what}{size}"


@dataclasses.dataclass
class Verdict:
    """The outcome of the comparison of one recipe."""

    failures: list[Failure] = dataclasses.field(default_factory=list)
    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    unrunnable: str | None = None


def engines_of(number: int) -> list[str]:
    """Return the engines that a cell runs on: all, or where they compile "auto" and two others."""
    engines = list(ENGINES)
    if BACKEND != "torch":
        others = [name for name in NAMES if name != "kernel"]
        start = number % len(others)
        engines = ["auto", *others[start:], *others[:start]][:3]
    return engines


def verdict_of(recipe: Recipe, engines: Sequence[str] = ENGINES) -> Verdict:
    """Compare the engines on one recipe."""
    verdict = Verdict()
    with warnings.catch_warnings(), _precise(recipe.dtype):
        warnings.simplefilter("ignore")
        want = list(_calls(recipe, None))
        if isinstance(want[0], Exception):
            verdict.unrunnable = _said(want[0])
            return verdict
        for engine in engines:
            _compare(recipe, engine, want, verdict)
    return verdict


def _compare(recipe: Recipe, engine: str, want: list[Any], verdict: Verdict) -> None:
    for number, have in enumerate(_calls(recipe, engine)):
        reference = want[number] if number < len(want) else None
        if reference is None or isinstance(reference, Exception):
            return  # the plain loop cannot run it either
        if isinstance(have, Exception):
            if engine != "auto" and _refused(have, engine):
                verdict.counts[f"refused {engine}"] += 1
                if recipe.probes or any(n.startswith("variable") for n in reference.numbers):
                    return  # what the reference went on to, this layer did not
                continue
            verdict.failures.append(Failure("crash", engine, number, _said(have)))
            return
        verdict.counts["calls"] += 1
        verdict.counts[f"ran {engine}"] += 1
        if engine == "auto":
            verdict.counts[f"auto took {have.engine}"] += 1
        failure = _difference(recipe, engine, number, reference, have)
        if failure is not None and failure.kind == "difference" and _moves(recipe, number, failure):
            verdict.counts["ill-conditioned"] += 1
            return
        if failure is not None:
            failure.engine = f"{engine} ({have.engine})"
            verdict.failures.append(failure)
            return


def _refused(error: Exception, engine: str | None) -> bool:
    return isinstance(error, ValueError) and REFUSED.format(engine) in str(error)


def _difference(
    recipe: Recipe, engine: str, number: int, want: Outcome, have: Outcome
) -> Failure | None:
    if want.numbers.keys() != have.numbers.keys():
        return Failure("difference", engine, number, f"{list(have.numbers)}, {list(want.numbers)}")
    for name, expected in want.numbers.items():
        size = distance(expected, have.numbers[name])
        if not size <= (ROUNDED if recipe.rounded else EXACT):
            return Failure("difference", engine, number, name, size)
    # A backward pass with `remat` runs the steps once more, and where it does is the engine's.
    again = recipe.options.get("remat") and recipe.calls[number].gradient
    if BACKEND != "jax" and not again and want.effects != have.effects:
        what = f"{recipe.probes}: {have.effects} for {want.effects}"
        return Failure("effects", engine, number, what)
    return None


def distance(want: Any, have: Any) -> float:
    """Return by how much two arrays differ, infinity where their shapes or dtypes do."""
    if want is None or have is None:
        # A gradient that is nowhere connected may come as zeros.
        return float(max(np.abs(x).max(initial=0) for x in (want, have, 0) if x is not None))
    if want.shape != have.shape or want.dtype != have.dtype:
        return float("inf")
    if want.dtype.kind in "biu":
        return float(np.abs(want.astype("float64") - have.astype("float64")).max(initial=0))
    finite = np.isfinite(want)
    if not np.array_equal(finite, np.isfinite(have)):
        return float("inf")
    if not np.array_equal(want[~finite], have[~finite], equal_nan=True):
        return float("inf")
    scale = max(1.0, float(np.abs(want[finite]).max(initial=0)))
    return float(np.abs(want[finite] - have[finite]).max(initial=0)) / scale


def _moves(recipe: Recipe, number: int, failure: Failure) -> bool:
    """Tell whether the plain loop itself moves by as much when its inputs move by rounding."""
    if not failure.size < 1e-3:
        return False
    nudge = 1e-7 if recipe.rounded else 1e-15
    wants = zip(_calls(recipe, None), _calls(recipe, None, nudge), strict=True)
    for at, (a, b) in enumerate(wants):
        if at == number:
            if isinstance(a, Exception) or isinstance(b, Exception):
                return False
            moved = distance(a.numbers[failure.what], b.numbers[failure.what])
            return moved * 30 > failure.size
    return False


def _calls(recipe: Recipe, engine: str | None, nudge: float = 0.0) -> Iterator[Any]:
    """Yield an `Outcome` for each call, or the exception that it ended with.

    Args:
        recipe: The cell and its calls.
        engine: The option of the layer; None for a fresh layer with the plain loop at each call.
        nudge: By how much inputs are moved.
    """
    names = recipe.namespace()
    layer, said = None, []
    try:
        cell = eval(recipe.cell, names)
    except Exception as error:
        yield error
        return
    names["cell"] = cell
    for number, call in enumerate(recipe.calls):
        try:
            if call.change and "layer." not in call.change:
                exec(call.change, names)
            if layer is None or engine is None:
                layer = _layer(recipe, cell, engine or "loop", layer, number == 0)
                for change in said:
                    exec(change, {**names, "layer": layer})
            if call.change and "layer." in call.change:
                said.append(call.change)
                exec(call.change, {**names, "layer": layer})
            yield _outcome(recipe, layer, call, names, nudge)
        except GeneratorExit:
            raise
        except Exception as error:
            yield error
            if not _refused(error, engine):
                return


def _layer(recipe: Recipe, cell: Any, engine: str, before: Any, first: bool) -> Any:
    layer = cellkit.RNN(cell, dtype=recipe.dtype, engine=engine, **recipe.options)
    stateful = recipe.options.get("stateful")
    shape = recipe.calls[0].shape if stateful else (None, None)
    layer.build((*shape, FEATURES))
    if first:
        _give_weights(cell)
    elif stateful and before is not None:
        values = keras.tree.map_structure(keras.ops.convert_to_tensor, before.states)
        layer.reset_state(states=values)
    return layer


def _give_weights(cell: Any) -> None:
    """Give every weight numbers of its own."""
    rng = np.random.default_rng(7)
    for variable in cell.variables:
        if variable.name == "seed_generator_state":
            variable.assign(np.array([7, 0], "uint32"))
        elif keras.backend.is_float_dtype(variable.dtype):
            noise = 0.6 * rng.normal(size=variable.shape)
            variable.assign(np.abs(noise) + 0.3 if "variance" in variable.name else noise)


def _outcome(
    recipe: Recipe, layer: Any, call: Call, names: dict[str, Any], nudge: float
) -> Outcome:
    rng = np.random.default_rng(call.seed)
    batch, time = call.shape
    x = rng.normal(size=(batch, time, FEATURES)) * (1 + nudge)
    arguments: dict[str, Any] = {"training": call.training}
    mask = _mask(call, rng)
    if mask is not None:
        arguments["mask"] = mask
        x = np.where(mask.astype(bool)[..., None] | (rng.random(x.shape) < 0.8), x, np.nan)
    if call.lengths:
        arguments["lengths"] = rng.integers(0, time + 1, size=batch)
    if call.resets in ("resets", "both"):
        arguments["resets"] = rng.random((batch, time)) < 0.3
    if call.resets in ("segments", "both"):
        arguments["segments"] = np.cumsum(rng.random((batch, time)) < 0.3, axis=1)
    states = _initial(layer, batch, rng, nudge) if call.states else None
    x = x.astype(recipe.dtype)
    graph = call.seed % 3 == 0 and not recipe.tags & {"host", "effects"}
    grads: list[Any] = []
    if call.gradient:
        results, grads = with_gradients(layer, x, states, arguments, graph)
    else:
        results = forward(layer, x, states, arguments)
    numbers = {f"result {i}": npy(y) for i, y in enumerate(results)}
    for i, g in enumerate(grads):
        numbers[f"gradient {i}"] = None if g is None else npy(g)
    for i, v in enumerate(layer.non_trainable_variables):
        numbers[f"variable {i}, {v.name}"] = npy(v)
    effects = [eval(probe, names) for probe in recipe.probes]
    return Outcome(numbers, effects, layer.engine_report().engine)


def _mask(call: Call, rng: Any) -> Any:
    batch, time = call.shape
    if call.mask == "none":
        return None
    if call.mask == "nothing":
        return np.zeros((batch, time), bool)
    if call.mask == "right":
        return np.arange(time) < rng.integers(0, time + 1, size=(batch, 1))
    mask = rng.random((batch, time)) < 0.6
    return mask if call.mask == "random" else mask.astype("int32")


def _initial(layer: Any, batch: int, rng: Any, nudge: float) -> Any:
    def draw(like: Any) -> Any:
        dtype = keras.backend.standardize_dtype(like.dtype)
        numbers = rng.normal(size=tuple(like.shape)) * (1 + nudge)
        if dtype == "bool":
            return numbers > 0
        if "int" in dtype:
            return np.round(2 * numbers).astype(dtype)
        if "complex" in dtype:
            return (numbers + 0.5j * numbers[::-1]).astype(dtype)
        return numbers.astype(dtype)

    return keras.tree.map_structure(draw, layer.get_initial_state(batch))


def _said(error: Exception) -> str:
    where = traceback.extract_tb(error.__traceback__)
    place = f"{where[-1].filename.split('/')[-1]}:{where[-1].lineno}" if where else ""
    said = " ".join(str(error).split())
    return f"{type(error).__name__} at {place}: {said[:300]}"


@contextlib.contextmanager
def _precise(dtype: str) -> Iterator[None]:
    """Let operations return the dtype of the cell: some of Keras' turn float64 into its default."""
    floatx = keras.config.floatx()
    keras.config.set_floatx(dtype)
    try:
        if BACKEND == "jax":
            import jax

            before = jax.config.values["jax_disable_most_optimizations"]
            jax.config.update("jax_disable_most_optimizations", True)  # it compiles much
            try:
                with jax.enable_x64(True):
                    yield
            finally:
                jax.config.update("jax_disable_most_optimizations", before)
        else:
            yield
    finally:
        keras.config.set_floatx(floatx)
