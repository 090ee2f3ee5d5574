"""Compare two checkouts of cellkit on the current backend: engines, reports, numbers, files.

    python tools/compare_versions.py ../before .              # every cell, every set of options
    python tools/compare_versions.py ../before . --cells lstm gru --options last masked

Every registered cell that both know runs with random weights and inputs, at inference and in
training, under each set of options. Compared are the engine chosen, its report, outputs, states and
gradients bit by bit where the engine is the same, and what a `.keras` file that the first checkout
saves is in the second: names and values of weights, and outputs. Of an engine that one of them does
not know, nothing is compared.

Exit code 1 if anything differs. KERAS_BACKEND chooses the backend (default: torch).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

OPTIONS: dict[str, dict[str, Any]] = {
    "last": {},
    "sequences": {"return_sequences": True},
    "masked": {"return_sequences": True, "return_state": True, "mask": True},
    "zeroed": {"return_sequences": True, "zero_output_for_mask": True, "mask": True},
    "backwards": {"go_backwards": True, "return_state": True, "mask": True},
    "stateful": {"stateful": True, "return_state": True},
    "unrolled": {"unroll": True, "return_sequences": True},
    "remat": {"remat": 2, "return_sequences": True},
    "truncated": {"truncate_gradient": 2},
}
"""Options of the layer, and whether the call has a mask."""

BATCH, TIME = 3, 5
# Former names of engines, and former words.
ALIASES = {"'gated'": "'fused'", " is no ": " is not a "}


def main() -> int:
    """Compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("before", type=Path, help="the first checkout")
    parser.add_argument("after", type=Path, help="the second one")
    parser.add_argument("--cells", nargs="+", default=[], help="names (default: all)")
    parser.add_argument("--options", nargs="+", default=list(OPTIONS), choices=list(OPTIONS))
    parser.add_argument("--work", type=Path, help="run the cells of `before`, and write there")
    given = parser.parse_args()
    if given.work:
        return work(given)
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for checkout in (given.before, given.after):
            out = Path(folder) / str(len(found))
            out.mkdir()
            run_worker(checkout, out, given)
            found.append(out)
        return compare(*found)


def run_worker(checkout: Path, out: Path, given: argparse.Namespace) -> None:
    """Run all cells of a checkout in a process of its own."""
    root = checkout.resolve()
    paths = [root, root / "plugins", root / "conformance"]
    environment = {"KERAS_BACKEND": "torch", **os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, paths))
    command = [sys.executable, __file__, str(root), str(root), "--work", str(out)]
    command += ["--options", *given.options]
    command += ["--cells", *given.cells] if given.cells else []
    subprocess.run(command, env=environment, check=True, cwd=out)


# --- in the process of one checkout ------------------------------------------------------------


def work(given: argparse.Namespace) -> int:
    """Run the cells, and write what they compute."""
    import numpy as np

    import cellkit

    assert Path(cellkit.__file__).is_relative_to(given.before)  # noqa: S101
    reports: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    for name in filter(exists, given.cells or cellkit.list_cells()):
        for option in given.options:
            for training in (False, True):
                key = f"{name} {option} {'training' if training else 'inference'}"
                try:
                    report, values = run(name, dict(OPTIONS[option]), training)
                except ValueError as error:
                    report, values = f"refused: {str(error).splitlines()[0]}", {}
                reports[key] = report
                arrays |= {f"{key} {k}": v for k, v in values.items()}
        path = given.work.parent / "0" / f"{name}.keras"
        if given.work.name == "0":  # the first checkout
            save(name, given.work)
        if not path.exists():  # a cell that only the second one has
            continue
        report, values = load(name, path)
        reports[f"{name} file"] = report
        arrays |= {f"{name} file {k}": v for k, v in values.items()}
    (given.work / "reports.json").write_text(json.dumps(reports), encoding="utf-8")
    np.savez(given.work / "arrays.npz", **arrays)
    return 0


def exists(name: str) -> bool:
    """Tell whether this checkout has a cell; what is installed may be the other's."""
    import cellkit

    try:
        cellkit.get(name)
    except ValueError:
        return False
    return True


