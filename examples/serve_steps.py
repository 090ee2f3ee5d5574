"""Serve a trained layer step by step, from a file, without cellkit or Keras in the loop.

Values come one after the other and each wants its answer at once. It shows

- `cellkit.step_model`: one step of a trained layer as a model, states in, states out;
- its export to an ONNX file, and onnxruntime running it along a stream;
- that this gives the numbers of the layer, and how long a step takes either way.

It ends with exit code 1 if the numbers differ, or if the file is not faster than the layer's step.

    pip install -e '.[export]'
    python examples/serve_steps.py --backend torch
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
from pathlib import Path

import _options
import numpy as np

options = _options.parse(__doc__)

import _show  # noqa: E402
import keras  # noqa: E402

import cellkit  # noqa: E402

FEATURES, UNITS = 3, 32
LENGTH = 50 if options.quick else 200
EPOCHS = 2 if options.quick else 10


def data(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return noise, and the running mean that a layer has to learn."""
    values = np.random.default_rng(rows).normal(size=(rows, LENGTH, FEATURES))
    means = np.cumsum(values[..., :1], axis=1) / np.arange(1, LENGTH + 1)[:, None]
    return values.astype("float32"), means.astype("float32")


def trained() -> tuple[keras.Model, cellkit.RNN]:
    """Return a trained model, and the recurrent layer in it."""
    layer = cellkit.RNN(cellkit.create("lstm", units=UNITS), return_sequences=True)
    model = keras.Sequential([keras.Input((LENGTH, FEATURES)), layer, keras.layers.Dense(1)])
    model.compile("adam", "mse", jit_compile=_show.COMPILED)
    model.fit(*data(64), epochs=EPOCHS, verbose=0)
    return model, layer


def served(path: Path, stream: np.ndarray, states: list[np.ndarray]) -> tuple[np.ndarray, float]:
    """Run a file along a stream; return its outputs, and the median of the seconds of a step."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    outputs, seconds = [], []
    for x in stream.swapaxes(0, 1):
        start = time.perf_counter()
        output, *states = session.run(None, dict(zip(names, [x, *states], strict=True)))
        seconds.append(time.perf_counter() - start)
        outputs.append(output)
    return np.stack(outputs, axis=1), float(np.median(seconds))


def stepped(layer: cellkit.RNN, stream: np.ndarray) -> float:
    """Return the median of the seconds of a step of the layer itself."""
    states, seconds = None, []
    for x in stream.swapaxes(0, 1):
        start = time.perf_counter()
        output, states = layer.step(x, states)
        _show.array(output)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def main() -> int:
    """Train, export, serve, compare."""
    writer = {"tensorflow": "tf2onnx", "torch": "onnxscript", "jax": "jax2onnx"}[_show.BACKEND]
    for name in ("onnxruntime", writer):
        if importlib.util.find_spec(name) is None:
            sys.exit(f"{name} is not installed: pip install -e '.[export]'")
    _, layer = trained()
    stream, _ = data(1)
    step = cellkit.step_model(layer, batch_size=1)
    states = [_show.array(s) for s in layer.get_initial_state(1)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "step.onnx"
        specs = [keras.InputSpec(dtype=x.dtype, shape=x.shape, name=x.name) for x in step.inputs]
        step.export(str(path), format="onnx", input_signature=[specs], verbose=False)
        size = path.stat().st_size / 1024
        outputs, by_file = served(path, stream, states)
    by_layer = stepped(layer, stream)
    difference = float(np.abs(outputs - _show.array(layer(stream))).max())
    _show.console.print(f"{LENGTH} steps of an LSTM with {UNITS} units, a file of {size:.0f} KiB")
    _show.console.print(f"  a step of the file   {by_file * 1e6:8.0f} us")
    _show.console.print(f"  a step of the layer  {by_layer * 1e6:8.0f} us")
    return _show.verdict(
        {
            f"the file gives the numbers of the layer (they differ by {difference:.1e})": (
                difference < 1e-5
            ),
            "a step of the file is faster than one of the layer": by_file < by_layer,
        }
    )


if __name__ == "__main__":
    sys.exit(main())
