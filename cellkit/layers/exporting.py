"""Files of a model that could not be right: refused beforehand, with what to do instead."""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING, Any

import keras

from cellkit import _keras_compat as compat
from cellkit.cells.linear import LinearCell
from cellkit.cells.matrix import MatrixCell
from cellkit.cells.operations import BACKEND
from cellkit.cells.runner import flatten_shapes
from cellkit.errors import problem
from cellkit.layers.step_operations import operations_of_step
from cellkit.typing import Tensor, Tree

if TYPE_CHECKING:
    from cellkit.layers.rnn import RNN

__all__ = ["check_export"]

_PLAIN = contextlib.nullcontext()

FORMATS = ("tf_saved_model", "onnx", "openvino", "litert", "torch", "torchscript", "jax_export")
"""Formats as `model.export` calls them, and two that the backends write themselves."""

_REAL = {"onnx": "ONNX", "openvino": "OpenVINO", "litert": "LiteRT"}
_WRITTEN_ON = {
    "tf_saved_model": ("tensorflow", "jax"),
    "onnx": ("tensorflow", "torch", "jax"),
    "openvino": ("tensorflow", "torch"),
    "litert": ("tensorflow",),
    "torch": ("torch",),
    "torchscript": ("torch",),
    "jax_export": ("jax",),
}

_LACKING: dict[str, dict[str, dict[str, str]]] = {
    "onnx": {
        "tensorflow": {"Expm1": "", "Log1p": ""},
        "torch": {"aten::expm1": "batch", "aten::log_sigmoid_forward": "closed"},
        "jax": {"cumsum": "", "rem": "batch", "log_sigmoid": "closed"},
    },
    "openvino": {"torch": {"aten::log_sigmoid_forward": "closed"}},
    "litert": {"tensorflow": {"Softplus": "far"}},
    # What JAX leaves to LAPACK on the processor: TensorFlow, which runs the file, cannot call that.
    "tf_saved_model": {
        "jax": dict.fromkeys(
            ("triangular_solve", "cholesky", "lu", "geqrf", "householder_product", "eigh", "svd"),
            "",
        ),
    },
}
"""Operations that a backend's exporter to a format has not: at all, not where the batch is open,
not where a gate is closed (in the file, the logarithm of its sigmoid is that of zero), or not for
large numbers (in the file, an exponential overflows)."""


def check_export(model: Any, format: str, input_signature: Any = None) -> None:
    """Say whether a model with recurrent layers of cellkit can be exported to a format.

    It looks at the layers, the shapes of the inputs, and the operations of one step; no model is
    traced, and nothing written.
    What it lets pass, the tests of the project have exported, loaded where cellkit is not to be
    had, and compared; the page on deployment says which cells in which way.

    Args:
        model: A built model, or a built `cellkit.RNN`.
        format: As in `model.export`: `"tf_saved_model"`, `"onnx"`, `"openvino"`, `"litert"`,
            `"torch"`; or `"torchscript"` and `"jax_export"`, which the backends write themselves.
        input_signature: As in `model.export`. None: the shapes that the model was built for.

    Raises:
        ValueError: If the file would be wrong or could not be loaded, with what to do instead.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(cellkit.create("gru", units=4))
    >>> layer.build((None, 20, 3))
    >>> check_export(layer, "onnx")
    """
    if format not in FORMATS:
        raise problem(
            "There is no such format.",
            received=f"format={format!r}",
            expected="one of " + ", ".join(map(repr, FORMATS)),
            fix="pass one of them, as `model.export` takes it",
        )
    if BACKEND not in _WRITTEN_ON[format]:
        others = " or ".join(_WRITTEN_ON[format])
        fix = f"load the saved model in a process with the backend {others}, and export it there"
        if format == "openvino":
            fix = "export to ONNX: OpenVINO reads that as well"
        raise problem(
            f"A model on {BACKEND} cannot be written as {format}.",
            received=f"format={format!r} on {BACKEND}",
            expected=f"the backend {others}",
            fix=fix,
        )
    for layer in _recurrent(model):
        batch, time = _lengths(model, layer, input_signature)
        if format in _REAL:
            check_states(layer, _REAL[format])
            _check_chunks(layer, _REAL[format], time)
        if BACKEND == "torch" and time is None:
            raise _no_loop("a sequence whose number of steps is left open")
        if BACKEND == "jax" and format == "tf_saved_model":
            _check_systems(layer)
        _check_operations(layer, format, batch)
        if format == "litert":
            _check_litert(layer, batch, time)


