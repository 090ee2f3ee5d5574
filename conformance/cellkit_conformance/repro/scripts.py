"""Reproduction scripts: a failure as a program of its own, without the suite and without chance."""

from __future__ import annotations

import contextlib
import io
import os
import sys

import keras

from cellkit_conformance.checks.context import Context
from cellkit_conformance.outcome import Result, one_line, text_of
from cellkit_conformance.repro.recipes import ALONE, RECIPES
from cellkit_conformance.repro.writer import NoScript, Writer


def write(result: Result, context: Context) -> str:
    """Write the script of a failure that has just happened.

    Args:
        result: The failure.
        context: Of the check that failed.

    Returns:
        The program, or a comment that says why there is none.
    """
    identifier = result.requirement
    said = "this requirement compares no arrays and has no recipe"
    direct = None if identifier in ALONE else Writer.directly
    for way in (direct, RECIPES.get(identifier)):
        if way is None:
            continue
        try:
            writer = Writer(result, context)
            if way(writer) is False:
                continue
            text = writer.text()
            _prove(text, result)
        except NoScript as error:
            said = str(error)
        except Exception as error:  # noqa: BLE001 (the failure itself must reach the report)
            said = f"it could not be written: {type(error).__name__}: {text_of(error)}"
        else:
            return text
    return one_line(f"# No script: {said}.") + "\n"


def _prove(text: str, result: Result) -> None:
    """Run a script here, where the failure has just happened: one that passes shows nothing."""
    path, modules, environment = list(sys.path), dict(sys.modules), dict(os.environ)
    policy = keras.config.dtype_policy()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(text, "script", "exec"), {"__name__": "__main__"})  # noqa: S102
    except (NameError, SyntaxError, ImportError, AttributeError) as error:
        if type(error).__name__ not in f"{result.message}\n{result.detail}":
            raise NoScript(f"what was written raises {type(error).__name__}: {error}") from error
        return
    except (Exception, SystemExit, GeneratorExit):  # as it should
        return
    finally:
        sys.path[:] = path
        sys.modules.update(modules)  # a script may import the cell's module anew
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)
        keras.config.set_dtype_policy(policy)
    raise NoScript("what was recorded does not fail by itself")
