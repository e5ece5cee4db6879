"""Draft: a Version being built from local files, directories, References and what another version has.

Used by `put` and by the Python API. A Draft belongs to one thread at a time. Nothing is visible before :meth:`Draft.commit` returns;
whatever goes wrong before leaves the artifact as it was.

Content is read when it is stored, once, and copied nowhere before. `put` takes directories as they are then. The Python API adds them
as they are when they are added (:meth:`Draft.add_file`, :meth:`Draft.add_directory`): what differs in size or time later is refused.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from artifactfs.building import (
    COMMAND_LINE,
    Builder,
    Hasher,
    Storing,
    Words,
    hash_source,
    kind_of,
    refusal,
    scan,
    shortened,
)
from artifactfs.content.writer import ContentWriter, FileContent
from artifactfs.errors import Access, Conflict, InvalidInput, NotFound, Unavailable, translate_os
from artifactfs.model.names import (
    LATEST,
    check_alias,
    check_entry_path,
    check_metadata,
    check_name,
    check_tag,
    check_type,
)
from artifactfs.model.records import CommitResult
from artifactfs.model.tree import Entry, FileEntry, RefEntry, TreeSummary
from artifactfs.plan import Directory, Member, Plan, Source
from artifactfs.references.contract import MAX_OBJECTS, Resolved
from artifactfs.references.references import resolve
from artifactfs.repository import Progress, Repository, Writing, is_url

COMMIT_ATTEMPTS: Final = 20
"""How often an increment is put over a `latest` that others move meanwhile."""
NO_VERSION: Final = -1
"""The base of an increment to an artifact without a version."""
PART_SECONDS: Final = 86_400.0
"""How long a part of a draft waits for the draft to be finished."""


class DraftStats(msgspec.Struct):
    """What a commit did: files, plain bytes read, bytes that went to the Store, chunks new and known."""

    files: int = 0
    bytes_read: int = 0
    bytes_stored: int = 0
    chunks_new: int = 0
    chunks_known: int = 0


class Draft:
    """Collects what a version shall hold, then commits it.

    ``repository`` None: it is said with the commit. ``base``: the digest of a tree of ``repository`` to start from.
    ``versions``: those (artifact, number) that ``base`` is of, which are kept while the draft is stored. ``incremental``: it goes over
    what is `latest` when it is committed.
    """

    def __init__(
        self,
        repository: Repository | None = None,
        *,
        follow_links: bool = False,
        base: bytes | None = None,
        versions: Collection[tuple[str, int]] = (),
        incremental: bool = False,
        words: Words = COMMAND_LINE,
    ) -> None:
        self._repository = repository
        self._follow = follow_links
        self._incremental = incremental
        self._versions = tuple(versions)
        self._base = base
        self._words = words
        self._plan = Plan(repository.trees if repository is not None else None, base)
        self._directories: list[Path] = []  # that were added: the repository may lie in none of them
        self._nodes: dict[str, tuple[bytes, ...]] = {}  # of chunk lists of References, by checksum
        self.stats = DraftStats()

    # -- collecting ------------------------------------------------------------------------------------------------

    def add(self, source: Path, name: str | None = None) -> None:
        """Add a file (under ``name``, default its base name) or a directory's contents (below ``name``, default the root).

        What they hold is what they will hold when they are stored. Raises NotFound, Access or InvalidInput (no file or directory; a
        path that leaves the artifact; a path added twice).
        """
        try:
            status = source.stat()
        except OSError as error:
            raise translate_os(error, f"cannot read {source}") from error
        if stat.S_ISDIR(status.st_mode):
            if self._repository is not None:
                _refuse_repository(self._repository, source)
            self._plan.directory(check_entry_path(name).split("/") if name else []).sources.append(str(source))
            return
        if not stat.S_ISREG(status.st_mode):
            raise InvalidInput(f"{source} is neither a file nor a directory; only these can be stored")
        self._place(check_entry_path(name or source.name), Source(str(source.parent), source.name, follow=True))

    def add_file(self, source: Path, name: str | None = None, *, overwrite: bool = False) -> str:
        """Add a file as it is now, under ``name`` (default: its base name); returns its path there. Errors as :meth:`add`."""
        whole = source.absolute()
        try:
            status = whole.stat()
        except OSError as error:
            raise translate_os(error, f"cannot add {source}") from error
        if not stat.S_ISREG(status.st_mode):
            hint = "; add_dir adds a directory" if stat.S_ISDIR(status.st_mode) else ""
            raise InvalidInput(f"cannot add {source}: a {kind_of(status.st_mode)} is no file{hint}")
        path = check_entry_path(name or whole.name)
        member = Source(str(whole.parent), whole.name, True, status.st_size, status.st_mtime_ns)
        self._place(path, member, overwrite=overwrite)
        return path

    def add_directory(
        self, source: Path, name: str | None = None, *, overwrite: bool = False, follow_links: bool = False
    ) -> None:
        """Add a directory's contents as they are now, below ``name`` (default: the root), all or none. Errors as :meth:`add`."""
        whole = source.absolute()
        if not whole.is_dir():
            if not whole.exists():
                raise NotFound(f"cannot add {source}: no such directory")
            raise InvalidInput(f"cannot add {source}: it is no directory; add_file adds a file")
        prefix = check_entry_path(name) if name else ""
        incoming = Directory()
        inside = f"{prefix}/" if prefix else ""
        problems = scan(str(whole), incoming, inside, follow_links=follow_links, words=self._words)
        if problems:
            raise refusal(problems, "added", "nothing was added")
        self._plan.merge(prefix, incoming, overwrite=overwrite, same=self._same, hint=self._words.twice)
        self._directories.append(whole)

    def add_references(
        self, found: Iterable[Resolved], name: str | None, *, overwrite: bool = False
    ) -> list[tuple[str, RefEntry]]:
        """Add what a URI stands for: one object under ``name`` (default: its own), several below it. Returns paths and entries."""
        added: list[tuple[str, RefEntry]] = []
        incoming = Plan()
        nodes: dict[str, tuple[bytes, ...]] = {}
        for each in found:
            inner = f"{name}/{each.path}" if name and each.path else each.path or name or each.entry.name
            path = check_entry_path(inner)
            entry = msgspec.structs.replace(each.entry, name=path.rpartition("/")[2])
            incoming.place(path, entry, overwrite=False, same=self._same, hint=self._words.twice)
            if each.nodes and entry.checksum:
                nodes[entry.checksum] = each.nodes
            added.append((path, entry))
        self._plan.merge("", incoming.root, overwrite=overwrite, same=self._same, hint=self._words.twice)
        self._nodes |= nodes
        return added

    def add_reference(
        self,
        uri: str,
        name: str | None = None,
        *,
        checksum: bool = True,
        limit: int | None = None,
        progress: Callable[[int], None] | None = None,
        overwrite: bool = False,
        repository: Repository | None = None,
    ) -> list[tuple[str, RefEntry]]:
        """Add an outside URI, whose bytes are not stored: what is known of it, and of all below it, is recorded.

        ``checksum`` False asks nothing and records the URI alone. ``repository`` finds ``artifact://`` URIs for a draft without one.
        Returns paths and entries. Raises as References.resolve.
        """
        asked = repository or self._repository
        find = asked.references.resolve if asked is not None else resolve
        last = check_entry_path(name).rpartition("/")[2] if name else ""
        try:
            found = find(uri, name=last, checksum=checksum, limit=limit or MAX_OBJECTS, progress=progress)
            return self.add_references(found, name, overwrite=overwrite)
        except (NotFound, Access, Unavailable) as error:
            raise type(error)(f"{error}; {self._words.unchecked}") from error

    def add_tree(self, tree: bytes, repository: Repository) -> None:
        """Add all that a tree of the repository has. Conflict names paths that are there with other contents."""
        clashes = self._plan.graft(repository.trees, tree, same=self._same)
        if clashes:
            what = "1 path was" if len(clashes) == 1 else f"{len(clashes)} paths were"
            heading = f"{what} added by several parts with different contents; give them other names:"
            raise Conflict("\n  ".join([heading, *shortened(clashes)]))

    def remove(self, path: str) -> None:
        """Take a file, or a directory with all below it, out again. NotFound without it."""
        self._plan.remove(path)

    def find(self, path: str) -> Member | None:
        """What is at a path, or None."""
        return self._plan.find(path)

    def walk(self) -> Iterator[tuple[str, Source | Entry]]:
        """Every path that is no directory. What was added by :meth:`add` from a directory is not read for it."""
        return self._plan.walk()

    def totals(self) -> tuple[int, int]:
        """Files and bytes, as far as :meth:`walk` shows them."""
        return self._plan.totals()

    def measure(self) -> tuple[int, int]:
        """Files and bytes that the sources hold now, for a progress bar; unreadable ones count nothing."""
        files = size = 0
        for path in self._sources(self._plan.root):
            try:
                status = path.stat() if self._follow else path.lstat()
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode):
                files, size = files + 1, size + status.st_size
        return files, size

    def _sources(self, directory: Directory) -> Iterator[Path]:
        for member in directory.members.values():
            if isinstance(member, Directory):
                yield from self._sources(member)
            elif isinstance(member, Source):
                yield Path(member.path)
        for source in directory.sources:
            for parent, _, names in os.walk(source, followlinks=self._follow):
                for name in names:
                    yield Path(parent, name)

    def _place(self, path: str, member: Source | Entry, *, overwrite: bool = False) -> None:
        self._plan.place(path, member, overwrite=overwrite, same=self._same, hint=self._words.twice)

    def _same(self, present: Member, member: Member) -> bool:
        """Whether both have the same contents. An OSError of a file counts as no."""
        if isinstance(present, Source) and isinstance(member, Source) and present == member:
            return True
        one, other = self._contents(present), self._contents(member)
        return one is not None and one == other

    def _contents(self, member: Member) -> object:
        if isinstance(member, Source):
            try:
                return hash_source(member)
            except OSError:
                return None
        if isinstance(member, FileEntry):
            return FileContent(member.digest, member.size)
        return member

    # -- committing ------------------------------------------------------------------------------------------------

    def digest(self) -> TreeSummary:
        """What the version's tree will be, by hashing alone. InvalidInput names files that cannot be stored."""
        return self._build(self._builder(Hasher()))

    def commit(
        self,
        name: str,
        *,
        type: str | None = None,  # noqa: A002 - the word of the vocabulary
        aliases: tuple[str, ...] = (),
        tags: tuple[str, ...] = (),
        description: str | None = None,
        metadata: dict[str, Any] | None = None,
        progress: Callable[[Progress], None] | None = None,
        run: str | None = None,
        find: bool = False,
        draft: str | None = None,
        repository: Repository | None = None,
    ) -> CommitResult:
        """Store what was collected and make it the next version of ``name``, or find the one that equals it.

        ``run`` is the Run whose output it becomes. ``find``: a version with these contents is found, not logged: nothing of it
        changes, and the Run has it as an input. ``draft`` names the parts that go with this commit.

        Raises InvalidInput (names; files that cannot be stored, up to 20 named), Conflict (type), Integrity, NoSpace.
        """
        check_name(name)
        if type is not None:
            check_type(type)
        for alias in aliases:
            check_alias(alias)
        for tag in tags:
            check_tag(tag)
        metadata = check_metadata(metadata) if metadata is not None else None
        destination = self._destination(repository)
        self._check_type(destination, name, type)
        for attempt in range(COMMIT_ATTEMPTS):
            with destination.writing("put") as writing:
                # What is found alive under the Session stays until it ends.
                base = self._rebase(destination, name) if self._incremental else None
                if writing.room is not None:
                    writing.room.logical(self.measure()[1], new=lambda: self._is_new(destination, name))
                root = self._store(writing, progress)
                try:
                    result = writing.commit(
                        name,
                        root,
                        type=type,
                        aliases=aliases,
                        tags=tags,
                        description=description,
                        metadata=metadata,
                        base=base,
                        run=run,
                        find=find,
                        draft=draft,
                    )
                except Conflict:
                    moved = self._incremental and _latest(destination, name) != base
                    if not moved or attempt == COMMIT_ATTEMPTS - 1:
                        raise
                    continue
                self._count(writing.writer)
                return result
        raise AssertionError("the last attempt returns or raises")

    def store_part(self, name: str, draft: str, repository: Repository) -> bytes:
        """Store what was collected as a part of a draft, which another process finishes within a day; returns its tree."""
        with self._destination(repository).writing("part", lasting=PART_SECONDS) as writing:
            root = self._store(writing, None)
            writing.add_part(check_name(name), draft, root)
            self._count(writing.writer)
        return root.digest

    def _destination(self, repository: Repository | None) -> Repository:
        destination = repository or self._repository
        if destination is None:
            raise InvalidInput("a draft that was made without a repository is committed to one: say which")
        if self._repository is not None and not destination.is_same(self._repository):
            raise InvalidInput(
                f"the draft was made from a version in project {self._repository.project!r} of {self._repository.location}, "
                "and can only become a version there"
            )
        for directory in self._directories:
            _refuse_repository(destination, directory)
        if self._plan.trees is not None:
            self._plan.trees = destination.trees  # after a fork the same repository is another object
        return destination

    def _check_type(self, repository: Repository, name: str, wanted: str | None) -> None:
        """Said before anything is read; the registry's transaction decides in the end."""
        known = repository.registry.artifact(name)
        if known is not None and wanted is not None and known.type != wanted:
            raise Conflict(f"{name} has the type {known.type!r}, not {wanted!r}; {self._words.type}")

    def _is_new(self, repository: Repository, name: str) -> bool:
        """Whether no version of an artifact has these contents. Reads all of them."""
        return repository.registry.find_digest(name, self.digest().digest) is None

    def _rebase(self, repository: Repository, name: str) -> int:
        latest = repository.registry.resolve(name, LATEST)
        self._plan.rebase(repository.trees, latest.digest if latest is not None else None)
        return latest.number if latest is not None else NO_VERSION

    def _store(self, writing: Writing, progress: Callable[[Progress], None] | None) -> TreeSummary:
        if self._versions:
            writing.keep(self._versions, self._base)
        writer = writing.writer
        builder = self._builder(writer)
        if progress is not None:
            writer.progress = lambda: progress(Progress(builder.files, writer.bytes_read, writer.bytes_stored))
        root = self._build(builder)
        self.stats.files = builder.files
        return root

    def _builder(self, storing: Storing) -> Builder:
        return Builder(storing, follow_links=self._follow, words=self._words, trees=self._plan.trees, nodes=self._nodes)

    def _build(self, builder: Builder) -> TreeSummary:
        root = builder.build(self._plan.root)
        if builder.problems:
            raise refusal(builder.problems, "stored", "nothing was committed")
        return root

    def _count(self, writer: ContentWriter) -> None:
        stats = self.stats
        stats.bytes_read = writer.bytes_read
        stats.bytes_stored = writer.bytes_stored
        stats.chunks_new = writer.chunks_new
        stats.chunks_known = writer.chunks_known


def _latest(repository: Repository, name: str) -> int:
    latest = repository.registry.resolve(name, LATEST)
    return latest.number if latest is not None else NO_VERSION


def _refuse_repository(repository: Repository, source: Path) -> None:
    if is_url(repository.location):
        return
    home = Path(repository.location).resolve()
    if home.is_relative_to(source.resolve()):
        raise InvalidInput(f"{source} contains the repository itself ({home}); put the files beside it instead")
