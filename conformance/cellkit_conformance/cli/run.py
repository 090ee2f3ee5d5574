"""`cellkit conform` and `cellkit replay`: run checks and write their reports."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cellkit.errors import problem
from cellkit.registry.names import did_you_mean
from cellkit_conformance import edition
from cellkit_conformance.edition.profiles import PROFILES
from cellkit_conformance.files import unwritable
from cellkit_conformance.outcome import Outcome, Result
from cellkit_conformance.places import backend_of, read_devices
from cellkit_conformance.report import expected as expectations
from cellkit_conformance.report.annotations import remarks
from cellkit_conformance.report.comparison import read_outcomes, read_report
from cellkit_conformance.report.report import EXIT_CODES, EXIT_CONFORMANT, EXIT_STALE, Report
from cellkit_conformance.report.terminal import progress, show_report
from cellkit_conformance.run.choice import (
    choose_backends,
    choose_cells,
    choose_places,
    read_shard,
)
from cellkit_conformance.run.executor import LOCAL, make_executor
from cellkit_conformance.run.mistyped import check_spec
from cellkit_conformance.run.plan import RunPlan, total
from cellkit_conformance.run.runner import (
    MOST_WORKERS,
    Runner,
    Unit,
    installed_backends,
    usual_workers,
)

DEFAULT_JSON = Path("reports/conformance.json")

EPILOG = "Exit codes: " + "; ".join(f"{code} {text}" for code, text in EXIT_CODES.items()) + "."

JsonFile = Annotated[Path, typer.Option("--json", help="Where the JSON report goes.")]
HtmlFile = Annotated[Path | None, typer.Option("--html", help="Where the HTML report goes.")]
JunitFile = Annotated[Path | None, typer.Option("--junit", help="Where a JUnit report goes.")]
BadgeFile = Annotated[Path | None, typer.Option("--badge", help="Where an SVG badge goes.")]
Scripts = Annotated[
    Path | None,
    typer.Option(
        help="The folder of the reproduction scripts.",
        show_default="reproduce, beside the JSON report",
    ),
]
Expected = Annotated[
    Path | None,
    typer.Option(
        help="A TOML file of expected failures.",
        show_default="cellkit-expected.toml or pyproject.toml, where it is",
    ),
]
Annotate = Annotated[
    bool,
    typer.Option("--annotations", help="Print failures as GitHub's remarks on a pull request."),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print what is broken, and how it ended.")
]
ExitFirst = Annotated[
    bool, typer.Option("--exitfirst", "-x", help="Stop at the first failure that counts.")
]


def conform(
    cells: Annotated[
        list[str] | None,
        typer.Argument(
            help="Registered names, 'module:Class' or 'file.py:Class'; nothing means every "
            "registered cell.",
            show_default=False,
        ),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(help="A backend, several with commas, or all.", show_default="all"),
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(help="cpu, gpu, cpu:1, several with commas, or all.", show_default="cpu"),
    ] = None,
    profile: Annotated[str, typer.Option(help=" or ".join(PROFILES) + ".")] = "quick",
    select: Annotated[
        list[str] | None, typer.Option(help="Only these ids or groups, e.g. MSK,STA-03.")
    ] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Not these ids or groups.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            "-n",
            min=1,
            help="How many processes at a time.",
            show_default=f"the number of processors, at most {MOST_WORKERS}",
        ),
    ] = None,
    layer: Annotated[
        str, typer.Option(help="The layer under test: cellkit, keras or 'module:Class'.")
    ] = "cellkit",
    timeout: Annotated[
        float | None, typer.Option(min=1, help="Seconds that one check may take.")
    ] = None,
    json_file: JsonFile = DEFAULT_JSON,
    html_file: HtmlFile = None,
    junit_file: JunitFile = None,
    badge_file: BadgeFile = None,
    scripts: Scripts = None,
    expected: Expected = None,
    shard: Annotated[
        str | None, typer.Option(help="Run a part of the checks, such as 1/4.", show_default=False)
    ] = None,
    spread: Annotated[
        bool,
        typer.Option(
            "--spread",
            help="Ask what the code of a cell decides, or the layer around any cell, of every cell "
            "on one backend, and on the others of a part of the cells: half of the time.",
        ),
    ] = False,
    budget: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds after which no further check is started."),
    ] = None,
    durations: Annotated[bool, typer.Option(help="Print where the time went.")] = False,
    spec: Annotated[
        Path | None,
        typer.Option(
            help="A Python file whose `spec` is that of the one cell, in place of its own.",
            show_default=False,
        ),
    ] = None,
    edition_name: Annotated[
        str | None,
        typer.Option(
            "--edition", help="The edition of the requirements.", show_default="the newest"
        ),
    ] = None,
    executor: Annotated[
        str,
        typer.Option(
            help="Where the workers run: local, dask (a cluster on this machine), or the address "
            "of a Dask scheduler."
        ),
    ] = LOCAL,
    exit_first: ExitFirst = False,
    quiet: Quiet = False,
    annotate: Annotate = False,
) -> int:
    """Prove cells correct: every requirement, on every backend, each in a process of its own."""
    if edition_name is not None:
        edition.use(edition_name)
    if profile not in PROFILES:
        raise problem(
            f"There is no profile {profile!r}.",
            received=f"--profile {profile}",
            expected=" or ".join(PROFILES),
            fix=did_you_mean(profile, PROFILES) + "leave it out for a quick run",
        )
    chosen, missing = choose_backends(backend or ["all"])
    names = choose_cells(cells or [])
    if spec is not None:
        check_spec(spec, names)
    plan = RunPlan(
        cells=names,
        backends=choose_places(chosen, read_devices(device or [])),
        ids=edition.select(select or [], skip or [], profile),
        profile=profile,
        seed=seed,
        layer=layer,
        workers=workers or usual_workers(),
        timeout=timeout,
        shard=read_shard(shard),
        budget=budget,
        spec=None if spec is None else str(spec),
        spread=spread,
    )
    files = Files(json_file, html_file, junit_file, badge_file, scripts)
    shown = Shown(durations, quiet, annotate)
    return _conform(plan, missing, files, expected, shown, exit_first, executor)


@dataclass(frozen=True)
class Shown:
    """Options of printing, beside what is broken and how it ended.

    Attributes:
        durations: True to print the slowest checks.
        quiet: Neither progress nor the matrix, notes and recommendations.
        annotations: Remarks for a pull request.
    """

    durations: bool = False
    quiet: bool = False
    annotations: bool = False


@dataclass(frozen=True)
class Files:
    """Paths of a run's reports.

    Attributes:
        json: The JSON report.
        html: The HTML report, or None.
        junit: The JUnit report, or None.
        badge: The badge, or None.
        scripts: The folder of the scripts, or None for one beside the JSON report.
    """

    json: Path
    html: Path | None = None
    junit: Path | None = None
    badge: Path | None = None
    scripts: Path | None = None

    def check(self) -> None:
        """Make the folders, so that a run does not end in vain.

        Raises:
            ValueError: A file cannot be written there.
        """
        for option in ("json", "html", "junit", "badge"):
            path: Path | None = getattr(self, option)
            if path is None:
                continue
            try:
                target = path.resolve()
                target.parent.mkdir(parents=True, exist_ok=True)
                there = target.exists()
                with target.open("a", encoding="utf-8"):
                    pass
                if not there:
                    target.unlink()
            except OSError as error:
                raise unwritable([(f"--{option} {path}", error)]) from error


def _conform(
    plan: RunPlan,
    missing: list[str],
    files: Files,
    expected: Path | None,
    shown: Shown,
    exit_first: bool = False,
    executor: str = LOCAL,
) -> int:
    """Run a plan, write the reports, and return the exit code."""
    files.check()
    try:
        known = expected_failures(expected)
    except expectations.BadExpectations as error:
        print(error, file=sys.stderr)
        return EXIT_STALE

    def stops(unit: Unit, result: Result) -> bool:
        return unit.counts(result) and not any(entry.covers(result) for entry in known)

    report = _run(plan, missing, shown.quiet, stops if exit_first else None, executor)
    expectations.apply(known, report.results)
    return deliver(report, files, shown)


def expected_failures(path: Path | None) -> list[expectations.Expectation]:
    """Read what is known to fail.

    Args:
        path: The file, or None for the one of the project in the working directory, if it has one.

    Raises:
        BadExpectations: The file is wrong.
    """
    path = path or expectations.find(Path.cwd())
    return [] if path is None else expectations.read(path)


def deliver(report: Report, files: Files, shown: Shown) -> int:
    """Write the files of a report, print it, and return its exit code.

    Args:
        report: The finished run.
        files: Paths of the reports.
        shown: Options of printing.

    Raises:
        ValueError: A file cannot be written.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may not have every letter
        sys.stdout.reconfigure(errors="backslashreplace")
    # Files first: whatever becomes of the terminal, the work of the run is kept.
    said, failures = _write(report, files)
    console = Console(emoji=False)  # or `lab:X:` would be a cross
    show_report(console, report, shown.durations, shown.quiet)
    if not shown.quiet:
        console.print("Report: " + ", ".join(said), highlight=False, soft_wrap=True)
    if shown.annotations:
        print("\n".join(remarks(report)))
    if failures:
        raise unwritable(failures)
    return report.exit_code


