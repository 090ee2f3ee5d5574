"""Cells in continuous time, whose step depends on the time that has passed: `CfCCell`."""

from cellkit_continuous.cfc import CfCCell, lecun_tanh

__all__ = ["CfCCell", "lecun_tanh"]
