"""The engines of JAX."""

import dataclasses
from typing import Any

from cellkit.engines.engine import Engine, Need
from cellkit.engines.jax import fused, rows
from cellkit.engines.shared import chunked, needs, plain, project, scan, stack


def _on_jax(engine: Engine, *worth: Need) -> Engine:
    """Return an engine for which remat and truncate_gradient are those of the loop."""
    return dataclasses.replace(engine, needs=(needs.WHOLE, *engine.needs), worth=worth)


def _at_once(engine: Engine) -> Engine:
    """Return an engine that computes for all steps at once what depends on no state."""
    return dataclasses.replace(engine, needs=(*engine.needs, rows.APART))


_GRADIENT = (needs.TRAINING_OR_SEQUENCES, needs.IN_TRAINING)

ENGINES = {
    engine.name: engine
    for engine in (
        _on_jax(stack.ENGINE, *_GRADIENT),
        _on_jax(_at_once(scan.ENGINE)),
        _on_jax(_at_once(chunked.ENGINE)),
        _on_jax(_at_once(fused.ENGINE), *_GRADIENT),
        # Compilers move the projection of the inputs as they like; measured, most cells were slower
        # with it done by hand.
        dataclasses.replace(_at_once(project.ENGINE), worth=(needs.NOT_COMPILED,)),
        plain.ENGINE,
    )
}
"""By their names, in the order in which "auto" tries them."""

# The loops compute chunks themselves.
CHUNKS: Any = None
