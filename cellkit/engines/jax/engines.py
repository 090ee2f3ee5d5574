"""The engines of JAX."""

from typing import Any

from cellkit.engines.jax import fused
from cellkit.engines.shared import plain, project, scan, stack

ENGINES: dict[str, Any] = {
    "stack": stack,
    "scan": scan,
    "gated": fused,
    "projected": project,
    "loop": plain,
}

# The loops compute chunks themselves.
CHUNKS: Any = None
