"""Workers of the conformance suite forked from a process that has imported all that they import.

A worker that is started anew takes seconds for its imports, and then checks a cell or two. Tests of
what a worker answers, and of what becomes of it, take one that is a copy of a process that stands
where every worker stands when its imports are done. It has its own session, streams, environment
and folder, and it runs `cellkit_conformance.run.worker` from the first line on.

Only PyTorch's workers are forked: the other backends have threads by then.
"""

import array
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

BACKEND = "torch"
# What PyTorch's imports don't ask for: it differs from call to call, or TensorFlow has set it.
UNREAD = {"JAX_ENABLE_X64", "PYTEST_CURRENT_TEST", "HDF5_PLUGIN_PATH", "TF2_BEHAVIOR"}
UNREAD |= {"TPU_ML_PLATFORM", "TPU_ML_PLATFORM_VERSION", "ENABLE_RUNTIME_UPTIME_TELEMETRY"}


def environment_read(variables):
    """Return what the imports of a worker may depend on."""
    return {key: value for key, value in variables.items() if key not in UNREAD}


class Nursery:
    """Starts workers as `process.launch` does, and faster where it can.

    Args:
        launch: The function that starts a worker anew.
    """

    def __init__(self, launch):
        self.launch = launch
        self.variables = None
        self._one_opens = threading.Lock()

    def start(self, options, variables):
        """Start a worker: a copy where one with these environment variables would be the same."""
        if json.loads(options)["place"] != BACKEND:
            return self.launch(options, variables)
        read = environment_read(variables)
        with self._one_opens:
            if self.variables is None:
                self._open(variables)
                self.variables = read
        if read != self.variables:
            return self.launch(options, variables)
        return Forked(self._socket, options, variables)

    def _open(self, variables):
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__], env=variables, stdin=theirs, stdout=subprocess.DEVNULL
            )

    def close(self):
        """End the process that is copied."""
        if self.variables is not None:
            self._socket.close()
            self._process.wait()


class Forked:
    """Stands for a process that was forked elsewhere; does what `process.Process` asks of one."""

    def __init__(self, nursery, options, variables):
        ends = [os.pipe() for _ in range(4)]
        (stdin, write), (read, stdout), (read_error, stderr), (self._told, tell) = ends
        theirs = [stdin, stdout, stderr, tell]
        request = {"options": options, "variables": dict(variables), "folder": os.getcwd()}
        try:
            socket.send_fds(nursery, [json.dumps(request).encode()], theirs)
        finally:
            for end in theirs:
                os.close(end)
        self.stdin = os.fdopen(write, "wb")
        self.stdout = os.fdopen(read, "rb")
        self.stderr = os.fdopen(read_error, "rb")
        self.returncode = None
        self.pid = self._number()  # waits for the imports of the first

    def _number(self):
        """Return the next number that the process tells which waits for the worker."""
        told = array.array("q")
        told.frombytes(os.read(self._told, told.itemsize))
        if not told:
            raise RuntimeError("the process of which workers are copies has ended")
        return told[0]

    def poll(self):
        """Return the exit code, or None while the process runs."""
        return self._end(block=False)

    def _end(self, block):
        if self.returncode is None and self._told is not None:
            os.set_blocking(self._told, block)
            try:
                status = self._number()
            except BlockingIOError:
                return None
            self.returncode = os.waitstatus_to_exitcode(status)
            os.close(self._told)
            self._told = None
        return self.returncode

    def wait(self, timeout=None):
        """Wait for the end of the process."""
        end = None if timeout is None else time.monotonic() + timeout
        while self._end(block=timeout is None) is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired("worker", timeout)
            time.sleep(0.005)
        return self.returncode

    def kill(self):
        """Kill the process."""
        os.kill(self.pid, signal.SIGKILL)


def serve():
    """Import what workers import, and fork one for each request; return in those.

    Returns:
        True in a worker, and False when no request will come.
    """
    from cellkit_conformance.run.startup import import_keras, uncollected

    with uncollected():
        import_keras(BACKEND)

        from cellkit_conformance import checks, judge  # noqa: F401
        from cellkit_conformance.run import interference, worker  # noqa: F401

        checks.load()
    requests = socket.socket(fileno=os.dup(0))
    waiting = set()
    while True:
        message, streams, _, _ = socket.recv_fds(requests, 2**20, 4)
        waiting -= {process for process in waiting if os.waitpid(process, os.WNOHANG)[0]}
        if not message:
            for process in waiting:
                os.waitpid(process, 0)
            return False
        waiting.add(os.fork())
        if 0 in waiting:
            requests.close()
            return _wait_or_work(json.loads(message), streams)
        for stream in streams:
            os.close(stream)


def _wait_or_work(request, streams):
    """Fork the worker, and wait for it; return True in the worker."""
    *streams, tell = streams
    worker = os.fork()
    if worker:
        for stream in streams:
            os.close(stream)
        for number in (lambda: worker, lambda: os.waitpid(worker, 0)[1]):
            os.write(tell, array.array("q", [number()]).tobytes())
        os._exit(0)
    os.close(tell)
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request["variables"])
    os.chdir(request["folder"])
    sys.path[0] = request["folder"]
    sys.argv[:] = ["worker", request["options"]]
    return True


if __name__ == "__main__":
    if serve():
        from cellkit_conformance.run.worker import main

        sys.exit(main())
