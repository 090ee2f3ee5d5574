"""SER: a cell can be written down and made again."""

from __future__ import annotations

import contextlib
import copy
import importlib.metadata
import importlib.util
import inspect
import itertools
import json
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cellkit.registry import cell_weights, set_cell_weights
from cellkit_conformance.checks import check
from cellkit_conformance.checks.context import Context
from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.outcome import NotApplicable
from cellkit_conformance.subject import backend
from cellkit_conformance.subject.constants import is_fed
from cellkit_conformance.subject.subject import Subject
from cellkit_conformance.trees import leaves, map_trees

SEQUENCES = {"return_sequences": True}


@check("SER-01")
def config_round_trip(ctx: Context) -> None:
    """Make every case again from its config and compare config and results."""
    for subject in ctx.cases():
        config = _config(subject)
        again = subject.cell.__class__.from_config(config)
        ctx.require(
            _plain(again.get_config()) == _plain(config),
            "the config of a cell made from a config differs: "
            + _first_difference(_plain(config), _plain(again.get_config())),
        )
        subject.build(again)
        set_cell_weights(again, cell_weights(subject.cell))
        example = Example(3, 1, seed=ctx.seed, initial_state=True)
        x = subject.inputs(example)
        step = _first_step(x)
        states = subject.random_states(example)
        got = subject.step_cell(step, states, again)
        want = subject.step_cell(step, states)
        ctx.same("output of the copy", got[0], want[0])
        ctx.same("state of the copy", got[1], want[1])
    for name, given, cell in _varied(ctx.subject(next(iter(ctx.target.cases)))):
        config = cell.get_config()
        again = cell.__class__.from_config(dict(config)).get_config()
        ctx.require(
            _plain(again) == _plain(config),
            f"with {name}={given!r}, the config of a cell made from a config differs: "
            + _first_difference(_plain(config), _plain(again)),
        )


@check("SER-02")
def config_is_complete(ctx: Context) -> None:
    """Look for every constructor argument in the config."""
    for subject in map(ctx.subject, ctx.target.cases):
        _require_layer(subject)
        config = subject.fresh_cell().get_config()
        try:
            json.dumps(config, default=_written_by_keras)
        except (TypeError, ValueError) as error:
            ctx.fail(f"the config is not JSON: {error}")
        for name in parameters_of(ctx.target.cls):
            ctx.require(name in config, f"the constructor argument {name!r} is not in the config")
        for name, given in subject.kwargs.items():
            ctx.require(name in config, f"the argument {name!r} is not in the config")
            ctx.require(
                _means(config[name], given),
                f"{name}={given!r} was given, and the config says {config[name]!r}",
            )
    for name, given, cell in _varied(ctx.subject(next(iter(ctx.target.cases)))):
        said = cell.get_config()[name]
        ctx.examples += 1
        ctx.require(said == given, f"{name}={given!r} was given, and the config says {said!r}")


def _varied(subject: Subject) -> Iterator[tuple[str, Any, Any]]:
    """Change the arguments that are plain values one by one, for cells that no case shows."""
    config = subject.fresh_cell().get_config()
    for name in parameters_of(subject.cell.__class__):
        value = config.get(name)
        if isinstance(value, bool):
            given: Any = not value
        elif isinstance(value, int):
            given = value + 1
        elif isinstance(value, float):
            given = 0.5 * value + 0.125
        else:
            continue
        try:
            cell = subject.target.make({**subject.kwargs, name: given})
        except (ValueError, TypeError, NotImplementedError):
            continue  # a value that this cell refuses
        yield name, given, cell


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
        _config(subject)
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
                            "the cell is not an installed plugin, so nothing tells a new process "
                            "its module; declare it under the entry point cellkit.cells"
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


@check("SER-06")
def nothing_hides_from_tracking(ctx: Context) -> None:
    """Give two cells the same variables: what still differs between them is hidden."""
    for subject in ctx.cases():
        cells = [subject.fresh_cell() for _ in range(2)]
        if not isinstance(cells[0], keras.layers.Layer):
            raise NotApplicable("a plain object tracks nothing")
        for cell in cells:
            subject.build(cell)
        for mine, theirs in zip(cells[0].variables, cells[1].variables, strict=True):
            theirs.assign(backend.to_numpy(mine.value))
        inputs = _first_step(subject.inputs(Example(3, 1, seed=ctx.seed)))
        states = subject.random_states(Example(3, 1, seed=ctx.seed))
        first, second = (subject.step_cell(inputs, states, cell) for cell in cells)
        ctx.same("output of a cell with the same variables", second[0], first[0])
        ctx.same("state of a cell with the same variables", second[1], first[1])
        tracked = {id(v) for v in cells[0].variables}
        for name, value in vars(cells[0]).items():
            found = keras.tree.flatten(value) if isinstance(value, (list, tuple, dict)) else [value]
            hidden = [v for v in found if isinstance(v, keras.Variable) and id(v) not in tracked]
            ctx.require(not hidden, f"the variable in {name!r} is not among the cell's variables")
        weights = {id(v) for v in cells[0].weights}
        ctx.require(weights <= tracked, "a weight is not among the cell's variables")


