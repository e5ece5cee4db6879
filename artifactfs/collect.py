"""Collecting the garbage of a repository: in a directory here, of a server there.

Used by ``gc``. One thread. What is done stands in :mod:`artifactfs.collector`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from artifactfs.collector import LEASE_SECONDS, Show, collect_project
from artifactfs.model.collecting import Collected
from artifactfs.registry.sql import SQLRegistry
from artifactfs.repository import Repository

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
