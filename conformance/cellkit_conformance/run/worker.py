"""The worker: one process with one backend, which answers requests line by line.

A request is a JSON object on what was standard input when the process started, an answer a JSON
object on what was standard output. Everything that a cell or a library prints goes to standard
error, and there is nothing for it to read, so that no print and no `input()` can break the
protocol. The parent reads both, and kills a worker that is silent for too long.
"""

from __future__ import annotations

import contextlib
import faulthandler
import inspect
import json
import os
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from cellkit_conformance import edition
from cellkit_conformance.edition.profiles import PROFILES
from cellkit_conformance.outcome import describe_error, shorten, text_of, trace_of
from cellkit_conformance.places import backend_of, device_of, devices, on
from cellkit_conformance.run.lifeline import end_with_parent
from cellkit_conformance.run.startup import cheap_flags, import_keras, uncollected
from cellkit_conformance.subject import targets
from cellkit_conformance.subject.targets import Found


def main() -> int:
    """Serve requests until the input ends.

    Returns:
        The exit code of the process.
    """
    end_with_parent()
    requests, channel, errors = _take_streams()
    _be_ended_first()
    options = json.loads(sys.argv[1])
    faulthandler.enable(errors)
    try:
        with uncollected():
            server = Server(options)
    except BaseException as error:  # noqa: BLE001 (the parent has to learn of it, whatever it is)
        reason = shorten(f"{type(error).__name__}: {text_of(error)}")
        _send(channel, {"event": "failed", "reason": reason})
        traceback.print_exc(file=errors)
        return 1
    _send(channel, {"event": "ready", **server.versions()})
    with on(server.device):
        _serve(server, requests, channel, errors)
    return 0


def _serve(server: Server, requests: TextIO, channel: TextIO, errors: TextIO) -> None:
    """Answer requests until there are none."""
    folder, me = Path.cwd(), os.getpid()
    for line in requests:
        request = json.loads(line)
        # A little before the parent gives up, say where the process hangs.
        limit = max(1.0, request["timeout"] * 0.9)
        faulthandler.dump_traceback_later(limit, exit=False, file=errors)
        answer = server.answer(request)
        if os.getpid() != me:  # a cell has forked: the parent talks to one process alone
            os._exit(0)
        _send(channel, answer)
        faulthandler.cancel_dump_traceback_later()
        os.chdir(folder)  # a cell may have gone elsewhere


def _take_streams() -> tuple[TextIO, TextIO, TextIO]:
    """Keep the streams to the parent, whatever anybody does to those of the process.

    Returns:
        Where requests come from, where answers go, and where errors are told.
    """
    requests = os.fdopen(os.dup(0), "r", encoding="utf-8")
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    errors = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace", buffering=1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, channel, errors


def _be_ended_first() -> None:
    """Let Linux end this process first where memory runs out, and not the parent."""
    with contextlib.suppress(OSError):  # there is no such file elsewhere
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _send(channel: TextIO, answer: dict[str, Any]) -> None:
    channel.write(json.dumps(answer) + "\n")
    channel.flush()


