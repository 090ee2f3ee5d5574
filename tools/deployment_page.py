"""Write the tables of docs/deployment.md from what `make test-export RECORD=1` has written down.

python tools/deployment_page.py            # writes the tables
python tools/deployment_page.py --check    # exit code 1 if they are not what it would write
"""

from __future__ import annotations

import argparse
import collections
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "deployment.md"
RESULTS = ROOT / "tests" / "export" / "results"
PLACE = re.compile(
    r"(<!-- exports: written by tools/deployment_page.py -->\n).*?(<!-- exports: end -->)",
    re.DOTALL,
)
BACKENDS = {"tensorflow": "TensorFlow", "torch": "PyTorch", "jax": "JAX"}
EQUAL, REFUSED, FAILS = "equal", "refused beforehand", "fails"

# By format and backend: its name, the line that writes it, and the line that runs it.
_ONNX = 'y = onnxruntime.InferenceSession("model.onnx").run(None, {"x": x})'
_OPENVINO = 'y = openvino.Core().compile_model("model.xml", "CPU")([x])'
_SAVED = 'y = tf.saved_model.load("folder").serve(x)'
ROWS = {
    ("saved_model", "tensorflow"): ("SavedModel", 'model.export("folder")', _SAVED),
    ("onnx", "tensorflow"): ("ONNX", 'model.export("model.onnx", format="onnx")', _ONNX),
    ("litert", "tensorflow"): (
        "LiteRT",
        'model.export(\n    "model.tflite",\n    format="litert",\n'
        "    input_signature=[tf.TensorSpec((1, 50, 3))],\n"
        '    target_spec={"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]},\n)',
        'runner = Interpreter("model.tflite").get_signature_runner()\ny = runner(x=x)',
    ),
    ("openvino", "tensorflow"): (
        "OpenVINO",
        'model.export("model.xml", format="openvino")',
        'y = openvino.Core().compile_model("model.xml", "CPU")([x])["Identity:0"]',
    ),
    ("pt2", "torch"): (
        "torch.export",
        'model.export("model.pt2", format="torch")',
        'y = torch.export.load("model.pt2").module()(x)',
    ),
    ("onnx", "torch"): ("ONNX", 'model.export("model.onnx", format="onnx")', _ONNX),
    ("torchscript", "torch"): (
        "TorchScript",
        'torch.jit.trace(model.eval(), x, strict=False).save("model.pt")',
        'y = torch.jit.load("model.pt")(x)',
    ),
    ("openvino", "torch"): (
        "OpenVINO",
        'model.export("model.xml", format="openvino")',
        _OPENVINO,
    ),
    ("stablehlo", "jax"): (
        "jax.export",
        'open("model.bin", "wb").write(export.export(jax.jit(model))(spec).serialize())',
        'y = export.deserialize(open("model.bin", "rb").read()).call(x)',
    ),
    ("saved_model", "jax"): ("SavedModel", 'model.export("folder")', _SAVED),
    ("onnx", "jax"): ("ONNX", 'model.export("model.onnx", format="onnx")', _ONNX),
    ("openvino", "jax"): (
        "OpenVINO",
        'model.export("model.onnx", format="onnx")',
        'y = openvino.Core().compile_model("model.onnx", "CPU")([x])',
    ),
}


def results() -> dict[str, Any]:
    """Return what was written down, by backend."""
    found = {}
    for backend in BACKENDS:
        path = RESULTS / f"{backend}.json"
        if path.exists():
            found[backend] = json.loads(path.read_text(encoding="utf-8"))
    return found


