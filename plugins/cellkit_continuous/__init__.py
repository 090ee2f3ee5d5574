"""Cells from differential equations: their step solves one over the time that has passed."""

from cellkit_continuous.antisymmetric_rnn import AntisymmetricRNNCell
from cellkit_continuous.cfc import CfCCell, lecun_tanh
from cellkit_continuous.ct_gru import CTGRUCell
from cellkit_continuous.gated_antisymmetric_rnn import GatedAntisymmetricRNNCell
from cellkit_continuous.lipschitz_rnn import LipschitzRNNCell
from cellkit_continuous.ltc import LTCCell
from cellkit_continuous.tau_gru import TauGRUCell

__all__ = [
    "CTGRUCell",
    "AntisymmetricRNNCell",
    "CfCCell",
    "GatedAntisymmetricRNNCell",
    "LTCCell",
    "LipschitzRNNCell",
    "TauGRUCell",
    "lecun_tanh",
]
