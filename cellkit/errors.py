"""One way to say that an input is wrong: what was passed, what is expected, how to fix it."""

from __future__ import annotations


def problem(what: str, *, received: str, expected: str, fix: str) -> ValueError:
    """Make the `ValueError` that cellkit raises for bad input.

    The text depends only on the arguments, never on the backend, so the same mistake reads the
    same on TensorFlow, PyTorch and JAX.

    Args:
        what: One sentence that names what is wrong.
        received: The value passed.
        expected: The right input, in words.
        fix: The change that mends it.

    Returns:
        The exception, to be raised by the caller.
    """
    return ValueError(
        f"{what}\n  Received: {received}\n  Expected: {expected}\n  How to fix: {fix}"
    )
