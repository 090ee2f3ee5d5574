"""Cells that discretise oscillators: their gradients neither vanish nor explode."""

from cellkit_oscillator.cornn import CoRNNCell
from cellkit_oscillator.lem import LEMCell
from cellkit_oscillator.unicornn import UnICORNNCell

__all__ = [
    "CoRNNCell",
    "LEMCell",
    "UnICORNNCell",
]
