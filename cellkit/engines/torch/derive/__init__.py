"""The compiler of PyTorch's fused loop: a recorded step, its gradient, and code for both."""
