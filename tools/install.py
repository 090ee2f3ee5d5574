"""Make the virtual environment that the Makefile works in.

Run by ``make`` whenever pyproject.toml or constraints.txt are newer than the environment. Plain
standard library, and readable by old Pythons, so that the wrong Python gets a sentence instead of a
syntax error.
"""

import os
import subprocess
import sys
import time

OLDEST = (3, 11)
FORMER = "cellkit"
# TensorFlow without GPU support is a smaller distribution of its own; macOS has only the plain one.
TENSORFLOW = "tensorflow" if sys.platform == "darwin" else "tensorflow-cpu"
STEPS = [
    ("PyTorch", ["torch"]),
    ("JAX", ["jax"]),
    ("TensorFlow", [TENSORFLOW]),
    ("cellkit, Keras and the tools", ["--editable", ".[conformance,examples,docs,dev]"]),
]


def main(folder):
    """Create the environment in ``folder`` and install everything into it."""
    if sys.version_info < OLDEST:
        sys.exit(
            "cellkit needs Python {}.{} or newer, and {} is Python {}.{}.\n"
            "Say which Python to use, for example: make test PYTHON=python3.12".format(
                *(OLDEST + (sys.executable,) + tuple(sys.version_info[:2]))
            )
        )
    print(f"Setting up {folder} (Keras, its three backends, the tools; once)", flush=True)
    begin = time.time()
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = os.path.join(folder, "bin", "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += ["--constraint", "constraints.txt"]
    remove_former_name(python)
    for number, (what, packages) in enumerate(STEPS, start=1):
        print(f"  {number}/{len(STEPS)} {what} ...", end="", flush=True)
        start = time.time()
        done = subprocess.run(pip + packages)
        if done.returncode:
            sys.exit(
                "\nInstalling {} failed (pip says why above). To see more:\n  {}".format(
                    what, " ".join(pip + packages).replace("--quiet", "--verbose")
                )
            )
        print(f" {time.time() - start:.0f} s", flush=True)
    print(f"  ready after {time.time() - begin:.0f} s", flush=True)


def remove_former_name(python):
    """Uninstall an installation under the name that the distribution had first."""
    show = [python, "-m", "pip", "--disable-pip-version-check", "show", "--quiet", FORMER]
    if subprocess.run(show, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
        subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", FORMER], check=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else ".venv")
