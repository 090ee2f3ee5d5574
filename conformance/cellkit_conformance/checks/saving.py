"""SER: models in files, loaded where nothing was imported and on other backends."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cellkit_conformance.checks import check
from cellkit_conformance.checks.context import Context
from cellkit_conformance.checks.serialization import config_of
from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.outcome import NotApplicable
from cellkit_conformance.subject import backend
from cellkit_conformance.subject.constants import is_fed
from cellkit_conformance.subject.subject import Subject
from cellkit_conformance.trees import leaves, map_trees

SEQUENCES = {"return_sequences": True}


@check("SER-03")
def loads_where_nothing_was_imported(ctx: Context) -> None:
    """Save a model, forget the cell's class and module, and load the model.

    What a fresh process lacks is the registration of the cell and its module. Both are taken away
    here, which costs milliseconds; the thorough profile starts a process of its own as well, for a
    cell whose module another process can find.
    """
    if is_fed(ctx.target.cls):
        raise NotApplicable("a cell with constants is checked as a subclass of the suite's own")
    for subject in itertools.islice(ctx.cases(), 1):
        config_of(subject)
        layer, symbolic = subject.layer(**SEQUENCES), subject.symbolic_inputs()
        output, _ = subject.split(layer, layer(symbolic))
        model = keras.Model(symbolic, leaves(output))
        inputs = subject.inputs(Example(3, 5, seed=ctx.seed))
        want = backend.to_numpy(leaves(subject.run(layer, inputs).output))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"
            model.save(path)
            with _forgotten(subject.cell.__class__):
                try:
                    loaded = keras.models.load_model(path)
                except Exception as error:  # noqa: BLE001 (whatever it is, it is the finding)
                    if not _is_plugin(subject.cell.__class__):
                        raise NotApplicable(
                            "not a plugin: a new process has to import its module first, or "
                            "the entry point cellkit.cells of an installed one has to name it"
                        ) from error
                    # Keras puts the reason behind advice and the whole config of the model.
                    reason = str(error).rpartition("Exception encountered: ")[2]
                    ctx.fail(
                        "the model does not load where the cell's module was not imported: "
                        f"{type(error).__name__}: {reason[:300]}"
                    )
                got = loaded(map_trees(backend.to_tensor, inputs))
            got = leaves(backend.to_numpy(got))
            ctx.close("output of the loaded model", got, want, subject.tolerance(5))
            root = subject.cell.__class__.__module__.split(".")[0]
            if ctx.profile.name == "thorough" and root != "__main__" and _importable(root):
                got = _load_elsewhere(ctx, path, keras.tree.flatten(inputs))
                what = "output of the model loaded in a process of its own"
                ctx.close(what, got, want, subject.tolerance(5))


LOADER = """
import importlib, sys
import keras, numpy as np
importlib.import_module(sys.argv[4])
with np.load(sys.argv[2]) as data:
    inputs = [keras.ops.convert_to_tensor(data[key]) for key in data.files]
model = keras.models.load_model(sys.argv[1])
output = model(keras.tree.pack_sequence_as(model.input, inputs))
np.savez(sys.argv[3], *[keras.ops.convert_to_numpy(leaf) for leaf in keras.tree.flatten(output)])
"""


def _load_elsewhere(ctx: Context, path: Path, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Load a model in a new process that imports the layer's package alone, and run it there."""
    given, found = path.with_name("inputs.npz"), path.with_name("outputs.npz")
    np.savez(given, *inputs)
    package = ctx.layer.__module__.split(".")[0]
    done = subprocess.run(
        [sys.executable, "-c", LOADER, str(path), str(given), str(found), package],
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        ctx.fail(f"the model does not load in a process that imports {package} alone: {last[:300]}")
    with np.load(found) as data:
        return [data[key] for key in data.files]


def _is_plugin(cls: type) -> bool:
    """Say whether an installed distribution declares cells of this class's package."""
    root = cls.__module__.split(".")[0]
    if root in {"cellkit", "cellkit_conformance"}:
        return True
    declared = importlib.metadata.entry_points(group="cellkit.cells")
    return any(entry.module.split(".")[0] == root for entry in declared)


@contextlib.contextmanager
def _forgotten(cls: type) -> Iterator[None]:
    """Take a class out of Keras' registry, and its module out of the imported ones."""
    registry = keras.saving.get_custom_objects()
    root = cls.__module__.split(".")[0]
    names = [name for name in sys.modules if name == root or name.startswith(f"{root}.")]
    if root in {"cellkit", "cellkit_conformance", "keras", "__main__"}:
        names = []
    elif not _importable(root):
        names = []  # loaded from a file: no other process finds it either, so only by name here
    modules = {name: sys.modules.pop(name) for name in names}
    classes = {
        key: value
        for key, value in registry.items()
        if names and getattr(value, "__module__", "").split(".")[0] == root
    }
    for key in classes:
        del registry[key]
    try:
        yield
    finally:
        registry.update(classes)
        sys.modules.update(modules)


def _importable(root: str) -> bool:
    try:
        return importlib.util.find_spec(root) is not None
    except (ValueError, ImportError):
        return False


@check("SER-04")
def weights_travel_between_backends(ctx: Context) -> None:
    """Load the weights that other backends have saved, and find the file to be as one's own."""
    for subject in itertools.islice(ctx.cases(), 1):
        topic = f"weights-{subject.case}"
        inputs = subject.inputs(Example(3, 5, seed=ctx.seed))
        model, layer = _model(subject)
        want = subject.run(layer, inputs)
        path = ctx.exchange.mine(topic, ".weights.h5")
        model.save_weights(path)
        own, tolerance = _content(path), subject.tolerance(5)
        outputs = {str(i): np.asarray(a) for i, a in enumerate(leaves([want.output, want.states]))}
        files = {ctx.exchange.backend: path, **ctx.exchange.others(topic, ".weights.h5")}
        theirs = ctx.exchange.arrays(f"outputs-{subject.case}", outputs)
        for name, file in files.items():
            form = _content(file)
            ctx.require(
                form == own, f"{name} stores {sorted(form)}, and {ctx.exchange.backend} {own}"
            )
            other, other_layer = _model(subject, scrambled=True)
            other.load_weights(file)
            got = leaves([(r := subject.run(other_layer, inputs)).output, r.states])
            ctx.examples += 1
            ctx.close(f"result with the weights of {name}", got, list(outputs.values()), tolerance)
            if name in theirs:
                ctx.close(f"result on {name}", list(theirs[name].values()), got, tolerance)


def _model(subject: Subject, scrambled: bool = False) -> tuple[Any, Any]:
    """Make a model of one layer with the subject's weights, or with others."""
    layer, symbolic = subject.fresh_layer(name="layer", **SEQUENCES), subject.symbolic_inputs()
    output, _ = subject.split(layer, layer(symbolic))
    if scrambled:
        for variable in layer.weights:
            if keras.backend.is_float_dtype(variable.dtype):
                variable.assign(backend.to_numpy(variable.value) * 0.5 + 1)
    return keras.Model(symbolic, leaves(output)), layer


def _content(path: Path) -> dict[str, str]:
    """List names, shapes and dtypes of what is in a file of weights."""
    import h5py

    found: dict[str, str] = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            found[name] = f"{node.shape} {node.dtype}"

    with h5py.File(path) as file:
        file.visititems(visit)
    return found
