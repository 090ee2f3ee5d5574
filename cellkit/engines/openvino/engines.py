"""The engines of OpenVINO."""

from typing import Any

from cellkit.engines.engine import Engine
from cellkit.engines.shared import plain

ENGINES: dict[str, Engine] = {"loop": plain.ENGINE}
"""By their names, in the order in which "auto" tries them."""

CHUNKS: Any = None
"""Nothing is kept for a gradient, so that no run is cut into chunks."""
