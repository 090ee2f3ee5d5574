"""Change the framework in many small ways, and see whether its tests notice.

    python tools/mutate_code.py list ../before . --count 72 > mutations.json
    python tools/mutate_code.py run . mutations.json > now.json
    python tools/mutate_code.py run ../before mutations.json > before.json
    python tools/mutate_code.py list . . --backend jax > jax.json

`list` draws changes of lines of `cellkit/` that both checkouts have, in functions of one name: so
the tests of both can be asked for the same change. `run` asks the tests of one checkout: those of
the changed module first, then those of its room, then those of the layers. A change is noticed if
a test fails, or if the tests take far longer than they should.

Each change has a process of its own, a copy of one that has imported the framework below cellkit,
and no file is changed. KERAS_BACKEND chooses the backend (default: torch). With `--backend`, the
lines are those of the engines and the backend of that name.
"""

from __future__ import annotations

import argparse
import ast
import importlib.abc
import importlib.machinery
import json
import os
import random
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Replaced in a line: what, and by what. Each line is changed at the first place that fits.
RULES = (
    (r" is not None", " is None"),
    (r" is None", " is not None"),
    (r" not in ", " in "),
    (r" == ", " != "),
    (r" != ", " == "),
    (r" < ", " >= "),
    (r" > ", " <= "),
    (r" >= ", " < "),
    (r" <= ", " > "),
    (r"\bnot ", ""),
    (r" and ", " or "),
    (r" or ", " and "),
    (r" \+ ", " - "),
    (r" - ", " + "),
    (r" \* ", " + "),
    (r"(?<!strict=)\bTrue\b", "False"),
    (r"(?<!strict=)\bFalse\b", "True"),
    (r"\[0\]", "[-1]"),
    (r"\[-1\]", "[0]"),
    (r"\[1:\]", "[:]"),
    (r"\b1\b", "2"),
    (r"\b0\b", "1"),
)
# Modules of one backend alone.
BACKENDS = ("jax", "tensorflow")
# Modules that tests reach by processes of their own.
ELSEWHERE = (*BACKENDS, "cli", "doctor", "facts", "_terminal", "equations", "_former")
# Seconds of the processor that one test may take.
_LONG = 30
# Files of tests that are collected at once.
_FILES = 4


def main() -> int:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("task", choices=("list", "run"))
    parser.add_argument("first", type=Path, help="a checkout")
    parser.add_argument("second", type=Path, help="list: another one; run: what `list` printed")
    parser.add_argument("--count", type=int, default=72)
    parser.add_argument("--backend", choices=BACKENDS, help="list: the backend of the modules")
    parser.add_argument(
        "--everywhere", action="store_true", help="run: with what is left out of `make test`"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seconds",
        type=int,
        default=600,
        help="run: of the processor, after which the tests of a change end (default: 600)",
    )
    parser.add_argument("--only", nargs="+", help="run: the numbers of some changes")
    given = parser.parse_args()
    if given.task == "list":
        found = drawn(given.first, given.second, given.count, given.seed, given.backend)
        print(json.dumps(found, indent=1))
        return 0
    mutations = json.loads(given.second.read_text(encoding="utf-8"))
    wanted = [m for m in mutations if given.only is None or str(m["number"]) in given.only]
    return run(given.first.resolve(), wanted, given.seconds, given.everywhere)


# --- drawing -----------------------------------------------------------------------------------


def drawn(
    before: Path, now: Path, count: int, seed: int, backend: str | None = None
) -> list[dict[str, Any]]:
    """Return changes that both checkouts can be given, spread over the modules."""
    old, new = ({(f, line): m for f, line, m, _ in lines(c, backend)} for c in (before, now))
    rng = random.Random(seed)  # noqa: S311 - for reproducibility
    modules: dict[str, list[dict[str, Any]]] = {}
    for (function, line), module in new.items():
        changed = old.get((function, line)) and mutated(line, rng)
        if changed:
            modules.setdefault(module, []).append(
                {"function": function, "line": line, "changed": changed}
            )
    for each in modules.values():
        rng.shuffle(each)
    order = sorted(modules)
    rng.shuffle(order)
    found: list[dict[str, Any]] = []
    while len(found) < count and any(modules.values()):
        for module in order:
            if modules[module] and len(found) < count:
                found.append({"number": len(found), **modules[module].pop()})
    return found


