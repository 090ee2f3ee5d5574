"""The engines of PyTorch."""

import dataclasses
from typing import Any

from cellkit.engines.engine import Engine
from cellkit.engines.shared import needs, plain, project, scan, stack
from cellkit.engines.torch import chunks, fused, kernel

# A transformation could not see through these.
_OPAQUE = ("stack", "kernel", "fused")


def _on_torch(engine: Engine) -> Engine:
    """Return an engine with what it needs on PyTorch besides."""
    asked = list(engine.needs)
    if engine.name in _OPAQUE:
        asked.insert(asked.index(needs.SOMETHING) + 1, needs.NO_TRANSFORMATION)
    return dataclasses.replace(engine, needs=tuple(asked), worth=(needs.SEVERAL_STEPS,))


ENGINES = {
    engine.name: engine if engine is plain.ENGINE else _on_torch(engine)
    for engine in (
        stack.ENGINE,
        kernel.ENGINE,
        scan.ENGINE,
        fused.ENGINE,
        project.ENGINE,
        plain.ENGINE,
    )
}
"""By their names, in the order in which "auto" tries them."""

# Any engine may be given one chunk after the other; the other backends' loops do that themselves.
CHUNKS: Any = chunks
