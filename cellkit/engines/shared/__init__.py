"""The parts that the engines of all backends have in common."""
