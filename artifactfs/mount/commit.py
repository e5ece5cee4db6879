"""Commit: the staging area of an artifact becomes its next version, or none of it does.

Used by the daemon for the command (mount/service.py). One commit an area at a time (freezing refuses a second); several areas may be
committed at once. Steps and what a kill between them leaves are described in mount/freeze.py; the Registry's transaction is the one
point after which the version exists.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from artifactfs.errors import ArtifactFSError, Conflict, Unavailable
from artifactfs.model.names import LATEST, check_alias, check_metadata, check_type
from artifactfs.model.records import CommitResult, VersionRecord
from artifactfs.mount.freeze import Dropped
from artifactfs.mount.inodes import Area
from artifactfs.mount.staging import Staging
from artifactfs.repository import Progress, Repository, new_commit_id

MAX_NAMED: Final = 20
"""Open files that an error names; the rest are counted."""
NO_VERSION: Final = -1
"""The base of a commit to an artifact that had no version (CommitRequest)."""


class CommitStats(msgspec.Struct, frozen=True):
    """What a commit did: changed files, plain bytes read of them, bytes that went to the Store."""

    files: int
    bytes_read: int
    bytes_stored: int


class CommitOutcome(msgspec.Struct, frozen=True):
    """The version, whether it is new, what it does not hold of staging (a line each), and the work."""

    version: VersionRecord
    created: bool
    dropped: tuple[str, ...]
    stats: CommitStats


def commit_area(
    repository: Repository,
    staging: Staging,
    name: str,
    *,
    type: str | None = None,  # noqa: A002 - the word of the vocabulary
    aliases: tuple[str, ...] = (),
    description: str | None = None,
    metadata: dict[str, Any] | None = None,
    force: bool = False,
    allow_open: bool = False,
    progress: Callable[[Progress], None] | None = None,
    run: str | None = None,
) -> CommitOutcome:
    """Make the staging of ``name`` its next version, or find the version that equals it; ``run`` is the Run whose output it is.

    What the kernel holds back (mmap) must have been flushed by the caller. Raises Conflict (files open for writing, `latest` has
    moved, a commit is running, nothing there), InvalidInput, Integrity, NoSpace; then staging is as it was, all still changed.
    """
    if type is not None:
        check_type(type)
    for alias in aliases:
        check_alias(alias)
    metadata = check_metadata(metadata) if metadata is not None else None
    area = staging.area(name, repository.registry.resolve(name, LATEST))
    settle_pending(repository, staging, area)
    frozen = staging.freeze(area)
    landed: CommitResult | None = None
    try:
        if frozen.writers and not allow_open:
            raise _refusal(name, frozen.writers)
        with repository.writing("commit") as writing:
            writer = writing.writer

            def report() -> None:
                if progress is not None:
                    progress(Progress(frozen.files, writer.bytes_read, writer.bytes_stored))

            writer.progress = report
            if frozen.base_number is not None:
                # What is unchanged is not stored anew. The mount's own session keeps it so far.
                writing.keep([(name, frozen.base_number)], frozen.base_digest)
            root = staging.build(frozen, writer, progress=report)
            if frozen.base_number is None and root.entries == 0:
                raise Conflict(f"{name}/staging is empty: there is nothing to commit yet")
            writer.flush()
            commit_id = new_commit_id()
            staging.prepare(frozen, commit_id, root.digest)
            landed = writing.commit(
                name,
                root,
                type=type,
                aliases=aliases,
                description=description,
                metadata=metadata,
                base=NO_VERSION if frozen.base_number is None else frozen.base_number,
                force=force,
                commit_id=commit_id,
                run=run,
            )
            stats = CommitStats(frozen.files, writer.bytes_read, writer.bytes_stored)
    except BaseException as error:
        staging.thaw(frozen, landed.version if landed is not None else None)
        # An answer of the Registry is final; without one the commit may have landed, and is looked for at the next.
        if landed is None and isinstance(error, ArtifactFSError) and not isinstance(error, Unavailable):
            staging.recover(area, None)
        raise
    dropped = _dropped(frozen.dropped)
    try:
        staging.thaw(frozen, landed.version)
    except (ArtifactFSError, OSError) as error:
        # The version exists: saying that the commit failed would be wrong. The area stays pending, and the next one settles it.
        dropped.append(f"staging still counts as changed, as its tables could not be written: {error}")
    return CommitOutcome(landed.version, landed.created, tuple(dropped), stats)


def settle_pending(repository: Repository, staging: Staging, area: Area) -> None:
    """Find out what became of a commit whose end this workspace has not seen (a kill, a lost reply).

    Unavailable when the registry cannot be asked: then the area stays as it is.
    """
    pending = staging.pending(area)
    if pending is not None:
        # Only `latest` tells: an older version with the same contents may be older than the commit.
        latest = repository.registry.resolve(area.name, LATEST)
        if not repository.registry.online:
            raise Unavailable(
                f"what became of the last commit of {area.name} is not known while the repository cannot be reached; "
                "commit again when it can"
            )
        landed = latest is not None and latest.digest == pending.digest
        staging.recover(area, latest if landed else None)


def settle_all(repository: Repository, staging: Staging) -> None:
    """Do so for every area: once, when a mount begins. What cannot be asked now is settled by the next commit."""
    for name in staging.names():
        with suppress(Unavailable):
            settle_pending(repository, staging, staging.area(name, None))


def _refusal(name: str, writers: list[tuple[str, int]]) -> Conflict:
    count = len(writers)
    named = [f"{path} ({_process(pid)})" for path, pid in writers[:MAX_NAMED]]
    rest = [f"and {count - MAX_NAMED} more"] if count > MAX_NAMED else []
    heading = f"{name}/staging has files open for writing; close them, or commit them as they are with --allow-open:"
    return Conflict("\n  ".join([heading, *named, *rest]))


def _process(pid: int) -> str:
    try:
        name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return f"process {pid}"  # it has ended, or lives in another PID namespace
    return f"{name}, process {pid}"


def _dropped(dropped: Dropped) -> list[str]:
    lines = [
        (dropped.hard_links, "hard links (each name is stored as a file of its own)"),
        (dropped.xattrs, "extended attributes"),
        (dropped.modes, "permissions other than the executable bit"),
        (dropped.owners, "owners"),
    ]
    return [f"{what} of {count} {'entry' if count == 1 else 'entries'}" for count, what in lines if count]


__all__ = ["CommitOutcome", "CommitStats", "commit_area", "settle_all", "settle_pending"]
