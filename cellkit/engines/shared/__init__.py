"""What the engines of all backends have in common."""
