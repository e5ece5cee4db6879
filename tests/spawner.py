"""Commands that take a fifth of the time: forked from a process that has imported the program already.

The suite runs some 5,000 commands to their end. Their imports were a third of the processor time that it took: `ls` takes 0.06 s
instead of 0.29 s. So a worker of pytest has one process, its spawner, that imports once and forks for each command.
What a command sees is as ever: a process of its own, with its own arguments, environment, directory and streams, that runs
``python -m artifactfs`` from its first line, and whatever it leaves behind is its own. What differs:

- ``/proc/PID/environ`` and ``/proc/PID/cmdline`` show the spawner's. By them processes are found to belong to a Run; so ``run`` and
  all in a Run are started the long way, as is ``serve``, and everything that a test or a document starts itself: above all what is
  killed.
- Modules are there that a command would not have imported. What commands import is asserted by tests that start the long way.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from artifactfs.cli.imports import import_at_once
from artifactfs.model.lineage import RUN_VARIABLE

ROOT: Final = str(Path(__file__).parents[1])
# What nearly every command imports at some time. Nothing that starts a thread, and none of the extras.
MODULES: Final = (
    *(f"artifactfs.cli.{path.stem}" for path in sorted(Path(ROOT, "artifactfs/cli").glob("[a-z]*.py"))),
    "artifactfs.directory",
    "artifactfs.mount.daemon",
    "artifactfs.remote.client",
    "artifactfs.transfer",
)  # fmt: skip
LONG_WAY: Final = frozenset({"run", "serve"})
START_SECONDS: Final = 60
MESSAGE_BYTES: Final = 1 << 20


class Spawner:
    """The process that forks, from outside. Starts with the first command; may be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def can(self, words: Sequence[str], env: Mapping[str, str]) -> bool:
        """Whether a command may start this way: by itself, in an environment that says nothing else to Python or the C library."""
        if RUN_VARIABLE in env or not LONG_WAY.isdisjoint(words):
            return False
        return _of_the_start(env) == _of_the_start({**os.environ, "PYTHONPATH": ROOT})

    def run(
        self, words: Sequence[str], *, cwd: Path, env: Mapping[str, str], seconds: float
    ) -> tuple[int, bytes, bytes]:
        """Exit status (negative: the signal that ended it), stdout and stderr of a command.

        Raises subprocess.TimeoutExpired after ``seconds`` that it did not end or somebody held its streams; it is killed then.
        """
        with contextlib.ExitStack() as stack:
            outcome, theirs = (
                stack.enter_context(each) for each in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            )
            pipes = [os.pipe(), os.pipe()]
            reads = [stack.enter_context(os.fdopen(read, "rb", 0)) for read, _ in pipes]
            message = json.dumps({"words": list(words), "cwd": str(cwd), "env": dict(env)}).encode()
            try:
                with self._lock:
                    handed = [theirs.fileno(), *(write for _, write in pipes)]
                    socket.send_fds(self._started(), [message], handed)
            finally:
                for _, write in pipes:
                    os.close(write)
                theirs.close()
            outcome.settimeout(START_SECONDS)
            pid = outcome.recv(MESSAGE_BYTES)
            said = {each.fileno(): bytearray() for each in (*reads, outcome)}
            complete = _read(said, time.monotonic() + seconds)
            output, errors = (bytes(said[each.fileno()]) for each in reads)
            status = said[outcome.fileno()]
            if not complete:
                if not status:
                    with contextlib.suppress(ProcessLookupError):  # it may end just now
                        os.kill(int(pid), signal.SIGKILL)
                raise subprocess.TimeoutExpired(list(words), seconds, output, errors)
            if not status:
                raise RuntimeError("the spawner ended before the command did")
            return int(status), output, errors

    def _started(self) -> socket.socket:
        if self._socket is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                process = subprocess.Popen(
                    [sys.executable, "-m", "tests.spawner", str(theirs.fileno())],
                    cwd=ROOT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                )  # fmt: skip
            ours.settimeout(START_SECONDS)
            if ours.recv(16) != b"ready":
                raise RuntimeError(f"the spawner did not start; it ended with status {process.wait()}")
            self._socket = ours
            atexit.register(self._end, process)
        return self._socket

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        assert self._socket is not None
        self._socket.close()
        process.wait(START_SECONDS)


def _of_the_start(env: Mapping[str, str]) -> dict[str, str]:
    """The variables that a process reads before it runs a line of the program."""
    return {key: value for key, value in env.items() if key.startswith(("PYTHON", "LC_", "LD_", "LANG", "MALLOC_"))}


def _read(said: dict[int, bytearray], deadline: float) -> bool:
    """Read descriptors to their ends; whether all came to it in time."""
    poll = select.poll()
    for descriptor in said:
        poll.register(descriptor, select.POLLIN)
    left = len(said)
    while left:
        ready = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        if not ready:
            return False
        for descriptor, _ in ready:
            part = os.read(descriptor, 1 << 16)
            said[descriptor] += part
            if not part:
                poll.unregister(descriptor)
                left -= 1
    return True


def serve(requests: socket.socket) -> tuple[list[str], list[int]]:
    """In the spawner: fork for each request until nobody can make one. Returns in the children alone: words and their streams."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends pytest, and that ends this
    for name in MODULES:
        import_at_once(name)
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        raise RuntimeError(f"{threads} threads: a fork would lose the others, and what they hold stayed locked")
    requests.send(b"ready")
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    running: dict[int, tuple[int, socket.socket]] = {}  # the process and who waits for it, by pidfd
    while True:
        for descriptor, _ in poll.poll():
            if descriptor != requests.fileno():
                poll.unregister(descriptor)
                pid, waiting = running.pop(descriptor)
                _, status = os.waitpid(pid, 0)
                with waiting, contextlib.suppress(BrokenPipeError):
                    waiting.send(f"{os.waitstatus_to_exitcode(status)}".encode())
                os.close(descriptor)
                continue
            message, handed, _, _ = socket.recv_fds(requests, MESSAGE_BYTES, 3)
            if not message:
                os._exit(0)
            request = json.loads(message)
            waiting = socket.socket(fileno=handed[0])
            child = os.fork()
            if child == 0:
                for watch in running:
                    os.close(watch)
                for other in (requests, waiting, *(each for _, each in running.values())):
                    other.close()
                signal.signal(signal.SIGINT, signal.default_int_handler)
                os.environ.clear()
                os.environ.update(request["env"])
                time.tzset()
                os.chdir(request["cwd"])
                return request["words"], handed[1:]
            with contextlib.suppress(BrokenPipeError):  # who asked waits no more
                waiting.send(f"{child}".encode())
            for each in handed[1:]:
                os.close(each)
            watch = os.pidfd_open(child)
            running[watch] = (child, waiting)
            poll.register(watch, select.POLLIN)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as spoken:
        arguments, streams = serve(spoken)
    for stream, standard in zip(streams, (1, 2), strict=True):
        os.dup2(stream, standard)
        os.close(stream)
    # Those of the spawner remember what they stood for, down to whether it can seek.
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.argv[1:] = arguments
    runpy.run_module("artifactfs", run_name="__main__", alter_sys=True)
