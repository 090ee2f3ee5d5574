"""The run: a plan, the parent that hands checks out, and the workers that make them."""
