"""Supervision: a command that runs as if it had been started directly, while this process stands behind it.

Used by `artifactfs run`. Standard streams, terminal, working directory and process group are the command's own, so that Ctrl-C,
Ctrl-Z, pipes and job control work. Signals are passed on; when the command stops, so does this process; processes that it leaves
behind become children of this one (a child subreaper, prctl(2)), and are reaped.

A :class:`Supervisor` belongs to the main thread, and is entered before other threads are started: they take over its signal mask.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from threading import Lock, Thread
from time import monotonic
from types import TracebackType
from typing import Final, Self

from artifactfs.errors import Unavailable

_PR_SET_CHILD_SUBREAPER: Final = 36  # linux/prctl.h
_SI_KERNEL: Final = (
    0x80  # asm-generic/siginfo.h: sent by the kernel, of a terminal to the whole foreground process group
)
_SYNCHRONOUS: Final = {
    # Faults of this process itself, which cannot be waited for; what cannot be blocked; what is about children.
    signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS, signal.SIGABRT, signal.SIGPIPE,
    signal.SIGXCPU, signal.SIGXFSZ, signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGURG,
}  # fmt: skip
IMPATIENT_SECONDS: Final = 1.0
"""After the command's end: a signal that comes earlier was meant for the command."""
_ENDING: Final = {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM}
_IGNORED_BY_PYTHON: Final = (signal.SIGPIPE, signal.SIGXFSZ)


class Supervisor:
    """Runs one command. A context manager; what it changed of this process is put back at its end."""

    def __init__(self) -> None:
        self._command: int | None = None
        self._lock = Lock()  # while it is held, the command's number is nobody else's
        self._ended: tuple[float, int] | None = None  # when, and with which exit status as a shell has it
        self._mask: set[int] = set()

    def __enter__(self) -> Self:
        """Unavailable elsewhere than on Linux, whose calls this is made of."""
        if sys.platform != "linux":
            raise Unavailable("artifactfs run needs Linux; elsewhere use artifactfs.init() in Python")
        _adopt_orphans(True)
        signal.signal(
            signal.SIGCHLD, signal.SIG_DFL
        )  # ignored by some who start programs: then nobody can be waited for
        passed_on = {number for number in signal.valid_signals() if number not in _SYNCHRONOUS}
        self._mask = {int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, passed_on)}
        Thread(target=self._pass_on, args=(passed_on,), name="signals", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _adopt_orphans(False)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def start(self, program: str, words: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start the command; ``program`` is a path. OSError when it cannot be."""
        self._command = os.posix_spawn(
            program, list(words), environment, setsigmask=self._mask, setsigdef=_IGNORED_BY_PYTHON
        )

    def wait(self) -> int:
        """Wait for the command's end, reaping whatever else ends: its exit status, or the negative number of its signal."""
        while True:
            seen = os.waitid(os.P_ALL, 0, os.WEXITED | os.WSTOPPED | os.WNOWAIT)
            if seen is None or seen.si_pid != self._command:
                if seen is not None:
                    os.waitpid(seen.si_pid, os.WNOHANG | os.WUNTRACED)
                continue
            with self._lock:
                pid, status = os.waitpid(seen.si_pid, os.WNOHANG | os.WUNTRACED)
                if pid and not os.WIFSTOPPED(status):
                    self._command = None
                    code = os.waitstatus_to_exitcode(status)
                    self._ended = monotonic(), shown_status(code)
                    return code
            if pid:
                # The shell that waits for this process shall see that the command has stopped; continued, so is the command.
                os.kill(os.getpid(), signal.SIGSTOP)
                self._send(signal.SIGCONT)

    def left_behind(self) -> bool:
        """Whether processes that the command started are still there. Those that have ended are reaped."""
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return False
        return True

    def _pass_on(self, passed_on: set[int]) -> None:
        """Hand signals to the command: those that were sent to this process alone."""
        while True:
            received = signal.sigwaitinfo(passed_on)
            if self._command is not None:
                if received.si_code != _SI_KERNEL or not self._in_our_group():
                    self._send(received.si_signo)
            elif received.si_signo in _ENDING:
                if self._ended is None:
                    os._exit(128 + received.si_signo)
                when, status = self._ended
                if monotonic() - when > IMPATIENT_SECONDS:
                    os._exit(status)  # all that was left was to record the end

    def _in_our_group(self) -> bool:
        """Whether the terminal sends the command what it sends this process."""
        with contextlib.suppress(OSError):
            return self._command is not None and os.getpgid(self._command) == os.getpgrp()
        return False

    def _send(self, number: int) -> None:
        with self._lock, contextlib.suppress(OSError):  # it became another user's
            if self._command is not None:
                os.kill(self._command, number)


def shown_status(code: int) -> int:
    """The exit status by which shells tell how a process ended: 128 and the number of the signal that ended it."""
    return code if code >= 0 else 128 - code


def _adopt_orphans(adopt: bool) -> None:
    """Let this process be the parent of those below it that lose theirs, or no more."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0)