def _recurrent(model: Any) -> list[Any]:
    """Return the recurrent layers of cellkit in a model."""
    from cellkit.layers.rnn import RNN

    return [part for part in compat.parts(model) if isinstance(part, RNN)]


def _lengths(model: Any, layer: RNN, signature: Any) -> tuple[Any, Any]:
    """Return the sizes of batch and time with which a layer will be traced, None if open."""
    shapes = flatten_shapes(layer._memo.get("input_shapes"))
    batch, time = shapes[0][:2]
    if signature is not None:
        given = [tuple(x.shape) for x in keras.tree.flatten(signature)]
        batch, time = given[0][0], given[0][1] if len(given[0]) > 1 and time is None else time
    elif isinstance(model, keras.Model) and BACKEND != "torch":
        # Keras leaves the batch open where it is not told otherwise.
        batch = None
    return batch, time


def _check_chunks(layer: RNN, form: str, time: Any) -> None:
    """Refuse chunks of steps that converters of TensorFlow's graphs have no operations for."""
    if BACKEND != "tensorflow" or not _is_chunked(layer):
        return
    received = f"{type(layer.cell).__name__}, whose state is a matrix, with engine={layer.engine!r}"
    expected, fix = "the plain loop, which gives the same numbers", "set `layer.engine = 'loop'`"
    if _is_products(layer):
        if time is not None:
            return
        received += ", for sequences of any length"
        expected += ", or a fixed length"
    raise problem(
        f"{form} has no operations for what TensorFlow runs chunk by chunk.",
        received=received,
        expected=expected,
        fix=f"{fix} before the export",
    )


def _check_systems(layer: RNN) -> None:
    """Refuse chunks of a delta rule, whose systems of equations JAX leaves to LAPACK."""
    if not _is_chunked(layer):
        return
    factors = _factors_of_step(layer)
    if factors is None or "e" in factors:
        raise problem(
            "TensorFlow cannot run, from a SavedModel, what JAX runs chunk by chunk.",
            received=f"{type(layer.cell).__name__} with engine={layer.engine!r}",
            expected="the plain loop, which gives the same numbers",
            fix="set `layer.engine = 'loop'` before the export",
        )


def _is_chunked(layer: RNN) -> bool:
    """Tell whether a layer runs its steps in chunks."""
    return isinstance(layer.cell, MatrixCell) and layer.engine in ("auto", "chunked")


def _check_operations(layer: RNN, format: str, batch: Any) -> None:
    """Refuse a step with operations that the exporter to a format has not."""
    missing = _LACKING.get(format, {}).get(BACKEND, {})
    for name in sorted(operations_of_step(layer) & missing.keys()) if missing else ():
        kind = missing[name]
        if kind == "batch" and batch is not None:
            continue
        others = [other for other in _WRITTEN_ON[format] if other != BACKEND]
        where, expected, fix = {
            "": (
                "",
                f"a step without it, or the backend {' or '.join(others)}",
                "load the saved model in a process with another backend, and export it there",
            ),
            "batch": (
                " of a batch that is left open",
                "a fixed batch",
                "pass `input_signature` with one, e.g. `[keras.InputSpec(shape=(1, 50, 3))]`",
            ),
            "closed": (
                " that is right for numbers far below zero",
                "one that is, as `cellkit.cells.log_sigmoid`",
                "compute `cellkit.cells.log_sigmoid(x)` in the step",
            ),
            "far": (
                " that is right for numbers beyond 88",
                "one that is, as `cellkit.cells.softplus` and `cellkit.cells.log_sigmoid`",
                "compute `cellkit.cells.softplus(x)` in the step, or pass it as the activation",
            ),
        }[kind]
        raise problem(
            f"The exporter from {BACKEND} to {_REAL.get(format, format)} has no {name}{where}.",
            received=f"{type(layer.cell).__name__}, whose step computes it",
            expected=expected,
            fix=fix,
        )


def _is_products(layer: RNN) -> bool:
    """Tell whether chunks are products of matrices and no more.

    A delta rule solves equations, and with a decay for each key, chunks are computed again in the
    backward pass, from slices of the sequence. Converters know neither.
    """
    factors = _factors_of_step(layer)
    if factors is None:
        return False
    return "e" not in factors and ("g" not in factors or factors["g"].shape[-1] == 1)


