"""The engines of NumPy."""

import dataclasses
from typing import Any

from cellkit.engines.engine import Engine, Need
from cellkit.engines.shared import needs, plain, scan


def _plainly(request: Any) -> str | None:
    return "the plain loop is the way to read and to debug a cell, which is what NumPy is for"


_ASKED = Need("to be asked for", _plainly)

ENGINES: dict[str, Engine] = {
    "scan": dataclasses.replace(
        scan.ENGINE, needs=(needs.WHOLE, *scan.ENGINE.needs), worth=(_ASKED,)
    ),
    "loop": plain.ENGINE,
}
"""By their names, in the order in which "auto" tries them."""

CHUNKS: Any = None
"""Nothing is kept for a gradient, so that no run is cut into chunks."""