def made(name: str, **options: Any) -> tuple[Any, Any]:
    """Return a layer with random weights, and inputs for it."""
    import keras
    import numpy as np

    import cellkit

    spec = cellkit.get(name).spec
    cell = cellkit.create(name, **next(iter(spec.cases.values())))
    layer = cellkit.RNN(cell, **options)
    sizes: dict[str, int] = {}
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    inputs = drawn(spec.inputs, spec.dims, sizes, rng)
    layer(inputs)  # builds
    if layer.stateful:
        layer.reset_state()
    for variable in layer.weights:  # those that are fixed, too: they are drawn
        if not keras.backend.is_float_dtype(variable.dtype):
            continue
        # Small numbers: some weights are exponents.
        variable.assign(0.3 * rng.normal(size=tuple(variable.shape)))
    return layer, keras.tree.map_structure(keras.ops.convert_to_tensor, inputs)


def drawn(inputs: Any, dims: Any, sizes: dict[str, int], rng: Any) -> Any:
    """Return random inputs `(batch, time, ...)`."""
    if isinstance(inputs, dict):
        return {k: drawn(v, dims, sizes, rng) for k, v in inputs.items()}
    if isinstance(inputs, tuple) and all(isinstance(size, (int, str)) for size in inputs):
        for size in inputs:
            if isinstance(size, str) and size not in sizes:
                held = dims.get(size, 3 + len(sizes))
                sizes[size] = held if isinstance(held, int) else held[0]
        shape = (BATCH, TIME, *(sizes[s] if isinstance(s, str) else s for s in inputs))
        return abs(rng.normal(size=shape)).astype("float32")
    return [drawn(v, dims, sizes, rng) for v in inputs]


def run(name: str, options: dict[str, Any], training: bool) -> tuple[str, dict[str, Any]]:
    """Run a cell; return the report, and outputs, states and gradients."""
    import keras
    import numpy as np

    call: dict[str, Any] = {"training": training}
    if options.pop("mask", False):
        call["mask"] = np.array([[1] * TIME, [1, 0, 1, 1, 0], [0] * TIME], bool)
    layer, inputs = made(name, **options)
    for variable in layer.non_trainable_variables:
        if "seed" in variable.name:
            variable.assign(np.array([7, 0], "uint32"))
    if training:
        results, gradients = differentiate(layer, inputs, call)
    else:
        # Twice: the second call of a kind may take another way.
        layer(inputs, **call)
        if layer.stateful:
            layer.reset_state()
        results, gradients = keras.tree.flatten(layer(inputs, **call)), []
    report = str(layer.engine_report())
    values = {f"result {i}": array(y) for i, y in enumerate(results)}
    return report, values | {f"gradient {i}": array(g) for i, g in enumerate(gradients)}


