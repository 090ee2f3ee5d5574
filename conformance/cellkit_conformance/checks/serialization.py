"""SER: a cell can be written down and made again."""

from __future__ import annotations

import inspect
import json
from typing import Any

import keras

from cellkit.spec import cell_weights, set_cell_weights
from cellkit_conformance.checks import check
from cellkit_conformance.context import Context
from cellkit_conformance.outcome import NotApplicable
from cellkit_conformance.strategies import Example
from cellkit_conformance.subject import Subject


@check("SER-01")
def config_round_trip(ctx: Context) -> None:
    """Make every case again from its config and compare config and results."""
    for subject in ctx.cases(every=True):
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


@check("SER-02")
def config_is_complete(ctx: Context) -> None:
    """Look for every constructor argument in the config."""
    for subject in ctx.cases(every=True):
        config = _config(subject)
        try:
            json.dumps(config)
        except (TypeError, ValueError) as error:
            ctx.fail(f"the config is not JSON: {error}")
        for name in _parameters(subject.cell.__class__):
            ctx.require(name in config, f"the constructor argument {name!r} is not in the config")
        for name, given in subject.kwargs.items():
            ctx.require(name in config, f"the argument {name!r} is not in the config")
            ctx.require(
                _means(config[name], given),
                f"{name}={given!r} was given, and the config says {config[name]!r}",
            )


def _config(subject: Subject) -> dict[str, Any]:
    if not hasattr(subject.cell, "get_config"):
        raise NotApplicable("a plain object has no config")
    return subject.cell.get_config()


def _means(stored: Any, given: Any) -> bool:
    """Whether a stored value says the same as the one given: serialised, or a list for a tuple."""
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


def _parameters(cls: type) -> list[str]:
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
    from cellkit_conformance.trees import map_trees

    return map_trees(lambda a: a[:, 0], inputs)


def _plain(value: Any) -> Any:
    """Bring a value to what JSON makes of it."""
    return json.loads(json.dumps(value, default=str, sort_keys=True))


def _first_difference(a: dict[str, Any], b: dict[str, Any]) -> str:
    for key in a:
        if a[key] != b.get(key):
            return f"{key} was {a[key]!r} and is {b.get(key)!r}"
    return f"it has also {sorted(set(b) - set(a))}"
