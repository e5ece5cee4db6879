"""Plan: what a version shall hold, by path, before any of it is read.

Used by the Draft. Holds names, not bytes: files on this machine, entries that are known already, and directories of these, which may
change a directory that a repository holds without reading more of it than the nodes concerned. Not safe for several threads at a
time; its owner locks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import merge
from typing import Final

import msgspec

from artifactfs.errors import InvalidInput, NotFound
from artifactfs.model.tree import DirEntry, Entry, Trees, size_of

UNKNOWN: Final = -1
"""Size or time of a file that is taken as it is when it is read."""


class Source(msgspec.Struct, frozen=True, gc=False):
    """A file on this machine. ``follow``: it may be a symlink to one. Size and time (ns) of its last change when it was added."""

    parent: str
    name: str
    follow: bool
    size: int = UNKNOWN
    modified: int = UNKNOWN

    @property
    def path(self) -> str:
        """Where it lies."""
        return f"{self.parent}/{self.name}"


class Directory:
    """What goes into one directory.

    ``base`` is a stored directory that it starts from (digest), less the names in ``removed``; ``members`` come over it.
    ``sources`` are directories on this machine whose contents are taken over as they are when they are read.
    """

    __slots__ = ("base", "members", "removed", "sources")

    def __init__(self, base: bytes | None = None) -> None:
        self.base = base
        self.members: dict[str, Member] = {}
        self.removed: set[str] = set()
        self.sources: list[str] = []


Member = Source | Directory | Entry
Same = Callable[[Member, Member], bool]


class Plan:
    """A tree to be. ``trees`` reads stored directories; without them it starts from nothing."""

    def __init__(self, trees: Trees | None = None, base: bytes | None = None) -> None:
        self.trees = trees
        self.root = Directory(base)

    def place(self, path: str, member: Source | Entry, *, overwrite: bool, same: Same, hint: str) -> None:
        """Put a file or entry at a path. What is there already may be ``same``, or is replaced with ``overwrite``.

        InvalidInput otherwise, with ``hint`` on what to do; and when a file is where a directory is needed, or the other way round.
        """
        *parents, last = path.split("/")
        directory = self.directory(parents)
        present = self._present(directory, last)
        if present is not None and not _replaceable(present, member, path, overwrite=overwrite, same=same, hint=hint):
            return
        directory.members[last] = member

    def merge(self, path: str, incoming: Directory, *, overwrite: bool, same: Same, hint: str) -> None:
        """Put a directory's members below a path ("" is the root), all or none. Errors as :meth:`place`."""
        parts = path.split("/") if path else []
        below: Member | None = self.root
        for part in parts:
            below = self._present(below, part) if isinstance(below, Directory | DirEntry) else None
            if below is None:
                break
        if isinstance(below, Directory | DirEntry):
            self._check(below, incoming, f"{path}/" if path else "", overwrite=overwrite, same=same, hint=hint)
        self._merge(self.directory(parts), incoming, overwrite=overwrite)

    def directory(self, parts: list[str]) -> Directory:
        """The directory of a path, to be changed; made when it is not there. InvalidInput when a file is in the way."""
        directory = self.root
        for count, part in enumerate(parts, 1):
            directory = self._below(directory, part, "/".join(parts[:count]))
        return directory

    def graft(self, trees: Trees, tree: bytes, *, same: Same) -> list[str]:
        """Add all that a stored tree has; returns paths that are there with other contents, which stay as they are.

        ``trees`` reads what the plan starts from, too.
        """
        self.trees = trees
        clashes: list[str] = []
        self._graft(self.root, tree, "", same, clashes)
        return clashes

    def rebase(self, trees: Trees, base: bytes | None) -> None:
        """Put all members over another stored tree, or over none; what they replace may be of any kind."""
        self.trees = trees
        self._rebase(self.root, base)

    def find(self, path: str) -> Member | None:
        """What is at a path (not empty), or None."""
        found: Member | None = self.root
        for part in path.split("/"):
            if not isinstance(found, Directory | DirEntry):
                return None
            found = self._present(found, part)
        return found

    def remove(self, path: str) -> None:
        """Take a file, or a directory with all below it, out again; directories that become empty go too. NotFound without it."""
        if self.find(path) is None:
            raise NotFound(f"{path!r} is not in the artifact, so it cannot be removed")
        parts = path.split("/")
        while parts:
            *above, name = parts
            directory = self.directory(above)
            directory.members.pop(name, None)
            if directory.base is not None and self._lookup(directory.base, name) is not None:
                directory.removed.add(name)
            if not self._is_empty(directory):
                return
            parts = above

    def walk(self) -> Iterator[tuple[str, Source | Entry]]:
        """Every path that is no directory, in the order of a stored tree. Sources of directories are not read."""
        return self._walk(self.root, "")

    def totals(self) -> tuple[int, int]:
        """Files and bytes, as :meth:`walk` would count them; stored directories are not walked for it."""
        return self._totals(self.root)

    # -- within ----------------------------------------------------------------------------------------------------

    def _lookup(self, directory: bytes, name: str) -> Entry | None:
        assert self.trees is not None  # noqa: S101 - a base comes with the trees that read it
        found = self.trees.lookup(directory, name)
        return found.entry if found is not None else None

    def _present(self, directory: Directory | DirEntry, name: str) -> Member | None:
        if isinstance(directory, DirEntry):
            return self._lookup(directory.digest, name)
        member = directory.members.get(name)
        if member is None and directory.base is not None and name not in directory.removed:
            return self._lookup(directory.base, name)
        return member

    def _below(self, directory: Directory, name: str, path: str) -> Directory:
        present = self._present(directory, name)
        if isinstance(present, Directory):
            return present
        if present is not None and not isinstance(present, DirEntry):
            raise InvalidInput(f"{path} was added as a file; it cannot be a directory as well")
        below = Directory(present.digest if present is not None else None)
        directory.members[name] = below
        return below

    def _check(
        self, there: Directory | DirEntry, incoming: Directory, prefix: str, *, overwrite: bool, same: Same, hint: str
    ) -> None:
        for name, member in incoming.members.items():
            present = self._present(there, name)
            path = f"{prefix}{name}"
            if isinstance(present, Directory | DirEntry) and isinstance(member, Directory):
                self._check(present, member, f"{path}/", overwrite=overwrite, same=same, hint=hint)
            elif present is not None:
                _replaceable(present, member, path, overwrite=overwrite, same=same, hint=hint)

    def _merge(self, there: Directory, incoming: Directory, *, overwrite: bool) -> None:
        for name, member in incoming.members.items():
            if isinstance(member, Directory):
                self._merge(self._below(there, name, name), member, overwrite=overwrite)
            elif overwrite or self._present(there, name) is None:  # else the same is there, as was checked
                there.members[name] = member

    def _graft(self, directory: Directory, tree: bytes, prefix: str, same: Same, clashes: list[str]) -> None:
        assert self.trees is not None  # noqa: S101 - as above
        for _, _, entry in self.trees.scan(tree):
            present = self._present(directory, entry.name)
            if present is None:
                directory.members[entry.name] = entry
            elif isinstance(present, Directory | DirEntry) and isinstance(entry, DirEntry):
                if present != entry:
                    below = self._below(directory, entry.name, entry.name)
                    self._graft(below, entry.digest, f"{prefix}{entry.name}/", same, clashes)
            elif not same(present, entry):
                clashes.append(f"{prefix}{entry.name}")

    def _rebase(self, directory: Directory, base: bytes | None) -> None:
        directory.base = base
        for name, member in directory.members.items():
            if isinstance(member, Directory | DirEntry):
                below = self._lookup(base, name) if base is not None else None
                if isinstance(member, DirEntry) and isinstance(below, DirEntry):
                    member = self._opened(member)  # noqa: PLW2901 - the same, entry by entry
                    directory.members[name] = member
                if isinstance(member, Directory):
                    self._rebase(member, below.digest if isinstance(below, DirEntry) else None)

    def _opened(self, entry: DirEntry) -> Directory:
        assert self.trees is not None  # noqa: S101 - as above
        directory = Directory()
        directory.members = {below.name: below for _, _, below in self.trees.scan(entry.digest)}
        return directory

    def _is_empty(self, directory: Directory) -> bool:
        if directory.members or directory.sources:
            return False
        if directory.base is None:
            return True
        assert self.trees is not None  # noqa: S101 - as above
        return self.trees.count(directory.base) == len(directory.removed)

    def _walk(self, directory: Directory, prefix: str) -> Iterator[tuple[str, Source | Entry]]:
        for name, member in merge(sorted(directory.members.items(), key=_name), self._kept(directory), key=_name):
            if isinstance(member, Directory):
                yield from self._walk(member, f"{prefix}{name}/")
            elif isinstance(member, DirEntry):
                assert self.trees is not None  # noqa: S101 - as above
                for path, entry in self.trees.walk(member.digest, f"{prefix}{name}/"):
                    if not isinstance(entry, DirEntry):
                        yield path, entry
            else:
                yield f"{prefix}{name}", member

    def _kept(self, directory: Directory) -> Iterator[tuple[str, Member]]:
        """What comes from the base, by name."""
        if directory.base is None:
            return
        assert self.trees is not None  # noqa: S101 - as above
        for _, _, entry in self.trees.scan(directory.base):
            if entry.name not in directory.removed and entry.name not in directory.members:
                yield entry.name, entry

    def _totals(self, directory: Directory) -> tuple[int, int]:
        files = size = 0
        if directory.base is not None:
            assert self.trees is not None  # noqa: S101 - as above
            whole = self.trees.summary(directory.base)
            files, size = whole.files, whole.size
            for name in directory.removed.union(directory.members):
                entry = self._lookup(directory.base, name)
                if entry is not None:
                    less = _weight(entry)
                    files, size = files - less[0], size - less[1]
        for member in directory.members.values():
            more = self._totals(member) if isinstance(member, Directory) else _weight(member)
            files, size = files + more[0], size + more[1]
        return files, size


def _name(item: tuple[str, Member]) -> str:
    return item[0]


def _weight(member: Source | Entry) -> tuple[int, int]:
    """Files and bytes of what stands in a directory."""
    if isinstance(member, DirEntry):
        return member.files, member.size
    return 1, max(0, member.size) if isinstance(member, Source) else size_of(member)


def _replaceable(present: Member, member: Member, path: str, *, overwrite: bool, same: Same, hint: str) -> bool:
    """Whether ``member`` may come where ``present`` is; False when it is there already. InvalidInput when it may not."""
    if isinstance(present, Directory | DirEntry) or isinstance(member, Directory | DirEntry):
        was, now = ("directory", "file") if isinstance(present, Directory | DirEntry) else ("file", "directory")
        raise InvalidInput(f"{path} was added as a {was}; it cannot be a {now} as well")
    if overwrite:
        return True
    if same(present, member):
        return False
    raise InvalidInput(f"{path} was added twice; {hint}")
