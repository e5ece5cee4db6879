"""Building: trees from plans. Files are opened, read once, checked to be at rest, and given to what stores or hashes them.

Used by the Draft. A :class:`Builder` does one tree, in one thread. What cannot be stored does not end it: every such file is named
in the end, and nothing is committed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from typing import Final, Protocol

import msgspec

from artifactfs.content.writer import FileContent
from artifactfs.errors import InvalidInput, NotFound
from artifactfs.model.digest import CHUNKS, DATA, digest
from artifactfs.model.names import check_part, leaves_artifact
from artifactfs.model.sequence import SINGLE_CHUNK
from artifactfs.model.tree import (
    DirEntry,
    Entry,
    FileEntry,
    LinkEntry,
    RefEntry,
    Trees,
    TreeSummary,
    build_tree,
    edit_tree,
)
from artifactfs.plan import UNKNOWN, Directory, Member, Source
from artifactfs.references.hashing import hash_stream

MAX_NAMED: Final = 20
"""Bad files that an error names; the rest are counted."""
READ_ATTEMPTS: Final = 3
"""How often a file that changes while it is read is tried."""


class Words(msgspec.Struct, frozen=True):
    """What messages tell the user to do, in the words of the interface in use."""

    twice: str
    follow: str
    type: str
    unchecked: str


COMMAND_LINE: Final = Words(
    twice="give one of them another name with PATH=NAME",
    follow="--follow-links stores what it points to, or leave it out",
    type="leave --type out or choose another name",
    unchecked="--no-checksum records the URI alone",
)
PYTHON: Final = Words(
    twice="pass overwrite=True (to add_dir: merge=True) to replace it, or give it another name=",
    follow="add_dir(…, follow_links=True) stores what it points to, or leave it out",
    type="give that type=, or choose another name=",
    unchecked="checksum=False records the URI alone",
)


class Storing(Protocol):
    """What a tree is built with: a ContentWriter, or a :class:`Hasher`."""

    def add_file(self, descriptor: int) -> FileContent:
        """The digest and size of a file, read from its beginning."""

    def add_node(self, kind: int, data: bytes) -> bytes:
        """The digest of a node."""


class Hasher:
    """Digests without storing."""

    def add_file(self, descriptor: int) -> FileContent:
        """As of a ContentWriter."""
        size = os.fstat(descriptor).st_size
        if size <= SINGLE_CHUNK:
            data = os.pread(descriptor, size + 1, 0)
            if len(data) <= size:
                return FileContent(digest(DATA, data), len(data))
        offset = 0

        def read(length: int) -> bytes:
            nonlocal offset
            data = os.pread(descriptor, length, offset)
            offset += len(data)
            return data

        hashed = hash_stream(read)
        return FileContent(hashed.digest, hashed.size)

    def add_node(self, kind: int, data: bytes) -> bytes:
        """As of a ContentWriter."""
        return digest(kind, data)


def hash_source(source: Source) -> FileContent:
    """The digest and size of a file that was added. An OSError passes."""
    descriptor = os.open(source.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return Hasher().add_file(descriptor)
    finally:
        os.close(descriptor)


class Builder:
    """Builds the tree of a plan. ``nodes`` are those of References' chunk lists, by checksum."""

    def __init__(
        self,
        storing: Storing,
        *,
        follow_links: bool,
        words: Words,
        trees: Trees | None = None,
        nodes: Mapping[str, tuple[bytes, ...]] | None = None,
    ) -> None:
        self._storing = storing
        self._follow = follow_links
        self._words = words
        self._trees = trees
        self._nodes = nodes or {}
        self._inside: list[tuple[int, int]] = []  # directories being built, outermost first: to see loops
        self.files = 0
        """Files built so far."""
        self.problems: list[str] = []
        """Files that cannot be stored, and why."""

    def build(self, directory: Directory, prefix: str = "") -> TreeSummary:
        """Build a directory; ``prefix`` is its path (ends with ``/``, or empty). Look at :attr:`problems` afterwards."""
        found: dict[str, Member] = dict(directory.members)
        depth = len(self._inside)
        for source in directory.sources:
            self._enter(source, found, prefix)
        entries = self._entries(found, prefix)
        if directory.base is None:
            tree = build_tree(entries, self._storing.add_node)
        else:
            assert self._trees is not None  # noqa: S101 - a base comes with the trees that read it
            changes: dict[str, Entry | None] = dict.fromkeys(directory.removed)
            changes |= {entry.name: entry for entry in entries}
            if changes:
                tree = edit_tree(self._trees, directory.base, changes, self._storing.add_node)
            else:
                tree = self._trees.summary(directory.base)
        del self._inside[depth:]
        return tree

    def _enter(self, directory: str, found: dict[str, Member], prefix: str) -> None:
        """Add a directory's members to ``found``; what cannot be is a problem."""
        try:
            if self._follow:
                status = os.stat(directory)  # noqa: PTH116 - text, a Path a file costs more than reading it
                place = (status.st_dev, status.st_ino)
                if place in self._inside:
                    self.problems.append(f"{directory}: a symlink leads back to a directory above it")
                    return
                self._inside.append(place)
            with os.scandir(directory) as listing:
                members = [(item.name, item.is_dir(follow_symlinks=self._follow)) for item in listing]
        except OSError as error:
            self.problems.append(f"{directory}: {(error.strerror or str(error)).lower()}")
            return
        for name, is_directory in members:
            path = f"{directory}/{name}"
            try:
                check_part(name)
            except InvalidInput as error:
                self.problems.append(f"{os.fsencode(path)!r}: {error}")
                continue
            other = found.get(name)
            if is_directory:
                below = other if isinstance(other, Directory) else Directory()
                below.sources.append(path)
                if other is None or below is other:
                    found[name] = below
                    continue
            elif other is None:
                found[name] = Source(directory, name, self._follow)
                continue
            self.problems.append(f"{path}: {prefix}{name} was added before from another place")

    def _entries(self, found: dict[str, Member], prefix: str) -> Iterator[Entry]:
        for name in sorted(found):
            member = found[name]
            if isinstance(member, Directory):
                yield self.build(member, f"{prefix}{name}/").entry(name)
            elif isinstance(member, Source):
                try:
                    entry = self._file(member, name, prefix)
                except (NotFound, InvalidInput) as error:
                    self.problems.append(str(error))
                    continue
                except OSError as error:
                    self.problems.append(_lost(member, error))
                    continue
                self.files += 1
                yield entry
            else:
                if isinstance(member, RefEntry) and member.checksum is not None:
                    for node in self._nodes.get(member.checksum, ()):
                        self._storing.add_node(CHUNKS, node)
                if not isinstance(member, DirEntry):
                    self.files += 1
                yield member

    def _file(self, source: Source, name: str, prefix: str) -> Entry:
        path = source.path
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if source.follow else os.O_NOFOLLOW))
        except OSError as error:
            # O_NOFOLLOW says ELOOP for a symlink; O_NONBLOCK keeps a FIFO from blocking; a socket says ENXIO.
            status = os.stat(path, follow_symlinks=source.follow)  # noqa: PTH116 - as above
            if source.size == UNKNOWN and stat.S_ISLNK(status.st_mode):
                return LinkEntry(name, link_target(path, prefix, self._words))
            if not stat.S_ISREG(status.st_mode):
                raise InvalidInput(f"{path}: a {kind_of(status.st_mode)} cannot be stored") from error
            raise
        try:
            for _ in range(READ_ATTEMPTS):
                before = os.fstat(fd)
                if not stat.S_ISREG(before.st_mode):
                    raise InvalidInput(f"{path}: a {kind_of(before.st_mode)} cannot be stored")
                _check_unchanged(source, before)
                if self.problems:
                    # Nothing will be committed any more: go on only to name the other bad files.
                    return FileEntry(name, 0, b"", executable=False)
                content = self._storing.add_file(fd)
                after = os.fstat(fd)
                if content.size == after.st_size and before.st_mtime_ns == after.st_mtime_ns:
                    return FileEntry(name, content.size, content.digest, bool(after.st_mode & 0o111))
        finally:
            os.close(fd)
        raise InvalidInput(
            f"{path}: the file changed each of {READ_ATTEMPTS} times it was read; put it when it is at rest"
        )


