"""Mutation of real cells: small changes to a registered cell's own step, and what notices them."""
