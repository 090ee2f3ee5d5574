"""The classic cells."""
