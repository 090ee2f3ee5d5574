"""The conformance suite: proves of a recurrent cell which promises it keeps.

`cellkit conform CELL` on the command line; in the tests of one's own project:

    from cellkit_conformance import conformance_tests

    test_my_cell = conformance_tests("my_lab.cells:MyCell")

Importing this package imports neither Keras nor a backend nor pytest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellkit_conformance.judge.replay import replay
    from cellkit_conformance.pytest_integration import conformance_tests

__all__ = ["conformance_tests", "replay"]


def __getattr__(name: str) -> Any:
    """Import what needs pytest or Keras when it is asked for."""
    if name == "conformance_tests":
        from cellkit_conformance.pytest_integration import conformance_tests

        return conformance_tests
    if name == "replay":
        from cellkit_conformance.judge.replay import replay

        return replay
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
