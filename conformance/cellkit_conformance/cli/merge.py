"""`cellkit merge`: join the reports of shards, or of jobs with one backend each, into one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cellkit_conformance.cli.run import (
    DEFAULT_JSON,
    Annotate,
    BadgeFile,
    Expected,
    Files,
    HtmlFile,
    JsonFile,
    JunitFile,
    Quiet,
    Scripts,
    Shown,
    deliver,
    expected_failures,
)
from cellkit_conformance.report import expected as expectations
from cellkit_conformance.report.comparison import (
    compare,
    read_outcomes,
    show_changes,
    write_baseline,
)
from cellkit_conformance.report.merge import merge as join
from cellkit_conformance.report.report import EXIT_STALE


def merge(
    reports: Annotated[list[Path], typer.Argument(help="JSON reports.", show_default=False)],
    json_file: JsonFile = DEFAULT_JSON,
    html_file: HtmlFile = None,
    junit_file: JunitFile = None,
    badge_file: BadgeFile = None,
    scripts: Scripts = None,
    baseline: Annotated[
        Path | None, typer.Option(help="Where a baseline of the whole goes.")
    ] = None,
    diff: Annotated[
        Path | None, typer.Option(help="A baseline, or a report, to compare the whole with.")
    ] = None,
    expected: Expected = None,
    quiet: Quiet = False,
    annotate: Annotate = False,
) -> int:
    """Join the reports of shards, or of jobs with one backend each, into one.

    The exit code is that of the whole; where that is 0, the one of `cellkit diff` with --diff.
    """
    before = None if diff is None else read_outcomes(diff)
    files = Files(json_file, html_file, junit_file, badge_file, scripts)
    try:
        known = expected_failures(expected)
    except expectations.BadExpectations as error:
        print(error, file=sys.stderr)
        return EXIT_STALE
    report = join(reports)
    files.check()
    expectations.apply(known, report.results)
    code = deliver(report, files, Shown(quiet=quiet, annotations=annotate))
    if baseline is not None:
        write_baseline(json_file, baseline)
    if before is None:
        return code
    changes = compare(before, read_outcomes(json_file))
    changed = show_changes(changes, Console(emoji=False), quiet)
    return code or changed