def _write(report: Report, files: Files) -> tuple[list[str], list[tuple[object, OSError]]]:
    """Write all reports that can be written.

    Returns:
        What was written, and why the rest was not.
    """
    from cellkit_conformance.report.badge import write_badge
    from cellkit_conformance.report.html import write_html
    from cellkit_conformance.report.junit import write_junit

    said: list[str] = []
    failures: list[tuple[object, OSError]] = []
    scripts: list[Path] = []
    folder = files.scripts or files.json.parent / "reproduce"
    writers: tuple[tuple[str, Path | None, Callable[[Path], object]], ...] = (
        ("scripts", folder, lambda to: scripts.extend(report.write_scripts(to))),
        ("json", files.json, report.write_json),  # names the scripts
        ("html", files.html, lambda to: write_html(report, to)),
        ("junit", files.junit, lambda to: write_junit(report, to)),
        ("badge", files.badge, lambda to: write_badge(report, to)),
    )
    for option, path, write in writers:
        if path is None:
            continue
        try:
            write(path)
        except OSError as error:
            failures.append((f"--{option} {path}", error))
        else:
            said += [str(path)] if option != "scripts" else []
    if scripts:
        said.append(f"{len(scripts)} script(s) in {folder}")
    return said, failures


def replay(
    report: Annotated[Path, typer.Argument(help="A JSON report.")],
    ids: Annotated[
        list[str] | None,
        typer.Argument(help="Only these ids or groups; nothing means all.", show_default=False),
    ] = None,
    cell: Annotated[str | None, typer.Option(help="Only this cell.", show_default=False)] = None,
    backend: Annotated[
        str | None, typer.Option(help="Only this backend.", show_default=False)
    ] = None,
    json_file: Annotated[
        Path, typer.Option("--json", help="Where the new JSON report goes.")
    ] = Path("reports/replay.json"),
    exit_first: ExitFirst = False,
    quiet: Quiet = False,
    annotate: Annotate = False,
) -> int:
    """Run the failures of a report again: same cells, backends, profile, seed and layer."""
    read_outcomes(report)  # says so where it is none
    data = read_report(report)
    if "results" not in data:
        raise problem(
            f"{report} is a baseline, which does not say how to run its failures again.",
            received=str(report),
            expected="a report that `cellkit conform --json` wrote",
            fix="run `cellkit conform` first",
        )
    edition.use(data.get("edition", edition.edition_name()))
    chosen = set(edition.select(ids or []))
    plan = replay_plan(data, chosen, cell, backend)
    if not plan.work():
        print("There is no such failure in the report.")
        return EXIT_CONFORMANT
    # The scripts of the first run stay: this one's go into a folder of their own.
    files = Files(json_file, scripts=json_file.with_suffix(""))
    shown = Shown(quiet=quiet, annotations=annotate)
    return _conform(plan, [], files, None, shown, exit_first)


