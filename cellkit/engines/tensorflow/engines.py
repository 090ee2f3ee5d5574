"""The engines of TensorFlow."""

import dataclasses
from typing import Any

from cellkit.engines.engine import Engine, Need
from cellkit.engines.shared import chunked, needs, plain, project, scan, stack
from cellkit.engines.tensorflow import fused, rows


def _whole(engine: Engine, *worth: Need) -> Engine:
    """Return an engine for which remat and truncate_gradient are those of the loop."""
    return dataclasses.replace(engine, needs=(needs.WHOLE, *engine.needs), worth=worth)


def _at_once(engine: Engine) -> Engine:
    """Return an engine that computes for all steps at once what depends on no state."""
    return dataclasses.replace(engine, needs=(*engine.needs, rows.APART))


ENGINES = {
    engine.name: engine
    for engine in (
        _whole(stack.ENGINE, needs.TRAINING_OR_SEQUENCES),
        _whole(_at_once(scan.ENGINE)),
        _whole(_at_once(chunked.ENGINE)),
        _whole(_at_once(fused.ENGINE), needs.TRAINING_OR_SEQUENCES),
        # Compilers move the projection of the inputs as they like; measured, most cells were slower
        # with it done by hand.
        dataclasses.replace(_at_once(project.ENGINE), worth=(needs.NOT_COMPILED,)),
        plain.ENGINE,
    )
}
"""By their names, in the order in which "auto" tries them."""

# The loops compute chunks themselves.
CHUNKS: Any = None
