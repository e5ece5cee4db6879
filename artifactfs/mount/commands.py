"""What commands ask of staging areas: stage, commit, diff, discard and its undoing, rebase; and their status.

Used by service.py for the control socket of a mount, and by unmounted.py for a workspace that nothing has mounted. Handlers take and
return what goes through the socket as JSON (mount/control.py). They run on any thread, several at a time.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from artifactfs.errors import ArtifactFSError, Conflict, ReadOnly
from artifactfs.model.names import Address, check_name
from artifactfs.model.records import VersionRecord
from artifactfs.model.tree import Change, DirEntry, difference, size_of
from artifactfs.mount.areas import Invalidation
from artifactfs.mount.commit import commit_area
from artifactfs.mount.control import Handler, Note
from artifactfs.mount.inodes import Area
from artifactfs.mount.staging import Staging
from artifactfs.repository import Progress, Repository

_BATCH: Final = 1000  # changes in a line of the socket


class StagingCommands:
    """The staging areas of ``place`` for commands; None of a mount that is read-only.

    ``repository`` gives the repository, or raises why there is none; ``latest`` the version that an artifact's clean staging shows;
    ``run_of`` the Run that a process belongs to. ``tell_kernel`` makes known what changed in an artifact's staging, before the answer.
    """

    def __init__(
        self,
        repository: Callable[[], Repository],
        staging: Staging | None,
        *,
        latest: Callable[[str], VersionRecord | None],
        tell_kernel: Callable[[str, Iterable[Invalidation]], None],
        run_of: Callable[[int], str | None],
        place: str,
    ) -> None:
        self._repository = repository
        self._staging = staging
        self._latest = latest
        self._tell_kernel = tell_kernel
        self._run_of = run_of
        self._place = place
        self.commits = Running()

    def handlers(self) -> dict[str, Handler]:
        """What answers each request."""
        return {
            "stage": self._stage,
            "commit": self._commit,
            "diff": self._diff,
            "discard": self._discard,
            "undo": self._undo,
            "rebase": self._rebase,
        }

    def status(self) -> dict[str, Any]:
        """Every area at a glance, and what staging takes of its limit, if it has one."""
        staging = self._writable()
        room = staging.room
        limited = {} if room.limit is None else {"staging_bytes": room.used, "staging_limit": room.limit}
        return {"staging": [self._area_status(name) for name in sorted(staging.names())], **limited}

    def _area_status(self, name: str) -> dict[str, Any]:
        staging = self._writable()
        area = staging.area(name, None)
        base = None if area.base_number is None else f"v{area.base_number}"
        try:
            status = staging.status(area)
        except ArtifactFSError:  # what the changes are compared with cannot be had now
            return {"name": name, "base": base, "changes": None, "local_bytes": None}
        return {"name": name, "base": base, "changes": status.changed, "local_bytes": status.local_bytes}

    def _stage(self, fields: Mapping[str, Any], note: Note) -> dict[str, Any]:
        del note
        staging, name, selector = self._writable(), check_name(fields["artifact"]), fields["selector"]
        latest = self._latest(name)
        if latest is None and not fields["empty"]:
            self._repository().resolve(Address(None, name, selector))  # NotFound with near misses
        version = latest if selector is None else self._repository().resolve(Address(None, name, selector))
        area = staging.area(name, latest)
        if not fields["force"] and staging.is_dirty(area):
            raise Conflict(f"{name}/staging has changes; commit or discard them first, or give them up with --force")
        following = selector is None and not fields["empty"]
        self._tell_kernel(name, staging.reset(area, version, empty=fields["empty"], following=following))
        return _base_of(area)

    def _commit(self, fields: Mapping[str, Any], note: Note) -> dict[str, Any]:
        staging, area = self._area(fields)

        def progress(progress: Progress) -> None:
            note({"files": progress.files, "bytes_read": progress.bytes_read, "bytes_stored": progress.bytes_stored})

        repository, latest = self._repository(), self._latest(area.name)
        run = fields.get("run") or self._run_of(fields.get("peer", 0))
        known = run is not None and repository.registry.run(run) is not None
        with self.commits.during(area.name):
            outcome = commit_area(
                repository,
                staging,
                area.name,
                aliases=tuple(fields["aliases"]),
                description=fields["description"],
                metadata=fields["metadata"],
                type=fields["type"],
                force=fields["force"],
                allow_open=fields["allow_open"],
                progress=progress,
                run=run if known else None,
            )
        return {
            "number": outcome.version.number,
            "created": outcome.created,
            "latest_before": latest.number if latest is not None else None,
            "dropped": list(outcome.dropped),
            "unknown_run": None if known else run,
            "stats": msgspec.to_builtins(outcome.stats),
        }

    def _diff(self, fields: Mapping[str, Any], note: Note) -> dict[str, Any]:
        staging, area = self._area(fields)
        changes = staging.changes(area)
        while batch := list(itertools.islice(changes, _BATCH)):
            note({"changes": [_change_fields(change) for change in batch]})
        return _base_of(area)

    def _discard(self, fields: Mapping[str, Any], note: Note) -> dict[str, Any]:
        del note
        staging, area = self._area(fields)
        before = staging.discarded(area.name)
        self._tell_kernel(area.name, staging.discard(area))
        return {**_base_of(area), "kept": staging.discarded(area.name) != before}

    def _undo(self, fields: Mapping[str, Any], note: Note) -> dict[str, Any]:
        del note
        staging, name = self._writable(), check_name(fields["artifact"])
        # Of a new artifact whose area went with its last change, what was discarded is all there is.
        area = staging.area(name, self._latest(name)) if staging.discarded(name) else self._area(fields)[1]
        self._tell_kernel(area.name, staging.undo(area))
        return _base_of(area)

    def _rebase(self, fields: Mapping[str, Any], note: Note) -> dict[str, Any]:
        del note
        staging, area = self._area(fields)
        latest = self._latest(area.name)
        if latest is None:
            raise Conflict(f"{area.name} has no version yet, so there is nothing to rebase onto; commit it")
        self._tell_kernel(area.name, staging.rebase(area, latest))
        return _base_of(area)

    def _writable(self) -> Staging:
        if self._staging is None:
            raise ReadOnly(f"the mount at {self._place} is read-only and has no staging; mount without --read-only")
        return self._staging

    def _area(self, fields: Mapping[str, Any]) -> tuple[Staging, Area]:
        """The area that a request names; NotFound when there is neither an area nor an artifact of this name."""
        staging, name = self._writable(), check_name(fields["artifact"])
        latest = self._latest(name)
        if latest is None and name not in staging.names():
            self._repository().resolve(Address(None, name))
        return staging, staging.area(name, latest)


def _base_of(area: Area) -> dict[str, Any]:
    number = area.base_number
    return {"base": None if number is None or area.base_digest is None else f"{area.name}:v{number}"}


def _change_fields(change: Change) -> dict[str, Any]:
    entry = change.new if change.new is not None else change.old
    assert entry is not None  # noqa: S101 - a change has at least one side
    if isinstance(entry, DirEntry):
        return {"kind": change.kind, "path": f"{change.path}/", "size": 0}
    what = difference(change)
    return {
        "kind": change.kind,
        "path": change.path,
        "size": size_of(entry),
        **({"what": what} if what is not None else {}),
    }


class Running:
    """Names of what is running."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """A copy."""
        with self._lock:
            return list(self._names)

    def any(self) -> bool:
        """Whether something runs."""
        return bool(self.names())

    @contextlib.contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Count something while it runs."""
        with self._lock:
            self._names.append(name)
        try:
            yield
        finally:
            with self._lock:
                self._names.remove(name)
