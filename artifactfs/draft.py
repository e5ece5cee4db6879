"""Draft: a Version being built from local files, directories and References.

Used by `put` (and, later, by the Python API). A Draft belongs to one thread. Nothing is visible before :meth:`Draft.commit` returns;
whatever goes wrong before leaves the artifact as it was.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from artifactfs.content.writer import ContentWriter, FileContent
from artifactfs.errors import ArtifactFSError, Conflict, InvalidInput, NotFound, translate_os
from artifactfs.model.names import (
    check_alias,
    check_entry_path,
    check_metadata,
    check_name,
    check_part,
    check_type,
    leaves_artifact,
)
from artifactfs.model.records import CommitResult
from artifactfs.model.tree import Entry, FileEntry, LinkEntry, RefEntry, TreeSummary, build_tree
from artifactfs.repository import Progress, Repository

MAX_NAMED: Final = 20
"""Bad files that an error names; the rest are counted."""
READ_ATTEMPTS: Final = 3
"""How often a file that changes while it is read is tried."""


class DraftStats(msgspec.Struct):
    """What a commit did: files, plain bytes read, bytes that went to the Store, chunks new and known."""

    files: int = 0
    bytes_read: int = 0
    bytes_stored: int = 0
    chunks_new: int = 0
    chunks_known: int = 0


class _Plan:
    """What goes into one directory: single members by name, and directories whose contents are taken over."""

    def __init__(self) -> None:
        self.members: dict[str, str | RefEntry | _Plan] = {}
        self.directories: list[str] = []


class Draft:
    """Collects what a version shall hold, then commits it."""

    def __init__(self, repository: Repository, *, follow_links: bool = False) -> None:
        self._repository = repository
        self._follow = follow_links
        self._root = _Plan()
        self._problems: list[str] = []
        self._inside: list[tuple[int, int]] = []  # directories being built, outermost first: to see loops
        self._named: set[str] = set()  # files given by name: these are followed when they are symlinks
        self.stats = DraftStats()

    # -- collecting ------------------------------------------------------------------------------------------------

    def add(self, source: Path, name: str | None = None) -> None:
        """Add a file (under ``name``, default its base name) or a directory's contents (below ``name``, default the root).

        Raises NotFound, Access or InvalidInput (no file or directory; a path that leaves the artifact; a path added twice).
        """
        try:
            status = source.stat()
        except OSError as error:
            raise translate_os(error, f"cannot read {source}") from error
        if stat.S_ISDIR(status.st_mode):
            self._refuse_repository(source)
            plan = self._plan_at(check_entry_path(name).split("/") if name else [])
            plan.directories.append(str(source))
            return
        if not stat.S_ISREG(status.st_mode):
            raise InvalidInput(f"{source} is neither a file nor a directory; only these can be stored")
        *parents, last = check_entry_path(name or source.name).split("/")
        self._named.add(str(source))
        self._place(self._plan_at(parents), last, str(source), name or source.name)

    def add_reference(self, uri: str, name: str | None = None) -> None:
        """Add a Reference: an entry that names an outside URI, whose bytes are not stored."""
        parts = urlsplit(uri)
        if not parts.scheme:
            raise InvalidInput(f"not a URI: {uri!r}; a reference looks like s3://bucket/key or https://host/file")
        path = name or parts.path.rstrip("/").rpartition("/")[2] or parts.netloc
        *parents, last = check_entry_path(path).split("/")
        self._place(self._plan_at(parents), last, RefEntry(last, uri, None, None, None, None), path)

    def measure(self) -> tuple[int, int]:
        """Files and bytes that the sources hold now, for a progress bar; unreadable ones count nothing."""
        files = size = 0
        for path in self._sources(self._root):
            try:
                status = path.stat() if self._follow else path.lstat()
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode):
                files, size = files + 1, size + status.st_size
        return files, size

    def _sources(self, plan: _Plan) -> Iterator[Path]:
        for member in plan.members.values():
            if isinstance(member, _Plan):
                yield from self._sources(member)
            elif isinstance(member, str):
                yield Path(member)
        for directory in plan.directories:
            for parent, _, names in os.walk(directory, followlinks=self._follow):
                for name in names:
                    yield Path(parent, name)

    def _plan_at(self, parts: list[str]) -> _Plan:
        plan = self._root
        for count, part in enumerate(parts, 1):
            below = plan.members.setdefault(part, _Plan())
            if not isinstance(below, _Plan):
                raise InvalidInput(f"{'/'.join(parts[:count])} was added as a file; it cannot be a directory as well")
            plan = below
        return plan

    def _place(self, plan: _Plan, name: str, member: str | RefEntry, path: str) -> None:
        if name in plan.members:
            raise InvalidInput(f"{path} was added twice; give one of them another name with PATH=NAME")
        plan.members[name] = member

    def _refuse_repository(self, source: Path) -> None:
        home = Path(self._repository.location).resolve()
        if home.is_relative_to(source.resolve()):
            raise InvalidInput(f"{source} contains the repository itself ({home}); put the files beside it instead")

    # -- committing ------------------------------------------------------------------------------------------------

    def commit(
        self,
        name: str,
        *,
        type: str | None = None,  # noqa: A002 - the word of the vocabulary
        aliases: tuple[str, ...] = (),
        description: str | None = None,
        metadata: dict[str, Any] | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> CommitResult:
        """Store what was collected and make it the next version of ``name``, or find the one that equals it.

        Raises InvalidInput (names; files that cannot be stored, up to 20 named), Conflict (type), Integrity, NoSpace.
        """
        check_name(name)
        if type is not None:
            check_type(type)
        for alias in aliases:
            check_alias(alias)
        metadata = check_metadata(metadata) if metadata is not None else None
        known = self._repository.registry.artifact(name)
        if known is not None and type is not None and known.type != type:
            # Said before anything is read; the registry's transaction decides in the end.
            raise Conflict(f"{name} has the type {known.type!r}, not {type!r}; leave --type out or choose another name")
        with self._repository.writing("put") as writing:
            writer = writing.writer
            if progress is not None:
                writer.progress = lambda: progress(Progress(self.stats.files, writer.bytes_read, writer.bytes_stored))
            root = self._build(self._root, "", writer)
            if self._problems:
                raise self._refusal()
            result = writing.commit(name, root, type=type, aliases=aliases, description=description, metadata=metadata)
            self._count(writer)
        return result

    def _refusal(self) -> ArtifactFSError:
        count = len(self._problems)
        named = self._problems[:MAX_NAMED]
        rest = [f"and {count - MAX_NAMED} more"] if count > MAX_NAMED else []
        heading = "1 file cannot be stored" if count == 1 else f"{count} files cannot be stored"
        return InvalidInput("\n  ".join([f"{heading}; nothing was committed:", *named, *rest]))

    def _count(self, writer: ContentWriter) -> None:
        stats = self.stats
        stats.bytes_read = writer.bytes_read
        stats.bytes_stored = writer.bytes_stored
        stats.chunks_new = writer.chunks_new
        stats.chunks_known = writer.chunks_known

    def _build(self, plan: _Plan, prefix: str, writer: ContentWriter) -> TreeSummary:
        found: dict[str, str | RefEntry | _Plan] = dict(plan.members)
        depth = len(self._inside)
        for directory in plan.directories:
            self._enter(directory, found, prefix)
        entries = self._entries(found, prefix, writer)
        tree = build_tree(entries, writer.add_node)
        del self._inside[depth:]
        return tree

    def _enter(self, directory: str, found: dict[str, str | RefEntry | _Plan], prefix: str) -> None:
        """Add a directory's members to ``found``; what cannot be is a problem."""
        try:
            if self._follow:
                status = os.stat(directory)  # noqa: PTH116 - text, a Path a file costs more than reading it
                place = (status.st_dev, status.st_ino)
                if place in self._inside:
                    self._problems.append(f"{directory}: a symlink leads back to a directory above it")
                    return
                self._inside.append(place)
            with os.scandir(directory) as listing:
                members = [(item.name, item.is_dir(follow_symlinks=self._follow)) for item in listing]
        except OSError as error:
            self._problems.append(f"{directory}: {(error.strerror or str(error)).lower()}")
            return
        for name, is_directory in members:
            path = f"{directory}/{name}"
            try:
                check_part(name)
            except InvalidInput as error:
                self._problems.append(f"{os.fsencode(path)!r}: {error}")
                continue
            other = found.get(name)
            if is_directory:
                below = other if isinstance(other, _Plan) else _Plan()
                below.directories.append(path)
                if other is None or below is other:
                    found[name] = below
                    continue
            elif other is None:
                found[name] = path
                continue
            self._problems.append(f"{path}: {prefix}{name} was added before from another place")

    def _entries(self, found: dict[str, str | RefEntry | _Plan], prefix: str, writer: ContentWriter) -> Iterator[Entry]:
        for name in sorted(found):
            member = found[name]
            if isinstance(member, RefEntry):
                self.stats.files += 1
                yield member
            elif isinstance(member, _Plan):
                yield self._build(member, f"{prefix}{name}/", writer).entry(name)
            else:
                try:
                    entry = self._file(member, name, prefix, writer)
                except (NotFound, InvalidInput) as error:
                    self._problems.append(str(error))
                    continue
                except OSError as error:
                    self._problems.append(f"{member}: {(error.strerror or str(error)).lower()}")
                    continue
                self.stats.files += 1
                yield entry

    def _file(self, path: str, name: str, prefix: str, writer: ContentWriter) -> Entry:
        # A name on the command line is followed; below a directory a symlink is an entry of its own.
        follow = self._follow or path in self._named
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW))
        except OSError as error:
            # O_NOFOLLOW says ELOOP for a symlink; O_NONBLOCK keeps a FIFO from blocking; a socket says ENXIO.
            status = os.stat(path, follow_symlinks=follow)  # noqa: PTH116 - as above
            if stat.S_ISLNK(status.st_mode):
                return LinkEntry(name, self._link_target(path, prefix))
            if not stat.S_ISREG(status.st_mode):
                raise InvalidInput(f"{path}: a {_kind_of(status.st_mode)} cannot be stored") from error
            raise
        try:
            for _ in range(READ_ATTEMPTS):
                before = os.fstat(fd)
                if not stat.S_ISREG(before.st_mode):
                    raise InvalidInput(f"{path}: a {_kind_of(before.st_mode)} cannot be stored")
                if self._problems:
                    # Nothing will be committed any more: go on only to name the other bad files.
                    return FileEntry(name, 0, b"", executable=False)
                content: FileContent = writer.add_file(fd)
                after = os.fstat(fd)
                if content.size == after.st_size and before.st_mtime_ns == after.st_mtime_ns:
                    return FileEntry(name, content.size, content.digest, bool(after.st_mode & 0o111))
        finally:
            os.close(fd)
        raise InvalidInput(
            f"{path}: the file changed each of {READ_ATTEMPTS} times it was read; put it when it is at rest"
        )

    def _link_target(self, path: str, prefix: str) -> str:
        target = os.readlink(path)  # noqa: PTH115 - the text as it stands, not a normalised Path
        check_link(prefix, target, path)
        return target


def check_link(prefix: str, target: str, shown: str) -> None:
    """Refuse a symlink that leaves the artifact; ``prefix`` is its directory inside the artifact (ends with ``/``, or empty)."""
    try:
        target.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"{shown}: the symlink's target is not valid UTF-8") from None
    if leaves_artifact(prefix, target):
        raise InvalidInput(
            f"{shown}: the symlink points outside the artifact, to {target!r}; "
            "--follow-links stores what it points to, or leave it out"
        )


def _kind_of(mode: int) -> str:
    kinds = {stat.S_IFDIR: "directory", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFLNK: "symlink"}
    return kinds.get(stat.S_IFMT(mode), "device")
