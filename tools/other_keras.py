"""Test the layers with another release of Keras than the one of constraints.txt.

    python tools/other_keras.py oldest                     # the oldest that pyproject.toml allows
    python tools/other_keras.py newest --backend jax       # the newest release
    python tools/other_keras.py main                       # what the next one will be
    python tools/other_keras.py 3.14.1 -- -k mask -x       # arguments after -- go to pytest

The other Keras is installed into a folder under .cache, which stands in front of the installed one
for this run alone. Tests of the layers, and the conformance suite on three cells, run with it.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BACKENDS = ("torch", "jax", "tensorflow")
NIGHTLY = "keras-nightly"  # built from the main branch every day
TESTS = (
    *("tests/cells", "tests/defects", "tests/layers", "tests/registry/test_with_keras.py"),
    *("tests/project/test_readme.py", "tests/plugins/test_saving_and_precision.py"),
)
CELLS = ("lstm", "nested", "gru_d")


def oldest() -> str:
    """Return the oldest release of Keras that pyproject.toml allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (need,) = (need for need in project["dependencies"] if need.startswith("keras>"))
    found = re.match(r"keras>=([\d.]+)", need)
    assert found is not None, need  # noqa: S101
    return found[1]


def requirement(wanted: str) -> list[str]:
    """Return what pip is to install for a word of the command line.

    Args:
        wanted: ``"oldest"``, ``"newest"``, ``"main"``, or a version.
    """
    if wanted == "main":
        return ["--pre", NIGHTLY]
    if wanted == "newest":
        return ["keras"]
    return [f"keras=={oldest() if wanted == 'oldest' else wanted}"]


def main() -> int:
    """Install and test."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("keras", help="oldest, newest, main, or a version")
    parser.add_argument("--backend", choices=BACKENDS, default="torch")
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    options, arguments = parser.parse_args(words[:end]), words[end + 1 :]
    folder = ROOT / ".cache" / "keras" / options.keras
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"]
    subprocess.run(
        [*install, "--target", str(folder), *requirement(options.keras)], check=True, cwd=ROOT
    )
    before = os.environ.get("PYTHONPATH")
    environment = {
        **os.environ,
        "KERAS_BACKEND": options.backend,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(folder), before))),
    }
    said = "import keras; print('Keras', keras.__version__, 'on', keras.backend.backend())"
    done = [
        subprocess.run([sys.executable, *command], env=environment, cwd=ROOT).returncode
        for command in (
            ["-c", said],
            ["-m", "pytest", "-q", *(arguments or TESTS)],
            ["-m", "cellkit", "conform", *CELLS, "--backend", options.backend],
        )
    ]
    return int(any(done))


if __name__ == "__main__":
    sys.exit(main())
