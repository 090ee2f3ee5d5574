"""Variants of the LSTM.

With peepholes, coupled gates, a projection, layer normalisation or zoneout: `PeepholeLSTMCell`,
`CIFGLSTMCell`, `LSTMPCell`, `LayerNormLSTMCell`, `ZoneoutLSTMCell`. With one gate, cells within
cells, or a clock: `JANETCell`, `NestedLSTMCell`, `PhasedLSTMCell`. Found by a search: `NASCell`.
With exponential gates: `SLSTMCell`, and `MLSTMCell`, whose memory is a matrix.
"""

from cellkit_lstm.cifg_lstm import CIFGLSTMCell
from cellkit_lstm.ea_lstm import EALSTMCell
from cellkit_lstm.hyper_lstm import HyperLSTMCell
from cellkit_lstm.janet import JANETCell
from cellkit_lstm.layer_norm_lstm import LayerNormLSTMCell
from cellkit_lstm.lstmp import LSTMPCell
from cellkit_lstm.mass_conserving_lstm import MassConservingLSTMCell
from cellkit_lstm.mc_lstm import MemoryControllerLSTMCell
from cellkit_lstm.mlstm import MLSTMCell
from cellkit_lstm.mogrifier_lstm import MogrifierLSTMCell
from cellkit_lstm.multiplicative_lstm import MultiplicativeLSTMCell
from cellkit_lstm.nas import NASCell
from cellkit_lstm.nested_lstm import NestedLSTMCell
from cellkit_lstm.ode_lstm import ODELSTMCell
from cellkit_lstm.on_lstm import ONLSTMCell
from cellkit_lstm.original_lstm import OriginalLSTMCell
from cellkit_lstm.peephole_lstm import PeepholeLSTMCell
from cellkit_lstm.phased_lstm import PhasedLSTMCell
from cellkit_lstm.residual_lstm import ResidualLSTMCell
from cellkit_lstm.slstm import SLSTMCell
from cellkit_lstm.sub_lstm import SubLSTMCell
from cellkit_lstm.time_aware_lstm import TimeAwareLSTMCell
from cellkit_lstm.ur_lstm import URLSTMCell
from cellkit_lstm.wmc_lstm import WMCLSTMCell
from cellkit_lstm.zoneout_lstm import ZoneoutLSTMCell

__all__ = [
    "CIFGLSTMCell",
    "EALSTMCell",
    "HyperLSTMCell",
    "JANETCell",
    "LSTMPCell",
    "LayerNormLSTMCell",
    "MLSTMCell",
    "MassConservingLSTMCell",
    "MemoryControllerLSTMCell",
    "MogrifierLSTMCell",
    "MultiplicativeLSTMCell",
    "NASCell",
    "NestedLSTMCell",
    "ODELSTMCell",
    "ONLSTMCell",
    "OriginalLSTMCell",
    "PeepholeLSTMCell",
    "PhasedLSTMCell",
    "ResidualLSTMCell",
    "SLSTMCell",
    "SubLSTMCell",
    "TimeAwareLSTMCell",
    "URLSTMCell",
    "WMCLSTMCell",
    "ZoneoutLSTMCell",
]
