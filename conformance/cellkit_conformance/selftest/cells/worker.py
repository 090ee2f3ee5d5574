"""The worker of `cellkit selftest --cells`: tries the changes of cells on one backend."""

from __future__ import annotations

import json
import sys
import time

from cellkit_conformance.run.lifeline import end_with_parent
from cellkit_conformance.run.startup import import_keras, uncollected
from cellkit_conformance.selftest.worker import MARK


def main(options: dict[str, object]) -> None:
    """Try the changes of cells, and print a line for each cell.

    Args:
        options: "backend", "cells", "profile", "seed" and "most", see `trial.Trials`.
    """
    backend = str(options["backend"])
    with uncollected():
        import_keras(backend)
        from cellkit_conformance.run.worker import compile_cheaply, divide_processor
        from cellkit_conformance.selftest.cells.trial import Trials
    divide_processor(backend)
    compile_cheaply(backend)
    if backend != "tensorflow":
        # Keras would import it to serialise its first config, which takes seconds.
        sys.modules.setdefault("tensorflow", None)  # type: ignore[arg-type]
    for name in options["cells"]:  # type: ignore[attr-defined]
        start = time.perf_counter()
        trials = Trials(name, str(options["profile"]), options["seed"])  # type: ignore[arg-type]
        found = [trial.to_json() for trial in trials.run(options["most"])]  # type: ignore[arg-type]
        answer = {"cell": name, "trials": found, "seconds": time.perf_counter() - start}
        print(MARK + json.dumps(answer), flush=True)


if __name__ == "__main__":
    end_with_parent()
    main(json.loads(sys.argv[1]))
