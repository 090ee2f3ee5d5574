"""Reproduction programs: a failure as a file that shows it, without chance.

Where the recorded calls say all, a program is made of them alone (see `writer`) and needs no suite.
Where the failure lies between the calls (in a saved file, another thread, a second backend), a
short program calls `replay` with the requirement, the cell, the case and the example. Each
requirement says in `requirements.toml` which of the two it is, and what cannot be written in the
first way is written in the second.
"""

from __future__ import annotations

import contextlib
import io
import os
import pprint
import sys
import textwrap

import keras

from cellkit_conformance.checks.context import Context
from cellkit_conformance.edition import edition_name, editions, requirements
from cellkit_conformance.outcome import Outcome, Result, one_line, text_of
from cellkit_conformance.places import BACKENDS, CPU, backend_of, device_of
from cellkit_conformance.repro.program import TWO_PROCESSORS, NoScript, Program
from cellkit_conformance.repro.writer import Writer

PATIENCE = 20.0
"""Seconds up to which a check is run once more, to see that its program fails."""


def write(result: Result, context: Context, seconds: float = 0.0) -> str:
    """Write the program of a failure that has just happened.

    Args:
        result: The failure.
        context: Of the check that failed.
        seconds: Seconds that the check took.

    Returns:
        The program, or a comment that says why there is none.
    """
    said = ""
    for way in (_standalone, _replay):
        try:
            text = way(result, context)
            if text is None:
                continue
            if way is _standalone or seconds <= PATIENCE:
                _prove(text, None if way is _replay else result)
        except NoScript as error:
            said = str(error)
        except Exception as error:  # noqa: BLE001 (the failure itself must reach the report)
            said = f"it could not be written: {type(error).__name__}: {text_of(error)}"
        else:
            return text
    return one_line(f"# No script: {said}.") + "\n"


def _standalone(result: Result, context: Context) -> str | None:
    """Write the recorded calls, where they say all."""
    is_error = result.outcome is Outcome.ERROR
    if requirements()[result.requirement].script == "replay" and not is_error:
        return None
    writer = Writer(result, context)
    written = writer.by_error() if is_error else writer.write()
    return writer.text() if written else None


def _replay(result: Result, context: Context) -> str:
    """Write a program that runs the check again."""
    program = Program(result, context.target.name)
    cls = context.target.cls
    cell = program.name_of_class(cls)
    program.imports.add("from cellkit_conformance import replay")
    if result.requirement == "PUR-06":
        cell = _imported_by_a_function(program, cls)
    words = [repr(result.requirement), cell]
    others = _others(result, context)
    if others:
        words.append(f"also_on={others!r}")
    failed = context.failed
    if failed is not None and not others:
        words.append(f"case={context.case!r}")
        described = pprint.pformat(failed.example.describe(), width=80, sort_dicts=False)
        words.append(f"example={described}")
        words += [f"turn={failed.turn}"] if failed.turn != 1 else []
    words.append(f"seed={context.seed}")
    if context.profile.name != "quick":
        words.append(f"profile={context.profile.name!r}")
    if context.target.spec_file is not None:
        words.append(f"spec={context.target.spec_file!r}")
    if edition_name() != editions()[-1]:
        words.append(f"edition={edition_name()!r}")
    layer = program.name_of_class(context.layer)
    if layer != "cellkit.RNN":
        words.append(f"layer={layer}")
    program.imports.discard("import cellkit")
    if device_of(result.backend) == CPU and not layer.startswith("keras."):
        program.imports.discard("import keras")
    program.lines("replay(", *(textwrap.indent(f"{word},", "    ") for word in words), ")")
    return program.text()


def _others(result: Result, context: Context) -> list[str]:
    """List the backends that the message compares this one with."""
    others = sorted(name for name in context.exchange.met if name in result.message)
    unknown = [name for name in others if backend_of(name) not in BACKENDS]
    if unknown:
        raise NoScript(f"what is compared with was left by {unknown[0]}, which is not a backend")
    return others


def _imported_by_a_function(program: Program, cls: type) -> str:
    """Put the import of a cell, whose effects are the failure, into a function."""
    name = cls.__qualname__
    line = next(text for text in program.imports if text.endswith(f" import {name.split('.')[0]}"))
    program.imports = {text for text in program.imports if text != line} | {"import sys"}
    program.lines(
        "def load():",
        f"    sys.modules.pop({cls.__module__!r}, None)  # where it was imported before",
        f"    {line}",
        f"    return {name}",
        "",
        "",
    )
    return "load"


def _prove(text: str, result: Result | None) -> None:
    """Run a program here, where the failure has just happened: one that passes shows nothing.

    Args:
        text: The program.
        result: The failure that it has to raise, or None for any.

    Raises:
        NoScript: It passes, or fails for another reason.
    """
    path, modules, environment = list(sys.path), dict(sys.modules), dict(os.environ)
    policy, epsilon = keras.config.dtype_policy(), keras.config.epsilon()
    text = text.replace("\n".join(TWO_PROCESSORS), "")  # there are two already, or it is too late
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(text, "script", "exec"), {"__name__": "__main__"})  # noqa: S102
    except (Exception, SystemExit, GeneratorExit) as error:
        found = type(error).__name__
        if result is None or isinstance(error, AssertionError):
            return
        if found in f"{result.message}\n{result.detail}":
            return
        raise NoScript(f"what was written raises {found}: {text_of(error)}") from error
    finally:
        sys.path[:] = path
        sys.modules.update(modules)  # a script may import the cell's module anew
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)
        keras.config.set_dtype_policy(policy)
        keras.config.set_epsilon(epsilon)
    raise NoScript("what was recorded does not fail by itself")
