"""Relatives of the GRU: `MGUCell`, `UGRNNCell` and `GRUDCell`.

One gate instead of two, one gate and no reset, and a GRU for series with missing values.
"""

from cellkit_gru.atr import ATRCell
from cellkit_gru.block_gru import BlockGRUCell
from cellkit_gru.brc import BRCCell
from cellkit_gru.dsgu import DSGUCell
from cellkit_gru.fastgrnn import FastGRNNCell
from cellkit_gru.gru_d import GRUDCell
from cellkit_gru.lightru import LightRUCell
from cellkit_gru.ligru import LiGRUCell
from cellkit_gru.mgu import MGUCell
from cellkit_gru.mgu1 import MGU1Cell
from cellkit_gru.mgu2 import MGU2Cell
from cellkit_gru.mgu3 import MGU3Cell
from cellkit_gru.miru import MiRUCell
from cellkit_gru.mut1 import MUT1Cell
from cellkit_gru.mut2 import MUT2Cell
from cellkit_gru.mut3 import MUT3Cell
from cellkit_gru.nbrc import NBRCCell
from cellkit_gru.ran import RANCell
from cellkit_gru.sgu import SGUCell
from cellkit_gru.star import STARCell
from cellkit_gru.ugrnn import UGRNNCell

__all__ = [
    "BlockGRUCell",
    "ATRCell",
    "BRCCell",
    "DSGUCell",
    "FastGRNNCell",
    "GRUDCell",
    "LiGRUCell",
    "LightRUCell",
    "MGU1Cell",
    "MGU2Cell",
    "MGU3Cell",
    "MGUCell",
    "MUT1Cell",
    "MUT2Cell",
    "MUT3Cell",
    "MiRUCell",
    "NBRCCell",
    "RANCell",
    "SGUCell",
    "STARCell",
    "UGRNNCell",
]
