"""Collecting the garbage of a repository: in a directory here, of a server there.

Used by ``gc``. One thread. What is done stands in :mod:`artifactfs.collector`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Final

from artifactfs.collector import LEASE_SECONDS, Show, collect_project
from artifactfs.errors import ArtifactFSError
from artifactfs.model.collecting import Collected
from artifactfs.registry.contract import Registry
from artifactfs.registry.sql import SQLRegistry
from artifactfs.repository import SESSION_SECONDS, Repository, beat

LOOK_SECONDS: Final = 0.5
"""How often a server is asked how far it is."""


def collect(
    repository: Repository,
    *,
    dry_run: bool = False,
    wait: float = 0.0,
    directory: Path | None = None,
    progress: Show | None = None,
    lease_seconds: float = LEASE_SECONDS,
) -> Collected:
    """Collect the garbage of a repository, or say what would be done; that of a server's by the server.

    ``wait``: seconds to wait for sessions that began before something was condemned. ``directory``: for what does not fit into memory
    here. Raises as :func:`~artifactfs.collector.collect_project`, and Access (not an admin of the server's).
    """
    registry = repository.registry
    if not isinstance(registry, SQLRegistry):
        return _collect_there(repository, dry_run=dry_run, wait=wait, progress=progress)
    return collect_project(
        registry,
        repository.store,
        dry_run=dry_run,
        wait=wait,
        directory=directory,
        progress=progress,
        lease_seconds=lease_seconds,
    )


@contextmanager
def holding(registry: Registry, purpose: str) -> Iterator[None]:
    """Have collections delete nothing meanwhile that is alive when this begins: a Session of each project keeps it.

    Of all projects of a database at hand, of the open one of a server's. What was condemned before may still go: no version that
    lives has it.
    """
    held = (
        [registry.of_project(name) for name in registry.projects()] if isinstance(registry, SQLRegistry) else [registry]
    )
    stop = Event()
    hearts: list[Thread] = []
    sessions: list[tuple[Registry, int]] = []
    try:
        for each in held:
            session = each.open_session(purpose, seconds=SESSION_SECONDS)
            sessions.append((each, session))
            hearts.append(Thread(target=beat, args=(each, session, stop), name="session-heartbeat", daemon=True))
            hearts[-1].start()
        yield
    finally:
        stop.set()
        for heart in hearts:
            heart.join()
        for each, session in sessions:
            with suppress(ArtifactFSError):  # it expires by itself
                each.close_session(session)


def _collect_there(repository: Repository, *, dry_run: bool, wait: float, progress: Show | None) -> Collected:
    from artifactfs.remote.registry import RemoteRegistry  # noqa: PLC0415 - HTTP takes 0.1 s to import
    from artifactfs.remote.wire import from_failure  # noqa: PLC0415

    registry = repository.registry
    assert isinstance(registry, RemoteRegistry)  # noqa: S101 - there are these two kinds
    state = registry.start_collection(dry_run=dry_run, wait=wait)
    while state.running:
        if progress is not None:
            progress(f"on the server: {state.doing}")
        time.sleep(LOOK_SECONDS)
        state = registry.collection_state()
    if state.failure is not None:
        raise from_failure(state.failure)
    return state.report or Collected()
