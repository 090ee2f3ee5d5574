"""Run Keras' own recurrent tests with cellkit's layers in the place of Keras'.

    python tests/keras_compat/run.py --backend all
    python tests/keras_compat/run.py --backend torch --mode name

The tests are those inside the installed keras package. One without tests, such as a nightly build,
needs a checkout of Keras: `PYTHONPATH=path/to/keras`, before the command, runs the tests and the
Keras of a checkout. Each backend runs in its own process. The outcome of every test is compared
with `expected.toml`: a test that fails, a listed failure that passes and a bar test that is missing
or never reaches the loop of `cellkit.RNN` all make the run fail.

Exit code: 0 everything as expected, 1 otherwise, 2 wrong usage (as argparse has it).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from cellkit_conformance.run.startup import cheap_flags

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
BACKENDS = ("tensorflow", "torch", "jax")
MODULES = {"tensorflow": "tensorflow", "torch": "torch", "jax": "jax"}
MODES = ("bases", "name", "off")
KERAS_TESTS = (
    "layers/rnn",
    "layers/core/masking_test.py",
    "saving/saving_lib_test.py::SavingBattleTest::test_bidirectional_lstm_saving",
)


@dataclass
class Expectations:
    """The entries of `expected.toml` for one backend and mode."""

    bar: set[str]
    must_reach_loop: set[str]
    may_skip: dict[str, str] = field(default_factory=dict)
    must_fail: dict[str, str] = field(default_factory=dict)


def load_expectations(table: dict, backend: str, mode: str) -> Expectations:
    """Read the table of `expected.toml` for one backend and mode."""
    bar, must_reach = set(), set()
    for section in table["bars"].values():
        modes = section.get("must_reach_loop", [])
        for file, names in section.items():
            if file == "must_reach_loop":
                continue
            tests = {f"{file}::{name}" for name in names}
            bar |= tests
            if mode in modes:
                must_reach |= tests - set(table["no_loop"])
    expectations = Expectations(bar, must_reach)
    for exception in table["exception"]:
        applies = backend in exception["backends"] and mode in exception.get("modes", MODES)
        if applies and exception["outcome"] == "skipped":
            expectations.may_skip[exception["test"]] = exception["reason"]
        elif applies and exception["outcome"] == "failed":
            expectations.must_fail[exception["test"]] = exception["reason"]
    return expectations


def test_name(nodeid: str) -> str:
    """Drop the test class from pytest's name: "a_test.py::ATest::test_b" -> "a_test.py::test_b"."""
    parts = nodeid.split("::")
    return "::".join([parts[0], parts[-1]]) if len(parts) > 2 else nodeid


test_name.__test__ = False


def judge(records: dict[str, dict], expectations: Expectations) -> list[str]:
    """Compare what happened with what was expected.

    Args:
        records: Outcome of each test, keyed by pytest's name of it: `outcome`, `loop` (how often
            the loop of the drop-in ran) and, unless it passed, `text`.
        expectations: The expected results.

    Returns:
        One line for each difference, none if all is as expected.
    """
    if not records:
        return ["no test ran"]
    differences = []
    seen: dict[str, list[dict]] = {}
    for nodeid, record in sorted(records.items()):
        name, outcome = test_name(nodeid), record["outcome"]
        # Two test classes of one file may hold tests of the same name: both must be right.
        seen.setdefault(name, []).append(record)
        if name in expectations.must_fail:
            if outcome != "failed":
                reason = expectations.must_fail[name]
                differences.append(f"{name} {outcome}, but is listed as failing: {reason}")
        elif outcome == "failed":
            differences.append(f"{name} failed")
        elif outcome == "skipped" and name not in expectations.may_skip:
            differences.append(f"{name} was skipped: {record.get('text', 'no reason given')}")
    listed = expectations.bar | set(expectations.may_skip) | set(expectations.must_fail)
    for name in sorted(listed - set(seen)):
        differences.append(f"{name} is listed in expected.toml, but did not run")
    for name in sorted(expectations.must_reach_loop & set(seen)):
        for record in seen[name]:
            if record["outcome"] == "passed" and not record.get("loop"):
                differences.append(f"{name} passed without reaching the loop of cellkit.RNN")
    return differences


def keras_source() -> Path:
    """Folder `keras/src` of the installed package, found without importing keras."""
    spec = importlib.util.find_spec("keras")
    if spec is None or spec.origin is None:
        sys.exit("keras is not installed in this environment: pip install keras")
    source = Path(spec.origin).parent / "src"
    if not any((source / KERAS_TESTS[0]).glob("*_test.py")):
        sys.exit(f"{source} holds no tests: set PYTHONPATH to a checkout of Keras")
    return source


def keras_version() -> str:
    """Return the version of the Keras whose tests run, also of one that is not installed."""
    text = (keras_source() / "version.py").read_text(encoding="utf-8")
    return text.partition("__version__ = ")[2].partition("\n")[0].strip("\"'")


