"""Run random cells on the backend of this process, and write one line of JSON for each event.

    KERAS_BACKEND=torch PYTHONPATH=tests python -m fuzz.run --seed 7 --first 0 --seconds 60

`tools/fuzz.py` starts it, once for each backend, and reads what it writes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

# Before Keras: TensorFlow first and PyTorch after it crash in one process.
try:
    import torch
except ImportError:
    pass
else:
    torch.set_num_threads(1)

from . import cells, compare
from .choices import Choices, shrunk


def recipe_of(seed: int, number: int) -> cells.Recipe:
    """Return the cell `number` of the run with this seed on this backend."""
    return cells.drawn(Choices.numbered(seed, number), compare.HOST)


def smallest(recipe: cells.Recipe, failure: compare.Failure, tries: int) -> cells.Recipe:
    """Return a smaller cell that fails in the same way, or the same cell."""
    engine = failure.engine.split()[0]

    def fails(made: list[int]) -> bool:
        verdict = compare.verdict_of(cells.drawn(Choices.replayed(made), compare.HOST), (engine,))
        return any(f.kind == failure.kind for f in verdict.failures)

    return cells.drawn(Choices.replayed(shrunk(recipe.choices, fails, tries)), compare.HOST)


def say(**event: Any) -> None:
    """Write an event."""
    print(json.dumps(event), flush=True)


def run_one(seed: int, number: int, tries: int, show: bool) -> None:
    """Compare one cell."""
    say(event="begin", number=number)
    recipe = recipe_of(seed, number)
    if show:
        say(event="source", number=number, text=recipe.text())
    verdict = compare.verdict_of(recipe, compare.engines_of(number))
    for failure in verdict.failures:
        say(event="failure", number=number, what=str(failure))
    if verdict.failures:
        if tries:
            recipe = smallest(recipe, verdict.failures[0], tries)
        if tries or not show:
            say(event="smaller" if tries else "source", number=number, text=recipe.text())
    say(event="end", number=number, counts=verdict.counts, unrunnable=verdict.unrunnable)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--first", type=int, default=0, help="number of the first cell")
    parser.add_argument("--cells", type=int, default=sys.maxsize, help="how many")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="when to begin no more")
    parser.add_argument("--shrink", type=int, default=0, help="tries to find a smaller cell")
    parser.add_argument("--show", action="store_true", help="write the source of every cell")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    number = options.first
    while number < options.first + options.cells and time.monotonic() < end:
        run_one(options.seed, number, options.shrink, options.show)
        number += 1


if __name__ == "__main__":
    main()
