"""The engines on TensorFlow."""