def lines(checkout: Path, backend: str | None = None) -> Iterator[tuple[str, str, str, int]]:
    """Yield lines that only one function of a checkout has, with function, module and number.

    Args:
        checkout: The checkout.
        backend: The backend whose modules are looked at, or None for those of all.
    """
    seen: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for path in sorted((checkout / "cellkit").rglob("*.py")):
        module = str(path.relative_to(checkout / "cellkit"))
        words = {word for word in ELSEWHERE if word in module}
        if words != ({backend} if backend else set()):
            continue
        source = path.read_text(encoding="utf-8")
        for name, first, last in functions(ast.parse(source)):
            for number in range(first, last + 1):
                line = source.splitlines()[number - 1].strip()
                seen.setdefault((name, line), []).append((module, number))
    for (name, line), places in seen.items():
        if len(places) == 1:
            yield name, line, *places[0]


def functions(tree: ast.Module) -> Iterator[tuple[str, int, int]]:
    """Yield the functions of a module, with first and last line of what they do."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef):
            continue
        body = node.body
        documented = isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
        body = body[1:] if documented else body
        if body:
            yield node.name, body[0].lineno, node.end_lineno or body[-1].lineno


def mutated(line: str, rng: random.Random) -> str | None:
    """Return a line with one change, or None where there is nothing to change."""
    # Words in texts are not code.
    if '"' in line or "#" in line or line.startswith(("raise", "import", "from", "assert")):
        return None
    fitting = [rule for rule in RULES if re.search(rule[0], line)]
    if not fitting:
        return None
    pattern, by = rng.choice(fitting)
    return re.sub(pattern, by, line, count=1)


# --- running -----------------------------------------------------------------------------------


def run(
    checkout: Path, mutations: list[dict[str, Any]], seconds: int, everywhere: bool = False
) -> int:
    """Run the tests for each change, and print which were noticed, and by which test."""
    backend = os.environ.setdefault("KERAS_BACKEND", "torch")
    # Named tests would all be asked otherwise.
    text = (checkout / "tests" / "conftest.py").read_text(encoding="utf-8")
    flags = ["--part"] if "--part" in text and not everywhere else []
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    parts = [checkout, checkout / "conformance", checkout / "plugins", checkout / "tests/helpers"]
    sys.path[:0] = [str(p) for p in (*parts, checkout / "tests") if p.exists()]
    places = {
        (f, line): (m, number)
        for f, line, m, number in lines(checkout, backend if backend in BACKENDS else None)
    }
    os.chdir(checkout)

    import keras  # noqa: F401 - imported once, for all of them
    import numpy as np  # noqa: F401
    import pytest  # noqa: F401

    if backend == "torch":
        import torch

        torch.set_num_threads(1)
    results = []
    for mutation in mutations:
        module, number = places[mutation["function"], mutation["line"]]
        start = time.monotonic()
        by = noticed(checkout, (module, number), mutation, seconds, flags)
        results.append({**mutation, "module": module, "by": by})
        told = by or "SURVIVED"
        print(
            mutation["number"], module, told, f"{time.monotonic() - start:.0f} s", file=sys.stderr
        )
    print(json.dumps(results, indent=1))
    return 0


def noticed(
    checkout: Path,
    place: tuple[str, int],
    mutation: dict[str, Any],
    seconds: int,
    flags: list[str],
) -> str | None:
    """Return the test that notices a change, or None."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        text = "an error outside of the tests"
        try:
            text = test(checkout, place, mutation, seconds, flags) or ""
        finally:
            os.write(writing, text.encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as told:
        text = told.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return f"the tests ended with signal {os.WTERMSIG(status)}"
    return text or None


def test(
    checkout: Path,
    place: tuple[str, int],
    mutation: dict[str, Any],
    seconds: int,
    flags: list[str],
) -> str | None:
    """Run the tests in this process, with a change, until one fails; return its name."""
    import pytest

    module, number = place
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    path = checkout / "cellkit" / module
    source = path.read_text(encoding="utf-8").splitlines(keepends=True)
    source[number - 1] = source[number - 1].replace(mutation["line"], mutation["changed"])
    sys.meta_path.insert(0, Changed(path, "".join(source)))
    first, files = First(time.process_time() + seconds), tests_of(checkout, module)
    flags = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *flags]
    while files and first.failed is None and not first.over():
        code = pytest.main([*flags, *files[:_FILES]], plugins=[first])
        if first.failed is None and code not in (0, 2, 5):
            return f"pytest ended with {code}"
        files = files[_FILES:]
    return first.failed


