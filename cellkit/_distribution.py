"""The distribution that brings cellkit: its name on an index, and what else may bear one like it.

The package that is imported is `cellkit`. On PyPI that name belongs to another project, so the
distribution is called `keras-cellkit`. Early installations of this project bear the former name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import Distribution

__all__ = ["FORMER", "NAME", "Installed", "install_command", "installed", "is_own"]

NAME = "keras-cellkit"
"""The name of the distribution."""

FORMER = "cellkit"
"""The name it had first; on PyPI, the name of another project."""


@dataclasses.dataclass(frozen=True)
class Installed:
    """A distribution that is installed under the name of today or the former one.

    Args:
        name: Its name.
        version: Its version.
        ours: True if it brings the command `cellkit`: it is this project then.
        overlaps: True if it is another project with files in the package `cellkit`.
    """

    name: str
    version: str
    ours: bool
    overlaps: bool


def installed() -> list[Installed]:
    """Return what is installed under the two names, that of today first."""
    return [_describe(found) for name in (NAME, FORMER) for found in _find(name)]


def is_own(name: str) -> bool:
    """Tell whether cells declared by a distribution of this name come with cellkit."""
    return name in (NAME, FORMER)


def install_command(extra: str | None = None) -> str:
    """Return the line that installs cellkit, or one of its extras.

    Args:
        extra: An extra, such as `"torch"`.

    Example:
    >>> install_command("torch")
    "pip install 'keras-cellkit[torch]'"
    """
    return f"pip install '{NAME}[{extra}]'" if extra else f"pip install {NAME}"


def _find(name: str) -> Iterator[Distribution]:
    from importlib import metadata  # heavy for `import cellkit`, and seldom needed

    try:
        yield metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return


def _describe(found: Distribution) -> Installed:
    name = found.metadata["Name"]
    ours = any(
        entry.group == "console_scripts" and entry.name == "cellkit" and entry.value == _COMMAND
        for entry in found.entry_points
    )
    files = [str(file) for file in found.files or ()]
    overlaps = not ours and any(file.startswith("cellkit/") for file in files)
    return Installed(name, found.version, ours, overlaps)


_COMMAND = "cellkit.cli:main"
