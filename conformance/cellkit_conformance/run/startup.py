"""Start of a worker: Keras and its backend, without what a check of cells never needs.

A worker lives for seconds, and imports are the larger part of the quick profile. Everything that
is left out here is there as ever for a cell that asks for it.
"""

from __future__ import annotations

import gc
import importlib
import mmap
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OPTIONAL = {
    "jax": {"matplotlib", "requests"},
    "torch": {"matplotlib", "requests"},
    "tensorflow": {"matplotlib", "scipy"},
}
"""For plots, callbacks that report to a server, models of TensorFlow 1: Keras does without them."""

GARBAGE = 10_000
"""New objects after which Python looks for garbage among them; 700 where nobody says otherwise."""


@contextmanager
def uncollected() -> Iterator[None]:
    """Import many modules without looking for garbage; what there is after is there to stay.

    Modules are hundreds of thousands of objects, and no garbage. To look through them again and
    again takes a fifth of a start, and later a tenth of the checks.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        # What is imported later stays too: a backend's symbols, for one.
        gc.set_threshold(max(GARBAGE, gc.get_threshold()[0]), *gc.get_threshold()[1:])


def import_keras(backend: str) -> None:
    """Import Keras without what it takes for its plots and for other backends, where installed.

    That is a second or more of every start. What a cell's module imports it finds as ever.

    Args:
        backend: The backend of this process.
    """
    unwanted = (OPTIONAL.keys() - {backend}) | OPTIONAL.get(backend, set())
    with _absent(unwanted - {*sys.modules}):
        importlib.import_module("keras")


@contextmanager
def _absent(names: set[str]) -> Iterator[None]:
    """Let the import of some packages fail."""
    sys.modules.update(dict.fromkeys(names))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


def cheap_flags() -> str:
    """Return what XLA is to be told where much is compiled and little computed, on JAX's processor.

    That is the variable `XLA_FLAGS`, with emitters that do not go through MLIR, and without
    dividing a module for several threads: a fifth of the time that a compilation takes otherwise.
    XLA reads the variable once, when JAX first runs something.
    """
    flags = {"xla_cpu_use_fusion_emitters": "false", "xla_cpu_parallel_codegen_split_count": "1"}
    known = [f"--{name}={value}" for name, value in flags.items() if _xla_knows(name)]
    return " ".join([os.environ.get("XLA_FLAGS", ""), *known]).strip()


def _xla_knows(flag: str) -> bool:
    """Look for the name of a flag in XLA's library: an unknown one would end the process."""
    import jaxlib

    for path in Path(jaxlib.__file__).parent.glob("*.so"):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            if text.find(flag.encode()) >= 0:
                return True
    return False
