"""Reservoirs, cells whose weights are drawn and never trained: `ESNCell`."""

from cellkit_reservoir.esn import ESNCell

__all__ = ["ESNCell"]
