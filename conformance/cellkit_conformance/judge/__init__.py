"""The judge: runs a check, turns what happens into a result, and finds whose defect it is."""

from cellkit_conformance.judge.judge import Judge

__all__ = ["Judge"]