def _factors_of_step(layer: RNN) -> dict[str, Any] | None:
    """Return the factors of a step of zeros, or None for a cell with several inputs."""
    cell, shapes = layer.cell, flatten_shapes(layer._memo.get("input_shapes"))
    if len(shapes) > 1:
        return None
    row = cell.project(keras.ops.zeros((1, *shapes[0][2:]), dtype=cell.compute_dtype))
    if cell.window > 1:
        row = cell.look(
            keras.tree.map_structure(
                lambda x: keras.ops.repeat(x[:, None], cell.window, axis=1), row
            )
        )
    return cell.checked_factors(row, cell.accumulator_dtype)


def _check_litert(layer: RNN, batch: Any, time: Any) -> None:
    if batch is None:
        raise problem(
            "LiteRT's own operations hold no sequence of a batch that is left open.",
            received="a batch size of None",
            expected="a fixed one, else the file needs TensorFlow's operations where it runs",
            fix="pass `input_signature=[keras.InputSpec(shape=(1, 50, 3))]`",
        )
    if time is None and isinstance(layer.cell, LinearCell) and layer.engine in ("auto", "scan"):
        raise problem(
            "LiteRT cannot run a parallel scan over an unknown number of steps.",
            received=f"engine={layer.engine!r} and sequences of any length",
            expected="the plain loop, or a fixed length",
            fix="set `layer.engine = 'loop'` before the export",
        )


def traced(layer: RNN, sequences: Tree) -> contextlib.AbstractContextManager[Any]:
    """Return the scope of a call: operations have their first names where PyTorch traces a file.

    Args:
        layer: The layer.
        sequences: Its inputs.

    Raises:
        ValueError: If the file would be wrong or could not be loaded: for complex states in ONNX,
            and for a loop over an unknown number of steps.
    """
    if BACKEND != "torch":
        return _PLAIN
    import torch

    tracing, exporting = torch.jit.is_tracing(), torch.compiler.is_exporting()
    if torch.onnx.is_in_onnx_export():
        check_states(layer, "ONNX")
    if tracing or exporting:
        _check_steps(layer, keras.tree.flatten(sequences)[0], exporting)
    if not tracing:
        return _PLAIN
    from cellkit.engines.torch.aliases import FirstNames

    return FirstNames()


def _check_steps(layer: RNN, sequence: Tensor, exporting: bool) -> None:
    """Refuse a traced sequence whose number of steps is open, or a stand-in for such a one."""
    import torch

    if exporting and isinstance(sequence.shape[1], torch.SymInt):
        raise _no_loop("a sequence whose number of steps is left open")
    if flatten_shapes(layer._memo.get("input_shapes"))[0][1] is not None:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the number that is part of the trace
        steps = int(sequence.shape[1])
    if steps == 1:
        # Keras exports a model of unknown length with one step.
        raise _no_loop("a sequence of one step, for a layer that takes any number of them")


def check_backend(layer: RNN) -> None:
    """Refuse complex states on OpenVINO.

    Args:
        layer: A layer that is being built, or asked for its states.

    Raises:
        ValueError: If the backend has no dtype for a state.
    """
    if BACKEND == "openvino":
        check_states(layer, "OpenVINO", "set KERAS_BACKEND to torch, jax, tensorflow or numpy")


def check_states(
    layer: RNN,
    form: str,
    fix: str = "export to a format that has them: SavedModel, torch.export, jax.export",
) -> None:
    """Refuse complex states where there are no complex numbers.

    Args:
        layer: The layer.
        form: The name of the format, or of what runs the layer.
        fix: The way out.

    Raises:
        ValueError: If a state of the layer is complex.
    """
    dtypes = [str(s.dtype) for s in layer.runner.layout.specs if "complex" in str(s.dtype)]
    if dtypes:
        raise problem(
            f"{form} has no complex numbers.",
            received=f"{type(layer.cell).__name__}, with a state of dtype {dtypes[0]}",
            expected="a cell whose states are real",
            fix=fix,
        )


def _no_loop(received: str) -> ValueError:
    return problem(
        "PyTorch writes a loop over time out, step by step.",
        received=received,
        expected="the number of steps that the file is for",
        fix="name it, e.g. `input_signature=[keras.InputSpec(shape=(None, 50, 3))]`; for any "
        "number of steps, export `cellkit.step_model(layer)`, or from TensorFlow or JAX",
    )