def tables(found: dict[str, Any]) -> str:
    """Return the tables."""
    lines = [
        "| From | To | With | Cells | Equal | Refused, with what to do | Limits of libraries |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    limits: dict[str, set[str]] = collections.defaultdict(set)
    for (form, backend), (name, *_) in ROWS.items():
        cases = collections.defaultdict(list)
        for key, outcome in found.get(backend, {}).get("outcomes", {}).items():
            of, variant, engine, cell = key.split("/")
            if of == form:
                cases[variant].append((cell, engine, outcome))
        for variant, entries in sorted(cases.items()):
            counts = collections.Counter(_kind(outcome) for _, _, outcome in entries)
            cells = len({cell for cell, _, _ in entries})
            row = [BACKENDS[backend], name, _WITH[variant], str(cells)]
            row += [str(counts[kind]) for kind in (EQUAL, REFUSED, "limit")]
            lines.append("| " + " | ".join(row) + " |")
            for cell, _, outcome in entries:
                if _kind(outcome) == "limit":
                    limits[f"{BACKENDS[backend]} to {name}: {outcome}"].add(cell)
    for text, cells in sorted(limits.items()):
        lines += ["", f"- {text}: " + ", ".join(f"`{c}`" for c in sorted(cells)) + "."]
    lines += ["", *_files_of_litert(found)]
    lines += ["What writes a file, and what runs it:", ""]
    for (_, backend), (name, write, run) in ROWS.items():
        lines += [f"{BACKENDS[backend]}, {name}:", "", "```python", write, run, "```", ""]
    for backend, entry in found.items():
        versions = ", ".join(f"{k} {v}" for k, v in entry["versions"].items())
        lines.append(f"- {BACKENDS[backend]}, {entry['date']}: {versions}.")
    return "\n".join([*lines, ""])


def _files_of_litert(found: dict[str, Any]) -> list[str]:
    """Return the table of LiteRT's files, folded."""
    files = {}
    for key, file in found.get("tensorflow", {}).get("files", {}).items():
        _, _, engine, cell = key.split("/")
        # The small file stands for a cell: that of the loop, where there are two.
        if engine == "loop" or (engine == "auto" and cell not in files):
            files[cell] = engine, file
    if not files:
        return []
    rows = []
    for cell, (engine, file) in sorted(files.items()):
        counts = dict(entry.rsplit(" ", 1) for entry in file["operations"].split(", "))
        named = ", ".join(f"`{name}`" + f" {n}" * (n != "1") for name, n in counts.items())
        total, form = sum(map(int, counts.values())), "loop" if engine == "loop" else ""
        size = f"{file['bytes'] / 1024:.1f}"
        rows.append(f"| `{cell}` | {form} | {size} | {total} | {named} |")
    sizes = sorted(file["bytes"] / 1024 for _, file in files.values())
    middle = sizes[len(sizes) // 2]
    return [
        "LiteRT's files hold nothing but its own operations, for each of these "
        f"{len(files)} cells. With few units, a file has from {sizes[0]:.0f} to {sizes[-1]:.0f} "
        f"KiB, half of them less than {middle:.0f}: most of it is the graph, which more units "
        "leave as it is.",
        "",
        '??? note "Size and operations of each file"',
        "    *Set to* `loop` are cells whose engine was set to the plain loop. Every file is of a",
        "    layer with a mask, 3 rows and 7 steps; operations inside of the loop count as well.",
        "",
        "    | Cell | Set to | KiB | Operations | Which ones |",
        "    | --- | --- | ---: | ---: | --- |",
        *(f"    {row}" for row in rows),
        "",
    ]


_WITH = {
    "free": "any batch, any length",
    "free batch": "any batch, a fixed length",
    "free time": "a fixed batch, any length",
    "fixed": "both fixed",
}


def _kind(outcome: str) -> str:
    return outcome if outcome in (EQUAL, REFUSED, FAILS) else "limit"


def main() -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    found, page = results(), PAGE.read_text(encoding="utf-8")
    failed = [
        f"{backend}: {key}"
        for backend, entry in found.items()
        for key, outcome in entry["outcomes"].items()
        if outcome == FAILS
    ]
    if failed:
        print("The page cannot say that these work:", *failed, sep="\n  ")
        return 1
    new = PLACE.sub(lambda m: m[1] + "\n" + tables(found) + "\n" + m[2], page)
    if check:
        same = new == page
        print("docs/deployment.md", "says" if same else "does not say", "what the results say")
        return 0 if same else 1
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
