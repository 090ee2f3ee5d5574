"""The loop on NumPy: inference alone."""