@check("SER-07")
def weights_can_be_set(ctx: Context) -> None:
    """Set the weights that a layer has, and then weights that do not fit."""
    for subject in ctx.cases():
        layer = subject.layer(**SEQUENCES)
        inputs = subject.inputs(Example(3, 5, seed=ctx.seed))
        want = subject.run(layer, inputs)
        stored = layer.get_weights()
        layer.set_weights(stored)
        got = subject.run(layer, inputs)
        ctx.same("output after set_weights(get_weights())", got.output, want.output)
        if not stored:
            continue
        wrong = [np.zeros((*stored[0].shape, 2), stored[0].dtype), *stored[1:]]
        text = ctx.raises("weights of another shape", lambda la=layer, w=wrong: la.set_weights(w))
        shape = str(tuple(stored[0].shape))
        ctx.require(shape in text, f"the error for a wrong weight does not name {shape}: {text}")
        ctx.raises("one weight too few", lambda la=layer, w=stored: la.set_weights(w[1:]))
        got = subject.run(layer, inputs)
        ctx.same("output after weights were refused", got.output, want.output)


@check("SER-08")
def copies_stand_alone(ctx: Context) -> None:
    """Copy a layer deeply and through pickle, then change the copy."""
    for subject in itertools.islice(ctx.cases(), 1):
        layer = subject.fresh_layer(**SEQUENCES)
        inputs = subject.inputs(Example(3, 5, seed=ctx.seed))
        want = subject.run(layer, inputs)
        ways: dict[str, Callable[[], Any]] = {
            "copy.deepcopy": lambda la=layer: copy.deepcopy(la),
            "pickle": lambda la=layer: pickle.loads(pickle.dumps(la)),  # noqa: S301 (own bytes)
        }
        for way, make in ways.items():
            try:
                again = make()
            except Exception as error:  # noqa: BLE001 (whatever it is, it is the finding)
                ctx.fail(f"{way} of a built layer raises {type(error).__name__}: {error}")
            got = subject.run(again, inputs)
            ctx.examples += 1
            ctx.close(f"output of a copy by {way}", got.output, want.output, subject.tolerance(5))
            for variable in again.weights:
                if keras.backend.is_float_dtype(variable.dtype):
                    variable.assign(backend.to_numpy(variable.value) + 1)
            after = subject.run(layer, inputs)
            ctx.same(f"output after a copy by {way} was changed", after.output, want.output)


@check("SER-09")
def nested_configs_round_trip(ctx: Context) -> None:
    """Clone a model, and write down and make again layers that hold the cell."""
    for subject in itertools.islice(ctx.cases(), 1):
        config = _config(subject)
        layer, symbolic = subject.layer(**SEQUENCES), subject.symbolic_inputs()
        output, _ = subject.split(layer, layer(symbolic))
        clone = keras.models.clone_model(keras.Model(symbolic, leaves(output)))
        shapes = [tuple(leaf.shape) for leaf in leaves(output)]
        cloned = [tuple(leaf.shape) for leaf in leaves(clone.outputs)]
        ctx.require(cloned == shapes, f"a cloned model gives {cloned}, the model {shapes}")
        holders = {
            "Bidirectional": ctx.bidirectional()(subject.fresh_layer(return_state=False)),
            "a stack": ctx.layer([subject.fresh_cell(), subject.fresh_cell()]),
        }
        for name, holder in holders.items():
            again = holder.__class__.from_config(holder.get_config())
            first, second = _plain(holder.get_config()), _plain(again.get_config())
            ctx.require(
                second == first, f"{name} comes back otherwise: {_first_difference(first, second)}"
            )
        classes = {subject.cell.__class__.__name__: subject.cell.__class__}
        with keras.saving.custom_object_scope(classes):
            again = subject.cell.__class__.from_config(config)
        ctx.require(
            _plain(again.get_config()) == _plain(config),
            "the config of a cell made in a custom_object_scope differs",
        )


@keras.saving.register_keras_serializable(package="cellkit_conformance")
def soft_sign(x: Any) -> Any:
    """A custom activation."""
    return x / (1 + keras.ops.abs(x))


OBJECTS: dict[str, Any] = {
    "activation": (soft_sign, "relu", keras.activations.tanh),
    "kernel_initializer": (lambda: keras.initializers.RandomNormal(0.0, 0.3, seed=4),),
    "recurrent_initializer": (lambda: keras.initializers.Orthogonal(0.7, seed=4),),
    "bias_initializer": (lambda: keras.initializers.RandomUniform(-0.2, 0.2, seed=4),),
    "kernel_regularizer": (lambda: keras.regularizers.L2(0.25),),
    "recurrent_regularizer": (lambda: keras.regularizers.L1L2(0.25, 0.5),),
    "bias_regularizer": (lambda: keras.regularizers.L1(0.25),),
    "kernel_constraint": (lambda: keras.constraints.MaxNorm(0.5),),
    "recurrent_constraint": (lambda: keras.constraints.UnitNorm(),),
    "bias_constraint": (lambda: keras.constraints.NonNeg(),),
}


