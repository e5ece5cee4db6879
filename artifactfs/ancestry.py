"""Ancestry: which Run a process belongs to, as the kernel tells it in /proc.

A process belongs to the Run that :data:`RUN_VARIABLE` named in its environment when its program was started; otherwise to that
of its parent, and so on up. The parent of who has lost his own (a daemon that cleared its environment and forked twice) is the
process that adopts orphans: `artifactfs run` does (a child subreaper), and says so to mounts (:meth:`Ancestry.adopt`).

:func:`run_of` answers once, for the commands; :class:`Ancestry` remembers processes, for the mount, whose every open asks. Only
/proc is read, so nothing here waits for a disk or a network. Processes in another PID namespace have no number here (0) and belong
to no Run. Threads: any.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from threading import Lock
from time import monotonic
from typing import Final

from artifactfs.model.lineage import RUN_VARIABLE
from artifactfs.model.names import is_run

GENERATIONS: Final = 128
"""How far up is looked: terminals, shells and build tools make about ten."""
REMEMBERED: Final = 256
"""Processes and threads kept in mind; each holds a descriptor, of the usual 1,024."""
SWEPT: Final = 4
"""Of those kept in mind, how many are looked at when one is added, the longest known first: the ended do not pile up."""
ADOPTED: Final = 1024
"""Adopted processes kept in mind: they are few, and each is there until it ends."""
CERTAIN_SECONDS: Final = 0.1
"""For how long a process is not looked at again: another program of the same name (execve) may have brought another environment."""
_ENVIRONMENT_BYTES: Final = 8 << 20  # more than the kernel takes in an execve
_READ_BYTES: Final = 64 << 10
_NAME_BYTES: Final = 64  # of /proc/PID/comm: 15, a newline, and more for kernel threads
_ASSIGNMENT: Final = f"\0{RUN_VARIABLE}=".encode()


def run_of(pid: int) -> str | None:
    """The Run of a process or thread, by its own environment or that of the nearest ancestor that names one; None without."""
    with contextlib.suppress(OSError):
        for each in _lineage(pid):
            if (run := _named_in_environment(each)) is not None:
                return run
    return None


def descendants(pid: int) -> list[int]:
    """Processes that are children of a process, or theirs, at this moment."""
    children: dict[int, list[int]] = {}
    with os.scandir("/proc") as listing:
        numbers = [int(entry.name) for entry in listing if entry.name.isdigit()]
    for number in numbers:
        with contextlib.suppress(OSError):
            children.setdefault(_parent(number), []).append(number)
    found: list[int] = []
    pending = [pid]
    while pending:
        below = children.pop(pending.pop(), [])
        found += below
        pending += below
    return sorted(found)


class _Known:
    """A process or thread that was looked at: a descriptor that is bound to it, and not to its number."""

    __slots__ = ("comm", "descriptor", "run", "until")

    def __init__(self, pid: int) -> None:
        """ProcessLookupError or FileNotFoundError when there is none."""
        self.descriptor = os.open(f"/proc/{pid}/comm", os.O_RDONLY | os.O_CLOEXEC)
        self.comm = b""
        self.run: str | None = None
        self.until = 0.0

    def alive(self) -> bool:
        """Whether it has not ended. The kernel answers ESRCH for one that has, whoever bears its number now."""
        try:
            os.pread(self.descriptor, _NAME_BYTES, 0)
        except OSError:
            return False
        return True

    def close(self) -> None:
        os.close(self.descriptor)


class Ancestry:
    """Runs of processes, remembered while they live. Who was once found to belong to a Run belongs to one until he ends.

    Invariant *never another's*: an answer that is remembered was read from the very process that asks now: its descriptor still
    answers (pread of ``comm``, 0.6 µs), which it does not for a later process with the same number.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: dict[int, _Known] = {}
        self._adopted: dict[int, _Known] = {}
        self._epoch = 0

    def run_of(self, pid: int) -> str | None:
        """The Run of a process or thread that is alive, as far as the caller knows; None when it is in none. Never raises."""
        with self._lock:
            known = self._known.get(pid)
            if known is not None and known.until > monotonic():
                try:
                    if os.pread(known.descriptor, _NAME_BYTES, 0) == known.comm:
                        return known.run
                except OSError:
                    del self._known[pid]
                    known.close()
        return self._look(pid, GENERATIONS) if pid > 0 else None

    def adopt(self, pid: int, run: str) -> None:
        """Let a process, and who descends from it from now on, belong to a Run until it ends. One that has ended is passed over."""
        try:
            known = _Known(pid)
        except OSError:
            return
        known.run = run
        with self._lock:
            replaced = self._adopted.pop(pid, None)
            self._adopted[pid] = known
            if len(self._adopted) > ADOPTED:
                self._adopted = _without_ended(self._adopted)
            # Whoever was found to be in no Run may be one of its children.
            self._epoch += 1
            for number in [number for number, each in self._known.items() if each.run is None]:
                self._known.pop(number).close()
        if replaced is not None:
            replaced.close()

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            for known in (*self._known.values(), *self._adopted.values()):
                known.close()
            self._known.clear()
            self._adopted.clear()

    def _look(self, pid: int, generations: int) -> str | None:
        """Find out, and remember. The reading is done without the lock: an environment is the memory of a process that may be busy."""
        epoch = self._epoch
        try:
            looked = _Known(pid)
        except OSError:  # it has ended, or there are too many open files: then it is asked by number alone
            return run_of(pid)
        kept = False
        try:
            looked.comm = os.pread(looked.descriptor, _NAME_BYTES, 0)
            looked.run = self._adopting(pid) or _named_in_environment(pid) or self._before(pid)
            if looked.run is None and generations:
                looked.run = self._of_parent(pid, generations - 1)
            looked.until = monotonic() + CERTAIN_SECONDS
            os.pread(looked.descriptor, _NAME_BYTES, 0)  # what was read by number was read of this one
            kept = self._keep(pid, looked, epoch)
        except OSError:
            return None  # it has ended meanwhile
        finally:
            if not kept:
                looked.close()
        return looked.run

    def _of_parent(self, pid: int, generations: int) -> str | None:
        for _ in range(3):
            parent = _parent(pid)
            if not parent:
                return None
            run = self._look_or_know(parent, generations)
            # Still its parent: so that number was its parent's all the while.
            if _parent(pid) == parent:
                return run
        return None

    def _look_or_know(self, pid: int, generations: int) -> str | None:
        with self._lock:
            known = self._known.get(pid)
            if known is not None and known.until > monotonic() and known.alive():
                return known.run
        return self._look(pid, generations)

    def _adopting(self, pid: int) -> str | None:
        with self._lock:
            known = self._adopted.get(pid)
            if known is None:
                return None
            if known.alive():
                return known.run
            del self._adopted[pid]
            known.close()
            return None

    def _before(self, pid: int) -> str | None:
        """What this very process was found to belong to before: its ancestors may have ended since."""
        with self._lock:
            known = self._known.get(pid)
            return known.run if known is not None and known.alive() else None

    def _keep(self, pid: int, looked: _Known, epoch: int) -> bool:
        with self._lock:
            if self._epoch != epoch and looked.run is None:
                return False
            before = self._known.pop(pid, None)
            if before is not None:
                before.close()
            for number in list(itertools.islice(self._known, SWEPT)):
                each = self._known.pop(number)
                if each.alive():
                    self._known[number] = each  # as the latest: the next ones have their turn
                else:
                    each.close()
            self._known[pid] = looked
            if len(self._known) > REMEMBERED:
                self._make_room(pid)
            return True

    def _make_room(self, latest: int) -> None:
        """Forget those that ended; then, down to three quarters, those that are in no Run, and the longest known."""
        self._known = _without_ended(self._known)
        others = [number for number in self._known if number != latest]
        surplus = len(self._known) - REMEMBERED * 3 // 4
        for number in sorted(others, key=lambda number: self._known[number].run is not None)[: max(0, surplus)]:
            self._known.pop(number).close()


