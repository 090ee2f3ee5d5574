"""Reproductions: programs that show a failure without the suite and without chance."""
