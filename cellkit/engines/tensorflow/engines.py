"""The engines of TensorFlow."""

from typing import Any

from cellkit.engines.shared import plain, project, scan, stack
from cellkit.engines.tensorflow import fused

ENGINES: dict[str, Any] = {
    "stack": stack,
    "scan": scan,
    "gated": fused,
    "projected": project,
    "loop": plain,
}

# The loops compute chunks themselves.
CHUNKS: Any = None
