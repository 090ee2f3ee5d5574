"""The subject of a check: a cell, its layers on this backend, and the oracle beside them."""