def differentiate(layer: Any, inputs: Any, call: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Return outputs and states, and the gradients of inputs and weights."""
    import keras
    import numpy as np

    weights = layer.trainable_variables
    leaves = keras.tree.flatten(inputs)

    def loss(results: list[Any]) -> Any:
        total = 0.0
        for i, y in enumerate(results):
            factors = np.random.default_rng(i).normal(size=tuple(y.shape)).astype("float32")
            weighted = keras.ops.cast(y, "float32") * keras.ops.convert_to_tensor(factors)
            total = total + keras.ops.sum(weighted)
        return total

    def apply(leaves: list[Any]) -> list[Any]:
        return list(keras.tree.flatten(layer(keras.tree.pack_sequence_as(inputs, leaves), **call)))

    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        leaves = [x.detach().requires_grad_() for x in leaves]
        results = apply(leaves)
        given = [*leaves, *(v.value for v in weights)]
        gradients = torch.autograd.grad(loss(results), given, allow_unused=True)
        return [y.detach() for y in results], list(gradients)
    if backend == "tensorflow":
        import tensorflow as tf

        @tf.function
        def graph() -> Any:
            with tf.GradientTape() as tape:
                tape.watch(leaves)
                results = apply(leaves)
                total = loss(results)
            return results, tape.gradient(total, [*leaves, *(v.value for v in weights)])

        results, gradients = graph()
        return list(results), list(gradients)
    import jax

    others = layer.non_trainable_variables

    def value(leaves: list[Any], values: list[Any]) -> Any:
        mapping = [*zip(weights, values, strict=True), *((v, v.value) for v in others)]
        with keras.StatelessScope(state_mapping=mapping):
            results = apply(leaves)
        return loss(results), results

    function = jax.jit(jax.grad(value, argnums=(0, 1), has_aux=True))
    (first, second), results = function(leaves, [v.value for v in weights])
    return list(results), [*first, *second]


def save(name: str, folder: Path) -> None:
    """Save a model with a cell."""
    import keras

    layer, inputs = made(name, return_sequences=True)
    given = keras.tree.map_structure(
        lambda x: keras.Input(batch_shape=tuple(x.shape), dtype="float32"), inputs
    )
    keras.Model(given, layer(given)).save(folder / f"{name}.keras")


def load(name: str, path: Path) -> tuple[str, dict[str, Any]]:
    """Load a model; return the names of its weights, and its weights and outputs."""
    import keras

    model = keras.models.load_model(path)
    _, inputs = made(name, return_sequences=True)
    outputs = keras.tree.flatten(model(inputs))
    values = {f"weight {i}": array(v) for i, v in enumerate(model.weights)}
    values |= {f"output {i}": array(y) for i, y in enumerate(outputs)}
    return ", ".join(v.path for v in model.weights), values


def array(x: Any) -> Any:
    """Return a tensor as an array; an empty one for none."""
    import keras
    import numpy as np

    return np.zeros(0) if x is None else np.asarray(keras.ops.convert_to_numpy(x))


# --- comparing ---------------------------------------------------------------------------------


def in_words_of_today(report: str) -> list[str]:
    """Return the lines of a report, without former names."""
    for former, name in ALIASES.items():
        report = report.replace(former, name)
    return report.splitlines()


def engine(line: str) -> str:
    """Return the engine that a line of a report says why it did not run, if it does."""
    name, colon, _ = line.strip().partition(": ")
    return name if colon and name.startswith("not ") else ""


def compare(before: Path, after: Path) -> int:
    """Print what differs, and return the exit code."""
    import numpy as np

    old, new = (json.loads((p / "reports.json").read_text()) for p in (before, after))
    first, second = (np.load(p / "arrays.npz") for p in (before, after))
    engines, texts, bits = [], [], []
    equal = 0
    for key in old.keys() & new.keys():
        was, now = (in_words_of_today(report) for report in (old[key], new[key]))
        if was[:1] != now[:1]:
            engines.append(f"{key}: {was[0]} / {now[0]}")
            continue
        known = {engine(line) for line in was} & {engine(line) for line in now}
        was, now = ([line for line in lines if engine(line) in known] for lines in (was, now))
        if was != now:
            texts.append("\n".join([f"{key}:", *was, *now]))
        for full in sorted(k for k in first.files if k.startswith(f"{key} ")):
            a, b = first[full], second[full] if full in second.files else np.zeros((0, 0))
            if a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes():
                equal += 1
                continue
            error = float(np.max(np.abs(a - b))) if a.shape == b.shape and a.size else np.inf
            bits.append(f"{full}: off by {error:.1e}")
    for title, found in (("Another engine", engines), ("Another report", texts), ("Bits", bits)):
        print(f"{title}: {len(found)}")
        print("".join(f"  {line}\n" for line in sorted(found)), end="")
    for text, lost in (("Missing after", old.keys() - new.keys()), ("New", new.keys() - old)):
        if lost:
            print(f"{text}: {', '.join(sorted({k.split()[0] for k in lost}))}")
    print(f"{len(old.keys() & new.keys())} runs, {equal} arrays equal to the bit.")
    return int(bool(engines or texts or bits or old.keys() - new.keys()))


if __name__ == "__main__":
    sys.exit(main())