def environment(backend: str, mode: str, report: Path) -> dict[str, str]:
    """Environment of the process that runs one backend."""
    # The first has a module that Python imports at its start, so that Keras is imported quickly.
    paths = [REPOSITORY / "tests" / "helpers" / "quick_start"]
    paths += [HERE, REPOSITORY, REPOSITORY / "plugins", REPOSITORY / "conformance"]
    inherited = os.environ.get("PYTHONPATH")
    defaults = {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
        "JAX_PLATFORMS": "cpu",
        # Most of the time on JAX goes into compiling the same small functions, run after run.
        "JAX_COMPILATION_CACHE_DIR": str(Path(tempfile.gettempdir()) / "cellkit-jax-cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.05",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    if backend == "jax":
        defaults["XLA_FLAGS"] = cheap_flags()
    return {
        **defaults,
        **os.environ,
        "KERAS_BACKEND": backend,
        "KERAS_COMPAT_MODE": mode,
        "KERAS_COMPAT_REPORT": str(report),
        "PYTHONPATH": os.pathsep.join(map(str, paths + ([inherited] if inherited else []))),
    }


def run_backend(backend: str, arguments: argparse.Namespace, folder: Path) -> tuple[dict, str]:
    """Run the tests on one backend.

    Returns:
        The records, and what pytest printed.
    """
    source = keras_source()
    report = folder / f"{backend}.json"
    command = [sys.executable, "-m", "pytest", "-p", "plugin", "-p", "no:cacheprovider"]
    # An empty configuration: this project's own pytest options are not meant for Keras' tests.
    command += ["-c", os.devnull, "--rootdir", str(source), "-q", "--tb=short", "--no-header"]
    if arguments.workers > 1:
        command += ["-n", str(arguments.workers), "--dist", "worksteal"]
    if arguments.keyword:
        command += ["-k", arguments.keyword]
    command += [str(source / test) for test in KERAS_TESTS]
    try:
        process = subprocess.run(  # noqa: S603
            command,
            cwd=folder,
            env=environment(backend, arguments.mode, report),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=arguments.timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        output = error.stdout or ""
        if isinstance(output, bytes):
            output = output.decode(errors="replace")
        return {}, f"{output}\nThe tests did not end within {arguments.timeout} seconds.\n"
    records = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}
    return records, process.stdout


def main(argv: list[str] | None = None) -> int:
    """Run the tests and print one line per backend."""
    parser = argparse.ArgumentParser(
        description="Run Keras' own recurrent tests with cellkit's layers in the place of Keras'."
    )
    parser.add_argument("--backend", choices=[*BACKENDS, "all"], default="all")
    parser.add_argument("--mode", choices=MODES, default="bases")
    parser.add_argument(
        "-n", "--workers", type=int, default=1, help="processes per backend (pytest-xdist)"
    )
    parser.add_argument("-k", "--keyword", help="run some tests only; the bars are not checked")
    parser.add_argument("--timeout", type=int, default=1800, help="seconds per backend")
    parser.add_argument("-v", "--verbose", action="store_true", help="print what pytest printed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the outcome of every test")
    arguments = parser.parse_args(argv)

    table = tomllib.loads((HERE / "expected.toml").read_text(encoding="utf-8"))
    backends = BACKENDS if arguments.backend == "all" else (arguments.backend,)
    print(
        f"Keras {keras_version()}: its own recurrent tests, "
        f"mode {arguments.mode}, one process per backend",
        flush=True,
    )
    totals: Counter[str] = Counter()
    everything, unexpected = {}, 0
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="keras-compat-") as name:
        for backend in backends:
            if importlib.util.find_spec(MODULES[backend]) is None:
                print(f"{backend:>10}: not installed")
                unexpected += arguments.backend == backend
                continue
            clock = time.monotonic()
            records, output = run_backend(backend, arguments, Path(name))
            everything[backend] = records
            expectations = load_expectations(table, backend, arguments.mode)
            differences = judge(records, expectations)
            if arguments.keyword:
                differences = [line for line in differences if "did not run" not in line]
            counts = Counter(record["outcome"] for record in records.values())
            reached = sum(1 for record in records.values() if record.get("loop"))
            merged = sum(1 for record in records.values() if record.get("bidirectional"))
            print(
                f"{backend:>10}: {counts['passed']} passed, {counts['failed']} failed, "
                f"{counts['skipped']} skipped; {reached} of {len(records)} reached the loop, "
                f"{merged} reached Bidirectional; {len(differences)} unexpected; "
                f"{time.monotonic() - clock:.0f} s",
                flush=True,
            )
            if arguments.verbose or differences:
                print(output)
            for line in differences:
                print(f"{'':>12}unexpected: {line}")
            totals += counts
            unexpected += len(differences)
    if arguments.json:
        arguments.json.write_text(json.dumps(everything, indent=1), encoding="utf-8")
    summary = ", ".join(
        f"{totals[outcome]} {outcome}"
        for outcome in ("failed", "passed", "skipped")
        if totals[outcome]
    )
    print(
        f"=== {unexpected} unexpected; {summary or 'no tests ran'} "
        f"in {time.monotonic() - started:.2f}s ==="
    )
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
