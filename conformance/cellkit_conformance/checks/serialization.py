"""SER: a cell can be written down and made again."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import itertools
import json
import pickle
import re
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from cellkit.registry import cell_weights, get, list_cells, set_cell_weights
from cellkit_conformance.checks import check
from cellkit_conformance.checks.context import Context
from cellkit_conformance.checks.parameters import (
    another,
    known_to_keras,
    optional_arguments,
    others_for,
    parameters_of,
    snake,
)
from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.outcome import NotApplicable, describe_error
from cellkit_conformance.subject import backend
from cellkit_conformance.subject.reimport import imported_anew
from cellkit_conformance.subject.subject import REFUSALS, Subject
from cellkit_conformance.trees import leaves, map_trees

SEQUENCES = {"return_sequences": True}


@check("SER-01")
def config_round_trip(ctx: Context) -> None:
    """Make every case again from its config and compare config and results."""
    for subject in ctx.cases():
        config = config_of(subject)
        again = subject.cell.__class__.from_config(dict(config))
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
            json.dumps(keras.saving.serialize_keras_object(config))
        except (TypeError, ValueError, NotImplementedError) as error:
            ctx.fail(f"the config is not JSON: {error}")
        for name in parameters_of(ctx.target.cls):
            if name not in config:
                _require_kept_otherwise(ctx, subject, name)
        for name, given in subject.kwargs.items():
            if name not in config:
                _require_kept_otherwise(ctx, subject, name)
                continue
            ctx.require(
                _means(config[name], given),
                f"{name}={given!r} was given, and the config says {config[name]!r}",
            )
    for name, given, cell in _varied(ctx.subject(next(iter(ctx.target.cases)))):
        said = cell.get_config()[name]
        ctx.examples += 1
        ctx.require(said == given, f"{name}={given!r} was given, and the config says {said!r}")
    _require_objects_kept(ctx)


def _require_objects_kept(ctx: Context) -> None:
    """Give initializers and the like with arguments of their own, and read these in the config."""
    subject = ctx.subject(next(iter(ctx.target.cases)))
    for name in parameters_of(ctx.target.cls):
        kind = next((kind for kind in KINDS if name.endswith(kind)), None)
        if kind is None:
            continue
        module, given = KINDS[kind][0], KINDS[kind][1]()
        try:
            cell = subject.target.make({**subject.target.arguments(subject.case), name: given})
        except REFUSALS:
            continue  # an option that this cell restricts
        said = cell.get_config().get(name, given)
        if _means(said, given):
            continue
        try:
            read = getattr(keras, module).get(said).get_config()
        except Exception:  # noqa: BLE001 (whatever it is, it is not what was given)
            read = None
        ctx.examples += 1
        ctx.require(
            read == given.get_config(),
            f"{name}={type(given).__name__}({given.get_config()}) was given, and the config says "
            f"{said!r}",
        )


KINDS: dict[str, tuple[str, Callable[[], Any]]] = {
    "initializer": ("initializers", lambda: keras.initializers.RandomNormal(0.0, 0.3, seed=4)),
    "regularizer": ("regularizers", lambda: keras.regularizers.L2(0.25)),
    "constraint": ("constraints", lambda: keras.constraints.MaxNorm(0.5)),
}
"""Objects among the arguments: the module of Keras that reads them, and one that is no default."""


def _require_kept_otherwise(ctx: Context, subject: Subject, name: str) -> None:
    """Require that a config tells an argument under another name, as a `from_config` may read it.

    Of the values that are tried the first one that changes the config decides. One that the cell
    accepts and cannot write down or read again does not: it may be of a type that nobody meant.
    """
    own, said = _plain(subject.fresh_cell().get_config()), ""
    for other in others_for(subject, name):
        try:
            cell = subject.target.make({**subject.target.arguments(subject.case), name: other})
        except (*REFUSALS, AttributeError) as error:
            if "multiple values" in str(error):
                return  # the class itself gives it to its base class, and nobody else can
            continue
        try:
            config = cell.get_config()
            again = cell.__class__.from_config(dict(config)).get_config()
        except Exception as error:  # noqa: BLE001 (it is told if no other value decides)
            said = (
                f", and made with {name}={other!r} it does not come back: {describe_error(error)}"
            )
            continue
        if _plain(config) != own:
            if _plain(again) == _plain(config):
                return
            break
    ctx.fail(f"the constructor argument {name!r} is not in the config{said}")


def _anonymous(value: Any) -> Any:
    """Leave out what differs between two layers of one kind: numbers in names, and being built."""
    if isinstance(value, dict):
        return {
            key: re.sub(r"_\d+$", "", entry)
            if key == "name" and isinstance(entry, str)
            else _anonymous(entry)
            for key, entry in value.items()
            if key != "build_config"  # of a layer inside, which may be built or not
        }
    return [_anonymous(entry) for entry in value] if isinstance(value, list) else value


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
            given = another(value)
        else:
            continue
        try:
            cell = subject.target.make({**subject.target.arguments(subject.case), name: given})
        except (ValueError, TypeError, NotImplementedError):
            continue  # a value that this cell refuses
        yield name, given, cell


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
        _require_the_same_elsewhere(ctx, subject)


def _require_the_same_elsewhere(ctx: Context, subject: Subject) -> None:
    """Import the module of the cell anew, as another process does, and give its cell the variables.

    What a class or a module has drawn once, and keeps for all cells, is another there.
    """
    again = imported_anew(ctx.target.cls)
    if again is None:
        return
    target = dataclasses.replace(ctx.target, cls=again)
    try:
        if ctx.target.spec is not None and ctx.target.spec_file is None:
            # Arguments of a case may be of types that the module defines.
            target = dataclasses.replace(target, cases=again.spec.completed(again).cases)
        other = Subject(target, subject.case, ctx.layer)
        cell = other.fresh_cell()
    except Exception:  # noqa: BLE001 (a module that can be imported once, which is not the point)
        return
    other.build(cell)
    other.complete(cell)
    first = subject.built_cell()  # which has run as little
    set_cell_weights(first, cell_weights(subject.cell))
    mine, theirs = first.variables, cell.variables
    if [v.shape for v in mine] != [v.shape for v in theirs]:
        return
    for variable, value in zip(theirs, mine, strict=True):
        variable.assign(value)
    example = Example(3, 1, seed=ctx.seed)
    inputs, states = _first_step(subject.inputs(example)), subject.random_states(example)
    want, got = (subject.step_cell(inputs, states, c) for c in (first, cell))
    ctx.examples += 1
    what = "with the same variables, where its module is imported anew,"
    ctx.same(f"output of a cell {what}", got[0], want[0])
    ctx.same(f"state of a cell {what}", got[1], want[1])


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
        _require_layer(subject)
        layer = subject.fresh_layer(**SEQUENCES)
        inputs = subject.inputs(Example(3, 5, seed=ctx.seed))
        want = subject.run(layer, inputs)
        ways: dict[str, Callable[[], Any]] = {
            "copy.deepcopy": lambda la=layer: copy.deepcopy(la),
            "pickle": lambda la=layer: pickle.loads(pickle.dumps(la)),  # noqa: S301 (own bytes)
        }
        for way, make in ways.items():
            try:
                with known_to_keras(ctx.target.cls):
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
        with known_to_keras(ctx.target.cls):
            twin = copy.deepcopy(layer.cell)
        shared = {id(v) for v in twin.variables} & {id(v) for v in layer.cell.variables}
        ctx.require(
            twin is not layer.cell and not shared,
            f"copy.deepcopy of the cell shares {len(shared)} variable(s) with it",
        )


@check("SER-09")
def nested_configs_round_trip(ctx: Context) -> None:
    """Clone a model, and write down and make again layers that hold the cell."""
    for subject in itertools.islice(ctx.cases(), 1):
        config = config_of(subject)
        layer, symbolic = subject.layer(**SEQUENCES), subject.symbolic_inputs()
        output, _ = subject.split(layer, layer(symbolic))
        with known_to_keras(ctx.target.cls):
            clone = keras.models.clone_model(keras.Model(symbolic, leaves(output)))
        shapes = [tuple(leaf.shape) for leaf in leaves(output)]
        cloned = [tuple(leaf.shape) for leaf in leaves(clone.outputs)]
        ctx.require(cloned == shapes, f"a cloned model gives {cloned}, the model {shapes}")
        holders = {
            "Bidirectional": ctx.bidirectional()(subject.fresh_layer(return_state=False)),
            "a stack": ctx.layer([subject.fresh_cell(), subject.fresh_cell()]),
        }
        for name, holder in holders.items():
            with known_to_keras(ctx.target.cls):
                again = holder.__class__.from_config(holder.get_config())
            first, second = _plain(holder.get_config()), _plain(again.get_config())
            ctx.require(
                second == first, f"{name} comes back otherwise: {_first_difference(first, second)}"
            )
        classes = {subject.cell.__class__.__name__: subject.cell.__class__}
        with keras.saving.custom_object_scope(classes):
            again = subject.cell.__class__.from_config(dict(config))
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
        config_of(subject)
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
        config = config_of(subject)
        cls = subject.cell.__class__
        optional = optional_arguments(cls)
        for name in optional:
            if name not in config or name in subject.kwargs or _is_object(config[name]):
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


def _is_object(written: Any) -> bool:
    """Say whether a value in a config is a layer, which a `from_config` reads by its name."""
    if isinstance(written, dict) and isinstance(written.get("config"), dict):
        written = keras.saving.deserialize_keras_object(written)
    return isinstance(written, keras.layers.Layer)


def config_of(subject: Subject) -> dict[str, Any]:
    """Return the config of the cell, or find the check not applicable."""
    _require_layer(subject)
    return subject.cell.get_config()


def _require_layer(subject: Subject) -> None:
    if not hasattr(subject.target.cls, "get_config"):
        raise NotApplicable("a plain object has no config")
    require_config(subject.target.cls)


def require_config(cls: Any) -> None:
    """Say that nothing applies where a class does not take what Keras itself writes into a config.

    Args:
        cls: A class of cells.

    Raises:
        NotApplicable: It has neither a `get_config` of its own nor room for such arguments.
    """
    own = [base for base in cls.__mro__ if base.__module__.split(".")[0] != "keras"]
    written = any({"get_config", "from_config"} & set(vars(base)) for base in own)
    takes = set(inspect.signature(cls).parameters)
    kinds = {p.kind for p in inspect.signature(cls).parameters.values()}
    if not written and inspect.Parameter.VAR_KEYWORD not in kinds and not {"dtype"} & takes:
        raise NotApplicable(
            "it has no `get_config`, and its `__init__` does not take the arguments that Keras "
            "writes for it: it makes no promise to come back from a config"
        )


def _means(stored: Any, given: Any) -> bool:
    """Tell if a stored value says the same as the one given: serialised, or a list for a tuple."""
    if stored == given or _plain(stored) == _plain(given):
        return True
    if isinstance(stored, dict) and "class_name" in stored:
        if isinstance(given, list):  # of cells, which become a stack
            cells = stored["config"].get("cells", [])
            return len(cells) == len(given) and all(map(_means, cells, given))
        if isinstance(given, str):
            if given in list_cells():
                return get(given).cls.__name__ == stored["class_name"]
            return snake(given) == snake(stored["class_name"])
        return _plain(keras.saving.serialize_keras_object(given)) == _plain(stored)
    if callable(given) and isinstance(stored, str):
        return stored == getattr(given, "__name__", None)
    return False


def _first_step(inputs: Any) -> Any:
    return map_trees(lambda a: a[:, 0], inputs)


def _plain(value: Any) -> Any:
    """Bring a value to what JSON makes of it, without the numbers in names that Keras counts up."""
    return _anonymous(json.loads(json.dumps(value, default=_serialised, sort_keys=True)))


def _serialised(value: Any) -> Any:
    """Write an object as Keras writes it into a file, so that two that are alike compare equal."""
    try:
        return keras.saving.serialize_keras_object(value)
    except (TypeError, ValueError, NotImplementedError):
        return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def _first_difference(a: dict[str, Any], b: dict[str, Any]) -> str:
    for key in a:
        if a[key] != b.get(key):
            return f"{key} was {a[key]!r} and is {b.get(key)!r}"
    return f"it has also {sorted(set(b) - set(a))}"
