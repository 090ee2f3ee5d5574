"""Count how often a call of a layer moves from one file to another.

    python tools/count_moves.py            # the number
    python tools/count_moves.py --list     # and from where to where

A call of a function of another file counts if one of the two files is cellkit's. The layer is a
small `lstm` at inference, called 60 times before: TensorFlow traces calls that repeat.

KERAS_BACKEND chooses the backend.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]

import keras  # noqa: E402
import numpy as np  # noqa: E402

import cellkit  # noqa: E402

Moves = collections.Counter[tuple[str, str]]
_OURS = str(Path(cellkit.__file__).parent)


def moves(function: Callable[[], Any]) -> Moves:
    """Return how often `function` moves from one file to another, by the two files."""
    found: Moves = collections.Counter()

    def watch(frame: Any, event: str, _: Any) -> None:
        if event != "call" or frame.f_back is None:
            return
        here, before = frame.f_code.co_filename, frame.f_back.f_code.co_filename
        if here != before and _OURS in here + before:
            found[before, here] += 1

    sys.setprofile(watch)
    try:
        function()
    finally:
        sys.setprofile(None)
    return found


def small_call() -> Callable[[], Any]:
    """Return a small call at inference that has run before."""
    layer = cellkit.RNN(cellkit.create("lstm", units=8))
    x = keras.ops.convert_to_tensor(np.zeros((2, 5, 4), "float32"))

    def call() -> Any:
        with no_gradients():
            return layer(x)

    for _ in range(60):
        call()
    return call


def no_gradients() -> Any:
    """Return a context without gradients, where that makes a difference."""
    if keras.backend.backend() != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.no_grad()


def main() -> int:
    """Print the number."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--list", action="store_true", help="print from where to where")
    found = moves(small_call())
    if parser.parse_args().list:
        for (before, here), count in found.most_common():
            print(f"{count:4}  {Path(before).name} -> {Path(here).name}")
    print(f"{keras.backend.backend()}: {found.total()} moves")
    return 0


if __name__ == "__main__":
    sys.exit(main())
