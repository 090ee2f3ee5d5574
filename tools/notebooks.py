"""The notebooks: run them without a server, strip what they left, and show them on the site.

    python tools/notebooks.py run NAME       # runs one, and prints what its cells print, as JSON
    python tools/notebooks.py strip          # takes outputs and counts out of all of them
    python tools/notebooks.py strip --check  # exit code 1 if one of them has any

As a hook of MkDocs it makes a page of each notebook, with what its cells print. That is kept under
.cache by the notebook's text, so a build runs only what has changed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
CACHE = ROOT / ".cache" / "notebooks"
WHERE = "Notebooks"
"""The group of the navigation that gets the pages."""

log = logging.getLogger("mkdocs.hooks.notebooks")


def names() -> list[str]:
    """Return the names of the notebooks."""
    order = ["quickstart", "equations", "nested_inputs", "irregular_time"]
    found = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
    return sorted(found, key=lambda name: order.index(name) if name in order else len(order))


def read(name: str) -> dict[str, Any]:
    """Return a notebook."""
    return json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))


def source(cell: dict[str, Any]) -> str:
    """Return the text of a cell."""
    return "".join(cell["source"])


def run(name: str) -> tuple[list[str], dict[str, Any]]:
    """Run the code of a notebook in this process.

    Lines that a notebook's server would act on, such as ``%pip``, are left out.

    Args:
        name: Of the notebook.

    Returns:
        What each cell printed, and the names that they made.
    """
    printed, made = [], {"__name__": f"notebook_{name}"}
    for place, cell in enumerate(read(name)["cells"]):
        if cell["cell_type"] != "code":
            continue
        lines = ["" if line.startswith("%") else line for line in source(cell).splitlines()]
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile("\n".join(lines), f"{name}.ipynb, cell {place}", "exec"), made)
        printed.append(out.getvalue())
    return printed, made


def printed(name: str) -> list[str]:
    """Return what the cells of a notebook print, from the cache or from a process of its own."""
    digest = hashlib.sha256((FOLDER / f"{name}.ipynb").read_bytes()).hexdigest()[:16]
    kept = CACHE / f"{name}-{digest}.json"
    if kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    backends = (b for b in ("torch", "tensorflow", "jax") if importlib.util.find_spec(b))
    log.info("Running the notebook %s", name)
    done = subprocess.run(
        [sys.executable, __file__, "run", name],
        env={
            **os.environ,
            "KERAS_BACKEND": next(backends),
            "PYTHONPATH": os.pathsep.join(
                filter(None, (str(ROOT), str(ROOT / "plugins"), os.environ.get("PYTHONPATH", "")))
            ),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"The notebook {name} failed:\n{done.stderr}")
    found = json.loads(done.stdout.splitlines()[-1])
    CACHE.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(found), encoding="utf-8")
    return found


def page(name: str) -> str:
    """Return a notebook as a page in Markdown."""
    parts, outputs = [], iter(printed(name))
    for place, cell in enumerate(read(name)["cells"]):
        text = source(cell)
        if cell["cell_type"] == "markdown":
            parts.append(text)
            if place == 0:
                parts.append(
                    f"[Download the notebook]({name}.ipynb), from `notebooks/` of the repository."
                )
            continue
        parts.append(f"```python\n{text}\n```")
        said = next(outputs).rstrip()
        if said:
            parts.append(f'```text title="prints"\n{said}\n```')
    return "\n\n".join(parts) + "\n"


def title(name: str) -> str:
    """Return the title of a notebook."""
    return source(read(name)["cells"][0]).splitlines()[0].removeprefix("# ")


def on_config(config: Any) -> Any:
    """Put the pages into the navigation."""
    for group in config.nav:
        for entries in group.values():
            for entry in entries if isinstance(entries, list) else ():
                if isinstance(entry, dict) and WHERE in entry:
                    entry[WHERE] = [{title(name): f"notebooks/{name}.md"} for name in names()]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages, and the notebooks themselves."""
    from mkdocs.structure.files import File

    for name in names():
        path = f"notebooks/{name}"
        files.append(File.generated(config, f"{path}.md", content=page(name)))
        there = FOLDER / f"{name}.ipynb"
        files.append(File.generated(config, f"{path}.ipynb", abs_src_path=str(there)))
    return files


def strip(check: bool) -> int:
    """Take outputs and counts out of all notebooks, or find those that have any."""
    bad = []
    for name in names():
        notebook = read(name)
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                cell |= {"execution_count": None, "outputs": []}
            cell["metadata"] = {}
        text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
        path = FOLDER / f"{name}.ipynb"
        if json.loads(text) != read(name):
            bad.append(name)
            if not check:
                path.write_text(text, encoding="utf-8")
    print(f"{'Not stripped' if check else 'Stripped'}: {', '.join(bad) or 'none'}")
    return int(check and bool(bad))


def main() -> int:
    """Run or strip."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run").add_argument("name", choices=names())
    commands.add_parser("strip").add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.command == "strip":
        return strip(options.check)
    print("\n" + json.dumps(run(options.name)[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
