"""Cells with normalised states: `LayerNormSimpleRNNCell`, `LayerNormGRUCell`.

The layer-normalised LSTM is with its relatives: `cellkit_lstm.LayerNormLSTMCell`.
"""

from cellkit_norm.layer_norm_gru import LayerNormGRUCell
from cellkit_norm.layer_norm_simple_rnn import LayerNormSimpleRNNCell

__all__ = ["LayerNormGRUCell", "LayerNormSimpleRNNCell"]
