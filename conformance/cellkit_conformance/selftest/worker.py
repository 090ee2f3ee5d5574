"""The worker of the self-test: runs the mutants on one backend and prints a line for each."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

from cellkit_conformance.run.lifeline import end_with_parent

MARK = "mutant: "
"""Begins a line of a worker that holds a result; cells print what they like."""


def run_mutants(names: Sequence[str] = ()) -> None:
    """Run the mutants in this process and print a line for each; what a worker does.

    Args:
        names: Mutants; nothing means all.
    """
    import keras

    from cellkit_conformance.run.worker import compile_cheaply, divide_processor
    from cellkit_conformance.selftest.mutants import MUTANTS

    backend = keras.backend.backend()
    divide_processor(backend)
    compile_cheaply(backend)
    if backend != "tensorflow":
        # Keras would import it to serialise its first config, which takes seconds.
        sys.modules.setdefault("tensorflow", None)  # type: ignore[arg-type]
    for mutant in MUTANTS:
        if names and mutant.name not in names:
            continue
        start = time.perf_counter()
        row = {}
        for result in mutant.results(backend):
            said = "killed" if mutant.noticed(result, backend) else result.message or "passed"
            row[result.requirement] = "n/a" if result.outcome == "n/a" else said
        answer = {"mutant": mutant.name, "row": row, "seconds": time.perf_counter() - start}
        print(MARK + json.dumps(answer), flush=True)


if __name__ == "__main__":
    end_with_parent()
    run_mutants(sys.argv[1:])