def scan(directory: str, into: Directory, prefix: str, *, follow_links: bool, words: Words) -> list[str]:
    """Add what a directory holds now to ``into``; ``prefix`` is where that will be. Returns what cannot be stored, and why."""
    problems: list[str] = []
    _scan(directory, into, prefix, follow_links, words, [], problems)
    return problems


def _scan(
    directory: str,
    into: Directory,
    prefix: str,
    follow: bool,
    words: Words,
    inside: list[tuple[int, int]],
    problems: list[str],
) -> None:
    try:
        if follow:
            status = os.stat(directory)  # noqa: PTH116 - text, a Path a file costs more than looking at it
            place = (status.st_dev, status.st_ino)
            if place in inside:
                problems.append(f"{directory}: a symlink leads back to a directory above it")
                return
            inside = [*inside, place]
        with os.scandir(directory) as listing:
            items = list(listing)
    except OSError as error:
        problems.append(f"{directory}: {(error.strerror or str(error)).lower()}")
        return
    for item in items:
        try:
            name = check_part(item.name)
        except InvalidInput as error:
            problems.append(f"{os.fsencode(item.path)!r}: {error}")
            continue
        try:
            status = item.stat(follow_symlinks=follow)
            if stat.S_ISDIR(status.st_mode):
                below = into.members[name] = Directory()
                _scan(item.path, below, f"{prefix}{name}/", follow, words, inside, problems)
            elif stat.S_ISREG(status.st_mode):
                into.members[name] = Source(directory, name, follow, status.st_size, status.st_mtime_ns)
            elif stat.S_ISLNK(status.st_mode):
                into.members[name] = LinkEntry(name, link_target(item.path, prefix, words))
            else:
                problems.append(f"{item.path}: a {kind_of(status.st_mode)} cannot be stored")
        except InvalidInput as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{item.path}: {(error.strerror or str(error)).lower()}")