def _without_ended(known: dict[int, _Known]) -> dict[int, _Known]:
    living = {}
    for pid, each in known.items():
        if each.alive():
            living[pid] = each
        else:
            each.close()
    return living


def _lineage(pid: int) -> Iterator[int]:
    """A process and its ancestors, the nearest first. OSError when one has ended."""
    for _ in range(GENERATIONS):
        if pid <= 0:
            return
        yield pid
        pid = _parent(pid)


def _parent(pid: int) -> int:
    """The parent of a process (or of a thread's process); 0 without one. OSError when it has ended."""
    with _opened(f"/proc/{pid}/stat") as descriptor:
        # The name in parentheses may hold anything: what follows the last one is numbers.
        return int(os.read(descriptor, 4096).rpartition(b")")[2].split(None, 2)[1])


def _named_in_environment(pid: int) -> str | None:
    """The Run that the environment of a process names; None without, or when it may not be read. OSError when it has ended."""
    data = bytearray(b"\0")
    try:
        with _opened(f"/proc/{pid}/environ") as descriptor:
            while len(data) < _ENVIRONMENT_BYTES and (part := os.read(descriptor, _READ_BYTES)):
                data += part
    except PermissionError:  # another user's, or one that is not to be looked at: then its ancestors tell
        return None
    start = data.find(_ASSIGNMENT)
    if start < 0:
        return None
    start += len(_ASSIGNMENT)
    value = data[start : data.find(b"\0", start)].decode("ascii", errors="replace")
    return value if is_run(value) else None


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
