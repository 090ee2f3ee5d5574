"""Cells with a memory of their own kind beside the state of their units."""

from cellkit_memory.lmu import LMUCell

__all__ = [
    "LMUCell",
]
