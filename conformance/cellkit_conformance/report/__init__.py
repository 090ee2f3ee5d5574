"""Reports: what a run found, for terminals, files and later runs."""

from cellkit_conformance.report.report import Report

__all__ = ["Report"]
