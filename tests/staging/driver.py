"""A staging area used by paths, as programs use a mount: each call is what the kernel would ask for."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from artifactfs.model.records import VersionRecord
from artifactfs.mount.contract import SET_MODE, SET_MTIME, SET_SIZE, Attr, Caller, SetAttr
from artifactfs.mount.freeze import Frozen
from artifactfs.mount.sources import Sources
from artifactfs.mount.staging import Staging
from artifactfs.mount.workspace import Workspace
from artifactfs.repository import Repository, new_commit_id

ME = Caller(os.getuid(), os.getgid(), os.getpid(), 0o022)


class Disk:
    """One area of one workspace over a repository."""

    def __init__(self, repository: Repository, workspace: Path, name: str = "data") -> None:
        self.repository = repository
        self.name = name
        self.path = workspace
        self.force = False  # whether commits go on when `latest` has moved
        self.open()

    def open(self) -> None:
        self.workspace = self.make()
        repository = self.repository
        self.staging = Staging(
            self.workspace,
            repository.trees,
            repository.reader,
            Sources(repository),
            uid=os.getuid(),
            gid=os.getgid(),
        )
        self.area = self.staging.area(self.name, repository.registry.resolve(self.name, "latest"))

    def make(self) -> Workspace:
        return Workspace(self.path)

    def kill(self) -> None:
        """What SIGKILL leaves, and a new daemon on it."""
        self.workspace.abandon()
        self.open()

    def remount(self) -> None:
        self.staging.close()
        self.open()

    # -- by path ---------------------------------------------------------------------------------------------------

    def at(self, path: str) -> Attr:
        """Attributes of a path, or FileNotFoundError."""
        attr = self.staging.getattr(self.area.root)
        for part in path.split("/") if path else ():
            if not stat.S_ISDIR(attr.mode):
                raise OSError(errno.ENOTDIR, path)
            attr = self.staging.lookup(attr.node, part.encode())
            if not attr.node:
                raise OSError(errno.ENOENT, path)
        return attr

    def exists(self, path: str) -> bool:
        try:
            return bool(self.at(path).node)
        except OSError:
            return False

    def split(self, path: str) -> tuple[int, bytes]:
        parent, _, name = path.rpartition("/")
        return self.at(parent).node, name.encode()

    @contextmanager
    def opened(self, path: str, flags: int = os.O_RDONLY, mode: int = 0o666) -> Iterator[int]:
        fh = self.open_fh(path, flags, mode)
        try:
            yield fh
        finally:
            self.close_fh(fh)

    def open_fh(self, path: str, flags: int = os.O_RDONLY, mode: int = 0o666) -> int:
        if flags & os.O_CREAT and not self.exists(path):
            parent, name = self.split(path)
            return self.staging.create(parent, name, stat.S_IFREG | mode, flags, ME)[1].fh
        return self.staging.open(self.at(path).node, flags, ME).fh

    def close_fh(self, fh: int) -> None:
        self.staging.flush(fh)
        self.staging.release(fh)

    def write(self, path: str, data: bytes) -> None:
        with self.opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as fh:
            for offset in range(0, len(data), 1 << 20):
                part = memoryview(data)[offset : offset + (1 << 20)]
                assert self.staging.write(fh, offset, part) == len(part)

    def patch(self, path: str, offset: int, data: bytes) -> None:
        with self.opened(path, os.O_RDWR) as fh:
            self.staging.write(fh, offset, memoryview(data))

    def read(self, path: str) -> bytes:
        with self.opened(path) as fh:
            return self.read_fh(fh)

    def read_fh(self, fh: int) -> bytes:
        found = bytearray()
        while data := self.staging.read(fh, len(found), 1 << 17):
            found += data
        return bytes(found)

    def truncate(self, path: str, size: int) -> None:
        self.staging.setattr(self.at(path).node, SetAttr(SET_SIZE, size=size), None, ME)

    def chmod(self, path: str, mode: int) -> None:
        self.staging.setattr(self.at(path).node, SetAttr(SET_MODE, mode=mode), None, ME)

    def utime(self, path: str, when: int) -> None:
        self.staging.setattr(self.at(path).node, SetAttr(SET_MTIME, mtime=when), None, ME)

    def mkdir(self, path: str) -> None:
        self.staging.mkdir(*self.split(path), 0o777, ME)

    def symlink(self, target: str, path: str) -> None:
        self.staging.symlink(*self.split(path), target.encode(), ME)

    def link(self, old: str, new: str) -> None:
        self.staging.link(self.at(old).node, *self.split(new))

    def unlink(self, path: str) -> None:
        self.staging.unlink(*self.split(path))

    def rmdir(self, path: str) -> None:
        self.staging.rmdir(*self.split(path))

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        self.staging.rename(*self.split(old), *self.split(new), flags)

    def list(self, path: str = "") -> dict[str, Attr]:
        """Names of a directory; each must come once, with the attributes that lookup gives."""
        node = self.at(path).node
        fh = self.staging.opendir(node, ME).fh
        try:
            entries = list(self.staging.readdir(node, fh, 0))
        finally:
            self.staging.releasedir(fh)
        found = {name.decode(): attr for name, attr in entries}
        assert len(found) == len(entries)
        return found

    def tree(self, path: str = "") -> dict[str, tuple[str, bytes | str, bool]]:
        """Everything below a path: kind, content or target, executable."""
        found: dict[str, tuple[str, bytes | str, bool]] = {}
        for name, attr in self.list(path).items():
            below = f"{path}/{name}" if path else name
            assert self.at(below) == attr
            if stat.S_ISDIR(attr.mode):
                found[below] = ("directory", "", False)
                found |= self.tree(below)
            elif stat.S_ISLNK(attr.mode):
                found[below] = ("symlink", self.staging.readlink(attr.node).decode(), False)
            else:
                content = self.read(below)
                assert len(content) == attr.size
                found[below] = ("file", content, bool(attr.mode & 0o111))
        return found

    # -- by commands -----------------------------------------------------------------------------------------------

    def changes(self) -> list[tuple[str, str]]:
        return [(change.kind, change.path) for change in self.staging.changes(self.area)]

    def land(self, frozen: Frozen) -> VersionRecord:
        """Build and commit a frozen generation; thawing it is the caller's."""
        with self.repository.writing("commit") as writing:
            root = self.staging.build(frozen, writing.writer)
            commit_id = new_commit_id()
            self.staging.prepare(frozen, commit_id, root.digest)
            base = -1 if frozen.base_number is None else frozen.base_number
            return writing.commit(self.name, root, base=base, commit_id=commit_id, force=self.force).version

    def commit(self) -> VersionRecord:
        frozen = self.staging.freeze(self.area)
        version = None
        try:
            version = self.land(frozen)
        finally:
            self.staging.thaw(frozen, version)
        return version

    def writers(self) -> list[tuple[str, int]]:
        """Who keeps a commit from going on."""
        frozen = self.staging.freeze(self.area)
        self.staging.thaw(frozen, None)
        return frozen.writers

    def local_bytes(self) -> int:
        files = (path for path in (self.path / "files").rglob("*") if path.is_file())
        return sum(path.stat().st_blocks * 512 for path in files)

    def local_files(self) -> int:
        return sum(1 for path in (self.path / "files").rglob("*") if path.is_file())


def committed_tree(repository: Repository, version: VersionRecord) -> dict[str, tuple[str, bytes | str, bool]]:
    """A version as :meth:`Disk.tree` shows staging."""
    from artifactfs.model.tree import DirEntry, FileEntry, LinkEntry  # noqa: PLC0415

    found: dict[str, tuple[str, bytes | str, bool]] = {}
    for path, entry in repository.trees.walk(version.digest):
        if isinstance(entry, DirEntry):
            found[path] = ("directory", "", False)
        elif isinstance(entry, FileEntry):
            found[path] = ("file", bytes(repository.open_file(entry).read(0, entry.size)), entry.executable)
        else:
            found[path] = ("symlink", entry.target if isinstance(entry, LinkEntry) else entry.uri, False)
    return found
