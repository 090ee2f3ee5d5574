"""Cells with matrix states: linear attention, with decays and with delta rules.

All of them are `cellkit.MatrixCell`, which a layer runs chunk by chunk.
"""

from cellkit_attention.delta_net import DeltaNetCell
from cellkit_attention.gated_delta_net import GatedDeltaNetCell
from cellkit_attention.gla import GLACell
from cellkit_attention.linear_attention import LinearAttentionCell
from cellkit_attention.mamba2 import Mamba2Cell
from cellkit_attention.retnet import RetNetCell
from cellkit_attention.rwkv6 import RWKV6Cell
from cellkit_attention.rwkv7 import RWKV7Cell

__all__ = [
    "DeltaNetCell",
    "GLACell",
    "GatedDeltaNetCell",
    "LinearAttentionCell",
    "Mamba2Cell",
    "RWKV6Cell",
    "RWKV7Cell",
    "RetNetCell",
]