def replay_plan(
    data: dict[str, Any], ids: set[str], cell: str | None = None, backend: str | None = None
) -> RunPlan:
    """Make the plan that runs the failures of a report again.

    Args:
        data: A JSON report.
        ids: The requirements that count.
        cell: The only cell, or None.
        backend: The only backend, or None.
    """
    only: dict[tuple[str, str], list[str]] = {}
    there = installed_backends()
    for result in data["results"]:
        key = (result["cell"], result["backend"])
        if not Outcome(result["outcome"]).is_bad or result["requirement"] not in ids:
            continue
        if cell in (None, key[0]) and backend in (None, key[1]):
            # What compares backends compares with what the others leave in the same run.
            text = result["message"]
            others = [
                b
                for b in data["backends"]
                if b != key[1] and b in text and there.get(backend_of(b))
            ]
            for name in [*others, key[1]]:
                found = only.setdefault((key[0], name), [])
                if result["requirement"] not in found:
                    found.append(result["requirement"])
    return RunPlan(
        cells=list(dict.fromkeys(cell for cell, _ in only)),
        backends=[name for name in data["backends"] if any(b == name for _, b in only)],
        ids=[id for id in edition.requirements() if any(id in found for found in only.values())],
        profile=data["profile"],
        seed=data["seed"],
        layer=data["layer"],
        workers=usual_workers(),
        only=only,
        spec=data.get("spec"),
    )


def _run(
    plan: RunPlan,
    missing: list[str],
    quiet: bool,
    stops: Callable[[Unit, Result], bool] | None,
    executor: str,
) -> Report:
    console = Console(file=sys.stderr, emoji=False)
    start = time.perf_counter()
    machines = make_executor(executor, plan.workers)
    try:
        with contextlib.nullcontext() if quiet else progress(console, total(plan)) as show:
            runner = Runner(plan, show, machines, stops)
            units = runner.run()
    finally:
        machines.close()
    return Report(plan, units, runner.backends, missing, time.perf_counter() - start)
