"""Backends: which one Keras will use, which are installed, and the line that sets another.

Keras reads its backend once, when it is first imported. Nothing in here imports Keras or a backend,
but for `running`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import sys
import warnings
from pathlib import Path

from cellkit._distribution import install_command
from cellkit.errors import problem

__all__ = [
    "BACKENDS",
    "INFERENCE",
    "BackendWarning",
    "Choice",
    "advice",
    "choice",
    "explain",
    "installed",
    "running",
    "trouble",
    "warn",
]

BACKENDS = {
    "tensorflow": ("tensorflow", "tensorflow-cpu", "tf-nightly"),
    "torch": ("torch",),
    "jax": ("jax",),
}
"""The backends that cellkit runs on, each with the distributions that bring it."""

INFERENCE = {"numpy": ("numpy",), "openvino": ("openvino",)}
"""Backends of Keras without gradients: cells run on them, and nothing is trained."""

_ALIASES = {"tf": "tensorflow", "pt": "torch", "flax": "jax", "xla": "jax"}


class BackendWarning(UserWarning):
    """Keras can't be imported with the backend that is configured."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """The backend that Keras will use.

    Args:
        backend: Its name, as it was written.
        said: The place of the choice, as a message says it.
        trouble: Reason why the file of Keras' settings can't be read, or "".
    """

    backend: str
    said: str
    trouble: str = ""


def running() -> str:
    """Return the backend on which Keras runs in this process, which it imports."""
    import keras

    return str(keras.backend.backend())


def settings_path() -> Path:
    """Return the path of Keras' settings, whether there is such a file or not."""
    if "KERAS_HOME" in os.environ:
        return Path(os.environ["KERAS_HOME"]) / "keras.json"
    home = os.path.expanduser("~")
    return Path(home if os.access(home, os.W_OK) else "/tmp") / ".keras" / "keras.json"


def choice() -> Choice:
    """Return the backend that Keras will use, by the rules of Keras."""
    path = settings_path()
    chosen = Choice("tensorflow", "neither KERAS_BACKEND nor keras.json, so Keras takes tensorflow")
    if path.is_file():
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
            backend = settings.get("backend", "tensorflow")
            chosen = Choice(str(backend), f"backend {backend} in {path}")
        except (OSError, ValueError, AttributeError) as error:
            chosen = dataclasses.replace(chosen, trouble=str(error))
    name = os.environ.get("KERAS_BACKEND")
    return Choice(name, f"KERAS_BACKEND={name}", chosen.trouble) if name else chosen


def installed() -> list[str]:
    """Return the backends of `BACKENDS` that are installed, in their order."""
    return [name for name in BACKENDS if importlib.util.find_spec(name) is not None]


def advice(backend: str, there: list[str]) -> str:
    """Return the line that sets a backend, after the one that installs it if none is there.

    Args:
        backend: The configured name, as it was written.
        there: The backends that are installed.
    """
    meant = _meant(backend)
    best = meant if meant in there or not there else there[0]
    name = best or "torch"
    line = f"export KERAS_BACKEND={name}"
    return line if name in there else f"{install_command(name)} && {line}"


def _meant(backend: str) -> str | None:
    """Return the backend that a name was most likely meant to be."""
    from cellkit.registry.names import nearest

    letters = backend.lower().strip()
    return _ALIASES.get(letters) or next(iter(nearest(letters, BACKENDS, 1)), None)


def trouble() -> ValueError | None:
    """Return why Keras can't be imported as it is configured, or None if it can, or is already."""
    if "keras" in sys.modules:
        return None
    if importlib.util.find_spec("keras") is None:
        return problem(
            "Keras is not installed.",
            received=f"no module `keras` for {sys.executable}",
            expected="Keras 3, which cellkit is made for",
            fix="run: pip install keras",
        )
    there = installed()
    backend = choice().backend
    if backend in there or (backend in INFERENCE and importlib.util.find_spec(backend)):
        return None
    names = ", ".join(there) or "none"
    return problem(
        f"Keras' backend {backend!r} is not installed."
        if backend in (*BACKENDS, *INFERENCE)
        else f"cellkit does not run on a backend called {backend!r}.",
        received=choice().said,
        expected=f"one of {', '.join(BACKENDS)}, or, for inference alone, "
        f"{' or '.join(INFERENCE)}; installed: {names}",
        fix=f"set one and start Python again: {advice(backend, there)}",
    )


def explain(error: BaseException) -> ValueError | None:
    """Return why an import failed, if it failed inside Keras, which says little about it.

    Args:
        error: The exception of an import that needs Keras.

    Returns:
        An error that names the backend, or None where the import of Keras is not what failed.
    """
    if "keras" in sys.modules or not _comes_from_keras(error):
        return None
    found = trouble()
    if found is not None:
        return found
    backend, there = choice(), installed()
    others = [name for name in there if name != backend.backend]
    return problem(
        f"Keras can't be imported with its backend {backend.backend!r}.",
        received=f"{type(error).__name__}: {error}, with {backend.said}",
        expected=f"a working installation of {backend.backend}; installed: {', '.join(there)}",
        fix=f"install {backend.backend} again"
        + (f", or set another one: export KERAS_BACKEND={others[0]}" if others else ""),
    )


def _comes_from_keras(error: BaseException) -> bool:
    """Tell whether an error passed through Keras."""
    trace = error.__traceback__
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] == "keras":
            return True
        trace = trace.tb_next
    return False


def warn() -> None:
    """Warn if Keras can't be imported as it is configured.

    It is a warning, since a program may still choose a backend before it imports Keras, and since
    the registry can be read without one. The command line, which does so, says it where it matters.
    """
    if Path(sys.argv[0] if sys.argv else "").name in ("cellkit", "cellkit.exe", "-m"):
        return
    found = trouble()
    if found is not None:
        warnings.warn(str(found), BackendWarning, stacklevel=3)
