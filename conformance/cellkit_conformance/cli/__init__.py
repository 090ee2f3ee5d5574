"""The commands of the suite, from `conform` to `selftest`."""

from __future__ import annotations

import typer

__all__ = ["add_commands"]


def add_commands(app: typer.Typer) -> None:
    """Add the suite's commands to the command line.

    Args:
        app: The application of `cellkit`.
    """
    # Not at the head: `cellkit explain` imports its own module alone, and answers at once.
    from cellkit_conformance.cli.compare import baseline, diff, golden
    from cellkit_conformance.cli.edition import explain
    from cellkit_conformance.cli.merge import merge
    from cellkit_conformance.cli.project import new
    from cellkit_conformance.cli.run import EPILOG, conform, replay
    from cellkit_conformance.selftest.command import selftest

    app.command("conform", epilog=EPILOG)(conform)
    app.command("replay", epilog=EPILOG)(replay)
    app.command("merge", epilog=EPILOG)(merge)
    app.command("baseline")(baseline)
    app.command("diff")(diff)
    app.command("golden")(golden)
    app.command("explain")(explain)
    app.command("selftest")(selftest)
    app.command("new")(new)
