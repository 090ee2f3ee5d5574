"""Recurrent cells whose products are convolutions: `ConvRNNCell`, `ConvLSTMCell`, `ConvGRUCell`.

Inputs and states are signals (rank 1), images (rank 2) or volumes (rank 3). `ConvLSTMCell` takes
the weights of `keras.layers.ConvLSTM1D`, `ConvLSTM2D` and `ConvLSTM3D`.
"""

from cellkit_conv.conv_gru import ConvGRUCell
from cellkit_conv.conv_lstm import ConvLSTMCell
from cellkit_conv.conv_rnn import ConvRNNCell

__all__ = ["ConvGRUCell", "ConvLSTMCell", "ConvRNNCell"]
