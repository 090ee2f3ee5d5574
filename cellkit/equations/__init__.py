"""Equations: a text of definitions, and the cell, reference, spec and docs made of it."""
