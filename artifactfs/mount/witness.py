"""Witness: which versions the processes of a Run open through this mount, recorded as inputs of the Run.

The View tells it every open of a file's content, service.py what the control socket asks. An open is never kept waiting and never
fails for it: it costs the question who asks (artifactfs/ancestry.py, about 1 µs) and, once for each Run and version, an entry in a
list that a thread of the witness's own sends to the Registry. While that cannot be reached the list waits, as long as the mount lives.

Threads: any. One lock guards the list and is not held while the Registry is asked.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from threading import Condition, Lock, Thread
from time import monotonic
from typing import TYPE_CHECKING, Final

from artifactfs.ancestry import Ancestry
from artifactfs.errors import ArtifactFSError, Conflict, NotFound, Unavailable

if TYPE_CHECKING:
    from artifactfs.mount.staging import Staging
    from artifactfs.registry.contract import Registry

REMEMBERED_RUNS: Final = 256
"""Runs of which is remembered what was told, so that it is told once."""
RETRY_SECONDS: Final = (1.0, 30.0)
"""Between attempts while the registry cannot be reached: at first, and at most."""
CLOSE_SECONDS: Final = 5.0
"""For what was seen last to be recorded when the mount ends; what cannot be is named in the log."""

Seen = int | tuple[str, int]
"""A version by its id, or by artifact and number: of staging's base no more is known without asking the registry."""

_logger = logging.getLogger(__name__)


class Witness:
    """Watches opens for the Runs of a project."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._ancestry = Ancestry()
        self._condition = Condition(Lock())
        self._seen: dict[str, set[Seen]] = {}
        self._pending: dict[str, set[Seen]] = {}
        self._unknown: set[str] = set()  # Runs of which the log says that they are not of this project
        self._sending: dict[str, set[Seen]] = {}
        self._hurry = False
        self._closed = False
        self._thread: Thread | None = None

    # -- what is seen ----------------------------------------------------------------------------------------------

    def opened(self, pid: int, version: int) -> None:
        """A process has opened content of a version, by the version's id."""
        run = self._ancestry.run_of(pid)
        if run is not None and version not in self._seen.get(run, ()):
            self._note(run, version)

    def opened_base(self, pid: int, node: int, staging: Staging) -> None:
        """A process has opened a file in staging: an input when its content is still that of the version staging is based on."""
        run = self._ancestry.run_of(pid)
        if run is None:
            return
        try:
            base = staging.base_of(node)
        except (ArtifactFSError, OSError):  # removed since
            return
        if base is not None and base not in self._seen.get(run, ()):
            self._note(run, base)

    def run_of(self, pid: int) -> str | None:
        """The Run that a process is in, or None."""
        return self._ancestry.run_of(pid)

    def adopt(self, pids: Collection[int], run: str) -> None:
        """Let processes, and who descends from them, belong to a Run until they end."""
        for pid in pids:
            self._ancestry.adopt(pid, run)

    def _note(self, run: str, version: Seen) -> None:
        with self._condition:
            if self._closed:
                return
            seen = self._seen.setdefault(run, set())
            if version in seen:
                return
            seen.add(version)
            if len(self._seen) > REMEMBERED_RUNS:
                del self._seen[next(each for each in self._seen if each != run)]
            self._pending.setdefault(run, set()).add(version)
            if self._thread is None:
                self._thread = Thread(target=self._send_all, name="witness", daemon=True)
                self._thread.start()
            self._condition.notify_all()

    # -- what is recorded ------------------------------------------------------------------------------------------

    def settle(self, *, seconds: float) -> int:
        """Have everything recorded that was seen so far, within a bound; returns how many inputs are not recorded yet."""
        deadline = monotonic() + seconds
        with self._condition:
            self._hurry = True
            self._condition.notify_all()
            while (self._pending or self._sending) and (left := deadline - monotonic()) > 0:
                self._condition.wait(left)
            return sum(map(len, self._waiting().values()))

    def close(self) -> None:
        """Record what is left, within CLOSE_SECONDS, and end. Idempotent."""
        if self._closed:
            return
        self.settle(seconds=CLOSE_SECONDS)
        with self._condition:
            self._closed = True
            self._condition.notify_all()
            for run, versions in self._waiting().items():
                _logger.warning("%d inputs of the run %s are not recorded: the mount has ended", len(versions), run)
        self._ancestry.close()

    def _waiting(self) -> dict[str, set[Seen]]:
        """What is not known to be recorded: also what a registry that does not answer was told. The lock is held."""
        waiting = {run: set(versions) for run, versions in self._sending.items()}
        for run, versions in self._pending.items():
            waiting.setdefault(run, set()).update(versions)
        return waiting

    def _send_all(self) -> None:
        shortest, longest = RETRY_SECONDS
        pause = shortest
        while True:
            with self._condition:
                self._sending = {}
                self._condition.notify_all()
                while not self._pending and not self._closed:
                    self._condition.wait()
                if self._closed:
                    return
                taken = self._sending = self._pending
                self._pending, self._hurry = {}, False
            refused = {run: versions for run, versions in taken.items() if not self._send(run, versions)}
            if not refused:
                pause = shortest
                continue
            deadline = monotonic() + pause
            pause = min(2 * pause, longest)
            with self._condition:
                for run, versions in refused.items():
                    self._pending.setdefault(run, set()).update(versions)
                self._sending = {}
                self._condition.notify_all()
                while not self._hurry and not self._closed and (left := deadline - monotonic()) > 0:
                    self._condition.wait(left)

    def _send(self, run: str, versions: Collection[Seen]) -> bool:
        """Record inputs of one Run; False when the registry cannot be reached now."""
        try:
            found = (each if isinstance(each, int) else self._base(run, each) for each in versions)
            if known := sorted({each for each in found if each is not None}):
                self._registry.add_inputs(run, known)
        except (Unavailable, Conflict) as error:  # it does not answer, or is busy
            _logger.info("inputs of the run %s wait: %s", run, error)
            return False
        except NotFound as error:
            if len(versions) > 1:  # one of them may have been deleted meanwhile
                return all(self._send(run, {version}) for version in versions)
            if run not in self._unknown:
                if len(self._unknown) >= REMEMBERED_RUNS:
                    self._unknown.clear()
                self._unknown.add(run)
                _logger.warning("an input of the run %s is not recorded: %s", run, error)
        except ArtifactFSError as error:
            _logger.warning("%d inputs of the run %s are not recorded: %s", len(versions), run, error)
        except Exception:
            # The thread lives as long as the mount: a fault of ours costs these inputs, and is in the log.
            _logger.exception("inputs of the run %s are not recorded", run)
        return True

    def _base(self, run: str, base: tuple[str, int]) -> int | None:
        """The id of a version that staging is based on. None when the Run made it: it has read its own writing, which is no input."""
        version = self._registry.version(*base)
        return version.id if version is not None and version.run != run else None
