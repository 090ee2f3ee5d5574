"""A program that shows a failure: its head, its imports, and the lines that a writer adds."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any

import keras

from cellkit_conformance.edition import edition_name, requirements
from cellkit_conformance.outcome import Result
from cellkit_conformance.places import CPU, NEEDS_TWO, backend_of, device_of
from cellkit_conformance.repro.helpers import needed

TWO_PROCESSORS = (
    "two = [tf.config.LogicalDeviceConfiguration()] * 2",
    'processor = tf.config.list_physical_devices("CPU")[0]',
    "tf.config.set_logical_device_configuration(processor, two)",
)
"""Has TensorFlow make two processors of one, before it starts."""


class NoScript(Exception):
    """This failure cannot be written as a program; the text says why."""


class Program:
    """Collects the lines of one program.

    Args:
        result: The failure.
        target: The name of the cell, as on the command line.
    """

    def __init__(self, result: Result, target: str) -> None:
        self.result = result
        self.target = target
        self.imports = {"import os", "import keras"}
        self.paths: list[str] = []
        self.body: list[str] = []
        self.helpers: dict[str, str] = {}
        self.backend = backend_of(result.backend)
        here = device_of(result.backend).startswith("cpu:")
        self.two_processors = here or result.requirement in NEEDS_TWO

    def text(self) -> str:
        """Put the script together."""
        requirement = requirements()[self.result.requirement]
        head = (
            f"{self.result.requirement} for {self.result.cell} on {self.result.backend} "
            f"(cellkit conformance, edition {edition_name()})\n\n"
            f"{_wrap('Must hold', requirement.sentence)}\n{_wrap('Found', self.result.message)}\n"
        )
        body = "\n".join(self.body)
        helpers = needed(body, self.backend, self.helpers)
        if self.two_processors and self.backend == "tensorflow":
            self.import_backend()
        first = {"import os", *(["import sys"] if self.paths else [])}
        found = sorted(self.imports - first, key=lambda line: line.split()[1].lower())
        lines = [
            f'"""{head}"""' if _is_plain(head) else repr(head),
            "",
            *sorted(first),
            "",
            f'os.environ["KERAS_BACKEND"] = "{self.backend}"',
            *(f'os.environ["{name}"] = "{value}"' for name, value in self._environment().items()),
            *(f"sys.path.insert(0, {path!r})" for path in self.paths),
            "",
            *found,
            *self._processors(),
            *self._device(),
            "",
            "",
            "",
        ]
        functions = "".join(f"{text}\n\n" for text in helpers.values())
        return "\n".join(lines) + functions + body + "\n"

    def _environment(self) -> dict[str, str]:
        """Say what JAX has to be told before it starts."""
        if self.backend != "jax":
            return {}
        given = {}
        if self.two_processors:
            given["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
        if sys.modules["jax"].config.jax_enable_x64:
            given["JAX_ENABLE_X64"] = "1"
        return given

    def _processors(self) -> list[str]:
        """Have TensorFlow make two processors of one."""
        if self.backend != "tensorflow" or not self.two_processors:
            return []
        return ["", *TWO_PROCESSORS]

    def _device(self) -> list[str]:
        """Have the rest of the script run where the check ran."""
        device = device_of(self.result.backend)
        if device == CPU:
            return []
        return ["", f'device = keras.device("{device}")', "device.__enter__()"]

    def lines(self, *lines: str) -> None:
        """Add lines."""
        self.body.extend(lines)

    def import_backend(self) -> None:
        """Import the backend itself."""
        self.imports.add(
            "import tensorflow as tf" if self.backend == "tensorflow" else f"import {self.backend}"
        )

    def name_of_class(self, cls: Any) -> str:
        """Import a class and return its name."""
        if cls is keras.layers.RNN:
            return "keras.layers.RNN"
        if cls.__module__.split(".")[0] == "cellkit" and cls.__name__ == "RNN":
            self.imports.add("import cellkit")
            return "cellkit.RNN"
        if "<locals>" in cls.__qualname__ or cls.__module__ == "__main__":
            raise NoScript(f"{cls.__qualname__} cannot be imported")
        first = cls.__qualname__.split(".")[0]
        self.imports.add(f"from {cls.__module__} import {first}")
        self._find_path(cls)
        return cls.__qualname__

    def _find_path(self, cls: Any) -> None:
        """Put the folder of a module on the path where an installed one would not be found."""
        file = getattr(sys.modules.get(cls.__module__), "__file__", None)
        where = self.target.rpartition(":")[0]
        if file is None or any(
            part in ("site-packages", "dist-packages") for part in Path(file).parts
        ):
            return
        if where.endswith(".py") and Path(where).stem == cls.__module__:
            folder = str(Path(where).resolve().parent)
        elif Path(file).is_relative_to(Path.cwd()) and ":" in self.target:
            folder = str(Path.cwd())
        else:
            return
        if folder not in self.paths:
            self.paths.append(folder)


def _wrap(what: str, text: str) -> str:
    return textwrap.fill(f"{what}: {text}", 98, subsequent_indent="  ", break_long_words=False)


def _is_plain(text: str) -> bool:
    return (
        text.isprintable()
        or all(c.isprintable() or c == "\n" for c in text)
        and not ('"""' in text or "\\" in text)
    )