class Server:
    """Answers requests about cells; imports the backend when it is made.

    Args:
        options: "place" (see `places`), "profile", "seed", "layer" (see `find_layer`),
            "exchange", a folder that the workers of a run share, and where they are not the usual
            ones "spec", a file with the spec of the cell, and "edition".

    Raises:
        ImportError: The backend is not installed.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self.place = options["place"]
        self.backend, self.device = backend_of(self.place), device_of(self.place)
        self.profile = PROFILES[options["profile"]]
        import_keras(self.backend)
        import keras

        from cellkit_conformance import checks
        from cellkit_conformance.run import interference

        if keras.backend.backend() != self.backend:
            raise RuntimeError(f"Keras runs on {keras.backend.backend()}, not on {self.backend}")
        divide_processor(self.backend)
        if self.profile.name != "thorough":
            compile_cheaply(self.backend)
        edition.use(options.get("edition") or edition.edition_name())
        self.seed = options["seed"]
        self.spec = options.get("spec")
        self.exchange = options.get("exchange")
        self.layer = find_layer(options["layer"])
        self.judges: dict[str, Any] = {}
        self.found: dict[str, Found] = {}
        checks.load()  # so that the first cell does not wait for what every cell needs
        self.shared = interference.take(self.backend)

    def versions(self) -> dict[str, Any]:
        """Say what runs here, for the report."""
        import keras
        import numpy

        module = __import__(self.backend)
        return {
            "versions": {
                "keras": keras.__version__,
                self.backend: module.__version__,
                "numpy": numpy.__version__,
                "python": sys.version.split()[0],
            },
            "devices": devices(),
        }

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one request.

        Args:
            request: "op" is "find", "describe", "check", "trouble", "leave" or "golden"; "target"
                names the cell; "id" the requirement.
        """
        try:
            if request["op"] == "golden":
                return self._golden(request)
            if request["op"] == "leave":
                return {"event": "left", "changes": self._changes()}
            if request["op"] == "find":
                self._find(request["target"])
                return {"event": "found"}
            judge = self._judge(request["target"])
            if request["op"] == "describe":
                judge.target.try_to_make()
                spec = judge.target.spec
                return {
                    "event": "described",
                    "traits": sorted(judge.target.traits),
                    "claims": [] if spec is None else sorted(spec.traits),
                    "cases": list(judge.target.cases),
                    "notes": list(judge.target.notes),
                    "source": source_of(judge.target.cls),
                }
            if request["op"] == "trouble":
                found = judge.trouble()
                return {"event": "trouble", "found": None if found is None else asdict(found)}
            return {"event": "result", "result": judge.run(request["id"]).to_json()}
        except BaseException as error:  # noqa: BLE001 (an answer is owed, whatever happened)
            said = text_of(error)
            # What the suite itself says about a cell needs no name of a class in front.
            own = isinstance(error, ValueError) and "Received:" in said
            return {
                "event": "error",
                "reason": shorten(said if own else describe_error(error)),
                "trace": shorten(trace_of(error)),
            }

    def _changes(self) -> list[str]:
        """Say what the cell has done to what other cells share with it."""
        from cellkit_conformance.run import interference

        changes = interference.changes(self.shared, interference.take(self.backend))
        self.judges.clear()
        return changes

    def _golden(self, request: dict[str, Any]) -> dict[str, Any]:
        from cellkit_conformance.golden.compare import compare_entry, to_answer

        return to_answer(
            compare_entry(Path(request["folder"]), request["entry"], request["limits"])
        )

    def _judge(self, name: str) -> Any:
        from cellkit_conformance.judge import Judge

        if name not in self.judges:
            self.judges.clear()  # cells come one after another: what the last one compiled can go
            self.judges[name] = Judge(
                targets.describe_found(self._find(name)),
                self.place,
                self.profile,
                self.seed,
                self.layer,
                exchange=self.exchange,
            )
        return self.judges[name]

    def _find(self, name: str) -> Found:
        """Import a cell, and keep TensorFlow out of the processes of the other backends.

        Keras imports TensorFlow, wherever it is installed, to serialise its first config: three
        seconds and 400 MB that a torch or JAX user without TensorFlow does not spend. A cell's own
        module may import it.
        """
        if name not in self.found:
            if sys.modules.get("tensorflow", True) is None:
                del sys.modules["tensorflow"]
            self.found[name] = targets.find(name, self.spec)
            if self.backend != "tensorflow":
                sys.modules.setdefault("tensorflow", None)  # type: ignore[arg-type]
        return self.found[name]


def source_of(cls: Any) -> str:
    """Find the file and the line of a class.

    Args:
        cls: The class.

    Returns:
        "file:line", or "" of a class that was made of text.
    """
    try:
        return f"{inspect.getsourcefile(cls)}:{inspect.getsourcelines(cls)[1]}"
    except (OSError, TypeError):
        return ""


def divide_processor(backend: str) -> None:
    """Make two logical processors of one, so that placement can be checked on any machine.

    JAX is told by an environment variable, see `process.QUIET`; PyTorch has no such thing.
    """
    if backend != "tensorflow":
        return
    import tensorflow as tf

    processors = tf.config.list_physical_devices("CPU")
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(processors[0], two)


def compile_cheaply(backend: str) -> None:
    """Switch most of XLA's optimisations off on JAX, where checks compile much and compute little.

    It saves more than half of the time. The thorough profile runs what users run. To be called
    before anything runs on JAX, which reads its flags once.
    """
    if backend == "jax":
        import jax

        jax.config.update("jax_disable_most_optimizations", True)
        os.environ["XLA_FLAGS"] = cheap_flags()


def find_layer(name: str) -> Any:
    """Find the layer under test.

    Args:
        name: "cellkit", "keras", or `module:Class`.
    """
    if name == "cellkit":
        import cellkit

        return cellkit.RNN
    if name == "keras":
        import keras

        return keras.layers.RNN
    from cellkit_conformance.subject.targets import load

    return load(name)[0]


if __name__ == "__main__":
    sys.exit(main())
