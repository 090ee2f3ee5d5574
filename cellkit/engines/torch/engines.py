"""The engines of PyTorch."""

import dataclasses
from typing import Any

from cellkit.engines.engine import Engine
from cellkit.engines.shared import chunked, needs, plain, project, scan, stack
from cellkit.engines.torch import chunks, fused, kernel, rows

# A transformation could not see through these.
_OPAQUE = ("stack", "kernel", "fused")

# They compute for all steps at once what does not depend on a state.
_AT_ONCE = ("scan", "chunked", "fused", "projected")


def _on_torch(engine: Engine) -> Engine:
    """Return an engine with what it needs on PyTorch besides."""
    asked = list(engine.needs)
    if engine.name in _OPAQUE:
        asked.insert(asked.index(needs.SOMETHING) + 1, needs.NO_TRANSFORMATION)
    if engine.name in _AT_ONCE:
        asked.append(rows.APART)
    return dataclasses.replace(engine, needs=tuple(asked), worth=(needs.SEVERAL_STEPS,))


ENGINES = {
    engine.name: engine if engine is plain.ENGINE else _on_torch(engine)
    for engine in (
        stack.ENGINE,
        kernel.ENGINE,
        scan.ENGINE,
        chunked.ENGINE,
        fused.ENGINE,
        project.ENGINE,
        plain.ENGINE,
    )
}
"""By their names, in the order in which "auto" tries them."""

# Any engine may be given one chunk after the other; the other backends' loops do that themselves.
CHUNKS: Any = chunks
