"""The form that every error about bad input has."""

import re


def parts(error):
    """Return (what, received, expected, fix) of an error, or fail if it has another form."""
    found = re.fullmatch(
        r"(?P<what>.+)\n  Received: (?P<received>.+)\n  Expected: (?P<expected>.+)"
        r"\n  How to fix: (?P<fix>.+)",
        str(error),
        flags=re.DOTALL,
    )
    assert found, f"not in three parts: {error}"
    return found["what"], found["received"], found["expected"], found["fix"]


def raised(function, *args, **kwargs):
    """Call `function`, which has to raise a ValueError in three parts, and return the parts."""
    try:
        function(*args, **kwargs)
    except ValueError as error:
        return parts(error)
    raise AssertionError("nothing was raised")
