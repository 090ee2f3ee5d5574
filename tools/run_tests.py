"""Run the tests on every backend, each in its own process, and say plainly how it went.

    python tools/run_tests.py                        the whole of `make test`
    python tools/run_tests.py --backend jax          one backend
    python tools/run_tests.py --only tests -- -k mask -x    arguments after -- go to pytest

A backend is chosen when Keras is imported, so one process can test only one. A failing backend
doesn't hide the others: everything runs, and the exit code is 1 if anything failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BACKENDS = ("tensorflow", "torch", "jax")
TIMEOUT = 30 * 60
REPORT_OPTIONS = ("--junitxml=", "--json=")
PYTHON = os.path.relpath(sys.executable, ROOT) if ROOT in Path(sys.executable).parents else "python"


@dataclass
class Outcome:
    """Outcome of one command."""

    name: str
    command: str
    failed_command: bool
    seconds: float
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    @property
    def ok(self) -> bool:
        """True if the command succeeded and no test in it failed."""
        return not self.failed_command and not self.failed


def count_junit(report: Path, outcome: Outcome) -> None:
    """Add up the tests in the JUnit report that pytest wrote."""
    for case in ElementTree.parse(report).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            outcome.failed += 1
        elif case.find("skipped") is not None:
            outcome.skipped += 1
        else:
            outcome.passed += 1


def count_compat(report: Path, outcome: Outcome) -> None:
    """Add up the outcomes that the run of Keras' own tests wrote.

    Some of those tests are known to fail, with the reason written down beside their names. They
    count as skipped as long as the run, which knows them, found nothing unexpected.
    """
    for records in json.loads(report.read_text(encoding="utf-8")).values():
        for record in records.values():
            if record["outcome"] == "passed":
                outcome.passed += 1
            elif record["outcome"] == "failed" and outcome.failed_command:
                outcome.failed += 1
            else:
                outcome.skipped += 1


def run(
    name: str,
    arguments: list[str],
    environment: dict[str, str],
    report: Path,
    count: Callable[[Path, Outcome], None],
) -> Outcome:
    """Run one Python command with its output shown as it comes.

    Args:
        name: Name in the summary.
        arguments: Arguments after `python` on the command line; the path of the report is added.
        environment: Variables to set, beside those there are.
        report: Path at which the command writes its report.
        count: Reads the report.

    Returns:
        How it ended.
    """
    settings = "".join(f"{key}={value} " for key, value in environment.items())
    shown = [arg for arg in arguments if not arg.startswith(REPORT_OPTIONS)]
    command = settings + shlex.join([PYTHON, *shown])
    print(f"\n==> {name}\n    {command}", flush=True)
    start = time.monotonic()
    variables = {**os.environ, **environment}
    # Tests start many processes: each would compile the modules of a checkout again.
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    try:
        code = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=variables,
            timeout=TIMEOUT,
        ).returncode
    except subprocess.TimeoutExpired:
        print(f"    stopped: not finished after {TIMEOUT // 60} minutes", flush=True)
        code = 124
    outcome = Outcome(name, command, code != 0, time.monotonic() - start)
    if report.exists():
        count(report, outcome)
    elif not outcome.failed_command:
        print(f"    {name} wrote no report, so nothing shows that a test ran", flush=True)
        outcome.failed_command = True
    return outcome


def summarise(outcomes: list[Outcome]) -> int:
    """Print one line for each command, how to repeat what failed, and the totals.

    Returns:
        The exit code.
    """
    print("\nSummary")
    for outcome in outcomes:
        skipped = f", {outcome.skipped} skipped" if outcome.skipped else ""
        print(
            f"  {'ok    ' if outcome.ok else 'FAILED'}  {outcome.name:<28}"
            f"{outcome.passed:>6} passed, {outcome.failed} failed{skipped}"
            f"  ({outcome.seconds:.0f} s)"
        )
    broken = [outcome for outcome in outcomes if not outcome.ok]
    for outcome in broken:
        print(f"\nTo repeat {outcome.name}:\n  {outcome.command}")
    # A command can fail without a failed test (nothing collected, a crash): that counts as one.
    failed = sum(max(outcome.failed, int(outcome.failed_command)) for outcome in outcomes)
    passed = sum(outcome.passed for outcome in outcomes)
    skipped = sum(outcome.skipped for outcome in outcomes)
    print(f"\n{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if broken else 0


def installed(backends: list[str]) -> list[str]:
    """Check that each backend is there to be tested.

    Returns:
        The same backends. The process ends if one is missing: a backend left out is not tested.
    """
    missing = [backend for backend in backends if importlib.util.find_spec(backend) is None]
    if missing:
        sys.exit(
            f"Not installed: {', '.join(missing)}.\n"
            "Install them (pip install --constraint constraints.txt NAME, or make, which installs\n"
            "everything into .venv), or test what is there: --backend NAME."
        )
    return backends


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="all", help="all, or names separated by commas")
    parser.add_argument("--only", choices=["tests", "compat"], help="run one of the two suites")
    parser.add_argument("-n", "--workers", default="2", help="processes for each backend")
    parser.add_argument("pytest", nargs="*", help="arguments for pytest, after --")
    options = parser.parse_args()
    chosen = list(BACKENDS) if options.backend == "all" else options.backend.split(",")
    unknown = sorted(set(chosen) - set(BACKENDS))
    if unknown:
        parser.error(f"no such backend: {', '.join(unknown)}; choose from {', '.join(BACKENDS)}")
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="cellkit-tests-") as folder:
        for backend in installed(chosen):
            if options.only != "compat":
                report = Path(folder, f"tests-{backend}.xml")
                # Neighbours share what is compiled for them, so a worker takes many.
                arguments = ["-m", "pytest", "tests", "-q", "-n", options.workers]
                arguments += ["--dist", "worksteal"]
                arguments += [f"--junitxml={report}", *options.pytest]
                environment = {"KERAS_BACKEND": backend}
                outcomes.append(
                    run(f"tests on {backend}", arguments, environment, report, count_junit)
                )
            if options.only != "tests":
                report = Path(folder, f"compat-{backend}.json")
                arguments = ["tests/keras_compat/run.py", f"--backend={backend}"]
                arguments += [f"--workers={options.workers}", f"--json={report}"]
                outcomes.append(
                    run(f"Keras' own tests on {backend}", arguments, {}, report, count_compat)
                )
    return summarise(outcomes)


if __name__ == "__main__":
    sys.exit(main())
