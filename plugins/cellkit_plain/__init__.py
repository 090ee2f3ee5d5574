"""Plain recurrent cells: little more than one product with the state."""

from cellkit_plain.cfn import CFNCell
from cellkit_plain.fastrnn import FastRNNCell
from cellkit_plain.indrnn import IndRNNCell
from cellkit_plain.intersection_rnn import IntersectionRNNCell
from cellkit_plain.minimal_rnn import MinimalRNNCell
from cellkit_plain.rhn import RHNCell
from cellkit_plain.sgrn import SGRNCell

__all__ = [
    "CFNCell",
    "FastRNNCell",
    "IndRNNCell",
    "IntersectionRNNCell",
    "MinimalRNNCell",
    "RHNCell",
    "SGRNCell",
]
