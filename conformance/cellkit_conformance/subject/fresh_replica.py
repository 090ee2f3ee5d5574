"""One of two new processes that train a model of JAX' together, started by `replicas`.

    python -m cellkit_conformance.subject.fresh_replica REQUEST RANK

`REQUEST` is a pickled `Request`; the result goes into files beside it, as that of a forked process.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellkit_conformance.run.lifeline import end_with_parent
from cellkit_conformance.run.startup import import_keras


@dataclass(frozen=True)
class Request:
    """What a process needs to make the model of another.

    Attributes:
        cls: The class of the cell.
        kwargs: Its arguments.
        step: The shapes of one step's inputs.
        weights: By their paths.
        layer: Makes the layer.
        inputs: NumPy arrays (ROWS, T, ...).
        address: Where the processes meet.
    """

    cls: Any
    kwargs: Mapping[str, Any]
    step: Any
    weights: Mapping[str, Any]
    layer: Any
    inputs: Any
    address: str

    def make(self) -> tuple[Any, Any]:
        """Make the model, and the layer in it."""
        import keras

        from cellkit.registry import set_cell_weights

        cell = self.cls(**self.kwargs)
        cell.build(self.step)
        cell.built = True
        set_cell_weights(cell, self.weights)
        layer = self.layer(cell, return_sequences=True)
        symbolic = keras.tree.map_structure(
            lambda a: keras.Input(a.shape[1:], dtype=str(a.dtype)), self.inputs
        )
        return keras.Model(symbolic, keras.tree.flatten(layer(symbolic))), layer


def main() -> None:
    """Train, and leave the result in a file."""
    end_with_parent()
    path, rank = Path(sys.argv[1]), int(sys.argv[2])
    import_keras("jax")
    import keras

    from cellkit_conformance.subject import replicas

    try:
        request: Request = pickle.loads(path.read_bytes())
        keras.distribution.initialize(request.address, replicas.REPLICAS, rank)
        parallel = keras.distribution.DataParallel(auto_shard_dataset=False)
        with replicas.distributed(parallel):
            model, layer = request.make()
            found = replicas.fit(model, layer, request.inputs, part=rank)
        replicas.write(found, path.with_name(f"{rank}.npz"))
    except BaseException as error:  # noqa: BLE001 (told in the parent)
        text = f"{type(error).__name__}: {error}"
        path.with_name(f"{rank}.txt").write_text(text, encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)  # without waiting for a process that has gone


if __name__ == "__main__":
    main()
