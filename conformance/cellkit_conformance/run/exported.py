"""Run exported files in a process that cannot import cellkit.

Reads requests from the standard input, a line of JSON each: the format of a file, its path, that of
the inputs and where to write the outputs (both .npz, in order). Answers with a line of JSON each.
"""

from __future__ import annotations

import importlib.abc
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["CI"] = "true"  # elsewhere OpenVINO reports, over the network, that it was used


Arrays = list[Any]
Run = Callable[[Arrays], Any]

_NAME = re.compile(r"Identity(_\d+)?:0")


class _Absent(importlib.abc.MetaPathFinder):
    """Lets nothing import what an exported file must do without."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] == "cellkit" or name.startswith("cellkit_"):
            raise ImportError(f"{name} is not to be had where an exported file runs")


def onnx(path: str) -> Run:
    """Return a function that runs an ONNX file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    return lambda arrays: session.run(None, dict(zip(names, arrays, strict=True)))


def openvino(path: str) -> Run:
    """Return a function that runs a file of OpenVINO's."""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    model = core.compile_model(core.read_model(path), "CPU", settings)

    # Beside the outputs of a function of TensorFlow's, OpenVINO returns what its loops leave over.
    named = [i for i, y in enumerate(model.outputs) if any(map(_NAME.fullmatch, y.names))]
    named = named or list(range(len(model.outputs)))

    def run(arrays: Arrays) -> Any:
        result = model(list(arrays))
        return [result[i] for i in named]

    return run


def saved_model(path: str) -> Run:
    """Return a function that runs a SavedModel."""
    import tensorflow as tf

    loaded = tf.saved_model.load(path)

    def run(arrays: Arrays) -> Any:
        given = [tf.constant(a) for a in arrays]
        return tf.nest.flatten(loaded.serve(given if len(given) > 1 else given[0]))

    return run


def litert(path: str) -> Run:
    """Return a function that runs a LiteRT file."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=1)
    (name,) = interpreter.get_signature_list()
    # The order in which they were given to the model, which the names keep.
    details = sorted(interpreter.get_input_details(), key=lambda d: d["name"])

    def run(arrays: Arrays) -> Any:
        for detail, array in zip(details, arrays, strict=True):
            interpreter.resize_tensor_input(detail["index"], array.shape)
        interpreter.allocate_tensors()
        for detail, array in zip(details, arrays, strict=True):
            interpreter.set_tensor(detail["index"], array)
        interpreter.invoke()
        found = sorted(interpreter.get_output_details(), key=lambda d: d["name"])
        return [interpreter.get_tensor(d["index"]) for d in found]

    return run


def pt2(path: str) -> Run:
    """Return a function that runs a file of `torch.export`."""
    import torch

    module = torch.export.load(path).module()
    return lambda arrays: _of_torch(module, arrays)


def torchscript(path: str) -> Run:
    """Return a function that runs a file of `torch.jit.trace`."""
    import torch

    module = torch.jit.load(path)
    return lambda arrays: _of_torch(module, arrays)


def _of_torch(module: Any, arrays: Arrays) -> Any:
    import torch

    given = [torch.from_numpy(a) for a in arrays]
    with torch.no_grad():
        result = module(given if len(given) > 1 else given[0])
    leaves = torch.utils._pytree.tree_leaves(result)
    return [y.detach().numpy() for y in leaves]


def stablehlo(path: str) -> Run:
    """Return a function that runs a file of `jax.export`."""
    import jax
    from jax import export

    with open(path, "rb") as file:
        loaded = export.deserialize(file.read())

    def run(arrays: Arrays) -> Any:
        return jax.tree.leaves(loaded.call(list(arrays)))

    return run


def main() -> None:
    """Answer requests until there are none."""
    import numpy as np

    sys.meta_path.insert(0, _Absent())
    answers, sys.stdout = sys.stdout, sys.stderr
    models: dict[tuple[str, str], Run] = {}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            key = request["format"], request["path"]
            if key not in models:
                models.clear()
                models[key] = globals()[request["format"]](request["path"])
            with np.load(request["inputs"]) as file:
                arrays = [file[f"arr_{i}"] for i in range(len(file.files))]
            start = time.perf_counter()
            results = models[key](arrays)
            seconds = time.perf_counter() - start
            np.savez(request["outputs"], *map(np.asarray, results))
            answer: dict[str, Any] = {"ok": True, "seconds": seconds}
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            answer = {"ok": False, "error": text, "trace": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
