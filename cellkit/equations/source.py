"""A Python module around a text of equations, as an author of a plugin writes it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

__all__ = ["module_source"]

_MODULE = '''"""{summary}"""

from __future__ import annotations

import cellkit
import keras


@keras.saving.register_keras_serializable(package="{package}")
class {name}({bases}):
    """{summary}

    Paper: Unpublished {year}, "{name}", https://example.org.

    Put your paper there, in the same form. The equations stand in front of this docstring's
    arguments wherever it is shown.

    Args:
        units: Number of units.
        **kwargs: {options}
    """

    equations = """
{text}
    """
'''


def module_source(
    name: str, package: str, text: str, year: int, declared: Mapping[str, Any] | None = None
) -> str:
    """Return the source of a module that holds one cell.

    Args:
        name: Of the class.
        package: Under which Keras registers it.
        text: The equations, parsed already.
        year: Of the paper.
        declared: The declarations beside the text, as `cellkit.EquationCell` takes it.
    """
    extra = {key: value for key, value in (declared or {}).items() if value}
    bases = ", ".join(
        ["cellkit.EquationCell", *(f"{key}={value!r}" for key, value in extra.items())]
    )
    # A remark must not end the text, and no part of it may be read as a sign of Python's.
    safe = text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return _MODULE.format(
        summary=f"{name}: say in one line what this cell is.",
        package=package,
        name=name,
        bases=bases,
        options="Options, numbers and sizes of the equations, and options of `cellkit.Cell`.",
        text=textwrap.indent(safe.strip("\n"), "    "),
        year=year,
    )
