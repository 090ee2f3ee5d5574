"""Cells with slow and fast parts: `ClockworkCell` and `SCRNCell`.

Blocks that tick at their own periods, and a context layer that changes slowly.
"""

from cellkit_clockwork.clockwork import ClockworkCell
from cellkit_clockwork.scrn import SCRNCell

__all__ = ["ClockworkCell", "SCRNCell"]
