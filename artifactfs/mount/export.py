"""Export: what was changed in a staging area, as plain files in a directory elsewhere.

Used by unmounted.py, for workspaces whose mount point or repository may be gone. What is on the local disk is written in any case;
what needs bytes or names of a repository that cannot be had is named. Reads the tables under the workspace's lock, and content
without it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from artifactfs.errors import ArtifactFSError, Conflict, translate_os
from artifactfs.model.tree import RefEntry, Trees
from artifactfs.mount.inodes import BASED, Area, Inode, Inodes, reference_of
from artifactfs.mount.layers import Layer, VersionContent, load_layer, parts_of

if TYPE_CHECKING:
    from artifactfs.content.reader import ContentReader
    from artifactfs.mount.sources import Sources
    from artifactfs.mount.workspace import Workspace

_PIECE: Final = 1 << 20


class Exported(msgspec.Struct):
    """What was written: files, symlinks and made directories, and bytes. Paths that are gone from the base, and that were left out.

    ``missing``: path and reason each.
    """

    entries: int = 0
    bytes: int = 0
    removed: list[str] = []
    missing: list[tuple[str, str]] = []


class Exporter:
    """Exports areas of a workspace."""

    def __init__(
        self, workspace: Workspace, inodes: Inodes, trees: Trees, reader: ContentReader, sources: Sources
    ) -> None:
        self._workspace = workspace
        self._inodes = inodes
        self._trees = trees
        self._reader = reader
        self._sources = sources

    def export(self, area: Area, directory: Path, *, progress: Callable[[Exported], None] = lambda _: None) -> Exported:
        """Write all that differs from the base into a directory, which must be absent or empty (else Conflict)."""
        done = Exported()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if next(directory.iterdir(), None) is not None:
                raise Conflict(f"{directory} is not empty; name a new directory")
            waiting = [(area.root, directory, "", False)]
            while waiting:
                node, place, prefix, whole = waiting.pop()
                for name, child, below in self._changed(node, prefix, done, whole=whole):
                    path = prefix + name
                    if child is None:
                        done.removed.append(path)
                    elif child.directory:
                        if below:
                            (place / name).mkdir(parents=True, exist_ok=True)
                            done.entries += 1
                        waiting.append((child.id, place / name, f"{path}/", below and child.digest is not None))
                    else:
                        place.mkdir(parents=True, exist_ok=True)
                        self._write(child, place / name, path, done)
                        progress(done)
        except OSError as error:
            raise translate_os(error, f"cannot export to {directory}") from error
        return done

    def _changed(
        self, node: int, prefix: str, done: Exported, *, whole: bool
    ) -> Iterator[tuple[str, Inode | None, bool]]:
        """Names of a directory that differ from the base: who has each now, and whether that is a directory the base has not there.

        ``whole``: the directory is not where the base has it: all of its names count.
        """
        with self._workspace.lock:
            directory = self._inodes.get(node)
            links = self._workspace.execute(
                "SELECT name, child, flags, changed, bound FROM link WHERE parent = ? ORDER BY name", (node,)
            ).fetchall()
        for name, child, flags, changed, bound in links:
            if not changed and not whole:
                continue
            if child is None:
                if changed and flags & BASED and not whole:
                    yield name.decode(), None, False
                continue
            with self._workspace.lock:
                inode = self._inodes.get(child)
            elsewhere = whole or not flags & BASED or bound == changed
            yield name.decode(), inode, inode.directory and elsewhere and bound + whole > 0
        if not whole or directory.digest is None:
            return
        overlaid = {link[0] for link in links}
        try:
            for _, offset, entry in self._trees.scan(directory.digest):
                if entry.name.encode() not in overlaid:
                    with self._workspace.lock:
                        inode = self._inodes.base_child(directory, offset, entry)
                    yield entry.name, inode, inode.directory
        except ArtifactFSError as error:
            done.missing.append((prefix, str(error)))

    def _write(self, inode: Inode, target: Path, path: str, done: Exported) -> None:
        reference = None if inode.reference is None else reference_of(inode.reference)
        if reference is not None and not self._sources.readable(reference):
            done.missing.append((path, f"it is a reference to {reference.uri}"))
            return
        if reference is None and inode.target is not None:
            target.symlink_to(os.fsdecode(inode.target))
            done.entries += 1
            return
        try:
            with target.open("xb", buffering=0) as file:
                if reference is None:
                    self._copy(inode, file.fileno())
                    size = inode.size
                else:
                    size = self._fetch(reference, file.fileno())
        except ArtifactFSError as error:
            target.unlink(missing_ok=True)
            done.missing.append((path, str(error)))
            return
        # A reference that its mount showed as a symlink has the mode of one.
        target.chmod(0o644 if stat.S_ISLNK(inode.mode) else stat.S_IMODE(inode.mode) & 0o777)
        os.utime(target, ns=(inode.atime, inode.mtime))
        done.entries += 1
        done.bytes += size

    def _fetch(self, reference: RefEntry, fd: int) -> int:
        """Write what a reference refers to, checked against what was recorded, and return its size in bytes."""
        source = self._sources.open(reference)
        size = source.size
        for offset in range(0, size, _PIECE):
            _write_all(fd, source.read(offset, min(_PIECE, size - offset)), offset)
        return size

    def _copy(self, inode: Inode, fd: int) -> None:
        """Write a file's bytes; holes stay holes."""
        source: Layer | VersionContent | None = None
        if inode.layer is not None:
            with self._workspace.lock:
                source = load_layer(self._workspace.execute, self._workspace, self._reader, inode.layer)
        elif inode.digest is not None and inode.size:
            source = VersionContent(self._reader, inode.digest, inode.size)
        os.ftruncate(fd, inode.size)
        for offset in range(0, inode.size, _PIECE):
            at = offset
            for part in parts_of(source, offset, min(_PIECE, inode.size - offset)):
                if part.source is not None:
                    _write_all(fd, part.source.read(part.offset, part.length), at)
                at += part.length


def _write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(fd, rest, offset)
        rest, offset = rest[written:], offset + written


def failed(reason: ArtifactFSError) -> Callable[..., bytes]:
    """What stands for the content of a repository that cannot be opened: it fails for that reason."""

    def fail(*_: object) -> bytes:
        raise reason

    return fail