@check("SER-10")
def options_that_are_objects(ctx: Context) -> None:
    """Pass activations, initializers, regularizers and constraints as names and as objects."""
    for subject in itertools.islice(ctx.cases(), 1):
        _config(subject)
        accepted = set(parameters_of(subject.cell.__class__))
        for name, values in OBJECTS.items():
            if name not in accepted:
                continue
            for value in values:
                given = value() if getattr(value, "__name__", "") == "<lambda>" else value
                try:
                    cell = ctx.target.make({**subject.kwargs, name: given})
                except (ValueError, TypeError):
                    continue  # an option that this cell restricts
                config = _plain(cell.get_config())
                again = subject.cell.__class__.from_config(cell.get_config())
                ctx.examples += 1
                ctx.require(
                    _plain(again.get_config()) == config,
                    f"{name}={given!r} does not survive the config: "
                    + _first_difference(config, _plain(again.get_config())),
                )
                kept, default = config.get(name), _plain(subject.cell.get_config()).get(name)
                same_as_default = _means(default, given)
                ctx.require(
                    same_as_default or kept != default,
                    f"{name}={given!r} does not change the config, which says {kept!r}",
                )


@check("SER-11")
def older_configs_load(ctx: Context) -> None:
    """Leave out of the config, one by one, the arguments that have their default value."""
    for subject in itertools.islice(ctx.cases(), 1):
        config = _config(subject)
        cls = subject.cell.__class__
        optional = _defaults(cls)
        for name in optional:
            if name not in config or name in subject.kwargs:
                continue
            less = {key: value for key, value in config.items() if key != name}
            try:
                again = cls.from_config(less)
            except Exception as error:  # noqa: BLE001 (whatever it is, it is the finding)
                ctx.fail(f"a config without {name!r} raises {type(error).__name__}: {error}")
            ctx.examples += 1
            ctx.require(
                _plain(again.get_config()) == _plain(config),
                f"a config without {name!r} gives another cell: "
                + _first_difference(_plain(config), _plain(again.get_config())),
            )


def _defaults(cls: type) -> list[str]:
    """List the constructor arguments that may be left out."""
    names = []
    for base in cls.__mro__:
        if base in (keras.layers.Layer, object):
            break
        parameters = inspect.signature(base.__init__).parameters.values()
        names += [p.name for p in parameters if p.default is not p.empty and p.name != "self"]
    return list(dict.fromkeys(names))


def _config(subject: Subject) -> dict[str, Any]:
    _require_layer(subject)
    return subject.cell.get_config()


def _require_layer(subject: Subject) -> None:
    if not hasattr(subject.target.cls, "get_config"):
        raise NotApplicable("a plain object has no config")


def _means(stored: Any, given: Any) -> bool:
    """Tell if a stored value says the same as the one given: serialised, or a list for a tuple."""
    if stored == given or _plain(stored) == _plain(given):
        return True
    if isinstance(stored, dict) and "class_name" in stored:
        if isinstance(given, str):
            return _snake(given) == _snake(stored["class_name"])
        return _plain(keras.saving.serialize_keras_object(given)) == _plain(stored)
    if callable(given) and isinstance(stored, str):
        return stored == getattr(given, "__name__", None)
    return False


def _snake(name: str) -> str:
    return name.replace("_", "").lower()


def parameters_of(cls: type) -> list[str]:
    """List the named constructor arguments of a class and of those it passes **kwargs on to."""
    names: dict[str, None] = {}
    for base in cls.__mro__:
        if base in (keras.layers.Layer, object):
            break
        if "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        names.update({p.name: None for p in parameters if p.kind in named})
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return list(names)


def _first_step(inputs: Any) -> Any:
    return map_trees(lambda a: a[:, 0], inputs)


def _plain(value: Any) -> Any:
    """Bring a value to what JSON makes of it."""
    return json.loads(json.dumps(value, default=_serialised, sort_keys=True))


def _written_by_keras(value: Any) -> Any:
    """Write an object with a config of its own, such as an initializer, which Keras does too."""
    if isinstance(value, type) or not hasattr(value, "get_config"):
        raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
    return keras.saving.serialize_keras_object(value)


def _serialised(value: Any) -> Any:
    """Write an object as Keras writes it into a file, so that two that are alike compare equal."""
    try:
        return keras.saving.serialize_keras_object(value)
    except (TypeError, ValueError, NotImplementedError):
        return str(value)


def _first_difference(a: dict[str, Any], b: dict[str, Any]) -> str:
    for key in a:
        if a[key] != b.get(key):
            return f"{key} was {a[key]!r} and is {b.get(key)!r}"
    return f"it has also {sorted(set(b) - set(a))}"
