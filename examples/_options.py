"""The command line that the examples share. Imports no Keras: it chooses the backend for it."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path

BACKENDS = ("jax", "torch", "tensorflow")
REPORTS = Path(__file__).parents[1] / "reports"


def parse(
    doc: str,
    plot: str | None = None,
    more: Callable[[argparse.ArgumentParser], object] | None = None,
) -> argparse.Namespace:
    """Read the options and choose Keras' backend, so call this before importing Keras.

    Args:
        doc: The docstring of the example, shown by `--help`.
        plot: Name of the file of its plot, if it draws one.
        more: Adds options of the example's own to the parser.

    Returns:
        `backend`, `quick`, with a plot `plot`, the path to write to, and what `more` added.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default=os.environ.get("KERAS_BACKEND") or _installed(),
        help="what Keras runs on (default: KERAS_BACKEND, else the first that is installed)",
    )
    parser.add_argument("--quick", action="store_true", help="less training, for a first look")
    if plot is not None:
        parser.add_argument(
            "--plot",
            type=Path,
            default=REPORTS / plot,
            metavar="FILE",
            help="where to write the plot (default: %(default)s)",
        )
    if more is not None:
        more(parser)
    options = parser.parse_args()
    # argparse compares with `choices` only what is written on the command line.
    if options.backend not in BACKENDS:
        parser.error(f"KERAS_BACKEND is {options.backend!r} (choose from {', '.join(BACKENDS)})")
    needed = {options.backend: options.backend, **({"matplotlib": "examples"} if plot else {})}
    for name, extra in needed.items():
        if importlib.util.find_spec(name) is None:
            parser.error(f"{name} is not installed: pip install -e '.[{extra}]'")
    os.environ["KERAS_BACKEND"] = options.backend
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for small tensors a second thread only waits
    if options.backend == "tensorflow":
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    return options


def _installed() -> str:
    for name in BACKENDS:
        if importlib.util.find_spec(name):
            return name
    sys.exit("Keras needs a backend. Install one of them, e.g. `pip install jax`.")
