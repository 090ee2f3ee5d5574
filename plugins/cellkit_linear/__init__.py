"""Cells whose recurrence is linear in the state, so that a layer can scan over time in parallel.

Among them `MinGRUCell`, `QRNNCell`, `LRUCell`, `RGLRUCell`, `S5Cell`, `HGRNCell` and `MambaCell`.
"""

from cellkit_linear.ffm import FFMCell
from cellkit_linear.hgrn import HGRNCell
from cellkit_linear.lru import LRUCell
from cellkit_linear.mamba import MambaCell
from cellkit_linear.min_gru import MinGRUCell, positive
from cellkit_linear.min_lstm import MinLSTMCell
from cellkit_linear.qrnn import QRNNCell
from cellkit_linear.rg_lru import RGLRUCell
from cellkit_linear.rwkv4 import RWKV4Cell
from cellkit_linear.s4d import S4DCell
from cellkit_linear.s5 import S5Cell
from cellkit_linear.sru import SRUCell
from cellkit_linear.sru_v1 import SRUV1Cell
from cellkit_linear.t_gru import TGRUCell
from cellkit_linear.t_lstm import TLSTMCell
from cellkit_linear.t_rnn import TRNNCell

__all__ = [
    "FFMCell",
    "HGRNCell",
    "LRUCell",
    "MambaCell",
    "MinGRUCell",
    "MinLSTMCell",
    "QRNNCell",
    "RGLRUCell",
    "RWKV4Cell",
    "S4DCell",
    "S5Cell",
    "SRUCell",
    "SRUV1Cell",
    "TGRUCell",
    "TLSTMCell",
    "TRNNCell",
    "positive",
]