def tests_of(checkout: Path, module: str) -> list[str]:
    """Return the files of tests, those first that are likely to notice a change of a module."""
    tests, path = checkout / "tests", Path(module)
    stem, room = path.stem.strip("_"), path.parts[0]
    files = sorted(
        p
        for p in tests.rglob("test_*.py")
        if not {"examples", "keras_compat", "conformance", "export", "project", "fuzz", "dogfood"}
        & set(p.relative_to(tests).parts)
        and p.name
        not in ("test_packaging.py", "test_readme.py", "test_docs_tables.py", "test_cli.py")
    )

    def rank(p: Path) -> tuple[bool, ...]:
        words = set(p.stem.split("_"))
        own = bool(words & set(stem.split("_")))
        core = p.stem in ("test_rnn", "test_cell", "test_engines", "test_bidirectional")
        return not own, not core, room not in p.parts, "layers" not in p.parts

    return [str(p) for p in sorted(files, key=rank)]


class First:
    """A plugin of pytest that keeps the name of the first test that fails.

    Args:
        end: The processor's time at which no further test begins.
    """

    def __init__(self, end: float) -> None:
        self.end = end
        self.failed: str | None = None

    def over(self) -> bool:
        """Tell whether the time is over."""
        return time.process_time() > self.end

    def pytest_runtest_setup(self, item: Any) -> None:
        """Begin to count the time of a test."""
        item.session.shouldstop = self.over() and "the time is over"
        signal.signal(signal.SIGPROF, _too_long)
        # Again and again: a library may take the first for an error of its own.
        signal.setitimer(signal.ITIMER_PROF, _LONG, 5)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Look at the report of a test."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        if report.failed and self.failed is None:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: Any) -> None:
        """Look at the report of the collection of tests."""
        if report.failed and self.failed is None:
            self.failed = report.nodeid


def _too_long(*_: Any) -> None:
    raise TimeoutError("the test takes too long")


class Changed(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Import one module from another source than its file has.

    Args:
        path: The file.
        source: The source.
    """

    def __init__(self, path: Path, source: str) -> None:
        self.path, self.source = path, source
        parts = path.with_suffix("").parts
        parts = parts[len(parts) - 1 - parts[::-1].index("cellkit") :]
        self.package = parts[-1] == "__init__"
        self.name = ".".join(parts[:-1] if self.package else parts)

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        """Return how to import the module, and nothing for others."""
        if fullname != self.name:
            return None
        spec = importlib.machinery.ModuleSpec(
            fullname, self, origin=str(self.path), is_package=self.package
        )
        spec.has_location = True
        if self.package:
            spec.submodule_search_locations = [str(self.path.parent)]
        return spec

    def get_source(self, fullname: str) -> str:
        """Return the source."""
        return self.source

    def get_code(self, fullname: str) -> Any:
        """Return the code, under the name of the file."""
        return compile(self.source, str(self.path), "exec")


if __name__ == "__main__":
    sys.exit(main())
