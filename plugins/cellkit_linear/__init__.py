"""Cells whose recurrence is linear in the state, so that a layer can scan over time in parallel.

`MinGRUCell`, `MinLSTMCell`, `QRNNCell`, `LRUCell`, `RGLRUCell` and `S5Cell`.
"""

from cellkit_linear.lru import LRUCell
from cellkit_linear.min_gru import MinGRUCell, positive
from cellkit_linear.min_lstm import MinLSTMCell
from cellkit_linear.qrnn import QRNNCell
from cellkit_linear.rg_lru import RGLRUCell
from cellkit_linear.s5 import S5Cell
from cellkit_linear.t_rnn import TRNNCell

__all__ = [
    "LRUCell",
    "MinGRUCell",
    "MinLSTMCell",
    "QRNNCell",
    "RGLRUCell",
    "S5Cell",
    "TRNNCell",
    "positive",
]
