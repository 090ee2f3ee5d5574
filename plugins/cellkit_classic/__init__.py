"""The classic cells: `SimpleRNNCell`, `LSTMCell` and `GRUCell`.

Their weights are interchangeable with those of Keras' built-in layers: copy them over with
`set_weights`.
"""

from cellkit_classic.gru import GRUCell
from cellkit_classic.lstm import LSTMCell
from cellkit_classic.simple_rnn import SimpleRNNCell

__all__ = ["GRUCell", "LSTMCell", "SimpleRNNCell"]