def refusal(problems: list[str], verb: str, outcome: str) -> InvalidInput:
    """Problems as one error: a heading, and a line each for up to 20 files."""
    heading = "1 file" if len(problems) == 1 else f"{len(problems)} files"
    return InvalidInput("\n  ".join([f"{heading} cannot be {verb}; {outcome}:", *shortened(problems)]))


def shortened(lines: list[str]) -> list[str]:
    """Up to 20 lines, and how many more there are."""
    more = [f"and {len(lines) - MAX_NAMED} more"] if len(lines) > MAX_NAMED else []
    return [*lines[:MAX_NAMED], *more]


def link_target(path: str, prefix: str, words: Words) -> str:
    """Where a symlink points to; ``prefix`` is its directory inside the artifact. InvalidInput when that is outside."""
    target = os.readlink(path)  # noqa: PTH115 - the text as it stands, not a normalised Path
    try:
        target.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"{path}: the symlink's target is not valid UTF-8") from None
    if leaves_artifact(prefix, target):
        raise InvalidInput(f"{path}: the symlink points outside the artifact, to {target!r}; {words.follow}")
    return target


def kind_of(mode: int) -> str:
    """What a mode says a file is, in a word."""
    kinds = {stat.S_IFDIR: "directory", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFLNK: "symlink"}
    return kinds.get(stat.S_IFMT(mode), "device")


def _check_unchanged(source: Source, status: os.stat_result) -> None:
    if source.size != UNKNOWN and (source.size, source.modified) != (status.st_size, status.st_mtime_ns):
        raise InvalidInput(
            f"{source.path}: the file was changed after it was added; add it again (overwrite=True), "
            "and log it before it changes"
        )


def _lost(source: Source, error: OSError) -> str:
    reason = (error.strerror or str(error)).lower()
    if source.size != UNKNOWN and isinstance(error, FileNotFoundError):
        reason = "the file has gone since it was added; keep it until it is logged, or write it with new_file()"
    return f"{source.path}: {reason}"
