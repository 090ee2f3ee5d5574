"""Files of a model in every format that its backend writes, and a process that runs them."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

BACKEND = keras.backend.backend()

WRITTEN: dict[str, tuple[str, ...]] = {
    "tensorflow": ("saved_model", "onnx", "litert", "openvino"),
    "torch": ("pt2", "onnx", "torchscript", "openvino"),
    "jax": ("stablehlo", "saved_model", "onnx"),
}
"""The formats of each backend."""

FORMATS = WRITTEN.get(BACKEND, ())
"""Those of this one."""

NAMES = {"saved_model": "tf_saved_model", "pt2": "torch", "stablehlo": "jax_export"}
"""What `cellkit.check_export` and Keras call them, where it is another name."""

_ENDINGS = {
    "saved_model": "",
    "onnx": ".onnx",
    "litert": ".tflite",
    "openvino": ".xml",
    "pt2": ".pt2",
    "torchscript": ".pt",
    "stablehlo": ".bin",
}

_NEEDED = {
    "onnx": {"tensorflow": ("tf2onnx",), "torch": ("onnxscript",), "jax": ("jax2onnx",)},
}

_RUN_BY = {
    "onnx": ("onnx", "onnxruntime"),
    "litert": ("ai_edge_litert",),
    "openvino": ("openvino",),
    "saved_model": ("tensorflow",),
}


def missing(form: str) -> list[str]:
    """List the packages that write or run a format and are not installed.

    Args:
        form: One of `FORMATS`.
    """
    needed = (*_NEEDED.get(form, {}).get(BACKEND, ()), *_RUN_BY.get(form, ()))
    return [name for name in needed if not _is_there(name)]


@contextlib.contextmanager
def seen(package: str) -> Iterator[None]:
    """Let a package be imported that a worker has hidden."""
    hidden = sys.modules.get(package, True) is None
    if hidden:
        del sys.modules[package]
    try:
        yield
    finally:
        if hidden:
            sys.modules.setdefault(package, None)  # type: ignore[arg-type]


def _is_there(package: str) -> bool:
    with seen(package):
        return importlib.util.find_spec(package) is not None


class Runtime:
    """A process without cellkit that runs exported files."""

    def __init__(self) -> None:
        script = Path(__file__).parents[1] / "run" / "exported.py"
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.folder = tempfile.TemporaryDirectory()
        self.seconds: float | None = None

    def run(self, form: str, path: Any, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Return what a file makes of arrays.

        Args:
            form: One of `FORMATS`.
            path: Of the file.
            arrays: Its inputs, in their order.

        Raises:
            RuntimeError: With what went wrong in the process.
        """
        given, made = (str(Path(self.folder.name) / f"{n}.npz") for n in ("inputs", "outputs"))
        np.savez(given, *arrays)
        request = {"format": form, "path": str(path), "inputs": given, "outputs": made}
        if self.process.stdin is None or self.process.stdout is None:
            raise RuntimeError("the process has no pipes")
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process ended with exit code {self.process.wait()}")
        answer = json.loads(line)
        if not answer["ok"]:
            raise RuntimeError(answer["error"] + "\n" + answer["trace"])
        self.seconds = answer["seconds"]
        with np.load(made) as file:
            return [file[f"arr_{i}"] for i in range(len(file.files))]

    def close(self) -> None:
        """End the process."""
        if self.process.stdin is not None and self.process.stdout is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
            self.process.wait()
            self.process.stdout.close()
        self.folder.cleanup()


def write(model: Any, form: str, folder: Any, example: list[np.ndarray]) -> Path:
    """Write a model, and return the path.

    Args:
        model: The model; its inputs are a list.
        form: One of `FORMATS`.
        folder: The folder of the file.
        example: Arrays to trace with, where tracing needs some.
    """
    path = Path(folder) / f"model{_ENDINGS[form]}"
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _unreported():
        warnings.simplefilter("ignore")
        if form == "stablehlo":
            path.write_bytes(_stablehlo(model))
        elif form == "torchscript":
            _write_torchscript(model, path, example)
        elif form == "pt2" and model.inputs[0].shape[0] is None:
            import torch

            free = torch.export.Dim("rows", min=1)
            axes = [{0: free} for _ in model.inputs]
            shapes = [(axes if len(axes) > 1 else axes[0],)]
            model.export(path, format="torch", verbose=False, dynamic_shapes=shapes)
        else:
            _write_by_keras(model, form, path)
    return path


@contextlib.contextmanager
def _unreported() -> Iterator[None]:
    """Let OpenVINO report to nobody that it was used.

    It does outside of CI, over the network, and forks this process for each report: a large one,
    with threads.
    """
    before = os.environ.get("CI")
    os.environ["CI"] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ["CI"]
        else:
            os.environ["CI"] = before


def operations_of_litert(path: Any) -> dict[str, int]:
    """Count the operations in a file of LiteRT's by name, those inside of loops among them.

    Args:
        path: Of the file.

    Returns:
        How often each is there. What is not LiteRT's own is called `custom: ` and its name.
    """
    from ai_edge_litert import schema_py_generated as schema

    file = schema.ModelT.InitFromPackedBuf(Path(path).read_bytes(), 0)
    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    counts: dict[str, int] = {}
    for graph in file.subgraphs:
        for operator in graph.operators or ():
            kind = file.operatorCodes[operator.opcodeIndex]
            # Files of before 2020 have a byte for the number, which newer ones fill with its limit.
            name = names[max(kind.builtinCode, kind.deprecatedBuiltinCode)]
            if name == "CUSTOM":
                name = f"custom: {kind.customCode.decode()}"
            counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))


def _stablehlo(model: Any) -> bytes:
    import jax
    from jax import export

    b, t = export.symbolic_shape("b, t")
    specs = [
        jax.ShapeDtypeStruct((x.shape[0] or b, *(n or t for n in x.shape[1:])), np.dtype(x.dtype))
        for x in model.inputs
    ]
    function = jax.jit(lambda given: model(given if len(given) > 1 else given[0]))
    return bytes(export.export(function)(specs).serialize())


def _write_torchscript(model: Any, path: Path, example: list[np.ndarray]) -> None:
    import torch

    arrays = [torch.from_numpy(a) for a in example]
    model.eval()
    given = (arrays if len(arrays) > 1 else arrays[0],)
    traced = torch.jit.trace(model, given, strict=False, check_trace=False)
    torch.jit.save(traced, str(path))


def _write_by_keras(model: Any, form: str, path: Path) -> None:
    # Without a signature Keras asks for a model that was called before.
    specs: list[Any] = [keras.InputSpec(x.dtype, x.shape, name=x.name) for x in model.inputs]
    options: dict[str, Any] = {}
    signature: list[Any] = [specs if len(specs) > 1 else specs[0]]
    if form == "litert":
        import tensorflow as tf

        signature = [[tf.TensorSpec(x.shape, x.dtype, x.name) for x in specs]]
        signature = signature if len(specs) > 1 else signature[0]
        options = builtin_only()
    model.export(
        str(path),
        format=NAMES.get(form, form),
        verbose=False,
        input_signature=signature,
        **options,
    )


def builtin_only() -> dict[str, Any]:
    """Return what makes Keras write a file that needs no operations of TensorFlow's."""
    import tensorflow as tf

    return {"target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}}
