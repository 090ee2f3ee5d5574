"""Cells with normalised states: `LayerNormSimpleRNNCell`.

The layer-normalised LSTM is with its relatives: `cellkit_lstm.LayerNormLSTMCell`.
"""

from cellkit_norm.layer_norm_simple_rnn import LayerNormSimpleRNNCell

__all__ = ["LayerNormSimpleRNNCell"]
