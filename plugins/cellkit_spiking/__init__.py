"""Spiking cells: their outputs are spikes, 0 or 1, with a gradient that stands in for theirs."""

from cellkit_spiking.alif import ALIFCell
from cellkit_spiking.lif import LIFCell

__all__ = [
    "ALIFCell",
    "LIFCell",
]
