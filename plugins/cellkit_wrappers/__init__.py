"""Cells around cells: each takes any cell, and adds something before, after or around its step."""

from cellkit_wrappers.attention import AttentionCell
from cellkit_wrappers.dropout import DropoutCell
from cellkit_wrappers.fast_slow import FastSlowCell
from cellkit_wrappers.feedback import FeedbackCell
from cellkit_wrappers.highway import HighwayCell
from cellkit_wrappers.multiplicative import MultiplicativeCell
from cellkit_wrappers.norm import NormCell
from cellkit_wrappers.residual import ResidualCell

__all__ = [
    "AttentionCell",
    "DropoutCell",
    "FastSlowCell",
    "FeedbackCell",
    "HighwayCell",
    "MultiplicativeCell",
    "NormCell",
    "ResidualCell",
]
