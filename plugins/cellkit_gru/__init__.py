"""Relatives of the GRU: `MGUCell`, `UGRNNCell` and `GRUDCell`.

One gate instead of two, one gate and no reset, and a GRU for series with missing values.
"""

from cellkit_gru.gru_d import GRUDCell
from cellkit_gru.mgu import MGUCell
from cellkit_gru.ugrnn import UGRNNCell

__all__ = ["GRUDCell", "MGUCell", "UGRNNCell"]
