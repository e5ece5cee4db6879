"""Repositories that this process has open for code that closes nothing, and what a path means in them.

Used by the file system of fsspec, whose instances are made for each thread and never closed, and by prefetching. A repository is
opened once for a process, however many instances ask, and closed at the process's end; a forked child opens its own. All
functions may be called from any thread.
"""

from __future__ import annotations

import atexit
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final

import msgspec

from artifactfs.config import Settings
from artifactfs.content.reader import FileReader
from artifactfs.credentials import Credentials
from artifactfs.errors import ArtifactFSError, NotFound
from artifactfs.model.names import Address, parse_address
from artifactfs.model.records import VersionRecord
from artifactfs.model.tree import DirEntry, Entry, FileEntry, LinkEntry, RefEntry
from artifactfs.mount.follower import Follower
from artifactfs.mount.prefetch import Planned, Prefetcher
from artifactfs.mount.sources import Sources
from artifactfs.references.contract import ReferenceFile
from artifactfs.repository import Repository

MOST_LINKS: Final = 40
"""Symlinks that are followed on the way to a file, as in Linux."""

FOLLOWED: Final = 16
"""Files of a server's repository that are opened before its changes are followed, as by a mount: from then on an alias is asked for
again only when something has changed. Whoever reads a few files needs no connection for that."""

Versions = dict[Address, VersionRecord]
"""What addresses were found to mean, without their paths: one such table lasts for one operation, so that it sees one version."""

_Key = tuple[int, str, str, str, int | None, float, Credentials]


class Place(msgspec.Struct, frozen=True):
    """Where a path led, symlinks followed: its version, and the entry there. The root's entry has no name."""

    version: VersionRecord
    entry: Entry


class Opened:
    """An open repository, and what its readers have said they will read."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self._versions: Versions = {}  # by number: they never change
        self._listener: Callable[[int], None] | None = None
        self._sources = Sources(repository)
        self._prefetcher = Prefetcher(repository, self._sources, self._locate, self._listen)
        self._follower = Follower(repository.registry, lambda _: None)
        self._reads = itertools.count(1)

    def read(self, entry: FileEntry | RefEntry) -> FileReader | ReferenceFile:
        """Open a file's content, and tell whoever fetches ahead."""
        if next(self._reads) == FOLLOWED and not self.repository.reader.local:
            self._follower.start()
        if self._listener is not None:
            self._listener(_node(entry))
        return self.repository.open_file(entry) if isinstance(entry, FileEntry) else self._sources.open(entry)

    def prefetch(self, plan: str, paths: list[str]) -> dict[str, Any]:
        """Fetch what is at these addresses, versions by number, in this order; another plan ends the one before."""
        return self._prefetcher.add(plan, paths)

    def stop(self, plan: str) -> None:
        """End a plan."""
        self._prefetcher.stop(plan)

    def close(self) -> None:
        """End all. Idempotent."""
        self._prefetcher.close()
        self._follower.stop()
        self.repository.close()

    def _listen(self, listener: Callable[[int], None] | None) -> None:
        self._listener = listener

    def _locate(self, path: str) -> Iterator[Planned]:
        yield from self._below(find(self.repository, parse_address(path), self._versions).entry)

    def _below(self, entry: Entry) -> Iterator[Planned]:
        if isinstance(entry, DirEntry):
            for _, _, below in self.repository.trees.scan(entry.digest):
                yield from self._below(below)
        elif not isinstance(entry, LinkEntry):
            yield Planned(_node(entry), entry)


def _node(entry: FileEntry | RefEntry) -> int:
    """A number for a file: here by its content, as there are no inodes."""
    return int.from_bytes(entry.digest[:8]) if isinstance(entry, FileEntry) else hash(entry.uri)


_lock = threading.Lock()
_open: dict[_Key, Opened] = {}  # those of a parent, from before a fork, stay and are never used


def repository_of(settings: Settings, project: str | None = None) -> Repository:
    """The repository that settings mean, open in this process; ``project`` is another one of it. Errors as Repository.open."""
    return opened_of(settings, project).repository


def opened_of(settings: Settings, project: str | None = None) -> Opened:
    """As :func:`repository_of`, with all that goes with it."""
    project = project or settings.project
    where = (settings.repository, project, str(settings.cache_dir), settings.cache_size)
    key = (os.getpid(), *where, settings.seconds, settings.credentials)
    found = _open.get(key)
    if found is None:
        with _lock:
            found = _open.get(key)
            if found is None:
                cache = settings.cache
                repository = Repository.open(
                    settings.repository,
                    project=project,
                    cache=cache,
                    seconds=settings.seconds,
                    credentials=settings.credentials,
                )
                found = _open[key] = Opened(repository)
    return found


def find(repository: Repository, address: Address, versions: Versions) -> Place:
    """Where an address leads. NotFound says what is there instead."""
    version = version_of(repository, address, versions)
    return Place(version, _follow(repository, version, address.path))


def version_of(repository: Repository, address: Address, versions: Versions) -> VersionRecord:
    """The version that an address is in. NotFound says what is there instead."""
    series = Address(address.project, address.name, address.selector, address.digest)
    version = versions.get(series)
    if version is None:
        version = versions[series] = repository.resolve(series)
    return version


def pinned(address: Address, version: VersionRecord) -> str:
    """The same address, with the version by its number."""
    return str(Address(address.project, address.name, f"v{version.number}", path=address.path))


def target_of(repository: Repository, version: VersionRecord, path: str) -> Entry | None:
    """What the symlink at a path leads to; None when that is nothing inside the version."""
    try:
        return _follow(repository, version, path)
    except NotFound:
        return None


def _follow(repository: Repository, version: VersionRecord, path: str) -> Entry:
    root = DirEntry("", version.digest, version.files, version.entries, version.size)
    if not path:
        return root
    repository.reader.path(version.digest, path)
    found = repository.trees.find(version.digest, path)
    if found is not None and not isinstance(found.entry, LinkEntry):
        return found.entry
    # A symlink on the way, or nothing: part by part.
    directories = [root]
    entry: Entry = root
    links = 0
    todo = path.split("/")[::-1]
    while todo:
        part = todo.pop()
        if not isinstance(entry, DirEntry):
            raise _nothing(version, path)
        if part == "..":
            directories.pop()
            if not directories:
                raise _nothing(version, path)  # out of the version
            entry = directories[-1]
            continue
        if part in {"", "."}:
            continue
        found = repository.trees.lookup(entry.digest, part)
        if found is None:
            raise _nothing(version, path)
        if isinstance(found.entry, LinkEntry):
            links += 1
            if links > MOST_LINKS or found.entry.target.startswith("/"):
                raise _nothing(version, path)
            todo += found.entry.target.split("/")[::-1]
            continue
        entry = found.entry
        if isinstance(entry, DirEntry):
            directories.append(entry)
    return entry


def _nothing(version: VersionRecord, path: str) -> NotFound:
    return NotFound(f"{version.name} has no {path!r}; `artifactfs ls {version.name}` lists what it has")


def _forked() -> None:
    """In a child: its one thread may not wait for a lock that a thread of the parent held."""
    global _lock  # noqa: PLW0603 - a lock cannot be made free in place
    _lock = threading.Lock()


def _close() -> None:
    for key, opened in list(_open.items()):
        if key[0] == os.getpid():
            with suppress(ArtifactFSError):
                opened.close()


os.register_at_fork(after_in_child=_forked)
atexit.register(_close)
