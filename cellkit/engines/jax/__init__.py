"""The engines on JAX."""
