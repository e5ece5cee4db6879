"""Restoring: the contents of a deleted version become the next version of its artifact.

Used by the command line. One thread. Knows no kind of repository.

A deleted version is not made undone: its number and its aliases are gone for good. What it held is in the Store until a collection
finds it dead, and beyond where other versions share it. So this is one more writer, under the rules for all of them ("Garbage" in
``docs/concurrency.md``): what the project says that it holds stays until the Session ends; what is missing, because it was condemned,
is read as long as that can be done, and stored anew.
"""

from __future__ import annotations

import msgspec

from artifactfs.errors import Conflict, Integrity, InvalidInput, NotFound
from artifactfs.model.names import LATEST, Address, parse_version
from artifactfs.model.records import VersionRecord
from artifactfs.model.retention import Tombstone
from artifactfs.model.tree import TreeSummary
from artifactfs.repository import Repository
from artifactfs.sending import CopyStats, Sending, Show, Survey


class Restored(msgspec.Struct, frozen=True):
    """The version that has the contents now. ``created`` False: it had them already, as somebody stored them again.

    ``latest_before`` is the number that `latest` named before, None without any.
    """

    version: VersionRecord
    created: bool
    latest_before: int | None


class Outlook(msgspec.Struct, frozen=True):
    """What a restoring would do: the version that has the contents already, or the plain bytes that are to be stored anew."""

    same: VersionRecord | None
    missing: int


def find(repository: Repository, address: Address) -> Tombstone:
    """The deleted version that an address names by its number. It never changes, so that no Session is needed to ask for it.

    InvalidInput for an address without a number, Conflict for a version that lives, NotFound for one that never was.
    """
    name = address.name
    if address.path:
        raise InvalidInput(
            f"{address} names a path; whole versions are restored: give {name}:{address.selector or 'vN'}"
        )
    number = parse_version(address.selector or "")
    if number is None:
        raise InvalidInput(
            f"{address} names no number of a version; give {name}:vN: `artifactfs log {name} --deleted` lists those that were deleted"
        )
    registry = repository.registry
    name = registry.retention.former_names().get(name, name)
    gone = registry.retention.tombstone(name, number)
    if gone is not None:
        return gone
    living = registry.versions(name)
    if not living and not registry.retention.tombstones(name):
        repository.resolve(Address(address.project, name))  # raises NotFound with near misses
    if any(version.number == number for version in living):
        raise Conflict(f"{name}:v{number} was not deleted, so there is nothing to restore")
    raise NotFound(
        f"there never was a version {name}:v{number}; `artifactfs log {name} --deleted` lists those that were deleted"
    )


def foresee(repository: Repository, gone: Tombstone) -> Outlook:
    """What :func:`restore` would do now. Changes nothing. NotFound as there."""
    living = repository.registry.versions(gone.artifact)
    same = _with_contents(living, gone)
    return Outlook(same, 0 if same is not None else _require_contents(repository, gone, _nearest(living, gone)))


def restore(
    repository: Repository,
    gone: Tombstone,
    *,
    aliases: tuple[str, ...] = (),
    stats: CopyStats | None = None,
    progress: Show | None = None,
) -> Restored:
    """Make the contents of a deleted version the next one of its artifact, with its description, metadata and the Run that made it.

    All or nothing. `latest` moves to it, and the ``aliases``; those that it had, and its tags, went with it. Contents that a version
    has by now are not made another one: as when they are logged, `latest`, the aliases and the Run are its then.

    NotFound names what is gone. Conflict (the artifact was renamed meanwhile; a protected alias), Integrity (what must be stored anew
    is damaged), NoSpace.
    """
    stats = stats if stats is not None else CopyStats()
    with repository.writing("restore") as writing:
        # Asked under the Session: what these versions hold stays until it ends.
        living = repository.registry.versions(gone.artifact)
        same = _with_contents(living, gone)
        if same is None:
            if writing.room is not None:
                writing.room.logical(gone.size, new=lambda: True)
            base = _nearest(living, gone)
            _require_contents(repository, gone, base)
            job = Sending(
                repository.trees,
                repository.reader,
                repository.registry,
                writing.writer,
                name=gone.name,
                done="restored",
                stats=stats,
                progress=progress,
            )
            try:
                root = job.send(gone.digest, base)
            except Integrity:
                _require_contents(repository, gone, base)  # says so when it was collected while it was read
                raise
        else:
            root = TreeSummary(same.digest, same.files, same.entries, same.size)
        result = writing.commit(
            gone.artifact,
            root,
            aliases=aliases,
            description=gone.description,
            metadata=gone.metadata,
            run=gone.run or None,  # which made these contents
        )
        stats.bytes_stored = writing.writer.bytes_stored
    before = next((version.number for version in living if LATEST in version.aliases), None)
    return Restored(result.version, result.created, before)


def _with_contents(living: list[VersionRecord], gone: Tombstone) -> VersionRecord | None:
    return next((version for version in living if version.digest == gone.digest), None)


def _nearest(living: list[VersionRecord], gone: Tombstone) -> bytes | None:
    """The root of the living version nearest by number: what it has at the same path is not looked at."""
    nearest = min(living, key=lambda version: abs(version.number - gone.number), default=None)
    return nearest.digest if nearest is not None else None


def _require_contents(repository: Repository, gone: Tombstone, base: bytes | None) -> int:
    """The plain bytes of it that are to be stored anew. NotFound when something of it is gone."""
    survey = Survey(repository.trees, repository.reader, repository.registry, repository.store, name=gone.name)
    survey.look(gone.digest, base)
    if not survey.gone:
        return survey.missing
    if "" in survey.gone:
        what = "what it held is gone"
    else:
        more = f" and {survey.more:,} more" if survey.more else ""
        what = f"{', '.join(survey.gone)}{more} {'is' if len(survey.gone) == 1 else 'are'} gone"
    raise NotFound(
        f"{gone.name} cannot be restored: {what}, as garbage was collected since; put the same files again, "
        f"or copy {gone.name} from a backup: artifactfs --repository BACKUP copy {gone.name} --to {repository.location}"
    )
