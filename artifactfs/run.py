"""Life of a Run: what is known of it when it starts, the heartbeat that says it still runs, and its end.

Used by the Python API and by ``artifactfs run``. A :class:`RunLife` may be used from any thread. It belongs to the process that
made it: a forked child neither renews nor ends the Run, and only one process should, so whoever joins a Run makes none.

A process that is killed can say nothing any more. Its Run then reads as crashed once LIFETIME_SECONDS have gone by since the
last renewal, and what it logged stays.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from threading import Event, Lock, Thread
from time import monotonic
from typing import Any, Final

from artifactfs.errors import ArtifactFSError, InvalidInput, NotFound
from artifactfs.model.lineage import FAILED, FINISHED, NewRun, RunRecord
from artifactfs.registry.contract import Registry

LIFETIME_SECONDS: Final = 120.0
"""How long a Run that fell silent still counts as running."""
BEAT_SECONDS: Final = 30.0
"""How often it is renewed: a quarter of its life, so that three renewals in a row may fail."""
GIT_SECONDS: Final = 2.0
"""How long git may take to tell the commit; on a slow disk the Run starts without it."""
MAX_COMMAND: Final = 64 << 10
"""Characters of a command line that are recorded: a list of files by the shell can be megabytes."""


def new_run_id() -> str:
    """A fresh identity of a Run: 16 hexadecimal digits."""
    return secrets.token_hex(8)


def describe(
    *,
    run: str | None = None,
    name: str | None = None,
    job_type: str | None = None,
    config: dict[str, Any] | None = None,
    command: Sequence[str] = (),
    directory: Path | None = None,
) -> NewRun:
    """A Run to start, with what can be known here: host, and the git commit of ``directory`` (default: the working one)."""
    identity = run or new_run_id()
    return NewRun(
        id=identity,
        name=name or f"{job_type or 'run'}-{identity[:8]}",
        job_type=job_type or "",
        config=config or {},
        host=socket.gethostname(),
        command=_bounded(command),
        commit_hash=commit_hash(directory),
        seconds=LIFETIME_SECONDS,
    )


def commit_hash(directory: Path | None = None) -> str:
    """The git commit that is checked out, "+" behind it when tracked files differ from it; empty when git cannot tell within 2 s."""
    deadline = monotonic() + GIT_SECONDS
    commit = _git(["rev-parse", "--verify", "--quiet", "HEAD^{commit}"], directory, deadline)
    if not commit:
        return ""
    changed = _git(["--no-optional-locks", "status", "--porcelain", "--untracked-files=no"], directory, deadline)
    return f"{commit}+" if changed else commit


def _git(arguments: list[str], directory: Path | None, deadline: float) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - the arguments are constants of this module
            ["git", *arguments],  # noqa: S607 - the git that the user has
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=max(0.0, deadline - monotonic()),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""  # no git, or one that takes too long
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else ""


def _bounded(command: Sequence[str]) -> tuple[str, ...]:
    """As much of a command line as is recorded, as text that a database takes."""
    kept = []
    left = MAX_COMMAND
    for word in command:
        text = os.fsencode(word).decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
        if len(text) > left:
            kept.append("…")
            break
        kept.append(text)
        left -= len(text)
    return tuple(kept)


class RunLife:
    """A Run from its start to its end; it is renewed by a thread in between."""

    def __init__(self, registry: Registry, new: NewRun, *, every: float = BEAT_SECONDS) -> None:
        """Start it, or take up the one with this id again. Errors as :meth:`Registry.start_run`."""
        self._registry = registry
        self._seconds = new.seconds
        self._every = every
        self._process = os.getpid()
        self._lock = Lock()
        self._ended = False
        self._stop = Event()
        self.record = registry.start_run(new)
        """The Run as it was when it started."""
        self._thread = Thread(target=self._beat, name="run-heartbeat", daemon=True)
        self._thread.start()

    @property
    def id(self) -> str:
        """Its identity."""
        return self.record.id

    @property
    def mine(self) -> bool:
        """Whether this process keeps it alive: false in a forked child, and after the end."""
        return not self._ended and os.getpid() == self._process

    def end(self, *, state: str | None = None, exit_status: int | None = None) -> RunRecord | None:
        """End it: finished when ``exit_status`` is 0 or None, else failed, unless ``state`` says. None if it is not :attr:`mine`.

        Unavailable when the registry cannot be reached: then it may be called again, and the heartbeat goes on meanwhile.
        """
        if not self.mine:
            return None
        chosen = state or (FAILED if exit_status else FINISHED)
        if chosen not in {FINISHED, FAILED}:
            raise InvalidInput(f"a run cannot end as {chosen!r}; it ends as {FINISHED} or {FAILED}")
        with self._lock:
            if self._ended:
                return None
            record = self._registry.update_run(self.record.id, state=chosen, exit_status=exit_status)
            self._ended = True
        self.abandon()
        return record

    def abandon(self) -> None:
        """Renew it no more, and say nothing: it reads as crashed when its time is over. Idempotent."""
        self._ended = True
        self._stop.set()
        if os.getpid() == self._process:
            self._thread.join()  # a renewal that is under way ends within the registry's bound

    def _beat(self) -> None:
        while not self._stop.wait(self._every):
            try:
                self._registry.renew_run(self.record.id, seconds=self._seconds)
            except NotFound:
                return
            except ArtifactFSError:
                continue  # busy or out of reach now: the next one may come through
