"""The process behind a mount: its start, its signals, its end, and its log.

:func:`launch` starts it in the background and returns when the tree is ready; :func:`run` is the process itself.
``launch`` must be called before any thread was started, as it forks. Whatever ends the process ends the mount: cleanly on
SIGTERM, SIGINT and ``unmount``; after SIGKILL or a crash the mount point is dead until the next ``mount`` clears it. The process
never touches a file below its own mount: a process that waits for itself cannot be killed.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import select
import signal
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

import msgspec

from artifactfs.errors import ArtifactFSError, Unavailable, translate_os
from artifactfs.mount import attach, control
from artifactfs.mount.service import Plan, Service, Started

READY_SECONDS: Final = 30.0  # and what a request of the repository may take
STOP_SECONDS: Final = 10.0  # for a clean unmount and the end of running commands; then lazily and anyway
LOG: Final = "daemon.log"
LOG_BYTES: Final = 4 << 20  # then it becomes daemon.log.1, so that the log takes 8 MiB at most
_LOG_CHECK_SECONDS: Final = 60.0

_log = logging.getLogger(__name__)


def launch(plan: Plan) -> Started:
    """Start the process in the background; returns when its tree can be listed. Raises what kept it from starting."""
    seconds = READY_SECONDS + plan.seconds
    log = _open_log(Path(plan.workspace))
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _background(plan, writer, log)
    os.close(writer)
    os.close(log)
    try:
        word = _first_word(reader, time.monotonic() + seconds)
    finally:
        os.close(reader)
    log_path = Path(plan.workspace) / LOG
    if word is None:
        _end(child)
        raise Unavailable(f"{plan.mountpoint} was not ready after {seconds:.0f} s; see {log_path}")
    if "error" in word:
        os.waitpid(child, 0)
        raise control.error_of(word["error"])
    if "ready" not in word:
        os.waitpid(child, 0)
        raise Unavailable(f"the process of the mount ended while it started; see {log_path}")
    if not attach.bounded(seconds, lambda: list(Path(plan.mountpoint).iterdir())):
        raise Unavailable(f"{plan.mountpoint} is mounted but does not answer; see {log_path}")
    return msgspec.convert(word["ready"], Started)


def run(plan: Plan, ready: Callable[[Started], None]) -> None:
    """Mount, call ``ready``, and serve until the mount ends. On the main thread, which then answers signals."""
    stopping = Stopping()
    with Service(plan) as service:
        thread = threading.Thread(target=_serve, args=(service, stopping), name="serve", daemon=True)
        with stopping.installed():
            service.mount()
            try:
                thread.start()
                gc.collect()
                gc.freeze()  # what lives now lives as long as the mount: no collection need look at it again
                ready(Started(os.getpid(), service.created))
                _log.info("mounted %s on %s (project %s)", plan.repository, plan.mountpoint, plan.project)
                while not stopping.event.wait(_LOG_CHECK_SECONDS):
                    _rotate(Path(plan.workspace))
                    service.tend()
            finally:
                service.unmount()
            thread.join(STOP_SECONDS)
    _log.info("unmounted %s", plan.mountpoint)


class Stopping:
    """The wish to end, from a signal or from the end of serving."""

    def __init__(self) -> None:
        self.event = threading.Event()

    @contextlib.contextmanager
    def installed(self) -> Any:
        """SIGTERM and SIGINT set the event; SIGHUP is ignored: a closed terminal does not end a mount."""
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
        signal.signal(signal.SIGTERM, self._signalled)
        signal.signal(signal.SIGINT, self._signalled)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        del frame
        _log.info("%s: unmounting", signal.Signals(number).name)
        self.event.set()


def _serve(service: Any, stopping: Stopping) -> None:
    try:
        service.serve()
    except Exception:
        # The thread's end must end the process, with the reason in the log.
        _log.exception("serving failed")
    finally:
        stopping.event.set()


def _background(plan: Plan, writer: int, log: int) -> NoReturn:
    """The forked child: leave terminal, descriptors and directory behind, run, and never return."""
    status = 1
    try:
        os.setsid()
        os.chdir("/")
        os.umask(0o077)
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(descriptor, target)
        # Whatever the shell handed down (a lock, the end of a pipe) must not live as long as the mount.
        inherited = [int(link.name) for link in Path("/proc/self/fd").iterdir()]
        for descriptor in inherited:
            if descriptor > 2 and descriptor != writer:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        Path("/proc/self/comm").write_text("artifactfs", encoding="ascii")
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        told = False

        def ready(started: Started) -> None:
            nonlocal told
            _tell(writer, {"ready": msgspec.to_builtins(started)})
            told = True

        try:
            run(plan, ready)
            status = 0
        except ArtifactFSError as error:
            _log.error("%s", error)
            if not told:
                _tell(writer, {"error": {"code": error.code, "message": str(error)}})
    except BaseException as error:
        # The last border of the child: the reason goes to the log, and the parent is told where to look.
        _log.exception("the mount failed")
        with contextlib.suppress(OSError):
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            message = f"cannot mount {plan.mountpoint}: {what}; see {Path(plan.workspace) / LOG}"
            _tell(writer, {"error": {"code": "error", "message": message}})
    finally:
        logging.shutdown()
        # Threads may still wait for a slow store; nothing is lost with them, as staging and commits are durable when acknowledged.
        os._exit(status)


def _tell(writer: int, word: dict[str, Any]) -> None:
    os.write(writer, json.dumps(word).encode() + b"\n")
    os.close(writer)


def _first_word(reader: int, deadline: float) -> dict[str, Any] | None:
    """The child's line; ``{}`` when it ended without one, None when the time is up."""
    received = bytearray()
    while not received.endswith(b"\n"):
        readable, _, _ = select.select([reader], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            return None
        part = os.read(reader, 65536)
        if not part:
            return {}
        received += part
    word: dict[str, Any] = json.loads(received)
    return word


def _end(child: int) -> None:
    """Stop a child that does not come up: politely, then not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        os.kill(child, number)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            if os.waitpid(child, os.WNOHANG)[0]:
                return
            time.sleep(0.05)


def make_mountpoint(path: str) -> bool:
    """Make the directory when it is missing and its parent is there; True when it was made."""
    try:
        if stat.S_ISDIR(Path(path).stat().st_mode):
            return False
    except FileNotFoundError:
        pass
    except OSError as error:
        raise translate_os(error, f"cannot examine {path}") from error
    else:
        return False  # no directory: attach says so
    try:
        Path(path).mkdir(0o755)
    except FileExistsError:
        return False
    except OSError as error:
        raise translate_os(error, f"cannot make the mount point {path}") from error
    return True


def _open_log(workspace: Path) -> int:
    try:
        workspace.mkdir(parents=True, exist_ok=True, mode=0o700)
        _rotate_file(workspace)
        return os.open(workspace / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise translate_os(error, f"cannot write to the workspace {workspace}") from error


def _rotate(workspace: Path) -> None:
    """Start a new log file when the present one is long: only in the background, where stderr is the log."""
    path = workspace / LOG
    with contextlib.suppress(OSError):
        if not os.path.samestat(os.fstat(2), path.stat()) or not _rotate_file(workspace):
            return
        fresh = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.dup2(fresh, 1)
        os.dup2(fresh, 2)
        os.close(fresh)


def _rotate_file(workspace: Path) -> bool:
    path = workspace / LOG
    try:
        long = path.stat().st_size > LOG_BYTES
    except FileNotFoundError:
        return False
    if long:
        path.replace(path.with_name(f"{LOG}.1"))
    return long
