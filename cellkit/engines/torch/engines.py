"""The engines of PyTorch."""

from typing import Any

from cellkit.engines.shared import plain, project, scan, stack
from cellkit.engines.torch import chunks, fused, kernel

ENGINES: dict[str, Any] = {
    "stack": stack,
    "kernel": kernel,
    "scan": scan,
    "gated": fused,
    "projected": project,
    "loop": plain,
}

# Any engine may be given one chunk after the other; the other backends' loops do that themselves.
CHUNKS: Any = chunks
