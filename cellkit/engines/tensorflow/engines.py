"""The engines of TensorFlow."""

import dataclasses
from typing import Any

from cellkit.engines.engine import Engine, Need
from cellkit.engines.shared import needs, plain, project, scan, stack
from cellkit.engines.tensorflow import fused


def _on_tensorflow(engine: Engine, *worth: Need) -> Engine:
    """Return an engine for which remat and truncate_gradient are those of the loop."""
    return dataclasses.replace(engine, needs=(needs.WHOLE, *engine.needs), worth=worth)


ENGINES = {
    engine.name: engine
    for engine in (
        _on_tensorflow(stack.ENGINE, needs.TRAINING_OR_SEQUENCES),
        _on_tensorflow(scan.ENGINE),
        _on_tensorflow(fused.ENGINE, needs.TRAINING_OR_SEQUENCES),
        # Compilers move the projection of the inputs as they like; measured, most cells were slower
        # with it done by hand.
        dataclasses.replace(project.ENGINE, worth=(needs.NOT_COMPILED,)),
        plain.ENGINE,
    )
}
"""By their names, in the order in which "auto" tries them."""

# The loops compute chunks themselves.
CHUNKS: Any = None
