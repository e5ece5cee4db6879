"""``artifact://project/name:version/path``: entries of other artifacts, of the same repository.

Used by References. Any thread. An alias is resolved when the reference is added: it always names one version afterwards. An entry that
is a Reference itself is taken over as that one, so that a chain never grows.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from artifactfs.errors import InvalidInput
from artifactfs.model.digest import CHUNKS, format_digest
from artifactfs.model.names import Address, parse_address
from artifactfs.model.records import VersionRecord
from artifactfs.model.sequence import CHUNK_LIST
from artifactfs.model.tree import DirEntry, Entry, FileEntry, LinkEntry, RefEntry, Trees
from artifactfs.references.contract import (
    Facts,
    Progress,
    ReferenceFile,
    Resolved,
    changed,
    digest_of,
    list_of,
    too_many,
)
from artifactfs.references.uris import check_uri

if TYPE_CHECKING:
    from artifactfs.content.reader import ContentReader

_CHAIN: Final = 8  # references to references that were logged with checksum=False
_LINKS: Final = 40  # symlinks on the way to a file, as many as Linux follows


class Versions(Protocol):
    """What is needed of a repository: its versions and their content."""

    @property
    def project(self) -> str:
        """The project that names are looked up in."""

    @property
    def trees(self) -> Trees:
        """Reads directories."""

    @property
    def reader(self) -> ContentReader:
        """Reads nodes."""

    def resolve(self, address: Address) -> VersionRecord:
        """The version that an Address names."""

    def entry(self, version: VersionRecord, path: str) -> Entry:
        """The entry of a path in a version."""

    def open_file(self, entry: FileEntry) -> ReferenceFile:
        """Read a file's bytes, verified."""


class ArtifactOrigin:
    """Entries of other artifacts. ``projects`` opens a project by name; ``open_outside`` reads an entry that is a Reference."""

    def __init__(
        self, projects: Callable[[str | None], Versions], open_outside: Callable[[RefEntry], ReferenceFile]
    ) -> None:
        self._projects = projects
        self._open_outside = open_outside

    def expand(self, uri: str, name: str, limit: int, progress: Progress) -> Iterator[Resolved]:
        """An entry, or all files and References below a directory, in order of their paths."""
        address = address_of(check_uri(uri))
        versions = self._projects(address.project)
        version = versions.resolve(address)
        path = address.path
        entry = _entry_at(versions, version, path) if path else None
        if entry is not None and not isinstance(entry, DirEntry):
            progress(1)
            yield _record(versions, version, path, entry, "", name or path.rpartition("/")[2])
            return
        count = 0
        for below, found in versions.trees.walk(version.digest if entry is None else entry.digest):
            if isinstance(found, DirEntry):
                continue
            count += 1
            if count > limit:
                raise too_many(uri, limit)
            progress(count)
            full = f"{path}/{below}" if path else below
            target = _entry_at(versions, version, full) if isinstance(found, LinkEntry) else found
            yield _record(versions, version, full, target, below, found.name)
        if not count:
            raise InvalidInput(f"{uri} has no files; there is nothing to refer to")

    def open(self, entry: RefEntry) -> ReferenceFile:
        """Read what an entry names. One that records a digest asks nobody what has it now."""
        versions = self._projects(address_of(entry.uri).project)
        digest = digest_of(entry)
        if digest is not None and entry.size is not None:
            return versions.open_file(FileEntry(entry.name, entry.size, digest, executable=False))
        target = self._target(entry)
        for _ in range(_CHAIN):
            if isinstance(target, FileEntry):
                return versions.open_file(target)
            if target.checksum is not None or not target.uri.lower().startswith("artifact:"):
                return self._open_outside(target)
            # It was logged without being resolved: what it names may itself be such a one.
            versions = self._projects(address_of(target.uri).project)
            target = self._target(target)
        raise InvalidInput(f"{entry.uri} leads from one unresolved reference to the next; log it with checksums")

    def look(self, entry: RefEntry) -> Facts:
        """The size of what an entry names."""
        return Facts(self._target(entry).size)

    def check(self, entry: RefEntry) -> None:
        """Compare what an entry names with what it records. Errors as References.check."""
        target = self._target(entry)
        found = format_digest(target.digest) if isinstance(target, FileEntry) else target.checksum
        if entry.checksum is not None and found != entry.checksum:
            raise changed(entry.uri, f"recorded checksum {entry.checksum}, found {found}")

    def _target(self, entry: RefEntry) -> FileEntry | RefEntry:
        address = address_of(entry.uri)
        if not address.path:
            raise InvalidInput(f"{entry.uri} names no file; it was logged without being resolved")
        versions = self._projects(address.project)
        version = versions.resolve(address)
        target = _entry_at(versions, version, address.path)
        if isinstance(target, FileEntry | RefEntry):
            return target
        raise InvalidInput(f"{entry.uri} is a directory; log it with checksums, which takes what is in it")


def address_of(uri: str) -> Address:
    """What an ``artifact://`` URI names. InvalidInput when that is no version."""
    try:
        address = parse_address(uri.partition("://")[2])
    except InvalidInput as error:
        raise InvalidInput(f"not the URI of an artifact: {uri!r}: {error}") from error
    if address.selector is None and address.digest is None:
        raise InvalidInput(f"{uri!r} names no version; it looks like artifact://project/name:v3/path, or name:latest")
    return address


def _record(versions: Versions, version: VersionRecord, path: str, entry: Entry, below: str, name: str) -> Resolved:
    if isinstance(entry, RefEntry):
        root = list_of(entry)
        nodes = () if root is None else tuple(_nodes(versions.reader, root))
        return Resolved(below, msgspec.structs.replace(entry, name=name), nodes)
    uri = f"artifact://{versions.project}/{version.name}/{path}"
    if not isinstance(entry, FileEntry):
        raise InvalidInput(f"{uri} is a symlink to a directory; refer to the directory itself")
    return Resolved(below, RefEntry(name, uri, entry.size, format_digest(entry.digest), None, None))


def _nodes(reader: ContentReader, root: bytes) -> Iterator[bytes]:
    """The nodes of a chunk list, each after those below it."""
    data = reader.node(root, CHUNKS)
    for branch in CHUNK_LIST.decode(data).branches:
        yield from _nodes(reader, branch.digest)
    yield data


def _entry_at(versions: Versions, version: VersionRecord, path: str) -> Entry:
    """The entry of a path, through symlinks as its version has them."""
    wanted = path
    for _ in range(_LINKS):
        entry = _step(versions, version, wanted)
        if not isinstance(entry, str):
            return entry
        wanted = entry
    raise InvalidInput(f"{version.name}/{path} is a symlink that leads nowhere; refer to the file itself")


def _step(versions: Versions, version: VersionRecord, path: str) -> Entry | str:
    """The entry of a path, or, where the path meets a symlink, the path that this one stands for."""
    parts = path.split("/")
    for count in range(1, len(parts) + 1):
        entry = versions.entry(version, "/".join(parts[:count]))
        if isinstance(entry, LinkEntry):
            joined = posixpath.normpath("/".join((*parts[: count - 1], entry.target, *parts[count:])))
            if joined.startswith(("../", "/")) or joined in {"..", "."}:
                raise InvalidInput(f"{version.name}/{path} is a symlink that leads out of its version")
            return joined
        if not isinstance(entry, DirEntry):
            break
    return versions.entry(version, path)
